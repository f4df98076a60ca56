"""The means over seeds of several reports on robustness, with intervals for their differences, as Markdown tables.

    python scripts/robustness_over_seeds.py runs/robustness/contexts-0 runs/robustness/contexts-1 [first=foreground]

Each folder is the report of one seed of a study: models whose folders end in the seed, such as plain-0 and wnlb-0, on
the same pictures. There is a table for each corruption; its rows are those of the study, its columns the strengths.
Behind a mean stands its difference to the first row, or to first=, with the 95 % interval that the table of a study has
too: of chance in training and in the choice of pictures, which are drawn one by one, whatever groups= the reports had.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from yolo_wnlb.metrics.bootstrap import draws
from yolo_wnlb.reading import read_json
from yolo_wnlb.study import robustness_classifiers, robustness_detectors
from yolo_wnlb.study.robustness import CELLS
from yolo_wnlb.study.robustness_report import DRAWS, METRICS, NAMES, images_of, numbers_of
from yolo_wnlb.study.suite import WHITE_BOX, attack_named
from yolo_wnlb.study.table import difference

Column = tuple[str, str]  # corruption and strength
Drawn = tuple[float, np.ndarray]  # the score of a run, and the same on drawn pictures
Scores = dict[str, dict[Column, list[Drawn]]]  # of each row of the study, one for each seed


def main(words: list[str]) -> None:
    """Print the tables."""
    options = dict(word.split("=", 1) for word in words if "=" in word)
    folders = [Path(word) for word in words if "=" not in word]
    if len(folders) < 2 or {*options} - {"first"}:
        sys.exit(__doc__)
    if len({folder.resolve() for folder in folders}) < len(folders):
        sys.exit("a folder is given twice; give the report of another seed for each")
    reports = [report_in(folder) for folder in folders]
    check_seeds(folders, reports)
    if any(report["request"] != reports[0]["request"] for report in reports):
        sys.exit("the reports are of other pictures, sizes or seeds of the corruptions; measure all of them alike")
    for kind in reports[0]["kinds"]:
        scores: Scores = {}
        for folder, report in zip(folders, reports):
            for row, column, score in cells_of(folder, report, kind):
                units = images_of(score)
                of_kind = {} if kind == "accuracy" else {"kind": kind}
                drawn = score.resampled(draws(units, DRAWS, 0), **of_kind)
                value = numbers_of(score, kind)[METRICS[kind][0]]
                scores.setdefault(row, {}).setdefault(column, []).append((value, drawn))
        first = options.get("first", next(iter(scores)))
        if first not in scores:
            sys.exit(f"first={first} is no row; choose from {', '.join(scores)}")
        counts = [len(runs) for columns in scores.values() for runs in columns.values()]
        if {*counts} != {len(folders)} or len({frozenset(columns) for columns in scores.values()}) > 1:
            sys.exit("the reports have other rows or corruptions; measure the same for each seed")
        print_tables(kind, scores, first, units)


def report_in(folder: Path) -> dict[str, Any]:
    """Read the report in a folder; end with one line where there is none, or its cells are not beside it."""
    if not folder.is_dir():
        sys.exit(f"there is no folder {folder}; give the out= of yolo-wnlb robustness, one for each seed")
    try:
        report = read_json(folder / "robustness.json")
    except FileNotFoundError:
        sys.exit(f"{folder} holds no robustness.json; give the out= of yolo-wnlb robustness, when it has ended")
    except (OSError, ValueError) as error:
        sys.exit(str(error))
    if not isinstance(report, dict) or {"request", "kinds", "models", "cells"} - {*report}:
        sys.exit(f"{folder / 'robustness.json'} is no report of yolo-wnlb robustness")
    if not (folder / CELLS).is_dir():
        sys.exit(f"{folder} lacks the folder {CELLS}/ of its report, which the intervals are from; copy it along")
    return report


def check_seeds(folders: list[Path], reports: list[dict[str, Any]]) -> None:
    """End with one line where a row has the same model in two reports: it would count as two seeds."""
    seen: dict[tuple[str, str], str] = {}
    for folder, report in zip(folders, reports):
        for model in report["models"]:
            row, said = row_of(model["name"]), f"{model['name']} in {folder}"
            if other := seen.get((row, model["sha256"])):
                sys.exit(f"{other} and {said} are the same model (equal sha256), so not two seeds of row {row}")
            seen[row, model["sha256"]] = said


def row_of(model: str) -> str:
    """Return the row of the study that a model belongs to: its name without the seed."""
    return re.sub(r"-\d+(/(last|best))?$", "", model)


def cells_of(folder: Path, report: dict[str, Any], kind: str) -> Iterator[tuple[str, Column, Any]]:
    """Yield the row of the study, the column and the score of each cell of a report, controls left out."""
    module: Any = robustness_classifiers if kind == "accuracy" else robustness_detectors
    files: dict[tuple[str, str, int], dict[str, Path]] = {}  # weights, corruption, level -> surrogate -> file
    for file in sorted((folder / CELLS).rglob("*.json")):
        cell = read_json(file)["protocol"]["cell"]
        files.setdefault((cell["weights"], cell["corruption"], cell["level"]), {})[cell["surrogate"]] = file
    hashes = {model["name"]: model["sha256"] for model in report["models"]}
    for cell in report["cells"]:
        if cell["kind"] != kind or cell["family"].startswith("control"):
            continue
        name, sha256 = cell["corruption"], hashes[cell["model"]]
        place = (sha256, name.removesuffix(WHITE_BOX), cell["level"])
        if place not in files:
            sys.exit(f"{folder / CELLS} lacks {name} {cell['strength']} of {cell['model']}; copy the report again")
        found = dict(files[place])
        if len(found) > 1 and attack_named(name) and not name.endswith(WHITE_BOX):
            found.pop(sha256)  # by a surrogate; the model's own gradients are the white box
        file = found.get(sha256) or next(iter(found.values()))
        yield row_of(cell["model"]), (name, cell["strength"] or NAMES[kind]), module.read_score(file)


def print_tables(kind: str, scores: Scores, first: str, units: int) -> None:
    """Print a table for each corruption, the clean pictures first."""
    seeds = len(next(iter(scores[first].values())))
    print(f"{NAMES[kind]}, mean of {seeds} seeds (difference to {first} [95 % interval over seeds and pictures])")
    for corruption in dict.fromkeys(name for name, _ in scores[first]):
        columns = [column for column in scores[first] if column[0] == corruption]
        print(f"\n| {corruption} | {' | '.join(strength for _, strength in columns)} |\n|---|{'---|' * len(columns)}")
        for row, runs in scores.items():
            entries = [entry(runs[at], scores[first][at] if row != first else None, units) for at in columns]
            print(f"| {row} | {' | '.join(entries)} |")


def entry(runs: list[Drawn], base: list[Drawn] | None, units: int) -> str:
    """Write the mean over the seeds of a row, and its difference to another row."""
    mean = f"{100 * np.mean([value for value, _ in runs]):.1f}"
    if base is None:
        return mean
    deltas = [value - other for (value, _), (other, _) in zip(runs, base)]
    found = difference(deltas, np.array([drawn - other for (_, drawn), (_, other) in zip(runs, base)]), units)
    low, high = found["interval"]
    return f"{mean} ({100 * found['delta']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}])"


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (OSError, ValueError) as wrong:
        sys.exit(str(wrong))
