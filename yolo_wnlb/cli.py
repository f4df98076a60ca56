"""The commands of `yolo-wnlb`: each is a table of its options and a function that runs it.

A command is added with the decorator `command`; its help, its checks and its completion follow from the table. The
function is given the files, and the options that the user wrote; it prints its result and returns the exit status.
Exit statuses: 0, or 1 for a check that failed; 2 for the user's mistake, answered with one line; 70 for a bug, shown
with its traceback (`terminal.mistakes` tells the two apart); 130 after Ctrl-C; 141 if nobody reads the output any more.
"""

from __future__ import annotations

import math
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from yolo_wnlb.terminal import completion, mistakes, streams
from yolo_wnlb.terminal.arguments import (
    Command,
    Kind,
    Option,
    explain,
    flag,
    listed,
    number,
    one_of,
    one_or_each,
    optional,
    overview,
    parse,
    path,
    point,
    span,
    text,
    truth,
    whole,
)
from yolo_wnlb.version import __version__
from yolo_wnlb.words import suggestion

ISSUES = "https://github.com/yolo-wnlb/yolo-wnlb/issues"
OF_YOLO = ("train", "val", "predict", "track", "export", "benchmark")  # commands that stay with Ultralytics
Run = Callable[[list[str], dict[str, Any]], int]

COMMANDS: dict[str, Command] = {}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    streams.make_usable()
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = COMMANDS.get(words[0]) if words else None
    name = f"yolo-wnlb {command.name}" if command else "yolo-wnlb"
    try:
        with streams.without_library_warnings():
            status = run(words)
        streams.finish(sys.stdout)
        return status
    except KeyboardInterrupt:
        resumes = "; nothing is lost, the same command goes on from here" if command and command.resumes else ""
        streams.say(f"{name}: stopped{resumes}", fresh_line=True)
        return mistakes.STOPPED
    except BrokenPipeError:  # `| head -1` has read enough
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                streams.finish(stream)
        return mistakes.PIPE_CLOSED
    except Exception as error:
        if mistakes.is_mistake(error):
            streams.say(f"{name}: {mistakes.message(error, shlex.join(['yolo-wnlb', *words]))}")
            return mistakes.MISTAKE
        streams.say(traceback.format_exc().rstrip())
        streams.say(f"{name}: this is a bug in yolo_wnlb; report the lines above, and what doctor prints, at {ISSUES}")
        return mistakes.BUG


def run(words: list[str]) -> int:
    """Find the command and run it, or print the help that was asked for."""
    if not words or words[0] == "--version":
        print(f"yolo-wnlb {__version__}" if words else overview(COMMANDS))
        return 0
    plain = words[: words.index("--")] if "--" in words else words
    asks = {"-h", "--help"} & {*plain} or words[0] == "help"
    names = [word for word in plain if word not in ("-h", "--help", "help")]
    if asks and not names:
        print(overview(COMMANDS))
        return 0
    name = names[0] if asks else words[0]
    if name not in COMMANDS:
        elsewhere = f"; that is a command of yolo: yolo {name}" if name in OF_YOLO else ""
        raise ValueError(
            f"no command {name!r}{elsewhere or suggestion(name, COMMANDS)}; choose from {', '.join(COMMANDS)}; "
            "yolo-wnlb --help explains them"
        )
    if asks:
        print(explain(COMMANDS[name]))
        return 0
    return COMMANDS[name].run(*parse(words[1:], COMMANDS[name]))


def command(
    name: str,
    summary: str,
    *,
    example: str,
    files: str = "",
    count: tuple[int, float] = (0, 0),
    file_keys: tuple[str, ...] = (),
    options: Sequence[Option] = (),
    about: str = "",
    resumes: bool = False,
) -> Callable[[Run], Run]:
    """Register the decorated function as a command; the arguments are the attributes of `Command`."""

    def register(run: Run) -> Run:
        table = {option.name: option for option in options}
        COMMANDS[name] = Command(name, run, summary, example, files, count, file_keys, table, about, resumes)
        return run

    return register


def show(result: Any) -> int:
    """Print the result of a command; return 1 if it is a check that failed, else 0."""
    print(result)
    return 0 if getattr(result, "ok", True) else 1


def take(options: dict[str, Any], known: dict[str, Any]) -> list[Any]:
    """Return the values of the known options (or their defaults), refusing any other."""
    if unknown := [key for key in options if key not in known]:
        raise ValueError(f"no option {', '.join(unknown)}; choose from {', '.join(known) or 'none'}")
    return [options.get(key, default) for key, default in known.items()]


# ---- options that several commands have --------------------------------------------------------------

