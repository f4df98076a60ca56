"""Pictures with one class each, as classifiers read them.

    a folder SPLIT/CLASS/[GROUP/]*.jpg                          any classes; groups are kinds of object, places, ...
    containers:S1, :S2, :S3 or :all, and shapes:crops           drawn on the spot by `worlds`
    contexts:all, :similar, :dissimilar, :outlines, :grounds    drawn on the spot by `worlds`
    cifar10:FOLDER                                              CIFAR-10's Python batches, where the user has them
    cifar10                                                     Ultralytics' copy of it, which it downloads

Numbers of the drawn ones can be given: containers:S1,train=400,test=300,size=64,seed=0; contexts:all,rho=0.9.

A folder may hold boxes.json, which `sort` writes: {"SPLIT/CLASS/a.jpg": [[x, y, width, height], ...]}, in pixels.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from yolo_wnlb.data import worlds
from yolo_wnlb.data.sources import list_images
from yolo_wnlb.data.validation import is_number
from yolo_wnlb.imaging.avif import decode_avif, is_avif
from yolo_wnlb.imaging.deep import read_deep
from yolo_wnlb.reading import read_json
from yolo_wnlb.words import suggestion

SPLITS = ("train", "val", "test")
CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES = "cifar-10-batches-py"  # the folder that CIFAR-10's archive unpacks to
MOST_BYTES = 2 * 2**30  # that are drawn at once
BOXES = "boxes.json"  # in a folder: where the objects of its pictures are
DRAWN: dict[str, dict[str, float]] = {  # what is drawn: its splits with their numbers of pictures, and other numbers
    "containers": {"train": 400, "test": 300, "size": 64, "seed": 0},
    "contexts": {"train": 1600, "test": 640, "size": 64, "seed": 0, "rho": worlds.RHO},
    "shapes": {"train": 1600, "val": 400, "size": 64, "seed": 0},
}
SETS = {"containers": tuple(worlds.TESTED), "contexts": tuple(worlds.CONTEXTS), "shapes": ("crops",)}  # of DRAWN
WITHOUT_RHO = ("outlines", "grounds")  # sets of contexts in which no ground goes with an outline


Boxes = tuple[tuple[float, float, float, float], ...]


@dataclass(frozen=True)
class Labelled:
    """Pictures of a split, with one class each.

    Attributes:
        source: What the user gave.
        split: "train", "val" or "test".
        classes: Their names.
        labels: Index into `classes` of each picture.
        names: Of the pictures, different from each other: CLASS/GROUP/FILE.
        groups: The group of each picture; "" where it has none.
        read: Function of a picture's number that returns it: uint8 (H, W, 3), BGR.
        digest: A short hash of names, classes and contents (of files: their sizes).
        notes: What the reader of a score has to know.
        boxes: Of the objects of each picture, each x, y, width, height in pixels; None where they are not known.
    """

    source: str
    split: str
    classes: tuple[str, ...]
    labels: tuple[int, ...]
    names: tuple[str, ...]
    groups: tuple[str, ...]
    read: Callable[[int], np.ndarray]
    digest: str
    notes: tuple[str, ...] = ()
    boxes: tuple[Boxes, ...] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def only(self, places: Sequence[int]) -> Labelled:
        """Return the pictures of these numbers, in this order; their digest is one of the choice too."""
        chosen: dict[str, Any] = {
            name: tuple(getattr(self, name)[place] for place in places) for name in ("labels", "names", "groups")
        }
        if self.boxes is not None:
            chosen["boxes"] = tuple(self.boxes[place] for place in places)
        digest = hashlib.sha256(json.dumps([self.digest, [*map(int, places)]]).encode()).hexdigest()[:16]
        return replace(self, **chosen, digest=digest, read=lambda number: self.read(places[number]))

    @property
    def images(self) -> list[dict[str, Any]]:
        """The pictures as entries of a COCO truth have them: id, file_name and group."""
        return [
            {"id": i, "file_name": name, "group": group} for i, (name, group) in enumerate(zip(self.names, self.groups))
        ]


def read(source: str | Path, split: str) -> Labelled:
    """Find the pictures of a split and their classes.

    Args:
        source: One of the forms at the head of this file.
        split: "train", "val" or "test".
    Returns: The pictures. The classes of a folder are those of its train/, by name; a class without a picture in
        `split` is named in `notes`.
    Raises:
        FileNotFoundError: there is no such folder, or no such split in it.
        ValueError: a number of a drawn set is out of range; a class folder is empty, or has pictures in this
            split and not in train/; a picture lies outside all class folders; there is one class only.
    """
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}{suggestion(split, SPLITS)}; choose from {', '.join(SPLITS)}")
    kind, colon, rest = str(source).partition(":")
    if is_drawn(source):
        return draw(str(source), split)
    if kind == "cifar10" and colon:
        return read_cifar(str(source), Path(rest), split)
    return read_folder(ultralytics_copy() if str(source) == "cifar10" else Path(source), str(source), split)


def held_out(source: str | Path) -> Labelled:
    """Return the pictures of the first split of val and test that is there, of train if there is neither."""
    for split in ("val", "test"):
        try:
            return read(source, split)
        except FileNotFoundError:
            continue
    return read(source, "train")


# ---- drawn on the spot ---------------------------------------------------------------------------


def is_drawn(source: str | Path) -> bool:
    """Tell whether pictures are drawn on the spot, so that no files of them exist."""
    return str(source).partition(":")[0] in DRAWN and ":" in str(source)


def draw_plan(source: str) -> tuple[str, str, dict[str, float]]:
    """Read containers:S1,train=400,size=64: what is drawn, which set of it, and its numbers.

    Raises: ValueError: there is no such set or number, or the number is out of range.
    """
    kind, _, rest = source.partition(":")
    name, *words = rest.split(",")
    known = SETS[kind]
    if name not in known:
        raise ValueError(
            f"{source}: no {kind}:{name}{suggestion(name, known)}; choose from "
            f"{', '.join(f'{kind}:{each}' for each in known)}"
        )
    numbers = dict(DRAWN[kind])
    for word in words:
        key, _, value = word.partition("=")
        if key not in numbers:
            raise ValueError(f"{source}: no number {key!r}{suggestion(key, numbers)}; choose from {', '.join(numbers)}")
        if [other.partition("=")[0] for other in words].count(key) > 1:
            raise ValueError(f"{source}: {key} is given twice; leave out one")
        if key == "rho":
            if name in WITHOUT_RHO:
                raise ValueError(f"{source}: no ground goes with an outline in contexts:{name}; leave out rho")
            numbers[key] = read_share(source, key, value)
            continue
        least = {"size": worlds.MIN_SIZE, "seed": 0}.get(key, 1)
        if not value.isdecimal() or int(value) < least:
            raise ValueError(f"{source}: {key} is {value!r}; wanted a whole number, {least} or more")
        numbers[key] = int(value)
    return kind, name, numbers


def read_share(source: str, key: str, value: str) -> float:
    """Read a number from 0 to 1 of a drawn set."""
    try:
        share = float(value)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise ValueError(f"{source}: {key} is {value!r}; wanted a share of the pictures, from 0 to 1")
    return share


@functools.lru_cache(maxsize=4)
def draw(source: str, split: str) -> Labelled:
    """Draw a split of `containers`, `contexts` or `shapes:crops`; see `read`."""
    kind, name, numbers = draw_plan(source)
    if split not in numbers:
        there = ", ".join(key for key in SPLITS if key in numbers)
        raise FileNotFoundError(f"{source} has no split {split!r}; choose from {there}")
    count, size, seed = (int(numbers[key]) for key in (split, "size", "seed"))
    if count * size * size * 3 > MOST_BYTES:
        raise ValueError(
            f"{source}: {count} pictures of {size} x {size} pixels take more than {MOST_BYTES / 2**30:g} GiB of "
            f"memory; give a smaller {split}= or size="
        )
    if kind == "containers":
        drawn = worlds.draw_containers(name, split, count, size, seed)
    elif kind == "contexts":
        drawn = worlds.draw_contexts(name, split, count, size, seed, numbers["rho"])
    else:
        drawn = worlds.draw_crops(split, count, size, seed)
    names = [
        "/".join(filter(None, [drawn.classes[label], group, f"{index:06d}"]))
        for index, (label, group) in enumerate(zip(drawn.labels, drawn.groups))
    ]
    content = [hashlib.sha256(drawn.images.tobytes()).hexdigest()]
    found = labelled(source, split, drawn.classes, drawn.labels, names, drawn.groups, drawn.images.__getitem__, content)
    if drawn.boxes is None or not any(drawn.boxes):
        return found
    return replace(found, boxes=tuple(tuple(boxes) for boxes in drawn.boxes))


# ---- from files ----------------------------------------------------------------------------------


def read_folder(folder: Path, source: str, split: str) -> Labelled:
    """Find the pictures of SPLIT/CLASS/[GROUP/]*.jpg; see `read`."""
    if not folder.is_dir():
        drawn = [f"{kind}:{name}" for kind, names in SETS.items() for name in names]
        raise FileNotFoundError(
            f"there is no folder {source}{suggestion(source, drawn)}; give a folder with train/ and val/ or test/, "
            f"each with a folder for each class, or one of {', '.join(drawn)}, cifar10:FOLDER"
        )
    if not (folder / split).is_dir():
        there = [name for name in SPLITS if (folder / name).is_dir()]
        advice = (
            f"it has {', '.join(f'{name}/' for name in there)}"
            if there
            else "it has no split at all; move its class folders into train/ and test/, or let `yolo-wnlb sort` do it"
        )
        raise FileNotFoundError(f"{source} has no folder {split}/: {advice}")
    found = class_folders(folder / split)
    learnt = class_folders(folder / "train") if split != "train" and (folder / "train").is_dir() else found
    if unknown := [name for name in found if name not in learnt]:
        raise ValueError(
            f"{source}: class {unknown[0]!r} has pictures in {split}/ and none in train/, so no classifier can know "
            f"it; put pictures into train/{unknown[0]}/, or remove {split}/{unknown[0]}/"
        )
    classes = tuple(learnt)
    if len(classes) < 2:
        raise ValueError(f"{source}: the only class is {classes[0]!r}; a classifier wants two class folders or more")
    files = [(classes.index(name), file) for name, pictures in found.items() for file in pictures]
    paths = [file.relative_to(folder / split) for _, file in files]
    pictures = labelled(
        source,
        split,
        classes,
        [label for label, _ in files],
        [path.as_posix() for path in paths],
        ["/".join(path.parts[1:-1]) for path in paths],
        Files(tuple(file for _, file in files)),
        [str(file.stat().st_size) for _, file in files],
    )
    boxes = read_boxes(folder / BOXES, [f"{split}/{name}" for name in pictures.names])
    return replace(pictures, boxes=boxes)


def read_boxes(file: Path, names: Sequence[str]) -> tuple[Boxes, ...] | None:
    """Read the boxes of the objects of pictures; None if there is no such file.

    Raises: ValueError: it holds something else than boxes, or lacks a picture.
    """
    if not file.is_file():
        return None
    content = read_json(file)
    if not isinstance(content, dict):
        raise ValueError(f"{file} is no list of boxes by picture; sort again, or remove it")
    if lacking := [name for name in names if name not in content]:
        raise ValueError(
            f"{file} lacks {len(lacking)} of {len(names)} pictures, first {lacking[0]}; sort again, or remove it"
        )
    for name in names:
        boxes = content[name]
        if not isinstance(boxes, list) or not all(is_box(box) for box in boxes):
            raise ValueError(f"{file}: {name} has {boxes!r}; wanted [[x, y, width, height], ...] in pixels")
    return tuple(tuple((box[0], box[1], box[2], box[3]) for box in content[name]) for name in names)


def is_box(box: Any) -> bool:
    """Tell whether this is x, y, width, height, all of them finite, and the sides positive."""
    return isinstance(box, list) and len(box) == 4 and all(map(is_number, box)) and min(box[2:]) > 0


@dataclass(frozen=True)
class Files:
    """Reads the pictures of a folder by their numbers; it travels to the processes that load them."""

    files: tuple[Path, ...]

    def __call__(self, number: int) -> np.ndarray:
        """Return a picture: uint8 (H, W, 3), BGR."""
        return read_picture(self.files[number])

    def check(self) -> None:
        """Refuse files whose beginning is not that of a picture that OpenCV reads.

        Raises: ValueError: names the first one.
        """
        if broken := [file for file in self.files if not cv2.haveImageReader(str(file))]:
            raise ValueError(
                f"{broken[0]} cannot be read as an image ({len(broken)} of {len(self.files)} files cannot); mend them, "
                "or leave them out"
            )


def class_folders(folder: Path) -> dict[str, list[Path]]:
    """List the pictures of each class folder, sorted by name.

    Raises: ValueError: a picture lies beside the class folders, or a class folder holds none.
    """
    from ultralytics.data.utils import IMG_FORMATS

    def is_picture(path: Path) -> bool:
        return path.suffix[1:].lower() in IMG_FORMATS and path.is_file()

    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    if loose := [path for path in entries if is_picture(path)]:
        raise ValueError(f"{loose[0]} lies in no class folder ({len(loose)} pictures do); wanted {folder}/CLASS/*.jpg")
    found = {
        path.name: sorted(filter(Path.is_file, map(Path, list_images(path, IMG_FORMATS))))
        for path in entries
        if path.is_dir()
    }
    if not found:
        raise ValueError(f"{folder} holds no class folder; wanted {folder}/CLASS/*.jpg")
    if empty := [name for name, pictures in found.items() if not pictures]:
        raise ValueError(f"{folder / empty[0]} holds no picture; put some there, or remove the folder")
    return found


def read_picture(file: Path) -> np.ndarray:
    """Read a picture in colour, upright as its EXIF says: uint8 (H, W, 3), BGR; of more than 8 bits by the curve auto.

    Raises: OSError: it cannot be read. ImportError: it is RAW, and rawpy is not installed.
    """
    try:
        if (deep := read_deep(file)) is not None:
            return deep
        stored = file.read_bytes()
        if is_avif(stored):
            return decode_avif(stored)
        image = cv2.imdecode(np.frombuffer(stored, np.uint8), cv2.IMREAD_COLOR) if stored else None
    except (cv2.error, ValueError) as error:  # too many pixels, for instance
        raise OSError(f"{file} cannot be read as an image: {' '.join(str(error).split())}") from error
    if image is None:
        raise OSError(f"{file} cannot be read as an image; leave it out or mend it")
    return image


def read_cifar(source: str, folder: Path, split: str) -> Labelled:
    """Read CIFAR-10 from its Python batches, as torchvision checks and loads them."""
    from torchvision.datasets import CIFAR10

    if split == "val":
        raise FileNotFoundError(f"{source} has no split 'val'; choose from train, test")
    folder = folder.parent if folder.name == BATCHES else folder
    try:
        data = CIFAR10(folder, train=split == "train", download=False)
    except (RuntimeError, OSError) as error:
        raise FileNotFoundError(
            f"{source}: CIFAR-10 is not in {folder / BATCHES}, or a file of it is damaged; unpack "
            "cifar-10-python.tar.gz there (https://www.cs.toronto.edu/~kriz/cifar.html)"
        ) from error
    images = np.ascontiguousarray(data.data[..., ::-1])  # RGB to BGR
    names = [f"{CIFAR[label]}/{index:05d}" for index, label in enumerate(data.targets)]
    content = [hashlib.sha256(images.tobytes()).hexdigest()]
    return labelled(source, split, CIFAR, data.targets, names, [""] * len(names), images.__getitem__, content)


def ultralytics_copy() -> Path:
    """Return the folder of Ultralytics' own copy of CIFAR-10, which it downloads if it is not there.

    Raises: OSError: it could not be downloaded.
    """
    from ultralytics.data.utils import check_cls_dataset

    try:
        return Path(check_cls_dataset("cifar10")["train"]).parent
    except Exception as error:  # whatever its downloader raises without a network
        raise OSError(
            f"cifar10: Ultralytics cannot download it ({error}); give cifar10:FOLDER of your own copy"
        ) from error


def labelled(
    source: str,
    split: str,
    classes: Sequence[str],
    labels: Sequence[int],
    names: Sequence[str],
    groups: Sequence[str],
    read: Callable[[int], np.ndarray],
    content: Sequence[str],
) -> Labelled:
    """Bring the parts of a `Labelled` together; `content` is what its digest is made of beside names and classes."""
    counts = Counter(labels)
    absent = [name for label, name in enumerate(classes) if not counts[label]]
    if absent and split == "train":
        raise ValueError(
            f"{source}: no picture of class {absent[0]!r} among {len(labels)} of train; give it more pictures"
        )
    digest = hashlib.sha256(json.dumps([list(classes), list(names), list(content)]).encode(errors="surrogateescape"))
    return Labelled(
        source=source,
        split=split,
        classes=tuple(classes),
        labels=tuple(map(int, labels)),
        names=tuple(names),
        groups=tuple(groups),
        read=read,
        digest=digest.hexdigest()[:16],
        notes=tuple(f"{split} has no picture of class {name}" for name in absent),
    )
