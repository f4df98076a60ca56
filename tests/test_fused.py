"""What a fused network rests on: the PCA of its features, the weights of its layer, and mistakes."""

import cv2
import numpy as np
import pytest
import torch
from test_fusion import CLASSES, network

from yolo_wnlb.classifiers import fusion, nets
from yolo_wnlb.classifiers.fusion import mean_theta
from yolo_wnlb.classifiers.fusion_fit import fit
from yolo_wnlb.cli import main
from yolo_wnlb.data.folders import read
from yolo_wnlb.imaging import corruptions
from yolo_wnlb.visualize import fused
from yolo_wnlb.visualize.fused import directions_of, features, inspect_fused, moved

SOURCE = "contexts:dissimilar,train=48,test=12,size=32"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with foreground.pt and fused networks of two l2: joint.pt and heavy.pt."""
    folder = tmp_path_factory.mktemp("fused")
    for name, seed in (("foreground", 1), ("background", 2)):
        nets.save(network(seed), folder / f"{name}.pt")
    for name, l2 in (("joint", 0.0), ("heavy", 10.0)):
        torch.manual_seed(0)
        model = fusion.build(folder / "foreground.pt", folder / "background.pt", CLASSES, l2)
        options = {"imgsz": 32, "epochs": 40, "device": "cpu", "progress": False}
        fit(model, read(SOURCE, "train"), folder / name, **options).rename(folder / f"{name}.pt")
    return folder


def test_directions_are_those_of_the_largest_variance_of_clean_features():
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    places = rng.normal(size=(500, 6)) * [5, 2, 0.1, 0.1, 0.1, 0.1]
    found = directions_of(places @ axes.T + 7)
    assert np.allclose(np.abs(found.axes @ axes[:, :2]), np.eye(2), atol=0.05)
    assert found.share == pytest.approx(29 / 29.04, abs=0.005)
    projected = found.project(places @ axes.T + 7)
    assert np.allclose(projected.mean(0), 0, atol=1e-9) and projected[:, 0].std() > projected[:, 1].std() > 1
    assert directions_of(np.ones((4, 3))).share == 1.0, "features that do not differ"


def test_how_far_features_move_is_a_share_of_their_spread():
    clean = np.array([[3.0, 0], [-3, 0], [0, 3], [0, -3]])
    assert moved(clean, clean) == 0 and moved(clean, clean + np.array([0, 1.5])) == pytest.approx(0.5)


def test_features_are_those_of_each_half_and_the_blur_is_in_the_boxes(home):
    model, data = fusion.rebuild(home / "joint.pt"), read(SOURCE, "test")
    clean, blurred = (features(model, data, 32, blurs) for blurs in (False, True))
    stacks = []
    for level in (None, 3):
        pictures = [data.read(n) for n in range(12)]
        if level:
            rng = np.random.default_rng(0)
            pictures = [corruptions.corrupt(p, "boxblur", level, rng, data.boxes[n]) for n, p in enumerate(pictures)]
        stacks.append(torch.from_numpy(np.stack([nets.prepared(p, 32) for p in pictures])).float() / 255)
    for x, found in zip(stacks, (clean, blurred)):
        with torch.no_grad():
            both = model.features(x).numpy()
        assert np.allclose(found["foreground"], both[:, :512], atol=1e-5)
        assert np.allclose(found["background"], both[:, 512:], atol=1e-5)
    assert fused.SIGMA == 5


def test_weights_and_features_are_reported_and_drawn(home, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(home)
    assert main(["inspect", "joint.pt", "heavy.pt", f"images={SOURCE}", f"out={tmp_path}/out"]) == 0
    printed = capsys.readouterr().out
    for name, l2 in (("joint.pt", "0"), ("heavy.pt", "10")):
        means = mean_theta(fusion.rebuild(name))
        row = next(line.split() for line in printed.splitlines() if line.startswith(name))
        assert row == [name, l2, f"{means['foreground']:.4f}", f"{means['background']:.4f}"]
    report = inspect_fused(["joint.pt", "heavy.pt"], SOURCE, tmp_path / "again")
    assert report.models[1]["foreground"] < 0.5 * report.models[0]["foreground"]
    assert "12 pictures, boxes blurred at sigma 5 pixels" in printed and str(report.moved["foreground"])[:4] in printed
    for name in fused.PAGES:
        first, second = (tmp_path / folder / name for folder in ("out", "again"))
        assert cv2.imread(str(first)).std() > 5 and first.read_bytes() == second.read_bytes()


def test_pictures_without_boxes_are_blurred_everywhere(home, tmp_path):
    data = read(SOURCE, "test")
    for number, name in enumerate(data.names):
        for split in ("train", "test"):
            file = tmp_path / f"set/{split}/{name}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(file), data.read(number))
    report = inspect_fused(home / "joint.pt", tmp_path / "set", tmp_path / "out", n=5)
    assert report.pictures == "5 pictures, everything blurred at sigma 5 pixels"
    boxed = inspect_fused(home / "joint.pt", SOURCE, tmp_path / "boxed")
    assert report.moved["background"] > boxed.moved["background"]


MISTAKES = [
    (["joint.pt"], "a fused network wants the pictures to look at: images=FOLDER"),
    (["foreground.pt", f"images={SOURCE}"], "foreground.pt is a classifier and no fused network"),
    (["joint.pt", "foreground.pt", f"images={SOURCE}"], "foreground.pt is a classifier and no fused network"),
    (["joint.pt", "nowhere.pt", f"images={SOURCE}"], "nowhere.pt"),
    (["joint.pt", f"images={SOURCE}", "conf=0.5"], "conf= is for detectors, and joint.pt is a classifier; remove it"),
    (["joint.pt", f"images={SOURCE}", "lowlight=mild"], "lowlight= is for detectors"),
    (["joint.pt", "images=contexts:unknown"], "no contexts:unknown"),
    (["joint.pt", "images=contexts:all,test=2"], "has 2 pictures in test; two directions need three or more"),
    (["joint.pt", f"images={SOURCE}", "n=2"], "n is 2; wanted a whole number, 3 or more"),
    (["joint.pt", f"images={SOURCE}", "imgsz=8"], "imgsz is 8; wanted a whole number, 32 or more"),
    (["joint.pt", f"images={SOURCE}", "out=taken"], "holds pca.png of another call; choose another out="),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES, ids=[" ".join(words) for words, _ in MISTAKES])
def test_a_mistake_gets_one_line_and_nothing_is_written(home, words, message, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(home)
    (home / "taken").mkdir(exist_ok=True)
    (home / "taken/pca.png").touch()
    given = any(word.startswith("out=") for word in words)
    assert main(["inspect", *words, *([] if given else [f"out={tmp_path}/out"])]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("yolo-wnlb inspect: ") and message in line, line
    assert not (tmp_path / "out").exists()
