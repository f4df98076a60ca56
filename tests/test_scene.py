"""A scene beside a YOLO model: equal at the start, the same logits at every anchor, training, checkpoints, exports."""

import copy
import doctest
import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from conftest import run_python, shapes_set, tensors
from test_train import QUICK, train
from torch import nn
from torchvision.models import resnet18, resnet50
from ultralytics import YOLO
from ultralytics.nn import tasks
from ultralytics.utils import torch_utils

from yolo_wnlb import scene as scene_module
from yolo_wnlb.cli import COMMANDS, main
from yolo_wnlb.commands.models import SCENE_WORDS
from yolo_wnlb.scene import MEAN, STD, Scene
from yolo_wnlb.yolo import context, weights
from yolo_wnlb.yolo.grafting import graft, load_yaml

MODELS = ["yolov8-seg.yaml", "yolov8.yaml", "yolo11-seg.yaml", "yolo11.yaml", "yolo26-seg.yaml", "yolo26.yaml"]
ARCHS = ["resnet18", "backbone"]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Weights of a ResNet-18 in the form of Places365: random, with norms that are not those of a new net."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        net = resnet18(num_classes=365)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    file = tmp_path_factory.mktemp("places") / "resnet18_places365.pth.tar"
    torch.save({"arch": "resnet18", "state_dict": {f"module.{k}": v for k, v in net.state_dict().items()}}, file)
    return file


def definition(name, arch, places, blocks=False, **options):
    """A model definition of scale n with a scene."""
    model = load_yaml(name)
    if blocks:
        model, _ = graft(model, ["P4", "P5"])
    request = {"arch": arch, **({"weights": str(places)} if arch != "backbone" else {}), **options}
    return {**context.add_scene(model, request), "scale": "n"}


def build(cfg, seed=0):
    """Build a model of a definition, or of a name, from the same random numbers; its norms are not new."""
    kind = tasks.SegmentationModel if "Segment" in str(cfg["head"][-1][2]) else tasks.DetectionModel
    torch.manual_seed(seed)
    model = kind(cfg, verbose=False)
    generator = torch.Generator().manual_seed(seed)
    for module in model.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.bias.data.normal_(0, 0.3, generator=generator)
    return model.eval()


def scores(outputs):
    """The class logits (B, classes, anchors) of every branch that a model returned."""
    raw = outputs[1] if isinstance(outputs, tuple) else outputs
    branches = [raw["one2many"], raw["one2one"]] if "one2one" in raw else [raw]
    return [branch["scores"] for branch in branches if "scores" in branch]


def speaking(model, seed=5):
    """The model with a scene that has learnt something."""
    with torch.no_grad():
        model.scene.fc.weight.normal_(0, 0.1, generator=torch.Generator().manual_seed(seed))
    return model


# ---- what is computed ------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("name", MODELS)
def test_a_new_scene_changes_no_bit_and_a_trained_one_shifts_every_anchor_of_every_branch_alike(name, arch, places):
    cfg = definition(name, arch, places, blocks=name == "yolo26-seg.yaml")
    plain = build({key: value for key, value in cfg.items() if key != "scene"})
    model, x = build(cfg), torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(3))
    assert plain.state_dict().keys() == model.state_dict().keys() - {"scene.fc.weight"}
    assert plain.save == model.save and [m.i for m in plain.model] == [m.i for m in model.model]
    with torch.no_grad():
        before = plain(x)
        for a, b in zip(tensors(before), tensors(model(x)), strict=True):
            assert torch.equal(a, b)
        after = speaking(model)(x)
        if arch == "backbone":
            [*vectors] = plain.predict(x, embed=[len(cfg["backbone"]) - 1])
            wanted = torch.stack(vectors) @ model.scene.fc.weight.T
        else:
            wanted = model.scene(x)
    assert len(scores(after)) == (2 if "26" in name else 1)
    assert wanted.abs().max() > 0.1
    for a, b in zip(scores(before), scores(after), strict=True):
        torch.testing.assert_close(b, a + wanted[..., None], rtol=0, atol=2e-5)
    boxes = [t["boxes"] for out in (before, after) for t in [out[1].get("one2many", out[1])]]
    assert torch.equal(*boxes)
    assert "context" not in vars(model.model[-1])


