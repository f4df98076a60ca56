"""The tone curve that makes 8 bits of a picture with 10 to 16: black level, white balance, exposure, response.

    codes of the file --balance--> --(code - black) / (white - black), clipped--> level --response--> 0 to 255

A number that is given is the same for all pictures. Black or white that is not given is measured in each picture, as a
percentile of its codes: such a curve needs no knowledge of the camera, uses all 256 codes of every picture, and is the
same in training and deployment, but it takes away how bright a scene was, and it may flicker from frame to frame.
docs/sixteen-bits.md says which of the two to choose. NumPy and OpenCV only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from yolo_wnlb.imaging.response import named_response, response
from yolo_wnlb.imaging.tables import look_up
from yolo_wnlb.reading import read_yaml
from yolo_wnlb.words import suggestion

WHITE = 65535  # the largest code of 16 bits
HIGH_BYTE = "high-byte"  # a response: code >> 8, which is how Ultralytics reads 16 bits
LOW, HIGH = 0.1, 99.5  # percentiles of the codes of a picture that become black and white


@dataclass(frozen=True)
class Curve:
    """How a picture of more than 8 bits becomes one of 8; `read_curve` makes and checks one.

    Attributes:
        black: Code of the file that becomes 0. None: the percentile `low` of the codes of each picture. The codes of a
            RAW file are those of its light in 16 bits, from the black level to the saturation of the camera.
        white: Code that becomes 255, after the balance. None: the percentile `high`.
        low, high: Percentiles in [0, 100], of all channels together.
        balance: Factors of red, green and blue, each above 0. None: of RAW files the camera's own, of others 1.
        response: From light to codes: "srgb", "gamma:2.2", "identity", the pair n, u of `imaging.response`, or
            "high-byte". None: "srgb" for RAW files, whose codes are light; "identity" for others, whose codes are
            taken as made for display.
    """

    black: int | None = None
    white: int | None = None
    low: float = LOW
    high: float = HIGH
    balance: tuple[float, float, float] | None = None
    response: str | tuple[float, float] | None = None

    def __str__(self) -> str:
        """Say in a few words what the curve does."""
        if self == CURVES[HIGH_BYTE]:
            return "the upper 8 bits of each code"
        black = f"the {self.low:g} percentile of each picture" if self.black is None else f"code {self.black}"
        white = f"the {self.high:g} percentile of each picture" if self.white is None else f"code {self.white}"
        parts = [f"black is {black}", f"white is {white}"]
        if self.balance:
            parts.append("balance {:g}, {:g}, {:g}".format(*self.balance))
        parts.append(f"response {self.response or 'srgb for RAW, identity for others'}")
        return ", ".join(parts)


CURVES = {"auto": Curve(), HIGH_BYTE: Curve(black=0, white=WHITE, response=HIGH_BYTE)}
FIELDS = tuple(field.name for field in fields(Curve))


# ---- what stands behind curve= -------------------------------------------------------------------


def read_curve(value: Any) -> Curve:
    """Read what stands behind curve=.

    Args:
        value: "auto", "high-byte", the .yaml file of a curve, a mapping of attributes of `Curve`, or a `Curve`.
    Raises: ValueError: something in it is unknown or out of bounds. FileNotFoundError: there is no such file.
    """
    if isinstance(value, Curve):
        value = asdict(value)
    if isinstance(value, (str, Path)) and str(value) in CURVES:
        return CURVES[str(value)]
    where = "curve"
    if isinstance(value, (str, Path)) and Path(value).suffix.lower() in (".yaml", ".yml"):
        where, value = str(value), read_curve_file(value)
    if not isinstance(value, Mapping):
        raise ValueError(
            f"curve is {value!r}; wanted auto, high-byte, a .yaml that 'yolo-wnlb curve' wrote, or settings "
            "{'black': 256, 'white': 4095, 'response': 'srgb'}"
        )
    if unknown := [key for key in value if key not in FIELDS]:
        raise ValueError(
            f"{where} has no setting {unknown[0]!r}{suggestion(unknown[0], FIELDS)}; choose from {', '.join(FIELDS)}"
        )
    given = {key: found for key, found in value.items() if found is not None}
    checked: dict[str, Any] = {key: CHECKS[key](f"{where}: {key}", found) for key, found in given.items()}
    curve = Curve(**checked)
    if curve.black is not None and curve.white is not None and curve.black >= curve.white:
        raise ValueError(f"{where}: black is {curve.black} and white {curve.white}; white has to be the larger code")
    if curve.low >= curve.high:
        raise ValueError(f"{where}: low is {curve.low:g} and high {curve.high:g}; high has to be the larger percentile")
    if curve.response == HIGH_BYTE and curve != CURVES[HIGH_BYTE]:
        raise ValueError(f"{where}: the response high-byte has no other settings; write curve=high-byte")
    return curve


def read_curve_file(file: str | Path) -> Any:
    """Return what stands below `curve:` in a YAML file.

    Raises: FileNotFoundError: it is not there. ValueError: it is no YAML, or has no mapping of that name.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(f"there is no curve file {str(file)!r}; yolo-wnlb curve writes one")
    content = read_yaml(file)
    if not isinstance(content, dict) or not isinstance(content.get("curve"), dict):
        raise ValueError(f"{file} is no file of a curve: it has no mapping 'curve', as yolo-wnlb curve writes it")
    return content["curve"]


