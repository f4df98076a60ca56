"""How the twin of a data set, a second version of it, comes to disk and stays true to its source.

    sources.DataSet -> pictures --make_one, in any order, by many processes--> a line each in a journal
    all lines there -> annotation files, lists, data.yaml, manifest

What comes out depends on the data set and the settings alone, and every file is moved to its place whole. So
workers, shards on several machines, kills, second attempts, and changes of the source all end in the same bytes as
a single run into an empty folder.

A line counts as long as the picture and its label file in the source have the content that it names, and its files
are in the twin: the label with this content, the new picture with the size that was recorded (only `verify` reads all
of it). Pictures without such a line, and those that failed, are what the next run has to do. Files of earlier runs
that are no longer wanted are removed; files that no run of ours wrote are never touched.
"""

from __future__ import annotations

import functools
import glob
import os
import shutil
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import cv2

from yolo_wnlb.data import journal
from yolo_wnlb.data.journal import ALL, FAILURES, STATE, Line, digest, inside, size_of, written_names
from yolo_wnlb.data.sources import DataSet, Picture, label_of, printable
from yolo_wnlb.twins.workers import in_processes, processors

T = TypeVar("T")
R = TypeVar("R")
Develop = Callable[[bytes, Picture], tuple[bytes, Line]]  # a stored picture -> the new one, stored, and what to record

KNOWN = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".txt", ".json"}  # kinds of files in a data set
INPUTS = ("image", "source", "source_blake2b", "label", "label_blake2b")  # of a line: what it was made from
FREE = ("source", "splits")  # of a header: what may change from run to run, since every run follows the source


@dataclass
class Report:
    """What a run, a dry run or `verify` found; print it, or read `ok` for the verdict.

    Attributes:
        title: What was done.
        images: Images in the folder; of a dry run: pictures in the sources.
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
class Twin:
    """Where a twin comes from, where it goes, and what it is made by.

    Attributes:
        root: Folder that the keys of the pictures start from.
        out: Folder of the twin, absolute and without links.
        manifest: Name of the file that says that the twin is complete.
        header: First line of the manifest: what was asked for.
        provenance: What data.yaml says of that.
        suffix: Of the new pictures.
    """

    root: Path
    out: Path
    manifest: str
    header: Line
    provenance: dict[str, Any]
    suffix: str


@dataclass(frozen=True)
class Plan:
    """What a run is to make: a twin, of these pictures of a data set."""

    twin: Twin
    data: DataSet
    pictures: list[Picture]


@dataclass
class Outcome:
    """What a run has done.

    Attributes:
        plan: What it was to do.
        lines: The line of each picture that the run knows of, by key.
        tried: How many of them are new.
        complete: All pictures have a line, and the manifest is written.
        untouched: There was nothing to do.
        seconds: Time that took.
        notes: What the reader has to know.
    """

    plan: Plan
    lines: dict[str, Line]
    tried: int = 0
    complete: bool = True
    untouched: bool = False
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    @property
    def speed(self) -> str:
        """Say how long the run took."""
        return f"{self.tried} in this run: {self.seconds:.1f} s, {self.tried / max(self.seconds, 1e-3):.1f} images/s"


def bring_up_to_date(
    make_plan: Callable[[], Plan],
    develop: Develop,
    *,
    workers: int = 1,
    shard: tuple[int, int] | None = None,
    strict: bool = False,
) -> Outcome:
    """Make what is missing in a twin, and remove what its source no longer has.

    Args:
        make_plan: Says what to make. It is asked again once the run has the folder to itself.
        develop: Makes one picture; raises ValueError if the picture is of no use.
        workers: Number of processes; more than one if `develop` can be pickled.
        shard: Which part of how many to make: (2, 5). The last one completes the twin. Default: all.
        strict: Stop at the first picture that fails, instead of leaving it out.
    Raises: ValueError, OSError: with the remedy; what was done stays done.
    """
    plan = make_plan()
    refuse_other_pictures(plan)
    if lines := complete_lines(plan):
        return Outcome(plan, lines, untouched=True, notes=foreign_notes(plan, lines))
    begun = time.monotonic()
    part, parts = shard or (1, 1)
    name = f"{part}-of-{parts}" if shard else ALL
    with journal.locked(plan.twin.out, name if shard else None):
        plan = make_plan()
        refuse_other_pictures(plan)  # which another run may have begun with meanwhile
        removed = remove_old_files(plan)
        lines, tried = make_share(plan, plan.pictures[part - 1 :: parts], develop, workers, name, strict)
        if not shard:
            finish(plan, lines)
    complete = not shard
    if shard:
        with journal.locked_by_the_last(plan.twin.out) as is_last:
            if is_last and (every := all_lines(plan.twin, plan.pictures)):
                lines, complete = every, True
                removed += remove_old_files(plan)
                finish(plan, lines)
    notes = [f"removed, since the source no longer has what they came from: {removed} file(s)"] if removed else []
    notes += foreign_notes(plan, lines) if complete else []
    return Outcome(plan, lines, tried, complete, seconds=time.monotonic() - begun, notes=notes)


# ---- at the door ---------------------------------------------------------------------------------


def refuse_place(out: Path, data: DataSet, manifest: str) -> None:
    """Raise ValueError or FileExistsError where `out` is the user's own."""
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file; choose a folder that is new or empty")
    for folder in data.guarded:
        if out.is_relative_to(folder) or any(path.is_relative_to(out) for path in (folder, *data.annotations)):
            raise ValueError(f"{out} and the source, {folder}, lie in each other; choose a folder beside the source")
    holds = out.exists() and any(path.name != STATE for path in out.iterdir())  # look first: a run may just begin
    if holds and not journal.records(out, manifest):
        raise FileExistsError(f"{out} holds something else; choose a folder that is new or empty")


