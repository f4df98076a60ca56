"""SOLOv2: each cell of a grid predicts a class and the kernel that draws its object's mask. Torch and torchvision.

Wang, Zhang, Kong, Li, Shen, "SOLOv2: Dynamic and Fast Instance Segmentation", NeurIPS 2020,
https://arxiv.org/abs/2003.10152.

It is called, trained and read like torchvision's Mask R-CNN. Values, operations and the names
inside `head` are those of the published model, so that its weights load: `solov2_weights.load_public`.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d, sigmoid_focal_loss

from yolo_wnlb.detectors.solov2_targets import Assignment, assign

STRIDES = (8, 8, 16, 32, 32)  # of the levels, in pixels of the network's input
NUM_GRIDS = (40, 36, 24, 16, 12)
SCALE_RANGES = ((1, 96), (48, 192), (96, 384), (192, 768), (384, 2048))
SIDES = (640, 672, 704, 736, 768, 800)
PRIOR = 0.01  # probability of each class at the start
DICE_EPS = 1e-3
LIGHT: dict[str, Any] = {
    "feat_channels": 256,
    "stacked_convs": 2,
    "kernel_channels": 128,
    "scale_ranges": ((1, 56), (28, 112), (56, 224), (112, 448), (224, 896)),
    "min_size": 448,
    "max_size": 768,
}
CELLS_AT_ONCE = 256  # whose masks are probabilities at the same time; bounds the memory of a bad start
MASKS_AT_ONCE = 16  # at the original size


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Resize maps (B, C, H, W) to size (height, width), bilinear, corners not aligned."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def with_coordinates(x: Tensor) -> Tensor:
    """Append two channels to (B, C, H, W): x, then y, each from -1 to 1 over the map."""
    batch, _, height, width = x.shape
    across = torch.linspace(-1, 1, width, device=x.device).expand(batch, 1, height, width)
    down = torch.linspace(-1, 1, height, device=x.device)[:, None].expand(batch, 1, height, width)
    return torch.cat([x, across.to(x.dtype), down.to(x.dtype)], 1)


def by_cell(levels: Iterable[Tensor]) -> Tensor:
    """Join grids (B, C, N, N) of all levels to (B, S, C): the S cells level by level, row by row."""
    return torch.cat([level.flatten(2).transpose(1, 2) for level in levels], 1)


class ConvNorm(nn.Module):
    """Convolution without bias, GroupNorm of 32 groups, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        self.gn = nn.GroupNorm(32, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        return F.relu(self.gn(self.conv(x)))


class MaskFeatureHead(nn.Module):
    """Adds up the maps of strides 4 to 32 at stride 4, the last one knowing where it is."""

    def __init__(self, in_channels: int, mid_channels: int, out_channels: int) -> None:
        super().__init__()
        self.convs_all_levels = nn.ModuleList()
        for level in range(4):
            stages: OrderedDict[str, nn.Module] = OrderedDict()
            for j in range(max(level, 1)):
                fed = mid_channels if j else in_channels + 2 * (level == 3)
                stages[f"conv{j}"] = ConvNorm(fed, mid_channels)
                if level:
                    stages[f"up{j}"] = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
            self.convs_all_levels.append(nn.Sequential(stages))
        self.conv_pred = ConvNorm(mid_channels, out_channels, 1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Four maps of halving size, the first (B, in_channels, H, W) -> (B, out_channels, H, W)."""
        inputs = [*features[:3], with_coordinates(features[3])]
        total = sum(stages(x) for stages, x in zip(self.convs_all_levels, inputs))
        return self.conv_pred(total)


class SOLOv2Head(nn.Module):
    """Classes and kernels of all grid cells, and the map that the kernels are applied to.

    Every convolution starts as N(0, 0.01), the classes at a probability of 0.01. The arguments are
    those of `SOLOv2`.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        feat_channels: int,
        stacked_convs: int,
        mask_channels: int,
        kernel_channels: int,
        num_grids: Sequence[int],
    ) -> None:
        super().__init__()
        self.num_grids = tuple(num_grids)
        wide = [feat_channels] * (stacked_convs - 1)
        self.cls_convs = nn.ModuleList(ConvNorm(c, feat_channels) for c in [in_channels, *wide])
        self.kernel_convs = nn.ModuleList(ConvNorm(c, feat_channels) for c in [in_channels + 2, *wide])
        self.conv_cls = nn.Conv2d(feat_channels, num_classes, 3, padding=1)
        self.conv_kernel = nn.Conv2d(feat_channels, kernel_channels, 3, padding=1)
        self.mask_feature_head = MaskFeatureHead(in_channels, mask_channels, kernel_channels)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.constant_(self.conv_cls.bias, -math.log((1 - PRIOR) / PRIOR))  # type: ignore[arg-type]

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Five maps of strides 4 ... 64 -> per level (B, classes, N, N) and (B, E, N, N); (B, E, H, W) of stride 4."""
        p2, p3, p4, p5, p6 = features
        levels = (resize(p2, p3.shape[2:]), p3, p4, p5, resize(p6, p5.shape[2:]))
        logits, kernels = [], []
        for grid, x in zip(self.num_grids, levels):
            k = resize(with_coordinates(x), (grid, grid))
            c = k[:, :-2]
            for conv in self.kernel_convs:
                k = conv(k)
            for conv in self.cls_convs:
                c = conv(c)
            logits.append(self.conv_cls(c))
            kernels.append(self.conv_kernel(k))
        return logits, kernels, self.mask_feature_head(features)


def dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return 1 - 2 p.t / (p.p + t.t), with p = sigmoid(logits), of each row: (P, n), (P, n) -> (P,)."""
    p = logits.sigmoid()
    return 1 - 2 * (p * targets).sum(1) / (p.square().sum(1) + DICE_EPS + targets.square().sum(1) + DICE_EPS)


def point_nms(scores: Tensor) -> Tensor:
    """Zero the scores (B, C, N, N) below the largest of themselves and their neighbours above and to the left."""
    largest = F.max_pool2d(scores, 2, stride=1, padding=1)[:, :, :-1, :-1]
    return scores * (largest == scores)


def matrix_nms(masks: Tensor, labels: Tensor, scores: Tensor, sigma: float) -> Tensor:
    """Let every mask lower the scores of those below it, of its class, that it overlaps.

    decay_i = min over j above i of exp(-sigma * (iou_ij^2 - max_k iou_jk^2)), k above j: a mask that
    is itself suppressed suppresses less.

    Args:
        masks: bool (K, ...), none empty, by falling score.
        labels: int64 (K,).
        scores: (K,), falling.
        sigma: Of the Gaussian; larger suppresses more.
    Returns: The new scores (K,), in the same order.
    """
    if not len(scores):
        return scores
    flat = masks.flatten(1).float()
    areas, both = flat.sum(1), flat @ flat.T
    iou = (both / (areas[:, None] + areas - both) * (labels[:, None] == labels)).triu(1)  # [above, below]
    worst = iou.amax(0)
    return scores * torch.exp(-sigma * (iou**2 - worst[:, None] ** 2)).amin(0)


def boxes_of(masks: Tensor) -> Tensor:
    """Return xyxy, float (N, 4), of bool masks (N, H, W), none empty: the outer edges of their pixels."""
    columns, rows = masks.any(1).byte(), masks.any(2).byte()  # argmax finds the first of equals
    left, top = columns.argmax(1), rows.argmax(1)
    right = columns.shape[1] - columns.flip(1).argmax(1)
    bottom = rows.shape[1] - rows.flip(1).argmax(1)
    return torch.stack([left, top, right, bottom], 1).float()


class SOLOv2(nn.Module):
    """SOLOv2 on a backbone with a feature pyramid. `solov2` builds the published one.

    In training, `model(images, targets)` returns the losses; in eval, `model(images)` one dict of
    detections an image. A cell is a share of the padded picture, so in eval every image runs alone,
    as in the published protocol: no image changes the detections of another.

    Args:
        backbone: Module with `out_channels`, which returns a dict of five maps, strides 4 ... 64.
        num_classes: Classes, without background; labels are 1 ... num_classes.
        feat_channels: Width of the two towers on the grid, a multiple of 32.
        stacked_convs: Convolutions in each tower.
        mask_channels: Width of the mask features before they are added up, a multiple of 32.
        kernel_channels: Mask features, and numbers of a kernel, a multiple of 32.
        num_grids: Cells per side on each of the five levels.
        scale_ranges: Smallest and largest object, sqrt(box area), each level is trained on; both included.
        pos_scale: Share of the box around the centre of mass whose cells are positive.
        dice_weight: Factor of the mask loss.
        focal_alpha: Weight of the positives in the class loss.
        focal_gamma: Power that turns the class loss to the hard cells.
        score_thr: Cells at or below this score are dropped before anything else.
        mask_thr: Probability above which a pixel belongs to the mask.
        nms_pre: Candidates that enter matrix NMS, at most.
        sigma: Of matrix NMS.
        filter_thr: Detections below this score are dropped after matrix NMS.
        max_per_img: Detections per image, at most.
        min_size: Short side in pixels after resizing; of several, training draws one for each image
            from torch's global generator, and eval takes the last.
        max_size: Long side, at most.
        image_mean: RGB, subtracted from pixels in [0, 1].
        image_std: RGB, divided by.

    Raises:
        ValueError: the number of levels is not five; images or targets are not as below.

    Input:
        images: list of float (3, H, W), RGB in [0, 1], of any sizes.
        targets: one dict an image. boxes (N, 4) xyxy in pixels, labels int64 (N,), masks (N, H, W),
            0 outside of the object. N may be 0.
    Output:
        In training {"loss_classifier", "loss_mask"}, float32 also under autocast. In eval per image
        boxes float (N, 4) around the masks, labels int64 (N,), scores (N,) falling, masks bool
        (N, H, W) at the size of the image.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int = 80,
        *,
        feat_channels: int = 512,
        stacked_convs: int = 4,
        mask_channels: int = 128,
        kernel_channels: int = 256,
        num_grids: Sequence[int] = NUM_GRIDS,
        scale_ranges: Sequence[tuple[float, float]] = SCALE_RANGES,
        pos_scale: float = 0.2,
        dice_weight: float = 3.0,
        focal_alpha: float = 0.25,
        focal_gamma: float = 2.0,
        score_thr: float = 0.1,
        mask_thr: float = 0.5,
        nms_pre: int = 500,
        sigma: float = 2.0,
        filter_thr: float = 0.05,
        max_per_img: int = 100,
        min_size: int | Sequence[int] = SIDES,
        max_size: int = 1333,
        image_mean: Sequence[float] = (0.485, 0.456, 0.406),
        image_std: Sequence[float] = (0.229, 0.224, 0.225),
    ) -> None:
        super().__init__()
        for name, values in (("num_grids", num_grids), ("scale_ranges", scale_ranges)):
            if len(values) != len(STRIDES):
                raise ValueError(f"{name} needs one entry for each of {len(STRIDES)} levels; got {values}")
        self.backbone = backbone
        self.head = SOLOv2Head(
            backbone.out_channels,  # type: ignore[arg-type]
            num_classes,
            feat_channels,
            stacked_convs,
            mask_channels,
            kernel_channels,
            num_grids,
        )
        self.num_classes, self.num_grids, self.scale_ranges = num_classes, tuple(num_grids), tuple(scale_ranges)
        self.pos_scale, self.dice_weight = pos_scale, dice_weight
        self.focal_alpha, self.focal_gamma = focal_alpha, focal_gamma
        self.score_thr, self.mask_thr, self.nms_pre = score_thr, mask_thr, nms_pre
        self.sigma, self.filter_thr, self.max_per_img = sigma, filter_thr, max_per_img
        self.min_size = (min_size,) if isinstance(min_size, int) else tuple(min_size)
        self.max_size, self.image_mean, self.image_std = max_size, tuple(image_mean), tuple(image_std)

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Return the losses in training, the detections in eval; see the class."""
        check_images(images)
        if not self.training:
            return [self.detect(image) for image in images]
        check_targets(images, targets, self.num_classes)
        resized = [self.scale(image) for image in images]
        batch = self.pad(resized)
        small = [image.shape[1:] for image in resized]
        assigned = [self.assign(t, size, batch.shape[2:]) for t, size in zip(targets or (), small)]
        logits, kernels, features = self.head(list(self.backbone(batch).values()))
        with torch.autocast(batch.device.type, enabled=False):
            return self.losses(by_cell(logits).float(), by_cell(kernels).float(), features.float(), assigned)

    def scale(self, image: Tensor) -> Tensor:
        """Resize an image (3, H, W) within min_size and max_size, and normalise it."""
        draw = int(torch.randint(len(self.min_size), ())) if self.training and len(self.min_size) > 1 else -1
        sides = image.shape[1:]
        factor = min(self.min_size[draw] / min(sides), self.max_size / max(sides))
        size = [max(int(side * factor + 0.5), 1) for side in sides]
        mean, std = (image.new_tensor(v)[:, None, None] for v in (self.image_mean, self.image_std))
        return resize((image[None] - mean) / std, size)[0]

    def pad(self, images: Sequence[Tensor]) -> Tensor:
        """Put images (3, H, W) into one batch, zeros at the right and bottom, sides divisible by 32."""
        height, width = (math.ceil(max(image.shape[i] for image in images) / 32) * 32 for i in (1, 2))
        return torch.stack([F.pad(x, (0, width - x.shape[2], 0, height - x.shape[1])) for x in images])

    def assign(self, target: Mapping[str, Tensor], size: Sequence[int], padded: Sequence[int]) -> Assignment:
        """Resize a target with its image, pad it with the batch, and assign it to the cells."""
        old, masks = target["masks"].shape[1:], target["masks"]
        rows, columns = (torch.arange(new, device=masks.device) * was // new for new, was in zip(size, old))
        masks = masks[:, rows][:, :, columns]  # the nearest pixel, as in the published training
        masks = F.pad(masks, (0, padded[1] - size[1], 0, padded[0] - size[0]))
        ratio = [size[1] / old[1], size[0] / old[0]] * 2
        return assign(
            target["boxes"].float() * target["boxes"].new_tensor(ratio, dtype=torch.float),
            target["labels"] - 1,
            masks,
            num_classes=self.num_classes,
            num_grids=self.num_grids,
            scale_ranges=self.scale_ranges,
            pos_scale=self.pos_scale,
        )

    def losses(
        self, logits: Tensor, kernels: Tensor, features: Tensor, assigned: Sequence[Assignment]
    ) -> dict[str, Tensor]:
        """Compare predictions with targets.

        Args:
            logits: (B, S, classes) of the cells.
            kernels: (B, S, E).
            features: (B, E, H, W) of stride 4.
            assigned: B targets. Divisors are the distinct positive cells of the batch, not the
                positives; where there are none, the mask loss is 0.
        """
        total = features.new_zeros(())
        for kernel, feature, t in zip(kernels, features, assigned):
            masks = kernel[t.cells] @ feature.flatten(1)  # (P, H*W)
            total = total + dice_loss(masks, t.masks[t.objects].flatten(1).to(masks.dtype)).sum()
        labels = torch.stack([t.labels for t in assigned])  # (B, S)
        count = (labels < self.num_classes).sum()
        hot = F.one_hot(labels, self.num_classes + 1)[..., :-1].to(logits.dtype)
        focal = sigmoid_focal_loss(logits, hot, self.focal_alpha, self.focal_gamma, reduction="sum")
        return {
            "loss_classifier": focal / (count + 1),
            "loss_mask": self.dice_weight * total / count.clamp(min=1),
        }

    def detect(self, image: Tensor) -> dict[str, Tensor]:
        """Find the objects of one image (3, H, W); see the class."""
        resized = self.scale(image)
        logits, kernels, features = self.head(list(self.backbone(self.pad([resized])).values()))
        with torch.autocast(image.device.type, enabled=False):
            scores = [point_nms(level.float().sigmoid()) for level in logits]
            return self.select(
                by_cell(scores)[0], by_cell(kernels)[0].float(), features[0].float(), resized.shape[1:], image.shape[1:]
            )

    def select(
        self, scores: Tensor, kernels: Tensor, features: Tensor, resized: Sequence[int], original: Sequence[int]
    ) -> dict[str, Tensor]:
        """Turn the predictions for one image into detections.

        Args:
            scores: (S, classes) in [0, 1], 0 where point NMS took a cell out.
            kernels: (S, E).
            features: (E, H, W) of stride 4.
            resized: Height and width of the image in the network, without padding.
            original: Height and width of the image as it came; a detection that has no pixel left
                there is dropped.
        """
        stride = torch.cat([scores.new_full((n * n,), s) for n, s in zip(self.num_grids, STRIDES)])
        cells, labels = (scores > self.score_thr).nonzero(as_tuple=True)
        distinct, which = cells.unique(return_inverse=True)  # a cell may stand for several classes
        parts, sums = [], []
        for kernel in kernels[distinct].split(CELLS_AT_ONCE):
            soft = (kernel @ features.flatten(1)).sigmoid()
            parts.append(soft > self.mask_thr)
            sums.append((soft * parts[-1]).sum(1))
        masks, inside = torch.cat(parts), torch.cat(sums)
        areas = masks.sum(1)
        good = areas[which] > stride[cells]
        cells, labels, which = cells[good], labels[good], which[good]
        values = scores[cells, labels] * (inside / areas)[which]

        order = values.argsort(descending=True, stable=True)[: self.nms_pre]
        values = matrix_nms(masks[which[order]], labels[order], values[order], self.sigma)
        order, values = order[values >= self.filter_thr], values[values >= self.filter_thr]
        best = values.argsort(descending=True, stable=True)[: self.max_per_img]
        order, values = order[best], values[best]
        final = self.draw(kernels[cells[order]], features, resized, original)
        seen = final.flatten(1).any(1)
        return {
            "boxes": boxes_of(final[seen]),
            "labels": labels[order][seen] + 1,
            "scores": values[seen],
            "masks": final[seen],
        }

    def draw(self, kernels: Tensor, features: Tensor, resized: Sequence[int], original: Sequence[int]) -> Tensor:
        """Draw masks, bool (N, *original), of kernels (N, E) on features (E, H, W)."""
        _, height, width = features.shape
        parts = []
        for kernel in kernels.split(MASKS_AT_ONCE):
            soft = (kernel @ features.flatten(1)).sigmoid().view(len(kernel), 1, height, width)
            soft = resize(soft, (4 * height, 4 * width))[:, :, : resized[0], : resized[1]]
            parts.append(resize(soft, original)[:, 0] > self.mask_thr)
        return torch.cat(parts)


def check_images(images: Sequence[Tensor]) -> None:
    """Raise ValueError unless images are a list of float (3, H, W)."""
    if isinstance(images, Tensor) or not len(images):
        raise ValueError("images must be a list of at least one tensor (3, H, W); split a batch with list(batch)")
    for i, image in enumerate(images):
        if image.ndim != 3 or image.shape[0] != 3 or not image.numel() or not image.is_floating_point():
            raise ValueError(
                f"image {i} is {image.dtype} of shape {tuple(image.shape)}; wanted float (3, H, W) in [0, 1], RGB"
            )


def check_targets(images: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]] | None, num_classes: int) -> None:
    """Raise ValueError unless there is a target for every image, as `SOLOv2` describes it."""
    if targets is None or len(targets) != len(images):
        found = "none" if targets is None else f"{len(targets)}"
        raise ValueError(f"training needs one target for each of {len(images)} images; got {found} (or call eval())")
    for i, (image, target) in enumerate(zip(images, targets)):
        if missing := [key for key in ("boxes", "labels", "masks") if key not in target]:
            raise ValueError(f"target {i} lacks {missing}; it has {sorted(target)}")
        labels, size = target["labels"], tuple(image.shape[1:])
        for key, shape in (("boxes", (len(labels), 4)), ("masks", (len(labels), *size))):
            if tuple(target[key].shape) != shape:
                raise ValueError(
                    f"{key} of target {i} have shape {tuple(target[key].shape)}; wanted {shape} "
                    f"for {len(labels)} labels and an image of {size}"
                )
        if labels.dtype != torch.int64 or (len(labels) and not 1 <= labels.min() <= labels.max() <= num_classes):
            raise ValueError(
                f"labels of target {i} are {labels.dtype}, {sorted(set(labels.tolist()))}; "
                f"wanted int64 in 1 ... {num_classes} (0 is the background)"
            )


