"""Say what is installed, whether activation works, and what to do about each problem."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib import metadata

from yolo_wnlb import activate

OLDEST = (8, 4, 0)  # of ultralytics, as in pyproject.toml: the first release with YOLO26
OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")


@dataclass
class Finding:
    """One line of the report: what was looked at, what was found, and the mend if it is a problem."""

    subject: str
    found: str
    problem: str = ""

    def __str__(self) -> str:
        line = f"{'!!' if self.problem else 'ok'}  {self.subject:<14}{self.found}"
        return f"{line}\n{'':18}-> {self.problem}" if self.problem else line


def examine() -> list[Finding]:
    """Look at everything, in the order in which a failure explains the next."""
    return [python(), ultralytics(), activation(), *packages(), opencv(), devices()]


def version(distribution: str) -> str | None:
    """Return the installed version, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def python() -> Finding:
    """Report the interpreter."""
    return Finding("python", f"{sys.version.split()[0]} ({sys.platform})")


def ultralytics() -> Finding:
    """Report Ultralytics, which must be recent enough."""
    found = version("ultralytics")
    oldest = ".".join(map(str, OLDEST))
    if found is None:
        return Finding("ultralytics", "not installed", f"pip install 'ultralytics>={oldest}'")
    numbers = re.match(r"(\d+)\.(\d+)\.(\d+)", found)
    old = numbers is not None and tuple(map(int, numbers.groups())) < OLDEST
    return Finding("ultralytics", found, f"too old, pip install -U 'ultralytics>={oldest}'" if old else "")


def activation() -> Finding:
    """Ask a fresh interpreter in an empty folder, which imports only ultralytics, for the block."""
    ask = "from ultralytics.nn import tasks; print('knows', getattr(getattr(tasks, 'wNLB', 0), '__module__', 'none'))"
    with tempfile.TemporaryDirectory() as empty:
        run = subprocess.run([sys.executable, "-c", ask], cwd=empty, capture_output=True, text=True, check=False)
    if "knows yolo_wnlb.wnlb" in run.stdout:
        return Finding("activation", "ultralytics knows wNLB without an import")
    if activate.disabled():
        mend = "unset YOLO_WNLB_DISABLE (in a running interpreter call yolo_wnlb.activate.install() then)"
        return Finding("activation", "switched off by YOLO_WNLB_DISABLE", mend)
    lines = run.stderr.strip().splitlines() or ["the start-up file yolo_wnlb.pth was not run"]
    said = next((line for line in lines if "yolo_wnlb could not" in line), lines[-1])
    mend = "reinstall yolo-wnlb with --force-reinstall --no-deps; until then 'import yolo_wnlb' first"
    return Finding("activation", f"not working: {said}", mend)


def packages() -> list[Finding]:
    """Report the packages that training, export and low light stand on."""
    findings = []
    for name in ("yolo-wnlb", "torch", "torchvision", "numpy"):
        found = version(name)
        findings.append(Finding(name, found or "not installed", "" if found else f"pip install {name}"))
    for name in ("onnx", "onnxruntime", "onnxslim"):
        findings.append(Finding(name, version(name) or f"not installed, needed for ONNX only: pip install {name}"))
    if not (version("albumentations") or version("albumentationsx")):
        findings.append(Finding("albumentations", "not installed, needed for the transform LowLight only"))
    if version("albumentations") and version("albumentationsx"):
        findings.append(
            Finding(
                "albumentations",
                "albumentations and albumentationsx fill the same folder",
                "keep one: pip uninstall -y albumentations albumentationsx && pip install albumentations",
            )
        )
    return findings


def opencv() -> Finding:
    """Find several OpenCV distributions: they write into one folder, and the last one wins."""
    here = {name: found for name in OPENCV if (found := version(name))}
    told = ", ".join(f"{name} {found}" for name, found in here.items()) or "not installed"
    clear = f"pip uninstall -y {' '.join(here)} && " if here else ""
    try:
        import cv2

        told += f" (imports as {cv2.__version__})"
    except Exception as error:
        mend = f"{clear}pip install --no-cache-dir opencv-python"
        return Finding("opencv", f"{told}; import fails: {error}", mend)
    if len(set(here.values())) > 1:
        mend = f"{clear}pip install opencv-python; one is enough for all"
        return Finding("opencv", f"{told}: different versions share one folder", mend)
    if len(here) > 1:
        told += "; both share one folder, harmless while the versions agree"
    return Finding("opencv", told)


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
