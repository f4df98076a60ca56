"""Speed of LowLight next to the noise and contrast transforms of Albumentations.

    pip install "yolo-wnlb[lowlight]"
    python scripts/benchmark_lowlight.py --sizes 320 640 1280 --repeats 30

Each transform runs in an A.Compose of its own, with its defaults and p=1, on square uint8 pictures
of three channels, on one thread. All take turns in a random order, one picture each, so that a busy
machine is busy for all and none finds its own memory still warm. Prints a Markdown table: the
median CPU time of the thread per picture, and what LowLight takes as a multiple of the other
transform's time (the median over the turns).
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import re
import shlex
import sys
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import distributions
from pathlib import Path

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network for its newest version

import albumentations as A
import cv2
import numpy as np

from yolo_wnlb.data.shapes import scene
from yolo_wnlb.transforms import LowLight

OURS = "LowLight"
ANCHORS = ("GaussNoise", "ISONoise", "ShotNoise", "CLAHE", "ImageCompression", "RandomGamma")
PACKAGES = ("albumentations", "albumentationsx", "albucore", "numpy", "opencv-python", "opencv-python-headless")


def measure(size: int, repeats: int) -> dict[str, np.ndarray]:
    """Return the milliseconds of CPU time that each transform took in each turn, by name."""
    image = scene(np.random.default_rng(0), size).image
    transforms: dict[str, Callable] = {OURS: A.Compose([LowLight(preset="agllnet", p=1)], seed=0)}
    transforms |= {name: A.Compose([getattr(A, name)(p=1)], seed=0) for name in ANCHORS}
    for transform in transforms.values():
        transform(image=image)  # tables are built once
    times = {name: np.empty(repeats) for name in transforms}
    for turn in range(repeats):
        for name in random.Random(turn).sample(list(transforms), len(transforms)):
            start = time.thread_time()
            transforms[name](image=image)
            times[name][turn] = 1000 * (time.thread_time() - start)
    return times


def table(results: dict[int, dict[str, np.ndarray]]) -> str:
    """Write the medians as a Markdown table, a transform a line."""
    lines = ["| transform |" + "".join(f" {size} px, ms | LowLight takes |" for size in results)]
    lines.append("|---|" + "---:|---:|" * len(results))
    for name in (OURS, *ANCHORS):
        cells = []
        for times in results.values():
            ratio = np.median(times[OURS] / times[name])
            cells += [f"{np.median(times[name]):.2f}", "" if name == OURS else f"{ratio:.2g}x"]
        lines.append(f"| {name if name == OURS else f'A.{name}'} | {' | '.join(cells)} |")
    return "\n".join(lines)


def surroundings() -> str:
    """Name the versions and the processor, in one line."""
    installed = {found.metadata["Name"].lower(): found.version for found in distributions()}
    versions = [f"Python {platform.python_version()}", *(f"{n} {installed[n]}" for n in PACKAGES if n in installed)]
    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", info.read_text()) if info.is_file() else None
    processor = model[1] if model else platform.processor() or platform.machine()
    return f"{', '.join(versions)}; one thread of: {processor}; {date.today()}"


def main() -> None:
    """Measure each size and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[320, 640, 1280], help="sides of the pictures, in pixels"
    )
    parser.add_argument("--repeats", type=int, default=30, help="turns; the median over them is printed")
    args = parser.parse_args()
    if args.repeats < 1 or min(args.sizes) < 64:
        parser.error(f"--repeats is {args.repeats} and --sizes {args.sizes}; wanted 1 or more, and 64 or more")
    cv2.setNumThreads(1)
    print(table({size: measure(size, args.repeats) for size in args.sizes}))
    print(f"\n`{shlex.join(['python', 'scripts/benchmark_lowlight.py', *sys.argv[1:]])}`\n\n{surroundings()}")


if __name__ == "__main__":
    main()
