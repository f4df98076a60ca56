"""Classifiers and fused networks under test: their pictures, their models, their attacks and their accuracy."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from yolo_wnlb.classifiers import detector
from yolo_wnlb.data import folders
from yolo_wnlb.data.sources import spread
from yolo_wnlb.imaging import corruptions
from yolo_wnlb.imaging.camera import CAMERA_VERSION
from yolo_wnlb.metrics.accuracy import Accuracy, places_of, score
from yolo_wnlb.reading import sha256_of
from yolo_wnlb.study.subject import (
    Alter,
    Perturbation,
    Scene,
    Subject,
    hash_of,
    losses_of,
    names_of,
)
from yolo_wnlb.study.surrogate import ClassSurrogate

read_score = Accuracy.from_json  # of a cell's file


def are_classifiers(models: Sequence[Path], data: str | Path) -> bool:
    """Tell whether the models are classifiers or fused networks; of files that are not there, whether the data are.

    Raises: ValueError: some are, and others are not.
    """
    there = [model for model in models if model.is_file()]
    found = [detector.reads(model) for model in there]
    if not there:
        return folders.is_drawn(data) or str(data).startswith("cifar10")
    if len({*found}) > 1:
        one, other = there[found.index(True)], there[found.index(False)]
        raise ValueError(f"{one} is a classifier, and {other} is none; models of one report have one kind")
    return found[0]


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
    for name, value in (("images", images), ("allow_missing", allow_missing)):
        if value:
            raise ValueError(f"{name}={value} is for detectors, and classifiers are measured; remove it")
    pictures = folders.read(data, split)
    order = sorted(range(len(pictures)), key=pictures.names.__getitem__)
    pictures = pictures.only(spread(order, n) if len(order) > n else order)
    if len(pictures) < 2:
        raise ValueError(f"{data} has one picture in {split}; a report needs two or more, for intervals draw pictures")
    keys = {number: f"{split}/{name}" for number, name in enumerate(pictures.names)}
    boxes = None
    if pictures.boxes is not None:
        boxes = {number: [list(box) for box in found] for number, found in enumerate(pictures.boxes)}
    content = [hashlib.sha256(pictures.read(number).tobytes()).hexdigest() for number in keys]
    listed = json.dumps([pictures.names, pictures.boxes, content])
    request = {
        "data": str(data),
        "split": split,
        "pictures": len(pictures),
        "of": hashlib.sha256(listed.encode(errors="surrogateescape")).hexdigest()[:16],
        "truth": pictures.digest,
        "seed": seed,
        "preset": preset,
        "imgsz": imgsz,
        **({} if space == "pixels" else {"space": space}),
        "versions": {"camera": CAMERA_VERSION, "corruptions": corruptions.VERSION},
    }
    ids, options = [*range(len(pictures))], {} if imgsz is None else {"imgsz": imgsz}
    normalised = space == "normalised"
    return Scene(pictures, ids, pictures.read, keys, boxes, seed, preset, options, request, normalised=normalised)


def listing(scene: Scene) -> Mapping[str, Any]:
    """Return a mapping with `images`, as `groups:` of a study wants it."""
    return {"images": scene.truth.images}


# ---- the models ----------------------------------------------------------------------------------


def read_models(models: Sequence[str | Path], scene: Scene, allow_missing: bool, device: str | None) -> list[Subject]:
    """Load all models and check that they can be measured on these pictures.

    Raises: ValueError, OSError: one is missing, given twice, or lacks a class.
    """
    paths = [Path(model) for model in models]
    subjects = []
    for path, name in zip(paths, names_of(paths)):
        model = detector.load(path, device)
        try:
            places_of(scene.truth, list(detector.names(model).values()))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        subjects.append(Subject(name, path, hash_of(path, model), detector, model, {}, ("accuracy",)))
    return subjects


def prepare_attacks(
    subjects: Sequence[Subject], surrogate: str | Path | None, scene: Scene, device: str | None
) -> None:
    """Give each model the network whose gradients its attacks use, and its own one beside another surrogate.

    Raises: ValueError, OSError: the surrogate is no classifier, or lacks a class of the pictures.
    """
    shared = None
    if surrogate is not None:
        if Path(surrogate).is_file() and not detector.reads(surrogate):
            raise ValueError(
                f"surrogate={surrogate} is no classifier that yolo_wnlb trained; attacks on classifiers climb the loss "
                "of a classifier or a fused network"
            )
        try:
            shared = ClassSurrogate(surrogate, scene.truth, device)
        except ValueError as error:
            raise ValueError(f"surrogate={surrogate}: {error}") from error
    for subject in subjects:
        own = ClassSurrogate(subject.file, scene.truth, device)
        subject.surrogate, subject.own = shared or own, own if shared else None
        subject.surrogate_sha256 = sha256_of(Path(surrogate or subject.file))


# ---- measuring -----------------------------------------------------------------------------------


def measure(
    subject: Subject, scene: Scene, alter: Alter | None, perturbation: Perturbation | None, key: Mapping[str, Any]
) -> Accuracy:
    """Measure the accuracy of a model on changed pictures; `key` is kept in its protocol."""
    hooks: dict[str, Any] = {"alter": alter, "perturb": perturbation and perturbation.batch}
    probabilities = detector.predict(subject.model, scene.truth, **scene.options, **hooks)
    protocol = {**detector.describe(subject.model, **scene.options), "cell": key, **losses_of(perturbation)}
    return score(scene.truth, probabilities, list(detector.names(subject.model).values()), protocol)


def in_words(result: Accuracy) -> str:
    """Write the accuracy of a cell."""
    return f"accuracy {100 * result.numbers()['accuracy']:.2f}"


def inputs_of(
    subject: Subject, perturbation: Perturbation | None, ids: Sequence[Any], scene: Scene
) -> list[np.ndarray]:
    """Return the inputs of the network for some pictures, uint8 (h, w, 3), BGR."""
    inputs: list[np.ndarray] = []

    def look(x: torch.Tensor, numbers: Sequence[int]) -> torch.Tensor:
        x = perturbation.batch(x, numbers) if perturbation else x
        codes = (x.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        inputs.extend(codes[..., ::-1])
        return x

    detector.predict(subject.model, scene.truth, places=ids, **scene.options, perturb=look)
    return inputs
