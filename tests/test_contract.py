"""What yolo_wnlb assumes of Ultralytics, one test each; test_oldest.py runs them on the oldest release too.

A failure here after an upgrade of Ultralytics names, in its message, the function of ours that breaks.
"""

import functools
import inspect
import re
import urllib.error
import urllib.request
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import yaml
from conftest import run_python
from torch import nn
from ultralytics import YOLO, cfg
from ultralytics.data import utils as data_utils
from ultralytics.data.augment import RandomHSV
from ultralytics.data.base import BaseDataset
from ultralytics.data.build import build_yolo_dataset
from ultralytics.engine import trainer as engine
from ultralytics.engine.tuner import Tuner
from ultralytics.engine.validator import BaseValidator
from ultralytics.models.yolo.segment import SegmentationTrainer
from ultralytics.nn import tasks
from ultralytics.nn.autobackend import AutoBackend
from ultralytics.nn.modules import C2f
from ultralytics.nn.modules import head as heads
from ultralytics.utils import SETTINGS, YAML, checks, downloads, nms, torch_utils

from yolo_wnlb.wnlb import COSINE, INITS, OPERATIONS, WNLB
from yolo_wnlb.yolo import grafting as surgery
from yolo_wnlb.yolo import weights
from yolo_wnlb.yolo.patches.arguments import ARGUMENTS, OPTIONS
from yolo_wnlb.yolo.patches.data import safe_download


def parameters(function):
    return list(inspect.signature(function).parameters)


class Probe(nn.Module):
    """Keeps the arguments that the parser gave it, and checks the first against what arrives."""

    def __init__(self, *args):
        super().__init__()
        self.args = args

    def forward(self, x):
        assert x.shape[1] == self.args[0], f"graft.complete: c2 is {self.args[0]} in front of layer {self.i}: {x.shape}"
        return x


# ---- ultralytics.utils.nms -----------------------------------------------------------------------


def test_overlaps_are_suppressed_by_torchvision_once_it_is_loaded(monkeypatch, tmp_path):
    code = "import sys, yolo_wnlb.detectors.ultralytics; sys.exit('torchvision' not in sys.modules)"
    assert run_python(code, tmp_path).returncode == 0
    import torchvision  # noqa: F401

    monkeypatch.delattr(nms.TorchNMS, "nms")
    [found] = nms.non_max_suppression(torch.rand(1, 6, 20) + torch.tensor([40, 40, 9, 9, 0, 0])[:, None], nc=2)
    assert len(found) < 20, "detectors.ultralytics: import torchvision"


# ---- ultralytics.nn.tasks ------------------------------------------------------------------------


def test_parse_model_takes_a_dictionary_the_channels_and_verbose():
    assert parameters(tasks.parse_model) == ["d", "ch", "verbose"], "patches.network.parse_model, graft.stage_ends"


def test_an_unknown_module_gets_its_arguments_verbatim(monkeypatch):
    monkeypatch.setattr(tasks, "Probe", Probe, raising=False)
    options = [*OPERATIONS, *INITS, COSINE, 3, 0.5, None, False, {"a": "c2"}]
    rows = [[-1, 1, "Conv", [24, 3, 2]], [-1, 1, "Probe", list(options)]]
    layers, _ = tasks.parse_model({"nc": 1, "backbone": rows, "head": []}, ch=3, verbose=False)
    assert list(layers[1].args) == options, "graft.complete passes options as positional arguments"


@pytest.mark.parametrize("name", ["yolov8n-seg.yaml", "yolo26n-seg.yaml"])
def test_the_word_c2_is_the_channels_of_the_layer_in_front_at_every_row(name, monkeypatch):
    monkeypatch.setattr(tasks, "Probe", Probe, raising=False)
    stock = tasks.yaml_model_load(name)
    count = len(stock["backbone"]) + len(stock["head"])
    model, _ = surgery.graft(stock, after=range(count - 1))
    for row in [*model["backbone"], *model["head"]]:
        if row[2] == surgery.NAME:
            row[2:] = ["Probe", ["c2"]]
    built = tasks.SegmentationModel(model, verbose=False)
    assert sum(isinstance(layer, Probe) for layer in built.model) == count - 1
    built.eval()(torch.zeros(1, 3, 64, 64))  # every Probe looks


def test_load_takes_weights_and_verbose():
    assert parameters(tasks.BaseModel.load) == ["self", "weights", "verbose"], "patches.network.load"


def test_every_detector_computes_its_loss_through_one_function():
    assert parameters(tasks.BaseModel.loss) == ["self", "batch", "preds"], "terms.loss"
    assert tasks.DetectionModel.loss is tasks.SegmentationModel.loss is tasks.BaseModel.loss
    for task in (tasks.ClassificationModel, tasks.PoseModel, tasks.OBBModel):
        assert task.loss is tasks.BaseModel.loss, "adversarial.prepare"
    for other in (tasks.RTDETRDetectionModel, tasks.WorldModel, tasks.YOLOEModel):
        assert other.loss is not tasks.BaseModel.loss, "adversarial.prepare and denoise.prepare refuse it"


@pytest.mark.parametrize("training", [True, False])
def test_a_model_that_is_given_a_batch_calls_its_loss_with_it(training, monkeypatch):
    model = YOLO("yolov8n.yaml", verbose=False).model.train(training)
    monkeypatch.setattr(tasks.BaseModel, "loss", lambda *arguments, **options: (arguments[1:], options))
    batch = {"img": torch.zeros(1, 3, 32, 32)}
    assert model(batch) == ((batch,), {})


