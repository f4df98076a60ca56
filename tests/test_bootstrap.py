"""Intervals of differences where images come in groups, and how evaluations are kept to draw them again."""

import base64
import json
import zlib
from dataclasses import replace

import numpy as np
import pytest

from yolo_wnlb.metrics.accuracy import Accuracy
from yolo_wnlb.metrics.average_precision import Evaluation, evaluate
from yolo_wnlb.metrics.bootstrap import draws, group_labels, paired_bootstrap, widening
from yolo_wnlb.metrics.instances import Instances
from yolo_wnlb.metrics.matches import Matches, pack, unpack

OBJECTS, ALARMS = 5, 5  # of an image


def equal_models(rng, groups, images_of_a_group, spread):
    """Two models that are equally good on the whole, but fare differently in each group; two evaluations."""
    images = groups * images_of_a_group
    result = []
    for _ in range(2):
        ease = rng.normal(0, spread, groups).repeat(images_of_a_group)
        found = rng.random((images, OBJECTS)) < 1 / (1 + np.exp(-ease))[:, None]
        hit = np.concatenate([found, np.zeros((images, ALARMS), bool)], 1).ravel()
        score = rng.random(hit.size) + 0.5 * hit
        order = np.argsort(-score, kind="stable")
        zeros = np.zeros(hit.size, int)
        matches = Matches(
            image=np.repeat(np.arange(images), OBJECTS + ALARMS)[order],
            category=zeros,
            score=score[order],
            hit=hit[order] * 1023,
            ignored=zeros,
            object_image=np.repeat(np.arange(images), OBJECTS),
            object_category=np.zeros(images * OBJECTS, int),
            images=images,
            classes=1,
        )
        numbers = {"AP50": float(matches.average_precision(None, slice(0, 1)).mean())}
        protocol = {"truth": "0", "max_detections": 100}
        names = [f"place{i // images_of_a_group}_{i}.jpg" for i in range(images)]
        result.append(Evaluation(numbers, {}, {}, {}, protocol, matches={"segm": matches}, file_names=names))
    return result


def test_intervals_over_groups_hold_the_true_difference_and_those_that_ignore_them_do_not():
    """The true difference is 0: both models are drawn alike. 9 groups of 7 images, as in a set of 9 places."""
    rng = np.random.default_rng(0)
    pairs = [equal_models(rng, 9, 7, 1.0) for _ in range(200)]
    place = lambda name: name.split("_")[0]  # noqa: E731
    alone, grouped = (
        [paired_bootstrap(*pair, 100, seed, metric="AP50", groups=groups) for seed, pair in enumerate(pairs)]
        for groups in (None, place)
    )
    plain = [(d.delta + (d.low - d.delta) / widening(9), d.delta + (d.high - d.delta) / widening(9)) for d in grouped]
    ignoring, quantiles, widened = (
        np.mean([low <= 0 <= high for low, high in intervals])
        for intervals in ([(d.low, d.high) for d in alone], plain, [(d.low, d.high) for d in grouped])
    )
    assert ignoring < 0.75 < quantiles < widened and 0.91 <= widened <= 0.99
    assert str(grouped[0]).endswith("rough, for there are few groups")
    assert "100 draws of 9 groups of 63 images" in str(grouped[0]) and "rough" not in str(alone[0])


def test_groups_may_be_a_rule_a_mapping_or_labels():
    first, second = equal_models(np.random.default_rng(0), 4, 3, 1.0)
    labels = [name[:6] for name in first.file_names]
    found = [
        paired_bootstrap(first, second, 50, metric="AP50", groups=groups)
        for groups in (lambda name: name[:6], dict(zip(first.file_names, labels)), labels, np.repeat(np.arange(4), 3))
    ]
    assert found == [found[0]] * 4 and found[0].groups == 4 and found[0].images == 12
    assert group_labels(labels, first.file_names) == labels


def test_whole_groups_are_drawn_as_many_as_there_are():
    labels = ["a", "b", "a", 3, 3, 3, ("c", 1)]
    weights = draws(7, 500, 1, labels)
    assert weights.shape == (500, 7) and (weights == draws(7, 500, 1, labels)).all()
    assert (weights[:, 0] == weights[:, 2]).all() and (weights[:, 3:5] == weights[:, 4:6]).all()
    assert (weights[:, [0, 1, 3, 6]].sum(1) == 4).all()
    assert weights.mean(0) == pytest.approx(1, abs=0.15)
    assert (draws(7, 500, 1, range(7)) == draws(7, 500, 1)).all()
    assert (draws(7, 500, 1).sum(1) == 7).all()


