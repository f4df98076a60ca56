"""`yolo-wnlb calibrate`: the pictures of one camera in, the YAML file of the camera out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from yolo_wnlb.calibrate.noise import (
    Fit,
    Noise,
    Scene,
    fit,
    light_of_codes,
    linear,
    linear_mono,
    measure_pairs,
    measure_singles,
    smoothed,
)
from yolo_wnlb.calibrate.report import Calibration, Found, draw, middle_noise
from yolo_wnlb.calibrate.sources import (
    Frame,
    check_one_camera,
    check_one_shape,
    files_in,
    read_frames,
    read_pairs,
    without_copies,
)
from yolo_wnlb.data.journal import replaced
from yolo_wnlb.imaging.camera import PRESETS, Settings, Shot, settings
from yolo_wnlb.imaging.camera_file import SUFFIXES, read_camera_file
from yolo_wnlb.imaging.capture import capture
from yolo_wnlb.imaging.chance import picture_rng
from yolo_wnlb.imaging.response import named_response
from yolo_wnlb.words import counted

Sources = str | Path | Sequence[str | Path] | None

LARGEST = 1024  # side of the middle of a picture that is measured: more pixels change the result less than they take
SAME = 0.8  # share of grey pixels that are equal in two pictures, from which on rounding has eaten the noise
BLOTCHES = 0.15  # correlation three pixels along beyond that of our camera: smoothed by somebody
DARKEST = 48  # codes that capped frames may reach when smoothed
EXPOSURE = 0.1  # relative difference of brightness within a pair
MOVING = (16, 8.0, 0.005)  # side of a block, standard errors of its mean difference, share of such blocks
ASSUMED_DAY = (0.08, 0.2, 0.4)  # mean light of ordinary day photos at QUANTILES
QUANTILES = (10, 50, 90)
FAR = 0.2  # octaves between the pictures and the fit to them from which on the model does not describe them
MISTAKEN = 0.1  # share of the variance of the other noise that may be taken for this one; 0.07 with known cameras
ALONE = 2.0  # factor each way of the spans of a single picture; with it 44 of 48 numbers of known cameras were in them
LEAST_SPAN = 0.03  # relative half-width of each span: what the model itself is not sure of
DIGITS = 6


def calibrate(
    sources: Sources = None,
    out: str | Path = "mycam.yaml",
    *,
    capped: Sources = None,
    still: Sources = None,
    day: Sources = None,
    crf: Any = "srgb",
    exist_ok: bool = False,
) -> Calibration:
    """Fit the camera model to pictures of a camera, and write its YAML file and a picture beside it.

    Args:
        sources: Ordinary night pictures, folders of them, or clips.
        out: The .yaml file to write; the picture has the same name and .png.
        capped: Frames with the lens capped, two or more: read, row and column noise, fixed pattern, hot pixels.
        still: Pairs or bursts of still scenes, a folder for each burst or pairs in the order of names: shot noise.
        day: Day pictures of the same camera, for the span of the exposure.
        crf: The camera's response, one that is known: "srgb", "gamma:2.2", "identity" or (n, u).
        exist_ok: Write over the file of a camera that is there, and its picture.
    Raises: ValueError, OSError: with the remedy; nothing is written.
    """
    out = Path(out)
    dark, pairs, night, light = (listed(value) for value in (capped, still, sources, day))
    refuse_place(out, [*dark, *pairs, *night, *light], exist_ok)
    response = named_response(crf)
    if response is None:
        raise ValueError(f"crf is {crf!r}, which stands for many responses; one camera has one: srgb, gamma:2.2 or n,u")
    if not (dark or pairs or night):
        raise ValueError("nothing to measure; give night pictures, still=FOLDER of pairs, or capped=FOLDER")
    remarks: list[str] = []
    capped_frames = read_frames(dark, adjacent=True) if dark else []
    pair_frames = read_pairs(pairs, remarks) if pairs else []
    night_frames = without_copies(read_frames(night), remarks) if night else []
    day_frames = read_frames(light) if light else []
    everything = [*capped_frames, *(frame for pair in pair_frames for frame in pair), *night_frames]
    check_one_camera(everything)
    qualities = [frame.quality for frame in everything if frame.quality is not None]
    quality = round(float(np.median(qualities))) if qualities else None
    shot = Shot(crf=response, bayer="RGGB", jpeg_quality=quality)
    is_grey = everything[0].picture.ndim == 2

    found: dict[str, Found] = {}
    fits: list[Fit] = []
    if capped_frames:
        fits.append(fit_capped(capped_frames, shot, found, remarks))
    if pair_frames:
        fits.append(fit_still(pair_frames, shot, found, remarks))
    if night_frames and not pair_frames:
        known = fits[0].noise if fits else Noise()
        fits.append(fit_night(night_frames, shot, known, found, remarks))
    if "sigma_s" not in found:
        remarks.append("capped frames alone say nothing of shot noise: sigma_s is that of the default preset")

    real_night = [frame.picture for frame in night_frames or [pair[0] for pair in pair_frames]]
    if real_night:
        found["ev"] = exposure(real_night, [frame.picture for frame in day_frames], response, remarks)
    changes: dict[str, Any] = {name: one.span for name, one in found.items()}
    camera = settings(
        Settings(),
        **changes,
        crf=response,
        bayer="mono" if is_grey else "random",
        jpeg_quality=quality,
    )
    last = fits[-1]
    distances = {"fit": last.octaves()}
    if distances["fit"] > FAR:
        remarks.append(
            f"the noise of the fit is {distances['fit']:.2f} octaves from that of the pictures, so it is not that of "
            "a sensor behind this response: turn denoising and sharpening off, do not resize, or give the camera's "
            "crf=; crf=0.69,0.5 is that of a usual digital camera"
        )
    distances |= {preset: last.octaves(middle_noise(preset)) for preset in PRESETS}
    bright = [cropped(frame.picture) for frame in day_frames]
    dimness = brightness_distances(bright, real_night, camera) if bright and real_night else {}
    result = Calibration(camera, found, last, distances, dimness, remarks, out, out.with_suffix(".png"))
    write(result, bright, [cropped(picture) for picture in real_night])
    return result


def listed(sources: Sources) -> list[str | Path]:
    """Return one source or several as a list.

    Raises: ValueError: a name is empty, which would stand for the working directory.
    """
    if sources is None:
        return []
    given = [sources] if isinstance(sources, (str, Path)) else list(sources)
    if not all(str(source).strip() for source in given):
        raise ValueError("the name of a source is empty; give pictures, folders or videos, . for the working directory")
    return given


def refuse_place(out: Path, sources: Sequence[str | Path], exist_ok: bool) -> None:
    """Raise ValueError or FileExistsError unless both files can be written, and neither is one of the sources."""
    if out.suffix.lower() not in SUFFIXES:
        raise ValueError(f"out is {out.name!r}; wanted a name that ends in {' or '.join(SUFFIXES)}")
    if not out.parent.is_dir():
        raise ValueError(f"out={out} would lie in {out.parent}, which does not exist; make it, or choose another")
    for file in (out, out.with_suffix(".png")):
        if file.is_dir() or (file.exists() and not exist_ok):
            raise FileExistsError(f"{file} is there already; give exist_ok=True or choose another out=")
    targets = {file.resolve(): file for file in (out, out.with_suffix(".png")) if file.exists()}
    measured = {file.resolve() for source in sources for file in files_in(Path(source))} if targets else set()
    if both := targets.keys() & measured:
        raise ValueError(
            f"{targets[both.pop()]} is one of the pictures to measure, and would be written over; choose another out="
        )
    if targets and not out.exists():
        raise FileExistsError(
            f"{out.with_suffix('.png')} is there without {out.name}, so it is not ours; choose another out="
        )
    if targets:
        read_camera_file(out)  # nothing but an earlier camera is written over


def cropped(picture: np.ndarray) -> np.ndarray:
    """Return the middle of a picture, at most LARGEST on a side, cut where JPEG and mosaic begin anew."""
    top, left = (max(side - LARGEST, 0) // 2 // 16 * 16 for side in picture.shape[:2])
    return np.ascontiguousarray(picture[top : top + LARGEST, left : left + LARGEST])


# ---- one fit for each kind of source ----------------------------------------------------------------


def fit_capped(frames: list[Frame], shot: Shot, found: dict[str, Found], remarks: list[str]) -> Fit:
    """Fit read noise, banding and fixed pattern to capped frames, and count hot pixels."""
    if len(frames) < 2:
        raise ValueError(f"{frames[0].name} is one capped frame only; wanted two or more")
    for frame in frames:
        check_one_shape(frames[0], frame, "capped frames are those of one sensor, turned alike")
    pictures = [cropped(frame.picture) for frame in frames]
    for frame, picture in zip(frames, pictures):
        plane = picture[..., 1] if picture.ndim == 3 else picture
        level = float(np.percentile(cv2.blur(plane, (31, 31)), 99))
        if level > DARKEST:
            raise ValueError(
                f"{frame.name} is not dark: its codes reach {level:.0f}, capped frames stay below {DARKEST}; put the "
                "cap on, or give it as a night picture"
            )
    pairs = list(zip(pictures[::2], pictures[1::2]))
    if all(np.array_equal(*pair) for pair in pairs):
        raise ValueError(
            f"{frames[0].name} and the other capped frames are all the same: the camera cuts its noise off at black, "
            "or the frames are copies; give pairs of a still scene instead"
        )
    black = [np.zeros_like(one) for one, _ in pairs]
    result = fit(
        measure_pairs(pairs, shot.crf), Scene(black, shot, 2), lambda t: measure_pairs(as_pairs(t), shot.crf), dark=True
    )
    if len(frames) % 2:
        remarks.append(
            f"{frames[-1].name} has no partner, as the capped frames are odd in number: it counts for hot pixels alone"
        )
    said = f"{len(frames)} capped frames"
    keep(found, "sigma_c", result.noise.sigma_c, result.errors.sigma_c, said)
    keep_lines(found, result, said)
    if result.noise.sigma_fixed:
        keep(found, "sigma_fixed", result.noise.sigma_fixed, result.errors.sigma_fixed, said)
    share, count = hot_share(pictures, result.noise.sigma_c, shot.crf)
    if count:
        found["hot_pixels"] = Found((round(share, 9),) * 2, share / count**0.5, said)
    return result


def hot_share(pictures: list[np.ndarray], sigma_c: float, crf: Any) -> tuple[float, int]:
    """Return the share of hot sites, and how many were seen: spots in the mean of capped frames.

    The mean of noise that is cut off at black is 0.4 sigma; spots that its own noise could make are left out, and the
    share is that of all heats up to white.
    """
    planes = [pictures] if pictures[0].ndim == 2 else [[p[..., i] for p in pictures] for i in range(3)]
    mean = np.max([np.mean([linear(picture, crf) for picture in plane], axis=0) for plane in planes], axis=0)
    least = max(0.02, sigma_c * (0.6 + 8 / len(pictures) ** 0.5))
    count = cv2.connectedComponents((mean > least).astype(np.uint8))[0] - 1
    return count / mean.size / max(1 - least, 0.2), count


def fit_still(pairs: list[tuple[Frame, Frame]], shot: Shot, found: dict[str, Found], remarks: list[str]) -> Fit:
    """Fit shot and read noise and banding to pairs of still scenes."""
    for pair in pairs:
        check_still(*pair, shot)
    pictures = [(cropped(one.picture), cropped(other.picture)) for one, other in pairs]
    real = measure_pairs(pictures, shot.crf)
    if not np.isfinite(real.curve()[0]).any():
        raise ValueError(f"{pairs[0][0].name} and the others are all white; give pictures with dark and grey parts")
    scene = Scene([smoothed(cv2.addWeighted(one, 0.5, other, 0.5, 0)) for one, other in pictures], shot, 2)
    result = fit(real, scene, lambda taken: measure_pairs(as_pairs(taken), shot.crf))
    if real.grain > result.simulated.grain + BLOTCHES:
        raise ValueError(
            f"{pairs[0][0].name} and the others have smoothed noise (correlation {real.grain:.2f} three pixels along, "
            f"a sensor's has {result.simulated.grain:.2f}): denoising or compression has eaten it; turn denoising off, "
            "or give pictures of higher quality"
        )
    said = f"{counted(len(pairs), 'pair')} of still scenes"
    has_capped = "sigma_c" in found
    for name in ("sigma_s", "sigma_c"):
        if name not in found:
            span = likely(name, result)
            found[name] = Found(rounded(span), getattr(result.errors, name), said)
            remarks += hardly_shows(name, span, said)
    if not has_capped:
        keep_lines(found, result, said)
    return result


def as_pairs(taken: Sequence[Sequence[np.ndarray]]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return what was taken of each scene as pairs."""
    return [(one, other) for one, other in taken]


