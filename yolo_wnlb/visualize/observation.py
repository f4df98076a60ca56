"""One image, and what models make of it: feature maps at every block of the first model, predictions of all.

    sources -> samples: images, with labels where there are some           `read_samples`
    samples, models -> observations: a forward pass of each model          `observe`

A network sees an image resized and with a border (`Letterbox`). Its maps are laid back over the image before they
are drawn, without the border.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from torch import Tensor
from ultralytics import YOLO

from yolo_wnlb.data.data_yaml import read_data_yaml
from yolo_wnlb.data.sources import printable, spread
from yolo_wnlb.imaging.camera import Settings
from yolo_wnlb.imaging.capture import capture
from yolo_wnlb.imaging.chance import picture_rng
from yolo_wnlb.imaging.curve import Curve
from yolo_wnlb.imaging.sheet import resized, scaled
from yolo_wnlb.visualize.pictures import (
    all_pictures,
    display_names,
    in_colour,
    without_repeats,
)
from yolo_wnlb.wnlb import WNLB
from yolo_wnlb.yolo.models import load_checkpoint, read_picture

IMAGE_SIDE = 448  # pixels, the longer side of masks, and of the images that they are drawn on
MAX_IMAGES = 40  # in one call
NOTHING_FOUND = "nothing found"
WHITE = 230  # brightness that the brightest pixels of a dark image are drawn with

FeatureMaps = dict[str, tuple[Tensor, Tensor]]  # {layer: (x, z)}, each (1, C, h, w)


class Object(NamedTuple):
    """Something labelled or found; all coordinates are shares of the image's width and height.

    name: Its class.
    box: Left, top, right, bottom.
    mask: bool, its longer side IMAGE_SIDE; None for a box alone.
    score: Confidence; None for a label.
    """

    name: str
    box: tuple[float, ...]
    mask: np.ndarray | None
    score: float | None

    @property
    def text(self) -> str:
        """Class and confidence."""
        return self.name if self.score is None else f"{self.name} {self.score:.2f}"


class Sample(NamedTuple):
    """An image before the models have seen it.

    name: No other sample has it.
    images: As each model takes it, uint8 (H, W, channels of the model), BGR if there are three.
    labels: None where there are none.
    bright: The image as the first model takes it before it was darkened; None where it was not.
    """

    name: str
    images: list[np.ndarray]
    labels: list[Object] | None
    bright: np.ndarray | None = None


class Letterbox(NamedTuple):
    """Where the image lies in the input of the network; pixels.

    input: (H, W) of the input.
    top, left, height, width: Of the image, resized.
    """

    input: tuple[int, int]
    top: int
    left: int
    height: int
    width: int

    @classmethod
    def of(cls, image: np.ndarray, shape: Sequence[int]) -> Letterbox:
        """Compute what Ultralytics' LetterBox did to make an input of this shape (..., H, W)."""
        size = (shape[-2], shape[-1])
        gain = min(size[0] / image.shape[0], size[1] / image.shape[1])
        height, width = max(round(image.shape[0] * gain), 1), max(round(image.shape[1] * gain), 1)
        top, left = round((size[0] - height) / 2 - 0.1), round((size[1] - width) / 2 - 0.1)
        return cls(size, top, left, height, width)

    def map_position(self, position: tuple[float, float], image: np.ndarray, shape: Sequence[int]) -> tuple[int, int]:
        """Return (row, column) in a map of this shape (..., h, w) of x, y in pixels of the image."""
        (x, y), (h, w) = position, shape[-2:]
        row = (self.top + y / image.shape[0] * self.height) / self.input[0] * h
        column = (self.left + x / image.shape[1] * self.width) / self.input[1] * w
        return min(int(row), h - 1), min(int(column), w - 1)

    def crop(self, values: np.ndarray, size: tuple[int, int], smooth: bool = False) -> np.ndarray:
        """Cut the image out of a map (h, w) of the whole input, and resize it to `size` (H, W)."""
        how = cv2.INTER_LINEAR if smooth else cv2.INTER_NEAREST
        whole = cv2.resize(values.astype(np.float32), self.input[::-1], interpolation=how)
        return resized(whole[self.top : self.top + self.height, self.left : self.left + self.width], size, how)