EXIST_OK = Option("exist_ok", flag(), "write over what is there", False)
IMAGES_OF_COCO = Option("images", path("FOLDER"), "pictures of COCO files, where they are not beside them")
DEVICE = Option(
    "device", text("DEVICE", "cpu", "0"), "as Ultralytics takes it: cpu, 0 (default: a GPU if there is one)"
)
PRESETS = ("mild", "moderate", "severe", "extreme", "agllnet", "lv", "n10", "n20")
SPLITS = ("train", "val", "test", "unlabelled")  # of a data YAML
ADDED_NOISE = "n10 and n20: as bright as it is, with white noise of sd 10 and 20, clipped at 0 and 255"
CORRUPTIONS = (  # without boxblur, which needs to know the objects
    *("noise", "blur", "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur"),
    *("zoom_blur", "snow", "fog", "brightness", "contrast", "elastic", "pixelate", "jpeg"),
)
FAMILIES = ("lowlight", "noise", "blur", "boxblur", "common", "fgsm", "pgd", "pgd-l2")


def response(value: str) -> Any:
    """Read crf=: a name with its argument as it stands, or the pair n,u."""
    return value if value[:1].isalpha() else span(number()).read(value)


CAMERA = [
    Option(name, kind, help, group="Settings of the camera (default: those of the preset)")
    for name, kind, help in (
        ("alpha", span(number(0, 1)), "of the low-light curve beta (alpha x)^gamma"),
        ("beta", span(number(0, 1)), "of the low-light curve"),
        ("gamma", span(number()), "of the low-light curve: 2, or drawn from 2,3"),
        ("ev", optional(span(number())), "exposure in stops, 0 or less, instead of the curve: -3"),
        ("sigma_s", span(number()), "shot noise: a white pixel collects 1/sigma_s^2 photons"),
        ("sigma_c", span(number()), "read noise, as a share of a white pixel's light"),
        (
            "crf",
            Kind("RESPONSE", "a response or n,u", response, ("mixture", "digital", "srgb", "gamma:2.2", "identity")),
            "camera response: mixture, digital, srgb, gamma:2.2, identity, n,u or dorf:FILE",
        ),
        (
            "bayer",
            one_of("random", "RGGB", "BGGR", "GRBG", "GBRG", "mono", "none"),
            "colour mosaic; mono has no colours",
        ),
        ("shot_model", one_of("gaussian", "poisson"), "distribution of the shot noise"),
        ("order", one_of("sensor", "paper"), "demosaic before the response (sensor) or after it"),
        ("quantize", one_of("round", "truncate"), "how codes become whole numbers"),
        ("jpeg_quality", optional(span(whole())), "quality of a last JPEG step, 1 to 100, or none"),
        ("sigma_row", span(number()), "banding: noise of whole rows, as a share of white"),
        ("sigma_column", span(number()), "the same of whole columns"),
        ("sigma_fixed", span(number()), "fixed pattern: offsets of the pixels, the same in all pictures of a camera"),
        ("hot_pixels", span(number()), "share of pixels that are bright in all pictures of a camera"),
        ("camera_seed", whole(0), "names the camera: which pixels are hot"),
        ("bits", optional(span(whole())), "bits of the sensor's converter, 1 to 16, or none for no steps"),
        ("blur", span(number()), "standard deviation of a blur in pixels"),
        ("motion", span(number()), "length of a motion in pixels"),
        ("motion_angle", span(number(0, 180)), "its direction in degrees"),
        ("lamp", span(number()), "falloff of a lamp: tangent of the angle in the corners; 0 is an even light"),
    )
]


# ---- the commands -----------------------------------------------------------------------------------


def place(value: str) -> int | str:
    """Read a place in a model: a stage such as P4, or the number of a row."""
    return int(value) if value.isdecimal() else value


def scale(value: str) -> Any:
    """Read the scale of the logits: a number, none, or the word cosine."""
    return value if value == "cosine" else optional(number()).read(value)


SCALE = Kind("X", "a number, cosine, or none", scale, ("cosine", "none"))
PAIRWISE = ("embedded_gaussian", "gaussian", "non_local_means", "dot_product", "concatenation")
ADAPTERS = ("pointwise", "depthwise")
SCENE_WORDS = {"scene": "arch", "scene_weights": "weights", "size": "size", "l2": "l2"}  # option, and word in the YAML


