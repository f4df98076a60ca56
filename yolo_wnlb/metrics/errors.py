"""What kinds of errors cost a detector its AP: the six kinds of TIDE, and what mending each of them would gain.

Each detection that hits no object is one error, by the first of these that fits (IoU with objects of its picture):

    localisation   an object of its class overlaps by 0.1 to 0.5: it lies badly
    class          an object of another class overlaps by 0.5 or more: it has the wrong name
    duplicate      an object of its class overlaps by 0.5 or more, and a detection of higher confidence has it
    background     no object overlaps by more than 0.1: there is nothing
    both           all others: it lies badly and has the wrong name

    missed         an object that no detection hits, and that no mended detection would hit

Source: Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV 2020 (arXiv 2008.08115),
as their program `tidecv` 1.0.1 computes it, with its AP: that of one IoU threshold, over the classes that have objects
or detections. It lies below COCO's AP50, which asks only for objects, where detections name a class without any. As
there, a detection inside a crowd costs no AP, and is still counted among the errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from pycocotools import mask as mask_utils

from yolo_wnlb.data.coco import Prediction, Truth, check
from yolo_wnlb.metrics.average_precision import KEYS, KINDS, columns, encoded, lacking, objects_of, strongest
from yolo_wnlb.words import suggestion

NAMES = CLASS, LOCALISATION, BOTH, DUPLICATE, BACKGROUND, MISSED = (
    "class",
    "localisation",
    "both",
    "duplicate",
    "background",
    "missed",
)
RECALLS = np.arange(101) / 100  # at which precision is averaged
HIT = "hit"  # in place of a kind of error


@dataclass(frozen=True)
class Errors:
    """What `errors` found.

    Attributes:
        ap: AP at the threshold, in [0, 1], as TIDE computes it.
        counts: Number of errors of each kind, in the order of NAMES.
        costs: How much higher `ap` would be without the errors of one kind, in [0, 1]. They do not add up, for
            a detection that hits an object changes what others count.
    """

    ap: float
    counts: dict[str, int]
    costs: dict[str, float]


class Judged(NamedTuple):
    """The detections and objects of a data set, in columns, with what was found of them.

    Attributes:
        category: Class of each detection, numbered from 0, int (D,).
        score: Confidence of each detection, (D,).
        kind: HIT, or the kind of its error, text (D,).
        ignored: Whether it lies in a crowd and so costs no AP, bool (D,).
        mended: Class of the object that the detection would hit if its error were mended; -1 for none, int (D,).
        row: Which of the predictions each detection is, int (D,).
        objects: Class of each object, crowds left out, int (G,).
        taken: Whether a detection hits the object, bool (G,).
        missed: Whether it is an error that the object is missed, bool (G,).
        object_row: Which of the annotations each object is, int (G,).
    """

    category: np.ndarray
    score: np.ndarray
    kind: np.ndarray
    ignored: np.ndarray
    mended: np.ndarray
    row: np.ndarray
    objects: np.ndarray
    taken: np.ndarray
    missed: np.ndarray
    object_row: np.ndarray


def errors(
    truth: Truth,
    predictions: Sequence[Prediction],
    kind: str = "segm",
    *,
    positive: float = 0.5,
    background: float = 0.1,
    max_detections: int = 100,
) -> Errors:
    """Sort what a detector does wrong into six kinds, and tell what each of them costs.

    Args:
        truth: What `coco.ground_truth` returns, or any COCO truth.
        predictions: COCO results; masks at the size of the image files.
        kind: "segm" for masks, "bbox" for boxes.
        positive: IoU from which on a detection hits an object, between 0 and 1.
        background: IoU up to which a detection lies on the background, from 0 to less than `positive`.
        max_detections: The best so many of each image count, all classes together.
    Raises: ValueError: the two do not fit together (see `coco.check`), or an argument has no such value.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}{suggestion(kind, KINDS)}; choose from {', '.join(KINDS)}")
    if not 0 <= background < positive <= 1:
        raise ValueError(f"background is {background} and positive {positive}; wanted 0 <= background < positive <= 1")
    check(truth, predictions)
    if lack := lacking(truth, predictions, kind):
        raise ValueError(f"{lack}, so that errors of {KINDS[kind]} cannot be told; choose the other kind")
    judged = judge(truth, predictions, kind, positive, background, max_detections)
    ap = mean_ap(judged, "")
    counts = {name: int((judged.kind == name).sum()) for name in NAMES} | {MISSED: int(judged.missed.sum())}
    return Errors(ap, counts, {name: max(mean_ap(judged, name) - ap, 0.0) for name in NAMES})


