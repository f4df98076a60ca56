"""scripts/benchmark.py: it runs, and writes what it measured with device and versions."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import shapes_set

SCRIPT = Path(__file__).parents[1] / "scripts/benchmark.py"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return shapes_set(tmp_path_factory.mktemp("benchmark") / "shapes", train=4, val=1)


@pytest.mark.parametrize(
    ("words", "rows"),
    [
        (["inference", "--cases", "P3-P5", "P2-P5, dot product"], ["plain", "P3-P5", "P2-P5, dot product"]),
        (["training", "--cases", "P3-P5", "denoise=features", "--batch", "1"], ["plain", "P3-P5", "denoise=features"]),
        (["loading", "--data", "DATA"], ["as it is", "mild", "severe"]),
    ],
    ids=["inference", "training", "loading"],
)
def test_a_benchmark_runs_and_keeps_what_it_measured(words, rows, data, tmp_path):
    words = [str(data) if word == "DATA" else word for word in words]
    command = [sys.executable, SCRIPT, *words, "--imgsz", "64", "--rounds", "1", "--device", "cpu", "--out", tmp_path]
    ended = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    (file,) = tmp_path.glob("*.json")
    kept = json.loads(file.read_text())
    assert kept["device"].startswith("CPU") and kept["torch"] and kept["ultralytics"] and words[0] in kept["command"]
    found = {row[1 if words[0] != "loading" else 0]: row for row in kept["rows"][1:]}
    assert list(found) == rows
    assert all(float(value) > 0 for row in found.values() for value in row[2:] if value)
    assert words[0] != "inference" or all(found["P3-P5"])
    assert file.with_suffix(".md").read_text().startswith(f"| {kept['rows'][0][0]} |")
