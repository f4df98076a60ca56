"""denoise=features: pairs of a dark and a bright picture, a frozen teacher, and a term in the training loss."""

import random
import shutil
from contextlib import nullcontext
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from conftest import bright_set, run_python, run_without_package
from test_dark_training import dataset
from test_decoder import SEGMENTS, halves, pairs
from test_train import QUICK, train
from torch import nn
from ultralytics import YOLO
from ultralytics.cfg import get_cfg
from ultralytics.data.augment import CopyPaste
from ultralytics.engine.tuner import Tuner
from ultralytics.nn.tasks import DetectionModel

from yolo_wnlb.yolo import denoise, terms
from yolo_wnlb.yolo.darkness import check_resumed, read_request
from yolo_wnlb.yolo.features import distance
from yolo_wnlb.yolo.weights import layers_of

NOTHING = {"alpha": 1, "beta": 1, "gamma": 1, "sigma_s": 0, "sigma_c": 0, "crf": "identity", "bayer": "none"}
GEOMETRY = {
    "mosaic": 0.5,
    "degrees": 20,
    "perspective": 0.0005,
    "translate": 0.4,
    "shear": 5,
    "mixup": 0.5,
    "copy_paste": 0 if denoise.draws_in_colour(CopyPaste) else 0.5,
    "flipud": 0.5,
    "hsv_h": 0.1,
    "hsv_v": 0.9,
}


def flat(folder, channels, height=64):
    """A data set whose pictures are of one bright colour, 64 pixels wide; returns its YAML."""
    file = bright_set(folder, channels=channels)
    for picture in folder.glob("images/*/*.png"):
        cv2.imwrite(str(picture), np.full((height, 64, 3), 200, np.uint8))
    return file


def network(start, name="yolov8n.yaml", **options):
    """A model in training that starts from a checkpoint, as the trainer has it after setup_model."""
    model = YOLO(name, verbose=False).model
    model.load(YOLO(start).model, verbose=False)
    model.train().args = get_cfg(overrides={"task": "segment" if "seg" in name else "detect"})
    args = SimpleNamespace(denoise={"target": "features", **options}, pretrained=str(start), model=name, freeze=None)
    denoise.prepare(model, args)
    return model


# ---- the pairs -----------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_the_bright_half_is_the_picture_that_a_camera_without_faults_would_take(channels, tmp_path):
    built = dataset(bright_set(tmp_path, channels=channels), "train", lowlight=NOTHING, denoise="features", **GEOMETRY)
    for i in range(8):
        image = built[i]["img"]
        assert image.shape == (2 * channels + 2, 64, 64)
        assert torch.equal(image[:channels], image[channels + 1 : -1])


@pytest.mark.parametrize("channels", [1, 3])
def test_the_dark_half_is_what_the_same_training_sees_without_denoise(channels, tmp_path):
    """The pairs take no random number more, and the stock transforms do the same to them: borders too.

    OpenCV computes a warp of more channels by another code path, which rounds some pixels the other way.
    """
    file = bright_set(tmp_path, channels=channels)
    images = []
    for options in ({}, {"denoise": "features"}):
        built = dataset(file, "train", lowlight="moderate", **GEOMETRY, **options)
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        images.append([built[i]["img"] for i in range(len(built))])
    for alone, pair in zip(*images):
        difference = (alone.int() - pair[:channels].int()).abs()
        assert difference.max() <= 8 and difference.float().mean() < 0.2  # codes
        assert not torch.equal(pair[:channels], pair[channels + 1 : -1])


