"""Train the layer of a fused network, in seconds: its two networks are frozen, so all features are computed once.

Source: Akumalla et al. 2020, see `fusion`. Not printed there: the optimiser, its rate, epochs and batch. They are ours:
Adam, 1e-3, 30 and 128, without weight decay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from ultralytics.utils import TQDM
from ultralytics.utils.torch_utils import select_device

from yolo_wnlb.checkpoints import plain
from yolo_wnlb.classifiers import nets
from yolo_wnlb.classifiers.fit import cross_entropy
from yolo_wnlb.classifiers.fusion import FORMAT, UNKNOWN, Fusion, mean_theta, penalty
from yolo_wnlb.classifiers.nets import SIDE, prepared
from yolo_wnlb.data.folders import Labelled
from yolo_wnlb.data.journal import write_log
from yolo_wnlb.data.validation import first, is_number, is_whole
from yolo_wnlb.yolo.adversarial import Attack, read_request

BATCH = 64  # pictures at once, where features are computed; it changes nothing


def fit(
    model: Fusion,
    data: Labelled,
    out: str | Path,
    *,
    epochs: int = 30,
    batch: int = 128,
    lr: float = 1e-3,
    adversarial: bool | str | Mapping[str, Any] | None = None,
    imgsz: int = SIDE,
    seed: int = 0,
    device: str | None = None,
    progress: bool = True,
) -> Path:
    """Train the layer of a fused network by Adam. It takes seconds, once the features of all pictures are there.

    Args:
        model: What `build` returned, for the classes of `data`; trained in place.
        data: What to learn.
        out: Folder for last.pt and log.csv, which has the mean absolute weight of both halves.
        epochs: Passes through the features.
        batch: Pictures in a step.
        lr: Learning rate of all steps.
        adversarial: Learn from attacked pictures: what `adversarial=` of `yolo train` takes, but `free`. The attack is
            the paper's: it knows the foreground network and not the fused one. So all pictures are attacked once, and
            the foreground network has to know the same classes. `mix` is the share of pictures that stay clean.
        imgsz: Side that pictures are scaled to, 32 or more.
        seed: Of the order of the pictures, and of random starts of the attack. The layer is drawn when it is built.
        device: As Ultralytics takes it: "cpu", "0", ... Default: a GPU if there is one.
        progress: Show bars.
    Returns: The path of last.pt.
    Raises:
        ValueError: an argument is out of range; the classes of model and data differ, or those of the foreground
            network where it is to be attacked.
        FileExistsError: out/last.pt is there.
        FloatingPointError: a loss is not finite.
        OSError: a picture cannot be read, or the checkpoint cannot be written.
    """
    settings: dict[str, Any] = {"epochs": epochs, "batch": batch, "lr": lr, "imgsz": imgsz, "seed": seed}
    settings |= {"adversarial": check_settings({**settings, "adversarial": adversarial})}
    settings = plain(settings)
    epochs, batch, lr, imgsz, seed, asked = settings.values()
    if tuple(model.recipe["classes"]) != data.classes:
        raise ValueError(
            f"the model was built for the classes {first(model.recipe['classes'])}, and {data.source} has "
            f"{first(list(data.classes))}"
        )
    if asked:
        check_attacked(model.recipe["foreground"]["classes"], data.classes)
    last = Path(out) / "last.pt"
    if last.exists():
        raise FileExistsError(f"{last} exists; choose another folder")
    place = select_device(device or "", verbose=False)
    model.to(place).eval()
    model.recipe["imgsz"] = imgsz
    clean, attacked = features_of_pictures(model, data, imgsz, asked, seed, place, progress)
    labels = torch.tensor(data.labels, device=place)
    optimizer = torch.optim.Adam(model.layer.parameters(), lr)
    log = []
    for epoch in TQDM(range(epochs), desc="layer", disable=not progress):
        rng = np.random.default_rng([seed, epoch])
        order = torch.from_numpy(rng.permutation(len(labels))).to(place)
        stays = torch.from_numpy(rng.random(len(labels)) < (asked["mix"] if asked else 1)).to(place)
        total, correct = 0.0, 0
        for chosen in order.split(batch):
            x = torch.where(stays[chosen, None], clean[chosen], attacked[chosen])
            logits = model.layer(x)
            loss = functional.cross_entropy(logits, labels[chosen]) + penalty(model)
            if not math.isfinite(loss.item()):
                raise FloatingPointError(f"the loss is not finite in epoch {epoch + 1} of {epochs}; lower lr")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(chosen)
            correct += int((logits.argmax(1) == labels[chosen]).sum())
        means = mean_theta(model)
        log.append({"epoch": epoch + 1, "loss": total / len(labels), "accuracy": correct / len(labels), **means})
    Path(out).mkdir(parents=True, exist_ok=True)
    del settings["imgsz"]  # it is a part of the recipe
    write_log(Path(out) / "log.csv", log)  # last.pt says that all is done
    nets.save(model, last, {"settings": {**settings, "data": data.digest}, "log": log}, FORMAT)
    return last


def features_of_pictures(
    model: Fusion,
    data: Labelled,
    imgsz: int,
    asked: dict[str, Any] | None,
    seed: int,
    place: torch.device,
    progress: bool,
) -> tuple[Tensor, Tensor]:
    """Return the features of all pictures, and those of the attacked ones (the same without an attack): (N, features).

    Args:
        model: Whose networks compute them, in eval mode.
        data: The pictures.
        imgsz: Side that they are scaled to.
        asked: The attack, as `read_request` returned it; None for none.
        seed: Of its random starts.
        place: Where the networks are.
        progress: Show a bar.
    """
    attack = Attack(asked, seed) if asked else None
    clean, attacked = list[Tensor](), list[Tensor]()
    for start in TQDM(range(0, len(data), BATCH), desc="features", disable=not progress):
        numbers = range(start, min(start + BATCH, len(data)))
        x = torch.from_numpy(np.stack([prepared(data.read(n), imgsz) for n in numbers])).to(place).float() / 255
        with torch.no_grad():
            clean.append(model.features(x))
        if attack:
            labels = torch.tensor([data.labels[n] for n in numbers], device=place)
            found = attack.perturbed(cross_entropy, model.foreground, {"img": x, "cls": labels})
            with torch.no_grad():
                attacked.append(model.features(found))
    return torch.cat(clean), torch.cat(attacked or clean)


def check_settings(settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Refuse arguments of `fit` that are out of range; returns all options of the attack that is asked for."""
    for name, least in (("epochs", 1), ("batch", 1), ("imgsz", 32), ("seed", 0)):
        if not (is_whole(settings[name]) and settings[name] >= least):
            raise ValueError(f"{name} is {settings[name]!r}; wanted a whole number, {least} or more")
    if not is_number(settings["lr"]) or settings["lr"] <= 0:
        raise ValueError(f"lr is {settings['lr']!r}; wanted a number above 0")
    request = settings["adversarial"]
    if request is None or request is False:
        return None
    asked = read_request(request)
    if asked["method"] == "free":
        raise ValueError(
            "adversarial: free improves its change of the pictures while a network learns, and the networks that are "
            "fused do not; give method fgsm or pgd"
        )
    return asked


def check_attacked(known: Sequence[str], classes: Sequence[str]) -> None:
    """Refuse to attack a foreground network that has learnt other classes."""
    if list(known) != list(classes):
        learnt = "does not say which" if tuple(known) == UNKNOWN else first(list(known))
        raise ValueError(
            f"adversarial: the attack climbs the loss of the foreground network, which has learnt other classes "
            f"({learnt}) than {first(list(classes))}; train its last layer on them first (a classifier that starts "
            "from it, with freeze: 5)"
        )
