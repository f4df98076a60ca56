"""Enhance, then segment: what each enhancer computes, what it refuses, and its data set on disk."""

import importlib
import json
import shlex
import shutil
import sys

import cv2
import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper
from PIL import Image

from yolo_wnlb import cli
from yolo_wnlb.calibrate.report import Calibration
from yolo_wnlb.data.exposure import Measured
from yolo_wnlb.data.shapes import NAMES, generate, scene
from yolo_wnlb.imaging.camera import Settings
from yolo_wnlb.imaging.capture import darken
from yolo_wnlb.imaging.curve import CURVES
from yolo_wnlb.twins import enhancers, networks
from yolo_wnlb.twins.classical import blur
from yolo_wnlb.twins.darken import darken_dataset
from yolo_wnlb.twins.enhance import enhance_dataset
from yolo_wnlb.twins.enhancers import enhancer
from yolo_wnlb.twins.specs import Enhancer

BUILT_IN = ("gamma", "gamma:3", "clahe", "clahe:3", "histeq", "msr")
SIZES = [(1, 1), (1, 40), (37, 53), (64, 48)]
CODE = """
import torch

class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.strength = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        assert x.shape[2] % 12 == 0 == x.shape[3] % 12, "wants multiples of 12"
        curve = self.strength * (1 - x)
        return x + curve * x, curve

scripted = lambda: torch.jit.script(Network())
number = lambda: 3
"""


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def dark():
    """A generated scene, darkened: uint8 RGB."""
    drawn = scene(np.random.default_rng(4), 160).image
    return darken(drawn[:, :, ::-1], "severe", seed=1, channel_order="rgb")


def curved(x):
    """What the networks below compute: 1.5 x - 0.5 x^2."""
    x = x.astype(np.float64) / 255
    return np.rint(255 * (x + 0.5 * (x - x * x))).astype(np.uint8)


def write_onnx(file, outputs=("enhanced",), sides=("height", "width"), channels=3, out_channels=3):
    """A network of one curve, as a file; a second output is the curve alone."""
    half = helper.make_tensor("half", TensorProto.FLOAT, [], [0.5])
    nodes = [
        helper.make_node("Mul", ["image", "image"], ["square"]),
        helper.make_node("Sub", ["image", "square"], ["bend"]),
        helper.make_node("Mul", ["bend", "half"], ["curve" if "curve" in outputs else "curve_"]),
        helper.make_node("Add", ["image", "curve" if "curve" in outputs else "curve_"], ["enhanced"]),
    ]
    shape = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, *sides]) for name in outputs}
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, channels, *sides])
    graph = helper.make_graph(nodes, "curve", [image], list(shape.values()), [half])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), file)
    return file


@pytest.fixture(params=["onnxruntime", "opencv"])
def runtime(request, monkeypatch):
    if request.param == "opencv":
        monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if it were not installed
    return request.param


@pytest.fixture
def network(tmp_path, monkeypatch):
    """A module of the user's own where the user stands."""
    monkeypatch.chdir(tmp_path)
    name = f"network_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(CODE)
    yield name
    sys.modules.pop(name, None)


# --- without learning


@pytest.mark.parametrize("spec", BUILT_IN)
@pytest.mark.parametrize("size", SIZES)
def test_any_size_stays_and_the_picture_given_is_left_alone(spec, size):
    image = noise(*size)
    before = image.copy()
    result = enhancer(spec)(image)
    assert (result.shape, result.dtype) == (image.shape, np.uint8)
    assert np.array_equal(image, before) and not np.shares_memory(image, result)


@pytest.mark.parametrize("spec", BUILT_IN)
def test_grey_stays_grey(spec):
    grey = np.repeat(np.random.default_rng(0).integers(0, 90, (37, 53, 1), dtype=np.uint8), 3, axis=2)
    result = enhancer(spec)(grey)
    assert (result == result[..., :1]).all() and not np.array_equal(result, grey)


@pytest.mark.parametrize("spec", BUILT_IN)
def test_a_darkened_scene_becomes_brighter(spec, dark):
    assert dark.mean() < 60
    assert enhancer(spec)(dark).mean() > 1.3 * dark.mean()


@pytest.mark.parametrize("spec", BUILT_IN)
def test_a_view_is_taken_as_its_copy(spec, dark):
    assert np.array_equal(enhancer(spec)(dark[::-2, ::-1]), enhancer(spec)(dark[::-2, ::-1].copy()))


