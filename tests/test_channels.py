"""Grey and colour: channels in YAMLs, weights from one kind of model into the other, mono cameras in training."""

import copy

import cv2
import numpy as np
import pytest
import torch
import yaml
from conftest import bright_set, tensors
from test_dark_training import dataset
from ultralytics import YOLO
from ultralytics.engine.predictor import AutoBackend
from ultralytics.nn import tasks
from ultralytics.nn.tasks import ClassificationModel, DetectionModel, SegmentationModel

from yolo_wnlb.yolo import channels
from yolo_wnlb.yolo.grafting import load_yaml


def read(file):
    return torch.load(file, map_location="cpu", weights_only=False)["model"]


def outputs(model, x):
    with torch.inference_mode():
        return tensors(model.double().eval()(x.double()))


def assert_same_for_grey(grey, colour):
    """A grey picture, and the same as three channels, differ by less than a millionth of what a picture changes."""
    x = torch.rand(2, 1, 64, 96)
    ours, theirs = outputs(grey, x), outputs(colour, x.repeat(1, 3, 1, 1))
    assert len(ours) == len(theirs) > 1
    for one, other, another_picture in zip(ours, theirs, outputs(grey, x.flip(0))):
        effect = (one - another_picture).abs().max()
        assert effect > 0 and (one - other).abs().max() < 1e-6 * effect


def stems(model):
    return [m for m in model.modules() if isinstance(m, torch.nn.Conv2d) and m.in_channels in (1, 3)]


# ---- pretrained weights ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "into"),
    [
        ("yolov8n-seg", "yolov8n-seg-wnlb.yaml"),
        ("yolov8n-seg-wnlb", "yolov8n-seg-wnlb.yaml"),
        ("yolov8n-seg", "yolov8n-seg.yaml"),
    ],
)
def test_a_grey_model_of_colour_weights_gives_what_the_colour_model_gave_for_grey_pictures(name, into, source, log):
    theirs, ours = read(source(name)), SegmentationModel(into, ch=1, verbose=False)
    before = copy.deepcopy(theirs.state_dict())
    ours.load(theirs)
    assert all(torch.equal(value, before[key]) for key, value in theirs.state_dict().items())
    [line] = [line for line in log if "wNLB: " in line]
    assert "first convolution are summed over its 3 channels, exact for grey pictures" in line
    assert not [line for line in log if line.startswith("WARNING")]
    kept, of = line.split(" tensors of the pretrained")[0].split()[-1].split("/")
    assert kept == of
    assert_same_for_grey(ours, theirs)


def test_a_colour_model_of_grey_weights_gives_what_the_grey_model_gave(source, log):
    grey = SegmentationModel("yolov8n-seg-wnlb.yaml", ch=1, verbose=False)
    grey.load(read(source("yolov8n-seg")))
    colour = SegmentationModel("yolov8n-seg-wnlb.yaml", verbose=False)
    colour.load(grey)
    assert "of its 1 channel are shared out equally among the 3 channels" in log[-1]
    assert_same_for_grey(grey, colour)


def test_each_convolution_that_sees_the_picture_is_summed(log):
    """Backbones that read the picture twice, as that of YOLOv9e, have two of them, and none is in row 0."""
    definition = {
        "nc": 2,
        "backbone": [[-1, 1, "nn.Identity", []], [-1, 1, "Conv", [8, 3, 2]], [0, 1, "Conv", [8, 3, 2]]],
        "head": [[[1, 2], 1, "Concat", [1]], [-1, 1, "Conv", [16, 3, 2]], [[3, 4], 1, "Detect", ["nc"]]],
    }
    theirs, ours = (DetectionModel(copy.deepcopy(definition), ch=ch, verbose=False) for ch in (3, 1))
    assert len(stems(theirs)) == len(stems(ours)) == 2
    ours.load(theirs)
    assert_same_for_grey(ours, theirs)


def test_weights_for_other_cameras_are_left_to_ultralytics(source, log):
    theirs = read(source("yolov8n-seg"))
    SegmentationModel("yolov8n-seg-wnlb.yaml", ch=4, verbose=False).load(theirs)
    assert any("the first convolution is adapted to 4 channels" in line for line in log)


# ---- channels in YAMLs -----------------------------------------------------------------------------


@pytest.fixture
def grey_yaml(tmp_path):
    """A model YAML with `channels: 1`, with the blocks and the number of classes of the drawn sets."""
    file = tmp_path / "yolov8n-seg-grey.yaml"
    file.write_text(yaml.safe_dump({**load_yaml("yolov8n-seg-wnlb.yaml"), "channels": 1, "nc": 5}))
    return file