def solov2(
    num_classes: int = 80,
    *,
    backbone: str = "resnet50",
    weights_backbone: Any = None,
    trainable_layers: int = 3,
    norm_layer: Callable[..., nn.Module] = FrozenBatchNorm2d,
    **options: Any,
) -> SOLOv2:
    """Build SOLOv2 on torchvision's ResNet with a feature pyramid; by default the published one.

    A checkpoint is to be loaded into a model of the same arguments: torch does not notice another
    `norm_layer`, but the outputs do.

    Args:
        num_classes: Classes, without background.
        backbone: Name of a ResNet in torchvision.
        weights_backbone: torchvision's weights of it, such as ResNet50_Weights.IMAGENET1K_V1.
        trainable_layers: How many of res5, res4, res3, res2, stem train; the rest is frozen.
        norm_layer: FrozenBatchNorm2d normalises with loaded statistics. To train from scratch give
            nn.BatchNorm2d and trainable_layers=5.
        options: Of `SOLOv2`.
    """
    pyramid = resnet_fpn_backbone(
        backbone_name=backbone, weights=weights_backbone, norm_layer=norm_layer, trainable_layers=trainable_layers
    )
    return SOLOv2(pyramid, num_classes, **options)


def solov2_light(num_classes: int = 80, **options: Any) -> SOLOv2:
    """Build the published light variant: half the towers, a smaller picture, `LIGHT`; options as of `solov2`."""
    return solov2(num_classes, **{**LIGHT, **options})
