"""How far does a detector hold? Its AP on the same pictures, clean and ever more corrupted: `yolo-wnlb robustness`.

    suite.read_suite -> cells (corruption x level); models x cells --measure--> an Evaluation each, in its own file
    all cells --robustness_report.tabulate--> P, mPC, rPC, intervals --> robustness.md, .csv, .json, curves.png

A cell that was measured is never measured again: its file says which weights, pictures, corruption and seed it is of.
After an interruption the same command goes on, and ends in the same report. docs/robustness.md tells how to read it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from yolo_wnlb.data import coco
from yolo_wnlb.data.journal import STATE, locked, write_json
from yolo_wnlb.data.sources import read_sources, real, spread
from yolo_wnlb.imaging import corruptions, sheet
from yolo_wnlb.imaging.camera import CAMERA_VERSION, capture, picture_rng, settings, whole_number
from yolo_wnlb.metrics.average_precision import Evaluation, evaluate
from yolo_wnlb.reading import read_json
from yolo_wnlb.study.models import network, task_of
from yolo_wnlb.study.plan import check_groups, differences, groups_of, safe_name
from yolo_wnlb.study.robustness_report import NAMES, Report, tabulate
from yolo_wnlb.study.suite import CLEAN, CONTROLS, DARKNESS, SUITE, Cell, controls, described, read_suite
from yolo_wnlb.study.surrogate import ATTACKS, Perturbation, Surrogate
from yolo_wnlb.twins.enhance import sha256_of
from yolo_wnlb.words import suggestion
from yolo_wnlb.yolo.models import read_picture

REQUEST, CELLS, PICTURES = "request.json", "cells", "pictures"  # names in the folder of a report
SIDE = 240  # of a sample picture, in pixels
Alter = Callable[[np.ndarray, Any], np.ndarray]


@dataclass
class Subject:
    """A model that is measured.

    Attributes:
        name: The shortest end of its path that no other model has.
        file: Its path.
        sha256: Of its file, or of all files of its folder.
        module: The module of `yolo_wnlb.detectors` that serves it.
        model: What `module.load` returned.
        classes: Its classes, {index: category id}.
        kinds: Whether masks ("segm"), boxes ("bbox") or both are evaluated.
        surrogate: Whose gradients attacks use; None without attacks.
        surrogate_sha256: Of its file.
    """

    name: str
    file: Path
    sha256: str
    module: Any
    model: Any
    classes: dict[int, int]
    kinds: tuple[str, ...]
    surrogate: Surrogate | None = None
    surrogate_sha256: str = ""


@dataclass
class Scene:
    """The pictures that all models are measured on.

    Attributes:
        truth: Of the chosen pictures.
        files: {image id: file}.
        keys: {image id: path in the data set}; the randomness of a picture follows from it.
        boxes: {image id: boxes of its objects, xywh in pixels}.
        seed: Of all randomness.
        preset: Whose noise the stops have.
        options: Of `predict`.
        request: All that cells of one report have in common; written to request.json.
    """

    truth: coco.Truth
    files: dict[Any, Path]
    keys: dict[Any, str]
    seed: int
    preset: str
    options: dict[str, Any]
    request: dict[str, Any]
    boxes: dict[Any, list[list[float]]] = field(default_factory=dict)


def robustness(
    models: Sequence[str | Path],
    data: str | Path,
    *,
    suite: Sequence[str] = SUITE,
    levels: Sequence[int] | None = None,
    n: int = 500,
    surrogate: str | Path | None = None,
    split: str = "val",
    imgsz: int | None = None,
    seed: int = 0,
    preset: str = "severe",
    groups: str | None = None,
    save: int = 4,
    allow_missing: bool = False,
    images: str | Path | None = None,
    out: str | Path = "runs/robustness",
    device: str | None = None,
) -> Report:
    """Measure models on clean and corrupted pictures, as far as that was not done before, and report.

    Args:
        models: Files of detectors; the others are compared with the first.
        data: A data YAML, or COCO annotations.
        suite: Families or single corruptions, of FAMILIES.
        levels: Which levels of each corruption; those that a corruption does not have are left out. Default: all.
            The stops of `lowlight` are always all measured.
        n: So many pictures, evenly spaced in the order of their names; all if there are fewer.
        surrogate: A checkpoint whose gradients attacks use. Default: each model's own.
        split: Of a data YAML.
        imgsz: Image size of the models. Default: as each was trained.
        seed: Of all randomness. A picture's draw depends on it and on the picture, never on the level.
        preset: Whose noise the stops have: mild, moderate, severe or extreme.
        groups: Which pictures belong together, as in a study: a key of the images of the COCO JSON, or a regular
            expression for file names with one group in brackets. Intervals then draw whole groups.
        save: Number of sample pictures of each corruption.
        allow_missing: Accept models that know other classes than those of the truth too.
        images: Pictures of COCO annotations, where they are not beside them.
        out: Folder for the cells and the report. The same call goes on where it was stopped.
        device: As Ultralytics takes it.
    Returns: The report; `str` of it is Markdown.
    Raises: ValueError, OSError: with the remedy; nothing was measured then, or what was measured is kept.
    """
    cells = read_suite(suite, levels)
    for name, value, least in (("n", n, 2), ("seed", seed, 0), ("save", save, 0)):
        whole_number(name, value, least=least)
    if preset not in DARKNESS:
        raise ValueError(f"preset is {preset!r}{suggestion(preset, DARKNESS)}; choose from {', '.join(DARKNESS)}")
    check_groups("groups", groups)
    refuse_place(home := Path(out).resolve())
    scene = read_scene(data, split, images, n, seed, preset, imgsz, allow_missing)
    labels = groups_of({"groups": groups}, scene.truth)
    if any(cell.name == "boxblur" for cell in cells) and "bbox" in coco.not_evaluated(scene.truth, []):
        raise ValueError(f"boxblur blurs inside the boxes of the objects, and objects of {data} have none")
    subjects = read_models(models, scene, allow_missing, device)
    if any(cell.family in ATTACKS for cell in cells):
        prepare_attacks(subjects, surrogate, scene)
    elif surrogate:
        raise ValueError(f"surrogate={surrogate} is for attacks, and suite has none of {', '.join(ATTACKS)}")

    with locked(home):
        keep_request(home, scene.request)
        found: dict[tuple[str, Cell], Evaluation] = {}
        measured = [CLEAN, *cells, *controls(cells)]
        todo = [(subject, cell) for subject in subjects for cell in measured]
        for number, (subject, cell) in enumerate(todo, 1):
            file = file_of(home, subject, cell)
            if not file.is_file():
                result = measure(subject, cell, scene)
                result.to_json(file)
                print(f"{number}/{len(todo)} {subject.name}, {described(cell)}: {ap_of(result)}", flush=True)
            found[subject.name, cell] = read_cell(file, key_of(subject, cell, scene))
        save_pictures(home / PICTURES, subjects, cells, scene, save)
        report = tabulate(
            [identity_of(subject, surrogate) for subject in subjects],
            measured,
            found,
            scene.request,
            labels,
        )
        report.save(home)
    return report


def identity_of(subject: Subject, surrogate: str | Path | None) -> dict[str, str]:
    """Return what the report says of a model: name, weights, sha256, and whose gradients attacks used."""
    identity = {"name": subject.name, "weights": str(subject.file), "sha256": subject.sha256}
    if subject.surrogate is not None:
        identity["attacked with"] = f"the gradients of {surrogate}" if surrogate else "its own gradients"
    return identity


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
) -> Scene:
    """Choose the pictures and say what makes them; the arguments are those of `robustness`."""
    truth = evenly_spaced(coco.ground_truth(data, split), n)
    if len(truth["images"]) < 2:
        raise ValueError(f"{data} has one picture in {split}; a report needs two or more, for intervals draw pictures")
    if not any(not a.get("iscrowd") for a in truth["annotations"]):
        raise ValueError(f"{data}: no object in {len(truth['images'])} pictures of {split}, so there is no AP")
    files = coco.image_files(truth, data, split, images)
    keys = keys_of(truth, files, data, images)
    listing = json.dumps([[keys[i], files[i].stat().st_size] for i in sorted(files, key=lambda i: keys[i])])
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
    options = {} if imgsz is None else {"imgsz": imgsz}
    scene = Scene(truth, files, keys, seed, preset, options, request)
    for annotation in truth["annotations"]:
        if not annotation.get("iscrowd"):
            scene.boxes.setdefault(annotation["image_id"], []).append(annotation.get("bbox") or [])
    return scene


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
        return corruptions.corrupt(image, cell.name, cell.level, rng, scene.boxes.get(image_id, []))

    return corrupted


def perturbation_of(cell: Cell, subject: Subject, scene: Scene) -> Perturbation | None:
    """Return what a cell does to the input of the network; None where it does nothing."""
    if cell.family not in (*ATTACKS, "control"):
        return None
    assert subject.surrogate is not None  # prepare_attacks gave it one
    attack = ATTACKS[CONTROLS.get(cell.name, cell.name)]
    return Perturbation(subject.surrogate, attack, cell.level, cell.family == "control", scene.seed, scene.keys)


# ---- the models ----------------------------------------------------------------------------------


def read_models(models: Sequence[str | Path], scene: Scene, allow_missing: bool, device: str | None) -> list[Subject]:
    """Load all models and check that they can be measured on these pictures.

    Raises: ValueError, OSError: one is missing, given twice, or has other classes than the truth.
    """
    from yolo_wnlb.detectors import torchvision, ultralytics

    paths = [Path(models)] if isinstance(models, (str, Path)) else [Path(model) for model in models]
    if not paths:
        raise ValueError("no model to measure; give the files of one or several: robustness best.pt data=my.yaml")
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
    return subjects


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
    path = Path(getattr(model, "weights", None) or path)
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return sha256_of(*files)


def prepare_attacks(subjects: Sequence[Subject], surrogate: str | Path | None, scene: Scene) -> None:
    """Give each model the network whose gradients its attacks use.

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


