"""What is done in a folder that `builder` fills: journals, the manifest, the lock, whole files only.

All are lines of JSON, a header first, then a line a picture. The header says what was asked for, and
has to be the same whenever work goes on. While it does, the folder holds

    .darken/lock                      held by the runs that write
    .darken/2-of-3/journal.jsonl      of each shard ("all" without shards), and its half-written file

and when all is done manifest.jsonl instead: the same lines in order, in no way dependent on how the
work was split or how often it was interrupted.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

Line = dict[str, Any]

MANIFEST, FAILURES, STATE, JOURNAL = "manifest.jsonl", "failures.txt", ".darken", "journal.jsonl"
FILES = {"image": "", "label": "label_", "file": ""}  # keys that name a file of the output: mark of its size and hash


def header_of(file: Path) -> Line:
    """Read the header alone of a journal or manifest; empty if it is torn, not there or not ours."""
    with suppress(OSError, ValueError), file.open("rb") as stream:
        line = stream.readline()
        header = json.loads(line) if line.endswith(b"\n") else None
        if isinstance(header, dict) and {"camera", "seed", "settings"} <= header.keys():
            return header
    return {}


def read_lines(file: Path) -> list[Line]:
    """Read the whole lines of a journal or manifest, the header first; none if it is not there or not ours."""
    lines = []
    with suppress(OSError):
        for line in file.read_bytes().split(b"\n")[:-1] if header_of(file) else ():  # a kill tears off the last one
            with suppress(ValueError):
                lines.append(json.loads(line))
    return lines


def is_begun(out: Path) -> bool:
    """Tell whether a folder was begun or completed by us."""
    return (out / STATE).is_dir() or bool(header_of(out / MANIFEST))


def recorded(out: Path, header: Line) -> Iterator[Line]:
    """Yield what the manifest and all journals say of pictures.

    Raises: ValueError: a header differs.
    """
    for file in [out / MANIFEST, *sorted((out / STATE).glob(f"*/{JOURNAL}"))]:
        if not (lines := read_lines(file)):
            continue
        there, here = ({**line["settings"], **line, "settings": None} for line in (lines[0], header))
        differ = [key for key in here if there.get(key) != here[key]]
        if there.get("preset") and here["preset"]:  # two names say it all
            differ = [key for key in differ if key not in header["settings"]]
        if other := [f"{key} {there.get(key)} (now {here[key]})" for key in differ]:
            raise ValueError(
                f"{out} was begun with another {', '.join(other)}; give the same as then, or choose another out="
            )
        yield from (line for line in lines if "source" in line and "image" in line)


@contextmanager
def appending(folder: Path, header: Line) -> Iterator[Callable[[Line], None]]:
    """Open the journal in a folder behind its last whole line; yield what appends one."""
    file = folder / JOURNAL
    whole = file.read_bytes().rpartition(b"\n") if header_of(file) else (b"", b"", b"")
    with file.open("ab", buffering=0) as stream:
        stream.truncate(len(whole[0] + whole[1]))

        def append(line: Line) -> None:
            content = json.dumps(line).encode() + b"\n"
            try:
                if stream.write(content) != len(content):
                    raise OSError(0, "there is no room left")
            except OSError as error:
                raise cannot_write(file, error) from error

        if not whole[0]:
            append(header)
        yield append


@contextmanager
def locked(out: Path, part: int | None = None) -> Iterator[None]:
    """Keep other runs off one shard, or off all of a folder. The lock ends with the process, however it ends.

    A shard holds its own byte of the lock file, any other run holds all bytes.
    Raises: BlockingIOError: another run holds it.
    """
    with (out / STATE / "lock").open("a+b") as file:
        start, length = (part, 1) if part else (0, 2**30)
        try:
            if sys.platform == "win32":
                import msvcrt

                file.seek(start)
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, length)
            else:
                import fcntl

                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
        except (BlockingIOError, PermissionError) as error:
            raise BlockingIOError(
                f"another run is writing into {out}; wait until it ends, or choose another out= (of one data set, "
                "different shards can run at once)"
            ) from error
        yield


def write(target: Path, content: bytes, scratch: Path) -> None:
    """Write a file, all of it or nothing; `scratch` is a folder of the same disk, for one shard alone."""
    draft = scratch / f"{os.getpid()}-{threading.get_ident()}.tmp"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(content)
        draft.replace(target)
    except OSError as error:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise cannot_write(target, error) from error


def write_json(target: Path, content: Any) -> None:
    """Write a JSON file, all of it or nothing."""
    write(target, f"{json.dumps(content, indent=1)}\n".encode(), target.parent)


def cannot_write(target: Path, error: OSError) -> OSError:
    """Make the error that stops a run."""
    return OSError(
        f"{target} cannot be written: {error.strerror}. Nothing is lost: make room, or get the right to write there, "
        "and run the same command again"
    )


def digest(content: bytes, mark: str = "") -> Line:
    """Return size and hash of a file's content."""
    return {f"{mark}bytes": len(content), f"{mark}blake2b": hashlib.blake2b(content, digest_size=16).hexdigest()}


def size_of(file: Path) -> int:
    """Return the size of a file, -1 if there is none."""
    try:
        return file.stat().st_size
    except OSError:
        return -1
