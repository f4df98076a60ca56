"""Exports for small devices: their AP against that of the checkpoint, and what an int8 file keeps in float."""

import importlib.util
import json
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
from yolo_wnlb.yolo import int8, night, tensorrt
from yolo_wnlb.yolo.parity import check_export, numbers_of
from yolo_wnlb.yolo.patches.export import bits_of

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


def test_an_export_whose_metadata_name_no_blocks_is_of_another_model(weights, quantised, shapes, tmp_path, capsys):
    onnx = pytest.importorskip("onnx")
    assert exported_ap.load_pair(weights, quantised)
    model, other = onnx.load(quantised), tmp_path / "other.onnx"
    left = [entry for entry in model.metadata_props if entry.key != night.KEY]
    assert len(left) == len(model.metadata_props) - 1
    del model.metadata_props[:]
    model.metadata_props.extend(left)  # as an export of a model without blocks has them
    onnx.save(model, other)
    assert main(["export-check", str(weights), str(other), f"data={shapes}"]) == 2
    message = "has wNLB blocks, and the metadata of"
    assert message in (said := capsys.readouterr().err) and f"{other} name none: it is the export of another" in said


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


def test_an_int8_export_is_calibrated_in_the_dark_that_lowlight_asks_for(bright, weights):
    from ultralytics.engine.exporter import Exporter

    def pictures(**more):
        words = {"format": "onnx", "int8": True, "data": str(bright), "batch": 1, "imgsz": SIZE, **more}
        exporter = Exporter(overrides=words)
        exporter.model, exporter.imgsz, exporter.curve = SimpleNamespace(task="segment"), [SIZE, SIZE], None
        return np.concatenate([batch["img"].numpy() for batch in exporter.get_int8_calibration_dataloader()])

    day, night = pictures(), pictures(lowlight="severe")
    assert len(day) == len(night) == 4 and night.mean() < 0.5 * day.mean()
    assert np.array_equal(night, pictures(lowlight="severe")), "as in validation"
    with pytest.raises(ValueError, match=r"lowlight=severe darkens the pictures .* one in 32 bits reads none"):
        export(weights, "dark", format="onnx", lowlight="severe")


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


