"""The scripts beside the package: the dark copy of a data set."""

import hashlib
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

SCRIPT = Path(__file__).parents[1] / "scripts/darken_dataset.py"


def darken(data, out):
    return subprocess.run([sys.executable, SCRIPT, data, out], capture_output=True, text=True)


def tree(root):
    return {
        p.relative_to(root).as_posix(): hashlib.md5(p.read_bytes()).hexdigest()
        for p in root.rglob("*.*")
        if p.is_file()
    }


def picture(file, value=200):
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(file), np.full((16, 24, 3), value, np.uint8))


@pytest.fixture
def data(tmp_path):
    """A data set with a folder named images above it, a subfolder, and an unlabelled picture; returns its YAML."""
    root = tmp_path / "my-images" / "set"
    for name in ("train/a", "train/sub/b", "train/empty", "val/c"):
        picture(root / f"images/{name}.png")
        if "empty" not in name:
            label = root / f"labels/{name}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text(f"0 0.1 0.1 0.9 0.1 0.5 0.9 # {name}")
    file = root / "data.yaml"
    file.write_text(yaml.safe_dump({"train": str(root / "images/train"), "val": "images/val", "names": ["thing"]}))
    return file


def test_every_picture_becomes_dark_and_every_label_comes_along(data, tmp_path):
    before = tree(data.parent)
    run = darken(data, tmp_path / "dark")
    assert run.returncode == 0, run.stderr
    assert tree(data.parent) == before, "the source is never written to"
    out = tmp_path / "dark"
    names = {p.relative_to(out / "images").as_posix() for p in (out / "images").rglob("*.png")}
    assert names == {"train/a.png", "train/sub/b.png", "train/empty.png", "val/c.png"}
    assert all(cv2.imread(str(out / "images" / name)).mean() < 80 for name in names)
    labels = {p.relative_to(out / "labels").as_posix(): p.read_text() for p in (out / "labels").rglob("*.txt")}
    assert set(labels) == {"train/a.txt", "train/sub/b.txt", "val/c.txt"}
    assert all(text.endswith(name[:-4]) for name, text in labels.items())
    described = yaml.safe_load((out / "data.yaml").read_text())
    assert described == {"train": "images/train", "val": "images/val", "names": {0: "thing"}}


def test_the_same_source_gives_the_same_bytes(data, tmp_path):
    for name in ("one", "two"):
        assert darken(data, tmp_path / name).returncode == 0
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


@pytest.mark.parametrize("mistake", ["twins", "full", "unlabelled"])
def test_a_data_set_that_cannot_be_copied_faithfully_is_refused(mistake, data, tmp_path):
    out = tmp_path / "dark"
    if mistake == "twins":
        picture(data.parent / "images/train/a.jpg")
    elif mistake == "full":
        picture(out / "mine.png")
    else:
        for label in (data.parent / "labels/val").iterdir():
            label.unlink()
    run = darken(data, out)
    wanted = {"twins": "are named a; rename one", "full": "is not empty", "unlabelled": "has a label file"}[mistake]
    assert run.returncode == 2 and wanted in run.stderr
