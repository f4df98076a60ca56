"""The report as one HTML file that needs nothing else: no network, no script, no other file.

    Content, the pictures that it names --render--> the text of the page --write--> report.html

The text comes from page.html and page.css beside this module; whatever is not ours (names of classes, files and
models) is escaped by Jinja. The page forbids itself every address but its own pictures (`Content-Security-Policy`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from yolo_wnlb.data.journal import replaced
from yolo_wnlb.data.sources import printable
from yolo_wnlb.imaging.curve import Curve
from yolo_wnlb.metrics.average_precision import KINDS
from yolo_wnlb.report.content import Content, Estimate, HalfStop, Shape, WorstPicture
from yolo_wnlb.report.drawing import as_path, reduced, shown
from yolo_wnlb.report.plots import FEW_PICTURES, MINUS, all_plots
from yolo_wnlb.report.verdict import FEW, FOUND, as_confidence, is_enough, is_vague, rounded
from yolo_wnlb.yolo.models import read_picture

MAX_BYTES = 4_900_000  # of the page
MARKS = 40  # outlines of missed objects, and of false alarms, that are drawn into one picture
QUALITIES = ((560, 82), (480, 76), (400, 70), (320, 62), (240, 55), (160, 45))  # longer side in pixels, of JPEG
LEGEND = "●■◆▲▼✚✖★"  # as `plots.MARKERS`
MISSING = "–"  # noqa: RUF001


class Drawn(NamedTuple):
    """A worst picture with what is drawn into it.

    Attributes:
        row: The picture's row of the report.
        photo: Its place among the stored pictures.
        missed: Paths of missed objects, the largest first, at most `MARKS`.
        false: Paths of false alarms, the most confident first, at most `MARKS`.
        left_out: How many more of both there are.
    """

    row: WorstPicture
    photo: int
    missed: list[tuple[Shape, str]]
    false: list[tuple[Shape, str]]
    left_out: int


def write(content: Content, path: str | Path, curve: Curve | None = None) -> None:
    """Write the page, whole or not at all.

    Args:
        content: What the page shows.
        path: The file.
        curve: What pictures of more than 8 bits are shown through, such as that of the model; None is the default.
    Raises: OSError: a picture cannot be read, or the page cannot be written. ValueError: it would be too large.
    """
    text = render(content, partial(read_picture, curve=curve))
    with replaced(Path(path)) as draft:
        draft.write_text(text, encoding="utf-8", newline="\n")


def render(content: Content, read: Callable[[str], np.ndarray] = read_picture) -> str:
    """Return the text of the page.

    The pictures are made smaller until the page has fewer than `MAX_BYTES`.

    Args:
        content: What the page shows.
        read: Function that reads a picture file: uint8 BGR (H, W, 3).
    Raises: OSError: a picture cannot be read. ValueError: the page is too large even with the smallest pictures.
    """
    files = list(dict.fromkeys(row.file for row in content.worst))
    pictures = [reduced(read(file), QUALITIES[0][0]) for file in files]
    template = environment().get_template("page.html")
    fixed = {"content": content, "figures": all_plots(content), "kinds": KINDS, "legend": LEGEND}
    text = ""
    for side, quality in QUALITIES:
        photos = [shown(picture, side, quality) for picture in pictures]
        text = template.render(
            **fixed, photos=photos, worst=[drawn(row, files.index(row.file)) for row in content.worst]
        )
        if len(text.encode()) <= MAX_BYTES:
            return text
    raise ValueError(
        f"the page would have {len(text.encode()) / 1e6:.1f} MB, and {MAX_BYTES / 1e6:.1f} are allowed; report fewer "
        "models at once, or fewer worst pictures"
    )


def drawn(row: WorstPicture, photo: int) -> Drawn:
    """Return a worst picture with what is drawn into it; `photo` is its place among the stored pictures."""
    missed = sorted(row.missed, key=lambda shape: -shape.box[2] * shape.box[3])
    drawn_missed, drawn_false = (
        [(shape, as_path(shape, row.width, row.height)) for shape in shapes[:MARKS]]
        for shapes in (missed, row.false_alarms)
    )
    left_out = len(row.missed) + len(row.false_alarms) - len(drawn_missed) - len(drawn_false)
    return Drawn(row, photo, drawn_missed, drawn_false, left_out)


# ---- the template --------------------------------------------------------------------------------


def environment() -> Any:
    """Return Jinja's environment: all that is not marked as ours is escaped, and a name that is not there raises."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("yolo_wnlb.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=readable,
    )
    made.filters |= {
        "hundredths": hundredths,
        "estimate": estimate,
        "gain": gain,
        "half_stop": half_stop,
        "number": number,
        "as_confidence": as_confidence,
        "breakable": breakable,
        "counted": counted,
        "of": rows_of,
    }
    made.globals |= {"missing": MISSING, "few": FEW, "least_found": FOUND, "few_pictures": FEW_PICTURES}
    made.tests["enough"] = is_enough
    return made


