"""COCO's twelve numbers for masks and boxes, from a truth and predictions in COCO terms (`data/coco.py`).

    truth, predictions -> check -> strongest -> engines.run -> precision, recall, Matches -> Evaluation

Who hits what, precision and recall come from a library (`engines.py`). The checks of the input, the limit of
100 detections of an image, the numbers by class and what is kept for the bootstrap are ours.
"""

from __future__ import annotations

import csv
import io
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pycocotools import mask as mask_utils

from yolo_wnlb.data.coco import Prediction, Truth, check, fingerprint
from yolo_wnlb.data.sources import printable
from yolo_wnlb.metrics.engines import AREAS, KEYS, Detections, Objects, Outcome, Task, choose, run
from yolo_wnlb.metrics.matches import Matches, pack, unpack
from yolo_wnlb.metrics.score import Score
from yolo_wnlb.version import __version__
from yolo_wnlb.words import literal, suggestion

KINDS = {"segm": "masks", "bbox": "boxes"}
SLICES = {"AP": slice(None), "AP50": slice(0, 1), "AP75": slice(5, 6)}  # of the thresholds
LEGEND = (  # of the table
    "AP: mean over IoU 0.50 to 0.95, AP50, AP75: at that IoU; AR1, AR10, ...: recall with so many detections an image; "
    "s, m, l: small objects, of less than 32 x 32 pixels, medium, and large ones, of more than 96 x 96"
)
CELLS = 1_000_000  # of an array at once
FLOOR = 0.05  # a lowest score above this says that the predictions were cut
HEADER = ("format", "predictions", "categories", "image_list")  # of a predictions file, and not of the protocol
UNSTATED = ("image_size", "confidence_floor", "mask_threshold")  # what a protocol has to say


