"""Pictures of more than 8 bits in Ultralytics: the same curve in training, validation, prediction and deployment.

test_oldest.py runs this file on the oldest release too.
"""

import importlib.util
import pickle
import struct
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import yaml
from conftest import run_python
from PIL import Image
from raw import mosaic_of, write_dng
from ultralytics import YOLO
from ultralytics.cfg import get_cfg
from ultralytics.data.build import build_yolo_dataset
from ultralytics.data.utils import check_det_dataset
from ultralytics.utils import patches as stock

from yolo_wnlb.imaging.curve import CURVES, Curve, as_settings, develop, read_curve
from yolo_wnlb.imaging.deep import read_deep
from yolo_wnlb.yolo import models, sixteen_bits

ROOT = Path(__file__).resolve().parents[1]
FIXED = {"black": 200, "white": 3000, "response": "srgb"}


def codes(seed, channels=3):
    """A picture of 12 bits in 16, with one object on noise: uint16 (64, 64, channels)."""
    picture = np.random.default_rng(seed).integers(200, 1200, (64, 64, channels)).astype(np.uint16)
    picture[16:48, 16:48] += 1500
    return picture


def write_set(folder):
    """Write six pictures of 16 bits and their labels; returns the data YAML. (8.4.0 fails at batches of two.)"""
    for split, numbers in (("train", (0, 1, 4)), ("val", (2, 3, 7))):
        for kind in ("images", "labels"):
            (folder / f"set/{kind}/{split}").mkdir(parents=True)
        for i in numbers:
            cv2.imwrite(str(folder / f"set/images/{split}/{i}.png"), codes(i))
            outline = "0 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75\n"
            (folder / f"set/labels/{split}/{i}.txt").write_text(outline)
    described = {"path": str(folder / "set"), "train": "images/train", "val": "images/val", "names": ["box"]}
    (folder / "set/data.yaml").write_text(yaml.safe_dump(described))
    return folder / "set/data.yaml"


@pytest.fixture
def data(tmp_path):
    """The data YAML of a new set."""
    return write_set(tmp_path)


def dataset(data, split="val", **arguments):
    args = get_cfg(overrides={"imgsz": 64, "task": "segment", **arguments})
    found = check_det_dataset(str(data))
    return build_yolo_dataset(args, found[split], 2, found, mode="val")


def developed(i, curve):
    return develop(codes(i), read_curve(curve))[0]


# ---- files of 8 bits -----------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [cv2.IMREAD_COLOR, cv2.IMREAD_GRAYSCALE, cv2.IMREAD_UNCHANGED])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp", ".tif", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3])
def test_files_of_8_bits_are_read_as_ever_byte_for_byte(suffix, channels, flags, tmp_path):
    file = str(tmp_path / f"x{suffix}")
    cv2.imwrite(file, (codes(0, channels) >> 4).astype(np.uint8))
    for given in (flags, sixteen_bits.Flags(flags, read_curve(FIXED))):
        ours, wanted = stock.imread(file, given), stock.imread._stock(file, flags)
        assert ours.dtype == wanted.dtype == np.uint8 and np.array_equal(ours, wanted) and ours.shape == wanted.shape


