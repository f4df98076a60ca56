"""calibrate: known cameras are found again, and mistakes in the pictures are named."""

import random
import runpy
import struct
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image

from yolo_wnlb.calibrate.calibrate import calibrate, exposure
from yolo_wnlb.calibrate.report import CAPTION, HEIGHT, SHOWN
from yolo_wnlb.calibrate.sources import jpeg_quality, read_frames, read_pairs
from yolo_wnlb.cli import main
from yolo_wnlb.data.shapes import scene
from yolo_wnlb.imaging.camera import PRESETS, Shot, settings
from yolo_wnlb.imaging.capture import capture

ROOT = Path(__file__).resolve().parents[1]
CHART = 450  # height of the noise curves, in pixels
STOPS = (0, -1, -2.5, -4)  # of the scenes: how dark they are


def scenes(count, height, width):
    """Bright drawn scenes at different darkness, without noise."""
    drawn = (scene(np.random.default_rng(i), max(height, width)).image[:height, :width] for i in range(count))
    return [capture(picture, Shot(ev=STOPS[i % 4], crf="srgb")) for i, picture in enumerate(drawn)]


def write(folder, pictures, suffix="png", quality=90):
    folder.mkdir(parents=True, exist_ok=True)
    for i, picture in enumerate(pictures):
        how = [cv2.IMWRITE_JPEG_QUALITY, quality] if suffix == "jpg" else []
        assert cv2.imwrite(f"{folder}/{i:03}.{suffix}", picture, how)
    return folder


def shots(pictures, frames=2, **noise):
    """Take each picture so many times; no two share their noise."""
    return [
        capture(picture, Shot(crf="srgb", bayer="RGGB", noise_seed=i, **noise), frame=k)
        for i, picture in enumerate(pictures)
        for k in range(frames)
    ]


def middle(calibration, name):
    return sum(calibration.found[name].span) / 2


@pytest.mark.parametrize("seed", range(3))
def test_pairs_find_a_camera_again_through_mosaic_and_jpeg(tmp_path, seed):
    rng = random.Random(seed)
    true = {
        "sigma_s": rng.uniform(0.03, 0.1),
        "sigma_c": rng.uniform(0.004, 0.02),
        "sigma_row": rng.uniform(0.003, 0.01),
    }
    still = write(tmp_path / "still", shots(scenes(6, 240, 320), **true), "jpg")
    found = calibrate(out=tmp_path / "my.yaml", still=still)
    assert middle(found, "sigma_s") == pytest.approx(true["sigma_s"], rel=0.1)
    assert middle(found, "sigma_c") == pytest.approx(true["sigma_c"], rel=0.1)
    assert middle(found, "sigma_row") == pytest.approx(true["sigma_row"], rel=0.15)
    assert "sigma_column" not in found.found and found.camera.jpeg_quality == (90, 90)
    assert found.noise["fit"] == min(found.noise.values()) < 0.1


def test_single_night_pictures_find_the_noise_within_a_third_of_an_octave(tmp_path):
    true = {"sigma_s": 0.05, "sigma_c": 0.01}
    night = write(tmp_path / "night", shots(scenes(8, 240, 320), frames=1, **true), "jpg")
    found = calibrate(night, tmp_path / "my.yaml")
    for name, value in true.items():
        assert abs(np.log2(middle(found, name) / value)) < 0.3, name
    assert any("texture" in remark for remark in found.remarks)
    drawn = cv2.imread(str(tmp_path / "my.png"))[CHART + CAPTION + 4 :, 4:]  # without days the nights are as they are
    given = cv2.imread(f"{night}/000.jpg")
    side = drawn.shape[1] // SHOWN * given.shape[0] // given.shape[1]
    assert drawn[: side - 20, :250].mean() == pytest.approx(given.mean(), rel=0.1)


def test_capped_frames_find_read_noise_banding_and_hot_pixels(tmp_path):
    true = {"sigma_c": 0.02, "sigma_row": 0.006, "sigma_column": 0.004, "hot_pixels": 4e-4}
    black = [np.zeros((240, 320, 3), np.uint8)]
    capped = write(tmp_path / "capped", shots(black, frames=12, **true))
    found = calibrate(out=tmp_path / "my.yaml", capped=capped)
    for name, slack in (("sigma_c", 0.1), ("sigma_row", 0.15), ("sigma_column", 0.2), ("hot_pixels", 0.5)):
        assert middle(found, name) == pytest.approx(true[name], rel=slack), name
    assert "sigma_s" not in found.found and any("sigma_s" in remark for remark in found.remarks)
    assert cv2.imread(str(tmp_path / "my.png")).shape[0] == CHART


