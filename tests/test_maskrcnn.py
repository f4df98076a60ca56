"""Mask R-CNN: weights, blocks and norms that survive every way of loading; masks as torchvision draws them."""

import copy
import itertools
import urllib.error
from collections import OrderedDict

import numpy as np
import pytest
import torch
from conftest import FEW_REGIONS, SOLO, run_python
from pycocotools import mask as coder
from torch import nn
from torchvision.models.detection import MaskRCNN, maskrcnn_resnet50_fpn_v2
from torchvision.models.detection._utils import overwrite_eps
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import FrozenBatchNorm2d

from yolo_wnlb.data.journal import replaced
from yolo_wnlb.data.shapes import scene
from yolo_wnlb.detectors import maskrcnn as rcnn
from yolo_wnlb.detectors.maskrcnn import COCO_CLASSES, detect, encode_pasted, maskrcnn, paste
from yolo_wnlb.detectors.torchvision import build, describe, load, names, predict, published, reads, save

FEW = {**FEW_REGIONS, "min_size": 96, "rpn_post_nms_top_n_test": 12, "box_detections_per_img": 20}
NONE = torch.zeros(0, dtype=torch.int64)

pytestmark = pytest.mark.usefixtures("seed")


def lively(model):
    """Give every norm statistics and weights, so that equal outputs are no accident."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm2d, FrozenBatchNorm2d)):
                module.running_var.uniform_(0.001, 1.5)  # so small that eps matters
                module.weight.copy_(module.running_var.sqrt() * torch.empty_like(module.weight).uniform_(0.5, 1))
                module.bias.normal_(0, 0.1)
                module.running_mean.normal_(0, 0.1)
    return model


def torchvisions(backbone="resnet18", outputs=91):
    """What torchvision builds for its COCO weights of v1."""
    pyramid = resnet_fpn_backbone(backbone_name=backbone, weights=None, norm_layer=FrozenBatchNorm2d)
    model = lively(MaskRCNN(pyramid, outputs, box_score_thresh=0.0, **FEW))
    overwrite_eps(model, 0.0)
    return model


def legacy(state):
    """Rename as in torchvision's file of v1: 26 keys have no layer number inside."""
    names = {}
    for name in state:
        new = name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        if ".fpn." in name:
            new = name.replace(".0.weight", ".weight").replace(".0.bias", ".bias")
        if "mask_head" in name:
            number = int(name.split(".")[2])
            new = name.replace(f"mask_head.{number}.0", f"mask_head.mask_fcn{number + 1}")
        names[name] = new
    assert sum(old != new for old, new in names.items()) == 26
    return OrderedDict((names[name], tensor) for name, tensor in state.items())


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """A file like torchvision's of v1, on a ResNet-18, its model, an image and what is found in it."""
    torch.manual_seed(1)
    model = torchvisions().eval()
    file = tmp_path_factory.mktemp("coco") / "maskrcnn_coco.pth"
    torch.save(legacy(model.state_dict()), file)
    image = torch.rand(3, 90, 120)
    return file, model, image, features(model, image)


@pytest.fixture(scope="module")
def start():
    """A random start, to be copied: drawing thirty million numbers takes longer."""
    return rcnn.plain(91, "v1", "resnet18", "frozen", 0.0, {"box_score_thresh": 0.0, **FEW})


def small(num_classes=91, **options):
    options = {"eps": 0.0, **options} if "weights" in options else options
    return maskrcnn(num_classes, **{"backbone": "resnet18", "box_score_thresh": 0.0, **FEW, **options})


def features(model, image):
    with torch.no_grad():
        return model.eval().backbone(model.transform([image])[0].tensors)


def same(a, b):
    return set(a) == set(b) and all(torch.equal(a[key], b[key]) for key in a)


def target(size=96):
    masks = torch.zeros(2, size, size, dtype=torch.uint8)
    masks[0, 10:60, 10:70], masks[1, 30:90, 50:94] = 1, 1
    return {
        "boxes": torch.tensor([[10.0, 10, 70, 60], [50, 30, 94, 90]]),
        "labels": torch.tensor([1, 2]),
        "masks": masks,
    }


def blocks_of(model):
    return {n: m.wnlb for n, m in model.backbone.body.named_children() if hasattr(m, "wnlb")}


# ---- loading -----------------------------------------------------------------------------------------


