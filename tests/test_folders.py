"""Pictures with one class each: drawn worlds, class folders, CIFAR-10, and `yolo-wnlb sort`."""

import hashlib
import inspect
import json
import pickle
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import shapes_set

from yolo_wnlb.calibrate.sources import files_in
from yolo_wnlb.data import folders, worlds
from yolo_wnlb.data.folders import read
from yolo_wnlb.data.sorting import WAYS, cut_out, sort, why_no_scene
from yolo_wnlb.data.worlds import (
    CONTAINERS,
    CONTEXTS,
    GROUNDS,
    LEVELS,
    OUTLINES,
    TESTED,
    draw_containers,
    draw_contexts,
    draw_crops,
    filling_height,
    kinds_of,
)
from yolo_wnlb.visualize.pictures import pictures_in

SMALL = "containers:S1,train=16,test=9,size=32"


def class_set(root, **pictures):
    """Make class folders; each keyword names a file, train__cup__a for train/cup/a.png."""
    for number, name in enumerate(pictures):
        file = root.joinpath(*name.split("__")).with_suffix(".png")
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), np.full((20, 30, 3), 10 * number, np.uint8))
    return root


# ---- containers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("profile", "level", "height"),
    [
        ([(0, 1), (1, 1)], 0.5, 0.5),  # a cylinder
        ([(0, 0), (1, 1)], 0.5, 0.5 ** (1 / 3)),  # a cone on its tip
        ([(0, 1), (1, 0)], 0.5, 1 - 0.5 ** (1 / 3)),  # a cone on its base
        ([(0, 1), (0.5, 1), (1, 1)], 0.9, 0.9),
        ([(0, 0.68), (1, 1)], 0.5, ((0.68**3 + 1) / 2) ** (1 / 3) / 0.32 - 0.68 / 0.32),  # a frustum
        ([(0, 0.3), (0.4, 1), (1, 0.8)], 0.0, 0.0),
        ([(0, 0.3), (0.4, 1), (1, 0.8)], 1.0, 1.0),
    ],
)
def test_a_level_is_a_share_of_the_volume(profile, level, height):
    assert filling_height(profile, level) == pytest.approx(height, abs=1e-9)


def test_heights_of_every_container_give_back_the_level_by_integration():
    for name, container in CONTAINERS.items():
        for level in (0.1, 0.5, 0.9):
            z = np.linspace(0, 1, 200_001)
            below = z <= filling_height(container.profile, level)
            volume = np.interp(z, *zip(*container.profile)) ** 2
            assert volume[below].sum() / volume.sum() == pytest.approx(level, abs=1e-4), name


def test_half_a_cocktail_glass_stands_higher_than_half_a_beer_cup():
    heights = {name: filling_height(CONTAINERS[name].profile, 0.5) for name in CONTAINERS}
    assert heights["cocktail glass"] == pytest.approx(0.78, abs=0.005)
    assert heights["beer cup"] == pytest.approx(0.59, abs=0.005)


@pytest.mark.parametrize("test_set", ["S1", "S2", "S3"])
def test_no_container_of_a_test_set_is_learnt_from(test_set):
    train, test = (
        read(f"containers:{test_set},train=30,size=32", "train"),
        read(f"containers:{test_set},test=30,size=32", "test"),
    )
    assert not {*train.groups} & {*test.groups} and {*test.groups} == {*TESTED[test_set]}
    assert {*train.groups} | {*test.groups} == CONTAINERS.keys()
    assert Counter(test.groups) == dict.fromkeys(TESTED[test_set], 10)


@pytest.mark.parametrize("test_set", TESTED)
def test_every_clear_container_shows_every_level_equally_often_and_opaque_ones_are_unknown(test_set):
    for split in ("train", "test"):
        kinds = kinds_of(test_set, split)
        drawn = draw_containers(test_set, split, 6 * len(kinds), 32, 0)
        counts = Counter(zip(drawn.groups, (LEVELS[label] for label in drawn.labels)))
        for name in kinds:
            levels = {"unknown": 6} if CONTAINERS[name].opacity == 1 else {"0 %": 2, "50 %": 2, "90 %": 2}
            assert {level: n for (kind, level), n in counts.items() if kind == name} == levels