def judge(
    truth: Truth, predictions: Sequence[Prediction], kind: str, positive: float, background: float, most: int
) -> Judged:
    """Match detections with objects, and find the kind of each error; the arguments are those of `errors`."""
    images, categories = (sorted(truth[what], key=lambda entry: entry["id"]) for what in ("images", "categories"))
    image_numbers, class_numbers = ({entry["id"]: i for i, entry in enumerate(part)} for part in (images, categories))
    sizes = [(image["height"], image["width"]) for image in images]
    image, category = columns(predictions, image_numbers, class_numbers)
    score = np.array([prediction["score"] for prediction in predictions], float)
    kept = strongest(predictions, image, category, score, most)
    image, category, score = image[kept], category[kept], score[kept]
    shapes = encoded([predictions[row][KEYS[kind]] for row in kept], image, kind, sizes)
    objects = objects_of(truth, *columns(truth["annotations"], image_numbers, class_numbers), kind, sizes)

    kinds = np.full(len(image), BACKGROUND, dtype="<U12")
    ignored, mended = np.zeros(len(image), bool), np.full(len(image), -1)
    taken, missed = np.zeros_like(objects.crowd), ~objects.crowd
    for number in range(len(images)):
        rows = np.arange(*np.searchsorted(image, (number, number + 1)))
        here = objects.image == number
        whole, crowds = np.flatnonzero(here & ~objects.crowd), np.flatnonzero(here & objects.crowd)
        if not len(rows):
            continue
        found = [shapes[row] for row in rows]
        iou, inside = (
            np.asarray(mask_utils.iou(found, [objects.shapes[o] for o in of], [crowd] * len(of)))
            if len(of)
            else np.zeros((len(rows), 0))
            for of, crowd in ((whole, 0), (crowds, 1))
        )
        alike, alike_crowd = (category[rows, None] == objects.category[None, of] for of in (whole, crowds))
        taker = match(iou * alike, positive)
        hits = np.isin(np.arange(len(rows)), taker)
        ignored[rows] = ~hits & ((inside > positive) & alike_crowd).any(1)
        if len(whole):
            name, target = kinds_of(iou, alike, taker >= 0, positive, background)
            kinds[rows] = np.where(hits, HIT, name)
            free = ~hits & (target >= 0)
            free[free] = taker[target[free]] < 0  # an object that a detection hits already mends no other one
            first = {int(target[d]): int(d) for d in np.flatnonzero(free)[::-1]}  # of the highest confidence
            for place, detection in first.items():
                mended[rows[detection]] = objects.category[whole[place]]
            taken[whole] = taker >= 0
            missed[whole] = (taker < 0) & ~np.isin(np.arange(len(whole)), [*first])
    whole = np.flatnonzero(~objects.crowd)
    return Judged(
        *(category, score, kinds, ignored, mended, kept),
        *(objects.category[whole], taken[whole], missed[whole], whole),
    )


def match(iou: np.ndarray, positive: float) -> np.ndarray:
    """Return which detection has each object, -1 for none, int (G,): the best object that is left, in order of score.

    iou: Of detections, sorted by falling score, and objects; 0 for those of different classes, (D, G).
    """
    taker, left = np.full(iou.shape[1], -1), iou.copy()
    for detection in np.flatnonzero((iou >= positive).any(1)):
        best = left[detection].argmax()
        if left[detection, best] >= positive:
            taker[best] = detection
            left[:, best] = 0
    return taker


def kinds_of(
    iou: np.ndarray, alike: np.ndarray, taken: np.ndarray, positive: float, background: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the kind of error that each detection is if it hits nothing, and the object that it would hit if mended.

    Args:
        iou: Of detections and objects, (D, G), G > 0.
        alike: Whether they are of one class, bool (D, G).
        taken: Whether a detection hits the object, bool (G,).
        positive: IoU of a hit.
        background: IoU up to which a detection lies on the background.
    Returns: Kinds, text (D,), and numbers of objects, -1 where the error is of another kind than these two, int (D,).
    """
    same, other = iou * alike, iou * ~alike
    overlap = same.max(1)
    badly = (overlap >= background) & (overlap > 0) & (overlap <= positive)
    misnamed = other.max(1) >= positive
    twice = (same * taken).max(1) >= positive
    nothing = iou.max(1) <= background
    kinds = np.select([badly, misnamed, twice, nothing], [LOCALISATION, CLASS, DUPLICATE, BACKGROUND], BOTH)
    target = np.select([badly, misnamed], [same.argmax(1), other.argmax(1)], -1)
    return kinds, target


def mean_ap(judged: Judged, mended: str) -> float:
    """Return the mean AP with the errors of one kind mended; "" for none.

    A false detection of that kind becomes a hit where it would hit an object that no other one hits, and is taken away
    elsewhere; an object that is missed is taken away.
    """
    category, right = judged.category.copy(), judged.kind == HIT
    counts, objects = ~judged.ignored, judged.objects
    if mended == MISSED:
        objects = objects[~judged.missed]
    elif mended:
        of_kind = judged.kind == mended
        counts = np.where(of_kind, judged.mended >= 0, counts)
        category = np.where(of_kind & (judged.mended >= 0), judged.mended, category)
    rows = np.flatnonzero(counts)
    hits = right | ((judged.kind == mended) & (judged.mended >= 0) if mended else False)
    if mended:  # among equal scores TIDE lists what was an error first
        rows = rows[np.argsort(right[rows], kind="stable")]
    rows = rows[np.argsort(-judged.score[rows], kind="stable")]
    aps = [
        average_precision(hits[rows][category[rows] == k], int((objects == k).sum()))
        for k in np.union1d(category[rows], objects)
    ]
    return float(np.mean(aps)) if aps else 0.0


def average_precision(hits: np.ndarray, objects: int) -> float:
    """Return the mean over 101 recalls of the best precision at that recall or a higher one; 0 without objects.

    hits: Whether each detection, by falling confidence, is right, bool (D,).
    """
    if not objects or not len(hits):
        return 0.0
    found = np.cumsum(hits)
    precision = found / np.arange(1, len(hits) + 1)
    best = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0)
    return float(best[np.searchsorted(found / objects, RECALLS)].mean())
