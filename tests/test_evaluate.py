"""COCO's numbers: those of pycocotools called by hand, to the last digit, and what they must not depend on."""

import contextlib
import copy
import io
import json
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from pycocotools import mask as coder
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from yolo_wnlb.cli import main
from yolo_wnlb.data import coco
from yolo_wnlb.metrics.average_precision import KINDS, Evaluation, evaluate
from yolo_wnlb.metrics.bootstrap import draws, paired_bootstrap
from yolo_wnlb.metrics.engines import choose
from yolo_wnlb.metrics.matches import Matches

SHARED = Path(__file__).parents[2] / "shared" / "data"
HEIGHT, WIDTH = 160, 240


def blob(rng, height=HEIGHT, width=WIDTH):
    """An ellipse, uint8 (H, W), of anything from a few pixels to a third of the image."""
    mask = np.zeros((height, width), np.uint8)
    centre, axes = rng.integers((0, 0), (width, height)), np.exp(rng.uniform(0.5, 4.6, 2)).astype(int)
    return cv2.ellipse(mask, centre.tolist(), axes.tolist(), rng.uniform(0, 360), 0, 360, 1, -1) if axes.all() else mask


def entry(mask, image, category, **more):
    """An object or a detection."""
    [rle] = coco.encode(mask[None])
    box = [float(v) for v in coder.toBbox(rle)]
    return {"image_id": image, "category_id": category, "segmentation": rle, "bbox": box, **more}


