"""Refuse what would fail in a run before the first run starts: arguments, models, weights, device, folder.

`check_models` does so as soon as the study is read, `check_data` as soon as its data sets are there. They raise
ValueError or OSError, with the row in front of the message.
"""

from __future__ import annotations

import functools
import inspect
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from yolo_wnlb.data.validation import first
from yolo_wnlb.study.models import load_model, model_yaml, split_arguments, task_of
from yolo_wnlb.study.plan import CLASSIFIER, FUSION, NAMED, OUT, SPEC, UNET, YOLO, naming
from yolo_wnlb.study.runs import Run, weights_path
from yolo_wnlb.twins.enhancers import enhancer
from yolo_wnlb.words import suggestion

CHOICES = {  # of arguments that Ultralytics checks late or never
    "cache": (True, False, "ram", "disk"),
    "copy_paste_mode": ("flip", "mixup"),
}


# ---- without the data ----------------------------------------------------------------------------


def check_models(runs: Sequence[Run], device: str | None) -> None:
    """Check everything that runs need except their data.

    Raises:
        ValueError: the device is not there; a training takes no such argument; no model can be built; weights
            cannot be read or are of another task; rows of one detector would be evaluated at different sizes.
        OSError: the folder cannot be written; weights are not there.
    """
    from ultralytics.utils.torch_utils import select_device

    if not runs:
        return
    select_device(device or "", verbose=False)
    check_out(runs[0].out)
    sizes: dict[str, dict[str, Run]] = {}  # of each detector: the sizes that pictures are evaluated at
    size_of_row: dict[tuple[str, int | None], str] = {}
    readable = set[str]()  # checkpoints that were read
    arguments = {(run.row, run.seed): arguments_of(run) for run in runs}
    for run in sorted(runs, key=lambda run: "train" not in run.spec):  # those whose weights others evaluate come first
        check_folder(run)
        with naming(run.name):
            if "enhance" in run.spec:
                enhancer(run.spec["enhance"])
            if "train" not in run.spec:
                size = "" if run.source_row else check_given(run, device)
            else:
                if run.weights and not run.source_row:
                    check_there(run)
                checks: dict[str, Callable[[Run], str]] = {
                    YOLO: functools.partial(check_yolo, readable=readable),
                    CLASSIFIER: check_classifier,
                    UNET: functools.partial(check_unet, source=arguments.get((run.source_row or "", run.seed))),
                    FUSION: check_fusion,
                }
                size = checks.get(run.spec["detector"], check_other)(run)
        size = size or size_of_row.get((run.source_row or "", run.seed), "")
        size_of_row[run.row, run.seed] = size
        if size:
            sizes.setdefault(run.spec["detector"], {}).setdefault(size, run)
    for detector, different in sizes.items():
        if len(different) > 1:
            (a, first), (b, second), *_ = different.items()
            raise ValueError(
                f"{first.name} would be evaluated at {a} and {second.name} at {b}, which makes no table: give one size "
                f"for all in train: {detector}"
            )
    warn_of_warmup(runs)


def warn_of_warmup(runs: Sequence[Run]) -> None:
    """Warn of YOLO rows whose warm-up spoils the weights they start from, as Ultralytics' own does with an Adam."""
    from ultralytics.cfg import get_cfg
    from ultralytics.utils import LOGGER

    from yolo_wnlb.yolo.patches.training import shaken_warmup

    rows: dict[str, list[str]] = {}  # what is said: the rows it is said of
    starting = {run.row: run for run in runs if run.spec["detector"] == YOLO and {"train", "start"} <= run.spec.keys()}
    for row, run in starting.items():
        if said := shaken_warmup(get_cfg(overrides=arguments_of(run))):
            rows.setdefault(said, []).append(row)
    for said, names in rows.items():
        LOGGER.warning(f"{first(names)}: {said}; give warmup_bias_lr: 0 in train: yolo:")


def check_out(out: Path) -> None:
    """Refuse a folder that cannot be made or written."""
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"{out} is a file; choose another out=")
    parent = existing_parent(out)
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise PermissionError(
            f"{out} cannot be written: {parent} is no folder that you may write into; choose another out="
        )


def check_folder(run: Run) -> None:
    """Refuse a run whose folder belongs to something else: it is emptied before the run starts."""
    if run.folder.is_symlink() or (run.folder.exists() and not run.folder.is_dir()):
        raise FileExistsError(f"{run.folder} is a file or a link, where {run.name} wants a folder; choose another out=")
    content = [file.name for file in run.folder.iterdir() if file.suffix != ".tmp"] if run.folder.is_dir() else []
    if content and SPEC not in content:
        raise FileExistsError(f"{run.folder} holds other files than those of {run.name}; choose another out=")


