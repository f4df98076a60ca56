"""The training loop: what it feeds, how it stops and goes on, what it teaches."""

import copy
import csv
import itertools
import math
import signal
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from conftest import FEW_REGIONS, SOLO, scenes, small_solov2
from pycocotools import mask as mask_utils
from torch import nn
from torch.utils.data import DataLoader

from yolo_wnlb.checkpoints import read_checkpoint
from yolo_wnlb.data.coco import class_map, encode, ground_truth, image_files
from yolo_wnlb.data.shapes import NAMES, generate
from yolo_wnlb.detectors import fit as module
from yolo_wnlb.detectors.fit import Pictures, collate, fit, learning_rate, make_optimizer, set_training_mode
from yolo_wnlb.detectors.resnet import insert_blocks
from yolo_wnlb.detectors.solov2 import SOLOv2, solov2
from yolo_wnlb.detectors.torchvision import build, load, names, predict, save
from yolo_wnlb.metrics.average_precision import evaluate

SIZE = 96
FEW = {**FEW_REGIONS, "backbone": "resnet18", "min_size": 64, "anchor_sizes": (8, 16, 32, 64, 128)}
QUIET = {"workers": 0, "device": "cpu", "progress": False}

pytestmark = pytest.mark.usefixtures("seed")


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """Scenes of 2 or 3 large objects: their truth and files. Category ids are 3, 5, 7, 9, 11."""
    truth = {"images": [], "annotations": [], "categories": [{"id": 2 * i + 3, "name": n} for i, n in enumerate(NAMES)]}
    folder, files = tmp_path_factory.mktemp("four"), {}
    for key, drawn in enumerate(scenes(4, SIZE), 100):
        files[key] = folder / f"{key}.png"
        cv2.imwrite(str(files[key]), drawn.image)
        truth["images"].append({"id": key, "file_name": files[key].name, "width": SIZE, "height": SIZE})
        for kind, code in zip(drawn.classes, encode(drawn.masks)):
            ids = {"id": len(truth["annotations"]) + 1, "image_id": key, "category_id": 2 * kind + 3, "iscrowd": 0}
            shape = {
                "segmentation": code,
                "area": float(mask_utils.area(code)),
                "bbox": mask_utils.toBbox(code).tolist(),
            }
            truth["annotations"].append({**ids, **shape})
    return truth, files


def first_images(data, number):
    """A copy of the first few images and their objects."""
    truth, files = copy.deepcopy(data)
    del truth["images"][number:]
    kept = {image["id"]: files[image["id"]] for image in truth["images"]}
    truth["annotations"] = [a for a in truth["annotations"] if a["image_id"] in kept]
    return truth, kept


@pytest.fixture
def one(four):
    """The first image alone, to be spoilt."""
    return first_images(four, 1)


def labels_of(truth):
    return {category["id"]: i for i, category in enumerate(truth["categories"], 1)}


# ---- data ------------------------------------------------------------------------------------------


