"""The built-in data set: dark, noisy pictures of overlapping shapes with instance outlines.

It downloads nothing, takes seconds, and is made to be learnt from scratch on a CPU in minutes.
Colour, size and texture say nothing about the class, only the outline does. NumPy and OpenCV only.
"""

from __future__ import annotations

import logging
import math
import random
import shutil
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from yolo_wnlb.data import journal
from yolo_wnlb.imaging.camera import CAMERA_VERSION, settings
from yolo_wnlb.imaging.capture import capture
from yolo_wnlb.reading import read_json

LOGGER = logging.getLogger(__name__)

NAMES = ("disc", "box", "triangle", "star", "crescent")
SPLITS = ("train", "val")
RECORD = "shapes.json"  # what the data set was drawn with
DRAFT = f"{journal.STATE}/draft"  # while it is being drawn
CAMERA = settings(ev=(-6.6, -3.3), sigma_s=0.0224, sigma_c=0.0015, crf="srgb")  # 1 to 10 % of the light, 2000 photons
RADIUS_RANGE = (0.08, 0.22)  # of the image's side; drawn evenly in octaves
MIN_VISIBLE = 0.5  # of an object's area: less could be any class
MIN_SIZE = 64


class Scene(NamedTuple):
    """A bright picture and what can be seen in it, back to front.

    image: uint8 (S, S, 3), BGR.
    classes: N indices into NAMES.
    masks: bool (N, S, S), the visible pixels; no two overlap.
    polygons: N arrays (P, 2), xy in [0, 1]: outlines of `masks`, through the centres of pixels.
    """

    image: np.ndarray
    classes: list[int]
    masks: np.ndarray
    polygons: list[np.ndarray]


def unit_shape(name: str) -> np.ndarray:
    """Corners (P, 2) of a shape of NAMES around the origin, about one unit in radius."""
    circle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    if name == "crescent":
        horn = 0.5  # angle from the opening's axis to a horn's tip
        outer = np.linspace(horn, 2 * np.pi - horn, 40)
        inner = np.linspace(-np.pi / 2, np.pi / 2, 24)
        x = np.r_[np.cos(outer), np.cos(horn) - 1.3 * np.cos(inner)]
        return np.c_[x + 0.3, np.r_[np.sin(outer), np.sin(horn) * np.sin(inner)]]
    angles, radii = {
        "disc": (circle, 1.0),
        "box": (np.pi / 4 + np.arange(4) * np.pi / 2, 1.2),
        "triangle": (np.arange(3) * 2 * np.pi / 3, 1.25),
        "star": (np.arange(10) * np.pi / 5, np.tile([1.25, 0.5], 5)),
    }[name]
    return np.c_[radii * np.cos(angles), radii * np.sin(angles)]


def noise(rng: np.random.Generator, size: int) -> np.ndarray:
    """Cloudy texture, float32 (size, size) in [0, 1]: octaves of smoothed random grids."""
    total = np.zeros((size, size), np.float32)
    for octave in range(1, 7):
        grid = rng.random((2**octave, 2**octave), np.float32)
        total += cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC) * 0.6**octave
    return (total - total.min()) / (total.max() - total.min())


def texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """Brightness factors around 1, float32 (size, size): clouds or wavy stripes."""
    clouds = noise(rng, size)
    if rng.random() < 0.5:
        return 0.75 + 0.5 * clouds
    y, x = np.mgrid[:size, :size].astype(np.float32) / size
    turn, waves = rng.uniform(0, np.pi), rng.uniform(6, 16)
    along = math.cos(turn) * x + math.sin(turn) * y
    return 1 + rng.uniform(0.1, 0.25) * np.sin(2 * np.pi * waves * along + 4 * clouds)


def outline(mask: np.ndarray) -> np.ndarray | None:
    """Find the one polygon that describes a mask, or None if no single one does.

    mask: bool (H, W) -> integer pixel xy (P, 2). None for an empty mask, and where holes or split
    parts would put the filled polygon below 95 % intersection over union.
    """
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not found:
        return None
    polygon = cv2.approxPolyDP(max(found, key=cv2.contourArea), 0.6, True)[:, 0]
    filled = cv2.fillPoly(np.zeros(mask.shape, np.uint8), [polygon], 1).astype(bool)
    if len(polygon) < 3 or (filled & mask).sum() < 0.95 * (filled | mask).sum():
        return None
    return polygon