def test_coco_weights_of_v1_with_legacy_names_give_what_torchvision_gives(tmp_path):
    with torch.device("meta"):
        theirs = torchvisions("resnet50")
    theirs = lively(theirs.to_empty(device="cpu").requires_grad_(False))
    for parameter in theirs.parameters():
        parameter.uniform_(-0.02, 0.02)
    theirs.rpn.anchor_generator = torchvisions().rpn.anchor_generator  # its anchors are no state
    torch.save(legacy(theirs.state_dict()), tmp_path / "v1.pth")
    ours = maskrcnn(weights=tmp_path / "v1.pth", eps=0.0, stages=(3, 4, 5), box_score_thresh=0.0, **FEW)
    image = torch.rand(3, 96, 96)
    with torch.no_grad():
        expected, found = theirs.eval()([image])[0], ours.eval()([image])[0]
    assert len(expected["scores"]) == 20 and same(found, expected)
    assert set(theirs.state_dict()) == {n for n in ours.state_dict() if ".wnlb." not in n}
    assert sum(p.numel() for n, p in ours.named_parameters() if ".wnlb." not in n) == 44_401_393
    norms = [m for n, m in ours.named_modules() if "BatchNorm" in type(m).__name__ and ".wnlb." not in n]
    assert len(norms) == 53 and all(isinstance(m, FrozenBatchNorm2d) and m.eps == 0 for m in norms)


def test_norms_of_a_file_of_torchvision_are_known_by_its_counters_or_its_hash_and_never_guessed(
    start, tmp_path, monkeypatch
):
    state, file = start.state_dict(), tmp_path / "mine.pth"
    monkeypatch.setattr(rcnn, "plain", lambda *_: copy.deepcopy(start))
    counters = {
        name.replace("running_var", "num_batches_tracked"): torch.tensor(7) for name in state if "running_var" in name
    }

    def recipe(**options):
        return maskrcnn(weights=file, backbone="resnet18", **FEW, **options).recipe

    torch.save({**state, **counters}, file)
    assert (recipe()["norm"], recipe()["eps"]) == ("batch", 1e-5)

    torch.save(state, file)
    for norm in (None, "frozen", "batch"):
        with pytest.raises(
            ValueError, match=r"mine\.pth has frozen norms, .* give eps=0\.0 if .* COCO weights, eps=1e-5"
        ):
            recipe(norm=norm)
    assert (recipe(eps=1e-5)["norm"], recipe(eps=1e-5)["eps"]) == ("frozen", 1e-5)
    model = build("maskrcnn", None, weights=file, backbone="resnet18", eps=0.0, **FEW)
    save(model, tmp_path / "own.pt")
    assert load(tmp_path / "own.pt", "cpu").module.recipe["eps"] == 0.0

    torch.save(state, tmp_path / "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth")  # a name proves nothing
    file.rename(tmp_path / "kept.pth")
    (tmp_path / "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth").rename(file)
    with pytest.raises(ValueError, match="give eps="):
        recipe()
    monkeypatch.setattr(rcnn, "sha256_of", lambda file: "bf2d0c1e00")
    assert (recipe()["norm"], recipe()["eps"]) == ("frozen", 0.0)


def test_v2_keeps_trainable_norms_and_every_key(tmp_path):
    theirs = lively(maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=3, **FEW))
    torch.save(theirs.state_dict(), tmp_path / "v2.pth")
    ours = maskrcnn(3, variant="v2", weights=tmp_path / "v2.pth", stages=(4, 5), **FEW)
    image = torch.rand(3, 64, 64)
    assert same(features(ours, image), features(theirs, image))
    state = ours.state_dict()
    assert set(theirs.state_dict()) == {n for n in state if ".wnlb." not in n} and len(theirs.state_dict()) == 432
    assert all(torch.equal(state[name], tensor) for name, tensor in theirs.state_dict().items())
    assert (ours.recipe["norm"], ours.recipe["eps"]) == ("batch", 1e-5)


@pytest.mark.parametrize("stages", [s for n in range(5) for s in itertools.combinations((2, 3, 4, 5), n)], ids=str)
def test_blocks_after_any_stages_lose_no_key_and_change_no_bit(stages, coco, start, monkeypatch):
    file, theirs, image, expected = coco
    monkeypatch.setattr(rcnn, "plain", lambda *_: copy.deepcopy(start))
    model = small(weights=file, stages=stages)
    assert same(features(model, image), expected)
    assert set(model.state_dict()) - set(theirs.state_dict()) == {
        f"backbone.body.{layer}.wnlb.{name}" for layer, block in blocks_of(model).items() for name in block.state_dict()
    }
    assert list(blocks_of(model)) == [f"layer{stage - 1}" for stage in stages]
    sum(x.square().mean() for x in model.backbone(image[None, :, :64, :64]).values()).backward()
    assert all(block.w == 0 and block.w.grad != 0 for block in blocks_of(model).values())