STILL = {"mosaic": 0, "degrees": 0, "translate": 0, "scale": 0, "fliplr": 0, "hsv_h": 0, "hsv_s": 0, "hsv_v": 0}
TURNED = {"degrees": 20, "perspective": 0.0005, "translate": 0.4, "scale": 0.5, "shear": 5, "fliplr": 0.5}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("geometry", "border"),
    [
        ({}, 24 / 64),
        ({"mosaic": 1}, None),
        ({**TURNED, "mosaic": 0.5, "copy_paste": GEOMETRY["copy_paste"], "flipud": 0.5}, None),
        ({**TURNED, "cutmix": 1}, None),
    ],
    ids=["letterbox", "mosaic", "perspective and copy_paste", "cutmix"],
)
def test_a_bright_twin_of_one_colour_counts_everywhere_and_its_borders_nowhere(geometry, border, channels, tmp_path):
    """A saturated sky that lowlight= left bright is the same in both pictures, and no padding."""
    if channels == 1 and "copy_paste" in geometry:
        geometry = {**geometry, "copy_paste": 0.5}  # of grey pairs in every release
    built = dataset(flat(tmp_path, channels, 40), "train", lowlight=NOTHING, denoise="features", **STILL | geometry)
    shares = []
    for i in range(8):
        image = built[i]["img"]
        inside = image[channels] / 255 > denoise.INSIDE
        dark = image[:channels].float()
        assert (dark[:, inside] >= 198).all(), "borders have 114; at the edge of a picture a share of it"
        assert inside[(dark == 200).all(0)].all()
        shares.append(1 - inside.float().mean().item())
    assert shares == [border] * 8 if border else 0 < max(shares) < 1


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_that_are_mixed_up_count_everywhere(channels, tmp_path):
    """Ultralytics adds 255 * r and 255 * (1 - r), and rounds down: to 254 in one of 30 draws."""
    built = dataset(flat(tmp_path, channels), "train", lowlight=NOTHING, denoise="features", **STILL, mixup=1)
    np.random.seed(0)
    marks = [built[i % 8]["img"][channels] for i in range(150)]
    assert all((mark / 255 > denoise.INSIDE).all() for mark in marks)
    assert any((mark < 255).any() for mark in marks)


def test_the_colour_jitter_leaves_the_mark_alone(bright):
    built = dataset(bright, "train", lowlight=NOTHING, denoise="features", **STILL | {"hsv_v": 0.9, "hsv_s": 0.9})
    for i in range(4):
        image = built[i]["img"]
        assert (image[3] == denoise.MARK).all() and not torch.equal(image[:3], built[i]["img"][:3])


def test_copy_paste_is_refused_where_it_would_fail_in_the_middle(bright, monkeypatch):
    monkeypatch.setattr(denoise, "draws_in_colour", lambda _: True)
    with pytest.raises(ValueError, match=r"denoise= and copy_paste=0\.3 do not go together in this release"):
        dataset(bright, "train", lowlight="severe", denoise="features", copy_paste=0.3)


def test_a_share_of_bright_pictures_stays_in_training_and_none_in_validation(bright, log):
    built = dataset(bright, "train", lowlight={"preset": "severe", "p": 0.5}, denoise="features")
    assert any("with probability 0.5, else left bright" in line for line in log)
    random.seed(0)
    same = []
    for _ in range(25):
        for i in range(len(built)):
            dark, twin = halves(built.load_image(i)[0])
            same.append(np.array_equal(dark, twin))
    assert 0.4 < np.mean(same) < 0.6
    dark, wanted = (
        dataset(bright, "val", lowlight=asked).load_image(0)[0] for asked in ({"preset": "severe", "p": 0.5}, "severe")
    )
    assert np.array_equal(dark, wanted)


def test_a_share_of_one_takes_no_random_number(bright):
    states = []
    for asked in ("severe", {"preset": "severe", "p": 1}):
        built = dataset(bright, "train", lowlight=asked)
        random.seed(0)
        states.append((built.load_image(0)[0].tobytes(), random.getstate()))
    assert states[0] == states[1]


@pytest.mark.parametrize("p", [0, -0.1, 1.1, True, "0.5", float("nan"), None])
def test_a_share_that_is_none_is_refused(p):
    with pytest.raises(ValueError, match="wanted the share of pictures to darken, above 0 and at most 1"):
        read_request({"preset": "severe", "p": p})


# ---- the loss ------------------------------------------------------------------------------------


