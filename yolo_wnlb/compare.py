"""Does it help? One study, many detectors, the same pictures, the same budget, one table: `yolo-wnlb compare`.

    STUDY.yaml -> cells (row x seed) --train, predict, evaluate, each in a process of its own--> cell.json
    all cells -> paired differences against a baseline, with intervals -> table.md, .csv, .json, .png

A study names the data, the seeds and the training of each kind of detector once, so that no two rows
of a table can differ in them. A cell that is done is never done again; one that was interrupted
starts anew, so that the table is the same whatever happened on the way. Example:

    darken:                # data sets made first, where they are not there: settings of `yolo-wnlb darken`
      dark: {source: bright/data.yaml, preset: severe}
    data: dark/data.yaml
    split: val
    seeds: [0, 1, 2]
    train:                 # arguments of `yolo train`, or of `detectors.fit.fit` and `detectors.torchvision.build`
      yolo: {epochs: 10, imgsz: 256, batch: 8, optimizer: AdamW, lr0: 0.0005}
    rows:
      clean: {model: yolov8n-seg.yaml, data: bright/data.yaml, train: {epochs: 24}}
      brightened: {weights: clean, enhance: clahe}
      fine-tuned: {model: yolov8n-seg.yaml, start: clean}
      wNLB: {model: yolov8n-seg.yaml, start: clean, after: [P3, P4, P5], block: {sub_sample: 2}}
    baseline: fine-tuned   # or a list, one row of each detector: detectors are not compared with each other

What a row can say:

    detector   yolo (default), maskrcnn, maskrcnn_v2, solov2, solov2_light
    model      a model YAML to train (yolo)
    weights    what to evaluate as it is, or the row that trained it
    start      weights to start from, or the row that trained them; of another study: FOLDER/clean-{seed}/last.pt
    data       to train on, if not the study's
    train      a budget of its own, for rows that others start from
    options    more arguments of the training, for this row alone
    after      stages P2 ... P5 that a block is inserted after
    block      options of `WNLB`: one mapping for all stages, or one for each
    enhance    an enhancer (docs/enhancers.md) in front: of the study's pictures, in training and evaluation
"""

from __future__ import annotations

import csv
import inspect
import json
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from yolo_wnlb import coco, journal
from yolo_wnlb.bootstrap import draws, resampled
from yolo_wnlb.builder import darken_dataset
from yolo_wnlb.enhance import decode, enhance_dataset, enhancer
from yolo_wnlb.evaluate import Evaluation, evaluate
from yolo_wnlb.grafting import graft, load_yaml, to_yaml
from yolo_wnlb.lowlight import meant
from yolo_wnlb.sources import listed

KEYS: dict[str, Any] = {
    "darken": {},
    "data": None,
    "split": "val",
    "seeds": (0,),
    "train": {},
    "rows": None,
    "baseline": None,
}
ROW = ("detector", "model", "weights", "start", "data", "train", "options", "after", "block", "enhance")
STAGES = ("P2", "P3", "P4", "P5")
YOLO = "yolo"
RECORD, SPEC, LOG, RESULT = "cell.json", "spec.json", "log.txt", "evaluation.json"
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
DRAWS = 1000  # of the images, for the intervals
TIMED = 30  # images for the latency, after 5 to warm up


