"""How many pictures were given their class: in all, by class and by group.

Labelled, probabilities -> score -> Accuracy -> resampled: the same on drawn pictures, for intervals
"""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from yolo_wnlb.data.folders import Labelled
from yolo_wnlb.data.journal import replaced
from yolo_wnlb.data.sources import printable
from yolo_wnlb.data.validation import first
from yolo_wnlb.metrics.score import Score, check_list
from yolo_wnlb.version import __version__


@dataclass
class Accuracy(Score):
    """What `score` found; print it for the table.

    Attributes:
        classes: Their names.
        labels: The class of each picture, an index into `classes`.
        predicted: The most probable class of each picture; of equal ones the first.
        groups: The group of each picture; "" where it has none.
        file_names: Of the pictures.
        protocol: How it was measured, and on what.
        notes: What the reader has to know.
    """

    headline: ClassVar[str] = "accuracy"
    drawable: ClassVar[tuple[str, ...]] = ("accuracy",)
    comparable: ClassVar[tuple[str, ...]] = ("truth",)
    noun: ClassVar[str] = "accuracy"
    format: ClassVar[str] = "yolo_wnlb accuracy 1"

    classes: list[str]
    labels: list[int]
    predicted: list[int]
    groups: list[str]
    file_names: list[str]
    protocol: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def images(self) -> int:
        """Number of pictures."""
        return len(self.labels)

    @property
    def correct(self) -> np.ndarray:
        """Whether each picture was given its class: bool (images,)."""
        return np.array(self.labels) == np.array(self.predicted)

    def numbers(self) -> dict[str, float]:
        """Return accuracy, the share of all pictures; and balanced accuracy, the mean over the classes. In [0, 1]."""
        shares = [share for share in self.per_class().values() if share >= 0]
        return {"accuracy": float(self.correct.mean()), "balanced accuracy": float(np.mean(shares))}

    def per_class(self) -> dict[str, float]:
        """Return the share of each class's pictures that were given it, in [0, 1]; -1 where there is no picture."""
        labels = np.array(self.labels)
        return {name: share(self.correct[labels == label]) for label, name in enumerate(self.classes)}

    def per_group(self) -> dict[str, float]:
        """Return the share of each group's pictures that were given their class, in [0, 1]; {} without groups."""
        groups = np.array(self.groups)
        return {name: share(self.correct[groups == name]) for name in sorted({*self.groups} - {""})}

    def parts(self) -> list[tuple[str, str, int, float]]:
        """List what the pictures fall into: "class" or "group", its name, its number of pictures, its accuracy."""
        classes = [("class", n, self.labels.count(i), value) for i, (n, value) in enumerate(self.per_class().items())]
        return classes + [("group", n, self.groups.count(n), value) for n, value in self.per_group().items()]

    def resampled(self, weights: np.ndarray, metric: str = "") -> np.ndarray:
        """Return the accuracy with each picture counted so often, int (B, images) -> float (B,); see `Score`."""
        self.metric_named(metric)
        totals = weights.sum(1)
        return np.where(totals > 0, (weights @ self.correct) / np.maximum(totals, 1), -1.0)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return which pictures were given their class."""
        return {"correct": self.correct}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], protocol: dict[str, Any], kind: str = "") -> Accuracy:
        """Return an accuracy whose pictures are of one class, and right or wrong as `arrays` says."""
        wrong = (~arrays["correct"]).astype(int).tolist()
        blank = [""] * len(wrong)
        return cls(["right", "wrong"], [0] * len(wrong), wrong, blank, blank, protocol)

    def check(self) -> None:
        """Refuse lists of wrong types or lengths; see `Score`."""
        columns = {"labels": int, "predicted": int, "groups": str, "file_names": str}
        for name, kind in {"classes": str, "notes": str, **columns}.items():
            check_list(name, getattr(self, name), kind, "texts" if kind is str else "whole numbers")
        lengths = {len(getattr(self, name)) for name in columns}
        if len(lengths) > 1 or lengths == {0}:
            raise ValueError(f"{', '.join(columns)} are of the lengths {sorted(lengths)}; wanted one length, 1 or more")
        for name in ("labels", "predicted"):
            if not all(0 <= value < len(self.classes) for value in getattr(self, name)):
                raise ValueError(f"{name} are not all among the {len(self.classes)} classes")
        if not isinstance(self.protocol, dict):
            raise ValueError("protocol is no mapping")

    def __str__(self) -> str:
        """Return the numbers, by class and by group, the protocol and the notes."""
        lines = [f"{name:<28}{value:.4f}" for name, value in self.numbers().items()]
        for what, name, pictures, value in self.parts():
            shown = f"{value:.4f}" if value >= 0 else "-"
            lines.append(f"{f'{what} {printable(name)}'[:27]:<28}{shown:<8}of {pictures} pictures")
        protocol = "; ".join(f"{key.replace('_', ' ')} {value}" for key, value in self.protocol.items())
        return "\n".join([*lines, *textwrap.wrap(protocol, 112), *(f"note: {note}" for note in self.notes)])

    def to_csv(self, path: str | Path) -> None:
        """Write a line for all pictures, one for each class and one for each group."""
        rows: list[list[Any]] = [["all", "", self.images, self.numbers()["accuracy"]]]
        rows += map(list, self.parts())
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([["of", "name", "pictures", "accuracy"], *rows])
        with replaced(Path(path)) as draft:
            draft.write_text(text.getvalue(), encoding="utf-8")


def share(correct: np.ndarray) -> float:
    """Return the mean of booleans, -1 if there are none."""
    return float(correct.mean()) if len(correct) else -1.0


def score(
    data: Labelled, probabilities: np.ndarray, names: Sequence[str], protocol: dict[str, Any] | None = None
) -> Accuracy:
    """Compare predictions with the classes of the pictures.

    Args:
        data: The pictures and their classes.
        probabilities: Or logits: float (pictures, names).
        names: The classes that the model knows, in the order of the columns. All of them may be predicted, also those
            that no picture has.
        protocol: What made the predictions; it is kept in the result.
    Raises: ValueError: there is no picture; the model lacks a class; the shape is another; a number is not finite.
    """
    places = places_of(data, names)
    if probabilities.shape != (len(data), len(names)) or not len(data):
        wanted = (len(data), len(names))
        raise ValueError(f"predictions have the shape {probabilities.shape}; wanted {wanted}: pictures, classes")
    if not np.isfinite(probabilities).all():
        raise ValueError("some predictions are not finite; did the training diverge? Lower lr")
    facts = {"data": data.source, "split": data.split, "images": len(data), "truth": data.digest}
    return Accuracy(
        classes=list(names),
        labels=[places[label] for label in data.labels],
        predicted=probabilities.argmax(1).tolist(),
        groups=list(data.groups),
        file_names=list(data.names),
        protocol={**(protocol or {}), **facts, "yolo_wnlb": __version__},
        notes=list(data.notes),
    )


def places_of(data: Labelled, names: Sequence[str]) -> list[int]:
    """Return where each class of the pictures is among the classes of a model.

    Raises: ValueError: the model lacks one.
    """
    if lacking := [name for name in data.classes if name not in names]:
        raise ValueError(
            f"the model does not know {len(lacking)} classes of {data.source}: {first(lacking)}; it was trained for "
            f"{first(list(names))}"
        )
    return [list(names).index(name) for name in data.classes]
