"""Make the data set of denoiseg-n20.yaml and dsb-few.yaml: the fluorescence pictures of the Data Science Bowl 2018.

    python scripts/grey_nuclei.py data/dsb2018/data.yaml data/dsb2018-grey

Of BBBC038 it takes what DenoiSeg calls DSB: grey pictures, nuclei bright on a dark ground (mean code below 90), from
train and val alike. Many of them are parts of one photograph. Parts whose borders go on in each other stay together: in
one split, and as one `group` of the images in the COCO annotations, by which intervals are drawn. Photographs in a
random order that is always the same become test until it has 96 pictures, then val until it has 50 (thresholds,
learning rates and best weights are chosen there; the paper has 670 patches of 128 x 128 for that). The others become
train.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import yaml
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from yolo_wnlb.data.coco import ground_truth, split_files
from yolo_wnlb.data.data_yaml import read_data_yaml
from yolo_wnlb.data.folders import read_picture
from yolo_wnlb.data.journal import appearing
from yolo_wnlb.data.sources import label_of

DARK = 90  # mean code of a picture, below which nuclei are bright on a dark ground
TEST, TUNE = 96, 50  # pictures of test and val, at least
ALIKE, APART = 0.95, 0.35  # borders that go on: least correlation, largest mean difference in standard deviations
FLAT = 3  # codes; a border with a smaller standard deviation shows nothing
OLD = ("train", "val")  # splits of the source


def main(source: str, out: Path) -> None:
    """Write images/SPLIT, labels/SPLIT, annotations/instances_SPLIT.json and data.yaml into a new folder."""
    if out.exists():
        sys.exit(f"{out} is there already; delete it, or name another folder")
    data, _ = read_data_yaml(source)
    files = [file for split in OLD for file in split_files(data, source, split) if is_fluorescence(file)]
    if len(files) <= TEST + TUNE:
        sys.exit(f"{source} has {len(files)} grey, dark pictures in train and val; wanted more than {TEST + TUNE}")
    photograph = photographs(files)
    splits = parted(photograph)
    content = {**{split: f"images/{split}" for split in splits}, "names": dict(data["names"])}
    with appearing(out, f"{out} is there already") as draft:
        for split, chosen in splits.items():
            copy(source, {file: photograph[file] for file in chosen}, draft, split)
        (draft / "data.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    told = (
        f"{split} {len(chosen)} pictures of {len({photograph[file] for file in chosen})} photographs"
        for split, chosen in splits.items()
    )
    print(", ".join(told), f"in {out}")


def is_fluorescence(file: Path) -> bool:
    """Tell whether a picture is grey and mostly dark."""
    picture = read_picture(file)
    return bool((picture == picture[..., :1]).all() and picture.mean() < DARK)


def photographs(files: Sequence[Path]) -> dict[Path, str]:
    """Return the photograph that each picture is a part of, as the name of its first picture.

    Two parts are of one where a border of one goes on in the opposite border of the other. Of DSB's 529 pictures 260
    pairs do; with one of the two borders mirrored, which leaves chance alone, 25.
    """
    files = sorted(files, key=lambda file: file.name)
    pictures = [cv2.GaussianBlur(read_picture(file)[..., 0], (0, 0), 1).astype(np.float32) for file in files]
    pairs: list[tuple[int, int]] = []
    for shape in {picture.shape for picture in pictures}:
        numbers = [number for number, picture in enumerate(pictures) if picture.shape == shape]
        stack = np.stack([pictures[number] for number in numbers])
        for ends, starts in ((stack[:, :, -1], stack[:, :, 0]), (stack[:, -1], stack[:, 0])):
            pairs += [(numbers[i], numbers[j]) for i, j in np.argwhere(go_on(ends, starts)) if i != j]
    rows, columns = np.array(pairs, int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(pairs)), (rows, columns)), (len(files), len(files)))
    _, parts = connected_components(graph, directed=False)
    first = {part: files[number].stem for number, part in reversed(list(enumerate(parts)))}
    return {file: first[part] for file, part in zip(files, parts)}


def go_on(ends: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Tell which of the borders (n, length) go on in which of the others: bool (n, n)."""
    (a, spread_a), (b, spread_b) = (
        (border - border.mean(1, keepdims=True), border.std(1)) for border in (ends, starts)
    )
    scale = np.maximum(np.outer(spread_a, spread_b), 1e-6)
    correlation = a @ b.T / ends.shape[1] / scale
    difference = np.abs(ends[:, None] - starts[None]).mean(2) / np.maximum(spread_a[:, None], 1e-6)
    return (correlation > ALIKE) & (difference < APART) & (spread_a > FLAT)[:, None] & (spread_b > FLAT)


def parted(photograph: Mapping[Path, str]) -> dict[str, list[Path]]:
    """Return the pictures of each split: whole photographs, drawn without regard to how many parts they have."""
    splits: dict[str, list[Path]] = {"train": [], "val": [], "test": []}
    for name in sorted({*photograph.values()}, key=lambda name: hashlib.sha256(name.encode()).digest()):
        split = "test" if len(splits["test"]) < TEST else "val" if len(splits["val"]) < TUNE else "train"
        splits[split] += [file for file, of in photograph.items() if of == name]
    return splits


def copy(source: str, photograph: Mapping[Path, str], out: Path, split: str) -> None:
    """Copy pictures with their labels and annotations into a split."""
    of = {file.name: name for file, name in photograph.items()}
    images: list[dict] = []
    annotations: list[dict] = []
    categories: list[dict] = []
    for truth in (ground_truth(source, old) for old in OLD):
        kept = {image["id"]: image for image in truth["images"] if Path(image["file_name"]).name in of}
        number = {old: len(images) + new for new, old in enumerate(kept, 1)}  # both splits may count from 1
        images += [
            {**image, "id": number[old], "group": of[Path(image["file_name"]).name]} for old, image in kept.items()
        ]
        for annotation in truth["annotations"]:
            if annotation["image_id"] in kept:
                new = {"id": len(annotations) + 1, "image_id": number[annotation["image_id"]]}
                annotations.append({**annotation, **new})
        categories = truth["categories"]
    for folder in ("images", "labels"):
        (out / folder / split).mkdir(parents=True)
    (out / "annotations").mkdir(exist_ok=True)
    kept_truth = {"images": images, "annotations": annotations, "categories": categories}
    (out / "annotations" / f"instances_{split}.json").write_text(json.dumps(kept_truth), encoding="utf-8")
    for file in photograph:
        shutil.copyfile(file, out / "images" / split / file.name)
        if (label := Path(label_of(str(file)))).is_file():
            shutil.copyfile(label, out / "labels" / split / label.name)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], Path(sys.argv[2]))
