"""Measure everything that the report shows: `measure(models, data) -> Measured`.

    all pictures as they are --one pass of a model--> predictions --> AP, slices, confidences, errors, worst pictures
    some pictures, darkened to each stop --a pass each--> AP, precision, recall and confidences against stops

What one pass can give is not predicted again. Models, pictures and darkness are those of `study.robustness`, the scores
those of `yolo-wnlb evaluate`, the intervals those of its bootstrap over the pictures.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from yolo_wnlb.data import coco
from yolo_wnlb.imaging.bounds import whole_number
from yolo_wnlb.imaging.brightness import dark_already, mean_luma
from yolo_wnlb.metrics import confidence as confidences
from yolo_wnlb.metrics.average_precision import KINDS, Evaluation, evaluate
from yolo_wnlb.metrics.bootstrap import draws
from yolo_wnlb.metrics.errors import NAMES as ERRORS
from yolo_wnlb.metrics.errors import errors
from yolo_wnlb.metrics.matches import Matches
from yolo_wnlb.report import content as c
from yolo_wnlb.report.failures import worst_pictures
from yolo_wnlb.report.verdict import ALL_PICTURES, MEAN_OVER_STOPS, verdict
from yolo_wnlb.study import robustness_classifiers, robustness_detectors
from yolo_wnlb.study.models import environment, network, task_of
from yolo_wnlb.study.plan import check_groups, groups_of
from yolo_wnlb.study.robustness import check_preset
from yolo_wnlb.study.robustness_report import DRAWS, drawn_scores, half_stops, interval
from yolo_wnlb.study.subject import Scene, Subject, change_of
from yolo_wnlb.study.suite import CLEAN, STOPS, Cell, described
from yolo_wnlb.yolo.models import load_checkpoint

EDGES = (0, 8, 16, 32, 64, 128, 256)  # of the slices of brightness: an octave each
DEFAULT_CONFIDENCE = 0.25  # of Ultralytics; where none can be chosen, for nothing is right
TRAINING = ("data", "model", "epochs", "imgsz", "batch", "lowlight", "denoise", "adversarial", "balanced", "seed")
ALL = sys.maxsize


class Pass(NamedTuple):
    """What one model found in the pictures of one cell.

    Attributes:
        evaluation: The score.
        predictions: COCO results.
        brightness: {image id: mean luma of the picture as the model got it}.
    """

    evaluation: Evaluation
    predictions: list[coco.Prediction]
    brightness: dict[Any, float]


class Measured(NamedTuple):
    """What `measure` found, and what was measured, for what a report adds.

    Attributes:
        content: The content; its `enhancers`, `blocks` and `cost` are empty.
        subjects: The models.
        scene: The pictures that were darkened to the stops.
        labels: The group of each of them, in the order of their ids; None without groups.
        scores: {model name, cell: the score on them}.
    """

    content: c.Content
    subjects: list[Subject]
    scene: Scene
    labels: list[str] | None
    scores: dict[tuple[str, Cell], Evaluation]


class Draws(NamedTuple):
    """Pictures drawn for intervals.

    Attributes:
        weights: How often each picture was drawn, int (DRAWS, pictures).
        units: How many pictures, or groups of them, were drawn from.
    """

    weights: np.ndarray
    units: int


def show_progress(line: str) -> None:
    """Print a line at once, into a pipe too."""
    print(line, flush=True)


def measure(
    models: str | Path | Sequence[str | Path],
    data: str | Path,
    *,
    stops: Sequence[int] = range(0, -6, -1),
    n: int = 100,
    split: str = "val",
    images: str | Path | None = None,
    imgsz: int | None = None,
    preset: str = "severe",
    seed: int = 0,
    beta: float = 1.0,
    groups: str | None = None,
    worst: int = 24,
    allow_missing: bool = False,
    device: str | None = None,
    title: str = "",
    command: str = "",
    say: Callable[[str], None] = show_progress,
) -> Measured:
    """Measure models, and bring everything that the report shows into one content.

    Args:
        models: Files of detectors; the others are compared with the first.
        data: A data YAML, or COCO annotations.
        stops: To which stops below daylight pictures are darkened: 0, and of -1 to -7 those wanted.
        n: On how many pictures, evenly spaced by name, stops are measured; all if there are fewer. All else is measured
            on all pictures.
        split: Of a data YAML.
        images: Pictures of COCO annotations, where they are not beside them.
        imgsz: Image size of the models. Default: as each was trained.
        preset: Whose noise the stops have: mild, moderate, severe, extreme, or the .yaml file of a camera.
        seed: Of the darkness, and of the halves that cross-fitting draws.
        beta: Of the F-beta that the confidence is chosen by, above 0: 2 for those who would rather not miss anything.
        groups: Which pictures belong together, as in a study: a key of the images of the COCO JSON, or a regular
            expression for file names with one group in brackets. Intervals and halves then take whole groups.
        worst: Number of worst pictures of each model.
        allow_missing: Accept models that know other classes than those of the truth too.
        device: As Ultralytics takes it.
        title: Heading of the page. Default: made of the names of the models.
        command: What the user typed, for the report.
        say: Called with a line of progress after each pass.
    Returns: The content, with the models and pictures that it is of.
    Raises: ValueError, OSError: with the remedy; before anything is measured.
    """
    cells = [CLEAN, *cells_of(stops)]
    for name, value, least in (("n", n, 2), ("seed", seed, 0), ("worst", worst, 0)):
        whole_number(name, value, least=least)
    confidences.check_beta(beta)
    check_preset(preset)
    check_groups("groups", groups)
    paths = [Path(models)] if isinstance(models, (str, Path)) else [Path(model) for model in models]
    if not paths:
        raise ValueError("no model to report on; give the files of one or several: report best.pt data=my.yaml")
    if robustness_classifiers.are_classifiers(paths, data):
        raise ValueError(
            f"{paths[0]} is a classifier, and a report is about detectors; robustness measures classifiers"
        )
    scene = robustness_detectors.read_scene(
        data, split, images, ALL, seed, preset, imgsz, allow_missing, space="pixels"
    )
    dark_scene = with_pictures(scene, n)
    labels, dark_labels = (groups_of({"groups": groups}, of.truth) for of in (scene, dark_scene))
    subjects = robustness_detectors.read_models(paths, scene, allow_missing, device)
    for subject in subjects:
        if (channels := getattr(subject.model, "channels", 3)) not in (1, 3):
            raise ValueError(
                f"{subject.file} takes pictures of {channels} channels, which a camera cannot darken and a page cannot "
                "show; evaluate measures it"
            )
    kinds = [kind for kind in KINDS if all(kind in subject.kinds for subject in subjects)]
    kind = kinds[0]

    whole: dict[str, Pass] = {}
    dark: dict[tuple[str, Cell], Pass] = {}
    steps, step = len(subjects) * len(cells), 0
    for subject in subjects:
        for cell in cells:
            step += 1
            if cell == CLEAN:
                whole[subject.name] = found = one_pass(subject, scene, cell, kinds)
                dark[subject.name, cell] = of_fewer(found, dark_scene, kinds)
            else:
                dark[subject.name, cell] = found = one_pass(subject, dark_scene, cell, kinds)
            score = robustness_detectors.in_words(found.evaluation)
            say(f"{step}/{steps} {subject.name}, {described(cell)}, {len(found.brightness)} pictures: {score}")

    names = [subject.name for subject in subjects]
    brightness = whole[names[0]].brightness
    light = np.array([brightness[image_id] for image_id in sorted(brightness)])
    halves, dark_halves = (
        confidences.halves_of(len(of.files), of_labels, seed)
        for of, of_labels in ((scene, labels), (dark_scene, dark_labels))
    )
    content = c.Content(
        title=title or f"Report on {', '.join(names)}",
        verdict=[],
        models=[model_of(subject, whole[subject.name].evaluation) for subject in subjects],
        data=c.Data(
            source=str(data),
            split=scene.request["split"],
            truth=scene.request["truth"],
            pictures=len(scene.files),
            objects=whole[names[0]].evaluation.objects,
            brightness=median(brightness.values()),
            pictures_of_stops=len(dark_scene.files),
            preset=preset,
            seed=seed,
            groups=len({*labels}) if labels else None,
        ),
        kind=kind,
        beta=float(beta),
        versions={key: value for key, value in environment(device).items() if key != "device"},
        made=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        command=command,
    )
    add_scores(content, whole, kinds, draws_of(len(scene.files), labels))
    add_thresholds(content, whole, dark, light, halves, dark_halves)
    add_slices(content, whole, light, labels)
    add_stops(content, dark, cells, draws_of(len(dark_scene.files), dark_labels))
    for name in names:
        found, confidence = whole[name], confidence_of(content, name)
        kinds_of_errors = errors(scene.truth, found.predictions, kind)
        content.errors += [
            c.ErrorKind(name, kind, error, kinds_of_errors.counts[error], kinds_of_errors.costs[error])
            for error in ERRORS
        ]
        content.worst += worst_pictures(
            name, scene.truth, found.predictions, scene.files, found.brightness, kind, confidence, worst
        )
    content.notes = notes(content, whole[names[0]].evaluation)
    content.verdict = verdict(content)
    return Measured(content, subjects, dark_scene, dark_labels, {at: found.evaluation for at, found in dark.items()})


# ---- what is measured on -------------------------------------------------------------------------


def cells_of(stops: Sequence[int]) -> list[Cell]:
    """Return the cells of stops, the brightest first, as `robustness` has them.

    Raises: ValueError: 0 is not among them, one stands twice, or is no stop of STOPS.
    """
    wanted = [whole_number("stops", stop, least=min(STOPS)) for stop in stops]
    if 0 not in wanted or len({*wanted}) < len(wanted) or any(stop not in STOPS for stop in wanted):
        raise ValueError(
            f"stops is {','.join(map(str, stops)) or 'empty'}; wanted whole numbers from {STOPS[0]} to {STOPS[-1]}, "
            "each once and 0 among them: 0 is daylight with the camera's noise, -1 half of its light"
        )
    return [Cell("lowlight", "stops", -stop, str(stop)) for stop in sorted(wanted, reverse=True)]


def with_pictures(scene: Scene, n: int) -> Scene:
    """Return the scene with n of its pictures, evenly spaced in the order of their names; all if there are no more."""
    truth = robustness_detectors.evenly_spaced(scene.truth, n)
    kept = {image["id"] for image in truth["images"]}
    ids, files = [i for i in scene.ids if i in kept], {i: file for i, file in scene.files.items() if i in kept}
    return replace(scene, truth=truth, ids=ids, files=files)


def one_pass(subject: Subject, scene: Scene, cell: Cell, kinds: Sequence[str]) -> Pass:
    """Let a model predict the pictures of a cell, and evaluate it."""
    change, brightness = change_of(cell, scene), dict[Any, float]()

    def seen(picture: np.ndarray, image_id: Any) -> np.ndarray:
        picture = change(picture, image_id) if change else picture
        brightness[image_id] = mean_luma(picture)
        return picture

    predictions = subject.module.predict(
        subject.model, scene.files, subject.classes, max_det=100, **scene.options, alter=seen
    )
    protocol = subject.module.describe(subject.model, **scene.options)
    return Pass(evaluate(scene.truth, predictions, iou_types=kinds, protocol=protocol), predictions, brightness)


def of_fewer(found: Pass, scene: Scene, kinds: Sequence[str]) -> Pass:
    """Return what a pass gave on the pictures of a smaller scene, without predicting again."""
    if len(found.brightness) == len(scene.files):
        return found
    predictions = [prediction for prediction in found.predictions if prediction["image_id"] in scene.files]
    evaluation = evaluate(scene.truth, predictions, iou_types=kinds, protocol=found.evaluation.protocol)
    return Pass(evaluation, predictions, {i: light for i, light in found.brightness.items() if i in scene.files})


def model_of(subject: Subject, evaluation: Evaluation) -> c.Model:
    """Return what is known of a model: from its file, and from how it was measured."""
    module = network(subject.model)
    licence: Any = ""
    training: dict[str, Any] = {}
    if subject.file.suffix == ".pt" and hasattr(subject.model, "backend"):
        checkpoint = load_checkpoint(subject.file)
        held = checkpoint.ckpt if isinstance(checkpoint.ckpt, dict) else {}
        licence, training = held.get("license"), {**(held.get("train_args") or {}), "date": held.get("date")}
        training["lowlight"] = getattr(checkpoint.model, "lowlight", None) or training.get("lowlight")
    elif hasattr(subject.model, "backend"):
        held = subject.model.backend.metadata or {}
        licence, training = held.get("license"), {"date": held.get("date")}
    return c.Model(
        name=subject.name,
        weights=str(subject.file),
        sha256=subject.sha256,
        task=task_of(subject.model),
        detector=str(evaluation.protocol.get("detector", "not stated")),
        image_size=str(evaluation.protocol.get("image_size", "not stated")),
        classes=list(evaluation.objects),
        parameters=None if module is None else sum(parameter.numel() for parameter in module.parameters()),
        licence=str(licence or "not stated"),
        training={key: str(training[key]) for key in (*TRAINING, "date") if training.get(key) not in (None, "", False)},
    )


# ---- intervals -----------------------------------------------------------------------------------


def draws_of(pictures: int, labels: Sequence[Hashable] | None) -> Draws | None:
    """Draw pictures, or whole groups of them; None where there are fewer than two to draw from."""
    units = pictures if labels is None else len({*labels})
    return Draws(draws(pictures, DRAWS, 0, labels), units) if units > 1 else None


def estimate(value: float, drawn: np.ndarray | None, units: int = 0, low: float = 0.0) -> c.Estimate:
    """Return a number with its interval.

    Args:
        value: On the pictures as they are; below `low` where there is nothing to measure.
        drawn: On each draw of the pictures; None where there are too few.
        units: How many pictures, or groups of them, were drawn from.
        low: The least that the number can be; the most is 1.
    """
    if value < low:
        return c.Estimate(None)
    kept = drawn[drawn >= low] if drawn is not None else np.zeros(0)
    if len(kept) < DRAWS / 2:
        return c.Estimate(float(value))
    ends = interval(value, kept, units)
    return c.Estimate(float(value), *(float(np.clip(ends[end], low, 1)) for end in ("low", "high")))


def ap_of(matches: Matches, kind: str, evaluation: Evaluation, drawn: Draws | None) -> c.Estimate:
    """Return the AP of some of the matches of an evaluation, with its interval."""
    score = replace(evaluation, matches={kind: matches})
    [value] = score.resampled(np.ones((1, matches.images), int), kind=kind)
    if drawn is None:
        return estimate(value, None)
    return estimate(value, score.resampled(drawn.weights, kind=kind), drawn.units)


def ratio(counts: np.ndarray, part: int, of: Sequence[int], drawn: Draws | None) -> c.Estimate:
    """Return a share: one row of counts over the sum of others; counts: int (rows, pictures)."""
    above, below = counts[part].astype(float), counts[list(of)].sum(0).astype(float)
    if not below.sum():
        return c.Estimate(None)
    value = above.sum() / below.sum()
    if drawn is None:
        return estimate(value, None)
    sums = drawn.weights @ below
    return estimate(value, np.where(sums > 0, drawn.weights @ above / np.maximum(sums, 1), -1), drawn.units)


# ---- parts of the content ------------------------------------------------------------------------


def add_scores(content: c.Content, whole: dict[str, Pass], kinds: Sequence[str], drawn: Draws | None) -> None:
    """Add the scores on all pictures, and how they compare with the first model's."""
    assert drawn is not None  # read_scene refuses a single picture, and groups_of a single group
    scores = [((kind, name, CLEAN), found.evaluation) for kind in kinds for name, found in whole.items()]
    gains = drawn_scores(scores, drawn.weights)
    first = content.models[0].name
    for name, found in whole.items():
        for kind in kinds:
            numbers, drawn_aps = found.evaluation.numbers(kind), gains[kind, name, CLEAN]
            per_class = {k: values["AP"] for k, values in found.evaluation.per_class[kind].items()}
            content.scores.append(
                c.Score(name, kind, numbers, per_class, estimate(numbers["AP"], drawn_aps, drawn.units))
            )
            if name != first:
                delta = numbers["AP"] - whole[first].evaluation.numbers(kind)["AP"]
                difference = estimate(delta, drawn_aps - gains[kind, first, CLEAN], drawn.units, low=-1)
                content.comparisons.append(c.Comparison(name, first, kind, ALL_PICTURES, "AP", difference))


