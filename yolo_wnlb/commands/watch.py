"""The command watch: a model on the frames of a camera at night."""

from __future__ import annotations

from typing import Any

from yolo_wnlb.commands.options import DEVICE, EXIST_OK
from yolo_wnlb.commands.register import command
from yolo_wnlb.terminal.arguments import Kind, Option, number, path, truth, whole


def confidence(value: str) -> float | str:
    """Read conf=: a number, or the file of a report."""
    return value if value.lower().endswith(".json") else number(0, 1).read(value)


@command(
    "watch",
    "Detect and follow objects with a camera that stands still at night: video, folder of frames, camera or RTSP.",
    files="SOURCE",
    count=(1, 1),
    file_keys=("source",),
    numbers=True,
    example="yolo-wnlb watch night.mp4 model=best.pt conf=report.json",
    about="A source is a video file, a folder of frames, the number of a camera (0), or a URL. Where nothing moves, "
    "the mean of the last frames is taken, which has less noise. Writes watch.jsonl, a line for each frame, and "
    "watch.mp4. Ctrl-C ends it, and the files are whole. docs/watch.md says more.",
    options=[
        Option("model", path("MODEL"), "a model for detection or segmentation, .pt or exported", required=True),
        Option("out", path("FOLDER"), "folder to make (default: runs/watch, or the next free number)"),
        Option("frames", whole(1), "the mean of so many frames is taken; 1: none", 4),
        Option(
            "conf",
            Kind("X|REPORT.json", "a number from 0 to 1, or a report.json", confidence, files=True),
            "the confidence that an object needs, or the file of yolo-wnlb report, which has one for each brightness",
            0.25,
        ),
        Option("too_dark", number(0, 255), "mean code below which nothing is tried (default: the report's, or 2)"),
        Option("keep", number(0, 1), "share of the confidence that an object needs once it is followed", 0.5),
        Option("hold", whole(0), "frames for which an object is reported that is not seen", 5),
        Option("iou", number(0, 1), "of non-maximum suppression", 0.7),
        Option("imgsz", whole(1), "image size of the model (default: as trained)"),
        Option("limit", whole(1), "stop after so many frames"),
        Option("video", truth(), "False: write no watch.mp4", True),
        DEVICE,
        EXIST_OK,
    ],
)
def run_watch(files: list[str], options: dict[str, Any]) -> int:
    """Watch a source until it ends, or the user ends it, and print what was done."""
    from yolo_wnlb.watch.watch import watch

    result = watch(files[0], options.pop("model"), options.pop("out", None), **options)
    print(result)
    if result.stopped:
        raise KeyboardInterrupt
    return 1 if result.lost else 0