@command(
    "graft",
    "Insert wNLB rows into a stock model YAML, and put a scene beside its layers.",
    files="MODEL.yaml",
    count=(1, 1),
    file_keys=("model",),
    example="yolo-wnlb graft yolo11-seg.yaml after=P4,P5 operation=dot_product out=yolo11-seg-mine.yaml",
    about="Options of the block have one value for all places, or one for each: sub_sample=8,4,2,1. With scene= and "
    "without after= no block is inserted.",
    options=[
        Option(
            "after",
            listed(Kind("P4", "stages P1 to P6 or numbers of rows", place, ("P2", "P3", "P4", "P5"))),
            "stages of the backbone, or rows, to insert a block after",
            ("P3", "P4", "P5"),
        ),
        Option("out", path("FILE"), "YAML to write (default: the name of the model and -wnlb or -scene, here)"),
        EXIST_OK,
        *(
            Option(name, kind, help, default, group="A scene, whose class logits are added to those of the head")
            for name, kind, help, default in (
                (
                    "scene",
                    one_of("resnet10", "resnet18", "resnet50", "backbone"),
                    "what looks at the whole picture: a frozen ResNet, or the backbone of the model, which needs no "
                    "weights",
                    None,
                ),
                ("scene_weights", path("FILE"), "weights of the ResNet, such as resnet18_places365.pth.tar", None),
                ("size", whole(1), "pixels of the square to which the ResNet's picture is scaled", 224),
                ("l2", number(0), "penalty on the class weights of the head, so that it relies on the scene more", 0),
            )
        ),
        *(
            Option(name, one_or_each(kind), help, default, group="Options of the block")
            for name, kind, help, default in (
                ("embed_dim", whole(1), "channels of theta, phi and g (default: half of the input's)", None),
                (
                    "operation",
                    text("NAME", *PAIRWISE, *ADAPTERS),
                    f"pairwise function: {', '.join(PAIRWISE)}; or an adapter that compares no positions, as a "
                    f"control: {', '.join(ADAPTERS)}",
                    "embedded_gaussian",
                ),
                ("sub_sample", whole(), "side of the max-pooling of the keys", 1),
                ("weighted", truth(), "False: the plain non-local block, without w", True),
                (
                    "scale",
                    SCALE,
                    "factor of the logits; none is 1/sqrt(d); cosine: unit vectors and a learnable temperature",
                    1.0,
                ),
                ("w_init", number(), "start of w; anything but 0 gives up the identity start", 0.0),
                ("w_learnable", truth(), "False fixes w at w_init", True),
                ("w_lr", number(), "learning rate of w as a multiple of the others'", 1.0),
                (
                    "init",
                    text("NAME", "identity", "released"),
                    "start: identity, or that of the authors' file",
                    "identity",
                ),
                ("w_per_channel", truth(), "True: each channel has a w of its own", False),
            )
        ),
    ],
)
def run_graft(files: list[str], options: dict[str, Any]) -> int:
    """Write the grafted YAML next to where the user stands."""
    from yolo_wnlb.paths import find
    from yolo_wnlb.yolo.context import add_scene, cost
    from yolo_wnlb.yolo.grafting import graft, load_yaml, to_yaml

    typed = dict(options)
    scene = {word: options.pop(name) for name, word in SCENE_WORDS.items() if name in options}
    if scene and "arch" not in scene:
        name = next(name for name, word in SCENE_WORDS.items() if word in scene)
        raise ValueError(f"{name}= is for a scene, and none was asked for; give scene=resnet18 or scene=backbone too")
    blocks = not scene or "after" in options
    if not blocks and (idle := [key for key in options if key not in ("out", "exist_ok")]):
        raise ValueError(f"{idle[0]}= is for blocks; with scene= say where they go too, such as after=P3,P4,P5")
    stem = re.sub(r"(\d+)[nslmx](?=-|$)", r"\1", Path(files[0]).stem)  # a YAML holds all scales
    after = options.pop("after", ["P3", "P4", "P5"])
    out = Path(options.pop("out", f"{stem}{'-wnlb' * blocks}{'-scene' * bool(scene)}.yaml"))
    if out.suffix not in (".yaml", ".yml"):
        raise ValueError(f"out={out}: wanted a name that ends in .yaml, by which Ultralytics knows a model definition")
    if not options.pop("exist_ok", False) and out.exists():
        raise ValueError(f"{out} exists; choose another out=, or overwrite it with exist_ok=True")
    if not out.parent.is_dir():
        raise ValueError(f"there is no folder {out.parent} to write {out.name} into; make it, or choose another out=")

    for key, value in options.items():
        if isinstance(value, list) and len(value) != len(after):
            raise ValueError(f"{key} has {len(value)} values for {len(after)} places; give one, or one for each")
    each = [{k: v[i] if isinstance(v, list) else v for k, v in options.items()} for i in range(len(after))]
    model = load_yaml(files[0])
    if blocks:
        model, _ = graft(model, after, each)
    if scene:
        model = add_scene(model, scene)
    asked = {name: typed[name] for name in SCENE_WORDS if name in typed}
    shown = {**({"after": after} if blocks else {}), **options, **asked, "out": out.name}
    words = [f"{k}={','.join(map(str, v)) if isinstance(v, list) else v}" for k, v in shown.items()]
    parts = " and ".join(part for part, is_there in (("wNLB blocks", blocks), ("a scene", scene)) if is_there)
    title = f"{stem} with {parts}. AGPL-3.0. Written by\nyolo-wnlb graft {stem}.yaml {' '.join(words)}"
    price = cost(model) if scene else None
    out.write_text(to_yaml(model, title), encoding="utf-8")
    print(f"wrote {out}: {len(after)} blocks after {', '.join(map(str, after))}" if blocks else f"wrote {out}")
    if price:
        print(price)
    if find(out.name):
        print(
            f"note: where this file lies it hides the model {out.name} that ships with yolo_wnlb; out= takes any name"
        )
    return 0


