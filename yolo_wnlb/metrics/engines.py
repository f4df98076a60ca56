"""COCO's matching and its precision and recall, by a library: `hotcoco`, or `pycocotools`, the reference.

Both give the same arrays to the last bit; hotcoco (written in Rust) takes a fortieth of the time. What
is needed beyond the arrays, for the bootstrap, is which detection found an object: both tell it for each
image and class, as lists that take far more memory and time than the matching itself. So they are asked
for it only where there is something to find, and for a limited number of images at once.
"""

from __future__ import annotations

import contextlib
import gc
import io
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from yolo_wnlb.metrics.matches import THRESHOLDS
from yolo_wnlb.words import suggestion

ENGINES = ("hotcoco", "pycocotools")
HOTCOCO = (1, 3)  # the first version whose arrays all equal those of pycocotools
AREAS = [[0.0, 1e10], [0.0, 32.0**2], [32.0**2, 96.0**2], [96.0**2, 1e10]]  # all, small, medium, large; square pixels
KEYS = {"segm": "segmentation", "bbox": "bbox"}
IMAGES_AT_ONCE = 1000  # whose matches are held as lists, some 0.1 MB each


class Objects(NamedTuple):
    """The objects of a truth, in columns; images and classes are numbered from 0 in the order of their ids."""

    image: np.ndarray  # int (G,)
    category: np.ndarray  # int (G,)
    area: np.ndarray  # float (G,), what the truth says; it decides what is small
    crowd: np.ndarray  # bool (G,)
    shapes: list[Any]  # RLEs, or boxes [x, y, width, height]


class Detections(NamedTuple):
    """Detections in columns, sorted by image, then by falling score."""

    image: np.ndarray  # int (D,)
    category: np.ndarray  # int (D,)
    area: np.ndarray  # float (D,), of the mask, or of the box for boxes
    score: np.ndarray  # float (D,)
    shapes: list[Any]  # RLEs, or boxes [x, y, width, height]


class Task(NamedTuple):
    """What an engine is asked."""

    objects: Objects
    detections: Detections  # at most max_detections of an image
    sizes: list[tuple[int, int]]  # height and width of each image
    classes: int
    kind: str  # "segm" or "bbox"
    max_detections: int


class Outcome(NamedTuple):
    """What an engine found."""

    precision: np.ndarray  # (T, 101, K, A): thresholds, recalls, classes, areas; -1 without objects
    recall: np.ndarray  # (T, K, 6): by the best 1, by the best 10, by all; of small, medium, large objects by all
    hit: np.ndarray  # int (D,), bit t: it found an object that counts, at threshold t
    ignored: np.ndarray  # int (D,), bit t: it counts neither for nor against


def choose(engine: str | None) -> str:
    """Return the engine to use: the one asked for, or else hotcoco where it is installed.

    Raises: ValueError: there is none of that name; ImportError: hotcoco is asked for and not there.
    """
    if engine not in (None, *ENGINES):
        raise ValueError(f"engine is {engine!r}{suggestion(engine, ENGINES)}; choose from {', '.join(ENGINES)}")
    if engine == "pycocotools":
        return engine
    try:
        found = version("hotcoco")
    except PackageNotFoundError:
        found = ""
    if tuple(int(part) if part.isdigit() else 0 for part in found.split(".")[:2]) >= HOTCOCO:
        return "hotcoco"
    if engine is None:
        return "pycocotools"
    wanted = ".".join(map(str, HOTCOCO))
    raise ImportError(
        f"engine='hotcoco' needs hotcoco {wanted} or later, found {found or 'none'}; "
        f"install it: pip install 'hotcoco>={wanted}', or leave engine out"
    )


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Keep Python from searching millions of new lists for garbage again and again: ten times the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@no_garbage_collection()
def run(engine: str, task: Task) -> Outcome:
    """Let one of `ENGINES` match detections with objects."""
    evaluate = (hotcoco_evaluator if engine == "hotcoco" else pycocotools_evaluator)(task)
    objects, detections = task.objects, task.detections
    every = np.arange(len(detections.image))
    whole = evaluate(every, AREAS)
    hit, ignored = np.zeros((2, len(every)), np.int64)

    # Where an image holds no object of a detection's class, the detection is a false alarm at every threshold and
    # there is nothing to ask, unless it might be too large to count at all.
    pairs, wanted = (side.image * task.classes + side.category for side in (detections, objects))
    asked = np.isin(pairs, wanted) | (detections.area > AREAS[0][1])
    if engine == "pycocotools" or (len(task.sizes) <= IMAGES_AT_ONCE and 2 * asked.sum() > len(asked)):
        record(whole.entries(), every, hit, ignored)
    else:
        for start in range(0, len(task.sizes), IMAGES_AT_ONCE):
            first, last = np.searchsorted(detections.image, (start, start + IMAGES_AT_ONCE))
            rows = first + np.flatnonzero(asked[first:last])
            if len(rows):
                record(evaluate(rows, AREAS[:1]).entries(), rows, hit, ignored)
    arrays = whole.arrays()
    recall = arrays["recall"]  # (T, K, A, M)
    recall = np.concatenate([recall[:, :, 0], recall[:, :, 1:, -1]], -1)
    return Outcome(arrays["precision"][..., -1], recall, hit, ignored)


