"""The six kinds of errors and their cost equal TIDE's own program (tidecv 1.0.1) on a set made by hand.

The numbers of tidecv stand here, so that no test needs it; where it is installed, they are computed again.
"""

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from yolo_wnlb.metrics.average_precision import evaluate
from yolo_wnlb.metrics.errors import NAMES, errors

CAR, BUS, CAT, BIRD = 1, 2, 3, 7


def with_mask(box):
    x, y, w, h = map(int, box)
    mask = np.zeros((80, 100), np.uint8)
    mask[y : y + h, x : x + w] = 1
    rle = mask_utils.encode(np.asfortranarray(mask))
    return {"bbox": list(map(float, box)), "segmentation": {**rle, "counts": rle["counts"].decode()}}


def a_set(objects, detections):
    """Make a truth from (picture, class, box, crowd) and predictions from (picture, class, box, score)."""
    annotations = [
        {"id": n, "image_id": i, "category_id": k, "area": box[2] * box[3], "iscrowd": crowd, **with_mask(box)}
        for n, (i, k, box, crowd) in enumerate(objects, 1)
    ]
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 100, "height": 80} for i in (1, 2, 3, 4)]
    categories = [{"id": k, "name": name} for k, name in ((CAR, "car"), (BUS, "bus"), (CAT, "cat"), (BIRD, "bird"))]
    predictions = [{"image_id": i, "category_id": k, "score": s, **with_mask(box)} for i, k, box, s in detections]
    return {"images": images, "categories": categories, "annotations": annotations}, predictions


BY_HAND = a_set(
    [
        (1, CAR, (10, 10, 20, 20), 0),
        (1, BUS, (50, 10, 20, 20), 0),
        (1, CAR, (10, 50, 20, 20), 0),
        (1, CAT, (60, 50, 20, 20), 0),
        (2, CAR, (10, 10, 40, 40), 0),
        (2, BUS, (60, 10, 20, 20), 0),
        (2, CAT, (60, 50, 20, 20), 1),  # a crowd
        (3, CAT, (5, 5, 30, 30), 0),
        (3, CAR, (60, 40, 20, 20), 0),  # missed
        (3, CAR, (60, 10, 20, 20), 0),  # missed
    ],
    [
        (1, CAR, (10, 10, 20, 20), 0.95),  # right
        (1, CAR, (11, 10, 20, 20), 0.90),  # duplicate
        (1, BUS, (64, 10, 20, 20), 0.85),  # localisation: IoU 0.18 with the bus
        (1, BUS, (10, 50, 20, 20), 0.80),  # class: it lies on the third car
        (1, CAT, (45, 50, 20, 20), 0.75),  # localisation: IoU 0.14 with the cat
        (1, CAR, (40, 30, 5, 5), 0.70),  # background
        (2, CAR, (10, 10, 40, 38), 0.65),  # right
        (2, CAR, (30, 10, 40, 40), 0.60),  # localisation: IoU 0.33 with a car that is found
        (2, CAT, (70, 10, 20, 20), 0.55),  # both: IoU 0.33 with a bus
        (2, CAT, (62, 52, 10, 10), 0.50),  # in the crowd: it costs nothing, and counts as background
        (2, BIRD, (85, 60, 10, 10), 0.45),  # background, of a class without objects
        (3, CAT, (5, 5, 30, 28), 0.40),  # right
        (4, BUS, (5, 5, 30, 28), 0.35),  # background: a picture without objects
    ],
)  # the bus of the second picture is missed too; of the other objects that nothing hits, a mended detection would
AP = 0.11881188118811883  # from here on as tidecv 1.0.1 printed them
COUNTS = {"class": 1, "localisation": 3, "both": 1, "duplicate": 1, "background": 4, "missed": 3}
COSTS = {
    "class": 0.037953795379538045,
    "localisation": 0.2929042904290431,
    "both": 0.021039603960396017,
    "duplicate": 0.008250825082508281,
    "background": 0.05060506050605065,
    "missed": 0.04826732673267328,
}


def by_tide(truth, predictions, kind):
    """Return AP, counts and costs of tidecv."""
    tidecv = pytest.importorskip("tidecv", reason="tidecv, the original program, is not installed")
    shape, key = ("box", "bbox") if kind == "bbox" else ("mask", "segmentation")
    objects, detections = tidecv.Data("truth"), tidecv.Data("predictions")
    for image in truth["images"]:
        objects.add_image(image["id"], image["file_name"])
    for a in truth["annotations"]:
        add = objects.add_ignore_region if a["iscrowd"] else objects.add_ground_truth
        add(a["image_id"], a["category_id"], **{shape: a[key]})
    for p in predictions:
        detections.add_detection(p["image_id"], p["category_id"], p["score"], **{shape: p[key]})
    run = tidecv.TIDE(mode=tidecv.TIDE.BOX if kind == "bbox" else tidecv.TIDE.MASK).evaluate(objects, detections)
    words = dict(zip(("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss"), NAMES))
    counts = {words[error.short_name]: n for error, n in run.count_errors().items()}
    return run.ap / 100, counts, {words[e.short_name]: cost / 100 for e, cost in run.fix_main_errors().items()}


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_counts_and_costs_equal_those_of_tide(kind):
    found = errors(*BY_HAND, kind)
    assert found.counts == COUNTS
    assert found.ap == pytest.approx(AP, abs=1e-12)
    assert found.costs == pytest.approx(COSTS, abs=1e-12)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(5))
