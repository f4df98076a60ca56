"""`yolo-wnlb compare`: runs that can be killed, tables that can be trusted, and what is refused before a run starts."""

import json
import os
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
from conftest import FEW_REGIONS, SOLO, run_python, shapes_set

from yolo_wnlb.data import coco
from yolo_wnlb.metrics.average_precision import evaluate
from yolo_wnlb.metrics.bootstrap import draws
from yolo_wnlb.study import compare as compare_module
from yolo_wnlb.study import table as table_module
from yolo_wnlb.study.check import check_folder, check_models, warn_of_warmup
from yolo_wnlb.study.compare import CHILD, child_command, child_environment, compare, prepare, run_all, unfinished
from yolo_wnlb.study.plan import groups_of, read_study
from yolo_wnlb.study.run import run as run_here
from yolo_wnlb.study.runs import Run, differences, runs_of
from yolo_wnlb.study.table import Result, difference, remake, seed_pairs, tabulate
from yolo_wnlb.words import literal

BUDGET = {"epochs": 1, "imgsz": 64, "batch": 4, "workers": 0}
STUDY = {
    "darken": {"dark": {"source": "shapes/data.yaml", "preset": "mild"}},
    "data": "dark/data.yaml",
    "seeds": [0, 1],
    "train": {"yolo": BUDGET},
    "rows": {
        "clean": {"model": "yolov8n-seg.yaml", "data": "shapes/data.yaml", "train": {"epochs": 2}},
        "brightened": {"weights": "clean", "enhance": "clahe"},
        "fine-tuned": {"model": "yolov8n-seg.yaml", "start": "clean"},
        "wNLB": {"model": "yolov8n-seg.yaml", "start": "clean", "after": ["P4", "P5"], "block": {"sub_sample": 2}},
    },
    "baseline": "fine-tuned",
}
SMALL = {"data": "shapes/data.yaml", "train": {"yolo": BUDGET}, "rows": {"plain": {"model": "yolov8n-seg.yaml"}}}
SMALL_SOLO = {key: [*value] if isinstance(value, tuple) else value for key, value in SOLO.items()}
SMALL_SOLO |= {"scale_ranges": [[*span] for span in SOLO["scale_ranges"]], "min_size": 64, "max_size": 64}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny data set, and beside it the study of it."""
    home = tmp_path_factory.mktemp("study")
    shapes_set(home / "shapes", train=8, val=4)
    (home / "study.yaml").write_text(yaml.safe_dump(STUDY, sort_keys=False))
    return home


@pytest.fixture(scope="module")
def boxes(folder):
    """The same pictures, their labels boxes."""
    from ultralytics.utils.ops import segments2boxes

    shutil.copytree(folder / "shapes", folder / "boxes", ignore=shutil.ignore_patterns("annotations", "*.cache"))
    for label in (folder / "boxes").glob("labels/*/*.txt"):
        rows = [line.split() for line in label.read_text().splitlines()]
        outlines = [np.array(row[1:], float).reshape(-1, 2) for row in rows]
        found = segments2boxes(outlines) if rows else []
        label.write_text("".join(f"{row[0]} {' '.join(map(str, box))}\n" for row, box in zip(rows, found)))
    said = yaml.safe_load((folder / "boxes/data.yaml").read_text())
    (folder / "boxes/data.yaml").write_text(yaml.safe_dump({**said, "path": str(folder / "boxes")}))
    return "boxes/data.yaml"


def start_here(run, device):
    """Stand in for `compare.start`: do the run in this process, which has imported everything already."""
    compare_module.prepare(run, device)
    run_here(run.folder)
    return SimpleNamespace(poll=lambda: 0, returncode=0, communicate=lambda: (None, None))


def compared_here(study, folder, out="out", timed=1):
    """Run a study in a folder and in this process, with few latencies; returns the folder of its table."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(compare_module, "start", start_here)
        patch.setattr(compare_module, "TIMED", timed)
        compare(study, out, device="cpu")
    return folder / out


@pytest.fixture
def in_this_process(monkeypatch):
    """Let runs happen without processes of their own, and measure few latencies."""
    monkeypatch.setattr(compare_module, "start", start_here)
    monkeypatch.setattr(compare_module, "TIMED", 1)


@pytest.fixture
def no_run_starts(monkeypatch):
    """Fail where a run is started."""
    monkeypatch.setattr(compare_module, "start", lambda run, device: pytest.fail(f"{run.name} was started"))


def command(study, out, **options):
    """The command, in a process of its own; returns the CompletedProcess."""
    words = ["compare", str(study), f"out={out}", *(f"{key}={value}" for key, value in options.items())]
    few = "from yolo_wnlb.study import compare; compare.TIMED = 1"
    code = f"import sys; from yolo_wnlb.cli import main; {few}; sys.exit(main({words!r}))"
    return run_python(code, Path(study).parent)


@pytest.fixture(scope="module")
def done(folder):
    """The study, run without any incident."""
    return compared_here("study.yaml", folder, "plain", timed=2)


def rows_of(out):
    """The rows of a table but for times and memory."""
    rows = json.loads((out / "table.json").read_text())["rows"]
    return [{key: value for key, value in row.items() if key not in ("ms", "ms quartiles", "peak MB")} for row in rows]


# ---- a study from beginning to end ---------------------------------------------------------------


def test_all_runs_stand_in_one_table_with_costs_and_records(done):
    rows = {row["name"]: row for row in json.loads((done / "table.json").read_text())["rows"]}
    assert list(rows) == ["clean", "brightened", "fine-tuned", "wNLB"]
    assert [rows[name]["seeds"] for name in rows] == [2, 2, 2, 2]
    assert rows["wNLB"]["parameters M"] > rows["fine-tuned"]["parameters M"] == rows["clean"]["parameters M"]
    assert rows["wNLB"]["GFLOPs"] > rows["fine-tuned"]["GFLOPs"] and all(row["ms"] > 0 for row in rows.values())
    assert rows["wNLB"]["baseline"] == "fine-tuned" and "baseline" not in rows["fine-tuned"]
    assert len(rows["wNLB"]["w"]) == 2 and len(rows["wNLB"]["w"][0]) == 2
    text = (done / "table.md").read_text()
    assert all(any(row["by seed"]) == (f"row {name}: AP is 0" not in text) for name, row in rows.items())
    assert "| row | mask AP | AP50 |" in text and "| box AP | against fine-tuned |" in text and "| wNLB |" in text
    record = json.loads((done / "wNLB-1/run.json").read_text())
    named = {"row": "wNLB", "seed": 1, **record}
    assert named in json.loads((done / "table.json").read_text())["records"]
    assert record["masks"].keys() == record["boxes"].keys() and rows["wNLB"]["by seed"][1] == record["masks"]["AP"]
    assert record["spec"]["start"] == "{out}/clean-1/last.pt" and record["spec"]["seed"] == 1
    assert {"torch", "ultralytics", "device"} <= record["environment"].keys()
    assert record["protocol"]["max_detections"] == 100
    assert len(record["files"]["{out}/clean-1/last.pt"]) == 64
    spec = json.loads((done / "brightened-1/run.json").read_text())["spec"]
    assert spec["weights"] == "{out}/clean-1/last.pt" and spec["imgsz"] == 64 and "train" not in spec
    bright, dark = (
        cv2.imread(str(next(f.glob("images/val/*")))) for f in (done / "enhanced/clahe", done.parent / "dark")
    )
    assert bright.mean() > dark.mean() + 3 and not np.array_equal(bright, dark)
    grafted = (done / "wNLB-1/yolov8n-seg-wnlb.yaml").read_text()
    assert grafted.count("wNLB, [{sub_sample: 2}]") == 2


