"""Ground truth and predictions in COCO terms, whatever they come from; nothing about metrics.

    COCO JSON, or YOLO data set -> ground_truth -> truth: images, annotations, categories
    any detector -> predictions: {image_id, category_id, score, bbox xywh, segmentation RLE}
    class_map: detector's classes -> category ids, by name      check: does all of it fit together?

Masks are run-length encoded at the size of the image file, as it lies after EXIF rotation. What is
malformed has to be found here: on a broken RLE pycocotools runs for ever, or ends the process.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

try:
    from pycocotools import mask as coder
except ImportError as error:
    raise ImportError("evaluation needs pycocotools; install it: pip install 'yolo-wnlb[evaluate]'") from error

from yolo_wnlb.data.sources import SPLITS, list_images, listed, renamed
from yolo_wnlb.reading import read_json

LOGGER = logging.getLogger(__name__)

Truth = dict[str, Any]  # a COCO file: images, annotations, categories
Prediction = dict[str, Any]  # a COCO result
FORMAT = "yolo_wnlb predictions 1"  # first line of a predictions file
COCO_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}  # ids from 1 to 90 that none of COCO's 80 classes has
OUTLINES = "masks are the labels' outlines as COCO fills them: smaller than Ultralytics does, see docs/evaluation.md"
TOLERANCE = 0.01  # of the image's side, that a label may lie outside; Ultralytics accepts as much


# ---- ground truth --------------------------------------------------------------------------------


def ground_truth(source: str | Path, split: str = "val") -> Truth:
    """Read what is in the images: a COCO file as it is, or a YOLO data set in the same form.

    Args:
        source: A COCO annotation file, .json; or a data YAML, or its name, as Ultralytics takes it.
            Where annotations/instances_SPLIT.json lies beside a data YAML and names the same images
            and classes, it is taken: its masks are exact, and labels lose holes, parts and crowds.
        split: Of a data YAML.
    Returns:
        images, annotations, categories, and in `info` where they come from. From YOLO labels: image
        ids 1 to n in the order of the files, category ids 1 to nc, sizes after EXIF rotation; area
        and box are those of the rasterised outline, and a label that is a box has no segmentation.
    Raises: ValueError, OSError: with the remedy.
    """
    if Path(source).suffix.lower() == ".json":
        return read_coco(Path(source))
    data = data_set(source, split)
    files = split_files(data, source, split)
    names = [data["names"][i] for i in sorted(data["names"])]
    for file in annotation_files(data, split):
        truth = read_coco(file)
        known, used = {c["name"] for c in truth["categories"]}, used_names(truth)
        if used <= set(names) <= known and same_images(truth, files):
            info = {"source": f"{file.parent.name}/{file.name}", "notes": ["taken for the labels: its masks are exact"]}
            return {**truth, "info": {**truth.get("info", {}), **info}}
    return from_labels(files, names, f"{Path(source).name}, {split}")


def image_files(truth: Truth, source: str | Path, split: str = "val", folder: str | Path | None = None) -> dict:
    """Find the file of every image: {image id: absolute path}.

    Args:
        truth: What `ground_truth` returned for `source` and `split`.
        source: As there.
        split: As there.
        folder: Where the file names start from; for a COCO file whose images lie elsewhere.
    Raises: FileNotFoundError: names the file. Another suffix is another file.
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
    return {key: found[name].absolute() for key, name in names.items()}


def read_coco(file: Path) -> Truth:
    """Read and check a COCO annotation file; nothing in it is changed."""
    if not file.is_file():
        raise FileNotFoundError(f"there is no {file}; give a COCO annotation file or a data YAML")
    try:
        truth = read_json(file)
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({error}); fetch or write it again") from error
    check_truth(truth, file.name)
    return truth


