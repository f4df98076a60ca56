"""denoise=bright, clean and n2n: the pictures, the decoder beside the model, and that prediction never sees it."""

import random
import shutil
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import ultralytics
from conftest import bright_set, run_without_package, tensors
from test_dark_training import dataset, plain
from test_train import train
from torch import nn
from ultralytics import YOLO
from ultralytics.cfg import get_cfg

from yolo_wnlb.imaging.camera import settings
from yolo_wnlb.imaging.capture import capture, clean
from yolo_wnlb.yolo import decoder, denoise, restore, terms
from yolo_wnlb.yolo.weights import layers_of

TARGETS = ("bright", "clean", "n2n")
SEGMENTS = pytest.mark.skipif(
    ultralytics.__version__ == "8.4.0", reason="its segmentation loss takes a batch of two pictures for two outputs"
)


def network(name="yolov8n.yaml", target="bright", checkpoint=None, freeze=None, **options):
    """A model in training with a decoder, as the trainer has it after setup_model."""
    torch.manual_seed(0)
    model = YOLO(name, verbose=False).model.train()
    model.args = get_cfg(overrides={"task": "segment" if "seg" in name else "detect"})
    denoise.prepare(model, SimpleNamespace(denoise={"target": target, **options}, freeze=freeze), checkpoint)
    return model


