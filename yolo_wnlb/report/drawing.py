"""Pictures as an HTML page holds them: as they are and brightened, in data: addresses, and outlines as SVG paths."""

from __future__ import annotations

import base64
import math
from typing import NamedTuple

import cv2
import numpy as np

from yolo_wnlb.imaging.sheet import resized, scaled
from yolo_wnlb.report.content import Shape

SHOWN_MEAN = 0.4  # mean brightness, of 1, that a dark picture is brightened to
LEAST_GAMMA = 1.25  # a picture that needs less is bright enough to be seen as it is
SIDE = 560  # units of the page of a picture's longer side, however many pixels are stored
SLACK = 0.6  # units by which a drawn outline may leave the true one


class Shown(NamedTuple):
    """A picture for a page.

    Attributes:
        width: In units of the page, the longer side is `SIDE`.
        height: The same.
        as_it_is: data: address of the picture.
        brightened: data: address of its brightened copy; "" where the picture is bright enough.
        gamma: Codes were raised to the power of 1 / gamma for the copy.
    """

    width: int
    height: int
    as_it_is: str
    brightened: str
    gamma: float


def shown(picture: np.ndarray, side: int, quality: int) -> Shown:
    """Store a picture with `side` pixels on its longer side, or fewer if it has no more, and a brightened copy.

    Args:
        picture: uint8 BGR (H, W, 3).
        side: Pixels.
        quality: Of JPEG, 1 to 100.
    """
    small = reduced(picture, side)
    gamma = gamma_for(small)
    brightened = ""
    if gamma >= LEAST_GAMMA:
        table = np.rint(255 * (np.arange(256) / 255) ** (1 / gamma)).astype(np.uint8)
        brightened = data_address(cv2.LUT(small, table), quality)
    height, width = scaled(picture.shape, SIDE)
    return Shown(width, height, data_address(small, quality), brightened, gamma)


def reduced(picture: np.ndarray, side: int) -> np.ndarray:
    """Return a picture whose longer side has `side` pixels, or the picture itself if it has no more."""
    return resized(picture, scaled(picture.shape, side)) if max(picture.shape[:2]) > side else picture


def gamma_for(picture: np.ndarray) -> float:
    """Return the gamma that brings the mean of a picture near `SHOWN_MEAN`: 1 for a bright one, 6 for a black one."""
    mean = max(float(picture.mean()), 1.0) / 255
    return max(math.log(mean) / math.log(SHOWN_MEAN), 1.0)


def data_address(picture: np.ndarray, quality: int) -> str:
    """Return a picture as the address of a JPEG that holds it."""
    code = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
    return f"data:image/jpeg;base64,{base64.b64encode(code).decode()}"


def as_path(shape: Shape, width: int, height: int) -> str:
    """Return the outlines of an object, or its box, as the `d` of an SVG path in units of the page.

    Args:
        shape: In pixels of the picture file.
        width: Of the picture file.
        height: The same.
    """
    scale = SIDE / max(width, height)
    x, y, w, h = shape.box
    outlines = shape.outlines or [[x, y, x + w, y, x + w, y + h, x, y + h]]
    parts = []
    for outline in outlines:
        points = np.asarray(outline, np.float32).reshape(-1, 1, 2) * scale
        points = cv2.approxPolyDP(points, SLACK, True)[:, 0]
        parts.append(f"M{'L'.join(f'{x:.1f} {y:.1f}' for x, y in points)}Z")
    return "".join(parts)
