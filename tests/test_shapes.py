"""The built-in data set: what is drawn, what the labels say of it, and how it gets to disk."""

import hashlib
import logging
import multiprocessing
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from yolo_wnlb.data import shapes
from yolo_wnlb.data.shapes import NAMES, dark_scene, generate, outline, scene

SIZE = 96
YAML = Path(__file__).parents[1] / "datasets" / "shapes-dark.yaml"


@cache
def scenes() -> list[shapes.Scene]:
    return [scene(np.random.default_rng(i), SIZE) for i in range(120)]


def filled(polygon: np.ndarray, size: int = SIZE) -> np.ndarray:
    corners = (polygon * size).astype(np.int32)  # cut off, as Ultralytics does it
    return cv2.fillPoly(np.zeros((size, size), np.uint8), [corners], 1).astype(bool)


def digests(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*.*")
        if path.suffix in (".png", ".txt")
    }


def read_label(path: Path) -> list[tuple[int, np.ndarray]]:
    rows = [line.split() for line in path.read_text().splitlines()]
    return [(int(row[0]), np.array(row[1:], float).reshape(-1, 2)) for row in rows]


# --- the scene


def test_polygons_cover_the_visible_masks():
    worst = min((filled(p) & m).sum() / (filled(p) | m).sum() for s in scenes() for p, m in zip(s.polygons, s.masks))
    assert worst > 0.9


def test_masks_are_where_the_picture_shows_the_objects():
    """Each drawn object changes the ground below: its inside differs from the rim around it."""
    contrasts = []
    for s in scenes():
        for mask in s.masks:
            grown = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5))).astype(bool) & ~mask
            contrasts.append(np.abs(s.image[mask].mean(0) - s.image[grown].mean(0)).max())
    assert np.median(contrasts) > 20


def test_visible_masks_never_overlap():
    assert max(s.masks.sum(0).max(initial=0) for s in scenes()) == 1


def test_objects_really_hide_parts_of_others():
    """Where a disc or box is hidden, its visible part is no longer convex."""
    hidden = 0
    for s in scenes():
        for kind, mask, polygon in zip(s.classes, s.masks, s.polygons):
            if NAMES[kind] in ("disc", "box", "triangle"):
                hull = cv2.convexHull((polygon * SIZE).astype(np.int32))[:, 0] / SIZE
                hidden += mask.sum() < 0.85 * filled(hull).sum()
    assert hidden >= 20


def test_every_class_appears_about_as_often():
    counts = Counter(k for s in scenes() for k in s.classes)
    assert sorted(counts) == list(range(len(NAMES)))
    assert min(counts.values()) > 0.5 * max(counts.values())


def test_some_pictures_are_crowded_and_some_are_bare():
    counts = [len(s.classes) for s in scenes()]
    assert min(counts) == 0 and max(counts) >= 8 and 1 in counts


def test_colour_and_brightness_do_not_give_the_class_away():
    pixels: list[list[np.ndarray]] = [[] for _ in NAMES]
    for s in scenes():
        for kind, mask in zip(s.classes, s.masks):
            pixels[kind].append(s.image[mask].mean(0))
    means = np.array([np.mean(p, 0) for p in pixels])
    spread = np.concatenate(pixels).std(0)
    assert (np.ptp(means, axis=0) < 0.5 * spread).all()


@pytest.mark.parametrize(
    ("name", "share"),  # of the smallest box around it that the typical shape fills
    [("disc", 0.79), ("box", 0.95), ("triangle", 0.5), ("star", 0.37), ("crescent", 0.54)],
)
def test_labels_name_the_shape_that_is_drawn(name, share):
    shares = []
    for s in scenes():
        for kind, polygon in zip(s.classes, s.polygons):
            if NAMES[kind] == name:
                corners = (polygon * SIZE).astype(np.int32)
                _, (width, height), _ = cv2.minAreaRect(corners)
                shares.append(cv2.contourArea(corners) / (width * height))
    assert np.median(shares) == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize("name", NAMES)