def check_still(one: Frame, other: Frame, shot: Shot) -> None:
    """Refuse two pictures that are the same, differ in exposure, or show something that moves.

    Raises: ValueError: they do not differ by noise alone, or not at all.
    """
    said = f"{one.name} and {other.name}"
    check_one_shape(one, other, "a pair is of one still scene")
    if np.array_equal(one.picture, other.picture):
        raise ValueError(f"{said} are the same picture; a pair is taken twice")
    green, others = (picture if picture.ndim == 2 else picture[..., 1] for picture in (one.picture, other.picture))
    is_grey = (green > 2) & (green < 240)
    if is_grey.any() and (green == others)[is_grey].mean() > SAME:
        raise ValueError(
            f"{said} hardly differ: compression or denoising has eaten the noise, or there is none in 8 bits"
        )
    first, second = (linear(frame.picture, shot.crf) for frame in (one, other))
    if abs(float(first.mean() - second.mean())) > EXPOSURE * float(first.mean() + second.mean()) / 2:
        raise ValueError(f"{said} differ in exposure by more than {EXPOSURE:.0%}; fix exposure and gain of the camera")
    side, most, share = MOVING
    noise = first - second
    noise -= noise.mean(1, keepdims=True)
    noise -= noise.mean(0, keepdims=True)
    mean, square = cv2.blur(noise, (side, side)), cv2.blur(noise * noise, (side, side))
    error = np.sqrt(np.maximum(square - mean * mean, 1e-12)) / side
    mean, error = mean[side::side, side::side], error[side::side, side::side]
    usual = max(1.0, float(np.median(abs(mean) / error)) / 0.67)  # smoothed noise has large means everywhere
    moved = (abs(mean) > most * usual * error) & (abs(mean) > 0.002)
    if (found := float(moved.mean())) > share:
        raise ValueError(f"{said} are not still: {found:.0%} of the picture moves; use a tripod and a scene at rest")


