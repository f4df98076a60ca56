"""The main job on the built-in data set: train in the dark, evaluate, export, check the export.

    python scripts/demo.py [folder]        # minutes on a CPU; results in runs/demo unless told otherwise

The same by hand:
    yolo segment train model=yolov8n-seg-wnlb.yaml data=shapes-dark.yaml imgsz=160 epochs=20 ...
    yolo export model=best.pt format=onnx
    yolo-wnlb export-check best.pt best.onnx images=path/to/images
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from ultralytics import YOLO
from ultralytics.data.utils import check_det_dataset

from yolo_wnlb import check_export

IMGSZ = 160
# A nano model from scratch in minutes on two cores: small batches, each of them a step (nbs = batch).
TRAINING = {"imgsz": IMGSZ, "epochs": 20, "batch": 8, "nbs": 8, "optimizer": "AdamW", "lr0": 0.003, "warmup_epochs": 1}
TRAINING |= {"mosaic": 0, "flipud": 0.5, "scale": 0.25, "workers": 0, "plots": False, "seed": 0}


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
    trained.predict(pictures, imgsz=IMGSZ, save=True, project=str(out), name="predictions", exist_ok=True)
    parity = check_export(best, onnx, images=pictures)

    learned = [f"{m.w.item():+.4f}" for m in trained.model.modules() if type(m).__name__ == "WNLB"]
    print(f"\n{parity}\n")
    print(f"mask mAP50-95 {metrics.seg.map:.3f}, mAP50 {metrics.seg.map50:.3f} on 100 dark pictures of shapes")
    print(f"learned w after P3, P4, P5: {', '.join(learned)}")
    print(f"{(time.perf_counter() - began) / 60:.1f} minutes. The results are in {out}:")
    for path in (best, onnx, out / "predictions", out / "results.csv"):
        print(f"  {path}")
    return 0 if parity.ok else 1


if __name__ == "__main__":  # loader workers start this file again on Windows and macOS
    sys.exit(main())