def test_an_unhidden_shape_is_one_outline(name):
    corners = np.rint(shapes.unit_shape(name) * 20 + 48).astype(int)
    mask = cv2.fillPoly(np.zeros((SIZE, SIZE), np.uint8), [corners], 1) > 0
    assert mask.sum() > 200 and outline(mask) is not None


def test_empty_split_and_holed_masks_have_no_single_outline():
    empty = np.zeros((40, 40), bool)
    split, holed = empty.copy(), empty.copy()
    split[5:15, 5:15] = split[20:30, 20:30] = True
    holed[5:30, 5:30] = True
    holed[12:22, 12:22] = False
    assert outline(empty) is None and outline(split) is None and outline(holed) is None


def test_the_dark_picture_is_dark_and_still_shows_the_scene():
    correlations = []
    for index in range(10):
        dark, bright = dark_scene(0, "train", index, SIZE)
        assert dark.mean() < 0.6 * bright.image.mean()
        a, b = (cv2.resize(i, (24, 24), interpolation=cv2.INTER_AREA) for i in (dark, bright.image))
        correlations.append(np.corrcoef(a.ravel(), b.ravel())[0, 1])
    assert min(correlations) > 0.7


# --- on disk


def test_two_calls_write_the_same_bytes(tmp_path):
    a = generate(tmp_path / "a", train=4, val=3, size=SIZE)
    b = generate(tmp_path / "b", train=4, val=3, size=SIZE)
    assert len(digests(a)) == 14 and digests(a) == digests(b)


def test_another_process_writes_the_same_bytes(tmp_path):
    here = generate(tmp_path / "here", train=2, val=1, size=SIZE)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.apply(generate, (tmp_path / "there",), {"train": 2, "val": 1, "size": SIZE})
    assert digests(here) == digests(there)


def test_an_image_does_not_depend_on_how_many_are_asked_for(tmp_path):
    few = digests(generate(tmp_path / "few", train=3, val=1, size=SIZE))
    many = digests(generate(tmp_path / "many", train=8, val=4, size=SIZE))
    assert few.items() < many.items()


def test_seeds_splits_and_indices_all_give_other_images():
    images = [
        dark_scene(*key, SIZE)[0].tobytes()
        for key in ((0, "train", 0), (1, "train", 0), (0, "val", 0), (0, "train", 1))
    ]
    assert len(set(images)) == 4


def test_label_files_say_what_the_scene_shows(tmp_path):
    root = generate(tmp_path / "s", train=12, val=1, size=SIZE, seed=3)
    for index in range(12):
        truth = dark_scene(3, "train", index, SIZE)
        name = f"train/{index:06d}"
        assert np.array_equal(cv2.imread(str(root / f"images/{name}.png")), truth[0])
        label = read_label(root / f"labels/{name}.txt")
        assert [kind for kind, _ in label] == truth[1].classes
        for (_, polygon), mask in zip(label, truth[1].masks):
            assert len(polygon) >= 3 and polygon.min() >= 0 and polygon.max() <= 1
            assert (filled(polygon) & mask).sum() > 0.9 * (filled(polygon) | mask).sum()


def test_a_second_call_touches_nothing_and_says_so(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    arguments = {"train": 2, "val": 1, "size": SIZE}
    root = generate(tmp_path / "s", **arguments)
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    assert generate(root, **arguments) == root
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == before
    wrote, holds = (record.getMessage() for record in caplog.records)
    assert wrote.startswith("wrote 2 + 1") and str(root) in wrote
    assert "already holds 2 + 1" in holds


def test_an_interrupted_call_leaves_nothing_and_the_next_completes_it(tmp_path, monkeypatch):
    whole = digests(generate(tmp_path / "whole", train=3, val=2, size=SIZE))
    write_pair = shapes.write_pair

    def interrupted(root, split, index, size, seed):
        if (split, index) == ("val", 1):
            raise KeyboardInterrupt
        write_pair(root, split, index, size, seed)

    monkeypatch.setattr(shapes, "write_pair", interrupted)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "s", train=3, val=2, size=SIZE)
    assert [p.name for p in tmp_path.iterdir()] == ["whole"]
    monkeypatch.undo()
    assert digests(generate(tmp_path / "s", train=3, val=2, size=SIZE)) == whole


