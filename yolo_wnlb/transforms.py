"""LowLight: the camera model of `lowlight` as an Albumentations transform.

Works with albumentations 2.0.8, the last MIT-licensed one, and with AlbumentationsX. All that is
random is drawn when the parameters are sampled; `apply` is a pure function of them. The import
path `yolo_wnlb.transforms.LowLight` is written into checkpoints and never changes.
"""

from __future__ import annotations

import random
from dataclasses import asdict, fields
from typing import Any

import numpy as np
from pydantic import model_validator

try:
    from albumentations.core.transforms_interface import BaseTransformInitSchema, ImageOnlyTransform
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("LowLight needs albumentations: pip install albumentations", name=error.name) from error

from yolo_wnlb.imaging.camera import CURVE, DEFAULT, Settings, Shot, capture, settings

CHANGES = tuple(field.name for field in fields(Settings))
SHOT = tuple(field.name for field in fields(Shot))


class LowLight(ImageOnlyTransform):
    """Take the picture again with less light: fewer photons, and the camera's own noise.

    Args:
        preset: "mild", "moderate", "severe", "extreme", "agllnet" (the paper's full ranges) or "lin"
            (as its first author implemented it).
        alpha, beta, gamma: Number, or (low, high), of the low-light curve beta (alpha x)^gamma.
        ev: Exposure in stops, 0 or less, instead of the curve; a number, or (low, high).
        sigma_s: Shot noise, number or (low, high): a white pixel collects 1 / sigma_s^2 photons.
        sigma_c: Read noise as a share of white, number or (low, high).
        crf: Camera response: "mixture", "digital", "srgb", "gamma:2.2", "identity", (n, u), "dorf:FILE".
        bayer: "random", "RGGB", "BGGR", "GRBG", "GBRG", or "none" for noise without a mosaic.
        shot_model: "gaussian" or "poisson".
        order: "sensor" or "paper".
        quantize: "round" or "truncate".
        jpeg_quality: Quality of a last JPEG step, number or (low, high). Default: no such step.
        noise_seed: Integer in [0, 2^53) that fixes the noise. Default: drawn for each picture.
        channel_order: "rgb", or "bgr" as in Ultralytics; matters for a fixed mosaic and JPEG only.
        p: Probability of applying it.

    What is not given is as the preset says; see `yolo_wnlb.Settings` for all of it. With
    `A.Compose(..., save_applied_params=True)` the result tells all that was drawn: in albumentations
    as attributes of `lowlight.Shot`, in AlbumentationsX as arguments that take the same picture again.

    Targets: image, images and volume (one darkness, fresh noise for each frame).
    Image types: uint8, float32 in [0, 1]; 1 or 3 channels.
    Raises: ValueError: a value is unknown, out of bounds or upside down. (Of an argument that does not
        exist albumentations only warns.)
    Example:
        >>> import albumentations as A
        >>> dark = A.Compose([LowLight("severe", p=1)], seed=0)(image=np.full((4, 4, 3), 200, np.uint8))
        >>> bool(dark["image"].mean() < 100)
        True
    """

    class InitSchema(BaseTransformInitSchema):
        """Checks the arguments as `settings` does, and keeps them as they were given."""

        preset: Any
        alpha: Any
        beta: Any
        gamma: Any
        ev: Any
        sigma_s: Any
        sigma_c: Any
        crf: Any
        bayer: Any
        shot_model: Any
        order: Any
        quantize: Any
        jpeg_quality: Any
        noise_seed: Any
        channel_order: Any

        @model_validator(mode="after")
        def is_sound(self) -> Any:
            """Raise ValueError unless a camera can be made of it."""
            asked(self)
            if self.channel_order not in ("rgb", "bgr"):
                raise ValueError(f"channel_order is {self.channel_order!r}; choose from rgb, bgr")
            if self.noise_seed is not None and (type(self.noise_seed) is not int or not 0 <= self.noise_seed < 2**53):
                raise ValueError(f"noise_seed is {self.noise_seed!r}; wanted an integer in [0, 2^53)")
            return self

    def __init__(
        self,
        preset: str = DEFAULT,
        alpha: Any = None,
        beta: Any = None,
        gamma: Any = None,
        ev: Any = None,
        sigma_s: Any = None,
        sigma_c: Any = None,
        crf: Any = None,
        bayer: str | None = None,
        shot_model: str | None = None,
        order: str | None = None,
        quantize: str | None = None,
        jpeg_quality: Any = None,
        noise_seed: int | None = None,
        channel_order: str = "rgb",
        p: float = 0.5,
    ):
        super().__init__(p=p)
        self.preset = preset
        self.alpha, self.beta, self.gamma, self.ev = alpha, beta, gamma, ev
        self.sigma_s, self.sigma_c = sigma_s, sigma_c
        self.crf, self.bayer, self.shot_model, self.order = crf, bayer, shot_model, order
        self.quantize, self.jpeg_quality = quantize, jpeg_quality
        self.noise_seed, self.channel_order = noise_seed, channel_order

    def draw(self, rng: random.Random) -> dict[str, Any]:
        """Draw the parameters of one shot, as JSON."""
        shot = asdict(asked(self).draw(rng))
        shot["crf"] = list(shot["crf"]) if isinstance(shot["crf"], tuple) else shot["crf"]
        return shot if self.noise_seed is None else {**shot, "noise_seed": self.noise_seed}

    def apply(self, img: np.ndarray, *args: Any, frame: int = 0, **params: Any) -> np.ndarray:
        """Take the picture with the parameters that were drawn."""
        shot = Shot(**{name: params[name] for name in SHOT})
        return capture(img, shot, channel_order=self.channel_order, frame=frame)

    def apply_to_images(self, images: np.ndarray, *args: Any, **params: Any) -> np.ndarray:
        """Take each frame of a video with one darkness and noise of its own."""
        return np.stack([self.apply(image, frame=k, **params) for k, image in enumerate(images)])

    if "get_params" in getattr(ImageOnlyTransform, "_removed_sampling_hooks", ()):  # AlbumentationsX

        def sample_parameters(self, params: Any, data: Any, targets: Any, sampling: Any) -> Any:
            """Draw the parameters; image size and content play no part."""
            from albumentations.core.transforms_interface import SampledParams

            shot = self.draw(sampling.py_random)
            for name, value in shot.items():  # its record of what was applied holds arguments of __init__
                if value is not None and not (name in CURVE if shot["ev"] else name == "ev"):
                    sampling.applied_overrides[name] = value
            sampling.applied_overrides["bayer"] = shot["bayer"] or "none"
            return SampledParams(params=shot)

    else:

        def get_params(self) -> dict[str, Any]:
            """Draw the parameters; image size and content play no part."""
            return self.draw(self.py_random)


def asked(transform: Any) -> Settings:
    """Return the settings that the arguments of a transform (or of its schema) ask for."""
    changes = {name: getattr(transform, name) for name in CHANGES}
    return settings(transform.preset, **{name: value for name, value in changes.items() if value is not None})
