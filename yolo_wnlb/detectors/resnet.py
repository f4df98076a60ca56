"""Blocks in a torchvision ResNet: one call for every detector that stands on such a body.

A stage of a ResNet is an `nn.Sequential`, so a block added to it runs last, and no tensor that was
there before gets another name: weights load with the blocks or without them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from yolo_wnlb.wnlb import WNLB

STAGES = (2, 3, 4, 5)  # res2 ... res5 of the paper, layer1 ... layer4 of torchvision


def insert_blocks(body: nn.Module, stages: Sequence[int] = STAGES, **options: Any) -> None:
    """Add a WNLB named `wnlb` at the end of the given stages, in place.

    Outputs stay equal bit for bit as long as every w is 0. Insert before the optimizer is made.
    The blocks are trainable even in a frozen stage, where no other parameter is.

    Args:
        body: A ResNet of torchvision, or what its detectors keep of one: `model.backbone.body`.
        stages: Which of res2 ... res5. At 800 x 1333 pixels res2 alone costs more than the detector.
        options: Of `WNLB`, the same for every block; `weighted=False` makes plain non-local blocks.

    Raises:
        ValueError: a stage is unknown, is not in the body, or has a block. The body is unchanged.

    Example:
        >>> from torchvision.models import resnet18
        >>> body = resnet18()
        >>> insert_blocks(body, stages=(4, 5), sub_sample=2)
        >>> body.layer3.wnlb.in_channels, body.layer4.wnlb.in_channels
        (256, 512)
    """
    if unknown := [stage for stage in stages if stage not in STAGES]:
        raise ValueError(f"stages must be among {STAGES} (res2 ... res5); got {unknown}")
    blocks: list[tuple[nn.Sequential, WNLB]] = []
    for stage in sorted(set(stages)):
        layer = getattr(body, f"layer{stage - 1}", None)
        if not isinstance(layer, nn.Sequential):
            raise ValueError(
                f"{type(body).__name__} has no stage layer{stage - 1}; give a torchvision ResNet "
                "(of a torchvision detector: model.backbone.body)"
            )
        if hasattr(layer, "wnlb"):
            raise ValueError(f"layer{stage - 1} (res{stage}) has a block already; insert each only once")
        last = [module for module in layer.modules() if isinstance(module, nn.Conv2d)][-1]
        block = WNLB(last.out_channels, **options)
        blocks.append((layer, block.to(last.weight.device, last.weight.dtype).train(layer.training)))
    for layer, block in blocks:
        layer.add_module("wnlb", block)
