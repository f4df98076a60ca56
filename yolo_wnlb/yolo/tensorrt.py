"""What NVIDIA's documentation says about attention such as that of the blocks, held against a model. Read, never run.

TensorRT computes softmax attention in one kernel, without the map of all pairs, in float16 and bfloat16 where queries
are 16 to 256 channels wide, in multiples of 8:
https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/transformers-fused-attention.html
In float16 the sum of such a kernel was reported to overflow at 65,536 keys, which bfloat16 cures:
https://github.com/tier4/autoware-ml/pull/95. The largest number of float16 is 65,504.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from yolo_wnlb.pairwise import SOFTMAX
from yolo_wnlb.wnlb import WNLB

NARROWEST, WIDEST, STEP = 16, 256, 8  # channels of the queries that are fused
MOST_KEYS = 65504
SIDE = 256  # of the input that strides are measured with, in pixels


def remarks(model: nn.Module, imgsz: Any) -> list[str]:
    """Say which blocks of a model TensorRT cannot compute in one kernel, or may overflow in, in float16.

    Args:
        model: A detector of Ultralytics that is exported.
        imgsz: Size of the export, pixels or (height, width).
    """
    blocks = {name: m for name, m in model.named_modules() if isinstance(m, WNLB) and m.operation in SOFTMAX}
    sides = [imgsz, imgsz] if isinstance(imgsz, int) else list(imgsz) * (2 if len(imgsz) == 1 else 1)
    strides = strides_of(model, list(blocks.values())) if blocks else []
    found = []
    for (name, block), stride in zip(blocks.items(), strides, strict=True):
        width = block.scale_and_width[1]
        if not can_fuse(width):
            found.append(
                f"the queries of the block {name} are {width} channels wide, and TensorRT fuses attention of "
                f"{NARROWEST} to {WIDEST} in multiples of {STEP} only: it will build the map of all pairs. To have it "
                f"fused, train a block with {remedy(block)}"
            )
        keys = math.prod(math.ceil(side / stride / block.sub_sample) for side in sides)
        if keys >= MOST_KEYS:
            found.append(
                f"the block {name} averages {keys} keys at {sides[0]}x{sides[1]} pixels; fused sums of float16 were "
                f"reported to overflow from about {MOST_KEYS} on. Export in bfloat16 or float32, at a smaller size, or "
                "train a block with a larger sub_sample"
            )
    return found


def can_fuse(width: int) -> bool:
    """Tell whether queries of so many channels are fused, by the documentation."""
    return NARROWEST <= width <= WIDEST and width % STEP == 0


def remedy(block: WNLB) -> str:
    """Return the option of a block with which its queries are as wide as the nearest width that is fused."""
    if block.operation == "gaussian":
        return "operation=embedded_gaussian and an embed_dim of such a width"  # here embed_dim is not the width
    width = block.scale_and_width[1]
    nearest = min(range(NARROWEST, WIDEST + 1, STEP), key=lambda other: abs(other - width))
    return f"embed_dim={nearest - (width - block.embed_dim)}"  # non_local_means has a channel more


@torch.no_grad()
def strides_of(model: Any, blocks: list[WNLB]) -> list[float]:
    """Return how many pixels of the input a position of the map in front of each block covers."""
    found: dict[WNLB, float] = {}

    def look(block: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        found[block] = SIDE / inputs[0].shape[-1]  # type: ignore[index]

    hooks = [block.register_forward_pre_hook(look) for block in blocks]
    was_training, weight = model.training, next(model.parameters())
    try:
        channels = model.yaml.get("channels") or 3
        model.eval()(torch.zeros(1, channels, SIDE, SIDE, dtype=weight.dtype, device=weight.device))
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return [found[block] for block in blocks]