def test_options_reach_the_blocks_and_plain_ones_start_as_the_identity_too(coco):
    file, _, image, expected = coco
    model = small(weights=file, stages=(5, 3), block={"weighted": False, "sub_sample": 2})
    assert same(features(model, image), expected) and model.recipe["stages"] == (3, 5)
    assert all(not b.weighted and b.sub_sample == 2 for b in blocks_of(model).values())


def test_heads_are_kept_or_start_anew(coco):
    file, theirs, _, _ = coco
    old = theirs.roi_heads.state_dict()
    assert same(small(weights=file).roi_heads.state_dict(), old)
    new = small(6, weights=file).roi_heads.state_dict()
    other = {name for name in old if new[name].shape != old[name].shape}
    assert other == {
        f"{part}.{kind}"
        for part in ("box_predictor.cls_score", "box_predictor.bbox_pred", "mask_predictor.mask_fcn_logits")
        for kind in ("weight", "bias")
    }
    assert all(torch.equal(new[name], old[name]) for name in old if name not in other)
    assert new["box_predictor.cls_score.weight"].shape[0] == 6


def test_classes_are_found_by_name(coco):
    file = coco[0]
    some = build("maskrcnn", ["dog", "person"], weights=file, backbone="resnet18", eps=0.0, **FEW)
    assert some.recipe["classes"] == {1: "person", 18: "dog"} and some.recipe["num_classes"] == 91
    assert names(some) == {0: "person", 1: "dog"} and len(COCO_CLASSES) == 80
    other = build("maskrcnn", ["dog", "disc"], weights=file, backbone="resnet18", eps=0.0, **FEW)
    assert other.recipe["classes"] == {1: "dog", 2: "disc"} and other.recipe["num_classes"] == 3


@pytest.mark.parametrize("detector", ["maskrcnn", "solov2"])
def test_heads_of_as_many_other_classes_start_anew(detector, tmp_path):
    options = {"backbone": "resnet18", **FEW} if detector == "maskrcnn" else SOLO
    model = build(detector, ["disc", "box"], **options)
    save(model, tmp_path / "own.pt")
    same_classes, others = (
        build(detector, names, weights=tmp_path / "own.pt") for names in (["box"], ["star", "moon"])
    )
    last = "roi_heads.box_predictor.cls_score.weight" if detector == "maskrcnn" else "head.conv_cls.weight"
    body = "backbone.fpn.inner_blocks.0.0.weight"
    old = model.state_dict()
    assert torch.equal(same_classes.state_dict()[last], old[last])
    assert not torch.equal(others.state_dict()[last], old[last]) and others.state_dict()[last].shape == old[last].shape
    assert torch.equal(others.state_dict()[body], old[body]) and others.recipe["classes"] == {1: "star", 2: "moon"}
    with pytest.raises(ValueError, match="these are new, for other classes"):
        build(detector, ["star", "moon"], weights=tmp_path / "own.pt", freeze="heads")


RELOAD = """
import torch
from yolo_wnlb.detectors.maskrcnn import detect
from yolo_wnlb.detectors.torchvision import load
saved = torch.load("expected.pt", weights_only=True)
model = load("own.pt", "cpu")
with torch.no_grad():
    features = model.module.backbone(model.module.transform([saved["image"]])[0].tensors)
    found = detect(model.module, saved["image"])
for mine, theirs in ((features, saved["features"]), (found, saved["found"])):
    print(len(theirs), set(mine) == set(theirs) and all(torch.equal(mine[k], theirs[k]) for k in mine))
print(model.classes, model.module.training)
"""


