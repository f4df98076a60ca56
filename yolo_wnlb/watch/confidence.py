"""Which confidence to ask for at which brightness: one number, or what a report found on pictures that bright."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from yolo_wnlb.reading import sha256_of
from yolo_wnlb.report.content import Content, Model, Threshold

TOO_DARK = 2.0  # mean code below which nothing is tried, where no report says better
ENOUGH = 10  # objects of a range of brightness that have to be missed for it to count as too dark


@dataclass(frozen=True)
class Confidences:
    """The confidence to use against the brightness of a picture, and how dark is too dark.

    Attributes:
        brightness: Mean codes of pictures, rising, one or more.
        confidence: The confidence at each of them; between two of them it is interpolated, beyond the ends it stays.
        too_dark: Mean code below which no detection is tried, 0 to 255.
        source: Where they are from.
        remark: What to know of them; empty where there is nothing.
        image_size: "height x width" in pixels that they were measured at; empty where that is not known.
    """

    brightness: tuple[float, ...]
    confidence: tuple[float, ...]
    too_dark: float
    source: str
    remark: str = ""
    image_size: str = ""

    def at(self, brightness: float) -> float:
        """Return the confidence for a picture of this mean code."""
        return float(np.interp(np.log2(1 + brightness), np.log2(1 + np.array(self.brightness)), self.confidence))

    def remarks(self, size: tuple[int, int]) -> tuple[str, ...]:
        """Return what to know of them where pictures are fitted into this height and width."""
        found = (self.remark,) if self.remark else ()
        height, _, width = self.image_size.partition("x")
        if not (height.isdigit() and width.isdigit()) or (int(height), int(width)) == size:
            return found
        remedy = f"give imgsz={height}, or " if height == width else ""
        remedy += f"make a report with imgsz={size[0]}" if size[0] == size[1] else "make a report of this very model"
        return (
            *found,
            f"{self.source} was measured at image size {self.image_size}, and frames are fitted into "
            f"{size[0]}x{size[1]}, where other confidences may be right; {remedy}",
        )


def fixed(confidence: float, too_dark: float | None = None) -> Confidences:
    """Return one confidence for every brightness.

    Raises: ValueError: it is not in (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"conf is {confidence}; wanted a number between 0 and 1, or a report.json")
    return Confidences((0.0,), (confidence,), TOO_DARK if too_dark is None else too_dark, f"conf={confidence:g}")


def of_report(file: str | Path, weights: Path, too_dark: float | None = None) -> Confidences:
    """Return the confidences that `yolo-wnlb report` found for a model.

    Those of real pictures by brightness count; darkened pictures (stops) only where no real ones are as dark. A slice
    of so few objects that no confidence was found on each half of its pictures does not count. Pictures are too dark
    where ENOUGH objects or more were there and nothing that was found was right, and in no darker pictures either.

    Args:
        file: The report.json.
        weights: The file of the model, or its folder, to find it among those of the report.
        too_dark: Mean code below which nothing is tried, instead of the report's.
    Raises: OSError; ValueError: the file is no report, or has no confidences of this model.
    """
    if not Path(file).is_file():
        command = shlex.join(["yolo-wnlb", "report", str(weights), "data=DATA.yaml"])
        raise FileNotFoundError(f"there is no {file}; make it with: {command}")
    content = Content.from_json(file)
    model, remark = model_of(content, file, weights)
    rows = [row for row in content.thresholds if row.model == model.name and row.kind == content.kind]
    real = [row for row in rows if row.where.startswith("brightness ")]
    darkest = min((middle(row) for row in real if row.of_halves), default=np.inf)
    rows = real + [row for row in rows if row.where.startswith("stop ") and middle(row) < darkest]
    rows.sort(key=middle)
    right = [row for row in rows if row.confidence is not None and row.of_halves]
    if not right:
        raise ValueError(
            f"{file} has no confidence by brightness of {model.name}: nothing that it found was right, or its pictures "
            "are too few; give conf= a number"
        )
    if too_dark is None:
        darkest = min(middle(row) for row in rows if row.confidence is not None)  # one that is right is enough
        blind = [r for r in rows if r.confidence is None and r.objects >= ENOUGH and middle(r) < darkest]
        too_dark = max((min(row.high, darkest) for row in blind), default=min(TOO_DARK, darkest))
    knots = dict.fromkeys(middle(row) for row in right)  # two rows of one brightness: the first counts
    values = {brightness: next(row for row in right if middle(row) == brightness).confidence for brightness in knots}
    # a confidence of 0 would let everything through, one of 1 nothing
    confidence = tuple(float(np.clip(value or 0.0, 0.01, 0.99)) for value in values.values())
    return Confidences(tuple(knots), confidence, too_dark, str(file), remark, model.image_size)


def middle(row: Threshold) -> float:
    """Return the brightness that a row stands for: halfway between its ends, on a scale of logarithms."""
    return float(2 ** ((np.log2(1 + row.low) + np.log2(1 + row.high)) / 2) - 1)


def model_of(content: Content, file: str | Path, weights: Path) -> tuple[Model, str]:
    """Find a model in a report by its content, else the one that it seems to be an export of; the latter with a remark.

    Raises: ValueError: none of them is it.
    """
    digest = sha256_of(weights) if weights.exists() else None
    for model in content.models:
        if model.sha256 == digest:
            return model, ""
    stem, form = named(weights)
    exports = [
        model
        for model in content.models
        if model.sha256 and named(model.weights)[0] == stem and named(model.weights)[1] != form
    ]
    if len(exports) == 1:
        of = exports[0].weights
        return exports[0], f"{file} is of {of}; {weights} is taken for an export of it, whose confidences may differ"
    models = ", ".join(f"{model.weights} ({model.sha256[:12] or 'no sha256'})" for model in content.models)
    command = shlex.join(["yolo-wnlb", "report", str(weights), f"data={content.data.source}"])
    raise ValueError(
        f"{file} is a report of {models}, and {weights} ({digest[:12] if digest else 'not there'}) is another model; "
        f"make one of it: {command}"
    )


def named(weights: str | Path) -> tuple[str, str]:
    """Split the name of a model from its format: best.pt, best_openvino_model, best_int8_openvino_model."""
    match = re.fullmatch(r"(.+?)((?:_int8)?_[a-z]+_model|\.\w+)", Path(weights).name)
    return (match[1], match[2]) if match else (Path(weights).name, "")