def existing_parent(path: Path) -> Path:
    """Return the path, or the closest folder above it that exists."""
    return next(place for place in (path, *path.parents) if place.exists())


def arguments_of(run: Run) -> dict[str, Any]:
    """Return the arguments that a run is trained with, its data left out; {} of a run that only evaluates weights."""
    return {**run.spec["train"], **run.spec.get("options", {})} if "train" in run.spec else {}


def check_yolo(run: Run, readable: set[str]) -> str:
    """Check the training of an Ultralytics model; returns the size that pictures are evaluated at."""
    from yolo_wnlb.yolo.models import load_checkpoint

    spec, arguments = run.spec, arguments_of(run)
    check_yolo_arguments(arguments)
    network = built_yolo(*yolo_definition(spec))
    if "tune" in spec and network.task == "detect":
        raise ValueError(f"{spec['model']} finds boxes only, and measure: instances scores masks; give a -seg model")
    check_optimizer(network, arguments)
    check_freeze(network, arguments.get("freeze"))
    trained_at = spec["train"].get("imgsz", 640)
    evaluated_at = spec.get("imgsz", trained_at)
    for side in (trained_at, evaluated_at):
        if side % (stride := int(network.stride.max())):
            raise ValueError(f"imgsz is {side}; wanted a multiple of the model's stride, {stride}")
    given = [None if run.source_row else run.weights, arguments.get("distill_model")]
    for weights in {str(weights) for weights in given if weights} - readable:
        load_checkpoint(Path(weights))
        readable.add(weights)
    check_denoise(network, arguments, "start" in spec)
    return f"{evaluated_at}x{evaluated_at}"


