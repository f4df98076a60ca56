"""The oldest Ultralytics that pyproject.toml allows: the tests that touch it run on that release too."""

import os
import re
import subprocess
import sys
from pathlib import Path

from conftest import pip

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
import faulthandler, sys, pytest, ultralytics
assert ultralytics.__version__ == sys.argv[1], f"{ultralytics.__version__} from {ultralytics.__file__}"
code = pytest.main(sys.argv[2:])
faulthandler.dump_traceback_later(60, exit=True)  # an end that hangs shows where
sys.exit(code)
"""


def test_doctor_and_pyproject_agree_on_the_oldest_release():
    assert ".".join(map(str, doctor.OLDEST)) == OLDEST


def test_contract_graft_and_weights_hold_on_the_oldest_release(tmp_path):
    release = tmp_path / "release"
    pip("install", "--no-deps", "--target", release, f"ultralytics=={OLDEST}")

    # settings of its own: another release resets the settings file it finds
    env = {**os.environ, "PYTHONPATH": str(release), "YOLO_CONFIG_DIR": str(tmp_path)}
    files = [str(file) for name in TESTS if (file := ROOT / "tests" / name).exists()]
    options = ["--basetemp", str(tmp_path / "tests"), "-o", "faulthandler_timeout=300"]
    command = [sys.executable, "-c", CODE, OLDEST, *files, *options]
    tests = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert tests.returncode == 0, tests.stdout[-8000:] + tests.stderr[-2000:]