# ---- cells ---------------------------------------------------------------------------------------


def measure(subject: Subject, cell: Cell, scene: Scene) -> Evaluation:
    """Evaluate a model on the pictures of a cell."""
    perturbation = perturbation_of(cell, subject, scene)
    hooks: dict[str, Any] = {"alter": change_of(cell, scene)}
    if perturbation is not None:
        hooks["perturb"] = perturbation
    predictions = subject.module.predict(
        subject.model, scene.files, subject.classes, max_det=100, **scene.options, **hooks
    )
    protocol = {**subject.module.describe(subject.model, **scene.options), "cell": key_of(subject, cell, scene)}
    if perturbation is not None:
        before, after = (float(np.mean(losses)) for losses in (perturbation.before, perturbation.after))
        protocol |= {"loss_before": before, "loss_after": after}
    return evaluate(scene.truth, predictions, max_detections=100, iou_types=subject.kinds, protocol=protocol)


def key_of(subject: Subject, cell: Cell, scene: Scene) -> dict[str, Any]:
    """Return all that a cell depends on, as it stands in its file."""
    attacked = cell.family in (*ATTACKS, "control")
    request = {key: value for key, value in scene.request.items() if key not in ("data", "split")}
    return {
        "weights": subject.sha256,
        "surrogate": subject.surrogate_sha256 if attacked else "",
        "corruption": cell.name,
        "level": cell.level,
        "strength": cell.strength,
        **request,
    }


