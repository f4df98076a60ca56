"""Pictures with one class each that are drawn on the spot: containers with a filling level, and single outlines.

    containers   eight kinds of container, named after those of C-CCM; the class is how full one is
    crops        one outline of `shapes` in the middle of a bright picture; the class is which one
    contexts     one of eight outlines on one of four kinds of ground, which mostly go together

Containers show why a network that is right on the containers it has seen can be wrong on others: the level is a share
of the volume, so half a cocktail glass stands at 0.78 of its height, and half a beer cup at 0.59. Contexts show what
the ground still says where the outline is lost. NumPy and OpenCV only.

Sources: Modas et al., Improving Filling Level Classification with Adversarial Training, ICIP 2021, section 3.1.
Akumalla, Haney, Bazhenov, Contextual Fusion For Adversarial Robustness, 2020, arXiv 2011.09526, section 2.2: COCO
pictures of similar and of dissimilar classes; contexts stand in for them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from yolo_wnlb.data.shapes import NAMES, noise, paint, texture, unit_shape

LEVELS = ("0 %", "50 %", "90 %", "unknown")  # "unknown": the wall is opaque, so that nobody can see the level
FILLED = (0.0, 0.5, 0.9)  # share of the volume of the first three
CONTENTS = ("water", "pasta", "rice")
HANDS = 0.4  # share of the pictures in which a hand holds the container
OVERSAMPLING = 2  # pictures are drawn so many times larger, and averaged
MIN_SIZE = 32  # pixels; a stem is no longer visible below
GROUNDS = {  # of `contexts`: each kind of ground, and the two outlines that go with it
    "stripes": ("disc", "star"),
    "checks": ("box", "crescent"),
    "dots": ("triangle", "heart"),
    "clouds": ("cross", "arrow"),
}
OUTLINES = tuple(outline for pair in GROUNDS.values() for outline in pair)
CONTEXTS = {  # each set of `contexts`, and its classes
    "all": OUTLINES,
    "similar": GROUNDS["stripes"],  # both go with one ground, so that the ground cannot tell them apart
    "dissimilar": tuple(pair[0] for pair in GROUNDS.values()),  # each goes with another ground
    "outlines": OUTLINES,  # on any ground: what a foreground network learns from
    "grounds": tuple(GROUNDS),  # without an outline: what a background network learns from
}
RHO = 0.9  # share of the pictures of `contexts` whose ground goes with the outline


class Container(NamedTuple):
    """A solid of revolution.

    Attributes:
        profile: Knots (height, radius) of the inside from the bottom to the rim, straight in between. Heights go from 0
            to 1, the largest radius is 1.
        slenderness: Height of the bowl divided by its largest diameter.
        stem: Height of stem and foot, as a share of the height of the bowl. 0 for none.
        opacity: How much of the content the wall hides: 0.1 for clear plastic, 1 for opaque.
        colour: Of the wall, BGR in [0, 1].
    """

    profile: tuple[tuple[float, float], ...]
    slenderness: float
    stem: float
    opacity: float
    colour: tuple[float, float, float]


CLEAR = (0.95, 0.95, 0.92)
CONTAINERS = {
    "beer cup": Container(((0, 0.68), (1, 1)), 1.35, 0, 0.12, CLEAR),
    "champagne flute": Container(((0, 0.25), (0.12, 0.62), (0.45, 1), (1, 0.84)), 2.7, 0.55, 0.10, CLEAR),
    "cocktail glass": Container(((0, 0.06), (1, 1)), 0.62, 0.9, 0.10, CLEAR),
    "green glass": Container(((0, 0.86), (1, 1)), 1.5, 0, 0.45, (0.30, 0.62, 0.25)),
    "red cup": Container(((0, 0.66), (1, 1)), 1.25, 0, 1.0, (0.14, 0.12, 0.78)),
    "small transparent cup": Container(((0, 0.72), (1, 1)), 1.0, 0, 0.15, CLEAR),
    "small white cup": Container(((0, 0.70), (1, 1)), 1.05, 0, 1.0, (0.90, 0.91, 0.92)),
    "wine glass": Container(((0, 0.2), (0.12, 0.7), (0.42, 1), (1, 0.72)), 1.2, 0.75, 0.10, CLEAR),
}
TESTED = {  # the paper's three test sets: kinds of container that no network has seen in training
    "S1": ("champagne flute", "beer cup", "cocktail glass"),
    "S2": ("champagne flute", "wine glass", "cocktail glass"),
    "S3": ("red cup", "green glass", "beer cup"),
    "all": (),  # the same eight kinds in training and test
}


class Drawing(NamedTuple):
    """Pictures with their classes.

    images: uint8 (N, size, size, 3), BGR.
    labels: N indices into `classes`.
    groups: The kind of container of each picture; whether its outline is on its own ground; "" for all others.
    boxes: Of the objects of each picture, x, y, width, height in pixels; None where they are not known.
    """

    classes: tuple[str, ...]
    images: np.ndarray
    labels: list[int]
    groups: list[str]
    boxes: list[list[tuple[int, int, int, int]]] | None = None


# ---- containers ----------------------------------------------------------------------------------


def kinds_of(test_set: str, split: str) -> list[str]:
    """List the kinds of container that a split shows; of S1, S2, S3 no kind is in both splits."""
    tested = TESTED[test_set]
    if not tested:
        return list(CONTAINERS)
    return list(tested) if split == "test" else [name for name in CONTAINERS if name not in tested]


def draw_containers(test_set: str, split: str, count: int, size: int, seed: int) -> Drawing:
    """Draw the containers of a split of S1, S2, S3 or all; kinds and levels take turns.

    Args:
        test_set: A key of TESTED.
        split: "train" or "test".
        count: Number of pictures.
        size: Side of a picture in pixels, MIN_SIZE or more.
        seed: The same one gives the same pictures; each depends on its number, and not on `count`.
    """
    kinds = kinds_of(test_set, split)
    images = np.empty((count, size, size, 3), np.uint8)
    labels, groups = [], []
    for index in range(count):
        name = kinds[index % len(kinds)]
        level = (index % len(kinds) + index // len(kinds)) % len(FILLED)
        rng = np.random.default_rng([seed, [*TESTED].index(test_set), split == "test", index])
        images[index] = container_picture(CONTAINERS[name], FILLED[level], rng, size)
        labels.append(LEVELS.index("unknown") if CONTAINERS[name].opacity == 1 else level)
        groups.append(name)
    return Drawing(LEVELS, images, labels, groups)


def filling_height(profile: Sequence[tuple[float, float]], level: float) -> float:
    """Return the height, 0 to 1, that a share of the volume fills: h with V(h) = level V(1), V(h) = integral of r^2.

    Between two knots the radius is linear, and the volume of the frustum below z is (r(z)^3 - r_0^3) / (3 slope).

    Args:
        profile: See `Container`.
        level: Share of the volume, 0 to 1.
    Example:
        >>> round(filling_height([(0, 0), (1, 1)], 0.5), 4)
        0.7937
    """
    pieces = list(itertools.pairwise(profile))
    volumes = [(z1 - z0) * (r0 * r0 + r0 * r1 + r1 * r1) / 3 for (z0, r0), (z1, r1) in pieces]
    rest = level * sum(volumes)
    for ((z0, r0), (z1, r1)), volume in zip(pieces, volumes):
        if rest < volume:
            slope = (r1 - r0) / (z1 - z0)
            if abs(slope) < 1e-9:
                return z0 + rest / r0**2
            return z0 + (float(np.cbrt(r0**3 + 3 * rest * slope)) - r0) / slope
        rest -= volume
    return float(profile[-1][0])


def container_picture(container: Container, level: float, rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw one container, filled to a share of its volume: uint8 (size, size, 3), BGR."""
    side = OVERSAMPLING * size
    image = ground(rng, side)
    slenderness = container.slenderness * rng.uniform(0.9, 1.1)
    height = min(rng.uniform(0.66, 0.86) / (1 + container.stem), 0.8 * slenderness) * side  # of the bowl, in pixels
    view = View(
        radius=height / slenderness / 2,
        height=height,
        foot=(
            side * rng.uniform(0.46, 0.54),
            (side + height * (1 + container.stem)) / 2 + side * rng.uniform(-0.04, 0.04),
        ),
        stem=container.stem * height,
        turn=rng.uniform(-0.1, 0.1),
        tilt=rng.uniform(0.12, 0.28),
    )
    shade = rng.uniform(0.85, 1.1)
    wall = np.clip(np.array(container.colour) * shade + rng.normal(0, 0.03, 3), 0, 1)
    if container.stem:
        blend(image, view.stem_mask(side, container.profile[0][1]), wall, 0.45)
    if level:
        pour(image, view, container, filling_height(container.profile, level), rng)
    body = view.body_mask(side, container.profile, 1.0)
    across = np.linspace(-1, 1, side)[None, :, None]
    rounded = wall * (1 - 0.25 * np.abs(across) + 0.1 * rng.uniform(-1, 1) * across)  # darker towards the edges
    blend(image, body, np.broadcast_to(rounded, image.shape), container.opacity)
    line = np.ones(3) if rng.random() < 0.5 else np.full(3, 0.15)
    edges = np.zeros((side, side), np.uint8)
    cv2.polylines(edges, [view.outline(container.profile, 1.0)], True, 1, OVERSAMPLING)
    cv2.polylines(edges, [view.ring(1.0, container.profile[-1][1])], True, 1, OVERSAMPLING)
    blend(image, edges > 0, line, 0.55)
    if rng.random() < HANDS:
        hold(image, view, rng)
    small = cv2.resize(image.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
    small = small * rng.uniform(0.75, 1.1) + rng.normal(0, 0.015, small.shape)
    return np.rint(255 * np.clip(small, 0, 1)).astype(np.uint8)


class View(NamedTuple):
    """Where a container stands in a picture, and how it is turned.

    Attributes:
        radius: Largest radius of the bowl in pixels.
        height: Of the bowl in pixels.
        foot: x and y of the point that the container stands on.
        stem: Height of stem and foot in pixels.
        turn: Angle that it leans by, in radians.
        tilt: Height of the ellipse that a horizontal circle becomes, divided by its width.
    """

    radius: float
    height: float
    foot: tuple[float, float]
    stem: float
    turn: float
    tilt: float

    def place(self, across: np.ndarray, up: np.ndarray) -> np.ndarray:
        """Turn points into pixels, int32 (P, 2): across from the axis, up from the foot."""
        x = self.foot[0] + across * np.cos(self.turn) + up * np.sin(self.turn)
        y = self.foot[1] + across * np.sin(self.turn) - up * np.cos(self.turn)
        return np.rint(np.c_[x, y]).astype(np.int32)

    def ring(self, z: float, radius: float) -> np.ndarray:
        """Outline the circle of a radius at a height of the bowl: int32 (P, 2)."""
        angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        across = radius * self.radius
        return self.place(across * np.cos(angle), self.stem + z * self.height + across * self.tilt * np.sin(angle))

    def outline(self, profile: Sequence[tuple[float, float]], top: float) -> np.ndarray:
        """Outline the bowl from its bottom to a height: int32 (P, 2)."""
        z = np.linspace(0, top, 40)
        radius = radius_at(profile, z) * self.radius
        up = self.stem + z * self.height
        return self.place(np.r_[radius, -radius[::-1]], np.r_[up, up[::-1]])

    def body_mask(self, side: int, profile: Sequence[tuple[float, float]], top: float) -> np.ndarray:
        """Fill the bowl from its bottom to a height, both ends round: bool (side, side)."""
        mask = np.zeros((side, side), np.uint8)
        ends = [self.ring(z, float(radius_at(profile, z))) for z in (0.0, top)]
        for polygon in (self.outline(profile, top), *ends):
            cv2.fillPoly(mask, [polygon], 1)
        return mask > 0

    def stem_mask(self, side: int, radius: float) -> np.ndarray:
        """Fill the stem, as wide as the bottom of the bowl at most, and the foot: bool (side, side)."""
        mask = np.zeros((side, side), np.uint8)
        half = max(min(radius, 0.1) * self.radius, OVERSAMPLING)
        cv2.fillPoly(
            mask, [self.place(np.array([-half, half, half, -half]), np.array([0, 0, self.stem, self.stem]))], 1
        )
        angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        wide = 0.7 * self.radius
        cv2.fillPoly(mask, [self.place(wide * np.cos(angle), wide * self.tilt * np.sin(angle))], 1)
        return mask > 0


def radius_at(profile: Sequence[tuple[float, float]], z: float | np.ndarray) -> np.ndarray:
    """Return the radius of a profile at a height, or at many."""
    heights, radii = np.array(profile, float).T
    return np.interp(z, heights, radii)


def pour(image: np.ndarray, view: View, container: Container, height: float, rng: np.random.Generator) -> None:
    """Draw water, pasta or rice up to a height, in place."""
    content, side = CONTENTS[rng.integers(len(CONTENTS))], len(image)
    grain = noise(rng, side)[..., None]
    if content == "water":
        colour, alpha = np.array([0.85, 0.72, 0.55]) * (0.9 + 0.2 * grain), 0.45
    elif content == "pasta":
        colour, alpha = np.array([0.25, 0.62, 0.88]) * (0.6 + 0.6 * (np.sin(40 * grain) > 0)), 0.95
    else:
        speckle = rng.random((side, side, 1))
        colour, alpha = np.array([0.78, 0.84, 0.88]) * (0.7 + 0.35 * speckle), 0.95
    blend(image, view.body_mask(side, container.profile, height), np.broadcast_to(colour, image.shape), alpha)
    surface = np.zeros((side, side), np.uint8)
    cv2.fillPoly(surface, [view.ring(height, float(radius_at(container.profile, height)))], 1)
    blend(image, surface > 0, np.clip(colour * 1.15, 0, 1), 0.5 * alpha)


def hold(image: np.ndarray, view: View, rng: np.random.Generator) -> None:
    """Draw four fingers around the lower half of the bowl, in place."""
    side = len(image)
    skin = np.array([0.45, 0.58, 0.78]) * rng.uniform(0.45, 1.15)
    mask = np.zeros((side, side), np.uint8)
    direction = -1 if rng.random() < 0.5 else 1
    thick = max(round(0.1 * view.height), 2)
    low = rng.uniform(0.02, 0.2)
    for finger in range(4):
        up = view.stem + (low + 0.11 * finger) * view.height
        reach = view.radius * rng.uniform(-0.1, 0.5)
        ends = view.place(np.array([direction * 3 * view.radius, -direction * reach]), np.array([up, up]))
        cv2.line(mask, ends[0].tolist(), ends[1].tolist(), 1, thick)
    blend(image, mask > 0, skin, 0.95)


def blend(image: np.ndarray, mask: np.ndarray, colour: np.ndarray, alpha: float) -> None:
    """Mix a colour, or a picture of colours, into the pixels of a mask, in place."""
    picked = colour[mask] if colour.ndim == 3 else colour
    image[mask] = (1 - alpha) * image[mask] + alpha * picked


def ground(rng: np.random.Generator, side: int) -> np.ndarray:
    """Draw a textured ground of two colours: float64 (side, side, 3) in about [0, 1]."""
    clouds = noise(rng, side)[..., None]
    first, second = rng.uniform(0.1, 0.9, (2, 3))
    return (first * clouds + second * (1 - clouds)) * texture(rng, side)[..., None]


# ---- outlines ------------------------------------------------------------------------------------


def draw_crops(split: str, count: int, size: int, seed: int) -> Drawing:
    """Draw one bright, shaded outline in each picture, the five of `shapes` in turn.

    Args:
        split: "train" or "val".
        count: Number of pictures.
        size: Side of a picture in pixels, MIN_SIZE or more.
        seed: The same one gives the same pictures; each depends on its number, and not on `count`.
    """
    images = np.empty((count, size, size, 3), np.uint8)
    labels = [index % len(NAMES) for index in range(count)]
    for index, label in enumerate(labels):
        rng = np.random.default_rng([seed, len(TESTED), split == "val", index])
        image = ground(rng, size).astype(np.float32)
        turn, stretch, radius = rng.uniform(0, 2 * np.pi), rng.uniform(0.85, 1.18), size * rng.uniform(0.24, 0.36)
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        corners = unit_shape(NAMES[label]) * [stretch, 1 / stretch] @ rotation.T * radius
        corners += size * rng.uniform(0.45, 0.55, 2)
        mask = cv2.fillPoly(np.zeros((size, size), np.uint8), [np.rint(corners).astype(np.int32)], 1) > 0
        paint(image, mask, radius, rng.uniform(0, 2 * np.pi), rng)
        images[index] = np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)
    return Drawing(NAMES, images, labels, [""] * count)


