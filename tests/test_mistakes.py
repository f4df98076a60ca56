"""What a user does wrong, and the message that answers: what was found, what was wanted, what to do.

`python tests/test_mistakes.py` prints the table.
"""

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import yaml


def model_yaml(row):
    """A small model YAML with this row in place of a wNLB."""
    rows = [[-1, 1, "Conv", [16, 3, 2]], row]
    head = [[[1], 1, "Detect", ["nc"]]]
    Path("yolov8n-mine.yaml").write_text(yaml.safe_dump({"nc": 2, "backbone": rows, "head": head}))
    from ultralytics import YOLO

    YOLO("yolov8n-mine.yaml")


def command(*words):
    """Run `yolo-wnlb`; a mistake must end with status 2 and one line on standard error, the last that is printed."""
    import contextlib
    import io

    from yolo_wnlb.cli import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(out):
        status = main([str(word) for word in words])
    assert status == 2, out.getvalue() + err.getvalue()
    lines = err.getvalue().splitlines()
    assert len(lines) == 1 and lines[0].startswith("yolo-wnlb"), lines
    raise SystemExit(lines[0].split(": ", 1)[1])


def train(model, task="segment", **options):
    from ultralytics import YOLO

    quick = {"imgsz": 64, "epochs": 1, "workers": 0, "plots": False, "device": "cpu", "project": str(Path.cwd())}
    YOLO(model, task=task).train(data="shapes/data.yaml", **quick, **options)


def shapes():
    from yolo_wnlb.data.shapes import NAMES, generate

    root = generate("shapes", train=2, val=1, size=64)
    (root / "data.yaml").write_text(yaml.safe_dump({"train": "images/train", "val": "images/val", "names": [*NAMES]}))


def wrong_task():
    shapes()
    train("yolov8n-seg-wnlb.yaml", task="detect")


def missing_weights():
    shapes()
    train("yolov8n-seg-wnlb.yaml", pretrained="weights/yolov8m-seg-mine.pt")


def corrupt_checkpoint():
    from ultralytics import YOLO

    Path("best.pt").write_text("half a download")
    YOLO("yolov8n-seg-wnlb.yaml").load("best.pt")


def corrupt_export():
    from ultralytics import YOLO

    YOLO("yolov8n-seg-wnlb.yaml").save("best.pt")
    Path("best.onnx").write_bytes(b"half a download")
    command("export-check", "best.pt", "best.onnx")


def unreadable_image():
    from ultralytics import YOLO

    from yolo_wnlb.yolo.parity import check_export

    YOLO("yolov8n-wnlb.yaml").save("best.pt")
    onnx = YOLO("best.pt").export(format="onnx", imgsz=64, verbose=False)
    Path("night.jpg").write_text("not a picture")
    check_export("best.pt", onnx, images=["night.jpg"])


def other_architecture():
    """Not an error: the warning is the message."""
    import logging

    from ultralytics import YOLO

    YOLO("yolo11n-seg.yaml").save("11.pt")
    said = []
    listen = lambda record: said.append(record.getMessage()) or True  # noqa: E731
    logger = logging.getLogger("ultralytics")
    logger.addFilter(listen)
    try:
        YOLO("yolov8n-seg-wnlb.yaml").load("11.pt")
    finally:
        logger.removeFilter(listen)
    raise UserWarning(said[-1])


def block(**options):
    from yolo_wnlb import WNLB

    WNLB(8, **options)


def absurd_map():
    import torch

    from yolo_wnlb import WNLB

    WNLB(2, operation="concatenation")(torch.zeros(1, 2, 160, 160))


def picture(image, **settings):
    """Darken one picture."""
    from yolo_wnlb import darken

    darken(image, **settings)


def transform(**arguments):
    from yolo_wnlb import LowLight

    LowLight(**arguments)


def bright(count=3):
    """A tiny data set to darken; returns its YAML."""
    from yolo_wnlb.data.shapes import generate

    root = generate("bright", train=count, val=1, size=64)
    (root / "data.yaml").write_text(yaml.safe_dump({"train": "images/train", "val": "images/val", "names": ["a"] * 5}))
    return root / "data.yaml"


