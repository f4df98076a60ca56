"""What a model makes of an image, watched at every block, and the numbers that come of it; nothing is drawn.

    sources -> shots: images, with labels where there are some      `gather`
    shots, models -> looks: a forward pass each                     `look_at`
    looks -> blocks: w, change, attention, in numbers               `describe`, `measure`

A network sees an image resized and with a border (`Frame`). Its maps are laid back over the image
before they are drawn, without the border.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from ultralytics import YOLO

from yolo_wnlb.imaging.sheet import resized, scaled
from yolo_wnlb.pairwise import to_tokens
from yolo_wnlb.visualize.preview import find, read
from yolo_wnlb.wnlb import WNLB
from yolo_wnlb.yolo.models import load_checkpoint

PICTURE = 448  # pixels, the longer side of masks, and of the pictures that they are drawn on
MOST = 40  # images in one call
PROBES = 8  # a side of the grid of positions whose neighbours are counted
NOTHING = "nothing found"
WHITE = 230  # brightness that the brightest pixels of a dark image are drawn with

Maps = dict[str, tuple[Tensor, Tensor]]  # {layer: (x, z)}, each (1, C, h, w)
Shot = tuple[str, np.ndarray, "list[Object] | None"]  # name; uint8 BGR (H, W, 3); labels


@dataclass
class Block:
    """What one block does.

    Attributes:
        layer: Its place in the model: "5".
        stage: "P3" where the stride is 8.
        stride: Pixels of the input to a position, along a side.
        channels: Of x and z.
        operation: As in `WNLB`.
        sub_sample: As in `WNLB`.
        w: None for the plain non-local block, which has none.
        w_z_norm: Frobenius norm of W_z with its normalisation folded in.
        change: |z - x| / |x| in each image: Frobenius norms of the whole map.
        neighbours: Effective number of neighbours in each image, the median of a grid of positions.
        neighbours_at: The same of the one position chosen in each image.
        keys: How many neighbours there are to choose from in each image.
    """

    layer: str
    stage: str
    stride: int
    channels: int
    operation: str
    sub_sample: int
    w: float | None
    w_z_norm: float
    change: list[float] = field(default_factory=list)
    neighbours: list[float] = field(default_factory=list)
    neighbours_at: list[float] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.stage}, layer {self.layer}"


class Object(NamedTuple):
    """Something labelled or found; all coordinates are shares of the image's width and height.

    name: Its class.
    box: Left, top, right, bottom.
    mask: bool, its longer side PICTURE; None for a box alone.
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


class Frame(NamedTuple):
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
    def around(cls, picture: np.ndarray, shape: Sequence[int]) -> Frame:
        """Compute what Ultralytics' LetterBox did to make an input of this shape (..., H, W)."""
        size = (shape[-2], shape[-1])
        gain = min(size[0] / picture.shape[0], size[1] / picture.shape[1])
        height, width = round(picture.shape[0] * gain), round(picture.shape[1] * gain)
        top, left = round((size[0] - height) / 2 - 0.1), round((size[1] - width) / 2 - 0.1)
        return cls(size, top, left, height, width)

    def cell(self, position: tuple[float, float], picture: np.ndarray, shape: Sequence[int]) -> tuple[int, int]:
        """Return (row, column) in a map of this shape (..., h, w) of x, y in pixels of the image."""
        (x, y), (h, w) = position, shape[-2:]
        row = (self.top + y / picture.shape[0] * self.height) / self.input[0] * h
        column = (self.left + x / picture.shape[1] * self.width) / self.input[1] * w
        return min(int(row), h - 1), min(int(column), w - 1)

    def lay(self, values: np.ndarray, size: tuple[int, int], smooth: bool = False) -> np.ndarray:
        """Cut the image out of a map (h, w) of the whole input, and draw it at `size` (H, W)."""
        how = cv2.INTER_LINEAR if smooth else cv2.INTER_NEAREST
        whole = cv2.resize(values.astype(np.float32), self.input[::-1], interpolation=how)
        return resized(whole[self.top : self.top + self.height, self.left : self.left + self.width], size, how)


class Look(NamedTuple):
    """One image, and what the models made of it.

    name: Of its file.
    bright: The image as it is drawn, uint8 BGR (H, W, 3).
    gain: How many times brighter than it is.
    labels: None where there are none.
    frame: Where it lay in the input.
    maps: {layer: (x, z)}, each (1, C, h, w), of the first model.
    found: What each model found.
    position: x, y in pixels, whose attention is to be drawn.
    there: What is at the position.
    """

    name: str
    bright: np.ndarray
    gain: float
    labels: list[Object] | None
    frame: Frame
    maps: Maps
    found: list[list[Object]]
    position: tuple[float, float]
    there: str


