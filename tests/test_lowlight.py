"""The camera: its physics measured on its own pictures, what it promises of bytes and types, its door."""

import doctest
import inspect
import json
import math
import random
from ast import literal_eval
from dataclasses import asdict, replace
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import run_python

from yolo_wnlb.data.shapes import scene
from yolo_wnlb.imaging.bounds import BAYER, BOUNDS
from yolo_wnlb.imaging.camera import PRESETS, Shot, settings
from yolo_wnlb.imaging.capture import capture, clean, darken, light_of_codes, mosaic, noise_of_light, sense
from yolo_wnlb.imaging.chance import noise_source, normal_quantiles, picture_rng
from yolo_wnlb.imaging.response import measured_curves, response

LINEAR = (1.0, 0.0)
GAMMA = (1 / 2.2, 0.0)
DIGITAL = (0.69, 0.5)  # the middle of the digital cameras
RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)
SCENES = [scene(np.random.default_rng(i), 160).image for i in range(8)]
PHOTOS = Path(__file__).resolve().parents[2] / "shared" / "data" / "coco-subset" / "images"


def flat(*colour, side=512):
    return np.full((side, side, len(colour)), colour, np.uint8)


def off(found, wanted):
    """Distance in codes, pixel by pixel."""
    return np.abs(np.subtract(found, wanted, dtype=np.float64))


def inner(image):
    """All but the 2 px border, where the demosaicing has neighbours on one side only."""
    return image[2:-2, 2:-2]


def luma(image):
    return cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).mean()


def drawn(crf, seed=0):
    return settings(crf=crf).draw(random.Random(seed)).crf


@pytest.fixture(scope="module")
def photos():
    """Every second of the 491 pictures of coco-subset, BGR."""
    files = sorted(PHOTOS.glob("*/*.jpg"))[::2]
    if not files:
        pytest.skip("the photos of coco-subset are not beside the checkout")
    return [cv2.imread(str(file)) for file in files]


# ---- the response and its inverse ------------------------------------------------------------------


def test_no_code_is_lost_on_the_way_to_light_and_back():
    rng = random.Random(0)
    shares = []
    for crf in ["srgb", LINEAR, GAMMA, DIGITAL, *(drawn("mixture", rng.random()) for _ in range(1000))]:
        f, inverse = response(crf)
        assert np.array_equal(np.rint(255 * f(inverse(RAMP / 255))), RAMP), crf
        wrong = off(capture(RAMP, Shot(crf=crf)), RAMP)  # through 16 bits
        assert wrong.max() <= 1, crf
        shares.append((wrong > 0).mean())
    assert np.mean(shares) < 0.002


@pytest.mark.parametrize(("crf", "wrong"), [(LINEAR, []), (DIGITAL, []), ("srgb", []), (GAMMA, [1])], ids=str)
def test_without_darkness_and_noise_and_mosaic_the_picture_stays(crf, wrong):
    for image in (RAMP, RAMP[..., None], np.dstack([RAMP, RAMP.T, RAMP[::-1]])):
        found = capture(image, Shot(crf=crf))
        assert set(image[found != image].tolist()) == set(wrong)
        assert off(found, image).max() <= 1


def test_srgb_is_as_the_standard_has_it():
    f, inverse = response("srgb")
    wanted = [0, 0.003035, 0.215861, 1]  # black, the end of the straight part, middle grey, white
    assert inverse(np.array([0, 10, 128, 255]) / 255) == pytest.approx(wanted, abs=1e-6)
    assert f(np.array(wanted)) * 255 == pytest.approx([0, 10, 128, 255], abs=1e-3)


@pytest.mark.parametrize(
    ("crf", "shot", "code"),
    [
        ("srgb", "srgb", 137),
        ("gamma:2.2", GAMMA, 137),
        ("identity", LINEAR, 94),
        ((1, 0.5), (1.0, 0.5), 115),
        ([1, -0.5], (1.0, -0.5), 79),
    ],
    ids=str,
)
def test_half_the_light_of_code_188_is_the_code_that_the_response_says(crf, shot, code):
    half = settings(ev=-1, crf=crf, bayer="none").draw(random.Random(0))
    assert half.crf == shot
    assert (clean(flat(188, side=4), half) == code).all()


def test_the_drawn_responses_are_distributed_as_the_measured_ones():
    """Quantiles over the 201 curves of f(L), of ln n, and of -ln(1 - u)."""
    rng = random.Random(0)
    n, u = np.array([drawn("mixture", rng.random()) for _ in range(20000)]).T
    measured = {
        0.01: [0.002, 0.008, 0.045, 0.072, 0.119],
        0.1: [0.047, 0.163, 0.283, 0.361, 0.462],
        0.5: [0.505, 0.699, 0.783, 0.837, 0.920],
    }
    for light, wanted in measured.items():
        codes = light**n / ((1 - u) + u * light**n)  # three components cannot follow 201 curves closer
        assert np.percentile(codes, [5, 25, 50, 75, 95]) == pytest.approx(wanted, abs=0.03), light
    a, v = np.log(n), -np.log(1 - u)
    assert np.percentile(a, [5, 25, 50, 75, 95]) == pytest.approx([-0.51, -0.40, -0.21, 0.45, 0.88], abs=0.08)
    assert np.percentile(v, [5, 25, 50, 75]) == pytest.approx([0, 0.51, 0.92, 1.98], abs=0.05)
    assert np.percentile(v, 95) == pytest.approx(3.76, abs=0.3)  # few curves are out there
    assert np.corrcoef(a, v)[0, 1] == pytest.approx(0.76, abs=0.02)
    digital = np.log([drawn("digital", rng.random())[0] for _ in range(2000)])
    assert digital.mean() == pytest.approx(-0.367, abs=0.01)
    assert digital.std() == pytest.approx(0.132, rel=0.05)


def curve_file(path):
    """Write three made-up curves as dorfCurves.txt has them, or as CBDNet's MATLAB file."""
    light = np.linspace(0, 1, 33)
    codes = [light**0.5, light**0.8, np.interp(light, [0, 0.1, 0.4, 0.5, 0.9, 1], [0, 0, 0.7, 0.7, 1, 1])]
    if path.suffix == ".mat":
        savemat = pytest.importorskip("scipy.io").savemat
        savemat(path, {"I": np.float32([light] * 3), "B": np.float32(codes)})
        return ["0", "1", "2"]
    names = ["root one", "root-two", "flat steps"]
    texts = [" ".join(f"{v:.6f}" for v in values) for values in (light, *codes)]
    records = [f"{name}\ngraph  \n  I =\n {texts[0]} \n B = \n{text}\n" for name, text in zip(names, texts[1:])]
    path.write_text("\n".join(records), encoding="utf-8")
    return names


