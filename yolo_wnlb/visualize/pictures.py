"""Find the pictures that a user names, read them, and give each a name that no other has.

images, folders of images, data YAMLs -> files            `find_pictures`
file -> uint8 (H, W, channels)                            `read_picture`
files -> names to write beside them                       `display_names`
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from yolo_wnlb.data.sources import listed
from yolo_wnlb.reading import read_text


def find_pictures(source: Path, n: int) -> list[Path]:
    """List the images that a source stands for: itself, or n of those of a folder or of a val split, evenly spaced.

    Raises: ValueError, OSError: with the remedy.
    """
    from ultralytics.data.utils import IMG_FORMATS

    if source.suffix.lower() in (".yaml", ".yml"):
        places = val_places(source)
    elif source.is_dir():
        places = [source]
    elif source.exists():
        return [source]
    else:
        raise FileNotFoundError(f"there is no {printable(source)}; give images, folders of images or a data YAML")
    images = [image for place in places for image in pictures_in(place, IMG_FORMATS)]
    if not images:
        formats = ", ".join(sorted(IMG_FORMATS))
        raise ValueError(f"{printable(source)} holds no images ({formats}); give another folder")
    if n >= len(images):
        return images
    return [images[round(i * (len(images) - 1) / max(n - 1, 1))] for i in range(n)]


def val_places(source: Path) -> list[Path]:
    """Return the folders and lists that a data YAML names as its val split; nothing is downloaded."""
    from ultralytics.data.utils import check_det_dataset

    try:
        val = check_det_dataset(str(source), autodownload=False)["val"]
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{str(error).strip()}\nNothing is downloaded here: have Ultralytics fetch the data set first, or give a "
            "folder of images"
        ) from error
    except (OSError, ImportError, MemoryError):
        raise
    except Exception as error:  # Ultralytics raises errors of many kinds for a mistake in the file
        raise ValueError(f"{source} is no data YAML that Ultralytics takes: {error}") from error
    if not (places := [Path(place) for place in listed(val)]):
        raise ValueError(f"{source} names no val: pictures; give a folder of images")
    return places


def pictures_in(place: Path, formats: set[str]) -> list[Path]:
    """List the images in a folder and below it, or in a text file with a path on each line, as Ultralytics does.

    Hidden files and folders are left out: cameras and file managers put what is no picture there.
    """
    if place.is_file():
        lines = [line.strip() for line in read_text(place).splitlines()]
        return [place.parent / line if line.startswith("./") else Path(line) for line in lines if line]
    found = sorted(path for path in place.rglob("*") if path.suffix[1:].lower() in formats and path.is_file())
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(place).parts)]


def read_picture(file: Path, channels: int = 3) -> np.ndarray:
    """Read an image as Ultralytics does for a model with so many channels, turned upright as its EXIF says.

    Returns: uint8 (H, W, channels), in BGR if there are three. One and three channels are made of any image; for
        another number the file must have as many.
    Raises: ValueError, OSError: the file is missing, unreadable, too large, or has other channels.
    """
    from ultralytics.utils.patches import imread

    if not file.is_file():
        raise FileNotFoundError(f"there is no image {printable(file)}; leave it out, or correct its path")
    flags = {1: cv2.IMREAD_GRAYSCALE, 3: cv2.IMREAD_COLOR}.get(channels, cv2.IMREAD_UNCHANGED)
    try:
        image = imread(str(file), flags)
    except Exception as error:  # OpenCV and Pillow refuse too many pixels, each with errors of its own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{printable(file)} cannot be read as an image ({reason}); leave it out or mend it") from error
    if image is None:
        raise ValueError(f"{printable(file)} cannot be read as an image; leave it out or mend it")
    image = image[..., None] if image.ndim == 2 else image
    if image.shape[2] != channels:
        raise ValueError(
            f"{printable(file)} has {image.shape[2]} channels, and the model takes {channels}; give images like those "
            "that it was trained on"
        )
    return image


def in_colour(image: np.ndarray) -> np.ndarray:
    """Return an image (H, W, channels) as BGR (H, W, 3) for eyes: grey as grey, of more than three the first three."""
    return image[..., :3] if image.shape[2] >= 3 else image[..., :1].repeat(3, 2)


def without_repeats(files: Sequence[Path]) -> list[Path]:
    """Return each file once, in the order of its first mention, however it was named."""
    first: dict[Path, Path] = {}
    for file in files:
        first.setdefault(file.resolve(), file)
    return list(first.values())


def display_names(files: Sequence[Path]) -> list[str]:
    """Return a printable name for each of different files: its own, with as many folders as tell it from the others."""
    parts = [file.absolute().parts for file in files]
    names = []
    for own in parts:
        others = [other for other in parts if other != own]
        depth = next(d for d in range(1, len(own) + 1) if all(own[-d:] != other[-d:] for other in others))
        names.append(printable("/".join(own[-depth:])))
    return names


def printable(name: Any) -> str:
    """Write a name on one line: line breaks and what is no text become escapes, as in Python."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in str(name))
