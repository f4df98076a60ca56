"""Detectors with torchvision's contract, Mask R-CNN and SOLOv2: built by name, saved, loaded, run for COCO results.

    build(name, classes, weights=...) -> model -> fit.fit -> checkpoint -> load -> predict -> COCO results

A checkpoint holds the recipe of its model (see `maskrcnn`), so that `load` builds the same module in
any process, and the names of its classes. It is read without running code from it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from ultralytics.utils import TQDM
from ultralytics.utils.torch_utils import select_device

from yolo_wnlb.checkpoints import has_mark, read_checkpoint
from yolo_wnlb.data.coco import Prediction, encode, first
from yolo_wnlb.data.journal import replaced
from yolo_wnlb.detectors import maskrcnn as rcnn
from yolo_wnlb.detectors.resnet import insert_blocks
from yolo_wnlb.detectors.solov2 import SOLOv2, solov2, solov2_light
from yolo_wnlb.detectors.solov2_weights import CLASSIFIER, class_names, load_public, our_name
from yolo_wnlb.reading import sha256_of
from yolo_wnlb.words import suggestion
from yolo_wnlb.yolo.models import read_picture

LOGGER = logging.getLogger(__name__)

FORMAT = "yolo_wnlb detector 1"  # in every checkpoint
DETECTORS = ("maskrcnn", "maskrcnn_v2", "solov2", "solov2_light")
SOLOV2 = {"solov2": solov2, "solov2_light": solov2_light}


class Model(NamedTuple):
    """A loaded detector, to be used more than once.

    Attributes:
        weights: Its file, None if it never was in one.
        module: The network, in eval mode unless it was handed over.
        classes: Their names by label, {1: "person", ...}.
    """

    weights: Path | None
    module: nn.Module
    classes: dict[int, str]

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return next(self.module.parameters()).device


# ---- building --------------------------------------------------------------------------------------


def build(
    detector: str,
    names: Sequence[str] | None,
    *,
    weights: str | Path | None = None,
    stages: Sequence[int] | None = None,
    block: Mapping[str, Any] | None = None,
    freeze: str = "none",
    trainable_layers: int | None = None,
    **options: Any,
) -> nn.Module:
    """Build a detector for some classes.

    Heads that know all the classes by name are kept as they are, COCO's for any of its 80 classes;
    else they start anew.

    Args:
        detector: One of DETECTORS.
        names: Of the classes, such as those of a truth: [c["name"] for c in truth["categories"]]. None
            takes all that `weights` know.
        weights: As `maskrcnn` takes it; for SOLOv2 a checkpoint of mmdetection, or one trained here.
        stages: After which of res2 ... res5 a block is inserted. Default: those in `weights`.
        block: Options of `WNLB`.
        freeze: 'none', 'heads' or 'heads+fpn'; see `maskrcnn`.
        trainable_layers: How many of res5, res4, res3, res2, stem learn; see `maskrcnn`.
        options: Of `maskrcnn`; or of `solov2`, with `norm` 'frozen' or 'batch' (default: as in
            `weights`, 'batch' from a random start).

    Returns: The model in training mode. `recipe` says what built it, recipe["classes"] what its
        labels mean.
    Raises: ValueError, OSError: as `maskrcnn`.

    Example:
        >>> model = build("solov2_light", ["disc", "box"], backbone="resnet18", stages=(4, 5))
        >>> model.recipe["classes"]
        {1: 'disc', 2: 'box'}
    """
    if detector not in DETECTORS:
        meant = suggestion(detector, DETECTORS)
        raise ValueError(f"no detector {detector!r}{meant}; choose from {', '.join(DETECTORS)}")
    if names is not None and (not names or len(set(names)) < len(names)):
        raise ValueError(f"names must be at least one, and different; got {first(list(names))}")
    outputs, known = known_classes(detector, weights)
    if names is None and not known:
        raise ValueError(f"{weights} does not say what its classes are; build(..., names, weights=FILE) takes them")
    names = list(known.values() if names is None else names)
    if kept := set(names) <= set(known.values()):
        classes = {label: name for label, name in known.items() if name in names}
    else:
        classes = dict(enumerate(names, 1))
        if weights is not None:
            new = [name for name in names if name not in known.values()]
            LOGGER.warning("the heads start anew: %s does not know %s", weights, first(new))
    shared: dict[str, Any] = {"weights": weights, "stages": stages, "block": block, "freeze": freeze}
    shared.update(trainable_layers=trainable_layers, new_heads=not kept, **options)
    model: Any
    if detector in SOLOV2:
        model = start_solov2(outputs if kept else len(names), variant=detector, **shared)
    else:
        shared.setdefault("variant", "v2" if detector == "maskrcnn_v2" else "v1")
        model = rcnn.maskrcnn(outputs if kept else len(names) + 1, **shared)
    model.recipe["classes"] = classes
    return model


def known_classes(detector: str, weights: str | Path | None) -> tuple[int, dict[int, str]]:
    """Return the outputs of the heads in some weights, and their classes by label, as far as the file tells."""
    if weights is None:
        return 0, {}
    if detector in SOLOV2:
        if weights == "coco":
            raise ValueError(
                "weights of SOLOv2 have no name to fetch them by; download solov2_r50_fpn_3x_coco_*.pth (or the light "
                "one) from mmdetection's model zoo, and give weights=FILE"
            )
        state, meta = read_checkpoint(weights)
        if "detector" in meta:
            rcnn.check_recipe(meta, weights)
            return meta["num_classes"], meta.get("classes", {})
        public = dict(enumerate(class_names(meta), 1))
        outputs = next((len(value) for name, value in state.items() if our_name(name) == CLASSIFIER[1]), len(public))
        if public and outputs != len(public):
            raise ValueError(
                f"{weights} names {len(public)} classes, and its classifier has {outputs}; correct its meta['classes']"
            )
        return outputs, public
    if weights == "coco":
        return rcnn.COCO_OUTPUTS, rcnn.COCO_CLASSES
    state, recipe = rcnn.read_weights(weights, None)
    known = rcnn.known_classes(state, recipe)
    if known and not recipe and not rcnn.is_published(weights):
        LOGGER.warning("%s has %d outputs and no names: they are taken for COCO's classes", weights, rcnn.COCO_OUTPUTS)
    return state[rcnn.CLASSIFIER].shape[0], known


def start_solov2(
    num_classes: int,
    *,
    variant: str = "solov2",
    weights: str | Path | None = None,
    stages: Sequence[int] | None = None,
    block: Mapping[str, Any] | None = None,
    new_heads: bool = False,
    freeze: str = "none",
    trainable_layers: int | None = None,
    backbone: str | None = None,
    norm: str | None = None,
    **options: Any,
) -> SOLOv2:
    """Build SOLOv2, load its weights, then insert the blocks; the arguments are those of `maskrcnn`."""
    state, recipe = ({}, {}) if weights is None else rcnn.read_recipe(weights)
    if recipe and (recipe["detector"], recipe["variant"]) != ("solov2", variant):
        raise ValueError(
            f"{weights} holds {recipe['detector']} {recipe['variant']}, not {variant}; give its own weights"
        )
    backbone = backbone or recipe.get("backbone", "resnet50")
    norm = norm or recipe.get("norm", "frozen" if state else "batch")
    options = {**recipe.get("options", {}), **options}
    rcnn.check(options, norm=(norm, rcnn.NORMS), backbone=(backbone, rcnn.BACKBONES))
    old_stages, new_stages, block = rcnn.plan_blocks(recipe, stages, block)

    arguments: dict[str, Any] = {"backbone": backbone, "norm_layer": rcnn.NORMS[norm], "trainable_layers": 5}

    def plain() -> Any:
        return rcnn.with_blocks(SOLOV2[variant](num_classes, **arguments, **options), old_stages, block)

    kept = not new_heads
    model: Any
    if recipe:
        kept = kept and recipe["num_classes"] == num_classes
        anew = () if kept else CLASSIFIER
        model = rcnn.start(plain, state, f"{weights}", f"{variant} on {backbone}", anew)
    else:
        model = plain()
        fresh = {name: tensor.clone() for name, tensor in model.state_dict().items() if name in CLASSIFIER}
        if weights is not None:
            kept = not load_public(model, weights).other_classes and kept
        if not kept:
            model.load_state_dict(fresh, strict=False)
    insert_blocks(model.backbone.body, new_stages, **block)
    rcnn.set_trainable(model, freeze, trainable_layers, bool(state), kept)
    model.recipe = {
        "detector": "solov2",
        "num_classes": num_classes,
        "variant": variant,
        "stages": tuple(sorted({*old_stages, *new_stages})),
        "block": block,
        "backbone": backbone,
        "norm": norm,
        "options": {"min_size": model.min_size, "max_size": model.max_size, **options},
        "start": Path(weights).name if weights else None,
    }
    return model


# ---- checkpoints -----------------------------------------------------------------------------------


def save(model: nn.Module, path: str | Path, training: Mapping[str, Any] | None = None) -> None:
    """Write a checkpoint, complete or not at all.

    Args:
        model: What `build` returned. Of any other module the weights are kept, but not how to build it.
        path: File to write, .pt.
        training: What it takes to go on; plain values and tensors.

    Raises: OSError: the file cannot be written; what was there before is unchanged.
    """
    meta = {"format": FORMAT, **getattr(model, "recipe", {}), "training": dict(training or {})}
    meta["versions"] = {"torch": str(torch.__version__), "torchvision": torchvision.__version__}
    with replaced(Path(path)) as draft:
        torch.save({"meta": meta, "state_dict": model.state_dict()}, draft)


def reads(weights: str | Path) -> bool:
    """Tell whether a file is a checkpoint that `save` wrote, from a glance into it.

    Raises: ValueError: it is a damaged archive, or one that grows when it is read.
    """
    return has_mark(weights, FORMAT)


def read(weights: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the state dict of a checkpoint, and its recipe.

    Raises: FileNotFoundError; ValueError: `save` did not write it.
    """
    state, meta = read_checkpoint(weights)
    if meta.get("format") != FORMAT:
        raise ValueError(
            f"{weights} was not written here; load weights of torchvision or mmdetection with build(name, names, "
            "weights=FILE), and save() the model"
        )
    if "detector" in meta:
        rcnn.check_recipe(meta, weights)
    return state, meta