def detected(truth, rng, ties=False):
    """Predictions from a truth: objects moved and worn, found twice or not at all, and false alarms."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    categories = [category["id"] for category in truth["categories"]]
    found = []
    for image, (height, width) in sizes.items():
        objects = [a for a in truth["annotations"] if a["image_id"] == image][:60]
        for a in objects:
            shape = a["segmentation"]
            if isinstance(shape, list) or isinstance(shape["counts"], list):
                shape = coder.frPyObjects(shape, height, width)
            mask = coder.decode(coder.merge(shape) if isinstance(shape, list) else shape)
            for _ in range(rng.choice([0, 1, 1, 2])):
                moved = cv2.warpAffine(mask, np.c_[np.eye(2), rng.integers(-2, 3, 2)], (width, height))
                moved = cv2.dilate(moved, np.ones((3, 3), np.uint8)) if rng.random() < 0.3 else moved
                category = a["category_id"] if rng.random() < 0.9 else int(rng.choice(categories))
                found.append(entry(moved, image, category, score=float(rng.beta(2, 2))))
        for _ in range(rng.integers(0, 4)):
            found.append(
                entry(blob(rng, height, width), image, int(rng.choice(categories)), score=float(rng.beta(1, 3)))
            )
    if ties:
        found = [{**prediction, "score": round(prediction["score"], 1)} for prediction in found]
    return found


@pytest.fixture(scope="module")
def generated():
    """A truth of 14 images and 3 classes with crowds, and predictions."""
    rng = np.random.default_rng(0)
    images = [{"id": 10 * i + 7, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH} for i in range(14)]
    annotations = []
    for image in images[1:]:
        for _ in range(rng.integers(0, 9)):
            mask, crowd = blob(rng), int(rng.random() < 0.15)
            more = {"id": len(annotations) + 1, "iscrowd": crowd, "area": float(mask.sum())}
            annotations.append(entry(mask, image["id"], int(rng.integers(1, 4)), **more))
    categories = [{"id": k, "name": name} for k, name in enumerate(("cat", "dog", "owl"), 1)]
    truth = {"images": images, "annotations": annotations, "categories": categories}
    return truth, detected(truth, rng)


@pytest.fixture(scope="module", params=["generated", "coco-subset", "dsb2018"])
def case(request, generated):
    """A truth and predictions without equal scores."""
    if request.param == "generated":
        return generated
    file = SHARED / request.param / "annotations" / "instances_val.json"
    if not file.is_file():
        pytest.skip(f"no {request.param} here")
    truth = coco.ground_truth(file)
    few = {image["id"] for image in truth["images"][:: 2 if request.param == "coco-subset" else 4]}
    truth["images"] = [image for image in truth["images"] if image["id"] in few]
    truth["annotations"] = [a for a in truth["annotations"] if a["image_id"] in few]
    return truth, detected(truth, np.random.default_rng(1))


def by_hand(truth, predictions, kind, most=100):
    """The twelve numbers as the manual of pycocotools gets them."""
    keep = {"segm": "segmentation", "bbox": "bbox"}[kind]  # both, and it takes the box's area for the mask's
    keys = ("image_id", "category_id", "score", keep)
    with contextlib.redirect_stdout(io.StringIO()):
        side = COCO()
        side.dataset = copy.deepcopy(truth)
        side.createIndex()
        results = side.loadRes([{key: copy.deepcopy(p[key]) for key in keys} for p in predictions])
        evaluator = COCOeval(side, results, kind)
        evaluator.params.maxDets = [1, 10, most]
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return [float(value) for value in evaluator.stats], evaluator


def numbers(evaluation):
    """All 24 of them."""
    return [*evaluation.masks.values(), *evaluation.boxes.values()]


# ---- the numbers ---------------------------------------------------------------------------------


def test_all_twelve_numbers_are_those_of_pycocotools_called_by_hand(case):
    truth, predictions = case
    result = evaluate(truth, predictions)
    for kind in KINDS:
        stats, evaluator = by_hand(truth, predictions, kind)
        assert list(result.numbers(kind).values()) == stats, kind  # to the last digit
        assert 0.05 < stats[0] < 0.95
        precision = evaluator.eval["precision"][:, :, :, 0, -1]
        for k, category in enumerate(sorted(truth["categories"], key=lambda c: c["id"])):
            values = precision[:, :, k][precision[:, :, k] > -1]
            assert result.per_class[kind][category["name"]]["AP"] == (values.mean() if values.size else -1)
    assert result.notes == [] or "beyond" not in result.notes[0]


@pytest.mark.parametrize("ties", [False, True])
def test_whichever_engine_is_installed_agrees_with_pycocotools(generated, ties):
    truth, _ = generated
    predictions = detected(truth, np.random.default_rng(3), ties)
    default, stock = evaluate(truth, predictions), evaluate(truth, predictions, engine="pycocotools")
    assert numbers(default) == numbers(stock) and default.per_class == stock.per_class
    for kind in KINDS:
        assert all(np.array_equal(a, b) for a, b in zip(default.matches[kind], stock.matches[kind]))
    assert choose(None) in default.protocol["engine"] and "pycocotools" in stock.protocol["engine"]


def test_perfect_predictions_give_exactly_one(case):
    truth, _ = case
    rng = np.random.default_rng(0)
    whole = [a for a in truth["annotations"] if not a.get("iscrowd")]
    several = {k for k in {a["category_id"] for a in whole} if sum(a["category_id"] == k for a in whole) > 1}
    whole = [a for a in whole if a["category_id"] in several]  # 1 / (1 + eps), what COCO gives for one, is not 1
    truth = {**truth, "annotations": [a for a in truth["annotations"] if a in whole or a.get("iscrowd")]}
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    predictions = []
    for a in whole:
        shape = a["segmentation"]
        rle = coder.merge(coder.frPyObjects(shape, *sizes[a["image_id"]])) if isinstance(shape, list) else shape
        counts = rle["counts"] if isinstance(rle["counts"], str) else rle["counts"].decode()
        rle = {"size": list(sizes[a["image_id"]]), "counts": counts}
        box = {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"]}
        predictions.append({**box, "segmentation": rle, "score": float(rng.random())})
    result = evaluate(truth, predictions, max_detections=1000)
    for kind in KINDS:
        found = result.numbers(kind)
        assert [found[name] for name in ("AP", "AP50", "AP75", "AR1000")] == [1, 1, 1, 1], kind


def test_the_order_of_images_and_detections_says_nothing(generated):
    truth, _ = generated
    predictions = detected(truth, np.random.default_rng(4), ties=True)
    first = evaluate(truth, predictions)
    rng = np.random.default_rng(5)
    for _ in range(3):
        shuffled = [predictions[i] for i in rng.permutation(len(predictions))]
        images = [truth["images"][i] for i in rng.permutation(len(truth["images"]))]
        again = evaluate({**truth, "images": images}, shuffled)
        assert numbers(again) == numbers(first) and again.protocol == first.protocol
        assert all((a == b).all() for a, b in zip(again.matches["segm"][:7], first.matches["segm"][:7]))


def test_nothing_given_is_changed_and_the_second_time_is_like_the_first(generated):
    truth, predictions = generated
    before = copy.deepcopy(generated)
    first, second = (evaluate(truth, predictions, engine=engine) for engine in (None, "pycocotools"))
    assert (truth, predictions) == before
    assert numbers(first) == numbers(second)


def test_no_predictions_give_zeros_and_no_objects_minus_one(generated):
    truth, predictions = generated
    for engine in (None, "pycocotools"):
        nothing = evaluate(truth, [], engine=engine)
        assert numbers(nothing) == [0.0] * 24  # pycocotools' loadRes ends with IndexError
        blank = evaluate({**truth, "annotations": []}, predictions, engine=engine)
        assert numbers(blank) == [-1.0] * 24
        assert numbers(evaluate({**truth, "annotations": []}, [], engine=engine)) == [-1.0] * 24
    assert blank.protocol["objects"] == 0 and "-" in str(blank)


def test_only_the_best_hundred_of_an_image_count_whatever_their_class(generated):
    """COCO's own limit is for each class: there a hit after 150 false alarms of others still gives AP 1."""
    truth, _ = generated
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[10:60, 10:60] = 1
    image = truth["images"][0]["id"]
    objects = [entry(mask, image, 1, id=1, iscrowd=0, area=2500.0)]
    hit, *alarms = [entry(mask, image, 2, score=0.9 - i / 1000) for i in range(151)]
    hit.update(category_id=1, score=0.1)
    truth = {**truth, "annotations": objects}
    assert by_hand(truth, [hit, *alarms], "segm")[0][0] == pytest.approx(1)
    result = evaluate(truth, [hit, *alarms])
    assert result.masks["AP"] == 0 and result.protocol["detections"] == 100
    assert "51 predictions beyond the best 100" in result.notes[0]
    assert evaluate(truth, [hit, *alarms[:99]]).masks["AP"] == pytest.approx(1)
    assert evaluate(truth, [hit, *alarms], max_detections=151).masks["AP"] == pytest.approx(1)


