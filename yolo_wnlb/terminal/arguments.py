"""The arguments of a command: one table of options, from which words are read, checked, explained and completed.

Words are written as the `yolo` command takes them, `key=value`. `--key=value` and `--key value` mean the same, and a
flag such as `--dry-run` (or `dry_run`) stands alone. No library for arguments reads `key=value` (looked at: argparse,
click, typer, cyclopts, jsonargparse, fire), and behind a step that rewrites the words nothing would be left of their
help and their messages; so the reading is done here.
"""

from __future__ import annotations

import math
import shutil
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from yolo_wnlb.words import suggestion

NONE = ("none", "null")  # how `yolo` writes None


# ---- kinds of values --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """How the value of an option is written and read.

    Attributes:
        placeholder: What stands for the value in the help: "N", "FOLDER". Empty for a flag.
        wanted: What a value has to be, for messages: "a whole number".
        read: Turns the text into the value; raises ValueError if it is no such value.
        values: Texts to propose in the shell.
        files: Whether the shell proposes files.
    """

    placeholder: str
    wanted: str
    read: Callable[[str], Any]
    values: tuple[str, ...] = ()
    files: bool = False


def text(placeholder: str, *values: str) -> Kind:
    """Text that is taken as it stands; `values` are only proposals."""
    return Kind(placeholder, "text", str, values)


def path(placeholder: str) -> Kind:
    """Name a file or folder; it is taken as it stands, commas and all."""
    return Kind(placeholder, "a path", str, files=True)


def truth() -> Kind:
    """True or False."""

    def read(value: str) -> bool:
        known = {"true": True, "1": True, "false": False, "0": False}
        if value.lower() not in known:
            raise ValueError
        return known[value.lower()]

    return Kind("True|False", "True or False", read, ("True", "False"))


def flag() -> Kind:
    """True or False; the word alone says True."""
    return replace(truth(), placeholder="")


def whole(least: int | None = None) -> Kind:
    """Whole number, at least `least`."""

    def read(value: str) -> int:
        number = int(value)
        if least is not None and number < least:
            raise ValueError
        return number

    return Kind("N", "a whole number" + ("" if least is None else f", {least} or more"), read)


def number(least: float | None = None, most: float | None = None) -> Kind:
    """Finite number from `least` to `most`."""

    def read(value: str) -> float:
        found = int(value) if value.lstrip("+-").isdecimal() else float(value)
        if not math.isfinite(found) or (least is not None and found < least) or (most is not None and found > most):
            raise ValueError
        return found

    if least is None:
        return Kind("X", "a number", read)
    return Kind("X", f"a number, {least:g} or more" if most is None else f"a number from {least:g} to {most:g}", read)


def span(of: Kind) -> Kind:
    """Number, or the two ends of a range that numbers are drawn from."""

    def read(value: str) -> Any:
        ends = [of.read(part) for part in value.split(",")]
        if len(ends) > 2:
            raise ValueError
        return ends if len(ends) == 2 else ends[0]

    return Kind("LOW,HIGH", f"{of.wanted}, or two of them: low,high", read, of.values)


def point() -> Kind:
    """Position in a picture."""

    def read(value: str) -> list[float]:
        x, y = map(number().read, value.split(","))
        return [x, y]

    return Kind("X,Y", "two numbers: x,y", read)


def one_of(*values: str) -> Kind:
    """One of a few words; "none" among them is read as None."""

    def read(value: str) -> str | None:
        if value.lower() in NONE and "none" in values:
            return None
        if value not in values:
            raise ValueError
        return value

    return Kind("|".join(values), f"one of {', '.join(values)}", read, values)


def listed(kind: Kind) -> Kind:
    """Values between commas, always read as a list."""

    def read(value: str) -> list[Any]:
        return [kind.read(part) for part in value.split(",")]

    return Kind(f"{kind.placeholder},...", f"{kind.wanted}, or several between commas", read, kind.values)


def one_or_each(kind: Kind) -> Kind:
    """One value for all places, or as many as there are places, between commas."""

    def read(value: str) -> Any:
        items = [kind.read(part) for part in value.split(",")]
        return items if len(items) > 1 else items[0]

    wanted = f"{kind.wanted}, or several between commas"
    return Kind(kind.placeholder, wanted, read, kind.values)


def optional(kind: Kind) -> Kind:
    """As `kind`, or None, which means something of its own."""

    def read(value: str) -> Any:
        return None if value.lower() in NONE else kind.read(value)

    return Kind(kind.placeholder, f"{kind.wanted}, or none", read, (*kind.values, "none"))


# ---- the table --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Option:
    """One option of a command.

    Attributes:
        name: As it is written, with underscores.
        kind: How its value is read.
        help: What it means, in a few words.
        default: The value if it is not given; None if `help` says what happens then.
        required: Whether the command cannot run without it.
        group: Heading under which the help lists it.
    """

    name: str
    kind: Kind
    help: str
    default: Any = None
    required: bool = False
    group: str = "Options"

    @property
    def word(self) -> str:
        """How the help writes it: out=FOLDER, or --dry-run."""
        return f"{self.name}={self.kind.placeholder}" if self.kind.placeholder else f"--{self.name.replace('_', '-')}"

    def read(self, value: str) -> Any:
        """Return the value that a text stands for; raises ValueError with the option, the text and what is wanted."""
        try:
            return self.kind.read(value)
        except (ValueError, OverflowError):
            hint = suggestion(value, self.kind.values)
            raise ValueError(f"{self.name}={value}: wanted {self.kind.wanted}{hint}") from None


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        name: What the user types.
        run: Called with the files and the options that were given; returns the exit status.
        summary: One sentence.
        example: A command line that works.
        files: How the files are written: "SOURCE [SOURCE ...]".
        count: Least and largest number of files.
        file_keys: Keys that may name a file as well: model=best.pt.
        options: By name.
        about: A paragraph for the help.
        resumes: Whether the same command goes on where it was stopped.
        numbers: Whether a number may stand for a file, such as that of a camera.
    """

    name: str
    run: Callable[[list[str], dict[str, Any]], int]
    summary: str
    example: str
    files: str
    count: tuple[int, float]
    file_keys: tuple[str, ...]
    options: dict[str, Option]
    about: str
    resumes: bool
    numbers: bool = False

    @property
    def usage(self) -> str:
        """The command in one line."""
        required = [option.word for option in self.options.values() if option.required]
        rest = ["[key=value ...]"] if len(self.options) > len(required) else []
        return " ".join(filter(None, ["yolo-wnlb", self.name, self.files, *required, *rest]))


