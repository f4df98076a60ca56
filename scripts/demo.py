"""The main job on the built-in data set: train in the dark, evaluate, export, check the export.

    python scripts/demo.py [folder]        # minutes on a CPU; results in runs/demo unless a folder is given

The same by hand, with the settings of TRAINING:
    yolo segment train model=yolov8n-seg-wnlb.yaml data=shapes-dark.yaml imgsz=160 epochs=20 batch=8 nbs=8 ...
    yolo export model=best.pt format=onnx imgsz=160
    yolo-wnlb export-check best.pt best.onnx images=path/to/images
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import cv2
import numpy as np
from ultralytics import YOLO
from ultralytics.data.utils import check_det_dataset
from ultralytics.engine.results import Results

from yolo_wnlb import WNLB, check_export

IMGSZ = 160
# A nano model from scratch in minutes on two cores: small batches, each of them a step (nbs = batch).
TRAINING = {"imgsz": IMGSZ, "epochs": 20, "batch": 8, "nbs": 8, "optimizer": "AdamW", "lr0": 0.003, "warmup_epochs": 1}
TRAINING |= {"mosaic": 0, "flipud": 0.5, "scale": 0.25, "workers": 0, "plots": False, "seed": 0}


def overview(results: list[Results], file: Path) -> None:
    """Save rows of pictures: as the camera saw it, the same brightened, and what the model found."""
    columns = []
    for result in results:
        bright = np.clip(result.orig_img.astype(float) * 4, 0, 255).astype(np.uint8)
        found = result.plot(img=bright.copy(), labels=False, conf=False, boxes=False)
        columns.append(np.vstack([result.orig_img, bright, found]))
    cv2.imwrite(str(file), np.hstack(columns), [cv2.IMWRITE_JPEG_QUALITY, 85])


def main() -> int:
    """Run the demo and say where the results are."""
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo").resolve()
    began = time.perf_counter()
    model = YOLO("yolov8n-seg-wnlb.yaml")
    model.train(data="shapes-dark.yaml", project=str(out.parent), name=out.name, exist_ok=True, **TRAINING)

    best = out / "weights" / "best.pt"
    trained = YOLO(best)
    metrics = trained.val(data="shapes-dark.yaml", imgsz=IMGSZ, project=str(out), name="val", exist_ok=True)
    onnx = Path(trained.export(format="onnx", imgsz=IMGSZ))
    pictures = sorted(Path(check_det_dataset("shapes-dark.yaml")["val"]).glob("*.png"))[:8]
    results = trained.predict(pictures, imgsz=IMGSZ, save=True, project=str(out), name="predictions", exist_ok=True)
    overview(results, out / "overview.jpg")
    parity = check_export(best, onnx, images=pictures)

    learned = [f"{m.w.mean().item():+.4f}" for m in trained.model.modules() if isinstance(m, WNLB)]
    print(f"\n{parity}\n")
    print(f"mask mAP50-95 {metrics.seg.map:.3f}, mAP50 {metrics.seg.map50:.3f} on 100 dark pictures of shapes")
    print(f"learned w after P3, P4, P5: {', '.join(learned)}")
    print(f"the dark pictures: {pictures[0].parent}")
    print(f"{(time.perf_counter() - began) / 60:.1f} minutes. The results are in {out}:")
    for path in (best, onnx, out / "overview.jpg", out / "predictions", out / "results.csv"):
        print(f"  {path}")
    return 0 if parity.ok else 1


if __name__ == "__main__":  # loader workers start this file again on Windows and macOS
    sys.exit(main())
