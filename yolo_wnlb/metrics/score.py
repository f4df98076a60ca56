"""What every score has in common: `Evaluation`, `Instances` and `Accuracy` are compared, drawn and kept by these names.

A score knows its pictures one by one, so that it can be computed again for drawn pictures: `resampled`. All else that
tables and intervals need follows from that.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from yolo_wnlb.data.journal import replaced
from yolo_wnlb.reading import read_json
from yolo_wnlb.words import suggestion

if TYPE_CHECKING:
    from typing_extensions import Self  # typing has it from Python 3.11 on


class Score(ABC):
    """How well a model did on some pictures. Its children are dataclasses.

    Attributes:
        headline: Name of the number that is compared first.
        drawable: Names of the numbers that `resampled` computes, the headline first.
        comparable: Keys of the protocol in which two scores have to agree before their difference means anything.
        noun: What a message calls such a score.
        format: What stands in the first line of its file.
        protocol: How it was measured, and on what.
        notes: What the reader has to know.
        file_names: Of the pictures, in the order in which they are numbered.
    """

    headline: ClassVar[str]
    drawable: ClassVar[tuple[str, ...]]
    comparable: ClassVar[tuple[str, ...]]
    noun: ClassVar[str]
    format: ClassVar[str]

    protocol: dict[str, Any]
    notes: list[str]
    file_names: list[str]

    @property
    def kind(self) -> str:
        """What the headline is of: "segm" or "bbox" of evaluations; "" of other scores."""
        return ""

    @property
    @abstractmethod
    def images(self) -> int:
        """Number of pictures."""

    @abstractmethod
    def numbers(self) -> dict[str, float]:
        """Return all numbers by name, in [0, 1]; -1 where there is nothing to measure."""

    @abstractmethod
    def resampled(self, weights: np.ndarray, metric: str = "") -> np.ndarray:
        """Return a number with each picture counted so often: int (B, images) -> float (B,); -1 for nothing to measure.

        Args:
            weights: How often each picture counts.
            metric: One of `drawable`. Default: the headline.
        Raises: ValueError: there is no such number.
        """

    @abstractmethod
    def arrays(self) -> dict[str, np.ndarray]:
        """Return what `resampled` rests on, as small arrays."""

    @classmethod
    @abstractmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], protocol: dict[str, Any], kind: str = "") -> Self:
        """Return a score that `resampled` works on, from what `arrays` returned.

        Args:
            arrays: Arrays by name.
            protocol: Of the score.
            kind: What `kind` of the score was, which the arrays do not say.
        """

    @abstractmethod
    def check(self) -> None:
        """Refuse a score from a file whose parts are of wrong types, or do not belong together.

        Raises: ValueError.
        """

    def to_content(self) -> dict[str, Any]:
        """Return the fields as JSON holds them."""
        return {part.name: getattr(self, part.name) for part in fields(self)}  # type: ignore[arg-type]

    @classmethod
    def from_content(cls, content: dict[str, Any]) -> Self:
        """Return the score whose `to_content` has been read.

        Raises: ValueError: a field cannot be decoded.
        """
        return cls(**content)

    def of_kind(self, kind: str = "") -> Self:
        """Return the part of the score that is of one kind; only evaluations have kinds, "segm" and "bbox".

        Raises: ValueError: there is no such kind.
        """
        if kind:
            raise ValueError(f"kind is {kind!r}, and no {self.noun} has kinds; leave it out")
        return self

    @classmethod
    def metric_named(cls, metric: str) -> str:
        """Return the name of a number that can be drawn; the headline for "".

        Raises: ValueError: there is no such number.
        """
        if metric and metric not in cls.drawable:
            meant = suggestion(metric, cls.drawable)
            raise ValueError(f"metric is {metric!r}{meant}; choose from {', '.join(cls.drawable)}")
        return metric or cls.headline

    def to_json(self, path: str | Path) -> None:
        """Write everything, for `from_json`; docs/evaluation.md describes the formats.

        Raises: OSError; ValueError: the protocol holds what JSON cannot hold.
        """
        try:
            text = json.dumps({"format": self.format, **self.to_content()}, indent=1, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: the {self.noun} holds what JSON cannot hold: {error}") from None
        with replaced(Path(path)) as draft:
            draft.write_text(f"{text}\n", encoding="utf-8")

    @classmethod
    def from_json(cls, path: str | Path) -> Self:
        """Read what `to_json` wrote.

        Raises: OSError; ValueError: it is something else, or was damaged. The message names the file.
        """
        content = read_json(path)
        try:
            if not isinstance(content, dict) or content.pop("format", None) != cls.format:
                raise ValueError(f"it has no format {cls.format!r}")
            if differing := {part.name for part in fields(cls)} ^ content.keys():  # type: ignore[arg-type]
                raise ValueError(f"unknown or missing: {', '.join(sorted(differing))}")
            result = cls.from_content(content)
            result.check()
            if lacking := [key for key in cls.comparable if key not in result.protocol]:
                raise ValueError(f"its protocol lacks {', '.join(lacking)}")
        except ValueError as error:
            raise ValueError(f"{path} is no {cls.noun} that yolo_wnlb wrote: {error}; evaluate again") from None
        return result


def check_list(name: str, values: Any, kind: type, wanted: str) -> None:
    """Refuse what is no list of values of one type; True and False are no whole numbers.

    Raises: ValueError.
    """
    if not isinstance(values, list) or any(type(value) is not kind for value in values):
        raise ValueError(f"{name} is no list of {wanted}")
