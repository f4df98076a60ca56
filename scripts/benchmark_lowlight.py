"""Speed of LowLight next to the noise and contrast transforms of Albumentations, old and new.

    pip install "yolo-wnlb[lowlight]"                                    # albumentations, the last MIT-licensed release
    pip install --no-deps --target x albumentationsx albucore==0.2.21 numkong stringzilla    # AlbumentationsX beside it
    python scripts/benchmark_lowlight.py --sizes 320 640 1280 --repeats 30 --albumentationsx x

Both libraries import as `albumentations`, so each has a process of its own. Each transform runs in an
A.Compose with its defaults and p=1, on square uint8 pictures of three channels, on one thread. All transforms
of both processes take turns in a random order, one picture each and never two at once, so that a busy machine
is busy for all, and none finds its own memory still warm. Prints a Markdown table a size: the median CPU time
of the process per picture, and what LowLight takes as a multiple of the other transform of the same
library (the median over the turns). The last column says whether the noise of a pixel depends on its value.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import re
import shlex
import subprocess
import sys
import time
from datetime import date
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import numpy as np

OURS = "LowLight"
ANCHORS: dict[str, tuple[dict[str, Any], str]] = {  # arguments beside p; whether the noise depends on the value
    "GaussNoise": ({}, "no"),
    "AdditiveNoise": ({}, "no"),
    "MultiplicativeNoise": ({"elementwise": True}, "yes"),
    "ISONoise": ({}, "yes"),
    "ShotNoise": ({}, "yes"),
    "FilmGrain": ({}, "yes"),
    "CLAHE": ({}, ""),
    "ImageCompression": ({}, ""),
    "RandomGamma": ({}, ""),
}
PACKAGES = ("albumentations", "albumentationsx", "albucore", "numpy", "opencv-python", "opencv-python-headless")
Times = dict[tuple[str, str], np.ndarray]  # (library, transform) -> milliseconds of each turn


# ---- one process for each library ----------------------------------------------------------------


def serve(size: int) -> None:
    """Tell which transforms this process has, then run one for each name that comes in and answer its milliseconds."""
    import albumentations as A
    import cv2

    from yolo_wnlb.data.shapes import scene
    from yolo_wnlb.transforms import LowLight

    cv2.setNumThreads(1)
    image = scene(np.random.default_rng(0), size).image
    transforms = {OURS: A.Compose([LowLight(preset="agllnet", p=1)], seed=0)}
    for name, (arguments, _) in ANCHORS.items():
        if hasattr(A, name):
            transforms[name] = A.Compose([getattr(A, name)(**arguments, p=1)], seed=0)
    for transform in transforms.values():
        transform(image=image)  # tables are built once
    print(*transforms, flush=True)
    for line in sys.stdin:
        begun = time.process_time()
        transforms[line.strip()](image=image)
        print(1000 * (time.process_time() - begun), flush=True)


def measure(libraries: dict[str, dict[str, str]], size: int, repeats: int) -> Times:
    """Return the milliseconds of every transform of every library in each turn. libraries: name -> environment."""
    processes = {
        library: subprocess.Popen(
            [sys.executable, __file__, "--serve", str(size)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=environment,
        )
        for library, environment in libraries.items()
    }
    try:
        names = {library: answer(process).split() for library, process in processes.items()}
        works = [(library, name) for library in libraries for name in names[library]]
        times: Times = {work: np.empty(repeats) for work in works}
        for turn in range(repeats):
            for library, name in random.Random(turn).sample(works, len(works)):
                pipe: Any = processes[library].stdin
                print(name, file=pipe, flush=True)
                times[library, name][turn] = float(answer(processes[library]))
        return times
    finally:
        for process in processes.values():
            process.kill()
            process.wait()


def answer(process: subprocess.Popen[str]) -> str:
    """Read a line of a process, or end with its status."""
    pipe: Any = process.stdout
    if not (line := pipe.readline()):
        raise SystemExit(f"the process of a library ended with status {process.wait()}")
    return line


# ---- what is printed -----------------------------------------------------------------------------


def table(times: Times, size: int, libraries: list[str]) -> str:
    """Write the medians as a Markdown table, a transform a line."""
    lines = [
        f"| {size} px |"
        + "".join(f" {library}, ms | LowLight takes |" for library in libraries)
        + " noise depends on value |"
    ]
    lines.append("|---|" + "---:|---:|" * len(libraries) + "---|")
    for name, (_, depends) in {OURS: ({}, "yes"), **ANCHORS}.items():
        cells = []
        for library in libraries:
            if (library, name) not in times:
                cells += ["", ""]
                continue
            ratio = np.median(times[library, OURS] / times[library, name])
            cells += [f"{np.median(times[library, name]):.2f}", "" if name == OURS else f"{ratio:.2g}x"]
        lines.append(f"| {name if name == OURS else f'A.{name}'} | {' | '.join(cells)} | {depends} |")
    return "\n".join(lines)


def versions(path: list[str]) -> str:
    """Name the packages that a process with this path has, in one line."""
    installed: dict[str, str] = {}
    for found in distributions(path=path):
        installed.setdefault(found.metadata["Name"].lower(), found.version)
    return ", ".join(f"{name} {installed[name]}" for name in PACKAGES if name in installed)


def processor() -> str:
    """Name the processor."""
    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", info.read_text()) if info.is_file() else None
    return model[1] if model else platform.processor() or platform.machine()


def main() -> None:
    """Measure each size and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[320, 640, 1280], help="sides of the pictures, in pixels"
    )
    parser.add_argument("--repeats", type=int, default=30, help="turns; the median over them is printed")
    parser.add_argument("--albumentationsx", type=Path, metavar="FOLDER", help="measure the library in it too")
    parser.add_argument("--serve", type=int, metavar="SIZE", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve)
        return
    if args.repeats < 1 or min(args.sizes) < 64:
        parser.error(f"--repeats is {args.repeats} and --sizes {args.sizes}; wanted 1 or more, and 64 or more")
    if args.albumentationsx and not (args.albumentationsx / "albumentations").is_dir():
        parser.error(f"--albumentationsx is {args.albumentationsx}, which holds no folder albumentations")

    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    here = {**os.environ, **threads, "NO_ALBUMENTATIONS_UPDATE": "1"}  # it would ask the network for a newer version
    libraries, found = {"albumentations": here}, [f"Python {platform.python_version()}, {versions(sys.path)}"]
    if args.albumentationsx:
        folder = str(args.albumentationsx.resolve())
        path = os.pathsep.join([folder, *filter(None, [os.environ.get("PYTHONPATH")])])
        libraries["AlbumentationsX"] = {**here, "PYTHONPATH": path}
        found.append(f"beside it {versions([folder])}")
    for size in args.sizes:
        print(table(measure(libraries, size, args.repeats), size, list(libraries)), end="\n\n", flush=True)
    command = shlex.join(["python", "scripts/benchmark_lowlight.py", *sys.argv[1:]])
    print(f"`{command}`\n\n{'; '.join(found)}; one thread of: {processor()}; {date.today()}")


if __name__ == "__main__":
    main()
