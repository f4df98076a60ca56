"""yolo_wnlb: weighted non-local blocks and low-light training for Ultralytics YOLO.

Importing this package (which `yolo_wnlb.pth` does in every interpreter) imports neither torch nor
ultralytics: it only arms `activate`, and the public names below are imported when first used.
"""

from __future__ import annotations

from yolo_wnlb import activate

TYPE_CHECKING = False  # as type checkers read it, without importing typing
if TYPE_CHECKING:
    from yolo_wnlb.imaging.camera import darken
    from yolo_wnlb.transforms import LowLight
    from yolo_wnlb.wnlb import WNLB
    from yolo_wnlb.yolo.grafting import graft
    from yolo_wnlb.yolo.parity import check_export

__version__ = "0.1.0"
__all__ = ["WNLB", "LowLight", "__version__", "check_export", "darken", "graft"]

_HOME = {
    "WNLB": "wnlb",
    "LowLight": "transforms",
    "check_export": "yolo.parity",
    "darken": "imaging.camera",
    "graft": "yolo.grafting",
}

activate.install()


def __getattr__(name: str) -> object:
    if name in _HOME:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
