"""The commands that make pictures: darken, preview, enhance, corrupt, sort, calibrate, curve."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from yolo_wnlb.commands.options import (
    CAMERA,
    CORRUPTIONS,
    CURVE,
    DARKNESS,
    EXIST_OK,
    IMAGES_OF_COCO,
    PRESETS,
    SPLITS,
    response,
)
from yolo_wnlb.commands.register import command, show
from yolo_wnlb.terminal.arguments import Kind, Option, flag, listed, number, one_of, path, text, whole


@command(
    "darken",
    "Write the dark twin of a data set.",
    files="SOURCE [SOURCE ...]",
    count=(0, math.inf),
    file_keys=("source", "data"),
    example="yolo-wnlb darken coco8-seg.yaml out=coco8-dark preset=severe",
    about="A source is a data YAML, a COCO annotation file, or a folder of either. The command goes on where it was "
    "stopped; --verify compares what is in out= with its manifest, and needs no source.",
    resumes=True,
    options=[
        Option("out", path("FOLDER"), "the twin; needed, except for --verify of a folder named first"),
        Option("preset", text("NAME", *PRESETS), f"how dark: {DARKNESS}", "agllnet"),
        Option("seed", whole(0), "each picture's darkness follows from it and from its path", 0),
        Option(
            "format",
            text("png|png16|jpg", "png", "png16", "jpg"),
            "png is exact, png16 keeps 16 bits, jpg has quality 95",
            "png",
        ),
        CURVE,
        Option("workers", whole(1), "processes (default: one for each processor)"),
        Option("shard", text("I/N"), "1/3: this third of the pictures, others run elsewhere"),
        Option("limit", whole(1), "take the first so many pictures of each split"),
        IMAGES_OF_COCO,
        Option("dry_run", flag(), "write nothing; estimate time and space", False),
        Option(
            "verify", flag(), "compare what is in out= with its manifest; exit status 1 if something differs", False
        ),
        *CAMERA,
    ],
)
def run_darken(files: list[str], options: dict[str, Any]) -> int:
    """Write the dark twin of a data set, or compare one with its manifest."""
    from yolo_wnlb.twins.darken import darken_dataset, verify

    out, check = options.pop("out", None), options.pop("verify", False)
    if check and (out or len(files) == 1):
        return show(verify(out or files[0]))
    if not files or not out:
        missing = " and ".join([*([] if files else ["source"]), *([] if out else ["out="])])
        raise ValueError(f"wants a source and out=FOLDER, found no {missing}; for example: darken coco8.yaml out=dark")
    return show(darken_dataset(files, out, **options))


@command(
    "preview",
    "Show pictures beside their dark versions, with what was drawn.",
    files="[IMAGE|FOLDER|DATA.yaml ...]",
    count=(0, math.inf),
    file_keys=("source",),
    example="yolo-wnlb preview day/ n=5 presets=mild,severe ev=-3",
    about="Without a source it draws scenes.",
    options=[
        Option("out", path("FILE"), "a .png or .jpg (default: preview.png, or the next of preview-2.png, ...)"),
        Option("n", whole(1), "pictures of each folder or data set", 5),
        Option("presets", listed(text("NAME", *PRESETS)), f"one column each (default: all): {DARKNESS}"),
        Option("preset", listed(text("NAME", *PRESETS)), "the same as presets="),
        Option("seed", whole(0), "another one draws other noise", 0),
        EXIST_OK,
        *CAMERA,
    ],
)
def run_preview(files: list[str], options: dict[str, Any]) -> int:
    """Write a picture of sources and their dark versions, and say where it is."""
    from yolo_wnlb.visualize.preview import preview

    if presets := [*options.pop("presets", []), *options.pop("preset", [])]:
        options["presets"] = presets
    print(f"wrote {preview(files, **options).resolve()}")
    return 0


@command(
    "enhance",
    "Write the enhanced twin of a data set, for two-stage baselines.",
    files="SOURCE",
    count=(1, 1),
    file_keys=("source", "data"),
    example="yolo-wnlb enhance dark/data.yaml out=bright with=clahe",
    about="Enhancers: gamma:2.2, clahe, histeq, msr, dir:FOLDER of pictures enhanced before, onnx:FILE, "
    "torch:MODULE:FACTORY, torchscript:FILE, denoise:FILE of a training with denoise= or of a U-Net. Networks have "
    "options: with=onnx:FILE,pad=12,range=0-1,output=NAME. "
    "docs/enhancers.md has recipes for published ones. The command goes on where it was stopped.",
    resumes=True,
    options=[
        Option("out", path("FOLDER"), "folder to make", required=True),
        Option("with", text("ENHANCER", "clahe", "histeq", "msr", "gamma:2.2"), "what enhances", required=True),
        Option("split", listed(text("NAME", *SPLITS)), "splits to enhance (default: all)"),
        Option("clean", path("DATA.yaml|FOLDER"), "the same pictures without noise: print the PSNR before and after"),
        replace(CURVE, default=None, help=f"{CURVE.help} (default: auto; of denoise:FILE as it was trained)"),
        IMAGES_OF_COCO,
    ],
)
def run_enhance(files: list[str], options: dict[str, Any]) -> int:
    """Write the enhanced twin of a data set."""
    from yolo_wnlb.twins.enhance import enhance_dataset

    return show(enhance_dataset(files[0], options.pop("with"), options.pop("out"), **options))


@command(
    "corrupt",
    "Write the corrupted twin of a data set, with its labels.",
    files="SOURCE",
    count=(1, 1),
    file_keys=("source", "data"),
    example="yolo-wnlb corrupt coco8-seg.yaml out=fog3 with=fog,level=3",
    about=f"Corruptions: {', '.join(CORRUPTIONS)}; level 1 is mild. with=fog,level=3,seed=1 draws anew. The same as "
    "enhance with=corrupt:fog,level=3; docs/robustness.md says what each does. The command goes on where it was "
    "stopped.",
    resumes=True,
    options=[
        Option("out", path("FOLDER"), "folder to make", required=True),
        Option(
            "with", text("NAME,level=N", *(f"{name},level=3" for name in CORRUPTIONS)), "what corrupts", required=True
        ),
        Option("split", listed(text("NAME", *SPLITS)), "splits to corrupt (default: all)"),
        replace(CURVE, default=None, help=f"{CURVE.help} (default: auto)"),
        IMAGES_OF_COCO,
    ],
)
def run_corrupt(files: list[str], options: dict[str, Any]) -> int:
    """Write the corrupted twin of a data set."""
    from yolo_wnlb.twins.enhance import enhance_dataset

    return show(enhance_dataset(files[0], f"corrupt:{options.pop('with')}", options.pop("out"), **options))


@command(
    "sort",
    "Write class folders for a classifier: objects cut out, pictures of one class, or pictures parted by groups.",
    files="DATA.yaml|FOLDER",
    count=(1, 1),
    file_keys=("source",),
    example="yolo-wnlb sort coco8.yaml out=objects by=objects",
    about="by=objects cuts every object out into SPLIT/CLASS/. by=scenes copies pictures with one or two objects of "
    "one class, whose boxes cover half of them at most, and writes boxes.json. by=groups copies "
    "FOLDER/CLASS/GROUP/*.jpg: the groups that test= names into test/, all others into train/. docs/classifiers.md "
    "shows it.",
    options=[
        Option("out", path("FOLDER"), "folder to make", required=True),
        Option("by", one_of("objects", "scenes", "groups"), "what is sorted", "objects"),
        Option("margin", number(0, 1), "width left around an object, as a share of its box", 0.1),
        Option("test", listed(text("GROUP")), "groups to test on"),
        Option("least", whole(2), "by=scenes leaves out classes with fewer pictures (default: 100)"),
        Option("seed", whole(0), "by=scenes draws a quarter of each class to test on (default: 0)"),
    ],
)
def run_sort(files: list[str], options: dict[str, Any]) -> int:
    """Write class folders, and print how many pictures each got."""
    from yolo_wnlb.data.sorting import sort

    return show(sort(files[0], options.pop("out"), **options))


@command(
    "calibrate",
    "Fit the noise of the camera to pictures of your own one, and write its file for lowlight=.",
    files="[IMAGE|FOLDER|VIDEO ...]",
    count=(0, math.inf),
    file_keys=("source",),
    example="yolo-wnlb calibrate night/ still=pairs/ capped=capped/ day=day/ out=mycam.yaml",
    about="Sources are ordinary night pictures; pairs of a still scene and frames with the lens capped say more. The "
    "file stands wherever a preset does. docs/calibrate.md says how to take the pictures.",
    options=[
        Option("out", path("FILE"), "the .yaml to write; a .png of the same name beside it", "mycam.yaml"),
        Option("capped", path("FOLDER|VIDEO"), "frames with the lens capped: read noise, banding, hot pixels"),
        Option("still", path("FOLDER|VIDEO"), "pairs or bursts of still scenes, a folder for each burst: shot noise"),
        Option("day", path("FOLDER|VIDEO"), "day pictures of the same camera: how many stops darker its nights are"),
        Option(
            "crf",
            Kind("RESPONSE", "a response or n,u", response, ("srgb", "gamma:2.2", "identity")),
            "response of the camera: srgb, gamma:2.2, identity or n,u",
            "srgb",
        ),
        EXIST_OK,
    ],
)
def run_calibrate(files: list[str], options: dict[str, Any]) -> int:
    """Fit the camera, write its file and its picture, and print what was found."""
    from yolo_wnlb.calibrate.calibrate import calibrate

    return show(calibrate(files, options.pop("out", "mycam.yaml"), **options))


@command(
    "curve",
    "Measure one tone curve for all pictures of a camera with more than 8 bits.",
    files="DATA.yaml|FOLDER [...]",
    count=(1, math.inf),
    file_keys=("source", "data"),
    example="yolo-wnlb curve night.yaml out=mycurve.yaml response=srgb",
    about="It writes the codes that become black and white, the same for all pictures, as the file that stands behind "
    "curve= of yolo train, val and predict, darken and enhance. Without it, curve=auto, they are measured in each "
    "picture. docs/sixteen-bits.md says which of the two to choose.",
    options=[
        Option("out", path("FILE"), "the .yaml to write", "curve.yaml"),
        Option("low", number(0, 100), "percentile of the codes that becomes black", 0.1),
        Option("high", number(0, 100), "percentile that becomes white", 99.5),
        Option(
            "response",
            Kind("RESPONSE", "a response or n,u", response, ("srgb", "gamma:2.2", "identity")),
            "from light to codes: srgb, gamma:2.2, identity or n,u (default: srgb for RAW files, identity for others)",
        ),
        Option("n", whole(1), "pictures to look at, evenly spaced", 200),
        EXIST_OK,
    ],
)
def run_curve(files: list[str], options: dict[str, Any]) -> int:
    """Measure a curve, write its file, and print what it does to the codes."""
    from yolo_wnlb.data.exposure import measure_curve

    return show(measure_curve(files, options.pop("out", "curve.yaml"), **options))
