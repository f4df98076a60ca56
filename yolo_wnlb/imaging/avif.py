"""AVIF pictures as Ultralytics reads them: 8 bits, upright. OpenCV leaves codes of 10 bits, and does not turn them."""

from __future__ import annotations

import io

import cv2
import numpy as np
from PIL import ImageOps, features


def is_avif(stored: bytes) -> bool:
    """Tell whether a stored picture is AVIF, by the brands at its beginning, and Pillow can read it."""
    if stored[4:8] != b"ftyp":
        return False
    length = min(int.from_bytes(stored[:4], "big"), 256)
    brands = {stored[at : at + 4] for at in (8, *range(16, length, 4))}
    return not brands.isdisjoint((b"avif", b"avis")) and bool(features.check("avif"))


def decode_avif(stored: bytes, mode: int = cv2.IMREAD_COLOR) -> np.ndarray:
    """Decode AVIF to uint8: (H, W, 3), BGR, or for IMREAD_GRAYSCALE (H, W).

    Raises: ValueError: it is damaged.
    """
    from PIL.AvifImagePlugin import AvifImageFile  # Ultralytics' Image.open would look for another reader online

    try:
        with AvifImageFile(io.BytesIO(stored)) as opened:
            upright = ImageOps.exif_transpose(opened)
            if mode == cv2.IMREAD_GRAYSCALE:
                return np.asarray(upright.convert("L"))
            return cv2.cvtColor(np.asarray(upright.convert("RGB")), cv2.COLOR_RGB2BGR)
    except (OSError, SyntaxError) as error:
        raise ValueError(f"damaged AVIF: {error}") from error
