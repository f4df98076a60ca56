"""The decoder of `denoise=bright`, `clean`, `n2n`, `n2v`: it is trained beside a model, and prediction never sees it.

From the features that a model has of a dark picture, the decoder restores another picture of the same scene:
the bright one, the dark one without noise, or the dark one with other noise. With n2v it restores pixels that were
hidden (`noise2void`). It can only do so if the features hold what the noise hides, so its error is a training signal
for the backbone that needs no label. The idea is that of Buchholz et al., "DenoiSeg: Joint Denoising and
Segmentation" (ECCV workshop 2020); other noise as a target is that of Lehtinen et al., "Noise2Noise" (ICML 2018).

    P5 ─ Conv 3x3, 32 maps ─ x2 ┐
    P4 ─────────────────────────┴ Conv 3x3, 32 maps ─ x2 ┐
    P3 ──────────────────────────────────────────────────┴ Conv 3x3, 32 maps ─ Conv 3x3 ─ picture

The last convolution is linear. It runs at the resolution of the finest features, stride s, and gives s * s
pixels a position, which are rearranged to full size (Shi et al., "Real-Time Single Image and Video Super-Resolution
Using an Efficient Sub-Pixel Convolutional Neural Network", CVPR 2016): the target keeps every pixel of its noise,
and the cost is that of stride s.

The decoder is an `nn.ModuleDict` of classes of torch.nn in `model.denoiser`, beside `model.model`: no layer
number moves, and a checkpoint opens where this package is not installed. Its buffers `mean` and `variance` are
those of the pictures that it restores, so that `restore` can give codes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yolo_wnlb.imaging.camera import Shot
from yolo_wnlb.imaging.capture import capture, clean
from yolo_wnlb.yolo.weights import DECODER

NAME = "dn_loss"  # the column of its error in results.csv
WIDTH = 32  # maps of each convolution but the last
ONE_CODE = (1 / 255) ** 2  # added to the variance of a target: a picture of one colour has none
EPS, MOMENTUM = 1e-3, 0.03  # of the norms, as in all of Ultralytics' models
MEMORY = 1000  # batches that the mean and the variance of the pictures are averages of
STATISTICS = "statistics"  # of a decoder: the norms' running statistics on the pictures that it restores


# ---- the pictures that a decoder can be asked for ------------------------------------------------


def bright_picture(bright: np.ndarray, shot: Shot) -> np.ndarray:
    """Return the picture before darkening."""
    return bright


def other_noise(bright: np.ndarray, shot: Shot) -> np.ndarray:
    """Take the dark picture again: the same shot, with noise that is independent of the first."""
    return capture(bright, replace(shot, noise_seed=shot.noise_seed ^ 1))


PICTURES: dict[str, Callable[[np.ndarray, Shot], np.ndarray]] = {
    "bright": bright_picture,
    "clean": clean,
    "n2n": other_noise,
}


# ---- the network ---------------------------------------------------------------------------------


def build(channels: dict[int, int], colours: int) -> nn.ModuleDict:
    """Build a decoder with random weights, without a draw from the random numbers of the training.

    Args:
        channels: {stride: number of feature maps of that stride}, powers of two.
        colours: Channels of the picture, 1 or 3.
    Returns: The layers, and the buffers `mean` and `variance` (1, colours, 1, 1) and `seen`, the number of batches that
        they are averages of, MEMORY at most.
    """
    layers: dict[str, nn.Module] = {}
    strides, deeper = sorted(channels, reverse=True), 0
    with torch.random.fork_rng(devices=[]):
        for stride in strides:
            convolution = nn.Conv2d(channels[stride] + deeper, WIDTH, 3, padding=1, bias=False)
            layers[f"stride{stride}"] = nn.Sequential(convolution, nn.BatchNorm2d(WIDTH, EPS, MOMENTUM), nn.SiLU())
            deeper = WIDTH
        layers["last"] = nn.Conv2d(WIDTH, colours * strides[-1] ** 2, 3, padding=1)
    decoder = nn.ModuleDict(layers)
    for name, value in (("mean", torch.zeros(1, colours, 1, 1)), ("variance", torch.ones(1, colours, 1, 1))):
        decoder.register_buffer(name, value)
    decoder.register_buffer("seen", torch.zeros(()))
    return decoder


def decode(decoder: nn.ModuleDict, features: dict[int, list[Tensor]]) -> Tensor:
    """Restore a picture from {stride s: maps (B, C_s, H / s, W / s)}.

    Returns: (B, colours, H, W) in units of the target's standard deviation around its mean.
    """
    strides = sorted(features, reverse=True)
    x: Tensor | None = None
    for stride in strides:
        maps = features[stride]
        if x is not None:
            maps = [*maps, F.interpolate(x, size=maps[0].shape[-2:], mode="nearest")]
        x = decoder[f"stride{stride}"](torch.cat(maps, 1))
    return F.pixel_shuffle(decoder["last"](x), strides[-1])


def restore(decoder: Any, features: dict[int, list[Tensor]]) -> Tensor:
    """Restore a picture (B, colours, H, W) from the features as for `decode`; black is 0 and white is 1."""
    return decode(decoder, features) * (decoder.variance + ONE_CODE).sqrt() + decoder.mean


def follow(decoder: Any, mean: Tensor, variance: Tensor, counts: Tensor) -> None:
    """Let the decoder's mean and variance follow those of a batch, of which `counts` pixels were counted, or none."""
    found = counts.clamp(max=1).to(decoder.seen.dtype)
    decoder.seen.add_(found).clamp_(max=MEMORY)
    share = found / decoder.seen.clamp(min=1)
    for average, value in ((decoder.mean, mean), (decoder.variance, variance)):
        average.add_(share * (value.detach() - average))