def fit_night(frames: list[Frame], shot: Shot, known: Noise, found: dict[str, Found], remarks: list[str]) -> Fit:
    """Fit shot and read noise to the flattest blocks of single pictures."""
    pictures = [cropped(frame.picture) for frame in frames]
    real = measure_singles(pictures, shot.crf)
    level, variance = real.curve()
    if not np.isfinite(variance).any():
        raise ValueError(f"{frames[0].name} and the others have no flat parts that are not white; give darker pictures")
    light = light_of_codes(shot.crf).astype(np.float64)
    slope = np.interp(level, light, np.gradient(light))  # light of one code
    codes = np.sqrt(variance) / slope
    if np.nanmax(codes) < 0.35:  # rounding alone has 0.29
        raise ValueError(
            f"{frames[0].name} and the others have noise of {np.nanmax(codes):.2f} codes in flat parts: compression or "
            "denoising has eaten it"
        )
    scene = Scene([smoothed(picture) for picture in pictures], shot, 1)
    common = replace(known, sigma_s=0.0, sigma_c=0.0)
    result = fit(real, scene, lambda taken: measure_singles([t[0] for t in taken], shot.crf), known=common)
    said = counted(len(frames), "single night picture")
    each = result.each[np.isfinite(result.each)]
    low, high = np.percentile(each, [10, 90]) if len(each) else (1.0, 1.0)
    for name in ("sigma_s", "sigma_c"):
        if name not in found:
            middle, span = getattr(result.noise, name), likely(name, result)
            widened = min(middle * low, span[0]), max(middle * high, span[1])
            error = getattr(result.errors, name) if is_known(result) else None
            found[name] = Found(rounded(widened), error, said)
            remarks += hardly_shows(name, span, said) if is_known(result) else []
    if not is_known(result):
        remarks.append(
            "one picture: give more; how far its noise is from that of others is unknown, so each span goes from half "
            "to double, and further where the other noise may be taken for this one"
        )
    remarks.append(
        "texture that is as fine as noise counts as noise in single pictures; pairs of a still scene do better"
    )
    return result


