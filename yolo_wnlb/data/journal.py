"""How a command writes a folder: one run at a time, whole files only, nothing outside, and a journal to go on from.

While a run is at work, its folder holds

    .darken/lock                      held by a run that has the folder to itself
    .darken/2-of-3/lock               held by a run that writes one shard
    .darken/2-of-3/journal.jsonl      what that shard has done ("all" without shards)
    .darken/2-of-3/PROCESS.tmp        the file that a process is writing; removed by the next run if it was killed

A journal holds lines of JSON: a header that says what was asked for, the names of the files that are about
to be written, then a line for each picture. When everything is done, a manifest takes its place: the header
and the lines in order, which do not depend on how the work was split or how often it was interrupted.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeVar

T = TypeVar("T")
Line = dict[str, Any]

MANIFEST, ENHANCED, FAILURES = "manifest.jsonl", "enhanced.jsonl", "failures.txt"
STATE, ALL, JOURNAL, LOCK = ".darken", "all", "journal.jsonl", "lock"
RESERVED = (MANIFEST, ENHANCED, FAILURES, STATE)  # names in a folder that are not for the data set
FILES = {"image": "", "label": "label_", "file": ""}  # keys that name a file of the output: prefix of its size and hash
PLANNED = "planned"  # key of the line with the names of files that are about to be written
HEADERS = ({"camera", "seed", "settings"}, {"enhancer", "sha256"})  # keys of a dark and of an enhanced data set


# ---- journals and manifests ----------------------------------------------------------------------


def header_of(file: Path) -> Line:
    """Read only the header of a journal or manifest; empty if it is incomplete, not there or not ours."""
    with suppress(OSError, ValueError), file.open("rb") as stream:
        line = stream.readline()
        header = json.loads(line) if line.endswith(b"\n") else None
        if isinstance(header, dict) and any(keys <= header.keys() for keys in HEADERS):
            return header
    return {}


def read_lines(file: Path) -> list[Line]:
    """Read the complete lines of a journal or manifest, the header first; none if it is not there or not ours."""
    lines = []
    with suppress(OSError):
        for line in file.read_bytes().split(b"\n")[:-1] if header_of(file) else ():  # a kill cuts the last line off
            with suppress(ValueError):
                lines.append(json.loads(line))
    return [line for line in lines if isinstance(line, dict) and has_names(line)]


def has_names(line: Line) -> bool:
    """Tell whether what a line has in the place of names of files can be such names; damaged lines have others."""
    planned = line.get(PLANNED, [])
    if not isinstance(planned, list):
        return False
    names = [*planned, *(line[key] for key in (*FILES, "source") if key in line)]
    return all(isinstance(name, str) and "\0" not in name for name in names)


def records(out: Path, manifest: str) -> list[list[Line]]:
    """Read all journals of a folder and its manifest, those that are ours.

    In this order: a run that ends just now has written the manifest before it removes the journals.
    """
    files = [*sorted((out / STATE).glob(f"*/{JOURNAL}")), out / manifest]
    return [lines for lines in map(read_lines, files) if lines]


def written_names(lines: Iterable[Line]) -> set[str]:
    """Return the names of the files that were written, or were about to be, according to the lines of a record."""
    names: set[str] = set()
    for line in lines:
        names.update(line[key] for key in FILES if key in line)
        names.update(line.get(PLANNED, ()))
    return names


@contextmanager
def appending(out: Path, part: str, header: Line, planned: list[str]) -> Iterator[Callable[[Line], None]]:
    """Go on with the journal of a part behind its last complete line.

    Args:
        out: The folder.
        part: Name of the part.
        header: What is asked for.
        planned: Names of the files that are about to be written.
    Yields: A function that appends a line.
    """
    file = inside(out, f"{STATE}/{part}/{JOURNAL}")
    lines = [header, *read_lines(file)[1:], {PLANNED: planned}]
    write(out, f"{STATE}/{part}/{JOURNAL}", as_lines(lines), part)  # a new file: to append would be to follow a link
    with file.open("ab", buffering=0) as stream:
        os.fsync(stream.fileno())  # a file that no journal knows of would count as the user's

        def append(line: Line) -> None:
            content = as_lines([line])
            try:
                if stream.write(content) != len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as error:
                raise cannot_write(file, error) from error

        yield append


def as_lines(lines: Iterable[Line]) -> bytes:
    """Encode lines of JSON; a file name that is no text becomes escapes."""
    return "".join(f"{json.dumps(line)}\n" for line in lines).encode()


def digest(content: bytes, prefix: str = "") -> Line:
    """Return size and hash of a file's content."""
    return {f"{prefix}bytes": len(content), f"{prefix}blake2b": hashlib.blake2b(content, digest_size=16).hexdigest()}