# ---- outlines in contexts ------------------------------------------------------------------------


def draw_contexts(name: str, split: str, count: int, size: int, seed: int, rho: float = RHO) -> Drawing:
    """Draw the pictures of a set of `contexts`; its classes take turns.

    Args:
        name: A key of CONTEXTS.
        split: "train" or "test".
        count: Number of pictures.
        size: Side of a picture in pixels, MIN_SIZE or more.
        seed: The same one gives the same pictures; each depends on its number, and not on `count`.
        rho: Probability that an outline stands on its own ground, 0 to 1; else it stands on one of the other three. At
            0.25 the ground says nothing. Another rho changes the ground of some pictures, and nothing else about it.
            The sets "outlines" (any ground, all equally likely) and "grounds" do not use it.
    """
    classes = CONTEXTS[name]
    images = np.empty((count, size, size, 3), np.uint8)
    labels = [index % len(classes) for index in range(count)]
    groups, boxes = [], []
    for index, label in enumerate(labels):
        key = [seed, len(TESTED) + 1 + [*CONTEXTS].index(name), split == "test", index]
        choice, below, above = (np.random.default_rng([*key, part]) for part in range(3))
        agrees = choice.random() < rho
        other, any_ground = (int(choice.integers(first, len(GROUNDS))) for first in (1, 0))
        if name == "grounds":
            number, group = label, ""
        elif name == "outlines":
            number, group = any_ground, ""
        else:
            own = next(n for n, pair in enumerate(GROUNDS.values()) if classes[label] in pair)
            number = own if agrees else (own + other) % len(GROUNDS)
            group = "own ground" if agrees else "other ground"
        image = ground_of_kind([*GROUNDS][number], below, size)
        groups.append(group)
        boxes.append([] if name == "grounds" else [place_outline(image, classes[label], above)])
        images[index] = np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)
    return Drawing(classes, images, labels, groups, boxes)


