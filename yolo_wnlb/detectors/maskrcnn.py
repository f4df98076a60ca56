"""Mask R-CNN of torchvision with blocks in its backbone, and its masks drawn without the wait.

He, Gkioxari, Dollár, Girshick, "Mask R-CNN", ICCV 2017, https://arxiv.org/abs/1703.06870.

What a state dict does not tell, and what changes the outputs without an error if it is guessed
(frozen norms or not, their eps, the blocks' function, image sizes), is in `model.recipe`: plain
values, from which `maskrcnn(**arguments)` builds the same module again.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import list_models
from torchvision.models.detection import (
    MaskRCNN,
    MaskRCNN_ResNet50_FPN_V2_Weights,
    MaskRCNN_ResNet50_FPN_Weights,
    maskrcnn_resnet50_fpn_v2,
)
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.roi_heads import expand_boxes, expand_masks
from torchvision.models.detection.transform import resize_boxes
from torchvision.ops import FrozenBatchNorm2d

from yolo_wnlb.checkpoints import COUNTER, check_values, read_checkpoint
from yolo_wnlb.data.coco import encode, first
from yolo_wnlb.detectors.resnet import STAGES, insert_blocks
from yolo_wnlb.reading import sha256_of
from yolo_wnlb.words import suggestion

COCO = {"v1": MaskRCNN_ResNet50_FPN_Weights.COCO_V1, "v2": MaskRCNN_ResNet50_FPN_V2_Weights.COCO_V1}
COCO_OUTPUTS = len(COCO["v1"].meta["categories"])  # 91: labels are COCO's category ids, 1 to 90 with gaps
COCO_CLASSES = {i: name for i, name in enumerate(COCO["v1"].meta["categories"]) if i and name != "N/A"}
NORMS = {"frozen": FrozenBatchNorm2d, "batch": nn.BatchNorm2d}
FREEZE = ("none", "heads", "heads+fpn")
LAYERS = ("layer4", "layer3", "layer2", "layer1", ("conv1", "bn1"))  # the order in which they are trained
BACKBONES = list_models(include=["resnet*", "resnext*", "wide_resnet*"])
PLAIN = (int, float, str, list, tuple, NoneType)
RECIPE: dict[str, Any] = {  # what stands in the recipe of every model, and its type
    "detector": str,
    "variant": str,
    "num_classes": int,
    "stages": (list, tuple),
    "block": dict,
    "backbone": str,
    "norm": str,
    "options": dict,
}
CLASSIFIER = "roi_heads.box_predictor.cls_score.weight"
MASKS_AT_ONCE = 16  # at the size of the image


def maskrcnn(
    num_classes: int = COCO_OUTPUTS,
    *,
    variant: str | None = None,
    weights: str | Path | None = None,
    stages: Sequence[int] | None = None,
    block: Mapping[str, Any] | None = None,
    new_heads: bool = False,
    freeze: str = "none",
    trainable_layers: int | None = None,
    backbone: str | None = None,
    norm: str | None = None,
    eps: float | None = None,
    **options: Any,
) -> MaskRCNN:
    """Build Mask R-CNN with a feature pyramid, load its weights, then insert the blocks.

    As long as every w is 0, outputs are those of the model without blocks, bit for bit.

    Args:
        num_classes: Outputs of the heads, the background included, as torchvision counts. The heads
            of `weights` are kept where they have as many, and else start anew, all but the one layer
            of the mask head that knows no classes.
        variant: 'v1' is torchvision's maskrcnn_resnet50_fpn, 'v2' its maskrcnn_resnet50_fpn_v2.
        weights: 'coco', which torchvision downloads; or a file: of torchvision, or a checkpoint that
            was trained here, whose settings hold for everything that is None. None starts at random.
        stages: After which of res2 ... res5 a block is inserted. Those in `weights` must be among
            them. Default: those in `weights`.
        block: Options of `WNLB`; those of the blocks in `weights` cannot be changed.
        new_heads: Let the heads start anew although they have as many outputs: for other classes.
        freeze: 'none'; 'heads', the RPN and both heads; 'heads+fpn', all but the backbone. The blocks
            always learn.
        trainable_layers: How many of res5, res4, res3, res2, stem learn. Default: 3 from trained
            weights with freeze='none', as in torchvision, otherwise all 5.
        backbone: Name of a ResNet in torchvision, for v1. Default: resnet50.
        norm: Of the backbone. 'frozen' normalises with loaded statistics; 'batch' is nn.BatchNorm2d,
            what a random start needs. Default: as in `weights`; torchvision's own v1 is frozen.
        eps: Of the norms of the backbone. Default: as in `weights`. A file of torchvision holds no eps:
            its COCO weights of v1, known by their hash, want 0, and norms with batch counters 1e-5. For
            frozen norms of another file, either may be right, and it has to be given.
        options: Of torchvision's MaskRCNN, plain values: min_size=800, max_size=1333,
            box_score_thresh=0.05, ... And anchor_sizes=(32, 64, 128, 256, 512), in pixels of the
            resized image, one for each level.

    Returns: The model in training mode; `recipe` is what built it, recipe["classes"] what the labels of
        kept heads mean.
    Raises:
        FileNotFoundError: there is no such file.
        OSError: the download failed.
        ValueError: an argument is out of range, or missing (eps); the file is of another model; a frozen
            part would keep a random start.
    """
    state, recipe = read_weights(weights, variant)
    variant = variant or recipe.get("variant", "v1")
    backbone = backbone or recipe.get("backbone", "resnet50")
    published = weights is not None and not recipe and is_published(weights)
    counted = not state or variant == "v2" or f"backbone.body.bn1.{COUNTER}" in state
    norm = norm or recipe.get("norm") or ("batch" if counted and not published else "frozen")
    if eps is None and not (recipe or published or counted):
        raise ValueError(
            f"{weights} has frozen norms, and no file of torchvision says with which eps: give eps=0.0 if it was "
            "trained from the COCO weights, eps=1e-5 if from a backbone alone. What save() writes afterwards says it"
        )
    if eps is None:
        eps = recipe.get("eps", 0.0 if published and norm == "frozen" else 1e-5)
    options = {**recipe.get("options", {}), **options}
    check(options, variant=(variant, COCO), norm=(norm, NORMS), backbone=(backbone, BACKBONES))
    if variant == "v2" and (backbone, norm) != ("resnet50", "batch"):
        raise ValueError(f"variant 'v2' has backbone='resnet50' and norm='batch'; got {backbone!r} and {norm!r}")
    old_stages, new_stages, block = plan_blocks(recipe, stages, block)

    outputs = state[CLASSIFIER].shape[0] if state else num_classes
    model: Any = start(
        lambda: with_blocks(plain(outputs, variant, backbone, norm, eps, options), old_stages, block),
        state,
        f"{weights}",
        f"Mask R-CNN {variant} on {backbone}",
    )
    insert_blocks(model.backbone.body, new_stages, **block)
    kept = outputs == num_classes and not new_heads
    if state and not kept:
        renew_heads(model, num_classes)
    set_trainable(model, freeze, trainable_layers, bool(state), kept)
    model.recipe = {
        "detector": "maskrcnn",
        "num_classes": num_classes,
        "variant": variant,
        "stages": tuple(sorted({*old_stages, *new_stages})),
        "block": block,
        "backbone": backbone,
        "norm": norm,
        "eps": eps,
        "options": {"min_size": model.transform.min_size, "max_size": model.transform.max_size, **options},
        "start": Path(weights).name if weights else None,
    }
    if state and kept and (classes := known_classes(state, recipe)):
        model.recipe["classes"] = classes
    return model


# ---- parts of it, some of which SOLOv2 is built with, too ------------------------------------------


def read_weights(weights: str | Path | None, variant: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the state dict, and the recipe if it was trained here; both empty for None."""
    if weights is None:
        return {}, {}
    if weights == "coco":
        source = COCO.get(variant or "v1", COCO["v1"])
        try:
            return source.get_state_dict(check_hash=True), {}
        except OSError as error:
            raise OSError(
                f"weights='coco' could not be fetched ({error}); download {source.url} where there is a network, and "
                "give weights=FILE"
            ) from error
    state, recipe = read_recipe(weights)
    classifier = state.get(CLASSIFIER)
    if recipe.get("detector", "maskrcnn") != "maskrcnn" or not isinstance(classifier, Tensor) or classifier.ndim != 2:
        found = recipe.get("detector", f"tensors such as {first(list(state), 2)}")
        raise ValueError(f"{weights} holds no Mask R-CNN but {found}; give one of torchvision, or one trained here")
    if variant and recipe.get("variant", variant) != variant:
        raise ValueError(f"{weights} is Mask R-CNN {recipe['variant']}, not {variant}")
    return state, recipe


