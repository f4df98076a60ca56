"""SOLOv2 against plain loops over its definitions, the published checkpoint's names, and what it can learn."""

import contextlib
import doctest
import io
import math
import sys
import types
from collections import OrderedDict

import numpy as np
import pytest
import torch
from conftest import Pyramid, run_python, scenes
from conftest import small_solov2 as small
from torch import nn
from torchvision.models import resnet18, resnet50
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from yolo_wnlb.data.shapes import NAMES
from yolo_wnlb.detectors import resnet
from yolo_wnlb.detectors import solov2 as module
from yolo_wnlb.detectors.resnet import insert_blocks
from yolo_wnlb.detectors.solov2 import SOLOv2, solov2, solov2_light
from yolo_wnlb.detectors.solov2_targets import assign, centres_of_mass, quarter
from yolo_wnlb.detectors.solov2_weights import load_public
from yolo_wnlb.detectors.torchvision import published

PUBLISHED = {
    "num_grids": (40, 36, 24, 16, 12),
    "scale_ranges": ((1, 96), (48, 192), (96, 384), (192, 768), (384, 2048)),
    "pos_scale": 0.2,
}

pytestmark = pytest.mark.usefixtures("seed")


def box_of(mask):
    y, x = np.nonzero(mask)
    return [x.min(), y.min(), x.max() + 1, y.max() + 1] if len(x) else [0, 0, 0, 0]


def target_of(masks, labels):
    masks = np.asarray(masks, np.uint8)
    boxes = torch.tensor([box_of(m) for m in masks], dtype=torch.float).reshape(-1, 4)
    return {"boxes": boxes, "labels": torch.tensor(labels, dtype=torch.int64), "masks": torch.from_numpy(masks)}


def pictures(number, size, crowd=3):
    """Images and targets of `scenes`."""
    images, targets = [], []
    for drawn in scenes(number, size, crowd):
        images.append(torch.from_numpy(drawn.image[..., ::-1].copy()).permute(2, 0, 1) / 255)
        targets.append(target_of(drawn.masks, [kind + 1 for kind in drawn.classes]))
    return images, targets


def filled(size, *boxes):
    """Masks (N, *size) of xyxy rectangles."""
    masks = np.zeros((len(boxes), *size), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes):
        mask[y1:y2, x1:x2] = 1
    return masks


def assigned(masks, labels=None, boxes=None, **options):
    """Call `assign` with the published settings on masks (N, H, W)."""
    target = target_of(masks, list(range(len(masks))) if labels is None else labels)
    boxes = target["boxes"] if boxes is None else torch.tensor(boxes, dtype=torch.float)
    return assign(boxes, target["labels"], target["masks"], **{"num_classes": 80, **PUBLISHED, **options})


def levels_of(assignment, grids=PUBLISHED["num_grids"]):
    """Spell the positives out as (level, row, column, object)."""
    starts = np.cumsum([0, *(n * n for n in grids)])
    found = []
    for cell, owner in zip(assignment.cells.tolist(), assignment.objects.tolist()):
        level = int(np.searchsorted(starts, cell, "right")) - 1
        found.append((level, *divmod(cell - int(starts[level]), grids[level]), owner))
    return found


# ---- definitions, by loops -------------------------------------------------------------------------


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, float)))


def bilinear(x, height, width):
    """Resize (C, H, W); output pixel i lies at (i + 1/2) * in / out - 1/2, held inside the picture."""
    out = np.zeros((len(x), height, width))
    for i in range(height):
        for j in range(width):
            y = max((i + 0.5) * x.shape[1] / height - 0.5, 0)
            u = max((j + 0.5) * x.shape[2] / width - 0.5, 0)
            top, left = min(int(y), x.shape[1] - 1), min(int(u), x.shape[2] - 1)
            low, right = min(top + 1, x.shape[1] - 1), min(left + 1, x.shape[2] - 1)
            a, b = y - top, u - left
            above = (1 - b) * x[:, top, left] + b * x[:, top, right]
            below = (1 - b) * x[:, low, left] + b * x[:, low, right]
            out[:, i, j] = (1 - a) * above + a * below
    return out


def convolve(x, conv):
    """Zero-padded correlation of (C, H, W), summed over the positions of the kernel."""
    weight = conv.weight.detach().numpy()
    half = weight.shape[2] // 2
    padded = np.pad(x, ((0, 0), (half, half), (half, half)))
    out = np.zeros((len(weight), *x.shape[1:]))
    for i in range(weight.shape[2]):
        for j in range(weight.shape[3]):
            window = padded[:, i : i + x.shape[1], j : j + x.shape[2]]
            out += np.tensordot(weight[:, :, i, j], window, 1)
    return out if conv.bias is None else out + conv.bias.detach().numpy()[:, None, None]


def conv_norm(x, layer):
    x = convolve(x, layer.conv)
    out = np.zeros_like(x)
    for group in np.split(np.arange(len(x)), 32):
        part = x[group]
        out[group] = (part - part.mean()) / np.sqrt(part.var() + 1e-5)
    weight, bias = (p.detach().numpy()[:, None, None] for p in (layer.gn.weight, layer.gn.bias))
    return np.maximum(out * weight + bias, 0)


def add_coordinates(x):
    _, height, width = x.shape
    across, down = np.zeros((1, height, width)), np.zeros((1, height, width))
    for i in range(height):
        for j in range(width):
            across[0, i, j] = -1 + 2 * j / (width - 1)
            down[0, i, j] = -1 + 2 * i / (height - 1)
    return np.concatenate([x, across, down])