def readable(value: Any) -> Any:
    """Write a value on the page: of None nothing is known; in text, characters that cannot be seen become escapes."""
    if value is None:
        return MISSING
    return printable(value) if type(value) is str else value


def breakable(name: str) -> Any:
    """Return a name that is broken behind its slashes where it has to be broken."""
    from markupsafe import Markup, escape

    return Markup("/<wbr>").join(escape(part) for part in printable(name).split("/"))


def rows_of(rows: Iterable[Any], model: str, kind: str | None = None) -> list[Any]:
    """Return the rows of a model, and of one kind where a kind is given."""
    return [row for row in rows if row.model == model and (kind is None or row.kind == kind)]


def hundredths(value: float | None, digits: int = 1) -> str:
    """Write a share or a score in hundredths; a dash where there is none."""
    return MISSING if value is None or value < 0 else f"{100 * value:.{digits}f}"


def number(value: float | None, digits: int = 1) -> str:
    """Write a number with commas between thousands; a dash where there is none."""
    return MISSING if value is None else rounded(value, digits, ",").replace("-", MINUS)


def estimate(value: Estimate, digits: int = 1) -> str:
    """Write a score with its interval, in hundredths."""
    if value.value is None or value.value < 0:
        return MISSING
    text = f"{100 * value.value:.{digits}f}"
    if value.low is None or value.high is None:
        return text
    return f"{text} [{100 * value.low:.{digits}f}, {100 * value.high:.{digits}f}]"


def gain(value: Estimate | None, digits: int = 1) -> str:
    """Write a difference with its sign and its interval, in hundredths; one that is clear has an asterisk."""
    if value is None or value.value is None:
        return MISSING
    text = rounded(100 * value.value, digits, "+")
    if value.low is not None and value.high is not None:
        text += f" [{rounded(100 * value.low, digits, '+')}, {rounded(100 * value.high, digits, '+')}]"
    return f"{text}{' *' if value.clear else ''}".replace("-", MINUS)


def half_stop(row: HalfStop, content: Content) -> str:
    """Write the stop at which AP is half of that by day."""
    if row.stop.value is None:
        return "finds nothing"
    if is_vague(content, row):
        return "cannot be told"
    if not row.reached:
        return f"not down to {rounded(row.stop.value, 0)}".replace("-", MINUS)
    text = rounded(row.stop.value)
    if row.stop.low is not None and row.stop.high is not None:
        below = "below " if row.open else ""
        text += f" [{below}{rounded(row.stop.low)}, {rounded(row.stop.high)}]"
    return text.replace("-", MINUS)


def counted(shapes: Iterable[Shape]) -> str:
    """Count the objects of each class: "2 person, 1 car"."""
    counts: Mapping[str, int] = {}
    for shape in shapes:
        counts = {**counts, shape.name: counts.get(shape.name, 0) + 1}
    return ", ".join(f"{count} {printable(name)}" for name, count in counts.items())
