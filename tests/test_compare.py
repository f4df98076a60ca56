"""`yolo-wnlb compare`: cells that can be killed, tables that can be trusted, and what has no place in one."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import yaml
from conftest import run_python, shapes_set

from yolo_wnlb.data import coco
from yolo_wnlb.metrics.average_precision import evaluate
from yolo_wnlb.study.compare import check_cell, compare
from yolo_wnlb.study.plan import Cell, cells_of, differences, read_study
from yolo_wnlb.study.table import against

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
    shapes_set(home / "shapes", train=8, val=4)
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
    return [{key: value for key, value in row.items() if key not in ("ms", "ms quartiles", "peak MB")} for row in rows]


def test_all_cells_stand_in_one_table_with_costs_and_records(done):
    out, said = done
    rows = {row["name"]: row for row in json.loads((out / "table.json").read_text())["rows"]}
    assert list(rows) == ["clean", "brightened", "fine-tuned", "wNLB"]
    assert [rows[name]["seeds"] for name in rows] == [2, 2, 2, 2]
    assert rows["wNLB"]["parameters M"] > rows["fine-tuned"]["parameters M"] == rows["clean"]["parameters M"]
    assert rows["wNLB"]["GFLOPs"] > rows["fine-tuned"]["GFLOPs"] and all(row["ms"] > 0 for row in rows.values())
    assert rows["wNLB"]["baseline"] == "fine-tuned" and "baseline" not in rows["fine-tuned"]
    assert len(rows["wNLB"]["w"]) == 2 and len(rows["wNLB"]["w"][0]) == 2
    assert all(any(row["by seed"]) == (f"row {name}: AP is 0" not in said) for name, row in rows.items())
    assert "| wNLB |" in said and "table.md" in " ".join(file.name for file in out.iterdir())
    record = json.loads((out / "wNLB-1/cell.json").read_text())
    assert record in json.loads((out / "table.json").read_text())["records"]
    assert record["spec"]["start"] == "{out}/clean-1/last.pt" and record["spec"]["seed"] == 1
    assert {"torch", "ultralytics", "device"} <= record["where"].keys() and record["protocol"]["max_detections"] == 100
    assert len(record["files"]["{out}/clean-1/last.pt"]) == 64
    told = json.loads((out / "brightened-1/cell.json").read_text())["spec"]
    assert told["weights"] == "{out}/clean-1/last.pt" and told["imgsz"] == 64 and "train" not in told
    bright, dark = (
        cv2.imread(str(next(f.glob("images/val/*")))) for f in (out / "enhanced/clahe", out.parent / "dark")
    )
    assert bright.mean() > dark.mean() + 3 and not np.array_equal(bright, dark)
    grafted = (out / "wNLB-1/yolov8n-seg-wnlb.yaml").read_text()
    assert grafted.count("wNLB, [{sub_sample: 2}]") == 2
    log = (out / "wNLB-1/log.txt").read_text()
    assert "417/417 tensors of the pretrained model kept" in log


def command_of(pid):
    """The words a process was started with; none when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")[:-1]
    except OSError:
        return []


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks at processes as Linux shows them")
def test_killed_in_the_middle_of_a_cell_it_ends_in_the_same_table(done, folder):
    out = folder / "killed"
    for cell in done[0].glob("*-1"):  # of the other seed, which takes no part in this
        shutil.copytree(cell, out / cell.name)
    code = f"import sys; from yolo_wnlb.cli import main; main(['compare', 'study.yaml', 'out={out}', 'device=cpu'])"
    first = subprocess.Popen([sys.executable, "-c", code], cwd=folder, stdout=subprocess.DEVNULL)

    def wait_for(file):
        deadline = time.time() + 120
        while not (out / file).exists() and time.time() < deadline:
            time.sleep(0.05)

    wait_for("clean-0/spec.json")
    busy = run(folder / "study.yaml", out)
    wait_for("fine-tuned-0/train/args.yaml")
    assert busy.returncode == 2 and "another run is writing into" in busy.stderr, busy.stdout + busy.stderr
    processes = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    (cell,) = [process for process in processes if command_of(process)[-1:] == [str(out / "fine-tuned-0")]]
    first.kill()  # and its cell goes with it
    assert first.wait() == -signal.SIGKILL and not (out / "fine-tuned-0/cell.json").exists()
    deadline = time.time() + 20
    while command_of(cell) and time.time() < deadline:
        time.sleep(0.05)
    assert not command_of(cell), "gone with its parent"
    again = run(folder / "study.yaml", out, device="cpu", jobs=2)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "clean, seed 0 ..." not in again.stdout, "what is done is not done again"
    assert table(out) == table(done[0])


