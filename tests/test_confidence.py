"""The confidence to use, what it is worth on other pictures, and the calibration of confidences."""

import numpy as np
import pytest

from yolo_wnlb.metrics.confidence import (
    FLOOR,
    Rates,
    best_confidence,
    bins_of,
    calibration,
    counts,
    error_of,
    halves_of,
    rates,
    tempered,
    threshold,
)
from yolo_wnlb.metrics.matches import Matches


def matches_of(detections, objects, images):
    """Make matches of one class from (image, score, right) or (image, score, right, ignored), and images of objects."""
    rows = sorted(((*d, 0)[:4] for d in detections), key=lambda d: -d[1])
    image, score, right, ignored = (np.array(column) for column in zip(*rows)) if rows else np.zeros((4, 0))
    return Matches(
        image=image.astype(int),
        category=np.zeros(len(rows), int),
        score=score.astype(float),
        hit=right.astype(int),
        ignored=ignored.astype(int),
        object_image=np.array(objects, int),
        object_category=np.zeros(len(objects), int),
        images=images,
        classes=1,
    )


BY_HAND = matches_of(
    [(0, 0.9, 1), (0, 0.8, 0), (1, 0.7, 1), (1, 0.6, 1), (2, 0.5, 0), (2, 0.4, 0), (3, 0.95, 0, 1), (3, 0.3, 1)],
    [0, 0, 1, 1, 3],
    4,
)
ALL = np.ones(4, bool)


def random_matches(rng, images, sharpness=1.0):
    """Make detections whose confidence p is right with probability sigmoid(logit(p) / sharpness)."""
    score = rng.uniform(0.01, 0.99, images * 20)
    right = rng.random(len(score)) < tempered(score, sharpness)
    image = rng.integers(0, images, len(score))
    return matches_of(zip(image, score, right), [*image[right], *rng.integers(0, images, images)], images)


def test_counts_are_those_at_the_confidence_and_crowds_count_nothing():
    assert counts(BY_HAND, 0.6).tolist() == [[1, 2, 0, 0], [1, 0, 0, 0], [2, 2, 0, 1]]
    assert counts(BY_HAND, 0.0).tolist() == [[1, 2, 0, 1], [1, 0, 2, 0], [2, 2, 0, 1]]
    assert counts(BY_HAND, 1.0).sum(1).tolist() == [0, 0, 5]


def test_the_best_confidence_lies_between_the_last_that_counts_and_the_next():
    found = threshold(BY_HAND, ALL, np.array([0, 1, 0, 1]))
    assert found.confidence == pytest.approx(0.55)  # 3 right, 1 wrong, 5 objects: F1 = 6 / 9
    assert found.in_sample == Rates(pytest.approx(6 / 9), 0.75, 0.6, 250.0)


def test_what_it_is_worth_is_measured_on_the_other_half():
    """The even pictures choose 0.85, the odd ones 0.15: each is applied to the other."""
    found = threshold(BY_HAND, ALL, np.array([0, 1, 0, 1]))
    assert found.of_halves == [pytest.approx(0.85), pytest.approx(0.15)]
    assert found.expected == rates(0 + 1, 0 + 3, 5, 4)


@pytest.mark.parametrize("beta", [0.5, 1, 2])
def test_no_other_confidence_is_better(beta):
    matches = random_matches(np.random.default_rng(3), 30)
    pictures = np.arange(30) % 3 > 0
    best = best_confidence(matches, pictures, beta)
    values = [
        rates(*counts(matches, c)[:, pictures].sum(1), 20, beta).f_beta for c in [best, *np.unique(matches.score)]
    ]
    assert values[0] == max(values)


def test_a_higher_beta_wants_a_lower_confidence():
    matches = random_matches(np.random.default_rng(4), 40)
    chosen = [best_confidence(matches, np.ones(40, bool), beta) for beta in (0.25, 1, 4)]
    assert chosen == sorted(chosen, reverse=True) and len({*chosen}) == 3


def test_equal_scores_count_all_or_none():
    matches = matches_of([(0, 0.5, 1), (0, 0.5, 0), (0, 0.5, 0), (1, 0.4, 1)], [0, 1], 2)
    assert best_confidence(matches, np.ones(2, bool), 1) == pytest.approx(0.2)