def test_the_same_seed_draws_the_same_bytes_in_another_process_and_for_another_count():
    here = [draw_containers("S3", "test", 5, 40, 7).images, draw_crops("val", 5, 40, 7).images]
    here += [draw_contexts(name, "train", 5, 40, 7).images for name in CONTEXTS]
    code = (
        "import hashlib; from yolo_wnlb.data.worlds import *; "
        "print(*(hashlib.sha256(d.images[:5].tobytes()).hexdigest() "
        "for d in (draw_containers('S3', 'test', 7, 40, 7), draw_crops('val', 7, 40, 7), "
        "*(draw_contexts(name, 'train', 7, 40, 7) for name in CONTEXTS))))"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert there == [hashlib.sha256(images.tobytes()).hexdigest() for images in here]
    other = draw_containers("S3", "test", 5, 40, 8).images
    assert not any(np.array_equal(a, b) for a, b in zip(here[0], other)), "each picture follows from the seed"
    train = draw_containers("all", "train", 5, 40, 7).images
    assert not any(np.array_equal(a, b) for a, b in zip(train, draw_containers("all", "test", 5, 40, 7).images))


def test_the_level_can_be_seen_in_a_clear_container_and_not_in_an_opaque_one():
    def pictures(name):
        return [worlds.container_picture(CONTAINERS[name], level, np.random.default_rng(3), 64) for level in (0.0, 0.9)]

    for name, container in CONTAINERS.items():
        empty, full = (image.astype(int) for image in pictures(name))
        # a filled one draws more random numbers, so that only pixels of the ground are sure to agree
        changed = np.abs(empty - full).mean(2)[24:40, 24:40].mean()
        assert container.opacity == 1 or changed > 4, (name, changed)
    assert all(0 < image.mean() < 255 for image in pictures("wine glass"))


def test_crops_show_the_five_outlines_in_turn():
    crops = read("shapes:crops,train=10,size=32", "train")
    assert crops.classes == ("disc", "box", "triangle", "star", "crescent") and crops.labels == (0, 1, 2, 3, 4) * 2
    assert crops.read(3).shape == (32, 32, 3) and crops.read(3).std() > 10


# ---- outlines in contexts ------------------------------------------------------------------------


def test_two_outlines_go_with_each_of_four_grounds():
    assert len(GROUNDS) == 4 and len({*OUTLINES}) == 8 and all(len(pair) == 2 for pair in GROUNDS.values())
    assert CONTEXTS["similar"] in GROUNDS.values(), "two outlines of one ground"
    assert all(len({*pair} & {*CONTEXTS["dissimilar"]}) == 1 for pair in GROUNDS.values()), "one of each ground"


@pytest.mark.parametrize(("rho", "share"), [(None, 0.9), (0.25, 0.25), (1.0, 1), (0.0, 0)])
@pytest.mark.parametrize("name", ["all", "similar", "dissimilar"])
def test_the_ground_goes_with_the_outline_in_a_share_rho_of_the_pictures(name, rho, share, monkeypatch):
    drawn, blank = [], np.ones((32, 32, 3))
    monkeypatch.setattr(worlds, "ground_of_kind", lambda kind, rng, size: drawn.append(kind) or blank)
    monkeypatch.setattr(worlds, "place_outline", lambda image, name, rng: (0, 0, 1, 1))
    found = draw_contexts(name, "test", 2000, 32, 0, *([] if rho is None else [rho]))
    own = [found.classes[label] in GROUNDS[kind] for label, kind in zip(found.labels, drawn)]
    assert [group == "own ground" for group in found.groups] == own
    assert abs(np.mean(own) - share) <= 3 * (share * (1 - share) / 2000) ** 0.5, "3 standard deviations of the binomial"
    others = Counter(kind for kind, agrees in zip(drawn, own) if not agrees)
    assert rho == 1 or {*others} == ({*GROUNDS} - {"stripes"} if name == "similar" else {*GROUNDS})
    assert Counter(found.labels) == dict.fromkeys(range(len(found.classes)), 2000 // len(found.classes))


def test_another_rho_changes_the_ground_and_not_the_outline():
    first, second = (draw_contexts("all", "train", 40, 48, 3, rho) for rho in (1.0, 0.0))
    assert first.labels == second.labels and first.boxes == second.boxes
    assert not any(np.array_equal(a, b) for a, b in zip(first.images, second.images))
    some = draw_contexts("all", "train", 40, 48, 3, 0.5)
    for image, group, on_own, on_other in zip(some.images, some.groups, first.images, second.images):
        assert np.array_equal(image, on_own if group == "own ground" else on_other)


def test_a_foreground_network_sees_outlines_on_any_ground_and_a_background_network_grounds_alone(monkeypatch):
    drawn, ground_of_kind = [], worlds.ground_of_kind
    monkeypatch.setattr(
        worlds, "ground_of_kind", lambda kind, rng, size: drawn.append(kind) or ground_of_kind(kind, rng, size)
    )
    outlines = draw_contexts("outlines", "train", 400, 32, 0)
    counts = Counter(zip((outlines.classes[label] for label in outlines.labels), drawn))
    assert len(counts) == 8 * 4 and max(counts.values()) < 30, "50 of each outline, evenly on 4 grounds"
    drawn.clear()
    grounds = draw_contexts("grounds", "train", 8, 32, 0)
    assert [grounds.classes[label] for label in grounds.labels] == drawn == [*GROUNDS] * 2
    assert not any(grounds.boxes) and read("contexts:grounds,train=8,size=32", "train").boxes is None


@pytest.mark.parametrize("name", OUTLINES)
def test_the_box_of_an_outline_holds_all_of_it_and_touches_it_on_four_sides(name):
    for seed in range(5):
        image = np.full((64, 64, 3), 0.5, np.float32)
        x, y, wide, high = worlds.place_outline(image, name, np.random.default_rng(seed))
        moved = np.abs(image - 0.5).max(2) > 0.2
        rows, columns = np.nonzero(moved.any(1))[0], np.nonzero(moved.any(0))[0]
        assert y - 3 <= rows.min() and rows.max() <= y + high + 7, "with its soft edge and shadow"
        assert x - 7 <= columns.min() and columns.max() <= x + wide + 7
        assert min(x, y) >= 0 and max(x + wide, y + high) <= 64 and min(wide, high) > 10


def test_boxes_of_drawn_pictures_are_read_with_them_and_chosen_with_them():
    data = read("contexts:all,test=16,size=32", "test")
    assert len(data.boxes) == 16 and all(len(boxes) == 1 and len(boxes[0]) == 4 for boxes in data.boxes)
    some = data.only([3, 1])
    assert some.boxes == (data.boxes[3], data.boxes[1]) and some.names == (data.names[3], data.names[1])
    assert np.array_equal(some.read(0), data.read(3)) and len(some) == 2 and some.digest != data.digest
    assert read(SMALL, "test").boxes is None and read(SMALL, "test").only([0]).boxes is None


# ---- class folders -------------------------------------------------------------------------------


def test_a_class_folder_is_read_with_its_groups(tmp_path):
    root = class_set(tmp_path, train__cup__a=1, train__cup__red__b=1, train__glass__x__y__c=1, test__glass__d=1)
    train, test = read(root, "train"), read(root, "test")
    assert train.classes == test.classes == ("cup", "glass")
    assert train.names == ("cup/a.png", "cup/red/b.png", "glass/x/y/c.png") and train.labels == (0, 0, 1)
    assert train.groups == ("", "red", "x/y") and test.labels == (1,)
    assert test.notes == ("test has no picture of class cup",) and train.notes == ()
    assert train.read(1).shape == (20, 30, 3) and train.read(1)[0, 0, 0] == 10
    assert train.images[1] == {"id": 1, "file_name": "cup/red/b.png", "group": "red"}
    assert train.digest != test.digest
    (root / "train/cup/a.png").write_bytes((root / "train/cup/a.png").read_bytes() + b"\0")
    assert read(root, "train").digest != train.digest


def test_a_drawn_set_and_the_folder_that_holds_its_pictures_are_read_alike(tmp_path):
    drawn = read(SMALL, "train")
    for number, name in enumerate(drawn.names):
        file = tmp_path / "train" / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), drawn.read(number))
    folder = read(tmp_path, "train")
    order = [folder.names.index(f"{name}.png") for name in drawn.names]
    assert [folder.groups[i] for i in order] == list(drawn.groups)
    assert all(np.array_equal(folder.read(i), drawn.read(n)) for n, i in enumerate(order))


