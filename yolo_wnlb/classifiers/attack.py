"""How a classifier is attacked while it learns: the options that a user gives, and the attacked batch.

Sources: Madry et al., ICLR 2018 (pgd); Wong, Rice and Kolter, Fast is better than free, ICLR 2020 (fgsm from a random
start); Shafahi et al., Adversarial training for free, NeurIPS 2019 (free); Modas et al., ICIP 2021 (l2, 10 steps).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from yolo_wnlb.attacks import check_choice, check_strength, keep_statistics, perturb, radius
from yolo_wnlb.data.validation import is_number, is_whole
from yolo_wnlb.words import suggestion

METHODS = ("pgd", "fgsm", "free")
EPS = {"l2": 0.5, "linf": 4 / 255}  # where none is given
FGSM_STEP = 1.25  # of eps: Wong et al.


@dataclass(frozen=True)
class Attack:
    """Options of `adversarial=`.

    Attributes:
        method: "pgd"; "fgsm", one step of 1.25 eps from a random start; or "free", which replays each batch, and takes
            the change of the pictures from the same backward pass as that of the weights.
        norm: "l2" or "linf". free wants linf.
        eps: Radius, pixels being in [0, 1]; of l2 that for a picture of 224 x 224 pixels, scaled with the root of the
            number of pixels. Default: 0.5 for l2, 4/255 for linf.
        steps: Gradients of pgd.
        step: Length of a step of pgd, in the unit of eps. Default: 2.5 eps / steps.
        replays: How often free repeats a batch. An epoch keeps its number of steps, and sees fewer of the pictures.
        mix: Share of each batch that stays clean.
    """

    method: str = "pgd"
    norm: str = "l2"
    eps: float = EPS["l2"]
    steps: int = 10
    step: float | None = None
    replays: int = 4
    mix: float = 0.0

    @property
    def times(self) -> int:
        """How often a batch comes one after the other."""
        return self.replays if self.method == "free" else 1

    @property
    def passes(self) -> int:
        """How many forward and backward passes a step takes."""
        return {"pgd": 1 + self.steps, "fgsm": 2, "free": 1}[self.method]

    def radius(self, side: int) -> float:
        """Return the radius for pictures of side x side pixels."""
        return radius(self.norm, self.eps, side, side)

    def keeps(self, pictures: int) -> int:
        """Return how many of the pictures of a batch stay clean."""
        return math.floor(self.mix * pictures)


def read_attack(asked: Any) -> Attack | None:
    """Read `adversarial=`: None or false for none, true for the default, or a mapping of options.

    Raises: ValueError: an option is unknown, out of range, in another unit, or idle with this method.
    """
    if asked is None or asked is False:
        return None
    given = {} if asked is True else asked
    if not isinstance(given, Mapping):
        raise ValueError(f"adversarial is {asked!r}; wanted true, or options such as {{norm: l2, eps: 0.5}}")
    known = [field.name for field in fields(Attack)]
    if unknown := [name for name in given if name not in known]:
        raise ValueError(
            f"adversarial: no option {unknown[0]!r}{suggestion(unknown[0], known)}; choose from {', '.join(known)}"
        )
    method = given.get("method", "pgd")
    check_choice("adversarial: method", method, METHODS)
    norm = given.get("norm", "linf" if method == "free" else "l2")
    attack = Attack(**{"norm": norm, "eps": EPS.get(str(norm)), **given})
    try:
        check_strength(attack.norm, attack.eps)
    except ValueError as error:
        raise ValueError(f"adversarial: {error}") from None
    if attack.method == "free" and attack.norm != "linf":
        raise ValueError(
            f"adversarial: method free wants norm linf, found {attack.norm}; give norm: linf, or method: pgd"
        )
    used = {"pgd": ("steps", "step"), "fgsm": (), "free": ("replays",)}[attack.method]
    if idle := [name for name in ("steps", "step", "replays") if name in given and name not in used]:
        raise ValueError(f"adversarial: {idle[0]} does nothing with method {attack.method}; remove it")
    for name in ("steps", "replays"):
        if not is_whole(getattr(attack, name)) or getattr(attack, name) < 1:
            raise ValueError(f"adversarial: {name} is {getattr(attack, name)!r}; wanted a whole number, 1 or more")
    if attack.step is not None and not (is_number(attack.step) and attack.step > 0):
        raise ValueError(f"adversarial: step is {attack.step!r}; wanted a number above 0")
    if not is_number(attack.mix) or not 0 <= attack.mix < 1:
        raise ValueError(f"adversarial: mix is {attack.mix!r}; wanted a share from 0 to below 1")
    return attack


def attacked(model: nn.Module, x: Tensor, labels: Tensor, attack: Attack) -> Tensor:
    """Return a batch (B, 3, H, W) in [0, 1], attacked by pgd or fgsm; `mix` keeps its first pictures clean.

    Norms use the statistics of the attacked batch and do not count them; parameters keep their gradients.
    """
    eps = attack.radius(x.shape[-1])
    share = eps / attack.eps
    how: dict[str, Any] = {"steps": attack.steps, "step": attack.step and attack.step * share}
    if attack.method == "fgsm":
        how = {"steps": 1, "step": FGSM_STEP * eps, "start": "random"}
    with keep_statistics(model):
        found = perturb(
            x, lambda pictures: functional.cross_entropy(model(pictures), labels), attack.norm, eps, keep="last", **how
        )
    clean = attack.keeps(len(x))
    return torch.cat([x[:clean], found[clean:]])


class Free:
    """The perturbation that `free` carries from step to step, starting at 0.

    Args:
        attack: Its options.
        shape: Of the largest batch.
        device: Where the batches are.
    """

    def __init__(self, attack: Attack, shape: tuple[int, ...], device: torch.device) -> None:
        self.attack, self.eps = attack, attack.radius(shape[-1])
        self.delta = torch.zeros(shape, device=device)

    def add(self, x: Tensor) -> Tensor:
        """Return the batch with the perturbation, its own gradient switched on."""
        delta = self.delta[: len(x)].clone()
        delta[: self.attack.keeps(len(x))] = 0
        return (x + delta).clamp(0, 1).requires_grad_()

    def learn(self, x: Tensor) -> None:
        """Climb by eps along the sign of the gradient that a backward pass left in the batch."""
        assert x.grad is not None
        here = self.delta[: len(x)]
        here.add_(self.eps * x.grad.sign()).clamp_(-self.eps, self.eps)
