"""Pictures with more than 8 bits a channel, PNG, TIFF and RAW: which files they are, and their codes.

What a file holds decides, and not its suffix: PNG with 16 bits, TIFF with 9 to 16 unsigned ones, and RAW files of
cameras whose header is a TIFF (DNG, NEF, ARW, CR2). All other files are not looked at any further.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from yolo_wnlb.imaging.curve import CURVES, Curve, develop, in_grey

RAW_SUFFIXES = (".dng", ".nef", ".arw", ".cr2")
DEEP, RAW = "deep", "raw"
PNG = b"\x89PNG\r\n\x1a\n"
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
BITS, SAMPLE_FORMAT, DNG_VERSION = 258, 339, 50706  # TIFF tags


def kind_of(stored: BinaryIO, name: str) -> str | None:
    """Return DEEP or RAW for a file of more than 8 bits, None for any other.

    Args:
        stored: The file, or its content, at its beginning.
        name: Its name; the suffix tells NEF, ARW and CR2 from a TIFF.
    """
    start = stored.read(26)
    if start[:8] == PNG:
        return DEEP if start[24:25] == b"\x10" else None
    if start[:4] not in TIFF:
        return None
    if Path(name).suffix.lower() in RAW_SUFFIXES:
        return RAW
    with suppress(Exception):  # a broken TIFF; who decodes it will say what is wrong
        tags = ImageFileDirectory_v2(start[:16] if start[2] == 43 or start[3] == 43 else start[:8])
        stored.seek(tags.next)
        tags.load(stored)
        if DNG_VERSION in tags:
            return RAW
        formats, bits = tags.get(SAMPLE_FORMAT, 1), tags.get(BITS, 1)
        unsigned = {*(formats if isinstance(formats, tuple) else (formats,))} == {1}
        return DEEP if unsigned and 8 < max(bits if isinstance(bits, tuple) else (bits,)) <= 16 else None
    return None


def is_deep(file: str | Path) -> bool:
    """Tell whether a file holds a picture of more than 8 bits; False if it cannot be read."""
    with suppress(OSError), Path(file).open("rb") as stored:
        return kind_of(stored, str(file)) is not None
    return False


def first_deep(files: Sequence[str | Path]) -> str | Path | None:
    """Return the first file with more than 8 bits among 64 of the files, evenly spaced."""
    step = max(1, len(files) // 64)
    return next((file for file in files[::step] if is_deep(file)), None)


def read_deep(file: str | Path, flags: int = cv2.IMREAD_COLOR, curve: Curve = CURVES["auto"]) -> np.ndarray | None:
    """Read a picture of more than 8 bits through a curve.

    Args:
        file: Any file.
        flags: IMREAD_GRAYSCALE, IMREAD_COLOR or IMREAD_UNCHANGED of OpenCV.
        curve: Of the picture.
    Returns: uint8, (H, W) or (H, W, C), in BGR if it has three channels; None if the file has 8 bits a channel,
        is no PNG, TIFF or RAW, or cannot be opened.
    Raises: ValueError: the file is broken; names it. ImportError: it is RAW, and rawpy is not installed.
    """
    try:
        with Path(file).open("rb") as stored:
            if (kind := kind_of(stored, str(file))) is None:
                return None
            stored.seek(0)
            content = stored.read()
    except OSError:
        return None
    return develop_content(content, kind, flags, curve, str(file))[0]


def develop_content(
    content: bytes, kind: str, flags: int, curve: Curve, what: str, bits: int = 8
) -> tuple[np.ndarray, dict[str, int]]:
    """Decode a picture of more than 8 bits and bring it through a curve; see `read_deep` and `develop`.

    Args:
        content: Of the file.
        kind: DEEP or RAW.
        flags: Of OpenCV.
        curve: Of the picture.
        what: What messages call it.
        bits: 8 or 16 of the result.
    """
    grey = flags == cv2.IMREAD_GRAYSCALE
    picture = light_of(content, curve, what) if kind == RAW else codes_of(content, flags, curve, what)
    if grey and picture.ndim == 3:
        picture = in_grey(picture, curve, is_light=kind == RAW)
    has_alpha = content[:8] == PNG and picture.ndim == 3 and picture.shape[2] == 4
    return develop(picture, curve, is_light=kind == RAW, bits=bits, has_alpha=has_alpha)


def codes_of(content: bytes, flags: int, curve: Curve, what: str) -> np.ndarray:
    """Decode the codes of a PNG or TIFF, upright as its EXIF says.

    Returns: uint16, (H, W) or (H, W, C); in grey only if the curve has no balance, which needs colours.
    Raises: ValueError: it cannot be decoded.
    """
    stored: Any = np.frombuffer(content, np.uint8)
    picture: Any = None
    try:
        if flags == cv2.IMREAD_UNCHANGED:
            if content[:4] in TIFF:
                _, pages = cv2.imdecodemulti(stored, cv2.IMREAD_UNCHANGED)
                if len(pages) > 1 and pages[0].ndim == 2 and len({page.shape for page in pages}) == 1:
                    picture = np.stack(pages, axis=2)
            picture = cv2.imdecode(stored, cv2.IMREAD_UNCHANGED) if picture is None else picture
        else:
            colours = flags == cv2.IMREAD_COLOR or curve.balance
            picture = cv2.imdecode(stored, (cv2.IMREAD_COLOR if colours else 0) | cv2.IMREAD_ANYDEPTH)
    except cv2.error as error:
        raise ValueError(f"{what} cannot be decoded: {' '.join(str(error).split())}") from error
    if picture is None or picture.dtype != np.uint16:
        found = "OpenCV cannot read it" if picture is None else f"OpenCV reads it as {picture.dtype}"
        raise ValueError(f"{what} cannot be decoded as a picture of 16 bits: {found}; is it complete?")
    return picture


# ---- RAW -----------------------------------------------------------------------------------------


def light_of(content: bytes, curve: Curve, what: str) -> np.ndarray:
    """Develop a RAW file to light: black level, balance and colours by LibRaw, no brightening, upright.

    Returns: uint16 (H, W, 3), BGR; 65535 is the saturation of the sensor.
    Raises: ImportError, ValueError: see `open_raw`.
    """
    rawpy = import_rawpy(what)
    options: dict[str, Any] = {"use_camera_wb": True}
    if curve.balance:
        red, green, blue = curve.balance
        options = {"user_wb": [red, green, blue, green]}
    try:
        with rawpy.imread(io.BytesIO(content)) as raw:
            rgb = raw.postprocess(
                demosaic_algorithm=rawpy.DemosaicAlgorithm.LINEAR,  # others take up to ten times as long
                output_bps=16,
                gamma=(1, 1),
                no_auto_bright=True,
                adjust_maximum_thr=0.0,  # else white would depend on the picture
                **options,
            )
    except (rawpy.LibRawError, rawpy.NotSupportedError) as error:
        raise ValueError(f"{what} cannot be developed by LibRaw: {reason(error)}; is it complete?") from error
    return np.ascontiguousarray(rgb[..., ::-1])


def size_of_raw(file: str | Path) -> tuple[int, int]:
    """Return width and height of a RAW file as `read_deep` gives it, without developing it.

    Raises: ImportError: rawpy is not installed. ValueError: it cannot be read; names it.
    """
    rawpy = import_rawpy(str(file))
    try:
        with rawpy.imread(io.BytesIO(Path(file).read_bytes())) as raw:
            sizes = raw.sizes
    except (rawpy.LibRawError, rawpy.NotSupportedError) as error:
        raise ValueError(f"{file} cannot be read by LibRaw: {reason(error)}; is it complete?") from error
    return (sizes.iheight, sizes.iwidth) if sizes.flip in (5, 6) else (sizes.iwidth, sizes.iheight)


def import_rawpy(what: str) -> Any:
    """Import rawpy.

    Raises: ImportError: it is not installed, or cannot be loaded; says what needs it.
    """
    try:
        import rawpy
    except ImportError as error:
        raise ImportError(
            f"{what} is a RAW file, which rawpy reads, and it cannot be imported ({error}): pip install rawpy"
        ) from error
    return rawpy


def reason(error: Exception) -> str:
    """Return the message of LibRaw, which comes as bytes."""
    text = error.args[0] if error.args else type(error).__name__
    return text.decode(errors="replace") if isinstance(text, bytes) else str(text)


def without_raw_twins(files: Iterable[str]) -> tuple[list[str], list[str]]:
    """Part pictures from RAW files that lie beside a finished picture of the same name, as cameras store pairs.

    Ultralytics reads neither NEF, ARW nor CR2 itself, so that the finished picture is the one that was meant; both
    together would share a label file. A DNG has always been one of the pictures.

    Returns: The pictures that are kept, in their order; the RAW files that are left out.
    """
    files = [*files]
    ours = [file for file in files if Path(file).suffix.lower() in RAW_SUFFIXES[1:]]
    if not ours:
        return files, []
    finished = {str(Path(file).with_suffix("")) for file in {*files} - {*ours}}
    out = {file for file in ours if str(Path(file).with_suffix("")) in finished}
    return [file for file in files if file not in out], sorted(out)


def without_unread_raw(files: Iterable[str]) -> tuple[list[str], list[str]]:
    """Part pictures from NEF, ARW and CR2 files where rawpy, which reads them, is not installed.

    Returns: The pictures that are kept, in their order; the RAW files that are left out: none if there is nothing else.
    """
    files = [*files]
    raw = [file for file in files if Path(file).suffix.lower() in RAW_SUFFIXES[1:]]
    if not raw or len(raw) == len(files):
        return files, []
    try:
        import_rawpy(raw[0])
    except ImportError:
        out = {*raw}
        return [file for file in files if file not in out], raw
    return files, []
