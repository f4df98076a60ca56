"""The response of a camera, f: from the light that a site collects to the code that is written, and back.

f(L) = L^n / ((1 - u) + u L^n): two numbers that follow each of the 201 measured curves of Grossberg and Nayar,
"Modeling the Space of Camera Response Functions" (TPAMI 2004), with a mean error of 0.0052. Each such f is monotone
and has an exact inverse.
"""

from __future__ import annotations

import functools
import math
import numbers
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Crf = str | tuple[float, float]
Transfer = Callable[[np.ndarray], np.ndarray]
CRF_N, CRF_U = (0.01, 100.0), (-1000.0, 0.999999)  # beyond them f cannot be computed in 64 bits
MAX_CURVES_BYTES = 64 * 2**20
MIXTURE = (  # of a = ln n and v = -ln(1 - u): weight, means, standard deviations, correlation
    (0.510, (-0.367, 0.685), (0.132, 0.388), 0.33),  # digital cameras
    (0.413, (0.489, 2.389), (0.353, 1.112), 0.73),  # film, S-shaped
    (0.077, (0.027, -0.019), (0.634, 0.072), -0.57),  # nearly a gamma
)
MIXTURE_BOX = ((-0.8, 1.05), (-0.6, 5.8))  # of a, of v


def named_response(crf: Any) -> Crf | None:
    """Return (n, u), "srgb" or "dorf:FILE#CURVE" if `crf` names one response, None if one is to be drawn.

    Raises: ValueError: there is no such response. OSError: its file cannot be read.
    """
    if isinstance(crf, (list, tuple)):
        are_numbers = len(crf) == 2 and all(isinstance(v, numbers.Real) and not isinstance(v, bool) for v in crf)
        if are_numbers and all(low <= v <= high for v, (low, high) in zip(crf, (CRF_N, CRF_U))):
            return float(crf[0]), float(crf[1])
    elif crf in ("mixture", "digital"):
        return None
    elif crf == "srgb":
        return "srgb"
    elif crf == "identity":
        return 1.0, 0.0
    elif isinstance(crf, str) and crf.startswith("dorf:"):
        curves = measured_curves(crf[5:].partition("#")[0])
        curve = crf.partition("#")[2]
        if curve and curve not in curves:
            raise ValueError(f"crf is {crf!r}; the file has no curve {curve!r}, but {', '.join(list(curves)[:3])}, ...")
        return crf if curve else None
    elif isinstance(crf, str) and crf.startswith("gamma:"):
        try:
            if 1 / CRF_N[1] <= (exponent := float(crf[6:])) <= 1 / CRF_N[0]:
                return 1 / exponent, 0.0
        except ValueError:
            pass
    raise ValueError(
        f"crf is {crf!r}; wanted mixture, digital, srgb, gamma:2.2, identity, dorf:FILE, or the pair (n, u) with n in "
        f"[{CRF_N[0]:g}, {CRF_N[1]:g}] and u in [{CRF_U[0]:g}, {CRF_U[1]:g}]"
    )


def draw_response(crf: Crf, rng: random.Random) -> Crf:
    """Draw the response of one shot."""
    if (known := named_response(crf)) is not None:
        return known
    if str(crf).startswith("dorf:"):
        return f"{crf}#{rng.choice(list(measured_curves(str(crf)[5:])))}"
    while True:
        components = MIXTURE[:1] if crf == "digital" else MIXTURE
        _, mean, sd, rho = rng.choices(components, [component[0] for component in components])[0]
        first, second = rng.gauss(0, 1), rng.gauss(0, 1)
        a = mean[0] + sd[0] * first
        v = mean[1] + sd[1] * (rho * first + math.sqrt(1 - rho * rho) * second)
        if all(low <= value <= high for value, (low, high) in zip((a, v), MIXTURE_BOX)):
            return round(math.exp(a), 6), round(1 - math.exp(-v), 6)