def test_cifar_is_read_where_it_lies(tmp_path, monkeypatch):
    """Without its 170 MB: torchvision's reader on batches of ten pictures, whose hashes are not checked."""
    from torchvision.datasets import CIFAR10

    batches = tmp_path / "cifar-10-batches-py"
    batches.mkdir()
    pixels, labels = np.zeros((10, 3, 32, 32), np.uint8), [3, 0, 1, 2, 4, 5, 6, 7, 8, 9]
    pixels[0, 0] = 200  # red
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        (batches / name).write_bytes(pickle.dumps({"data": pixels.reshape(10, -1), "labels": labels}))
    (batches / "batches.meta").write_bytes(pickle.dumps({"label_names": list(folders.CIFAR)}))
    with pytest.raises(FileNotFoundError, match=r"CIFAR-10 is not in .*, or a file of it is damaged; unpack"):
        read(f"cifar10:{tmp_path}", "test")
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5=None: True)
    for place in (tmp_path, batches):
        test = read(f"cifar10:{place}", "test")
        assert len(test) == 10 and len(read(f"cifar10:{place}", "train")) == 50
        assert [test.classes[label] for label in test.labels[:2]] == ["cat", "airplane"]
        assert test.read(0)[0, 0].tolist() == [0, 0, 200], "BGR"


