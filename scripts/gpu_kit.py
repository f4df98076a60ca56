"""The stages of `bash scripts/gpu_kit.sh`, which says how to call them. docs/gpu_kit.md tells the whole story.

    pack      wheels of what the other machine lacks, our own wheel, and the data of studies -> $KIT
    install   an environment: the machine's packages, and the wheels of those that it lacks
    tests, benchmark, study, all     run in that environment; results -> $OUT

Only the standard library is imported before the environment exists.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import time
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
KIT = Path(os.environ.get("KIT", "gpu_kit"))
OUT = Path(os.environ.get("OUT", "runs/gpu_kit"))
ARCHIVE = Path(os.environ.get("ARCHIVE") or OUT / "results.tar.gz")
DEVICE, SIZE = os.environ.get("DEVICE", "cuda"), os.environ.get("SIZE", "full")
JOBS, LIMIT = int(os.environ.get("JOBS", "8")), float(os.environ.get("LIMIT", "840"))
ARCHIVE_EVERY, ENDING = 10.0, 10.0  # seconds between archives; seconds of LIMIT kept for ending what runs
STAGE_LIMITS = {"tests": 120.0, "benchmark": 180.0}  # seconds; a study takes what is left
LETTERS = {"a": "tests", "b": "benchmark", "c": "study"}

# What a machine that is made for PyTorch has; carried only when CARRY= names it
ON_THE_MACHINE = (
    *("torch", "torchvision", "numpy", "scipy", "matplotlib", "pillow", "pyyaml", "requests", "psutil"),
    *("opencv-python", "opencv-python-headless", "onnx", "onnxruntime"),
)
# Carried beside what pyproject.toml names; of Ultralytics' own needs, all that `import ultralytics` and a training need
ALWAYS_CARRIED = ("ultralytics", "ultralytics-thop", "pytest>=8", "pluggy", "iniconfig", "packaging", "pygments")
IMPORTED = {  # what has to be importable before a stage starts, beside what was carried, and the package that brings it
    **{name: name for name in ("torch", "torchvision", "numpy", "scipy", "matplotlib", "requests", "psutil", "onnx")},
    **{"onnxruntime": "onnxruntime", "pytest": "pytest", "polars": "polars"},
    **{"cv2": "opencv-python-headless", "PIL": "pillow", "yaml": "pyyaml", "yolo_wnlb": "yolo-wnlb"},
}
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014", "manylinux_2_12", "manylinux1")
WEIGHTS_AND_PICTURES = (".pt", ".onnx", ".jpg", ".png", ".npy", ".cache")  # left out of the archive, but for tables


class Mistake(Exception):
    """What the user has to mend; printed as one line, with status 2."""


# ---- pack: on a machine with a network -----------------------------------------------------------


def pack(studies: list[str]) -> int:
    """Make the folder that travels, and say what everything in it weighs."""
    wheels = KIT / "wheels"
    clear(KIT, "kit.json")
    wheels.mkdir(parents=True)
    (KIT / "kit.json").write_text(json.dumps({"code": "unfinished"}), encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    target = ["--only-binary=:all:", "--python-version", "3.12", "--implementation", "cp"]
    for name in PLATFORMS:
        target += ["--platform", f"{name}_x86_64"]
    requirements = carried()
    for requirement in requirements.values():
        call([*pip, "download", "-q", "--no-deps", *target, "-d", str(wheels), requirement])
    call([*pip, "wheel", "-q", "--no-deps", "-w", str(wheels), str(ROOT)])
    files = sorted({file for study in studies for file in files_of(study_file(study))})
    with tarfile.open(KIT / "data.tar.gz", "w:gz", dereference=True) as tar:
        for file in files:
            tar.add(file, arcname=file.as_posix(), recursive=False)
    kit = {"code": digest_of_code(), "studies": studies, "packages": list(requirements)}
    (KIT / "kit.json").write_text(json.dumps(kit, indent=1) + "\n", encoding="utf-8")

    sizes = {str(file.relative_to(KIT)): file.stat().st_size for file in sorted(KIT.rglob("*")) if file.is_file()}
    sizes["the repository itself"] = repository_bytes()
    for name, size in sizes.items():
        print(f"{size / 2**20:8.2f} MiB  {name}")
    total, most = sum(sizes.values()) / 2**20, float(os.environ.get("MIB", "64"))
    print(f"{total:8.2f} MiB  in all, {most:g} may travel; {len(files)} files of {len(studies)} studies")
    if total > most:
        raise Mistake(f"{KIT} is too large: {total:.1f} MiB of {most:g}; pack fewer studies")
    return 0


def carried() -> dict[str, str]:
    """Return what to download: what this project needs and the other machine lacks, {package: requirement}.

    In the versions that are installed here, or, of what is not, as the project asks for it.
    """
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    asked = [*ALWAYS_CARRIED, *project["dependencies"], *extras["export"], *extras["evaluate"]]
    requirements = {}
    for requirement in [*asked, *os.environ.get("CARRY", "").split()]:
        wanted = requirement.partition(";")[0].strip()
        name = normal(re.split(r"[^\w.-]", wanted)[0])
        if name not in ON_THE_MACHINE or requirement not in asked:
            requirements[name] = f"{name}=={version}" if (version := installed(name)) else wanted
    return requirements


def files_of(study: Path) -> Iterator[Path]:
    """List the files that a study reads and that are not in the repository, relative to its root."""
    from yolo_wnlb.data.folders import is_drawn
    from yolo_wnlb.reading import read_yaml

    content = read_yaml(study)
    made = [Path(folder) for folder in content.get("darken") or {}]
    rows = list((content.get("rows") or {}).values())
    sources = [how["source"] for how in (content.get("darken") or {}).values()]
    sources += [content["data"], *(row["data"] for row in rows if row.get("data"))]
    for source in map(Path, (name for name in sources if not is_drawn(name))):
        folder = source.parent if source.suffix else source
        if any(folder == path or path in folder.parents for path in made):
            continue
        if not folder.is_dir():
            raise Mistake(f"{study} reads {source}, which is not here; put the data set there, or a link to it")
        if "path" in (read_yaml(file) if (file := folder / "data.yaml").is_file() else {}):
            raise Mistake(f"{file} has a key path, which will be another on the other machine; take it out")
        yield from (file for file in sorted(folder.rglob("*")) if file.is_file() and file.suffix != ".cache")
    given = {str(source) for row in rows for source in sources_of(row)}
    for weights in given - {*content["rows"]}:
        for seed in content.get("seeds") or [0]:
            file = Path(weights.format(seed=seed))
            if not file.is_file():
                raise Mistake(f"{study} starts from {file}, which is not here; train or fetch it first")
            yield file


def sources_of(row: dict[str, Any]) -> list[Any]:
    """Return what a row evaluates or starts from: nothing, one source, or two of a fused network."""
    source = row.get("weights") or row.get("start") or []
    return source if isinstance(source, list) else [source]


def repository_bytes() -> int:
    """Return the size of the files that git knows."""
    listed = subprocess.run(["git", "ls-files", "-z"], capture_output=True, check=True).stdout.decode().split("\0")
    return sum(Path(name).stat().st_size for name in listed if name and Path(name).is_file())


def digest_of_code() -> str:
    """Return a hash of all that our own wheel is made of."""
    digest = hashlib.sha256()
    for folder in ("yolo_wnlb", "cfg", "datasets"):
        for file in sorted((ROOT / folder).rglob("*")):
            if file.suffix in (".py", ".yaml"):
                digest.update(file.relative_to(ROOT).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def study_file(name: str) -> Path:
    """Return the YAML of a study, from its path or the name of a file in scripts/studies."""
    file = Path(name) if name.endswith(".yaml") else Path(f"scripts/studies/{name}.yaml")
    if not file.is_file():
        known = ", ".join(sorted(path.stem for path in Path("scripts/studies").glob("*.yaml")))
        raise Mistake(f"there is no study {file}; choose from {known}")
    return file


# ---- install: on the machine with the GPU --------------------------------------------------------


def install(environment: Path) -> int:
    """Make an environment of the machine's packages and the wheels of those that it lacks; not twice of one kit."""
    if not (KIT / "kit.json").is_file():
        raise Mistake(f"{KIT} holds no kit; make one where there is a network: bash scripts/gpu_kit.sh pack")
    kit = (KIT / "kit.json").read_text(encoding="utf-8")
    if json.loads(kit)["code"] != digest_of_code():
        raise Mistake(f"{KIT} was packed from other code than lies here; run bash scripts/gpu_kit.sh pack again")
    done = environment / "kit.json"
    if done.is_file() and done.read_text(encoding="utf-8") == kit:
        return 0
    clear(environment, "pyvenv.cfg")
    call([sys.executable, "-m", "venv", "--without-pip", str(environment)])
    paths = {"base": str(environment), "platbase": str(environment)}
    packages = Path(sysconfig.get_path("purelib", "venv", paths))
    machine = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (packages / "machine.pth").write_text("\n".join(machine) + "\n", encoding="utf-8")
    missing = [
        str(wheel)
        for wheel in sorted((KIT / "wheels").glob("*.whl"))
        if normal(wheel.name.split("-")[0]) == "yolo-wnlb" or not installed(wheel.name.split("-")[0])
    ]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(environment / "bin/python")]
    call([*pip, "install", "-q", "--no-index", "--no-deps", "--no-compile", "--force-reinstall", *missing])
    if importlib.util.find_spec("polars") is None:
        shutil.copyfile(ROOT / "scripts/gpu_kit_polars.py", packages / "polars.py")
    done.write_text(kit, encoding="utf-8")
    print(f"{environment}: the packages of {sys.executable}, and {', '.join(Path(wheel).name for wheel in missing)}")
    return 0


