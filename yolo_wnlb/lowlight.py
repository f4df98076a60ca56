"""Low light from a bright picture: fewer photons, and the camera's own noise. NumPy only.

    electrons = Poisson(linear * exposure * full_well_e) + Normal(0, read_noise_e)

Foi, Trimeche, Katkovnik, Egiazarian, "Practical Poissonian-Gaussian Noise Modeling and Fitting for
Single-Image Raw-Data", IEEE TIP 2008. Curve between codes and light: IEC 61966-2-1 (sRGB).
"""

from __future__ import annotations

import math

import numpy as np


def to_linear(codes: np.ndarray) -> np.ndarray:
    """Turn sRGB codes 0..255 (any shape) into linear light in [0, 1], float64."""
    v = np.asarray(codes, np.float64) / 255
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def to_codes(linear: np.ndarray) -> np.ndarray:
    """Turn linear light (any shape, clipped to [0, 1]) into rounded sRGB codes, uint8."""
    v = np.clip(linear, 0, 1)
    v = np.where(v <= 0.0031308, v * 12.92, 1.055 * v ** (1 / 2.4) - 0.055)
    return np.rint(255 * v).astype(np.uint8)


def darken(
    image: np.ndarray,
    *,
    exposure: float = 0.05,
    full_well_e: float = 2000.0,
    read_noise_e: float = 3.0,
    rng: np.random.Generator,
) -> np.ndarray:
    """Take the picture again with less light.

    Args:
        image: uint8 sRGB codes, (H, W) or (H, W, C); RGB or BGR, channels are treated alike.
        exposure: Share of the light that is left, in (0, 1]; 1 keeps the brightness.
        full_well_e: Electrons of a white pixel at exposure 1, above 0; fewer are noisier.
        read_noise_e: Standard deviation of the read noise in electrons, 0 or more.
        rng: Source of the noise; the same state gives the same picture.
    Returns: uint8, the shape of `image`. In linear light its mean is `exposure` times that of the
        input and its variance `(signal_e + read_noise_e**2) / full_well_e**2`, up to clipping at
        black and white and rounding to codes.
    Raises: ValueError: image is not uint8 of two or three axes, or a number is out of range.
    Example:
        >>> darken(np.full((2, 3, 3), 255, np.uint8), rng=np.random.default_rng(0)).shape
        (2, 3, 3)
    """
    if image.dtype != np.uint8 or image.ndim not in (2, 3):
        raise ValueError(
            f"image is {image.dtype} of shape {image.shape}; wanted uint8 of shape (H, W) or "
            "(H, W, C): scale it to 0..255 and call .astype(np.uint8)"
        )
    if not 0 < exposure <= 1:
        raise ValueError(f"exposure is {exposure}; wanted above 0 and at most 1, e.g. 0.05")
    if not 0 < full_well_e < math.inf:
        raise ValueError(f"full_well_e is {full_well_e}; wanted electrons above 0, e.g. 2000")
    if not 0 <= read_noise_e < math.inf:
        raise ValueError(f"read_noise_e is {read_noise_e}; wanted electrons, 0 or more, e.g. 3")

    photons = rng.poisson(to_linear(image) * exposure * full_well_e)
    return to_codes((photons + rng.normal(0, read_noise_e, image.shape)) / full_well_e)