def test_items_are_the_pictures_and_objects_of_the_truth(four):
    truth, files = four
    data = Pictures(truth, files, labels_of(truth))
    assert len(data) == 4
    image, target = data[2]
    mine = [a for a in truth["annotations"] if a["image_id"] == 102]
    raw = cv2.imread(str(files[102]))
    assert image.dtype == torch.float and torch.equal(image * 255, torch.tensor(raw[..., ::-1].copy()).permute(2, 0, 1))
    assert target["labels"].tolist() == [(a["category_id"] - 1) // 2 for a in mine]
    assert target["labels"].dtype == torch.int64 and target["masks"].dtype == torch.uint8
    for mask, box, annotation in zip(target["masks"].numpy(), target["boxes"].tolist(), mine):
        assert np.array_equal(mask, mask_utils.decode(annotation["segmentation"]))
        y, x = np.nonzero(mask)
        assert box == [x.min(), y.min(), x.max() + 1, y.max() + 1]


def test_a_flip_mirrors_all_and_depends_on_seed_epoch_and_image_only(four):
    truth, files = four
    plain, flipped = Pictures(truth, files, labels_of(truth)), Pictures(truth, files, labels_of(truth), flip=1.0)
    (image, target), (mirror, other) = plain[0], flipped[0]
    assert torch.equal(mirror, image.flip(2)) and torch.equal(other["masks"], target["masks"].flip(2))
    assert torch.equal(other["boxes"][:, 0], SIZE - target["boxes"][:, 2])
    for mask, box in zip(other["masks"].numpy(), other["boxes"].tolist()):
        y, x = np.nonzero(mask)
        assert box == [x.min(), y.min(), x.max() + 1, y.max() + 1]

    def drawn(workers, epoch, seed=0):
        data = Pictures(truth, files, labels_of(truth), flip=0.5, seed=seed)
        data.epoch = epoch
        return [images[0] for images, _ in DataLoader(data, 1, num_workers=workers, collate_fn=collate)]

    assert all(torch.equal(a, b) for a, b in zip(drawn(0, 3), drawn(2, 3)))
    patterns = {
        tuple(torch.equal(x, plain[i][0]) for i, x in enumerate(drawn(0, e, s))) for e in (1, 2, 3) for s in (0, 1)
    }
    assert len(patterns) > 2


def test_all_forms_of_masks_are_drawn_and_what_is_no_object_is_dropped(one):
    truth, files = one
    square = {"image_id": 100, "category_id": 3, "bbox": [10, 20, 30, 40], "area": 1200.0, "iscrowd": 0}
    outline = [[10, 20, 40, 20, 40, 60, 10, 60]]
    runs = np.zeros((SIZE, SIZE), np.uint8)
    runs[20:60, 10:40] = 1
    [code] = encode(runs[None].astype(bool))
    counts = np.diff(np.flatnonzero(np.diff(np.r_[2, runs.T.ravel(), 2]))).tolist()
    assert counts[0] == 10 * SIZE + 20
    shapes = [outline, [outline[0], [0, 0, 5, 0, 5, 5, 0, 5]], code, {"size": [SIZE, SIZE], "counts": counts}]
    rows = [{**square, "segmentation": shape} for shape in shapes]
    rows += [
        {**square, "segmentation": code, "iscrowd": 1},
        {**square, "segmentation": outline, "bbox": [10, 20, 1, 40]},
        {**square, "segmentation": encode(np.zeros((1, SIZE, SIZE), bool))[0]},
        {**square, "segmentation": outline, "category_id": 5},
        {**square, "segmentation": code, "bbox": [80, 20, 30, 40]},
    ]
    truth["annotations"] = [{**row, "id": i} for i, row in enumerate(rows)]
    target = Pictures(truth, files, {3: 1})[0][1]
    assert len(target["labels"]) == 5
    masks = target["masks"].numpy()
    assert all(np.array_equal(masks[i], runs) for i in (0, 2, 3)) and masks[1].sum() == runs.sum() + 25
    assert target["boxes"][0].tolist() == [10, 20, 40, 60] and target["boxes"][4].tolist() == [80, 20, 96, 60]


def test_images_without_objects_stay(four):
    truth, files = copy.deepcopy(four)
    truth["annotations"] = [a for a in truth["annotations"] if a["image_id"] == 101]
    target = Pictures(truth, files, labels_of(truth))[0][1]
    assert [tuple(target[key].shape) for key in ("boxes", "labels", "masks")] == [(0, 4), (0,), (0, SIZE, SIZE)]


# ---- optimizer, schedule, norms ----------------------------------------------------------------------


def test_only_weights_decay_and_w_has_its_own_rate():
    model = build("solov2", ["disc"], stages=(4, 5), block={"w_lr": 10.0}, **SOLO)
    model.backbone.body.conv1.requires_grad_(False)
    optimizer = make_optimizer(model, "adamw", 0.1, 0.05)
    of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    for name, p in model.named_parameters():
        if "body.conv1" in name:
            assert id(p) not in of
            continue
        assert of[id(p)]["weight_decay"] == (0.05 if p.ndim > 1 else 0), name
        assert of[id(p)]["factor"] == (10 if name.endswith("wnlb.w") else 1), name


@pytest.mark.parametrize(
    ("schedule", "shares", "wanted"),
    [
        ("constant", (0.5, 0.99), (1, 1)),
        ("step", (0.5, 0.74, 0.75, 0.91, 0.92), (1, 1, 0.1, 0.1, 0.01)),
        ("cosine", (0.25, 0.5, 0.75), (0.855, 0.505, 0.155)),
    ],
)
def test_the_learning_rate_rises_and_falls(schedule, shares, wanted):
    settings = {"lr": 2.0, "schedule": schedule, "warmup": 100}
    got = [learning_rate(int(share * 10000), 10000, settings) for share in shares]
    assert got == pytest.approx([2 * value for value in wanted], rel=1e-2)
    rising = [learning_rate(step, 10000, settings) for step in range(100)]
    assert rising[0] == pytest.approx(2 / 101) and all(a < b < 2 for a, b in itertools.pairwise(rising))
    assert learning_rate(9999, 10000, settings) > 0


def test_norms_hold_still_where_they_should():
    model = build("maskrcnn", ["disc"], stages=(4,), **FEW)
    body = model.backbone.body
    set_training_mode(model, learn_norms=False)
    assert model.training and not body.bn1.training and not body.layer3[0].bn1.training
    assert body.layer3.wnlb.W_z[1].training
    set_training_mode(model, learn_norms=True)
    assert body.bn1.training and body.layer3[0].bn1.training
    body.bn1.requires_grad_(False)
    set_training_mode(model, learn_norms=True)
    assert not body.bn1.training and body.layer3[0].bn1.training


def test_accumulated_steps_are_steps_of_the_larger_batch():
    """Of a model whose loss is a mean, where the last window is shorter than the others."""
    x, y = torch.rand(10, 3, 2, 2), torch.rand(10)

    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(12, 1)
            nn.init.zeros_(self.layer.weight)
            nn.init.zeros_(self.layer.bias)

        def forward(self, images, targets):
            out = self.layer(torch.stack(images).flatten(1))[:, 0]
            return {"loss_x": (out - torch.stack([t["y"] for t in targets])).square().mean()}

    weights = []
    for size, accumulate in ((4, 1), (2, 2)):
        model = Mean()
        batches = [(x[i : i + size], [{"y": v} for v in y[i : i + size]]) for i in range(0, 10, size)]
        settings = {"lr": 0.1, "schedule": "constant", "warmup": 2, "clip": 0.3, "amp": False, "accumulate": accumulate}
        scaler = torch.amp.GradScaler(enabled=False)
        bar = type("Bar", (list,), {"iterable": batches, "desc": "epoch 1/1"})(batches)
        optimizer = make_optimizer(model, "sgd", 0.1, 0.0)
        means = module.train_epoch(model, bar, optimizer, scaler, torch.device("cpu"), settings, 0, 3)
        assert means["loss"] == means["loss_x"] > 0
        weights.append(model.layer.weight.detach())
    assert torch.allclose(weights[0], weights[1], atol=1e-6) and weights[0].abs().max() > 0.01


# ---- whole runs --------------------------------------------------------------------------------------


def log_of(folder):
    with (folder / "log.csv").open() as file:
        return list(csv.DictReader(file))


def built(detector, blocks=True, **options):
    """A detector on a ResNet-18, or "own": a module that `build` knows nothing of."""
    torch.manual_seed(3)
    block = {"w_lr": 5.0} if blocks else {}
    if detector == "own":
        model = small_solov2(stacked_convs=1)
        insert_blocks(model.backbone.body, (4, 5) if blocks else (), **block)
        return model
    options = {**(SOLO if detector == "solov2" else FEW), **options}
    return build(detector, NAMES, stages=(4, 5) if blocks else (), block=block, **options)


def test_numbers_of_numpy_are_numbers_and_the_checkpoint_is_read_without_it(four, tmp_path):
    truth, files = first_images(four, 2)
    given = {"epochs": np.int64(1), "batch": np.int8(1), "lr": np.float64(0.002), "seed": np.uint8(3), **QUIET}
    fit(built("own"), truth, files, tmp_path, **given, weight_decay=np.float32(0.01))
    read_checkpoint(tmp_path / "last.pt")
    plain = {"epochs": 1, "batch": 1, "lr": 0.002, "seed": 3, "weight_decay": float(np.float32(0.01))}
    fit(built("own"), truth, files, tmp_path, **QUIET, **plain, resume=True)


@pytest.mark.parametrize("detector", ["own", "maskrcnn"])
def test_a_resumed_run_ends_as_one_that_was_not_interrupted(detector, four, tmp_path, monkeypatch):
    truth, files = first_images(four, 3)  # windows of two batches and of one
    settings = {"epochs": 2, "batch": 1, "accumulate": 2, "lr": 0.002, **QUIET}
    settings["optimizer"] = "adamw" if detector == "own" else "sgd"
    whole = built(detector)
    before = torch.get_rng_state()
    fit(whole, truth, files, tmp_path / "whole", **settings)
    assert torch.equal(torch.get_rng_state(), before)

    stock = Pictures.__getitem__

    def stop(self, index):
        if self.epoch == 1 and index == 1:
            raise KeyboardInterrupt
        return stock(self, index)

    monkeypatch.setattr(Pictures, "__getitem__", stop)
    with pytest.raises(KeyboardInterrupt):
        fit(built(detector), truth, files, tmp_path / "parts", **settings)
    monkeypatch.undo()
    torch.manual_seed(99)  # whatever happened in between
    parts = built(detector)
    settings["workers"] = 1
    last = fit(parts, truth, files, tmp_path / "parts", resume=True, **settings)
    a, b = whole.state_dict(), parts.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    fresh = built(detector).state_dict()
    assert sum(not torch.equal(fresh[name], b[name]) for name in b) > 0.9 * len(list(parts.parameters()))

    rows = [log_of(tmp_path / run) for run in ("whole", "parts")]
    assert len({str([{**row, "seconds": 0} for row in run]) for run in rows}) == 1
    assert len(rows[0]) == 2 and float(rows[0][1]["w backbone.body.layer3.wnlb"]) != 0
    assert "optimizer" not in torch.load(last, weights_only=True)["meta"]["training"]
    if detector != "own":
        reloaded = load(last, "cpu")
        assert names(reloaded) == dict(enumerate(NAMES))
        assert all(torch.equal(tensor, b[name]) for name, tensor in reloaded.module.state_dict().items())
    else:
        (tmp_path / "parts/log.csv").write_text("epoch\n1\n")  # as where it was killed behind its last checkpoint
        assert fit(built("own"), truth, files, tmp_path / "parts", resume=True, **settings) == last  # it is complete
        assert log_of(tmp_path / "parts") == rows[1]


def test_the_seed_decides(four, tmp_path):
    truth, files = four
    states = []
    for i, seed in enumerate((0, 0, 1)):
        model = built("own", blocks=False)
        fit(model, truth, files, tmp_path / f"{i}", epochs=1, lr=0.01, seed=seed, **QUIET)
        states.append(model.state_dict()["head.conv_cls.weight"])
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])


