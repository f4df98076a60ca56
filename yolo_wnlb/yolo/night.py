"""The night mode of a model with wNLB blocks: one file for the night and for the day, and a switch between the two.

A detector whose blocks were trained while all of its other layers were frozen computes exactly what it computed
before, as soon as its blocks are left out. So the adapted checkpoint holds both detectors:

    YOLO("adapted.pt").model.night = False                      the day model, until it is set to True again
    yolo predict model=adapted.pt source=... night=False        the day model for this call alone
    yolo export model=adapted.pt format=onnx night=False        adapted-day.onnx, without the blocks

The switch is the attribute `off` of each block. It is copied, pickled and saved with the model; it is no weight, so
a state_dict does not hold it, and a training always starts at night. `patches` puts the property `night` on the
classes of Ultralytics and calls the rest of this file.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from yolo_wnlb.wnlb import WNLB
from yolo_wnlb.yolo.weights import unwrap

KEY = "night"  # in the metadata of an export; files exported by earlier revisions lack it
DAY = "-day"  # behind the name of an export without its blocks


# ---- the switch ----------------------------------------------------------------------------------


def detector_in(owner: Any) -> Any:
    """Return the Ultralytics model that a `YOLO`, an `AutoBackend` or a wrapper holds, or that `owner` is.

    None if there is none, as in a `YOLO` or an `AutoBackend` of an exported file.
    """
    from ultralytics.nn.tasks import BaseModel

    model = unwrap(owner)
    if not isinstance(model, BaseModel):  # YOLO and AutoBackend keep it as `model`
        model = unwrap(getattr(model, "model", None))
    return model if isinstance(model, BaseModel) else None


def blocks_of(owner: Any) -> list[WNLB]:
    """Return the blocks of a model, or of what holds it (see `detector_in`); an exported file has none."""
    model = detector_in(owner)
    return [] if model is None else [module for module in model.modules() if isinstance(module, WNLB)]


def required_blocks(owner: Any) -> list[WNLB]:
    """Return the blocks of a model, or of what holds it.

    Raises: ValueError: it has none; says what to do instead.
    """
    blocks = blocks_of(owner)
    if not blocks and detector_in(owner) is None:
        raise ValueError(
            "night chooses between the two modes of a checkpoint; an exported model has one, which was chosen at its "
            "export. Leave night out here, and export the checkpoint again with night=False or night=True"
        )
    if not blocks:
        raise ValueError(
            "night switches the wNLB blocks of a model, and this model has none, so it has one mode only. Leave night "
            "out, or give a checkpoint with blocks"
        )
    return blocks


def is_night(owner: Any) -> bool | None:
    """Tell whether the blocks of a model act: False if every one of them is off, None if it has no blocks."""
    blocks = blocks_of(owner)
    return not all(block.off for block in blocks) if blocks else None


def set_night(owner: Any, night: bool) -> None:
    """Let all blocks of a model act (True), or leave all of them out (False).

    Raises: ValueError: the value is neither, or the model has no blocks.
    """
    check_value(night)
    for block in required_blocks(owner):
        block.off = not night


def check_value(night: Any) -> None:
    """Raise ValueError unless a value of the switch is True or False."""
    if not isinstance(night, bool):
        raise ValueError(f"night is {night!r}; wanted True (the blocks act) or False (the model without its blocks)")


@contextlib.contextmanager
def switched(blocks: Sequence[WNLB], night: bool | None) -> Iterator[None]:
    """Let blocks act (True) or leave them out (False) within the context; None leaves each of them as it is."""
    before = [block.off for block in blocks]
    try:
        if night is not None:
            for block in blocks:
                block.off = not night
        yield
    finally:
        for block, off in zip(blocks, before, strict=True):
            block.off = off


# ---- the argument of predict, track, val, export and benchmark -----------------------------------


def check_request(cfg: dict[str, Any]) -> None:
    """Check night= among the arguments of a run, in place; whether the model has blocks is known later.

    Raises: ValueError: it is neither True nor False.
    """
    if cfg.get("night") is None:
        cfg.pop("night", None)
    else:
        check_value(cfg["night"])


class PredictorSwitch:
    """Switches the model of a predictor, which releases of Ultralytics copy from the model of the `YOLO` object.

    The copy follows the model that it was made from: before each pass it is switched as that one was switched since
    the pass before. What a call of predict asks for holds for the passes of that call alone.

    Args:
        source: The model, or the file, that the predictor was given.
        backend: The `AutoBackend` that the predictor made of it.
    """

    def __init__(self, source: Any, backend: Any) -> None:
        self.own = blocks_of(backend)
        self.source = blocks_of(source) or self.own  # a predictor that read a file has no other model
        self.seen = [block.off for block in self.source]

    @contextlib.contextmanager
    def during_pass(self, asked: bool | None) -> Iterator[None]:
        """Switch the blocks for one forward pass: to `asked`, or if that is None as the source is switched."""
        now = [block.off for block in self.source]
        if now != self.seen:
            self.seen = now
            for block, off in zip(self.own, now, strict=True):
                block.off = off
        with switched(self.own, asked):
            yield


def load(model: Any) -> Any:
    """Return the model of a checkpoint file, so that it can be switched; anything else as it is.

    Raises: ValueError: it has no blocks, or is an exported model.
    """
    from ultralytics.nn import tasks

    if str(model).endswith(".pt") and isinstance(model, (str, Path)):
        model = tasks.load_checkpoint(model)[0]
    required_blocks(model)
    return model


# ---- exports -------------------------------------------------------------------------------------


def to_export(model: Any, asked: bool | None) -> Any:
    """Return the model that an export is made of: `model`, or a copy that is switched as `asked`.

    A copy for the day has no blocks at all, and its file name ends in `DAY`, so that its export does not replace the
    one for the night.

    Raises: ValueError: night= was asked for, and the model has no blocks.
    """
    if asked is not None:
        required_blocks(model)
    elif is_night(model) is not False:
        return model
    model = copy.deepcopy(model)
    if asked:
        set_night(model, True)
        return model
    file = Path(getattr(model, "pt_path", None) or model.yaml.get("yaml_file", "") or "model.yaml")
    model.pt_path = str(file.with_name(f"{file.stem}{DAY}{file.suffix}"))
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, WNLB):
                setattr(parent, name, without_block(child))
    return model


def without_block(block: WNLB) -> nn.Identity:
    """Return an identity that takes the place of a block among the layers of a model."""
    place = nn.Identity()
    for name in ("i", "f", "type", "np"):  # what the parser of Ultralytics notes at each layer
        if hasattr(block, name):
            setattr(place, name, getattr(block, name))
    return place


def exported_at_night(metadata: dict[str, Any]) -> bool | None:
    """Read from the metadata of an export whether its blocks act; None where they do not say. Texts in some formats."""
    value = str(metadata.get(KEY)).lower()
    return {"true": True, "false": False}.get(value)
