"""balanced=True in `yolo train`: how often each class comes in detection and classification, and what is refused."""

import pickle
import random
from collections import Counter
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from conftest import bright_set, stock_loader
from test_dark_training import dataset
from test_train import train
from ultralytics.cfg import get_cfg
from ultralytics.data.dataset import ClassificationDataset
from ultralytics.engine.tuner import Tuner

from yolo_wnlb.yolo import balance
from yolo_wnlb.yolo.balance import Balance, BalancedItems
from yolo_wnlb.yolo.darkness import DarkLoader, check_resumed


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """Ten pictures: nine with an object of class 0 and one of class 1, and two without any; returns the data YAML."""
    file = bright_set(tmp_path_factory.mktemp("uneven"), train=12, val=4)
    for i in range(12):
        text = f"{int(i == 9)} .5 .5 .4 .4\n" if i < 10 else ""
        (file.parent / f"labels/train/{i}.txt").write_text(text)
    return file


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A data set for classification: nine pictures of one class and one of another."""
    root = tmp_path_factory.mktemp("folders")
    for split in ("train", "val"):
        for name, number in (("dark", 9), ("light", 1)):
            (root / split / name).mkdir(parents=True)
            for i in range(number):
                cv2.imwrite(str(root / split / name / f"{i}.png"), np.full((40, 40, 3), 20 * i, np.uint8))
    return root


def within_three_deviations(count, draws, share):
    """Tell whether a count is one that a binomial distribution would give."""
    return abs(count - draws * share) <= 3 * (draws * share * (1 - share)) ** 0.5


# ---- the draw --------------------------------------------------------------------------------------


def test_nine_to_one_is_drawn_one_to_one():
    torch.manual_seed(0)
    draw = Balance([{0}] * 900 + [{1}] * 100)
    rare = sum(draw() >= 900 for _ in range(4000))
    assert within_three_deviations(rare, 4000, 0.5)


def test_pictures_without_a_class_keep_their_share():
    torch.manual_seed(0)
    draw = Balance([{0}] * 60 + [{1}] * 10 + [set()] * 30)
    drawn = Counter(min(index // 30, 2) if index < 60 else 2 + (index >= 70) for index in (draw() for _ in range(4000)))
    assert within_three_deviations(drawn[3], 4000, 0.3) and within_three_deviations(drawn[2], 4000, 0.35)
    assert within_three_deviations(drawn[0], 4000, 0.175), "pictures of one class come equally often"


def test_a_picture_of_two_classes_comes_with_either():
    torch.manual_seed(0)
    draw = Balance([{0}, {0, 1}, {1}])
    drawn = Counter(draw() for _ in range(4000))
    assert within_three_deviations(drawn[1], 4000, 0.5)


def test_the_draw_has_numbers_of_its_own_that_differ_by_process():
    torch.manual_seed(5)
    states = random.getstate(), torch.get_rng_state().clone(), np.random.get_state()[1].copy()
    draw = Balance([{0}] * 50 + [{1}] * 50)
    first = [draw() for _ in range(20)]
    assert random.getstate() == states[0] and torch.equal(torch.get_rng_state(), states[1])
    assert np.array_equal(np.random.get_state()[1], states[2])
    copied = pickle.loads(pickle.dumps(draw))  # as a worker gets it, which has another seed
    torch.manual_seed(6)
    assert [copied() for _ in range(20)] != first
    torch.manual_seed(5)
    again = Balance([{0}] * 50 + [{1}] * 50)
    assert [again() for _ in range(20)] == first


# ---- the data sets ---------------------------------------------------------------------------------


def rare_share(items):
    """How often class 1 is in items that hold an object, and how many items there are."""
    held = [item["cls"].flatten() for item in items if len(item["cls"])]
    return sum(bool((classes == 1).any()) for classes in held), len(held)


@pytest.mark.parametrize("options", [{}, {"lowlight": "severe"}, {"lowlight": "severe", "denoise": "features"}])
def test_training_pictures_of_objects_are_balanced_and_those_of_validation_are_not(uneven, options, log):
    torch.manual_seed(0)
    built = dataset(uneven, "train", balanced=True, mosaic=0, translate=0, scale=0, task="detect", **options)
    assert isinstance(built.get_image_and_label, BalancedItems)
    assert not options or isinstance(built.load_image, DarkLoader)
    rare, drawn = rare_share(built[i % 12] for i in range(600))
    assert within_three_deviations(rare, drawn, 0.5) and within_three_deviations(600 - drawn, 600, 2 / 12)
    assert any("balanced: 2 classes with 1 to 9 pictures are drawn" in line for line in log)
    assert any("2 of 12 pictures hold no object and keep that share" in line for line in log)
    assert not isinstance(dataset(uneven, "val", balanced=True).get_image_and_label, BalancedItems)


def test_the_partners_of_a_mosaic_are_balanced_too(uneven):
    torch.manual_seed(0)
    built = dataset(uneven, "train", balanced=True, mosaic=1.0, task="detect")
    shown = []
    stock = type(built).load_image
    built.load_image = lambda i, *args, **kwargs: shown.append(i) or stock(built, i, *args, **kwargs)
    for i in range(100):
        built[i % 12]
    held = [built.labels[i]["cls"].max() for i in shown if len(built.labels[i]["cls"])]
    rare, common = held.count(1), held.count(0)
    assert len(shown) == 400 and within_three_deviations(rare, rare + common, 0.5)


def test_workers_draw_different_pictures(uneven):
    built = dataset(uneven, "train", balanced=True, mosaic=0, task="detect")
    with stock_loader(built, batch=6, workers=2, shuffle=True) as loader:
        files = [tuple(batch["im_file"]) for _ in range(3) for batch in loader]
    assert len(set(files)) == len(files) == 6


def test_classification_is_balanced_in_training_only(folders, log):
    torch.manual_seed(0)
    args = get_cfg(overrides={"task": "classify", "imgsz": 32, "balanced": True})
    built = ClassificationDataset(str(folders / "train"), args, augment=True, prefix="train")
    rare = sum(built[i % 10]["cls"] for i in range(600))
    assert within_three_deviations(rare, 600, 0.5)
    other = ClassificationDataset(str(folders / "val"), args, augment=False, prefix="val")
    assert [other[i]["cls"] for i in range(10)] == [0] * 9 + [1]
    plain = get_cfg(overrides={"task": "classify", "imgsz": 32})
    built = ClassificationDataset(str(folders / "train"), plain, augment=True, prefix="train")
    assert [built[i]["cls"] for i in range(10)] == [0] * 9 + [1]


# ---- training --------------------------------------------------------------------------------------


def test_a_classifier_trains_balanced_and_attacked_at_once(folders, tmp_path, log):
    options = {"adversarial": {"norm": "l2", "eps": 0.5, "steps": 1}, "balanced": True, "imgsz": 32}
    trainer = train(folders, tmp_path, "yolov8n-cls.yaml", **options)
    assert trainer.args.balanced is True
    assert any("balanced: 2 classes" in line for line in log) and any("adversarial: pgd, l2" in line for line in log)


def test_a_data_set_that_is_loaded_in_another_way_is_refused(uneven):
    built = dataset(uneven, "train", task="detect")
    with pytest.raises(RuntimeError, match="YOLODataset does not load pictures as the data sets of Ultralytics do"):
        balance.check_pipeline(built)
    balance.check_pipeline(dataset(uneven, "train", task="detect", balanced=True))


# ---- mistakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "more", "message"),
    [
        ("yes", {}, "balanced is 'yes'; wanted True or False"),
        (1, {}, "balanced is 1; wanted True or False"),
        (True, {"mode": "val"}, "balanced= is for yolo train; val sees each picture once"),
        (True, {"task": "semantic"}, "'semantic' has none in its label files"),
        (True, {"single_cls": True}, "one class needs no balance"),
        (True, {"rect": True}, "rect=True do not go together"),
    ],
)
def test_mistakes_are_answered_before_anything_is_built(request_, more, message):
    with pytest.raises(ValueError, match=message):
        balance.check_request({"mode": "train", "task": "detect", "balanced": request_, **more})


@pytest.mark.parametrize("off", [None, False])
def test_a_word_that_is_off_is_taken_out(off):
    cfg = {"mode": "val", "balanced": off}
    balance.check_request(cfg)
    assert cfg == {"mode": "val"}


def test_a_data_set_of_one_class_is_refused(tmp_path):
    file = bright_set(tmp_path, train=3, val=1)
    for i in range(3):
        (tmp_path / f"labels/train/{i}.txt").write_text("2 .5 .5 .4 .4\n")
    with pytest.raises(ValueError, match="the 3 training pictures hold 1 class; leave it out"):
        dataset(file, "train", balanced=True, task="detect")


def test_a_data_set_of_phrases_is_refused():
    built = SimpleNamespace(augment=True, json_file="phrases.json")
    with pytest.raises(ValueError, match="a grounding data set has phrases"):
        balance.attach(built, SimpleNamespace(balanced=True))


def test_a_resumed_run_keeps_its_request_and_tune_does_not_know_the_word():
    with pytest.raises(ValueError, match="balanced=True cannot be given on resume"):
        check_resumed("balanced", True, None)
    with pytest.raises(ValueError, match="tune does not know balanced="):
        Tuner(args={"balanced": True})
