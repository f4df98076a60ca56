"""COCO's twelve numbers for masks and boxes, from a truth and predictions in COCO terms (`coco.py`).

    truth, predictions -> check -> strongest -> match -> Matches -> precision, recall -> Evaluation

Overlaps come from pycocotools' C code. Who hits what is decided here, by pycocotools' rules and to
its last digit (its own loop is `engine="pycocotools"`): because the loop is what takes its time,
and because the bootstrap needs to know who hit what, which no evaluator of that speed tells.
"""

from __future__ import annotations

import base64
import contextlib
import csv
import io
import itertools
import json
import textwrap
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from yolo_wnlb.data.coco import Prediction, Truth, check, coder, fingerprint
from yolo_wnlb.version import __version__

KINDS = {"segm": "masks", "bbox": "boxes"}
KEYS = {"segm": "segmentation", "bbox": "bbox"}
ENGINES = ("yolo_wnlb", "pycocotools")
THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of IoU
RECALLS = np.linspace(0, 1, 101)
AREAS = ((0, 1e10), (0, 32**2), (32**2, 96**2), (96**2, 1e10))  # all, small, medium, large; square pixels
EVERY = 2 ** len(THRESHOLDS) - 1  # one bit for each threshold
FLOOR = 0.05  # a lowest score above this says that the predictions were cut
HEADER = ("format", "predictions", "categories", "image_list")  # of a predictions file, and not of the protocol
UNSTATED = ("image_size", "confidence_floor", "mask_threshold")  # what a protocol has to say


class Matches(NamedTuple):
    """Which detection hit an object, by threshold of IoU: all that average precision depends on.

    Rows are detections, sorted by class, then by falling score; equal scores by image. Images and
    classes are numbered in the order of their ids.

    Attributes:
        image: Of each detection.
        category: Of each detection.
        rank: Of each detection in its image and class, from 0.
        score: Of each detection.
        hit: Bit t says that it is the one that found some object at threshold t.
        ignored: Bit t says that it counts neither for nor against: it lies in a crowd, or it is
            outside the range of areas and hit nothing in it.
        object_image: Of each object that counts.
        object_category: Of each object that counts.
        images: How many there are.
        classes: How many there are.
    """

    image: np.ndarray
    category: np.ndarray
    rank: np.ndarray
    score: np.ndarray
    hit: np.ndarray
    ignored: np.ndarray
    object_image: np.ndarray
    object_category: np.ndarray
    images: int
    classes: int

    def precision(self, weights: np.ndarray | None = None) -> np.ndarray:
        """Precision at 101 recalls, float (B, T, 101, K); -1 for classes without objects.

        Args:
            weights: How often each image counts, whole numbers (B, images). Default: once, B = 1.
        """
        weights = np.ones((1, self.images), np.int64) if weights is None else weights
        result = -np.ones((len(weights), len(THRESHOLDS), len(RECALLS), self.classes))
        starts = np.searchsorted(self.category, np.arange(self.classes + 1))
        for k in range(self.classes):
            rows = slice(starts[k], starts[k + 1])
            weight = weights[:, self.image[rows]]  # (B, D)
            total = np.cumsum(weight, axis=1)
            objects = weights[:, self.object_image[self.object_category == k]].sum(1)  # (B,)
            for t in range(len(THRESHOLDS)):
                hits = np.flatnonzero(self.hit[rows] >> t & 1)  # only here does recall rise
                ignored = self.ignored[rows] >> t & 1
                counted = np.cumsum(weight * (1 - ignored), axis=1) if ignored.any() else total
                found = np.cumsum(weight[:, hits], axis=1)
                exact = found / (counted[:, hits] + np.spacing(1))
                best = np.maximum.accumulate(exact[:, ::-1], axis=1)[:, ::-1]  # at this recall or a higher one
                best = np.pad(best, ((0, 0), (0, 1)))  # recalls never reached
                for b in np.flatnonzero(objects):
                    result[b, t, :, k] = best[b, np.searchsorted(found[b] / objects[b], RECALLS)]
        return result

    def recall(self, most: int) -> np.ndarray:
        """Recall by the best so many detections of each image and class, (T, K); -1 for classes without objects."""
        objects = np.bincount(self.object_category, minlength=self.classes)
        hits = np.array(
            [
                np.bincount(self.category[(self.rank < most) & (self.hit >> t & 1 > 0)], minlength=self.classes)
                for t in range(len(THRESHOLDS))
            ]
        )
        return np.where(objects, hits / np.maximum(objects, 1), -1.0)


