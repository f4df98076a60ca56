"""Darken a data set on disk, in YOLO or COCO layout or both: `yolo-wnlb darken`.

What comes out depends on the data set, the settings and the seed alone: a shot is drawn from the seed and the
picture's path in the data set. How it comes to disk, and stays true to its source, is in `twin`.
"""

from __future__ import annotations

import json
import shlex
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import cv2

from yolo_wnlb.data.journal import ENHANCED, FAILURES, FILES, MANIFEST, STATE, Line, digest, header_of, read_lines
from yolo_wnlb.data.sources import DATA_YAML, DataSet, Picture, printable, read_sources
from yolo_wnlb.imaging.camera import CAMERA_VERSION, DEFAULT, PRESETS, Settings, Shot, settings, without_unused
from yolo_wnlb.imaging.capture import capture
from yolo_wnlb.imaging.chance import picture_rng
from yolo_wnlb.imaging.curve import Curve, as_settings, read_curve
from yolo_wnlb.reading import read_json, read_text
from yolo_wnlb.twins.pictures import ENCODINGS, SUFFIXES, decode, encode
from yolo_wnlb.twins.twin import (
    Plan,
    Report,
    Twin,
    bring_up_to_date,
    foreign_files,
    in_threads,
    progress,
    read_inputs,
    refuse_place,
)
from yolo_wnlb.twins.workers import processors
from yolo_wnlb.words import counted, suggestion


@dataclass(frozen=True)
class Exposure:
    """How all pictures of a run are darkened; calling it darkens one.

    Attributes:
        camera: What shots are drawn from.
        seed: Of all shots.
        format: "png", "png16" or "jpg".
        channels: 3, or 1 for grey.
        curve: Of pictures with more than 8 bits.
    """

    camera: Settings
    seed: int
    format: str
    channels: int
    curve: Curve

    def __call__(self, stored: bytes, picture: Picture) -> tuple[bytes, Line]:
        """Decode, darken and encode a picture.

        Args:
            stored: Content of its file.
            picture: What it is.
        Returns: Content of the new file; its size in pixels, the shot, and of a picture with more than 8 bits the codes
            that became black and white.
        Raises: ValueError: the picture is of no use.
        """
        colours = cv2.IMREAD_GRAYSCALE if self.channels == 1 else cv2.IMREAD_COLOR
        bits = 16 if self.format == "png16" else 8
        bright, ends = decode(stored, colours, curve=self.curve, bits=bits, name=picture.key)
        height, width = bright.shape[:2]
        picture.refuse_other_size(width, height)
        shot = self.camera.draw(picture_rng(self.seed, picture.key))
        line = {"width": width, "height": height, "shot": portable(shot), **({"curve": ends} if ends else {})}
        return encode(capture(bright, shot), self.format), line


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
    curve: Any = "auto",
    **changes: Any,
) -> Report:
    """Write the dark twin of a data set: its layout, its labels, dark pictures.

    Run it again after whatever stopped it, and after the source has changed: it makes what is missing or has
    changed, and removes what the source no longer has. Pictures that cannot be darkened are reported, and left
    out together with their labels and annotations. While another run writes into `out`, it waits.

    Args:
        source: A data YAML as Ultralytics takes it (path or bare name), a COCO annotation file, a
            folder that holds either or both, or several of these.
        out: Folder to make, neither in the source nor around it.
        preset: As `yolo_wnlb.imaging.camera.settings` takes it: a name, or settings.
        seed: Each shot follows from it and the path of the picture in the data set.
        format: "png" (exact), "jpg" (quality 95, colours at full resolution), or "png16": the picture is darkened and
            stored with 16 bits, so that what is dark keeps its codes.
        workers: Number of processes. Default: the processors that this one may use.
        shard: "2/5": every fifth picture, before, beside or after the others, into the same folder
            or one that is copied together with theirs. The last one, or a run without `shard` after
            them, completes the data set.
        limit: Take the first so many pictures of each split.
        images: Folder of the pictures of COCO files, where it is not beside them.
        dry_run: Write nothing; count, and estimate time and size from a few pictures.
        curve: How source pictures with more than 8 bits are read, as `yolo_wnlb.imaging.curve.read_curve` takes it.
        **changes: Attributes of `yolo_wnlb.Settings`: ev=-3, gamma=(2, 3).
    Returns: What was done; `ok` is False if pictures failed.
    Raises: ValueError, OSError: with the remedy; what was done stays done.
    """
    camera = settings(preset, **changes)
    for name, value, least in (("seed", seed, 0), ("workers", workers, 1), ("limit", limit, 1)):
        if (value is not None or name == "seed") and (type(value) is not int or value < least):
            raise ValueError(f"{name} is {value!r}; wanted a whole number, {least} or more")
    if format not in ENCODINGS:
        raise ValueError(f"format is {format!r}{suggestion(format, ENCODINGS)}; choose from {', '.join(ENCODINGS)}")
    if format == "png16" and camera.jpeg_quality:
        raise ValueError("format=png16 keeps 16 bits, and the JPEG step of the camera has 8; leave out jpeg_quality")
    tone = read_curve(curve)
    part = read_shard(shard)
    workers = workers or processors()
    home = Path(out).resolve()
    data = read_sources(source, images, download=not dry_run)
    refuse(home, data)
    pictures = data.pictures(SUFFIXES[format], limit)

    listing = "\n".join([*(picture.key for picture in pictures), *data.document_names])
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
        "curve": as_settings(tone),
    }
    if isinstance(camera.crf, str) and camera.crf.startswith("dorf:"):
        header["responses"] = digest(Path(camera.crf[5:].partition("#")[0]).read_bytes())["blake2b"]
    header = json.loads(json.dumps(header))
    names = ("preset", "seed", "format", "camera", "settings")
    how = {"lowlight": {name: header[name] for name in names if header[name] is not None}}
    plan = Plan(Twin(data.root, home, MANIFEST, header, how, SUFFIXES[format]), data, pictures)
    exposure = Exposure(camera, seed, format, data.channels, tone)
    if dry_run:
        return estimate(plan, exposure, limit, workers)

    run = bring_up_to_date(lambda: plan, exposure, workers=workers, shard=part)
    mine = pictures if run.complete or part is None else pictures[part[0] - 1 :: part[1]]
    found = [run.lines[picture.key] for picture in mine]
    failures = [f"{printable(line['source'])}: {line['error']}" for line in found if "error" in line]
    notes = [*data.notes, *run.notes]
    report = Report("", len(found) - len(failures), run.tried, run.seconds, failures, notes)
    if not run.complete:
        report.title = f"shard {shard} of {out} is done: {len(mine)} of {len(pictures)} pictures ({run.speed})"
        report.advice.append("after all shards, the same command without shard= completes the data set")
        return report
    if run.untouched:
        there = counted(len(pictures), "image")
        report.title = f"{out} is complete, nothing to do: {there} (--verify compares them with the manifest)"
        return report
    report.title = f"{counted(report.images, 'image')} in {out} ({run.speed})"
    if failures:
        report.advice.append(
            f"{len(failures)} pictures, listed in {Path(out) / FAILURES}, are left out together with their labels: "
            "mend them in the source and run the same command again, or go on without them"
        )
    if data.definition is not None:
        report.advice.append(f"to train on it: {shlex.quote(f'data={Path(out) / DATA_YAML}')}")
    return report