def from_labels(files: Sequence[Path], names: Sequence[str], source: str) -> Truth:
    """Make a truth of the label files of YOLO; see `ground_truth`."""
    from ultralytics.data.utils import exif_size, img2label_paths

    start = common_folder(files)
    labels = [Path(label) for label in img2label_paths([str(file) for file in files])]
    if not any(label.is_file() for label in labels):
        raise ValueError(f"{source}: none of {len(files)} images has a label file, such as {labels[0]}")
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    left_out = Counter[str]()
    for number, (file, label) in enumerate(zip(files, labels), 1):
        try:
            with Image.open(file) as opened:
                width, height = exif_size(opened)
        except OSError as error:
            raise ValueError(f"{file} cannot be read as an image ({error}); mend or remove it") from error
        name = file.relative_to(start).as_posix()
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        for kind, shape in dict.fromkeys(read_label(label, len(names), left_out)):
            found = box_of(shape, width, height) if len(shape) == 4 else outline_of(shape, width, height)
            if found["area"] > 0:
                ids = {"id": len(annotations) + 1, "image_id": number, "category_id": kind + 1, "iscrowd": 0}
                annotations.append({**ids, **found})
            else:
                left_out["labels that cover no pixel"] += 1
    notes = [OUTLINES] if any("segmentation" in annotation for annotation in annotations) else []
    notes += [f"left out {count} {what}" for what, count in left_out.items()]
    return {
        "info": {"source": f"YOLO labels of {source}", "notes": notes},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in enumerate(names, 1)],
    }


def box_of(shape: Sequence[float], width: int, height: int) -> dict[str, Any]:
    """Put a label's x y w h, the centre and size in [0, 1], in pixels, cut at the border."""
    x, y, w, h = shape
    left, right = max(x - w / 2, 0) * width, min(x + w / 2, 1) * width
    top, bottom = max(y - h / 2, 0) * height, min(y + h / 2, 1) * height
    return {"bbox": [left, top, right - left, bottom - top], "area": (right - left) * (bottom - top)}


def outline_of(shape: Sequence[float], width: int, height: int) -> dict[str, Any]:
    """Put a label's x y x y ... in pixels; area and box are those of the mask that pycocotools fills."""
    outline = [value * side for value, side in zip(shape, itertools.cycle((width, height)))]
    mask = coder.merge(coder.frPyObjects([outline], height, width))
    return {"segmentation": [outline], "bbox": coder.toBbox(mask).tolist(), "area": float(coder.area(mask))}


def read_label(file: Path, classes: int, left_out: Counter[str]) -> list[tuple[int, tuple[float, ...]]]:
    """Read a label file: class, and a box (x y w h) or an outline (x y x y ...), all in [0, 1]."""
    rows: list[tuple[int, tuple[float, ...]]] = []
    if not file.is_file():  # nothing in the image
        return rows
    for number, line in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), 1):
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
    """Resolve a data YAML as Ultralytics does."""
    from ultralytics.data.utils import check_det_dataset
    from yaml import YAMLError

    try:
        data = check_det_dataset(str(source))
    except (SyntaxError, TypeError, YAMLError) as error:
        raise ValueError(f"{source} is no data YAML that Ultralytics takes: {error}") from error
    if not data.get(split):
        splits = [key for key in SPLITS if data.get(key)]
        raise ValueError(f"{source} has no split {split!r}; choose from {', '.join(splits)}")
    return data


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


def same_images(truth: Truth, files: Sequence[Path]) -> bool:
    """Tell whether a truth is about these files, all of them and no others."""
    return len(truth["images"]) == len(files) == len(find_each((i["file_name"] for i in truth["images"]), files))


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
    found = hashlib.sha256(json.dumps(names).encode())
    for picture in pictures:
        found.update(f"{picture.name} {picture.stat().st_size}\n".encode(errors="surrogateescape"))
    for file in files:
        content = file.read_bytes() if file.is_file() else b""
        found.update(f"{len(content)}\n".encode() + content)
    return found.hexdigest()[:16]


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


def image_list(truth: Truth) -> str:
    """Reduce which images a truth is of, but for the suffix of their files, to a short hash."""
    images = [[i["id"], renamed(i["file_name"], ""), i["width"], i["height"]] for i in truth["images"]]
    return hashlib.sha256(json.dumps(sorted(images, key=str)).encode()).hexdigest()[:16]


# ---- predictions ---------------------------------------------------------------------------------


