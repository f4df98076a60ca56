"""ultralytics.engine.validator: no bright pictures instead of dark ones; night= and the curve of the model."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from types import ModuleType
from typing import Any

from yolo_wnlb.yolo.patches.wrapping import wrap

VALIDATING: ContextVar[Any] = ContextVar("VALIDATING", default=None)  # the validator that is loading its model


def patch_validator(validator: ModuleType) -> None:
    """Check the data set of a validation on its own; in training the trainer's check has seen it."""
    wrap(validator.BaseValidator, "__call__", validate)
    wrap(validator.BaseValidator, "run_callbacks", run_callbacks)
    wrap(validator.AutoBackend, "__init__", init_backend)


def validate(stock: Callable[..., Any], validator: Any, trainer: Any = None, model: Any = None, **kwargs: Any) -> Any:
    """Remember in which darkness the model was trained; switch its blocks as night= says, for this validation."""
    from yolo_wnlb.yolo import night
    from yolo_wnlb.yolo.weights import unwrap

    asked = getattr(validator.args, "night", None)
    if asked is not None:
        model = night.load(validator.args.model if model is None else model)
    validator.trained_in = getattr(unwrap(model), "lowlight", None)
    before = VALIDATING.set(validator if trainer is None else None)
    try:
        with night.switched(night.blocks_of(model), asked):
            return stock(validator, trainer, model, **kwargs)
    finally:
        VALIDATING.reset(before)


def init_backend(stock: Callable[..., Any], backend: Any, *args: Any, **kwargs: Any) -> None:
    """Load a model; a validation that loads it reads pictures of more than 8 bits as the model was trained with."""
    stock(backend, *args, **kwargs)
    validator = VALIDATING.get()
    if validator is not None and getattr(validator.args, "curve", None) is None:
        from yolo_wnlb.yolo.sixteen_bits import recorded

        validator.args.curve = recorded(backend)


def run_callbacks(stock: Callable[..., Any], validator: Any, event: str) -> None:
    """Look at what was built, right before the first batch."""
    if event == "on_val_start" and not validator.training:
        from yolo_wnlb.yolo.darkness import check_validation

        check_validation(validator)
    stock(validator, event)
