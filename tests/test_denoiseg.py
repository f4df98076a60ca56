"""DenoiSeg: one U-Net that denoises and segments, its loss, its training and what it predicts."""

import csv
import inspect
import os
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from ultralytics.utils import LOGGER

from yolo_wnlb.denoiseg import detector, unet
from yolo_wnlb.denoiseg import fit as training
from yolo_wnlb.denoiseg.fit import Crops, Patch, fit, order_of, plateau, turned
from yolo_wnlb.denoiseg.pictures import as_codes, noise_level, psnr, with_noise
from yolo_wnlb.denoiseg.unet import BORDER, DenoiSeg, UNet, border_target, build, denoiseg_loss, run

FORM = {"first": 4, "depth": 2}
QUICK = {"epochs": 2, "steps": 2, "batch": 4, "patch": 32, "per_image": 2, "crop": 16, "workers": 0, "device": "cpu"}
QUICK |= {"progress": False, "lr": 0.01}


def fresh(seed=0, **options):
    torch.manual_seed(seed)
    return build("nucleus", **{**FORM, **options})


def discs(number, size=(48, 56), seed=0):
    """Draw a few bright discs that touch nothing: uint8 (H, W), and its label image."""
    rng = np.random.default_rng([seed, number])
    labels = np.zeros(size, np.int32)
    for name in range(1, 5):
        center = tuple(int(v) for v in rng.integers(8, np.array(size[::-1]) - 8))
        cv2.circle(labels, center, int(rng.integers(3, 8)), name, -1)
    picture = np.where(labels > 0, 90 + 10 * labels, 20).astype(np.uint8)
    return cv2.GaussianBlur(picture, (0, 0), 0.7), labels


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Six pictures; the first three have labels."""
    folder = tmp_path_factory.mktemp("discs")
    found = []
    for number in range(6):
        picture, labels = discs(number)
        cv2.imwrite(str(folder / f"{number}.png"), picture)
        found.append((folder / f"{number}.png", labels if number < 3 else None))
    return found


def train(out, pictures, model=None, **options):
    """Train on a few discs; returns the state dict of last.pt."""
    fit(model or fresh(), pictures, out, **{**QUICK, **options})
    return torch.load(out / "last.pt", weights_only=True)["state_dict"]


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# ---- the network ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("form", "parameters"), [((1, 3, 32, 4), 5_498_084), ((1, 3, 8, 3), 85_948)])
def test_the_paper_s_and_the_small_form_have_as_many_parameters_as_they_should(form, parameters):
    with torch.device("meta"):
        assert sum(p.numel() for p in UNet(*form).parameters()) == parameters
        assert [UNet(*form).last.kernel_size, UNet(*form).last.out_channels] == [(1, 1), 4]


@pytest.mark.parametrize(("channels", "depth", "size"), [(1, 1, (2, 4)), (3, 2, (8, 4)), (1, 3, (16, 40))])
def test_outputs_have_the_size_of_the_picture(channels, depth, size):
    net = UNet(channels, 3, first=2, depth=depth)
    assert net(torch.rand(2, channels, *size)).shape == (2, channels + 3, *size)


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (17, 30)])
def test_pictures_of_any_size_give_codes_and_probabilities(size):
    model = fresh().eval()
    denoised, probabilities = model(torch.rand(2, 1, *size) * 255)
    assert denoised.shape == (2, 1, *size) and probabilities.shape == (2, 3, *size)
    assert torch.allclose(probabilities.sum(1), torch.ones(2, *size), atol=1e-5)


def test_codes_are_standardised_inside_and_come_out_as_codes():
    model = fresh().eval()
    model.mean.fill_(100.0), model.std.fill_(20.0)
    x = torch.rand(1, 1, 16, 16) * 255
    raw = model.net((x - 100) / 20)
    assert torch.allclose(model(x)[0], raw[:, :1] * 20 + 100) and torch.allclose(model(x)[1], raw[:, 1:].softmax(1))


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_picture_in_tiles_is_the_same_as_whole(depth, monkeypatch):
    model = fresh(depth=depth, channels=3).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.fill_(0.1)  # so that far pixels count
    model.mean.fill_(128.0)
    model.std.fill_(250.0)
    codes = np.random.default_rng(0).integers(0, 256, (3, 83, 190)).astype(np.uint8)
    model.net.last.weight.data /= abs(run(model, codes)[0] / 250).max()  # logits of about 1
    whole = run(model, codes)
    monkeypatch.setattr(unet, "WHOLE_PIXELS", 0)
    monkeypatch.setattr(unet, "TILE", 32)
    for a, b in zip(whole, run(model, codes)):
        assert a.shape == b.shape and np.allclose(a, b, atol=1e-4 * abs(a).max())
    monkeypatch.setattr(unet, "REACH", 1)
    assert not np.allclose(whole[0], run(model, codes)[0], atol=1e-4 * abs(whole[0]).max()), "a margin is needed"


# ---- what is learnt ------------------------------------------------------------------------------

BORDERS = {
    "two objects that touch": (
        """
        000000
        011220
        011220
        011220
        000000
        000000
        """,
        """
        022220
        212212
        212212
        212212
        022220
        000000
        """,
    ),
    "a diagonal neighbour is one, if a pixel beside is of another kind too": (
        """
        110000
        110000
        002200
        002200
        000000
        000000
        """,
        """
        112000
        122200
        222120
        021120
        002200
        000000
        """,
    ),
    "a diagonal neighbour alone is none": (
        """
        111111
        111111
        112222
        112222
        112222
        112222
        """,
        """
        111111
        112222
        122222
        122111
        122111
        122111
        """,
    ),
    "no object": ("000\n000\n000", "000\n000\n000"),
    "no background": ("777\n777\n777", "111\n111\n111"),
}


@pytest.mark.parametrize("case", BORDERS)
def test_the_border_is_that_of_find_boundaries_outer(case):
    labels, wanted = (np.array([[*map(int, line)] for line in text.split()]) for text in BORDERS[case])
    assert border_target(labels.astype(np.int32)).tolist() == wanted.tolist()


def test_the_border_of_random_labels_is_that_of_scikit_image():
    """`find_boundaries(mode="outer")` of scikit-image, written out with the filters of SciPy that it consists of."""
    from scipy.ndimage import generate_binary_structure, grey_dilation, grey_erosion

    four, eight = (generate_binary_structure(2, connectivity) for connectivity in (1, 2))
    for seed in range(20):
        labels = np.random.default_rng(seed).integers(0, 4, (23, 31)).astype(np.int32)
        inverted = np.where(labels == 0, np.iinfo(np.int32).max, labels)
        touching = (grey_dilation(labels, footprint=eight) != grey_erosion(inverted, footprint=eight)) & (labels > 0)
        border = grey_dilation(labels, footprint=four) != grey_erosion(labels, footprint=four)
        border &= (labels == 0) | touching
        assert np.array_equal(border_target(labels) == BORDER, border)


def test_labels_of_any_integer_type_and_size_are_taken():
    labels = np.array([[0, 70_000, 70_000, 0]])
    assert border_target(labels).tolist() == [[2, 1, 1, 2]]
    assert border_target(np.array([[0, 200, 0]], np.uint8)).tolist() == [[2, 1, 2]]


def batch(number=4, channels=1, size=8, labelled=(True, False, False, False), seed=0):
    """Random outputs and targets of a batch; two pixels a picture are hidden."""
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(number, channels + 3, size, size, generator=generator, requires_grad=True)
    noisy = torch.randn(number, channels, size, size, generator=generator).requires_grad_()
    hidden = torch.zeros(number, size, size, dtype=torch.bool)
    hidden[:, 2, 3] = hidden[:, 5, 0] = True
    target = torch.randint(0, 3, (number, size, size), generator=generator)
    return outputs, noisy, hidden, target, torch.tensor(labelled)


def test_denoising_is_the_squared_error_at_the_blind_spots_alone():
    outputs, noisy, hidden, target, labelled = batch(channels=3)
    losses = denoiseg_loss(outputs, noisy, hidden, target, labelled, 1.0)
    chosen = [(n, y, x) for n in range(4) for y, x in ((2, 3), (5, 0))]
    errors = [((outputs[n, :3, y, x] - noisy[n, :, y, x]) ** 2).sum() for n, y, x in chosen]
    assert torch.allclose(losses.denoising, torch.stack(errors).mean()) and losses.loss == losses.denoising
    losses.loss.backward()
    assert (noisy.grad[:, :, ~hidden[0]] == 0).all() and (noisy.grad[:, :, hidden[0]] != 0).all()


def test_segmentation_weighs_classes_and_its_mean_is_over_all_pixels_of_the_batch():
    outputs, noisy, hidden, target, labelled = batch()
    together = denoiseg_loss(outputs, noisy, hidden, target, labelled, 0.0)
    alone = denoiseg_loss(outputs[:1], noisy[:1], hidden[:1], target[:1], labelled[:1], 0.0)
    assert torch.allclose(together.loss, alone.loss / 4), "one labelled picture of four"
    weights = torch.tensor([1.0, 1.0, 5.0])[target[0]]
    logs = outputs[0, 1:].log_softmax(0).gather(0, target[:1])[0]
    assert torch.allclose(alone.segmentation, (-logs * weights).mean())


@pytest.mark.parametrize(("alpha", "still"), [(1.0, slice(1, None)), (0.0, slice(0, 1))])
def test_alpha_1_leaves_the_classes_without_gradient_and_alpha_0_the_denoised_picture(alpha, still):
    net = UNet(1, 3, 4, 2)
    outputs = net(torch.rand(4, 1, 8, 8))
    denoiseg_loss(outputs, *[value.detach() for value in batch()[1:]], alpha).loss.backward()
    gradient = net.last.weight.grad.flatten(1).abs().sum(1) + net.last.bias.grad.abs()
    moving = torch.ones(4, dtype=torch.bool)
    moving[still] = False
    assert (gradient[still] == 0).all() and (gradient[moving] > 0).all()


def test_alpha_mixes_the_two():
    values = batch()
    whole, parts = denoiseg_loss(*values, 0.3), denoiseg_loss(*values, 0.0)
    assert torch.allclose(whole.loss, 0.3 * parts.denoising + 0.7 * parts.segmentation)


def test_a_labelled_picture_without_an_object_teaches_background_and_one_without_labels_nothing():
    """The authors' code takes the first for the second."""
    outputs, noisy, hidden, _, _ = batch()
    nothing = torch.zeros(4, 8, 8, dtype=torch.int64)
    empty = denoiseg_loss(outputs, noisy, hidden, nothing, torch.tensor([True] * 4), 0.0)
    unlabelled = denoiseg_loss(outputs, noisy, hidden, nothing, torch.tensor([False] * 4), 0.0)
    assert empty.loss > 0 and unlabelled.loss == 0


