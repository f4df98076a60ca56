"""denoise=n2v: crops with hidden pixels, unlabelled pictures, the term in the loss, and denoised pictures."""

import itertools
import json
import random
import shutil
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import yaml
from conftest import bright_set, run_without_package, stock_loader
from test_dark_training import dataset
from test_train import train
from torch import nn
from ultralytics import YOLO
from ultralytics.cfg import get_cfg

from yolo_wnlb.data.data_yaml import read_data_yaml
from yolo_wnlb.denoiseg import detector, unet
from yolo_wnlb.denoiseg.pictures import psnr
from yolo_wnlb.imaging.camera import settings
from yolo_wnlb.imaging.capture import capture
from yolo_wnlb.imaging.curve import CURVES, as_settings
from yolo_wnlb.twins.darken import darken_dataset
from yolo_wnlb.twins.enhance import enhance_dataset
from yolo_wnlb.twins.enhancers import enhancer
from yolo_wnlb.yolo import decoder, denoise, noise2void, restore, terms
from yolo_wnlb.yolo.features import norms_up_to
from yolo_wnlb.yolo.weights import layers_of


def with_unlabelled(folder, count=3, size=64, place="more", **more):
    """A tiny data set, and pictures without labels that have one colour each, 200 + their number; returns its YAML."""
    file = bright_set(folder, **more)
    (folder / place).mkdir()
    for i in range(count):
        cv2.imwrite(str(folder / place / f"{i}.png"), np.full((size, size, 3), 200 + i, np.uint8))
    return entry(file, place)


def entry(file, value, key="unlabelled"):
    """Write an entry of a data YAML; returns its path."""
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), key: value}))
    return file


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return with_unlabelled(tmp_path_factory.mktemp("few"))


def crops_of(file, **options):
    """The last transform of a training data set."""
    asked = options.pop("denoise", {"target": "n2v"})
    return dataset(file, "train", denoise=asked, **options).transforms.transforms[-1]


def network(name="yolov8n.yaml", checkpoint=None, freeze=None, **options):
    """A model in training with a decoder, as the trainer has it after setup_model."""
    torch.manual_seed(0)
    model = YOLO(name, verbose=False).model.train()
    model.args = get_cfg(overrides={"task": "detect"})
    denoise.prepare(model, SimpleNamespace(denoise={"target": "n2v", **options}, freeze=freeze), checkpoint)
    return model


def batch_of(file, number=4, **options):
    """A batch as the trainer has it after preprocess_batch."""
    torch.manual_seed(0), random.seed(0), np.random.seed(0)
    built = dataset(file, "train", mosaic=0.0, denoise={"target": "n2v", **options})
    batch = built.collate_fn([built[i] for i in range(number)])
    return {**batch, "img": batch["img"].float() / 255}


# ---- the crops -----------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("which", ["joint", "each"])
def test_one_pixel_of_64_is_hidden_and_gets_the_value_of_a_pixel_near_it(channels, which, tmp_path):
    crops = crops_of(bright_set(tmp_path, channels=channels), denoise={"target": "n2v", "channels": which}, imgsz=128)
    noisy, blind, hidden = crops({"img": None})[noise2void.KEY].numpy()
    assert noisy.shape == (channels, 64, 64) and noisy.dtype == np.uint8
    assert (hidden.reshape(channels, 8, 8, 8, 8).sum((2, 4)) == 1).all()
    assert np.array_equal(noisy[hidden == 0], blind[hidden == 0])
    assert which == "each" or (hidden == hidden[:1]).all()
    assert which == "joint" or channels == 1 or not (hidden == hidden[:1]).all()
    for c, y, x in zip(*np.nonzero(hidden)):
        window = noisy[c, max(y - 5, 0) : y + 6, max(x - 5, 0) : x + 6]
        assert blind[c, y, x] in window