def test_a_fresh_process_rebuilds_the_same_module_where_a_guess_would_not(coco, tmp_path):
    file, _, image, _ = coco
    options = {"backbone": "resnet18", "anchor_sizes": (8, 16, 32, 64, 128), "box_score_thresh": 0.0, "eps": 0.0, **FEW}
    block = {"sub_sample": 2, "operation": "dot_product"}
    model = build("maskrcnn", ["disc", "box"], weights=file, stages=(3, 5), block=block, **options)
    for each in blocks_of(model).values():
        nn.init.constant_(each.w, 0.3)
    save(model, tmp_path / "own.pt")
    expected = features(model, image)
    with torch.no_grad():
        content = {"image": image, "features": dict(expected), "found": detect(model, image)}
    torch.save(content, tmp_path / "expected.pt")
    done = run_python(RELOAD, tmp_path)
    assert done.stdout.splitlines() == ["5 True", "4 True", "{1: 'disc', 2: 'box'} False"], done.stderr

    guess = rcnn.plain(3, "v1", "resnet18", "batch", 1e-5, FEW)  # loads without a complaint
    rcnn.insert_blocks(guess.backbone.body, (3, 5), **block)
    guess.load_state_dict(model.state_dict())
    assert not torch.allclose(features(guess, image)["0"], expected["0"], rtol=1e-3)


def test_weights_trained_here_bring_their_settings(coco, tmp_path):
    file, _, image, _ = coco
    model = build(
        "maskrcnn",
        ["disc", "box"],
        weights=file,
        stages=(4,),
        block={"sub_sample": 2},
        backbone="resnet18",
        eps=0.0,
        **FEW,
    )
    nn.init.constant_(model.backbone.body.layer3.wnlb.w, 0.5)
    save(model, tmp_path / "dark.pt")
    own = build("maskrcnn", ["box", "disc"], weights=tmp_path / "dark.pt", stages=(4, 5))
    assert same(features(own, image), features(model, image)) and own.recipe["classes"] == {1: "disc", 2: "box"}
    assert own.recipe["block"] == {"sub_sample": 2} and own.recipe["eps"] == 0 and own.recipe["options"] == FEW
    assert list(blocks_of(build("maskrcnn", ["disc"], weights=tmp_path / "dark.pt"))) == ["layer3"]
    with pytest.raises(ValueError, match=r"blocks after res\[4\], which stages=\(3,\) would drop"):
        build("maskrcnn", ["disc"], weights=tmp_path / "dark.pt", stages=(3,))
    with pytest.raises(ValueError, match=r"trained with {'sub_sample': 2}; got {}"):
        build("maskrcnn", ["disc"], weights=tmp_path / "dark.pt", block={})


def test_solov2_is_built_kept_and_rebuilt_alike(tmp_path):
    start = build("solov2", ["disc", "box", "star"], **SOLO)
    assert isinstance(start.backbone.body.bn1, nn.BatchNorm2d) and all(p.requires_grad for p in start.parameters())
    save(lively(start), tmp_path / "bright.pt")
    model = build("solov2", ["star", "disc"], weights=tmp_path / "bright.pt", stages=(4,), freeze="heads+fpn")
    assert model.recipe["classes"] == {1: "disc", 3: "star"}
    image = torch.rand(3, 96, 100)
    with torch.no_grad():
        assert same(model.eval()([image])[0], start.eval()([image])[0])
    assert {n.split(".")[1] for n, p in model.named_parameters() if p.requires_grad} == {"body"}
    save(model, tmp_path / "dark.pt")
    again = load(tmp_path / "dark.pt", "cpu")
    assert same(again.module.state_dict(), model.state_dict()) and again.module.recipe == model.recipe
    other = build("solov2", ["crescent"], weights=tmp_path / "dark.pt")
    ours, theirs = other.state_dict(), model.state_dict()
    assert {name for name in ours if ours[name].shape != theirs[name].shape} == {
        "head.conv_cls.weight",
        "head.conv_cls.bias",
    }
    assert all(torch.equal(ours[n], theirs[n]) for n in ours if "conv_cls" not in n)


def test_public_weights_of_solov2_keep_cocos_classes(tmp_path):
    model = lively(build("solov2", list(COCO_CLASSES.values()), norm="frozen", **SOLO))
    places = (("backbone.body.", "backbone."), ("head.", "mask_head."), ("backbone.fpn.", "neck."))
    state = {}
    for name, tensor in model.state_dict().items():
        old, new = next(place for place in places if name.startswith(place[0]))
        name = new + name.removeprefix(old)
        if new == "neck.":
            name = name.replace("inner_blocks", "lateral_convs").replace("layer_blocks", "fpn_convs")
            name = name.replace(".0.weight", ".conv.weight").replace(".0.bias", ".conv.bias")
        state[name] = tensor
    file = tmp_path / "solov2.pth"
    torch.save({"state_dict": state, "meta": {"CLASSES": tuple(COCO_CLASSES.values())}}, file)
    loaded = build("solov2", ["dog", "person"], weights=file, stages=(5,), **SOLO)
    assert loaded.recipe["classes"] == {1: "person", 17: "dog"} and loaded.recipe["norm"] == "frozen"
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


