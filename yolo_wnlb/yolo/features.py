"""Features of an Ultralytics model: where in it they are, what shapes they have, and how far two of them are apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from yolo_wnlb.yolo.grafting import stage_ends
from yolo_wnlb.yolo.weights import layers_of

NECK = "neck"  # a place: the inputs of the head
SIDE = 256  # pixels of the picture with which strides and channels of features are found


def places_of(model: Any, places: tuple[str, ...]) -> list[int]:
    """Return the layer numbers of places: P3 is the end of a stage, a block behind it included; neck the head's inputs.

    Raises: ValueError: the model has no such place.
    """
    ends, numbers = stage_ends(model.yaml), list[int]()
    for place in places:
        if place != NECK and place not in ends:
            raise ValueError(f"denoise: from names {place!r}; this model has {', '.join(ends)} and {NECK}")
        numbers += [ends[place]] if place != NECK else [int(number) for number in model.model[-1].f]
    return list(dict.fromkeys(numbers))


def features(model: Any, x: Any, wanted: list[int]) -> list[Tensor]:
    """Run the layers of a model up to the last one wanted, and return the outputs of those."""
    outputs: list[Any] = []
    layers: Any = layers_of(model)[: max(wanted) + 1]
    for number, layer in enumerate(layers):
        if layer.f != -1:
            x = outputs[layer.f] if isinstance(layer.f, int) else [x if j == -1 else outputs[j] for j in layer.f]
        x = layer(x)
        outputs.append(x if number in model.save or number in wanted else None)
    return [outputs[number] for number in wanted]


def shapes_of(model: Any, wanted: list[int]) -> list[tuple[int, ...]]:
    """Return the shapes (C, H, W) of the outputs of layers, for a picture of SIDE x SIDE pixels."""
    first, was_training = first_convolution(model), model.training
    with torch.no_grad():
        x = torch.zeros(1, first.in_channels, SIDE, SIDE, device=first.weight.device)
        outputs = features(model.eval(), x, wanted)
    model.train(was_training)
    return [tuple(output.shape[1:]) for output in outputs]


def layout(model: Any, places: Sequence[str]) -> tuple[list[int], list[int], dict[int, int]]:
    """Return the layers that a decoder reads at places, the stride of each, and {stride: number of its maps}."""
    layers = places_of(model, tuple(places))
    shapes = shapes_of(model, layers)
    strides = [SIDE // width for _, _, width in shapes]
    channels = dict.fromkeys(strides, 0)
    for stride, (count, _, _) in zip(strides, shapes):
        channels[stride] += count
    return layers, strides, channels


def by_stride(outputs: Sequence[Tensor], strides: Sequence[int]) -> dict[int, list[Tensor]]:
    """Gather maps that have one stride."""
    found: dict[int, list[Tensor]] = {}
    for output, stride in zip(outputs, strides, strict=True):
        found.setdefault(stride, []).append(output)
    return found


def norms_up_to(model: Any, deepest: int) -> list[Any]:
    """Return the batch norms of the layers of a model up to the deepest one that a decoder reads."""
    kind = nn.modules.batchnorm._BatchNorm
    return [norm for layer in layers_of(model)[: deepest + 1] for norm in layer.modules() if isinstance(norm, kind)]


def distance(features: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return mean((features - target)^2) / var(target) of two maps (B, C, H, W), in float32.

    Args:
        features, target: Maps of the same shape.
        weights: How much each position counts, (B, 1, H, W) in [0, 1]; None counts all alike.
    """
    features, target = features.float(), target.float()
    weights = torch.ones_like(target[:, :1]) if weights is None else weights
    number = target.shape[1] * weights.sum()
    mean = (weights * target).sum() / number.clamp(min=1)
    variance = (weights * (target - mean).square()).sum() / (number - 1).clamp(min=1)
    return (weights * (features - target).square()).sum() / number.clamp(min=1) / variance.clamp(min=1e-12)


def first_convolution(model: Any) -> nn.Conv2d:
    """Return the first convolution of a model."""
    return next(module for module in model.modules() if isinstance(module, nn.Conv2d))
