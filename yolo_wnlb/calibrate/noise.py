"""Fit the noise of the camera model to pictures: simulate the same measurement, compare, correct, repeat.

Demosaicing smooths noise and correlates it, JPEG rounds some of it away, black clips half of it, and the response bends
all. Instead of formulas for each, the same statistics are taken from pictures that `imaging.capture` takes of the same
scenes at candidate parameters. Their ratio corrects the candidate until both agree: at the end the simulated camera
gives the measured variance at each brightness (the photon transfer curve of Janesick, "Photon Transfer", SPIE 2007,
and EMVA Standard 1288: variance against mean is a straight line in linear light).

All light is in shares of white, and linear: codes go through the inverse of the response that is taken for the camera.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from yolo_wnlb.imaging.camera import Shot
from yolo_wnlb.imaging.capture import capture
from yolo_wnlb.imaging.optics import without_colour
from yolo_wnlb.imaging.response import Crf, response
from yolo_wnlb.imaging.tables import look_up

CODES = (0, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 240)  # edges of the bins of brightness
FEWEST = 200  # values in a bin, or it says nothing
ROUNDS = 7
SMOOTH = 15  # side of the square whose mean is the brightness of a pixel
BLOCK, FLATTEST = 16, 0.1  # of single pictures: side of a block, share of the flattest ones
SIGNIFICANT = 4.0  # standard errors from which on banding and fixed pattern are there
LEAST_SIGMA = 1e-5


@dataclass(frozen=True)
class Noise:
    """What is fitted, all as shares of white; `Shot` has the same names."""

    sigma_s: float = 0.0
    sigma_c: float = 0.0
    sigma_row: float = 0.0
    sigma_column: float = 0.0
    sigma_fixed: float = 0.0


@dataclass(frozen=True)
class Measured:
    """Statistics of a set of pictures; the first axis are its parts (quarters of pairs, or pictures).

    Attributes:
        count, level, square: (parts, bins): number of values, sum of their light, sum of their squared noise.
        row, column, fixed: Variance of what rows, columns and sites have in common, and its standard error.
        grain: Correlation of the noise with itself three pixels along: denoising and compression leave blots.
    """

    count: np.ndarray
    level: np.ndarray
    square: np.ndarray
    row: tuple[float, float] = (0.0, 0.0)
    column: tuple[float, float] = (0.0, 0.0)
    fixed: tuple[float, float] = (0.0, 0.0)
    grain: float = 0.0

    def total(self, parts: np.ndarray | slice = slice(None)) -> float:
        """Return the variance over all bins."""
        return float(self.square[parts].sum() / max(self.count[parts].sum(), 1))

    def curve(self, parts: np.ndarray | slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
        """Return light and variance in each bin, nan where there are too few values."""
        count, level, square = (values[parts].sum(0) for values in (self.count, self.level, self.square))
        enough = np.where(count >= FEWEST, count, np.nan)
        return level / enough, square / enough


Pairs = Sequence[tuple[np.ndarray, np.ndarray]]


def linear(picture: np.ndarray, crf: Crf) -> np.ndarray:
    """Return the light of the green (or only) channel, float32."""
    plane = picture[..., 1] if picture.ndim == 3 else picture
    return look_up(np.ascontiguousarray(plane), light_of_codes(crf))


def linear_mono(picture: np.ndarray, crf: Crf) -> np.ndarray:
    """Return the light that a sensor without colour filters sees, float32 (H, W)."""
    light = look_up(picture, light_of_codes(crf))
    return without_colour(light) if light.ndim == 3 else light


def light_of_codes(crf: Crf) -> np.ndarray:
    """Return the light of each code of 8 bits, float32."""
    return response(crf)[1](np.arange(256) / 255).astype(np.float32)


def edges(crf: Crf) -> np.ndarray:
    """Return the light of CODES; what is below the first edge belongs to the first bin."""
    return response(crf)[1](np.array(CODES) / 255)


def measure_pairs(pairs: Pairs, crf: Crf) -> Measured:
    """Take the statistics of pairs of pictures of the same scene from their differences.

    The variance is that without what whole rows and columns have in common.
    """
    sums, rows, columns, fixed, grains = [], [], [], [], []
    for one, other in pairs:
        first, second = linear(one, crf), linear(other, crf)
        noise = (first - second) * np.float32(0.5**0.5)
        noise -= noise.mean()
        level = cv2.blur((first + second) / 2, (SMOOTH, SMOOTH), borderType=cv2.BORDER_REFLECT_101)
        height, width = (side // 2 for side in noise.shape)
        rows.append(in_common(noise))
        columns.append(in_common(noise.T))
        flat = noise - noise.mean(1, keepdims=True) - noise.mean(0, keepdims=True)
        for part in ((slice(y, y + height), slice(x, x + width)) for y in (0, height) for x in (0, width)):
            sums.append(binned(level[part], flat[part] ** 2, crf))
        power = max(float((flat**2).mean()), 1e-20)
        grains.append(float(((flat[:, :-3] * flat[:, 3:]).mean() + (flat[:-3] * flat[3:]).mean()) / 2) / power)
        detail = [light - cv2.blur(light, (SMOOTH, SMOOTH)) for light in (first, second)]
        detail = [light - light.mean(1, keepdims=True) - light.mean(0, keepdims=True) for light in detail]
        hot = np.maximum(*detail) > 6 * detail[0].std()
        product = np.where(cv2.dilate(hot.astype(np.uint8), np.ones((5, 5))) > 0, 0, detail[0] * detail[1])
        fixed.append(product[::4, ::4].ravel())
    row, column, site = (mean_and_error(products) for products in (rows, columns, fixed))
    count, light, square = np.stack(sums, 1)
    return Measured(count, light, square, row, column, site, float(np.median(grains)))


def in_common(noise: np.ndarray) -> np.ndarray:
    """Return for each row the product of the noise that its quarters have in common: its mean is the rows' variance.

    The noise of pixels in different quarters is independent, so it adds nothing to the mean.
    """
    side = noise.shape[1] // 4
    quarters = noise[:, : 4 * side].reshape(len(noise), 4, side).mean(2)
    quarters = quarters - quarters.mean(0)
    return ((quarters.sum(1) ** 2 - (quarters**2).sum(1)) / 12).astype(np.float64)


def mean_and_error(products: Sequence[np.ndarray]) -> tuple[float, float]:
    """Return the mean of all products and its standard error."""
    values = np.concatenate(products)
    return float(values.mean()), float(values.std() / len(values) ** 0.5)


def measure_singles(pictures: Sequence[np.ndarray], crf: Crf) -> Measured:
    """Take the statistics of single pictures from the residual of a plane in their flattest blocks.

    The flattest are those whose 4 x 4 means differ least for their own noise level: there, what varies is noise.
    """
    sums = []
    for picture in pictures:
        blocks = cut(linear(picture, crf))
        coarse = blocks.reshape(-1, BLOCK // 4, 4, BLOCK // 4, 4).mean((2, 4))
        contrast = coarse.std((1, 2)) / np.sqrt(blocks.mean((1, 2)) + 1e-3)
        blocks = blocks[np.argsort(contrast, kind="stable")[: max(1, round(FLATTEST * len(blocks)))]]
        square = (without_plane(blocks) ** 2).sum((1, 2), keepdims=True) / (BLOCK**2 - 3)
        level = np.broadcast_to(blocks.mean((1, 2), keepdims=True), blocks.shape)
        sums.append(binned(level, np.broadcast_to(square, blocks.shape), crf))
    return Measured(*np.stack(sums, 1))


def cut(plane: np.ndarray) -> np.ndarray:
    """Cut (H, W) into whole blocks (N, BLOCK, BLOCK)."""
    rows, columns = plane.shape[0] // BLOCK, plane.shape[1] // BLOCK
    whole = plane[: rows * BLOCK, : columns * BLOCK].reshape(rows, BLOCK, columns, BLOCK)
    return whole.swapaxes(1, 2).reshape(-1, BLOCK, BLOCK)


def without_plane(blocks: np.ndarray) -> np.ndarray:
    """Subtract from each block the plane that fits it best."""
    ramp = np.arange(BLOCK) - (BLOCK - 1) / 2
    size = BLOCK * (ramp**2).sum()
    down, along = ramp[None, :, None], ramp[None, None, :]
    slopes = [(blocks * axis).sum((1, 2), keepdims=True) / size * axis for axis in (down, along)]
    return blocks - blocks.mean((1, 2), keepdims=True) - slopes[0] - slopes[1]


def binned(level: np.ndarray, square: np.ndarray, crf: Crf) -> np.ndarray:
    """Sum in bins of brightness: (3, bins) of count, light, squared noise."""
    bins = len(CODES) - 1
    number = np.searchsorted(edges(crf)[1:], level.ravel(), side="right")  # the last one is too bright to measure
    sums = [np.bincount(number, weights, bins + 1)[:bins] for weights in (None, level.ravel(), square.ravel())]
    return np.stack([np.asarray(values, np.float64) for values in sums])


# ---- the same from our own camera ----------------------------------------------------------------


class Scene:
    """Pictures without noise to simulate on, and what they become: clipping at black makes the dark brighter.

    Args:
        pictures: uint8, smoothed.
        shot: Response, mosaic and JPEG quality of the camera.
        frames: Pictures that are taken of each scene: 2 for pairs.
    """

    def __init__(self, pictures: Sequence[np.ndarray], shot: Shot, frames: int):
        self.pictures, self.shot, self.frames = list(pictures), shot, frames
        self.wanted = response(shot.crf)[1](np.arange(256) / 255)  # light that each code of the scenes has to show
        self.table = np.arange(256, dtype=np.uint8)

    def taken(self, noise: Noise, number: int) -> list[np.ndarray]:
        """Take the pictures of one scene."""
        shot = replace(self.shot, **vars(noise), noise_seed=number)
        scene = cv2.LUT(self.pictures[number], self.table)
        return [capture(scene, shot, frame=k) for k in range(self.frames)]

    def adjust(self, taken: Sequence[Sequence[np.ndarray]]) -> None:
        """Darken the scenes so that with noise they are as bright as the real pictures."""
        count, total = np.zeros(256), np.zeros(256)
        for picture, shots in zip(self.pictures, taken):
            codes = (picture[..., 1] if picture.ndim == 3 else picture).ravel()
            light = sum(linear(shot, self.shot.crf) for shot in shots) / len(shots)
            count += np.bincount(codes, minlength=256)
            total += np.bincount(codes, np.asarray(light).ravel(), 256)
        if (seen := count >= FEWEST).sum() < 2:
            return
        excess = np.interp(np.arange(256), np.flatnonzero(seen), (total[seen] / count[seen]) - self.wanted[seen])
        light = np.clip(self.wanted[self.table] - 0.8 * np.maximum(excess, -self.wanted), 0, 1)
        table = np.maximum.accumulate(np.rint(255 * response(self.shot.crf)[0](light)))
        self.table = np.where(self.wanted < 0.25, table, self.table).astype(np.uint8)


def smoothed(picture: np.ndarray) -> np.ndarray:
    """Return a picture with most of its noise averaged away and its edges kept."""
    return cv2.GaussianBlur(cv2.medianBlur(picture, 5), (0, 0), 2)


@dataclass(frozen=True)
class Fit:
    """The result: the noise, its standard errors, and both measurements, whose curves agree if the model is right."""

    noise: Noise
    errors: Noise  # nan where a single part alone was measured
    each: np.ndarray  # how much noisier each part is than all of them
    real: Measured
    simulated: Measured
    scene: Scene
    measure: Callable[[Sequence[Sequence[np.ndarray]]], Measured]

    def octaves(self, noise: Noise | None = None) -> float:
        """Return how far the noise of the pictures is from that of the model, as the mean of |log2| over brightness."""
        if noise is None:
            return octaves_apart(self.real, self.simulated)
        few = range(min(4, len(self.scene.pictures)))
        return octaves_apart(self.real, self.measure([self.scene.taken(noise, i) for i in few]))


def octaves_apart(
    real: Measured, other: Measured, parts: np.ndarray | slice = slice(None), *, signed: bool = False
) -> float:
    """Return the mean of |log2| of the ratio of standard deviations over the bins that both have.

    parts: of the real ones. signed: of log2 itself, above 0 where the other is noisier.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        stops = np.log2(other.curve()[1] / real.curve(parts)[1]) / 2
    stops = stops[np.isfinite(stops)]
    if not len(stops):
        return float("nan")
    return float(stops.mean() if signed else abs(stops).mean())


