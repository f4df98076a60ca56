"""Blind spots: pixels whose value is hidden from a network, which learns to denoise by guessing them. NumPy only.

One pixel in every box of 8 x 8 gets the value of a pixel near it. A network that is asked for the pixel's own noisy
value can only use its surroundings; where the noise of neighbouring pixels is independent and has mean 0, the best
guess is the picture without noise. Where noise is correlated between pixels (demosaiced, resized or JPEG pictures) the
surroundings hold a part of it, and the network learns to copy that part.

Sources: Krull, Buchholz and Jug, Noise2Void, CVPR 2019 (arXiv 1811.10980), section 4. The numbers are those of
DenoiSeg, Buchholz et al., ECCV workshop 2020 (arXiv 2005.02987), and of its code, github.com/juglab/DenoiSeg: 1.5 % of
the pixels, boxes of round(sqrt(100 / 1.5)) = 8 pixels, values drawn evenly from 11 x 11 pixels, of which the hidden one
is one.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypeVar

import numpy as np

from yolo_wnlb.data.validation import is_number, is_whole

SHARE = 0.015  # of the pixels of a picture, that are hidden
RADIUS = 5  # pixels, from a hidden pixel to the farthest row or column that its value may come from
LARGEST_SHARE = 0.25  # one pixel of 2 x 2; with a larger share the boxes would have one pixel, and all would be hidden

Picture = TypeVar("Picture", bound=Any)  # a NumPy array or a tensor


class Spots(NamedTuple):
    """Which pixels of a picture are hidden, and from where each gets a value. Four int64 arrays (N,).

    Attributes:
        rows, columns: The hidden pixels.
        source_rows, source_columns: The pixel whose value each of them gets.
    """

    rows: np.ndarray
    columns: np.ndarray
    source_rows: np.ndarray
    source_columns: np.ndarray


def spots(shape: tuple[int, int], rng: np.random.Generator, share: float = SHARE, radius: int = RADIUS) -> Spots:
    """Draw the blind spots of one picture.

    The picture is divided into boxes of `box_side(share)` pixels, from its upper left corner, and one pixel of every
    box is hidden. Of a box that the lower or right edge cuts, the pixel is drawn from the whole box, and left out where
    it lies outside: so all pixels are hidden equally often.

    Args:
        shape: Height and width of the picture; one box has to fit in.
        rng: Source of randomness.
        share: Of the pixels to hide, above 0 to 0.25. Default: 1.5 %, one of 64.
        radius: Values come from a window of 2 radius + 1 pixels around the hidden one, cut at the edges of the picture.
    Raises: ValueError: share or radius is out of range, or the picture is smaller than a box.
    Example:
        >>> len(spots((64, 64), np.random.default_rng(0)).rows)
        64
    """
    side = box_side(share)
    if not is_whole(radius) or radius < 1:
        raise ValueError(
            f"radius is {radius!r}; wanted a whole number of pixels, 1 or more: with 0 nothing would be hidden"
        )
    height, width = shape
    if min(shape) < side:
        raise ValueError(
            f"a picture of {height} x {width} pixels is smaller than a box of {side} x {side}, of which one pixel is "
            "hidden; take larger pictures, or a larger share"
        )
    tops, lefts = np.meshgrid(np.arange(0, height, side), np.arange(0, width, side), indexing="ij")
    rows = (tops + rng.integers(0, side, tops.shape)).ravel()
    columns = (lefts + rng.integers(0, side, lefts.shape)).ravel()
    inside = (rows < height) & (columns < width)
    rows, columns = rows[inside], columns[inside]
    return Spots(rows, columns, near(rows, height, radius, rng), near(columns, width, radius, rng))


def box_side(share: float) -> int:
    """Return the side of the boxes of which one pixel is hidden, in pixels.

    Raises: ValueError: the share is not above 0 and at most 0.25.
    """
    if not is_number(share) or not 0 < share <= LARGEST_SHARE:
        percent = f"; did you mean {share / 100:g}?" if is_number(share) and LARGEST_SHARE < share <= 25 else ""
        raise ValueError(
            f"share is {share!r}; wanted the share of pixels to hide, above 0 and at most {LARGEST_SHARE}{percent}"
        )
    return round(math.sqrt(1 / share))


def near(places: np.ndarray, length: int, radius: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a place of each window, one of 0 ... length - 1: evenly, and the middle of the window is allowed."""
    return rng.integers(np.maximum(places - radius, 0), np.minimum(places + radius, length - 1) + 1)


def blind(x: Picture, index: Spots) -> Picture:
    """Return a copy of a picture whose hidden pixels have the values of their sources.

    All channels are hidden together: the channels of a grey picture are equal, and a demosaiced pixel leaks into those
    of its neighbours. To hide each channel at other places, call this for each.

    Args:
        x: Array or tensor (..., H, W), of any type.
        index: What `spots((H, W), ...)` returned.
    """
    blinded = x.copy() if isinstance(x, np.ndarray) else x.clone()
    blinded[..., index.rows, index.columns] = x[..., index.source_rows, index.source_columns]
    return blinded


def hidden(shape: tuple[int, int], index: Spots) -> np.ndarray:
    """Return which pixels are hidden: bool (H, W). A hidden pixel may have been given its own value."""
    mask = np.zeros(shape, bool)
    mask[index.rows, index.columns] = True
    return mask