@pytest.mark.parametrize("suffix", [".txt", ".mat"])
def test_measured_curves_are_read_drawn_and_inverted(tmp_path, suffix):
    path = tmp_path / f"curves{suffix}"
    names = curve_file(path)
    asked = f"dorf:{path}"
    assert {drawn(asked, seed) for seed in range(40)} == {f"{asked}#{name}" for name in names}
    assert list(measured_curves(str(path))) == names
    for name in names:
        crf = drawn(f"{asked}#{name}")
        f, inverse = response(crf)
        grid = np.linspace(0, 1, 1001)
        assert (np.diff(f(grid)) >= 0).all() and f(grid)[[0, -1]].tolist() == [0, 1]
        assert off(capture(RAMP, Shot(crf=crf)), RAMP).max() <= 1
        assert f(inverse(grid)) == pytest.approx(grid, abs=1e-9)
    assert response(f"{asked}#{names[0]}")[0](np.array([0.25, 0.5])) == pytest.approx([0.5, 0.5**0.5], abs=1e-6)


# ---- the mosaic ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bayer", BAYER)
@pytest.mark.parametrize("order", ["sensor", "paper"])
@pytest.mark.parametrize("channel_order", ["bgr", "rgb"])
@pytest.mark.parametrize("shape", [(8, 8), (7, 9), (3, 5), (1, 1), (1, 2), (2, 1), (2, 2), (2, 7), (5, 1)], ids=str)
def test_a_flat_colour_passes_the_mosaic_unchanged(shape, channel_order, order, bayer):
    image = np.broadcast_to(np.array([200, 90, 31], np.uint8), (*shape, 3))
    assert np.array_equal(
        capture(image, Shot(bayer=bayer, order=order, crf="srgb"), channel_order=channel_order), image
    )


@pytest.mark.parametrize("shape", [(31, 40), (32, 41), (33, 43)], ids=str)
def test_odd_sides_are_mirrored_at_their_last_pixel(shape):
    odd = SCENES[0][40 : 40 + shape[0], 40 : 40 + shape[1]]
    even = cv2.copyMakeBorder(odd, 0, shape[0] % 2, 0, shape[1] % 2, cv2.BORDER_REFLECT_101)
    shot = settings("severe").draw(random.Random(0))
    assert np.array_equal(capture(odd, shot), capture(even, shot)[: shape[0], : shape[1]])


def mosaic_psnr(image):
    error = inner(capture(image, Shot(bayer="RGGB", crf=LINEAR))).astype(np.float32) - inner(image)
    return 10 * math.log10(255**2 / np.square(error).mean())


def test_the_mosaic_softens_soft_scenes_little():
    assert np.median([mosaic_psnr(image) for image in SCENES]) > 35  # dB


def test_the_mosaic_softens_photos_as_bilinear_demosaicing_does(photos):
    low, middle, high = np.percentile([mosaic_psnr(photo) for photo in photos], [5, 50, 95])
    assert middle == pytest.approx(28.4, abs=1)  # dB
    assert (low, high) == pytest.approx((22.2, 35.2), abs=3)  # of few photos


@pytest.mark.parametrize("bayer", BAYER)
def test_bgr_and_rgb_pictures_are_taken_alike(bayer):
    image = SCENES[0][:37, :53]
    shot = replace(settings("severe").draw(random.Random(0)), bayer=bayer)
    found = capture(image, shot)
    assert np.array_equal(capture(image[..., ::-1], shot, channel_order="rgb")[..., ::-1], found)
    assert np.array_equal(capture(image, replace(shot, bayer=bayer[::-1]), channel_order="rgb"), found)


# ---- the noise -------------------------------------------------------------------------------------


def test_the_normal_values_are_normal():
    z = normal_quantiles().astype(np.float64)
    assert z.mean() == pytest.approx(0, abs=1e-6) and z.var() == pytest.approx(1, abs=1e-6)
    assert (z**4).mean() == pytest.approx(2.999, abs=1e-3)
    stats = pytest.importorskip("scipy.stats")
    words = np.random.SFC64(0).random_raw(25_000).view(np.uint16)
    assert stats.kstest(z[words], "norm").pvalue > 0.01


def exposed(codes, shot, frame=0):
    """Raw values behind codes."""
    white = np.iinfo(codes.dtype).max
    return sense(codes, light_of_codes(shot, white), white, shot, frame)[0]


def tapped(code, shot, frame=0, side=256):
    """Light in the raw values of a flat picture; that of white, from neutral shots, is 65535."""
    return exposed(np.full((side, side), code), shot, frame) / 65535


def law(light, variance):
    """sigma_s and sigma_c of variance = light sigma_s^2 + sigma_c^2, by weighted least squares."""
    light, variance = np.array(light), np.array(variance)
    weighted = np.c_[light, np.ones_like(light)] / variance[:, None]
    found = np.linalg.lstsq(weighted, np.ones_like(light), rcond=None)[0]
    return np.sqrt(np.maximum(found, 0))


@pytest.mark.parametrize("sigmas", [(0.08, 0.03), (0.02, 0.005), (0.16, 0.06), (0.04, 0)], ids=str)
def test_photon_transfer_on_the_sensor_finds_both_sigmas(sigmas):
    shot = Shot(sigma_s=sigmas[0], sigma_c=sigmas[1], crf=LINEAR)
    light, variance = [], []
    for frame, code in enumerate(np.linspace(4, 240, 24).astype(np.uint8)):
        # half of what the middle 68 % span is one sigma, whatever was clipped outside of them
        low, high = np.percentile(tapped(code, shot, frame), [15.8655, 84.1345])
        if low > 0 and high < 1:
            light.append(code / 255)
            variance.append(((high - low) / 2) ** 2)
    assert len(light) >= 19
    sigma_s, sigma_c = law(light, variance)
    assert sigma_s == pytest.approx(sigmas[0], rel=0.01)
    assert sigma_c == pytest.approx(sigmas[1], rel=0.02, abs=1e-3 * (sigmas[1] == 0))


@pytest.mark.parametrize("sigmas", [(0.05, 0.01), (0.08, 0.03)], ids=str)
def test_photon_transfer_on_the_finished_picture_finds_both_sigmas(sigmas):
    inverse = response(GAMMA)[1]
    light, variance = [], []
    for seed, code in enumerate(range(60, 236, 8)):
        shot = Shot(sigma_s=sigmas[0], sigma_c=sigmas[1], bayer="RGGB", noise_seed=seed)
        red = inner(capture(flat(code, code, code), shot))[::2, ::2, 2]  # where the sensor saw it
        if red.min() > 0 and red.max() < 255:
            light.append(inverse(red / 255).mean())
            variance.append(inverse(red / 255).var())
    assert len(light) >= 10
    assert law(light, variance) == pytest.approx(sigmas, rel=0.01)