# ---- learning ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("freeze", "parts"),
    [
        ("none", {"backbone.body", "backbone.fpn", "rpn.head", "roi_heads.box_head", "roi_heads.mask_head"}),
        ("heads", {"backbone.body", "backbone.fpn"}),
        ("heads+fpn", {"backbone.body"}),
    ],
)
def test_frozen_parts_get_no_gradient_and_the_rest_does(freeze, parts, coco):
    model = small(weights=coco[0], stages=(2, 4), freeze=freeze)
    losses = model.train()([torch.rand(3, 96, 96)], [target()])
    sum(losses.values()).backward()
    reached = {".".join(name.split(".")[:2]) for name, p in model.named_parameters() if p.grad is not None}
    assert reached - {"roi_heads.box_predictor", "roi_heads.mask_predictor"} == parts
    assert ("roi_heads.box_predictor" in reached) == (freeze == "none")
    stem = model.backbone.body.conv1.weight.grad
    assert (stem is None) == (freeze == "none")  # torchvision leaves stem and res2 alone when all is fine-tuned
    assert all(block.w.grad.item() != 0 for block in blocks_of(model).values())  # also where res2 is frozen


def test_trainable_layers_and_a_random_start(coco):
    model = small(weights=coco[0], trainable_layers=1)
    frozen = {name.split(".")[2] for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"conv1", "layer1", "layer2", "layer3"}
    fresh = small(3)
    assert all(p.requires_grad for p in fresh.parameters())
    assert maskrcnn(2, backbone="resnet18").recipe["options"] == {"min_size": (800,), "max_size": 1333}
    assert fresh.recipe["norm"] == "batch" and fresh.recipe["eps"] == 1e-5 and "classes" not in fresh.recipe


def test_images_without_objects_are_learnt_from(coco):
    model = small(3, weights=coco[0]).train()
    empty = {"boxes": torch.zeros(0, 4), "labels": NONE, "masks": torch.zeros(0, 80, 96, dtype=torch.uint8)}
    losses = model([torch.rand(3, 80, 96), torch.rand(3, 96, 96)], [empty, target()])
    assert all(value.isfinite() for value in losses.values()) and losses["loss_mask"] > 0
    losses = model([torch.rand(3, 80, 96)], [empty])
    assert losses["loss_mask"] == 0 and losses["loss_classifier"] > 0


# ---- detections --------------------------------------------------------------------------------------


def test_masks_are_pasted_as_torchvision_does():
    masks = nn.functional.interpolate(torch.rand(60, 1, 7, 7), size=(28, 28), mode="bicubic").clamp(0, 1)
    centre = torch.rand(60, 2) * torch.tensor([160.0, 120])
    half = torch.rand(60, 2) ** 3 * 100 + 0.3
    boxes = torch.cat([centre - half, centre + half], 1)
    boxes[::2, 0::2] = boxes[::2, 0::2].clamp(0, 160)  # as detections are; the others leave the picture
    boxes[::2, 1::2] = boxes[::2, 1::2].clamp(0, 120)
    soft = paste_masks_in_image(masks, boxes, (120, 160))[:, 0]
    drawn = paste(masks[:, 0], boxes, (120, 160))
    assert drawn.any((1, 2)).sum() > 50 and drawn.mean() < 0.5
    sure = (soft - 0.5).abs() > 1e-6  # the rest is a matter of rounding
    assert np.array_equal(drawn & sure.numpy(), ((soft > 0.5) & sure).numpy()) and (~sure).sum() < 5
    codes = encode_pasted(masks[:, 0], boxes, (120, 160))
    assert np.array_equal(coder.decode(codes).transpose(2, 0, 1), drawn)
    assert (
        paste(masks[:0, 0], boxes[:0], (4, 5)).shape == (0, 4, 5)
        and encode_pasted(masks[:0, 0], boxes[:0], (4, 5)) == []
    )


def test_detect_is_the_model_but_for_the_drawing(coco):
    _, model, image, _ = coco
    with torch.no_grad():
        expected, found = model.eval()([image])[0], detect(model, image)
    assert len(expected["scores"]) == 20
    assert all(torch.equal(found[key], expected[key]) for key in ("boxes", "labels", "scores"))
    drawn = paste(found["masks"], found["boxes"], image.shape[1:])
    assert np.array_equal(drawn, (expected["masks"][:, 0] > 0.5).numpy())


