"""The table of a study: means over seeds, costs, and differences against a baseline with their intervals.

results of all runs --tabulate--> Table --save--> table.md, table.csv, table.json, table.png, matches.npz
table.json, matches.npz --remake--> the same Table, its intervals drawn anew: python -m yolo_wnlb.study.table FOLDER
"""

from __future__ import annotations

import csv
import math
import statistics
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from yolo_wnlb.data.journal import write_json
from yolo_wnlb.data.sources import printable
from yolo_wnlb.metrics.bootstrap import draws, widening
from yolo_wnlb.metrics.score import Score
from yolo_wnlb.reading import read_json
from yolo_wnlb.study.measures import BY_COCO, KINDS
from yolo_wnlb.study.plan import METRICS, UNET
from yolo_wnlb.study.runs import differences, folder_of
from yolo_wnlb.words import literal

DRAWS = 1000  # of the pictures, or of their groups, for the intervals
PROTOCOL = (  # in which all runs of a detector have to be alike
    *("truth", "max_detections", "image_size", "confidence_floor", "nms", "nms_iou", "mask_threshold"),
    *("detections_per_image", "noise_sd", "tune"),
)
NO_NMS = "none, end to end"  # the nms_iou of a model whose architecture needs no suppression
WIDEST = 20  # most columns of numbers; a table of more classes and groups than that leaves them to table.json


class Result(NamedTuple):
    """What a table is made of: one run, its record (see `run.run`) and its score."""

    row: str
    seed: int | None
    record: dict[str, Any]
    score: Score | None  # None of a run that only lends its weights

    @property
    def name(self) -> str:
        """Row and seed, for messages."""
        return self.row if self.seed is None else f"{self.row}, seed {self.seed}"

    @property
    def file_name(self) -> str:
        """What its matches are called in matches.npz: the name of its folder."""
        return folder_of(Path(), self.row, self.seed).name


