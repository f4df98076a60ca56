"""What averaging the frames of a still camera gains: noise, AP with N frames against one, and its cost.

    python scripts/watch_gain.py best.pt data=my.yaml frames=4 preset=severe speeds=0,2,8

Each picture of a data set becomes a clip whose last frame it is: before that, every labelled object was so many pixels
a frame away, in a direction of its own, over a ground that is filled in behind it. `imaging.capture` takes each frame
in the dark with noise of its own. The truth is that of the picture. Prints AP on the last frame alone and on the
average, with the paired interval of their difference; the noise of still parts; and the CPU time of the averaging on
640 x 480 pixels.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as mask_utils

from yolo_wnlb.data.coco import class_map, ground_truth, image_files, to_rle
from yolo_wnlb.data.shapes import scene
from yolo_wnlb.detectors import ultralytics as detector
from yolo_wnlb.imaging.camera import settings
from yolo_wnlb.imaging.capture import capture
from yolo_wnlb.imaging.chance import picture_rng
from yolo_wnlb.metrics.average_precision import evaluate
from yolo_wnlb.metrics.bootstrap import paired_bootstrap
from yolo_wnlb.terminal.arguments import Command, Option, explain, listed, number, parse, path, text, whole
from yolo_wnlb.watch.average import StillAverage

AHEAD = 3  # frames before the N that are averaged, so that the noise is known


def clip_of(picture: np.ndarray, masks: list[np.ndarray], speed: float, count: int, seed: int) -> list[np.ndarray]:
    """Return frames that end with the picture, in which each object moves by `speed` pixels a frame."""
    if not speed or not masks:
        return [picture] * count
    every = np.any(masks, axis=0).astype(np.uint8)
    ground = cv2.inpaint(picture, cv2.dilate(every, np.ones((5, 5), np.uint8)), 3, cv2.INPAINT_TELEA)
    turns = np.random.default_rng(seed).uniform(0, 2 * np.pi, len(masks))
    height, width = picture.shape[:2]
    frames = []
    for back in reversed(range(1, count)):
        frame = ground.copy()
        for mask, turn in zip(masks, turns):
            x, y = back * speed * np.cos(turn), back * speed * np.sin(turn)
            shift = np.array([[1, 0, x], [0, 1, y]])
            moved = cv2.warpAffine(picture, shift, (width, height), flags=cv2.INTER_LINEAR)
            where = cv2.warpAffine(mask.astype(np.uint8), shift, (width, height), flags=cv2.INTER_NEAREST)
            cv2.copyTo(moved, where, frame)
        frames.append(frame)
    return [*frames, picture]


def gains(options: dict[str, Any], model: str) -> None:
    """Print AP on one frame and on the mean of N, for each speed."""
    frames, camera = options.get("frames", 4), settings(options.get("preset", "severe"))
    truth = ground_truth(options["data"], options.get("split", "val"))
    files = image_files(truth, options["data"], options.get("split", "val"))
    ids = sorted(files)[:: max(1, len(files) // options.get("n", len(files)))]
    files = {key: files[key] for key in ids}
    truth = {**truth, "images": [image for image in truth["images"] if image["id"] in files]}
    truth["annotations"] = [one for one in truth["annotations"] if one["image_id"] in files]
    objects: dict[Any, list[Any]] = {key: [] for key in files}
    for one in truth["annotations"]:
        objects[one["image_id"]].append(one.get("segmentation"))
    loaded = detector.load(model)
    classes = class_map(detector.names(loaded), truth, allow_missing=True)
    print(f"{len(files)} pictures, preset {options.get('preset', 'severe')}, N = {frames}")
    for speed in options.get("speeds", [0, 2, 8]):
        scores = []
        for most in (1, frames):

            def alter(picture: np.ndarray, key: Any, most: int = most, speed: float = speed) -> np.ndarray:
                shapes = [shape for shape in objects[key] if shape]
                masks = [mask_utils.decode(to_rle(shape, *picture.shape[:2])) > 0 for shape in shapes]
                count = 1 if most == 1 else most + AHEAD
                average = StillAverage(most)
                shot = camera.draw(picture_rng(0, str(key)))
                for k, frame in enumerate(clip_of(picture, masks, speed, count, int(key) % 2**32)):
                    mean = average.add(capture(frame, shot, frame=frames + AHEAD - count + k))
                return mean.picture

            found = detector.predict(loaded, files, classes, imgsz=options.get("imgsz"), alter=alter)
            scores.append(evaluate(truth, found))
        kind = "segm" if scores[0].masks else "bbox"
        values = [score.of_kind(kind).numbers()["AP"] for score in scores]
        difference = paired_bootstrap(scores[0], scores[1])
        print(f"{speed:g} px a frame: AP {100 * values[0]:.2f} -> {100 * values[1]:.2f}; {difference}")


def noise_and_cost(frames: int, preset: str) -> None:
    """Print by how much noise falls where nothing moves, and the time of the average."""
    cv2.setNumThreads(1)
    ratios, times, still = [], [], []
    for seed in range(8):
        bright = scene(np.random.default_rng(seed), 640).image[:480]
        shot = settings(preset).draw(picture_rng(0, str(seed)))
        average = StillAverage(frames)
        clip = [capture(bright, shot, frame=k) for k in range(3 * frames)]
        means = []
        for frame in clip:
            start = time.thread_time()
            means.append(average.add(frame))
            times.append(1e3 * (time.thread_time() - start))
        noise = np.std(np.float32(clip[0]) - clip[1])
        ratios.append(noise / np.std(np.float32(means[frames - 1].picture) - means[2 * frames - 1].picture))
        still.append(means[-1].still)
    print(
        f"noise falls by {np.mean(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}), sqrt(N) is {frames**0.5:.3f}; "
        f"{np.mean(still):.2%} of the pixels count as still"
    )
    print(f"640 x 480 on one core: {np.median(times):.2f} ms a frame (median of {len(times)}, CPU time)")


def main() -> int:
    """Read the command line and print the numbers."""
    options = {
        option.name: option
        for option in (
            Option("data", path("DATA.yaml"), "the pictures and their truth", required=True),
            Option("split", text("NAME"), "of the data YAML", "val"),
            Option("frames", whole(1), "N", 4),
            Option("preset", text("NAME"), "how dark", "severe"),
            Option("speeds", listed(number(0)), "pixels a frame", (0, 2, 8)),
            Option("imgsz", whole(1), "image size of the model (default: as trained)"),
            Option("n", whole(2), "so many pictures (default: all)"),
        )
    }
    command = Command(
        Path(__file__).stem, lambda *_: 0, (__doc__ or "").splitlines()[0], "", "MODEL", (1, 1), (), options, "", False
    )
    if {"-h", "--help"} & {*sys.argv}:
        print(explain(command))
        return 0
    try:
        files, values = parse(sys.argv[1:], command)
        noise_and_cost(values.get("frames", 4), values.get("preset", "severe"))
        gains(values, files[0])
    except (ValueError, OSError) as error:
        print(f"watch_gain: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