def paint(image: np.ndarray, mask: np.ndarray, radius: float, light: float, rng: np.random.Generator) -> None:
    """Paint one shaded, textured object and its soft shadow over `image`, in place.

    image: float32 (S, S, 3) in [0, 1]; mask: bool (S, S); radius in pixels; light: the angle, in
    radians, at which the lamp stands.
    """
    size, solid = len(image), mask.astype(np.float32)
    away = np.array([-math.cos(light), -math.sin(light)])
    shift = np.c_[np.eye(2), 0.2 * radius * away]
    shadow = cv2.GaussianBlur(cv2.warpAffine(solid, shift, (size, size)), (0, 0), 0.12 * radius)
    image *= 1 - 0.6 * shadow[..., None]

    below = image[mask].mean(0)
    colours = rng.uniform(0.15, 1, (3, 3))  # three tries: keep the one that stands out best
    colour = colours[np.abs(colours.mean(1) - below.mean()).argmax()]
    y, x = np.nonzero(mask)
    towards = np.zeros((size, size), np.float32)
    towards[y, x] = np.c_[x - x.mean(), y - y.mean()] @ -away / radius
    depth = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
    rim = np.minimum(depth / (0.3 * radius), 1)
    factor = (0.75 + 0.25 * rim) * (1 + 0.25 * towards) * texture(rng, size)

    alpha = cv2.GaussianBlur(solid, (0, 0), 0.6)[..., None]
    image *= 1 - alpha
    image += alpha * np.clip(factor[..., None] * colour, 0, 1).astype(np.float32)