class Observation(NamedTuple):
    """One image, and what the models made of it.

    name: That of the sample.
    bright: The image as it is drawn, uint8 BGR (H, W, 3).
    gain: How many times brighter than the image that is.
    labels: None where there are none.
    letterbox: Where the image lay in the input of the first model.
    maps: {layer: (x, z)}, each (1, C, h, w), of the first model.
    found: What each model found, the most confident first.
    position: x, y in pixels, whose attention is to be drawn.
    target: What is at the position.
    twin: {layer: features (1, C, h, w) at its block} of the bright twin of a darkened image, by the model
        without its blocks; None where the image was not darkened.
    twin_image: The bright twin, uint8 BGR.
    """

    name: str
    bright: np.ndarray
    gain: float
    labels: list[Object] | None
    letterbox: Letterbox
    maps: FeatureMaps
    found: list[list[Object]]
    position: tuple[float, float]
    target: str
    twin: dict[str, Tensor] | None = None
    twin_image: np.ndarray | None = None


# ---- images and their labels ---------------------------------------------------------------------


def read_samples(
    sources: Sequence[str | Path], n: int, readings: Sequence[tuple[int, Curve]], notes: list[str]
) -> list[Sample]:
    """Read n images of each source, each image once, in the channels of each model and through its tone curve."""
    labelled: dict[Path, Path] = {}  # file: its data YAML
    files: list[Path] = []
    for source in map(Path, sources):
        every = all_pictures(source)
        found = spread(every, n)
        if len(found) < len(every):
            notes.append(f"looked at {len(found)} of the {len(every)} images of {printable(source)}; n= takes more")
        if len(files) + len(found) > MAX_IMAGES:
            raise ValueError(
                f"{len(files) + len(found)} images or more; wanted {MAX_IMAGES} at most: name fewer, or lower n"
            )
        files += found
        if source.suffix.lower() in (".yaml", ".yml"):
            labelled.update(dict.fromkeys(found, source))
    files = without_repeats(files)
    if not files:
        raise ValueError("no images; give at least one")
    images = [[read_picture(file, *reading) for reading in readings] for file in files]
    labels: dict[Path, list[Object]] = {}
    for source in dict.fromkeys(labelled.values()):
        sizes = {f: scaled(i[0].shape, IMAGE_SIDE) for f, i in zip(files, images) if labelled.get(f) == source}
        labels.update(read_labels(source, sizes, notes))
    return [Sample(name, i, labels.get(file)) for name, file, i in zip(display_names(files), files, images)]


def darkened(sample: Sample, camera: Settings, seed: int, size: int) -> Sample:
    """Shrink or enlarge an image to `size`, its longer side in pixels, as training does, then take it in the dark.

    The same image is darkened in the same way in every call, by its name and the seed.
    """
    bright = [
        resized(image, scaled(image.shape, size)).reshape(*scaled(image.shape, size), -1) for image in sample.images
    ]
    dark = [capture(image, camera.draw(picture_rng(seed, sample.name))) for image in bright]
    return sample._replace(images=dark, bright=bright[0])


def read_labels(source: Path, sizes: dict[Path, tuple[int, int]], notes: list[str]) -> dict[Path, list[Object]]:
    """Read the labels of images of a data YAML, masks at the given sizes; none where evaluation is not installed."""
    from ultralytics.data.utils import img2label_paths

    try:
        from yolo_wnlb.data.coco import read_label
    except ImportError as error:
        notes.append(f"the labels of {source} are left out: {error}")
        return {}
    names = read_data_yaml(source, download=False)[0]["names"]
    labels: dict[Path, list[Object]] = {}
    for (file, size), label in zip(sizes.items(), img2label_paths([str(file) for file in sizes])):
        labels[file] = []
        for kind, shape in read_label(Path(label), len(names), Counter()):
            mask = None
            if len(shape) == 4:
                x, y, w, h = shape
                box = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
            else:
                corners = np.array(shape).reshape(-1, 2)
                box = (*corners.min(0).tolist(), *corners.max(0).tolist())
                pixels = (corners * size[::-1] * 16).round().astype(np.int32)
                mask = cv2.fillPoly(np.zeros(size, np.uint8), [pixels], 1, shift=4) > 0
            labels[file].append(Object(printable(names[kind]), box, mask, None))
    return labels


