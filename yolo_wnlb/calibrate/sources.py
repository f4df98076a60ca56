"""The pictures of one camera, read and checked: one size, one camera, 8 bits, not compressed to death."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from contextlib import suppress
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
VIDEOS = {".mp4", ".avi", ".mov", ".mkv", ".m4v", ".webm"}
MOST = 48  # pictures of each kind; more change the result less than their reading takes
LEAST_SIDE = 64  # pixels
LEAST_QUALITY = 70  # of JPEG: below, most noise of a dark picture is rounded away
CODEC_COLOUR = 4  # codes between the channels that MPEG-4, VP8 and Motion JPEG leave in grey frames (3 were seen)
MAKE, MODEL = 271, 272  # EXIF tags


class Frame(NamedTuple):
    """One picture: where it is from, uint8 (H, W, 3) BGR or (H, W), its JPEG quality (or None), its camera by EXIF."""

    name: str
    picture: np.ndarray
    quality: int | None
    camera: str


def read_frames(sources: Sequence[str | Path], most: int = MOST, *, adjacent: bool = False) -> list[Frame]:
    """Read pictures, folders of pictures (with all below) and videos; at most `most`, evenly spaced.

    A file that is given twice, alone or in a folder, counts once.

    adjacent: frames of a video one right after the other, as pairs need them.
    Raises: FileNotFoundError: there is no such file. ValueError: it cannot be read, or has no pictures.
    """
    frames: list[Frame] = []
    seen: set[Path] = set()
    for source in map(Path, sources):
        if source.is_dir():
            if not (files := files_in(source)):
                raise ValueError(f"{source} holds no pictures ({', '.join(sorted(PICTURES))})")
            frames += [read_picture(file) for file in evenly(unseen(files, seen), most)]
        elif not source.is_file():
            raise FileNotFoundError(f"there is no {source}; give pictures, folders of pictures or videos")
        elif not unseen([source], seen):
            continue
        elif source.suffix.lower() in VIDEOS:
            frames += read_video(source, most, adjacent)
        else:
            frames.append(read_picture(source))
    return evenly(frames, most)


def files_in(source: Path) -> list[Path]:
    """Return the pictures in a folder and below, in the order of names; of a file the file itself."""
    if not source.is_dir():
        return [source]
    return [path for path in below(source) if path.suffix.lower() in PICTURES]


def below(folder: Path) -> list[Path]:
    """Return what a folder holds at any depth, behind links too, in the order of names; nothing that is hidden."""
    names = glob.glob(f"{glob.escape(str(folder))}/**/*", recursive=True)  # noqa: PTH207 - follows links
    return sorted(map(Path, names))


def unseen(files: Sequence[Path], seen: set[Path]) -> list[Path]:
    """Return the files, or folders, that were not seen yet, and note them down."""
    new = []
    for file in files:
        if (place := file.resolve()) not in seen:
            seen.add(place)
            new.append(file)
    return new


def without_copies(frames: list[Frame], remarks: list[str]) -> list[Frame]:
    """Keep one of equal pictures, whatever their names, and say so."""
    kept: dict[tuple[tuple[int, ...], bytes], Frame] = {}
    for frame in frames:
        kept.setdefault((frame.picture.shape, sha256(frame.picture.tobytes()).digest()), frame)
    if left := len(frames) - len(kept):
        remarks.append(f"{left} of {len(frames)} pictures are copies of others and do not count")
    return list(kept.values())


def evenly(items: list, most: int) -> list:
    """Keep at most `most` items, evenly spaced."""
    return items if len(items) <= most else [items[i * len(items) // most] for i in range(most)]


def read_pairs(sources: Sequence[str | Path], remarks: list[str]) -> list[tuple[Frame, Frame]]:
    """Read pairs of pictures of a still scene: in each folder, in the order of names, first and second, and so on.

    The last picture of an odd number has no partner; a remark says so. What is given twice counts once.

    Raises: as `read_frames`, and ValueError: a folder has one picture only.
    """
    pairs: list[tuple[Frame, Frame]] = []
    folders = {folder.resolve() for folder in map(Path, sources) if folder.is_dir()}
    loose = [
        source
        for source in unseen([source for source in map(Path, sources) if not source.is_dir()], set())
        if folders.isdisjoint(source.resolve().parents)
    ]
    groups = [read_frames([source], adjacent=True) for source in loose if source.suffix.lower() in VIDEOS]
    if singles := [source for source in loose if source.suffix.lower() not in VIDEOS]:
        groups.append(read_frames(singles[: 2 * MOST], 2 * MOST))
    seen: set[Path] = set()
    for source in (source for source in map(Path, sources) if source.is_dir()):
        inside = [source, *(path for path in below(source) if path.is_dir())]
        found = [[f for f in sorted(folder.iterdir()) if f.suffix.lower() in PICTURES] for folder in inside]
        if not any(found):
            raise ValueError(f"{source} holds no pictures ({', '.join(sorted(PICTURES))})")
        new = [[read_picture(file) for file in unseen(files[: 2 * MOST], seen)] for files in found]
        groups += [group for group in new if group]
    for group in groups:
        if len(group) == 1:
            raise ValueError(f"{group[0].name} is one picture only of its scene; a still scene needs two or more")
        pairs += list(zip(group[::2], group[1::2]))
    if odd := [group[-1].name for group in groups if len(group) % 2]:
        remarks.append(
            f"{len(odd)} of {len(groups)} bursts have an odd number of pictures: the last of each has no partner and "
            f"is left out, such as {odd[0]}"
        )
    return evenly(pairs, MOST)


def read_picture(file: Path) -> Frame:
    """Read one picture.

    Raises: ValueError: it is no picture, has 16 bits, is too small, or larger than OpenCV takes.
    """
    stored = np.fromfile(file, np.uint8)
    try:
        picture = cv2.imdecode(stored, cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR) if stored.size else None
    except cv2.error as error:  # too many pixels, for instance
        raise ValueError(f"{file} cannot be read as a picture: {' '.join(str(error).split())}") from error
    if picture is None:
        raise ValueError(f"{file} cannot be read as a picture")
    quality, exif = None, {}
    with suppress(OSError, ValueError, SyntaxError, ImportError), Image.open(file) as header:
        quality = jpeg_quality(getattr(header, "quantization", None))
        exif = dict(header.getexif())
    if picture.dtype != np.uint8:
        raise ValueError(f"{file} has {8 * picture.itemsize} bits; calibrate measures finished pictures of 8 bits")
    plane = plane_of(file, picture, 0 if quality is None else CODEC_COLOUR)
    return Frame(str(file), plane, quality, f"{exif.get(MAKE, '')} {exif.get(MODEL, '')}".strip())


def plane_of(file: Path, picture: np.ndarray, slack: int) -> np.ndarray:
    """Return a picture of a camera without colours as one plane; too small a picture is refused.

    slack: Codes by which the channels of a grey pixel may differ.
    """
    if min(picture.shape[:2]) < LEAST_SIDE:
        height, width = picture.shape[:2]
        raise ValueError(f"{file} has {width} x {height} pixels; wanted {LEAST_SIDE} or more on each side")
    green = np.ascontiguousarray(picture[..., 1])
    is_grey = all(int(cv2.absdiff(green, picture[..., k]).max()) <= slack for k in (0, 2))
    return green if is_grey else picture


def read_video(file: Path, most: int, adjacent: bool) -> list[Frame]:
    """Read frames of a video, evenly spaced or from its beginning."""
    film = cv2.VideoCapture(str(file))
    try:
        count = int(film.get(cv2.CAP_PROP_FRAME_COUNT)) if film.isOpened() else 0
        wanted = set(range(most) if adjacent or count <= most else evenly(list(range(count)), most))
        frames = list(frames_of(film, file, wanted))
    finally:
        film.release()
    if not frames:
        raise ValueError(f"{file} is a video without frames that can be read")
    return frames


def frames_of(film: cv2.VideoCapture, file: Path, wanted: set[int]) -> Iterator[Frame]:
    """Yield the wanted frames of an open video."""
    for number in range(max(wanted, default=-1) + 1):
        got, picture = film.read()
        if not got:
            return
        if number in wanted:
            yield Frame(f"{file} frame {number}", plane_of(file, picture, CODEC_COLOUR), None, "")


def jpeg_quality(tables: dict[int, list[int]] | None) -> int | None:
    """Return the quality of a JPEG file after libjpeg's scale, from the sum of its table for brightness."""
    if not tables:
        return None
    percent = 100 * sum(tables[min(tables)]) / 3679  # the sum of the table in Annex K of ITU-T T.81, quality 50
    return round(min(max(100 - percent / 2 if percent <= 100 else 5000 / percent, 1), 100))