def test_a_crop_is_a_piece_of_a_file_turned_but_not_resized_and_in_rgb(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    file = bright_set(tmp_path, train=1)
    cv2.imwrite(str(tmp_path / "images/train/0.png"), picture)
    crops, turned = crops_of(file), set()
    for _ in range(40):
        noisy = crops({})[noise2void.KEY].numpy()[0].transpose(1, 2, 0)[..., ::-1]
        ways = [np.rot90(noisy, k)[:, ::s] for k in range(4) for s in (1, -1)]
        places = [
            (way, y, x)
            for way in range(8)
            for y in range(70 - 31)
            for x in np.nonzero((picture[y, : 90 - 31] == ways[way][0, 0]).all(-1))[0]
            if np.array_equal(picture[y : y + 32, x : x + 32], ways[way])
        ]
        assert len(places) == 1
        turned.add(places[0][0])
    assert len(turned) == 8


def test_crops_come_from_training_pictures_and_unlabelled_ones_evenly(data):
    crops = crops_of(data)
    assert len(crops.files) == 8 + 3 and len(set(crops.files)) == 11
    counts = [0] * 3
    for _ in range(330):
        colour = int(crops.cut().mean())
        if 200 <= colour < 203:
            counts[colour - 200] += 1
    assert min(counts) > 15 and 60 < sum(counts) < 120


def test_the_labelled_pictures_are_those_of_a_training_without_the_word(data):
    streams = []
    for options in ({}, {"denoise": "n2v"}, {"denoise": {"target": "n2v", "channels": "each", "pixels": 5}}):
        built = dataset(data, "train", mosaic=0.5, mixup=0.5, degrees=20, **options)
        random.seed(1), np.random.seed(1), torch.manual_seed(1)
        items = [built[i] for i in range(len(built))]
        assert all((noise2void.KEY in item) == bool(options) for item in items)
        streams.append([item["img"] for item in items] + [item["bboxes"] for item in items])
    for other in streams[1:]:
        assert all(map(torch.equal, streams[0], other))


def test_the_epochs_without_mosaic_have_crops_too_and_validation_has_none(data):
    built = dataset(data, "train", denoise="n2v")
    built.close_mosaic(get_cfg(overrides={"task": "segment", "mosaic": 0.0}))
    assert noise2void.KEY in built[0]
    assert noise2void.KEY not in dataset(data, "val", denoise="n2v")[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_hands_on_one_crop_a_picture_and_each_worker_draws_its_own(workers, data):
    torch.manual_seed(3)
    built = dataset(data, "train", denoise="n2v", mosaic=0.0)
    with stock_loader(built, batch=4, workers=workers, shuffle=False) as loader:
        first, second = [batch[noise2void.KEY] for batch, _ in zip(loader, range(2))]
    assert len(first) == len(second) == 4
    crops = [crop.numpy().tobytes() for crop in (*first, *second)]
    assert len(set(crops)) == 8


def test_lowlight_takes_the_crops_with_a_camera_too_each_anew(data):
    crops = crops_of(data, lowlight="n20")
    crops.files = crops.files[-1:]
    noise = np.concatenate([crops.cut().astype(float).ravel() - 202 for _ in range(20)])
    assert noise.std() == pytest.approx(20, abs=0.5) and abs(noise.mean()) < 0.5
    crops = crops_of(data, lowlight={"preset": "n20", "p": 0.5})
    crops.files = crops.files[-1:]
    assert 0.3 < np.mean([crops.cut().std() > 0 for _ in range(100)]) < 0.7


def test_where_the_crops_come_from_is_said(data, log):
    crops_of(data)
    assert any("crops of 32 x 32 pixels, cut from the files of 8 training pictures and 3 unlabelled" in s for s in log)


@pytest.mark.parametrize(
    "options",
    [{"cache": "disk"}, {"cache": "ram"}, {"rect": True}, {"imgsz": 32}, {"fraction": 0.5}, {"single_cls": True}],
)
def test_crops_are_those_of_the_files_whatever_else_is_asked_for(options, tmp_path):
    file = with_unlabelled(tmp_path)
    cv2.imwrite(str(tmp_path / "more/0.png"), np.full((64, 64), 200 * 257, np.uint16))  # 16 bits
    cv2.imwrite(str(tmp_path / "more/1.png"), np.full((64, 64, 4), 201, np.uint8))  # with transparency
    cv2.imwrite(str(tmp_path / "more/2.png"), np.full((64, 64), 202, np.uint8))  # grey
    built = dataset(file, "train", mosaic=0.0, denoise="n2v", **options)
    crops = built.transforms.transforms[-1]
    count = 4 if "fraction" in options else 8
    assert len(crops.files) == count + 3 and crops.side == 32
    assert all(built[i][noise2void.KEY].shape == (3, 3, 32, 32) for i in range(count))
    crops.files = [path for path in crops.files if path.parent.name == "more"]
    assert {201, 202} < {*np.unique([crops({})[noise2void.KEY][0] for _ in range(30)])}


def test_a_picture_that_breaks_off_is_left_out_when_it_is_reached(tmp_path, log):
    file = with_unlabelled(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    (tmp_path / "more/9.png").write_bytes(cv2.imencode(".png", noise)[1].tobytes()[:3000])
    crops = crops_of(file)
    broken = [picture for picture in crops.files if picture.name == "9.png"]
    crops.files = [*broken, crops.files[0]]
    assert all(crops.cut().shape == (3, 32, 32) for _ in range(20)) and broken[0] not in crops.files
    assert sum("9.png" in line and "gives no crops" in line for line in log) == 1
    crops.files = broken
    with pytest.raises(OSError, match=r"9\.png"):
        crops.cut()


def test_pictures_that_are_smaller_than_a_crop_are_left_out_with_a_warning(tmp_path, log):
    file = with_unlabelled(tmp_path, size=40)
    (tmp_path / "more/9.png").write_bytes(b"no picture")
    assert len(crops_of(file, imgsz=64).files) == 8 + 3
    assert any("1 of 12 pictures cannot be read or are smaller than a crop of 32 x 32" in line for line in log)
    assert len(crops_of(file, denoise={"target": "n2v", "crop": 64}).files) == 8
    pasted = "\"denoise={'target': 'n2v', 'crop': 32}\""
    assert any("4 of 12 pictures" in line and pasted in line for line in log)
    with pytest.raises(ValueError, match="denoise=n2v: 12 of 12 pictures cannot be read or are smaller than a crop"):
        crops_of(file, denoise={"target": "n2v", "crop": 128})


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"lowlight": "severe"}, "lowlight=severe demosaics them; n10, n20 or bayer none do not"),
        ({}, {"lowlight": {"preset": "severe", "bayer": "none"}}, ""),
        ({}, {"lowlight": "n20"}, ""),
        ({"channels": 1}, {"lowlight": "severe"}, ""),
        ({}, {"lowlight": {"preset": "severe", "bayer": "mono"}}, ""),
        ({"channels": 1}, {"lowlight": {"preset": "n20", "sigma_row": 0.1}}, "has banding, which whole rows"),
        ({}, {"lowlight": {"preset": "n20", "jpeg_quality": 30}}, "ends in a JPEG step; leave out jpeg_quality"),
        (
            {"lowlight": {"preset": "mild", "settings": {"bayer": "random"}}},
            {},
            "the darkness that they were written with demosaics them",
        ),
        ({"lowlight": {"preset": "severe", "settings": {"bayer": "mono"}}}, {}, ""),
        ({"lowlight": {"preset": "n20", "settings": {"bayer": None}}}, {}, ""),
        ({}, {"suffix": ".jpg"}, "1 of 12 are JPEG"),
        ({}, {}, ""),
    ],
)
def test_noise_that_neighbours_share_is_warned_of(change, options, message, tmp_path, log):
    file = with_unlabelled(tmp_path)
    for key, value in change.items():
        entry(file, value, key)
    if suffix := options.pop("suffix", ""):
        cv2.imwrite(str(tmp_path / f"more/photo{suffix}"), np.zeros((64, 64, 3), np.uint8))
    crops_of(file, **options)
    warnings = [line for line in log if line.startswith("WARNING") and "independent from pixel to pixel" in line]
    assert len(warnings) == bool(message) and all(message in line for line in warnings)