@command(
    "export-check",
    "Compare an exported model with its checkpoint; exit status 1 past the tolerance.",
    files="BEST.pt BEST.onnx",
    count=(2, 2),
    example="yolo-wnlb export-check best.pt best.onnx images=night/",
    about="Any format that `yolo export` writes will do.",
    options=[
        Option("images", path("FOLDER"), "pictures to compare on (default: three that are drawn)"),
        Option(
            "sizes", listed(whole(1)), "input sizes in pixels, for dynamic exports (default: the export's and three)"
        ),
        Option("tolerance", number(0), "largest difference of raw outputs (default: by precision, 1e-3 for float32)"),
    ],
)
def run_export_check(files: list[str], options: dict[str, Any]) -> int:
    """Print how far an exported model is from its checkpoint."""
    from yolo_wnlb.yolo.parity import check_export

    return show(check_export(files[0], files[1], **options))


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
        Option("preset", text("NAME", *PRESETS), f"how dark: {', '.join(PRESETS[:6])}; {ADDED_NOISE}", "agllnet"),
        Option("seed", whole(0), "each picture's darkness follows from it and from its path", 0),
        Option("format", text("png|jpg", "png", "jpg"), "png is exact, jpg has quality 95", "png"),
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
    example="yolo-wnlb preview night/ n=5 presets=mild,severe ev=-3",
    about="Without a source it draws scenes.",
    options=[
        Option("out", path("FILE"), "a .png or .jpg", "preview.png"),
        Option("n", whole(1), "pictures of each folder or data set", 5),
        Option("presets", listed(text("NAME", *PRESETS)), "one column each (default: all)"),
        Option("preset", listed(text("NAME", *PRESETS)), "the same as presets="),
        Option("seed", whole(0), "another one draws other noise", 0),
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
    "Write the enhanced twin of a data set, or of a folder of pictures, for two-stage baselines.",
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
        IMAGES_OF_COCO,
    ],
)
def run_enhance(files: list[str], options: dict[str, Any]) -> int:
    """Write the enhanced twin of a data set."""
    from yolo_wnlb.twins.enhance import enhance_dataset

    return show(enhance_dataset(files[0], options.pop("with"), options.pop("out"), **options))


@command(
    "corrupt",
    "Write the corrupted twin of a data set, or of a folder of pictures, with its labels.",
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
        IMAGES_OF_COCO,
    ],
)
def run_corrupt(files: list[str], options: dict[str, Any]) -> int:
    """Write the corrupted twin of a data set."""
    from yolo_wnlb.twins.enhance import enhance_dataset

    return show(enhance_dataset(files[0], f"corrupt:{options.pop('with')}", options.pop("out"), **options))