def residual():
    """Noise in light of a flat colour picture, inside its border, and the variance on the sensor."""
    inverse, shot = response(GAMMA)[1], Shot(sigma_s=0.05, sigma_c=0.01, bayer="RGGB")
    light = inner(inverse(capture(flat(150, 150, 150), shot) / 255))
    return light - light.mean((0, 1)), noise_of_light(inverse(150 / 255), shot) ** 2


def test_interpolated_sites_have_less_variance_by_what_they_average():
    noise, variance = residual()
    for channel, wanted in ((2, [1, 1 / 2, 1 / 2, 1 / 4]), (1, [1 / 4, 1, 1, 1 / 4]), (0, [1 / 4, 1 / 2, 1 / 2, 1])):
        sites = [noise[i::2, j::2, channel].var() / variance for i in (0, 1) for j in (0, 1)]
        assert sites == pytest.approx(wanted, rel=0.03)


def test_noise_is_correlated_as_behind_a_mosaic_and_not_between_channels():
    noise, _ = residual()
    noise /= noise.std((0, 1))

    def rho(dy, dx, one, other):
        height, width = noise.shape[:2]
        return (noise[: height - dy, : width - dx, one] * noise[dy:, dx:, other]).mean()

    lags = ((0, 1), (1, 0), (0, 2), (2, 0), (0, 3), (3, 0), (1, 1))
    for channel, wanted in (
        (2, [2 / 3, 2 / 3, 1 / 6, 1 / 6, 0, 0, 4 / 9]),
        (0, [2 / 3, 2 / 3, 1 / 6, 1 / 6, 0, 0, 4 / 9]),
        (1, [0.4, 0.4, 0.05, 0.05, 0, 0, 0.1]),
    ):
        assert [rho(*lag, channel, channel) for lag in lags] == pytest.approx(wanted, abs=0.01), channel
    assert max(abs(rho(0, 0, *pair)) for pair in ((0, 1), (0, 2), (1, 2))) < 0.01


def test_without_a_mosaic_neighbours_and_channels_have_noise_of_their_own():
    noise = capture(flat(128, 128, 128), Shot(sigma_s=0.05, crf=LINEAR)) - 128.0
    noise /= noise.std()
    assert abs((noise[:, 1:] * noise[:, :-1]).mean()) < 0.01
    assert abs((noise[..., 0] * noise[..., 1]).mean()) < 0.01


@pytest.mark.parametrize("rate", [0.1, 1, 10, 100])
def test_poisson_photons_have_mean_variance_and_skew_of_their_rate(rate):
    sigma_s = 0.1 if rate < 20 else 0.05
    code = np.uint16(round(65535 * rate * sigma_s**2))
    rate = code / 65535 / sigma_s**2
    photons = tapped(code, Shot(sigma_s=sigma_s, crf=LINEAR, shot_model="poisson"), side=1800) / sigma_s**2
    assert off(photons, np.rint(photons)).max() < 0.01  # whole ones
    assert (photons.mean(), photons.var()) == pytest.approx((rate, rate), rel=0.01)
    assert ((photons - rate) ** 3).mean() / rate**1.5 == pytest.approx(rate**-0.5, rel=0.05)


def test_read_noise_adds_to_poisson_photons():
    found = tapped(np.uint8(128), Shot(sigma_s=0.05, sigma_c=0.03, crf=LINEAR, shot_model="poisson"), side=512)
    assert found.mean() == pytest.approx(128 / 255, rel=0.001)
    assert found.var() == pytest.approx(128 / 255 * 0.05**2 + 0.03**2, rel=0.01)


@pytest.mark.parametrize("model", ["gaussian", "poisson"])
def test_the_brightest_noise_of_a_dark_picture_is_not_clipped(model):
    """The gain spreads the darkness over 16 bits; it leaves room for the noise."""
    for ev in (-6, -3):
        shot = settings(ev=ev, sigma_s=0.16, sigma_c=0.01, crf="srgb", shot_model=model).draw(random.Random(0))
        raw = exposed(np.full((1024, 1024), 255, np.uint8), shot)
        assert 20_000 < raw.max() < 65535


@pytest.mark.parametrize(("sigma_c", "wanted"), [(0.005, 13.5), (0.02, 22.8), (0.06, 36.5)])
def test_clipping_at_black_lifts_dark_codes(sigma_c, wanted):
    shot = Shot(sigma_s=0.05, sigma_c=sigma_c, bayer="RGGB")
    assert capture(flat(10, 10, 10), shot).mean() == pytest.approx(wanted, abs=0.5)


@pytest.mark.parametrize("code", [100, 140, 180, 220])  # nothing clips
def test_the_noise_on_the_sensor_has_the_deviation_of_the_formula(code):
    shot = Shot(sigma_s=0.05, sigma_c=0.02, crf=DIGITAL)
    formula = noise_of_light(light_of_codes(shot, 255), shot)
    assert tapped(np.uint8(code), shot).std() == pytest.approx(formula[code], rel=0.01)


def test_the_clean_picture_has_no_noise_and_is_the_mean_of_the_noisy_ones():
    image = np.clip(SCENES[0][:48, :47], 60, 200) * np.uint16(257)
    shot = Shot(beta=0.8, sigma_s=0.02, sigma_c=0.01, crf=LINEAR, bayer="GRBG", noise_seed=1)
    wanted = clean(image, shot)
    assert np.array_equal(wanted, clean(image, replace(shot, noise_seed=2)))
    takes = np.stack([capture(image, shot, frame=k) for k in range(300)]).astype(np.float64)
    error, expected = takes.mean(0) - wanted, takes.std(0) / math.sqrt(300)
    assert takes.max() < 65535 and takes.min() > 0
    assert np.abs(error / expected).max() < 5  # of 6768 pixels
    assert abs(error.mean()) < 0.2 * expected.mean()


def test_frames_have_one_darkness_and_noise_of_their_own():
    image, shot = flat(150, 150, 150), Shot(gamma=1.5, sigma_s=0.03, sigma_c=0.01, bayer="RGGB")
    one, other = (capture(image, shot, frame=k) - clean(image, shot).astype(float) for k in (0, 1))
    assert np.corrcoef(one.ravel(), other.ravel())[0, 1] == pytest.approx(0, abs=0.01)
    assert one.std() == pytest.approx(other.std(), rel=0.01)
    assert np.array_equal(capture(image, shot), capture(image, shot, frame=0))


# ---- the darkness ----------------------------------------------------------------------------------