# ---- the loss ------------------------------------------------------------------------------------


def test_only_hidden_pixels_count(data, monkeypatch):
    model, batch = network(alpha=1), batch_of(data)
    hidden = torch.stack(batch[noise2void.KEY])[:, 2]
    decoded = torch.rand(4, 3, 32, 32, requires_grad=True)
    monkeypatch.setattr(decoder, "decode", lambda *_: decoded)
    term = terms.TERMS[model]
    term.prepare(model, batch)
    term.value(model).backward()
    assert torch.equal(decoded.grad != 0, hidden.bool())


def test_the_error_is_relative_to_the_mean_and_the_variance_of_the_crops(data, monkeypatch):
    for wanted in (1, 0):
        model, batch = network(alpha=1, gain=1), batch_of(data)
        noisy = torch.stack(batch[noise2void.KEY])[:, 0].float() / 255
        mean, variance = noisy.mean((0, 2, 3), keepdim=True), noisy.var((0, 2, 3), keepdim=True, correction=0)
        exact = (noisy - mean) / (variance + decoder.ONE_CODE).sqrt()
        monkeypatch.setattr(decoder, "decode", lambda *_, exact=exact, wanted=wanted: exact * (1 - wanted))
        term = terms.TERMS[model]
        term.prepare(model, batch)
        assert term.value(model).item() == pytest.approx(wanted, abs=0.3 * wanted + 1e-9)
        torch.testing.assert_close(model.denoiser.mean, mean)
        torch.testing.assert_close(model.denoiser.variance, variance)


def test_the_mean_of_the_pictures_is_that_of_all_batches_so_far():
    made = decoder.build({8: 4}, colours=1)
    for value in (0.1, 0.2, 0.6):
        decoder.follow(made, torch.tensor(value), torch.tensor(value / 10), torch.tensor(64))
        decoder.follow(made, torch.tensor(9.0), torch.tensor(9.0), torch.tensor(0))  # nothing but padding
    assert made.mean.item() == pytest.approx(0.3) and made.variance.item() == pytest.approx(0.03)
    assert made.seen == 3


@pytest.mark.parametrize("alpha", [1, 0.5])
def test_at_alpha_1_only_the_layers_in_front_of_the_decoder_have_a_gradient(alpha, data):
    model = network(alpha=alpha)
    model(batch_of(data))[0].sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.denoiser.parameters())
    deepest = max(terms.TERMS[model].layers)
    assert deepest == 4
    for number, layer in enumerate(layers_of(model)):
        for name, parameter in layer.named_parameters():
            if not parameter.requires_grad or "dfl" in name:
                continue  # which learns nothing
            if number <= deepest or alpha < 1:
                assert parameter.grad is not None, (number, name)
            else:
                assert parameter.grad is None, (number, name)


