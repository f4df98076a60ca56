"""Detections of an Ultralytics model, .pt or exported, as COCO results.

The candidates are those of `yolo val`: every class of a box above the floor, not only its best one.
Masks are those of `yolo predict retina_masks=True`: logits are enlarged to the size of the image,
then compared with 0. (The predictions.json of `yolo val` enlarges finished masks and truncates,
which takes up to 6 % of their area.) One image at a time: what else is evaluated says nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torchvision  # noqa: F401 -- where it is loaded, Ultralytics takes its NMS: 0.2 s less a picture
import ultralytics
from torch import Tensor
from ultralytics.data.augment import LetterBox
from ultralytics.nn.autobackend import AutoBackend
from ultralytics.utils import TQDM
from ultralytics.utils.nms import non_max_suppression
from ultralytics.utils.ops import process_mask_native, scale_boxes
from ultralytics.utils.torch_utils import select_device

from yolo_wnlb.data.coco import Prediction, encode
from yolo_wnlb.imaging.curve import CURVES, Curve
from yolo_wnlb.reading import sha256_of
from yolo_wnlb.yolo.models import channels_of, load_checkpoint, load_export, read_picture, takes_any_size
from yolo_wnlb.yolo.sixteen_bits import curve_of

Size = int | tuple[int, int]  # pixels; (height, width)


class Model(NamedTuple):
    """A loaded model, to be used more than once.

    Attributes:
        weights: Its file.
        backend: What runs it.
        size: (height, width) that it was trained or exported at.
        flexible: Whether it takes other sizes.
        batch: How many images it wants at once.
        channels: Of the images: 1 for grey, 3 for colour; others are read as they are.
        curve: That it was trained with, of images with more than 8 bits.
    """

    weights: Path
    backend: AutoBackend
    size: tuple[int, int]
    flexible: bool
    batch: int
    channels: int
    curve: Curve


def load(weights: str | Path | Model, device: str | None = None) -> Model:
    """Load a model; one that is loaded is returned as it is.

    Args:
        weights: A detection or segmentation model: .pt, or what `yolo export` wrote (without nms=True).
        device: As Ultralytics takes it: "cpu", "0", ... Default: a GPU if there is one.
    Raises: OSError, ValueError: the file is missing, unreadable, or of another task.
    """
    if isinstance(weights, Model):
        return weights
    path, where = Path(weights), select_device(device or "", verbose=False)
    if path.suffix == ".pt":
        model = load_checkpoint(path)
        backend = AutoBackend(model.model, where, verbose=False)
        size, channels, curve = pair(model.overrides.get("imgsz", 640)), channels_of(model), curve_of(None, model)
        return Model(Path(model.ckpt_path), backend, size, True, 1, channels, curve)
    backend = load_export(path)
    flexible, channels = takes_any_size(backend), channels_of(backend)
    batch = 1 if flexible else int(backend.metadata.get("batch", 1))
    if where.type != "cpu":
        backend = AutoBackend(str(path), where, verbose=False)
    return Model(path, backend, pair(backend.imgsz), flexible, batch, channels, curve_of(None, backend))


def names(weights: str | Path | Model) -> dict[int, str]:
    """Return the model's classes, {index: name}."""
    return dict(load(weights).backend.names)


def describe(
    weights: str | Path | Model, *, imgsz: Size | None = None, conf: float = 0.001, iou: float = 0.7, max_det: int = 100
) -> dict[str, Any]:
    """Return the protocol of `predict` with these arguments, for the header of a predictions file."""
    model = load(weights)
    return {
        "detector": f"ultralytics {ultralytics.__version__}",
        "weights": model.weights.name,
        "sha256": sha256_of(model.weights) if model.weights.is_file() else "a folder",
        "image_size": "x".join(map(str, choose_size(model, imgsz))),
        "confidence_floor": conf,
        "nms_iou": "none, end to end" if end_to_end(model) else iou,
        "detections_per_image": max_det,
        "mask_threshold": 0.5,
        **({} if model.curve == CURVES["auto"] else {"curve": str(model.curve)}),
        "device": str(model.backend.device),
        "torch": torch.__version__,
    }


