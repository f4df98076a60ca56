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
from pycocotools import mask as mask_utils

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
    assert cut["bbox"] == pytest.approx([30, 12, 10, 6])
    assert truth["info"]["notes"] == ["labels that are cut at the border of their picture: 1"]


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

    for key, change, told in (
        ("images", exact["images"][:1], "it names 1 pictures, 1 of the 2 of the split"),
        (
            "images",
            [{**i, "file_name": i["file_name"].replace("png", "jpg")} for i in exact["images"]],
            "it names 2 pictures, 0 of the 2 of the split",
        ),
        (
            "categories",
            [{**c, "name": c["name"].upper()} for c in exact["categories"]],
            "its classes are not those of the data YAML, which differ in cat, dog, owl",
        ),
        ("categories", exact["categories"], "it has no annotation in 1 pictures that have labels (first: a.png)"),
    ):
        file.write_text(json.dumps({**exact, key: change, "annotations": []}))
        truth = coco.ground_truth(data)
        assert len(truth["annotations"]) == 1 and "YOLO labels" in truth["info"]["source"]
        assert truth["info"]["notes"][0].endswith(f"but the labels are taken: {told}")

    for name in "ab":
        (tmp_path / "labels" / "val" / f"{name}.txt").unlink()
    with pytest.raises(ValueError, match=r"none of 2 images has a label file.*; annotations/instances_val.json lies"):
        file.write_text(json.dumps({**exact, "images": exact["images"][:1]}))
        coco.ground_truth(data)


def test_pictures_without_labels_and_labels_without_pictures_are_counted(tmp_path):
    data = write_set(tmp_path, {"a": SQUARE, "b": None, "c": ""})
    (tmp_path / "labels" / "val" / "lost.txt").write_text(SQUARE)
    notes = coco.ground_truth(data)["info"]["notes"]
    assert "1 of 3 pictures have no label file: they count as empty" in notes
    assert "left out 1 label files without a picture (first: lost.txt)" in notes


def test_labels_of_negative_size_cover_nothing(tmp_path):
    truth = coco.ground_truth(write_set(tmp_path, {"a": "0 0.5 0.5 0.5 0.5\n0 0.5 0.5 -0.005 -0.005\n"}))
    assert len(truth["annotations"]) == 1 and "left out 1 labels that cover no pixel" in truth["info"]["notes"]


def test_a_truth_from_labels_has_the_category_ids_of_ultralytics(tmp_path):
    from ultralytics.utils import ROOT, YAML

    names = list(YAML.load(ROOT / "cfg/datasets/coco.yaml")["names"].values())
    for name, data in (("own", names), ("few", names[:3])):
        yaml_file = write_set(tmp_path / name, {"a": SQUARE}, names=data)
        assert [c["id"] for c in coco.ground_truth(yaml_file)["categories"]] == [*range(1, len(data) + 1)]
    root = tmp_path / "coco"
    write_set(root, {"a": SQUARE}, names=names)
    (root / "val2017.txt").write_text("./images/val/a.png\n")
    (root / "data.yaml").write_text(yaml.safe_dump({"train": "val2017.txt", "val": "val2017.txt", "names": names}))
    assert coco.ground_truth(root / "data.yaml")["categories"][79] == {"id": 90, "name": "toothbrush"}


def test_files_of_another_size_than_the_truth_says_are_refused(tmp_path):
    data = write_set(tmp_path, {"a": "0 0.5 0.5 0.5 0.5\n"})
    truth = coco.ground_truth(data)
    for width, height, told in ((30, 40, "its EXIF entry turns it"), (80, 60, "is it another version of the image?")):
        Image.new("RGB", (width, height), "grey").save(tmp_path / "images" / "val" / "a.png")
        with pytest.raises(ValueError, match=rf"a.png is {width} x {height}, in the truth 40 x 30; {re.escape(told)}"):
            coco.image_files(truth, data)
    Image.new("RGB", (40, 30), "grey").save(tmp_path / "images" / "val" / "a.png")
    truth["images"] = [{**truth["images"][0], "id": i} for i in (1, 2)]
    with pytest.raises(ValueError, match=r"several images of the truth are one file: .*a.png"):
        coco.image_files(truth, data)


@pytest.mark.parametrize("content", [b"no picture", b"", None])
def test_a_picture_that_cannot_be_read_is_named(tmp_path, monkeypatch, content):
    data = write_set(tmp_path, {"a": SQUARE})
    if content is None:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # of 1200
    else:
        (tmp_path / "images" / "val" / "a.png").write_bytes(content)
    told = "a.png is larger than Pillow opens .*cut it into tiles" if content is None else "a.png cannot be read as an"
    with pytest.raises(ValueError, match=told):
        coco.ground_truth(data)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"names": {1: "cat", 2: "dog"}}, "data.yaml is no data YAML that Ultralytics takes: 2-class dataset requires"),
        ({"names": []}, "data.yaml is no data YAML"),
        ({"names": None}, "data.yaml is no data YAML"),
        ({"names": "cat"}, "data.yaml is no data YAML"),
        ({"names": ["cat", "cat"]}, "data.yaml: several categories have the name cat; give each its own"),
        ({"names": ["cat", ""]}, "data.yaml: category 2 has name ''; wanted a text"),
        ({"train": None, "val": None}, "has no split 'val'; choose from"),
        ({"val": 5}, "data.yaml, val: is 5; wanted a folder"),
        ({"path": ["a"]}, "data.yaml is no data YAML"),
        ([1, 2], "data.yaml is no data YAML; wanted train:, val: and names:, found list"),
        ("text", "data.yaml is no data YAML; wanted train:, val: and names:, found str"),
        ("a: [", "data.yaml is no YAML"),
        (b"\xff\xfea", "data.yaml is not UTF-8 text"),
    ],
    ids=str,
)
def test_a_data_yaml_that_cannot_be_right_is_named(tmp_path, change, told):
    data = write_set(tmp_path, {"a": SQUARE})
    if isinstance(change, dict):
        change = {**yaml.safe_load(data.read_text()), **change}
    content = change.encode() if isinstance(change, str) else change
    data.write_bytes(content if isinstance(content, bytes) else yaml.safe_dump(content).encode())
    with pytest.raises(ValueError, match=re.escape(told)):
        coco.ground_truth(data)