def test_an_unlabelled_picture_adds_no_class_loss_and_one_with_an_empty_label_file_does(data, tmp_path):
    def items(file, number):
        model = network()
        found = model(batch_of(file, number))[1]
        return found if isinstance(found, dict) else {"cls_loss": found[1]}

    shutil.copytree(data.parent, tmp_path / "set")
    entry(tmp_path / "set/data.yaml", None)
    first, second = items(data, 4), items(tmp_path / "set/data.yaml", 4)
    assert first["cls_loss"] == second["cls_loss"]
    for number in range(8):
        (tmp_path / f"set/labels/train/{number}.txt").write_text("")
    (tmp_path / "set/labels/train.cache").unlink(missing_ok=True)
    assert items(tmp_path / "set/data.yaml", 4)["cls_loss"] > 0


def test_the_norms_keep_the_statistics_of_the_labelled_pictures_and_the_decoder_those_of_the_crops(data):
    batch = batch_of(data)
    plain, model = network(), network()
    plain.denoise = None
    norms = norms_up_to(model, 4)
    own = model.denoiser[decoder.STATISTICS]
    assert len(norms) == len(own) > 8
    assert all(torch.equal(a.running_mean, b.running_mean) for a, b in zip(norms, own))
    plain({name: value for name, value in batch.items() if name != noise2void.KEY})
    model(batch)
    for (name, ours), theirs in zip(model.model.named_buffers(), plain.model.buffers()):
        assert torch.equal(ours, theirs), name
    assert all(norm.num_batches_tracked == other.num_batches_tracked == 1 for norm, other in zip(norms, own))
    assert all(not torch.equal(a.running_mean, b.running_mean) for a, b in zip(norms, own))


def test_frozen_norms_stay_as_they_are(data):
    model = network(alpha=1)
    for norm in norms_up_to(model, 4):
        norm.eval()
    before = [buffer.clone() for buffer in model.model[:5].buffers()]
    model(batch_of(data))
    assert all(map(torch.equal, before, model.model[:5].buffers()))
    own = model.denoiser[decoder.STATISTICS]
    assert all(torch.equal(a.running_var, b.running_var) for a, b in zip(norms_up_to(model, 4), own))


def test_mixed_precision_gives_a_finite_term_in_float32(data):
    model = network(alpha=1)
    with torch.autocast("cpu", torch.bfloat16):
        total, _ = model(batch_of(data))
    total.sum().backward()
    assert total[-1].dtype == torch.float32 and total.isfinite().all()


def test_a_batch_without_crops_is_refused(data):
    batch = batch_of(data)
    del batch[noise2void.KEY]
    with pytest.raises(RuntimeError, match="denoise=n2v wants a crop beside each picture, and a batch came without"):
        network()(batch)


# ---- training, resume, the checkpoint, and what it makes of pictures -------------------------------


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """A data set with noise of sd 20 and unlabelled pictures, and the clean one that it was made from."""
    root = tmp_path_factory.mktemp("noisy")
    clean = bright_set(root / "clean", size=96)
    (root / "clean/more").mkdir()
    for i in range(8):
        picture = cv2.imread(str(root / f"clean/images/train/{i}.png"))
        cv2.imwrite(str(root / f"clean/more/{i}.png"), picture[:, ::-1])
    entry(clean, "more")
    report = darken_dataset(clean, root / "n20", preset="n20", workers=1)
    assert report.ok and report.images == 8 + 4 + 8
    return clean, root / "n20/data.yaml"


def test_a_twin_has_the_unlabelled_pictures_too(noisy, tmp_path):
    file = noisy[1]
    assert yaml.safe_load(file.read_text())["unlabelled"] == "more"
    assert len(list((file.parent / "more").glob("*.png"))) == 8
    found, _ = read_data_yaml(file)
    assert found["unlabelled"] == [str(file.parent / "more")]
    report = enhance_dataset(file, "gamma", tmp_path / "out", split="unlabelled")
    assert report.images == 8 and yaml.safe_load((tmp_path / "out/data.yaml").read_text())["unlabelled"] == "more"


@pytest.fixture(scope="module")
def run(noisy, tmp_path_factory):
    """A run of two epochs that stops after the first and is resumed twice; what it held when it stopped and went on."""
    folder, held = tmp_path_factory.mktemp("run"), {}

    def stop(trainer):
        held["stopped"] = {name: t.half().clone() for name, t in trainer.ema.ema.state_dict().items()}
        raise KeyboardInterrupt

    options = {"denoise": "n2v", "optimizer": "AdamW", "imgsz": 96, "pretrained": False}
    with pytest.raises(KeyboardInterrupt):
        train(noisy[1], folder, "yolov8n.yaml", {"on_model_save": stop}, epochs=2, **options)

    def resumed(trainer):
        held["resumed"] = {name: t.clone() for name, t in trainer.model.state_dict().items()}

    last = folder / "run/weights/last.pt"
    shutil.copy(last, folder / "stopped.pt")
    finals = []
    for _ in range(2):
        shutil.copy(folder / "stopped.pt", last)
        yolo = YOLO(last)
        yolo.add_callback("on_train_start", resumed)
        yolo.train(resume=True, denoise="n2v")
        finals.append({name: t.clone() for name, t in yolo.trainer.model.state_dict().items()})
    return held | {"folder": folder, "best": folder / "run/weights/best.pt", "finals": finals, "trainer": yolo.trainer}