def test_fuse_is_called_in_front_of_a_prediction_and_of_an_export(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    called, stock = [], tasks.BaseModel.fuse
    monkeypatch.setattr(tasks.BaseModel, "fuse", lambda *a, **k: (called.append("fuse"), stock(*a, **k))[1])
    YOLO("yolov8n-wnlb.yaml").predict(np.zeros((64, 64, 3), np.uint8), imgsz=64, verbose=False)
    assert called == ["fuse"], "patches.network.fuse"
    YOLO("yolov8n-wnlb.yaml").export(format="torchscript", imgsz=64)
    assert len(called) > 1, "patches.network.fuse"
    assert parameters(stock)[0] == "self", "patches.network.fuse"


@torch.inference_mode()
def test_a_fused_model_has_folded_blocks_and_computes_the_same():
    torch.manual_seed(0)
    model = YOLO("yolov8n-seg-wnlb4.yaml").model.eval()
    blocks = [m for m in model.modules() if isinstance(m, WNLB)]
    for i, block in enumerate(blocks):
        block.w.fill_(0.3 * i)  # the first does nothing
    x = torch.rand(1, 3, 64, 96)
    wanted = model(x)[0]
    model.fuse(verbose=False)
    assert [block.idle for block in blocks] == [True, False, False, False]
    for ours, theirs in zip(model(x)[0], wanted):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_model_keeps_its_layers_in_a_sequential_and_keys_carry_their_numbers(model):
    assert type(model.model) is nn.Sequential, "weights.layers_of"
    numbers = {int(re.match(r"model\.(\d+)\.", key)[1]) for key in model.state_dict()}
    assert numbers == {i for i, layer in enumerate(model.model) if layer.state_dict()}, "weights.align, weights.report"


def test_class_names_of_a_new_model_are_their_numbers(model):
    assert model.names == {0: "0", 1: "1"}, "weights.carry_names"


def test_a_model_name_is_looked_up_without_its_scale(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    asked = []
    stock = checks.check_file
    monkeypatch.setattr(checks, "check_file", lambda file, *a, **k: (asked.append(str(file)), stock(file, *a, **k))[1])
    found = tasks.yaml_model_load("yolov8m-seg-wnlb.yaml")
    # 8.4.0 asks for the name without the scale first, later releases for the name as given
    assert {"yolov8-seg-wnlb.yaml"} <= set(asked) <= {"yolov8m-seg-wnlb.yaml", "yolov8-seg-wnlb.yaml"}, "names in cfg/"
    assert (found["scale"], found["yaml_file"]) == ("m", "yolov8m-seg-wnlb.yaml"), "graft.load_yaml, weights._name"


def test_a_model_is_found_inside_of_every_wrapper_of_training(pristine):
    compiled = torch.compile(pristine)  # compiles at its first call only
    for wrapped in (pristine, compiled, nn.DataParallel(pristine), nn.DataParallel(compiled)):
        assert torch_utils.unwrap_model(wrapped) is pristine and weights.unwrap(wrapped) is pristine, "weights.unwrap"
    assert weights.unwrap(None) is None and weights.unwrap("best.onnx") == "best.onnx"


def test_the_model_of_a_distillation_is_the_student(pristine, source):
    distillation = pytest.importorskip("ultralytics.nn.distill_model", reason="this release distils nothing")
    student = deepcopy(pristine)
    student.args = SimpleNamespace(imgsz=64, dis=1.0)
    wrapper = distillation.DistillationModel(str(source("yolov8n-seg-wnlb")), student)
    assert weights.unwrap(nn.DataParallel(wrapper)) is student, "weights.unwrap"
    blocks = [module for module in wrapper.modules() if isinstance(module, WNLB)]
    assert len(blocks) == 6, "patches.training.build_optimizer counts the blocks of the student only"
    average = torch_utils.ModelEMA(wrapper).ema
    assert weights.unwrap(average) is average.student_model, "patches.training.setup_train"
    groups = built(engine.BaseTrainer.build_optimizer, wrapper, "SGD").optimizer.param_groups
    assert {id(p) for p in groups[-1]["params"]} == {id(layer.w) for layer in student.model if isinstance(layer, WNLB)}


# ---- channels: of a model YAML, of the pictures -----------------------------------------------------


def test_a_trainer_builds_its_model_for_the_channels_of_its_data_which_it_knows_by_then(pristine):
    source = inspect.getsource(SegmentationTrainer.get_model)
    assert 'ch=self.data["channels"]' in source, "patches.network.init_channels: a trainer gives ch="
    built = inspect.getsource(engine.BaseTrainer.__init__), inspect.getsource(engine.BaseTrainer._setup_train)
    assert "self.data = self.get_dataset()" in built[0] and "self.setup_model()" in built[1], "channels.check_training"


def test_a_model_is_built_from_its_yaml_without_naming_channels():
    source = inspect.getsource(YOLO._new)
    assert "(cfg_dict, verbose=" in source, "patches.network.init_channels: no ch= is given"
    assert parameters(tasks.SegmentationModel.__init__)[:3] == ["self", "cfg", "ch"], "patches.network.init_channels"
    assert tasks.SegmentationModel("yolov8n-seg.yaml", ch=1, verbose=False).yaml["channels"] == 1, "channels.of_model"


def test_a_validation_warms_its_model_up_with_the_channels_of_the_data():
    assert parameters(AutoBackend.warmup)[:2] == ["self", "imgsz"], "patches.prediction.warmup"
    source = " ".join(inspect.getsource(inspect.unwrap(BaseValidator.__call__)).split())
    assert re.search(r'model\.warmup\( ?imgsz=\(1 if pt else [^,]+, self\.data\["channels"\], ', source), (
        "patches.prediction.warmup"
    )
    for channels in (1, 3):
        network = tasks.SegmentationModel("yolov8n-seg.yaml", ch=channels, verbose=False)
        backend = AutoBackend(network, torch.device("cpu"), verbose=False)
        assert getattr(backend, "channels", getattr(backend, "ch", None)) == channels, "channels.check_pictures"


def test_grey_pictures_are_not_jittered():
    labels = {"img": np.full((4, 4, 1), 99, np.uint8)}
    assert (RandomHSV(0, 0, 1)(labels)["img"] == 99).all(), "darkness.check_pipeline says nothing of hsv_v"


# ---- ultralytics.nn.modules.head, ultralytics.utils.torch_utils: a scene beside the layers ---------------


def test_every_forward_pass_of_a_detector_goes_through_one_function(monkeypatch):
    assert parameters(tasks.BaseModel._predict_once)[:2] == ["self", "x"], "patches.network.predict_once"
    for kind in (tasks.DetectionModel, tasks.SegmentationModel):
        assert kind._predict_once is tasks.BaseModel._predict_once, "patches.network.predict_once"
        assert kind.predict is tasks.BaseModel.predict, "patches.network.predict_once"


@pytest.mark.parametrize("name", ["yolov8n-seg.yaml", "yolo11n.yaml", "yolo26n-seg.yaml"])
def test_a_head_computes_the_scores_of_each_branch_in_forward_head(name, monkeypatch):
    calls = []

    def watched(stock, head, *args, **kwargs):
        found = stock(head, *args, **kwargs)
        calls.append(tuple(found["scores"].shape))
        return found

    monkeypatch.setattr(heads.Detect, "forward_head", functools.partialmethod(bound(watched)))
    model = YOLO(name, verbose=False).model.eval()
    calls.clear()
    model(torch.zeros(2, 3, 64, 64))
    assert calls == [(2, 80, 84)] * (2 if "26" in name else 1), "patches.network.forward_head"
    for part in ("cv3", "one2one_cv3"):
        for branch in getattr(model.model[-1], part, None) or ():
            assert isinstance(branch[-1], nn.Conv2d) and branch[-1].out_channels == 80, "context.class_convolutions"


def bound(wrapper):
    stock = heads.Detect.forward_head
    return lambda head, *args, **kwargs: wrapper(stock, head, *args, **kwargs)


def test_a_definition_keeps_words_that_ultralytics_does_not_know_and_a_model_embeds_a_layer():
    cfg = {**tasks.yaml_model_load("yolov8n.yaml"), "nothing": {"of": "theirs"}}
    model = tasks.DetectionModel(cfg, verbose=False)
    assert model.yaml["nothing"] == {"of": "theirs"}, "context.attach"
    assert parameters(tasks.DetectionModel.__init__) == ["self", "cfg", "ch", "nc", "verbose"], (
        "patches.network.init_model"
    )
    [vector] = model.eval().predict(torch.zeros(1, 3, 64, 64), embed=[9])
    assert vector.shape == (256,), "context.last_map_average"


def test_operations_of_a_model_are_counted_by_one_function():
    assert parameters(torch_utils.get_flops) == ["model", "imgsz"], "patches.network.get_flops"
    assert isinstance(torch_utils.get_flops(YOLO("yolov8n.yaml", verbose=False).model, 64), float)


# ---- ultralytics.utils.checks, ultralytics.data --------------------------------------------------


def test_check_file_takes_a_file_and_the_old_options():
    expected = ["file", "suffix", "download", "download_dir", "hard"]
    assert parameters(checks.check_file)[:5] == expected, "patches.files.check_file"


def test_check_yaml_looks_check_file_up_in_its_module(monkeypatch):
    monkeypatch.setattr(checks, "check_file", lambda file, *args, **kwargs: f"asked for {file}")
    assert checks.check_yaml("any.yaml") == "asked for any.yaml", (
        "patches.files.patch_checks wraps the module's name only"
    )


def test_data_sets_are_looked_up_by_the_same_check_file(monkeypatch):
    assert data_utils.check_file is checks.check_file and hasattr(checks.check_file, "_stock"), "patches.wrapping.wrap"

    def caught(file, *args, **kwargs):
        raise LookupError(file)

    monkeypatch.setattr(data_utils, "check_file", caught)
    with pytest.raises(LookupError, match=r"shapes-dark\.yaml"):
        data_utils.check_det_dataset("shapes-dark.yaml")


def test_the_download_script_of_a_data_set_is_announced_then_run_with_its_definition_at_hand(tmp_path, log):
    script = """
from pathlib import Path
for split in "train", "val":
    (Path(yaml["path"]) / "images" / split).mkdir(parents=True)
(Path(yaml["path"]) / "told").write_text(str(sorted(yaml["names"].values())))
from ultralytics.utils import LOGGER
LOGGER.info("the script runs")
"""
    definition = {"path": str(tmp_path / "set"), "train": "images/train", "val": "images/val", "download": script}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({**definition, "names": {0: "disc"}}), encoding="utf-8")
    data_utils.check_det_dataset(str(tmp_path / "data.yaml"))
    assert (tmp_path / "set" / "told").read_text() == "['disc']", "download: of datasets/shapes-dark.yaml"
    told = [
        i for i, line in enumerate(log) if "'download:' block runs now: from pathlib import Path; for split" in line
    ]
    assert len(told) == 1 and "data.yaml: its pictures are missing" in log[told[0]], "patches.data.run_download"
    assert told[0] < log.index("INFO the script runs"), "patches.data.run_download"
    log.clear()
    data_utils.check_det_dataset(str(tmp_path / "data.yaml"))
    assert not any("download" in line for line in log), "nothing is run where the pictures are there"


def test_no_test_reaches_a_network():
    with pytest.raises(urllib.error.URLError, match="refused"):
        urllib.request.urlopen("http://192.0.2.1")


@pytest.mark.parametrize(
    ("block", "line"),
    [
        ("bash -c true", "INFO Running bash -c true ..."),
        ("https://nowhere.invalid/a.zip", "INFO fetching https://nowhere.invalid/a.zip for this data set, into "),
    ],
)
def test_what_a_data_set_fetches_and_the_command_that_it_runs_are_said_first(block, line, tmp_path, log, monkeypatch):
    monkeypatch.setattr(data_utils.subprocess, "run", lambda *args, **kwargs: log.append("it begins"))
    assert hasattr(data_utils.safe_download, "_stock") and not hasattr(downloads.safe_download, "_stock")
    fetch = functools.partial(safe_download, lambda *args, **kwargs: log.append("it begins"))
    monkeypatch.setattr(data_utils, "safe_download", fetch)
    definition = {"train": "images", "val": "images", "names": ["a"], "download": block}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(definition), encoding="utf-8")
    data_utils.check_det_dataset(str(tmp_path / "data.yaml"))
    said = log[log.index("it begins") - 1]
    assert said.startswith(line), "patches.data.patch_downloads"
    assert parameters(downloads.safe_download)[0] == "url", "patches.data.safe_download"


