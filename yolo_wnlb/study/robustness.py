"""How far does a model hold? Its score on the same pictures, clean and ever more corrupted: `yolo-wnlb robustness`.

    suite.read_suite -> cells (corruption x level); models x cells --measure--> a score each, in its own file
    all cells --robustness_report.tabulate--> P, mPC, rPC, intervals --> robustness.md, .csv, .json, curves.png

What differs between detectors and classifiers stands in `robustness_detectors` and `robustness_classifiers`, which
answer to the same names; `subject` holds what both are made of.

A cell that was measured is never measured again: its file says which weights, pictures, corruption and seed it is of.
After an interruption the same command goes on, and ends in the same report. docs/robustness.md tells how to read it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from yolo_wnlb.data.journal import STATE, locked, write_json
from yolo_wnlb.data.sources import spread
from yolo_wnlb.imaging import sheet
from yolo_wnlb.imaging.bounds import whole_number
from yolo_wnlb.imaging.camera import as_changes, settings
from yolo_wnlb.imaging.camera_file import names_a_file
from yolo_wnlb.reading import read_json
from yolo_wnlb.study import robustness_classifiers, robustness_detectors
from yolo_wnlb.study.plan import check_groups, groups_of
from yolo_wnlb.study.robustness_report import Report, tabulate
from yolo_wnlb.study.runs import differences, safe_name
from yolo_wnlb.study.subject import Scene, Subject, change_of, notes_on_light, perturbation_of
from yolo_wnlb.study.suite import (
    CLEAN,
    DARKNESS,
    SUITE,
    WHITE_BOX,
    Cell,
    attack_named,
    controls,
    described,
    read_suite,
    white_boxes,
)
from yolo_wnlb.study.surrogate import ATTACKS
from yolo_wnlb.words import suggestion

REQUEST, CELLS, PICTURES = "request.json", "cells", "pictures"  # names in the folder of a report
SIDE = 240  # of a sample picture, in pixels
SPACES = ("pixels", "normalised")  # what radii of attacks count


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
    space: str = "pixels",
    groups: str | None = None,
    save: int = 4,
    allow_missing: bool = False,
    images: str | Path | None = None,
    out: str | Path = "runs/robustness",
    device: str | None = None,
) -> Report:
    """Measure models on clean and corrupted pictures, as far as that was not done before, and report.

    Args:
        models: Files of detectors, or of classifiers and fused networks; the others are compared with the first.
        data: A data YAML, or COCO annotations; of classifiers what `data.folders.read` takes.
        suite: Families or single corruptions, of FAMILIES.
        levels: Which levels of each corruption; those that a corruption does not have are left out. Default: all.
            The stops of `lowlight` are always all measured.
        n: So many pictures, evenly spaced in the order of their names; all if there are fewer.
        surrogate: A checkpoint whose gradients attacks use; the white box, each model's own gradients, is measured
            beside it. Default: each model's own gradients alone.
        split: Of a data YAML, or of class folders.
        imgsz: Image size of the models. Default: as each was trained.
        seed: Of all randomness. A picture's draw depends on it and on the picture, never on the level.
        preset: Whose noise the stops have: mild, moderate, severe, extreme, or the .yaml file of a camera.
        space: "pixels": radii of linf attacks count pixels of [0, 1]. "normalised": they count values that a classifier
            has divided by the standard deviation of their channel, so that pixels change by less.
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
    check_preset(preset)
    if space not in SPACES:
        raise ValueError(f"space is {space!r}{suggestion(space, SPACES)}; choose from {', '.join(SPACES)}")
    check_groups("groups", groups)
    refuse_place(home := Path(out).resolve())
    paths = [Path(models)] if isinstance(models, (str, Path)) else [Path(model) for model in models]
    if not paths:
        raise ValueError("no model to measure; give the files of one or several: robustness best.pt data=my.yaml")
    kind: Any = robustness_classifiers if robustness_classifiers.are_classifiers(paths, data) else robustness_detectors
    scene = kind.read_scene(data, split, images, n, seed, preset, imgsz, allow_missing, space)
    if names_a_file(preset):  # what the file holds, so that another content is another request
        scene.request["camera"] = json.loads(json.dumps(as_changes(settings(preset))))
    labels = groups_of({"groups": groups}, kind.listing(scene))
    if any(cell.name == "boxblur" for cell in cells) and scene.boxes is None:
        known = "; sort by=scenes writes boxes.json" if kind is robustness_classifiers else ""
        raise ValueError(f"boxblur blurs inside the boxes of the objects, and objects of {data} have none{known}")
    subjects = kind.read_models(paths, scene, allow_missing, device)
    attacks = [cell for cell in cells if cell.family in ATTACKS]
    if attacks:
        check_space(space, attacks)
        kind.prepare_attacks(subjects, surrogate, scene, device)
        if surrogate and any(subject.surrogate_sha256 != subject.sha256 for subject in subjects):
            cells += [] if any(subject.own is None for subject in subjects) else white_boxes(attacks)
    elif surrogate or space != "pixels":
        idle = f"surrogate={surrogate}" if surrogate else f"space={space}"
        raise ValueError(f"{idle} is for attacks, and suite has none of {', '.join(ATTACKS)}")

    with locked(home):
        keep_request(home, scene.request)
        found: dict[tuple[str, Cell], Any] = {}
        measured = [CLEAN, *cells, *controls(cells)]
        todo = [(subject, cell) for subject in subjects for cell in measured]
        for number, (subject, cell) in enumerate(todo, 1):
            file = file_of(home, subject, cell)
            if not file.is_file():
                alter, perturbation = change_of(cell, scene), perturbation_of(cell, subject, scene)
                result = kind.measure(subject, scene, alter, perturbation, key_of(subject, cell, scene))
                result.to_json(file)
                print(f"{number}/{len(todo)} {subject.name}, {described(cell)}: {kind.in_words(result)}", flush=True)
            found[subject.name, cell] = read_cell(kind, file, key_of(subject, cell, scene))
        save_pictures(home / PICTURES, kind, subjects, cells, scene, save)
        report = tabulate(
            [identity_of(subject, surrogate, cells) for subject in subjects],
            measured,
            found,
            scene.request,
            labels,
        )
        report.notes += notes_on_light(cells, scene)
        report.save(home)
    return report


