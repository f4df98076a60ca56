"""Darken a data set on disk, in YOLO or COCO layout or both: `yolo-wnlb darken`.

    sources.DataSet -> pictures --darken_one, in any order, by many processes--> a line each in a journal
    all lines there -> annotation files, lists, data.yaml, manifest

What comes out depends on the data set, the settings and the seed alone: a shot is drawn from the
seed and the picture's path in the data set, and every file is moved to its place whole. So workers,
shards on several machines, kills and second attempts all end in the same bytes.

A line counts while the files it speaks of have the sizes it says. Pictures that have none, and those
that failed, are what the next run has to do.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np

from yolo_wnlb.data import journal
from yolo_wnlb.data.journal import (
    FAILURES,
    FILES,
    MANIFEST,
    STATE,
    Line,
    digest,
    header_of,
    locked,
    read_lines,
    size_of,
)
from yolo_wnlb.data.sources import DataSet, Picture, read_json, read_sources
from yolo_wnlb.imaging.camera import CAMERA_VERSION, DEFAULT, PRESETS, Settings, Shot, capture, picture_rng, settings

T = TypeVar("T")

KNOWN = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".txt", ".json"}  # nobody else's, to `verify`
# Noise does not repeat, so zlib need not search for it; but neighbours are alike. In OpenCV 5 this takes a third of
# the time of plain level 1 and makes files 11 % smaller. Before OpenCV 4.12 the filter cannot be chosen.
FILTER = [getattr(cv2, name) for name in ("IMWRITE_PNG_FILTER", "IMWRITE_PNG_FILTER_AVG") if hasattr(cv2, name)]
ENCODINGS = {
    "png": [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY, *FILTER],
    "jpg": [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444],
}


@dataclass
class Report:
    """What a run, a dry run or `verify` found; print it, or read `ok` for the verdict.

    Attributes:
        title: What was done.
        images: Dark images in the folder; of a dry run: pictures in the sources.
        darkened: Pictures that this run took on.
        seconds: Time that took.
        failures: What failed or differs, a line each.
        notes: What the reader has to know.
        advice: What to do next.
    """

    title: str
    images: int = 0
    darkened: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True when nothing failed."""
        return not self.failures

    def __str__(self) -> str:
        """Return the title, the notes, the first ten failures and the advice."""
        lines = [self.title, *(f"note: {note}" for note in self.notes)]
        lines += [f"FAILED {failure}" for failure in self.failures[:10]]
        lines += [f"FAILED {len(self.failures) - 10} more"] if len(self.failures) > 10 else []
        return "\n".join([*lines, *self.advice])


@dataclass(frozen=True)
class Job:
    """What the pictures of a run have in common: folders, and how to darken. `header` says it in files."""

    root: Path
    out: Path
    scratch: Path
    camera: Settings
    seed: int
    format: str
    channels: int
    header: Line

    def write(self, name: str, content: bytes) -> None:
        """Write a file of the output."""
        journal.write(self.out / name, content, self.scratch)