def known_classes(state: Mapping[str, Any], recipe: Mapping[str, Any]) -> dict[int, str]:
    """Return the classes of some weights by label, {} if the file does not tell."""
    return recipe.get("classes", COCO_CLASSES if state[CLASSIFIER].shape[0] == COCO_OUTPUTS else {})


def read_recipe(weights: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the state dict of a file, and the recipe of its model; {} if it was not trained here.

    Raises: OSError, ValueError: as `read_checkpoint`; the recipe is damaged.
    """
    state, meta = read_checkpoint(weights)
    if "detector" not in meta:
        return state, {}
    check_recipe(meta, weights)
    return state, meta


def check_recipe(meta: Mapping[str, Any], weights: str | Path) -> None:
    """Refuse the recipe of a checkpoint unless it can have been written by `save`.

    Raises: ValueError: names what is wrong in it.
    """
    for key, kind in RECIPE.items():
        value = meta.get(key)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ValueError(f"{weights} is damaged: {key!r} of its recipe is {type(value).__name__}; copy it again")
    classes = meta.get("classes", {})  # of what `maskrcnn` alone built there are none
    if not isinstance(classes, dict) or not all(type(k) is int and isinstance(v, str) for k, v in classes.items()):
        raise ValueError(f"{weights} is damaged: the classes of its recipe are no labels with names; copy it again")
    if not all(stage in STAGES for stage in meta["stages"]):
        raise ValueError(f"{weights} is damaged: its recipe has blocks after unknown stages; copy it again")


def is_published(weights: str | Path) -> bool:
    """Tell whether weights are torchvision's COCO weights of v1, by the hash that stands in their name there."""
    if weights == "coco":
        return True
    wanted = re.search(r"-([0-9a-f]{8})\.", COCO["v1"].url)[1]  # type: ignore[index]
    return sha256_of(Path(weights)).startswith(wanted)


def check(options: Mapping[str, Any], **choices: tuple[str, Collection[str]]) -> None:
    """Refuse values that are not among their choices, and options that no checkpoint could hold."""
    for name, (value, known) in choices.items():
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}; got {value!r}{suggestion(value, known)}")
    if odd := [key for key, value in options.items() if not isinstance(value, PLAIN)]:
        raise ValueError(f"options have to be plain values, which a checkpoint can hold; got others for {first(odd)}")


