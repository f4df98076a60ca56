"""Corruptions of pictures at graded levels: noise, blur, blur inside boxes, and 14 of Hendrycks and Dietterich's 15.

    corrupt(picture, "fog", level=3, rng=generator(seed, "fog", "images/a.jpg")) -> picture

The names in FAMILIES["common"] are the corruptions of ImageNet-C: Hendrycks and Dietterich, "Benchmarking Neural
Network Robustness to Common Corruptions and Perturbations" (ICLR 2019). Constants and procedures are those of their
released code, github.com/hendrycks/robustness, ImageNet-C/create_c/make_imagenet_c.py; the code here is our own. What
differs:

- Pictures have any size, as in Michaelis et al., "Benchmarking Robustness in Object Detection" (2019). Kernels keep
  their size in pixels, and fog is as large as the picture.
- `elastic` has the constants of Michaelis et al. (github.com/bethgelab/imagecorruptions). The original moves whole
  objects by up to 49 pixels, away from their labels; here pixels move by 1 to 2.
- Results are rounded, not truncated, and not stored as JPEG files of quality 85.
- Fog takes the lower neighbour where the original takes the right one twice.
- `frost` needs its photographs, which are not ours to ship.

The randomness of a picture follows from a seed, the corruption and the picture's path, never from the level: levels
differ in strength, and not in what was drawn. NumPy, OpenCV and Pillow only.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

from yolo_wnlb.imaging.bounds import whole_number
from yolo_wnlb.imaging.chance import picture_rng
from yolo_wnlb.words import suggestion

VERSION = 1  # rises whenever the same request would give other pixels
Boxes = Sequence[Sequence[float]]  # x, y, width, height in pixels
Change = Callable[[np.ndarray, Any, np.random.Generator], np.ndarray]


class Corruption(NamedTuple):
    """A corruption and what its levels mean.

    Attributes:
        change: Takes a float32 picture (H, W, C) with values in [0, 1], the strength and a source of randomness.
        strengths: Of level 1, 2, and so on.
        unit: What a strength is measured in; "" where it is a list of constants.
    """

    change: Change
    strengths: tuple[Any, ...]
    unit: str = ""


def corrupt(
    image: np.ndarray, name: str, level: int, rng: np.random.Generator, boxes: Boxes | None = None
) -> np.ndarray:
    """Corrupt a picture.

    Args:
        image: uint8 BGR (H, W, 3) or grey (H, W, 1), any H and W from 1 on.
        name: One of CORRUPTIONS.
        level: 1 (mild) to as many levels as the corruption has.
        rng: Source of randomness, as `generator` makes it.
        boxes: Of the objects; wanted by `boxblur` alone, which leaves everything outside them as it is.
    Returns: A new uint8 array of the same shape.
    Raises: ValueError: another type or shape, no such corruption or level, or boxblur without boxes.
    Example:
        >>> grey = np.full((2, 3, 3), 100, np.uint8)
        >>> corrupt(grey, "brightness", 1, generator(0, "brightness", "a.jpg"))[0, 0].tolist()
        [126, 126, 126]
    """
    check(name, level)
    if getattr(image, "dtype", None) != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3) or not image.size:
        found = f"{getattr(image, 'dtype', type(image).__name__)} {getattr(image, 'shape', '')}"
        raise ValueError(f"the picture is {found}; wanted uint8 (H, W, 3) in BGR, or (H, W, 1) in grey")
    change, strengths, _ = CORRUPTIONS[name]
    x = image.astype(np.float32) / 255
    y = change(x, strengths[level - 1], rng).reshape(image.shape)
    corrupted = np.rint(np.clip(y, 0, 1) * 255).astype(np.uint8)
    if name == "boxblur":
        if boxes is None:
            raise ValueError("boxblur needs the boxes of the objects, and was given none")
        corrupted = np.where(inside(boxes, image.shape[:2])[..., None], corrupted, image)
    return corrupted


def check(name: str, level: int) -> None:
    """Refuse a corruption or a level that does not exist.

    Raises: ValueError.
    """
    if name not in CORRUPTIONS:
        raise ValueError(f"no corruption {name!r}{suggestion(name, CORRUPTIONS)}; choose from {', '.join(CORRUPTIONS)}")
    most = len(CORRUPTIONS[name].strengths)
    if whole_number("level", level) not in range(1, most + 1):
        raise ValueError(f"level is {level}; {name} has the levels 1 to {most}")


def generator(seed: int, name: str, key: str) -> np.random.Generator:
    """Return the source of randomness of one picture: of the seed, the corruption and the picture's path alone."""
    return np.random.default_rng(picture_rng(seed, f"{name}:{key}").getrandbits(64))