def pairs(size=64, number=2, grey=False, target="bright"):
    """A batch of dark pictures and their twins, each with its mark (B, 2C + 2, H, W), with one box each."""
    loaded = []
    for i in range(number):
        picture = cv2.GaussianBlur(np.random.default_rng(i).integers(0, 256, (size, size, 3), np.uint8), (0, 0), 6)
        picture = cv2.normalize(picture, None, 0, 255, cv2.NORM_MINMAX)[..., : 1 if grey else 3]
        shot = settings("severe").draw(random.Random(i))
        mark = np.full((size, size, 1), denoise.MARK, np.uint8)
        loaded.append(np.concatenate([capture(picture, shot), mark, decoder.PICTURES[target](picture, shot), mark], -1))
    images = torch.from_numpy(np.stack(loaded)).permute(0, 3, 1, 2).float() / 255
    boxes = torch.tensor([[0.5, 0.5, 0.4, 0.4]]).repeat(number, 1)
    return {
        "img": images,
        "batch_idx": torch.arange(number).float(),
        "cls": torch.zeros(number, 1),
        "bboxes": boxes,
        "masks": torch.ones(number, size // 4, size // 4),
        "sem_masks": torch.zeros(number, size // 4, size // 4, dtype=torch.long),
    }


def error_of(total, items):
    """The error of the decoder; of releases whose loss items have no names, what it adds to the loss."""
    return items["dn_loss"] if isinstance(items, dict) else total[-1]


# ---- the pictures --------------------------------------------------------------------------------


def halves(image):
    """What TwinLoader packs, without the marks: dark and twin, (H, W, C) each."""
    return tuple(half[..., :-1] for half in np.split(image, 2, -1))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("target", TARGETS)
def test_the_pair_is_the_dark_picture_and_the_one_the_target_names(target, channels, bright, tmp_path):
    file = bright if channels == 3 else bright_set(tmp_path, channels=1)
    built = dataset(file, "train", lowlight="severe", denoise=target)
    for i in range(3):
        random.seed(i)
        dark, twin = halves(built.load_image(i)[0])
        random.seed(i)
        shot = settings("severe").draw(random)
        picture = cv2.imread(built.im_files[i], cv2.IMREAD_COLOR if channels == 3 else cv2.IMREAD_GRAYSCALE)
        picture = picture.reshape(dark.shape)
        assert np.array_equal(dark, capture(picture, shot))
        if target == "bright":
            assert np.array_equal(twin, picture)
        elif target == "clean":
            assert np.array_equal(twin, clean(picture, shot))
        else:
            assert np.array_equal(twin, capture(picture, replace(shot, noise_seed=shot.noise_seed ^ 1)))
            assert not np.array_equal(twin, dark)


@pytest.mark.parametrize("extra", [{}, {"shot_model": "poisson"}, {"bayer": "none"}])
def test_other_noise_is_independent_of_the_first_and_of_the_same_strength(extra):
    grey = np.full((96, 96, 3), 160, np.uint8)
    for i in range(4):
        shot = settings("moderate", **extra).draw(random.Random(i))
        still = clean(grey, shot).astype(float)
        first, second = capture(grey, shot) - still, decoder.other_noise(grey, shot) - still
        assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.06
        assert 0.9 < first.std() / second.std() < 1.1
        assert decoder.other_noise(grey, replace(shot, noise_seed=2**53 - 1)).shape == grey.shape


@pytest.mark.parametrize("target", ["clean", "n2n"])
def test_both_pictures_go_through_the_same_geometry_and_colour_jitter(target, bright):
    """Without noise the two halves of every transformed picture are equal."""
    options = {"mosaic": 0.5, "degrees": 20, "mixup": 0.5, "hsv_v": 0.9, "flipud": 0.5}
    built = dataset(bright, "train", lowlight="severe", denoise=target, **options)
    still = settings("severe", sigma_s=0, sigma_c=0)
    built.load_image.darkness = built.load_image.darkness._replace(camera=still)
    for i in range(8):
        image = built[i]["img"]
        assert image.shape == (8, 64, 64)
        assert torch.equal(image[:3], image[4:7])


def test_the_target_takes_no_draw_from_the_random_numbers_of_the_training(bright):
    states = []
    for target in (*TARGETS, "features"):
        built = dataset(bright, "train", lowlight="severe", denoise=target)
        random.seed(0)
        dark = halves(built.load_image(0)[0])[0]
        states.append((random.getstate(), dark.tobytes()))
    assert all(state == states[0] for state in states)


def test_validation_pictures_are_no_pairs(bright):
    assert dataset(bright, "val", lowlight="severe", denoise="n2n").load_image(0)[0].shape == (64, 64, 3)
    assert plain(bright, "val", 0).shape == (64, 64, 3)


# ---- the decoder ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "places", "strides"),
    [
        ("yolov8n.yaml", "P3,P4,P5", {8: 64, 16: 128, 32: 256}),
        ("yolov8n.yaml", "P5", {32: 256}),
        ("yolov8n.yaml", "P1,P3", {2: 16, 8: 64}),
        ("yolov8n.yaml", "P5,neck", {8: 64, 16: 128, 32: 512}),
        pytest.param("yolov8n-seg-wnlb.yaml", "P3,P4,P5", {8: 64, 16: 128, 32: 256}, marks=SEGMENTS),
        ("yolo11n.yaml", "P3,P4,P5", {8: 128, 16: 128, 32: 256}),
        ("yolo26n-seg.yaml", "P4,P3", {8: 128, 16: 128}),
    ],
)
def test_it_reads_the_maps_of_the_places_and_gives_a_picture_of_full_size(name, places, strides):
    model = network(name, **{"from": places, "alpha": 1})
    assert {key: part[0].in_channels for key, part in model.denoiser.items() if key.startswith("stride")} == {
        f"stride{s}": c + (32 if s != max(strides) else 0) for s, c in strides.items()
    }
    seen = []
    model.denoiser["last"].register_forward_hook(lambda module, args, output: seen.append(output.shape))
    total, items = model(pairs(number=2, size=96))
    finest = min(strides)
    assert seen == [(2, 3 * finest**2, 96 // finest, 96 // finest)]
    assert total.sum().isfinite() and error_of(total, items) > 0


def test_a_block_behind_a_stage_belongs_to_it():
    model = network("yolov8n-seg-wnlb.yaml")
    names = [type(layers_of(model)[number]).__name__ for number in terms.TERMS[model].layers]
    assert names == ["WNLB"] * 3


def test_every_pixel_of_the_picture_has_a_channel_of_its_own_in_the_last_convolution():
    made = decoder.build({8: 4}, colours=3)
    nn.init.zeros_(made["last"].weight)
    cell = torch.arange(3 * 64).float()
    made["last"].bias.data = cell
    picture = decoder.decode(made, {8: [torch.rand(1, 4, 2, 3)]})
    assert torch.equal(picture, cell.view(1, 3, 8, 8).repeat(1, 1, 2, 3))


@pytest.mark.parametrize("scale", [1, 0.1, 0.02])
def test_the_error_of_the_mean_colour_is_1_and_that_of_the_picture_is_0_however_dark_it_is(scale, monkeypatch):
    picture, made = scale * torch.rand(2, 3, 16, 16), decoder.build({8: 4}, colours=3)
    inside = torch.ones(2, 1, 16, 16)
    flat = picture - picture.mean((0, 2, 3), keepdim=True)
    for decoded, wanted in (
        (torch.zeros_like(flat), 1),
        (flat / flat.square().mean((0, 2, 3), keepdim=True).sqrt(), 0),
    ):
        monkeypatch.setattr(decoder, "decode", lambda *_, decoded=decoded: decoded)
        assert decoder.error(made, {}, picture, inside).item() == pytest.approx(wanted, abs=0.4)
    monkeypatch.setattr(decoder, "ONE_CODE", 0)
    assert decoder.error(made, {}, picture, inside).item() == pytest.approx(0, abs=1e-5)


def test_padding_does_not_count(monkeypatch):
    """Neither in the error nor in the mean and variance, whatever is painted there and whatever is decoded."""
    picture, made = 0.1 * torch.rand(1, 3, 40, 40), decoder.build({8: 4}, 3)
    inside = nn.functional.pad(torch.ones(1, 1, 40, 40), (24,) * 4)
    errors = []
    for grey, wrong in ((0.4, 0), (0.4, 9), (0, 9)):
        decoded = wrong * (1 - inside).expand(1, 3, 88, 88)
        monkeypatch.setattr(decoder, "decode", lambda *_, decoded=decoded: decoded)
        errors.append(decoder.error(made, {}, nn.functional.pad(picture, (24,) * 4, value=grey), inside))
    assert errors[0] == errors[1] == errors[2]
    torch.testing.assert_close(made.mean, picture.mean((0, 2, 3), keepdim=True))


@pytest.mark.parametrize("value", [0, 0.5, 1])
@pytest.mark.parametrize("share", [0, 1], ids=["all is padding", "all is picture"])
def test_a_picture_of_one_colour_gives_a_finite_error_and_gradient(value, share):
    made, maps = decoder.build({8: 4}, colours=3), torch.rand(1, 4, 2, 2, requires_grad=True)
    picture = torch.full((1, 3, 16, 16), float(value))
    error = decoder.error(made, {8: [maps]}, picture, torch.full((1, 1, 16, 16), float(share)))
    error.backward()
    assert error.isfinite() and error < 5 and maps.grad.isfinite().all()


def test_mixed_precision_computes_the_error_in_float32():
    made = decoder.build({8: 4, 16: 8}, colours=3)
    maps = {8: [torch.rand(2, 4, 2, 2)], 16: [torch.rand(2, 8, 1, 1)]}
    with torch.autocast("cpu", torch.bfloat16):
        error = decoder.error(made, maps, torch.rand(2, 3, 16, 16), torch.ones(2, 1, 16, 16))
    error.backward()
    assert error.dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in made.parameters())


def test_it_is_attached_without_a_trace_in_the_model_or_in_the_random_numbers():
    torch.manual_seed(0)
    model = YOLO("yolov8n.yaml", verbose=False).model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    denoise.prepare(model, SimpleNamespace(denoise="bright", freeze=None))
    assert torch.equal(torch.get_rng_state(), state)
    after = model.state_dict()
    assert [name for name in after if name not in before] == [f"denoiser.{n}" for n in model.denoiser.state_dict()]
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert all(module.training for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    kinds = {type(module).__module__.split(".")[0] for module in model.denoiser.modules()}
    assert kinds == {"torch"}, "a checkpoint opens without this package, and Ultralytics fuses none of it"


# ---- the loss ------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [1, 0.5])
def test_gradients_reach_the_backbone_and_at_alpha_1_nothing_that_only_the_stock_loss_reaches(alpha):
    model = network(alpha=alpha)
    model(pairs())[0].sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.denoiser.parameters())
    deepest = max(terms.TERMS[model].layers)
    for number, layer in enumerate(layers_of(model)):
        for name, parameter in layer.named_parameters():
            if number <= deepest:
                assert parameter.grad is not None and parameter.grad.any(), (number, name)
            elif alpha == 1:
                assert parameter.grad is None, (number, name)


def test_the_loss_is_the_stock_loss_and_the_term_in_shares_of_alpha():
    batch = pairs()
    stock = network(alpha=1)
    stock.denoise = None
    alone, _ = stock({**batch, "img": batch["img"][:, :3]})
    both, items = network(alpha=0.25)(dict(batch))
    torch.testing.assert_close(both[:-1], 0.75 * alone)
    if isinstance(items, dict):
        torch.testing.assert_close(both[-1], 0.25 * 2 * items["dn_loss"])


@pytest.mark.parametrize("target", TARGETS)
def test_the_error_falls_in_some_steps_on_one_batch(target):
    model = network(target=target, alpha=1, gain=1)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    batch, errors = pairs(target=target), []
    for _ in range(25):
        optimizer.zero_grad()
        total, items = model(dict(batch))
        total.sum().backward()
        optimizer.step()
        errors.append(error_of(total, items).item())
    assert errors[-1] < 0.5 * errors[0]


def test_the_picture_that_it_decodes_is_that_of_the_target():
    """In codes: the mean and the variance that were learnt beside it are those of bright pictures."""
    model, batch = network(alpha=1, gain=1), pairs(number=4)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    for _ in range(60):
        optimizer.zero_grad()
        model(dict(batch))[0].sum().backward()
        optimizer.step()
    restorer = restore.Restorer(model, model.denoise["from"])
    dark, bright = halves((255 * batch["img"]).permute(0, 2, 3, 1).round().byte().numpy())
    restored = np.stack([restorer(picture) for picture in dark])
    errors = [np.abs(pictures - bright.astype(float)).mean() for pictures in (restored, dark)]
    assert abs(restored.mean() - bright.mean()) < 25 and errors[0] < 0.6 * errors[1]


def test_grey_models_have_grey_pictures():
    model = YOLO("yolov8n.yaml", verbose=False).model
    model = type(model)({**model.yaml, "channels": 1}, ch=1, verbose=False).train()
    model.args = get_cfg()
    denoise.prepare(model, SimpleNamespace(denoise={"target": "clean"}, freeze=None))
    assert model.denoiser["last"].out_channels == 64
    assert error_of(*model(pairs(grey=True))).isfinite()


# ---- training, resume, and the checkpoint --------------------------------------------------------


@pytest.fixture(scope="module")
def run(bright, tmp_path_factory):
    """A run of two epochs that stops after the first and is resumed; what it held when it stopped and went on."""
    folder = tmp_path_factory.mktemp("run")
    held = {}

    def moments(trainer):
        state = trainer.optimizer.state
        return {name: state[p]["exp_avg"].half() for name, p in trainer.model.named_parameters() if p in state}

    def stop(trainer):
        held["stopped"] = {name: t.half().clone() for name, t in trainer.ema.ema.state_dict().items()}
        held["moments"] = moments(trainer)
        raise KeyboardInterrupt

    options = {"lowlight": "severe", "denoise": {"target": "bright", "from": "P3,P4"}, "optimizer": "AdamW"}
    with pytest.raises(KeyboardInterrupt):
        train(bright, folder, "yolov8n.yaml", {"on_model_save": stop}, epochs=2, pretrained=False, **options)

    def resumed(trainer):
        held["model"] = {name: t.clone() for name, t in trainer.model.state_dict().items()}
        held["ema"] = {name: t.clone() for name, t in trainer.ema.ema.state_dict().items()}
        held["restored"] = moments(trainer)

    last = folder / "run/weights/last.pt"
    shutil.copy(last, folder / "stopped.pt")
    yolo = YOLO(last)
    yolo.add_callback("on_train_start", resumed)
    yolo.train(resume=True)
    held |= {"trainer": yolo.trainer, "folder": folder, "best": folder / "run/weights/best.pt"}
    return held


def test_a_resumed_run_goes_on_with_the_decoder_and_its_moments(run):
    names = [name for name in run["stopped"] if name.startswith("denoiser.")]
    assert names
    for name, tensor in run["stopped"].items():
        if tensor.is_floating_point():
            assert torch.equal(run["ema"][name], tensor.float()), name
            assert torch.equal(run["model"][name], tensor.float()), name
    assert run["restored"].keys() == run["moments"].keys() >= {f"denoiser.last.{name}" for name in ("weight", "bias")}
    for name, average in run["moments"].items():
        assert torch.equal(run["restored"][name], average), name


def test_the_error_is_a_column_of_the_results(run):
    header, *rows = (run["folder"] / "run/results.csv").read_text().splitlines()
    names = [name.strip() for name in header.split(",")]
    assert len(rows) == 2
    if isinstance(run["trainer"].loss_items, dict):  # else they have no names, and no columns
        assert all(float(row.split(",")[names.index("train/dn_loss")]) > 0 for row in rows)


def test_the_decoder_learns_with_the_model_and_its_average(run):
    trainer = run["trainer"]
    trained, average = trainer.model.denoiser.state_dict(), trainer.ema.ema.denoiser.state_dict()
    for name, start in run["model"].items():
        if name.startswith("denoiser.") and start.is_floating_point():
            name = name.removeprefix("denoiser.")
            assert not torch.equal(trained[name], start) and not torch.equal(average[name], start)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda model: delattr(model, "denoiser"), "holds no decoder"),
        (lambda model: model.denoiser.pop("last"), "holds no decoder of this form"),
    ],
)
def test_a_checkpoint_without_its_decoder_is_not_resumed(change, problem, run):
    checkpoint = torch.load(run["folder"] / "stopped.pt", weights_only=False)
    change(checkpoint["ema"])
    with pytest.raises(ValueError, match=problem):
        network(checkpoint=checkpoint, **{"from": "P3,P4"})


