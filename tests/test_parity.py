"""Exports agree with their checkpoint, broken ones are caught, the deployment example agrees."""

import functools
import importlib.util
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import run_python
from torch import nn
from ultralytics import YOLO

from yolo_wnlb.wnlb import WNLB
from yolo_wnlb.yolo.models import read_picture, to_input
from yolo_wnlb.yolo.parity import (
    OWN_ROUNDING,
    TOLERANCE,
    Parity,
    at_least_own_rounding,
    check_export,
    choose_sizes,
    draw_pictures,
    rows_at,
)
from yolo_wnlb.yolo.pooling import windows_within_maps

ROOT = Path(__file__).parents[1]
OUTPUTS = ["boxes", "scores", "coefficients", "prototypes"]


@torch.no_grad()
def build(config, path, classes=8, channels=3):
    """Save a random model that finds something: norms fitted to pictures, outputs of the head spread."""
    torch.manual_seed(0)
    model = YOLO(config)
    net = model.model = type(model.model)(config, ch=channels, nc=classes, verbose=False)
    net.task, net.args, net.names = model.task, {"task": model.task}, {i: f"thing{i}" for i in range(classes)}
    x = to_input(draw_pictures(channels), (160, 160))
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.0)
        nn.init.normal_(norm.bias, std=0.2)
        norm.momentum = 1.0
    net.train()(x)
    for norm in norms:
        norm.momentum = 0.03
        norm.running_var.clamp_(min=norm.running_var.mean() / 2)  # dividing by almost nothing amplifies rounding
    for block in (m for m in net.modules() if type(m).__name__ == "WNLB"):
        block.w.fill_(0.3)
    net.eval()
    head = net.model[-1]
    near = 2.0 if head.reg_max == 1 else -0.7 * torch.arange(float(head.reg_max)).repeat(4)
    for side in ("", "one2one_"):
        for name, mean, std in (("cv2", near, 0.1), ("cv3", -4.0, 1.5), ("cv4", 0.0, 0.5)):
            for branch in getattr(head, side + name, None) or []:
                spread(net, branch[-1], x, mean, std)
    model.save(path)
    return path


def spread(net, layer, x, mean, std):
    """Scale a convolution so that its outputs on x have this mean and standard deviation."""
    seen = []
    hook = layer.register_forward_hook(lambda m, i, y: seen.append(y))
    net(x)
    hook.remove()
    scale = std / seen[0].std((0, 2, 3))
    layer.weight.mul_(scale[:, None, None, None])
    layer.bias.copy_((layer.bias - seen[0].mean((0, 2, 3))) * scale + mean)


