"""What each setting of the low-light camera may be: its bounds, its choices, and the numbers that are refused."""

from __future__ import annotations

import numbers
import operator
from typing import Any

import numpy as np

MAX_NOISE_SEED = 2**53 - 1  # a JSON number holds it exactly
BAYER = ("RGGB", "BGGR", "GRBG", "GBRG")
MONO = "mono"
CHOICES = {"shot_model": ("gaussian", "poisson"), "order": ("sensor", "paper"), "quantize": ("round", "truncate")}
BOUNDS = {  # least and largest value of each span
    "alpha": (0.0, 1.0),
    "beta": (0.0, 1.0),
    "gamma": (0.01, 20.0),
    "ev": (-20.0, 0.0),
    "sigma_s": (0.0, 1.0),
    "sigma_c": (0.0, 1.0),
    "jpeg_quality": (1, 100),
    "sigma_row": (0.0, 1.0),
    "sigma_column": (0.0, 1.0),
    "sigma_fixed": (0.0, 1.0),
    "hot_pixels": (0.0, 0.5),
    "bits": (1, 16),
    "blur": (0.0, 100.0),
    "motion": (0.0, 500.0),
    "motion_angle": (0.0, 180.0),
    "lamp": (0.0, 10.0),
}
FIRST = ("alpha", "beta", "gamma", "ev", "sigma_s", "sigma_c", "jpeg_quality")  # drawn from the stream itself
WHOLE = ("jpeg_quality", "bits")  # spans of whole numbers, or None
DIGITS = 6  # after the point, of every value that is drawn


def number_within_bounds(name: str, number: Any, value: Any) -> int | float:
    """Return a number of Python's own type within BOUNDS[name], or raise a ValueError that shows all of `value`."""
    kind: Any = numbers.Integral if name in WHOLE else numbers.Real
    if isinstance(number, bool) or not isinstance(number, kind):
        whole = "whole " if kind is numbers.Integral else ""
        raise ValueError(f"{name} is {value!r}; wanted a {whole}number, or low and high")
    least, largest = BOUNDS[name]
    if not least <= number <= largest:
        raise ValueError(f"{name} is {value!r}; wanted values in [{least:g}, {largest:g}]")
    if name in ("alpha", "beta") and round(float(number), DIGITS) == 0:
        raise ValueError(f"{name} is {value!r}; at 0 nothing is left of the picture")
    return int(number) if kind is numbers.Integral else float(number)


def whole_number(name: str, value: Any, largest: int | None = None, *, least: int | None = 0) -> int:
    """Return a whole number of any integer type as int; a bool or 5.0 is refused, as it could mean something else."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if isinstance(value, (bool, np.bool_)) or number is None:
        raise ValueError(f"{name} is {value!r}; wanted a whole number")
    if (least is not None and number < least) or (largest is not None and number > largest):
        wanted = f"in [{least}, {largest}]" if largest is not None else f"of {least} or more"
        raise ValueError(f"{name} is {value!r}; wanted a whole number {wanted}")
    return number
