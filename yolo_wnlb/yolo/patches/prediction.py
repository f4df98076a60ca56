"""ultralytics.engine.predictor: night= and curve= of a call, and the channels of its pictures."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from yolo_wnlb.yolo.patches.wrapping import wrap


def patch_predictor(predictor: ModuleType) -> None:
    """Let a predictor switch the blocks of its own copy of the model."""
    from yolo_wnlb.yolo import night

    predictor.AutoBackend.night = property(night.is_night, night.set_night)  # type: ignore[attr-defined]
    predictor.BasePredictor.night_switch = predictor.BasePredictor.night_asked = None  # type: ignore[attr-defined]
    predictor.BasePredictor.curve_asked = predictor.BasePredictor.curve_announced = None  # type: ignore[attr-defined]
    wrap(predictor.AutoBackend, "warmup", warmup)
    for name, wrapper in (
        ("setup_model", setup_predictor),
        ("setup_source", setup_source),
        ("stream_inference", stream_inference),
        ("inference", inference),
    ):
        wrap(predictor.BasePredictor, name, wrapper)


def warmup(stock: Callable[..., Any], backend: Any, *args: Any, **kwargs: Any) -> None:
    """Refuse pictures of other channels than the model takes: a validation warms up with those of its data set."""
    from yolo_wnlb.yolo.channels import check_pictures

    given = inspect.signature(stock).bind(backend, *args, **kwargs).arguments
    if "imgsz" in given:
        check_pictures(backend, given["imgsz"][1])
    stock(backend, *args, **kwargs)


def setup_predictor(stock: Callable[..., Any], predictor: Any, model: Any, *args: Any, **kwargs: Any) -> None:
    """Remember the blocks of the model that the predictor is made from, beside those of its own copy."""
    from yolo_wnlb.yolo import night

    stock(predictor, model, *args, **kwargs)
    predictor.night_switch = night.PredictorSwitch(model, predictor.model)


def setup_source(stock: Callable[..., Any], predictor: Any, source: Any, *args: Any, **kwargs: Any) -> None:
    """Let the source be read as curve= says, else as the model was trained."""
    from yolo_wnlb.imaging.curve import CURVES, read_curve
    from yolo_wnlb.yolo import sixteen_bits

    asked = predictor.curve_asked
    curve = read_curve(asked) if asked else sixteen_bits.recorded(predictor.model) or CURVES["auto"]
    channels = getattr(predictor.model, "channels", getattr(predictor.model, "ch", 3))  # the older name
    stock(predictor, sixteen_bits.developed(source, curve, channels), *args, **kwargs)
    sixteen_bits.leave_out_idle_raw(predictor.dataset)
    if hasattr(predictor.dataset, "cv2_flag"):
        predictor.dataset.cv2_flag = sixteen_bits.Flags(predictor.dataset.cv2_flag, curve, is_strict=False)
        if predictor.curve_announced != curve:
            sixteen_bits.announce(getattr(predictor.dataset, "files", []), curve)
            predictor.curve_announced = curve


def stream_inference(stock: Callable[..., Any], predictor: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
    """Take night= and curve= out of the arguments, which older releases keep, and let them hold for this call.

    Raises: ValueError: it was given for a model without blocks.
    """
    from yolo_wnlb.yolo import night

    asked, curve = (vars(predictor.args).pop(name, None) for name in ("night", "curve"))
    if asked is not None:
        if predictor.model is None:
            predictor.setup_model(inspect.signature(stock).bind(predictor, *args, **kwargs).arguments.get("model"))
        night.required_blocks(predictor.model)

    def results() -> Iterator[Any]:
        predictor.night_asked, predictor.curve_asked = asked, curve
        yield from stock(predictor, *args, **kwargs)

    return results()


def inference(stock: Callable[..., Any], predictor: Any, *args: Any, **kwargs: Any) -> Any:
    """Compute one batch with the blocks switched as this call asks, or as the model of the `YOLO` object is."""
    switch = predictor.night_switch
    if switch is None or not switch.own:
        return stock(predictor, *args, **kwargs)
    with switch.during_pass(predictor.night_asked):
        return stock(predictor, *args, **kwargs)
