"""Watch a camera that stands still at night: average, detect, follow, write.

frames -> average (less noise where nothing moves) -> bright enough? -> model at the confidence for that brightness
-> tracks (no flicker) -> watch.jsonl and watch.mp4
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from ultralytics import YOLO

from yolo_wnlb.data.journal import folder_for
from yolo_wnlb.imaging.brightness import mean_luma
from yolo_wnlb.imaging.curve import Curve
from yolo_wnlb.version import __version__
from yolo_wnlb.watch.average import MOST_FRAMES, Average, StillAverage
from yolo_wnlb.watch.confidence import Confidences, fixed, of_report
from yolo_wnlb.watch.sources import Frame, Source, is_url, open_source
from yolo_wnlb.watch.tracks import Tracked, Tracks
from yolo_wnlb.words import counted
from yolo_wnlb.yolo.models import channels_of, load_checkpoint, load_export
from yolo_wnlb.yolo.sixteen_bits import curve_of

FORMAT = "yolo_wnlb watch 1"  # first line of watch.jsonl
FILES = ("watch.jsonl", "watch.mp4")
MOST_MOVES, ENOUGH = 0.5, 10  # mean share of still pixels, below which the camera seems to move; frames to tell it by
DEFAULT_CONFIDENCE = 0.25
LIVE_VIDEO_RATE = 10.0  # frames a second of the video of a camera


@dataclass
class Watched:
    """What was done.

    Attributes:
        folder: Where the results lie.
        frames: Number of frames that were read; of a live source, that came.
        detected: On how many of them detection was tried.
        too_dark: How many were too dark to try.
        dropped: How many of a live source came while the model was busy; they are in the averages, if not too old.
        objects: Number of objects that were followed.
        cuts: How many show another scene than the frame before.
        still: Mean share of the pixels that were averaged, over the frames that went into the average.
        milliseconds: Of the averaging alone, for such a frame.
        seconds: That all took.
        stopped: Whether Ctrl-C, or SIGTERM, ended it.
        lost: Whether a live source sent no more frames, before `limit` was reached or somebody stopped it.
        unreadable: How many pictures of a folder cannot be read and were left out.
        imgsz: Height and width in pixels that frames were fitted into.
        confidence: Where the confidences are from.
        remarks: What to know of it.
    """

    folder: Path
    frames: int = 0
    detected: int = 0
    too_dark: int = 0
    dropped: int = 0
    objects: int = 0
    cuts: int = 0
    still: float = 0.0
    milliseconds: float = 0.0
    seconds: float = 0.0
    stopped: bool = False
    lost: bool = False
    unreadable: int = 0
    imgsz: tuple[int, int] = (0, 0)
    confidence: str = ""
    remarks: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [
            f"{counted(self.frames, 'frame')} in {self.seconds:.1f} s: detection on {self.detected}, "
            f"{self.too_dark} too dark" + (f", {self.dropped} came while the model was busy" if self.dropped else ""),
            f"image size {'x'.join(map(str, self.imgsz))}, {self.confidence}",
            f"{counted(self.objects, 'object')} followed; {self.still:.0%} of the pixels averaged, which took "
            f"{self.milliseconds:.1f} ms a frame",
            *(f"note: {remark}" for remark in self.remarks),
        ]
        return "\n".join([*lines, f"written to {self.folder}"])


def watch(
    source: str | int | Path,
    model: str | Path,
    out: str | Path | None = None,
    *,
    frames: int = 4,
    conf: float | str | Path = DEFAULT_CONFIDENCE,
    too_dark: float | None = None,
    keep: float = 0.5,
    hold: int = 5,
    iou: float = 0.7,
    imgsz: int | None = None,
    device: str | None = None,
    limit: int | None = None,
    video: bool = True,
    exist_ok: bool = False,
) -> Watched:
    """Detect and follow objects in the frames of a camera that stands still.

    Args:
        source: A video file, a folder of frames, the number of a camera, or a URL (rtsp://...).
        model: A model for detection or segmentation, .pt or exported.
        out: Folder to make; default: runs/watch, or the next free number. watch.jsonl gets a line for each frame that
            detection saw, watch.mp4 shows what it saw with the objects drawn in.
        frames: N of the mean of N frames, 1 to 64; 1 averages nothing.
        conf: The confidence that an object needs, or the report.json of `yolo-wnlb report`, which knows one for each
            brightness.
        too_dark: Mean code of a picture, 0 to 255, below which detection is not tried. Default: what the report says,
            or 2.
        keep: Share of the confidence that an object needs once it is followed, in (0, 1].
        hold: For how many frames an object is reported that is not seen.
        iou: Of non-maximum suppression.
        imgsz: Image size of the model; default: as it was trained.
        device: As Ultralytics takes it.
        limit: Stop after so many frames.
        video: Whether watch.mp4 is written.
        exist_ok: Write over an earlier result in `out`.
    Returns: What was done. Ctrl-C ends it as the end of the source does: the files are whole, and `stopped` is True.
    Raises: ValueError, OSError, ImportError: with the remedy.
    """
    check(frames, too_dark, keep, hold, iou, limit)
    detector, channels, curve = load(Path(model))
    confidences = confidence_of(conf, Path(model), too_dark)
    tracks = Tracks(detector.names, keep, hold)
    address = str(source)
    opened = open_source(address if is_url(address) else str(Path(address).expanduser()), channels, curve)
    settings: dict[str, Any] = {
        "conf": keep * min(confidences.confidence),
        "iou": iou,
        "verbose": False,
        "retina_masks": True,
    }
    settings |= {key: value for key, value in (("imgsz", imgsz), ("device", device)) if value is not None}
    default = " (the default)" if conf == DEFAULT_CONFIDENCE else ""
    size = size_of(detector, channels, settings)
    result = Watched(Path(), imgsz=size, confidence=f"{confidences.source}{default}")
    result.remarks = confidences.remarks(size)
    with folder_for(out, "runs/watch") as folder:
        refuse_overwriting(folder, opened, exist_ok)
        result.folder = folder
        header: dict[str, Any] = {
            "format": FORMAT,
            "yolo_wnlb": __version__,
            "source": opened.name,
            "model": str(model),
        }
        header |= {"frames": frames, "confidence": confidences.source, "too_dark": confidences.too_dark}
        header |= {"keep": keep, "hold": hold, "iou": iou, "imgsz": list(size)}
        header |= {"remark": "; ".join(result.remarks)} if result.remarks else {}
        with stop_request() as stop, Output(folder, opened, header, video) as output:
            follow(opened, StillAverage(frames), confidences, detector, settings, tracks, output, result, stop, limit)
    return result


def check(frames: int, too_dark: float | None, keep: float, hold: int, iou: float, limit: int | None) -> None:
    """Refuse numbers that are out of range.

    Raises: ValueError.
    """
    if not 1 <= frames <= MOST_FRAMES:
        raise ValueError(f"frames is {frames}; wanted 1 (no averaging) to {MOST_FRAMES}")
    if too_dark is not None and not 0 <= too_dark <= 255:
        raise ValueError(f"too_dark is {too_dark}; wanted a mean code from 0 (try always) to 255")
    if not 0 < keep <= 1:
        raise ValueError(f"keep is {keep}; wanted a share of the confidence above 0, at most 1")
    if hold < 0:
        raise ValueError(f"hold is {hold}; wanted a number of frames, 0 or more")
    if not 0 <= iou <= 1:
        raise ValueError(f"iou is {iou}; wanted a number from 0 to 1")
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; wanted 1 or more frames")


def confidence_of(conf: float | str | Path, weights: Path, too_dark: float | None) -> Confidences:
    """Return the confidences that conf= stands for: a number, or the file of a report."""
    if str(conf).lower().endswith(".json"):
        return of_report(str(conf), weights, too_dark)
    try:
        return fixed(float(str(conf)), too_dark)
    except ValueError:
        raise ValueError(f"conf is {conf}; wanted a number between 0 and 1, or a report.json") from None


def load(file: Path) -> tuple[YOLO, int, Curve]:
    """Load a model, and return it with the number of channels that its pictures have and their tone curve.

    The curve is that of pictures with more than 8 bits, as the model has recorded it.

    Raises: OSError, ValueError: it is not there, unreadable, or for another task.
    """
    if file.suffix == ".pt":
        model = load_checkpoint(file)
        return model, channels_of(model), curve_of(None, model)
    backend = load_export(file)
    task = backend.metadata["task"]
    if task not in ("detect", "segment"):
        raise ValueError(f"{file} is a model for '{task}'; wanted one for detect or segment")
    return YOLO(file, task=task), channels_of(backend), curve_of(None, backend)


def size_of(detector: YOLO, channels: int, settings: dict[str, Any]) -> tuple[int, int]:
    """Return the height and width in pixels that frames are fitted into, as the model does it with a black one."""
    detector.predict(np.zeros((64, 64, channels), np.uint8), **settings)
    height, width = detector.predictor.imgsz
    return int(height), int(width)


def refuse_overwriting(folder: Path, source: Source, exist_ok: bool) -> None:
    """Refuse a folder that holds an earlier result, or remove that.

    Raises: ValueError: it does, and may not be written over, or is the video that is watched.
    """
    if found := [name for name in FILES if (folder / name).exists()]:
        if not source.live and Path(source.name).resolve() in [(folder / name).resolve() for name in found]:
            raise ValueError(f"{source.name} would be written over while it is read; choose another out=")
        if not exist_ok:
            raise ValueError(f"{folder} holds {found[0]}; choose another out=, or overwrite it with exist_ok=True")
        for name in found:
            (folder / name).unlink()


@contextmanager
def stop_request() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether Ctrl-C was pressed or SIGTERM came; the second one interrupts at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, _: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    for number in before:
        signal.signal(number, ask)
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def follow(
    source: Source,
    average: StillAverage,
    confidences: Confidences,
    detector: YOLO,
    settings: dict[str, Any],
    tracks: Tracks,
    output: Output,
    result: Watched,
    stop: Callable[[], bool],
    limit: int | None,
) -> None:
    """Go through the frames until the source ends, `limit` is reached or `stop` says so; fills `result`."""
    began, averaging, still, averaged, seen = time.monotonic(), 0.0, 0.0, 0, set[int]()
    came, last = 0, 0.0  # frames up to the newest one, dropped and unreadable ones with them, and its time
    reached = False
    try:
        for batch in source.frames:
            if limit is not None:
                batch = [frame for frame in batch if frame.number < limit] or batch[:1]
            for frame in batch:
                start = time.perf_counter()
                mean = average.add(frame.picture)
                averaging += time.perf_counter() - start
                still += mean.still
                result.cuts += average.most > 1 and averaged > 0 and mean.frames == 1
                averaged += 1
            frame = batch[-1]
            if source.live:
                result.dropped += frame.number - came
            came, last = frame.number + 1, frame.seconds
            result.frames = came - len(source.unreadable)
            brightness = mean_luma(mean.picture)
            if brightness < confidences.too_dark:
                result.too_dark += 1
                output.write(frame, mean, brightness, None, None, [])
            else:
                confidence = confidences.at(brightness)
                found = detector.predict(mean.picture, **settings)[0].cpu().numpy()
                found = found[found.boxes.conf >= tracks.keep * confidence]
                objects = tracks.update(found.boxes, confidence)
                seen.update(one.track for one in objects)
                result.detected += 1
                output.write(frame, mean, brightness, confidence, found, objects)
            result.stopped = stop()
            reached = limit is not None and result.frames >= limit
            if result.stopped or reached:
                break
    finally:
        source.frames.close()
    result.seconds, result.objects = time.monotonic() - began, len(seen)
    result.still, result.milliseconds = still / max(averaged, 1), 1e3 * averaging / max(averaged, 1)
    result.stopped = result.stopped or (not reached and stop())  # while no frame came
    result.unreadable = len(source.unreadable)
    result.lost = source.live and not result.stopped and not reached
    moves = average.most > 1 and averaged >= ENOUGH and result.still < MOST_MOVES
    result.remarks += tuple(remarks(source, result, last, reached, moves))


def remarks(source: Source, result: Watched, last: float, reached: bool, moves: bool) -> Iterator[str]:
    """Say what is amiss with a source: it went away, it breaks off, files of it cannot be read, the camera moves.

    Args:
        source: After its last frame.
        result: What was done.
        last: Time of the last frame, in seconds.
        reached: Whether `limit` ended it.
        moves: Whether most pixels were shown as they were.
    """
    read = result.frames + result.unreadable
    if result.lost:
        yield f"{source.name} sent no more frames after {last:.1f} s"
    elif source.count and not result.stopped and not reached and read < source.count:
        yield f"{source.name} breaks off after {read} of {source.count} frames"
    if source.unreadable:
        first = source.unreadable[0].name
        yield f"frames of {source.name} that cannot be read were left out: {result.unreadable}, the first is {first}"
    if moves and 2 * result.cuts > result.frames:
        yield (
            f"{result.cuts} of {result.frames} frames show another scene than the frame before, as snapshots and time "
            "lapses do, and a camera that moves fast: they were not averaged; give frames=1"
        )
    elif moves:
        yield (
            f"{1 - result.still:.0%} of the pixels could not be averaged: the camera seems to move, or scenes are cut, "
            "and little noise is taken away; give a camera that stands still"
        )


class Output:
    """The files that are written: a line and a picture for each frame that detection saw.

    Args:
        folder: Where they lie.
        source: Whose frames they are.
        header: First line of watch.jsonl.
        video: Whether watch.mp4 is written.
    """

    def __init__(self, folder: Path, source: Source, header: dict[str, Any], video: bool):
        self.lines = (folder / FILES[0]).open("w", encoding="utf-8")
        self.film: cv2.VideoWriter | None = None
        self.file = folder / FILES[1] if video else None
        self.live, self.rate, self.pictures = source.live, LIVE_VIDEO_RATE if source.live else source.rate, 0
        self.say(header)

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *_: object) -> None:
        self.lines.close()
        if self.film is not None:
            self.film.release()  # writes the index, without which nobody can play it

    def say(self, record: dict[str, Any]) -> None:
        """Write one line, so that who reads along sees it."""
        self.lines.write(json.dumps(record) + "\n")
        self.lines.flush()

    def write(
        self,
        frame: Frame,
        mean: Average,
        brightness: float,
        confidence: float | None,
        found: Any,
        objects: list[Tracked],
    ) -> None:
        """Write what was found in a frame; confidence is None where it was too dark to try."""
        record: dict[str, Any] = {"frame": frame.number, "seconds": round(frame.seconds, 3)}
        record |= {"brightness": round(brightness, 2), "averaged": mean.frames, "still": round(mean.still, 4)}
        record |= {"too_dark": True} if confidence is None else {"confidence": round(confidence, 4)}
        self.say(record | {"objects": [plain(one, found) for one in objects]})
        if self.file is not None:
            self.show(frame, drawn(mean.picture, found, objects, "" if confidence is not None else "too dark to try"))

    def show(self, frame: Frame, picture: np.ndarray) -> None:
        """Add a picture to the video; of a live source as often as its time has it."""
        if self.film is None:
            height, width = picture.shape[:2]
            self.film = cv2.VideoWriter(str(self.file), cv2.VideoWriter.fourcc(*"mp4v"), self.rate, (width, height))
            if not self.film.isOpened():
                raise OSError(f"{self.file} cannot be written as a video; give video=False")
        times = max(round(frame.seconds * self.rate) + 1 - self.pictures, 0) if self.live else 1
        for _ in range(times):
            self.film.write(picture)
        self.pictures += times


def plain(one: Tracked, found: Any) -> dict[str, Any]:
    """Return an object as it stands in watch.jsonl."""
    record: dict[str, Any] = {"track": one.track, "class": one.name, "score": round(one.score, 4)}
    record |= {"box": [round(value, 1) for value in one.box], "seen": one.detection is not None}
    if one.detection is not None and found.masks is not None:
        record["polygon"] = np.round(found.masks.xy[one.detection], 1).tolist()
    return record


def drawn(picture: np.ndarray, found: Any, objects: list[Tracked], text: str) -> np.ndarray:
    """Return the picture with the objects drawn in: those seen as Ultralytics draws them, the others as thin boxes."""
    picture = cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR) if picture.shape[2] == 1 else picture.copy()
    if seen := [one for one in objects if one.detection is not None]:
        shown = found[[one.detection for one in seen]]
        rows = [[*one.box, one.track, one.score, kind] for one, kind in zip(seen, shown.boxes.cls)]
        shown.update(boxes=np.array(rows, np.float32))
        picture = shown.plot(img=picture)
    for one in objects:
        if one.detection is None:
            x1, y1, x2, y2 = (round(value) for value in one.box)
            cv2.rectangle(picture, (x1, y1), (x2, y2), (160, 160, 160), 1)
    if text:
        cv2.putText(picture, text, (8, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 1, cv2.LINE_AA)
    return picture
