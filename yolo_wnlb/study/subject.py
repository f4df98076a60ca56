"""What a robustness report is made of: the models that are measured, and the pictures that they are measured on.

`robustness_detectors` and `robustness_classifiers` read both, each for its kind of model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from yolo_wnlb.data.sources import spread
from yolo_wnlb.imaging import corruptions
from yolo_wnlb.imaging.brightness import dark_already
from yolo_wnlb.imaging.camera import settings
from yolo_wnlb.imaging.capture import capture
from yolo_wnlb.imaging.chance import picture_rng
from yolo_wnlb.reading import sha256_of
from yolo_wnlb.study.suite import WHITE_BOX, Cell, attack_named
from yolo_wnlb.study.surrogate import ATTACKS, ClassSurrogate, Perturbation, Surrogate

LOOKED_AT = 100  # pictures, evenly spaced, that tell whether a data set is dark
Alter = Callable[[np.ndarray, Any], np.ndarray]


@dataclass
class Subject:
    """A model that is measured.

    Attributes:
        name: The shortest end of its path that no other model has.
        file: Its path.
        sha256: Of its file, or of all files of its folder.
        module: The module that serves it: of `yolo_wnlb.detectors`, or `classifiers.detector`.
        model: What `module.load` returned.
        classes: Of a detector: its classes, {index: category id}.
        kinds: What is measured: masks ("segm"), boxes ("bbox") or both; or "accuracy".
        surrogate: Whose gradients attacks use; None without attacks.
        surrogate_sha256: Of its file.
        own: The model itself, for the white box beside the attack with another surrogate; None where there is none.
    """

    name: str
    file: Path
    sha256: str
    module: Any
    model: Any
    classes: dict[int, int]
    kinds: tuple[str, ...]
    surrogate: Surrogate | ClassSurrogate | None = None
    surrogate_sha256: str = ""
    own: Surrogate | ClassSurrogate | None = None

    def attacked_by(self, cell: Cell) -> str:
        """Return the hash of the weights whose gradients, or losses, a cell uses; "" for a cell without an attack."""
        if not attack_named(cell.name):
            return ""
        return self.sha256 if cell.name.endswith(WHITE_BOX) else self.surrogate_sha256


@dataclass
class Scene:
    """The pictures that all models are measured on.

    Attributes:
        truth: Of the chosen pictures: a COCO document, or `Labelled`.
        ids: Of the pictures, in the order of their names.
        read: Function of an id that returns the picture, uint8 (H, W, 1 or 3), BGR.
        keys: {id: path in the data set}; the randomness of a picture follows from it.
        boxes: {id: boxes of its objects, xywh in pixels}; None where they are not known.
        seed: Of all randomness.
        preset: Whose noise the stops have.
        options: Of `predict`.
        request: All that cells of one report have in common; written to request.json.
        files: Of a detector's pictures, {id: file}.
        normalised: Whether radii of linf attacks count values that the network has normalised.
    """

    truth: Any
    ids: list[Any]
    read: Callable[[Any], np.ndarray]
    keys: dict[Any, str]
    boxes: dict[Any, list[list[float]]] | None
    seed: int
    preset: str
    options: dict[str, Any]
    request: dict[str, Any]
    files: dict[Any, Path] = field(default_factory=dict)
    normalised: bool = False


def notes_on_light(cells: Sequence[Cell], scene: Scene) -> list[str]:
    """Say so where darkness is measured on pictures that are dark already."""
    if not any(cell.family == "lowlight" for cell in cells):
        return []
    remark = dark_already(median(float(scene.read(i).mean()) for i in spread(scene.ids, LOOKED_AT)))
    darker = "Presets and stops darken them further, and by day stands for the pictures as they are"
    return [f"{remark}. {darker}"] if remark else []


def change_of(cell: Cell, scene: Scene) -> Alter | None:
    """Return what a cell does to a picture as it was read; None for clean pictures and attacks."""
    if cell.name in ("presets", "stops"):
        camera = settings(cell.strength) if cell.name == "presets" else settings(scene.preset, ev=-cell.level)

        def darkened(image: np.ndarray, image_id: Any) -> np.ndarray:
            return capture(image, camera.draw(picture_rng(scene.seed, scene.keys[image_id])))

        return darkened
    if cell.name not in corruptions.CORRUPTIONS:
        return None

    def corrupted(image: np.ndarray, image_id: Any) -> np.ndarray:
        rng = corruptions.generator(scene.seed, cell.name, scene.keys[image_id])
        return corruptions.corrupt(image, cell.name, cell.level, rng, (scene.boxes or {}).get(image_id, []))

    return corrupted


def perturbation_of(cell: Cell, subject: Subject, scene: Scene) -> Perturbation | None:
    """Return what a cell does to the input of the network; None where it does nothing."""
    attack = attack_named(cell.name)
    if not attack:
        return None
    surrogate = subject.own if cell.name.endswith(WHITE_BOX) else subject.surrogate
    assert surrogate is not None  # prepare_attacks gave it one
    std = surrogate.std if scene.normalised and isinstance(surrogate, ClassSurrogate) else None
    is_random = cell.family == "control"
    return Perturbation(surrogate, ATTACKS[attack], cell.level, is_random, scene.seed, scene.keys, std)


def losses_of(perturbation: Perturbation | None) -> dict[str, float]:
    """Return the mean losses before and after the change, for the protocol of a score."""
    if perturbation is None:
        return {}
    before, after = (float(np.mean(losses)) for losses in (perturbation.before, perturbation.after))
    return {"loss_before": before, "loss_after": after}


def names_of(paths: Sequence[Path]) -> list[str]:
    """Return the shortest end of each path, without its suffix, that tells all of them apart."""
    whole = [path.resolve() for path in paths]
    if twice := [str(path) for path, file in zip(paths, whole) if whole.count(file) > 1]:
        raise ValueError(f"{twice[0]} is given twice; a model is compared with others")
    for parts in range(1, max(len(file.parts) for file in whole) + 1):
        for named in ((file.with_suffix("") for file in whole), whole):
            names = ["/".join(file.parts[-parts:]) for file in named]
            if len({*names}) == len(names):
                return names
    return [str(file) for file in whole]


def hash_of(path: Path, model: Any) -> str:
    """Hash the weights of a loaded model: its file, or all files of its folder."""
    return sha256_of(Path(getattr(model, "weights", None) or path))