MISTAKES = [  # source, split, what the message must say; files are made of the keywords
    ({}, "nowhere", "train", r"there is no folder nowhere; give a folder with train/ and val/ or test/"),
    ({}, "container:S1", "train", r"there is no folder container:S1 \(did you mean 'containers:S1'\?\)"),
    ({}, "containers:S4", "train", r"no containers:S4; choose from containers:S1, containers:S2"),
    ({}, "containers:S1,sise=64", "train", r"no number 'sise' \(did you mean 'size'\?\)"),
    ({}, "containers:S1,size=16", "train", r"size is '16'; wanted a whole number, 32 or more"),
    ({}, "containers:S1,size=40,size=50", "train", r"size is given twice; leave out one"),
    ({}, "containers:S1,train=999999999", "train", r"take more than 2 GiB of memory; give a smaller train= or size="),
    ({}, "containers:S1,train=4.5", "train", r"train is '4\.5'; wanted a whole number, 1 or more"),
    ({}, "containers:S1,train=2", "train", r"no picture of class '50 %' among 2 of train; give it more pictures"),
    (
        {},
        "contexts:unknown",
        "train",
        r"no contexts:unknown; choose from contexts:all, contexts:similar, contexts:dissimilar, contexts:outlines, ",
    ),
    ({}, "contexts:al", "train", r"no contexts:al \(did you mean 'all'\?\)"),
    ({}, "contexts:all,rho=1.2", "train", r"rho is '1\.2'; wanted a share of the pictures, from 0 to 1"),
    ({}, "contexts:all,rho=nan", "train", r"rho is 'nan'; wanted a share of the pictures, from 0 to 1"),
    ({}, "contexts:all,rho=", "train", r"rho is ''; wanted a share of the pictures, from 0 to 1"),
    ({}, "contexts:outlines,rho=0.5", "train", r"no ground goes with an outline in contexts:outlines; leave out rho"),
    ({}, "containers:S1,rho=0.5", "train", r"no number 'rho'; choose from train, test, size, seed"),
    ({}, "contexts:all", "val", r"contexts:all has no split 'val'; choose from train, test"),
    ({}, "containers:S1", "val", r"containers:S1 has no split 'val'; choose from train, test"),
    ({}, "containers:S1", "tset", r"no split 'tset' \(did you mean 'test'\?\); choose from train, val, test"),
    ({}, "cifar10:nowhere", "val", r"no split 'val'; choose from train, test"),
    ({"cup__a": 1}, ".", "train", r"has no folder train/: it has no split at all; move its class folders"),
    ({"train__cup__a": 1, "train__b__a": 1}, ".", "test", r"has no folder test/: it has train/"),
    (
        {"train__cup__a": 1, "train__b__a": 1, "test__mug__a": 1},
        ".",
        "test",
        r"class 'mug' has pictures in test/ and none in train/",
    ),
    ({"train__cup__a": 1}, ".", "train", r"the only class is 'cup'; a classifier wants two class folders or more"),
    ({"train__cup__a": 1, "train__b": 1}, ".", "train", r"train/b\.png lies in no class folder \(1 pictures do\)"),
]