def darken_dataset(
    source: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    preset: Any = DEFAULT,
    seed: int = 0,
    format: str = "png",
    workers: int | None = None,
    shard: str | None = None,
    limit: int | None = None,
    images: str | Path | None = None,
    dry_run: bool = False,
    **changes: Any,
) -> Report:
    """Write the dark twin of a data set: its layout, its labels, dark pictures.

    Run it again after whatever stopped it: it goes on where it was. Pictures that cannot be darkened
    are reported, and left out together with their labels and annotations.

    Args:
        source: A data YAML as Ultralytics takes it (path or bare name), a COCO annotation file, a
            folder that holds either or both, or several of these.
        out: Folder to make, neither in the source nor around it.
        preset: As `lowlight.settings` takes it.
        seed: Each shot follows from it and the path of the picture in the data set.
        format: "png" (exact) or "jpg" (quality 95, colours at full resolution).
        workers: Number of processes. Default: the processors that this one may use.
        shard: "2/5": every fifth picture, before, beside or after the others, into the same folder
            or one that is copied together with theirs. The last one, or a run without `shard` after
            them, completes the data set.
        limit: Take the first so many pictures of each split.
        images: Folder of the pictures of COCO files, where it is not beside them.
        dry_run: Write nothing; count, and estimate time and size from a few pictures.
        **changes: Attributes of `lowlight.Settings`: ev=-3, gamma=(2, 3).
    Returns: What was done; `ok` is False if pictures failed.
    Raises: ValueError, OSError: with the remedy; what was done stays done.
    """
    camera = settings(preset, **changes)
    for name, value, least in (("seed", seed, 0), ("workers", workers, 1), ("limit", limit, 1)):
        if (value is not None or name == "seed") and (type(value) is not int or value < least):
            raise ValueError(f"{name} is {value!r}; wanted a whole number, {least} or more")
    if format not in ENCODINGS:
        raise ValueError(f"format is {format!r}; choose from {', '.join(ENCODINGS)}")
    part, parts = read_shard(shard)
    workers = workers or processors()
    home = Path(out).resolve()
    data = read_sources(source, images, download=not dry_run)
    refuse(home, data)
    pictures = data.pictures(f".{format}", limit)

    listing = "\n".join([*(picture.key for picture in pictures), *map(data.name, [*data.annotations, *data.lists])])
    header = {
        "camera": CAMERA_VERSION,
        "opencv": ".".join(cv2.__version__.split(".")[:2]),  # other releases write the same pixels in other bytes
        "seed": seed,
        "format": format,
        "limit": limit,
        "channels": data.channels,
        "preset": next((name for name in PRESETS if settings(name) == camera), None),
        "source": f"{len(pictures)} pictures, {digest(listing.encode(errors='surrogateescape'))['blake2b'][:12]}",
        "settings": portable(camera),
    }
    if isinstance(camera.crf, str) and camera.crf.startswith("dorf:"):
        header["responses"] = digest(Path(camera.crf[5:].partition("#")[0]).read_bytes())["blake2b"]
    scratch = home / STATE / (f"{part}-of-{parts}" if shard else "all")
    job = Job(data.root, home, scratch, camera, seed, format, data.channels, json.loads(json.dumps(header)))
    if dry_run:
        return estimate(job, data, pictures, limit, workers)
    if is_complete(job, data, pictures):
        return Report(
            f"{out} is complete, nothing to do: {len(pictures)} dark images (--verify compares them with the manifest)",
            len(pictures),
            notes=data.notes,
        )

    begun = time.monotonic()
    mine = pictures[part - 1 :: parts]
    lines, tried = darken_share(job, pictures, mine, workers, part if shard else None)
    try:
        with locked(home):
            lines = {**known_lines(job, [picture for picture in pictures if picture.key not in lines]), **lines}
            if complete := len(lines) == len(pictures):
                finish(job, data, pictures, lines)
    except BlockingIOError:
        if not shard:
            raise
        complete = False  # another shard is at work, and will come by here
    if complete:
        shutil.rmtree(home / STATE, ignore_errors=True)

    seconds = time.monotonic() - begun
    found = [lines[picture.key] for picture in (pictures if complete else mine)]
    failures = [f"{line['source']}: {line['error']}" for line in found if "error" in line]
    report = Report("", len(found) - len(failures), tried, seconds, failures, data.notes)
    speed = f"{tried} in this run: {seconds:.1f} s, {tried / seconds:.1f} images/s"
    if not complete:
        report.title = f"shard {shard} of {out} is done: {len(mine)} of {len(pictures)} pictures ({speed})"
        report.advice.append("after all shards, the same command without shard= completes the data set")
        return report
    report.title = f"{report.images} dark images in {out} ({speed})"
    if failures:
        report.advice.append(
            f"{len(failures)} pictures, listed in {Path(out) / FAILURES}, are left out together with their labels: "
            "mend them in the source and run the same command again, or go on without them"
        )
    if data.definition is not None:
        yaml = Path(out) / "data.yaml"
        report.advice.append(f"to train on it: data={yaml}")
    return report