@pytest.mark.parametrize("other", ["budget", "weights", "labels", "start to be run anew", "classes"])
def test_cells_that_were_run_differently_are_refused(done, folder, monkeypatch, tmp_path, other):
    shutil.copytree(folder, tmp_path / "copy", ignore=shutil.ignore_patterns("killed", "broken", "others"))
    monkeypatch.chdir(tmp_path / "copy")
    said = yaml.safe_load(Path("study.yaml").read_text())
    bright = yaml.safe_load(Path("shapes/data.yaml").read_text())
    Path("shapes/data.yaml").write_text(yaml.safe_dump({**bright, "path": str(Path("shapes").resolve())}))
    told = r"another {out}/clean-0/last.pt \(\w+, now \w+\)"
    if other == "budget":
        said["train"]["yolo"]["epochs"] = 3
        told = r"another train \(epochs \(1, now 3\)\); unlike runs have no place in one table"
    elif other == "weights":  # as if the row that others start from had been run anew
        with Path("plain/clean-0/last.pt").open("ab") as file:
            file.write(b"0")
    elif other == "start to be run anew":
        Path("plain/clean-0/cell.json").unlink()
        told = r"brightened-0, .*fine-tuned-0, .*wNLB-0 started from what will be run anew; delete them"
    elif other == "classes":
        Path("shapes/data.yaml").write_text(yaml.safe_dump({**bright, "names": bright["names"][::-1]}))
        told = r"clean-0 was run with another .*train_pictures \(.*\(the same of \d more\)"
    else:
        label = next(Path("shapes/labels/train").iterdir())
        label.write_text(label.read_text() + "0 0.1 0.1 0.2 0.1 0.2 0.2\n")
        told = r"clean-0 was run with another .*train_pictures \("
    with pytest.raises(ValueError, match=told):
        compare({**said, "darken": {}} if other in ("labels", "classes") else said, "plain", device="cpu")


