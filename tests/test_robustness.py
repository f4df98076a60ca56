"""The report on robustness: its numbers, its intervals, what it goes on with, what it attacks with, what it refuses."""

import csv
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import yaml
from conftest import shapes_set
from pycocotools import mask as coder

from yolo_wnlb import attacks, cli
from yolo_wnlb.data import coco
from yolo_wnlb.data.shapes import NAMES
from yolo_wnlb.detectors import ultralytics as detector
from yolo_wnlb.metrics.average_precision import Evaluation
from yolo_wnlb.metrics.bootstrap import paired_bootstrap
from yolo_wnlb.reading import sha256_of
from yolo_wnlb.study import robustness as module
from yolo_wnlb.study import robustness_classifiers as of_classifiers
from yolo_wnlb.study import robustness_detectors as of_detectors
from yolo_wnlb.study import robustness_report as reports
from yolo_wnlb.study.robustness import robustness
from yolo_wnlb.study.robustness_detectors import evenly_spaced
from yolo_wnlb.study.robustness_report import crossings, interval, summary
from yolo_wnlb.study.subject import Subject, names_of, notes_on_light
from yolo_wnlb.study.suite import CLEAN, FAMILIES, Cell, read_suite
from yolo_wnlb.study.surrogate import ATTACKS, Perturbation, Surrogate
from yolo_wnlb.yolo.models import read_picture

