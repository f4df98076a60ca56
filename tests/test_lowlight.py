"""The darkening: its physics measured on flat pictures, and its door."""

from itertools import pairwise

import numpy as np
import pytest

from yolo_wnlb.lowlight import darken, to_codes, to_linear

FLAT = np.full((300, 300, 3), 188, np.uint8)  # about half of white, in linear light


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_codes_survive_the_way_to_linear_light_and_back():
    codes = np.arange(256, dtype=np.uint8)
    assert np.array_equal(to_codes(to_linear(codes)), codes)


def test_linear_light_follows_the_srgb_standard():
    # black, the end of the straight part, middle grey, white
    expected = [0, 0.003035, 0.215861, 1]
    assert to_linear(np.array([0, 10, 128, 255])) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("exposure", [1.0, 0.3, 0.05])
def test_mean_light_is_the_exposure_times_the_light_before(exposure):
    dark = darken(FLAT, exposure=exposure, rng=rng())
    assert to_linear(dark).mean() == pytest.approx(exposure * to_linear(FLAT).mean(), rel=0.01)


@pytest.mark.parametrize(
    ("exposure", "full_well_e", "read_noise_e"),
    [(0.05, 1000, 0), (0.05, 4000, 0), (0.05, 2000, 3), (0.05, 4000, 12), (0.5, 1000, 30)],
)
def test_variance_is_photons_plus_read_noise_squared(exposure, full_well_e, read_noise_e):
    signal_e = to_linear(FLAT).mean() * exposure * full_well_e
    assert signal_e > 4 * np.hypot(read_noise_e, signal_e**0.5)  # black clips nothing
    dark = darken(FLAT, exposure=exposure, full_well_e=full_well_e, read_noise_e=read_noise_e, rng=rng())
    code = to_codes(np.array(signal_e / full_well_e)).item()
    step_e = np.diff(to_linear(np.array([code - 1, code + 1]))).item() / 2 * full_well_e
    wanted = signal_e + read_noise_e**2 + step_e**2 / 12  # the last: rounding to codes
    assert (to_linear(dark) * full_well_e).var() == pytest.approx(wanted, rel=0.03)


def test_less_exposure_is_never_brighter():
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None], 400, 0)
    exposures = [1.0, 0.5, 0.2, 0.1, 0.05, 0.02]
    columns = [to_linear(darken(ramp, exposure=e, rng=rng())).mean(0) for e in exposures]
    for brighter, darker in pairwise(columns):
        assert (darker[32:] < brighter[32:]).all()  # below, read noise outweighs the light
        assert darker[:32].mean() <= brighter[:32].mean()


def test_defaults_are_really_dark():
    assert darken(FLAT, rng=rng()).mean() < 50 < FLAT.mean()


def test_full_exposure_without_noise_to_speak_of_changes_nothing():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    same = darken(ramp, exposure=1.0, full_well_e=1e12, read_noise_e=0.0, rng=rng())
    assert np.array_equal(same, ramp)


def test_the_generator_alone_decides_the_noise():
    state = np.random.get_state()[1].copy()
    first = darken(FLAT, rng=rng(1))
    assert np.array_equal(first, darken(FLAT, rng=rng(1)))
    assert not np.array_equal(first, darken(FLAT, rng=rng(2)))
    assert np.array_equal(np.random.get_state()[1], state)


def test_neighbours_and_channels_get_noise_of_their_own():
    noise = to_linear(darken(FLAT, rng=rng()))
    noise -= noise.mean()
    assert abs((noise[..., 0] * noise[..., 1]).mean()) < 0.02 * noise.var()
    assert abs((noise[:, 1:] * noise[:, :-1]).mean()) < 0.02 * noise.var()


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (1, 9, 3), (5, 3, 1), (3, 7, 4)])
def test_odd_sizes_and_grey_pictures_keep_their_shape_and_input(shape):
    image = np.full(shape, 200, np.uint8)
    dark = darken(image, rng=rng())
    assert dark.shape == shape and dark.dtype == np.uint8
    assert (image == 200).all() and (dark < 200).all()


def test_grey_and_colour_pictures_get_the_same_physics():
    grey = darken(FLAT.reshape(300, 900), rng=rng())
    assert np.array_equal(grey.reshape(FLAT.shape), darken(FLAT, rng=rng()))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4), np.uint16),
        np.zeros((4, 4), bool),
        np.zeros(4, np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
    ],
)
def test_other_images_are_refused_with_type_and_shape(image):
    with pytest.raises(ValueError, match=f"{image.dtype}.*wanted uint8"):
        darken(image, rng=rng())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("exposure", v) for v in (0, -0.1, 1.01, np.nan)],
        *[("full_well_e", v) for v in (0, -5, np.inf, np.nan)],
        *[("read_noise_e", v) for v in (-0.1, np.inf, np.nan)],
    ],
)
def test_numbers_out_of_range_are_refused_by_name_and_value(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}; wanted"):
        darken(FLAT, rng=rng(), **{name: value})
