"""What the high byte costs: one model trained and measured on dark 12-bit scenes for each way to read them.

    python scripts/sixteen_bits.py yolov8n-seg.pt --stops -6

The built-in scenes are taken again by a camera that gathers so many stops less light, and stored as a 12-bit sensor
stores them, in PNGs of 16 bits. One model is trained from the given weights for each way to read these files, with
equal seeds and steps, and validated in the same way. docs/sixteen-bits.md shows the table.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from ultralytics import YOLO

from yolo_wnlb.data.exposure import measure_curve
from yolo_wnlb.data.shapes import NAMES, dark_scene, generate
from yolo_wnlb.imaging.curve import Curve, read_curve
from yolo_wnlb.imaging.deep import read_deep
from yolo_wnlb.twins.darken import darken_dataset

TRAINING: dict[str, Any] = {  # as in demo.py, from weights that are trained
    **{"batch": 8, "nbs": 8, "optimizer": "AdamW", "lr0": 0.003, "warmup_epochs": 1, "warmup_bias_lr": 0},
    **{"workers": 0, "plots": False, "val": False},
}


def write_scenes(root: Path, train: int, val: int, size: int, stops: float) -> Path:
    """Draw scenes and store them dark, with 12 bits in PNGs of 16; returns their data YAML."""
    bright = generate(root / "bright", train=train, val=val, size=size)  # labels, and pictures that are dark already
    for split in ("train", "val"):
        for index, file in enumerate(sorted((bright / "images" / split).glob("*.png"))):
            cv2.imwrite(str(file), dark_scene(0, split, index, size)[1].image)
    described = {"path": str(bright), "train": "images/train", "val": "images/val", "names": list(NAMES)}
    (bright / "data.yaml").write_text(yaml.safe_dump(described))
    sensor: dict[str, Any] = {"bits": 12, "sigma_s": 0.004, "sigma_c": 0.0005}  # 60,000 electrons a pixel
    darken_dataset(bright, root / "dark", preset="severe", ev=stops, crf="srgb", format="png16", **sensor)
    for file in (root / "dark/images").rglob("*.png"):
        picture: Any = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(file), picture >> 4)
    return root / "dark/data.yaml"


def codes(folder: Path, curve: Curve) -> float:
    """Return how many codes a picture has on average."""
    pictures: Any = [read_deep(file, curve=curve) for file in sorted(folder.glob("*.png"))]
    return float(np.mean([len(np.unique(picture)) for picture in pictures]))


def main() -> None:
    """Train and measure once for each way to read the scenes, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("weights", help="a segmentation model to start from")
    parser.add_argument("--stops", type=float, default=-6)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--train", type=int, default=300)
    parser.add_argument("--val", type=int, default=100)
    parser.add_argument("--imgsz", type=int, default=160)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/sixteen-bits"), help="folder to make")
    args = parser.parse_args()
    if args.out.exists():
        parser.error(f"{args.out} is there already; give another --out")
    data = write_scenes(args.out.resolve(), args.train, args.val, args.imgsz, args.stops)
    measure_curve(data, args.out / "fixed.yaml")
    readings = {"high byte": "high-byte", "auto": "auto", "one curve for all": str(args.out / "fixed.yaml")}
    rows = ["| read by | codes of a picture | mask AP | mask AP50 |", "|---|---|---|---|"]
    for name, curve in readings.items():
        scores = []
        for seed in range(args.seeds):
            model = YOLO(args.weights)
            run = {"project": str(args.out.resolve()), "name": f"{name.replace(' ', '-')}-{seed}"}
            model.train(data=str(data), imgsz=args.imgsz, epochs=args.epochs, curve=curve, seed=seed, **TRAINING, **run)
            options: dict[str, Any] = {"imgsz": args.imgsz, "workers": 0, "plots": False, "exist_ok": True}
            found = model.val(data=str(data), project=run["project"], name="val", **options)
            scores.append((100 * found.seg.map, 100 * found.seg.map50))
        kept = codes(data.parent / "images/val", read_curve(curve))
        rows.append(f"| {name} | {kept:.0f} | " + " | ".join(f"{mean:.1f}" for mean in np.mean(scores, 0)) + " |")
        print(rows[-1], flush=True)
    print(f"\n{args.val} scenes of {args.imgsz} pixels, 12 bits, {args.stops:g} stops, {args.seeds} seeds\n")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