def head_by_definition(head, features):
    """Return the logits and kernels of all levels, and the mask features, of maps (C, H, W)."""
    p2, p3, p4, p5, p6 = features
    fed = [bilinear(p2, p2.shape[1] // 2, p2.shape[2] // 2), p3, p4, p5, bilinear(p6, *p5.shape[1:])]
    logits, kernels = [], []
    for grid, x in zip(head.num_grids, fed):
        k, c = bilinear(add_coordinates(x), grid, grid), bilinear(x, grid, grid)
        for layer in head.kernel_convs:
            k = conv_norm(k, layer)
        for layer in head.cls_convs:
            c = conv_norm(c, layer)
        logits.append(convolve(c, head.conv_cls))
        kernels.append(convolve(k, head.conv_kernel))
    total = 0
    for level, x in enumerate([p2, p3, p4, add_coordinates(p5)]):
        convs = head.mask_feature_head.convs_all_levels[level]
        x = conv_norm(x, convs.conv0)
        for j in range(1, level + 1):  # as many doublings as levels, a convolution before each
            x = bilinear(x, 2 * x.shape[1], 2 * x.shape[2])
            x = x if j == level else conv_norm(x, getattr(convs, f"conv{j}"))
        total = total + x
    return logits, kernels, conv_norm(total, head.mask_feature_head.conv_pred)


def targets_by_definition(boxes, labels, masks, num_classes, num_grids, scale_ranges, pos_scale):
    """Return the label grids of all levels, and the positives (level, row, column, object)."""
    f = np.float32
    height, width = masks.shape[1:]
    grids, positives = [], []
    for level, (n, (low, high)) in enumerate(zip(num_grids, scale_ranges)):
        grid = np.full((n, n), num_classes)
        for k, (box, label, mask) in enumerate(zip(np.asarray(boxes, f), labels, masks)):
            w, h = box[2] - box[0], box[3] - box[1]
            pixels = [(i, j) for i in range(height) for j in range(width) if mask[i, j]]
            if not low <= np.sqrt(w * h) <= high or not pixels:
                continue
            cy = f(sum(i for i, _ in pixels)) / f(len(pixels))
            cx = f(sum(j for _, j in pixels)) / f(len(pixels))
            hw, hh = f(0.5) * w * f(pos_scale), f(0.5) * h * f(pos_scale)

            def cell(c, length, n=n):
                return math.trunc(float((f(c) / f(length)) / f(1 / n)))

            top, left = max(cell(cy - hh, height), 0), max(cell(cx - hw, width), 0)
            down, right = min(cell(cy + hh, height), n - 1), min(cell(cx + hw, width), n - 1)
            row, column = cell(cy, height), cell(cx, width)
            for i in range(max(top, row - 1), min(down, row + 1) + 1):
                for j in range(max(left, column - 1), min(right, column + 1) + 1):
                    grid[i, j] = label
                    positives.append((level, i, j, k))
        grids.append(grid)
    return grids, positives


def matrix_nms_by_definition(masks, labels, scores, sigma):
    def iou(i, j):
        return (masks[i] & masks[j]).sum() / (masks[i] | masks[j]).sum()

    def above(i):
        return [j for j in range(i) if labels[j] == labels[i]]

    new = []
    for i, score in enumerate(scores):
        worst = {j: max((iou(j, k) for k in above(j)), default=0) for j in above(i)}
        decay = [math.exp(-sigma * (iou(i, j) ** 2 - worst[j] ** 2)) for j in above(i)]
        new.append(score * min(decay, default=1))
    return np.array(new)


def detections_by_definition(model, scores, kernels, features, resized, original):
    """Return [(score, label, mask at the original size)] by falling score."""
    strides = [s for n, s in zip(model.num_grids, (8, 8, 16, 32, 32)) for _ in range(n * n)]
    found = []
    for cell in range(len(scores)):
        for label in range(scores.shape[1]):
            if not scores[cell, label] > model.score_thr:
                continue
            soft = sigmoid(np.tensordot(kernels[cell], features, 1))
            mask = soft > model.mask_thr
            if mask.sum() > strides[cell]:
                found.append((scores[cell, label] * soft[mask].mean(), label + 1, mask, soft))
    found = sorted(found, key=lambda one: -one[0])[: model.nms_pre]
    values, labels, masks, soft = zip(*found)
    values = matrix_nms_by_definition(masks, labels, values, model.sigma)
    kept = sorted((i for i in range(len(values)) if values[i] >= model.filter_thr), key=lambda i: -values[i])
    final = []
    for i in kept[: model.max_per_img]:
        large = bilinear(soft[i][None], 4 * soft[i].shape[0], 4 * soft[i].shape[1])[:, : resized[0], : resized[1]]
        final.append((values[i], labels[i], bilinear(large, *original)[0] > model.mask_thr))
    return final


# ---- the head --------------------------------------------------------------------------------------


def test_the_head_computes_its_definition():
    model = small(num_grids=(5, 4, 3, 2, 2), feat_channels=32)
    head = model.head.double()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_(0, 0.3)
    features = [torch.randn(1, 32, 64 >> i, 96 >> i).double() for i in range(2, 7)]
    with torch.no_grad():
        got = head(features)
    wanted = head_by_definition(head, [x[0].numpy() for x in features])
    for mine, theirs in zip([*got[0], *got[1], got[2]], [*wanted[0], *wanted[1], wanted[2]]):
        np.testing.assert_allclose(mine[0].numpy(), theirs, atol=1e-5)  # coordinates are float32


def test_the_head_starts_at_the_focal_prior():
    head = small().head
    assert torch.allclose(head.conv_cls.bias.sigmoid(), torch.tensor(0.01))
    assert abs(head.kernel_convs[0].conv.weight.std().item() - 0.01) < 5e-4


def test_the_published_values_are_the_defaults():
    model = SOLOv2(Pyramid())
    names = ["num_classes", "num_grids", "scale_ranges", "pos_scale", "dice_weight", "focal_alpha", "focal_gamma"]
    names += ["score_thr", "mask_thr", "nms_pre", "filter_thr", "sigma", "max_per_img", "max_size"]
    wanted = [80, *PUBLISHED.values(), 3.0, 0.25, 2.0, 0.1, 0.5, 500, 0.05, 2.0, 100, 1333]
    assert [getattr(model, name) for name in names] == wanted
    assert model.min_size[-1] == 800 and module.STRIDES == (8, 8, 16, 32, 32)
    assert model.image_mean == pytest.approx([m / 255 for m in (123.675, 116.28, 103.53)])
    assert model.image_std == pytest.approx([s / 255 for s in (58.395, 57.12, 57.375)])


# ---- targets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("draw", range(3))
def test_targets_follow_their_definition(draw):
    rng = np.random.default_rng(draw)
    height, width, masks = 64, 96, []
    for _ in range(12):
        y, x = rng.integers(0, height - 4), rng.integers(0, width - 4)
        mask = filled((height, width), (x, y, x + rng.integers(3, 60), y + rng.integers(3, 60)))[0]
        masks.append(mask * (rng.random(mask.shape) < 0.7))
    masks[5][:] = 0
    options = {
        "num_classes": 4,
        "num_grids": (9, 7, 5, 3, 2),
        "scale_ranges": ((1, 12), (8, 24), (16, 48), (30, 60), (50, 90)),
        "pos_scale": 0.5,
    }
    labels = rng.integers(0, 4, 12).tolist()
    got = assigned(masks, labels, **options)
    boxes = [box_of(mask) for mask in masks]
    grids, positives = targets_by_definition(boxes, labels, np.array(masks), **options)
    assert levels_of(got, options["num_grids"]) == positives and len(positives) > 20
    assert got.labels.tolist() == np.concatenate([grid.ravel() for grid in grids]).tolist()
    assert len({p[:3] for p in positives}) < len(positives)  # some cells are claimed twice


@pytest.mark.parametrize(
    ("side", "levels"),
    [
        (1, {0}),
        (47, {0}),
        (48, {0, 1}),
        (96, {0, 1, 2}),
        (97, {1, 2}),
        (192, {1, 2, 3}),
        (384, {2, 3, 4}),
        (385, {3, 4}),
    ],
)
def test_both_bounds_of_a_scale_range_are_inside_it(side, levels):
    got = assigned(filled((416, 416), (8, 8, 8 + side, 8 + side)))
    assert {level for level, *_ in levels_of(got)} == levels


def test_the_size_of_an_object_is_that_of_its_box():
    thin = np.zeros((1, 256, 256))
    thin[0, range(200), range(200)] = 1  # 200 pixels in a box of 200 x 200
    assert {level for level, *_ in levels_of(assigned(thin))} == {2, 3}


def test_the_centre_is_the_centre_of_mass_not_of_the_box():
    mask = filled((160, 160), (0, 0, 80, 8))
    mask[0, :80, :8] = 1  # an L: its mass lies towards the corner
    x = (8 * sum(range(80)) + 72 * sum(range(8))) / (640 + 576)
    assert centres_of_mass(torch.from_numpy(mask))[0].tolist() == pytest.approx([x, x])
    got = levels_of(assigned(mask, pos_scale=0.0))
    assert (0, int(x / 4), int(x / 4), 0) in got and (0, 10, 10, 0) not in got


def test_cells_are_a_share_of_the_padded_picture():
    mask = filled((64, 64), (40, 40, 50, 50))
    padded = np.pad(mask, ((0, 0), (0, 0), (0, 64)))
    options = {"num_grids": (8,), "scale_ranges": ((1, 96),)}
    assert levels_of(assigned(mask, **options), (8,)) == [(0, 5, 5, 0)]
    assert levels_of(assigned(padded, **options), (8,)) == [(0, 5, 2, 0)]


def test_at_most_the_cells_next_to_the_centre_are_positive():
    masks = filled((256, 256), (60, 60, 150, 150))
    got = [p for p in levels_of(assigned(masks, pos_scale=1.0)) if p[0] == 0]
    assert got == [(0, i, j, 0) for i in (15, 16, 17) for j in (15, 16, 17)]  # not the 14 x 14 in the box


def test_no_cell_outside_the_grid_is_positive():
    masks = filled((256, 256), (0, 0, 90, 9), (250, 170, 256, 256))
    got = [p for p in levels_of(assigned(masks, pos_scale=3.0)) if p[0] == 0]
    assert {p[1] for p in got if p[3] == 0} == {0, 1} and {p[2] for p in got if p[3] == 1} == {38, 39}


def test_a_cell_claimed_twice_keeps_both_masks_and_the_later_label():
    masks = filled((256, 256), (100, 100, 140, 140), (110, 110, 130, 130))
    got = assigned(masks, [7, 3])
    shared = set(got.cells[got.objects == 0].tolist()) & set(got.cells[got.objects == 1].tolist())
    assert shared
    for cell in shared:
        assert got.objects[got.cells == cell].tolist() == [0, 1] and got.labels[cell] == 3
    assert (got.labels < 80).sum() == len(set(got.cells.tolist())) < len(got.cells)


def test_a_mask_target_needs_two_of_the_four_pixels_in_the_middle():
    masks = torch.from_numpy(np.random.default_rng(0).integers(0, 2, (4, 32, 64))).byte()
    got = quarter(masks * 255)
    for n in range(4):
        for i in range(8):
            for j in range(16):
                middle = [masks[n, 4 * i + a, 4 * j + b].item() for a in (1, 2) for b in (1, 2)]
                assert got[n, i, j] == (sum(middle) >= 2)


def test_an_object_without_a_pixel_is_skipped():
    masks = filled((128, 128), (10, 10, 40, 40), (0, 0, 0, 0))
    got = assigned(masks, boxes=[[10, 10, 40, 40], [60, 60, 100, 100]])
    assert set(got.objects.tolist()) == {0}


def test_a_picture_without_objects_is_all_background():
    got = assigned(np.zeros((0, 64, 64)))
    assert len(got.cells) == len(got.objects) == 0 and got.masks.shape == (0, 16, 16)
    assert got.labels.tolist() == [80] * sum(n * n for n in PUBLISHED["num_grids"])


def test_targets_are_resized_with_their_picture():
    model = small()
    masks = filled((30, 40), (4, 6, 16, 21))
    target = target_of(masks, [2])
    got = model.assign(target, (60, 80), (64, 96))
    large = np.pad(masks.repeat(2, 1).repeat(2, 2), ((0, 0), (0, 4), (0, 16)))
    options = {name: getattr(model, name) for name in ("num_classes", "num_grids", "scale_ranges", "pos_scale")}
    wanted = assigned(large, [1], [[8, 12, 32, 42]], **options)
    assert all(torch.equal(a, b) for a, b in zip(got, wanted)) and got.masks.sum() == 6 * 8


# ---- losses ----------------------------------------------------------------------------------------


def losses_by_definition(model, logits, kernels, features, targets):
    dice, focal, distinct = 0.0, 0.0, set()
    for b, t in enumerate(targets):
        for cell, owner in zip(t.cells.tolist(), t.objects.tolist()):
            p = sigmoid(np.tensordot(kernels[b, cell], features[b], 1)).ravel()
            m = t.masks[owner].numpy().ravel()
            overlap = sum(a * c for a, c in zip(p, m))
            dice += 1 - 2 * overlap / (sum(a * a for a in p) + 1e-3 + sum(c * c for c in m.astype(int)) + 1e-3)
            distinct.add((b, cell))
        for cell, label in enumerate(t.labels.tolist()):
            for c in range(model.num_classes):
                p = sigmoid(logits[b, cell, c])
                positive = c == label
                focal -= 0.25 * (1 - p) ** 2 * math.log(p) if positive else 0.75 * p**2 * math.log(1 - p)
    return {"loss_mask": 3 * dice / len(distinct), "loss_classifier": focal / (len(distinct) + 1)}


def test_losses_follow_their_definition_and_count_distinct_cells():
    model = small(num_grids=(6, 5, 4, 3, 2), scale_ranges=((1, 40),) * 5)
    options = {name: getattr(model, name) for name in ("num_classes", "num_grids", "scale_ranges", "pos_scale")}
    targets = [
        assigned(filled((64, 64), (10, 10, 30, 34), (16, 14, 28, 30), (40, 40, 60, 50)), [1, 4, 0], **options),
        assigned(filled((64, 64), (0, 0, 20, 30)), [2], **options),
    ]
    assert len(set(targets[0].cells.tolist())) < len(targets[0].cells)
    cells = sum(n * n for n in model.num_grids)
    logits, kernels = torch.randn(2, cells, 5), torch.randn(2, cells, 8)
    features = torch.randn(2, 8, 16, 16)
    got = model.losses(logits, kernels, features, targets)
    wanted = losses_by_definition(model, logits.numpy(), kernels.numpy(), features.numpy(), targets)
    assert {k: v.item() for k, v in got.items()} == pytest.approx(wanted, rel=1e-5)


def test_the_dice_loss_has_its_constant_on_both_sums():
    got = module.dice_loss(torch.tensor([[0.0, -2.0], [-40.0, -40.0]]), torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    p, q = 0.5, float(sigmoid(-2.0))
    assert got.tolist() == pytest.approx([1 - 2 * p / (p * p + q * q + 0.001 + 1 + 0.001), 1], abs=1e-6)


def test_without_objects_the_mask_loss_is_zero_and_everything_gets_a_gradient():
    losses = (model := small(128))([torch.rand(3, 50, 128)], [target_of(np.zeros((0, 50, 128)), [])])
    assert losses["loss_mask"].item() == 0 and losses["loss_classifier"].item() > 0
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_batch_of_many_sizes_trains_every_parameter():
    images, targets = pictures(2, 96)
    images[0], targets[0] = images[0][:, :70], {**targets[0], "masks": targets[0]["masks"][:, :70]}
    model = small(96, scale_ranges=((1, 96),) * 5)
    losses = model([*images, torch.rand(3, 33, 96)], [*targets, target_of(filled((33, 96), (0, 0, 30, 30)), [5])])
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
def test_under_bfloat16_autocast_numbers_are_finite_float32(training):
    images, targets = pictures(2, 96)
    model = small(96, score_thr=0.001, filter_thr=0.0).train(training)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(images, targets)
    if training:
        assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in out.values())
        sum(out.values()).backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())
    else:
        assert all(one["scores"].dtype == torch.float32 and one["scores"].isfinite().all() for one in out)


# ---- suppression and post-processing ---------------------------------------------------------------


def test_point_nms_keeps_what_is_largest_among_itself_above_and_left():
    scores = torch.rand(2, 3, 6, 6)
    scores[0, 0, 2, 2] = scores[0, 0, 2, 3] = 2  # of equals, both stay
    got = module.point_nms(scores)
    for b, c, i, j in np.ndindex(*scores.shape):
        around = scores[b, c, max(i - 1, 0) : i + 1, max(j - 1, 0) : j + 1]
        assert got[b, c, i, j] == (scores[b, c, i, j] if scores[b, c, i, j] == around.max() else 0)


@pytest.mark.parametrize("number", [0, 1, 2, 30])
def test_matrix_nms_decays_by_its_definition(number):
    rng = np.random.default_rng(number)
    masks = np.array([filled((20, 20), (*rng.integers(0, 8, 2), *rng.integers(9, 20, 2)))[0] for _ in range(number)])
    masks = masks.reshape(-1, 20, 20) > 0
    labels, scores = rng.integers(0, 3, number), np.sort(rng.random(number))[::-1].copy()
    got = module.matrix_nms(*map(torch.from_numpy, (masks, labels, scores)), 2.0)
    np.testing.assert_allclose(got.numpy(), matrix_nms_by_definition(masks, labels, scores, 2.0), rtol=1e-5)


def test_matrix_nms_spares_other_classes_and_what_only_a_suppressed_mask_overlaps():
    a, b, c = filled((1, 30), (0, 0, 10, 1), (2, 0, 12, 1), (10, 0, 14, 1)) > 0
    masks, scores = torch.from_numpy(np.stack([a, b, c])), torch.tensor([0.9, 0.8, 0.7])
    assert torch.equal(module.matrix_nms(masks, torch.tensor([0, 1, 2]), scores, 2.0), scores)
    got = module.matrix_nms(masks, torch.tensor([0, 0, 0]), scores, 2.0) / scores
    ab, bc = 8 / 12, 2 / 12
    assert got.tolist() == pytest.approx([1, math.exp(-2 * ab**2), min(1, math.exp(-2 * (bc**2 - ab**2)))])


def crowd(model, number, size=(16, 24), seed=0):
    """Predictions for one picture: scores, kernels, features whose masks are blobs, some alike."""
    rng = np.random.default_rng(seed)
    cells = sum(n * n for n in model.num_grids)
    scores = np.zeros((cells, model.num_classes), np.float32)
    chosen = rng.choice(cells * model.num_classes, number, replace=False)
    scores.ravel()[chosen] = rng.random(number)
    y, x = np.mgrid[: size[0], : size[1]]
    blobs = [3 - np.hypot(y - rng.uniform(0, size[0]), x - rng.uniform(0, size[1])) / 1.5 for _ in range(6)]
    kernels = np.eye(6)[rng.integers(0, 6, cells)] + rng.normal(0, 0.05, (cells, 6))
    return tuple(torch.from_numpy(np.asarray(v, np.float32)) for v in (scores, kernels, np.stack(blobs)))


@pytest.mark.parametrize(
    "options",
    [{}, {"nms_pre": 12, "max_per_img": 5}, {"nms_pre": 5}, {"filter_thr": 0.3, "sigma": 0.5}],
    ids=["all", "cut", "few", "strict"],
)
def test_detections_follow_their_definition(options, monkeypatch):
    monkeypatch.setattr(module, "CELLS_AT_ONCE", 7)  # parts change nothing
    monkeypatch.setattr(module, "MASKS_AT_ONCE", 3)
    model = small(num_grids=(6, 5, 4, 3, 2), **options)
    predictions = crowd(model, 45)
    got = model.select(*predictions, (60, 90), (33, 47))
    wanted = detections_by_definition(model, *(p.numpy() for p in predictions), (60, 90), (33, 47))
    assert len(wanted) > 4 and len(got["scores"]) == len(wanted)
    np.testing.assert_allclose(got["scores"].numpy(), [one[0] for one in wanted], rtol=1e-4)
    assert got["labels"].tolist() == [one[1] for one in wanted]
    assert np.mean(got["masks"].numpy() == np.stack([one[2] for one in wanted])) > 0.9999
    assert got["boxes"].tolist() == [list(map(float, box_of(mask))) for mask in got["masks"].numpy()]
    kinds = {name: value.dtype for name, value in got.items()}
    assert kinds == {"boxes": torch.float, "labels": torch.int64, "scores": torch.float, "masks": torch.bool}


def one_cell(model, score, logits, level=0):
    """Select from a picture where only the first cell of one level has a score and a mask."""
    cells = sum(n * n for n in model.num_grids)
    scores, kernels = torch.zeros(cells, 5), torch.zeros(cells, 1)
    cell = sum(n * n for n in model.num_grids[:level])
    scores[cell, 2], kernels[cell] = score, 1.0
    height, width = logits.shape
    return model.select(scores, kernels, logits[None], (4 * height, 4 * width), (4 * height, 4 * width))


def test_a_score_at_the_threshold_is_dropped():
    solid = torch.full((8, 8), 20.0)
    model = small(score_thr=0.25)
    assert len(one_cell(model, 0.25, solid)["scores"]) == 0
    assert len(one_cell(model, 0.2501, solid)["scores"]) == 1


def test_a_pixel_at_the_mask_threshold_is_background():
    logits = torch.zeros(8, 8)  # a probability of exactly 0.5
    assert len(one_cell(small(), 0.9, logits)["scores"]) == 0
    logits[2:6, 2:6] = 20
    got = one_cell(small(), 0.9, logits)
    assert got["scores"].item() == pytest.approx(0.9) and not got["masks"][0, 0, 0]


@pytest.mark.parametrize(("level", "stride"), enumerate([8, 8, 16, 32, 32]))
def test_a_mask_must_be_larger_than_the_stride_of_its_level(level, stride):
    logits = torch.full((8, 8), -20.0)
    logits.view(-1)[:stride] = 20
    assert len(one_cell(small(), 0.9, logits, level)["scores"]) == 0
    logits.view(-1)[stride] = 20
    assert len(one_cell(small(), 0.9, logits, level)["scores"]) == 1


def test_a_score_is_multiplied_by_the_mean_probability_in_its_mask():
    logits = torch.full((8, 8), -1.0)
    logits[:4], logits[4:6] = 1.0, 3.0
    inside = (4 * 8 * sigmoid(1.0) + 2 * 8 * sigmoid(3.0)) / 48
    assert one_cell(small(), 0.8, logits)["scores"].item() == pytest.approx(0.8 * inside)


def test_a_decayed_score_at_the_filter_stays():
    logits = torch.full((8, 8), 40.0)  # probability 1 in float32
    assert len(one_cell(small(filter_thr=0.5), 0.5, logits)["scores"]) == 1
    assert len(one_cell(small(filter_thr=0.5001), 0.5, logits)["scores"]) == 0


def test_masks_are_cropped_before_they_are_resized():
    model = small()
    soft = torch.randn(1, 8, 8)
    got = model.draw(torch.ones(1, 1), soft, (20, 28), (41, 50))[0].numpy()
    large = bilinear(sigmoid(soft.numpy()), 32, 32)
    assert np.array_equal(got, bilinear(large[:, :20, :28], 41, 50)[0] > 0.5)


def test_a_detection_without_a_pixel_at_the_original_size_is_dropped():
    logits = torch.full((64, 64), -20.0)
    logits[:4, :4] = 20
    model = small()
    cells = sum(n * n for n in model.num_grids)
    scores, kernels = torch.zeros(cells, 5), torch.ones(cells, 1)
    scores[0, 0] = 0.9
    assert len(model.select(scores, kernels, logits[None], (256, 256), (256, 256))["scores"]) == 1
    assert len(model.select(scores, kernels, logits[None], (256, 256), (2, 2))["scores"]) == 0


# ---- pictures in, detections out -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "wanted"),
    [((480, 640), (800, 1067)), ((427, 640), (800, 1199)), ((400, 1000), (533, 1333)), ((1, 3000), (1, 1333))],
    ids=str,
)
def test_pictures_are_resized_and_normalised_as_published(size, wanted):
    model = SOLOv2(Pyramid()).eval()
    x = model.scale(torch.full((3, *size), 0.5))
    assert tuple(x.shape[1:]) == wanted
    assert x[:, 0, 0].tolist() == pytest.approx([(0.5 - m) / s for m, s in zip(model.image_mean, model.image_std)])
    assert all(side % 32 == 0 for side in model.pad([x]).shape[2:])