# ---- images and their labels ---------------------------------------------------------------------


def gather(sources: Sequence[str | Path], n: int, notes: list[str]) -> list[Shot]:
    """Read n images of each source: name, uint8 BGR, labels."""
    shots: list[Shot] = []
    for source in map(Path, sources):
        files = find(source, n)
        if len(shots) + len(files) > MOST:
            raise ValueError(f"{len(shots) + len(files)} images or more; wanted {MOST} at most: name fewer, or lower n")
        pictures = [read(file)[1] for file in files]
        labels: list[Any] = [None] * len(files)
        if source.suffix in (".yaml", ".yml"):
            labels = read_labels(source, files, pictures, notes)
        shots += zip([file.name for file in files], pictures, labels)
    if not shots:
        raise ValueError("no images; give at least one")
    return shots


def read_labels(source: Path, files: list[Path], pictures: list[np.ndarray], notes: list[str]) -> list[Any]:
    """Read the labels of images of a data YAML: None where evaluation is not installed."""
    from ultralytics.data.utils import check_det_dataset, img2label_paths

    try:
        from yolo_wnlb.data.coco import read_label
    except ImportError as error:
        notes.append(f"the labels of {source} are left out: {error}")
        return [None] * len(files)
    names = check_det_dataset(str(source))["names"]
    labels = []
    for file, picture in zip(img2label_paths([str(file) for file in files]), pictures):
        objects = []
        for kind, shape in read_label(Path(file), len(names), Counter()):
            size, mask = scaled(picture.shape, PICTURE), None
            if len(shape) == 4:
                x, y, w, h = shape
                box = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
            else:
                corners = np.array(shape).reshape(-1, 2)
                box = (*corners.min(0).tolist(), *corners.max(0).tolist())
                pixels = (corners * size[::-1] * 16).round().astype(np.int32)
                mask = cv2.fillPoly(np.zeros(size, np.uint8), [pixels], 1, shift=4) > 0
            objects.append(Object(names[kind], box, mask, None))
        labels.append(objects)
    return labels


def trained_on(model: YOLO, weights: str | Path) -> str:
    """Return the data YAML that a checkpoint names, if its images are here; nothing is downloaded."""
    from ultralytics.data.utils import check_det_dataset

    data = str(model.overrides.get("data") or "nobody knows which")
    try:
        check_det_dataset(data, autodownload=False)
    except Exception as error:  # whatever it is, the remedy is the same
        raise ValueError(
            f"no images: the data that {weights} was trained on, {data}, is not here; give images="
        ) from error
    return data


# ---- the model, watched --------------------------------------------------------------------------


def load(path: Path) -> YOLO:
    """Load a checkpoint for detection or segmentation."""
    if path.suffix != ".pt":
        raise ValueError(f"{path} is no checkpoint; wanted the .pt that training wrote")
    return load_checkpoint(path)


def blocks_of(model: YOLO) -> dict[str, WNLB]:
    """Return {layer: block}."""
    return {name.removeprefix("model."): m for name, m in model.model.named_modules() if isinstance(m, WNLB)}


def watched(model: YOLO) -> Maps:
    """Return a dict that each forward pass fills: {layer: (x, z)} of the blocks, and of the "input".

    Ultralytics runs a copy, hooks included, that it makes at the first prediction: call this before.
    """
    maps: Maps = {}
    model.model.register_forward_pre_hook(lambda _, x: maps.update(input=(x[0], x[0])))
    for layer, block in blocks_of(model).items():
        block.register_forward_hook(lambda _, x, z, layer=layer: maps.update({layer: (x[0], z)}))
    return maps


def look_at(shot: Shot, models: Sequence[YOLO], maps: Maps, at: Sequence[float] | None, **options: Any) -> Look:
    """Let the models look at an image; `maps` is what `watched` gave for the first one."""
    name, picture, labels = shot
    try:
        results = [model.predict(picture, **options, device="cpu", verbose=False)[0] for model in models]
    except MemoryError as error:  # of a block that builds its map
        raise ValueError(f"{error}; to look into this model, choose a smaller imgsz") from error
    frame = Frame.around(picture, maps["input"][0].shape)
    found = [objects_of(result, frame) for result in results]
    if at is not None:
        x, y, there = at[0], at[1], "as asked"
    elif found[0]:
        best = found[0][0]
        x, y = (best.box[0] + best.box[2]) / 2 * picture.shape[1], (best.box[1] + best.box[3]) / 2 * picture.shape[0]
        there = best.text
    else:
        x, y, there = picture.shape[1] / 2, picture.shape[0] / 2, NOTHING
    peak = float(np.percentile(picture.max(2), 99.5))
    gain = WHITE / peak if 0 < peak < WHITE / 1.5 else 1.0
    bright = np.clip(picture * gain, 0, 255).astype(np.uint8)
    return Look(name, bright, gain, labels, frame, dict(maps), found, (x, y), there)


