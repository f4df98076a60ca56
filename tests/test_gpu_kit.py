"""The kit for a day with a GPU: what it packs, what it refuses, and that a stage that is stopped leaves its results."""

import importlib.util
import json
import subprocess
import sys
import tarfile
import time
from importlib import metadata
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the kit is for Linux")
ROOT = Path(__file__).resolve().parents[1]
STUDIES = sorted(path.stem for path in (ROOT / "scripts/studies").glob("*.yaml") if "\nrows:" in path.read_text())


def script(name):
    """Import a file of scripts/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"scripts/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def kit(tmp_path, monkeypatch):
    """The module, in an empty folder of its own."""
    module = script("gpu_kit")
    monkeypatch.chdir(tmp_path)
    for name, folder in (("KIT", "gpu_kit"), ("OUT", "out"), ("ARCHIVE", "out/results.tar.gz")):
        monkeypatch.setattr(module, name, Path(folder))
    Path("out").mkdir()
    return module


def archived(kit):
    with tarfile.open(kit.ARCHIVE) as tar:
        return set(tar.getnames())


# ---- pack ------------------------------------------------------------------------------------------


def small_study(rows, **more):
    """Write a study of one data set of two files, the first of which lies there."""
    for name in ("data/cars/images/train/a.jpg", "data/cars/data.yaml", "data/cars/labels/train.cache"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("names: [car]\n")
    content = {"darken": {"dark/cars": {"source": "data/cars"}}, "data": "dark/cars/data.yaml", "rows": rows, **more}
    Path("study.yaml").write_text(yaml.safe_dump(content))
    return Path("study.yaml")


def test_the_data_of_a_study_is_what_it_reads_and_does_not_make(kit):
    Path("runs").mkdir()
    for seed in (0, 1):
        Path(f"runs/clean-{seed}.pt").touch()
    rows = {"clean": {"weights": "runs/clean-{seed}.pt"}, "dark": {"start": "clean"}, "day": {"data": "data/cars"}}
    found = set(map(str, kit.files_of(small_study(rows, seeds=[0, 1]))))
    assert found == {"data/cars/data.yaml", "data/cars/images/train/a.jpg", "runs/clean-0.pt", "runs/clean-1.pt"}


def test_what_is_not_here_or_lies_elsewhere_is_not_packed(kit):
    study = small_study({"clean": {"weights": "yolov8n-seg.pt"}})
    with pytest.raises(kit.Mistake, match=r"study\.yaml starts from yolov8n-seg\.pt, which is not here"):
        list(kit.files_of(study))
    Path("data/cars/data.yaml").write_text("path: /mnt/cars\n")
    with pytest.raises(kit.Mistake, match=r"data\.yaml has a key path, which will be another"):
        list(kit.files_of(study))
    study = small_study({"clean": {"data": "data/buses/data.yaml"}})
    with pytest.raises(kit.Mistake, match=r"reads data/buses/data\.yaml, which is not here"):
        list(kit.files_of(study))
    with pytest.raises(kit.Mistake, match=r"there is no study scripts/studies/nosuch\.yaml"):
        kit.study_file("nosuch")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="to pack takes tomllib")
def test_what_is_carried_is_what_the_project_needs_and_a_machine_with_pytorch_lacks(kit, monkeypatch):
    found = kit.carried()
    assert found.keys() >= {"ultralytics", "ultralytics-thop", "pycocotools", "pytest"}
    assert not found.keys() & {"torch", "numpy", "opencv-python", "onnxruntime", "scipy", "yolo-wnlb", "albumentations"}
    assert found["ultralytics"] == f"ultralytics=={metadata.version('ultralytics')}"
    monkeypatch.setenv("CARRY", "scipy no_such.package")
    monkeypatch.setattr(kit, "installed", lambda name: None)
    found = kit.carried()
    assert (found["scipy"], found["no-such-package"]) == ("scipy", "no_such.package")
    assert found["pycocotools"].startswith("pycocotools>=")  # as pyproject.toml says


def test_a_folder_of_something_else_is_not_deleted(kit):
    kit.KIT.mkdir()
    (kit.KIT / "mine").touch()
    for work in (lambda: kit.pack([]), lambda: kit.clear(kit.KIT, "pyvenv.cfg")):
        with pytest.raises(kit.Mistake, match="gpu_kit holds something else"):
            work()
    assert (kit.KIT / "mine").exists()


# ---- install ---------------------------------------------------------------------------------------


def test_a_kit_of_other_code_or_no_kit_is_refused(kit):
    with pytest.raises(kit.Mistake, match="holds no kit; make one where there is a network"):
        kit.install(Path("environment"))
    kit.KIT.mkdir()
    (kit.KIT / "kit.json").write_text(json.dumps({"code": "other"}))
    with pytest.raises(kit.Mistake, match="was packed from other code than lies here"):
        kit.install(Path("environment"))
    assert not Path("environment").exists()


def test_the_stand_in_for_polars_reads_what_polars_reads():
    polars = pytest.importorskip("polars")
    text = b"  epoch,  time, metrics/mAP50(M)\n1, 2.5, 0.25\n2, 5, nan\n3, 7.125, 1e-05\n"
    stand_in = script("gpu_kit_polars").read_csv(text, infer_schema_length=None).to_dict(as_series=False)
    wanted = polars.read_csv(text, infer_schema_length=None).to_dict(as_series=False)
    assert [name.strip() for name in wanted] == list(stand_in)
    for found, column in zip(stand_in.values(), wanted.values()):
        assert [str(float(value)) for value in found] == [str(float(str(value).strip())) for value in column]


def test_a_machine_that_lacks_something_is_told_what_to_pack(kit):
    kit.KIT.mkdir()
    (kit.KIT / "kit.json").write_text(json.dumps({"packages": ["ultralytics", "no-such-package"]}))
    kit.IMPORTED["no_such_module"] = "another-package"
    with pytest.raises(kit.Mistake, match="lacks another-package, no-such-package; pack again with CARRY='another"):
        kit.surroundings()


# ---- the stages ------------------------------------------------------------------------------------


def test_a_stage_that_is_stopped_leaves_its_log_and_results(kit, monkeypatch):
    monkeypatch.setattr(kit, "ARCHIVE_EVERY", 0.2)
    code = """
import pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
pathlib.Path("out/child").write_text(str(child.pid))
pathlib.Path("out/first.json").write_text("1")
print("begun", flush=True)
time.sleep(60)
"""
    begun = time.monotonic()
    assert kit.run("study", "small", [sys.executable, "-c", code], kit.Clock(3))
    assert time.monotonic() - begun < 20
    assert "begun" in Path("out/study-small.log").read_text()
    assert archived(kit) >= {"first.json", "study-small.log", "stages.json"}
    (outcome,) = json.loads(Path("out/stages.json").read_text())
    assert outcome["ended"] == "stopped by its limit" and 2 < outcome["seconds"] < 20
    stat = Path(f"/proc/{Path('out/child').read_text()}/stat")
    assert not stat.exists() or stat.read_text().split()[2] == "Z"  # what it had started is ended too


def test_failures_and_steps_without_time_are_written_down(kit):
    assert not kit.run("tests", "tests", [sys.executable, "-c", "raise SystemExit(3)"], kit.Clock(30))
    assert kit.run("benchmark", "block", [sys.executable, "-c", "print(1)"], kit.Clock(30))
    assert kit.run("study", "late", [sys.executable, "-c", "print(1)"], kit.Clock(0))
    outcomes = json.loads(Path("out/stages.json").read_text())
    assert [outcome["ended"] for outcome in outcomes] == ["status 3", "status 0", "not begun"]
    assert not Path("out/study-late.log").exists()


def test_the_archive_has_all_but_weights_pictures_and_large_files(kit):
    for name in ("a/last.pt", "a/x.png", "a/table.png", "a/cell.json", "large.json"):
        (kit.OUT / name).parent.mkdir(exist_ok=True)
        (kit.OUT / name).write_bytes(bytes(3 * 2**20 if "large" in name else 9))
    for _ in range(2):  # nor itself
        kit.archive()
        assert archived(kit) == {"a/table.png", "a/cell.json"}


def test_data_that_lies_there_stays_and_what_was_cut_off_is_completed(kit):
    kit.KIT.mkdir()
    Path("packed").mkdir()
    with tarfile.open(kit.KIT / "data.tar.gz", "w:gz") as tar:
        for name in ("whole", "short", "new"):
            (Path("packed") / name).write_text(name)
            tar.add(f"packed/{name}", f"data/{name}")
    Path("data").mkdir()
    Path("data/whole").write_text("mine!")
    Path("data/short").write_text("sh")
    kit.unpack()
    assert [Path(f"data/{name}").read_text() for name in ("whole", "short", "new")] == ["mine!", "short", "new"]


@pytest.mark.parametrize("device", ["cuda", "cpu"])
@pytest.mark.parametrize("size", ["full", "tiny"])
def test_the_benchmark_understands_every_command(kit, size, device, monkeypatch):
    monkeypatch.setattr(kit, "SIZE", size)
    monkeypatch.setattr(kit, "DEVICE", device)
    benchmark, found = script("benchmark"), {}
    for step, (_, file, *words) in kit.benchmarks().items():
        assert (ROOT / file).is_file()
        found[step] = benchmark.read_arguments(words)
        assert found[step].device == device and found[step].half == (device == "cuda" and "inference" in step)
    assert {"block", "training", "inference"} <= found.keys()
    if size == "full":
        assert (found["training"].scale, found["training"].batch, found["training"].imgsz) == (["m"], 16, 640)


@pytest.mark.parametrize("study", STUDIES)
def test_every_study_has_a_rehearsal(kit, study):
    from yolo_wnlb.study.plan import read_study

    content = yaml.safe_load((ROOT / f"scripts/studies/{study}.yaml").read_text())
    file = kit.tiny(ROOT / f"scripts/studies/{study}.yaml")
    plan = read_study(file)
    baseline = content["baseline"]
    assert set(plan["rows"]) >= set(baseline if isinstance(baseline, list) else [baseline])
    assert len(plan["seeds"]) == 1 and {given["epochs"] for given in plan["train"].values()} <= {1}


def test_the_command_explains_itself():
    told = subprocess.run(["bash", ROOT / "scripts/gpu_kit.sh"], capture_output=True, text=True, check=False)
    assert told.returncode == 2
    assert "gpu_kit.sh pack [STUDY ...]" in told.stderr and "docs/gpu_kit.md" in told.stderr
