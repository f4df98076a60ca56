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
from ultralytics.data.utils import IMG_FORMATS, check_det_dataset, img2label_paths

from yolo_wnlb.lowlight import darken


def darken_dataset(data: Path, out: Path, exposure: float, full_well_e: float, read_noise_e: float) -> int:
    """Write the dark data set, laid out images/SPLIT and labels/SPLIT; return the number of images.

    Raises:
        ValueError, OSError: with the remedy; nothing of the source is ever written to.
    """
    if data.suffix not in (".yaml", ".yml"):
        raise ValueError(f"{data} is no YAML; give the data.yaml that describes the data set")
    source = check_det_dataset(str(data), autodownload=False)
    splits = {split: source[split] for split in ("train", "val", "test") if source.get(split)}
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty; choose another folder")
    count = 0
    for split, folder in splits.items():
        if not isinstance(folder, str) or not Path(folder).is_dir():
            raise ValueError(f"{data}: '{split}' must be one folder of images, found {folder}")
        images = sorted(p for p in Path(folder).rglob("*") if p.suffix[1:].lower() in IMG_FORMATS)
        labels = [Path(label) for label in img2label_paths([str(image) for image in images])]
        if not any(label.is_file() for label in labels):
            raise ValueError(
                f"{data}: none of the {len(images)} images of '{split}' has a label file; expected {labels[:1]}"
            )
        for image, label in zip(images, labels):
            name = f"{split}/{image.relative_to(folder).with_suffix('').as_posix()}"
            target = out / f"images/{name}.png"
            if target.exists():
                raise ValueError(f"two images of '{split}' are named {image.stem}; rename one")
            pixels = cv2.imdecode(np.fromfile(image, np.uint8), cv2.IMREAD_COLOR)
            if pixels is None:
                print(f"skipped, not readable as an image: {image}", file=sys.stderr)
                continue
            rng = np.random.default_rng(int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big"))
            settings = {"exposure": exposure, "full_well_e": full_well_e, "read_noise_e": read_noise_e}
            target.parent.mkdir(parents=True, exist_ok=True)
            cv2.imencode(".png", darken(pixels, **settings, rng=rng))[1].tofile(target)
            if label.is_file():
                copy = out / f"labels/{name}.txt"
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(label, copy)
            count += 1
    definition = {**{split: f"images/{split}" for split in splits}, "names": source["names"]}
    (out / "data.yaml").write_text(yaml.safe_dump(definition, sort_keys=False), encoding="utf-8")
    return count


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="data.yaml of a YOLO data set")
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