def test_random_sets_equal_tide_where_it_is_installed(kind, seed):
    rng = np.random.default_rng(seed)

    def box():
        return (*rng.integers(0, 50, 2).tolist(), *rng.integers(6, 30, 2).tolist())

    def near(corner):
        return (*(max(0, v + int(rng.integers(-6, 7))) for v in corner[:2]), *corner[2:])

    objects = [(int(rng.integers(1, 4)), int(rng.integers(1, 4)), box(), int(rng.random() < 0.1)) for _ in range(20)]
    found = [(i, k if rng.random() < 0.7 else BIRD, near(b), rng.random()) for i, k, b, _ in objects * 2]
    found += [(int(rng.integers(1, 5)), CAT, box(), rng.random()) for _ in range(6)]
    truth, predictions = a_set(objects, found)
    ap, counts, costs = by_tide(truth, predictions, kind)
    mine = errors(truth, predictions, kind)
    assert mine.counts == counts
    assert mine.ap == pytest.approx(ap, abs=1e-12)
    assert mine.costs == pytest.approx(costs, abs=1e-12)


def test_the_hand_made_numbers_are_those_of_tide():
    ap, counts, costs = by_tide(*BY_HAND, "segm")
    assert (ap, counts, costs) == (pytest.approx(AP), COUNTS, pytest.approx(COSTS))


def test_the_order_of_predictions_does_not_matter():
    truth, predictions = BY_HAND
    assert errors(truth, predictions[::-1]) == errors(truth, predictions)


def test_without_classes_that_have_no_objects_the_ap_is_that_of_evaluate():
    truth, predictions = BY_HAND
    predictions = [p for p in predictions if p["category_id"] != BIRD]
    assert errors(truth, predictions).ap == pytest.approx(evaluate(truth, predictions).masks["AP50"], abs=1e-12)


CAR_ALONE = [(1, CAR, (10, 10, 20, 20), 0)]


@pytest.mark.parametrize(
    ("objects", "detections", "counts", "ap"),
    [
        ([], [], {}, 0),
        (CAR_ALONE, [], {"missed": 1}, 0),
        ([], [(1, CAR, (10, 10, 20, 20), 0.5)], {"background": 1}, 0),
        (CAR_ALONE, [(1, CAR, (10, 10, 20, 20), 0.5)], {}, 1),
        (CAR_ALONE, [(1, CAR, (10, 20, 20, 20), 0.5)], {"localisation": 1}, 0),  # and so it is not missed
        (CAR_ALONE, [(1, CAR, (60, 40, 20, 20), 0.5)], {"background": 1, "missed": 1}, 0),
        ([(1, CAR, (x, y, 2, 2), 0) for x in range(0, 90, 4) for y in range(0, 70, 4)], [], {"missed": 414}, 0),
    ],
)
def test_edges(objects, detections, counts, ap):
    found = errors(*a_set(objects, detections), "bbox")
    assert {name: n for name, n in found.counts.items() if n} == counts
    assert found.ap == ap
    assert all(0 <= cost <= 1 for cost in found.costs.values())


def test_more_objects_in_a_picture_than_a_byte_counts():
    objects = [(1, CAR, (x, y, 3, 3), 0) for x in range(0, 96, 4) for y in range(0, 76, 4)]
    found = errors(*a_set(objects, [(i, k, box, 0.5) for i, k, box, _ in objects]), "segm", max_detections=1000)
    assert (len(objects), found.ap, sum(found.counts.values())) == (456, 1, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "masks"}, "kind is 'masks'; choose from segm, bbox"),
        ({"positive": 0.05}, "wanted 0 <= background < positive <= 1"),
        ({"background": -0.1}, "wanted 0 <= background < positive <= 1"),
    ],
)
def test_arguments_without_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        errors(*BY_HAND, **changes)


def test_masks_that_are_not_there_are_refused():
    truth, predictions = BY_HAND
    predictions = [{key: value for key, value in p.items() if key != "segmentation"} for p in predictions]
    with pytest.raises(ValueError, match="13 of 13 predictions have no segmentation"):
        errors(truth, predictions)


def test_with_a_background_of_0_a_detection_that_touches_nothing_lies_on_the_background():
    truth, predictions = a_set(
        [(1, CAR, (10, 10, 20, 20), 0), (1, CAR, (50, 10, 20, 20), 0)], [(1, CAR, (80, 50, 10, 10), 0.9)]
    )
    found = [errors(truth, predictions, "bbox", background=share) for share in (0, 0.1)]
    assert found[0] == found[1]
