"""Which folder may import which: the table of CONTRIBUTING.md, held against every import of the package.

A folder stands above all it imports, so that the package can be read from the ground up.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "yolo_wnlb"
GROUND = {"checkpoints", "folding", "paths", "pairwise", "reading", "scene", "version", "words", "wnlb"}
MAY_IMPORT = {  # folder, or module of the root: what of ours it may import
    **{name: set() for name in GROUND},
    "folding": {"pairwise"},
    "wnlb": {"pairwise", "folding"},
    "terminal": GROUND,
    "imaging": GROUND,
    "attacks": GROUND,
    "data": GROUND | {"imaging"},
    "calibrate": GROUND | {"imaging", "data"},
    "transforms": GROUND | {"imaging"},
    "metrics": GROUND | {"imaging", "data"},
    "denoiseg": GROUND | {"imaging", "data", "metrics"},
    "yolo": GROUND | {"attacks", "imaging", "data", "denoiseg", "transforms"},
    "detectors": GROUND | {"attacks", "imaging", "data", "metrics", "yolo"},
    "classifiers": GROUND | {"attacks", "imaging", "data", "metrics", "yolo", "detectors"},
    "twins": GROUND | {"imaging", "data", "metrics", "denoiseg", "yolo"},
    "visualize": GROUND | {"imaging", "data", "metrics", "yolo", "classifiers"},
    "adapt": GROUND | {"imaging", "data", "metrics", "yolo", "detectors", "visualize"},
    "activate": GROUND | {"yolo"},
    "study": GROUND
    | {"attacks", "imaging", "data", "metrics", "yolo", "denoiseg", "detectors", "classifiers", "twins", "visualize"},
    "report": GROUND | {"imaging", "data", "metrics", "yolo", "detectors", "twins", "visualize", "study"},
    "watch": GROUND | {"imaging", "data", "yolo", "report"},
    "doctor": GROUND | {"activate"},
    "commands": {"*"},
    "cli": {"*"},
    "__main__": {"*"},
    "__init__": {"*"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def imported(file: Path) -> set[str]:
    """Return the modules of this package that a file imports, wherever it does so, as paths below the package."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file.name}:{node.lineno}: imports are written in full here"
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for parts in (name.split(".") for name in names if name and name.split(".")[0] == "yolo_wnlb"):
            path = PACKAGE.joinpath(*parts[1:])
            if len(parts) > 1 and (path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()):
                found.add(path.relative_to(PACKAGE).as_posix())
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_a_module_imports_only_what_stands_below_it(file):
    home = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    allowed = MAY_IMPORT[home] | {home}
    upwards = {name for name in imported(file) if name.split("/")[0] not in allowed} if "*" not in allowed else set()
    assert not upwards, f"{home} may import {', '.join(sorted(allowed))}"


def test_no_two_modules_import_each_other():
    """A circle of any length would show up as modules that never become free of what they wait for."""
    waits = {file.relative_to(PACKAGE).with_suffix("").as_posix(): imported(file) for file in FILES}
    waits = {name.removesuffix("/__init__"): wanted for name, wanted in waits.items() if name != "__init__"}
    waits = {name: {w for w in wanted if w in waits and w != name} for name, wanted in waits.items()}
    floors = 0
    while waits:
        free = {name for name, wanted in waits.items() if not wanted & waits.keys()}
        assert free, f"these import each other in a circle: {sorted(waits)}"
        waits = {name: wanted for name, wanted in waits.items() if name not in free}
        floors += 1
    assert floors <= 16


@pytest.mark.parametrize("folder", [file.parent.name for file in PACKAGE.glob("*/__init__.py")])
def test_the_init_file_of_a_folder_holds_its_docstring_and_no_import(folder):
    """The start-up finder imports through `yolo`, in every interpreter that imports Ultralytics."""
    body = ast.parse((PACKAGE / folder / "__init__.py").read_text(encoding="utf-8")).body
    assert len(body) == 1 and isinstance(body[0], ast.Expr)


def test_importing_the_package_loads_neither_torch_nor_ultralytics():
    code = "import os, sys; before = {*sys.modules}; import yolo_wnlb; print(*{*sys.modules} - before)"
    run = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {*run.stdout.split()} == {"yolo_wnlb", "yolo_wnlb.activate", "yolo_wnlb.version", "__future__"}


def test_every_public_name_is_there():
    import yolo_wnlb

    assert {name for name in yolo_wnlb.__all__ if getattr(yolo_wnlb, name, None) is None} == set()
    assert yolo_wnlb._HOME.keys() | {"__version__"} == {*yolo_wnlb.__all__}