def test_padding_is_zero_and_at_the_right_and_bottom():
    batch = small().pad([torch.ones(3, 40, 33), torch.ones(3, 10, 64)])
    assert batch.shape == (2, 3, 64, 64) and batch[0, :, :40, :33].min() == 1 and batch.sum() == 3 * (1320 + 640)


def test_training_draws_the_side_and_eval_takes_the_last():
    model = small(min_size=(64, 96, 128), max_size=999)
    image = torch.rand(3, 64, 64)
    assert {model.scale(image).shape[1] for _ in range(40)} == {64, 96, 128}
    assert {model.eval().scale(image).shape[1] for _ in range(5)} == {128}


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (200, 3), (97, 131)], ids=str)
def test_pictures_of_any_size_give_detections_of_that_size(size):
    model = small(96, score_thr=0.0, filter_thr=0.0).eval()
    with torch.no_grad():
        found = model([torch.rand(3, *size)])[0]
    assert found["masks"].shape[1:] == size and len(found["masks"]) == len(found["boxes"]) == len(found["labels"])
    assert set(found["labels"].tolist()) <= {1, 2, 3, 4, 5}


def test_no_detections_are_empty_tensors_of_the_usual_types():
    found = small(64).eval()([torch.zeros(3, 50, 60)])[0]
    shapes = {name: (tuple(value.shape), value.dtype) for name, value in found.items()}
    assert shapes == {
        "boxes": ((0, 4), torch.float32),
        "labels": ((0,), torch.int64),
        "scores": ((0,), torch.float32),
        "masks": ((0, 50, 60), torch.bool),
    }


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda i, t: (i[0][None], t), "must be a list"),
        (lambda i, t: ([], t), "at least one"),
        (lambda i, t: ([(i[0] * 255).byte()], t), "uint8.*wanted float"),
        (lambda i, t: ([i[0][:1]], t), "wanted float"),
        (lambda i, t: (i, None), "got none"),
        (lambda i, t: (i, t * 2), "got 2"),
        (lambda i, t: (i, [{k: v for k, v in t[0].items() if k != "masks"}]), "lacks .*masks"),
        (lambda i, t: (i, [{**t[0], "masks": t[0]["masks"][:, :32]}]), "masks of target 0 have shape"),
        (lambda i, t: (i, [{**t[0], "boxes": t[0]["boxes"][:0]}]), "boxes of target 0 have shape"),
        (lambda i, t: (i, [{**t[0], "labels": t[0]["labels"] * 0}]), "0 is the background"),
        (lambda i, t: (i, [{**t[0], "labels": t[0]["labels"] * 0 + 6}]), r"wanted int64 in 1 \.\.\. 5"),
        (lambda i, t: (i, [{**t[0], "labels": t[0]["labels"].float()}]), "float32"),
    ],
)
def test_bad_input_is_refused_with_what_was_wanted(spoil, message):
    images, targets = spoil([torch.rand(3, 64, 64)], [target_of(filled((64, 64), (4, 4, 40, 40)), [3])])
    with pytest.raises(ValueError, match=message):
        small(64)(images, targets)