def test_intervals_from_few_groups_are_widened_as_students_t_does():
    assert widening(9) == pytest.approx((9 / 8) ** 0.5 * 2.30600414 / 1.95996398)
    assert [round(widening(units), 3) for units in (2, 9, 60, 500)] == [9.168, 1.248, 1.03, 1.003]
    assert widening(5, 0.5) < widening(5, 0.99)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (["a"] * 12, "one of the groups to draw from is there; an interval needs two or more"),
        (lambda name: "a", "one of the groups"),
        (["a", "b"], "groups has 2 labels; wanted one for each of 12 images"),
        ("group", "groups is the text 'group'; wanted a function"),
        ({}, r"12 of 12 images have no group \(first: place0_0.jpg\)"),
        (
            lambda name: None if name.startswith("place3") else 1,
            r"3 of 12 images have no group \(first: place3_9.jpg\)",
        ),
        ([*"abcdefabcde", None], r"1 of 12 images have no group \(first: image 11, from 0\)"),
        ([*range(11), float("nan")], "1 of 12 images have no group"),
    ],
)
def test_groups_that_are_none_are_refused(groups, message):
    first, second = equal_models(np.random.default_rng(0), 4, 3, 1.0)
    with pytest.raises(ValueError, match=message):
        paired_bootstrap(first, second, 10, metric="AP50", groups=groups)


def test_one_image_has_no_interval():
    first, second = equal_models(np.random.default_rng(0), 1, 1, 1.0)
    with pytest.raises(ValueError, match="one of the images to draw from is there"):
        paired_bootstrap(first, second, 10, metric="AP50")
    with pytest.raises(ValueError, match="none of the images"):
        draws(0, 10, 0)


# ---- files ---------------------------------------------------------------------------------------


