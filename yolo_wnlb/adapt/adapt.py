"""Turn a detector and bright pictures without labels into a detector for the dark.

out/plan.json            what was asked for; another run has to ask for the same to go on
out/pictures/            the data set of links, and the held-out pictures, bright and dark
out/start.pt             the model that the training starts from
out/train/               what Ultralytics writes
out/adapted.pt           the result
out/steps.json           what was measured so far
out/before_after.jpg     held-out pictures
out/adapt.json           the record, written last
"""

from __future__ import annotations

import json
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yolo_wnlb.adapt.pictures import lay_out
from yolo_wnlb.adapt.plan import Plan, check_numbers, check_place, make_plan
from yolo_wnlb.data.journal import folder_for, replaced, write_json
from yolo_wnlb.data.sources import printable
from yolo_wnlb.reading import read_json, sha256_of
from yolo_wnlb.version import __version__
from yolo_wnlb.words import counted

PLAN, STEPS, RECORD, RESULT = "plan.json", "steps.json", "adapt.json", "adapted.pt"


@dataclass
class Report:
    """What an adaptation came to; print it for the tables.

    Attributes:
        lines: The tables, or the plan of a dry run.
        record: The content of adapt.json; empty for a dry run.
    """

    lines: list[str]
    record: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return "\n".join(self.lines)


def adapt(
    model: str | Path,
    images: str | Path,
    out: str | Path | None = None,
    *,
    lowlight: Any = None,
    after: Sequence[str | int] | None = None,
    train: str = "blocks",
    day: float = 0.2,
    epochs: int | None = None,
    imgsz: int | None = None,
    batch: int = 8,
    lr: float | None = None,
    data: str | Path | None = None,
    seed: int = 0,
    device: str | None = None,
    workers: int | None = None,
    limit: int | None = None,
    frames: int = 300,
    dry_run: bool = False,
    say: Callable[[str], None] = lambda line: print(line, flush=True),
    **block: Any,
) -> Report:
    """Adapt a detector or segmenter to the dark, from bright pictures alone.

    The untouched model sees each picture as it is, the trained one sees it darkened, and learns to have the same
    features. Called again with the same arguments it goes on where it was stopped.

    Args:
        model: A checkpoint (.pt) of an Ultralytics detector or segmenter.
        images: Bright pictures: a folder, a data YAML (its train split; no label is read) or a video.
        out: Folder to make. Default: runs/adapt/ and the name of the model.
        lowlight: How dark it gets: a preset such as "severe", or settings.
        after: Stages or rows to insert blocks after. Default: P3, P4, P5 for train="blocks" if the model has no
            blocks; none for train="all".
        train: "blocks": the blocks alone, the detector stays as it is. "all": everything but the head.
        day: Share of training pictures that stay bright, from 0 to below 1.
        epochs: Default: as many as make 900 steps, at least 3.
        imgsz: Pixels, a multiple of the model's stride. Default: as the model was trained.
        batch: Pictures of a step.
        lr: Learning rate. Default: 2e-3 for the blocks, 2e-4 for all.
        data: A labelled data YAML of the same classes: the true AP is measured on its val split, too.
        seed: Of the draws: which pictures are held out, new blocks, the training.
        device: As Ultralytics takes it. Default: a GPU if there is one.
        workers: Processes that load pictures. Default: as Ultralytics has it.
        limit: Use so many pictures, evenly spaced.
        frames: Frames to take from a video.
        dry_run: Only say what would be done, and how long it would take.
        say: Called with lines of progress.
        **block: Options of inserted blocks, see `WNLB`. Default: scale=None, w_lr=20.
    Raises: ValueError, TypeError, OSError: with the remedy.
    """
    out = Path(out) if out else Path("runs/adapt") / Path(model).stem
    check_numbers(workers=workers)
    from ultralytics.utils.torch_utils import select_device

    select_device(device or "", verbose=False)  # an unknown one is answered now
    plan = make_plan(
        model,
        images,
        out,
        lowlight,
        after=after,
        train=train,
        day=day,
        epochs=epochs,
        imgsz=imgsz,
        batch=batch,
        lr=lr,
        data=data,
        seed=seed,
        limit=limit,
        frames=frames,
        block=block,
    )
    for line in (outline := describe(plan)):
        say(line)
    if dry_run:
        return Report(["nothing is written", f"it would take {estimate(plan, device)}"])
    with folder_for(out, "runs/adapt"):
        check_place(Path(images), out)  # again, now that nobody else writes there
        refuse_other_plan(plan, out / PLAN)
        write_json(out / PLAN, plan.identity)
        return run(plan, out.resolve(), device, workers, say, outline)