@pytest.mark.parametrize(("files", "source", "split", "message"), MISTAKES, ids=[m[3][:40] for m in MISTAKES])
def test_a_wrong_source_is_answered_with_what_was_found_and_wanted(
    files, source, split, message, tmp_path, monkeypatch
):
    class_set(tmp_path, **files)
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read(source, split)


def test_an_empty_class_folder_and_a_broken_picture_are_named(tmp_path):
    root = class_set(tmp_path, train__cup__a=1, train__glass__b=1)
    (root / "train/mug").mkdir()
    with pytest.raises(ValueError, match=r"train/mug holds no picture; put some there, or remove the folder"):
        read(root, "train")
    (root / "train/mug").rmdir()
    (root / "train/cup/a.png").write_bytes(b"half a picture")
    train = read(root, "train")
    with pytest.raises(OSError, match=r"a\.png cannot be read as an image"):
        train.read(0)
    with pytest.raises(ValueError, match=r"a\.png cannot be read as an image \(1 of 2 files cannot\)"):
        train.read.check()


def test_pictures_travel_to_the_processes_that_load_them(tmp_path):
    folder = class_set(tmp_path, train__cup__a=1, train__glass__b=1)
    for source in (folder, SMALL, "shapes:crops,train=5,size=32"):
        data = read(source, "train")
        there = pickle.loads(pickle.dumps(data))
        assert np.array_equal(there.read(1), data.read(1)) and there.labels == data.labels


# ---- sort ----------------------------------------------------------------------------------------


def test_sort_by_objects_cuts_every_object_out_with_its_margin(tmp_path, capsys):
    from yolo_wnlb.cli import main
    from yolo_wnlb.data import coco

    yaml = shapes_set(tmp_path / "shapes", train=3, val=2)
    assert main(["sort", str(yaml), f"out={tmp_path / 'objects'}", "by=objects", "margin=0"]) == 0
    for split in ("train", "val"):
        truth = coco.ground_truth(yaml, split)
        found = (
            read(tmp_path / "objects", "train") if split == "train" else folders.class_folders(tmp_path / "objects/val")
        )
        names = {category["id"]: category["name"] for category in truth["categories"]}
        wanted = Counter(names[annotation["category_id"]] for annotation in truth["annotations"])
        counts = (
            Counter(found.classes[label] for label in found.labels)
            if split == "train"
            else Counter({name: len(files) for name, files in found.items()})
        )
        assert counts == wanted
    assert re.search(rf"train: {len(read(tmp_path / 'objects', 'train'))} pictures", capsys.readouterr().out)
    one = next(iter(truth["annotations"]))
    image = cv2.imread(str(coco.image_files(truth, yaml, "val")[one["image_id"]]))
    cut = cut_out(image, one["bbox"], 0.0)
    x, y, wide, high = one["bbox"]
    assert cut.shape[:2] == (np.ceil(y + high) - np.floor(y), np.ceil(x + wide) - np.floor(x))
    assert cut_out(image, [image.shape[1], image.shape[0], 5, 5], 0.0).shape == (1, 1, 3), "at the last border"
    wider = cut_out(image, one["bbox"], 0.5)
    assert wider.shape[0] > cut.shape[0] and cut_out(image, [0, 0, 64, 64], 1.0).shape == (64, 64, 3)
    same = [np.array_equal(cut, cv2.imread(str(file))) for file in (tmp_path / "objects/val").rglob("*.png")]
    assert sum(same) == 1


