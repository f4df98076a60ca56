"""The report as Markdown, with the front matter that the Hugging Face Hub reads: a model card."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from yolo_wnlb.data.journal import replaced
from yolo_wnlb.data.sources import printable
from yolo_wnlb.metrics.average_precision import KINDS
from yolo_wnlb.report.content import Content, Threshold
from yolo_wnlb.report.page import MISSING, estimate, gain, half_stop, hundredths, number, rows_of
from yolo_wnlb.report.verdict import FEW, FOUND, as_confidence, is_enough
from yolo_wnlb.study.robustness_report import table

TASKS = {"segment": "image-segmentation", "detect": "object-detection"}  # of the Hub
METRICS = {"segm": "mask AP", "bbox": "box AP"}
TAGS = ("ultralytics", "yolo", "yolo_wnlb", "low-light")


def write(content: Content, path: str | Path) -> None:
    """Write the card, whole or not at all.

    Raises: OSError: it cannot be written.
    """
    with replaced(Path(path)) as draft:
        draft.write_text(markdown(content), encoding="utf-8", newline="\n")


def markdown(content: Content) -> str:
    """Return the card: the front matter, the verdict, and the tables of the page."""
    import yaml

    head = yaml.safe_dump(front_matter(content), sort_keys=False, allow_unicode=True)
    sections = [glance, darkness, slices, thresholds, errors, enhancers, blocks, origin]
    lines = [f"# {plain(content.title)}", "", *(f"- {plain(sentence)}" for sentence in content.verdict)]
    for section in sections:
        if found := section(content):
            lines += ["", *found]
    return f"---\n{head}---\n\n" + "\n".join(lines) + "\n"


def front_matter(content: Content) -> dict[str, Any]:
    """Return what the Hub reads: licence, task, tags, and the scores of each model."""
    licences = {model.licence for model in content.models} - {"not stated"}
    licence: dict[str, Any] = {}
    if licences:
        known = all("agpl" in text.lower() for text in licences)
        named = {"license_name": ", ".join(printable(text) for text in sorted(licences))}
        licence = {"license": "agpl-3.0"} if known else {"license": "other", **named}
    data = Path(content.data.source).absolute()
    name = printable(data.parent.name if data.stem == "data" else data.stem)
    split = {"split": content.data.split} if content.data.split else {}
    dataset = {"name": name, "type": re.sub(r"[^\w.-]+", "-", name) or "images", **split}
    return {
        **licence,
        "library_name": "ultralytics",
        "pipeline_tag": TASKS[content.models[0].task],
        "tags": list(TAGS),
        "model-index": [
            {
                "name": printable(model.name),
                "results": [
                    {
                        "task": {"type": TASKS[model.task]},
                        "dataset": dataset,
                        "metrics": [
                            {"type": "mAP", "name": METRICS[score.kind], "value": score.numbers["AP"]}
                            for score in rows_of(content.scores, model.name)
                            if score.numbers["AP"] >= 0
                        ],
                    }
                ],
            }
            for model in content.models
        ],
    }


# ---- the sections --------------------------------------------------------------------------------


def glance(content: Content) -> list[str]:
    """Return the table of the models, and the notes."""
    several = len(content.models) > 1
    kinds = [kind for kind in KINDS if any(score.kind == kind for score in content.scores)]
    head = ["model", *(f"{METRICS[kind]}" for kind in kinds), *(["less that of the first"] if several else [])]
    head += ["half of its AP is left at (stops)", "confidence to set", "false alarms in 1,000 pictures", "ms a picture"]
    body = []
    for model in content.models:
        scores = {score.kind: score for score in rows_of(content.scores, model.name)}
        versus = [row for row in rows_of(content.comparisons, model.name, content.kind) if row.where == "all pictures"]
        halves = rows_of(content.half_stops, model.name, content.kind)
        whole = [row for row in rows_of(content.thresholds, model.name, content.kind) if row.where == "all pictures"]
        whole = [row for row in whole if is_enough(row)]
        cost = rows_of(content.cost, model.name)
        body.append(
            [
                plain(model.name),
                *(estimate(scores[kind].ap, 2) if kind in scores else MISSING for kind in kinds),
                *([gain(versus[0].difference, 2) if versus else ""] if several else []),
                half_stop(halves[0], content) if halves else MISSING,
                as_confidence(whole[0].confidence or 0.0) if whole else MISSING,
                number(whole[0].expected.false_alarms, 0) if whole and whole[0].expected else MISSING,
                number(cost[0].milliseconds) if cost else MISSING,
            ]
        )
    how = "AP in hundredths by COCO's rules, with 95 % intervals over the choice of pictures."
    star = " \\* where the interval of a difference leaves out 0." if several else ""
    notes = ["", *(f"- {plain(note)}" for note in content.notes)] if content.notes else []
    return ["## At a glance", "", f"{how}{star}", "", *starred(table(head, body)), *notes]


def darkness(content: Content) -> list[str]:
    """Return the table of the stops."""
    rows = [row for row in content.stops if row.kind == content.kind]
    head = [
        "stop",
        "model",
        "median brightness",
        METRICS[content.kind],
        "less that of the first",
        "precision",
        "recall",
    ]
    body = [
        [
            "as is" if row.stop is None else number(row.stop, 0),
            plain(row.model),
            number(row.brightness),
            estimate(row.ap),
            gain(row.difference) if row.difference else "",
            estimate(row.precision),
            estimate(row.recall),
        ]
        for row in rows
    ]
    how = f"{content.data.pictures_of_stops} pictures, darkened with the noise of {plain(content.data.preset)}."
    return ["## How dark may it get", "", how, "", *starred(table(head, body))] if rows else []


def slices(content: Content) -> list[str]:
    """Return the table of the real pictures by brightness."""
    rows = [row for row in content.slices if row.kind == content.kind]
    head = ["brightness", "model", "pictures", "objects", "found", "missed", "false alarms", METRICS[content.kind]]
    counts = ("pictures", "objects", "found", "missed", "false_alarms")
    body = [
        [
            f"{row.low:g} to {row.high:g}",
            plain(row.model),
            *(number(getattr(row, name), 0) for name in counts),
            estimate(row.ap),
        ]
        for row in rows
    ]
    how = (
        "Counts are of the pictures that the confidence was chosen on. AP is the mean over the classes of which there "
        "are objects, fewer in a range than in the whole: that of every range may lie above that of the whole."
    )
    return ["## The real pictures by their brightness", "", how, "", *table(head, body)] if rows else []


def thresholds(content: Content) -> list[str]:
    """Return the table of the confidences to set."""
    rows = [row for row in content.thresholds if row.kind == content.kind]
    score, none = f"F{content.beta:g}", [MISSING] * 5
    head = ["pictures of", "model", "confidence to set", score, "precision", "recall", "false alarms in 1,000 pictures"]
    how = f"The confidence with the best {score}; what it gives is measured on the half that it was not chosen on."
    if not all(map(is_enough, rows)):
        how += f" Fewer than {FEW} objects, or than {FOUND} found ones, are too few for a confidence of their own."
    body = [
        [
            plain(row.where),
            plain(row.model),
            *([as_confidence(row.confidence or 0.0), *rates(row)] if is_enough(row) else none),
        ]
        for row in rows
    ]
    return ["## The confidence to set", "", how, "", *table(head, body)] if rows else []


def rates(row: Threshold) -> list[str]:
    """Return what a confidence is expected to give."""
    if row.expected is None:
        return [MISSING] * 4
    shares = [hundredths(share) for share in (row.expected.f_beta, row.expected.precision, row.expected.recall)]
    return [*shares, number(row.expected.false_alarms, 0)]


def errors(content: Content) -> list[str]:
    """Return the table of the kinds of errors."""
    rows = [row for row in content.errors if row.kind == content.kind]
    body = [[row.name, plain(row.model), number(row.count, 0), hundredths(row.cost)] for row in rows]
    head = ["kind of error (TIDE)", "model", "number", "AP50 to be gained"]
    return ["## What goes wrong", "", *table(head, body)] if rows else []


def enhancers(content: Content) -> list[str]:
    """Return the table of the enhancers."""
    rows = [row for row in content.enhancers if row.kind == content.kind]
    body = [
        [
            plain(row.name),
            plain(row.model),
            plain(row.where),
            hundredths(row.without, 2),
            hundredths(row.with_it, 2),
            gain(row.difference, 2),
        ]
        for row in rows
    ]
    head = ["enhancer", "model", "pictures", f"{METRICS[content.kind]} without", "with", "difference"]
    return ["## With and without an enhancer", "", *starred(table(head, body))] if rows else []


def blocks(content: Content) -> list[str]:
    """Return the table of the blocks."""
    body = [
        [
            plain(row.model),
            f"{plain(row.layer)}, {plain(row.stage)}",
            plain(row.operation),
            plain(row.w),
            f"{100 * row.change:.2f} %",
            f"{row.neighbours:,.1f} of {row.keys:,}",
        ]
        for row in content.blocks
    ]
    head = ["model", "layer", "form", "w", "change", "effective neighbours"]
    return ["## What the blocks do", "", *table(head, body)] if body else []


def origin(content: Content) -> list[str]:
    """Return hashes, licences, training, data and versions."""
    lines = ["## How it was made", ""]
    for model in content.models:
        training = ", ".join(f"{plain(key)} {plain(value)}" for key, value in model.training.items())
        lines += [
            f"- {plain(model.name)}: {plain(model.weights)}, sha256 `{model.sha256}`, licence {plain(model.licence)}"
        ]
        lines += [f"  - training: {training}"] if training else []
        lines += [
            f"  - {number(row.milliseconds)} ms a picture on {plain(row.device)}, {number(row.megabytes)} MB"
            for row in rows_of(content.cost, model.name)
        ]
    split = f", {plain(content.data.split)}" if content.data.split else ""
    lines += [
        f"- data: {plain(content.data.source)}{split}, {content.data.pictures} pictures, truth `{content.data.truth}`",
        f"- made {plain(content.made)} by {', '.join(f'{plain(k)} {plain(v)}' for k, v in content.versions.items())}",
    ]
    return [*lines, f"- command: {code(content.command)}"] if content.command else lines


def plain(text: Any) -> str:
    """Write a text so that Markdown shows it as it is, on one line, without a tag or a link in it."""
    return re.sub(r"([\\`*_{}\[\]<>#~$&])", r"\\\1", printable(text))


def code(text: str) -> str:
    """Write a text as code, so that it can be copied as it is."""
    fence = "`" * (1 + max((len(run) for run in re.findall(r"`+", text)), default=0))
    return f"{fence} {printable(text)} {fence}" if "`" in text else f"`{printable(text)}`"


def starred(lines: Sequence[str]) -> list[str]:
    """Return the lines of a table whose asterisks are no mark-up."""
    return [re.sub(r" \*(?= \|)", r" \\*", line) for line in lines]