def test_a_resumed_run_goes_on_with_the_decoder_and_what_it_knows_of_the_pictures(run):
    names = [name for name in run["stopped"] if name.startswith("denoiser.")]
    assert {"denoiser.mean", "denoiser.variance", "denoiser.seen", "denoiser.statistics.0.running_mean"} <= {*names}
    for name, tensor in run["stopped"].items():
        if tensor.is_floating_point():
            assert torch.equal(run["resumed"][name], tensor.float()), name


def test_a_run_is_not_resumed_with_other_options(run, tmp_path):
    shutil.copy(run["folder"] / "stopped.pt", tmp_path / "last.pt")
    with pytest.raises(
        ValueError, match=r"denoise=\{.*'alpha': 0\.3.* cannot be given on resume: the run began with denoise="
    ):
        YOLO(tmp_path / "last.pt").train(resume=True, denoise={"target": "n2v", "alpha": 0.3})


def test_a_run_that_is_resumed_twice_ends_in_the_same_weights(run):
    first, second = run["finals"]
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_the_checkpoint_opens_without_this_package_and_fuse_leaves_nothing_of_the_decoder(run, tmp_path):
    model = YOLO(run["best"]).model
    count = sum(p.numel() for p in model.model.fuse().parameters()) if hasattr(model.model, "fuse") else None
    fused = model.fuse(verbose=False)
    assert not hasattr(fused, "denoiser") and count is None
    stock = YOLO("yolov8n.yaml", verbose=False).model
    stock = type(stock)(stock.yaml, nc=5, verbose=False).fuse(verbose=False)
    assert sum(p.numel() for p in fused.parameters()) == sum(p.numel() for p in stock.parameters())
    code = f"""
import torch
from ultralytics import YOLO
model = YOLO({str(run["best"])!r})
assert hasattr(model.model, "denoiser")
model.predict(torch.zeros(1, 3, 64, 64), imgsz=64, verbose=False)
"""
    done = run_without_package(code, tmp_path)
    assert done.returncode == 0, done.stderr


def test_an_export_has_the_tensors_of_the_model_without_a_decoder(run, tmp_path):
    import onnx

    files = []
    for name in ("with", "without"):
        content = torch.load(run["best"], weights_only=False)
        if name == "without":
            del content["model"].denoiser
        torch.save(content, tmp_path / f"{name}.pt")
        files.append(YOLO(tmp_path / f"{name}.pt").export(format="onnx", imgsz=64, simplify=False, verbose=False))
    first, second = (onnx.load(file).graph for file in files)
    assert first.SerializeToString() == second.SerializeToString()
    shutil.copy(run["best"], tmp_path / "best.pt")
    file = YOLO(tmp_path / "best.pt").export(format="torchscript", imgsz=64, verbose=False)
    names = [name for name, _ in torch.jit.load(file).named_modules()]
    assert names and not [name for name in names if "denoiser" in name]


def test_the_psnr_is_said_where_the_clean_pictures_are_known(noisy, run, tmp_path):
    clean, file = noisy
    report = enhance_dataset(file, f"denoise:{run['best']}", tmp_path / "out", split="val", clean=clean)
    values = []
    for i in range(4):
        pair = [cv2.imread(str(home / f"images/val/{i}.png")) for home in (clean.parent, file.parent, tmp_path / "out")]
        values.append([psnr(image, pair[0]) for image in pair[1:]])
    before, after = np.mean(values, 0)
    assert before == pytest.approx(22.11, abs=0.3)
    assert f"PSNR against {clean}: {before:.2f} dB before, {after:.2f} dB after (mean over 4 pictures)" in str(report)
    again = enhance_dataset(file, f"denoise:{run['best']}", tmp_path / "out", split="val", clean=clean)
    assert f"{after:.2f} dB after" in str(again), "nothing to do, and still reported"
    copied = shutil.copytree(file.parent, tmp_path / "copy")
    same = enhance_dataset(file, f"denoise:{run['best']}", tmp_path / "out", split="val", clean=copied / file.name)
    assert "no PSNR: some pictures of" in str(same)
    with pytest.raises(ValueError, match=r"clean=.* is the data set that is enhanced; wanted the one without noise"):
        enhance_dataset(file, f"denoise:{run['best']}", tmp_path / "out", split="val", clean=file)
    with pytest.raises(FileNotFoundError, match=r"clean=.* has no picture for 4 of 4 \(first: images/val/0.png\)"):
        enhance_dataset(file, "gamma", tmp_path / "other", split="val", clean=clean.parent / "more")


