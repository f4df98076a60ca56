"""The bright pictures of an adaptation: find them, judge them, and lay them out as a data set of Ultralytics.

    a folder, the train split of a data YAML, or a video    `find`
    -> how many can be read, how bright they are            `examine`
    -> out/pictures/images/{train,val}, out/pictures/labels/{train,val}, data.yaml    `lay_out`

Nothing is written where the user's pictures lie. Ultralytics writes a cache beside the labels and needs label files,
so the data set is one of links with empty labels. It also repairs JPEG files whose end is missing, in place: those
are copied instead of linked.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import yaml

from yolo_wnlb.data.data_yaml import read_data_yaml
from yolo_wnlb.data.journal import MANIFEST, replaced
from yolo_wnlb.data.sources import listed, printable, spread
from yolo_wnlb.imaging.brightness import DAYLIGHT
from yolo_wnlb.imaging.curve import CURVES, Curve
from yolo_wnlb.imaging.deep import read_deep
from yolo_wnlb.visualize.pictures import pictures_in, without_repeats
from yolo_wnlb.words import counted
from yolo_wnlb.yolo.darkness import darkened_by

LEAST = 12  # pictures of an adaptation
SMALLEST = 10  # pixels of a side; Ultralytics leaves out smaller pictures
HELD_OUT = (10, 100)  # fewest and most pictures that are held out


@dataclass(frozen=True)
class Found:
    """The pictures of an adaptation.

    Attributes:
        files: Picture files; of a video, the video alone.
        frames: Numbers of the frames to take from a video, evenly spaced; empty for pictures.
        unreadable: Files that are left out because they cannot be read as pictures.
        brightness: Median over the pictures of their mean code, 0 (black) to 255.
    """

    files: list[Path]
    frames: list[int]
    unreadable: list[Path]
    brightness: float

    @property
    def count(self) -> int:
        """How many pictures there are."""
        return len(self.frames) or len(self.files)

    def fingerprint(self) -> str:
        """Reduce the paths and sizes of the files to a short hash."""
        lines = [f"{file.resolve()} {file.stat().st_size}" for file in self.files] + [str(self.frames)]
        return hashlib.sha256("\n".join(lines).encode(errors="surrogateescape")).hexdigest()[:16]


# ---- finding -------------------------------------------------------------------------------------


def find(images: str | Path, limit: int | None = None, frames: int = 300, curve: Curve | None = None) -> Found:
    """Find the pictures that images= names, and see how bright they are.

    Args:
        images: A folder, a data YAML (its train split; labels are not read) or a video.
        limit: Use so many of them, evenly spaced.
        frames: Frames to take from a video, evenly spaced.
        curve: That the model has recorded, of pictures with more than 8 bits; None is the default.
    Raises: ValueError, OSError: there are none, too few, or they are dark; with the remedy.
    """
    from ultralytics.data.utils import IMG_FORMATS, VID_FORMATS

    source = Path(images)
    if source.suffix[1:].lower() in VID_FORMATS and not source.is_dir():
        return find_frames(source, min(frames, limit or frames))
    dark = ""
    if source.suffix.lower() in (".yaml", ".yml"):
        data, _ = read_data_yaml(source)
        dark, places = darkened_by(data), [Path(place) for place in listed(data["train"])]
        if missing := [place for place in places if not place.exists()]:
            raise FileNotFoundError(f"{source}: there is no {missing[0]}, which 'train' names")
    elif source.is_dir():
        dark = darkened_by({"path": str(source)}) if (source / MANIFEST).is_file() else ""
        places = [source]
    elif source.exists():
        raise ValueError(f"images={printable(source)} is one file; wanted a folder of pictures, a data YAML or a video")
    else:
        raise FileNotFoundError(f"images={printable(source)} does not exist; give a folder of bright pictures")
    if dark:
        raise ValueError(
            f"the pictures of images={printable(source)} are dark already ({dark}); give the bright ones they were "
            "made from"
        )
    files = without_repeats([file for place in places for file in pictures_in(place, IMG_FORMATS)])
    if not files:
        raise ValueError(f"images={printable(source)} holds no pictures ({', '.join(sorted(IMG_FORMATS))})")
    return examine(spread(files, limit or len(files)), source, curve)


def examine(files: Sequence[Path], source: Path, curve: Curve | None = None) -> Found:
    """Read every picture, at an eighth of its size where the format allows, and judge them.

    Raises: ValueError: too few can be read, or they are dark.
    """
    with ThreadPoolExecutor() as pool:
        codes = list(pool.map(partial(mean_code, curve=curve), files))
    unreadable = [file for file, code in zip(files, codes) if code is None]
    readable = [file for file, code in zip(files, codes) if code is not None]
    brightness = median([code for code in codes if code is not None] or [0.0])
    return judged(Found(readable, [], unreadable, round(brightness, 1)), source)


def mean_code(file: Path, curve: Curve | None = None) -> float | None:
    """Return the mean code of a picture in grey, 0 to 255; None if it cannot be read, or is too small."""
    from PIL import Image
    from ultralytics.utils.patches import imread

    try:
        if (picture := read_deep(file, cv2.IMREAD_GRAYSCALE, curve or CURVES["auto"])) is not None:  # as in training
            return float(picture.mean()) if min(picture.shape) >= SMALLEST else None
        picture = imread(str(file), cv2.IMREAD_REDUCED_GRAYSCALE_8)
        if picture is not None and min(picture.shape[:2]) < SMALLEST:
            picture = imread(str(file), cv2.IMREAD_GRAYSCALE)
        if picture is not None:
            with Image.open(file) as opened:
                opened.verify()  # Ultralytics does, and leaves out what does not pass
    except Exception:  # OpenCV and Pillow refuse damaged files and too many pixels, each with errors of its own
        return None
    return None if picture is None or min(picture.shape[:2]) < SMALLEST else float(picture.mean())


def judged(found: Found, source: Path) -> Found:
    """Return what was found if it will do.

    Raises: ValueError: there are too few pictures, or they are dark.
    """
    if found.count < LEAST:
        lost = f" ({len(found.unreadable)} more cannot be read)" if found.unreadable else ""
        raise ValueError(
            f"images={printable(source)} has {counted(found.count, 'picture')}{lost}; wanted {LEAST} at the very "
            "least, better some hundreds"
        )
    if found.brightness < DAYLIGHT:
        raise ValueError(
            f"the pictures of images={printable(source)} are dark: their median brightness is {found.brightness:.0f} "
            f"of 255, and day pictures have {DAYLIGHT} or more; adapt learns from BRIGHT pictures, which lowlight= "
            "darkens: give pictures taken by day, of the same kind of scene"
        )
    return found


# ---- videos --------------------------------------------------------------------------------------


def find_frames(video: Path, count: int) -> Found:
    """Choose `count` evenly spaced frames of a video, and see how bright they are."""
    if not video.is_file():
        raise FileNotFoundError(f"images={printable(video)} does not exist")
    total = frames_in(video)
    if not total:
        raise ValueError(f"images={printable(video)} is a video without a frame that can be read; give another")
    frames = spread(range(total), count)
    codes = [float(frame.mean()) for _, frame in frames_of(video, spread(frames, 30))]
    return judged(Found([video], frames, [], round(median(codes), 1)), video)


def frames_in(video: Path) -> int:
    """Count the frames of a video by going through it: what its header says may be wrong."""
    capture, total = cv2.VideoCapture(str(video)), 0
    while capture.grab():
        total += 1
    capture.release()
    return total


def frames_of(video: Path, numbers: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (number, picture) of frames, uint8 BGR (H, W, 3).

    Raises: ValueError: the video ends before the last of them.
    """
    wanted, capture = set(numbers), cv2.VideoCapture(str(video))
    for number in range(max(numbers) + 1):
        if not capture.grab():
            break
        if number in wanted:
            readable, picture = capture.retrieve()
            if not readable:
                break
            wanted.discard(number)
            yield number, picture
    capture.release()
    if wanted:
        raise ValueError(f"frame {min(wanted)} of {printable(video)} cannot be read; convert the video, or give frames")


