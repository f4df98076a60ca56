"""Where chance comes from: for each picture, for the noise of each frame, and for what a sensor adds by place."""

from __future__ import annotations

import functools
import hashlib
import math
import random
from statistics import NormalDist

import numpy as np

from yolo_wnlb.imaging.bounds import whole_number

FRAME, BANDING, SITES, HOT = range(4)  # what random bits are for: one frame's pixels, its rows and columns, the camera


def picture_rng(seed: int, key: str) -> random.Random:
    """Return the source of randomness of one picture. It depends on the seed and on `key`, its path in the data set."""
    seed = whole_number("seed", seed, least=None)
    return random.Random(
        int.from_bytes(hashlib.blake2b(f"{seed}:{key}".encode(errors="surrogateescape"), digest_size=8).digest(), "big")
    )


def noise_source(noise_seed: int, frame: int, purpose: int = FRAME) -> np.random.SFC64:
    """Return the random bits of one frame, different for every pair of noise_seed and frame.

    Both numbers are written as two words of 32 bits. Four words fill NumPy's entropy pool exactly, and its
    mixing is reversible, so two pairs cannot have one state. (Given as they are, [5, 7] and [5 + 7 * 2**32, 0]
    would be the same words.) Another purpose has a fifth word, and with it other bits.
    """
    words = [number >> shift & 0xFFFFFFFF for number in (int(noise_seed), frame) for shift in (0, 32)]
    return np.random.SFC64(np.random.SeedSequence([*words, *([purpose] if purpose else [])]))


def words_of(source: np.random.SFC64, count: int) -> np.ndarray:
    """Return `count` random whole numbers of 16 bits."""
    return source.random_raw(-(-count // 4)).astype("<u8", copy=False).view("<u2")[:count]


@functools.cache
def normal_quantiles() -> np.ndarray:
    """Standard normal values of 65536 equally likely steps, float32: mean 0, variance 1."""
    upper = np.array([NormalDist().inv_cdf((i + 0.5) / 65536) for i in range(32768, 65536)])
    upper /= math.sqrt((upper * upper).mean())
    return np.concatenate([-upper[::-1], upper]).astype(np.float32)


def banding(
    height: int, width: int, sigma_row: float, sigma_column: float, noise_seed: int, frame: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return what one frame adds to each row, (H, 1), and to each column, (1, W); float32, in shares of white.

    One normal value for a row, as in Wei et al., "A Physics-based Noise Formation Model for Extreme Low-light Raw
    Denoising" (CVPR 2020, section 3.1), which calls it banding pattern noise; columns alike. EMVA Standard 1288
    (release 4.0) splits the temporal noise into the same three: of pixels, rows and columns.
    """
    normal = normal_quantiles()[words_of(noise_source(noise_seed, frame, BANDING), height + width)]
    return sigma_row * normal[:height, None], sigma_column * normal[None, height:]


@functools.lru_cache(8)
def site_values(height: int, width: int, camera_seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what each site of one camera has for ever: a normal value, and two uniform ones in [0, 1); float32."""
    normal = normal_quantiles()[words_of(noise_source(camera_seed, 0, SITES), height * width)]
    source = np.random.Generator(noise_source(camera_seed, 0, HOT))
    return tuple(v.reshape(height, width) for v in (normal, *source.random((2, height * width), np.float32)))  # type: ignore[return-value]


def fixed_pattern(height: int, width: int, sigma_fixed: float, hot_pixels: float, camera_seed: int) -> np.ndarray:
    """Return what the sites of one camera add to each picture, (H, W), float32, in shares of white.

    The offsets are normal: the dark signal non-uniformity of EMVA Standard 1288. A share `hot_pixels` of the sites
    adds more, evenly distributed between nothing and white. The sites follow from the camera's seed and the size of
    the picture alone, so they are the same in all its pictures and frames.
    """
    normal, rank, heat = site_values(height, width, camera_seed)
    return sigma_fixed * normal + np.where(rank < hot_pixels, heat, np.float32(0))