def test_the_resnet_is_torchvisions_on_the_scaled_and_normalised_picture(places):
    scene = Scene(4, "resnet18", size=96)
    context.filled_from(scene, places)
    net = resnet18(num_classes=365)
    state = {k.removeprefix("module."): v for k, v in torch.load(places)["state_dict"].items()}
    net.load_state_dict({k: v.half().float() if v.is_floating_point() else v for k, v in state.items()})
    net.fc = nn.Identity()
    x = torch.rand(2, 3, 40, 72)
    small = nn.functional.interpolate(x, (96, 96), mode="bilinear", align_corners=False)
    normal = (small - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)
    nn.init.normal_(scene.fc.weight)
    with torch.no_grad():
        wanted = net.eval()(normal) @ scene.fc.weight.T
        torch.testing.assert_close(scene.train()(x), wanted, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(scene(x[:, :1]), scene(x[:, :1].expand(-1, 3, -1, -1)))
        torch.testing.assert_close(scene(x)[:1], scene(x[:1]), rtol=1e-4, atol=1e-4)  # whatever else is in the batch


def test_the_scene_network_has_no_parameter_and_no_name_in_the_state_dict(places):
    scene = Scene(4, "resnet18")
    context.filled_from(scene, places)
    assert [name for name, _ in scene.named_parameters()] == ["fc.weight"] == [*scene.state_dict()]
    assert scene.frozen_numbers() == pytest.approx(11.18e6, rel=0.01)
    assert not any(module.training for module in scene.train().net.modules())
    halved = copy.deepcopy(scene).half().float()
    assert all(torch.equal(a, b) for a, b in zip(scene.buffers(), halved.buffers()) if a.ndim != 4 or len(a) > 1)
    assert context.operations(scene) == pytest.approx(3.63, abs=0.01)  # GFLOPs


def test_no_gradient_of_the_scene_trains_the_backbone_and_one_reaches_its_layer(places):
    model = speaking(build(definition("yolov8.yaml", "backbone", places))).train()
    x = torch.rand(2, 3, 64, 64, requires_grad=True)
    model.scene.fc.weight.requires_grad_(True)
    found = model.model[0:10](x)
    model.scene(found).sum().backward()
    assert x.grad is None and model.scene.fc.weight.grad.abs().max() > 0
    model.eval().scene(model.model[0:10](x)).sum().backward()  # an attack on a trained model sees the whole path
    assert x.grad.abs().max() > 0


def test_a_model_with_a_scene_counts_its_operations_once(places):
    cfg = definition("yolov8-seg.yaml", "resnet18", places)
    model, plain = build(cfg), build({key: value for key, value in cfg.items() if key != "scene"})
    assert torch_utils.get_flops(model, 640) - torch_utils.get_flops(plain, 640) == pytest.approx(3.63, abs=0.01)
    assert isinstance(model.scene, Scene)


@pytest.mark.parametrize("arch", ARCHS)
def test_fusing_and_halving_and_copying_keep_the_scene(arch, places):
    model = speaking(build(definition("yolo26-seg.yaml", arch, places, blocks=True)))
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        wanted = scores(model(x))[-1]
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), copy.deepcopy(model).half().float()):
            found = scores(other.eval()(x))[-1]
            torch.testing.assert_close(found, wanted, rtol=1e-2, atol=2e-2)
        fused = copy.deepcopy(model).fuse(verbose=False)
        kept = scores(model(x))[-1 if model.end2end else 0]  # fusing drops the other branch
        torch.testing.assert_close(scores(fused(x))[-1], kept, rtol=1e-4, atol=1e-4)
        assert model.predict(x, embed=[3])[0].ndim == 1


# ---- pretrained weights ----------------------------------------------------------------------------


def test_weights_of_a_stock_model_are_kept_and_reported_as_without_a_scene(source, places, log):
    start = YOLO(source("yolov8n-seg")).model
    model = build(definition("yolov8-seg.yaml", "resnet18", places))
    model.load(start)
    assert model.names[7] == "c7"
    found = [line for line in log if "tensors of the pretrained model kept" in line]
    assert found == ["INFO wNLB: 417/417 tensors of the pretrained model kept, 0 new in the blocks"]
    for name, value in start.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)
    assert not [line for line in log if line.startswith("WARNING")]