# ---- reading ----------------------------------------------------------------------------------------


def parse(words: Sequence[str], command: Command) -> tuple[list[str], dict[str, Any]]:
    """Split words into files and the values of options.

    Raises: ValueError: an option that the command does not have, is given twice, lacks a value or has one of another
        kind; too few or too many files; a required option is missing.
    """
    files: list[str] = []
    values: dict[str, Any] = {}
    given: set[str] = set()
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":  # all that follows are files
            files += rest
            break
        dashes = word.startswith("--")
        key, equals, value = (word[2:] if dashes else word).partition("=")
        name = key.replace("-", "_") if dashes else key
        option = command.options.get(name)
        known = option is not None or name in command.file_keys
        if option is not None and not option.kind.placeholder and not equals:
            equals, value = "=", "True"
        elif dashes and known and not equals:
            if not rest or rest[0].startswith("--"):
                raise ValueError(f"{word} has no value; write {name}=VALUE or {word} VALUE")
            equals, value = "=", rest.pop(0)
        if word.startswith("=") or (known and equals and not value):
            raise ValueError(f"{word!r} is no key=value; write {name or 'key'}=value, without spaces around '='")
        if known and not equals and not Path(word).exists():
            raise ValueError(f"{word!r} lacks its value; write {name}=value, without spaces around '='")
        if not known or not equals:  # a file may have the name of an option
            is_option = dashes or (word.startswith("-") and len(word) > 1) or (equals and name.isidentifier())
            if not is_option or Path(word).exists():  # the path of a file may hold a '=' too
                if not Path(word).exists() and (meant := value_of(word, command)):
                    raise ValueError(f"{word!r} is no file; did you mean {meant}={word}?")
                files.append(word)
                continue
            raise ValueError(unknown(word, name, command))
        if name in given and name in command.options:
            raise ValueError(f"{name}= is given twice; leave out one")
        given.add(name)
        if option is None:
            files.append(value)
        elif value.lower() in NONE and option.default is None and not option.kind.files:
            if "none" in option.kind.values:
                values[name] = None  # otherwise the same as not given
        else:
            values[name] = option.read(value)
    check(files, values, command)
    return files, values


