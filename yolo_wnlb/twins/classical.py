"""Enhancers that learn nothing: gamma, histograms and the retinex."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress

import cv2
import numpy as np

from yolo_wnlb.twins.pictures import to_codes
from yolo_wnlb.twins.specs import Enhancer

SIGMAS = (15, 80, 250)  # of the retinex: pixels
KEPT = 8  # sigma, in pixels of the smaller picture that a large one is computed on
CODES = 256  # the limit is in multiples of the mean count of a code: this many is a whole tile of one code


def gamma(argument: str, options: dict[str, str]) -> Enhancer:
    """Brighten by 255 (x / 255)^(1 / gamma)."""
    value = above_0("gamma", argument, "2.2")
    table = np.rint(255 * (np.arange(256) / 255) ** (1 / value)).astype(np.uint8)
    return Enhancer(f"gamma:{value:g}", "", lambda image, name: cv2.LUT(image, table))


def clahe(argument: str, options: dict[str, str]) -> Enhancer:
    """Equalise tiles of the luma, their contrast limited (Zuiderveld, Graphics Gems IV, 1994)."""
    limit = above_0("clahe", argument, "2")
    if limit > CODES:
        raise ValueError(f"clahe is {argument!r}; {CODES} limits nothing, and more has no effect: give at most {CODES}")
    return Enhancer(f"clahe:{limit:g}", "", lambda image, name: on_luma(image, cv2.createCLAHE(limit, (8, 8)).apply))


def above_0(kind: str, argument: str, default: str) -> float:
    """Read the number behind the colon."""
    with suppress(ValueError):
        if 0 < (value := float(argument or default)) < math.inf:
            return value
    raise ValueError(f"{kind} is {argument!r}; wanted a number above 0: {kind}[:{default}]")


def on_luma(image: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Change the luma and keep the chroma; exact for grey. (The L of 8-bit LAB merges dark codes.)"""
    luma, *chroma = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb))
    return cv2.cvtColor(cv2.merge([change(luma), *chroma]), cv2.COLOR_YCrCb2RGB)


def equalize(image: np.ndarray, name: str = "") -> np.ndarray:
    """Equalise the histogram of the luma."""
    return on_luma(image, cv2.equalizeHist)


def retinex(image: np.ndarray, name: str = "") -> np.ndarray:
    """Multi-scale retinex: the mean over scales of log x - log (Gaussian * x), in each channel.

    Source: Jobson, Rahman, Woodell, "A Multiscale Retinex for Bridging the Gap Between Color Images
    and the Human Observation of Scenes", IEEE Trans. Image Processing 6(7), 1997, with equal weights.
    Differs: x is the code plus 1; for want of a fixed gain and offset the 1st and 99th percentile
    of all channels become 0 and 255; no colour restoration.
    """
    codes = image.astype(np.float32) + 1
    surround = np.ones_like(codes)
    for sigma in SIGMAS:
        surround *= blur(codes, sigma)
    ratio = cv2.log(codes) - cv2.log(surround) / len(SIGMAS)
    low, high = np.percentile(ratio, (1, 99))
    if high - low < 1e-3:  # a code more or less is 0.004 or above: it is flat
        return image.copy()
    return to_codes(ratio, (low, high))


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Blur by a Gaussian of a large sigma on a smaller picture; borders are mirrored.

    Averaging pixels to 1 / f of the side and interpolating back add f^2 / 12 and f^2 / 6 to the variance.
    """
    sides = [max(1, round(side * KEPT / sigma)) for side in image.shape[1::-1]]
    x, y = (math.sqrt((sigma * small / side) ** 2 - 0.25) for small, side in zip(sides, image.shape[1::-1]))
    small = cv2.resize(image, sides, interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), x, sigmaY=y, borderType=cv2.BORDER_REFLECT)
    return cv2.resize(small, image.shape[1::-1], interpolation=cv2.INTER_LINEAR).reshape(image.shape)