def test_objects_of_a_class_that_cannot_be_learnt_are_left_out_and_counted(tmp_path):
    yaml = shapes_set(tmp_path / "shapes", train=3, val=2)
    for label in (tmp_path / "shapes/labels/train").glob("*.txt"):
        label.write_text("".join(line for line in label.read_text().splitlines(True) if line[0] != "0"))
    val = [f.read_text().splitlines() for f in sorted((tmp_path / "shapes/labels/val").glob("*.txt"))]
    (tmp_path / "shapes/labels/val/000000.txt").write_text("\n".join([*val[0], "0 0.1 0.1 0.5 0.1 0.5 0.5"]))
    result = sort(yaml, tmp_path / "out")
    discs = 1 + sum(line[0] == "0" for lines in val for line in lines)
    assert result.left_out["objects of classes that no picture of train has"] >= discs
    assert f"left out: {result.left_out['objects of classes that no picture of train has']} objects of" in str(result)
    assert "disc" not in result.counts["train"] and {*result.counts["val"]} <= {*result.counts["train"]}
    read(tmp_path / "out", "val")


def test_sort_by_groups_makes_the_splits_of_the_paper(tmp_path):
    source = class_set(tmp_path / "all", half__flute__a=1, half__cup__b=1, full__mug__c=1, full__flute__d=1)
    result = sort(source, tmp_path / "s1", by="groups", test=["flute"])
    assert result.counts == {"train": {"full": 1, "half": 1}, "test": {"full": 1, "half": 1}}
    assert read(tmp_path / "s1", "test").names == ("full/flute/d.png", "half/flute/a.png")
    assert {*read(tmp_path / "s1", "train").groups} == {"cup", "mug"}
    assert (source / "half/flute/a.png").is_file(), "the source is left as it is"
    assert str(result).splitlines()[1] == "train: 2 pictures (1 full, 1 half)"


def photos(root, *pictures):
    """Make a detection data set of 100 x 100 pixels; a picture is split, name and objects, each class and box xywh."""
    names = ["cat", "dog", "cow"]
    for split, name, *objects in pictures:
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        picture = np.random.default_rng(len(name)).integers(0, 256, (100, 100, 3), np.uint8)
        cv2.imwrite(str(root / f"images/{split}/{name}.png"), picture)
        lines = [
            f"{names.index(kind)} {(x + w / 2) / 100} {(y + h / 2) / 100} {w / 100} {h / 100}"
            for kind, (x, y, w, h) in objects
        ]
        (root / f"labels/{split}/{name}.txt").write_text("\n".join(lines))
    (root / "data.yaml").write_text(f"path: {root}\ntrain: images/train\nval: images/val\nnames: {names}\n")
    return root / "data.yaml"


SMALL_BOX, HALF = (10, 20, 30, 40), (0, 0, 100, 50)


def scenes(kind, count, split="train", box=SMALL_BOX):
    return [(split, f"{kind}{split}{number}", (kind, box)) for number in range(count)]


def test_sort_by_scenes_never_puts_one_picture_into_train_and_test(tmp_path):
    file = photos(tmp_path / "photos", *scenes("cat", 5), *scenes("dog", 4))
    file.write_text(re.sub(r"(?m)^val:.*$", "val: images/train", file.read_text()))
    found = sort(file, tmp_path / "out", by="scenes", least=2)
    assert sum(count for split in found.counts.values() for count in split.values()) == 9
    assert found.left_out["pictures that an earlier split has too"] == 9
    names = [
        {file.stem.split("-")[1] for file in (tmp_path / "out" / split).rglob("*.png")} for split in ("train", "test")
    ]
    assert names[0] and names[1] and not names[0] & names[1]


