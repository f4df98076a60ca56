"""Ground truth and predictions in COCO terms: where they come from, and what is refused before it does harm."""

import copy
import json
import os
import re

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image
from pycocotools import mask as coder

from yolo_wnlb.data import coco

NAMES = ["cat", "dog", "owl"]


def write_set(root, labels, size=(40, 30), names=NAMES, suffix=".png"):
    """A data set of one image for each label text (None: no label file); returns its YAML."""
    for kind in ("images", "labels"):
        (root / kind / "val").mkdir(parents=True)
    for name, text in labels.items():
        Image.new("RGB", size, "grey").save(root / "images" / "val" / f"{name}{suffix}")
        if text is not None:
            (root / "labels" / "val" / f"{name}.txt").write_text(text)
    said = {"train": "images/val", "val": "images/val", "names": names}
    (root / "data.yaml").write_text(yaml.safe_dump(said))
    return root / "data.yaml"


SQUARE = "1 0.25 0.2 0.5 0.2 0.5 0.6 0.25 0.6\n"  # x 10 to 20, y 6 to 18 of 40 x 30


@pytest.fixture
def truth():
    """Two images, 20 high and 30 wide, one object each."""
    mask = np.zeros((1, 20, 30), bool)
    mask[0, 5:9, 3:12] = True
    [rle] = coco.encode(mask)
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 20, "width": 30} for i in (1, 2)],
        "annotations": [
            {"id": i, "image_id": i, "category_id": i, "segmentation": rle, "bbox": [3, 5, 9, 4], "area": 36}
            for i in (1, 2)
        ],
        "categories": [{"id": i, "name": name} for i, name in enumerate(NAMES, 1)],
    }


def predicted(truth, **changes):
    """The objects of a truth as predictions, all with these changes."""
    keys = ("image_id", "category_id", "segmentation", "bbox")
    return [{**{k: a[k] for k in keys}, "score": 0.5, **changes} for a in truth["annotations"]]


# ---- ground truth --------------------------------------------------------------------------------


def test_a_coco_file_is_kept_as_it_is(tmp_path, truth):
    truth["annotations"][0].update(area=1234.5, iscrowd=1, id=77, mine="kept")
    file = tmp_path / "truth.json"
    file.write_text(json.dumps(truth))
    assert coco.ground_truth(file) == truth


def test_labels_become_a_truth_in_the_order_of_the_files(tmp_path):
    data = write_set(tmp_path, {"b": SQUARE + "0 0.1 0.1 0.3 0.1 0.3 0.3\n", "a": "", "c": None})
    truth = coco.ground_truth(data)
    assert [(i["id"], i["file_name"], i["width"], i["height"]) for i in truth["images"]] == [
        (1, "a.png", 40, 30),
        (2, "b.png", 40, 30),
        (3, "c.png", 40, 30),
    ]
    assert truth["categories"] == [{"id": i, "name": name} for i, name in enumerate(NAMES, 1)]
    square, triangle = truth["annotations"]
    assert (square["image_id"], square["category_id"], square["iscrowd"]) == (2, 2, 0)
    assert square["area"] == 10 * 12 and square["bbox"] == [10, 6, 10, 12]  # of the mask
    assert square["segmentation"] == [[10, 6, 20, 6, 20, 18, 10, 18]]
    assert triangle["category_id"] == 1 and triangle["id"] != square["id"]


def test_sizes_and_masks_are_those_of_the_image_after_exif_rotation(tmp_path):
    data = write_set(tmp_path, {"a": SQUARE}, suffix=".jpg")
    turned = Image.Exif()
    turned[274] = 6  # show it a quarter turned
    Image.new("RGB", (40, 30), "grey").save(tmp_path / "images" / "val" / "a.jpg", exif=turned)
    truth = coco.ground_truth(data)
    assert (truth["images"][0]["width"], truth["images"][0]["height"]) == (30, 40)
    assert truth["annotations"][0]["bbox"] == [8, 8, 7, 16]  # x 7.5 to 15, y 8 to 24
    image = cv2.imread(str(coco.image_files(truth, data)[1]))
    assert image.shape[:2] == (40, 30)


