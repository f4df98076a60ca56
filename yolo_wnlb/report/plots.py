"""Plots as inline SVG, whose colours are those of the page: they follow its light and dark scheme.

    Content --all_plots--> {section of the page: its plots}

Matplotlib draws with colours that stand for CSS variables, and the text of the SVG says so instead: `INK` becomes
var(--ink), `colour(2)` the colour of the third model.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from yolo_wnlb.report.content import ERROR_KINDS, Content, Estimate
from yolo_wnlb.report.verdict import is_enough

INK, FAINT, RULE = "#010203", "#010204", "#010205"
COLOURS = 8  # of models, in the style sheet; a ninth model has that of the first
MARKERS = "osD^vPX*"  # so that models differ in more than their colours
MINUS = "−"  # noqa: RUF001
SIZE = (5.0, 3.1)  # inches of 72 units each; a panel is shown 20 to 34 rem wide
STYLE: Any = {
    "svg.fonttype": "none",  # letters stay letters: to be found, read aloud and set in the font of the page
    "svg.hashsalt": "yolo_wnlb",
    "font.family": "sans-serif",
    "font.size": 10.5,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
}


def colour(number: int) -> str:
    """Return the colour that stands for the variable --model-0 to --model-7 of the page."""
    return f"#0200{number % COLOURS:02d}"


VARIABLES = {INK: "var(--ink)", FAINT: "var(--faint)", RULE: "var(--rule)"} | {
    colour(number): f"var(--model-{number})" for number in range(COLOURS)
}


@contextmanager
def panel(size: tuple[float, float] = SIZE) -> Iterator[Any]:
    """Yield the axes of a new figure in the style of the page; call `as_svg` before the block ends."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        yield Figure(figsize=size, layout="constrained").subplots()


def as_svg(axes: Any, name: str, description: str) -> str:
    """Return the figure of some axes as an <svg> element to stand in a page.

    Args:
        axes: Those that `panel` yielded.
        name: Starts the ids of all parts, so that no other plot of the page has them.
        description: What the plot shows, for readers who do not see it; plain text.
    """
    from markupsafe import escape

    stream = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    axes.figure.savefig(stream, format="svg", transparent=True, metadata=nothing)
    svg = stream.getvalue()
    start, end = svg.index("<svg"), svg.rindex("</svg>")
    head, body = svg[start : svg.index(">", start)], svg[svg.index(">", start) + 1 : end]
    view = head.partition('viewBox="')[2].partition('"')[0]
    body = re.sub(r"<style.*?</style>", "", body, flags=re.S)  # it would be a rule for the whole page
    body = re.sub(r"; font-family: [^;\"]+", "", body)
    body = re.sub(r'( id="|xlink:href="#|url\(#)', rf"\1{name}-", body).replace("xlink:href", "href")
    body = re.sub("#0[0-9]{5}", lambda match: VARIABLES.get(match[0], match[0]), body)
    body = re.sub(r"\s*\n\s*", " ", body)
    return f'<svg class="plot" role="img" aria-label="{escape(description)}" viewBox="{view}">{body}</svg>'


# ---- lines against darkness ----------------------------------------------------------------------


class Axis(NamedTuple):
    """An x axis.

    Attributes:
        title: What it is called.
        belongs: Whether a row of the report has a place on it.
        label: The name of a row's place.
    """

    title: str
    belongs: Callable[[Any], bool]
    label: Callable[[Any], str]


class Line(NamedTuple):
    """A plot of rows of the report.

    Attributes:
        section: Of the page.
        rows: Attribute of the report that holds the rows.
        axis: The x axis.
        title: Of the y axis.
        value: Of a row: a number, or one with its interval; None leaves a gap.
        scale: What values are multiplied by: 100 for shares.
        joined: Whether a line joins the values, with a band for their intervals; else they are marks with bars.
    """

    section: str
    rows: str
    axis: Axis
    title: str
    value: Callable[[Any], Estimate | float | None]
    scale: float = 100
    joined: bool = True


def chosen_by(word: str, title: str) -> Axis:
    """Return the axis of those thresholds whose `where` begins with a word."""
    return Axis(
        title,
        lambda row: row.where.startswith(f"{word} "),
        lambda row: row.where.removeprefix(f"{word} ").replace("-", MINUS),
    )


STOPS, BRIGHTNESS = "stops of exposure below daylight", "mean brightness of the picture, of 255"
ALARMS = "false alarms in 1,000 pictures"
BY_STOP = Axis(STOPS, lambda row: True, lambda row: "as is" if row.stop is None else f"{row.stop}".replace("-", MINUS))
FEW_PICTURES = 5  # below which a range of brightness has no place in the plots: one picture more would move it far
BY_BRIGHTNESS = Axis(BRIGHTNESS, lambda row: row.pictures >= FEW_PICTURES, lambda row: f"{row.low:g} to {row.high:g}")
LINES = (
    Line("stops", "stops", BY_STOP, "AP in hundredths", lambda row: row.ap),
    Line("stops", "stops", BY_STOP, "precision, %", lambda row: row.precision),
    Line("stops", "stops", BY_STOP, "recall, %", lambda row: row.recall),
    Line("slices", "slices", BY_BRIGHTNESS, "AP in hundredths", lambda row: row.ap, 100, False),
    Line("slices", "slices", BY_BRIGHTNESS, "objects found, %", lambda r: ratio(r.found, r.objects), 100, False),
    Line("slices", "slices", BY_BRIGHTNESS, ALARMS, lambda r: ratio(r.false_alarms, r.pictures), 1000, False),
    *(
        Line(f"thresholds by {word}", "thresholds", chosen_by(word, x_title), title, value, 1)
        for word, x_title in (("brightness", BRIGHTNESS), ("stop", STOPS))
        for title, value in (
            ("confidence to set", lambda row: row.confidence if is_enough(row) else None),
            (ALARMS, lambda row: row.expected and row.expected.false_alarms),
        )
    ),
)


