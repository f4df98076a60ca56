"""Corruptions: what each does, against formulas, other libraries and the published procedure; what is refused."""

import hashlib
import io
import itertools
import math
import subprocess
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from yolo_wnlb.imaging import corruptions
from yolo_wnlb.imaging.corruptions import CORRUPTIONS, FAMILIES, corrupt, generator

CASES = [(name, level) for name, found in CORRUPTIONS.items() for level in range(1, len(found.strengths) + 1)]
SIZES = [(1, 1), (1, 40), (37, 53), (64, 48)]


def picture(height=48, width=64, channels=3, seed=0):
    """Smooth colours with some noise on top: uint8 (H, W, C)."""
    rng = np.random.default_rng(seed)
    small = rng.random((6, 8, channels), np.float32)
    large = cv2.resize(small, (width, height)).reshape(height, width, channels)
    return np.rint(np.clip(large + 0.02 * rng.standard_normal(large.shape), 0, 1) * 255).astype(np.uint8)


def apply(name, level, image, key="a.png", seed=0, boxes=((3, 4, 20, 10),)):
    return corrupt(image, name, level, generator(seed, name, key), boxes)


def of_files(x, strength):
    """The published loop of glass blur, word for word in what it does, with steps that are given."""
    height, width = x.shape[:2]
    for dy, dx, reach in strength:
        for h in range(height - reach, reach, -1):
            for w in range(width - reach, reach, -1):
                there = h + dy[h, w], w + dx[h, w]
                x[h, w], x[there] = x[there], x[h, w]
    return x


@pytest.mark.parametrize("name, level", CASES)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_level_gives_a_picture_of_the_same_shape_and_leaves_its_input_alone(name, level, channels):
    for height, width in SIZES:
        image = picture(height, width, channels)
        before = image.copy()
        found = apply(name, level, image)
        assert found.shape == image.shape and found.dtype == np.uint8
        assert (image == before).all()


def test_there_are_14_of_the_15_published_corruptions_with_five_levels_each():
    assert len(FAMILIES["common"]) == 14 and "frost" not in FAMILIES["common"]
    assert {len(CORRUPTIONS[name].strengths) for name in FAMILIES["common"]} == {5}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_higher_levels_are_further_from_the_picture(name):
    image = picture(96, 128)
    levels = len(CORRUPTIONS[name].strengths)
    away = [
        np.abs(apply(name, level, image).astype(float) - image)[4:14, 3:23].mean() for level in range(1, levels + 1)
    ]
    slack = 1.6 if name in ("glass_blur", "snow", "fog") else 1.02  # whose constants do not rise in all respects
    assert all(more * slack > less for less, more in itertools.pairwise(away)), away
    assert away[-1] > away[0]


# ---- against formulas and other libraries --------------------------------------------------------


@pytest.mark.parametrize("name, level, sd", [("gaussian_noise", 1, 0.08 * 255), ("noise", 1, 5), ("noise", 4, 40)])
def test_noise_on_mid_grey_has_the_standard_deviation_it_says(name, level, sd):
    grey = np.full((400, 500, 3), 128, np.uint8)
    noise = apply(name, level, grey).astype(float) - 128
    assert noise.std() == pytest.approx(sd, rel=0.01) and abs(noise.mean()) < 0.01 * sd


def test_shot_noise_has_the_mean_and_variance_of_counts():
    grey = np.full((400, 500, 3), 51, np.uint8)  # a fifth of white: 12 of 60 photons
    share = apply("shot_noise", 1, grey) / 255
    assert share.mean() == pytest.approx(0.2, rel=0.005) and share.var() == pytest.approx(0.2 / 60, rel=0.01)


def test_impulse_noise_turns_its_share_black_or_white_by_halves():
    grey = np.full((400, 500, 3), 128, np.uint8)
    found = apply("impulse_noise", 5, grey)
    assert (found == 0).mean() == pytest.approx(0.135, rel=0.01) == pytest.approx((found == 255).mean(), rel=0.02)
    assert {*np.unique(found)} == {0, 128, 255}


@pytest.mark.parametrize("level, sigma", enumerate((1, 2, 4, 8, 16), 1))
def test_blur_of_an_edge_is_the_error_function(level, sigma):
    edge = np.zeros((9, 200, 3), np.uint8)
    edge[:, 100:] = 200
    at = np.arange(200) + 0.5 - 100
    wanted = 100 * (1 + np.array([math.erf(x / (sigma * 2**0.5)) for x in at]))
    worst = np.abs(apply("blur", level, edge)[4, :, 1] - wanted).max()
    assert worst < (1.2 if sigma > 1 else 2)  # of 200; rounded, and a sampled Gaussian is coarse at sigma 1