def value_of(word: str, command: Command) -> str:
    """Return the option whose value a word that stands alone seems to be; "" if there is none."""
    if command.numbers and word.isdecimal():
        return ""
    return next((name for name, option in command.options.items() if word in option.kind.values), "")


def unknown(word: str, name: str, command: Command) -> str:
    """Say that a command has no such option, which one was probably meant, and which there are."""
    choices = [*command.options, *command.file_keys]
    if word.startswith("-"):
        name = word.partition("=")[0]
        choices = [f"--{choice.replace('_', '-')}" for choice in choices]
    if name.lstrip("-") in ("data", "source", "model", "images") and command.files:
        advice = f"{command.name} takes {command.files} without a key: {command.example}"
    else:
        advice = f"choose from {', '.join(command.options)}" if command.options else f"{command.name} takes none"
    return f"no option {name}{suggestion(name, choices)}; {advice}"


def check(files: list[str], values: dict[str, Any], command: Command) -> None:
    """Refuse a wrong number of files, and required options that are missing."""
    least, most = command.count
    required = [option.word for option in command.options.values() if option.required]
    missing = [option.word for option in command.options.values() if option.required and option.name not in values]
    if not least <= len(files) <= most or missing:
        wanted = " and ".join(filter(None, [command.files, *required])) or "no file"
        found = " and ".join([f"found {files or 'no file'}", *(f"no {word}" for word in missing)])
        raise ValueError(f"wants {wanted}, {found}; for example: {command.example}")


# ---- help -------------------------------------------------------------------------------------------


def explain(command: Command) -> str:
    """Return the help of one command."""
    width = min(shutil.get_terminal_size().columns, 100)
    lines = [command.usage, "", *textwrap.wrap(command.summary + " " + command.about, width)]
    groups: dict[str, list[Option]] = {}
    for option in command.options.values():
        groups.setdefault(option.group, []).append(option)
    for title, options in groups.items():
        lines += ["", f"{title}:"]
        for option in options:
            lines += row(option.word, option.help + remark(option), width)
    if command.options:
        lines += ["", "key=value, --key=value and --key value mean the same."]
    return "\n".join([*lines, "", "Example:", f"  {command.example}"])


def remark(option: Option) -> str:
    """Return what the help adds to an option: that it is required, or its default."""
    if option.required:
        return " (required)"
    if option.default is None or option.default is False:
        return ""
    items = option.default if isinstance(option.default, (list, tuple)) else [option.default]
    return f" (default: {','.join(map(str, items))})"


def row(name: str, text: str, width: int, indent: int = 24) -> list[str]:
    """Return the lines of one entry: its name, and beside it the text."""
    lines = textwrap.wrap(text, max(width - indent, 20), break_long_words=False) or [""]
    first = (
        [f"  {name:<{indent - 3}} {lines[0]}"] if len(name) <= indent - 3 else [f"  {name}", " " * indent + lines[0]]
    )
    return [line.rstrip() for line in [*first, *(" " * indent + line for line in lines[1:])]]


def overview(commands: dict[str, Command]) -> str:
    """Return the short list of all commands."""
    width = min(shutil.get_terminal_size().columns, 100)
    lines = ["yolo-wnlb COMMAND [FILE ...] [key=value ...]", ""]
    for command in commands.values():
        lines += row(command.name, command.summary, width, 17)
    return "\n".join(
        [
            *lines,
            "",
            "yolo-wnlb COMMAND --help explains one command, yolo-wnlb --version names the release.",
            "",
            "Training, validation, prediction and export stay with the yolo command:",
            "  yolo segment train model=yolov8m-seg-wnlb.yaml pretrained=yolov8m-seg.pt data=shapes-dark.yaml",
        ]
    )