def script(name):
    """Import a file of scripts/."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_deployment_script_runs_an_int8_file(quantised):
    example = script("onnx_inference")
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
    assert bits_of(SimpleNamespace(**args)) == bits


# ---- scripts/edge_int8.py ----------------------------------------------------------------------------


@pytest.fixture
def edge(tmp_path, monkeypatch, capsys):
    """A function of words of a command line: runs the script, and returns its exit status, table and message.

    Exports are not made: a cell is as `edge.cell` says, and `edge.measured` lists the files that each one drew.
    """
    module = script("edge_int8")
    shapes_set(tmp_path / "val", train=4, val=2)
    shapes_set(tmp_path / "day", train=6, val=3)
    (tmp_path / "a.pt").write_bytes(b"weights")
    place = SimpleNamespace(folder=tmp_path, module=module, measured=[], cell={"checkpoint": 0.4, "export": 0.3})

    def measure(args, pictures, model, format, drawn, of):
        place.measured.append([file.name for file in drawn])
        return {**place.cell, "low": -0.2, "high": 0.0}

    def run(*words, model="a.pt", models=(), **options):
        given = {"data": "val/data.yaml", "day": "day/data.yaml", "out": "out", "pictures": 3, "seeds": 1, **options}
        place.measured.clear()
        flags = [word for key, value in given.items() for word in (f"--{key}", str(value))]
        monkeypatch.setattr(sys, "argv", ["edge_int8.py", f"one={model}", *models, *flags, "--formats", "onnx", *words])
        try:
            status = module.main()
        except SystemExit as ended:
            status = ended.code
        said = capsys.readouterr()
        return status, said.out, said.err

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "measure", measure)
    monkeypatch.setattr(module, "check_model", lambda file, truth: None)
    place.run = run
    return place


def test_a_cell_is_measured_once_and_says_what_it_is_of(edge):
    status, table, _ = edge.run()
    assert status == 0 and "| one | onnx | 192 | float | 40.00 | 75.0 | - | - |" in table
    assert [len(drawn) for drawn in edge.measured] == [3]
    [file] = (edge.folder / "out").glob("cell-*.json")
    assert json.loads(file.read_text())["of"].keys() == edge.module.ORIGIN.keys()
    assert edge.run() == (0, table, "") and not edge.measured
    assert edge.run(seeds=2)[0] == 0 and len(edge.measured) == 1


def repaint(file):
    """Write other pixels into a picture."""
    import cv2

    cv2.imwrite(str(file), 255 - cv2.imread(str(file)))


@pytest.mark.parametrize(
    ("change", "options", "what"),
    [
        (lambda root: (root / "a.pt").write_bytes(b"others"), {}, "weights"),
        (lambda root: repaint(next((root / "val/images/val").iterdir())), {}, "labelled pictures"),
        (lambda root: [*map(repaint, (root / "day/images/train").iterdir())], {}, "pictures to calibrate on"),
        (lambda root: None, {"data": "day/data.yaml"}, "labelled pictures"),
        (lambda root: None, {"split": "train"}, "labelled pictures, --split"),
        (lambda root: None, {"day": "val/data.yaml", "pictures": 2}, "--pictures, pictures to calibrate on"),
    ],
    ids=["weights", "pictures", "calibration", "data", "split", "count"],
)
def test_cells_of_something_else_are_refused(edge, change, options, what):
    assert edge.run()[0] == 0
    change(edge.folder)
    status, table, message = edge.run(**options)
    assert (status, table, edge.measured, message.count("\n")) == (2, "", [], 1)
    assert "out/cell-one-onnx-day-0-192.json is of other " in message
    assert f"{what} than this command names; give another --out, or remove this file" in message


def test_files_that_do_not_say_what_they_are_of_are_refused(edge):
    from yolo_wnlb.metrics.average_precision import evaluate

    edge.run(cells=0)
    truth = coco.ground_truth("val/data.yaml")
    found = evaluate(truth, [], iou_types=["segm"], protocol={})
    known = edge.folder / "out/checkpoint-one-192.json"
    found.to_json(known)
    assert "checkpoint-one-192.json does not say what it was measured on" in edge.run()[2]
    found.protocol["of"] = {"weights": "x"}
    found.to_json(known)
    assert "checkpoint-one-192.json is of other weights, labelled pictures, --split than" in edge.run()[2]
    known.unlink()
    assert edge.run()[0] == 0
    [cell] = (edge.folder / "out").glob("cell-*.json")
    cell.write_text(json.dumps({**json.loads(cell.read_text()), "of": None}))
    assert "cell-one-onnx-day-0-192.json does not say what it was measured on" in edge.run()[2]
    cell.write_text("{")
    assert "is no JSON" in edge.run()[2]


@pytest.mark.parametrize(
    ("models", "options", "message"),
    [
        ([], {"model": "no.pt"}, "one=no.pt: there is no such checkpoint"),
        ([], {"model": "val/data.yaml"}, "one=val/data.yaml: there is no such checkpoint"),
        (["b/c=a.pt"], {}, "'b/c=a.pt' is no NAME=FILE.pt, with a name of letters"),
        (["a.pt"], {}, "'a.pt' is no NAME=FILE.pt"),
        (["one=b.pt"], {}, "two models have one name"),
        ([], {"pictures": 7}, "day/data.yaml has 6 pictures in train, and --pictures is 7"),
        ([], {"data": "no.yaml"}, "no.yaml"),
        ([], {"day": "no.yaml"}, "no.yaml"),
        ([], {"imgsz": 100}, "--imgsz is 100; wanted a multiple of 32"),
        ([], {"seeds": 0}, "--pictures and --seeds have to be 1 or more"),
        ([], {"out": "a.pt"}, "a.pt"),
    ],
)
def test_mistakes_are_named_before_the_first_cell(edge, models, options, message):
    status, table, said = edge.run(models=models, **options)
    assert (status, table, edge.measured) == (2, "", [])
    assert message in said and "Traceback" not in said and said.splitlines()[-1].startswith("edge_int8.py: error: ")


def test_an_error_of_a_cell_is_one_line(edge, monkeypatch):
    def fail(*args):
        raise ValueError("two\nlines")

    monkeypatch.setattr(edge.module, "measure", fail)
    assert edge.run() == (2, "", "edge_int8.py: error: two lines\n")


def test_a_checkpoint_without_ap_has_no_share_to_keep(edge):
    edge.cell = {"checkpoint": 0.0, "export": 0.0}
    assert "| one | onnx | 192 | float | 0.00 | - | - | - |" in edge.run()[1]
    edge.cell |= {"precision": "float16", "difference": {}, "ok": True}
    assert "| one | onnx | 192 | float16 | - | nan | nan | nan | OK |" in edge.run("--fp16")[1]


def test_pictures_of_one_name_all_calibrate(edge):
    files = [edge.folder / part / "night.png" for part in ("a", "b")]
    for file in files:
        file.parent.mkdir()
        file.write_bytes(file.parent.name.encode())
    data = edge.module.gather(files, {0: "disc"}, edge.folder / "gathered")
    copies = sorted((data.parent / "images").iterdir())
    assert [file.read_bytes() for file in copies] == [b"a", b"b"]
    assert [file.stem for file in sorted((data.parent / "labels").iterdir())] == [file.stem for file in copies]


def test_checkpoints_are_checked_for_masks_and_classes(weights, shapes):
    module, truth = script("edge_int8"), coco.ground_truth(shapes)
    module.check_model(str(weights), truth)
    with pytest.raises(ValueError, match="classes of the detector are not the 1 of the truth"):
        module.check_model(str(weights), {**truth, "categories": [{**c, "name": "x"} for c in truth["categories"][:1]]})