@pytest.mark.parametrize(
    ("block", "announced", "error"),
    [
        ("print(yaml['yaml_file'])\nraise KeyError('x')", "block runs now: print(", "download block of .* KeyError"),
        ("raise OSError('no room')", "block runs now: raise OSError('no room')", "^no room"),
        ("bash -c false", "Running bash -c false", "CalledProcessError"),
        (["a"], "", "download is \\['a'\\]; wanted an address|must be str"),
    ],
    ids=str,
)
def test_what_a_download_block_will_do_is_said_before_it_is_done(tmp_path, log, block, announced, error):
    data = write_set(tmp_path, {"a": SQUARE})
    data.write_text(yaml.safe_dump({**yaml.safe_load(data.read_text()), "val": "images/gone", "download": block}))
    with pytest.raises((ValueError, OSError), match=error):
        coco.ground_truth(data)
    assert announced in "".join(log)


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
        ("0 nan 0.5 0.1 0.1\n", "line 1 leaves the image"),
        ("nan 0.5 0.5 0.1 0.1\n", "has class nan"),
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
    for text, told in ((json.dumps({**truth, "categories": None}), "wanted the lists images"), ("{", "is no JSON")):
        (tmp_path / "truth.json").write_text(text)
        with pytest.raises(ValueError, match=f"truth.json .*{told}"):
            coco.ground_truth(tmp_path / "truth.json")


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
    assert all(np.array_equal(mask_utils.decode(rle), mask) for rle, mask in zip(rles, masks))
    assert coco.encode(masks[:0]) == []


def test_predictions_survive_their_file(tmp_path, truth):
    file = tmp_path / "predictions.jsonl"
    predictions = predicted(truth, score=1 / 3)
    coco.save_predictions(file, predictions, {"detector": "mine", "conf": 0.001}, truth)
    header, again = coco.load_predictions(file, truth)
    assert again == predictions and header["detector"] == "mine" and header["predictions"] == 2
    assert header["categories"] == {"1": "cat", "2": "dog", "3": "owl"}
    assert [each.name for each in tmp_path.iterdir()] == ["predictions.jsonl"]

    (tmp_path / "results.json").write_text(json.dumps(predictions))
    assert coco.load_predictions(tmp_path / "results.json", truth) == ({}, predictions)
    coco.save_predictions(file, [], {}, truth)
    assert coco.load_predictions(file, truth)[1] == []


def test_a_predictions_file_that_is_not_whole_is_refused(tmp_path, truth):
    file = tmp_path / "predictions.jsonl"
    coco.save_predictions(file, predicted(truth), {}, truth)
    text = file.read_text()
    for part, told in (
        (text[:-40], "line 3 is not JSON"),
        ("\n".join(text.splitlines()[:2]), "holds 1 of 2 predictions"),
        ("", "no predictions file"),
        (json.dumps(truth), "no predictions file"),
        ("null", "no predictions file"),
        (text.replace('"predictions":2', '"x":2'), "holds 2 of None predictions"),
        (text.replace('"predictions":2', '"x":NaN,"predictions":2'), "its header holds a number that is not finite"),
        ("[{", "predictions.jsonl is no JSON: .*is it complete"),
        ("[null]", "prediction 0 is None; wanted image_id, category_id, score"),
        ("[[]]", r"prediction 0 is \[\]; wanted image_id"),
        ('[{"image_id": []}]', "prediction 0 lacks category_id, score; wanted"),
        ("[" * 3000, "nested too deeply"),
        (text.partition("\n")[0] + "\n" + "[" * 3000, "line 2 is not JSON"),
    ):
        file.write_text(part)
        with pytest.raises(ValueError, match=told) as error:
            coco.load_predictions(file, truth)
        assert "predictions.jsonl" in str(error.value)
    with pytest.raises(ValueError, match="Out of range float"):
        coco.save_predictions(file, predicted(truth, score=float("nan")), {}, truth)


def test_kinds_that_cannot_be_evaluated_are_named_with_counts(truth):
    predictions = predicted(truth)
    assert coco.not_evaluated(truth, predictions) == {}
    bare = copy.deepcopy(truth)
    bare["annotations"][1]["segmentation"] = []
    masks = "masks are not evaluated: 1 of 2 annotations have no segmentation (first: annotation 2)"
    assert coco.not_evaluated(bare, predictions) == {"segm": masks}
    del predictions[0]["bbox"], predictions[1]["segmentation"]
    assert coco.not_evaluated(truth, predictions) == {
        "segm": "masks are not evaluated: 1 of 2 predictions have no segmentation (first: prediction at place 1)",
        "bbox": "boxes are not evaluated: 1 of 2 predictions have no bbox (first: prediction at place 0)",
    }


def test_classes_are_mapped_by_name_wherever_they_stand(truth):
    assert coco.class_map(["owl", "cat", "dog"], truth) == {0: 3, 1: 1, 2: 2}
    assert coco.class_map({2: "dog", 0: "owl", 1: "cat"}, truth) == {0: 3, 1: 1, 2: 2}


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["cat", "owl"], ["only in the truth: dog", "what it was trained for: give data with its classes"]),
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