def test_five_levels_are_needed():
    with pytest.raises(ValueError, match="num_grids needs one entry for each of 5 levels"):
        small(num_grids=(8, 4))


# ---- wNLB in a ResNet ------------------------------------------------------------------------------


def test_blocks_rename_nothing_change_nothing_and_learn():
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=3)
    images, targets = pictures(1, 64)
    model = small(64, backbone, scale_ranges=((1, 64),) * 5, score_thr=0.0, filter_thr=0.0).eval()
    with torch.no_grad():
        before, names = model(images)[0], set(model.state_dict())
        insert_blocks(model.backbone.body)
        after = model(images)[0]
    assert len(before["scores"]) and all(torch.equal(before[k], after[k]) for k in before)
    added = set(model.state_dict()) - names
    assert names <= set(model.state_dict()) and {name.split(".wnlb.")[0] for name in added} == {
        f"backbone.body.layer{i}" for i in (1, 2, 3, 4)
    }
    sum(model.train()(images, targets).values()).backward()
    blocks = [getattr(model.backbone.body, f"layer{i}").wnlb for i in (1, 2, 3, 4)]
    assert [block.in_channels for block in blocks] == [64, 128, 256, 512]
    assert all(block.w.item() == 0 and block.w.grad.abs() > 0 for block in blocks)


