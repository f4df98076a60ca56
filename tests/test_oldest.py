"""The oldest Ultralytics that pyproject.toml allows: the tests that touch it run on that release too."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from yolo_wnlb import doctor

ROOT = Path(__file__).resolve().parent.parent
OLDEST = re.search(r'"ultralytics>=([\d.]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))[1]
NAMES = (
    "contract",
    "graft",
    "weights",
    "channels",
    "dark_training",
    "denoise",
    "decoder",
    "adversarial",
    "balance",
    "night",
    "scene",
    "sixteen_bits",
)
TESTS = [f"test_{name}.py" for name in NAMES]
CODE = """
import sys, pytest, ultralytics
assert ultralytics.__version__ == sys.argv[1], f"{ultralytics.__version__} from {ultralytics.__file__}"
sys.exit(pytest.main(sys.argv[2:]))
"""


def test_doctor_and_pyproject_agree_on_the_oldest_release():
    assert ".".join(map(str, doctor.OLDEST)) == OLDEST


def test_contract_graft_and_weights_hold_on_the_oldest_release(tmp_path):
    release = tmp_path / "release"
    options = ["--no-deps", "--target", release, "--disable-pip-version-check", "--retries", "1", "--timeout", "15"]
    command = [sys.executable, "-m", "pip", "install", f"ultralytics=={OLDEST}", *map(str, options)]
    pip = subprocess.run(command, capture_output=True, text=True, check=False)
    if pip.returncode and "(from versions: none)" in pip.stderr:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no package registry: {pip.stderr.strip()[-300:]}")
    assert pip.returncode == 0, pip.stderr

    # settings of its own: another release resets the settings file it finds
    env = {**os.environ, "PYTHONPATH": str(release), "YOLO_CONFIG_DIR": str(tmp_path)}
    files = [str(file) for name in TESTS if (file := ROOT / "tests" / name).exists()]
    command = [sys.executable, "-c", CODE, OLDEST, *files, "--basetemp", str(tmp_path / "tests")]
    tests = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert tests.returncode == 0, tests.stdout[-8000:] + tests.stderr[-2000:]