def test_gamma_is_its_formula():
    codes = np.repeat(np.arange(256, dtype=np.uint8).reshape(1, 256, 1), 3, axis=2)
    for spec, exponent in (("gamma", 1 / 2.2), ("gamma:3", 1 / 3), ("gamma:0.5", 2.0)):
        expected = [round(255 * (code / 255) ** exponent) for code in range(256)]
        assert enhancer(spec)(codes)[0, :, 1].tolist() == expected
    assert np.array_equal(enhancer("gamma:1")(codes), codes)


def test_equalised_luma_is_uniform(dark):
    luma = cv2.cvtColor(enhancer("histeq")(dark), cv2.COLOR_RGB2YCrCb)[..., 0]
    share = np.searchsorted(np.sort(luma.ravel()), [63, 127, 191], "right") / luma.size
    assert np.allclose(share, [0.25, 0.5, 0.75], atol=0.08)


def slow_retinex(image):
    codes = image.astype(np.float32) + 1
    surround = [cv2.GaussianBlur(codes, (0, 0), sigma, borderType=cv2.BORDER_REFLECT) for sigma in (15, 80, 250)]
    ratio = np.mean([np.log(codes) - np.log(blurred) for blurred in surround], axis=0)
    low, high = np.percentile(ratio, (1, 99))
    return np.rint(np.clip((ratio - low) / (high - low) * 255, 0, 255))


@pytest.mark.parametrize("size", [(37, 53), (160, 160), (150, 301)])
def test_the_retinex_is_that_of_direct_blurs_to_a_code(size, dark):
    image = cv2.resize(dark, size[::-1])
    difference = np.abs(enhancer("msr")(image) - slow_retinex(image))
    assert difference.max() <= 1 and difference.mean() < 0.03


def test_a_blur_keeps_a_constant_and_a_mean():
    assert np.allclose(blur(np.full((37, 53, 3), 7, np.float32), 250), 7, rtol=1e-6)
    image = noise(64, 80).astype(np.float32)
    assert np.allclose(blur(image, 80).mean((0, 1)), image.mean((0, 1)), rtol=0.01)


@pytest.mark.parametrize("code", [0, 7, 255])
@pytest.mark.parametrize("spec", ["msr", "clahe"])
def test_a_flat_picture_stays_flat(spec, code):
    assert np.ptp(enhancer(spec)(np.full((40, 30, 3), code, np.uint8))) == 0


# --- networks


def test_an_onnx_file_is_run_on_filled_up_and_cut_back_pictures(tmp_path, runtime):
    run = enhancer(f"onnx:{write_onnx(tmp_path / 'curve.onnx')},pad=12")
    assert run.spec == "onnx:curve.onnx,pad=12" and len(run.sha256) == 64
    for size in [(37, 53), (36, 48), (61, 20)]:
        assert np.array_equal(run(noise(*size)), curved(noise(*size)))


def test_only_filled_up_pictures_reach_a_network_and_what_fills_them_is_their_border():
    seen = []
    work = networks.through(lambda x: (seen.append(x), {"y": x})[1], {"pad": "12"}, "it")
    image = noise(37, 53)
    assert np.array_equal(work(image, ""), image)
    (x,) = seen
    assert x.shape == (1, 3, 48, 60) and x.dtype == np.float32 and x.flags.c_contiguous
    expected = np.pad(image, ((0, 11), (0, 7), (0, 0)), "edge").transpose(2, 0, 1) / 255
    assert np.allclose(x[0], expected, atol=1e-7)


@pytest.mark.parametrize(
    ("span", "least", "most"),
    [("0-1", 0, 1), ("0-255", 0, 255), ("-1-1", -1, 1), ("-0.5-0.5", -0.5, 0.5), ("0-1/-1-1", 0, 1)],
)
def test_values_are_in_the_range_asked_for(span, least, most):
    def run(x):
        assert (x.min(), x.max()) == (least, most)
        return {"y": 2 * x - 1 if "/" in span else x}

    image = noise(60, 60)
    assert np.array_equal(networks.through(run, {"range": span}, "it")(image, ""), image)