def response(crf: Crf) -> tuple[Transfer, Transfer]:
    """Return f, from light to codes, and its inverse; both on float64 arrays in [0, 1]."""
    if crf == "srgb":  # IEC 61966-2-1
        return (
            lambda x: np.where(x <= 0.0031308, 12.92 * x, 1.055 * np.power(x, 1 / 2.4) - 0.055),
            lambda y: np.where(y <= 0.04045, y / 12.92, np.power((y + 0.055) / 1.055, 2.4)),
        )
    if isinstance(crf, str):
        if (known := named_response(crf)) != crf:
            if known is None:
                raise ValueError(f"crf is {crf!r}, which stands for many responses; draw a shot from Settings first")
            return response(known)
        path, _, name = crf[5:].partition("#")
        light, codes = measured_curves(path)[name]
        return lambda x: np.interp(x, light, codes), lambda y: np.interp(y, codes, light)
    n, u = crf

    def f(x: np.ndarray) -> np.ndarray:
        power = np.power(x, n)
        return power / ((1 - u) + u * power)

    return f, lambda y: np.power(y * (1 - u) / (1 - u * y), 1 / n)


def measured_curves(path: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Read the database of response functions: name -> (light, codes), float64, both increasing.

    The file is dorfCurves.txt (Columbia CAVE: six lines a curve: name, kind, "I =", values,
    "B =", values) or a MATLAB file with I and B (201, 1024). Neither ships with this package.
    Raises: FileNotFoundError: it is not there. ValueError: it holds something else.
    """
    file = Path(path).resolve()
    if not file.is_file():
        raise FileNotFoundError(
            f"no file {path!r} for crf=dorf:FILE; dorfCurves.txt is in Columbia CAVE's Database of Response Functions"
        )
    found = file.stat()
    try:
        return read_curves(file, found.st_size, found.st_mtime_ns)
    except (ImportError, OSError):
        raise
    except Exception as error:  # SciPy has some of its own
        raise ValueError(f"{path} holds no response curves as dorfCurves.txt does: {error}") from error


@functools.lru_cache(8)
def read_curves(file: Path, size: int, modified_ns: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Read and check the curves of a file; its size and time are arguments so that a changed file is read anew."""
    if size > MAX_CURVES_BYTES:
        raise ValueError(f"it has {size / 2**20:.0f} MiB, dorfCurves.txt has 5")
    if file.suffix == ".mat":
        from scipy.io import loadmat

        data = loadmat(file)
        pairs = {str(i): (x, y) for i, (x, y) in enumerate(zip(data["I"], data["B"]))}
    else:
        # Only names of curves may hold letters that are not ASCII; a number that does is refused below
        lines = [line.strip() for line in file.read_text(encoding="utf-8", errors="replace").splitlines()]
        lines = [line for line in lines if line]
        pairs = {}
        for start in range(0, len(lines), 6):
            name, _, i_mark, i_values, b_mark, b_values = lines[start : start + 6]
            if not (i_mark.startswith("I") and b_mark.startswith("B")):
                raise ValueError(f"line {start + 3} is {i_mark[:20]!r}")
            pairs[name] = np.array(i_values.split(), float), np.array(b_values.split(), float)
    curves = {}
    for name, pair in pairs.items():
        light, codes = (np.asarray(values, np.float64).ravel() for values in pair)
        rises = light.shape == codes.shape and np.all(np.diff(light) > 0) and codes.min() < codes.max()
        if not rises or not all(0 <= v.min() <= v.max() <= 1 for v in (light, codes)):
            raise ValueError(f"curve {name}: wanted as many codes as lights, both rising from 0 to 1")
        rising = np.r_[True, np.diff(np.maximum.accumulate(codes)) > 0]  # flat steps have no inverse
        curves[name] = (light[rising], codes[rising])
    if not curves:
        raise ValueError("it is empty")
    return curves
