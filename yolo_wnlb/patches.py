"""The one place that touches Ultralytics: what is wrapped, and what the wrapper adds.

Each `patch_*` is given one executed module of Ultralytics by `activate`. A wrapper calls the stock
function for everything that is not about wNLB. tests/test_contract.py states what is assumed of
the stock code and runs on the oldest and the newest supported release.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


def wrap(owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
    """Replace owner.name by wrapper(stock, ...), once, also where it was imported from already."""
    stock = getattr(owner, name)
    if hasattr(stock, "_stock"):
        return

    @functools.wraps(stock)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return wrapper(stock, *args, **kwargs)

    wrapped._stock = stock  # type: ignore[attr-defined]
    setattr(owner, name, wrapped)
    if isinstance(owner, ModuleType):
        for module in [m for key, m in sys.modules.items() if key.startswith("ultralytics.")]:
            if getattr(module, name, None) is stock:
                setattr(module, name, wrapped)


# ---- ultralytics.utils.checks: shipped YAML files are found by bare name -------------------------


def patch_checks(checks: ModuleType) -> None:
    """Let model, data and settings YAMLs of this package be found from any directory."""
    wrap(checks, "check_file", check_file)


def check_file(stock: Callable[..., Any], file: Any, *args: Any, **kwargs: Any) -> Any:
    """Prefer what the stock function finds in place; else a shipped file of that bare name."""
    from yolo_wnlb import paths

    name = str(file).strip()
    if not os.path.exists(name) and (shipped := paths.find(name)):
        return stock(str(shipped), *args, **kwargs)
    try:
        return stock(file, *args, **kwargs)
    except FileNotFoundError as error:
        if "nlb" not in name.lower() or not name.endswith((".yaml", ".yml")):
            raise
        raise FileNotFoundError(
            f"model YAML '{name}' (of any size) does not exist. yolo_wnlb ships {', '.join(paths.shipped('cfg'))}; "
            "write the size n, s, m, l or x behind the version (yolov8m-seg-wnlb.yaml). Make others with "
            "'yolo-wnlb graft'."
        ) from error


# ---- ultralytics.nn.tasks: the YAML word wNLB, pretrained weights, safe loading ------------------


def patch_tasks(tasks: ModuleType) -> None:
    """Register the block with the parser, and keep pretrained weights across its insertion."""
    import torch

    from yolo_wnlb.grafting import NAMES
    from yolo_wnlb.wnlb import WNLB

    for name in NAMES:
        if getattr(getattr(tasks, name, WNLB), "__module__", None) != WNLB.__module__:
            raise RuntimeError(f"ultralytics has a module named {name} of its own; update yolo_wnlb")
    for name in NAMES:
        setattr(tasks, name, WNLB)
    if hasattr(torch.serialization, "add_safe_globals"):  # ULTRALYTICS_SAFE_LOAD=1
        torch.serialization.add_safe_globals([WNLB])
    wrap(tasks, "parse_model", parse_model)
    wrap(tasks.BaseModel, "load", load)


def parse_model(stock: Callable[..., Any], d: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
    """Check the wNLB rows and complete them with what the stock parser passes on verbatim."""
    from yolo_wnlb.grafting import NAMES, complete

    rows = [complete(i, row) if row[2] in NAMES else row for i, row in enumerate([*d["backbone"], *d["head"]])]
    cut = len(d["backbone"])
    return stock({**d, "backbone": rows[:cut], "head": rows[cut:]}, *args, **kwargs)


def load(stock: Callable[..., Any], model: Any, weights: Any, verbose: bool = True) -> None:
    """Load pretrained weights lined up with the blocks, report the transfer, carry class names."""
    from ultralytics.utils import LOGGER

    from yolo_wnlb.weights import align, carry_names, has_blocks, layers_of, report

    source = (weights.get("ema") or weights["model"]) if isinstance(weights, dict) else weights
    if not layers_of(source) or not (has_blocks(model) or has_blocks(source)):
        return stock(model, weights, verbose)
    aligned, left_out = align(source, model)
    stock(model, aligned, verbose)
    carry_names(source, model)
    summary, warnings = report(aligned, model, left_out)
    if verbose:
        LOGGER.info(summary)
        for warning in warnings:
            LOGGER.warning(warning)


# ---- ultralytics.engine.trainer: checks at the door, and the parameter w -------------------------


def patch_trainer(trainer: ModuleType) -> None:
    """Check what is about to be trained, and give the w of the blocks a parameter group of their own."""
    wrap(trainer.BaseTrainer, "setup_model", setup_model)
    wrap(trainer.BaseTrainer, "build_optimizer", build_optimizer)


def setup_model(stock: Callable[..., Any], trainer: Any) -> Any:
    """Refuse a model with blocks of another task; say so when it starts without pretrained weights.

    Raises:
        ValueError: the task and the head differ, which Ultralytics finds out in the middle of a step.
    """
    from ultralytics.nn.tasks import guess_model_task
    from ultralytics.utils import LOGGER

    from yolo_wnlb.weights import has_blocks

    given = trainer.model if isinstance(trainer.model, (str, os.PathLike)) else trainer.args.model
    checkpoint = stock(trainer)
    if has_blocks(trainer.model):
        task, wanted = guess_model_task(trainer.model), trainer.args.task
        if task != wanted:
            raise ValueError(
                f"task '{wanted}' cannot train {given}, a model for '{task}': run 'yolo {task} train ...', or give a "
                f"model YAML for '{wanted}' (segment: yolov8n-seg-wnlb.yaml, detect: yolov8n-wnlb.yaml)"
            )
        if str(given).endswith((".yaml", ".yml")) and not isinstance(trainer.args.pretrained, (str, os.PathLike)):
            example = str(given).replace("-wnlb4", "").replace("-wnlb", "").replace("-nlb", "")
            LOGGER.info(f"wNLB: all weights start at random; to keep trained ones, pretrained={example[:-5]}.pt")
    return checkpoint


def build_optimizer(stock: Callable[..., Any], trainer: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
    """Move every w out of the decayed weights into a group with its own learning rate.

    Weight decay would pull w to 0, the identity. The group keeps all other settings of the one
    the stock builder chose, so warm-up, schedule and optimizer treat w as they treat a weight.
    """
    from ultralytics.utils import LOGGER

    from yolo_wnlb.wnlb import WNLB

    optimizer = stock(trainer, model, *args, **kwargs)
    blocks = [m for m in model.modules() if isinstance(m, WNLB) and "w" in m._parameters]
    for factor in sorted({block.w_lr for block in blocks}):
        scalars = [block.w for block in blocks if block.w_lr == factor]
        ids = {id(w) for w in scalars}
        home = next(group for group in optimizer.param_groups if any(id(p) in ids for p in group["params"]))
        for group in optimizer.param_groups:
            group["params"] = [p for p in group["params"] if id(p) not in ids]
        settings = {**home, "lr": home["lr"] * factor, "weight_decay": 0.0, "param_group": "wnlb"}
        optimizer.add_param_group({**settings, "params": scalars})
        LOGGER.info(f"wNLB: {len(scalars)} weights w with learning rate {settings['lr']:.3g} and no decay")
    return optimizer
