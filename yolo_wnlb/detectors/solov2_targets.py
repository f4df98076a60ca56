"""What SOLOv2 is trained on: which grid cell stands for which object, and the objects' small masks.

An object trains the cells around its centre of mass, on the one or two levels made for its size.
Cells of all levels share one index: level by level, row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Assignment(NamedTuple):
    """The targets of one image: P positives among S cells, N objects.

    labels: int64 (S,), class index of each cell, or the number of classes where there is no object.
    cells: int64 (P,), the positives by level, object, row. A cell that two objects claim is there
        twice; its label is that of the later object.
    objects: int64 (P,), the object whose mask each positive is to predict.
    masks: bool (N, H/4, W/4).
    """

    labels: Tensor
    cells: Tensor
    objects: Tensor
    masks: Tensor


def quarter(masks: Tensor) -> Tensor:
    """Shrink masks (N, H, W) to bool (N, H/4, W/4): at least two of the four pixels in the middle."""
    m = (masks != 0).to(torch.uint8)
    return m[:, 1::4, 1::4] + m[:, 1::4, 2::4] + m[:, 2::4, 1::4] + m[:, 2::4, 2::4] >= 2


def centres_of_mass(masks: Tensor) -> Tensor:
    """Return xy, float32 (N, 2), of masks (N, H, W), in pixel indices; 0 for an empty mask."""
    m = masks != 0
    columns, rows = m.sum(1), m.sum(2)  # how many pixels, (N, W) and (N, H)
    moments = [(counts * torch.arange(counts.shape[1], device=m.device)).sum(1) for counts in (columns, rows)]
    return torch.stack(moments, 1) / rows.sum(1, keepdim=True).clamp(min=1)  # of integers, exact


def cell_of(xy: Tensor, extent: Tensor, grid: int) -> Tensor:
    """Return the column and row, int64 (..., 2), of points xy in a picture of extent (width, height)."""
    return ((xy / extent) / (1 / grid)).trunc().long()


def assign(
    boxes: Tensor,
    labels: Tensor,
    masks: Tensor,
    *,
    num_classes: int,
    num_grids: Sequence[int],
    scale_ranges: Sequence[tuple[float, float]],
    pos_scale: float,
) -> Assignment:
    """Assign the objects of one image to the cells of all levels.

    Args:
        boxes: (N, 4) xyxy in pixels of the network's input.
        labels: int64 (N,) class indices, from 0.
        masks: (N, H, W), padded to the size of the batch; an object without a pixel is skipped.
        num_classes: The label of cells without an object.
        num_grids: Cells per side on each level.
        scale_ranges: Smallest and largest sqrt(box area) on each level, both included.
        pos_scale: Share of the box, around the centre of mass, whose cells are positive; at most
            one cell away from the centre's.
    """
    wh = boxes[:, 2:] - boxes[:, :2]
    size = wh.prod(1).sqrt()
    solid = masks.flatten(1).any(1) if len(masks) else torch.zeros_like(labels, dtype=torch.bool)
    centre, half = centres_of_mass(masks), 0.5 * wh * pos_scale
    extent = torch.tensor([masks.shape[2], masks.shape[1]], device=masks.device)
    step = torch.arange(-1, 2, device=masks.device)[:, None]
    cells, objects, start = [], [], 0
    for grid, (low, high) in zip(num_grids, scale_ranges):
        mine = ((low <= size) & (size <= high) & solid).nonzero()[:, 0]  # K objects of this level
        c, h = centre[mine], half[mine]
        first = cell_of(c - h, extent, grid).clamp(min=0)[:, None]
        last = cell_of(c + h, extent, grid).clamp(max=grid - 1)[:, None]
        near = cell_of(c, extent, grid)[:, None] + step  # (K, 3, 2), three columns and three rows
        inside = (first <= near) & (near <= last)
        which, row, column = (inside[:, :, None, 1] & inside[:, None, :, 0]).nonzero(as_tuple=True)
        cells.append(start + near[which, row, 1] * grid + near[which, column, 0])
        objects.append(mine[which])
        start += grid**2
    positives, owners = torch.cat(cells), torch.cat(objects)
    latest = labels.new_full((start,), -1).scatter_reduce(0, positives, owners, "amax")
    background = labels.new_tensor([num_classes])
    return Assignment(torch.cat([labels, background])[latest], positives, owners, quarter(masks))
