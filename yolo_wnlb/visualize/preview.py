"""Pictures beside their dark versions, with what was drawn under each: a look at the data before training.

A row is a picture; its columns are the source and one dark version for each preset. All presets
draw from one source of chance for a picture (`imaging.chance.picture_rng` of its file name), so a row
shows the same moment under different settings, and the same call makes the same file.

Pictures are shrunk to a side of 320 pixels **before** they are darkened: each pixel shown has the
noise that a pixel has in training. (Darkening first and shrinking then would average it away.)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import cv2
import numpy as np

from yolo_wnlb.data.data_yaml import read_data_yaml
from yolo_wnlb.data.sources import printable
from yolo_wnlb.imaging.bounds import MONO
from yolo_wnlb.imaging.brightness import dark_already, mean_luma
from yolo_wnlb.imaging.camera import PRESETS, Settings, Shot, settings
from yolo_wnlb.imaging.capture import capture, light_of_codes
from yolo_wnlb.imaging.chance import picture_rng
from yolo_wnlb.imaging.sheet import heading, panel, resized, scaled, shortened
from yolo_wnlb.imaging.tables import look_up
from yolo_wnlb.visualize.pictures import display_names, find_pictures, in_colour, without_repeats

SIDE = 320  # pixels, the longer side of a picture on the sheet
MAX_ROWS = 100  # of one sheet
JPEG_OPTIONS = [cv2.IMWRITE_JPEG_QUALITY, 75, cv2.IMWRITE_JPEG_OPTIMIZE, 1, cv2.IMWRITE_JPEG_PROGRESSIVE, 1]
ENCODER_OPTIONS: dict[str, list[int]] = {".png": [], ".jpg": JPEG_OPTIONS, ".jpeg": JPEG_OPTIONS}


class Picture(NamedTuple):
    """A picture to show.

    name: What is written below it; no other picture of the sheet has it.
    seed_name: The name that chance is drawn from: that of its file.
    image: uint8, BGR (H, W, 3), or grey (H, W, 1) of a data set with `channels: 1`.
    """

    name: str
    seed_name: str
    image: np.ndarray


def next_free(name: str, exist_ok: bool) -> Path:
    """Return a file of this name in the working folder; where it is there already, the next of NAME-2, NAME-3, ..."""
    file = Path(name)
    numbered = (file.with_stem(f"{file.stem}-{number}") for number in itertools.count(2))
    return file if exist_ok or not file.exists() else next(other for other in numbered if not other.exists())


def preview(
    sources: Sequence[str | Path] = (),
    out: str | Path | None = None,
    *,
    n: int = 5,
    presets: Sequence[Any] = tuple(PRESETS),
    seed: int = 0,
    exist_ok: bool = False,
    say: Callable[[str], None] = print,
    **changes: Any,
) -> Path:
    """Write the sheet of pictures and return its path.

    Args:
        sources: Images, folders of images, data YAMLs (their val split); none: generated scenes.
        out: A .png or .jpg. Default: preview.png, or the next of preview-2.png, preview-3.png, ...
        n: Pictures of each folder or data set, evenly spaced. All images that are named one by one are
            shown, and each image once.
        presets: One column each.
        seed: Of the shots; another one draws others.
        exist_ok: Write over a file that is there.
        say: Called with each remark: fewer pictures than n, or dark ones.
        **changes: Attributes of `yolo_wnlb.Settings`, on top of each preset: ev=-3, crf="srgb".
    Raises: ValueError, OSError: with the remedy; nothing is written.
    """
    for name, value, least in (("n", n, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} is {value!r}; wanted a whole number, {least} or more")
    if not presets:
        raise ValueError(f"no presets; choose from {', '.join(PRESETS)}")
    columns = {str(preset): settings(preset, **changes) for preset in presets}
    out = Path(out) if out else next_free("preview.png", exist_ok)
    if out.suffix.lower() not in ENCODER_OPTIONS:
        raise ValueError(f"out is {out.name!r}; wanted a name that ends in {' or '.join(ENCODER_OPTIONS)}")
    if out.is_dir() or not out.parent.is_dir():
        what = "is a folder" if out.is_dir() else f"would lie in {out.parent}, which does not exist"
        raise ValueError(f"out={out} {what}; choose another file name")
    found = {source: find_pictures(source, n) for source in map(Path, sources)}
    files = without_repeats([file for inside in found.values() for file in inside])
    if out.resolve() in [file.resolve() for file in files]:
        raise ValueError(f"out={out} is one of the pictures to look at; choose another file name")
    if out.exists() and not exist_ok:
        raise FileExistsError(f"{out} is there already; choose another out=, or write over it with exist_ok=True")
    if (count := len(files) if sources else n) > MAX_ROWS:
        raise ValueError(f"{count} pictures; one sheet shows {MAX_ROWS} at most: name fewer, or lower n")
    if sources:
        from yolo_wnlb.yolo.models import read_picture

        channels = {file.resolve(): channels_of(source) for source, inside in found.items() for file in inside}
        pictures = [
            Picture(name, file.name, shrunk(read_picture(file, channels[file.resolve()])))
            for name, file in zip(display_names(files), files)
        ]
    else:
        pictures = list(generated_scenes(n))
    for source, inside in found.items():
        if len(inside) < n and inside != [source]:
            say(f"note: {printable(source)} has {len(inside)} of the n={n} pictures that were asked for: all are shown")
    if remark := dark_already(median(mean_luma(picture.image) for picture in pictures)):
        say(f"note: {remark}. Presets darken them further")
    rows = [picture_row(picture, columns, seed) for picture in pictures]
    sheet = np.vstack([heading(["source", *columns], SIDE, 40, 19), *rows])
    out.write_bytes(encoded(sheet, out))
    return out


def encoded(sheet: np.ndarray, out: Path) -> bytes:
    """Encode a sheet as the suffix of its file says."""
    suffix = out.suffix.lower()
    try:
        done, content = cv2.imencode(suffix, sheet, ENCODER_OPTIONS[suffix])
    except cv2.error:
        done = False
    if not done:
        height, width = sheet.shape[:2]
        raise ValueError(f"out={out} cannot hold {width} x {height} pixels; choose a .png, or lower n")
    return content.tobytes()


# ---- the pictures --------------------------------------------------------------------------------


def generated_scenes(n: int) -> Iterator[Picture]:
    """Draw n bright, busy scenes of the built-in data set, the same ones every time."""
    from yolo_wnlb.data.shapes import scene

    seeds = itertools.count()
    while n:
        seed = next(seeds)
        drawn = scene(np.random.default_rng([seed, 2026]), SIDE)
        if len(drawn.classes) >= 7 and mean_luma(drawn.image) > 110:
            n -= 1
            yield Picture(f"scene {seed}", f"scene {seed}", drawn.image)


def channels_of(source: Path) -> int:
    """Return in how many channels pictures of a source are read: as its data YAML says, else 3.

    Raises: ValueError: that is neither 1 nor 3.
    """
    is_data = source.suffix.lower() in (".yaml", ".yml")
    channels = read_data_yaml(source, download=False)[0].get("channels", 3) if is_data else 3
    if channels not in (1, 3):
        raise ValueError(f"{source} says channels: {channels!r}; wanted 3 for colour or 1 for grey")
    return channels


def shrunk(image: np.ndarray) -> np.ndarray:
    """Scale a larger picture (H, W, C) down to SIDE pixels on its longer side."""
    if max(image.shape[:2]) <= SIDE:
        return image
    size = scaled(image.shape, SIDE)
    return resized(image, size, cv2.INTER_AREA).reshape(*size, -1)  # OpenCV drops a single channel


# ---- the sheet -----------------------------------------------------------------------------------


def picture_row(picture: Picture, columns: dict[str, Settings], seed: int) -> np.ndarray:
    """Lay a picture and its dark versions side by side, captions below."""
    image = picture.image
    size = "{1} x {0} pixels".format(*image.shape)
    panels = [panel([in_colour(image)], [f"mean {mean_luma(image):.0f}", shortened(picture.name), size], SIDE, 15)]
    for preset in columns.values():
        shot = preset.draw(picture_rng(seed, picture.seed_name))
        dark = capture(image, shot)
        light = f"mean {mean_luma(dark):.0f}, {stops_between(image, shot):+.1f} stops"
        panels.append(panel([in_colour(dark)], [light, *shot_captions(shot, image.shape[2] == 3)], SIDE, 15))
    return np.hstack(panels)


def stops_between(image: np.ndarray, shot: Shot) -> float:
    """Return the light that reaches the sensor in a shot, over that without darkening, as a power of two."""
    bright = replace(shot, alpha=1.0, beta=1.0, gamma=1.0, ev=0.0, quantize="round")
    before, after = (float(look_up(image, light_of_codes(s, 255)).mean()) for s in (bright, shot))
    return math.log2(after / before) if before and after else (-math.inf if before else 0.0)


def shot_captions(shot: Shot, is_colour: bool) -> list[str]:
    """Write the numbers that were drawn for a shot, in two lines; a grey picture has no mosaic, whatever is drawn."""
    curve = f"α {shot.alpha:.2f}  β {shot.beta:.2f}  γ {shot.gamma:.2f}"  # noqa: RUF001
    curve = f"ev {shot.ev:.2f}" if shot.ev else curve
    crf = (
        printable(shot.crf.rpartition("#")[2]) if isinstance(shot.crf, str) else "n {:.2f}  u {:.2f}".format(*shot.crf)
    )
    noise = f"σs {shot.sigma_s:.3f}  σc {shot.sigma_c:.4f}"  # noqa: RUF001
    mosaic = (shot.bayer if is_colour or shot.bayer == MONO else None) or "no mosaic"
    return [f"{curve}  {crf}", f"{noise}  {mosaic}"]