def test_a_cell_that_fails_is_told_with_its_log_and_the_others_stay(folder, monkeypatch):
    monkeypatch.chdir(folder)
    said = yaml.safe_load((folder / "study.yaml").read_text())
    said["rows"] = {"broken": {"model": "yolov8n-seg.yaml", "options": {"optimizer": "mine"}}}
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
        ({"rows": {"a": {"detector": "solov2"}}}, "says nothing of solov2, which this row trains"),
        ({"rows": {"a": {"model": "x.yaml", "start": "a"}}, "baseline": None}, "comes from itself"),
        (
            {"rows": {"a": {"weights": "b"}, "b": {"weights": "a"}}, "baseline": None},
            "row 'a' comes from itself; start from",
        ),
        ({"rows": {"a": {"model": "x.pt"}}, "baseline": None}, "x.pt is no YAML; give its definition, and start: x.pt"),
        ({"rows": {"a": {"model": "x.yaml", "options": {"epochs": 9}}}}, "options: epochs is the study's to say"),
        ({"rows": {"a": {"model": "x.yaml", "options": {"seed": 9}}}}, "options: seed is the study's to say"),
        ({"rows": {"a": {"model": "x.yaml", "options": 3}}}, "options: is 3; wanted arguments"),
        ({"train": {"yolo": {"epochs": 1, "pretrained": "x.pt"}}}, "pretrained is not for it to say"),
        ({"rows": {"a": {"weights": "b"}, "b": {"model": "x.yaml", "train": {"epochs": 9}}}}, "a budget of its own"),
        ({"rows": {"a": {"model": "x.yaml", "data": "a.json"}}, "baseline": None}, "a JSON names the pictures of one"),
        ({"rows": {"a": {"weights": "b.pt", "data": "c.yaml"}}, "baseline": None}, "as they are; remove data:"),
        ({"rows": {"a": {"detector": "yolov8", "weights": "b.pt"}}, "baseline": None}, "no detector yolov8"),
        ({"rows": {"a": {"detector": "solov2", "model": "x.yaml"}}, "baseline": None}, "model: is for yolo"),
        (
            {"rows": {"a": {"model": "x.yaml", "start": "b"}, "b": {"weights": "c"}, "c": {"weights": "b"}}},
            "from itself",
        ),
        ({"rows": {**STUDY["rows"], "a": {"weights": "claen"}}}, r"there is no row 'claen' \(did you mean 'clean'\?\)"),
        ({"split": "train"}, "would test on the pictures that were trained on"),
        ({"train": {"yolo": None}}, "yolo is None; wanted a mapping"),
        ({"rows": ["a"]}, r"rows: is \['a'\]; wanted a mapping"),
        ({"rows": {"a": {"model": "x.yaml", "after": ["p3"]}}, "baseline": None}, "names 'p3'; choose from P2, P3"),
        ({"rows": {"a": {"weights": "b.pt", "after": "P3"}}, "baseline": None}, "after: says where a model: to train"),
        ({"rows": {"a": {"model": "x.yaml", "block": {}}}, "baseline": None}, "block: which ones"),
        ({"rows": {"a": {"weights": "b.pt", "enhance": "claeh"}}, "baseline": None}, "no enhancer 'claeh'"),
        (
            {"rows": {"a": {"weights": "b.pt", "enhance": "clahe"}}, "data": "a.json", "baseline": None},
            "be a data YAML",
        ),
        ({"darken": {"dark": "severe"}}, "darken: dark is severe; wanted a mapping"),
        ({"darken": {"dark": {"preset": "severe"}}}, "wanted {source: bright/data.yaml"),
        ({"baseline": "tuned"}, "baseline: names 'tuned'"),
        ({"baseline": ["wNLB", "clean"]}, "two rows of one detector"),
        ({"seeds": [0, 0]}, "different whole numbers"),
        ({"seeds": 3}, "seeds: is 3; wanted a list"),
    ],
)
def test_a_study_that_is_not_sound_is_refused(change, told):
    with pytest.raises(ValueError, match=told):
        read_study({**STUDY, **change})


def test_a_row_that_is_there_twice_is_not_lost(tmp_path):
    (tmp_path / "study.yaml").write_text("data: a.yaml\nrows:\n  a: {weights: b.pt}\n  a: {weights: c.pt}\n")
    with pytest.raises(ValueError, match="'a' is there twice"):
        read_study(tmp_path / "study.yaml")


NOTHING = {"images": [], "annotations": [], "categories": []}


@pytest.fixture
def no_pictures(monkeypatch):
    """Cells of data sets that are not there."""
    monkeypatch.setattr("yolo_wnlb.data.coco.digest", lambda data, split: "")


@pytest.mark.parametrize("names", [("w NLB", "w-NLB"), ("wnlb", "wNLB"), ("enhanced",), ("...",)])
def test_rows_that_would_share_a_folder_are_refused(names, tmp_path, no_pictures):
    study = read_study({**STUDY, "rows": {name: {"weights": "b.pt"} for name in names}, "baseline": None})
    with pytest.raises(ValueError, match=f"rows {re.escape(', '.join(names))} would share a folder"):
        cells_of(study, tmp_path, NOTHING)