def test_labels_that_are_boxes_have_no_masks(tmp_path):
    truth = coco.ground_truth(write_set(tmp_path, {"a": "2 0.5 0.5 0.5 0.5\n0 1.0 0.5 0.5 0.2\n"}))
    inside, cut = truth["annotations"]
    assert inside["bbox"] == [10, 7.5, 20, 15] and inside["area"] == 300 and "segmentation" not in inside
    assert cut["bbox"] == pytest.approx([30, 12, 10, 6]) and truth["info"]["notes"] == []


def test_repeated_labels_and_those_that_cover_nothing_are_left_out_and_counted(tmp_path):
    dot = "0 0.501 0.501 0.502 0.501 0.502 0.502\n"
    truth = coco.ground_truth(write_set(tmp_path, {"a": SQUARE + SQUARE + dot}))
    assert len(truth["annotations"]) == 1
    assert truth["info"]["notes"][1:] == [
        "left out 1 labels that repeat another one",
        "left out 1 labels that cover no pixel",
    ]


def test_a_coco_file_beside_the_yaml_is_preferred_if_it_names_the_same_images_and_classes(tmp_path):
    data = write_set(tmp_path, {"a": SQUARE, "b": ""})
    exact = {
        "images": [{"id": 9 - i, "file_name": f"{n}.png", "width": 40, "height": 30} for i, n in enumerate("ab")],
        "annotations": [{"id": 5, "image_id": 9, "category_id": 7, "bbox": [0, 0, 3, 3], "area": 9, "iscrowd": 1}],
        "categories": [{"id": 9 - i, "name": name} for i, name in enumerate(["animals", "owl", "dog", "cat"])],
    }
    (tmp_path / "annotations").mkdir()
    file = tmp_path / "annotations" / "instances_val.json"
    file.write_text(json.dumps(exact))
    truth = coco.ground_truth(data)
    assert truth["annotations"] == exact["annotations"]
    assert truth["info"]["source"] == "annotations/instances_val.json" and "exact" in truth["info"]["notes"][0]
    assert {i: f.name for i, f in coco.image_files(truth, data).items()} == {9: "a.png", 8: "b.png"}

    for key, change in (
        ("images", exact["images"][:1]),
        ("images", [{**i, "file_name": i["file_name"].replace("png", "jpg")} for i in exact["images"]]),
        ("categories", [{**c, "name": c["name"].upper()} for c in exact["categories"]]),
    ):
        file.write_text(json.dumps({**exact, key: change, "annotations": []}))
        assert "YOLO labels" in coco.ground_truth(data)["info"]["source"]


def test_every_image_has_its_file_and_a_missing_one_is_named(tmp_path):
    data = write_set(tmp_path, {"a": SQUARE, "b": ""})
    for place in ("x", "y"):
        (tmp_path / "images" / "val" / place).mkdir()
        os.link(tmp_path / "images" / "val" / "a.png", tmp_path / "images" / "val" / place / "a.png")
    truth = coco.ground_truth(data)
    files = coco.image_files(truth, data)
    names = [i["file_name"] for i in truth["images"]]
    assert names == ["a.png", "b.png", "x/a.png", "y/a.png"]
    assert all(file.is_absolute() and file.is_file() for file in files.values())
    assert [file.relative_to((tmp_path / "images" / "val").resolve()).as_posix() for file in files.values()] == names

    (tmp_path / "images" / "val" / "b.png").rename(tmp_path / "images" / "val" / "b.jpg")
    with pytest.raises(FileNotFoundError, match=r"1 of 4 images .* \(first: b.png\)"):
        coco.image_files(truth, data)  # another suffix is another file

    (tmp_path / "annotations").mkdir()
    file = tmp_path / "annotations" / "instances_val.json"
    file.write_text(json.dumps({**truth, "images": [i for i in truth["images"] if i["file_name"] != "b.png"]}))
    assert set(coco.image_files(coco.ground_truth(file), file)) == {1, 3, 4}
    assert set(coco.image_files(coco.ground_truth(file), file, folder=tmp_path / "images/val")) == {1, 3, 4}