def test_the_mean_over_all_draws_is_the_integral_of_the_curve():
    x = (np.arange(200) + 0.5) / 200
    alpha, gamma = (0.9 + 0.1 * x)[:, None], (1.5 + 3.5 * x)[None]
    wanted = [255 * 0.75 * ((alpha * code / 255) ** gamma).mean() for code in range(256)]
    rng = random.Random(0)
    found = np.mean([clean(RAMP, settings(bayer="none").draw(rng)) for _ in range(2000)], 0)
    assert found.ravel() == pytest.approx(wanted, abs=1.5)


@pytest.mark.parametrize("crf", ["srgb", LINEAR, DIGITAL, (2.0, 0.9)], ids=str)
@pytest.mark.parametrize("ev", [-0.5, -2, -5])
def test_the_exposure_scales_the_light(ev, crf):
    image = np.arange(3000, 65536, 997, dtype=np.uint16)[None]
    shot = settings(ev=ev, crf=crf).draw(random.Random(0))
    light, found = response(crf)[1], clean(image, shot).astype(np.float64)
    wanted = 2.0**ev * light(image / 65535)
    step = 2.0**ev / 65535  # of the raw values; half of one, and half a code, are lost in rounding
    assert (light((found - 0.5) / 65535) <= wanted + 0.51 * step).all()
    assert (light((found + 0.5) / 65535) >= wanted - 0.51 * step).all()


@pytest.mark.parametrize("quantize", ["round", "truncate"])
def test_a_darker_shot_is_nowhere_brighter(quantize):
    shots = [
        Shot(gamma=gamma, beta=beta, quantize=quantize) for gamma, beta in ((1, 1), (1.5, 1), (1.5, 0.7), (4, 0.7))
    ]
    codes = [capture(RAMP, shot).astype(int) for shot in shots]
    assert all((darker <= brighter).all() for brighter, darker in pairwise(codes))
    assert all((np.diff(found.ravel()) >= 0).all() for found in codes)