def verify(out: str | Path) -> Report:
    """Compare every file of a dark data set with its manifest.

    Returns: What is missing, changed, left over, or named but not there; `ok` if nothing.
    Raises: ValueError: there is no manifest of ours.
    """
    home = Path(out).resolve()
    lines = read_lines(home / MANIFEST) or read_lines(home / ENHANCED)
    if not lines:
        begun = ": the run is not finished, repeat its command" if (home / STATE).is_dir() else ""
        raise ValueError(f"{out} holds no {MANIFEST} that 'yolo-wnlb darken' wrote{begun}")
    hashes = [(kind, f"{prefix}blake2b") for kind, prefix in FILES.items()]
    written = [line for line in lines if "error" not in line]
    wanted = {line[kind]: line[key] for line in written for kind, key in hashes if kind in line and key in line}

    def differs(name: str) -> str | None:
        try:
            same = digest((home / name).read_bytes())["blake2b"] == wanted[name]
        except OSError:
            return f"{printable(name)}: is missing"
        return None if same else f"{printable(name)}: was changed"

    failures = [found for found in progress(in_threads(differs, wanted), len(wanted), "files") if found]
    failures += [f"{printable(name)}: is not in the manifest" for name in foreign_files(home, {*wanted})]
    for line in lines:
        if missing := [file for file in pictures_in(home, line) if not file.exists()]:
            failures.append(f"{line['file']}: names {len(missing)} pictures that are not there (first: {missing[0]})")
    if (home / STATE).exists():
        failures.append("a run is not finished; repeat its command")

    report = Report(f"{out}: {len(wanted)} files compared with the manifest", failures=failures)
    report.images = sum("image" in line for line in written)
    if failed := len(lines) - len(written):
        report.notes.append(f"{failed} pictures of the source were left out, see {FAILURES}")
    if failures:
        report.advice.append("delete what was changed or is no part of it, and repeat the command that wrote it")
    else:
        report.title += ": all as written"
    return report