# ---- pictures and crops --------------------------------------------------------------------------


def test_noise_has_its_standard_deviation_is_not_clipped_and_always_the_same():
    for level in (0, 128, 255):
        clean = np.full((1, 500, 600), level, np.uint8)
        noisy = with_noise(clean, 20.0)
        assert noisy.dtype == np.float32 and abs((noisy - clean).std() - 20) < 0.1 and abs(noisy.mean() - level) < 0.1
        assert np.array_equal(noisy, with_noise(clean.copy(), 20.0))
    assert with_noise(clean, 0.0) is clean
    other = with_noise(clean[:, :, 1:], 20.0)
    assert not np.array_equal(other[:, :, :10] - 255, noisy[:, :, :10] - 255), "another picture, other noise"


def test_the_psnr_of_a_noise_of_20_codes_is_22_11_db():
    clean = np.full((1, 1000, 1000), 100, np.uint8)
    assert psnr(clean, with_noise(clean, 20.0)) == pytest.approx(22.11, abs=0.02)
    assert psnr(clean, clean) == float("inf") and psnr(clean, clean + 255.0) == pytest.approx(0)


def test_grey_networks_get_grey_pictures_and_colour_networks_colour():
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    colour = np.repeat(grey[..., None], 3, 2)
    assert np.array_equal(as_codes(colour, 1)[0], grey) and np.array_equal(as_codes(grey, 1)[0], grey)
    assert np.array_equal(as_codes(grey, 3), colour.transpose(2, 0, 1))
    colour[..., 2] = 255
    assert as_codes(colour, 3)[2].min() == 255


