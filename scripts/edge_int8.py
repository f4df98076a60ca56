r"""How much mask AP does an int8 export keep, calibrated on day pictures or on dark ones? One row a model.

    python scripts/edge_int8.py softmax=a.pt dot=b.pt plain=c.pt --day day/data.yaml --dark dark/data.yaml \
        --data val-dark/data.yaml --out runs/edge --imgsz 320

Each model is exported by Ultralytics to int8, once for each format, calibration set and seed; a seed draws which
pictures of the set calibrate. `--stock` exports without what yolo_wnlb adds, so that the products of the blocks are
int8 too. With `--fp16` each model is exported in half precision instead, and compared number by number as well.

A measured cell is a file of --out; run the same line again to go on, with --cells 1 to measure one cell only. The
tables are made of all cells, and written to table.md there. A cell keeps what it depends on: hashes of the weights, of
the labelled pictures and their labels, and of the pictures that calibrated it. A line that names others is refused.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import json
import random
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from ultralytics import YOLO

from yolo_wnlb.data import coco
from yolo_wnlb.data.journal import replaced
from yolo_wnlb.detectors import ultralytics as detector
from yolo_wnlb.detectors.exported_ap import load_pair
from yolo_wnlb.metrics.average_precision import Evaluation, evaluate
from yolo_wnlb.metrics.bootstrap import paired_bootstrap
from yolo_wnlb.reading import read_json, sha256_of
from yolo_wnlb.yolo import int8
from yolo_wnlb.yolo.models import load_checkpoint
from yolo_wnlb.yolo.parity import check_export

STRIDE = 32  # of the models: Ultralytics rounds other sizes up
ORIGIN = {  # what a cell depends on, and what a message calls it
    "weights": "weights",
    "data": "labelled pictures",
    "split": "--split",
    "pictures": "--pictures",
    "calibration": "pictures to calibrate on",
}
CELL = {"model", "format", "calibration", "seed", "products", "imgsz", "checkpoint", "export", "of"}


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
    if wrong := [word for word in args.models if not re.fullmatch(r"[\w.+-]+=.+", word)]:
        parser.error(f"{wrong[0]!r} is no NAME=FILE.pt, with a name of letters, digits and _ . + -")
    models = dict(word.split("=", 1) for word in args.models)
    if len(models) < len(args.models):
        parser.error("two models have one name; the table could not tell them apart")
    sets = {name: getattr(args, name) for name in ("day", "dark") if getattr(args, name)}
    if not sets and not args.fp16:
        parser.error("wanted --day or --dark, or --fp16")
    if args.imgsz < STRIDE or args.imgsz % STRIDE:
        parser.error(f"--imgsz is {args.imgsz}; wanted a multiple of {STRIDE}")
    if min(args.pictures, args.seeds) < 1 or (args.cells is not None and args.cells < 0):
        parser.error("--pictures and --seeds have to be 1 or more, and --cells 0 or more")
    try:
        print(run(args, models, sets))
    except (OSError, ValueError, ImportError) as error:
        print(f"{parser.prog}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def run(args: argparse.Namespace, models: dict[str, str], sets: dict[str, str]) -> str:
    """Check what is given, measure the cells that are missing, and return the tables.

    Raises: OSError, ValueError: something is missing, or a file of --out is not of this command; before the first cell.
    """
    for name, weights in models.items():
        if not weights.endswith(".pt") or not Path(weights).is_file():
            raise ValueError(f"{name}={weights}: there is no such checkpoint, .pt")
    args.out.mkdir(parents=True, exist_ok=True)
    truth = coco.ground_truth(args.data, args.split)
    pictures = Pictures(truth, coco.image_files(truth, args.data, args.split))
    origin = Origin(args, models, sets, pictures)
    kinds: Any = [("fp16", 0)] if args.fp16 else itertools.product(sets, range(args.seeds))
    jobs = list(itertools.product(models, args.formats, kinds))
    for _, _, (calibration, seed) in jobs:
        origin.drawn(calibration, seed)
    for file in sorted(args.out.glob("cell-*.json")):
        origin.check_cell(file)
    for model in models:
        if (known := evaluated(args, model)).exists():
            origin.check(known, Evaluation.from_json(known).protocol.get("of"), origin.of_checkpoint(model))
    missing = [(*job, file) for job in jobs if not (file := place(args, *job)).exists()][: args.cells]
    for model in dict.fromkeys(model for model, *_ in missing):
        check_model(models[model], truth)
    for model, format, (calibration, seed), file in missing:
        drawn = origin.drawn(calibration, seed)
        found = measure(args, pictures, (model, models[model]), format, drawn, origin.of_checkpoint(model))
        cell = {"model": model, "format": format, "calibration": calibration, "seed": seed, **found}
        cell |= {"products": "int8" if args.stock else "float", "imgsz": args.imgsz}
        with replaced(file) as draft:
            draft.write_text(json.dumps({**cell, "of": origin.of_cell(model, calibration, seed)}))
    table = tables([json.loads(file.read_text()) for file in sorted(args.out.glob("cell-*.json"))])
    (args.out / "table.md").write_text(table, encoding="utf-8")
    return table


def check_model(file: str, truth: Any) -> None:
    """Raise OSError or ValueError unless a checkpoint is readable, and finds masks of the classes of a truth."""
    model = load_checkpoint(Path(file))
    if model.task != "segment":
        raise ValueError(f"{file} is a model for '{model.task}'; wanted one for segment, for the AP of masks")
    coco.class_map(model.names, truth, allow_missing=True)


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


class Origin:
    """What the cells of a command depend on. Cells that differ in it do not belong into one table.

    Args:
        args: The command line.
        models: {name: checkpoint}.
        sets: {"day" or "dark": data set to calibrate on}.
        pictures: What is measured on.
    """

    def __init__(
        self, args: argparse.Namespace, models: dict[str, str], sets: dict[str, str], pictures: Pictures
    ) -> None:
        self.args, self.sets = args, sets
        self.weights = {name: sha256_of(Path(file)) for name, file in models.items()}
        self.data = f"{coco.digest(args.data, args.split)} {content_of(pictures.files.values())}"
        self.files: dict[str, list[Path]] = {}
        self.digests: dict[tuple[str, int], str] = {}

    def drawn(self, calibration: str, seed: int) -> list[Path]:
        """Return the pictures that calibrate, drawn from a set by a seed; none where the set is not given.

        Raises: OSError, ValueError: the set cannot be read, or has fewer pictures than are wanted.
        """
        if calibration not in self.sets:
            return []
        source, split, count = self.sets[calibration], self.args.calibrate_on, self.args.pictures
        if calibration not in self.files:
            found = coco.image_files(coco.ground_truth(source, split), source, split)
            self.files[calibration] = sorted(found.values())
        files = self.files[calibration]
        if len(files) < count:
            raise ValueError(f"{source} has {len(files)} pictures in {split}, and --pictures is {count}")
        return random.Random(seed).sample(files, count)

    def of_checkpoint(self, model: str) -> dict[str, Any]:
        """Return what the AP of a checkpoint depends on; without its weights, where the command does not name it."""
        weights = {"weights": self.weights[model]} if model in self.weights else {}
        return {**weights, "data": self.data, "split": self.args.split}

    def of_cell(self, model: str, calibration: str, seed: int) -> dict[str, Any]:
        """Return what a cell depends on, as far as the command says it."""
        found = self.of_checkpoint(model)
        if calibration != "fp16" and not self.args.fp16:
            found["pictures"] = self.args.pictures
            if calibration in self.sets:
                if (calibration, seed) not in self.digests:
                    self.digests[calibration, seed] = content_of(self.drawn(calibration, seed))
                found["calibration"] = self.digests[calibration, seed]
        return found

    def check_cell(self, file: Path) -> None:
        """Raise ValueError unless a file is a cell that belongs into the table of this command."""
        cell = read_json(file)
        whole = isinstance(cell, dict) and cell.keys() >= CELL
        wanted = self.of_cell(cell["model"], cell["calibration"], cell["seed"]) if whole else {}
        self.check(file, cell["of"] if whole else None, wanted)

    def check(self, file: Path, found: Any, wanted: dict[str, Any]) -> None:
        """Raise ValueError unless a file depends on what is wanted."""
        remedy = "give another --out, or remove this file"
        if not isinstance(found, dict):
            raise ValueError(f"{file} does not say what it was measured on; {remedy}")
        if other := [ORIGIN[key] for key, value in wanted.items() if found.get(key) != value]:
            raise ValueError(f"{file} is of other {', '.join(other)} than this command names; {remedy}")


def content_of(files: Iterable[Path]) -> str:
    """Reduce the contents of files, in this order, to a short hash."""
    return hashlib.sha256("".join(map(sha256_of, files)).encode()).hexdigest()[:16]


def evaluated(args: argparse.Namespace, model: str) -> Path:
    """Return the file of the evaluation of a checkpoint."""
    return args.out / f"checkpoint-{model}-{args.imgsz}.json"


def place(args: argparse.Namespace, model: str, format: str, kind: tuple[str, int]) -> Path:
    """Return the file of a cell."""
    words = ("cell", model, format, *map(str, kind), str(args.imgsz), *(["stock"] if args.stock else []))
    return args.out / f"{'-'.join(words)}.json"


def measure(
    args: argparse.Namespace,
    pictures: Pictures,
    model: tuple[str, str],
    format: str,
    calibration: list[Path],
    of: dict[str, Any],
) -> dict[str, Any]:
    """Export a model, and compare its AP with that of the checkpoint; fp16 is compared number by number too.

    Args:
        args: The command line.
        pictures: To measure on.
        model: Name and file of the checkpoint.
        format: Of the export.
        calibration: Pictures to calibrate on; none for fp16.
        of: What the AP of the checkpoint depends on, kept with it.
    Raises: OSError, ValueError: a file cannot be read or written, or the export has another size.
    """
    name, weights = model
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copy(weights, Path(folder) / "model.pt")
        options: dict[str, Any] = {"format": format, "imgsz": args.imgsz, "batch": 1, "verbose": False}
        options["half" if args.fp16 else "int8"] = True
        if calibration:
            names = {i: category["name"] for i, category in enumerate(pictures.truth["categories"])}
            options["data"] = str(gather(calibration, names, Path(folder) / "calibration"))
        with quantised_products() if args.stock else contextlib.nullcontext():
            exported = YOLO(copy).export(**options)
        before, after = load_pair(copy, exported)
        if after.size != (args.imgsz, args.imgsz):
            raise ValueError(f"{weights} was exported at {after.size[0]} pixels, and --imgsz is {args.imgsz}")
        if not (known := evaluated(args, name)).exists():
            first = pictures.evaluate(before)
            first.protocol["of"] = of
            first.to_json(known)
        checkpoint, export = Evaluation.from_json(known), pictures.evaluate(after)
        difference = paired_bootstrap(checkpoint, export)
        found: dict[str, Any] = {"checkpoint": checkpoint.masks["AP"], "export": export.masks["AP"]}
        found |= {"low": difference.low, "high": difference.high}
        if args.fp16:
            parity = check_export(copy, exported)
            found |= {"precision": parity.precision, "difference": parity.difference, "ok": parity.ok}
        return found


def gather(files: list[Path], names: dict[int, str], folder: Path) -> Path:
    """Copy pictures into a folder, numbered, for two may have one name, and write a data YAML for them."""
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for number, file in enumerate(files):
        shutil.copy(file, folder / "images" / f"{number:06d}{file.suffix}")
        (folder / "labels" / f"{number:06d}.txt").touch()  # calibration reads no labels
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
        shares = {name: {s: kept(c) for s, c in by.items()} for name, by in found.items()}
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
        off = cell["difference"]
        numbers = [f"{off.get(name, float('nan')):.2g}" for name in ("scores", "boxes", "prototypes")]
        words = [cell["model"], cell["format"], cell["imgsz"], cell["precision"], spread([kept(cell)], " %"), *numbers]
        lines.append(f"| {' | '.join(map(str, words))} | {'OK' if cell['ok'] else 'FAILED'} |")
    return "\n".join(lines)


def kept(cell: dict[str, Any]) -> float:
    """Return the share of AP that an export keeps; not a number where its checkpoint has none to keep."""
    return cell["export"] / cell["checkpoint"] if cell["checkpoint"] > 0 else float("nan")


def spread(values: list[float], unit: str = "") -> str:
    """Write mean, smallest and largest of shares, in per cent; "-" where they are not numbers."""
    if np.isnan(values).any():
        return "-"
    low, mean, high = (100 * value for value in (min(values), float(np.mean(values)), max(values)))
    return f"{mean:.1f} ({low:.1f} to {high:.1f})" if len(values) > 1 else f"{mean:.1f}{unit}"


if __name__ == "__main__":
    sys.exit(main())
