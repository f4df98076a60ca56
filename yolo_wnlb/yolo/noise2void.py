"""Learn from noisy pictures alone: `denoise=n2v` in `yolo train`, after Noise2Void and DenoiSeg.

Beside each training picture a crop of another picture is loaded, one of the training pictures or of those that
`unlabelled:` of the data YAML names. In the crop some pixels are hidden (`denoiseg.blindspots`), and a decoder is asked
for their values, from the features that the model has of the rest. Noise that is independent from pixel to pixel cannot
be guessed from neighbours, so the best guess is the picture without noise:

    loss = (1 - alpha) * stock + alpha * gain * B * mean over hidden pixels of (decoded - noisy)^2 / variance

Crops are cut from the files as they are, because what Ultralytics does to training pictures would spoil them for this:
to resize a picture correlates the noise of neighbouring pixels, colour jitter couples the channels, and a mosaic mixes
pictures with labels and pictures without. They are turned and flipped alone.

    stock transforms ─ Crops: a noisy crop, the same with hidden pixels, and which pixels are hidden ─ collate
      ─ HiddenPixels: takes the crops out of the batch, decodes them, compares

Sources: Krull, Buchholz and Jug, "Noise2Void" (CVPR 2019); Buchholz et al., "DenoiSeg" (ECCV workshop 2020).
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from yolo_wnlb.data.data_yaml import UNLABELLED
from yolo_wnlb.data.headers import large_enough
from yolo_wnlb.data.sources import unlabelled_pictures
from yolo_wnlb.denoiseg import blindspots
from yolo_wnlb.imaging.capture import capture
from yolo_wnlb.imaging.curve import CURVES, Curve
from yolo_wnlb.words import suggestion
from yolo_wnlb.yolo import darkness, decoder
from yolo_wnlb.yolo.features import by_stride, features, first_convolution, layout, norms_up_to

TARGET = "n2v"
DEFAULTS: dict[str, Any] = {
    "target": TARGET,
    "alpha": 0.5,  # share of the term in the loss
    "gain": 10.0,  # factor of the term, that of the other decoders
    "from": ("P1", "P2", "P3"),  # where the decoder reads features: single pixels are gone in deeper ones
    "pixels": 100 * blindspots.SHARE,  # percent of the pixels of a crop that are hidden
    "radius": blindspots.RADIUS,  # pixels from a hidden pixel to where its value may come from
    "channels": "joint",  # a pixel is hidden in all channels, or in "each" at other places
    "crop": None,  # side of the crops in pixels, a multiple of 32; None is half of imgsz
}
CHANNELS = ("joint", "each")
MULTIPLE = 32  # of the side of a crop: the stride of P5
MAX_RADIUS = 50
KEY = "noisy_crop"  # of a batch


# ---- the request ---------------------------------------------------------------------------------


def check_options(asked: dict[str, Any]) -> None:
    """Check the options that n2v alone has.

    Raises: ValueError: one is out of bounds.
    """
    pixels, radius, channels, crop = (asked[name] for name in ("pixels", "radius", "channels", "crop"))
    most = 100 * blindspots.LARGEST_SHARE
    if isinstance(pixels, bool) or not isinstance(pixels, (int, float)) or not 0 < pixels <= most:
        raise ValueError(f"denoise: pixels is {pixels!r}; wanted percent of the pixels, above 0 and at most {most:g}")
    if type(radius) is not int or not 1 <= radius <= MAX_RADIUS:
        raise ValueError(f"denoise: radius is {radius!r}; wanted whole pixels, from 1 to {MAX_RADIUS}")
    if channels not in CHANNELS:
        meant = suggestion(channels, CHANNELS)
        raise ValueError(f"denoise: channels is {channels!r}{meant}; choose from {', '.join(CHANNELS)}")
    if crop is not None and (type(crop) is not int or crop < MULTIPLE or crop % MULTIPLE):
        near = f", such as {max(crop // MULTIPLE, 1) * MULTIPLE}" if type(crop) is int else ""
        raise ValueError(f"denoise: crop is {crop!r}; wanted the side in pixels, a multiple of {MULTIPLE}{near}")
    if crop is not None:
        check_boxes(pixels, crop)


def check_boxes(pixels: float, crop: int) -> None:
    """Check that a crop is large enough for one hidden pixel in each box.

    Raises: ValueError: it is not.
    """
    if (side := blindspots.box_side(pixels / 100)) > crop:
        raise ValueError(
            f"denoise: pixels is {pixels!r}, one in each {side} x {side} pixels, and crops have {crop} x {crop}; give "
            "more pixels, or a larger crop"
        )


# ---- the crops -----------------------------------------------------------------------------------


class Crops:
    """The last transform of a training data set: adds a crop with hidden pixels to each item.

    Its random numbers come from a generator of its own, so that the labelled pictures are those of a training without
    it. The generator starts anew in each worker and each time that workers start, as that of the stock transforms does.

    Args:
        files: Pictures that crops are cut from, none smaller than a crop.
        channels: Of the pictures, as the model takes them: 1 or 3.
        side: Of a crop, in pixels.
        asked: What `denoise.read_request` returned.
        camera: What lowlight= does to the pictures; None leaves them as they are.
        curve: Of pictures with more than 8 bits.
    """

    def __init__(
        self,
        files: Sequence[Path],
        channels: int,
        side: int,
        asked: dict[str, Any],
        camera: darkness.Darkness | None,
        curve: Curve = CURVES["auto"],
    ) -> None:
        self.files, self.channels, self.side, self.camera, self.curve = files, channels, side, camera, curve
        self.share, self.radius, self.joint = asked["pixels"] / 100, asked["radius"], asked["channels"] == "joint"
        self.seed, self.rng = -1, np.random.default_rng(0)

    def __call__(self, labels: dict[str, Any]) -> dict[str, Any]:
        """Add a crop under KEY: uint8 (3, C, side, side), which holds the noisy one, the hidden one, and 1 or 0."""
        if self.seed != torch.initial_seed():
            self.seed = torch.initial_seed()
            self.rng = np.random.default_rng(self.seed)
        noisy = self.cut()
        size = noisy.shape[1:]
        stack = np.stack([noisy, noisy, np.zeros_like(noisy)])
        for planes in [stack] if self.joint else np.split(stack, len(noisy), 1):
            index = blindspots.spots(size, self.rng, self.share, self.radius)
            planes[1] = blindspots.blind(planes[0], index)
            planes[2] = blindspots.hidden(size, index)
        return {**labels, KEY: torch.from_numpy(stack)}

    def cut(self) -> np.ndarray:
        """Cut a crop out of a picture, turned and flipped: uint8 (C, side, side), RGB or grey."""
        from ultralytics.utils import LOGGER

        from yolo_wnlb.yolo.models import read_picture

        while True:
            file = self.files[int(self.rng.integers(len(self.files)))]
            try:
                picture = read_picture(file, self.channels, self.curve)
                break
            except OSError as error:  # only its header was read before
                if len(self.files) == 1:
                    raise
                LOGGER.warning(f"denoise={TARGET}: {error}; it gives no crops")
                self.files = [other for other in self.files if other != file]
        top, left = (self.rng.integers(length - self.side + 1) for length in picture.shape[:2])
        crop = np.ascontiguousarray(picture[top : top + self.side, left : left + self.side])
        if self.camera and self.rng.random() < self.camera.p:
            crop = capture(crop, self.camera.camera.draw(random.Random(int(self.rng.integers(2**63)))))
        crop = np.rot90(crop, int(self.rng.integers(4)))
        crop = crop[:, :: self.rng.choice((-1, 1)), ::-1]  # BGR to RGB
        return np.ascontiguousarray(crop.transpose(2, 0, 1))


class CropTransforms:
    """Stands in for `build_transforms` of one data set: the stock transforms, and the crops after them."""

    def __init__(self, dataset: Any, crops: Crops) -> None:
        self.dataset, self.crops = dataset, crops

    def __call__(self, hyp: Any) -> Any:
        """Build them."""
        built = type(self.dataset).build_transforms(self.dataset, copy(hyp))  # it may change its argument
        built.append(self.crops)
        return built


def attach(dataset: Any, hyp: Any, asked: dict[str, Any]) -> None:
    """Let a training data set load a crop beside each picture, and say where the crops come from.

    Raises:
        FileNotFoundError: a folder or a list that `unlabelled:` names is not there, or holds no pictures.
        ValueError: it names pictures that the model is measured on, no picture is as large as a crop, or the data YAML
            is wrong.
    """
    from ultralytics.utils import LOGGER

    if dataset.channels not in (1, 3):
        raise ValueError(
            f"denoise={TARGET} learns from grey or colour pictures; these have {dataset.channels} channels"
        )
    side = side_of(asked, dataset.imgsz)
    labelled = [Path(file).resolve() for file in dataset.im_files]
    unlabelled = unlabelled_pictures(dataset.data)
    both = len({*labelled} & {*unlabelled})
    files = [*dict.fromkeys([*labelled, *unlabelled])]
    text = f"{len(labelled)} training pictures and {len(unlabelled) - both} unlabelled ones"
    if both:
        text += f" ({both} more that '{UNLABELLED}' names are training pictures, and count once)"
    LOGGER.info(f"{dataset.prefix}denoise={TARGET}: crops of {side} x {side} pixels, cut from the files of {text}")
    large = croppable(files, side)
    request = getattr(hyp, "lowlight", None)
    camera = darkness.read_request(request) if request else None
    warn_of_correlated_noise(large, dataset, request, vars(camera.camera) if camera else {})
    crops = Crops(large, dataset.channels, side, asked, camera, dataset.curve)
    dataset.build_transforms = CropTransforms(dataset, crops)
    dataset.transforms = dataset.build_transforms(hyp)


def side_of(asked: dict[str, Any], imgsz: Any) -> int:
    """Return the side of the crops, for pictures of a size or of a height and a width.

    Raises: ValueError: it is too small for one hidden pixel in each box.
    """
    side = asked["crop"] or max(MULTIPLE, int(np.min(imgsz)) // 2 // MULTIPLE * MULTIPLE)
    check_boxes(asked["pixels"], side)
    return int(side)


def croppable(files: Sequence[Path], side: int) -> list[Path]:
    """Return the pictures that are no smaller than a crop, and warn of the others.

    Raises: ValueError: there are none.
    """
    from ultralytics.utils import LOGGER

    large = large_enough(files, side)
    if len(large) < len(files):
        kept = {*large}
        left_out = next(file for file in files if file not in kept)
        message = f"{len(files) - len(large)} of {len(files)} pictures cannot be read or are smaller than a crop"
        smaller = (crop for crop in range(side - MULTIPLE, MULTIPLE, -MULTIPLE) if large_enough(files, crop))
        crop = MULTIPLE if large else next(smaller, MULTIPLE)
        advice = f"(first: {left_out}); a smaller crop: \"denoise={{'target': '{TARGET}', 'crop': {crop}}}\""
        if not large:
            raise ValueError(f"denoise={TARGET}: {message} of {side} x {side} pixels {advice}")
        LOGGER.warning(f"denoise={TARGET}: {message} of {side} x {side} pixels, and give none {advice}")
    return large


def warn_of_correlated_noise(files: Sequence[Path], dataset: Any, request: Any, given: dict[str, Any]) -> None:
    """Warn where neighbouring pixels share noise: then it can be guessed, and is learnt as a part of the picture.

    Args:
        files: The pictures of which crops are cut.
        dataset: Their data set; cameras take grey pictures without a mosaic.
        request: What stands behind lowlight=.
        given: The settings of its camera; {} without lowlight=.
    """
    from ultralytics.utils import LOGGER

    reasons, made_by = [], dataset.data.get("lowlight")
    stored = (made_by.get("settings") or {}) if isinstance(made_by, dict) else {}
    for how, camera in ((f"lowlight={request}", given), ("the darkness that they were written with", stored)):
        if camera.get("bayer") not in (None, "none", "mono") and dataset.channels == 3:
            reasons.append(f"{how} demosaics them; n10, n20 or bayer none do not")
        if np.any(camera.get("sigma_row") or 0) or np.any(camera.get("sigma_column") or 0):
            reasons.append(
                f"{how} has banding, which whole rows or columns share; leave out sigma_row and sigma_column"
            )
        if camera.get("jpeg_quality"):
            reasons.append(f"{how} ends in a JPEG step; leave out jpeg_quality")
    if jpegs := sum(file.suffix.lower() in (".jpg", ".jpeg") for file in files):
        reasons.append(f"{jpegs} of {len(files)} are JPEG, which mixes the pixels of 8 x 8")
    if reasons:
        LOGGER.warning(
            f"denoise={TARGET} removes noise that is independent from pixel to pixel, and learns to copy other "
            f"noise. In these pictures it is not independent: {'; '.join(reasons)}"
        )


# ---- the loss ------------------------------------------------------------------------------------


class HiddenPixels:
    """The term of `denoise=n2v`: error of hidden pixels that `model.denoiser` decodes from features of the others.

    Args:
        model: The model that is trained; it is given a decoder.
        asked: What `denoise.read_request` returned.
        checkpoint: That of a run that is resumed, whose decoder goes on; None begins with a new one.
    Raises: ValueError: a place does not exist, or the checkpoint has no decoder for these places.
    """

    name = decoder.NAME

    def __init__(self, model: Any, asked: dict[str, Any], checkpoint: dict[str, Any] | None) -> None:
        self.target, self.alpha, self.gain, self.places = (asked[name] for name in ("target", "alpha", "gain", "from"))
        self.layers, self.strides, channels = layout(model, self.places)
        self.crops: Any = None
        colours = first_convolution(model).in_channels
        decoder.attach(model, channels, colours, checkpoint, norms_up_to(model, max(self.layers)))

    def prepare(self, model: Any, batch: dict[str, Any]) -> dict[str, Any]:
        """Take the crops out of a batch; the stock loss sees the rest.

        Raises: RuntimeError: the batch holds no crops.
        """
        if KEY not in batch:
            raise RuntimeError(
                f"denoise={TARGET} wants a crop beside each picture, and a batch came without: the data set does not "
                "build its transforms as Ultralytics' own do"
            )
        self.crops = batch[KEY]
        return {name: value for name, value in batch.items() if name != KEY}

    def watch(self, model: Any) -> Any:
        """Return a context that does nothing: the crops have a forward pass of their own."""
        return contextlib.nullcontext()

    def value(self, model: Any) -> Tensor:
        """Return gain * mean over hidden pixels of the squared error, relative to the variance of the crops.

        The norms of the model keep the statistics of the labelled pictures; the decoder holds those of the crops.
        """
        first = first_convolution(model).weight
        noisy, blind, hidden = torch.stack(list(self.crops)).to(first.device).float().unbind(1)
        self.crops = None
        noisy, blind = noisy / 255, blind / 255
        network = model.denoiser
        with decoder.swapped_statistics(norms_up_to(model, max(self.layers)), network[decoder.STATISTICS]):
            found = by_stride(features(model, blind, self.layers), self.strides)
        decoded = decoder.decode(network, found)
        with torch.autocast(noisy.device.type, enabled=False):
            variance, mean = torch.var_mean(noisy, (0, 2, 3), keepdim=True, correction=0)
            decoder.follow(network, mean, variance, hidden.sum())
            wanted = (noisy - network.mean) / (network.variance + decoder.ONE_CODE).sqrt()
            error = ((decoded.float() - wanted).square() * hidden).sum() / hidden.sum().clamp(min=1)
        return self.gain * error
