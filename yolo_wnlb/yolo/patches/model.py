"""ultralytics.engine.model and utils.benchmarks: `YOLO(...)` and `yolo benchmark` know night=; a scene stays."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from yolo_wnlb.yolo.patches.arguments import check_words
from yolo_wnlb.yolo.patches.wrapping import wrap


def patch_model(model: ModuleType) -> None:
    """Let `YOLO(...).night` be `YOLO(...).model.night`, and `benchmark` know night=."""
    from yolo_wnlb.yolo import night

    model.Model.night = property(night.is_night, night.set_night)  # type: ignore[attr-defined]
    wrap(model.Model, "benchmark", benchmark)
    wrap(model.Model, "reset_weights", reset_weights)


def reset_weights(stock: Callable[..., Any], owner: Any) -> Any:
    """Draw all weights anew, but for a scene: its frozen network stays, and its layer starts at 0."""
    import torch

    from yolo_wnlb.yolo.weights import has_scene

    if not has_scene(owner.model):
        return stock(owner)
    from yolo_wnlb.yolo import context

    with context.without(owner.model) as scene:
        found = stock(owner)
    torch.nn.init.zeros_(scene.fc.weight)
    return found


def patch_benchmarks(benchmarks: ModuleType) -> None:
    """Let the function behind `yolo benchmark` know night= too: it would drop it for the PyTorch row."""
    wrap(benchmarks, "benchmark", benchmark)


def benchmark(stock: Callable[..., Any], *args: Any, night: bool | None = None, **kwargs: Any) -> Any:
    """Switch the blocks of the model, the first argument of both, while all formats are measured.

    Raises: ValueError: night= is neither True nor False, the model has no blocks, or another word was given, which the
        stock functions would drop.
    """
    check_words({**kwargs, "mode": "benchmark"})
    if night is None:
        return stock(*args, **kwargs)
    from ultralytics import YOLO

    from yolo_wnlb.yolo.night import check_value, required_blocks, switched

    check_value(night)
    bound = inspect.signature(stock).bind(*args, **kwargs)
    bound.apply_defaults()
    first = next(iter(bound.arguments))
    if isinstance(bound.arguments[first], (str, Path)):
        bound.arguments[first] = YOLO(bound.arguments[first])
    with switched(required_blocks(bound.arguments[first]), night):
        return stock(*bound.args, **bound.kwargs)
