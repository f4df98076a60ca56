"""See what a trained model has learnt: w, features before and after each block, attention, predictions.

    weights, images -> observations of each image -> statistics of each block -> Report, pages

Dark images are drawn brighter than they are, and say so; the model gets them as they are.
"""

from __future__ import annotations

import colorsys
import math
import os
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from yolo_wnlb.data.sources import printable
from yolo_wnlb.imaging.sheet import footer, heading, in_a_row, panel, paper, resized, scaled, shortened, write
from yolo_wnlb.pairwise import SOFTMAX
from yolo_wnlb.visualize.block_statistics import BlockStatistics, add_image, statistics_of, why_identity
from yolo_wnlb.visualize.observation import (
    IMAGE_SIDE,
    NOTHING_FOUND,
    Object,
    Observation,
    blocks_of,
    darkened,
    load_model,
    observe,
    read_samples,
    recorded_maps,
    training_data,
)
from yolo_wnlb.yolo.darkness import read_request
from yolo_wnlb.yolo.models import channels_of
from yolo_wnlb.yolo.night import set_night
from yolo_wnlb.yolo.sixteen_bits import curve_of

MAP_SIDE = 256  # pixels, the longer side of a map, as drawn
TWINS = (
    "to bright twin: mean((f - t)^2) / var(t) of the features f of the dark picture, before and after the block, and t "
    "of the bright one, which the model computes without its blocks; the mean of all images"
)
COPIES_ONE = 1.5  # effective neighbours; with fewer, attention copies one position
PAGES = {  # and features-1.png, ..., twins-1.png, ...
    "blocks.png": "w, W_z, the change and the neighbours of each block",
    "predictions.png": "what is labelled, and what was found",
    "attention.png": "what one position of each image attends to",
}
FEATURES, HEAT, SIGNED = "viridis", "inferno", "RdBu_r"  # matplotlib's names of colours


@dataclass
class Report:
    """What `inspect_model` found; print it.

    Attributes:
        weights: The checkpoint.
        protocol: Size and threshold.
        folder: Where the pictures are.
        blocks: In the order of the model.
        images: Their names.
        positions: (x, y, what is at them) in each image: whose attention was drawn.
        files: {name: what it shows}.
        notes: What the reader has to know.
    """

    weights: str
    protocol: dict[str, Any]
    folder: Path
    blocks: list[BlockStatistics] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    positions: list[tuple[float, float, str]] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """Return the table of the blocks, that of the positions, the notes, and what was written."""
        protocol = ", ".join(f"{key} {value}" for key, value in self.protocol.items())
        rows = [["layer", "stage", "stride", "channels", "operation", "sub_sample", "w", "|W_z|", "|z-x|/|x|"]]
        rows[0] += ["neighbours"]
        twins = any(b.twin_before for b in self.blocks)
        rows[0] += ["to bright twin: before", "after"] if twins else []
        for b in self.blocks:
            rows.append([b.layer, b.stage, f"{b.stride}", f"{b.channels}", b.operation, f"{b.sub_sample}"])
            rows[-1] += [b.w_text, f"{b.w_z_norm:.3g}", extent(b.change, ".2%")]
            rows[-1] += [f"{extent(b.neighbours, '.1f')} of {extent(b.keys, 'd')}"]
            rows[-1] += [f"{statistics.mean(d):.3f}" for d in (b.twin_before, b.twin_after)] if twins else []
        lines = [
            f"{printable(self.weights)}: {count('block', self.blocks)}, {count('image', self.images)}, {protocol}",
            *aligned(rows),
        ]
        rows = [["", "image", "x,y", "what is there", *(f"layer {b.layer}" for b in self.blocks)]]
        for i, (name, (x, y, target)) in enumerate(zip(self.images, self.positions)):
            counts = [f"{b.neighbours_at[i]:.1f} of {b.keys[i]}" for b in self.blocks]
            rows.append([f"{i + 1}", shortened(name), f"{x:.0f},{y:.0f}", target, *counts])
        lines += ["", "attention of one position: effective number of neighbours, exp(entropy)", *aligned(rows), ""]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join([*lines, f"written to {self.folder}:", *aligned([*map(list, self.files.items())])])

    def save(self, name: str, picture: np.ndarray, shows: str = "") -> None:
        """Write a PNG into the folder."""
        self.files.setdefault(name, shows)
        (self.folder / name).write_bytes(cv2.imencode(".png", picture)[1].tobytes())