@command(
    "evaluate",
    "Print the score of a model, or of predictions made before: COCO's numbers, AP@0.5 and SEG, or accuracy.",
    files="MODEL|PREDICTIONS.jsonl",
    count=(1, 1),
    file_keys=("model",),
    example="yolo-wnlb evaluate best.pt data=dark/data.yaml",
    about="Detectors get COCO's numbers for masks and boxes, or with measure=instances AP@0.5 = TP/(TP+FP+FN) and SEG; "
    "a U-Net gets the latter, a classifier its accuracy. Writes evaluation.json, per_class.csv, plot.png and "
    "predictions.jsonl; for instances per_picture.csv in place of table and plot; for a classifier the first two.",
    options=[
        Option(
            "data",
            path("DATA.yaml|TRUTH.json"),
            "the truth: a data YAML or COCO annotations; of a classifier class folders or containers:S1",
            required=True,
        ),
        Option("split", text("NAME", "train", "val", "test"), "of a data YAML", "val"),
        Option("out", path("FOLDER"), "folder to make (default: runs/evaluate, or the next free number)"),
        Option("imgsz", whole(1), "image size of the model (default: as trained)"),
        Option("conf", number(0, 1), "lowest score of a detection (default: 0.001; Mask R-CNN and SOLOv2: 0.05)"),
        Option("iou", number(0, 1), "of non-maximum suppression of YOLO models (default: 0.7)"),
        Option("max_detections", whole(1), "the best so many of each image (default: 100; of measure=instances 500)"),
        Option("measure", one_of("coco", "instances"), "which score (default: coco; of a U-Net instances)"),
        Option(
            "threshold", number(0, 1), "measure=instances: least score of a mask; of a U-Net least probability (0.5)"
        ),
        Option(
            "tune", text("NAME", "val", "test"), "measure=instances: the split that thresholds are chosen on instead"
        ),
        Option("allow_missing", flag(), "accept a model that lacks classes of the truth", False),
        Option("night", flag(), "False: a YOLO checkpoint without its blocks (default: as it is switched)"),
        DEVICE,
        EXIST_OK,
        IMAGES_OF_COCO,
    ],
)
def run_evaluate(files: list[str], options: dict[str, Any]) -> int:
    """Print what a model, or a predictions file, is worth, and write all of it to a folder."""
    from yolo_wnlb.data.journal import folder_for

    if len(files) != 1 or "data" not in options:
        raise ValueError(
            f"wants a model or a predictions file, and data=, found {files}: evaluate best.pt data=my.yaml"
        )
    file, made = files[0], Path(files[0]).suffix.lower() in (".json", ".jsonl")  # predictions, and no model
    known = {"data": None, "split": "val", "out": None, "exist_ok": False}
    of_scores = ("max_detections", "measure", "threshold", "tune")
    of_models = () if made else ("images", "imgsz", "conf", "iou", "device", "allow_missing", "night")
    take(options, {**known, **dict.fromkeys((*of_scores, *of_models))})
    data, split, out, exist_ok = take({key: options.pop(key) for key in known if key in options}, known)
    if out and Path(out).is_file():
        raise ValueError(f"{out} is a file; choose another out=")
    with folder_for(out, "runs/evaluate") as folder:
        if (folder / "evaluation.json").exists() and not exist_ok:
            raise ValueError(f"{folder} holds an evaluation; choose another out=, or overwrite it with exist_ok=True")
        if not made and is_for_classifiers(file, data):
            evaluate_classifier(folder, file, data, split, options)
        elif measures_instances(file, made, data, split, options):
            evaluate_instances(folder, file, data, split, options)
        else:
            evaluate_into(folder, file, data, split, options)
    return 0


def is_for_classifiers(file: str, data: str) -> bool:
    """Tell whether a file is a classifier that yolo_wnlb trained, or the data are what only classifiers take."""
    from yolo_wnlb.classifiers import detector
    from yolo_wnlb.data.folders import is_drawn

    return is_drawn(data) or Path(data).is_dir() or detector.reads(file)


def evaluate_classifier(folder: Path, file: str, data: str, split: str, options: dict[str, Any]) -> None:
    """Measure the accuracy of a classifier."""
    from yolo_wnlb.classifiers import detector
    from yolo_wnlb.data.folders import read
    from yolo_wnlb.metrics.accuracy import places_of, score

    if idle := [key for key in options if key not in ("imgsz", "device")]:
        raise ValueError(f"{idle[0]}= is for detectors, and {file} is a classifier; remove it")
    model = detector.load(file, str(options.pop("device", "")))
    pictures, names = read(data, split), list(detector.names(model).values())
    places_of(pictures, names)  # before the work of predicting
    probabilities = detector.predict(model, pictures, **options, progress=True)
    result = score(pictures, probabilities, names, {"weights": file, **detector.describe(model, **options)})
    print(result)
    result.to_csv(folder / "per_class.csv")
    result.to_json(folder / "evaluation.json")
    print(f"written to {folder}")


def measures_instances(file: str, made: bool, data: str, split: str, options: dict[str, Any]) -> bool:
    """Tell whether instances are to be scored, and take `measure` out of the options.

    Raises: ValueError: an option does not go together with the others, the file or the data.
    """
    from yolo_wnlb.denoiseg import detector as unet

    of_unet, measure = not made and Path(file).is_file() and unet.reads(file), options.pop("measure", None)
    if of_unet and measure == "coco":
        raise ValueError(f"{file} is a U-Net, which measure=coco cannot score; leave measure out, or give instances")
    if not of_unet and measure != "instances":
        if unused := [key for key in ("threshold", "tune") if key in options]:
            raise ValueError(f"{unused[0]}= is for measure=instances; add that, or remove it")
        return False
    if "conf" in options:
        raise ValueError("conf= is for measure=coco; the least score of measure=instances is threshold=")
    of_detectors: Any = ("imgsz", "iou", "max_detections", "allow_missing", "night") if of_unet or made else ()
    if idle := [key for key in of_detectors if key in options]:
        what = "a U-Net" if of_unet else "a file of predictions"
        raise ValueError(f"{idle[0]}= is for detectors, and {file} is {what}; remove it")
    if "tune" in options:
        if "threshold" in options:
            raise ValueError("threshold= gives what tune= would choose; keep one of them")
        if made:
            raise ValueError(f"tune= wants a model, and {file} has predictions of one split; give threshold=")
        if options["tune"] == split:
            raise ValueError(f"tune={split} is the split to be measured, and would look too good; give another one")
        if options["tune"] == "train":
            raise ValueError("tune=train is what models learn from, and its thresholds fit no other pictures; give val")
        if Path(data).suffix.lower() == ".json":
            raise ValueError(f"tune= wants a data YAML, and {data} names the pictures of one split; give threshold=")
    return True


