"""The report on robustness: scores by family with intervals, the stop of half AP, controls of attacks, curves.

evaluations of all cells --tabulate--> Report --save--> robustness.md, robustness.csv, robustness.json, curves.png

    P    score on the clean pictures: AP of detectors, accuracy of classifiers
    mPC  mean over corruptions of the mean over levels of the score
    rPC  mPC / P

Source of the three: Michaelis et al., "Benchmarking Robustness in Object Detection: Autonomous Driving when Winter is
Coming" (2019). Differences to the first model have intervals from a paired bootstrap over the pictures
(`metrics.bootstrap`); the scores of one model have none.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from yolo_wnlb.data.journal import write_json
from yolo_wnlb.metrics.accuracy import Accuracy
from yolo_wnlb.metrics.average_precision import KINDS, Evaluation
from yolo_wnlb.metrics.bootstrap import draws, widening
from yolo_wnlb.study.suite import WHITE_BOX, Cell, attack_named, control_name
from yolo_wnlb.twins.workers import in_processes, processors
from yolo_wnlb.words import literal

FORMAT = "yolo_wnlb robustness 1"
DRAWS = 1000  # of the pictures, or of their groups
SHARED = 1000  # classes of all evaluations, from which on the draws are shared among processes: 5 s of work
NAMES = {"segm": "mask AP", "bbox": "box AP", "accuracy": "accuracy"}  # of what is measured
METRICS = dict.fromkeys(KINDS, ("AP", "AP50", "AP75")) | {"accuracy": ("accuracy", "balanced accuracy")}
COLORS = ("#1d4e89", "#d1495b", "#2e8b57", "#e09f3e", "#6a4c93", "#5c6770", "#00798c", "#8d5524")
Score = Evaluation | Accuracy
Gains = dict[tuple[str, str, Cell], np.ndarray]  # kind, model, cell -> score of each draw
Structure = dict[str, dict[str, list[Cell]]]  # family -> corruption -> cells


@dataclass
class Report:
    """What was found; print it for Markdown.

    Attributes:
        models: name, weights and sha256 of each; the first one is what the others are compared with.
        kinds: "segm", "bbox" or both, or "accuracy": what all models were evaluated by.
        request: Which pictures, and how they were drawn.
        families: A dict for each kind, family and model: P, mPC, rPC, and for all but the first model the
            difference of mPC to the first (delta) with its interval (low, high). The family "all" is the mean over
            all corruptions but the stops and attacks.
        cells: A dict for each kind, model and cell: family, corruption, level, strength, the METRICS of the kind, and
            the difference to the first model in the first of them. Attacks and their controls have the mean loss
            before and after.
        stops: A dict for each kind and model: the stop at which the score is half of P, with its interval, "reached",
            "vague" where it is not reached, which means nothing as the interval of P goes down to half of P, and where
            both reach it the difference to the first model.
        attacks: A dict for each model and attack: score and loss after it and after its control, and whether it bites.
        notes: What the reader has to know.
    """

    models: list[dict[str, Any]]
    kinds: list[str]
    request: dict[str, Any]
    families: list[dict[str, Any]]
    cells: list[dict[str, Any]]
    stops: list[dict[str, Any]]
    attacks: list[dict[str, Any]]
    notes: list[str]

    def __str__(self) -> str:
        """Return the report as Markdown."""
        return "\n".join(markdown(self))

    def save(self, folder: Path) -> None:
        """Write robustness.md, robustness.csv, robustness.json and curves.png."""
        form: Any = {"encoding": "utf-8", "errors": "backslashreplace"}  # names of files may be no UTF-8
        (folder / "robustness.md").write_text(f"{self}\n", **form)
        write_json(folder / "robustness.json", {"format": FORMAT, **vars(self)})
        with (folder / "robustness.csv").open("w", newline="", **form) as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(key for row in self.cells for key in row)))
            writer.writeheader()
            writer.writerows(self.cells)
        plot(self, folder / "curves.png")


# ---- from evaluations to numbers -----------------------------------------------------------------


def tabulate(
    models: Sequence[Mapping[str, Any]],
    cells: Sequence[Cell],
    found: Mapping[tuple[str, Cell], Any],
    request: Mapping[str, Any],
    groups: Sequence[str] | None = None,
) -> Report:
    """Bring the evaluations of all cells into one report.

    Args:
        models: name, weights, sha256 of each.
        cells: The clean one first; see `suite.Cell`.
        found: The `Evaluation` or `Accuracy` of each model name and cell.
        request: Which pictures, and how they were drawn.
        groups: The group of each picture, in the order of their ids; None where each is drawn by itself.
    """
    names = [model["name"] for model in models]
    clean = cells[0]
    kinds = [kind for kind in NAMES if all(kind in kinds_of(found[name, clean]) for name in names)]
    images = images_of(found[names[0], clean])
    units = len({*groups}) if groups else images
    structure = structure_of(cells)
    stops = [cell for cell in cells if cell.name == "stops"]
    weights = draws(images, DRAWS, 0, groups)
    wanted = cells if len(names) > 1 else [clean, *stops] if stops else []
    gains = drawn_scores(
        [((kind, name, cell), found[name, cell]) for kind in kinds for name in names for cell in wanted], weights
    )

    def ap(kind: str, name: str, cell: Cell) -> float:
        return numbers_of(found[name, cell], kind)[METRICS[kind][0]]

    families, rows = list[dict[str, Any]](), list[dict[str, Any]]()
    for kind in kinds:
        for family, corruptions in structure.items():
            for name in names:
                scores = summary(
                    ap(kind, name, clean), {c: [ap(kind, name, cell) for cell in of] for c, of in corruptions.items()}
                )
                row: dict[str, Any] = {"kind": kind, "family": family, "model": name, **scores}
                if name != names[0]:
                    first = next(r for r in families if (r["kind"], r["family"]) == (kind, family))
                    drawn = [mean_of_means(gains, kind, model, corruptions) for model in (names[0], name)]
                    row |= interval(scores["mPC"] - first["mPC"], drawn[1] - drawn[0], units)
                families.append(row)
        for name in names:
            for cell in cells:
                result = found[name, cell]
                row = {"kind": kind, "model": name, "family": cell.family, "corruption": cell.name}
                row |= {"level": cell.level, "strength": cell.strength}
                row |= {metric: numbers_of(result, kind)[metric] for metric in METRICS[kind]}
                if name != names[0]:
                    delta = row[METRICS[kind][0]] - ap(kind, names[0], cell)
                    row |= interval(delta, gains[kind, name, cell] - gains[kind, names[0], cell], units)
                row |= {k: result.protocol[k] for k in ("loss_before", "loss_after") if k in result.protocol}
                rows.append(row)
    halves = [
        {"kind": kind, **row}
        for kind in (kinds if stops else ())
        for row in half_stops(
            names, [c.level for c in stops], lambda n, c, k=kind: (ap(k, n, c), gains[k, n, c]), clean, stops, units
        )
    ]
    attacks = controls_of(rows, kinds[0], names)
    report = Report([*map(dict, models)], kinds, dict(request), families, rows, halves, attacks, [])
    report.notes = notes(report, images, units if groups else None)
    return report


def kinds_of(score: Score) -> tuple[str, ...]:
    """Return what a score measures: keys of NAMES."""
    return ("accuracy",) if isinstance(score, Accuracy) else tuple(score.matches)


def images_of(score: Score) -> int:
    """Return how many pictures were measured."""
    return score.images if isinstance(score, Accuracy) else next(iter(score.matches.values())).images


def numbers_of(score: Score, kind: str) -> Mapping[str, float]:
    """Return the numbers of a score by name, in [0, 1]."""
    return score.numbers() if isinstance(score, Accuracy) else score.numbers(kind)


def drawn_scores(items: Sequence[tuple[tuple[str, str, Cell], Score]], weights: np.ndarray) -> Gains:
    """Return the score of each draw; with many classes and cells, in as many processes as there are."""
    classes = sum(len(score.objects) for _, score in items if isinstance(score, Evaluation))
    workers = processors() if classes >= SHARED else 1
    return dict(in_processes(functools.partial(drawn_score, weights), items, workers))


def drawn_score(weights: np.ndarray, item: tuple[tuple[str, str, Cell], Score]) -> tuple[Any, np.ndarray]:
    """Return a score on each draw, behind its key, which begins with the kind."""
    key, score = item
    if isinstance(score, Accuracy):
        return key, score.resampled(weights)
    return key, score.resampled(weights, kind=key[0])


def structure_of(cells: Sequence[Cell]) -> Structure:
    """Put the cells under their families and corruptions; "all" holds those of every family but attacks.

    The stops are an axis of their own, and count in no mean.
    """
    structure: Structure = {}
    for cell in cells:
        if cell.family not in ("clean", "control") and cell.name != "stops":
            structure.setdefault(cell.family, {}).setdefault(cell.name, []).append(cell)
    everything = {
        c: of for family, corruptions in structure.items() if not attack_named(family) for c, of in corruptions.items()
    }
    return {"all": everything, **structure} if everything else structure


def summary(clean: float, by_corruption: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Return P, mPC and rPC of the AP on clean pictures and at each level of each corruption.

    rPC is None where P is 0.

    Example:
        >>> summary(0.4, {"fog": [0.3, 0.1], "noise": [0.4]})
        {'P': 0.4, 'mPC': 0.3, 'rPC': 0.75}
    """
    mpc = float(np.mean([np.mean(levels) for levels in by_corruption.values()]))
    mpc = round(mpc, 15)  # 0.30000000000000004
    return {"P": clean, "mPC": mpc, "rPC": round(mpc / clean, 15) if clean > 0 else None}