def boxes(images=4):
    """An evaluation of a few boxes, by two classes."""
    box = {"category_id": 1, "bbox": [1, 2, 30, 40]}
    truth = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 90, "height": 80} for i in range(images, 0, -1)],
        "annotations": [
            {**box, "id": i, "image_id": i, "area": 1200, "iscrowd": int(i == 1)} for i in range(1, images + 1)
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    found = [{**box, "image_id": i, "score": i / 10, "category_id": 1 + i % 2} for i in range(1, images + 1)]
    return evaluate(truth, found, iou_types=["bbox"])


def test_matches_survive_their_file_to_the_last_bit_and_take_little_room(tmp_path):
    rng = np.random.default_rng(0)
    for images, classes, most_kilobytes in ((60, 3, 45), (500, 80, 390)):
        detections = 100 * images
        category = np.sort(rng.integers(0, classes, detections))
        score = rng.random(detections).astype(np.float32).astype(float)  # what a network returns
        order = np.lexsort((-score, category))
        hit = np.where(rng.random(detections) < 0.07, 2 ** rng.integers(1, 11, detections) - 1, 0)
        matches = Matches(
            image=rng.permutation(np.repeat(np.arange(images), 100)),
            category=category,
            score=score[order],
            hit=hit,
            ignored=np.where(rng.random(detections) < 0.01, 1023, 0),
            object_image=np.sort(rng.integers(0, images, 7 * images)),
            object_category=rng.integers(0, classes, 7 * images),
            images=images,
            classes=classes,
        )
        packed = json.dumps(pack(matches))
        for one, other in zip(unpack(json.loads(packed)), matches):
            assert np.array_equal(one, other)
        assert len(packed) < 1000 * most_kilobytes
    score = rng.random(3)
    unlike = matches._replace(**{k: v[:3] for k, v in matches._asdict().items() if k in Matches._fields[:5]})
    unlike = unlike._replace(score=-np.sort(-score), category=np.zeros(3, int))
    assert (unpack(pack(unlike)).score == -np.sort(-score)).all()  # and what float32 cannot hold is kept too


def test_file_names_are_kept_in_the_order_of_the_ids(tmp_path):
    result = boxes()
    result.to_json(tmp_path / "e.json")
    again = Evaluation.from_json(tmp_path / "e.json")
    assert again.file_names == result.file_names == ["1.png", "2.png", "3.png", "4.png"]
    assert again == again and str(again) == str(result)
    hits = {again.file_names[i] for i, bits in zip(again.matches["bbox"].image, again.matches["bbox"].hit) if bits}
    assert hits == {"2.png", "4.png"}


def test_the_file_can_be_read_without_this_package_as_its_description_says(tmp_path):
    """docs/evaluation.md: AP50 of a class from the columns alone."""
    rng = np.random.default_rng(1)
    result, _ = equal_models(rng, 3, 4, 1.0)
    packed = json.loads(json.dumps(pack(result.matches["segm"])))
    hit, ignored = (
        np.frombuffer(zlib.decompress(base64.b64decode(text)), kind)
        for kind, text in (packed["hit"], packed["ignored"])
    )
    assert not ignored.any()
    found = np.cumsum(hit & 1)
    precision = np.append(np.maximum.accumulate((found / (np.arange(len(hit)) + 1))[::-1])[::-1], 0)
    recall = found / (12 * OBJECTS)
    ap50 = precision[np.searchsorted(recall, np.linspace(0, 1, 101))].mean()
    assert ap50 == pytest.approx(result.masks["AP50"], abs=1e-12)


def change(content, path, value):
    *parents, key = path
    for parent in parents:
        content = content[parent]
    if value is KeyError:
        del content[key]
    else:
        content[key] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["format"], KeyError, "it has no format 'yolo_wnlb evaluation 1'"),
        (["format"], "yolo_wnlb evaluation 9", "it has no format"),
        (["masks"], KeyError, "unknown or missing: masks"),
        (["more"], 1, "unknown or missing: more"),
        (["masks"], [], "the numbers of masks are not twelve"),
        (["masks"], {"AP": 0.5}, "there are numbers of masks, and no matches"),
        (["boxes", "AP"], float("nan"), "AP of boxes is nan; wanted a number from -1 to 1"),
        (["boxes", "AP"], None, "AP of boxes is None; wanted a number"),
        (["boxes", "AP50"], "0.5", "AP50 of boxes is '0.5'"),
        (["boxes", "AP50"], 50, "AP50 of boxes is 50"),
        (["per_class", "bbox", "dog", "AP"], None, "AP of boxes is None"),
        (["per_class", "bbox", "dog"], KeyError, "per_class is not made of the classes"),
        (["per_class"], [], "per_class is no mapping"),
        (["notes"], {}, "notes is no list"),
        (["file_names"], [1, 2, 3, 4], "file_names is no list of texts"),
        (["file_names"], ["1.png"], "of other images or classes"),
        (["protocol"], {}, "its protocol lacks truth, max_detections, images"),
        (["matches"], [], "its matches are not by segm and bbox"),
        (["matches", "keypoints"], {}, "its matches are not by segm and bbox"),
        (["matches", "bbox"], {}, "its matches are not made of image, category"),
        (["matches", "bbox", "images"], -1, "its matches have images -1"),
        (["matches", "bbox", "images"], 2, "image 0 to 3; wanted 0 to 1"),
        (["matches", "bbox", "image"], ["|O8", ""], "image that is not a list of one of"),
        (["matches", "bbox", "image"], ["<u2", "Äh"], "image that cannot be read"),
        (["matches", "bbox", "image"], ["<u2", "AAAA"], "image that cannot be read"),
        (["matches", "bbox", "image", 1], "", "image that cannot be read"),
        (["matches", "bbox", "hit"], ["<u2", "eJxjYGBgAAAABAAB"], "columns of different lengths"),
        (["matches", "bbox", "score", 0], "<f4", "columns of different lengths"),
        (["matches", "bbox", "category"], ["|u1", "eJxjZGBkYAAAAA4ABA=="], "category that cannot be read"),
    ],
)
def test_files_that_are_no_evaluation_are_refused_by_name(tmp_path, path, value, message):
    boxes().to_json(tmp_path / "e.json")
    content = json.loads((tmp_path / "e.json").read_text())
    change(content, path, value)
    (tmp_path / "e.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message) as caught:
        Evaluation.from_json(tmp_path / "e.json")
    assert "e.json is no evaluation that yolo_wnlb wrote" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"images": []}', b"null", b"\xff\xfe", b"1" * 30, b'{"format": {}}'])
def test_foreign_files_are_refused_by_name(tmp_path, content):
    (tmp_path / "e.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"e\.json is "):
        Evaluation.from_json(tmp_path / "e.json")
    with pytest.raises(OSError, match="gone"):
        Evaluation.from_json(tmp_path / "gone.json")


def test_an_array_that_would_fill_the_memory_is_refused(monkeypatch):
    from yolo_wnlb.metrics import matches

    packed = pack(boxes().matches["bbox"])
    packed["image"] = ["|u1", base64.b64encode(zlib.compress(bytes(2000))).decode()]
    monkeypatch.setattr(matches, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match=r"image that cannot be read \(more than 1,000 bytes\)"):
        unpack(packed)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, np.float32(1)])
def test_a_protocol_that_json_cannot_hold_is_refused_and_leaves_no_file(tmp_path, value):
    result = boxes()
    result.protocol["threshold"] = value
    with pytest.raises(ValueError, match=r"e.json: the evaluation holds what JSON cannot hold"):
        result.to_json(tmp_path / "e.json")
    assert list(tmp_path.iterdir()) == []


