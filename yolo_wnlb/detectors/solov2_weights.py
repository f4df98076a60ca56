"""Load the published weights of SOLOv2, checkpoints of mmdetection, without mmdetection."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from yolo_wnlb.checkpoints import check_values, read_checkpoint

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