def test_a_data_yaml_whose_aliases_would_fill_the_memory_is_refused(tmp_path):
    lines = [f"{new}: &{new} [{', '.join(10 * ['*' + old])}]" for old, new in zip("abcdefg", "bcdefgh", strict=True)]
    definition = "\n".join(["train: images", "val: images", "a: &a [x, x]", *lines, "names: [*h]"])
    (tmp_path / "data.yaml").write_text(definition)
    with pytest.raises(ValueError, match=r"data\.yaml.*fill the memory"):
        data_utils.check_det_dataset(str(tmp_path / "data.yaml"))


# ---- ultralytics.engine.trainer ------------------------------------------------------------------

OPTIMIZERS = ["SGD", "AdamW", "MuSGD", "auto"]


@pytest.fixture(scope="module")
def pristine():
    return tasks.SegmentationModel("yolov8n-seg-wnlb.yaml", nc=2, verbose=False)


@pytest.fixture
def model(pristine):
    return deepcopy(pristine)


def built(function, model, name, iterations=100):
    """Call build_optimizer as the trainer does, on the little of a trainer that it reads."""
    args = SimpleNamespace(lr0=0.01, momentum=0.9, warmup_bias_lr=0.1, optimizer=name, cos_lr=False, lrf=0.01)
    trainer = SimpleNamespace(args=args, data={"nc": 2}, epochs=10)
    settings = {"name": name, "lr": 0.01, "momentum": 0.9, "decay": 0.0005, "iterations": iterations}
    trainer.optimizer = function(trainer, model=model, **settings)
    return trainer


