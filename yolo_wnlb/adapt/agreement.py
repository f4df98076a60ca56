"""Validation without labels: does the model see in the dark what the untouched model sees in the light?

Held-out pictures are resized as in training and darkened, always in the same way. What the untouched model finds in
the bright picture with some confidence takes the place of the truth; the AP of the predictions in the dark against it
is called agreement here. It is no accuracy: objects that the untouched model overlooks by day are not in it, and its
errors are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pycocotools import mask as mask_utils

from yolo_wnlb.adapt.pictures import size_within, write_picture
from yolo_wnlb.data.coco import picture_size
from yolo_wnlb.data.validation import Prediction, Truth
from yolo_wnlb.detectors import ultralytics
from yolo_wnlb.imaging.capture import capture
from yolo_wnlb.imaging.chance import picture_rng
from yolo_wnlb.imaging.curve import Curve
from yolo_wnlb.metrics.average_precision import evaluate
from yolo_wnlb.yolo.darkness import read_request
from yolo_wnlb.yolo.features import NECK, distance, features, places_of
from yolo_wnlb.yolo.models import read_picture, to_input
from yolo_wnlb.yolo.weights import unwrap

CONFIDENCE = 0.25  # of predictions by day that take the place of the truth; the default of `yolo predict`
KINDS = {"segm": "masks", "bbox": "boxes"}

Files = dict[int, Path]  # {image id: picture}


def write_pairs(
    pictures: Path, folder: Path, imgsz: int, lowlight: Any, channels: int, curve: Curve | None = None
) -> tuple[Files, Files]:
    """Write each picture as the model sees it in training, bright and dark, without loss.

    Args:
        pictures: A folder.
        folder: Where to: `bright/` and `dark/`, under the pictures' names.
        imgsz: Longer side in pixels.
        lowlight: Preset or settings; each picture's darkness follows from the seed in it and from the name.
        channels: 1 or 3.
        curve: That the model has recorded, of pictures with more than 8 bits; None is the default.
    Returns: {image id: file} of the bright and of the dark ones.
    """
    camera, seed, _ = read_request(lowlight)
    bright, dark = Files(), Files()
    for part in ("bright", "dark"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for number, file in enumerate(sorted(pictures.iterdir()), 1):
        picture = size_within(read_picture(file, channels, curve), imgsz)
        bright[number], dark[number] = (folder / part / f"{file.stem}.png" for part in ("bright", "dark"))
        write_picture(bright[number], picture)
        write_picture(dark[number], capture(picture, camera.draw(picture_rng(seed, file.stem))))
    return bright, dark


def detections(model: ultralytics.Model, files: Mapping[int, Path], imgsz: int) -> list[Prediction]:
    """Predict as COCO evaluates: down to a confidence of 0.001, the classes numbered from 1."""
    classes = {index: index + 1 for index in ultralytics.names(model)}
    return ultralytics.predict(model, files, classes, imgsz=imgsz)


def truth_of(predictions: list[Prediction], files: Mapping[int, Path], names: Mapping[int, str]) -> Truth:
    """Make a COCO truth of the confident ones among predictions on the bright pictures; empty masks are left out."""
    sizes = {number: picture_size(file) for number, file in files.items()}
    annotations: list[dict[str, Any]] = []
    for found in predictions:
        mask = found.get("segmentation")
        area = float(mask_utils.area(mask)) if mask else found["bbox"][2] * found["bbox"][3]
        if found["score"] >= CONFIDENCE and area > 0:
            kept = {key: value for key, value in found.items() if key != "score"}
            annotations.append({**kept, "id": len(annotations) + 1, "area": area, "iscrowd": 0})
    return {
        "images": [
            {"id": number, "file_name": file.name, "width": sizes[number][0], "height": sizes[number][1]}
            for number, file in files.items()
        ],
        "annotations": annotations,
        "categories": [{"id": index + 1, "name": f"{index} {name}"} for index, name in names.items()],
    }


def agreement(truth: Truth, predictions: list[Prediction], task: str) -> dict[str, float | None]:
    """Return the AP of predictions against a truth of confident predictions: {"masks": 0 to 1, "boxes": 0 to 1}.

    Detectors have no "masks". None stands where the truth is empty.
    """
    kinds = ["segm", "bbox"] if task == "segment" else ["bbox"]
    if not truth["annotations"]:
        return {KINDS[kind]: None for kind in kinds}
    result = evaluate(truth, predictions, iou_types=kinds)
    return {KINDS[kind]: result.numbers(kind)["AP"] for kind in kinds}


def feature_distances(teacher: Any, model: Any, bright: Files, dark: Files, channels: int) -> dict[str, float]:
    """Return how far the features of dark pictures are from the teacher's features of their bright twins.

    Args:
        teacher: The untouched Ultralytics model, as is `model`, the one that sees the dark pictures.
        model: See there.
        bright: {image id: file}; `dark` holds their twins, of the same sizes.
        dark: See there.
        channels: Of the pictures.
    Returns: {place: mean over the pictures of mean((f - t)^2) / var(t)}, for P3, P4, P5 and each level of the neck.
    """
    teacher, model = (unwrap(network).float().eval().cpu() for network in (teacher, model))
    own = [places_of(network, ("P3", "P4", "P5", NECK)) for network in (teacher, model)]
    levels = ["P3", "P4", "P5", *(f"neck {i}" for i in range(1, len(own[0]) - 2))]
    stride, total = int(max(teacher.stride)), torch.zeros(len(levels))
    for number in bright:
        pair = [read_picture(files[number], channels) for files in (bright, dark)]
        height, width = (-(-side // stride) * stride for side in pair[0].shape[:2])
        with torch.inference_mode():
            wanted, found = (
                features(network, to_input([picture], (height, width)), layers)
                for network, picture, layers in zip((teacher, model), pair, own)
            )
        total += torch.stack([distance(a, b) for a, b in zip(found, wanted, strict=True)])
    return {level: float(f"{float(value) / len(bright):.4g}") for level, value in zip(levels, total)}