def test_rows_of_other_alphabets_have_folders(tmp_path, no_pictures):
    study = read_study({**STUDY, "rows": {name: {"weights": "b.pt"} for name in ("夜", "昼")}, "baseline": None})
    assert [cell.folder.name for cell in cells_of(study, tmp_path, NOTHING)] == ["夜", "昼"]


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"model": "yolov8n-seg-mine.yaml"}, "row 'a': .*seg-mine"),
        ({"model": "yolov8n-seg.yaml", "after": "P4", "block": {"sub": 2}}, "row 'a': .*sub"),
    ],
)
def test_what_no_model_can_be_made_of_is_told_before_anything_is_trained(row, told, tmp_path, no_pictures):
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=told):
        cells_of(read_study({**STUDY, "rows": {"a": row}, "baseline": None}), tmp_path, NOTHING)


def test_weights_that_are_not_there_are_told_before_anything_is_trained(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    study = {"data": "shapes/data.yaml", "rows": {"a": {"weights": "elsewhere/clean-{seed}/last.pt"}}}
    with pytest.raises(FileNotFoundError, match=r"a, seed 0: there are no weights elsewhere/clean-0/last\.pt"):
        compare(study, tmp_path / "out", device="cpu")


@pytest.mark.parametrize(
    ("row", "known"),
    [
        ({"weights": "yolov8n-seg.pt"}, True),
        ({"model": "yolov8n-seg.yaml", "start": "yolov8n-seg.pt"}, True),
        ({"model": "yolov8n-seg.yaml", "start": "mine.pt"}, False),
        ({"detector": "maskrcnn", "weights": "coco"}, True),
        ({"detector": "solov2", "weights": "coco"}, False),
    ],
)
def test_names_of_published_weights_may_be_fetched_and_no_others(row, known, tmp_path, no_pictures, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = {"data": "data.yaml", "rows": {"a": row}, "train": {"yolo": {}, "maskrcnn": {"min_size": 96, "lr": 0.1}}}
    cell = cells_of(read_study(study), tmp_path, NOTHING)[0]
    with nullcontext() if known else pytest.raises(FileNotFoundError, match="there are no weights"):
        check_cell(cell)
    assert cell.spec.get("sizes", {}) == ({"min_size": 96} if row.get("detector") == "maskrcnn" else {})


def test_rows_may_come_from_rows_that_come_from_rows(tmp_path, no_pictures):
    rows = {
        "bright": {"weights": "tuned", "enhance": "clahe"},
        "tuned": {"model": "yolov8n-seg.yaml", "start": "clean"},
    }
    rows |= {"clean": {"weights": "first/clean-{seed}/last.pt"}, "bright, clean": {"weights": "clean"}}
    cells = cells_of(read_study({**STUDY, "rows": rows, "baseline": None}), tmp_path, NOTHING)
    found = {cell.name: (cell.spec.get("weights") or cell.spec["start"], cell.after) for cell in cells if cell.seed}
    first = ("first/clean-1/last.pt", None)
    assert found == {
        "bright, seed 1": ("{out}/tuned-1/last.pt", "tuned"),
        "tuned, seed 1": first,
        "clean, seed 1": first,
        "bright, clean, seed 1": first,
    }


@pytest.mark.parametrize(
    "file", sorted(Path(__file__).parents[1].glob("scripts/studies/*-*.yaml")), ids=lambda f: f.stem
)
def test_our_studies_know_the_weights_of_every_cell(file, tmp_path, no_pictures, monkeypatch):
    if "backbone" in yaml.safe_load(file.read_text()):
        pytest.skip("a model, not a study")
    monkeypatch.chdir(file.parents[2])
    cells = cells_of(read_study(file), tmp_path, NOTHING)
    assert cells and not [cell.name for cell in cells if "None" in json.dumps(cell.spec)]


@pytest.mark.parametrize(
    ("key", "told"), [("epoch", "a, seed 0: .*epoch.*is not a valid YOLO argument"), ("epochs", "a, seed 0: .*epochs")]
)
def test_arguments_of_a_training_are_checked_before_anything_is_trained(key, told, tmp_path, no_pictures):
    study = {"data": "data.yaml", "rows": {"a": {"model": "yolov8n-seg.yaml"}}, "train": {"yolo": {key: "many"}}}
    with pytest.raises(ValueError, match=f"(?s){told}"):
        check_cell(cells_of(read_study(study), tmp_path, NOTHING)[0])


def test_differences_names_what_differs():
    assert differences({"a": {"b": 1, "c": 2}, "d": 1}, {"a": {"b": 1, "c": 3}, "d": 1}) == "a (c (2, now 3))"
    assert differences({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}) == "b (2, now 3), c (None, now 4)"


def square(x, size, score=None):
    mask = np.zeros((1, 64, 64), bool)
    mask[0, 10 : 10 + size, x : x + size] = True
    found = {"category_id": 1, "segmentation": coco.encode(mask)[0], "bbox": [x, 10, size, size]}
    return {**found, "score": score} if score else {**found, "area": size * size, "iscrowd": 0}


def test_differences_are_paired_and_clear_only_beyond_both_chances():
    images = [{"id": i, "width": 64, "height": 64, "file_name": f"{i}.png"} for i in range(1, 31)]
    objects = [{**square(5, 20), "id": i, "image_id": i} for i in range(1, 31)]
    truth = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "a"}]}

    def result(shift):
        return evaluate(truth, [{**square(5 + shift, 20, 0.9), "image_id": i} for i in range(1, 31)])

    cells = {name: [Cell(name, seed, Path(f"{name}-{seed}"), {}) for seed in (0, 1, 2)] for name in ("good", "bad")}
    shifts = {"good": (0, 1, 0), "bad": (4, 5, 4)}
    results = {c.folder: result(shifts[row][i]) for row, group in cells.items() for i, c in enumerate(group)}
    aps = {folder: found.masks["AP"] for folder, found in results.items()}
    deltas = [aps[a.folder] - aps[b.folder] for a, b in zip(cells["good"], cells["bad"])]
    noise = np.random.default_rng(0).normal(size=500)  # the same for all seeds
    drawn = {folder: ap + 0.01 * noise * ("good" in folder.name) for folder, ap in aps.items()}
    better = against(cells["good"], cells["bad"], results, drawn)
    assert better["delta"] == pytest.approx(np.mean(deltas)) and better["deltas"] == pytest.approx(deltas)
    assert better["over_images"] == pytest.approx(1.96 * 0.01 * noise.std(ddof=1))
    assert better["over_seeds"] == pytest.approx(4.30265 * np.std(deltas, ddof=1) / 3**0.5, rel=1e-5)
    half = np.hypot(better["over_images"], better["over_seeds"])
    assert better["interval"] == pytest.approx((better["delta"] - half, better["delta"] + half)) and better["clear"]
    unsure = {folder: ap + noise * ("good" in folder.name) for folder, ap in aps.items()}
    assert not against(cells["good"], cells["bad"], results, unsure)["clear"], "by the choice of images"
    equal = against(cells["bad"], cells["bad"], results, drawn)
    assert equal["delta"] == 0 and not equal["clear"]
    one = against(cells["good"][:1], cells["bad"], results, drawn)
    assert one["over_seeds"] is None and not one["clear"], "one seed says nothing of chance in training"