def identity_of(subject: Subject, surrogate: str | Path | None, cells: Sequence[Cell]) -> dict[str, str]:
    """Return what the report says of a model: name, weights, sha256, and whose gradients attacks used."""
    identity = {"name": subject.name, "weights": str(subject.file), "sha256": subject.sha256}
    if subject.surrogate is not None:
        identity["attacked with"] = f"the gradients of {surrogate}" if surrogate else "its own gradients"
        if any(cell.name.endswith(WHITE_BOX) for cell in cells):
            identity["white box"] = "measured"
        elif surrogate and subject.own is None:
            identity["white box"] = "no gradients of its own"
    return identity


def check_preset(preset: str) -> None:
    """Refuse what is neither a preset whose noise the stops can have, nor the file of a camera."""
    if names_a_file(preset):
        settings(preset)
    elif preset not in DARKNESS:
        raise ValueError(
            f"preset is {preset!r}{suggestion(preset, DARKNESS)}; choose from {', '.join(DARKNESS)}, or give the .yaml "
            "file of a camera"
        )


def check_space(space: str, attacks: Sequence[Cell]) -> None:
    """Refuse radii of normalised values for an attack that has one radius for all channels."""
    if space != "pixels" and (l2 := [cell.name for cell in attacks if ATTACKS[cell.name].norm != "linf"]):
        raise ValueError(f"space={space} is for linf attacks, and suite has {l2[0]}; leave one of the two out")