def mean_of_means(gains: Gains, kind: str, model: str, corruptions: Mapping[str, Sequence[Cell]]) -> np.ndarray:
    """Return the mPC of each draw."""
    return np.mean([np.mean([gains[kind, model, cell] for cell in of], axis=0) for of in corruptions.values()], axis=0)


def interval(delta: float, gains: np.ndarray, units: int) -> dict[str, float]:
    """Return a difference with its 95 % interval, as `paired_bootstrap` computes it.

    Args:
        delta: The difference on the pictures as they are.
        gains: The difference on each draw.
        units: How many pictures, or groups of them, were drawn from.
    """
    low, high = np.quantile(gains - gains.mean(), (0.025, 0.975)) * widening(units)
    return {"delta": delta, "low": delta + float(low), "high": delta + float(high)}


def half_stops(
    names: Sequence[str], levels: Sequence[int], value: Any, clean: Cell, cells: Sequence[Cell], units: int
) -> list[dict[str, Any]]:
    """Find the stop at which each model has half of its AP in daylight.

    Args:
        names: Of the models.
        levels: Stops below daylight of each cell, 0 to 7.
        value: Of a model's name and a cell, the AP and that of each draw.
        clean: The cell of clean pictures.
        cells: Those of the stops.
        units: How many pictures, or groups of them, were drawn from.
    """
    rows, drawn = list[dict[str, Any]](), dict[str, np.ndarray]()
    for name in names:
        points = [value(name, cell) for cell in cells]
        day, days = value(name, clean)
        if day <= 0:
            rows.append({"model": name, "stop": None, "reached": False, "vague": False})
            continue
        at, reached = crossings(np.array([day]), np.array([[ap for ap, _ in points]]), levels)
        drawn[name], ends = crossings(days, np.stack([aps for _, aps in points], 1), levels)
        row: dict[str, Any] = {"model": name, "stop": float(at[0]), "reached": bool(reached[0])}
        row["vague"] = not row["reached"] and bool(interval(day, days, units)["low"] <= day / 2)
        found = interval(row["stop"], drawn[name], units)
        row["low"], row["high"] = (float(np.clip(found[end], -max(levels), 0)) for end in ("low", "high"))
        row["open"] = bool((~ends).mean() > 0.025)  # the lower end lies beyond the last stop
        if name != names[0] and row["reached"] and rows[0]["reached"]:  # else the difference is not known
            found = interval(row["stop"] - rows[0]["stop"], drawn[name] - drawn[names[0]], units)
            row |= {f"{key} to the first": number for key, number in found.items()}
        rows.append(row)
    return rows


