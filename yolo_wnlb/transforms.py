"""LowLight: the low-light camera of `imaging` as an Albumentations transform.

It works with albumentations 2.0.8, the last MIT-licensed release, and with AlbumentationsX. All random
numbers are drawn when the parameters are sampled; `apply` is a pure function of the parameters. The
import path `yolo_wnlb.transforms.LowLight` is written into checkpoints and never changes.
"""

from __future__ import annotations

import random
import sys
from dataclasses import asdict, fields
from typing import Any

import numpy as np
from pydantic import model_validator

try:
    from albumentations.core.transforms_interface import BaseTransformInitSchema, ImageOnlyTransform
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("LowLight needs albumentations: pip install albumentations", name=error.name) from error

from yolo_wnlb.imaging.bounds import MAX_NOISE_SEED, whole_number
from yolo_wnlb.imaging.camera import CURVE, DEFAULT, Settings, Shot, settings
from yolo_wnlb.imaging.capture import capture

SETTING_NAMES = tuple(field.name for field in fields(Settings))
SHOT_NAMES = tuple(field.name for field in fields(Shot))
IS_ALBUMENTATIONSX = "get_params" in getattr(ImageOnlyTransform, "_removed_sampling_hooks", ())


class LowLight(ImageOnlyTransform):
    """Take the picture again with less light: fewer photons, and the camera's own noise.

    Args:
        preset: "mild", "moderate", "severe", "extreme", "agllnet" (the full ranges of the literature) or
            "lv" (the same as the first author of the wNLB paper implemented it; "lin" is its older name), or the .yaml
            file that `yolo-wnlb calibrate` wrote for a camera.
        alpha, beta, gamma: Number, or (low, high), of the low-light curve beta (alpha x)^gamma.
        ev: Exposure in stops, 0 or less, instead of the curve; a number, or (low, high).
        sigma_s: Shot noise, number or (low, high): a white pixel collects 1 / sigma_s^2 photons.
        sigma_c: Read noise as a share of white, number or (low, high).
        crf: Camera response: "mixture", "digital", "srgb", "gamma:2.2", "identity", (n, u), "dorf:FILE".
        bayer: "random", "RGGB", "BGGR", "GRBG", "GBRG", "none" for noise without a mosaic, or "mono" for a sensor
            without colour filters.
        shot_model: "gaussian" or "poisson".
        order: "sensor" or "paper".
        quantize: "round" or "truncate".
        jpeg_quality: Quality of a last JPEG step, number or (low, high). Default: no such step.
        sigma_row, sigma_column: Banding: noise of whole rows and columns as a share of white, number or (low, high).
        sigma_fixed: Offsets of the sites, the same in all pictures of a camera, number or (low, high).
        hot_pixels: Share of hot sites, number or (low, high).
        camera_seed: Whole number that names the camera: it says which sites are hot.
        bits: Bits of the sensor's converter, whole number or (low, high). Default: no such steps.
        blur: Standard deviation of a blur in front of the sensor, in pixels, number or (low, high).
        motion, motion_angle: Length of a motion in pixels and its direction in degrees, number or (low, high).
        lamp: Tangent of the angle at which a lamp lights the corners, number or (low, high); 0 is an even light.
        noise_seed: Integer in [0, 2^53) that fixes the noise. Default: drawn for each picture.
        channel_order: "rgb", or "bgr" as in Ultralytics; matters for a fixed mosaic and JPEG only.
        p: Probability of applying it.

    The preset decides what is not given; `yolo_wnlb.Settings` describes all parameters. With
    `A.Compose(..., save_applied_params=True)` the result holds everything that was drawn: in albumentations
    as attributes of `imaging.camera.Shot`, in AlbumentationsX as arguments that take the same picture again.

    In a PyTorch DataLoader each worker of each epoch draws its own pictures, also when the workers are
    copies of one process, and without a `worker_init_fn`. With `A.Compose(..., seed=...)` a run can be repeated: seed
    PyTorch as well (`torch.manual_seed` or the loader's `generator=`) and keep `num_workers`. A state that
    was set inside a worker (`set_random_seed` in `worker_init_fn`) is left alone. In albumentations 2.0.8
    this holds for LowLight, not for the transforms beside it, which repeat themselves in each worker
    unless they are seeded there: `get_worker_info().dataset.transform.set_random_seed(torch.initial_seed())`.

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
        """Check the arguments as `settings` does; keep them as they were given, in types that JSON has."""

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
        sigma_row: Any
        sigma_column: Any
        sigma_fixed: Any
        hot_pixels: Any
        camera_seed: Any
        bits: Any
        blur: Any
        motion: Any
        motion_angle: Any
        lamp: Any
        noise_seed: Any
        channel_order: Any

        @model_validator(mode="after")
        def is_sound(self) -> Any:
            """Raise ValueError unless the arguments describe a camera."""
            settings_of(self)
            for name in SETTING_NAMES:
                setattr(self, name, without_numpy(getattr(self, name)))
            if self.channel_order not in ("rgb", "bgr"):
                raise ValueError(f"channel_order is {self.channel_order!r}; choose from rgb, bgr")
            if self.noise_seed is not None:
                self.noise_seed = whole_number("noise_seed", self.noise_seed, MAX_NOISE_SEED)
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
        sigma_row: Any = None,
        sigma_column: Any = None,
        sigma_fixed: Any = None,
        hot_pixels: Any = None,
        camera_seed: int | None = None,
        bits: Any = None,
        blur: Any = None,
        motion: Any = None,
        motion_angle: Any = None,
        lamp: Any = None,
    ):
        super().__init__(p=p)
        self.preset = preset
        self.alpha, self.beta, self.gamma, self.ev = alpha, beta, gamma, ev
        self.sigma_s, self.sigma_c = sigma_s, sigma_c
        self.crf, self.bayer, self.shot_model, self.order = crf, bayer, shot_model, order
        self.quantize, self.jpeg_quality = quantize, jpeg_quality
        self.noise_seed, self.channel_order = noise_seed, channel_order
        self.sigma_row, self.sigma_column = sigma_row, sigma_column
        self.sigma_fixed, self.hot_pixels, self.camera_seed = sigma_fixed, hot_pixels, camera_seed
        self.bits, self.blur, self.lamp = bits, blur, lamp
        self.motion, self.motion_angle = motion, motion_angle

    def draw(self, rng: random.Random) -> dict[str, Any]:
        """Draw the parameters of one shot, in types that JSON has."""
        shot = asdict(settings_of(self).draw(rng))
        shot["crf"] = list(shot["crf"]) if isinstance(shot["crf"], tuple) else shot["crf"]
        return shot if self.noise_seed is None else {**shot, "noise_seed": self.noise_seed}

    def apply(self, img: np.ndarray, *args: Any, frame: int = 0, **params: Any) -> np.ndarray:
        """Take the picture with the parameters that were drawn."""
        shot = Shot(**{name: params[name] for name in SHOT_NAMES})
        return capture(img, shot, channel_order=self.channel_order, frame=frame)

    def apply_to_images(self, images: np.ndarray, *args: Any, **params: Any) -> np.ndarray:
        """Take each frame of a video with one darkness and noise of its own."""
        return np.stack([self.apply(image, frame=k, **params) for k, image in enumerate(images)])

    if IS_ALBUMENTATIONSX:  # which seeds the workers of a DataLoader itself

        def sample_parameters(self, params: Any, data: Any, targets: Any, sampling: Any) -> Any:
            """Draw the parameters; size and content of the image play no part."""
            from albumentations.core.transforms_interface import SampledParams

            shot = self.draw(sampling.py_random)
            for name, value in shot.items():  # its record of what was applied holds arguments of __init__
                if value is not None and not (name in CURVE if shot["ev"] else name == "ev"):
                    sampling.applied_overrides[name] = value
            sampling.applied_overrides["bayer"] = shot["bayer"] or "none"
            return SampledParams(params=shot)

    else:

        def get_params(self) -> dict[str, Any]:
            """Draw the parameters; size and content of the image play no part."""
            return self.draw(self.py_random)

        @property
        def py_random(self) -> random.Random:
            """The source of randomness. A loader worker that holds the copy of another process replaces it, once."""
            seed = loader_worker_seed()
            if seed is not None and seed != self._worker_seed:
                self.py_random = random.Random(f"{self._py_random.getrandbits(64)}:{seed}")
            return self._py_random

        @py_random.setter
        def py_random(self, source: random.Random) -> None:
            self._py_random, self._worker_seed = source, loader_worker_seed()


def loader_worker_seed() -> int | None:
    """Return the seed that PyTorch gave to this DataLoader worker in this epoch, None outside of a worker."""
    torch_data = sys.modules.get("torch.utils.data")  # a worker has imported it
    info = torch_data.get_worker_info() if torch_data else None
    return info.seed if info else None


def without_numpy(value: Any) -> Any:
    """Return NumPy's numbers, alone or in a tuple or list, as Python's own."""
    if isinstance(value, (list, tuple)):
        return type(value)(map(without_numpy, value))
    return value.item() if isinstance(value, np.generic) else value


def settings_of(transform: Any) -> Settings:
    """Return the settings that the arguments of a transform (or of its schema) describe."""
    changes = {name: getattr(transform, name) for name in SETTING_NAMES}
    return settings(transform.preset, **{name: value for name, value in changes.items() if value is not None})
