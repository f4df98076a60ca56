"""A picture as the U-Net gets it: grey or colour, as its channels say, and with noise where that is asked for.

The noise is added to the codes, and nothing is clipped or rounded: at 8 bits a third of the pixels of a dark picture
would lie at 0, and the mean of what is left of the noise would not be 0, as Noise2Void assumes.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import cv2
import numpy as np

from yolo_wnlb.data import folders
from yolo_wnlb.data.validation import is_number
from yolo_wnlb.imaging.chance import picture_rng
from yolo_wnlb.words import suggestion

NOISES = {"n0": 0.0, "n10": 10.0, "n20": 20.0}  # the names of DenoiSeg, section 3: standard deviations in codes


def read_picture(file: str | Path) -> np.ndarray:
    """Read a picture: uint8 (H, W, 3), BGR.

    Raises: FileNotFoundError: it is not there. OSError: it cannot be read.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(f"there is no image {file}; leave it out, or correct its path")
    return folders.read_picture(Path(file))


def noise_level(noise: float | str) -> float:
    """Return the standard deviation of a noise, in codes, that has a name or is a number.

    Raises: ValueError: there is no such noise.
    """
    if isinstance(noise, str) and noise in NOISES:
        return NOISES[noise]
    wanted = f"wanted {', '.join(NOISES)}, or a standard deviation in codes, 0 or 1 to 255"
    if not is_number(noise) or not 0 <= noise <= 255:  # type: ignore[operator]
        meant = suggestion(noise, NOISES) if str(noise).casefold() in NOISES else ""  # n30 is no slip for n0
        raise ValueError(f"noise is {noise!r}{meant}; {wanted}")
    if 0 < noise < 1:  # type: ignore[operator]
        raise ValueError(f"noise is {noise!r}; {wanted}. Did you mean {255 * noise:.3g}, that share of 255?")  # type: ignore[operator]
    return float(noise)


def as_codes(picture: np.ndarray, channels: int) -> np.ndarray:
    """Return a picture in grey or colour: uint8 (H, W) or (H, W, 3), BGR -> uint8 (channels, H, W)."""
    if channels == 1:
        grey = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
        return grey[None]
    colour = picture if picture.ndim == 3 else cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR)
    return np.ascontiguousarray(colour.transpose(2, 0, 1))


def with_noise(codes: np.ndarray, noise: float) -> np.ndarray:
    """Add Gaussian noise of a standard deviation, always the same to the same picture: float32; unchanged with 0."""
    if not noise:
        return codes
    key = hashlib.sha256(np.ascontiguousarray(codes).tobytes()).hexdigest()
    rng = np.random.default_rng(picture_rng(0, key).getrandbits(64))
    return codes + rng.normal(0, noise, codes.shape).astype(np.float32)


def psnr(clean: np.ndarray, picture: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio of a picture in dB, of 255; infinite if it is the clean one."""
    error = float(np.mean((clean.astype(np.float64) - picture) ** 2))
    return 20 * math.log10(255 / math.sqrt(error)) if error else math.inf