@dataclass
class Evaluation(Score):
    """What `evaluate` found; print it for the table.

    Attributes:
        masks: AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm ARl, in [0, 1], -1 where the truth
            has no such object; empty if masks were not evaluated. With another limit than 100
            detections, AR100 is named after it.
        boxes: The same for boxes.
        per_class: The same by class: per_class["segm"]["person"]["AP"], "segm" or "bbox".
        objects: Number of objects of each class, crowds left out.
        protocol: How it was measured, and on what.
        notes: What the reader has to know.
        matches: By "segm" and "bbox", which detection of which image found an object, for the bootstrap.
        file_names: Of the images, in the order of their ids; `matches` numbers images in this order.
    """

    headline: ClassVar[str] = "AP"
    drawable: ClassVar[tuple[str, ...]] = tuple(SLICES)
    comparable: ClassVar[tuple[str, ...]] = ("truth", "max_detections")
    noun: ClassVar[str] = "evaluation"
    format: ClassVar[str] = "yolo_wnlb evaluation 1"

    masks: dict[str, float]
    boxes: dict[str, float]
    per_class: dict[str, dict[str, dict[str, float]]]
    objects: dict[str, int]
    protocol: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    matches: dict[str, Matches] = field(default_factory=dict, repr=False)
    file_names: list[str] = field(default_factory=list, repr=False)

    @property
    def kind(self) -> str:
        """What the headline is of: "segm" where masks were evaluated, else "bbox"."""
        return next(kind for kind in KINDS if kind in self.matches)

    @property
    def images(self) -> int:
        """Number of pictures."""
        return self.matches[self.kind].images

    def numbers(self, kind: str = "") -> dict[str, float]:
        """Return the twelve numbers of "segm" or "bbox". Default: of `kind`.

        Raises: ValueError: they were not evaluated.
        """
        return {"segm": self.masks, "bbox": self.boxes}[self.known(kind)]

    def known(self, kind: str) -> str:
        """Return a kind that was evaluated; `self.kind` for "".

        Raises: ValueError: it was not, or there is no such kind.
        """
        if kind and kind not in KINDS:
            raise ValueError(f"kind is {kind!r}{suggestion(kind, KINDS)}; choose from {', '.join(KINDS)}")
        if kind and kind not in self.matches:
            raise ValueError(f"{KINDS[kind]} were not evaluated, only {', '.join(KINDS[k] for k in self.matches)}")
        return kind or self.kind

    def of_kind(self, kind: str = "") -> Evaluation:
        """Return the evaluation of masks alone ("segm", the default) or of boxes alone ("bbox"); see `Score`."""
        kind = self.known(kind or "segm")
        numbers = {name: getattr(self, name) if name == KINDS[kind] else {} for name in KINDS.values()}
        classes = {name: numbers for name, numbers in self.per_class.items() if name == kind}
        return replace(self, **numbers, per_class=classes, matches={kind: self.matches[kind]})

    def resampled(self, weights: np.ndarray, metric: str = "", kind: str = "") -> np.ndarray:
        """Return AP, AP50 or AP75 with each image counted so often, int (B, images) -> float (B,); see `Score`.

        It equals what `evaluate` returns for as many copies of each image, within 1e-12, for it is summed in another
        order; but for ties: copies of an image that has equal scores in one class come one after the other there.
        """
        thresholds, matches = SLICES[self.metric_named(metric)], self.matches[self.known(kind)]
        widest = np.bincount(matches.category, minlength=1).max()
        batch = max(1, CELLS // max(widest, 1))
        values = []
        for start in range(0, len(weights), batch):
            for precision in matches.average_precision(weights[start : start + batch], thresholds):
                measured = precision[precision > -1]
                values.append(float(measured.mean()) if measured.size else -1.0)
        return np.array(values)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the matches of `kind` without their scores: their order is all that AP depends on. See `Matches`."""
        found = {name: np.asarray(value) for name, value in self.matches[self.kind]._asdict().items()}
        return {
            name: array.astype(np.min_scalar_type(int(array.max(initial=0))))
            for name, array in found.items()
            if name != "score"
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], protocol: dict[str, Any], kind: str = "segm") -> Evaluation:
        """Return an evaluation of these matches without its numbers; see `Score`."""
        columns: dict[str, Any] = {
            name: value.astype(np.int64) if value.ndim else int(value) for name, value in arrays.items()
        }
        matches = Matches(**columns, score=np.zeros(len(columns["image"])))
        return cls({}, {}, {}, {}, protocol, matches={kind: matches})

    def to_content(self) -> dict[str, Any]:
        """Return the fields as JSON holds them, the matches packed; see `Score`."""
        return {**super().to_content(), "matches": {kind: pack(found) for kind, found in self.matches.items()}}

    @classmethod
    def from_content(cls, content: dict[str, Any]) -> Evaluation:
        """Return the evaluation whose `to_content` has been read; see `Score`."""
        if not isinstance(content["matches"], dict) or not content["matches"].keys() <= KINDS.keys():
            raise ValueError(f"its matches are not by {' and '.join(KINDS)}")
        return cls(**{**content, "matches": {kind: unpack(found) for kind, found in content["matches"].items()}})

    def __str__(self) -> str:
        """Return the table, the classes if they are few, what the numbers are, the protocol and the notes."""
        names = list(self.masks or self.boxes)
        lines = [f"{'':<18}" + "".join(f"{name:>8}" for name in names)]
        rows = [(KINDS[kind], self.numbers(kind)) for kind in self.matches]
        few = len(self.objects) if 1 < len(self.objects) <= 20 else 0
        kind = next(iter(self.matches), "")
        for name in list(self.objects)[:few]:
            rows.append((f"{KINDS[kind]}: {printable(name)}"[:17], self.per_class[kind][name]))
        for title, numbers in rows:
            lines.append(f"{title:<18}" + "".join(f"{v:>8.4f}" if v > -1 else f"{'-':>8}" for v in numbers.values()))
        lines += textwrap.wrap(LEGEND, 112)
        facts = {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in self.protocol.items()}
        protocol = "; ".join(f"{key.replace('_', ' ')} {value}" for key, value in facts.items())
        lines += textwrap.wrap(protocol, 112)
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def to_csv(self, path: str | Path) -> None:
        """Write a line for all classes and one for each: name, objects, numbers of masks, of boxes."""
        kinds = list(self.matches)
        names = [
            f"{KINDS[kind][:-1] if kind == 'segm' else 'box'} {name}" for kind in kinds for name in self.numbers(kind)
        ]
        rows: list[list[Any]] = [
            ["all", sum(self.objects.values()), *(v for k in kinds for v in self.numbers(k).values())]
        ]
        for name, objects in self.objects.items():
            rows.append([name, objects, *(v for kind in kinds for v in self.per_class[kind][name].values())])
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([["class", "objects", *names], *rows])
        Path(path).write_text(text.getvalue(), encoding="utf-8")

    def check(self) -> None:
        """Refuse parts of the wrong kind, or that do not hang together; see `Score`."""
        for name, wanted in (("objects", dict), ("protocol", dict), ("per_class", dict), ("notes", list)):
            if not isinstance(getattr(self, name), wanted):
                raise ValueError(f"{name} is no {'list' if wanted is list else 'mapping'}")
        if not isinstance(self.file_names, list) or not all(isinstance(name, str) for name in self.file_names):
            raise ValueError("file_names is no list of texts")
        if missing := [key for key in ("truth", "max_detections", "images") if key not in self.protocol]:
            raise ValueError(f"its protocol lacks {', '.join(missing)}")
        for kind, name in KINDS.items():
            tables = [getattr(self, name)]
            if kind in self.matches:
                classes = self.per_class.get(kind)
                if not isinstance(classes, dict) or classes.keys() != self.objects.keys():
                    raise ValueError(f"per_class is not made of the classes that objects names, for {name}")
                tables += classes.values()
                found = self.matches[kind]
                if found.images != len(self.file_names) or found.classes != len(self.objects):
                    raise ValueError(f"the matches of {name} are of other images or classes than the rest")
            elif tables[0]:
                raise ValueError(f"there are numbers of {name}, and no matches")
            for numbers in tables:
                if not isinstance(numbers, dict) or len(numbers) != (12 if kind in self.matches else 0):
                    raise ValueError(f"the numbers of {name} are not twelve")
                for key, value in numbers.items():
                    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -1 <= value <= 1:
                        raise ValueError(f"{key} of {name} is {value!r}; wanted a number from -1 to 1")

    def plot(self, path: str | Path) -> None:
        """Draw bars: the twelve numbers, and the AP of each class, best first (the 40 best)."""
        from matplotlib.figure import Figure

        kinds = list(self.matches)
        classes = sorted(self.objects, key=lambda name: -self.per_class[kinds[0]][name]["AP"])
        classes = [name for name in classes if self.objects[name]][:40]
        figure = Figure(figsize=(10, max(3.2, 0.24 * len(classes) + 1)), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1, 1))
        for axes, names, values in (
            (left, list(self.numbers(kinds[0])), [list(self.numbers(kind).values()) for kind in kinds]),
            (right, classes, [[self.per_class[kind][name]["AP"] for name in classes] for kind in kinds]),
        ):
            height = 0.8 / len(kinds)
            for i, (kind, row) in enumerate(zip(kinds, values)):
                places = np.arange(len(names)) + (i - (len(kinds) - 1) / 2) * height
                axes.barh(places, np.maximum(row, 0), height, label=KINDS[kind], color=("#3b6ea5", "#b8c4d0")[i])
            axes.set_yticks(np.arange(len(names)), [literal(name) for name in names], fontsize=8)
            axes.invert_yaxis()
            axes.set_xlim(0, 1)
            axes.spines[["top", "right"]].set_visible(False)
        left.set_title("all classes", fontsize=10)
        right.set_title("AP by class", fontsize=10)
        left.legend(frameon=False, fontsize=8)
        figure.savefig(path, dpi=150)


def evaluate(
    truth: Truth,
    predictions: Sequence[Prediction],
    *,
    max_detections: int = 100,
    iou_types: Sequence[str] = ("segm", "bbox"),
    engine: str | None = None,
    protocol: dict[str, Any] | None = None,
) -> Evaluation:
    """Measure predictions against a truth as COCO does; neither is changed.

    Args:
        truth: What `coco.ground_truth` returns, or any COCO truth.
        predictions: COCO results; masks at the size of the image files. None at all is no mistake.
        max_detections: The best so many of each image count, all classes together, for every
            detector alike (COCO itself takes so many of each class). 11 or more.
        iou_types: "segm", "bbox" or both.
        engine: "hotcoco", or "pycocotools", the reference: the same numbers to the last digit, in many times the
            time. Default: hotcoco where it is installed.
        protocol: What made the predictions, the header of their file; it is kept in the result.

    Returns:
        The numbers, and what they rest on. Equal scores are put in order by class and mask, so that the
        order of the predictions does not matter. Whether a detection is small is decided by the area of its
        mask, or of its box for boxes; whether an object is small, by the truth's `area` for both.

    Raises:
        ValueError: the two do not fit together (see `coco.check`), or an argument has no such value.
        ImportError: hotcoco was asked for and is not installed.
    """
    engine = choose(engine)
    if isinstance(max_detections, bool) or not isinstance(max_detections, (int, np.integer)) or max_detections < 11:
        raise ValueError(
            f"max_detections is {max_detections!r}; wanted a whole number, 11 or more, for AR10 is among the numbers"
        )
    if isinstance(iou_types, str) or not iou_types or set(iou_types) - set(KINDS):
        raise ValueError(f"iou_types is {iou_types!r}; wanted a list of one or both of {', '.join(KINDS)}")
    check(truth, predictions, protocol)
    kinds = [kind for kind in KINDS if kind in iou_types]
    for kind in kinds:
        if lack := lacking(truth, predictions, kind):
            raise ValueError(f"{lack}; leave the {KINDS[kind]} out with iou_types")

    images, categories = (sorted(truth[what], key=lambda entry: entry["id"]) for what in ("images", "categories"))
    image_numbers, class_numbers = ({entry["id"]: i for i, entry in enumerate(part)} for part in (images, categories))
    names = [category["name"] for category in categories]
    sizes = [(image["height"], image["width"]) for image in images]
    image, category = columns(predictions, image_numbers, class_numbers)
    scores = np.array([prediction["score"] for prediction in predictions], float)
    kept = strongest(predictions, image, category, scores, max_detections)
    result = Evaluation({}, {}, {}, {}, {}, file_names=[image["file_name"] for image in images])
    for kind in kinds:
        objects = objects_of(truth, *columns(truth["annotations"], image_numbers, class_numbers), kind, sizes)
        shapes = encoded([predictions[row][KEYS[kind]] for row in kept], image[kept], kind, sizes)
        detections = Detections(image[kept], category[kept], areas_of(shapes, kind), scores[kept], shapes)
        outcome = run(engine, Task(objects, detections, sizes, len(names), kind, max_detections))
        getattr(result, KINDS[kind]).update(twelve(outcome.precision, outcome.recall, max_detections))
        result.per_class[kind] = {
            name: twelve(outcome.precision[:, :, [k]], outcome.recall[:, [k]], max_detections)
            for k, name in enumerate(names)
        }
        result.matches[kind] = matches_of(objects, detections, outcome, len(images), len(names))

    whole = Counter(a["category_id"] for a in truth["annotations"] if not a.get("iscrowd"))
    result.objects.update({category["name"]: whole[category["id"]] for category in categories})
    result.protocol.update(
        {key: value for key, value in (protocol or {}).items() if key not in HEADER},
        **{key: "not stated" for key in UNSTATED if key not in (protocol or {})},
        max_detections=int(max_detections),
        lowest_score=float(scores.min()) if len(scores) else None,
        engine=f"{engine} {version(engine)}",
        yolo_wnlb=__version__,
        truth=fingerprint(truth),
        images=len(images),
        objects=whole.total(),
        crowds=len(truth["annotations"]) - whole.total(),
        detections=len(kept),
    )
    result.notes += notes(truth, image, scores, max_detections)
    return result


def lacking(truth: Truth, predictions: Sequence[Prediction], kind: str) -> str:
    """Say how many annotations or predictions have no mask, or no box; "" if all have one."""
    for what, entries in (("annotations", truth["annotations"]), ("predictions", predictions)):
        if lack := sum(not entry.get(KEYS[kind]) for entry in entries):
            return f"{lack} of {len(entries)} {what} have no {KEYS[kind]}"
    return ""


def notes(truth: Truth, image: np.ndarray, scores: np.ndarray, most: int) -> list[str]:
    """List what the reader of the numbers has to know; image and scores are those of all predictions."""
    given = truth.get("info", {}).get("notes") if isinstance(truth.get("info"), dict) else None
    lines = list(given) if isinstance(given, list) else []
    objects = Counter(a["image_id"] for a in truth["annotations"] if not a.get("iscrowd")).values()
    if crowded := [n for n in objects if n > most]:
        lines.append(
            f"{len(crowded)} images hold more than {most} objects (up to {max(crowded)}): nothing can find them all; "
            "max_detections can be raised, for every detector alike"
        )
    predicted = np.bincount(image, minlength=len(truth["images"]))
    if beyond := int(np.maximum(predicted - most, 0).sum()):
        lines.append(f"{beyond} predictions beyond the best {most} of their image do not count")
    if without := int((predicted == 0).sum()):
        lines.append(f"nothing was predicted in {without} of {len(truth['images'])} images")
    if (lowest := scores.min(initial=1)) > FLOOR and len(scores):
        lines.append(f"no score is below {lowest:.3g}: a list cut so high costs AP; predict with conf=0.001")
    return lines


# ---- the two sides -------------------------------------------------------------------------------


def columns(
    entries: Sequence[dict[str, Any]], image_numbers: dict[Any, int], class_numbers: dict[Any, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of the image and of the class of each annotation or prediction."""
    return (
        np.array([image_numbers[entry["image_id"]] for entry in entries], int),
        np.array([class_numbers[entry["category_id"]] for entry in entries], int),
    )


def strongest(
    predictions: Sequence[Prediction], image: np.ndarray, category: np.ndarray, scores: np.ndarray, most: int
) -> np.ndarray:
    """Return the rows of the best predictions of each image, sorted by image, then by falling score.

    Equal scores of an image are put in order by class, mask and box, so that the order of the input does not matter.
    """
    order = np.lexsort((category, -scores, image))
    same = (np.diff([image[order], scores[order], category[order]]) == 0).all(0)
    tied = np.union1d(order[1:][same], order[:-1][same])

    def shape(row: int) -> tuple[str, Any]:
        mask, box = predictions[row].get("segmentation"), predictions[row].get("bbox")
        return str(mask.get("counts") if isinstance(mask, dict) else mask), list(box or [])

    place = np.zeros(len(predictions), int)
    place[sorted(tied.tolist(), key=shape)] = np.arange(len(tied))
    order = np.lexsort((place, category, -scores, image))
    first = np.searchsorted(image[order], image[order])  # where its image begins
    return order[np.arange(len(order)) - first < most]


def objects_of(
    truth: Truth, image: np.ndarray, category: np.ndarray, kind: str, sizes: Sequence[tuple[int, int]]
) -> Objects:
    """Put the annotations of a truth in columns; an area that it does not state is that of the mask or box."""
    entries = truth["annotations"]
    shapes = encoded([entry[KEYS[kind]] for entry in entries], image, kind, sizes)
    own = areas_of(shapes, kind).tolist()
    areas = [entry.get("area", area) for entry, area in zip(entries, own)]
    crowd = np.array([bool(entry.get("iscrowd", 0)) for entry in entries], bool)
    return Objects(image, category, np.array(areas, float), crowd, shapes)


def encoded(shapes: list[Any], image: np.ndarray, kind: str, sizes: Sequence[tuple[int, int]]) -> list[Any]:
    """Turn outlines and plain run lengths into RLEs, as pycocotools does; boxes stay as they are."""
    if kind == "segm":
        for row, shape in enumerate(shapes):
            if isinstance(shape, list) or isinstance(shape["counts"], list):
                rle = mask_utils.frPyObjects(shape, *sizes[image[row]])
                shapes[row] = mask_utils.merge(rle) if isinstance(rle, list) else rle
    return shapes


def areas_of(shapes: Sequence[Any], kind: str) -> np.ndarray:
    """Return the area of each mask or box in square pixels, float (N,)."""
    if kind == "bbox":
        return np.array([width * height for _, _, width, height in shapes], float)
    parts = [mask_utils.area(shapes[i : i + 200]) for i in range(0, len(shapes), 200)]  # it cannot take more than 255
    return np.concatenate([np.zeros(0), *parts])


def matches_of(objects: Objects, detections: Detections, outcome: Outcome, images: int, classes: int) -> Matches:
    """Keep what the bootstrap needs of the outcome."""
    order = np.lexsort((detections.image, -detections.score, detections.category))
    counts = ~objects.crowd & (objects.area >= AREAS[0][0]) & (objects.area <= AREAS[0][1])
    return Matches(
        image=detections.image[order],
        category=detections.category[order],
        score=detections.score[order],
        hit=outcome.hit[order],
        ignored=outcome.ignored[order],
        object_image=objects.image[counts],
        object_category=objects.category[counts],
        images=images,
        classes=classes,
    )


# ---- the numbers ---------------------------------------------------------------------------------


def twelve(precision: np.ndarray, recall: np.ndarray, most: int) -> dict[str, float]:
    """Reduce precision (T, 101, K, A) and recall (T, K, [1, 10, most, small, medium, large]) to COCO's numbers."""
    parts = {"AP": precision[..., 0], "AP50": precision[0, ..., 0], "AP75": precision[5, ..., 0]}
    parts |= {f"AP{size}": precision[..., a] for a, size in enumerate("sml", 1)}
    parts |= {f"AR{name}": recall[..., i] for i, name in enumerate([1, 10, most, *"sml"])}
    return {name: mean(values) for name, values in parts.items()}


def mean(values: np.ndarray) -> float:
    """Mean over the classes that have objects, -1 if none has."""
    measured = values[values > -1]
    return float(measured.mean()) if measured.size else -1.0
