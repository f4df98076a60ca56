"""Carry pretrained weights over an insertion of blocks: every tensor, and a report of what moved.

Ultralytics matches tensors by name, and a name carries the number of its layer, so an inserted
layer makes the stock `load` drop three quarters of the tensors or more and put some into the wrong layer.
Here the source is lined up with the target first; then the stock `load` does all the rest.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from yolo_wnlb.wnlb import WNLB
from yolo_wnlb.yolo.channels import becomes_grey_or_colour, of_model

PLACES = (WNLB, nn.Identity)  # of blocks, with or without one
FORM = ("operation", "sub_sample", "weighted", "scale", "embed_dim", "w_per_channel")  # what a block was trained as
WRAPPED = ("_orig_mod", "module", "student_model")  # where torch.compile, DDP and distillation keep the model
DECODER = "denoiser"  # attribute of a model that is trained with denoise=bright, clean or n2n
SCENE = "scene"  # attribute of a model that has one
FIRST_CONV = "model.0.conv.weight"  # Ultralytics adapts it to other numbers of input channels


def unwrap(model: Any) -> Any:
    """Return the Ultralytics model inside of all that training wraps around it; anything else as it is.

    Wrappers are those of torch.compile, of distributed training, and of distillation (the student is
    the model), in any nesting.
    """
    inside = (getattr(model, name, None) for name in WRAPPED)
    inner = next((part for part in inside if isinstance(part, nn.Module)), None)
    return model if inner is None else unwrap(inner)


def has_blocks(model: Any) -> bool:
    """Tell whether an Ultralytics model has wNLB blocks among its layers."""
    return any(isinstance(layer, WNLB) for layer in layers_of(model))


def has_scene(model: Any) -> bool:
    """Tell whether a model has a scene beside its layers, or what looks like one."""
    return SCENE in getattr(model, "_modules", ())


def layers_of(model: Any) -> list[nn.Module]:
    """Return the layers of an Ultralytics model, or [] for any other module."""
    layers = getattr(model, "model", None)
    return list(layers) if isinstance(layers, nn.Sequential) else []


def align(source: nn.Module, target: nn.Module) -> tuple[nn.Module, list[WNLB]]:
    """Line the layers of the source up with those of the target.

    Where only the target has a block (or an `nn.Identity` row in front of one), an `nn.Identity`,
    which has no tensors, fills the place; a block of the source without a place is left out.

    Returns:
        A view of the source that shares its tensors, and the blocks left out of it.
    """
    theirs = iter(layers_of(source))
    left_out: list[WNLB] = []
    lined_up: list[nn.Module] = []
    waiting: list[nn.Module] = []  # places of the source at this point
    following = next(theirs, None)
    for layer in layers_of(target):
        while isinstance(following, PLACES):
            waiting.append(following)
            following = next(theirs, None)
        if isinstance(layer, PLACES):
            twin = next((place for place in waiting if type(place) is type(layer)), None)
            lined_up.append(nn.Identity() if twin is None else twin)
            waiting = [place for place in waiting if place is not twin]
        else:
            left_out += [place for place in waiting if isinstance(place, WNLB)]
            waiting = []
            lined_up += [] if following is None else [following]
            following = next(theirs, None)
    left_out += [place for place in waiting if isinstance(place, WNLB)]
    lined_up += [layer for layer in (following, *theirs) if layer is not None]
    view = copy.copy(source)
    view._modules = {**source._modules, "model": nn.Sequential(*lined_up)}
    return view, left_out


def report(source: nn.Module, target: nn.Module, left_out: list[WNLB]) -> tuple[str, list[str]]:
    """Say what a load of the aligned source into the target moved.

    Returns:
        The summary line, and the warnings (empty when the source is the target without blocks).
    """
    theirs, ours = tensors_of(source), tensors_of(target)
    fits = {name for name, tensor in theirs.items() if name in ours and ours[name].shape == tensor.shape}
    unfit = [name for name in theirs if name not in fits]
    blocks = tuple(f"model.{i}." for i, layer in enumerate(layers_of(target)) if isinstance(layer, WNLB))
    absent = [name for name in ours if name not in theirs]
    new = [name for name in absent if blocks and name.startswith(blocks)]
    last = f"model.{len(layers_of(source)) - 1}."
    head = [name for name in unfit if name.startswith(last)]
    stem = [name for name in unfit if name == FIRST_CONV and ours[name].shape[0] == theirs[name].shape[0]]
    lost = [name for name in unfit if name not in (*head, *stem)]

    summary = f"wNLB: {len(fits)}/{len(theirs)} tensors of the pretrained model kept, {len(new)} new in the blocks"
    if len(absent) > len(new):
        summary += f", {len(absent) - len(new)} new elsewhere"
    if head:
        summary += f"; {len(head)} of its head have another shape ({_head(source)} -> {_head(target)})"
    if becomes_grey_or_colour(source, target):
        how = "are summed over its" if of_model(target) == 1 else "of its 1 channel are shared out equally among the"
        pictures = max(of_model(source), of_model(target))
        summary += f"; the weights of the first convolution {how} {pictures} channels, exact for grey pictures"
    elif stem:
        summary += f"; the first convolution is adapted to {ours[FIRST_CONV].shape[1]} channels"
    if hasattr(source, DECODER):
        summary += f"; the decoder of its training with denoise= ({DECODER}.*) stays behind"
    warnings = []
    if left_out:
        values = ", ".join(f"w = {block.w_text}" if block.weighted else "no w" for block in left_out)
        warnings.append(f"wNLB: no place here for {len(left_out)} of the source's blocks, left out ({values})")
    for number, (a, b) in enumerate(zip(layers_of(source), layers_of(target))):
        if isinstance(a, WNLB) and isinstance(b, WNLB):
            pairs = [(name, getattr(a, name), getattr(b, name)) for name in FORM]
            if changed := [f"{name} {was} -> {now}" for name, was, now in pairs if was != now]:
                warnings.append(f"wNLB: block {number} was trained as another function ({', '.join(changed)})")
            if is_fixed(b) and a.weighted and bool((a.w != b.w_init).any()):
                warnings.append(f"wNLB: block {number} keeps its fixed w = {b.w_init:g}; it was {a.w_text}")
    kinds = [[type(x).__name__ for x in layers_of(m)[:-1] if not isinstance(x, PLACES)] for m in (source, target)]
    if kinds[0] != kinds[1] or any(not name.startswith(blocks) for name in lost):
        what = _mismatch(source, target, kinds[0] == kinds[1])
        example = f" (the first that does not fit: {lost[0]}, {_fit(lost[0], theirs, ours)})" if lost else ""
        warnings.append(
            f"wNLB: the pretrained weights are of {what}: {_name(source)} into {_name(target)}. Only {len(fits)} of "
            f"{len(theirs)} tensors fit by name and shape{example}; the rest keeps its random start. "
            "Give pretrained= the checkpoint of the same model and scale."
        )
    return summary, warnings


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a model by name, without a decoder's and a scene's, which stand beside its layers."""
    beside = (f"{DECODER}.", f"{SCENE}.")
    return {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(beside)}