# ---- the data set --------------------------------------------------------------------------------


def held_out(count: int, seed: int) -> list[int]:
    """Draw the numbers of the pictures that are not trained on: a tenth, 10 to 100, at most a third of all."""
    least, most = HELD_OUT
    share = min(max(round(count / 10), least), most, count // 3)
    return sorted(random.Random(seed).sample(range(count), share))


def lay_out(found: Found, folder: Path, seed: int, names: dict[int, str], channels: int) -> Path:
    """Make a data set of links, or of copies where there can be no links, with empty label files.

    Args:
        found: The pictures.
        folder: Where to; what is there of an earlier attempt is removed.
        seed: Of the draw of the pictures that are held out.
        names: Classes, {index: name}.
        channels: Of the pictures for the model, 1 or 3.
    Returns: Its data YAML, which is written last. The held-out pictures are its val split.
    """
    shutil.rmtree(folder, ignore_errors=True)
    held = set(held_out(found.count, seed))
    for part in ("images/train", "images/val", "labels/train", "labels/val"):
        (folder / part).mkdir(parents=True)
    pictures: Iterable[Any] = found.files
    if found.frames:
        pictures = (picture for _, picture in frames_of(found.files[0], found.frames))
    for i, picture in enumerate(pictures):
        split = "val" if i in held else "train"
        if isinstance(picture, Path):
            link(picture, folder / "images" / split / f"{i:06d}{picture.suffix.lower()}")
        else:
            write_picture(folder / "images" / split / f"{i:06d}.png", picture)
        (folder / "labels" / split / f"{i:06d}.txt").touch()
    data = {"path": str(folder), "train": "images/train", "val": "images/val", "channels": channels, "names": names}
    with replaced(folder / "data.yaml") as draft:
        draft.write_text(yaml.safe_dump(data, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return folder / "data.yaml"


def write_picture(file: Path, picture: np.ndarray) -> None:
    """Write a PNG, without loss."""
    file.write_bytes(cv2.imencode(".png", picture)[1].tobytes())


def link(picture: Path, place: Path) -> None:
    """Link to a picture; copy one that Ultralytics would repair in place, or where the disk has no links."""
    picture = picture.resolve()
    if not is_jpeg_without_end(picture):
        try:
            return place.symlink_to(picture)
        except OSError:
            pass
    shutil.copyfile(picture, place)
    return None


def is_jpeg_without_end(picture: Path) -> bool:
    """Tell whether a file is a JPEG, whatever its name, whose last bytes are not the mark of its end."""
    with picture.open("rb") as stream:
        begin = stream.read(3)
        stream.seek(-min(2, picture.stat().st_size), os.SEEK_END)
        return begin == b"\xff\xd8\xff" and stream.read() != b"\xff\xd9"


def size_within(picture: np.ndarray, imgsz: int) -> np.ndarray:
    """Resize a picture (H, W, C) as Ultralytics loads it: its longer side becomes `imgsz` pixels."""
    height, width = picture.shape[:2]
    ratio = imgsz / max(height, width)
    if ratio == 1:
        return picture
    size = (min(-int(-width * ratio // 1), imgsz), min(-int(-height * ratio // 1), imgsz))
    return cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR).reshape(size[1], size[0], -1)