def test_the_scene_goes_where_the_pretrained_weights_go_by_the_names_of_the_classes(places, log):
    cfg = definition("yolov8.yaml", "resnet18", places)
    old = speaking(build({**cfg, "nc": 3}))
    old.names = {0: "cat", 1: "dog", 2: "cup"}
    moved = {**cfg, "nc": 4, "scene": {**cfg["scene"], "weights": "moved/away.tar"}}
    new = build(moved)
    assert "is not there" in new.scene.lacks
    with pytest.raises(RuntimeError, match="the scene network resnet18 has no weights: "):
        new(torch.rand(1, 3, 64, 64))
    new.names = {0: "Cup", 1: "bird", 2: "cat", 3: "tree"}
    new.load(old)
    assert not new.scene.lacks and new.yaml["scene"]["sha256"] == old.yaml["scene"]["sha256"]
    weight = old.scene.fc.weight
    assert torch.equal(new.scene.fc.weight, torch.stack([weight[2], 0 * weight[0], weight[0], 0 * weight[0]]))
    assert all(torch.equal(a, b) for a, b in zip(old.scene.net.buffers(), new.scene.net.buffers()))
    assert any("2 of 4 classes have no match in the pretrained scene" in line for line in log)


def test_another_scene_network_than_that_of_the_yaml_is_said(places, log, tmp_path):
    other = tmp_path / "other.pth.tar"
    content = torch.load(places, weights_only=True)
    content["state_dict"]["module.conv1.weight"] += 1
    torch.save(content, other)
    new = build(definition("yolov8.yaml", "resnet18", other))
    same = build(definition("yolov8.yaml", "resnet18", places))
    old = build(definition("yolov8.yaml", "resnet18", places))
    same.load(old)
    assert not [line for line in log if "brings its own network" in line]
    new.load(old)
    assert [line for line in log if "brings its own network" in line and str(other) in line]


def test_reset_weights_draws_the_detector_anew_and_leaves_the_scene_network(places, tmp_path):
    model = YOLO("yolov8n.yaml")
    model.model = speaking(build(definition("yolov8.yaml", "resnet18", places)))
    frozen = [buffer.clone() for buffer in model.model.scene.net.buffers()]
    before = model.model.model[0].conv.weight.clone()
    assert model.reset_weights() is model
    assert not torch.equal(before, model.model.model[0].conv.weight)
    assert all(torch.equal(a, b) for a, b in zip(frozen, model.model.scene.net.buffers()))
    assert not model.model.scene.fc.weight.any()


@pytest.mark.parametrize(
    ("source_arch", "target_arch", "message"),
    [
        ("backbone", None, "has the scene backbone, and this one has none: the logits"),
        ("resnet18", "backbone", r"has the scene resnet18 \(512 features\), this one backbone \(256\), which starts"),
    ],
)
def test_a_scene_that_finds_no_place_is_said(source_arch, target_arch, message, places, log):
    old = speaking(build(definition("yolov8.yaml", source_arch, places)))
    cfg = load_yaml("yolov8.yaml") if target_arch is None else definition("yolov8.yaml", target_arch, places)
    new = build({**cfg, "scale": "n"})
    new.load(old)
    assert [line for line in log if line.startswith("WARNING") and re.search(message, line)], log
    assert target_arch is None or not new.scene.fc.weight.any()


# ---- the penalty -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["yolov8.yaml", "yolo26.yaml"])
def test_l2_adds_the_squares_of_the_last_class_convolutions_times_the_batch(name, places, monkeypatch):
    model = build(definition(name, "backbone", places, l2=0.5)).train()
    head = model.model[-1]
    convolutions = [branch[-1] for part in ("cv3", "one2one_cv3") for branch in getattr(head, part, None) or ()]
    assert len(convolutions) == (6 if "26" in name else 3)
    wanted = 0.5 * sum(c.weight.detach().square().sum().item() for c in convolutions)

    def stock(model, batch, preds=None):
        return torch.tensor([1.0, 2.0]), {"box_loss": torch.tensor(1.0)}

    total, items = context.penalised(stock, model, {"img": torch.zeros(4, 3, 8, 8)})
    assert total.sum().item() == pytest.approx(3 + 4 * wanted, rel=1e-5)
    assert items["fg_l2"].item() == pytest.approx(wanted, rel=1e-5) and "box_loss" in items
    total.sum().backward()
    torch.testing.assert_close(convolutions[0].weight.grad, 4 * convolutions[0].weight.detach())
    assert context.penalised(stock, model.eval(), {})[1]["fg_l2"] == 0
    model.scene.l2 = 0.0
    assert context.penalised(stock, model.train(), {})[1].keys() == {"box_loss"}