def refuse_other_pictures(plan: Plan) -> None:
    """Raise ValueError where the twin was begun with other settings, or from a wholly different source."""
    recorded = {key for key, lines in recorded_lines(plan.twin).items() if any("error" not in line for line in lines)}
    if recorded and recorded.isdisjoint(picture.key for picture in plan.pictures):
        raise ValueError(
            f"{plan.twin.out} was made from other pictures, such as {printable(min(recorded))}; the source has none "
            "of them; choose another out=, or delete this one"
        )


def recorded_lines(twin: Twin) -> dict[str, list[Line]]:
    """Return what the manifest and all journals say of each picture, by key; lines without a failure come first.

    Raises: ValueError: one of them was begun with other settings.
    """
    found: dict[str, list[Line]] = {}
    for header, *lines in journal.records(twin.out, twin.manifest):
        refuse_other_settings(twin, header)
        for line in lines:
            if "source" in line and "image" in line:
                found.setdefault(line["source"], []).append(line)
    return {key: sorted(lines, key=lambda line: "error" in line) for key, lines in found.items()}


def refuse_other_settings(twin: Twin, header: Line) -> None:
    """Raise ValueError where a journal or manifest was begun with settings that are not those of the twin."""
    then, now = ({**lines.get("settings", {}), **lines, "settings": None} for lines in (header, twin.header))
    differ = [key for key in now if key not in FREE and then.get(key) != now[key]]
    if then.get("preset") and now.get("preset"):  # the two names say it all
        differ = [key for key in differ if key not in twin.header["settings"]]
    if differ:
        changes = ", ".join(f"{key} {then.get(key)} (now {now[key]})" for key in differ)
        raise ValueError(f"{twin.out} was begun with {changes}; give the same as then, or choose another out=")


# ---- what is there -------------------------------------------------------------------------------


def known_lines(twin: Twin, pictures: Sequence[Picture]) -> dict[str, Line]:
    """Return the line of each picture that has one that still holds, by key."""
    recorded = recorded_lines(twin)
    hold = functools.partial(line_that_holds, twin)
    pairs = [(picture, recorded[picture.key]) for picture in pictures if picture.key in recorded]
    found = in_threads(lambda pair: hold(*pair), pairs)
    return {line["source"]: line for line in progress(found, len(pairs), "pictures compared") if line}


def all_lines(twin: Twin, pictures: Sequence[Picture]) -> dict[str, Line]:
    """Return the lines of all pictures, by key, or nothing if one of them has none that still holds."""
    if not recorded_lines(twin).keys() >= {picture.key for picture in pictures}:  # then there is no need to compare
        return {}
    lines = known_lines(twin, pictures)
    return lines if len(lines) == len(pictures) else {}


def line_that_holds(twin: Twin, picture: Picture, lines: list[Line]) -> Line | None:
    """Return the line whose picture and label file are as they are now, and whose files are there."""
    now, contents, _ = read_inputs(twin.root, picture)
    for line in lines:
        if any(line.get(key) != now.get(key) for key in INPUTS):
            continue
        if "error" in line:
            return line
        if size_of(twin.out / picture.image) == line.get("bytes") and (
            not picture.label or has_content(twin.out / picture.label[1], contents["label_"])
        ):
            return line
    return None


