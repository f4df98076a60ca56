"""Ground truth and predictions in COCO terms, whatever they come from; nothing about metrics.

    COCO JSON, or YOLO data set -> ground_truth -> truth: images, annotations, categories
    any detector -> predictions: {image_id, category_id, score, bbox xywh, segmentation RLE}
    class_map: detector's classes -> category ids, by name      check: does all of it fit together?

Masks are run-length encoded at the size of the image file, as it lies after EXIF rotation. What single
values have to be is in `validation`, which pictures and classes the ids in a file mean is in `identity`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as mask_utils

from yolo_wnlb.data.data_yaml import read_data_yaml
from yolo_wnlb.data.identity import DATA_YAML, check_file_names, check_header, identify, image_list
from yolo_wnlb.data.journal import replaced
from yolo_wnlb.data.sources import SPLITS, list_images, listed
from yolo_wnlb.data.validation import Prediction, Truth, check_predictions, check_truth, first, named
from yolo_wnlb.imaging.deep import RAW_SUFFIXES, size_of_raw
from yolo_wnlb.reading import read_json, read_text
from yolo_wnlb.words import suggestion

LOGGER = logging.getLogger(__name__)

FORMAT = "yolo_wnlb predictions 1"  # first line of a predictions file
OUTLINES = "masks are the labels' outlines as COCO fills them: smaller than Ultralytics does, see docs/evaluation.md"
TOLERANCE = 0.01  # of the image's side, that a label may lie outside; Ultralytics accepts as much


# ---- ground truth --------------------------------------------------------------------------------


def ground_truth(source: str | Path, split: str = "val") -> Truth:
    """Read what is in the images: a COCO file as it is, or a YOLO data set in the same form.

    Args:
        source: A COCO annotation file, .json; or a data YAML, or its name, as Ultralytics takes it.
            Where annotations/instances_SPLIT.json lies beside a data YAML, names the same images and
            classes, and has annotations for every image with a label, it is taken: its masks are
            exact, and labels lose holes, parts and crowds.
        split: Of a data YAML.
    Returns:
        images, annotations, categories, and in `info` where they come from and what was left out. From
        YOLO labels: image ids 1 to n in the order of the files; category ids as Ultralytics'
        predictions.json has them, 1 to nc (COCO's own for coco.yaml); sizes after EXIF rotation; area
        and box are those of the rasterised outline, and a label that is a box has no segmentation.
    Raises: ValueError, OSError: with the remedy.
    """
    if Path(source).suffix.lower() == ".json":
        return read_coco(Path(source))
    data = data_set(source, split)
    files = split_files(data, source, split)
    numbers = class_numbers(data, split)
    notes = []
    for file in annotation_files(data, split):
        truth, name = read_coco(file), f"{file.parent.name}/{file.name}"
        if reason := why_labels_are_taken(truth, files, set(numbers.values())):
            notes.append(f"{name} lies beside the data YAML, but the labels are taken: {reason}")
            continue
        info = {**truth["info"]} if isinstance(truth.get("info"), dict) else {}
        info |= {"source": name, "notes": [f"{name} is used instead of the labels, because its masks are exact"]}
        return {**truth, "info": info, DATA_YAML: {"made_up_ids": False, "class_numbers": numbers}}
    try:
        truth = from_labels(files, numbers, f"{Path(source).name}, {split}")
    except ValueError as error:
        raise ValueError("; ".join([str(error), *notes])) from error
    check_truth(truth, str(source))  # its classes come from the data YAML
    truth["info"]["notes"] = [*notes, *truth["info"]["notes"]]
    return {**truth, DATA_YAML: {"made_up_ids": True, "class_numbers": numbers}}


def image_files(truth: Truth, source: str | Path, split: str = "val", folder: str | Path | None = None) -> dict:
    """Find the file of every image: {image id: absolute path}.

    Args:
        truth: What `ground_truth` returned for `source` and `split`.
        source: As there.
        split: As there.
        folder: Where the file names start from; for a COCO file whose images lie elsewhere.
    Raises:
        FileNotFoundError: names the file. Another suffix is another file.
        ValueError: a file has another size than the truth says; two images are one file.
    """
    names = {image["id"]: image["file_name"] for image in truth["images"]}
    if folder is None and Path(source).suffix.lower() != ".json":
        found = find_each(names.values(), split_files(data_set(source, split), source, split))
    else:
        start = Path(folder) if folder else image_folder(Path(source), names.values())
        found = {name: start / name for name in names.values() if (start / name).is_file()}
    if missing := [name for name in names.values() if name not in found]:
        where = f"below {folder}" if folder else f"that {source} names"
        raise FileNotFoundError(
            f"{len(missing)} of {len(names)} images are not among those {where} (first: {missing[0]}); put them there"
            + ("" if folder else ", or give their folder with images=")
        )
    files = {key: found[name].absolute() for key, name in names.items()}
    check_files(truth, files)
    return files


def check_files(truth: Truth, files: Mapping[Any, Path]) -> None:
    """Refuse image files that are not there, or not of the size that the truth says, as they lie after EXIF rotation.

    Raises: FileNotFoundError, ValueError: names the first file.
    """
    images = truth["images"]
    lacking = [i["file_name"] for i in images if i["id"] not in files or not Path(files[i["id"]]).is_file()]
    if lacking:
        raise FileNotFoundError(f"{len(lacking)} of {len(images)} images have no file: {first(lacking)}")
    if twice := [str(file) for file, count in Counter(files.values()).items() if count > 1]:
        raise ValueError(f"several images of the truth are one file: {first(twice)}; give each image its own")
    for image in images:
        file, said = files[image["id"]], (image["width"], image["height"])
        width, height = picture_size(file)
        if (width, height) != said:
            guess = "is it another version of the image?"
            if (height, width) == said:
                guess = "its EXIF entry turns it, and the truth has to be of the picture as it lies then"
            raise ValueError(f"{file} is {width} x {height}, in the truth {said[0]} x {said[1]}; {guess}")


def picture_size(file: str | Path) -> tuple[int, int]:
    """Read width and height of a picture as Ultralytics loads it, after EXIF rotation.

    Raises: ValueError: it is missing, unreadable, or larger than Pillow opens.
    """
    from ultralytics.data.utils import exif_size

    if Path(file).suffix.lower() in RAW_SUFFIXES and Path(file).is_file():
        return size_of_raw(file)
    try:
        with Image.open(file) as opened:
            return exif_size(opened)
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{file} is larger than Pillow opens ({error}), and Ultralytics leaves it out: cut it into tiles"
        ) from error
    except (OSError, ValueError, ImportError) as error:  # Ultralytics tries a decoder of HEIF on what is no image
        reason = error.__context__ if isinstance(error, ImportError) else error
        raise ValueError(f"{file} cannot be read as an image ({reason}); mend or remove it") from error


def read_coco(file: Path) -> Truth:
    """Read and check a COCO annotation file; nothing in it is changed.

    Raises: FileNotFoundError; ValueError: names the file, the entry, what was found and what was wanted.
    """
    if not file.is_file():
        raise FileNotFoundError(f"there is no {file}; give a COCO annotation file or a data YAML")
    truth = read_json(file)
    check_truth(truth, str(file))
    truth.pop(DATA_YAML, None)  # of a truth made here and saved: in a file, ids are the file's own
    return truth


def why_labels_are_taken(truth: Truth, files: Sequence[Path], names: set[str]) -> str:
    """Say why a COCO file cannot stand for the labels of these pictures; '' if it can."""
    from ultralytics.data.utils import img2label_paths

    found = find_each((image["file_name"] for image in truth["images"]), files)
    if not len(truth["images"]) == len(files) == len({*found.values()}):
        return f"it names {len(truth['images'])} pictures, {len({*found.values()})} of the {len(files)} of the split"
    known, used = {category["name"] for category in truth["categories"]}, used_names(truth)
    if not used <= names <= known:
        differing = sorted((used - names) | (names - known))
        return f"its classes are not those of the data YAML, which differ in {first(differing)}"
    annotated = {annotation["image_id"] for annotation in truth["annotations"]}
    bare = [found[image["file_name"]] for image in truth["images"] if image["id"] not in annotated]
    labels = map(Path, img2label_paths([str(file) for file in bare]))
    lacking = [file.name for file, label in zip(bare, labels) if label.is_file() and read_text(label).strip()]
    if lacking:
        return f"it has no annotation in {len(lacking)} pictures that have labels (first: {lacking[0]})"
    return ""


def from_labels(files: Sequence[Path], numbers: Mapping[int, str], source: str) -> Truth:
    """Make a truth of the label files of YOLO; see `ground_truth`."""
    from ultralytics.data.utils import img2label_paths

    start = common_folder(files)
    labels = [Path(label) for label in img2label_paths([str(file) for file in files])]
    without = sum(not label.is_file() for label in labels)
    if without == len(files):
        raise ValueError(f"{source}: none of {len(files)} images has a label file, such as {labels[0]}")
    categories = [{"id": number, "name": name} for number, name in numbers.items()]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    left_out, cut = Counter[str](), 0
    for number, (file, label) in enumerate(zip(files, labels), 1):
        width, height = picture_size(file)
        name = file.relative_to(start).as_posix()
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        for kind, shape in dict.fromkeys(read_label(label, len(categories), left_out)):
            found = box_of(shape, width, height) if len(shape) == 4 else outline_of(shape, width, height)
            if found["area"] <= 0:
                left_out["labels that cover no pixel"] += 1
                continue
            ids = {"id": len(annotations) + 1, "image_id": number, "category_id": categories[kind]["id"], "iscrowd": 0}
            annotations.append({**ids, **found})
            cut += is_cut(shape, width, height)
    notes = [OUTLINES] if any("segmentation" in annotation for annotation in annotations) else []
    notes += [f"left out {count} {what}" for what, count in left_out.items()]
    notes += [f"labels that are cut at the border of their picture: {cut}"] if cut else []
    notes += [f"{without} of {len(files)} pictures have no label file: they count as empty"] if without else []
    if lost := labels_without_picture(files, labels):
        notes.append(f"left out {len(lost)} label files without a picture (first: {lost[0].name})")
    return {
        "info": {"source": f"YOLO labels of {source}", "notes": notes},
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }


def labels_without_picture(files: Sequence[Path], labels: Sequence[Path]) -> list[Path]:
    """List the label files whose picture is not in the folder of pictures that they belong to."""
    from ultralytics.data.utils import IMG_FORMATS

    lost = []
    for pictures, texts in sorted({(file.parent, label.parent) for file, label in zip(files, labels)}):
        stems = {file.stem for file in pictures.iterdir() if file.suffix[1:].lower() in IMG_FORMATS}
        if pictures != texts:
            lost += sorted(file for file in texts.glob("*.txt") if file.stem not in stems)
    return lost


def is_cut(shape: Sequence[float], width: int, height: int) -> bool:
    """Tell whether a label, a box x y w h or an outline x y x y ..., leaves its picture by half a pixel or more."""
    if len(shape) == 4:
        x, y, w, h = shape
        shape = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
    beyond = [(max(-value, value - 1)) * side for value, side in zip(shape, itertools.cycle((width, height)))]
    return max(beyond) >= 0.5


def box_of(shape: Sequence[float], width: int, height: int) -> dict[str, Any]:
    """Put a label's x y w h, the centre and size in [0, 1], in pixels, cut at the border."""
    x, y, w, h = shape
    left, right = max(x - w / 2, 0) * width, min(x + w / 2, 1) * width
    top, bottom = max(y - h / 2, 0) * height, min(y + h / 2, 1) * height
    wide, high = max(right - left, 0), max(bottom - top, 0)
    return {"bbox": [left, top, wide, high], "area": wide * high}


def outline_of(shape: Sequence[float], width: int, height: int) -> dict[str, Any]:
    """Put a label's x y x y ... in pixels; area and box are those of the mask that pycocotools fills."""
    outline = [value * side for value, side in zip(shape, itertools.cycle((width, height)))]
    mask = to_rle([outline], height, width)
    return {"segmentation": [outline], "bbox": mask_utils.toBbox(mask).tolist(), "area": float(mask_utils.area(mask))}


def to_rle(mask: Any, height: int, width: int) -> Any:
    """Run-length encode the segmentation of an annotation: outlines, plain or compressed RLE. It has to be checked."""
    if isinstance(mask, list):
        return mask_utils.merge(mask_utils.frPyObjects(mask, height, width))
    return mask_utils.frPyObjects(mask, height, width) if isinstance(mask["counts"], list) else mask


def read_label(file: Path, classes: int, left_out: Counter[str]) -> list[tuple[int, tuple[float, ...]]]:
    """Read a label file: class, and a box (x y w h) or an outline (x y x y ...), all in [0, 1]."""
    rows: list[tuple[int, tuple[float, ...]]] = []
    if not file.is_file():  # nothing in the image
        return rows
    for number, line in enumerate(read_text(file).splitlines(), 1):
        words = line.split()
        if not words:
            continue
        try:
            kind, *shape = map(float, words)
        except ValueError:
            shape = []
        if len(shape) != 4 and (len(shape) < 6 or len(shape) % 2):
            raise ValueError(
                f"{file}, line {number} is {line[:60]!r}; wanted a class, then x y w h, or x y x y x y ..."
            )
        if kind not in range(classes):
            raise ValueError(
                f"{file}, line {number} has class {words[0]}; the data YAML has classes 0 to {classes - 1}"
            )
        if not all(-TOLERANCE <= v <= 1 + TOLERANCE for v in shape):
            raise ValueError(f"{file}, line {number} leaves the image; wanted shares of its width and height, 0 to 1")
        rows.append((int(kind), tuple(shape)))
    if len({len(shape) == 4 for _, shape in rows}) == 2:
        raise ValueError(f"{file} mixes boxes and outlines; Ultralytics ignores such an image: label it in one way")
    if repeated := len(rows) - len(set(rows)):
        left_out["labels that repeat another one"] += repeated  # Ultralytics leaves them out too
    return rows


def data_set(source: str | Path, split: str) -> dict[str, Any]:
    """Resolve a data YAML as Ultralytics does, and refuse a split that it does not have."""
    data, _ = read_data_yaml(source)
    if not data.get(split):
        splits = [key for key in SPLITS if data.get(key)]
        raise ValueError(f"{source} has no split {split!r}{suggestion(split, splits)}; choose from {', '.join(splits)}")
    return data


def class_numbers(data: Mapping[str, Any], split: str) -> dict[int, str]:
    """Return the classes of a data YAML by the category ids that Ultralytics' predictions.json gives them.

    Source: `init_metrics` in ultralytics/models/yolo/detect/val.py.
    """
    from ultralytics.data.converter import coco80_to_coco91_class

    names = [data["names"][i] for i in sorted(data["names"])]
    place = data[split]
    coco = isinstance(place, str) and "coco" in place and Path(place).name in ("val2017.txt", "test-dev2017.txt")
    ids = coco80_to_coco91_class() if coco and len(names) == 80 else range(1, len(names) + 1)
    return dict(zip(ids, names))


def split_files(data: dict[str, Any], source: str | Path, split: str) -> list[Path]:
    """List the images of a split in Ultralytics' order."""
    from ultralytics.data.utils import IMG_FORMATS

    places = [Path(place) for place in listed(data[split])]
    if missing := [place for place in places if not place.exists()]:
        raise FileNotFoundError(f"{source}: there is no {missing[0]}, which {split!r} names")
    files = sorted(name for place in places for name in list_images(place, IMG_FORMATS))
    if not files:
        raise FileNotFoundError(f"{source}: no images in {', '.join(map(str, places))}, which {split!r} names")
    return list(map(Path, files))


def annotation_files(data: dict[str, Any], split: str) -> list[Path]:
    """List the COCO files that may belong to a split: of its name, or of that of its folder or list."""
    roots = dict.fromkeys([Path(data["path"]), Path(data["yaml_file"]).absolute().parent])
    names = dict.fromkeys([split, Path(listed(data[split])[0]).stem])
    files = [root / "annotations" / f"instances_{name}.json" for root in roots for name in names]
    return [file for file in files if file.is_file()]


def find_each(names: Iterable[str], files: Sequence[Path]) -> dict[str, Path]:
    """Find the file of each name: below the folder of all files, else the only one that ends so."""
    start = common_folder(files)
    by_name: dict[str, list[Path]] = {}
    for file in files:
        by_name.setdefault(file.name, []).append(file)
    found = {}
    for name in names:
        parts = Path(name).parts
        same = [file for file in by_name.get(Path(name).name, []) if file.parts[-len(parts) :] == parts]
        if len(same) == 1 or start / name in same:
            found[name] = same[0] if len(same) == 1 else start / name
    return found


def common_folder(files: Sequence[Path]) -> Path:
    """Return the deepest folder that all files lie below."""
    return Path(os.path.commonpath([file.parent for file in files]))


def image_folder(file: Path, names: Iterable[str]) -> Path:
    """Find the folder that the file names of a COCO file start from: the one that holds most of them."""
    split = file.stem.rpartition("_")[2]  # instances_val2017 -> val2017
    home = file.absolute().parent
    places = [home.parent / "images" / split, home.parent / split, home.parent / "images", home.parent, home]
    names = list(names)
    return max(places, key=lambda place: sum((place / name).is_file() for name in names))


def digest(source: str | Path, split: str = "val") -> str:
    """Reduce the pictures of a split, by names and sizes of their files, labels and classes to a short hash."""
    from ultralytics.data.utils import img2label_paths

    if Path(source).suffix.lower() == ".json":
        pictures, files, names = [*image_files(read_coco(Path(source)), source).values()], [Path(source)], {}
    else:
        data = data_set(source, split)
        pictures, names = split_files(data, source, split), data["names"]
        files = [*map(Path, img2label_paths(list(map(str, pictures)))), *annotation_files(data, split)]
    found = hashlib.sha256(json.dumps(names).encode() + listing(pictures))
    for file in files:
        content = file.read_bytes() if file.is_file() else b""
        found.update(f"{len(content)}\n".encode() + content)
    return found.hexdigest()[:16]


def listing(pictures: Iterable[Path]) -> bytes:
    """List pictures by the names and sizes of their files, which tell a darkened twin from its source."""
    lines = [f"{picture.name} {picture.stat().st_size}\n" for picture in pictures]
    return "".join(lines).encode(errors="surrogateescape")


def fingerprint(truth: Truth) -> str:
    """Reduce all of a truth that evaluation rests on, file names left out, to a short hash.

    A darkened or enhanced twin of a data set has the same; order, notes and licences say nothing.
    """
    parts = {
        "images": ("id", "width", "height"),
        "categories": ("id", "name"),
        "annotations": ("image_id", "category_id", "iscrowd", "area", "bbox", "segmentation"),
    }
    lines = [
        json.dumps([key, *(entry.get(name, 0) for name in names)], default=str)
        for key, names in parts.items()
        for entry in truth[key]
    ]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]