def fit(
    real: Measured,
    scene: Scene,
    measure: Callable[[Sequence[Sequence[np.ndarray]]], Measured],
    *,
    dark: bool = False,
    known: Noise | None = None,
) -> Fit:
    """Correct the parameters until the simulated pictures measure as the real ones do.

    Args:
        real: What was measured of the pictures.
        scene: What to simulate on; it is adjusted.
        measure: The measurement that gave `real`, of pictures grouped by scene.
        dark: There was no light: sigma_s cannot be seen and stays 0, fixed pattern can.
        known: sigma_row, sigma_column and sigma_fixed that another source has given.
    """
    noise = first_guess(real, dark, known)
    for turn in range(ROUNDS):
        shown = range(len(scene.pictures)) if turn >= ROUNDS - 2 else range(min(8, len(scene.pictures)))
        taken = [scene.taken(noise, i) for i in shown]
        simulated = measure(taken)
        if turn == ROUNDS - 1:
            break
        noise = corrected(noise, real, simulated, dark, known)
        if not dark:
            scene.adjust(taken)

    rng = np.random.default_rng(0)
    parts = len(real.count)
    banding = noise.sigma_row**2 + noise.sigma_column**2 if known else 0.0
    telling = int((real.count.sum(1) >= FEWEST).sum())  # the spread of a single part is 0, whatever its error
    draws = [solve(noise, real, simulated, rng.integers(0, parts, parts), dark, banding) for _ in range(100)]
    sigma_s, sigma_c = np.array(draws).std(0) if telling > 1 else (np.nan, np.nan)
    lines = [
        value / (2 * max(square, 1e-20) ** 0.5) if square > 0 and known is None else 0.0
        for square, value in (real.row, real.column, real.fixed)
    ]
    each = np.array([2 ** -octaves_apart(real, simulated, np.array([i]), signed=True) for i in range(parts)])
    return Fit(noise, Noise(float(sigma_s), float(sigma_c), *lines), each, real, simulated, scene, measure)