def statistics(pictures):
    """Of the default preset: mean codes without noise, then medians of what its noise does."""
    rng, dark, noisy = random.Random(0), [], []
    for image in pictures:
        shot = settings().draw(rng)
        image = image[: len(image) // 2 * 2, : image.shape[1] // 2 * 2]
        found, wanted = capture(image, shot), clean(image, shot)
        dark.append(luma(wanted))
        plane = mosaic(image, ["BGR".index(colour) for colour in shot.bayer])
        light = light_of_codes(shot, 255)
        squares = [np.square(of)[plane].mean() for of in (light, noise_of_light(light, shot))]
        raw = exposed(plane, shot)
        clipped = np.isin(raw, (0, 65535)).mean()
        noisy.append([luma(found), math.sqrt(squares[0] / squares[1]), clipped, (found - wanted.astype(float)).std()])
    return np.array(dark), np.median(noisy, 0)


def test_scenes_darkened_by_the_default_preset_are_dark_and_noisy():
    dark, (mean, snr, clipped, rms) = statistics(SCENES * 3)
    assert dark.mean() < 60 < 120 < np.mean([luma(image) for image in SCENES])
    assert 20 < mean < 70 and 1 < snr < 6 and 0.02 < clipped < 0.4 and 5 < rms < 30


def test_photos_darkened_by_the_default_preset_are_as_dark_and_noisy_as_by_a_prototype(photos):
    """What it measured on 100 photos of COCO: mean code 34.8 +- 24.6, 9 % of the pictures below 10, SNR 2."""
    dark, (mean, snr, clipped, rms) = statistics(photos)
    assert dark.mean() == pytest.approx(34.8, abs=4)
    assert dark.std() == pytest.approx(24.6, abs=4)
    assert np.percentile(dark, [5, 25, 50, 75, 95]) == pytest.approx([7, 18, 29, 45, 80], abs=9)  # of few photos
    assert (dark < 10).mean() == pytest.approx(0.09, abs=0.04)
    assert mean == pytest.approx(36, abs=4)
    assert snr == pytest.approx(2, abs=0.5)
    assert clipped == pytest.approx(0.27, abs=0.04)
    assert rms == pytest.approx(16, abs=2)


@pytest.mark.parametrize(
    ("preset", "mean", "rms"), [("mild", 68, 2.1), ("moderate", 36, 4), ("severe", 25, 8), ("extreme", 23, 16)]
)
def test_photos_are_as_dark_and_noisy_as_the_name_of_the_preset_promises(photos, preset, mean, rms):
    rng, found = random.Random(0), []
    for photo in photos[::4]:
        shot = settings(preset).draw(rng)
        dark = capture(photo, shot)
        found.append([luma(dark), (dark - clean(photo, shot).astype(float)).std()])
    assert np.median(found, 0) == pytest.approx([mean, rms], rel=0.2)  # of few photos


def bilinear(plane):
    """Textbook demosaicing of RGGB: the mean of the nearest sites of a colour; float64 (H, W, 3), RGB."""
    y, x = np.mgrid[: plane.shape[0], : plane.shape[1]] % 2
    colours = []
    for sites in ((y == 0) & (x == 0), y != x, (y == 1) & (x == 1)):
        kernel = np.array(
            [[0, 1, 0], [1, 4, 1], [0, 1, 0]] if (sites == (y != x)).all() else [[1, 2, 1], [2, 4, 2], [1, 2, 1]]
        )
        colours.append(cv2.filter2D(plane * sites, -1, kernel / 4.0))
    return np.dstack(colours)


@pytest.mark.parametrize("order", ["sensor", "paper"])
@pytest.mark.parametrize("seed", range(4))
def test_the_picture_is_that_of_the_published_steps_in_float64(seed, order):
    """Lv et al. as the first author of the wNLB paper wrote it: 8-bit curve, float noise, 8-bit end."""
    image = SCENES[seed]
    shot = settings("lv", order=order).draw(random.Random(seed))
    codes = np.floor(shot.alpha * image[..., ::-1].astype(np.float64))
    codes = np.floor(255 * (codes / 255) ** shot.gamma)
    codes = np.floor(shot.beta * codes)
    f, inverse = response(shot.crf)
    light = inverse(codes / 255)
    plane = light[..., 1].copy()
    plane[::2, ::2], plane[1::2, 1::2] = light[::2, ::2, 0], light[1::2, 1::2, 2]
    bits = np.random.SFC64(np.random.SeedSequence([shot.noise_seed, 0]))
    words = bits.random_raw(plane.size // 4).astype("<u8").view("<u2").reshape(plane.shape)
    noise = normal_quantiles().astype(np.float64)[words] * np.sqrt(plane * shot.sigma_s**2 + shot.sigma_c**2)
    plane = np.clip(plane + noise, 0, 1)
    if order == "sensor":
        wanted = np.floor(255 * f(np.clip(bilinear(plane), 0, 1)))
    else:
        wanted = np.floor(bilinear(np.floor(255 * f(plane))) + 0.5)
    error = off(inner(capture(image, shot)[..., ::-1]), inner(wanted))
    assert error.max() <= 1
    assert error.mean() < 0.05


# ---- the same for ever -----------------------------------------------------------------------------


def frozen(order=(0, 1, 2)):
    """Hashes of three small pictures. All it needs is here: its source runs in other processes."""
    import hashlib
    import random

    import numpy as np

    from yolo_wnlb.imaging.camera import settings
    from yolo_wnlb.imaging.capture import capture

    def ramps(height, width, dtype):
        y, x = np.mgrid[:height, :width]
        return ((7 * y + 5 * x)[..., None] * [1, 2, 3] * (np.iinfo(dtype).max // 255) % np.iinfo(dtype).max).astype(
            dtype
        )

    pictures = [
        (ramps(64, 96, np.uint8), settings(), "bgr"),
        (ramps(37, 53, np.uint8), settings("extreme", order="paper"), "rgb"),
        (ramps(40, 31, np.uint16), settings("lv"), "bgr"),
    ]
    hashes = {}
    for i in order:
        image, asked, channel_order = pictures[i]
        found = capture(image, asked.draw(random.Random(i)), channel_order=channel_order)
        hashes[i] = hashlib.blake2b(found.tobytes(), digest_size=8).hexdigest()
    return [hashes[i] for i in sorted(hashes)]


FROZEN = ["3be12e5bbfe72d7b", "e1469dc1d01cc6b7", "2c25a0a6f8b09d06"]  # of OpenCV 4.8 to 5.0 and NumPy 1.26 to 2.4


def frozen_elsewhere(folder, **env):
    run = run_python(f"{inspect.getsource(frozen)}\nprint(frozen((2, 1, 0)))", folder, **env)
    assert run.returncode == 0, run.stderr
    return literal_eval(run.stdout)


def test_pictures_are_the_same_as_ever():
    assert frozen() == FROZEN


def test_pictures_are_the_same_with_an_opencv_that_looks_up_8_bits_only(monkeypatch):
    monkeypatch.setattr("yolo_wnlb.imaging.tables.has_wide_lut", lambda: False)
    assert frozen() == FROZEN


def test_pictures_are_the_same_in_another_process_and_order(tmp_path):
    assert frozen_elsewhere(tmp_path) == FROZEN


def test_pictures_are_the_same_on_a_lesser_processor(tmp_path):
    umath = pytest.importorskip("numpy._core._multiarray_umath")
    wide = ("AVX512", "X86_V4")
    fast = [name for name in umath.__cpu_dispatch__ if name.startswith(wide) and umath.__cpu_features__[name]]
    if not fast:
        pytest.skip("this NumPy uses no AVX-512 on this processor")
    assert frozen_elsewhere(tmp_path, NPY_DISABLE_CPU_FEATURES=" ".join(fast)) == FROZEN


def test_the_seed_alone_decides_and_no_global_state_is_touched():
    random.seed(0)
    np.random.seed(0)
    before = random.getstate(), np.random.get_state()[1].tolist()
    first = darken(SCENES[1], "severe", seed=1)
    assert np.array_equal(first, darken(SCENES[1], "severe", seed=1))
    assert np.array_equal(first, capture(SCENES[1], settings("severe").draw(random.Random(1))))
    assert not np.array_equal(first, darken(SCENES[1], "severe", seed=2))
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before


WAYS = [{"preset": name} for name in PRESETS] + [
    {"ev": (-3, -1)},
    {"crf": "srgb"},
    {"crf": "digital"},
    {"crf": (0.5, 0)},
    {"bayer": "none"},
    {"jpeg_quality": (60, 90)},
]


@pytest.mark.parametrize(("preset", "sd"), [("n10", 10.0), ("n20", 20.0)])
@pytest.mark.parametrize("shape", [(400, 400), (400, 400, 3)])
def test_added_noise_is_white_and_has_the_standard_deviation_of_its_name(preset, sd, shape):
    grey = np.full(shape, 128, np.uint8)
    shot = settings(preset).draw(random.Random(1))
    assert np.array_equal(clean(grey, shot), grey)
    noise = capture(grey, shot) - 128.0
    assert noise.std() == pytest.approx(sd, abs=0.1) and abs(noise.mean()) < 0.15
    for a, b in ((noise[1:], noise[:-1]), (noise[:, 1:], noise[:, :-1])):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.01
    if len(shape) == 3:
        assert abs(np.corrcoef(noise[..., 0].ravel(), noise[..., 1].ravel())[0, 1]) < 0.01


def test_added_noise_of_20_codes_leaves_a_psnr_of_22_11_db():
    grey = np.full((500, 500), 128, np.uint8)
    noise = capture(grey, settings("n20").draw(random.Random(1))) - 128.0
    assert 10 * np.log10(255**2 / np.square(noise).mean()) == pytest.approx(22.11, abs=0.03)


def test_no_setting_shifts_a_later_draw():
    states = set()
    for asked in WAYS:
        rng = random.Random(3)
        settings(**asked).draw(rng)
        states.add(rng.getstate())
    assert len(states) == 1


@pytest.mark.parametrize("asked", WAYS, ids=str)
def test_draws_stay_in_their_spans_and_reach_over_them(asked):
    camera, rng = settings(**asked), random.Random(0)
    shots = [camera.draw(rng) for _ in range(300)]
    for name in BOUNDS:
        values = [getattr(shot, name) for shot in shots]
        low, high = getattr(camera, name) or (values[0], values[0])  # ev and jpeg_quality may be off
        assert values[0] is None or low <= min(values) <= max(values) <= high
        assert values[0] is None or max(values) - min(values) >= 0.97 * (high - low)
    patterns = {shot.bayer for shot in shots}
    assert patterns == (set(BAYER) if camera.bayer == "random" else {camera.bayer})
    assert len({shot.noise_seed for shot in shots}) == 300


@pytest.mark.parametrize("asked", [*WAYS, {"shot_model": "poisson"}], ids=str)
def test_a_shot_survives_json(asked):
    shot = settings(**asked).draw(random.Random(5))
    again = Shot(**json.loads(json.dumps(asdict(shot))))
    assert np.array_equal(capture(SCENES[2], again), capture(SCENES[2], shot))


# ---- types, sizes, and the JPEG step ---------------------------------------------------------------

SHAPES = [(1, 1), (1, 2), (2, 1), (2, 2), (3, 5), (8, 6), (17, 4), (5, 1, 1), (4, 4, 1)]
SHAPES += [(1, 1, 3), (1, 2, 3), (2, 1, 3), (2, 2, 3), (3, 5, 3), (8, 6, 3), (17, 4, 3)]


@pytest.mark.parametrize("order", ["sensor", "paper"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_all_sizes_keep_shape_and_type_and_leave_the_input_alone(shape, dtype, order):
    white = 1 if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max
    image = (np.random.default_rng(0).uniform(0.3, 1, shape) * white).astype(dtype)
    before = image.copy()
    shot = replace(settings("moderate").draw(random.Random(0)), order=order)
    for found in (capture(image, shot), clean(image, shot)):
        assert found.shape == shape and found.flags.c_contiguous
        assert found.dtype == (np.float32 if white == 1 else dtype)
        assert 0 < found.mean() < image.mean() and found.max() <= white
    assert np.array_equal(image, before) and not np.shares_memory(capture(image, Shot()), image)


def test_views_and_read_only_pictures_are_taken_as_copies_are():
    shot = settings("moderate").draw(random.Random(0))
    for view in (SCENES[0][::2, ::3], SCENES[0][::-1], SCENES[0].transpose(1, 0, 2), np.asfortranarray(SCENES[0])):
        view.flags.writeable = False
        assert np.array_equal(capture(view, shot), capture(view.copy(order="C"), shot))


@pytest.mark.parametrize("name", PRESETS)
def test_8_bits_and_16_bits_and_floats_give_one_picture(name):
    image = SCENES[3][:99]
    shot = replace(settings(name).draw(random.Random(1)), quantize="round", crf="srgb")
    eight, sixteen = capture(image, shot), capture(image * np.uint16(257), shot)
    assert np.abs(sixteen / 257 - eight).max() < 0.51
    assert np.array_equal(capture(image / 255, shot), sixteen.astype(np.float32) / 65535)


def test_grey_pictures_have_the_noise_of_a_sensor_without_filters():
    grey = SCENES[0][..., 0]
    shot = settings("severe").draw(random.Random(0))
    found = capture(grey, shot)
    assert np.array_equal(found, capture(grey, replace(shot, bayer=None)))
    assert np.array_equal(found[..., None], capture(grey[..., None], shot))


def test_the_jpeg_step_is_the_last_and_has_the_drawn_quality():
    for seed, image in enumerate((SCENES[0], SCENES[0][:33, :47], SCENES[0][..., 0])):
        shot = settings(jpeg_quality=(30, 90)).draw(random.Random(seed))
        before = capture(image, replace(shot, jpeg_quality=None))
        stored = cv2.imencode(".jpg", before, [cv2.IMWRITE_JPEG_QUALITY, shot.jpeg_quality])[1]
        found = capture(image, shot)
        assert np.array_equal(found, cv2.imdecode(stored, cv2.IMREAD_UNCHANGED))
        assert found.shape == image.shape and not np.array_equal(found, before)
        if image.ndim == 3:
            same = capture(image[..., ::-1], shot, channel_order="rgb")
            assert np.array_equal(same[..., ::-1], found)


# ---- the door --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"preset": "sever"}, "no low-light preset 'sever' (did you mean 'severe'?); choose from mild, moderate"),
        ({"preset": "night"}, "no low-light preset 'night'; choose from"),
        ({"preset": ["severe"]}, "no low-light preset ['severe']"),
        ({"preset": "lim"}, "no low-light preset 'lim' (did you mean 'lin'?)"),
        ({"preset": None}, "no low-light preset None"),
        ({"preset": {"preset": "extrem"}}, "did you mean 'extreme'?"),
        ({"preset": {"gama": 2}}, "no low-light setting 'gama' (did you mean 'gamma'?); choose from preset, alpha"),
        ({"noise": 2}, "no low-light setting 'noise'"),
        ({"ev": -2, "gamma": 2}, "ev= takes the place of the curve; leave out either ev or gamma"),
        ({"preset": {"ev": -2, "beta": 1, "alpha": 1}}, "leave out either ev or alpha, beta"),
        ({"preset": settings(ev=-2), "gamma": 3}, "leave out either ev or gamma"),
        ({"gamma": (3, 2)}, "gamma is (3, 2), upside down; write the lower one first: (2, 3)"),
        ({"sigma_s": 1.5}, "sigma_s is 1.5; wanted values in [0, 1]"),
        ({"sigma_c": (-0.1, 0.1)}, "sigma_c is (-0.1, 0.1); wanted values in [0, 1]"),
        ({"ev": 1}, "ev is 1; wanted values in [-20, 0]"),
        ({"ev": math.nan}, "ev is nan; wanted values"),
        ({"beta": (math.nan, 0.5)}, "beta is (nan, 0.5); wanted values"),
        ({"beta": (0.5, math.nan)}, "beta is (0.5, nan); wanted values"),
        ({"gamma": (2, math.inf)}, "gamma is (2, inf); wanted values"),
        ({"alpha": 0}, "alpha is 0; at 0 nothing is left of the picture"),
        ({"beta": 1e-7}, "beta is 1e-07; at 0 nothing is left of the picture"),  # drawn with six digits
        ({"gamma": 10**400}, "wanted values in [0.01, 20]"),
        ({"gamma": np.float32("nan")}, "wanted values in [0.01, 20]"),
        ({"gamma": np.bool_(True)}, "wanted a number"),
        ({"jpeg_quality": np.float64(80)}, "wanted a whole number"),
        ({"gamma": "2"}, "gamma is '2'; wanted a number, or low and high"),
        ({"gamma": None}, "gamma is None; wanted a number"),
        ({"gamma": True}, "gamma is True; wanted a number"),
        ({"gamma": (1, 2, 3)}, "gamma is (1, 2, 3); wanted a number"),
        ({"jpeg_quality": 0}, "jpeg_quality is 0; wanted values in [1, 100]"),
        ({"jpeg_quality": 80.5}, "jpeg_quality is 80.5; wanted a whole number"),
        ({"bayer": "RGBG"}, "bayer is 'RGBG' (did you mean 'RGGB'?); choose from none, random, RGGB"),
        ({"bayer": ["RGGB"]}, "bayer is ['RGGB'] (did you mean 'RGGB'?); choose from"),
        ({"shot_model": "tukey"}, "shot_model is 'tukey'; choose from gaussian, poisson"),
        ({"order": "lin"}, "order is 'lin'; choose from sensor, paper"),
        ({"quantize": None}, "quantize is None; choose from round, truncate"),
        *(
            ({"crf": crf}, f"crf is {crf!r}; wanted mixture, digital, srgb, gamma:2.2, identity, dorf:FILE, or the")
            for crf in (
                *("sRGB", "gamma:x", "gamma:0", "gamma:inf", "gamma:nan", "gamma:1e300", None, 2.2),
                *((1, 1), (0, 0), (1, 0, 0), (True, 0), (1, -1e17), (1e300, 0), (1, 1 - 1e-12)),
            )
        ),
        ({"crf": (math.inf, 0)}, "crf is (inf, 0); wanted"),
        ({"crf": (1, -math.inf)}, "crf is (1, -inf); wanted"),
    ],
    ids=str,
)
def test_wrong_settings_are_refused_with_name_value_and_choices(asked, message):
    with pytest.raises(ValueError) as refused:
        settings(**asked)
    assert message in str(refused.value)


def test_numbers_of_numpy_are_numbers():
    python = settings(gamma=(2, 3), ev=None, sigma_s=0.5, jpeg_quality=(60, 80), crf=(0.5, 0.25))
    numpy = settings(
        gamma=(np.int64(2), np.float32(3)),
        sigma_s=np.float16(0.5),
        jpeg_quality=(np.uint8(60), np.int32(80)),
        crf=(np.float32(0.5), np.float64(0.25)),
    )
    assert numpy == python and json.dumps(asdict(numpy)) == json.dumps(asdict(python))


def test_what_is_asked_for_in_many_ways_is_one_thing():
    assert settings() == settings(True) == settings("agllnet") == settings({}) == settings({"preset": "agllnet"})
    assert (
        settings("severe", ev=-2)
        == settings({"preset": "severe", "ev": (-2, -2)})
        == settings({"ev": [-2, -2], "preset": "severe"})
    )
    assert settings(settings("severe"), bayer="none") == settings("severe", bayer=None)
    assert settings(settings(ev=-2), ev=None).ev is None


def test_the_presets_are_these_numbers():
    alpha, noise, camera = "alpha 0.9-1", "sigma_s 0-0.16, sigma_c 0-0.06", "crf mixture, bayer random"
    assert {name: str(settings(name)) for name in PRESETS} == {
        "mild": f"alpha 0.95-1, beta 0.8-1, gamma 1.5-2, sigma_s 0.005-0.02, sigma_c 0.0005-0.003, {camera}",
        "moderate": f"{alpha}, beta 0.6-0.9, gamma 2-3, sigma_s 0.01-0.04, sigma_c 0.001-0.008, {camera}",
        "severe": f"{alpha}, beta 0.5-0.8, gamma 3-4, sigma_s 0.02-0.08, sigma_c 0.004-0.02, {camera}",
        "extreme": f"{alpha}, beta 0.5-0.6, gamma 4-5, sigma_s 0.05-0.16, sigma_c 0.01-0.06, {camera}",
        "agllnet": f"{alpha}, beta 0.5-1, gamma 1.5-5, {noise}, {camera}",
        "lv": f"{alpha}, beta 0.5-1, gamma 1.5-5, {noise}, crf mixture, bayer RGGB, quantize truncate",
        "n10": "alpha 1, beta 1, gamma 1, sigma_s 0, sigma_c 0.039216, crf identity",
        "n20": "alpha 1, beta 1, gamma 1, sigma_s 0, sigma_c 0.078431, crf identity",
    }
    assert settings("lin") == settings("lv")  # its older name
    assert str(settings("lv", ev=-3)) == f"ev -3, {noise}, crf mixture, bayer RGGB, quantize truncate"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("empty.txt", "", "it is empty"),
        ("short.txt", "a\nb\nI =\n0 1\n", "not enough values"),
        ("words.txt", "a\nb\nI =\n0 x 1\nB =\n0 .5 1\n", "could not convert string to float: 'x'"),
        ("marks.txt", "a\nb\nX =\n0 .5 1\nB =\n0 .5 1\n", "'X ='"),
        ("uneven.txt", "a\nb\nI =\n0 1\nB =\n0 .5 1\n", "curve a"),
        ("codes.txt", "a\nb\nI =\n0 .5 1\nB =\n0 128 255\n", "curve a: wanted as many codes as lights, both rising"),
        ("nan.txt", "a\nb\nI =\n0 .5 1\nB =\n0 nan 1\n", "curve a"),
        ("constant.txt", "a\nb\nI =\n0 .5 1\nB =\n1 1 1\n", "curve a"),
        ("mirrored.txt", "a\nb\nI =\n1 .5 0\nB =\n0 .5 1\n", "curve a"),
        ("empty.mat", "", ""),
        ("words.mat", "no matrices " * 40, ""),
    ],
)
def test_a_broken_file_of_curves_is_told_by_name(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    if path.suffix == ".mat":
        pytest.importorskip("scipy.io")
    with pytest.raises(ValueError) as refused:
        settings(crf=f"dorf:{path}")
    assert f"{path} holds no response curves as dorfCurves.txt does: " in str(refused.value)
    assert message in str(refused.value)


def test_a_missing_file_or_curve_is_told_with_where_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file 'gone\.txt' .*Columbia CAVE"):
        settings(crf="dorf:gone.txt")
    curve_file(tmp_path / "curves.txt")
    with pytest.raises(ValueError, match="has no curve 'root', but root one, root-two, flat steps"):
        settings(crf=f"dorf:{tmp_path / 'curves.txt'}#root")


def test_a_file_of_curves_that_changes_is_read_again(tmp_path, monkeypatch):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    (tmp_path / "one" / "c.txt").write_text("a\nb\nI =\n0 .5 1\nB =\n0 .7 1\n")
    (tmp_path / "two" / "c.txt").write_text("a\nb\nI =\n0 .5 1\nB =\n0 .9 1\n")
    for folder, code in (("one", 0.7), ("two", 0.9)):  # one relative name, two files
        monkeypatch.chdir(tmp_path / folder)
        assert response("dorf:c.txt#a")[0](np.array([0.5])) == pytest.approx([code])
    (tmp_path / "two" / "c.txt").write_text("a\nb\nI =\n0 .5 1\nB =\n0 .875 1\n")
    assert response("dorf:c.txt#a")[0](np.array([0.5])) == pytest.approx([0.875])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 4), np.uint8), "the picture has shape (4, 4, 4); wanted (H, W), (H, W, 1) or (H, W, 3): drop"),
        (np.zeros((4, 4, 2), np.uint8), "shape (4, 4, 2)"),
        (np.zeros(4, np.uint8), "shape (4,)"),
        (np.zeros((1, 4, 4, 3), np.uint8), "shape (1, 4, 4, 3)"),
        (np.zeros((0, 4, 3), np.uint8), "shape (0, 4, 3)"),
        (None, "shape None"),
        ([[1, 2]], "shape None"),
        (np.zeros((4, 4), np.int32), "the picture is int32; wanted uint8, uint16, or float in [0, 1]"),
        (np.zeros((4, 4), bool), "the picture is bool"),
        (np.full((4, 4), 1.5, np.float32), "the float picture has values from 1.5 to 1.5; wanted 0 to 1: divide"),
        (np.full((4, 4), -0.1), "values from -0.1"),
        (np.full((4, 4), 1.0001, np.float32), "values from 1.0001"),
        (np.full((4, 4), -1e-4), "values from -0.0001"),
        (np.full((4, 4), 1.01, np.float16), "values from 1.00977"),
        (np.full((4, 4), -np.inf), "values from -inf"),
        (np.full((4, 4), np.nan, np.float32), "values from nan"),
        (np.full((4, 4), np.inf), "values from inf"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_pictures_are_refused_with_shape_type_and_values(image, message):
    for act in (capture, clean):
        with pytest.raises(ValueError) as refused:
            act(image, Shot())
        assert message in str(refused.value)


def test_one_nan_among_good_floats_is_refused():
    image = np.full((4, 4, 3), 0.5)
    image[2, 1, 0] = np.nan
    with pytest.raises(ValueError, match="nan"):
        capture(image, Shot())


@pytest.mark.parametrize(
    ("kind", "beside"),
    [(np.float16, 2**-9), (np.float32, 2**-22), (np.float32, 7e-6), (np.float64, 2**-22), (np.float64, 1e-15)],
)
def test_floats_beside_0_and_1_by_rounding_are_clipped(kind, beside):
    image = np.array([[0, 1, 0.5], [1, 0, 0.25]], kind)
    rounded = image + np.array([[-beside, beside, 0], [beside, -beside, 0]], kind)
    assert rounded.min() < 0 and rounded.max() > 1
    shot = replace(settings("severe").draw(random.Random(0)), crf="srgb")
    assert np.array_equal(capture(rounded, shot), capture(image, shot))


def test_the_whole_scale_of_16_bits_is_used():
    ends = np.array([[0, 65535]], np.uint16)
    assert capture(ends, Shot(crf=LINEAR)).tolist() == [[0, 65535]]
    assert clean(ends, Shot(beta=0.5, crf=LINEAR)).tolist() == [[0, 32768]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"noise_seed": -1}, f"noise_seed is -1; wanted a whole number in [0, {2**53 - 1}]"),
        ({"noise_seed": 2**53}, f"noise_seed is {2**53}; wanted"),
        ({"noise_seed": 5.0}, "noise_seed is 5.0; wanted a whole number"),
        ({"noise_seed": True}, "noise_seed is True; wanted a whole number"),
        ({"noise_seed": None}, "noise_seed is None; wanted a whole number"),
        ({"gamma": math.nan}, "gamma is nan; wanted values in [0.01, 20]"),
        ({"gamma": (2, 3)}, "gamma is (2, 3); wanted a number"),
        ({"sigma_s": -0.1}, "sigma_s is -0.1; wanted values in [0, 1]"),
        ({"alpha": None}, "alpha is None; wanted a number"),
        ({"jpeg_quality": 101}, "jpeg_quality is 101; wanted values in [1, 100]"),
    ],
    ids=str,
)
def test_a_shot_that_cannot_be_is_refused(values, message):
    with pytest.raises(ValueError) as refused:
        Shot(**values)
    assert message in str(refused.value)