def test_blocks_take_their_options_channels_and_mode():
    body = resnet50().double().eval()
    insert_blocks(body, (5, 2), operation="dot_product", sub_sample=2, weighted=False)
    assert [hasattr(getattr(body, f"layer{i}"), "wnlb") for i in (1, 2, 3, 4)] == [True, False, False, True]
    block = body.layer4.wnlb
    assert (block.in_channels, block.operation, block.weighted, block.training) == (2048, "dot_product", False, False)
    assert block.g.weight.dtype == torch.float64


def test_the_examples_in_the_docstrings_run():
    done = doctest.testmod(resnet)
    assert done.failed == 0 < done.attempted


@pytest.mark.parametrize(
    ("stages", "message"), [((1, 2), r"\[1\]"), ((3, 4), "layer2 .res3. has a block already")], ids=["unknown", "twice"]
)
def test_blocks_are_refused_where_they_do_not_belong(stages, message):
    body = resnet18()
    insert_blocks(body, (3,))
    names = set(body.state_dict())
    with pytest.raises(ValueError, match=message):
        insert_blocks(body, stages)
    with pytest.raises(ValueError, match=r"backbone\.body"):
        insert_blocks(Pyramid())
    with pytest.raises(ValueError, match="operation"):
        insert_blocks(body, (4, 5), operation="fancy")
    assert set(body.state_dict()) == names