def test_who_asks_for_16_bits_gets_them(tmp_path):
    cv2.imwrite(str(tmp_path / "x.png"), codes(0))
    found = stock.imread(str(tmp_path / "x.png"), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    assert np.array_equal(found, codes(0))


def test_high_byte_reads_as_the_stock_function(tmp_path):
    file = str(tmp_path / "x.png")
    for channels, flags in ((1, cv2.IMREAD_GRAYSCALE), (3, cv2.IMREAD_COLOR)):
        cv2.imwrite(file, codes(0, channels) * np.uint16(15))
        ours = stock.imread(file, sixteen_bits.Flags(flags, CURVES["high-byte"]))
        assert np.array_equal(ours, stock.imread._stock(file, flags))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_of_16_bits_becomes_8_with_a_third_axis(channels, tmp_path):
    file = str(tmp_path / "x.tif")
    cv2.imwrite(file, codes(0, channels))
    found = stock.imread(file, cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR)
    assert found.shape == (64, 64, channels) and found.dtype == np.uint8 and len(np.unique(found)) > 200


def test_a_deep_file_that_is_broken_is_an_error_of_our_own_readers(data):
    file = Path(data).parent / "images/val/2.png"
    file.write_bytes(file.read_bytes()[:2000])
    for reader in (read_deep, models.read_picture):
        with pytest.raises((ValueError, OSError), match=r"2\.png cannot be decoded"):
            reader(str(file))


def test_a_file_that_is_cut_off_does_not_end_a_prediction(trained, data, log):
    folder = data.parent / "images/val"
    whole = (folder / "3.png").read_bytes()
    (folder / "3.png").write_bytes(whole[: len(whole) // 3])
    wanted = [f"{i}.png" for i in (2, 3, 7) if i != 3 or stock.imread._stock(str(folder / "3.png")) is not None]
    found = YOLO(trained).predict(str(folder), imgsz=64, device="cpu", verbose=False)
    assert [Path(each.path).name for each in found] == wanted
    assert np.array_equal(found[0].orig_img, developed(2, FIXED))
    assert sum("3.png cannot be decoded" in line and line.startswith("WARNING") for line in log) == 1
    for curve in (CURVES["auto"], read_curve(FIXED)):
        with pytest.raises(ValueError, match=r"3\.png cannot be decoded"):
            stock.imread(str(folder / "3.png"), sixteen_bits.Flags(cv2.IMREAD_COLOR, curve))


def write_grey_alpha(file):
    """Write a TIFF of grey and alpha with 16 bits, 64 x 64, which OpenCV reads with 8."""
    entries = [(256, 3, 1, 64), (257, 3, 1, 64), (258, 3, 2, 16 | 16 << 16), (259, 3, 1, 1), (262, 3, 1, 1)]
    pixels = np.dstack([codes(0, 1), np.full((64, 64), 65535, np.uint16)]).tobytes()
    start = 8 + 2 + 12 * 10 + 4
    entries += [(273, 4, 1, start), (277, 3, 1, 2), (278, 3, 1, 64), (279, 4, 1, len(pixels)), (338, 3, 1, 2)]
    table = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    file.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + bytes(4) + pixels)


def test_a_deep_file_that_only_the_stock_function_reads_is_read_by_it(trained, data, log):
    file = data.parent / "images/val/3.tif"
    write_grey_alpha(file)
    wanted = stock.imread._stock(str(file), cv2.IMREAD_COLOR)
    flags = sixteen_bits.Flags(cv2.IMREAD_COLOR, read_curve(FIXED), is_strict=False)
    assert np.array_equal(stock.imread(str(file), flags), wanted)
    if wanted.shape[2] == 3:  # the oldest releases read one channel
        found = YOLO(trained).predict(str(file.parent), imgsz=64, device="cpu", verbose=False)
        assert len(found) == 4 and np.array_equal(found[2].orig_img, wanted)
    with pytest.raises(ValueError, match=r"3\.tif cannot be decoded as a picture of 16 bits"):
        read_deep(file)
    assert any("3.tif cannot be decoded as a picture of 16 bits" in line for line in log)


def test_a_cache_on_disk_holds_what_the_stock_function_makes_of_a_file_that_cannot_be_decoded(data, log):
    built = dataset(data)
    file = Path(built.im_files[1])
    for broken in (
        lambda: write_grey_alpha(file),
        lambda: file.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(16) + b"\x10\0"),
    ):
        broken()
        copy = sixteen_bits.cache_name(file, CURVES["auto"])
        copy.unlink(missing_ok=True)
        built.cache_images_to_disk(1)
        wanted = stock.imread._stock(str(file), cv2.IMREAD_COLOR)
        assert copy.exists() == (wanted is not None)
        if wanted is not None:
            assert np.array_equal(np.load(copy), wanted)
    assert any("3.png cannot be decoded" in line for line in log)


# ---- the curve that is asked for ----------------------------------------------------------------


def test_curve_is_an_argument_that_is_checked_at_the_door(tmp_path):
    assert get_cfg(overrides={"curve": "high-byte"}).curve == "high-byte"
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"curve": FIXED}))
    assert get_cfg(overrides={"curve": str(tmp_path / "mine.yaml")}).curve == as_settings(read_curve(FIXED))
    mistakes = {"bright": "curve is 'bright'", "no.yaml": "no curve file", ("white", -1): "white is -1"}
    for wrong, message in mistakes.items():
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            get_cfg(overrides={"curve": dict([wrong]) if isinstance(wrong, tuple) else wrong})


