"""The table of a study: means over seeds, costs, and differences against a baseline with their intervals."""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from yolo_wnlb.bootstrap import draws, resampled
from yolo_wnlb.evaluate import Evaluation
from yolo_wnlb.journal import write_json
from yolo_wnlb.study import METRICS, RESULT, Cell

DRAWS = 1000  # of the images, for the intervals


@dataclass
class Table:
    """What a study found; print it, or look at `rows`.

    Attributes:
        rows: One dict a row: name, detector, seeds, AP ... APl (means), sd of AP over the seeds, what it
            costs, and against the baseline: delta, images (interval over the choice of images),
            seeds_interval (over the seeds, paired t), clear (True if both leave out 0).
        baseline: The rows that the others are compared with, one of each detector.
        notes: Data, budget, versions.
        records: What each cell left behind: its specification, numbers, protocol, versions.
    """

    rows: list[dict[str, Any]]
    baseline: list[str]
    notes: list[str]
    records: list[dict[str, Any]]

    def __str__(self) -> str:
        """Return the table as Markdown, its notes below."""
        head = [
            "row",
            "AP",
            "AP50",
            "AP75",
            "APs",
            "APm",
            "APl",
            f"against {', '.join(self.baseline) or 'none'}",
            "M",
            "GFLOPs",
            "ms",
            "MB",
        ]
        lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
        for row in self.rows:
            ap = f"{100 * row['AP']:.2f}" + (f" ± {100 * row['sd']:.2f}" if row["sd"] is not None else "")
            numbers = [f"{100 * row[metric]:.2f}" if row[metric] > -1 else "-" for metric in METRICS[1:]]
            costs = [row.get("parameters M"), row.get("GFLOPs"), row.get("ms"), row.get("peak MB")]
            cost = ["-" if value is None else f"{value:g}" for value in costs]
            lines.append(f"| {' | '.join([row['name'], ap, *numbers, told(row), *cost])} |")
        return "\n".join([*lines, "", *(f"- {note}" for note in self.notes)])

    def save(self, folder: Path) -> None:
        """Write table.md, table.csv, table.json and table.png."""
        (folder / "table.md").write_text(f"{self}\n", encoding="utf-8")
        write_json(folder / "table.json", vars(self))
        keys = list(dict.fromkeys(key for row in self.rows for key in row))
        with (folder / "table.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, keys)
            writer.writeheader()
            writer.writerows(self.rows)
        self.plot(folder / "table.png")

    def plot(self, path: Path) -> None:
        """Draw a bar for each row, a dot for each seed."""
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        figure, axes = pyplot.subplots(figsize=(7, 0.45 * len(self.rows) + 1.2), layout="constrained")
        for place, row in enumerate(reversed(self.rows)):
            axes.barh(
                place, 100 * row["AP"], color="#9aa5b1" if row["name"] in self.baseline else "#4a6fa5", height=0.6
            )
            axes.plot([100 * ap for ap in row["by seed"]], [place] * len(row["by seed"]), "o", color="#1d1d1b", ms=3)
        axes.set_yticks(range(len(self.rows)), [row["name"] for row in reversed(self.rows)])
        axes.set_xlabel("mask AP (bar: mean, dots: seeds)")
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, dpi=150)
        pyplot.close(figure)


def told(row: Mapping[str, Any]) -> str:
    """Say what a row has more than the baseline, and whether that is more than noise."""
    if row.get("delta") is None:
        return ""
    text = f"{100 * row['delta']:+.2f} [{100 * row['images'][0]:+.2f}, {100 * row['images'][1]:+.2f}]"
    if not row["seeds_interval"]:
        return f"{text}: one seed, chance in training not known"
    text += f", seeds [{100 * row['seeds_interval'][0]:+.2f}, {100 * row['seeds_interval'][1]:+.2f}]"
    return text if row["clear"] else f"{text}: inside the noise"