def predict(
    weights: str | Path | Model,
    images: Mapping[Any, Path],
    classes: Mapping[int, int],
    *,
    imgsz: Size | None = None,
    conf: float = 0.001,
    iou: float = 0.7,
    max_det: int = 100,
    device: str | None = None,
    progress: bool = False,
    alter: Callable[[np.ndarray, Any], np.ndarray] | None = None,
    perturb: Callable[[Tensor, Any], Tensor] | None = None,
) -> list[Prediction]:
    """Detect objects in images.

    Args:
        weights: As `load` takes or returns it.
        images: {image id: file}.
        classes: {index of the model's class: category id}, see `coco.class_map`. Others are not
            detected, and take no place among the `max_det`.
        imgsz: Size that images are fitted into, a multiple of the stride. Default: as the model was
            trained or exported.
        conf: Lowest score. 0.25, the default of `yolo predict`, is for pictures, not for AP.
        iou: Of non-maximum suppression; end-to-end models have none.
        max_det: The best so many of each image.
        device: As Ultralytics takes it: "cpu", "0", ... Default: a GPU if there is one.
        progress: Show a bar.
        alter: Changes each picture as it was read, before any resizing: (uint8 (H, W, C), image id) -> the same
            shape; BGR if C is 3.
        perturb: Changes each input of the network, after the picture was fitted into its size: (float (1, C, h, w)
            in [0, 1], image id) -> the same shape; RGB if C is 3.

    Returns: Boxes, and for segmentation models masks, in pixels of the image files; by image.
    Raises: OSError, ValueError: a file is missing or unreadable; a size that the model does not take.
    """
    if not 0 <= conf < 1 or not 0 <= iou <= 1 or max_det < 1:
        raise ValueError(f"conf is {conf}, iou {iou}, max_det {max_det}; wanted shares of 1, and 1 or more detections")
    model = load(weights, device)
    backend = model.backend
    box = LetterBox(choose_size(model, imgsz), auto=model.flexible, stride=int(backend.stride))
    predictions: list[Prediction] = []
    for image_id, file in TQDM(images.items(), desc="predicting", disable=not progress):
        image = read_picture(file, model.channels, model.curve)
        image = alter(image, image_id) if alter else image
        x = torch.from_numpy(box(image=image).transpose(2, 0, 1).copy()).to(backend.device)  # (C, h, w), BGR
        x = (x.flip(0) if model.channels == 3 else x)[None].float() / 255
        x = perturb(x, image_id) if perturb else x
        with torch.inference_mode():
            rows, prototypes = unpack(backend(x.repeat(model.batch, 1, 1, 1)))
            [found] = non_max_suppression(
                rows[:1],
                conf,
                iou,
                classes=list(classes),
                multi_label=True,
                max_det=max_det,
                nc=len(backend.names),
                end2end=end_to_end(model),
            )
            boxes = scale_boxes(x.shape[2:], found[:, :4].clone(), image.shape)  # xyxy in pixels of the file
            masks = []
            if prototypes is not None and len(found):
                masks = encode(process_mask_native(prototypes[0], found[:, 6:], boxes, image.shape[:2]).cpu().numpy())
        for i, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
            prediction = {"image_id": image_id, "category_id": classes[int(found[i, 5])], "score": found[i, 4].item()}
            prediction["bbox"] = [x1, y1, x2 - x1, y2 - y1]
            if prototypes is not None:
                prediction["segmentation"] = masks[i]
            predictions.append(prediction)
    return predictions


# ---- parts ---------------------------------------------------------------------------------------


def choose_size(model: Model, imgsz: Size | None) -> tuple[int, int]:
    """Return the (height, width) that images are fitted into; see `predict`."""
    size, stride = model.size if imgsz is None else pair(imgsz), int(model.backend.stride)
    if any(side < stride or side % stride for side in size):
        raise ValueError(f"image size {imgsz or size} has to be a multiple of the stride, {stride}")
    if not model.flexible and size != model.size:
        raise ValueError(f"{model.weights} takes images of {model.size} only, not {size}; export it with dynamic=True")
    return size


def pair(size: Any) -> tuple[int, int]:
    """Return (height, width) of one number or two."""
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)


def end_to_end(model: Model) -> bool:
    """Tell whether the model returns final rows, without non-maximum suppression."""
    return bool(getattr(model.backend, "end2end", False))


def unpack(y: Any) -> tuple[Tensor, Tensor | None]:
    """Split what AutoBackend returns for any format into rows and prototypes (None without masks)."""
    if isinstance(y, (list, tuple)) and isinstance(y[-1], dict):  # PyTorch adds what it trains on
        y = y[0]
    if isinstance(y, Tensor):
        return y, None
    return (y[0], y[1]) if len(y) > 1 else (y[0], None)