@pytest.mark.parametrize("given", ["n20", 20, 20.0, np.float32(20)])
def test_the_names_of_the_paper_stand_for_numbers(given):
    assert noise_level(given) == 20.0 and noise_level("n0") == 0 == noise_level(0)


def test_the_eight_turns_are_all_different_and_keep_every_pixel():
    array = np.arange(12).reshape(1, 3, 4)
    found = [turned(array, turn) for turn in range(8)]
    assert len({(a.shape, a.tobytes()) for a in found}) == 8
    assert all(np.array_equal(np.sort(a, None), array.ravel()) for a in found)


def test_crops_picture_target_and_spots_fit_together():
    codes = np.arange(40 * 40, dtype=np.float32).reshape(1, 40, 40)
    patches = [Patch(codes, (codes[0] % 3).astype(np.uint8), True)]
    crops = Crops(patches, range(8), 16, 0.015, 5, [0, 1])
    seen = set()
    for item, again in zip(crops, Crops(patches, range(8), 16, 0.015, 5, [0, 1])):
        assert all(np.array_equal(item[name], again[name]) for name in item)
        assert np.array_equal(item["noisy"][0] % 3, item["target"]) and item["target"].dtype == np.int64
        changed = item["noisy"][0] != item["blinded"][0]
        assert item["hidden"].sum() == 4 and not changed[~item["hidden"]].any()
        seen.add(item["noisy"].tobytes())
    assert len(seen) == 8
    assert not np.array_equal(crops[0]["noisy"], Crops(patches, range(8), 16, 0.015, 5, [0, 2])[0]["noisy"])