def training_data(model: YOLO, weights: str | Path) -> str:
    """Return the data YAML that a checkpoint names, if its images are here; nothing is downloaded."""
    data = str(model.overrides.get("data") or "which it does not name")
    try:
        read_data_yaml(data, download=False)
    except Exception as error:  # whatever it is, the remedy is the same
        raise ValueError(
            f"no images: the data that {weights} was trained on, {data}, is not here; give images="
        ) from error
    return data


# ---- the models ----------------------------------------------------------------------------------


def load_model(path: Path) -> YOLO:
    """Load a checkpoint for detection or segmentation."""
    if path.suffix != ".pt":
        raise ValueError(f"{path} is no checkpoint; wanted the .pt that training wrote")
    return load_checkpoint(path)


def blocks_of(model: YOLO) -> dict[str, WNLB]:
    """Return {layer: block}."""
    return {name.removeprefix("model."): m for name, m in model.model.named_modules() if isinstance(m, WNLB)}


def recorded_maps(model: YOLO) -> FeatureMaps:
    """Return a dict that each forward pass fills: {layer: (x, z)} of the blocks, and of the "input".

    Ultralytics runs a copy, hooks included, that it makes at the first prediction: call this before.
    """
    maps: FeatureMaps = {}
    model.model.register_forward_pre_hook(lambda _, x: maps.update(input=(x[0], x[0])))
    for layer, block in blocks_of(model).items():
        block.register_forward_hook(lambda _, x, z, layer=layer: maps.update({layer: (x[0], z)}))
    return maps


def observe(
    sample: Sample,
    models: Sequence[YOLO],
    maps: FeatureMaps,
    at: Sequence[float] | None,
    teacher: tuple[YOLO, FeatureMaps] | None = None,
    **options: Any,
) -> Observation:
    """Give an image to the models.

    Args:
        sample: The image.
        models: All that are to predict.
        maps: What `recorded_maps` returned for the first model.
        at: x, y in pixels of the image, whose attention is to be drawn.
        teacher: The first model once more, its blocks off, and what `recorded_maps` returned for it: sees the bright
            twin.
        options: Of Ultralytics' predict.
    """
    try:
        results = [
            model.predict(image, **options, device="cpu", verbose=False)[0]
            for model, image in zip(models, sample.images)
        ]
    except MemoryError as error:  # of a block that builds its map
        raise ValueError(f"{error}; to look into this model, choose a smaller imgsz") from error
    image = sample.images[0]
    letterbox = Letterbox.of(image, maps["input"][0].shape)
    found = [objects_of(result) for result in results]
    if at is not None:
        x, y, target = at[0], at[1], "as asked"
    elif found[0]:
        best = found[0][0]
        x, y = (best.box[0] + best.box[2]) / 2 * image.shape[1], (best.box[1] + best.box[3]) / 2 * image.shape[0]
        target = best.text
    else:
        x, y, target = image.shape[1] / 2, image.shape[0] / 2, NOTHING_FOUND
    colour = in_colour(image)
    peak = float(np.percentile(colour.max(2), 99.5))
    gain = WHITE / peak if 0 < peak < WHITE / 1.5 else 1.0
    bright = np.clip(colour * gain, 0, 255).astype(np.uint8)
    observation = Observation(sample.name, bright, gain, sample.labels, letterbox, dict(maps), found, (x, y), target)
    if teacher is None or sample.bright is None:
        return observation
    model, inputs = teacher
    model.predict(sample.bright, **options, device="cpu", verbose=False)
    twin = {layer: x for layer, (x, _) in inputs.items()}
    return observation._replace(twin=twin, twin_image=in_colour(sample.bright))


def objects_of(result: Any) -> list[Object]:
    """Read one of Ultralytics' results, the most confident first."""
    objects = []
    for i, row in enumerate(result.boxes):
        mask = None
        if result.masks is not None:  # of the size of the input of the model
            values = result.masks.data[i].cpu().numpy()
            letterbox = Letterbox.of(result.orig_img, values.shape)
            mask = letterbox.crop(values, scaled(result.orig_shape, IMAGE_SIDE), smooth=True) > 0.5
        name = printable(result.names[int(row.cls)])
        objects.append(Object(name, tuple(row.xyxyn[0].tolist()), mask, float(row.conf)))
    return sorted(objects, key=lambda found: -(found.score or 0))