def as_settings(curve: Curve) -> dict[str, Any]:
    """Return a curve as a mapping of plain numbers, texts and lists, for checkpoints, manifests and metadata."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(curve).items()}


def check_code(name: str, value: Any) -> int:
    """Return a code of 16 bits."""
    if type(value) is not int or not 0 <= value <= WHITE:
        raise ValueError(f"{name} is {value!r}; wanted a code of the file, a whole number from 0 to {WHITE}")
    return int(value)


def check_percentile(name: str, value: Any) -> float:
    """Return a percentile."""
    if type(value) not in (int, float) or not 0 <= value <= 100:
        raise ValueError(f"{name} is {value!r}; wanted a percentile from 0 to 100")
    return float(value)


def check_balance(name: str, value: Any) -> tuple[float, float, float]:
    """Return the factors of red, green and blue."""
    if isinstance(value, (list, tuple)) and len(value) == 3:
        red, green, blue = value
        if all(type(v) in (int, float) and 0 < v < math.inf for v in value):
            return float(red), float(green), float(blue)
    raise ValueError(f"{name} is {value!r}; wanted factors of red, green and blue above 0, such as [1.9, 1, 1.6]")


def check_response(name: str, value: Any) -> str | tuple[float, float]:
    """Return a response as it is recorded."""
    fixed = value in ("srgb", "identity", HIGH_BYTE) if isinstance(value, str) else isinstance(value, (list, tuple))
    if not fixed and not (isinstance(value, str) and value.startswith("gamma:")):
        raise ValueError(f"{name} is {value!r}; wanted srgb, identity, gamma:2.2, or a pair n, u")
    if value != HIGH_BYTE:
        try:
            named_response(value)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return value if isinstance(value, str) else (float(value[0]), float(value[1]))


CHECKS = {
    "black": check_code,
    "white": check_code,
    "low": check_percentile,
    "high": check_percentile,
    "balance": check_balance,
    "response": check_response,
}


# ---- the curve itself ----------------------------------------------------------------------------


def develop(
    picture: np.ndarray, curve: Curve, *, is_light: bool = False, bits: int = 8, has_alpha: bool = False
) -> tuple[np.ndarray, dict[str, int]]:
    """Bring the codes of a picture through a curve.

    Args:
        picture: uint16, (H, W) or (H, W, C); BGR if C is 3.
        curve: Which one.
        is_light: The codes are proportional to light, and balanced already, as those made from a RAW file are.
        bits: 8 or 16 of the result.
        has_alpha: The last channel is no light: black and white are measured in the others.
    Returns: uint8 or uint16, the shape of the picture; and the codes that became black and white.
    """
    if curve.balance and not is_light and picture.ndim == 3 and picture.shape[2] == 3:
        picture = balanced(picture, curve)
    black, white = end_points(picture[..., :-1] if has_alpha else picture, curve)
    chosen = curve.response or ("srgb" if is_light else "identity")
    return look_up(picture, table(black, white, chosen, bits)), {"black": black, "white": white}


def balanced(picture: np.ndarray, curve: Curve) -> np.ndarray:
    """Multiply what lies above black by the factors of the balance. picture: uint16 (H, W, 3), BGR."""
    assert curve.balance
    black = end_points(picture, curve)[0]
    above = np.arange(WHITE + 1) - float(black)
    tables = [np.clip(np.rint(black + above * factor), 0, WHITE).astype(np.uint16) for factor in curve.balance[::-1]]
    return cv2.merge([look_up(plane, each) for plane, each in zip(cv2.split(picture), tables)])


def in_grey(picture: np.ndarray, curve: Curve, is_light: bool = False) -> np.ndarray:
    """Return colours in grey, balanced before. picture: uint16 (H, W, 3), BGR; is_light: see `develop`."""
    picture = balanced(picture, curve) if curve.balance and not is_light else picture
    return cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)


def end_points(picture: np.ndarray, curve: Curve) -> tuple[int, int]:
    """Return the codes of a picture that become black and white.

    A picture whose codes are all the same has no span of its own: it is taken from 0 to the largest code.
    """
    black, white = curve.black, curve.white
    if black is None or white is None:
        samples = np.ascontiguousarray(picture).reshape(-1, 1)
        count = np.cumsum(cv2.calcHist([samples], [0], None, [WHITE + 1], [0, WHITE + 1]).ravel(), dtype=np.float64)
        ranks = np.array([curve.low, curve.high]) / 100 * (len(samples) - 1)
        low, high = map(int, np.searchsorted(count, ranks, "right"))
        black, white = low if black is None else black, high if white is None else white
    if black < white:
        return black, white
    return min(curve.black or 0, WHITE - 1), curve.white or WHITE


@lru_cache(64)
def table(black: int, white: int, chosen: str | tuple[float, float], bits: int) -> np.ndarray:
    """Return the code of 8 or 16 bits that each of the 65536 codes becomes."""
    codes = np.arange(WHITE + 1)
    kind = np.uint8 if bits == 8 else np.uint16
    if chosen == HIGH_BYTE:
        return (codes >> (16 - bits)).astype(kind)
    level = np.clip((codes - black) / (white - black), 0, 1)
    return np.rint(response(chosen)[0](level) * np.iinfo(kind).max).astype(kind)