def test_sort_by_scenes_keeps_pictures_with_few_objects_of_one_class_and_their_boxes(tmp_path):
    yaml = photos(
        tmp_path / "photos",
        *scenes("cat", 5),
        *scenes("cat", 3, "val", HALF),
        *scenes("dog", 4),
        *scenes("cow", 3),
        ("train", "two", ("dog", (0, 0, 50, 50)), ("dog", (50, 50, 50, 50))),
        ("train", "large", ("dog", (0, 0, 100, 51))),
        ("train", "large-together", ("dog", HALF), ("dog", (0, 60, 10, 10))),
        ("train", "three", *[("dog", (i, i, 5, 5)) for i in range(3)]),
        ("train", "mixed", ("dog", SMALL_BOX), ("cat", SMALL_BOX)),
        ("val", "empty"),
    )
    found = sort(yaml, tmp_path / "out", by="scenes", least=4)
    assert found.counts == {"train": {"cat": 6, "dog": 4}, "test": {"cat": 2, "dog": 1}}, "3 : 1 of 8 and 5"
    assert found.left_out == {
        "pictures whose boxes cover more than 50% of them": 2,
        "pictures with more than 2 objects": 1,
        "pictures with objects of several classes": 1,
        "pictures without an object": 1,
        "pictures of classes with fewer than 4": 3,
    }
    train, test = read(tmp_path / "out", "train"), read(tmp_path / "out", "test")
    assert len(train) == 10 and len(test) == 3
    boxes = {name.split("-")[1]: boxes for data in (train, test) for name, boxes in zip(data.names, data.boxes)}
    assert boxes["two"] == ((0, 0, 50, 50), (50, 50, 50, 50)) and boxes["catval0"] == (tuple(map(float, HALF)),)
    originals = {file.stem: file for file in (tmp_path / "photos/images").rglob("*.png")}
    for data in (train, test):
        for number, name in enumerate(data.names):
            assert np.array_equal(data.read(number), cv2.imread(str(originals[name.split("-")[1]])))


def test_another_seed_draws_other_test_pictures_and_the_same_one_the_same(tmp_path):
    yaml = photos(tmp_path / "photos", *scenes("cat", 12), *scenes("dog", 12), ("val", "empty"))
    tested = []
    for number, seed in enumerate((None, 0, 1)):
        sort(yaml, tmp_path / f"out{number}", by="scenes", least=2, seed=seed)
        tested.append(read(tmp_path / f"out{number}", "test").names)
    assert tested[0] == tested[1] != tested[2] and len(tested[0]) == len(tested[2]) == 6