@pytest.mark.parametrize(
    ("label", "told"),
    [
        ("7 0.5 0.5 0.1 0.1\n", "line 1 has class 7; the data YAML has classes 0 to 2"),
        ("0.5 0.5 0.5 0.1 0.1\n", "has class 0.5"),
        ("0 0.5 0.5 0.1 0.1\n\n1 12 20 30 20 30 40\n", "line 3 leaves the image; wanted shares"),
        ("0 0.1 0.1 0.2 0.1 0.2\n", "wanted a class, then x y w h"),
        ("0 0.1 0.1 0.2 0.1\n" + SQUARE, "mixes boxes and outlines"),
        ("cat 0.1 0.1 0.2 0.1\n", "line 1 is 'cat 0.1 0.1 0.2 0.1'"),
    ],
)
def test_a_label_file_that_cannot_be_right_is_named_with_its_line(tmp_path, label, told):
    data = write_set(tmp_path, {"a": label})
    with pytest.raises(ValueError, match=re.escape(told)) as error:
        coco.ground_truth(data)
    assert "a.txt" in str(error.value)


def test_sources_that_cannot_be_right_are_refused(tmp_path, truth):
    data = write_set(tmp_path, {"a": None})
    with pytest.raises(ValueError, match="none of 1 images has a label file"):
        coco.ground_truth(data)
    with pytest.raises(ValueError, match="has no split 'test'; choose from train, val"):
        coco.ground_truth(data, "test")
    with pytest.raises(FileNotFoundError, match=r"there is no .*gone.json"):
        coco.ground_truth(tmp_path / "gone.json")
    broken = truth["annotations"][0]
    for change, told in (
        ({"categories": None}, "wanted the lists images, annotations and categories"),
        ({"images": truth["images"][:1]}, "annotations have image ids that it lacks: 2"),
        ({"images": truth["images"] * 2}, "several images have the id 1, 2"),
        ({"images": [{"id": 1}]}, "entry 0 of images lacks file_name, width, height"),
        ({"categories": [{"id": i, "name": "cat"} for i in (1, 2)]}, "several categories have the name cat"),
        ({"annotations": [{**broken, "segmentation": [[1, 1, 5, 5]]}]}, "outline of fewer than three points"),
        ({"annotations": [{**broken, "segmentation": {"size": [20, 30], "counts": [1, 2]}}]}, "broken RLE"),
    ):
        file = tmp_path / "truth.json"
        file.write_text(json.dumps({**truth, **change}))
        with pytest.raises(ValueError, match=re.escape(told)):
            coco.ground_truth(file)


def test_the_fingerprint_is_of_the_objects_not_of_names_or_order(truth):
    turned = {key: values[::-1] for key, values in truth.items()}
    turned["images"] = [{**image, "file_name": "dark.png"} for image in turned["images"]]
    assert coco.fingerprint(turned) == coco.fingerprint(truth)
    turned["annotations"][0] = {**turned["annotations"][0], "area": 37}
    assert coco.fingerprint(turned) != coco.fingerprint(truth)


# ---- predictions ---------------------------------------------------------------------------------


def test_masks_survive_their_encoding_as_text():
    rng = np.random.default_rng(0)
    masks = rng.random((20, 13, 17)) < rng.random((20, 1, 1))
    masks[0], masks[1] = False, True
    rles = coco.encode(masks)
    assert json.loads(json.dumps(rles)) == rles
    assert all(np.array_equal(coder.decode(rle), mask) for rle, mask in zip(rles, masks))
    assert coco.encode(masks[:0]) == []
    assert coco.run_totals([rle["counts"] for rle in rles]) == [13 * 17] * 20


def test_predictions_survive_their_file(tmp_path, truth):
    file = tmp_path / "predictions.jsonl"
    predictions = predicted(truth, score=1 / 3)
    coco.save_predictions(file, predictions, {"detector": "mine", "conf": 0.001})
    header, again = coco.load_predictions(file)
    assert again == predictions and header["detector"] == "mine" and header["predictions"] == 2
    assert [each.name for each in tmp_path.iterdir()] == ["predictions.jsonl"]

    (tmp_path / "results.json").write_text(json.dumps(predictions))
    assert coco.load_predictions(tmp_path / "results.json") == ({}, predictions)
    coco.save_predictions(file, [], {})
    assert coco.load_predictions(file)[1] == []