def test_fuse_leaves_the_parameters_and_the_outputs_of_the_stock_model(run):
    with_decoder, without = YOLO(run["best"]).model, YOLO(run["best"]).model
    del without.denoiser
    x = torch.rand(1, 3, 64, 64)
    fused, stock = with_decoder.fuse(verbose=False), without.fuse(verbose=False)
    assert not hasattr(fused, "denoiser") and fused.is_fused()
    assert sum(p.numel() for p in fused.parameters()) == sum(p.numel() for p in stock.parameters())
    with torch.no_grad():
        for a, b in zip(tensors(fused(x)), tensors(stock(x)), strict=True):
            assert torch.equal(a, b)


def test_fuse_leaves_a_denoiser_that_is_not_ours():
    model = YOLO("yolov8n.yaml", verbose=False).model
    model.denoiser = nn.ModuleDict({"own": nn.Conv2d(3, 3, 1)})
    assert hasattr(model.fuse(verbose=False), "denoiser")


def test_an_export_is_that_of_the_model_without_a_decoder(run, tmp_path):
    import onnx

    files = []
    for name in ("with", "without"):
        shutil.copy(run["best"], tmp_path / f"{name}.pt")
        if name == "without":
            checkpoint = torch.load(tmp_path / "without.pt", weights_only=False)
            del checkpoint["model"].denoiser
            torch.save(checkpoint, tmp_path / "without.pt")
        files.append(YOLO(tmp_path / f"{name}.pt").export(format="onnx", imgsz=64, simplify=False, verbose=False))
    first, second = (onnx.load(file).graph for file in files)
    assert first.SerializeToString() == second.SerializeToString()
    assert [output.name for output in first.output] == ["output0"]