# ---- training, checkpoints, exports ----------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return shapes_set(tmp_path_factory.mktemp("data") / "shapes", train=8, val=4)


@pytest.fixture(scope="module", params=["resnet18", "backbone"])
def run(request, data, places, source, tmp_path_factory):
    """A training of two epochs from pretrained weights that was stopped after its first, and resumed without the file.

    Returns its folder, the tensors of the frozen network before it, and its arch.
    """
    folder = tmp_path_factory.mktemp(request.param)
    weights_here = folder / "places.tar"
    shutil.copy(places, weights_here)
    arguments = [f"scene={request.param}", "l2=0.02", f"out={folder / 'yolov8-scene.yaml'}"]
    if request.param != "backbone":
        arguments.append(f"scene_weights={weights_here}")
    assert main(["graft", "yolov8.yaml", *arguments]) == 0
    frozen = (
        []
        if request.param == "backbone"
        else [*build(definition("yolov8.yaml", "resnet18", places)).scene.net.buffers()]
    )

    class Stop(Exception):
        pass

    def stop(trainer):
        raise Stop

    options = {"epochs": 2, "pretrained": str(source("yolov8n")), "optimizer": "AdamW", "lr0": 0.01}
    with pytest.raises(Stop):
        train(data, folder, str(folder / "yolov8n-scene.yaml"), {"on_model_save": stop}, **options)
    weights_here.unlink()
    last = folder / "run/weights/last.pt"
    YOLO(last).train(resume=True)
    return folder / "run", frozen, request.param


def test_an_interrupted_training_goes_on_without_the_file_of_the_weights_and_moves_the_layer_alone(run):
    folder, frozen, arch = run
    model = tasks.load_checkpoint(folder / "weights/last.pt")[0].float()
    rows = (folder / "results.csv").read_text().splitlines()
    assert [row.split(",")[0].strip() for row in rows[1:]] == ["1", "2"]
    assert isinstance(model.scene, Scene) and model.scene.fc.weight.abs().max() > 1e-3
    if arch != "backbone":
        assert all(torch.equal(a, b.float()) for a, b in zip(frozen, model.scene.net.buffers(), strict=True))
        assert len(model.yaml["scene"]["sha256"]) == 64
    header, values = (line.split(",") for line in rows[:2])
    named = dict(zip([word.strip() for word in header], map(float, values)))
    if "train/fg_l2" in named:  # 8.4.0 has columns for its own terms only
        assert named["train/fg_l2"] > 0.01 and named["val/fg_l2"] == 0


def test_a_trained_checkpoint_predicts_validates_and_goes_on_as_pretrained_weights(run, data):
    folder, _, _ = run
    model = YOLO(folder / "weights/best.pt")
    x = torch.rand(1, 3, 64, 64)
    [result] = model.predict(x, imgsz=64, verbose=False, conf=0.001)
    assert result.boxes is not None and result.names[0] == "disc"
    assert model.val(data=str(data), **{k: v for k, v in QUICK.items() if k != "batch"}).box is not None
    again = build({**model.model.yaml, "scale": "n"})
    again.load(model.model)
    assert torch.equal(again.scene.fc.weight, model.model.float().scene.fc.weight.cpu())


def test_a_checkpoint_refuses_to_open_where_the_logits_would_be_left_out(run, tmp_path):
    best = run[0] / "weights/best.pt"
    off = run_python(f"from ultralytics import YOLO; YOLO({str(best)!r})", tmp_path, YOLO_WNLB_DISABLE="1")
    assert off.returncode and "whose logits Ultralytics leaves out while yolo_wnlb is switched off" in off.stderr
    hidden = "import sys; sys.modules['yolo_wnlb'] = None; sys.meta_path.pop(0); "
    gone = run_python(f"{hidden}from ultralytics import YOLO; YOLO({str(best)!r})", tmp_path, YOLO_WNLB_DISABLE="1")
    assert gone.returncode and "yolo_wnlb" in gone.stderr


