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
    """Run `yolo-wnlb`; a mistake must end with status 2 and one message."""
    import contextlib
    import io

    from yolo_wnlb.cli import main

    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        status = main([str(word) for word in words])
    assert status == 2, said.getvalue()
    raise SystemExit(said.getvalue().strip().splitlines()[0])


def train(model, task="segment", **options):
    from ultralytics import YOLO

    quick = {"imgsz": 64, "epochs": 1, "workers": 0, "plots": False, "device": "cpu", "project": str(Path.cwd())}
    YOLO(model, task=task).train(data="shapes/data.yaml", **quick, **options)


def shapes():
    from yolo_wnlb.shapes import NAMES, generate

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

    from yolo_wnlb.parity import check_export

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


def float_image():
    from yolo_wnlb import darken

    darken(np.zeros((4, 4, 3), np.float32), rng=np.random.default_rng(0))


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
    ("unknown command", lambda: command("train", "yolov8n.pt"), ["'train'", "graft, export-check, doctor"]),
    ("space around =", lambda: command("graft", "yolov8.yaml", "after=", "P3"), ["after=", "without spaces"]),
    ("segmentation model for detection", wrong_task, ["'detect'", "yolo segment train", "yolov8n-wnlb.yaml"]),
    ("weights file missing", missing_weights, ["yolov8m-seg-mine.pt", "official names"]),
    ("corrupt checkpoint", corrupt_checkpoint, ["best.pt", "corrupted"]),
    (
        "checkpoint of another architecture",
        other_architecture,
        ["another architecture", "yolo11n-seg.yaml (scale n) into yolov8n-seg-wnlb.yaml (scale n)", "of 561 tensors"],
    ),
    ("unreadable image", unreadable_image, ["night.jpg", "not a readable picture"]),
    ("corrupt ONNX", corrupt_export, ["best.onnx"]),
    ("export-check of one file", lambda: command("export-check", "best.pt"), ["found ['best.pt']", "best.onnx"]),
    ("float image to darken", float_image, ["float32", "uint8", "255"]),
    ("foreign folder for the built-in data", foreign_folder, ["shapes"]),
]


def message(act):
    """Do it in an empty folder; return what the user is told."""
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            act()
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
