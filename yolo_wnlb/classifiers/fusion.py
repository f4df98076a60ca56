"""Two networks, one decision: what the object looks like, and where it stands.

    picture -> foreground network -> 512 features \\
                                                   one linear layer -> classes
    picture -> background network -> 512 features /

Both networks are frozen, and only the layer learns (`fusion_fit`). Its loss is the mean cross-entropy plus l2 times the
sum of the squares of the weights that belong to the foreground: the larger l2, the more the decision rests on the
background, which is what is left where noise or an attack destroys the object.

Source: Akumalla, Haney, Bazhenov, Contextual Fusion For Adversarial Robustness, 2020, arXiv 2011.09526: section 2.1
for the networks, 3.4 for l2 (alpha there, 0.1 to 10). Read here: its formula's sum of a_j is one of exp(a_j), and its
sum over the pictures is their mean, as in PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from yolo_wnlb.checkpoints import has_mark, read_checkpoint
from yolo_wnlb.classifiers import nets
from yolo_wnlb.classifiers.nets import ARCHS, Classifier, arch_of, load_into
from yolo_wnlb.data.validation import first, is_number, is_whole

FORMAT = "yolo_wnlb fusion 1"  # in every checkpoint of a fused network
HALVES = ("foreground", "background")
UNKNOWN = ("unknown", "unknown too")  # classes of weights that others publish; their last layer is not used


class Fusion(nn.Module):
    """A frozen foreground and a frozen background network, and the layer on the features of both.

    Args:
        foreground: A classifier; its last layer is kept, and takes no part in the decision.
        background: Another one. The two may have learnt different classes, as those of ImageNet and of Places365.
        classes: Names of the classes, in the order of the logits.
        l2: Factor of the sum of the squares of the weights of the foreground's features, in the loss of training.
    Attributes:
        recipe: What it takes to build the same module again.
        split: Number of features of the foreground network; they are the first ones of the layer.
    Shape: float (B, 3, H, W), RGB in [0, 1] -> logits (B, classes).
    """

    def __init__(self, foreground: Classifier, background: Classifier, classes: Sequence[str], l2: float = 0.0) -> None:
        super().__init__()
        self.foreground, self.background = foreground, background
        for network in (foreground, background):
            network.requires_grad_(False)
        self.split = foreground.net.fc.in_features
        self.layer = nn.Linear(self.split + background.net.fc.in_features, len(classes))
        recipes = {name: dict(getattr(self, name).recipe) for name in HALVES}
        self.recipe: dict[str, Any] = {"arch": "fusion", "classes": list(classes), "l2": l2, **recipes}

    @property
    def theta(self) -> tuple[Tensor, Tensor]:
        """The weights of the layer for the features of the foreground and of the background, (classes, features)."""
        return self.layer.weight[:, : self.split], self.layer.weight[:, self.split :]

    def train(self, mode: bool = True) -> Fusion:
        """Switch to training; the frozen networks stay in eval mode, or the statistics of their norms would move."""
        super().train(mode)
        self.foreground.eval()
        self.background.eval()
        return self

    def features(self, x: Tensor) -> Tensor:
        """Return the features of both networks, (B, 3, H, W) -> (B, foreground + background)."""
        return torch.cat([features_of(self.foreground, x), features_of(self.background, x)], 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return self.layer(self.features(x))


def features_of(classifier: Classifier, x: Tensor) -> Tensor:
    """Return what the last layer of a classifier takes, (B, 3, H, W) -> (B, features)."""
    *body, _ = classifier.net.children()  # in the order of its forward; the last layer comes last
    x = (x - classifier.mean) / classifier.std  # type: ignore[operator]
    for module in body:
        x = module(x)
    return x.flatten(1)


def penalty(model: Fusion) -> Tensor:
    """Return l2 times the sum of the squares of the foreground's weights."""
    return model.recipe["l2"] * model.theta[0].square().sum()


def mean_theta(model: Fusion) -> dict[str, float]:
    """Return the mean absolute weight of the layer for each half: {"foreground": ..., "background": ...}."""
    return {name: float(theta.detach().abs().mean()) for name, theta in zip(HALVES, model.theta)}


def build(
    foreground: str | Path | Classifier, background: str | Path | Classifier, classes: Sequence[str], l2: float = 0.0
) -> Fusion:
    """Build a fused network; its layer starts at random.

    Args:
        foreground: A classifier, or weights of one in any of the forms at the head of `nets`: a file that `fit` wrote,
            of torchvision, Salman et al. or Places365, or the name of torchvision's ImageNet weights.
        background: The same.
        classes: Their names, two or more.
        l2: See `Fusion`; 0 or more.
    Raises:
        ValueError: l2 is out of range; classes are too few or repeated; a file is a fused network, or of another
            architecture than those of `nets`.
        FileNotFoundError: there is no such file.
        OSError: torchvision cannot download its weights.
    """
    check_l2(l2)
    if len(classes) < 2 or len({*classes}) < len(classes):
        raise ValueError(f"classes are {first(list(classes))}; wanted two or more, each once")
    return Fusion(network_of(foreground), network_of(background), classes, float(l2)).eval()


def network_of(weights: str | Path | Classifier) -> Classifier:
    """Return the network of some weights, in eval mode; see `build`."""
    if isinstance(weights, Classifier):
        return weights.eval()
    if Path(weights).is_file():
        if has_mark(weights, FORMAT):
            raise ValueError(f"{weights} is a fused network; give the two classifiers that are to be fused")
        if has_mark(weights, nets.FORMAT):
            return nets.rebuild(weights)
    return nets.build(arch_of(weights), UNKNOWN, weights).eval()


def check_l2(l2: Any) -> None:
    """Refuse what is no number from 0 on."""
    if not is_number(l2) or l2 < 0:
        raise ValueError(f"l2 is {l2!r}; wanted a number, 0 or more, such as 0.1")


# ---- checkpoints ---------------------------------------------------------------------------------


def rebuild(file: str | Path) -> Fusion:
    """Build the fused network of a checkpoint, in eval mode.

    Raises: FileNotFoundError; ValueError: `fusion_fit.fit` did not write it, or it was damaged.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(f"there is no fused network {file}; train one first")
    state, meta = read_checkpoint(file)
    if meta.get("format") != FORMAT:
        raise ValueError(f"{file} is no fused network that yolo_wnlb trained")
    recipes = [meta.get(name) for name in HALVES]
    side = meta.get("imgsz")
    if not is_names(meta.get("classes")) or not (is_whole(side) and side > 0) or not all(map(is_recipe, recipes)):  # type: ignore[operator]
        raise ValueError(f"{file} is damaged: it does not say which networks, classes and size it has; copy it again")
    halves = []
    for recipe in recipes:
        half = nets.build(recipe["arch"], recipe["classes"])  # type: ignore[index]
        half.recipe |= dict(recipe or {})
        halves.append(half)
    check_l2(meta.get("l2"))
    model = Fusion(halves[0], halves[1], meta["classes"], meta["l2"])
    load_into(model, state, file, "fusion")
    model.recipe["imgsz"] = side
    return model.eval()


def is_names(value: Any) -> bool:
    """Tell whether this is a list of two names or more, each once."""
    return (
        isinstance(value, list)
        and len({*map(str, value)}) == len(value) >= 2
        and all(isinstance(name, str) for name in value)
    )


def is_recipe(value: Any) -> bool:
    """Tell whether this says how a classifier is built."""
    return isinstance(value, dict) and value.get("arch") in [*ARCHS] and is_names(value.get("classes"))
