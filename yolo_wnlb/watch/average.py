"""The mean of the last frames of a camera that stands still, at those pixels where nothing moves. NumPy and OpenCV.

The mean of N frames has 1 / sqrt(N) of their noise. An object that moves would be smeared, so each pixel is tested:
the brightness around it, averaged over a few pixels, may differ from that in each of the last frames by noise alone.
Where it differs by more, the pixel is shown as it is in the newest frame. What noise alone does is read off the frames
themselves, for dark and bright parts apart, since shot noise grows with the light.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import cv2
import numpy as np

SIDE = 9  # pixels of the square whose mean brightness is compared
SIGMAS = 4.5  # standard deviations of the noise from which on a difference is a movement
LEAST = 1.0  # codes: a smaller difference is no movement, whatever the noise
LEVELS = 16  # of brightness, evenly spaced on a scale of square roots, with one noise each
STEPS = 96  # of the differences that are counted, on a scale of square roots up to MOST_DIFFERENCE
MOST_DIFFERENCE = 64.0  # codes
QUARTILE = 0.3186  # of the absolute value of a standard normal number
EVERY = 3  # rows and columns: the noise is read off every third one
REMEMBERED = 9  # estimates of the noise whose median counts: a lamp that is switched on spoils one of them
MOST_FRAMES = 64


class Average(NamedTuple):
    """What `StillAverage.add` returns.

    Attributes:
        picture: uint8, the shape of the frame.
        still: Share of the pixels that are a mean of `frames` frames, in [0, 1]; 0 where `frames` is 1.
        frames: How many frames were averaged there: N, fewer at the beginning.
    """

    picture: np.ndarray
    still: float
    frames: int


class StillAverage:
    """The mean of the last N frames where nothing moves; elsewhere the newest frame.

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
        self.levels: deque[np.ndarray] = deque()  # mean brightness around each pixel, float32, of each picture
        self.estimates: deque[np.ndarray] = deque(maxlen=REMEMBERED)
        self.total = np.zeros(0, np.uint16)  # sum of the pictures

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
        grey = cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) if frame.ndim == 3 and frame.shape[2] == 3 else frame
        level = cv2.boxFilter(grey.reshape(frame.shape[:2]), cv2.CV_32F, (SIDE, SIDE))
        if self.levels:
            self.estimates.append(noise_of(level, self.levels[-1]))
        else:
            self.total = np.zeros(frame.shape, np.uint16)
        if len(self.pictures) == self.most:
            cv2.subtract(self.total, self.pictures.popleft(), dst=self.total, dtype=cv2.CV_16U)
            self.levels.popleft()
        self.pictures.append(frame.copy())
        cv2.add(self.total, frame, dst=self.total, dtype=cv2.CV_16U)
        moved = self.moved(level)
        self.levels.append(level)
        if moved is None:
            return Average(frame, 0.0, 1)
        picture = cv2.convertScaleAbs(self.total, alpha=1 / len(self.pictures)).reshape(frame.shape)
        cv2.copyTo(frame, moved, picture)
        return Average(picture, 1 - cv2.countNonZero(moved) / moved.size, len(self.pictures))

    def moved(self, level: np.ndarray) -> np.ndarray | None:
        """Return 255 where the newest brightness is not that of the frames before, uint8 (H, W); None without any."""
        if not self.levels:
            return None
        noise = np.median(np.stack(self.estimates), axis=0)
        thresholds = np.maximum(SIGMAS * noise, LEAST).astype(np.float32)
        codes = np.interp(np.arange(256) ** 0.5, np.arange(LEVELS) + 0.5, thresholds).astype(np.float32)
        threshold = cv2.LUT(cv2.convertScaleAbs(level), codes)
        darkest, brightest = self.levels[0], self.levels[0]
        for other in list(self.levels)[1:]:
            darkest, brightest = cv2.min(darkest, other), cv2.max(brightest, other)
        differs = cv2.max(cv2.subtract(brightest, level), cv2.subtract(level, darkest))
        moved = cv2.compare(differs, threshold, cv2.CMP_GT)
        return cv2.dilate(moved, np.ones((SIDE, SIDE), np.uint8))


def noise_of(level: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Return the standard deviation of the difference of two maps of brightness, for each of LEVELS, in codes.

    It is read off the smaller differences (their quartile), which stay those of noise until three quarters of the
    pixels of a level move. A level that few pixels have gets the noise of its neighbours.
    """
    level, before = level[::EVERY, ::EVERY], before[::EVERY, ::EVERY]
    bins = np.minimum(np.sqrt(level), LEVELS - 1).astype(np.int32)  # LEVELS is the root of 256 codes
    steps = np.minimum(np.sqrt(cv2.absdiff(level, before) * (STEPS**2 / MOST_DIFFERENCE)), STEPS - 1).astype(np.int32)
    counts = np.bincount((bins * STEPS + steps).ravel(), minlength=LEVELS * STEPS).reshape(LEVELS, STEPS)
    share = counts.cumsum(1) / np.maximum(counts.sum(1, keepdims=True), 1)
    quartiles = np.array([np.interp(0.25, np.r_[0, row], np.arange(STEPS + 1)) for row in share])
    noise = quartiles**2 * (MOST_DIFFERENCE / STEPS**2) / QUARTILE
    seen = np.flatnonzero(counts.sum(1) >= 50)
    return np.interp(np.arange(LEVELS), seen, noise[seen]) if len(seen) else np.zeros(LEVELS)