# ---- predictions ---------------------------------------------------------------------------------


def encode(masks: np.ndarray) -> list[dict[str, Any]]:
    """Run-length encode masks: bool (N, H, W) -> N times {size: [H, W], counts: text}."""
    turned = np.empty((len(masks), *masks.shape[:0:-1]), np.uint8)
    for mask, columns in zip(masks.view(np.uint8), turned, strict=True):
        cv2.transpose(mask, columns)  # four times faster than numpy
    return [{"size": rle["size"], "counts": rle["counts"].decode()} for rle in mask_utils.encode(turned.T)]


def save_predictions(
    path: str | Path, predictions: Sequence[Prediction], header: Mapping[str, Any], truth: Truth
) -> None:
    """Write predictions as JSON lines, complete or not at all.

    Args:
        path: File to write, .jsonl.
        predictions: COCO results.
        header: What made them: detector, weights, their hash, input size, thresholds, versions.
        truth: What they were made for. The header says which images and classes these are, so that
            `load_predictions` sees another data set or split, and shifted ids.
    Raises: ValueError: a number is not finite; OSError: the file cannot be written.
    """
    made_for = {"image_list": image_list(truth), "categories": {c["id"]: c["name"] for c in truth["categories"]}}
    head = {"format": FORMAT, **header, **made_for, "predictions": len(predictions)}
    lines = [json.dumps(line, separators=(",", ":"), allow_nan=False) + "\n" for line in (head, *predictions)]
    path = Path(path)
    with replaced(path) as draft:
        draft.write_text("".join(lines), encoding="utf-8", newline="\n")


