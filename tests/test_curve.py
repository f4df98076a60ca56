"""Pictures of more than 8 bits outside of Ultralytics: the curve, the files, darken and enhance."""

import json
import sys

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image
from raw import mosaic_of, write_dng
from ultralytics import YOLO

from yolo_wnlb.adapt.agreement import write_pairs
from yolo_wnlb.adapt.pictures import find
from yolo_wnlb.cli import main
from yolo_wnlb.data import coco
from yolo_wnlb.data.exposure import measure_curve
from yolo_wnlb.data.folders import read_picture
from yolo_wnlb.data.sources import list_images
from yolo_wnlb.imaging.camera import settings
from yolo_wnlb.imaging.capture import capture
from yolo_wnlb.imaging.chance import picture_rng
from yolo_wnlb.imaging.curve import CURVES, Curve, as_settings, develop, end_points, read_curve, table
from yolo_wnlb.imaging.deep import is_deep, kind_of, read_deep, size_of_raw, without_raw_twins, without_unread_raw
from yolo_wnlb.study import robustness_detectors
from yolo_wnlb.twins.darken import darken_dataset, verify
from yolo_wnlb.twins.enhance import enhance_dataset

AUTO, HIGH_BYTE = CURVES["auto"], CURVES["high-byte"]
RAMP = np.arange(65536, dtype=np.uint16).reshape(256, 256)


def night(size=96, stops=-6, seed=0):
    """A colour scene so many stops too dark, as the 12 bits of a sensor in 16 bits: uint16 (H, W, 3)."""
    from yolo_wnlb.data.shapes import scene

    bright = scene(np.random.default_rng(seed), size).image.astype(np.uint16) * 257
    camera = settings("severe", ev=stops, crf="srgb", bits=12, sigma_s=0.002, sigma_c=0.0005)
    return capture(bright, camera.draw(picture_rng(seed, "scene"))) >> 4


# ---- the curve -----------------------------------------------------------------------------------


def test_a_12_bit_scene_at_six_stops_under_keeps_its_codes():
    """The high byte leaves 16 codes or less, the curve 200 or more."""
    dark = night(192)
    assert dark.max() < 4096
    high, ours = (develop(dark, curve)[0] for curve in (HIGH_BYTE, AUTO))
    assert len(np.unique(high)) <= 16
    assert len(np.unique(ours)) >= 200


@pytest.mark.parametrize("name", ["srgb", "identity", "gamma:2.2", [0.7, 0.4]])
def test_a_curve_rises_from_black_to_white_and_clips_beyond(name):
    codes, ends = develop(RAMP, read_curve({"black": 1000, "white": 60000, "response": name}))
    flat = codes.ravel()
    assert ends == {"black": 1000, "white": 60000}
    assert (np.diff(flat.astype(int)) >= 0).all()
    assert flat[1000] == 0 and flat[60000] == flat[-1] == 255 and flat[30500] > 120
    assert len(np.unique(flat)) >= 255


def test_srgb_is_the_curve_of_iec_61966():
    level = np.array([0.001, 0.0031308, 0.18, 0.5])
    curve = read_curve({"black": 0, "white": 65535, "response": "srgb"})
    codes = develop(np.rint(level * 65535).astype(np.uint16)[None], curve)
    wanted = np.where(level <= 0.0031308, 12.92 * level, 1.055 * level ** (1 / 2.4) - 0.055)
    assert np.abs(codes[0][0] - 255 * wanted).max() <= 0.51


def test_black_and_white_that_are_not_given_are_percentiles_of_the_picture():
    picture = np.random.default_rng(0).integers(300, 3000, (40, 50, 3)).astype(np.uint16)
    black, white = end_points(picture, Curve(low=1, high=99))
    assert abs(black - np.percentile(picture, 1)) <= 1 and abs(white - np.percentile(picture, 99)) <= 1
    assert end_points(picture, Curve(black=256))[0] == 256
    assert end_points(picture, Curve(white=4095))[1] == 4095


