"""The table of a study: means over seeds, costs, and differences against a baseline with their intervals."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from yolo_wnlb.data.journal import write_json
from yolo_wnlb.metrics.average_precision import Evaluation
from yolo_wnlb.metrics.bootstrap import draws, resampled
from yolo_wnlb.study.plan import METRICS, RESULT, Cell, differences

DRAWS = 1000  # of the images, for the intervals
PROTOCOL = (  # in what all cells of a detector have to be alike
    *("truth", "max_detections", "image_size", "confidence_floor", "nms", "nms_iou", "mask_threshold"),
    "detections_per_image",
)


@dataclass
class Table:
    """What a study found; print it, or look at `rows`.

    Attributes:
        rows: One dict a row: name, detector, seeds, AP ... APl (means), sd of AP over the seeds, what it
            costs, and against the baseline: delta (mean), deltas (by seed), over_seeds and over_images
            (half the 95 % interval by each source of chance), interval (both together), clear (it
            leaves out 0, and there is more than one seed).
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
            name = row["name"].replace("|", "\\|")
            lines.append(f"| {' | '.join([name, ap, *numbers, told(row), *cost])} |")
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
    text = f"{100 * row['delta']:+.2f} [{100 * row['interval'][0]:+.2f}, {100 * row['interval'][1]:+.2f}]"
    if row["over_seeds"] is None:
        return f"{text}: one seed, chance in training not known"
    return text if row["clear"] else f"{text}: inside the noise"


def tabulate(plan: Mapping[str, Any], cells: list[Cell], latency: Mapping[str, Any]) -> Table:
    """Bring all cells, which are done, into one table."""
    records = {cell.folder: cell.record or {} for cell in cells}
    rows: dict[str, list[Cell]] = {name: [] for name in plan["rows"]}
    for cell in cells:
        rows[cell.row].append(cell)
    results = {cell.folder: Evaluation.from_json(cell.folder / RESULT) for cell in cells}
    for cell in cells:
        model = next(other for other in cells if other.spec["detector"] == cell.spec["detector"])
        there, here = ({key: records[c.folder]["protocol"].get(key) for key in PROTOCOL} for c in (model, cell))
        if other := differences(there, here):
            raise ValueError(
                f"{cell.name} and {model.name} were evaluated unlike each other: {other}; say it in train:"
            )
    images = next(iter(results.values())).matches["segm"].images
    weights = draws(images, DRAWS, 0)
    drawn = {folder: resampled(result, weights) for folder, result in results.items()}

    table = []
    for name, group in rows.items():
        found = [records[cell.folder] for cell in group]
        by_seed = [record["AP"] for record in found]
        row: dict[str, Any] = {"name": name, "detector": group[0].spec["detector"], "seeds": len(by_seed)}
        row |= {metric: float(np.mean([record[metric] for record in found])) for metric in METRICS}
        row |= {"sd": statistics.stdev(by_seed) if len(by_seed) > 1 else None, "by seed": by_seed}
        first = found[0]
        row |= {key: first.get(key) for key in ("parameters M", "GFLOPs")}
        row["ms"], row["ms quartiles"] = (latency[name][0], latency[name][1:]) if latency[name] else (None, None)
        row["peak MB"] = (first["training"] or {}).get("peak MB")
        row["w"] = [record["w"] for record in found if record["w"]]
        base = plan["baseline"].get(row["detector"])
        if base not in (None, name):
            row |= {"baseline": base, **against(group, rows[base], results, drawn)}
        table.append(row)
    truths = next(iter(results.values())).protocol
    notes = [
        f"{plan['data']}, {plan['split']}: {truths['images']} images, {truths['objects']} objects, "
        f"truth {truths['truth']}; seeds {', '.join(map(str, plan['seeds']))}",
        *(f"{name}: {settings}" for name, settings in plan["train"].items()),
        *(
            f"row {row['name']}: AP is 0, which says nothing but that it has learnt nothing"
            for row in table
            if not any(row["by seed"])
        ),
        *(f"row {name}: {own}" for name, row in plan["rows"].items() if (own := unlike(row))),
        "mask AP by COCO's rules in hundredths, best 100 detections of an image; mean ± standard deviation over seeds",
        "difference: mean over the seeds, in pairs where both rows have them, and 95 % interval: chance in training "
        f"(Student's t over the seeds) and in the choice of images ({DRAWS} draws, the same for all) together; each "
        "row by itself: of 20 that change nothing one is expected to look clear; weights without a seed count as given",
        "M parameters; GFLOPs (two a multiply-add; without the heads of Mask R-CNN and SOLOv2, which depend on what "
        "they find); ms for one image from file to masks, median; MB at most in training (of a GPU, its memory)",
        f"run on {', '.join(sorted({str(record['where']) for record in records.values()}))}",
    ]
    return Table(table, list(plan["baseline"].values()), notes, [*records.values()])


def unlike(row: Mapping[str, Any]) -> str:
    """Say in what the training of a row is its own."""
    own = {**row.get("train", {}), **row.get("options", {})}
    trained_on = [f"on {row['data']}"] if "data" in row else []
    return ", ".join([*trained_on, *(f"{key}: {value}" for key, value in own.items())])


def against(
    group: list[Cell], base: list[Cell], results: Mapping[Path, Evaluation], drawn: Mapping[Path, np.ndarray]
) -> dict[str, Any]:
    """Compare the cells of a row with those of the baseline, seed by seed.

    Half the interval is sqrt((t s / sqrt(n))^2 + 1.96^2 V): s is the spread of the n differences by seed, t
    Student's, and V the variance, over the draws of the images, of what all seeds have in common. What
    each seed makes of an image of its own is in s already: with V_1 the variance of one seed's difference
    and V_n that of their mean, V = (n V_n - V_1) / (n - 1).
    """
    partner = {cell.seed: cell for cell in base}
    pairs = [(cell, partner.get(cell.seed) or base[0]) for cell in group if cell.seed in partner or len(base) == 1]
    if not pairs:  # a row without seeds, against one with seeds
        pairs = [(group[0], cell) for cell in base]
    deltas = [results[a.folder].masks["AP"] - results[b.folder].masks["AP"] for a, b in pairs]
    gains = np.array([drawn[a.folder] - drawn[b.folder] for a, b in pairs])
    n, variance, over_seeds = len(deltas), gains.mean(0).var(ddof=1), None
    if n > 1:
        from scipy.stats import t

        variance = max(0.0, (n * variance - gains.var(axis=1, ddof=1).mean()) / (n - 1))
        over_seeds = float(t.ppf(0.975, n - 1)) * statistics.stdev(deltas) / n**0.5
    over_images = 1.96 * float(variance) ** 0.5
    delta, half = statistics.mean(deltas), math.hypot(over_images, over_seeds or 0.0)
    found = {"delta": delta, "deltas": deltas, "over_seeds": over_seeds, "over_images": over_images}
    return {**found, "interval": (delta - half, delta + half), "clear": over_seeds is not None and abs(delta) > half}