def crossings(day: np.ndarray, aps: np.ndarray, levels: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the stop at which AP first falls to half, linear between two measured stops.

    Args:
        day: AP on the clean pictures, (B,).
        aps: AP at each stop, (B, S).
        levels: Stops below daylight, (S,), rising from 0.
    Returns: The stop, 0 or less, (B,): 0 where AP is that low at once, and the last stop where it never is; whether
        it ever is, bool (B,).
    """
    half = day / 2
    low = np.less_equal(aps, half[:, None])
    at = low.argmax(1)
    rows, before = np.arange(len(aps)), np.maximum(at - 1, 0)
    higher, lower = aps[rows, before], aps[rows, at]
    share = np.where(higher > lower, (higher - half) / np.where(higher > lower, higher - lower, 1), 0)
    steps = np.asarray(levels, float)
    stop = np.where(at > 0, steps[before] + share * (steps[at] - steps[before]), steps[0])
    reached = np.asarray(low.any(1))
    return -np.where(reached, stop, steps[-1]), reached


def controls_of(rows: Sequence[Mapping[str, Any]], kind: str, names: Sequence[str]) -> list[dict[str, Any]]:
    """Hold each attack against a random change of the same size.

    An attack bites if it costs more of the score than its control and raises the loss more.
    """
    own, score = [row for row in rows if row["kind"] == kind], METRICS[kind][0]
    found = []
    for row in (row for row in own if attack_named(row["family"])):
        name = control_name(row["family"])
        control = next(
            r for r in own if (r["model"], r["corruption"], r["strength"]) == (row["model"], name, row["strength"])
        )
        found.append(
            {
                "model": row["model"],
                "attack": row["corruption"],
                "strength": row["strength"],
                score: row[score],
                "control": name,
                f"control {score}": control[score],
                "loss before": row["loss_before"],
                "loss after": row["loss_after"],
                "control loss after": control["loss_after"],
                "bites": row[score] <= control[score] and row["loss_after"] > control["loss_after"],
            }
        )
    return sorted(found, key=lambda row: names.index(row["model"]))


# ---- Markdown ------------------------------------------------------------------------------------


def markdown(report: Report) -> list[str]:
    """Return the lines of robustness.md."""
    first, kind = report.models[0]["name"], report.kinds[0]
    score = METRICS[kind][0]
    several = len(report.models) > 1
    lines = [f"# Robustness of {', '.join(model['name'] for model in report.models)}", ""]
    lines += [f"- {note}" for note in report.notes]
    for of in report.kinds:
        rows = [row for row in report.families if row["kind"] == of]
        if rows:
            head = ["family", "model", "P", "mPC", "rPC", *([f"mPC less that of {first}"] if several else [])]
            lines += [
                "",
                f"## By family, {NAMES[of]}",
                "",
                *table(
                    head,
                    [
                        [
                            row["family"],
                            row["model"],
                            points(row["P"]),
                            points(row["mPC"]),
                            percent(row["rPC"]),
                            *([difference(row)] if several else []),
                        ]
                        for row in rows
                    ],
                ),
            ]
    if report.stops:
        head = [
            "model",
            "score",
            f"half of its {score} by day is reached at",
            *([f"less that of {first}"] if several else []),
        ]
        body = [
            [r["model"], NAMES[r["kind"]], stop_text(r), *([stop_difference(r)] if several else [])]
            for r in report.stops
        ]
        lines += ["", "## How dark may it get", "", *table(head, body)]
    if report.attacks:
        lines += ["", f"## Attacks and their controls, {NAMES[kind]}", ""]
        head = [
            "model",
            "attack",
            score,
            f"{score} after a random change",
            "loss before",
            "after",
            "after a random change",
            "",
        ]
        lines += table(
            head,
            [
                [
                    r["model"],
                    f"{r['attack']} {r['strength']}",
                    points(r[score]),
                    points(r[f"control {score}"]),
                    f"{r['loss before']:.2f}",
                    f"{r['loss after']:.2f}",
                    f"{r['control loss after']:.2f}",
                    "" if r["bites"] else "gradient masking, or an attack that does not bite",
                ]
                for r in report.attacks
            ],
        )
    lines += ["", f"## Every level, {NAMES[kind]}"]
    own = [row for row in report.cells if row["kind"] == kind]
    for name in dict.fromkeys(row["corruption"] for row in own if row["family"] not in ("clean", "control")):
        of_name = [row for row in own if row["corruption"] == name]
        strengths = list(dict.fromkeys(row["strength"] for row in of_name))
        body = []
        for model in (model["name"] for model in report.models):
            mine = [row for row in own if row["model"] == model and row["corruption"] in ("clean", name)]
            body.append([model, *(points(row[score]) for row in mine)])
            if model != first:
                body.append([f"{model} less {first}", *(difference(row) for row in mine)])
        lines += ["", *table([name, "clean", *strengths], body)]
    return lines


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table."""
    escaped = [[str(part).replace("|", "\\|") for part in row] for row in (head, *body)]
    return [f"| {' | '.join(row)} |" for row in (escaped[0], ["---"] * len(head), *escaped[1:])]


def points(score: float) -> str:
    """Write a score in hundredths."""
    return f"{100 * score:.2f}" if score >= 0 else "-"


def percent(share: float | None) -> str:
    """Write a share."""
    return "-" if share is None else f"{share:.1%}"


def difference(row: Mapping[str, Any]) -> str:
    """Write a difference of scores with its interval; in bold where the interval leaves out 0."""
    if "delta" not in row:
        return ""
    text = f"{100 * row['delta']:+.2f} [{100 * row['low']:+.2f}, {100 * row['high']:+.2f}]"
    return f"**{text}**" if row["low"] > 0 or row["high"] < 0 else text


def stop_text(row: Mapping[str, Any]) -> str:
    """Write the stop of half the score by day with its interval."""
    if row["stop"] is None:
        return "nothing by day either"
    if row["vague"]:
        return "cannot be told: too uncertain by day, on so few pictures"
    low = f"below {row['low']:.1f}" if row["open"] else f"{row['low']:.1f}"
    if not row["reached"]:
        return f"not down to {row['stop']:.0f} stops"
    if row["stop"] == 0:
        return "the noise alone, at 0 stops"
    return f"{row['stop']:.1f} stops [{low}, {row['high']:.1f}]"


def stop_difference(row: Mapping[str, Any]) -> str:
    """Write the difference of two such stops with its interval."""
    if "delta to the first" not in row:
        return ""
    delta, low, high = (row[f"{key} to the first"] for key in ("delta", "low", "high"))
    return f"{delta:+.1f} [{low:+.1f}, {high:+.1f}]"


def notes(report: Report, images: int, groups: int | None) -> list[str]:
    """Write what the reader has to know."""
    request = report.request
    drawn = f"{groups} groups of {images} pictures" if groups else f"{images} pictures"
    split = f", {request['split']}" if request["split"] else ""
    size = "as each model was trained" if request["imgsz"] is None else f"{request['imgsz']} pixels"
    measured = "AP by COCO's rules"
    if report.kinds == ["accuracy"]:
        measured = "accuracy, the share of the pictures that were given their class,"
    lines = [
        f"{request['data']}{split}: {images} pictures, truth {request['truth']}; image size {size}; seed "
        f"{request['seed']}",
        *(
            f"model {m['name']}: {m['weights']}, sha256 {m['sha256'][:12]}"
            + (f", attacked with {m['attacked with']}" if "attacked with" in m else "")
            + {"measured": "; white box: with its own"}.get(m.get("white box", ""), "")
            for m in report.models
        ),
        f"{measured} in hundredths. P: clean pictures; mPC: mean over corruptions of the mean over levels; "
        "rPC: mPC / P; family all: all corruptions but stops and attacks",
    ]
    if len(report.models) > 1:
        lines.append(
            f"differences to {report.models[0]['name']} with 95 % intervals over the choice of pictures ({DRAWS} draws "
            f"of {drawn}, the same for all), in bold where they leave out 0. They do not cover chance in training, nor "
            "are they corrected for their number: of 20 that are nothing, one is bold"
        )
    if report.stops:
        lines.append(
            f"stops: exposure below daylight in powers of 2, at the noise of the preset {request['preset']}; linear "
            "between two stops"
        )
    if report.attacks:
        normalised = ", divided by the standard deviation of their channel" if request.get("space") else ""
        lines.append(
            "attacks change the input of the network after the picture was fitted into it; radii count pixels from 0 "
            f"to 1{normalised}, and l2 radii are those at 224 x 224 pixels"
        )
    if lacking := [m["name"] for m in report.models if m.get("white box", "").startswith("no ")]:
        lines.append(
            f"{', '.join(lacking)} has no gradients of its own, so that the attacks here are those of the surrogate "
            "alone, and no white box stands beside them"
        )
    elif any(row["family"].endswith(WHITE_BOX) for row in report.cells):
        lines.append(
            "an attack through a surrogate knows that network alone. Beside it stands the white box, which knows the "
            "model: what an attacker who has its file can do"
        )
    return lines


# ---- curves --------------------------------------------------------------------------------------


def panels_of(report: Report, kind: str) -> dict[str, list[str]]:
    """Return the corruptions whose mean each panel shows: a panel for each family, and one for the stops."""
    panels: dict[str, list[str]] = {}
    for row in report.cells:
        if row["kind"] == kind and row["family"] not in ("clean", "control"):
            title = "stops below daylight" if row["corruption"] == "stops" else row["family"]
            if row["corruption"] not in panels.setdefault(title, []):
                panels[title].append(row["corruption"])
    return panels


def plot(report: Report, path: Path) -> None:
    """Draw a panel for each family, a line for each model; dotted: the random changes that attacks are held against."""
    from matplotlib.figure import Figure

    kind = report.kinds[0]
    score, panels = METRICS[kind][0], panels_of(report, kind)
    columns = min(3, len(panels))
    count = -(-len(panels) // columns)
    figure = Figure(figsize=(4 * columns, 3.1 * count + 0.5), layout="constrained")
    grid = figure.subplots(count, columns, squeeze=False, sharey=True)
    own = [row for row in report.cells if row["kind"] == kind]
    for axes, (title, corruptions) in zip(grid.flat, panels.items()):
        rows = [row for row in own if row["corruption"] in corruptions]
        levels = sorted({row["level"] for row in rows})
        strengths = [next(row["strength"] for row in rows if row["level"] == level) for level in levels]
        for number, model in enumerate(report.models):
            name, color = model["name"], COLORS[number % len(COLORS)]
            [day] = [row[score] for row in own if row["model"] == name and row["family"] == "clean"]
            means = [
                np.mean([row[score] for row in rows if row["model"] == name and row["level"] == level])
                for level in levels
            ]
            curve = 100 * np.maximum([day, *means], 0)
            axes.plot(range(len(curve)), curve, "o-", color=color, ms=3.5, lw=1.6, label=literal(name))
            control = {
                r["strength"]: r[f"control {score}"]
                for r in report.attacks
                if r["model"] == name and r["attack"] in corruptions
            }
            if control:
                dotted = 100 * np.maximum([day, *(control[strength] for strength in strengths)], 0)
                axes.plot(range(len(dotted)), dotted, ":", color=color, lw=1.4)
            if title.startswith("stops"):
                axes.axhline(50 * day, color=color, lw=0.8, ls="--")
        axes.set_xticks(range(len(levels) + 1), ["clean", *strengths], fontsize=8)
        alone = title if title.startswith("stops") or corruptions == [title] else f"{title}: {corruptions[0]}"
        axes.set_title(alone if len(corruptions) == 1 else f"{title}: mean of {len(corruptions)}", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylim(bottom=0)
        axes.grid(axis="y", color="#dddddd", lw=0.6)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    for row_of_axes in grid:
        row_of_axes[0].set_ylabel(NAMES[kind])
    grid[0][0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=140, metadata={"Software": None})
