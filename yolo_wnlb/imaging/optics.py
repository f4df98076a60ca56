"""What happens to light before the sensor counts it: a lamp that lights the middle, defocus, motion, no colour filters.

All functions take and return light, which is linear, never codes.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

LONGEST_KERNEL = 1023  # pixels


def without_colour(light: np.ndarray) -> np.ndarray:
    """Return what a sensor without colour filters sees: the mean of the channels. (H, W, 3) -> (H, W)."""
    return light.mean(2, dtype=np.float32)


def lit_by_lamp(light: np.ndarray, lamp: float) -> np.ndarray:
    """Light a flat scene by a lamp beside the camera instead of evenly.

    A small lamp gives a wall cos^3 of the angle to its axis: the square of the distance takes two cosines, the slant of
    the wall one (Lambert). `lamp` is the tangent of that angle in the corners of the picture; 0 is an even light.
    """
    height, width = light.shape[:2]
    down, along = (np.arange(side) - (side - 1) / 2 for side in (height, width))
    corner = max(float(down[-1] ** 2 + along[-1] ** 2), 1.0)
    falloff = (1 + lamp**2 * (down[:, None] ** 2 + along**2) / corner) ** -1.5
    return light * falloff.astype(np.float32).reshape(height, width, *[1] * (light.ndim - 2))


def blurred(light: np.ndarray, sigma: float, length: float, angle: float) -> np.ndarray:
    """Spread light over its neighbours, as a lens out of focus and a camera that moves do.

    Args:
        light: float32, (H, W) or (H, W, 3).
        sigma: Standard deviation of a Gaussian, in pixels.
        length: Of a straight motion while the shutter is open, in pixels.
        angle: Its direction in degrees; 0 is along a row, 90 up a column.
    """
    if sigma > 0:
        light = cv2.GaussianBlur(light, (0, 0), sigma, borderType=cv2.BORDER_REFLECT_101)
    return cv2.filter2D(light, -1, motion_kernel(length, angle)) if length > 0 else light


def motion_kernel(length: float, angle: float) -> np.ndarray:
    """Return the weights of a straight motion, float32 with sum 1; its side is odd."""
    radius = min(math.ceil(length / 2) + 1, LONGEST_KERNEL // 2)
    places = np.linspace(-length / 2, length / 2, 8 * math.ceil(length) + 1)
    x, y = places * math.cos(math.radians(angle)) + radius, -places * math.sin(math.radians(angle)) + radius
    kernel = np.zeros((2 * radius + 1, 2 * radius + 1))
    for right in (0, 1):
        for below in (0, 1):  # each place gives its weight to the four pixels around it
            column, row = np.floor(x).astype(int) + right, np.floor(y).astype(int) + below
            np.add.at(kernel, (row, column), np.clip(1 - abs(x - column), 0, 1) * np.clip(1 - abs(y - row), 0, 1))
    return (kernel / kernel.sum()).astype(np.float32)
