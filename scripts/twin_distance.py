r"""How far are the features of dark pictures from those of their bright twins? A table over models.

    python scripts/twin_distance.py yolov8n-seg.pt runs/compare/coco-dark imgsz=192 \
        bright=data/coco/data.yaml dark=dark/coco/data.yaml

The first model sees the bright pictures; it and all others see the dark ones, which have the same names. A folder
stands for a study: each of its rows that trained a YOLO is measured with all of its seeds. Prints a Markdown table of
mean((f - t)^2) / var(t) at the ends of the stages P3, P4 and P5 (behind a block, where one follows) and at the inputs
of the head, mean over the seeds: 0 is the sight of the first model by day, about 2 that of another picture.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from yolo_wnlb.adapt.agreement import feature_distances
from yolo_wnlb.adapt.pictures import size_within, write_picture
from yolo_wnlb.data.coco import data_set, split_files
from yolo_wnlb.reading import read_json
from yolo_wnlb.study.plan import YOLO
from yolo_wnlb.study.runs import runs_of
from yolo_wnlb.yolo.models import load_checkpoint, read_picture


def main(words: list[str]) -> None:
    """Print the table."""
    options = dict(word.split("=", 1) for word in words if "=" in word)
    models = [Path(word) for word in words if "=" not in word]
    if unknown := {*options} - {"bright", "dark", "split", "imgsz"}:
        sys.exit(f"no option {', '.join(sorted(unknown))}; choose from bright, dark, split, imgsz")
    if not models or not {"bright", "dark"} <= {*options}:
        sys.exit(__doc__)
    teacher = load_checkpoint(models[0]).model
    with tempfile.TemporaryDirectory() as folder:
        bright, dark = (
            resized(options[which], options.get("split", "val"), int(options.get("imgsz", 640)), Path(folder, which))
            for which in ("bright", "dark")
        )
        if {file.name for file in bright.values()} != {file.name for file in dark.values()}:
            sys.exit("the bright and the dark pictures have other names; give a data set and its darkened copy")
        by_name = {file.name: file for file in dark.values()}
        twins = {number: by_name[file.name] for number, file in bright.items()}
        rows = dict[str, list[dict[str, float]]]()
        for name, file in [(models[0].stem, models[0]), *trained(models[1:])]:
            model = load_checkpoint(file).model
            rows.setdefault(name, []).append(feature_distances(teacher, model, bright, twins, channels=3))
    levels = [*next(iter(rows.values()))[0]]
    print(f"| model | {' | '.join(levels)} |\n|---|{'---|' * len(levels)}")
    for name, seeds in rows.items():
        means = [sum(seed[level] for seed in seeds) / len(seeds) for level in levels]
        print(f"| {name} | {' | '.join(f'{mean:.3g}' for mean in means)} |", flush=True)


def resized(source: str, split: str, imgsz: int, folder: Path) -> dict[int, Path]:
    """Write the pictures of a data set as a model sees them, without loss: {number: file}."""
    folder.mkdir()
    written = {}
    for number, file in enumerate(split_files(data_set(source, split), source, split)):
        written[number] = folder / f"{file.stem}.png"
        write_picture(written[number], size_within(read_picture(file, 3), imgsz))
    return written


def trained(models: list[Path]) -> Iterator[tuple[str, Path]]:
    """Yield the name and the file of each model, and of each run of a study that trained a YOLO."""
    for model in models:
        if not model.is_dir():
            yield model.stem, model
            continue
        for run in runs_of(read_json(model / "table.json")["study"], model):
            if "train" in run.spec and run.spec["detector"] == YOLO:
                yield run.row, run.folder / "last.pt"


if __name__ == "__main__":
    main(sys.argv[1:])
