"""docs/your-night.md: every command on the page is one that the programs take."""

import re
import shlex
from pathlib import Path

import pytest
import ultralytics
import yaml
from ultralytics.cfg import entrypoint, get_cfg

from yolo_wnlb.cli import COMMANDS
from yolo_wnlb.imaging.camera import as_changes, settings
from yolo_wnlb.terminal.arguments import parse

PAGE = (Path(__file__).parents[1] / "docs/your-night.md").read_text(encoding="utf-8")
LINES = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


@pytest.fixture(autouse=True)
def camera(tmp_path, monkeypatch):
    """A folder with the file of a camera, which step 1 of the page writes."""
    monkeypatch.chdir(tmp_path)
    Path("mycam.yaml").write_text(yaml.safe_dump({"settings": as_changes(settings("severe", ev=-4, bayer="mono"))}))


def test_the_page_goes_from_a_clip_to_an_export():
    commands = [" ".join(shlex.split(line)[: 3 if line.startswith("yolo ") else 2]) for line in LINES]
    order = ["calibrate", "preview", "adapt", "segment train", "segment val", "robustness", "export", "export-check"]
    found = [next(i for i, command in enumerate(commands) if f" {name}" in f"{command} ") for name in order]
    assert found == sorted(found) and len(LINES) >= 10


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("yolo-wnlb ")])
def test_a_command_of_ours_is_parsed(line):
    _, name, *words = shlex.split(line)
    files, options = parse(words, COMMANDS[name])
    assert files or name == "calibrate"
    assert all(value is not None for value in options.values())


@pytest.mark.parametrize("line", [line for line in LINES if not line.startswith("yolo-wnlb ")])
def test_a_command_of_ultralytics_is_parsed(line, monkeypatch):
    asked = []

    class Recorder:
        """Stands in for YOLO: keeps what the command asks of it."""

        task = "segment"

        def __init__(self, model, task=None):
            self.model = model

        def __getattr__(self, mode):
            return lambda **options: asked.append((mode, self.model, options))

    program, *words = shlex.split(line)
    assert program == "yolo"
    monkeypatch.setattr(ultralytics, "YOLO", Recorder)
    monkeypatch.setattr("ultralytics.cfg.ARGV", [program, *words])
    entrypoint()
    [(mode, model, options)] = asked
    assert mode in words and f"model={model}" in words
    cfg = get_cfg(overrides={"task": "segment", "mode": mode, **options})
    if "lowlight" in options:
        assert cfg.lowlight["bayer"] == "mono" and cfg.lowlight["ev"] == [-4.0, -4.0]


def test_the_lamp_of_the_page_is_added_to_the_camera():
    [lamp] = [word for line in LINES if "lamp" in line for word in shlex.split(line) if word.startswith("lowlight=")]
    asked = settings(yaml.safe_load(lamp.removeprefix("lowlight=")))
    assert asked.lamp == (0.5, 0.7) and asked.bayer == "mono" and asked.ev == (-4, -4)
