"""A low-light camera: the picture that a sensor would have taken with less light. NumPy and OpenCV only.

    codes x --curve--> D = beta (alpha x)^gamma --f^-1--> light L --mosaic, shot and read noise--> raw
    raw --clip, demosaic--> light --f--> codes

The steps and ranges are those of Lv, Li, Lu, "Attention Guided Low-Light Image Enhancement with a
Large Scale Low-Light Simulation Dataset" (IJCV 2021), with the noise of Guo et al., "Toward
Convolutional Blind Denoising of Real Photographs" (CVPR 2019): var = L sigma_s^2 + sigma_c^2 on the
Bayer mosaic, which makes it correlated in the finished picture, as a camera's is. f, the response
of the camera, is f(L) = L^n / ((1 - u) + u L^n): two numbers that follow each of the 201 measured
curves of Grossberg and Nayar, "Modeling the Space of Camera Response Functions" (TPAMI 2004), with
a mean error of 0.0052. Each such f is monotone and has an exact inverse.

A camera may have more faults than these; all are off unless asked for: banding, fixed pattern and hot pixels
(`imaging.chance`), blur, motion, a lamp and a sensor without colour filters (`imaging.optics`), and few bits of raw.
They are those of Wei et al. (CVPR 2020), EMVA Standard 1288 and Lin et al. (ELVIS, 2025) that can be seen in 8 bits.

`Settings` holds the ranges of all parameters, `Settings.draw` draws one `Shot` from them, and `capture`
takes the picture with that shot. The shot alone, or the seed alone, determines the picture bit for bit.
"""

from __future__ import annotations

import functools
import hashlib
import math
import numbers
import operator
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from yolo_wnlb.imaging.camera_file import names_a_file, read_camera_file
from yolo_wnlb.imaging.chance import banding, fixed_pattern, noise_source, normal_quantiles, words_of
from yolo_wnlb.imaging.optics import blurred, lit_by_lamp, without_colour
from yolo_wnlb.words import suggestion

Span = tuple[float, float]
Crf = str | Span
Transfer = Callable[[np.ndarray], np.ndarray]

CURVE = {"alpha": (0.9, 1.0), "beta": (0.5, 1.0), "gamma": (1.5, 5.0)}
# As bright as before, with white noise of a standard deviation of so many codes: n10 and n20 of Buchholz et al.,
# "DenoiSeg" (ECCV workshop 2020), rounded and clipped to 8 bits as files are.
ADDED_NOISE: dict[str, Any] = {**dict.fromkeys(CURVE, 1), "sigma_s": 0, "crf": "identity", "bayer": "none"}
PRESETS: dict[str, dict[str, Any]] = {
    "mild": {
        "alpha": (0.95, 1),
        "beta": (0.8, 1),
        "gamma": (1.5, 2),
        "sigma_s": (0.005, 0.02),
        "sigma_c": (5e-4, 0.003),
    },
    "moderate": {"beta": (0.6, 0.9), "gamma": (2, 3), "sigma_s": (0.01, 0.04), "sigma_c": (0.001, 0.008)},
    "severe": {"beta": (0.5, 0.8), "gamma": (3, 4), "sigma_s": (0.02, 0.08), "sigma_c": (0.004, 0.02)},
    "extreme": {"beta": (0.5, 0.6), "gamma": (4, 5), "sigma_s": (0.05, 0.16), "sigma_c": (0.01, 0.06)},
    "agllnet": {},
    "lv": {"bayer": "RGGB", "quantize": "truncate"},
    "n10": {**ADDED_NOISE, "sigma_c": round(10 / 255, 6)},
    "n20": {**ADDED_NOISE, "sigma_c": round(20 / 255, 6)},
}
# The paper's first author calls this model `lv` in her later code (github.com/JoanneLin168/ELVIS), after Lv et al., and
# `lin` another one. `lin` was the name here at first, and studies and results hold it.
ALIASES = {"lin": "lv"}
DEFAULT = "agllnet"
CAMERA_VERSION = 1  # rises whenever the same shot of a still picture (frame 0) would give other bytes
DAYLIGHT = 60  # median of the pictures' mean codes, 0 to 255, below which they do not count as bright
MAX_NOISE_SEED = 2**53 - 1  # a JSON number holds it exactly
MAX_FRAME = 2**64 - 1
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
CRF_N, CRF_U = (0.01, 100.0), (-1000.0, 0.999999)  # beyond them f cannot be computed in 64 bits
MAX_CURVES_BYTES = 64 * 2**20
DIGITS = 6  # after the point, of every value that is drawn
STRIP = 32768  # values processed at a time: they stay in the cache of a core, which is three times as fast
MIXTURE = (  # of a = ln n and v = -ln(1 - u): weight, means, standard deviations, correlation
    (0.510, (-0.367, 0.685), (0.132, 0.388), 0.33),  # digital cameras
    (0.413, (0.489, 2.389), (0.353, 1.112), 0.73),  # film, S-shaped
    (0.077, (0.027, -0.019), (0.634, 0.072), -0.57),  # nearly a gamma
)
MIXTURE_BOX = ((-0.8, 1.05), (-0.6, 5.8))  # of a, of v