def inspect_model(
    weights: str | Path,
    images: str | Path | Sequence[str | Path] | None = None,
    out: str | Path | None = None,
    *,
    n: int = 4,
    imgsz: int | None = None,
    at: Sequence[float] | None = None,
    other: str | Path | None = None,
    conf: float = 0.25,
    lowlight: Any = None,
    exist_ok: bool = False,
) -> Report:
    """Look into a model that has blocks, on the CPU: write pictures, return the numbers.

    Args:
        weights: A checkpoint, .pt, for detection or segmentation.
        images: Images, folders of images, data YAMLs (their val split; labels stand beside the
            predictions), read in the channels of the model. Default: the data that the model was trained on,
            if it is here.
        out: Folder for the pictures. Default: inspect, or the next of inspect-2, inspect-3, ...
        n: Images of each folder or data set, evenly spaced. Images named one by one are all taken, each once.
        imgsz: Longer side that images are brought to. Default: as trained.
        at: x, y in pixels of each image, whose attention is drawn. Default: the centre of the most
            confident detection, or that of the image.
        other: A second checkpoint, with blocks or without, whose predictions stand beside.
        conf: Lowest confidence of a prediction to draw.
        lowlight: As in training, a preset or settings: the images are bright; they are resized to imgsz, then
            darkened, and the features of the dark ones are compared with those of the bright ones, before and
            after each block. None: the images are taken as they are.
        exist_ok: Write over the pictures in `out`.
    Raises: ValueError, OSError: with the remedy; nothing is written.
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"n is {n!r}; wanted a whole number, 1 or more")
    if isinstance(conf, bool) or not isinstance(conf, (int, float)) or not 0 < conf < 1:
        raise ValueError(f"conf is {conf!r}; wanted a confidence between 0 and 1")
    paths = [path for path in (weights, other) if path is not None]
    models = [load_model(Path(path)) for path in paths]
    modules = blocks_of(models[0])
    if not modules:
        raise ValueError(
            f"{weights} has no wNLB block, so there is nothing to look into; give a model that has some, and this "
            "one as with= to see its predictions beside"
        )
    size = models[0].overrides.get("imgsz", 640) if imgsz is None else imgsz
    stride = max(int(model.model.stride.max()) for model in models)
    if isinstance(size, bool) or not isinstance(size, int) or size < stride or size % stride:
        raise ValueError(f"imgsz is {size!r}; wanted a multiple of the stride, {stride}")
    camera, seed = (None, 0) if lowlight in (None, False) else read_request(lowlight)[:2]
    images = training_data(models[0], weights) if images is None else images
    report = Report(str(weights), {"image size": size, "confidence at least": conf}, Path(), files=dict(PAGES))
    sources = [images] if isinstance(images, (str, Path)) else images
    readings = [(channels_of(model), curve_of(None, model)) for model in models]
    samples = read_samples(sources, n, readings, report.notes)
    for sample in samples:
        check_position(at, sample.name, sample.images[0])
    originals = [sample.images[0].shape for sample in samples]
    if camera is not None:
        if {channels_of(model) for model in models} - {1, 3}:
            raise ValueError(
                f"lowlight={lowlight} simulates a grey or a colour camera, and a model here takes "
                f"{' and '.join(str(channels_of(model)) for model in models)} channels; leave it out"
            )
        samples = [darkened(sample, camera, seed, size) for sample in samples]
    report.folder = make_folder(out, exist_ok)

    labelled = any(sample.labels is not None for sample in samples)
    names = [printable(name) for model in models for name in model.names.values()]
    names += [label.name for sample in samples for label in sample.labels or ()]
    palette = {name: tone(i) for i, name in enumerate(dict.fromkeys(names))}
    titles = [f"{shortened(printable(path))}, {count('block', blocks_of(m))}" for path, m in zip(paths, models)]
    attention_strips: list[np.ndarray] = []
    prediction_strips: list[np.ndarray] = [heading(["labels", *titles] if labelled else titles, IMAGE_SIDE)]
    maps = recorded_maps(models[0])
    teacher = None
    if camera is not None:
        report.protocol["darkened by"] = f"lowlight={lowlight}"
        bright = load_model(Path(weights))
        set_night(bright, False)
        teacher = (bright, recorded_maps(bright))
        report.notes.append(TWINS)
    for number, sample in enumerate(samples, 1):
        zoom_y, zoom_x = (new / old for new, old in zip(sample.images[0].shape, originals[number - 1][:2]))
        position = None if at is None else (at[0] * zoom_x, at[1] * zoom_y)
        observation = observe(sample, models, maps, position, teacher, imgsz=size, conf=conf)
        x, y = observation.position
        report.images.append(observation.name)
        report.positions.append((x / zoom_x, y / zoom_y, observation.target))
        if not report.blocks:
            report.blocks = [statistics_of(layer, block, observation) for layer, block in modules.items()]
        attentions = [add_image(block, modules[block.layer], observation) for block in report.blocks]
        attention_strips.append(attention_strip(report.blocks, attentions, observation))
        prediction_strips.append(prediction_strip(observation, labelled, palette))
        page = features_page(report.blocks, observation)
        report.save(f"features-{number}.png", page, f"{observation.name} before and after each block")
        if observation.twin:
            shows = f"{observation.name} in the dark before and after each block, and its bright twin"
            report.save(f"twins-{number}.png", twins_page(report.blocks, observation), shows)
    plot(report.blocks, report.folder / "blocks.png")
    report.save("attention.png", attention_page(report.blocks, attention_strips))
    below = f"Drawn: confidence {conf} or more, at image size {size}."
    report.save("predictions.png", np.vstack([*prediction_strips, footer(below, prediction_strips[0].shape[1])]))
    for file in pages_in(report.folder):  # of an earlier call with more images
        if file.name not in report.files:
            file.unlink()
    report.notes += remarks(report)
    return report


def check_position(at: Sequence[float] | None, name: str, picture: np.ndarray) -> None:
    """Raise ValueError unless `at` is a pixel of the image."""
    if at is None:
        return
    height, width = picture.shape[:2]
    pair: list[Any] = list(at) if isinstance(at, (list, tuple)) else [at]
    if len(pair) != 2 or any(isinstance(v, bool) or not isinstance(v, (int, float)) for v in pair):
        raise ValueError(f"at is {at!r}; wanted x,y in pixels, such as at=80,60")
    x, y = pair
    if not (0 <= x < width and 0 <= y < height):
        raise ValueError(f"at={x},{y} is outside {name}; wanted x below {width} and y below {height}, both 0 or more")


def make_folder(out: str | Path | None, exist_ok: bool) -> Path:
    """Return the folder to write into, made if need be."""
    from ultralytics.utils.files import increment_path

    folder = (Path(out) if out else Path(increment_path("inspect", exist_ok))).absolute()
    if pages_in(folder) and not exist_ok:
        raise ValueError(f"{folder} holds the pictures of another call; choose another out=, or add exist_ok=True")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"out={folder} cannot be made a folder ({error.strerror}); choose another") from error
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"nothing can be written into out={folder}; choose another folder")
    return folder


def pages_in(folder: Path) -> list[Path]:
    """List the files in a folder that have the names of our pages."""
    return [
        file for file in folder.glob("*.png") if file.name in PAGES or re.fullmatch(r"(features|twins)-\d+", file.stem)
    ]


def remarks(report: Report) -> list[str]:
    """Say in words what is easily overlooked in the numbers."""
    notes = []
    for block in report.blocks:
        if not any(block.change):
            notes.append(f"{block}: {why_identity(block)}, the block is the identity: before and after are equal")
    if broken := [str(block) for block in report.blocks if not np.isfinite(block.change).all()]:
        notes.append(f"{'; '.join(broken)}: features that are no finite numbers; the training has diverged")
    softmax = [block for block in report.blocks if block.operation in SOFTMAX]
    if copies := [str(b) for b in softmax if statistics.median(b.neighbours) < COPIES_ONE < b.keys[0]]:
        notes.append(
            f"{'; '.join(copies)}: at most positions the softmax chooses one key, so that y is a copy and no "
            "mean; a smaller scale, such as None for 1/sqrt(d), or scale=cosine starts softer"
        )
    if zero := [str(block) for block in report.blocks if not any(block.neighbours)]:
        notes.append(
            f"{'; '.join(zero)}: at most positions no key counts, since the ReLU cuts every pair: y is 0 there"
        )
    if empty := [name for name, (_, _, target) in zip(report.images, report.positions) if target == NOTHING_FOUND]:
        notes.append(
            f"no object was found in {', '.join(empty)}, so the attention of the pixel in the middle is shown; at=x,y "
            "takes another one, a lower conf= finds more"
        )
    return notes


# ---- pages ---------------------------------------------------------------------------------------


def features_page(blocks: Sequence[BlockStatistics], observation: Observation) -> np.ndarray:
    """Draw a row for each block: the mean of all channels, and the one that changes most, before and after."""
    size = scaled(observation.bright.shape, MAP_SIDE)
    picture = resized(observation.bright, size)
    names = ["mean of channels: before", "after", "after − before", "one channel: before", "after", "after − before"]  # noqa: RUF001
    page = [heading([shortened(observation.name, 22), *names], MAP_SIDE)]
    for block in blocks:
        x, z = (side[0] for side in observation.maps[block.layer])
        most = int((z - x).square().sum((1, 2)).argmax())
        w = "no w" if block.w is None else f"w {block.w_text}"
        caption = [str(block), f"{w}, change {block.change[-1]:.1%}", f"{len(x)} x {x.shape[1]} x {x.shape[2]}"]
        panels = [panel([picture], caption, MAP_SIDE)]
        for before, after, what in ((x.mean(0), z.mean(0), "mean"), (x[most], z[most], f"channel {most}")):
            one, two = (observation.letterbox.crop(side.numpy(), size) for side in (before, after))
            low, high = float(min(one.min(), two.min())), float(max(one.max(), two.max()))
            caption = [f"{low:.3g} to {high:.3g}", what]
            panels += [panel(with_scale(side, low, high, FEATURES), caption, MAP_SIDE) for side in (one, two)]
            apart = float(abs(two - one).max())
            caption = [f"-{apart:.2g} to {apart:.2g}", f"up to {apart / (high - low or 1):.1%} of the scale"]
            caption = caption if apart else ["no difference", why_identity(block)]
            panels.append(panel(with_scale(two - one, -(apart or 1), apart or 1, SIGNED), caption, MAP_SIDE))
        page.append(in_a_row(panels))
    below = (
        "Before is x and after is z, on one scale, the lowest to the highest of both; their difference has a scale of "
        f"its own. The one channel is that with the largest |z - x|. {shown_brightness(observation)}."
    )
    return np.vstack([*page, footer(below, page[0].shape[1])])


def twins_page(blocks: Sequence[BlockStatistics], observation: Observation) -> np.ndarray:
    """Draw a row for each block: features in the dark before and after it, and those of the bright twin.

    The maps are the mean of all channels, and the channel that the block brings closest to the bright twin.
    """
    assert observation.twin is not None and observation.twin_image is not None
    size = scaled(observation.bright.shape, MAP_SIDE)
    pictures = [resized(observation.bright, size), resized(observation.twin_image, size)]
    names = ["the dark picture", "its bright twin"]
    names += ["mean of channels: before", "after", "bright twin", "one channel: before", "after", "bright twin"]
    page = [heading(names, MAP_SIDE)]
    for block in blocks:
        x, z = (side[0] for side in observation.maps[block.layer])
        target = observation.twin[block.layer][0]
        gain = ((x - target).square() - (z - target).square()).mean((1, 2))
        best = int(gain.nan_to_num(-math.inf).argmax())
        apart = [f"distance {block.twin_before[-1]:.3f} before", f"{block.twin_after[-1]:.3f} after the block"]
        panels = [panel([pictures[0]], [str(block), shortened(observation.name, 30)], MAP_SIDE)]
        panels.append(panel([pictures[1]], apart, MAP_SIDE))
        for maps, what in (
            ([side.mean(0) for side in (x, z, target)], "mean"),
            ([side[best] for side in (x, z, target)], f"channel {best}"),
        ):
            cut = [observation.letterbox.crop(side.numpy(), size) for side in maps]
            low, high = float(cut[2].min()), float(cut[2].max())
            variance = float(maps[2].var().clamp_min(1e-12))
            for side, of_cut in zip(maps, cut):
                error = float((side - maps[2]).square().mean()) / variance
                caption = [what, f"distance {error:.3f}" if side is not maps[2] else f"{low:.3g} to {high:.3g}"]
                panels.append(panel(with_scale(of_cut, low, high, FEATURES), caption, MAP_SIDE))
        page.append(in_a_row(panels))
    below = (
        "The scale of three maps is that of the bright twin, from its lowest to its highest number. Distance: mean "
        "squared difference over the variance of the bright twin's. The one channel is that which the block brings "
        f"closest to it. The dark picture: {shown_brightness(observation).lower()}."
    )
    return np.vstack([*page, footer(below, page[0].shape[1])])


def attention_page(blocks: Sequence[BlockStatistics], strips: Sequence[np.ndarray]) -> np.ndarray:
    """Put the strips of all images below the names of the blocks."""
    caption = (
        "The ring marks one position, the square what it is in the map. The brighter a place, the more it counts in "
        "the y of this position; dot products may count against it, in blue. Neighbours: exp(entropy)."
    )
    head = heading(["position", *map(str, blocks)], MAP_SIDE)
    return np.vstack([head, *strips, footer(caption, head.shape[1])])


def attention_strip(
    blocks: Sequence[BlockStatistics], attentions: Sequence[np.ndarray], observation: Observation
) -> np.ndarray:
    """Draw the image with the position, and for each block the image under its attention."""
    size = scaled(observation.bright.shape, MAP_SIDE)
    marked = resized(observation.bright, size)
    grey = cv2.cvtColor(cv2.cvtColor(marked, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR) * 0.5
    place = [
        int(v / side * drawn)
        for v, side, drawn in zip(observation.position, observation.bright.shape[1::-1], size[::-1])
    ]
    for width, light in ((5, 0), (2, 255)):
        cv2.circle(marked, place, 9, (light,) * 3, width, cv2.LINE_AA)
    caption = [observation.target, "x {:.0f}, y {:.0f}".format(*observation.position), shortened(observation.name, 30)]
    panels = [panel([marked], caption, MAP_SIDE)]
    for block, row in zip(blocks, attentions):
        shape = observation.maps[block.layer][0].shape[2:]
        over = row.repeat(block.sub_sample, 0).repeat(block.sub_sample, 1)[: shape[0], : shape[1]]  # keys are windows
        over = observation.letterbox.crop(over, size)
        bound = float(abs(row).max()) or 1.0
        low, colours = (-bound, SIGNED) if row.min() < 0 else (0.0, HEAT)
        strength = 0.75 * np.sqrt(np.nan_to_num(abs(over) / bound))[..., None]
        drawn = (grey * (1 - strength) + colour(over, low, bound, colours) * strength).astype(np.uint8)
        own = np.zeros(shape)
        own[observation.letterbox.map_position(observation.position, observation.bright, shape)] = 1
        left, top, width, height = cv2.boundingRect(
            np.argwhere(observation.letterbox.crop(own, size))[:, ::-1].astype(np.int32)
        )
        cv2.rectangle(drawn, (left, top), (left + width - 1, top + height - 1), (255, 255, 255), 1)
        least, largest = (0 if abs(v) < bound / 1000 else v for v in (row.min(), row.max()))
        caption = [f"{block.neighbours_at[-1]:.1f} of {row.size} neighbours", f"weights {least:.2g} to {largest:.2g}"]
        panels.append(panel([drawn], caption, MAP_SIDE))
    return in_a_row(panels)


def prediction_strip(observation: Observation, labelled: bool, palette: dict[str, tuple[int, ...]]) -> np.ndarray:
    """Draw the labels, if any image has some, and what each model found."""
    picture = resized(observation.bright, scaled(observation.bright.shape, IMAGE_SIDE))
    columns = [(observation.labels or [], [count("object", observation.labels)])] if labelled else []
    for found in observation.found:
        scores = [item.score for item in found if item.score is not None]
        columns.append((found, [f"{len(found)} found", *(["confidence " + extent(scores, ".2f")] if scores else [])]))
    columns[0][1].extend([shortened(observation.name), shown_brightness(observation)])
    return in_a_row([panel([draw(picture, objects, palette)], caption, IMAGE_SIDE) for objects, caption in columns])


def draw(picture: np.ndarray, objects: Sequence[Object], palette: dict[str, tuple[int, ...]]) -> np.ndarray:
    """Paint objects over a picture: masks or else boxes, then their names."""
    drawn = picture.copy()
    height, width = drawn.shape[:2]
    taken: list[tuple[int, int, int, int]] = []
    boxes = [[round(share * side) for share, side in zip(o.box, (width, height) * 2)] for o in objects]
    for item, (x1, y1, x2, y2) in reversed([*zip(objects, boxes)]):  # the most confident on top
        ink = palette[item.name]
        if item.mask is None:
            cv2.rectangle(drawn, (x1, y1), (x2, y2), ink, 2, cv2.LINE_AA)
        else:
            drawn[item.mask] = (0.65 * drawn[item.mask] + 0.35 * np.array(ink)).astype(np.uint8)
            edges, _ = cv2.findContours(item.mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(drawn, edges, -1, ink, 2, cv2.LINE_AA)
    for item, (x1, y1, _, y2) in zip(objects, boxes):
        text = write(paper(18, 10 + round(7.4 * len(item.text))), [(1, item.text, 12, True)])
        tag = np.hstack([np.full((18, 4, 3), palette[item.name], np.uint8), text])
        h, w = min(tag.shape[0], height), min(tag.shape[1], width)
        left = min(max(x1, 0), width - w)
        tops = [min(max(top, 0), height - h) for top in (y1 - h, y2 - h, (y1 + y2 - h) // 2, y1, y2)]
        clear = [t for t in tops if not any(abs(t - b) < h and left < r and a < left + w for a, b, r, _ in taken)]
        top = (clear or tops)[0]
        taken.append((left, top, left + w, 0))
        drawn[top : top + h, left : left + w] = tag[:h, :w]
    return drawn


def plot(blocks: Sequence[BlockStatistics], file: Path) -> None:
    """Draw what the blocks have learnt: a bar each, a dot for each image."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure = Figure(figsize=(12, 1.2 + 0.7 * len(blocks)), layout="constrained", facecolor="#ececea")
    places = np.arange(len(blocks))
    parts = (
        ("w", [[b.w or 0.0] for b in blocks], "{:.4g}"),
        ("‖W_z‖", [[b.w_z_norm] for b in blocks], "{:.3g}"),
        ("change ‖z − x‖ / ‖x‖", [b.change for b in blocks], "{:.1%}"),  # noqa: RUF001
        ("effective neighbours", [b.neighbours for b in blocks], "{:.1f}"),
    )
    for axes, (title, values, form) in zip(figure.subplots(1, 4, sharey=True), parts):
        middle = [statistics.median(v) for v in values]
        axes.xaxis.set_major_locator(MaxNLocator(4))
        if title == "effective neighbours":
            axes.set_xscale("log")
            axes.barh(places, [max(b.keys) for b in blocks], 0.36, left=0.8, color="#d2d4d2")
            axes.set_xlim(0.8, 1.2 * max(k for b in blocks for k in b.keys))
        axes.barh(places, middle, 0.36, color="#3b6ea5")
        axes.axvline(0.8 if title == "effective neighbours" else 0, color="#16181c", linewidth=0.8)
        for place, (block, all_values) in enumerate(zip(blocks, values)):
            if len(all_values) > 1:
                axes.plot(all_values, [place] * len(all_values), "o", color="#16181c", markersize=3, alpha=0.7)
            caption = form.format(middle[place])
            if title == "w":
                caption = "no w" if block.w is None else block.w_text
            caption += f" of {extent(block.keys, 'd')}" if title == "effective neighbours" else ""
            axes.annotate(caption, (0.01, place - 0.22), xycoords=axes.get_yaxis_transform(), fontsize=9, va="bottom")
        axes.set_yticks(places, [f"{b}\n{b.operation.replace('_', ' ')}" for b in blocks], fontsize=9)
        axes.set_ylim(len(blocks) - 0.6, -0.6)
        axes.set_facecolor("none")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(left=False, labelsize=9)
        axes.set_title(title, fontsize=11, pad=10)
        if "change" in title:
            axes.xaxis.set_major_formatter(PercentFormatter(1))
    figure.savefig(file, dpi=120)