def test_a_mixed_batch_draws_crops_as_they_come_and_the_other_one_with_labels_among_four():
    labelled = [True] * 2 + [False] * 18
    rng = np.random.default_rng(0)
    mixed = np.array(order_of(labelled, 10, 16, True, rng))
    assert sorted(mixed) == list(range(160)), "every turned patch once"
    apart = np.array(order_of(labelled, 10, 16, False, rng)).reshape(10, 16)
    assert ((apart // 8 < 2).sum(1) == 4).all()
    counts = np.bincount(apart[apart // 8 < 2], minlength=16)
    assert set(counts) <= {2, 3}, "40 crops of 16 turned patches: each comes before any comes again"
    assert len(order_of([True] * 3, 2, 5, False, rng)) == 10 == len(order_of([False] * 3, 2, 5, False, rng))


def test_the_learning_rate_falls_on_a_plateau_and_not_below_its_end():
    assert plateau([], 4e-4, 0.75, 10) == 4e-4
    falling = [1 - 0.01 * epoch for epoch in range(50)]
    assert plateau(falling, 4e-4, 0.75, 10) == 4e-4
    assert plateau([1.0] * 10, 4e-4, 0.75, 10) == 4e-4, "9 epochs without a fall"
    assert plateau([1.0] * 11, 4e-4, 0.75, 10) == pytest.approx(3e-4)
    assert plateau([1.0] * 21, 4e-4, 0.75, 10) == pytest.approx(2.25e-4)
    slow = [1 - 0.9e-5 * (epoch % 2) for epoch in range(11)]
    assert plateau(slow, 4e-4, 0.75, 10) == pytest.approx(3e-4), "a fall of less than 1e-5 is none"
    assert plateau([1.0] * 1000, 4e-4, 0.75, 10) == pytest.approx(1.25e-5)


# ---- training ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "per_image", "steps"), [(6, 1, 6), (1, 1, 3), (6, 100, 40)])
def test_an_epoch_has_the_steps_of_the_authors_code(number, per_image, steps, pictures, tmp_path, monkeypatch):
    """So many pictures, 8 turns, batches of 8; 100 steps at least and 400 at most, here 3 and 40."""
    seen = []

    def count(model, batches, *rest):
        seen.append(len(batches.iterable))
        return dict.fromkeys(("loss", "denoising", "segmentation"), 0.0)

    monkeypatch.setattr(training, "train_epoch", count)
    monkeypatch.setattr(training, "LEAST_STEPS", 3)
    monkeypatch.setattr(training, "MOST_STEPS", 40)
    options = {"epochs": 1, "steps": None, "batch": 8, "per_image": per_image}
    fit(fresh(), pictures[:number], tmp_path, **{**QUICK, **options})
    assert seen == [steps]


def test_without_pictures_to_tune_on_the_rate_falls_in_steps_and_the_best_weights_are_the_last(pictures, tmp_path):
    last = train(tmp_path, pictures, epochs=4, steps=1)
    log = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert [float(row["lr"]) for row in log] == pytest.approx([0.01, 0.01, 0.01, 0.001]) and "val_loss" not in log[0]
    assert same(last, torch.load(tmp_path / "best.pt", weights_only=True)["state_dict"])


def test_with_pictures_to_tune_on_the_weights_of_the_lowest_loss_are_kept(pictures, tmp_path, monkeypatch):
    losses, weights = iter([3.0, 1.0, 2.0]), []

    def validate(model, *rest):
        weights.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"loss": next(losses), "denoising": 0.0, "segmentation": 0.0}

    monkeypatch.setattr(training, "validate", validate)
    assert fit(fresh(), pictures, tmp_path, tune=pictures[:1], **{**QUICK, "epochs": 3}) == tmp_path / "best.pt"
    for name, epoch in (("best.pt", 1), ("last.pt", 2)):
        assert same(weights[epoch], torch.load(tmp_path / name, weights_only=True)["state_dict"])


def test_the_validation_loss_is_that_of_the_patches_and_does_not_change_the_network(pictures, monkeypatch):
    model = fresh()
    settings = {"alpha": 0.3, "seed": 0, "share": 0.015, "radius": 5}
    patches, _ = training.read_patches(model, pictures, {**QUICK, **settings, "noise": 0.0})
    assert [patch.target.shape for patch in patches] == [(32, 32)] * 12
    patches[3] = Patch(patches[3].codes[:, :16], patches[3].target[:16], True)
    training.standardise(model, patches)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = training.validate(model, patches, settings, torch.device("cpu"))
    assert found == training.validate(model, patches, settings, torch.device("cpu"))
    assert same(before, model.state_dict()) and found["denoising"] > 0
    assert found["loss"] == pytest.approx(0.3 * found["denoising"] + 0.7 * found["segmentation"], rel=1e-5)

    monkeypatch.setattr(training, "blind", lambda noisy, index: noisy)
    found = training.validate(model, patches, settings, torch.device("cpu"))
    alone = [training.validate(model, [patch], settings, torch.device("cpu")) for patch in patches]
    sizes = [patch.target.size for patch in patches]
    assert found["segmentation"] == pytest.approx(np.average([v["segmentation"] for v in alone], weights=sizes))


RESUMED = {"mixed": {}, "tuned": {"tune": 2}, "apart": {"mixed": False, "noise": "n10"}, "sequential": {"alpha": 0}}


@pytest.mark.parametrize("kind", RESUMED)
def test_a_training_that_was_killed_and_resumed_has_the_same_weights_as_an_uninterrupted_one(kind, pictures, tmp_path):
    options = dict(RESUMED[kind])
    if "tune" in options:
        options["tune"] = pictures[: options["tune"]]
    form = {}
    if kind == "sequential":
        train(tmp_path / "n2v", pictures, alpha=1, epochs=1)
        form = {"start": tmp_path / "n2v/best.pt", "sequential": True}
    options |= {"epochs": 4}
    whole = train(tmp_path / "whole", pictures, fresh(**form), **options)

    class Killed(Exception):
        pass

    for stopped_after in ("best.pt", "last.pt"):
        writes, out = [], tmp_path / stopped_after

        def stop(model, path, state=None, stopped_after=stopped_after, writes=writes):
            unet.save(model, path, state)
            writes.append(path.name)
            if path.name == stopped_after and len(writes) >= 3:
                raise Killed

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training, "save", stop)
            with pytest.raises(Killed):
                train(out, pictures, fresh(**form), **options)
        torch.manual_seed(99)  # whatever the process has drawn meanwhile
        np.random.seed(5)
        assert same(whole, train(out, pictures, fresh(7, **form), resume=True, **options))
        assert (out / "best.pt").read_bytes() != b"" and same(
            *(torch.load(folder / "best.pt", weights_only=True)["state_dict"] for folder in (out, tmp_path / "whole"))
        )
    if kind == "mixed":
        assert same(whole, train(tmp_path / "workers", pictures, **options, workers=2)), "nor does their number"
        assert same(whole, train(tmp_path / "whole", pictures, **options, resume=True)), "nothing is left to do"
        assert not same(whole, train(tmp_path / "other", pictures, **options, seed=1))


KILLED = """
import os, signal, sys
import torch
from pathlib import Path
import test_denoiseg as tests
from yolo_wnlb.denoiseg import fit as training
from yolo_wnlb.denoiseg import unet

out, where, epoch = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
pictures = [(Path(file), tests.discs(n)[1] if n < 3 else None) for n, file in enumerate(sys.argv[4:])]
save, write = torch.save, training.write_log

def half(content, file, *rest):  # of last.pt: a part of the archive is on the disk
    save(content, file, *rest)
    if "last" in str(file) and len(content["meta"]["training"]["log"]) == epoch:
        Path(file).write_bytes(Path(file).read_bytes()[:9000])
        os.kill(os.getpid(), signal.SIGKILL)

def behind(path, log):
    if len(log) == epoch:
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, log)

if where == "in last.pt":
    unet.torch.save = half
else:
    training.write_log = behind
tests.train(out, pictures, **tests.LONG, tune=pictures[:2])
"""
LONG = {"epochs": 3, "alpha": 0.5, "noise": "n20", "mixed": False}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
@pytest.mark.parametrize(("where", "epoch"), [("in last.pt", 2), ("behind last.pt", 3)])
def test_a_process_that_was_killed_goes_on_to_the_weights_and_the_log_of_one_that_was_not(
    where, epoch, pictures, tmp_path
):
    """By SIGKILL, while it writes a checkpoint, and between the last checkpoint and its row of the log."""
    files = [str(file) for file, _ in pictures]
    command = [sys.executable, "-c", KILLED, str(tmp_path / "killed"), where, str(epoch), *files]
    home = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": home}, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    logs = []
    for name in ("whole", "killed"):
        logs.append((tmp_path / name, train(tmp_path / name, pictures, **LONG, tune=pictures[:2], resume=True)))
    (whole, wanted), (killed, found) = logs
    assert same(wanted, found)
    best = [torch.load(folder / "best.pt", weights_only=True)["state_dict"] for folder in (whole, killed)]
    rows = [list(csv.DictReader((folder / "log.csv").open())) for folder in (whole, killed)]
    assert same(*best) and len(rows[0]) == 3
    assert [{**row, "seconds": ""} for row in rows[0]] == [{**row, "seconds": ""} for row in rows[1]]
    assert sorted(file.name for file in killed.iterdir()) == ["best.pt", "last.pt", "log.csv"]


def test_sequential_keeps_the_denoiser_in_front_frozen_in_one_checkpoint(pictures, tmp_path):
    train(tmp_path / "n2v", pictures, alpha=1, noise=20)
    front = torch.load(tmp_path / "n2v/best.pt", weights_only=True)["state_dict"]
    model = fresh(1, start=tmp_path / "n2v/best.pt", sequential=True)
    state = train(tmp_path / "both", pictures, model, alpha=0, noise=20)
    in_front = {name.removeprefix("front."): value for name, value in state.items() if name.startswith("front.")}
    assert same(front, in_front)
    loaded, alone = (detector.load(tmp_path / name / "best.pt", "cpu") for name in ("both", "n2v"))
    picture = discs(9)[0]
    clean = loaded.codes(picture)
    noisy = with_noise(clean, 20.0)
    assert np.array_equal(loaded.denoise(picture, noise=20), alone.denoise(picture, noise=20))
    x = torch.from_numpy(run(alone.module, noisy)[0])[None]
    second = loaded.module.net.eval()((x - loaded.module.mean) / loaded.module.std)[:, 1:].softmax(1)
    assert np.allclose(next(loaded.predict([picture])), second[0, 1].detach(), atol=1e-5)
    assert "behind another" in loaded.describe()["detector"] and loaded.denoises and loaded.segments
    whole = loaded.module(torch.from_numpy(noisy)[None])
    assert torch.allclose(whole[1][0], torch.from_numpy(run(loaded.module, noisy)[1]), atol=1e-5)


def test_a_network_can_start_from_the_weights_of_another(pictures, tmp_path):
    state = train(tmp_path, pictures)
    assert same(state, fresh(5, start=tmp_path / "last.pt").state_dict())


def test_it_learns_a_few_noisy_pictures_by_heart(pictures, tmp_path):
    """Discs of 12 codes' noise: what is found has an IoU above 0.8, and the denoised picture gains 4 dB."""
    labelled = [(file, discs(number)[1]) for number, (file, _) in enumerate(pictures)]
    options = {"epochs": 6, "steps": 40, "batch": 8, "patch": 48, "crop": 32, "noise": 12, "lr": 0.005}
    fit(fresh(first=8), labelled, tmp_path, **{**QUICK, **options})
    model = detector.load(tmp_path / "best.pt", "cpu")
    files = [file for file, _ in labelled]
    for found, (_, labels) in zip(model.predict(files), labelled):
        assert found.dtype == np.float32 and found.shape == labels.shape and 0 <= found.min() <= found.max() <= 1
        inner = border_target(labels) == 1
        assert ((found > 0.5) & inner).sum() / ((found > 0.5) | inner).sum() > 0.8
    gains = [after - before for before, after in model.psnr(files)]
    assert np.mean(gains) > 4 and model.psnr(files) == model.psnr(files)
    assert model.names == ["nucleus"] and detector.load(model) is model and detector.reads(tmp_path / "last.pt")
    assert model.describe() | {"sha256": ""} == {
        "detector": "unet 8/2, alpha 0.5",
        "sha256": "",
        "image_size": "whole pictures",
        "noise_sd": 12.0,
    }


def test_colour_pictures_are_denoised_in_colour(pictures, tmp_path):
    model = fresh(channels=3)
    fit(model, pictures, tmp_path, **QUICK)
    loaded = detector.load(tmp_path / "best.pt", "cpu")
    assert loaded.denoise(pictures[0][0]).shape == (48, 56, 3) and next(loaded.predict([discs(0)[0]])).shape == (48, 56)


def test_pictures_in_the_colour_of_one_dye_are_learnt_and_their_empty_channels_stay_empty(tmp_path):
    """Green alone, but for single codes of red: neither 0 nor a thousandth divides."""
    labelled = []
    for number in range(6):
        picture, labels = discs(number)
        colour = np.zeros((*picture.shape, 3), np.uint8)
        colour[..., 1], colour[5, 7, 2] = picture, number == 0
        cv2.imwrite(str(tmp_path / f"{number}.png"), colour)
        labelled.append((tmp_path / f"{number}.png", labels))
    options = {"epochs": 6, "steps": 40, "batch": 8, "patch": 48, "crop": 32, "lr": 0.005}
    fit(fresh(first=8, channels=3), labelled, tmp_path / "out", **{**QUICK, **options})
    model = detector.load(tmp_path / "out/best.pt", "cpu")
    std = model.module.std.flatten()
    assert std[0] == std[2] == 1 < std[1], "codes"
    for found, (file, labels) in zip(model.predict([file for file, _ in labelled]), labelled):
        inner = border_target(labels) == 1
        assert ((found > 0.5) & inner).sum() / ((found > 0.5) | inner).sum() > 0.8
        blue, green, red = np.moveaxis(model.denoise(file) - cv2.imread(str(file)), -1, 0)
        assert np.abs(blue).mean() < 0.5 and np.abs(red).mean() < 0.5 and np.abs(green).mean() < 10


def test_numbers_of_numpy_are_numbers_and_the_checkpoint_is_read_without_it(pictures, tmp_path):
    model = build("nucleus", first=np.int64(4), depth=np.int8(2), channels=np.int32(1))
    options = {"alpha": np.float64(0.5), "noise": np.float32(10), "epochs": np.int64(1), "seed": np.uint8(3)}
    options |= {"batch": np.int64(4), "steps": np.int16(2), "lr": np.float64(0.01), "factor": np.float64(0.75)}
    train(tmp_path, pictures, model, **options)
    assert detector.load(tmp_path / "best.pt", "cpu").describe()["detector"] == "unet 4/2, alpha 0.5"
    train(tmp_path, pictures, alpha=0.5, noise=10, epochs=1, seed=3, resume=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_it_trains_and_predicts_as_on_the_cpu(pictures, tmp_path):
    train(tmp_path, pictures, device="0", tune=pictures[:2], noise=20)
    picture = discs(0)[0]
    on_cpu, on_gpu = (detector.load(tmp_path / "best.pt", device) for device in ("cpu", "0"))
    assert np.allclose(next(on_cpu.predict([picture])), next(on_gpu.predict([picture])), atol=0.01)
    train(tmp_path, pictures, device="0", tune=pictures[:2], noise=20, resume=True)


# ---- what is refused -----------------------------------------------------------------------------

MISTAKES = [
    ({"alpha": 50}, r"alpha is 50; wanted a number from 0 .* did you mean 0\.5\?"),
    ({"alpha": -0.1}, r"alpha is -0\.1"),
    ({"alpha": "half"}, r"alpha is 'half'"),
    ({"alpha": True}, r"alpha is True"),
    ({"noise": "N20"}, r"noise is 'N20' \(did you mean 'n20'\?\); wanted n0, n10, n20"),
    ({"noise": "n30"}, r"noise is 'n30'; wanted n0, n10, n20, or a standard deviation in codes"),
    ({"noise": 0.08}, r"noise is 0\.08; .* Did you mean 20\.4"),
    ({"noise": -1}, r"noise is -1"),
    ({"noise": float("inf")}, r"noise is inf"),
    ({"noise": None}, r"noise is None"),
    ({"epochs": 0}, r"epochs is 0; wanted a whole number, 1 or more"),
    ({"epochs": 2.0}, r"epochs is 2\.0"),
    ({"steps": 0}, r"steps is 0"),
    ({"batch": 1}, r"batch is 1; wanted a whole number, 2 or more"),
    ({"patience": 0}, r"patience is 0"),
    ({"per_image": 0}, r"per_image is 0"),
    ({"radius": 0}, r"radius is 0"),
    ({"seed": -1}, r"seed is -1"),
    ({"workers": -1}, r"workers is -1"),
    ({"lr": 0}, r"lr is 0; wanted a number above 0"),
    ({"factor": 1}, r"factor is 1; wanted a number between 0 and 1"),
    ({"mixed": "no"}, r"mixed is 'no'; wanted true or false"),
    ({"share": 1.5}, r"share is 1\.5; .* did you mean 0\.015"),
    ({"share": 0.0001}, r"crop is 16, less than a box of which one pixel is hidden, 100"),
    ({"crop": 18}, r"crop is 18; wanted a multiple of 4, such as 16, as depth is 2"),
    ({"crop": 36}, r"crop is 36, and crops are cut from patches of 32"),
    ({"crop": 64, "patch": 64}, r"0\.png has 48 x 56 pixels, less than a crop of 64 x 64"),
    ({"tune": []}, r"tune has no picture"),
]


@pytest.mark.parametrize(("options", "message"), MISTAKES, ids=[str(options) for options, _ in MISTAKES])
def test_arguments_out_of_range_are_refused_before_anything_is_written(options, message, pictures, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(tmp_path / "out", pictures, **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((48, 55), int), r"the labels of .*0\.png have 48 x 55 pixels, and the picture 48 x 56"),
        (np.zeros((48, 56)), r"are float64 \(48, 56\); wanted an array of integers"),
        (np.zeros((48, 56, 3), int), r"are int64 \(48, 56, 3\)"),
        (np.full((48, 56), -1), r"hold -1; wanted 0 for background"),
        ([[0, 1]], r"are list"),
        ("labels.png", r"are str; wanted an array of integers"),
    ],
)
def test_labels_that_are_none_of_the_picture_are_refused(labels, message, pictures, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(tmp_path / "out", [(pictures[0][0], labels)])


def test_pictures_without_labels_are_refused_where_nothing_could_be_learnt(pictures, tmp_path, caplog):
    without = [(file, None) for file, _ in pictures]
    for alpha in (0, 0.5):
        with pytest.raises(ValueError, match=rf"none of 6 pictures has labels, and alpha is {alpha:g}; label some"):
            train(tmp_path / "out", without, alpha=alpha)
    with pytest.raises(ValueError, match="none of 6 pictures to tune on has labels"):
        train(tmp_path / "out", pictures, tune=without)
    with pytest.raises(ValueError, match="there is no picture to learn from"):
        train(tmp_path / "out", [])
    train(tmp_path / "n2v", without, alpha=1, tune=without, epochs=1)


@pytest.fixture
def warnings(monkeypatch):
    """What Ultralytics' logger is told to warn of."""
    found = []
    monkeypatch.setattr(LOGGER, "warning", found.append)
    return found


def test_pictures_that_teach_nothing_at_alpha_0_and_colours_that_are_lost_are_said(pictures, tmp_path, warnings):
    train(tmp_path / "baseline", pictures, alpha=0, epochs=1)
    assert warnings.pop().startswith("3 of 6 pictures have no labels, and alpha is 0: nothing but the statistics")
    colour = cv2.merge([discs(0)[0], discs(1)[0], discs(2)[0]])
    cv2.imwrite(str(tmp_path / "colour.png"), colour)
    train(tmp_path / "grey", [*pictures, (tmp_path / "colour.png", None)], epochs=1)
    assert warnings.pop().startswith("1 of 7 pictures are in colour, and the network takes grey ones")
    train(tmp_path / "plain", pictures, epochs=1)
    assert not warnings
    empty = [(file, np.zeros((48, 56), int) if labels is not None else None) for file, labels in pictures]
    train(tmp_path / "empty", empty, epochs=1)
    assert warnings.pop().startswith("3 pictures with labels have no object, which teaches that there is none anywhere")
    train(tmp_path / "n2v", empty, epochs=1, alpha=1)
    assert not warnings


def test_files_that_are_missing_or_hold_nothing_are_named(pictures, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no image .*nowhere\.png"):
        train(tmp_path / "out", [*pictures, (tmp_path / "nowhere.png", None)])
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(OSError, match=r"text\.png cannot be read as an image"):
        train(tmp_path / "out", [*pictures, (tmp_path / "text.png", None)])
    cv2.imwrite(str(tmp_path / "black.png"), np.zeros((40, 40), np.uint8))
    with pytest.raises(ValueError, match="have one colour: there is nothing to learn"):
        train(tmp_path / "out", [(tmp_path / "black.png", np.zeros((40, 40), int))])


@pytest.mark.parametrize("given", ["val", 5, iter([]), ["a.png"], [Path("a.png")], [("a.png",)], [("a.png", None, 1)]])
@pytest.mark.parametrize("name", ["pictures", "tune"])
def test_what_is_no_list_of_pairs_is_refused(name, given, pictures, tmp_path):
    with pytest.raises(ValueError, match=rf"{name}: found .*; wanted a list of pairs, \(file, label image or None\)"):
        train(tmp_path, **{"pictures": pictures, name: given})


def test_a_folder_with_another_training_is_refused(pictures, tmp_path):
    train(tmp_path / "a", pictures)
    with pytest.raises(FileExistsError, match=r"last\.pt exists; go on with resume=True"):
        train(tmp_path / "a", pictures)
    for options, message in (
        ({"lr": 0.02}, r"another training: lr was 0\.01, now 0\.02\. Choose another folder"),
        ({"epochs": 3}, r"epochs was 2, now 3"),
        ({"alpha": 0.25}, r"alpha was 0\.5, now 0\.25"),
        ({"noise": 10}, r"noise was 0\.0, now 10\.0"),
        ({"model": fresh(first=8)}, r"first was 4, now 8"),
        ({"tune": pictures[:1]}, r"tune was '\w+', now '\w+'"),
    ):
        with pytest.raises(ValueError, match=message):
            train(tmp_path / "a", pictures, resume=True, **options)
    fewer = [*pictures[:2], (pictures[2][0], None), *pictures[3:]]
    with pytest.raises(ValueError, match=r"another training: pictures was '\w+', now '\w+'"):
        train(tmp_path / "a", fewer, resume=True)
    (tmp_path / "a/best.pt").unlink()
    with pytest.raises(FileNotFoundError, match=r"best\.pt is missing beside .*last\.pt"):
        train(tmp_path / "a", pictures, resume=True)


def test_best_pt_in_place_of_last_pt_is_refused(pictures, tmp_path):
    def stop(model, path, state=None):
        unet.save(model, path, state)
        if path.name == "last.pt":
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "save", stop)
        train(tmp_path, pictures)
    (tmp_path / "last.pt").write_bytes((tmp_path / "best.pt").read_bytes())
    with pytest.raises(ValueError, match=r"lacks the optimizer's state, as a best\.pt does"):
        train(tmp_path, pictures, resume=True)


def test_a_loss_that_is_not_finite_ends_the_training_and_leaves_the_last_epoch(pictures, tmp_path):
    with pytest.raises(FloatingPointError, match=r"the loss is not finite in step .* lower lr"):
        train(tmp_path, pictures, lr=1e11, steps=20)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 2}, "channels is 2; wanted 1 for grey pictures, or 3 for colour"),
        ({"channels": True}, "channels is True"),
        ({"first": 0}, "first is 0; wanted a whole number, 1 to 512"),
        ({"depth": 8}, "depth is 8; wanted a whole number, 1 to 7"),
        ({"depth": "deep"}, "depth is 'deep'"),
        ({"sequential": "yes"}, "sequential is 'yes'; wanted true or false"),
        ({"sequential": True}, "a denoiser has to stand in front; give start: a network trained with alpha: 1"),
    ],
)
def test_networks_that_cannot_be_built_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        fresh(**options)


