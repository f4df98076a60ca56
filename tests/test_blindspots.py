"""Blind spots: which pixels are hidden from a network that learns to denoise, and what they are given."""

import numpy as np
import pytest
import torch

from yolo_wnlb.denoiseg.blindspots import blind, box_side, hidden, spots


def drawn(shape=(64, 64), seed=0, **options):
    return spots(shape, np.random.default_rng(seed), **options)


def test_one_pixel_of_every_box_of_8_x_8_is_hidden():
    assert box_side(0.015) == 8, "round(sqrt(100 / 1.5))"
    for seed in range(20):
        mask = hidden((64, 64), drawn(seed=seed))
        assert mask.mean() == 1 / 64
        assert (mask.reshape(8, 8, 8, 8).sum((1, 3)) == 1).all()


def test_every_pixel_of_a_box_is_hidden_equally_often_also_where_the_edge_cuts_boxes():
    shape, times = (12, 20), 4000
    counts = sum(hidden(shape, drawn(shape, seed)).astype(int) for seed in range(times))
    expected, deviation = times / 64, (times / 64) ** 0.5
    assert abs(counts - expected).max() < 5 * deviation and abs(counts.mean() - expected) < deviation


def test_a_hidden_pixel_gets_a_value_of_its_window_and_all_others_keep_theirs():
    values = np.arange(64 * 64).reshape(64, 64)
    offsets = []
    for seed in range(60):
        index = drawn(seed=seed)
        blinded = blind(values, index)
        assert np.array_equal(blinded[~hidden((64, 64), index)], values[~hidden((64, 64), index)])
        sources = blinded[index.rows, index.columns]
        offsets.append(np.stack([sources // 64 - index.rows, sources % 64 - index.columns]))
    found = np.concatenate(offsets, 1)
    assert abs(found).max() == 5
    inside = {*map(tuple, found.T)}
    assert len(inside) == 121 and (0, 0) in inside, "each of 11 x 11, the pixel itself too"


@pytest.mark.parametrize("seed", range(30))
def test_the_window_ends_at_the_edges_of_the_picture(seed):
    index = drawn((8, 9), seed, radius=100)
    assert ((index.source_rows >= 0) & (index.source_rows < 8)).all()
    assert ((index.source_columns >= 0) & (index.source_columns < 9)).all()


def test_values_come_from_the_picture_before_any_pixel_was_hidden():
    values = np.arange(16).reshape(4, 4)
    for seed in range(50):
        index = drawn((4, 4), seed, share=0.25, radius=3)
        assert np.array_equal(
            blind(values, index)[index.rows, index.columns], values[index.source_rows, index.source_columns]
        )


@pytest.mark.parametrize("kind", [np.uint8, np.float32, torch.uint8, torch.float32])
def test_channels_are_hidden_together_in_arrays_and_tensors_of_any_type_and_the_input_is_unchanged(kind):
    grey = np.random.default_rng(1).integers(0, 256, (1, 40, 56)).astype(np.uint8)
    picture = np.repeat(grey, 3, 0)
    picture = picture.astype(kind) if isinstance(kind, type) else torch.from_numpy(picture).to(kind)
    before, index = np.array(picture), drawn((40, 56))
    blinded = blind(picture, index)
    assert blinded.dtype == picture.dtype and np.array_equal(np.array(picture), before)
    result = np.array(blinded)
    assert (result[0] == result[1]).all() and (result[0] == result[2]).all() and (result != before).any()
    assert np.array_equal(result[0], np.array(blind(picture[0], index)))


def test_the_same_seed_gives_the_same_spots_and_another_seed_others():
    first, again, other = drawn(seed=3), drawn(seed=3), drawn(seed=4)
    assert all(np.array_equal(a, b) for a, b in zip(first, again))
    assert not np.array_equal(first.rows, other.rows)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((64, 64), {"share": 0}, "share is 0; wanted the share of pixels to hide, above 0 and at most 0.25"),
        ((64, 64), {"share": 1.5}, "share is 1.5; .* did you mean 0.015?"),
        ((64, 64), {"share": True}, "share is True"),
        ((64, 64), {"share": "1%"}, "share is '1%'"),
        ((64, 64), {"share": float("nan")}, "share is nan"),
        ((64, 64), {"radius": 0}, "radius is 0; wanted a whole number of pixels, 1 or more"),
        ((64, 64), {"radius": 2.5}, "radius is 2.5"),
        ((7, 64), {}, "7 x 64 pixels is smaller than a box of 8 x 8"),
        ((64, 5), {"share": 0.03}, "64 x 5 pixels is smaller than a box of 6 x 6"),
    ],
)
def test_what_cannot_be_drawn_is_refused(shape, options, message):
    with pytest.raises(ValueError, match=message):
        drawn(shape, **options)
