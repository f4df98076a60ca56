"""A trained U-Net, loaded to be used: where objects are, and the picture without noise."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ultralytics.utils import TQDM
from ultralytics.utils.torch_utils import select_device

from yolo_wnlb.checkpoints import has_mark
from yolo_wnlb.denoiseg.pictures import as_codes, noise_level, psnr, read_picture, with_noise
from yolo_wnlb.denoiseg.unet import FOREGROUND, FORMAT, DenoiSeg, rebuild, run
from yolo_wnlb.reading import sha256_of

Picture = str | Path | np.ndarray  # a file, or uint8 (H, W) or (H, W, 3), BGR


@dataclass(frozen=True)
class Model:
    """A loaded U-Net.

    Attributes:
        weights: Its file.
        module: The network, in eval mode.
    """

    weights: Path
    module: DenoiSeg

    @property
    def names(self) -> list[str]:
        """The name of the one class."""
        return [self.module.recipe["name"]]

    @property
    def noise(self) -> float:
        """Standard deviation of the noise that it was trained with, in codes; 0 for pictures as they are."""
        return self.module.recipe["noise"] or 0.0

    @property
    def segments(self) -> bool:
        """Whether it has learnt to segment: alpha was below 1."""
        return self.module.recipe["alpha"] != 1

    @property
    def denoises(self) -> bool:
        """Whether it, or what stands in front of it, has learnt to denoise: alpha was above 0."""
        return bool(self.module.front or self.module.recipe["alpha"])

    def describe(self) -> dict[str, Any]:
        """Say what predicts and how, for the protocol of a score."""
        recipe = self.module.recipe
        front = " behind another" if self.module.front else ""
        return {
            "detector": f"unet {recipe['first']}/{recipe['depth']}{front}, alpha {recipe['alpha']:g}",
            "sha256": sha256_of(self.weights)[:16],
            "image_size": "whole pictures",
            "noise_sd": self.noise,
        }

    def predict(
        self, images: Iterable[Picture], *, noise: float | str | None = None, progress: bool = False
    ) -> Iterator[np.ndarray]:
        """Return, one after the other, the probability of each pixel to be inside of an object.

        The border does not count. float32 (H, W), in [0, 1], for each picture.

        Args:
            images: Pictures of any size; a network for grey pictures gets all in grey.
            noise: Standard deviation, in codes, of noise that is added first; or n0, n10, n20. Default: that of the
                training, always the same in the same picture. 0 for pictures that are noisy themselves.
            progress: Show a bar.
        Raises: OSError: a file is missing or unreadable. ValueError: the network has not learnt to segment.
        """
        if not self.segments:
            raise ValueError(
                f"{self.weights} was trained with alpha: 1, and has not learnt to segment; train one with less"
            )
        level = self.noise if noise is None else noise_level(noise)
        return (
            run(self.module, with_noise(self.codes(image), level))[1][FOREGROUND]
            for image in TQDM(several(images), desc="predicting", disable=not progress)
        )

    def denoise(self, image: Picture, *, noise: float | str = 0) -> np.ndarray:
        """Return a picture without noise: float32 codes, (H, W) from a network for grey pictures, else (H, W, 3), BGR.

        Values may lie a little outside of 0 to 255. No noise is added unless it is asked for.

        Raises: OSError: the file is missing or unreadable. ValueError: the network has not learnt to denoise.
        """
        self.check_denoises()
        found = run(self.module, with_noise(self.codes(image), noise_level(noise)))[0]
        return found[0] if len(found) == 1 else found.transpose(1, 2, 0)

    def psnr(self, images: Iterable[Picture], *, progress: bool = False) -> list[tuple[float, float]]:
        """Return the PSNR of each picture with noise, and of what the network makes of it, in dB of 255.

        The pictures are clean ones: the noise of the training is added to them.

        Raises: OSError: a file is missing or unreadable. ValueError: the network has not learnt to denoise, or no noise
            was added in its training.
        """
        self.check_denoises()
        if not self.noise:
            raise ValueError(
                f"{self.weights} was trained with noise: 0, on pictures as they are; no picture without noise is known "
                "that its own could be compared with"
            )
        found = []
        for image in TQDM(several(images), desc="denoising", disable=not progress):
            clean = self.codes(image)
            noisy = with_noise(clean, self.noise)
            found.append((psnr(clean, noisy), psnr(clean, run(self.module, noisy)[0])))
        return found

    def check_denoises(self) -> None:
        """Refuse a network that has not learnt to denoise."""
        if not self.denoises:
            raise ValueError(
                f"{self.weights} was trained with alpha: 0, and has not learnt to denoise; train one with more"
            )

    def codes(self, image: Picture) -> np.ndarray:
        """Read a picture if it is a file, and return it with the network's channels: uint8 (channels, H, W)."""
        picture = image if isinstance(image, np.ndarray) else read_picture(image)
        if picture.dtype != np.uint8 or picture.shape[2:] not in ((), (3,)) or picture.ndim < 2 or not picture.size:
            raise ValueError(f"the picture is {picture.dtype} {picture.shape}; wanted uint8 (H, W) or (H, W, 3)")
        return as_codes(picture, self.module.recipe["channels"])


def several(images: Iterable[Picture]) -> Iterable[Picture]:
    """Refuse a single picture, whose letters or rows would be taken for pictures."""
    if isinstance(images, (str, Path, np.ndarray)):
        raise ValueError(f"images is one picture, of type {type(images).__name__}; wanted a list of pictures")
    return images


def reads(weights: str | Path) -> bool:
    """Tell whether a file is a U-Net that `unet.save` wrote, from a glance into it.

    Raises: ValueError: it is a damaged archive, or one that grows when it is read.
    """
    return has_mark(weights, FORMAT)


def load(weights: str | Path | Model, device: str | None = None) -> Model:
    """Load a U-Net; one that is loaded is returned as it is.

    Args:
        weights: A file that `fit` wrote, or what this returned.
        device: As Ultralytics takes it: "cpu", "0", ... Default: a GPU if there is one.
    Raises: OSError, ValueError: the file is missing, unreadable, of something else, or of a network before training.
    """
    if isinstance(weights, Model):
        return weights
    module = rebuild(weights)
    if module.recipe["alpha"] is None:
        raise ValueError(f"{weights} holds a network that was not trained; give the best.pt of a training")
    return Model(Path(weights), module.to(select_device(device or "", verbose=False)))