def test_a_model_has_the_channels_that_its_yaml_names(grey_yaml):
    definition = {**load_yaml("yolov8n-seg-wnlb.yaml"), "channels": 1, "scale": "n"}
    model = YOLO(grey_yaml, task="segment").model
    for built in (model, *(SegmentationModel(given, verbose=False) for given in (str(grey_yaml), definition))):
        assert stems(built)[0].in_channels == built.yaml["channels"] == 1
    assert stems(SegmentationModel(str(grey_yaml), ch=3, verbose=False))[0].in_channels == 3
    assert stems(SegmentationModel("yolov8n-seg-wnlb.yaml", verbose=False))[0].in_channels == 3
    assert stems(ClassificationModel("yolov8n-cls.yaml", verbose=False))[0].in_channels == 3


@pytest.mark.parametrize("value", [0, -1, 1.0, "1", True, [1]])
def test_other_channels_than_whole_numbers_are_refused(value):
    definition = {**load_yaml("yolov8n-seg-wnlb.yaml"), "channels": value, "scale": "n"}
    with pytest.raises(ValueError, match=r"channels of the model YAML is .*; wanted a whole number"):
        SegmentationModel(definition, verbose=False)


QUICK = {"imgsz": 64, "batch": 4, "workers": 0, "plots": False, "device": "cpu", "verbose": False, "epochs": 1}


def test_a_grey_model_does_not_start_to_train_on_colour_pictures(grey_yaml, tmp_path):
    data = bright_set(tmp_path / "colour", train=2, val=2)
    with pytest.raises(ValueError, match=r"grey\.yaml says channels: 1, and .*data\.yaml gives pictures of 3 channels"):
        YOLO(grey_yaml, task="segment").train(data=str(data), project=str(tmp_path), **QUICK)


def test_a_file_that_is_gone_names_no_channels(tmp_path):
    assert channels.named_in(tmp_path / "gone.yaml") is None
    assert channels.named_in("best.pt") is None and channels.named_in(None) is None


@pytest.mark.parametrize(
    ("model", "pictures", "message"),
    [
        (1, 3, r"takes pictures of 1 channel \(grey\), .* gives 3 channels \(colour\); write channels: 1 into"),
        (3, 1, r"takes pictures of 3 channels \(colour\), .* gives 1 channel \(grey\); validate a model for"),
    ],
)
def test_a_validation_on_pictures_of_other_channels_is_refused(model, pictures, message, tmp_path):
    data = bright_set(tmp_path / "set", train=1, val=1, **({"channels": 1} if pictures == 1 else {}))
    network = SegmentationModel("yolov8n-seg-wnlb.yaml", ch=model, nc=5, verbose=False)
    torch.save({"model": network, "ema": None, "epoch": -1, "train_args": {}}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=message):
        YOLO(tmp_path / "model.pt").val(data=str(data), imgsz=64, device="cpu", workers=0, plots=False, verbose=False)


def test_every_kind_of_model_takes_its_channels_from_its_yaml():
    kinds = [kind for kind in vars(tasks).values() if isinstance(kind, type) and issubclass(kind, tasks.BaseModel)]
    named = [kind for kind in kinds if "__init__" in vars(kind)]
    assert len(named) >= 5 and all(hasattr(kind.__init__, "_stock") for kind in named)


def test_the_backend_of_a_checkpoint_says_its_channels():
    network = SegmentationModel("yolov8n-seg-wnlb.yaml", ch=1, verbose=False)
    backend = AutoBackend(network, torch.device("cpu"), verbose=False)
    backend.warmup(imgsz=(1, 1, 64, 64))
    with pytest.raises(ValueError, match="takes pictures of 1 channel"):
        backend.warmup(imgsz=(1, 3, 64, 64))


# ---- cameras without colours -----------------------------------------------------------------------

LAMP = {"preset": "severe", "bayer": "mono", "lamp": 1, "ev": -2, "sigma_s": 0, "sigma_c": 0, "crf": "identity"}


@pytest.mark.parametrize("pictures", [1, 3])
def test_a_lamp_lights_the_middle_of_pictures_without_colours(pictures, tmp_path):
    data = bright_set(tmp_path, train=1, val=2, **({"channels": 1} if pictures == 1 else {}))
    for file in (tmp_path / "images").glob("*/*.png"):
        cv2.imwrite(str(file), np.full((64, 64, 3), (250, 240, 230), np.uint8))
    built = dataset(data, "val", lowlight=LAMP)
    dark = built.load_image(0)[0]
    assert dark.shape == (64, 64, pictures)
    assert all((dark[..., k] == dark[..., 0]).all() for k in range(pictures))
    assert int(dark[32, 32, 0]) == pytest.approx(240 / 4, abs=2)
    assert int(dark[0, 0, 0]) == pytest.approx(240 / 4 * 2**-1.5, abs=1)  # cos^3 of 45 degrees


def test_a_mono_camera_leaves_grey_noise_on_colour_pictures(tmp_path):
    data = bright_set(tmp_path, train=1, val=1)
    mono, colour = (
        dataset(data, "val", lowlight={"preset": "severe", "bayer": bayer}).load_image(0)[0]
        for bayer in ("mono", "RGGB")
    )
    assert (mono == mono[..., :1]).all() and not (colour == colour[..., :1]).all()
