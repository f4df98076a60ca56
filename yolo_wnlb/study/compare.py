"""Does it help? One study, many models, the same pictures, the same budget, one table: `yolo-wnlb compare`.

    STUDY.yaml --plan--> runs (row x seed) --check--> --run, each in a process of its own--> run.json
    all runs --table--> paired differences against a baseline, with intervals --> table.md, .csv, .json, .png

A run that is finished is never repeated; one that was interrupted starts anew, so that the table is the
same whatever happened on the way.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import site
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from yolo_wnlb.data import coco
from yolo_wnlb.data.journal import locked, write_json
from yolo_wnlb.reading import read_json
from yolo_wnlb.study import labels
from yolo_wnlb.study.check import check_models
from yolo_wnlb.study.check_data import check_classes, check_data
from yolo_wnlb.study.measures import KINDS, MEASURES, Measure
from yolo_wnlb.study.models import enhanced_folder, environment, load_model, pictures, train_data
from yolo_wnlb.study.plan import FUSION, LOG, MEASURED, RECORD, RESULT, SPEC, UNET, YOLO, groups_of, naming, read_study
from yolo_wnlb.study.runs import Run, files_of, runs_of, with_hashes
from yolo_wnlb.study.table import Result, Table, lends_only, tabulate
from yolo_wnlb.twins.darken import darken_dataset
from yolo_wnlb.twins.enhance import enhance_dataset
from yolo_wnlb.twins.enhancers import enhancer
from yolo_wnlb.twins.pictures import decode_rgb

TIMED = 30  # pictures that the latency is measured on, after 5 to warm up
CHILD = """
import json, sys
first, user, package = json.loads(sys.argv[1])
sys.path[:0] = first
if user:
    import site
    site.addsitedir(user)
if package not in sys.path:
    sys.path.append(package)