def size_of(file: Path) -> int:
    """Return the size of a file, -1 if there is none."""
    try:
        return file.stat().st_size
    except (OSError, ValueError):
        return -1


# ---- one run at a time ---------------------------------------------------------------------------


@contextmanager
def locked(out: Path, part: str | None = None) -> Iterator[None]:
    """Keep other runs off a folder, or off one part of it; wait until those have ended that hold it now.

    The lock ends with the process, however that ends.

    Args:
        out: The folder; it is made if it is not there.
        part: Name of a part, "2-of-3", which can be written beside other parts. Default: all of the folder.
    Raises: OSError: the lock cannot be written.
    """
    gate = inside(out, f"{STATE}/{LOCK}")
    if part is None:
        with held(gate, out):
            for other in parts_of(out):
                with held(other, out):  # no new part can begin meanwhile: that takes the gate
                    pass
            yield
        return

    def enter() -> BinaryIO | None:
        with held(gate, out):
            return try_lock(inside(out, f"{STATE}/{part}/{LOCK}"))

    with wait_for(enter, out):
        yield


@contextmanager
def folder_for(out: str | Path | None, default: str) -> Iterator[Path]:
    """Make a folder for the results of one run, and keep other runs off it until the block ends.

    It is made first, so that a folder that cannot be written to is known before hours of work, and removed again if
    the run fails and nothing is in it.

    Args:
        out: The folder, new or not; None for the default.
        default: "runs/evaluate"; if that is there, runs/evaluate2, runs/evaluate3 and so on are tried.
    Yields: The folder.
    Raises: OSError: with the remedy.
    """
    folder = Path(out) if out else make_numbered(default)
    is_new = not out or not folder.exists()
    try:
        with locked(folder.resolve()):
            yield folder
    finally:
        if is_new:
            with suppress(OSError):
                folder.rmdir()