def likely(name: str, result: Fit) -> tuple[float, float]:
    """Return the ends that sigma_s or sigma_c may have: two standard errors, and what the model is not sure of.

    Where the other kind of noise covers this one, a small part of that may be taken for it: shot noise shows best in
    the brightest parts, read noise in the darkest. Of a single picture the error is unknown: it may be all of the
    other noise, and a factor of ALONE.
    """
    value, light = getattr(result.noise, name), result.real.curve()[0]
    half = max(2 * getattr(result.errors, name), LEAST_SPAN * value)
    covering = result.noise.sigma_c**2 / np.nanmax(light)
    if name == "sigma_c":
        covering = result.noise.sigma_s**2 * np.nanmin(light)
    unsure = (MISTAKEN if is_known(result) else 1.0) * float(covering)
    low, high = max(value**2 - unsure, 0.0) ** 0.5, (value**2 + unsure) ** 0.5
    if not is_known(result):
        return min(low, value / ALONE), max(high, value * ALONE)
    return max(min(low, value - half), 0.0), max(high, value + half)


def is_known(result: Fit) -> bool:
    """Say whether the errors of a fit are known: those of a single picture are not."""
    return not math.isnan(result.errors.sigma_c)


def hardly_shows(name: str, span: tuple[float, float], source: str) -> list[str]:
    """Say of a number that nearly anything is likely, and what would show it; nothing of other numbers."""
    low, high = span
    if low > 0 and high - low < (low + high) / 2:
        return []
    other, remedy = ("read", "brighter") if name == "sigma_s" else ("shot", "darker")
    return [
        f"{name} hardly shows in the {source}, because {other} noise covers it there: it may be anything from "
        f"{low:.2g} to {high:.2g}; {remedy} pictures would tell"
    ]