@dataclass(frozen=True)
class Cell:
    """One row of the table with one seed. `spec` is all that its result depends on."""

    row: str
    seed: int | None
    folder: Path
    spec: dict[str, Any]
    after: str | None = None  # the row whose cell of this seed has to be there

    @property
    def name(self) -> str:
        """Row and seed, as the user says them."""
        return self.row if self.seed is None else f"{self.row}, seed {self.seed}"

    @property
    def record(self) -> dict[str, Any] | None:
        """What the cell left behind when it was done; None before.

        Raises: ValueError: it was done under other conditions.
        """
        try:
            record: dict[str, Any] = json.loads((self.folder / RECORD).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        if other := differences(record["spec"], self.spec):
            raise ValueError(
                f"{self.folder} was run with another {other}; unlike runs have no place in one table: choose another "
                "out=, or delete that folder to run it again"
            )
        return record


# ---- the study -----------------------------------------------------------------------------------


def read_study(study: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """Read and check a study.

    Raises: ValueError: a key is unknown or missing, a row starts from one that is not there, or has a
        budget of its own although it is compared.
    """
    if isinstance(study, (str, Path)):
        import yaml

        file = Path(study)
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise FileNotFoundError(f"there is no study {file}; {__name__} shows how to write one") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{file} is no study, it cannot be read: {error}") from error
    else:
        content, file = dict(study), Path("study")
    if not isinstance(content, dict) or (lack := [key for key in ("data", "rows") if not content.get(key)]):
        raise ValueError(f"{file} is no study: it lacks {', '.join(lack) if isinstance(content, dict) else 'all keys'}")
    if unknown := [key for key in content if key not in KEYS]:
        raise ValueError(f"{file}: no key {unknown[0]}{meant(unknown[0], KEYS)}; choose from {', '.join(KEYS)}")
    content = {**KEYS, **content}
    for folder, how in content["darken"].items():
        if not isinstance(how, dict) or "source" not in how:
            raise ValueError(f"{file}, darken: {folder} is {how}; wanted {{source: bright/data.yaml, preset: severe}}")
    rows = {str(name): dict(row or {}) for name, row in content["rows"].items()}
    sources = {source_of(row) for row in rows.values()}
    for name, row in rows.items():
        if unknown := [key for key in row if key not in ROW]:
            raise ValueError(
                f"{file}, row '{name}': no key {unknown[0]}{meant(unknown[0], ROW)}; choose from {', '.join(ROW)}"
            )
        row.setdefault("detector", YOLO)
        if ("weights" in row and "model" in row) or (row["detector"] == YOLO and not {"weights", "model"} & row.keys()):
            raise ValueError(f"{file}, row '{name}' wants weights: to evaluate, or model: to train, and not both")
        if row.get("train") and name not in sources:
            raise ValueError(
                f"{file}, row '{name}' has a budget of its own, and would stand in one table with others; "
                "give train: for the detector, or write a second study"
            )
        source = rows.get(source_of(row), {})
        if source_of(source) in rows:
            raise ValueError(f"{file}, row '{name}' starts from a row that starts from a row; one step is enough")
        if source and source.get("detector", YOLO) != row["detector"]:
            raise ValueError(f"{file}, row '{name}' starts from '{source_of(row)}', which is another detector")
        after = listed(row.get("after"))
        if ("after" in row and "weights" in row) or ("block" in row and not after):
            raise ValueError(
                f"{file}, row '{name}': after: says where a model: to train gets blocks, block: which ones"
            )
        if row["detector"] != YOLO and isinstance(row.get("block"), list):
            raise ValueError(f"{file}, row '{name}': block: of {row['detector']} is one mapping for all stages")
        if "enhance" in row:
            enhancer(row["enhance"])
            if Path(content["data"]).suffix == ".json":
                raise ValueError(f"{file}, row '{name}': enhance: wants data: to be a data YAML")
        if unknown := [stage for stage in after if stage not in STAGES]:
            raise ValueError(f"{file}, row '{name}': after: names {unknown[0]!r}; choose from {', '.join(STAGES)}")
        if row["detector"] not in content["train"] and "weights" not in row:
            raise ValueError(f"{file}: train: says nothing of {row['detector']}, which row '{name}' trains")
    baseline = content["baseline"] or []
    baselines = [str(name) for name in (baseline if isinstance(baseline, list) else [baseline])]
    if unknown := [name for name in baselines if name not in rows]:
        raise ValueError(f"{file}: baseline: names '{unknown[0]}'; choose from {', '.join(rows)}")
    if len({rows[name]["detector"] for name in baselines}) < len(baselines):
        raise ValueError(f"{file}: baseline: names two rows of one detector, {', '.join(baselines)}; keep one")
    seeds = list(content["seeds"]) if isinstance(content["seeds"], (list, tuple)) else [content["seeds"]]
    if not seeds or any(type(seed) is not int for seed in seeds) or len(set(seeds)) < len(seeds):
        raise ValueError(f"{file}: seeds: is {content['seeds']}; wanted different whole numbers, such as [0, 1, 2]")
    return {**content, "rows": rows, "seeds": seeds, "baseline": {rows[name]["detector"]: name for name in baselines}}


def source_of(row: Mapping[str, Any]) -> str:
    """Return what a row starts from or evaluates: weights, or the row that trains them; "" for nothing."""
    return str(row.get("weights") or row.get("start") or "")


def cells_of(study: Mapping[str, Any], out: Path, truth: coco.Truth) -> list[Cell]:
    """List the cells of a study, those first that others start from."""
    rows, cells = study["rows"], []
    shared = {"data": str(study["data"]), "split": study["split"], "truth": coco.fingerprint(truth)}
    if study["darken"]:
        shared["darken"] = study["darken"]
    for name, row in sorted(rows.items(), key=lambda item: source_of(item[1]) in rows):
        source = source_of(row)
        trained_row = source in rows and "weights" not in rows[source]
        for seed in study["seeds"] if "weights" not in row or trained_row or "{seed}" in source else [None]:
            spec = {**shared, "row": name, "seed": seed, "detector": row["detector"]}
            spec |= {key: row[key] for key in ("model", "options", "after", "block", "enhance") if key in row}
            if "weights" not in row:
                spec["train"] = {**study["train"][row["detector"]], **row.get("train", {})}
                spec["train_data"] = str(row.get("data", study["data"]))
            elif "imgsz" in study["train"].get(row["detector"], {}):
                spec["imgsz"] = study["train"][row["detector"]]["imgsz"]
            if source:
                at = rows[source]["weights"] if source in rows and not trained_row else source
                key = "weights" if "weights" in row else "start"
                own = f"{folder_of(out, source, seed).name}/last.pt"
                spec[key] = own if trained_row else str(at).replace("{seed}", str(seed))
            after = source if trained_row else None
            cells.append(Cell(name, seed, folder_of(out, name, seed), json.loads(json.dumps(spec)), after))
    folders = [cell.folder for cell in cells]
    if twice := [cell.row for cell in cells if folders.count(cell.folder) > 1]:
        raise ValueError(f"rows {', '.join(dict.fromkeys(twice))} would share a folder; give them names further apart")
    return cells


def folder_of(out: Path, row: str, seed: int | None) -> Path:
    """Where a cell keeps what it makes."""
    name = re.sub(r"[^A-Za-z0-9.]+", "-", row).strip("-")
    return out / (name if seed is None else f"{name}-{seed}")


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Say in which keys two specifications differ."""
    keys = [key for key in {**there, **here} if there.get(key) != here.get(key)]
    return ", ".join(f"{key} ({there.get(key)}, now {here.get(key)})" for key in keys)


# ---- running it ----------------------------------------------------------------------------------


def compare(
    study: str | Path | Mapping[str, Any], out: str | Path, *, jobs: int = 1, device: str | None = None
) -> Table:
    """Run what is left of a study, and make its table.

    Args:
        study: A YAML file or its content; see above.
        out: Folder of the cells and the table. Run it again after whatever stopped it.
        jobs: How many cells at once. Latency is measured afterwards, alone.
        device: As Ultralytics takes it: "cpu", "0".
    Returns: The table; `str` of it is Markdown.
    Raises:
        ValueError: the study is not sound, or `out` holds cells that were run differently.
        ChildProcessError: a cell failed; its log says why. The others are kept.
    """
    if type(jobs) is not int or jobs < 1:
        raise ValueError(f"jobs is {jobs!r}; wanted a whole number, 1 or more")
    plan, home = read_study(study), Path(out).resolve()
    for folder, how in plan["darken"].items():
        made = darken_dataset(how["source"], folder, **{key: value for key, value in how.items() if key != "source"})
        print(made, flush=True)
        if not made.ok:
            raise ValueError(f"{folder}: pictures that one row lacks and another has make no table; mend the source")
    truth = coco.ground_truth(plan["data"], plan["split"])
    cells = cells_of(plan, home, truth)
    todo = [cell for cell in cells if cell.record is None]
    home.mkdir(parents=True, exist_ok=True)
    for enhancing in {(cell.spec["enhance"], cell.spec.get("train_data")) for cell in todo if "enhance" in cell.spec}:
        splits = [plan["split"], *(["train"] if enhancing[1] == str(plan["data"]) else [])]
        folder = pictures_of(home, {"enhance": enhancing[0]}).parent
        print(enhance_dataset(plan["data"], enhancing[0], folder, split=splits), flush=True)
    run_all(todo, jobs, device)
    measure_latency(cells, plan, truth, home, device)
    table = tabulate(plan, cells, json.loads((home / "latency.json").read_text(encoding="utf-8")))
    table.save(home)
    return table


def run_all(cells: list[Cell], jobs: int, device: str | None) -> None:
    """Run cells, each in its own process, in an order that their starts allow."""
    waiting, running = list(cells), dict[Future[None], Cell]()
    failed: list[str] = []
    with ThreadPoolExecutor(jobs) as pool:
        while waiting or running:
            blocked = {(cell.row, cell.seed) for cell in [*waiting, *running.values()]}
            for cell in [cell for cell in waiting if (cell.after, cell.seed) not in blocked]:
                if len(running) < jobs and not failed:
                    waiting.remove(cell)
                    running[pool.submit(run_apart, cell, device)] = cell
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                cell = running.pop(future)
                if error := future.exception():
                    failed.append(f"{cell.name}: {error}")
    if failed:
        raise ChildProcessError(
            "; ".join(failed) + ". What is done is kept: run the same command again when it is mended"
        )


def run_apart(cell: Cell, device: str | None) -> None:
    """Run one cell in a process of its own, for its memory and its peace."""
    print(f"{time.strftime('%H:%M:%S')} {cell.name} ...", flush=True)
    cell.folder.mkdir(parents=True, exist_ok=True)
    write(cell.folder / SPEC, {**cell.spec, "device": device})
    with (cell.folder / LOG).open("w", encoding="utf-8") as log:
        command = [sys.executable, "-m", "yolo_wnlb.compare", str(cell.folder)]
        status = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
    if status:
        last = (cell.folder / LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        raise RuntimeError(f"ended with status {status}: {''.join(last)[:300]} (all of it in {cell.folder / LOG})")
    print(f"{time.strftime('%H:%M:%S')} {cell.name}: mask AP {(cell.record or {})['AP']:.4f}", flush=True)


def run_cell(folder: Path) -> None:
    """Train, predict, evaluate: what the process of one cell does."""
    spec = json.loads((folder / SPEC).read_text(encoding="utf-8"))
    device, home = spec.pop("device"), folder.parent
    begun, weights = time.time(), located(home, spec.get("weights"))
    if not weights:
        weights = train_yolo(spec, folder, device) if spec["detector"] == YOLO else train_other(spec, folder, device)
    trained, memory = time.time() - begun, peak_memory()

    truth = coco.ground_truth(spec["data"], spec["split"])
    model = module_of(spec["detector"]).load(weights, device)
    names = module_of(spec["detector"]).names(model)
    files = coco.image_files(truth, pictures_of(home, spec), spec["split"])
    predict = size_in(spec)
    found = module_of(spec["detector"]).predict(model, files, coco.class_map(names, truth), **predict)
    result = evaluate(truth, found, protocol=module_of(spec["detector"]).describe(model, **predict))
    result.to_json(folder / RESULT)
    write(
        folder / RECORD,
        {
            "spec": spec,
            **{metric: result.masks[metric] for metric in METRICS},
            "box AP": result.boxes["AP"],
            "w": learned(model),
            **size_of(model, result.protocol["image_size"]),
            "training": {"seconds": round(trained, 1), "peak MB": memory} if "train" in spec else None,
            "protocol": result.protocol,
            "where": where(device),
        },
    )


def located(home: Path, weights: str | None) -> str | None:
    """Return the path of weights: those that a row of the study trained, or others as the study says them."""
    return str(home / weights) if weights and (home / weights).is_file() else weights


def pictures_of(home: Path, spec: Mapping[str, Any]) -> Path:
    """Return the data YAML of the pictures that a cell looks at."""
    if "enhance" not in spec:
        return Path(spec["data"])
    return home / "enhanced" / re.sub(r"[^A-Za-z0-9.]+", "-", spec["enhance"]) / "data.yaml"


def size_in(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the argument of `predict` for the size of the pictures, if the study says one."""
    size = spec.get("imgsz") or spec.get("train", {}).get("imgsz")
    return {"imgsz": size} if size else {}


def train_yolo(spec: Mapping[str, Any], folder: Path, device: str | None) -> str:
    """Train as `yolo train` does; the last weights count, none is chosen by the pictures it is judged on."""
    from ultralytics import YOLO

    model = spec["model"]
    if "after" in spec:
        grafted, _ = graft(load_yaml(model), spec["after"], spec.get("block"))
        model = folder / f"{Path(model).stem}-wnlb.yaml"  # its scale is the letter in its name
        model.write_text(to_yaml(grafted, f"{spec['model']} with the blocks of row {spec['row']}"), encoding="utf-8")
    quiet: dict[str, Any] = {"plots": False, "val": False, "exist_ok": True, "verbose": False}
    quiet["pretrained"] = located(folder.parent, spec.get("start")) or False
    quiet |= {"project": str(folder), "name": "train", "seed": spec["seed"], "device": device}
    YOLO(model).train(data=train_data(spec, folder), **{**quiet, **spec["train"], **spec.get("options", {})})
    return str((folder / "train/weights/last.pt").replace(folder / "last.pt"))


def train_other(spec: Mapping[str, Any], folder: Path, device: str | None) -> str:
    """Train Mask R-CNN or SOLOv2 on the same pictures."""
    import torch

    from yolo_wnlb.detectors import torchvision
    from yolo_wnlb.detectors.fit import fit

    data = train_data(spec, folder)
    truth = coco.ground_truth(data, "train")
    torch.manual_seed(spec["seed"])
    names = [category["name"] for category in truth["categories"]]
    settings = dict(spec["train"])
    built = {key: settings.pop(key) for key in [*settings] if key not in inspect.signature(fit).parameters}
    built |= {"weights": located(folder.parent, spec.get("start")), "block": spec.get("block")}
    if "after" in spec:
        built["stages"] = [int(stage[1:]) for stage in listed(spec["after"])]  # P3 is the end of res3
    model: Any = torchvision.build(spec["detector"], names, **{**built, **spec.get("options", {})})
    files = coco.image_files(truth, data, "train")
    (folder / "last.pt").unlink(missing_ok=True)
    return str(fit(model, truth, files, folder, **settings, seed=spec["seed"], device=device, progress=False))


def train_data(spec: Mapping[str, Any], folder: Path) -> str:
    """Return the data to train on: enhanced, if it is the study's own."""
    return str(pictures_of(folder.parent, spec)) if spec["train_data"] == spec["data"] else spec["train_data"]


def module_of(detector: str) -> Any:
    """Return the module that speaks for a kind of detector."""
    from yolo_wnlb.detectors import torchvision, ultralytics

    return ultralytics if detector == YOLO else torchvision


def network(model: Any) -> Any:
    """Return the nn.Module of a loaded detector; None where it is an export."""
    module = getattr(model, "module", None)
    return module if module is not None else getattr(model.backend, "model", None)


def learned(model: Any) -> list[float]:
    """Return the learned w of the blocks, from the first on."""
    from yolo_wnlb.wnlb import WNLB

    blocks = [m for m in network(model).modules() if isinstance(m, WNLB)] if network(model) is not None else []
    return [round(float(block.w), 5) for block in blocks if block.weighted]


def size_of(model: Any, image_size: str) -> dict[str, float]:
    """Count parameters, and floating-point operations (a multiplication and its addition are two) of one image."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    module = network(model)
    if module is None:
        return {}
    sides = [int(side) for side in re.findall(r"\d+", str(image_size))][:2] or [640]
    height, width = (sides * 2)[:2]
    place = next(module.parameters()).device
    image = torch.zeros(3, height, width, device=place)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        module([image]) if hasattr(model, "classes") else module(image[None])
    parameters = sum(p.numel() for p in module.parameters())
    return {"parameters M": round(parameters / 1e6, 3), "GFLOPs": round(counter.get_total_flops() / 1e9, 2)}


def peak_memory() -> int:
    """Return the most memory this process held so far, in MB: of the GPU if it used one, else its own."""
    import torch

    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return int(torch.cuda.max_memory_allocated() / 1e6)
    if sys.platform == "win32":
        return 0
    import resource

    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3))


def where(device: str | None) -> dict[str, str]:
    """Say on what, and with which versions, a cell was run."""
    import torch
    import ultralytics

    from yolo_wnlb import __version__

    cuda = torch.cuda.get_device_name(0) if torch.cuda.is_available() and device != "cpu" else ""
    told = {"device": cuda or f"CPU, {torch.get_num_threads()} threads", "python": platform.python_version()}
    return {**told, "torch": torch.__version__, "ultralytics": ultralytics.__version__, "yolo_wnlb": __version__}


def measure_latency(
    cells: Iterable[Cell], plan: Mapping[str, Any], truth: coco.Truth, home: Path, device: str | None
) -> None:
    """Time one image from file to finished masks, all rows taking turns in one process; kept in latency.json."""
    firsts = {cell.row: cell for cell in sorted(cells, key=lambda cell: cell.seed or 0, reverse=True)}
    file = home / "latency.json"
    if file.exists() and json.loads(file.read_text(encoding="utf-8")).keys() == firsts.keys():
        return
    models = {}
    for row, cell in firsts.items():
        detector = module_of(cell.spec["detector"])
        model = detector.load(located(home, cell.spec.get("weights")) or cell.folder / "last.pt", device)
        enhance = enhancer(cell.spec["enhance"]) if "enhance" in cell.spec else None
        files = list(coco.image_files(truth, pictures_of(home, cell.spec), plan["split"]).items())
        models[row] = (
            detector,
            model,
            coco.class_map(detector.names(model), truth),
            enhance,
            files,
            size_in(cell.spec),
        )
    originals = list(coco.image_files(truth, plan["data"], plan["split"]).values())
    times: dict[str, list[float]] = {row: [] for row in models}
    for i in range(TIMED + 5):
        for row, (detector, model, classes, enhance, files, predict) in models.items():
            dark = decode(originals[i % len(files)].read_bytes(), "the picture")
            begun = time.perf_counter()
            if enhance and not enhance.spec.startswith("dir:"):  # what it costs, beside the file it wrote before
                enhance(dark)
            detector.predict(model, dict([files[i % len(files)]]), classes, **predict)
            if i >= 5:
                times[row].append(time.perf_counter() - begun)
    write(file, {row: round(1000 * statistics.median(took), 2) for row, took in times.items()})


def write(file: Path, content: Any) -> None:
    """Write JSON, all of it or nothing."""
    journal.write(file, f"{json.dumps(content, indent=1)}\n".encode(), file.parent)


# ---- the table -----------------------------------------------------------------------------------


@dataclass
class Table:
    """What a study found; print it, or look at `rows`.

    Attributes:
        rows: One dict a row: name, detector, seeds, AP ... APl (means), sd of AP over the seeds, what it
            costs, and against the baseline: delta, images (interval over the choice of images),
            seeds_interval (over the seeds, paired t), clear (True if both leave out 0).
        baseline: The rows that the others are compared with, one of each detector.
        notes: Data, budget, versions.
    """

    rows: list[dict[str, Any]]
    baseline: list[str]
    notes: list[str]

    def __str__(self) -> str:
        """Return the table as Markdown, its notes below."""
        head = [
            "row",
            "AP",
            "AP50",
            "AP75",
            "APs",
            "APm",
            "APl",
            f"against {', '.join(self.baseline) or 'none'}",
            "M",
            "GFLOPs",
            "ms",
            "MB",
        ]
        lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
        for row in self.rows:
            ap = f"{100 * row['AP']:.2f}" + (f" ± {100 * row['sd']:.2f}" if row["sd"] is not None else "")
            numbers = [f"{100 * row[metric]:.2f}" if row[metric] > -1 else "-" for metric in METRICS[1:]]
            costs = [row.get("parameters M"), row.get("GFLOPs"), row.get("ms"), row.get("peak MB")]
            cost = ["-" if value is None else f"{value:g}" for value in costs]
            lines.append(f"| {' | '.join([row['name'], ap, *numbers, told(row), *cost])} |")
        return "\n".join([*lines, "", *(f"- {note}" for note in self.notes)])

    def save(self, folder: Path) -> None:
        """Write table.md, table.csv, table.json and table.png."""
        (folder / "table.md").write_text(f"{self}\n", encoding="utf-8")
        write(folder / "table.json", {"rows": self.rows, "baseline": self.baseline, "notes": self.notes})
        keys = list(dict.fromkeys(key for row in self.rows for key in row))
        with (folder / "table.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, keys)
            writer.writeheader()
            writer.writerows(self.rows)
        self.plot(folder / "table.png")

    def plot(self, path: Path) -> None:
        """Draw a bar for each row, a dot for each seed."""
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        figure, axes = pyplot.subplots(figsize=(7, 0.45 * len(self.rows) + 1.2), layout="constrained")
        for place, row in enumerate(reversed(self.rows)):
            axes.barh(
                place, 100 * row["AP"], color="#9aa5b1" if row["name"] in self.baseline else "#4a6fa5", height=0.6
            )
            axes.plot([100 * ap for ap in row["by seed"]], [place] * len(row["by seed"]), "o", color="#1d1d1b", ms=3)
        axes.set_yticks(range(len(self.rows)), [row["name"] for row in reversed(self.rows)])
        axes.set_xlabel("mask AP (bar: mean, dots: seeds)")
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, dpi=150)
        pyplot.close(figure)


def told(row: Mapping[str, Any]) -> str:
    """Say what a row has more than the baseline, and whether that is more than noise."""
    if row.get("delta") is None:
        return ""
    text = f"{100 * row['delta']:+.2f} [{100 * row['images'][0]:+.2f}, {100 * row['images'][1]:+.2f}]"
    if row["seeds_interval"]:
        text += f", seeds [{100 * row['seeds_interval'][0]:+.2f}, {100 * row['seeds_interval'][1]:+.2f}]"
    return text if row["clear"] else f"{text}: inside the noise"


def tabulate(plan: Mapping[str, Any], cells: list[Cell], latency: Mapping[str, float]) -> Table:
    """Bring all cells into one table.

    The interval over images draws them with replacement, the same ones for all rows and seeds, and
    takes the mean over the seeds; that over seeds is Student's t of the paired differences.
    """
    records = {cell.name: cell.record for cell in cells}
    rows: dict[str, list[Cell]] = {name: [] for name in plan["rows"]}
    for cell in cells:
        rows[cell.row].append(cell)
    results = {cell.name: Evaluation.from_json(cell.folder / RESULT) for cell in cells}
    protocols = {json.dumps([r.protocol[key] for key in ("truth", "max_detections")]) for r in results.values()}
    if len(protocols) > 1:
        raise ValueError(f"the cells were evaluated unlike each other: {protocols}; delete those of another truth")
    images = next(iter(results.values())).matches["segm"].images
    weights = draws(images, DRAWS, 0)
    drawn = {name: resampled(result, weights) for name, result in results.items()}

    table = []
    for name, group in rows.items():
        found = [records[cell.name] for cell in group]
        by_seed = [record["AP"] for record in found if record]
        row: dict[str, Any] = {"name": name, "detector": group[0].spec["detector"], "seeds": len(by_seed)}
        row |= {metric: float(np.mean([record[metric] for record in found if record])) for metric in METRICS}
        row |= {"sd": statistics.stdev(by_seed) if len(by_seed) > 1 else None, "by seed": by_seed}
        first = found[0] or {}
        row |= {"parameters M": first.get("parameters M"), "GFLOPs": first.get("GFLOPs"), "ms": latency.get(name)}
        row["peak MB"] = (first.get("training") or {}).get("peak MB")
        row["w"] = [record["w"] for record in found if record and record["w"]]
        base = plan["baseline"].get(row["detector"])
        if base not in (None, name):
            row |= {"baseline": base, **against(group, rows[base], results, drawn)}
        table.append(row)
    truths = next(iter(results.values())).protocol
    budgets = "; ".join(f"{name}: {settings}" for name, settings in plan["train"].items())
    notes = [
        f"{plan['data']}, {plan['split']}: {truths['images']} images, {truths['objects']} objects, "
        f"truth {truths['truth']}",
        f"trained alike: {budgets}; seeds {plan['seeds']}",
        "mask AP by COCO's rules in hundredths, best 100 detections of an image; mean ± standard deviation over seeds",
        f"differences: [95 % over {DRAWS} draws of the images], seeds [95 %, paired t]; clear only if both leave out 0",
        "M parameters, GFLOPs (two a multiply-add), ms for one image from file to masks, MB at most in training",
        f"run on {', '.join(sorted({str((record or {}).get('where')) for record in records.values()}))}",
    ]
    return Table(table, list(plan["baseline"].values()), notes)


def against(
    group: list[Cell], base: list[Cell], results: Mapping[str, Evaluation], drawn: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Compare the cells of a row with those of the baseline, seed by seed."""
    partner = {cell.seed: cell for cell in base}
    pairs = [(cell, partner.get(cell.seed) or base[0]) for cell in group if cell.seed in partner or len(base) == 1]
    if not pairs:  # a row without seeds, against one with seeds
        pairs = [(group[0], cell) for cell in base]
    deltas = [results[a.name].masks["AP"] - results[b.name].masks["AP"] for a, b in pairs]
    gains = np.mean([drawn[a.name] - drawn[b.name] for a, b in pairs], axis=0)
    images = tuple(map(float, np.quantile(gains, [0.025, 0.975])))
    interval = None
    if len(deltas) > 1:
        from scipy.stats import t

        half = float(t.ppf(0.975, len(deltas) - 1)) * statistics.stdev(deltas) / len(deltas) ** 0.5
        interval = (statistics.mean(deltas) - half, statistics.mean(deltas) + half)
    both = [images, *([interval] if interval else [])]
    clear = bool(interval) and all(low > 0 or high < 0 for low, high in both)
    return {"delta": statistics.mean(deltas), "images": images, "seeds_interval": interval, "clear": clear}


if __name__ == "__main__":
    run_cell(Path(sys.argv[1]))