@pytest.mark.parametrize("frame", [-1, 2**64, 1.0, True, "1", None])
def test_a_frame_that_cannot_be_is_refused(frame):
    with pytest.raises(ValueError, match=r"frame is .*; wanted a whole number"):
        capture(RAMP, Shot(), frame=frame)


@pytest.mark.parametrize("seed", [-1, 2.0, True, np.float32(1), np.bool_(True), "1", None])
def test_a_seed_that_could_be_taken_for_another_is_refused(seed):
    """For Python's random numbers -1 and 1, or 2.0 and 2, are one seed."""
    with pytest.raises(ValueError, match=r"seed is .*; wanted a whole number"):
        darken(RAMP, seed=seed)
    if seed != -1:  # hashed as text, so it is a seed of its own
        with pytest.raises(ValueError, match=r"seed is .*; wanted a whole number"):
            picture_rng(seed, "a.jpg")


def test_numpys_seeds_and_frames_are_those_of_python():
    shot = Shot(sigma_s=0.05, sigma_c=0.01, noise_seed=5)
    assert np.array_equal(darken(RAMP, seed=np.int64(3)), darken(RAMP, seed=3))
    assert picture_rng(np.uint8(3), "a").random() == picture_rng(3, "a").random()
    same = capture(RAMP, replace(shot, noise_seed=np.uint32(5)), frame=np.int8(7))
    assert np.array_equal(same, capture(RAMP, shot, frame=7))