@pytest.mark.parametrize(("detector", "lr"), [("solov2", 2e-3), ("maskrcnn", 1e-4)])
def test_the_loss_falls_and_w_moves_also_in_mixed_precision(detector, lr, four, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "save", lambda *_: None)  # of 100 MB each time
    truth, files = four
    options = {"epochs": 3, "batch": 4, "lr": lr, "optimizer": "adamw", "flip": 0.0, "amp": detector == "solov2"}
    fit(built(detector), truth, files, tmp_path, **options, **QUIET)
    rows = log_of(tmp_path)
    assert float(rows[-1]["loss"]) < 0.8 * float(rows[0]["loss"])
    assert all(float(rows[-1][f"w backbone.body.{layer}.wnlb"]) != 0 for layer in ("layer3", "layer4"))


def ap(weights, truth, files):
    classes = class_map(names(weights), truth)
    return evaluate(truth, predict(weights, files, classes, device="cpu")).masks["AP"]


def test_a_module_of_ones_own_learns_pictures_by_heart(four, tmp_path):
    truth, files = first_images(four, 2)
    model = built("own", blocks=False)
    options = {"epochs": 60, "batch": 2, "lr": 4e-3, "optimizer": "adamw", "flip": 0.0, "warmup": 5}
    last = fit(model, truth, files, tmp_path, **options, **QUIET)
    assert ap(model, truth, files) > 0.7
    with pytest.raises(ValueError, match=r"last\.pt is of a module that build\(\) did not make"):
        load(last)