@pytest.mark.parametrize("code", [0, 300, 65535])
@pytest.mark.parametrize("given", [{}, {"black": 65535}, {"white": 0}, {"black": 5}, {"white": 4095}])
def test_a_flat_picture_has_no_span_and_stays_flat(code, given):
    codes, ends = develop(np.full((5, 6), code, np.uint16), read_curve(given))
    assert len(np.unique(codes)) == 1 and ends["black"] < ends["white"]
    if not given:
        assert codes[0, 0] == round(code / 257)


def test_a_balance_brings_a_tinted_grey_back_to_grey():
    grey = np.linspace(300, 2000, 64)[None, :, None] * np.ones((4, 1, 3))
    tinted = np.rint(256 + (grey - 256) / [1.6, 1, 2]).astype(np.uint16)  # BGR
    codes = develop(tinted, read_curve({"black": 256, "white": 2000, "balance": [2, 1, 1.6]}))[0].astype(int)
    assert np.ptp(codes, axis=2).max() <= 1
    assert np.ptp(develop(tinted, read_curve({"black": 256, "white": 2000}))[0].astype(int), axis=2).max() > 50


def test_16_bits_of_a_curve_round_to_its_8():
    deep = develop(RAMP, AUTO, bits=16)[0]
    assert np.abs(deep / 257 - develop(RAMP, AUTO)[0]).max() <= 0.51
    assert np.array_equal(develop(RAMP, HIGH_BYTE, bits=16)[0], RAMP)
    assert np.array_equal(develop(RAMP, HIGH_BYTE)[0], RAMP >> 8)


def test_a_curve_comes_back_from_what_is_recorded(tmp_path):
    for curve in (AUTO, HIGH_BYTE, Curve(3, 9, 1, 2, (1, 2, 3), "gamma:1.8"), Curve(response=(0.5, 0.5))):
        assert read_curve(json.loads(json.dumps(as_settings(curve)))) == curve
    (tmp_path / "mine.yaml").write_text("curve: {black: 7, white: 900}\n")
    assert read_curve(str(tmp_path / "mine.yaml")) == Curve(7, 900)


MISTAKES = {
    "a number": (3, "curve is 3; wanted auto, high-byte, a .yaml"),
    "a misspelt name": ("autom", "curve is 'autom'; wanted auto"),
    "a misspelt setting": ({"blak": 3}, "no setting 'blak'.*black"),
    "black beyond 16 bits": ({"black": 70000}, "black is 70000; wanted a code of the file"),
    "a share as white": ({"white": 0.5}, "white is 0.5; wanted a code"),
    "black above white": ({"black": 900, "white": 300}, "black is 900 and white 300"),
    "percentiles the wrong way round": ({"low": 99, "high": 1}, "low is 99 and high 1"),
    "a percentile beyond 100": ({"high": 101}, "high is 101; wanted a percentile"),
    "a percentile that is no number": ({"low": float("nan")}, "low is nan"),
    "two factors": ({"balance": [1, 2]}, "balance is .*red, green and blue"),
    "a factor of 0": ({"balance": [1, 0, 2]}, "balance is"),
    "a response of many": ({"response": "mixture"}, "response is 'mixture'; wanted srgb"),
    "a gamma that is none": ({"response": "gamma:x"}, "response: .*gamma"),
    "settings of the high byte": ({"response": "high-byte", "black": 5, "white": 9}, "write curve=high-byte"),
    "True": (True, "curve is True"),
}


@pytest.mark.parametrize("value, message", MISTAKES.values(), ids=MISTAKES)
def test_a_curve_that_is_wrong_is_refused_with_what_was_wanted(value, message):
    with pytest.raises(ValueError, match=message):
        read_curve(value)


@pytest.mark.parametrize(
    "content, message",
    [("black: 3\n", "no mapping 'curve'"), ("{", "no YAML"), ("curve: {whit: 3}\n", "no setting 'whit'")],
)
def test_a_file_of_a_curve_that_is_wrong_is_named(content, message, tmp_path):
    (tmp_path / "mine.yaml").write_text(content)
    with pytest.raises(ValueError, match=f"mine.yaml.*{message}"):
        read_curve(str(tmp_path / "mine.yaml"))
    with pytest.raises(FileNotFoundError, match=r"there is no curve file 'none.yaml'"):
        read_curve("none.yaml")


# ---- files ---------------------------------------------------------------------------------------