def evaluate_instances(folder: Path, file: str, data: str, split: str, options: dict[str, Any]) -> None:
    """Score the instances that a model or a predictions file finds; `options` are those that the user gave."""
    from yolo_wnlb.data import coco
    from yolo_wnlb.denoiseg import detector as unet
    from yolo_wnlb.metrics.instances import by_score, check_masks, instances
    from yolo_wnlb.study.instances import MOST, chosen_on, floor_of, maps_of
    from yolo_wnlb.study.models import task_of

    made = Path(file).suffix.lower() in (".json", ".jsonl")
    images, tune, chosen = (options.pop(key, None) for key in ("images", "tune", "threshold"))
    chosen, notes, predictions = 0.5 if chosen is None else chosen, list[str](), None
    truth = coco.ground_truth(data, split)
    check_masks(truth, f"{data}, {split}")
    files = {} if made else coco.image_files(truth, data, split, images)
    tuning = coco.ground_truth(data, tune) if tune else {}
    to_tune = coco.image_files(tuning, data, tune, images) if tune else {}
    if made:
        header, predictions = coco.load_predictions(file, truth)
    elif unet.reads(file):
        model = unet.load(file, str(options.pop("device", "")))
        if tune:
            chosen = chosen_on(tune, tuning, maps_of(model, tuning, to_tune, progress=True))
        header, found = model.describe(), maps_of(model, truth, files, progress=True)
    else:
        detector, loaded, notes = loaded_detector(file, options)
        if task_of(loaded) == "detect":
            raise ValueError(
                f"{file} finds boxes only, and measure=instances scores masks; give a model for segmentation"
            )
        allow_missing, names = options.pop("allow_missing", False), detector.names(loaded)
        options = {"max_det": options.pop("max_detections", MOST), **options}

        def detect(of: Any, pictures: Any, conf: float) -> list[Any]:
            classes = coco.class_map(names, of, allow_missing)
            return detector.predict(loaded, pictures, classes, conf=conf, **options, progress=True)

        if tune:
            chosen = chosen_on(tune, tuning, by_score(tuning, detect(tuning, to_tune, floor_of(chosen))))
        header = detector.describe(loaded, conf=floor_of(chosen), **options)
        predictions = detect(truth, files, floor_of(chosen))
    if predictions is not None:
        found = by_score(truth, predictions)
    protocol = {"data": data, **({} if Path(data).suffix == ".json" else {"split": split}), **header, "weights": file}
    result = instances(truth, found, chosen, protocol=protocol | ({"tune": tune} if tune else {}))
    result.notes += notes
    print(result)
    clear(folder, file)
    if predictions is not None and not made:
        coco.save_predictions(folder / "predictions.jsonl", predictions, {**header, "weights": file}, truth)
    result.to_csv(folder / "per_picture.csv")
    result.to_json(folder / "evaluation.json")
    print(f"written to {folder}")


def clear(folder: Path, file: str) -> None:
    """Remove what another evaluation left in a folder (exist_ok=True), but for the file that is evaluated."""
    for name in ("evaluation.json", "predictions.jsonl", "per_class.csv", "per_picture.csv", "plot.png"):
        if (folder / name).resolve() != Path(file).resolve():
            (folder / name).unlink(missing_ok=True)


def loaded_detector(file: str, options: dict[str, Any]) -> tuple[Any, Any, list[str]]:
    """Load a detector, and take `device` and `night` out of the options; returns its module, the model and notes."""
    from yolo_wnlb.detectors import torchvision, ultralytics
    from yolo_wnlb.yolo.night import set_night

    detector: Any = torchvision if torchvision.reads(file) else ultralytics
    if (night := options.pop("night", None)) is not None and detector is torchvision:
        raise ValueError(f"night= switches the blocks of a YOLO checkpoint, and {file} is none; leave night out")
    model = detector.load(file, str(options.pop("device", "")))
    if night is None:
        return detector, model, []
    set_night(model.backend, night)
    return detector, model, [f"night={night}: {'with' if night else 'without'} the blocks of the model"]


