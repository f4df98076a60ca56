"""The one place that touches Ultralytics: what is wrapped, and what the wrapper adds.

Each `patch_*` is given one executed module of Ultralytics by `activate`. A wrapper calls the stock
function for everything that is not about wNLB. tests/test_contract.py states what is assumed of
the stock code and runs on the oldest and the newest supported release.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import inspect
import os
import sys
import weakref
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any

LOADED: weakref.WeakSet[Any] = weakref.WeakSet()  # models that were given pretrained weights
VALIDATING: ContextVar[Any] = ContextVar("VALIDATING", default=None)  # the validator that is loading its model


def wrap(owner: Any, name: str, wrapper: Callable[..., Any], everywhere: bool = True) -> None:
    """Replace owner.name by wrapper(stock, ...), once; of a module also where it was imported from already."""
    stock = getattr(owner, name)
    if hasattr(stock, "_stock"):
        return

    @functools.wraps(stock)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return wrapper(stock, *args, **kwargs)

    wrapped._stock = stock  # type: ignore[attr-defined]
    setattr(owner, name, wrapped)
    if everywhere and isinstance(owner, ModuleType):
        for module in [m for key, m in sys.modules.items() if key.startswith("ultralytics.")]:
            if getattr(module, name, None) is stock:
                setattr(module, name, wrapped)


# ---- ultralytics.utils.checks: shipped YAML files are found by bare name -------------------------


def patch_checks(checks: ModuleType) -> None:
    """Let model, data and settings YAMLs of this package be found from any directory."""
    wrap(checks, "check_file", check_file)


def check_file(stock: Callable[..., Any], file: Any, *args: Any, **kwargs: Any) -> Any:
    """Prefer what the stock function finds in place; else a shipped file of that bare name.

    Raises:
        FileNotFoundError: there is none; names the shipped files that are spelt alike.
        ValueError: the aliases of a YAML, written out, would fill the memory.
    """
    from yolo_wnlb import paths
    from yolo_wnlb.reading import check_aliases

    name = str(file).strip()
    if not os.path.exists(name) and (shipped := paths.find(name)):
        return stock(str(shipped), *args, **kwargs)
    try:
        found = stock(file, *args, **kwargs)
        if str(found).endswith((".yaml", ".yml")) and Path(found).is_file():
            check_aliases(found)
        return found
    except FileNotFoundError as error:
        known = [*paths.shipped("cfg"), *paths.shipped("datasets")]
        if not (similar := difflib.get_close_matches(name, known, cutoff=0.8)):
            raise
        raise FileNotFoundError(
            f"'{name}' does not exist (of any size). Did you mean {' or '.join(similar)}? A size n, s, m, l or x goes "
            "behind the version: yolov8m-seg-wnlb.yaml. Make other models with 'yolo-wnlb graft'."
        ) from error


# ---- ultralytics.utils.patches: files with more than 8 bits --------------------------------------


def patch_imread(patches: ModuleType) -> None:
    """Let the function that reads pictures bring one of more than 8 bits through a tone curve."""
    wrap(patches, "imread", imread)


def imread(stock: Callable[..., Any], filename: Any, flags: int | None = None) -> Any:
    """Read a picture of more than 8 bits through the curve that its flags carry; any other as the stock function.

    So is one that cannot be decoded, with a warning: Ultralytics reads some of these, and passes over the others.
    """
    from yolo_wnlb.yolo import sixteen_bits

    given, flags = ((), sixteen_bits.COLOUR) if flags is None else ((flags,), flags)
    picture = sixteen_bits.read_or_warn(filename, flags)
    return stock(filename, *given) if picture is None else picture


# ---- ultralytics.nn.tasks: the YAML word wNLB, pretrained weights, safe loading ------------------


def patch_tasks(tasks: ModuleType) -> None:
    """Register the block with the parser, keep pretrained weights across its insertion, and give models their scene."""
    import torch

    from yolo_wnlb.scene import Scene
    from yolo_wnlb.wnlb import WNLB
    from yolo_wnlb.yolo import night
    from yolo_wnlb.yolo.grafting import NAMES

    for name in NAMES:
        if getattr(getattr(tasks, name, WNLB), "__module__", None) != WNLB.__module__:
            raise RuntimeError(f"ultralytics has a module named {name} of its own; update yolo_wnlb")
    for name in NAMES:
        setattr(tasks, name, WNLB)
    if hasattr(torch.serialization, "add_safe_globals"):  # ULTRALYTICS_SAFE_LOAD=1
        torch.serialization.add_safe_globals([WNLB, Scene])
        if getattr(tasks, "SAFE_LOAD", False):  # what the frozen network of a scene is made of
            from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

            torch.serialization.add_safe_globals([BasicBlock, Bottleneck, ResNet])
    wrap(tasks, "parse_model", parse_model)
    wrap(tasks.BaseModel, "load", load)
    wrap(tasks.BaseModel, "fuse", fuse)
    wrap(tasks.BaseModel, "loss", loss)
    wrap(tasks.BaseModel, "_predict_once", predict_once)
    wrap(tasks.DetectionModel, "__init__", init_model)
    for kind in [kind for kind in vars(tasks).values() if isinstance(kind, type) and issubclass(kind, tasks.BaseModel)]:
        if kind is not tasks.DetectionModel and "ch" in inspect.signature(kind).parameters:
            wrap(kind, "__init__", init_channels)
    tasks.BaseModel.night = property(night.is_night, night.set_night)


def parse_model(stock: Callable[..., Any], d: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
    """Check the wNLB rows and complete them with what the stock parser passes on verbatim; check the scene too."""
    from ultralytics.nn import tasks

    from yolo_wnlb.wnlb import WNLB
    from yolo_wnlb.yolo.grafting import complete

    if "scene" in d and d["head"]:  # of any task: one that cannot have a scene must not leave it out
        from yolo_wnlb.yolo import context

        context.check_definition(d)
    rows = [*d["backbone"], *d["head"]]  # a user's own class of that name is left alone
    rows = [complete(i, row) if getattr(tasks, str(row[2]), None) is WNLB else row for i, row in enumerate(rows)]
    cut = len(d["backbone"])
    return stock({**d, "backbone": rows[:cut], "head": rows[cut:]}, *args, **kwargs)


def load(stock: Callable[..., Any], model: Any, weights: Any, verbose: bool = True) -> None:
    """Load pretrained weights lined up with the blocks, report the transfer, carry class names and the scene.

    Weights of a colour model fit a grey one and the other way round, of models without blocks too: the two have to
    start alike, whatever the release of Ultralytics.
    """
    from ultralytics.utils import LOGGER

    from yolo_wnlb.yolo import channels
    from yolo_wnlb.yolo.weights import align, carry_names, has_blocks, has_scene, hold_fixed, layers_of, report, unwrap

    source = unwrap((weights.get("ema") or weights["model"]) if isinstance(weights, dict) else weights)
    if curve := getattr(source, "curve", None):  # that its pictures of more than 8 bits were read with
        model.curve = curve
    is_ours = any(has(m) for has in (has_blocks, has_scene) for m in (model, source))
    if not layers_of(source) or not (is_ours or channels.becomes_grey_or_colour(source, model)):
        return stock(model, weights, verbose)
    names = getattr(source, "names", None), getattr(model, "names", None)
    aligned, left_out = align(source, model)
    if channels.becomes_grey_or_colour(source, model):
        aligned = channels.fit(aligned, model)
    stock(model, aligned, verbose)
    LOADED.add(model)
    hold_fixed(model)
    carry_names(source, model)
    summary, warnings = report(aligned, model, left_out)
    if has_scene(source):
        from yolo_wnlb.yolo import context

        warnings += context.carry(source, model, names)
    if verbose:
        LOGGER.info(summary)
        for warning in warnings:
            LOGGER.warning(warning)


def fuse(stock: Callable[..., Any], model: Any, *args: Any, **kwargs: Any) -> Any:
    """Fold the blocks too, and take off what denoise= trained beside the model before the parameters are counted."""
    from yolo_wnlb.wnlb import WNLB
    from yolo_wnlb.yolo.weights import DECODER

    if hasattr(model, DECODER):
        from yolo_wnlb.yolo import decoder

        decoder.drop(model)
    fused = stock(model, *args, **kwargs)
    for module in fused.modules():
        if isinstance(module, WNLB):
            module.fold()
    return fused


def loss(stock: Callable[..., Any], model: Any, batch: dict[str, Any], preds: Any = None) -> Any:
    """Attack and add as adversarial=, denoise= and a scene ask; of other models return what the stock function does."""
    from yolo_wnlb.yolo.weights import has_scene

    if has_scene(model):
        from yolo_wnlb.yolo import context

        stock = functools.partial(context.penalised, stock)
    if not (getattr(model, "denoise", None) or getattr(model, "adversarial", None)):
        return stock(model, batch, preds)
    from yolo_wnlb.yolo import terms

    return terms.loss(stock, model, batch, preds)


def init_model(stock: Callable[..., Any], model: Any, *args: Any, **kwargs: Any) -> None:
    """Build a model for detection of the channels that its YAML names, and give it the scene that this asks for."""
    init_channels(stock, model, *args, **kwargs)
    if "scene" in model.yaml:
        from yolo_wnlb.yolo import context

        given = inspect.signature(stock).bind(model, *args, **kwargs).arguments
        context.attach(model, verbose=given.get("verbose", True))


def init_channels(stock: Callable[..., Any], model: Any, *args: Any, **kwargs: Any) -> None:
    """Build a model; without ch= it has the channels that its YAML names, which the stock function overwrites."""
    from yolo_wnlb.yolo.channels import named_in

    given = inspect.signature(stock).bind(model, *args, **kwargs).arguments
    if "ch" not in given and (channels := named_in(given.get("cfg"))):
        kwargs["ch"] = channels
    stock(model, *args, **kwargs)


def predict_once(stock: Callable[..., Any], model: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    """Run the layers of a model; if it has a scene, its head knows what that says about the picture."""
    from yolo_wnlb.yolo.weights import has_scene

    if not has_scene(model):
        return stock(model, x, *args, **kwargs)
    from yolo_wnlb.yolo import context

    with context.in_head(model, x):
        return stock(model, x, *args, **kwargs)


# ---- ultralytics.nn.modules.head, ultralytics.utils.torch_utils: the logits of a scene, and their cost --


def patch_head(head: ModuleType) -> None:
    """Let the head of a model with a scene add its logits."""
    wrap(head.Detect, "forward_head", forward_head)


def forward_head(stock: Callable[..., Any], head: Any, *args: Any, **kwargs: Any) -> Any:
    """Compute one branch of a head, and add the logits of the scene if the model has one."""
    found = stock(head, *args, **kwargs)
    if "context" not in vars(head):
        return found
    from yolo_wnlb.yolo import context

    return context.add_context(head, found)


def patch_torch_utils(torch_utils: ModuleType) -> None:
    """Count the operations of a scene apart: older releases scale all that they count with the size of the picture."""
    wrap(torch_utils, "get_flops", get_flops)


def get_flops(stock: Callable[..., Any], model: Any, *args: Any, **kwargs: Any) -> float:
    """Return the GFLOPs of a model; those of a scene do not depend on the size of the picture."""
    from yolo_wnlb.yolo.weights import has_scene, unwrap

    model = unwrap(model)
    if not has_scene(model):
        return stock(model, *args, **kwargs)
    from yolo_wnlb.yolo import context

    with context.without(model) as scene:
        plain = stock(model, *args, **kwargs)
    return plain + context.operations(scene)


# ---- ultralytics.cfg, ultralytics.data: lowlight=, denoise=, adversarial=, balanced=, night= and curve= ----

ARGUMENTS = {
    "lowlight": "severe",
    "denoise": "features",
    "adversarial": "pgd",
    "balanced": "True",
    "night": "False",
    "curve": "auto",
}  # beside the stock ones, each with an example
CHECKED_BY = {  # of ARGUMENTS, the module of yolo_wnlb.yolo whose check_request they pass, in this order
    "lowlight": "darkness",
    "denoise": "denoise",
    "adversarial": "adversarial",
    "balanced": "balance",
    "night": "night",
    "curve": "sixteen_bits",
}


def patch_cfg(cfg: ModuleType) -> None:
    """Let ARGUMENTS be arguments like any other, checked before anything is built."""
    if taken := [name for name in ARGUMENTS if hasattr(cfg.DEFAULT_CFG, name)]:
        raise RuntimeError(f"ultralytics has an argument {taken[0]}= of its own; update yolo_wnlb")
    wrap(cfg, "check_dict_alignment", check_dict_alignment)
    wrap(cfg, "check_cfg", check_cfg)


def check_dict_alignment(
    stock: Callable[..., Any], base: dict[str, Any], custom: dict[str, Any], *args: Any, **kwargs: Any
) -> Any:
    """Count ARGUMENTS among the known arguments of a run (but not among Ultralytics' settings).

    Raises: SyntaxError: one stands alone on the command line, where the stock function would take it and drop it.
    """
    for name, value in ARGUMENTS.items():
        if custom == {name: ""}:
            raise SyntaxError(f"'{name}' lacks its value; write {name}={value}, without spaces around '='")
    return stock({**dict.fromkeys(ARGUMENTS), **base} if "imgsz" in base else base, custom, *args, **kwargs)


def check_cfg(stock: Callable[..., Any], cfg: dict[str, Any], *args: Any, **kwargs: Any) -> None:
    """Check ARGUMENTS beside the stock ones.

    Raises: ValueError: one is wrong, or empty: nothing would come of it.
    """
    stock(cfg, *args, **kwargs)
    for name, example in ARGUMENTS.items():
        if cfg.get(name) in ("", {}, [], ()):
            raise ValueError(f"{name}={cfg[name]!r} asks for nothing; write {name}={example}, or leave it out")
    for name, module in CHECKED_BY.items():
        if name in cfg or (name == "lowlight" and cfg.get("augmentations")):
            importlib.import_module(f"yolo_wnlb.yolo.{module}").check_request(cfg)


def patch_data(base: ModuleType) -> None:
    """Darken and balance the pictures of every data set that is built with lowlight= and balanced=; give it a curve."""
    from yolo_wnlb.yolo import sixteen_bits

    wrap(base.BaseDataset, "__init__", init_dataset)
    wrap(base.BaseDataset, "get_img_files", get_img_files)
    wrap(base.BaseDataset, "load_image", load_image)
    wrap(base.BaseDataset, "cache_images_to_disk", cache_images_to_disk)
    base.BaseDataset.cv2_flag = sixteen_bits.FLAGS_WITH_CURVE


def init_dataset(stock: Callable[..., Any], dataset: Any, *args: Any, **kwargs: Any) -> None:
    """Build the data set, its caches bright, then put in front of them what the arguments ask for."""
    from yolo_wnlb.yolo import sixteen_bits
    from yolo_wnlb.yolo.darkness import attach

    hyp = inspect.signature(stock).bind(dataset, *args, **kwargs).arguments.get("hyp")
    dataset.curve = sixteen_bits.curve_of(hyp)
    stock(dataset, *args, **kwargs)
    sixteen_bits.announce(dataset.im_files, dataset.curve, dataset.prefix)
    attach(dataset, hyp)
    if getattr(hyp, "denoise", None) or "unlabelled" in (getattr(dataset, "data", None) or {}):
        from yolo_wnlb.yolo import denoise

        denoise.attach(dataset, hyp)
    if getattr(hyp, "balanced", None):
        from yolo_wnlb.yolo import balance

        balance.attach(dataset, hyp)


def get_img_files(stock: Callable[..., Any], dataset: Any, *args: Any, **kwargs: Any) -> list[str]:
    """List the pictures, without the RAW files that are left out."""
    from yolo_wnlb.imaging import deep
    from yolo_wnlb.yolo import sixteen_bits

    files = sixteen_bits.without_idle_raw(stock(dataset, *args, **kwargs), dataset.prefix)
    if raw := next((file for file in files if file.lower().endswith(deep.RAW_SUFFIXES)), None):
        deep.import_rawpy(raw)
    return files


def load_image(stock: Callable[..., Any], dataset: Any, i: int, *args: Any, **kwargs: Any) -> Any:
    """Load a picture; a decoded copy of one with more than 8 bits bears the name of its curve."""
    if dataset.ims[i] is None:
        from yolo_wnlb.yolo import sixteen_bits

        sixteen_bits.name_cache(dataset, i)
    return stock(dataset, i, *args, **kwargs)


def cache_images_to_disk(stock: Callable[..., Any], dataset: Any, i: int) -> None:
    """Store a decoded picture; one with more than 8 bits under the name of its curve, and in it."""
    from yolo_wnlb.yolo import sixteen_bits

    sixteen_bits.cache_to_disk(stock, dataset, i)


def patch_dataset(dataset: ModuleType) -> None:
    """Balance the pictures of every data set for classification that is built with balanced=."""
    wrap(dataset.ClassificationDataset, "__init__", init_classification)
    wrap(dataset.ClassificationDataset, "__getitem__", classified_item)
    if hasattr(dataset.ClassificationDataset, "imread"):  # older releases call cv2.imread
        wrap(dataset.ClassificationDataset, "imread", imread)
        dataset.ClassificationDataset.imread = staticmethod(dataset.ClassificationDataset.imread)


def init_classification(stock: Callable[..., Any], dataset: Any, *args: Any, **kwargs: Any) -> None:
    """Build the data set, and give it its balance if it is for training and the arguments ask for it."""
    from yolo_wnlb.yolo import sixteen_bits

    stock(dataset, *args, **kwargs)
    sixteen_bits.name_caches_of_classes(dataset)
    given = inspect.signature(stock).bind(dataset, *args, **kwargs).arguments
    if given.get("augment") and getattr(given["args"], "balanced", None):
        from yolo_wnlb.yolo import balance

        balance.attach_classification(dataset)


def classified_item(stock: Callable[..., Any], dataset: Any, index: int) -> Any:
    """Return the item of an index, or of the one that the balance of the data set draws."""
    balance = vars(dataset).get("balance")
    return stock(dataset, balance() if balance else index)


# ---- ultralytics.data.utils: what a data YAML fetches or runs is said first --------------------------


def patch_downloads(utils: ModuleType) -> None:
    """Say what the 'download:' block of a data YAML is about to fetch or to run; of bash the stock function says it.

    The stock function finds the name `exec` in its module before it finds the builtin one. RAW files count among the
    pictures from here on, and their headers are read by LibRaw.
    """
    from yolo_wnlb.imaging.deep import RAW_SUFFIXES
    from yolo_wnlb.yolo import sixteen_bits

    utils.exec = run_download  # type: ignore[attr-defined]
    utils.Image = sixteen_bits.PillowWithRaw(utils.Image)  # type: ignore[attr-defined]
    utils.IMG_FORMATS.update(suffix[1:] for suffix in RAW_SUFFIXES)
    wrap(utils, "safe_download", safe_download, everywhere=False)


def safe_download(stock: Callable[..., Any], url: Any, *args: Any, **kwargs: Any) -> Any:
    """Log one line about what is fetched for a data set; a file that is here already is unpacked without a word."""
    from ultralytics.utils import LOGGER, clean_url

    if "://" in str(url):
        LOGGER.info(f"fetching {clean_url(str(url))} for this data set, into {kwargs.get('dir') or 'this folder'}")
    return stock(url, *args, **kwargs)


def run_download(code: str, scope: dict[str, Any]) -> None:
    """Log one line about the Python code of a data YAML, then run it."""
    from ultralytics.utils import LOGGER

    lines = [line.strip() for line in code.splitlines() if line.strip() and not line.strip().startswith("#")]
    shown = "; ".join(lines)
    shown = f"{shown[:300]} ... ({len(lines)} lines)" if len(shown) > 300 else shown
    source = scope.get("yaml", {}).get("yaml_file", "a data YAML")
    LOGGER.info(f"{source}: its pictures are missing, so the Python code of its 'download:' block runs now: {shown}")
    exec(code, scope)


# ---- albumentations: LowLight in every process ---------------------------------------------------


def patch_albumentations(albumentations: ModuleType) -> None:
    """Register LowLight, so that A.from_dict finds it in DDP workers and after resume.

    A version too old for LowLight is left as it is; there LowLight itself raises an error that says so.
    """
    with contextlib.suppress(ImportError):
        import yolo_wnlb.transforms  # noqa: F401


# ---- ultralytics.engine.trainer: checks at the door, and the parameter w -------------------------


def patch_trainer(trainer: ModuleType) -> None:
    """Check what is about to be trained, and give the w of the blocks a parameter group of their own."""
    wrap(trainer.BaseTrainer, "setup_model", setup_model)
    wrap(trainer.BaseTrainer, "build_optimizer", build_optimizer)
    wrap(trainer.BaseTrainer, "_setup_train", setup_train)
    wrap(trainer.BaseTrainer, "check_resume", check_resume)
    if hasattr(trainer.BaseTrainer, "_build_train_pipeline"):  # it builds the loaders anew when memory ran out
        wrap(trainer.BaseTrainer, "_build_train_pipeline", build_train_pipeline)


def setup_model(stock: Callable[..., Any], trainer: Any) -> Any:
    """Refuse a model with blocks of another task; say so when it starts without pretrained weights.

    Raises:
        ValueError: the task and the head differ, which Ultralytics finds out in the middle of a step; or the
            channels of the model YAML and of the pictures.
        FileNotFoundError: the weights are not there; says what may stand there instead.
    """
    from ultralytics.nn.tasks import guess_model_task
    from ultralytics.utils import LOGGER

    from yolo_wnlb.yolo import channels
    from yolo_wnlb.yolo.weights import has_blocks, has_scene, unwrap

    given = trainer.model if isinstance(trainer.model, (str, os.PathLike)) else trainer.args.model
    channels.check_training(given, trainer.data)
    try:
        checkpoint = stock(trainer)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}. model={given} and pretrained={trainer.args.pretrained} must be files here, or official names "
            "such as yolov8m-seg.pt, which Ultralytics downloads"
        ) from error
    model = unwrap(trainer.model)  # a resumed distillation hands over the wrapper of student and teacher
    if has_blocks(model) or has_scene(model):
        task, wanted = guess_model_task(model), trainer.args.task
        if task != wanted:
            raise ValueError(
                f"task '{wanted}' cannot train {given}, a model for '{task}': run 'yolo {task} train ...', or give a "
                f"model YAML for '{wanted}' (segment: yolov8n-seg-wnlb.yaml, detect: yolov8n-wnlb.yaml)"
            )
        if has_scene(model):
            from yolo_wnlb.yolo import context

            context.check_training(model, trainer.args)
        if model not in LOADED and trainer.args.pretrained is not False and not trainer.args.resume:
            LOGGER.info("wNLB: all weights start at random; to keep trained ones, give pretrained=FILE.pt")
    for name in ("denoise", "adversarial"):  # of the training that the checkpoint comes from
        vars(model).pop(name, None)
    if getattr(trainer.args, "curve", None) is None:
        from yolo_wnlb.yolo import sixteen_bits

        sixteen_bits.inherit(trainer.args, model)
    if getattr(trainer.args, "denoise", None):
        from yolo_wnlb.yolo import denoise

        denoise.prepare(model, trainer.args, checkpoint if trainer.resume else None)
    if getattr(trainer.args, "adversarial", None):
        from yolo_wnlb.yolo import adversarial

        adversarial.prepare(model, trainer.args)
    return checkpoint


def build_train_pipeline(stock: Callable[..., Any], trainer: Any) -> None:
    """Build the loaders, and let the one for training replay its batches if adversarial=free asks for it."""
    stock(trainer)
    replay_batches(trainer)


def replay_batches(trainer: Any) -> None:
    """Let the training loader replay its batches if adversarial=free asks for it, and it does not do so yet."""
    if getattr(trainer.args, "adversarial", None):
        from yolo_wnlb.yolo import adversarial

        adversarial.replay(trainer)


def setup_train(stock: Callable[..., Any], trainer: Any, *args: Any, **kwargs: Any) -> Any:
    """Let the run start only if the darkness and the balance that were asked for are in what was built."""
    from yolo_wnlb.imaging.curve import as_settings
    from yolo_wnlb.yolo.darkness import check_pipeline
    from yolo_wnlb.yolo.sixteen_bits import curve_of_training
    from yolo_wnlb.yolo.weights import unwrap

    result = stock(trainer, *args, **kwargs)
    replay_batches(trainer)  # in releases that build the loaders within the stock function
    check_pipeline(trainer)
    check_warmup(trainer)
    if getattr(trainer.args, "balanced", None):
        from yolo_wnlb.yolo import balance

        balance.check_pipeline(trainer.train_loader.dataset)
    for model in (trainer.model, getattr(trainer.ema, "ema", None)):
        if model is not None:
            unwrap(model).curve = as_settings(curve_of_training(trainer.args))  # val, predict and exports use it
            if request := getattr(trainer.args, "lowlight", None):
                unwrap(model).lowlight = request  # so that a validation can tell
    return result


def check_warmup(trainer: Any) -> None:
    """Warn where the warm-up spoils trained weights: an Adam with the learning rate of biases that is made for SGD."""
    from ultralytics.utils import LOGGER

    from yolo_wnlb.yolo.weights import has_blocks, has_scene, unwrap

    args, model = trainer.args, unwrap(trainer.model)
    ours = any(getattr(args, name, None) for name in ARGUMENTS) or has_blocks(model) or has_scene(model)
    trained = isinstance(args.pretrained, (str, os.PathLike)) or str(args.model).endswith(".pt")
    adaptive = str(args.optimizer).lower() not in ("sgd", "musgd")
    if ours and trained and adaptive and args.warmup_epochs > 0 and args.warmup_bias_lr > 10 * args.lr0:
        LOGGER.warning(
            f"wNLB: with {args.optimizer}, warmup_bias_lr={args.warmup_bias_lr:g} at first moves each bias by about as "
            "much a step, which spoils pretrained weights; give warmup_bias_lr=0, as optimizer=auto does"
        )


def check_resume(stock: Callable[..., Any], trainer: Any, overrides: dict[str, Any]) -> None:
    """Refuse night=, and on resume another value of ARGUMENTS, which the stock function would drop.

    Raises: ValueError: one of these was given.
    """
    from yolo_wnlb.yolo.darkness import check_resumed

    if getattr(trainer.args, "night", None) is not None:
        raise ValueError(
            "night= chooses a mode of a trained model for predict, track, val, export and benchmark; a training always "
            "has its blocks on. Leave night= out"
        )
    stock(trainer, overrides)
    if trainer.resume:
        for name in ARGUMENTS:
            check_resumed(name, (overrides or {}).get(name), getattr(trainer.args, name, None))


def build_optimizer(stock: Callable[..., Any], trainer: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
    """Move every w out of the decayed weights into a group with its own learning rate.

    Weight decay would pull w to 0, the identity. The group keeps all other settings of the one
    the stock builder chose, so warm-up, schedule and optimizer treat w as they treat a weight.
    """
    from ultralytics.utils import LOGGER

    from yolo_wnlb.wnlb import WNLB
    from yolo_wnlb.yolo.weights import unwrap

    optimizer = stock(trainer, model, *args, **kwargs)
    learnable = [m for m in unwrap(model).modules() if isinstance(m, WNLB) and "w" in m._parameters]
    blocks = [block for block in learnable if block.w.requires_grad]
    for factor in sorted({block.w_lr for block in blocks}):
        weights = [block.w for block in blocks if block.w_lr == factor]
        ids = {id(w) for w in weights}
        home = next(group for group in optimizer.param_groups if any(id(p) in ids for p in group["params"]))
        for group in optimizer.param_groups:
            group["params"] = [p for p in group["params"] if id(p) not in ids]
        settings = {**home, "lr": home["lr"] * factor, "weight_decay": 0.0, "param_group": "wnlb"}
        optimizer.add_param_group({**settings, "params": weights})
        LOGGER.info(
            f"wNLB: {sum(w.numel() for w in weights)} weights w with learning rate {settings['lr']:.3g} and no decay"
        )
    if frozen := [block for block in learnable if not block.w.requires_grad]:
        values = ", ".join(block.w_text for block in frozen)
        LOGGER.warning(
            f"wNLB: freeze={trainer.args.freeze} freezes {len(frozen)} of {len(learnable)} w (at {values}): a block at "
            "w = 0 does nothing. To freeze the backbone around the blocks, list its layers: freeze=[0,1,2,3,4,6,...]"
        )
    return optimizer


# ---- ultralytics.engine.validator, ultralytics.engine.tuner: no bright pictures instead of dark ones ---


def patch_validator(validator: ModuleType) -> None:
    """Check the data set of a validation on its own; in training the trainer's check has seen it."""
    wrap(validator.BaseValidator, "__call__", validate)
    wrap(validator.BaseValidator, "run_callbacks", run_callbacks)
    wrap(validator.AutoBackend, "__init__", init_backend)


def validate(stock: Callable[..., Any], validator: Any, trainer: Any = None, model: Any = None, **kwargs: Any) -> Any:
    """Remember in which darkness the model was trained; switch its blocks as night= says, for this validation."""
    from yolo_wnlb.yolo import night
    from yolo_wnlb.yolo.weights import unwrap

    asked = getattr(validator.args, "night", None)
    if asked is not None:
        model = night.load(validator.args.model if model is None else model)
    validator.trained_in = getattr(unwrap(model), "lowlight", None)
    before = VALIDATING.set(validator if trainer is None else None)
    try:
        with night.switched(night.blocks_of(model), asked):
            return stock(validator, trainer, model, **kwargs)
    finally:
        VALIDATING.reset(before)


def init_backend(stock: Callable[..., Any], backend: Any, *args: Any, **kwargs: Any) -> None:
    """Load a model; a validation that loads it reads pictures of more than 8 bits as the model was trained with."""
    stock(backend, *args, **kwargs)
    validator = VALIDATING.get()
    if validator is not None and getattr(validator.args, "curve", None) is None:
        from yolo_wnlb.yolo.sixteen_bits import recorded

        validator.args.curve = recorded(backend)


def run_callbacks(stock: Callable[..., Any], validator: Any, event: str) -> None:
    """Look at what was built, right before the first batch."""
    if event == "on_val_start" and not validator.training:
        from yolo_wnlb.yolo.darkness import check_validation

        check_validation(validator)
    stock(validator, event)


def patch_tuner(tuner: ModuleType) -> None:
    """Say at once that `tune` cannot darken."""
    wrap(tuner.Tuner, "__init__", init_tuner)


def init_tuner(stock: Callable[..., Any], tuner: Any, *args: Any, **kwargs: Any) -> None:
    """Refuse ARGUMENTS: each run of a tuner would fail on them, and be counted as one that learnt nothing.

    Raises: ValueError: the tuner starts Ultralytics in a way that does not know them.
    """
    given = dict(inspect.signature(stock).bind(tuner, *args, **kwargs).arguments.get("args") or {})
    if given.get("lowlight"):
        raise ValueError("tune does not know lowlight=; write a dark data set with 'yolo-wnlb darken', and tune on it")
    for name in ("denoise", "adversarial", "balanced", "curve"):
        if given.get(name):
            raise ValueError(f"tune does not know {name}=; tune without it, and give it to the training that follows")
    if given.get("night") is not None:
        raise ValueError("tune trains the blocks, so night= has no meaning for it; leave it out")
    stock(tuner, *args, **kwargs)


# ---- ultralytics.engine.predictor, exporter, model, ultralytics.utils.benchmarks: night= and curve= ----


def patch_predictor(predictor: ModuleType) -> None:
    """Let a predictor switch the blocks of its own copy of the model."""
    from yolo_wnlb.yolo import night

    predictor.AutoBackend.night = property(night.is_night, night.set_night)  # type: ignore[attr-defined]
    predictor.BasePredictor.night_switch = predictor.BasePredictor.night_asked = None  # type: ignore[attr-defined]
    predictor.BasePredictor.curve_asked = predictor.BasePredictor.curve_announced = None  # type: ignore[attr-defined]
    wrap(predictor.AutoBackend, "warmup", warmup)
    for name, wrapper in (
        ("setup_model", setup_predictor),
        ("setup_source", setup_source),
        ("stream_inference", stream_inference),
        ("inference", inference),
    ):
        wrap(predictor.BasePredictor, name, wrapper)


def warmup(stock: Callable[..., Any], backend: Any, *args: Any, **kwargs: Any) -> None:
    """Refuse pictures of other channels than the model takes: a validation warms up with those of its data set."""
    from yolo_wnlb.yolo.channels import check_pictures

    given = inspect.signature(stock).bind(backend, *args, **kwargs).arguments
    if "imgsz" in given:
        check_pictures(backend, given["imgsz"][1])
    stock(backend, *args, **kwargs)


def setup_predictor(stock: Callable[..., Any], predictor: Any, model: Any, *args: Any, **kwargs: Any) -> None:
    """Remember the blocks of the model that the predictor is made from, beside those of its own copy."""
    from yolo_wnlb.yolo import night

    stock(predictor, model, *args, **kwargs)
    predictor.night_switch = night.PredictorSwitch(model, predictor.model)


def setup_source(stock: Callable[..., Any], predictor: Any, source: Any, *args: Any, **kwargs: Any) -> None:
    """Let the source be read as curve= says, else as the model was trained."""
    from yolo_wnlb.imaging.curve import CURVES, read_curve
    from yolo_wnlb.yolo import sixteen_bits

    asked = predictor.curve_asked
    curve = read_curve(asked) if asked else sixteen_bits.recorded(predictor.model) or CURVES["auto"]
    channels = getattr(predictor.model, "channels", getattr(predictor.model, "ch", 3))  # the older name
    stock(predictor, sixteen_bits.developed(source, curve, channels), *args, **kwargs)
    sixteen_bits.leave_out_idle_raw(predictor.dataset)
    if hasattr(predictor.dataset, "cv2_flag"):
        predictor.dataset.cv2_flag = sixteen_bits.Flags(predictor.dataset.cv2_flag, curve, is_strict=False)
        if predictor.curve_announced != curve:
            sixteen_bits.announce(getattr(predictor.dataset, "files", []), curve)
            predictor.curve_announced = curve


def stream_inference(stock: Callable[..., Any], predictor: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
    """Take night= and curve= out of the arguments, which older releases keep, and let them hold for this call.

    Raises: ValueError: it was given for a model without blocks.
    """
    from yolo_wnlb.yolo import night

    asked, curve = (vars(predictor.args).pop(name, None) for name in ("night", "curve"))
    if asked is not None:
        if predictor.model is None:
            predictor.setup_model(inspect.signature(stock).bind(predictor, *args, **kwargs).arguments.get("model"))
        night.required_blocks(predictor.model)

    def results() -> Iterator[Any]:
        predictor.night_asked, predictor.curve_asked = asked, curve
        yield from stock(predictor, *args, **kwargs)

    return results()


def inference(stock: Callable[..., Any], predictor: Any, *args: Any, **kwargs: Any) -> Any:
    """Compute one batch with the blocks switched as this call asks, or as the model of the `YOLO` object is."""
    switch = predictor.night_switch
    if switch is None or not switch.own:
        return stock(predictor, *args, **kwargs)
    with switch.during_pass(predictor.night_asked):
        return stock(predictor, *args, **kwargs)


def patch_exporter(exporter: ModuleType) -> None:
    """Let an export be made without the blocks, and know the tone curve of its model."""
    wrap(exporter.Exporter, "__call__", export)
    wrap(exporter.Exporter, "run_callbacks", export_callbacks)
    wrap(exporter.Exporter, "get_int8_calibration_dataloader", calibration_loader)


def export(stock: Callable[..., Any], exporter: Any, model: Any = None, *args: Any, **kwargs: Any) -> Any:
    """Export the model as night= says, or as it is switched; refuse a format that would leave its scene out.

    In int8 the matrix products of the blocks stay in float; what TensorRT cannot do in 16 bits is named.
    """
    from ultralytics.utils import LOGGER

    from yolo_wnlb.yolo import int8, night, pooling, sixteen_bits, tensorrt
    from yolo_wnlb.yolo.weights import has_scene

    if has_scene(model):
        from yolo_wnlb.yolo import context

        context.check_export(exporter.args.format)
    asked = getattr(exporter.args, "night", None)
    exporter.night = night.is_night(model) if asked is None else asked
    exporter.curve = sixteen_bits.recorded(model)
    model = night.to_export(model, asked)
    bits = bits_of(exporter.args)
    if exporter.args.format == "engine" and bits == 16:
        for remark in tensorrt.remarks(model, exporter.args.imgsz):
            LOGGER.warning(f"wNLB: {remark}")
    with (
        int8.products_in_float(model, exporter.args.format if bits == 8 else ""),
        pooling.windows_within_maps(model, exporter.args.dynamic),
    ):
        return stock(exporter, model, *args, **kwargs)


def bits_of(args: Any) -> int:
    """Return 8, 16 or 32: quantize= of an export, or int8=True and half=True in releases before that word."""
    if getattr(args, "quantize", None) in (8, 16):
        return args.quantize
    return 8 if getattr(args, "int8", None) else 16 if getattr(args, "half", None) else 32


def export_callbacks(stock: Callable[..., Any], exporter: Any, event: str) -> None:
    """Write into the metadata whether the blocks of the model act in the export, and its tone curve."""
    from yolo_wnlb.imaging.curve import as_settings
    from yolo_wnlb.yolo import night, sixteen_bits

    if event == "on_export_start" and exporter.night is not None:
        exporter.metadata[night.KEY] = exporter.night
    if event == "on_export_start" and exporter.curve is not None:
        exporter.metadata[sixteen_bits.KEY] = as_settings(exporter.curve)
    stock(exporter, event)


def calibration_loader(stock: Callable[..., Any], exporter: Any, *args: Any, **kwargs: Any) -> Any:
    """Calibrate INT8 on pictures that are read through the curve of the model."""
    loader = stock(exporter, *args, **kwargs)
    if exporter.curve is not None:
        loader.dataset.curve = exporter.curve
    return loader


def patch_model(model: ModuleType) -> None:
    """Let `YOLO(...).night` be `YOLO(...).model.night`, and `benchmark` know night=."""
    from yolo_wnlb.yolo import night

    model.Model.night = property(night.is_night, night.set_night)  # type: ignore[attr-defined]
    wrap(model.Model, "benchmark", benchmark)
    wrap(model.Model, "reset_weights", reset_weights)


def reset_weights(stock: Callable[..., Any], owner: Any) -> Any:
    """Draw all weights anew, but for a scene: its frozen network stays, and its layer starts at 0."""
    import torch

    from yolo_wnlb.yolo.weights import has_scene

    if not has_scene(owner.model):
        return stock(owner)
    from yolo_wnlb.yolo import context

    with context.without(owner.model) as scene:
        found = stock(owner)
    torch.nn.init.zeros_(scene.fc.weight)
    return found


def patch_benchmarks(benchmarks: ModuleType) -> None:
    """Let the function behind `yolo benchmark` know night= too: it would drop it for the PyTorch row."""
    wrap(benchmarks, "benchmark", benchmark)


def benchmark(stock: Callable[..., Any], *args: Any, night: bool | None = None, **kwargs: Any) -> Any:
    """Switch the blocks of the model, the first argument of both, while all formats are measured.

    Raises: ValueError: night= is neither True nor False, or the model has no blocks.
    """
    if night is None:
        return stock(*args, **kwargs)
    from ultralytics import YOLO

    from yolo_wnlb.yolo.night import check_value, required_blocks, switched

    check_value(night)
    bound = inspect.signature(stock).bind(*args, **kwargs)
    bound.apply_defaults()
    first = next(iter(bound.arguments))
    if isinstance(bound.arguments[first], (str, Path)):
        bound.arguments[first] = YOLO(bound.arguments[first])
    with switched(required_blocks(bound.arguments[first]), night):
        return stock(*bound.args, **bound.kwargs)