@contextmanager
def appearing(out: Path, refusal: str) -> Iterator[Path]:
    """Give a hidden folder to fill, which becomes `out` when all went well, and is removed if not.

    What a killed process left behind has the same name, and is removed at the start.

    Args:
        out: The folder.
        refusal: What is said if it exists.
    Raises: FileExistsError: it does.
    """
    if out.exists():
        raise FileExistsError(refusal)
    draft = out.with_name(f".{out.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield draft
        draft.replace(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def make_numbered(name: str) -> Path:
    """Make the first of the folders NAME, NAME2, NAME3 ... that is not there; no two processes get the same one."""
    number = 1
    while True:
        folder = Path(name if number == 1 else f"{name}{number}")
        try:
            make_folder(folder.parent)
        except OSError as error:
            raise cannot_write(folder, error) from error
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            number += 1
        except OSError as error:
            raise cannot_write(folder, error) from error


@contextmanager
def locked_by_the_last(out: Path) -> Iterator[bool]:
    """Hold a folder if no part of it is being written, and yield whether that is so.

    Of several parts that end, in whatever order, the last one finds the folder free, since each of them gives its
    own lock back before it comes here.
    """
    with held(inside(out, f"{STATE}/{LOCK}"), out):
        free = True
        for other in parts_of(out):
            if stream := try_lock(other):
                stream.close()
            else:
                free = False
        yield free


def parts_of(out: Path) -> list[Path]:
    """Return the lock files of the parts of a folder."""
    return sorted(inside(out, file.relative_to(out).as_posix()) for file in (out / STATE).glob(f"*/{LOCK}"))


@contextmanager
def held(file: Path, out: Path) -> Iterator[None]:
    """Hold a lock file, and remove it and its folder afterwards if there is nothing else in the folder."""
    stream = wait_for(lambda: try_lock(file), out)
    try:
        yield
    finally:
        if sys.platform == "win32":
            stream.close()  # there, an open file cannot be removed, and a closed one only if nobody has opened it since
        with suppress(OSError):
            if list(file.parent.iterdir()) == [file]:
                file.unlink()
                file.parent.rmdir()
        stream.close()


def try_lock(file: Path) -> BinaryIO | None:
    """Open and lock a file; None if somebody else holds it, or removed it just now."""
    try:
        make_folder(file.parent)
    except OSError as error:
        raise cannot_write(file, error) from error
    try:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        stream = os.fdopen(os.open(file, flags, 0o666), "r+b")
    except FileNotFoundError:  # its folder went away
        return None
    except OSError as error:
        raise cannot_write(file, error) from error
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(stream.fileno()), file.stat()):
            return stream
    except (BlockingIOError, PermissionError, FileNotFoundError):
        pass
    except OSError as error:
        stream.close()
        raise OSError(f"{file} cannot be locked: {error.strerror}; choose a folder on another disk") from error
    stream.close()
    return None


def wait_for(attempt: Callable[[], T | None], out: Path) -> T:
    """Try until it succeeds; say so if that takes long."""
    begun, announced = time.monotonic(), False
    while (result := attempt()) is None:
        if not announced and time.monotonic() > begun + 1:
            print(f"another run is writing into {out}; waiting until it ends", file=sys.stderr, flush=True)
            announced = True
        time.sleep(0.02)
    return result


# ---- whole files, inside a folder ----------------------------------------------------------------


def inside(out: Path, name: str) -> Path:
    """Return the path of a file below a folder.

    Args:
        out: The folder, absolute and without links.
        name: Path below it, with /.
    Raises: OSError: a link or ".." leads elsewhere, where nothing must be written.
    """
    path = out / name
    folder, real_folder = path.parent, os.path.realpath(path.parent)
    if (
        os.path.normcase(folder) != os.path.normcase(real_folder)
        or not path.is_relative_to(out)
        or path.name in ("", "..")
        or path == out
    ):
        raise OSError(
            f"{path} would be written to {real_folder}, because of a link or '..' in its path; nothing is written "
            f"outside {out}: remove the link, or choose another out="
        )
    return path


def write(out: Path, name: str, content: bytes, part: str = ALL) -> None:
    """Write a file below a folder, all of it or nothing, as the only process that uses this draft of this part."""
    draft = inside(out, f"{STATE}/{part}/{os.getpid()}.tmp")
    with replaced(inside(out, name), draft) as place, place.open("xb") as stream:
        stream.write(content)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, also while another run removes them because they are empty."""
    for _ in range(100):
        with suppress(FileExistsError, FileNotFoundError):  # mkdir looks twice, and they may be gone the second time
            return folder.mkdir(parents=True, exist_ok=True)
        if folder.is_file():
            break
    return folder.mkdir(parents=True, exist_ok=True)


def remove(out: Path, name: str) -> bool:
    """Remove a file below a folder, and the folders that become empty; return whether it was there."""
    file = inside(out, name)
    try:
        file.unlink()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise OSError(f"{file}, of an earlier run, cannot be removed: {error.strerror}") from error
    with suppress(OSError):
        for folder in list(PurePosixPath(name).parents)[:-1]:
            (out / folder).rmdir()
    return True


def remove_drafts(out: Path, part: str) -> None:
    """Remove what processes of this part that were killed had half written."""
    for draft in inside(out, f"{STATE}/{part}/{JOURNAL}").parent.glob("*.tmp"):
        draft.unlink(missing_ok=True)


@contextmanager
def replaced(target: Path, draft: Path | None = None) -> Iterator[Path]:
    """Yield the path of a draft; when the block ends without an error, the draft takes the place of the target.

    A link at the target is replaced, not followed. Whatever happens, no draft stays behind; that of a process that
    was killed goes when the same target is written the next time.

    Args:
        target: The file to write.
        draft: Where to write it first, on the same disk. Default: a hidden file beside it, of always the same name.
    Raises: OSError: with the remedy.
    Example:
        >>> with replaced(Path("best.pt")) as draft:  # doctest: +SKIP
        ...     torch.save(state, draft)
    """
    name = hashlib.blake2b(os.fsencode(target.name), digest_size=6).hexdigest()
    draft = draft or target.with_name(f".{target.name[:32]}.{name}.tmp")  # any target.name that fits the disk
    try:
        make_folder(target.parent)
        make_folder(draft.parent)
        draft.unlink(missing_ok=True)
        yield draft
        draft.replace(target)
    except OSError as error:
        raise cannot_write(target, error) from error
    except RuntimeError as error:
        if "inline_container" not in str(error):
            raise
        full = OSError(errno.EIO, "PyTorch says no more than that writing failed; is the disk full?")
        raise cannot_write(target, full) from error
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def write_json(target: Path, content: Any) -> None:
    """Write a JSON file, all of it or nothing."""
    with replaced(target) as draft:
        draft.write_text(f"{json.dumps(content, indent=1)}\n", encoding="utf-8", newline="\n")


def write_log(path: Path, log: Sequence[Mapping[str, Any]]) -> None:
    """Write the log of a training as CSV, a line for each epoch, complete or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(log[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(log)
    with replaced(path) as draft:
        draft.write_text(text.getvalue(), encoding="utf-8", newline="")


def cannot_write(target: Path, error: OSError) -> OSError:
    """Make the error that stops a run."""
    if error.errno is None:  # it was made here
        return error
    if error.errno == errno.ENAMETOOLONG:
        remedy = "choose an out= whose path is shorter"
    else:
        remedy = "make room, or get the right to write there, and run the same command again"
    return OSError(f"{target} cannot be written: {error.strerror}. Nothing is lost: {remedy}")