# ---- parts of pages ------------------------------------------------------------------------------


def colour(values: np.ndarray, low: float, high: float, name: str) -> np.ndarray:
    """Paint numbers (H, W) in uint8 BGR."""
    import matplotlib

    share = (np.nan_to_num(values) - low) / ((high - low) or 1)
    return matplotlib.colormaps[name](np.clip(share, 0, 1), bytes=True)[..., 2::-1]


def with_scale(values: np.ndarray, low: float, high: float, name: str) -> list[np.ndarray]:
    """Paint a map, and the scale from low to high to stand below it."""
    steps = np.linspace(low, high, values.shape[1])[None].repeat(8, 0)
    return [colour(values, low, high, name), paper(3, values.shape[1]), colour(steps, low, high, name)]


def shown_brightness(observation: Observation) -> str:
    """Say how much brighter an image is drawn."""
    return "Shown as it is" if observation.gain == 1 else f"Shown {observation.gain:.1f} times as bright as it is"


def count(what: str, things: Any) -> str:
    """Write how many there are; None reads as none."""
    things = things or ()
    return f"{len(things) or 'no'} {what}{'' if len(things) == 1 else 's'}"


def tone(i: int) -> tuple[int, ...]:
    """Return a light colour, BGR: each is far from the ones before it."""
    red, green, blue = colorsys.hsv_to_rgb((0.08 + i * 0.618) % 1, 0.72, 1)
    return round(255 * blue), round(255 * green), round(255 * red)


def extent(values: Sequence[float], form: str) -> str:
    """Write the lowest and the highest, once if they read the same."""
    low, high = format(min(values), form), format(max(values), form)
    return low if low == high else f"{low} to {high}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lay texts out in columns."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(f"{text:<{width}}" for text, width in zip(row, widths)).rstrip() for row in rows]
