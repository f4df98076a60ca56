"""hotcoco against pycocotools on sets made to be hard: every array and every match alike, to the last bit."""

import sys
from importlib import metadata

import numpy as np
import pytest
from pycocotools import mask as coder

from yolo_wnlb.metrics import engines
from yolo_wnlb.metrics.average_precision import areas_of, evaluate
from yolo_wnlb.metrics.engines import AREAS, Detections, Objects, Task, choose, run

HEIGHT, WIDTH = 150, 200
needs_hotcoco = pytest.mark.skipif(engines.choose(None) != "hotcoco", reason="hotcoco 1.3 is not installed")


def shape(rng):
    """Draw a mask: empty, full, noise, of 32² or 96² pixels exactly or one less, or any rectangle; (H, W)."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    what = rng.integers(10)
    if what == 1:
        return mask + 1
    if what == 2:
        return (rng.random(mask.shape) < rng.random()).astype(np.uint8)
    if what > 2:
        sides = {3: (32, 32), 4: (96, 96), 5: (32, 32)}.get(what) or rng.integers(1, 110, 2)
        y, x = rng.integers(HEIGHT - sides[0]), rng.integers(WIDTH - sides[1])
        mask[y : y + sides[0], x : x + sides[1]] = 1
        if what == 5:
            mask[y, x] = 0
    return mask


def encode(mask):
    rle = coder.encode(np.asfortranarray(mask))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def hard_task(seed, kind):
    """Make a few images with all that is hard.

    Crowds and images of crowds alone, images and classes without objects or detections, equal scores of an image
    and of all, identical shapes, empty masks and boxes without area, areas at the very limits and beyond 10^10,
    and more detections than count.
    """
    rng = np.random.default_rng(seed)
    images, classes = int(rng.integers(1, 8)), int(rng.integers(1, 5))
    share_of_crowds, ties = rng.choice([0, 0.2, 0.6]), rng.integers(3)
    pool = [shape(rng) for _ in range(12)]
    objects, detections = [], []
    for image in range(images):
        mode, mine = rng.integers(7), []
        for _ in range(0 if mode == 0 else rng.integers(12)):
            mask = pool[rng.integers(12)] if rng.random() < 0.4 else shape(rng)
            box = coder.toBbox(encode(mask)).tolist()
            if rng.random() < 0.2:
                box = [[10.0, 10.0, 32.0, 32.0], [10.5, 10.25, 0.0, 5.0], [3.0, 4.0, 96.0, 96.0]][rng.integers(3)]
            limits = [1024, 1023.5, 9216, 9216.0001, 0, 1e10, 2e10]
            area = float(rng.choice(limits)) if rng.random() < 0.15 else float(mask.sum())
            crowd = mode == 1 or rng.random() < share_of_crowds
            mine.append((image, int(rng.integers(classes)), area, crowd, mask, box))
        found = []
        for _ in range(rng.choice([0, 1, 5, 15, 40, 130])):
            category, mask = int(rng.integers(classes)), shape(rng)
            box = coder.toBbox(encode(mask)).tolist()
            if mine and rng.random() < 0.7:
                _, own, _, _, mask, box = mine[rng.integers(len(mine))]
                category = own if rng.random() < 0.85 else category
                if rng.random() < 0.7:
                    dx, dy = rng.integers(-6, 7, 2)
                    mask = np.roll(mask, (dy, dx), (0, 1))
                    box = [box[0] + float(dx), box[1] + float(dy), box[2] * rng.choice([1, rng.random()]), box[3]]
            if rng.random() < 0.02:
                box = [0.0, 0.0, 2e5, 1e5]  # 2·10^10 square pixels
            score = [float(rng.random()), round(float(rng.random()), 1), 0.5][ties]
            found.append((image, category, score, mask, box))
        objects += mine
        detections += sorted(found, key=lambda row: -row[2])
    *columns, masks, boxes = zip(*objects) if objects else [()] * 6
    shapes = list(map(encode, masks)) if kind == "segm" else list(boxes)
    objects = Objects(*(np.array(c, t) for c, t in zip(columns, (int, int, float, bool))), shapes)
    image, category, score, masks, boxes = zip(*detections) if detections else [()] * 5
    shapes = list(map(encode, masks)) if kind == "segm" else list(boxes)
    area = areas_of(shapes, kind)
    detections = Detections(np.array(image, int), np.array(category, int), area, np.array(score, float), shapes)
    most = int(rng.choice([11, 20, 100, 1000]))
    return Task(objects, detections, [(HEIGHT, WIDTH)] * images, classes, kind, most)


def limited(task):
    """Leave the best detections of each image, as `evaluate` does before it asks an engine."""
    image = task.detections.image
    rows = np.flatnonzero(np.arange(len(image)) - np.searchsorted(image, image) < task.max_detections)
    *columns, shapes = task.detections
    return task._replace(detections=Detections(*(c[rows] for c in columns), [shapes[row] for row in rows]))


def entries_of(evaluated):
    """What was matched with what, by image, class and range of areas."""
    keys = ("dtIds", "dtMatches", "dtIgnore", "dtScores", "gtIds", "gtMatches", "gtIgnore")
    return {
        (entry["image_id"], entry["category_id"], *entry["aRng"]): [np.array(entry[k], float).tolist() for k in keys]
        for entry in evaluated.entries()
        if entry is not None
    }


def compare(seeds):
    """Hold both engines against each other: all arrays and matches, and what is made of them."""
    hits = ignored = 0
    for seed in seeds:
        for kind in ("segm", "bbox"):
            task = hard_task(seed, kind)
            every = np.arange(len(task.detections.image))
            stock = engines.pycocotools_evaluator(task)(every, AREAS)
            fast = engines.hotcoco_evaluator(task)(every, AREAS)
            for name in ("precision", "recall", "scores"):
                assert np.array_equal(stock.arrays()[name], fast.arrays()[name]), (seed, kind, name)
            assert entries_of(stock) == entries_of(fast), (seed, kind)
            outcome = run("hotcoco", limited(task))
            for ours, theirs in zip(outcome, run("pycocotools", limited(task))):
                assert np.array_equal(ours, theirs), (seed, kind)
            hits, ignored = hits + outcome.hit.sum(), ignored + outcome.ignored.sum()
    assert hits and ignored


@needs_hotcoco
def test_hotcoco_equals_pycocotools_on_hard_sets():
    compare(range(30))


@needs_hotcoco
@pytest.mark.slow
def test_hotcoco_equals_pycocotools_on_two_hundred_hard_sets():
    compare(range(1000, 1200))


@needs_hotcoco
def test_matches_asked_for_a_few_images_at_a_time_are_those_asked_for_at_once(monkeypatch):
    """Large sets are asked for in parts, and only where an image holds an object of the detection's class."""
    for seed in range(12):
        for kind in ("segm", "bbox"):
            task = limited(hard_task(seed, kind))
            whole = run("hotcoco", task)
            with monkeypatch.context() as patched:
                patched.setattr(engines, "IMAGES_AT_ONCE", 2)
                parts = run("hotcoco", task)
            for once, split in zip(whole, parts):
                assert np.array_equal(once, split)