@pytest.fixture
def pictures(tmp_path):
    import cv2

    files = {}
    for number, (height, width) in enumerate([(96, 128), (96, 96)], 7):
        files[number] = tmp_path / f"{number}.png"
        cv2.imwrite(str(files[number]), scene(np.random.default_rng(number), 128).image[:height, :width])
    return files


@pytest.mark.parametrize("detector", ["maskrcnn", "solov2"])
def test_predictions_are_coco_results_of_the_wanted_classes(detector, pictures, tmp_path):
    options = {"backbone": "resnet18", "box_score_thresh": 0.0, **FEW} if detector == "maskrcnn" else SOLO
    model = lively(build(detector, ["disc", "box", "star"], **options))
    if detector == "solov2":
        model.score_thr = model.filter_thr = 0.0
    save(model, tmp_path / "own.pt")
    model = load(model)
    everything = predict(model, pictures, {0: 10, 1: 11, 2: 12}, conf=0.0, max_det=15)
    assert model.module.training  # as it was handed over
    assert {p["image_id"] for p in everything} == {7, 8}
    assert {p["category_id"] for p in everything} <= {10, 11, 12}
    for key, file in pictures.items():
        mine = [p for p in everything if p["image_id"] == key]
        scores = [p["score"] for p in mine]
        assert 0 < len(mine) <= 15 and scores == sorted(scores, reverse=True)
        assert all(p["segmentation"]["size"] == ([96, 128] if key == 7 else [96, 96]) for p in mine), file
        x, y, w, h = np.array([p["bbox"] for p in mine]).T
        assert min(x.min(), y.min(), w.min(), h.min()) >= 0 and (x + w).max() <= 128 and (y + h).max() <= 96
    wanted = everything[0]["category_id"]
    some = predict(model, pictures, {wanted - 10: wanted}, conf=0.0, max_det=15)
    assert {p["category_id"] for p in some} == {wanted}
    mine = [p for p in everything if p["category_id"] == wanted and p["image_id"] == 7]
    assert [p for p in some if p["image_id"] == 7][: len(mine)] == mine  # others take no place
    high = sorted(p["score"] for p in everything)[len(everything) // 2]
    assert all(p["score"] >= high for p in predict(model, pictures, {0: 10, 1: 11, 2: 12}, conf=high))
    told = describe(model, imgsz=64, conf=0.2)
    assert told["image_size"] == "short side 64, long side up to 85" and told["confidence_floor"] == 0.2
    assert describe(model)["image_size"] == "short side 96, long side up to 128"
    one = predict(tmp_path / "own.pt", {7: pictures[7]}, {0: 10}, imgsz=(64, 80), device="cpu")
    assert all(p["image_id"] == 7 for p in one)


def test_published_weights_are_asked_as_they_are(coco, pictures):
    file, _, image, wanted = coco
    model = published("maskrcnn", file, "cpu", backbone="resnet18", eps=0.0, box_score_thresh=0.0, **FEW)
    assert model.classes == COCO_CLASSES and not model.module.training
    found = features(model.module, image)
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)
    assert predict(model, {7: pictures[7]}, dict.fromkeys(range(80), 1))
    assert describe(model)["weights"] == "maskrcnn_coco.pth" and len(describe(model)["sha256"]) == 64


# ---- mistakes ----------------------------------------------------------------------------------------