def clear(folder: Path, mark: str) -> None:
    """Delete a folder of an earlier call, which the file `mark` tells; refuse to delete any other."""
    if folder.exists() and any(folder.iterdir()) and not (folder / mark).is_file():
        raise Mistake(f"{folder} holds something else, no {mark}; choose another folder, or empty it")
    shutil.rmtree(folder, ignore_errors=True)


def normal(name: str) -> str:
    """Return the name of a package as indexes write it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed(name: str) -> str | None:
    """Return the version of a package that this interpreter has, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


# ---- the stages ----------------------------------------------------------------------------------


class Clock:
    """Seconds left of a limit."""

    def __init__(self, limit: float) -> None:
        self.limit, self.begun = limit, time.monotonic()

    @property
    def left(self) -> float:
        """Seconds left, 0 or more."""
        return max(0.0, self.limit - (time.monotonic() - self.begun))


def run_stages(stage: str, studies: list[str]) -> int:
    """Run one stage or all of them. Returns 0 if all that was begun ended well or was stopped by its limit."""
    clock = Clock(LIMIT - ENDING)
    if stage == "study" and not studies:
        raise Mistake("study wants the name of one, or several: bash scripts/gpu_kit.sh study carparts-severe")
    files = [study_file(study) for study in studies]
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "device.json").write_text(json.dumps(surroundings(), indent=1) + "\n", encoding="utf-8")
    print((OUT / "device.json").read_text(encoding="utf-8"))
    well = True
    for name in STAGE_LIMITS if stage == "all" else [stage] if stage in STAGE_LIMITS else []:
        stage_clock = Clock(min(clock.left, STAGE_LIMITS[name]))
        for step, command in (tests() if name == "tests" else benchmarks()).items():
            well &= run(name, step, command, stage_clock)
    if stage in ("all", "study"):
        if files:
            unpack()
        for file in files:
            well &= run("study", file.stem, compare(file), clock)
    print(f"results: {OUT}, all but weights in {ARCHIVE}")
    return 0 if well else 1