def load(weights: str | Path | nn.Module | Model, device: str | None = None) -> Model:
    """Build the model of a checkpoint; one that is loaded is returned as it is.

    Args:
        weights: A checkpoint that `save` or `fit` wrote, what `build` returned, or what this returned.
        device: As Ultralytics takes it: "cpu", "0", ... Default: a GPU if there is one; a module
            that is handed over stays where it is.
    Raises: OSError, ValueError: the file is missing, unreadable or of something else.
    """
    if isinstance(weights, Model):
        return weights
    if isinstance(weights, nn.Module):
        recipe = getattr(weights, "recipe", {})
        count = outputs_of(weights)
        return Model(None, weights, recipe.get("classes", {i: f"class {i}" for i in range(1, count + 1)}))
    state, meta = read(weights)
    if "detector" not in meta or "classes" not in meta:
        raise ValueError(f"{weights} is of a module that build() did not make; build it, and load its state_dict")
    try:
        model = rcnn.start(lambda: rebuild(meta), state, f"{weights}", f"the {meta['detector']} of its own recipe")
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{weights} is damaged: its recipe builds no model ({error}); copy it again") from error
    return Model(Path(weights), model.to(select_device(device or "", verbose=False)).eval(), meta["classes"])


def published(detector: str, weights: str | Path, device: str | None = None, **options: Any) -> Model:
    """Build a detector with all its classes from weights as others publish them, in eval mode.

    Args:
        detector: One of DETECTORS.
        weights: 'coco' or a file of torchvision for Mask R-CNN; a file of mmdetection for SOLOv2.
        device: As `load` takes it.
        options: As `build` takes them.
    Raises: OSError, ValueError: as `build`.
    """
    model: Any = build(detector, None, weights=weights, **options)
    file = Path(weights)
    if weights == "coco":
        file = Path(torch.hub.get_dir(), "checkpoints", Path(rcnn.COCO[model.recipe["variant"]].url).name)
    return Model(file, model.to(select_device(device or "", verbose=False)).eval(), model.recipe["classes"])