@pytest.mark.parametrize(
    "moved", [(), ("shapes.json",), ("shapes.json", "labels"), ("shapes.json", "labels", "images")]
)
def test_what_a_killed_process_left_behind_is_completed(moved, tmp_path):
    whole = digests(generate(tmp_path / "whole", train=2, val=1, size=SIZE))
    (tmp_path / "s/.darken/draft/images/train").mkdir(parents=True)  # where it was killed
    for name in moved:
        (tmp_path / "whole" / name).rename(tmp_path / "s" / name)
    assert digests(generate(tmp_path / "s", train=2, val=1, size=SIZE)) == whole
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == ["images", "labels", "shapes.json"]


def test_two_calls_at_once_both_end_with_the_whole_data_set(tmp_path):
    with ThreadPoolExecutor(3) as pool:
        roots = list(pool.map(lambda _: generate(tmp_path / "s", train=2, val=1, size=SIZE), range(3)))
    assert roots == [tmp_path / "s"] * 3 and len(digests(roots[0])) == 6
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == ["images", "labels", "shapes.json"]


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right there")
def test_nothing_is_drawn_through_a_link_out_of_the_folder(tmp_path):
    (tmp_path / "mine/draft").mkdir(parents=True)
    (tmp_path / "mine/draft/thesis.txt").write_text("years of work")
    (tmp_path / "s").mkdir()
    (tmp_path / "s/.darken").symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match="because of a link"):
        generate(tmp_path / "s", train=1, val=1, size=SIZE)
    assert [path.name for path in (tmp_path / "mine").rglob("*")] == ["draft", "thesis.txt"]


def test_an_empty_folder_is_filled(tmp_path):
    assert len(digests(generate(tmp_path, train=1, val=1, size=SIZE))) == 4


def test_a_foreign_folder_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="was not written by yolo_wnlb; delete it or"):
        generate(tmp_path, train=1, val=1, size=SIZE)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_other_settings_are_refused_with_both(tmp_path):
    generate(tmp_path / "s", train=1, val=1, size=SIZE)
    with pytest.raises(FileExistsError, match=r"'seed': 0.*wanted.*'seed': 1"):
        generate(tmp_path / "s", train=1, val=1, size=SIZE, seed=1)


def test_missing_files_are_reported_not_passed_over(tmp_path):
    root = generate(tmp_path / "s", train=2, val=1, size=SIZE)
    (root / "labels/train/000001.txt").unlink()
    with pytest.raises(FileExistsError, match=r"lacks 1 of 6 files \(first: 000001\.txt\)"):
        generate(root, train=2, val=1, size=SIZE)


@pytest.mark.parametrize(
    ("name", "value"), [("train", 0), ("val", 0), ("size", 63), ("seed", -1), ("train", 2.5), ("size", "64")]
)
def test_numbers_out_of_range_are_refused_before_anything_is_written(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"{name} is {value!r}; wanted"):
        generate(tmp_path / "s", **{name: value})
    assert not any(tmp_path.iterdir())


# --- the YAML


def test_the_yaml_names_the_classes_and_counts_of_the_generator():
    text = YAML.read_text(encoding="utf-8")
    assert tuple(yaml.safe_load(text)["names"].values()) == NAMES
    defaults = generate.__kwdefaults__
    assert f"{defaults['train']} train, {defaults['val']} val" in text
    assert f"{defaults['size']} x {defaults['size']} pixels" in text


def test_ultralytics_draws_the_missing_data_set_by_itself(tmp_path, monkeypatch):
    data = pytest.importorskip("ultralytics.data.utils")
    monkeypatch.setattr(data, "DATASETS_DIR", tmp_path)
    monkeypatch.setattr(data, "check_font", lambda _: None)  # it would look for one online
    monkeypatch.setitem(generate.__kwdefaults__, "train", 2)
    monkeypatch.setitem(generate.__kwdefaults__, "val", 1)
    found = data.check_det_dataset(str(YAML))
    assert Path(found["train"]) == tmp_path / "shapes-dark" / "images" / "train"
    assert len(digests(tmp_path / "shapes-dark")) == 6