def test_the_term_is_the_distance_of_features_relative_to_the_variance_of_the_teachers(source):
    model = network(source("yolov8n"), **{"alpha": 0.25, "gain": 3, "from": "P3,P5,neck"})
    numbers = [4, 8, 15, 18, 21]
    assert terms.TERMS[model].layers == numbers
    batch = pairs(number=3)
    teacher = YOLO(source("yolov8n")).model.float().eval()
    kept = {}
    for network_ in (model, teacher):
        for number in numbers:
            network_.model[number].register_forward_hook(
                lambda module, args, output, key=(network_ is model, number): kept.__setitem__(key, output.detach())
            )
    total, items = model(dict(batch))
    with torch.no_grad():
        teacher(batch["img"][:, 4:7])
    wanted = sum(
        ((kept[True, n].double() - kept[False, n].double()) ** 2).mean() / kept[False, n].double().var()
        for n in numbers
    )
    term = items["twin_loss"] if isinstance(items, dict) else total[-1] / (0.25 * 3)
    torch.testing.assert_close(term.double(), 3 * wanted, rtol=1e-4, atol=0)
    torch.testing.assert_close(total[-1].double(), 0.25 * 3 * 3 * wanted, rtol=1e-4, atol=0)


def test_padding_does_not_count(source):
    """Half of the picture is marked as padding: features there may be anything."""
    values, batch = [], pairs(size=64, number=2)["img"]
    batch[:, 3, :, 32:] = 114 / 255
    for wrong in (0, 9):
        model = network(source("yolov8n"), **{"from": "P3"})
        term = terms.TERMS[model]
        term.prepare(model, {"img": batch.clone()})
        with term.watch(model), torch.no_grad():
            model(batch[:, :3])
        output = term.outputs[4]
        output[..., 4:] += wrong
        values.append(term.value(model))
    assert values[0] > 0 and torch.equal(values[0], values[1])


def test_the_distance_is_that_of_the_positions_that_count():
    features, target = torch.rand(2, 2, 5, 8, 8)
    weights = torch.zeros(2, 1, 8, 8)
    weights[..., :3] = 1
    torch.testing.assert_close(distance(features, target, weights), distance(features[..., :3], target[..., :3]))
    assert distance(features, target, 0 * weights) == 0


def test_the_teacher_in_the_light_is_reached_exactly(source):
    """In evaluation mode, on two equal halves, the starting model has the features of its teacher."""
    model = network(source("yolov8n"))
    term = terms.TERMS[model]
    image, mark = torch.rand(2, 3, 64, 64), torch.ones(2, 1, 64, 64)
    term.prepare(model, {"img": torch.cat([image, mark, image, mark], 1)})
    with term.watch(model.eval()), torch.no_grad():
        model(image)
    assert term.value(model) == 0


@pytest.mark.parametrize("colours", [1, 3])
def test_a_teacher_in_colour_teaches_a_grey_model_and_the_other_way_round(colours, source, log):
    teacher = YOLO(source("yolov8n")).model.float().eval()
    if colours == 3:
        grey = DetectionModel("yolov8n.yaml", ch=1, verbose=False)
        grey.load(teacher)
        teacher = grey.eval()
    model = DetectionModel("yolov8n.yaml", ch=colours, verbose=False)
    model.load(teacher)
    term = denoise.FeatureTwin(model, teacher, denoise.read_request("features"))
    image, mark = torch.rand(2, 1, 64, 64).expand(2, colours, 64, 64), torch.ones(2, 1, 64, 64)
    term.prepare(model, {"img": torch.cat([image, mark, image, mark], 1)})
    with term.watch(model.eval()), torch.no_grad():
        model(image)
    assert term.value(model) == 0
    assert not any(parameter.requires_grad for parameter in term.teacher.parameters())


@SEGMENTS
def test_at_alpha_1_the_head_has_no_gradient_and_the_teacher_never_has_one(source):
    model = network(source("yolov8n-seg"), "yolov8n-seg.yaml", alpha=1)
    model(pairs())[0].sum().backward()
    *inner, head = layers_of(model)
    assert all(p.grad is None for p in head.parameters())
    assert all(p.grad is not None and p.grad.any() for layer in inner for p in layer.parameters())
    teacher = terms.TERMS[model].teacher
    assert not teacher.training and not any(p.requires_grad for p in teacher.parameters())
    assert not any("teacher" in name for name, _ in model.named_modules())