def file_of(home: Path, subject: Subject, cell: Cell) -> Path:
    """Return the file of a cell."""
    attacked = cell.family in (*ATTACKS, "control") and subject.surrogate_sha256 != subject.sha256
    by = f"-by-{subject.surrogate_sha256[:12]}" if attacked else ""
    return home / CELLS / subject.sha256[:12] / f"{safe_name(cell.name)}-{cell.level}{by}.json"


def read_cell(file: Path, key: Mapping[str, Any]) -> Evaluation:
    """Read a measured cell.

    Raises: ValueError: it is damaged, or of other weights, pictures or a corruption than its place says.
    """
    result = Evaluation.from_json(file)
    found = result.protocol.get("cell")
    if other := differences(found if isinstance(found, dict) else {"cell": found}, dict(key)):
        raise ValueError(f"{file} was measured with other conditions: {other}; delete it to measure it again")
    return result


def ap_of(result: Evaluation) -> str:
    """Write the AP of a cell."""
    kinds = [kind for kind in NAMES if kind in result.matches]
    return ", ".join(f"{NAMES[kind]} AP {100 * result.numbers(kind)['AP']:.2f}" for kind in kinds)


def refuse_place(home: Path) -> None:
    """Raise where `out` is the user's own: a file, or a folder with something else."""
    if home.exists() and not home.is_dir():
        raise FileExistsError(f"{home} is a file; choose a folder that is new or empty")
    if home.exists() and not (home / REQUEST).is_file() and any(path.name != STATE for path in home.iterdir()):
        raise FileExistsError(f"{home} holds something else than a robustness report; choose another out=")