def describe(plan: Plan) -> list[str]:
    """Say in a few lines what will be done."""
    found, chosen = plan.found, plan.settings
    what = f"{counted(len(plan.blocks), 'block')} alone" if chosen["train"] == "blocks" else "everything but the head"
    new = f", new after {', '.join(map(str, chosen['after']))}" if chosen["after"] else ""
    kind = f"frames of {printable(found.files[0].name)}" if found.frames else "pictures"
    epochs = counted(chosen["epochs"], "epoch")
    lines = [
        f"{found.count} {kind}, median brightness {found.brightness:.0f} of 255; no label is read",
        f"trained: {what}{new}, {epochs} at {chosen['imgsz']} pixels, batches of {chosen['batch']}, "
        f"learning rate {chosen['lr']:g}; darkness: {plan.lowlight}, {chosen['day']:.0%} of the pictures stay bright",
    ]
    if found.unreadable:
        names = ", ".join(printable(file.name) for file in found.unreadable[:3])
        left_out = counted(len(found.unreadable), "file")
        lines.append(f"left out, for they cannot be read as pictures: {left_out} ({names})")
    return lines


def refuse_other_plan(plan: Plan, file: Path) -> None:
    """Refuse a folder of a run that was asked for something else; names what differs.

    Raises: ValueError: something differs.
    """
    if not file.is_file():
        return
    written, now = read_json(file), json.loads(json.dumps(plan.identity))
    written = written if isinstance(written, dict) else {}
    if differing := [key for key in now if written.get(key) != now[key]]:
        was = "; ".join(f"{key}: {written.get(key)} then, {now[key]} now" for key in differing[:3])
        raise ValueError(f"{file.parent} holds a run that was asked for something else ({was}); choose another out=")


# ---- the steps -----------------------------------------------------------------------------------


class Steps:
    """What was done so far, in a file: a step that is in it is not done again."""

    def __init__(self, file: Path) -> None:
        self.file = file
        known = read_json(file) if file.is_file() else {}
        self.done: dict[str, Any] = known if isinstance(known, dict) else {}

    def __call__(self, name: str, work: Callable[[], Any]) -> Any:
        """Return the result of a step, from the file if it is there; results are what JSON holds."""
        if name not in self.done:
            begun = time.monotonic()
            result = work()
            self.done[name] = {"seconds": round(time.monotonic() - begun, 1), "result": result}
            write_json(self.file, self.done)
        return self.done[name]["result"]


def run(
    plan: Plan, out: Path, device: str | None, workers: int | None, say: Callable[[str], None], outline: list[str]
) -> Report:
    """Do what is left of a plan."""
    from yolo_wnlb.adapt import training
    from yolo_wnlb.adapt.measures import measure

    steps = Steps(out / STEPS)

    def prepare() -> None:
        lay_out(plan.found, out / "pictures", plan.settings["seed"], plan.names, plan.channels)
        training.save_start(plan, out / "start.pt")

    def fit() -> None:
        last = training.train(plan, out, device, workers, say)
        with replaced(out / RESULT) as draft:
            shutil.copyfile(last, draft)

    steps("prepare", prepare)
    say(f"{counted(plan.trained_on, 'picture')} to train on, {plan.held} held out")
    steps("train", fit)
    numbers, table = measure(plan, out, steps, device, say)
    record = {
        "asked": plan.identity,
        "outline": outline,
        "pictures": {"trained on": plan.trained_on, "held out": plan.held, "brightness": plan.found.brightness},
        "left out": [str(file) for file in plan.found.unreadable],
        **numbers,
        "seconds": {name: entry["seconds"] for name, entry in steps.done.items()},
        "adapted": {"sha256": sha256_of(out / RESULT)},
        "environment": environment(plan, device),
    }
    write_json(out / RECORD, record)
    return Report([*table, f"written to {out}: {RESULT}, before_after.jpg, {RECORD}"], record)


def environment(plan: Plan, device: str | None) -> dict[str, str]:
    """Return the versions that the numbers rest on."""
    import torch
    import ultralytics

    return {
        "yolo_wnlb": __version__,
        "ultralytics": ultralytics.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": device or "default",
        "threads": str(torch.get_num_threads()),
        "task": plan.task,
    }


# ---- a dry run -----------------------------------------------------------------------------------


def estimate(plan: Plan, device: str | None) -> str:
    """Measure a few steps of training and two pictures of validation in a temporary folder, and say how long all is."""
    from yolo_wnlb.adapt import training
    from yolo_wnlb.adapt.measures import seconds_of_a_picture

    batch = plan.settings["batch"]
    with tempfile.TemporaryDirectory(prefix="yolo_wnlb_adapt_") as name:
        folder = Path(name).resolve()
        data = lay_out(plan.found, folder / "pictures", plan.settings["seed"], plan.names, plan.channels)
        training.save_start(plan, folder / "start.pt")
        step = training.seconds_of_a_step(plan, folder, data, device)
        picture = seconds_of_a_picture(plan, folder, device)
    steps = plan.settings["epochs"] * -(-plan.trained_on // batch)
    return (
        f"about {training.duration(steps * step + plan.held * picture)}: {steps} steps of {step:.2f} s, measured, and "
        f"{plan.held} held-out pictures"
    )