def test_only_our_checkpoints_are_read_as_such(coco, source, tmp_path):
    save(build("solov2", ["disc"], **SOLO), tmp_path / "own.pt")
    assert reads(tmp_path / "own.pt")
    (tmp_path / "text.pt").write_text("no checkpoint")
    others = [coco[0], source("yolov8n-seg"), tmp_path / "text.pt", tmp_path / "nowhere.pt", tmp_path]
    assert not any(map(reads, others))
    with pytest.raises(ValueError, match=r"was not written here; load weights of torchvision"):
        load(coco[0])
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nowhere.pt")
    with pytest.raises(TypeError, match="Linear is neither a Mask R-CNN"):
        load(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"variant": "v3"}, "variant must be one of v1, v2; got 'v3'"),
        ({"norm": "group"}, "norm must be one of frozen, batch; got 'group'"),
        ({"variant": "v2", "backbone": "resnet18"}, "variant 'v2' has backbone='resnet50'"),
        ({"freeze": "backbone"}, "freeze must be one of none, heads, heads.fpn; got 'backbone'"),
        ({"freeze": "heads"}, "heads at a random start .nothing is trained yet."),
        ({"freeze": "heads", "weights": "file"}, "these are new, for other classes"),
        ({"trainable_layers": 6}, "trainable_layers must be 0 to 5; got 6"),
        ({"stages": (1,)}, "stages must be among"),
        ({"backbone": "resnet19"}, r"backbone must be one of resnet101, .*; got 'resnet19' \(did you mean 'resnet18'"),
        ({"box_head": nn.Identity()}, "plain values.*box_head"),
        ({"anchor_sizes": (8, 16)}, "anchor_sizes needs one size for each of 5 levels"),
        ({"weights": "file", "backbone": "resnet34"}, r"\d+ tensors are missing .first: backbone.body.layer1.2"),
        ({"weights": "file", "variant": "v2", "backbone": None}, "does not fit Mask R-CNN v2 on resnet50"),
        ({"weights": "solo"}, "holds no Mask R-CNN but solov2"),
    ],
    ids=str,
)
def test_mistakes_in_building_are_called_by_name(arguments, message, coco, tmp_path):
    if arguments.get("weights") == "file":
        arguments = {**arguments, "weights": coco[0], "eps": 0.0}
    if arguments.get("weights") == "solo":
        save(build("solov2", ["disc"], **SOLO), tmp_path / "own.pt")
        arguments = {**arguments, "weights": tmp_path / "own.pt"}
    with pytest.raises(ValueError, match=message):
        maskrcnn(3, **{"backbone": "resnet18", **FEW, **arguments})