@pytest.mark.parametrize("common", [0.0, 1.0], ids=["each seed its own images", "images that all seeds share"])
def test_one_interval_errs_as_seldom_as_it_says(common):
    """Three seeds, 60 images, no true difference: at most 5 % of the intervals leave out 0, and not next to none."""
    rng, wrong, rounds = np.random.default_rng(0), 0, 1000
    cells = {name: [Cell(name, seed, Path(f"{name}-{seed}"), {}) for seed in range(3)] for name in "ab"}
    weights = np.random.default_rng(1).multinomial(60, np.full(60, 1 / 60), 200) / 60
    for _ in range(rounds):
        effects = common * rng.normal(size=60) + rng.normal(size=(3, 60))  # of each image, in each seed
        results = {cell.folder: SimpleNamespace(masks={"AP": 0.0}) for cell in cells["b"]}
        results |= {c.folder: SimpleNamespace(masks={"AP": row.mean()}) for c, row in zip(cells["a"], effects)}
        drawn = {cell.folder: weights @ row for cell, row in zip(cells["a"], effects)}
        drawn |= {cell.folder: np.zeros(200) for cell in cells["b"]}
        wrong += against(cells["a"], cells["b"], results, drawn)["clear"]
    assert 0.01 < wrong / rounds < 0.05