# ---- the published checkpoint ----------------------------------------------------------------------


def public_shapes():
    """Names and shapes in the public checkpoint of R50-FPN, 80 classes."""
    shapes = {f"backbone.{n}": tuple(t.shape) for n, t in resnet50().state_dict().items() if not n.startswith("fc.")}
    for i, channels in enumerate((256, 512, 1024, 2048)):
        shapes[f"neck.lateral_convs.{i}.conv.weight"] = (256, channels, 1, 1)
        shapes[f"neck.fpn_convs.{i}.conv.weight"] = (256, 256, 3, 3)
        shapes[f"neck.lateral_convs.{i}.conv.bias"] = shapes[f"neck.fpn_convs.{i}.conv.bias"] = (256,)

    def conv(name, out, fed, side=3):
        shapes[f"mask_head.{name}.conv.weight"] = (out, fed, side, side)
        shapes[f"mask_head.{name}.gn.weight"] = shapes[f"mask_head.{name}.gn.bias"] = (out,)

    for i in range(4):
        conv(f"cls_convs.{i}", 512, 512 if i else 256)
        conv(f"kernel_convs.{i}", 512, 512 if i else 258)
    for name, out in (("conv_cls", 80), ("conv_kernel", 256)):
        shapes[f"mask_head.{name}.weight"], shapes[f"mask_head.{name}.bias"] = (out, 512, 3, 3), (out,)
    for level, inputs in enumerate([(256,), (256,), (256, 128), (258, 128, 128)]):
        for j, fed in enumerate(inputs):
            conv(f"mask_feature_head.convs_all_levels.{level}.conv{j}", 128, fed)
    conv("mask_feature_head.conv_pred", 256, 128, 1)
    return shapes


