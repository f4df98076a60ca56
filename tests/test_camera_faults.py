"""Banding, fixed pattern, hot pixels, bits, blur, lamp and mono against their formulas; the YAML file of a camera."""

import json
import math
import random
from dataclasses import asdict, replace

import numpy as np
import pytest
import yaml

from yolo_wnlb.imaging.bounds import BOUNDS, FIRST
from yolo_wnlb.imaging.camera import ADDED, Settings, Shot, as_changes, settings, without_unused
from yolo_wnlb.imaging.camera_file import names_a_file
from yolo_wnlb.imaging.capture import capture, clean
from yolo_wnlb.imaging.optics import motion_kernel

LINEAR = (1.0, 0.0)
PLAIN = Shot(crf=LINEAR)
ALL = {
    "sigma_row": (0.001, 0.01),
    "sigma_column": 0.002,
    "sigma_fixed": 0.003,
    "hot_pixels": (0, 1e-3),
    "camera_seed": 7,
    "bits": (8, 12),
    "blur": (0.3, 1),
    "motion": (0, 4),
    "motion_angle": (20, 60),
    "lamp": (0, 1),
}


def flat(level, height=240, width=320, dtype=np.uint16):
    return np.full((height, width), round(level * np.iinfo(dtype).max), dtype)


def light(picture):
    return picture / np.iinfo(picture.dtype).max


@pytest.mark.parametrize(("name", "axis"), [("sigma_row", 1), ("sigma_column", 0)])
def test_banding_is_one_normal_value_for_each_row_or_column(name, axis):
    shot = replace(PLAIN, **{name: 0.02})
    seen = np.stack([light(capture(flat(0.3), shot, frame=k)) for k in range(6)])
    lines = seen.mean(axis + 1)
    assert np.ptp(seen, axis=axis + 1).max() < 1e-4  # nothing but lines
    assert lines.std() == pytest.approx(0.02, rel=0.05)
    assert abs(np.corrcoef(lines)[np.triu_indices(6, 1)]).max() < 0.25  # each frame has its own


def test_the_pattern_of_a_camera_is_the_same_in_all_pictures_and_another_camera_has_another():
    shot = replace(PLAIN, sigma_fixed=0.02, hot_pixels=0.01, camera_seed=3)
    first = capture(flat(0.3), shot)
    assert np.array_equal(first, capture(flat(0.3), replace(shot, noise_seed=9), frame=4))
    assert np.median(abs(light(first) - 0.3)) == pytest.approx(0.6745 * 0.02, rel=0.05)
    assert not np.array_equal(first, capture(flat(0.3), replace(shot, camera_seed=4)))


def test_hot_pixels_are_a_share_of_the_sites_and_add_up_to_white():
    heat = light(capture(flat(0.0), replace(PLAIN, hot_pixels=0.02)))
    assert (heat > 0).mean() == pytest.approx(0.02, rel=0.1)
    assert heat[heat > 0].mean() == pytest.approx(0.5, abs=0.03)
    fewer = light(capture(flat(0.0), replace(PLAIN, hot_pixels=0.01)))
    assert np.array_equal(fewer[fewer > 0], heat[fewer > 0])  # a better sensor has some of the same


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_a_converter_of_few_bits_has_so_many_levels(bits):
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    seen = light(capture(ramp, replace(PLAIN, bits=bits)))
    assert len(np.unique(seen)) == 2**bits
    assert abs(seen - light(ramp)).max() <= 0.5 / (2**bits - 1) + 1e-4


def test_a_lamp_falls_off_with_the_cube_of_the_cosine():
    seen = light(capture(flat(0.8, 201, 301), replace(PLAIN, lamp=0.75)))
    assert seen[100, 150] == pytest.approx(0.8, rel=1e-3)
    assert seen[0, 0] == pytest.approx(0.8 * math.cos(math.atan(0.75)) ** 3, rel=1e-3)


@pytest.mark.parametrize("angle", [0, 30, 90, 135])
def test_a_motion_spreads_light_over_its_length_in_its_direction(angle):
    kernel = motion_kernel(9.0, angle)
    y, x = np.mgrid[: len(kernel), : len(kernel)] - len(kernel) // 2
    along = x * math.cos(math.radians(angle)) - y * math.sin(math.radians(angle))
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    assert (kernel * along**2).sum() == pytest.approx(9**2 / 12, rel=0.1)


def test_blur_keeps_the_light_and_has_the_width_that_was_asked_for():
    point = np.zeros((41, 41), np.uint16)
    point[20, 20] = 65535
    seen = light(capture(point, replace(PLAIN, blur=2.0)))
    x = np.arange(41) - 20
    assert seen.sum() == pytest.approx(1, rel=0.02)
    assert (seen.sum(0) * x**2).sum() == pytest.approx(4, rel=0.05)


def test_a_mono_sensor_sees_the_mean_of_the_channels_and_has_no_colours():
    colours = np.random.default_rng(0).integers(0, 65536, (20, 31, 3)).astype(np.uint16)
    seen = capture(colours, replace(PLAIN, bayer="mono"))
    assert seen.shape == colours.shape and np.ptp(seen, axis=2).max() == 0
    assert np.allclose(light(seen[..., 0]), light(colours).mean(2), atol=2e-4)
    noisy = capture(colours, replace(PLAIN, bayer="mono", sigma_c=0.05))
    assert np.ptp(noisy, axis=2).max() == 0 and not np.array_equal(noisy, seen)
    assert capture(colours[..., :1], replace(PLAIN, bayer="mono")).shape == (20, 31, 1)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (1, 1, 3), (2, 1, 3), (17, 4, 3), (6, 7, 1)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("bayer", ["random", "mono", "none"])
