"""Dark and enhanced twins: after a run they are what a fresh run would write, and nothing else is ever touched."""

import json
import os
import re
import shutil
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
from PIL import Image

from yolo_wnlb.data import journal
from yolo_wnlb.twins import darken, enhance, twin
from yolo_wnlb.twins.darken import darken_dataset, verify
from yolo_wnlb.twins.enhance import enhance_dataset

ROOT = Path(__file__).parents[1]


def draw(file, seed):
    """Write a picture of noise, 16 pixels wide; BMP files of this size are all equally long."""
    file.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)
    file.write_bytes(cv2.imencode(file.suffix, noise)[1])  # imwrite crashes on names that are no text


@pytest.fixture
def source(tmp_path):
    """A data set of two folders, a list and an annotation file."""
    root = tmp_path / "set"
    names = ["train/a.png", "train/b.bmp", "train/c.png", "more/d.png", "more/e.bmp", "val/f.png", "val/g.bmp"]
    for seed, name in enumerate(names):
        draw(root / "images" / name, seed)
        label = (root / "labels" / name).with_suffix(".txt")
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(f"{seed % 2} 0.5 0.5 0.2 0.2\n")
    (root / "labels/train/c.txt").unlink()
    (root / "more.txt").write_text("./images/more/d.png\n./images/more/e.bmp\n")
    describe(root)
    (root / "annotations").mkdir()
    images = [{"id": i, "file_name": Path(name).name, "width": 16, "height": 16} for i, name in enumerate(names[5:])]
    annotations = [{"id": i, "image_id": i, "category_id": 1, "bbox": [1, 1, 5, 5], "area": 25} for i in range(2)]
    write_truth(root, images, annotations)
    return root


def describe(root, **changes):
    content = {"train": ["images/train", "more.txt"], "val": "images/val", "names": ["x", "y"], **changes}
    (root / "data.yaml").write_text(yaml.safe_dump(content))


def write_truth(root, images, annotations):
    truth = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "x"}]}
    (root / "annotations/instances_val.json").write_text(json.dumps(truth))


def tree(root):
    """All that is in a folder: content of files, where links lead, None for folders."""
    found = {}
    for path in sorted(root.rglob("*")):
        value = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else None
        found[path.relative_to(root).as_posix()] = value
    return found


# --- the source changes


def change(function):
    CHANGES[function.__name__] = function
    return function


CHANGES = {"nothing": lambda root: None}


@change
def label_deleted(root):
    (root / "labels/train/a.txt").unlink()


@change
def label_changed_in_no_size(root):
    (root / "labels/train/a.txt").write_text("1 0.5 0.5 0.2 0.2\n")


@change
def label_added(root):
    (root / "labels/train/c.txt").write_text("0 0.5 0.5 0.1 0.1\n")


@change
def all_labels_deleted(root):
    shutil.rmtree(root / "labels")


@change
def picture_removed(root):
    (root / "images/train/a.png").unlink()


@change
def picture_and_label_renamed(root):
    (root / "images/train/a.png").rename(root / "images/train/z.png")
    (root / "labels/train/a.txt").rename(root / "labels/train/z.txt")


@change
def picture_changed_in_no_size_and_older(root):
    before = (root / "images/train/b.bmp").stat().st_size
    draw(root / "images/train/b.bmp", 99)
    assert (root / "images/train/b.bmp").stat().st_size == before
    os.utime(root / "images/train/b.bmp", (1, 1))


@change
def picture_of_another_suffix(root):
    (root / "images/train/b.bmp").unlink()
    draw(root / "images/train/b.png", 5)


@change
def picture_added(root):
    draw(root / "images/train/aa.png", 50)


@change
def pictures_moved_to_another_folder(root):
    for kind in ("images", "labels"):
        (root / kind / "more").rename(root / kind / "elsewhere")
    (root / "more.txt").write_text("./images/elsewhere/d.png\n./images/elsewhere/e.bmp\n")


@change
def list_shortened(root):
    (root / "more.txt").write_text("./images/more/e.bmp\n")


@change
def list_renamed(root):
    (root / "more.txt").rename(root / "longer.txt")
    describe(root, train=["images/train", "longer.txt"])