class Evaluated(NamedTuple):
    """What was evaluated, of which each part is made when it is asked for."""

    arrays: Callable[[], dict[str, Any]]  # COCO's precision and recall
    entries: Callable[[], Iterable[Any]]  # COCO's evalImgs: what was matched, by image, class and range of areas


Evaluator = Callable[[np.ndarray, list[list[float]]], Evaluated]  # of some rows of the detections, in ranges of areas


def record(entries: Iterable[Any], rows: np.ndarray, hit: np.ndarray, ignored: np.ndarray) -> None:
    """Write into `hit` and `ignored` what the entries for all areas say of the detections in `rows`."""
    used = [entry for entry in entries if entry is not None and len(entry["dtIds"]) and list(entry["aRng"]) == AREAS[0]]
    place = rows[np.fromiter(chain.from_iterable(entry["dtIds"] for entry in used), int) - 1]
    for t in range(len(THRESHOLDS)):
        found, skipped = (
            np.frombuffer(bytes(map(bool, chain.from_iterable(entry[key][t] for entry in used))), np.uint8)
            for key in ("dtMatches", "dtIgnore")
        )
        hit[place] |= (found & (1 - skipped)).astype(np.int64) << t
        ignored[place] |= skipped.astype(np.int64) << t


def dataset(task: Task, objects: Objects) -> dict[str, Any]:
    """Write objects as a COCO data set; images, classes and annotations are numbered from 1."""
    columns = zip(objects.image.tolist(), objects.category.tolist(), objects.area.tolist(), objects.crowd.tolist())
    sizes, key = enumerate(task.sizes, 1), KEYS[task.kind]
    return {
        "images": [{"id": i, "file_name": "", "height": height, "width": width} for i, (height, width) in sizes],
        "categories": [{"id": k, "name": str(k)} for k in range(1, task.classes + 1)],
        "annotations": [
            {"id": n, "image_id": i + 1, "category_id": k + 1, "area": area, "iscrowd": int(crowd), key: shape}
            for n, ((i, k, area, crowd), shape) in enumerate(zip(columns, objects.shapes), 1)
        ],
    }


def hotcoco_evaluator(task: Task) -> Evaluator:
    """Return a function that lets hotcoco evaluate some rows of the detections in some ranges of areas."""
    from hotcoco import COCO, COCOeval

    truth = COCO(dataset(task, task.objects))
    image, category, area, score, shapes = task.detections
    boxes = shapes if task.kind == "bbox" and shapes else np.zeros((len(shapes), 4))
    table = np.column_stack((image + 1, boxes, score, category + 1))

    def evaluate(rows: np.ndarray, areas: list[list[float]]) -> Evaluated:
        masks = {"segmentation": [shapes[row] for row in rows]} if task.kind == "segm" else {}
        results = truth.load_res(table[rows], **masks)
        results.update_anns(ids=np.arange(1, len(rows) + 1), area=area[rows])
        evaluator = COCOeval(truth, results, task.kind)
        evaluator.params.max_dets = [1, 10, task.max_detections]
        evaluator.params.area_rng = areas
        evaluator.params.area_rng_lbl = [str(area) for area in areas]
        evaluator.evaluate()

        def arrays() -> dict[str, Any]:
            evaluator.accumulate()
            return evaluator.eval or {}

        return Evaluated(arrays, lambda: evaluator.eval_imgs)

    return evaluate


def pycocotools_evaluator(task: Task) -> Evaluator:
    """Return a function that lets pycocotools evaluate some rows of the detections in some ranges of areas."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def indexed(content: dict[str, Any]) -> Any:
        coco = COCO()
        coco.dataset = content
        coco.createIndex()
        return coco

    def evaluate(rows: np.ndarray, areas: list[list[float]]) -> Evaluated:
        image, category, area, score, shapes = task.detections
        crowd = np.zeros(len(rows), bool)
        found = Objects(image[rows], category[rows], area[rows], crowd, [shapes[row] for row in rows])
        results = dataset(task, found)
        for entry, value in zip(results["annotations"], score[rows].tolist()):
            entry["score"] = value
        with contextlib.redirect_stdout(io.StringIO()):
            evaluator = COCOeval(indexed(dataset(task, task.objects)), indexed(results), task.kind)
            evaluator.params.maxDets = [1, 10, task.max_detections]
            evaluator.params.areaRng = areas
            evaluator.evaluate()
            evaluator.accumulate()
        return Evaluated(lambda: evaluator.eval, lambda: evaluator.evalImgs)

    return evaluate