def numbers_of(group):
    """The settings of a group that the optimizer computes with."""
    return {key: value for key, value in group.items() if key not in ("params", "param_group")}


def test_setup_model_takes_nothing_and_leaves_the_model_in_the_trainer(pristine):
    assert parameters(engine.BaseTrainer.setup_model) == ["self"], "patches.training.setup_model"
    trainer = SimpleNamespace(model=pristine, args=SimpleNamespace(task="segment", pretrained=True))
    engine.BaseTrainer.setup_model._stock(trainer)
    assert trainer.model is pristine, "patches.training.setup_model looks at trainer.model afterwards"


def test_the_task_of_a_model_is_that_of_its_head(pristine):
    assert tasks.guess_model_task(pristine) == "segment", "patches.training.setup_model"


def test_build_optimizer_takes_these_arguments():
    expected = ["self", "model", "name", "lr", "momentum", "decay", "iterations"]
    assert parameters(engine.BaseTrainer.build_optimizer) == expected, "patches.training.build_optimizer"


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_stock_builder_decays_a_bare_scalar(name, model):
    groups = built(engine.BaseTrainer.build_optimizer._stock, model, name).optimizer.param_groups
    w = next(layer for layer in model.model if isinstance(layer, WNLB)).w
    home = [group for group in groups if any(p is w for p in group["params"])]
    assert [group["weight_decay"] for group in home] == [0.0005], (
        "patches.training.build_optimizer: nothing to mend any more"
    )


@pytest.mark.parametrize("iterations", [100, 100_000])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_w_gets_a_group_of_its_own_and_no_other_group_changes(name, iterations, model):
    blocks = [layer for layer in model.model if isinstance(layer, WNLB)]
    blocks[0].w_lr = 10.0
    stock = built(engine.BaseTrainer.build_optimizer._stock, model, name, iterations).optimizer
    ours = built(engine.BaseTrainer.build_optimizer, model, name, iterations).optimizer
    ids = {id(block.w) for block in blocks}
    assert type(ours) is type(stock)

    homes = []
    for before, after in zip(stock.param_groups, ours.param_groups):
        kept = [id(p) for p in before["params"] if id(p) not in ids]
        assert [id(p) for p in after["params"]] == kept
        assert {**before, "params": 0} == {**after, "params": 0}
        homes += [before] * (len(kept) < len(before["params"]))
    (home,) = homes
    one, ten = ours.param_groups[len(stock.param_groups) :]
    assert [len(one["params"]), len(ten["params"])] == [2, 1] and ten["params"][0] is blocks[0].w
    for group, factor in ((one, 1), (ten, 10)):
        assert numbers_of(group) == {**numbers_of(home), "lr": home["lr"] * factor, "weight_decay": 0.0}
    everything = [id(p) for group in ours.param_groups for p in group["params"]]
    assert sorted(everything) == sorted(id(p) for p in model.parameters())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_moves_w_by_its_own_learning_rate(name, model):
    blocks = [layer for layer in model.model if isinstance(layer, WNLB)]
    blocks[0].w_lr = 10.0
    optimizer = built(engine.BaseTrainer.build_optimizer, model, name).optimizer
    for block in blocks:
        block.w.grad = torch.ones(())
    optimizer.step()
    moved = [block.w.item() for block in blocks]
    assert moved[1] < 0 and moved[1] == moved[2]
    assert moved[0] == pytest.approx(10 * moved[1], rel=1e-5)


