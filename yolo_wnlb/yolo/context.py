"""A scene beside the layers of a YOLO model: `scene:` in a model YAML, written by `yolo-wnlb graft ... scene=`.

    scene: {arch: resnet18, weights: FILE, sha256: ..., size: 224, l2: 0.1}    a frozen ResNet looks at the picture
    scene: {arch: backbone, l2: 0.1}                                           the model's own backbone does

`patches` calls this file where Ultralytics builds a model (`attach`), runs it (`in_head`, `add_context`), gives it
pretrained weights (`carry`), trains it (`check_training`) and exports it (`check_export`). The scene is
`model.scene`, beside `model.model`: no layer number and no name of a stock tensor changes.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from yolo_wnlb.checkpoints import plain_names, read_checkpoint
from yolo_wnlb.reading import sha256_of
from yolo_wnlb.scene import ARCHS, BACKBONE, SIDE, Scene
from yolo_wnlb.words import suggestion
from yolo_wnlb.yolo import terms
from yolo_wnlb.yolo.weights import SCENE, layers_of, unwrap

HEADS = ("Detect", "Segment", "Segment26")  # whose class logits a scene can be added to
DEFAULTS: dict[str, Any] = {
    "arch": None,
    "weights": None,  # file of the ResNet's weights; later builds take them from the checkpoint
    "sha256": None,  # of that file
    "size": SIDE,  # pixels
    "l2": 0.0,  # factor of the squared weights of the head's last class convolutions in the training loss
}
LEAST, MOST = 32, 1024  # pixels of `size`
PENALTY = "fg_l2"  # its column in results.csv
OTHER_PATHS = {  # export formats that do not run the model as Ultralytics does
    "imx": "it runs the layers one by one, and leaves out what stands beside them",
}


# ---- the definition ------------------------------------------------------------------------------


def read_request(value: Any) -> dict[str, Any]:
    """Complete what stands behind scene: in a model YAML: a mapping, or the word backbone.

    Raises: ValueError: something in it is unknown, missing, or out of bounds.
    """
    given = {"arch": value} if isinstance(value, str) else value
    if not isinstance(given, dict):
        raise ValueError(
            f"scene is {value!r}; wanted backbone, or a mapping {{arch: resnet18, weights: FILE, l2: 0.1}}"
        )
    if unknown := [str(key) for key in given if key not in DEFAULTS]:
        raise ValueError(
            f"scene: no option {unknown[0]!r}{suggestion(unknown[0], DEFAULTS)}; choose from {', '.join(DEFAULTS)}"
        )
    asked = {**DEFAULTS, **given}
    arch, size, l2 = asked["arch"], asked["size"], asked["l2"]
    if not isinstance(arch, str) or arch not in ARCHS:
        raise ValueError(f"scene: no arch {arch!r}{suggestion(arch, ARCHS)}; choose from {', '.join(ARCHS)}")
    if type(size) is not int or not LEAST <= size <= MOST:
        raise ValueError(f"scene: size is {size!r}; wanted a whole number of pixels from {LEAST} to {MOST}")
    if isinstance(l2, bool) or not isinstance(l2, (int, float)) or not 0 <= l2 < math.inf:
        raise ValueError(f"scene: l2 is {l2!r}; wanted a number of 0 or more")
    if arch == BACKBONE and (idle := [key for key in ("weights", "sha256", "size") if key in given]):
        raise ValueError(
            f"scene: arch backbone looks at the features that the model has anyway, so {idle[0]} has no meaning; "
            "leave it out, or choose a ResNet"
        )
    if arch != BACKBONE and (not isinstance(asked["weights"], (str, Path)) or not str(asked["weights"])):
        raise ValueError(
            f"scene: {arch} is frozen, so it needs weights that know scenes: give the file as weights (scene_weights= "
            "of graft), such as resnet18_places365.pth.tar; or choose arch backbone, which needs none"
        )
    return asked


def check_definition(model: dict[str, Any]) -> dict[str, Any]:
    """Return the completed `scene:` of a model definition.

    Raises: ValueError: it is wrong, or the model has no head that it can be added to.
    """
    asked = read_request(model["scene"])
    head = model["head"][-1][2]
    if head not in HEADS:
        raise ValueError(
            f"scene: adds logits to the heads {', '.join(HEADS)}; this model ends in {head}. Take a YAML for detect or "
            "segment, such as yolov8-seg.yaml, or leave the scene out"
        )
    channels = model.get("channels") or 3
    if asked["arch"] != BACKBONE and channels not in (1, 3):
        raise ValueError(
            f"scene: {asked['arch']} looks at grey or colour pictures, and this model takes {channels} channels; "
            "choose arch backbone"
        )
    return asked


def add_scene(model: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    """Return a model definition with a scene. The weights of a ResNet are read, to see that they fit.

    Args:
        model: The parsed YAML; it is not changed.
        request: What is to stand behind `scene:`; see the head of this file.
    Raises:
        ValueError: the model has a scene, or no head for one; the request is wrong; the weights are of another arch.
        FileNotFoundError, OSError: there are no such weights.
    """
    if "scene" in model:
        raise ValueError(f"this model has a scene already, {model['scene']}; give the YAML without it")
    asked = check_definition({**model, "scene": request})
    written = {"arch": asked["arch"]}
    if asked["arch"] != BACKBONE:
        file = Path(asked["weights"]).resolve()
        filled_from(Scene(1, asked["arch"]), file)
        written |= {"weights": str(file), "sha256": sha256_of(file), "size": asked["size"]}
    if asked["l2"]:
        written["l2"] = asked["l2"]
    return {**deepcopy(model), "scene": written}


# ---- building ------------------------------------------------------------------------------------


def attach(model: Any, verbose: bool = True) -> None:
    """Give a model that was just built the scene that its definition asks for, all logits 0.

    Weights that are not there, or have changed, are no error yet: a checkpoint that is loaded next brings its own.

    Raises:
        ValueError: the definition is wrong; the file is of another arch, or no checkpoint.
        FileNotFoundError: the weights are not there, and no file of that name was ever read.
    """
    from ultralytics.utils import LOGGER

    asked = check_definition(model.yaml)
    arch = asked["arch"]
    channels = len(last_map_average(model)) if arch == BACKBONE else 0
    scene = Scene(int(model.yaml["nc"]), arch, channels, asked["size"], float(asked["l2"]))
    if arch != BACKBONE:
        file = Path(asked["weights"])
        found = sha256_of(file) if file.is_file() else None
        if found is None and asked["sha256"] is None:
            raise FileNotFoundError(f"scene: there are no weights {file}; put them there, or graft the scene again")
        if asked["sha256"] in (None, found):
            filled_from(scene, file)
            model.yaml["scene"] = {**model.yaml["scene"], "sha256": found}
        else:
            scene.lacks = f"{file} is not there" if found is None else f"{file} has changed since the scene was grafted"
    setattr(model, SCENE, scene.train(model.training))
    if verbose:
        LOGGER.info(described(scene))


def last_map_average(model: Any) -> Tensor:
    """Return the average of the last map of the backbone, (channels,), of a black picture."""
    training = model.training
    black = torch.zeros(1, model.yaml.get("channels") or 3, 64, 64)
    with torch.no_grad():
        [vector] = model.eval().predict(black, embed=[backbone_end(model)])
    model.train(training)
    return vector


def backbone_end(model: Any) -> int:
    """Return the number of the last layer of the backbone, whose map a scene of arch backbone looks at."""
    return len(model.yaml["backbone"]) - 1


def filled_from(scene: Scene, file: Path) -> None:
    """Read the weights of a scene's ResNet, in the forms of torchvision, Places365 and of our classifiers.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no checkpoint, or one of another arch.
    """
    if not file.is_file():
        raise FileNotFoundError(f"there are no scene weights {file}; give the file, such as resnet18_places365.pth.tar")
    state = plain_names(read_checkpoint(file)[0])
    try:
        scene.fill({name: value for name, value in state.items() if isinstance(value, Tensor)})
    except ValueError as error:
        raise ValueError(f"scene: {file} cannot be the weights: {error}") from error


def described(scene: Scene) -> str:
    """Say in one line what a scene is."""
    trained = f"{scene.fc.in_features} parameters a class to train"
    if scene.net is None:
        return f"scene: the average of the backbone's last map, {trained}"
    return f"scene: frozen {scene.arch} of {scene.frozen_numbers() / 1e6:.1f} M numbers at {scene.size} px, {trained}"


def carry(source: Any, target: Any, names: tuple[Any, Any]) -> list[str]:
    """Give a model the scene of the model that it takes its pretrained weights from: the frozen network and the layer.

    Args:
        source: The model with the pretrained weights.
        target: The model that took them; changed in place.
        names: The class names of both before the load. Where both are known, a class takes the row of its name.
    Returns: Warnings about what could not be carried over.
    """
    old, new = scene_of(source), scene_of(target)
    if old is None:
        return []
    if new is None:
        return [
            f"scene: the pretrained model has the scene {old.arch}, and this one has none: the logits that it learnt "
            "to add are lost. Give a model YAML with scene:"
        ]
    if old.arch != new.arch or old.fc.in_features != new.fc.in_features:
        return [
            f"scene: the pretrained model has the scene {old.arch} ({old.fc.in_features} features), this one "
            f"{new.arch} ({new.fc.in_features}), which starts at 0"
        ]
    warnings: list[str] = []
    if new.net is not None:
        new.net = deepcopy(old.net).float().to(new.fc.weight.device)  # type: ignore[union-attr]
        new.lacks = old.lacks
        recorded, asked = source.yaml["scene"], target.yaml["scene"]
        if asked.get("sha256") != recorded["sha256"]:
            warnings.append(
                f"scene: the pretrained model brings its own network, of {recorded['weights']}; that of the model "
                f"YAML, {asked['weights']}, is not used. To use it, take a pretrained model without a scene"
            )
        target.yaml["scene"] = {**target.yaml["scene"], **{key: recorded[key] for key in ("weights", "sha256")}}
    with torch.no_grad():
        rows = matching_rows(*names, old.fc.out_features, new.fc.out_features)
        new.fc.weight.zero_()
        for row, origin in rows.items():
            new.fc.weight[row] = old.fc.weight[origin].to(new.fc.weight)
    left = new.fc.out_features - len(rows)
    if left:
        warnings.append(f"scene: {left} of {new.fc.out_features} classes have no match in the pretrained scene")
    return warnings


def matching_rows(source: Any, target: Any, old: int, new: int) -> dict[int, int]:
    """Return {class of the target: class of the source}: by name, or by number where a model has placeholders."""
    known = [isinstance(names, dict) and any(str(k) != str(v) for k, v in names.items()) for names in (source, target)]
    if all(known):
        by_name = {str(name).strip().lower(): number for number, name in source.items()}
        found = {number: by_name.get(str(name).strip().lower()) for number, name in target.items()}
        return {number: origin for number, origin in found.items() if origin is not None}
    return {number: number for number in range(new)} if old == new else {}


# ---- running -------------------------------------------------------------------------------------


def scene_of(owner: Any) -> Scene | None:
    """Return the scene of an Ultralytics model, None if it has none."""
    scene = getattr(unwrap(owner), SCENE, None)
    return scene if isinstance(scene, Scene) else None


@contextlib.contextmanager
def in_head(model: Any, picture: Tensor) -> Iterator[None]:
    """Let the head know the logits of the scene during one forward pass of the model.

    A ResNet looks at the picture now; with the backbone a hook looks at its last map when that is computed.
    """
    scene, layers = getattr(model, SCENE), layers_of(model)
    head: Any = layers[-1]
    handle = None
    if scene.net is not None:
        head.context = scene(picture)
    else:

        def look(module: nn.Module, args: Any, output: Tensor) -> None:
            head.context = scene(output)

        handle = layers[backbone_end(model)].register_forward_hook(look)
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()
        vars(head).pop("context", None)


def add_context(head: Any, found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add the logits of the scene to the scores (B, classes, anchors) that one branch of a head computed."""
    context = vars(head).get("context")
    if context is not None and "scores" in found:  # a branch that a fused model has lost computes nothing
        found["scores"] = found["scores"] + context[..., None]
    return found


