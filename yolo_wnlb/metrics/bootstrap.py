"""Is a difference between two evaluations more than the choice of images? A paired bootstrap.

Images are drawn again, with replacement, the same ones for both sides; each side's AP follows from
who hit what (`evaluate.Matches`), without evaluating again. Only differences have an interval here:
the AP of drawn images is biased upward (repeated images make classes easier). Of two like models the
bias is the same; what is left of it between unlike ones is taken off, so that the interval lies around
the difference itself. What it does not cover is chance in training: train with several seeds for that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from yolo_wnlb.metrics.average_precision import Evaluation

SLICES = {"AP": slice(None), "AP50": slice(0, 1), "AP75": slice(5, 6)}  # of the thresholds
CELLS = 4_000_000  # of an array at once


@dataclass(frozen=True)
class Difference:
    """What the second evaluation has more than the first; print it.

    Attributes:
        metric: AP, AP50 or AP75.
        kind: "segm" or "bbox".
        delta: Second minus first, on the images as they are.
        low: Lower end of the interval of the differences on drawn images.
        high: Its upper end.
        sd: Standard deviation of the differences on drawn images.
        confidence: Share of the drawn differences inside the interval.
        images: How many were drawn from, and each time drawn.
        n: How often.
        seed: Of the drawing.
    """

    metric: str
    kind: str
    delta: float
    low: float
    high: float
    sd: float
    confidence: float
    images: int
    n: int
    seed: int

    @property
    def clear(self) -> bool:
        """True when the interval leaves out 0: more than the choice of images."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        """Return the difference with its interval, in points of 100."""
        what = {"segm": "mask", "bbox": "box"}[self.kind]
        delta, low, high = (f"{100 * value:+.2f}" for value in (self.delta, self.low, self.high))
        verdict = "" if self.clear else "; inside the noise of the images"
        return (
            f"{what} {self.metric} {delta} [{low}, {high}] ({self.confidence:.0%} of {self.n} draws of "
            f"{self.images} images){verdict}"
        )


def paired_bootstrap(
    first: Evaluation,
    second: Evaluation,
    n: int = 1000,
    seed: int = 0,
    *,
    metric: str = "AP",
    kind: str = "segm",
    confidence: float = 0.95,
) -> Difference:
    """Compare two evaluations on the same truth.

    Args:
        first: What is compared with.
        second: What may be better.
        n: Draws, 2 or more.
        seed: Of the drawing; the same one gives the same interval.
        metric: AP, AP50 or AP75, over all classes.
        kind: "segm" for masks, "bbox" for boxes.
        confidence: Share of the differences that the interval holds, between 0 and 1.
    Raises: ValueError: the evaluations are of different truths or limits, or lack the kind.
    """
    if metric not in SLICES:
        raise ValueError(f"metric is {metric!r}; choose from {', '.join(SLICES)}")
    if n < 2 or not 0 < confidence < 1:
        raise ValueError(f"n is {n} and confidence {confidence}; wanted 2 or more, and a share between 0 and 1")
    for key in ("truth", "max_detections"):
        if first.protocol[key] != second.protocol[key]:
            raise ValueError(
                f"{key} is {first.protocol[key]} in one evaluation and {second.protocol[key]} in the other; "
                "pairs need the same images and objects, measured alike"
            )
    delta = second.numbers(kind)[metric] - first.numbers(kind)[metric]
    images = first.matches[kind].images
    weights = draws(images, n, seed)
    gains = resampled(second, weights, metric, kind) - resampled(first, weights, metric, kind)
    gains += delta - gains.mean()
    low, high = np.quantile(gains, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Difference(
        metric, kind, delta, float(low), float(high), float(gains.std(ddof=1)), confidence, images, n, seed
    )


def draws(images: int, n: int, seed: int) -> np.ndarray:
    """How often each image is drawn, (n, images); each row adds up to the number of images."""
    return np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=n)


def resampled(evaluation: Evaluation, weights: np.ndarray, metric: str = "AP", kind: str = "segm") -> np.ndarray:
    """AP, AP50 or AP75 with each image counted so often, (B, images) -> (B,); -1 where no object is left.

    It equals, to the last digit, what `evaluate` returns for as many copies of each image; but for
    ties: copies of an image that has equal scores in one class come one after the other there.
    """
    evaluation.numbers(kind)  # were they evaluated?
    matches = evaluation.matches[kind]
    widest = np.bincount(matches.category, minlength=1).max()
    batch = max(1, CELLS // max(widest, 1010 * matches.classes))
    values = []
    for start in range(0, len(weights), batch):
        for precision in matches.precision(weights[start : start + batch])[:, SLICES[metric]]:
            there = precision[precision > -1]
            values.append(float(there.mean()) if there.size else -1.0)
    return np.array(values)
