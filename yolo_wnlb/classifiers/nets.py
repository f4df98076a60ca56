"""ResNets that normalise inside, and the weights that others publish for them.

    torchvision's names       conv1.weight, layer1.0.conv1.weight, ..., fc.bias
    Salman et al. 2020        {"model": {"module.model.conv1.weight": ...}}, with the attacker's copy and a normaliser;
                              of some nets module.model.model.conv1.weight, as the library `robustness` wraps them
    Places365                 {"state_dict": {"module.conv1.weight": ...}}
    written by `save`         {"meta": {"format": FORMAT, ...}, "state_dict": {"net.conv1.weight": ...}}

Sources: He et al., CVPR 2016; Zagoruyko and Komodakis, BMVC 2016; Salman et al., Do Adversarially Robust ImageNet
Models Transfer Better?, NeurIPS 2020 (github.com/microsoft/robust-models-transfer); Zhou et al., Places, TPAMI 2018.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.models.resnet import BasicBlock, ResNet

from yolo_wnlb.checkpoints import load_state, plain_names, read_checkpoint
from yolo_wnlb.data.journal import replaced
from yolo_wnlb.data.validation import first, is_whole
from yolo_wnlb.words import suggestion

FORMAT = "yolo_wnlb classifier 1"  # in every checkpoint of ours
ARCHS: dict[str, Callable[..., ResNet]] = {
    "resnet10": lambda num_classes: ResNet(BasicBlock, [1, 1, 1, 1], num_classes=num_classes),  # for CPUs
    "resnet18": resnet.resnet18,
    "resnet50": resnet.resnet50,
    "wide_resnet50_2": resnet.wide_resnet50_2,
}
PUBLISHED = {  # weights for ImageNet that torchvision downloads, by the name that `start:` gives
    "resnet18": resnet.ResNet18_Weights.IMAGENET1K_V1,
    "resnet50": resnet.ResNet50_Weights.IMAGENET1K_V1,
    "wide_resnet50_2": resnet.Wide_ResNet50_2_Weights.IMAGENET1K_V1,
}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, RGB in [0, 1]
STAGES = ("layer1", "layer2", "layer3", "layer4")
SIDE = 224  # pixels of the network's input, where nothing else is said
GREY = 114  # around a picture that is not square, as Ultralytics pads
MOST_FROZEN = 5  # stem and all four stages: only the last layer learns


class Classifier(nn.Module):
    """A ResNet that takes pixels and normalises them itself, so that an attack on its input is an attack on pixels.

    Args:
        net: A ResNet of torchvision.
        arch: Its name, a key of ARCHS.
        classes: Names of the classes, in the order of the logits.
    Attributes:
        recipe: What it takes to build the same module again: arch, classes; and where the weights come from: start.
    Shape: float (B, 3, H, W), RGB in [0, 1] -> logits (B, classes).
    """

    def __init__(self, net: ResNet, arch: str, classes: Sequence[str]) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor(MEAN).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).reshape(1, 3, 1, 1))
        self.recipe: dict[str, Any] = {"arch": arch, "classes": list(classes), "start": None}

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return self.net((x - self.mean) / self.std)  # type: ignore[operator]


def build(arch: str, classes: Sequence[str], weights: str | Path | None = None) -> Classifier:
    """Build a classifier.

    The last layer starts at random, unless `weights` were written here for classes of the same names in the same order.

    Args:
        arch: resnet10, resnet18, resnet50 or wide_resnet50_2.
        classes: Their names, two or more.
        weights: To start from: a file in one of the forms at the head of this module; or the name of an architecture
            for torchvision's ImageNet weights, which it downloads. Default: a random start.
    Raises:
        ValueError: the architecture is unknown; classes are too few or repeated; the file is of another architecture.
        FileNotFoundError: there is no such file.
        OSError: torchvision cannot download its weights.
    """
    check_arch(arch)
    if len(classes) < 2 or len({*classes}) < len(classes):
        raise ValueError(f"classes are {first(list(classes))}; wanted two or more, each once")
    model = Classifier(ARCHS[arch](num_classes=len(classes)), arch, classes)
    if weights is None:
        return model
    state, known = read_weights(weights)
    if known != list(classes):
        state = {name: value for name, value in state.items() if not name.startswith("fc.")}
    load_into(model.net, state, weights, arch)
    model.recipe["start"] = Path(weights).name
    return model


def arch_of(weights: str | Path) -> str:
    """Tell which architecture weights are of, in any of the forms at the head of this module, by their shapes.

    Raises: FileNotFoundError, OSError, ValueError: they are not there, not readable, or of another architecture.
    """
    if str(weights) in PUBLISHED:
        return str(weights)

    def shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
        layers = {n: v for n, v in state.items() if not n.startswith("fc.") and not n.endswith("num_batches_tracked")}
        return {name: tuple(value.shape) for name, value in layers.items()}

    found = shapes(read_weights(weights)[0])
    for arch, make in ARCHS.items():
        with torch.device("meta"):
            if shapes(make(num_classes=2).state_dict()) == found:
                return arch
    raise ValueError(f"{weights} is none of {', '.join(ARCHS)}: it has {len(found)} tensors of other names or shapes")


def check_arch(arch: Any) -> None:
    """Refuse an architecture that is not in ARCHS."""
    if not isinstance(arch, str) or arch not in ARCHS:
        raise ValueError(f"no arch {arch!r}{suggestion(arch, ARCHS)}; choose from {', '.join(ARCHS)}")


def read_weights(weights: str | Path) -> tuple[dict[str, Tensor], list[str]]:
    """Read weights in any of the forms at the head of this module.

    Returns: The tensors by torchvision's names; the names of the classes, [] if the file does not tell.
    Raises: FileNotFoundError, OSError, ValueError: they are not there, or not readable.
    """
    if str(weights) in PUBLISHED:
        return published_weights(str(weights)), []
    if not Path(weights).is_file():
        raise FileNotFoundError(
            f"there are no weights {weights}{suggestion(weights, PUBLISHED)}; give a file, or one of "
            f"{', '.join(PUBLISHED)} for torchvision's ImageNet weights"
        )
    state, meta = read_checkpoint(weights)
    classes = meta.get("classes") if meta.get("format") == FORMAT else None
    return plain_names(state), list(classes) if isinstance(classes, list) else []


def published_weights(arch: str) -> dict[str, Tensor]:
    """Return torchvision's ImageNet weights, from its cache or the network."""
    try:
        return dict(PUBLISHED[arch].get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError) as error:
        raise OSError(
            f"torchvision's weights of {arch} cannot be downloaded ({error}); fetch {PUBLISHED[arch].url} elsewhere, "
            "and give start: that file"
        ) from error


