"""What one block does, in numbers: how strongly it changes its input, and how many positions it averages over."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from yolo_wnlb.pairwise import CONTROLS, SOFTMAX
from yolo_wnlb.visualize.observation import Observation
from yolo_wnlb.wnlb import WNLB
from yolo_wnlb.yolo.features import distance

GRID = 8  # positions a side, of the grid whose neighbours are counted


@dataclass
class BlockStatistics:
    """What one block does.

    Attributes:
        layer: Its place in the model: "5".
        stage: "P3" where the stride is 8, "1/12" where it is no power of two.
        stride: Pixels of the input to a position, along a side.
        channels: Of x and z.
        operation: As in `WNLB`.
        sub_sample: As in `WNLB`.
        w: None for the plain non-local block, which has none; the mean where each channel has its own.
        w_text: The same as text, with the range of all channels: "0.25", "-0.1 to 0.3", "none".
        w_z_norm: Frobenius norm of W_z with its normalisation folded in.
        change: |z - x| / |x| in each image: Frobenius norms of the whole map.
        neighbours: Effective number of neighbours in each image, the median of a grid of positions.
        neighbours_at: The same of the one position chosen in each image.
        keys: How many neighbours there are to choose from in each image.
        twin_before: Distance of x, of the dark picture, to the same features of its bright twin, in each image:
            mean((x - t)^2) / var(t), where the model without its blocks computes t. Empty without bright twins.
        twin_after: The same of z.
    """

    layer: str
    stage: str
    stride: int
    channels: int
    operation: str
    sub_sample: int
    w: float | None
    w_text: str
    w_z_norm: float
    change: list[float] = field(default_factory=list)
    neighbours: list[float] = field(default_factory=list)
    neighbours_at: list[float] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)
    twin_before: list[float] = field(default_factory=list)
    twin_after: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.stage}, layer {self.layer}"


@torch.inference_mode()
def attention(block: WNLB, x: Tensor, positions: Sequence[tuple[int, int]]) -> Tensor:
    """Compute f(x_i, x_j) / C(x) of some positions i alone: no N x M map.

    Args:
        block: Any form of it.
        x: The map that goes into it, (1, C, H, W).
        positions: (row, column) of each i.

    Returns: (len(positions), h, w), over the keys j: positions, or windows of sub_sample x sub_sample
        of them. Rows of the softmax forms sum to 1; those of the others may not, and a dot product
        may be negative. 'depthwise' has other weights in each channel: their mean sizes.
    """
    height, width = x.shape[2:]
    if block.operation in CONTROLS:
        kernel = block.depthwise.weight.abs().mean((0, 1)) if block.operation == "depthwise" else x.new_ones(1, 1)
        reach = len(kernel) // 2
        weights = x.new_zeros(len(positions), height + 2 * reach, width + 2 * reach)
        for weight, (row, column) in zip(weights, positions):
            weight[row : row + len(kernel), column : column + len(kernel)] = kernel
        return weights[:, reach : reach + height, reach : reach + width]
    theta, phi, _ = block.embed(x)
    if block.operation in SOFTMAX:
        theta, phi = block.queries_and_keys(theta, phi)
    q, k = theta[0, [row * width + column for row, column in positions]], phi[0]  # (Q, d), (M, d)
    if block.operation == "dot_product":
        weights = q @ k.T / len(k)
    elif block.operation == "concatenation":
        w_f: Any = block.W_f[0]
        w_q, w_k = w_f.weight.reshape(2, -1, 1).unbind()
        weights = torch.relu(q @ w_q + (k @ w_k).T + w_f.bias) / len(k)  # (Q, 1) + (1, M)
    else:
        weights = (q @ k.T * block.scale_and_width[0]).softmax(1)
    return weights.reshape(len(q), *(-(-side // block.sub_sample) for side in (height, width)))


def effective_neighbours(weights: Tensor) -> Tensor:
    """Count how many keys share the attention: exp(entropy) of |weights| (Q, h, w) -> (Q,).

    From 1, all on one key, to h * w, all alike; 0 if there is no weight at all.
    """
    size = weights.flatten(1).abs().double()
    share = size / size.sum(1, keepdim=True).clamp_min(1e-300)
    return torch.special.entr(share).sum(1).exp() * (share.sum(1) > 0.5)


@torch.inference_mode()
def w_z_norm(block: WNLB) -> float:
    """Frobenius norm of the matrix that W_z applies to y, its normalisation included."""
    conv: Any = block.W_z[0]
    norm: Any = block.W_z[1]
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    return float((factor[:, None] * conv.weight.flatten(1)).norm())


def statistics_of(layer: str, block: WNLB, observation: Observation) -> BlockStatistics:
    """Return what does not depend on the image; `add_image` adds the rest."""
    stride = observation.letterbox.input[0] // observation.maps[layer][0].shape[2]
    stage = f"P{math.log2(stride):.0f}" if stride & (stride - 1) == 0 else f"1/{stride}"
    w = block.w.mean().item() if block.weighted else None
    form = (block.in_channels, block.operation, block.sub_sample, w, block.w_text)
    return BlockStatistics(layer, stage, stride, *form, w_z_norm(block))


def add_image(statistics: BlockStatistics, block: WNLB, observation: Observation) -> np.ndarray:
    """Add the numbers of one image; return the attention of its position, (h, w)."""
    x, z = observation.maps[statistics.layer]
    statistics.change.append(float((z - x).norm() / x.norm().clamp_min(1e-30)))
    grid = [np.linspace(0, side - 1, min(side, GRID)).round().astype(int).tolist() for side in x.shape[2:]]
    of_grid = attention(block, x, [(row, column) for row in grid[0] for column in grid[1]])
    statistics.neighbours.append(float(effective_neighbours(of_grid).median()))
    if observation.twin:
        target = observation.twin[statistics.layer]
        statistics.twin_before.append(float(distance(x, target)))
        statistics.twin_after.append(float(distance(z, target)))
    position = observation.letterbox.map_position(observation.position, observation.bright, x.shape)
    of_position = attention(block, x, [position])
    statistics.neighbours_at.append(float(effective_neighbours(of_position)))
    statistics.keys.append(of_position[0].numel())
    return of_position[0].numpy()


def why_identity(statistics: BlockStatistics) -> str:
    """Say why a block changes nothing."""
    if statistics.w_text == "0":
        return "w = 0"
    return "W_z = 0" if statistics.w_z_norm == 0 else "W_z(y) = x"
