"""`yolo-wnlb compare`: cells that can be killed, tables that can be trusted, and what has no place in one."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from conftest import run_python

from yolo_wnlb import coco
from yolo_wnlb.compare import compare
from yolo_wnlb.evaluate import evaluate
from yolo_wnlb.shapes import NAMES, generate
from yolo_wnlb.study import Cell, cells_of, differences, read_study
from yolo_wnlb.table import against

STUDY = {
    "darken": {"dark": {"source": "shapes/data.yaml", "preset": "mild"}},
    "data": "dark/data.yaml",
    "seeds": [0, 1],
    "train": {"yolo": {"epochs": 1, "imgsz": 64, "batch": 4, "workers": 0}},
    "rows": {
        "clean": {"model": "yolov8n-seg.yaml", "data": "shapes/data.yaml", "train": {"epochs": 2}},
        "brightened": {"weights": "clean", "enhance": "clahe"},
        "fine-tuned": {"model": "yolov8n-seg.yaml", "start": "clean"},
        "wNLB": {"model": "yolov8n-seg.yaml", "start": "clean", "after": ["P4", "P5"], "block": {"sub_sample": 2}},
    },
    "baseline": "fine-tuned",
}
COMMAND = [sys.executable, "-m", "yolo_wnlb.cli"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny data set, and beside it the study of it."""
    home = tmp_path_factory.mktemp("study")
    root = generate(home / "shapes", train=8, val=4, size=64)
    said = {"path": str(root), "train": "images/train", "val": "images/val", "names": list(NAMES)}
    (root / "data.yaml").write_text(yaml.safe_dump(said))
    (home / "study.yaml").write_text(yaml.safe_dump(STUDY, sort_keys=False))
    return home


def run(study, out, **options):
    """The command; returns the CompletedProcess."""
    words = [f"{key}={value}" for key, value in options.items()]
    code = (
        f"import sys; from yolo_wnlb.cli import main; sys.exit(main({['compare', str(study), f'out={out}', *words]!r}))"
    )
    return run_python(code, Path(study).parent)


@pytest.fixture(scope="module")
def done(folder):
    """The study, run without any incident."""
    ended = run(folder / "study.yaml", folder / "plain", device="cpu", jobs=2)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return folder / "plain", ended.stdout


def table(out):
    """What a table says but for times and memory."""
    rows = json.loads((out / "table.json").read_text())["rows"]
    return [{key: value for key, value in row.items() if key not in ("ms", "peak MB")} for row in rows]


def test_all_cells_stand_in_one_table_with_costs_and_records(done):
    out, said = done
    rows = {row["name"]: row for row in json.loads((out / "table.json").read_text())["rows"]}
    assert list(rows) == ["clean", "brightened", "fine-tuned", "wNLB"]
    assert [rows[name]["seeds"] for name in rows] == [2, 2, 2, 2]
    assert rows["wNLB"]["parameters M"] > rows["fine-tuned"]["parameters M"] == rows["clean"]["parameters M"]
    assert rows["wNLB"]["GFLOPs"] > rows["fine-tuned"]["GFLOPs"] and all(row["ms"] > 0 for row in rows.values())
    assert rows["wNLB"]["baseline"] == "fine-tuned" and "baseline" not in rows["fine-tuned"]
    assert len(rows["wNLB"]["w"]) == 2 and len(rows["wNLB"]["w"][0]) == 2
    assert "| wNLB |" in said and "table.md" in " ".join(file.name for file in out.iterdir())
    record = json.loads((out / "wNLB-1/cell.json").read_text())
    assert record in json.loads((out / "table.json").read_text())["records"]
    assert record["spec"]["start"] == "clean-1/last.pt" and record["spec"]["seed"] == 1
    assert {"torch", "ultralytics", "device"} <= record["where"].keys() and record["protocol"]["max_detections"] == 100
    told = json.loads((out / "brightened-1/cell.json").read_text())["spec"]
    assert told["weights"] == "clean-1/last.pt" and told["imgsz"] == 64 and "train" not in told
    bright, dark = (
        cv2.imread(str(next(f.glob("images/val/*")))) for f in (out / "enhanced/clahe", out.parent / "dark")
    )
    assert bright.mean() > dark.mean() + 3 and not np.array_equal(bright, dark)
    grafted = (out / "wNLB-1/yolov8n-seg-wnlb.yaml").read_text()
    assert grafted.count("wNLB, [{sub_sample: 2}]") == 2
    log = (out / "wNLB-1/log.txt").read_text()
    assert "417/417 tensors of the pretrained model kept" in log


