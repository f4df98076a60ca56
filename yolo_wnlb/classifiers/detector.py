"""A trained classifier or fused network, loaded to be used: names, describe, predict, as those of `detectors`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from ultralytics.utils import TQDM
from ultralytics.utils.torch_utils import select_device

from yolo_wnlb.checkpoints import has_mark
from yolo_wnlb.classifiers import fusion
from yolo_wnlb.classifiers.nets import FORMAT, SIDE, Classifier, prepared, rebuild
from yolo_wnlb.data.folders import Labelled
from yolo_wnlb.reading import sha256_of

BATCH = 64  # pictures at once; it changes nothing, the norms are in eval mode


class Model(NamedTuple):
    """A loaded classifier.

    Attributes:
        weights: Its file.
        module: The network, in eval mode.
        imgsz: Side of the pictures that it was trained on.
    """

    weights: Path
    module: Classifier | fusion.Fusion
    imgsz: int


def reads(weights: str | Path) -> bool:
    """Tell whether a file is a classifier or a fused network that was written here, from a glance into it.

    Raises: ValueError: it is a damaged archive, or one that grows when it is read.
    """
    return has_mark(weights, FORMAT) or is_fused(weights)


def is_fused(weights: str | Path) -> bool:
    """Tell whether a file is a fused network that `fusion_fit.fit` wrote; see `reads`."""
    return has_mark(weights, fusion.FORMAT)


def load(weights: str | Path | Model, device: str | None = None) -> Model:
    """Load a classifier or a fused network; one that is loaded is returned as it is.

    Args:
        weights: A file that `fit` wrote, or what this returned.
        device: As Ultralytics takes it: "cpu", "0", ... Default: a GPU if there is one.
    Raises: OSError, ValueError: the file is missing, unreadable or of something else.
    """
    if isinstance(weights, Model):
        return weights
    fused = Path(weights).is_file() and is_fused(weights)
    module: Classifier | fusion.Fusion = fusion.rebuild(weights) if fused else rebuild(weights)
    module.to(select_device(device or "", verbose=False))
    return Model(Path(weights), module, module.recipe.get("imgsz", SIDE))


def names(weights: str | Path | Model) -> dict[int, str]:
    """Return the model's classes, {index: name}."""
    return dict(enumerate(load(weights).module.recipe["classes"]))


def describe(weights: str | Path | Model, *, imgsz: int | None = None, device: str | None = None) -> dict[str, Any]:
    """Say what predicts and how, for the protocol of a score; the arguments are those of `predict`."""
    model = load(weights, device)
    recipe = model.module.recipe
    kind = f"classifier {recipe['arch']}"
    if isinstance(model.module, fusion.Fusion):
        kind = f"fusion {' + '.join(recipe[half]['arch'] for half in fusion.HALVES)}, l2 {recipe['l2']:g}"
    return {
        "detector": kind,
        "sha256": sha256_of(model.weights)[:16],
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
    alter: Callable[[np.ndarray, int], np.ndarray] | None = None,
    perturb: Callable[[Tensor, Sequence[int]], Tensor] | None = None,
) -> np.ndarray:
    """Return the probabilities of the model's classes: float32 (pictures, classes).

    Args:
        weights: As `load` takes or returns it.
        data: The pictures.
        places: Which of them, by number. Default: all.
        imgsz: Side of the network's input. Default: as trained.
        device: As `load` takes it.
        progress: Show a bar.
        alter: Gets each picture as it was read, uint8 (H, W, 3) BGR, and its number; returns one to use in its place.
        perturb: Gets inputs of the network, float32 (B, 3, imgsz, imgsz) RGB in [0, 1], and the numbers of their
            pictures; returns inputs to use in their place.
    Raises: OSError, ValueError: a file is missing or unreadable.
    """
    model = load(weights, device)
    module, side = model.module, imgsz or model.imgsz
    place = next(module.parameters()).device
    numbers = range(len(data)) if places is None else places
    found = []
    for start in TQDM(range(0, len(numbers), BATCH), desc="predicting", disable=not progress):
        batch = numbers[start : start + BATCH]
        pictures = [data.read(number) for number in batch]
        if alter:
            pictures = [alter(picture, number) for picture, number in zip(pictures, batch)]
        x = torch.from_numpy(np.stack([prepared(picture, side) for picture in pictures])).to(place).float() / 255
        x = perturb(x, batch) if perturb else x
        with torch.inference_mode():
            found.append(module(x).softmax(1).float().cpu().numpy())
    return np.concatenate(found)