def first_guess(real: Measured, dark: bool, known: Noise | None) -> Noise:
    """Read the line of variance against light off the pictures; demosaicing keeps five eighths of it in green."""
    level, variance = real.curve()
    usable = np.isfinite(variance)
    if dark:
        slope, offset = 0.0, 4 * real.total()
    else:
        slope, offset = line(level[usable], variance[usable] * 1.6)

    def there(found: tuple[float, float]) -> float:
        return found[0] ** 0.5 if found[0] > SIGNIFICANT * found[1] else 0.0

    common = (known.sigma_row, known.sigma_column, known.sigma_fixed) if known else (
        there(real.row), there(real.column), there(real.fixed) if dark else 0.0,
    )  # fmt: skip
    return Noise(slope**0.5, max(offset, LEAST_SIGMA**2) ** 0.5, *common)


def corrected(noise: Noise, real: Measured, simulated: Measured, dark: bool, known: Noise | None) -> Noise:
    """Return the parameters after one step."""

    def common(sigma: float, found: tuple[float, float], shown: tuple[float, float]) -> float:
        return sigma * float(np.clip(found[0] / shown[0], 0.25, 4)) ** 0.5 if sigma and shown[0] > 0 else sigma

    banding = noise.sigma_row**2 + noise.sigma_column**2 if known else 0.0
    sigma_s, sigma_c = solve(noise, real, simulated, slice(None), dark, banding)
    if known:
        return replace(noise, sigma_s=sigma_s, sigma_c=sigma_c)
    return Noise(
        sigma_s,
        sigma_c,
        common(noise.sigma_row, real.row, simulated.row),
        common(noise.sigma_column, real.column, simulated.column),
        common(noise.sigma_fixed, real.fixed, simulated.fixed),
    )


