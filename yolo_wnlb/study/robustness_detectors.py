"""Detectors under test: their pictures, their models, their attacks and their score, the AP of COCO."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from yolo_wnlb.data import coco
from yolo_wnlb.data.sources import read_sources, real, spread
from yolo_wnlb.imaging import corruptions
from yolo_wnlb.imaging.camera import CAMERA_VERSION
from yolo_wnlb.metrics.average_precision import Evaluation, evaluate
from yolo_wnlb.reading import sha256_of
from yolo_wnlb.study.models import network, task_of
from yolo_wnlb.study.robustness_report import NAMES
from yolo_wnlb.study.subject import (
    Alter,
    Perturbation,
    Scene,
    Subject,
    hash_of,
    losses_of,
    names_of,
)
from yolo_wnlb.study.surrogate import ATTACKS, Surrogate
from yolo_wnlb.yolo.models import read_picture

read_score = Evaluation.from_json  # of a cell's file


# ---- the pictures --------------------------------------------------------------------------------


def read_scene(
    data: str | Path,
    split: str,
    images: str | Path | None,
    n: int,
    seed: int,
    preset: str,
    imgsz: int | None,
    allow_missing: bool,
    space: str,
) -> Scene:
    """Choose the pictures and say what makes them; the arguments are those of `robustness`."""
    if space != "pixels":
        raise ValueError(f"space={space} is for classifiers, whose networks normalise their input; leave it out")
    truth = evenly_spaced(coco.ground_truth(data, split), n)
    if len(truth["images"]) < 2:
        raise ValueError(f"{data} has one picture in {split}; a report needs two or more, for intervals draw pictures")
    if not any(not a.get("iscrowd") for a in truth["annotations"]):
        raise ValueError(f"{data}: no object in {len(truth['images'])} pictures of {split}, so there is no AP")
    files = coco.image_files(truth, data, split, images)
    keys = keys_of(truth, files, data, images)
    listing = json.dumps([[keys[i], sha256_of(files[i])] for i in sorted(files, key=lambda i: keys[i])])
    request = {
        "data": str(data),
        "split": None if Path(data).suffix.lower() == ".json" else split,
        "pictures": len(files),
        "of": hashlib.sha256(listing.encode(errors="surrogateescape")).hexdigest()[:16],
        "truth": coco.fingerprint(truth),
        "seed": seed,
        "preset": preset,
        "imgsz": imgsz,
        "allow_missing": allow_missing,
        "versions": {"camera": CAMERA_VERSION, "corruptions": corruptions.VERSION},
    }
    return Scene(
        truth,
        ids_by_name(truth),
        lambda image_id: read_picture(files[image_id]),
        keys,
        boxes_of(truth),
        seed,
        preset,
        {} if imgsz is None else {"imgsz": imgsz},
        request,
        files,
    )


def boxes_of(truth: coco.Truth) -> dict[Any, list[list[float]]] | None:
    """Return the boxes of the objects of each picture, but for crowds; None where the truth has none."""
    if "bbox" in coco.not_evaluated(truth, []):
        return None
    boxes: dict[Any, list[list[float]]] = {}
    for annotation in truth["annotations"]:
        if not annotation.get("iscrowd"):
            boxes.setdefault(annotation["image_id"], []).append(annotation.get("bbox") or [])
    return boxes


def listing(scene: Scene) -> Mapping[str, Any]:
    """Return a mapping with `images`, as `groups:` of a study wants it."""
    return scene.truth


def evenly_spaced(truth: coco.Truth, n: int) -> coco.Truth:
    """Keep n pictures of a truth, evenly spaced in the order of their names; all if there are no more."""
    if len(truth["images"]) <= n:
        return truth
    kept = {*spread(ids_by_name(truth), n)}
    return {
        **truth,
        "images": [image for image in truth["images"] if image["id"] in kept],
        "annotations": [a for a in truth["annotations"] if a["image_id"] in kept],
    }


def ids_by_name(truth: coco.Truth) -> list[Any]:
    """List the ids of the pictures in the order of their names."""
    return [image["id"] for image in sorted(truth["images"], key=lambda image: image["file_name"])]


def keys_of(
    truth: coco.Truth, files: Mapping[Any, Path], data: str | Path, images: str | Path | None
) -> dict[Any, str]:
    """Return the path of each picture as `darken` and `corrupt` know it, so that their twins are what is measured.

    A data set that lies in several places has no such paths, and cannot have twins; there it is the file name.
    """
    try:
        sources = read_sources(data, images)
        return {key: sources.key(real(file)) for key, file in files.items()}
    except ValueError:
        return {image["id"]: image["file_name"] for image in truth["images"]}


# ---- the models ----------------------------------------------------------------------------------


def read_models(models: Sequence[str | Path], scene: Scene, allow_missing: bool, device: str | None) -> list[Subject]:
    """Load all models and check that they can be measured on these pictures.

    Each model is measured on pictures of more than 8 bits as its own curve reads them; what the report itself looks at
    and shows is read through the curve of the first.

    Raises: ValueError, OSError: one is missing, given twice, or has other classes than the truth.
    """
    from yolo_wnlb.detectors import torchvision, ultralytics

    paths = [Path(model) for model in models]
    subjects: list[Subject] = []
    for path, name in zip(paths, names_of(paths)):
        module: Any = torchvision if path.is_file() and torchvision.reads(path) else ultralytics
        model = module.load(path, device or "")
        try:
            classes = coco.class_map(module.names(model), scene.truth, allow_missing)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        module.describe(model, **scene.options)
        if module is ultralytics:
            ultralytics.choose_size(model, scene.options.get("imgsz"))
        finds = ("segm", "bbox") if task_of(model) == "segment" else ("bbox",)
        lacking = coco.not_evaluated(scene.truth, [])
        kinds = tuple(kind for kind in finds if kind not in lacking)
        if not kinds:
            raise ValueError(f"{path} cannot be evaluated: {'; '.join(lacking.values())}")
        subjects.append(Subject(name, path, hash_of(path, model), module, model, classes, kinds))
    if not set.intersection(*(set(subject.kinds) for subject in subjects)):
        raise ValueError("the models have neither masks nor boxes in common that the truth has too")
    curve = getattr(subjects[0].model, "curve", None)
    scene.read = lambda image_id: read_picture(scene.files[image_id], curve=curve)
    return subjects


def prepare_attacks(
    subjects: Sequence[Subject], surrogate: str | Path | None, scene: Scene, device: str | None
) -> None:
    """Give each model the network whose gradients its attacks use, and its own one beside another surrogate.

    Raises: ValueError: a model cannot be attacked, or only with a surrogate.
    """
    for subject in subjects:
        if not hasattr(subject.model, "backend"):
            raise ValueError(
                f"{subject.file} cannot be attacked: inputs of Mask R-CNN and SOLOv2 have another geometry than those "
                f"of YOLO models; leave {', '.join(ATTACKS)} out of suite"
            )
        if surrogate is None and (subject.file.suffix != ".pt" or network(subject.model) is None):
            raise ValueError(
                f"{subject.file} is an exported model, which has no gradients; give the checkpoint that it was "
                "exported from: surrogate=best.pt"
            )
        file = Path(surrogate or subject.file)
        if file.suffix != ".pt":
            raise ValueError(f"surrogate={file} has no gradients; wanted a checkpoint of Ultralytics, .pt")
        subject.surrogate = Surrogate(file, scene.truth, subject.model.backend.device)
        subject.surrogate_sha256 = sha256_of(file)
        if subject.surrogate.channels != subject.model.channels:
            raise ValueError(
                f"{file} takes pictures of {subject.surrogate.channels} channels, and {subject.file} of "
                f"{subject.model.channels}; give a surrogate for the same pictures"
            )
        strides = int(max(subject.surrogate.network.stride)), int(subject.model.backend.stride)
        if strides[1] % strides[0]:
            raise ValueError(
                f"{file} takes sides that are multiples of {strides[0]}, and {subject.file} of {strides[1]}; give a "
                "surrogate of the same stride"
            )
    for subject in subjects:
        if surrogate is not None and subject.file.suffix == ".pt" and network(subject.model) is not None:
            subject.own = Surrogate(subject.file, scene.truth, subject.model.backend.device)


# ---- measuring -----------------------------------------------------------------------------------


def measure(
    subject: Subject, scene: Scene, alter: Alter | None, perturbation: Perturbation | None, key: Mapping[str, Any]
) -> Evaluation:
    """Evaluate a model on changed pictures; `key` is kept in its protocol."""
    hooks: dict[str, Any] = {"alter": alter} | ({} if perturbation is None else {"perturb": perturbation})
    predictions = subject.module.predict(
        subject.model, scene.files, subject.classes, max_det=100, **scene.options, **hooks
    )
    protocol = {**subject.module.describe(subject.model, **scene.options), "cell": key, **losses_of(perturbation)}
    return evaluate(scene.truth, predictions, max_detections=100, iou_types=subject.kinds, protocol=protocol)


def in_words(result: Evaluation) -> str:
    """Write the AP of a cell."""
    return ", ".join(f"{NAMES[kind]} {100 * result.numbers(kind)['AP']:.2f}" for kind in result.matches)


def inputs_of(
    subject: Subject, perturbation: Perturbation | None, ids: Sequence[Any], scene: Scene
) -> list[np.ndarray]:
    """Return the inputs of the network for some pictures, uint8 (h, w, C), BGR."""
    inputs = []

    def look(x: torch.Tensor, image_id: Any) -> torch.Tensor:
        x = perturbation(x, image_id) if perturbation else x
        codes = (x[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
        inputs.append(codes[..., ::-1])
        return x

    files = {image_id: scene.files[image_id] for image_id in ids}
    subject.module.predict(subject.model, files, subject.classes, **scene.options, perturb=look)
    return inputs