def evaluate_into(folder: Path, file: str, data: str, split: str, options: dict[str, Any]) -> None:
    """Evaluate a model or a predictions file; `options` are those that the user gave."""
    from yolo_wnlb.data import coco
    from yolo_wnlb.metrics.average_precision import evaluate

    made = Path(file).suffix.lower() in (".json", ".jsonl")  # predictions, and no model
    images, most = options.pop("images", None), options.pop("max_detections", 100)
    truth, notes = coco.ground_truth(data, split), list[str]()
    if made:
        header, predictions = coco.load_predictions(file, truth)
    else:
        detector, model, notes = loaded_detector(file, options)
        names = detector.names(model)
        classes = coco.class_map(names, truth, options.pop("allow_missing", False))
        if missing := [name for index, name in names.items() if index not in classes]:
            notes.append(f"not evaluated, for the truth lacks them: {len(missing)} classes ({coco.first(missing)})")
        options["max_det"] = most
        paths = coco.image_files(truth, data, split, images)
        header = {**detector.describe(model, **options), "weights": file}
        predictions = detector.predict(model, paths, classes, **options, progress=True)
    left_out = coco.not_evaluated(truth, predictions)
    if len(left_out) == 2:
        raise ValueError("; ".join(left_out.values()))
    result = evaluate(
        truth,
        predictions,
        max_detections=most,
        iou_types=[kind for kind in ("segm", "bbox") if kind not in left_out],
        protocol={"data": data, **({} if Path(data).suffix == ".json" else {"split": split}), **header},
    )
    result.notes += [*notes, *left_out.values()]
    if predictions and sum(result.objects.values()) and not any(m.hit.any() for m in result.matches.values()):
        result.notes.append(
            "no prediction hits an object: the detector has learnt nothing, or it saw other pictures or other classes"
        )
    print(result)
    clear(folder, file)
    if not made:
        coco.save_predictions(folder / "predictions.jsonl", predictions, header, truth)
    result.to_csv(folder / "per_class.csv")
    result.plot(folder / "plot.png")
    result.to_json(folder / "evaluation.json")
    print(f"written to {folder}")


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
    "inspect",
    "Show what a model with blocks, or a fused network, has learnt, as a table and pictures.",
    files="BEST.pt [IMAGE ...]",
    count=(1, math.inf),
    file_keys=("model",),
    example="yolo-wnlb inspect best.pt images=dark/data.yaml n=4",
    about="Shows w of each block, the features before and after it, what one position attends to, and the predictions "
    "beside the labels and those of another model. Of fused networks, one or several: the weights of both halves, and "
    "the features of the first, clean and blurred.",
    options=[
        Option(
            "images",
            path("FOLDER|DATA.yaml"),
            "pictures (default: those that the model was trained on); of fused networks class folders or contexts:all",
        ),
        Option("out", path("FOLDER"), "folder to make (default: inspect, or the next free number)"),
        Option("n", whole(1), "images of each folder or data set; of fused networks 400 unless given", 4),
        Option("imgsz", whole(1), "image size (default: as trained)"),
        Option("at", point(), "pixel whose attention is drawn (default: the centre of the best detection)"),
        Option("with", path("OTHER.pt"), "a second model, whose predictions stand beside"),
        Option("conf", number(0, 1), "lowest score of a detection that is drawn", 0.25),
        Option(
            "lowlight",
            text("PRESET", *PRESETS),
            "the pictures are bright: darken them, and compare the features with those of the bright ones",
        ),
        EXIST_OK,
    ],
)
def run_inspect(files: list[str], options: dict[str, Any]) -> int:
    """Print what the blocks of a model have learnt, and write pictures of it."""
    from yolo_wnlb.classifiers.detector import reads
    from yolo_wnlb.visualize.inspection import inspect_model

    weights, *sources = files
    if Path(weights).is_file() and reads(weights):
        return inspect_classifiers(files, options)
    images = options.pop("images", None)
    if images is not None:
        sources += [images] if Path(images).exists() else images.split(",")
    print(inspect_model(weights, sources or None, other=options.pop("with", None), **options))
    return 0


def inspect_classifiers(files: list[str], options: dict[str, Any]) -> int:
    """Print what fused networks rest on, and write pictures of it."""
    from yolo_wnlb.visualize.fused import inspect_fused

    if idle := [key for key in options if key not in ("images", "out", "n", "imgsz", "exist_ok")]:
        raise ValueError(f"{idle[0]}= is for detectors, and {files[0]} is a classifier; remove it")
    if "images" not in options:
        raise ValueError("a fused network wants the pictures to look at: images=FOLDER, or images=contexts:all")
    return show(inspect_fused(files, options.pop("images"), **options))