def verify(out: str | Path) -> Report:
    """Compare every file of a dark data set with its manifest.

    Returns: What is missing, changed, left over, or named but not there; `ok` if nothing.
    Raises: ValueError: there is no manifest of ours.
    """
    home = Path(out).resolve()
    lines = read_lines(home / MANIFEST)
    if not lines:
        begun = ": the run is not finished, repeat its command" if (home / STATE).is_dir() else ""
        raise ValueError(f"{out} holds no {MANIFEST} that 'yolo-wnlb darken' wrote{begun}")
    wanted: dict[str, str] = {}
    for line in lines:
        hashes = ((kind, f"{mark}blake2b") for kind, mark in FILES.items())
        wanted |= {line[kind]: line[blake2b] for kind, blake2b in hashes if kind in line and blake2b in line}

    def differs(name: str) -> str | None:
        try:
            same = digest((home / name).read_bytes())["blake2b"] == wanted[name]
        except OSError:
            return f"{name}: is missing"
        return None if same else f"{name}: was changed"

    with ThreadPoolExecutor(processors()) as pool:
        failures = [found for found in progress(pool.map(differs, wanted), len(wanted), "files") if found]
    present = {file.relative_to(home) for file in home.rglob("*") if file.suffix.lower() in KNOWN and file.is_file()}
    strange = {file.as_posix() for file in present if file.parts[0] != STATE} - {*wanted, FAILURES}
    failures += [f"{name}: is not in the manifest" for name in sorted(strange)]
    for line in lines:
        if missing := [file for file in pictures_in(home, line) if not file.exists()]:
            failures.append(f"{line['file']}: names {len(missing)} pictures that are not there (first: {missing[0]})")
    if (home / STATE).exists():
        failures.append("a run is not finished; repeat its command")

    report = Report(f"{out}: {len(wanted)} files compared with {MANIFEST}", failures=failures)
    report.images = sum("shot" in line for line in lines)
    if failed := sum("error" in line for line in lines):
        report.notes.append(f"{failed} pictures of the source were left out, see {FAILURES}")
    if failures:
        report.advice.append("delete what was changed or is no part of it, and repeat the 'yolo-wnlb darken' command")
    else:
        report.title += ": all as written"
    return report


# ---- at the door ---------------------------------------------------------------------------------


def read_shard(shard: str | None) -> tuple[int, int]:
    """Read "2/5"; None is all of it, "1/1"."""
    part, _, parts = ("1/1" if shard is None else str(shard)).partition("/")
    if part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts):
        return int(part), int(parts)
    raise ValueError(f"shard is {shard!r}; wanted its number and how many there are: 1/3, 2/3, 3/3")


def refuse(out: Path, data: DataSet) -> None:
    """Raise ValueError or FileExistsError where `out` must not be written to, or the source not be darkened."""
    if data.dark:
        raise ValueError(f"{data.yaml} was darkened before: it says 'lowlight:'; give the bright data set")
    if header_of(data.root / MANIFEST):
        raise ValueError(f"{data.root} was darkened before: it holds our {MANIFEST}; give the bright data set")
    refuse_place(out, data, journal.is_begun(out))
    documents = [data.name(file) for file in (*data.annotations, *data.lists)]
    if twice := [name for name in documents if documents.count(name) > 1]:
        raise ValueError(f"two files would both become {twice[0]}; rename one of them")
    if "images" in out.parts and any("/images/" not in f"/{data.key(path)}" for path in data.labels):
        raise ValueError(
            f"{out} lies in a folder 'images', hence Ultralytics would look for its labels in one named 'labels'; "
            "choose another out="
        )