def tabulate(plan: Mapping[str, Any], cells: list[Cell], latency: Mapping[str, float]) -> Table:
    """Bring all cells into one table.

    The interval over images draws them with replacement, the same ones for all rows and seeds, and
    takes the mean over the seeds; that over seeds is Student's t of the paired differences.
    """
    records = {cell.name: record for cell in cells if (record := cell.record)}  # all of them: a failed cell ends it
    rows: dict[str, list[Cell]] = {name: [] for name in plan["rows"]}
    for cell in cells:
        rows[cell.row].append(cell)
    results = {cell.name: Evaluation.from_json(cell.folder / RESULT) for cell in cells}
    protocols = {json.dumps([r.protocol[key] for key in ("truth", "max_detections")]) for r in results.values()}
    if len(protocols) > 1:
        raise ValueError(f"the cells were evaluated unlike each other: {protocols}; delete those of another truth")
    images = next(iter(results.values())).matches["segm"].images
    weights = draws(images, DRAWS, 0)
    drawn = {name: resampled(result, weights) for name, result in results.items()}

    table = []
    for name, group in rows.items():
        found = [records[cell.name] for cell in group]
        by_seed = [record["AP"] for record in found]
        row: dict[str, Any] = {"name": name, "detector": group[0].spec["detector"], "seeds": len(by_seed)}
        row |= {metric: float(np.mean([record[metric] for record in found])) for metric in METRICS}
        row |= {"sd": statistics.stdev(by_seed) if len(by_seed) > 1 else None, "by seed": by_seed}
        first = found[0]
        row |= {"parameters M": first.get("parameters M"), "GFLOPs": first.get("GFLOPs"), "ms": latency.get(name)}
        row["peak MB"] = (first.get("training") or {}).get("peak MB")
        row["w"] = [record["w"] for record in found if record["w"]]
        base = plan["baseline"].get(row["detector"])
        if base not in (None, name):
            row |= {"baseline": base, **against(group, rows[base], results, drawn)}
        table.append(row)
    truths = next(iter(results.values())).protocol
    budgets = "; ".join(f"{name}: {settings}" for name, settings in plan["train"].items())
    notes = [
        f"{plan['data']}, {plan['split']}: {truths['images']} images, {truths['objects']} objects, "
        f"truth {truths['truth']}",
        f"trained alike: {budgets}; seeds {plan['seeds']}",
        "mask AP by COCO's rules in hundredths, best 100 detections of an image; mean ± standard deviation over seeds",
        f"differences: [95 % over {DRAWS} draws of the images], seeds [95 %, paired t]; clear only if both leave out 0",
        "M parameters, GFLOPs (two a multiply-add), ms for one image from file to masks, MB at most in training",
        f"run on {', '.join(sorted({str(record['where']) for record in records.values()}))}",
    ]
    return Table(table, list(plan["baseline"].values()), notes, [*records.values()])


def against(
    group: list[Cell], base: list[Cell], results: Mapping[str, Evaluation], drawn: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Compare the cells of a row with those of the baseline, seed by seed."""
    partner = {cell.seed: cell for cell in base}
    pairs = [(cell, partner.get(cell.seed) or base[0]) for cell in group if cell.seed in partner or len(base) == 1]
    if not pairs:  # a row without seeds, against one with seeds
        pairs = [(group[0], cell) for cell in base]
    deltas = [results[a.name].masks["AP"] - results[b.name].masks["AP"] for a, b in pairs]
    gains = np.mean([drawn[a.name] - drawn[b.name] for a, b in pairs], axis=0)
    images = tuple(map(float, np.quantile(gains, [0.025, 0.975])))
    interval = None
    if len(deltas) > 1:
        from scipy.stats import t

        half = float(t.ppf(0.975, len(deltas) - 1)) * statistics.stdev(deltas) / len(deltas) ** 0.5
        interval = (statistics.mean(deltas) - half, statistics.mean(deltas) + half)
    both = [images, *([interval] if interval else [])]
    clear = bool(interval) and all(low > 0 or high < 0 for low, high in both)
    return {"delta": statistics.mean(deltas), "images": images, "seeds_interval": interval, "clear": clear}
