"""What a study is judged by: the truth of its pictures and its hash, the score of a run, and its column in a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from yolo_wnlb.data import coco, folders
from yolo_wnlb.metrics.accuracy import Accuracy
from yolo_wnlb.metrics.average_precision import Evaluation
from yolo_wnlb.metrics.instances import TITLE, Instances
from yolo_wnlb.metrics.score import Score
from yolo_wnlb.study import labels


class Measure(NamedTuple):
    """One way to judge.

    Attributes:
        truth: Function of data and split: what the pictures show.
        listing: Function of a truth: a mapping with `images`, each with id and file_name.
        fingerprint: Function of a truth: its hash.
        digest: Function of data and split: a hash of pictures and labels.
        unlabelled: Function of data: a hash of the pictures that are named as `unlabelled:`; "" without any.
        score: What a run is given.
    """

    truth: Callable[[str, str], Any]
    listing: Callable[[Any], Mapping[str, Any]]
    fingerprint: Callable[[Any], str]
    digest: Callable[[str, str], str]
    unlabelled: Callable[[str], str]
    score: type[Score]


class Kind(NamedTuple):
    """What the rows of a table are compared by.

    Attributes:
        title: Of the column of the number that is compared.
        part: Key of a run's record that holds the numbers.
        score: What the number comes from.
        kind: Of `Score.of_kind`.
        other: A second column: its title, and the key of the record that holds its AP; None without one.
        result: What a model makes of a picture.
        note: How to read the numbers.
    """

    title: str
    part: str
    score: type[Score]
    kind: str
    other: tuple[str, str] | None
    result: str
    note: str


BY_COCO = "by COCO's rules in hundredths, best 100 detections of an image"
MEASURES = {  # by the name that `measure:` of a study gives
    "coco": Measure(coco.ground_truth, lambda truth: truth, coco.fingerprint, coco.digest, labels.digest, Evaluation),
    "instances": Measure(
        coco.ground_truth, lambda truth: truth, coco.fingerprint, coco.digest, labels.digest, Instances
    ),
    "accuracy": Measure(
        folders.read,
        lambda truth: {"images": truth.images},
        lambda truth: truth.digest,
        lambda data, split: folders.read(data, split).digest,
        lambda data: "",
        Accuracy,
    ),
}
KINDS = {  # by the name that table.json gives
    "segm": Kind(
        *("mask AP", "masks", Evaluation, "segm", ("box AP", "boxes"), "detections"),
        f"mask AP {BY_COCO}; mean ± standard deviation over the seeds",
    ),
    "bbox": Kind(
        *("box AP", "boxes", Evaluation, "bbox", ("mask AP", "masks"), "detections"),
        f"box AP {BY_COCO}; mean ± standard deviation over the seeds",
    ),
    "instances": Kind(
        *(TITLE, "instances", Instances, "", ("mask AP", "masks"), "instances"),
        f"{TITLE}: hits, as a share of hits, false alarms and misses together; a hit has an IoU above 0.5; SEG: mean "
        "over the objects of the IoU with the prediction that covers more than half of the object; both are means over "
        "the pictures that have objects, pooled: over the objects of all pictures; each run has its own thresholds, "
        "one for AP@0.5 and one for SEG, chosen on the split of tune:; all in hundredths; mean ± standard deviation "
        "over the seeds",
    ),
    "accuracy": Kind(
        *("accuracy", "accuracy", Accuracy, "", None, "class"),
        "accuracy: share of the pictures that were given their class, in hundredths, by the last weights; balanced: "
        "mean over the classes; train: of the pictures that were learnt from; mean ± standard deviation over the seeds",
    ),
}
