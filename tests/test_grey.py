"""A grey model from the command line, from training to export and adaptation, and the twins of grey pictures."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from conftest import bright_set
from test_parity import build

from yolo_wnlb.cli import main
from yolo_wnlb.data.shapes import scene
from yolo_wnlb.imaging import corruptions
from yolo_wnlb.imaging.camera import settings
from yolo_wnlb.imaging.capture import capture
from yolo_wnlb.imaging.chance import picture_rng
from yolo_wnlb.twins.enhancers import enhancer
from yolo_wnlb.yolo.darkness import check_request

QUICK = ("imgsz=64", "device=cpu", "workers=0", "plots=False")
INFRARED = "lowlight={'preset':'severe','bayer':'mono','lamp':[0.5,1]}"


def yolo(*words):
    """Run the stock command in this process."""
    from ultralytics.cfg import entrypoint

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ultralytics.cfg.ARGV", ["yolo", *map(str, words)])
        entrypoint()


def ours(*words):
    """Run `yolo-wnlb` in this process; it has to succeed."""
    assert main([str(word) for word in words]) == 0


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a bright data set of grey pictures, set/data.yaml, and a colour model that finds something."""
    folder = tmp_path_factory.mktemp("grey")
    classes = [f"thing{i}" for i in range(5)]  # those of `build`
    bright_set(folder / "set", train=12, val=3, channels=1, names=classes)
    build("yolov8n-seg-wnlb.yaml", folder / "colour.pt", classes=5)
    return folder


@pytest.fixture(autouse=True)
def inside(home, monkeypatch):
    monkeypatch.chdir(home)