def test_the_checkpoint_opens_and_predicts_without_this_package(run, tmp_path):
    code = f"""
import torch
from ultralytics import YOLO
model = YOLO({str(run["best"])!r})
assert hasattr(model.model, "denoiser")
fused = model.model.eval().fuse(verbose=False)
assert fused.is_fused()
fused(torch.zeros(1, 3, 64, 64))
model.predict(torch.zeros(1, 3, 64, 64), imgsz=64, verbose=False)
"""
    done = run_without_package(code, tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_later_training_without_denoise_starts_from_it_as_from_any_other(run, bright, tmp_path, log):
    trainer = train(bright, tmp_path, run["best"], val=False)
    assert not hasattr(trainer.model, "denoiser") and not hasattr(trainer.model, "denoise")
    counts = [line.split()[2] for line in log if "Transferred" in line]
    assert counts and all(count.split("/")[0] == count.split("/")[1] for count in counts)


def test_the_report_of_a_transfer_leaves_the_decoder_out_of_its_count_and_says_so(run, log):
    model = YOLO("yolov8n-wnlb.yaml", verbose=False)
    source = YOLO(run["best"]).model
    stock = len([name for name in source.state_dict() if not name.startswith("denoiser.")])
    model.model.load(source)
    line = next(line for line in log if "tensors of the pretrained model kept" in line)
    assert f"/{stock} tensors" in line
    assert "the decoder of its training with denoise= (denoiser.*) stays behind" in line
    assert not [line for line in log if line.startswith("WARNING")]


# ---- mistakes ------------------------------------------------------------------------------------

SILENT = {"preset": "severe", "sigma_s": 0, "sigma_c": 0}


@pytest.mark.parametrize(
    ("request_", "more", "message"),
    [
        ("brigth", {}, "did you mean 'bright'"),
        ("bright", {"lowlight": None}, "denoise=bright .*wants lowlight= too, such as lowlight=severe"),
        ("n2n", {"lowlight": SILENT}, "denoise=n2n learns to remove noise, .* makes none; .*choose denoise=bright"),
        ("clean", {"lowlight": SILENT}, "denoise=clean learns to remove noise"),
        ({"target": "bright", "teacher": "x.pt"}, {}, "bright learns from a picture and has no teacher"),
        ({"target": "clean", "alpha": 0}, {}, "alpha is 0; wanted a number above 0, at most 1"),
        ({"target": "clean", "alpha": 1.5}, {}, "alpha is 1.5"),
        ({"target": "clean", "gain": True}, {}, "gain is True"),
        ({"target": "clean", "gain": float("nan")}, {}, "gain is nan"),
        ({"target": "clean", "form": "P3"}, {}, "no option 'form'.*did you mean 'from'"),
        ({"target": "clean", "from": 3}, {}, "from is 3"),
        ({"target": "clean", "from": []}, {}, "from is"),
        ({"target": ["bright"]}, {}, "no target"),
        ("bright", {"compile": True}, "denoise= and compile=True do not go together"),
        ("bright", {"lowlight": "augmentations"}, "augmentations="),
        ("bright", {"mode": "val"}, "denoise= is for yolo train"),
    ],
)
def test_mistakes_are_answered_before_anything_is_built(request_, more, message):
    with pytest.raises(ValueError, match=message):
        denoise.check_request({"mode": "train", "task": "detect", "lowlight": "severe", "denoise": request_, **more})


def test_bright_is_learnt_without_noise_too():
    denoise.check_request({"mode": "train", "lowlight": SILENT, "denoise": "bright"})


def test_a_place_that_the_model_does_not_have_is_named_with_those_it_has():
    with pytest.raises(ValueError, match="from names 'P9'; this model has P1, P2, P3, P4, P5 and neck"):
        network(**{"from": "P9"})


@pytest.mark.parametrize(
    ("freeze", "warns"), [(10, True), ([*range(10)], True), (9, True), (8, False), ([0, 1], False), (None, False)]
)
def test_a_backbone_that_is_frozen_as_a_whole_is_said_to_learn_nothing(freeze, warns, log):
    network(freeze=freeze)
    assert any("the decoder learns and the model does not" in line for line in log) == warns
