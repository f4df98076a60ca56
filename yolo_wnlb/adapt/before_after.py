"""One picture for the eye: held-out pictures bright, dark, and what the model finds before and after."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as mask_utils

from yolo_wnlb.adapt.agreement import CONFIDENCE, Files
from yolo_wnlb.data.journal import replaced
from yolo_wnlb.data.sources import printable
from yolo_wnlb.data.validation import Prediction
from yolo_wnlb.imaging.sheet import footer, heading, in_a_row, panel, resized, scaled
from yolo_wnlb.visualize.inspection import draw, tone
from yolo_wnlb.visualize.observation import WHITE, Object
from yolo_wnlb.visualize.pictures import in_colour
from yolo_wnlb.yolo.models import read_picture

SIDE = 320  # pixels of the longer side of a picture
ROWS = 3
COLUMNS = ("bright, untouched model", "dark", "dark, untouched model", "dark, adapted model")


def draw_before_after(
    out: Path,
    bright: Files,
    dark: Files,
    by_day: Sequence[Prediction],
    before: Sequence[Prediction],
    after: Sequence[Prediction],
    names: dict[int, str],
    channels: int,
) -> None:
    """Write a JPEG with the first pictures in which the untouched model finds something by day.

    Args:
        out: The file.
        bright: {image id: file}; `dark` holds their twins.
        dark: See there.
        by_day: Predictions of the untouched model on the bright pictures.
        before: Its predictions on the dark pictures.
        after: Those of the adapted model on the dark pictures.
        names: Classes, {index: name}.
        channels: Of the pictures.
    """
    busy = {found["image_id"] for found in by_day if found["score"] >= CONFIDENCE}
    shown = sorted(bright, key=lambda number: (number not in busy, number))[:ROWS]
    palette = {printable(name): tone(index) for index, name in names.items()}
    rows = [heading(COLUMNS, SIDE)]
    for number in shown:
        light, night = (in_colour(read_picture(files[number], channels)) for files in (bright, dark))
        size = scaled(light.shape, SIDE)
        peak = float(np.percentile(night, 99.5))
        seen = np.clip(night * max(1.0, WHITE / max(peak, 1)), 0, 255).astype(np.uint8)
        panels = [(light, by_day), (night, None), (seen, before), (seen, after)]
        row = []
        for picture, predictions in panels:
            scaled_up = resized(picture, size)
            if predictions is None:
                row.append(panel([scaled_up], [f"as the camera gives it, mean {night.mean():.0f} of 255"], SIDE))
                continue
            objects = objects_in(predictions, number, picture.shape, size, names)
            row.append(panel([draw(scaled_up, objects, palette)], [f"{len(objects)} found"], SIDE))
        rows.append(in_a_row(row))
    text = (
        f"Held-out pictures, not trained on. Drawn are objects with a confidence of {CONFIDENCE} or more; behind them "
        "the dark pictures are brightened for the eye."
    )
    sheet = np.vstack([*rows, footer(text, rows[0].shape[1])])
    with replaced(out) as draft:
        draft.write_bytes(cv2.imencode(".jpg", sheet, [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes())


def objects_in(
    predictions: Sequence[Prediction],
    number: int,
    shape: Sequence[int],
    size: tuple[int, int],
    names: dict[int, str],
) -> list[Object]:
    """Return the confident predictions on one picture, the most confident first, their masks resized to `size`."""
    height, width = shape[:2]
    objects = []
    for found in predictions:
        if found["image_id"] != number or found["score"] < CONFIDENCE:
            continue
        x, y, w, h = found["bbox"]
        mask = None
        if "segmentation" in found:
            decoded = mask_utils.decode(found["segmentation"])
            mask = cv2.resize(decoded.astype(np.float32), size[::-1], interpolation=cv2.INTER_LINEAR) > 0.5
        box = (x / width, y / height, (x + w) / width, (y + h) / height)
        objects.append(Object(printable(names[found["category_id"] - 1]), box, mask, found["score"]))
    return sorted(objects, key=lambda item: -(item.score or 0))
