"""Look before you train: pictures beside their dark versions, with what was drawn under each.

A row is a picture; its columns are the source and one dark version for each preset. All presets
draw from one source of chance for a picture (`lowlight.picture_rng` of its file name), so a row
shows the same moment under different settings, and the same call makes the same file.

Pictures are shrunk to a cell, 320 pixels, **before** they are darkened: each pixel of the cell has
the noise that a pixel has in training. (Darkening first and shrinking then would average it away.)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from yolo_wnlb.data.sources import listed
from yolo_wnlb.imaging.camera import PRESETS, Settings, Shot, capture, light_of_codes, look_up, picture_rng, settings
from yolo_wnlb.imaging.sheet import heading, panel, resized, scaled, shortened

CELL = 320  # pixels, the longer side of a picture
SMALL = [cv2.IMWRITE_JPEG_QUALITY, 75, cv2.IMWRITE_JPEG_OPTIMIZE, 1, cv2.IMWRITE_JPEG_PROGRESSIVE, 1]
SAVED_AS: dict[str, list[int]] = {".png": [], ".jpg": SMALL, ".jpeg": SMALL}
Picture = tuple[str, np.ndarray]  # its name; uint8 BGR (H, W, 3)


def preview(
    sources: Sequence[str | Path] = (),
    out: str | Path = "preview.png",
    *,
    n: int = 5,
    presets: Sequence[Any] = tuple(PRESETS),
    seed: int = 0,
    **changes: Any,
) -> Path:
    """Write the grid and return its path.

    Args:
        sources: Images, folders of images, data YAMLs (their val split); none: generated scenes.
        out: A .png or .jpg.
        n: Pictures of each folder or data set, evenly spaced. Images named one by one all show.
        presets: One column each.
        seed: Of the shots; another one draws others.
        **changes: Attributes of `lowlight.Settings`, on top of each preset: ev=-3, crf="srgb".
    Raises: ValueError, OSError: with the remedy; nothing is written.
    """
    for name, value, least in (("n", n, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} is {value!r}; wanted a whole number, {least} or more")
    if not presets:
        raise ValueError(f"no presets; choose from {', '.join(PRESETS)}")
    columns = {str(preset): settings(preset, **changes) for preset in presets}
    out = Path(out)
    if out.suffix.lower() not in SAVED_AS:
        raise ValueError(f"out is {out.name!r}; wanted a name that ends in {' or '.join(SAVED_AS)}")
    if out.is_dir() or not out.parent.is_dir():
        what = "is a folder" if out.is_dir() else f"would lie in {out.parent}, which does not exist"
        raise ValueError(f"out={out} {what}; choose another file name")
    files = [file for source in sources for file in find(Path(source), n)]
    if any(file.resolve() == out.resolve() for file in files):
        raise ValueError(f"out={out} is one of the pictures to look at; choose another file name")
    pictures = list(map(read, files)) if sources else list(built_in(n))
    rows = [row(name, shrink(image), columns, seed) for name, image in pictures]
    picture = np.vstack([heading(["source", *columns], CELL, 40, 19), *rows])
    out.write_bytes(cv2.imencode(out.suffix, picture, SAVED_AS[out.suffix.lower()])[1].tobytes())
    return out


# ---- the pictures --------------------------------------------------------------------------------


def find(source: Path, n: int) -> list[Path]:
    """List the images that a source stands for: itself, or n of a folder's or a val split's."""
    from ultralytics.data.utils import IMG_FORMATS, check_det_dataset
    from yaml import YAMLError

    folders = [source]
    if source.suffix in (".yaml", ".yml"):
        try:
            val = check_det_dataset(str(source), autodownload=False)["val"]
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{str(error).strip()}\nA preview downloads nothing: have Ultralytics fetch the data set first, or "
                "give a folder of images"
            ) from error
        except (SyntaxError, YAMLError) as error:
            raise ValueError(f"{source} is no data YAML that Ultralytics takes: {error}") from error
        folders = [Path(folder) for folder in listed(val)]
        if not folders:
            raise ValueError(f"{source} names no val: pictures; give a folder of images")
    elif source.is_file():
        return [source]
    elif not source.exists():
        raise FileNotFoundError(f"there is no {source}; give images, folders of images or a data YAML")
    images: list[Path] = []
    for folder in folders:
        if folder.is_file():  # a list of paths, relative ones to the list
            lines = folder.read_text(encoding="utf-8").split("\n")
            images += [folder.parent / line.strip() for line in lines if line.strip()]
        else:
            images += sorted(path for path in folder.rglob("*") if path.suffix[1:].lower() in IMG_FORMATS)
    if not images:
        raise ValueError(f"{source} holds no images ({', '.join(sorted(IMG_FORMATS))}); give another folder")
    return [images[i] for i in sorted({round(i * (len(images) - 1) / max(n - 1, 1)) for i in range(n)})]


def read(file: Path) -> Picture:
    """Read one image, turned upright as its EXIF says."""
    image = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_COLOR) if file.stat().st_size else None
    if image is None:
        raise ValueError(f"{file} cannot be read as an image; leave it out or mend it")
    return file.name, image


def built_in(n: int, size: int = CELL) -> Iterator[Picture]:
    """Draw n bright, busy scenes of the built-in data set, the same ones every time."""
    from yolo_wnlb.data.shapes import scene

    seeds = itertools.count()
    while n:
        seed = next(seeds)
        drawn = scene(np.random.default_rng([seed, 2026]), size)
        if len(drawn.classes) >= 7 and brightness(drawn.image) > 110:
            n -= 1
            yield f"scene {seed}", drawn.image


def shrink(image: np.ndarray, size: int = CELL) -> np.ndarray:
    """Scale a larger picture down to `size` pixels on its longer side."""
    larger = max(image.shape[:2]) > size
    return resized(image, scaled(image.shape, size), cv2.INTER_AREA) if larger else image


# ---- the grid ------------------------------------------------------------------------------------


def row(name: str, image: np.ndarray, columns: dict[str, Settings], seed: int) -> np.ndarray:
    """Lay a picture and its dark versions side by side, captions below."""
    lines = [f"mean {brightness(image):.0f}", shortened(name), "{1} x {0} pixels".format(*image.shape)]
    cells = [panel([image], lines, CELL, 15)]
    for drawn_from in columns.values():
        shot = drawn_from.draw(picture_rng(seed, name))
        dark = capture(image, shot)
        light = f"mean {brightness(dark):.0f}, {stops(image, shot):+.1f} stops"
        cells.append(panel([dark], [light, *told(shot)], CELL, 15))
    return np.hstack(cells)


def brightness(image: np.ndarray) -> float:
    """Mean luma, 0 to 255."""
    return float(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).mean())


def stops(image: np.ndarray, shot: Shot) -> float:
    """Light that reaches the sensor with the darkening over without it, as a power of two."""
    bright = replace(shot, alpha=1.0, beta=1.0, gamma=1.0, ev=0.0, quantize="round")
    before, after = (float(look_up(image, light_of_codes(s, 255)).mean()) for s in (bright, shot))
    return math.log2(after / before) if before and after else (-math.inf if before else 0.0)


def told(shot: Shot) -> list[str]:
    """Write down what was drawn, in two lines."""
    curve = f"α {shot.alpha:.2f}  β {shot.beta:.2f}  γ {shot.gamma:.2f}"  # noqa: RUF001
    curve = f"ev {shot.ev:.2f}" if shot.ev else curve
    crf = shot.crf.rpartition("#")[2] if isinstance(shot.crf, str) else "n {:.2f}  u {:.2f}".format(*shot.crf)
    noise = f"σs {shot.sigma_s:.3f}  σc {shot.sigma_c:.4f}"  # noqa: RUF001
    return [f"{curve}  {crf}", f"{noise}  {shot.bayer or 'no mosaic'}"]