def load_predictions(path: str | Path, truth: Truth) -> tuple[dict[str, Any], list[Prediction]]:
    """Read what `save_predictions` wrote, or a COCO results file, and check it against what it is to be measured with.

    Args:
        path: JSON lines of ours; or a JSON list of results, of mmdetection, detectron2, Ultralytics or others.
        truth: What `ground_truth` returned. Pictures are matched by what both sides share, see `identity`.
    Returns: The header, and the predictions with the ids of the truth. A results file has no header of its own: it
        says how pictures and classes were matched, unless ids are those of the COCO file.
    Raises: FileNotFoundError; ValueError: not such a file, or not all of it; it does not fit the truth, or there is
        no telling whether it does.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no predictions file {path}")
    header, rows = read_predictions(path)
    check_header(truth, header, str(path))
    predictions, matched = identify(truth, rows, header, str(path))
    check_predictions(truth, predictions, str(path))
    return {**header, **matched}, predictions


def read_predictions(path: Path) -> tuple[dict[str, Any], list[Any]]:
    """Read a file of predictions as it is: the header, empty if it has none, and the entries."""
    text = read_text(path)
    if text.lstrip().startswith("["):
        return {}, read_json(path)
    rows = []
    for number, line in enumerate(text.strip().split("\n") if text.strip() else [], 1):
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, line {number} is not JSON ({error}); was its writing interrupted?") from error
    header, *predictions = rows or [None]
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError(
            f"{path} is no predictions file: wanted a list of COCO results, or a first line with {FORMAT!r}"
        )
    if header.get("predictions") != len(predictions):
        raise ValueError(
            f"{path} holds {len(predictions)} of {header.get('predictions')!r} predictions; write it again"
        )
    try:
        json.dumps(header, allow_nan=False)
    except ValueError:
        raise ValueError(f"{path}: its header holds a number that is not finite; write it again") from None
    return header, predictions


def class_map(names: dict[int, str] | Sequence[str], truth: Truth, allow_missing: bool = False) -> dict[int, int]:
    """Map a detector's classes to category ids by name: {index: id}.

    Args:
        names: The detector's, {index: name} or in the order of the indices.
        truth: Its categories.
        allow_missing: Accept a truth with fewer classes than the detector. A warning names what is left
            out; the detector is then asked for the other classes only.
    Raises: ValueError: a class of either is missing in the other (categories without annotations
        may be); names repeat; indices do not count from 0, which says that they are shifted.
    """
    indexed = dict(names) if isinstance(names, dict) else dict(enumerate(names))
    if set(indexed) != set(range(len(indexed))):
        raise ValueError(
            f"the detector's {len(indexed)} classes have the indices {first(sorted(indexed))}; wanted 0 to "
            f"{len(indexed) - 1}: are they shifted?"
        )
    ids = {category["name"]: category["id"] for category in truth["categories"]}
    for whose, all_names in (("detector", list(indexed.values())), ("truth", [c["name"] for c in truth["categories"]])):
        if repeated := [name for name, count in Counter(all_names).items() if count > 1]:
            raise ValueError(f"the {whose} has several classes of one name: {first(repeated)}; give each its own")
    unknown = sorted(used_names(truth) - set(indexed.values()))
    ignored = [name for name in indexed.values() if name not in ids]
    if unknown or (ignored and not allow_missing):
        alike = {spelling(name): name for name in ignored}
        pairs = [f"{name!r} and {alike[spelling(name)]!r}" for name in unknown if spelling(name) in alike]
        lines = [f"the {len(indexed)} classes of the detector are not the {len(ids)} of the truth"]
        lines += [f"only in the truth: {first(unknown)}"] if unknown else []
        lines += [f"only in the detector: {first(ignored)}"] if ignored else []
        lines += [f"differ in spelling only: {first(pairs)}"] if pairs else []
        remedy = "leave them out with allow_missing=True"
        if unknown:
            remedy = "a detector finds what it was trained for: give data with its classes, or a model trained on these"
        raise ValueError("; ".join([*lines, remedy]))
    if ignored:
        LOGGER.warning("not evaluated, for the truth lacks them: %d classes (%s)", len(ignored), first(ignored))
    return {index: ids[name] for index, name in indexed.items() if name in ids}


def used_names(truth: Truth) -> set[str]:
    """Return the names of the categories that have annotations; exports list others too."""
    ids = {annotation["category_id"] for annotation in truth["annotations"]}
    return {category["name"] for category in truth["categories"] if category["id"] in ids}


def spelling(name: str) -> str:
    """Reduce a name to its letters and digits."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