CLASSES = tuple(f"class {i}" for i in range(80))


@pytest.fixture(scope="module")
def public(tmp_path_factory):
    """A checkpoint like the public one, each tensor full of a number of its own: path and state dict."""
    shapes = public_shapes()
    state = OrderedDict((name, torch.full(shape, 0.001 * i)) for i, (name, shape) in enumerate(shapes.items()))
    for name in state:
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
    file = tmp_path_factory.mktemp("public") / "solov2_r50_fpn_3x_coco.pth"
    meta = {"CLASSES": CLASSES, "epoch": 36, "config": "model = dict()"}
    torch.save({"meta": meta, "state_dict": state}, file, _use_new_zipfile_serialization=False)
    return file, state


@pytest.fixture(scope="module")
def empty():
    """A published SOLOv2 whose numbers are all NaN, made without the time that a random start takes."""
    with torch.device("meta"):
        model = solov2()
    return model.to_empty(device="cpu")


def millions(model):
    """Parameters as papers count them, the two a channel of fixed norms included."""
    norms = [m for m in model.modules() if isinstance(m, FrozenBatchNorm2d)]
    return (sum(p.numel() for p in model.parameters()) + sum(2 * m.weight.numel() for m in norms)) / 1e6


def test_the_published_models_have_their_number_of_parameters(empty):
    with torch.device("meta"):
        light = solov2_light()
    assert round(millions(empty), 2) == 46.59 and round(millions(light), 2) == 31.34


def test_stem_res2_and_norms_are_frozen_as_published(empty):
    frozen = {name.split(".")[2] for name, p in empty.named_parameters() if not p.requires_grad}
    trained = {".".join(n.split(".")[:3]) for n, p in empty.named_parameters() if p.requires_grad and ".body." in n}
    assert frozen == {"conv1", "layer1"} and trained == {f"backbone.body.layer{i}" for i in (2, 3, 4)}
    norms = [m for m in empty.modules() if "BatchNorm" in type(m).__name__]
    assert len(norms) == 53 and all(isinstance(m, FrozenBatchNorm2d) and m.eps == 1e-5 for m in norms)


def test_the_public_checkpoint_is_asked_as_it_is(public, tmp_path):
    model = published("solov2", public[0], "cpu", min_size=64, max_size=64)
    assert tuple(model.classes.values()) == CLASSES and model.module.min_size == (64,) and not model.module.training
    file = tmp_path / "nameless.pth"
    torch.save({"state_dict": public[1]}, file)
    with pytest.raises(ValueError, match=r"nameless\.pth does not say what its classes are"):
        published("solov2", file)


def test_the_public_checkpoint_loads_with_every_key_used(public, empty):
    file, state = public
    assert len(state) == 386
    report = load_public(empty, file)
    counters = {name for name in state if name.endswith("num_batches_tracked")}
    assert set(report.used) == set(state) - counters and set(report.counters) == counters and len(counters) == 53
    assert report.unused == report.new == report.other_classes == () and report.classes == CLASSES
    assert str(report) == "SOLOv2: 333 of 386 tensors used; 53 batch counters dropped"
    ours = empty.state_dict()
    places = {
        "backbone.layer3.5.bn2.running_var": "backbone.body.layer3.5.bn2.running_var",
        "neck.lateral_convs.2.conv.bias": "backbone.fpn.inner_blocks.2.0.bias",
        "neck.fpn_convs.1.conv.weight": "backbone.fpn.layer_blocks.1.0.weight",
        "mask_head.conv_cls.bias": "head.conv_cls.bias",
    }
    assert all(torch.equal(ours[here], state[there]) for there, here in places.items())
    sums = sorted(t.flatten()[0].item() for t in ours.values())
    assert sums == sorted(t.flatten()[0].item() for n, t in state.items() if n not in counters)


def test_with_trainable_norms_even_the_counters_are_used(public):
    with torch.device("meta"):
        model = solov2(norm_layer=nn.BatchNorm2d)
    report = load_public(model.to_empty(device="cpu"), public[0])
    assert len(report.used) == 386 and report.counters == ()


def test_other_classes_and_blocks_keep_their_start(public):
    with torch.device("meta"):
        model = solov2(5)
        insert_blocks(model.backbone.body, (5,))
    model = model.to_empty(device="cpu")
    nn.init.constant_(model.head.conv_cls.bias, 3.0)
    nn.init.constant_(model.backbone.body.layer4.wnlb.w, 0.25)
    report = load_public(model, public[0])
    assert report.other_classes == ("mask_head.conv_cls.weight", "mask_head.conv_cls.bias")
    assert all(name.startswith("backbone.body.layer4.wnlb.") for name in report.new) and len(report.new) == 11
    assert model.head.conv_cls.bias.eq(3).all() and model.backbone.body.layer4.wnlb.w == 0.25
    assert "331 of 386" in str(report) and "the classes are others" in str(report) and "11 new" in str(report)


def refused(model, file, state, tmp_path):
    """Save a state dict, load it, and return the message of the refusal; the model must not have changed."""
    before = model.head.conv_cls.bias.clone()
    file = tmp_path / file
    torch.save({"state_dict": state, "meta": {}}, file)
    with pytest.raises(ValueError, match=file.name) as caught:
        load_public(model, file)
    assert torch.equal(model.head.conv_cls.bias, before)
    return str(caught.value)


def test_another_variant_is_refused_by_its_shapes(public, empty, tmp_path):
    state = {name: tensor for name, tensor in public[1].items() if ".cls_convs.3." not in name}
    state["mask_head.conv_kernel.bias"] = torch.zeros(128)
    load_public(empty, public[0])
    message = refused(empty, "light.pth", state, tmp_path)
    assert "mask_head.conv_kernel.bias is (128,), here (256,)" in message and "solov2_light()" in message
    assert "3 are missing" in message and "head.cls_convs.3" in message
    del state["mask_head.conv_kernel.bias"]
    assert "0 tensors have another shape, 4 are missing" in refused(empty, "part.pth", state, tmp_path)


@pytest.mark.parametrize("extra", ["backbone.layer3.22.conv1.weight", "mask_head.cls_convs.0.conv.conv_offset.weight"])
def test_a_deeper_or_deformable_model_is_refused_though_all_fits(extra, public, empty, tmp_path):
    load_public(empty, public[0])
    assert f"no place for {extra}" in refused(empty, "r101.pth", {**public[1], extra: torch.zeros(3)}, tmp_path)


