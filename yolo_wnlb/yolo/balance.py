"""Draw the training pictures evenly by class: `balanced=True` in `yolo train`.

Each time a training data set is asked for a picture, another one is given: a class is drawn, all with the same
probability, then one of the pictures that hold it. So the pictures of a rare class come more often. Pictures
without any object keep the share that they have.

In detection all pictures are drawn so, the partners of mosaic, mixup and cutmix included, because all are
loaded by `get_image_and_label` of the data set. The classes of a picture that holds several are not independent: a
class that appears in every picture stays frequent.

Modas et al., "Improving Filling Level Classification with Adversarial Training", ICIP 2021, section 3.2.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch

from yolo_wnlb.yolo.darkness import parts_of


def check_request(cfg: dict[str, Any]) -> None:
    """Check balanced= among the arguments of a run, in place, before anything is built.

    Raises: ValueError: it is neither True nor False, or nothing would come of it in this run.
    """
    request = cfg.get("balanced")
    if request is None or request is False:
        cfg.pop("balanced", None)
        return
    if request is not True:
        raise ValueError(f"balanced is {request!r}; wanted True or False")
    if (mode := cfg.get("mode")) not in (None, "train"):
        raise ValueError(f"balanced= is for yolo train; {mode} sees each picture once, leave it out")
    if (task := cfg.get("task")) in ("semantic", "depth"):
        raise ValueError(f"balanced= wants classes of pictures or of objects, and '{task}' has none in its label files")
    if cfg.get("single_cls"):
        raise ValueError("balanced= and single_cls=True do not go together: one class needs no balance; leave out one")
    if cfg.get("rect"):
        raise ValueError(
            "balanced= and rect=True do not go together: the pictures of a rectangular batch are chosen by their "
            "shape; leave out one"
        )


class Balance:
    """Draws indices of pictures: evenly by class, and of pictures without a class with the share that they have.

    The random numbers are its own. They start from torch's seed of the process, which differs by loader worker and by
    rank; the numbers that augmentation draws are those of a training without balance.

    Args:
        classes: Of each picture, the classes that it holds.
    """

    def __init__(self, classes: Sequence[set[int]]) -> None:
        self.pictures: dict[int, list[int]] = {}  # class -> the pictures that hold it
        for index, held in enumerate(classes):
            for name in sorted(held):
                self.pictures.setdefault(name, []).append(index)
        self.empty = [index for index, held in enumerate(classes) if not held]
        self.count = len(classes)
        self.names = sorted(self.pictures)
        self.seed: int | None = None
        self.rng = random.Random()

    def __call__(self) -> int:
        """Draw a picture."""
        if self.seed != torch.initial_seed():  # the first draw of this process
            self.seed = torch.initial_seed()
            self.rng = random.Random(self.seed)
        if self.rng.random() * self.count < len(self.empty):
            return self.rng.choice(self.empty)
        return self.rng.choice(self.pictures[self.rng.choice(self.names)])


class BalancedItems:
    """Stands in for `get_image_and_label` of one data set, and returns a picture that `Balance` draws.

    It belongs to the instance and is pickled with it, so a worker process cannot have the data set without it.
    """

    def __init__(self, dataset: Any, balance: Balance) -> None:
        self.dataset, self.balance = dataset, balance

    def __call__(self, index: int) -> dict[str, Any]:
        """Return the picture and the labels of an index that is drawn; the given one is not used."""
        return type(self.dataset).get_image_and_label(self.dataset, self.balance())


def attach(dataset: Any, hyp: Any) -> None:
    """Let a training data set of objects draw its pictures evenly by class, if `hyp` asks for it.

    Raises: ValueError: it has fewer than two classes, or no classes that all pictures share.
    """
    if not getattr(hyp, "balanced", None) or not dataset.augment:
        return
    if hasattr(dataset, "json_file"):
        raise ValueError(
            "balanced= wants classes that all pictures share; a grounding data set has phrases, leave it out"
        )
    classes = [{int(name) for name in label["cls"].ravel()} for label in dataset.labels]
    dataset.get_image_and_label = BalancedItems(dataset, balance_of(dataset, classes))


def attach_classification(dataset: Any) -> None:
    """Give a training data set for classification the balance from which `patches` draws its items.

    Raises: ValueError: it has fewer than two classes.
    """
    dataset.balance = balance_of(dataset, [{sample[1]} for sample in dataset.samples])


def check_pipeline(dataset: Any) -> None:
    """Refuse to train on a data set that does not draw evenly by class.

    Raises: RuntimeError: it, or a part of it, is not loaded as the data sets of Ultralytics are.
    """
    for part in parts_of(dataset):
        if "balance" not in vars(part) and not isinstance(getattr(part, "get_image_and_label", None), BalancedItems):
            raise RuntimeError(
                f"balanced=True was asked for, but {type(part).__name__} does not load pictures as the data sets of "
                "Ultralytics do; leave it out"
            )


def balance_of(dataset: Any, classes: list[set[int]]) -> Balance:
    """Make the balance of a data set, and say what it does.

    Raises: ValueError: there are fewer than two classes.
    """
    from ultralytics.utils import LOGGER

    balance = Balance(classes)
    counts = [len(pictures) for pictures in balance.pictures.values()]
    if len(counts) < 2:
        raise ValueError(
            f"balanced= draws evenly by class, and the {balance.count} training pictures hold {len(counts)} class"
            f"{'' if len(counts) == 1 else 'es'}; leave it out"
        )
    text = f"{len(counts)} classes with {min(counts)} to {max(counts)} pictures are drawn with the same probability"
    if balance.empty:
        text += f"; {len(balance.empty)} of {balance.count} pictures hold no object and keep that share"
    LOGGER.info(f"{dataset.prefix}balanced: {text}")
    return balance