@pytest.mark.parametrize("cache", [False, "ram", "disk"])
@pytest.mark.parametrize("curve", ["auto", "high-byte", FIXED])
def test_a_data_set_reads_through_its_curve_whatever_is_cached(cache, curve, data, log):
    np.save(data.parent / "images/val/2.npy", np.zeros((64, 64, 3), np.uint8))  # of another curve, or of the stock
    other = dataset(data, curve={"white": 9000}, cache=cache)
    built = dataset(data, curve=curve, cache=cache)
    for i in range(2):
        assert np.array_equal(built.load_image(i)[0], developed(2 + i, curve))
        assert np.array_equal(other.load_image(i)[0], developed(2 + i, {"white": 9000}))
    assert any("more than 8 bits (2.png)" in line and "curve=high-byte" in line for line in log)


def test_a_disk_cache_is_read_again_and_made_anew_for_a_new_picture(data):
    first = dataset(data, cache="disk")
    copy = sixteen_bits.cache_name(first.im_files[0], CURVES["auto"])
    assert first.npy_files[0] == copy
    np.save(copy, np.full((64, 64, 3), 7, np.uint8))
    assert (dataset(data, cache="disk").load_image(0)[0] == 7).all()
    import os

    os.utime(copy, (1, 1))
    assert np.array_equal(dataset(data, cache="disk").load_image(0)[0], developed(2, "auto"))


def test_a_data_set_of_8_bits_keeps_its_caches(data):
    for i in (2, 3, 7):
        cv2.imwrite(str(data.parent / f"images/val/{i}.png"), (codes(i) >> 4).astype(np.uint8))
    built = dataset(data, cache="disk")
    assert sorted(f.name for f in (data.parent / "images/val").glob("*.npy")) == ["2.npy", "3.npy", "7.npy"]
    assert np.array_equal(built.load_image(0)[0], codes(2) >> 4)


def test_grey_data_sets_read_grey_of_16_bits(data):
    described = yaml.safe_load(data.read_text())
    data.write_text(yaml.safe_dump({**described, "channels": 1}))
    cv2.imwrite(str(data.parent / "images/val/2.png"), codes(2, 1))
    built = dataset(data, curve=FIXED, cache="disk")
    assert np.array_equal(built.load_image(0)[0], develop(codes(2, 1), read_curve(FIXED))[0])


def test_workers_that_are_spawned_read_through_the_curve(data):
    code = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests")!r})
from torch.utils.data import DataLoader
from test_sixteen_bits import FIXED, dataset, developed
if __name__ == "__main__":
    built = dataset({str(data)!r}, curve=FIXED)
    loader = DataLoader(built, 1, num_workers=1, multiprocessing_context="spawn", collate_fn=built.collate_fn)
    found = next(iter(loader))["img"][0].numpy().transpose(1, 2, 0)[..., ::-1]
    assert (found == developed(2, FIXED)).all()
"""
    script = data.parent / "script.py"
    script.write_text(code)
    run = run_python(f"import runpy; runpy.run_path({str(script)!r}, run_name='__main__')", data.parent)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("is_strict", [True, False])
def test_flags_survive_pickling_with_their_curve(is_strict):
    flags = pickle.loads(pickle.dumps(sixteen_bits.Flags(1, read_curve(FIXED), is_strict)))
    assert flags == 1 and flags.curve == read_curve(FIXED) and flags.is_strict == is_strict


# ---- from training to deployment -----------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint of a training with a curve, one epoch on three pictures."""
    folder = tmp_path_factory.mktemp("trained")
    data = write_set(folder)
    model = YOLO("yolov8n-seg.yaml", verbose=False)
    options = {"imgsz": 64, "epochs": 1, "batch": 3, "workers": 0, "device": "cpu", "plots": False, "verbose": False}
    model.train(data=str(data), project=str(folder), name="run", curve=FIXED, **options)
    return folder / "run/weights/best.pt"


@pytest.fixture
def readings(monkeypatch):
    """The curves that pictures are read through from here on."""
    found, read = [], sixteen_bits.read_deep

    def listen(file, flags, curve):
        found.append(curve)
        return read(file, flags, curve)

    monkeypatch.setattr(sixteen_bits, "read_deep", listen)
    return found