def encode(masks: np.ndarray) -> list[dict[str, Any]]:
    """Run-length encode masks: bool (N, H, W) -> N times {size: [H, W], counts: text}."""
    turned = np.empty((len(masks), *masks.shape[:0:-1]), np.uint8)
    for mask, columns in zip(masks.view(np.uint8), turned, strict=True):
        cv2.transpose(mask, columns)  # four times faster than numpy
    return [{"size": rle["size"], "counts": rle["counts"].decode()} for rle in coder.encode(turned.T)]


def save_predictions(path: str | Path, predictions: Sequence[Prediction], header: dict[str, Any]) -> None:
    """Write predictions as JSON lines, complete or not at all.

    Args:
        path: File to write, .jsonl.
        predictions: COCO results.
        header: What made them: detector, weights, their hash, input size, thresholds, versions, and
            under `categories` the names {category id: name}, against which `check` sees shifted ids.
    """
    head = {"format": FORMAT, **header, "predictions": len(predictions)}
    lines = [json.dumps(line, separators=(",", ":"), allow_nan=False) + "\n" for line in (head, *predictions)]
    path = Path(path)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text("".join(lines), encoding="utf-8")
    draft.replace(path)


def load_predictions(path: str | Path) -> tuple[dict[str, Any], list[Prediction]]:
    """Read what `save_predictions` wrote, or a COCO results file, which has no header.

    Returns: The header (empty for a COCO results file) and the predictions.
    Raises: FileNotFoundError; ValueError: not such a file, or not all of it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no predictions file {path}")
    text = path.read_text(encoding="utf-8-sig")
    if text.lstrip().startswith("["):
        try:
            return {}, json.loads(text)
        except ValueError as error:
            raise ValueError(f"{path} is not JSON ({error}); was its writing interrupted?") from error
    lines = text.splitlines()
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{path}, line {number} is not JSON ({error}); was its writing interrupted?") from error
    header, *predictions = rows or [None]
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError(
            f"{path} is no predictions file: wanted a list of COCO results, or a first line with {FORMAT!r}"
        )
    if header["predictions"] != len(predictions):
        raise ValueError(f"{path} holds {len(predictions)} of {header['predictions']} predictions; write it again")
    return header, predictions


def class_map(names: dict[int, str] | Sequence[str], truth: Truth, allow_missing: bool = False) -> dict[int, int]:
    """Map a detector's classes to category ids by name: {index: id}.

    Args:
        names: The detector's, {index: name} or in the order of the indices.
        truth: Its categories.
        allow_missing: Accept a truth with fewer classes than the detector. What is left out is told;
            the detector is then asked for the other classes only.
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
        lines += [f"  only in the truth: {first(unknown)}"] if unknown else []
        lines += [f"  only in the detector: {first(ignored)}"] if ignored else []
        lines += [f"  differ in spelling only: {first(pairs)}"] if pairs else []
        remedy = "evaluate on the classes it was trained for" if unknown else "leave them out with allow_missing=True"
        raise ValueError("\n".join([*lines, f"  {remedy}"]))
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