def scene(rng: np.random.Generator, size: int) -> Scene:
    """Draw a bright scene: a textured ground, then objects back to front.

    An object that would hide another too much, or cut it in two, is not drawn: everything in the
    picture is labelled, and each label is one polygon.

    Args:
        rng: Everything is drawn from it; the same state gives the same scene.
        size: Side of the square picture in pixels.
    """
    clouds = noise(rng, size)[..., None]
    grounds = rng.uniform(0.1, 0.9, (2, 3)).astype(np.float32)
    image = grounds[0] * clouds + grounds[1] * (1 - clouds)
    image *= texture(rng, size)[..., None]
    light = rng.uniform(0, 2 * np.pi)

    crowd = rng.choice([0, 2, 6, 16], p=[0.02, 0.18, 0.55, 0.25])  # at most; some find no place
    classes: list[int] = []
    masks: list[np.ndarray] = []
    outlines: list[np.ndarray] = []
    areas: list[float] = []
    for _ in range(rng.integers((crowd + 1) // 2, crowd + 1)):
        kind = int(rng.integers(len(NAMES)))
        low, high = np.log(RADIUS_RANGE)
        radius = size * math.exp(rng.uniform(low, high))
        turn, stretch = rng.uniform(0, 2 * np.pi), rng.uniform(0.85, 1.18)
        rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
        corners = unit_shape(NAMES[kind]) * [stretch, 1 / stretch] @ rotation.T * radius
        corners = (corners + rng.uniform(0.05, 0.95, 2) * size).astype(np.float32)
        mask = cv2.fillPoly(np.zeros((size, size), np.uint8), [np.rint(corners).astype(int)], 1) > 0

        visible = [m & ~mask for m in masks] + [mask]
        full = [*areas, cv2.contourArea(corners)]
        found = [p for p in map(outline, visible) if p is not None]
        if len(found) < len(visible):
            continue
        if any(m.sum() < MIN_VISIBLE * area for m, area in zip(visible, full)):
            continue
        classes.append(kind)
        masks, areas, outlines = visible, full, found
        paint(image, mask, radius, light, rng)

    return Scene(
        np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8),
        classes,
        np.array(masks, bool).reshape(-1, size, size),
        [(p + 0.5) / size for p in outlines],
    )


def dark_scene(seed: int, split: str, index: int, size: int) -> tuple[np.ndarray, Scene]:
    """Image `index` of a split: its dark picture, uint8 BGR (size, size, 3), and its scene.

    It depends on these four arguments alone, not on how many images there are.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    bright = scene(rng, size)
    return capture(bright.image, CAMERA.draw(random.Random(int(rng.integers(2**53))))), bright


def generate(root: str | Path, *, train: int = 400, val: int = 100, size: int = 160, seed: int = 0) -> Path:
    """Write the data set in Ultralytics' YOLO-seg layout; do nothing where it already stands.

    Files are `images/{train,val}/000000.png` and `labels/{train,val}/000000.txt`. All are drawn in a hidden
    folder of `root` and moved to their places at the end, so an interrupted call leaves no half data set.

    Args:
        root: Folder to make. It may exist, if it is empty or this data set.
        train: Number of training images, 1 or more.
        val: Number of validation images, 1 or more.
        size: Side of the square images in pixels, 64 or more.
        seed: 0 or more; the same seed gives the same bytes.
    Returns: The absolute path of `root`.
    Raises:
        ValueError: a number is out of range.
        FileExistsError: `root` holds something else, other settings, or lacks files.
    """
    for name, value, least in (("train", train, 1), ("val", val, 1), ("size", size, MIN_SIZE), ("seed", seed, 0)):
        if type(value) is not int or value < least:
            raise ValueError(f"{name} is {value!r}; wanted a whole number, {least} or more")
    root = Path(root).resolve()
    record = {"train": train, "val": val, "size": size, "seed": seed, "camera": CAMERA_VERSION}
    if is_complete(root, record):
        LOGGER.info("%s already holds %d + %d images", root, train, val)
        return root
    is_new = not root.exists()
    try:
        with journal.locked(root):
            if not is_complete(root, record):  # else another process was faster
                draw_all(root, record)
    except BaseException:
        if is_new:
            with suppress(OSError):
                root.rmdir()
        raise
    LOGGER.info("wrote %d + %d images of %d x %d pixels to %s", train, val, size, size, root)
    return root


def draw_all(root: Path, record: dict[str, int]) -> None:
    """Draw all images in a hidden folder, and move them to their places."""
    draft = journal.inside(root, f"{DRAFT}/{RECORD}").parent
    shutil.rmtree(draft, ignore_errors=True)  # of a process that was killed
    try:
        for split in SPLITS:
            for kind in ("images", "labels"):
                (draft / kind / split).mkdir(parents=True)
            for index in range(record[split]):
                write_pair(draft, split, index, record["size"], record["seed"])
        journal.write_json(draft / RECORD, record)
        for name in (RECORD, "labels", "images"):
            if not (root / name).exists():  # else a process was killed on its way through this list
                (draft / name).replace(root / name)
    except OSError as error:
        raise journal.cannot_write(root, error) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def write_pair(root: Path, split: str, index: int, size: int, seed: int) -> None:
    """Write one image and its label file: a line per object, `class x y x y ...`, xy in [0, 1]."""
    image, truth = dark_scene(seed, split, index, size)
    path = root / "images" / split / f"{index:06d}.png"
    path.write_bytes(cv2.imencode(".png", image)[1].tobytes())
    lines = [
        " ".join([str(kind), *(f"{v:.6f}" for v in polygon.ravel())]) + "\n"
        for kind, polygon in zip(truth.classes, truth.polygons)
    ]
    (root / "labels" / split / f"{index:06d}.txt").write_text("".join(lines), encoding="utf-8")


def is_complete(root: Path, record: dict[str, int]) -> bool:
    """Tell whether `root` holds just this data set; False where there is nothing yet, or a process was killed.

    Raises: FileExistsError: there is something else, which nobody here should delete.
    """
    if not root.exists() or (root.is_dir() and all(path.name == journal.STATE for path in root.iterdir())):
        return False
    advice = "delete it or choose another folder"
    if not (root / RECORD).is_file():
        raise FileExistsError(f"{root} exists and was not written by yolo_wnlb; {advice}")
    if (found := read_json(root / RECORD)) != record:
        raise FileExistsError(f"{root} holds shapes with {found}, wanted {record}; {advice}")
    if (root / DRAFT).exists():
        return False
    wanted = [
        root / kind / split / f"{index:06d}{suffix}"
        for kind, suffix in (("images", ".png"), ("labels", ".txt"))
        for split in SPLITS
        for index in range(record[split])
    ]
    missing = [path for path in wanted if not path.is_file()]
    if missing:
        raise FileExistsError(
            f"{root} lacks {len(missing)} of {len(wanted)} files (first: {missing[0].name}); {advice}"
        )
    return True