FILES = ("robustness.md", "robustness.csv", "robustness.json", "curves.png")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with eight pictures of shapes to measure on, and untrained models: a.pt, b.pt, boxes.pt."""
    folder = tmp_path_factory.mktemp("robustness")
    shapes_set(folder / "shapes", train=2, val=8)
    for name, seed, kind in (("a", 1, "segment"), ("b", 2, "segment"), ("boxes", 3, "detect")):
        untrained(folder / f"{name}.pt", seed, kind)
    return folder


def untrained(file, seed, kind):
    """A model of the five shapes whose weights are random, and whose scores lie around 0.5, so that it finds much."""
    from ultralytics.nn.tasks import DetectionModel, SegmentationModel

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        made = SegmentationModel if kind == "segment" else DetectionModel
        model = made("yolov8n-seg.yaml" if kind == "segment" else "yolov8n.yaml", nc=len(NAMES), verbose=False)
        for part in model.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.weight.uniform_(0.5, 1.5)
                part.bias.normal_(0, 0.1)
                part.momentum = 0.3
        for scores in model.model[-1].cv3:
            scores[-1].bias.zero_()
        for _ in range(10):  # statistics to go with its weights
            model.train()(torch.nn.functional.interpolate(torch.rand(4, 3, 9, 9), 64, mode="bicubic"))
    model.names, model.task = dict(enumerate(NAMES)), kind
    torch.save({"model": model, "ema": None, "epoch": -1, "train_args": {"imgsz": 64}}, file)


def truth_of(home):
    return coco.ground_truth(home / "shapes/data.yaml")


# ---- a detector that sees worse the more a picture is changed ------------------------------------


class Oracle:
    """It knows the objects, and misses the more of them the more a picture differs from its file."""

    def __init__(self, truth, skill):
        self.truth, self.skill, self.measured, self.stop_after = truth, skill, 0, None

    def describe(self, model, **options):
        return {"detector": f"oracle {self.skill}", "image_size": "64x64", "confidence_floor": 0, "mask_threshold": 0.5}

    def predict(self, model, files, classes, max_det, alter=None, perturb=None):
        if self.measured == self.stop_after:
            raise KeyboardInterrupt
        self.measured += 1
        predictions = []
        for image_id, file in files.items():
            picture = read_picture(file)
            altered = alter(picture.copy(), image_id) if alter else picture
            away = np.abs(altered.astype(float) - picture).mean() / 255
            for annotation in self.truth["annotations"]:
                if annotation["image_id"] == image_id:
                    luck = np.random.default_rng(annotation["id"]).random()
                    if luck > away / self.skill:
                        predictions.append({key: annotation[key] for key in ("image_id", "category_id", "bbox")})
                        mask = coder.merge(coder.frPyObjects(annotation["segmentation"], 64, 64))
                        predictions[-1] |= {"score": 0.1 + 0.8 * luck, "segmentation": {
                            "size": mask["size"], "counts": mask["counts"].decode()}}  # fmt: skip
        return predictions


@pytest.fixture
def oracles(home, monkeypatch):
    """Stand in for `read_models`: oracles of given skills; returns them by name, to be changed."""
    found = {}

    def read(models, scene, allow_missing, device):
        subjects = []
        for model in models:
            name, _, skill = str(model).partition(":")
            found.setdefault(name, Oracle(scene.truth, float(skill)))
            weights = f"{skill}-{getattr(found[name], 'retrained', '')}".encode().hex().ljust(64, "0")
            kinds = ("segm", "bbox")
            subjects.append(Subject(name, Path(name), weights, found[name], None, {}, kinds))
        return subjects

    monkeypatch.setattr(of_detectors, "read_models", read)
    monkeypatch.setattr(reports, "DRAWS", 40)
    return found


def measure(home, out, models=("good:0.4", "poor:0.2"), **options):
    options = {"suite": ["lowlight", "noise", "fog"], "levels": [1, 3], "save": 1, **options}
    return robustness(list(models), home / "shapes/data.yaml", out=out, **options)


def contents(out):
    return {name: (out / name).read_bytes() for name in FILES} | {
        file.name: file.read_bytes() for file in (out / "pictures").glob("*.jpg")
    }


def test_the_report_says_what_the_evaluations_of_its_cells_say(home, oracles, tmp_path):
    report = measure(home, tmp_path / "out")
    cells = {(r["kind"], r["model"], r["corruption"], r["level"]): r for r in report.cells}
    assert len(cells) == 2 * 2 * (1 + 2 + 8 + 2 + 2)
    for (kind, model, name, level), row in cells.items():
        skill = "good:0.4" if model == "good" else "poor:0.2"
        folder = f"{skill.partition(':')[2]}-".encode().hex()[:12].ljust(12, "0")
        stored = Evaluation.from_json(tmp_path / f"out/cells/{folder}/{name}-{level}.json")
        assert row["AP"] == stored.numbers(kind)["AP"] and row["AP50"] == stored.numbers(kind)["AP50"]
    for row in report.families:
        of = [(r["corruption"], r["AP"]) for r in report.cells if (r["kind"], r["model"]) == (row["kind"], row["model"])
              and r["family"] not in ("clean", "control") and r["corruption"] != "stops"
              and row["family"] in ("all", r["family"])]  # fmt: skip
        by_name = {name: np.mean([ap for other, ap in of if other == name]) for name, _ in of}
        assert row["mPC"] == pytest.approx(np.mean([*by_name.values()]), abs=1e-12)
        assert row["P"] == cells[row["kind"], row["model"], "clean", 0]["AP"] == 1
        assert row["rPC"] == pytest.approx(row["mPC"] / row["P"])
    assert [row["family"] for row in report.families[::2]] == ["all", "lowlight", "noise", "common"] * 2
    good, poor = (
        next(r for r in report.families if r["model"] == m and r["family"] == "all") for m in ("good", "poor")
    )
    assert good["mPC"] > poor["mPC"] and poor["delta"] == poor["mPC"] - good["mPC"] and poor["high"] < 0


def test_intervals_of_cells_are_those_of_the_paired_bootstrap(home, oracles, tmp_path):
    report = measure(home, tmp_path / "out", suite=["noise"], levels=[3, 4])
    folders = [f"{skill}-".encode().hex()[:12].ljust(12, "0") for skill in ("0.4", "0.2")]
    for level in (3, 4):
        first, second = (Evaluation.from_json(tmp_path / f"out/cells/{f}/noise-{level}.json") for f in folders)
        for kind in ("segm", "bbox"):
            [row] = [r for r in report.cells if (r["kind"], r["model"], r["level"]) == (kind, "poor", level)]
            wanted = paired_bootstrap(first, second, reports.DRAWS, 0, kind=kind)
            assert [row[key] for key in ("delta", "low", "high")] == pytest.approx(
                [wanted.delta, wanted.low, wanted.high], abs=1e-12
            )


def test_groups_widen_the_unit_that_is_drawn(home, oracles, tmp_path):
    report = measure(home, tmp_path / "out", suite=["noise"], groups=r"(\d)\.")
    assert "8 groups of 8 pictures" in "".join(report.notes)


def test_two_identical_models_differ_by_nothing(home, oracles, tmp_path):
    report = measure(home, tmp_path / "out", models=("one:0.3", "two:0.3"))
    for row in (*report.families, *report.cells):
        if row["model"] == "two":
            assert row["delta"] == row["low"] == row["high"] == 0
    for row in report.stops:
        assert row.get("delta to the first", 0) == row.get("low to the first", 0) == 0


def test_a_report_that_was_stopped_goes_on_and_ends_in_the_same_bytes(home, oracles, tmp_path):
    measure(home, tmp_path / "whole")
    cells = sum(oracle.measured for oracle in oracles.values())
    oracles.clear()
    for skill, stop in (("good", 3), ("poor", 6)):
        oracles[skill] = Oracle(truth_of(home), 0.4 if skill == "good" else 0.2)
        oracles[skill].stop_after = stop
        with pytest.raises(KeyboardInterrupt):
            measure(home, tmp_path / "stopped")
        oracles[skill].stop_after = None
    measure(home, tmp_path / "stopped")
    assert sum(oracle.measured for oracle in oracles.values()) == cells
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")
    measure(home, tmp_path / "stopped")  # nothing is left to be measured
    assert sum(oracle.measured for oracle in oracles.values()) == cells


def test_more_models_and_corruptions_are_added_to_a_report(home, oracles, tmp_path):
    measure(home, tmp_path / "out", models=("good:0.4",), suite=["noise"])
    assert oracles["good"].measured == 3
    report = measure(home, tmp_path / "out", suite=["noise", "blur"])
    assert (oracles["good"].measured, oracles["poor"].measured) == (5, 5)
    assert {row["corruption"] for row in report.cells} == {"clean", "noise", "blur"}


def test_a_model_with_other_weights_is_measured_anew(home, oracles, tmp_path):
    measure(home, tmp_path / "out", suite=["noise"])
    oracles["good"].retrained = "again"
    measure(home, tmp_path / "out", suite=["noise"])
    assert (oracles["good"].measured, oracles["poor"].measured) == (6, 3)


def test_a_cell_of_other_weights_or_of_another_corruption_is_refused(home, oracles, tmp_path):
    measure(home, tmp_path / "out", suite=["noise"])
    files = sorted((tmp_path / "out/cells").glob("*/noise-1.json"))
    kept = files[0].read_text()
    shutil.copy(files[1], files[0])
    with pytest.raises(ValueError, match=r"noise-1.json was measured with other conditions: weights \(.*delete it"):
        measure(home, tmp_path / "out", suite=["noise"])
    files[0].write_text(kept)
    shutil.copy(files[0].with_name("noise-3.json"), files[0])
    with pytest.raises(ValueError, match=r"level \(3, now 1\)"):
        measure(home, tmp_path / "out", suite=["noise"])
    files[0].write_text(kept[:100])
    with pytest.raises(ValueError, match=r"noise-1\.json is no JSON"):
        measure(home, tmp_path / "out", suite=["noise"])


@pytest.mark.parametrize(
    "changed, message", [({"seed": 1}, "seed"), ({"n": 4}, "pictures"), ({"preset": "mild"}, "preset")]
)
def test_the_same_folder_for_another_request_is_refused(home, oracles, tmp_path, changed, message):
    measure(home, tmp_path / "out", suite=["noise"])
    with pytest.raises(ValueError, match=f"holds a report of another request: .*{message}.*choose another out="):
        measure(home, tmp_path / "out", suite=["noise"], **changed)
    assert (tmp_path / "out/robustness.md").is_file()


def test_pictures_of_the_same_name_and_size_but_other_content_are_refused(tmp_path):
    """A BMP that is overwritten with black keeps its size; of detectors and of classifiers."""
    shapes_set(tmp_path / "shapes", train=1, val=2)
    for name in ("a/1.bmp", "a/2.bmp", "b/1.bmp"):
        (tmp_path / "val" / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "val" / name), np.full((40, 40, 3), 90, np.uint8))
    [first, *_] = (tmp_path / "shapes/images/val").iterdir()
    bmp = first.with_suffix(".bmp")
    cv2.imwrite(str(bmp), cv2.imread(str(first)))
    first.unlink()

    def requests():
        rest = (None, 9, 0, "severe", None, False, "pixels")
        data = {of_detectors: tmp_path / "shapes/data.yaml", of_classifiers: tmp_path}
        return [kind.read_scene(where, "val", *rest).request for kind, where in data.items()]

    before = requests()
    assert requests() == before
    for file in (bmp, tmp_path / "val/a/2.bmp"):
        size = file.stat().st_size
        cv2.imwrite(str(file), 0 * cv2.imread(str(file)))
        assert file.stat().st_size == size
    for number, (then, now) in enumerate(zip(before, requests())):
        home = tmp_path / f"out{number}"
        home.mkdir()
        module.keep_request(home, then)
        with pytest.raises(ValueError, match=r"holds a report of another request: of \("):
            module.keep_request(home, now)


def test_the_files_of_a_report_hold_the_same_numbers(home, oracles, tmp_path):
    report = measure(home, tmp_path / "out")
    stored = json.loads((tmp_path / "out/robustness.json").read_text())
    assert stored["format"] == reports.FORMAT and stored["cells"] == report.cells
    with (tmp_path / "out/robustness.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["AP"]) for row in rows] == [row["AP"] for row in report.cells]
    text = (tmp_path / "out/robustness.md").read_text()
    assert text == f"{report}\n"
    for row in report.families:
        assert f"| {row['family']} | {row['model']} | {100 * row['P']:.2f} | {100 * row['mPC']:.2f} |" in text
    assert (tmp_path / "out/curves.png").read_bytes()[:4] == b"\x89PNG"
    assert {f.name for f in (tmp_path / "out/pictures").iterdir()} == {
        "presets.jpg", "stops.jpg", "noise.jpg", "fog.jpg"
    }  # fmt: skip
    sheet = cv2.imread(str(tmp_path / "out/pictures/stops.jpg"))
    assert sheet.shape[1] == 9 * (module.SIDE + 8)  # clean, and 8 stops


# ---- numbers by hand -----------------------------------------------------------------------------


def test_p_mpc_and_rpc_by_hand():
    found = summary(0.5, {"fog": [0.4, 0.2], "snow": [0.1], "jpeg": [0.5, 0.5, 0.2]})
    assert found["mPC"] == pytest.approx((0.3 + 0.1 + 0.4) / 3) and found["rPC"] == pytest.approx(0.8 / 3 / 0.5)
    assert summary(0.0, {"fog": [0.0]}) == {"P": 0.0, "mPC": 0.0, "rPC": None}


@pytest.mark.parametrize(
    "day, aps, stop, reached",
    [
        (0.4, [0.4, 0.3, 0.1, 0.0], -1.5, True),  # half of 0.4 lies midway between 0.3 and 0.1
        (0.4, [0.4, 0.2, 0.1, 0.0], -1, True),
        (0.4, [0.2, 0.1, 0.1, 0.0], 0, True),
        (0.4, [0.4, 0.4, 0.3, 0.3], -3, False),
        (0.4, [0.4, 0.1, 0.4, 0.1], -2 / 3, True),  # the first time
        (0.4, [0.4, 0.4, 0.4, 0.2], -3, True),
    ],
)
def test_the_stop_of_half_ap_is_linear_between_two_stops(day, aps, stop, reached):
    found, ever = crossings(np.array([day]), np.array([aps]), range(4))
    assert found[0] == pytest.approx(stop) and bool(ever[0]) is reached


def test_the_interval_of_a_constant_gain_has_no_width():
    assert interval(0.1, np.full(1000, 0.12), 50) == pytest.approx({"delta": 0.1, "low": 0.1, "high": 0.1})


def test_the_stop_of_half_ap_lies_where_the_oracle_loses_half(home, oracles, tmp_path):
    report = measure(home, tmp_path / "out", suite=["stops"], levels=None, models=("good:0.1", "poor:0.07", "best:2"))
    good, poor, best = report.stops[:3]
    assert poor["reached"] and -7 <= poor["low"] <= poor["stop"] <= poor["high"] <= 0
    assert -7 < good["stop"] < poor["stop"] and poor["delta to the first"] == poor["stop"] - good["stop"]
    assert not best["reached"] and best["stop"] == -7 and "delta to the first" not in best
    assert not report.families  # the stops are an axis of their own, and count in no mean
    assert "not down to -7 stops" in str(report)


@pytest.mark.parametrize(("day", "days", "vague"), [(0.04, (0.0, 0.08), True), (0.4, (0.3, 0.5), False)])
def test_so_low_a_score_that_it_may_be_chance_has_no_stop_at_which_half_of_it_is_left(day, days, vague):
    clean, stop = Cell("clean", "clean", 0, ""), Cell("lowlight", "stops", 0, "0")
    drawn = np.linspace(*days, 1000)
    [row] = reports.half_stops(["a"], [0], lambda name, cell: (day, drawn), clean, [stop], 10)
    assert row["vague"] is vague and not row["reached"]
    assert reports.stop_text(row).startswith("cannot be told: too uncertain by day" if vague else "not down to")


def test_pictures_are_evenly_spaced_in_the_order_of_their_names():
    images = [{"id": i, "file_name": f"{(7 * i) % 10}.png"} for i in range(10)]
    truth = {"images": images, "annotations": [{"image_id": i} for i in range(10)], "categories": []}
    kept = evenly_spaced(truth, 4)
    assert sorted(image["file_name"] for image in kept["images"]) == ["0.png", "3.png", "6.png", "9.png"]
    assert {a["image_id"] for a in kept["annotations"]} == {image["id"] for image in kept["images"]}
    assert evenly_spaced(truth, 10) is truth


def test_models_are_named_by_the_shortest_end_of_their_paths():
    paths = [Path(p) for p in ("runs/a/weights/best.pt", "runs/b/weights/best.pt")]
    assert names_of(paths) == ["a/weights/best", "b/weights/best"]
    assert names_of([Path("x/plain.pt"), Path("y/wnlb.pt")]) == ["plain", "wnlb"]
    assert names_of([Path("x/best.pt"), Path("x/best.onnx")]) == ["best.pt", "best.onnx"]


def test_a_suite_is_read_in_the_order_of_the_families_each_corruption_once():
    cells = read_suite(["fog", "common", "lowlight", "fgsm"], [1, 5])
    names = list(dict.fromkeys(cell.name for cell in cells))
    assert names[:3] == ["presets", "stops", "gaussian_noise"] and names[-1] == "fgsm" and names.count("fog") == 1
    assert [cell for cell in cells if cell.name == "fgsm"] == [
        Cell("fgsm", "fgsm", 1, "1/255"), Cell("fgsm", "fgsm", 5, "16/255")
    ]  # fmt: skip
    assert [cell.strength for cell in cells if cell.name == "stops"] == ["0", *map(str, range(-1, -8, -1))]
    assert [cell.strength for cell in cells if cell.name == "presets"] == ["mild"]
    assert len(read_suite(list(FAMILIES), None)) == 4 + 8 + 4 + 5 + 6 + 70 + 5 + 3 + 4


# ---- Ultralytics' models -------------------------------------------------------------------------


def command(home, monkeypatch, *words):
    monkeypatch.chdir(home)
    monkeypatch.setattr(reports, "DRAWS", 40)
    return cli.main([*map(str, words)])


def own_truth(home):
    """Annotations that call some of what a.pt finds the truth, so that it has an AP; returns the COCO file."""
    truth = truth_of(home)
    files = coco.image_files(truth, home / "shapes/data.yaml")
    model = detector.load(home / "a.pt", "cpu")
    found = detector.predict(model, files, coco.class_map(detector.names(model), truth), max_det=12)
    kept = [p for p in found[::3] if coder.area(p["segmentation"]) > 20]
    sizes = [
        {"area": float(coder.area(p["segmentation"])), "bbox": coder.toBbox(p["segmentation"]).tolist()} for p in kept
    ]
    annotations = [{**p, **size, "id": i, "iscrowd": 0} for i, (p, size) in enumerate(zip(kept, sizes), 1)]
    shutil.copytree(home / "shapes/images/val", home / "own/images/val", dirs_exist_ok=True)
    (home / "own/annotations").mkdir(exist_ok=True)
    parts = {"images": truth["images"], "annotations": annotations, "categories": truth["categories"]}
    (home / "own/annotations/instances_val.json").write_text(json.dumps(parts))
    return home / "own/annotations/instances_val.json"


def test_the_clean_ap_is_that_of_evaluate_to_the_last_digit(home, tmp_path, monkeypatch):
    """And the AP of a corruption and of a preset is that of the twin that `corrupt` and `darken` write."""
    words = ("suite=fog,presets", "levels=2", "save=0", "seed=3", f"out={tmp_path}/report", f"data={own_truth(home)}")
    assert command(home, monkeypatch, "robustness", "a.pt", "boxes.pt", *words, "device=cpu") == 0
    rows = json.loads((tmp_path / "report/robustness.json").read_text())["cells"]
    assert {row["kind"] for row in rows} == {"bbox"}  # what both models have
    own = home / "own"
    assert command(home, monkeypatch, "corrupt", own, f"out={tmp_path}/fog", "with=fog,level=2,seed=3") == 0
    assert command(home, monkeypatch, "darken", own, f"out={tmp_path}/dark", "preset=moderate", "seed=3") == 0
    for name, root in (("clean", own), ("fog", tmp_path / "fog"), ("presets", tmp_path / "dark")):
        data = f"data={root}/annotations/instances_val.json"
        for model in ("a", "boxes"):
            out = tmp_path / f"{name}-{model}"
            assert command(home, monkeypatch, "evaluate", f"{model}.pt", data, f"out={out}", "device=cpu") == 0
            stored = Evaluation.from_json(out / "evaluation.json")
            [row] = [row for row in rows if (row["model"], row["corruption"]) == (model, name)]
            assert row["AP"] == stored.boxes["AP"] and row["AP75"] == stored.boxes["AP75"]
            [file] = (tmp_path / "report/cells").glob(f"{sha256_of(home / f'{model}.pt')[:12]}/{name}-*.json")
            assert Evaluation.from_json(file).masks == stored.masks
            assert 0 < row["AP"] < 1 or model == "boxes", "such an AP would compare nothing"


def test_attacks_raise_the_loss_more_than_random_changes_do(home, tmp_path, monkeypatch):
    words = ("data=shapes/data.yaml", "suite=fgsm,pgd,pgd-l2", "levels=3", "n=3", "save=1", "device=cpu")
    assert command(home, monkeypatch, "robustness", "a.pt", *words, f"out={tmp_path}/report") == 0
    stored = json.loads((tmp_path / "report/robustness.json").read_text())
    assert [(r["attack"], r["strength"]) for r in stored["attacks"]] == [
        ("fgsm", "4/255"), ("pgd", "4/255"), ("pgd-l2", "0.5")
    ]  # fmt: skip
    for row in stored["attacks"]:
        assert row["loss after"] > row["loss before"] and row["loss after"] > row["control loss after"]
    fgsm, pgd, _ = stored["attacks"]
    assert pgd["loss after"] > fgsm["loss after"] and pgd["control loss after"] == fgsm["control loss after"]
    assert (tmp_path / "report/pictures/pgd-l2-a.jpg").is_file()
    assert {row["corruption"] for row in stored["cells"] if row["family"] == "control"} == {
        "random signs", "random direction"
    }  # fmt: skip


def test_an_attack_that_does_less_than_its_control_is_named():
    row = {"kind": "segm", "model": "a", "level": 1, "strength": "1/255", "loss_before": 1.0}
    attack = {**row, "family": "fgsm", "corruption": "fgsm", "AP": 0.3, "loss_after": 1.5}
    control = {**row, "family": "control", "corruption": "random signs", "AP": 0.2, "loss_after": 1.1}
    assert not reports.controls_of([attack, control], "segm", ["a"])[0]["bites"]
    assert reports.controls_of([{**attack, "AP": 0.1}, control], "segm", ["a"])[0]["bites"]
    assert not reports.controls_of([{**attack, "AP": 0.1, "loss_after": 1.0}, control], "segm", ["a"])[0]["bites"]


def test_perturbed_inputs_stay_in_their_ball_and_in_the_range_of_pictures(home):
    truth = truth_of(home)
    surrogate = Surrogate(home / "a.pt", truth, torch.device("cpu"))
    keys = {image["id"]: image["file_name"] for image in truth["images"]}
    x = torch.rand(1, 3, 64, 96).round(decimals=1)
    for name, attack in ATTACKS.items():
        for random in (False, True):
            changed = Perturbation(surrogate, attack, 2, random, 0, keys)(x, truth["images"][0]["id"])
            limit = attacks.radius(attack.norm, attack.radii[1], 64, 96)
            away = (changed - x).abs().max() if attack.norm == "linf" else (changed - x).norm()
            assert 0 < away <= limit * (1 + 1e-5), name
            assert changed.min() >= 0 and changed.max() <= 1


def test_labels_of_the_surrogate_are_those_that_training_sees(home, tmp_path):
    """On a picture that is fitted into an input with borders on two sides."""
    from ultralytics.cfg import get_cfg
    from ultralytics.data import build_yolo_dataset
    from ultralytics.data.utils import check_det_dataset

    folder = tmp_path / "wide"
    for kind in ("images/val", "labels/val"):
        (folder / kind).mkdir(parents=True)
    rng = np.random.default_rng(0)
    cv2.imwrite(str(folder / "images/val/a.png"), rng.integers(0, 255, (75, 150, 3), np.uint8))
    outlines = ["0 0.1 0.1 0.4 0.1 0.4 0.8 0.1 0.8", "3 0.5 0.1 0.9 0.3 0.7 0.9", "2 0.2 0.3 0.3 0.3 0.3 0.5 0.2 0.5"]
    (folder / "labels/val/a.txt").write_text("\n".join(outlines))
    said = {"path": str(folder), "train": "images/val", "val": "images/val", "names": list(NAMES)}
    (folder / "data.yaml").write_text(yaml.safe_dump(said))
    truth = coco.ground_truth(folder / "data.yaml")
    mine = Surrogate(home / "a.pt", truth, torch.device("cpu")).labels(1, (128, 128))
    args = get_cfg(overrides={"task": "segment", "imgsz": 128, "mask_ratio": 4, "overlap_mask": True, "rect": False})
    data = check_det_dataset(str(folder / "data.yaml"))
    stock = build_yolo_dataset(args, data["val"], 1, data, mode="val", rect=False)[0]
    assert mine["cls"].tolist() == stock["cls"].tolist()
    assert torch.allclose(mine["bboxes"], stock["bboxes"], atol=1 / 128)  # the truth has whole pixels
    theirs = stock["masks"]
    assert mine["masks"].shape == theirs.shape == (1, 32, 32)
    assert (mine["masks"] == theirs).float().mean() > 0.93
    for number in (1, 2, 3):
        both = ((mine["masks"] == number) & (theirs == number)).sum() / (
            (theirs == number) | (mine["masks"] == number)
        ).sum()
        assert both > 0.7


def test_a_surrogate_takes_the_place_of_a_model_and_its_cells_stand_apart(home, tmp_path, monkeypatch):
    words = ("data=shapes/data.yaml", "suite=fgsm", "levels=3", "n=3", "save=0", "device=cpu", f"out={tmp_path}/report")
    assert command(home, monkeypatch, "robustness", "a.pt", *words) == 0
    assert command(home, monkeypatch, "robustness", "a.pt", *words, "surrogate=b.pt") == 0
    own, other = sorted(file.name for file in (tmp_path / "report/cells").glob("*/fgsm-3*.json"))[::-1]
    assert {own.startswith("fgsm-3-by-"), other.startswith("fgsm-3-by-")} == {True, False}
    text = (tmp_path / "report/robustness.md").read_text()
    assert "the gradients of b.pt; white box: with its own" in text and "| fgsm, white box | a |" in text
    rows = {row["attack"]: row for row in json.loads((tmp_path / "report/robustness.json").read_text())["attacks"]}
    by_a, by_b = rows["fgsm, white box"], rows["fgsm"]
    assert by_a["loss before"] != by_b["loss before"] and by_a["control"] == "random signs, white box"


def test_hooks_of_predict_are_shown_each_picture_and_each_input(home):
    truth = truth_of(home)
    files = coco.image_files(truth, home / "shapes/data.yaml")
    model = detector.load(home / "a.pt", "cpu")
    classes = coco.class_map(detector.names(model), truth)
    plain = detector.predict(model, files, classes)
    seen = []

    def alter(picture, image_id):
        seen.append((image_id, picture.shape, picture.dtype))
        assert (picture == read_picture(files[image_id])).all()
        return picture

    def perturb(x, image_id):
        seen.append((image_id, tuple(x.shape), x.dtype))
        assert 0 <= x.min() <= x.max() <= 1
        return x

    assert detector.predict(model, files, classes, alter=alter, perturb=perturb) == plain
    assert seen[:2] == [(1, (64, 64, 3), np.uint8), (1, (1, 3, 64, 64), torch.float32)] and len(seen) == 16
    black = detector.predict(model, files, classes, alter=lambda picture, image_id: picture * 0)
    assert black != plain and black == detector.predict(model, files, classes, perturb=lambda x, image_id: x * 0)


def test_mask_rcnn_and_solov2_are_shown_altered_pictures(home, monkeypatch):
    from conftest import small_solov2

    from yolo_wnlb.detectors import torchvision as others

    torch.manual_seed(0)
    model = small_solov2(64).eval()
    truth = truth_of(home)
    files = dict(list(coco.image_files(truth, home / "shapes/data.yaml").items())[:2])
    inputs = []
    model.register_forward_pre_hook(lambda module, args: inputs.append(args[0][0].clone()))
    others.predict(model, files, {i: i + 1 for i in range(5)})
    others.predict(model, files, {i: i + 1 for i in range(5)}, alter=lambda picture, image_id: 255 - picture)
    assert torch.allclose(inputs[0] + inputs[2], torch.ones(3, 64, 64)) and len(inputs) == 4


# ---- mistakes ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def odd(home):
    """Beside the models: an export, a Mask R-CNN, a model of other classes, and data without objects."""
    from ultralytics import YOLO

    from yolo_wnlb.detectors import torchvision as others

    YOLO(home / "a.pt").export(format="torchscript", imgsz=64, verbose=False)
    small = {"weights": None, "backbone": "resnet18", "min_size": 64, "max_size": 64}
    others.save(others.build("maskrcnn", list(NAMES), **small), home / "rcnn.pt")
    from ultralytics.nn.tasks import SegmentationModel

    for file, design, names in (("cats", "yolov8n-seg", ("cat", "dog")), ("p6", "yolov8n-seg-p6", NAMES)):
        model = SegmentationModel(f"{design}.yaml", nc=len(names), verbose=False)
        model.names, model.task = dict(enumerate(names)), "segment"
        torch.save({"model": model, "ema": None, "epoch": -1, "train_args": {"imgsz": 64}}, home / f"{file}.pt")
    shutil.copytree(home / "shapes", home / "empty", ignore=shutil.ignore_patterns("annotations", "*.cache"))
    for label in (home / "empty/labels/val").glob("*.txt"):
        label.write_text("")
    said = yaml.safe_load((home / "shapes/data.yaml").read_text())
    (home / "empty/data.yaml").write_text(yaml.safe_dump({**said, "path": str(home / "empty")}))
    shutil.copytree(home / "shapes", home / "single", ignore=shutil.ignore_patterns("annotations", "*.cache"))
    for file in sorted((home / "single/images/val").iterdir())[1:]:
        file.unlink()
    (home / "single/data.yaml").write_text(yaml.safe_dump({**said, "path": str(home / "single")}))
    (home / "full").mkdir()
    (home / "full/notes.txt").write_text("mine")
    return home


def test_an_export_is_attacked_with_its_checkpoint_and_mask_rcnn_is_measured_without_attacks(
    odd, tmp_path, monkeypatch
):
    words = ("data=shapes/data.yaml", "n=2", "save=1", "device=cpu")
    attack = ("suite=fgsm,noise", "levels=3", "surrogate=a.pt", f"out={tmp_path}/attacked")
    assert command(odd, monkeypatch, "robustness", "a.torchscript", "a.pt", *words, *attack) == 0
    rows = json.loads((tmp_path / "attacked/robustness.json").read_text())["attacks"]
    assert [row["model"] for row in rows] == ["a.torchscript", "a.pt"]
    assert "a.torchscript has no gradients of its own" in (tmp_path / "attacked/robustness.md").read_text()
    losses = [[row[key] for key in ("loss before", "loss after", "control loss after")] for row in rows]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4) and losses[0][1] > losses[0][0]
    alone = ("suite=noise", "levels=4", f"out={tmp_path}/rcnn")
    assert command(odd, monkeypatch, "robustness", "rcnn.pt", *words, *alone) == 0
    stored = json.loads((tmp_path / "rcnn/robustness.json").read_text())
    assert stored["kinds"] == ["segm", "bbox"] and len(stored["cells"]) == 4


MISTAKES = [  # words, and what the one line says
    (["a.pt", "levels=0"], ["levels=0", "1 or more"]),
    (["a.pt", "levels=9"], ["levels is 9", "the levels 1 to 5"]),
    (["a.pt", "levels=1,9"], ["levels is 1,9"]),
    (["a.pt", "suite=stops", "levels=1"], ["no levels but its stops"]),
    (["a.pt", "suite=fogg"], ["no 'fogg'", "did you mean 'fog'"]),
    (["a.pt", "suite=frost"], ["no 'frost'", "photographs"]),
    (["a.pt", "groups=place"], ["groups: place says nothing of 8 of 8 pictures"]),
    (["a.pt", "groups=(x"], ["groups is '(x'", "no regular expression"]),
    (["a.pt", "groups=^(00)"], ["puts all 8 pictures into one group"]),
    (["a.torchscript", "suite=fgsm"], ["a.torchscript is an exported model", "surrogate=best.pt"]),
    (["a.pt", "suite=fgsm", "surrogate=a.torchscript"], ["a.torchscript has no gradients", "wanted a checkpoint"]),
    (["rcnn.pt", "suite=pgd"], ["rcnn.pt cannot be attacked", "another geometry"]),
    (["a.pt", "rcnn.pt", "suite=noise,fgsm"], ["rcnn.pt cannot be attacked"]),
    (["a.pt", "surrogate=b.pt"], ["surrogate=b.pt is for attacks"]),
    (["a.pt", "suite=fgsm", "surrogate=cats.pt"], ["only in the truth"]),
    (["a.pt", "suite=fgsm", "surrogate=p6.pt"], ["p6.pt takes sides that are multiples of 64", "a.pt of 32"]),
    (["cats.pt"], ["cats.pt: ", "only in the truth"]),
    (["a.pt", "a.pt"], ["a.pt is given twice"]),
    (["missing.pt"], ["missing.pt does not exist"]),
    (["a.pt", "n=1"], ["n=1", "2 or more"]),
    (["a.pt", "split=test"], ["no split 'test'"]),
    (["a.pt", "imgsz=50"], ["50", "multiple of the stride"]),
    (["a.pt", "preset=agllnet"], ["preset is 'agllnet'", "mild, moderate, severe, extreme"]),
    (["a.pt", "out=full"], ["full holds something else"]),
    (["a.pt", "out=a.pt"], ["a.pt is a file"]),
    (["a.pt", "data=single/data.yaml"], ["one picture in val"]),
    (["a.pt", "data=empty/data.yaml"], ["no object in 8 pictures"]),
    ([], ["wants MODEL [MODEL ...]"]),
]  # fmt: skip


@pytest.mark.parametrize("words, wanted", MISTAKES, ids=[" ".join(words) for words, _ in MISTAKES])
def test_a_mistake_gets_one_line_before_anything_is_measured(odd, words, wanted, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(of_detectors, "measure", lambda *arguments: pytest.fail("it was measured"))
    defaults = {"data": "shapes/data.yaml", "out": str(tmp_path / "out"), "device": "cpu"}
    defaults = [f"{key}={value}" for key, value in defaults.items() if not any(w.startswith(f"{key}=") for w in words)]
    assert command(odd, monkeypatch, "robustness", *words, *defaults) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("yolo-wnlb robustness: ") and all(part in line for part in wanted), line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words, wanted",
    [
        (["with=fog"], ["level is ''", "corrupt:NAME,level=3"]),
        (["with=fog,level=0"], ["level is 0; fog has the levels 1 to 5"]),
        (["with=fog,level=9"], ["level is 9"]),
        (["with=fog,level=x"], ["level is 'x'"]),
        (["with=fog,level=1,seed=-1"], ["seed is '-1'"]),
        (["with=fogg,level=1"], ["did you mean 'fog'"]),
        (["with=boxblur,level=1"], ["robustness suite=boxblur"]),
        (["with=fog,levels=1"], ["no option 'levels'", "did you mean 'level'"]),
    ],
)
def test_corrupt_refuses_a_mistake_and_writes_nothing(home, words, wanted, monkeypatch, capsys, tmp_path):
    assert command(home, monkeypatch, "corrupt", "shapes/data.yaml", f"out={tmp_path}/out", *words) == 2
    line = capsys.readouterr().err.strip()
    assert line.startswith("yolo-wnlb corrupt: ") and all(part in line for part in wanted), line
    assert not (tmp_path / "out").exists()


def test_corrupt_keeps_the_labels_and_says_in_the_data_yaml_what_was_done(home, monkeypatch, tmp_path):
    assert command(home, monkeypatch, "corrupt", "shapes/data.yaml", f"out={tmp_path}/out", "with=jpeg,level=5") == 0
    said = yaml.safe_load((tmp_path / "out/data.yaml").read_text())
    assert said["enhanced"]["enhancer"] == "corrupt:jpeg,level=5,seed=0"
    before, after = (sorted((root / "labels/val").glob("*.txt")) for root in (home / "shapes", tmp_path / "out"))
    assert [file.read_bytes() for file in before] == [file.read_bytes() for file in after] and len(after) == 8


def test_clean_is_the_first_cell_and_no_corruption():
    assert Cell("clean", "clean", 0, "") == CLEAN and module.change_of(CLEAN, SimpleNamespace()) is None


@pytest.mark.parametrize(
    ("suite", "code", "wanted"), [("stops", 30, 1), ("presets", 59, 1), ("stops", 60, 0), ("fog", 30, 0)]
)
def test_darkness_on_pictures_that_are_dark_already_is_noted(suite, code, wanted):
    scene = SimpleNamespace(ids=[0, 1, 2], read=lambda i: np.full((4, 4, 3), code, np.uint8))
    lines = notes_on_light(read_suite([suite], None), scene)
    assert len(lines) == wanted and all(f"median brightness is {code} of 255" in line for line in lines)


def test_stops_with_the_noise_of_a_camera_file_go_on_and_notice_another_content(home, oracles, tmp_path):
    camera, out = tmp_path / "mycam.yaml", tmp_path / "out"
    camera.write_text("settings: {ev: [-3, -1], sigma_s: [0.2, 0.3], sigma_c: 0.1}\n")
    options = {"suite": ["stops"], "levels": None, "models": ("good:0.4",), "preset": str(camera)}
    noisy = measure(home, out, **options)
    calls = oracles["good"].measured
    assert str(measure(home, out, **options)) == str(noisy) and oracles["good"].measured == calls == 9
    assert noisy.cells != measure(home, tmp_path / "severe", **{**options, "preset": "severe"}).cells
    camera.write_text("settings: {ev: [-3, -1], sigma_s: [0.2, 0.3], sigma_c: 0.2}\n")
    with pytest.raises(ValueError, match="another request: camera"):
        measure(home, out, **options)
