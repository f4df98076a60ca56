"""The pictures in which most goes wrong: what was missed, what was found where nothing is, drawn as outlines."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as mask_utils

from yolo_wnlb.data.coco import Prediction, Truth
from yolo_wnlb.metrics.average_precision import KEYS, encoded
from yolo_wnlb.metrics.errors import HIT, judge
from yolo_wnlb.report.content import Shape, WorstPicture

OVERLAP = 0.5  # IoU of a hit
SMOOTH = 0.7  # pixels that an outline may lie beside the edge of its mask


def worst_pictures(
    model: str,
    truth: Truth,
    predictions: Sequence[Prediction],
    files: Mapping[Any, Path],
    brightness: Mapping[Any, float],
    kind: str,
    confidence: float,
    count: int,
) -> list[WorstPicture]:
    """Return the pictures in which most goes wrong, the worst first; those without a mistake are left out.

    Args:
        model: Name of the model.
        truth: A COCO truth.
        predictions: COCO results of the model.
        files: {image id: file}.
        brightness: {image id: mean luma}.
        kind: "segm" or "bbox".
        confidence: The lowest that counts.
        count: At most so many pictures.
    """
    shown = [prediction for prediction in predictions if prediction["score"] >= confidence]
    judged = judge(truth, shown, kind, OVERLAP, 0.1, max(len(shown), 1))
    missed, false_alarms, found = (defaultdict[Any, list[dict[str, Any]]](list) for _ in range(3))
    for row, hits, ignored in zip(judged.row, judged.kind == HIT, judged.ignored):
        if hits or not ignored:
            (found if hits else false_alarms)[shown[row]["image_id"]].append(shown[row])
    for row in judged.object_row[~judged.taken]:
        missed[truth["annotations"][row]["image_id"]].append(truth["annotations"][row])

    def harm(image: Mapping[str, Any]) -> float:
        return len(missed[image["id"]]) + sum(alarm["score"] for alarm in false_alarms[image["id"]])

    names = {category["id"]: category["name"] for category in truth["categories"]}
    ranked = sorted(truth["images"], key=lambda image: (-harm(image), image["file_name"]))
    return [
        WorstPicture(
            model=model,
            file=str(files[image["id"]]),
            name=image["file_name"],
            width=image["width"],
            height=image["height"],
            brightness=brightness[image["id"]],
            harm=float(harm(image)),
            **{
                part: [shape_of(entry, kind, image, names) for entry in of[image["id"]]]
                for part, of in (("missed", missed), ("false_alarms", false_alarms), ("found", found))
            },
        )
        for image in ranked[:count]
        if harm(image) > 0
    ]


def shape_of(entry: Mapping[str, Any], kind: str, image: Mapping[str, Any], names: Mapping[Any, str]) -> Shape:
    """Turn an annotation or a prediction into its box and, of masks, its outlines."""
    outlines, box = list[list[float]](), entry.get("bbox")
    if kind == "segm":
        [rle] = encoded([entry[KEYS[kind]]], np.zeros(1, int), kind, [(image["height"], image["width"])])
        outlines = outlines_of(mask_utils.decode(rle))
        box = box or mask_utils.toBbox(rle).tolist()
    score = entry.get("score")
    return Shape(
        names[entry["category_id"]],
        [round(float(value), 1) for value in box or [0, 0, 0, 0]],
        outlines,
        None if score is None else float(score),
    )


def outlines_of(mask: np.ndarray) -> list[list[float]]:
    """Return the outer outline of each part of a mask, uint8 (H, W), as flat lists x, y, x, y, ..."""
    parts, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [cv2.approxPolyDP(part, SMOOTH, True).astype(float).ravel().tolist() for part in parts]