# ---- cells ---------------------------------------------------------------------------------------


def key_of(subject: Subject, cell: Cell, scene: Scene) -> dict[str, Any]:
    """Return all that a cell depends on, as it stands in its file."""
    request = {key: value for key, value in scene.request.items() if key not in ("data", "split")}
    return {
        "weights": subject.sha256,
        "surrogate": subject.attacked_by(cell),
        "corruption": cell.name.removesuffix(WHITE_BOX),  # a white box is the attack of a report without a surrogate
        "level": cell.level,
        "strength": cell.strength,
        **request,
    }


def file_of(home: Path, subject: Subject, cell: Cell) -> Path:
    """Return the file of a cell."""
    attacker = subject.attacked_by(cell)
    by = f"-by-{attacker[:12]}" if attacker not in ("", subject.sha256) else ""
    name = safe_name(cell.name.removesuffix(WHITE_BOX))
    return home / CELLS / subject.sha256[:12] / f"{name}-{cell.level}{by}.json"


def read_cell(kind: Any, file: Path, key: Mapping[str, Any]) -> Any:
    """Read the score of a measured cell; `kind` is the module of its kind of model.

    Raises: ValueError: it is damaged, or of other weights, pictures or a corruption than its place says.
    """
    result = kind.read_score(file)
    found = result.protocol.get("cell")
    if other := differences(found if isinstance(found, dict) else {"cell": found}, dict(key)):
        raise ValueError(f"{file} was measured with other conditions: {other}; delete it to measure it again")
    return result


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


def save_pictures(
    folder: Path, kind: Any, subjects: Sequence[Subject], cells: Sequence[Cell], scene: Scene, count: int
) -> None:
    """Write a sheet of sample pictures for each corruption: a row for each picture, a column for each level.

    Where all models take grey pictures, they are shown in grey. Attacks are shown as the network sees them, for each
    model.
    """
    if not count:
        return
    chosen = spread(scene.ids, count)
    is_grey = all(getattr(subject.model, "channels", 3) == 1 for subject in subjects)
    by_name: dict[str, list[Cell]] = {}
    for cell in cells:
        by_name.setdefault(cell.name, []).append(cell)
    folder.mkdir(exist_ok=True)
    for name, levels in by_name.items():
        columns = [levels[0]._replace(strength="clean"), *levels]
        if not attack_named(name):
            changes = [change_of(cell, scene) for cell in levels]
            pictures = [(i, in_grey(scene.read(i)) if is_grey else scene.read(i)) for i in chosen]
            rows = [[picture, *(change(picture, i) for change in changes if change)] for i, picture in pictures]
            write_sheet(folder / f"{safe_name(name)}.jpg", columns, rows)
            continue
        for subject in subjects:
            attacks = [None, *(perturbation_of(cell, subject, scene) for cell in levels)]
            seen = [kind.inputs_of(subject, attack, chosen, scene) for attack in attacks]
            write_sheet(folder / f"{safe_name(name)}-{safe_name(subject.name)}.jpg", columns, [*map(list, zip(*seen))])


def in_grey(image: np.ndarray) -> np.ndarray:
    """Return a picture, BGR (H, W, 3) or grey (H, W, 1), as (H, W, 1)."""
    return cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[..., None] if image.shape[2] == 3 else image


def write_sheet(file: Path, columns: Sequence[Cell], rows: Sequence[Sequence[np.ndarray]]) -> None:
    """Write a sheet: a row for each picture, a column for each level, named on top."""
    names = [cell.strength for cell in columns]
    parts = [sheet.heading(names, SIDE)]
    for row in rows:
        shown = [cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if image.shape[2] == 1 else image for image in row]
        size = sheet.scaled(row[0].shape, SIDE)
        parts.append(sheet.in_a_row([sheet.panel([sheet.resized(image, size)], [], SIDE) for image in shown]))
    cv2.imencode(".jpg", np.vstack(parts), [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tofile(file)