# ---- noise ---------------------------------------------------------------------------------------


def gaussian_noise(x: np.ndarray, sd: float, rng: np.random.Generator) -> np.ndarray:
    """Add white noise of this standard deviation, in shares of white, to every value."""
    return x + np.float32(sd) * rng.standard_normal(x.shape, np.float32)


def noise_in_codes(x: np.ndarray, sd: float, rng: np.random.Generator) -> np.ndarray:
    """Add white noise of this standard deviation, in codes of 0 to 255, to every value."""
    return gaussian_noise(x, sd / 255, rng)


def shot_noise(x: np.ndarray, photons: float, rng: np.random.Generator) -> np.ndarray:
    """Count photons: a white value collects so many on average."""
    return rng.poisson(x * photons) / photons


def impulse_noise(x: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Turn this share of the values black or white, as often the one as the other."""
    hit, white = rng.random(x.shape), rng.random(x.shape)
    return np.where(hit < share, white < 0.5, x)


# ---- blur ----------------------------------------------------------------------------------------


def gaussian_blur(x: np.ndarray, sigma: float, rng: np.random.Generator | None = None) -> np.ndarray:
    """Blur by a Gaussian of sigma pixels, cut off at 4 sigma; the border is repeated."""
    side = 2 * int(4 * sigma + 0.5) + 1
    return cv2.GaussianBlur(x, (side, side), sigma, borderType=cv2.BORDER_REPLICATE).reshape(x.shape)


def defocus_blur(x: np.ndarray, strength: tuple[int, float], rng: np.random.Generator) -> np.ndarray:
    """Average over a disc; strength: its radius in pixels, and the sigma that smooths its edge."""
    radius, smoothing = strength
    reach, side = (8, 3) if radius <= 8 else (radius, 5)
    places = np.arange(-reach, reach + 1)
    disc = (places**2 + places[:, None] ** 2 <= radius**2).astype(np.float32)
    kernel = cv2.GaussianBlur(disc / disc.sum(), (side, side), smoothing)
    return cv2.filter2D(x, -1, kernel)


def glass_blur(x: np.ndarray, strength: tuple[float, int, int], rng: np.random.Generator) -> np.ndarray:
    """Blur, let pixels take the values of near ones, blur again; strength: sigma, reach in pixels, repetitions.

    The original visits all pixels from the lower right to the upper left, and each takes the value that a
    neighbour has by then (it means to swap the two, but NumPy's views make it a copy). Whose value that is follows
    from the drawn steps alone, so all pixels are looked up at once.
    """
    sigma, reach, repetitions = strength
    height, width = x.shape[:2]
    pixels = (np.clip(gaussian_blur(x, sigma), 0, 1) * 255).astype(np.uint8).reshape(height * width, -1)
    rows, columns = np.mgrid[:height, :width]
    moves = (rows > reach) & (rows <= height - reach) & (columns > reach) & (columns <= width - reach)
    own = np.arange(height * width)
    for _ in range(repetitions):
        dy, dx = np.floor(rng.random((2, height, width)) * 2 * reach).astype(int) - reach
        origin = np.where(moves, (rows + dy) * width + columns + dx, own.reshape(height, width)).ravel()
        # a neighbour that was visited before holds the value of its own origin by now
        follow = (origin > own) & moves.ravel()[origin]
        while follow.any():
            follow, origin = follow & follow[origin], np.where(follow, origin[origin], origin)
        pixels = pixels[origin]
    return gaussian_blur(pixels.reshape(x.shape).astype(np.float32) / 255, sigma)


def motion_blur(x: np.ndarray, strength: tuple[int, float], rng: np.random.Generator) -> np.ndarray:
    """Smear along a line of a random direction, -45 to 45 degrees; strength: see `smeared`."""
    return smeared(x, *strength, rng.uniform(-45, 45))


def smeared(x: np.ndarray, radius: int, sigma: float, angle: float) -> np.ndarray:
    """Smear to one side along a line, as ImageMagick's MotionBlurImage does.

    Args:
        x: Picture or plane; its border is repeated.
        radius: The line has 2 radius + 1 pixels.
        sigma: Of the half Gaussian that weighs them, in pixels.
        angle: Of the line in degrees.
    """
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    across, down = (
        np.ceil(steps * part(math.radians(angle)) - 0.5).astype(int) + len(steps) - 1 for part in (math.cos, math.sin)
    )
    kernel = np.zeros((2 * len(steps) - 1,) * 2, np.float32)
    np.add.at(kernel, (down, across), weights / weights.sum())
    return cv2.filter2D(x, -1, kernel, borderType=cv2.BORDER_REPLICATE).reshape(x.shape)


def zoom_blur(x: np.ndarray, factors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Average the picture and its enlargements by these factors."""
    return (x + sum(zoomed(x, factor) for factor in factors)) / (len(factors) + 1)


def zoomed(x: np.ndarray, factor: float) -> np.ndarray:
    """Enlarge the centre of a picture to the size of the picture, with linear interpolation."""
    matrix = np.zeros((2, 3))
    for axis, side in enumerate(x.shape[1::-1]):
        kept = math.ceil(side / factor)
        enlarged = round(kept * factor)  # its first and last pixel are those of what is kept
        scale = (kept - 1) / max(enlarged - 1, 1)
        matrix[axis, axis], matrix[axis, 2] = scale, (side - kept) // 2 + (enlarged - side) // 2 * scale
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(x, matrix, x.shape[1::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE).reshape(x.shape)


def inside(boxes: Boxes, size: tuple[int, int]) -> np.ndarray:
    """Mark the pixels that some box touches, bool (H, W)."""
    marked = np.zeros(size, bool)
    for left, top, width, height in boxes:
        rows = slice(max(0, math.floor(top)), max(0, math.ceil(top + height)))
        marked[rows, max(0, math.floor(left)) : max(0, math.ceil(left + width))] = True
    return marked


# ---- weather and digital -------------------------------------------------------------------------


def fog(x: np.ndarray, strength: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """Lay a fractal cloud over the picture; strength: its brightness, and how fast its details fade."""
    brightness, decay = strength
    height, width = x.shape[:2]
    cloud = fractal(1 << max(1, (max(height, width) - 1).bit_length()), decay, rng)[:height, :width, None]
    white = x.max()
    return (x + brightness * cloud.astype(np.float32)) * white / (white + brightness)


def fractal(side: int, decay: float, rng: np.random.Generator) -> np.ndarray:
    """Draw a cloud by the diamond-square algorithm, with opposite borders that fit: float (side, side) in [0, 1].

    Args:
        side: A power of 2, at least 2.
        decay: From one scale to the next finer one, the noise becomes weaker by its square.
        rng: Source of randomness.
    """
    cloud, step, amplitude = np.zeros((side, side)), side, 100.0
    while step >= 2:
        half, corners, spread = step // 2, cloud[::step, ::step], amplitude**2
        rows = corners + np.roll(corners, -1, 0)
        centres = (rows + np.roll(rows, -1, 1)) / 4 + rng.uniform(-spread, spread, corners.shape)
        cloud[half::step, half::step] = centres
        for axis, place in ((0, np.s_[::step, half::step]), (1, np.s_[half::step, ::step])):
            neighbours = centres + np.roll(centres, 1, axis) + corners + np.roll(corners, -1, 1 - axis)
            cloud[place] = neighbours / 4 + rng.uniform(-spread, spread, corners.shape)
        step, amplitude = half, amplitude / decay
    cloud -= cloud.min()
    return cloud / cloud.max()


def snow(x: np.ndarray, strength: tuple[float, ...], rng: np.random.Generator) -> np.ndarray:
    """Whiten the picture and let flakes fall over it.

    strength: mean and standard deviation of the noise that flakes are made of, its enlargement, the threshold above
    which it is a flake, radius and sigma of the fall, and the share of the picture that is not whitened.
    """
    mean, sd, enlargement, threshold, radius, sigma, kept = strength
    flakes = zoomed(np.float32(mean) + np.float32(sd) * rng.standard_normal(x.shape[:2], np.float32), enlargement)
    flakes = np.clip(np.where(flakes < threshold, 0, flakes), 0, 1).astype(np.float32)
    flakes = smeared(flakes, int(radius), sigma, rng.uniform(-135, -45))[..., None]
    grey = cv2.cvtColor(x, cv2.COLOR_BGR2GRAY)[..., None] if x.shape[2] == 3 else x
    return kept * x + (1 - kept) * np.maximum(x, grey * 1.5 + 0.5) + flakes + np.rot90(flakes, 2)


def brightness(x: np.ndarray, more: float, rng: np.random.Generator) -> np.ndarray:
    """Add to V of HSV, the largest channel; hue and saturation stay, so channels keep their ratios."""
    value = x.max(2, keepdims=True)
    brighter = np.minimum(value + np.float32(more), 1)
    return np.where(value > 0, x * (brighter / np.maximum(value, 1e-6)), brighter)


def contrast(x: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Keep this share of what each value differs from the mean of its channel."""
    means = x.mean((0, 1), keepdims=True, dtype=np.float64)
    return (x - means) * share + means


def elastic(x: np.ndarray, alpha: float, rng: np.random.Generator) -> np.ndarray:
    """Move pixels by smooth random steps.

    Steps are drawn from ±0.5 % of the height, smoothed by a Gaussian of 1 % of the sides, and multiplied by alpha.
    """
    height, width = x.shape[:2]
    sides = (2 * int(0.03 * width + 0.5) + 1, 2 * int(0.03 * height + 0.5) + 1)  # cut off at 3 sigma
    dx, dy = (
        alpha
        * cv2.GaussianBlur(
            rng.uniform(-0.005 * height, 0.005 * height, (height, width)).astype(np.float32),
            sides,
            0.01 * width,
            sigmaY=0.01 * height,
            borderType=cv2.BORDER_REFLECT,
        )
        for _ in range(2)
    )
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    return cv2.remap(x, columns + dx, rows + dy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def pixelate(x: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Shrink to this share of the sides and enlarge again, both by averaging over boxes."""
    height, width = x.shape[:2]
    small = to_pillow(x).resize((max(1, int(width * share)), max(1, int(height * share))), Image.Resampling.BOX)
    return from_pillow(small.resize((width, height), Image.Resampling.BOX))


def jpeg(x: np.ndarray, quality: int, rng: np.random.Generator) -> np.ndarray:
    """Store as a JPEG file of this quality and read it again."""
    stored = io.BytesIO()
    to_pillow(x).save(stored, "JPEG", quality=quality)
    return from_pillow(Image.open(stored))


def to_pillow(x: np.ndarray) -> Image.Image:
    """Turn a float picture, BGR or grey, into one of Pillow, RGB or grey."""
    codes = np.rint(x * 255).astype(np.uint8)
    return Image.fromarray(codes[..., 0] if codes.shape[2] == 1 else np.ascontiguousarray(codes[..., ::-1]))


def from_pillow(image: Image.Image) -> np.ndarray:
    """Turn a picture of Pillow, RGB or grey, into a float one, BGR or grey (H, W)."""
    return np.asarray(image)[..., ::-1].astype(np.float32) / 255 if image.mode == "RGB" else np.asarray(image) / 255


CORRUPTIONS: dict[str, Corruption] = {
    "noise": Corruption(noise_in_codes, (5, 10, 20, 40), "codes"),
    "blur": Corruption(gaussian_blur, (1, 2, 4, 8, 16), "px"),
    "boxblur": Corruption(gaussian_blur, (1, 2, 5, 10, 20, 45), "px"),
    "gaussian_noise": Corruption(gaussian_noise, (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot_noise": Corruption(shot_noise, (60, 25, 12, 5, 3)),
    "impulse_noise": Corruption(impulse_noise, (0.03, 0.06, 0.09, 0.17, 0.27)),
    "defocus_blur": Corruption(defocus_blur, ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))),
    "glass_blur": Corruption(glass_blur, ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))),
    "motion_blur": Corruption(motion_blur, ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))),
    "zoom_blur": Corruption(
        zoom_blur,
        tuple(np.arange(1, *end) for end in ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))),
    ),
    "snow": Corruption(
        snow,
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    ),
    "fog": Corruption(fog, ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))),
    "brightness": Corruption(brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": Corruption(contrast, (0.4, 0.3, 0.2, 0.1, 0.05)),
    "elastic": Corruption(elastic, (12.5, 16.25, 21.25, 25, 30)),
    "pixelate": Corruption(pixelate, (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg": Corruption(jpeg, (25, 18, 15, 10, 7)),
}
OF_OUR_OWN = ("noise", "blur", "boxblur")
FAMILIES = {**{name: (name,) for name in OF_OUR_OWN}, "common": tuple(n for n in CORRUPTIONS if n not in OF_OUR_OWN)}