def test_a_predictions_file_that_is_not_whole_is_refused(tmp_path, truth):
    file = tmp_path / "predictions.jsonl"
    coco.save_predictions(file, predicted(truth), {})
    text = file.read_text()
    for part, told in (
        (text[:-40], "line 3 is not JSON"),
        ("\n".join(text.splitlines()[:2]), "holds 1 of 2 predictions"),
        ("", "no predictions file"),
        (json.dumps(truth), "no predictions file"),
        ("[{", "interrupted"),
    ):
        file.write_text(part)
        with pytest.raises(ValueError, match=told):
            coco.load_predictions(file)
    with pytest.raises(ValueError, match="Out of range float"):
        coco.save_predictions(file, predicted(truth, score=float("nan")), {})


def test_classes_are_mapped_by_name_wherever_they_stand(truth):
    assert coco.class_map(["owl", "cat", "dog"], truth) == {0: 3, 1: 1, 2: 2}
    assert coco.class_map({2: "dog", 0: "owl", 1: "cat"}, truth) == {0: 3, 1: 1, 2: 2}


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["cat", "owl"], ["only in the truth: dog", "classes it was trained for"]),
        ([*NAMES, "bat", "cow"], ["only in the detector: bat, cow", "allow_missing=True"]),
        (["Cat", "dog_", "owl"], ["only in the truth: cat, dog", "'cat' and 'Cat', 'dog' and 'dog_'"]),
        (dict(enumerate(NAMES, 1)), ["indices 1, 2, 3; wanted 0 to 2", "shifted?"]),
        (["cat", "dog", "dog", "owl"], ["the detector has several classes of one name: dog"]),
    ],
)
def test_classes_that_do_not_correspond_are_refused_with_the_differences(truth, names, told):
    with pytest.raises(ValueError) as error:
        coco.class_map(names, truth)
    assert [part for part in told if part not in str(error.value)] == [], error.value


def test_a_truth_of_fewer_classes_has_to_be_asked_for_and_is_told(truth, caplog):
    assert coco.class_map([*NAMES, "bat"], truth, allow_missing=True) == {0: 1, 1: 2, 2: 3}
    assert "1 classes (bat)" in caplog.text
    truth["annotations"] = []  # classes without objects may be missing
    assert coco.class_map(["owl"], truth) == {0: 3}


# ---- checks --------------------------------------------------------------------------------------


def ids(truth, images=None, categories=None, gaps=()):
    """The truth with so many images and categories, ids from 1 without gaps."""
    images = [{**truth["images"][0], "id": i} for i in range(1, images + 1)] if images else truth["images"]
    numbers = [i for i in range(1, 100) if i not in gaps][:categories]
    categories = [{"id": i, "name": f"class {i}"} for i in numbers] if categories else truth["categories"]
    return {"images": images, "categories": categories, "annotations": []}