def check(truth: Truth, predictions: Sequence[Prediction], header: dict[str, Any] | None = None) -> None:
    """Refuse what does not fit together, and say what probably happened.

    Args:
        truth: A COCO truth.
        predictions: COCO results.
        header: Of the predictions file; its `categories` and its `image_list` have to be those of the truth.
    Raises: ValueError.
    """
    check_truth(truth)
    images = {image["id"]: [image["height"], image["width"]] for image in truth["images"]}
    categories = {category["id"]: category["name"] for category in truth["categories"]}
    for number, prediction in enumerate(predictions):
        keys = prediction.keys() if isinstance(prediction, dict) else set()
        if not {"image_id", "category_id", "score"} <= keys or not {"bbox", "segmentation"} & keys:
            wanted = "image_id, category_id, score, and bbox or segmentation"
            raise ValueError(f"prediction {number} has {first(list(keys)) or 'no keys'}; wanted {wanted}")
    for what, known in (("image", images), ("category", categories)):
        found = {prediction[f"{what}_id"] for prediction in predictions}
        if unknown := found - known.keys():
            unknown_first = first(sorted(unknown, key=str))
            known_first = first(sorted(known, key=str))
            raise ValueError(
                f"{len(unknown)} of {len(found)} {what} ids of the predictions are not in the truth: {unknown_first}; "
                f"it has {known_first}{suspicion(found, set(known))}"
            )
    made_for = (header or {}).get("image_list")
    if made_for and made_for != image_list(truth):
        raise ValueError(
            f"the predictions were made for other images than the {len(images)} of the truth, though ids are alike: "
            "give the data and split that they were made for, or predict anew"
        )
    texts = {str(key): name for key, name in categories.items()}  # as the keys are in JSON
    claimed = {str(key): name for key, name in (header or {}).get("categories", {}).items()}
    if wrong := [f"{i} is {name!r}, not {texts.get(i)!r}" for i, name in claimed.items() if texts.get(i) != name]:
        raise ValueError(
            f"the predictions say what their category ids mean, and the truth differs in {len(wrong)}: {first(wrong)}; "
            "they were made for another truth: map the detector's classes by name (class_map)"
        )
    for number, prediction in enumerate(predictions):
        score, box = prediction["score"], prediction.get("bbox", [0, 0, 0, 0])
        if not isinstance(score, (int, float, np.floating)) or not 0 <= score <= 1:  # a NaN is neither
            raise ValueError(f"prediction {number} has score {score}; wanted 0 to 1")
        if len(box) != 4 or not all(map(math.isfinite, box)) or min(box[2:]) < 0:
            raise ValueError(f"prediction {number} has box {box}; wanted x, y, width, height in pixels")
    rles = {n: prediction["segmentation"] for n, prediction in enumerate(predictions) if "segmentation" in prediction}
    check_masks(rles, [images[predictions[n]["image_id"]] for n in rles], "prediction")


def check_truth(truth: Truth, name: str = "the truth") -> None:
    """Refuse what is no COCO truth, or does not hang together."""
    if not isinstance(truth, dict) or not all(
        isinstance(truth.get(k), list) for k in ("images", "annotations", "categories")
    ):
        raise ValueError(f"{name} is no COCO annotation file: wanted the lists images, annotations and categories")
    for key, wanted in (
        ("images", ("id", "file_name", "width", "height")),
        ("annotations", ("image_id", "category_id", "bbox")),
        ("categories", ("id", "name")),
    ):
        for number, entry in enumerate(truth[key]):
            if lack := [k for k in wanted if k not in entry]:
                raise ValueError(f"{name}: entry {number} of {key} lacks {', '.join(lack)}")
        ids = [entry["id"] for entry in truth[key]] if "id" in wanted else []
        if repeated := [str(i) for i, count in Counter(ids).items() if count > 1]:
            raise ValueError(f"{name}: several {key} have the id {first(repeated)}; give each its own")
    names = Counter(category["name"] for category in truth["categories"])
    if repeated := [each for each, count in names.items() if count > 1]:
        raise ValueError(f"{name}: several categories have the name {first(repeated)}; give each its own")
    for what in ("image", "category"):
        known = {entry["id"] for entry in truth["images" if what == "image" else "categories"]}
        if unknown := {annotation[f"{what}_id"] for annotation in truth["annotations"]} - known:
            raise ValueError(f"{name}: annotations have {what} ids that it lacks: {first(sorted(unknown, key=str))}")
    sizes = {image["id"]: [image["height"], image["width"]] for image in truth["images"]}
    rles: dict[int, dict[str, Any]] = {}
    for number, annotation in enumerate(truth["annotations"]):
        shape = annotation.get("segmentation")
        if isinstance(shape, dict):
            rles[number] = shape
        elif shape and any(len(outline) < 6 or len(outline) % 2 for outline in shape):
            raise ValueError(
                f"{name}: annotation {number} has an outline of fewer than three points; mend or remove it"
            )
    check_masks(rles, [sizes[truth["annotations"][n]["image_id"]] for n in rles], f"{name}: annotation")