def plan_blocks(
    recipe: Mapping[str, Any], stages: Sequence[int] | None, block: Mapping[str, Any] | None
) -> tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]:
    """Return the stages whose blocks are in the weights, those of new ones, and the options of both.

    Raises: ValueError: the request would drop blocks of the weights, or change what they compute.
    """
    old_stages, old = tuple(recipe.get("stages", ())), dict(recipe.get("block", {}))
    wanted = old_stages if stages is None else tuple(dict.fromkeys(stages))
    options = old if block is None else dict(block)
    if lost := sorted(set(old_stages) - set(wanted)):
        raise ValueError(f"the weights have blocks after res{lost}, which stages={wanted} would drop; add these stages")
    if old_stages and options != old:
        raise ValueError(f"the blocks in the weights were trained with {old}; got {options}: leave block out")
    return old_stages, tuple(stage for stage in wanted if stage not in old_stages), options


def plain(outputs: int, variant: str, backbone: str, norm: str, eps: float, options: Mapping[str, Any]) -> MaskRCNN:
    """Build torchvision's model at random, without blocks, everything trainable."""
    options = dict(options)
    sizes = options.pop("anchor_sizes", None)
    known = [*inspect.signature(MaskRCNN).parameters, "size_divisible", "fixed_size"]
    if unknown := [name for name in options if name not in known or name in ("backbone", "num_classes", "kwargs")]:
        # torchvision itself ignores what it does not know
        raise ValueError(f"Mask R-CNN has no option {unknown[0]}{suggestion(unknown[0], known)}")
    if variant == "v1":
        pyramid = resnet_fpn_backbone(backbone_name=backbone, weights=None, norm_layer=NORMS[norm], trainable_layers=5)
        model = MaskRCNN(pyramid, outputs, **options)
    else:
        model = maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=outputs, **options)
    if sizes is not None:
        if len(sizes) != 5:
            raise ValueError(f"anchor_sizes needs one size for each of 5 levels; got {sizes}")
        model.rpn.anchor_generator = AnchorGenerator(tuple((s,) for s in sizes), ((0.5, 1.0, 2.0),) * 5)
    for module in model.backbone.body.modules():
        if isinstance(module, (FrozenBatchNorm2d, nn.BatchNorm2d)):
            module.eps = eps
    return model