@pytest.mark.parametrize("order", ["sensor", "paper"])
def test_all_faults_together_give_a_picture_of_the_same_shape_and_type(shape, dtype, bayer, order):
    picture = np.random.default_rng(0).random(shape)
    picture = picture.astype(dtype) if dtype == np.float32 else (picture * np.iinfo(dtype).max).astype(dtype)
    shot = settings("severe", bayer=bayer, order=order, **ALL).draw(random.Random(1))
    seen = capture(picture, shot)
    assert seen.shape == shape and seen.dtype == dtype
    assert np.array_equal(seen, capture(picture, Shot(**json.loads(json.dumps(asdict(shot))))))
    assert np.array_equal(clean(picture, shot), clean(picture, replace(shot, noise_seed=5)))


def test_what_was_added_moves_no_draw_and_no_record_of_before():
    streams = [random.Random(3), random.Random(3)]
    plain, more = (settings("severe", **changes).draw(rng) for changes, rng in zip(({}, ALL), streams))
    assert streams[0].getstate() == streams[1].getstate()
    of_before = set(asdict(plain)) - set(ADDED)
    assert {name: getattr(more, name) for name in of_before} == {name: getattr(plain, name) for name in of_before}
    assert set(without_unused(asdict(plain))) == of_before
    assert set(without_unused(asdict(settings("severe")))) == of_before - {"noise_seed"}
    assert set(ADDED) == {*BOUNDS, "camera_seed"} - {*FIRST} and "sigma_row 0.001-0.01" in str(settings("mild", **ALL))


@pytest.mark.parametrize("name", sorted(set(ALL) - {"camera_seed", "bits"}))
def test_spans_of_the_added_settings_are_drawn_over(name):
    rng, camera = random.Random(0), settings(**{**ALL, name: BOUNDS[name]})
    values = [getattr(camera.draw(rng), name) for _ in range(200)]
    assert min(values) < 0.1 * BOUNDS[name][1] and max(values) > 0.9 * BOUNDS[name][1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sigma_row": -0.1}, "wanted values in [0, 1]"),
        ({"hot_pixels": 0.9}, "wanted values in [0, 0.5]"),
        ({"bits": 8.5}, "wanted a whole number"),
        ({"bits": 17}, "wanted values in [1, 16]"),
        ({"blur": (3, 1)}, "upside down"),
        ({"motion_angle": 200}, "wanted values in [0, 180]"),
        ({"camera_seed": -1}, "camera_seed is -1"),
        ({"lamp": "bright"}, "lamp is 'bright'"),
        ({"bayer": "grey"}, "RGGB, BGGR, GRBG, GBRG, mono"),
    ],
)
def test_mistakes_in_the_added_settings_are_named(changes, message):
    with pytest.raises(ValueError) as caught:
        settings(**changes)
    assert message in str(caught.value)


# ---- the YAML file of a camera ---------------------------------------------------------------------


@pytest.mark.parametrize("camera", [settings("severe", ev=(-5, -3), **ALL), settings("mild"), settings("lv", bits=8)])
def test_a_camera_file_stands_where_a_preset_does(camera, tmp_path):
    file = tmp_path / "my.yaml"
    file.write_text(yaml.safe_dump({"camera": 1, "settings": as_changes(camera), "found": {"anything": 1}}))
    assert settings(str(file)) == settings(file) == settings({"preset": str(file)}) == camera
    assert settings(str(file), sigma_c=0.5).sigma_c == (0.5, 0.5)
    assert settings(str(file), ev=-2).ev == (-2, -2)
    assert settings(as_changes(camera)) == camera and isinstance(camera, Settings)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("settings: [1", "is no YAML file"),
        ("- 1", "has no mapping 'settings'"),
        ("names: {0: cat}", "has no mapping 'settings'"),
        ("settings: {preset: severe}", "has no mapping 'settings'"),
        ("settings: {sigma_s: 7}", "my.yaml: sigma_s is 7"),
        ("settings: {sigma_q: 7}", "my.yaml: no low-light setting 'sigma_q'"),
        ("settings: {ev: -3, gamma: 2}", "my.yaml: ev= takes the place of the curve"),
        (b"settings: \xff", "is no YAML file"),
        (None, "no camera file"),
    ],
)
def test_what_is_no_camera_file_is_named(content, message, tmp_path):
    file = tmp_path / "my.yaml"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises((ValueError, FileNotFoundError), match=r"my\.yaml") as caught:
        settings(str(file))
    assert message in str(caught.value)
    assert names_a_file(file) and not names_a_file("severe") and not names_a_file(True)


def test_a_run_records_what_the_camera_file_held(tmp_path):
    from yolo_wnlb.yolo.darkness import check_request, read_request

    file = tmp_path / "my.yaml"
    file.write_text(yaml.safe_dump({"settings": as_changes(settings("severe", ev=-3))}))
    for request in (str(file), {"preset": str(file), "seed": 4, "p": 0.5, "bits": 8}):
        asked, cfg = read_request(request), {"lowlight": request}
        check_request(cfg)
        assert read_request(cfg["lowlight"]) == asked and str(file) not in str(cfg)
