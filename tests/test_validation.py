"""What is refused before it does harm: one check for the types, values and ids of truths and predictions."""

import copy
import re

import numpy as np
import pytest

from yolo_wnlb.data import coco, validation
from yolo_wnlb.metrics.average_precision import evaluate

NAN, INF = float("nan"), float("inf")
SQUARE = [10, 6, 20, 6, 20, 18, 10, 18]


@pytest.fixture
def truth():
    """Two images, 20 high and 30 wide, with an outline and an RLE."""
    mask = np.zeros((1, 20, 30), bool)
    mask[0, 5:9, 3:12] = True
    [rle] = coco.encode(mask)
    shapes = [[[3, 5, 12, 5, 12, 9, 3, 9]], rle]
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "height": 20, "width": 30} for i in (1, 2)],
        "annotations": [
            {"id": i + 10, "image_id": i, "category_id": i, "segmentation": s, "bbox": [3, 5, 9, 4], "area": 36}
            for i, s in zip((1, 2), shapes)
        ],
        "categories": [{"id": i, "name": name} for i, name in enumerate(("cat", "dog", "owl"), 1)],
    }


def predicted(truth, **changes):
    """The objects of a truth as predictions, all with these changes."""
    mask = truth["annotations"][1]["segmentation"]
    keys = ("image_id", "category_id", "bbox")
    return [{**{k: a[k] for k in keys}, "segmentation": mask, "score": 0.5, **changes} for a in truth["annotations"]]


def rle(counts, size=(20, 30)):
    return {"size": list(size), "counts": counts}


# ---- values --------------------------------------------------------------------------------------

ID = "wanted a whole number or a text"
BOX = "wanted four numbers x, y, width, height in pixels, no side negative"
BROKEN = "has a broken RLE in its segmentation: wanted runs, none negative, that fill 20 x 30 pixels"
BOTH = [  # changes of an annotation or a prediction, and what is said of them
    *(({"image_id": v}, f"has image_id {v!r}; {ID}") for v in (None, True, 1.0, NAN, [1], "")),
    *(({"category_id": v}, f"has category_id {v!r}; {ID}") for v in (None, False, 1.0, {})),
    *(
        ({"bbox": v}, f"has bbox {v!r}; {BOX}")
        for v in (None, [], [1, 2, 3], [1, 2, 3, 4, 5], "1234", 5, [1, 2, None, 4], [1, 2, NAN, 4], [1, INF, 3, 4])
    ),
    *(({"bbox": v}, BOX) for v in ([1, 2, -3, 4], [1, 2, 3, -1e-9], [1, 2, "3", 4], [1, True, 3, 4], [0, 0, 1e300, 4])),
    ({"bbox": [31, 5, 9, 4]}, "has the box [31, 5, 9, 4], far outside its picture (1, 30 x 20)"),
    ({"bbox": [-9, 5, 8, 4]}, "far outside its picture"),
    ({"bbox": [3, 5, 90, 4]}, "far outside its picture"),
    *(({"segmentation": v}, f"has a segmentation that is {v!r}; wanted") for v in ("text", 5, True)),
    ({"segmentation": {}}, "has a segmentation that is no RLE, {}; wanted size [height, width], whole numbers, and co"),
    ({"segmentation": rle(None)}, "has a segmentation that is no RLE"),
    ({"segmentation": {"size": 600, "counts": "0"}}, "has a segmentation that is no RLE"),
    ({"segmentation": rle("0", (30, 20))}, "width and height are exchanged"),
    ({"segmentation": rle("0", (160, 160))}, "masks belong at the size of the image file"),
    *(({"segmentation": rle("0", v)}, "has a segmentation that is no RLE") for v in ((20.0, 30), ("20", "30"))),
    *(({"segmentation": rle(v)}, BROKEN) for v in ("Q24", "", "é", [1, 2, 3], [], [610, -20, 10], [600.0], [NAN, 600])),
    *(({"segmentation": rle(v)}, BROKEN) for v in ([None, 600], ["600"], [True, 599], [[600]], [10**400])),
]
TRUTH = [  # changes of an annotation of a truth
    *(({"id": v}, f"has id {v!r}; {ID}") for v in (None, True, 2.0)),
    ({"id": 12}, "several annotations have the id 12"),
    ({"id": "12"}, "annotation '12' has id '12', another one has 12; wanted numbers or texts throughout"),
    ({"image_id": 3}, "annotations have image ids that it lacks: 3; it has 1, 2"),
    ({"category_id": 0}, "annotations have category ids that it lacks: 0"),
    *(({"iscrowd": v}, f"has iscrowd {v!r}; wanted 0 or 1") for v in (None, True, 0.0, 2, "0")),
    *(
        ({"area": v}, f"has area {v!r}; wanted square pixels, 0 or more")
        for v in (None, NAN, INF, -1, "36", True, 1e300)
    ),
    *(({"segmentation": [v]}, "has an outline that is") for v in (None, 5, "1, 2")),
    *(({"segmentation": [v]}, "wanted three points or more") for v in ([], [1, 1, 5, 5], [1, 1, 5, 1, 5, 5, 9])),
    *(
        ({"segmentation": [SQUARE, [1, 1, v, 1, 5, 5]]}, f"has an outline with the coordinate {v!r}; wanted finite")
        for v in (None, NAN, INF, "5", True, [5], 10**20)
    ),
    ({"segmentation": SQUARE}, "has an outline that is 10; wanted a list of outlines"),
    ({"segmentation": [[1, 1, 61, 1, 5, 5]]}, "has an outline that reaches 61, far outside its picture of 30 x 20"),
    ({"segmentation": [[1, 1, 5, -21, 5, 5]]}, "has an outline that reaches -21, far outside"),
]
RESULT = [  # changes of a prediction
    *(({"score": v}, f"has score {v!r}; wanted 0 to 1") for v in (None, NAN, 93.5, -0.1, "high", True, [0.5])),
    ({"image_id": 3}, "1 of 1 image ids of the predictions are not in the truth: 3; it has 1, 2; all fit once 1 is"),
    ({"image_id": "1"}, "texts are no numbers"),
    ({"category_id": 0}, "category ids of the predictions are not in the truth: 0; it has 1, 2, 3; all fit once 1"),
    ({"category_id": 77}, "made for another split"),
    ({"segmentation": [SQUARE]}, "wanted an RLE (size [height, width], counts)"),
    ({"bbox": [3, 5, 34, 4]}, "prediction 0 has the box [3, 5, 34, 4], far outside its picture"),
]