def test_killed_in_the_middle_of_a_cell_it_ends_in_the_same_table(done, folder):
    out = folder / "killed"
    code = f"import sys; from yolo_wnlb.cli import main; main(['compare', 'study.yaml', 'out={out}', 'device=cpu'])"
    first = subprocess.Popen(
        [sys.executable, "-c", code], cwd=folder, stdout=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.time() + 120
    while not (out / "fine-tuned-0/train/args.yaml").exists() and time.time() < deadline:
        time.sleep(0.05)
    subprocess.run(["pkill", "-KILL", "-s", str(first.pid)], check=False)
    assert first.wait() == -signal.SIGKILL and not (out / "fine-tuned-0/cell.json").exists()
    again = run(folder / "study.yaml", out, device="cpu", jobs=2)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "clean, seed 0 ..." not in again.stdout, "what is done is not done again"
    assert table(out) == table(done[0])


def test_cells_that_were_run_differently_are_refused(done, folder, monkeypatch):
    said = yaml.safe_load((folder / "study.yaml").read_text())
    said["train"]["yolo"]["epochs"] = 3
    monkeypatch.chdir(folder)
    with pytest.raises(ValueError, match=r"another train .*'epochs': 1.* now .*unlike runs have no place in one table"):
        compare(said, done[0], device="cpu")


def test_a_cell_that_fails_is_told_with_its_log_and_the_others_stay(folder, monkeypatch):
    monkeypatch.chdir(folder)
    said = yaml.safe_load((folder / "study.yaml").read_text())
    said["rows"] = {"broken": {"model": "yolov8n-seg-mine.yaml"}}
    said["baseline"] = None
    with pytest.raises(
        ChildProcessError, match=r"broken, seed 0: ended with status 1: .*log\.txt.*run the same command again"
    ):
        compare({**said, "seeds": [0]}, folder / "broken", device="cpu")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"rows": None}, "lacks rows"),
        ({"epochs": 3}, "no key epochs.*; choose from darken, data"),
        ({"rows": {"a": {"modle": "yolov8n-seg.yaml"}}}, "row 'a': no key modle"),
        ({"rows": {"a": {}}}, "wants weights: to evaluate, or model: to train"),
        ({"rows": {"a": {"model": "x.yaml", "weights": "b.pt"}}}, "and not both"),
        ({"rows": {"a": {"model": "x.yaml", "train": {"epochs": 9}}}}, "a budget of its own"),
        ({"rows": {"a": {"detector": "solov2"}}}, "train: says nothing of solov2"),
        ({"rows": {"a": {"model": "x.yaml", "start": "a"}}, "baseline": None}, "one step is enough"),
        ({"rows": {"a": {"model": "x.yaml", "after": ["p3"]}}, "baseline": None}, "names 'p3'; choose from P2, P3"),
        ({"rows": {"a": {"weights": "b.pt", "after": "P3"}}, "baseline": None}, "after: says where a model: to train"),
        ({"rows": {"a": {"model": "x.yaml", "block": {}}}, "baseline": None}, "block: which ones"),
        ({"rows": {"a": {"weights": "b.pt", "enhance": "claeh"}}, "baseline": None}, "no enhancer 'claeh'"),
        ({"rows": {"a": {"weights": "b.pt", "enhance": "clahe"}}, "data": "a.json", "baseline": None}, "a data YAML"),
        ({"darken": {"dark": "severe"}}, "darken: dark is severe; wanted {source:"),
        ({"baseline": "tuned"}, "baseline: names 'tuned'"),
        ({"baseline": ["wNLB", "clean"]}, "two rows of one detector"),
        ({"seeds": [0, 0]}, "different whole numbers"),
    ],
)
def test_a_study_that_is_not_sound_is_refused(change, told):
    with pytest.raises(ValueError, match=told):
        read_study({**STUDY, **change})


def test_rows_that_would_share_a_folder_are_refused(tmp_path):
    rows = {"w NLB": {"model": "a.yaml"}, "w-NLB": {"model": "b.yaml"}}
    study = read_study({**STUDY, "rows": rows, "baseline": None})
    with pytest.raises(ValueError, match="would share a folder"):
        cells_of(study, tmp_path, {"images": [], "annotations": [], "categories": []})


