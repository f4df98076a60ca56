"""Does it help? One study, many detectors, the same pictures, the same budget, one table: `yolo-wnlb compare`.

    STUDY.yaml --study--> cells (row x seed) --cell, each in a process of its own--> cell.json
    all cells --table--> paired differences against a baseline, with intervals --> table.md, .csv, .json, .png

A cell that is done is never done again; one that was interrupted starts anew, so that the table is the
same whatever happened on the way.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np

from yolo_wnlb.data import coco
from yolo_wnlb.data.journal import STATE, locked, write_json
from yolo_wnlb.study.cell import arguments_of, enhanced_in, loaded, module_of, pictures, train_data, where
from yolo_wnlb.study.plan import LOG, SPEC, YOLO, Cell, cells_of, read_study
from yolo_wnlb.study.table import Table, tabulate
from yolo_wnlb.twins.darken import darken_dataset
from yolo_wnlb.twins.enhance import decode, enhance_dataset, enhancer

TIMED = 30  # images for the latency, after 5 to warm up


def compare(
    study: str | Path | Mapping[str, Any], out: str | Path, *, jobs: int = 1, device: str | None = None
) -> Table:
    """Run what is left of a study, and make its table.

    Args:
        study: A YAML file or its content; see `study`.
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
    (home / STATE).mkdir(parents=True, exist_ok=True)
    with locked(home):
        todo = unfinished(cells)
        for cell in todo:
            check_cell(cell)
        for spec in {cell.row: cell.spec for cell in cells}.values():
            if folder := enhanced_in(home, spec.get("enhance")):
                splits = [plan["split"], *(["train"] if "train" in spec and train_data(spec, home)[1] else [])]
                print(enhance_dataset(plan["data"], spec["enhance"], folder, split=splits), flush=True)
        run_all(todo, jobs, device)
        table = tabulate(plan, cells, measure_latency(cells, plan, truth, device))
        table.save(home)
    print(f"\nwritten to {out}:\n", flush=True)
    return table


def unfinished(cells: list[Cell]) -> list[Cell]:
    """List the cells that are to be run.

    Raises: ValueError: some that are done were run under other conditions, or started from one that will be run anew.
    """
    todo, unlike = list[Cell](), list[str]()
    for cell in cells:
        try:
            if cell.record is None:
                todo.append(cell)
        except ValueError as error:
            unlike.append(str(error))
    anew = {(cell.row, cell.seed) for cell in todo}
    stale = [cell.folder for cell in cells if cell not in todo and (cell.after, cell.seed) in anew]
    if stale and not unlike:
        raise ValueError(
            f"{', '.join(map(str, stale))} started from what will be run anew; delete them to run them too"
        )
    if unlike:
        raise ValueError(unlike[0] + (f" (the same of {len(unlike) - 1} more)" if unlike[1:] else ""))
    return todo


def check_cell(cell: Cell) -> None:
    """Refuse a cell whose weights are not there, or whose model cannot be built, before hours are spent on others."""
    from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES

    weights, detector = cell.spec.get("weights") or cell.spec.get("start"), cell.spec["detector"]
    fetched = GITHUB_ASSETS_NAMES if detector == YOLO else ["coco"] if detector in ("maskrcnn", "maskrcnn_v2") else []
    if weights and cell.after is None and weights not in fetched and not Path(weights).exists():
        raise FileNotFoundError(
            f"{cell.name}: there are no weights {weights}; train them first (a study of their own?)"
        )
    if "train" in cell.spec and detector == YOLO:
        from ultralytics.cfg import get_cfg

        try:
            get_cfg(overrides={**cell.spec["train"], **cell.spec.get("options", {})})
        except (SyntaxError, ValueError, TypeError) as error:
            raise ValueError(f"{cell.name}: {error}") from error
    elif "train" in cell.spec:
        import torch

        built = {
            key: value for key, value in arguments_of(cell.spec)[0].items() if key not in ("freeze", "trainable_layers")
        }
        try:
            with torch.device("meta"):
                module_of(detector).build(detector, ["thing"], **built)
        except (ValueError, TypeError) as error:
            raise type(error)(f"{cell.name}: {error}") from error