GREY = np.random.default_rng(0).integers(200, 4000, (20, 30)).astype(np.uint16)
COLOUR = np.random.default_rng(1).integers(200, 4000, (20, 30, 3)).astype(np.uint16)
FOUND = {  # what cv2 writes -> whether it is deep
    "8 bits": (".png", (GREY >> 4).astype(np.uint8), False),
    "8 bits, TIFF": (".tif", (COLOUR >> 4).astype(np.uint8), False),
    "JPEG": (".jpg", (COLOUR >> 4).astype(np.uint8), False),
    "16 bits": (".png", COLOUR, True),
    "16 bits, grey": (".png", GREY, True),
    "16 bits, TIFF": (".tiff", COLOUR, True),
    "16 bits, TIFF, grey": (".tif", GREY, True),
    "floats": (".tif", GREY.astype(np.float32), False),
    "signed": (".tif", GREY.astype(np.int16), False),
}


@pytest.mark.parametrize("name", ["x.png", "X.PNG", "x.jpg", "x"])
@pytest.mark.parametrize("suffix, picture, deep", FOUND.values(), ids=FOUND)
def test_what_a_file_holds_decides_and_not_its_suffix(suffix, picture, deep, name, tmp_path):
    cv2.imencode(suffix, picture)[1].tofile(tmp_path / name)
    assert is_deep(tmp_path / name) == deep
    found = read_deep(tmp_path / name)
    assert (found is not None) == deep
    if deep:
        assert found.dtype == np.uint8 and found.shape == (20, 30, 3) and len(np.unique(found)) > 200