def tests() -> dict[str, list[str]]:
    """Return the commands of the first stage."""
    tested = "tests/test_cuda.py" if Path("tests/test_cuda.py").is_file() else "tests"
    pytest = [sys.executable, "-m", "pytest", "-vv", "-m", "cuda", "--durations=10", f"--junitxml={OUT / 'tests.xml'}"]
    return {"tests": [*pytest, tested]}


def benchmarks() -> dict[str, list[str]]:
    """Return the commands of the second stage."""
    import onnxruntime

    half, table = ["--half"] * (DEVICE == "cuda"), OUT / "benchmark"
    if SIZE == "tiny":
        small = ["--cases", "plain", "P3-P5", "--scale", "n", "--imgsz", "64", "--rounds", "1"]
        steps = {
            "block": ["block", "--stages", "P5", "--rounds", "1"],
            "training": ["training", *small, "--batch", "2"],
            "inference": ["inference", *small, *half],
        }
        onnx = ["onnx", *small]
    else:
        cases, all_keys = ["--cases", "plain", "P3-P5", "P2-P5, pooled 8/4/2/1"], ["P2-P5"]
        steps = {
            "block": ["block", "--rounds", "20"],
            "training": ["training", *cases, "--scale", "m", "--batch", "16", "--rounds", "9"],
            "inference": ["inference", *cases, *all_keys, *half, "--scale", "n", "m", "--rounds", "30"],
            "inference-32": ["inference", *cases, *half, "--scale", "m", "--batch", "32", "--rounds", "9"],
            # the largest of all, alone: should it not fit, it takes nothing with it
            "training-all-keys": ["training", "--cases", *all_keys, "--scale", "m", "--batch", "16", "--rounds", "9"],
        }
        steps["training-all-keys"] += ["--out", str(table / "all-keys")]
        onnx = ["onnx", *cases, "--scale", "n", "--rounds", "9"]
    if DEVICE == "cpu" or "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        steps["onnx"] = onnx
    else:
        print(f"no onnx: ONNX Runtime {onnxruntime.__version__} here has no CUDA build")
    given = ["--device", DEVICE, "--out", str(table)]
    return {
        name: [sys.executable, "scripts/benchmark.py", task, *given, *words] for name, (task, *words) in steps.items()
    }