def refuse_place(out: Path, data: DataSet, begun: bool) -> None:
    """Raise ValueError or FileExistsError where `out` is the user's own; `begun` says that its content is ours."""
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file; choose a folder that is new or empty")
    for folder in data.guarded:
        if out.is_relative_to(folder) or any(path.is_relative_to(out) for path in (folder, *data.annotations)):
            raise ValueError(f"{out} and the source, {folder}, lie in each other; choose a folder beside the source")
    if out.exists() and any(out.iterdir()) and not begun:
        raise FileExistsError(f"{out} holds something else; choose a folder that is new or empty")


def estimate(job: Job, data: DataSet, pictures: list[Picture], limit: int | None, workers: int) -> Report:
    """Darken a few pictures in memory and say what a run would take."""
    total = len(pictures)
    sample = [pictures[i] for i in sorted({round(i * (total - 1) / 7) for i in range(8)})]
    failures, sizes, begun = [], [], time.perf_counter()
    with one_thread():
        for picture in sample:
            try:
                sizes.append(sum(map(len, develop(job, picture)[0].values())))
            except (ValueError, cv2.error) as error:
                failures.append(f"{picture.key}: {error}")
    seconds = (time.perf_counter() - begun) * total / len(sample) / workers
    volume = next(folder for folder in (job.out, *job.out.parents) if folder.exists())
    needed, free = sum(sizes) * total / max(1, len(sizes)) / 1e9, shutil.disk_usage(volume).free / 1e9
    named = f"preset {job.header['preset']}: " if job.header["preset"] else ""
    told = [f"dry run, nothing is written to {job.out}", f"  {named}{job.camera}, seed {job.seed}"]
    told += [f"  {Path(name).name}: {len(paths)} pictures" for name, paths in data.chosen(limit).items()]
    told += [f"  {total} images as {job.format}: about {needed:.2g} GB, {free:.0f} GB are free"]
    spent = f"{timedelta(seconds=round(seconds))} (hours:minutes:seconds)"
    told += [f"  about {spent} with workers={workers}, judged by {len(sample)} pictures"]
    return Report("\n".join(told), total, failures=failures, notes=data.notes)


# ---- all pictures --------------------------------------------------------------------------------


def known_lines(job: Job, pictures: list[Picture]) -> dict[str, Line]:
    """Return the line of each picture that has one: done, its files as the line says, or else failed."""
    known = {picture.key: picture for picture in pictures}
    lines: dict[str, Line] = {}
    for line in journal.recorded(job.out, job.header) if pictures else ():
        if picture := known.get(line["source"]):
            if "shot" in line and is_done(job, picture, line):
                lines[picture.key] = line
            elif "error" in line:
                lines.setdefault(picture.key, line)
    return lines


def is_done(job: Job, picture: Picture, line: Line) -> bool:
    """Tell whether a picture is as its line says: its files by their sizes, its label by its content.

    A picture that was replaced by another one of just as many bytes is not noticed.
    """
    sizes = [(job.root / picture.key, "source_bytes"), (job.out / picture.image, "bytes")]
    if line.get("label") != (picture.label[1] if picture.label else None):
        return False
    if picture.label:
        sizes.append((job.out / picture.label[1], "label_bytes"))
        with suppress(OSError):
            if digest(Path(picture.label[0]).read_bytes())["blake2b"] != line["label_blake2b"]:
                return False
    return all(size_of(file) == line[key] for file, key in sizes)


def is_complete(job: Job, data: DataSet, pictures: list[Picture]) -> bool:
    """Tell whether all is done: no run under way, no picture failed, no file gone, annotations as in the source."""
    if (job.out / STATE).exists():
        return False
    lines = known_lines(job, pictures)
    if sum("shot" in line for line in lines.values()) < len(pictures):
        return False
    there = [line for line in read_lines(job.out / MANIFEST) if "file" in line]
    wanted = documents(job, data, set(lines))
    return all((job.out / line["file"]).exists() for line in there) and [line for _, line in wanted] == there


