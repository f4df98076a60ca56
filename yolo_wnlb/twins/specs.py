"""What every enhancer is, whatever computes it: a spec, and a call from uint8 RGB to uint8 RGB of the same size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from yolo_wnlb.imaging.curve import Curve

Work = Callable[[np.ndarray, str], np.ndarray]  # a picture and its name -> a picture


@dataclass(frozen=True)
class Enhancer:
    """What brightens a picture and checks what goes in and comes out; make one with `enhancer`.

    Attributes:
        spec: What it was made from; files by their names alone.
        sha256: Of its model file, its code and weights, or its folder's pictures and their names; "" without.
        work: What it does, unchecked.
        takes_grey: Whether `work` takes grey pictures (H, W, 1) too; otherwise it is given three equal channels.
        curve: Of pictures with more than 8 bits, where a model has learnt from them through one; else None.
    """

    spec: str
    sha256: str
    work: Work
    takes_grey: bool = False
    curve: Curve | None = None

    def __call__(self, image: np.ndarray, name: str = "") -> np.ndarray:
        """Enhance a picture.

        Args:
            image: uint8 RGB (H, W, 3), or grey (H, W, 1).
            name: Its path in the data set, wanted by `dir:` and `corrupt:` alone.
        Returns: A new uint8 array of the same shape; of a grey picture the luma of what came out.
        Raises: ValueError, FileNotFoundError: with the remedy.
        """
        size: tuple[int, ...] = getattr(image, "shape", ())
        if getattr(image, "dtype", None) != np.uint8 or len(size) != 3 or size[2] not in (1, 3) or 0 in size:
            found = f"{getattr(image, 'dtype', type(image).__name__)} {size or ''}"
            raise ValueError(f"the picture is {found}; wanted uint8 RGB (H, W, 3) or grey (H, W, 1): drop an alpha")
        if image.shape[2] == 1 and not self.takes_grey:
            return cv2.cvtColor(self(cv2.cvtColor(image, cv2.COLOR_GRAY2RGB), name), cv2.COLOR_RGB2GRAY)[..., None]
        result = self.work(np.ascontiguousarray(image), name)
        shape, kind = getattr(result, "shape", ()), getattr(result, "dtype", type(result).__name__)
        if (shape, kind) != (image.shape, image.dtype):
            given = "{} x {} pixels".format(*image.shape[1::-1])
            got = "{} x {} pixels".format(*shape[1::-1]) if len(shape) == 3 else f"the shape {shape}"
            which = f"{name}, {given}," if name else given
            raise ValueError(f"{self.spec} turned {which} into {got} of {kind}; wanted uint8 of the same size")
        return result


def spec_of(kind: str, argument: str, options: dict[str, str]) -> str:
    """Write a spec, the same on every machine."""
    return ",".join([f"{kind}:{argument}", *(f"{name}={value}" for name, value in sorted(options.items()))])