def test_pictures_of_more_bits_are_denoised_through_the_curve_of_the_model(noisy, run, tmp_path):
    content = torch.load(run["best"], weights_only=False)
    for model in filter(None, (content["model"], content["ema"])):
        model.curve = as_settings(CURVES["high-byte"])
    torch.save(content, tmp_path / "deep.pt")
    for name, given, curve in (("own", None, "high-byte"), ("given", "auto", "auto")):
        enhance_dataset(noisy[1], f"denoise:{tmp_path / 'deep.pt'}", tmp_path / name, split="val", curve=given)
        header = json.loads((tmp_path / name / "enhanced.jsonl").read_text().splitlines()[0])
        assert header["curve"] == as_settings(CURVES[curve])


@pytest.fixture(scope="module")
def learnt():
    """A model that has learnt to denoise smooth pictures, and another such picture, noisy and clean."""
    model, clean = network(alpha=1, gain=1), []
    for i in range(9):
        picture = cv2.GaussianBlur(np.random.default_rng(i).integers(0, 256, (64, 64, 1), np.uint8), (0, 0), 5)
        clean.append(np.repeat(cv2.normalize(picture, None, 60, 200, cv2.NORM_MINMAX)[..., None], 3, 2))
    noisy = [capture(picture, settings("n20").draw(random.Random(i))) for i, picture in enumerate(clean)]
    rng, crops = np.random.default_rng(0), noise2void.Crops([], 3, 64, denoise.read_request("n2v"), None)
    crops.cut = lambda: noisy[rng.integers(8)][..., ::-1].transpose(2, 0, 1).copy()
    optimizer, term = torch.optim.AdamW(list(model.parameters()), 3e-3), terms.TERMS[model]
    for _ in range(100):
        term.prepare(model, {noise2void.KEY: [crops({})[noise2void.KEY] for _ in range(8)]})
        optimizer.zero_grad()
        term.value(model).backward()
        optimizer.step()
    return model, noisy[8][..., ::-1].copy(), clean[8]


def test_a_picture_that_was_not_learnt_from_is_denoised(learnt):
    model, noisy, clean = learnt
    restored = restore.Restorer(model, ["P1", "P2", "P3"])(noisy)
    assert restored.shape == noisy.shape and restored.dtype == np.uint8
    assert psnr(noisy, clean) == pytest.approx(22.1, abs=0.3)
    assert psnr(restored, clean) > psnr(noisy, clean) + 2


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (37, 53), (96, 64)])
def test_any_size_stays_and_grey_stays_grey(size, learnt):
    restorer = restore.Restorer(learnt[0], ["P1", "P2", "P3"])
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    before = picture.copy()
    assert restorer(picture).shape == picture.shape and np.array_equal(picture, before)
    grey = restorer(np.repeat(picture[..., :1], 3, 2))
    assert (grey == grey[..., :1]).all()


def test_a_large_picture_is_restored_in_tiles_without_seams(learnt, monkeypatch):
    restorer = restore.Restorer(learnt[0], ["P1", "P2", "P3"])
    picture = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (200, 330, 3), np.uint8), (0, 0), 2)
    whole = restorer(picture).astype(int)
    monkeypatch.setattr(restore, "WHOLE", 1000)
    monkeypatch.setattr(restore, "TILE", 128)
    difference = np.abs(restorer(picture) - whole)
    assert difference.max() <= 3 and difference.mean() < 0.2, "in codes"
    seen = []
    restored = restore.in_tiles(picture, lambda part: seen.append(part.shape[:2]) or part / 255)
    assert np.allclose(restored, picture / 255, atol=1e-6) and max(map(max, seen)) < 160


@pytest.mark.parametrize("length", [1, 511, 512, 513, 544, 992, 993, 1024, 1500, 4000])
def test_tiles_cover_a_side_overlap_and_start_where_the_strides_do(length):
    found = list(restore.spans(length))
    assert found[0][0] == 0 and found[-1][1] == length
    assert all(start % 32 == 0 and end - start <= 543 for start, end in found)
    assert all(left[1] - right[0] >= 32 and left[0] < right[0] for left, right in itertools.pairwise(found))


def test_a_grey_model_restores_grey():
    model = YOLO("yolov8n.yaml", verbose=False).model
    model = type(model)({**model.yaml, "channels": 1}, ch=1, verbose=False).train()
    model.args = get_cfg()
    denoise.prepare(model, SimpleNamespace(denoise="n2v", freeze=None))
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    restored = restore.Restorer(model, ["P1", "P2", "P3"])(picture)
    assert restored.shape == picture.shape and (restored == restored[..., :1]).all()