def test_mixed_precision_gives_a_finite_term_in_float32(source):
    model = network(source("yolov8n"))
    with torch.autocast("cpu", torch.bfloat16):
        total, _ = model(pairs())
    total.sum().backward()
    assert total[-1].dtype == torch.float32 and total.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@SEGMENTS
def test_a_block_is_compared_behind_its_stage(source):
    model = network(source("yolov8n-seg"), "yolov8n-seg-wnlb.yaml", alpha=1, **{"from": "P3,P4,P5"})
    term = terms.TERMS[model]
    assert term.layers == [5, 8, 11] and term.teacher_layers == [4, 6, 8]
    model(pairs())[0].sum().backward()
    assert all(model.model[number].w.grad for number in term.layers)


@pytest.mark.parametrize("broken", [float("inf"), float("nan")])
def test_at_alpha_1_a_stock_loss_that_is_not_finite_is_no_part_of_the_loss(broken, source):
    model, weight = network(source("yolov8n"), alpha=1), torch.ones(3, requires_grad=True)

    def stock(model, batch, preds):
        model.predict(batch["img"])
        return broken * weight, {}

    total, _ = terms.loss(stock, model, pairs())
    total.sum().backward()
    assert total.isfinite().all() and total[-1] > 0 and weight.grad is None


def test_a_model_without_the_word_gets_the_objects_of_the_stock_function():
    result = object()
    assert terms.loss(lambda *_: result, SimpleNamespace(), {}) is result


# ---- training ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(bright, source, tmp_path_factory):
    """A run without labels of two epochs that stops after the first and is resumed."""
    folder = tmp_path_factory.mktemp("run")
    data = folder / "data"
    shutil.copytree(bright.parent, data)
    for labels in (data / "labels/train").glob("*.txt"):
        labels.write_text("")
    held = {}

    def stop(trainer):
        held["stopped"] = {name: t.half().clone() for name, t in trainer.ema.ema.state_dict().items()}
        raise KeyboardInterrupt

    def resumed(trainer):
        held["resumed"] = {name: t.half().clone() for name, t in trainer.ema.ema.state_dict().items()}
        held["teacher"] = terms.TERMS[trainer.model].teacher.state_dict()

    options = {
        "lowlight": "severe",
        "denoise": {"alpha": 1},
        "optimizer": "AdamW",
        "pretrained": str(source("yolov8n")),
    }
    with pytest.raises(KeyboardInterrupt):
        train(data / "data.yaml", folder, "yolov8n.yaml", {"on_model_save": stop}, epochs=2, **options)
    yolo = YOLO(folder / "run/weights/last.pt")
    yolo.add_callback("on_train_start", resumed)
    yolo.train(resume=True, lowlight="severe", denoise={"alpha": 1})  # as a command that is given again does
    return held | {"trainer": yolo.trainer, "folder": folder, "last": folder / "run/weights/last.pt"}


def test_a_resumed_run_goes_on_with_its_average_and_the_same_teacher(run, source):
    for name, tensor in run["stopped"].items():
        assert torch.equal(run["resumed"][name], tensor), name
    wanted = YOLO(source("yolov8n")).model.float().state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in run["teacher"].items())


def test_the_term_is_a_column_of_the_results_and_0_in_validation(run):
    header, *rows = (run["folder"] / "run/results.csv").read_text().splitlines()
    names = [name.strip() for name in header.split(",")]
    assert len(rows) == 2
    if "train/twin_loss" in names:  # releases whose loss items have names
        columns = [
            [float(row.split(",")[names.index(f"{part}/twin_loss")]) for row in rows] for part in ("train", "val")
        ]
        assert min(columns[0]) > 0 and columns[1] == [0, 0]