def rebuild(recipe: Mapping[str, Any]) -> nn.Module:
    """Build the same module again, its numbers at random."""
    keys = ("num_classes", "variant", "stages", "block", "backbone", "norm")
    arguments = {key: recipe[key] for key in keys} | recipe["options"]
    model: Any
    if recipe["detector"] == "solov2":
        model = start_solov2(**arguments)
    else:
        model = rcnn.maskrcnn(eps=recipe["eps"], **arguments)
    model.recipe |= {"classes": recipe["classes"], "start": recipe["start"]}
    return model


def outputs_of(module: Any) -> int:
    """Return the number of labels a detector can give, without the background."""
    if isinstance(module, MaskRCNN):
        return module.roi_heads.box_predictor.cls_score.out_features - 1
    if isinstance(module, SOLOv2):
        return module.num_classes
    raise TypeError(f"{type(module).__name__} is neither a Mask R-CNN of torchvision nor a SOLOv2")


# ---- what `yolo_wnlb.detectors` says of every detector ---------------------------------------------


def names(weights: str | Path | nn.Module | Model) -> dict[int, str]:
    """Return the model's classes, {index: name}, in the order of the labels."""
    return dict(enumerate(load(weights).classes.values()))


def describe(
    weights: str | Path | nn.Module | Model,
    *,
    imgsz: int | Sequence[int] | None = None,
    conf: float | None = None,
    max_det: int = 100,
) -> dict[str, Any]:
    """Return the protocol of `predict` with these arguments, for the header of a predictions file."""
    model = load(weights)
    recipe = getattr(model.module, "recipe", {})
    with limits(model.module, imgsz, conf, max_det) as protocol:
        return {
            "detector": f"{recipe.get('detector', type(model.module).__name__)} {recipe.get('variant', '')}".strip(),
            "weights": model.weights.name if model.weights else "in memory",
            "sha256": sha256_of(model.weights) if model.weights else "in memory",
            **protocol,
            "device": str(model.device),
            "torch": str(torch.__version__),
            "torchvision": torchvision.__version__,
        }


