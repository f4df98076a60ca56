"""A low-light camera: the ranges of its settings, and the shots that are drawn from them.

`Settings` holds the ranges of all parameters, `Settings.draw` draws one `Shot` from them, and `imaging.capture` takes
the picture with that shot. The shot alone, or the seed alone, determines the picture bit for bit.

The ranges are those of Lv, Li, Lu, "Attention Guided Low-Light Image Enhancement with a Large Scale Low-Light
Simulation Dataset" (IJCV 2021). A camera may have more faults than the noise that is described there; all are off
unless asked for: banding, fixed pattern and hot pixels (`imaging.chance`), blur, motion, a lamp and a sensor without
colour filters (`imaging.optics`), and few bits of raw. They are those of Wei et al. (CVPR 2020), EMVA Standard 1288
and Lin et al. (ELVIS, 2025) that can be seen in 8 bits.

A pickle of `Settings` or `Shot` names this module, so both stay here.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from yolo_wnlb.imaging.bounds import (
    BAYER,
    BOUNDS,
    CHOICES,
    DIGITS,
    FIRST,
    MAX_NOISE_SEED,
    MONO,
    WHOLE,
    number_within_bounds,
    whole_number,
)
from yolo_wnlb.imaging.camera_file import names_a_file, read_camera_file
from yolo_wnlb.imaging.response import Crf, draw_response, named_response
from yolo_wnlb.words import suggestion

Span = tuple[float, float]
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
        raise ValueError(f"{name} is {value!r}{suggestion(value, allowed)}; choose from {', '.join(allowed)}")
    return None if value == "none" else value
