"""Say what is installed, whether activation works, and what to do about each problem.

What counts is whether a module can be imported, under whatever name its distribution was installed: `ultralytics` also
comes as ultralytics-opencv-headless, `cv2` from four distributions, `albumentations` also as AlbumentationsX.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
import site
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path

from yolo_wnlb import activate
from yolo_wnlb.version import __version__

OLDEST = (8, 4, 0)  # of ultralytics, as in pyproject.toml: the first release with YOLO26
START_FILE = "yolo_wnlb.pth"
OPTIONAL = {  # modules of the extras in pyproject.toml, with what needs them
    **dict.fromkeys(("onnx", "onnxruntime", "onnxslim"), "needed for ONNX only"),
    "lap": "needed for watch only",
    "rawpy": "needed for RAW files only",
    "hotcoco": "with it evaluate, compare, report and robustness are faster",
}


@dataclass
class Finding:
    """One line of the report: what was looked at, what was found, and the remedy if it is a problem."""

    subject: str
    found: str
    problem: str = ""

    def __str__(self) -> str:
        line = f"{'!!' if self.problem else 'ok'}  {self.subject:<15}{self.found}"
        return f"{line}\n{'':19}-> {self.problem}" if self.problem else line


def examine() -> list[Finding]:
    """Look at everything, in the order in which a failure explains the next."""
    found = [python(), opencv(), ultralytics(), activation()]
    found += [required(module) for module in ("torch", "torchvision", "numpy")]
    found += [optional(module) for module in OPTIONAL]
    return [*found, albumentations(), devices()]


# ---- modules, and the distributions that they come from ---------------------------------------------


@functools.cache
def modules_in(folder: str) -> dict[str, dict[str, str]]:
    """Return {module: {distribution: version}} of all that is installed in a folder."""
    modules: dict[str, dict[str, str]] = {}
    for distribution in metadata.distributions(path=[folder]):
        names = (distribution.read_text("top_level.txt") or "").split()
        for module in names or {file.parts[0] for file in distribution.files or ()}:
            modules.setdefault(module, {})[str(distribution.metadata["Name"])] = distribution.version
    return modules


def providers(module: str) -> dict[str, str]:
    """Return {distribution: version} of what wrote a module where it is imported from; several share one folder."""
    spec = find_spec(module)
    places = [*(spec.submodule_search_locations or ())] if spec else []
    return dict(sorted(modules_in(str(Path(places[0]).parent)).get(module, {}).items())) if places else {}


def described(module: str) -> str:
    """Return the version of a module, with the names of its distributions if those are others."""
    found = providers(module)
    if not found:
        return "not importable" if failure(module) else str(getattr(import_module(module), "__version__", "no version"))
    return found[module] if list(found) == [module] else ", ".join(f"{name} {found[name]}" for name in found)


def failure(module: str) -> str:
    """Import a module; return "" if that works, else the first line of what it says."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # albumentations asks the internet for its newest release
    try:
        import_module(module)
    except Exception as error:
        return next(iter(str(error).strip().splitlines()), type(error).__name__)
    return ""


def required(module: str) -> Finding:
    """Report a module that everything stands on."""
    if find_spec(module) is None:
        return Finding(module, "not installed", f"pip install {module}")
    if error := failure(module):
        return Finding(module, f"{described(module)} does not import: {error}", f"reinstall it: {again(module)}")
    return Finding(module, described(module))


def optional(module: str) -> Finding:
    """Report a module of OPTIONAL; without it the installation is whole."""
    if find_spec(module) is None:
        return Finding(module, f"not installed, {OPTIONAL[module]}: pip install {module}")
    return Finding(module, described(module))


def again(module: str) -> str:
    """Return the command that installs the distributions of a module again."""
    return f"pip install --force-reinstall --no-deps {' '.join(providers(module)) or module}"


# ---- one by one -------------------------------------------------------------------------------------


def python() -> Finding:
    """Report the interpreter, and this package."""
    home = Path(__file__).resolve().parent
    return Finding("python", f"{sys.version.split()[0]} ({sys.platform}), yolo-wnlb {__version__} in {home}")


def opencv() -> Finding:
    """Report OpenCV. Its distributions write into one folder: the last one wins, and leaves parts of the others."""
    names = providers("cv2")
    error = "not installed" if find_spec("cv2") is None else failure("cv2")
    no_screen = "libGL" in error or "libgthread" in error  # nor the libraries that draw on one
    wanted = best_opencv(names, headless=no_screen)
    mend = f"pip uninstall -y {' '.join(names)} && " if names else ""
    mend += f"pip install --no-cache-dir {wanted}"
    if error:
        return Finding("opencv", f"{described('cv2')}: {error}" if names else error, mend)
    if len({*names.values()}) > 1:
        return Finding("opencv", f"{described('cv2')} share one folder; {wanted} is enough for all", mend)
    several = "; they share one folder, which is harmless while their versions agree" if len(names) > 1 else ""
    return Finding("opencv", described("cv2") + several)


def best_opencv(names: dict[str, str], headless: bool = False) -> str:
    """Return the one OpenCV to keep of those here: with contrib if one has it, headless if Ultralytics or all are."""
    headless |= is_headless(names) or "ultralytics-opencv-headless" in providers("ultralytics")
    contrib = any("contrib" in name for name in names)
    return f"opencv-{'contrib-' * contrib}python{'-headless' * headless}"