@dataclass
class Table:
    """What a study found; print it, or look at `rows`.

    Attributes:
        rows: A dict for each row: name, detector, seeds; the `metrics` of `kind`, such as AP ... APl (means over the
            seeds, in [0, 1], -1 where the truth has no such object); "by seed" and sd, both of the first metric;
            the AP of the other kind as "mask AP" or "box AP", None where it was not measured; PSNR in dB, of rows
            that denoise; costs; and against
            another row, the baseline: its name, delta (mean), deltas (by seed), over_seeds and over_images (half
            the 95 % interval from each source of chance), interval (both together), clear (it leaves out 0, and
            there is more than one seed).
        kind: A key of `measures.KINDS`: "segm" if all rows have masks and "bbox" otherwise; "instances"; "accuracy".
        metrics: The columns of numbers; the first one is compared.
        baseline: The rows that the others are compared with, one for each detector; but for those that name another
            one with `against:`.
        notes: Data, budget, versions, and how to read the numbers.
        records: The record of each run: row, seed, specification, numbers, protocol, environment.
        study: What `read_study` returned.
        latency: By row: median and quartiles in ms.
        groups: The group of each picture, in the order of their ids; None where each is drawn by itself.
        scores: By run, for matches.npz.
    """

    rows: list[dict[str, Any]]
    kind: str
    metrics: list[str]
    baseline: list[str]
    notes: list[str]
    records: list[dict[str, Any]]
    study: dict[str, Any]
    latency: dict[str, Any]
    groups: list[str] | None
    scores: dict[str, Score]

    def __str__(self) -> str:
        """Return the table as Markdown, its notes below."""
        kind = KINDS[self.kind]
        other = kind.other[0] if kind.other and any(row.get(kind.other[0]) is not None for row in self.rows) else ""
        headline, *metrics = self.metrics
        shown = [printable(metric).replace("|", "\\|") for metric in metrics]  # classes and groups of a user among them
        several = {row["baseline"] for row in self.rows if "baseline" in row} - {*self.baseline}
        compared = "difference" if several else f"against {', '.join(self.baseline) or 'none'}"
        denoised = ["PSNR"] * any(row.get("PSNR") is not None for row in self.rows)
        head = ["row", kind.title, *shown, *filter(None, [other]), *denoised, compared, "M", "GFLOPs", "ms", "MB"]
        lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
        for row in self.rows:
            score = f"{100 * row[headline]:.2f}" if row["by seed"] else "-"
            score += f" ± {100 * row['sd']:.2f}" if row["sd"] is not None else ""
            numbers = [row[metric] for metric in metrics] + ([row[other]] if other else [])
            shown = ["-" if value is None or value < 0 else f"{100 * value:.2f}" for value in numbers]
            shown += ["-" if row.get(key) is None else f"{row[key]:.2f}" for key in denoised]
            costs = [row.get("parameters M"), row.get("GFLOPs"), row.get("ms"), row.get("peak MB")]
            cost = ["-" if value is None else f"{value:g}" for value in costs]
            name = row["name"].replace("|", "\\|")
            if (difference := difference_text(row)) and several:
                difference += f" against {row['baseline']}".replace("|", "\\|")
            lines.append(f"| {' | '.join([name, score, *shown, difference, *cost])} |")
        return "\n".join([*lines, "", *(f"- {note}" for note in self.notes)])

    def save(self, folder: Path) -> None:
        """Write table.md, table.csv, table.json, table.png and matches.npz."""
        (folder / "table.md").write_text(f"{self}\n", encoding="utf-8")
        write_json(folder / "table.json", {key: value for key, value in vars(self).items() if key != "scores"})
        keys = list(dict.fromkeys(key for row in self.rows for key in row))
        with (folder / "table.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, keys)
            writer.writeheader()
            writer.writerows(self.rows)
        self.plot(folder / "table.png")
        save_matches(folder / "matches.npz", self.scores)

    def plot(self, path: Path) -> None:
        """Draw a bar for each row, a dot for each seed."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 0.45 * len(self.rows) + 1.2), layout="constrained")
        axes = figure.subplots()
        compared_with = {*self.baseline, *(row.get("baseline") for row in self.rows)}
        for place, row in enumerate(reversed(self.rows)):
            color = "#9aa5b1" if row["name"] in compared_with else "#4a6fa5"
            axes.barh(place, 100 * row[self.metrics[0]] if row["by seed"] else 0, color=color, height=0.6)
            axes.plot([100 * one for one in row["by seed"]], [place] * len(row["by seed"]), "o", color="#1d1d1b", ms=3)
        axes.set_yticks(range(len(self.rows)), [literal(row["name"]) for row in reversed(self.rows)])
        axes.set_xlabel(f"{KINDS[self.kind].title} (bar: mean, dots: seeds)")
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, dpi=150)


def difference_text(row: Mapping[str, Any]) -> str:
    """Write the difference of a row to the baseline with its interval, and whether it is more than noise."""
    if row.get("delta") is None:
        return ""
    text = f"{100 * row['delta']:+.2f} [{100 * row['interval'][0]:+.2f}, {100 * row['interval'][1]:+.2f}]"
    if row["over_seeds"] is None:
        return f"{text}: one seed, chance in training is unknown"
    return text if row["clear"] else f"{text}: inside the noise"


# ---- from results to a table ---------------------------------------------------------------------


def tabulate(
    study: Mapping[str, Any],
    results: Sequence[Result],
    latency: Mapping[str, Any],
    groups: Sequence[str] | None = None,
) -> Table:
    """Bring the results of all runs into one table.

    Args:
        study: What `read_study` returned.
        results: Of all runs of the study.
        latency: By row: median and quartiles in ms, or None.
        groups: The group of each picture, in the order of their ids; intervals draw whole groups.
    Raises: ValueError: runs of one detector were evaluated by different protocols.
    """
    measured = [result for result in results if not lends_only(result.record)]
    for result in measured:
        model = next(
            other for other in measured if other.record["spec"]["detector"] == result.record["spec"]["detector"]
        )
        if other := protocol_differences(model.record["protocol"], result.record["protocol"]):
            raise ValueError(
                f"{result.name} and {model.name} were evaluated differently: {other}; give the same for both in train:"
            )
    kind, metrics = kind_of([result.record for result in measured])
    scores = {(run.row, run.seed): run.score.of_kind(KINDS[kind].kind) for run in measured if run.score is not None}
    images = next(iter(scores.values())).images
    weights = draws(images, DRAWS, 0, groups)
    drawn = {run: score.resampled(weights) for run, score in scores.items()}
    units = len({*groups}) if groups else images  # that are drawn independently

    rows: dict[str, list[Result]] = {name: [] for name in study["rows"]}
    for result in results:
        rows[result.row].append(result)
    compared = {(r.row, r.seed): r.record[KINDS[kind].part][metrics[0]] for r in measured}
    table = []
    for name, group in rows.items():
        row = summary(name, group, kind, metrics, latency)
        base = study["rows"][name].get("against") or study["baseline"].get(row["detector"])
        if base not in (None, name) and row["by seed"] and not any(lends_only(run.record) for run in rows[base]):
            pairs = seed_pairs([result.seed for result in group], [result.seed for result in rows[base]])
            deltas = [compared[name, a] - compared[base, b] for a, b in pairs]
            gains = np.array([drawn[name, a] - drawn[base, b] for a, b in pairs])
            row |= {"baseline": base, **difference(deltas, gains, units)}
        table.append(row)
    records = [{"row": result.row, "seed": result.seed, **result.record} for result in results]
    return Table(
        rows=table,
        kind=kind,
        metrics=metrics,
        baseline=list(dict.fromkeys(study["baseline"].values())),
        notes=notes(study, table, records, kind, metrics, groups),
        records=records,
        study=dict(study),
        latency=dict(latency),
        groups=list(groups) if groups else None,
        scores={result.file_name: scores[result.row, result.seed] for result in measured},
    )


def kind_of(records: Sequence[Mapping[str, Any]]) -> tuple[str, list[str]]:
    """Return what the runs are compared by, a key of KINDS, and the columns of its numbers, the compared one first."""
    for kind in ("instances", "accuracy"):
        if (part := KINDS[kind].part) in records[0]:
            shown = list(dict.fromkeys(metric for record in records for metric in record[part]))
            return kind, shown if len(shown) <= WIDEST else shown[:3]
    return "segm" if all(record["masks"] for record in records) else "bbox", list(METRICS)


def lends_only(record: Mapping[str, Any]) -> bool:
    """Tell whether a run has no score in the table, and is there for the rows that start from it."""
    return bool(record.get("other classes") or record.get("unscored"))


def protocol_differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """List in what two runs of a detector were evaluated differently; needing no suppression is no difference."""
    keys = [key for key in PROTOCOL if key != "nms_iou" or NO_NMS not in (then.get(key), now.get(key))]
    return differences({key: then.get(key) for key in keys}, {key: now.get(key) for key in keys})


def summary(
    name: str, group: Sequence[Result], kind: str, metrics: Sequence[str], latency: Mapping[str, Any]
) -> dict[str, Any]:
    """Summarise the runs of one row, without its difference to others; of weights that are only lent, their costs."""
    records = [result.record for result in group]
    first = records[0]
    measured = [record[KINDS[kind].part] for record in records if not lends_only(record)]
    by_seed = [numbers[metrics[0]] for numbers in measured]
    row: dict[str, Any] = {"name": name, "detector": first["spec"]["detector"], "seeds": len(group)}
    row |= {metric: mean_of([numbers.get(metric, -1.0) for numbers in measured]) for metric in metrics}
    row |= {"sd": statistics.stdev(by_seed) if len(by_seed) > 1 else None, "by seed": by_seed}
    if beside := KINDS[kind].other:
        column, part = beside
        row[column] = mean_of([record[part]["AP"] for record in records if record[part]])
    if any("PSNR" in record for record in records):
        ratios = [record["PSNR"]["denoised"] for record in records if record["PSNR"]]
        row["PSNR"] = statistics.mean(ratios) if ratios else None
    row |= {key: first.get(key) for key in ("parameters M", "GFLOPs")}
    row["ms"], row["ms quartiles"] = (latency[name][0], list(latency[name][1:])) if latency[name] else (None, None)
    row["peak MB"] = (first["training"] or {}).get("peak MB")
    row["w"] = [record["w"] for record in records if record.get("w")]
    return row


def mean_of(numbers: Sequence[float]) -> float | None:
    """Return the mean; None if there are no numbers, -1 if any stands for nothing that could be measured."""
    if not numbers:
        return None
    return float(np.mean(numbers)) if min(numbers) >= 0 else -1.0


def seed_pairs(row: Sequence[int | None], base: Sequence[int | None]) -> list[tuple[int | None, int | None]]:
    """Pair the seeds of a row with those of the baseline; a side that has only one run meets all of the other."""
    pairs = [(seed, seed if seed in base else base[0]) for seed in row if seed in base or len(base) == 1]
    return pairs or [(row[0], seed) for seed in base]


def difference(deltas: Sequence[float], gains: np.ndarray, units: int) -> dict[str, Any]:
    """Compare the runs of a row with those of the baseline, seed by seed.

    Half the interval is sqrt((t s / sqrt(n))^2 + (1.96 f sqrt(V))^2): s is the spread of the n differences by
    seed, t Student's for n - 1, V the variance over the draws of what all seeds have in common, and f the `widening`
    without which the bootstrap of few pictures or groups is too narrow. (With 9 groups of 2 to 20 pictures, 95 %
    intervals cover 92 to 95 %; without it they cover 86 to 90 %.)
    What each seed makes of a picture of its own is in s already: with V_1 the variance of one seed's
    difference and V_n that of their mean, V = (n V_n - V_1) / (n - 1).

    Args:
        deltas: AP of the row less AP of the baseline, for each pair of runs.
        gains: The same on drawn pictures, (pairs, draws).
        units: How many pictures, or groups of them, were drawn from.
    """
    from scipy.stats import norm, t

    n, variance, over_seeds = len(deltas), float(gains.mean(0).var(ddof=1)), None
    if n > 1:
        variance = max(0.0, float(n * variance - gains.var(axis=1, ddof=1).mean()) / (n - 1))
        over_seeds = float(t.ppf(0.975, n - 1)) * statistics.stdev(deltas) / n**0.5
    over_images = float(norm.ppf(0.975)) * widening(units) * variance**0.5
    delta, half = statistics.mean(deltas), math.hypot(over_images, over_seeds or 0.0)
    found = {"delta": delta, "deltas": list(deltas), "over_seeds": over_seeds, "over_images": over_images}
    return {**found, "interval": [delta - half, delta + half], "clear": over_seeds is not None and abs(delta) > half}


# ---- notes ---------------------------------------------------------------------------------------


def notes(
    study: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    records: Sequence[Mapping[str, Any]],
    kind: str,
    metrics: Sequence[str],
    groups: Sequence[str] | None,
) -> list[str]:
    """Write what the reader of a table has to know."""
    protocol = next(record["protocol"] for record in records if not lends_only(record))
    why: dict[str, list[str]] = {}
    for record in records:
        if record.get("boxes only"):
            why.setdefault(record["boxes only"], []).append(record["row"])
    drawn = "pictures"
    if groups:
        sizes = Counter(groups).values()
        drawn = f"groups of pictures: {len(sizes)} by {study['groups']}, of {min(sizes)} to {max(sizes)} pictures"
    return [
        f"{study['data']}, {study['split']}: {protocol['images']} images, "
        + (f"{protocol['objects']} objects, " if "objects" in protocol else "")
        + f"truth {protocol['truth']}; seeds {', '.join(map(str, study['seeds']))}",
        *(f"{detector}: {arguments}" for detector, arguments in study["train"].items()),
        *(
            f"row {row['name']}: {KINDS[kind].score.headline} is 0, which says nothing but that it has learnt nothing"
            for row in rows
            if row["by seed"] and not any(row["by seed"])
        ),
        *(f"row {name}: {own}" for name, row in study["rows"].items() if (own := own_training(row))),
        *(
            f"measured by boxes: {reason} (row {', '.join(dict.fromkeys(which))})"
            for reason, which in why.items()
            if kind == "bbox"
        ),
        *lent_notes(records),
        *psnr_notes(records),
        *([f"mask AP {BY_COCO}"] if kind == "instances" and any(row["mask AP"] is not None for row in rows) else []),
        KINDS[kind].note + left_out_note(records, metrics, KINDS[kind].part),
        "difference: mean over the seeds, in pairs where both rows have them, and 95 % interval of chance in training "
        f"(Student's t over the seeds) and in the choice of pictures ({DRAWS} draws of {drawn}, the same for all) "
        "together; each row by itself: of 20 that change nothing one is expected to look clear; weights without a seed "
        "count as given",
        "M: million parameters; GFLOPs: two for a multiply-add"
        + (
            ""
            if kind == "accuracy"
            else ", without the heads of Mask R-CNN and SOLOv2, whose work depends on what they find"
        )
        + (", of unet for 256 x 256 pixels" if any(row["detector"] == UNET for row in rows) else "")
        + f"; ms: for one image from file to {KINDS[kind].result}, median; MB: most "
        "memory in training (of the GPU if one was used)",
        f"run on {', '.join(sorted({str(record['environment']) for record in records}))}",
    ]


def left_out_note(records: Sequence[Mapping[str, Any]], metrics: Sequence[str], part: str) -> str:
    """Say where the accuracies by class and group are, if there are too many for columns; "" if there are not."""
    measured = [record[part] for record in records if part == "accuracy" and not lends_only(record)]
    more = {metric for numbers in measured for metric in numbers} - {*metrics}
    return f"; those of {len(more)} classes and groups: in table.json, at the records" if more else ""


def lent_notes(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say of rows that learn other classes how well they do so, on pictures that they have not learnt from."""
    lent: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        if record.get("other classes"):
            lent.setdefault(record["row"], []).append(record)
    return [
        f"row {row} learns {len(found[0]['other classes'])} other classes, and only lends its weights: accuracy "
        f"{100 * statistics.mean(record['accuracy']['accuracy'] for record in found):.2f} on "
        f"{found[0]['protocol']['data']}, {found[0]['protocol']['split']}"
        for row, found in lent.items()
    ]


def psnr_notes(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say which rows learnt to denoise only, and what the PSNR of noisy pictures is."""
    unscored = {record["row"]: record["unscored"] for record in records if record.get("unscored")}
    noisy = [record["PSNR"]["noisy"] for record in records if record.get("PSNR")]
    lines = [f"row {row} has no score: {why}" for row, why in unscored.items()]
    if noisy:
        lines.append(
            f"PSNR: of the denoised pictures, in dB of 255, mean over the pictures; {statistics.mean(noisy):.2f} before"
        )
    return lines


def own_training(row: Mapping[str, Any]) -> str:
    """Describe in what the training of a row is its own."""
    own = {**row.get("train", {}), **row.get("options", {})}
    trained_on = [f"on {row['data']}"] if "data" in row else []
    trained_on += [f"labels: {row['labels']}"] if "labels" in row else []
    return ", ".join([*trained_on, *(f"{key}: {value}" for key, value in own.items())])


# ---- drawn again from the files ------------------------------------------------------------------


def save_matches(file: Path, scores: Mapping[str, Score]) -> None:
    """Write what the compared number of each run rests on, as `RUN/NAME`; see `arrays` of its score.

    Of evaluations that is which detection of which picture hit an object, of classifiers `RUN/correct`, of instances
    `RUN/tp`, `RUN/fp`, `RUN/fn` and `RUN/seg`.
    """
    arrays = {f"{run}/{name}": array for run, score in scores.items() for name, array in score.arrays().items()}
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def remake(folder: str | Path) -> Table:
    """Make a table again from table.json and matches.npz alone, its intervals drawn anew.

    Args:
        folder: Such as docs/results/facades-night.
    Raises: ValueError, OSError: a file is missing, or was written by an older version.
    """
    folder = Path(folder)
    if not (folder / "matches.npz").is_file():
        raise FileNotFoundError(
            f"{folder} holds no matches.npz, without which intervals cannot be drawn again; tables of older versions "
            "have none"
        )
    content = read_json(folder / "table.json")
    kind, results = KINDS[content["kind"]], []
    with np.load(folder / "matches.npz", allow_pickle=False) as arrays:
        for record in content["records"]:
            record = dict(record)
            row, seed = record.pop("row"), record.pop("seed")
            prefix = f"{folder_of(Path(), row, seed).name}/"
            values = {key.removeprefix(prefix): arrays[key] for key in arrays if key.startswith(prefix)}
            score = kind.score.from_arrays(values, record["protocol"], kind.kind) if values else None
            results.append(Result(row, seed, record, score))
    return tabulate(content["study"], results, content["latency"], content["groups"])


def main(folder: str) -> int:
    """Print the table of a folder, made again; returns 1 if it is not the one that lies there."""
    table = remake(folder)
    print(table)
    stored = read_json(Path(folder) / "table.json")["rows"]
    other = [row["name"] for row, old in zip(table.rows, stored) if not same_difference(row, old)]
    print(f"\nnot as in table.json: {', '.join(other)}" if other else "\nas in table.json")
    return int(bool(other))


def same_difference(row: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Tell whether two rows agree in their difference and its interval, but for rounding."""
    numbers = [[each["delta"], *each["interval"]] if "delta" in each else [] for each in (row, other)]
    return len(numbers[0]) == len(numbers[1]) and all(math.isclose(a, b, abs_tol=1e-9) for a, b in zip(*numbers))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