def run_all(cells: list[Cell], jobs: int, device: str | None) -> None:
    """Run cells, each in its own process, in an order that their starts allow."""
    waiting, running = list(cells), dict[Future[None], Cell]()
    failed, processes = list[str](), list[subprocess.Popen[bytes]]()
    with ThreadPoolExecutor(jobs) as pool:
        try:
            while waiting or running:
                blocked = {(cell.row, cell.seed) for cell in [*waiting, *running.values()]}
                for cell in [cell for cell in waiting if (cell.after, cell.seed) not in blocked]:
                    if len(running) < jobs and not failed:
                        waiting.remove(cell)
                        running[pool.submit(run_apart, cell, device, processes)] = cell
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    cell = running.pop(future)
                    if error := future.exception():
                        failed.append(f"{cell.name}: {error}")
        except BaseException:  # Ctrl-C: do not wait hours for the cells
            for process in processes:
                process.kill()
            raise
    if failed:
        raise ChildProcessError(
            "; ".join(failed) + ". What is done is kept: run the same command again when it is mended"
        )


def run_apart(cell: Cell, device: str | None, processes: list[subprocess.Popen[bytes]]) -> None:
    """Run one cell in a process of its own, for its memory and its peace; `processes` gets to know it."""
    print(f"{time.strftime('%H:%M:%S')} {cell.name} ...", flush=True)
    cell.folder.mkdir(parents=True, exist_ok=True)
    write_json(cell.folder / SPEC, {**cell.spec, "device": device})
    command = [sys.executable, "-m", "yolo_wnlb.study.cell", str(cell.folder)]
    with (
        (cell.folder / LOG).open("w", encoding="utf-8") as log,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT) as process,
    ):
        processes.append(process)
        status = process.wait()
    if status:
        last = (cell.folder / LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        raise RuntimeError(f"ended with status {status}: {''.join(last)[:300]} (all of it in {cell.folder / LOG})")
    print(f"{time.strftime('%H:%M:%S')} {cell.name}: mask AP {(cell.record or {})['AP']:.4f}", flush=True)


def measure_latency(
    cells: Iterable[Cell], plan: Mapping[str, Any], truth: coco.Truth, device: str | None
) -> dict[str, list[float] | None]:
    """Time one image from file to finished masks: {row: [median, lower quartile, upper quartile] in ms}.

    All rows in one process, in an order drawn anew for each image. None for pictures that were enhanced
    elsewhere. Kept in latency.json, as long as models and device are the same.
    """
    firsts: dict[str, Cell] = {}
    for cell in cells:
        firsts.setdefault(cell.row, cell)
    home = next(iter(firsts.values())).home
    file, records = home / "latency.json", {row: cell.record or {} for row, cell in firsts.items()}
    of = {row: [record["protocol"]["sha256"], record["spec"].get("enhance")] for row, record in records.items()}
    asked = {"where": where(device), "of": of}
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if known.get("asked") == asked:
        return known["ms"]
    models = {}
    for row, cell in firsts.items():
        detector, model = loaded(cell.spec, cell.folder, device)
        classes = coco.class_map(detector.names(model), truth)
        enhance = enhancer(cell.spec["enhance"]) if "enhance" in cell.spec else None
        files = list(pictures(truth, plan["data"], plan["split"], enhanced_in(home, cell.spec.get("enhance"))).items())
        predict = {"imgsz": cell.spec["imgsz"]} if "imgsz" in cell.spec else {}
        models[row] = (detector, model, classes, enhance, files, predict)
    originals = list(coco.image_files(truth, plan["data"], plan["split"]).values())
    times: dict[str, list[float]] = {row: [] for row in models}
    order = random.Random(0)
    for i in range(TIMED + 5):
        dark = decode(originals[i % len(originals)].read_bytes(), "the picture")
        for row in order.sample(list(models), len(models)):
            detector, model, classes, enhance, files, predict = models[row]
            if enhance and enhance.spec.startswith("dir:"):
                continue
            begun = time.perf_counter()
            if enhance:  # what it costs, beside the file it wrote before
                enhance(dark)
            detector.predict(model, dict([files[i % len(files)]]), classes, **predict)
            if i >= 5:
                times[row].append(1000 * (time.perf_counter() - begun))
    found = {
        row: [round(float(ms), 2) for ms in np.quantile(took, [0.5, 0.25, 0.75])] if took else None
        for row, took in times.items()
    }
    write_json(file, {"asked": asked, "ms": found})
    return found