def in_float32(folder):
    """An OpenVINO export as a function; Ultralytics lets it compute in bfloat16 on processors that can."""
    import openvino

    core, [file] = openvino.Core(), [*Path(folder).glob("*.xml")]
    compiled = core.compile_model(core.read_model(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda x: [torch.from_numpy(compiled(x.numpy())[output]) for output in compiled.outputs]


@pytest.mark.parametrize("format", ["onnx", "openvino"])
@pytest.mark.parametrize(("name", "arch"), [("yolov8-seg.yaml", "resnet18"), ("yolo26-seg.yaml", "backbone")])
def test_an_export_computes_the_scene_too(name, arch, format, places, tmp_path):
    pytest.importorskip({"onnx": "onnxruntime"}.get(format, format))
    from ultralytics.nn.autobackend import AutoBackend

    cfg = definition(name, arch, places, blocks=arch == "backbone")
    model = speaking(build(cfg))
    model.task = "segment"
    model.args = {"task": "segment", "imgsz": 64}
    file = tmp_path / "model.pt"
    torch.save({"model": model, "ema": None, "epoch": -1, "train_args": {"task": "segment"}}, file)
    exported = YOLO(file).export(format=format, imgsz=64, dynamic=True, verbose=False)
    if format == "openvino":
        backend = in_float32(exported)
    else:
        backend = AutoBackend(exported, device=torch.device("cpu"), verbose=False)
    reference = AutoBackend(copy.deepcopy(model), device=torch.device("cpu"), verbose=False)
    silent = copy.deepcopy(model)
    silent.scene.fc.weight.data.zero_()
    silent = AutoBackend(silent, device=torch.device("cpu"), verbose=False)
    for size in ((64, 64),) if arch == "backbone" else ((64, 64), (96, 64)):  # end to end has rows for one size
        x = torch.rand(2, 3, *size)
        with torch.inference_mode():
            a, b, without = (net(x)[0] for net in (backend, reference, silent))
            a, b, without = (torch.as_tensor(t[0] if isinstance(t, (list, tuple)) else t) for t in (a, b, without))
        assert a.shape == b.shape
        rows = slice(4, 84) if a.shape[1] == 116 else (slice(None), slice(4, 5))
        a, b, without = (t[:, rows] if isinstance(rows, slice) else t[:, :, 4] for t in (a, b, without))
        assert (a - b).abs().max() < 3e-5 < (b - without).abs().max()


def test_inspect_reads_a_model_with_blocks_and_a_scene(places, tmp_path):
    model = speaking(build(definition("yolov8-seg.yaml", "backbone", places, blocks=True)))
    for module in model.modules():
        if type(module).__name__ == "WNLB":
            module.w.data.fill_(0.2)
    model.task = "segment"
    file = tmp_path / "model.pt"
    torch.save({"model": model, "ema": None, "epoch": -1, "train_args": {"task": "segment"}}, file)
    torch.manual_seed(0)
    import cv2
    import numpy as np

    cv2.imwrite(str(tmp_path / "picture.png"), np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    assert main(["inspect", str(file), str(tmp_path / "picture.png"), f"out={tmp_path / 'report'}", "imgsz=64"]) == 0


# ---- mistakes --------------------------------------------------------------------------------------


def graft_with(*words):
    return lambda places, folder: main_raising(["graft", *(w.format(places=places, folder=folder) for w in words)])


def main_raising(words):
    from yolo_wnlb.cli import run

    return run(words)


def resnet50_file(places, folder):
    torch.save(resnet50().state_dict(), folder / "resnet50.pth")
    return main_raising(
        [
            "graft",
            "yolov8.yaml",
            "scene=resnet18",
            f"scene_weights={folder / 'resnet50.pth'}",
            f"out={folder / 'a.yaml'}",
        ]
    )


def large_file(places, folder):
    torch.save({k: v * 1e6 for k, v in resnet18().state_dict().items()}, folder / "large.pth")
    return main_raising(
        ["graft", "yolov8.yaml", "scene=resnet18", f"scene_weights={folder / 'large.pth'}", f"out={folder / 'a.yaml'}"]
    )


def twice(places, folder):
    cfg = definition("yolov8.yaml", "backbone", places)
    (folder / "yolov8-scene.yaml").write_text(yaml.safe_dump(cfg))
    return main_raising(["graft", str(folder / "yolov8-scene.yaml"), "scene=backbone", f"out={folder / 'a.yaml'}"])


def built_with(scene, name="yolov8.yaml", kind=tasks.DetectionModel, channels=3):
    return lambda places, folder: kind({**load_yaml(name), "scale": "n", "scene": scene}, channels, verbose=False)


def trained_with(scene="backbone", **arguments):
    def act(places, folder):
        from types import SimpleNamespace

        model = build({**load_yaml("yolov8.yaml"), "scale": "n", "scene": scene})
        defaults = {"compile": False, "distill_model": None, "quantize": None}
        context.check_training(model, SimpleNamespace(**{**defaults, **arguments}))

    return act


def trained_without_weights(places, folder):
    cfg = definition("yolov8.yaml", "resnet18", places)
    changed = {**cfg, "scene": {**cfg["scene"], "sha256": "0" * 64}}
    from types import SimpleNamespace

    context.check_training(build(changed), SimpleNamespace())


def exported_to_imx(places, folder):
    model = build(definition("yolov8.yaml", "backbone", places))
    model.task, model.args = "detect", {"task": "detect"}
    torch.save({"model": model, "ema": None, "epoch": -1, "train_args": {"task": "detect"}}, folder / "model.pt")
    YOLO(folder / "model.pt").export(format="imx", imgsz=64, verbose=False)


RESNET = ("scene=resnet18", "scene_weights={places}", "out={folder}/a.yaml")
OUT = "out={folder}/a.yaml"
MISTAKES = {
    "unknown network": (
        graft_with("yolov8.yaml", "scene=resnet81", OUT),
        ["scene=resnet81", "did you mean 'resnet18'"],
    ),
    "no weights": (graft_with("yolov8.yaml", "scene=resnet18", OUT), ["needs weights", "scene_weights=", "backbone"]),
    "weights that are not there": (
        graft_with("yolov8.yaml", "scene=resnet18", "scene_weights={folder}/no.pth", OUT),
        ["there are no scene weights", "no.pth"],
    ),
    "weights of another network": (resnet50_file, ["resnet50.pth", "not of resnet18", "tensors are missing"]),
    "weights that are too large": (large_file, ["large.pth", "values that float16 cannot hold"]),
    "weights that are no checkpoint": (
        graft_with("yolov8.yaml", "scene=resnet18", "scene_weights=" + __file__, OUT),
        ["test_scene.py is no PyTorch checkpoint"],
    ),
    "weights for the backbone": (
        graft_with("yolov8.yaml", "scene=backbone", "scene_weights={places}", OUT),
        ["weights has no meaning", "leave it out"],
    ),
    "size for the backbone": (graft_with("yolov8.yaml", "scene=backbone", "size=224", OUT), ["size has no meaning"]),
    "size 0": (graft_with("yolov8.yaml", *RESNET, "size=0"), ["size=0", "whole number"]),
    "size 8": (graft_with("yolov8.yaml", *RESNET, "size=8"), ["size is 8", "from 32 to 1024"]),
    "l2 below 0": (graft_with("yolov8.yaml", "scene=backbone", "l2=-1", OUT), ["l2=-1", "0 or more"]),
    "l2 without a scene": (graft_with("yolov8.yaml", "l2=1", OUT), ["l2= is for a scene", "scene=backbone"]),
    "weights without a scene": (graft_with("yolov8.yaml", "scene_weights={places}", OUT), ["scene_weights= is for a"]),
    "option of a block without a place": (
        graft_with("yolov8.yaml", "scene=backbone", "sub_sample=2", OUT),
        ["sub_sample= is for blocks", "after=P3,P4,P5"],
    ),
    "scene= twice": (graft_with("yolov8.yaml", "scene=backbone", "scene=backbone", OUT), ["scene= is given twice"]),
    "a model that has one": (twice, ["has a scene already", "give the YAML without it"]),
    "a classifier": (
        graft_with("yolov8-cls.yaml", "scene=backbone", OUT),
        ["this model ends in Classify", "detect or"],
    ),
    "a transformer": (graft_with("rtdetr-l.yaml", "scene=backbone", OUT), ["this model ends in RTDETRDecoder"]),
    "poses": (graft_with("yolov8-pose.yaml", "scene=backbone", OUT), ["this model ends in Pose"]),
    "YAML: a classifier": (
        built_with("backbone", "yolov8-cls.yaml", tasks.ClassificationModel),
        ["this model ends in Classify"],
    ),
    "YAML: a number": (built_with(3), ["scene is 3", "wanted backbone, or a mapping"]),
    "YAML: unknown word": (built_with("backbon"), ["no arch 'backbon'", "did you mean 'backbone'"]),
    "YAML: unknown key": (built_with({"arch": "backbone", "l": 1}), ["no option 'l'", "choose from arch"]),
    "YAML: l2 that is no number": (built_with({"arch": "backbone", "l2": float("nan")}), ["l2 is nan", "0 or more"]),
    "YAML: truth for l2": (built_with({"arch": "backbone", "l2": True}), ["l2 is True"]),
    "YAML: weights that were never there": (
        built_with({"arch": "resnet18", "weights": "no/such.pth"}),
        ["there are no weights no/such.pth"],
    ),
    "YAML: four channels": (
        built_with({"arch": "resnet18", "weights": "no/such.pth"}, channels=4),
        ["takes 4 channels", "choose arch backbone"],
    ),
    "compile": (trained_with(compile=True), ["scene: and compile=True do not go together"]),
    "distillation": (trained_with(distill_model="yolov8m.pt"), ["distill_model=yolov8m.pt do not go together"]),
    "weights that have changed": (trained_without_weights, ["has changed since the scene was grafted", "pretrained="]),
    "a format that leaves it out": (exported_to_imx, ["format=imx cannot hold a model with a scene"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_answered_with_what_was_found_and_what_to_do(mistake, places, tmp_path):
    act, fragments = MISTAKES[mistake]
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        act(places, tmp_path)
    assert all(fragment in str(error.value) for fragment in fragments), str(error.value)
    assert not (tmp_path / "a.yaml").exists()


# ---- the command -----------------------------------------------------------------------------------


def test_graft_writes_the_scene_with_or_without_blocks_and_says_what_it_costs(places, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["graft", "yolov8-seg.yaml", "scene=resnet18", f"scene_weights={places}", "l2=0.1"]) == 0
    assert "frozen resnet18 of 11.2 M numbers at 224 px" in (printed := capsys.readouterr().out)
    assert re.search(r"22 MB in a checkpoint\), for scale n; at 640 px it adds 3\.6 GFLOPs to 12\.1, and \d", printed)
    written = yaml.safe_load((tmp_path / "yolov8-seg-scene.yaml").read_text())
    assert {**written.pop("scene"), "sha256": 0} == {
        "arch": "resnet18",
        "weights": str(places),
        "sha256": 0,
        "size": 224,
        "l2": 0.1,
    }
    assert written == load_yaml("yolov8-seg.yaml")
    assert main(["graft", "yolo11.yaml", "scene=backbone", "after=P5", "sub_sample=2"]) == 0
    written = yaml.safe_load((tmp_path / "yolo11-wnlb-scene.yaml").read_text())
    assert written["scene"] == {"arch": "backbone"}
    assert [row[3] for row in written["backbone"] if row[2] == "wNLB"] == [[{"sub_sample": 2}]]
    assert isinstance(YOLO(tmp_path / "yolo11n-wnlb-scene.yaml").model.scene, Scene)


def test_the_options_of_the_command_are_those_of_the_definition():
    options = COMMANDS["graft"].options
    assert set(options["scene"].kind.values) == set(scene_module.ARCHS)
    assert options["size"].default == context.DEFAULTS["size"] and options["l2"].default == context.DEFAULTS["l2"]
    assert {*SCENE_WORDS.values()} == context.DEFAULTS.keys() - {"sha256"}


def test_a_stock_model_has_no_scene_and_takes_no_other_path():
    model = build({**load_yaml("yolov8.yaml"), "scale": "n"})
    assert not weights.has_scene(model) and context.scene_of(model) is None
    with torch.no_grad():
        first = scores(model(torch.rand(1, 3, 64, 64)))
    assert len(first) == 1


def test_the_example_of_the_docstring_runs():
    assert doctest.testmod(scene_module) == (0, 1)
