"""Predictions from files: which pictures and classes they mean, and when that cannot be known."""

import json
import re

import pytest
import yaml
from PIL import Image

from yolo_wnlb.cli import main
from yolo_wnlb.data import coco
from yolo_wnlb.metrics.average_precision import Evaluation, evaluate

CLASSES = ["cat", "dog", "owl"]


def write_set(root, names, classes=CLASSES):
    """A data set of one object in each picture, wider from picture to picture; returns its data YAML."""
    for place, name in enumerate(names):
        image, label = root / "images/val" / name, (root / "labels/val" / name).with_suffix(".txt")
        for file in (image, label):
            file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), "grey").save(image)
        right = 0.3 + 0.6 * place / len(names)
        label.write_text(f"{place % len(classes)} 0.1 0.1 {right} 0.1 {right} 0.9 0.1 0.9\n")
    said = {"train": "images/val", "val": "images/val", "names": classes}
    (root / "data.yaml").write_text(yaml.safe_dump(said))
    return root / "data.yaml"


def perfect(truth, image_id, names=True, category=lambda category_id: category_id):
    """Its objects as predictions; `image_id` is a function of an image's own id and file name, as `names` may be."""
    images = {image["id"]: image["file_name"] for image in truth["images"]}
    found = []
    for a in truth["annotations"]:
        name = images[a["image_id"]]
        row = {"image_id": image_id(a["image_id"], name), "category_id": category(a["category_id"]), "score": 0.9}
        row |= {"bbox": a["bbox"], "segmentation": coco.encode(drawn(a))[0]}
        if names:
            row["file_name"] = names(name) if callable(names) else name.rpartition("/")[2]
        found.append(row)
    return found


def drawn(annotation):
    from pycocotools import mask as mask_utils

    return mask_utils.decode(coco.to_rle(annotation["segmentation"], 30, 40))[None].astype(bool)


def ultralytics(_, name):
    """The image id in Ultralytics' predictions.json."""
    stem = name.rpartition("/")[2].partition(".")[0]
    return int(stem) if stem.isnumeric() else stem


def own(image_id, _):
    return image_id


def score(tmp_path, truth, rows):
    """Write predictions, read them for a truth; AP of masks."""
    (tmp_path / "found.json").write_text(json.dumps(rows))
    header, predictions = coco.load_predictions(tmp_path / "found.json", truth)
    return evaluate(truth, predictions, protocol=header).masks["AP"]


def as_json(truth, root, first=1, categories=None):
    """Write a truth as a COCO file of its own numbering, from the last picture to the first; returns it read again."""
    count = len(truth["images"])
    new = {image["id"]: first + count - place for place, image in enumerate(truth["images"], 1)}
    categories = categories or {i: i for i in (1, 2, 3)}
    content = {
        "images": [{**image, "id": new[image["id"]]} for image in truth["images"]],
        "annotations": [
            {**a, "image_id": new[a["image_id"]], "category_id": categories[a["category_id"]]}
            for a in truth["annotations"]
        ],
        "categories": [{**c, "id": categories[c["id"]]} for c in truth["categories"]],
    }
    (root / "truth.json").write_text(json.dumps(content))
    return coco.ground_truth(root / "truth.json")


NUMBERED = [f"{i}.png" for i in range(1, 13)]  # sorted: 1, 10, 11, 12, 2, ...


# ---- truth from labels, whose image ids are made up ------------------------------------------------