def complete_lines(plan: Plan) -> dict[str, Line]:
    """Return the lines of all pictures if the twin is what a run would make, without a failure; else nothing."""
    twin = plan.twin
    if (twin.out / STATE).exists() or not journal.header_of(twin.out / twin.manifest):
        return {}
    lines = all_lines(twin, plan.pictures)
    if not lines or any("error" in line for line in lines.values()):
        return {}
    described = []
    for content, line in documents(plan, lines):
        if not has_content(twin.out / line["file"], content):
            return {}
        described.append(line)
    return lines if has_content(twin.out / twin.manifest, manifest_of(plan, described, lines)) else {}


def has_content(file: Path, content: bytes) -> bool:
    """Tell whether a file is there and has this content."""
    try:
        return size_of(file) == len(content) and file.read_bytes() == content
    except OSError:
        return False


def foreign_files(out: Path, names: set[str]) -> list[str]:
    """List the files in a twin, of the kinds that a data set has, that are none of `names`."""
    present = set()
    for folder, below, files in os.walk(out):  # it passes over a folder that another process has just removed
        if Path(folder) == out:
            below[:] = [name for name in below if name != STATE]
        found = (Path(folder, name) for name in files)
        present |= {
            file.relative_to(out).as_posix() for file in found if file.suffix.lower() in KNOWN and file.is_file()
        }
    return sorted(present - names)


def foreign_notes(plan: Plan, lines: dict[str, Line]) -> list[str]:
    """Return a note on the files in a twin that are none of its own, if there are any."""
    foreign = foreign_files(plan.twin.out, written_names(lines.values()) | {*plan.data.document_names, FAILURES})
    if not foreign:
        return []
    return [f"not written by this command, and left alone: {len(foreign)} file(s) (first: {printable(foreign[0])})"]


# ---- all pictures --------------------------------------------------------------------------------


def remove_old_files(plan: Plan) -> int:
    """Remove what earlier runs wrote and no run would write now; return how many files that were.

    Raises: OSError: a file of somebody else stands where one is to be written, or a link leads out of the folder.
    """
    twin, documents = plan.twin, {*plan.data.document_names, FAILURES, plan.twin.manifest}
    wanted = documents.union(*(picture.targets for picture in plan.pictures))
    present = {name for name in wanted if os.path.lexists(twin.out / name)}  # look first: other shards are at work
    before = written_names(line for lines in journal.records(twin.out, twin.manifest) for line in lines)
    for folder in {str(PurePosixPath(name).parent) for name in wanted | before}:
        inside(twin.out, f"{folder}/name")
    ours = before | ({twin.manifest} if journal.header_of(twin.out / twin.manifest) else set())
    if foreign := sorted(present - ours):
        raise FileExistsError(
            f"{twin.out / foreign[0]} was not written by this command, which would overwrite it "
            f"({len(foreign)} files in all); move it away"
        )
    old = sorted(before - wanted)
    images = [name for name in old if name.endswith(twin.suffix)]
    for image in images:
        remove_arrays(twin, image)
    remove_label_caches(twin, images)
    return sum(journal.remove(twin.out, name) for name in old)


def make_share(
    plan: Plan, mine: list[Picture], develop: Develop, workers: int, part: str, strict: bool
) -> tuple[dict[str, Line], int]:
    """Make those of `mine` that have to be made. Returns: Their lines, by key; how many are new."""
    twin = plan.twin
    journal.remove_drafts(twin.out, part)
    lines = known_lines(twin, mine)
    todo = [picture for picture in mine if "error" in lines.get(picture.key, {"error": "not made yet"})]
    planned = [*(name for picture in todo for name in picture.targets), *plan.data.document_names, FAILURES]
    found = in_processes(functools.partial(make_one, twin, develop, part), todo, workers)
    try:
        with journal.appending(twin.out, part, twin.header, planned) as append, closing(found):
            for line in progress(found, len(todo)):
                if strict and "error" in line:
                    raise ValueError(f"{printable(line['source'])}: {line['error']}")
                append(line)
                lines[line["source"]] = line
    finally:
        journal.remove_drafts(twin.out, part)  # of workers that were stopped
    return lines, len(todo)


def make_one(twin: Twin, develop: Develop, part: str, picture: Picture) -> Line:
    """Make one picture and return its line, which says too what is wrong with the picture.

    Raises: OSError: its files cannot be written.
    """
    line, contents, wrong = read_inputs(twin.root, picture)
    if wrong:
        return {**line, "error": wrong}
    try:
        content, more = develop(contents["source_"], picture)
    except (ValueError, MemoryError, cv2.error) as error:
        reason = " ".join(str(error).split()) or "memory is too short for it"
        what = "" if isinstance(error, ValueError) else "the picture cannot be computed: "
        return {**line, "error": f"{what}{reason}"}
    if picture.label:
        journal.write(twin.out, picture.label[1], contents["label_"], part)
    remove_arrays(twin, picture.image)
    journal.write(twin.out, picture.image, content, part)
    return {**line, **digest(content), **more}


