"""Where frames come from: a video file, a folder of pictures in the order of their names, a camera, a URL."""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from ultralytics.data.utils import IMG_FORMATS

from yolo_wnlb.imaging.curve import Curve
from yolo_wnlb.imaging.deep import without_raw_twins
from yolo_wnlb.yolo.models import FLAGS, read_picture

FOLDER_RATE = 10.0  # frames a second that a folder is taken to have, for the times and the video that are written
LIVE_RATE = 25.0  # of a camera that does not tell
MOST_WAITING = 64  # frames of a camera that wait while the model works; older ones are dropped
PATIENCE = 10.0  # seconds that a camera may take to open, and between two frames
FILE_SCHEMES = ("http", "https", "ftp", "file")  # of a URL that may be a video of known length, which waits


class Frame(NamedTuple):
    """One frame.

    Attributes:
        number: 0, 1, ... in the order of the source; frames that were dropped, or cannot be read, count.
        seconds: From the beginning: as the rate of a file has it; by the clock where the source is live.
        picture: uint8 (H, W, C), BGR if C is 3.
    """

    number: int
    seconds: float
    picture: np.ndarray


Frames = Generator[list[Frame], None, None]


@dataclass(frozen=True)
class Source:
    """A source that was opened.

    Attributes:
        name: As the user gave it, without the password of a URL.
        live: Whether frames come by the clock and do not wait.
        rate: Frames a second.
        count: How many frames there are by what the file says; None where nobody knows.
        frames: Yields all frames that have come since the last turn, one or more, the newest last.
        unreadable: Files of a folder that cannot be read and were left out, up to the frame at hand.
    """

    name: str
    live: bool
    rate: float
    count: int | None
    frames: Frames
    unreadable: list[Path] = field(default_factory=list)


def open_source(source: str, channels: int = 3, curve: Curve | None = None) -> Source:
    """Open a source of frames.

    Args:
        source: A video file, a folder of pictures, the number of a camera (0 is the first), or a URL (rtsp://, http://).
        channels: Of the pictures that the model takes: 1 (grey) or 3.
        curve: Of pictures in a folder with more than 8 bits, as the model was trained; None is the default.
    Raises: OSError: it is not there or cannot be opened. ValueError: it holds no frames, or the model takes pictures of
        another number of channels.
    """
    if channels not in FLAGS:
        raise ValueError(f"the model takes pictures of {channels} channels; watch has pictures of 1 or 3")
    if is_url(source):
        return open_live(source, without_password(source), channels)
    path = Path(source)
    if path.is_dir():
        return open_folder(path, channels, curve)
    if source.isdecimal() and not path.exists():
        return open_live(int(source), f"camera {source}", channels)
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no {source!r}; give a video file, a folder of pictures, the number of a camera, or a URL such "
            "as rtsp://user:password@address/stream"
        )
    if path.suffix[1:].lower() in IMG_FORMATS:
        raise ValueError(f"{source} is a single picture; give the folder of the frames, or use yolo predict")
    return open_film(path, channels)


def is_url(source: str) -> bool:
    """Tell whether a source is an address, such as rtsp://10.0.0.7/stream."""
    return re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*://", source) is not None


def without_password(url: str) -> str:
    """Return a URL without user and password, which belong into no file and no message."""
    return re.sub(r"(://)[^/?#]*@", r"\1", url)


def open_folder(folder: Path, channels: int, curve: Curve | None = None) -> Source:
    """Open a folder of pictures; frame10 comes after frame9.

    RAW files beside a finished picture of the same name are no frames of their own. Its frames raise OSError where not
    a single file can be read.
    """

    def in_order(file: Path) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", file.name)]

    inside = [file for file in folder.iterdir() if file.suffix[1:].lower() in IMG_FORMATS and file.name[0] != "."]
    kept, _ = without_raw_twins(str(file) for file in inside if file.is_file())
    files = sorted(map(Path, kept), key=in_order)
    if not files:
        raise ValueError(f"{folder} holds no pictures; wanted frames such as 0001.jpg, or the name of a video file")

    def frames() -> Frames:
        for number, file in enumerate(files):
            try:
                picture = read_picture(file, channels, curve)
            except OSError as error:
                unreadable.append(file)
                if len(unreadable) == len(files):
                    raise OSError(f"none of the frames in {folder} can be read: {error}") from error
                continue
            yield [Frame(number, number / FOLDER_RATE, picture)]

    unreadable: list[Path] = []
    checked = of_one_size(frames(), [str(file) for file in files])
    return Source(str(folder), False, FOLDER_RATE, len(files), checked, unreadable)