def test_foreign_tensors_are_reported(public, empty, tmp_path):
    file = tmp_path / "bare.pth"
    torch.save({**public[1], "data_preprocessor.mean": torch.zeros(3)}, file)  # a state dict on its own
    report = load_public(empty, file)
    assert report.unused == ("data_preprocessor.mean",) and report.classes == () and "1 unused" in str(report)


def test_objects_of_mmengine_are_refused_with_the_way_out(empty, tmp_path, monkeypatch):
    fake = types.ModuleType("mmengine.logging.history_buffer")
    fake.HistoryBuffer = type("HistoryBuffer", (), {"__module__": fake.__name__})
    monkeypatch.setitem(sys.modules, "mmengine", types.ModuleType("mmengine"))
    monkeypatch.setitem(sys.modules, "mmengine.logging", types.ModuleType("mmengine.logging"))
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    file = tmp_path / "own.pth"
    torch.save({"state_dict": {}, "message_hub": fake.HistoryBuffer()}, file)
    with pytest.raises(ValueError, match=r"HistoryBuffer.*torch\.save\(\{'state_dict'"):
        load_public(empty, file)


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"\x89PNG\r\n\x1a\n" + bytes(99), b"PK\x03\x04 cut off"])
def test_a_file_that_is_no_checkpoint_is_called_so(content, empty, tmp_path):
    file = tmp_path / "solov2.pth"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="is no PyTorch checkpoint"):
        load_public(empty, file)


def test_a_checkpoint_without_tensors_or_a_missing_file_is_called_so(empty, tmp_path):
    torch.save({"epoch": 3, "best": 0.5}, tmp_path / "log.pth")
    with pytest.raises(ValueError, match=r"holds no state_dict of tensors, but \['epoch', 'best'\]"):
        load_public(empty, tmp_path / "log.pth")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_public(empty, tmp_path / "nowhere.pth")


# ---- learning --------------------------------------------------------------------------------------


def mask_ap(model, images, targets):
    """Mask AP of COCO on the pictures themselves."""
    from pycocotools import mask as rle
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def encode(mask):
        return rle.encode(np.asfortranarray(np.asarray(mask, np.uint8)))

    truth, found = [], []
    with torch.no_grad():
        detections = model.eval()(images)
    for i, (target, detected) in enumerate(zip(targets, detections)):
        for mask, label in zip(target["masks"], target["labels"].tolist()):
            code = encode(mask)
            one = {"id": len(truth) + 1, "image_id": i, "category_id": label, "segmentation": code, "iscrowd": 0}
            truth.append({**one, "area": float(rle.area(code)), "bbox": rle.toBbox(code).tolist()})
        rows = (detected[name] for name in ("masks", "labels", "scores", "boxes"))
        for mask, label, score, (x1, y1, x2, y2) in zip(*rows):
            code = encode(mask)
            assert rle.toBbox(code).tolist() == [x1, y1, x2 - x1, y2 - y1]
            found.append({"image_id": i, "category_id": int(label), "segmentation": code, "score": float(score)})
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": i, "height": x.shape[1], "width": x.shape[2]} for i, x in enumerate(images)],
            "categories": [{"id": i, "name": name} for i, name in enumerate(NAMES, 1)],
            "annotations": truth,
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(found), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[0]


def train(model, images, targets, steps, lr=4e-3):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, steps, pct_start=0.2)
    model.train()
    for _ in range(steps):
        loss = sum(model(images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 35)
        optimizer.step()
        schedule.step()
    return loss.item()


def test_four_pictures_are_learnt_by_heart_and_stand_alone():
    images, targets = pictures(4, 192)
    model = small()
    train(model, images, targets, 50)
    assert mask_ap(model, images, targets) > 0.8
    with torch.no_grad():
        together = model([*images[:2], torch.rand(3, 80, 190)])
        alone = [model([image])[0] for image in images[:2]]
    assert all(torch.equal(a[k], b[k]) for a, b in zip(together, alone) for k in a)


@pytest.mark.slow
@pytest.mark.parametrize("blocks", [False, True], ids=["plain", "wnlb"])
def test_pictures_are_learnt_by_heart_on_a_resnet(blocks):
    images, targets = pictures(4, 192, crowd=5)
    backbone = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5
    )
    model = small(backbone=backbone)
    if blocks:
        insert_blocks(model.backbone.body, (3, 4, 5))
    train(model, images, targets, 40, lr=2e-3)
    assert mask_ap(model, images, targets) > 0.8
    if blocks:
        assert all(getattr(model.backbone.body, f"layer{i}").wnlb.w.item() != 0 for i in (2, 3, 4))


def test_the_same_seed_gives_the_same_weights():
    images, targets = pictures(2, 64)
    results = []
    for _ in range(2):
        torch.manual_seed(5)
        model = small(64, min_size=(64, 96))
        train(model, images, targets, 3)
        results.append(model.state_dict())
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


RELOAD = """
import torch
from torch import nn
from yolo_wnlb.detectors.resnet import insert_blocks
from yolo_wnlb.detectors.solov2 import solov2_light

def build():
    options = {"min_size": 64, "max_size": 64, "score_thr": 0.0, "filter_thr": 0.0, "feat_channels": 32}
    model = solov2_light(3, backbone="resnet18", mask_channels=32, **options)
    insert_blocks(model.backbone.body, (4, 5))
    return model.eval()
"""


def test_weights_with_blocks_reload_in_a_fresh_process(tmp_path):
    scope = {}
    exec(RELOAD, scope)
    model, image = scope["build"](), torch.rand(3, 48, 64)
    nn.init.constant_(model.backbone.body.layer4.wnlb.w, 0.3)
    with torch.no_grad():
        torch.save({"state": model.state_dict(), "image": image, "found": model([image])}, tmp_path / "own.pt")
    done = run_python(
        RELOAD + "saved = torch.load('own.pt', weights_only=True)\n"
        "model = build()\nmodel.load_state_dict(saved['state'])\n"
        "with torch.no_grad(): found = model([saved['image']])[0]\n"
        "print(len(found['scores']), all(torch.equal(found[k], v) for k, v in saved['found'][0].items()))",
        tmp_path,
    )
    number, equal = done.stdout.split() if done.stdout else (0, done.stderr)
    assert int(number) > 0 and equal == "True"