def add_thresholds(
    content: c.Content,
    whole: dict[str, Pass],
    dark: dict[tuple[str, Cell], Pass],
    light: np.ndarray,
    halves: np.ndarray,
    dark_halves: np.ndarray,
) -> None:
    """Add the confidence to use and the calibration: on all pictures, by brightness, by stop."""

    def add(name: str, where: str, found: Pass, pictures: np.ndarray, low: float, high: float, sides: Any) -> None:
        matches = found.evaluation.matches[content.kind]
        chosen = confidences.threshold(matches, pictures, sides, content.beta)
        objects = int(pictures[matches.object_image].sum())
        content.thresholds.append(
            c.Threshold(
                *(name, content.kind, where, low, high, int(pictures.sum()), objects),
                *(chosen.confidence, chosen.of_halves, chosen.in_sample, chosen.expected),
            )
        )
        mended = confidences.calibration(matches, pictures, sides)
        content.calibrations.append(
            c.Calibration(
                *(name, content.kind, where, confidences.FLOOR, mended.detections, mended.error, mended.temperature),
                *(mended.error_after, mended.bins, mended.bins_after),
            )
        )

    for name, found in whole.items():
        add(name, ALL_PICTURES, found, np.ones(len(light), bool), float(light.min()), float(light.max()), halves)
        for low, high, pictures in slices_of(light):
            add(name, f"brightness {low} to {high}", found, pictures, low, high, halves)
        for (model, cell), darkened in dark.items():
            if model == name and cell != CLEAN:
                levels, every = darkened.brightness.values(), np.ones(len(dark_halves), bool)
                add(name, f"stop {cell.strength}", darkened, every, min(levels), max(levels), dark_halves)


