"""Take a picture again in the dark: the one that a sensor would have taken with less light. NumPy and OpenCV only.

    codes x --curve--> D = beta (alpha x)^gamma --f^-1--> light L --mosaic, shot and read noise--> raw
    raw --clip, demosaic--> light --f--> codes

The steps are those of Lv, Li, Lu, "Attention Guided Low-Light Image Enhancement with a Large Scale Low-Light
Simulation Dataset" (IJCV 2021), with the noise of Guo et al., "Toward Convolutional Blind Denoising of Real
Photographs" (CVPR 2019): var = L sigma_s^2 + sigma_c^2 on the Bayer mosaic, which makes it correlated in the finished
picture, as a camera's is. A `Shot` of `imaging.camera` holds all parameters; f, the response of the camera, is in
`imaging.response`, what the lens does in `imaging.optics`, and where the noise comes from in `imaging.chance`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np

from yolo_wnlb.imaging.bounds import BAYER, MONO, whole_number
from yolo_wnlb.imaging.camera import DEFAULT, Shot, settings
from yolo_wnlb.imaging.chance import banding, fixed_pattern, noise_source, normal_quantiles, words_of
from yolo_wnlb.imaging.optics import blurred, lit_by_lamp, without_colour
from yolo_wnlb.imaging.response import response
from yolo_wnlb.imaging.tables import look_up

MAX_FRAME = 2**64 - 1
STRIP = 32768  # values processed at a time: they stay in the cache of a core, which is three times as fast


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