def of_one_size(frames: Frames, names: list[str]) -> Frames:
    """Pass frames on, and refuse one that has another size than the first.

    Raises: ValueError: two sizes are mixed.
    """
    first: np.ndarray | None = None
    name_of_first = names[0]
    with closing(frames):
        for batch in frames:
            for frame in batch:
                name = names[frame.number] if frame.number < len(names) else f"frame {frame.number}"
                if first is None:
                    first, name_of_first = frame.picture, name
                if frame.picture.shape != first.shape:
                    sizes = [f"{picture.shape[1]} x {picture.shape[0]}" for picture in (first, frame.picture)]
                    raise ValueError(
                        f"mixed sizes: {name_of_first} has {sizes[0]} pixels, {name} {sizes[1]}; frames of one "
                        "camera have one size"
                    )
            yield batch


def open_film(path: Path, channels: int) -> Source:
    """Open a video file."""
    film = cv2.VideoCapture(str(path))
    first: Any = film.read()[1] if film.isOpened() else None
    if first is None:
        film.release()
        raise ValueError(f"{path} cannot be read as a video: it is damaged, of an unknown kind, or has no frames")
    return source_of_film(film, first, str(path), channels)


def source_of_film(film: cv2.VideoCapture, first: np.ndarray, name: str, channels: int) -> Source:
    """Return a video that was opened, and whose first frame was read, as a source whose frames wait."""
    rate, count = rate_of(film), count_of(film)

    def frames() -> Frames:
        number, picture = 0, first
        try:
            while picture is not None:
                yield [Frame(number, number / rate, with_channels(picture, channels))]
                number, picture = number + 1, film.read()[1]
        finally:
            film.release()

    return Source(name, False, rate, count, of_one_size(frames(), [f"the start of {name}"]))


def rate_of(film: cv2.VideoCapture) -> float:
    """Return the frames a second of a video or camera, LIVE_RATE where it does not tell."""
    rate = float(film.get(cv2.CAP_PROP_FPS))
    return rate if 0 < rate < 1000 else LIVE_RATE


def count_of(film: cv2.VideoCapture) -> int | None:
    """Return how many frames a video has by what it says, None where it has no known end."""
    count = int(film.get(cv2.CAP_PROP_FRAME_COUNT))
    return count if count > 0 else None


def open_live(address: int | str, name: str, channels: int) -> Source:
    """Open a camera or a URL; its frames are read in a thread, since they do not wait until the model is ready.

    A URL by http and the like that says how many frames it has is a video file, and is read as one.

    Raises: OSError: it cannot be opened.
    """
    waits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, int(1e3 * PATIENCE), cv2.CAP_PROP_READ_TIMEOUT_MSEC, int(1e3 * PATIENCE)]
    film = cv2.VideoCapture(address) if isinstance(address, int) else cv2.VideoCapture(address, cv2.CAP_FFMPEG, waits)
    first: Any = film.read()[1] if film.isOpened() else None
    if first is None:
        film.release()
        question = "is it plugged in, and free?" if isinstance(address, int) else "is the address right, and it on?"
        raise OSError(f"{name} cannot be opened, or sends no frames; {question}")
    if isinstance(address, str) and address.partition(":")[0].lower() in FILE_SCHEMES and count_of(film):
        return source_of_film(film, first, name, channels)

    def frames() -> Frames:
        with closing(Reader(film, first)) as reader:
            while batch := reader.take():
                yield [frame._replace(picture=with_channels(frame.picture, channels)) for frame in batch]

    return Source(name, True, rate_of(film), None, of_one_size(frames(), [f"the start of {name}"]))


class Reader:
    """Reads frames of an open camera in a thread, and keeps the newest ones until they are taken."""

    def __init__(self, film: cv2.VideoCapture, first: np.ndarray):
        self.film, self.began = film, time.monotonic()
        self.waiting: deque[Frame] = deque([Frame(0, 0.0, first)], MOST_WAITING)
        self.arrival, self.ended = threading.Condition(), False
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self) -> None:
        """Read until the camera ends or `close` is called."""
        number = 0
        while not self.ended:
            got, picture = self.film.read()
            number += 1
            with self.arrival:
                if got:
                    self.waiting.append(Frame(number, time.monotonic() - self.began, picture))
                else:
                    self.ended = True
                self.arrival.notify()

    def take(self) -> list[Frame]:
        """Wait for a frame, and return all that wait; none when the camera has ended."""
        with self.arrival:
            self.arrival.wait_for(lambda: self.waiting or self.ended)
            batch = list(self.waiting)
            self.waiting.clear()
        return batch

    def close(self) -> None:
        """End the thread, and release the camera."""
        self.ended = True
        self.thread.join(PATIENCE)
        if not self.thread.is_alive():
            self.film.release()


def with_channels(picture: np.ndarray, channels: int) -> np.ndarray:
    """Return a BGR frame as the model takes it: as it is, or grey (H, W, 1)."""
    return picture if channels == 3 else cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)[..., None]
