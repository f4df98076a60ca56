"""`yolo-wnlb adapt`: one tiny run that several tests look at, and everything that is refused."""

import json
import os
import runpy
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from conftest import run_python

from yolo_wnlb.adapt import measures, training
from yolo_wnlb.adapt.adapt import adapt
from yolo_wnlb.adapt.agreement import agreement, truth_of
from yolo_wnlb.adapt.pictures import find, held_out, link, spread
from yolo_wnlb.adapt.plan import make_plan
from yolo_wnlb.cli import main
from yolo_wnlb.data.shapes import generate
from yolo_wnlb.twins.darken import darken_dataset
from yolo_wnlb.wnlb import WNLB

ROOT = Path(__file__).parents[1]
SMALL = {"lowlight": "severe", "day": 0, "epochs": 1, "imgsz": 64, "batch": 4, "device": "cpu", "workers": 0}
WORDS = [f"{key}={value}" for key, value in SMALL.items()]


def contents(folder):
    """{name: bytes} of all files of a folder."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def day(tmp_path_factory):
    """Twelve drawn pictures without labels."""
    root = generate(tmp_path_factory.mktemp("shapes"), train=12, val=1, size=64)
    folder = tmp_path_factory.mktemp("day")
    for number, file in enumerate(sorted((root / "images/train").iterdir())):
        picture = cv2.imread(str(file))
        cv2.imwrite(str(folder / f"{number}.jpg"), cv2.add(picture, np.full_like(picture, 90)))
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def run(source, day, tmp_path_factory):
    """(folder, report, lines of progress) of one run of a segmenter, train=blocks."""
    before, said = contents(day), []
    out = tmp_path_factory.mktemp("adapt") / "out"
    report = adapt(source("yolov8n-seg"), day, out, **SMALL, say=said.append)
    assert contents(day) == before  # nothing is written beside the user's pictures
    return out, report, said


def layers(file):
    from ultralytics import YOLO

    return YOLO(file).model


# ---- the result ----------------------------------------------------------------------------------


def test_the_result_is_a_checkpoint_of_the_same_task_and_classes(run, source, day):
    from ultralytics import YOLO

    out, _, _ = run
    untouched, adapted = YOLO(source("yolov8n-seg")), YOLO(out / "adapted.pt")
    assert adapted.task == untouched.task == "segment" and adapted.names == untouched.names
    assert len(adapted.predict(day / "0.jpg", imgsz=64, device="cpu", verbose=False)) == 1


def test_train_blocks_leaves_the_detector_as_it_was_to_the_bit(run, source):
    """Statistics of norms included; the blocks have moved."""
    out, _, _ = run
    adapted, untouched = layers(out / "adapted.pt"), layers(source("yolov8n-seg"))
    blocks = [layer for layer in adapted.model if isinstance(layer, WNLB)]
    assert len(blocks) == 3 and all(block.w != 0 and block.scale is None and block.w_lr == 20 for block in blocks)
    rest = [layer for layer in adapted.model if not isinstance(layer, WNLB)]
    for a, b in zip(rest, untouched.model, strict=True):
        for (name, ours), theirs in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
            assert torch.equal(ours, theirs.half().to(ours.dtype)), name


def test_the_record_holds_what_was_asked_and_found(run):
    out, report, said = run
    record = json.loads((out / "adapt.json").read_text())
    assert record == json.loads(json.dumps(report.record))
    assert record["asked"]["lowlight"] == "severe" and len(record["asked"]["model"]["sha256"]) == 64
    assert record["pictures"]["trained on"] == 8 and record["pictures"]["held out"] == 4
    assert {"prepare", "train", "agreement"} <= record["seconds"].keys()
    distance = record["without labels"]["distance"]
    assert [*distance["before"]] == [*distance["after"]] == ["P3", "P4", "P5", "neck 1", "neck 2", "neck 3"]
    assert all(value > 0 for value in distance["before"].values())
    assert "Without labels" in str(report) and any("epoch 1 of 1 done" in line for line in said)
    assert cv2.imread(str(out / "before_after.jpg")).shape[1] > 1200


def test_the_data_set_is_links_with_empty_labels(run, day):
    out, _, _ = run
    pictures = sorted((out / "pictures/images").rglob("*.jpg"))
    assert len(pictures) == 12 and all(p.is_symlink() and p.resolve().parent == day.resolve() for p in pictures)
    assert all(not file.read_bytes() for file in (out / "pictures/labels").rglob("*.txt"))
    bright, dark = (sorted((out / f"pictures/held-out/{part}").iterdir()) for part in ("bright", "dark"))
    assert len(bright) == len(dark) == 4
    assert all(cv2.imread(str(b)).mean() > 2 * cv2.imread(str(d)).mean() for b, d in zip(bright, dark))


def test_the_same_command_repeats_nothing_and_another_is_refused(run, source, day):
    out, report, _ = run
    result = (out / "adapted.pt").stat().st_mtime_ns
    again = adapt(source("yolov8n-seg"), day, out, **SMALL, say=lambda line: None)
    assert (out / "adapted.pt").stat().st_mtime_ns == result and str(again) == str(report)
    with pytest.raises(ValueError, match=r"asked for something else \(seed: 0 then, 1 now\); choose another out="):
        adapt(source("yolov8n-seg"), day, out, **SMALL, seed=1, say=lambda line: None)
    with pytest.raises(ValueError, match=r"something else.*lowlight: severe then, mild now"):
        adapt(source("yolov8n-seg"), day, out, **{**SMALL, "lowlight": "mild"}, say=lambda line: None)


def test_a_run_that_was_stopped_in_training_goes_on(source, day, tmp_path, monkeypatch):
    """A detector, YOLO11, train=all: stopped in its second epoch."""
    asked, out = {**SMALL, "train": "all", "epochs": 2}, tmp_path / "out"

    def stop(line):
        if "epoch 2 of 2" in line:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(training, "EVERY", 0)
        adapt(source("yolo11n"), day, out, **asked, say=stop)
    assert not (out / "adapted.pt").exists()
    said = []
    report = adapt(source("yolo11n"), day, out, **asked, say=said.append)
    assert "the training goes on after epoch 1 of 2" in said
    assert [*report.record["without labels"]["agreement"]["dark, after"]] == ["boxes"]
    adapted, start = layers(out / "adapted.pt"), layers(source("yolo11n")).state_dict()
    assert not any(isinstance(layer, WNLB) for layer in adapted.model)
    moved = {name for name, value in adapted.state_dict().items() if not torch.equal(value, start[name].half().float())}
    assert moved and not any(name.startswith(f"model.{len(adapted.model) - 1}.") for name in moved)  # not the head
    code = (
        "import sys; sys.modules['yolo_wnlb'] = None\n"
        f"import torch; print(torch.load(r'{out}/adapted.pt', weights_only=False)['epoch'])"
    )
    assert run_python(code, tmp_path).stdout.split() == ["-1"]  # it opens where this package is not installed


def test_a_training_that_was_killed_at_its_very_end_is_not_trained_again(source, day, tmp_path):
    """After the last epoch Ultralytics writes last.pt, and then once more without the optimizer."""
    plan = make_plan(source("yolov8n"), day, tmp_path / "out", "severe", day=0, epochs=2, imgsz=64)
    last = tmp_path / "out/train/weights/last.pt"
    last.parent.mkdir(parents=True)
    state = {"model": None, "ema": plan.start, "epoch": 1, "train_args": {}, "optimizer": {"of": "training"}}
    torch.save(state, last)
    assert training.train(plan, tmp_path / "out", "cpu", 0, print) == last
    assert training.finished_epoch(last) == -1
    last.write_bytes(last.read_bytes()[:1000])  # killed while it was written
    assert training.finished_epoch(last) is None and not last.exists()


def test_a_model_with_blocks_trains_those_and_new_blocks_follow_the_seed(source, day, tmp_path):
    plan = make_plan(source("yolov8n-seg-wnlb"), day, tmp_path / "out", "severe", day=0, imgsz=64)
    assert plan.blocks == [5, 8, 11] and plan.settings["after"] == [] and not {*plan.frozen} & {*plan.blocks}
    first, same, other = (
        make_plan(source("yolov8n"), day, tmp_path / "out", "severe", day=0, imgsz=64, seed=seed, after=["P4"]).start
        for seed in (1, 1, 2)
    )
    values = [model.state_dict()["model.7.theta.weight"] for model in (first, same, other)]
    assert torch.equal(values[0], values[1]) and not torch.equal(values[0], values[2])


def test_a_share_of_the_training_pictures_stays_bright(source, day, tmp_path):
    """The held-out pictures are all darkened."""
    plan = make_plan(source("yolov8n"), day, tmp_path / "out", "severe", day=0, imgsz=64)
    assert plan.darkness_of_training == plan.lowlight == "severe"
    plan.settings["day"] = 0.2
    assert plan.darkness_of_training == {"preset": "severe", "p": 0.8} and plan.lowlight == "severe"


def test_the_default_length_is_900_steps_and_three_epochs_at_least(source, day, tmp_path):
    def epochs(**asked):
        plan = make_plan(source("yolov8n"), day, tmp_path / "out", "severe", day=0, imgsz=64, **asked)
        return plan.settings["epochs"]

    assert epochs(batch=8) == 900 and epochs(batch=1) == 113 and epochs(epochs=7) == 7


def test_a_dry_run_writes_nothing_and_says_how_long_it_takes(source, day, tmp_path, capsys):
    assert main(["adapt", str(source("yolo26n")), f"images={day}", *WORDS, f"out={tmp_path}/o", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "12 pictures, median brightness" in printed and "3 blocks alone, new after P3, P4, P5" in printed
    assert "2 steps of" in printed and not list(tmp_path.iterdir())


# ---- agreement -----------------------------------------------------------------------------------


def test_the_table_of_distances_is_zero_where_nothing_is_dark(run, tmp_path, capsys):
    """scripts/twin_distance.py: the first model on its own pictures, and on their dark twins."""
    bright = generate(tmp_path / "bright", train=1, val=2, size=64) / "data.yaml"
    bright.write_text(yaml.safe_dump({"train": "images/train", "val": "images/val", "names": [*"abcdefgh"]}))
    darken_dataset(bright, tmp_path / "dark", preset="severe")
    distances = runpy.run_path(str(ROOT / "scripts/twin_distance.py"))["main"]
    models = [str(run[0] / name) for name in ("start.pt", "adapted.pt")]
    for dark in (bright, tmp_path / "dark/data.yaml"):
        distances([*models, f"bright={bright}", f"dark={dark}", "imgsz=64"])
    header, _, *rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    assert header == ["model", "P3", "P4", "P5", "neck 1", "neck 2", "neck 3"]
    same, adapted_same, _, _, dark, adapted = rows
    assert same == ["start", *["0"] * 6] and adapted_same[0] == "adapted"
    assert all(float(value) > 0 for value in dark[1:]) and adapted[0] == "adapted"


def test_agreement_is_one_with_itself_and_less_without_half_of_it(tmp_path):
    files, predictions = {}, []
    for number in (1, 2):
        files[number] = tmp_path / f"{number}.png"
        cv2.imwrite(str(files[number]), np.zeros((40, 60, 3), np.uint8))
        for left, score in ((5, 0.9), (30, 0.5), (2, 0.1)):
            box = [left, 5, 12, 20]
            predictions.append({"image_id": number, "category_id": 1, "score": score, "bbox": box})
    truth = truth_of(predictions, files, {0: "cat", 1: "dog"})
    assert len(truth["annotations"]) == 4  # what is less confident than 0.25 is no truth
    assert agreement(truth, predictions, "detect") == {"boxes": pytest.approx(1)}
    half = [found for found in predictions if found["image_id"] == 1]
    assert 0.4 < agreement(truth, half, "detect")["boxes"] < 0.6
    nothing = truth_of([], files, {0: "cat", 1: "dog"})
    assert agreement(nothing, predictions, "segment") == {"masks": None, "boxes": None}


# ---- pictures ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "held"), [(12, 4), (29, 9), (30, 10), (100, 10), (500, 50), (5000, 100)])
def test_a_tenth_is_held_out_within_bounds(count, held):
    drawn = held_out(count, seed=3)
    assert len(drawn) == len({*drawn}) == held and drawn == held_out(count, seed=3) != held_out(count, seed=4)


def test_a_few_of_many_are_evenly_spaced():
    assert spread(range(9), 3) == [0, 4, 8] and spread(range(3), 9) == [0, 1, 2]


def test_a_jpeg_without_its_end_is_copied_so_that_ultralytics_repairs_the_copy(tmp_path):
    picture = tmp_path / "cut.png"  # whatever its name
    picture.write_bytes(cv2.imencode(".jpg", np.full((32, 32, 3), 90, np.uint8))[1].tobytes()[:-2])
    link(picture, tmp_path / "place.png")
    assert not (tmp_path / "place.png").is_symlink() and (tmp_path / "place.png").read_bytes() == picture.read_bytes()


def test_where_the_disk_has_no_links_pictures_are_copied(tmp_path, monkeypatch, day):
    def refuse(*args):
        raise OSError("no links here")

    monkeypatch.setattr(os, "symlink", refuse)
    link(day / "0.jpg", tmp_path / "place.jpg")
    assert (tmp_path / "place.jpg").read_bytes() == (day / "0.jpg").read_bytes()


def test_files_that_cannot_be_read_are_left_out_and_counted(day, tmp_path):
    folder = shutil.copytree(day, tmp_path / "day")
    (folder / "broken.jpg").write_bytes(b"no picture")
    (folder / "tiny.png").write_bytes(cv2.imencode(".png", np.full((5, 5, 3), 200, np.uint8))[1].tobytes())
    found = find(folder)
    assert found.count == 12 and [file.name for file in found.unreadable] == ["broken.jpg", "tiny.png"]


def test_a_data_yaml_and_a_video_are_taken_as_well(day, tmp_path):
    (tmp_path / "set.yaml").write_text(f"path: {day}\ntrain: .\nval: .\nnames: [a]\n")
    assert find(tmp_path / "set.yaml").files == find(day).files
    video(tmp_path / "day.avi", 40, 150)
    found = find(tmp_path / "day.avi", frames=20)
    assert found.count == 20 and found.frames[0] == 0 and found.frames[-1] == 39


def video(file, frames, code):
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for _ in range(frames):
        writer.write(np.full((48, 64, 3), code, np.uint8))
    writer.release()


# ---- mistakes ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def places(day, source, tmp_path_factory):
    """Everything that a mistake can be made with."""
    from ultralytics import YOLO

    root = tmp_path_factory.mktemp("mistakes")
    shutil.copytree(day, root / "day")
    for name in ("empty", "few", "dark", "full"):
        (root / name).mkdir()
    for number in range(13):
        dark = cv2.imencode(".png", np.full((32, 32, 3), 9, np.uint8))[1].tobytes()
        (root / f"dark/{number}.png").write_bytes(dark)
    shutil.copy(day / "0.jpg", root / "few/0.jpg")
    shutil.copytree(day, root / "twin")
    header = {"camera": 1, "seed": 0, "settings": {}, "preset": "severe"}
    (root / "twin/manifest.jsonl").write_text(json.dumps(header) + "\n")
    (root / "full/thesis.doc").write_text("mine")
    (root / "text.pt").write_text("no checkpoint")
    (root / "model.onnx").write_bytes(b"")
    (root / "empty.avi").write_bytes(b"")
    video(root / "dark.avi", 20, 10)
    (root / "other.yaml").write_text(f"path: {root}\ntrain: day\nval: day\nnames: [a, b]\n")
    names = {i: f"c{i}" for i in range(80)}
    for name, folder in (("unlabelled", "day"), ("night", "twin")):
        said = {"path": str(root / folder), "train": ".", "val": ".", "names": names}
        (root / f"{name}.yaml").write_text(yaml.safe_dump(said))
    (root / "model.pt").symlink_to(source("yolov8n"))
    for name in ("yolov8n-cls", "yolov8n-pose", "yolov8n-obb"):
        model = YOLO(f"{name}.yaml", verbose=False).model
        torch.save({"model": model, "ema": None, "epoch": -1, "train_args": {}}, root / f"{name}.pt")
    saved = torch.load(source("yolov8n"), weights_only=False)
    kind = type("BlockOfTomorrow", (torch.nn.Module,), {"__module__": "ultralytics.nn.modules.block"})
    from ultralytics.nn.modules import block

    block.BlockOfTomorrow = kind
    saved["model"].model.add_module("new", kind())
    torch.save(saved, root / "tomorrow.pt")
    del block.BlockOfTomorrow
    return root


MISTAKES = [
    ("model.pt images=empty", "holds no pictures"),
    ("model.pt images=few", "has 1 picture; wanted 12 at the very least"),
    ("model.pt images=dark", "are dark: their median brightness is 9 of 255"),
    ("model.pt images=twin", "are dark already (by yolo-wnlb darken: preset severe, seed 0)"),
    ("model.pt images=nowhere", "images=nowhere does not exist"),
    ("model.pt images=day/0.jpg", "is one file; wanted a folder of pictures"),
    ("model.pt images=day out=day", "out=day lies in images=day"),
    ("model.pt images=day out=day/new", "out=day/new lies in images=day"),
    ("model.pt images=day out=full", "out=full holds files of something else"),
    ("model.pt images=day out=text.pt", "out=text.pt is a file"),
    ("model.pt images=empty.avi", "is a video without a frame"),
    ("model.pt images=dark.avi", "images=dark.avi are dark: their median brightness is 9"),
    ("model.pt images=none.mp4", "none.mp4 does not exist"),
    ("yolov8n-cls.pt images=day", "is a model for 'classify'"),
    ("yolov8n-pose.pt images=day", "is a model for 'pose'"),
    ("yolov8n-obb.pt images=day", "is a model for 'obb'"),
    ("model.onnx images=day", "an export cannot be trained; give the .pt"),
    ("yolov8n.yaml images=day", "a definition without weights"),
    ("text.pt images=day", "is not a readable Ultralytics checkpoint"),
    ("missing.pt images=day", "missing.pt does not exist"),
    ("tomorrow.pt images=day", "knows other modules than"),
    ("model.pt images=day lowlight=sever", "no low-light preset 'sever' (did you mean 'severe'?)"),
    ("model.pt images=day day=1", "day=1: wanted the share of training pictures that stay bright"),
    ("model.pt images=day day=-0.1", "day=-0.1: wanted a number, 0 or more"),
    ("model.pt images=day after=P7", "no stage 'P7'"),
    ("model.pt images=day after=99", "no place after row 99"),
    ("model.pt images=day train=something", "train=something; choose from blocks, all"),
    ("model.pt images=day train=all w_lr=3", "w_lr: no block is inserted that could have it"),
    ("model.pt images=day operation=nonsense", "nonsense"),
    ("model.pt images=day data=other.yaml", "has other classes than"),
    ("model.pt images=day data=unlabelled.yaml", "none of the 12 val pictures has a label"),
    ("model.pt images=day data=night.yaml", "are dark already (by yolo-wnlb darken: preset severe, seed 0)"),
    ("model.pt images=day data=nowhere.yaml", "there is no nowhere.yaml"),
    ("model.pt images=day epochs=0", "epochs=0: wanted a whole number, 1 or more"),
    ("model.pt images=day batch=0", "batch=0: wanted a whole number, 1 or more"),
    ("model.pt images=day imgsz=100", "imgsz=100: wanted a multiple of 32"),
    ("model.pt images=day lr=-1", "lr=-1: wanted a learning rate above 0"),
    ("model.pt images=day lr=0", "lr=0: wanted a learning rate above 0"),
    ("model.pt images=day limit=3", "limit=3: wanted a whole number, 12 or more"),
    ("model.pt images=day seed=-1", "seed=-1: wanted a whole number, 0 or more"),
    ("model.pt images=day workers=-1", "workers=-1: wanted a whole number, 0 or more"),
    ("model.pt images=day device=toaster", "toaster"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES, ids=[words for words, _ in MISTAKES])
def test_a_mistake_is_one_line_and_nothing_is_written(words, message, places, monkeypatch, capsys):
    monkeypatch.chdir(places)
    before = {path for path in places.rglob("*") if path.suffix != ".cache"}
    words = words.split()
    words += [word for word in ("lowlight=severe", "out=new") if not any(w.startswith(word[:4]) for w in words)]
    assert main(["adapt", *words]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and message in lines[0], lines
    assert {path for path in places.rglob("*") if path.suffix != ".cache"} == before


def test_a_missing_lowlight_is_answered_on_both_ways(places, capsys):
    assert main(["adapt", "model.pt", "images=day"]) == 2
    assert "no lowlight=PRESET" in capsys.readouterr().err
    with pytest.raises(ValueError, match="lowlight= is missing"):
        adapt(places / "model.pt", places / "day", places / "new")


@pytest.mark.parametrize(
    ("objects", "dark", "true", "wanted"),
    [
        (100, (0.20, 0.30), (), []),
        (100, (0.20, 0.20), (), ["Nothing was gained"]),
        (9, (0.20, 0.30), (), ["cannot be told from 9 objects, for 50 or more are needed: give more pictures, or lab"]),
        (1, (0.30, 0.20), (), ["cannot be told from 1 object, for"]),
        (0, (None, None), (), ["finds nothing"]),
        (100, (0.20, 0.30), (0.09, 0.10), []),
        (100, (0.20, 0.30), (0.0913, 0.0874), ["did not rise"]),
        (9, (0.30, 0.20), (0.1, 0.1), ["cannot be told from 9 objects", "did not rise"]),
    ],
)
def test_what_tells_against_an_adapted_model_is_said(objects, dark, true, wanted):
    def named(pair):
        return {f"dark, {which}": {"masks": value} for which, value in zip(("before", "after"), pair)}

    lines = measures.advice({"objects": objects, "agreement": named(dark)}, named(true), "masks")
    assert len(lines) == len(wanted)
    assert all(words in line for words, line in zip(wanted, lines))


def test_distances_of_any_size_stay_in_their_columns():
    lines = measures.distance_rows({"before": {"P3": 0.6123}, "after": {"P3": 275900.0}})
    assert lines[1].split() == ["P3", "0.612", "2.76e+05"]


def test_the_brightness_of_a_picture_of_16_bits_is_that_of_its_training(tmp_path):
    from yolo_wnlb.adapt.pictures import mean_code

    codes = np.random.default_rng(0).integers(200, 4000, (64, 64)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / "day.png"), codes)
    assert 110 < mean_code(tmp_path / "day.png") < 145
    cv2.imwrite(str(tmp_path / "small.png"), codes[:4, :4])
    assert mean_code(tmp_path / "small.png") is None