def predict(
    weights: str | Path | nn.Module | Model,
    images: Mapping[Any, Path],
    classes: Mapping[int, int],
    *,
    imgsz: int | Sequence[int] | None = None,
    conf: float | None = None,
    max_det: int = 100,
    device: str | None = None,
    progress: bool = False,
    alter: Callable[[np.ndarray, Any], np.ndarray] | None = None,
) -> list[Prediction]:
    """Detect objects in images, one at a time: what else is evaluated says nothing.

    Args:
        weights: As `load` takes or returns it.
        images: {image id: file}.
        classes: {index of the model's class: category id}, see `coco.class_map`. Detections of other
            classes are dropped, and take no place among the `max_det`.
        imgsz: Short side that images are scaled to, or short and long side; the long one is a limit.
            Default: as the model was built; of one number, the same shape.
        conf: Lowest score. Default: of the model, 0.05. Of SOLOv2 the floor behind matrix NMS.
        max_det: The best so many of each image.
        device: As `load` takes it.
        progress: Show a bar.
        alter: Changes each picture as it was read, before any resizing: (uint8 BGR (H, W, 3), image id) -> the same.

    Returns: Boxes and masks in pixels of the image files; by image, best first.
    Raises: OSError, ValueError: a file is missing or unreadable; an argument is out of range.
    """
    model = load(weights, device)
    module: Any = model.module
    labels = {label: classes[index] for index, label in enumerate(model.classes) if index in classes}
    everything = len(labels) == outputs_of(module)
    predictions: list[Prediction] = []
    was_training = module.training
    module.eval()
    try:
        with limits(module, imgsz, conf, max_det if everything else max(max_det, 1000)), torch.no_grad():
            for image_id, file in TQDM(images.items(), desc="predicting", disable=not progress):
                picture = read_picture(file)
                x = to_tensor(alter(picture, image_id) if alter else picture).to(model.device)
                found = rcnn.detect(module, x) if isinstance(module, MaskRCNN) else module([x])[0]
                found = best(found, labels, max_det)
                boxes = found["boxes"].tolist()
                if isinstance(module, MaskRCNN):
                    masks = rcnn.encode_pasted(found["masks"], found["boxes"], x.shape[1:])
                else:
                    masks = encode(found["masks"].numpy())
                rows = zip(found["labels"].tolist(), found["scores"].tolist(), boxes, masks)
                predictions += [
                    {
                        "image_id": image_id,
                        "category_id": labels[label],
                        "score": score,
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "segmentation": mask,
                    }
                    for label, score, (x1, y1, x2, y2), mask in rows
                ]
    finally:
        module.train(was_training)
    return predictions


