"""The loss of a model at its input, with labels at the geometry of that input: what attacks climb.

    checkpoint + truth -> Surrogate; Surrogate.loss([image id], size of the input) -> input -> loss
    classifier + class folders -> ClassSurrogate; ClassSurrogate.loss(numbers, size) -> inputs -> loss of each

The network that an attack asks for gradients is a copy of its own, unfused and in 32 bits: the one that predicts is
fused, or exported, and its anchors were made without gradients. If the copy comes from the file of the model under
attack, the attack is a white box; another file makes it a transfer attack.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from pycocotools import mask as mask_utils
from torch import Tensor
from torch.nn import functional
from ultralytics.nn.tasks import BaseModel, guess_model_task
from ultralytics.utils import DEFAULT_CFG_DICT

from yolo_wnlb import attacks
from yolo_wnlb.classifiers import detector as classifier
from yolo_wnlb.classifiers.fusion import Fusion
from yolo_wnlb.data import coco
from yolo_wnlb.data.folders import Labelled
from yolo_wnlb.imaging.chance import picture_rng
from yolo_wnlb.metrics.accuracy import places_of
from yolo_wnlb.yolo.models import channels_of, load_checkpoint

RATIO = 4  # masks have a quarter of the input's sides, as in training


class Attack(NamedTuple):
    """A family of attacks.

    Attributes:
        norm: linf or l2.
        steps: Number of gradients.
        radii: Of level 1, 2, and so on; pixels count from 0 to 1, and l2 radii are those at 224 x 224 pixels.
    """

    norm: str
    steps: int
    radii: tuple[float, ...]

    def written(self, level: int) -> str:
        """Write the radius of a level, "4/255" or "0.5"."""
        radius = self.radii[level - 1]
        return f"{round(radius * 255)}/255" if self.norm == "linf" else f"{radius:g}"


ATTACKS = {
    "fgsm": Attack("linf", 1, tuple(codes / 255 for codes in (1, 2, 4, 8, 16))),
    "pgd": Attack("linf", 10, tuple(codes / 255 for codes in (1, 2, 4))),
    "pgd-l2": Attack("l2", 10, (0.05, 0.1, 0.5, 1)),
}


class Surrogate:
    """A network, and the labels of all pictures.

    Args:
        weights: A checkpoint of Ultralytics, .pt, whose classes include all that the truth uses.
        truth: What `coco.ground_truth` returned.
        device: Where the network is to run.
    Raises: ValueError, OSError: the file is no such checkpoint, its training loss cannot be reached, or the truth has
        no masks and the network finds masks.
    """

    def __init__(self, weights: str | Path, truth: coco.Truth, device: torch.device) -> None:
        model = load_checkpoint(Path(weights))
        network: Any = model.model
        if type(network).loss is not BaseModel.loss:
            raise ValueError(
                f"{weights} is a {type(network).__name__}, which has a loss of another form; attack others"
            )
        network = network.float().eval().to(device).requires_grad_(False)
        network.args = SimpleNamespace(**{**DEFAULT_CFG_DICT, "overlap_mask": True})  # the same weights for all models
        network.criterion = None  # one that a checkpoint may hold has other arguments
        self.network, self.channels = network, channels_of(model)
        self.has_masks = guess_model_task(network) == "segment"
        if self.has_masks and any(not a.get("segmentation") for a in truth["annotations"]):
            raise ValueError(
                f"{weights} finds masks, and some objects of the truth have none, so its loss cannot be computed; "
                "attack with a model that finds boxes: surrogate=DETECTOR.pt"
            )
        classes = coco.class_map(model.names, truth, allow_missing=True)
        self.index = {category: index for index, category in classes.items()}
        self.sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
        self.objects: dict[Any, list[dict[str, Any]]] = defaultdict(list)
        for annotation in truth["annotations"]:
            if not annotation.get("iscrowd"):
                self.objects[annotation["image_id"]].append(annotation)

    def loss(self, ids: Sequence[Any], size: tuple[int, int]) -> Callable[[Tensor], Tensor]:
        """Return the training loss as a function of the input (1, C, h, w), a single number.

        Args:
            ids: The id of the one picture that was fitted into the input.
            size: (h, w) of the input.
        """
        [image_id] = ids
        labels = self.labels(image_id, size)

        def of_input(x: Tensor) -> Tensor:
            return self.network.loss({"img": x, **labels})[0].sum()

        return of_input

    def labels(self, image_id: Any, size: tuple[int, int]) -> dict[str, Any]:
        """Return the labels of a picture in the form of a training batch, at the geometry of an input of this size.

        Boxes and masks are moved as `scale_boxes` of Ultralytics moves predictions back.
        """
        height, width = self.sizes[image_id]
        gain = min(size[0] / height, size[1] / width)
        inner = max(round(height * gain), 1), max(round(width * gain), 1)  # (h, w) of the picture in the input
        top, left = (round((outer - side) / 2 - 0.1) for outer, side in zip(size, inner))
        objects = sorted(self.objects[image_id], key=area_of, reverse=True)  # small ones are drawn over large ones
        boxes = torch.tensor([a["bbox"] for a in objects], dtype=torch.float32).reshape(-1, 4)  # xywh
        boxes[:, :2] += boxes[:, 2:] / 2
        boxes *= torch.tensor([inner[1] / width, inner[0] / height] * 2)
        boxes += torch.tensor([left, top, 0, 0])
        labels = {
            "batch_idx": torch.zeros(len(objects)),
            "cls": torch.tensor([[float(self.index[a["category_id"]])] for a in objects]).reshape(-1, 1),
            "bboxes": boxes / torch.tensor([size[1], size[0]] * 2),
        }
        if self.has_masks:
            numbers = np.zeros(size, np.int32)  # k + 1 where the k-th object is seen
            part = numbers[top : top + inner[0], left : left + inner[1]]
            for number, annotation in enumerate(objects, 1):
                mask = mask_utils.decode(coco.to_rle(annotation["segmentation"], height, width))
                part[cv2.resize(mask, inner[::-1], interpolation=cv2.INTER_NEAREST) > 0] = number
            seen = torch.from_numpy(numbers[RATIO // 2 :: RATIO, RATIO // 2 :: RATIO].copy())[None]
            classes = torch.cat([torch.zeros(1), labels["cls"][:, 0]]).long()
            labels |= {"masks": seen, "sem_masks": classes[seen.long()]}
        device = next(self.network.parameters()).device
        return {key: value.to(device) for key, value in labels.items()}


def area_of(annotation: dict[str, Any]) -> float:
    """Return the area of an object in square pixels: as stated, else of its box."""
    return float(annotation.get("area", np.prod(annotation["bbox"][2:])))


class ClassSurrogate:
    """A classifier or a fused network, and the classes of all pictures.

    Args:
        weights: A file that was written here, whose classes include those of the pictures.
        data: The pictures.
        device: Where the network is to run.
    Attributes:
        std: Standard deviation of each channel, by which the network divides its input: (1, 3, 1, 1).
    Raises: ValueError, OSError: the file is no such network, or lacks a class.
    """

    def __init__(self, weights: str | Path, data: Labelled, device: str | None) -> None:
        model = classifier.load(weights, device)
        self.network = model.module.requires_grad_(False)
        normaliser: Any = self.network.foreground if isinstance(self.network, Fusion) else self.network
        self.std: Tensor = normaliser.std
        places = places_of(data, list(classifier.names(model).values()))
        self.labels = [places[label] for label in data.labels]

    def loss(self, ids: Sequence[int], size: tuple[int, int]) -> Callable[[Tensor], Tensor]:
        """Return the cross-entropy of each picture, (B,), as a function of the inputs (B, 3, h, w).

        Args:
            ids: The numbers of the pictures.
            size: (h, w) of the inputs; it changes nothing.
        """
        labels = torch.tensor([self.labels[number] for number in ids], device=self.std.device)
        return lambda x: functional.cross_entropy(self.network(x), labels, reduction="none")


class Perturbation:
    """What `predict(..., perturb=)` takes: an attack, or the random change of the same size that it is held against.

    `predict` of detectors calls it, with one picture at a time; that of classifiers takes its `batch`.

    Args:
        surrogate: Whose loss is climbed, and recorded.
        attack: One of ATTACKS.
        level: 1 to as many radii as it has.
        random: Change in a random direction instead.
        seed: Of the random directions.
        keys: Of each picture by its id; its random direction follows from the seed and its key.
        std: Count the radius of a linf attack in values that were divided by this, (1, C, 1, 1): pixels then change by
            its product with the radius. Default: in pixels of [0, 1].

    Attributes:
        before: The loss of each picture at its input.
        after: The loss at the changed input.
    """

    def __init__(
        self,
        surrogate: Surrogate | ClassSurrogate,
        attack: Attack,
        level: int,
        random: bool,
        seed: int,
        keys: dict[Any, str],
        std: Tensor | None = None,
    ) -> None:
        self.surrogate, self.attack, self.eps = surrogate, attack, attack.radii[level - 1]
        self.random, self.seed, self.keys, self.std = random, seed, keys, std
        self.before: list[float] = []
        self.after: list[float] = []

    def __call__(self, x: Tensor, image_id: Any) -> Tensor:
        """Change the input of one picture, (1, C, h, w) with values in [0, 1], within the radius."""
        return self.batch(x, [image_id])

    def batch(self, x: Tensor, ids: Sequence[Any]) -> Tensor:
        """Change the inputs of some pictures, (B, C, h, w) with values in [0, 1], each within the radius."""
        height, width = x.shape[2:]
        loss = self.surrogate.loss(ids, (height, width))
        norm = self.attack.norm
        eps: float | Tensor = attacks.radius(norm, self.eps, height, width)
        eps = eps if self.std is None else eps * self.std
        if self.random:
            parts = [attacks.random_direction(x[i : i + 1], norm, eps, self.generator(ids[i])) for i in range(len(x))]
            changed = torch.cat(parts)
        else:
            changed = attacks.perturb(x, loss, norm, eps, self.attack.steps)
        with torch.no_grad():
            self.before += loss(x).reshape(-1).tolist()
            self.after += loss(changed).reshape(-1).tolist()
        return changed

    def generator(self, image_id: Any) -> torch.Generator:
        """Return the source of a picture's random direction."""
        bits = picture_rng(self.seed, f"random {self.attack.norm}:{self.keys[image_id]}").getrandbits(63)
        return torch.Generator().manual_seed(bits)