def darken_share(
    job: Job, pictures: list[Picture], mine: list[Picture], workers: int, part: int | None
) -> tuple[dict[str, Line], int]:
    """Darken those of `mine` that have to be. Returns: The lines there are of all pictures; how many are new."""
    try:
        job.scratch.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise journal.cannot_write(job.scratch, error) from error
    with locked(job.out, part):
        for draft in job.scratch.glob("*.tmp"):  # of a run that was killed
            draft.unlink(missing_ok=True)
        lines = known_lines(job, pictures)
        todo = [picture for picture in mine if "shot" not in lines.get(picture.key, ())]
        found = progress(darken_all(job, todo, workers), len(todo))
        with journal.appending(job.scratch, job.header) as append, closing(found):
            for line in found:
                append(line)
                lines[line["source"]] = line
    return lines, len(todo)


def darken_all(job: Job, pictures: list[Picture], workers: int) -> Iterator[Line]:
    """Darken pictures in `workers` processes; yield their lines as they come.

    Raises: ChildProcessError: a process died. OSError: the output cannot be written.
    """
    work, workers = functools.partial(darken_one, job), min(workers, len(pictures))
    if workers <= 1:
        with one_thread():
            yield from map(work, pictures)
        return
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), start_worker)
    waiting: set[Future[Line]] = set()
    try:
        for picture in pictures:
            waiting.add(pool.submit(work, picture))
            if len(waiting) == 4 * workers:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        yield from (future.result() for future in as_completed(waiting))
    except BrokenProcessPool as error:
        raise ChildProcessError(
            "a worker process died; was memory short? Nothing is lost: run the same command again, with fewer workers= "
            "(and in a script of your own below \"if __name__ == '__main__':\")"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def start_worker() -> None:
    """Set up a worker: one thread, deaf to Ctrl-C, gone with its parent however that ended."""
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def follow() -> None:
        if parent := multiprocessing.parent_process():
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep OpenCV in this process to one thread for a while."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def processors() -> int:
    """Count the processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def progress(items: Iterable[T], total: int, unit: str = "images") -> Generator[T, None, None]:
    """Pass items on and say how far it is: in one line of a terminal, elsewhere every half minute."""
    terminal = sys.stderr.isatty()
    begun = said = time.monotonic()
    for count, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - said >= (0.2 if terminal else 30) or (terminal and count == total):
            said, rate = now, count / max(now - begun, 1e-3)
            left = timedelta(seconds=round((total - count) / rate))
            text = f"{count}/{total} {unit}, {rate:.1f} {unit}/s, {left} left"
            end = "\n" if count == total or not terminal else ""
            print(f"\r{text:<60}" if terminal else text, end=end, file=sys.stderr, flush=True)


# ---- one picture ---------------------------------------------------------------------------------


def darken_one(job: Job, picture: Picture) -> Line:
    """Darken one picture and return its line, which says too what is wrong with the picture.

    Raises: OSError: its files cannot be written.
    """
    try:
        files, line = develop(job, picture)
    except (ValueError, cv2.error) as error:
        return {"image": picture.image, "source": picture.key, "error": str(error)}
    for name, content in files.items():
        job.write(name, content)
    return line


def develop(job: Job, picture: Picture) -> tuple[dict[str, bytes], Line]:
    """Read, darken and encode one picture.

    Returns: The files to write, the image last; and the line that says what they are.
    Raises: ValueError: the picture or its label file is of no use.
    """
    stored = read(job.root / picture.key, "the picture")
    if stored[:2] == b"\xff\xd8" and is_cut_off(stored):
        raise ValueError("the picture is cut off, a JPEG without an end")  # OpenCV 4 fills it up with grey
    mode = cv2.IMREAD_ANYDEPTH | (cv2.IMREAD_GRAYSCALE if job.channels == 1 else cv2.IMREAD_COLOR)
    bright: Any = cv2.imdecode(np.frombuffer(stored, np.uint8), mode) if stored else None  # upright, as its EXIF says
    if bright is None:
        raise ValueError("the picture cannot be decoded")
    if bright.dtype.kind == "f":
        raise ValueError("the picture has floating-point values; store it with 8 or 16 bits")
    height, width = bright.shape[:2]
    for size in sorted(picture.sizes - {(width, height)}):
        raise ValueError(f"the picture has {width} x {height} pixels, its annotations say {size[0]} x {size[1]}")
    shot = job.camera.draw(picture_rng(job.seed, picture.key))
    dark = capture(bright, shot)
    if job.format == "jpg" and dark.dtype != np.uint8:
        raise ValueError("the picture has 16 bits and JPEG has 8; use format=png")
    content = cv2.imencode(f".{job.format}", dark, ENCODINGS[job.format])[1].tobytes()

    files, line = {picture.image: content}, {"image": picture.image, **digest(content)}
    line |= {"width": width, "height": height, "source": picture.key, **digest(stored, "source_")}
    if picture.label:
        label = read(Path(picture.label[0]), "its label file")
        files = {picture.label[1]: label, **files}
        line |= {"label": picture.label[1], **digest(label, "label_")}
    return files, {**line, "shot": portable(shot)}


def is_cut_off(jpeg: bytes) -> bool:
    """Tell whether a JPEG's picture (its preview aside) has no end; what a phone appends does not matter."""
    at = 2
    while at + 4 <= len(jpeg) and jpeg[at] == 0xFF and jpeg[at + 1] != 0xDA:  # segments, up to the start of the scan
        at += 1 if jpeg[at + 1] == 0xFF else 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
    return jpeg.find(b"\xff\xd9", at) < 0


def read(file: Path, what: str) -> bytes:
    """Read a file of the source."""
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{what} is missing") from None
    except OSError as error:
        raise ValueError(f"{what} cannot be read: {error.strerror}") from None


def portable(drawn: Settings | Shot) -> Line:
    """Return the attributes, with the name alone of a file of responses: its folder differs between machines."""
    values = asdict(drawn)
    if isinstance(values["crf"], str) and values["crf"].startswith("dorf:"):
        file, sign, curve = values["crf"][5:].partition("#")
        values["crf"] = f"dorf:{Path(file).name}{sign}{curve}"
    return values


# ---- when all is done ----------------------------------------------------------------------------


def documents(job: Job, data: DataSet, kept: set[str]) -> Iterator[tuple[bytes, Line]]:
    """Make the files that speak of the pictures in `kept`, and the line of each."""
    names = ("preset", "seed", "format", "camera", "settings")
    how = {"lowlight": {name: job.header[name] for name in names if job.header[name] is not None}}
    for name, content, more in data.documents(kept, f".{job.format}", how):
        yield content, {"file": name, **digest(content), **more}


def finish(job: Job, data: DataSet, pictures: list[Picture], lines: dict[str, Line]) -> None:
    """Write what speaks of the pictures, then the manifest, which says that the data set is complete."""
    kept = {key for key, line in lines.items() if "error" not in line}
    said = []
    for content, line in documents(job, data, kept):
        job.write(line["file"], content)
        said.append(line)
    failed = [picture for picture in pictures if picture.key not in kept]
    for picture in failed:  # its files may be there from before it failed
        for name in (picture.image, *(picture.label or ())[1:]):
            (job.out / name).unlink(missing_ok=True)
    (job.out / FAILURES).unlink(missing_ok=True)
    if failed:
        told = "".join(f"{picture.key}: {lines[picture.key]['error']}\n" for picture in failed)
        job.write(FAILURES, told.encode(errors="surrogateescape"))
    manifest = [job.header, *said, *(lines[picture.key] for picture in pictures)]
    job.write(MANIFEST, "".join(f"{json.dumps(line)}\n" for line in manifest).encode())


def pictures_in(home: Path, line: Line) -> list[Path]:
    """Return the pictures that a document of the output names."""
    file = home / line.get("file", "")
    with suppress(OSError, ValueError, KeyError, TypeError):  # then `verify` knows already that it was changed
        if file.suffix == ".json":
            return [home / line["images"] / image["file_name"] for image in read_json(file)["images"]]
        if file.suffix == ".txt":
            return [file.parent / name for name in file.read_text(encoding="utf-8").splitlines()]
    return []