def compare(study: Path) -> list[str]:
    """Return the command of a study; with SIZE=tiny it is written anew with a row or three of one short epoch."""
    if SIZE == "tiny":
        study = tiny(study)
    program = str(Path(sys.executable).with_name("yolo-wnlb"))
    device = "0" if DEVICE == "cuda" else "cpu"
    return [program, "compare", str(study), f"out={OUT / study.stem}", f"jobs={JOBS}", f"device={device}"]


def tiny(study: Path) -> Path:
    """Write the rehearsal of a study: its baseline, what that starts from and one more row, an epoch of 64 px each."""
    import yaml

    content = yaml.safe_load(study.read_text(encoding="utf-8"))
    rows = content["rows"]
    baseline = content.get("baseline") or next(iter(rows))
    baselines = baseline if isinstance(baseline, list) else [baseline]
    kept = dict.fromkeys(name for row in baselines for name in (*sources_of(rows[row]), row) if name in rows)
    others = [name for name in rows if name not in kept and rows[name].get("start") in [*kept]]
    small = {"yolo": {"imgsz": 64, "close_mosaic": 0, "warmup_epochs": 0}}
    small |= {"classifier": {"imgsz": 32}, "fusion": {"imgsz": 32}}
    content["rows"] = {
        name: {key: value for key, value in rows[name].items() if key != "train"} for name in [*kept, *others[:1]]
    }
    content["train"] = {
        detector: {**given, "epochs": 1, **small.get(detector, {"min_size": 64, "max_size": 64})}
        for detector, given in content.get("train", {}).items()
    }
    content["seeds"] = content.get("seeds", [0])[:1]
    OUT.mkdir(parents=True, exist_ok=True)
    file = OUT / f"{study.stem}-tiny.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return file


def unpack() -> None:
    """Lay out the data that was carried; what lies there already stays."""
    with tarfile.open(KIT / "data.tar.gz") as tar:
        new = [member for member in tar if not is_file_of(Path(member.name), member.size)]
        tar.extractall(".", members=new, filter="data")
    print(f"unpacked {len(new)} files of data")


def is_file_of(file: Path, size: int) -> bool:
    """Tell whether a file lies there whole: an unpacking that was stopped leaves a shorter one."""
    return file.is_file() and file.stat().st_size == size