@pytest.mark.slow
@pytest.mark.parametrize("detector", ["solov2", "maskrcnn"])
def test_pictures_are_learnt_by_heart_with_blocks(detector, four, tmp_path):
    truth, files = four
    sizes = {"min_size": 160, "max_size": 160}
    if detector == "solov2":
        sizes["scale_ranges"] = ((1, 40), (30, 80), (60, 160), (160, 999), (160, 999))
    else:
        sizes.update(rpn_post_nms_top_n_train=200, box_batch_size_per_image=64, anchor_sizes=(16, 32, 64, 128, 256))
    model = built(detector, **sizes)
    options = {"epochs": 60, "batch": 4, "lr": 1e-3, "optimizer": "adamw", "flip": 0.0}
    last = fit(model, truth, files, tmp_path, **options, **QUIET)
    assert ap(last, truth, files) > 0.7


def test_a_yolo_data_set_is_trained_on_as_it_is(tmp_path):
    generate(tmp_path / "shapes", train=2, val=1, size=96)
    names_of = "".join(f"  {i}: {name}\n" for i, name in enumerate(NAMES))
    (tmp_path / "shapes.yaml").write_text(
        f"path: {tmp_path}/shapes\ntrain: images/train\nval: images/val\nnames:\n{names_of}"
    )
    truth = ground_truth(tmp_path / "shapes.yaml", "train")
    files = image_files(truth, tmp_path / "shapes.yaml", "train")
    last = fit(built("solov2"), truth, files, tmp_path / "run", epochs=1, batch=2, **QUIET)
    assert last == tmp_path / "run" / "last.pt" and load(last, "cpu").classes == dict(enumerate(NAMES, 1))