def is_headless(names: dict[str, str]) -> bool:
    """Tell whether there is an OpenCV, and none of those here draws on a screen."""
    return bool(names) and all("headless" in name for name in names)


def ultralytics() -> Finding:
    """Report Ultralytics, which must be recent enough and comes under two names."""
    oldest = ".".join(map(str, OLDEST))
    wanted = "ultralytics-opencv-headless" if is_headless(providers("cv2")) else "ultralytics"
    if find_spec("ultralytics") is None:
        return Finding("ultralytics", "not installed", f"pip install '{wanted}>={oldest}'")
    names = providers("ultralytics")
    if len({*names.values()}) > 1:
        mend = f"pip uninstall -y {' '.join(names)} && pip install '{wanted}>={oldest}'"
        return Finding("ultralytics", f"{described('ultralytics')} share one folder", mend)
    if not names and (error := failure("ultralytics")):
        return Finding("ultralytics", f"does not import: {error}", f"pip install -U 'ultralytics>={oldest}'")
    numbers = re.search(r"(\d+)\.(\d+)\.(\d+)", described("ultralytics"))
    if numbers is not None and tuple(map(int, numbers.groups())) < OLDEST:
        mend = f"too old, pip install -U '{next(iter(names), 'ultralytics')}>={oldest}'"
        return Finding("ultralytics", described("ultralytics"), mend)
    return Finding("ultralytics", described("ultralytics"))


def activation() -> Finding:
    """Ask a fresh interpreter in an empty folder, which imports only ultralytics, for the block."""
    ask = (
        "from importlib.util import find_spec; "
        "print('finds', bool(getattr(find_spec('yolo_wnlb'), 'origin', None)), flush=True); "
        "from ultralytics.nn import tasks; print('knows', getattr(getattr(tasks, 'wNLB', 0), '__module__', 'none'))"
    )
    with tempfile.TemporaryDirectory() as empty:  # what lies where the user stands must not be imported
        run = subprocess.run(
            [sys.executable, "-c", ask], cwd=empty, capture_output=True, text=True, errors="replace", check=False
        )
    if "knows yolo_wnlb.wnlb" in run.stdout:
        return Finding("activation", "ultralytics knows wNLB without an import")
    if activate.disabled():
        mend = "unset YOLO_WNLB_DISABLE (in a running interpreter call yolo_wnlb.activate.install() then)"
        return Finding("activation", "switched off by YOLO_WNLB_DISABLE", mend)
    lines = run.stderr.strip().splitlines() or [f"the start-up file {START_FILE} was not run"]
    reason = next((line for line in lines if "yolo_wnlb could not" in line), "")
    home = Path(__file__).resolve().parents[1]
    if not reason and not any((Path(folder) / START_FILE).exists() for folder in site_folders()):
        found = f"not working: {START_FILE} lies in {home}, from which Python runs no start-up files"
        return Finding("activation", found, for_target(home, "finds True" in run.stdout))
    mend = "reinstall yolo-wnlb with --force-reinstall --no-deps; until then 'import yolo_wnlb' first"
    return Finding("activation", f"not working: {reason or lines[-1]}", mend)


def site_folders() -> list[str]:
    """Return the folders whose .pth files Python runs when it starts."""
    return [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]


def for_target(home: Path, is_found: bool) -> str:
    """Return what to do after `pip install --target`, whose folder is no site folder: import at every start."""
    if not is_found:
        return f"set PYTHONPATH={shlex.quote(str(home))}, then run yolo-wnlb doctor again"
    there = getattr(sys.modules.get("sitecustomize"), "__file__", None)  # Python imports one module of that name
    file = Path(there) if there and os.access(there, os.W_OK) else home / "sitecustomize.py"
    return f"python -c \"print('import yolo_wnlb', file=open(r'{file}', 'a'))\""


def albumentations() -> Finding:
    """Report albumentations or AlbumentationsX, which fill the same folder and are needed for `LowLight` only."""
    opencv = next(iter(providers("cv2")), "")
    extra = "-".join(word for word in ("contrib", "headless") if word in opencv) or "gui"
    successor = f"'albumentationsx[{extra}]'"  # its extra chooses the OpenCV: the one that is here
    if find_spec("albumentations") is None:
        newer = f", or {successor}" if sys.version_info >= (3, 11) else ""
        found = f"not installed, needed for the transform LowLight only: pip install albumentations{newer}"
        return Finding("albumentations", found)
    names = {name.lower(): version for name, version in providers("albumentations").items()}
    if len(names) > 1:
        mend = f"keep one: pip uninstall -y {' '.join(names)} && pip install albumentations"
        return Finding("albumentations", f"{' and '.join(names)} fill the same folder", mend)
    if error := failure("albumentations"):
        x = "albumentationsx" in names
        mend = f"it needs torch and an OpenCV: pip install torch {successor}" if x else again("albumentations")
        return Finding("albumentations", f"{described('albumentations')} does not import: {error}", mend)
    return Finding("albumentations", described("albumentations"))


def devices() -> Finding:
    """Report the accelerators that torch sees."""
    try:
        import torch
    except Exception as error:
        return Finding("devices", f"torch does not import: {error}", "pip install torch torchvision, as a pair")
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return Finding("devices", f"CUDA {torch.version.cuda}: {', '.join(names)}")
    if torch.backends.mps.is_available():
        return Finding("devices", "Apple MPS")
    return Finding("devices", f"CPU only, {torch.get_num_threads()} threads: training works, slowly")