def with_blocks(model: Any, stages: Sequence[int], block: Mapping[str, Any]) -> Any:
    """Insert blocks into the backbone of a detector; returns the detector."""
    insert_blocks(model.backbone.body, stages, **block)
    return model


def start(
    build: Callable[[], nn.Module], state: Mapping[str, Any], source: str, kind: str, anew: Collection[str] = ()
) -> nn.Module:
    """Build a model and load a state dict, every tensor but for those named in `anew`; {} leaves the random start.

    It is built without memory first, and compared with the file: a recipe that asks for a huge model, to which
    the file has no weights, takes no memory.

    Raises: ValueError: says what does not fit.
    """
    if state:
        with torch.device("meta"):
            fill(build(), state, source, kind, anew)
    model = build()
    if state:
        fill(model, state, source, kind, anew)
    return model


def fill(model: nn.Module, state: Mapping[str, Any], source: str, kind: str, anew: Collection[str] = ()) -> None:
    """Load a state dict, every tensor of it but for those named in `anew`.

    Modules of torchvision translate the names of its old files by themselves.

    Raises: ValueError: says what does not fit.
    """
    empty = next(model.parameters()).is_meta
    state = {name: value for name, value in state.items() if name not in anew}
    check_values(state, model, source)
    try:
        left = model.load_state_dict(state, strict=False, assign=empty)
    except RuntimeError as error:  # its first line names the class, the second one the first tensor
        reason = str(error).splitlines()[:2][-1].strip()
        raise ValueError(f"{source} does not fit {kind}: {reason}") from error
    missing = [name for name in left.missing_keys if name not in anew]
    if missing or left.unexpected_keys:
        counts = [
            f"{len(names)} {what} (first: {names[0]})"
            for names, what in ((missing, "tensors are missing"), (left.unexpected_keys, "have no place"))
            if names
        ]
        raise ValueError(f"{source} does not fit {kind}: {', '.join(counts)}; is it another variant or backbone?")


def renew_heads(model: Any, num_classes: int) -> None:
    """Give both heads new layers for another number of classes, in place; they start as in torchvision."""
    box, mask = model.roi_heads.box_predictor, model.roi_heads.mask_predictor
    model.roi_heads.box_predictor = FastRCNNPredictor(box.cls_score.in_features, num_classes)
    mask.mask_fcn_logits = nn.Conv2d(mask.mask_fcn_logits.in_channels, num_classes, 1)
    nn.init.kaiming_normal_(mask.mask_fcn_logits.weight, mode="fan_out", nonlinearity="relu")