def test_names_weights_and_numbers_are_checked(coco, tmp_path, monkeypatch, pictures):
    with pytest.raises(ValueError, match="no detector 'yolact'; choose from maskrcnn, maskrcnn_v2, solov2"):
        build("yolact", ["disc"])
    with pytest.raises(ValueError, match="at least one, and different; got disc, disc"):
        build("solov2", ["disc", "disc"])
    with pytest.raises(ValueError, match="download solov2_r50_fpn_3x_coco"):
        build("solov2", ["disc"], weights="coco")
    torch.save({"w": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="holds no Mask R-CNN but tensors such as w"):
        build("maskrcnn", ["disc"], weights=tmp_path / "other.pth")
    model = build("solov2", ["disc"], **SOLO)
    save(model, tmp_path / "own.pt")
    with pytest.raises(ValueError, match="holds solov2 solov2, not solov2_light"):
        build("solov2_light", ["disc"], weights=tmp_path / "own.pt")
    for wrong, message in (
        ({"conf": 1.5}, "conf is 1.5"),
        ({"max_det": 0}, "max_det 0"),
        ({"imgsz": (90, 60)}, "imgsz is"),
    ):
        with pytest.raises(ValueError, match=message):
            predict(model, pictures, {0: 1}, **wrong)
    with pytest.raises(OSError, match=r"there is no image .*gone.png"):
        predict(model, {1: tmp_path / "gone.png"}, {0: 1})

    def offline(**_):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(type(rcnn.COCO["v1"]), "get_state_dict", lambda self, **_: offline())
    with pytest.raises(OSError, match=r"no network.*download https://.*maskrcnn_resnet50_fpn_coco.*weights=FILE"):
        maskrcnn(weights="coco")


def test_a_checkpoint_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    model = build("solov2", ["disc"], **SOLO)
    save(model, tmp_path / "last.pt")
    before = (tmp_path / "last.pt").read_bytes()

    def half(error):
        def write(content, file):
            file.write_bytes(b"PK")
            raise error

        return write

    for raised, expected, message in (
        (KeyboardInterrupt(), KeyboardInterrupt, None),
        (OSError(28, "No space left on device"), OSError, r"last\.pt cannot be written: No space left.*make room"),
        (
            RuntimeError("[enforce fail at inline_container.cc:664] unexpected pos"),
            OSError,
            r"last\.pt .* is the disk full",
        ),
    ):
        monkeypatch.setattr(torch, "save", half(raised))
        with pytest.raises(expected, match=message):
            save(model, tmp_path / "last.pt")
        assert {file.name for file in tmp_path.iterdir()} == {"last.pt"}
        assert (tmp_path / "last.pt").read_bytes() == before
    monkeypatch.undo()
    with replaced(tmp_path / "last.pt") as draft:
        draft.write_bytes(before)
    draft.write_bytes(b"of a run that was killed")
    save(model, tmp_path / "last.pt")
    assert {file.name for file in tmp_path.iterdir()} == {"last.pt"}


# ---- numbers that would stand for something else -----------------------------------------------------


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """What `save` writes of a small SOLOv2 of two classes."""
    torch.manual_seed(2)
    file = tmp_path_factory.mktemp("own") / "own.pt"
    save(build("solov2", ["disc", "box"], **SOLO), file)
    return torch.load(file, weights_only=True)


LAST = "head.conv_cls.weight"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: t.clone().index_fill_(0, torch.tensor([1]), float("nan")), "holds NaN or infinity"),
        (lambda t: t.to(torch.int8), "is torch.int8, the model has torch.float32"),
        (lambda t: t.to(torch.complex64), "is torch.complex64"),
        (lambda t: t.double() + 1e-12, "is torch.float64 with more digits than torch.float32"),
        (lambda t: "text", "is str, no tensor"),
        (lambda t: t.to_sparse(), "is torch.sparse_coo on cpu; save plain tensors"),
        (lambda t: t[0, 0, 0, 0].clone().expand_as(t), r"claims to be \(2, 32, 3, 3\), and \d+ bytes of it are stored"),
        (lambda t: t.new_zeros(()).expand(10**9, 32, 3, 3), r"claims to be \(1000000000, 32, 3, 3\), and \d+ bytes"),
        (lambda t: t[:, :16], "size mismatch for head.conv_cls.weight"),
        (lambda t: None, "1 tensors are missing .first: head.conv_cls.weight"),
    ],
)
def test_a_tensor_that_would_become_other_numbers_is_refused_by_name(spoil, message, own, tmp_path):
    state = {**own["state_dict"], LAST: spoil(own["state_dict"][LAST])}
    state = {name: value for name, value in state.items() if value is not None}
    torch.save({**own, "state_dict": state}, tmp_path / "own.pt")
    with pytest.raises(ValueError, match=rf"own\.pt.*{message}"):
        load(tmp_path / "own.pt", "cpu")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_numbers_that_the_model_holds_exactly_are_taken_in_any_precision(dtype, own, tmp_path):
    state = {name: t.half().to(dtype) if t.is_floating_point() else t for name, t in own["state_dict"].items()}
    torch.save({**own, "state_dict": state}, tmp_path / "own.pt")
    loaded = load(tmp_path / "own.pt", "cpu").module.state_dict()
    assert all(torch.equal(loaded[name], t.to(loaded[name].dtype)) for name, t in state.items())


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("num_classes", 10**9, "size mismatch"),  # without taking the memory
        ("num_classes", "two", "'num_classes' of its recipe is str"),
        ("num_classes", True, "'num_classes' of its recipe is bool"),
        ("variant", "solov3", "its recipe builds no model"),
        ("detector", "yolact", "its recipe builds no model|is damaged"),
        ("backbone", "list_models", "backbone must be one of"),
        ("norm", "none", "norm must be one of"),
        ("stages", [9], "blocks after unknown stages"),
        ("stages", [4], "tensors are missing"),
        ("options", {"feat_channels": 2**15}, "size mismatch"),
        ("options", {"depth": 3}, "its recipe builds no model .*depth"),
        ("options", None, "'options' of its recipe is NoneType"),
        ("classes", ["disc"], "the classes of its recipe are no labels with names"),
        ("classes", {"disc": 1}, "the classes of its recipe are no labels with names"),
    ],
)
def test_a_damaged_recipe_is_refused_with_the_file_named(key, value, message, own, tmp_path):
    torch.save({**own, "meta": {**own["meta"], key: value}}, tmp_path / "own.pt")
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "own.pt", "cpu")


def test_class_names_of_a_public_file_have_to_be_as_many_as_its_classifier_has_outputs(tmp_path):
    state = {"mask_head.conv_cls.weight": torch.zeros(3, 32, 3, 3), "mask_head.conv_cls.bias": torch.zeros(3)}
    torch.save({"state_dict": state, "meta": {"CLASSES": ("disc", "box")}}, tmp_path / "public.pth")
    with pytest.raises(ValueError, match=r"public\.pth names 2 classes, and its classifier has 3"):
        published("solov2", tmp_path / "public.pth", **SOLO)


def test_outputs_without_names_are_taken_for_cocos_with_a_word(coco, caplog):
    build("maskrcnn", ["dog"], weights=coco[0], backbone="resnet18", eps=0.0, **FEW)
    assert "maskrcnn_coco.pth has 91 outputs and no names: they are taken for COCO's classes" in caplog.text