def test_the_scheduler_starts_every_group_from_its_own_learning_rate(model):
    model.model[5].w_lr = 10.0
    trainer = built(engine.BaseTrainer.build_optimizer, model, "SGD")
    engine.BaseTrainer._setup_scheduler(trainer)
    rates = [group["initial_lr"] for group in trainer.optimizer.param_groups[-2:]]
    assert rates == [0.01, 0.1], "patches.training.build_optimizer"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What two epochs of the real trainer on 12 grey pictures do to a frozen w, a fixed w and the rates."""
    root = tmp_path_factory.mktemp("run")
    for kind in "images", "labels":
        (root / kind).mkdir()
    for i in range(12):
        cv2.imwrite(str(root / "images" / f"{i}.png"), np.full((32, 32, 3), 20 * i, np.uint8))
        (root / "labels" / f"{i}.txt").write_text("0 .2 .2 .8 .2 .8 .8")
    definition = {"path": str(root), "train": "images", "val": "images", "names": {0: "grey"}}
    (root / "data.yaml").write_text(yaml.safe_dump(definition), encoding="utf-8")
    options = [{"w_init": 0.5, "w_learnable": False}, {"w_lr": 10}, {}]
    model, _ = surgery.graft(surgery.load_yaml("yolov8-seg.yaml"), ["P3", "P4", "P5"], options)
    model["scales"] = {"n": [0.33, 0.125, 256]}
    (root / "yolov8n-seg-mixed.yaml").write_text(surgery.to_yaml(model, "mixed"), encoding="utf-8")

    seen = SimpleNamespace(rates=[])

    class Frozen(SegmentationTrainer):
        def get_model(self, *args, **kwargs):
            model = super().get_model(*args, **kwargs)
            model.model[8].w.requires_grad = False  # as a user who knows torch would fix it
            return model

    def started(trainer):
        seen.switched_on = trainer.model.model[8].w.requires_grad

    def stepped(trainer):
        seen.rates.append([group["lr"] for group in trainer.optimizer.param_groups])

    settings = {"model": str(root / "yolov8n-seg-mixed.yaml"), "data": str(root / "data.yaml"), "project": str(root)}
    # not batch 2: the segmentation loss of 8.4.0 takes it for a pair
    cheap = {"imgsz": 32, "batch": 4, "workers": 0, "device": "cpu", "plots": False, "val": False, "epochs": 2}
    rates = {"optimizer": "SGD", "lr0": 0.01, "lrf": 1.0, "warmup_epochs": 1, "warmup_bias_lr": 0.05, "nbs": 4}
    trainer = Frozen(overrides={**settings, **cheap, **rates})
    trainer.add_callback("on_train_start", started)
    trainer.add_callback("on_train_batch_end", stepped)
    trainer.train()
    seen.fixed = trainer.model.model[5].w
    seen.group = trainer.optimizer.param_groups[-2:]
    return seen


def test_the_trainer_switches_frozen_parameters_back_on(run):
    assert run.switched_on, "WNLB(w_learnable=False) need not be a buffer any more"


def test_a_fixed_w_stays_what_it_was(run):
    assert run.fixed.item() == 0.5 and not run.fixed.requires_grad, "WNLB(w_learnable=False)"


def test_warm_up_takes_w_from_0_to_its_own_rate_like_a_weight(run):
    one, ten = ([rates[-2 + i] for rates in run.rates] for i in (0, 1))
    assert [group["initial_lr"] for group in run.group] == [0.01, 0.1]
    assert one[0] == 0 and one[0] < one[1] < one[2], "patches.training.build_optimizer: warm-up skips our groups"
    assert np.allclose(ten, 10 * np.array(one)), "patches.training.build_optimizer: warm-up forgets the rate of a group"


# ---- ultralytics.engine.exporter -----------------------------------------------------------------


def test_the_exporter_replaces_forward_of_no_layer_but_c2f(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exported = []
    model = YOLO("yolov8n-seg-wnlb.yaml")
    model.add_callback("on_export_end", lambda exporter: exported.append(exporter.model))
    model.export(format="torchscript", imgsz=32, device="cpu")
    modules = list(exported[0].modules())
    split = {type(m) for m in modules if getattr(vars(m).get("forward"), "__name__", "") == "forward_split"}
    assert split and all(issubclass(kind, C2f) for kind in split), "WNLB.forward: is it still exported?"
    blocks = [m for m in modules if isinstance(m, WNLB)]
    assert len(blocks) == 3 and not any("forward" in vars(block) for block in blocks), "WNLB.forward is not exported"


# ---- ultralytics.cfg, ultralytics.data.base: lowlight= -------------------------------------------


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A data set of two pictures, and the definition that Ultralytics makes of its YAML."""
    folder = tmp_path_factory.mktemp("images")
    for split in ("train", "val"):
        (folder / "images" / split).mkdir(parents=True)
        (folder / "labels" / split).mkdir(parents=True)
        cv2.imwrite(str(folder / f"images/{split}/a.png"), np.full((40, 60, 3), 200, np.uint8))
        (folder / f"labels/{split}/a.txt").write_text("0 .2 .2 .8 .2 .8 .8\n")
    file = folder / "data.yaml"
    file.write_text(yaml.safe_dump({"train": "images/train", "val": "images/val", "names": ["a"], "lowlight": "x"}))
    return data_utils.check_det_dataset(str(file))