# ---- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "more", "message"),
    [
        (["n2v"], {}, r"denoise is \['n2v'\]; wanted features, bright, clean, n2n, n2v, True or options"),
        ({"pixels": 0}, {}, "pixels is 0; wanted percent of the pixels, above 0 and at most 25"),
        ({"pixels": 200}, {}, "pixels is 200; wanted percent"),
        ({"pixels": "1.5"}, {}, "pixels is '1.5'; wanted percent"),
        ({"pixels": True}, {}, "pixels is True; wanted percent"),
        ({"pixels": 0.01, "crop": 64}, {}, "pixels is 0.01, one in each 100 x 100 pixels, and crops have 64 x 64"),
        ({"radius": 0}, {}, "radius is 0; wanted whole pixels, from 1 to 50"),
        ({"radius": 2.5}, {}, "radius is 2.5; wanted whole pixels"),
        ({"radius": 1000}, {}, "radius is 1000; wanted whole pixels"),
        ({"channels": "all"}, {}, "channels is 'all'; choose from joint, each"),
        ({"channels": "EACH"}, {}, r"channels is 'EACH' \(did you mean 'each'\?\); choose from joint, each"),
        ({"channels": ["each"]}, {}, r"channels is \['each'\] .did you mean 'each'.*; choose from joint, each"),
        ({"crop": 100}, {}, "crop is 100; wanted the side in pixels, a multiple of 32"),
        ({"crop": 0}, {}, "crop is 0; wanted the side in pixels"),
        ({"alpha": 0}, {}, "alpha is 0; wanted a number above 0, at most 1"),
        (
            {"teacher": "best.pt"},
            {},
            "target n2v has no option 'teacher', which is one of features; choose from target",
        ),
        ({"pixel": 2}, {}, r"no option 'pixel' \(did you mean 'pixels'"),
        ({"target": "bright", "pixels": 2}, {}, "target bright has no option 'pixels', which is one of n2v"),
        ({"target": "N2V"}, {}, r"no target 'N2V' \(did you mean 'n2v'\?\)"),
        ({"target": "noise2void"}, {}, r"no target 'noise2void' \(did you mean 'n2v'\?\)"),
        ({"target": "n2v,alpha=0.3"}, {}, r"options are written \{'target': 'n2v', 'alpha': 0.3\}"),
        ({"alpha": 30}, {}, r"alpha is 30; wanted a number above 0, at most 1; did you mean 0.3\?"),
        ({"crop": 100}, {}, "crop is 100; wanted the side in pixels, a multiple of 32, such as 96"),
        ({}, {"task": "classify"}, "denoise= trains detectors and segmenters; 'classify' is another task"),
        ({}, {"mode": "val"}, "denoise= is for yolo train; val has no use for it"),
        ({}, {"compile": True}, "denoise= and compile=True do not go together"),
        ({}, {"lowlight": "augmentations"}, "n2v learns from crops of the files, which augmentations= does not reach"),
    ],
)
def test_mistakes_are_answered_before_anything_is_built(request_, more, message):
    asked = {"target": "n2v", **request_} if isinstance(request_, dict) else request_
    cfg = {"mode": "train", "task": "detect", "denoise": asked, **more}
    with pytest.raises(ValueError, match=message):
        denoise.check_request(cfg)


def test_a_target_that_is_left_out_is_said_to_be_the_one_that_wants_lowlight():
    with pytest.raises(ValueError, match="features is the target where none is given, and 'target': 'n2v' needs no"):
        denoise.check_request({"mode": "train", "task": "detect", "denoise": {"alpha": 0.3}})
    with pytest.raises(ValueError, match=r"lowlight=severe$"):
        denoise.check_request({"mode": "train", "task": "detect", "denoise": "features"})


def test_it_wants_no_lowlight():
    denoise.check_request({"mode": "train", "task": "detect", "denoise": "n2v"})
    assert denoise.read_request("n2v") == noise2void.DEFAULTS


@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        ("absent", FileNotFoundError, r"data\.yaml: there is no .*absent, which 'unlabelled' names"),
        (["more", "absent.txt"], FileNotFoundError, r"there is no .*absent\.txt, which 'unlabelled' names"),
        ("empty", FileNotFoundError, "empty, which 'unlabelled' names, holds no pictures"),
        ("stale.txt", FileNotFoundError, r"there is no .*gone\.png, which .*stale\.txt of 'unlabelled' names"),
        (7, ValueError, "unlabelled: is 7; wanted a folder, a list of pictures, or several"),
        (["more", 7], ValueError, r"unlabelled: is \['more', 7\]; wanted a folder"),
        ({"train": "more"}, ValueError, "unlabelled: is {'train': 'more'}; wanted a folder"),
        (
            "more/0.png",
            ValueError,
            r"'unlabelled' names the picture .*0\.png; wanted a folder, or a list, a \.txt file",
        ),
        (
            "images/val",
            ValueError,
            r"4 of the pictures that 'unlabelled' names are in 'val' \(first: .*0\.png\)",
        ),
        ("images", ValueError, "4 of the pictures that 'unlabelled' names are in 'val'"),
    ],
)
def test_an_entry_of_the_data_yaml_that_is_of_no_use_is_refused(value, kind, message, tmp_path):
    file = entry(with_unlabelled(tmp_path), value)
    (tmp_path / "empty").mkdir()
    (tmp_path / "stale.txt").write_text("./more/0.png\n./gone.png\n")
    with pytest.raises(kind, match=message):
        crops_of(file)


