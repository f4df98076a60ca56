"""Which picture and which class does a prediction mean? Answered by what both sides share, not by numbers that fit.

    our predictions file      its header has a hash of the images, and the names of the classes
    entries with file_name    the names of the truth; so in Ultralytics' predictions.json
    bare image ids            those of the COCO file that is the truth; of a truth made from labels, whose ids are
                              made up here, the number or text in the file name, if it can mean nothing else

What is left is refused: results numbered for another file give AP 0 and look like a bad detector.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from yolo_wnlb.data.validation import (
    Prediction,
    Truth,
    check_column,
    check_ids,
    check_result_keys,
    first,
    is_id,
    is_text,
    shown,
    suspicion,
)

DATA_YAML = "data_yaml"  # key of a truth from a data YAML: {"made_up_ids": bool, "class_numbers": {number: name}}
REMEDY = (
    "give the COCO file that the predictions were made for (data=FILE.json), predictions with a file_name "
    "(Ultralytics' predictions.json has them), or those that `yolo-wnlb evaluate` wrote"
)


def image_list(truth: Truth) -> str:
    """Reduce which images a truth is of, but for the suffix of their files, to a short hash."""
    images = [
        [i["id"], i["file_name"].removesuffix(PurePosixPath(i["file_name"]).suffix), i["width"], i["height"]]
        for i in truth["images"]
    ]
    return hashlib.sha256(json.dumps(sorted(images, key=str)).encode()).hexdigest()[:16]


def check_header(truth: Truth, header: Mapping[str, Any], name: str = "header") -> None:
    """Refuse predictions whose header speaks of other images or classes than those of the truth.

    Args:
        truth: A COCO truth.
        header: Of a predictions file; its `image_list` and `categories` are compared.
        name: Of the file, for messages.
    Raises: ValueError.
    """
    made_for, claimed = header.get("image_list"), header.get("categories", {})
    if made_for and made_for != image_list(truth):
        raise ValueError(
            f"{name}: the predictions were made for other images than the {len(truth['images'])} of the truth: "
            "give the data and split that they were made for, or predict anew"
        )
    if not isinstance(claimed, dict):
        raise ValueError(f"{name}: categories is {shown(claimed)}; wanted the names of the classes by category id")
    names = {str(category["id"]): category["name"] for category in truth["categories"]}  # as the keys are in JSON
    claimed = {str(key): name for key, name in claimed.items()}
    if wrong := [f"{i} is {name!r}, not {names.get(i)!r}" for i, name in claimed.items() if names.get(i) != name]:
        raise ValueError(
            f"{name}: the predictions say what their category ids mean, and the truth differs in {len(wrong)}: "
            f"{first(wrong)}; they were made for another truth: map the detector's classes by name (class_map)"
        )


def check_file_names(truth: Truth, predictions: Sequence[Prediction]) -> None:
    """Refuse predictions whose file_name, where they have one, is not that of the image with their image_id."""
    names = {image["id"]: parts_of(image["file_name"]) for image in truth["images"]}
    for image_id, file_name in {(p["image_id"], p["file_name"]) for p in predictions if "file_name" in p}:
        if not same_end(names[image_id], parts_of(file_name)):
            raise ValueError(
                f"the predictions with image_id {image_id!r} are of {file_name!r}, which in the truth is the id of "
                f"{'/'.join(names[image_id])!r}: load_predictions(file, truth) matches them by file name"
            )


def identify(
    truth: Truth, predictions: Sequence[Prediction], header: Mapping[str, Any], name: str
) -> tuple[list[Prediction], dict[str, str]]:
    """Give predictions from a file the image and category ids of a truth.

    Args:
        truth: What `ground_truth` returned.
        predictions: COCO results; an entry may have a file_name.
        header: Of their file, empty if it has none.
        name: Of their file, for messages.
    Returns: The predictions, and how they were matched, for the protocol; nothing where ids are taken as they are.
    Raises: ValueError: there is no telling what is meant, or it is not in the truth.
    """

    def namer(place: int) -> str:
        return f"{name}: prediction {place}"

    check_result_keys(predictions, namer)
    check_column(predictions, "image_id", is_id, "a whole number or a text", namer)  # Ultralytics' may be both
    check_ids(predictions, "category_id", namer)
    if header.get("image_list") or not predictions:
        return list(predictions), {}
    made_up = truth.get(DATA_YAML, {}).get("made_up_ids", False)
    with_name = sum("file_name" in prediction for prediction in predictions)
    if 0 < with_name < len(predictions):
        raise ValueError(f"{name}: {with_name} of {len(predictions)} predictions have a file_name; wanted all or none")
    if with_name:
        check_column(predictions, "file_name", is_text, "a text", namer)
        found = images_by_name(truth, {(p["image_id"], p["file_name"]) for p in predictions}, made_up, name)
        how = "file name"
    else:
        ids = {p["image_id"] for p in predictions}
        found = images_by_number(truth, ids, name) if made_up else images_by_text(truth, ids)
        if not found:  # the ids of the COCO file, which its own results share
            return list(predictions), {}
        how = "the number or text in the file name"

    as_they_are = not made_up and all(image_id == new for (image_id, _), new in found.items())
    numbered = all(image_id == number_of(file_name) for image_id, file_name in found if file_name)
    categories = category_ids(truth, {p["category_id"] for p in predictions}, as_they_are, numbered, name)
    matched = [
        {**p, "image_id": found[p["image_id"], p.get("file_name")], "category_id": categories[p["category_id"]]}
        for p in predictions
    ]
    names = {category["id"]: category["name"] for category in truth["categories"]}
    read_as = [f"{given} {names[category]}" for given, category in sorted(categories.items())]
    return matched, {"pictures_matched_by": how, "category_ids_read_as": first(read_as, 10)}


def images_by_name(
    truth: Truth, wanted: set[tuple[Any, str]], made_up: bool, name: str
) -> dict[tuple[Any, str | None], Any]:
    """Find the image of each (image id, file name): {(image id, file name): id in the truth}.

    A name may have more or fewer folders in front than that of the truth. Where several images end in it, the one
    whose id is given is meant, if ids are those of the truth.
    """
    ending: dict[str, list[tuple[tuple[str, ...], Any]]] = {}
    for image in truth["images"]:
        parts = parts_of(image["file_name"])
        ending.setdefault(parts[-1], []).append((parts, image["id"]))
    found: dict[tuple[Any, str | None], Any] = {}
    unknown, unclear = list[str](), list[str]()
    for image_id, file_name in sorted(wanted, key=str):
        parts = parts_of(file_name)
        alike = [id_ for theirs, id_ in ending.get(parts[-1], []) if same_end(theirs, parts)]
        if len(alike) > 1 and not made_up and image_id in alike:
            alike = [image_id]
        if len(alike) == 1:
            found[image_id, file_name] = alike[0]
        else:
            (unclear if alike else unknown).append(file_name)
    if unknown:
        raise ValueError(
            f"{name}: {len(unknown)} of {len(wanted)} pictures that the predictions name are not in the truth "
            f"(first: {unknown[0]}; it has {truth['images'][0]['file_name']}); were they made for another split?"
        )
    if unclear:
        raise ValueError(
            f"{name}: several images of the truth are called {unclear[0]} (and so with {len(unclear)} of {len(wanted)} "
            f"names): their folders are needed in file_name to tell them apart; rename the pictures, or {REMEDY}"
        )
    if len({*found.values()}) < len(found):
        pairs = sorted(found, key=lambda pair: str(found[pair]))
        twice = next((a, b) for a, b in itertools.pairwise(pairs) if found[a] == found[b])
        raise ValueError(f"{name}: {twice[0]} and {twice[1]} (id, file_name) are one image of the truth; {REMEDY}")
    return found


def images_by_number(truth: Truth, wanted: set[Any], name: str) -> dict[tuple[Any, str | None], Any]:
    """Find the only image of each bare id by Ultralytics' rule, the number or text in the name of the file.

    Raises: ValueError: an id fits none or several; or all of them could also count the images in some order.
    """
    found = unique_numbers(truth, wanted)
    lost = sorted(wanted - {i for i, _ in found}, key=str)
    why = ""
    if lost:
        why = f"{len(lost)} of them are not the number in the name of one picture (first: {lost[0]!r})"
    else:
        for start in (1, 0):  # from which a list of the files may have been counted
            counted = {image["id"] - 1 + start: image["id"] for image in truth["images"]}
            if wanted <= counted.keys() and any(counted[i] != new for (i, _), new in found.items()):
                why = "they may be the numbers in the file names, or count the pictures in some order"
    if why:
        raise ValueError(
            f"{name}: nothing says which pictures are meant by the image ids {first(sorted(wanted, key=str), 3)}: "
            f"labels have no image ids, and {why}. Matching them would be a guess: {REMEDY}"
        )
    return found


def images_by_text(truth: Truth, wanted: set[Any]) -> dict[tuple[Any, str | None], Any]:
    """Find the images of ids that are all texts, none of them an id of the truth, by the names of files; else none."""
    if any(not isinstance(i, str) for i in wanted) or wanted & {image["id"] for image in truth["images"]}:
        return {}
    found = unique_numbers(truth, wanted)
    return found if len(found) == len(wanted) else {}


def unique_numbers(truth: Truth, wanted: set[Any]) -> dict[tuple[Any, str | None], Any]:
    """Find the images whose file names are the only ones with a number or text: {(number, None): id}."""
    by_number: dict[Any, list[Any]] = {}
    for image in truth["images"]:
        by_number.setdefault(number_of(image["file_name"]), []).append(image["id"])
    return {(i, None): by_number[i][0] for i in wanted if len(by_number.get(i, [])) == 1}


def category_ids(truth: Truth, found: set[Any], as_they_are: bool, numbered: bool, name: str) -> dict[Any, Any]:
    """Read the category ids of predictions that were not numbered for this truth: {id: category id of the truth}.

    Ultralytics counts the classes of the data YAML from 1, or gives COCO's ids to those of coco.yaml.

    Args:
        truth: Its categories; from a data YAML it says how Ultralytics counts them.
        found: The ids of the predictions.
        as_they_are: Whether their image ids are those of the truth; then category ids may be too.
        numbered: Whether their image ids are the numbers in the file names, as Ultralytics writes them.
        name: Of their file, for messages.
    Raises: ValueError: an id fits nothing, or may mean one class or another.
    """
    known = sorted(category["id"] for category in truth["categories"])
    by_name = {category["name"]: category["id"] for category in truth["categories"]}
    class_numbers = truth.get(DATA_YAML, {}).get("class_numbers")
    if class_numbers is None:
        counted = dict(enumerate(known, 1))
    else:
        counted = {number: by_name[class_name] for number, class_name in class_numbers.items()}
    own = {i: i for i in known}
    readings = [own] if as_they_are else []
    if numbered or not as_they_are:
        readings.append(counted)
    fitting = [reading for reading in readings if found <= reading.keys()]
    if not fitting:
        lacking = sorted(found - readings[-1].keys(), key=str)
        raise ValueError(
            f"{name}: {len(lacking)} of {len(found)} category ids of the predictions are not in the truth: "
            f"{first(lacking)}; it has {first([*readings[-1]])}{suspicion(found, {*readings[-1]})}"
        )
    if any(fitting[0][i] != fitting[-1][i] for i in found) or (
        class_numbers is None and fitting[-1] is counted and any(counted[i] != i for i in found)
    ):
        raise ValueError(
            f"{name}: the category ids {first(sorted(found, key=str))} may be those of the truth ({first(known)}), or "
            "count the model's classes from 1, as Ultralytics does: classes would be mixed up. Give the data YAML that "
            "the model was validated with (data=FILE.yaml), or evaluate the model itself, whose classes have names"
        )
    return {i: fitting[-1][i] for i in found}


def number_of(file_name: str) -> int | str:
    """Return the image id that Ultralytics' predictions.json gives to a picture: 7 of "a/007.jpg", "b" of "b.jpg"."""
    stem = PurePosixPath(parts_of(file_name)[-1]).stem
    return int(stem) if stem.isdecimal() else stem


def parts_of(file_name: str) -> tuple[str, ...]:
    """Return the folders and the name in a path of any system."""
    return tuple(part for part in file_name.replace("\\", "/").split("/") if part not in ("", ".")) or (file_name,)


def same_end(first_parts: Sequence[str], second_parts: Sequence[str]) -> bool:
    """Tell whether the shorter one of two paths is the end of the other one."""
    shared = min(len(first_parts), len(second_parts))
    return first_parts[-shared:] == second_parts[-shared:]
