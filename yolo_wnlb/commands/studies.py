"""The commands that measure many models, or one many times: compare, robustness, report."""

from __future__ import annotations

import math
import re
import shlex
from pathlib import Path
from typing import Any

from yolo_wnlb.commands.options import CORRUPTIONS, DEVICE, EXIST_OK, FAMILIES, IMAGES_OF_COCO, PRESETS
from yolo_wnlb.commands.register import command, show
from yolo_wnlb.terminal.arguments import NONE, Kind, Option, flag, listed, number, one_of, path, text, whole


@command(
    "compare",
    "Train and evaluate the rows of a study with equal data, seeds and budget, and print their table.",
    files="STUDY.yaml",
    count=(1, 1),
    file_keys=("study",),
    example="yolo-wnlb compare study.yaml out=runs/study jobs=2",
    about="The table has intervals. yolo_wnlb/study/plan.py shows what a study holds. The command goes on where it was "
    "stopped.",
    resumes=True,
    options=[
        Option("out", path("FOLDER"), "folder of the runs and the table (default: runs/compare/ and the study's name)"),
        Option("jobs", whole(1), "how many rows are trained at once", 1),
        DEVICE,
    ],
)
def run_compare(files: list[str], options: dict[str, Any]) -> int:
    """Run what is left of a study, and print its table."""
    from yolo_wnlb.study.compare import compare

    out = options.pop("out", f"runs/compare/{Path(files[0]).stem}")
    return show(compare(files[0], out, **options))


@command(
    "robustness",
    "Measure how far detectors or classifiers hold when pictures get darker, noisier, blurred, corrupted or attacked.",
    files="MODEL [MODEL ...]",
    count=(1, math.inf),
    file_keys=("model",),
    example="yolo-wnlb robustness plain.pt wnlb.pt data=my.yaml suite=lowlight,common,fgsm n=200",
    about=f"Families: {', '.join(FAMILIES)}; or single corruptions, such as stops, fog or jpeg. Writes robustness.md, "
    "robustness.csv, robustness.json, curves.png and sample pictures; the other models are compared with the first. "
    "docs/robustness.md says how to read them. The command goes on where it was stopped.",
    resumes=True,
    options=[
        Option(
            "data",
            path("DATA.yaml|TRUTH.json"),
            "the truth: a data YAML or COCO annotations; of classifiers class folders or contexts:all",
            required=True,
        ),
        Option(
            "suite",
            listed(text("NAME", *FAMILIES, "presets", "stops", *CORRUPTIONS)),
            "families, or single corruptions",
            ("lowlight", "noise", "blur"),
        ),
        Option("levels", listed(whole(1)), "which levels of each corruption, 1 is mild (default: all)"),
        Option("n", whole(2), "so many pictures, evenly spaced; all if there are fewer", 500),
        Option(
            "surrogate", path("MODEL.pt"), "whose gradients attacks use (default: those of each model; exports need it)"
        ),
        Option("split", text("NAME", "train", "val", "test"), "of a data YAML", "val"),
        Option("imgsz", whole(1), "image size of the models (default: as trained)"),
        Option("seed", whole(0), "another one draws other noise, fog and darkness", 0),
        Option("preset", text("PRESET", *PRESETS[:4]), "whose noise the stops of lowlight have", "severe"),
        Option(
            "space",
            one_of("pixels", "normalised"),
            "what radii of linf attacks on classifiers count: pixels of 0 to 1, or normalised values",
            "pixels",
        ),
        Option(
            "groups",
            text("RULE"),
            "pictures that belong together: a key of COCO images, or a regular expression for names with one (group); "
            "intervals then draw whole groups",
        ),
        Option("save", whole(0), "sample pictures of each corruption", 4),
        Option("allow_missing", flag(), "accept models that know more classes than the truth", False),
        Option("out", path("FOLDER"), "folder of the cells and the report", "runs/robustness"),
        DEVICE,
        IMAGES_OF_COCO,
    ],
)
def run_robustness(files: list[str], options: dict[str, Any]) -> int:
    """Measure what is left to be measured, and print the report."""
    from yolo_wnlb.study.robustness import robustness

    out = options.get("out", "runs/robustness")
    report = robustness(files, options.pop("data"), **options)
    print(f"\nwritten to {out}:\n", flush=True)
    return show(report)


def specs(value: str) -> list[str]:
    """Read enhancers between commas, of which each may have options: onnx:net.onnx,pad=12,clahe:2; or none."""
    if value.lower() in NONE:
        return []
    found = re.split(r",(?!\w+=)", value)
    if not all(found):
        raise ValueError
    return found


ENHANCERS = Kind(
    "SPEC,...|none",
    "enhancers between commas, such as gamma:2.2,clahe:2, or none",
    specs,
    ("gamma:2.2", "clahe:2", "histeq", "msr", "none"),
)


@command(
    "report",
    "Write one page that says what detectors are worth in the dark, which confidence to set, and what goes wrong.",
    files="MODEL [MODEL ...]",
    count=(1, math.inf),
    file_keys=("model",),
    example="yolo-wnlb report plain.pt wnlb.pt data=my.yaml out=report.html",
    about="The page needs no network and no other file: verdict, AP against darkness and by the brightness of the real "
    "pictures, confidences, kinds of errors, the worst pictures, enhancers, blocks, cost. Beside it are the numbers, "
    ".json, and a model card for the Hugging Face Hub, .md. docs/report.md says how to read them.",
    options=[
        Option("data", path("DATA.yaml|TRUTH.json"), "the truth: a data YAML or COCO annotations", required=True),
        Option("out", path("FILE.html"), "the page; the other two files get its name", "report.html"),
        Option("split", text("NAME", "train", "val", "test"), "of a data YAML", "val"),
        Option("stops", listed(whole()), "stops of darkness: 0, and of -1 to -7 those wanted", (0, -1, -2, -3, -4, -5)),
        Option("n", whole(2), "pictures for stops and enhancers, evenly spaced; all else takes all", 100),
        Option("preset", text("PRESET", *PRESETS[:4]), "whose noise the stops have", "severe"),
        Option("imgsz", whole(1), "image size of the models (default: as trained)"),
        Option("beta", number(0), "how much more recall counts than precision for the confidence to set", 1.0),
        Option("enhancers", ENHANCERS, "what pictures are brightened with", ("gamma:2.2", "clahe:2", "histeq", "msr")),
        Option("worst", whole(0), "worst pictures of each model", 24),
        Option(
            "groups",
            text("RULE"),
            "pictures that belong together: a key of COCO images, or a regular expression for names with one (group); "
            "intervals then draw whole groups",
        ),
        Option("seed", whole(0), "another one draws other darkness and other halves", 0),
        Option("title", text("TEXT"), "heading of the page (default: the names of the models)", ""),
        Option("allow_missing", flag(), "accept models that know more classes than the truth", False),
        EXIST_OK,
        DEVICE,
        IMAGES_OF_COCO,
    ],
)
def run_report(files: list[str], options: dict[str, Any]) -> int:
    """Measure the models, write the three files, and print the verdict."""
    from yolo_wnlb.report.report import report

    words = [
        f"{key}={','.join(map(str, value)) or 'none' if isinstance(value, list) else value}"
        for key, value in options.items()
    ]
    command = shlex.join(["yolo-wnlb", "report", *files, *words])
    return show(report(files, options.pop("data"), **options, command=command))