def objects_of(result: Any, frame: Frame) -> list[Object]:
    """Read one of Ultralytics' results, the most confident first."""
    objects = []
    for i, row in enumerate(result.boxes):
        mask = None
        if result.masks is not None:  # of the size of the input
            mask = frame.lay(result.masks.data[i].cpu().numpy(), scaled(result.orig_shape, PICTURE), smooth=True) > 0.5
        objects.append(Object(result.names[int(row.cls)], tuple(row.xyxyn[0].tolist()), mask, float(row.conf)))
    return sorted(objects, key=lambda found: -(found.score or 0))


# ---- the numbers ---------------------------------------------------------------------------------


@torch.inference_mode()
def attention(block: WNLB, x: Tensor, positions: Sequence[tuple[int, int]]) -> Tensor:
    """Compute f(x_i, x_j) / C(x) of some positions i alone: no N x M map.

    Args:
        block: Any form of it.
        x: The map that goes into it, (1, C, H, W).
        positions: (row, column) of each i.

    Returns: (len(positions), h, w), over the keys j: positions, or windows of sub_sample x sub_sample
        of them. Rows of the softmax forms sum to 1; those of the others may not, and a dot product
        may be negative.
    """
    rows, columns = zip(*positions)
    q = to_tokens(block.theta(x[:, :, list(rows), list(columns), None]))[0]  # (Q, d)
    keys = block.pool(block.phi(x))  # (1, d, h, w)
    k = to_tokens(keys)[0]  # (M, d)
    if block.operation == "dot_product":
        weights = q @ k.T / len(k)
    elif block.operation == "concatenation":
        w_f: Any = block.W_f[0]
        w_q, w_k = w_f.weight.reshape(2, -1, 1).unbind()
        weights = torch.relu(q @ w_q + (k @ w_k).T + w_f.bias) / len(k)  # (Q, 1) + (1, M)
    else:
        weights = (q @ k.T * (q.shape[1] ** -0.5 if block.scale is None else block.scale)).softmax(1)
    return weights.reshape(len(q), *keys.shape[2:])


def effective_neighbours(weights: Tensor) -> Tensor:
    """Count how many keys share the attention: exp(entropy) of |weights| (Q, h, w) -> (Q,).

    From 1, all on one key, to h * w, all alike; 0 if there is no weight at all.
    """
    size = weights.flatten(1).abs().double()
    share = size / size.sum(1, keepdim=True).clamp_min(1e-300)
    return torch.special.entr(share).sum(1).exp() * (share.sum(1) > 0.5)


@torch.inference_mode()
def w_z_norm(block: WNLB) -> float:
    """Frobenius norm of the matrix that W_z applies to y, its normalisation included."""
    conv: Any = block.W_z[0]
    norm: Any = block.W_z[1]
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    return float((factor[:, None] * conv.weight.flatten(1)).norm())


def describe(layer: str, block: WNLB, look: Look) -> Block:
    """Note what does not depend on the image."""
    stride = look.frame.input[0] // look.maps[layer][0].shape[2]
    stage = f"P{math.log2(stride):.0f}" if stride & (stride - 1) == 0 else f"1/{stride}"
    w = block.w.item() if block.weighted else None
    return Block(layer, stage, stride, block.in_channels, block.operation, block.sub_sample, w, w_z_norm(block))


def measure(entry: Block, block: WNLB, look: Look) -> np.ndarray:
    """Add the numbers of one image; return the attention of its position, (h, w)."""
    x, z = look.maps[entry.layer]
    entry.change.append(float((z - x).norm() / x.norm().clamp_min(1e-30)))
    grid = [np.linspace(0, side - 1, min(side, PROBES)).round().astype(int).tolist() for side in x.shape[2:]]
    probes = attention(block, x, [(row, column) for row in grid[0] for column in grid[1]])
    entry.neighbours.append(float(effective_neighbours(probes).median()))
    chosen = attention(block, x, [look.frame.cell(look.position, look.bright, x.shape)])
    entry.neighbours_at.append(float(effective_neighbours(chosen)))
    entry.keys.append(chosen[0].numel())
    return chosen[0].numpy()


def reason(block: Block) -> str:
    """Say why a block changes nothing."""
    return "w = 0" if block.w == 0 else "W_z = 0" if block.w_z_norm == 0 else "W_z(y) = x"
