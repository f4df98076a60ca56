"""Tell a user's mistake, which is answered with one line, from a bug, which is shown whole.

Our checks raise ValueError, TypeError and their like with a message for the user. A ValueError that NumPy raises
because we called it wrongly has the same type, and is a bug. What tells them apart is the place: the innermost frame of
a mistake is a `raise` statement of this package, that of a bug is any other operation that failed. No list of
functions or of messages has to be kept, and a new check needs nothing but `raise`.

Three kinds of exceptions come from the world and not from a `raise` of ours, and are mistakes as well:

- OSError: files and folders that are not there, must not be read, or do not fit on the disk;
- MemoryError: what was asked for does not fit;
- ImportError: a package that is not installed or cannot be loaded, except for a module of our own.

Ultralytics is given what the user wrote (a data YAML, a model, a device, a size of images) and checks it with `raise`
statements of its own, and with `assert` statements that have a message ("Not a YAML file: night.jpg"); they count like
ours.
"""

from __future__ import annotations

import dis
import errno
import re
from types import TracebackType

OK, FAILED_CHECK, MISTAKE, BUG = 0, 1, 2, 70  # exit statuses; 70 is EX_SOFTWARE of sysexits.h
STOPPED, PIPE_CLOSED = 130, 141  # 128 + SIGINT and 128 + SIGPIPE, as shells count

CHECKS_IN = ("yolo_wnlb", "ultralytics")  # packages whose `raise` statements speak to the user
RAISED_BY_CHECKS = (ValueError, TypeError, RuntimeError, FloatingPointError, SyntaxError)
NEVER_CHECKS = (NotImplementedError, RecursionError)  # RuntimeErrors that nobody's input explains
MISUSED = (errno.EBADF, errno.EFAULT, errno.ENOTTY)  # OSErrors of a program that handles its own files wrongly
RAISE = dis.opmap["RAISE_VARARGS"]


def is_mistake(error: BaseException) -> bool:
    """Tell whether an exception answers the user, and not a bug of ours."""
    if isinstance(error, OSError):
        return error.errno not in MISUSED
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, ImportError):
        return not (error.name or "").startswith("yolo_wnlb") or raised_in(error, CHECKS_IN)
    if isinstance(error, AssertionError):
        return bool(str(error)) and raised_in(error, ("ultralytics",))
    checks = isinstance(error, RAISED_BY_CHECKS) and not isinstance(error, NEVER_CHECKS)
    return checks and raised_in(error, CHECKS_IN)


def raised_in(error: BaseException, packages: tuple[str, ...]) -> bool:
    """Tell whether an exception comes from a `raise` statement in one of these packages."""
    last = innermost(error)
    if last is None or last.tb_frame.f_code.co_code[last.tb_lasti] != RAISE:
        return False
    return (last.tb_frame.f_globals.get("__package__") or "").partition(".")[0] in packages


def innermost(error: BaseException) -> TracebackType | None:
    """Return the innermost entry of the traceback of an exception: where it was raised."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return last


def message(error: BaseException, asked: str) -> str:
    """Return the one line that answers a mistake.

    Args:
        error: What was raised.
        asked: What the user typed; it stands for the file if the system's error does not name one.
    """
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        return one_line(f"{' -> '.join(names)}: {error.strerror}")
    text = str(error) or type(error).__name__
    if isinstance(error, (OSError, MemoryError)) and not raised_in(error, CHECKS_IN):
        if isinstance(error, MemoryError):
            text = f"not enough memory ({text})"
        elif isinstance(error, OSError) and error.strerror:
            text = error.strerror
        return one_line(f"{text}; it happened in {asked}")
    return one_line(text)


def one_line(text: str) -> str:
    """Return a message as one line that leaves the terminal as it is.

    Lines that end as lines of prose do become one paragraph. Other line ends, and control characters, are those of a
    file name; they are shown as Python writes them: \\n, \\x1b.
    """
    text = re.sub(r"(?<=[.:;,!?])\s*\n\s*|\s+\n\s*|\n\s+", " ", text.strip())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
