"""Is a difference between two scores more than the choice of images? A paired bootstrap.

Images are drawn again, with replacement, the same ones for both sides; each side's number follows from what
the score keeps of each image (`Score.resampled`), without predicting again. Images of one group (a place, a
video, a patient) resemble each other and say less than as many independent ones: with `groups`, whole groups
are drawn.

Only differences have an interval here, for the AP of drawn images is biased upward: repeated images make
classes easier. For two similar models the bias is the same; what is left of it for dissimilar ones is taken
off, so that the interval lies around the difference itself. The interval does not cover chance in training:
train with several seeds for that.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from yolo_wnlb.metrics.score import Score

FEW = 10  # groups; with fewer the interval is called rough

Groups = Sequence[Hashable] | Mapping[str, Hashable] | Callable[[str], Hashable]


@dataclass(frozen=True)
class Difference:
    """What the second score has more than the first; print it.

    Attributes:
        metric: Name of the number, such as AP, AP@0.5 or accuracy.
        kind: "segm" or "bbox" of evaluations; "" of other scores.
        delta: Second minus first, on the images as they are.
        low: Lower end of the interval.
        high: Upper end of the interval.
        sd: Standard deviation of the differences on drawn images.
        confidence: How often such an interval holds the true difference, 0 to 1.
        images: Number of images.
        n: Number of draws.
        seed: Seed of the draws.
        groups: Number of groups that were drawn; None if single images were.
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
    groups: int | None = None

    @property
    def clear(self) -> bool:
        """True when the interval leaves out 0: more than the choice of images."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        """Return the difference with its interval, in points of 100."""
        what = {"segm": "mask ", "bbox": "box "}.get(self.kind, "")
        delta, low, high = (f"{100 * value:+.2f}" for value in (self.delta, self.low, self.high))
        drawn = f"{self.images} images" if self.groups is None else f"{self.groups} groups of {self.images} images"
        verdict = "" if self.clear else "; inside the noise of the images"
        rough = "; rough, for there are few groups" if (self.groups or FEW) < FEW else ""
        how = f"{self.confidence:.0%}, {self.n} draws of {drawn}"
        return f"{what}{self.metric} {delta} [{low}, {high}] ({how}){verdict}{rough}"


def paired_bootstrap(
    first: Score,
    second: Score,
    n: int = 1000,
    seed: int = 0,
    *,
    metric: str = "",
    kind: str = "",
    confidence: float = 0.95,
    groups: Groups | None = None,
) -> Difference:
    """Compare two scores on the same truth: two evaluations, two scores of instances or two accuracies.

    The interval is that between the quantiles of the drawn differences, widened by `widening`.

    Args:
        first: What is compared with.
        second: What may be better.
        n: Number of draws, 2 or more.
        seed: Seed of the draws; the same one gives the same interval.
        metric: Of evaluations AP, AP50 or AP75, over all classes; of others what `drawable` names. Default: the
            headline, which is AP, AP@0.5 or accuracy.
        kind: Of evaluations: "segm" for masks (the default), "bbox" for boxes.
        confidence: How often the interval shall hold the true difference, between 0 and 1.
        groups: Which images belong together: a function of the file name (`lambda name: name[:4]`), a mapping
            from file names to labels, or one label for each of `first.file_names`. Two groups or more; with
            fewer than ten the interval is rough. Default: all images are independent.
    Raises: ValueError: the scores are of different sorts, truths or limits, or lack the kind or the number; an
        image has no group; there are fewer than two groups, or images, to draw from.
    """
    if type(first) is not type(second):
        raise ValueError(
            f"the first is of the sort {first.noun}, the second {second.noun}; wanted two scores of one sort"
        )
    metric = first.metric_named(metric)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; wanted a share between 0 and 1")
    for key in first.comparable:
        if first.protocol[key] != second.protocol[key]:
            raise ValueError(
                f"{key} is {first.protocol[key]} in one {first.noun} and {second.protocol[key]} in the other; "
                "pairs need the same images and objects, measured alike"
            )
    one, other = first.of_kind(kind), second.of_kind(kind)
    if min(one.numbers()[metric], other.numbers()[metric]) < 0:
        raise ValueError(f"there is nothing to measure {metric} by: the truth has no such object")
    delta = other.numbers()[metric] - one.numbers()[metric]
    images = one.images
    labels = None if groups is None else group_labels(groups, first.file_names)
    weights = draws(images, n, seed, labels)
    units = images if labels is None else len(set(labels))
    gains = other.resampled(weights, metric) - one.resampled(weights, metric)
    ends = np.quantile(gains - gains.mean(), [(1 - confidence) / 2, (1 + confidence) / 2])
    low, high = delta + ends * widening(units, confidence)
    return Difference(
        metric=metric,
        kind=one.kind,
        delta=delta,
        low=float(low),
        high=float(high),
        sd=float(gains.std(ddof=1)),
        confidence=confidence,
        images=images,
        n=n,
        seed=seed,
        groups=None if labels is None else units,
    )


def draws(images: int, n: int, seed: int, groups: Sequence[Hashable] | None = None) -> np.ndarray:
    """Draw images, or whole groups of images, with replacement: how often each image is drawn, int (n, images).

    Args:
        images: Number of images to draw from; as many are drawn each time.
        n: Number of draws, 2 or more.
        seed: The same one gives the same draws.
        groups: The label of each image's group. As many groups are drawn as there are; each brings all its
            images, so that the number of images varies between draws of groups of different sizes.
    Raises: ValueError: there are fewer than two images, or groups, to draw from; an image has no label.
    """
    for name, value, least in (("n", n, 2), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise ValueError(f"{name} is {value!r}; wanted a whole number, {least} or more")
    unit_of = np.arange(images)
    if groups is not None:
        if isinstance(groups, str) or len(groups) != images:
            raise ValueError(f"groups has {len(groups)} labels; wanted one for each of {images} images")
        if missing := [i for i, label in enumerate(groups) if label is None or label != label]:  # None, NaN
            raise ValueError(f"{len(missing)} of {images} images have no group (first: image {missing[0]}, from 0)")
        numbers = {label: number for number, label in enumerate(dict.fromkeys(groups))}
        unit_of = np.array([numbers[label] for label in groups], int)
    units = int(unit_of.max(initial=-1)) + 1
    if units < 2:
        what = "images" if groups is None else "groups"
        raise ValueError(
            f"{'one' if units else 'none'} of the {what} to draw from is there; an interval needs two or more"
        )
    return np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), size=n)[:, unit_of]


def group_labels(groups: Groups, file_names: Sequence[str]) -> list[Hashable]:
    """Return the label of each image's group; see `paired_bootstrap`.

    Raises: ValueError: an image has no label.
    """
    if isinstance(groups, str):
        raise ValueError(f"groups is the text {groups!r}; wanted a function, a mapping, or a label for each image")
    if not callable(groups) and not isinstance(groups, Mapping):
        return list(groups)
    found = groups.get if isinstance(groups, Mapping) else groups
    labels = [found(name) for name in file_names]
    if missing := [name for name, label in zip(file_names, labels) if label is None or label != label]:
        raise ValueError(f"{len(missing)} of {len(file_names)} images have no group (first: {missing[0]})")
    return labels


def widening(units: int, confidence: float = 0.95) -> float:
    """Return by how much to widen an interval that was drawn from so many images or groups: 1.005 at 500, 1.25 at 9.

    Two things make it too narrow. The spread of draws is that of the units divided by their number, where an
    estimate of the variance divides by one less; and it is itself known only as well as so few units tell.
    Against both, as for a mean: sqrt(units / (units - 1)) and Student's t in place of the normal quantile.
    """
    from scipy.stats import norm, t

    share = (1 + confidence) / 2
    return float((units / (units - 1)) ** 0.5 * t.ppf(share, units - 1) / norm.ppf(share))