def test_a_mask_is_small_by_its_own_area_and_an_object_by_that_of_the_truth(generated):
    truth, _ = generated
    cross = np.zeros((HEIGHT, WIDTH), np.uint8)
    cross[50:54, 20:90] = cross[20:90, 50:54] = 1  # 544 pixels in a box of 4900
    image, other = (image["id"] for image in truth["images"][:2])
    objects = [entry(cross, image, 1, id=1, iscrowd=0, area=544.0)]
    false = entry(cross, other, 1, score=0.9)
    predictions = [entry(cross, image, 1, score=0.5), false]
    small = evaluate({**truth, "annotations": objects}, predictions)
    assert small.masks["APs"] == pytest.approx(0.5) and small.masks["APm"] == -1
    assert small.boxes["APs"] == pytest.approx(1)  # the box of the false alarm is not small
    kept = evaluate({**truth, "annotations": [{**objects[0], "area": 2000.0}]}, predictions)
    assert kept.masks["APs"] == -1 and kept.masks["APm"] == pytest.approx(1)


def test_every_image_of_the_truth_counts(generated):
    truth, predictions = generated
    empty = truth["images"][0]["id"]  # without objects
    alarm = entry(blob(np.random.default_rng(9)) | 1, empty, 1, score=1.0)
    assert evaluate(truth, [*predictions, alarm]).masks["AP"] < evaluate(truth, predictions).masks["AP"]
    full = truth["annotations"][0]["image_id"]
    missed = evaluate(truth, [p for p in predictions if p["image_id"] != full])
    assert missed.masks["AR100"] < evaluate(truth, predictions).masks["AR100"]


def test_annotation_ids_and_missing_fields_do_no_harm(generated):
    """pycocotools takes an object with the id 0 for none, and wants iscrowd and area."""
    truth, predictions = generated
    whole = [a for a in truth["annotations"] if not a["iscrowd"]]
    keys = ("image_id", "category_id", "segmentation", "bbox")
    predictions = [*predictions, {**{k: whole[0][k] for k in keys}, "score": 0.999}]
    plain = evaluate({**truth, "annotations": whole}, predictions)
    bare = [{k: a[k] for k in keys} for a in whole]
    assert evaluate({**truth, "annotations": bare}, predictions).masks == plain.masks
    zero = [{**a, "id": i} for i, a in enumerate(whole)]
    assert numbers(evaluate({**truth, "annotations": zero}, predictions)) == numbers(plain)
    assert by_hand({**truth, "annotations": zero}, predictions, "segm")[0] != list(plain.masks.values())


