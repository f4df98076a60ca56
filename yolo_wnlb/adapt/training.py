"""The training of an adaptation: Ultralytics' own trainer, without labels, with lines of progress.

The arguments are ordinary ones: `lowlight=` darkens, `denoise=` compares the features with those of the untouched
model in the light. With alpha = 1 the stock loss, which would want labels, has no share.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from ultralytics import YOLO
from ultralytics.utils import LOGGER
from ultralytics.utils.torch_utils import strip_optimizer

from yolo_wnlb.adapt.plan import Plan
from yolo_wnlb.data.journal import replaced
from yolo_wnlb.yolo.denoise import NAME

LONG_ENOUGH = 400  # steps from which on a warm-up is worth its time; it takes 100 at least
ON_PURPOSE = (
    "Labels are missing",
    "no labels found",
    "No labels found",
    "this model was trained with lowlight=",
)  # parts of warnings
TRIAL_STEPS = 5  # of a dry run
EVERY = 10  # seconds between lines of progress

Say = Callable[[str], None]


def arguments(plan: Plan, data: Path, steps_of_an_epoch: int) -> dict[str, Any]:
    """Return the arguments of the trainer, but for the place, the device and the workers."""
    chosen = plan.settings
    long = chosen["epochs"] * steps_of_an_epoch >= LONG_ENOUGH
    return {
        "data": str(data),
        "lowlight": plan.darkness_of_training,
        "denoise": {"target": "features", "alpha": 1, "teacher": str(plan.model)},
        "freeze": plan.frozen,
        "epochs": chosen["epochs"],
        "imgsz": chosen["imgsz"],
        "batch": chosen["batch"],
        "nbs": chosen["batch"],
        "seed": chosen["seed"],
        "optimizer": "AdamW",
        "lr0": chosen["lr"],
        "cos_lr": True,
        "warmup_epochs": 0.5 if long else 0.0,
        "warmup_bias_lr": 0.0,
        "mosaic": 0.0,
        "close_mosaic": 0,
        "scale": 0.3,
        "hsv_h": 0.0,  # colours and brightness are the camera's business
        "hsv_s": 0.0,
        "hsv_v": 0.0,
        "val": False,
        "plots": False,
        "exist_ok": True,
        "verbose": False,
    }


def save_start(plan: Plan, file: Path) -> None:
    """Write the model that the training starts from as a checkpoint."""
    content = {"model": plan.start.float(), "ema": None, "epoch": -1, "train_args": {"task": plan.task}}
    with replaced(file) as draft:
        torch.save(content, draft)


def train(plan: Plan, out: Path, device: str | None, workers: int | None, say: Say) -> Path:
    """Train, or go on with a training that was stopped, and return the last weights.

    Args:
        plan: What to do.
        out: Folder of the run, with start.pt and pictures/data.yaml; the training writes into its folder train.
        device: As Ultralytics takes it. None: a GPU if there is one.
        workers: Processes that load pictures. None: as Ultralytics has it.
        say: Called with lines of progress.
    """
    last = out / "train/weights/last.pt"
    epoch = finished_epoch(last)
    if epoch is not None and epoch + 1 >= plan.settings["epochs"]:  # it was stopped before the last touch
        strip_optimizer(last)
        epoch = -1
    if epoch == -1:
        return last
    given: dict[str, Any] = {} if device is None else {"device": device}
    given |= {} if workers is None else {"workers": workers}
    if epoch is None:
        data = out / "pictures/data.yaml"
        asked = arguments(plan, data, -(-plan.trained_on // plan.settings["batch"]))
        asked |= {"project": str(out), "name": "train", "amp": uses_gpu(device)}
        model = YOLO(out / "start.pt", task=plan.task)
    else:
        say(f"the training goes on after epoch {epoch + 1} of {plan.settings['epochs']}")
        asked, model = {"resume": True}, YOLO(last, task=plan.task)
    report_progress(model, say)
    with quiet():
        model.train(**asked, **given)
    return last


def finished_epoch(last: Path) -> int | None:
    """Return the last finished epoch that a checkpoint holds, from 0; -1 if the training is over, None if none is."""
    if not last.is_file():
        return None
    try:
        return int(torch.load(last, map_location="cpu", weights_only=False)["epoch"])
    except (RuntimeError, EOFError, OSError, KeyError, ValueError):  # the run was killed while it wrote
        last.unlink()
        return None


def uses_gpu(device: str | None) -> bool:
    """Tell whether Ultralytics will train on a CUDA device."""
    return torch.cuda.is_available() and str(device or "").lower() not in ("cpu", "mps")


def report_progress(model: YOLO, say: Say) -> None:
    """Let a model that is about to be trained say every few seconds where it is."""
    state = {"step": 0, "begun": 0.0, "said": 0.0}

    def begin(trainer: Any) -> None:
        state.update(step=0, begun=time.monotonic(), said=time.monotonic())

    def step(trainer: Any) -> None:
        state["step"] += 1
        now, steps = time.monotonic(), len(trainer.train_loader)
        if now - state["said"] >= EVERY:
            state["said"] = now
            left = (trainer.epochs - trainer.start_epoch) * steps - state["step"]
            pace = (now - state["begun"]) / state["step"]
            in_epoch = (int(state["step"]) - 1) % steps + 1
            say(
                f"epoch {trainer.epoch + 1} of {trainer.epochs}, step {in_epoch} of {steps}, "
                f"{loss_of(trainer)}, about {duration(left * pace)} left"
            )

    def end(trainer: Any) -> None:
        say(f"epoch {trainer.epoch + 1} of {trainer.epochs} done, {loss_of(trainer)}")

    model.add_callback("on_train_start", begin)
    model.add_callback("on_train_batch_end", step)
    model.add_callback("on_train_epoch_end", end)


def loss_of(trainer: Any) -> str:
    """Write the mean of the loss in this epoch; where releases of Ultralytics do not name it, that of the last step."""
    loss = trainer.tloss
    value = loss[NAME] if isinstance(loss, dict) else trainer.loss / trainer.batch_size
    return f"distance to the bright twins {float(value):.3f}"


def seconds_of_a_step(plan: Plan, folder: Path, data: Path, device: str | None) -> float:
    """Train for an epoch of a few pictures that leaves nothing behind, and return the time of a step."""
    times: list[float] = []
    model = YOLO(folder / "start.pt", task=plan.task)
    for event in ("on_train_start", "on_train_batch_end"):
        model.add_callback(event, lambda trainer: times.append(time.monotonic()))
    asked = {**arguments(plan, data, 1), "epochs": 1, "project": str(folder), "name": "trial", "workers": 0}
    asked["fraction"] = min(1.0, TRIAL_STEPS * plan.settings["batch"] / plan.trained_on)
    with quiet():
        model.train(**asked, amp=False, save=False, **({} if device is None else {"device": device}))
    gaps = sorted(b - a for a, b in itertools.pairwise(times))
    return gaps[len(gaps) // 2]


def duration(seconds: float) -> str:
    """Write a time for the eye."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Ultralytics' log to its warnings, without those about what is done on purpose."""

    def matters(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING and not any(part in record.getMessage() for part in ON_PURPOSE)

    LOGGER.addFilter(matters)
    level = LOGGER.level
    LOGGER.setLevel(max(level, logging.WARNING))
    try:
        yield
    finally:
        LOGGER.removeFilter(matters)
        LOGGER.setLevel(level)