@pytest.mark.parametrize("names", [NUMBERED, ["a.png", "b.png", "c.png"], ["x/a.png", "y/b.png", "7.png"]], ids=str)
def test_the_file_names_of_ultralytics_predictions_are_what_counts(tmp_path, names):
    truth = coco.ground_truth(write_set(tmp_path, names))
    rows = perfect(truth, ultralytics)
    assert score(tmp_path, truth, rows) == pytest.approx(1)
    (tmp_path / "found.json").write_text(json.dumps(rows))
    header, _ = coco.load_predictions(tmp_path / "found.json", truth)
    assert header == {"pictures_matched_by": "file name", "category_ids_read_as": "1 cat, 2 dog, 3 owl"}
    whole = perfect(truth, own, names=lambda name: f"/elsewhere/images/val/{name}")
    assert score(tmp_path, truth, whole) == pytest.approx(1)
    whole = perfect(truth, own, names=lambda name: f"C:\\sets\\images\\val\\{name}".replace("/", "\\"))
    assert score(tmp_path, truth, whole) == pytest.approx(1)


@pytest.mark.parametrize(
    ("names", "rows", "told"),
    [
        (NUMBERED, {"image_id": ultralytics, "names": False}, "count the pictures in some order"),
        (NUMBERED, {"image_id": own, "names": False}, "count the pictures in some order"),
        (
            [f"{i}.png" for i in range(12)],
            {"image_id": ultralytics, "names": False},
            "count the pictures in some order",
        ),
        (
            ["a.png", "b.png"],
            {"image_id": own, "names": False},
            "2 of them are not the number in the name",
        ),
        (["x/a.png", "y/a.png"], {"image_id": ultralytics}, "several images of the truth are called a.png"),
        (["x/7.png", "y/7.png"], {"image_id": ultralytics, "names": False}, "1 of them are not the number in the name"),
        (["01.png", "1.png"], {"image_id": ultralytics, "names": False}, "1 of them are not the number in the name"),
        (
            ["a.png", "b.png"],
            {"image_id": own, "names": lambda name: f"c{name}"},
            "2 of 2 pictures that the",
        ),
        (["a.png", "b.png"], {"image_id": own, "names": lambda _: "a.png"}, "are one image of the truth"),
        (["a.png", "b.png"], {"image_id": own, "names": lambda _: None}, "has file_name None; wanted a text"),
        (["a.png", "b.png"], {"image_id": ultralytics, "category": lambda i: i - 1}, "all fit once 1 is added"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,  # the same in every process
)
def test_ids_that_merely_happen_to_fit_are_refused(tmp_path, names, rows, told):
    truth = coco.ground_truth(write_set(tmp_path, names))
    with pytest.raises(ValueError, match=re.escape(told)) as error:
        score(tmp_path, truth, perfect(truth, **rows))
    assert "found.json" in str(error.value)


@pytest.mark.parametrize("names", [["a.png", "b.png"], ["000139.png", "000285.png"], ["000.png", "001.png"]], ids=str)
def test_bare_ids_that_can_only_be_the_names_of_the_files_count(tmp_path, names):
    truth = coco.ground_truth(write_set(tmp_path, names))
    assert score(tmp_path, truth, perfect(truth, ultralytics, names=False)) == pytest.approx(1)


def test_some_file_names_are_not_enough(tmp_path):
    truth = coco.ground_truth(write_set(tmp_path, NUMBERED))
    rows = perfect(truth, ultralytics)
    del rows[3]["file_name"]
    with pytest.raises(ValueError, match="11 of 12 predictions have a file_name; wanted all or none"):
        score(tmp_path, truth, rows)


def test_a_file_of_ours_is_known_by_its_header(tmp_path):
    truth = coco.ground_truth(write_set(tmp_path / "set", NUMBERED))
    rows = perfect(truth, own, names=False)
    coco.save_predictions(tmp_path / "found.jsonl", rows, {"detector": "mine"}, truth)
    _, predictions = coco.load_predictions(tmp_path / "found.jsonl", truth)
    assert predictions == rows
    other = coco.ground_truth(write_set(tmp_path / "other", [f"b{name}" for name in NUMBERED]))
    with pytest.raises(ValueError, match="made for other images than the 12 of the truth: give the data and split"):
        coco.load_predictions(tmp_path / "found.jsonl", other)
    twin = {**truth, "images": [{**i, "file_name": i["file_name"].replace("png", "webp")} for i in truth["images"]]}
    assert coco.load_predictions(tmp_path / "found.jsonl", twin)[1] == rows
    with pytest.raises(ValueError, match="differs in 1: 1 is 'cat', not 'CAT'"):
        coco.load_predictions(
            tmp_path / "found.jsonl",
            {**truth, "categories": [{**c, "name": c["name"].replace("cat", "CAT")} for c in truth["categories"]]},
        )


@pytest.mark.parametrize("header", [{"categories": [1]}, {"categories": {"1": "dog"}}, {"image_list": 5}])
def test_headers_that_do_not_fit_are_refused(tmp_path, header):
    truth = coco.ground_truth(write_set(tmp_path, ["a.png"]))
    rows = perfect(truth, own, names=False)
    lines = [{"format": coco.FORMAT, "predictions": 1, **header}, *rows]
    (tmp_path / "found.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(ValueError, match=r"categor|other images"):
        coco.load_predictions(tmp_path / "found.jsonl", truth)


# ---- truth from a COCO file ------------------------------------------------------------------------


@pytest.mark.parametrize("categories", [None, {1: 0, 2: 1, 3: 2}, {1: 7, 2: 3, 3: 5}], ids=str)
def test_results_for_a_coco_file_have_its_ids(tmp_path, categories):
    """As mmdetection and detectron2 write them."""
    truth = as_json(coco.ground_truth(write_set(tmp_path, NUMBERED)), tmp_path, 100, categories)
    assert score(tmp_path, truth, perfect(truth, own, names=False)) == pytest.approx(1)
    assert score(tmp_path, truth, perfect(truth, own)) == pytest.approx(1)  # with names that agree


def test_results_of_ultralytics_find_the_pictures_of_a_coco_file_by_name(tmp_path):
    truth = as_json(coco.ground_truth(write_set(tmp_path, NUMBERED)), tmp_path)
    assert score(tmp_path, truth, perfect(truth, ultralytics)) == pytest.approx(1)
    lettered = as_json(coco.ground_truth(write_set(tmp_path / "b", ["a.png", "b.png"])), tmp_path / "b")
    assert score(tmp_path, lettered, perfect(lettered, ultralytics, names=False)) == pytest.approx(1)  # older versions
    with pytest.raises(ValueError, match=r"1 of 1 image ids of the predictions are not in the truth: 1; .*texts are"):
        score(tmp_path, as_json(truth, tmp_path), [{**perfect(truth, own, names=False)[0], "image_id": "1"}])


def test_classes_counted_by_ultralytics_are_not_taken_for_those_of_a_coco_file(tmp_path):
    data = write_set(tmp_path, NUMBERED)
    numbers = {1: 0, 2: 1, 3: 2}
    truth = as_json(coco.ground_truth(data), tmp_path, categories=numbers)
    back = {new: old for old, new in numbers.items()}
    with pytest.raises(ValueError, match=r"category ids 1, 2, 3 may be .* Give the data YAML"):
        score(tmp_path, truth, perfect(truth, ultralytics, category=back.get))
    for wanted in ({1}, {1, 2}):  # fits either way
        rows = [row for row in perfect(truth, ultralytics, category=back.get) if row["category_id"] in wanted]
        with pytest.raises(ValueError, match="classes would be mixed up"):
            score(tmp_path, truth, rows)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "truth.json").rename(tmp_path / "annotations/instances_val.json")
    beside = coco.ground_truth(data)  # the YAML says how Ultralytics counts
    assert [c["id"] for c in beside["categories"]] == [0, 1, 2]
    assert score(tmp_path, beside, perfect(beside, ultralytics, category=back.get)) == pytest.approx(1)
    assert score(tmp_path, beside, perfect(beside, own, names=False)) == pytest.approx(1)


def test_pictures_of_one_name_in_a_coco_file_are_told_apart_by_id(tmp_path):
    truth = as_json(coco.ground_truth(write_set(tmp_path, ["x/a.png", "y/a.png", "b.png"])), tmp_path)
    assert score(tmp_path, truth, perfect(truth, own)) == pytest.approx(1)
    with pytest.raises(ValueError, match=r"several images of the truth are called a.png"):
        score(tmp_path, truth, perfect(truth, ultralytics))


def test_boxes_for_another_file_of_the_same_ids_are_refused_where_they_leave_the_pictures(tmp_path):
    truth = as_json(coco.ground_truth(write_set(tmp_path, NUMBERED)), tmp_path)
    rows = [{k: v for k, v in row.items() if k != "segmentation"} for row in perfect(truth, own, names=False)]
    rows[5]["bbox"] = [10, 10, 60, 10]
    with pytest.raises(ValueError, match=r"prediction 5 has the box .*far outside its picture .* is it of another"):
        score(tmp_path, truth, rows)
    rows[5]["bbox"] = [10, 10, 33, 10]  # a detector that does not cut its boxes at the border
    (tmp_path / "found.json").write_text(json.dumps(rows))
    assert len(coco.load_predictions(tmp_path / "found.json", truth)[1]) == 12


def test_a_name_that_disagrees_with_its_id_is_refused_by_evaluate_too(tmp_path):
    truth = as_json(coco.ground_truth(write_set(tmp_path, NUMBERED)), tmp_path)
    rows = perfect(truth, lambda image_id, _: image_id % 12 + 1)
    assert score(tmp_path, truth, rows) == pytest.approx(1)
    with pytest.raises(ValueError, match=r"load_predictions\(file, truth\) matches them by file name"):
        evaluate(truth, rows)


# ---- the command -----------------------------------------------------------------------------------


def test_the_command_says_how_it_matched_and_what_it_left_out(tmp_path, capsys):
    data = write_set(tmp_path, NUMBERED)
    truth = coco.ground_truth(data)
    rows = perfect(truth, ultralytics)
    rows[2]["segmentation"] = []
    (tmp_path / "found.json").write_text(json.dumps(rows))
    assert main(["evaluate", str(tmp_path / "found.json"), f"data={data}", f"out={tmp_path / 'out'}"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "pictures matched by file name; category ids read as 1 cat, 2 dog, 3 owl" in out
    left_out = "masks are not evaluated: 1 of 12 predictions have no segmentation (first: prediction at place 2)"
    assert left_out in out
    kept = Evaluation.from_json(tmp_path / "out" / "evaluation.json")
    assert left_out in kept.notes and kept.masks == {} and kept.boxes["AP"] == pytest.approx(1)

    for row in rows:
        row.pop("bbox")
    (tmp_path / "found.json").write_text(json.dumps(rows))
    assert main(["evaluate", str(tmp_path / "found.json"), f"data={data}", f"out={tmp_path / 'none'}"]) == 2
    err = capsys.readouterr().err
    assert "prediction 2 has image_id" in err or "masks are not evaluated" in err
    assert not (tmp_path / "none").exists()


def test_results_that_hit_nothing_are_remarked_upon(tmp_path, capsys):
    """They may be numbered for another file with the same ids and sizes, which nothing in bare boxes tells."""
    truth = as_json(coco.ground_truth(write_set(tmp_path, NUMBERED)), tmp_path)
    rows = [
        {"image_id": i, "category_id": 1, "bbox": [39, 29, 1, 1], "score": 0.5}
        for i in (image["id"] for image in truth["images"])
    ]
    (tmp_path / "found.json").write_text(json.dumps(rows))
    words = [str(tmp_path / "found.json"), f"data={tmp_path / 'truth.json'}", f"out={tmp_path / 'out'}"]
    assert main(["evaluate", *words]) == 0
    out = capsys.readouterr().out
    assert "no prediction hits an object: the detector has learnt nothing, or it saw other pictures" in out
    assert "masks are not evaluated: 12 of 12 predictions have no segmentation" in out