def test_the_command_writes_a_file_that_stands_for_a_preset_and_a_picture(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    day = [scene(np.random.default_rng(9 + i), 160).image for i in range(3)]
    write(tmp_path / "day", day)
    write(tmp_path / "still", shots([capture(p, Shot(ev=-3, crf="srgb")) for p in day], sigma_s=0.05, sigma_c=0.01))
    assert main(["calibrate", "still=still", "day=day", "out=my.yaml"]) == 0
    said = capsys.readouterr().out
    assert "3 pairs of still scenes" in said and "lowlight=my.yaml" in said and "| brightness |" in said
    assert cv2.imread("my.png").shape[0] == CHART + 2 * (HEIGHT + CAPTION)  # days that were darkened, above nights
    camera = settings("my.yaml")
    assert camera.ev[0] == pytest.approx(-3, abs=0.6) and camera.ev[1] == pytest.approx(-3, abs=0.6)
    assert camera.sigma_s[0] < 0.05 < camera.sigma_s[1] * 1.1 and camera.bayer == "random"
    held = yaml.safe_load((tmp_path / "my.yaml").read_text())
    assert held["found"]["sigma_s"]["from"] == "3 pairs of still scenes" and held["octaves_from_the_pictures"]["noise"]
    assert main(["calibrate", "still=still", "out=my.yaml"]) == 2 and "is there already" in capsys.readouterr().err
    assert main(["preview", "day", "presets=my.yaml", "out=dark.png", "n=1"]) == 0


def test_a_camera_without_colours_stays_without(tmp_path):
    grey = [picture[..., 1] for picture in scenes(4, 160, 160)]
    found = calibrate(out=tmp_path / "my.yaml", still=write(tmp_path / "a", shots(grey, sigma_s=0.06, sigma_c=0.01)))
    assert found.camera.bayer == "mono" and middle(found, "sigma_s") == pytest.approx(0.06, rel=0.1)


def test_a_camera_that_sees_colours_by_day_alone_takes_grey_nights(tmp_path):
    still = write(tmp_path / "night", shots([p[..., 1] for p in scenes(4, 160, 160)], sigma_s=0.06, sigma_c=0.01))
    day = write(tmp_path / "day", [scene(np.random.default_rng(9 + i), 160).image for i in range(2)])
    camera = calibrate(out=tmp_path / "my.yaml", still=still, day=day).camera
    assert camera.bayer == "mono" and -5 < camera.ev[0] <= camera.ev[1] <= 0
    dark = capture(cv2.imread(f"{day}/000.png"), camera.draw(random.Random(0)))
    assert (dark == dark[..., :1]).all() and cv2.imread(str(tmp_path / "my.png")) is not None


@pytest.mark.parametrize("colour", [(40, 40, 160), (40, 160, 40), (160, 40, 40)], ids=["red", "green", "blue"])
def test_the_day_of_a_camera_without_colours_is_as_bright_as_it_sees_it(colour):
    day = [np.full((160, 160, 3), colour, np.uint8) for _ in range(2)]
    night = [capture(p, Shot(ev=-2, bayer="mono", crf="srgb", sigma_s=0.05, sigma_c=0.01, noise_seed=7)) for p in day]
    found = exposure([p[..., 1] for p in night], day, Shot(crf="srgb").crf, [])
    assert found.span == pytest.approx((-2, -2), abs=0.1)


@pytest.mark.parametrize(("coding", "suffix"), [("MJPG", "avi"), ("mp4v", "mp4")])
def test_frames_that_a_codec_has_tinged_are_grey_and_colours_stay(tmp_path, coding, suffix):
    for name, pictures in (("grey", [p[..., 1] for p in scenes(2, 160, 160)]), ("colour", scenes(2, 160, 160))):
        clip = cv2.VideoWriter(f"{tmp_path}/{name}.{suffix}", cv2.VideoWriter_fourcc(*coding), 15, (160, 160))
        for picture in shots(pictures, sigma_s=0.06, sigma_c=0.01):
            clip.write(picture if picture.ndim == 3 else cv2.merge([picture] * 3))
        clip.release()
    grey, colour = (read_frames([tmp_path / f"{name}.{suffix}"]) for name in ("grey", "colour"))
    assert [frame.picture.ndim for frame in grey] == [2] * 4 and [frame.picture.ndim for frame in colour] == [3] * 4


@pytest.mark.parametrize("quality", [30, 50, 75, 90, 95])
def test_the_quality_of_a_jpeg_file_is_read_from_its_tables(tmp_path, quality):
    write(tmp_path, scenes(1, 64, 64), "jpg", quality)
    with Image.open(tmp_path / "000.jpg") as opened:
        assert jpeg_quality(opened.quantization) == pytest.approx(quality, abs=1)


# ---- mistakes --------------------------------------------------------------------------------------

NOISE = {"sigma_s": 0.06, "sigma_c": 0.02}


def noisy(count=1, frames=2, size=(96, 128), **noise):
    return shots(scenes(count, *size), frames, **{**NOISE, **noise})


def exif(file, model):
    with Image.open(file) as opened:
        found = opened.getexif()
        found[272] = model
        opened.save(file, exif=found, quality=95)


def moving(folder):
    one, other = noisy(sigma_s=0.02, sigma_c=0.004)
    return write(folder, [one, np.roll(other, 9, 1)])


def two_cameras(folder, *, unnamed=0):
    """Pictures of two cameras, and between them some that do not say what they are of."""
    write(folder, noisy(frames=2 + unnamed), "jpg", 95)
    exif(folder / "000.jpg", "A1")
    exif(folder / f"{1 + unnamed:03}.jpg", "B2")
    return folder


def turned(folder, count):
    """Capped frames, the last of which is turned by 90 degrees."""
    frames = shots([np.zeros((96, 128, 3), np.uint8)], count, sigma_c=0.02)
    return write(folder, [*frames[:-1], np.rot90(frames[-1])])


def enormous(folder):
    write(folder, noisy(frames=1))
    (folder / "001.bmp").write_bytes(
        struct.pack("<2sIIIIiiHHIIiiII", b"BM", 1 << 20, 0, 54, 40, 100_000, 100_000, 1, 24, 0, 0, 0, 0, 0, 0)
    )
    return folder


def broken(folder):
    write(folder, noisy())
    (folder / "001.png").write_bytes(b"no picture")
    return folder


def film(folder):
    folder.mkdir()
    (folder / "clip.mp4").write_bytes(b"no frames")
    return folder / "clip.mp4"


MISTAKES = {  # what: (argument, how it is made, message)
    "nothing": (None, None, "nothing to measure"),
    "a folder that is not there": ("sources", lambda f: f, "there is no"),
    "an empty folder": ("sources", lambda f: write(f, []), "holds no pictures"),
    "an empty folder of pairs": ("still", lambda f: write(f, []), "holds no pictures"),
    "a broken picture": ("still", broken, "001.png cannot be read as a picture"),
    "one picture only": ("still", lambda f: write(f, noisy(frames=1)), "is one picture only of its scene"),
    "one capped frame": ("capped", lambda f: write(f, [np.zeros((96, 128, 3), np.uint8)]), "one capped frame only"),
    "capped frames in the light": ("capped", lambda f: write(f, noisy()), "is not dark: its codes reach"),
    "capped frames without noise": (
        "capped",
        lambda f: write(f, [np.zeros((96, 128, 3), np.uint8)] * 4),
        "are all the same: the camera cuts its noise off at black",
    ),
    "a moving scene": ("still", moving, "are not still"),
    "another exposure": (
        "still",
        lambda f: write(f, [noisy()[0], shots([scenes(4, 96, 128)[3]], 1, **NOISE)[0]]),
        "differ in exposure",
    ),
    "the same picture twice": ("still", lambda f: write(f, noisy(frames=1) * 2), "are the same picture"),
    "noise below rounding": (
        "still",
        lambda f: write(f, noisy(sigma_s=0.0004, sigma_c=0.00002)),
        "hardly differ: compression or denoising has eaten the noise",
    ),
    "denoised pictures": (
        "still",
        lambda f: write(f, [cv2.GaussianBlur(p, (0, 0), 3) for p in noisy(sigma_s=0.15, sigma_c=0.05)]),
        "have smoothed noise",
    ),
    "JPEG 50": ("still", lambda f: write(f, noisy(), "jpg", 50), "is JPEG of quality 50: compression has eaten"),
    "mixed sizes": (
        "sources",
        lambda f: write(f, [*noisy(frames=1), *noisy(frames=1, size=(80, 128))]),
        "mixed sizes: ",
    ),
    "mixed cameras": ("still", two_cameras, "mixed cameras: "),
    "mixed cameras with others between": (
        "sources",
        lambda f: two_cameras(f, unnamed=1),
        "002.jpg of B2; calibrate each alone",
    ),
    "a capped frame that is turned": ("capped", lambda f: turned(f, 2), "mixed sizes: one lies on its side"),
    "one of three that is turned": ("capped", lambda f: turned(f, 3), "mixed sizes: one lies on its side"),
    "an enormous picture": ("sources", enormous, "001.bmp cannot be read as a picture: "),
    "grey beside colour": (
        "sources",
        lambda f: write(f, [noisy()[0], noisy()[1][..., 0]]),
        "is grey and",
    ),
    "a video without frames": ("sources", film, "is a video without frames"),
    "16 bits": ("still", lambda f: write(f, [p.astype(np.uint16) * 257 for p in noisy()]), "has 16 bits"),
    "tiny pictures": ("sources", lambda f: write(f, noisy(size=(40, 64))), "wanted 64 or more on each side"),
    "white pictures": (
        "sources",
        lambda f: write(f, [np.full((96, 128, 3), 255, np.uint8)] * 2),
        "have no flat parts that are not white",
    ),
    "flat pictures without noise": (
        "sources",
        lambda f: write(f, [np.full((96, 128, 3), 60, np.uint8)] * 2),
        "denoising has eaten it",
    ),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_mistakes_are_named_and_nothing_is_written(tmp_path, what):
    argument, make, message = MISTAKES[what]
    given = {argument: make(tmp_path / "shots")} if argument else {}
    with pytest.raises((ValueError, OSError)) as caught:
        calibrate(out=tmp_path / "my.yaml", **given)
    assert message in str(caught.value)
    assert not list(tmp_path.glob("my.*"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"out": "my.txt"}, "wanted a name that ends in .yaml or .yml"),
        ({"out": "nowhere/my.yaml"}, "which does not exist"),
        ({"day": ""}, "the name of a source is empty"),
        ({"still": ["pairs", " "]}, "the name of a source is empty"),
        ({"crf": "mixture"}, "which stands for many responses"),
        ({"crf": "kodak"}, "crf is 'kodak'"),
    ],
)
def test_mistakes_in_the_options_are_named(tmp_path, monkeypatch, given, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as caught:
        calibrate("night", **given)
    assert message in str(caught.value)


@pytest.mark.parametrize("argument", ["sources", "still", "capped", "day"])
@pytest.mark.parametrize("whole_folder", [True, False])
def test_no_picture_is_written_over(tmp_path, monkeypatch, argument, whole_folder):
    monkeypatch.chdir(tmp_path)
    stored = {file: file.read_bytes() for file in write(tmp_path / "shots", noisy()).iterdir()}
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/link.png").symlink_to(tmp_path / "shots/000.png")
    given = {argument: "linked" if whole_folder else ["shots/001.png", "shots/000.png"]}
    with pytest.raises(ValueError, match=r"000\.png is one of the pictures to measure, and would be written over"):
        calibrate(out="shots/000.yaml", exist_ok=True, **given)
    assert {file: file.read_bytes() for file in (tmp_path / "shots").iterdir()} == stored


def test_only_an_earlier_camera_is_written_over(tmp_path):
    write(tmp_path / "shots", noisy())
    (tmp_path / "mycam.png").write_bytes(b"a picture of somebody")
    with pytest.raises(FileExistsError, match=r"mycam\.png is there without mycam\.yaml"):
        calibrate(tmp_path / "shots", tmp_path / "mycam.yaml", exist_ok=True)
    (tmp_path / "mycam.yaml").write_text("path: data\ntrain: images\n")
    with pytest.raises(ValueError, match=r"mycam\.yaml is no camera file"):
        calibrate(tmp_path / "shots", tmp_path / "mycam.yaml", exist_ok=True)
    assert (tmp_path / "mycam.yaml").read_text().startswith("path: data")
    calibrate(tmp_path / "shots", tmp_path / "other.yaml")
    calibrate(tmp_path / "shots", tmp_path / "other.yaml", exist_ok=True)
    assert (tmp_path / "mycam.png").read_bytes() == b"a picture of somebody"


# ---- what pictures cannot tell is said -------------------------------------------------------------


@pytest.mark.parametrize("argument", ["still", "sources"])
def test_shot_noise_that_read_noise_covers_gets_a_wide_span_and_a_remark(tmp_path, argument):
    dark = [capture(picture, Shot(ev=-2.5, crf="srgb")) for picture in scenes(6, 160, 224)]
    frames = shots(dark, 2 if argument == "still" else 1, sigma_s=0.01, sigma_c=0.05)
    found = calibrate(out=tmp_path / "my.yaml", **{argument: write(tmp_path / "shots", frames)})
    low, high = found.found["sigma_s"].span
    assert low <= 0.01 <= high
    assert any(remark.startswith("sigma_s hardly shows") and "brighter" in remark for remark in found.remarks)
    assert middle(found, "sigma_c") == pytest.approx(0.05, rel=0.15)


def test_noise_that_is_not_of_a_sensor_is_said_to_be_far_from_the_fit(tmp_path):
    frames = shots(scenes(6, 160, 224), 1, sigma_s=0.06, sigma_c=0.01)
    toned = [cv2.LUT(frame, np.float32(255 * (np.arange(256) / 255) ** 2.5).astype(np.uint8)) for frame in frames]
    found = calibrate(write(tmp_path / "shots", toned), tmp_path / "my.yaml")
    assert found.noise["fit"] > 0.2 and any("octaves from that of the pictures" in remark for remark in found.remarks)
    of_sensor = calibrate(write(tmp_path / "other", frames), tmp_path / "other.yaml")
    assert not any("octaves from that of the pictures" in remark for remark in of_sensor.remarks)


def greys(folder, seed=0):
    """Three pictures of one grey with noise that does not depend on light, as far as three can tell."""
    rng = np.random.default_rng(seed)
    return write(folder, [np.clip(rng.normal(40, 8, (128, 128)), 0, 255).astype(np.uint8) for _ in range(3)])


def test_without_shot_noise_the_presets_are_compared_all_the_same(tmp_path):
    day = write(tmp_path / "day", scenes(2, 128, 128))
    found = calibrate(greys(tmp_path / "night"), tmp_path / "my.yaml", day=day)
    assert found.fit.noise.sigma_s == 0 and set(found.noise) == set(found.brightness) == {"fit", *PRESETS}
    table = [line for line in str(found).splitlines() if line.startswith(("| octaves", "| noise", "| brightness"))]
    assert [line.count("|") for line in table] == [len(PRESETS) + 3] * 3
    said = [line for line in str(found).splitlines() if line.startswith(("noise: ", "brightness: "))]
    nearest = min(PRESETS, key=found.noise.__getitem__)
    assert f"factor of {2 ** found.noise['fit']:.2f} " in said[0] and f"that of {nearest}, the nearest" in said[0]
    assert len(said) == 2 and f"by {2 ** min(found.brightness[name] for name in PRESETS):.2f} " in said[1]
    del found.noise["mild"]
    line = next(line for line in str(found).splitlines() if line.startswith("| noise"))
    assert line.count("|") == len(PRESETS) + 3 and line.endswith(" - |")


def test_the_held_out_comparison_takes_pictures_without_shot_noise(tmp_path, capsys, monkeypatch):
    main_of = runpy.run_path(str(ROOT / "scripts/calibrate_heldout.py"))["main"]
    folders = [str(greys(tmp_path / name, seed)) for seed, name in enumerate("ab")]
    monkeypatch.setattr(sys, "argv", ["calibrate_heldout.py", "--fit", folders[0], "--measure", folders[1]])
    assert main_of() == 0
    header, _, row = capsys.readouterr().out.splitlines()
    assert "| mild |" in header and row.count("|") == header.count("|") and "nan" not in row


def test_the_error_of_one_picture_is_unknown_and_its_spans_are_wide(tmp_path):
    frames = shots(scenes(8, 240, 320), 1, sigma_s=0.05, sigma_c=0.01)
    found = calibrate(write(tmp_path / "one", frames[7:]), tmp_path / "my.yaml")
    for name, true in (("sigma_s", 0.05), ("sigma_c", 0.01)):
        low, high = found.found[name].span
        assert low <= true <= high and high >= 3.9 * low and found.found[name].error is None, name
    assert any(remark.startswith("one picture: give more") for remark in found.remarks)
    assert "| - | 1 single night picture |" in str(found)
    held = yaml.safe_load((tmp_path / "my.yaml").read_text())
    assert held["found"]["sigma_c"]["standard_error"] is None and settings(str(tmp_path / "my.yaml")).sigma_c
    white = np.full_like(frames[0], 255)
    white[0, 0] = 255, 255, 200  # or it would be the picture of a grey camera
    beside = calibrate(write(tmp_path / "two", [frames[7], white]), tmp_path / "two.yaml")
    assert beside.found["sigma_c"].error is None
    more = calibrate(write(tmp_path / "more", frames), tmp_path / "more.yaml")
    assert more.found["sigma_c"].error > 1e-5 and not any("one picture" in remark for remark in more.remarks)


def test_what_is_given_twice_counts_once(tmp_path):
    night = write(tmp_path / "night", noisy(3, frames=1))
    once = calibrate(night, tmp_path / "once.yaml")
    for number, twice in enumerate(([night, night], [night, f"{night}/001.png"], [f"{night}/../night", night])):
        found = calibrate(twice, tmp_path / f"{number}.yaml")
        assert found.found == once.found and found.remarks == once.remarks
    (night / "copy.png").write_bytes((night / "001.png").read_bytes())
    copied = calibrate(night, tmp_path / "copied.yaml")
    assert copied.found == once.found and "1 of 4 pictures are copies of others and do not count" in copied.remarks


def test_pairs_that_are_given_twice_count_once(tmp_path):
    still = write(tmp_path / "still", noisy(3))
    write(still / "more", noisy(1, sigma_c=0.03))
    remarks = []
    once = [(one.name, other.name) for one, other in read_pairs([still], remarks)]
    assert len(once) == 4 and not remarks
    for twice in ([still, still], [still, still / "more"], [still, still / "000.png"], [still / "000.png", still]):
        assert [(one.name, other.name) for one, other in read_pairs(twice, remarks)] == once
    files = [still / f"{i:03}.png" for i in range(4)]
    assert len(read_pairs([*files, *files], remarks)) == 2 and not remarks


def test_more_loose_pairs_than_are_taken_stay_pairs(tmp_path):
    write(tmp_path, [np.full((64, 64, 3), i, np.uint8) for i in range(120)])
    pairs = read_pairs(sorted(tmp_path.glob("*.png")), [])
    assert len(pairs) == 48 and all(int(b.picture[0, 0]) - int(a.picture[0, 0]) == 1 for a, b in pairs)


def test_a_picture_without_a_partner_is_named(tmp_path):
    burst = write(tmp_path / "burst", noisy(1, frames=3))
    found = calibrate(out=tmp_path / "a.yaml", still=burst)
    assert found.found["sigma_s"].source == "1 pair of still scenes"
    assert any("the last of each has no partner" in said and said.endswith("002.png") for said in found.remarks)
    capped = write(tmp_path / "capped", shots([np.zeros((96, 128, 3), np.uint8)], frames=5, sigma_c=0.02))
    found = calibrate(out=tmp_path / "b.yaml", capped=capped)
    assert any("004.png has no partner" in said for said in found.remarks)


def test_an_empty_name_is_not_the_working_directory(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(write(tmp_path, noisy(2)))
    assert main(["calibrate", "", "out=my.yaml"]) == 2
    assert "the name of a source is empty" in capsys.readouterr().err and not (tmp_path / "my.yaml").exists()
