"""What an adaptation is worth: agreement, distance of features, and the true AP where there are labels."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ultralytics import YOLO

from yolo_wnlb.adapt.agreement import (
    CONFIDENCE,
    agreement,
    detections,
    feature_distances,
    truth_of,
    write_pairs,
)
from yolo_wnlb.adapt.before_after import draw_before_after
from yolo_wnlb.adapt.plan import Plan
from yolo_wnlb.adapt.training import quiet
from yolo_wnlb.data import coco
from yolo_wnlb.detectors import ultralytics
from yolo_wnlb.words import counted
from yolo_wnlb.yolo.models import load_checkpoint
from yolo_wnlb.yolo.sixteen_bits import recorded

Steps = Callable[[str, Callable[[], Any]], Any]
Say = Callable[[str], None]
FEW = 50  # objects in the held-out pictures, below which nothing is said of a gain
WHEN = {"dark": "in the dark", "day": "by day"}


def measure(
    plan: Plan,
    out: Path,
    steps: Steps,
    device: str | None,
    say: Say,
) -> tuple[dict[str, Any], list[str]]:
    """Measure the untouched and the adapted model; what `steps` holds already is not measured again.

    Returns: The numbers for the record, and the table for the eye.
    """
    files = {"before": plan.model, "after": out / "adapted.pt"}

    def without_labels() -> dict[str, Any]:
        say("measuring the agreement on the held-out pictures")
        size = plan.settings["imgsz"]
        bright, dark = write_pairs(
            out / "pictures/images/val",
            out / "pictures/held-out",
            size,
            plan.lowlight,
            plan.channels,
            recorded(plan.start),
        )
        models = {which: ultralytics.load(file, device) for which, file in files.items()}
        found = {
            (which, when): detections(model, pictures, size)
            for which, model in models.items()
            for when, pictures in (("day", bright), ("dark", dark))
        }
        truth = truth_of(found["before", "day"], bright, plan.names)
        draw_before_after(
            out / "before_after.jpg",
            bright,
            dark,
            found["before", "day"],
            found["before", "dark"],
            found["after", "dark"],
            plan.names,
            plan.channels,
        )
        networks = {which: load_checkpoint(file).model for which, file in files.items()}
        return {
            "objects": len(truth["annotations"]),
            "agreement": {
                f"{when}, {which}": agreement(truth, predictions, plan.task)
                for (which, when), predictions in found.items()
            },
            "distance": {
                which: feature_distances(networks["before"], network, bright, dark, plan.channels)
                for which, network in networks.items()
            },
        }

    held = steps("agreement", without_labels)
    numbers = {"without labels": held}
    table = [
        f"Without labels: agreement is the AP of a model's findings where the untouched model's on the bright held-out "
        f"pictures ({counted(held['objects'], 'object')} with a confidence of {CONFIDENCE} or more) are taken for the "
        "truth.",
        *rows("agreement (AP)", held["agreement"]),
        *distance_rows(held["distance"]),
    ]
    true: dict[str, Any] = {}
    if plan.data:
        labels = coco.digest(plan.data, "val")  # with other labels it is another step
        for which, file in files.items():
            for when, lowlight in (("dark", plan.lowlight), ("day", None)):
                name = f"{when}, {which}"
                work = partial(true_ap, plan, out, file, name, lowlight, device, say)
                true[name] = steps(f"true AP {name}, {plan.data}, {labels}", work)
        numbers["with labels"] = {"data": plan.data, **true}
        table += [f"With the labels of {plan.data}, val:", *rows("AP", true)]
    return numbers, table + advice(held, true, "masks" if plan.task == "segment" else "boxes")


def advice(held: dict[str, Any], true: dict[str, Any], kind: str) -> list[str]:
    """Say where the numbers tell against the adapted model, or say little.

    Args:
        held: What was measured without labels: objects, and agreement, {"dark, before": {kind: AP} ...}.
        true: The same AP with labels; empty without them.
        kind: masks or boxes.
    """
    lines = []
    agreed = [held["agreement"][f"dark, {which}"][kind] for which in ("before", "after")]
    if not held["objects"]:
        lines.append(
            f"The untouched model finds nothing with a confidence of {CONFIDENCE} on the bright pictures: there is "
            "nothing to agree with. Are these the scenes it was trained for?"
        )
    elif held["objects"] < FEW:
        lines.append(
            f"Whether the agreement rose cannot be told from {counted(held['objects'], 'object')}, for {FEW} or "
            "more are needed: give more pictures" + ("" if true else ", or labelled ones with data=")
        )
    elif None not in agreed and agreed[1] <= agreed[0]:
        lines.append(
            "Nothing was gained in the dark on these pictures; more pictures, another lowlight= or train= may help: "
            "see docs/adapt.md"
        )
    if true and true["dark, after"][kind] <= true["dark, before"][kind]:
        lines.append(
            f"The true AP of {kind} in the dark did not rise, and it says more than the agreement: keep the untouched "
            "model, or adapt it to more pictures; see docs/adapt.md"
        )
    return lines


def true_ap(
    plan: Plan, out: Path, file: Path, name: str, lowlight: Any, device: str | None, say: Say
) -> dict[str, float]:
    """Validate as `yolo val` does with the same arguments."""
    say(f"measuring the true AP {name}")
    given: dict[str, Any] = {"data": plan.data, "imgsz": plan.settings["imgsz"], "split": "val", "plots": False}
    given |= {"project": str(out / "val"), "name": name.replace(", ", "-"), "exist_ok": True, "verbose": False}
    given |= {} if device is None else {"device": device}
    given |= {} if lowlight is None else {"lowlight": lowlight}
    with quiet():
        result = YOLO(file).val(**given, workers=0)
    masks = {"masks": float(result.seg.map)} if plan.task == "segment" else {}
    return {**masks, "boxes": float(result.box.map)}


def rows(title: str, values: dict[str, dict[str, float | None]]) -> list[str]:
    """Write a table: in the dark and by day, masks and boxes, before and after."""
    lines = [f"  {title:<28}{'untouched':>10}{'adapted':>10}"]
    for when, words in WHEN.items():
        for kind in values[f"{when}, before"]:
            pair = [values[f"{when}, {which}"][kind] for which in ("before", "after")]
            lines.append(f"  {words + ', ' + kind:<28}" + "".join(f"{percent(value):>10}" for value in pair))
    return lines


def distance_rows(values: dict[str, dict[str, float]]) -> list[str]:
    """Write how far the features in the dark are from those of the bright twins."""
    lines = [f"  {'distance to the bright twin':<28}{'untouched':>10}{'adapted':>10}"]
    for place, before in values["before"].items():
        lines.append(f"  {place:<28}{before:>10.3g}{values['after'][place]:>10.3g}")
    return lines


def percent(value: float | None) -> str:
    """Write a share of 1 in hundredths."""
    return "-" if value is None else f"{100 * value:.2f}"


def seconds_of_a_picture(plan: Plan, folder: Path, device: str | None) -> float:
    """Measure how long a held-out picture takes: it is predicted four times, and its features are compared twice."""
    _, dark = write_pairs(
        folder / "pictures/images/val",
        folder / "pairs",
        plan.settings["imgsz"],
        plan.lowlight,
        plan.channels,
        recorded(plan.start),
    )
    two = dict(list(dark.items())[:2])
    model = ultralytics.load(plan.model, device)
    detections(model, two, plan.settings["imgsz"])  # the first passes take longer
    begun = time.monotonic()
    detections(model, two, plan.settings["imgsz"])
    return 6 * (time.monotonic() - begun) / len(two)