def ratio(part: float, whole: float) -> float | None:
    """Return part / whole; None where there is no whole."""
    return part / whole if whole else None


def all_plots(content: Content) -> dict[str, list[str]]:
    """Return the plots of the page by their section; a line is drawn where it has two places or more."""
    found: dict[str, list[str]] = {}
    for place, line in enumerate(LINES):
        rows = [row for row in getattr(content, line.rows) if row.kind == content.kind and line.axis.belongs(row)]
        if len({line.axis.label(row) for row in rows}) > 1:
            found.setdefault(line.section, []).append(of_line(content, line, rows, f"line-{place}"))
    if any(row.bins for row in content.calibrations):
        found["calibration"] = [of_calibration(content)]
    if content.errors:
        found["errors"] = [of_errors(content)]
    return found


def of_line(content: Content, line: Line, rows: Sequence[Any], name: str) -> str:
    """Draw the rows that have a place on the x axis of a `Line`, a colour and a marker for each model."""
    places = {label: place for place, label in enumerate(dict.fromkeys(map(line.axis.label, rows)))}
    models = len(content.models)
    with panel() as axes:
        for number, model in enumerate(content.models):
            own = [row for row in rows if row.model == model.name]
            shift = 0 if line.joined else (number - (models - 1) / 2) * min(0.12, 0.5 / models)
            at = [places[line.axis.label(row)] + shift for row in own]
            values, low, high = line.scale * np.array([ends_of(line.value(row)) for row in own], float).reshape(-1, 3).T
            axes.plot(at, values, MARKERS[number % COLOURS], ls="-" if line.joined else "none", color=colour(number))
            if line.joined:
                axes.fill_between(at, low, high, color=colour(number), alpha=0.16, lw=0)
            else:
                axes.vlines(at, low, high, color=colour(number), lw=1.6)
        axes.set_xticks(range(len(places)), [*places])
        axes.set_xlim(-0.4, len(places) - 0.6)
        top = axes.dataLim.y1  # no number at all: minus infinity
        axes.set_ylim(0, 1.06 * top if top > 0 else 1)
        axes.set_xlabel(line.axis.title)
        axes.set_ylabel(line.title)
        return as_svg(axes, name, f"{line.title}, against {line.axis.title}; a table has the numbers")


def ends_of(value: Estimate | float | None) -> tuple[float | None, float | None, float | None]:
    """Return a value and the ends of its interval; None, which becomes NaN, where there is none."""
    return (value.value, value.low, value.high) if isinstance(value, Estimate) else (value, None, None)


# ---- calibration and errors ----------------------------------------------------------------------


def of_calibration(content: Content) -> str:
    """Draw the share of right detections against their confidence: open marks as the model is, full ones after."""
    names = [model.name for model in content.models]
    rows = [row for row in content.calibrations if (row.kind, row.where) == (content.kind, "all pictures")]
    with panel((5.0, 3.6)) as axes:
        axes.plot([0, 1], [0, 1], "--", color=FAINT, lw=1)
        for row in rows:
            number = names.index(row.model)
            for bins, face, style in ((row.bins, "none", ":"), (row.bins_after, colour(number), "-")):
                x, y = [b.confidence for b in bins], [b.precision for b in bins]
                axes.plot(x, y, style, marker=MARKERS[number % COLOURS], mfc=face, color=colour(number), lw=1.3)
        axes.set_xlim(0, 1.03)
        axes.set_ylim(0, 1.03)
        axes.set_xlabel("confidence of the detections")
        axes.set_ylabel("share of them that are right")
        return as_svg(axes, "calibration", "share of right detections against confidence; a table has the errors")


def of_errors(content: Content) -> str:
    """Draw what each kind of error costs, a bar for each model."""
    models = content.models
    height = 0.8 / len(models)
    with panel((5.0, 1.2 + 0.34 * len(ERROR_KINDS) * max(1.0, 0.45 * len(models)))) as axes:
        for number, model in enumerate(models):
            costs = {r.name: r.cost for r in content.errors if (r.model, r.kind) == (model.name, content.kind)}
            shown = [kind for kind in ERROR_KINDS if kind in costs]
            places = [ERROR_KINDS.index(kind) + (number - (len(models) - 1) / 2) * height for kind in shown]
            axes.barh(places, [100 * costs[kind] for kind in shown], 0.86 * height, color=colour(number))
        axes.set_yticks(range(len(ERROR_KINDS)), ERROR_KINDS)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.grid(axis="x")
        axes.set_xlabel("AP50 to be gained, in hundredths")
        return as_svg(axes, "errors", "what each kind of error costs in AP50; a table has the numbers")
