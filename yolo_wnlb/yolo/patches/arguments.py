"""ultralytics.cfg: lowlight=, denoise=, adversarial=, balanced=, night= and curve= are arguments like any other."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from yolo_wnlb.yolo.patches.wrapping import wrap

ARGUMENTS = {
    "lowlight": "severe",
    "denoise": "features",
    "adversarial": "pgd",
    "balanced": "True",
    "night": "False",
    "curve": "auto",
}  # beside the stock ones, each with an example
OPTIONS = {  # examples for those of ARGUMENTS that take options, too
    "lowlight": "{'preset': 'severe', 'ev': -3}",
    "denoise": "{'target': 'features', 'alpha': 1}",
    "adversarial": "{'norm': 'linf', 'eps': '8/255'}",
    "curve": "{'black': 256, 'white': 4095}",
}
CHECKED_BY = {  # of ARGUMENTS, the module of yolo_wnlb.yolo whose check_request they pass, in this order
    "lowlight": "darkness",
    "denoise": "denoise",
    "adversarial": "adversarial",
    "balanced": "balance",
    "night": "night",
    "curve": "sixteen_bits",
}


def patch_cfg(cfg: ModuleType) -> None:
    """Let ARGUMENTS be arguments like any other, checked before anything is built."""
    if taken := [name for name in ARGUMENTS if hasattr(cfg.DEFAULT_CFG, name)]:
        raise RuntimeError(f"ultralytics has an argument {taken[0]}= of its own; update yolo_wnlb")
    wrap(cfg, "check_dict_alignment", check_dict_alignment)
    wrap(cfg, "check_cfg", check_cfg)


def check_dict_alignment(
    stock: Callable[..., Any], base: dict[str, Any], custom: dict[str, Any], *args: Any, **kwargs: Any
) -> Any:
    """Count ARGUMENTS among the known arguments of a run (but not among Ultralytics' settings).

    Raises: SyntaxError: one stands alone on the command line, where the stock function would take it and drop it.
    """
    for name, value in ARGUMENTS.items():
        if custom == {name: ""}:
            raise SyntaxError(f"'{name}' lacks its value; write {name}={value}, without spaces around '='")
    return stock({**dict.fromkeys(ARGUMENTS), **base} if "imgsz" in base else base, custom, *args, **kwargs)


def check_cfg(stock: Callable[..., Any], cfg: dict[str, Any], *args: Any, **kwargs: Any) -> None:
    """Check ARGUMENTS beside the stock ones."""
    stock(cfg, *args, **kwargs)
    check_words(cfg)


def check_words(cfg: dict[str, Any]) -> None:
    """Check ARGUMENTS among the arguments of a run, in place; what they hold becomes what a YAML file can hold.

    Raises: ValueError: one is wrong, or empty (nothing would come of it), or options that the shell or a typing mistake
        has left as text.
    """
    cfg.update({name: plain(cfg[name]) for name in ARGUMENTS if name in cfg})
    for name, example in ARGUMENTS.items():
        if cfg.get(name) in ("", {}, [], ()):
            raise ValueError(f"{name}={cfg[name]!r} asks for nothing; write {name}={example}, or leave it out")
        if name in OPTIONS and isinstance(cfg.get(name), str) and "{" in cfg[name]:
            raise ValueError(
                f"{name}={cfg[name]} cannot be read; write names and fractions in quotes, and the whole in double "
                f'ones: "{name}={OPTIONS[name]}"'
            )
    for name, module in CHECKED_BY.items():
        if name in cfg or (name == "lowlight" and cfg.get("augmentations")):
            importlib.import_module(f"yolo_wnlb.yolo.{module}").check_request(cfg)


def plain(value: Any) -> Any:
    """Return a value as a YAML file can hold it, which a run writes: paths as texts, numbers of NumPy as Python's."""
    if isinstance(value, dict):
        return {key: plain(held) for key, held in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(held) for held in value]
    return str(value) if isinstance(value, os.PathLike) else value.item() if isinstance(value, np.generic) else value