@pytest.fixture(scope="module")
def trained(home):
    """The checkpoint of a training in the dark of an infrared camera, from colour weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        words = ("epochs=1", "batch=12", "optimizer=SGD", "lr0=1e-6", "warmup_bias_lr=0", f"project={home}", "name=run")
        model = ("model=yolov8n-seg-wnlb.yaml", "pretrained=colour.pt", "data=set/data.yaml")
        yolo("segment", "train", *model, INFRARED, *words, *QUICK)
    return home / "run/weights/last.pt"


@pytest.fixture(scope="module")
def exported(trained, home):
    """The export of quiet.pt: the trained model with so low scores that rounding decides no suppression."""
    checkpoint = torch.load(trained, map_location="cpu", weights_only=False)
    for branch in checkpoint["model"].model[-1].cv3:
        branch[-1].bias.data -= 12
    torch.save(checkpoint, home / "quiet.pt")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        yolo("export", "model=quiet.pt", "format=onnx", "imgsz=64", "dynamic=True", "device=cpu")
    return home / "quiet.onnx"


def test_a_grey_model_is_trained_from_colour_weights_in_the_dark_of_its_camera(trained):
    checkpoint = torch.load(trained, map_location="cpu", weights_only=False)
    assert checkpoint["model"].lowlight == {"preset": "severe", "bayer": "mono", "lamp": [0.5, 1]}
    first = checkpoint["model"].model[0].conv.weight.float()
    colour = torch.load("colour.pt", map_location="cpu", weights_only=False)["model"].model[0].conv.weight.float()
    assert first.shape[1] == 1 and torch.allclose(first, colour.sum(1, keepdim=True), atol=2e-3)  # kept with 16 bits


def test_it_is_validated_and_predicts(trained, exported, home):
    for model in (trained, exported):
        place = (f"project={home}", f"name=val-{model.suffix[1:]}")
        yolo("segment", "val", f"model={model}", "data=set/data.yaml", "lowlight=severe", *QUICK, *place)
        assert (home / f"val-{model.suffix[1:]}").is_dir()
    seen = (f"project={home}", "name=seen", "save=True", "device=cpu")
    yolo("segment", "predict", f"model={trained}", "source=set/images/val", "imgsz=64", *seen)
    assert len(list((home / "seen").glob("*.*"))) == 3


def test_it_is_exported_and_the_export_is_equal(exported, capsys):
    ours("export-check", exported.with_suffix(".pt"), exported)
    said = capsys.readouterr().out
    assert "2x1x64x64" in said and "OK: the export matches" in said, said


def test_it_is_evaluated_and_inspected(trained, exported, capsys):
    numbers = []
    for model in (exported.with_suffix(".pt"), exported):
        ours("evaluate", model, "data=set/data.yaml", f"out=numbers-{model.suffix[1:]}")
        numbers.append([line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("masks ")])
    assert numbers[0] == numbers[1] != []
    ours("inspect", trained, "images=set/data.yaml", "lowlight=severe", "out=inspected", "imgsz=64")
    assert "3 blocks, 3 images" in capsys.readouterr().out and cv2.imread("inspected/predictions.png") is not None


def test_robustness_measures_it_in_grey_and_shows_grey_samples(trained, capsys):
    suite = "suite=presets,gaussian_noise,fgsm"
    ours("robustness", trained, "data=set/data.yaml", suite, "levels=1", "n=2", "save=1", "out=robust", "imgsz=64")
    assert "| gaussian_noise | clean | 1 |" in capsys.readouterr().out
    sheets = sorted(sheet for sheet in (trained.parents[2] / "robust/pictures").iterdir())
    assert len(sheets) == 3
    for sheet in sheets:
        shown = cv2.imread(str(sheet)).astype(int)
        assert abs(shown - shown[..., :1]).max() < 8, sheet.name  # JPEG rounds colours


def test_it_is_adapted_to_the_night_without_labels(trained, capsys):
    words = ("epochs=1", "batch=4", "imgsz=64", "workers=0", "device=cpu", "out=adapted")
    ours("adapt", trained, "images=set/images/train", "lowlight=severe", *words)
    result = torch.load("adapted/adapted.pt", map_location="cpu", weights_only=False)["model"]
    assert result.model[0].conv.in_channels == 1
    assert yaml.safe_load(Path("adapted/pictures/data.yaml").read_text())["channels"] == 1


# ---- its pictures ----------------------------------------------------------------------------------


def grey(path):
    """Return a picture as Ultralytics reads it for a grey model, and check that the file has one channel."""
    assert cv2.imread(str(path), cv2.IMREAD_UNCHANGED).ndim == 2
    return cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)[..., None]


@pytest.fixture
def coloured(home):
    """The path of a picture of the set, which has colours in its file."""
    file = home / "set/images/val/0.png"
    assert np.ptp(cv2.imread(str(file)), axis=2).any()
    return file


def test_twins_of_a_grey_data_set_hold_what_robustness_measures_and_what_enhancers_make(coloured):
    ours("corrupt", "set/data.yaml", "out=noisy", "with=gaussian_noise,level=2")
    ours("enhance", "set/data.yaml", "out=brighter", "with=clahe")
    ours("darken", "set/data.yaml", "out=dark", "preset=severe", "bayer=mono", "lamp=1")
    bright, key = cv2.imread(str(coloured), cv2.IMREAD_GRAYSCALE)[..., None], "images/val/0.png"
    rng = corruptions.generator(0, "gaussian_noise", key)
    wanted = {
        "noisy": corruptions.corrupt(bright, "gaussian_noise", 2, rng),
        "brighter": enhancer("clahe")(bright.repeat(3, 2))[..., :1],
        "dark": capture(bright, settings("severe", bayer="mono", lamp=1).draw(picture_rng(0, key))),
    }
    for name, picture in wanted.items():
        assert np.array_equal(grey(f"{name}/{key}"), picture), name
        assert yaml.safe_load(Path(f"{name}/data.yaml").read_text())["channels"] == 1


@pytest.mark.parametrize("spec", ["gamma", "clahe", "histeq", "msr"])
def test_an_enhancer_gives_for_a_grey_picture_what_it_gives_for_equal_channels(spec):
    picture = cv2.cvtColor(scene(np.random.default_rng(3), 64).image, cv2.COLOR_BGR2GRAY)[..., None]
    assert np.array_equal(enhancer(spec)(picture), enhancer(spec)(picture.repeat(3, 2))[..., :1])


def test_the_psnr_of_a_grey_twin_is_that_of_grey_pictures(capsys):
    ours("darken", "set/data.yaml", "out=noise20", "preset=n20")
    ours("enhance", "noise20/data.yaml", "out=same", "with=gamma:1", "clean=set/data.yaml")
    said = capsys.readouterr().out
    before = float(said.split("PSNR against set/data.yaml: ")[1].split()[0])
    assert before == pytest.approx(20 * np.log10(255 / 20), abs=0.6)  # of 20 codes; some are clipped


def test_the_preview_of_a_grey_data_set_is_grey(home):
    ours("preview", "set/data.yaml", "presets=severe", "n=1", "out=grey.png")
    (home / "set/colour.yaml").write_text("train: images/train\nval: images/val\nnames: [a, b, c, d, e]\n")
    ours("preview", "set/colour.yaml", "presets=severe", "n=1", "out=colour.png")
    spread = [int(np.ptp(cv2.imread(file).astype(int), axis=2).max()) for file in ("grey.png", "colour.png")]
    assert spread[0] < 16 and spread[1] > 48  # paper and ink of the sheet are not quite grey


# ---- mistakes --------------------------------------------------------------------------------------

OF_THE_CAMERA = {  # what stands behind lowlight=: the message
    "nowhere.yaml": "no camera file 'nowhere.yaml'; yolo-wnlb calibrate writes one",
    "data.yaml": "data.yaml is no camera file: it has no mapping 'settings'",
    "infrared": "no low-light preset 'infrared'; choose from",
    "{'preset': 'dark.yaml', 'gamma': 3}": "ev= takes the place of the curve; leave out either ev or gamma",
    "{'preset': 'dark.yaml', 'lamp': -1}": "lamp is -1; wanted values in [0, 10]",
    "{'preset': 'dark.yaml', 'lamp': [1, 0.5]}": "lamp is [1, 0.5], upside down",
    "{'preset': 'dark.yaml', 'seed': a}": "the seed in lowlight is 'a'; wanted an integer",
    "{'preset': 'severe', 'lampe': 1}": "no low-light setting 'lampe' (did you mean 'lamp'?)",
    "{'preset': 'severe', 'mono': true}": "no low-light setting 'mono'",
    "{'preset': 'severe', 'p': 0}": "p in lowlight is 0; wanted the share of pictures to darken",
}


@pytest.mark.parametrize("asked", OF_THE_CAMERA)
def test_mistakes_in_the_camera_are_named(asked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data.yaml").write_text("train: images\nval: images\nnames: [a]\n")
    Path("dark.yaml").write_text("settings: {ev: [-4, -4], bayer: mono}\n")
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        check_request({"mode": "train", "task": "segment", "lowlight": yaml.safe_load(asked)})
    assert OF_THE_CAMERA[asked] in str(caught.value)


@pytest.fixture(scope="module")
def strangers(home, exported):
    """Beside the set of grey pictures: one of two channels, one whose channels are text, a model of four channels."""
    described = yaml.safe_load((home / "set/data.yaml").read_text())
    for name, channels in (("two", 2), ("text", "1")):
        (home / f"set/{name}.yaml").write_text(yaml.safe_dump({**described, "channels": channels}))
    build("yolov8n-seg-wnlb.yaml", home / "four.pt", classes=5, channels=4)
    build("yolov8n-seg-wnlb.yaml", home / "grey.pt", classes=5, channels=1)


OF_THE_CHANNELS = {  # command: the message
    "darken set/two.yaml out=new": "set/two.yaml says channels: 2; wanted 3 for colour or 1 for grey",
    "enhance set/text.yaml out=new with=clahe": "set/text.yaml says channels: '1'; wanted 3 for colour or 1 for grey",
    "preview set/text.yaml out=new.png": "set/text.yaml says channels: '1'; wanted 3 for colour or 1 for grey",
    "adapt four.pt images=set/images/train lowlight=severe out=new": "four.pt takes pictures of 4 channels",
    "inspect four.pt images=set/images/val out=new": "0.png has 3 channels, and the model takes pictures of 4",
    "robustness grey.pt data=set/data.yaml suite=fgsm surrogate=colour.pt out=new": (
        "colour.pt takes pictures of 3 channels, and grey.pt of 1; give a surrogate for the same pictures"
    ),
    "evaluate four.pt data=set/data.yaml out=new": "0.png has 3 channels, and the model takes pictures of 4",
    "export-check colour.pt quiet.onnx": "differ in channels: 3 against 1",
}


@pytest.mark.parametrize("command", OF_THE_CHANNELS)
def test_mistakes_in_the_channels_are_named(command, strangers, home, capsys):
    assert main(command.split()) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert OF_THE_CHANNELS[command] in told[-1] and not list(home.glob("new*/*")) and not list(home.glob("new.*"))


def test_a_data_yaml_whose_channels_are_text_is_refused_by_training_and_validation(strangers):
    for mode, words in (("train", ("model=yolov8n-seg-wnlb.yaml", "epochs=1")), ("val", ("model=grey.pt",))):
        with pytest.raises(ValueError, match="channels of the data YAML is '1'; wanted a whole number, 1 for grey"):
            yolo("segment", mode, *words, "data=set/text.yaml", *QUICK)