def ground_of_kind(kind: str, rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw a ground in two colours; which ones says nothing about its kind.

    Args:
        kind: A key of GROUNDS.
        rng: Source of randomness.
        size: Side in pixels.
    Returns: float32 (size, size, 3) in [0, 1].
    """
    y, x = np.mgrid[:size, :size].astype(np.float32) / size + rng.random((2, 1, 1), np.float32)
    turn, waves = rng.uniform(0, np.pi), rng.uniform(5, 7)  # periods in a side
    along, across = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    first, second = (np.sin(2 * np.pi * waves * place) for place in (along, across))
    pattern = {
        "stripes": np.clip(0.5 + 1.5 * first, 0, 1),
        "checks": np.clip(0.5 + 3 * first * second, 0, 1),
        "dots": np.clip(0.5 + 3 * (first + second - 0.9), 0, 1),
        "clouds": noise(rng, size),
    }[kind][..., None]
    colours = rng.uniform(0.1, 0.9, (4, 2, 3))  # four tries: keep the pair with the largest contrast
    bright, dark = colours[np.abs(np.diff(colours, axis=1)).sum((1, 2)).argmax()]
    image = pattern * bright + (1 - pattern) * dark + rng.normal(0, 0.02, (size, size, 3))
    return np.clip(image, 0, 1).astype(np.float32)


def place_outline(image: np.ndarray, name: str, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Paint an outline near the middle of a picture, float32 (S, S, 3) in [0, 1], in place.

    Args:
        image: What stands behind it.
        name: One of OUTLINES.
        rng: Source of randomness.
    Returns: The box of the outline: x, y, width, height in pixels.
    """
    size = len(image)
    turn, stretch, radius = rng.uniform(0, 2 * np.pi), rng.uniform(0.85, 1.18), size * rng.uniform(0.2, 0.28)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    corners = corners_of(name) * [stretch, 1 / stretch] @ rotation.T * radius
    corners += size * rng.uniform(0.45, 0.55, 2)
    mask = cv2.fillPoly(np.zeros((size, size), np.uint8), [np.rint(corners).astype(np.int32)], 1)
    paint(image, mask > 0, radius, rng.uniform(0, 2 * np.pi), rng)
    x, y, width, height = cv2.boundingRect(mask)
    return x, y, width, height


def corners_of(name: str) -> np.ndarray:
    """Return the corners (P, 2) of one of OUTLINES around the origin, about one unit in radius."""
    if name == "cross":
        quarter = np.array([[1.2, -0.4], [1.2, 0.4], [0.4, 0.4]])
        return np.concatenate([quarter @ np.array([[c, s], [-s, c]]) for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))])
    if name == "arrow":
        return np.array([[1.3, 0], [0.1, 1.1], [0.1, 0.4], [-1.2, 0.4], [-1.2, -0.4], [0.1, -0.4], [0.1, -1.1]])
    if name == "heart":
        angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
        up = 13 * np.cos(angle) - 5 * np.cos(2 * angle) - 2 * np.cos(3 * angle) - np.cos(4 * angle)
        return np.c_[16 * np.sin(angle) ** 3, up + 2] / 14
    return unit_shape(name)
