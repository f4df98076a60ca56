"""Width and height of pictures from the headers of their files, without decoding them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from yolo_wnlb.imaging.deep import RAW_SUFFIXES, size_of_raw


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


def large_enough(files: Sequence[Path], side: int) -> list[Path]:
    """Return the pictures whose header can be read, and whose shorter side is `side` pixels or more."""

    def is_large(file: Path) -> bool:
        try:
            with file.open("rb") as stored:
                raw = file.suffix.lower() in RAW_SUFFIXES  # the header of these holds a thumbnail
                return min(size_of_raw(file) if raw else size_in_header(stored)) >= side
        except (OSError, ValueError):  # it is counted among those that cannot be read
            return False

    with ThreadPoolExecutor(8) as pool:
        return [file for file, large in zip(files, pool.map(is_large, files)) if large]