@command(
    "adapt",
    "Turn a detector and bright pictures without labels into a detector for the dark.",
    files="MODEL.pt",
    count=(1, 1),
    file_keys=("model",),
    example="yolo-wnlb adapt yolov8n-seg.pt images=day/ lowlight=severe out=runs/adapt/night",
    about="The model as it is sees each picture bright, the trained one sees it darkened and learns to have the same "
    "features. Writes adapted.pt, before_after.jpg and adapt.json. docs/adapt.md goes through it step by step. The "
    "command goes on where it was stopped.",
    resumes=True,
    options=[
        Option("images", path("FOLDER|DATA.yaml|VIDEO"), "bright pictures; their labels are not read", required=True),
        Option("lowlight", text("PRESET", *PRESETS), f"how dark it gets: {', '.join(PRESETS)}", required=True),
        Option("out", path("FOLDER"), "folder to make (default: runs/adapt/ and the model's name)"),
        Option("train", text("blocks|all", "blocks", "all"), "the blocks alone, or everything but the head", "blocks"),
        Option(
            "after",
            listed(Kind("P4", "stages P1 to P6 or numbers of rows", place, ("P2", "P3", "P4", "P5"))),
            "where to insert blocks (default: P3,P4,P5 for train=blocks of a model without blocks, else nowhere)",
        ),
        Option("day", number(0), "share of training pictures that stay bright, below 1", 0.2),
        Option("epochs", whole(), "default: as many as make 900 steps, at least 3"),
        Option("imgsz", whole(), "side of the pictures in pixels, a multiple of the stride (default: as trained)"),
        Option("batch", whole(), "pictures of a step", 8),
        Option("lr", number(), "learning rate (default: 2e-3 for blocks, 2e-4 for all)"),
        Option("data", path("DATA.yaml"), "labelled pictures: the true AP is measured on their val split too"),
        Option("seed", whole(), "which pictures are held out, new blocks, the training", 0),
        Option("limit", whole(), "use so many pictures, evenly spaced"),
        Option("frames", whole(), "frames to take from a video, evenly spaced", 300),
        Option("workers", whole(), "processes that load pictures (default: as Ultralytics has it)"),
        DEVICE,
        Option("dry_run", flag(), "write nothing; say what would be done, and how long it takes", False),
        *(
            Option(name, kind, help, default, group="Options of inserted blocks")
            for name, kind, help, default in (
                ("operation", text("NAME", *PAIRWISE, *ADAPTERS), "as for graft", "embedded_gaussian"),
                ("sub_sample", whole(), "side of the max-pooling of the keys", 1),
                ("embed_dim", whole(1), "channels of theta, phi and g (default: half of the input's)", None),
                ("scale", SCALE, "factor of the logits; none is 1/sqrt(d)", "none"),
                ("w_per_channel", truth(), "True: one w for each channel instead of one for all", False),
                ("w_lr", number(), "learning rate of w as a multiple of the others'", 20),
            )
        ),
    ],
)
def run_adapt(files: list[str], options: dict[str, Any]) -> int:
    """Adapt a model, and print what came of it."""
    from yolo_wnlb.adapt.adapt import adapt

    return show(adapt(files[0], options.pop("images"), options.pop("out", None), **options))


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


@command(
    "doctor",
    "Report versions, devices, whether activation works, and what to do about each problem.",
    example="yolo-wnlb doctor",
    about="Exit status 1 if there is one.",
)
def run_doctor(files: list[str], options: dict[str, Any]) -> int:
    """Print the state of the installation; 1 if something needs mending."""
    from yolo_wnlb.doctor import examine

    findings = examine()
    print("\n".join(map(str, findings)))
    return int(any(finding.problem for finding in findings))


@command(
    "completion",
    "Print the script that completes commands and options in a shell.",
    files="bash|zsh|fish",
    count=(0, 1),
    example='eval "$(yolo-wnlb completion bash)"',
    about='Put the example into ~/.bashrc, or: eval "$(yolo-wnlb completion zsh)" into ~/.zshrc, '
    "yolo-wnlb completion fish | source into ~/.config/fish/config.fish.",
    options=[Option("line", text("TEXT"), "print what the last word of a line may become; the scripts ask for it")],
)
def run_completion(files: list[str], options: dict[str, Any]) -> int:
    """Print the script of a shell, or the candidates that such a script asks for."""
    if "line" in options:
        for word, meaning in completion.candidates(options["line"], COMMANDS):
            print(f"{word}\t{meaning}".rstrip())
        return 0
    if not files or files[0] not in completion.SCRIPTS:
        raise ValueError(f"wants a shell, found {files}; choose from {', '.join(completion.SCRIPTS)}")
    print(completion.SCRIPTS[files[0]].strip())
    return 0