@contextlib.contextmanager
def without(model: Any) -> Iterator[Scene]:
    """Take the scene off a model for a while, and yield it."""
    scene = model._modules.pop(SCENE)
    try:
        yield scene
    finally:
        setattr(model, SCENE, scene)


# ---- training, exporting -------------------------------------------------------------------------


def class_convolutions(model: Any) -> list[nn.Conv2d]:
    """Return the last class convolution of every level, and of the one-to-one twin of the head if there is one."""
    head = layers_of(model)[-1]
    branches = [branch for name in ("cv3", "one2one_cv3") for branch in getattr(head, name, None) or ()]
    return [branch[-1] for branch in branches]


def penalty(model: Any) -> Tensor | None:
    """Return l2 * sum of the squared weights of `class_convolutions`; None for a model without l2."""
    scene = scene_of(model)
    if scene is None or not scene.l2:
        return None
    squares = [convolution.weight.float().square().sum() for convolution in class_convolutions(model)]
    return scene.l2 * torch.stack(squares).sum()


def penalised(stock: Callable[..., Any], model: Any, batch: dict[str, Any], preds: Any = None) -> tuple[Tensor, Any]:
    """Compute the stock loss, and add `penalty`, multiplied by the batch size as the stock loss is.

    In validation its column is 0. Releases of Ultralytics whose loss items have no names train it without a column.
    """
    total, items = stock(model, batch, preds)
    value = penalty(model)
    if value is None:
        return total, items
    if not model.training:
        return total, terms.with_item(items, PENALTY, torch.zeros_like(value.detach()))
    added = value * batch["img"].shape[0]
    total = torch.cat([total, added[None]]) if total.ndim else total + added
    return total, terms.with_item(items, PENALTY, value.detach())


