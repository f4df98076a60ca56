"""Make a copy of a data set whose pictures are as small as a model sees them.

    python scripts/resize_pictures.py data/coco-subset/data.yaml data/coco-subset-192 192

`lowlight=` in a training darkens each picture after it was resized to imgsz. A picture that is darkened as it lies and
resized afterwards has less noise, because resizing averages it away: at a third of the size a third of it is left. To
judge a training on the darkness that it was trained on, resize first and darken then.

The longer side gets the given number of pixels, as Ultralytics resizes; pictures are written as PNG, labels are copied.
COCO annotations are not: their coordinates are pixels.
"""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from pathlib import Path

import yaml

from yolo_wnlb.adapt.pictures import size_within, write_picture
from yolo_wnlb.data.coco import split_files
from yolo_wnlb.data.data_yaml import read_data_yaml
from yolo_wnlb.data.sources import SPLITS, label_of
from yolo_wnlb.yolo.models import read_picture


def main(source: str, out: Path, imgsz: int) -> None:
    """Write images/SPLIT, labels/SPLIT and data.yaml into a new folder."""
    data, _ = read_data_yaml(source)
    splits = [split for split in SPLITS if data.get(split)]
    if out.exists():
        sys.exit(f"{out} exists; give a new folder")
    for split in splits:
        files = split_files(data, source, split)
        if twice := [name for name, number in Counter(file.stem for file in files).items() if number > 1]:
            sys.exit(f"{source}: the split {split} has several pictures named {twice[0]}; give each another name")
        (out / "images" / split).mkdir(parents=True)
        (out / "labels" / split).mkdir(parents=True)
        for file in files:
            write_picture(out / "images" / split / f"{file.stem}.png", size_within(read_picture(file, 3), imgsz))
            if (label := Path(label_of(str(file)))).is_file():
                shutil.copyfile(label, out / "labels" / split / label.name)
    content = {**{split: f"images/{split}" for split in splits}, "names": dict(data["names"])}
    (out / "data.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


if __name__ == "__main__":
    if len(sys.argv) != 4 or not sys.argv[3].isdigit():
        sys.exit(__doc__)
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