# ---- mistakes ----------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_and_leaves_the_last_epoch(one, tmp_path, monkeypatch):
    truth, files = one
    model, calls = built("solov2", blocks=False), []
    stock = SOLOv2.losses

    def losses(self, *arguments):
        calls.append(1)
        found = stock(self, *arguments)
        return {**found, "loss_mask": found["loss_mask"] * (math.nan if len(calls) > 1 else 1)}

    monkeypatch.setattr(SOLOv2, "losses", losses)
    with pytest.raises(FloatingPointError, match=r"not finite in batch 1 of 1 of epoch 2/3 .*loss_mask nan.; lower lr"):
        fit(model, truth, files, tmp_path, epochs=3, **QUIET)
    assert all(tensor.isfinite().all() for tensor in load(tmp_path / "last.pt", "cpu").module.state_dict().values())
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 2


def test_a_full_disk_leaves_the_last_checkpoint_and_nothing_else(one, tmp_path):
    resource = pytest.importorskip("resource", reason="the size of files cannot be limited here")
    truth, files = one
    fit(built("solov2", blocks=False), truth, files, tmp_path, epochs=1, **QUIET)
    before = (tmp_path / "last.pt").read_bytes()
    ignored, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # PyTorch answers as on a full disk
    try:
        with pytest.raises(OSError, match=r"last.pt cannot be written: .* make room"):
            save(built("solov2", blocks=False), tmp_path / "last.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert (tmp_path / "last.pt").read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["last.pt", "log.csv"]


def test_what_is_not_trained_on_is_counted(one, caplog):
    truth, files = one
    crowd = {**truth["annotations"][0], "id": 77, "iscrowd": 1}
    thin = {**truth["annotations"][0], "id": 78, "bbox": [1, 1, 1, 50]}
    truth["annotations"] += [crowd, thin]
    Pictures(truth, files, labels_of(truth))
    assert "annotations 1 crowds, 1 with a box of at most a pixel in width or height" in caplog.text


def test_a_run_is_neither_overwritten_nor_continued_as_another(one, tmp_path):
    truth, files = one
    fit(built("solov2"), truth, files, tmp_path, epochs=1, **QUIET)
    with pytest.raises(FileExistsError, match=r"last.pt exists; go on with resume=True, or choose another folder"):
        fit(built("solov2"), truth, files, tmp_path, epochs=1, **QUIET)
    for model, settings, message in (
        (built("solov2"), {"lr": 0.1}, r"another training: lr was 0.0005, now 0.1"),
        (built("solov2", blocks=False), {}, r"stages was \(4, 5\), now \(\)"),
        (built("solov2", freeze="none", trainable_layers=2), {}, "parameters was"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(model, truth, files, tmp_path, epochs=1, resume=True, **settings, **QUIET)
    dark = {key: tmp_path / file.name for key, file in files.items()}
    for key, file in files.items():
        cv2.imwrite(str(dark[key]), cv2.imread(str(file)) // 4)
    with pytest.raises(ValueError, match=r"another training: pictures was '\w+', now '\w+'"):
        fit(built("solov2"), truth, dark, tmp_path, epochs=1, resume=True, **QUIET)
    truth["annotations"].pop()
    with pytest.raises(ValueError, match="truth was"):
        fit(built("solov2"), truth, files, tmp_path, epochs=1, resume=True, **QUIET)
    save(built("solov2"), tmp_path / "last.pt")
    with pytest.raises(ValueError, match=r"holds a model but no training; start from it with build"):
        fit(built("solov2"), truth, files, tmp_path, epochs=1, resume=True, **QUIET)
    torch.save({"state_dict": {"x": torch.zeros(1)}}, tmp_path / "last.pt")
    with pytest.raises(ValueError, match="was not written here"):
        fit(built("solov2"), truth, files, tmp_path, epochs=1, resume=True, **QUIET)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": 0}, "epochs must be a whole number of at least 1; got 0"),
        ({"batch": 2.5}, "batch must be a whole number"),
        ({"lr": 0}, "lr must be above 0; got 0"),
        ({"clip": -1.0}, "clip must be above 0"),
        ({"weight_decay": -1}, "weight_decay must be 0 or more"),
        ({"optimizer": "lion"}, "optimizer must be one of sgd, adamw; got 'lion'"),
        ({"schedule": "poly"}, "schedule must be one of cosine, step, constant"),
        ({"flip": 2}, "flip must be a probability"),
        ({"epochs": True}, "epochs must be a whole number of at least 1; got True"),
        ({"lr": "high"}, "lr must be above 0; got 'high'"),
        ({"lr": math.nan}, "lr must be above 0; got nan"),
        ({"seed": -1}, "seed must be a whole number of at least 0; got -1"),
        ({"seed": 1.5}, "seed must be a whole number of at least 0; got 1.5"),
        ({"warmup": 0.5}, "warmup must be a whole number of at least 0; got 0.5"),
    ],
    ids=str,
)
def test_arguments_are_checked_before_anything_is_done(wrong, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        fit(nn.Identity(), {}, {}, tmp_path, **{"epochs": 1, **wrong})


def spoil(truth, files, folder, how):
    """Make one mistake."""
    annotations = truth["annotations"]
    if how == "other classes":
        truth["categories"][0]["name"] = "rhombus"
    elif how == "nothing to learn":
        for annotation in annotations:
            annotation["iscrowd"] = 1
    elif how == "boxes only":
        del annotations[0]["segmentation"]
    elif how == "a null in an outline":
        annotations[0]["segmentation"] = [[1, 1, 5, None, 5, 5]]
    elif how == "no file_name":
        del truth["images"][0]["file_name"]
    elif how == "file missing":
        files[100] = folder / "gone.png"
    elif how == "file not named":
        files.clear()
    elif how == "no image":
        files[100] = folder / "100.png"
        files[100].write_text("")
    elif how == "another size":
        truth["images"][0]["width"] = 200
        annotations[:] = [{**annotations[0], "segmentation": [[1, 1, 50, 1, 50, 50]]}]


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        (
            "other classes",
            ValueError,
            "1 classes of the truth are unknown to the model: rhombus; it was built for disc",
        ),
        ("nothing to learn", ValueError, "nothing to train on: none of . annotations in 1 images"),
        ("boxes only", ValueError, r"1 of . annotations have a box but no segmentation \(first: annotation 1\)"),
        ("a null in an outline", ValueError, "annotation 1 has an outline with the coordinate None; wanted finite"),
        ("no file_name", ValueError, "entry 0 of images lacks file_name"),
        ("file missing", FileNotFoundError, "1 of 1 images have no file: 100.png"),
        ("file not named", FileNotFoundError, "1 of 1 images have no file: 100.png"),
        ("no image", ValueError, "100.png cannot be read as an image"),
        ("another size", ValueError, "100.png is 96 x 96, in the truth 200 x 96; is it another version"),
    ],
)
def test_mistakes_in_the_data_are_called_by_name(how, error, message, one, tmp_path):
    truth, files = one
    spoil(truth, files, tmp_path, how)
    with pytest.raises(error, match=message):
        fit(built("solov2", blocks=False), truth, files, tmp_path / "run", epochs=1, **QUIET)
    assert not (tmp_path / "run").exists()  # nothing was trained


def test_a_model_has_to_have_the_labels_and_something_to_learn(one, tmp_path):
    truth, files = one
    with pytest.raises(ValueError, match="5 classes, with labels up to 5, and the model has 3; build it for"):
        fit(solov2(3, **SOLO), truth, files, tmp_path, epochs=1, **QUIET)
    with pytest.raises(TypeError, match="Identity is neither"):
        fit(nn.Identity(), truth, files, tmp_path, epochs=1, **QUIET)
    with pytest.raises(ValueError, match="no parameter of the model is trainable"):
        fit(built("solov2").requires_grad_(False), truth, files, tmp_path, epochs=1, **QUIET)


def test_frozen_w_are_told(caplog):
    body = SimpleNamespace(blocks=built("solov2"))
    insert_blocks(body.blocks.backbone.body, (3,))
    body.blocks.backbone.body.layer2.wnlb.w.requires_grad_(False)
    make_optimizer(body.blocks, "sgd", 0.1, 0.0)
    assert "1 of 3 w are frozen" in caplog.text