@dataclass
class Evaluation:
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
        matches: By "segm" and "bbox", for the bootstrap.
    """

    masks: dict[str, float]
    boxes: dict[str, float]
    per_class: dict[str, dict[str, dict[str, float]]]
    objects: dict[str, int]
    protocol: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    matches: dict[str, Matches] = field(default_factory=dict, repr=False)

    def numbers(self, kind: str = "segm") -> dict[str, float]:
        """Return the twelve numbers of "segm" or "bbox"."""
        if kind in self.matches:
            return {"segm": self.masks, "bbox": self.boxes}[kind]
        raise ValueError(
            f"{KINDS.get(kind, kind)} were not evaluated, only {', '.join(KINDS[k] for k in self.matches)}"
        )

    def __str__(self) -> str:
        """Return the table, the classes if they are few, the protocol and the notes."""
        names = list(self.masks or self.boxes)
        lines = [f"{'':<18}" + "".join(f"{name:>8}" for name in names)]
        rows = [(KINDS[kind], self.numbers(kind)) for kind in self.matches]
        few = len(self.objects) if 1 < len(self.objects) <= 20 else 0
        kind = next(iter(self.matches), "")
        rows += [(f"{KINDS[kind]}: {name}"[:17], self.per_class[kind][name]) for name in list(self.objects)[:few]]
        for title, numbers in rows:
            lines.append(f"{title:<18}" + "".join(f"{v:>8.4f}" if v > -1 else f"{'-':>8}" for v in numbers.values()))
        facts = {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in self.protocol.items()}
        told = "; ".join(f"{key.replace('_', ' ')} {value}" for key, value in facts.items())
        lines += textwrap.wrap(told, 112)
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

    def to_json(self, path: str | Path) -> None:
        """Write everything, matches included, for `from_json`."""
        content = {**self.__dict__, "matches": {kind: pack(matches) for kind, matches in self.matches.items()}}
        Path(path).write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")

    @classmethod
    def from_json(cls, path: str | Path) -> Evaluation:
        """Read what `to_json` wrote.

        Raises: OSError; ValueError: it is something else.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            content["matches"] = {kind: unpack(matches) for kind, matches in content["matches"].items()}
            return cls(**content)
        except (ValueError, KeyError, TypeError, zlib.error) as error:
            raise ValueError(f"{path} is no evaluation that yolo_wnlb wrote ({error!r}); evaluate again") from error

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
            axes.set_yticks(np.arange(len(names)), names, fontsize=8)
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
    engine: str = "yolo_wnlb",
    protocol: dict[str, Any] | None = None,
) -> Evaluation:
    """Measure predictions against a truth as COCO does; neither is changed.

    Args:
        truth: What `coco.ground_truth` returns, or any COCO truth.
        predictions: COCO results; masks at the size of the image files. None at all is no mistake.
        max_detections: The best so many of each image count, all classes together, for every
            detector alike (COCO itself takes so many of each class). 11 or more.
        iou_types: "segm", "bbox" or both.
        engine: "yolo_wnlb", or "pycocotools" for its own slow loop: the same to the last digit.
        protocol: What made the predictions, the header of their file; it is kept in the result.

    Returns:
        The numbers, and what they rest on. Equal scores are put in order by class and mask, so that
        the order of the predictions says nothing. Whether a detection is small is decided by the
        area of its mask, or of its box for boxes; of an object, by the truth's `area` for both.

    Raises: ValueError: the two do not fit together; see `coco.check`.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine is {engine!r}; choose from {', '.join(ENGINES)}")
    if max_detections < 11:
        raise ValueError(f"max_detections is {max_detections}; wanted 11 or more, for AR10 is among the numbers")
    if not iou_types or set(iou_types) - set(KINDS):
        raise ValueError(f"iou_types is {iou_types!r}; choose from {', '.join(KINDS)}")
    check(truth, predictions, protocol)
    kinds = [kind for kind in KINDS if kind in iou_types]
    for kind, (what, entries) in itertools.product(
        kinds, {"truth": truth["annotations"], "predictions": predictions}.items()
    ):
        if lack := sum(not entry.get(KEYS[kind]) for entry in entries):
            told = f"{lack} of {len(entries)} entries of the {what} have no {KEYS[kind]}"
            raise ValueError(f"{told}; leave the {KINDS[kind]} out with iou_types")

    order = {what: sorted(truth[what], key=lambda entry: entry["id"]) for what in ("images", "categories")}
    images, classes = ({entry["id"]: i for i, entry in enumerate(entries)} for entries in order.values())
    names = [category["name"] for category in order["categories"]]
    kept = strongest(predictions, images, classes, max_detections)
    result = Evaluation({}, {}, {}, {}, {})
    for kind in kinds:
        objects = table(truth["annotations"], images, classes, kind, order["images"])
        detections = table(kept, images, classes, kind, order["images"])
        matches = match(objects, detections, len(images), len(classes))
        if engine == "pycocotools":
            precision, recall = stock(objects, detections, kind, order["images"], len(classes), max_detections)
        else:
            precision = np.stack([m.precision()[0] for m in matches], -1)
            most = [m.recall(max_detections) for m in matches]
            recall = np.stack([matches[0].recall(1), matches[0].recall(10), *most], -1)
        getattr(result, KINDS[kind]).update(twelve(precision, recall, max_detections))
        result.per_class[kind] = {
            name: twelve(precision[:, :, [k]], recall[:, [k]], max_detections) for k, name in enumerate(names)
        }
        result.matches[kind] = matches[0]

    whole = [a for a in truth["annotations"] if not a.get("iscrowd")]
    counts = Counter(a["category_id"] for a in whole)
    result.objects.update({c["name"]: counts[c["id"]] for c in order["categories"]})
    scores = [prediction["score"] for prediction in predictions]
    result.protocol.update(
        {key: value for key, value in (protocol or {}).items() if key not in HEADER},
        **{key: "not stated" for key in UNSTATED if key not in (protocol or {})},
        max_detections=max_detections,
        lowest_score=float(min(scores)) if scores else None,
        engine=f"{engine} {__version__ if engine == 'yolo_wnlb' else version(engine)}",
        overlaps=f"pycocotools {version('pycocotools')}",
        truth=fingerprint(truth),
        images=len(images),
        objects=len(whole),
        crowds=len(truth["annotations"]) - len(whole),
        detections=len(kept),
    )
    result.notes += notes(truth, predictions, max_detections)
    return result


def available(truth: Truth, predictions: Sequence[Prediction]) -> list[str]:
    """List the kinds that all objects and all predictions have: "segm", "bbox"."""
    entries = [*truth["annotations"], *predictions]
    return [kind for kind, key in KEYS.items() if all(entry.get(key) for entry in entries)]


def notes(truth: Truth, predictions: Sequence[Prediction], most: int) -> list[str]:
    """Say what the reader of the numbers has to know."""
    said = truth.get("info", {}).get("notes") if isinstance(truth.get("info"), dict) else None
    found = list(said) if isinstance(said, list) else []
    objects = Counter(a["image_id"] for a in truth["annotations"] if not a.get("iscrowd")).values()
    if crowded := [n for n in objects if n > most]:
        found.append(
            f"{len(crowded)} images hold more than {most} objects (up to {max(crowded)}): nothing can find them all; "
            "max_detections can be raised, for every detector alike"
        )
    beyond = sum(max(n - most, 0) for n in Counter(p["image_id"] for p in predictions).values())
    if beyond:
        found.append(f"{beyond} predictions beyond the best {most} of their image do not count")
    if without := len(truth["images"]) - len({p["image_id"] for p in predictions}):
        found.append(f"nothing was predicted in {without} of {len(truth['images'])} images")
    lowest = min((p["score"] for p in predictions), default=0)
    if lowest > FLOOR:
        found.append(f"no score is below {lowest:.3g}: a list cut so high costs AP; predict with conf=0.001")
    return found


# ---- the two sides -------------------------------------------------------------------------------


class Table(NamedTuple):
    """Objects or detections in columns; images and classes are numbered in the order of their ids."""

    image: np.ndarray
    category: np.ndarray
    area: np.ndarray
    score: np.ndarray
    crowd: np.ndarray
    shapes: list[Any]  # RLEs, or boxes xywh

    def pairs(self) -> dict[tuple[int, int], list[int]]:
        """Return the rows of each image and class, in their order."""
        rows: dict[tuple[int, int], list[int]] = {}
        for row, pair in enumerate(zip(self.image.tolist(), self.category.tolist())):
            rows.setdefault(pair, []).append(row)
        return rows


def strongest(
    predictions: Sequence[Prediction], images: dict[Any, int], classes: dict[Any, int], most: int
) -> list[Prediction]:
    """Return the best of each image, by image, then by falling score; the order of the input says nothing."""

    def place(prediction: Prediction) -> tuple[Any, ...]:
        mask = str(prediction.get("segmentation", {}).get("counts", ""))
        category = classes[prediction["category_id"]]
        return images[prediction["image_id"]], -prediction["score"], category, mask, prediction.get("bbox", [])

    groups = itertools.groupby(sorted(predictions, key=place), key=lambda prediction: prediction["image_id"])
    return [prediction for _, group in groups for prediction in itertools.islice(group, most)]


def table(
    entries: Sequence[dict[str, Any]],
    images: dict[Any, int],
    classes: dict[Any, int],
    kind: str,
    sizes: Sequence[dict[str, Any]],
) -> Table:
    """Put annotations or predictions in columns; outlines and plain run lengths become RLEs."""
    shapes = [entry[KEYS[kind]] for entry in entries]
    image = np.array([images[entry["image_id"]] for entry in entries], int)
    if kind == "segm":
        for row, (shape, i) in enumerate(zip(shapes, image)):
            if isinstance(shape, list) or isinstance(shape["counts"], list):
                rle = coder.frPyObjects(shape, sizes[i]["height"], sizes[i]["width"])
                shapes[row] = coder.merge(rle) if isinstance(rle, list) else rle
        area = [coder.area(shape) for shape in shapes]  # a list of more than 255 fails with NumPy 2
    else:
        area = [box[2] * box[3] for box in shapes]
    return Table(
        image=image,
        category=np.array([classes[entry["category_id"]] for entry in entries], int),
        area=np.array(
            [own if "score" in entry else entry.get("area", own) for entry, own in zip(entries, area)], float
        ),
        score=np.array([entry.get("score", 1) for entry in entries], float),
        crowd=np.array([entry.get("iscrowd", 0) for entry in entries], int),
        shapes=shapes,
    )


# ---- who hits what -------------------------------------------------------------------------------


def match(objects: Table, detections: Table, images: int, classes: int) -> list[Matches]:
    """Decide which detections hit, which count, and which objects do, for each of `AREAS`."""
    low, high = np.array(AREAS).T[..., None]
    skipped = (objects.crowd > 0) | (objects.area < low) | (objects.area > high)  # (A, G)
    outside = (detections.area < low) | (detections.area > high)  # (A, D)
    met, ignored = np.zeros((2, len(AREAS), len(detections.image)), np.int64)
    rank = np.zeros(len(detections.image), np.int64)
    present = objects.pairs()
    for pair, rows in detections.pairs().items():
        rank[rows] = np.arange(len(rows))
        if theirs := present.get(pair):
            crowd = objects.crowd[theirs].tolist()
            overlap = coder.iou([detections.shapes[i] for i in rows], [objects.shapes[i] for i in theirs], crowd)
            for a in range(len(AREAS)):
                met[a, rows], ignored[a, rows] = assign(overlap, crowd, skipped[a, theirs].tolist())
    ignored |= np.where(outside, EVERY & ~met, 0)
    order = np.lexsort((rank, detections.image, -detections.score, detections.category))
    columns = (detections.image[order], detections.category[order], rank[order], detections.score[order])
    return [
        Matches(
            *columns,
            (met[a] & ~ignored[a])[order],
            ignored[a][order],
            objects.image[~skipped[a]],
            objects.category[~skipped[a]],
            images,
            classes,
        )
        for a in range(len(AREAS))
    ]


def assign(overlap: np.ndarray, crowd: list[int], skipped: list[bool]) -> tuple[list[int], list[int]]:
    """Give objects to detections, the best detection first: pycocotools' evaluateImg.

    Args:
        overlap: (D, G), detections by falling score, objects in the order of the file.
        crowd: (G,) where any number of detections may lie.
        skipped: (G,) what does not count: crowds, and objects outside the range of areas.
    Returns: For each detection, bits of the thresholds at which it got an object, and at which the
        object was one that does not count. One that counts goes before one that does not, then the
        larger overlap decides, then the later object.
    """
    met, ignored = [0] * len(overlap), [0] * len(overlap)
    taken: set[tuple[int, int]] = set()
    near = np.nonzero(overlap >= THRESHOLDS[0])
    for d, group in itertools.groupby(zip(*(axis.tolist() for axis in near)), key=lambda pair: pair[0]):
        candidates = [(skipped[g], -float(overlap[d, g]), -g) for _, g in group]
        for t, threshold in enumerate(THRESHOLDS.tolist()):
            for skip, minus, g in sorted(candidates):
                if -minus >= threshold and (crowd[-g] or (t, -g) not in taken):
                    taken.add((t, -g))
                    met[d] |= 1 << t
                    ignored[d] |= skip << t
                    break
    return met, ignored


# ---- the numbers ---------------------------------------------------------------------------------


def twelve(precision: np.ndarray, recall: np.ndarray, most: int) -> dict[str, float]:
    """Reduce precision (T, 101, K, A) and recall (T, K, [1, 10, most, small, medium, large]) to COCO's numbers."""
    parts = {"AP": precision[..., 0], "AP50": precision[0, ..., 0], "AP75": precision[5, ..., 0]}
    parts |= {f"AP{size}": precision[..., a] for a, size in enumerate("sml", 1)}
    parts |= {f"AR{name}": recall[..., i] for i, name in enumerate([1, 10, most, *"sml"])}
    return {name: mean(values) for name, values in parts.items()}


