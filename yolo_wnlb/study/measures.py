"""What a study is judged by: the truth of its pictures, its hash, and how a score that was written is read back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from yolo_wnlb.data import coco, folders
from yolo_wnlb.metrics.accuracy import Accuracy
from yolo_wnlb.metrics.average_precision import Evaluation


class Measure(NamedTuple):
    """One way to judge.

    Attributes:
        truth: Function of data and split: what the pictures show.
        listing: Function of a truth: a mapping with `images`, each with id and file_name.
        fingerprint: Function of a truth: its hash.
        digest: Function of data and split: a hash of pictures and labels.
        read: Function of a file: the score that a run wrote.
    """

    truth: Callable[[str, str], Any]
    listing: Callable[[Any], Mapping[str, Any]]
    fingerprint: Callable[[Any], str]
    digest: Callable[[str, str], str]
    read: Callable[[Path], Any]


MEASURES = {  # by the name that `measure:` of a study gives
    "coco": Measure(coco.ground_truth, lambda truth: truth, coco.fingerprint, coco.digest, Evaluation.from_json),
    "accuracy": Measure(
        folders.read,
        lambda truth: {"images": truth.images},
        lambda truth: truth.digest,
        lambda data, split: folders.read(data, split).digest,
        Accuracy.from_json,
    ),
}
