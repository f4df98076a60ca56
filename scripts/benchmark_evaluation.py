"""Time of one evaluation: pycocotools called by hand against our `evaluate`, the same numbers wanted.

    python scripts/benchmark_evaluation.py [--images 500] [--detections 100] [--rounds 3]

Draws images full of ellipses, and detections of them: shifted copies and false alarms. Then the
evaluators take turns on masks; the medians are printed as a Markdown table. faster-coco-eval takes
part where it is installed. Ours includes its checks of the input, the others have none.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import time
from importlib.util import find_spec
from statistics import median
from typing import Any

import cv2
import numpy as np

from yolo_wnlb.data.coco import Prediction, Truth, coder, encode
from yolo_wnlb.metrics.average_precision import evaluate

HEIGHT, WIDTH = 480, 640


def draw(rng: np.random.Generator, images: int, detections: int, classes: int) -> tuple[Truth, list[Prediction]]:
    """Make a truth with 3 to 11 objects an image, and so many detections of each image."""
    masks = np.zeros((400, HEIGHT, WIDTH), np.uint8)
    for mask in masks:
        centre = (int(rng.integers(WIDTH)), int(rng.integers(HEIGHT)))
        axes = [int(v) for v in np.exp(rng.uniform(np.log(6), np.log(110), 2))]
        cv2.ellipse(mask, centre, axes, float(rng.uniform(0, 360)), 0, 360, 1, -1)
    shifts = [(0, 0), *(tuple(rng.integers(-9, 10, 2)) for _ in range(4))]
    rles = [encode(np.roll(masks, shift, (1, 2))) for shift in shifts]
    boxes = [[coder.toBbox(rle).tolist() for rle in row] for row in rles]

    annotations: list[dict[str, Any]] = []
    predictions: list[Prediction] = []

    def entry(image: int, kind: int, version: int, shape: int) -> dict[str, Any]:
        mask, box = rles[version][shape], boxes[version][shape]
        return {"image_id": image, "category_id": kind, "segmentation": mask, "bbox": box}

    for image in range(1, images + 1):
        found = []
        for shape in rng.choice(len(masks), rng.integers(3, 12), replace=False):
            kind = int(rng.integers(1, classes + 1))
            more = {"id": len(annotations) + 1, "iscrowd": 0, "area": float(masks[shape].sum())}
            annotations.append({**entry(image, kind, 0, shape), **more})
            for version in range(1, 1 + rng.integers(0, 5)):
                found.append({**entry(image, kind, version, shape), "score": float(rng.beta(2, 2))})
        while len(found) < detections:
            kind, shape = int(rng.integers(1, classes + 1)), int(rng.integers(len(masks)))
            found.append({**entry(image, kind, 0, shape), "score": float(rng.beta(1, 4))})
        predictions += found[:detections]
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH} for i in range(1, images + 1)],
        "annotations": annotations,
        "categories": [{"id": k, "name": f"class {k}"} for k in range(1, classes + 1)],
    }, predictions


def by_hand(truth: Truth, predictions: list[Prediction], library: str) -> list[float]:
    """Evaluate as the manual of pycocotools says; `predictions` are changed by it."""
    if library == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    else:
        from faster_coco_eval import COCO
        from faster_coco_eval import COCOeval_faster as COCOeval
    side = COCO()
    side.dataset = truth
    side.createIndex()
    evaluator = COCOeval(side, side.loadRes(predictions), "segm")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return [float(value) for value in evaluator.stats[:12]]


def main() -> None:
    """Let the evaluators take turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--detections", type=int, default=100, help="of each image")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    libraries = ["pycocotools", *(["faster-coco-eval"] if find_spec("faster_coco_eval") else []), "yolo_wnlb"]
    print("| classes | evaluator | CPU s | wall s | times faster (CPU) | mask AP | largest difference of the 12 |")
    print("|---|---|---|---|---|---|---|")
    for classes in (80, 1):
        truth, predictions = draw(np.random.default_rng(0), args.images, args.detections, classes)
        for prediction in predictions:
            del prediction["bbox"]  # with it, pycocotools takes the area of the box for that of the mask
        cpu: dict[str, list[float]] = {library: [] for library in libraries}
        wall: dict[str, list[float]] = {library: [] for library in libraries}
        numbers: dict[str, list[float]] = {}
        for _ in range(args.rounds):
            for library in libraries:
                given = copy.deepcopy((truth, predictions))
                start = time.process_time(), time.perf_counter()
                with contextlib.redirect_stdout(io.StringIO()):
                    if library == "yolo_wnlb":
                        numbers[library] = list(evaluate(*given, iou_types=["segm"]).masks.values())
                    else:
                        numbers[library] = by_hand(*given, library)
                cpu[library].append(time.process_time() - start[0])
                wall[library].append(time.perf_counter() - start[1])
        for library in libraries:
            off = max(abs(a - b) for a, b in zip(numbers[library], numbers["pycocotools"]))
            times = median(cpu["pycocotools"]) / median(cpu[library])
            print(
                f"| {classes} | {library} | {median(cpu[library]):.2f} | {median(wall[library]):.2f} | {times:.1f} "
                f"| {numbers[library][0]:.16f} | {off:.1g} |"
            )


if __name__ == "__main__":
    main()
