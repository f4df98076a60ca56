"""The register of the commands: a command is added with the decorator `command`.

Its help, its checks and its completion follow from the table of its options. The function is given the files, and the
options that the user wrote; it prints its result and returns the exit status.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from yolo_wnlb.terminal.arguments import Command, Option

Run = Callable[[list[str], dict[str, Any]], int]

COMMANDS: dict[str, Command] = {}


def command(
    name: str,
    summary: str,
    *,
    example: str,
    files: str = "",
    count: tuple[int, float] = (0, 0),
    file_keys: tuple[str, ...] = (),
    options: Sequence[Option] = (),
    about: str = "",
    resumes: bool = False,
    numbers: bool = False,
) -> Callable[[Run], Run]:
    """Register the decorated function as a command; the arguments are the attributes of `Command`."""

    def register(run: Run) -> Run:
        table = {option.name: option for option in options}
        COMMANDS[name] = Command(name, run, summary, example, files, count, file_keys, table, about, resumes, numbers)
        return run

    return register


def show(result: Any) -> int:
    """Print the result of a command; return 1 if it is a check that failed, else 0."""
    print(result)
    return 0 if getattr(result, "ok", True) else 1


def take(options: dict[str, Any], known: dict[str, Any]) -> list[Any]:
    """Return the values of the known options (or their defaults), refusing any other."""
    if unknown := [key for key in options if key not in known]:
        raise ValueError(f"no option {', '.join(unknown)}; choose from {', '.join(known) or 'none'}")
    return [options.get(key, default) for key, default in known.items()]
