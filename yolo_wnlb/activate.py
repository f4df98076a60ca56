"""Make the stock `yolo` command, `YOLO(...)`, DDP and loader workers know wNLB, without an import.

`yolo_wnlb.pth` (from Python 3.15 on `yolo_wnlb.start`, PEP 829) runs `install` when an
interpreter starts. It puts one finder in front of `sys.meta_path` that waits for the few
modules in PATCHES and hands each, right after it was executed, to its function in
`yolo.patches`. Nothing else is imported before that, so an interpreter that never uses Ultralytics pays
for this small file alone (which is why it does without `typing`). Whatever fails becomes one
warning: it never breaks an interpreter.

`YOLO_WNLB_DISABLE=1` in the environment switches it off.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # as type checkers read it, without importing typing
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

PATCHES = {  # module -> function, below yolo_wnlb.yolo.patches, that is given it
    "albumentations": "data.patch_albumentations",
    "ultralytics.cfg": "arguments.patch_cfg",
    "ultralytics.data.base": "data.patch_data",
    "ultralytics.data.dataset": "data.patch_dataset",
    "ultralytics.data.utils": "data.patch_downloads",
    "ultralytics.utils.checks": "files.patch_checks",
    "ultralytics.utils.patches": "files.patch_imread",
    "ultralytics.nn.modules.head": "network.patch_head",
    "ultralytics.nn.tasks": "network.patch_tasks",
    "ultralytics.engine.exporter": "export.patch_exporter",
    "ultralytics.engine.model": "model.patch_model",
    "ultralytics.engine.predictor": "prediction.patch_predictor",
    "ultralytics.engine.trainer": "training.patch_trainer",
    "ultralytics.engine.tuner": "training.patch_tuner",
    "ultralytics.engine.validator": "validation.patch_validator",
    "ultralytics.utils.benchmarks": "model.patch_benchmarks",
    "ultralytics.utils.torch_utils": "network.patch_torch_utils",
}
warned = False


def disabled() -> bool:
    """Tell whether the environment switches activation off."""
    return os.environ.get("YOLO_WNLB_DISABLE", "").strip().lower() not in ("", "0", "false", "no", "off")


def install() -> None:
    """Arm the finder, and patch at once what is imported already. Calling it again does nothing."""
    if disabled() or any(isinstance(finder, Finder) for finder in sys.meta_path):
        return
    # a copy of this package that was imported before (a reload in a notebook) leaves its finder
    sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__module__ != __name__]
    sys.meta_path.insert(0, Finder())
    for name in PATCHES:
        if name in sys.modules:
            patch(sys.modules[name])


def patch(module: ModuleType) -> None:
    """Apply the patch of one executed module; a failure becomes a warning that says what is lost."""
    try:
        from importlib import import_module

        home, function = PATCHES[module.__name__].split(".")
        getattr(import_module(f"yolo_wnlb.yolo.patches.{home}"), function)(module)
    except Exception as error:
        warn(
            f"yolo_wnlb could not extend {module.__name__} ({type(error).__name__}: {error}). Ultralytics works "
            "as usual, but models with wNLB blocks may not. Run 'yolo-wnlb doctor' to see why."
        )


def warn(message: str) -> None:
    """Say it once in this interpreter; where warnings are errors, on stderr, for nothing may break."""
    global warned
    if not warned:
        warned = True
        import warnings

        try:
            warnings.warn(message, RuntimeWarning, stacklevel=3)
        except RuntimeWarning:
            print(message, file=sys.stderr)


class Finder:
    """A meta-path finder that finds nothing itself: it wraps the loader that the others find."""

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return the stock spec of a module in PATCHES with its loader wrapped, None for the rest."""
        if name not in PATCHES:
            return None
        for finder in sys.meta_path:
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec = find(name, path, target) if find else None
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = Loader(spec.loader)
                return spec
        return None


class Loader:
    """The stock loader, followed by the patch. Puts the stock loader back when it is done."""

    def __init__(self, stock: Any) -> None:
        self.stock = stock

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stock, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Create the module as the stock loader does."""
        return self.stock.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Execute the module as the stock loader does, then patch it."""
        if module.__spec__ is not None:
            module.__spec__.loader = self.stock
        module.__loader__ = self.stock
        self.stock.exec_module(module)
        patch(module)