def test_unlabelled_pictures_of_the_test_split_are_refused(tmp_path):
    file = entry(with_unlabelled(tmp_path), "more", "test")
    with pytest.raises(ValueError, match="3 of the pictures that 'unlabelled' names are in 'test'"):
        crops_of(file)


def test_a_link_to_a_picture_of_val_is_one_too(tmp_path):
    file = with_unlabelled(tmp_path)
    (tmp_path / "more/link.png").symlink_to(tmp_path / "images/val/0.png")
    with pytest.raises(ValueError, match="1 of the pictures that 'unlabelled' names are in 'val'"):
        crops_of(file)


def test_the_american_spelling_is_answered(tmp_path):
    file = entry(bright_set(tmp_path), "images/train", "unlabeled")
    with pytest.raises(ValueError, match="has 'unlabeled:'; the pictures without labels are named by 'unlabelled:'"):
        crops_of(file)


def test_unlabelled_pictures_that_are_training_pictures_count_once_and_that_is_said(tmp_path, log):
    file = entry(with_unlabelled(tmp_path), ["more", "images/train"])
    assert len(crops_of(file).files) == 11
    assert any("and 3 unlabelled ones (8 more that 'unlabelled' names are training pictures" in line for line in log)


@pytest.mark.parametrize("options", [{}, {"lowlight": "severe", "denoise": "bright"}])
def test_a_training_that_does_not_read_the_unlabelled_pictures_says_so(options, data, log):
    dataset(data, "train", **options)
    assert len([line for line in log if "denoise=n2v alone" in line]) == 1


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (None, FileNotFoundError, "there is no file .*model.pt; give the model as denoise:FILE"),
        (
            lambda file: file.write_bytes(b"no checkpoint"),
            ValueError,
            "model.pt is not a readable Ultralytics checkpoint",
        ),
        (lambda file: torch.save({"weights": 1}, file), ValueError, "is not a readable Ultralytics checkpoint"),
        ("yolov8n", ValueError, "model.pt was trained without denoise=, and has no decoder; wanted best.pt or"),
        ("features", ValueError, "model.pt was trained with denoise=features, which has no decoder"),
        ("yolov8n-cls", ValueError, "is a model for 'classify'; wanted one for detect or segment"),
    ],
)
def test_a_file_that_keeps_no_decoder_is_answered(make, kind, message, source, tmp_path):
    file = tmp_path / "model.pt"
    if make == "features":
        content = torch.load(source("yolov8n"), weights_only=False)
        content["model"].denoise = {"target": "features", "name": "twin_loss", "from": ["P3"]}
        torch.save(content, file)
    elif isinstance(make, str):
        shutil.copy(source(make), file)
    elif make:
        make(file)
    with pytest.raises(kind, match=message):
        enhancer(f"denoise:{file}")


@pytest.mark.parametrize("channels", [1, 3])
def test_a_u_net_denoises_too_unless_it_has_not_learnt_to(channels, tmp_path):
    network = unet.build("nucleus", channels=channels, first=4, depth=1)
    network.recipe |= {"alpha": 0.5, "noise": 20}
    unet.save(network, tmp_path / "unet.pt")
    picture = np.random.default_rng(0).integers(0, 256, (21, 34, 3), np.uint8)
    made = enhancer(f"denoise:{tmp_path / 'unet.pt'}")
    wanted = detector.load(tmp_path / "unet.pt").denoise(picture[..., ::-1].copy())
    wanted = wanted[..., None].repeat(3, 2) if channels == 1 else wanted[..., ::-1]
    assert np.array_equal(made(picture), np.rint(wanted.clip(0, 255)).astype(np.uint8))
    assert made.spec == "denoise:unet.pt" and made.sha256
    network.recipe |= {"alpha": 0}
    unet.save(network, tmp_path / "unet.pt")
    with pytest.raises(ValueError, match=r"unet.pt was trained with alpha: 0, and has not learnt to denoise"):
        enhancer(f"denoise:{tmp_path / 'unet.pt'}")


def test_the_name_of_another_file_is_no_checkpoint(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"model.onnx is no checkpoint, whose name would end in .pt; wanted best.pt or last"
    ):
        enhancer(f"denoise:{tmp_path / 'model.onnx'}")


def test_a_denoiser_of_another_kind_is_left_alone(source, tmp_path):
    content = torch.load(source("yolov8n"), weights_only=False)
    content["model"].denoiser = nn.ModuleDict({"own": nn.Conv2d(3, 3, 1)})
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="was trained without denoise="):
        enhancer(f"denoise:{tmp_path / 'model.pt'}")