def test_boxblur_leaves_every_pixel_outside_the_boxes_as_it_is():
    image, boxes = picture(), [(3.4, 4, 20, 10.2), (30, 20, 300, 9)]  # one leaves the picture
    inside = np.zeros(image.shape[:2], bool)
    inside[4:15, 3:24] = inside[20:29, 30:] = True
    for level in range(1, 7):
        found = corrupt(image, "boxblur", level, generator(0, "boxblur", "a"), boxes)
        assert (found[~inside] == image[~inside]).all()
        assert (found[inside] != image[inside]).mean() > 0.3
    assert (corrupt(image, "boxblur", 6, generator(0, "boxblur", "a"), []) == image).all()


def test_jpeg_is_what_pillow_writes():
    image = picture(64, 64)
    stored = io.BytesIO()
    Image.fromarray(image[..., ::-1]).save(stored, "JPEG", quality=7)
    assert (apply("jpeg", 5, image)[..., ::-1] == np.asarray(Image.open(stored))).all()


@pytest.mark.parametrize("level", range(1, 6))
def test_brightness_adds_to_the_value_of_hsv_and_keeps_hue_and_saturation(level):
    image = picture()
    before, after = (cv2.cvtColor(x.astype(np.float32) / 255, cv2.COLOR_BGR2HSV) for x in (image, apply(
        "brightness", level, image
    )))  # fmt: skip
    assert np.abs(after[..., 2] - np.minimum(before[..., 2] + level / 10, 1)).max() < 0.003
    assert np.abs(after[..., 1] - before[..., 1]).max() < 0.02
    assert np.abs(apply("brightness", level, np.zeros((2, 2, 3), np.uint8)) - 25.5 * level).max() <= 0.5


def test_contrast_keeps_the_mean_of_each_channel_and_shrinks_what_differs():
    image = picture()
    found = apply("contrast", 1, image)
    assert np.abs(found.mean((0, 1)) - image.mean((0, 1))).max() < 0.1
    assert np.abs(found.std((0, 1)) / image.std((0, 1)) - 0.4).max() < 0.01


@pytest.mark.parametrize("level", range(1, 6))
def test_glass_blur_moves_pixels_as_the_published_loop_does(level):
    sigma, reach, repetitions = CORRUPTIONS["glass_blur"].strengths[level - 1]
    image = picture(23, 31)
    rng = generator(0, "glass_blur", "a.png")
    steps = []
    for _ in range(repetitions):
        dy, dx = np.floor(rng.random((2, 23, 31)) * 2 * reach).astype(int) - reach
        assert {*np.unique(dy)} == {*range(-reach, reach)}  # as randint(-reach, reach)
        steps.append((dy, dx, reach))
    soft = (corruptions.gaussian_blur(image.astype(np.float32) / 255, sigma) * 255).astype(np.uint8)
    wanted = corruptions.gaussian_blur(of_files(soft, steps).astype(np.float32) / 255, sigma)
    assert (apply("glass_blur", level, image) == np.rint(wanted * 255)).all()


def test_motion_blur_smears_a_point_along_a_line_by_a_half_gaussian():
    point = np.zeros((101, 101, 1), np.float32)
    point[50, 50] = 1
    found = corruptions.smeared(point, 10, 3, 0)[50, :, 0]
    weights = np.exp(-(np.arange(21) ** 2) / 18)
    assert np.abs(found[30:51][::-1] - weights / weights.sum()).max() < 1e-5 and abs(found.sum() - 1) < 1e-5
    upright = corruptions.smeared(point, 10, 3, 90)[:, 50, 0]
    assert np.abs(upright - found).max() < 1e-5


def test_zoom_of_a_ramp_is_the_ramp_about_its_centre():
    ramp = np.tile(np.arange(101, dtype=np.float32)[:, None] / 100, (1, 81))[..., None]
    found = corruptions.zoomed(ramp, 1.25)[:, 40, 0]
    assert np.abs(found - (0.5 + (np.arange(101) - 50) / 100 / 1.25)).max() < 0.005
    assert (corruptions.zoomed(ramp, 1.0) == ramp).all()


