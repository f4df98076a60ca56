"""AP@0.5 as TP / (TP + FP + FN), and SEG: how many objects were found and separated, and how well they were outlined.

    COCO results      -> by_score        ─┐
    foreground maps   -> by_probability  ─┴─ label images at a threshold ─ count, with the truth ─> Instances
    choose: the threshold that is best on pictures of another split, for each score by itself

These are the scores of DenoiSeg, of the Cell Tracking Challenge (SEG) and of the Data Science Bowl 2018. AP@0.5 has
little in common with COCO's AP: it is computed at one threshold of the score, and precision and recall are one number.

Sources: Buchholz et al., "DenoiSeg" (ECCV workshops 2020) and its code; for SEG Maška et al., Bioinformatics 30 (2014).
"""

from __future__ import annotations

import csv
import functools
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import cv2
import numpy as np
from pycocotools import mask as mask_utils

from yolo_wnlb.data.coco import Prediction, Truth, check_predictions, fingerprint, to_rle
from yolo_wnlb.data.journal import replaced
from yolo_wnlb.data.validation import check_truth, first, is_number
from yolo_wnlb.metrics.average_precision import HEADER
from yolo_wnlb.metrics.score import Score, check_list
from yolo_wnlb.version import __version__

THRESHOLDS = tuple(round(0.1 + 0.05 * step, 2) for step in range(19))  # 0.1, 0.15 ... 1: DenoiSeg's
TITLE = "AP@0.5 (TP/(TP+FP+FN))"  # in tables: never AP alone, which is COCO's

TUNED = ("AP@0.5", "SEG")  # the numbers that have a threshold each; those that are pooled share it
Labels = Mapping[int, np.ndarray]  # {category id: label image, int (H, W), 0 for the background}
Found = Iterable[tuple[Any, Callable[[float], Labels]]]  # image id, and what is found there at a threshold


class Counts(NamedTuple):
    """What a comparison of two label images finds.

    Attributes:
        tp: Objects that some prediction overlaps with an IoU above 0.5.
        fp: Predictions that overlap no object so well.
        fn: Objects that no prediction overlaps so well.
        seg: Sum, over the objects, of the IoU with the prediction that covers more than half of the object; 0 without
            such a prediction.
    """

    tp: int
    fp: int
    fn: int
    seg: float


