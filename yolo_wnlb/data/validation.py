"""One check for everything in COCO's form, truth and predictions alike: types, values, and whether ids hang together.

    check_truth: images, annotations, categories      check_predictions: a list of results for a checked truth

Nothing is computed before it, because pycocotools checks nothing: a NaN in an outline fills the memory,
a broken RLE ends the process, and an area of null makes an object small, medium and large at once.
All values of one key are tested together, and one by one only if something is wrong with them.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

Truth = dict[str, Any]  # a COCO file: images, annotations, categories
Prediction = dict[str, Any]  # a COCO result
Size = tuple[int, int]  # height and width of a picture in pixels
Namer = Callable[[int], str]  # names the entry at a place of a list, such as "val.json: annotation 17"

KEYS = {  # what every entry of a truth has to have
    "images": ("id", "file_name", "width", "height"),
    "categories": ("id", "name"),
    "annotations": ("image_id", "category_id", "bbox"),
}
PART_BYTES = 2**16  # of compressed RLEs that are checked at once: the arrays stay in the processor's cache
LARGEST = 1e12  # a number of pixels or square pixels beyond it is a mistake
MOST_PIXELS = 2**31  # of a picture: the runs of an RLE have 32 bits
MARGIN = 0.1  # of the picture's side, that a predicted box may lie outside; and MARGIN_PIXELS
MARGIN_PIXELS = 2.0
COCO_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}  # ids from 1 to 90 that none of COCO's 80 classes has
COCO_IDS = set(range(1, 91)) - COCO_GAPS


# ---- truth ---------------------------------------------------------------------------------------


def check_truth(truth: Truth, name: str = "the truth") -> None:
    """Refuse what is no COCO annotation file, or does not hang together.

    Args:
        truth: The content of the file.
        name: What messages call it.
    Raises: ValueError: names the entry by its id, what was found and what was wanted.
    """
    if not isinstance(truth, dict) or not all(isinstance(truth.get(key), list) for key in KEYS):
        raise ValueError(f"{name} is no COCO annotation file: wanted the lists images, annotations and categories")
    for what, keys in KEYS.items():
        check_keys(truth[what], keys, lambda place: f"{name}: entry {place} of {what}")  # noqa: B023 - called at once
    images, categories, annotations = (truth[key] for key in ("images", "categories", "annotations"))
    for what, entries in (("images", images), ("categories", categories)):
        if not entries:
            raise ValueError(f"{name} has no {what}; wanted one at least")

    image, category, annotation = (
        named(entries, f"{name}: {what}")
        for what, entries in (("image", images), ("category", categories), ("annotation", annotations))
    )
    for entries, namer in ((images, image), (categories, category), (annotations, annotation)):
        check_ids(entries, "id", namer)
    for entries, what in ((images, "images"), (categories, "categories"), (annotations, "annotations")):
        if repeated := several(entry["id"] for entry in entries if "id" in entry):
            raise ValueError(f"{name}: several {what} have the id {first(repeated)}; give each its own")
    for entries, key, namer in ((images, "file_name", image), (categories, "name", category)):
        check_column(entries, key, is_text, "a text", namer, all_texts)
    if repeated := several(entry["name"] for entry in categories):
        raise ValueError(f"{name}: several categories have the name {first(repeated)}; give each its own")
    for key in ("width", "height"):
        check_column(images, key, is_side, "a whole number of pixels, 1 or more", image)
    for place, entry in enumerate(images):
        if entry["width"] * entry["height"] >= MOST_PIXELS:
            found = f"{entry['width']} x {entry['height']}"
            raise ValueError(f"{image(place)} is {found}; wanted fewer than {MOST_PIXELS} pixels: cut it into tiles")

    for what, entries in (("image", images), ("category", categories)):
        check_ids(annotations, f"{what}_id", annotation)
        known = {entry["id"] for entry in entries}
        if unknown := {entry[f"{what}_id"] for entry in annotations} - known:
            lacking, there = (first([*map(shown, sorted(ids, key=str))]) for ids in (unknown, known))
            raise ValueError(f"{name}: annotations have {what} ids that it lacks: {lacking}; it has {there}")
    check_column(annotations, "iscrowd", is_flag, "0 or 1", annotation)
    check_column(annotations, "score", is_score, "0 to 1", annotation)
    wanted = "square pixels, 0 or more (without the key it is computed from the mask, or from the box)"
    check_column(annotations, "area", is_area, wanted, annotation, lambda values: all_within(values, 0, LARGEST))
    sizes = sizes_of(truth)
    placed = [sizes[entry["image_id"]] for entry in annotations]
    check_boxes(annotations, placed, 1.0, annotation)
    check_masks(annotations, placed, annotation, outlines=True)


def sizes_of(truth: Truth) -> dict[Any, Size]:
    """Return height and width of each image, by its id."""
    return {image["id"]: (image["height"], image["width"]) for image in truth["images"]}


# ---- predictions ---------------------------------------------------------------------------------


def check_predictions(truth: Truth, predictions: Sequence[Prediction], name: str = "") -> None:
    """Refuse what is no list of COCO results, or cannot be about the pictures of a truth.

    Args:
        truth: What `check_truth` accepts.
        predictions: Any number of results.
        name: Of their file, for messages.
    Raises: ValueError: names the prediction by its place from 0, what was found and what was wanted.
    """

    def namer(place: int) -> str:
        return f"{name}: prediction {place}" if name else f"prediction {place}"

    check_result_keys(predictions, namer)
    categories = {category["id"]: category["name"] for category in truth["categories"]}
    sizes = sizes_of(truth)
    for key, known in (("image_id", sizes.keys()), ("category_id", categories.keys())):
        check_ids(predictions, key, namer)
        found = {prediction[key] for prediction in predictions}
        if unknown := found - known:
            what = key.replace("_id", " ids")
            told = f"{len(unknown)} of {len(found)} {what} of the predictions are not in the truth"
            listed = f"{first(sorted(unknown, key=str))}; it has {first(sorted(known, key=str))}"
            raise ValueError(f"{f'{name}: ' * bool(name)}{told}: {listed}{suspicion(found, set(known))}")
    check_column(predictions, "score", is_score, "0 to 1", namer, lambda values: all_within(values, 0, 1))
    check_column(predictions, "iscrowd", is_flag, "0 or 1", namer)
    check_column(predictions, "file_name", is_text, "a text", namer, all_texts)
    placed = [sizes[prediction["image_id"]] for prediction in predictions]
    objects = np.array([a["bbox"] for a in truth["annotations"]], float).reshape(-1, 4)
    sides = np.array([sizes[a["image_id"]][::-1] for a in truth["annotations"]], float).reshape(-1, 2)
    check_boxes(predictions, placed, max(MARGIN, overshoot(objects, sides).max(initial=0)), namer)
    check_masks(predictions, placed, namer, outlines=False)


def check_result_keys(predictions: Sequence[Prediction], namer: Namer) -> None:
    """Refuse entries that are no mapping, or lack what every result has."""
    if not isinstance(predictions, Sequence) or isinstance(predictions, (str, bytes)):
        raise ValueError(f"the predictions are {shown(predictions)}; wanted a list of COCO results")
    check_keys(predictions, ("image_id", "category_id", "score"), namer, "and bbox or segmentation")
    for place, prediction in enumerate(predictions):
        if "bbox" not in prediction and "segmentation" not in prediction:
            raise ValueError(f"{namer(place)} has {first([*prediction])}; wanted bbox or segmentation too")


def suspicion(found: set[Any], known: set[Any]) -> str:
    """Say what may have happened to ids, '' if there is no telling."""
    if {isinstance(i, str) for i in found} != {isinstance(i, str) for i in known}:
        return "; texts are no numbers: '1' is not 1"
    if any(isinstance(i, str) for i in found | known):
        return "; were they made for another split?"
    if len(known) > 40 and known <= COCO_IDS and known & {*range(81, 91)} and found <= set(range(81)):
        return "; these look like class numbers up to 80, where the truth has COCO's ids up to 90: map by name"
    if found <= COCO_IDS and max(found) > 80 and known <= set(range(81)):
        return "; these look like COCO's ids up to 90, where the truth counts up to 80: map by name"
    for shift, how in ((1, "all fit once 1 is added: counted from 0?"), (-1, "all fit once 1 is subtracted")):
        if {i + shift for i in found} <= known:
            return f"; {how}"
    return "; were they made for another split?"


# ---- the values of one key -----------------------------------------------------------------------


def check_keys(entries: Sequence[Any], wanted: Sequence[str], namer: Namer, more: str = "") -> None:
    """Refuse entries that are no mapping, or lack a key."""
    for place, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise ValueError(f"{namer(place)} is {shown(entry)}; wanted {', '.join(wanted)} {more}".rstrip())
        for key in wanted:
            if key not in entry:
                lack = ", ".join(key for key in wanted if key not in entry)
                raise ValueError(f"{namer(place)} lacks {lack}; wanted {', '.join(wanted)} {more}".rstrip())


def check_column(
    entries: Sequence[Mapping[str, Any]],
    key: str,
    fits: Callable[[Any], bool],
    wanted: str,
    namer: Namer,
    all_fit: Callable[[list[Any]], bool] = lambda _: False,
) -> None:
    """Refuse the first entry with an unfit value; `all_fit` may accept all values at once, because that is fast."""
    if all_fit([entry[key] for entry in entries if key in entry]):
        return
    for place, entry in enumerate(entries):
        if key in entry and not fits(entry[key]):
            raise ValueError(f"{namer(place)} has {key} {shown(entry[key])}; wanted {wanted}")


def check_ids(entries: Sequence[Mapping[str, Any]], key: str, namer: Namer) -> None:
    """Refuse ids that are neither whole numbers nor texts, or now the one and now the other."""
    if kinds([entry[key] for entry in entries if key in entry]) <= {int}:
        return
    check_column(entries, key, is_id, "a whole number or a text", namer)
    texts = {isinstance(entry[key], str): place for place, entry in enumerate(entries) if key in entry}
    if len(texts) == 2:
        number, text = (shown(entries[texts[kind]][key]) for kind in (False, True))
        raise ValueError(
            f"{namer(texts[True])} has {key} {text}, another one has {number}; wanted numbers or texts throughout"
        )


def check_boxes(entries: Sequence[Mapping[str, Any]], sizes: Sequence[Size], share: float, namer: Namer) -> None:
    """Refuse boxes that are malformed, or leave their pictures by more than a share of its sides."""
    wanted = "four numbers x, y, width, height in pixels, no side negative"
    check_column(entries, "bbox", is_box, wanted, namer, all_boxes)
    places = [place for place, entry in enumerate(entries) if "bbox" in entry]
    boxes = np.array([entries[place]["bbox"] for place in places], float).reshape(-1, 4)
    sides = np.array([sizes[place][::-1] for place in places], float).reshape(-1, 2)
    far = overshoot(boxes, sides) > share + MARGIN_PIXELS / sides.min(1, initial=MOST_PIXELS)
    outside = (boxes[:, :2] + boxes[:, 2:] < 0).any(1) | (boxes[:, :2] > sides).any(1)
    for index in np.flatnonzero(far | outside)[:1]:
        entry, (height, width) = entries[places[index]], sizes[places[index]]
        raise ValueError(
            f"{namer(places[index])} has the box {shown(entry['bbox'])}, far outside its picture "
            f"({shown(entry['image_id'])}, {width} x {height}): is it of another picture, or of another size of it?"
        )


def overshoot(boxes: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """Return by which share of the sides (N, 2), width and height, a box xywh (N, 4) leaves its picture; 0 inside."""
    beyond = np.maximum(-boxes[:, :2], boxes[:, :2] + boxes[:, 2:] - sides) / sides
    return np.maximum(beyond, 0).max(1, initial=0)


def check_masks(entries: Sequence[Mapping[str, Any]], sizes: Sequence[Size], namer: Namer, *, outlines: bool) -> None:
    """Refuse masks that are malformed, or of another size than their pictures; none at all is None or [].

    Args:
        entries: Annotations or predictions.
        sizes: Height and width of the picture of each.
        namer: Names an entry.
        outlines: Whether polygons are masks too, as they are in a truth.
    """
    rles, polygons = {}, {}
    for place, entry in enumerate(entries):
        mask = entry.get("segmentation")
        if isinstance(mask, dict):
            rles[place] = mask
        elif isinstance(mask, list) and (outlines or not mask):
            polygons[place] = mask
        elif mask is not None:
            wanted = "an RLE (size [height, width], counts)" + " or a list of outlines [x, y, x, y, ...]" * outlines
            raise ValueError(f"{namer(place)} has a segmentation that is {shown(mask)}; wanted {wanted}")
    if not outlines_fit([*polygons.values()], [sizes[place] for place in polygons]):
        for place, mask in polygons.items():
            for outline in mask:
                if problem := outline_problem(outline, sizes[place]):
                    raise ValueError(f"{namer(place)} has an outline {problem}")
    check_rles(rles, sizes, namer)


def check_rles(rles: Mapping[int, Mapping[str, Any]], sizes: Sequence[Size], namer: Namer) -> None:
    """Refuse run-length encoded masks that are malformed, or of another size than their pictures."""
    if not sizes_fit([*rles.values()], [sizes[place] for place in rles]):
        for place, rle in rles.items():
            if problem := rle_problem(rle, sizes[place]):
                raise ValueError(f"{namer(place)} has {problem}")
    totals = run_totals([rle["counts"] for rle in rles.values()])
    for place, total in zip(rles, totals):
        height, width = sizes[place]
        if total != height * width:
            raise ValueError(
                f"{namer(place)} has a broken RLE in its segmentation: "
                f"wanted runs, none negative, that fill {height} x {width} pixels"
            )


# ---- single values -------------------------------------------------------------------------------


def is_number(value: Any) -> bool:
    """Tell whether a value is a number, finite and of a size that makes sense."""
    return isinstance(value, (int, float, Real)) and not isinstance(value, bool) and bool(abs(value) < LARGEST)  # type: ignore[operator]


def share_meant(value: Any) -> str:
    """Return "; did you mean 0.5?" for a share that was given in percent, 50; "" for anything else."""
    return f"; did you mean {value / 100:g}?" if is_number(value) and 1 < value <= 100 else ""


def is_whole(value: Any) -> bool:
    """Tell whether a value is a whole number; True, False and 1.0 are none."""
    return isinstance(value, (int, Integral)) and not isinstance(value, bool)


def is_id(value: Any) -> bool:
    """Tell whether a value can be an id."""
    return is_whole(value) or is_text(value)


def is_text(value: Any) -> bool:
    """Tell whether a value is a text that a file or a class can have for its name."""
    return isinstance(value, str) and bool(value) and "\0" not in value


def is_side(value: Any) -> bool:
    """Tell whether a value is the width or height of a picture."""
    return is_whole(value) and 1 <= value < MOST_PIXELS


def is_flag(value: Any) -> bool:
    """Tell whether a value is 0 or 1, written as a whole number."""
    return is_whole(value) and value in (0, 1)


def is_count(value: Any) -> bool:
    """Tell whether a value is the length of a run."""
    return is_whole(value) and value >= 0


def is_area(value: Any) -> bool:
    """Tell whether a value is an area in square pixels."""
    return is_number(value) and value >= 0


def is_score(value: Any) -> bool:
    """Tell whether a value is a score."""
    return is_number(value) and 0 <= value <= 1


def is_box(value: Any) -> bool:
    """Tell whether a value is a box x, y, width, height."""
    return isinstance(value, (list, tuple)) and len(value) == 4 and all(map(is_number, value)) and min(value[2:]) >= 0


def outline_problem(outline: Any, size: Size) -> str:
    """Say what is wrong with an outline [x, y, x, y, ...] in a picture; '' if nothing is."""
    if not isinstance(outline, (list, tuple)):
        return f"that is {shown(outline)}; wanted a list of outlines, each a list of numbers [x, y, x, y, ...]"
    if len(outline) < 6 or len(outline) % 2:
        return f"of {len(outline)} numbers, {shown(outline)}; wanted three points or more, [x, y, x, y, x, y, ...]"
    if unfit := [value for value in outline if not is_number(value)]:
        return f"with the coordinate {shown(unfit[0])}; wanted finite numbers of pixels"
    height, width = size
    for values, side in ((outline[::2], width), (outline[1::2], height)):
        if min(values) < -side or max(values) > 2 * side:
            far = min(values) if min(values) < -side else max(values)
            return f"that reaches {far:g}, far outside its picture of {width} x {height}; is it of another size?"
    return ""


def rle_problem(rle: Mapping[str, Any], wanted: Size) -> str:
    """Say what is wrong with an RLE for a picture, apart from its runs; '' if nothing is."""
    size, counts = rle.get("size"), rle.get("counts")
    unfit = not isinstance(counts, (str, bytes, list))
    if unfit or not isinstance(size, (list, tuple)) or not all(map(is_whole, size)):
        return f"a segmentation that is no RLE, {shown(rle)}; wanted size [height, width], whole numbers, and counts"
    if tuple(size) != wanted:
        turned = tuple(size) == wanted[::-1]
        guess = "width and height are exchanged" if turned else "masks belong at the size of the image file"
        return f"a mask of {shown(size)}, its picture is {list(wanted)} (height, width): {guess}"
    return ""


# ---- many values at once -------------------------------------------------------------------------


def kinds(values: Sequence[Any]) -> set[type]:
    """Return the types of some values."""
    return {*map(type, values)}


def all_texts(values: Sequence[Any]) -> bool:
    """Tell whether all values are texts that a file or a class can have for its name."""
    return kinds(values) <= {str} and all(values) and "\0" not in "".join(values)


def all_within(values: Sequence[Any], low: float, high: float) -> bool:
    """Tell whether all values are plain numbers from low to high; False may also mean: look more closely."""
    if not kinds(values) <= {int, float}:
        return False
    try:
        numbers = np.array(values, float)
    except OverflowError:
        return False
    return bool(((numbers >= low) & (numbers <= high)).all())


def all_boxes(boxes: Sequence[Any]) -> bool:
    """Tell whether all values are boxes; False may also mean: look more closely."""
    if not kinds(boxes) <= {list, tuple} or not {*map(len, boxes)} <= {4}:
        return False
    flat = [*itertools.chain.from_iterable(boxes)]
    return all_within(flat, -LARGEST, LARGEST) and bool((np.array(flat, float).reshape(-1, 4)[:, 2:] >= 0).all())


def outlines_fit(masks: Sequence[Sequence[Any]], sizes: Sequence[Size]) -> bool:
    """Tell whether all outlines of some masks are sound; False may also mean: look more closely."""
    outlines = [*itertools.chain.from_iterable(masks)]
    if not kinds(outlines) <= {list, tuple}:
        return False
    lengths = np.array([*map(len, outlines)], int)
    flat = [*itertools.chain.from_iterable(outlines)]
    if (lengths < 6).any() or (lengths % 2).any() or not all_within(flat, -LARGEST, LARGEST):
        return False
    sides = np.repeat(np.array(sizes, float).reshape(-1, 2)[:, ::-1], [*map(len, masks)], axis=0)  # of each outline
    sides = np.repeat(sides, lengths // 2, axis=0)  # of each point
    points = np.array(flat, float).reshape(-1, 2)
    return bool(((points >= -sides) & (points <= 2 * sides)).all())


def sizes_fit(rles: Sequence[Mapping[str, Any]], wanted: Sequence[Size]) -> bool:
    """Tell whether all RLEs have counts and the sizes wanted; False may also mean: look more closely."""
    sizes, counts = ([rle.get(key, ()) for rle in rles] for key in ("size", "counts"))
    if not kinds(sizes) <= {list, tuple} or not kinds(counts) <= {str, bytes, list}:
        return False
    return [*map(tuple, sizes)] == [*wanted] and kinds([*itertools.chain.from_iterable(sizes)]) <= {int}


def run_totals(counts: Sequence[str | bytes | list[Any]]) -> list[int]:
    """Add up the runs of RLEs, compressed or plain; -1 where one is malformed."""
    totals = [sum(runs) if isinstance(runs, list) and all(map(is_count, runs)) else -1 for runs in counts]
    places = [place for place, runs in enumerate(counts) if runs and not isinstance(runs, list)]
    texts = [counts[place] for place in places]
    coded = [text.encode("utf-8", "surrogatepass") if isinstance(text, str) else bytes(text) for text in texts]
    part = np.cumsum([*map(len, coded)]) // PART_BYTES  # number of the part that each belongs to
    for begin, end in itertools.pairwise([*np.flatnonzero(np.diff(part, prepend=-1)), len(coded)]):
        for place, total in zip(places[begin:end], part_totals(coded[begin:end])):
            totals[place] = total
    return totals


def part_totals(part: Sequence[bytes]) -> list[int]:
    """Add up the runs of a few compressed RLEs at once, none of them empty; -1 where one is malformed.

    Source of the format: rleFrString of pycocotools' maskApi.c. A number is written in groups of 5
    bits, lowest first, as characters from '0'; 32 says that another follows, and 16 in the last one
    that the number is negative. From the fourth run on, numbers are differences to the run before last.
    """
    code = np.frombuffer(b"".join(part), np.uint8) - np.uint8(48)  # what lies below wraps to above 63
    ends = np.cumsum([*map(len, part)]) - 1  # the last character of each text
    more = code & 32 != 0
    broken = more[ends]  # the last number is cut off
    broken[np.searchsorted(ends, np.flatnonzero(code > 63))] = True
    more[ends] = False
    last = np.flatnonzero(~more)  # the last character of each number
    length = np.diff(last, prepend=-1)
    broken[np.searchsorted(ends, last[length > 7])] = True  # 2 ** 35 and beyond

    number = ((code[last] & 31) ^ 16).astype(np.int64) - 16  # the highest group, with its sign
    for group in range(1, min(length.max(), 7)):
        rows = np.flatnonzero(length > group)
        number[rows] = (number[rows] << 5) | (code[last[rows] - group] & 31)

    start = np.concatenate(([0], np.searchsorted(last, ends) + 1))  # the first number of each text, and the end
    first_runs = number[start[:-1]]
    number[start[:-1]] = 0  # nothing is added to it
    run = np.empty_like(number)
    for half in (0, 1):  # every other number is added up, over all texts; what the texts before have is taken off
        chain = np.concatenate(([0], np.cumsum(number[half::2])))
        cuts = (start + 1 - half) // 2
        run[half::2] = chain[1:] - np.repeat(chain[cuts[:-1]], np.diff(cuts))
    run[start[:-1]] = first_runs
    unfit = np.flatnonzero((run < 0) | (run > MOST_PIXELS * 2**9))  # sums of longer ones might overflow
    broken[np.searchsorted(ends, last[unfit])] = True
    return np.where(broken, -1, np.add.reduceat(run, start[:-1])).tolist()


# ---- words ---------------------------------------------------------------------------------------


def named(entries: Sequence[Mapping[str, Any]], what: str) -> Namer:
    """Return what names an entry by its id, or by its place where it has none."""

    def namer(place: int) -> str:
        return f"{what} {shown(entries[place]['id'])}" if "id" in entries[place] else f"{what} at place {place}"

    return namer


def several(values: Any) -> list[Any]:
    """Return the values that occur more than once."""
    return [value for value, count in Counter(values).items() if count > 1]


def shown(value: Any) -> str:
    """Write a value in at most 60 letters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def first(names: Sequence[Any], most: int = 5) -> str:
    """List the first few of some names, each in at most 200 letters."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    texts = map(str, names[:most])
    return ", ".join(text if len(text) <= 200 else f"{text[:197]}..." for text in texts) + more