def darken(*words):
    command("darken", bright(), "workers=1", *words)


def told_by_darken(*words):
    """Not a refusal: what the report says."""
    from yolo_wnlb.twins.darken import darken_dataset

    raise UserWarning(str(darken_dataset("bright/data.yaml", "dark", workers=1)))


def label_without_picture():
    Path(bright()).parent.joinpath("labels/train/lost.txt").write_text("0 .1 .1 .9 .1 .9 .9\n")
    told_by_darken()


def corrupt_picture():
    next(Path(bright()).parent.joinpath("images/train").glob("*.png")).write_bytes(b"half a download")
    told_by_darken()


def other_settings_on_resume():
    from yolo_wnlb.twins.darken import darken_dataset

    darken_dataset(bright(), "dark", workers=1)
    darken("out=dark", "seed=1")


def dark_twice():
    from yolo_wnlb.twins.darken import darken_dataset

    darken_dataset(bright(), "dark", workers=1)
    command("darken", "dark/data.yaml", "out=darker")


def file_in_the_way():
    Path("dark").write_text("precious")
    darken("out=dark")


def foreign_output():
    Path("dark").mkdir()
    Path("dark/mine.txt").write_text("precious")
    darken("out=dark")


def run(**options):
    from ultralytics.cfg import get_cfg

    get_cfg(overrides={"mode": "train", "task": "segment", **options})


def foreign_folder():
    Path("shapes").mkdir()
    Path("shapes/mine.txt").write_text("precious")
    shapes()


def graft_over_a_file():
    Path("mine.yaml").write_text("precious")
    command("graft", "yolov8-seg.yaml", "out=mine.yaml")


def graft_a_data_set():
    Path("data.yaml").write_text("names: [a]\ntrain: images")
    command("graft", "data.yaml")


def predictions(**changes):
    """Evaluate one prediction on the generated data set."""
    import json

    shapes()
    name = next(Path("shapes/images/val").iterdir()).name
    found = {"image_id": 1, "file_name": name, "category_id": 1, "score": 0.5, "bbox": [1, 1, 9, 9], **changes}
    Path("found.json").write_text(json.dumps([found]))
    command("evaluate", "found.json", "data=shapes/data.yaml")


def other_classes():
    from ultralytics import YOLO

    shapes()
    model = YOLO("yolov8n-seg.yaml")
    model.save("coco.pt")
    command("evaluate", "coco.pt", "data=shapes/data.yaml", "imgsz=64")


def evaluated_before():
    shapes()
    Path("runs").mkdir()
    Path("runs/evaluation.json").write_text("{}")
    command("evaluate", "best.pt", "data=shapes/data.yaml", "out=runs")


def cut_off_predictions():
    shapes()
    Path("found.jsonl").write_text('{"header": {}}\n{"image_id": 1, "cat')
    command("evaluate", "found.jsonl", "data=shapes/data.yaml")


def study(**changes):
    shapes()
    rows = {"plain": {"model": "yolov8n-seg.yaml"}, "wNLB": {"model": "yolov8n-seg-wnlb.yaml"}}
    said = {"data": "shapes/data.yaml", "train": {"yolo": {"epochs": 1}}, "rows": rows, "baseline": "plain"}
    Path("study.yaml").write_text(yaml.safe_dump({**said, **changes}))
    command("compare", "study.yaml")


def strategies(data="containers:S1,train=8,test=6,size=32", budget=(), **options):
    """A study of classifiers, with these options of one row; words of `budget` stand in train:."""
    train = {"classifier": {"arch": "resnet10", "epochs": 1, **dict(budget)}}
    rows = {"plain": {"detector": "classifier", "options": options}}
    said = {"data": data, "split": "test", "measure": "accuracy", "train": train, "rows": rows}
    Path("study.yaml").write_text(yaml.safe_dump(said))
    command("compare", "study.yaml", "device=cpu")


def class_folders(*names):
    """A study of classifiers on class folders that hold these pictures."""
    import cv2

    for name in names:
        Path("ccm", name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(f"ccm/{name}", np.zeros((32, 32, 3), np.uint8))
    strategies("ccm")


def unlike_run():
    """A run is there that was trained for longer."""
    import json

    run = Path("runs/compare/study/plain-0")
    run.mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"spec": {"seed": 0, "train": {"epochs": 100}}, "files": {}}))
    study()


