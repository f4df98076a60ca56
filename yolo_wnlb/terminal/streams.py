"""Standard output and error as they come: closed, full, ASCII only, or read by something that stops reading."""

from __future__ import annotations

import codecs
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

PLAIN = {  # what stands for a character in an encoding that lacks it
    **{"±": "+-", "→": "->", "×": "x", "·": "*", "…": "...", "−": "-", "≥": ">=", "≤": "<="},  # noqa: RUF001
    **{"α": "alpha", "β": "beta", "γ": "gamma", "σ": "sigma", "²": "^2", "°": " degrees"},  # noqa: RUF001
}


def spell_out(error: UnicodeError) -> tuple[str, int]:
    """Write in plain characters what an encoding lacks: "+-" for "±", an escape for what has no such form."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(PLAIN.get(c, c.encode("unicode_escape").decode()) for c in lacking), error.end


codecs.register_error("yolo_wnlb.spell_out", spell_out)


def make_usable() -> None:
    """Let every later print succeed: on streams that are closed, and in encodings that lack a character.

    A descriptor that is closed would be given to the next file that is opened, and whatever a library prints would be
    written into it; it is opened on the null device instead.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != descriptor:
                os.dup2(null, descriptor)
                os.close(null)
            os.set_inheritable(descriptor, True)
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: PTH123, SIM115
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="yolo_wnlb.spell_out")
    logging.raiseExceptions = False  # a handler that cannot write would print a traceback for each record


@contextmanager
def without_library_warnings() -> Iterator[None]:
    """Hide the warnings that libraries give to developers, unless `python -W` or PYTHONWARNINGS asks for them.

    Ours stay, as one line each.
    """
    usual = warnings.formatwarning
    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
            warnings.filterwarnings("default", message="yolo_wnlb", category=RuntimeWarning)  # those of `activate`
        warnings.formatwarning = lambda message, category, *_, **__: f"{message}\n"
        try:
            yield
        finally:
            warnings.formatwarning = usual


def say(text: str, fresh_line: bool = False) -> None:
    """Print a line to standard error, behind all that was printed to standard output.

    With `fresh_line` a terminal goes to a new line first: it has shown "^C", or a line of progress.
    """
    with suppress(OSError):
        finish(sys.stdout)
    with suppress(OSError):
        print("\n" * (fresh_line and sys.stderr.isatty()) + text, file=sys.stderr)
    with suppress(OSError):
        finish(sys.stderr)


def finish(stream: TextIO) -> None:
    """Write all that was printed to a stream.

    Raises: OSError: it cannot be written. It is dropped, or the interpreter would try again at its end, and fail.
    """
    try:
        stream.flush()
    except OSError as error:
        with suppress(OSError, ValueError):  # io.UnsupportedOperation: a stream without a descriptor
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
        error.filename = "standard output"
        raise
