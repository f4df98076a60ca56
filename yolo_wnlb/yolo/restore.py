"""Denoise pictures with a model that was trained with `denoise=`: what the decoder beside it makes of its features.

    checkpoint ─ load ─> Restorer: picture ─ features ─ decoder ─> the picture without noise, or in the light

Prediction and export take the decoder off; the checkpoint keeps it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from yolo_wnlb.yolo import decoder
from yolo_wnlb.yolo.features import by_stride, features, first_convolution, layout, norms_up_to
from yolo_wnlb.yolo.models import load_checkpoint
from yolo_wnlb.yolo.weights import DECODER

WHOLE = 2_000_000  # pixels of the largest picture that is not cut into tiles
TILE, OVERLAP = 512, 32  # pixels
WANTED = (
    f"wanted best.pt or last.pt of a training with denoise={' or '.join(('n2v', *decoder.PICTURES))}, or of a U-Net "
    "that has learnt to denoise"
)
STEP = 32  # pixels: the largest stride of a backbone

Span = tuple[int, int]  # first pixel, and one behind the last


def load(file: str | Path) -> Restorer:
    """Load a checkpoint that keeps its decoder, on a GPU if there is one.

    Raises:
        OSError: the file is missing.
        ValueError: it is no checkpoint of a detector or segmenter, or has no decoder.
    """
    if Path(file).suffix != ".pt":
        raise ValueError(f"{file} is no checkpoint, whose name would end in .pt; {WANTED}")
    model = load_checkpoint(Path(file)).model
    trained, network = getattr(model, "denoise", None), getattr(model, DECODER, None)
    if not isinstance(trained, dict) or not isinstance(network, nn.ModuleDict) or "from" not in trained:
        target = trained.get("target") if isinstance(trained, dict) else None
        how = f"with denoise={target}, which" if target else "without denoise=, and"
        raise ValueError(f"{file} was trained {how} has no decoder; {WANTED}")
    return Restorer(model, trained["from"])


class Restorer:
    """What the decoder of a model makes of pictures.

    Args:
        model: With a decoder in `model.denoiser`; it is changed.
        places: Where the decoder reads features.
    """

    def __init__(self, model: nn.Module, places: list[str]) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model: Any = model.float().eval().to(self.device)
        self.layers, self.strides, _ = layout(model, places)
        self.channels = first_convolution(model).in_channels
        network: Any = self.model.denoiser
        if decoder.STATISTICS in network:
            for norm, own in zip(norms_up_to(model, max(self.layers)), network[decoder.STATISTICS], strict=True):
                norm._buffers = own._buffers

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Restore a picture, uint8 RGB (H, W, 3), of any size; a grey one, of three equal channels, stays grey."""
        grey = bool((image == image[..., :1]).all())
        planes = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None] if self.channels == 1 else image
        large = image.shape[0] * image.shape[1] > WHOLE
        restored = in_tiles(planes, self.restore) if large else self.restore(planes)
        if grey:
            restored = restored.mean(-1, keepdims=True)
        codes = np.rint(np.clip(restored, 0, 1) * 255).astype(np.uint8)
        return np.repeat(codes, 3, 2) if codes.shape[2] == 1 else codes

    @torch.inference_mode()
    def restore(self, planes: np.ndarray) -> np.ndarray:
        """Restore a picture as a whole: uint8 (H, W, C) -> float32 (H, W, C), black is 0 and white is 1."""
        height, width = planes.shape[:2]
        coarsest = max(self.strides)
        filled = cv2.copyMakeBorder(planes, 0, -height % coarsest, 0, -width % coarsest, cv2.BORDER_REPLICATE)
        filled = filled.reshape(*filled.shape[:2], -1)
        x = torch.from_numpy(filled.transpose(2, 0, 1).copy()).to(self.device)[None].float() / 255
        found = by_stride(features(self.model, x, self.layers), self.strides)
        restored: Tensor = decoder.restore(self.model.denoiser, found)[0]
        return restored.permute(1, 2, 0)[:height, :width].cpu().numpy()


def in_tiles(planes: np.ndarray, restore: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Restore a picture tile by tile; where tiles overlap, one fades into the next."""
    total = np.zeros(planes.shape, np.float32)
    weight = np.zeros((*planes.shape[:2], 1), np.float32)
    for top, bottom in spans(planes.shape[0]):
        for left, right in spans(planes.shape[1]):
            share = fade(bottom - top)[:, None, None] * fade(right - left)[None, :, None]
            total[top:bottom, left:right] += share * restore(planes[top:bottom, left:right])
            weight[top:bottom, left:right] += share
    return total / weight


def spans(length: int) -> Iterator[Span]:
    """Yield the spans of tiles along a side: TILE pixels, the last one a little more, OVERLAP of them shared or more.

    All start at a multiple of STEP, so that a tile is sampled by the strides of the model as the whole picture is.
    """
    last = max(0, length - TILE) // STEP * STEP
    starts = [*range(0, last, TILE - OVERLAP), last]
    ends = [start + TILE for start in starts[:-1]]
    return zip(starts, [*ends, length])


def fade(length: int) -> np.ndarray:
    """Return the weights of the pixels of a tile, float32 (length,): 1, and nearly 0 towards either end.

    The outer quarter of an overlap, where the padding of convolutions is felt, does not count if the next tile has it.
    """
    distance = np.minimum(np.arange(length), np.arange(length)[::-1]) + 0.5
    return np.clip(2 * distance / OVERLAP - 0.5, 1e-6, 1).astype(np.float32)
