"""The mean of the last frames of a camera that stands still, at those pixels where nothing moves. NumPy and OpenCV.

The mean of N frames has 1 / sqrt(N) of their noise. An object that moves would be smeared, so each pixel is tested: the
brightness around it, averaged over a small square and over a large one, may differ from that in each of the last frames
by noise alone. Where it differs by more, the pixel is shown as it is in the newest frame. What noise alone does is read
off the frames themselves, for dark and bright parts apart, since shot noise grows with the light.

Parts of an object that hardly differ from the ground behind them are found by their neighbours (hysteresis, as in
Canny's edges): a smaller difference is a movement too where it is connected to a large one.

Frames of different scenes differ nearly everywhere, which would be taken for noise. At such a cut the mean starts anew.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import cv2
import numpy as np

CELL = 3  # pixels of the side of a cell; what moves is decided for each cell
SQUARES = (3, 9)  # cells of the sides of the squares whose mean brightness is compared
SURE, UNSURE = 5.0, 2.5  # standard deviations of the noise: a movement; one if it is connected to the former
LEAST = 0.2  # codes that one standard deviation counts as at least: frames without noise are rounded
LEVELS = 16  # of brightness, evenly spaced on a scale of square roots, with one noise each
STEPS = 96  # of the differences that are counted, on a scale of square roots up to MOST_DIFFERENCE
MOST_DIFFERENCE = 64.0  # codes
QUARTILE = 0.3186  # of the absolute value of a standard normal number
REMEMBERED = 9  # estimates of the noise whose median counts: a lamp that is switched on spoils one of them
ALIKE = 0.25  # share of their contrast by which two frames of one scene may differ, however the light changes
LEAST_CHANGE = 1.0  # codes, squared, that they differ by at least: compression leaves faint blots
NEAR = 1.5  # times the difference of neighbouring squares by which noise alone may change a square
MOST_FRAMES = 64


class Average(NamedTuple):
    """What `StillAverage.add` returns.

    Attributes:
        picture: uint8, the shape of the frame.
        still: Share of the pixels that are a mean of `frames` frames, in [0, 1]; 0 where `frames` is 1.
        frames: How many frames were averaged there: N, fewer at the beginning and after a cut, where it is 1.
    """

    picture: np.ndarray
    still: float
    frames: int


class StillAverage:
    """The mean of the last N frames of one scene where nothing moves; elsewhere the newest frame.

    Args:
        frames: N, 1 to 64. With 1 every frame is returned as it is.
    Raises: ValueError: N is out of range.
    Example:
        >>> average = StillAverage(4)
        >>> [average.add(np.full((32, 32, 3), code, np.uint8)).picture[0, 0, 0] for code in (10, 11, 90)]
        [10, 10, 90]
    """

    def __init__(self, frames: int):
        if not 1 <= frames <= MOST_FRAMES:
            raise ValueError(f"frames is {frames}; wanted 1 to {MOST_FRAMES}")
        self.most = frames
        self.pictures: deque[np.ndarray] = deque()
        self.total = np.zeros(0, np.uint16)  # their sum
        self.squares = np.zeros(0, np.float32)  # brightness of squares of the newest frame
        self.tests = [MotionTest(frames, side) for side in SQUARES]

    def add(self, frame: np.ndarray) -> Average:
        """Take the next frame, and return the mean as of now.

        Args:
            frame: uint8 (H, W), (H, W, 1) or (H, W, 3), of the size of those before.
        Raises: ValueError: another size or another type.
        """
        if frame.dtype != np.uint8:
            raise ValueError(f"the frame is {frame.dtype}; wanted uint8")
        if self.pictures and frame.shape != self.pictures[-1].shape:
            raise ValueError(f"a frame of shape {frame.shape} follows on frames of {self.pictures[-1].shape}")
        if self.most == 1:
            return Average(frame, 0.0, 1)
        cells = cells_of(frame)
        before, self.squares = self.squares, smaller(cells, SQUARES[0])
        if self.pictures and is_cut(self.squares, before):
            self.pictures.clear()
            self.tests = [MotionTest(self.most, side) for side in SQUARES]
        if not self.pictures:
            self.total = np.zeros(frame.shape, np.uint16)
        if len(self.pictures) == self.most:
            cv2.subtract(self.total, self.pictures.popleft(), dst=self.total, dtype=cv2.CV_16U)
        self.pictures.append(frame.copy())
        cv2.add(self.total, frame, dst=self.total, dtype=cv2.CV_16U)

        differences = np.max([test.difference(cells) for test in self.tests], axis=0)
        if len(self.pictures) == 1:
            return Average(frame, 0.0, 1)
        moved = with_neighbours(differences)
        moved = cv2.resize(moved, frame.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        picture = cv2.convertScaleAbs(self.total, alpha=1 / len(self.pictures)).reshape(frame.shape)
        cv2.copyTo(frame, moved, picture)
        return Average(picture, 1 - cv2.countNonZero(moved) / moved.size, len(self.pictures))


class MotionTest:
    """How far the brightness of squares is from that in the last frames, in standard deviations of its noise.

    Args:
        frames: How many frames are compared, with the newest one.
        side: Of the squares, in cells.
    """

    def __init__(self, frames: int, side: int):
        self.side = side
        self.levels: deque[np.ndarray] = deque(maxlen=frames - 1)  # brightness of the squares around all cells
        self.estimates: deque[np.ndarray] = deque(maxlen=REMEMBERED)

    def difference(self, cells: np.ndarray) -> np.ndarray:
        """Take the cells of the next frame, and return the largest difference of each from the frames before."""
        level = cv2.boxFilter(cells, -1, (self.side, self.side))
        before = list(self.levels)
        self.levels.append(level)
        if not before:
            return np.zeros_like(level)
        self.estimates.append(noise_of(level, before[-1]))
        noise = np.maximum(np.median(np.stack(self.estimates), axis=0), LEAST)
        codes = np.interp(np.arange(256) ** 0.5, np.arange(LEVELS) + 0.5, noise).astype(np.float32)
        darkest, brightest = before[0], before[0]
        for other in before[1:]:
            darkest, brightest = cv2.min(darkest, other), cv2.max(brightest, other)
        differs = cv2.max(cv2.subtract(brightest, level), cv2.subtract(level, darkest))
        return cv2.divide(differs, cv2.LUT(cv2.convertScaleAbs(level), codes))


def cells_of(frame: np.ndarray) -> np.ndarray:
    """Return the mean brightness of each cell of a frame, float32 (H / CELL, W / CELL)."""
    grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) if frame.ndim == 3 and frame.shape[2] == 3 else frame
    return smaller(grey.reshape(frame.shape[:2]).astype(np.float32), CELL)


def smaller(brightness: np.ndarray, side: int) -> np.ndarray:
    """Return the mean of each square of a map, of so many pixels a side."""
    height, width = brightness.shape
    return cv2.resize(brightness, (max(1, width // side), max(1, height // side)), interpolation=cv2.INTER_AREA)


def is_cut(squares: np.ndarray, before: np.ndarray) -> bool:
    """Return whether two frames, given as the brightness of their squares, show different scenes.

    A lamp changes the light and leaves the pattern; a moving object changes a small part of the contrast of all.
    Noise may be all the contrast of a dark frame, but it changes a square no more than neighbouring squares differ.
    """
    both = squares, before
    change = np.var(squares - before)
    # along rows or columns, whichever differ more: the banding of a sensor is along one of them
    near = np.mean([max(np.square(np.diff(one, axis=axis)).sum() for axis in (0, 1)) / one.size for one in both])
    return bool(change > max(LEAST_CHANGE, NEAR * near, ALIKE * sum(map(np.var, both))))


def with_neighbours(differences: np.ndarray) -> np.ndarray:
    """Return 255 where something moves: differences that are sure, unsure ones connected to them, and their rim."""
    unsure = (differences > UNSURE).astype(np.uint8)
    count, labels = cv2.connectedComponents(unsure, connectivity=8, ltype=cv2.CV_32S)
    is_sure = np.zeros(max(count, 1), np.uint8)
    is_sure[labels[differences > SURE]] = 255
    return cv2.dilate(is_sure[labels], np.ones((3, 3), np.uint8))


def noise_of(level: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Return the standard deviation of the difference of two maps of brightness, for each of LEVELS, in codes.

    It is read off the smaller differences (their quartile), which stay those of noise until three quarters of the
    cells of a level move. A level that few cells have gets the noise of its neighbours.
    """
    bins = np.minimum(np.sqrt(level), LEVELS - 1).astype(np.int32)  # LEVELS is the root of 256 codes
    steps = np.minimum(np.sqrt(cv2.absdiff(level, before) * (STEPS**2 / MOST_DIFFERENCE)), STEPS - 1).astype(np.int32)
    counts = np.bincount((bins * STEPS + steps).ravel(), minlength=LEVELS * STEPS).reshape(LEVELS, STEPS)
    share = counts.cumsum(1) / np.maximum(counts.sum(1, keepdims=True), 1)
    quartiles = np.array([np.interp(0.25, np.r_[0, row], np.arange(STEPS + 1)) for row in share])
    noise = quartiles**2 * (MOST_DIFFERENCE / STEPS**2) / QUARTILE
    seen = np.flatnonzero(counts.sum(1) >= 50)
    return np.interp(np.arange(LEVELS), seen, noise[seen]) if len(seen) else np.zeros(LEVELS)
