"""AVIF pictures are read as Ultralytics reads them, whoever reads them: 8 bits, upright."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image, features

from yolo_wnlb.data.folders import read_picture
from yolo_wnlb.imaging.avif import is_avif
from yolo_wnlb.twins import enhance
from yolo_wnlb.twins.pictures import decode, decode_rgb

pytestmark = pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")


def of_ten_bits():
    """Return a stored picture of 80 x 120, left 900 and right 512 of 1023."""
    codes = np.full((80, 120, 3), 512, np.uint16)
    codes[:, :60] = 900
    try:
        return cv2.imencode(".avif", codes, [cv2.IMWRITE_AVIF_DEPTH, 10, cv2.IMWRITE_AVIF_QUALITY, 95])[1].tobytes()
    except cv2.error:
        pytest.skip("this OpenCV writes no AVIF")


def turned():
    """Return a stored picture that has to be turned by a quarter, and what it then is."""
    upright = np.zeros((40, 64, 3), np.uint8)
    upright[:20, :32] = 200
    exif = Image.Exif()
    exif[0x0112] = 6  # the top of what is stored is the right side
    stored = io.BytesIO()
    Image.fromarray(np.rot90(upright).copy()).save(stored, "AVIF", quality=95, exif=exif)
    return stored.getvalue(), upright


def test_ten_bits_become_eight_and_not_their_highest():
    stored = of_ten_bits()
    assert is_avif(stored) and not is_avif(b"\x00\x00\x00\x18ftypcrx isomavi") and not is_avif(b"")
    image, ends = decode(stored, cv2.IMREAD_COLOR, "it")
    assert image.dtype == np.uint8 and not ends
    assert image[:, :50].mean() == pytest.approx(900 / 4, abs=3) and image[:, 70:].mean() == pytest.approx(128, abs=3)
    deep, _ = decode(stored, cv2.IMREAD_COLOR, "it", bits=16)
    assert (deep == image * np.uint16(257)).all()


def test_it_is_upright_in_twins_and_class_folders_as_it_is_in_training(tmp_path):
    stored, upright = turned()
    (tmp_path / "a.avif").write_bytes(stored)
    for image in (decode(stored, cv2.IMREAD_COLOR, "it")[0], read_picture(tmp_path / "a.avif")):
        assert image.shape == upright.shape and abs(image.astype(int) - upright).mean() < 4
    assert decode_rgb(stored, "it", channels=1)[0].shape == (*upright.shape[:2], 1)


def test_a_twin_has_the_brightness_of_its_source(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/p.avif").write_bytes(of_ten_bits())
    assert enhance.enhance_dataset(tmp_path / "in", "gamma:1", tmp_path / "out").ok
    [written] = (tmp_path / "out").rglob("p.png")
    assert cv2.imread(str(written)).mean() == pytest.approx((225 + 128) / 2, abs=3)


def test_a_damaged_one_is_said_to_be_one():
    with pytest.raises(ValueError, match="it cannot be decoded: damaged AVIF"):
        decode(of_ten_bits()[:200], cv2.IMREAD_COLOR, "it")