# ---- checks --------------------------------------------------------------------------------------


def check(truth: Truth, predictions: Sequence[Prediction], header: Mapping[str, Any] | None = None) -> None:
    """Refuse what is malformed or does not fit together, and say what probably happened.

    Args:
        truth: A COCO truth.
        predictions: COCO results whose ids are those of the truth.
        header: Of the predictions file; its `categories` and its `image_list` have to be those of the truth.
    Raises: ValueError.
    """
    check_truth(truth)
    check_header(truth, header or {})
    check_predictions(truth, predictions)
    check_file_names(truth, predictions)


def not_evaluated(truth: Truth, predictions: Sequence[Prediction]) -> dict[str, str]:
    """Say which of "segm" and "bbox" cannot be evaluated, and for want of what: {kind: sentence}."""
    found: dict[str, str] = {}
    for kind, key, what in (("segm", "segmentation", "masks"), ("bbox", "bbox", "boxes")):
        for name, entries in (("annotation", truth["annotations"]), ("prediction", predictions)):
            lacking = [place for place, entry in enumerate(entries) if not entry.get(key)]
            if lacking and kind not in found:
                namer = named(entries, name)
                found[kind] = (
                    f"{what} are not evaluated: {len(lacking)} of {len(entries)} {name}s have no {key} "
                    f"(first: {namer(lacking[0])})"
                )
    return found