def test_files_that_are_no_picture_are_left_to_others(tmp_path):
    for name, content in {"empty.png": b"", "text.png": b"hello", "short.tif": b"II*\0\xff\xff\xff\xff"}.items():
        (tmp_path / name).write_bytes(content)
        assert read_deep(tmp_path / name) is None and not is_deep(tmp_path / name)
    assert read_deep(tmp_path / "absent.png") is None and not is_deep(tmp_path)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_deep_file_that_is_cut_off_is_named(suffix, tmp_path):
    content = cv2.imencode(suffix, np.random.default_rng(0).integers(0, 65536, (200, 200, 3), np.uint16))[1]
    file = tmp_path / f"night{suffix}"
    content[: len(content) // 3].tofile(file)
    if is_deep(file):  # a TIFF has its header at the end
        with pytest.raises(ValueError, match=f"night{suffix} cannot be decoded"):
            read_deep(file)


def test_grey_and_colour_are_read_as_they_are_asked_for(tmp_path):
    cv2.imwrite(str(tmp_path / "grey.png"), GREY)
    cv2.imwrite(str(tmp_path / "colour.png"), COLOUR)
    grey = develop(GREY, AUTO)[0]
    assert np.array_equal(read_deep(tmp_path / "grey.png", cv2.IMREAD_GRAYSCALE), grey)
    assert np.array_equal(read_deep(tmp_path / "grey.png"), np.repeat(grey[..., None], 3, 2))
    assert np.array_equal(read_deep(tmp_path / "colour.png"), develop(COLOUR, AUTO)[0])
    assert read_deep(tmp_path / "colour.png", cv2.IMREAD_GRAYSCALE).shape == (20, 30)
    red, plain = (read_deep(tmp_path / "colour.png", 0, Curve(200, 4000, balance=b)) for b in ((2, 1, 1), None))
    assert red.mean() > plain.mean() + 5


def test_pages_and_further_channels_are_kept_where_all_are_asked_for(tmp_path):
    cv2.imwritemulti(str(tmp_path / "five.tif"), [GREY] * 5)
    cv2.imwrite(str(tmp_path / "four.png"), np.dstack([COLOUR, GREY]))
    for name, channels in (("five.tif", 5), ("four.png", 4)):
        found = read_deep(tmp_path / name, cv2.IMREAD_UNCHANGED)
        assert found.shape == (20, 30, channels) and found.dtype == np.uint8 and len(np.unique(found)) > 200


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_alpha_counts_in_no_percentile(suffix, tmp_path):
    file = tmp_path / f"x{suffix}"
    cv2.imwrite(str(file), np.dstack([COLOUR, np.full(GREY.shape, 65535, np.uint16)]))
    assert np.array_equal(read_deep(file), develop(COLOUR, AUTO)[0])
    if suffix == ".png":  # the fourth channel of a TIFF may be light
        assert np.array_equal(read_deep(file, cv2.IMREAD_UNCHANGED)[..., :3], develop(COLOUR, AUTO)[0])


# ---- RAW -----------------------------------------------------------------------------------------


def test_a_dng_opens_upright_and_with_its_codes(tmp_path):
    pytest.importorskip("rawpy", reason="RAW files need rawpy: pip install 'yolo-wnlb[raw]'")
    file = write_dng(tmp_path / "night.dng", mosaic_of())
    found = read_deep(file)
    assert found.dtype == np.uint8 and found.shape == (48, 64, 3) and is_deep(file)
    middle = found[24].mean(1)
    assert middle[0] < 30 and middle[-1] > 220 and (np.diff(middle) >= -6).all()
    turned = write_dng(tmp_path / "turned.dng", mosaic_of(), orientation=6)
    assert read_deep(turned).shape == (64, 48, 3) and size_of_raw(turned) == (48, 64) and size_of_raw(file) == (64, 48)
    assert coco.picture_size(turned) == (48, 64)
    assert read_picture(file).shape == (48, 64, 3)
    assert read_deep(file, cv2.IMREAD_GRAYSCALE).shape == (48, 64)


def test_a_fixed_curve_keeps_how_bright_a_raw_file_is_and_auto_does_not(tmp_path):
    pytest.importorskip("rawpy", reason="RAW files need rawpy: pip install 'yolo-wnlb[raw]'")
    files = [write_dng(tmp_path / f"{stops}.dng", mosaic_of(stops=stops)) for stops in (-3, -4)]
    bright, dark = (read_deep(file, curve=Curve(0, 16000)).mean() for file in files)
    assert bright > 1.2 * dark
    bright, dark = (read_deep(file).mean() for file in files)
    assert abs(bright - dark) < 0.03 * bright
    red, plain = (read_deep(files[0], curve=Curve(0, 16000, balance=b)).mean((0, 1)) for b in ((3, 1, 1), (1, 1, 1)))
    assert red[2] > 1.3 * plain[2]


def test_raw_files_that_are_broken_or_cannot_be_read_are_named(tmp_path, monkeypatch):
    pytest.importorskip("rawpy", reason="RAW files need rawpy: pip install 'yolo-wnlb[raw]'")
    file = write_dng(tmp_path / "night.dng", mosaic_of())
    (tmp_path / "short.nef").write_bytes(file.read_bytes()[:900])
    for read in (read_deep, size_of_raw):
        with pytest.raises(ValueError, match=r"short.nef cannot be .* by LibRaw"):
            read(tmp_path / "short.nef")
            read_deep(tmp_path / "short.nef")
    monkeypatch.setitem(__import__("sys").modules, "rawpy", None)
    with pytest.raises(ImportError, match=r"night.dng is a RAW file.*pip install rawpy"):
        read_deep(file)


def test_of_a_raw_file_and_a_finished_picture_of_its_name_the_picture_is_taken(tmp_path):
    for name in ("a.jpg", "a.NEF", "b.nef", "c.dng", "c.png", "sub/a.nef"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    files = sorted(str(file) for file in tmp_path.rglob("*.*"))
    kept, left_out = without_raw_twins(files)
    assert [f.removeprefix(f"{tmp_path}/") for f in kept] == ["a.jpg", "b.nef", "c.dng", "c.png", "sub/a.nef"]
    assert left_out == [str(tmp_path / "a.NEF")]
    assert list_images(tmp_path, {"jpg", "png", "dng", "nef"}) == kept


def test_without_rawpy_raw_files_are_left_out_unless_they_are_all(monkeypatch):
    files = ["a.jpg", "b.NEF", "c.dng", "d.cr2"]
    monkeypatch.setitem(sys.modules, "rawpy", None)
    assert without_unread_raw(files) == (["a.jpg", "c.dng"], ["b.NEF", "d.cr2"])
    assert without_unread_raw(files[1::2]) == (files[1::2], [])
    monkeypatch.setitem(sys.modules, "rawpy", object())
    assert without_unread_raw(files) == (files, [])


# ---- adapt and robustness: the curve of the model ------------------------------------------------


def test_the_pictures_of_an_adaptation_are_read_through_the_curve_that_is_given(tmp_path):
    (tmp_path / "in").mkdir()
    for i in range(12):
        cv2.imwrite(str(tmp_path / f"in/{i}.png"), COLOUR)
    curve = Curve(0, 5000)
    bright, _ = write_pairs(tmp_path / "in", tmp_path / "out", 30, "mild", 3, curve)
    assert np.array_equal(cv2.imread(str(bright[1])), develop(COLOUR, curve)[0])
    bright, _ = write_pairs(tmp_path / "in", tmp_path / "out", 30, "mild", 3)
    assert np.array_equal(cv2.imread(str(bright[1])), develop(COLOUR, AUTO)[0])
    wanted = {c: round(float(read_deep(tmp_path / "in/0.png", 0, c).mean()), 1) for c in (curve, AUTO)}
    assert find(tmp_path / "in", curve=curve).brightness == wanted[curve] != wanted[AUTO]
    assert find(tmp_path / "in").brightness == wanted[AUTO]


def test_a_robustness_report_looks_at_pictures_through_the_curve_of_the_first_model(tmp_path):
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    for i in range(2):
        cv2.imwrite(str(tmp_path / f"images/{i}.png"), COLOUR)
        (tmp_path / f"labels/{i}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    described = {"path": str(tmp_path), "train": "images", "val": "images", "names": ["box"]}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(described))
    files = [tmp_path / "one.pt", tmp_path / "other.pt"]
    for file, curve in zip(files, (Curve(0, 5000), AUTO)):
        model = YOLO("yolov8n.yaml", verbose=False)
        model.model = type(model.model)(model.model.yaml, nc=1, verbose=False)
        model.model.names, model.model.args, model.model.curve = {0: "box"}, {}, as_settings(curve)
        model.save(file)
    data = tmp_path / "data.yaml"
    scene = robustness_detectors.read_scene(data, "val", None, 2, 0, "severe", 64, False, "pixels")
    for order, curve in ((files, Curve(0, 5000)), (files[::-1], AUTO)):
        subjects = robustness_detectors.read_models(order, scene, False, "cpu")
        assert {subject.model.curve for subject in subjects} == {Curve(0, 5000), AUTO}
        assert np.array_equal(scene.read(scene.ids[0]), develop(COLOUR, curve)[0])


# ---- darken, enhance -----------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path):
    """A data set of two pictures: one of 8 bits, one of 16."""
    root = tmp_path / "source"
    for split in ("train", "val"):
        (root / f"images/{split}").mkdir(parents=True)
    cv2.imwrite(str(root / "images/train/eight.png"), (COLOUR >> 4).astype(np.uint8))
    cv2.imwrite(str(root / "images/val/deep.tif"), COLOUR)
    described = {"path": str(root), "train": "images/train", "val": "images/val", "names": ["thing"]}
    (root / "data.yaml").write_text(yaml.safe_dump(described))
    return root


def test_darken_reads_16_bits_as_training_does_and_says_how(source, tmp_path):
    out = tmp_path / "dark"
    assert darken_dataset(source, out, preset="severe", seed=3, curve={"black": 200, "white": 4000}).ok
    shot = settings("severe").draw(picture_rng(3, "images/val/deep.tif"))
    stored = cv2.imread(str(out / "images/val/deep.png"), cv2.IMREAD_UNCHANGED)
    read = read_deep(source / "images/val/deep.tif", curve=Curve(200, 4000))
    assert np.array_equal(stored, capture(read, shot)) and stored.dtype == np.uint8
    header, *lines = map(json.loads, (out / "manifest.jsonl").read_text().splitlines())
    assert header["curve"] == as_settings(Curve(200, 4000))
    curves = {line["source"]: line.get("curve") for line in lines if "source" in line}
    assert curves == {"images/train/eight.png": None, "images/val/deep.tif": {"black": 200, "white": 4000}}
    assert verify(out).ok


def test_png16_keeps_16_bits_of_every_picture(source, tmp_path):
    out = tmp_path / "dark"
    assert darken_dataset(source, out, preset="severe", seed=3, format="png16").ok
    eight = cv2.imread(str(source / "images/train/eight.png"))
    for key, bright in (
        ("images/train/eight.png", eight * np.uint16(257)),
        ("images/val/deep.tif", develop(COLOUR, AUTO, bits=16)[0]),
    ):
        stored = cv2.imread(str(out / key.replace(".tif", ".png")), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(stored, capture(bright, settings("severe").draw(picture_rng(3, key))))
        assert stored.dtype == np.uint16
    assert darken_dataset(source, out, preset="severe", seed=3, format="png16").title.endswith("manifest)")
    assert yaml.safe_load((out / "data.yaml").read_text())["lowlight"]["format"] == "png16"


def test_jpg_takes_16_bits_too_and_png16_no_jpeg_step(source, tmp_path):
    assert darken_dataset(source, tmp_path / "jpg", format="jpg").ok
    with pytest.raises(ValueError, match="png16 keeps 16 bits, and the JPEG step of the camera has 8"):
        darken_dataset(source, tmp_path / "deep", format="png16", jpeg_quality=90)
    with pytest.raises(ValueError, match="choose from png, png16, jpg"):
        darken_dataset(source, tmp_path / "deep", format="png32")
    with pytest.raises(ValueError, match="curve is 'bright'"):
        darken_dataset(source, tmp_path / "deep", curve="bright")


def test_another_curve_is_another_twin(source, tmp_path):
    assert darken_dataset(source, tmp_path / "dark").ok
    with pytest.raises((ValueError, FileExistsError), match="curve"):
        darken_dataset(source, tmp_path / "dark", curve="high-byte")


def test_decoded_copies_of_every_curve_go_when_a_picture_is_written_anew(source, tmp_path):
    out = tmp_path / "dark"
    assert darken_dataset(source, out).ok
    for name in ("deep.npy", "deep.curve-0123abcd.npy"):
        (out / "images/val" / name).touch()
    cv2.imwrite(str(source / "images/val/deep.tif"), COLOUR + 1)
    assert darken_dataset(source, out).ok
    assert sorted(f.name for f in (out / "images/val").iterdir()) == ["deep.png"]


def test_enhance_reads_16_bits_through_its_curve(source, tmp_path):
    curve = {"black": 200, "white": 4000}
    enhance_dataset(source, "gamma:1", tmp_path / "bright", curve=curve)
    stored = cv2.imread(str(tmp_path / "bright/images/val/deep.png"))
    assert np.array_equal(stored, read_deep(source / "images/val/deep.tif", curve=read_curve(curve)))
    header, *lines = map(json.loads, (tmp_path / "bright/enhanced.jsonl").read_text().splitlines())
    assert header["curve"]["white"] == 4000 and any(line.get("curve") for line in lines)


def test_darken_takes_raw_files(tmp_path):
    pytest.importorskip("rawpy", reason="RAW files need rawpy: pip install 'yolo-wnlb[raw]'")
    (tmp_path / "raw").mkdir()
    write_dng(tmp_path / "raw/a.dng", mosaic_of())
    write_dng(tmp_path / "raw/b.nef", mosaic_of())
    assert darken_dataset(tmp_path / "raw", tmp_path / "dark", preset="mild", format="png16").images == 2
    with Image.open(tmp_path / "dark/a.png") as stored:
        assert stored.size == (64, 48)
    assert kind_of((tmp_path / "dark/a.png").open("rb"), "a.png") == "deep"


# ---- one curve for all pictures of a camera ------------------------------------------------------


def test_a_curve_is_measured_on_all_pictures_together(tmp_path, capsys, monkeypatch):
    (tmp_path / "night").mkdir()
    for i, top in enumerate((900, 1500, 3000)):
        picture = np.linspace(256, top, 40 * 50).reshape(40, 50).astype(np.uint16)
        cv2.imwrite(str(tmp_path / f"night/{i}.png"), picture)
    monkeypatch.chdir(tmp_path)
    assert main(["curve", "night", "out=mine.yaml", "response=srgb", "low=0", "high=100"]) == 0
    assert read_curve("mine.yaml") == Curve(256, 3000, 0, 100, response="srgb")
    said = capsys.readouterr().out
    assert "mine.yaml: black is code 256, white is code 3000" in said and "a white from 900 to 3000" in said
    found = measure_curve("night", "mine.yaml", exist_ok=True, n=2)
    assert found.pictures == 2 and found.kept[1] == 11 and found.kept[0] > 200
    dark, bright = (read_deep(f"night/{i}.png", curve=read_curve("mine.yaml")).mean() for i in (0, 2))
    assert bright > 2 * dark


SOURCES = {  # files of the folder -> message
    "8 bits": ({"a.png": (COLOUR >> 4).astype(np.uint8)}, "none of 1 pictures has more than 8 bits"),
    "one code": ({"a.png": np.full((9, 9), 300, np.uint16)}, "all pictures have the one code 300"),
    "no pictures": ({}, "holds no data.yaml"),
}


@pytest.mark.parametrize("files, message", SOURCES.values(), ids=SOURCES)
def test_sources_that_give_no_curve_are_refused(files, message, tmp_path):
    (tmp_path / "night").mkdir()
    for name, picture in files.items():
        cv2.imwrite(str(tmp_path / "night" / name), picture)
    with pytest.raises(ValueError, match=message):
        measure_curve(tmp_path / "night", tmp_path / "mine.yaml")
    assert not (tmp_path / "mine.yaml").exists()


def test_where_a_curve_is_written_is_checked(source, tmp_path):
    (tmp_path / "mine.yaml").touch()
    with pytest.raises(FileExistsError, match=r"mine\.yaml is there already"):
        measure_curve(source, tmp_path / "mine.yaml")
    with pytest.raises(ValueError, match=r"mine\.yaml is no file of a curve"):
        measure_curve(source, tmp_path / "mine.yaml", exist_ok=True)
    for options, message in (({"out": "mine.png"}, "wanted the .yaml"), ({"low": 99, "high": 9}, "low is 99")):
        with pytest.raises(ValueError, match=message):
            measure_curve(source, **{"out": tmp_path / "new.yaml", **options})


@pytest.mark.parametrize("given", ["deep/night.yaml", "deep/night", ["deep"]])
@pytest.mark.parametrize("out", ["deep/night.yaml", "link.yaml"])
def test_no_curve_is_written_over_the_data_that_it_is_measured_on(tmp_path, monkeypatch, given, out):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep").mkdir()
    cv2.imwrite("deep/a.png", COLOUR)
    text = f"path: {tmp_path}/deep\ntrain: .\nval: .\nnames: [thing]\n"
    (tmp_path / "deep/night.yaml").write_text(text)
    (tmp_path / "link.yaml").symlink_to("deep/night.yaml")
    with pytest.raises(ValueError, match="is what the curve is measured on, and would be written over"):
        measure_curve(given, out, exist_ok=True)
    assert (tmp_path / "deep/night.yaml").read_text() == text
    assert measure_curve(given, "other.yaml").pictures == 1
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(IsADirectoryError, match=r"folder\.yaml is a folder"):
        measure_curve(given, "folder.yaml", exist_ok=True)


def test_raw_files_and_others_are_not_measured_together(tmp_path):
    pytest.importorskip("rawpy", reason="RAW files need rawpy: pip install 'yolo-wnlb[raw]'")
    (tmp_path / "night").mkdir()
    write_dng(tmp_path / "night/a.dng", mosaic_of())
    assert measure_curve(tmp_path / "night", tmp_path / "mine.yaml").curve.white > 1000
    cv2.imwrite(str(tmp_path / "night/b.png"), COLOUR)
    with pytest.raises(ValueError, match=r"a\.dng is a RAW file and .*b\.png is none"):
        measure_curve(tmp_path / "night", tmp_path / "other.yaml")


def test_tables_are_never_changed_by_who_uses_them():
    before = table(0, 65535, "srgb", 8).copy()
    develop(RAMP, Curve(0, 65535, response="srgb"))[0][:] = 0
    assert np.array_equal(table(0, 65535, "srgb", 8), before)