def keep_request(home: Path, request: Mapping[str, Any]) -> None:
    """Write what the cells of a folder have in common, or refuse if it is not what is asked for now.

    More models, corruptions and levels may be added; other pictures, seeds, sizes or versions may not.
    """
    file = home / REQUEST
    if not file.is_file():
        write_json(file, dict(request))
        return
    then = read_json(file)
    if not isinstance(then, dict):
        raise ValueError(f"{file} is damaged; choose another out=, or delete this folder")
    if other := differences(*({k: v for k, v in one.items() if k != "data"} for one in (then, request))):
        raise ValueError(f"{home} holds a report of another request: {other}; choose another out=")


# ---- sample pictures -----------------------------------------------------------------------------


def save_pictures(folder: Path, subjects: Sequence[Subject], cells: Sequence[Cell], scene: Scene, count: int) -> None:
    """Write a sheet of sample pictures for each corruption: a row for each picture, a column for each level.

    Attacks are shown as the network sees them, for each model.
    """
    if not count:
        return
    chosen = spread(ids_by_name(scene.truth), count)
    by_name: dict[str, list[Cell]] = {}
    for cell in cells:
        by_name.setdefault(cell.name, []).append(cell)
    folder.mkdir(exist_ok=True)
    for name, levels in by_name.items():
        if levels[0].family not in ATTACKS:
            changes = [lambda image, image_id: image, *(change_of(cell, scene) for cell in levels)]
            write_sheet(
                folder / f"{safe_name(name)}.jpg",
                [levels[0]._replace(strength="clean"), *levels],
                [[change(read_picture(scene.files[i]), i) for change in changes if change] for i in chosen],
            )
            continue
        for subject in subjects:
            one = {i: scene.files[i] for i in chosen}
            columns = [seen(subject, None, one, scene)]
            columns += [seen(subject, perturbation_of(cell, subject, scene), one, scene) for cell in levels]
            write_sheet(
                folder / f"{safe_name(name)}-{safe_name(subject.name)}.jpg",
                [levels[0]._replace(strength="clean"), *levels],
                [list(row) for row in zip(*columns)],
            )


def seen(
    subject: Subject, perturbation: Perturbation | None, files: Mapping[Any, Path], scene: Scene
) -> list[np.ndarray]:
    """Return the inputs of a network for some pictures, uint8 BGR."""
    inputs = []

    def look(x: torch.Tensor, image_id: Any) -> torch.Tensor:
        x = perturbation(x, image_id) if perturbation else x
        codes = (x[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
        inputs.append(codes[..., ::-1])
        return x

    subject.module.predict(subject.model, files, subject.classes, **scene.options, perturb=look)
    return inputs


def write_sheet(file: Path, columns: Sequence[Cell], rows: Sequence[Sequence[np.ndarray]]) -> None:
    """Write a sheet: a row for each picture, a column for each level, named on top."""
    names = [cell.strength for cell in columns]
    parts = [sheet.heading(names, SIDE)]
    for row in rows:
        shown = [cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if image.shape[2] == 1 else image for image in row]
        size = sheet.scaled(row[0].shape, SIDE)
        parts.append(sheet.in_a_row([sheet.panel([sheet.resized(image, size)], [], SIDE) for image in shown]))
    cv2.imencode(".jpg", np.vstack(parts), [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tofile(file)