def keep(found: dict[str, Found], name: str, value: float, error: float, source: str) -> None:
    """Add one number with its span: two standard errors to each side, and what the model is not sure of."""
    half = max(2 * error, LEAST_SPAN * value)
    found[name] = Found(rounded((max(value - half, 0.0), value + half)), float(error), source)


def keep_lines(found: dict[str, Found], result: Fit, source: str) -> None:
    """Add row and column noise where they are."""
    for name in ("sigma_row", "sigma_column"):
        if value := getattr(result.noise, name):
            keep(found, name, value, getattr(result.errors, name), source)


def rounded(span: tuple[float, float]) -> tuple[float, float]:
    """Round a span to the digits that shots have, within the bounds of a sigma."""
    return min(round(float(span[0]), DIGITS), 1.0), min(round(float(span[1]), DIGITS), 1.0)


# ---- brightness ----------------------------------------------------------------------------------


def exposure(night: list[np.ndarray], day: list[np.ndarray], crf: Any, remarks: list[str]) -> Found:
    """Return the span of stops between day and night, from quantiles of the mean light of pictures.

    Light is that of the green channel; where the night is grey, that of a sensor without colour filters.
    """
    light = np.percentile([float(linear(picture, crf).mean()) for picture in night], QUANTILES)
    is_mono = night[0].ndim == 2
    bright = np.array(ASSUMED_DAY)
    source = f"{counted(len(night), 'night picture')}, against ordinary day photos (assumed: give day=)"
    if day:
        seen = [linear_mono(picture, crf) if is_mono else linear(picture, crf) for picture in day]
        bright = np.percentile([float(one.mean()) for one in seen], QUANTILES)
        source = f"{counted(len(night), 'night picture')} and {counted(len(day), 'day picture')}"
    stops = np.log2(np.maximum(light, 1e-6) / np.maximum(bright, 1e-6))
    if stops.max() > 0:
        remarks.append("some night pictures are as bright as day: ev ends at 0")
    low, high = (float(np.clip(value, -20, 0)) for value in (stops.min(), stops.max()))
    return Found((round(low, 3), round(high, 3)), None, source)


def brightness_distances(day: list[np.ndarray], night: list[np.ndarray], camera: Settings) -> dict[str, float]:
    """Return how far the mean brightness of darkened day pictures is from that of night pictures, in octaves."""
    wanted = np.percentile([picture.mean() for picture in night], QUANTILES)
    distances = {}
    for name, one in {"fit": camera, **{preset: settings(preset) for preset in PRESETS}}.items():
        dark = [capture(picture, one.draw(picture_rng(0, str(i)))) for i, picture in enumerate(day)]
        seen = np.percentile([picture.mean() for picture in dark], QUANTILES)
        distances[name] = float(abs(np.log2(np.maximum(seen, 0.1) / np.maximum(wanted, 0.1))).mean())
    return distances


def write(result: Calibration, day: list[np.ndarray], night: list[np.ndarray]) -> None:
    """Write the YAML file and the picture."""
    import yaml

    picture = draw(result, day, night)
    text = yaml.safe_dump(result.content(), sort_keys=False)
    with replaced(result.picture) as draft:
        draft.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    with replaced(result.file) as draft:
        draft.write_text(text, encoding="utf-8")