@pytest.mark.parametrize(("change", "told"), BOTH + TRUTH, ids=str)
def test_an_annotation_that_cannot_be_right_is_named(truth, change, told):
    truth["annotations"][0].update(change)
    with pytest.raises(ValueError, match=re.escape(told)) as error:
        validation.check_truth(truth, "val.json")
    assert str(error.value).startswith("val.json: ")
    if "id" not in change and "lacks" not in told:
        assert "annotation 11 " in str(error.value)
    with pytest.raises(ValueError, match=re.escape(told)):  # nothing of it reaches pycocotools
        evaluate(truth, [])


@pytest.mark.parametrize(("change", "told"), BOTH + RESULT, ids=str)
def test_a_prediction_that_cannot_be_right_is_named(truth, change, told):
    with pytest.raises(ValueError, match=re.escape(told)) as error:
        validation.check_predictions(truth, predicted(truth, **change), "found.json")
    assert str(error.value).startswith("found.json: ")
    assert "prediction 0 " in str(error.value) or "of the predictions" in str(error.value)
    with pytest.raises(ValueError, match=re.escape(told)):
        evaluate(truth, predicted(truth, **change))


@pytest.mark.parametrize(
    ("key", "change", "told"),
    [
        *(("images", {"id": v}, f"has id {v!r}; {ID}") for v in (None, True, 1.5)),
        ("images", {"id": 2}, "several images have the id 2"),
        ("images", {"id": "1"}, "wanted numbers or texts throughout"),
        *(("images", {"file_name": v}, f"image 1 has file_name {v!r}; wanted a text") for v in (None, "", 5, "a\0b")),
        *(
            ("images", {"width": v}, f"image 1 has width {v!r}; wanted a whole number of pixels, 1 or more")
            for v in (None, 0, -5, 30.0, NAN, "30", True, 10**20)
        ),
        ("images", {"height": 0}, "image 1 has height 0"),
        ("images", {"width": 10**6, "height": 10**6}, "image 1 is 1000000 x 1000000; wanted fewer than"),
        *(("categories", {"id": v}, f"has id {v!r}; {ID}") for v in (None, True, 1.5)),
        ("categories", {"id": 2}, "several categories have the id 2"),
        *(("categories", {"name": v}, f"category 1 has name {v!r}; wanted a text") for v in (None, "", 5)),
        ("categories", {"name": "dog"}, "several categories have the name dog"),
    ],
    ids=str,
)
def test_an_image_or_category_that_cannot_be_right_is_named(truth, key, change, told):
    truth[key][0].update(change)
    with pytest.raises(ValueError, match=re.escape(told)):
        validation.check_truth(truth)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        *(({key: value}, "wanted the lists images") for key in validation.KEYS for value in (None, {}, "x")),
        *(
            ({key: [value]}, f"entry 0 of {key} is {value!r}")
            for key in validation.KEYS
            for value in (None, [], "x", 5)
        ),
        ({"images": [{"id": 1}]}, "entry 0 of images lacks file_name, width, height"),
        ({"annotations": [{}]}, "entry 0 of annotations lacks image_id, category_id, bbox"),
        ({"images": []}, "has no images"),
        ({"categories": []}, "has no categories"),
    ],
    ids=str,
)
def test_what_is_no_coco_file_is_refused(truth, change, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        validation.check_truth({**truth, **change})
    for other in (None, [], "x"):
        with pytest.raises(ValueError, match="is no COCO annotation file"):
            validation.check_truth(other)


@pytest.mark.parametrize("predictions", [None, "text", {"a": 1}, 5])
def test_what_is_no_list_of_predictions_is_refused(truth, predictions):
    with pytest.raises(ValueError, match="wanted a list of COCO results"):
        validation.check_predictions(truth, predictions)


@pytest.mark.parametrize("entry", [None, [], "text", {"image_id": 1, "score": 1}, {"image_id": 1, "category_id": 1}])
def test_entries_that_are_no_predictions_are_refused(truth, entry):
    with pytest.raises(ValueError, match=r"prediction 0 .*; wanted image_id, category_id, score and bbox or segm"):
        validation.check_predictions(truth, [entry])
    with pytest.raises(ValueError, match="wanted bbox or segmentation too"):
        validation.check_predictions(truth, [{"image_id": 1, "category_id": 1, "score": 1}])


def test_what_fits_passes(truth):
    validation.check_truth(truth)
    rows = truth["annotations"]
    rows[0].update(iscrowd=np.int64(1), area=np.float32(36), bbox=(np.float64(3), 5, 9, np.int64(4)))
    rows += [{**rows[1], "id": 20, "segmentation": none, "bbox": [0.0, 0, 30, 0]} for none in (None, [])][:1]
    rows += [{k: v for k, v in rows[1].items() if k not in ("id", "area", "segmentation")}]  # what may be missing
    rows += [{**rows[1], "id": 21, "segmentation": rle([0, 600]), "bbox": [-20, 5, 40, 4]}]  # an amodal box
    validation.check_truth(truth)
    validation.check_predictions(truth, predicted({**truth, "annotations": rows[:2]}, score=np.float32(0.5)))
    validation.check_predictions(
        truth, predicted(truth, bbox=[-19, 5, 40, 4], segmentation=None)
    )  # as far as the truth
    validation.check_predictions(truth, [])
    texts = copy.deepcopy(truth)
    for entry in texts["images"]:
        entry["id"] = f"image {entry['id']}"
    for entry in texts["annotations"]:
        entry["image_id"] = f"image {entry['image_id']}"
    validation.check_truth(texts)


# ---- ids -----------------------------------------------------------------------------------------


def ids(truth, images=None, categories=None, gaps=()):
    """The truth with so many images and categories, ids from 1 without gaps."""
    images = [{**truth["images"][0], "id": i} for i in range(1, images + 1)] if images else truth["images"]
    numbers = [i for i in range(1, 100) if i not in gaps][:categories]
    categories = [{"id": i, "name": f"class {i}"} for i in numbers] if categories else truth["categories"]
    return {"images": images, "categories": categories, "annotations": []}


def test_shifted_ids_are_recognised(truth):
    """Class indices for ids, the 80 classes for the 91 ids, and the reverse."""
    one, *_ = predicted(truth)
    coco91, plain = ids(truth, 9, 80, validation.COCO_GAPS), ids(truth, 9, 80)
    for given, found, told in (
        (plain, range(80), "all fit once 1 is added: counted from 0?"),
        (coco91, range(80), "class numbers up to 80, where the truth has COCO's ids up to 90"),
        (coco91, range(1, 81), "class numbers up to 80, where the truth has COCO's ids up to 90"),
        (plain, [c["id"] for c in coco91["categories"]], "COCO's ids up to 90, where the truth counts up to 80"),
    ):
        with pytest.raises(ValueError, match=re.escape(told)):
            validation.check_predictions(given, [{**one, "category_id": i} for i in found])
    with pytest.raises(ValueError, match="counted from 0"):
        validation.check_predictions(plain, [{**one, "image_id": i} for i in range(9)])
    validation.check_predictions(coco91, predicted(truth, category_id=90))


# ---- run lengths ---------------------------------------------------------------------------------


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
    long = coco.encode(rng.random((1, 400, 400)) < 0.5)[0]["counts"]  # longer than what is checked at once
    texts += [long, long[:-1], f"{long}0", *texts]
    whole = [runs(text) for text in texts]
    assert validation.run_totals(texts) == whole
    assert len(set(whole)) > 20  # it is a test of something
    assert len(long) > validation.PART_BYTES
    assert validation.run_totals([[3, 4], texts[-1], [3, -1], [], [2.0], [True]]) == [7, whole[-1], -1, 0, -1, -1]
    assert validation.run_totals(["", "~~~~", "é", "ooooooooooo0", "PPPP"]) == [-1] * 5