def test_a_crowd_is_no_scene():
    one = {"bbox": [0, 0, 10, 10], "category_id": 1}
    assert why_no_scene([one], 1000) == "" and why_no_scene([{**one, "iscrowd": 1}], 1000) == "pictures with a crowd"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {},
            r"no class with 100 pictures of one or two of its objects is left, .*'pictures of classes with fewer than",
        ),
        ({"least": 4}, r"1 class with 4 pictures of one or two of its objects is left, and a classifier wants two; .*"),
        ({"least": 1}, r"least is 1; wanted a whole number, 2 or more"),
        ({"seed": -1}, r"seed is -1; wanted a whole number, 0 or more"),
        ({"test": ["cat"]}, r"test= goes with by=groups only"),
        ({"by": "objects", "least": 4}, r"least= goes with by=scenes only"),
        ({"by": "objects", "seed": 0}, r"seed= goes with by=scenes only"),
    ],
)
def test_scenes_that_cannot_be_sorted_are_refused_and_nothing_is_written(options, message, tmp_path):
    yaml = photos(tmp_path / "photos", *scenes("cat", 5), *scenes("dog", 3), ("val", "empty"))
    with pytest.raises(ValueError, match=message):
        sort(yaml, tmp_path / "out", **{"by": "scenes", **options})
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match=r"photos is a folder; by=scenes wants a data YAML"):
        sort(tmp_path / "photos", tmp_path / "out", by="scenes")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train/cat/x.png": [SMALL_BOX]}, r"boxes\.json lacks 2 of 3 pictures, first train/cat/y\.png"),
        ([], r"boxes\.json is no list of boxes by picture"),
        ("all of them: 3", r"train/cat/.* has 3; wanted \[\[x, y, width, height\], \.\.\.\] in pixels"),
        ("all of them: [[1, 2, 3]]", r"wanted \[\[x, y, width, height\], \.\.\.\] in pixels"),
        ("all of them: [[1, 2, 3, 0]]", r"wanted \[\[x, y, width, height\], \.\.\.\] in pixels"),
        ("all of them: [[1, 2, 3, NaN]]", r"wanted \[\[x, y, width, height\], \.\.\.\] in pixels|is no JSON"),
    ],
)
def test_a_damaged_file_of_boxes_is_named(content, message, tmp_path):
    root = class_set(tmp_path, train__cat__x=1, train__cat__y=1, train__dog__z=1)
    if isinstance(content, str):
        boxes = json.loads(content.partition(": ")[2])
        content = {f"train/{name}": boxes for name in read(root, "train").names}
    (root / "boxes.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        read(root, "train")


def test_the_command_has_the_options_and_defaults_of_the_function():
    from yolo_wnlb.commands.register import COMMANDS

    options = {name: option.default for name, option in COMMANDS["sort"].options.items() if name != "out"}
    assert options == {
        key: p.default for key, p in inspect.signature(sort).parameters.items() if p.kind is p.KEYWORD_ONLY
    }
    assert COMMANDS["sort"].options["by"].kind.values == WAYS


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "object"}, r"by is 'object' \(did you mean 'objects'\?\)"),
        ({"by": "groups"}, r"by=groups wants the groups to test on, test=GROUP"),
        ({"by": "objects", "test": ["a"]}, r"test= goes with by=groups only"),
        ({"by": "objects"}, r"is a folder; by=objects wants a data YAML"),
        ({"by": "groups", "test": ["flut"]}, r"has no group 'flut' \(did you mean 'flute'\?\); choose from cup, flute"),
        (
            {"by": "groups", "test": ["cup", "flute"]},
            r"takes all groups of class 'half', of which nothing could be learnt",
        ),
        ({"by": "groups", "test": ["cup"], "margin": 2}, r"margin is 2; wanted a share of the box from 0 to 1"),
    ],
)
def test_sort_refuses_what_it_cannot_do_and_leaves_nothing_behind(options, message, tmp_path):
    source = class_set(tmp_path / "all", half__flute__a=1, half__cup__b=1)
    with pytest.raises(ValueError, match=message):
        sort(source, tmp_path / "deep/er/out", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["all"]


def test_sort_refuses_pictures_without_a_group_a_split_folder_and_a_place_that_is_taken(tmp_path):
    source = class_set(tmp_path / "all", half__a=1, half__cup__b=1)
    with pytest.raises(ValueError, match=r"half/a\.png lies in no group"):
        sort(source, tmp_path / "out", by="groups", test=["cup"])
    split = class_set(tmp_path / "split", train__a__b=1, test__a__b=1)
    with pytest.raises(ValueError, match=r"is split already, into test, train"):
        sort(split, tmp_path / "out", by="groups", test=["a"])
    with pytest.raises(FileExistsError, match=r"split exists; choose another out="):
        sort(source, split, by="groups", test=["cup"])


def test_classes_that_would_share_a_folder_are_refused(tmp_path):
    yaml = shapes_set(tmp_path / "shapes", train=2, val=1)
    yaml.write_text(yaml.read_text().replace("- disc\n- box\n", "- a/b\n- A:b\n"))
    with pytest.raises(ValueError, match=r"classes 'a/b' and 'A:b' would share the folder A-b; rename one"):
        sort(yaml, tmp_path / "out")
    assert json.dumps(sorted(p.name for p in tmp_path.iterdir())) == '["shapes"]' and Path(yaml).is_file()


def test_pictures_behind_links_count_everywhere_as_in_training(tmp_path):
    """Ultralytics follows links to folders; and of a RAW file beside a finished picture it takes the latter."""
    for place in ("in/cup", "elsewhere"):
        (tmp_path / place).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / place / f"{place[:2]}.jpg"), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "in/cup/in.nef").write_bytes(b"II*")
    (tmp_path / "in/cup/.hidden.jpg").write_bytes(b"")
    (tmp_path / "in/cup/linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    wanted = [tmp_path / "in/cup/in.jpg", tmp_path / "in/cup/linked/el.jpg"]
    assert folders.class_folders(tmp_path / "in") == {"cup": wanted}
    assert pictures_in(tmp_path / "in", {"jpg", "nef"}) == wanted
    assert files_in(tmp_path / "in") == wanted