def slices_of(light: np.ndarray) -> list[tuple[int, int, np.ndarray]]:
    """Return the ranges of brightness that hold pictures, the darkest first: from, to, and which, bool (pictures,)."""
    ranges = [(low, high, (light >= low) & (light < high)) for low, high in itertools.pairwise(EDGES)]
    return [one for one in ranges if one[2].any()]


def confidence_of(content: c.Content, name: str) -> float:
    """Return the confidence to use of a model on all pictures."""
    chosen = next(row.confidence for row in content.thresholds if (row.model, row.where) == (name, ALL_PICTURES))
    return DEFAULT_CONFIDENCE if chosen is None else chosen


def add_slices(
    content: c.Content, whole: dict[str, Pass], light: np.ndarray, labels: Sequence[Hashable] | None
) -> None:
    """Add AP and counts by brightness of the real pictures."""
    for low, high, pictures in slices_of(light):
        chosen = None if labels is None else [label for label, kept in zip(labels, pictures) if kept]
        drawn = draws_of(int(pictures.sum()), chosen)
        for name, found in whole.items():
            matches = found.evaluation.matches[content.kind].of_images(pictures)
            confidence = confidence_of(content, name)
            right, wrong, objects = confidences.counts(matches, confidence).sum(1).tolist()
            content.slices.append(
                c.Slice(
                    *(name, content.kind, float(low), float(high), matches.images, objects, confidence),
                    *(right, objects - right, wrong, ap_of(matches, content.kind, found.evaluation, drawn)),
                )
            )
    content.slices.sort(key=lambda row: [model.name for model in content.models].index(row.model))