def build(images, mode="train", **options):
    settings = cfg.get_cfg(overrides={"task": "segment", "imgsz": 64, **options})
    return build_yolo_dataset(settings, images[mode], 1, images, mode=mode, rect=mode == "val")


def test_get_cfg_aligns_and_checks_through_its_module(monkeypatch):
    assert parameters(cfg.check_dict_alignment)[:2] == ["base", "custom"], "patches.arguments.check_dict_alignment"
    called = []
    for name in ("check_dict_alignment", "check_cfg"):
        stock = getattr(cfg, name)
        monkeypatch.setattr(cfg, name, lambda *a, n=name, f=stock, **k: called.append((n, a[0])) or f(*a, **k))
    cfg.get_cfg(overrides={"epochs": 1})
    assert [name for name, _ in called] == ["check_dict_alignment", "check_cfg"], "patches.arguments.check_cfg"
    assert all("imgsz" in base for _, base in called), (
        "patches.arguments.check_dict_alignment tells runs from settings by imgsz"
    )
    assert "imgsz" not in SETTINGS, "patches.arguments.check_dict_alignment"


def test_arguments_travel_into_checkpoints_and_back_by_name():
    assert cfg.get_cfg(vars(cfg.get_cfg(overrides={"lowlight": "severe"}))).lowlight == "severe", (
        "resume keeps lowlight"
    )
    assert "lowlight" not in vars(cfg.get_cfg()), "stock Ultralytics can resume a run without it"


def test_a_data_set_is_built_with_hyp_and_knows_its_definition_first(images):
    assert "hyp" in parameters(BaseDataset.__init__), "patches.data.init_dataset"
    built = build(images)
    assert built.data["lowlight"] == "x" and Path(built.data["path"]) == Path(images["path"]), "dark_training.attach"
    assert built.augment and not build(images, "val").augment, "dark_training.DarkLoader tells training by augment"
    assert (built.channels, built.ni, len(built.im_files)) == (3, 1, 1) and built.prefix is not None


def test_every_picture_comes_from_load_image_of_the_instance(images):
    built = build(images, "val")
    image, original, resized = built.load_image(0)
    assert (image.shape, image.dtype, original, resized[:2]) == ((43, 64, 3), np.uint8, (40, 60), (43, 64))
    built.load_image = lambda i, *args, **kwargs: (np.full_like(image, 7), original, resized)
    assert (built.get_image_and_label(0)["img"] == 7).all(), "dark_training.DarkLoader stands in for load_image"
    assert set(np.unique(built[0]["img"])) == {7, 114}, "padding comes later"


def test_the_transforms_of_a_data_set_hold_albumentations_by_name(images):
    steps = build(images).transforms.transforms
    assert any(type(step).__name__ == "Albumentations" and hasattr(step, "transform") for step in steps), (
        "dark_training.check_pipeline"
    )


def test_the_colour_jitter_is_one_transform_and_comes_after_all_geometry(images):
    built = build(images, mosaic=0.5, mixup=0.5, copy_paste=0.5)
    names = [type(step).__name__ for step in built.transforms.transforms]
    assert names.count("RandomHSV") == 1
    assert {*names[names.index("RandomHSV") :]} <= {"RandomHSV", "RandomFlip", "Format"}, "denoise.TwinColour"
    assert "build_transforms" in inspect.getsource(type(built).close_mosaic), "the epochs without mosaic build anew"


def test_an_item_may_have_a_key_more_which_reaches_the_loss_as_a_tuple_on_the_cpu(images):
    built = build(images)
    built.transforms.append(lambda labels: {**labels, "noisy_crop": torch.zeros(3, 3, 8, 8, dtype=torch.uint8)})
    batch = built.collate_fn([built[0], built[0]])
    assert type(batch["noisy_crop"]) is tuple and len(batch["noisy_crop"]) == 2, "noise2void.HiddenPixels.prepare"
    trainer = SimpleNamespace(device=torch.device("cpu"), args=cfg.get_cfg(overrides={"multi_scale": 0}))
    prepared = SegmentationTrainer.preprocess_batch(trainer, dict(batch))
    assert all(map(torch.equal, prepared["noisy_crop"], batch["noisy_crop"])), "noise2void.HiddenPixels.prepare"


def test_a_data_set_knows_its_size_and_the_entries_of_its_yaml_that_ultralytics_does_not_know(tmp_path, images):
    file = tmp_path / "data.yaml"
    known = {key: str(images[key]) for key in ("path", "train", "val")}
    file.write_text(yaml.safe_dump({**known, "names": ["a"], "unlabelled": "images/more"}))
    data = data_utils.check_det_dataset(str(file))
    assert data["unlabelled"] == "images/more" and Path(data["yaml_file"]) == file, "data_yaml.unlabelled_places"
    built = build(data)
    assert built.data["unlabelled"] == "images/more" and built.imgsz == 64, "noise2void.attach"


def test_the_average_of_a_model_holds_the_buffers_of_all_its_parts():
    model = YOLO("yolov8n.yaml", verbose=False).model
    model.denoiser = nn.ModuleDict({"last": nn.Conv2d(1, 1, 1)})
    model.denoiser.register_buffer("mean", torch.zeros(1))
    average = torch_utils.ModelEMA(model)
    model.denoiser.mean.fill_(1)
    average.update(model)
    assert 0.99 < average.ema.denoiser.mean.item() < 1, "decoder.attach: a resumed run goes on with it"


