"""Width and height of a picture from the header of its file, without decoding it."""

from __future__ import annotations

from contextlib import suppress
from typing import BinaryIO

from PIL import Image


def size_in_header(stored: BinaryIO) -> tuple[int, int]:
    """Return width and height as the header of a file says, (0, 0) if Pillow does not know its format.

    `Image.open` is not asked: Ultralytics replaces it, and the new one installs a package for what it does not know.
    """
    Image.init()
    start = stored.read(16)
    for factory, accepts in Image.OPEN.values():
        with suppress(Exception):  # each format has its own for what is broken; who decodes it will say what is wrong
            if accepts is None or accepts(start) is True:
                stored.seek(0)
                return factory(stored, "").size
    return 0, 0