def test_rows_that_were_evaluated_unlike_each_other_have_no_table(done, folder, tmp_path, monkeypatch):
    shutil.copytree(folder, tmp_path / "copy", ignore=shutil.ignore_patterns("killed", "broken", "others"))
    monkeypatch.chdir(tmp_path / "copy")
    record = json.loads(Path("plain/wNLB-1/cell.json").read_text())
    record["protocol"]["image_size"] = "128x128"
    Path("plain/wNLB-1/cell.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"wNLB, seed 1 and clean, seed 0 were evaluated unlike .*image_size"):
        compare("study.yaml", "plain", device="cpu")


@pytest.mark.parametrize(
    ("train", "block", "told"),
    [
        ({"imgsz": 64}, {}, "a, seed 0: Mask R-CNN has no option imgsz"),
        ({"epohcs": 3}, {}, "no option epohcs"),
        ({}, {"sub": 2}, "sub"),
    ],
)
def test_what_mask_rcnn_does_not_know_is_told_before_anything_is_trained(folder, monkeypatch, train, block, told):
    monkeypatch.chdir(folder)
    rows = {"a": {"detector": "maskrcnn", "after": "P4", "block": block}}
    study = {"data": "shapes/data.yaml", "train": {"maskrcnn": {"epochs": 1, **train}}, "rows": rows}
    with pytest.raises((ValueError, TypeError), match=told):
        compare(study, folder / "refused", device="cpu")
    assert not (folder / "refused/a-0").exists()


def test_mask_rcnn_and_solov2_stand_in_it_by_the_same_keys(folder, monkeypatch):
    budget = {"epochs": 1, "batch": 2, "workers": 0, "backbone": "resnet18", "min_size": 64, "max_size": 64}
    block = {"after": ["P4", "P5"], "block": {"sub_sample": 2}}
    rows = {detector: {"detector": detector, **block} for detector in ("maskrcnn", "solov2_light")}
    monkeypatch.chdir(folder)
    monkeypatch.setattr("yolo_wnlb.study.compare.TIMED", 1)
    for place in (folder / "shapes").rglob("*.*"):  # enhanced pictures have other names than these
        target = folder / "jpeg" / place.relative_to(folder / "shapes")
        target.parent.mkdir(parents=True, exist_ok=True)
        if place.suffix == ".png":
            cv2.imwrite(str(target.with_suffix(".jpg")), cv2.imread(str(place)))
        elif place.suffix == ".txt":
            shutil.copy(place, target)
    said = yaml.safe_load((folder / "shapes/data.yaml").read_text())
    (folder / "jpeg/data.yaml").write_text(yaml.safe_dump({**said, "path": str(folder / "jpeg")}))
    rows["bright"] = {"detector": "maskrcnn", "start": "maskrcnn", "enhance": "gamma:2.2"}
    study = {"data": "jpeg/data.yaml", "train": {"maskrcnn": budget, "solov2_light": budget}, "rows": rows}
    found = compare(study, folder / "others", device="cpu").rows
    assert [row["detector"] for row in found] == ["maskrcnn", "solov2_light", "maskrcnn"]
    assert all(len(row["w"][0]) == 2 and 0 not in row["w"][0] for row in found[:2])
    assert all(row["ms"] > 0 and row["GFLOPs"] > 0 for row in found)