@change
def list_dropped(root):
    describe(root, train="images/train")


@change
def split_added(root):
    describe(root, test="images/more")


@change
def annotations_removed(root):
    (root / "annotations/instances_val.json").unlink()


@change
def annotations_shortened(root):
    truth = json.loads((root / "annotations/instances_val.json").read_text())
    write_truth(root, truth["images"][:1], truth["annotations"][:1])


@change
def class_renamed(root):
    describe(root, names=["x", "z"])


@change
def classes_added(root):
    describe(root, names=["x", "y", "z"])


def darkened(source, out, **options):
    return darken_dataset(source, out, **{"preset": "severe", "workers": 1, **options})


def enhanced(source, out, **options):
    return enhance_dataset(source, "gamma", out, **options)


def by_shards(source, out, **options):
    for part in ("2/2", "1/2"):
        report = darkened(source, out, shard=part, **options)
    return report


def stopped(module, name, calls):
    """Let a function answer a few calls, then act as Ctrl-C."""
    answer = getattr(module, name)

    def stops(*args):
        nonlocal calls
        calls -= 1
        if calls < 0:
            raise KeyboardInterrupt
        return answer(*args)

    return stops


@pytest.mark.parametrize("changed", CHANGES)
@pytest.mark.parametrize(
    ("how", "before"),
    [
        ("whole", "complete"),
        ("whole", "interrupted"),
        ("shards", "complete"),
        ("one of two shards", ""),
        ("limit", "interrupted"),
        ("enhanced", "complete"),
        ("enhanced in parts", ""),
        ("enhanced in parts", "interrupted"),
    ],
)
def test_after_a_change_of_the_source_the_twin_is_as_a_fresh_one(changed, how, before, source, tmp_path, monkeypatch):
    out, fresh = tmp_path / "out", tmp_path / "fresh"
    again = write = enhanced if how.startswith("enhanced") else darkened
    options = {"limit": 2} if how == "limit" else {}
    if how == "shards":
        again = by_shards
    with monkeypatch.context() as patched:
        if before == "interrupted":
            module, name = (enhance, "decode_rgb") if write is enhanced else (darken, "capture")
            patched.setattr(module, name, stopped(module, name, 3))
            with pytest.raises(KeyboardInterrupt):
                write(source, out, **options)
        elif how == "one of two shards":
            write(source, out, shard="2/2")
        elif how == "enhanced in parts":
            write(source, out, split="val")
        else:
            write(source, out, **options)
    CHANGES[changed](source)
    report = again(source, out, **options)
    write(source, fresh, **options)
    assert report.ok and tree(out) == tree(fresh)
    if how != "shards":
        untouched = {path: path.stat().st_mtime_ns for path in (out, *out.rglob("*"))}
        again(source, out, **options)
        assert {path: path.stat().st_mtime_ns for path in (out, *out.rglob("*"))} == untouched


