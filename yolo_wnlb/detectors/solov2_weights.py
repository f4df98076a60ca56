"""Load the published weights of SOLOv2, checkpoints of mmdetection, without mmdetection."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from yolo_wnlb.yolo.archive import check_archive

RENAMED = (  # theirs, ours; the names inside the head are the same
    (r"backbone\.", "backbone.body."),
    (r"neck\.lateral_convs\.(\d)\.conv\.", r"backbone.fpn.inner_blocks.\1.0."),
    (r"neck\.fpn_convs\.(\d)\.conv\.", r"backbone.fpn.layer_blocks.\1.0."),
    (r"mask_head\.", "head."),
)
PARTS = ("backbone.", "neck.", "mask_head.")
CLASSIFIER = ("head.conv_cls.weight", "head.conv_cls.bias")
COUNTER = "num_batches_tracked"


class Report(NamedTuple):
    """What `load_public` did with every entry of the file.

    used: names in the file of the tensors that were copied.
    other_classes: names in the file of its classifier, left out because the model has another
        number of classes; the model keeps its own.
    counters: batch counters of norms, for which a FrozenBatchNorm2d has no place.
    unused: all other names in the file.
    new: names in the model of what the file has not: the tensors of inserted blocks.
    classes: names of the classes with labels 1, 2, ..., if the file tells.
    """

    used: tuple[str, ...]
    other_classes: tuple[str, ...]
    counters: tuple[str, ...]
    unused: tuple[str, ...]
    new: tuple[str, ...]
    classes: tuple[str, ...]

    def __str__(self) -> str:
        parts = [
            f"SOLOv2: {len(self.used)} of {sum(map(len, self[:4]))} tensors used",
            f"{len(self.counters)} batch counters dropped" if self.counters else "",
            "the classifier keeps its start, as the classes are others" if self.other_classes else "",
            f"{len(self.unused)} unused (first: {self.unused[0]})" if self.unused else "",
            f"{len(self.new)} new in the blocks" if self.new else "",
        ]
        return "; ".join(part for part in parts if part)


def our_name(name: str) -> str:
    """Translate a name in the checkpoint to the one in `SOLOv2`."""
    for theirs, ours in RENAMED:
        if re.match(theirs, name):
            return re.sub(theirs, ours, name, count=1)
    return name


def read_checkpoint(file: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the state dict and the meta data of a checkpoint, running no code from it.

    Memory is bounded by the size of the file: by `check_archive` before it is read, by `check_tensors` after.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no checkpoint, holds objects that torch alone cannot read, or tensors that are not
            really in it.
    """
    check_archive(file)
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # its type depends on where the bytes stop making sense
        if isinstance(error, pickle.UnpicklingError) and (found := re.search(r"GLOBAL ([\w.]+)", str(error))):
            raise ValueError(
                f"{file} holds objects of the program that wrote it ({found[1]}), as checkpoints of one's own training "
                "do. Where that program is installed, keep only the tensors: c = torch.load(file, weights_only=False); "
                "torch.save({'state_dict': c['state_dict']}, new_file) (or c['model'], where that is the name)"
            ) from error
        raise ValueError(f"{file} is no PyTorch checkpoint ({type(error).__name__}); is it complete?") from error
    state = None
    if isinstance(content, dict):  # Salman et al. call it "model"
        state = next((content[key] for key in ("state_dict", "model") if isinstance(content.get(key), dict)), content)
    if not isinstance(state, dict) or not any(isinstance(value, Tensor) for value in state.values()):
        names = [key for key in content if isinstance(key, str)][:5] if isinstance(content, dict) else []
        raise ValueError(f"{file} holds no state_dict of tensors, but {names or type(content).__name__}")
    check_tensors(state, file)
    meta = content.get("meta")
    return state, meta if isinstance(meta, dict) else {}


def check_tensors(state: Mapping[Any, Any], file: str | Path) -> None:
    """Refuse a state dict whose tensors are not really in the file, all of their numbers.

    Raises: ValueError: a name is no text; a tensor is sparse, quantised or on no device; it claims more numbers
        than are stored, as one number repeated a billion times takes no room in a file.
    """
    for name, value in state.items():
        if not isinstance(name, str):
            raise ValueError(f"{file} holds no state_dict: one of its names is of type {type(name).__name__}")
        if not isinstance(value, Tensor):
            continue
        if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
            kind = "quantised" if value.is_quantized else f"{value.layout} on {value.device}"
            raise ValueError(f"{file}: {name} is {kind}; save plain tensors: value.dequantize(), .to_dense(), .cpu()")
        stored = value.untyped_storage().nbytes()
        if value.numel() * value.element_size() > stored:
            raise ValueError(
                f"{file}: {name} claims to be {tuple(value.shape)}, and {stored} bytes of it are stored; save it with "
                "value.contiguous()"
            )