def is_fixed(block: WNLB) -> bool:
    """Tell whether w is a constant of the model definition: then no checkpoint sets it."""
    return block.weighted and "w" in block._buffers


def hold_fixed(model: nn.Module) -> None:
    """Set every fixed w back to the value that the model definition gives it."""
    for block in layers_of(model):
        if isinstance(block, WNLB) and is_fixed(block):
            block.w.fill_(block.w_init)


def carry_names(source: Any, target: Any) -> None:
    """Give the target the class names of the source, if it has as many and only placeholders."""
    names = getattr(source, "names", None)
    placeholders = {i: str(i) for i in range(len(names or {}))}
    if isinstance(names, dict) and names and getattr(target, "names", None) == placeholders:
        target.names = dict(names)


def _mismatch(source: Any, target: Any, same_kinds: bool) -> str:
    scales = [(getattr(model, "yaml", None) or {}).get("scale") for model in (source, target)]
    if same_kinds and source.is_fused():
        return "a model fused for inference"
    return "another scale" if same_kinds and scales[0] != scales[1] else "another architecture"


def _name(model: Any) -> str:
    definition = getattr(model, "yaml", None) or {}
    return f"{definition.get('yaml_file', type(model).__name__)} (scale {definition.get('scale') or '-'})"


def _head(model: Any) -> str:
    return f"{type(layers_of(model)[-1]).__name__} of {len(getattr(model, 'names', None) or {})} classes"


def _fit(name: str, theirs: dict[str, Tensor], ours: dict[str, Tensor]) -> str:
    here = f"{tuple(ours[name].shape)} here" if name in ours else "absent here"
    return f"{tuple(theirs[name].shape)} there, {here}"