@dataclass
class Instances(Score):
    """What `instances` found, one value for each picture; print it for the table.

    Attributes:
        tp: As in `Counts`; of several classes, their sums.
        fp: As in `Counts`.
        fn: As in `Counts`.
        seg: As in `Counts`.
        file_names: Of the pictures, in the order of their ids.
        protocol: How it was measured, and on what.
        notes: What the reader has to know.
    """

    headline: ClassVar[str] = "AP@0.5"
    drawable: ClassVar[tuple[str, ...]] = ("AP@0.5", "SEG", "AP@0.5 pooled", "SEG pooled")
    comparable: ClassVar[tuple[str, ...]] = ("truth",)
    noun: ClassVar[str] = "score of instances"
    format: ClassVar[str] = "yolo_wnlb instances 1"

    tp: list[int]
    fp: list[int]
    fn: list[int]
    seg: list[float]
    file_names: list[str]
    protocol: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def images(self) -> int:
        """Number of pictures."""
        return len(self.tp)

    @property
    def objects(self) -> list[int]:
        """Number of true objects of each picture."""
        return [found + missed for found, missed in zip(self.tp, self.fn)]

    def numbers(self) -> dict[str, float]:
        """Return AP@0.5 and SEG, the means over the pictures that have objects, and both pooled over all objects.

        AP@0.5 of a picture is TP / (TP + FP + FN), SEG the mean over its objects. In [0, 1]; -1 without any object.
        """
        once = np.ones((1, self.images), int)
        return {name: float(self.resampled(once, name)[0]) for name in self.drawable}

    def resampled(self, weights: np.ndarray, metric: str = "") -> np.ndarray:
        """Return one of `numbers` with each picture counted so often, int (B, images) -> float (B,); see `Score`."""
        metric = self.metric_named(metric)
        tp, objects = np.array(self.tp, float), np.array(self.objects, float)
        parts, wholes = (tp, objects + self.fp) if metric.startswith("AP@0.5") else (np.array(self.seg), objects)
        if not metric.endswith("pooled"):
            parts, wholes = np.where(objects > 0, parts / np.maximum(wholes, 1), 0), (objects > 0).astype(float)
        measured = weights @ objects > 0
        return np.where(measured, (weights @ parts) / np.where(measured, weights @ wholes, 1), -1.0)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the four columns."""
        return {name: np.array(getattr(self, name)) for name in Counts._fields}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], protocol: dict[str, Any], kind: str = "") -> Instances:
        """Return the score of the columns, its pictures without names."""
        columns = {name: arrays[name].tolist() for name in Counts._fields}
        return cls(**columns, file_names=[""] * len(columns["tp"]), protocol=protocol)

    def check(self) -> None:
        """Refuse columns of wrong types or lengths; see `Score`."""
        for name in ("tp", "fp", "fn"):
            check_list(name, getattr(self, name), int, "whole numbers")
        check_list("seg", self.seg, float, "numbers")
        for name in ("file_names", "notes"):
            check_list(name, getattr(self, name), str, "texts")
        lengths = {len(getattr(self, name)) for name in (*Counts._fields, "file_names")}
        if len(lengths) > 1 or lengths == {0}:
            raise ValueError(f"its columns are of the lengths {sorted(lengths)}; wanted one length, 1 or more")
        if min(*self.tp, *self.fp, *self.fn, 0) < 0:
            raise ValueError("tp, fp and fn are not all 0 or more")
        if not all(0 <= seg <= objects for seg, objects in zip(self.seg, self.objects)):
            raise ValueError("seg is not from 0 to the number of objects in every picture")
        if not isinstance(self.protocol, dict):
            raise ValueError("protocol is no mapping")

    def __str__(self) -> str:
        """Return the numbers, what they are made of, the protocol and the notes."""
        named = {TITLE if name == self.headline else name: value for name, value in self.numbers().items()}
        lines = [f"{name:<28}{value:.4f}" if value >= 0 else f"{name:<28}-" for name, value in named.items()]
        lines.append(
            f"{sum(self.tp)} hits, {sum(self.fp)} false alarms, {sum(self.fn)} misses in {self.images} pictures"
        )
        protocol = "; ".join(f"{key.replace('_', ' ')} {value}" for key, value in self.protocol.items())
        return "\n".join([*lines, *textwrap.wrap(protocol, 112), *(f"note: {note}" for note in self.notes)])

    def to_csv(self, path: str | Path) -> None:
        """Write a line for each picture: file_name, tp, fp, fn, seg."""
        with replaced(Path(path)) as draft, draft.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["file_name", *Counts._fields])
            writer.writerows(zip(self.file_names, self.tp, self.fp, self.fn, self.seg))


def instances(
    truth: Truth,
    found: Found,
    threshold: float | Mapping[str, float] = 0.5,
    *,
    protocol: Mapping[str, Any] | None = None,
) -> Instances:
    """Score what was found in the pictures of a truth.

    Args:
        truth: What `coco.ground_truth` returns; each object has a mask. Masks that overlap are painted, the smaller
            over the larger. A prediction without a hit that lies mostly in a crowd counts neither for nor against.
        found: What `by_score` or `by_probability` returns, with each picture of the truth once.
        threshold: Of the score or the probability, from 0 to 1; or one for "AP@0.5" and one for "SEG", as `choose`
            returns them.
        protocol: What made the predictions; it is kept in the result.
    Raises: ValueError: a threshold is out of range; an object has no mask; pictures or their sizes differ.
    """
    both = dict(threshold) if isinstance(threshold, Mapping) else dict.fromkeys(TUNED, threshold)
    if both.keys() != {*TUNED}:
        raise ValueError(f"threshold is {threshold!r}; wanted a number, or one for AP@0.5 and one for SEG")
    for_ap, for_seg = counted(truth, found, [both[name] for name in TUNED])
    images = in_order(truth)
    objects = sum(not annotation.get("iscrowd") for annotation in truth["annotations"])
    result = Instances(
        tp=[counts.tp for counts in for_ap],
        fp=[counts.fp for counts in for_ap],
        fn=[counts.fn for counts in for_ap],
        seg=[counts.seg for counts in for_seg],
        file_names=[image["file_name"] for image in images],
        protocol={
            **{key: value for key, value in (protocol or {}).items() if key not in HEADER},
            **{f"threshold of {name}": float(value) for name, value in both.items()},
            "yolo_wnlb": __version__,
            "truth": fingerprint(truth),
            "images": len(images),
            "objects": objects,
        },
    )
    if hidden := objects - sum(result.objects):
        result.notes.append(
            f"{hidden} of {objects} objects have no pixel, or lie wholly under others: they do not count"
        )
    if empty := result.objects.count(0):
        result.notes.append(
            f"{empty} of {len(images)} pictures have no object: the means over pictures leave them out, the pooled "
            "numbers count their false alarms"
        )
    return result


def choose(truth: Truth, found: Found, thresholds: Sequence[float] = THRESHOLDS) -> dict[str, float]:
    """Choose the threshold at which the mean over the pictures is highest, for AP@0.5 and for SEG: {name: threshold}.

    Take pictures that the model is not judged by, or the score is too good. Of equal thresholds the first is taken.

    Args:
        truth: Of the pictures to choose by.
        found: As `instances` takes it.
        thresholds: To choose from.
    Raises: ValueError: as `instances`; there is no object to choose by.
    """
    columns = [np.array(column, float).T for column in counted(truth, found, thresholds)]  # 4 x images each
    objects = columns[0][0] + columns[0][2]
    if not (has := objects > 0).any():
        raise ValueError("there is no object in the pictures that the threshold is to be chosen by; give another split")
    ap = [(tp / np.maximum(tp + fp + fn, 1))[has].mean() for tp, fp, fn, _ in columns]
    seg = [(seg[has] / objects[has]).mean() for _, _, _, seg in columns]
    return {"AP@0.5": float(thresholds[int(np.argmax(ap))]), "SEG": float(thresholds[int(np.argmax(seg))])}


# ---- what was found, as label images -------------------------------------------------------------


def by_score(truth: Truth, predictions: Sequence[Prediction]) -> Iterator[tuple[Any, Callable[[float], Labels]]]:
    """Yield the label images of COCO results: those whose score is the threshold or more, the better over the worse.

    Raises: ValueError: predictions do not fit the truth, or one has no mask.
    """
    check_predictions(truth, predictions)
    if lacking := sum(not prediction.get("segmentation") for prediction in predictions):
        raise ValueError(f"{lacking} of {len(predictions)} predictions have no mask; instances are scored by masks")
    by_image: dict[Any, list[Prediction]] = {image["id"]: [] for image in truth["images"]}
    for prediction in predictions:
        by_image[prediction["image_id"]].append(prediction)
    for image in truth["images"]:
        yield image["id"], layers(by_image[image["id"]], image["height"], image["width"])


def layers(predictions: Sequence[Prediction], height: int, width: int) -> Callable[[float], Labels]:
    """Paint the masks of a picture, and return the function that takes away those below a threshold.

    What is painted last has the best score, so those that go uncover nothing that they had covered.
    """
    ordered = sorted(predictions, key=lambda prediction: prediction["score"])
    scores = np.array([prediction["score"] for prediction in ordered])
    painted: dict[int, np.ndarray] = {}
    for number, prediction in enumerate(ordered, 1):
        image = painted.setdefault(prediction["category_id"], np.zeros((height, width), np.int32))
        image[mask_of(prediction["segmentation"], height, width)] = number

    def at(threshold: float) -> Labels:
        below = int(np.searchsorted(scores, threshold))
        return {category: np.where(image > below, image, 0) for category, image in painted.items()}

    return at


def by_probability(
    maps: Iterable[tuple[Any, np.ndarray]], category_id: int
) -> Iterator[tuple[Any, Callable[[float], Labels]]]:
    """Yield the label images of foreground maps: the connected regions whose probability is above the threshold.

    Args:
        maps: Image id and map, float (H, W) in [0, 1], of each picture.
        category_id: The class of all that is found.
    Raises: ValueError: a map is of another shape, or holds what is no probability.
    """
    for image_id, probability in maps:
        if probability.ndim != 2 or not (probability.min(initial=0) >= 0 and probability.max(initial=0) <= 1):
            raise ValueError(
                f"image {image_id}: the map of the foreground has the shape {probability.shape} and values from "
                f"{probability.min(initial=0)} to {probability.max(initial=0)}; wanted (H, W) and 0 to 1"
            )
        yield image_id, functools.partial(regions, probability, category_id)


def regions(probability: np.ndarray, category_id: int, threshold: float) -> Labels:
    """Return the connected regions of a foreground map as objects of a class."""
    return {category_id: components(probability, threshold)}


def components(probability: np.ndarray, threshold: float) -> np.ndarray:
    """Label the connected regions of a foreground map, int32 (H, W): 0 for the background, then 1, 2 ...

    Args:
        probability: Float (H, W).
        threshold: Foreground is what is above it. Pixels that touch at a corner alone are not connected, as in
            DenoiSeg's code (SciPy's default).
    """
    return cv2.connectedComponents((probability > threshold).astype(np.uint8), connectivity=4, ltype=cv2.CV_32S)[1]


def label_image(annotations: Sequence[Mapping[str, Any]], height: int, width: int) -> np.ndarray:
    """Paint the objects of a picture, the smaller over the larger: int32 (H, W), object i of the list is i + 1.

    Crowds are left out. All have a mask, see `check_masks`.
    """
    image = np.zeros((height, width), np.int32)
    masks = {
        number: mask_of(annotation["segmentation"], height, width)
        for number, annotation in enumerate(annotations, 1)
        if not annotation.get("iscrowd")
    }
    for number in sorted(masks, key=lambda number: -np.count_nonzero(masks[number])):
        image[masks[number]] = number
    return image


def check_masks(truth: Truth, place: str = "the truth") -> None:
    """Refuse a truth some of whose objects have no mask.

    Raises: ValueError: says how many, and the place.
    """
    objects = truth["annotations"]
    if lacking := [entry for entry in objects if not entry.get("segmentation")]:
        raise ValueError(
            f"{place}: {len(lacking)} of {len(objects)} objects have no mask (first: object {lacking[0].get('id')}), "
            "and instances are scored by masks; label outlines, or write a COCO JSON"
        )


def mask_of(segmentation: Any, height: int, width: int) -> np.ndarray:
    """Decode outlines or run lengths: bool (H, W)."""
    return mask_utils.decode(to_rle(segmentation, height, width)).astype(bool)


# ---- counting ------------------------------------------------------------------------------------


def count(true: np.ndarray, predicted: np.ndarray, crowd: np.ndarray | None = None) -> Counts:
    """Compare two label images, int (H, W), 0 for the background; labels need not follow each other.

    A hit has an IoU above 0.5. As the labels of an image do not overlap, no object can have two, and none two objects.
    `stardist.matching` takes 0.5 itself for a hit too: of an object that is cut into equal halves, it finds one.

    Args:
        true: The objects.
        predicted: What was found.
        crowd: Where nobody counted, bool (H, W). A prediction without a hit that lies there with more than half of its
            pixels is no false alarm. Default: nowhere.
    """
    area, found = np.bincount(true.ravel()), np.bincount(predicted.ravel())
    both = (true > 0) & (predicted > 0)
    codes, overlap = np.unique(true[both].astype(np.int64) * len(found) + predicted[both], return_counts=True)
    objects, predictions = np.divmod(codes, len(found))
    union = area[objects] + found[predictions] - overlap
    hit = 2 * overlap > union
    covered = 2 * overlap > area[objects]
    tp, fn = int(hit.sum()), int(np.count_nonzero(area[1:]) - hit.sum())
    alarms = found > 0
    alarms[0], alarms[predictions[hit]] = False, False
    if crowd is not None:
        alarms &= 2 * np.bincount(predicted[crowd], minlength=len(found)) <= found
    return Counts(tp, int(alarms.sum()), fn, float((overlap[covered] / union[covered]).sum()))


def counted(truth: Truth, found: Found, thresholds: Sequence[float]) -> list[list[Counts]]:
    """Count hits and misses at each threshold in each picture, in the order of the ids: thresholds x images.

    Raises: ValueError: see `instances`.
    """
    for threshold in thresholds:
        if not is_number(threshold) or not 0 <= threshold <= 1:
            raise ValueError(f"threshold is {threshold!r}; wanted a number from 0 to 1")
    check_truth(truth)
    check_masks(truth)
    images = {image["id"]: image for image in truth["images"]}
    annotations: dict[Any, dict[int, list[Any]]] = {image_id: {} for image_id in images}
    for annotation in truth["annotations"]:
        annotations[annotation["image_id"]].setdefault(annotation["category_id"], []).append(annotation)
    counts: dict[Any, list[Counts]] = {}
    for image_id, at in found:
        if image_id not in images or image_id in counts:
            why = "is not in the truth" if image_id not in images else "was given twice"
            raise ValueError(f"image {image_id} {why}; wanted each picture of the truth once")
        height, width = images[image_id]["height"], images[image_id]["width"]
        objects = annotations[image_id]
        true = {category: label_image(entries, height, width) for category, entries in objects.items()}
        crowds = {category: crowd_of(entries, height, width) for category, entries in objects.items()}
        nothing = np.zeros((height, width), np.int32)
        counts[image_id] = []
        for threshold in thresholds:
            labels = at(threshold)
            if other := [image.shape for image in labels.values() if image.shape != (height, width)]:
                raise ValueError(f"image {image_id} is {(height, width)} in the truth, and what was found {other[0]}")
            each = [
                count(true.get(category, nothing), labels.get(category, nothing), crowds.get(category))
                for category in {**true, **labels}
            ]
            counts[image_id].append(Counts(*map(sum, zip(*each))) if each else Counts(0, 0, 0, 0.0))
    if lacking := [image["file_name"] for image in truth["images"] if image["id"] not in counts]:
        raise ValueError(f"nothing was given for {len(lacking)} of {len(images)} pictures: {first(lacking)}")
    return [list(column) for column in zip(*(counts[image["id"]] for image in in_order(truth)))]


def crowd_of(annotations: Sequence[Mapping[str, Any]], height: int, width: int) -> np.ndarray | None:
    """Return where the crowds of a picture are, bool (H, W); None without any."""
    masks = [mask_of(entry["segmentation"], height, width) for entry in annotations if entry.get("iscrowd")]
    return np.logical_or.reduce(masks) if masks else None


def in_order(truth: Truth) -> list[dict[str, Any]]:
    """Return the pictures of a truth in the order of their ids."""
    return sorted(truth["images"], key=lambda image: image["id"])
