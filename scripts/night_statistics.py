"""Compare darkened pictures with real night photos: brightness, noise against brightness, grain.

    python scripts/night_statistics.py --bright day/ --dark night/ "pairs/*_low.jpg" --pairs polyu/
    python scripts/night_statistics.py --bright day/ --dark night/ --presets severe --jpeg 90 --shrink 2
    python scripts/night_statistics.py --dark BVI-RLV/input/S01/low_light_10     # frames of a video

Prints two Markdown tables: the statistics, and how far each preset is from each set of real photos.
All is measured in luma Y (BT.601, codes 0 to 255), so one number has one meaning in all rows:

* brightness: quantiles over the pictures of their mean Y; share of all pixels with Y below 32;
* noise: in the flattest tenth of a picture's 16 x 16 blocks (by the contrast of their 4 x 4 means,
  where little noise is left), the standard deviation around a fitted plane; the median over blocks;
* grain: correlation of that residual with itself 1 and 2 pixels along. Independent noise has 0 and
  0, demosaiced noise more, and texture that was taken for noise more still. (Flat blocks are those
  whose noise is fine by chance too: grain of 0.44 reads 0.37, that of 0 reads 0.)

--pairs takes PolyU's folders, X_real beside X_mean, and --truth each darkened picture beside the same
shot without noise: the noise is then their difference, in all blocks. --jpeg and --shrink do to
the darkened pictures what has happened to most photos that one can download.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from yolo_wnlb.calibrate.noise import BLOCK, FLATTEST, cut, without_plane
from yolo_wnlb.cli import COMMANDS
from yolo_wnlb.imaging.camera import PRESETS, settings
from yolo_wnlb.imaging.capture import capture, clean, jpeg
from yolo_wnlb.imaging.chance import picture_rng
from yolo_wnlb.terminal.arguments import parse

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
EDGES = (4, 8, 16, 32, 64, 128)  # of the bins of brightness: codes
QUANTILES = (5, 25, 50, 75, 95)
FEWEST = 50  # blocks of a bin, or it says nothing


class Measured(NamedTuple):
    """Statistics of one set of pictures; nan where there is too little to measure."""

    name: str
    pictures: int
    quantiles: np.ndarray  # of the mean Y of the pictures, at QUANTILES
    below_32: float  # share of the pixels
    noise: np.ndarray  # standard deviation in codes, for each bin between EDGES
    grain: tuple[float, float]  # correlation at lags 1 and 2


def measure(name: str, pictures: Iterator[tuple[np.ndarray, np.ndarray | None]]) -> Measured:
    """Measure pictures, each uint8 BGR and with it the same picture without noise, or None."""
    means, histogram, levels, deviations, grains = [], np.zeros(256), [], [], []
    for picture, still in pictures:
        luma = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
        means.append(luma.mean())
        histogram += np.bincount(luma.ravel(), minlength=256)
        if still is None:
            blocks = flattest(cut(luma.astype(np.float32)))
            level = blocks.mean((1, 2))
        else:
            mean = cv2.cvtColor(still, cv2.COLOR_BGR2GRAY).astype(np.float32)
            blocks, level = cut(luma - mean), cut(mean).mean((1, 2))
        if len(blocks):
            residual = without_plane(blocks)
            levels.append(level)
            deviations.append(np.sqrt((residual**2).sum((1, 2)) / (BLOCK**2 - 3)))
            grains.append(np.stack([correlation(residual, lag) for lag in (1, 2)]))
    if not means:
        raise ValueError(f"{name} holds no readable images ({', '.join(sorted(SUFFIXES))}); give another folder")
    level, deviation = np.concatenate([*levels, []]), np.concatenate([*deviations, []])
    noise = [median(deviation[(low <= level) & (level < high)]) for low, high in itertools.pairwise(EDGES)]
    noisy = (EDGES[0] <= level) & (level < EDGES[-1]) & (deviation > 0.5)  # below, there is only rounding
    grain = np.concatenate([*grains, np.zeros((2, 0))], axis=1)[:, noisy]
    return Measured(
        name,
        len(means),
        np.percentile(means, QUANTILES),
        histogram[:32].sum() / histogram.sum(),
        np.array(noise),
        (median(grain[0]), median(grain[1])),
    )


def flattest(blocks: np.ndarray) -> np.ndarray:
    """Keep the blocks whose 4 x 4 means differ least: there, what varies is noise."""
    coarse = blocks.reshape(-1, BLOCK // 4, 4, BLOCK // 4, 4).mean((2, 4))
    contrast = coarse.std((1, 2))
    return blocks[np.argsort(contrast, kind="stable")[: round(FLATTEST * len(blocks))]]


def correlation(residual: np.ndarray, lag: int) -> np.ndarray:
    """Correlation of each block with itself `lag` pixels along, the mean of both directions."""
    power = np.maximum((residual**2).mean((1, 2)), 1e-12)
    down = (residual[:, lag:] * residual[:, :-lag]).mean((1, 2))
    along = (residual[:, :, lag:] * residual[:, :, :-lag]).mean((1, 2))
    return (down + along) / 2 / power


def median(values: np.ndarray) -> float:
    """Median, or nan of too few."""
    return float(np.median(values)) if len(values) >= FEWEST else float("nan")


# ---- where pictures come from --------------------------------------------------------------------


def images(source: str, limit: int | None) -> list[Path]:
    """List the images of a folder (with all below it) or of a pattern, at most `limit`, evenly."""
    folder, pattern = (Path(source).parent, Path(source).name) if "*" in source else (Path(source), "*")
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; give folders of images, or patterns in quotes")
    found = sorted(path for path in folder.rglob(pattern) if path.suffix.lower() in SUFFIXES)
    return found if limit is None or limit >= len(found) else found[:: -(-len(found) // limit)]


def read(files: list[Path]) -> Iterator[tuple[Path, np.ndarray]]:
    """Read images; say which ones cannot be read, and go on."""
    for file in files:
        picture = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_COLOR) if file.stat().st_size else None
        if picture is None:
            print(f"skipped, not readable as an image: {file}", file=sys.stderr)
        else:
            yield file, picture


def darkened(
    files: list[Path], preset: str, args: argparse.Namespace
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Darken images, then do to them what the photos have suffered; beside them without noise, if --truth."""
    drawn_from, scale = settings(preset, **args.changes), 1 / args.shrink
    for file, picture in read(files):
        shot = drawn_from.draw(picture_rng(args.seed, file.name))
        shots = [capture(picture, shot), *([clean(picture, shot)] if args.truth else [])]
        if args.shrink > 1:
            shots = [cv2.resize(dark, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) for dark in shots]
        shots[0] = jpeg(shots[0], args.jpeg, "bgr") if args.jpeg else shots[0]
        yield shots[0], shots[1] if args.truth else None


