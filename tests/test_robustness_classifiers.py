"""The report on robustness of classifiers and fused networks: accuracy, attacks through one half, the white box."""

import json
import re
import runpy
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from test_fusion import CLASSES, SOURCE, network
from test_robustness import untrained

from yolo_wnlb import attacks
from yolo_wnlb.classifiers import detector, fusion, nets
from yolo_wnlb.classifiers.fusion_fit import fit
from yolo_wnlb.classifiers.nets import prepared
from yolo_wnlb.cli import main
from yolo_wnlb.data.folders import read
from yolo_wnlb.imaging import corruptions
from yolo_wnlb.metrics.accuracy import Accuracy
from yolo_wnlb.metrics.bootstrap import draws
from yolo_wnlb.study import robustness_classifiers as of_classifiers
from yolo_wnlb.study import robustness_report as reports
from yolo_wnlb.study.robustness import robustness
from yolo_wnlb.study.robustness_report import interval
from yolo_wnlb.study.suite import Cell, attack_named, control_of, white_boxes
from yolo_wnlb.study.surrogate import ATTACKS, ClassSurrogate, Perturbation

ROOT = Path(__file__).resolve().parents[1]
TEST = read(SOURCE, "test")  # 12 pictures


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with foreground.pt, background.pt, joint.pt, same.pt (its copy) and two.pt of two classes."""
    folder = tmp_path_factory.mktemp("robust")
    for name, seed, classes in (("foreground", 1, CLASSES), ("background", 2, CLASSES), ("two", 3, ("disc", "star"))):
        nets.save(network(seed, classes), folder / f"{name}.pt")
    torch.manual_seed(0)
    model = fusion.build(folder / "foreground.pt", folder / "background.pt", CLASSES)
    options = {"imgsz": 32, "epochs": 40, "device": "cpu", "progress": False}
    fit(model, read(SOURCE, "train"), folder / "joint", **options).rename(folder / "joint.pt")
    shutil.copy(folder / "joint.pt", folder / "same.pt")
    return folder


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(reports, "DRAWS", 40)


def measure(home, out, models=("foreground", "joint"), **options):
    options = {"suite": ["fgsm"], "levels": [3], "save": 0, "device": "cpu", "split": "test", **options}
    return robustness([home / f"{name}.pt" for name in models], SOURCE, out=out, **options)


def inputs():
    return torch.from_numpy(np.stack([prepared(TEST.read(n), 32) for n in range(len(TEST))])).float() / 255


def accuracy(model, x):
    with torch.no_grad():
        return float((model(x).argmax(1) == torch.tensor(TEST.labels)).float().mean())


def score(report, model, family, level=None):
    """The accuracy of a model in a cell, of any level by default."""
    rows = [row for row in report.cells if (row["model"], row["family"]) == (model, family)]
    return next(row["accuracy"] for row in rows if level in (None, row["level"]))


# ---- what is measured ----------------------------------------------------------------------------


def test_an_attack_through_the_foreground_is_its_gradients_and_stands_beside_the_white_box(home, tmp_path):
    report = measure(home, tmp_path / "out", surrogate=home / "foreground.pt")
    x, labels, eps = inputs(), torch.tensor(TEST.labels), 4 / 255
    foreground, joint = (detector.load(home / f"{name}.pt", "cpu").module for name in ("foreground", "joint"))
    for family, attacked in (("fgsm", foreground), ("fgsm, white box", joint)):
        changed = x.clone().requires_grad_()
        loss = torch.nn.functional.cross_entropy(attacked(changed), labels)
        loss.backward()
        found = (x + eps * changed.grad.sign()).clamp(0, 1).detach()
        assert score(report, "joint", family) == pytest.approx(accuracy(joint, found)), family
        [row] = [r for r in report.attacks if (r["model"], r["attack"]) == ("joint", family)]
        assert row["loss before"] == pytest.approx(float(loss.detach()), rel=1e-4)
        assert row["loss after"] > row["control loss after"] and row["strength"] == "4/255"
    assert score(report, "joint", "clean") == pytest.approx(accuracy(joint, x))
    first = [score(report, "foreground", family) for family in ("fgsm", "fgsm, white box")]
    assert first[0] == first[1], "of the surrogate itself the two are one"
    text = str(report)
    assert "attacked with the gradients of" in text and "; white box: with its own" in text
    assert "Beside it stands the white box" in text and "## Attacks and their controls, accuracy" in text


def test_the_white_box_is_the_attack_of_a_report_without_a_surrogate(home, tmp_path, monkeypatch):
    alone = measure(home, tmp_path / "out", models=["joint"])
    assert {row["family"] for row in alone.cells} == {"clean", "fgsm", "control"}
    asked = []
    original = of_classifiers.measure
    monkeypatch.setattr(
        of_classifiers, "measure", lambda *arguments: asked.append(arguments[-1]["surrogate"]) or original(*arguments)
    )
    beside = measure(home, tmp_path / "out", models=["joint"], surrogate=home / "foreground.pt")
    assert score(beside, "joint", "fgsm, white box") == score(alone, "joint", "fgsm")
    assert len(asked) == 2 and len({*asked}) == 1, "the attack and its control, both by the surrogate"
    again = measure(home, tmp_path / "own", models=["joint"], surrogate=home / "same.pt")
    assert {row["family"] for row in again.cells} == {"clean", "fgsm", "control"}, "the model is its own surrogate"


def test_a_blur_in_the_box_leaves_everything_else_and_is_measured_with_the_known_boxes(home, tmp_path):
    report = measure(home, tmp_path / "out", models=["joint"], suite=["boxblur"], levels=None)
    joint = detector.load(home / "joint.pt", "cpu").module
    assert corruptions.CORRUPTIONS["boxblur"].strengths == (1, 2, 5, 10, 20, 45)
    for level in (1, 4, 6):
        blurred = []
        for number in range(len(TEST)):
            picture, [(left, top, wide, high)] = TEST.read(number), TEST.boxes[number]
            rng = corruptions.generator(0, "boxblur", f"test/{TEST.names[number]}")
            found = corruptions.corrupt(picture, "boxblur", level, rng, TEST.boxes[number])
            outside = np.ones(picture.shape[:2], bool)
            outside[top : top + high, left : left + wide] = False
            assert np.array_equal(found[outside], picture[outside]) and not np.array_equal(found, picture)
            blurred.append(prepared(found, 32))
        x = torch.from_numpy(np.stack(blurred)).float() / 255
        assert score(report, "joint", "boxblur", level) == pytest.approx(accuracy(joint, x))


@pytest.mark.parametrize("suite", ["noise", "blur", "presets", "stops", "fog", "pgd", "pgd-l2"])
def test_every_family_applies_to_classifiers(home, tmp_path, suite):
    report = measure(home, tmp_path / "out", models=["joint"], suite=[suite], levels=None if suite == "stops" else [2])
    assert {row["corruption"] for row in report.cells} >= {"clean", suite} and report.kinds == ["accuracy"]
    assert (suite == "stops") == bool(report.stops)
    if attack_named(suite):
        [row] = report.attacks
        assert row["loss after"] > row["control loss after"]


def test_the_clean_accuracy_is_that_of_evaluate_and_n_pictures_are_evenly_spaced(home, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    report = measure(home, tmp_path / "out", suite=["noise"])
    assert main(["evaluate", str(home / "joint.pt"), f"data={SOURCE}", "split=test", "out=found", "device=cpu"]) == 0
    assert score(report, "joint", "clean") == Accuracy.from_json("found/evaluation.json").numbers()["accuracy"]
    measure(home, tmp_path / "few", suite=["noise"], n=4)
    [file] = (tmp_path / "few/cells").glob(f"{report.models[0]['sha256'][:12]}/clean-0.json")
    order = sorted(TEST.names)
    assert Accuracy.from_json(file).file_names == [order[place] for place in (0, 4, 7, 11)]


def test_differences_have_the_intervals_of_drawn_pictures(home, tmp_path):
    report = measure(home, tmp_path / "out", suite=["noise"])
    first, second = (
        Accuracy.from_json(next((tmp_path / "out/cells").glob(f"{model['sha256'][:12]}/noise-3.json")))
        for model in report.models
    )
    weights = draws(12, 40, 0)
    delta = second.numbers()["accuracy"] - first.numbers()["accuracy"]
    wanted = interval(delta, second.resampled(weights) - first.resampled(weights), 12)
    [row] = [r for r in report.cells if r["model"] == "joint" and r["corruption"] == "noise"]
    assert {key: row[key] for key in ("delta", "low", "high")} == pytest.approx(wanted)
    same = measure(home, tmp_path / "same", models=("joint", "same"), suite=["noise", "fgsm"])
    for row in (*same.families, *same.cells):
        if row["model"] == "same":
            assert row["delta"] == row["low"] == row["high"] == 0


def test_a_report_that_was_stopped_goes_on_and_ends_in_the_same_bytes(home, tmp_path, monkeypatch):
    options = {"suite": ["boxblur", "fgsm"], "levels": [2], "surrogate": home / "foreground.pt", "save": 2}
    measure(home, tmp_path / "whole", **options)
    original, calls = of_classifiers.measure, []

    def stops(*arguments):
        if len(calls) == 5:
            raise KeyboardInterrupt
        calls.append(1)
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(of_classifiers, "measure", stops)
        with pytest.raises(KeyboardInterrupt):
            measure(home, tmp_path / "parts", **options)
    measure(home, tmp_path / "parts", **options)
    files = ["robustness.md", "robustness.csv", "robustness.json", "curves.png"]
    files += [f"pictures/{file.name}" for file in (tmp_path / "whole/pictures").iterdir()]
    assert {"pictures/boxblur.jpg", "pictures/fgsm-joint.jpg", "pictures/fgsm-white-box-joint.jpg"} < {*files}
    assert all((tmp_path / f"whole/{file}").read_bytes() == (tmp_path / f"parts/{file}").read_bytes() for file in files)
    stored = json.loads((tmp_path / "parts/robustness.json").read_text())
    assert stored["kinds"] == ["accuracy"] and {"accuracy", "balanced accuracy"} < {*stored["cells"][0]}


# ---- attacks -------------------------------------------------------------------------------------


def test_a_radius_counts_pixels_or_with_space_normalised_what_the_network_makes_of_them(home, tmp_path):
    surrogate = ClassSurrogate(home / "joint.pt", TEST, "cpu")
    keys = dict(enumerate(TEST.names))
    x = torch.rand(12, 3, 32, 32) * 0.5 + 0.25
    std = torch.tensor([0.229, 0.224, 0.225])
    for random in (False, True):
        for scale, given in ((torch.ones(3), None), (std, surrogate.std)):
            attack = Perturbation(surrogate, ATTACKS["fgsm"], 4, random, 0, keys, given)
            change = (attack.batch(x, range(12)) - x).abs().amax((0, 2, 3))
            assert torch.allclose(change, 8 / 255 * scale, atol=1e-6), "in the network, eps in the second case"
    plain = measure(home, tmp_path / "pixels", models=["joint"])
    other = measure(home, tmp_path / "normalised", models=["joint"], space="normalised")
    losses = [report.attacks[0]["loss after"] for report in (plain, other)]
    assert losses[1] < losses[0] and "divided by the standard deviation" in str(other)
    with pytest.raises(ValueError, match=r"holds a report of another request: space \(None, now normalised\)"):
        measure(home, tmp_path / "pixels", models=["joint"], space="normalised")


def test_the_random_signs_of_a_picture_do_not_depend_on_its_batch(home):
    surrogate = ClassSurrogate(home / "joint.pt", TEST, "cpu")
    x, keys = inputs(), dict(enumerate(TEST.names))
    control = Perturbation(surrogate, ATTACKS["fgsm"], 2, True, 0, keys)
    together = control.batch(x, range(12))
    assert torch.equal(together[7:8], control.batch(x[7:8], [7])) and len(control.before) == 13
    other = Perturbation(surrogate, ATTACKS["fgsm"], 2, True, 1, keys).batch(x, range(12))
    assert not torch.equal(together, other)


def test_a_radius_for_each_channel_holds_in_each_step_of_pgd():
    eps = torch.tensor([0.01, 0.02, 0.0]).reshape(1, 3, 1, 1)
    x = torch.rand(2, 3, 4, 4) * 0.8 + 0.1
    found = attacks.perturb(x, lambda x: (x - 0.5).square().flatten(1).sum(1), "linf", eps, 5)
    assert torch.allclose((found - x).abs().amax((0, 2, 3)), eps.flatten(), atol=1e-6)
    with pytest.raises(ValueError, match="l2 has one radius for all channels"):
        attacks.perturb(x, lambda x: x.flatten(1).sum(1), "l2", eps, 1)
    with pytest.raises(ValueError, match="wanted a finite number, at least 0"):
        attacks.perturb(x, lambda x: x.flatten(1).sum(1), "linf", -eps, 1)


def test_white_boxes_have_controls_of_their_own():
    cells = [Cell("fgsm", "fgsm", 2, "2/255"), Cell("boxblur", "boxblur", 1, "1 px")]
    cells += [Cell("pgd-l2", "pgd-l2", 3, "0.5")]
    found = white_boxes(cells)
    assert found == [
        ("fgsm, white box", "fgsm, white box", 2, "2/255"),
        ("pgd-l2, white box", "pgd-l2, white box", 3, "0.5"),
    ]  # fmt: skip
    assert [control_of(cell) for cell in (cells[0], *found)] == [
        ("control", "random signs", 2, "2/255"),
        ("control", "random signs, white box", 2, "2/255"),
        ("control", "random direction, white box", 3, "0.5"),
    ]
    assert [attack_named(name) for name in ("fgsm, white box", "random direction, white box", "fog", "clean")] == [
        "fgsm", "pgd-l2", "", ""
    ]  # fmt: skip


# ---- mistakes ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def odd(home):
    """Beside the models: class folders without boxes, and a detector."""
    for split in ("train", "test"):
        for number, name in enumerate(TEST.names[:8]):
            file = home / "plain" / split / f"{name}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(file), TEST.read(number))
    untrained(home / "yolo.pt", 1, "detect")
    return home


MISTAKES = [  # words, and what the one line says
    (["joint.pt", "suite=boxblur", "data=plain"], ["objects of plain have none", "sort by=scenes writes boxes.json"]),
    (["joint.pt", "suite=boxblur", "data=contexts:grounds,test=8,size=32"], ["objects of contexts:grounds"]),
    (
        ["joint.pt", "suite=fgsm", "surrogate=two.pt"],
        ["surrogate=two.pt: the model does not know 3 classes"],
    ),
    (["joint.pt", "suite=fgsm", "surrogate=yolo.pt"], ["surrogate=yolo.pt is no classifier"]),
    (["joint.pt", "suite=fgsm", "surrogate=nowhere.pt"], ["nowhere.pt"]),
    (["joint.pt", "suite=noise", "surrogate=foreground.pt"], ["surrogate=foreground.pt is for attacks"]),
    (["joint.pt", "suite=noise", "space=normalised"], ["space=normalised is for attacks"]),
    (["joint.pt", "suite=fgsm,pgd-l2", "space=normalised"], ["space=normalised is for linf attacks", "has pgd-l2"]),
    (["joint.pt", "suite=fgsm", "space=codes"], ["space=codes: wanted one of pixels, normalised"]),
    (["joint.pt", "two.pt"], ["two.pt: the model does not know 3 classes", "trained for disc, star"]),
    (["joint.pt", "yolo.pt"], ["joint.pt is a classifier, and yolo.pt is none"]),
    (["joint.pt", "joint.pt"], ["joint.pt is given twice"]),
    (["nowhere.pt"], ["there is no classifier nowhere.pt"]),
    (["joint.pt", "data=contexts:unknown"], ["no contexts:unknown"]),
    (["joint.pt", "data=contexts:all,rho=2"], ["rho is '2'"]),
    (["joint.pt", "split=val"], ["has no split 'val'; choose from train, test"]),
    (["joint.pt", "images=plain"], ["images=plain is for detectors"]),
    (["joint.pt", "allow_missing=True"], ["allow_missing=True is for detectors"]),
    (["joint.pt", "suite=frost"], ["no 'frost'"]),
    (["joint.pt", "groups=place"], ["says nothing of 12 of 12 pictures"]),
]


@pytest.mark.parametrize(("words", "wanted"), MISTAKES, ids=[" ".join(words) for words, _ in MISTAKES])
def test_a_mistake_gets_one_line_before_anything_is_measured(odd, words, wanted, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(of_classifiers, "measure", lambda *arguments: pytest.fail("it was measured"))
    monkeypatch.chdir(odd)
    given = [word.partition("=")[0] for word in words]
    defaults = {"data": SOURCE, "split": "test", "out": str(tmp_path / "out"), "device": "cpu", "suite": "noise"}
    words = [*words, *(f"{key}={value}" for key, value in defaults.items() if key not in given)]
    assert main(["robustness", *words]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("yolo-wnlb robustness: ") and all(part in line for part in wanted), line
    assert not (tmp_path / "out").exists()


def test_the_command_measures_a_fused_network(home, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(home)
    words = [f"data={SOURCE}", "split=test", "suite=boxblur,fgsm", "levels=4", "device=cpu", "surrogate=foreground.pt"]
    assert main(["robustness", "foreground.pt", "joint.pt", *words, f"out={tmp_path}/out"]) == 0
    text = (tmp_path / "out/robustness.md").read_text()
    assert "| fgsm, white box | joint |" in text and "## By family, accuracy" in text
    assert "joint less foreground" in text and Path(tmp_path / "out/curves.png").is_file()
    assert "joint, fgsm, white box 8/255: accuracy " in capsys.readouterr().out


# ---- several seeds -------------------------------------------------------------------------------


def test_the_means_over_seeds_are_those_of_the_reports_and_a_surrogate_is_not_the_white_box(home, tmp_path, capsys):
    """scripts/robustness_over_seeds.py, on two reports whose models are other ones."""
    main_of = runpy.run_path(str(ROOT / "scripts/robustness_over_seeds.py"))["main"]
    found = []
    for seed, models in enumerate([("foreground", "joint"), ("background", "foreground")]):
        folder = tmp_path / str(seed)
        for model, name in zip(models, (f"plain-{seed}", f"fused-{seed}")):
            (folder / name).mkdir(parents=True)
            shutil.copy(home / f"{model}.pt", folder / name / "last.pt")
        options = {"suite": ["fgsm"], "levels": [3], "save": 0, "device": "cpu", "split": "test"}
        paths = [folder / name / "last.pt" for name in (f"plain-{seed}", f"fused-{seed}")]
        surrogate = home / "foreground.pt"
        report = robustness(paths, SOURCE, surrogate=surrogate, out=folder / "out", **options)
        found.append([score(report, f"fused-{seed}/last", family) for family in ("fgsm", "fgsm, white box")])
    capsys.readouterr()
    main_of([str(tmp_path / "0/out"), str(tmp_path / "1/out")])
    text = capsys.readouterr().out
    rows = [line for line in text.splitlines() if line.startswith("| fused |")]
    means = [float(re.search(r"\| fused \| ([\d.]+) \(", row)[1]) for row in rows]
    assert means[1:] == [round(100 * (a + b) / 2, 1) for a, b in zip(*found)] and len(means) == 3
    with pytest.raises(SystemExit, match="first=nobody is no row; choose from plain, fused"):
        main_of([str(tmp_path / "0/out"), str(tmp_path / "1/out"), "first=nobody"])


def test_reports_that_are_no_seeds_or_incomplete_end_with_one_line(home, tmp_path):
    main_of = runpy.run_path(str(ROOT / "scripts/robustness_over_seeds.py"))["main"]
    for seed, model in enumerate(["foreground", "background", "foreground"]):
        (tmp_path / f"plain-{seed}").mkdir()
        shutil.copy(home / f"{model}.pt", tmp_path / f"plain-{seed}/last.pt")
        options = {"suite": ["noise"], "levels": [3], "save": 0, "device": "cpu", "split": "test"}
        robustness([tmp_path / f"plain-{seed}/last.pt"], SOURCE, out=tmp_path / str(seed), **options)

    def refused(*folders):
        with pytest.raises(SystemExit) as caught:
            main_of([str(tmp_path / folder) for folder in folders])
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "a folder is given twice" in refused("0", "1/../0")
    assert re.search(r"last in \S*/0 and last in \S*/2 are the same model \(equal sha256\)", refused("0", "1", "2"))
    assert "there is no folder" in refused("0", "nowhere")
    assert "holds no robustness.json" in refused("0", "plain-1")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/robustness.json").write_text("[]")
    assert "is no report" in refused("0", "other")
    (tmp_path / "other/robustness.json").write_text("{")
    assert "is no JSON" in refused("0", "other")
    cell = next(file for file in (tmp_path / "1/cells").rglob("*.json") if "noise" in file.name)
    cell.unlink()
    assert re.search(r"cells lacks \w*noise\w* .*of last", refused("0", "1"))
    shutil.rmtree(tmp_path / "1/cells")
    assert "1 lacks the folder cells/ of its report" in refused("0", "1")