# ---- what may be drawn, and what was drawn -------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """Ranges that shots are drawn from, uniformly. Make one with `settings`, which checks the values.

    Attributes:
        alpha, beta, gamma: Spans (low, high) of the low-light curve beta (alpha x)^gamma on codes
            x in [0, 1]; 1, 1, 1 leaves the brightness.
        ev: Span of the exposure in stops, 0 or less, instead of the curve: light times 2^ev.
        sigma_s: Span of the shot noise: a white pixel collects 1 / sigma_s^2 photons.
        sigma_c: Span of the read noise, as a share of a white pixel's light.
        crf: The response: "mixture" (drawn as the 201 measured curves are distributed), "digital"
            (its digital cameras only), "srgb", "gamma:2.2", "identity", the pair (n, u), or
            "dorf:FILE" (drawn from your copy of dorfCurves.txt or of CBDNet's 201_CRF_data.mat).
        bayer: "random", one of BAYER, or None: noise in each channel and no mosaic.
        shot_model: "gaussian" (heteroscedastic, as all published code has it) or "poisson".
        order: "sensor" demosaics light and then applies f; "paper" applies f first.
        quantize: "round", or "truncate" codes as the authors' 8-bit code does (three times in the
            curve, once at the end).
        jpeg_quality: Span of the quality of a last JPEG step, or None for none.
        sigma_row, sigma_column: Spans of the banding: the standard deviation of what a frame adds to each row, and
            to each column, as a share of white.
        sigma_fixed: Span of the fixed pattern: the standard deviation of what each site adds to all pictures.
        hot_pixels: Span of the share of sites that add between nothing and white to all pictures.
        camera_seed: Whole number in [0, 2^53) that names one camera: it says which sites are hot.
        bits: Span of the bits that the sensor's converter has, whole numbers; None: no steps but the last one's.
        blur: Span of the standard deviation of a Gaussian blur in front of the sensor, in pixels.
        motion, motion_angle: Spans of the length of a straight motion, in pixels, and of its direction in degrees.
        lamp: Span of the tangent of the angle at which a lamp beside the camera lights the corners; 0: even light.

    bayer may be "mono" too: a sensor without colour filters, as of an infrared camera. It sees the mean of the
    channels, and all channels of its pictures are the same.
    """

    alpha: Span = CURVE["alpha"]
    beta: Span = CURVE["beta"]
    gamma: Span = CURVE["gamma"]
    ev: Span | None = None
    sigma_s: Span = (0.0, 0.16)
    sigma_c: Span = (0.0, 0.06)
    crf: Crf = "mixture"
    bayer: str | None = "random"
    shot_model: Literal["gaussian", "poisson"] = "gaussian"
    order: Literal["sensor", "paper"] = "sensor"
    quantize: Literal["round", "truncate"] = "round"
    jpeg_quality: tuple[int, int] | None = None
    sigma_row: Span = (0.0, 0.0)
    sigma_column: Span = (0.0, 0.0)
    sigma_fixed: Span = (0.0, 0.0)
    hot_pixels: Span = (0.0, 0.0)
    camera_seed: int = 0
    bits: tuple[int, int] | None = None
    blur: Span = (0.0, 0.0)
    motion: Span = (0.0, 0.0)
    motion_angle: Span = (0.0, 180.0)
    lamp: Span = (0.0, 0.0)

    def draw(self, rng: random.Random) -> Shot:
        """Draw one shot. Takes the same number of draws from `rng` whatever the settings are.

        Settings that were added later are drawn from a stream of the shot's own, so that the next shot of `rng` stays
        what it was.
        """
        shares = {name: rng.random() for name in FIRST}
        crf_rng, pattern, noise_seed = random.Random(rng.getrandbits(64)), rng.random(), rng.getrandbits(53)
        own_rng, added = random.Random(noise_seed), [name for name in BOUNDS if name not in FIRST]
        shares.update({name: own_rng.random() for name in added})

        def within(name: str) -> float:
            low, high = getattr(self, name)
            return round(low + (high - low) * shares[name], DIGITS)  # so that the record is exactly what was used

        def whole_within(name: str) -> int | None:
            ends = getattr(self, name)
            return ends and ends[0] + int((ends[1] - ends[0] + 1) * shares[name])

        return Shot(
            **{name: within(name) for name in ("alpha", "beta", "gamma", "sigma_s", "sigma_c")},
            ev=within("ev") if self.ev else 0.0,
            crf=draw_response(self.crf, crf_rng),
            bayer=BAYER[int(4 * pattern)] if self.bayer == "random" else self.bayer,
            shot_model=self.shot_model,
            order=self.order,
            quantize=self.quantize,
            jpeg_quality=whole_within("jpeg_quality"),
            noise_seed=noise_seed,
            **{name: within(name) for name in added if name not in WHOLE},
            bits=whole_within("bits"),
            camera_seed=self.camera_seed,
        )

    def __str__(self) -> str:
        parts = []
        for name, value in asdict(self).items():
            if value is None or (self.ev and name in CURVE) or value == CHOICES.get(name, (None,))[0]:
                continue
            if name in ADDED and value == ADDED[name]:
                continue
            is_span = isinstance(value, tuple) and name != "crf"
            parts.append(f"{name} {'-'.join(f'{v:g}' for v in dict.fromkeys(value)) if is_span else value}")
        return ", ".join(parts)


@dataclass(frozen=True)
class Shot:
    """All parameters of one picture. `asdict` of it can be written as JSON; `Shot(**record)` reads it back.

    Attributes as in `Settings`, but one value each. crf: (n, u), "srgb", or "dorf:FILE#CURVE".
    noise_seed: an integer in [0, 2^53).
    Raises: ValueError: a number is none, or out of the bounds that `Settings` has.
    """

    alpha: float = 1.0
    beta: float = 1.0
    gamma: float = 1.0
    ev: float = 0.0
    sigma_s: float = 0.0
    sigma_c: float = 0.0
    crf: Crf = (1 / 2.2, 0.0)
    bayer: str | None = None
    shot_model: str = "gaussian"
    order: str = "sensor"
    quantize: str = "round"
    jpeg_quality: int | None = None
    noise_seed: int = 0
    sigma_row: float = 0.0
    sigma_column: float = 0.0
    sigma_fixed: float = 0.0
    hot_pixels: float = 0.0
    camera_seed: int = 0
    bits: int | None = None
    blur: float = 0.0
    motion: float = 0.0
    motion_angle: float = 0.0
    lamp: float = 0.0

    def __post_init__(self) -> None:
        for name in BOUNDS:
            if (value := getattr(self, name)) is not None or name not in WHOLE:
                number_within_bounds(name, value, value)
        for name in ("noise_seed", "camera_seed"):
            whole_number(name, getattr(self, name), MAX_NOISE_SEED)


ADDED = {  # settings that came after the first release of the formulas, and their defaults, which change nothing
    field.name: field.default
    for field in fields(Settings)
    if field.name == "camera_seed" or (field.name in BOUNDS and field.name not in FIRST)
}


def without_unused(values: dict[str, Any]) -> dict[str, Any]:
    """Leave out of the attributes of Settings or of a Shot those added later that change nothing.

    Records of before, which have none of them, then are the same as those of now.
    """
    unused = {name for name, default in ADDED.items() if values[name] in (default, 0)}
    if "motion" in unused:
        unused.add("motion_angle")
    return {name: value for name, value in values.items() if name not in unused}


def as_changes(camera: Settings) -> dict[str, Any]:
    """Return settings as plain values that `settings(changes)` turns into the same settings again."""
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(camera).items()}
    return {name: value for name, value in values.items() if camera.ev is None or name not in CURVE}


def settings(preset: Any = DEFAULT, **changes: Any) -> Settings:
    """Check what a user asked for.

    Args:
        preset: The name of a preset, True for the default one, the YAML file of a camera as `yolo-wnlb calibrate`
            writes it, a dict of changes that may hold one of these as "preset", or Settings.
        **changes: Attributes of `Settings`; a number stands for a span of that one value.
    Raises: ValueError: an unknown preset or name, a span upside down or out of bounds, both an
        exposure and a curve. FileNotFoundError: there is no such camera file.
    Example:
        >>> settings("severe", ev=-3).ev
        (-3.0, -3.0)
    """
    if isinstance(preset, Settings):
        base = asdict(preset)
    else:
        if isinstance(preset, dict):
            changes = {**preset, **changes}
            preset = changes.pop("preset", DEFAULT)
        preset = DEFAULT if preset is True else preset
        known = [*PRESETS, *ALIASES]
        if names_a_file(preset):
            base = of_file(preset)
        elif not isinstance(preset, str) or preset not in known:
            raise ValueError(
                f"no low-light preset {preset!r}{suggestion(preset, known)}; choose from {', '.join(PRESETS)}, or give "
                "the .yaml file of a camera"
            )
        else:
            base = dict(PRESETS[ALIASES.get(preset, preset)])
    names = [field.name for field in fields(Settings)]
    if unknown := [name for name in changes if name not in names]:
        name = unknown[0]
        raise ValueError(
            f"no low-light setting {name!r}{suggestion(name, names)}; choose from preset, {', '.join(names)}"
        )
    if {**base, **changes}.get("ev") is not None:
        if clash := [name for name in CURVE if name in changes]:
            raise ValueError(f"ev= takes the place of the curve; leave out either ev or {', '.join(clash)}")
        changes = {**changes, **dict.fromkeys(CURVE, 1)}
    values = {**base, **changes}
    return Settings(**{name: check(name, value) for name, value in values.items()})


def of_file(file: str | Path) -> dict[str, Any]:
    """Return the checked settings in the file of a camera, those of the curve only if it names no exposure."""
    try:
        camera = settings(Settings(), **read_camera_file(file))
    except ValueError as error:
        raise ValueError(str(error) if str(file) in str(error) else f"{file}: {error}") from error
    return asdict(camera)


def picture_rng(seed: int, key: str) -> random.Random:
    """Return the source of randomness of one picture. It depends on the seed and on `key`, its path in the data set."""
    seed = whole_number("seed", seed, least=None)
    return random.Random(
        int.from_bytes(hashlib.blake2b(f"{seed}:{key}".encode(errors="surrogateescape"), digest_size=8).digest(), "big")
    )


def check(name: str, value: Any) -> Any:
    """Return one setting in its normal form, or raise a ValueError that says what is wrong with it."""
    if name in BOUNDS:
        if value is None and (name == "ev" or name in WHOLE):
            return None
        span = tuple(value) if isinstance(value, (list, tuple)) else (value, value)
        if len(span) != 2:
            raise ValueError(f"{name} is {value!r}; wanted a number, or low and high")
        low, high = (number_within_bounds(name, end, value) for end in span)
        if low > high:
            raise ValueError(f"{name} is {value!r}, upside down; write the lower one first: ({span[1]}, {span[0]})")
        return low, high
    if name == "camera_seed":
        return whole_number(name, value, MAX_NOISE_SEED)
    if name == "crf":
        named_response(value)
        return tuple(map(float, value)) if isinstance(value, (list, tuple)) else value
    allowed = ("none", "random", *BAYER, MONO) if name == "bayer" else CHOICES[name]
    if value not in allowed and not (name == "bayer" and value is None):
        raise ValueError(f"{name} is {value!r}; choose from {', '.join(allowed)}")
    return None if value == "none" else value


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


# ---- the camera's response f ---------------------------------------------------------------------


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


# ---- taking the picture --------------------------------------------------------------------------


def capture(image: np.ndarray, shot: Shot, *, channel_order: str = "bgr", frame: int = 0) -> np.ndarray:
    """Take the picture again in the dark.

    Args:
        image: uint8, uint16, or float in [0, 1]; (H, W), (H, W, 1) or (H, W, 3), any H and W from
            1 on. Grey pictures have no mosaic. Floats are worked on as 16-bit codes: a value beside
            [0, 1] by rounding alone (see `to_codes`) is clipped.
        shot: All parameters.
        channel_order: "bgr" or "rgb": tells which sites of the mosaic are red.
        frame: Number of the frame in a video, in [0, 2^64): each frame has its own noise, all have one
            darkness. Two different pairs of noise_seed and frame never share their noise.
    Returns: A new array of the same shape and type (floats as float32).
    Raises: ValueError: another type, another number of channels, or floats outside [0, 1].
    Example:
        >>> grey = np.full((4, 6, 3), 128, np.uint8)
        >>> capture(grey, settings("severe").draw(random.Random(0))).shape
        (4, 6, 3)
    """
    codes = to_codes(image)
    planes = codes.reshape(codes.shape[:2]) if codes.ndim == 3 and codes.shape[2] == 1 else codes
    if channel_order not in ("bgr", "rgb"):
        raise ValueError(f"channel_order is {channel_order!r}; choose from bgr, rgb")
    frame = whole_number("frame", frame, MAX_FRAME)
    if shot.jpeg_quality and codes.dtype != np.uint8:
        raise ValueError(f"the JPEG step has 8 bits, the picture is {image.dtype}; leave out jpeg_quality")
    white = np.iinfo(codes.dtype).max
    light = light_of_codes(shot, white)
    if shot.lamp or shot.blur or shot.motion or shot.bayer == MONO:
        planes, light = through_lens(planes, light, shot)
    if planes.ndim == 2 or shot.bayer is None:
        raw, tone = sense(planes, light, white, shot, frame)
        dark = look_up(raw, tone)
    else:
        dark = through_mosaic(planes, light, white, shot, channel_order, frame)
    if dark.size < codes.size:  # of a sensor without colours
        dark = cv2.merge([dark] * 3)
    if shot.jpeg_quality:
        dark = jpeg(dark, shot.jpeg_quality, channel_order)
    dark = dark.reshape(codes.shape)
    return dark if image.dtype == codes.dtype else dark.astype(np.float32) / 65535


def clean(image: np.ndarray, shot: Shot, *, channel_order: str = "bgr") -> np.ndarray:
    """Take the same picture without noise: it is still darkened, demosaiced and quantised."""
    faults = ("sigma_s", "sigma_c", "sigma_row", "sigma_column", "sigma_fixed", "hot_pixels")
    none: dict[str, Any] = dict.fromkeys(faults, 0.0)
    return capture(image, replace(shot, **none), channel_order=channel_order)


def sigma_map(image: np.ndarray, shot: Shot) -> np.ndarray:
    """Return the standard deviation of shot and read noise at each value, float32, the shape of `image`.

    In units of a white pixel's light, before clipping and demosaicing: sqrt(L sigma_s^2 + sigma_c^2).
    """
    codes = to_codes(image)
    light = light_of_codes(shot, np.iinfo(codes.dtype).max)
    return look_up(codes, noise_of_light(light, shot).astype(np.float32)).reshape(codes.shape)


def darken(
    image: np.ndarray, preset: Any = DEFAULT, *, seed: int = 0, channel_order: str = "bgr", **changes: Any
) -> np.ndarray:
    """Draw a shot and take the picture: `capture(image, settings(preset, **changes).draw(random.Random(seed)))`.

    seed: a whole number of 0 or more (for Python -1 and 1, or 2 and 2.0, would be one seed).

    Example:
        >>> bool(darken(np.full((2, 3, 3), 200, np.uint8), "severe", seed=1, crf="srgb").mean() < 100)
        True
    """
    rng = random.Random(whole_number("seed", seed))
    return capture(image, settings(preset, **changes).draw(rng), channel_order=channel_order)


def to_codes(image: np.ndarray) -> np.ndarray:
    """Return a checked picture as uint8 or uint16 codes; floats in [0, 1] become uint16.

    Resizing and normalising leave floats such as 1.0000001. A float that is outside [0, 1] by less than half
    a 16-bit code, or by four steps of its own type, is clipped; one further outside is refused.
    """
    shape = getattr(image, "shape", None)
    if shape is None or len(shape) not in (2, 3) or 0 in shape or (len(shape) == 3 and shape[2] not in (1, 3)):
        raise ValueError(f"the picture has shape {shape}; wanted (H, W), (H, W, 1) or (H, W, 3): drop an alpha channel")
    if image.dtype in (np.uint8, np.uint16):
        return np.ascontiguousarray(image)
    if image.dtype.kind != "f":
        raise ValueError(f"the picture is {image.dtype}; wanted uint8, uint16, or float in [0, 1]")
    low, high = float(image.min()), float(image.max())
    slack = max(0.5 / 65535, 4 * float(np.finfo(image.dtype).eps))
    if not -slack <= low <= high <= 1 + slack:
        raise ValueError(f"the float picture has values from {low:g} to {high:g}; wanted 0 to 1: divide by its white")
    return np.rint(np.clip(np.asarray(image, np.float64), 0, 1) * 65535).astype(np.uint16)


def light_of_codes(shot: Shot, white: int) -> np.ndarray:
    """Light in [0, 1] behind each code 0...white after darkening, float64."""
    codes = np.arange(white + 1, dtype=np.float64)
    if shot.quantize == "truncate":
        codes = np.floor(shot.alpha * codes)
        codes = np.floor(white * np.power(codes / white, shot.gamma))
        dark = np.floor(shot.beta * codes) / white
    else:
        dark = shot.beta * np.power(shot.alpha * codes / white, shot.gamma)
    return response(shot.crf)[1](dark) * 2.0**shot.ev


def noise_of_light(light: np.ndarray, shot: Shot) -> np.ndarray:
    """Standard deviation of shot and read noise (Guo et al. 2019, section 3.1)."""
    return np.sqrt(light * shot.sigma_s**2 + shot.sigma_c**2)


def through_lens(codes: np.ndarray, light: np.ndarray, shot: Shot) -> tuple[np.ndarray, np.ndarray]:
    """Return codes of 16 bits for the light that arrives at the sensor, and the light behind each of them."""
    top = max(float(light.max()), 1e-12)
    plane = look_up(codes, (light * (65535 / top)).astype(np.float32))
    if plane.ndim == 3 and shot.bayer == MONO:
        plane = without_colour(plane)
    if shot.lamp:
        plane = lit_by_lamp(plane, shot.lamp)
    plane = blurred(plane, shot.blur, shot.motion, shot.motion_angle)
    return np.rint(np.clip(plane, 0, 65535)).astype(np.uint16), np.arange(65536) * (top / 65535)


def sense(codes: np.ndarray, light: np.ndarray, white: int, shot: Shot, frame: int) -> tuple[np.ndarray, np.ndarray]:
    """Expose a sensor to the light behind the codes, light[codes].

    white: the largest code of the finished picture.
    Returns: The raw values, uint16, the shape of `codes`, clipped at black and white, with a gain
        that spreads them over 16 bits; and the tone curve: the finished code of each raw value,
        65536 entries.
    """
    noise = noise_of_light(light, shot)
    top = float((light + 6 * noise).max())
    added = offsets(codes.shape, shot, frame)
    if added is not None:
        top += float(added.max())
    photons = shot.shot_model == "poisson" and shot.sigma_s > 0
    if photons:
        top += 12 * shot.sigma_s**2  # where few photons come, many are further off than six sigma
    gain = 65535 / min(1.0, max(top, 1e-6))

    mean, spread = (light * gain).astype(np.float32), (noise * gain).astype(np.float32)
    bits = noise_source(shot.noise_seed, frame)
    words = words_of(bits, codes.size).reshape(codes.shape)
    poisson = np.random.Generator(bits).poisson
    raw = np.empty(codes.shape, np.uint16)
    rows = max(1, STRIP * len(codes) // codes.size)
    for strip in (slice(top, top + rows) for top in range(0, len(codes), rows)):
        signal, normal = look_up(codes[strip], mean), look_up(words[strip], normal_quantiles())
        if photons:
            step = gain * shot.sigma_s**2
            signal = (poisson(signal / step) * step).astype(np.float32)
            deviation: Any = normal * np.float32(gain * shot.sigma_c)
        else:
            deviation = cv2.multiply(look_up(codes[strip], spread), normal)
        if added is not None:
            deviation = deviation + np.float32(gain) * added[strip]
        cv2.add(signal, deviation, dst=raw[strip], dtype=cv2.CV_16U)  # rounds half to even, and clips
    if shot.bits:
        raw = look_up(raw, steps(gain, shot.bits))
    return raw, tone_curve(shot, gain, white)


def offsets(shape: Sequence[int], shot: Shot, frame: int) -> np.ndarray | None:
    """Return what is added by place, (H, W) or (H, W, 1) as `shape` has two or three sides; None if nothing is."""
    height, width = shape[:2]
    added: np.ndarray | None = None
    if shot.sigma_row or shot.sigma_column:
        added = np.add(*banding(height, width, shot.sigma_row, shot.sigma_column, shot.noise_seed, frame))
    if shot.sigma_fixed or shot.hot_pixels:
        fixed = fixed_pattern(height, width, shot.sigma_fixed, shot.hot_pixels, shot.camera_seed)
        added = fixed if added is None else added + fixed
    return added if added is None or len(shape) == 2 else added[..., None]


def steps(gain: float, bits: int) -> np.ndarray:
    """Raw value after a converter with so many bits for black to white: 65536 entries (ELD's quantisation noise)."""
    step = gain / (2**bits - 1)
    return np.clip(np.rint(np.rint(np.arange(65536) / step) * step), 0, 65535).astype(np.uint16)


def tone_curve(shot: Shot, gain: float, white: int) -> np.ndarray:
    """Finished code of each raw value: f, and rounding (or truncation) to 0...white."""
    step = 1.0 if shot.quantize == "truncate" else 0.5
    edges = response(shot.crf)[1]((np.arange(white) + step) / white)  # light where the next code begins
    begins = np.clip(np.ceil(gain * edges), 0, 65536).astype(np.int64)
    kind = np.uint8 if white == 255 else np.uint16
    return np.repeat(np.arange(white + 1, dtype=kind), np.diff(begins, prepend=0, append=65536))


def through_mosaic(
    image: np.ndarray, light: np.ndarray, white: int, shot: Shot, channel_order: str, frame: int
) -> np.ndarray:
    """Take a colour picture through the colour filters: one value a site, the others interpolated."""
    if shot.bayer not in BAYER:
        raise ValueError(f"bayer is {shot.bayer!r}; a shot has None or one of {', '.join((*BAYER, MONO))}")
    height, width = image.shape[:2]
    below, right = (max(side % 2, 4 - side) for side in (height, width))  # OpenCV makes sides below 3 black
    if below or right:
        image = cv2.copyMakeBorder(image, 0, below, 0, right, cv2.BORDER_REFLECT_101)
    sites = [channel_order.upper().index(colour) for colour in shot.bayer]  # channel at 00 01 10 11
    raw, tone = sense(mosaic(image, sites), light, white, shot, frame)
    if shot.order == "paper":
        raw = look_up(raw, tone)
    name = {"0112": "BG", "1021": "GB", "1201": "GR", "2110": "RG"}["".join(map(str, sites))]
    dark = np.empty(image.shape, tone.dtype)
    rows = max(2, STRIP // raw.shape[1] // 2 * 2)
    for top in range(0, len(raw), rows):
        above = min(2, top)  # what a strip sees of its neighbours
        colour = cv2.demosaicing(raw[top - above : top + rows + 2], getattr(cv2, f"COLOR_Bayer{name}2RGB"))
        colour = colour[above : above + rows]
        dark[top : top + rows] = look_up(colour, tone) if shot.order == "sensor" else colour
    return np.ascontiguousarray(dark[:height, :width])


def mosaic(image: np.ndarray, sites: Sequence[int]) -> np.ndarray:
    """Keep the one channel that each site sees. image: (H, W, 3), H and W even -> (H, W)."""
    height, width = image.shape[:2]
    plane = np.empty((height, width), image.dtype)
    for row in (0, 1):
        pairs = image[row::2].reshape(-1, width // 2, 6)
        kept = np.empty((height // 2, width // 2, 2), image.dtype)
        cv2.mixChannels([pairs], [kept], [sites[2 * row], 0, 3 + sites[2 * row + 1], 1])
        plane[row::2] = kept.reshape(-1, width)
    return plane


def jpeg(image: np.ndarray, quality: int, channel_order: str) -> np.ndarray:
    """Compress and decompress, with colours at half resolution as cameras store them."""
    flip = image.ndim == 3 and channel_order == "rgb"
    stored = cv2.imencode(".jpg", image[..., ::-1] if flip else image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    opened: Any = cv2.imdecode(stored, cv2.IMREAD_COLOR if image.ndim == 3 else cv2.IMREAD_GRAYSCALE)
    return np.ascontiguousarray(opened[..., ::-1]) if flip else opened


@functools.cache
def has_wide_lut() -> bool:
    """Tell whether cv2.LUT takes 16-bit codes (OpenCV 4.13 and later); NumPy does it otherwise."""
    try:
        cv2.LUT(np.zeros((1, 1), np.uint16), np.zeros(65536, np.float32))
    except cv2.error:
        return False
    return True


def look_up(codes: np.ndarray, table: np.ndarray) -> np.ndarray:
    """table[codes], the shape of `codes`."""
    if codes.dtype == np.uint8 or has_wide_lut():
        return cv2.LUT(codes, table).reshape(codes.shape)
    return np.take(table, codes, mode="wrap")
