"""AP@0.5 = TP / (TP + FP + FN) and SEG: label images drawn by hand, with the numbers that were found by hand."""

import json

import numpy as np
import pytest

from yolo_wnlb.data import coco
from yolo_wnlb.metrics.bootstrap import draws, paired_bootstrap
from yolo_wnlb.metrics.instances import (
    THRESHOLDS,
    Instances,
    by_probability,
    by_score,
    choose,
    components,
    count,
    instances,
    label_image,
)

TWO_TOUCH = """
    . 1 1 2 2 .
    . 1 1 2 2 .
    . 1 1 2 2 .
"""
DRAWN = {  # truth, prediction, (tp, fp, fn), seg
    "one is found as it is, the other is missed, and there is a false alarm": (
        "1 1 . 2 2 . . .\n1 1 . 2 2 . . .",
        "7 7 . . . . 3 3\n7 7 . . . . 3 3",
        (1, 1, 1),
        1.0,
    ),
    "one object is split, and the larger part leaves it": (  # 6 of 10 pixels, and 4 outside: IoU 6 / 14
        "1 1 1 1 1 . .\n1 1 1 1 1 . .",
        "2 2 1 1 1 1 1\n2 2 1 1 1 1 1",
        (0, 2, 1),
        6 / 14,
    ),
    "an IoU of exactly one half is no hit": (  # 4 of 6 pixels, and 2 outside: IoU 4 / 8, and more than half is covered
        "1 1 1 . \n1 1 1 .",
        ". 1 1 1 \n. 1 1 1",
        (0, 1, 1),
        0.5,
    ),
    "a prediction of exactly half an object does not count for SEG": (
        "1 1 1 1 . .",
        "1 1 . . . .",
        (0, 1, 1),
        0.0,
    ),
    "two objects that touch are found as one": (TWO_TOUCH, TWO_TOUCH.replace("2", "1"), (0, 1, 2), 0.5 + 0.5),
    "two objects that touch, one with a pixel of the other": (  # 6 of 7, 5 of 6
        TWO_TOUCH,
        "\n. 1 1 1 2 .\n. 1 1 2 2 .\n. 1 1 2 2 .",
        (2, 0, 0),
        6 / 7 + 5 / 6,
    ),
}


def drawn(text):
    """A label image from its drawing: numbers, and points for the background."""
    rows = [line.split() for line in text.strip().splitlines()]
    return np.array([[0 if letter == "." else int(letter) for letter in row] for row in rows])


@pytest.mark.parametrize("name", DRAWN)
def test_six_drawn_label_images_have_the_numbers_found_by_hand(name):
    truth, prediction, counts, seg = DRAWN[name]
    found = count(drawn(truth), drawn(prediction))
    assert found[:3] == counts and found.seg == pytest.approx(seg, abs=1e-12)
    turned = count(drawn(truth).T[::-1], 5 * drawn(prediction).T[::-1])
    assert turned[:3] == counts and turned.seg == pytest.approx(seg, abs=1e-12), "whatever the labels are called"


def test_nothing_and_nothing_found():
    nothing, one = np.zeros((3, 4), int), drawn(". 1\n. 1\n. .")
    assert count(nothing, nothing) == (0, 0, 0, 0.0)
    assert count(one, np.zeros_like(one)) == (0, 0, 1, 0.0) and count(np.zeros_like(one), one) == (0, 1, 0, 0.0)


def test_a_prediction_that_lies_mostly_in_a_crowd_is_no_false_alarm():
    truth, prediction = drawn("1 1 . . . ."), drawn("1 1 . 2 2 2")
    crowd = np.array([[False, False, False, False, True, True]])
    assert count(truth, prediction)[:3] == (1, 1, 0) and count(truth, prediction, crowd)[:3] == (1, 0, 0)
    crowd[0, 4] = False
    assert count(truth, prediction, crowd)[:3] == (1, 1, 0), "half of it or less"


def test_hits_are_those_of_a_loop_over_all_pairs():
    rng = np.random.default_rng(0)
    for _ in range(20):
        truth = components(rng.random((40, 40)), 0.6)
        prediction = np.where(rng.random(truth.shape) < 0.8, truth, 0)
        prediction[rng.integers(0, 40, 9), rng.integers(0, 40, 9)] = truth.max() + 1
        ious = np.array(
            [
                [np.sum((truth == t) & (prediction == p)) / np.sum((truth == t) | (prediction == p)) for p in labels]
                for labels in [np.unique(prediction[prediction > 0])]
                for t in range(1, truth.max() + 1)
            ]
        )
        hits = int((ious > 0.5).sum())
        assert hits > 9 and count(truth, prediction)[:3] == (hits, ious.shape[1] - hits, ious.shape[0] - hits)