def check_one_shape(one: Frame, other: Frame, what: str) -> None:
    """Refuse two pictures of which one lies on its side.

    what: How the message ends: what they should be.
    Raises: ValueError: their sizes differ.
    """
    if one.picture.shape != other.picture.shape:
        raise ValueError(f"{one.name} and {other.name} have mixed sizes: one lies on its side; {what}")


def check_one_camera(frames: Sequence[Frame]) -> None:
    """Refuse pictures whose noise cannot be that of one camera at one size.

    Raises: ValueError: sizes, cameras, or colour and grey are mixed; JPEG has taken the noise.
    """
    for one, other in pairwise(frames):
        sizes = [frame.picture.shape[1::-1] for frame in (one, other)]
        if sorted(sizes[0]) != sorted(sizes[1]):
            said = [f"{width} x {height}" for width, height in sizes]
            raise ValueError(
                f"mixed sizes: {one.name} has {said[0]} pixels, {other.name} {said[1]}; a resized picture has other "
                "noise: give pictures of one size"
            )
        if one.picture.ndim != other.picture.ndim:
            grey, colour = sorted((one, other), key=lambda frame: frame.picture.ndim)
            raise ValueError(
                f"{grey.name} is grey and {colour.name} has colours; calibrate each mode of a camera alone"
            )
    named = [frame for frame in frames if frame.camera]
    for frame in named:
        if frame.camera != named[0].camera:
            raise ValueError(
                f"mixed cameras: {named[0].name} is of {named[0].camera}, {frame.name} of {frame.camera}; calibrate "
                "each alone"
            )
    for frame in frames:
        if frame.quality is not None and frame.quality < LEAST_QUALITY:
            raise ValueError(
                f"{frame.name} is JPEG of quality {frame.quality}: compression has eaten its noise; wanted "
                f"{LEAST_QUALITY} or more, or PNG"
            )
