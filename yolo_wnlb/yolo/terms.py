"""What is added to the training loss of a model: the one function that stands in for `BaseModel.loss`.

Ultralytics computes every training step of every task through `BaseModel.loss(batch, preds)`. Before the
stock function runs, the batch can be changed or attacked; after it, a term can be added. It runs inside DDP's
forward and under autocast. A model without a term and without an attack gets the stock function's own objects back.

A model has a term if it carries the attribute `denoise`, and an attack if it carries `adversarial`: plain dicts that
checkpoints and the EMA keep. What the two need besides (a teacher, a generator) is not part of the model: it lies in
TERMS and ATTACKS of the process.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch


class Term(Protocol):
    """A term of the training loss.

    Attributes:
        target: What stands behind denoise=.
        places: Where in the model it finds features.
        name: Its column in results.csv.
        alpha: Its share of the loss, from 0 to 1; the stock loss has the rest.
    """

    target: str
    places: Sequence[str]
    name: str
    alpha: float

    def prepare(self, model: Any, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the batch that the stock loss is to see."""

    def watch(self, model: Any) -> Any:
        """Return a context manager in which the forward pass of the stock loss leaves behind what `value` needs."""

    def value(self, model: Any) -> torch.Tensor:
        """Return the term, a mean over the batch."""


class Attack(Protocol):
    """What perturbs the pictures of a training batch against the model."""

    def __call__(self, stock: Callable[..., Any], model: Any, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the batch with perturbed pictures; `stock` is the loss that is attacked."""


ATTACKS: weakref.WeakKeyDictionary[Any, Attack] = weakref.WeakKeyDictionary()  # of the models that are in training
TERMS: weakref.WeakKeyDictionary[Any, Term] = weakref.WeakKeyDictionary()  # of the models that are in training


def give(model: Any, term: Term) -> None:
    """Give a model that is about to be trained its term, and the attribute that checkpoints and the EMA keep of it."""
    TERMS[model] = term
    model.denoise = {"target": term.target, "name": term.name, "from": [*term.places]}


def check_alone(word: str, args: dict[str, Any], **reasons: str) -> None:
    """Refuse what does not go together with a word of ours: {argument of Ultralytics: why}.

    Raises: ValueError: one of these arguments is on.
    """
    for name, why in reasons.items():
        value = args.get(name)
        if value and (name != "quantize" or value == 8):  # 16 (half=True) and 32 change no training
            raise ValueError(f"{word} and {name}={value} do not go together: {why}; leave out one")


def loss(stock: Callable[..., Any], model: Any, batch: dict[str, Any], preds: Any = None) -> tuple[torch.Tensor, Any]:
    """Compute the stock loss of the batch, or of the attacked one, and add the term of the model if it has one.

    The loss becomes (1 - alpha) * stock + alpha * term * B, because the stock loss carries the batch size B.
    At alpha = 1 nothing that only the stock loss reaches, such as the head, receives a gradient: an optimizer
    leaves it alone, weight decay included. That loss is then 0 whatever it was, inf and NaN too.

    Raises: RuntimeError: the batch is to be attacked, and its predictions are computed already.
    """
    asked = getattr(model, "denoise", None)
    attack = ATTACKS.get(model) if getattr(model, "adversarial", None) and model.training else None
    if attack and preds is not None:
        raise RuntimeError("adversarial=: this trainer computes the predictions before the batch can be attacked")
    if not asked:
        return stock(model, attack(stock, model, batch) if attack else batch, preds)
    term = TERMS.get(model)
    if term is None or not model.training:  # the EMA in validation
        total, items = stock(model, batch, preds)
        return total, with_item(items, asked["name"], torch.zeros((), device=total.device))
    batch = term.prepare(model, batch)
    if attack:
        batch = attack(stock, model, batch)
    with term.watch(model):
        total, items = stock(model, batch, preds)
    value = term.value(model)
    added = term.alpha * value * batch["img"].shape[0]
    total = torch.zeros_like(total) if term.alpha == 1 else (1 - term.alpha) * total
    total = torch.cat([total, added[None]]) if total.ndim else total + added
    return total, with_item(items, term.name, value.detach())


def with_item(items: Any, name: str, value: torch.Tensor) -> Any:
    """Add a column to the loss items where they have names; older releases of Ultralytics give a bare tensor."""
    return {**items, name: value} if isinstance(items, dict) else items