def matched(ious, least):
    """As many pairs as can be, each object in one, with an IoU of `least` or more: stardist.matching's hits."""
    partner = {}

    def finds(true, tried):
        for found in np.flatnonzero(ious[true] >= least):
            if found not in tried:
                tried.add(found)
                if found not in partner or finds(partner[found], tried):
                    partner[found] = true
                    return True
        return False

    return sum(finds(true, set()) for true in range(len(ious)))


def test_hits_are_those_of_stardist_s_one_to_one_matching_but_for_an_iou_of_exactly_one_half():
    """On random rectangles that are moved, split and merged. From 0.5 on each pair is the only one of both."""
    rng, exact, hits = np.random.default_rng(1), 0, 0
    for _ in range(200):
        truth, prediction = np.zeros((2, 24, 24), int)
        for number in range(1, 9):
            y, x, height, width = *rng.integers(0, 18, 2), *rng.integers(1, 7, 2)
            truth[y : y + height, x : x + width] = number
            dy, dx, split = rng.integers(0, 2), rng.integers(0, 2), rng.integers(0, 2)
            prediction[y + dy : y + dy + height, x + dx : x + dx + width] = 40 - number // 2
            prediction[y + dy : y + dy + height // 2, x + dx : x + dx + width] += 20 * split
        objects, found = (np.unique(image[image > 0]) for image in (truth, prediction))
        masks = [[image == label for label in labels] for image, labels in ((truth, objects), (prediction, found))]
        ious = np.array([[(t & p).sum() / (t | p).sum() for p in masks[1]] for t in masks[0]])
        covers = np.array([[(t & p).sum() / t.sum() > 0.5 for p in masks[1]] for t in masks[0]])
        counts = count(truth, prediction)
        tp = matched(ious, np.nextafter(0.5, 1))
        assert counts[:3] == (tp, len(found) - tp, len(objects) - tp)
        assert counts.seg == pytest.approx(ious[covers].sum(), abs=1e-12)
        exact, hits = exact + (matched(ious, 0.5) > tp), hits + tp
    assert exact > 9 and hits > 200, (exact, hits)


def test_scores_of_pictures_without_an_object_are_not_compared():
    empty = hand_made(tp=[0, 0, 0], fn=[0, 0, 0], seg=[0.0, 0.0, 0.0])
    with pytest.raises(ValueError, match=r"there is nothing to measure AP@0\.5 by: the truth has no such object"):
        paired_bootstrap(empty, empty)


def hand_made(**changes):
    """Two pictures, of 1 object that is missed and of 9 that are found; a third one without any."""
    columns = {"tp": [0, 9, 0], "fp": [0, 0, 2], "fn": [1, 0, 0], "seg": [0.0, 7.2, 0.0]}
    return Instances(**{**columns, "file_names": ["a.png", "b.png", "c.png"], "protocol": {"truth": "t"}, **changes})


def test_means_are_over_the_pictures_that_have_objects_and_pooled_numbers_over_objects():
    two = Instances([0, 9], [0, 0], [1, 0], [0.0, 9.0], ["a", "b"])
    assert two.numbers() == {"AP@0.5": 0.5, "SEG": 0.5, "AP@0.5 pooled": 0.9, "SEG pooled": 0.9}
    found = hand_made()
    assert found.headline == "AP@0.5" and found.images == 3 and found.objects == [1, 9, 0]
    assert found.numbers() == pytest.approx(
        {"AP@0.5": 0.5, "SEG": 0.4, "AP@0.5 pooled": 9 / 12, "SEG pooled": 0.72}, abs=1e-12
    )
    assert Instances([0], [3], [0], [0.0], ["a"]).numbers() == dict.fromkeys(found.numbers(), -1.0)
    text = str(found)
    assert "AP@0.5 (TP/(TP+FP+FN))" in text and "9 hits, 2 false alarms, 1 misses in 3 pictures" in text


def test_drawn_pictures_give_the_numbers_of_as_many_copies():
    found, weights = hand_made(), draws(3, 60, 0)
    for metric in ("", *found.drawable):
        for row, value in zip(weights, found.resampled(weights, metric)):
            copies = {name: np.repeat(getattr(found, name), row).tolist() for name in ("tp", "fp", "fn", "seg")}
            again = Instances(**copies, file_names=[""] * 3).numbers()
            assert value == pytest.approx(again[metric or "AP@0.5"], abs=1e-12)
    assert found.resampled(np.array([[0, 0, 3]])).tolist() == [-1.0]
    with pytest.raises(ValueError, match=r"metric is 'AP'; choose from AP@0\.5, SEG, AP@0\.5 pooled, SEG pooled"):
        found.resampled(weights, "AP")


def test_what_is_written_is_read_back_and_damage_is_named(tmp_path):
    found = hand_made(notes=["n"])
    found.to_json(tmp_path / "a.json")
    assert Instances.from_json(tmp_path / "a.json") == found
    assert Instances.from_arrays(found.arrays(), {}).numbers() == found.numbers()
    content = json.loads((tmp_path / "a.json").read_text())
    for key, value, message in (
        ("format", "yolo_wnlb accuracy 1", "it has no format 'yolo_wnlb instances 1'"),
        ("tp", [0, 9], r"are of the lengths \[2, 3\]"),
        ("tp", [0, 9, True], "tp is no list of whole numbers"),
        ("fp", [0, -1, 0], "tp, fp and fn are not all 0 or more"),
        ("seg", [0.0, 9.5, 0.0], "seg is not from 0 to the number of objects"),
        ("seg", [0.0, 9, 0.0], "seg is no list of numbers"),
        ("file_names", None, "file_names is no list of texts"),
        ("protocol", [], "protocol is no mapping"),
    ):
        (tmp_path / "b.json").write_text(json.dumps({**content, key: value}))
        with pytest.raises(ValueError, match=rf"b\.json is no score of instances .*{message}.*evaluate again"):
            Instances.from_json(tmp_path / "b.json")
    found.to_csv(tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text().splitlines()[:2] == ["file_name,tp,fp,fn,seg", "a.png,0,0,1,0.0"]


# ---- from truth and predictions ------------------------------------------------------------------


def objects_of(image_id, text, start=1, **more):
    labels = drawn(text)
    masks = coco.encode(np.array([labels == label for label in range(1, labels.max() + 1)])) if labels.any() else []
    return [
        {"id": start + i, "image_id": image_id, "category_id": 1, "iscrowd": 0, "bbox": [0, 0, 1, 1], **more}
        | {"segmentation": mask}
        for i, mask in enumerate(masks)
    ]


def truth_of(*texts):
    """A truth of drawn pictures, with the ids 10, 11 ..."""
    images, annotations = [], []
    for image_id, text in enumerate(texts, 10):
        height, width = drawn(text).shape
        images.append({"id": image_id, "file_name": f"{image_id}.png", "height": height, "width": width})
        annotations += objects_of(image_id, text, 100 * image_id)
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "nucleus"}]}