@needs_hotcoco
def test_hotcoco_says_nothing_and_leaves_the_garbage_collector_as_it_was(capfd):
    import gc

    run("hotcoco", hard_task(0, "segm"))
    assert gc.isenabled() and capfd.readouterr() == ("", "")
    gc.disable()
    try:
        run("hotcoco", hard_task(0, "bbox"))
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest.mark.parametrize("installed", [None, "1.2.1", "0.9", "1.3.0", "2.0rc1"])
def test_hotcoco_is_used_where_a_fit_version_is_installed_and_pycocotools_elsewhere(monkeypatch, installed):
    def version(name):
        if installed is None:
            raise metadata.PackageNotFoundError(name)
        return installed

    monkeypatch.setattr(engines, "version", version)
    assert choose("pycocotools") == "pycocotools"
    if installed in ("1.3.0", "2.0rc1"):
        assert choose(None) == choose("hotcoco") == "hotcoco"
    else:
        assert choose(None) == "pycocotools"
        with pytest.raises(ImportError, match=r"needs hotcoco 1.3 or later, found .*pip install 'hotcoco>=1.3'"):
            choose("hotcoco")
    with pytest.raises(ValueError, match="engine is 'fast'; choose from hotcoco, pycocotools"):
        choose("fast")


def test_evaluate_works_without_hotcoco(monkeypatch):
    monkeypatch.setitem(sys.modules, "hotcoco", None)  # an import of it fails
    monkeypatch.setattr(engines, "version", lambda name: "0")
    box = {"image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 40]}
    truth = {
        "images": [{"id": 1, "file_name": "a.png", "width": 90, "height": 80}],
        "annotations": [{**box, "id": 1, "area": 1200, "iscrowd": 0}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    result = evaluate(truth, [{**box, "score": 0.9}], iou_types=["bbox"])
    assert result.boxes["AP"] == pytest.approx(1) and "pycocotools" in result.protocol["engine"]
    assert result.matches["bbox"].hit.tolist() == [1023]