def export(weights, name, **options):
    """Export a copy of the checkpoint at 160 pixels; each has its own name."""
    copy = shutil.copy(weights, weights.with_name(f"{name}.pt"))
    return Path(YOLO(copy).export(**{"format": "onnx", "imgsz": 160, "verbose": False, **options}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("parity")


@pytest.fixture(scope="module")
def segment(folder):
    return build("yolov8n-seg-wnlb4.yaml", folder / "segment.pt")


@pytest.fixture(scope="module")
def static(segment):
    return export(segment, "static")


@pytest.fixture(scope="module")
def dynamic(segment):
    return export(segment, "dynamic", dynamic=True)


@pytest.fixture(scope="module")
def detect(folder):
    return build("yolov8n-wnlb.yaml", folder / "detect.pt")


@pytest.fixture(scope="module")
def detect_onnx(detect):
    return export(detect, "detect_static")


@pytest.fixture(scope="module")
def end2end(folder):
    weights = build("yolo26n-seg-wnlb.yaml", folder / "end2end.pt")
    return weights, export(weights, "end2end_static", nms=False)


def test_a_static_export_matches_its_checkpoint(segment, static):
    parity = check_export(segment, static)
    assert parity.ok, parity
    assert parity.detections > 20 and parity.mask_ious
    assert list(parity.difference) == OUTPUTS
    assert "static export" in str(parity) and "identity" not in str(parity)


def test_a_dynamic_export_matches_at_other_sizes_and_batches(segment, dynamic):
    parity = check_export(segment, dynamic, sizes=[160, (128, 192), (96, 224)])
    assert parity.ok, parity
    assert set(parity.inputs) == {"2x3x160x160", "2x3x128x192", "2x3x96x224"}


@pytest.mark.parametrize("options", [{"opset": 12}, {"simplify": False}, {"format": "torchscript"}], ids=str)
def test_every_way_of_exporting_matches(segment, options):
    name = "_".join(map(str, *options.items()))
    parity = check_export(segment, export(segment, name, **options))
    assert parity.ok, parity
    assert parity.precision == "float32"


def test_an_export_of_half_the_digits_is_held_to_what_those_can_do(segment):
    """A random model amplifies rounding: what it loses itself in 16 bit is accepted, and no more."""
    exported = export(segment, "half", half=True)
    parity = check_export(segment, exported)
    assert parity.precision == "float16" and parity.ok, str(parity)
    assert TOLERANCE["float16"]["scores"] < parity.difference["scores"] < parity.tolerance["scores"] < 0.3, parity
    assert "times what the checkpoint itself changes in float16" in str(parity)
    assert not check_export(segment, exported, tolerance=1e-3).ok


def test_numbers_that_are_not_finite_in_16_bit_raise_no_limit():
    rounded = Parity("checkpoint", "float16", {}, {"boxes": np.nan, "scores": np.inf, "prototypes": 0.5})
    rounded.magnitude = {"boxes": 1.0, "scores": 1.0, "prototypes": 5.0}
    limits = dict.fromkeys(OUTPUTS, 0.01)
    assert at_least_own_rounding(limits, rounded) == {**limits, "prototypes": pytest.approx(OWN_ROUNDING * 0.1)}


def test_a_window_larger_than_the_map_is_none_in_an_export_of_one_size(monkeypatch):
    """OpenVINO refuses a window of 64 on a map of 6 x 5."""
    windows = []
    stock = F.max_pool2d
    monkeypatch.setattr(
        F, "max_pool2d", lambda x, k, *args, **kwargs: windows.append(k) or stock(x, k, *args, **kwargs)
    )
    block, x = WNLB(8, sub_sample=64, w_init=0.5).eval(), torch.rand(1, 8, 6, 5)
    found = {}
    for dynamic in (False, True):
        with windows_within_maps(nn.Sequential(block), dynamic):
            found[dynamic] = torch.jit.trace(block, x, check_trace=False)(x)
    assert torch.equal(found[False], block(x)) and torch.equal(found[True], block(x))
    assert windows[:2] == [[6, 5]] * 2 and windows[-1] == 64 and "one_size" not in vars(block)


def test_openvino_is_held_to_what_its_digits_can_do(segment, folder):
    """In a process of its own: OpenVINO 2026.4 gives the thread that compiles a model a signal stack, and may free it.

    The kernel then kills the process at the next signal, which PyTorch's data loaders have every ended child send.
    """
    pytest.importorskip("openvino")
    exported = export(segment, "openvino", format="openvino")
    code = f"""
import numpy as np
from yolo_wnlb.yolo.parity import check_export
parity = check_export({str(segment)!r}, {str(exported)!r})
print(parity)
assert parity.difference["scores"] < {{"float32": 1e-3, "bfloat16": 0.5}}[parity.precision]
assert np.mean(parity.mask_ious) > 0.8
"""
    ended = run_python(code, folder)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize("operation", ["gaussian", "dot_product", "concatenation", "non_local_means"])
def test_the_other_operations_export_too(operation, folder):
    from yolo_wnlb.yolo.grafting import graft, load_yaml, to_yaml

    options = [{"operation": operation}, {"operation": operation, "sub_sample": 2}]
    definition, _ = graft(load_yaml("yolov8-seg.yaml"), ["P3", "P5"], options)
    (folder / f"yolov8-{operation}-seg.yaml").write_text(to_yaml(definition, operation))
    weights = build(str(folder / f"yolov8n-{operation}-seg.yaml"), folder / f"{operation}.pt")
    parity = check_export(weights, export(weights, f"{operation}_export", dynamic=True), sizes=[160, (96, 128)])
    assert parity.ok, parity


def test_cosine_a_w_for_each_channel_and_the_adapters_export_too(folder):
    from yolo_wnlb.yolo.grafting import graft, load_yaml, to_yaml

    options = [
        {"scale": "cosine", "w_per_channel": True},
        {"operation": "pointwise", "w_per_channel": True},
        {"operation": "depthwise"},
    ]
    definition, _ = graft(load_yaml("yolov8-seg.yaml"), ["P3", "P4", "P5"], options)
    (folder / "yolov8-forms-seg.yaml").write_text(to_yaml(definition, "forms"))
    weights = build(str(folder / "yolov8n-forms-seg.yaml"), folder / "forms.pt")
    parity = check_export(weights, export(weights, "forms_export", dynamic=True), sizes=[160, (96, 128)])
    assert parity.ok, parity


def test_softmax_forms_are_cut_into_equal_parts_at_every_size(folder, monkeypatch):
    """No map of all pairs is in the graph, nor in a run at another size."""
    import onnx
    import onnxruntime

    from yolo_wnlb.yolo.grafting import graft, load_yaml, to_yaml

    monkeypatch.setattr("yolo_wnlb.pairwise.MAX_PAIRS", 1000)
    options = [{}, {"operation": "gaussian", "scale": None}]
    (folder / "yolov8-cut-seg.yaml").write_text(
        to_yaml(graft(load_yaml("yolov8-seg.yaml"), ["P4", "P5"], options)[0], "")
    )
    weights = build(str(folder / "yolov8n-cut-seg.yaml"), folder / "cut.pt")
    exported = export(weights, "cut_export", dynamic=True)
    parity = check_export(weights, exported, sizes=[160, (96, 128), 224])
    assert parity.ok, str(parity)
    graph = onnx.load(exported)
    parts = [node.output[0] for node in graph.graph.node if node.op_type == "Softmax" and "dfl" not in node.name]
    graph.graph.output.extend(onnx.ValueInfoProto(name=name) for name in parts)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    (fed,) = session.get_inputs()
    for side, rows in ((160, 100), (320, 400)):
        maps = session.run(parts, {fed.name: np.zeros((1, 3, side, side), np.float32)})
        at_p4 = [part.shape[1] for part in maps if part.shape[2] == rows]
        assert sum(at_p4) == rows and len(at_p4) == 10 and max(at_p4) == rows // 10  # 100 x 100 pairs at 160 px


def test_a_detection_export_has_no_mask_figures(detect, detect_onnx):
    parity = check_export(detect, detect_onnx)
    assert parity.ok, parity
    assert list(parity.difference) == OUTPUTS[:2] and not parity.mask_ious
    assert "mask" not in str(parity)


def test_an_end_to_end_export_is_compared_row_by_row(end2end):
    parity = check_export(*end2end)
    assert parity.ok, parity
    assert list(parity.difference) == OUTPUTS and "closest row" in str(parity)


@pytest.mark.parametrize("layer", ["cv2", "cv3", "cv4", "proto"])
def test_a_checkpoint_changed_after_export_is_caught(layer, segment, static, folder):
    model = YOLO(segment)
    part = getattr(model.model.model[-1], layer)
    last = part.cv3.conv if layer == "proto" else part[0][-1]
    last.weight.data *= 1.02
    model.save(folder / "changed.pt")
    parity = check_export(folder / "changed.pt", static)
    output = {"cv2": "boxes", "cv3": "scores", "cv4": "coefficients", "proto": "prototypes"}[layer]
    assert not parity.ok
    assert [name for name, d in parity.difference.items() if d > parity.limit(name)] == [output]
    assert str(parity).splitlines()[-1].startswith("FAILED")


def test_a_changed_w_is_caught_and_an_inactive_block_is_mentioned(segment, static, folder):
    model = YOLO(segment)
    for block in (m for m in model.model.modules() if type(m).__name__ == "WNLB"):
        block.w.data.zero_()
    model.save(folder / "identity.pt")
    parity = check_export(folder / "identity.pt", static)
    assert not parity.ok and "still the identity" in str(parity)


def test_outputs_that_were_never_compared_are_no_parity(segment, static, folder):
    """Boxes and coefficients count where there is a score: a model that sees nothing shows nothing."""
    model = YOLO(segment)
    for branch in model.model.model[-1].cv3:
        branch[-1].bias.data -= 30
    model.save(folder / "dark.pt")
    parity = check_export(folder / "dark.pt", export(folder / "dark.pt", "dark_static"))
    assert not parity.ok and "no boxes were compared" in str(parity)


def test_missing_detections_are_caught(segment, static, folder):
    model = YOLO(segment)
    for branch in model.model.model[-1].cv3:
        branch[-1].bias.data[:4] -= 10
    model.save(folder / "blind.pt")
    assert check_export(folder / "blind.pt", static).unmatched > 0


@pytest.mark.parametrize(
    ("own", "sizes"),
    [
        (64, [(64, 64)]),  # 84 positions; every other size has more or fewer
        (96, [(96, 96)]),  # the smaller default has 168 positions, the export wants 189
        (160, [(160, 160), (128, 192), (192, 160), (224, 224)]),
    ],
)
def test_default_sizes_are_those_that_an_end_to_end_export_takes(own, sizes):
    rows = functools.partial(rows_at, strides=(8, 16, 32), most=300)
    assert choose_sizes((own, own), 32, True, None, "best.onnx", rows) == sizes
    assert choose_sizes((own, own), 32, False, None, "best.onnx", rows) == [(own, own)]
    assert len(choose_sizes((own, own), 32, True, None, "best.onnx")) == 4


def test_a_small_dynamic_end_to_end_export_is_compared_where_it_runs(end2end):
    exported = export(end2end[0], "end2end_dynamic", dynamic=True, imgsz=64, nms=False)
    parity = check_export(end2end[0], exported)
    assert parity.ok, parity
    assert set(parity.inputs) == {"2x3x64x64"} and "another number of rows" in str(parity)
    with pytest.raises(ValueError, match=r"always returns 84 rows, .* at \(64, 64\), and \(32, 64\) has 42"):
        check_export(end2end[0], exported, sizes=[(32, 64)])


@pytest.mark.parametrize("sizes", [[100], [0], [-160], [64.0], ["160"], [True], [(160,)], [(160, 100)], [None], []])
def test_sizes_that_no_export_takes_are_refused(sizes):
    with pytest.raises(ValueError, match=r"multiple of the stride 32|sizes is empty"):
        choose_sizes((160, 160), 32, True, sizes, "best.onnx")


@pytest.mark.parametrize("tolerance", [-1e-3, float("nan"), float("inf"), "0.1", True, [1e-3]])
def test_a_tolerance_that_is_no_number_of_0_or_more_is_refused_before_anything_is_loaded(tolerance):
    with pytest.raises(ValueError, match="wanted a number of 0 or more"):
        check_export("nowhere.pt", "nowhere.onnx", tolerance=tolerance)


def test_an_empty_folder_and_one_of_strays_hold_no_pictures(segment, static, tmp_path):
    for name in (".DS_Store", "._0001.png", "notes.txt"):
        with pytest.raises(FileNotFoundError, match=r"no pictures in .*; wanted files ending in .*png"):
            check_export(segment, static, images=tmp_path)
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(FileNotFoundError, match="no pictures"):
        check_export(segment, static, images=[])


# ---- pictures of other channels ----------------------------------------------------------------------


def write_pictures(folder, channels):
    """Write the drawn pictures as files that a model of so many channels reads; returns their paths."""
    folder.mkdir()
    for i, picture in enumerate(draw_pictures(max(channels, 3) if channels <= 4 else channels)):
        if channels <= 4:
            cv2.imwrite(str(folder / f"{i}.png"), picture)  # colour for the grey model, which reads it in grey
        else:
            cv2.imwritemulti(str(folder / f"{i}.tiff"), [*picture.transpose(2, 0, 1).copy()])
    return sorted(folder.iterdir())


@pytest.fixture(scope="module", params=[1, 4, 6])
def many(request, folder):
    """A detection model of 1, 4 or 6 channels, its export, and pictures for it."""
    channels = request.param
    weights = build("yolov8n-wnlb.yaml", folder / f"channels{channels}.pt", channels=channels)
    return (
        channels,
        weights,
        export(weights, f"channels{channels}_export"),
        write_pictures(folder / f"pictures{channels}", channels),
    )


def test_a_model_of_other_channels_is_compared_on_pictures_of_those(many):
    channels, weights, exported, files = many
    for images in (None, files):
        parity = check_export(weights, exported, images)
        assert parity.ok and parity.detections > 5, parity
        assert set(parity.inputs) == {f"1x{channels}x160x160"}


def test_pictures_reach_a_model_of_other_channels_alike_by_every_way(many, example, tmp_path):
    """The stock command, our COCO results of checkpoint and export, and the script for deployment."""
    from yolo_wnlb.detectors.ultralytics import predict

    channels, weights, exported, files = many
    options = {"imgsz": 160, "verbose": False, "device": "cpu"}
    model, stock = example.Model(exported), {file: YOLO(file, task="detect") for file in (weights, exported)}
    assert model.channels == channels
    for file in files:
        # the stock command of 8.4.0 reads no picture of more than three channels; an array goes through everywhere
        picture = read_picture(file, channels)
        [theirs] = stock[exported].predict(picture, **options)
        ours = model(example.read_picture(file, channels))
        np.testing.assert_allclose(ours.scores, theirs.boxes.conf, atol=1e-5)
        np.testing.assert_allclose(ours.boxes, theirs.boxes.xyxy, atol=1e-2)
        for source, run in stock.items():
            [theirs] = run.predict(picture, **options)
            found = predict(source, {0: file}, {i: i for i in range(8)}, conf=0.25, device="cpu", imgsz=160)
            best = max(found, key=lambda prediction: prediction["score"])
            assert best["score"] == pytest.approx(theirs.boxes.conf[0].item(), abs=1e-4)
            np.testing.assert_allclose(best["bbox"][:2], theirs.boxes.xyxy[0, :2], atol=1e-2)
    written = script(example, exported, *files, "--out", tmp_path / "out")
    assert written.status == 0 and len(written.files) == 3


def test_pictures_of_too_few_channels_are_named(many, example, tmp_path):
    channels, weights, exported, _ = many
    file = tmp_path / "colour.jpg"
    cv2.imwrite(str(file), draw_pictures()[0])
    if channels == 1:
        assert check_export(weights, exported, file).ok
        return
    with pytest.raises(ValueError, match=f"colour.jpg has 3 channels, and the model takes pictures of {channels}"):
        check_export(weights, exported, file)
    written = script(example, exported, file, "--out", tmp_path / "out")
    assert written.status == 1 and f"the model takes {channels}" in written.err


def test_a_checkpoint_and_an_export_of_other_channels_are_strangers(many, detect_onnx):
    with pytest.raises(ValueError, match=f"differ in channels: {many[0]} against 3"):
        check_export(many[1], detect_onnx)


def test_unlike_files_are_refused(segment, static, detect_onnx, folder):
    with pytest.raises(ValueError, match="differ in task: segment against detect"):
        check_export(segment, detect_onnx)
    other = build("yolov8n.yaml", folder / "five.pt", classes=5)
    with pytest.raises(ValueError, match=r"differ in classes: 5 .*against 8"):
        check_export(other, detect_onnx)
    with pytest.raises(ValueError, match=r"static and takes \(160, 160\)"):
        check_export(segment, static, sizes=[192])


@pytest.mark.parametrize("entry", ["imgsz 64", "imgsz [64,0]", "stride [32", "channels x"])
def test_exports_with_damaged_metadata_are_refused(segment, static, folder, example, entry):
    onnx = pytest.importorskip("onnx")
    (key, value), model, file = entry.split(), onnx.load(static), folder / "damaged.onnx"
    next(item for item in model.metadata_props if item.key == key).value = value
    onnx.save(model, file)
    with pytest.raises(ValueError, match=r"damaged\.onnx (has damaged metadata|cannot be loaded).*export it again"):
        check_export(segment, file)
    if key == "imgsz":
        with pytest.raises(ValueError, match=r"damaged\.onnx has damaged metadata"):
            example.Model(file)


def test_unreadable_files_are_named(segment, static, folder):
    broken = folder / "broken.onnx"
    broken.write_bytes(static.read_bytes()[:5000])
    (folder / "text.png").write_text("no picture")
    for error, files, images, fragment in (
        (ValueError, (segment, broken), None, r"broken\.onnx cannot be loaded; export it again"),
        (FileNotFoundError, (segment, folder / "none.onnx"), None, r"none\.onnx does not exist"),
        (FileNotFoundError, (folder / "none.pt", static), None, r"none\.pt does not exist"),
        (ValueError, (static, static), None, "is not a checkpoint"),
        (ValueError, (segment, segment), None, "has to be its export"),
        (FileNotFoundError, (segment, static), [folder / "none.png"], r"picture .*none\.png does not exist"),
        (OSError, (segment, static), folder / "text.png", r"text\.png cannot be read as an image"),
    ):
        with pytest.raises(error, match=fragment):
            check_export(*files, images=images)


@pytest.fixture(scope="module")
def example():
    """The script for deployment, which imports neither torch nor ultralytics."""
    spec = importlib.util.spec_from_file_location("onnx_inference", ROOT / "scripts/onnx_inference.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("kind", ["static", "dynamic", "detect_onnx", "end2end"])
def test_the_example_without_torch_agrees_with_ultralytics(kind, example, request):
    path = request.getfixturevalue(kind)
    path = path[1] if kind == "end2end" else path
    model = example.Model(path)
    seen = 0
    for picture in draw_pictures():
        options = {"imgsz": 160, "conf": 0.25, "iou": 0.7, "rect": False, "verbose": False, "device": "cpu"}
        [theirs] = YOLO(path).predict(picture, **options)
        ours = model(picture)
        seen += len(theirs)
        assert len(ours.scores) == len(theirs)
        np.testing.assert_allclose(ours.scores, theirs.boxes.conf, atol=1e-5)
        assert (ours.classes == theirs.boxes.cls.int().numpy()).all()
        np.testing.assert_allclose(ours.boxes, theirs.boxes.xyxy, atol=1e-2)
        if theirs.masks is not None:
            h, w = picture.shape[:2]
            gain = min(160 / h, 160 / w)
            top, left = (round((160 - round(side * gain)) / 2 - 0.1) for side in (h, w))
            inside = theirs.masks.data[:, top : top + round(h * gain), left : left + round(w * gain)]
            for mine, mask in zip(ours.masks, inside.numpy(), strict=True):
                mask = cv2.resize(mask.astype(np.float32), (w, h)) > 0.5
                assert (mine ^ mask).sum() <= 0.02 * mask.sum() + 4 * (h / 160 + 1) ** 2
    assert seen > 20


# ---- the script for deployment as a command ----------------------------------------------------------


def script(example, *words):
    """Run the script in this process; returns its status, what it printed, and the files below --out."""
    import contextlib
    import io
    from types import SimpleNamespace

    out, err = io.StringIO(), io.StringIO()
    argv, sys.argv = sys.argv, ["onnx_inference.py", *map(str, words)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = example.main()
    except SystemExit as error:
        status = error.code
    finally:
        sys.argv = argv
    folder = Path(words[words.index("--out") + 1])
    files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    return SimpleNamespace(status=status, out=out.getvalue(), err=err.getvalue(), files=files)


@pytest.fixture
def cameras(tmp_path):
    """Two folders with pictures of the same names."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for file in ("0001.png", "0001.jpg"):
            cv2.imwrite(str(tmp_path / name / file), draw_pictures()[0])
    return tmp_path


def test_no_result_overwrites_another(detect_onnx, cameras, example):
    run = script(example, detect_onnx, cameras / "one", cameras / "two", "--out", cameras / "out")
    assert run.status == 0 and run.files == [f"{c}/0001.{s}.png" for c in ("one", "two") for s in ("jpg", "png")]
    words = (cameras / "one/0001.png", cameras / "one/../one/0001.png", cameras / "one")  # one picture three times
    assert script(example, detect_onnx, *words, "--out", cameras / "again").files == ["0001.jpg.png", "0001.png.png"]


def test_strays_are_skipped_and_counted_and_broken_pictures_named(detect_onnx, cameras, example):
    for name in (".DS_Store", "._0001.png", "Thumbs.db"):
        (cameras / "one" / name).write_bytes(b"x")
    (cameras / "one/folder.png").mkdir()
    run = script(example, detect_onnx, cameras / "one", "--out", cameras / "out")
    assert run.status == 0 and len(run.files) == 2 and "4 other files in the folders were skipped" in run.out
    (cameras / "one/0000.png").write_text("no picture")
    (cameras / "one/empty.jpg").touch()
    run = script(example, detect_onnx, cameras / "one", "--out", cameras / "out")
    assert run.status == 1 and len(run.files) == 2
    assert all(f"{name}: not a readable picture" in run.err for name in ("0000.png", "empty.jpg"))
    assert "2 of 4 pictures failed" in run.err


def test_mistakes_on_the_command_line_of_the_script_end_it_before_anything_is_done(detect_onnx, cameras, example):
    (cameras / "empty").mkdir()
    (cameras / "broken.onnx").write_bytes(b"x")
    (cameras / "trap").mkdir()
    (cameras / "trap/0001.png.png").symlink_to(cameras / "one/0001.png")
    (cameras / "linked").mkdir()
    (cameras / "linked/0001.png.png").symlink_to(cameras / "elsewhere.png")
    cv2.imwrite(str(cameras / "two/0001.png.png"), draw_pictures()[0])
    picture = cameras / "one/0001.png"
    for words, message in (
        ((detect_onnx, cameras / "nowhere.png", picture, "--out", cameras / "out"), "nowhere.png does not exist"),
        ((detect_onnx, cameras / "empty", "--out", cameras / "out"), "no pictures in"),
        ((cameras / "broken.onnx", picture, "--out", cameras / "out"), "broken.onnx is no ONNX model"),
        ((detect_onnx, cameras / "two", "--out", cameras / "two"), "is a picture that would be overwritten"),
        ((detect_onnx, picture, "--out", cameras / "trap"), "is a picture that would be overwritten"),
        ((detect_onnx, picture, "--out", cameras / "linked"), "outside of"),
    ):
        run = script(example, *words)
        assert run.status == 2 and message in run.err, run.err
    assert not (cameras / "out").exists() and not (cameras / "elsewhere.png").exists()
