"""What tests share: an offline Ultralytics with settings of its own, its log, models to start from, small detectors."""

import atexit
import contextlib
import itertools
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import zlib

import pytest

SETTINGS = tempfile.mkdtemp(prefix="yolo_wnlb_tests_")
atexit.register(shutil.rmtree, SETTINGS, ignore_errors=True)
# before anything imports ultralytics, and for every interpreter that a test starts
os.environ.update(YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false", YOLO_CONFIG_DIR=SETTINGS, MPLBACKEND="Agg")
# a proxy that nobody answers: Ultralytics looks for fonts online in spite of YOLO_OFFLINE, old releases without a limit
# of time, and a network that is half there would hold a run for ever. Pip alone keeps the proxies that were given
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
given = {name: os.environ[name] for name in PROXIES if name in os.environ}
given = json.loads(os.environ.setdefault("YOLO_WNLB_TESTS_PROXIES", json.dumps(given)))  # workers find it there
OUTSIDE = {**{name: value for name, value in os.environ.items() if name not in PROXIES}, **given}
os.environ.update(dict.fromkeys(PROXIES, "http://127.0.0.1:9"), no_proxy="localhost,127.0.0.1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the maps are small: on a busy machine threads only wait for each other

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as for a job in the background; children would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import yaml  # noqa: E402
from torch import nn  # noqa: E402

from yolo_wnlb.data.shapes import NAMES, SPLITS, generate, scene  # noqa: E402


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


@pytest.fixture
def seed():
    """Torch's random numbers from their start."""
    torch.manual_seed(0)


def tensors(outputs):
    """Flatten what a model returns, nested tuples, lists and dicts, into a list of tensors."""
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    if isinstance(outputs, dict):
        outputs = outputs.values()
    return [t for value in outputs for t in tensors(value)] if outputs is not None else []


def run_without_package(code, cwd):
    """Run code where nothing of this package can be imported, as if it was not installed; as `run_python`."""
    hidden = """
import sys
from ultralytics.nn.tasks import BaseModel
assert not hasattr(BaseModel.fuse, "_stock"), "activated"
for name in [name for name in sys.modules if name.partition(".")[0] == "yolo_wnlb"]:
    del sys.modules[name]
sys.modules["yolo_wnlb"] = None
"""
    return run_python(hidden + code, cwd, YOLO_WNLB_DISABLE="1")


def run_python(code, cwd, **env):
    """Run code in a fresh interpreter; returns the CompletedProcess with its output as text."""
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, timeout=300, check=False
    )


@contextlib.contextmanager
def stock_loader(*args, **options):
    """A loader by Ultralytics' build_dataloader, whose workers end by themselves.

    Left alone, InfiniteDataLoader.__del__ (8.4.0 to 8.4.190) kills them and then sets their event; where one was killed
    with the lock of that event in its hands, as happened once in some hundred loaders, it waits for ever.
    """
    from ultralytics.data.build import build_dataloader

    loader = build_dataloader(*args, **options)
    yield loader
    if hasattr(loader.iterator, "_workers"):
        loader.iterator._shutdown_workers()


def pip(*arguments, python=sys.executable, cwd=None):
    """Run pip. Without a registry the test is skipped, on CI it fails; it fails by any other error of pip too."""
    options = ["--no-input", "--disable-pip-version-check", "--retries", "1", "--timeout", "15"]
    command = [str(word) for word in (python, "-m", "pip", *arguments, *options)]
    done = subprocess.run(command, cwd=cwd, env=OUTSIDE, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode and "(from versions: none)" in done.stderr:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no package registry: {done.stderr.strip()[-300:]}")
    assert done.returncode == 0, done.stderr


def shapes_set(root, train, val):
    """Draw a small data set of shapes, 64 pixels wide; returns its data YAML."""
    root = generate(root, train=train, val=val, size=64)
    said = {"path": str(root), "train": "images/train", "val": "images/val", "names": list(NAMES)}
    (root / "data.yaml").write_text(yaml.safe_dump(said))
    return root / "data.yaml"


def bright_set(folder, train=8, val=4, size=64, **more):
    """Draw a tiny bright data set; returns its data YAML."""
    for split, count in zip(SPLITS, (train, val)):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for i in range(count):
            made = scene(np.random.default_rng([count, i]), size)
            cv2.imwrite(str(folder / f"images/{split}/{i}.png"), np.maximum(made.image, 60))
            lines = [f"{k} " + " ".join(map(str, p.ravel())) + "\n" for k, p in zip(made.classes, made.polygons)]
            (folder / f"labels/{split}/{i}.txt").write_text("".join(lines))
    file = folder / "data.yaml"
    file.write_text(yaml.safe_dump({"train": "images/train", "val": "images/val", "names": list(NAMES), **more}))
    return file


@pytest.fixture(scope="module")
def bright(tmp_path_factory):
    """The data YAML of a tiny bright data set."""
    return bright_set(tmp_path_factory.mktemp("bright"))


# ---- small detectors, and what they can learn --------------------------------------------------------

SOLO = {  # arguments of SOLOv2, which builds and trains it in seconds
    "backbone": "resnet18",
    "feat_channels": 32,
    "stacked_convs": 1,
    "mask_channels": 32,
    "kernel_channels": 32,
    "num_grids": (12, 8, 6, 4, 4),
    "scale_ranges": ((1, 24), (18, 48), (36, 96), (96, 999), (96, 999)),
    "min_size": 96,
    "max_size": 128,
}
FEW_REGIONS = {  # of Mask R-CNN, so that a step takes no second
    "max_size": 128,
    "rpn_post_nms_top_n_train": 60,
    "rpn_batch_size_per_image": 32,
    "box_batch_size_per_image": 16,
}


class Pyramid(nn.Module):
    """Five maps of 32 channels, enough to learn a few pictures by heart in seconds."""

    out_channels = 32

    def __init__(self):
        super().__init__()
        self.body = nn.ModuleDict()
        fed = 3
        for i, (side, stride) in enumerate(((5, 4), (3, 2), (3, 2), (3, 2), (3, 2))):
            convs = [nn.Conv2d(fed, 32, side, stride, side // 2, bias=False), nn.Conv2d(32, 32, 3, 1, 1, bias=False)]
            layers = [layer for conv in convs for layer in (conv, nn.BatchNorm2d(32), nn.ReLU())]
            self.body[f"layer{i}"], fed = nn.Sequential(*layers), 32

    def forward(self, x):
        maps = {}
        for name, layer in self.body.items():
            maps[name] = x = layer(x)
        return maps


def small_solov2(size=192, backbone=None, **options):
    """A SOLOv2 for five classes of objects of a fifth to half of `size` pixels."""
    from yolo_wnlb.detectors.solov2 import SOLOv2

    settings = {
        "feat_channels": 64,
        "stacked_convs": 2,
        "mask_channels": 32,
        "kernel_channels": 32,
        "num_grids": (16, 12, 8, 4, 4),
        "scale_ranges": ((1, 0.25 * size), (0.19 * size, 0.5 * size), (0.38 * size, size), (size, 9999), (size, 9999)),
        "min_size": size,
        "max_size": size,
    }
    return SOLOv2(backbone or Pyramid(), 5, **{**settings, **options})


def scenes(number, size, crowd=3):
    """The first scenes with 2 to `crowd` objects that are not too small for quarter-size masks."""
    drawn = (scene(np.random.default_rng(i), size) for i in itertools.count())
    large = (s for s in drawn if 2 <= len(s.classes) <= crowd and s.masks.sum((1, 2)).min() > (0.2 * size) ** 2)
    return itertools.islice(large, number)
