"""ultralytics.nn: the YAML word wNLB, pretrained weights, safe loading, what training adds to the loss, the scene."""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable
from types import ModuleType
from typing import Any

from yolo_wnlb.yolo.patches.wrapping import wrap

LOADED: weakref.WeakSet[Any] = weakref.WeakSet()  # models that were given pretrained weights


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

    LOADED.add(model)
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