def test_weights_of_another_study_are_taken_seed_by_seed(tmp_path):
    rows = {"clean": {"weights": "first/clean-{seed}/last.pt"}, "b": {"model": "b.yaml", "start": "clean"}}
    rows["bright"] = {"weights": "clean", "enhance": "clahe"}
    study = read_study({**STUDY, "rows": rows, "baseline": None})
    cells = cells_of(study, tmp_path, {"images": [], "annotations": [], "categories": []})
    found = {cell.name: cell.spec.get("weights") or cell.spec["start"] for cell in cells}
    first, second = "first/clean-0/last.pt", "first/clean-1/last.pt"
    assert found == {"clean, seed 0": first, "clean, seed 1": second, "b, seed 0": first, "b, seed 1": second} | {
        "bright, seed 0": first,
        "bright, seed 1": second,
    }
    assert all(cell.after is None for cell in cells)


@pytest.mark.parametrize(
    "file", sorted(Path(__file__).parents[1].glob("scripts/studies/*-*.yaml")), ids=lambda f: f.stem
)
def test_our_studies_know_the_weights_of_every_cell(file, tmp_path):
    if "backbone" in yaml.safe_load(file.read_text()):
        pytest.skip("a model, not a study")
    cells = cells_of(read_study(file), tmp_path, {"images": [], "annotations": [], "categories": []})
    assert cells and not [cell.name for cell in cells if "None" in json.dumps(cell.spec)]


def test_differences_names_what_differs():
    assert differences({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}) == "b (2, now 3), c (None, now 4)"


def square(x, size, score=None):
    mask = np.zeros((1, 64, 64), bool)
    mask[0, 10 : 10 + size, x : x + size] = True
    found = {"category_id": 1, "segmentation": coco.encode(mask)[0], "bbox": [x, 10, size, size]}
    return {**found, "score": score} if score else {**found, "area": size * size, "iscrowd": 0}


def test_differences_are_paired_and_clear_only_beyond_both_intervals():
    images = [{"id": i, "width": 64, "height": 64, "file_name": f"{i}.png"} for i in range(1, 31)]
    objects = [{**square(5, 20), "id": i, "image_id": i} for i in range(1, 31)]
    truth = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "a"}]}

    def result(shift):
        return evaluate(truth, [{**square(5 + shift, 20, 0.9), "image_id": i} for i in range(1, 31)])

    cells = {name: [Cell(name, seed, Path(), {}) for seed in (0, 1, 2)] for name in ("good", "same", "bad")}
    shifts = {"good": (0, 1, 0), "bad": (4, 5, 4), "same": (4, 5, 4)}
    results = {c.name: result(shifts[row][i]) for row, group in cells.items() for i, c in enumerate(group)}
    drawn = {name: np.full(50, found.masks["AP"]) for name, found in results.items()}
    better = against(cells["good"], cells["bad"], results, drawn)
    assert better["clear"] and better["delta"] > 0.2 and better["images"][0] > 0 and better["seeds_interval"][0] > 0
    equal = against(cells["same"], cells["bad"], results, drawn)
    assert equal["delta"] == 0 and not equal["clear"]
    one = against(cells["good"][:1], cells["bad"], results, drawn)
    assert one["seeds_interval"] is None and not one["clear"], "one seed says nothing of chance in training"


def test_mask_rcnn_and_solov2_stand_in_it_by_the_same_keys(folder, monkeypatch):
    budget = {"epochs": 1, "batch": 2, "workers": 0, "backbone": "resnet18", "min_size": 64, "max_size": 64}
    block = {"after": ["P4", "P5"], "block": {"sub_sample": 2}}
    rows = {detector: {"detector": detector, **block} for detector in ("maskrcnn", "solov2_light")}
    monkeypatch.chdir(folder)
    monkeypatch.setattr("yolo_wnlb.compare.TIMED", 1)
    study = {"data": "shapes/data.yaml", "train": {"maskrcnn": budget, "solov2_light": budget}, "rows": rows}
    found = compare(study, folder / "others", device="cpu").rows
    assert [row["detector"] for row in found] == ["maskrcnn", "solov2_light"]
    assert all(len(row["w"][0]) == 2 and 0 not in row["w"][0] and row["ms"] > 0 for row in found)