def command_line(pid):
    """The words that a process was started with; none when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")[:-1]
    except OSError:
        return []


def wait_until(condition):
    deadline = time.time() + 120
    while not condition() and time.time() < deadline:
        time.sleep(0.05)
    assert condition()


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks at processes as Linux shows them")
def test_killed_in_the_middle_of_a_run_it_ends_in_the_same_table(done, folder):
    """With real processes: their numbers are those of the runs in this process, to the last bit."""
    out = folder / "killed"
    for run in [*done.glob("*-1"), done / "clean-0", done / "brightened-0"]:
        shutil.copytree(run, out / run.name)
    code = f"import sys; from yolo_wnlb.cli import main; main(['compare', 'study.yaml', 'out={out}', 'device=cpu'])"
    first = subprocess.Popen([sys.executable, "-c", code], cwd=folder, stdout=subprocess.DEVNULL)
    wait_until((out / "fine-tuned-0/train/args.yaml").exists)
    processes = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    (child,) = [process for process in processes if command_line(process)[-1:] == [str(out / "fine-tuned-0")]]
    first.kill()  # and its run goes with it
    assert first.wait() == -signal.SIGKILL and not (out / "fine-tuned-0/run.json").exists()
    wait_until(lambda: not command_line(child))
    (out / "fine-tuned-0/draft.tmp").touch()  # such as a process leaves that is killed while it writes
    again = command(folder / "study.yaml", out, device="cpu", jobs=2)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "clean, seed 0 ..." not in again.stdout, "what is finished is not repeated"
    assert "fine-tuned, seed 0: mask AP " in again.stdout and "| wNLB |" in again.stdout
    assert "417/417 tensors of the pretrained model kept" in (out / "wNLB-0/log.txt").read_text()
    assert not (out / "fine-tuned-0/draft.tmp").exists()
    assert rows_of(out) == rows_of(done)


def test_two_compares_do_not_write_into_one_folder(done, folder):
    from yolo_wnlb.data.journal import locked

    words = ["compare", "study.yaml", f"out={done}", "device=cpu"]
    code = f"import sys; from yolo_wnlb.cli import main; sys.exit(main({words!r}))"
    with locked(done):
        other = subprocess.Popen([sys.executable, "-c", code], cwd=folder, stderr=subprocess.PIPE, text=True)
        for line in other.stderr:
            if "another run is writing into" in line:
                break
        else:
            pytest.fail("it did not notice")
        other.kill()
    other.wait()
    other.stderr.close()


def test_an_interruption_ends_the_runs_at_once_and_starts_no_more(monkeypatch, tmp_path):
    started = []

    def start(run, device):
        command = [sys.executable, "-c", "import time; time.sleep(600)"]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE))
        return started[-1]

    def interrupted(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(compare_module, "start", start)
    monkeypatch.setattr(compare_module.time, "sleep", interrupted)
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_all([Run(name, 0, tmp_path / name, {}) for name in "abc"], 2, "cpu")
    assert [process.returncode for process in started] == [-signal.SIGKILL] * 2 and time.monotonic() < begun + 10
    assert all(process.stdin.closed for process in started)


@pytest.mark.parametrize("other", ["budget", "weights", "labels", "start to be run again", "classes"])
def test_runs_under_other_conditions_are_refused(done, folder, monkeypatch, tmp_path, other, no_run_starts):
    for name in ("shapes", "dark", "plain"):
        shutil.copytree(folder / name, tmp_path / name, ignore=shutil.ignore_patterns("weights"))
    monkeypatch.chdir(tmp_path)
    study = json.loads(json.dumps(STUDY))
    bright = yaml.safe_load(Path("shapes/data.yaml").read_text())
    Path("shapes/data.yaml").write_text(yaml.safe_dump({**bright, "path": str(Path("shapes").resolve())}))
    message = r"another {out}/clean-0/last.pt \(\w+, now \w+\)"
    if other == "budget":
        study["train"]["yolo"]["epochs"] = 3
        message = r"another train \(epochs \(1, now 3\)\); runs under different conditions have no place in one table"
    elif other == "weights":  # as if the row that others start from had been run again
        with Path("plain/clean-0/last.pt").open("ab") as file:
            file.write(b"0")
    elif other == "start to be run again":
        Path("plain/clean-0/run.json").unlink()
        message = r"brightened-0, .*fine-tuned-0, .*wNLB-0 started from weights that will be trained again; delete them"
    elif other == "classes":
        Path("shapes/data.yaml").write_text(yaml.safe_dump({**bright, "names": bright["names"][::-1]}))
        message = r"clean-0 was run with another .*train_pictures \(.*\(the same of \d more\)"
    else:
        label = next(Path("shapes/labels/train").iterdir())
        label.write_text(label.read_text() + "0 0.1 0.1 0.2 0.1 0.2 0.2\n")
        message = r"clean-0 was run with another .*train_pictures \("
    with pytest.raises(ValueError, match=message):
        compare({**study, "darken": {}} if other in ("labels", "classes") else study, "plain", device="cpu")


@pytest.mark.parametrize("content", ["[]", "{", '{"spec": 1}'])
def test_a_damaged_record_is_named(tmp_path, content):
    run = Run("a", 0, tmp_path / "a-0", {"detector": "yolo"})
    run.folder.mkdir()
    (run.folder / "run.json").write_text(content)
    with pytest.raises(ValueError, match=r"run\.json is no (record of a run; delete|JSON)"):
        unfinished([run])


def test_damaged_latencies_are_measured_again(done, folder, monkeypatch, tmp_path, in_this_process, no_run_starts):
    shutil.copytree(done, tmp_path / "plain")
    (tmp_path / "plain/latency.json").write_text("[]")
    monkeypatch.chdir(folder)
    assert all(row["ms"] for row in compare("study.yaml", tmp_path / "plain", device="cpu").rows)


def test_a_run_that_fails_is_reported_with_its_log_and_the_others_stay(tmp_path, monkeypatch):
    started, start = [], compare_module.start
    monkeypatch.setattr(compare_module, "start", lambda *run: started.append(start(*run)) or started[-1])
    runs = [Run("broken", 0, tmp_path / "broken-0", {"detector": "yolo"}), Run("after", 0, tmp_path / "after-0", {})]
    with pytest.raises(
        ChildProcessError, match=r"broken, seed 0: ended with status 1: KeyError.*log\.txt.*run the same command again"
    ):
        run_all(runs, 1, "cpu")
    assert not runs[1].folder.exists(), "none starts after a failure"
    assert all(process.stdin.closed for process in started), "Python would warn of it, in front of the table"


# ---- masks and boxes -----------------------------------------------------------------------------


def test_models_with_and_without_masks_are_measured_by_boxes(folder, monkeypatch, in_this_process, capsys):
    monkeypatch.chdir(folder)
    rows = {"masks": {"model": "yolov8n-seg.yaml"}, "boxes": {"model": "yolov8n.yaml"}}
    table = compare({**SMALL, "rows": rows, "baseline": "boxes"}, "mixed", device="cpu")
    assert table.kind == "bbox" and "| row | box AP |" in str(table) and "| mask AP | against boxes |" in str(table)
    assert "measured by boxes: the model finds boxes only (row boxes)" in str(table)
    masks, boxes = table.rows
    assert boxes["mask AP"] is None and masks["mask AP"] is not None and "delta" in masks
    records = [json.loads(Path(f"mixed/{name}-0/run.json").read_text()) for name in rows]
    assert [bool(record["masks"]) for record in records] == [True, False]
    assert [row["AP"] for row in table.rows] == [record["boxes"]["AP"] for record in records]
    assert "boxes, seed 0: box AP 0." in capsys.readouterr().out
    assert re.search(r"\| boxes \|.*\| - \|  \|", str(table)), "no mask AP, no difference"


def test_box_labels_are_a_truth_for_a_study(folder, boxes, monkeypatch, in_this_process):
    monkeypatch.chdir(folder)
    table = compare({**SMALL, "data": boxes, "rows": {"plain": {"model": "yolov8n.yaml"}}}, "of boxes", device="cpu")
    assert table.kind == "bbox" and "mask AP" not in str(table).splitlines()[0]
    assert re.search(r"measured by boxes: \d+ of \d+ objects of the truth have no mask \(row plain\)", str(table))


# ---- the YAML ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": None}, "lacks rows"),
        ({"epochs": 3}, "no key epochs.*; choose from darken, data"),
        ({"data": ["a.yaml", "b.yaml"]}, "data: is .*; wanted one text"),
        ({"rows": {"a": {"modle": "yolov8n-seg.yaml"}}}, "row 'a': no key modle"),
        ({"rows": {"a": {}}}, "wants weights: to evaluate, or model: to train"),
        ({"rows": {"a": {"model": 3}}}, "row 'a': model: is 3; wanted one text"),
        ({"rows": {"a": {"weights": ["b.pt"]}}}, "row 'a': weights: is .*; wanted a file, or the name of a row"),
        ({"rows": {"a": {"detector": ["yolo"], "weights": "b.pt"}}}, "detector: is .*; wanted one text"),
        ({"rows": {"a": {"model": "x.yaml", "weights": "b.pt"}}}, "and not both"),
        ({"rows": {"a": {"model": "x.yaml", "train": {"epochs": 9}}}}, "a budget of its own"),
        ({"rows": {"a": {"detector": "solov2"}}}, "says nothing of solov2, which this row trains"),
        ({"rows": {"a": {"model": "x.yaml", "start": "a"}}, "baseline": None}, "starts from itself"),
        (
            {"rows": {"a": {"weights": "b"}, "b": {"weights": "a"}}, "baseline": None},
            "row 'a' starts from itself; give it other weights",
        ),
        ({"rows": {"a": {"model": "x.pt"}}, "baseline": None}, "x.pt is no YAML; give its definition, and start: x.pt"),
        ({"rows": {"a": {"model": "x.yaml", "options": {"epochs": 9}}}}, ", options: epochs is for the study to give"),
        ({"rows": {"a": {"model": "x.yaml", "options": {"seed": 9}}}}, ", options: seed is for the study to give"),
        ({"rows": {"a": {"model": "x.yaml", "options": 3}}}, "options: is 3; wanted arguments"),
        ({"train": {"yolo": {"epochs": 1, "pretrained": "x.pt"}}}, "pretrained is for the study to give"),
        ({"train": {"yolo": {"epochs": 1, "single_cls": True}}}, "single_cls is for the study to give"),
        ({"train": {"yolo": {"epochs": 1, "classes": [0]}}}, "classes is for the study to give"),
        ({"train": {"yolov8": {"epochs": 1}}}, "train: no detector yolov8 .*; choose from yolo, maskrcnn"),
        ({"train": {"yolo": {"epochs": 0}}}, "train: yolo: epochs is 0; wanted a whole number, 1 or more"),
        ({"train": {"yolo": {"epochs": "ten"}}}, "epochs is 'ten'; wanted a whole number"),
        ({"train": {"yolo": {"imgsz": 64.5}}}, "imgsz is 64.5; wanted a whole number, 32 or more"),
        ({"train": {"yolo": {"imgsz": [64, 96]}}}, r"imgsz is \[64, 96\]; wanted a whole number"),
        ({"train": {"yolo": {"batch": -1}}}, "batch is -1; wanted a whole number, 1 or more"),
        ({"train": {"yolo": {"batch": True}}}, "batch is True; wanted a whole number"),
        ({"train": {"maskrcnn": {"min_size": "64"}}}, "min_size is '64'; wanted a whole number of pixels"),
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
        ({"rows": {1: {"weights": "b.pt"}, "1": {"weights": "c.pt"}}}, "two rows have one name"),
        ({"split": "train"}, "would test on the pictures that were trained on"),
        ({"train": {"yolo": None}}, "yolo is None; wanted a mapping"),
        ({"rows": ["a"]}, r"rows: is \['a'\]; wanted a mapping"),
        (
            {"rows": {"a": {"model": "x.yaml", "after": ["p3"]}}, "baseline": None},
            "names 'p3' .did you mean 'P3'",
        ),
        ({"rows": {"a": {"weights": "b.pt", "after": "P3"}}, "baseline": None}, "after: says where a model: to train"),
        ({"rows": {"a": {"model": "x.yaml", "block": {}}}, "baseline": None}, "block: which ones"),
        ({"rows": {"a": {"model": "x.yaml", "after": "P3", "block": 3}}, "baseline": None}, "block: is 3; wanted opt"),
        (
            {"rows": {"a": {"weights": "b.pt", "enhance": "clahe"}}, "data": "a.json", "baseline": None},
            "be a data YAML",
        ),
        ({"darken": {"dark": "severe"}}, "darken: dark is severe; wanted a mapping"),
        ({"darken": {"dark": {"preset": "severe"}}}, "wanted {source: bright/data.yaml"),
        ({"darken": {"dark": {"source": "a", "presett": "mild"}}}, r"no key presett \(did you mean 'preset'\?\)"),
        ({"darken": {"dark": {"source": "a", "preset": "sever"}}}, "darken: dark: no low-light preset 'sever'"),
        ({"darken": {"dark": {"source": "a", "shard": "1/2"}}}, "no key shard"),
        ({"baseline": "tuned"}, "baseline: names 'tuned'"),
        ({"baseline": ["wNLB", "clean"]}, "two rows of one detector"),
        ({"seeds": [0, 0]}, "different whole numbers"),
        ({"seeds": [-1]}, "from 0 to 2"),
        ({"seeds": [2**32]}, "from 0 to 2"),
        ({"seeds": [True]}, "different whole numbers"),
        ({"seeds": 3}, "seeds: is 3; wanted a list"),
        ({"groups": 3}, "groups: is 3; wanted a key that the images"),
        ({"groups": "(a"}, "no regular expression"),
        ({"groups": "(a)(b)"}, "with 2 groups in brackets"),
    ],
)
def test_a_study_that_is_not_sound_is_refused(change, message):
    with pytest.raises(ValueError, match=f"study.*{message}"):
        read_study({**STUDY, **change})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"data: a.yaml\nrows:\n  a: {weights: b.pt}\n  a: {weights: c.pt}\n", "key 'a' stands twice"),
        (b"data: \xff\n", "is not UTF-8"),
        (b"data: [\n", "is no YAML"),
        (b"", "lacks all keys"),
    ],
)
def test_a_file_that_is_no_study_is_refused_by_its_name(tmp_path, content, message):
    (tmp_path / "mine.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=rf"mine\.yaml.*{message}"):
        read_study(tmp_path / "mine.yaml")


def test_what_a_study_says_can_be_written_as_json():
    rows = {"a": {"weights": Path("b.pt")}, 2: {"weights": "{seed}.pt"}}
    study = read_study({"data": Path("a.yaml"), "rows": rows, "seeds": (3,), "baseline": 2})
    assert json.loads(json.dumps(study)) == study and study["baseline"] == {"yolo": "2"}


@pytest.mark.parametrize(
    "file", sorted(Path(__file__).parents[1].glob("scripts/studies/*-*.yaml")), ids=lambda f: f.stem
)
def test_our_studies_know_the_weights_of_every_run(file, tmp_path, monkeypatch):
    if "backbone" in yaml.safe_load(file.read_text()):
        pytest.skip("a model, not a study")
    monkeypatch.chdir(file.parents[2])
    runs = runs_of(read_study(file), tmp_path)
    assert runs and not [run.name for run in runs if "None" in json.dumps(run.spec)]


@pytest.mark.parametrize("lowlight", ["mycam.yaml", {"preset": "mycam.yaml", "p": 0.5}])
def test_a_run_in_the_darkness_of_a_camera_file_knows_what_the_file_holds(lowlight, tmp_path, monkeypatch):
    """Another content of the same file is another run, which has to be trained again."""
    monkeypatch.chdir(tmp_path)
    study = {**STUDY, "rows": {"a": {"model": "yolov8n-seg.yaml", "options": {"lowlight": lowlight}}}, "baseline": None}
    specs = []
    for sigma in (0.01, 0.02):
        Path("mycam.yaml").write_text(f"camera: 1\nsettings: {{ev: -3, sigma_s: {sigma}}}\n")
        specs.append(runs_of(read_study(study), tmp_path)[0].spec)
    assert [spec["camera"]["sigma_s"] for spec in specs] == [[0.01, 0.01], [0.02, 0.02]]
    named = {**study, "rows": {"a": {"model": "yolov8n-seg.yaml", "options": {"lowlight": "severe"}}}}
    assert "camera" not in runs_of(read_study(named), tmp_path)[0].spec


FILES = {  # options of a row, and the file that they name
    "teacher": {"denoise": {"target": "features", "teacher": "named.pt"}},
    "distill_model": {"distill_model": "named.pt"},
    "curve": {"curve": "named.pt"},
}


@pytest.mark.parametrize("how", [*FILES, "start", "scene"])
def test_a_run_knows_the_content_of_every_file_that_its_row_names(how, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("named.pt").write_text("one")
    row = {"model": "yolov8n-seg.yaml", "options": {"lr0": 0.1, **FILES.get(how, {})}}
    if how == "start":
        row["start"] = "named.pt"
    if how == "scene":
        row["model"] = "mine.yaml"
        Path("mine.yaml").write_text(
            "nc: 5\nscene: {arch: resnet18, weights: named.pt}\nbackbone: [[-1, 1, Conv, [8, 3, 2]]]\n"
            "head: [[[0], 1, Segment, [nc, 32, 8]]]\n"
        )
    run = runs_of(read_study({**STUDY, "rows": {"a": row}, "baseline": None}), tmp_path / "out")[0]
    prepare(run, "cpu")
    spec = json.loads((run.folder / "spec.json").read_text())
    files = spec.pop("begun with")["files"]
    assert [*files] == ["named.pt"]
    (run.folder / "run.json").write_text(json.dumps({"spec": run.spec, "files": files, "protocol": {}}))
    assert run.record
    Path("named.pt").write_text("other")
    with pytest.raises(ValueError, match=r"was run with another named.pt \(\w+, now \w+\)"):
        run.record  # noqa: B018


@pytest.mark.parametrize("names", [("w NLB", "w-NLB"), ("wnlb", "wNLB"), ("enhanced",), ("...",), ("matches.npz",)])
def test_rows_that_would_share_a_folder_are_refused(names, tmp_path):
    study = read_study({**STUDY, "rows": {name: {"weights": "b.pt"} for name in names}, "baseline": None})
    with pytest.raises(ValueError, match=f"rows {re.escape(', '.join(names))} would share a folder"):
        runs_of(study, tmp_path)


def test_rows_of_other_alphabets_have_folders(tmp_path):
    study = read_study({**STUDY, "rows": {name: {"weights": "b.pt"} for name in ("夜", "昼")}, "baseline": None})
    assert [run.folder.name for run in runs_of(study, tmp_path)] == ["夜", "昼"]


def test_rows_may_start_from_rows_that_start_from_rows(tmp_path):
    rows = {
        "bright": {"weights": "tuned", "enhance": "clahe"},
        "tuned": {"model": "yolov8n-seg.yaml", "start": "clean"},
    }
    rows |= {"clean": {"weights": "first/clean-{seed}/last.pt"}, "bright, clean": {"weights": "clean"}}
    runs = runs_of(read_study({**STUDY, "rows": rows, "baseline": None}), tmp_path)
    found = {run.name: (run.weights, run.source_row) for run in runs if run.seed}
    first = ("first/clean-1/last.pt", None)
    assert found == {
        "bright, seed 1": ("{out}/tuned-1/last.pt", "tuned"),
        "tuned, seed 1": first,
        "clean, seed 1": first,
        "bright, clean, seed 1": first,
    }


def test_differences_names_what_differs():
    assert differences({"a": {"b": 1, "c": 2}, "d": 1}, {"a": {"b": 1, "c": 3}, "d": 1}) == "a (c (2, now 3))"
    assert differences({"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}) == "b (2, now 3), c (None, now 4)"


# ---- what is refused before the first run starts -------------------------------------------------


def plain(**row):
    return {"rows": {"plain": {"model": "yolov8n-seg.yaml", **row}}}


def twins(**options):
    return {"lowlight": "mild", "denoise": {"target": "features", **options}}


def maskrcnn(row=None, **train):
    budget = {"epochs": 1, "backbone": "resnet18", **train}
    return {"train": {"maskrcnn": budget}, "rows": {"plain": {"detector": "maskrcnn", **(row or {})}}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": {"yolo": {"epoch": 3}}}, r"plain, seed 0: .*epoch.*is not a valid YOLO argument"),
        ({"train": {"yolo": {"lr0": "fast"}}}, "plain, seed 0: .*lr0"),
        ({"train": {"yolo": {"imgsz": 65}}}, "imgsz is 65; wanted a multiple of the model's stride, 32"),
        (plain(options={"optimizer": "mine"}), "Optimizer 'mine' not found"),
        (plain(options={"freeze": "all"}), "freeze is 'all'; wanted how many layers"),
        (plain(options={"freeze": [0, 99]}), r"freeze is \[0, 99\]; wanted how many layers, .* 0 to 22"),
        (plain(options={"freeze": -1}), "freeze is -1; wanted"),
        (
            plain(options={"copy_paste_mode": "flap"}),
            "copy_paste_mode is 'flap' .did you mean 'flip'.*from flip, mixup",
        ),
        (
            plain(options={"cache": "disc"}),
            "cache is 'disc' .did you mean 'disk'.*from True, False, ram, disk",
        ),
        (plain(model="yolov8n-seg-mine.yaml"), "row 'plain': .*seg-mine"),
        (plain(after="P4", block={"sub": 2}), "row 'plain': .*sub"),
        (plain(model="yolov8n-pose.yaml"), "a model for 'pose'; wanted one for segmentation or detection"),
        (plain(model="broken-seg.yaml"), "no model can be built from broken-seg.yaml"),
        (plain(start="mine.pt"), "there are no weights mine.pt; train them first"),
        (plain(start="shapes/data.yaml"), "not a checkpoint"),
        (plain(start="text.pt"), "text.pt is not a readable Ultralytics checkpoint"),
        (
            {"rows": {"plain": {"weights": "elsewhere/{seed}.pt"}}},
            r"seed 0: there are no weights elsewhere/0\.pt",
        ),
        ({"rows": {"plain": {"weights": "text.pt"}}}, "plain: text.pt is not a readable"),
        ({"rows": {"plain": {"weights": "other.pt"}}}, "plain: the 80 classes of the detector are not the 5"),
        ({"rows": {"plain": {"weights": "b.pt", "enhance": "claeh"}}}, "row 'plain': no enhancer 'claeh'"),
        ({"rows": {"plain": {"weights": "other.pt", "enhance": "dir:nowhere"}}}, "there is no folder nowhere"),
        (plain(data="nowhere.yaml"), "nowhere.yaml"),
        (plain(data="other-classes.yaml"), "plain, seed 0: the 5 classes of the detector are not the 5"),
        (
            plain(data="boxes/data.yaml"),
            r"\d+ of \d+ labels of boxes/data.yaml, train, are boxes",
        ),
        ({"data": "other-size.json", "rows": {"plain": {"weights": "{seed}.pt"}}}, "no weights 0.pt"),
        ({"data": "other-size.json", **plain(data="shapes/data.yaml")}, "is 64 x 64, in the truth 128 x 64"),
        ({"data": "empty.json", **plain(data="shapes/data.yaml")}, "without an object; nothing can be measured"),
        ({"groups": "place"}, "groups: place says nothing of 4 of 4 pictures .* the first one has id, file_name"),
        ({"groups": "(shape)"}, "groups: .* says nothing of 4 of 4"),
        ({"groups": r"\.(png)$"}, r"puts all 4 pictures into one group, 'png'"),
        (maskrcnn(imgsz=64), "plain, seed 0: Mask R-CNN has no option imgsz"),
        (maskrcnn(epohcs=3), "no option epohcs"),
        (maskrcnn(lr=-1), "lr must be above 0"),
        (maskrcnn(lr="5e-4"), "lr is '5e-4'; wanted a number, such as 0.0005"),
        (maskrcnn(backbone="resnet7"), "plain, seed 0: backbone must be one of resnet"),
        (maskrcnn(freeze="heads"), "would freeze heads at a random start"),
        (maskrcnn(trainable_layers=9), "trainable_layers must be 0 to 5; got 9"),
        (maskrcnn(min_size=64, max_size=32), "min_size is 64, above max_size, 32"),
        (plain(options={"distill_model": "teacher.pt"}), "checkpoint teacher.pt does not exist"),
        (plain(options=twins(teacher="teacher.pt")), "plain, seed 0: denoise: there is no teacher teacher.pt"),
        (plain(options=twins(teacher="text.pt")), "denoise: the teacher text.pt is not a readable"),
        (plain(options=twins(teacher="small.pt")), "the teacher has to be a"),
        (plain(options=twins()), "plain, seed 0: denoise=features learns .* no checkpoint is named; give start:"),
        ({"rows": {"": {"model": "yolov8n-seg.yaml"}}}, "a row has no name"),
        (maskrcnn({"after": "P4", "block": {"sub": 2}}), "sub"),
        (maskrcnn({"data": "boxes/data.yaml"}), "have a box but no segmentation"),
        (maskrcnn({"start": "text.pt"}), "plain, seed 0: .*text.pt"),
        (
            {
                "rows": {
                    "plain": {"model": "yolov8n-seg.yaml", "start": "big", "options": {}},
                    "big": {"model": "yolov8n-seg.yaml", "train": {"imgsz": 96}},
                },
                "train": {"yolo": {"epochs": 1}},
            },
            "plain, seed 0 would be evaluated at 640x640 and big, seed 0 at 96x96, .* one size for all in train: yolo",
        ),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[:40],
)
def test_what_a_run_needs_is_checked_before_the_first_one_starts(
    change, message, folder, boxes, monkeypatch, source, no_run_starts, tmp_path
):
    monkeypatch.chdir(folder)
    Path("text.pt").write_text("no checkpoint")
    Path("broken-seg.yaml").write_text(
        "nc: 5\nbackbone: [[-1, 1, Conv, [8, 3, 2]], [-1, 1, Nothing, [8]]]\nhead: [[[1], 1, Segment, [nc, 32, 8]]]\n"
    )
    if "small.pt" in str(change):
        shutil.copy(source("yolov8n-cls"), "small.pt")
    if "other.pt" in str(change) and not Path("other.pt").exists():
        shutil.copy(source("yolov8n-seg"), "other.pt")
    said = yaml.safe_load(Path("shapes/data.yaml").read_text())
    Path("other-classes.yaml").write_text(yaml.safe_dump({**said, "names": [*"abcde"]}))
    truth = coco.ground_truth("shapes/data.yaml")
    images = [{**image, "file_name": f"shapes/images/val/{image['file_name']}"} for image in truth["images"]]
    Path("empty.json").write_text(json.dumps({**truth, "images": images, "annotations": []}))
    doubled = [{**image, "width": 128} for image in images]
    Path("other-size.json").write_text(json.dumps({**truth, "images": doubled}))
    with pytest.raises((ValueError, TypeError, OSError), match=f"(?s){message}"):
        compare({**SMALL, **change}, tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists(), "a refusal leaves no folder"


def test_the_folder_the_device_and_the_room_are_checked_too(folder, monkeypatch, no_run_starts, tmp_path):
    monkeypatch.chdir(folder)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file is a file; choose another out="):
        compare(SMALL, tmp_path / "file", device="cpu")
    with pytest.raises(OSError, match=r"cannot be written: .*file is no folder that you may write into"):
        compare(SMALL, tmp_path / "file/out", device="cpu")
    (tmp_path / "mine/plain-0").mkdir(parents=True)
    (tmp_path / "mine/plain-0/thesis.txt").touch()
    with pytest.raises(OSError, match="holds other files than those of plain, seed 0"):
        compare(SMALL, tmp_path / "mine", device="cpu")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/plain-0").symlink_to(tmp_path / "mine/plain-0")
    with pytest.raises(OSError, match="is a file or a link"):
        compare(SMALL, tmp_path / "linked", device="cpu")
    assert (tmp_path / "mine/plain-0/thesis.txt").exists()
    with pytest.raises(ValueError, match="CUDA"):
        compare(SMALL, tmp_path / "out", device="cuda:77")
    with pytest.raises(ValueError, match="jobs is 0; wanted a whole number, 1 or more"):
        compare(SMALL, tmp_path / "out", jobs=0)
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=1e6))
    with pytest.raises(OSError, match=r"1 runs will write about 0\.2 GB .* and 0\.0 GB are free there: make room"):
        compare(SMALL, tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


def test_pictures_are_darkened_after_the_checks_that_need_none(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(compare_module, "darken_dataset", lambda *args, **options: pytest.fail("it was darkened"))
    with pytest.raises(ValueError, match="imgsz is 65"):
        compare({**STUDY, "train": {"yolo": {**BUDGET, "imgsz": 65}}}, "never", device="cpu")


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
def test_names_of_published_weights_may_be_fetched_and_no_others(row, known, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fetched = []
    monkeypatch.setattr("yolo_wnlb.study.check.load_model", lambda spec, folder, device: fetched.append(spec) or 1 / 0)
    monkeypatch.setattr("yolo_wnlb.yolo.models.load_checkpoint", lambda path: fetched.append(path))
    study = {"data": "data.yaml", "rows": {"a": row}, "train": {"yolo": {}, "maskrcnn": {"min_size": 96, "lr": 0.1}}}
    runs = runs_of(read_study(study), tmp_path / "out")
    with pytest.raises((ZeroDivisionError, FileNotFoundError)) if "weights" in row or not known else nullcontext():
        check_models(runs, "cpu")
    assert bool(fetched) == known
    assert runs[0].spec.get("sizes", {}) == ({"min_size": 96} if row.get("detector") == "maskrcnn" else {})


# ---- the processes of runs -----------------------------------------------------------------------

POISON = ("types", "json", "site", "yaml", "torch", "ultralytics", "multiprocessing", "random", "yolo_wnlb")


@pytest.fixture
def poisoned(tmp_path, monkeypatch):
    """A working directory full of modules that leave a mark when they are imported."""
    for name in POISON:
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'POISONED')!r}, 'a').write('{name} ')\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("version", [(3, 10), (3, 11)])
def test_the_process_of_a_run_imports_from_pythonpath_and_not_from_the_working_directory(
    poisoned, monkeypatch, version, tmp_path_factory
):
    own = tmp_path_factory.mktemp("own")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(own), os.environ.get("PYTHONPATH", ""), ""]))
    with monkeypatch.context() as patch:
        patch.setattr(sys, "version_info", version)
        words = child_command(Path("run"))
    code = words.index(CHILD)
    words[code] = CHILD.replace(
        "from yolo_wnlb.study.run import main\nmain(sys.argv[2])", "print(json.dumps(sys.path))"
    )
    assert words[code] != CHILD
    ended = subprocess.run(words, capture_output=True, text=True, check=True, env=child_environment())
    path = json.loads(ended.stdout)
    assert path[0] == str(own) and not {"", ".", str(poisoned)} & {*path}
    assert str(Path(compare_module.__file__).parents[2]) in path
    assert not Path("POISONED").exists()


def test_neither_a_run_nor_its_loader_imports_what_lies_in_the_working_directory(
    poisoned, folder, tmp_path_factory, monkeypatch
):
    """Trains once, with a loader that starts a new interpreter, as Windows, macOS and Python 3.14 do by themselves.

    It trains SOLOv2, for Ultralytics loads without processes on a CPU.
    """
    own = tmp_path_factory.mktemp("own")
    (own / "sitecustomize.py").write_text(
        "import multiprocessing, pathlib, os\n"
        "multiprocessing.set_start_method('spawn', force=True)\n"
        f"pathlib.Path({str(own)!r}, f'{{os.getpid()}}.pid').touch()\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(own), *filter(None, [os.environ.get("PYTHONPATH")])]))
    train = {"solov2_light": {**SMALL_SOLO, "epochs": 1, "batch": 4, "workers": 1}}
    study = {"data": str(folder / "shapes/data.yaml"), "train": train, "rows": {"plain": {"detector": "solov2_light"}}}
    run_all(runs_of(read_study(study), poisoned / "out"), 1, "cpu")
    assert not (poisoned / "POISONED").exists(), (poisoned / "POISONED").read_text()
    assert len(list(own.glob("*.pid"))) >= 2, "the run and its loader"


# ---- the table -----------------------------------------------------------------------------------


def square(x, size, score=None):
    mask = np.zeros((1, 64, 64), bool)
    mask[0, 10 : 10 + size, x : x + size] = True
    found = {"category_id": 1, "segmentation": coco.encode(mask)[0], "bbox": [x, 10, size, size]}
    return {**found, "score": score} if score else {**found, "area": size * size, "iscrowd": 0}


def squares(count):
    """A truth of one square in each picture, and its evaluation when they are found so many pixels off."""
    images = [{"id": i, "width": 64, "height": 64, "file_name": f"place{i // 3}_{i}.png"} for i in range(1, count + 1)]
    objects = [{**square(5, 20), "id": i, "image_id": i} for i in range(1, count + 1)]
    truth = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "a"}]}

    def found(shifts):
        predictions = [{**square(5 + shift, 20, 0.9), "image_id": i} for i, shift in enumerate(shifts, 1)]
        return evaluate(truth, predictions)

    return truth, found


def a_study_of_squares(**settings):
    """Results of two rows with two seeds on 12 pictures, as `tabulate` takes them."""
    truth, found = squares(12)
    rng = np.random.default_rng(0)
    study = read_study(
        {
            "data": "a.yaml",
            "seeds": [0, 1],
            "rows": {n: {"weights": f"{n}-{{seed}}.pt"} for n in ("good", "bad")},
            "baseline": "bad",
            **settings,
        }
    )
    results = []
    for row, worst in (("good", 4), ("bad", 9)):
        shifts = rng.integers(0, worst, 12)
        for seed in (0, 1):
            result = found(shifts + seed)
            numbers = {name: result.masks[name] for name in ("AP", "AP50", "AP75", "APs", "APm", "APl")}
            record = {
                "spec": {"detector": "yolo"},
                "masks": numbers,
                "boxes": dict(numbers),
                "boxes only": None,
                "w": [],
            }
            record |= {"training": None, "protocol": result.protocol, "environment": {}}
            results.append(Result(row, seed, record, result))
    return study, truth, results


def test_groups_are_read_from_a_key_of_the_images_or_from_their_names():
    truth, _ = squares(4)
    keyed = [{**image, "place": image["id"] // 2} for image in truth["images"][::-1]]
    assert groups_of({"groups": "place"}, {**truth, "images": keyed}) == ["0", "1", "1", "2"], "in the order of ids"
    assert groups_of({"groups": "^(place\\d)_"}, truth) == ["place0", "place0", "place1", "place1"]
    assert groups_of({"groups": None}, truth) is None
    keyed[0].pop("place")
    with pytest.raises(ValueError, match=r"says nothing of 1 of 4 pictures \(first: place1_4\.png\)"):
        groups_of({"groups": "place"}, {**truth, "images": keyed})


def test_intervals_draw_whole_groups_and_the_table_says_how_many():
    study, truth, results = a_study_of_squares(groups="^(place\\d)_")
    groups = groups_of(study, truth)
    alone = tabulate(study, results, dict.fromkeys(study["rows"]))
    together = tabulate(study, results, dict.fromkeys(study["rows"]), groups)
    assert f"({table_module.DRAWS} draws of pictures, the same for all)" in str(alone)
    assert "draws of groups of pictures: 5 by ^(place\\d)_, of 1 to 3 pictures, the same for all" in str(together)
    assert alone.rows[0]["delta"] == together.rows[0]["delta"]
    drawn = {(r.row, r.seed): r.score.resampled(draws(12, table_module.DRAWS, 0, groups)) for r in results}
    gains = np.array([drawn["good", seed] - drawn["bad", seed] for seed in (0, 1)])
    assert together.rows[0]["over_images"] == difference(together.rows[0]["deltas"], gains, 5)["over_images"]
    each = tabulate(study, results, dict.fromkeys(study["rows"]), [f"{i}" for i in range(12)])
    assert each.rows[0]["over_images"] == pytest.approx(alone.rows[0]["over_images"], rel=0.1)


def test_a_table_is_made_again_from_its_files_alone(done, tmp_path):
    for name in ("table.json", "matches.npz"):
        shutil.copy(done / name, tmp_path)
    table = remake(tmp_path)
    assert json.loads(json.dumps(table.rows)) == json.loads((done / "table.json").read_text())["rows"]
    assert f"{table}\n" == (done / "table.md").read_text()


def test_the_intervals_of_a_published_table_follow_from_its_own_files(tmp_path, capsys):
    """Two of its six rows, for time."""
    published = Path(__file__).parents[1] / "docs/results/facades-night"
    kept = ("fine-tuned", "wNLB")
    content = json.loads((published / "table.json").read_text())
    content["study"]["rows"] = {name: content["study"]["rows"][name] for name in kept}
    for key, name in (("rows", "name"), ("records", "row")):
        content[key] = [entry for entry in content[key] if entry[name] in kept]
    (tmp_path / "table.json").write_text(json.dumps(content))
    shutil.copy(published / "matches.npz", tmp_path)
    assert table_module.main(str(tmp_path)) == 0
    assert "9 by place, of 2 to 20 pictures" in capsys.readouterr().out
    assert sum(file.stat().st_size for file in published.iterdir()) < 300_000


PUBLISHED = sorted(file.parent for file in Path(__file__).parents[1].glob("docs/results/*/matches.npz"))


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda folder: folder.name)
def test_published_tables_are_made_again_to_the_letter(folder, monkeypatch):
    """Their intervals, which take minutes to draw, are those of the files; the test above draws some."""
    monkeypatch.setattr(table_module, "draws", lambda images, n, seed, groups: draws(images, 2, seed, groups))
    table, stored = remake(folder), json.loads((folder / "table.json").read_text())
    drawn = ("over_seeds", "over_images", "interval", "clear")
    for row, old in zip(table.rows, stored["rows"], strict=True):
        assert row.get("deltas") == pytest.approx(old.get("deltas"), abs=1e-12)
        row.update({key: old[key] for key in drawn if key in old})
    assert f"{table}\n" == (folder / "table.md").read_text(encoding="utf-8")


def test_grouped_intervals_can_be_drawn_again(tmp_path, capsys):
    study, truth, results = a_study_of_squares(groups="^(place\\d)_")
    table = tabulate(study, results, dict.fromkeys(study["rows"]), groups_of(study, truth))
    table.save(tmp_path)
    again = remake(tmp_path)
    assert again.rows == table.rows and again.groups == table.groups
    assert table_module.main(str(tmp_path)) == 0 and "as in table.json" in capsys.readouterr().out
    content = json.loads((tmp_path / "table.json").read_text())
    content["rows"][0]["interval"][0] -= 0.01
    (tmp_path / "table.json").write_text(json.dumps(content))
    assert table_module.main(str(tmp_path)) == 1 and "not as in table.json: good" in capsys.readouterr().out
    (tmp_path / "matches.npz").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no matches\.npz"):
        remake(tmp_path)


def test_rows_that_were_evaluated_differently_have_no_table():
    study, _, results = a_study_of_squares()
    record = {**results[3].record, "protocol": {**results[3].record["protocol"], "image_size": "128x128"}}
    with pytest.raises(ValueError, match=r"bad, seed 1 and good, seed 0 were evaluated differently: image_size"):
        tabulate(study, [*results[:3], results[3]._replace(record=record)], dict.fromkeys(study["rows"]))


def test_a_model_that_needs_no_suppression_may_stand_beside_one_that_does():
    study, _, results = a_study_of_squares()
    for iou, result in zip((0.7, 0.7, "none, end to end", "none, end to end"), results):
        result.record["protocol"] = {**result.record["protocol"], "nms_iou": iou}
    assert len(tabulate(study, results, dict.fromkeys(study["rows"])).rows) == 2
    results[1].record["protocol"]["nms_iou"] = 0.6
    with pytest.raises(ValueError, match=r"nms_iou \(0\.7, now 0\.6\)"):
        tabulate(study, results, dict.fromkeys(study["rows"]))


def test_seeds_are_paired():
    assert seed_pairs([0, 1, 2], [2, 1, 0]) == [(0, 0), (1, 1), (2, 2)]
    assert seed_pairs([0, 1, 3], [0, 1, 2]) == [(0, 0), (1, 1)]
    assert seed_pairs([0, 1], [None]) == [(0, None), (1, None)]
    assert seed_pairs([None], [0, 1]) == [(None, 0), (None, 1)]


def test_a_difference_is_clear_only_beyond_both_chances():
    noise = np.random.default_rng(0).normal(size=500)  # of the choice of pictures, the same for all seeds
    deltas = [0.2, 0.21, 0.19]
    better = difference(deltas, np.tile(0.2 + 0.01 * noise, (3, 1)), 10)
    assert better["delta"] == pytest.approx(0.2) and better["deltas"] == deltas
    assert better["over_images"] == pytest.approx(2.26216 * 0.01 * noise.std(ddof=1) * (10 / 9) ** 0.5, rel=1e-5)
    assert better["over_seeds"] == pytest.approx(4.30265 * 0.01 / 3**0.5, rel=1e-5)
    half = np.hypot(better["over_images"], better["over_seeds"])
    assert better["interval"] == pytest.approx([0.2 - half, 0.2 + half]) and better["clear"]
    assert not difference(deltas, np.tile(0.2 + noise, (3, 1)), 10)["clear"], "by the choice of pictures"
    assert not difference([0, 0, 0], np.zeros((3, 500)), 10)["clear"]
    one = difference(deltas[:1], 0.2 + 0.01 * noise[None], 10)
    assert one["over_seeds"] is None and not one["clear"], "one seed says nothing of chance in training"


@pytest.mark.parametrize("common", [0.0, 1.0], ids=["each seed its own pictures", "pictures that all seeds share"])
def test_an_interval_errs_as_seldom_as_it_says(common):
    """Three seeds, 60 pictures, no true difference: at most 5 % of the intervals leave out 0, and not next to none."""
    rng, wrong, rounds = np.random.default_rng(0), 0, 1000
    weights = np.random.default_rng(1).multinomial(60, np.full(60, 1 / 60), 200) / 60
    for _ in range(rounds):
        effects = common * rng.normal(size=60) + rng.normal(size=(3, 60))  # of each picture, in each seed
        wrong += difference(effects.mean(1).tolist(), effects @ weights.T, 60)["clear"]
    assert 0.01 < wrong / rounds < 0.05


def test_an_interval_over_few_groups_of_unequal_size_errs_nearly_as_seldom_as_it_says():
    """The nine places of our night photos, whose pictures are alike; by single pictures half of them would be wrong."""
    place = np.repeat(np.arange(9), [20, 8, 8, 7, 5, 4, 3, 3, 2])
    rng, rounds = np.random.default_rng(0), 1000
    drawn = {
        9: np.random.default_rng(1).multinomial(9, np.full(9, 1 / 9), 300)[:, place],
        60: np.random.default_rng(1).multinomial(60, np.full(60, 1 / 60), 300),
    }
    wrong = dict.fromkeys(drawn, 0)
    for _ in range(rounds):
        effects = rng.normal(size=9)[place] + 0.5 * rng.normal(size=60)
        for units, weights in drawn.items():
            gains = (effects @ weights.T / weights.sum(1))[None]
            wrong[units] += abs(effects.mean()) > difference([effects.mean()], gains, units)["over_images"]
    assert wrong[9] / rounds < 0.1 and wrong[60] / rounds > 0.4


# ---- other detectors -----------------------------------------------------------------------------


def test_mask_rcnn_and_solov2_stand_in_it_by_the_same_keys(folder, monkeypatch, in_this_process):
    budget = {"epochs": 1, "batch": 2, "workers": 0, "optimizer": "adamw"}
    few = {**FEW_REGIONS, "backbone": "resnet18", "min_size": 64, "max_size": 64, "rpn_post_nms_top_n_test": 20}
    block = {"after": ["P4", "P5"], "block": {"sub_sample": 2}}
    rows = {detector: {"detector": detector, **block} for detector in ("maskrcnn", "solov2_light")}
    monkeypatch.chdir(folder)
    for place in (folder / "shapes").rglob("*.*"):  # enhanced pictures have other names than these
        target = folder / "jpeg" / place.relative_to(folder / "shapes")
        target.parent.mkdir(parents=True, exist_ok=True)
        if place.suffix == ".png":
            cv2.imwrite(str(target.with_suffix(".jpg")), cv2.imread(str(place)))
        elif place.suffix == ".txt":
            shutil.copy(place, target)
    said = yaml.safe_load((folder / "shapes/data.yaml").read_text())
    (folder / "jpeg/data.yaml").write_text(yaml.safe_dump({**said, "path": str(folder / "jpeg")}))
    rows["bright"] = {"detector": "solov2_light", "start": "solov2_light", "enhance": "gamma:2.2"}
    study = {"data": "jpeg/data.yaml", "rows": rows}
    study["train"] = {"maskrcnn": {**budget, **few}, "solov2_light": {**budget, **SMALL_SOLO}}
    found = compare(study, folder / "others", device="cpu").rows
    assert [row["detector"] for row in found] == ["maskrcnn", "solov2_light", "solov2_light"]
    assert all(len(row["w"][0]) == 2 and 0 not in row["w"][0] for row in found[:2])
    assert all(row["ms"] > 0 and row["GFLOPs"] > 0 for row in found)


def test_a_warm_up_that_spoils_the_weights_a_row_starts_from_is_a_warning_for_stock_rows_too(tmp_path, log):
    budget = {**BUDGET, "optimizer": "AdamW", "lr0": 1e-4, "warmup_epochs": 3}
    rows = {
        "from weights": {"model": "yolov8n-seg.yaml", "start": "clean"},
        "from weights, gently": {"model": "yolov8n-seg.yaml", "start": "clean", "options": {"warmup_bias_lr": 0.0}},
        "clean": {"model": "yolov8n-seg.yaml"},
    }
    study = {"data": "shapes/data.yaml", "train": {"yolo": budget}, "seeds": [0, 1], "rows": rows, "baseline": None}
    warn_of_warmup(runs_of(read_study(study), tmp_path))
    [said] = [line for line in log if "warmup_bias_lr" in line]
    assert said.startswith("WARNING from weights: with AdamW, warmup_bias_lr=0.1") and "warmup_bias_lr: 0 in" in said


def test_arguments_of_darken_that_no_picture_shows_make_no_other_run(tmp_path):
    study = {**STUDY, "darken": {"dark": {"source": "shapes/data.yaml", "preset": "mild", "workers": 2}}}
    [ours, theirs] = (runs_of(read_study(one), tmp_path) for one in (study, STUDY))
    assert [run.spec for run in ours] == [run.spec for run in theirs]


def test_a_folder_whose_emptying_is_interrupted_still_says_whose_it_is(tmp_path, monkeypatch):
    run = runs_of(read_study({**SMALL, "baseline": None}), tmp_path / "out")[0]
    (run.folder / "train").mkdir(parents=True)
    (run.folder / "spec.json").write_text("{}")

    def stop(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(compare_module.shutil, "rmtree", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare(run, "cpu")
    monkeypatch.undo()
    check_folder(run)
    prepare(run, "cpu")
    assert [path.name for path in run.folder.iterdir()] == ["spec.json"]


def test_names_with_dollars_are_no_formulas(tmp_path):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure()
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_yticks([0, 1], [literal(name) for name in (r"$\foo$", "cost $1 % and $2_")])
    figure.savefig(tmp_path / "names.png")
    assert [label.get_text() for label in axes.get_yticklabels()][1] == r"cost \$1 % and \$2_"