def load_into(net: nn.Module, state: Mapping[str, Any], source: str | Path, arch: str) -> None:
    """Load weights; a last layer that `state` lacks keeps its start.

    Raises: ValueError: a tensor is missing, has another shape or no place, or holds NaN. The net is unchanged.
    """
    load_state(net, state, source, arch, may_lack=("fc.",))


def freeze_layers(model: Classifier, layers: int) -> list[nn.Module]:
    """Stop the first layers from learning, and let all others learn.

    Args:
        model: Changed in place.
        layers: L of the paper. 0: all learn. 1: stem and layer1 do not, ... 4: stem and layer1 to layer4; 5 is the
            same as 4 in a ResNet with one layer behind layer4, so it stands for "only the last layer".
    Returns: The frozen modules; their norms have to stay in eval mode.
    Raises: ValueError: it is no whole number from 0 to 5.
    """
    check_freeze(layers)
    net = model.net
    for parameter in net.parameters():
        parameter.requires_grad_(True)
    if not layers:
        return []
    frozen = [net.conv1, net.bn1, *(getattr(net, stage) for stage in STAGES[:layers])]
    for module in frozen:
        module.requires_grad_(False)
    return frozen


def check_freeze(layers: Any) -> None:
    """Refuse what is no whole number from 0 to 5."""
    if not is_whole(layers) or not 0 <= layers <= MOST_FROZEN:
        raise ValueError(
            f"freeze is {layers!r}; wanted a whole number from 0 (all layers learn) to {MOST_FROZEN} (only "
            "the last one does)"
        )


def prepared(image: np.ndarray, side: int) -> np.ndarray:
    """Scale a picture to fit a square, grey around it: uint8 (H, W, 3) BGR -> uint8 (3, side, side) RGB."""
    height, width = image.shape[:2]
    scale = side / max(height, width)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    if size != (width, height):
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    top, left = (side - size[1]) // 2, (side - size[0]) // 2
    square = np.full((side, side, 3), GREY, np.uint8)
    square[top : top + size[1], left : left + size[0]] = image
    return np.ascontiguousarray(square[..., ::-1].transpose(2, 0, 1))


# ---- checkpoints -----------------------------------------------------------------------------------


def save(model: nn.Module, path: str | Path, training: Mapping[str, Any] | None = None, form: str = FORMAT) -> None:
    """Write a checkpoint, complete or not at all.

    Args:
        model: What `build` returned, or another module with a `recipe`.
        path: File to write, .pt.
        training: What it takes to go on; plain values and tensors.
        form: What the file calls its format.
    Raises: OSError: the file cannot be written; what was there before is unchanged.
    """
    meta = {"format": form, **model.recipe, "training": dict(training or {})}  # type: ignore[dict-item]
    meta["versions"] = {"torch": str(torch.__version__), "torchvision": torchvision.__version__}
    with replaced(Path(path)) as draft:
        torch.save({"meta": meta, "state_dict": model.state_dict()}, draft)


def read(file: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the tensors of a checkpoint that `save` wrote, and its meta data.

    Raises: FileNotFoundError; ValueError: `save` did not write it, or it was damaged.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(f"there is no classifier {file}; train one first")
    state, meta = read_checkpoint(file)
    if meta.get("format") != FORMAT:
        raise ValueError(
            f"{file} is no classifier that yolo_wnlb trained; weights of others are for start:, from which a training "
            "begins"
        )
    classes, side = meta.get("classes"), meta.get("imgsz", SIDE)
    if (
        meta.get("arch") not in [*ARCHS]
        or not isinstance(classes, list)
        or not all(isinstance(name, str) for name in classes)
        or not isinstance(meta.get("training"), dict)
        or not (is_whole(side) and side > 0)
    ):
        raise ValueError(f"{file} is damaged: it does not say which network, classes and size it has; copy it again")
    return state, meta


def rebuild(file: str | Path) -> Classifier:
    """Build the classifier of a checkpoint, in eval mode.

    Raises: FileNotFoundError; ValueError: as `read`; or the tensors do not fit the recipe.
    """
    state, meta = read(file)
    model = build(meta["arch"], meta["classes"])
    load_into(model, state, file, meta["arch"])
    model.recipe |= {key: meta[key] for key in ("start", "imgsz") if key in meta}
    return model.eval()