def accuracies():
    """Two classifiers on 40 pictures of ten places; the second one is right where the first one is, and more often."""
    rng = np.random.default_rng(0)
    wrong = (rng.random(40) < 0.5).astype(int)
    names = [f"place{i // 4}_{i}.jpg" for i in range(40)]
    sides = (wrong, wrong * (rng.random(40) < 0.3))
    return [Accuracy(["a", "b"], [0] * 40, side.tolist(), [""] * 40, names, {"truth": "t"}) for side in sides]


def nuclei():
    """Two segmenters on 20 pictures of 5 objects."""
    rng = np.random.default_rng(0)
    found = rng.integers(0, 4, 20)
    sides = (found, found + rng.integers(0, 2, 20))
    columns = [(tp.tolist(), [1] * 20, (5 - tp).tolist(), (0.8 * tp).tolist()) for tp in sides]
    return [Instances(*four, [f"{i}.png" for i in range(20)], {"truth": "t"}) for four in columns]


def test_accuracies_and_instances_are_compared_like_evaluations():
    first, second = accuracies()
    found = paired_bootstrap(first, second, 200)
    assert found.metric == "accuracy" and found.kind == "" and found.images == 40 and found.clear
    assert found.delta == pytest.approx(second.correct.mean() - first.correct.mean())
    assert str(found).startswith(f"accuracy {100 * found.delta:+.2f} [")
    weights = draws(40, 200, 0)
    gains = second.resampled(weights) - first.resampled(weights)
    assert found.sd == pytest.approx(gains.std(ddof=1))
    assert paired_bootstrap(first, second, 200, groups=lambda name: name.split("_")[0]).groups == 10
    first, second = nuclei()
    for metric in ("", "SEG", "AP@0.5 pooled"):
        found = paired_bootstrap(first, second, 100, metric=metric)
        assert found.low <= found.delta <= found.high and str(found).startswith(f"{metric or 'AP@0.5'} +")
        assert found.delta == second.numbers()[found.metric] - first.numbers()[found.metric] > 0


def test_scores_that_are_no_pair_are_refused():
    (first, second), (nucleus, _) = accuracies(), nuclei()
    for call, message in (
        (
            lambda: paired_bootstrap(first, nucleus),
            "first is of the sort accuracy, the second score of instances; wanted",
        ),
        (lambda: paired_bootstrap(first, second, metric="AP"), "metric is 'AP'; choose from accuracy"),
        (
            lambda: paired_bootstrap(first, second, kind="segm"),
            "kind is 'segm', and no accuracy has kinds; leave it out",
        ),
        (
            lambda: paired_bootstrap(first, replace(second, protocol={"truth": "u"})),
            "truth is t in one accuracy and u in the other",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_all_scores_answer_the_same_names(tmp_path):
    (evaluation, _), (accuracy, _), (nucleus, _) = (
        equal_models(np.random.default_rng(0), 4, 3, 1.0),
        accuracies(),
        nuclei(),
    )
    for score in (evaluation, accuracy, nucleus):
        part = score.of_kind()
        weights = draws(part.images, 20, 0)
        assert part.images == len(score.file_names) and part.headline == part.drawable[0]
        again = type(score).from_arrays(part.arrays(), score.protocol, part.kind)
        for metric in part.drawable:
            assert (again.resampled(weights, metric) == part.resampled(weights, metric)).all()
        assert (part.resampled(weights) == part.resampled(weights, part.headline)).all()
        with pytest.raises(ValueError, match=f"metric is 'x'; choose from {part.headline}"):
            part.resampled(weights, "x")
    for score in (accuracy, nucleus):
        once = np.ones((1, score.images), int)
        assert score.resampled(once)[0] == pytest.approx(score.numbers()[score.headline], abs=1e-12)
        score.to_json(tmp_path / "score.json")
        assert type(score).from_json(tmp_path / "score.json") == score
        for other in {Evaluation, Accuracy, Instances} - {type(score)}:
            with pytest.raises(
                ValueError, match=rf"score\.json is no {other.noun} that yolo_wnlb wrote: it has no format"
            ):
                other.from_json(tmp_path / "score.json")


def test_boxes_are_drawn_where_there_are_no_masks():
    evaluation, _ = equal_models(np.random.default_rng(0), 4, 3, 1.0)
    boxes = replace(evaluation, masks={}, boxes=evaluation.masks, matches={"bbox": evaluation.matches["segm"]})
    assert boxes.kind == "bbox" and boxes.numbers() == evaluation.numbers() and boxes.images == evaluation.images
    weights = draws(12, 20, 0)
    assert (boxes.resampled(weights) == evaluation.resampled(weights)).all()
    with pytest.raises(ValueError, match="masks were not evaluated, only boxes"):
        boxes.of_kind()
