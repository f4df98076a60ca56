"""Find the pictures that a user names, and give each a name that no other has.

images, folders of images, data YAMLs -> files            `find_pictures`
files -> names to write beside them                       `display_names`
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from yolo_wnlb.data.data_yaml import read_data_yaml
from yolo_wnlb.data.sources import list_images, listed, printable, spread
from yolo_wnlb.reading import read_text


def find_pictures(source: Path, n: int) -> list[Path]:
    """List n of the images that a source stands for, evenly spaced, or all where there are no more.

    Raises: as `all_pictures` does.
    """
    return spread(all_pictures(source), n)


def all_pictures(source: Path) -> list[Path]:
    """List the images that a source stands for: itself, or those of a folder or of a val split.

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
    return images


def val_places(source: Path) -> list[Path]:
    """Return the folders and lists that a data YAML names as its val split; nothing is downloaded."""
    val = read_data_yaml(source, download=False)[0]["val"]
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
    return sorted(path for path in map(Path, list_images(place, formats)) if path.is_file())


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
