"""How much mask AP does an int8 export keep, calibrated on day pictures or on dark ones? One row a model.

    python scripts/edge_int8.py softmax=a.pt dot=b.pt plain=c.pt --day day/data.yaml --dark dark/data.yaml
        --data val-dark/data.yaml --out runs/edge --imgsz 320

Each model is exported by Ultralytics to int8, once for each format, calibration set and seed; a seed draws which
pictures of the set calibrate. `--stock` exports without what yolo_wnlb adds, so that the products of the blocks are
int8 too. With `--fp16` each model is exported in half precision instead, and compared number by number as well.

A measured cell is a file of --out; run the same line again to go on, with --cells 1 to measure one cell only. The
tables are made of all cells, and written to table.md there.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from ultralytics import YOLO

from yolo_wnlb.data import coco
from yolo_wnlb.detectors import ultralytics as detector
from yolo_wnlb.detectors.exported_ap import load_pair
from yolo_wnlb.metrics.average_precision import Evaluation, evaluate
from yolo_wnlb.metrics.bootstrap import paired_bootstrap
from yolo_wnlb.yolo import int8
from yolo_wnlb.yolo.parity import check_export


def main() -> int:
    """Read the command line, measure the cells that are missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="NAME=FILE.pt", help="checkpoints, and what the table calls them")
    parser.add_argument("--day", metavar="DATA.yaml", help="day pictures to calibrate on")
    parser.add_argument("--dark", metavar="DATA.yaml", help="dark ones, made by yolo-wnlb darken ... limit=512")
    parser.add_argument("--data", required=True, metavar="DATA.yaml", help="labelled pictures to measure on")
    parser.add_argument("--split", default="val", help="of --data")
    parser.add_argument("--calibrate-on", default="train", help="split of --day and --dark")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the cells are kept")
    parser.add_argument("--imgsz", type=int, default=192, help="size of the exports, in pixels")
    parser.add_argument("--pictures", type=int, default=128, help="to calibrate on, drawn anew for each seed")
    parser.add_argument("--seeds", type=int, default=3, help="of the calibration pictures")
    parser.add_argument("--formats", nargs="+", default=["onnx", "openvino"], choices=["onnx", "openvino"])
    parser.add_argument("--stock", action="store_true", help="quantise the products of the blocks too")
    parser.add_argument("--fp16", action="store_true", help="half precision instead of int8")
    parser.add_argument("--cells", type=int, help="measure so many cells, then end")
    args = parser.parse_args()
    models = dict(model.split("=", 1) for model in args.models if "=" in model)
    sets = {name: getattr(args, name) for name in ("day", "dark") if getattr(args, name)}
    if len(models) < len(args.models) or not (sets or args.fp16):
        parser.error("wanted models as NAME=FILE.pt, and --day or --dark unless --fp16 is given")
    args.out.mkdir(parents=True, exist_ok=True)
    truth = coco.ground_truth(args.data, args.split)
    pictures = Pictures(truth, coco.image_files(truth, args.data, args.split))
    kinds: Any = [("fp16", 0)] if args.fp16 else itertools.product(sets, range(args.seeds))
    jobs = list(itertools.product(models, args.formats, kinds))
    missing = [(*job, file) for job in jobs if not (file := place(args, *job)).exists()]
    for model, format, (calibration, seed), file in missing[: args.cells]:
        found = measure(args, pictures, (model, models[model]), format, (sets.get(calibration), seed))
        cell = {"model": model, "format": format, "calibration": calibration, "seed": seed, **found}
        file.write_text(json.dumps({**cell, "products": "int8" if args.stock else "float", "imgsz": args.imgsz}))
    table = tables([json.loads(file.read_text()) for file in sorted(args.out.glob("cell-*.json"))])
    (args.out / "table.md").write_text(table, encoding="utf-8")
    print(table)
    return 0


class Pictures:
    """The labelled pictures, and the evaluation of a model on them.

    Args:
        truth: As `coco.ground_truth` returns it.
        files: {image id: file}.
    """

    def __init__(self, truth: Any, files: dict[Any, Path]) -> None:
        self.truth, self.files = truth, files

    def evaluate(self, model: detector.Model) -> Evaluation:
        """Return the AP of a model's masks."""
        classes = coco.class_map(detector.names(model), self.truth, allow_missing=True)
        found = detector.predict(model, self.files, classes)
        return evaluate(self.truth, found, iou_types=["segm"], protocol=detector.describe(model))


def place(args: argparse.Namespace, model: str, format: str, kind: tuple[str, int]) -> Path:
    """Return the file of a cell."""
    words = ("cell", model, format, *map(str, kind), str(args.imgsz), *(["stock"] if args.stock else []))
    return args.out / f"{'-'.join(words)}.json"