def test_the_curve_travels_in_the_checkpoint_and_into_the_next_training(trained, data, tmp_path):
    model = YOLO(trained)
    assert read_curve(model.model.curve) == read_curve(FIXED) == sixteen_bits.recorded(model)
    assert read_curve(yaml.safe_load((trained.parents[1] / "args.yaml").read_text())["curve"]) == read_curve(FIXED)
    options = {"imgsz": 64, "epochs": 1, "batch": 3, "workers": 0, "device": "cpu", "plots": False, "val": False}
    model.train(data=str(data), project=str(tmp_path), name="more", **options)
    assert read_curve(model.trainer.args.curve) == read_curve(FIXED)
    assert model.trainer.train_loader.dataset.curve == read_curve(FIXED)


@pytest.mark.parametrize("asked, wanted", [({}, FIXED), ({"curve": "auto"}, "auto")])
def test_validation_reads_as_in_training_unless_asked_otherwise(asked, wanted, trained, data, readings, tmp_path):
    options = {"imgsz": 64, "workers": 0, "device": "cpu", "plots": False, "project": str(tmp_path)}
    YOLO(trained).val(data=str(data), **options, **asked)
    assert set(readings) == {read_curve(wanted)}


def sources(folder):
    file = folder / "images/val/2.png"
    grey = Image.fromarray(codes(2, 1)[..., 0])
    return {
        "a file": (str(file), codes(2)),
        "a folder": (str(file.parent), codes(2)),
        "a list of files": ([str(file), file], codes(2)),
        "an array": (codes(2), codes(2)),
        "a list of arrays": ([codes(2)], codes(2)),
        "a Pillow picture": (grey, np.repeat(codes(2, 1), 3, 2)),
    }


@pytest.mark.parametrize("kind", sources(Path()))
def test_every_kind_of_source_is_predicted_through_the_curve_of_the_model(kind, trained, data):
    source, picture = sources(data.parent)[kind]
    model = YOLO(trained)
    for asked, curve in (({}, FIXED), ({"curve": "high-byte"}, "high-byte"), ({}, FIXED)):
        found = model.predict(source, imgsz=64, device="cpu", verbose=False, **asked)[0]
        assert np.array_equal(found.orig_img, develop(picture, read_curve(curve))[0]), f"{kind} with {asked}"
    if "file" in kind:
        assert Path(found.path).name == "2.png"


@pytest.mark.parametrize("curve", ["auto", {"low": 5, "high": 90}, {"balance": [2, 1, 0.5]}])
def test_a_model_of_one_channel_sees_grey_before_the_curve_from_every_source(curve, tmp_path):
    picture = codes(2) * np.array([1, 4, 9], np.uint16)  # colours whose spans differ
    file = tmp_path / "c16.png"
    cv2.imwrite(str(file), picture)
    model = YOLO("yolov8n.yaml", verbose=False)
    model.model = type(model.model)({**model.model.yaml, "channels": 1}, ch=1, verbose=False)
    model.model.args, model.model.task = model.overrides, "detect"
    with_alpha = np.dstack([picture, np.full((64, 64), 65535, np.uint16)])
    given = {"a file": str(file), "a list": [str(file)], "an array": picture, "alpha": with_alpha}
    seen = {
        kind: model.predict(each, imgsz=64, device="cpu", verbose=False, curve=curve)[0].orig_img.astype(int)
        for kind, each in given.items()
    }
    assert seen["a file"].shape == (64, 64, 1)
    for kind, found in seen.items():
        assert np.abs(found - seen["a file"]).max() <= 1, kind


def test_alpha_of_an_array_is_no_light(trained):
    with_alpha = np.dstack([codes(2), np.full((64, 64), 65535, np.uint16)])
    found = YOLO(trained).predict(with_alpha, imgsz=64, device="cpu", verbose=False, curve="auto")[0]
    assert np.array_equal(found.orig_img, developed(2, "auto"))
    assert sixteen_bits.developed(with_alpha, CURVES["auto"], channels=4).shape == (64, 64, 4)


def test_many_pictures_are_decoded_by_threads_through_the_curve(trained, tmp_path):
    for i in range(10):
        cv2.imwrite(str(tmp_path / f"{i}.png"), codes(i))
    for i, found in enumerate(YOLO(trained).predict(str(tmp_path), imgsz=64, device="cpu", batch=8, verbose=False)):
        assert np.array_equal(found.orig_img, developed(i, FIXED))


def test_two_models_with_two_curves_do_not_mix(trained, data):
    one, other = YOLO(trained), YOLO(trained)
    other.model.curve = "auto"
    streams = [model.predict(str(data.parent / "images/val"), stream=True, verbose=False) for model in (one, other)]
    for i, pair in zip((2, 3, 7), zip(*streams)):
        for found, curve in zip(pair, (FIXED, "auto")):
            assert np.array_equal(found.orig_img, developed(i, curve))