def read_inputs(root: Path, picture: Picture) -> tuple[Line, dict[str, bytes], str]:
    """Read a picture and its label file.

    Returns: A line that says what they are; their contents; what is wrong, "" if nothing.
    """
    line, contents, wrong = {"image": picture.image, "source": picture.key}, dict[str, bytes](), ""
    files = [("source_", root / picture.key, "the picture")]
    if picture.label:
        line["label"] = picture.label[1]
        files.append(("label_", Path(picture.label[0]), "its label file"))
    for prefix, file, what in files:
        try:
            contents[prefix] = file.read_bytes()
            line |= digest(contents[prefix], prefix)
        except FileNotFoundError:
            wrong = wrong or f"{what} is missing"
        except OSError as error:
            wrong = wrong or f"{what} cannot be read: {error.strerror}"
    return line, contents, wrong


def remove_arrays(twin: Twin, image: str) -> None:
    """Remove the decoded copies of a picture (`cache=disk`), which Ultralytics would read in the place of a new one."""
    file = PurePosixPath(image)
    of_curves = (twin.out / file.parent).glob(f"{glob.escape(file.stem)}.curve-*.npy")  # of more than 8 bits
    for name in (f"{file.stem}.npy", *(found.name for found in of_curves)):
        journal.remove(twin.out, str(file.with_name(name)))


# ---- when everything is done ---------------------------------------------------------------------


def documents(plan: Plan, lines: dict[str, Line]) -> Iterator[tuple[bytes, Line]]:
    """Make the files that speak of the pictures which did not fail, and the line of each."""
    failed = [picture for picture in plan.pictures if "error" in lines[picture.key]]
    kept = {picture.key for picture in plan.pictures} - {picture.key for picture in failed}
    for name, content, more in plan.data.documents(kept, plan.twin.suffix, plan.twin.provenance):
        yield content, {"file": name, **digest(content), **more}
    if failed:
        content = "".join(f"{picture}: {lines[picture.key]['error']}\n" for picture in failed).encode()
        yield content, {"file": FAILURES, **digest(content)}


def manifest_of(plan: Plan, described: list[Line], lines: dict[str, Line]) -> bytes:
    """Make the manifest: the header, the line of each document, the line of each picture."""
    return journal.as_lines([plan.twin.header, *described, *(lines[picture.key] for picture in plan.pictures)])


def finish(plan: Plan, lines: dict[str, Line]) -> None:
    """Write what speaks of the pictures, then the manifest, which says that the twin is complete."""
    twin, described = plan.twin, []
    failed = [picture for picture in plan.pictures if "error" in lines[picture.key]]
    for name in [name for picture in failed for name in picture.targets]:  # they may be there from before it failed
        journal.remove(twin.out, name)
    if not failed:
        journal.remove(twin.out, FAILURES)
    for content, line in documents(plan, lines):
        if not has_content(twin.out / line["file"], content):
            journal.write(twin.out, line["file"], content)
        described.append(line)
    manifest = manifest_of(plan, described, lines)
    if not has_content(twin.out / twin.manifest, manifest):
        journal.write(twin.out, twin.manifest, manifest)
    remove_label_caches(twin, [picture.image for picture in plan.pictures])
    for part in (twin.out / STATE).iterdir():
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)


def remove_label_caches(twin: Twin, images: Iterable[str]) -> None:
    """Remove the files in which Ultralytics keeps the labels that it has read."""
    for folder in {PurePosixPath(label_of(image)).parent for image in images}:
        if folder.name:  # else it lies outside
            journal.remove(twin.out, str(folder.with_suffix(".cache")))


# ---- helpers -------------------------------------------------------------------------------------


def in_threads(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield `function(item)` of each item, in order; after Ctrl-C nothing more is begun."""
    pool = ThreadPoolExecutor(processors())
    try:
        yield from pool.map(function, items)
    finally:
        pool.shutdown(cancel_futures=True)


def progress(items: Iterable[T], total: int, unit: str = "images") -> Generator[T, None, None]:
    """Pass items on and say how far it is: in one line of a terminal, elsewhere every half minute."""
    terminal = sys.stderr.isatty()
    begun = shown = time.monotonic()
    for count, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - shown >= (0.2 if terminal else 30) or (terminal and count == total):
            shown, rate = now, count / max(now - begun, 1e-3)
            left = timedelta(seconds=round((total - count) / rate))
            text = f"{count}/{total} {unit}, {rate:.1f} {unit}/s, {left} left"
            end = "\n" if count == total or not terminal else ""
            print(f"\r{text:<60}" if terminal else text, end=end, file=sys.stderr, flush=True)
