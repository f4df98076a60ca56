"""ultralytics.engine.exporter: an export knows night=, the curve of its model, and what it cannot hold."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from yolo_wnlb.yolo.patches.wrapping import wrap


def patch_exporter(exporter: ModuleType) -> None:
    """Let an export be made without the blocks, and know the tone curve of its model."""
    wrap(exporter.Exporter, "__call__", export)
    wrap(exporter.Exporter, "run_callbacks", export_callbacks)
    wrap(exporter.Exporter, "get_int8_calibration_dataloader", calibration_loader)


def export(stock: Callable[..., Any], exporter: Any, model: Any = None, *args: Any, **kwargs: Any) -> Any:
    """Export the model as night= says, or as it is switched; refuse a format that would leave its scene out.

    In int8 the matrix products of the blocks stay in float; what TensorRT cannot do in 16 bits is named.

    Raises: ValueError: the scene cannot be exported, or lowlight= is given where no pictures calibrate the export.
    """
    from ultralytics.utils import LOGGER

    from yolo_wnlb.yolo import int8, night, pooling, sixteen_bits, tensorrt
    from yolo_wnlb.yolo.weights import has_scene

    bits = bits_of(exporter.args)
    if bits != 8 and (request := getattr(exporter.args, "lowlight", None)):
        raise ValueError(
            f"lowlight={request} darkens the pictures that an export in int8 is calibrated on, and one in {bits} bits "
            "reads none; leave it out, or give quantize=8 (int8=True in older releases) and data="
        )
    if has_scene(model):
        from yolo_wnlb.yolo import context

        context.check_export(exporter.args.format)
    asked = getattr(exporter.args, "night", None)
    exporter.night = night.is_night(model) if asked is None else asked
    exporter.curve = sixteen_bits.recorded(model)
    model = night.to_export(model, asked)
    if exporter.args.format == "engine" and bits == 16:
        for remark in tensorrt.remarks(model, exporter.args.imgsz):
            LOGGER.warning(f"wNLB: {remark}")
    with (
        int8.products_in_float(model, exporter.args.format if bits == 8 else ""),
        pooling.windows_within_maps(model, exporter.args.dynamic),
    ):
        return stock(exporter, model, *args, **kwargs)


def bits_of(args: Any) -> int:
    """Return 8, 16 or 32: quantize= of an export, or int8=True and half=True in releases before that word."""
    if getattr(args, "quantize", None) in (8, 16):
        return args.quantize
    return 8 if getattr(args, "int8", None) else 16 if getattr(args, "half", None) else 32


def export_callbacks(stock: Callable[..., Any], exporter: Any, event: str) -> None:
    """Write into the metadata whether the blocks of the model act in the export, and its tone curve."""
    from yolo_wnlb.imaging.curve import as_settings
    from yolo_wnlb.yolo import night, sixteen_bits

    if event == "on_export_start" and exporter.night is not None:
        exporter.metadata[night.KEY] = exporter.night
    if event == "on_export_start" and exporter.curve is not None:
        exporter.metadata[sixteen_bits.KEY] = as_settings(exporter.curve)
    stock(exporter, event)


def calibration_loader(stock: Callable[..., Any], exporter: Any, *args: Any, **kwargs: Any) -> Any:
    """Calibrate INT8 on pictures that are read through the curve of the model, and dark where lowlight= asks for it.

    Raises: RuntimeError: they would be bright.
    """
    from yolo_wnlb.yolo import darkness

    loader = stock(exporter, *args, **kwargs)
    if request := getattr(exporter.args, "lowlight", None):
        darkness.check_dataset(loader.dataset, request)
    if exporter.curve is not None:
        loader.dataset.curve = exporter.curve
    return loader