def pairs(files: list[Path]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Read X_real with the X_mean beside it."""
    for file, picture in read([file for file in files if file.stem.endswith("_real")]):
        for _, still in read([file.with_name(file.name.replace("_real.", "_mean."))]):
            yield picture, still


# ---- what is printed -----------------------------------------------------------------------------


def number(value: float, digits: int) -> str:
    """Write a number, or a dash for nan."""
    return "-" if np.isnan(value) else f"{value:.{digits}f}"


def statistics_table(measured: list[Measured]) -> str:
    """Write a row a set."""
    bins = " | ".join(f"{low}-{high}" for low, high in itertools.pairwise(EDGES))
    lines = [f"| pictures | n | mean Y: {', '.join(map(str, QUANTILES))} % | Y < 32 | noise at Y {bins} | grain 1, 2 |"]
    lines.append("|---" * (4 + len(EDGES)) + "|")
    for m in measured:
        quantiles = " / ".join(f"{q:.0f}" for q in m.quantiles)
        noise = " | ".join(number(value, 1) for value in m.noise)
        grain = ", ".join(number(value, 2) for value in m.grain)
        lines.append(f"| {m.name} | {m.pictures} | {quantiles} | {100 * m.below_32:.0f} % | {noise} | {grain} |")
    return "\n".join(lines)


def distance_table(real: list[Measured], synthetic: list[Measured]) -> str:
    """Write how far each preset is from each real set: brightness; noise where both have it.

    Both in factors of two: the mean of |log2(real / darkened)| over the quantiles, over the bins.
    """
    lines = [f"| octaves apart: brightness; noise | {' | '.join(m.name for m in synthetic)} |"]
    lines.append("|---" * (1 + len(synthetic)) + "|")
    for r in real:
        cells = []
        for s in synthetic:
            brightness = np.abs(np.log2(r.quantiles / s.quantiles)).mean()
            both = ~np.isnan(r.noise + s.noise) & (r.noise > 0) & (s.noise > 0)
            noise = np.abs(np.log2(r.noise[both] / s.noise[both])).mean() if both.any() else float("nan")
            cells.append(f"{brightness:.1f}; {number(noise, 1)}")
        lines.append(f"| {r.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bright", nargs="+", default=[], metavar="FOLDER", help="pictures to darken")
    parser.add_argument("--dark", nargs="+", default=[], metavar="FOLDER", help="real dark photos")
    parser.add_argument("--pairs", nargs="+", default=[], metavar="FOLDER", help="X_real beside X_mean")
    parser.add_argument("--presets", nargs="*", default=list(PRESETS), metavar="PRESET", help="default: all")
    parser.add_argument("--settings", nargs="*", default=[], metavar="KEY=VALUE", help="on top of each preset")
    parser.add_argument("--jpeg", type=int, metavar="QUALITY", help="compress the darkened pictures")
    parser.add_argument("--shrink", type=int, default=1, metavar="K", help="and before, shrink them K times")
    parser.add_argument("--truth", action="store_true", help="compare them with the same shots without noise")
    parser.add_argument("--limit", type=int, help="at most so many pictures of each folder")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        if not (args.bright or args.dark or args.pairs):
            raise ValueError("nothing to measure; give --bright, --dark or --pairs with folders of images")
        for name, value, least, most in (
            ("limit", args.limit, 1, 10**9),
            ("shrink", args.shrink, 1, 64),
            ("jpeg", args.jpeg, 1, 100),
        ):
            if value is not None and not least <= value <= most:
                raise ValueError(f"--{name} is {value}; wanted {least} to {most}")
        args.changes = parse(args.settings, COMMANDS["preview"])[1]
        for preset in args.presets:
            settings(preset, **args.changes)
        bright, synthetic, real, paired = [], [], [], []
        for source in args.bright:
            files = images(source, args.limit)
            bright.append(measure(f"{label(source)}, bright", ((picture, None) for _, picture in read(files))))
            for preset in args.presets:
                name = ", ".join([label(source), " ".join([preset, *args.settings])]) + (
                    " - clean" if args.truth else ""
                )
                synthetic.append(measure(name, darkened(files, preset, args)))
        for source in args.dark:
            real.append(measure(label(source), ((picture, None) for _, picture in read(images(source, args.limit)))))
        for source in args.pairs:
            paired.append(measure(f"{label(source)}, real - mean", pairs(images(source, args.limit))))
    except (ValueError, OSError) as error:
        print(f"night_statistics: {error}", file=sys.stderr)
        return 2
    print(statistics_table([*bright, *synthetic, *real, *paired]))
    if real and synthetic:
        print(f"\n{distance_table(real, synthetic)}")
    return 0


def label(source: str) -> str:
    """Name a source by its last parts, without the machine's path to it."""
    path = Path(source)
    return f"{path.parent.name}/{path.name}" if "*" in source else path.resolve().name


if __name__ == "__main__":
    sys.exit(main())
