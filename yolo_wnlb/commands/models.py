"""The commands that make and look into models: graft, adapt, inspect, export-check."""

from __future__ import annotations

import math
import re
import shlex
from pathlib import Path
from typing import Any

from yolo_wnlb.commands.options import ADAPTERS, DARKNESS, DEVICE, EXIST_OK, PAIRWISE, PRESETS, SCALE, place
from yolo_wnlb.commands.register import command, show
from yolo_wnlb.terminal.arguments import (
    Kind,
    Option,
    flag,
    listed,
    number,
    one_of,
    one_or_each,
    path,
    point,
    text,
    truth,
    whole,
)

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
    written_by = shlex.join(["yolo-wnlb", "graft", f"{stem}.yaml", *words])
    parts = " and ".join(part for part, is_there in (("wNLB blocks", blocks), ("a scene", scene)) if is_there)
    title = f"{stem} with {parts}. AGPL-3.0. Written by\n{written_by}"
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
    "adapt",
    "Turn a detector and bright pictures into a detector for the dark.",
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
        Option("lowlight", text("PRESET", *PRESETS), f"how dark it gets: {DARKNESS}", required=True),
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
            f"the pictures are bright: darken them, and compare the features with those of the bright ones: {DARKNESS}",
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
    "export-check",
    "Compare an exported model with its checkpoint; exit status 1 past the tolerance.",
    files="BEST.pt BEST.onnx",
    count=(2, 2),
    example="yolo-wnlb export-check best.pt best.onnx images=night/",
    about="Any format that `yolo export` writes will do. Outputs are compared number by number. int8 exports cannot "
    "have equal numbers: with data=dark/data.yaml the AP of both is compared on labelled pictures instead. "
    "docs/edge.md says how to make them.",
    options=[
        Option(
            "images",
            path("FOLDER"),
            "pictures to compare on (default: three that are drawn); with data= those of COCO annotations",
        ),
        Option(
            "sizes", listed(whole(1)), "input sizes in pixels, for dynamic exports (default: the export's and three)"
        ),
        Option("tolerance", number(0), "largest difference of raw outputs (default: by precision, 1e-3 for float32)"),
        *(
            Option(name, kind, help, default, group="By AP")
            for name, kind, help, default in (
                ("data", path("DATA.yaml|TRUTH.json"), "the truth: a data YAML or COCO annotations", None),
                ("split", text("NAME", "train", "val", "test"), "of a data YAML", "val"),
                ("keep", number(0, 1), "least share of the checkpoint's AP that the export has to keep", 0.95),
                ("allow_missing", flag(), "accept a model that knows more classes than the truth", False),
            )
        ),
    ],
)
def run_export_check(files: list[str], options: dict[str, Any]) -> int:
    """Print how far an exported model is from its checkpoint, in numbers or in AP."""
    by_ap = "data" in options
    of_the_other = ("sizes", "tolerance") if by_ap else ("split", "keep", "allow_missing")
    if idle := [key for key in options if key in of_the_other]:
        instead = (
            "number by number, and data= asks for AP; leave one" if by_ap else "AP; add data=DATA.yaml, or leave it"
        )
        raise ValueError(f"{idle[0]}= is for comparing {instead} out")
    if by_ap:
        from yolo_wnlb.detectors.exported_ap import compare_ap

        return show(compare_ap(files[0], files[1], **options))
    from yolo_wnlb.yolo.parity import check_export

    return show(check_export(files[0], files[1], **options))
