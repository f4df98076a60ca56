"""What a loaded model finds, for the scores of instances; and thresholds chosen on one split for another.

a U-Net's foreground maps -> maps_of ─┐
a detector's masks -> by_score ───────┴─ chosen_on(tune) -> thresholds -> metrics.instances.instances, of split
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yolo_wnlb.data import coco, sources
from yolo_wnlb.metrics.instances import THRESHOLDS, Found, by_probability, choose

MOST = 500  # detections of a picture that count; some pictures have more nuclei than COCO's 100


def maps_of(model: Any, truth: coco.Truth, files: Mapping[Any, Path], **options: Any) -> Found:
    """Return what a U-Net finds, its foreground maps.

    Args:
        model: What `denoiseg.detector.load` returned.
        truth: Its one class, by its name.
        files: {image id: file}.
        options: Of its `predict`.
    Raises: ValueError: the truth has other classes.
    """
    [category_id] = coco.class_map(model.names, truth).values()
    return by_probability(zip(files, model.predict(files.values(), **options)), category_id)


def floor_of(threshold: float | Mapping[str, float]) -> float:
    """Return the least score that a detector has to return for thresholds, given or to be chosen from THRESHOLDS."""
    given = threshold.values() if isinstance(threshold, Mapping) else [threshold]
    return min(*given, THRESHOLDS[0])


def check_apart(source: str, tune: str, split: str) -> None:
    """Refuse to choose thresholds on pictures that are judged or learnt from, whatever their splits are called.

    Raises: ValueError: a picture of the one split is one of the other.
    """
    data = coco.data_set(source, tune)
    tuned = sources.pictures_in(data, tune)
    for other, why in ((split, "thresholds chosen there look too good"), ("train", "models know them by heart")):
        if common := sorted(tuned & sources.pictures_in(data, other)):
            raise ValueError(
                f"tune: {tune} of {source} has {len(common)} pictures of {other} too (first: {common[0]}), and {why}; "
                "give each its own"
            )


def chosen_on(tune: str, truth: coco.Truth, found: Found) -> dict[str, float]:
    """Choose the thresholds for AP@0.5 and for SEG on a split.

    Raises: ValueError: names the split.
    """
    try:
        return choose(truth, found)
    except ValueError as error:
        raise ValueError(f"tune: {tune}: {error}") from error
