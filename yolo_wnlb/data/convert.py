"""What the download blocks of datasets/*.yaml call: COCO fetched, LIS and ExDark into Ultralytics' layout.

LIS and ExDark cannot be fetched by a program (Google Drive, Baidu, terms to read): their functions
say what to fetch and where to put it, and the command that asked for the data set goes on by
itself when it is run again. Results appear in one step, complete or not at all, because
Ultralytics takes a folder that exists for a data set that is there.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sized
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
from ultralytics.data.converter import convert_coco
from ultralytics.data.utils import IMG_FORMATS
from ultralytics.utils import DATASETS_DIR, LOGGER, ONLINE

from yolo_wnlb.data.data_yaml import read_data_yaml
from yolo_wnlb.data.journal import appearing
from yolo_wnlb.data.validation import Truth, check_truth, shown
from yolo_wnlb.reading import read_json, read_text

VOC_TO_COCO = {"motorbike": "motorcycle", "diningtable": "dining table", "tvmonitor": "tv"}  # names of classes
LIS_FETCH = """\
  1. open https://drive.google.com/drive/folders/1KpC82G_H1CI35lmnB2LYr9aK3FQcahAC
     (or https://pan.baidu.com/s/1XSV2CQZ7SWOvKvSgI7pH5Q, code IJCV); both are linked from
     https://github.com/Linwei-Chen/LIS
  2. download {kind} and annotations, and unpack them into {root}, so that there is
     {root}/{kind}/JPEGImages/ and
     {root}/annotations/{json}
  3. run the same command again"""
EXDARK_FETCH = """\
  1. read the terms of https://github.com/cs-chan/Exclusively-Dark-Image-Dataset, then download
     images       https://drive.google.com/file/d/1BHmPgu8EsHoFDDkMGLVoXIlCth2dW6Yx (1.5 GB)
     annotations  https://drive.google.com/file/d/1P3iO3UYn7KoBi5jiUkogJq96N6maZS1i (4.2 MB)
     splits       Groundtruth/imageclasslist.txt of that repository
  2. unpack them into {root}, so that there is
     {root}/ExDark/Bicycle/2015_00001.png,
     {root}/ExDark_Annno/Bicycle/2015_00001.png.txt and
     {root}/imageclasslist.txt
  3. run the same command again"""


def fetch_coco(yaml: str = "coco.yaml") -> str:
    """Let Ultralytics fetch COCO 2017 with outlines, where it is not there yet; return the name of its YAML.

    Raises:
        ConnectionError: it is not there, and this machine is offline or YOLO_OFFLINE is set.
        FileNotFoundError: it is there in part: an earlier download was interrupted.
    """
    try:
        data, _ = read_data_yaml(yaml, download=ONLINE)
    except FileNotFoundError as error:
        raise ConnectionError(
            f"COCO 2017 (20 GB) is not on this machine, which is offline, or YOLO_OFFLINE is set. Bring it online, or "
            f"copy the folder coco (images, labels, train2017.txt, val2017.txt) into {DATASETS_DIR}; then run the same "
            f"command again.\n{error}"
        ) from error
    for split in ("train", "val"):
        listed = Path(data[split])
        names = [line.strip() for line in read_text(listed).splitlines() if line.strip()]
        folders = {Path(name).parent for name in names}
        present = {(folder / file.name).as_posix() for folder in folders for file in (listed.parent / folder).glob("*")}
        if gone := [name for name in names if Path(name).as_posix() not in present]:
            raise FileNotFoundError(
                f"{len(gone)} of {len(names)} images that {listed} lists are missing (first: {gone[0]}): a download "
                f"was cut short. Delete {data['val']}, so that Ultralytics fetches them, and run the same command again"
            )
    return yaml


def convert_lis(root: str | Path, *, names: dict[int, str], kind: str = "RGB-dark", skip_missing: bool = False) -> Path:
    """Make root/yolo/KIND with images/{train,val} and labels/{train,val} of the LIS set; val is its test split.

    The annotations are COCO JSON, one for each split, suffix of the images, and light. Ultralytics'
    `convert_coco` writes the labels, but not from these files as they are: ids begin with 0 where it
    subtracts 1, and file names carry a folder ("./JPEGImages/1801.JPG"), with a suffix that is not
    always that of the image. Pictures are hard links, or copies where links cannot be made.

    Args:
        root: Folder that the files were unpacked into.
        names: Class names of the YAML; the annotations' own are looked up in it.
        kind: RGB-dark, RAW-dark, RGB-normal or RAW-normal.
        skip_missing: Go on without the images that are listed and not there.
    Returns: The folder made.
    Raises:
        FileNotFoundError: what is missing, and where to get it.
        ValueError: the files are not what they should be.
    Source of the format: README.md of github.com/Linwei-Chen/LIS (folders, names of the JSON files)
        and the preview of huggingface.co/datasets/Linwei-Chen/LIS (ids, names, file names).
    """
    root = Path(root).resolve()
    out = root / "yolo" / kind
    light = "+1" if kind.endswith("dark") else ""
    suffixes = ("JPG", "png") if kind.startswith("RGB") else ("png", "JPG")
    folders = [f for f in root.glob("*") if f.is_dir() and f.name.lower().replace("_", "-") == kind.lower()]
    found = {file.stem: file for folder in folders for file in visible(folder) if is_image(file)}
    jsons: dict[str, Path] = {}
    for split in ("train", "test"):
        wanted = [f"lis_coco_{suffix}_{split}{light}.json" for suffix in suffixes]
        files = [file for name in wanted for file in sorted(root.rglob(name))]
        if not files or not found:
            lack = f"{kind} with its images" if not found else wanted[0]
            steps = LIS_FETCH.format(root=root, kind=kind, json=wanted[0])
            raise FileNotFoundError(f"{root} lacks {lack} of the data set LIS. It has to be fetched by hand:\n{steps}")
        jsons[split] = files[0]

    index = {name: i for i, name in names.items()}
    with appearing(out, incomplete(out)) as folder, TemporaryDirectory() as scratch:
        counts = Counter[str]()
        for split, file in jsons.items():
            data = read_coco(file)
            classes = {c["id"]: VOC_TO_COCO.get(c["name"], c["name"]) for c in data["categories"]}
            if unknown := set(classes.values()) - set(index):
                raise ValueError(
                    f"{file} has classes {sorted(unknown)}; the YAML has {', '.join(index)}: mend its names"
                )
            images = {image["id"]: (found.get(Path(image["file_name"]).stem), image) for image in data["images"]}
            whole = {i: file for i, (file, image) in images.items() if file and fits(file, image)}
            check_missing([images[i][1]["file_name"] for i in images if i not in whole], images, file, skip_missing)
            made = {
                "images": [{**images[i][1], "file_name": file.name} for i, file in whole.items()],
                "annotations": [
                    {**a, "category_id": index[classes[a["category_id"]]] + 1}
                    for a in data["annotations"]
                    if a["image_id"] in whole
                ],
            }
            target = {"train": "train", "test": "val"}[split]
            (Path(scratch) / f"{target}.json").write_text(json.dumps(made), encoding="utf-8")
            for picture in whole.values():
                link(picture, folder / "images" / target / picture.name)
            counts.update({key: len(made[key]) for key in made})
        convert_coco(scratch, str(Path(scratch) / "out"), use_segments=True, cls91to80=False)
        shutil.copytree(Path(scratch) / "out" / "labels", folder / "labels")
        labels = sum(len(read_text(file).splitlines()) for file in (folder / "labels").rglob("*.txt"))
    left_out = f"{counts['annotations'] - labels} left out as crowds, without extent or repeated"
    LOGGER.info(f"LIS {kind}: {counts['images']} images, {labels} objects in {out}; {left_out}")
    return out


def convert_exdark(root: str | Path, *, names: dict[int, str], skip_missing: bool = False) -> Path:
    """Make root/yolo with images and labels, {train,val,test} each, of the ExDark set: boxes.

    Splits are the 5th column of imageclasslist.txt: 1 training, 2 validation, 3 testing. An
    annotation is a line of rubbish ("% bbGt version=3"), then a line an object: class, left, top,
    width, height in pixels, seven numbers of no use. Boxes are cut at the border of the picture, as
    it lies after EXIF rotation; the log says how many were cut or left out. Whether the pixels count
    from 0 or 1 is not documented; 0 is assumed.

    Args, Returns, Raises: as `convert_lis`.
    Source of the format: Groundtruth/README.md and imageclasslist.txt of
        github.com/cs-chan/Exclusively-Dark-Image-Dataset; that annotations are named
        2015_00001.png.txt and lie in ExDark_Annno/CLASS: public code that reads them.
    """
    root = Path(root).resolve()
    out = root / "yolo"
    files = [file for file in visible(root) if out not in file.parents]
    lists = [file for file in files if file.name == "imageclasslist.txt"]
    images = {stem(file): file for file in files if is_image(file)}
    notes = {stem(file): file for file in files if file.suffix == ".txt" and is_image(file.with_suffix(""))}
    parts = {"ExDark/ with the images": images, "ExDark_Annno/": notes, "imageclasslist.txt": lists}
    if lack := [name for name, part in parts.items() if not part]:
        steps = EXDARK_FETCH.format(root=root)
        raise FileNotFoundError(
            f"{root} lacks {', '.join(lack)} of the data set ExDark. It has to be fetched by hand:\n{steps}"
        )
    index = {name.lower(): i for i, name in names.items()}
    splits = read_splits(lists[0])
    whole = {name: split for name, split in splits.items() if name in images and name in notes}
    check_missing([name for name in splits if name not in whole], splits, lists[0], skip_missing)
    counts, unknown = Counter({"images": 0, "boxes": 0, "cut at the border": 0}), Counter[str]()
    with appearing(out, incomplete(out)) as folder:
        for name, split in whole.items():
            lines = []
            for kind, *box in boxes(notes[name], *size(images[name])):
                if kind.lower() not in index:
                    unknown[kind] += 1
                    continue
                *box, cut = box
                if min(box[2:]) <= 0:
                    counts["left out as empty"] += 1
                    continue
                counts["cut at the border"] += bool(cut)
                lines.append(f"{index[kind.lower()]} {' '.join(f'{value:.6f}' for value in box)}\n")
            link(images[name], folder / "images" / split / images[name].name)
            label = folder / "labels" / split / f"{images[name].stem}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text("".join(lines), encoding="utf-8")
            counts.update({"images": 1, "boxes": len(lines)})
        if not counts["boxes"]:
            raise ValueError(f"no box of {counts['images']} images has a class of the YAML; found {dict(unknown)}")
    listed = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    left = f"; classes that the YAML lacks, left out: {dict(unknown)}" if unknown else ""
    LOGGER.info(f"ExDark: {listed}{left}, in {out}")
    return out


# ---- parts ---------------------------------------------------------------------------------------


def incomplete(out: Path) -> str:
    """Say of a converted data set that is there what is wrong with it."""
    return f"{out} exists, but not all of what the YAML names in it; delete it and run again"


def visible(folder: Path) -> list[Path]:
    """List the files of a folder and those below it, but nothing hidden: drafts, thumbnails."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in found if not any(p.startswith(".") for p in path.relative_to(folder).parts))


def is_image(file: Path) -> bool:
    """Tell whether the name is that of an image."""
    return file.suffix[1:].lower() in IMG_FORMATS


def stem(file: Path) -> str:
    """Name of an image or its annotation before the first dot: suffixes are spelt one way or the other."""
    return file.name.partition(".")[0].lower()


def size(image: Path) -> tuple[int, int]:
    """Width and height as Ultralytics will load the image: after EXIF rotation."""
    content, opened = np.fromfile(image, np.uint8), None
    with suppress(cv2.error):  # no pixels, or more than OpenCV decodes
        opened = cv2.imdecode(content, cv2.IMREAD_GRAYSCALE)
    if opened is None:
        raise ValueError(f"{image} cannot be read as an image; fetch it again")
    return opened.shape[1], opened.shape[0]


def fits(image: Path, record: dict[str, Any]) -> bool:
    """Tell whether an image has the proportions that its outlines were drawn in."""
    width, height = size(image)
    return abs(width * record["height"] - height * record["width"]) <= 0.01 * width * record["height"]


def check_missing(lost: list[str], total: Sized, listed: Path, skip: bool) -> None:
    """Refuse to go on without the files of a list, or warn where that was asked for."""
    if lost and (not skip or len(lost) == len(total)):
        raise FileNotFoundError(
            f"{len(lost)} of {len(total)} images that {listed} lists are missing, incomplete or of other proportions "
            f"(first: {lost[0]}); unpack everything again, or go on without them: skip_missing=True in the download "
            "block of the YAML"
        )
    if lost:
        LOGGER.warning(f"left out {len(lost)} of {len(total)} images that {listed} lists: {', '.join(lost)}")


def read_coco(file: Path) -> Truth:
    """Read and check a COCO annotation file."""
    try:
        data = read_json(file)
        check_truth(data, str(file))
    except ValueError as error:
        raise ValueError(f"{error}; fetch it again") from error
    return data


def read_splits(file: Path) -> dict[str, str]:
    """Read the split of each image of ExDark: a headline, then name and four numbers, the last the split."""
    splits = {}
    for number, line in enumerate(read_text(file).splitlines(), 1):
        words = line.split()
        if number == 1 or not words:
            continue
        if len(words) != 5 or words[4] not in ("1", "2", "3"):
            raise ValueError(
                f"{file}, line {number} is {line!r}; wanted name, class, light, place, and split 1, 2 or 3"
            )
        splits[stem(Path(words[0]))] = {"1": "train", "2": "val", "3": "test"}[words[4]]
    return splits


def boxes(note: Path, width: int, height: int) -> Iterator[tuple[Any, ...]]:
    """Yield class, centre x, centre y, width, height in [0, 1], and whether it was cut at the border."""
    for number, line in enumerate(read_text(note).splitlines(), 1):
        if not line.strip() or line.startswith("%"):
            continue
        try:
            kind, left, top, wide, high = line.split()[:5]
            x1, y1 = float(left), float(top)
            x2, y2 = x1 + float(wide), y1 + float(high)
            if not all(map(math.isfinite, (x1, y1, x2, y2))):
                raise ValueError
        except ValueError:
            wanted = "wanted class, left, top, width, height, in pixels"
            raise ValueError(f"{note}, line {number} is {shown(line)}; {wanted}") from None
        cut = x1 < 0 or y1 < 0 or x2 > width or y2 > height
        x1, x2, y1, y2 = max(x1, 0), min(x2, width), max(y1, 0), min(y2, height)
        yield kind, (x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height, cut


def link(source: Path, target: Path) -> None:
    """Put a file at a second place without using space, or copy it where that cannot be done."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