def predicted(image_id, text, scores):
    """COCO results of a drawing, with the score of each label."""
    found = objects_of(image_id, text)
    return [
        {"image_id": image_id, "category_id": 1, "score": score, "segmentation": one["segmentation"]}
        for one, score in zip(found, scores, strict=True)
    ]


def test_masks_that_overlap_are_painted_by_rising_score_whatever_their_order():
    truth = truth_of("1 1 1 2 2 2")
    wide = predicted(10, "1 1 1 1 1 .", [0.5])  # over the first object, and two pixels of the second
    narrow = predicted(10, ". . . 1 1 1", [0.9])
    for predictions in (wide + narrow, narrow + wide):
        assert instances(truth, by_score(truth, predictions), 0.1).tp == [2], "the better one keeps its pixels"
    wide[0]["score"] = 0.95
    found = instances(truth, by_score(truth, wide + narrow), 0.1)
    assert (found.tp, found.fp, found.fn) == ([1], [1], [1]), "3 of 5 pixels; 1 of the other 3 is left"
    assert found.seg == [pytest.approx(3 / 5 + 2 / 6)]
    assert instances(truth, by_score(truth, wide + narrow), 0.95).fp == [0], "a score of the threshold itself counts"
    assert instances(truth, by_score(truth, wide + narrow), 0.96).fn == [2]


def test_each_class_is_compared_with_itself():
    truth = truth_of("1 1 . 2 2")
    truth["categories"].append({"id": 2, "name": "cell"})
    truth["annotations"][1]["category_id"] = 2
    predictions = predicted(10, "1 1 . 2 2", [0.9, 0.9])
    found = instances(truth, by_score(truth, predictions))
    assert (found.tp, found.fp, found.fn) == ([1], [1], [1])
    predictions[1]["category_id"] = 2
    assert instances(truth, by_score(truth, predictions)).tp == [2]


def test_regions_of_a_map_are_connected_by_their_sides_and_lie_above_the_threshold():
    probability = np.array([[0.9, 0.5, 0.1], [0.2, 0.6, 0.1], [0.1, 0.1, 0.9]], np.float32)
    assert components(probability, 0.55).tolist() == [[1, 0, 0], [0, 2, 0], [0, 0, 3]]
    assert components(probability, 0.4).tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 2]]
    assert components(probability, 0.5).max() == 3 and components(probability, 0.4).dtype == np.int32
    assert components(probability, 1.0).max() == 0


