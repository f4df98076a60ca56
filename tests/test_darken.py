"""`yolo-wnlb darken`: what it writes, that nothing it goes through shows in that, and what it refuses."""

import errno
import hashlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import yaml
from conftest import run_python
from PIL import Image
from pycocotools.coco import COCO

from yolo_wnlb import cli
from yolo_wnlb.data import journal
from yolo_wnlb.data.shapes import NAMES, generate
from yolo_wnlb.imaging.camera import Shot, settings, without_unused
from yolo_wnlb.imaging.capture import capture
from yolo_wnlb.imaging.chance import picture_rng
from yolo_wnlb.twins import darken as darkening
from yolo_wnlb.twins import twin, workers
from yolo_wnlb.twins.darken import darken_dataset, verify

COMMAND = "import sys; from yolo_wnlb.cli import main; sys.exit(main(['darken', *sys.argv[1:]]))"
SLOW = (
    "import time; from yolo_wnlb.twins import darken as b; "
    "t = b.capture; b.capture = lambda *a: (time.sleep(0.15), t(*a))[1]; "
)


def coco_of(root, split):
    """A COCO file that says what the label files of a split say."""
    images, annotations = [], []
    for number, file in enumerate(sorted((root / "images" / split).iterdir())):
        height, width = cv2.imread(str(file)).shape[:2]
        images.append({"id": number, "file_name": file.name, "width": width, "height": height})
        for line in (root / f"labels/{split}/{file.stem}.txt").read_text().splitlines():
            kind, *xy = line.split()
            corners = np.array(xy, float).reshape(-1, 2) * (width, height)
            (x, y), (w, h) = corners.min(0).tolist(), np.ptp(corners, 0).tolist()
            found = {"bbox": [x, y, w, h], "segmentation": [corners.ravel().tolist()], "area": w * h, "iscrowd": 0}
            annotations.append({"id": len(annotations), "image_id": number, "category_id": int(kind), **found})
    categories = [{"id": number, "name": name} for number, name in enumerate(NAMES)]
    return {"info": {"year": 2017.0}, "images": images, "annotations": annotations, "categories": categories}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A data set of 12 + 6 small pictures in both layouts."""
    root = generate(tmp_path_factory.mktemp("source") / "set", train=12, val=6, size=64)
    described = {"train": "images/train", "val": "images/val", "nc": 5, "names": [*NAMES], "kpt_shape": [2, 3]}
    (root / "data.yaml").write_text(yaml.safe_dump(described))
    (root / "annotations").mkdir()
    for split in ("train", "val"):
        (root / f"annotations/instances_{split}.json").write_text(json.dumps(coco_of(root, split)))
    return root


@pytest.fixture
def source(original, tmp_path):
    """A copy of it to spoil, beside the folder to write to."""
    return Path(shutil.copytree(original, tmp_path / "set"))


@pytest.fixture(scope="module")
def dark(original, tmp_path_factory):
    """The dark twin that one process makes without any incident."""
    out = tmp_path_factory.mktemp("plain") / "dark"
    report = darken_dataset(original, out, preset="severe", seed=3, workers=1)
    assert report.ok and report.images == report.darkened == 18
    return out


def darken(source, out, **more):
    return darken_dataset(source, out, **{"preset": "severe", "seed": 3, "workers": 1, **more})


def tree(root):
    return {
        path.relative_to(root).as_posix(): hashlib.md5(path.read_bytes()).hexdigest() if path.is_file() else None
        for path in root.rglob("*")
    }


def entries(out):
    return {line["source"]: line for line in journal.read_lines(out / "manifest.jsonl") if "image" in line}


def start(code, *words, **more):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.Popen([sys.executable, "-c", code, *map(str, words)], env=environment, **more)


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def make(folder):
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def lines_in(file):
    return file.read_bytes().count(b"\n") if file.exists() else 0


# --- what is written


def test_the_layout_is_that_of_the_source_with_other_pictures(original, dark):
    renamed = {name for name in tree(original) if name != "shapes.json"}
    assert set(tree(dark)) == {*renamed, "manifest.jsonl"}
    for name, content in tree(original / "labels").items():
        assert tree(dark / "labels")[name] == content
    before, after = (cv2.imread(str(root / "images/val/000000.png")) for root in (original, dark))
    assert before.shape == after.shape and after.mean() < 0.7 * before.mean()


def test_each_picture_is_what_its_seed_and_path_give_and_what_its_line_says(original, dark):
    header = journal.read_lines(dark / "manifest.jsonl")[0]
    assert header["seed"] == 3 and header["settings"]["gamma"] == [3, 4] and header["camera"] == 1
    for key, line in entries(dark).items():
        bright = cv2.imread(str(original / key))
        shot = settings("severe").draw(picture_rng(3, key))
        assert line["shot"] == json.loads(json.dumps(without_unused(asdict(shot))))
        stored = cv2.imread(str(dark / line["image"]))
        assert np.array_equal(stored, capture(bright, shot))
        assert np.array_equal(stored, capture(bright, Shot(**line["shot"])))
        assert line["bytes"] == (dark / line["image"]).stat().st_size and (line["width"], line["height"]) == (64, 64)


def test_nothing_written_says_where_or_when_it_was_made(dark, original):
    for file in ("manifest.jsonl", "data.yaml", "annotations/instances_val.json"):
        text = (dark / file).read_text()
        assert str(original.parent) not in text and str(dark.parent) not in text and str(Path.home()) not in text


def test_the_data_yaml_says_how_it_was_made_with_a_setting_in_each_line(dark):
    _, _, said = (dark / "data.yaml").read_text().partition("\nlowlight:\n")
    assert said.startswith("  preset: severe\n  seed: 3\n  format: png\n  camera: 1\n  settings:\n")
    assert "    gamma: [3.0, 4.0]\n" in said


def test_ultralytics_finds_pictures_and_labels_wherever_the_folder_is_moved(dark, tmp_path, monkeypatch):
    from ultralytics.data.dataset import YOLODataset
    from ultralytics.data.utils import check_det_dataset

    shutil.copytree(dark, tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    data = check_det_dataset("moved/data.yaml")
    assert data["names"] == dict(enumerate(NAMES)) and data["kpt_shape"] == [2, 3]
    assert data["lowlight"]["preset"] == "severe" and data["lowlight"]["seed"] == 3
    del data["kpt_shape"]
    for split, number in (("train", 12), ("val", 6)):
        built = YOLODataset(img_path=data[split], data=data, task="segment", imgsz=64, augment=False)
        assert built.ni == number and sum(len(label["cls"]) for label in built.labels) > number


def test_pycocotools_reads_the_annotations(original, dark):
    for split in ("train", "val"):
        name = f"annotations/instances_{split}.json"
        coco = COCO(str(dark / name))
        assert all((dark / "images" / split / image["file_name"]).is_file() for image in coco.dataset["images"])
        before = json.loads((original / name).read_text())
        assert coco.dataset == before  # the pictures were PNG already
        assert coco.loadAnns(coco.getAnnIds()) == before["annotations"]


def test_other_suffixes_change_in_names_alone(source, tmp_path):
    for file in (source / "images").rglob("*.png"):
        cv2.imwrite(str(file.with_suffix(".JPG")), cv2.imread(str(file)))
        file.unlink()
    names = [source / f"annotations/instances_{split}.json" for split in ("train", "val")]
    for name in names:
        name.write_text(name.read_text().replace(".png", ".JPG"))
    assert darken(source, tmp_path / "dark").ok
    for name in names:
        written = (tmp_path / "dark/annotations" / name.name).read_text()
        assert json.loads(written) == json.loads(name.read_text().replace(".JPG", ".png"))
    assert all(name.endswith(".png") for name in tree(tmp_path / "dark/images") if "." in name)


def test_grey_pictures_stay_grey_and_have_no_mosaic(source, tmp_path):
    described = yaml.safe_load((source / "data.yaml").read_text())
    (source / "data.yaml").write_text(yaml.safe_dump({**described, "channels": 1}))
    assert darken(source / "data.yaml", tmp_path / "dark").ok
    stored = cv2.imread(str(tmp_path / "dark/images/val/000000.png"), cv2.IMREAD_UNCHANGED)
    assert stored.ndim == 2
    assert yaml.safe_load((tmp_path / "dark/data.yaml").read_text())["channels"] == 1
    bright = cv2.imread(str(source / "images/val/000000.png"), cv2.IMREAD_GRAYSCALE)
    assert np.array_equal(stored, capture(bright, settings("severe").draw(picture_rng(3, "images/val/000000.png"))))


def test_jpg_keeps_the_colours_of_the_noise(source, dark, tmp_path):
    assert darken(source, tmp_path / "jpg", format="jpg").ok
    file = tmp_path / "jpg/images/val/000000.jpg"
    with Image.open(file) as opened:
        assert opened.layer[0][1:3] == (1, 1), "4:4:4"
    difference = cv2.imread(str(file)).astype(int) - cv2.imread(str(dark / "images/val/000000.png"))
    assert 0 < np.abs(difference).mean() < 3
    assert json.loads((tmp_path / "jpg/annotations/instances_val.json").read_text())["images"][0]["file_name"].endswith(
        ".jpg"
    )


def test_pictures_stand_upright_as_their_exif_says(source, tmp_path):
    upright = np.zeros((64, 40, 3), np.uint8)
    upright[:20] = 255
    tags = Image.Exif()
    tags[0x0112] = 6  # turn a quarter clockwise to see it
    for split in ("train", "val"):
        (source / f"annotations/instances_{split}.json").unlink()
    Image.fromarray(np.rot90(upright)).save(source / "images/val/turned.jpg", exif=tags, quality=95)
    assert darken(source, tmp_path / "dark").ok
    stored = cv2.imread(str(tmp_path / "dark/images/val/turned.png"))
    assert stored.shape == (64, 40, 3) and stored[2:18].mean() > 3 * stored[24:].mean()


def test_lists_of_pictures_are_written_anew(source, tmp_path):
    names = sorted(path.name for path in (source / "images/train").iterdir())
    (source / "lists").mkdir()
    (source / "lists/train.txt").write_text("".join(f"./../images/train/{name}\n" for name in names[5::-1]))
    (source / "val.txt").write_text("".join(f"{source}/images/train/{name}\n" for name in names[6:]))
    described = {"train": ["lists/train.txt", "images/val"], "val": "val.txt", "names": [*NAMES]}
    (source / "data.yaml").write_text(yaml.safe_dump(described))
    assert darken(source / "data.yaml", tmp_path / "dark").images == 18
    shutil.rmtree(source)
    assert (tmp_path / "dark/train.txt").read_text().splitlines()[0] == f"./images/train/{names[5]}"
    assert (tmp_path / "dark/val.txt").read_text().splitlines()[0] == f"./images/train/{names[6]}"
    from ultralytics.data.dataset import YOLODataset
    from ultralytics.data.utils import check_det_dataset

    data = check_det_dataset(str(tmp_path / "dark/data.yaml"))
    for split, number in (("train", 12), ("val", 6)):
        built = YOLODataset(img_path=data[split], data=data, task="segment", imgsz=64, augment=False)
        assert built.ni == number and any(len(label["cls"]) for label in built.labels)
    assert verify(tmp_path / "dark").ok


def test_the_pictures_are_those_that_ultralytics_lists(source):
    from ultralytics.data.base import BaseDataset
    from ultralytics.data.utils import IMG_FORMATS

    from yolo_wnlb.data.sources import list_images

    (source / "images/train/deep").mkdir()
    (source / "images/train/.hidden").mkdir()
    for name in ("deep/a.JPEG", ".b.png", ".hidden/c.png", "notes.txt", "[d].png"):
        (source / "images/train" / name).write_text("")
    (source / "list.txt").write_text("./images/train/000001.png\nelsewhere/x.bmp\nnotes.md\n", encoding="utf-8")
    for place in (source / "images/train", source / "list.txt"):
        wanted = BaseDataset.get_img_files(SimpleNamespace(prefix="", fraction=1.0), str(place))
        assert sorted(list_images(place, IMG_FORMATS)) == wanted


def test_coco_files_alone_need_no_yaml(source, tmp_path):
    shutil.rmtree(source / "labels")
    (source / "data.yaml").unlink()
    shutil.move(source / "images/val", source / "val2017")
    shutil.rmtree(source / "images")
    shutil.move(source / "annotations/instances_val.json", source / "annotations/instances_val2017.json")
    report = darken(source / "annotations/instances_val2017.json", tmp_path / "dark")
    assert report.ok and report.images == 6 and not report.advice
    assert {name.split("/")[0] for name in tree(tmp_path / "dark")} == {"annotations", "val2017", "manifest.jsonl"}


def test_pictures_may_lie_apart_from_their_annotations(source, tmp_path):
    away = tmp_path / "disk/pictures"
    shutil.copytree(source / "images/val", away)
    file = Path(shutil.copy(source / "annotations/instances_val.json", tmp_path / "mine.json"))
    shutil.rmtree(source)
    with pytest.raises(FileNotFoundError, match=r"000000\.png, \.\.\.\) are not in .*images="):
        darken(file, tmp_path / "dark")
    assert darken(file, tmp_path / "dark", images=away).images == 6
    assert set(tree(tmp_path / "dark")) > {"annotations/mine.json", "pictures/000005.png"}
    assert verify(tmp_path / "dark").ok


def test_limit_takes_the_first_of_each_split_in_both_layouts(source, dark, tmp_path):
    assert darken(source, tmp_path / "few", limit=2).images == 4
    few, all_of_it = tree(tmp_path / "few"), tree(dark)
    pictures = {name for name in few if name.endswith(".png")}
    assert pictures == {f"images/{split}/00000{i}.png" for split in ("train", "val") for i in (0, 1)}
    assert all(few[name] == all_of_it[name] for name in pictures)
    assert len(json.loads((tmp_path / "few/annotations/instances_val.json").read_text())["images"]) == 2


# --- workers, shards, kills: the same bytes


def test_two_workers_write_what_one_writes(original, dark, tmp_path):
    assert darken(original, tmp_path / "dark", workers=2).ok
    assert tree(tmp_path / "dark") == tree(dark)


def test_shards_of_which_one_is_killed_write_what_one_run_writes(original, dark, tmp_path):
    out = tmp_path / "dark"
    assert "shard 1/3" in darken(original, out, shard="1/3").title
    words = [original, f"out={out}", "preset=severe", "seed=3", "workers=1", "shard=2/3"]
    killed = start(SLOW + COMMAND, *words)
    book = out / ".darken/2-of-3/journal.jsonl"
    wait_for(lambda: lines_in(book) >= 4)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    done = lines_in(book) - 2  # behind the header and the plan
    assert 2 <= done < 6
    again = darken(original, out, shard="2/3")
    assert 6 - done <= again.darkened <= 7 - done, "the line that was being written may be torn"
    assert (out / ".darken").is_dir() and not (out / "manifest.jsonl").exists()
    last = darken(original, out, shard="3/3")
    assert last.images == 18 and tree(out) == tree(dark), "the last shard completes it"


def test_shards_in_folders_of_their_own_are_copied_together(original, dark, tmp_path):
    for part in ("1/3", "2/3", "3/3"):
        report = darken(original, tmp_path / part[0], shard=part)
        assert report.ok and "without shard=" in str(report)
        shutil.copytree(tmp_path / part[0], tmp_path / "all", dirs_exist_ok=True)
    report = darken(original, tmp_path / "all")
    assert report.darkened == 0 and report.images == 18
    assert tree(tmp_path / "all") == tree(dark)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="finds the workers in /proc")
def test_workers_go_when_their_parent_is_killed(tmp_path):
    (tmp_path / "images").mkdir()
    stored = cv2.imencode(".png", np.random.default_rng(0).integers(0, 256, (900, 900, 3), np.uint8))[1].tobytes()
    images = [{"id": i, "file_name": f"{i:03d}.png"} for i in range(40)]
    for image in images:
        (tmp_path / "images" / image["file_name"]).write_bytes(stored)
    (tmp_path / "pictures.json").write_text(json.dumps({"images": images}))
    out = tmp_path.parent / f"{tmp_path.name}-dark"
    killed = start(COMMAND, tmp_path / "pictures.json", f"out={out}", "workers=2")
    wait_for(lambda: lines_in(out / ".darken/all/journal.jsonl") >= 4)
    children = Path(f"/proc/{killed.pid}/task/{killed.pid}/children").read_text().split()
    killed.kill()
    killed.wait()
    assert len(children) >= 2
    done = lines_in(out / ".darken/all/journal.jsonl") - 2

    def gone(child):
        stat = Path(f"/proc/{child}/stat")
        return not stat.exists() or stat.read_text().split()[2] == "Z"

    wait_for(lambda: all(map(gone, children)), 10)
    report = darken_dataset(tmp_path / "pictures.json", out, workers=2)
    assert report.images == 40 and report.darkened == 40 - done
    assert verify(out).ok and not (out / ".darken").exists()


def test_a_line_torn_by_a_kill_is_done_again(original, dark, tmp_path):
    out = tmp_path / "dark"
    darken(original, out, shard="1/2")
    book = out / ".darken/1-of-2/journal.jsonl"
    whole = book.read_bytes()
    plan = whole.index(b"\n", whole.index(b'{"planned"')) + 1
    for kept in (len(whole) - 30, plan + 30, plan):  # within the last line, within the first one, none
        book.write_bytes(whole[:kept])
        (book.parent / "4711.tmp").write_bytes(b"half a picture")
        darken(original, out, shard="1/2")
        lines = [
            {line for line in content.splitlines() if b'"planned"' not in line}
            for content in (book.read_bytes(), whole)
        ]
        assert lines[0] == lines[1]
        assert not list(book.parent.glob("*.tmp"))
    darken(original, out)
    assert tree(out) == tree(dark)


def test_a_header_is_read_without_what_follows_and_only_if_whole_and_ours(dark, tmp_path):
    header, _, rest = (dark / "manifest.jsonl").read_bytes().partition(b"\n")
    file = tmp_path / "manifest.jsonl"
    assert journal.header_of(file) == {} and journal.header_of(tmp_path) == {}
    for content, ours in (
        (header + b"\n" + rest, True),
        (header + b"\n\xff not of ours", True),
        (header, False),
        (header[:20] + b"\n" + rest, False),
        (rest, False),
        (b"[1]\n" + header + b"\n", False),
        (b"\xff\n", False),
        (b"", False),
    ):
        file.write_bytes(content)
        assert journal.header_of(file) == (json.loads(header) if ours else {})
        assert journal.read_lines(file)[:1] == ([json.loads(header)] if ours else [])
        assert bool(journal.records(tmp_path, "manifest.jsonl")) is ours


class FullDisk:
    """Stands in for a file on a disk that takes half of what is written."""

    def __init__(self, stream):
        self.stream = stream

    def write(self, content):
        self.stream.write(content[: len(content) // 2])
        self.stream.flush()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stream.close()


@pytest.mark.parametrize(("full_at", "name"), [(5, "images/"), (18 + 18 + 2, "data.yaml"), (18 + 18 + 3, "manifest")])
def test_a_full_disk_stops_the_run_and_loses_nothing(full_at, name, original, dark, tmp_path, monkeypatch):
    out, count, path_open = tmp_path / "dark", itertools.count(), Path.open

    def opened(path, mode="r", **options):
        stream = path_open(path, mode, **options)
        return (
            FullDisk(stream) if path.suffix == ".tmp" and next(count) == full_at + 1 else stream
        )  # first: the journal

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(OSError, match=rf"/{name}.*No space left.*Nothing is lost.*same command"):
        darken(original, out)
    monkeypatch.undo()
    assert not list(out.rglob("*.tmp"))
    assert darken(original, out).darkened == (16 if name == "images/" else 0)
    assert tree(out) == tree(dark)


@pytest.mark.skipif(sys.platform == "win32", reason="a limit on the size of files stands in for a full disk")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_disk_that_is_full_in_earnest_leaves_no_draft(workers, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    for i in range(6):
        cv2.imwrite(str(make(tmp_path / "set") / f"{i}.png"), noise)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000)); "
    words = ["darken", "set", "out=dark", f"workers={workers}"]
    full = run_python(f"{limit}import sys; from yolo_wnlb.cli import main; sys.exit(main({words}))", tmp_path)
    assert full.returncode == 2 and full.stderr.count("Nothing is lost: make room") == 1
    assert len(full.stderr.strip().splitlines()) == 1 and "Traceback" not in full.stderr
    assert not list((tmp_path / "dark").rglob("*.tmp")) and not list((tmp_path / "dark").rglob("*.png"))


def test_a_second_run_finds_it_complete_and_touches_nothing(original, dark):
    before = {path: path.stat().st_mtime_ns for path in (dark, *dark.rglob("*"))}
    report = darken(original, dark)
    assert report.ok and report.darkened == 0 and "complete, nothing to do" in str(report)
    assert {path: path.stat().st_mtime_ns for path in (dark, *dark.rglob("*"))} == before


@pytest.mark.parametrize("lost", ["images/val/000003.png", "labels/val/000003.txt", "annotations/instances_val.json"])
def test_what_is_lost_later_is_made_again(lost, original, dark, tmp_path):
    out = Path(shutil.copytree(dark, tmp_path / "dark"))
    (out / lost).unlink()
    assert darken(original, out).ok
    assert tree(out) == tree(dark)


def test_a_changed_label_or_picture_is_darkened_again(source, tmp_path):
    darken(source, tmp_path / "dark", shard="1/2")
    (source / "labels/train/000000.txt").write_text("0 0.1 0.1 0.9 0.1 0.5 0.9\n")
    (source / "images/train/000002.png").write_bytes((source / "images/train/000001.png").read_bytes())
    assert darken(source, tmp_path / "dark", shard="1/2").darkened == 2
    darken(source, tmp_path / "dark")
    darken(source, tmp_path / "afresh")
    assert tree(tmp_path / "dark") == tree(tmp_path / "afresh")


# --- pictures that fail


def test_corrections_of_the_labels_are_taken_over_though_no_size_changes(source, original, dark, tmp_path):
    out = Path(shutil.copytree(dark, tmp_path / "dark"))
    label = next(file for file in sorted((source / "labels/train").iterdir()) if file.stat().st_size)
    text = label.read_text()
    label.write_text(str((int(text[0]) + 1) % 5) + text[1:])
    assert darken(source, out).darkened == 1
    assert (out / "labels/train" / label.name).read_text() == label.read_text()

    file = source / "annotations/instances_train.json"
    content = json.loads(file.read_text())
    content["annotations"] = content["annotations"][:1]
    file.write_text(json.dumps(content))
    described = yaml.safe_load((source / "data.yaml").read_text())
    (source / "data.yaml").write_text(yaml.safe_dump({**described, "names": list("abcde")}))
    assert "nothing to do" not in str(darken(source, out))
    assert len(json.loads((out / "annotations/instances_train.json").read_text())["annotations"]) == 1
    assert yaml.safe_load((out / "data.yaml").read_text())["names"] in (list("abcde"), dict(enumerate("abcde")))
    assert verify(out).ok and "nothing to do" in str(darken(source, out))


def test_the_preset_is_named_if_the_settings_are_its_own_however_they_were_spelt(source, tmp_path):
    darken_dataset(
        source,
        tmp_path / "one",
        preset="moderate",
        workers=1,
        beta=(0.5, 0.8),
        gamma=(3, 4),
        limit=1,
        sigma_s=(0.02, 0.08),
        sigma_c=(0.004, 0.02),
    )
    assert yaml.safe_load((tmp_path / "one/data.yaml").read_text())["lowlight"]["preset"] == "severe"
    darken_dataset(source, tmp_path / "two", preset="mild", workers=1, gamma=5, limit=1)
    assert "preset" not in yaml.safe_load((tmp_path / "two/data.yaml").read_text())["lowlight"]


def test_other_encoders_and_other_curves_of_one_name_do_not_mix(source, tmp_path, monkeypatch):
    light = " ".join(f"{v:.4f}" for v in np.linspace(0, 1, 32))
    for name, power in (("a", 0.45), ("b", 0.9)):
        (tmp_path / name).mkdir()
        codes = " ".join(f"{v:.4f}" for v in np.linspace(0, 1, 32) ** power)
        (tmp_path / name / "dorf.txt").write_text(f"mine\nfilm\nI =\n{light}\nB =\n{codes}\n")
    darken(source, tmp_path / "dark", shard="1/2", crf=f"dorf:{tmp_path / 'a/dorf.txt'}")
    with pytest.raises(ValueError, match="responses"):
        darken(source, tmp_path / "dark", shard="2/2", crf=f"dorf:{tmp_path / 'b/dorf.txt'}")
    darken(source, tmp_path / "other", shard="1/2")
    monkeypatch.setattr(cv2, "__version__", "4.8.1")
    with pytest.raises(ValueError, match=r"opencv .*now 4\.8"):
        darken(source, tmp_path / "other", shard="2/2")


def test_floating_point_pictures_are_refused_not_rounded_to_black(source, tmp_path):
    shutil.rmtree(source / "annotations")
    (source / "images/train/000000.png").unlink()
    cv2.imwrite(str(source / "images/train/000000.tiff"), np.full((64, 64, 3), 0.5, np.float32))
    report = darken(source, tmp_path / "dark")
    assert ["floating-point" in failure for failure in report.failures] == [True]


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux only")
def test_file_names_that_are_no_text_are_darkened_too(source, tmp_path):
    odd = os.fsdecode(b"caf\xe9")
    (source / "images/train/000000.png").rename(source / f"images/train/{odd}.png")
    (source / "labels/train/000000.txt").rename(source / f"labels/train/{odd}.txt")
    (source / "annotations/instances_train.json").unlink()
    assert darken(source, tmp_path / "dark").ok and (tmp_path / f"dark/images/train/{odd}.png").is_file()


def test_what_a_phone_appends_to_a_jpeg_does_no_harm(source, tmp_path):
    picture = cv2.imread(str(source / "images/train/000000.png"))
    whole = cv2.imencode(".jpg", picture)[1].tobytes()
    shutil.rmtree(source / "annotations")
    clip = b"ftyp" + b"\xff\xda\x00" * 9
    (source / "images/train/000000.png").unlink()
    for name, content in (("000000.jpg", whole + clip), ("cut.jpg", whole[:-20])):
        (source / f"images/train/{name}").write_bytes(content)
    failures = darken(source, tmp_path / "dark").failures
    assert [failure for failure in failures if "000000.jpg" in failure] == []
    assert any("cut.jpg" in failure and "cut off" in failure for failure in failures)


def test_pictures_that_fail_are_left_out_everywhere_and_come_in_when_mended(source, original, dark, tmp_path):
    (source / "images/train/000001.png").write_bytes(b"not a picture")
    (source / "images/train/000002.png").write_bytes(b"")
    (source / "images/val/000001.png").unlink()
    cv2.imwrite(str(source / "images/val/000002.png"), np.zeros((32, 64, 3), np.uint8))
    out = tmp_path / "dark"
    for attempt in (1, 2):
        report = darken(source, out)
        assert not report.ok and report.images == 14 and report.darkened == (18 if attempt == 1 else 4)
        assert report.failures == [
            "images/train/000001.png: the picture cannot be decoded",
            "images/train/000002.png: the picture cannot be decoded",
            "images/val/000001.png: the picture is missing",
            "images/val/000002.png: the picture has 64 x 32 pixels, its annotations say 64 x 64",
        ]
        assert report.failures == (out / "failures.txt").read_text().splitlines()
        assert "mend them in the source" in str(report)
    assert any("1 label files have no picture" in note and "000001.txt" in note for note in report.notes)
    assert len(list(out.rglob("*.png"))) == len(list((out / "labels").rglob("*.txt"))) == 14
    coco = json.loads((out / "annotations/instances_train.json").read_text())
    assert [image["id"] for image in coco["images"]] == [0, *range(3, 12)]
    assert {found["image_id"] for found in coco["annotations"]} <= {image["id"] for image in coco["images"]}
    checked = verify(out)
    assert checked.ok and "4 pictures of the source were left out" in str(checked)
    shutil.copytree(original / "images", source / "images", dirs_exist_ok=True)
    assert darken(source, out).darkened == 4
    assert tree(out) == tree(dark)


def test_a_jpeg_that_ends_early_is_not_filled_up_with_grey(source, tmp_path):
    whole = cv2.imencode(".jpg", cv2.imread(str(source / "images/val/000000.png")))[1].tobytes()
    (source / "images/val/000000.png").write_bytes(whole[: len(whole) // 2])
    (source / "images/val/000001.png").write_bytes(whole + b"behind the end")
    (failure,) = darken(source, tmp_path / "dark").failures
    assert failure == "images/val/000000.png: the picture is cut off, a JPEG without an end"


def test_a_worker_that_dies_stops_the_run_not_the_work(original, dark, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "START", "import os; os._exit(3)")
    with pytest.raises(ChildProcessError, match=r"worker process died at images/train/.*Nothing is lost"):
        darken(original, tmp_path / "dark", workers=2)
    monkeypatch.undo()
    darken(original, tmp_path / "dark")
    assert tree(tmp_path / "dark") == tree(dark)


# --- what is refused


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"seed": 4}, r"seed 3 \(now 4\)"),
        ({"preset": "mild"}, r"preset severe \(now mild\);"),
        ({"ev": -3}, r"ev None \(now \[-3.0, -3.0\]\)"),
        ({"format": "jpg"}, r"format png \(now jpg\)"),
        ({"limit": 2}, r"limit None \(now 2\);"),
    ],
)
@pytest.mark.parametrize("begun", ["half", "whole"])
def test_going_on_with_something_else_is_refused(change, told, begun, original, dark, tmp_path):
    out = Path(shutil.copytree(dark, tmp_path / "dark")) if begun == "whole" else tmp_path / "dark"
    if begun == "half":
        darken(original, out, shard="1/2")
    before = tree(out / "images")
    with pytest.raises(ValueError, match=rf"was begun with .*{told}.*choose another out="):
        darken(original, out, **change)
    assert tree(out / "images") == before


def test_a_run_waits_for_another_one_in_its_folder_and_says_so(original, dark, tmp_path, capsys):
    out = tmp_path / "dark"
    darken(original, out, shard="2/3")
    with ThreadPoolExecutor(2) as pool:
        with journal.locked(out, "1-of-3"):
            assert "shard 3/3" in darken(original, out, shard="3/3").title, "shard 1 is still at it"
            runs = [pool.submit(darken, original, out), pool.submit(darken, original, out, shard="1/3")]
            wait_for(lambda: "another run is writing into" in capsys.readouterr().err)
            assert not any(run.done() for run in runs) and not (out / "manifest.jsonl").exists()
        assert all(run.result().ok for run in runs)
    assert tree(out) == tree(dark)


@pytest.mark.parametrize(
    ("out", "error", "told"),
    [
        ("set", ValueError, "lie in each other"),
        ("set/dark", ValueError, "lie in each other"),
        (".", ValueError, "lie in each other"),
        ("file", FileExistsError, "is a file; choose a folder"),
        ("file/dark", OSError, "cannot be written: Not a directory"),
        ("full", FileExistsError, "holds something else"),
    ],
)
def test_folders_that_are_not_free_are_refused_and_left_alone(out, error, told, source, tmp_path):
    (tmp_path / "file").write_text("thesis")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/images.png").write_text("thesis")
    before = tree(tmp_path)
    with pytest.raises(error, match=told):
        darken(source, tmp_path / out)
    assert tree(tmp_path) == before


def test_a_folder_that_cannot_be_written_stops_the_run(source, tmp_path):
    darken(source, tmp_path / "dark", shard="1/2")
    shutil.rmtree(tmp_path / "dark/images")
    (tmp_path / "dark/images").write_text("in the way")
    with pytest.raises(OSError, match=r"images/.*cannot be written.*Nothing is lost"):
        darken(source, tmp_path / "dark")
    assert (tmp_path / "dark/images").read_text() == "in the way"


def test_what_is_dark_is_not_darkened_again(dark, tmp_path):
    for source in (dark, dark / "data.yaml", [dark / "annotations/instances_val.json", dark / "data.yaml"]):
        for dry_run in (False, True):
            with pytest.raises(ValueError, match=r"/data\.yaml was darkened before: it says 'lowlight:'"):
                darken(source, tmp_path / "darker", dry_run=dry_run)
    with pytest.raises(ValueError, match=r"darkened before: it holds our manifest\.jsonl"):
        darken(dark / "annotations/instances_val.json", tmp_path / "darker")
    assert not any(tmp_path.iterdir())


def test_pictures_that_would_get_one_name_or_none_are_refused(source, tmp_path):
    shutil.copy(source / "images/val/000000.png", source / "images/val/000000.bmp")
    with pytest.raises(ValueError, match=r"000000\.bmp and .*000000\.png would both become .*rename one"):
        darken(source, tmp_path / "dark")
    (source / "images/val/000000.bmp").unlink()
    (source / "images/val").rename(tmp_path / "away")
    described = {"path": str(source), "train": "images/train", "val": "../away", "names": [*NAMES]}
    (source / "data.yaml").write_text(yaml.safe_dump(described))
    with pytest.raises(ValueError, match=r"away/000000\.png lies outside .*set path:"):
        darken(source / "data.yaml", tmp_path / "dark")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"shard": "4/3"}, "shard is '4/3'; wanted its number"),
        ({"shard": "0/3"}, "shard is '0/3'"),
        ({"shard": 3}, "shard is 3"),
        ({"workers": 0}, "workers is 0; wanted a whole number, 1 or more"),
        ({"limit": 1.5}, r"limit is 1\.5"),
        ({"seed": None}, "seed is None"),
        ({"format": "webp"}, "format is 'webp'; choose from png, png16, jpg"),
        ({"preset": "sever"}, "did you mean 'severe'"),
        ({"sigma": 1}, "no low-light setting 'sigma'"),
        ({"gamma": (3, 2)}, "upside down"),
    ],
)
def test_mistaken_options_are_answered_before_anything_is_written(change, told, original, tmp_path):
    with pytest.raises(ValueError, match=told):
        darken(original, tmp_path / "dark", **change)
    assert not any(tmp_path.iterdir())


def test_sources_that_are_none_are_named(source, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "no.yaml").write_text("names: [a]")
    for name, error, told in (
        ("empty", ValueError, "holds no data.yaml, no annotations"),
        ("list.json", ValueError, "is no COCO annotation file"),
        ("gone.json", FileNotFoundError, "there is no"),
        ("gone.yaml", FileNotFoundError, "gone.yaml"),
        ("no.yaml", ValueError, "no data YAML that Ultralytics takes"),
    ):
        with pytest.raises(error, match=told):
            darken(tmp_path / name, tmp_path / "dark")
    with pytest.raises(ValueError, match="second data YAML"):
        darken([source, source], tmp_path / "dark")
    shutil.rmtree(source / "images/train")
    with pytest.raises(FileNotFoundError, match=r"there is no .*images/train, which 'train' names"):
        darken(source, tmp_path / "dark")


def test_a_folder_of_pictures_alone_is_darkened(source, dark, tmp_path):
    report = darken(source / "images", tmp_path / "dark")
    assert report.ok and report.images == 18 and not (tmp_path / "dark/data.yaml").exists()
    shot = settings("severe").draw(picture_rng(3, "val/000003.png"))
    wanted = capture(cv2.imread(str(source / "images/val/000003.png")), shot)
    assert np.array_equal(cv2.imread(str(tmp_path / "dark/val/000003.png")), wanted)
    assert verify(tmp_path / "dark").ok


def test_annotations_beside_a_data_yaml_are_spoken_of(source, tmp_path):
    report = darken(source / "data.yaml", tmp_path / "dark")
    assert any("instances_train.json" in note and "give the folder" in note for note in report.notes)


def test_labels_that_ultralytics_would_not_find_are_refused(source, tmp_path):
    flat = tmp_path / "flat"
    shutil.copytree(source / "images/val", flat / "val")
    shutil.copytree(source / "labels/val", flat / "val", dirs_exist_ok=True)
    (flat / "data.yaml").write_text(yaml.safe_dump({"train": "val", "val": "val", "names": [*NAMES]}))
    with pytest.raises(ValueError, match="lies in a folder 'images'"):
        darken(flat, tmp_path / "images/dark")
    assert darken(flat, tmp_path / "dark").ok
    assert (tmp_path / "dark/val/000000.txt").is_file()


# --- looking first, and looking after


def test_a_dry_run_counts_and_writes_nothing(source, tmp_path):
    before = tree(tmp_path)
    report = darken(source, tmp_path / "dark", dry_run=True)
    for told in (
        "train: 12 pictures",
        "instances_val.json: 6 pictures",
        "18 images as png",
        "GB are free",
        "gamma 3-4",
    ):
        assert told in str(report)
    assert tree(tmp_path) == before


def test_a_dry_run_downloads_nothing(source, tmp_path):
    shutil.rmtree(source / "images/val")
    script = f"open({str(tmp_path / 'fetched')!r}, 'w')"
    described = {"train": "images/train", "val": "images/val", "names": [*NAMES], "download": script}
    (source / "data.yaml").write_text(yaml.safe_dump(described))
    with pytest.raises(FileNotFoundError, match="A dry run downloads nothing"):
        darken(source / "data.yaml", tmp_path / "dark", dry_run=True)
    assert not (tmp_path / "fetched").exists()


def test_verify_finds_every_difference(dark, original, tmp_path):
    out = Path(shutil.copytree(dark, tmp_path / "dark"))
    assert verify(out).ok and "all as written" in str(verify(out)) and verify(out).images == 18
    stored = bytearray((out / "images/val/000000.png").read_bytes())
    stored[len(stored) // 2] ^= 1
    (out / "images/val/000000.png").write_bytes(stored)
    (out / "images/val/000001.png").unlink()
    (out / "images/val/strange.jpg").write_bytes(b"")
    (out / "labels/val/000002.txt").write_text("")
    (out / "labels/val.cache").write_text("Ultralytics writes these")
    report = verify(out)
    assert report.failures == [
        "images/val/000000.png: was changed",
        "images/val/000001.png: is missing",
        "labels/val/000002.txt: was changed",
        "images/val/strange.jpg: is not in the manifest",
        f"annotations/instances_val.json: names 1 pictures that are not there (first: {out / 'images/val/000001.png'})",
    ]
    for name in ("images/val/000000.png", "labels/val/000002.txt", "images/val/strange.jpg", "labels/val.cache"):
        (out / name).unlink()
    darken(original, out)
    assert verify(out).ok and tree(out) == tree(dark)


def test_verify_wants_a_finished_run(original, tmp_path):
    with pytest.raises(ValueError, match=r"holds no manifest\.jsonl"):
        verify(tmp_path)
    darken(original, tmp_path / "dark", shard="1/2")
    with pytest.raises(ValueError, match="not finished, repeat its command"):
        verify(tmp_path / "dark")


# --- the command


def test_the_command_darkens_verifies_and_says_so(original, dark, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["darken", str(original), "out=dark", "preset=severe", "seed=3", "--workers", "1"]
    assert cli.main([*words, "--dry-run"]) == 0 and not any(tmp_path.iterdir())
    assert cli.main(words) == 0
    assert "data=dark/data.yaml" in capsys.readouterr().out and tree(tmp_path / "dark") == tree(dark)
    assert cli.main(["darken", "dark", "--verify"]) == cli.main([*words, "verify=True"]) == 0
    (tmp_path / "dark/images/val/000000.png").unlink()
    assert cli.main(["darken", "out=dark", "--verify"]) == 1
    assert "images/val/000000.png: is missing" in capsys.readouterr().out
    for mistake, told in (
        (["darken", str(original)], "wants a source and out="),
        ([*words, "wrokers=2"], "no option wrokers"),
        ([*words, "shard=1-3"], "shard is '1-3'"),
        (["darken", "nowhere.yaml", "out=x"], "nowhere.yaml"),
    ):
        assert cli.main(mistake) == 2
        assert told in capsys.readouterr().err
    assert cli.main(["darken", "--help"]) == 0 and "--verify" in capsys.readouterr().out


def test_ctrl_c_is_answered_without_a_traceback(original, tmp_path, capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(darkening, "capture", interrupted)
    assert cli.main(["darken", str(original), f"out={tmp_path / 'dark'}", "workers=1"]) == 130
    assert "nothing is lost" in capsys.readouterr().err


def test_failures_are_an_exit_status_and_the_first_ten_are_told(source, tmp_path, capsys):
    for number in range(12):
        (source / f"images/train/{number:06d}.png").write_bytes(b"?")
    assert cli.main(["darken", str(source), f"out={tmp_path / 'dark'}", "workers=1"]) == 1
    said = capsys.readouterr().out
    assert said.count("cannot be decoded") == 10 and "FAILED 2 more" in said
    assert len((tmp_path / "dark/failures.txt").read_text().splitlines()) == 12


def test_progress_is_told_at_most_now_and_then(capsys, monkeypatch):
    assert list(twin.progress(range(3), 3)) == [0, 1, 2]
    assert capsys.readouterr().err == ""
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr(twin.time, "monotonic", lambda: next(clock))
    assert list(twin.progress("abcd", 4)) == [*"abcd"]
    assert capsys.readouterr().err.splitlines() == [
        "2/4 images, 0.1 images/s, 0:00:40 left",
        "4/4 images, 0.1 images/s, 0:00:00 left",
    ]
    monkeypatch.setattr(twin.sys.stderr, "isatty", lambda: True, raising=False)
    assert list(twin.progress("ab", 2)) == [*"ab"]
    assert capsys.readouterr().err.count("\r") == 2


def test_what_a_worker_imports_is_light(tmp_path):
    code = (
        "import sys, yolo_wnlb.twins.darken; print(sorted({'torch', 'ultralytics', 'albumentations'} & {*sys.modules}))"
    )
    assert run_python(code, tmp_path).stdout == "[]\n"
