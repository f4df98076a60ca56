"""What a robustness report measures: families of corruptions, their levels, and the cells that a suite asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from yolo_wnlb.imaging import corruptions
from yolo_wnlb.imaging.bounds import whole_number
from yolo_wnlb.study.surrogate import ATTACKS
from yolo_wnlb.words import suggestion

DARKNESS = ("mild", "moderate", "severe", "extreme")  # presets of the camera: the levels of `presets`
STOPS = range(0, -8, -1)  # the levels of `stops`
FAMILIES: dict[str, tuple[str, ...]] = {
    "lowlight": ("presets", "stops"),
    **corruptions.FAMILIES,
    **{name: (name,) for name in ATTACKS},
}
NAMES = tuple(name for names in FAMILIES.values() for name in names)  # of all corruptions
SUITE = ("lowlight", "noise", "blur")
CONTROLS = {"random signs": "fgsm", "random direction": "pgd-l2"}  # random changes: with the norm and levels of which
WHITE_BOX = ", white box"  # behind the name of an attack with a model's own gradients, beside that of a surrogate


class Cell(NamedTuple):
    """What is done to the pictures of one evaluation.

    Attributes:
        family: One of FAMILIES; "clean" or "control"; an attack with WHITE_BOX behind it.
        name: The corruption; for "control" one of CONTROLS.
        level: From 1 on; of stops from 0 (daylight) on.
        strength: The level in words: "severe", "-3", "20 codes", "4/255".
    """

    family: str
    name: str
    level: int
    strength: str


CLEAN = Cell("clean", "clean", 0, "")


def read_suite(suite: Sequence[str], levels: Sequence[int] | None) -> list[Cell]:
    """Return the cells of families or single corruptions, each once, in the order of FAMILIES.

    Raises: ValueError: a name or a level does not exist.
    """
    words = [suite] if isinstance(suite, str) else list(suite)
    known = tuple(dict.fromkeys([*FAMILIES, *NAMES]))
    if not words:
        raise ValueError(f"suite is empty; choose from {', '.join(known)}")
    for word in words:
        if word not in known:
            frost = "; frost needs its photographs, which do not ship" if word == "frost" else ""
            raise ValueError(f"suite has no {word!r}{suggestion(word, known)}{frost}; choose from {', '.join(known)}")
    chosen = {name for word in words for name in FAMILIES.get(word, (word,))}
    cells = [
        Cell(family, name, level, strength)
        for family, names in FAMILIES.items()
        for name in names
        if name in chosen
        for level, strength in strengths(name)
    ]
    if levels is None:
        return cells
    wanted = [whole_number("levels", level) for level in levels]
    there = {cell.level for cell in cells if cell.name != "stops"}
    if not wanted or any(level not in there for level in wanted):
        has = f"the levels {min(there)} to {max(there)}" if there else "no levels but its stops"
        raise ValueError(f"levels is {','.join(map(str, levels)) or 'empty'}; {','.join(words)} has {has}")
    return [cell for cell in cells if cell.name == "stops" or cell.level in wanted]


def strengths(name: str) -> list[tuple[int, str]]:
    """List the levels of a corruption, with their strength in words."""
    if name == "presets":
        return list(enumerate(DARKNESS, 1))
    if name == "stops":
        return [(-stop, str(stop)) for stop in STOPS]
    if name in ATTACKS:
        return [(level, ATTACKS[name].written(level)) for level in range(1, len(ATTACKS[name].radii) + 1)]
    known = corruptions.CORRUPTIONS[name]
    return [(k, f"{s} {known.unit}" if known.unit else str(k)) for k, s in enumerate(known.strengths, 1)]


def attack_named(name: str) -> str:
    """Return the key of ATTACKS behind the name of a cell, which may be a control or a white box; "" for no attack."""
    plain = name.removesuffix(WHITE_BOX)
    attack = CONTROLS.get(plain, plain)
    return attack if attack in ATTACKS else ""


def white_boxes(cells: Sequence[Cell]) -> list[Cell]:
    """Return the attacks among cells once more, with the own gradients of each model."""
    attacks = [cell for cell in cells if cell.family in ATTACKS]
    return [cell._replace(family=cell.family + WHITE_BOX, name=cell.name + WHITE_BOX) for cell in attacks]


def controls(cells: Sequence[Cell]) -> list[Cell]:
    """Return a cell of random changes for each norm and radius that attacks have: what attacks are held against."""
    return list(dict.fromkeys(control_of(cell) for cell in cells if attack_named(cell.name)))


def control_of(cell: Cell) -> Cell:
    """Return the random change of the size of an attack; attacks of one norm and radius share it."""
    name = control_name(cell.name)
    levels = {strength: level for level, strength in strengths(attack_named(name))}
    return Cell("control", name, levels[cell.strength], cell.strength)


def control_name(attack: str) -> str:
    """Return the random change that has the norm of an attack; of a white box one whose loss is the model's own."""
    norm = ATTACKS[attack_named(attack)].norm
    name = next(name for name, other in CONTROLS.items() if ATTACKS[other].norm == norm)
    return name + WHITE_BOX if attack.endswith(WHITE_BOX) else name


def described(cell: Cell) -> str:
    """Name a cell in a line of progress."""
    if cell == CLEAN:
        return "clean"
    return f"{cell.name} level {cell.level}" if cell.family == "common" else f"{cell.name} {cell.strength}"