def check_denoise(network: Any, arguments: Mapping[str, Any], starts: bool) -> None:
    """Refuse places that the network does not have, and denoise=features without a teacher that has its features.

    Args:
        network: What is trained.
        arguments: Of the training, as Ultralytics has checked them.
        starts: Whether it starts from weights, which are the teacher where none is given.
    """
    from yolo_wnlb.yolo import denoise, features

    if arguments.get("denoise") in (None, False):
        return
    asked = denoise.read_request(arguments["denoise"])
    features.places_of(network, asked["from"])
    if asked["target"] != "features":
        return
    if asked["teacher"]:
        denoise.FeatureTwin(network, denoise.load_teacher(Path(asked["teacher"])), asked)
    elif not starts:
        raise ValueError(f"{denoise.NO_TEACHER}; give start:, or denoise: {{target: features, teacher: FILE.pt}}")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Ultralytics from describing what is only built to be checked."""
    from ultralytics.utils import LOGGER

    level = LOGGER.level
    LOGGER.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        LOGGER.setLevel(level)


def check_yolo_arguments(arguments: Mapping[str, Any]) -> None:
    """Let Ultralytics check the names and values of its arguments."""
    from ultralytics.cfg import get_cfg

    try:
        with quiet():
            get_cfg(overrides={**arguments})
    except (SyntaxError, ValueError, TypeError) as error:
        raise ValueError(str(error).strip().split("\n\n")[0]) from error  # without the help for the command line
    for name, choices in CHOICES.items():
        if (value := arguments.get(name)) is not None and value not in choices:
            known = [*map(str, choices)]
            raise ValueError(f"{name} is {value!r}{suggestion(value, known)}; choose from {', '.join(known)}")


def yolo_definition(spec: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """Return what the network of a run is built from, as texts: model YAML, its hash, and JSON of after and block."""
    return spec["model"], spec["definition"], json.dumps(spec.get("after")), json.dumps(spec.get("block"))


@functools.lru_cache(32)
def built_yolo(model: str, definition: str, after: str, block: str) -> Any:
    """Build the network of `yolo_definition`.

    Raises: ValueError: it cannot be built, or is neither for segmentation nor for detection.
    """
    from ultralytics import YOLO as Ultralytics

    spec = {"model": model, **({"after": json.loads(after), "block": json.loads(block)} if after != "null" else {})}
    with tempfile.TemporaryDirectory() as folder:
        try:
            with quiet():
                yolo = Ultralytics(model_yaml(spec, Path(folder)), verbose=False)
        except Exception as error:  # a YAML that somebody wrote can fail anywhere in Ultralytics' parser
            raise ValueError(f"no model can be built from {model}: {error}") from error
    if yolo.task not in ("segment", "detect"):
        raise ValueError(f"{model} is a model for '{yolo.task}'; wanted one for segmentation or detection")
    return yolo.model


def check_optimizer(network: Any, arguments: Mapping[str, Any]) -> None:
    """Let Ultralytics build the optimizer, which it checks only when a training has begun."""
    from ultralytics.engine.trainer import BaseTrainer

    trainer = SimpleNamespace(args=SimpleNamespace(lr0=0.01, freeze=None), data={})
    try:
        with quiet():
            BaseTrainer.build_optimizer(trainer, network, arguments.get("optimizer", "auto"))
    except NotImplementedError as error:
        raise ValueError(str(error)) from error


def check_freeze(network: Any, freeze: Any) -> None:
    """Refuse layers to freeze that the network does not have: Ultralytics would freeze nothing, without a word."""
    if freeze is None:
        return
    layers = [*range(freeze)] if type(freeze) is int and freeze >= 0 else freeze
    names = {name for name, _ in network.named_modules()}
    if not isinstance(layers, list) or any(f"model.{layer}" not in names for layer in layers):
        last = len(network.model) - 1
        raise ValueError(f"freeze is {freeze!r}; wanted how many layers, or a list of their numbers, 0 to {last}")


def check_there(run: Run) -> None:
    """Refuse weights that are neither there nor published under that name."""
    from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES

    detector = run.spec["detector"]
    published = GITHUB_ASSETS_NAMES if detector == YOLO else ["coco"] if detector.startswith("maskrcnn") else []
    published = [*published, *(NAMED.get(detector, ()) if "start" in run.spec else ())]
    if run.weights not in published and not Path(str(run.weights)).exists():
        raise FileNotFoundError(f"there are no weights {run.weights}; train them first (in a study of their own?)")


def check_other(run: Run) -> str:
    """Check the training of Mask R-CNN or SOLOv2; returns the size that pictures are evaluated at."""
    import torch
    from torchvision.models.detection import MaskRCNN

    from yolo_wnlb.detectors import maskrcnn, torchvision
    from yolo_wnlb.detectors.fit import check_settings, fit
    from yolo_wnlb.detectors.solov2 import SOLOv2

    spec = run.spec
    of_build, of_fit = split_arguments(spec, fit)
    check_like_defaults({**of_build, **of_fit}, fit, MaskRCNN if spec["detector"].startswith("maskrcnn") else SOLOv2)
    defaults = {name: parameter.default for name, parameter in inspect.signature(fit).parameters.items()}
    check_settings({**defaults, "epochs": None, **of_fit, "seed": spec["seed"]})
    given = None if run.source_row else run.weights
    _, known = torchvision.known_classes(spec["detector"], given)
    names = [*known.values()] or ["object"]  # check_data compares the real classes
    freeze = (of_build.pop("freeze", "none"), of_build.pop("trainable_layers", None))
    try:
        with torch.device("cpu" if given else "meta"):
            module: Any = torchvision.build(spec["detector"], names, weights=given, **of_build)
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"no model can be built from {of_build}: {error}") from error
    maskrcnn.set_trainable(module, *freeze, bool(run.weights), True)  # weights of another row are not there yet
    return torchvision.describe(torchvision.Model(None, module, dict(enumerate(names, 1))))["image_size"]


def check_classifier(run: Run) -> str:
    """Check the training of a classifier; returns the size that pictures are evaluated at."""
    from yolo_wnlb.classifiers.fit import check_settings, fit
    from yolo_wnlb.classifiers.nets import build, check_arch

    of_build, of_fit = split_arguments(run.spec, fit)
    parameters = inspect.signature(fit).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    if unknown := [name for name in of_build if name != "arch"]:
        known = ("arch", *(name for name in defaults if name not in ("model", "data", "out")))
        raise ValueError(f"no argument {unknown[0]}{suggestion(unknown[0], known)}; choose from {', '.join(known)}")
    if "arch" not in of_build:
        raise ValueError("a classifier wants arch, such as arch: resnet18")
    check_arch(of_build["arch"])
    check_settings({**defaults, "epochs": None, **of_fit, "seed": run.spec["seed"]})
    if run.weights and not run.source_row and run.weights not in NAMED[CLASSIFIER]:
        build(of_build["arch"], ["one", "other"], run.weights)
    elif run.weights in NAMED[CLASSIFIER] and run.weights != of_build["arch"]:
        raise ValueError(f"start: {run.weights} does not fit arch: {of_build['arch']}; name the same one")
    side = of_fit.get("imgsz", defaults["imgsz"])
    return f"{side}x{side}"


def check_unet(run: Run, source: Mapping[str, Any] | None) -> str:
    """Check the training of a U-Net; returns the size that pictures are evaluated at.

    Args:
        run: The run.
        source: The arguments of the row that it starts from; None if there is none, or if it is finished.
    """
    from yolo_wnlb.denoiseg.fit import check_settings, fit
    from yolo_wnlb.denoiseg.pictures import noise_level
    from yolo_wnlb.denoiseg.unet import build

    of_build, of_fit = split_arguments(run.spec, fit)
    known = {
        name: parameter.default
        for function in (build, fit)
        for name, parameter in inspect.signature(function).parameters.items()
        if name not in ("model", "pictures", "out", "tune", "name", "start", "seed", "device", "resume", "progress")
    }
    if unknown := [name for name in (*of_build, *of_fit) if name not in known]:
        raise ValueError(f"no argument {unknown[0]}{suggestion(unknown[0], known)}; choose from {', '.join(known)}")
    arguments = {**known, "epochs": None, **of_build, **of_fit, "seed": run.spec["seed"]}
    if source is None:
        start = weights_path(run.out, run.weights) if run.weights else None
        recipe = build("object", start=start, **of_build).recipe
    else:
        form = {name: value for name, value in of_build.items() if name != "sequential"}
        theirs = {**known, **source}
        recipe = build("object", **form).recipe
        recipe |= {
            "sequential": arguments["sequential"],
            "start": run.source_row,
            "front": {"noise": noise_level(theirs["noise"])},
        }
        if not isinstance(arguments["sequential"], bool):
            raise ValueError(f"sequential is {arguments['sequential']!r}; wanted true or false")
        alike = ("channels",) if arguments["sequential"] else ("channels", "first", "depth")
        if different := [name for name in alike if theirs[name] != arguments[name]]:
            name = different[0]
            raise ValueError(
                f"{name} is {arguments[name]}, and that of row '{run.source_row}' {theirs[name]}; give both one"
            )
        if arguments["sequential"] and not theirs["alpha"]:
            raise ValueError(
                f"sequential: row '{run.source_row}' was trained with alpha: 0, and has not learnt to denoise; start "
                "from a row with alpha: 1"
            )
        if not arguments["sequential"] and theirs["sequential"]:
            raise ValueError(
                f"row '{run.source_row}' is sequential, and cannot be gone on from; start from its own start:"
            )
    check_settings(arguments, recipe)
    return pictures_with(noise_level(arguments["noise"]))


def pictures_with(noise: float) -> str:
    """Say what U-Nets are evaluated at: all of a table at the same."""
    return f"whole pictures with noise of sd {noise:g}"


def check_fusion(run: Run) -> str:
    """Check the training of a fused network; returns the size that pictures are evaluated at."""
    from yolo_wnlb.classifiers.fusion import check_l2, network_of
    from yolo_wnlb.classifiers.fusion_fit import check_settings, fit

    of_build, of_fit = split_arguments(run.spec, fit)
    defaults = {name: parameter.default for name, parameter in inspect.signature(fit).parameters.items()}
    if unknown := [name for name in of_build if name != "l2"]:
        known = ("l2", *(name for name in defaults if name not in ("model", "data", "out")))
        raise ValueError(f"no argument {unknown[0]}{suggestion(unknown[0], known)}; choose from {', '.join(known)}")
    check_l2(of_build.get("l2", 0.0))
    check_settings({**defaults, **of_fit, "seed": run.spec["seed"]})
    for weights in run.spec["start"]:
        if not weights.startswith(OUT) and weights not in NAMED[FUSION]:
            network_of(weights)
    side = of_fit.get("imgsz", defaults["imgsz"])
    return f"{side}x{side}"


def check_like_defaults(arguments: Mapping[str, Any], *functions: Any) -> None:
    """Refuse what is no number, or no list, where the default of a function's argument is one."""
    for function in functions:
        for name, parameter in inspect.signature(function).parameters.items():
            value, default = arguments.get(name), parameter.default
            if value is None or isinstance(default, bool) or name == "min_size":  # that one may be either
                continue
            if isinstance(default, (int, float)) and (isinstance(value, bool) or not isinstance(value, (int, float))):
                raise ValueError(f"{name} is {value!r}; wanted a number, such as {default}")
            if isinstance(default, (list, tuple)) and not isinstance(value, (list, tuple)):
                raise ValueError(f"{name} is {value!r}; wanted a list, such as {list(default)}")


def check_given(run: Run, device: str | None) -> str:
    """Check weights that are evaluated as they are; returns the size that pictures are evaluated at."""
    check_there(run)
    detector, model = given_model(run, device)
    if run.spec["detector"] == UNET:
        if not model.segments:
            raise ValueError(
                f"{run.weights} was trained with alpha: 1, and has not learnt to segment: it has no score; leave the "
                "row out"
            )
        return pictures_with(model.noise)
    if "tune" in run.spec and task_of(model) == "detect":
        raise ValueError(f"{run.weights} finds boxes only, and measure: instances scores masks; leave the row out")
    return detector.describe(model, **({"imgsz": run.spec["imgsz"]} if "imgsz" in run.spec else {}))["image_size"]


def given_model(run: Run, device: str | None) -> tuple[Any, Any]:
    """Load the weights that a run evaluates as they are."""
    return load_model(run.spec, run.folder, device)
