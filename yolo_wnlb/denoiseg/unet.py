"""The U-Net of DenoiSeg: of a noisy picture, the picture without noise, and background, foreground and border.

    picture -> standardised -> U-Net -> denoised picture, 3 logits a pixel
    picture -> frozen U-Net -> denoised picture -> standardised -> U-Net -> ...     ("Sequential")

Source: Buchholz, Prakash, Schmidt, Krull and Jug, "DenoiSeg: Joint Denoising and Segmentation", ECCV workshop 2020
(arXiv 2005.02987), section 2. What the paper does not print is taken from the authors' code
(github.com/juglab/DenoiSeg), and from the network that it builds, `custom_unet` of CSBDeep
(github.com/CSBDeep/CSBDeep).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yolo_wnlb.checkpoints import load_state, read_checkpoint
from yolo_wnlb.data.journal import replaced
from yolo_wnlb.data.validation import is_number, is_whole

FORMAT = "yolo_wnlb denoiseg 1"  # in every checkpoint of ours
BACKGROUND, FOREGROUND, BORDER = CLASSES = (0, 1, 2)  # of a pixel
CLASS_WEIGHTS = (1.0, 1.0, 5.0)  # of the cross-entropy, for background, foreground, border
EPS, MOMENTUM = 1e-3, 0.01  # of the norms: those of Keras, which the authors use
WHOLE_PIXELS = 2_000_000  # of a picture; larger ones are computed in tiles
TILE = 512  # pixels, the side of a tile; a multiple of 2^depth, as is the margin around it
REACH = 7  # times 2^depth pixels: none farther away changes an output (convolutions reach 6 times, pooling 1 more)
MOST_DEPTH, MOST_FIRST = 7, 512  # beyond them a network has more than 10^10 parameters


class UNet(nn.Module):
    """CSBDeep's U-Net: two convolutions 3 x 3 a level, max-pooling, nearest up-sampling and concatenation.

    The second convolution of a level on the way up already has the width of the level above. The paper's form, with 32
    maps on the first level and depth 4, has 5,498,084 parameters for grey pictures: 4 outputs a pixel, no biases in
    front of norms (the authors' Keras layers have those, without an effect). A small one for tests on a CPU, with 8
    maps and depth 3, has 85,948.

    Args:
        channels: Of the picture, and of the denoised picture.
        classes: Logits for each pixel.
        first: Feature maps of the first level; each level below has twice as many.
        depth: How often the picture is halved.
    Shape: (B, channels, H, W) -> (B, channels + classes, H, W), denoised first; H and W multiples of 2^depth.
    """

    def __init__(self, channels: int = 1, classes: int = len(CLASSES), first: int = 32, depth: int = 4) -> None:
        super().__init__()
        widths = [first * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList()
        before = channels
        for width in widths[:-1]:
            self.down.append(nn.Sequential(*convolution(before, width), *convolution(width, width)))
            before = width
        self.middle = nn.Sequential(*convolution(before, widths[-1]), *convolution(widths[-1], before))
        self.up = nn.ModuleList()
        for level in reversed(range(depth)):
            width, above = widths[level], widths[max(level - 1, 0)]
            self.up.append(nn.Sequential(*convolution(2 * width, width), *convolution(width, above)))
        self.last = nn.Conv2d(first, channels + classes, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights as Keras does: Glorot's uniform distribution."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Return the denoised picture and the logits."""
        skipped = []
        for level in self.down:
            skipped.append(x := level(x))
            x = F.max_pool2d(x, 2)  # (B, first * 2^level, H / 2^(level + 1), W / 2^(level + 1))
        x = self.middle(x)
        for level in self.up:
            x = level(torch.cat([F.interpolate(x, scale_factor=2.0, mode="nearest"), skipped.pop()], 1))
        return self.last(x)


def convolution(channels: int, maps: int) -> list[nn.Module]:
    """Return a convolution 3 x 3 with its norm and ReLU."""
    return [
        nn.Conv2d(channels, maps, 3, padding=1, bias=False),
        nn.BatchNorm2d(maps, EPS, MOMENTUM),
        nn.ReLU(inplace=True),
    ]


# ---- what is learnt ------------------------------------------------------------------------------


def border_target(labels: np.ndarray) -> np.ndarray:
    """Return the class of each pixel, uint8 (H, W): background 0, foreground 1, border 2.

    Border is what `find_boundaries(labels, mode="outer")` of scikit-image returns: pixels that differ from one of their
    4 neighbours, and are background, or have another object among their 8 neighbours.

    Args:
        labels: Label image, integers (H, W): 0 for background, another number for each object.
    """
    height, width = labels.shape
    padded = np.pad(labels, 1, mode="edge")
    changes, touches = np.zeros(labels.shape, bool), np.zeros(labels.shape, bool)
    for down in range(3):
        for right in range(3):
            neighbour = padded[down : down + height, right : right + width]
            differs = neighbour != labels
            touches |= differs & (neighbour > 0)
            if down == 1 or right == 1:
                changes |= differs
    target = (labels > 0).astype(np.uint8)
    target[changes & ((labels == 0) | touches)] = BORDER
    return target


class Losses(NamedTuple):
    """The loss of a batch and what it is made of: alpha * denoising + (1 - alpha) * segmentation."""

    loss: Tensor
    denoising: Tensor
    segmentation: Tensor


def denoiseg_loss(
    outputs: Tensor, noisy: Tensor, hidden: Tensor, target: Tensor, labelled: Tensor, alpha: float
) -> Losses:
    """Compute the joint loss of a batch of pictures, of which some have labels.

    Denoising is the mean squared error at the hidden pixels, summed over the channels, in units of the standardised
    picture. Segmentation is the cross-entropy times the weight of the true class, 0 for pictures without labels; the
    mean is over ALL pixels of the batch, so a batch with fewer labels has a smaller loss.

    A picture has labels if `labelled` says so. The authors' code takes it from the label image, and leaves out labelled
    pictures that hold no object; here such a picture teaches background.

    Args:
        outputs: (B, C + 3, H, W), what the network made of the pictures with blind spots.
        noisy: (B, C, H, W), the pictures without blind spots, standardised.
        hidden: bool (B, H, W), the blind spots; one at least in the batch.
        target: int64 (B, H, W), classes of the pixels; of pictures without labels any.
        labelled: bool (B,).
        alpha: Share of denoising, 0 to 1.
    """
    channels = noisy.shape[1]
    denoised, logits = outputs[:, :channels], outputs[:, channels:]
    errors = (denoised - noisy).square().sum(1)
    denoising = (errors * hidden).sum() / hidden.sum()
    weights = logits.new_tensor(CLASS_WEIGHTS)[target] * labelled[:, None, None]
    segmentation = (F.cross_entropy(logits, target, reduction="none") * weights).mean()
    return Losses(alpha * denoising + (1 - alpha) * segmentation, denoising, segmentation)


# ---- the whole network ---------------------------------------------------------------------------


class DenoiSeg(nn.Module):
    """A U-Net that takes codes of 0 to 255 and standardises them itself, perhaps behind another that denoises them.

    Args:
        recipe: What it takes to build the same module again: the arguments of `build`; and of training, `alpha` and
            `noise`, None until it is trained.
        front: A trained network whose denoised picture this one gets; it stays frozen.
    Shape: float (B, channels, H, W), BGR if there are 3 channels, any H and W, codes of 0 to 255 or beyond them ->
        denoised codes (B, channels, H, W) and probabilities of background, foreground and border (B, 3, H, W).
    """

    def __init__(self, recipe: Mapping[str, Any], front: DenoiSeg | None = None) -> None:
        super().__init__()
        self.recipe = dict(recipe)
        self.front = front.eval().requires_grad_(False) if front else None
        self.net = UNet(recipe["channels"], len(CLASSES), recipe["first"], recipe["depth"])
        self.register_buffer("mean", torch.zeros(1, recipe["channels"], 1, 1))  # of the training pictures, in codes
        self.register_buffer("std", torch.ones(1, recipe["channels"], 1, 1))

    def train(self, mode: bool = True) -> DenoiSeg:
        """Switch to training or prediction; what stands in front always predicts."""
        super().train(mode)
        if self.front:
            self.front.eval()
        return self

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the denoised picture and the probabilities."""
        denoised = self.front(x)[0] if self.front else None
        height, width = x.shape[-2:]
        own, probabilities = self.of_padded(self.padded(x if denoised is None else denoised))
        own, probabilities = own[..., :height, :width], probabilities[..., :height, :width]
        return own if denoised is None else denoised, probabilities

    def padded(self, x: Tensor) -> Tensor:
        """Repeat the last rows and columns, until height and width are multiples of 2^depth."""
        height, width = x.shape[-2:]
        multiple = 2 ** self.recipe["depth"]
        return F.pad(x, (0, -width % multiple, 0, -height % multiple), mode="replicate")

    def of_padded(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the network itself, without the one in front, makes of a picture of fitting size."""
        outputs, channels = self.net(self.standardised(x)), x.shape[1]
        return outputs[:, :channels] * self.std + self.mean, outputs[:, channels:].softmax(1)  # type: ignore[operator]

    def standardised(self, x: Tensor) -> Tensor:
        """Return codes in units of the standard deviation of the training pictures, around their mean."""
        return (x - self.mean) / self.std  # type: ignore[operator]


@torch.inference_mode()
def run(model: DenoiSeg, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Run a network on a picture of any size; a large one is computed in tiles, which changes nothing in the result.

    Args:
        model: In eval mode.
        codes: (channels, H, W), of any type.
    Returns: The denoised picture, float32 (channels, H, W), codes; the probabilities of background, foreground and
        border, float32 (3, H, W).
    """
    own: Any = model.mean
    if model.front:
        codes = run(model.front, codes)[0]
    height, width = codes.shape[1:]
    x = model.padded(torch.from_numpy(np.ascontiguousarray(codes, np.float32))[None].to(own.device))
    if height * width <= WHOLE_PIXELS:
        denoised, probabilities = model.of_padded(x)
    else:
        margin = REACH * 2 ** model.recipe["depth"]
        denoised = torch.empty_like(x)
        probabilities = x.new_empty((1, len(CLASSES), *x.shape[-2:]))
        for top, left in itertools.product(*(range(0, length, TILE) for length in x.shape[-2:])):
            first = max(top - margin, 0), max(left - margin, 0)
            tile = x[..., first[0] : top + TILE + margin, first[1] : left + TILE + margin]
            for whole, part in zip((denoised, probabilities), model.of_padded(tile)):
                whole[..., top : top + TILE, left : left + TILE] = part[
                    ..., top - first[0] : top - first[0] + TILE, left - first[1] : left - first[1] + TILE
                ]
    found = denoised[0, :, :height, :width].cpu().numpy(), probabilities[0, :, :height, :width].cpu().numpy()
    return (codes, found[1]) if model.front else found


def build(
    name: str,
    *,
    channels: int = 1,
    first: int = 32,
    depth: int = 4,
    start: str | Path | None = None,
    sequential: bool = False,
) -> DenoiSeg:
    """Build a network. Its weights are drawn from PyTorch's global generator.

    Args:
        name: Of the class of the objects.
        channels: 1 for grey pictures, 3 for colour.
        first: Feature maps of the first level; the paper has 32.
        depth: How often a picture is halved; the paper has 4.
        start: A network that `fit` trained. The new one starts from its weights, and has to have the same form.
        sequential: Put the network of `start` in front, frozen: the new one starts at random, and gets pictures that
            are denoised. The paper calls it "Sequential".
    Raises:
        ValueError: an argument is out of range; `start` is missing, of another form, or learnt nothing that is needed.
        FileNotFoundError: there is no such file.
    """
    recipe: dict[str, Any] = {"name": name, "channels": channels, "first": first, "depth": depth}
    check_form(recipe)
    recipe |= {key: int(recipe[key]) for key in ("channels", "first", "depth")}  # a checkpoint holds plain numbers
    recipe |= {"sequential": sequential, "start": Path(start).name if start else None, "alpha": None, "noise": None}
    if not isinstance(sequential, bool):
        raise ValueError(f"sequential is {sequential!r}; wanted true or false")
    if not sequential:
        model = DenoiSeg(recipe)
        if start:
            state, theirs = read(start)
            if theirs["sequential"]:
                raise ValueError(f"{start} is sequential, and cannot be gone on from; start from the network before it")
            load_state(model, state, start, f"a U-Net of {first} maps, depth {depth} and {channels} channels")
        return model
    if not start:
        raise ValueError("sequential: a denoiser has to stand in front; give start: a network trained with alpha: 1")
    with torch.random.fork_rng(devices=[]):  # what is trained begins as it would without a network in front
        front = rebuild(start)
    if front.recipe["channels"] != channels:
        raise ValueError(
            f"{start} takes pictures of {front.recipe['channels']} channels, and this network of {channels}; give both "
            "the same channels"
        )
    if not front.recipe["alpha"]:
        raise ValueError(
            f"{start} was trained with alpha: 0, and has not learnt to denoise; give start: a network trained with "
            "alpha: 1"
        )
    return DenoiSeg(recipe | {"front": front.recipe}, front)


def check_form(recipe: Mapping[str, Any]) -> None:
    """Refuse a network that cannot be built."""
    if not isinstance(recipe.get("name"), str) or not recipe["name"]:
        raise ValueError(f"name is {recipe.get('name')!r}; wanted the name of the objects' class")
    if recipe.get("channels") not in (1, 3) or not is_whole(recipe["channels"]):
        raise ValueError(f"channels is {recipe.get('channels')!r}; wanted 1 for grey pictures, or 3 for colour")
    for key, most in (("first", MOST_FIRST), ("depth", MOST_DEPTH)):
        if not is_whole(value := recipe.get(key)) or not 1 <= value <= most:  # type: ignore[operator]
            raise ValueError(f"{key} is {value!r}; wanted a whole number, 1 to {most}")


# ---- checkpoints -----------------------------------------------------------------------------------


def save(model: DenoiSeg, path: str | Path, training: Mapping[str, Any] | None = None) -> None:
    """Write a checkpoint, complete or not at all.

    Args:
        model: What `build` returned.
        path: File to write, .pt.
        training: What it takes to go on; plain values and tensors.
    Raises: OSError: the file cannot be written; what was there before is unchanged.
    """
    meta = {"format": FORMAT, "recipe": model.recipe, "training": dict(training or {}), "torch": str(torch.__version__)}
    with replaced(Path(path)) as draft:
        torch.save({"meta": meta, "state_dict": model.state_dict()}, draft)


def read(file: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the tensors of a checkpoint that `save` wrote, and its recipe with what it takes to go on, "training".

    Raises: FileNotFoundError; ValueError: `save` did not write it, or it was damaged.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(f"there is no network {file}; train one first")
    state, meta = read_checkpoint(file)
    if meta.get("format") != FORMAT:
        raise ValueError(f"{file} is no U-Net that yolo_wnlb trained; give the best.pt or last.pt of one")
    try:
        check_recipe(meta.get("recipe"))
        if not isinstance(meta.get("training"), dict):
            raise ValueError("it does not say how it was trained")
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}); copy it again") from error
    return state, {**meta["recipe"], "training": meta["training"]}


def check_recipe(recipe: Any) -> None:
    """Refuse a recipe that a network cannot be built from, or one whose front cannot be."""
    if not isinstance(recipe, dict):
        raise ValueError("it does not say which network it holds")
    check_form(recipe)
    if not isinstance(recipe.get("sequential"), bool):
        raise ValueError("it does not say whether it is sequential")
    for key, most in (("alpha", 1), ("noise", 255)):
        value = recipe.get(key)
        if value is not None and not (is_number(value) and 0 <= value <= most):
            raise ValueError(f"its {key} is {value!r}")
    if recipe["sequential"]:
        front = recipe.get("front")
        if isinstance(front, dict) and front.get("sequential") is not False:
            raise ValueError("what stands in front of it is sequential itself")
        check_recipe(front)


def rebuild(file: str | Path) -> DenoiSeg:
    """Build the network of a checkpoint, in eval mode.

    Raises: FileNotFoundError; ValueError: as `read`; or the tensors do not fit the recipe.
    """
    state, recipe = read(file)
    recipe.pop("training")
    model = from_recipe(recipe)
    load_state(model, state, file, f"a U-Net of {recipe['first']} maps and depth {recipe['depth']}")
    return model.eval()


def from_recipe(recipe: Mapping[str, Any]) -> DenoiSeg:
    """Build a network with random weights, what stands in front of it too."""
    return DenoiSeg(recipe, from_recipe(recipe["front"]) if recipe["sequential"] else None)