def test_a_disc_of_defocus_blur_covers_its_area_and_sums_to_about_1():
    point = np.zeros((61, 61, 1), np.float32)
    point[30, 30] = 1
    for radius, smoothing in CORRUPTIONS["defocus_blur"].strengths:
        found = corruptions.defocus_blur(point, (radius, smoothing), None)
        assert found.sum() == pytest.approx(1, abs=0.015)  # the published kernel gains 1 % where it touches its border
        assert 1 / found.max() == pytest.approx(math.pi * radius**2, rel=0.08)


def test_elastic_moves_pixels_by_so_little_that_labels_still_hold():
    ramp = np.tile(np.arange(224, dtype=np.float32) / 224, (224, 1))[..., None]
    moved = [
        (corruptions.elastic(ramp, strength, generator(0, "elastic", "a"))[20:-20, 20:-20].reshape(184, 184)
        - ramp[20:-20, 20:-20, 0]) * 224 for strength in CORRUPTIONS["elastic"].strengths
    ]  # fmt: skip
    assert [round(float(np.std(steps)), 1) for steps in moved] == [1.0, 1.3, 1.7, 2.0, 2.4]
    assert np.abs(moved[-1]).max() < 11


def test_fog_has_structure_at_all_scales_and_reaches_from_0_to_1():
    cloud = corruptions.fractal(256, 2, np.random.default_rng(0))
    assert cloud.min() == 0 and cloud.max() == 1
    spread = [np.abs(cloud - np.roll(cloud, step, 0)).mean() for step in (1, 8, 64)]
    assert spread[0] < spread[1] < spread[2]


# ---- randomness ----------------------------------------------------------------------------------


def fingerprint(order=1):
    """Hash what all corruptions make of two pictures, in one order or the other."""
    made = {
        (name, level, key): apply(name, level, picture(20, 30), key).tobytes()
        for name, level in CASES[::order]
        for key in ("a.png", "b.png")[::order]
    }
    return hashlib.sha256(b"".join(made[key] for key in sorted(made))).hexdigest()


def test_the_same_bytes_come_in_another_order_and_in_another_process():
    assert fingerprint() == fingerprint(-1)
    code = "import sys; sys.path.insert(0, 'tests'); from test_corruptions import fingerprint; print(fingerprint())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stdout.strip() == fingerprint(), run.stderr


def test_levels_differ_in_strength_and_not_in_what_was_drawn():
    grey = np.full((60, 80, 3), 128, np.uint8)
    mild, strong = (apply("noise", level, grey).astype(float).ravel() - 128 for level in (2, 3))
    assert np.corrcoef(mild, strong)[0, 1] > 0.999
    hit = [apply("impulse_noise", level, grey) != 128 for level in (1, 5)]
    assert (hit[0] <= hit[1]).all() and hit[0].any()


@pytest.mark.parametrize("other", [{"key": "b.png"}, {"seed": 1}])
@pytest.mark.parametrize("name", ["noise", "shot_noise", "glass_blur", "motion_blur", "snow", "fog", "elastic"])
def test_another_picture_or_seed_draws_anew(name, other):
    assert (apply(name, 3, picture()) != apply(name, 3, picture(), **other)).any()


# ---- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, level, image, boxes, message",
    [
        ("fogg", 1, picture(), None, "did you mean 'fog'"),
        ("frost", 1, picture(), None, "no corruption 'frost'"),
        ("fog", 0, picture(), None, "level is 0; fog has the levels 1 to 5"),
        ("noise", 5, picture(), None, "level is 5; noise has the levels 1 to 4"),
        ("fog", 2.0, picture(), None, "wanted a whole number"),
        ("fog", True, picture(), None, "wanted a whole number"),
        ("boxblur", 1, picture(), None, "boxblur needs the boxes"),
        ("fog", 1, picture().astype(np.float32), None, "the picture is float32"),
        ("fog", 1, picture()[..., 0], None, "wanted uint8 \\(H, W, 3\\)"),
        ("fog", 1, np.zeros((4, 4, 4), np.uint8), None, "wanted uint8 \\(H, W, 3\\)"),
        ("fog", 1, np.zeros((0, 4, 3), np.uint8), None, "wanted uint8 \\(H, W, 3\\)"),
    ],
)
def test_a_mistake_is_refused_with_what_is_wanted(name, level, image, boxes, message):
    with pytest.raises(ValueError, match=message):
        corrupt(image, name, level, np.random.default_rng(0), boxes)