# ---- at the door ---------------------------------------------------------------------------------


def read_shard(shard: str | None) -> tuple[int, int] | None:
    """Read "2/5"; None is all of it."""
    if shard is None:
        return None
    part, _, parts = str(shard).partition("/")
    if part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts):
        return int(part), int(parts)
    raise ValueError(f"shard is {shard!r}; wanted its number and how many there are: 1/3, 2/3, 3/3")


def refuse(out: Path, data: DataSet) -> None:
    """Raise ValueError or FileExistsError where `out` must not be written to, or the source not be darkened."""
    if data.dark:
        raise ValueError(f"{data.yaml} was darkened before: it says 'lowlight:'; give the bright data set")
    if header_of(data.root / MANIFEST):
        raise ValueError(f"{data.root} was darkened before: it holds our {MANIFEST}; give the bright data set")
    refuse_place(out, data, MANIFEST)
    if "images" in out.parts and any("/images/" not in f"/{data.key(path)}" for path in data.labels):
        raise ValueError(
            f"{out} lies in a folder 'images', hence Ultralytics would look for its labels in one named 'labels'; "
            "choose another out="
        )


def estimate(plan: Plan, exposure: Exposure, limit: int | None, workers: int) -> Report:
    """Darken a few pictures in memory and say what a run would take."""
    twin, data, pictures, total = plan.twin, plan.data, plan.pictures, len(plan.pictures)
    sample = [pictures[i] for i in sorted({round(i * (total - 1) / 7) for i in range(8)})]
    failures, sizes, threads = [], [], cv2.getNumThreads()
    cv2.setNumThreads(1)  # as in a worker
    begun = time.perf_counter()
    for picture in sample:
        line, contents, wrong = read_inputs(twin.root, picture)
        try:
            if wrong:
                raise ValueError(wrong)
            sizes.append(len(exposure(contents["source_"], picture)[0]) + line.get("label_bytes", 0))
        except ValueError as error:
            failures.append(f"{picture}: {error}")
    cv2.setNumThreads(threads)
    seconds = (time.perf_counter() - begun) * total / len(sample) / workers
    volume = next(folder for folder in (twin.out, *twin.out.parents) if folder.exists())
    needed, free = sum(sizes) * total / max(1, len(sizes)) / 1e9, shutil.disk_usage(volume).free / 1e9
    preset = f"preset {twin.header['preset']}: " if twin.header["preset"] else ""
    lines = [f"dry run, nothing is written to {twin.out}", f"  {preset}{exposure.camera}, seed {exposure.seed}"]
    lines += [f"  {Path(name).name}: {len(paths)} pictures" for name, paths in data.chosen(limit).items()]
    lines += [f"  {total} images as {exposure.format}: about {needed:.2g} GB, {free:.0f} GB are free"]
    spent = f"{timedelta(seconds=round(seconds))} (hours:minutes:seconds)"
    lines += [f"  about {spent} with workers={workers}, judged by {len(sample)} pictures"]
    return Report("\n".join(lines), total, failures=failures, notes=data.notes)


# ---- helpers -------------------------------------------------------------------------------------


def portable(drawn: Settings | Shot) -> Line:
    """Return the attributes, with the name alone of a file of responses: its folder differs between machines."""
    values = without_unused(asdict(drawn))
    if isinstance(values["crf"], str) and values["crf"].startswith("dorf:"):
        file, sign, curve = values["crf"][5:].partition("#")
        values["crf"] = f"dorf:{Path(file).name}{sign}{curve}"
    return values


def pictures_in(home: Path, line: Line) -> list[Path]:
    """Return the pictures that a document of the output names."""
    file = home / line.get("file", "")
    with suppress(OSError, ValueError, KeyError, TypeError):  # then `verify` knows already that it was changed
        if file.suffix == ".json":
            return [home / line["images"] / image["file_name"] for image in read_json(file)["images"]]
        if file.suffix == ".txt" and file.name != FAILURES:
            return [file.parent / name for name in read_text(file).splitlines()]
    return []