@pytest.mark.parametrize("write", [darkened, enhanced])
def test_files_that_a_killed_run_wrote_but_did_not_record_are_known(write, source, tmp_path, monkeypatch):
    make_one = twin.make_one

    def killed(*args):
        make_one(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(twin, "make_one", killed)
        with pytest.raises(KeyboardInterrupt):
            write(source, tmp_path / "out")
    (name,) = [file.name for file in (tmp_path / "out/images").rglob("*.*")]
    assert name == "d.png"
    list_shortened(source)
    write(source, tmp_path / "out")
    write(source, tmp_path / "fresh")
    assert tree(tmp_path / "out") == tree(tmp_path / "fresh")


def test_what_is_removed_is_counted(source, tmp_path):
    darkened(source, tmp_path / "out")
    label_deleted(source)
    list_renamed(source)
    assert "since the source no longer has what they came from: 2 file(s)" in str(darkened(source, tmp_path / "out"))
    assert "no longer has" not in str(darkened(source, tmp_path / "out"))


def test_a_shard_that_failed_on_a_picture_mended_since_is_not_completed_by_another_one(source, tmp_path):
    whole = (source / "images/train/a.png").read_bytes()
    (source / "images/train/a.png").write_bytes(b"half a picture")
    failing = next(key for key in ("1/2", "2/2") if not darkened(source, tmp_path / "failing", shard=key).ok)
    other = "1/2" if failing == "2/2" else "2/2"
    out = tmp_path / "again"
    darkened(source, out, shard=failing)
    (source / "images/train/a.png").write_bytes(whole)
    assert f"shard {other} of" in darkened(source, out, shard=other).title
    assert darkened(source, out, shard=failing).ok
    darkened(source, tmp_path / "fresh")
    assert tree(out) == tree(tmp_path / "fresh")


@pytest.mark.parametrize("write", [darkened, enhanced])
def test_the_caches_of_ultralytics_go_with_what_they_were_made_of(write, source, tmp_path):
    out = tmp_path / "out"
    write(source, out)
    caches = ("labels/train.cache", "labels/val.cache", "images/train/a.npy", "images/train/b.npy")
    for name in caches:
        (out / name).write_text("of pictures and labels that were there")
    assert "nothing to do" in str(write(source, out)) and all((out / name).exists() for name in caches)
    picture_changed_in_no_size_and_older(source)
    picture_removed(source)
    write(source, out)
    write(source, tmp_path / "fresh")
    assert tree(out) == tree(tmp_path / "fresh")


# --- what is the user's


@pytest.mark.parametrize("write", [darkened, enhanced])
def test_files_of_the_user_stay_and_are_told(write, source, tmp_path):
    out = tmp_path / "out"
    write(source, out)
    mine = {
        "notes.md": "note",
        "images/train/mine.png": "picture",
        "labels/train/mine.txt": "label",
        "extra/x.txt": "x",
    }
    for name, content in mine.items():
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text(content)
    pictures_moved_to_another_folder(source)
    label_deleted(source)
    for _ in range(2):
        assert "not written by this command, and left alone: 3 file(s) (first: extra/x.txt)" in str(write(source, out))
        assert {name: (out / name).read_text() for name in mine} == mine
    assert "images/train/mine.png: is not in the manifest" in verify(out).failures


@pytest.mark.parametrize("name", ["images/train/aa.png", "labels/train/c.txt", "failures.txt", "longer.txt"])
def test_a_file_of_the_user_is_not_overwritten(name, source, tmp_path):
    out = tmp_path / "out"
    darkened(source, out)
    (out / name).write_text("mine")
    picture_added(source)
    label_added(source)
    list_renamed(source)
    before = tree(out)
    with pytest.raises(FileExistsError, match=rf"{name} was not written by this command.*move it away"):
        darkened(source, out)
    assert tree(out) == before


@pytest.mark.parametrize("damage", [{"image": 5}, {"source": ["a"]}, {"label": None}, {"file": {}}, {"planned": 7}])
def test_a_damaged_line_of_a_manifest_counts_for_nothing(damage, source, tmp_path):
    darken_dataset(source, tmp_path / "out", workers=1)
    whole = tree(tmp_path / "out")
    with (tmp_path / "out/manifest.jsonl").open("a") as stream:
        stream.write(json.dumps({"image": "images/val/x.png", "source": "images/val/x.png", **damage}) + "\n")
    assert verify(tmp_path / "out").ok
    darken_dataset(source, tmp_path / "out", workers=1)
    assert tree(tmp_path / "out") == whole


def test_a_picture_of_another_size_than_its_annotations_say_is_not_enhanced(source, tmp_path):
    write_truth(source, [{"id": 1, "file_name": "f.png", "width": 17, "height": 16}], [])
    with pytest.raises(ValueError, match=r"f\.png: the picture has 16 x 16 pixels, its annotations say 17 x 16"):
        enhance_dataset(source, "histeq", tmp_path / "out")


@pytest.mark.parametrize("write", [darkened, enhanced])
def test_a_wholly_different_source_is_refused(write, source, tmp_path):
    write(source, tmp_path / "out")
    before = tree(tmp_path / "out")
    for kind in ("images", "labels"):
        (source / kind / "train").rename(source / kind / "night")
    shutil.rmtree(source / "images/val")
    shutil.rmtree(source / "annotations")
    describe(source, train="images/night", val="images/night")
    with pytest.raises(ValueError, match=r"was made from other pictures, such as images/more/d\.png.*another out="):
        write(source, tmp_path / "out")
    assert tree(tmp_path / "out") == before


def test_a_failing_run_names_the_folder_of_another_kind(source, tmp_path):
    darkened(source, tmp_path / "out")
    with pytest.raises(FileExistsError, match="holds something else"):
        enhanced(source, tmp_path / "out")


# --- nothing outside of out=


def link_folder(out, outside):
    shutil.rmtree(out / "images/train")
    (out / "images/train").symlink_to(outside)


def link_parent(out, outside):
    shutil.rmtree(out / "images")
    (out / "images").symlink_to(outside.parent)


def link_labels(out, outside):
    shutil.rmtree(out / "labels")
    (out / "labels").symlink_to(outside.parent)


def link_file(out, outside):
    (out / "images/train/a.png").unlink()
    (out / "images/train/a.png").symlink_to(outside / "a.png")


def link_file_hard(out, outside):
    (out / "images/train/a.png").unlink()
    os.link(outside / "a.png", out / "images/train/a.png")


def link_data_yaml(out, outside):
    (out / "data.yaml").unlink()
    (out / "data.yaml").symlink_to(outside / "a.png")


def link_manifest(out, outside):
    (out / ".darken/all").mkdir(parents=True)
    shutil.copy(next(out.glob("*.jsonl")), out / ".darken/all/journal.jsonl")
    manifest = next(out.glob("*.jsonl"))
    manifest.unlink()
    manifest.symlink_to(outside / "a.png")


def link_state(out, outside):
    (out / ".darken").symlink_to(outside)


def link_part(out, outside):
    (out / ".darken").mkdir()
    (out / ".darken/all").symlink_to(outside)


def link_journal(out, outside):
    (out / ".darken/all").mkdir(parents=True)
    (out / ".darken/all/journal.jsonl").symlink_to(outside / "a.png")


def link_journal_hard(out, outside):
    (out / ".darken/all").mkdir(parents=True)
    os.link(outside / "a.png", out / ".darken/all/journal.jsonl")


def link_lock(out, outside):
    (out / ".darken").mkdir()
    (out / ".darken/lock").symlink_to(outside / "new.png")


def link_draft(out, outside):
    (out / ".darken/all").mkdir(parents=True)
    (out / f".darken/all/{os.getpid()}.tmp").symlink_to(outside / "a.png")


def old_name_leads_out(out, outside):
    manifest = next(out.glob("*.jsonl"))
    line = {"image": "../images/train/a.png", "source": "gone.png", "bytes": 1}
    manifest.write_text(f"{manifest.read_text()}{json.dumps(line)}\n")


def old_name_is_absolute(out, outside):
    manifest = next(out.glob("*.jsonl"))
    manifest.write_text(f"{manifest.read_text()}{json.dumps({'file': str(outside / 'a.png')})}\n")


LINKS = [value for name, value in list(globals().items()) if name.startswith(("link_", "old_name_"))]


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right there")
@pytest.mark.parametrize("planted", LINKS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("write", [darkened, enhanced])
def test_nothing_outside_is_written_or_removed(write, planted, source, tmp_path):
    out = tmp_path / "out"
    write(source, out)
    outside = source / "images/train"
    planted(out, outside)
    label_deleted(source)
    picture_changed_in_no_size_and_older(source)
    draw(source / "images/val/f.png", 77)
    before = tree(source)
    stats = {path: path.stat().st_mtime_ns for path in source.rglob("*") if path.is_file()}
    try:
        assert write(source, out).ok
    except OSError as error:
        assert any(told in str(error) for told in ("a link", "cannot be written", "move it away")), error
    else:
        write(source, tmp_path / "fresh")
        assert tree(out) == tree(tmp_path / "fresh")
    assert tree(source) == before
    assert {path: path.stat().st_mtime_ns for path in source.rglob("*") if path.is_file()} == stats


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right there")
def test_a_folder_that_holds_a_link_into_the_source_is_refused_at_the_start(source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/images").symlink_to(source / "images")
    before = tree(tmp_path)
    with pytest.raises(FileExistsError, match="holds something else"):
        darkened(source, tmp_path / "out")
    assert tree(tmp_path) == before


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right there")
@pytest.mark.parametrize("write", [darkened, enhanced])
def test_the_folder_itself_may_be_a_link(write, source, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    assert write(source, tmp_path / "out").ok
    write(source, tmp_path / "fresh")
    assert tree(tmp_path / "disk") == tree(tmp_path / "fresh")


# --- names


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux only")
@pytest.mark.parametrize("write", [darkened, enhanced])
def test_any_file_name_is_kept_as_it_is(write, source, tmp_path):
    shutil.rmtree(source / "annotations")
    names = ["two\nlines", "carriage\rreturn", "tab\tquote'\"", os.fsdecode(b"caf\xe9"), "x" * 251, "ü" * 125, "#;=,%"]
    for seed, name in enumerate(names):
        draw(source / "images/train" / f"{name}.png", seed)
        (source / f"labels/train/{name}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    assert write(source, tmp_path / "out").ok and verify(tmp_path / "out").ok
    for name in names:
        assert (tmp_path / "out/images/train" / f"{name}.png").is_file()
        assert (tmp_path / "out/labels/train" / f"{name}.txt").is_file()
    record = next((tmp_path / "out").glob("*.jsonl"))
    lines = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
    assert {f"images/train/{name}.png" for name in names} < {line.get("image") for line in lines}
    assert "nothing to do" in str(write(source, tmp_path / "out"))


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux only")
def test_failures_are_a_line_each_whatever_the_files_are_called(source, tmp_path, capsys):
    for name in ("two\nlines", os.fsdecode(b"caf\xe9")):
        (source / f"images/train/{name}.png").write_bytes(b"half a picture")
    report = darkened(source, tmp_path / "out")
    lines = (tmp_path / "out/failures.txt").read_text(encoding="utf-8").splitlines()
    assert (
        lines
        == report.failures
        == [
            "images/train/caf\\udce9.png: the picture cannot be decoded",
            "images/train/two\\nlines.png: the picture cannot be decoded",
        ]
    )
    str(report).encode("utf-8")
    assert verify(tmp_path / "out").ok


# --- resources


@pytest.mark.parametrize("write", [darkened, enhanced])
def test_a_picture_beyond_all_limits_is_named(write, source, tmp_path):
    Image.new("1", (20_000, 9_000)).save(source / "images/train/a.png")
    told = (
        "images/train/a.png: the picture has 20000 x 9000 pixels, more than Ultralytics takes (178,956,970); cut it up"
    )
    if write is darkened:
        assert write(source, tmp_path / "out").failures == [told]
    else:
        with pytest.raises(ValueError, match=re.escape(told)):
            write(source, tmp_path / "out")


@pytest.mark.parametrize(
    "error", [MemoryError(), cv2.error("OpenCV: Insufficient memory\n in function"), ValueError("odd")]
)
def test_whatever_a_picture_does_to_the_camera_is_its_failure(error, source, tmp_path, monkeypatch):
    def fails(image, shot):
        raise error

    monkeypatch.setattr(darken, "capture", fails)
    failures = darkened(source, tmp_path / "out").failures
    assert len(failures) == 7 and all("\n" not in failure for failure in failures)
    assert failures[0].startswith("images/more/d.png: ") and not (tmp_path / "out/images").exists()


# --- one run at a time

STRESS = ROOT / "tests/stress_shards.py"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("rounds", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_runs_that_begin_and_end_at_the_same_moment_complete_the_twin(rounds, tmp_path):
    code = f"import runpy, sys; sys.argv = ['', '{rounds}']; runpy.run_path({str(STRESS)!r}, run_name='__main__')"
    run = run_python(code, tmp_path)
    results = [line for line in run.stdout.splitlines() if line.startswith("==")]
    assert len(results) == 5, run.stdout + run.stderr
    assert all(f"{rounds} rounds: 0 refused, 0 incomplete, 0 not mended" in line for line in results), run.stdout


def test_a_folder_that_another_process_removes_meanwhile_is_passed_over(tmp_path, monkeypatch):
    for name in ("kept.png", ".darken/lock.json", "half/made.png", "half/images/0.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    stock = os.scandir

    def scandir(place):
        if str(place).endswith("half"):
            shutil.rmtree(place, ignore_errors=True)
        return stock(place)

    monkeypatch.setattr(os, "scandir", scandir)
    assert twin.foreign_files(tmp_path, set()) == ["kept.png"]


def test_threads_of_one_process_keep_off_each_other_too(source, tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    for number in range(3):
        out = tmp_path / f"out{number}"
        jobs = [{"shard": f"{part}/4"} for part in range(1, 5)] + [{}, {}]
        with ThreadPoolExecutor(len(jobs)) as pool:
            assert all(report.ok for report in pool.map(lambda job, out=out: darkened(source, out, **job), jobs))
    darkened(source, tmp_path / "fresh")
    assert tree(out) == tree(tmp_path / "fresh")


def test_two_enhancing_runs_lose_no_record(source, tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda split: enhanced(source, tmp_path / "out", split=split), ["train", "val"]))
    enhanced(source, tmp_path / "fresh")
    assert "nothing to do" in str(enhanced(source, tmp_path / "out")) and tree(tmp_path / "out") == tree(
        tmp_path / "fresh"
    )


# --- processes of ours


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_no_process_of_ours_imports_from_the_current_folder(source, tmp_path):
    """The script has no `if __name__ == "__main__"` either: workers do not run it again."""
    current = tmp_path / "current"
    current.mkdir()
    names = (
        "types",
        "pickle",
        "struct",
        "socket",
        "json",
        "traceback",
        "multiprocessing",
        "cv2",
        "numpy",
        "ultralytics",
    )
    for name in (*names, "yolo_wnlb", "sitecustomize"):
        (current / f"{name}.py").write_text(f"open({str(tmp_path / 'poisoned')!r}, 'a').write(__name__ + chr(10))\n")
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/mine.py").write_text(
        "import multiprocessing\n"
        "from yolo_wnlb import darken_dataset, enhance_dataset\n"
        "for method in multiprocessing.get_all_start_methods():\n"
        "    multiprocessing.set_start_method(method, force=True)\n"
        f"    print(darken_dataset({str(source)!r}, f'dark-{{method}}', preset='severe', workers=2))\n"
        f"print(enhance_dataset({str(source)!r}, 'gamma', 'bright'))\n"
    )
    command = [sys.executable, str(tmp_path / "scripts/mine.py")]
    run = subprocess.run(command, cwd=current, env=environment(), capture_output=True, text=True, timeout=120)
    assert run.returncode == 0 and "7 images in dark-spawn" in run.stdout, run.stdout + run.stderr
    assert not (tmp_path / "poisoned").exists(), (tmp_path / "poisoned").read_text()


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_second_ctrl_c_ends_at_once(workers, tmp_path):
    (tmp_path / "set").mkdir()
    stored = cv2.imencode(".png", np.random.default_rng(0).integers(0, 256, (900, 900, 3), np.uint8))[1].tobytes()
    for number in range(30):
        (tmp_path / f"set/{number:02d}.png").write_bytes(stored)
    words = ["darken", "set", "out=dark", f"workers={workers}"]
    code = f"import sys; from yolo_wnlb.cli import main; sys.exit(main({words}))"
    run = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment(), stderr=subprocess.PIPE)
    book, end = tmp_path / "dark/.darken/all/journal.jsonl", time.monotonic() + 60
    while not (book.exists() and book.read_bytes().count(b"\n") > 3):
        assert time.monotonic() < end
        time.sleep(0.02)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children")
    workers_of_it = children.read_text().split() if children.exists() else []
    run.send_signal(signal.SIGINT)
    time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    begun = time.monotonic()
    run.communicate(timeout=10)
    assert time.monotonic() - begun < 3 and run.returncode in (130, -signal.SIGINT)
    assert not any(Path(f"/proc/{child}").exists() for child in workers_of_it)
    assert not list((tmp_path / "dark").rglob("*.tmp"))
    assert "30 images in" in str(darken_dataset(tmp_path / "set", tmp_path / "dark", workers=2))
    assert not (tmp_path / "dark/.darken").exists() and journal.header_of(tmp_path / "dark/manifest.jsonl")
