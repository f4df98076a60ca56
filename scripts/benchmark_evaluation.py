"""Time of one evaluation: pycocotools, faster-coco-eval and hotcoco as their manuals say, and our `evaluate`.

    python scripts/benchmark_evaluation.py [--images 500] [--detections 100] [--rounds 5]

Draws images full of ellipses, and detections of them: shifted copies and false alarms. Then all take turns
on the masks; the medians are printed as a Markdown table. faster-coco-eval and hotcoco take part where they
are installed. "hotcoco and its eval_imgs" also asks which detection hit which object, which the bootstrap needs.
The last lines are parts of `evaluate`: what it has its engine do, matches included, and its checks of the input.
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
from unittest import mock

import cv2
import numpy as np
from pycocotools import mask as mask_utils

from yolo_wnlb.data.coco import Prediction, Truth, check, encode
from yolo_wnlb.metrics import average_precision, engines
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
    boxes = [[mask_utils.toBbox(rle).tolist() for rle in row] for row in rles]

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
    """Return the twelve numbers as the manual of a library gets them; `predictions` are changed by some."""
    if library == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    elif library == "faster-coco-eval":
        from faster_coco_eval import COCO
        from faster_coco_eval import COCOeval_faster as COCOeval
    else:
        from hotcoco import COCO, COCOeval
    if library.startswith("hotcoco"):
        side = COCO(truth)
    else:
        side = COCO()
        side.dataset = truth
        side.createIndex()
    evaluator = COCOeval(side, side.loadRes(predictions), "segm")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    if library.endswith("eval_imgs"):
        assert evaluator.eval_imgs
    return [float(value) for value in evaluator.stats[:12]]


def engine_tasks(truth: Truth, predictions: list[Prediction]) -> list[tuple[str, engines.Task]]:
    """Return the name of the engine that `evaluate` runs, and what it asks of it."""
    with mock.patch.object(average_precision, "run", wraps=engines.run) as runs:
        evaluate(truth, predictions, iou_types=["segm"])
    return [call.args for call in runs.call_args_list]


def run(name: str, truth: Truth, predictions: list[Prediction], tasks: list[tuple[str, engines.Task]]) -> list[float]:
    """Run one line of the table; parts of `evaluate` have no numbers."""
    if name == "yolo_wnlb":
        return list(evaluate(truth, predictions, iou_types=["segm"]).masks.values())
    if name == "its engine alone":
        for engine, task in tasks:
            engines.run(engine, task)
        return []
    if name == "its checks alone":
        check(truth, predictions)
        return []
    return by_hand(truth, predictions, name)


def main() -> None:
    """Let the evaluators take turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--detections", type=int, default=100, help="of each image")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    rust = ["hotcoco", "hotcoco and its eval_imgs"] if find_spec("hotcoco") else []
    faster = ["faster-coco-eval"] if find_spec("faster_coco_eval") else []
    names = ["pycocotools", *faster, *rust, "yolo_wnlb", "its engine alone", "its checks alone"]
    base = rust[0] if rust else names[0]
    print(f"| classes | evaluator | CPU s | wall s | CPU, {base} = 1 | mask AP | largest difference of the 12 |")
    print("|---|---|---|---|---|---|---|")
    for classes in (80, 1):
        truth, predictions = draw(np.random.default_rng(0), args.images, args.detections, classes)
        for prediction in predictions:
            del prediction["bbox"]  # with it, pycocotools takes the area of the box for that of the mask
        tasks = engine_tasks(truth, predictions)
        cpu: dict[str, list[float]] = {name: [] for name in names}
        wall: dict[str, list[float]] = {name: [] for name in names}
        numbers: dict[str, list[float]] = {}
        for _ in range(args.rounds):
            for name in names:
                given = copy.deepcopy((truth, predictions))
                start = time.process_time(), time.perf_counter()
                with contextlib.redirect_stdout(io.StringIO()):
                    numbers[name] = run(name, *given, tasks)
                cpu[name].append(time.process_time() - start[0])
                wall[name].append(time.perf_counter() - start[1])
        for name in names:
            off = max((abs(a - b) for a, b in zip(numbers[name], numbers["pycocotools"])), default=None)
            result = "| | |" if off is None else f"| {numbers[name][0]:.16f} | {off:.1g} |"
            print(
                f"| {classes} | {name} | {median(cpu[name]):.2f} | {median(wall[name]):.2f} "
                f"| {median(cpu[name]) / median(cpu[base]):.1f} {result}"
            )


if __name__ == "__main__":
    main()