def error(decoder: nn.ModuleDict, features: dict[int, list[Tensor]], picture: Tensor, inside: Tensor) -> Tensor:
    """Return the mean squared error of the decoded picture, relative to the variance of each colour in the batch.

    0 is a perfect picture, 1 is one that has the mean colour of the batch everywhere. Relative, because the
    pictures of `clean` and `n2n` are dark: their variance, and with it the plain squared error and its gradient, is
    a hundredth of that of bright ones. Padding does not count: grey beside dark pictures, it would be most of the
    variance, and to tell it from the pictures most of what is learnt.

    Args:
        decoder: What `build` returned.
        features: As for `decode`, of the dark picture.
        picture: The target, (B, colours, H, W) in [0, 1].
        inside: Which of its pixels count, 1 or 0, (B, 1, H, W): those that are no padding.
    """
    decoded = decode(decoder, features)
    with torch.autocast(picture.device.type, enabled=False):
        picture, counts = picture.float(), inside.float()
        number = counts.sum().clamp(min=1)
        mean = (picture * counts).sum((0, 2, 3), keepdim=True) / number
        variance = ((picture - mean).square() * counts).sum((0, 2, 3), keepdim=True) / number
        follow(decoder, mean, variance, counts.sum())
        wanted = (picture - mean) / (variance + ONE_CODE).sqrt()
        return ((decoded.float() - wanted).square() * counts).sum() / (number * picture.shape[1])


# ---- the decoder of a model ----------------------------------------------------------------------


def attach(
    model: Any, channels: dict[int, int], colours: int, checkpoint: dict[str, Any] | None, norms: Sequence[Any] = ()
) -> nn.ModuleDict:
    """Put a decoder into `model.denoiser`: that of the checkpoint of a run that is resumed, else a new one.

    Args:
        norms: Norms of the model whose statistics on the decoder's own pictures the decoder is to keep.
    Raises: ValueError: the checkpoint has no decoder, or another one.
    """
    decoder = build(channels, colours)
    if norms:
        decoder[STATISTICS] = nn.ModuleList(statistics_like(norm) for norm in norms)
    if checkpoint is not None:
        saved = getattr(checkpoint.get("ema") or checkpoint.get("model"), DECODER, None)
        try:
            decoder.load_state_dict({} if saved is None else saved.float().state_dict())
        except RuntimeError as mismatch:
            raise ValueError(
                "denoise: the checkpoint to resume holds no decoder of this form; resume the last.pt that this run "
                f"wrote, or start a new run ({str(mismatch).splitlines()[0]})"
            ) from mismatch
    setattr(model, DECODER, decoder.to(next(model.parameters()).device))
    return decoder


def statistics_like(norm: Any) -> nn.BatchNorm2d:
    """Return a norm without weights that has the running statistics of another one."""
    copy = nn.BatchNorm2d(norm.num_features, affine=False)
    copy.load_state_dict({name: norm.state_dict()[name] for name in copy.state_dict()})
    return copy


@contextlib.contextmanager
def swapped_statistics(norms: Sequence[Any], statistics: Iterable[Any]) -> Iterator[None]:
    """Let norms keep other running statistics for a while, by the exchange of their buffers."""
    pairs = list(zip(norms, statistics, strict=True))
    for norm, other in pairs:
        norm._buffers, other._buffers = other._buffers, norm._buffers
    try:
        yield
    finally:
        for norm, other in pairs:
            norm._buffers, other._buffers = other._buffers, norm._buffers


def drop(model: Any) -> None:
    """Take the decoder off a model that is about to predict or to be exported; others stay as they are."""
    if isinstance(getattr(model, "denoise", None), dict) and isinstance(getattr(model, DECODER, None), nn.ModuleDict):
        delattr(model, DECODER)