def test_what_fits_passes(truth):
    coco.check(truth, predicted(truth), {"categories": {"1": "cat", "2": "dog"}})
    coco.check(truth, [])
    coco.check(ids(truth, 5, 80, coco.COCO_GAPS), predicted(truth, category_id=90))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"image_id": 3},
            "1 of 1 image ids of the predictions are not in the truth: 3; it has 1, 2; all fit once 1 is",
        ),
        ({"image_id": "1"}, "texts are no numbers"),
        ({"category_id": 0}, "category ids of the predictions are not in the truth: 0; it has 1, 2, 3; all fit once 1"),
        ({"category_id": 77}, "made for another split"),
        ({"score": float("nan")}, "prediction 0 has score nan; wanted 0 to 1"),
        ({"score": 93.5}, "prediction 0 has score 93.5; wanted 0 to 1"),
        ({"score": "high"}, "prediction 0 has score high"),
        ({"bbox": [1, 2, -3, 4]}, "prediction 0 has box"),
        ({"bbox": [1, 2, float("inf"), 4]}, "prediction 0 has box"),
        ({"segmentation": {"size": [30, 20], "counts": "0"}}, "width and height are exchanged"),
        ({"segmentation": {"size": [160, 160], "counts": "0"}}, "at the size of the image file"),
        ({"segmentation": {"size": [20, 30], "counts": "Q24"}}, "prediction 0 has a broken RLE"),
        ({"segmentation": {"size": [20, 30], "counts": ""}}, "prediction 0 has a broken RLE"),
        ({"segmentation": {"size": [20, 30], "counts": "é"}}, "prediction 0 has a broken RLE"),
        ({"segmentation": {"size": [20, 30], "counts": [1, 2, 3]}}, "prediction 0 has a broken RLE"),
        ({"segmentation": [[1, 1, 5, 1, 5, 5]]}, "prediction 0 has a segmentation that is no RLE"),
    ],
)
def test_predictions_that_do_not_fit_are_refused(truth, change, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        coco.check(truth, predicted(truth, **change))


def test_predictions_for_other_images_of_the_same_ids_are_refused(truth):
    darkened, elsewhere = copy.deepcopy(truth), copy.deepcopy(truth)
    for image in darkened["images"]:
        image["file_name"] = re.sub(r"\.\w+$", ".webp", image["file_name"])
    for image in elsewhere["images"]:
        image["file_name"] = f"train/{image['file_name']}"
    header = {"image_list": coco.image_list(truth)}
    coco.check(darkened, predicted(truth), header)
    with pytest.raises(
        ValueError, match=r"made for other images than the .* though ids are alike: give the data and split"
    ):
        coco.check(elsewhere, predicted(truth), header)


def test_entries_that_are_no_predictions_are_refused(truth):
    for entry in ({"image_id": 1, "score": 1}, "text", {"image_id": 1, "category_id": 1, "score": 1}):
        with pytest.raises(ValueError, match="wanted image_id, category_id, score, and bbox or segmentation"):
            coco.check(truth, [entry])


def test_shifted_ids_are_recognised(truth):
    """Class indices for ids, the 80 classes for the 91 ids, and the reverse."""
    one, *_ = predicted(truth)
    coco91, plain = ids(truth, 9, 80, coco.COCO_GAPS), ids(truth, 9, 80)
    for given, found, told in (
        (plain, range(80), "all fit once 1 is added: counted from 0?"),
        (coco91, range(80), "class numbers up to 80, where the truth has COCO's ids up to 90"),
        (coco91, range(1, 81), "class numbers up to 80, where the truth has COCO's ids up to 90"),
        (plain, [c["id"] for c in coco91["categories"]], "COCO's ids up to 90, where the truth counts up to 80"),
    ):
        with pytest.raises(ValueError, match=re.escape(told)):
            coco.check(given, [{**one, "category_id": i} for i in found])
    with pytest.raises(ValueError, match="counted from 0"):
        coco.check(plain, [{**one, "image_id": i} for i in range(9)])


def test_shifted_ids_that_all_exist_are_found_by_the_names_in_the_header(truth):
    predictions = predicted(truth, category_id=1)  # the detector meant a dog, number 1 of 0 to 2
    coco.check(truth, predictions)
    with pytest.raises(ValueError, match="differs in 2: 1 is 'dog', not 'cat', 2 is 'owl'"):
        coco.check(truth, predictions, {"categories": {"1": "dog", "2": "owl"}})


def runs(text):
    """Add up the runs of an RLE, one character after the other; -1 where it is malformed."""
    counts, text = [], list(text.encode("ascii", "replace"))
    while text:
        value, bits = 0, 0
        while True:
            code = text.pop(0) - 48 if text else -1
            if not 0 <= code < 64 or bits > 30:
                return -1
            value |= (code & 31) << bits
            bits += 5
            if not code & 32:
                break
        value -= (code & 16) << (bits - 4)
        value += counts[-2] if len(counts) > 2 else 0
        if value < 0:
            return -1
        counts.append(value)
    return sum(counts) if counts else -1


def test_broken_rles_are_told_from_whole_ones():
    """pycocotools does not: on some it never returns, on others the process ends."""
    rng = np.random.default_rng(0)
    texts = []
    for rle in coco.encode(rng.random((40, 19, 23)) < rng.random((40, 1, 1))):
        for _ in range(10):
            letters, at = list(rle["counts"]), rng.integers(len(rle["counts"]))
            change = int(rng.integers(3))  # cut off from here, change a letter, change it and put in another
            letters[at : at + (99 if change == 0 else 1)] = [chr(rng.integers(44, 116))] * change
            texts.append("".join(letters))
    whole = [runs(text) for text in texts]
    assert coco.run_totals(texts) == whole
    assert len(set(whole)) > 20  # it is a test of something
    assert coco.run_totals(["", "~~~~", "é", "ooooooooooo0", "PPPP"]) == [-1] * 5