def test_one_of_several_outputs_is_taken_by_name(tmp_path, runtime):
    file = write_onnx(tmp_path / "two.onnx", ("curve", "enhanced"))
    image = noise(37, 53)
    assert np.array_equal(enhancer(f"onnx:{file},output=enhanced")(image), curved(image))
    assert enhancer(f"onnx:{file},output=curve")(image).max() <= 32
    with pytest.raises(ValueError, match=r"two.onnx has 2 outputs; give output= and one of .*enhanced"):
        enhancer(f"onnx:{file}")(image)
    with pytest.raises(ValueError, match=r"has no output 'enhance'; give output= and one of"):
        enhancer(f"onnx:{file},output=enhance")(image)


def test_a_module_of_the_users_own_is_run(network, tmp_path):
    run = enhancer(f"torch:{network}:Network,pad=12,output=0")
    assert np.array_equal(run(noise(37, 53)), curved(noise(37, 53)))
    assert run.sha256 == enhancer(f"torch:{network}:Network").sha256
    with pytest.raises(ValueError, match=r"(?s)fails on 53 x 37 pixels: wants multiples of 12.*pad=12"):
        enhancer(f"torch:{network}:Network,output=0")(noise(37, 53))
    with pytest.raises(ValueError, match="has 2 outputs; give output= and one of 0, 1"):
        enhancer(f"torch:{network}:Network,pad=12")(noise(37, 53))
    assert str(tmp_path) not in sys.path


def test_a_torchscript_file_is_run(network, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module(network).scripted().save(str(tmp_path / "curve.torchscript"))
    run = enhancer("torchscript:curve.torchscript,pad=12,output=0")
    assert np.array_equal(run(noise(37, 53)), curved(noise(37, 53)))


# --- enhanced before


def test_a_folder_gives_the_picture_of_the_same_stem_or_path(tmp_path):
    for folder, code in (("val", 10), ("train", 20)):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.full((4, 6, 3), (code, 0, 0), np.uint8)).save(tmp_path / folder / "a.png")
    Image.fromarray(np.full((4, 6, 3), (30, 0, 0), np.uint8)).save(tmp_path / "b.jpg", quality=100)
    run, picture = enhancer(f"dir:{tmp_path}"), noise(4, 6)
    assert run(picture, "images/val/a.jpg")[0, 0].tolist() == [10, 0, 0]
    assert run(picture, "images/train/a.jpg")[0, 0].tolist() == [20, 0, 0]
    assert abs(int(run(picture, "images/val/b.tif")[0, 0, 0]) - 30) < 3
    with pytest.raises(FileNotFoundError, match=r"has no picture for 'c\.png'; wanted one of that name, any suffix"):
        run(picture, "c.png")
    with pytest.raises(FileNotFoundError, match=r"has 2 pictures \(.*a\.png, .*a\.png\) for 'test/a\.png'"):
        run(picture, "test/a.png")
    with pytest.raises(ValueError, match=r"turned val/a\.png, 8 x 5 pixels, into 6 x 4 pixels of uint8; wanted"):
        run(noise(5, 8), "val/a.png")


# --- mistakes


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("clahee", r"no enhancer 'clahee' \(did you mean 'clahe'\?\); choose from dir:FOLDER, gamma\[:2.2\], .*"),
        ("Zerodce++:Epoch99.pth", "Zerodce\\+\\+ does not ship; docs/enhancers.md says"),
        ("gamma:dark", r"gamma is 'dark'; wanted a number above 0: gamma\[:2.2\]"),
        ("gamma:-1", "gamma is '-1'; wanted a number above 0"),
        ("clahe:0", "clahe is '0'; wanted a number above 0"),
        ("clahe:1e12", "clahe is '1e12'; 256 limits nothing, and more has no effect: give at most 256"),
        ("corrupt:fog,level=3,level=5", "corrupt:fog,level=3,level=5: level= is given twice; leave out one"),
        ("msr:3", "the enhancer is 'msr:3'; wanted msr"),
        ("onnx", "the enhancer is 'onnx'; wanted onnx:FILE"),
        ("onnx:missing.onnx,pad=12", "there is no file missing.onnx; give the model as onnx:FILE"),
        ("onnx:missing.onnx,pads=12", r"onnx has no option 'pads' \(did you mean 'pad'\?\); wanted onnx:FILE"),
        ("clahe,pad=12", r"clahe has no option 'pad'; wanted clahe"),
        ("torchscript:missing.pt", "there is no file missing.pt; give the model as torchscript:FILE"),
        ("torch:no_such_module:make", "torch:no_such_module:make: No module named 'no_such_module'; run where"),
        ("torch:json:make", "json has no function 'make'; wanted torch:MODULE:FACTORY"),
        ("torch:json:JSONDecoder", "torch:json:JSONDecoder returned JSONDecoder; wanted an nn.Module"),
        ("dir:missing", "there is no folder missing; give that of the enhanced pictures: dir:FOLDER"),
    ],
)
def test_a_mistake_in_the_spec_is_answered(spec, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, OSError, ImportError), match=told):
        enhancer(spec)