def test_the_expected_rates_are_not_flattered():
    """Over many small sets the F1 in the sample lies above that of a large set, and the expected one does not."""
    rng = np.random.default_rng(0)
    small = [random_matches(rng, 6) for _ in range(200)]
    found = [threshold(m, np.ones(6, bool), halves_of(6, seed=s)) for s, m in enumerate(small)]
    truth = threshold(random_matches(rng, 2000), np.ones(2000, bool), halves_of(2000)).in_sample.f_beta
    flattered = np.mean([one.in_sample.f_beta for one in found])
    expected = np.mean([one.expected.f_beta for one in found])
    assert flattered > truth + 0.01
    assert expected < truth + 0.002


@pytest.mark.parametrize(
    ("detections", "objects", "confidence", "expected"),
    [
        ([], [0, 1], None, None),
        ([(0, 0.5, 0)], [0], None, None),
        ([(0, 0.5, 0)], [], None, None),
        ([(0, 0.5, 1)], [0, 1], 0.25, None),  # one half has nothing right
        ([(0, 0.5, 1, 1)], [0], None, None),  # in a crowd
    ],
)
def test_edges_of_thresholds(detections, objects, confidence, expected):
    found = threshold(matches_of(detections, objects, 2), np.ones(2, bool), np.array([0, 1]))
    assert (found.confidence, found.expected) == (confidence, expected)
    assert (found.in_sample is None) == (confidence is None)


@pytest.mark.parametrize("beta", [0, -1, float("inf"), float("nan")])
def test_a_beta_without_sense_is_refused(beta):
    with pytest.raises(ValueError, match=r"beta is .* wanted a number above 0"):
        threshold(BY_HAND, ALL, np.array([0, 1, 0, 1]), beta)


def test_halves_are_halves_and_groups_stay_whole():
    assert np.bincount(halves_of(101)).tolist() in ([51, 50], [50, 51])
    groups = [name for name in "abcdefgh" for _ in range(3)]
    half = halves_of(24, groups, seed=5)
    assert half.sum() == 12
    assert all(len({*half[start : start + 3]}) == 1 for start in range(0, 24, 3))
    assert (halves_of(50, seed=1) == halves_of(50, seed=1)).all() and (halves_of(50, seed=1) != halves_of(50)).any()


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 2.0])
def test_a_known_temperature_is_found_and_mends_the_error(sharpness):
    matches = random_matches(np.random.default_rng(1), 1500, sharpness)
    found = calibration(matches, np.ones(1500, bool), halves_of(1500))
    assert found.temperature == pytest.approx(sharpness, rel=0.05)
    assert found.error_after < 0.01
    assert found.error > 0.08 or sharpness == 1.0
    assert sum(b.detections for b in found.bins) == found.detections == (matches.score >= FLOOR).sum()
    assert sum(b.detections for b in found.bins_after) == found.detections


def test_the_error_is_that_of_the_bins_by_hand():
    score, right = np.array([0.9, 0.92, 0.1, 1.0]), np.array([1, 0, 0, 1], bool)
    bins = bins_of(score, right)
    assert [(b.detections, b.confidence, b.precision) for b in bins] == [(1, 0.1, 0), (2, 0.91, 0.5), (1, 1, 1)]
    assert error_of(bins) == pytest.approx((0.1 + 2 * 0.41 + 0) / 4)


@pytest.mark.parametrize(
    ("detections", "number", "has_error"),
    [([], 0, False), ([(0, 0.01, 0)], 0, False), ([(0, 0.5, 1), (1, 0.5, 1)], 2, True), ([(0, 0.5, 0)], 1, True)],
)
def test_too_little_for_a_temperature(detections, number, has_error):
    found = calibration(matches_of(detections, [0], 2), np.ones(2, bool), np.array([0, 1]))
    assert (found.detections, found.error is not None) == (number, has_error)
    assert found.temperature is None and found.error_after is None and found.bins_after == []


def test_scores_of_0_and_1_have_a_temperature():
    detections = [(i, s, r) for i in range(4) for s, r in ((1.0, 1), (1.0, 0), (0.06, 0), (0.5, 1))]
    found = calibration(matches_of(detections, [0, 1, 2, 3], 4), np.ones(4, bool), np.array([0, 1, 0, 1]))
    assert np.isfinite([found.temperature, found.error, found.error_after]).all()
    assert found.temperature > 1.5