def set_trainable(
    model: nn.Module, freeze: str, trainable_layers: int | None, pretrained: bool, heads_kept: bool
) -> None:
    """Say which parameters learn; see `maskrcnn`. Works for any detector with backbone.body and backbone.fpn.

    Raises: ValueError: a choice is unknown, or a random start would be frozen.
    """
    if freeze not in FREEZE:
        raise ValueError(f"freeze must be one of {', '.join(FREEZE)}; got {freeze!r}{suggestion(freeze, FREEZE)}")
    if freeze != "none" and not (pretrained and heads_kept):
        why = "these are new, for other classes than those of the weights" if pretrained else "nothing is trained yet"
        raise ValueError(f"freeze={freeze!r} would freeze heads at a random start ({why}); use freeze='none'")
    layers = (3 if pretrained and freeze == "none" else 5) if trainable_layers is None else trainable_layers
    if layers not in range(6):
        raise ValueError(f"trainable_layers must be 0 to 5; got {layers}")
    learning = {name for group in LAYERS[:layers] for name in ([group] if isinstance(group, str) else group)}
    for name, parameter in model.named_parameters():
        if name.startswith("backbone.body."):
            learns = name.split(".")[2] in learning or ".wnlb." in name
        else:
            learns = freeze == "none" or (freeze == "heads" and name.startswith("backbone.fpn."))
        parameter.requires_grad_(learns)


# ---- detections ------------------------------------------------------------------------------------


def detect(model: MaskRCNN, image: Tensor) -> dict[str, Tensor]:
    """Find the objects of an image (3, H, W): what `model([image])` does in eval, but for drawing the masks.

    Returns: boxes (N, 4) in pixels of the image, labels (N,), scores (N,) falling, and masks (N, M, M)
        of probabilities inside of the boxes, for `paste`.
    """
    batch, _ = model.transform([image])
    features = model.backbone(batch.tensors)
    proposals, _ = model.rpn(batch, features)
    [found], _ = model.roi_heads(features, proposals, batch.image_sizes)
    boxes = resize_boxes(found["boxes"], batch.image_sizes[0], image.shape[1:])  # type: ignore[arg-type]
    return {**found, "boxes": boxes, "masks": found["masks"][:, 0]}


def paste(masks: Tensor, boxes: Tensor, size: Sequence[int]) -> np.ndarray:
    """Draw masks into a picture: bool (N, *size) of probabilities (N, M, M) in boxes (N, 4) xyxy.

    The arithmetic is that of torchvision's paste_masks_in_image, done inside of the box only.
    """
    height, width = size
    padded, scale = expand_masks(masks.float().cpu(), 1)
    corners = expand_boxes(boxes.float().cpu(), scale).long().tolist()
    result = np.zeros((len(masks), height, width), bool)
    for solid, soft, (x1, y1, x2, y2) in zip(result, padded.numpy(), corners):
        drawn = cv2.resize(soft, (max(x2 - x1 + 1, 1), max(y2 - y1 + 1, 1)), interpolation=cv2.INTER_LINEAR)
        left, top, right, bottom = max(x1, 0), max(y1, 0), min(x2 + 1, width), min(y2 + 1, height)
        solid[top:bottom, left:right] = drawn[top - y1 : bottom - y1, left - x1 : right - x1] > 0.5
    return result


def encode_pasted(masks: Tensor, boxes: Tensor, size: Sequence[int]) -> list[dict[str, Any]]:
    """Run-length encode what `paste` draws, a few masks at a time."""
    parts = zip(masks.split(MASKS_AT_ONCE), boxes.split(MASKS_AT_ONCE))
    return [rle for few, corners in parts for rle in encode(paste(few, corners, size))]