def check_masks(rles: dict[int, dict[str, Any]], sizes: Sequence[list[int]], what: str) -> None:
    """Refuse encoded masks that are malformed, or of another size than their images."""
    for (number, rle), size in zip(rles.items(), sizes):
        if not isinstance(rle, dict) or not isinstance(rle.get("counts"), (str, bytes, list)) or "size" not in rle:
            raise ValueError(f"{what} {number} has a segmentation that is no RLE; wanted size [h, w] and counts")
        if list(rle["size"]) != size:
            turned = list(rle["size"]) == size[::-1]
            guess = "width and height are exchanged" if turned else "masks belong at the size of the image file"
            raise ValueError(
                f"{what} {number} has a mask of {rle['size']}, its image is {size} (height, width): {guess}"
            )
    texts = {number: rle["counts"] for number, rle in rles.items() if not isinstance(rle["counts"], list)}
    totals = dict(zip(texts, run_totals(list(texts.values()))))
    for (number, rle), size in zip(rles.items(), sizes):
        total = totals[number] if number in totals else sum(rle["counts"])
        if total != size[0] * size[1]:
            raise ValueError(f"{what} {number} has a broken RLE: its runs do not fill {size[0]} x {size[1]} pixels")


def run_totals(counts: Sequence[str | bytes]) -> list[int]:
    """Add up the runs of compressed RLEs, -1 where one is malformed.

    Source of the format: rleFrString of pycocotools' maskApi.c. A number is written in groups of 5
    bits, lowest first, as characters from '0'; 32 says that another follows, and 16 in the last one
    that the number is negative. From the third run on, numbers are differences to the run before last.
    """
    totals: list[int] = []
    for start in range(0, len(counts), 100):  # so few that the arrays stay in the processor's cache
        part = [c if isinstance(c, bytes) else c.encode("utf-8", "surrogatepass") for c in counts[start : start + 100]]
        totals += part_totals([c or b"~" for c in part])  # an empty one is malformed, as is "~"
    return totals


def part_totals(part: Sequence[bytes]) -> list[int]:
    """Do what `run_totals` says for a few at once, none of them empty."""
    code = np.frombuffer(b"".join(part), np.uint8) - np.uint8(48)  # what lies below wraps to above 63
    ends = np.cumsum([len(c) for c in part]) - 1
    broken = code[ends] & 32 != 0  # the last number is cut off
    broken[np.searchsorted(ends, np.flatnonzero(code > 63))] = True

    more = code & 32 != 0
    more[ends] = False
    last = np.flatnonzero(~more)  # the last character of each number
    begin = np.concatenate(([0], last[:-1] + 1))
    owner = np.searchsorted(ends, last)
    broken[owner[last - begin > 6]] = True  # 2 ** 35 and beyond
    shift = 5 * np.minimum(np.arange(len(code)) - np.repeat(begin, last - begin + 1), 6)
    number = np.add.reduceat((code & 31).astype(np.int64) << shift, begin)
    number -= (code[last] & 16).astype(np.int64) << (shift[last] + 1)

    origin = np.searchsorted(owner, np.arange(len(part)))[owner]  # the first number of the same text
    place = np.arange(len(number)) - origin
    chain = np.empty_like(number)  # every other number, added up over all texts
    chain[::2], chain[1::2] = np.cumsum(number[::2]), np.cumsum(number[1::2])
    before = origin - place % 2  # what was added up before this text, and its very first run
    run = np.where(place == 0, number, chain - np.where(before < 0, 0, chain[before]))
    broken[owner[run < 0]] = True
    return np.where(broken, -1, np.bincount(owner, run, len(part)).astype(np.int64)).tolist()


def suspicion(found: set[Any], known: set[Any]) -> str:
    """Say what may have happened to ids, '' if there is no telling."""
    if {isinstance(i, str) for i in found} != {isinstance(i, str) for i in known}:
        return "; texts are no numbers: '1' is not 1"
    if any(isinstance(i, str) for i in found | known):
        return "; were they made for another split?"
    coco = set(range(1, 91)) - COCO_GAPS
    if len(known) > 40 and known <= coco and known & {*range(81, 91)} and found <= set(range(81)):
        return "; these look like class numbers up to 80, where the truth has COCO's ids up to 90: map by name"
    if found <= coco and max(found) > 80 and known <= set(range(81)):
        return "; these look like COCO's ids up to 90, where the truth counts up to 80: map by name"
    for shift, how in ((1, "all fit once 1 is added: counted from 0?"), (-1, "all fit once 1 is subtracted")):
        if {i + shift for i in found} <= known:
            return f"; {how}"
    return "; were they made for another split?"


def first(names: Sequence[Any], most: int = 5) -> str:
    """List the first few of some names."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more
