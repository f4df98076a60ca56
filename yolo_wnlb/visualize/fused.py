"""See what a fused network rests on: the features of both networks, clean and blurred, and the weights of its layer.

    fused networks, pictures -> features of the first, clean and blurred -> PCA -> pca.png
                             -> mean absolute weight of both halves of each layer -> weights.png

Source: Akumalla, Haney, Bazhenov, Contextual Fusion For Adversarial Robustness, 2020, arXiv 2011.09526: Fig. 2 for the
features, blurred at a sigma of 5 pixels, Figs. 4b and 5c for the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from yolo_wnlb.classifiers import detector
from yolo_wnlb.classifiers.fusion import HALVES, Fusion, features_of, mean_theta
from yolo_wnlb.classifiers.nets import prepared
from yolo_wnlb.data import folders
from yolo_wnlb.data.folders import Labelled
from yolo_wnlb.data.sources import printable, spread
from yolo_wnlb.imaging import corruptions
from yolo_wnlb.visualize.inspection import aligned, make_folder
from yolo_wnlb.words import literal

PAGES = {
    "pca.png": "features of both networks in the two directions in which the clean ones differ most",
    "weights.png": "mean absolute weight of both halves of the layer",
}
LEVEL = 3  # of boxblur: sigma is 5 pixels
SIGMA = corruptions.CORRUPTIONS["boxblur"].strengths[LEVEL - 1]
PICTURES = 400  # that features are computed of, where nothing else is said
BATCH = 64
COLORS = ("#3b6ea5", "#d1495b")  # foreground, background


class Directions(NamedTuple):
    """The directions in which the features of some pictures differ most.

    Attributes:
        mean: Of the features, (F,).
        axes: Two directions of length 1, (2, F).
        share: Part of the variance that they hold, 0 to 1.
    """

    mean: np.ndarray
    axes: np.ndarray
    share: float

    def project(self, features: np.ndarray) -> np.ndarray:
        """Return the places of features (N, F) along both directions: (N, 2)."""
        return (features - self.mean) @ self.axes.T


@dataclass
class Report:
    """What `inspect_fused` found; print it.

    Attributes:
        models: The file of each network, its l2, and the mean absolute weight of both halves.
        shares: Of each half of the first network: part of the variance that the picture of its features shows.
        moved: Of each half: how far blurred features lie from the clean ones, as a share of how far clean features lie
            from their mean; means over the pictures.
        pictures: How many, and what was blurred.
        folder: Where the pages are.
    """

    models: list[dict[str, Any]]
    shares: dict[str, float]
    moved: dict[str, float]
    pictures: str
    folder: Path
    files: dict[str, str] = field(default_factory=lambda: dict(PAGES))

    def __str__(self) -> str:
        """Return the weights of all networks, the features of the first, and what was written."""
        rows = [["network", "l2", "mean |θ| foreground", "background"]]
        rows += [[m["file"], f"{m['l2']:g}", *(f"{m[half]:.4f}" for half in HALVES)] for m in self.models]
        lines = [*aligned(rows), "", f"features of {self.models[0]['file']}, {self.pictures}"]
        rows = [["", "variance shown", "moved by the blur"]]
        rows += [[half, f"{self.shares[half]:.0%}", f"{self.moved[half]:.2f} of their spread"] for half in HALVES]
        lines += [*aligned(rows), "", f"written to {self.folder}:", *aligned([*map(list, self.files.items())])]
        return "\n".join(lines)


def inspect_fused(
    weights: str | Path | Sequence[str | Path],
    images: str | Path,
    out: str | Path | None = None,
    *,
    n: int = PICTURES,
    imgsz: int | None = None,
    exist_ok: bool = False,
) -> Report:
    """Look into fused networks, on the CPU: write two pages, return the numbers.

    Args:
        weights: One file that `fusion_fit.fit` wrote, or several whose weights are compared; features are those of the
            first.
        images: What `data.folders.read` takes; of a folder its val or test pictures. The blur is inside the boxes of
            objects where they are known (drawn contexts, folders with boxes.json), else everywhere.
        out: Folder for the pages. Default: inspect, or the next of inspect-2, inspect-3, ...
        n: So many pictures, evenly spaced in the order of their names; all if there are fewer.
        imgsz: Side of the network's input. Default: as trained.
        exist_ok: Write over the pages in `out`.
    Raises: ValueError, OSError: with the remedy; nothing is written.
    """
    files = [weights] if isinstance(weights, (str, Path)) else list(weights)
    for name, value, least in (("n", n, 3), ("imgsz", imgsz, 32)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise ValueError(f"{name} is {value!r}; wanted a whole number, {least} or more")
    loaded = [detector.load(file, "cpu") for file in files]
    networks = []
    for file, one in zip(files, loaded):
        if not isinstance(one.module, Fusion):
            raise ValueError(f"{file} is a classifier and no fused network; only these have two halves to compare")
        networks.append(one.module)
    data = folders.held_out(images)
    order = sorted(range(len(data)), key=data.names.__getitem__)
    data = data.only(spread(order, n) if len(order) > n else order)
    if len(data) < 3:
        raise ValueError(f"{images} has {len(data)} pictures in {data.split}; two directions need three or more")
    if out is not None and not exist_ok and (there := [name for name in PAGES if (Path(out) / name).exists()]):
        raise ValueError(f"{out} holds {there[0]} of another call; choose another out=, or add exist_ok=True")
    side = imgsz or loaded[0].imgsz
    clean, blurred = (features(networks[0], data, side, blurs) for blurs in (False, True))
    directions = {half: directions_of(clean[half]) for half in HALVES}
    report = Report(
        models=[
            {"file": printable(file), "l2": network.recipe["l2"], **mean_theta(network)}
            for file, network in zip(files, networks)
        ],
        shares={half: directions[half].share for half in HALVES},
        moved={half: moved(clean[half], blurred[half]) for half in HALVES},
        pictures=f"{len(data)} pictures, {'boxes' if data.boxes else 'everything'} blurred at sigma {SIGMA} pixels",
        folder=make_folder(out, exist_ok),
    )
    plot_features(directions, clean, blurred, data, report.folder / "pca.png")
    plot_weights(report.models, report.folder / "weights.png")
    return report


def features(network: Fusion, data: Labelled, side: int, blurs: bool) -> dict[str, np.ndarray]:
    """Return the features of all pictures by half, float (N, F).

    Args:
        network: Whose halves compute them.
        data: The pictures.
        side: Of the input.
        blurs: Blur the boxes of the objects first, or everything where boxes are not known.
    """
    found: dict[str, list[np.ndarray]] = {half: [] for half in HALVES}
    for start in range(0, len(data), BATCH):
        pictures = []
        for number in range(start, min(start + BATCH, len(data))):
            picture = data.read(number)
            if blurs:
                everything = [(0, 0, picture.shape[1], picture.shape[0])]
                boxes = data.boxes[number] if data.boxes else everything
                picture = corruptions.corrupt(picture, "boxblur", LEVEL, np.random.default_rng(0), boxes)
            pictures.append(prepared(picture, side))
        x = torch.from_numpy(np.stack(pictures)).float() / 255
        with torch.inference_mode():
            for half in HALVES:
                found[half].append(features_of(getattr(network, half), x).double().numpy())
    return {half: np.concatenate(parts) for half, parts in found.items()}


def directions_of(found: np.ndarray) -> Directions:
    """Fit the two directions of largest variance to features (N, F), by a singular value decomposition."""
    mean = found.mean(0)
    _, values, axes = np.linalg.svd(found - mean, full_matrices=False)
    total = float((values**2).sum())
    return Directions(mean, axes[:2], float((values[:2] ** 2).sum()) / total if total else 1.0)


def moved(clean: np.ndarray, blurred: np.ndarray) -> float:
    """Return the mean distance of blurred features from clean ones, divided by that of clean ones from their mean."""
    spread_of_clean = np.linalg.norm(clean - clean.mean(0), axis=1).mean()
    return float(np.linalg.norm(blurred - clean, axis=1).mean() / max(spread_of_clean, 1e-12))


def plot_features(
    directions: dict[str, Directions],
    clean: dict[str, np.ndarray],
    blurred: dict[str, np.ndarray],
    data: Labelled,
    file: Path,
) -> None:
    """Draw a panel for each half: a ring for each clean picture, a cross for a blurred one, in its class's colour."""
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.6), layout="constrained", facecolor="#ececea")
    colors = matplotlib.colormaps["tab10" if len(data.classes) <= 10 else "turbo"].resampled(len(data.classes))
    labels = np.array(data.labels)
    for axes, half in zip(figure.subplots(1, 2), HALVES):
        for marker, alpha, found in (("o", 0.75, clean), ("x", 0.75, blurred)):
            places = directions[half].project(found[half])
            for label, name in enumerate(data.classes):
                chosen = places[labels == label]
                legend = literal(name) if marker == "o" and len(data.classes) <= 10 else None
                axes.plot(*chosen.T, marker, color=colors(label), ms=4, alpha=alpha, mfc="none", label=legend)
        axes.set_title(f"{half}: ○ clean, x blurred ({directions[half].share:.0%} of the variance)", fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
    if len(data.classes) <= 10:
        figure.legend(
            *figure.axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8
        )
    figure.savefig(file, dpi=130, metadata={"Software": None})


def plot_weights(models: Sequence[dict[str, Any]], file: Path) -> None:
    """Draw two bars for each network: the mean absolute weight of the foreground and of the background."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.2 + 1.1 * len(models), 3.4), layout="constrained", facecolor="#ececea")
    axes = figure.subplots()
    for shift, half, color in zip((-0.18, 0.18), HALVES, COLORS):
        heights = [model[half] for model in models]
        bars = axes.bar(np.arange(len(models)) + shift, heights, 0.34, color=color, label=half)
        axes.bar_label(bars, [f"{height:.3f}" for height in heights], fontsize=8)
    axes.set_xticks(range(len(models)), [f"l2 {model['l2']:g}" for model in models])
    axes.set_ylabel("mean |θ|")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(file, dpi=130, metadata={"Software": None})
