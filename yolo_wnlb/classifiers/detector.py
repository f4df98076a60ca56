"""A trained classifier, loaded to be used: names, describe, predict, as the modules of `detectors` have them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from ultralytics.utils import TQDM
from ultralytics.utils.torch_utils import select_device

from yolo_wnlb.checkpoints import has_mark
from yolo_wnlb.classifiers.nets import FORMAT, SIDE, Classifier, prepared, rebuild
from yolo_wnlb.data.folders import Labelled

BATCH = 64  # pictures at once; it changes nothing, the norms are in eval mode


class Model(NamedTuple):
    """A loaded classifier.

    Attributes:
        weights: Its file.
        module: The network, in eval mode.
        imgsz: Side of the pictures that it was trained on.
    """

    weights: Path
    module: Classifier
    imgsz: int


def reads(weights: str | Path) -> bool:
    """Tell whether a file is a classifier that `nets.save` wrote, from a glance into it.

    Raises: ValueError: it is a damaged archive, or one that grows when it is read.
    """
    return has_mark(weights, FORMAT)


def load(weights: str | Path | Model, device: str | None = None) -> Model:
    """Load a classifier; one that is loaded is returned as it is.

    Args:
        weights: A file that `fit` wrote, or what this returned.
        device: As Ultralytics takes it: "cpu", "0", ... Default: a GPU if there is one.
    Raises: OSError, ValueError: the file is missing, unreadable or of something else.
    """
    if isinstance(weights, Model):
        return weights
    module = rebuild(weights).to(select_device(device or "", verbose=False))
    return Model(Path(weights), module, module.recipe.get("imgsz", SIDE))


def names(weights: str | Path | Model) -> dict[int, str]:
    """Return the model's classes, {index: name}."""
    return dict(enumerate(load(weights).module.recipe["classes"]))


def describe(weights: str | Path | Model, *, imgsz: int | None = None, device: str | None = None) -> dict[str, Any]:
    """Say what predicts and how, for the protocol of a score; the arguments are those of `predict`."""
    model = load(weights, device)
    return {
        "detector": f"classifier {model.module.recipe['arch']}",
        "sha256": hashlib.sha256(model.weights.read_bytes()).hexdigest()[:16],
        "image_size": f"{imgsz or model.imgsz}x{imgsz or model.imgsz}",
    }


def predict(
    weights: str | Path | Model,
    data: Labelled,
    *,
    places: Sequence[int] | None = None,
    imgsz: int | None = None,
    device: str | None = None,
    progress: bool = False,
) -> np.ndarray:
    """Return the probabilities of the model's classes: float32 (pictures, classes).

    Args:
        weights: As `load` takes or returns it.
        data: The pictures.
        places: Which of them, by number. Default: all.
        imgsz: Side of the network's input. Default: as trained.
        device: As `load` takes it.
        progress: Show a bar.
    Raises: OSError, ValueError: a file is missing or unreadable.
    """
    model = load(weights, device)
    module, side = model.module, imgsz or model.imgsz
    place = next(module.parameters()).device
    numbers = range(len(data)) if places is None else places
    found = []
    with torch.inference_mode():
        for start in TQDM(range(0, len(numbers), BATCH), desc="predicting", disable=not progress):
            pictures = [prepared(data.read(number), side) for number in numbers[start : start + BATCH]]
            x = torch.from_numpy(np.stack(pictures)).to(place).float() / 255
            found.append(module(x).softmax(1).float().cpu().numpy())
    return np.concatenate(found)
