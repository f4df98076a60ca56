"""Does it help to brighten pictures before a detector sees them? Its AP with and without each enhancer."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import cv2
import numpy as np

from yolo_wnlb.imaging.brightness import DAYLIGHT
from yolo_wnlb.metrics.average_precision import Evaluation, evaluate
from yolo_wnlb.metrics.bootstrap import paired_bootstrap
from yolo_wnlb.report.content import Enhancer as Row
from yolo_wnlb.report.content import Estimate, HalfStop
from yolo_wnlb.study.subject import Alter, Scene, Subject, change_of
from yolo_wnlb.study.suite import CLEAN, Cell
from yolo_wnlb.twins.enhancers import enhancer
from yolo_wnlb.twins.specs import Enhancer

DEFAULT = ("gamma:2.2", "clahe:2", "histeq", "msr")  # those that need no file


def read_enhancers(specs: Sequence[str]) -> list[Enhancer]:
    """Make the enhancers of a report.

    Args:
        specs: As `twins.enhancers.enhancer` takes them.
    Raises: ValueError, OSError, ImportError: with the remedy; one is named twice, or does not brighten.
    """
    if worse := [spec for spec in specs if str(spec).startswith("corrupt:")]:
        raise ValueError(f"{worse[0]} makes pictures worse; yolo-wnlb robustness measures that")
    if before := [spec for spec in specs if str(spec).startswith("dir:")]:
        raise ValueError(
            f"{before[0]} has pictures that were enhanced before, which may be others than those that are measured; "
            "report on their data YAML instead"
        )
    made = [enhancer(spec) for spec in specs]
    names = [one.spec for one in made]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{twice[0]} is named twice among the enhancers; name it once")
    return made


def place_of(brightness: float, stops: Sequence[int], half_stops: Sequence[HalfStop], first: str) -> Cell:
    """Choose the pictures on which enhancers are measured: where it is dark.

    Dark pictures are taken as they are. Day pictures are darkened to the stop at which the first model has half of its
    AP left, or the nearest that was measured; to -3, or the nearest, where that is not known.

    Args:
        brightness: Median brightness of the pictures, 0 to 255.
        stops: Those that were measured, 0 or less.
        half_stops: Of the report.
        first: Name of the first model.
    """
    if brightness < DAYLIGHT or not stops:
        return CLEAN
    half = next((row.stop.value for row in half_stops if row.model == first and row.reached), None)
    wanted = -3 if half is None else half
    stop = min(stops, key=lambda stop: abs(stop - wanted))
    return Cell("lowlight", "stops", -stop, f"{stop}")


def with_and_without(
    subjects: Sequence[Subject],
    scene: Scene,
    kind: str,
    enhancers: Sequence[Enhancer],
    without: Mapping[str, Evaluation],
    cell: Cell = CLEAN,
    where: str = "all pictures",
    groups: Sequence[str] | None = None,
) -> list[Row]:
    """Measure models on pictures as they are, or at a stop, and on the same pictures behind each enhancer.

    Args:
        subjects: The models.
        scene: The pictures.
        kind: "segm" or "bbox".
        enhancers: What `read_enhancers` returned.
        without: {model name: its score on the pictures without an enhancer}.
        cell: What is done to the pictures first; `place_of` chooses it.
        where: What the pictures are called in the rows, see `content.Enhancer`.
        groups: The group of each picture, in the order of their ids; intervals then draw whole groups.
    Raises: ValueError: an enhancer fails on a picture.
    """
    darken = change_of(cell, scene)
    rows = []
    for subject in subjects:
        for one in enhancers:
            seconds: list[float] = []
            result = ap_of(subject, scene, kind, behind(one, darken, scene.keys, seconds))
            found = paired_bootstrap(without[subject.name], result, kind=kind, groups=groups)
            before, after = (evaluation.numbers(kind)["AP"] for evaluation in (without[subject.name], result))
            difference = Estimate(found.delta, found.low, found.high)
            rows.append(Row(subject.name, kind, one.spec, where, before, after, difference, 1000 * median(seconds)))
    return rows


def ap_of(subject: Subject, scene: Scene, kind: str, alter: Alter | None) -> Evaluation:
    """Evaluate a model on changed pictures."""
    found = subject.module.predict(
        subject.model, scene.files, subject.classes, max_det=100, **scene.options, alter=alter
    )
    return evaluate(scene.truth, found, max_detections=100, iou_types=[kind])


def behind(one: Enhancer, darken: Alter | None, keys: Mapping[Any, str], seconds: list[float]) -> Alter:
    """Return the change that darkens a picture, if asked to, and enhances it; it appends how long that took."""

    def alter(image: np.ndarray, image_id: Any) -> np.ndarray:
        image = darken(image, image_id) if darken else image
        channels = image.shape[2]
        if channels not in (1, 3):
            raise ValueError(
                f"{keys[image_id]} has {channels} channels, and enhancers take grey or colour pictures; give "
                "enhancers=none"
            )
        colour = image[..., ::-1] if channels == 3 else image.repeat(3, 2)
        start = time.perf_counter()
        result = one(np.ascontiguousarray(colour), keys[image_id])
        seconds.append(time.perf_counter() - start)
        if channels == 1:
            return cv2.cvtColor(result, cv2.COLOR_RGB2GRAY)[..., None]
        return np.ascontiguousarray(result[..., ::-1])

    return alter
