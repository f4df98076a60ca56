"""Make a dark copy of a YOLO data set: darken every image, keep every label.

    python scripts/darken_dataset.py path/to/data.yaml dark/           # then: yolo ... data=dark/data.yaml

Each image has its own noise, seeded by its path inside the data set, so the copy is the same
whatever the order. Images become PNG: JPEG would smooth the noise.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import yaml
from ultralytics.data.utils import IMG_FORMATS

from yolo_wnlb.lowlight import darken

ROOT_KEYS = ("train", "val", "test")


def darken_dataset(data: Path, out: Path, exposure: float, full_well_e: float, read_noise_e: float) -> int:
    """Write the dark data set; return the number of images. Raises ValueError or OSError with the remedy."""
    definition = yaml.safe_load(data.read_text(encoding="utf-8"))
    root = data.parent / definition.pop("path", ".")
    splits = {key: definition[key] for key in ROOT_KEYS if definition.get(key)}
    if not splits or any(not isinstance(folder, str) or not (root / folder).is_dir() for folder in splits.values()):
        raise ValueError(f"{data} must name folders of images that exist below {root}; found {splits}")
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty; choose another folder")
    count = 0
    for folder in dict.fromkeys(splits.values()):
        labels = folder.replace("images", "labels", 1)
        (out / folder).mkdir(parents=True, exist_ok=True)
        if (root / labels).is_dir():
            shutil.copytree(root / labels, out / labels, ignore=shutil.ignore_patterns("*.cache"), dirs_exist_ok=True)
        for file in sorted(p for p in (root / folder).iterdir() if p.suffix[1:].lower() in IMG_FORMATS):
            name = f"{folder}/{file.stem}.png"
            image = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_COLOR)
            if image is None:
                print(f"skipped, not readable as an image: {file}", file=sys.stderr)
                continue
            rng = np.random.default_rng(int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big"))
            settings = {"exposure": exposure, "full_well_e": full_well_e, "read_noise_e": read_noise_e}
            dark = darken(image, **settings, rng=rng)
            cv2.imencode(".png", dark)[1].tofile(out / name)
            count += 1
    (out / "data.yaml").write_text(yaml.safe_dump(definition, sort_keys=False), encoding="utf-8")
    return count


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="data.yaml of a YOLO data set with folders of images")
    parser.add_argument("out", type=Path, help="new folder")
    parser.add_argument("--exposure", type=float, default=0.05, help="share of the light left, in (0, 1]")
    parser.add_argument("--full-well-e", type=float, default=2000.0, help="electrons of a white pixel")
    parser.add_argument("--read-noise-e", type=float, default=3.0, help="standard deviation in electrons")
    args = parser.parse_args()
    try:
        count = darken_dataset(args.data, args.out, args.exposure, args.full_well_e, args.read_noise_e)
    except (ValueError, OSError) as error:
        print(f"darken_dataset: {error}", file=sys.stderr)
        return 2
    print(f"{count} dark images in {args.out}; train with data={args.out / 'data.yaml'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