def best(found: Mapping[str, Tensor], labels: Mapping[int, int], most: int) -> dict[str, Tensor]:
    """Keep the first so many detections with one of these labels, on the CPU."""
    keep = [i for i, label in enumerate(found["labels"].tolist()) if label in labels][:most]
    index = torch.tensor(keep, dtype=torch.long, device=found["labels"].device)
    return {key: value[index].cpu() for key, value in found.items()}


def read_image(file: str | Path) -> Tensor:
    """Read an image file as Ultralytics does: float (3, H, W), RGB in [0, 1]."""
    return to_tensor(read_picture(file))


def to_tensor(image: np.ndarray) -> Tensor:
    """Turn a picture, uint8 BGR (H, W, 3), into float (3, H, W), RGB in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1))).float() / 255


@contextlib.contextmanager
def limits(module: Any, imgsz: int | Sequence[int] | None, conf: float | None, most: int) -> Iterator[dict[str, Any]]:
    """Give a detector other sizes and limits for a while; yields what holds then, by the names of a protocol."""
    if most < 1 or (conf is not None and not 0 <= conf < 1):
        raise ValueError(f"conf is {conf}, max_det {most}; wanted a share of 1, and 1 or more detections")
    if isinstance(module, MaskRCNN):
        sized, heads, floor, cut = module.transform, module.roi_heads, "score_thresh", "detections_per_img"
        nms = {"nms_iou": heads.nms_thresh}
    else:
        sized, heads, floor, cut = module, module, "filter_thr", "max_per_img"
        nms = {"nms": f"matrix, sigma {module.sigma}, cells above {module.score_thr}"}
    short, long = sized.min_size[-1], sized.max_size
    if isinstance(imgsz, int):
        short, long = imgsz, round(long * imgsz / short)
    elif imgsz is not None:
        short, long = imgsz
    if not 1 <= short <= long:
        raise ValueError(f"imgsz is {imgsz}; wanted the short side, or short and long side, in pixels")
    changes = [(sized, "min_size", (short,)), (sized, "max_size", long), (heads, cut, most)]
    changes += [(heads, floor, conf)] if conf is not None else []
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in changes]
    try:
        for owner, name, value in changes:
            setattr(owner, name, value)
        yield {
            "image_size": f"short side {short}, long side up to {long}",
            "confidence_floor": getattr(heads, floor),
            **nms,
            "detections_per_image": most,
            "mask_threshold": 0.5 if isinstance(module, MaskRCNN) else module.mask_thr,
        }
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)
