"""yolo_wnlb: weighted non-local blocks and low-light training for Ultralytics YOLO.

Importing this package (which `yolo_wnlb.pth` does in every interpreter) imports neither torch nor
ultralytics: it only arms `activate`. The public names, those of `__all__`, are imported when they are
first used; the modules they come from may move, the names stay.
"""

from __future__ import annotations

from yolo_wnlb import activate
from yolo_wnlb.version import __version__

TYPE_CHECKING = False  # as type checkers read it, without importing typing
if TYPE_CHECKING:
    from yolo_wnlb.data.coco import class_map, ground_truth, image_files
    from yolo_wnlb.data.convert import convert_exdark, convert_lis, fetch_coco
    from yolo_wnlb.data.shapes import generate as generate_shapes
    from yolo_wnlb.detectors.exported_ap import compare_ap
    from yolo_wnlb.imaging.camera import Settings
    from yolo_wnlb.imaging.capture import darken
    from yolo_wnlb.metrics.average_precision import Evaluation, evaluate
    from yolo_wnlb.metrics.bootstrap import paired_bootstrap
    from yolo_wnlb.study.compare import compare
    from yolo_wnlb.study.robustness import robustness
    from yolo_wnlb.transforms import LowLight
    from yolo_wnlb.twins.darken import darken_dataset, verify
    from yolo_wnlb.twins.enhance import enhance_dataset
    from yolo_wnlb.visualize.inspection import inspect_model
    from yolo_wnlb.visualize.preview import preview
    from yolo_wnlb.wnlb import WNLB
    from yolo_wnlb.yolo.grafting import graft
    from yolo_wnlb.yolo.parity import check_export

__all__ = [
    "WNLB",
    "Evaluation",
    "LowLight",
    "Settings",
    "__version__",
    "check_export",
    "class_map",
    "compare",
    "compare_ap",
    "convert_exdark",
    "convert_lis",
    "darken",
    "darken_dataset",
    "enhance_dataset",
    "evaluate",
    "fetch_coco",
    "generate_shapes",
    "graft",
    "ground_truth",
    "image_files",
    "inspect_model",
    "paired_bootstrap",
    "preview",
    "robustness",
    "verify",
]

_HOME = {  # public name -> where it is: "module" if it has the same name there, else "module:name"
    "WNLB": "wnlb",
    "Evaluation": "metrics.average_precision",
    "LowLight": "transforms",
    "Settings": "imaging.camera",
    "check_export": "yolo.parity",
    "class_map": "data.coco",
    "compare": "study.compare",
    "compare_ap": "detectors.exported_ap",
    "convert_exdark": "data.convert",
    "convert_lis": "data.convert",
    "darken": "imaging.capture",
    "darken_dataset": "twins.darken",
    "enhance_dataset": "twins.enhance",
    "evaluate": "metrics.average_precision",
    "fetch_coco": "data.convert",
    "generate_shapes": "data.shapes:generate",
    "graft": "yolo.grafting",
    "ground_truth": "data.coco",
    "image_files": "data.coco",
    "inspect_model": "visualize.inspection",
    "paired_bootstrap": "metrics.bootstrap",
    "preview": "visualize.preview",
    "robustness": "study.robustness",
    "verify": "twins.darken",
}

activate.install()


def __getattr__(name: str) -> object:
    if name in _HOME:
        from importlib import import_module

        module, _, attribute = _HOME[name].partition(":")
        return getattr(import_module(f"{__name__}.{module}"), attribute or name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