def run(stage: str, step: str, command: list[str], clock: Clock) -> bool:
    """Run a command until it ends or its time is up, archiving meanwhile. True unless it failed."""
    log, begun = OUT / f"{stage}-{step}.log" if stage != step else OUT / f"{stage}.log", time.monotonic()
    print(f"\n{time.strftime('%H:%M:%S')} {stage}, {step}: {clock.left:.0f} s at most; {log}", flush=True)
    status: int | None = None
    in_time = clock.left > 1
    if in_time:
        threads = max(1, (os.cpu_count() or 1) // JOBS) if stage == "study" else 1
        environment = {
            **os.environ,
            **{"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "MPLBACKEND": "Agg"},
            **{"YOLO_CONFIG_DIR": str((OUT / "settings").resolve()), "OMP_NUM_THREADS": str(threads)},
            **({"YOLO_WNLB_TEST_DEVICE": "cpu"} if DEVICE == "cpu" else {}),
        }
        with log.open("a", encoding="utf-8") as file:  # a study that goes on keeps the log of what came before
            process = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, env=environment, start_new_session=True
            )
            try:
                while status is None and clock.left:
                    try:
                        status = process.wait(min(ARCHIVE_EVERY, clock.left))
                    except subprocess.TimeoutExpired:
                        archive()
            finally:
                end(process)
    ended = ("stopped by its limit" if in_time else "not begun") if status is None else f"status {status}"
    outcome = {"stage": stage, "step": step, "ended": ended, "seconds": round(time.monotonic() - begun, 1)}
    record = OUT / "stages.json"
    earlier = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else []
    outcomes = [*earlier, {**outcome, "command": " ".join(command)}]
    record.write_text(json.dumps(outcomes, indent=1) + "\n", encoding="utf-8")
    archive()
    if in_time:
        print("\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-25:]))
    print(f"{time.strftime('%H:%M:%S')} {stage}, {step}: {ended} after {outcome['seconds']} s", flush=True)
    return status in (0, None)


def end(process: subprocess.Popen[Any]) -> None:
    """End a process and all that it started: as Ctrl-C would, then for good."""
    for number, patience in ((signal.SIGINT, 10), (signal.SIGTERM, 5), (signal.SIGKILL, 5)):
        if process.poll() is not None:
            break
        os.killpg(process.pid, number)
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue


def archive() -> None:
    """Write all results but weights, pictures and large files into one file, whole at every moment."""
    draft = ARCHIVE.with_name(f".{ARCHIVE.name}")
    ARCHIVE.parent.mkdir(parents=True, exist_ok=True)
    own = (ARCHIVE.resolve(), draft.resolve())
    with tarfile.open(draft, "w:gz") as tar:
        for file in sorted(OUT.rglob("*")):
            small = file.is_file() and file.stat().st_size < 2**21 and file.resolve() not in own
            if small and (file.suffix not in WEIGHTS_AND_PICTURES or file.stem.startswith("table")):
                tar.add(file, arcname=file.relative_to(OUT).as_posix())
    draft.replace(ARCHIVE)


def surroundings() -> dict[str, Any]:
    """Describe device and versions.

    Raises: Mistake: something that a stage imports is missing, or there is no such device.
    """
    kit = json.loads((KIT / "kit.json").read_text(encoding="utf-8"))
    lacking = [package for module, package in IMPORTED.items() if importlib.util.find_spec(module) is None]
    lacking += [package for package in kit["packages"] if not installed(package)]
    if lacking:
        raise Mistake(f"this machine lacks {', '.join(lacking)}; pack again with CARRY='{' '.join(lacking)}'")
    import onnxruntime
    import torch

    if DEVICE not in ("cuda", "cpu") or (DEVICE == "cuda" and not torch.cuda.is_available()):
        raise Mistake(f"there is no device {DEVICE!r} for PyTorch {torch.__version__} here; DEVICE=cpu is a rehearsal")
    gpu: dict[str, Any] = {}
    if DEVICE == "cuda":
        found = torch.cuda.get_device_properties(0)
        gpu = {
            "device": found.name,
            "memory, GiB": round(found.total_memory / 2**30, 1),
            "compute capability": f"{found.major}.{found.minor}",
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
        if shutil.which("nvidia-smi"):
            query = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,power.limit", "--format=csv,noheader"]
            answer = subprocess.run(query, capture_output=True, text=True, check=False)
            gpu["driver, clock, power"] = answer.stdout.strip()
    packages = ("torch", "torchvision", "triton", "numpy", "ultralytics", "yolo-wnlb", "onnxruntime", "pycocotools")
    return {
        "device": f"CPU, {os.cpu_count()} cores",
        **gpu,
        "python": platform.python_version(),
        **{name: version for name in packages if (version := installed(name))},
        "onnxruntime providers": onnxruntime.get_available_providers(),
        "code": digest_of_code(),
        "size": SIZE,
        "date": time.strftime("%Y-%m-%d %H:%M"),
    }


def call(command: Iterable[str]) -> None:
    """Run a command, or end with what it printed."""
    done = subprocess.run(list(command), capture_output=True, text=True, check=False)
    if done.returncode:
        raise Mistake(f"{' '.join(command)} ended with status {done.returncode}: {done.stderr.strip()[-1500:]}")


def main(arguments: list[str]) -> int:
    """Run one stage; returns the exit status."""
    os.chdir(ROOT)
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))  # ends like Ctrl-C, so that children end too
    stage, *names = arguments
    try:
        if stage == "pack":
            return pack(names)
        if stage == "install":
            return install(Path(names[0]))
        return run_stages(LETTERS.get(stage, stage), names)
    except Mistake as mistake:
        print(f"gpu_kit: {mistake}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"gpu_kit: stopped; what is done is in {OUT}", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