def check_values(state: Mapping[str, Any], model: nn.Module, file: str | Path) -> None:
    """Refuse tensors that the model could only take as other numbers.

    Halved precision is taken as it is: float32 holds every float16 and bfloat16.

    Raises: ValueError: a tensor holds NaN or infinity, is of another kind (integers for weights, say), or has
        more digits than the model's own.
    """
    own_tensors = model.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{file}: {name} is {type(value).__name__}, no tensor")
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ValueError(f"{file}: {name} holds NaN or infinity; did the training diverge? Take an earlier file")
        if (own := own_tensors.get(name)) is None:
            continue
        if value.is_floating_point() != own.is_floating_point() or value.is_complex():
            raise ValueError(f"{file}: {name} is {value.dtype}, the model has {own.dtype}; save it as that")
        if value.element_size() > own.element_size() and not torch.equal(value.to(own.dtype).to(value.dtype), value):
            raise ValueError(
                f"{file}: {name} is {value.dtype} with more digits than {own.dtype} holds; convert it first"
            )


def class_names(meta: dict[str, Any]) -> tuple[str, ...]:
    """Return the class names in the meta data of a checkpoint, old or new; () if there are none."""
    inner = meta.get("dataset_meta")
    for place in (meta, inner if isinstance(inner, dict) else {}):
        for key in ("classes", "CLASSES"):
            if isinstance(names := place.get(key), (list, tuple)) and all(isinstance(name, str) for name in names):
                return tuple(names)
    return ()


def load_public(model: nn.Module, file: str | Path) -> Report:
    """Load a SOLOv2 checkpoint of mmdetection, such as solov2_r50_fpn_3x_coco, into a model of `solov2`.

    Blocks may be inserted before or after. If an error is raised, the model is unchanged.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read, or is of another model; says which tensors differ.
    """
    state, meta = read_checkpoint(file)
    ours = model.state_dict()
    theirs = {our_name(name): name for name, value in state.items() if isinstance(value, Tensor)}
    shared = {name: state[theirs[name]] for name in ours if name in theirs}
    differ = [name for name, value in shared.items() if value.shape != ours[name].shape]
    start = [name for name in differ if name in CLASSIFIER and shared[name].shape[1:] == ours[name].shape[1:]]
    new = [name for name in ours if name not in theirs and ".wnlb." in name]
    used = {theirs[name] for name in shared if name not in start}
    other_classes = {theirs[name] for name in start}
    rest = [name for name in state if name not in used and name not in other_classes]
    counters = [name for name in rest if name.endswith(COUNTER)]
    unused = [name for name in rest if name not in counters]

    wrong = [
        f"{theirs[name]} is {tuple(shared[name].shape)}, here {tuple(ours[name].shape)}"
        for name in differ
        if name not in start
    ]
    lacking = [name for name in ours if name not in theirs and name not in new]
    foreign = [name for name in unused if name.startswith(PARTS)]
    if wrong or lacking or foreign:
        examples = [*wrong[:3], *(f"{n} is missing" for n in lacking[:1]), *(f"no place for {n}" for n in foreign[:1])]
        raise ValueError(
            f"{file} is of another model: {len(wrong)} tensors have another shape, {len(lacking)} are missing, "
            f"{len(foreign)} have no place ({'; '.join(examples)}). solov2() fits the published R50, solov2_light() "
            "the light R50, solov2(backbone='resnet101') the R101; variants with deformable convolutions fit none"
        )
    taken = {name: value for name, value in shared.items() if name not in start}
    check_values(taken, model, file)
    model.load_state_dict(taken, strict=False)
    return Report(
        used=tuple(name for name in state if name in used),
        other_classes=tuple(name for name in state if name in other_classes),
        counters=tuple(counters),
        unused=tuple(unused),
        new=tuple(new),
        classes=class_names(meta),
    )