def add_stops(
    content: c.Content, dark: dict[tuple[str, Cell], Pass], cells: Sequence[Cell], drawn: Draws | None
) -> None:
    """Add AP, precision and recall against stops, the stop of half AP, and the comparison over all stops."""
    assert drawn is not None
    kind, names = content.kind, [model.name for model in content.models]
    gains = drawn_scores(
        [((kind, name, cell), found.evaluation) for (name, cell), found in dark.items()], drawn.weights
    )
    ap = {key: found.evaluation.numbers(kind)["AP"] for key, found in dark.items()}
    for name in names:
        confidence = confidence_of(content, name)
        for cell in cells:
            found, values = dark[name, cell], gains[kind, name, cell]
            counts = confidences.counts(found.evaluation.matches[kind], confidence)
            difference = None
            if name != names[0]:
                delta = ap[name, cell] - ap[names[0], cell]
                difference = estimate(delta, values - gains[kind, names[0], cell], drawn.units, low=-1)
            content.stops.append(
                c.Stop(
                    model=name,
                    kind=kind,
                    stop=None if cell == CLEAN else -cell.level,
                    brightness=median(found.brightness.values()),
                    ap=estimate(ap[name, cell], values, drawn.units),
                    confidence=confidence,
                    precision=ratio(counts, 0, (0, 1), drawn),
                    recall=ratio(counts, 0, (2,), drawn),
                    difference=difference,
                )
            )
        if name != names[0]:
            lead = np.mean([ap[name, cell] - ap[names[0], cell] for cell in cells[1:]])
            leads = np.mean([gains[kind, name, cell] - gains[kind, names[0], cell] for cell in cells[1:]], axis=0)
            difference = estimate(float(lead), leads, drawn.units, low=-1)
            content.comparisons.append(c.Comparison(name, names[0], kind, MEAN_OVER_STOPS, "AP", difference))
    rows = half_stops(
        names,
        [cell.level for cell in cells[1:]],
        lambda name, cell: (ap[name, cell], gains[kind, name, cell]),
        cells[0],
        cells[1:],
        drawn.units,
    )
    for row in rows:
        less = [row[f"{key} to the first"] for key in ("delta", "low", "high") if f"{key} to the first" in row]
        stop = c.Estimate(row["stop"], row.get("low"), row.get("high"))
        difference = c.Estimate(*less) if less else None
        content.half_stops.append(
            c.HalfStop(row["model"], kind, stop, row["reached"], row.get("open", False), difference)
        )


def notes(content: c.Content, evaluation: Evaluation) -> list[str]:
    """Write what the reader has to know."""
    data = content.data
    drawn = f"{data.groups} groups of {data.pictures} pictures" if data.groups else f"{data.pictures} pictures"
    lines = [
        f"intervals hold 95 % over the choice of pictures ({DRAWS} draws of {drawn}), not over chance in training",
        "confidences and temperatures are chosen on all pictures of their row; what they are worth is measured with "
        "those of one half of the pictures on the other",
        f"stops: {data.pictures_of_stops} pictures, darkened with the noise of {data.preset}, seed {data.seed}",
        *evaluation.notes,
    ]
    if remark := dark_already(data.brightness):
        lines.append(f"{remark}. Stops darken them further")
    for model in content.models:
        if next(row.confidence for row in content.thresholds if row.model == model.name) is None:
            lines.append(
                f"nothing that {model.name} finds is right; what needs a confidence was measured at "
                f"{DEFAULT_CONFIDENCE}"
            )
    return lines