def test_without_labels_the_backbone_learns_and_the_head_stays_as_it_was(run, source):
    trained = run["trainer"].model
    start = YOLO("yolov8n.yaml", verbose=False).load(str(source("yolov8n"))).model
    weights = [dict(layers_of(model)[-1].named_parameters()) for model in (trained, start)]
    for name, tensor in weights[1].items():
        if "cv3" not in name and "dfl" not in name:  # cv3 has another number of classes
            torch.testing.assert_close(weights[0][name], tensor, rtol=2e-3, atol=1e-6)  # it was resumed from 16 bits
    assert not torch.equal(trained.model[0].conv.weight, start.model[0].conv.weight)


def test_the_checkpoint_holds_no_teacher_and_opens_without_this_package(run, source, tmp_path):
    checkpoint = torch.load(run["last"], weights_only=False)["model"]
    stock = YOLO("yolov8n.yaml", verbose=False).model.state_dict()
    assert checkpoint.state_dict().keys() == stock.keys()
    code = f"""
from ultralytics import YOLO
YOLO({str(run["last"])!r}).predict(__import__("torch").zeros(1, 3, 64, 64), imgsz=64, verbose=False)
"""
    done = run_without_package(code, tmp_path)
    assert done.returncode == 0, done.stderr


def test_prediction_is_that_of_the_same_weights_without_the_attribute(run):
    first, second = YOLO(run["last"]).model.eval(), YOLO(run["last"]).model.eval()
    del second.denoise, second.lowlight
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(first(image)[0], second(image)[0])


def test_a_later_training_in_this_process_without_the_word_has_no_term(run, bright, tmp_path):
    trainer = train(bright, tmp_path, run["last"], val=False)
    assert not hasattr(trainer.model, "denoise") and trainer.model not in terms.TERMS
    assert "twin_loss" not in (tmp_path / "run/results.csv").read_text()


def test_three_steps_without_the_word_give_the_weights_of_a_process_without_the_package(bright, source, tmp_path):
    code = f"""
import hashlib, torch
from ultralytics import YOLO
yolo = YOLO("yolov8n.yaml")
yolo.train(data={str(bright)!r}, pretrained={str(source("yolov8n"))!r}, epochs=1, val=False, project={str(tmp_path)!r},
           exist_ok=True, **{{**{QUICK!r}, "batch": 3, "nbs": 3}})
digest = hashlib.sha256()
for tensor in yolo.trainer.model.state_dict().values():
    digest.update(tensor.numpy().tobytes())
print("digest", digest.hexdigest())
"""
    runs = [run_python(code, tmp_path, YOLO_WNLB_DISABLE=switch) for switch in ("0", "1")]
    digests = [[line for line in run.stdout.splitlines() if line.startswith("digest")] for run in runs]
    assert digests[0] and digests[0] == digests[1], runs[0].stderr + runs[1].stderr


# ---- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "more", "message"),
    [
        ("feature", {}, "no target 'feature', did you mean 'features'|no target 'feature'.*features"),
        (3, {}, "denoise is 3; wanted features"),
        ({"alpa": 1}, {}, "no option 'alpa'.*alpha"),
        ({"alpha": 0}, {}, "alpha is 0; wanted a number above 0, at most 1"),
        ({"alpha": True}, {}, "alpha is True"),
        ({"alpha": 2}, {}, "alpha is 2"),
        ({"gain": "big"}, {}, "gain is 'big'"),
        ({"from": []}, {}, "wanted places such as P3,P4,P5,neck"),
        ({"from": [3]}, {}, "wanted places such as P3,P4,P5,neck"),
        ({"teacher": 1}, {}, "teacher is 1; wanted a checkpoint"),
        ("features", {"lowlight": None}, "wants lowlight= too, such as lowlight=severe"),
        ("features", {"lowlight": "augmentations"}, "darken with lowlight="),
        ("features", {"augmentations": ["any"]}, "augmentations= would change one of them"),
        ("features", {"mode": "val"}, "denoise= is for yolo train; val has no use for it"),
        ("features", {"mode": "predict"}, "predict has no use for it"),
        ("features", {"task": "classify"}, "'classify' is another task"),
        ("features", {"compile": True}, "denoise= and compile=True do not go together"),
        ("features", {"distill_model": "x.pt"}, "it puts another teacher around the model"),
        ("features", {"quantize": 8}, "quantisation-aware"),
        ("features", {"quantize": 16}, None),
        ("features", {"bgr": 0.5}, "swap the channels of one picture"),
    ],
)
def test_mistakes_are_answered_before_anything_is_built(request_, more, message):
    with nullcontext() if message is None else pytest.raises(ValueError, match=message):
        denoise.check_request({"mode": "train", "task": "detect", "lowlight": "severe", "denoise": request_, **more})