def measure(
    args: argparse.Namespace, pictures: Pictures, model: tuple[str, str], format: str, kind: tuple[str | None, int]
) -> dict[str, Any]:
    """Export a model, and compare its AP with that of the checkpoint; fp16 is compared number by number too."""
    name, weights = model
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copy(weights, Path(folder) / "model.pt")
        options: dict[str, Any] = {"format": format, "imgsz": args.imgsz, "batch": 1, "verbose": False}
        options["half" if args.fp16 else "int8"] = True
        if kind[0] is not None:
            options["data"] = str(
                draw(kind[0], args.calibrate_on, args.pictures, kind[1], Path(folder) / "calibration")
            )
        with quantised_products() if args.stock else contextlib.nullcontext():
            exported = YOLO(copy).export(**options)
        before, after = load_pair(copy, exported)
        known = args.out / f"checkpoint-{name}-{args.imgsz}.json"
        if not known.exists():
            pictures.evaluate(before).to_json(known)
        checkpoint, export = Evaluation.from_json(known), pictures.evaluate(after)
        difference = paired_bootstrap(checkpoint, export)
        found: dict[str, Any] = {"checkpoint": checkpoint.masks["AP"], "export": export.masks["AP"]}
        found |= {"low": difference.low, "high": difference.high}
        if args.fp16:
            parity = check_export(copy, exported)
            found |= {"precision": parity.precision, "difference": parity.difference, "ok": parity.ok}
        return found


def draw(data: str, split: str, count: int, seed: int, folder: Path) -> Path:
    """Copy so many pictures of a data set, drawn by a seed, into a folder, and write a data YAML for them.

    Raises: ValueError: the set has fewer.
    """
    truth = coco.ground_truth(data, split)
    files = sorted(coco.image_files(truth, data, split).values())
    if len(files) < count:
        raise ValueError(f"{data} has {len(files)} pictures in {split}, and --pictures is {count}")
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for file in random.Random(seed).sample(files, count):
        shutil.copy(file, folder / "images" / file.name)
        (folder / "labels" / f"{file.stem}.txt").touch()  # calibration reads no labels
    names = {i: category["name"] for i, category in enumerate(truth["categories"])}
    content = {"path": str(folder), "train": "images", "val": "images", "names": names}
    (folder / "data.yaml").write_text(yaml.safe_dump(content))
    return folder / "data.yaml"


@contextlib.contextmanager
def quantised_products() -> Iterator[None]:
    """Let exports quantise the matrix products of the blocks, as Ultralytics does by itself."""
    ours = int8.products_in_float
    int8.products_in_float = lambda model, format: contextlib.nullcontext()  # type: ignore[assignment, return-value]
    try:
        yield
    finally:
        int8.products_in_float = ours


def tables(cells: list[dict[str, Any]]) -> str:
    """Write the cells as Markdown: a row for each model, format, size and treatment of the products."""
    lines = ["| model | format | px | products | mask AP | kept, day | kept, dark | dark - day, over seeds |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    rows: dict[Any, dict[str, dict[int, dict[str, Any]]]] = {}
    for cell in (cell for cell in cells if cell["calibration"] != "fp16"):
        key = (cell["model"], cell["format"], cell["imgsz"], cell["products"])
        rows.setdefault(key, {}).setdefault(cell["calibration"], {})[cell["seed"]] = cell
    for key, found in rows.items():
        shares = {name: {s: c["export"] / c["checkpoint"] for s, c in by.items()} for name, by in found.items()}
        texts = [spread(list(shares[name].values())) if name in shares else "-" for name in ("day", "dark")]
        both = sorted(set(shares.get("day", {})) & set(shares.get("dark", {})))
        texts.append(spread([shares["dark"][seed] - shares["day"][seed] for seed in both]) if both else "-")
        before = next(iter(next(iter(found.values())).values()))["checkpoint"]
        lines.append(f"| {' | '.join(map(str, key))} | {100 * before:.2f} | {' | '.join(texts)} |")
    lines += ["", "Shares of the checkpoint's mask AP in per cent: mean over the seeds (smallest to largest).", ""]
    halves = [cell for cell in cells if cell["calibration"] == "fp16"]
    if halves:
        lines += [
            "| fp16 | format | px | computed in | kept | scores | boxes, px | masks | verdict |",
            "|---" * 9 + "|",
        ]
    for cell in halves:
        off, kept = cell["difference"], 100 * cell["export"] / cell["checkpoint"]
        numbers = [f"{off.get(name, float('nan')):.2g}" for name in ("scores", "boxes", "prototypes")]
        words = [cell["model"], cell["format"], cell["imgsz"], cell["precision"], f"{kept:.1f} %", *numbers]
        lines.append(f"| {' | '.join(map(str, words))} | {'OK' if cell['ok'] else 'FAILED'} |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Write mean, smallest and largest of shares, in per cent."""
    low, mean, high = (100 * value for value in (min(values), float(np.mean(values)), max(values)))
    return f"{mean:.1f} ({low:.1f} to {high:.1f})" if len(values) > 1 else f"{mean:.1f}"


if __name__ == "__main__":
    sys.exit(main())
