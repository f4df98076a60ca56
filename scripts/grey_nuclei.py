"""Make the data set of denoiseg-n20.yaml and dsb-few.yaml: the fluorescence pictures of the Data Science Bowl 2018.

    python scripts/grey_nuclei.py data/dsb2018/data.yaml data/dsb2018-grey

Of BBBC038 it takes what DenoiSeg calls DSB: grey pictures, nuclei bright on a dark ground (mean code below 90). Those
of val become test; 50 of train, evenly spaced by name, become val, where thresholds, learning rates and best weights
are chosen (the paper has 670 patches of 128 x 128 for that); the others stay train. Pictures, labels and COCO
annotations are copied as they are.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from yolo_wnlb.data.coco import ground_truth, split_files
from yolo_wnlb.data.data_yaml import read_data_yaml
from yolo_wnlb.data.folders import read_picture
from yolo_wnlb.data.journal import appearing
from yolo_wnlb.data.sources import label_of, spread

DARK = 90  # mean code of a picture, below which nuclei are bright on a dark ground
TUNE = 50  # pictures of the new val


def main(source: str, out: Path) -> None:
    """Write images/SPLIT, labels/SPLIT, annotations/instances_SPLIT.json and data.yaml into a new folder."""
    if out.exists():
        sys.exit(f"{out} is there already; delete it, or name another folder")
    data, _ = read_data_yaml(source)
    learnt, judged = (
        [file for file in split_files(data, source, split) if is_fluorescence(file)] for split in ("train", "val")
    )
    if len(learnt) <= TUNE or not judged:
        sys.exit(
            f"{source} has {len(learnt)} grey, dark pictures in train and {len(judged)} in val; wanted more than "
            f"{TUNE}, and some"
        )
    tune = spread(learnt, TUNE)
    splits = {"train": sorted({*learnt} - {*tune}), "val": tune, "test": judged}
    content = {**{split: f"images/{split}" for split in splits}, "names": dict(data["names"])}
    with appearing(out, f"{out} is there already") as draft:
        for split, files in splits.items():
            copy(source, "val" if split == "test" else "train", files, draft, split)
        (draft / "data.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    print(", ".join(f"{split} {len(files)} pictures" for split, files in splits.items()), f"in {out}")


def is_fluorescence(file: Path) -> bool:
    """Tell whether a picture is grey and mostly dark."""
    picture = read_picture(file)
    return bool((picture == picture[..., :1]).all() and picture.mean() < DARK)


def copy(source: str, old: str, files: Sequence[Path], out: Path, split: str) -> None:
    """Copy pictures with their labels and annotations into a split."""
    truth = ground_truth(source, old)
    names = {file.name for file in files}
    images = [image for image in truth["images"] if Path(image["file_name"]).name in names]
    ids = {image["id"] for image in images}
    annotations = [annotation for annotation in truth["annotations"] if annotation["image_id"] in ids]
    kept = {"images": images, "annotations": annotations, "categories": truth["categories"]}
    for folder in ("images", "labels"):
        (out / folder / split).mkdir(parents=True)
    (out / "annotations").mkdir(exist_ok=True)
    (out / "annotations" / f"instances_{split}.json").write_text(json.dumps(kept), encoding="utf-8")
    for file in files:
        shutil.copyfile(file, out / "images" / split / file.name)
        if (label := Path(label_of(str(file)))).is_file():
            shutil.copyfile(label, out / "labels" / split / label.name)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], Path(sys.argv[2]))
