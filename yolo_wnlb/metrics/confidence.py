"""Which confidence to set, what it gives, and whether confidences mean what they say: from `Matches`, at an IoU of 0.5.

    counts        right and wrong detections and objects of each picture, at a confidence
    threshold     the confidence with the best F-beta, and what it is worth
    calibration   the error of the confidences, before and after one temperature

A number that was chosen on some pictures looks too good on them. What a confidence or a temperature is worth is
therefore measured by cross-fitting: chosen on one half of the pictures, measured on the other, both ways, and taken
together. What is recommended is chosen on all of them. Pictures of one group (a place, a video) stay in one half.

One confidence serves all classes, as `conf=` of Ultralytics does. Detections are those of `evaluate`: every class of a
box that is likely enough, where `yolo predict` shows the best class of a box only.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np

from yolo_wnlb.metrics.matches import Matches

FLOOR = 0.05  # confidence below which a detection is not asked whether it means what it says: nearly all are false
BINS = 15  # of confidence, as in Guo et al. 2017
LARGEST = 20.0  # temperature, and the smallest is its inverse


@dataclass(frozen=True)
class Rates:
    """What a confidence gives, at an IoU of 0.5.

    Attributes:
        f_beta: Weighted harmonic mean of precision and recall, in [0, 1]; recall counts beta times as much.
        precision: Share of the detections that are right, in [0, 1]; 0 without detections.
        recall: Share of the objects that are found, in [0, 1].
        false_alarms: Detections that hit no object, per 1,000 pictures.
    """

    f_beta: float
    precision: float
    recall: float
    false_alarms: float


@dataclass(frozen=True)
class Threshold:
    """The confidence to use.

    Attributes:
        confidence: The one with the best F-beta on all pictures; None where nothing that was found is right.
        of_halves: Those of each half of the pictures; empty where a half has nothing right.
        in_sample: What the confidence gives on the pictures that it was chosen on, which flatters; None without one.
        expected: What confidences give on the half that they were not chosen on; None without halves.
    """

    confidence: float | None
    of_halves: list[float]
    in_sample: Rates | None
    expected: Rates | None


@dataclass(frozen=True)
class Bin:
    """Detections of similar confidence.

    Attributes:
        low: The range of confidence, from here ...
        high: ... to here.
        detections: Number of detections.
        confidence: Their mean confidence.
        precision: Share of them that hit an object, at an IoU of 0.5.
    """

    low: float
    high: float
    detections: int
    confidence: float
    precision: float


@dataclass(frozen=True)
class Calibration:
    """Whether of 100 detections with a confidence of 0.7, 70 are right.

    Attributes:
        detections: Number of detections from FLOOR on.
        error: Mean over the bins of |precision - confidence|, weighted by detections (expected calibration error, Guo
            et al., "On Calibration of Modern Neural Networks", ICML 2017); None without detections.
        temperature: T of 1 / (1 + exp(-logit(p) / T)) that makes what is right most likely, chosen on all pictures;
            None where a half of the pictures lacks right or wrong detections.
        error_after: The error with the temperature of the other half of the pictures; None as above.
        bins: As the confidences are; empty ones are left out.
        bins_after: With the temperature, as for `error_after`.
    """

    detections: int
    error: float | None
    temperature: float | None
    error_after: float | None
    bins: list[Bin] = field(default_factory=list)
    bins_after: list[Bin] = field(default_factory=list)


def counts(matches: Matches, confidence: float) -> np.ndarray:
    """Count right detections, wrong ones and objects of each picture, int (3, images).

    confidence: The lowest that counts.
    """
    shown, right = (matches.score >= confidence) & counted(matches), is_right(matches)
    images = (matches.image[shown & right], matches.image[shown & ~right], matches.object_image)
    return np.stack([np.bincount(numbers, minlength=matches.images) for numbers in images])


def rates(right: int, wrong: int, objects: int, pictures: int, beta: float = 1.0) -> Rates:
    """Turn counts into rates.

    Example:
        >>> rates(right=6, wrong=2, objects=8, pictures=4)
        Rates(f_beta=0.75, precision=0.75, recall=0.75, false_alarms=500.0)
    """
    shown, squared = right + wrong, beta**2
    f_beta = (1 + squared) * right / (squared * objects + shown) if objects + shown else 0.0
    return Rates(
        float(f_beta),
        float(right / shown) if shown else 0.0,
        float(right / objects) if objects else 0.0,
        1000 * float(wrong / pictures) if pictures else 0.0,
    )


def halves_of(images: int, groups: Sequence[Hashable] | None = None, seed: int = 0) -> np.ndarray:
    """Draw which half each picture is in, 0 or 1, int (images,): half of the pictures, or of the groups of pictures.

    groups: The label of each picture's group.
    """
    labels = range(images) if groups is None else groups
    numbers = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    half = np.random.default_rng(seed).permutation(len(numbers)) % 2
    return half[[numbers[label] for label in labels]]


def threshold(matches: Matches, pictures: np.ndarray, halves: np.ndarray, beta: float = 1.0) -> Threshold:
    """Choose the confidence with the best F-beta, and tell what it is worth.

    Args:
        matches: Of all pictures.
        pictures: Which of them count, bool (images,).
        halves: Which half each is in, 0 or 1, int (images,); see `halves_of`.
        beta: How many times as much as precision recall counts, above 0.
    Raises: ValueError: beta is not above 0.
    """
    check_beta(beta)
    confidence = best_confidence(matches, pictures, beta)
    if confidence is None:
        return Threshold(None, [], None, None)
    right, wrong, objects = counts(matches, confidence)[:, pictures].sum(1).tolist()
    in_sample = rates(right, wrong, objects, int(pictures.sum()), beta)
    sides = [pictures & (halves == half) for half in (0, 1)]
    chosen = [best_confidence(matches, side, beta) for side in sides]
    if None in chosen:
        return Threshold(confidence, [], in_sample, None)
    of_halves = [value for value in chosen if value is not None]
    applied = [counts(matches, value)[:, side].sum(1) for value, side in zip(of_halves[::-1], sides)]
    right, wrong, objects = np.sum(applied, axis=0).tolist()
    return Threshold(confidence, of_halves, in_sample, rates(right, wrong, objects, int(pictures.sum()), beta))


def check_beta(beta: float) -> None:
    """Refuse a weight of recall that is not above 0."""
    if not 0 < beta < np.inf:
        raise ValueError(f"beta is {beta}; wanted a number above 0: 1 weighs precision and recall alike, 2 recall more")


def best_confidence(matches: Matches, pictures: np.ndarray, beta: float) -> float | None:
    """Return the confidence with the best F-beta on some pictures, of equal ones the highest; None if nothing is right.

    It lies in the middle between the lowest score that counts and the highest that does not.
    """
    rows = np.flatnonzero(counted(matches) & pictures[matches.image])
    rows = rows[np.argsort(-matches.score[rows], kind="stable")]
    right, score = np.cumsum(is_right(matches)[rows]), matches.score[rows]
    if not len(rows) or not right[-1]:
        return None
    objects = int(pictures[matches.object_image].sum())
    f_beta = (1 + beta**2) * right / (beta**2 * objects + np.arange(1, len(rows) + 1))
    following = np.append(score[1:], 0.0)
    best = int(np.where(following < score, f_beta, -1).argmax())  # equal scores count all, or none
    return float((score[best] + following[best]) / 2)


def calibration(matches: Matches, pictures: np.ndarray, halves: np.ndarray) -> Calibration:
    """Tell how far confidences are from the share that is right, and what one temperature does about it.

    The arguments are those of `threshold`.
    """
    rows = np.flatnonzero(counted(matches) & pictures[matches.image] & (matches.score >= FLOOR))
    score, right, side = matches.score[rows], is_right(matches)[rows], halves[matches.image[rows]]
    if not len(rows):
        return Calibration(0, None, None, None)
    bins = bins_of(score, right)
    if any(right[side == half].all() or not right[side == half].any() for half in (0, 1)):
        return Calibration(len(rows), error_of(bins), None, None, bins)
    after = np.empty_like(score)
    for half in (0, 1):
        after[side == half] = tempered(score[side == half], best_temperature(score[side != half], right[side != half]))
    bins_after = bins_of(after, right)
    temperature = best_temperature(score, right)
    return Calibration(len(rows), error_of(bins), temperature, error_of(bins_after), bins, bins_after)


def tempered(score: np.ndarray, temperature: float) -> np.ndarray:
    """Return 1 / (1 + exp(-logit(score) / temperature)), float (D,); scores are held off 0 and 1 by 10^-6."""
    held = np.clip(score, 1e-6, 1 - 1e-6)
    return 1 / (1 + ((1 - held) / held) ** (1 / temperature))


def best_temperature(score: np.ndarray, right: np.ndarray) -> float:
    """Return the temperature with the smallest mean negative logarithm of the likelihood, 1/LARGEST to LARGEST."""
    from scipy.optimize import minimize_scalar

    def loss(logarithm: float) -> float:
        p = np.clip(tempered(score, np.exp(logarithm)), 1e-12, 1 - 1e-12)
        return float(-np.log(np.where(right, p, 1 - p)).mean())

    bound = np.log(LARGEST)
    return float(np.exp(minimize_scalar(loss, bounds=(-bound, bound), method="bounded").x))


def bins_of(score: np.ndarray, right: np.ndarray) -> list[Bin]:
    """Put detections into BINS ranges of equal width; empty ones are left out."""
    number = np.minimum((score * BINS).astype(int), BINS - 1)
    return [
        Bin(b / BINS, (b + 1) / BINS, int(of.sum()), float(score[of].mean()), float(right[of].mean()))
        for b in np.unique(number)
        for of in (number == b,)
    ]


def error_of(bins: Sequence[Bin]) -> float:
    """Return the calibration error of bins."""
    return sum(b.detections * abs(b.precision - b.confidence) for b in bins) / sum(b.detections for b in bins)


def is_right(matches: Matches) -> np.ndarray:
    """Tell which detections hit an object at an IoU of 0.5, bool (D,)."""
    return (matches.hit & 1).astype(bool)


def counted(matches: Matches) -> np.ndarray:
    """Tell which detections count for or against at an IoU of 0.5: those that do not lie in a crowd, bool (D,)."""
    return (matches.ignored & 1) == 0