def enhance(*words):
    shapes()
    command("enhance", "shapes/data.yaml", *words)


def inspect_without_blocks():
    from ultralytics import YOLO

    YOLO("yolov8n-seg.yaml").save("plain.pt")
    command("inspect", "plain.pt")


def wrong_file(name, content, *words):
    """Run a command on a file that holds something else; FILE in its words is that file."""
    shapes()
    Path(name).write_bytes(content) if content is not None else Path(name).mkdir()
    command(*[word.replace("FILE", name) for word in words])


def unwritable_output():
    """A path below a file cannot be made, whoever the user is."""
    Path("note.txt").write_text("precious")
    command("graft", "yolov8-seg.yaml", "out=note.txt/mine.yaml")


UTF_16 = "names: [a]".encode("utf-16")


MISTAKES = [  # what was done, how, and what the message must say
    (
        "unknown operation in a YAML row",
        lambda: model_yaml([-1, 1, "wNLB", [{"operation": "cosine"}]]),
        ["row 1", "'cosine'", "dot_product"],
    ),
    (
        "unknown option in a YAML row",
        lambda: model_yaml([-1, 1, "wNLB", [{"subsample": 2}]]),
        ["row 1", "subsample", "sub_sample"],
    ),
    (
        "channels as an argument, as for Conv",
        lambda: model_yaml([-1, 1, "wNLB", [256]]),
        ["row 1", "layer in front", "[-1, 1, wNLB, []]"],
    ),
    ("block that reads a distant layer", lambda: model_yaml([0, 1, "wNLB", []]), ["row 1", "from = 0", "nn.Identity"]),
    ("repeated block", lambda: model_yaml([-1, 3, "wNLB", []]), ["row 1", "repeats = 1", "3 times"]),
    (
        "sub_sample of 0",
        lambda: model_yaml([-1, 1, "wNLB", [{"sub_sample": 0}]]),
        ["row 1", "sub_sample", "at least 1", "0"],
    ),
    ("plain block with a w", lambda: block(weighted=False, w_init=0.5), ["weighted=False has no w", "remove"]),
    ("learning rate of w 0", lambda: block(w_lr=0), ["w_lr", "w_learnable=False"]),
    ("scale for the dot product", lambda: block(operation="dot_product", scale=0.1), ["softmax forms only"]),
    ("concatenation on a large map", absurd_map, ["25600", "GiB", "sub_sample"]),
    (
        "mistyped model YAML",
        lambda: train("yolov8n-seg-wnbl.yaml"),
        ["yolov8-seg-wnlb.yaml", "yolo-wnlb graft"],
    ),
    (
        "unknown stage to graft after",
        lambda: command("graft", "yolov8-seg.yaml", "after=P3,P7"),
        ["'P7'", "P1, P2, P3, P4, P5"],
    ),
    ("model to graft does not exist", lambda: command("graft", "yolov9000.yaml"), ["yolov9000.yaml", "does not exist"]),
    ("data-set YAML to graft", graft_a_data_set, ["no model definition", "data set"]),
    ("graft onto an existing file", graft_over_a_file, ["exists", "exist_ok=True"]),
    (
        "three values for two places",
        lambda: command("graft", "yolov8.yaml", "after=P4,P5", "sub_sample=4,2,1"),
        ["3 values for 2 places"],
    ),
    ("wrong option of graft", lambda: command("graft", "yolov8.yaml", "mode=dot"), ["mode", "operation"]),
    ("unknown command", lambda: command("train", "yolov8n.pt"), ["'train'", "darken, preview, enhance"]),
    ("command of yolo", lambda: command("val", "best.pt"), ["no command 'val'", "yolo val"]),
    ("command mistyped", lambda: command("prevew"), ["no command 'prevew' (did you mean 'preview'?)"]),
    ("option given twice", lambda: command("graft", "a.yaml", "out=a", "out=b"), ["out= is given twice"]),
    ("half a pixel", lambda: command("evaluate", "best.pt", "data=a", "imgsz=64.5"), ["imgsz=64.5", "whole number"]),
    ("data mistyped", lambda: command("evaluate", "best.pt", "dta=a.yaml"), ["no option dta (did you mean 'data'?)"]),
    (
        "data of inspect",
        lambda: command("inspect", "best.pt", "data=a.yaml"),
        ["no option data", "images=dark/data.yaml"],
    ),
    ("two models to graft", lambda: command("graft", "a.yaml", "b.yaml"), ["found ['a.yaml', 'b.yaml']"]),
    ("folder that cannot be made", unwritable_output, ["note.txt"]),
    ("YAML in UTF-16", lambda: wrong_file("a.yaml", UTF_16, "graft", "FILE"), ["a.yaml"]),
    ("folder for a model YAML", lambda: wrong_file("a.yaml", None, "graft", "FILE"), ["a.yaml"]),
    ("list for a model YAML", lambda: wrong_file("a.yaml", b"- a", "graft", "FILE"), ["a.yaml"]),
    ("picture for a data YAML", lambda: wrong_file("a.jpg", b"x", "darken", "FILE", "out=dark"), ["a.jpg"]),
    ("empty folder for a data set", lambda: wrong_file("none", None, "darken", "FILE", "out=dark"), ["none"]),
    ("text to darken", lambda: wrong_file("a.txt", b"x", "enhance", "FILE", "out=o", "with=clahe"), ["a.txt"]),
    ("empty data YAML", lambda: wrong_file("a.yaml", b"", "preview", "FILE"), ["a.yaml"]),
    ("empty checkpoint", lambda: wrong_file("a.pt", b"", "inspect", "FILE", "images=shapes/images/val"), ["a.pt"]),
    ("text for a checkpoint", lambda: wrong_file("a.pt", b"x", "export-check", "FILE", "b.onnx"), ["a.pt"]),
    ("folder for a checkpoint", lambda: wrong_file("a.pt", None, "inspect", "FILE"), ["a.pt"]),
    ("picture to preview broken", lambda: wrong_file("a.jpg", b"x", "preview", "FILE"), ["a.jpg"]),
    ("study that is a list", lambda: wrong_file("s.yaml", b"- a", "compare", "FILE"), ["s.yaml"]),
    ("study in UTF-16", lambda: wrong_file("s.yaml", UTF_16, "compare", "FILE"), ["s.yaml"]),
    (
        "device that is not there",
        lambda: wrong_file("a.txt", b"x", "evaluate", "best.pt", "data=shapes/data.yaml", "device=7"),
        ["device=7"],
    ),
    ("space around =", lambda: command("graft", "yolov8.yaml", "after=", "P3"), ["after=", "without spaces"]),
    ("segmentation model for detection", wrong_task, ["'detect'", "yolo segment train", "yolov8n-wnlb.yaml"]),
    ("weights file missing", missing_weights, ["yolov8m-seg-mine.pt", "official names"]),
    ("corrupt checkpoint", corrupt_checkpoint, ["best.pt", "corrupted"]),
    (
        "checkpoint of another architecture",
        other_architecture,
        ["another architecture", "yolo11n-seg.yaml (scale n) into yolov8n-seg-wnlb.yaml (scale n)", "of 561 tensors"],
    ),
    ("unreadable image", unreadable_image, ["night.jpg", "cannot be read as an image"]),
    ("corrupt ONNX", corrupt_export, ["best.onnx"]),
    ("export-check of one file", lambda: command("export-check", "best.pt"), ["found ['best.pt']", "best.onnx"]),
    ("float image of 0 to 255", lambda: picture(np.full((4, 4, 3), 200.0)), ["from 200 to 200", "0 to 1", "divide"]),
    ("image with alpha", lambda: picture(np.zeros((4, 4, 4), np.uint8)), ["(4, 4, 4)", "(H, W, 3)", "alpha"]),
    ("integer image of another type", lambda: picture(np.zeros((4, 4), np.int32)), ["int32", "uint8, uint16"]),
    ("unknown preset", lambda: transform(preset="sever"), ["'sever'", "did you mean 'severe'", "agllnet"]),
    ("span upside down", lambda: transform(gamma=(3, 2)), ["gamma is (3, 2)", "upside down", "(2, 3)"]),
    ("span out of bounds", lambda: transform(sigma_s=4), ["sigma_s is 4", "[0, 1]"]),
    ("exposure and curve", lambda: transform(ev=-2, gamma=2), ["leave out either ev or gamma"]),
    ("unknown response", lambda: transform(crf="gama:2.2"), ["'gama:2.2'", "gamma:2.2", "dorf:FILE"]),
    (
        "file of responses missing",
        lambda: picture(np.zeros((4, 4), np.uint8), crf="dorf:dorf.txt"),
        ["dorf.txt", "CAVE"],
    ),
    (
        "JPEG step for 16 bits",
        lambda: picture(np.zeros((4, 4), np.uint16), jpeg_quality=90),
        ["uint16", "leave out jpeg_quality"],
    ),
    ("lowlight= mistyped", lambda: run(lowlight="sevre"), ["'sevre'", "did you mean 'severe'"]),
    ("lowlight= with a mistyped setting", lambda: run(lowlight={"sigma": 0.1}), ["'sigma'", "sigma_s"]),
    ("argument lowlight mistyped", lambda: run(lowligth="severe"), ["lowligth", "lowlight"]),
    ("lowlight= for classification", lambda: run(lowlight="severe", task="classify"), ["yolo-wnlb darken"]),
    ("lowlight= for prediction", lambda: run(lowlight="severe", mode="predict"), ["predict", "yolo-wnlb darken"]),
    (
        "lowlight= and LowLight together",
        lambda: run(lowlight="mild", augmentations=[{"__class_fullname__": "yolo_wnlb.transforms.LowLight"}]),
        ["twice", "leave out one"],
    ),
    ("darken without out", lambda: darken(), ["out="]),
    ("unknown option of darken", lambda: darken("out=dark", "gama=2"), ["gama", "gamma"]),
    ("unknown preset of darken", lambda: darken("out=dark", "preset=night"), ["'night'", "severe"]),
    (
        "mistyped flag",
        lambda: command("darken", "bright", "out=dark", "--verfy"),
        ["no option --verfy", "did you mean '--verify'"],
    ),
    ("shard 4/3", lambda: darken("out=dark", "shard=4/3"), ["'4/3'", "1/3, 2/3, 3/3"]),
    ("data set to darken missing", lambda: command("darken", "nowhere/data.yaml", "out=dark"), ["nowhere"]),
    ("output inside the source", lambda: darken("out=bright/dark"), ["lie in each other", "beside the source"]),
    ("output is a file", file_in_the_way, ["is a file", "choose a folder"]),
    ("output holds something else", foreign_output, ["holds something else"]),
    ("other settings on resume", other_settings_on_resume, ["seed", "1"]),
    ("dark data set darkened again", dark_twice, ["was darkened before"]),
    ("picture corrupt", corrupt_picture, ["FAILED images/train", "cannot be decoded", "left out"]),
    ("label file without picture", label_without_picture, ["lost.txt"]),
    ("preview of nothing", lambda: command("preview", "nowhere.jpg"), ["nowhere.jpg"]),
    (
        "model to evaluate missing",
        lambda: (shapes(), command("evaluate", "bset.pt", "data=shapes/data.yaml")),
        ["bset.pt"],
    ),
    ("evaluate without data", lambda: command("evaluate", "best.pt"), ["data="]),
    ("category ids shifted by one", lambda: predictions(category_id=0), ["0", "category"]),
    (
        "prediction for a picture that is not there",
        lambda: predictions(file_name="7.png"),
        ["7.png", "1 of 1"],
    ),
    ("score that is no number", lambda: predictions(score=float("nan")), ["score"]),
    ("predictions cut off in writing", cut_off_predictions, ["found.jsonl"]),
    ("model of other classes", other_classes, ["disc"]),
    ("evaluation there already", evaluated_before, ["exist_ok=True"]),
    ("study missing", lambda: command("compare", "nowhere.yaml"), ["there is no study nowhere.yaml"]),
    ("key of a study mistyped", lambda: study(seed=[1]), ["did you mean 'seeds'"]),
    (
        "row with a budget of its own",
        lambda: study(rows={"plain": {"model": "a.yaml", "train": {"epochs": 9}}}),
        ["a budget of its own"],
    ),
    (
        "runs under other conditions",
        unlike_run,
        ["runs under different conditions have no place in one table", "choose another out="],
    ),
    ("class folders without a split", lambda: class_folders("cup/a.png", "mug/b.png"), ["no split at all", "train/"]),
    (
        "class folders without the split to test on",
        lambda: class_folders("train/cup/a.png", "train/mug/b.png"),
        ["ccm has no folder test/", "it has train/"],
    ),
    (
        "class that cannot be learnt",
        lambda: class_folders("train/cup/a.png", "train/jar/a.png", "test/mug/b.png"),
        ["'mug' has pictures in test/ and none in train/"],
    ),
    ("one class only", lambda: class_folders("train/cup/a.png", "test/cup/b.png"), ["the only class is 'cup'"]),
    ("containers mistyped", lambda: strategies("container:S1"), ["did you mean 'containers:S1'"]),
    ("unknown net", lambda: strategies(budget={"arch": "resnet81"}), ["no arch 'resnet81'", "'resnet18'", "resnet10"]),
    ("freeze of a sixth layer", lambda: strategies(freeze=6), ["plain, seed 0", "freeze is 6", "from 0", "to 5"]),
    (
        "eps in codes",
        lambda: strategies(adversarial={"norm": "linf", "eps": 8}),
        ["eps is 8", "did you mean 8/255 = 0.0314"],
    ),
    (
        "free with l2",
        lambda: strategies(adversarial={"method": "free", "norm": "l2"}),
        ["free takes whole steps of eps and has no l2 form", "give norm linf, or method pgd"],
    ),
    (
        "option of the attack mistyped",
        lambda: strategies(adversarial={"epsilon": 0.1}),
        ["no option 'epsilon'", "choose from method, norm, eps"],
    ),
    ("argument of yolo for a classifier", lambda: strategies(lr0=0.1), ["no argument lr0 (did you mean 'lr'?)"]),
    (
        "detector in a study of classifiers",
        lambda: study(measure="accuracy"),
        ["measure: accuracy wants detector: classifier", "measure: coco"],
    ),
    (
        "classes sorted by groups that are not there",
        lambda: (
            Path("ccm/half/cup").mkdir(parents=True),
            Path("ccm/half/cup/a.png").write_bytes(b"x"),
            command("sort", "ccm", "out=s1", "by=groups", "test=cups"),
        ),
        ["no group 'cups' (did you mean 'cup'?)"],
    ),
    ("folder to cut objects out of", lambda: (shapes(), command("sort", "shapes", "out=o")), ["wants a data YAML"]),
    ("enhancer mistyped", lambda: enhance("with=claeh", "out=bright"), ["'claeh'", "did you mean 'clahe'"]),
    ("enhancer's network missing", lambda: enhance("with=onnx:dce.onnx", "out=bright"), ["dce.onnx", "onnx:FILE"]),
    ("enhanced into the source", lambda: enhance("with=clahe", "out=shapes/bright"), ["lie in each other"]),
    ("inspect a model without blocks", inspect_without_blocks, ["block"]),
    ("foreign folder for the built-in data", foreign_folder, ["shapes"]),
]


def message(act):
    """Do it in an empty folder; return what the user is told."""
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            act()
        except AssertionError:
            raise
        except (Exception, SystemExit) as error:
            return str(error)
        finally:
            os.chdir(here)
    return "(nothing: it was accepted)"


@pytest.mark.parametrize(
    ("act", "fragments"), [m[1:] for m in MISTAKES], ids=[m[0].replace(" ", "-") for m in MISTAKES]
)
def test_a_mistake_is_answered_with_what_was_found_and_what_to_do(act, fragments):
    told = message(act)
    assert [fragment for fragment in fragments if fragment not in told] == [], told


if __name__ == "__main__":
    for name, act, _ in MISTAKES:
        print(f"| {name} | {' '.join(message(act).split())[:300]} |")