def test_a_trainer_sets_up_its_loaders_under_these_names():
    source = inspect.getsource(engine.BaseTrainer)
    assert "self.train_loader" in source and "self.test_loader" in source, "dark_training.check_pipeline"
    assert parameters(engine.BaseTrainer._setup_train)[0] == "self", "patches.training.setup_train"
    assert parameters(engine.BaseTrainer.check_resume) == ["self", "overrides"], "patches.training.check_resume"


def test_a_validator_says_when_it_starts_and_a_tuner_takes_the_arguments_of_a_run():
    source = inspect.getsource(BaseValidator.__call__)
    assert source.index("self.dataloader") < source.index('run_callbacks("on_val_start")'), (
        "patches.validation.run_callbacks"
    )
    assert parameters(BaseValidator.run_callbacks) == ["self", "event"], "patches.validation.run_callbacks"
    assert parameters(Tuner.__init__)[:2] == ["self", "args"], "patches.training.init_tuner"
    if hasattr(engine, "MultiTrainer"):
        assert parameters(engine.MultiTrainer.__init__)[:3] == ["self", "trainer", "args"], (
            "patches.training.init_multi_trainer"
        )


def test_the_training_loop_asks_its_loader_for_a_length_batches_and_attributes_only():
    """What `adversarial.Replay` has to offer."""
    source = inspect.getsource(engine.BaseTrainer)
    uses = set(re.findall(r"self\.train_loader(\.\w+|\b)", source))
    assert uses <= {"", ".dataset", ".sampler", ".num_workers", ".batch_size", ".drop_last", ".reset", ".close"}
    assert "isinstance(self.train_loader" not in source


def test_a_loader_goes_on_where_an_epoch_was_left(images):
    from ultralytics.data.build import build_dataloader

    built = build(images, mosaic=0)
    built.labels, built.im_files, built.ni = built.labels * 4, built.im_files * 4, 4
    for name in ("ims", "im_hw0", "im_hw", "npy_files"):
        setattr(built, name, getattr(built, name) * 4)
    served = []
    built.get_image_and_label = lambda i: served.append(i) or type(built).get_image_and_label(built, i)
    loader = build_dataloader(built, batch=1, workers=0, shuffle=False)
    for _ in range(2):
        next(iter(loader))
    assert served == [0, 1], "adversarial.Replay shows other pictures in the next epoch"


def test_every_item_comes_from_get_image_and_label_of_the_instance(images):
    from ultralytics.data.augment import MixUp, Mosaic

    built = build(images, mosaic=0)
    asked = []
    built.get_image_and_label = lambda i: asked.append(i) or type(built).get_image_and_label(built, i)
    built[0]
    assert asked == [0], "balance.BalancedItems stands in for get_image_and_label"
    built = build(images, mosaic=1.0, mixup=1.0)
    built.get_image_and_label = lambda i: asked.append(i) or type(built).get_image_and_label(built, i)
    built[0]
    assert len(asked) == 1 + 8, "a mosaic of four, mixed with another one"
    assert all("self.dataset.labels[" not in inspect.getsource(mix) for mix in (Mosaic, MixUp))


def test_a_data_set_for_classification_has_samples_and_is_told_whether_it_augments():
    from ultralytics.data.dataset import ClassificationDataset

    assert {"args", "augment"} <= {*parameters(ClassificationDataset.__init__)}, "patches.data.init_classification"
    assert parameters(ClassificationDataset.__getitem__) == ["self", "i"], "patches.data.classified_item"
    assert "self.samples[i]" in inspect.getsource(ClassificationDataset.__getitem__), "balance.attach_classification"


def test_a_trainer_builds_its_loaders_anew_in_one_function_or_never():
    source = inspect.getsource(engine.BaseTrainer)
    assert ("_oom_retries" in source) <= ("def _build_train_pipeline(self)" in source), (
        "patches.training.build_train_pipeline"
    )


@pytest.mark.parametrize(("word", "example"), ARGUMENTS.items())
def test_a_word_of_ours_that_stands_alone_is_not_dropped(word, example):
    """`yolo segment train ... lowlight`: the stock function takes a known word, and does nothing with it."""
    from ultralytics.cfg import entrypoint

    with pytest.raises(SyntaxError, match=f"'{word}' lacks its value; write {word}={example}"):
        entrypoint(f"segment train data=coco8-seg.yaml {word}")


@pytest.mark.parametrize("empty", [{}, "", []])
@pytest.mark.parametrize("word", ARGUMENTS)
def test_a_word_of_ours_that_is_empty_is_not_dropped(word, empty):
    with pytest.raises(ValueError, match=f"{word}=.* asks for nothing; write {word}="):
        cfg.get_cfg(overrides={word: empty, "epochs": 1})


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"lowlight": {"ev": (-4, np.float64(-3)), "p": np.float32(0.5)}}, {"lowlight": {"ev": [-4, -3], "p": 0.5}}),
        ({"adversarial": {"norm": "linf", "eps": np.float64(0.25)}}, {"adversarial": {"norm": "linf", "eps": 0.25}}),
        ({"balanced": np.bool_(True)}, {"balanced": True}),
        (
            {"lowlight": "severe", "denoise": {"teacher": Path("a.pt")}},
            {"lowlight": "severe", "denoise": {"teacher": "a.pt"}},
        ),
    ],
)
def test_paths_and_numbers_of_numpy_are_kept_as_the_yaml_of_a_run_can_hold_them(given, kept, tmp_path):
    args = vars(cfg.get_cfg(overrides=given))
    YAML.save(tmp_path / "args.yaml", args)
    assert {name: YAML.load(tmp_path / "args.yaml")[name] for name in kept} == kept


def test_a_camera_may_be_a_path(tmp_path):
    camera = tmp_path / "cam.yaml"
    camera.write_text("settings: {ev: -3, sigma_s: 0.02}\n")
    wanted = cfg.get_cfg(overrides={"lowlight": str(camera)}).lowlight
    assert cfg.get_cfg(overrides={"lowlight": camera}).lowlight == wanted and wanted["ev"] == [-3, -3]


