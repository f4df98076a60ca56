"""Exports for small devices: their AP against that of the checkpoint, and what an int8 file keeps in float."""

import importlib.util
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import run_python, shapes_set
from torch import nn
from ultralytics import YOLO

from yolo_wnlb.cli import main
from yolo_wnlb.data import coco
from yolo_wnlb.data.shapes import NAMES
from yolo_wnlb.detectors import exported_ap
from yolo_wnlb.wnlb import WNLB
from yolo_wnlb.yolo import int8, patches, tensorrt
from yolo_wnlb.yolo.parity import check_export, numbers_of

SIZE = 64


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """A data YAML of eight pictures to measure on."""
    return shapes_set(tmp_path_factory.mktemp("edge") / "shapes", train=1, val=8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A checkpoint with three blocks that act, for the classes of `shapes`."""
    file = tmp_path_factory.mktemp("exports") / "best.pt"
    model = YOLO("yolov8n-seg-wnlb.yaml")
    net = model.model = type(model.model)("yolov8n-seg-wnlb.yaml", nc=len(NAMES), verbose=False)
    net.task, net.args, net.names = "segment", {"task": "segment"}, dict(enumerate(NAMES))
    for block in (module for module in net.modules() if isinstance(module, WNLB)):
        nn.init.constant_(block.w, 0.3)
    model.save(file)
    return file


def export(weights, name, **options):
    """Export a copy of the checkpoint, which has its own name: an int8 export removes the float file beside it."""
    copy = shutil.copy(weights, weights.with_name(f"{name}.pt"))
    return Path(YOLO(copy).export(imgsz=SIZE, verbose=False, **options))


@pytest.fixture(scope="module")
def exported(weights):
    """The float ONNX file of the checkpoint."""
    pytest.importorskip("onnxruntime")
    return export(weights, "float", format="onnx")


@pytest.fixture(scope="module")
def quantised(weights, shapes):
    """The int8 ONNX file of the checkpoint."""
    pytest.importorskip("onnxruntime")
    return export(weights, "int8", format="onnx", int8=True, data=str(shapes))


# ---- the AP of both ----------------------------------------------------------------------------------


@pytest.fixture
def found(monkeypatch):
    """Let the checkpoint find all objects, and the export the given share of them (in a list of one number)."""
    share = [1.0]

    def predict(model, files, classes, **options):
        truth = coco.ground_truth(found_in[0])
        objects = truth["annotations"]
        if str(model.weights).endswith(".onnx"):
            objects = objects[: round(share[0] * len(objects))]
        keys = ("image_id", "category_id", "bbox", "segmentation")
        sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
        return [
            {key: entry[key] for key in keys if key != "segmentation"}
            | {"segmentation": as_rle(entry["segmentation"], *sizes[entry["image_id"]]), "score": 0.9}
            for entry in objects
        ]

    found_in = [None]
    monkeypatch.setattr(exported_ap.detector, "predict", predict)
    return SimpleNamespace(share=share, data=found_in)


def as_rle(segmentation, height, width):
    """Return a segmentation of the truth as predictions have it."""
    if isinstance(segmentation, dict):
        return segmentation
    from pycocotools import mask

    rle = mask.merge(mask.frPyObjects(segmentation, height, width))
    return {**rle, "counts": rle["counts"].decode()}


def test_an_export_that_finds_the_same_keeps_all_of_the_ap(weights, exported, shapes, found):
    found.data[0] = shapes
    result = exported_ap.compare_ap(weights, exported, shapes)
    assert result.ok and result.share() == result.share("bbox") == 1
    assert (result.numbers, [*result.differences]) == ("float32", ["segm", "bbox"])
    assert "kept" in str(result) and str(result).endswith("wanted 95 % or more")


def test_an_export_that_finds_less_fails_with_its_interval(weights, exported, shapes, found, capsys):
    found.data[0], found.share[0] = shapes, 0.5
    result = exported_ap.compare_ap(weights, exported, shapes)
    assert not result.ok and 0.2 < result.share() < 0.8
    difference = result.differences["segm"]
    assert difference.delta == pytest.approx(result.export.masks["AP"] - result.checkpoint.masks["AP"])
    assert difference.low < difference.delta < difference.high <= 0.2
    assert main(["export-check", str(weights), str(exported), f"data={shapes}"]) == 1
    assert "FAILED: the export keeps" in capsys.readouterr().out
    assert main(["export-check", str(weights), str(exported), f"data={shapes}", "keep=0.1"]) == 0


def test_both_models_get_the_same_input(weights, exported):
    checkpoint, other = exported_ap.load_pair(weights, exported)
    assert (checkpoint.size, checkpoint.flexible, checkpoint.channels) == (other.size, other.flexible, 3)
    assert checkpoint.size == (SIZE, SIZE) and not checkpoint.flexible


def test_a_checkpoint_that_finds_nothing_has_nothing_to_keep(weights, exported, shapes, monkeypatch):
    monkeypatch.setattr(exported_ap.detector, "predict", lambda *args, **options: [])
    with pytest.raises(ValueError, match=r"has AP 0 on .*so its export has nothing to keep; give pictures"):
        exported_ap.compare_ap(weights, exported, shapes)


@pytest.mark.parametrize("keep", [0, 1.2, True, "most"])
def test_a_share_that_is_none_is_refused_before_anything_is_loaded(keep):
    with pytest.raises(ValueError, match="wanted the share of AP to keep"):
        exported_ap.compare_ap("no.pt", "no.onnx", "no.yaml", keep=keep)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["split=test"], "split= is for comparing AP; add data=DATA.yaml, or leave it out"),
        (["keep=0.9"], "keep= is for comparing AP; add data="),
        (["data=x.yaml", "tolerance=1"], "tolerance= is for comparing number by number, and data= asks for AP"),
        (["data=x.yaml", "sizes=64"], "sizes= is for comparing number by number"),
        (["data=x.yaml", "keep=2"], "keep=2"),
    ],
)
def test_options_that_do_not_go_together_are_named(words, message, capsys):
    assert main(["export-check", "best.pt", "best.onnx", *words]) == 2
    assert message in capsys.readouterr().err


# ---- int8 --------------------------------------------------------------------------------------------


def test_an_int8_onnx_file_has_its_blocks_products_in_float_and_the_rest_in_int8(weights, quantised):
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(quantised).graph
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    products = [node for node in graph.node if node.op_type == "MatMul"]
    inside = re.compile(r"/model\.(5|8|11)/(theta|phi|g)/Conv")
    convolutions = [node for node in graph.node if node.op_type == "Conv" and inside.match(node.name)]
    assert len(products) == len(convolutions) == 9
    assert not [node.name for node in products if "DequantizeLinear" in {made_by.get(name) for name in node.input}]
    assert {made_by[node.input[0]] for node in convolutions} == {"DequantizeLinear"}
    with pytest.raises(ValueError, match=r"is an int8 export, which cannot match .*; compare their AP with data="):
        check_export(weights, quantised)


def test_openvino_gets_attention_as_one_operation_that_stays_in_float(weights, shapes):
    """In a process of its own, as in test_parity.py: quantising compiles the model."""
    pytest.importorskip("nncf")
    openvino = pytest.importorskip("openvino")
    copy = shutil.copy(weights, weights.with_name("openvino.pt"))
    options = {"format": "openvino", "imgsz": SIZE, "int8": True, "data": str(shapes)}
    code = f"from ultralytics import YOLO; YOLO({str(copy)!r}).export(**{options!r})"
    ended = run_python(code, weights.parent)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    model = openvino.Core().read_model(weights.with_name("openvino_int8_openvino_model") / "openvino.xml")
    operations = model.get_ordered_ops()
    attention = [op for op in operations if op.get_type_name() == "ScaledDotProductAttention"]
    products = [op for op in operations if op.get_type_name() == "MatMul"]
    assert len(attention) == len(products) == 3  # uncut
    for op in (*attention, *products):
        assert "FakeQuantize" not in {port.get_source_output().get_node().get_type_name() for port in op.inputs()}
    assert sum(op.get_type_name() == "FakeQuantize" for op in operations) > 20


def test_the_deployment_script_runs_an_int8_file(quantised):
    script = Path(__file__).parents[1] / "scripts" / "onnx_inference.py"
    spec = importlib.util.spec_from_file_location("onnx_inference", script)
    example = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = example  # dataclasses look their module up
    spec.loader.exec_module(example)
    model = example.Model(quantised)
    found = model(np.full((50, 70, 3), 90, np.uint8), conf=0.0)
    assert model.size == (SIZE, SIZE) and found.masks.shape[1:] == (50, 70)


def test_only_the_products_of_blocks_are_kept():
    nodes = [
        *(("/model.5/MatMul", "MatMul"), ("/model.5/theta/Conv", "Conv"), ("/model.15/MatMul", "MatMul")),
        *(("__module.model.5/aten::baddbmm/MatMul", "MatMul"), ("/model.10/attn/MatMul", "MatMul")),
        *(("/model/model.5/MatMul_1", "MatMul"), ("MatMul_7", "MatMul")),
    ]
    assert int8.products_of(nodes, ["model.5"]) == [nodes[0][0], nodes[3][0], nodes[5][0]]


def test_quantisation_is_untouched_without_blocks_and_after_an_export():
    quantization = pytest.importorskip("onnxruntime.quantization")
    stock = quantization.quantize_static
    with int8.products_in_float(nn.Sequential(nn.Conv2d(2, 2, 1)), "onnx"):
        assert quantization.quantize_static is stock
    with int8.products_in_float(nn.Sequential(WNLB(2)), ""):
        assert quantization.quantize_static is stock
    with pytest.raises(KeyError), int8.products_in_float(nn.Sequential(WNLB(2)), "onnx"):
        assert quantization.quantize_static is not stock
        raise KeyError
    assert quantization.quantize_static is stock


@pytest.mark.parametrize(
    ("args", "numbers"),
    [({"int8": True}, "int8"), ({"quantize": 8}, "int8"), ({"half": True}, "float16"), ({"quantize": None}, "float32")],
    ids=str,
)
def test_the_precision_of_an_export_is_read_from_its_metadata(args, numbers):
    assert numbers_of(SimpleNamespace(metadata={"args": args})) == numbers


# ---- TensorRT, by its documentation ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "imgsz", "wanted"),
    [
        ({}, 640, []),
        ({"embed_dim": 24}, 640, []),
        ({"embed_dim": 288}, 640, ["model.1 are 288 channels wide", "embed_dim=256"]),
        ({"embed_dim": 12}, 640, ["model.1 are 12 channels wide", "embed_dim=16"]),
        ({"operation": "non_local_means"}, 640, ["model.1 are 33 channels wide", "embed_dim=31"]),
        ({"operation": "gaussian"}, 640, []),
        ({"operation": "dot_product", "embed_dim": 288}, 4096, []),
        ({}, [1024, 1024], ["model.1 averages 65536 keys at 1024x1024 pixels", "larger sub_sample"]),
        ({"sub_sample": 2}, [1024], []),
        ({"sub_sample": 2}, 2048, ["averages 65536 keys"]),
    ],
    ids=str,
)
def test_what_tensorrt_cannot_do_in_16_bits_is_named(options, imgsz, wanted):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.yaml = {"channels": 3}
            self.model = nn.Sequential(nn.Conv2d(3, 64, 4, stride=4), WNLB(64, **options))

        def forward(self, x):
            return self.model(x)

    found = tensorrt.remarks(Net(), imgsz)
    assert len(found) == bool(wanted)
    assert all(text in found[0] for text in wanted)


def test_the_widths_of_the_models_are_those_of_the_table_in_the_docs():
    widths = {"n": (64, 128, 256), "m": (192, 384, 576), "x": (320, 640, 640)}
    fused = {scale: [tensorrt.can_fuse(channels // 2) for channels in sizes] for scale, sizes in widths.items()}
    assert fused == {"n": [True] * 3, "m": [True, True, False], "x": [True, False, False]}


@pytest.mark.parametrize(
    ("args", "bits"),
    [({"quantize": 8}, 8), ({"quantize": 16}, 16), ({"quantize": None}, 32), ({"int8": True}, 8), ({"half": True}, 16)],
    ids=str,
)
def test_how_many_bits_an_export_asks_for_is_read_in_old_and_new_releases(args, bits):
    assert patches.bits_of(SimpleNamespace(**args)) == bits