def test_different_seeds_and_frames_never_share_their_noise():
    """The pairs are those whose 32-bit words, written one behind the other, would be the same."""
    pairs = [(5, 7), (5 + 7 * 2**32, 0), (5, 7 + 9 * 2**32), (5 + 7 * 2**32, 9), (0, 1), (2**32, 0), (0, 0), (1, 0)]
    pairs += [(0, 2**32), (2**52, 0), (0, 2**20), (2**53 - 1, 2**64 - 1), (2**32 - 1, 2**64 - 1)]
    states = {noise_source(*pair).random_raw(4).tobytes() for pair in pairs}
    assert len(states) == len(pairs)
    shot = Shot(sigma_s=0.05, sigma_c=0.01)
    first = capture(RAMP, replace(shot, noise_seed=5 + 7 * 2**32))
    assert not np.array_equal(first, capture(RAMP, replace(shot, noise_seed=5), frame=7))


@pytest.mark.parametrize("pair", [(5, 0), (0, 0), (2**32 - 1, 0), (2**40 + 5, 0), (2**40 + 5, 3), (2**53 - 1, 2**33)])
def test_the_noise_is_what_it_was_wherever_it_was_its_own(pair):
    """All still pictures, and all frames of seeds from 2**32 on, which is nearly every seed that is drawn."""
    before = np.random.SFC64(np.random.SeedSequence(list(pair)))
    assert noise_source(*pair).random_raw(4).tolist() == before.random_raw(4).tolist()


def test_wrong_ways_to_take_a_picture_are_refused():
    with pytest.raises(ValueError, match="channel_order is 'hsv'; choose from bgr, rgb"):
        capture(SCENES[0], Shot(), channel_order="hsv")
    for image in (SCENES[0].astype(np.uint16), SCENES[0] / np.float32(255)):
        with pytest.raises(ValueError, match=f"the JPEG step has 8 bits, the picture is {image.dtype}; leave out jpeg"):
            capture(image, Shot(jpeg_quality=90))


@pytest.mark.parametrize(("module", "examples"), [("camera", 1), ("capture", 3)])
def test_the_examples_of_the_docstrings_run(module, examples):
    assert doctest.testmod(import_module(f"yolo_wnlb.imaging.{module}")) == (0, examples)
