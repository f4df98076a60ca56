"""What a model costs for one picture: time on this machine, operations, size of its file."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from yolo_wnlb.data.sources import spread
from yolo_wnlb.report.content import Cost
from yolo_wnlb.study.models import model_size
from yolo_wnlb.study.subject import Scene, Subject

PICTURES = 20  # whose times are measured, evenly spaced by name
WARM_UP = 2  # runs before that


def rows_of(subjects: Sequence[Subject], scene: Scene, confidences: Mapping[str, float]) -> list[Cost]:
    """Measure the models one after the other, each on the same pictures and at its confidence, by name."""
    rows = []
    for subject in subjects:
        stated = subject.module.describe(subject.model, **scene.options)
        on_cpu = str(stated.get("device", "cpu")).startswith("cpu")
        device = "CPU" if on_cpu else name_of(torch.device(stated["device"]))
        rows.append(
            Cost(
                subject.name,
                device,
                torch.get_num_threads() if on_cpu else None,
                milliseconds(subject, scene, confidences[subject.name]),
                model_size(subject.model, stated["image_size"]).get("GFLOPs"),
                size_of(Path(getattr(subject.model, "weights", subject.file))) / 1e6,
            )
        )
    return rows


def name_of(device: torch.device) -> str:
    """Name what computes; only CUDA knows more than its kind."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def milliseconds(subject: Subject, scene: Scene, confidence: float) -> float:
    """Return the median time of a picture, from the picture in memory to what was found in it above a confidence.

    At the confidence floor of AP most of the time would go into masks that nobody looks at.
    """
    times, begun = [], [0.0]

    def start(image: np.ndarray, image_id: Any) -> np.ndarray:
        begun[0] = time.perf_counter()
        return image

    ids = spread(scene.ids, PICTURES)
    for image_id in [*ids[:1] * WARM_UP, *ids]:
        file = {image_id: scene.files[image_id]}
        subject.module.predict(
            subject.model, file, subject.classes, max_det=100, conf=confidence, **scene.options, alter=start
        )
        times.append(time.perf_counter() - begun[0])
    return 1000 * median(times[WARM_UP:])


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files of a folder."""
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())