def test_outlines_and_plain_run_lengths_are_masks_too(generated):
    truth, predictions = generated
    square = np.zeros((HEIGHT, WIDTH), np.uint8)
    square[20:40, 30:80] = 1
    image = truth["images"][0]["id"]
    results = []
    for shape in (
        [[30, 20, 80, 20, 80, 40, 30, 40]],
        {
            "size": [HEIGHT, WIDTH],
            "counts": [30 * HEIGHT + 20, *[20, HEIGHT - 20] * 49, 20, (WIDTH - 79) * HEIGHT - 40],
        },
        entry(square, image, 1)["segmentation"],
    ):
        one = {"id": 1, "image_id": image, "category_id": 1, "segmentation": shape, "bbox": [30, 20, 50, 20]}
        given = {**truth, "annotations": [*truth["annotations"], {**one, "id": 999, "iscrowd": 0}]}
        results.append(numbers(evaluate(given, [*predictions, entry(square, image, 1, score=0.77)])))
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "fast"}, "engine is 'fast'; choose from hotcoco, pycocotools"),
        ({"max_detections": 10}, "max_detections is 10; wanted a whole number, 11 or more"),
        ({"max_detections": 100.5}, "max_detections is 100.5; wanted a whole number"),
        ({"max_detections": float("nan")}, "max_detections is nan; wanted a whole number"),
        ({"max_detections": True}, "max_detections is True; wanted a whole number"),
        ({"iou_types": ()}, "wanted a list of one or both of segm, bbox"),
        ({"iou_types": ("mask",)}, "wanted a list of one or both of segm, bbox"),
        ({"iou_types": "bbox"}, "wanted a list of one or both of segm, bbox"),
        ({"protocol": {"categories": {"1": "dog"}}}, "1 is 'dog', not 'cat'"),
    ],
)
def test_options_that_make_no_sense_are_refused(generated, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate(*generated, **options)


def test_boxes_alone_can_be_evaluated_and_masks_only_where_there_are_any(generated):
    truth, predictions = generated
    boxes = [{k: v for k, v in p.items() if k != "segmentation"} for p in predictions]
    message = f"{len(boxes)} of {len(boxes)} predictions have no segmentation; leave the masks out"
    with pytest.raises(ValueError, match=message):
        evaluate(truth, boxes)
    result = evaluate(truth, boxes, iou_types=["bbox"])
    assert list(result.boxes.values()) == by_hand(truth, boxes, "bbox")[0] and result.masks == {}
    with pytest.raises(ValueError, match="masks were not evaluated, only boxes"):
        result.numbers("segm")


# ---- the result ----------------------------------------------------------------------------------


def test_the_result_says_how_it_was_measured(generated):
    truth, predictions = generated
    header = {"format": "x", "detector": "mine", "confidence_floor": 0.3, "image_size": "64x64", "mask_threshold": 0.5}
    strong = [p for p in predictions if p["score"] > 0.3]
    result = evaluate(truth, strong, protocol=header)
    text = " ".join(str(result).split())
    for fact in (
        "s, m, l: small objects, of less than 32 x 32 pixels, medium, and large ones",
        *("detector mine", "confidence floor 0.3", "image size 64x64", "mask threshold 0.5", "max detections 100"),
        *(f"engine {choose(None)}", f"truth {coco.fingerprint(truth)}", "images 14"),
        f"no score is below {min(p['score'] for p in strong):.3g}: a list cut so high costs AP",
    ):
        assert fact in text, fact
    assert "format" not in result.protocol
    assert evaluate(truth, predictions).protocol["image_size"] == "not stated"


def test_a_class_name_with_a_line_break_stays_on_its_line(generated):
    truth, predictions = generated
    truth = {**truth, "categories": [{**kind, "name": f"{kind['id']}\nb"} for kind in truth["categories"]]}
    table = str(evaluate(truth, predictions))
    assert all(f"\nmasks: {kind['id']}\\nb " in table for kind in truth["categories"])


def test_more_objects_in_an_image_than_detections_are_told(generated):
    truth, _ = generated
    many = [{**truth["annotations"][0], "id": i, "iscrowd": 0} for i in range(120)]
    notes = evaluate({**truth, "annotations": many}, []).notes
    assert notes.pop() == f"nothing was predicted in {len(truth['images'])} of {len(truth['images'])} images"
    assert len(notes) == 1 and "1 images hold more than 100 objects (up to 120)" in notes[0]


def test_the_result_survives_its_file_and_is_drawn(generated, tmp_path):
    result = evaluate(*generated)
    result.to_json(tmp_path / "e.json")
    again = Evaluation.from_json(tmp_path / "e.json")
    assert str(again) == str(result) and again.per_class == result.per_class
    weights = draws(14, 5, 0)
    assert (again.resampled(weights) == result.resampled(weights)).all()

    result.to_csv(tmp_path / "e.csv")
    head, total, *rows = [line.split(",") for line in (tmp_path / "e.csv").read_text().splitlines()]
    assert head[:3] == ["class", "objects", "mask AP"] and len(head) == 2 + 24
    assert float(total[2]) == result.masks["AP"] and [row[0] for row in rows] == ["cat", "dog", "owl"]
    assert float(rows[1][head.index("box AR100")]) == result.per_class["bbox"]["dog"]["AR100"]

    result.plot(tmp_path / "e.png")
    evaluate({**generated[0], "annotations": []}, [], iou_types=["bbox"]).plot(tmp_path / "empty.png")
    assert cv2.imread(str(tmp_path / "e.png")).std() > 10

    (tmp_path / "e.json").write_text('{"masks": 1}')
    with pytest.raises(ValueError, match="no evaluation that yolo_wnlb wrote"):
        Evaluation.from_json(tmp_path / "e.json")


# ---- the bootstrap -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", ["AP", "AP50", "AP75"])
def test_images_that_count_once_give_the_evaluation_itself(case, kind, metric):
    truth, predictions = case
    result = evaluate(truth, predictions, iou_types=[kind])
    ones = np.ones((2, len(truth["images"])), int)
    assert result.resampled(ones, metric, kind) == pytest.approx([result.numbers(kind)[metric]] * 2, rel=0, abs=1e-12)


def test_images_that_count_more_often_equal_copies_of_them(generated):
    truth, predictions = generated
    result = evaluate(truth, predictions)
    rng = np.random.default_rng(0)
    for _ in range(4):
        weights = rng.integers(0, 4, len(truth["images"]))
        copies = {key: [] for key in ("images", "annotations", "predictions")}
        for image, weight in zip(truth["images"], weights):
            for i in range(weight):
                copies["images"].append({**image, "id": image["id"] * 10 + i})
                for key, rows in (("annotations", truth["annotations"]), ("predictions", predictions)):
                    mine = [
                        {**row, "image_id": row["image_id"] * 10 + i} for row in rows if row["image_id"] == image["id"]
                    ]
                    copies[key] += mine
        annotations = [{**a, "id": i} for i, a in enumerate(copies["annotations"], 1)]
        again = evaluate({**truth, "images": copies["images"], "annotations": annotations}, copies["predictions"])
        for kind in KINDS:
            for metric in ("AP", "AP50"):
                [value] = result.resampled(weights[None], metric, kind)
                assert value == pytest.approx(again.numbers(kind)[metric], rel=0, abs=1e-12)


def plain_average_precision(matches, weights, k, bit):
    """The definition, detection by detection and recall by recall: of one drawing, one class and one threshold."""
    objects = sum(weights[i] for i, c in zip(matches.object_image, matches.object_category) if c == k)
    if not objects:
        return -1.0
    found = counted = 0
    curve = []  # (recall, precision)
    for image, category, hit, ignored in zip(matches.image, matches.category, matches.hit, matches.ignored):
        if category == k and not ignored >> bit & 1:
            counted += weights[image]
            found += weights[image] * (hit >> bit & 1)
            curve.append((found / objects, found / (counted + np.spacing(1))))
    return sum(max((p for r, p in curve if r >= recall), default=0) for recall in np.linspace(0, 1, 101)) / 101


@pytest.mark.parametrize("seed", range(4))
def test_drawn_average_precision_is_that_of_101_recalls(seed):
    """Of 6 classes, 4 has no objects, 5 no detections and 0 no hits; of the drawings, 0 is empty, 1 without objects."""
    rng = np.random.default_rng(seed)
    image, category = np.repeat(np.arange(12), 12), np.tile(np.arange(5), 29)[:144]
    object_image = np.repeat(np.arange(10), 18)  # images 10 and 11 have none
    hit = np.zeros(144, int)
    ignored = np.zeros(144, int)
    for bit in range(10):
        lot = rng.random(144)
        hit |= ((lot < 0.6 - 0.06 * bit) & (image < 10) & (category > 0) & (category < 4)).astype(int) << bit
        ignored |= (lot > 0.9).astype(int) << bit
    score = rng.integers(0, 30, 144) / 30  # with ties
    order = np.lexsort((image, -score, category))
    matches = Matches(
        image=image[order],
        category=category[order],
        score=score[order],
        hit=hit[order],
        ignored=ignored[order],
        object_image=object_image,
        object_category=np.tile([0, 1, 2, 3, 5, 1, 2, 3, 1], 20),
        images=12,
        classes=6,
    )
    weights = rng.integers(0, 3, (8, 12))
    weights[0] = 0
    weights[1] = np.arange(12) >= 10
    weights[2] = np.arange(12) == 3
    wanted = np.array(
        [[[plain_average_precision(matches, row, k, bit) for k in range(6)] for bit in range(10)] for row in weights]
    )
    assert (wanted[:2] == -1).all() and (wanted[3:, :, 4] == -1).all() and (wanted[3:, :, [0, 5]] == 0).all()
    assert (wanted[3:, 0, 1:4] > 0).all()
    assert matches.average_precision(weights) == pytest.approx(wanted, rel=0, abs=1e-12)
    assert (matches.average_precision(weights, slice(5, 6)) == matches.average_precision(weights)[:, 5:6]).all()
    evaluation = Evaluation({}, {}, {}, {}, {}, matches={"segm": matches})
    for metric, part in (("AP", slice(None)), ("AP50", slice(0, 1)), ("AP75", slice(5, 6))):
        means = [-1.0, -1.0, *(row[part][row[part] > -1].mean() for row in wanted[2:])]
        assert evaluation.resampled(weights, metric) == pytest.approx(means, rel=0, abs=1e-12)


def test_an_evaluation_does_not_differ_from_itself(generated):
    result = evaluate(*generated)
    same = paired_bootstrap(result, result, n=50)
    assert (same.delta, same.low, same.high, same.sd) == (0, 0, 0, 0) and not same.clear
    assert "inside the noise" in str(same)


def test_pairs_vary_less_than_each_of_them(generated):
    truth, predictions = generated
    rng = np.random.default_rng(0)
    better = [{**p, "score": p["score"] * 0.97 + 0.03 * rng.random()} for p in predictions]
    first, second = evaluate(truth, predictions), evaluate(truth, better)
    pair = paired_bootstrap(first, second, n=300, seed=1)
    alone = first.resampled(draws(14, 300, 1))
    assert pair.sd < alone.std() / 3
    assert pair.low <= pair.delta <= pair.high and pair.delta == second.masks["AP"] - first.masks["AP"]
    assert paired_bootstrap(first, second, n=300, seed=1) == pair != paired_bootstrap(first, second, n=300, seed=2)
    back = paired_bootstrap(second, first, n=300, seed=1)
    assert (back.delta, back.low) == pytest.approx((-pair.delta, -pair.high))
    assert paired_bootstrap(first, second, n=50, metric="AP50", kind="bbox").kind == "bbox"


def test_a_clear_difference_is_told_from_noise(generated):
    truth, predictions = generated
    first = evaluate(truth, predictions[: len(predictions) // 3])
    found = paired_bootstrap(first, evaluate(truth, predictions), n=200)
    assert found.clear and found.low > 0 and "noise" not in str(found)
    assert str(found).startswith(f"mask AP {100 * found.delta:+.2f} [{100 * found.low:+.2f}, ")


def test_evaluations_that_are_no_pair_are_refused(generated):
    truth, predictions = generated
    result = evaluate(truth, predictions)
    for other, told in (
        (evaluate({**truth, "annotations": truth["annotations"][1:]}, predictions), "truth is"),
        (evaluate(truth, predictions, max_detections=50), "max_detections is 100 in one evaluation and 50"),
        (evaluate(truth, predictions, iou_types=["bbox"]), "masks were not evaluated"),
    ):
        with pytest.raises(ValueError, match=told):
            paired_bootstrap(result, other)
    for options, told in (
        ({"metric": "APs"}, "choose from AP, AP50"),
        ({"n": 1}, "n is 1"),
        ({"kind": "x"}, "kind is 'x'; choose from segm, bbox"),
        ({"n": 2.5}, "n is 2.5; wanted a whole number, 2 or more"),
        ({"seed": -1}, "seed is -1; wanted a whole number, 0 or more"),
        ({"confidence": float("nan")}, "confidence is nan; wanted a share"),
        ({"confidence": 95}, "confidence is 95; wanted a share"),
    ):
        with pytest.raises(ValueError, match=told):
            paired_bootstrap(result, result, **options)


# ---- Ultralytics' models -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A data set of three pictures of different shapes, one of them turned by its EXIF; returns its YAML."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (root / kind).mkdir()
    turned = Image.Exif()
    turned[274] = 6
    for name, (width, height), exif in (("a", (150, 100), None), ("b", (70, 130), None), ("c", (110, 80), turned)):
        coarse = rng.integers(0, 256, (height // 10, width // 10, 3), np.uint8)
        picture = Image.fromarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))
        picture.save(root / "images" / f"{name}.jpg", exif=exif or Image.Exif())
        (root / "labels" / f"{name}.txt").write_text("0 0.2 0.2 0.7 0.2 0.7 0.8\n3 0.1 0.1 0.3 0.1 0.3 0.3\n")
    names = [f"c{i}" for i in range(80)]
    (root / "data.yaml").write_text(yaml.safe_dump({"train": "images", "val": "images", "names": names}))
    return root / "data.yaml"


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """A segmentation model of one class, whose boxes have one candidate class in val and in predict."""
    from ultralytics.nn.tasks import SegmentationModel

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        model = SegmentationModel("yolov8n-seg.yaml", nc=1, verbose=False)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.1)
                module.momentum = 0.3
        for scores, coefficients in zip(model.model[-1].cv3, model.model[-1].cv4):
            scores[-1].bias.zero_()  # around 0.5
            coefficients[-1].bias.normal_()
        model.model[-1].proto.cv3.act = torch.nn.Identity()  # prototypes around 0: masks have shapes
        for _ in range(15):  # statistics to go with its weights
            model.train()(torch.nn.functional.interpolate(torch.rand(4, 3, 9, 9), 96, mode="bicubic"))
    model.names, model.task = {0: "c0"}, "segment"
    file = tmp_path_factory.mktemp("single") / "single.pt"
    torch.save({"model": model, "ema": None, "epoch": -1, "train_args": {"imgsz": 96}}, file)
    return file


def test_masks_and_boxes_are_those_of_retina_masks_at_the_size_of_the_files(single, pictures):
    from ultralytics import YOLO

    from yolo_wnlb.detectors import ultralytics as detector

    truth = coco.ground_truth(pictures)
    files = coco.image_files(truth, pictures)
    found = detector.predict(single, files, {0: 1}, conf=0.01, max_det=30, device="cpu")
    coco.check(truth, found)  # among others: sizes are those of the files, after EXIF rotation
    options = {"imgsz": 96, "conf": 0.01, "iou": 0.7, "max_det": 30, "device": "cpu", "verbose": False}
    model = YOLO(single)
    for image, file in files.items():
        mine = [p for p in found if p["image_id"] == image]
        [stock] = model.predict(file, retina_masks=True, **options)
        masks = stock.masks.data.numpy()
        whole = [i for i, p in enumerate(mine) if coder.area(p["segmentation"]) > 0]  # predict drops the others
        assert len(whole) == len(masks) > 5 and 0.02 < masks.mean() < 0.8
        for i, mask, row in zip(whole, masks, stock.boxes.data.numpy()):
            x, y, w, h = mine[i]["bbox"]
            assert [x, y, x + w, y + h, mine[i]["score"]] == pytest.approx(row[:5].tolist(), abs=1e-4)
            assert np.array_equal(coder.decode(mine[i]["segmentation"]), mask)


def test_every_class_of_a_box_is_a_candidate_as_in_val_and_other_classes_take_no_place(source, pictures):
    from yolo_wnlb.detectors import ultralytics as detector

    truth = coco.ground_truth(pictures)
    files = coco.image_files(truth, pictures)
    model = detector.load(source("yolov8n-seg"), "cpu")
    everything = detector.predict(
        model, files, coco.class_map(detector.names(model), truth), imgsz=64, conf=0, max_det=50
    )
    boxes = [(p["image_id"], *p["bbox"]) for p in everything]
    assert len(set(boxes)) < len(boxes) == 150
    some = detector.predict(model, files, {7: 70, 9: 90}, imgsz=64, conf=0, max_det=50)
    assert {p["category_id"] for p in some} <= {70, 90} and len(some) > 50
    for image, file in files.items():  # what else is predicted says nothing
        alone = detector.predict(model, {image: file}, {7: 70, 9: 90}, imgsz=64, conf=0, max_det=50)
        assert alone == [p for p in some if p["image_id"] == image]


def test_detection_models_give_boxes_and_end_to_end_models_their_rows(source, pictures):
    from ultralytics import YOLO

    from yolo_wnlb.detectors import ultralytics as detector

    truth = coco.ground_truth(pictures)
    files = coco.image_files(truth, pictures)
    boxes = detector.predict(
        source("yolov8n"), files, {i: i + 1 for i in range(80)}, imgsz=64, conf=0, max_det=9, device="cpu"
    )
    assert len(boxes) == 27 and not any("segmentation" in p for p in boxes)
    head = YOLO(source("yolo26n-seg")).export(format="onnx", imgsz=64, nms=False, device="cpu", verbose=False)
    rows = detector.predict(head, files, {i: i + 1 for i in range(80)}, conf=0, max_det=9, device="cpu")
    coco.check(truth, rows)
    assert len(rows) == 27 and detector.describe(head)["nms_iou"] == "none, end to end"


def test_an_export_detects_what_its_checkpoint_detects(single, pictures):
    from ultralytics import YOLO

    from yolo_wnlb.detectors import ultralytics as detector

    onnx = YOLO(single).export(format="onnx", imgsz=96, device="cpu", verbose=False, simplify=False)
    truth = coco.ground_truth(pictures)
    square = {3: coco.image_files(truth, pictures)[3]}
    options = {"conf": 0.01, "max_det": 20, "device": "cpu"}
    exported = detector.predict(onnx, square, {0: 1}, **options)
    [image] = [cv2.imread(str(file)) for file in square.values()]
    assert exported[0]["segmentation"]["size"] == list(image.shape[:2]) and len(exported) == 20
    flexible = detector.load(single, "cpu")
    static = detector.predict(flexible._replace(flexible=False), square, {0: 1}, **options)  # padded to the square
    assert [p["score"] for p in exported] == pytest.approx([p["score"] for p in static], abs=1e-3)
    assert detector.describe(onnx)["image_size"] == "96x96"
    with pytest.raises(ValueError, match=r"takes images of \(96, 96\) only, not \(64, 64\)"):
        detector.predict(onnx, square, {0: 1}, imgsz=64)


def test_what_a_detector_cannot_do_is_refused(single, pictures, tmp_path):
    from yolo_wnlb.detectors import ultralytics as detector

    for change, told in (({"imgsz": 50}, "multiple of the stride, 32"), ({"conf": 25}, "conf is 25")):
        with pytest.raises(ValueError, match=told):
            detector.predict(single, {}, {0: 1}, device="cpu", **change)
    (tmp_path / "night.jpg").write_text("not a picture")
    with pytest.raises(OSError, match=r"night.jpg cannot be read as an image"):
        detector.predict(single, {1: tmp_path / "night.jpg"}, {0: 1}, device="cpu")


# ---- the command ---------------------------------------------------------------------------------


def test_the_command_evaluates_a_model_and_then_its_predictions(source, pictures, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, data = str(source("yolov8n-seg")), f"data={pictures}"
    assert main(["evaluate", model, data, "imgsz=64", "conf=0", "device=cpu", "out=first"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "AP50" in said and "confidence floor 0;" in said and "image size 64x64" in said
    names = ["evaluation.json", "per_class.csv", "plot.png", "predictions.jsonl"]
    assert sorted(file.name for file in Path("first").iterdir()) == names
    assert main(["evaluate", "first/predictions.jsonl", data]) == 0
    first, second = (Evaluation.from_json(f"{folder}/evaluation.json") for folder in ("first", "runs/evaluate"))
    assert numbers(first) == numbers(second) and first.protocol == second.protocol
    assert first.protocol["detections"] == 300

    _, predictions = coco.read_predictions(Path("first/predictions.jsonl"))
    Path("plain.json").write_text(json.dumps(predictions))
    Path("truth.json").write_text(json.dumps(coco.ground_truth(pictures)))
    assert main(["evaluate", "plain.json", "data=truth.json", "out=third"]) == 0
    assert numbers(Evaluation.from_json("third/evaluation.json")) == numbers(first)
    assert main(["evaluate", model, data, "imgsz=64", "conf=0", "device=cpu", "out=more", "max_detections=130"]) == 0
    assert Evaluation.from_json("more/evaluation.json").protocol["detections"] == 390

    capsys.readouterr()
    shifted = [{**c, "name": f"{c['name']}x"} for c in coco.ground_truth(pictures)["categories"]]
    shifted = {**coco.ground_truth(pictures), "categories": shifted}
    coco.save_predictions("shifted.jsonl", predictions, {}, shifted)
    for words, told in (
        ([], "wants MODEL|PREDICTIONS.jsonl and data="),
        ([model], "wants MODEL|PREDICTIONS.jsonl and data="),
        ([model, data, "out=first"], "first holds an evaluation"),
        ([model, data, "split=test"], "has no split 'test'"),
        ([model, data, "imgsz=50", "device=cpu"], "multiple of the stride"),
        ([model, data, "confidence=0.1", "device=cpu"], "no option confidence; choose from data, split, out"),
        (["gone.pt", data], "gone.pt does not exist"),
        (["gone.jsonl", data], "there is no predictions file gone.jsonl"),
        (["first/predictions.jsonl", data, "imgsz=64"], "no option imgsz"),
        (["shifted.jsonl", data], "they were made for another truth"),
    ):
        assert main(["evaluate", *words]) == 2
        assert told in capsys.readouterr().err, words


def test_the_folder_of_an_evaluation_belongs_to_one_run(generated, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    truth, predictions = generated
    Path("truth.json").write_text(json.dumps(truth))
    Path("plain.json").write_text(json.dumps(predictions))
    words = ["evaluate", "plain.json", "data=truth.json"]
    Path("mine").mkdir()
    coco.save_predictions("mine/predictions.jsonl", predictions, {}, truth)
    assert main([*words, "out=mine"]) == 0  # what another evaluation left there is not beside these numbers
    assert sorted(file.name for file in Path("mine").iterdir()) == ["evaluation.json", "per_class.csv", "plot.png"]
    coco.save_predictions("mine/predictions.jsonl", predictions, {}, truth)
    assert main(["evaluate", "mine/predictions.jsonl", "data=truth.json", "out=mine", "exist_ok=True"]) == 0
    assert Path("mine/predictions.jsonl").is_file()

    loaded, both = coco.load_predictions, threading.Barrier(2)
    monkeypatch.setattr(coco, "load_predictions", lambda *given: (both.wait(60), loaded(*given))[1])
    runs = [threading.Thread(target=main, args=[words]) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert sorted(map(str, Path("runs").glob("*/evaluation.json"))) == [
        "runs/evaluate/evaluation.json",
        "runs/evaluate2/evaluation.json",
    ]

    monkeypatch.setattr(coco, "load_predictions", lambda *given: pytest.fail("hours of work"))
    Path("file").write_text("")
    for out, told in (
        ("file", "file is a file"),
        ("file/x", "cannot be written: Not a directory"),
        ("mine", "holds an"),
    ):
        assert main([*words, f"out={out}"]) == 2
        assert told in capsys.readouterr().err
    monkeypatch.setattr(coco, "load_predictions", loaded)
    assert main(["evaluate", "gone.json", "data=truth.json", "out=new"]) == 2 and not Path("new").exists()


def test_a_truth_of_fewer_classes_than_the_model_is_evaluated_on_request(
    source, pictures, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    truth = coco.ground_truth(pictures)
    fewer = {**truth, "categories": truth["categories"][:5]}
    Path("truth.json").write_text(json.dumps(fewer))
    words = ["evaluate", str(source("yolov8n-seg")), "data=truth.json", f"images={pictures.parent / 'images'}"]
    options = ["imgsz=64", "conf=0", "device=cpu", "out=out"]
    assert main([*words, *options]) == 2
    assert "only in the detector: c5, c6, c7, c8, c9 and 70 more" in capsys.readouterr().err
    assert main([*words, *options, "allow_missing=True"]) == 0
    _, predictions = coco.read_predictions(Path("out/predictions.jsonl"))
    assert {p["category_id"] for p in predictions} <= {1, 2, 3, 4, 5}