@pytest.mark.parametrize("word", OPTIONS)
def test_options_whose_quotes_the_shell_has_taken_are_told_how_to_be_written(word):
    example = OPTIONS[word]
    with pytest.raises(
        ValueError, match=f'{word}=.* cannot be read; write .* quotes.*"{re.escape(f"{word}={example}")}"'
    ):
        cfg.get_cfg(overrides={word: example.replace("'", "")})


# ---- night= --------------------------------------------------------------------------------------


def test_a_predictor_calls_its_own_methods_with_the_model_and_the_source():
    from ultralytics.engine.predictor import BasePredictor

    assert parameters(BasePredictor.setup_model)[:2] == ["self", "model"], "patches.prediction.setup_predictor"
    assert parameters(BasePredictor.stream_inference)[:3] == ["self", "source", "model"], (
        "patches.prediction.stream_inference"
    )
    source = inspect.getsource(BasePredictor.stream_inference)
    assert "self.setup_model(model)" in source and "self.inference(im" in source, "patches.prediction.inference"
    for name in ("__call__", "predict_cli"):
        assert "self.stream_inference(" in inspect.getsource(getattr(BasePredictor, name)), (
            "patches.prediction.stream_inference"
        )


def test_a_backend_keeps_a_pytorch_model_as_it_was_given(model):
    backend = AutoBackend(model, device=torch.device("cpu"), verbose=False)
    assert isinstance(backend.model, tasks.BaseModel), "night.detector_in"


def test_an_export_takes_its_name_from_pt_path_and_its_metadata_before_it_starts():
    from ultralytics.engine.exporter import Exporter

    source = inspect.getsource(Exporter.__call__)
    assert parameters(Exporter.__call__)[:2] == ["self", "model"], "patches.export.export"
    assert 'getattr(model, "pt_path", None)' in source, "night.to_export"
    assert source.index("self.metadata = {") < source.index('run_callbacks("on_export_start")'), (
        "patches.export.export_callbacks"
    )
    assert parameters(Exporter.run_callbacks) == ["self", "event"], "patches.export.export_callbacks"


def test_benchmarks_take_the_model_first_and_a_trainer_checks_resume_first():
    from ultralytics.engine.model import Model

    source = inspect.getsource(engine.BaseTrainer.__init__)
    assert source.index("check_resume(") < source.index("get_dataset("), (
        "patches.training.check_resume: night= is refused early"
    )
    assert parameters(Model.benchmark)[0] == "self", "patches.model.benchmark"
    assert "import benchmark" in inspect.getsource(Model.benchmark), "patches.model.benchmark: both are wrapped"
    pytest.importorskip("ultralytics.utils.benchmarks")
    from ultralytics.utils import benchmarks

    assert parameters(benchmarks.benchmark)[0] == "model", "patches.model.benchmark"


# ---- curve= --------------------------------------------------------------------------------------


def test_pictures_are_read_by_one_function_with_the_flags_of_who_reads_them():
    from ultralytics.data import base, loaders
    from ultralytics.utils import patches as stock

    assert parameters(stock.imread) == ["filename", "flags"], "patches.files.imread"
    assert base.imread is loaders.imread is stock.imread, (
        "patches.files.patch_imread: wrapped before anybody imports it"
    )
    for owner in (BaseDataset.load_image, loaders.LoadImagesAndVideos.__next__):
        source = inspect.getsource(owner)
        calls = source.count("imread(") + source.count("partial(imread")
        assert calls and source.count("flags=self.cv2_flag") >= calls, "sixteen_bits.Flags"
    assert "self.npy_files[i]" in inspect.getsource(BaseDataset.load_image), "sixteen_bits.name_cache"
    assert "self.npy_files[i]" in inspect.getsource(BaseDataset.cache_images_to_disk), "sixteen_bits.cache_to_disk"
    assert 'with_suffix(".npy")' in inspect.getsource(BaseDataset.__init__), "sixteen_bits.name_cache"


def test_the_formats_of_pictures_are_one_set_that_can_grow():
    from ultralytics.data import base, loaders

    assert isinstance(data_utils.IMG_FORMATS, set) and {"dng", "nef", "arw", "cr2"} <= data_utils.IMG_FORMATS
    assert base.IMG_FORMATS is loaders.IMG_FORMATS is data_utils.IMG_FORMATS, "patches.data.patch_downloads"


def test_the_size_of_a_picture_is_asked_of_the_image_of_its_module():
    assert "Image.open(" in inspect.getsource(data_utils), "sixteen_bits.PillowWithRaw"
    assert parameters(data_utils.exif_size) == ["img"], "sixteen_bits.RawHeader"


def test_a_validation_loads_its_model_before_its_data():
    source = inspect.getsource(BaseValidator.__call__)
    assert source.index("AutoBackend(") < source.index("self.get_dataloader("), "patches.validation.init_backend"


def test_a_predictor_sets_up_its_source_with_the_model_in_place():
    from ultralytics.engine.exporter import Exporter
    from ultralytics.engine.predictor import BasePredictor

    assert parameters(BasePredictor.setup_source)[:2] == ["self", "source"], "patches.prediction.setup_source"
    source = inspect.getsource(BasePredictor.stream_inference)
    assert source.index("self.setup_model(") < source.index("self.setup_source("), "patches.prediction.setup_source"
    assert "load_inference_source(" in inspect.getsource(BasePredictor.setup_source), "sixteen_bits.developed"
    assert hasattr(Exporter, "get_int8_calibration_dataloader"), "patches.export.calibration_loader"