def test_sequential_wants_a_network_that_denoises_pictures_of_the_same_kind(pictures, tmp_path):
    labelled = pictures[:3]
    train(tmp_path / "baseline", labelled, alpha=0, epochs=1)
    train(tmp_path / "n2v", labelled, alpha=1, noise=20, epochs=1)
    file = tmp_path / "n2v/best.pt"
    for start, options, message in (
        (tmp_path / "baseline/best.pt", {}, "trained with alpha: 0, and has not learnt to denoise"),
        (file, {"channels": 3}, "takes pictures of 1 channels, and this network of 3"),
        (tmp_path / "none.pt", {}, "there is no network"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            fresh(start=start, sequential=True, **options)
    with pytest.raises(ValueError, match=r"noise is 0, and the network in front, best\.pt, learnt to remove 20"):
        train(tmp_path / "out", labelled, fresh(start=file, sequential=True), alpha=0)
    with pytest.raises(ValueError, match=r"alpha is 0\.5, and the network is sequential"):
        train(tmp_path / "out", labelled, fresh(start=file, sequential=True), noise=20)
    with pytest.raises(ValueError, match="does not fit a U-Net of 8 maps"):
        fresh(start=file, first=8)


def test_a_network_is_not_asked_for_what_it_has_not_learnt(pictures, tmp_path):
    train(tmp_path / "baseline", pictures[:3], alpha=0, epochs=1)
    train(tmp_path / "n2v", pictures, alpha=1, epochs=1)
    baseline, n2v = (detector.load(tmp_path / name / "best.pt", "cpu") for name in ("baseline", "n2v"))
    with pytest.raises(ValueError, match="trained with alpha: 1, and has not learnt to segment"):
        next(n2v.predict([discs(0)[0]]))
    with pytest.raises(ValueError, match="trained with alpha: 0, and has not learnt to denoise"):
        baseline.denoise(discs(0)[0])
    with pytest.raises(ValueError, match="trained with noise: 0, on pictures as they are"):
        n2v.psnr([discs(0)[0]])
    with pytest.raises(ValueError, match=r"the picture is float64 \(3, 3\); wanted uint8"):
        n2v.denoise(np.zeros((3, 3)))


def test_one_picture_in_place_of_a_list_and_a_network_before_its_training_are_refused(pictures, tmp_path):
    train(tmp_path, pictures, epochs=1, noise=20)
    model = detector.load(tmp_path / "best.pt", "cpu")
    for one in (str(pictures[0][0]), pictures[0][0], discs(0)[0]):
        for method in (model.predict, model.psnr):
            with pytest.raises(ValueError, match=r"images is one picture, of type .*; wanted a list of pictures"):
                method(one)
    for shape, kind in (((0, 5), "u1"), ((5, 0, 3), "u1"), ((5, 5, 4), "u1"), ((5, 5), "f4"), ((5,), "u1")):
        with pytest.raises(ValueError, match=r"the picture is .*; wanted uint8 \(H, W\) or \(H, W, 3\)"):
            model.denoise(np.zeros(shape, kind))
    unet.save(fresh(), tmp_path / "new.pt")
    with pytest.raises(ValueError, match=r"new\.pt holds a network that was not trained"):
        detector.load(tmp_path / "new.pt")


def test_files_of_something_else_and_damaged_ones_are_refused(pictures, tmp_path):
    train(tmp_path, pictures, epochs=1)
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    with pytest.raises(FileNotFoundError, match="there is no network"):
        detector.load(tmp_path / "none.pt")

    def changed(**recipe):
        return {**content, "meta": {**content["meta"], "recipe": {**content["meta"]["recipe"], **recipe}}}

    for found, message in (
        ({"state_dict": content["state_dict"]}, "is no U-Net that yolo_wnlb trained"),
        (changed(depth=99), r"is damaged \(depth is 99"),
        (changed(sequential=True, front=None), "is damaged .it does not say which network"),
        (changed(noise="much"), r"is damaged \(its noise is 'much'\)"),
        (changed(first=8), "does not fit a U-Net of 8 maps"),
        ({**content, "meta": {**content["meta"], "recipe": None}}, "is damaged"),
        ({**content, "meta": {**content["meta"], "training": None}}, "is damaged"),
    ):
        torch.save(found, tmp_path / "other.pt")
        with pytest.raises(ValueError, match=message):
            detector.load(tmp_path / "other.pt", "cpu")
    assert not detector.reads(pictures[0][0])


def test_the_options_of_a_row_are_arguments_of_build_or_of_fit():
    """A study splits a row's options by the signature of `fit`; none may have both meanings."""
    shared = inspect.signature(build).parameters.keys() & inspect.signature(fit).parameters.keys()
    assert shared == set() and issubclass(DenoiSeg, torch.nn.Module)


def test_the_documentation_names_every_option():
    text = (Path(__file__).parents[1] / "docs/denoiseg.md").read_text(encoding="utf-8")
    table = text[text.index("## Options") : text.index("## In Python")]
    elsewhere = {"model", "pictures", "out", "tune", "name", "start", "sequential", "seed", "workers", "device"}
    elsewhere |= {"resume", "progress"}
    options = inspect.signature(build).parameters.keys() | inspect.signature(fit).parameters.keys()
    assert {name for name in options - elsewhere if f"`{name}`" not in table} == set()
    assert "5,498,084" in table and "85,948" in table


def test_the_example_of_the_documentation_runs(tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[1] / "docs/denoiseg.md").read_text(encoding="utf-8")
    example = page.split("```python\n")[1].split("```")[0]
    for written, small in (("first=16, depth=3", "first=2, depth=1"), ("epochs=30, steps=100", "epochs=1, steps=1")):
        assert written in example
        example = example.replace(written, small)
    monkeypatch.chdir(tmp_path)
    names = {}
    for number, letter in enumerate("abcde"):
        picture, labels = discs(number, (96, 96))
        cv2.imwrite(f"{letter}.png", picture)
        cv2.imwrite(f"{letter}-labels.png", labels.astype(np.uint8))
    exec(example.replace("batch=12", "batch=2, crop=32, patch=64, workers=0, device='cpu'"), names)
    assert "(96, 96)" in capsys.readouterr().out and names["clean"].shape[:2] == (96, 96)
