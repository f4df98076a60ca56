"""Pictures of a data set, from the content of their files to arrays and back."""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
from PIL import Image

from yolo_wnlb.data.headers import size_in_header
from yolo_wnlb.imaging.avif import decode_avif, is_avif
from yolo_wnlb.imaging.curve import CURVES, Curve
from yolo_wnlb.imaging.deep import DEEP, develop_content, kind_of

# Noise does not repeat, so zlib need not search for it; but neighbours are alike. In OpenCV 5 this takes a third of
# the time of plain level 1 and makes files 11 % smaller. Before OpenCV 4.12 the filter cannot be chosen.
FILTER = [getattr(cv2, name) for name in ("IMWRITE_PNG_FILTER", "IMWRITE_PNG_FILTER_AVG") if hasattr(cv2, name)]
ENCODINGS = {
    "png": [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY, *FILTER],
    "png16": [cv2.IMWRITE_PNG_COMPRESSION, 1],
    "jpg": [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444],
}

SUFFIXES = {kind: f".{kind.removesuffix('16')}" for kind in ENCODINGS}


def decode(
    stored: bytes, mode: int, what: str = "the picture", *, curve: Curve = CURVES["auto"], bits: int = 8, name: str = ""
) -> tuple[np.ndarray, dict[str, int]]:
    """Decode a picture, upright as its EXIF says.

    Args:
        stored: Content of its file.
        mode: IMREAD_GRAYSCALE or IMREAD_COLOR of OpenCV.
        what: What messages call it.
        curve: That a picture with more than 8 bits is brought through.
        bits: 8 or 16 of what comes out; pictures of 8 bits are multiplied by 257 for 16.
        name: Of its file; the suffix of a RAW file says what it is.
    Returns: uint8 or uint16, (H, W) or (H, W, 3) in BGR; of a picture with more than 8 bits the codes that became black
        and white, else nothing.
    Raises: ValueError: it is no picture, incomplete, too large for Ultralytics, or has floating-point values.
        ImportError: it is RAW, and rawpy is not installed.
    """
    if kind := kind_of(io.BytesIO(stored), name or what):
        if kind == DEEP:
            refuse_too_large(stored, what)
        return develop_content(stored, kind, mode, curve, what, bits)
    if stored[:2] == b"\xff\xd8" and is_cut_off(stored):
        raise ValueError(f"{what} is cut off, a JPEG without an end")  # OpenCV 4 fills it up with grey
    refuse_too_large(stored, what)
    try:
        if is_avif(stored):
            image: Any = decode_avif(stored, mode)
        else:
            image = cv2.imdecode(np.frombuffer(stored, np.uint8), mode | cv2.IMREAD_ANYDEPTH) if stored else None
    except (cv2.error, ValueError) as error:
        raise ValueError(f"{what} cannot be decoded: {' '.join(str(error).split())}") from error
    if image is None:
        raise ValueError(f"{what} cannot be decoded")
    if image.dtype.kind == "f":
        raise ValueError(f"{what} has floating-point values; store it with 8 or 16 bits")
    if image.dtype == np.uint16:  # of a format that is not looked into, such as JPEG 2000
        image = (image >> 8).astype(np.uint8)
    return (image if bits == 8 else image * np.uint16(257)), {}


def decode_rgb(
    stored: bytes, what: str, curve: Curve = CURVES["auto"], name: str = "", channels: int = 3
) -> tuple[np.ndarray, dict[str, int]]:
    """Decode a picture to uint8 RGB, or grey (H, W, 1), upright as its EXIF says; see `decode`."""
    flag = cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR
    image, ends = decode(stored, flag, what, curve=curve, name=name)
    return (image.reshape(*image.shape[:2], 1) if channels == 1 else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)), ends


def encode(image: np.ndarray, kind: str) -> bytes:
    """Encode a picture, BGR or grey, as one of ENCODINGS."""
    return cv2.imencode(SUFFIXES[kind], image, ENCODINGS[kind])[1].tobytes()


def to_codes(values: np.ndarray, span: tuple[float, float]) -> np.ndarray:
    """Stretch a span of values over 0 to 255 and round; what lies outside is clipped."""
    return np.rint(np.clip((values - span[0]) * (255 / (span[1] - span[0])), 0, 255)).astype(np.uint8)


def refuse_too_large(stored: bytes, what: str) -> None:
    """Raise ValueError for a picture that Pillow, and with it Ultralytics, refuses: before memory is taken for it."""
    limit = 2 * (Image.MAX_IMAGE_PIXELS or 2**30)
    width, height = size_in_header(io.BytesIO(stored))
    if width * height > limit:
        raise ValueError(f"{what} has {width} x {height} pixels, more than Ultralytics takes ({limit:,}); cut it up")


def is_cut_off(jpeg: bytes) -> bool:
    """Tell whether a JPEG's picture (its preview aside) has no end; what a phone appends does not matter."""
    at = 2
    while at + 4 <= len(jpeg) and jpeg[at] == 0xFF and jpeg[at + 1] != 0xDA:  # segments, up to the start of the scan
        at += 1 if jpeg[at + 1] == 0xFF else 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    return jpeg.find(b"\xff\xd9", at) < 0