def test_a_checkpoint_without_a_curve_reads_with_the_default(source, data):
    found = YOLO(source("yolov8n-seg")).predict(str(data.parent / "images/val/2.png"), imgsz=64, verbose=False)[0]
    assert np.array_equal(found.orig_img, developed(2, "auto"))


def test_an_export_and_the_deployment_script_read_as_the_checkpoint(trained, data, readings, tmp_path):
    pytest.importorskip("onnxruntime")
    file = YOLO(trained).export(format="onnx", imgsz=64, simplify=False)
    model = YOLO(file, task="segment")
    picture = data.parent / "images/val/2.png"
    found = model.predict(str(picture), imgsz=64, verbose=False)[0]
    assert np.array_equal(found.orig_img, developed(2, FIXED))
    readings.clear()
    model.val(data=str(data), imgsz=64, workers=0, plots=False, project=str(tmp_path))
    assert set(readings) == {read_curve(FIXED)}
    script = deployment_script()
    deployed = script.Model(file)
    assert np.array_equal(script.read_picture(picture, 3, deployed.curve), developed(2, FIXED))


def deployment_script():
    """Import scripts/onnx_inference.py."""
    spec = importlib.util.spec_from_file_location("onnx_inference", ROOT / "scripts/onnx_inference.py")
    script = importlib.util.module_from_spec(spec)
    __import__("sys").modules["onnx_inference"] = script
    spec.loader.exec_module(script)
    return script


@pytest.mark.parametrize("curve", [{"low": 0, "high": 90}, {"low": 0.0}, {"low": -0.0, "high": 100}, {"high": 5}])
def test_the_deployment_script_takes_every_percentile_as_it_is_given(curve, tmp_path):
    script = deployment_script()
    cv2.imwrite(str(tmp_path / "x.png"), codes(2))
    recorded = as_settings(read_curve(curve))
    assert np.array_equal(script.read_picture(tmp_path / "x.png", 3, recorded), developed(2, curve))


def test_the_deployment_script_leaves_alpha_out_of_the_percentiles(tmp_path):
    file = tmp_path / "x.png"
    cv2.imwrite(str(file), np.dstack([codes(2), np.full((64, 64), 65535, np.uint16)]))
    found = deployment_script().read_picture(file, 4)
    assert np.array_equal(found, read_deep(file, cv2.IMREAD_UNCHANGED))
    assert np.array_equal(found[..., :3], developed(2, "auto"))


def test_a_damaged_record_of_a_curve_is_said():
    backend = SimpleNamespace(metadata={"curve": "{'black': "})
    with pytest.raises(ValueError, match="recorded is damaged"):
        sixteen_bits.recorded(backend)


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"mode": "export"}, "export keeps the curve of the model"),
        ({"mode": "train", "task": "classify"}, "a classification are read with curve=auto"),
    ],
)
def test_a_curve_that_would_have_no_effect_is_refused(overrides, message):
    with pytest.raises(ValueError, match=message):
        get_cfg(overrides={"curve": "high-byte", **overrides})


def test_class_folders_are_read_as_the_checkpoint_will_say(tmp_path):
    from ultralytics.data.dataset import ClassificationDataset

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / f"{name}/0.png"), codes(0))
        np.save(tmp_path / f"{name}/0.npy", np.zeros((64, 64, 3), np.uint8))
    args = get_cfg(overrides={"task": "classify", "imgsz": 64, "cache": "disk"})
    curve = sixteen_bits.curve_of_training(args)
    built = ClassificationDataset(str(tmp_path), args)
    if curve == CURVES["auto"]:  # older releases do not look whether a copy is stale
        assert built[0]["img"].max() > 0.9
        assert np.array_equal(np.load(sixteen_bits.cache_name(built.samples[0][0], curve)), developed(0, "auto"))
    else:
        assert not hasattr(ClassificationDataset, "imread")


def test_resume_refuses_another_curve_and_tune_any(trained):
    with pytest.raises(ValueError, match="tune does not know curve="):
        YOLO(trained).tune(data="coco8.yaml", curve="auto", iterations=1)


# ---- RAW -----------------------------------------------------------------------------------------