@pytest.mark.parametrize("off", [None, False])
def test_a_word_that_is_off_is_taken_out(off):
    cfg = {"mode": "val", "denoise": off}
    denoise.check_request(cfg)
    assert cfg == {"mode": "val"}


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"teacher": "absent.pt"}, FileNotFoundError, "no teacher absent.pt"),
        ({"from": "P9"}, ValueError, "from names 'P9'; this model has P1, P2, P3, P4, P5 and neck"),
    ],
)
def test_a_place_or_a_teacher_that_is_not_there_is_named(options, kind, message, source):
    with pytest.raises(kind, match=message):
        network(source("yolov8n"), **options)


def test_a_training_that_starts_at_random_has_no_teacher():
    model = YOLO("yolov8n.yaml", verbose=False).model
    with pytest.raises(ValueError, match=r"no checkpoint is named; give pretrained=FILE.pt"):
        denoise.prepare(model, SimpleNamespace(denoise="features", pretrained=True, model="yolov8n.yaml"))


@pytest.mark.parametrize("teacher", ["yolov8s", "yolo11n", "yolov8n-cls"])
def test_a_teacher_of_another_shape_is_refused_before_training(teacher, source):
    with pytest.raises(ValueError, match="has to be a"):
        network(source("yolov8n"), teacher=str(source(teacher)))


def test_an_export_is_no_teacher(source, tmp_path):
    file = tmp_path / "model.onnx"
    file.write_bytes(b"no checkpoint")
    with pytest.raises(ValueError, match="wanted a checkpoint"):
        network(source("yolov8n"), teacher=str(file))


def test_a_model_whose_loss_is_its_own_is_refused():
    class Own(nn.Module):
        def loss(self, batch, preds=None):
            """Compute another loss than BaseModel does."""

    with pytest.raises(ValueError, match="does not know how Own computes its loss"):
        denoise.prepare(Own(), SimpleNamespace(denoise="features"))


def test_a_resumed_run_keeps_its_request():
    with pytest.raises(ValueError, match="denoise=bright cannot be given on resume: the run began with denoise="):
        check_resumed("denoise", "bright", {"target": "features"})


@pytest.mark.parametrize(
    ("requested", "began", "same"),
    [
        ("n2v", "n2v", True),
        ({"target": "n2v", "from": "P1,P2,P3", "alpha": 0.5}, "n2v", True),
        ({"target": "n2v", "alpha": 0.3}, "n2v", False),
        ({"target": "n2v", "crop": 64}, "n2v", False),
        ("n2v", {"target": "n2v", "crop": 64}, False),
        ("n2v", {"target": "n2v", "from": ["P1", "P2"]}, False),
        ("bright", "n2v", False),
        (True, {"target": "features", "teacher": "/day.pt"}, True),
        ({"target": "features", "teacher": "/other.pt"}, {"target": "features", "teacher": "/day.pt"}, False),
    ],
)
def test_a_request_is_known_again_on_resume_however_it_is_written(requested, began, same):
    """The checkpoint holds it with all options."""
    asked = denoise.read_request(began)
    written = {**asked, "from": list(asked["from"])}
    assert denoise.is_same(requested, written) is same


def test_tune_does_not_know_the_word():
    with pytest.raises(ValueError, match="tune does not know denoise="):
        Tuner(args={"denoise": "features"})
