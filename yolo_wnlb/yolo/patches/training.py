"""ultralytics.engine.trainer and tuner: checks at the door, and the parameter w in its own group."""

from __future__ import annotations

import importlib
import inspect
import operator
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

from yolo_wnlb.yolo.patches.arguments import ARGUMENTS, CHECKED_BY, plain
from yolo_wnlb.yolo.patches.network import LOADED
from yolo_wnlb.yolo.patches.wrapping import wrap


def patch_trainer(trainer: ModuleType) -> None:
    """Check what is about to be trained, and give the w of the blocks a parameter group of their own."""
    wrap(trainer.BaseTrainer, "setup_model", setup_model)
    wrap(trainer.BaseTrainer, "build_optimizer", build_optimizer)
    wrap(trainer.BaseTrainer, "_setup_train", setup_train)
    wrap(trainer.BaseTrainer, "check_resume", check_resume)
    if hasattr(trainer.BaseTrainer, "_build_train_pipeline"):  # it builds the loaders anew when memory ran out
        wrap(trainer.BaseTrainer, "_build_train_pipeline", build_train_pipeline)
    if hasattr(trainer, "MultiTrainer"):  # newer releases train on a list of data sets
        wrap(trainer.MultiTrainer, "__init__", init_multi_trainer)


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


def init_multi_trainer(
    stock: Callable[..., Any], multi: Any, trainer: Any, args: dict[str, Any], *more: Any, **kwargs: Any
) -> None:
    """Refuse ARGUMENTS where data=[...] trains in processes that do not know them: each would fail and be passed over.

    Raises: ValueError: one was given.
    """
    given = {name: args.get(name) for name in ARGUMENTS if args.get(name) not in (None, False)}
    if trainer is None and given:
        name, value = next(iter(given.items()))
        raise ValueError(
            f"{name}={value} and a list of data sets do not go together: Ultralytics trains on each of them in a "
            f"process that does not know {name}=. Train on one after another, or give train() the class as trainer="
        )
    stock(
        multi, trainer, {name: args[name] for name in args if name not in ARGUMENTS or name in given}, *more, **kwargs
    )


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
    named = isinstance(args.pretrained, (str, os.PathLike)) or str(args.model).endswith(".pt")
    trained = named or model in LOADED  # YOLO(YAML).load(FILE) names no file
    if ours and trained and (said := shaken_warmup(args)):
        LOGGER.warning(f"wNLB: {said}; give warmup_bias_lr=0, as optimizer=auto does")


def shaken_warmup(args: Any) -> str:
    """Say what the warm-up of these arguments of a training does to trained weights; "" where it does no harm."""
    adaptive = str(args.optimizer).lower() not in ("auto", "sgd", "musgd")
    if not adaptive or args.warmup_epochs <= 0 or args.warmup_bias_lr <= 10 * args.lr0:
        return ""
    return (
        f"with {args.optimizer}, warmup_bias_lr={args.warmup_bias_lr:g} at first moves each bias by about as much a "
        "step, which spoils pretrained weights"
    )


def check_resume(stock: Callable[..., Any], trainer: Any, overrides: dict[str, Any]) -> None:
    """Refuse night=, and on resume another value of ARGUMENTS than the run began with, which the stock function drops.

    Raises: ValueError: one of these was given.
    """
    from yolo_wnlb.yolo.darkness import check_resumed

    if getattr(trainer.args, "night", None) is not None:
        raise ValueError(
            "night= chooses a mode of a trained model for predict, track, val, export and benchmark; a training always "
            "has its blocks on. Leave night= out"
        )
    overrides = overrides or {}
    stock(trainer, {name: value for name, value in overrides.items() if name not in ARGUMENTS})  # it would warn of them
    if trainer.resume:
        for name in ARGUMENTS:
            is_same = getattr(importlib.import_module(f"yolo_wnlb.yolo.{CHECKED_BY[name]}"), "is_same", operator.eq)
            check_resumed(name, plain(overrides.get(name)), getattr(trainer.args, name, None), is_same)


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