from yolo_wnlb.study.run import main
main(sys.argv[2])
"""


def compare(
    study: str | Path | Mapping[str, Any], out: str | Path, *, jobs: int = 1, device: str | None = None
) -> Table:
    """Run what is left of a study, and make its table.

    Args:
        study: A YAML file or its content; see `yolo_wnlb.study.plan`.
        out: Folder for the runs and the table. After an interruption the same call goes on from there.
        jobs: How many runs at once, 1 or more. Latency is measured afterwards, alone.
        device: As Ultralytics takes it: "cpu", "0".
    Returns: The table; `str` of it is Markdown.
    Raises:
        ValueError, OSError, ImportError: something that a run needs is wrong or missing, or `out` holds runs
            under other conditions. No run was started, and `out` was not made.
        ChildProcessError: a run failed; its log says why. The others are kept.
    """
    if type(jobs) is not int or jobs < 1:
        raise ValueError(f"jobs is {jobs!r}; wanted a whole number, 1 or more")
    plan, home = read_study(study), Path(out).resolve()
    file = str(study) if isinstance(study, (str, Path)) else "study"
    with naming(file):
        runs = runs_of(plan, home)
        check_models([run for run in runs if not run.recorded], device)
    for folder, how in plan["darken"].items():
        with naming(f"{file}, darken: {folder}"):
            report = darken_dataset(
                how["source"], folder, **{key: value for key, value in how.items() if key != "source"}
            )
        print(report, flush=True)
        if not report.ok:
            raise ValueError(
                f"{folder}: some pictures could not be darkened, and rows on different pictures make no table; mend "
                "the source"
            )
    with naming(file):
        measure = MEASURES[plan["measure"]]
        truth = measure.truth(plan["data"], plan["split"])
        groups = groups_of(plan, measure.listing(truth))
        runs = with_hashes(runs, measure.fingerprint(truth), measure.digest, measure.unlabelled)
        if plan["measure"] == "accuracy":
            compared = {*plan["baseline"].values(), *(row.get("against") for row in plan["rows"].values())}
            check_classes(unfinished(runs), runs, truth, compared, device)
        else:
            check_data(unfinished(runs), truth, device)
    with locked(home):
        todo = unfinished(runs)  # another process may have finished some since
        for spec in {run.row: run.spec for run in runs}.values():
            if enhanced := enhanced_folder(home, spec.get("enhance")):
                splits = [
                    plan["split"],
                    *filter(None, [plan["tune"]]),
                    *(learnt_splits(plan["data"]) if "train" in spec and train_data(spec, home)[1] else []),
                ]
                print(enhance_dataset(plan["data"], spec["enhance"], enhanced, split=splits), flush=True)
        run_all(todo, jobs, device)
        results = [result_of(run, measure) for run in runs]
        table = tabulate(plan, results, measure_latency(runs, plan, truth, device), groups)
        table.save(home)
    print(f"\nwritten to {out}:\n", flush=True)
    return table


def learnt_splits(data: str) -> list[str]:
    """Name the parts of a data YAML that a training reads: train, and unlabelled where it has one."""
    return ["train", *(["unlabelled"] if labels.unlabelled(data) else [])]


def result_of(run: Run, measure: Measure) -> Result:
    """Read what a finished run measured; a run that only lends its weights has no score."""
    record = run.record or {}
    if not lends_only(record) and not (run.folder / RESULT).is_file():
        raise ValueError(f"{run.folder} has lost its {RESULT}; delete that folder to run it again")
    score = None if lends_only(record) else measure.score.from_json(run.folder / RESULT)
    return Result(run.row, run.seed, record, score)


def unfinished(runs: Sequence[Run]) -> list[Run]:
    """List the runs that are still to be done.

    Raises: ValueError: some that are finished were run under other conditions, or started from one that will
        be run again.
    """
    todo, refusals = list[Run](), list[str]()
    for run in runs:
        try:
            if run.record is None:
                todo.append(run)
        except ValueError as error:
            refusals.append(str(error))
    if refusals:
        raise ValueError(refusals[0] + (f" (the same of {len(refusals) - 1} more)" if refusals[1:] else ""))
    again = {(run.row, run.seed) for run in todo}
    outdated = [
        run.folder for run in runs if run not in todo and any((row, run.seed) in again for row in run.source_rows)
    ]
    if outdated:
        raise ValueError(
            f"{', '.join(map(str, outdated))} started from weights that will be trained again; delete them to run them "
            "again too"
        )
    return todo


# ---- running -------------------------------------------------------------------------------------


def run_all(runs: Sequence[Run], jobs: int, device: str | None) -> None:
    """Do runs, each in a process of its own, in an order that their weights allow.

    After a failure those that are running may end, and no others start. An interruption ends them all.

    Raises: ChildProcessError: names the runs that failed, with the last line of each log.
    """
    waiting, failures = list(runs), list[str]()
    running: list[tuple[Run, subprocess.Popen[bytes]]] = []
    try:
        while waiting or running:
            missing = {(run.row, run.seed) for run in (*waiting, *(run for run, _ in running))}
            for run in [r for r in waiting if not any((row, r.seed) in missing for row in r.source_rows)]:
                if len(running) < jobs and not failures:
                    waiting.remove(run)
                    print(f"{time.strftime('%H:%M:%S')} {run.name} ...", flush=True)
                    running.append((run, start(run, device)))
            if not running:
                break
            time.sleep(0.05)
            for run, process in [pair for pair in running if pair[1].poll() is not None]:
                running.remove((run, process))
                process.communicate()  # closes its standard input
                if process.returncode:
                    failures.append(f"{run.name}: {failure(run, process.returncode)}")
                else:
                    print(f"{time.strftime('%H:%M:%S')} {run.name}: {result_line(run)}", flush=True)
    finally:  # an interruption does not wait hours for the runs
        for _, process in running:
            process.kill()
        for _, process in running:
            process.communicate()
    if failures:
        raise ChildProcessError(
            "; ".join(failures) + ". What is finished is kept: run the same command again when this is mended"
        )


def start(run: Run, device: str | None) -> subprocess.Popen[bytes]:
    """Start the process of a run; it ends with this one, for it reads from our end of its standard input."""
    prepare(run, device)
    with (run.folder / LOG).open("w", encoding="utf-8") as log:
        return subprocess.Popen(
            child_command(run.folder),
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=child_environment(),
        )


def prepare(run: Run, device: str | None) -> None:
    """Write down what is to be run, and empty the folder of a run of what an interrupted one left.

    What an interrupted training of the same kind left stays, and it goes on, as long as it began with the same files
    and versions. One of YOLO starts again, for resumed it would end with other weights, and one of fusion, which takes
    seconds.
    """
    begun = {"files": files_of(run), "environment": environment(device)}
    spec = {**run.spec, "device": device, "begun with": begun}
    if run.folder.exists() and (run.spec["detector"] in (YOLO, FUSION) or spec != left_spec(run.folder)):
        empty(run.folder)
    run.folder.mkdir(parents=True, exist_ok=True)
    write_json(run.folder / SPEC, spec)


def empty(folder: Path) -> None:
    """Remove what a run has left in its folder, SPEC last: it says whose folder it is, should this be interrupted."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name == SPEC):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def left_spec(folder: Path) -> Any:
    """Return what the run that left a folder was to do; None where it did not get to write that down."""
    try:
        return read_json(folder / SPEC)
    except (OSError, ValueError):
        return None


def child_environment() -> dict[str, str]:
    """Return the environment of a run's process.

    PYTHONSAFEPATH is for the processes that it starts, from Python 3.11 on. An empty entry of PYTHONPATH, which a
    colon too many leaves, would mean the working directory.
    """
    entries = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    environment = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(entries)}
    return environment if entries else {key: value for key, value in environment.items() if key != "PYTHONPATH"}