def mean(values: np.ndarray) -> float:
    """Mean over the classes that have objects, -1 if none has."""
    there = values[values > -1]
    return float(there.mean()) if there.size else -1.0


def stock(
    objects: Table, detections: Table, kind: str, sizes: Sequence[dict[str, Any]], classes: int, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """Let pycocotools do all of it; returns precision and recall as `twelve` takes them."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def side(rows: Table) -> Any:
        coco = COCO()
        columns = zip(rows.image, rows.category, rows.area, rows.score, rows.crowd, rows.shapes)
        coco.dataset = {
            "images": [{"id": i, "height": s["height"], "width": s["width"]} for i, s in enumerate(sizes, 1)],
            "categories": [{"id": k} for k in range(1, classes + 1)],
            "annotations": [
                {
                    "id": n,
                    "image_id": i + 1,
                    "category_id": k + 1,
                    "area": area,
                    "score": score,
                    "iscrowd": crowd,
                    KEYS[kind]: shape,
                }
                for n, (i, k, area, score, crowd, shape) in enumerate(columns, 1)
            ],
        }
        coco.createIndex()
        return coco

    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = COCOeval(side(objects), side(detections), kind)
        evaluator.params.maxDets = [1, 10, most]
        evaluator.evaluate()
        evaluator.accumulate()
    recall = evaluator.eval["recall"]  # (T, K, A, M)
    return evaluator.eval["precision"][..., -1], np.concatenate([recall[:, :, 0], recall[:, :, 1:, -1]], -1)


# ---- files ---------------------------------------------------------------------------------------


def pack(matches: Matches) -> dict[str, Any]:
    """Put arrays in texts."""
    return {
        name: [str(value.dtype), base64.b64encode(zlib.compress(value.tobytes())).decode()]
        if isinstance(value, np.ndarray)
        else value
        for name, value in matches._asdict().items()
    }


def unpack(content: dict[str, Any]) -> Matches:
    """Do the reverse of `pack`."""
    values: dict[str, Any] = {k: value if isinstance(value, int) else array(*value) for k, value in content.items()}
    return Matches(**values)


def array(kind: str, text: str) -> Any:
    """Read one array of `pack`."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), kind)