def check_training(model: Any, args: Any) -> None:
    """Refuse a training in which the scene would have no part.

    Raises: ValueError: an argument does not go with a scene. FileNotFoundError: its network has no weights.
    """
    scene = scene_of(model)
    if scene is None:
        return
    terms.check_alone(
        "scene:",
        vars(args),
        compile="a compiled model keeps no place between its layers and its head",
        distill_model="it puts another model around this one",
        quantize="a model in quantisation-aware training has other layers",
    )
    if scene.lacks:
        raise FileNotFoundError(
            f"scene: {scene.lacks}, and no checkpoint with these weights was loaded; put the file there, give "
            "pretrained=FILE.pt of such a model, or graft the scene again"
        )


def check_export(format: str) -> None:
    """Refuse an export that would leave the scene of a model out.

    Raises: ValueError: the format runs the layers in another way.
    """
    if why := OTHER_PATHS.get(str(format).lower()):
        raise ValueError(
            f"format={format} cannot hold a model with a scene: {why}. Export to onnx, openvino, torchscript or engine"
        )


# ---- what it costs -------------------------------------------------------------------------------


def operations(scene: Scene) -> float:
    """Return the GFLOPs that a scene adds to a picture of any size: 2 for a multiplication and its addition."""
    from torch.utils.flop_counter import FlopCounterMode

    scene = deepcopy(scene).eval()
    scene.lacks = ""
    shape = (1, 3, scene.size, scene.size) if scene.net is not None else (1, scene.fc.in_features, 1, 1)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        scene(scene.fc.weight.new_zeros(shape))
    return counter.get_total_flops() / 1e9