def child_command(folder: Path) -> list[str]:
    """Return the command of a run's process, which does not import from the working directory.

    With -P (Python 3.11) or -I (3.10) neither that process nor the workers of its data loaders put the
    working directory on `sys.path`. -I drops PYTHONPATH and the user's site-packages too, so they are handed over.
    """
    first, user = list[str](), ""
    if sys.version_info < (3, 11):
        first = [path for path in child_environment().get("PYTHONPATH", "").split(os.pathsep) if path]
        user = site.getusersitepackages() if site.ENABLE_USER_SITE else ""
    package = str(Path(__file__).resolve().parents[2])
    flag = "-P" if sys.version_info >= (3, 11) else "-I"
    return [sys.executable, flag, "-c", CHILD, json.dumps([first, user, package]), str(folder)]


def failure(run: Run, status: int) -> str:
    """Say how a run ended, with the last line of its log."""
    log = run.folder / LOG
    last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
    return f"ended with status {status}: {''.join(last)[:300]} (all of it in {log})"


def result_line(run: Run) -> str:
    """Say in a few words what a finished run measured."""
    record = read_json(run.folder / RECORD)
    numbers = {kind: record.get(kind.part) for kind in KINDS.values()}
    found = [f"{kind.title} {number[kind.score.headline]:.4f}" for kind, number in numbers.items() if number]
    found += [f"PSNR {record['PSNR']['denoised']:.2f} dB"] if record.get("PSNR") else []
    return ", ".join(found) or record["unscored"]


# ---- latency -------------------------------------------------------------------------------------


def measure_latency(
    runs: Sequence[Run], plan: Mapping[str, Any], truth: Any, device: str | None
) -> dict[str, list[float] | None]:
    """Time one picture from file to finished detections or class: {row: [median, lower and upper quartile] in ms}.

    All rows are timed in one process, in an order drawn anew for each picture. None stands for pictures that
    another program enhanced. The result is kept in latency.json, and measured again for other models or
    another environment.
    """
    firsts: dict[str, Run] = {}
    for run in runs:
        firsts.setdefault(run.row, run)
    home = next(iter(firsts.values())).out
    file, records = home / "latency.json", {row: run.record or {} for row, run in firsts.items()}
    models = {row: [record["protocol"]["sha256"], record["spec"].get("enhance")] for row, record in records.items()}
    conditions = {"environment": environment(device), "models": models}
    known = read_json(file) if file.exists() else {}
    if (
        isinstance(known, dict)
        and known.get("conditions") == conditions
        and known.get("ms", {}).keys() == firsts.keys()
    ):
        return known["ms"]
    timers = {row: timer(run, plan, truth, device) for row, run in firsts.items()}
    times: dict[str, list[float]] = {row: [] for row in timers}
    order = random.Random(0)
    for i in range(TIMED + 5):
        for row in order.sample(list(timers), len(timers)):
            if (milliseconds := timers[row](i)) is not None and i >= 5:
                times[row].append(milliseconds)
    quartiles = {
        row: [round(float(ms), 2) for ms in np.quantile(took, [0.5, 0.25, 0.75])] if took else None
        for row, took in times.items()
    }
    write_json(file, {"conditions": conditions, "ms": quartiles})
    return quartiles


def timer(run: Run, plan: Mapping[str, Any], truth: Any, device: str | None) -> Callable[[int], float | None]:
    """Return a function that handles the picture of a number with the model of a run, and tells the milliseconds.

    It returns None where another program enhanced the picture.
    """
    detector, model = load_model(run.spec, run.folder, device)
    size = {"imgsz": run.spec["imgsz"]} if "imgsz" in run.spec else {}
    if run.spec["detector"] in MEASURED["accuracy"]:

        def classify(i: int) -> float:
            begun = time.perf_counter()
            detector.predict(model, truth, places=[i % len(truth)], **size)
            return 1000 * (time.perf_counter() - begun)

        return classify
    detect = of_unet(model) if run.spec["detector"] == UNET else of_coco(detector, model, truth, **size)
    enhance = enhancer(run.spec["enhance"]) if "enhance" in run.spec else None
    enhanced = enhanced_folder(run.out, run.spec.get("enhance"))
    files = list(pictures(truth, plan["data"], plan["split"], enhanced).items())
    originals = list(coco.image_files(truth, plan["data"], plan["split"]).values())

    def handle(i: int) -> float | None:
        if enhance and enhance.spec.startswith("dir:"):
            return None
        original = originals[i % len(originals)]
        picture = decode_rgb(original.read_bytes(), str(original))[0] if enhance else None
        begun = time.perf_counter()
        if enhance and picture is not None:  # its cost, beside the file that it wrote before
            enhance(picture)
        detect(*files[i % len(files)])
        return 1000 * (time.perf_counter() - begun)

    return handle


def of_coco(detector: Any, model: Any, truth: Any, **size: Any) -> Callable[[Any, Path], Any]:
    """Return a function that detects what is in a picture, given by id and file."""
    classes = coco.class_map(detector.names(model), truth)
    return lambda image_id, file: detector.predict(model, {image_id: file}, classes, **size)


def of_unet(model: Any) -> Callable[[Any, Path], Any]:
    """Return a function that finds the foreground of a picture, or denoises it where the model learnt nothing else."""
    if model.segments:
        return lambda image_id, file: next(model.predict([file], noise=0))
    return lambda image_id, file: model.denoise(file)