def test_a_mistake_in_an_option_is_answered(tmp_path):
    file = write_onnx(tmp_path / "curve.onnx")
    for option, told in (
        ("pad=0", "pad is '0'; wanted what sides have to be a multiple of: pad=12"),
        ("pad=many", "pad is 'many'; wanted"),
        ("range=1-0", "range is '1-0'; wanted low-high: 0-1, 0-255, -1-1, or input/output 0-1/-1-1"),
        ("range=255", "range is '255'; wanted low-high"),
    ):
        with pytest.raises(ValueError, match=told):
            enhancer(f"onnx:{file},{option}")


def test_a_file_of_another_kind_is_answered(tmp_path, runtime):
    (tmp_path / "half.onnx").write_bytes(b"half a download")
    with pytest.raises(ValueError, match=r"half\.onnx"):
        enhancer(f"onnx:{tmp_path / 'half.onnx'}")
    with pytest.raises(ValueError, match=r"half\.onnx is no TorchScript file; weights alone need their network"):
        enhancer(f"torchscript:{tmp_path / 'half.onnx'}")


def test_a_network_of_another_size_is_answered(tmp_path):
    run = enhancer(f"onnx:{write_onnx(tmp_path / 'fixed.onnx', sides=(64, 64))}")
    assert run(noise(64, 64)).shape == (64, 64, 3)
    with pytest.raises(ValueError, match=r"(?s)fails on 53 x 37 pixels: .*Export it for any height and width"):
        run(noise(37, 53))


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (lambda x: x[:, :1], r"it: output y is \(1, 1, 37, 53\); wanted \(1, 3, 37, 53\) as the input"),
        (lambda x: x[:, :, ::2], r"it: output y is \(1, 3, 19, 53\); wanted \(1, 3, 37, 53\)"),
        (lambda x: x / 0 - x / 0, "it: output y is not finite; is range=0-1 right"),
        (lambda x: np.float32(1), r"it: output y holds no numbers but float32|it: output y is \(\); wanted"),
        (lambda x: np.full(x.shape, "a"), "it: output y holds no numbers but <U1"),
        (lambda x: x.astype(complex), "it: output y holds no numbers but complex128"),
        (lambda x: x.astype(object), "it: output y holds no numbers but object"),
        (lambda x: [x], "it: output y holds no numbers but list"),
        (lambda x: None, "it: output y holds no numbers but NoneType"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_an_output_that_is_no_such_picture_is_refused(made, told):
    with pytest.raises(ValueError, match=told):
        networks.through(lambda x: {"y": made(x)}, {}, "it")(noise(37, 53), "")


@pytest.mark.parametrize(
    ("picture", "told"),
    [
        (np.zeros((4, 6), np.uint8), r"the picture is uint8 \(4, 6\); wanted uint8 RGB \(H, W, 3\) or grey"),
        (np.zeros((4, 6, 4), np.uint8), r"the picture is uint8 \(4, 6, 4\)"),
        (np.zeros((4, 6, 3), np.float32), r"the picture is float32 \(4, 6, 3\)"),
        (np.zeros((0, 6, 3), np.uint8), r"the picture is uint8 \(0, 6, 3\)"),
        ("a.png", "the picture is str"),
    ],
)
def test_another_kind_of_picture_is_refused(picture, told):
    with pytest.raises(ValueError, match=told):
        enhancer("gamma")(picture)


def test_an_enhancer_of_ones_own_must_keep_the_size():
    with pytest.raises(
        ValueError, match="mine turned 6 x 4 pixels into 3 x 2 pixels of uint8; wanted uint8 of the same"
    ):
        Enhancer("mine", "", lambda image, name: image[::2, ::2])(noise(4, 6))


@pytest.mark.parametrize(
    "result", [None, "picture", [[1]], np.zeros(()), np.zeros((4, 6)), np.zeros((4, 6, 3), np.float32)]
)
def test_an_enhancer_of_ones_own_must_return_a_picture(result):
    with pytest.raises(ValueError, match=r"mine turned 6 x 4 pixels into .*; wanted uint8 of the same"):
        Enhancer("mine", "", lambda image, name: result)(noise(4, 6))


def test_whatever_a_module_of_the_users_own_raises_names_it(network, tmp_path):
    (tmp_path / f"{network}.py").write_text("def broken():\n    return {}['weights']\n")
    with pytest.raises(ValueError, match=f"torch:{network}:broken fails: KeyError: 'weights'"):
        enhancer(f"torch:{network}:broken")


def test_other_pictures_of_the_same_size_in_a_folder_are_another_enhancer(tmp_path):
    cv2.imwrite(str(tmp_path / "a.bmp"), noise(4, 6))
    before = enhancer(f"dir:{tmp_path}").sha256
    cv2.imwrite(str(tmp_path / "a.bmp"), noise(4, 6, seed=1))
    assert enhancer(f"dir:{tmp_path}").sha256 != before


# --- data sets


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A dark data set of 4 + 3 small pictures in both layouts."""
    root = generate(tmp_path_factory.mktemp("source") / "set", train=4, val=3, size=64)
    (root / "data.yaml").write_text(
        yaml.safe_dump({"train": "images/train", "val": "images/val", "names": [*NAMES], "kpt_shape": [2, 3]})
    )
    (root / "annotations").mkdir()
    names = sorted(file.name for file in (root / "images/val").iterdir())
    images = [{"id": i, "file_name": name, "width": 64, "height": 64} for i, name in enumerate(names)]
    truth = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "disc"}]}
    (root / "annotations/instances_val.json").write_text(json.dumps(truth))
    assert darken_dataset(root, root.parent / "dark", preset="severe", format="jpg", workers=1).ok
    return root.parent / "dark"


@pytest.fixture
def source(original, tmp_path):
    """A copy of it to spoil, beside the folder to write to."""
    return shutil.copytree(original, tmp_path / "set")


def tree(root):
    return {file.relative_to(root).as_posix(): file.read_bytes() for file in root.rglob("*") if file.is_file()}


def picture(file):
    return np.asarray(Image.open(file))


def test_the_twin_has_the_layout_and_the_labels_and_the_enhancers_pixels(original, tmp_path):
    report = enhance_dataset(original, "clahe", tmp_path / "out")
    assert (
        report.ok and report.images == 7 and str(report).startswith(f"7 pictures in {tmp_path / 'out'} by clahe:2 (7")
    )
    before, after = tree(original), tree(tmp_path / "out")
    assert set(after) == {name.replace(".jpg", ".png") for name in before} - {"manifest.jsonl"} | {"enhanced.jsonl"}
    for name in after:
        if name.startswith("labels/"):
            assert after[name] == before[name]
        if name.startswith("images/"):
            shown = cv2.imread(str(original / name.replace(".png", ".jpg")))[:, :, ::-1]
            assert np.array_equal(picture(tmp_path / "out" / name), enhancer("clahe")(shown))
    said = yaml.safe_load(after["data.yaml"])
    assert said["names"] == dict(enumerate(NAMES)) and said["kpt_shape"] == [2, 3]
    assert said["lowlight"]["preset"] == "severe" and said["enhanced"]["enhancer"] == "clahe:2"
    names = [image["file_name"] for image in json.loads(after["annotations/instances_val.json"])["images"]]
    assert names == ["000000.png", "000001.png", "000002.png"]
    with pytest.raises(ValueError, match="was darkened before"):  # as its source was
        darken_dataset(tmp_path / "out", tmp_path / "darker")


def test_of_a_darkened_folder_all_is_read_as_of_a_bright_one(source, tmp_path):
    (source / "annotations/captions.json").write_text("{}")
    folder = enhance_dataset(source, "gamma", tmp_path / "folder")
    assert "captions.json is no COCO annotation file" in str(folder)
    assert (tmp_path / "folder/annotations/instances_val.json").is_file()
    file = enhance_dataset(source / "data.yaml", "gamma", tmp_path / "file")
    assert "others beside" in str(file) and not (tmp_path / "file/annotations").exists()
    before, after = ((root / "data.yaml").read_text() for root in (source, tmp_path / "folder"))
    assert after.startswith(f"{before}enhanced:") and after == (tmp_path / "file/data.yaml").read_text()


def test_the_twin_of_a_bright_data_set_says_nothing_of_darkness(original, tmp_path):
    enhance_dataset(original.parent / "set", "gamma", tmp_path / "out")
    said = yaml.safe_load((tmp_path / "out/data.yaml").read_text())
    assert "lowlight" not in said and said["enhanced"]["enhancer"] == "gamma:2.2"


def test_ultralytics_reads_the_twin(original, tmp_path):
    from ultralytics.data.utils import check_det_dataset

    enhance_dataset(original / "data.yaml", "gamma", tmp_path / "out", split="val")
    data = check_det_dataset(str(tmp_path / "out/data.yaml"))
    assert data["val"] == str(tmp_path / "out/images/val") and data["train"] is None


def test_what_is_done_is_skipped_and_what_changed_is_made_again(source, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(enhancers, "retinex", lambda image, name: (made.append(name), image)[1])
    out = tmp_path / "out"
    enhance_dataset(source, "msr", out, split="val")
    assert len(made) == 3 and not (out / "images/train").exists()
    first = tree(out)
    assert "complete, nothing to do" in str(enhance_dataset(source, "msr", out, split="val"))
    assert tree(out) == first and len(made) == 3

    made.clear()
    shutil.copyfile(source / "images/val/000000.jpg", source / "images/val/000001.jpg")
    (source / "labels/val/000002.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    (out / "images/val/000000.png").write_bytes(b"cut off")
    (out / ".darken/all").mkdir(parents=True)
    (out / ".darken/all/1234.tmp").write_text("of a run that was killed")
    enhance_dataset(source, "msr", out)
    assert made == [*(f"images/train/00000{i}.jpg" for i in range(4)), *(f"images/val/00000{i}.jpg" for i in range(3))]
    assert tree(out)["images/val/000001.png"] == tree(out)["images/val/000000.png"]
    assert tree(out)["labels/val/000002.txt"] == b"0 0.5 0.5 0.1 0.1\n" and not (out / ".darken").exists()
    enhance_dataset(source, "msr", out, split="val")  # the other split stays named
    assert yaml.safe_load((out / "data.yaml").read_text())["train"] == "images/train"
    (out / "labels/train/000003.txt").unlink()
    assert "(1 in this run" in str(enhance_dataset(source, "msr", out))
    enhance_dataset(source, "msr", tmp_path / "new")
    assert tree(tmp_path / "new") == tree(out)


def test_a_run_that_was_stopped_goes_on(original, tmp_path, monkeypatch):
    made = []

    def work(image, name):
        if len(made) == 4:
            raise KeyboardInterrupt
        made.append(name)
        return image

    monkeypatch.setattr(enhancers, "retinex", work)
    with pytest.raises(KeyboardInterrupt):
        enhance_dataset(original, "msr", tmp_path / "out")
    assert not (tmp_path / "out/data.yaml").exists()
    monkeypatch.setattr(enhancers, "retinex", lambda image, name: (made.append(name), image)[1])
    assert "(3 in this run" in str(enhance_dataset(original, "msr", tmp_path / "out"))
    assert len(made) == len(set(made)) == 7


def test_a_folder_is_kept_for_one_enhancer_one_model_and_one_source(source, original, tmp_path):
    out, file = tmp_path / "out", write_onnx(tmp_path / "curve.onnx")
    enhance_dataset(source, f"onnx:{file}", out, split="val")
    shutil.copytree(original.parent / "set", tmp_path / "other")
    with pytest.raises(ValueError, match=r"begun with enhancer onnx:curve.onnx \(now clahe:2\), sha256 .*another out="):
        enhance_dataset(source, "clahe", out)
    write_onnx(file, ("curve", "enhanced"))
    with pytest.raises(ValueError, match=r"was begun with sha256 [0-9a-f]{64} \(now [0-9a-f]{64}\); give the"):
        enhance_dataset(source, f"onnx:{file}", out)
    write_onnx(file)
    for old in sorted((tmp_path / "other/images/val").iterdir()):
        old.rename(old.with_name(f"other_{old.name}"))
    with pytest.raises(ValueError, match=r"was made from other pictures, such as images/val/000000\.jpg; .*none of"):
        enhance_dataset(tmp_path / "other/data.yaml", f"onnx:{file}", out, split="val")


def test_a_coco_file_or_a_folder_of_pictures_is_a_source_too(original, tmp_path):
    enhance_dataset(original / "annotations/instances_val.json", "gamma", tmp_path / "coco")
    assert len(json.loads((tmp_path / "coco/annotations/instances_val.json").read_text())["images"]) == 3
    assert len(list((tmp_path / "coco/images/val").iterdir())) == 3
    enhance_dataset(original / "images", "gamma", tmp_path / "plain")
    assert len(list((tmp_path / "plain").rglob("*.png"))) == 7
    enhance_dataset(original, f"dir:{tmp_path / 'plain'}", tmp_path / "again", split="val")
    for name, content in tree(tmp_path / "again/images").items():
        assert content == tree(tmp_path / "plain")[name]


def test_a_place_or_source_of_no_use_is_refused(source, tmp_path):
    enhance_dataset(source, "gamma", tmp_path / "out", split="val")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/precious.txt").write_text("precious")
    Image.fromarray(noise(64, 64)).save(tmp_path / "mine/000000.png")
    two = tmp_path / "two"
    for wrong, told in (
        ((tmp_path / "out", "clahe", two), "was enhanced before: it holds our enhanced.jsonl"),
        ((source, "gamma", source / "out"), "lie in each other; choose a folder beside the source"),
        ((source, "gamma", tmp_path), "lie in each other; choose a folder beside the source"),
        ((source, "gamma", tmp_path / "mine"), "holds something else; choose a folder that is new or empty"),
        ((source, "gamma", tmp_path / "mine/precious.txt"), "is a file; choose a folder that is new or empty"),
        ((source / "labels", "gamma", two), r"holds no data.yaml, no annotations/\*.json and no pictures"),
        ((source, f"dir:{source / 'annotations'}", two), r"annotations holds no pictures \("),
    ):
        with pytest.raises((ValueError, OSError), match=told):
            enhance_dataset(*wrong)
    with pytest.raises(FileNotFoundError, match=r"mine has no picture for 'images/val/000001\.jpg'"):
        enhance_dataset(source, f"dir:{tmp_path / 'mine'}", tmp_path / "some", split="val")
    assert not two.exists()
    with pytest.raises(ValueError, match=r"has no split 'vall' \(did you mean 'val'\?\); choose from train"):
        enhance_dataset(source / "data.yaml", "gamma", two, split="vall")
    (source / "images/val/000001.jpg").write_bytes(b"half a download")
    with pytest.raises(ValueError, match=r"images/val/000001\.jpg: the picture cannot be decoded"):
        enhance_dataset(source / "data.yaml", "gamma", two, split="val")


def test_what_is_printed_to_be_copied_can_be_pasted_from_a_folder_with_a_space(original, tmp_path):
    """One argument for the shell: data='my night/data.yaml' and its like."""
    out, bright = tmp_path / "my night", original.parent / "set"
    printed = {
        f"data={out / 'dark/data.yaml'}": darken_dataset(bright, out / "dark", preset="severe", workers=1),
        f"data={out / 'two/data.yaml'}": enhance_dataset(original, "gamma", out / "two", split="val"),
        f"curve={out / 'curve.yaml'}": Measured(out / "curve.yaml", CURVES["auto"], 1, (9, 9), 9, (9, 9)),
        f"lowlight={out / 'camera.yaml'}": Calibration(Settings(), {}, None, {}, {}, file=out / "camera.yaml"),
    }
    for argument, report in printed.items():
        assert argument in shlex.split(str(report).splitlines()[-1])


def test_the_command_enhances_and_answers(original, tmp_path, capsys):
    file = write_onnx(tmp_path / "curve.onnx", ("curve", "enhanced"))
    words = [
        "enhance",
        str(original),
        f"out={tmp_path / 'out'}",
        f"with=onnx:{file},pad=12,output=enhanced",
        "split=val",
    ]
    assert cli.main(words) == 0
    assert f"yolo-wnlb evaluate MODEL data={tmp_path / 'out/data.yaml'}" in capsys.readouterr().out
    assert cli.main([*words[:3], "with=clahee"]) == 2 and "did you mean 'clahe'" in capsys.readouterr().err
    assert cli.main(words[:3]) == 2 and "wants SOURCE and out=FOLDER and with=ENHANCER" in capsys.readouterr().err
    assert cli.main([*words, "spec=3"]) == 2 and "no option spec; choose from out, with" in capsys.readouterr().err