def cost(definition: dict[str, Any]) -> str:
    """Say in one line what the scene of a model definition is and costs, for its first scale and 640 x 640 pixels."""
    from ultralytics.nn import tasks
    from ultralytics.utils.torch_utils import get_flops

    scale = next(iter(definition.get("scales") or [""]))
    with torch.random.fork_rng(devices=[]):
        model = tasks.DetectionModel({**definition, "scale": scale}, definition.get("channels") or 3, verbose=False)
    scene = model.scene
    share = f" ({scene.frozen_numbers() * 2 / 1e6:.0f} MB in a checkpoint)" if scene.net is not None else ""
    total, added = get_flops(model), operations(scene)
    at = f", for scale {scale}" if scale else ""
    return (
        f"{described(scene)}{share}{at}; at 640 px it adds {added:.2g} GFLOPs to {total - added:.1f}, and "
        f"{milliseconds(scene):.2g} ms on this CPU"
    )


def milliseconds(scene: Scene, repeats: int = 5) -> float:
    """Return the shortest time that the scene of one picture took on this machine, in ms."""
    shape = (1, 3, 640, 640) if scene.net is not None else (1, scene.fc.in_features, 20, 20)
    x, times = torch.zeros(shape), []
    with torch.inference_mode():
        for _ in range(repeats):
            start = time.perf_counter()
            scene.eval()(x)
            times.append(time.perf_counter() - start)
    return 1000 * min(times)