def solve(
    noise: Noise, real: Measured, simulated: Measured, parts: np.ndarray | slice, dark: bool, lines: float
) -> tuple[float, float]:
    """Return sigma_s and sigma_c after the ratio of measured and simulated variance, for some parts of the pictures.

    lines: The variance of banding that was measured with that of the pixels.
    """
    if dark:
        ratio = np.clip(real.total(parts) / max(simulated.total(), 1e-20), 1 / 16, 16)
        return 0.0, max(noise.sigma_c * float(ratio) ** 0.5, LEAST_SIGMA)
    level, variance = real.curve(parts)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = variance / simulated.curve()[1]
    target = np.clip(ratio, 1 / 16, 16) * (level * noise.sigma_s**2 + noise.sigma_c**2 + lines)
    usable = np.isfinite(target) & (target > 0)
    if not usable.any():
        return noise.sigma_s, noise.sigma_c
    slope, offset = line(level[usable], target[usable])
    return slope**0.5, max(offset - lines, LEAST_SIGMA**2) ** 0.5


def line(level: np.ndarray, variance: np.ndarray) -> tuple[float, float]:
    """Fit variance = slope level + offset, neither below 0, by the least squares of relative errors."""
    if len(level) < 2:
        return 0.0, float(variance[0]) if len(variance) else 0.0
    from scipy.optimize import nnls

    design = np.stack([level, np.ones_like(level)], 1) / variance[:, None]
    slope, offset = nnls(design, np.ones(len(level)))[0]
    return float(slope), float(offset)
