"""What all tests share: an offline Ultralytics with settings of its own, models to start from, and its log."""

import atexit
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zlib

SETTINGS = tempfile.mkdtemp(prefix="yolo_wnlb_tests_")
atexit.register(shutil.rmtree, SETTINGS, ignore_errors=True)
# before anything imports ultralytics, and for every interpreter that a test starts
os.environ.update(YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false", YOLO_CONFIG_DIR=SETTINGS, MPLBACKEND="Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the maps are small: on a busy machine threads only wait for each other

import pytest  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402


def pytest_collection_modifyitems(config, items):
    """Leave the slow tests out, unless -m says which ones to run."""
    if not config.option.markexpr:
        slow = [item for item in items if item.get_closest_marker("slow")]
        items[:] = [item for item in items if item not in slow]
        config.hook.pytest_deselected(items=slow)


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """A function of a name, "yolov8n-seg", that returns the path of a checkpoint of that model.

    Its weights are random, and so are the statistics of its norms (equal outputs are no accident); its
    classes are c0 ... c79, and the w of its blocks, if it has any, is 0.25.
    """
    folder = tmp_path_factory.mktemp("sources")

    def checkpoint(name):
        from ultralytics import YOLO

        file = folder / f"{name}.pt"
        if file.exists():
            return file
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(zlib.crc32(name.encode()))
            model = YOLO(f"{name}.yaml", verbose=False).model
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    for positive in (module.weight, module.running_var):
                        positive.uniform_(0.5, 1.5)
                    for signed in (module.bias, module.running_mean):
                        signed.normal_(0, 0.1)
                if type(module).__name__ == "WNLB" and module.weighted:
                    module.w.fill_(0.25)
        model.names = {i: f"c{i}" for i in range(len(model.names))}
        torch.save({"model": model, "ema": None, "epoch": -1, "train_args": {}}, file)
        return file

    return checkpoint


@pytest.fixture
def log():
    """What Ultralytics logs, as a list of "LEVEL message" that grows."""
    from ultralytics.utils import LOGGER

    said = []

    def listen(record):  # a filter of the logger: it hears each record once, as it was written
        said.append(f"{record.levelname} {record.getMessage()}")
        return True

    level = LOGGER.level
    LOGGER.setLevel(logging.INFO)
    LOGGER.addFilter(listen)
    yield said
    LOGGER.removeFilter(listen)
    LOGGER.setLevel(level)


def tensors(outputs):
    """Flatten what a model returns, nested tuples, lists and dicts, into a list of tensors."""
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    if isinstance(outputs, dict):
        outputs = outputs.values()
    return [t for value in outputs for t in tensors(value)] if outputs is not None else []


def run_python(code, cwd, **env):
    """Run code in a fresh interpreter; returns the CompletedProcess with its output as text."""
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, timeout=300, check=False
    )
