"""Write class folders for classifiers: objects cut out, pictures of one class each, or folders parted by groups.

    data YAML             --by=objects-->  SPLIT/CLASS/PICTURE-NUMBER.png
    data YAML             --by=scenes-->   train/CLASS/PICTURE.jpg and test/CLASS/PICTURE.jpg, and boxes.json
    CLASS/GROUP/*.jpg     --by=groups-->   train/CLASS/GROUP/*.jpg and test/CLASS/GROUP/*.jpg

The second keeps the whole picture where few objects of one class leave room for what is around them: the rule by which
Akumalla, Haney and Bazhenov (Contextual Fusion For Adversarial Robustness, 2020, section 2.2) choose pictures of COCO.
The third is how the splits of Modas et al. (ICIP 2021) are made of C-CCM: other containers in test than in train.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from yolo_wnlb.data.folders import BOXES, SPLITS, class_folders, read_picture
from yolo_wnlb.data.journal import appearing, write_json
from yolo_wnlb.data.validation import is_whole
from yolo_wnlb.words import suggestion

WAYS = ("objects", "scenes", "groups")
MOST_OBJECTS = 2  # in a picture that by=scenes keeps
MOST_COVERED = 0.5  # of such a picture, by the boxes of its objects
TESTED_SHARE = 0.25  # of the pictures of each class
LEAST = 100  # pictures of a class that by=scenes keeps


@dataclass(frozen=True)
class Sorted:
    """What `sort` wrote; print it.

    Attributes:
        out: The folder.
        counts: Pictures by split and class.
        left_out: How many objects or pictures were left out, by reason.
    """

    out: Path
    counts: dict[str, dict[str, int]]
    left_out: dict[str, int]

    def __str__(self) -> str:
        lines = [f"wrote {self.out}"]
        for split, classes in self.counts.items():
            lines.append(
                f"{split}: {sum(classes.values())} pictures ({', '.join(f'{n} {name}' for name, n in classes.items())})"
            )
        return "\n".join([*lines, *(f"left out: {count} {reason}" for reason, count in self.left_out.items() if count)])


def sort(
    source: str | Path,
    out: str | Path,
    *,
    by: str = "objects",
    margin: float = 0.1,
    test: Sequence[str] | None = None,
    least: int | None = None,
    seed: int | None = None,
) -> Sorted:
    """Write class folders that `read` takes.

    by="objects" cuts every object of a detection data set out into SPLIT/CLASS/PICTURE-NUMBER.png. by="scenes" copies
    the pictures of all splits of a detection data set that show one or two objects of one class, whose boxes cover half
    of the picture at most, into train/CLASS (three quarters of each class) and test/CLASS, and writes their boxes into
    boxes.json. by="groups" copies a folder CLASS/GROUP/*.jpg: pictures of the groups in `test` into test/, all others
    into train/; this is how the splits of Modas et al. are made of C-CCM.

    Args:
        source: A data YAML, or its name, for objects and scenes; a folder for groups.
        out: Folder to make. It appears when everything is in it.
        by: "objects", "scenes" or "groups".
        margin: Width that is left around an object, as a share of the longer side of its box. For objects.
        test: Names of groups. For groups.
        least: Classes with fewer pictures are left out. For scenes, 100 by default.
        seed: Of the draw of test pictures. For scenes, 0 by default.
    Raises:
        FileExistsError: `out` exists.
        ValueError: an argument is out of range or does not go with `by`; a group is not there; two classes would
            share a folder; no object is left, or fewer than two classes.
        OSError: a picture cannot be read, or `out` cannot be written.
    """
    out = Path(out).resolve()
    if by not in WAYS:
        raise ValueError(f"by is {by!r}{suggestion(by, WAYS)}; choose from {', '.join(WAYS)}")
    if not 0 <= margin <= 1:
        raise ValueError(f"margin is {margin}; wanted a share of the box from 0 to 1")
    if bool(test) != (by == "groups"):
        raise ValueError(
            "by=groups wants the groups to test on, test=GROUP,..."
            if by == "groups"
            else "test= goes with by=groups only"
        )
    for name, value, smallest in (("least", least, 2), ("seed", seed, 0)):
        if value is not None and by != "scenes":
            raise ValueError(f"{name}= goes with by=scenes only")
        if value is not None and not (is_whole(value) and value >= smallest):
            raise ValueError(f"{name} is {value!r}; wanted a whole number, {smallest} or more")
    if by != "groups" and Path(source).is_dir():
        raise ValueError(f"{source} is a folder; by={by} wants a data YAML, by=groups a folder CLASS/GROUP/*.jpg")
    if by != "groups" and Path(source).suffix.lower() == ".json":
        raise ValueError(f"{source} is one split; by={by} wants the data YAML of all of them")
    with removing_empty(out.parents), appearing(out, f"{out} exists; choose another out=") as draft:
        if by == "objects":
            left_out = sort_objects(source, draft, margin)
        elif by == "scenes":
            left_out = sort_scenes(source, draft, LEAST if least is None else least, seed or 0)
        else:
            left_out = sort_groups(Path(source), draft, test or ())
        counts = {
            split: {name: len(pictures) for name, pictures in class_folders(draft / split).items()}
            for split in SPLITS
            if (draft / split).is_dir()
        }
    return Sorted(out, counts, left_out)


@contextmanager
def removing_empty(folders: Iterable[Path]) -> Iterator[None]:
    """Remove those of the folders that are made within the block, and empty at its end; innermost first."""
    new = [folder for folder in folders if not folder.exists()]
    try:
        yield
    finally:
        with suppress(OSError):  # a folder that is not empty holds what was asked for
            for folder in new:
                folder.rmdir()


def sort_objects(source: str | Path, draft: Path, margin: float) -> dict[str, int]:
    """Cut the objects of all splits of a data YAML out; returns how many were left out, by reason."""
    from yolo_wnlb.data import coco
    from yolo_wnlb.data.data_yaml import read_data_yaml

    data, _ = read_data_yaml(source)
    left_out: Counter[str] = Counter()
    for split in (name for name in SPLITS if data.get(name)):
        truth = coco.ground_truth(source, split)
        folders = class_folder_names([category["name"] for category in truth["categories"]])
        classes = {category["id"]: folders[category["name"]] for category in truth["categories"]}
        learnt = {folder.name for folder in (draft / "train").glob("*")}
        objects: dict[Any, list[dict[str, Any]]] = {}
        for annotation in truth["annotations"]:
            if annotation.get("iscrowd"):
                left_out["crowds"] += 1
            elif min(annotation["bbox"][2:]) < 1:
                left_out["objects less than a pixel wide or high"] += 1
            elif split != "train" and learnt and classes[annotation["category_id"]] not in learnt:
                left_out["objects of classes that no picture of train has"] += 1
            else:
                objects.setdefault(annotation["image_id"], []).append(annotation)
        files = coco.image_files(truth, source, split)
        for image in (image for image in truth["images"] if image["id"] in objects):
            picture = read_picture(files[image["id"]])
            stem = re.sub(r"[^\w-]+", "-", str(Path(image["file_name"]).with_suffix("")))
            for number, annotation in enumerate(objects[image["id"]]):
                target = draft / split / classes[annotation["category_id"]] / f"{stem}-{image['id']}-{number}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(cv2.imencode(".png", cut_out(picture, annotation["bbox"], margin))[1].tobytes())
    if not any(draft.iterdir()):
        raise ValueError(f"{source}: no object to cut out; left out: {dict(left_out)}")
    return dict(left_out)


def sort_scenes(source: str | Path, draft: Path, least: int, seed: int) -> dict[str, int]:
    """Copy the pictures that show few objects of one class and what is around them; returns how many were left out.

    Args:
        source: A data YAML; the pictures of all its splits are drawn from.
        draft: Folder to write into.
        least: Classes with fewer pictures are left out.
        seed: Of the draw of test pictures, which is one for each class.
    """
    from yolo_wnlb.data import coco
    from yolo_wnlb.data.data_yaml import read_data_yaml

    data, _ = read_data_yaml(source)
    left_out: Counter[str] = Counter()
    kept: dict[str, dict[str, tuple[Path, list[Any]]]] = {}  # class -> name of the copy -> file, boxes
    seen: set[Path] = set()  # a picture of two splits would be in train/ and in test/
    for split in (name for name in SPLITS if data.get(name)):
        truth = coco.ground_truth(source, split)
        classes = {category["id"]: category["name"] for category in truth["categories"]}
        files = coco.image_files(truth, source, split)
        objects: dict[Any, list[dict[str, Any]]] = {}
        for annotation in truth["annotations"]:
            objects.setdefault(annotation["image_id"], []).append(annotation)
        for image in truth["images"]:
            file = files[image["id"]]
            if (original := file.resolve()) in seen:
                left_out["pictures that an earlier split has too"] += 1
                continue
            seen.add(original)
            of_picture = objects.get(image["id"], [])
            if reason := why_no_scene(of_picture, image["width"] * image["height"]):
                left_out[reason] += 1
                continue
            stem = re.sub(r"[^\w-]+", "-", str(Path(image["file_name"]).with_suffix("")))
            name = f"{split}-{stem}-{image['id']}{file.suffix.lower()}"
            kept.setdefault(classes[of_picture[0]["category_id"]], {})[name] = (file, [a["bbox"] for a in of_picture])
    for name in [name for name, pictures in kept.items() if len(pictures) < least]:
        left_out[f"pictures of classes with fewer than {least}"] += len(kept.pop(name))
    if len(kept) < 2:
        raise ValueError(
            f"{source}: {len(kept) or 'no'} class with {least} pictures of one or two of its objects is left, and a "
            f"classifier wants two; left out: {dict(left_out)}. Give a larger data set, or a smaller least="
        )
    folders, boxes = class_folder_names(sorted(kept)), {}
    for name in sorted(kept):
        pictures = sorted(kept[name])
        tested = max(1, round(TESTED_SHARE * len(pictures)))
        drawn = {*np.random.default_rng([seed, *name.encode()]).permutation(len(pictures))[:tested].tolist()}
        for place, copy in enumerate(pictures):
            file, found = kept[name][copy]
            target = Path("test" if place in drawn else "train", folders[name], copy)
            (draft / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, draft / target)
            boxes[target.as_posix()] = found
    write_json(draft / BOXES, boxes)
    return dict(left_out)


def why_no_scene(objects: Sequence[dict[str, Any]], pixels: float) -> str:
    """Say why a picture of so many pixels is none with few objects of one class; "" if it is one."""
    if not objects:
        return "pictures without an object"
    if any(annotation.get("iscrowd") for annotation in objects):
        return "pictures with a crowd"
    if len({annotation["category_id"] for annotation in objects}) > 1:
        return "pictures with objects of several classes"
    if len(objects) > MOST_OBJECTS:
        return f"pictures with more than {MOST_OBJECTS} objects"
    if min(side for annotation in objects for side in annotation["bbox"][2:]) <= 0:
        return "pictures with an object without width or height"
    if sum(annotation["bbox"][2] * annotation["bbox"][3] for annotation in objects) > MOST_COVERED * pixels:
        return f"pictures whose boxes cover more than {MOST_COVERED:.0%} of them"
    return ""


def class_folder_names(names: Sequence[str]) -> dict[str, str]:
    """Name the folder of each class.

    Raises: ValueError: two classes would share one, on a disk that does not tell a from A.
    """
    found = {name: folder_name(name) for name in names}
    owners: dict[str, str] = {}
    for name, folder in found.items():
        if owners.setdefault(folder.lower(), name) != name:
            raise ValueError(
                f"classes {owners[folder.lower()]!r} and {name!r} would share the folder {folder}; rename one"
            )
    return found


def folder_name(name: str) -> str:
    """Return the name of a class as the name of a folder on every system."""
    return re.sub(r'[\\/:*?"<>|\x00-\x1f]+', "-", name).strip(" .") or "-"


def cut_out(picture: Any, box: Sequence[float], margin: float) -> np.ndarray:
    """Cut a box, x y width height, out of a picture, with a margin as far as the picture goes: uint8 (h, w, 3)."""
    x, y, wide, high = box
    more = margin * max(wide, high)
    height, width = picture.shape[:2]
    left, top = max(int(np.floor(x - more)), 0), max(int(np.floor(y - more)), 0)
    left, top = min(left, width - 1), min(top, height - 1)  # of a box that begins at the last border
    right, bottom = min(int(np.ceil(x + wide + more)), width), min(int(np.ceil(y + high + more)), height)
    return picture[top : max(bottom, top + 1), left : max(right, left + 1)]


def sort_groups(source: Path, draft: Path, test: Sequence[str]) -> dict[str, int]:
    """Copy CLASS/GROUP/*.jpg into train/ and test/ by group; returns {} for nothing is left out."""
    if not source.is_dir():
        raise FileNotFoundError(f"there is no folder {source}; by=groups wants one with CLASS/GROUP/*.jpg")
    found = class_folders(source)
    if found.keys() <= {*SPLITS}:
        raise ValueError(
            f"{source} is split already, into {', '.join(found)}; by=groups wants {source}/CLASS/GROUP/*.jpg"
        )
    groups = {"/".join(file.relative_to(source).parts[1:-1]) for files in found.values() for file in files}
    if "" in groups:
        bare = next(file for files in found.values() for file in files if file.parent.parent == source)
        raise ValueError(f"{bare} lies in no group; by=groups wants {source}/CLASS/GROUP/*.jpg")
    if unknown := [name for name in test if name not in groups]:
        raise ValueError(
            f"{source} has no group {unknown[0]!r}{suggestion(unknown[0], groups)}; choose from "
            f"{', '.join(sorted(groups))}"
        )
    for name, files in found.items():
        if all("/".join(file.relative_to(source).parts[1:-1]) in test for file in files):
            raise ValueError(
                f"test={','.join(test)} takes all groups of class {name!r}, of which nothing could be learnt; name "
                "fewer"
            )
    for name, files in found.items():
        for file in files:
            parts = file.relative_to(source).parts
            target = draft / ("test" if "/".join(parts[1:-1]) in test else "train") / name / Path(*parts[1:])
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    return {}