def test_raw_files_are_pictures_of_a_data_set(data, log):
    pytest.importorskip("rawpy", reason="RAW files need rawpy: pip install 'yolo-wnlb[raw]'")
    folder = data.parent / "images/val"
    write_dng(folder / "4.nef", mosaic_of(64, 48), orientation=6)
    write_dng(folder / "2.nef", mosaic_of())
    (data.parent / "labels/val/4.txt").write_text("0 0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75\n")
    built = dataset(data)
    assert [Path(file).name for file in built.im_files] == ["2.png", "3.png", "4.nef", "7.png"]
    assert built.labels[2]["shape"] == (48, 64)
    picture = built.load_image(2)[0]
    assert picture.shape == (48, 64, 3) and np.ptp(picture) > 200
    assert any("1 RAW files lie beside a finished picture" in line and "2.nef" in line for line in log)


def test_raw_files_without_rawpy_are_left_out_beside_others_and_an_error_alone(data, trained, monkeypatch, log):
    folder = data.parent / "images/val"
    write_dng(folder / "4.nef", mosaic_of())
    monkeypatch.setitem(__import__("sys").modules, "rawpy", None)
    assert [Path(file).name for file in dataset(data).im_files] == ["2.png", "3.png", "7.png"]
    found = YOLO(trained).predict(str(folder), imgsz=64, device="cpu", verbose=False)
    assert [Path(each.path).name for each in found] == ["2.png", "3.png", "7.png"]
    assert sum("1 RAW files are left out, as rawpy is not installed" in line and "4.nef" in line for line in log) == 2
    for file in folder.glob("*.png"):
        file.unlink()
    with pytest.raises(ImportError, match=r"4\.nef is a RAW file.*pip install"):
        dataset(data)
    with pytest.raises(ImportError, match=r"4\.nef is a RAW file.*pip install"):
        YOLO(trained).predict(str(folder), imgsz=64, device="cpu", verbose=False)


def test_a_dng_without_rawpy_is_an_error_beside_others_too(data, monkeypatch):
    write_dng(data.parent / "images/val/4.dng", mosaic_of())
    monkeypatch.setitem(__import__("sys").modules, "rawpy", None)
    with pytest.raises(ImportError, match=r"4\.dng is a RAW file.*pip install"):
        dataset(data)


@pytest.mark.parametrize("has_rawpy", [True, False])
@pytest.mark.parametrize("mode", ["predict", "track"])
def test_of_a_pair_of_a_camera_the_finished_picture_is_predicted(mode, has_rawpy, trained, tmp_path, monkeypatch, log):
    if has_rawpy:
        pytest.importorskip("rawpy", reason="RAW files need rawpy: pip install 'yolo-wnlb[raw]'")
    else:
        monkeypatch.setitem(__import__("sys").modules, "rawpy", None)
    for i in (1, 2):
        cv2.imwrite(str(tmp_path / f"IMG_{i}.JPG"), (codes(i) >> 4).astype(np.uint8))
        write_dng(tmp_path / f"IMG_{i}.NEF", mosaic_of())
    video = cv2.VideoWriter(str(tmp_path / "IMG_3.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, (64, 64))
    for i in range(3):
        video.write((codes(i) >> 4).astype(np.uint8))
    video.release()
    model = YOLO(trained)
    found = getattr(model, mode)(str(tmp_path), imgsz=64, device="cpu", verbose=False, stream=mode == "predict")
    assert [Path(each.path).name for each in found] == ["IMG_1.JPG", "IMG_2.JPG", *["IMG_3.avi"] * 3]
    loaded = model.predictor.dataset
    assert (loaded.nf, loaded.ni, loaded.video_flag) == (3, 2, [False, False, True])
    assert any("2 RAW files lie beside a finished picture" in line for line in log)


def test_a_raw_file_is_predicted(trained, tmp_path):
    pytest.importorskip("rawpy", reason="RAW files need rawpy: pip install 'yolo-wnlb[raw]'")
    file = write_dng(tmp_path / "night.dng", mosaic_of(64, 64))
    found = YOLO(trained).predict([str(file)], imgsz=64, verbose=False, curve="auto")[0]
    assert found.orig_img.shape == (64, 64, 3) and np.ptp(found.orig_img) > 200
    assert YOLO(trained).predict(str(file), imgsz=64, verbose=False)[0].orig_img.shape == (64, 64, 3)


def test_the_curve_of_the_default_is_plain_numbers():
    assert as_settings(Curve()) == {
        "black": None,
        "white": None,
        "low": 0.1,
        "high": 99.5,
        "balance": None,
        "response": None,
    }