def test_thresholds_are_chosen_for_each_score_by_itself():
    """A rim of 0.3 around a core of 0.8, and a bridge of 0.35: separated only above 0.35, outlined best below 0.3."""
    truth = truth_of("1 1 1 . 2 2 2", ". . . . . . .")
    map_ = np.array([[0.32, 0.8, 0.8, 0.1, 0.3, 0.8, 0.3]], np.float32)
    maps = [(10, map_), (11, np.zeros((1, 7), np.float32))]
    assert THRESHOLDS[0] == 0.1 and THRESHOLDS[-1] == 1 and len(THRESHOLDS) == 19
    assert choose(truth, by_probability(maps, 1)) == {"AP@0.5": 0.1, "SEG": 0.1}
    bridged = np.where(map_ == np.float32(0.1), np.float32(0.33), map_)
    bridged[0, [1, 2]] = 0.8
    maps[0] = (10, bridged)
    chosen = choose(truth, by_probability(maps, 1))
    both = instances(truth, by_probability(maps, 1), chosen)
    each = [instances(truth, by_probability(maps, 1), threshold) for threshold in THRESHOLDS]
    assert both.numbers()["AP@0.5"] == max(one.numbers()["AP@0.5"] for one in each)
    assert both.numbers()["SEG"] == max(one.numbers()["SEG"] for one in each)
    assert both.protocol["threshold of AP@0.5"] == chosen["AP@0.5"]
    assert "1 of 2 pictures have no object" in both.notes[0]


def test_a_score_of_coco_results_has_thresholds_too():
    truth = truth_of("1 1 . 2 2 . .")
    predictions = predicted(10, "1 1 . 2 2 . 3", [0.9, 0.4, 0.2])
    assert choose(truth, by_score(truth, predictions)) == {"AP@0.5": 0.25, "SEG": 0.1}


def test_small_objects_lie_over_large_ones_and_those_that_are_hidden_are_counted():
    truth = truth_of("1 1 1 1")
    truth["annotations"] += objects_of(10, ". 1 . .", 1)
    labels = label_image(truth["annotations"], 1, 4)
    assert labels.tolist() == [[1, 2, 1, 1]]
    assert label_image(truth["annotations"][::-1], 1, 4).tolist() == [[2, 1, 2, 2]]
    truth["annotations"] += objects_of(10, ". 1 . .", 2)
    assert "1 of 3 objects have no pixel, or lie wholly under others" in instances(truth, by_score(truth, [])).notes[0]


def test_crowds_of_a_truth_are_no_objects():
    truth = truth_of("1 1 . . . .")
    truth["annotations"] += objects_of(10, ". . . 1 1 1", 1, iscrowd=1)
    predictions = predicted(10, "1 1 . 2 2 .", [0.9, 0.9])
    found = instances(truth, by_score(truth, predictions))
    assert (found.tp, found.fp, found.fn) == ([1], [0], [0]) and found.protocol["objects"] == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: instances(t, by_score(t, []), 1.5), r"threshold is 1\.5; wanted a number from 0 to 1"),
        (lambda t: instances(t, by_score(t, []), True), "threshold is True; wanted a number"),
        (lambda t: instances(t, by_score(t, []), {"AP": 0.5}), r"wanted a number, or one for AP@0\.5 and one for SEG"),
        (lambda t: choose(t, by_score(t, []), [float("nan")]), "threshold is nan"),
        (lambda t: choose({**t, "annotations": []}, by_score(t, [])), "no object in the pictures that the threshold"),
        (lambda t: instances(t, [], 0.5), r"nothing was given for 2 of 2 pictures: 10\.png, 11\.png"),
        (lambda t: instances(t, by_probability([(9, np.zeros((1, 6)))], 1)), "image 9 is not in the truth"),
        (lambda t: instances(t, by_probability([(10, np.zeros((1, 6)))] * 2, 1)), "image 10 was given twice"),
        (lambda t: instances(t, by_probability([(10, np.zeros((6, 1)))], 1)), r"is \(1, 6\) in the truth.*\(6, 1\)"),
        (lambda t: instances(t, by_probability([(10, np.full((1, 6), np.nan))], 1)), "wanted .* 0 to 1"),
        (lambda t: instances(t, by_probability([(10, np.full((1, 6), 2.0))], 1)), r"values from 0.0 to 2.0; wanted"),
        (lambda t: instances(t, by_probability([(10, np.zeros((1, 6, 1)))], 1)), r"shape \(1, 6, 1\)"),
        (
            lambda t: list(by_score(t, [{"image_id": 10, "category_id": 1, "score": 0.5, "bbox": [0, 0, 1, 1]}])),
            "1 of 1 predictions have no mask; instances are scored by masks",
        ),
        (
            lambda t: instances({**t, "annotations": [{**t["annotations"][0], "segmentation": None}]}, by_score(t, [])),
            r"1 of 1 objects have no mask \(first: object 1000\), and instances are scored by masks",
        ),
    ],
)
def test_what_cannot_be_scored_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(truth_of("1 1 . 2 2 .", ". . . . . ."))
