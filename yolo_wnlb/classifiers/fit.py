"""Train a classifier as Modas et al. do: clean or attacked pictures, a rate that falls linearly to 0, the last weights.

Nothing depends on where a training was stopped: every epoch draws from its own seed, the learning rate is a function of
the step, and last.pt holds the rest. So a training that was resumed ends with the same weights as one that was not.

Source: Modas et al., ICIP 2021, section 3.2. Momentum, weight decay, batch and augmentation are not printed there: 0.9,
5e-4, 64 and a flip are ours.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from ultralytics.utils import LOGGER, TQDM
from ultralytics.utils.torch_utils import select_device

from yolo_wnlb.checkpoints import check_same_training, plain
from yolo_wnlb.classifiers.nets import SIDE, Classifier, check_freeze, freeze_layers, load_into, prepared, read, save
from yolo_wnlb.data.folders import Labelled
from yolo_wnlb.data.journal import write_log
from yolo_wnlb.data.validation import is_number, is_whole
from yolo_wnlb.yolo.adversarial import Attack, Replay, describe, read_request


class Inputs(Dataset):
    """The pictures of one epoch in the order that they are learnt in.

    A picture's flip and shift depend on the seed, the epoch and its place in the order, not on who loads it.

    Items: img, uint8 (3, imgsz, imgsz), RGB; cls, the label.
    """

    def __init__(
        self, data: Labelled, order: Sequence[int], imgsz: int, flip: float, crop: float, seed: list[int]
    ) -> None:
        self.data, self.order, self.imgsz, self.flip, self.crop, self.seed = data, order, imgsz, flip, crop, seed

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, place: int) -> dict[str, Any]:
        """Load, scale, perhaps flip and shift."""
        index = self.order[place]
        picture = prepared(self.data.read(index), self.imgsz)
        rng = np.random.default_rng([*self.seed, place])
        if rng.random() < self.flip:
            picture = picture[:, :, ::-1]
        if most := round(self.crop * self.imgsz):
            top, left = rng.integers(0, 2 * most + 1, 2)
            padded = np.pad(picture, ((0, 0), (most, most), (most, most)), "reflect")
            picture = padded[:, top : top + self.imgsz, left : left + self.imgsz]
        return {"img": torch.from_numpy(np.ascontiguousarray(picture)), "cls": self.data.labels[index]}


def fit(
    model: Classifier,
    data: Labelled,
    out: str | Path,
    *,
    epochs: int,
    batch: int = 64,
    lr: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    balanced: bool = False,
    adversarial: bool | str | Mapping[str, Any] | None = None,
    freeze: int = 0,
    flip: float = 0.5,
    crop: float = 0.0,
    imgsz: int = SIDE,
    seed: int = 0,
    workers: int = 2,
    device: str | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Path:
    """Train a classifier by SGD on the cross-entropy. A checkpoint and a line of the log are written after each epoch.

    Args:
        model: What `nets.build` returned, for the classes of `data`; trained in place.
        data: What to learn.
        out: Folder for last.pt and log.csv.
        epochs: Each has as many steps as batches of all pictures.
        batch: Pictures in a step, 2 or more. A last batch of one picture is left out: its norms would have no variance.
        lr: Learning rate of the first step; that of step s of S is lr (1 - s / S). The paper has 0.1 from scratch and
            0.005 from other weights.
        momentum: Of SGD.
        weight_decay: Of all parameters.
        balanced: Draw pictures, with replacement, so that all classes come equally often.
        adversarial: Train on attacked pictures: what `adversarial=` of `yolo train` takes, see `yolo.adversarial`.
        freeze: L of the paper; see `nets.freeze_layers`. The norms of frozen layers keep their statistics.
        flip: Probability of a horizontal flip.
        crop: Largest random shift as a share of the side; edges are reflected. 0.125 is the usual one of CIFAR-10.
        imgsz: Side that pictures are scaled to, 32 or more.
        seed: Of order, flips, shifts and random starts of attacks. The last layer is drawn when the model is built.
        workers: Processes that load pictures; their number changes nothing.
        device: As Ultralytics takes it: "cpu", "0", ... Default: a GPU if there is one.
        resume: Go on from out/last.pt if it is there; the model has to be built in the same way.
        progress: Show a bar.
    Returns: The path of last.pt.
    Raises:
        ValueError: an argument is out of range; the classes of model and data differ; last.pt is of another training.
        FileExistsError: out/last.pt is there and resume is off.
        FloatingPointError: a loss is not finite; last.pt is of the last full epoch.
        OSError: a picture cannot be read, or a checkpoint cannot be written.
    """
    settings: dict[str, Any] = {
        **{"epochs": epochs, "batch": batch, "lr": lr, "momentum": momentum, "weight_decay": weight_decay},
        **{"balanced": balanced, "adversarial": adversarial, "freeze": freeze, "flip": flip, "crop": crop},
        **{"imgsz": imgsz, "seed": seed},
    }
    settings = plain({**settings, "adversarial": check_settings(settings)})
    names = ("epochs", "batch", "lr", "balanced", "freeze", "flip", "crop", "imgsz", "seed", "adversarial")
    epochs, batch, lr, balanced, freeze, flip, crop, imgsz, seed, asked = (settings[name] for name in names)
    if tuple(model.recipe["classes"]) != data.classes:
        raise ValueError(
            f"the model was built for the classes {', '.join(model.recipe['classes'])}, and {data.source} has "
            f"{', '.join(data.classes)}"
        )
    if len(data) < 2:
        raise ValueError(f"{data.source}: one picture; a step needs two or more")
    last = Path(out) / "last.pt"
    if last.exists() and not resume:
        raise FileExistsError(f"{last} exists; go on with resume=True, or choose another folder")
    place = select_device(device or "", verbose=False)
    model.to(place)
    model.recipe["imgsz"] = imgsz
    frozen = freeze_layers(model, freeze)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learning, lr, momentum=settings["momentum"], weight_decay=settings["weight_decay"])
    recorded = {**settings, "data": data.digest, "recipe": dict(model.recipe)}
    log = resume_from(last, model, optimizer, recorded) if last.exists() else []
    Path(out).mkdir(parents=True, exist_ok=True)
    if log:
        write_log(Path(out) / "log.csv", log)  # a kill behind last.pt left it an epoch short
    steps = steps_of(len(data), batch)
    if asked:
        LOGGER.info(describe(asked, imgsz, batch, batch))

    with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
        for epoch in range(len(log), epochs):
            begun = time.perf_counter()
            epoch_seed = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
            torch.manual_seed(epoch_seed)
            order = order_of(data.labels, balanced, np.random.default_rng(epoch_seed))[: steps * batch]
            loader: Any = DataLoader(
                Inputs(data, order, imgsz, flip, crop, [seed, epoch]),
                batch,
                num_workers=workers,
                generator=torch.Generator().manual_seed(epoch_seed),
                pin_memory=place.type == "cuda",
            )
            model.train()
            for module in frozen:
                module.eval()
            if asked and asked["method"] == "free":
                loader = Replay(loader, asked["replays"])
            attack = Attack(asked, epoch_seed) if asked else None  # a new one, as a resumed training would have
            batches = TQDM(loader, desc=f"epoch {epoch + 1}/{epochs}", total=steps, disable=not progress)
            rates = [linear_decay(lr, epoch * steps + step, epochs * steps) for step in range(steps)]
            means = train_epoch(model, batches, optimizer, rates, attack, place)
            log.append({"epoch": epoch + 1, "lr": rates[-1], **means, "seconds": round(time.perf_counter() - begun, 1)})
            state: dict[str, Any] = {"settings": recorded, "log": log}
            if epoch + 1 < epochs:
                state["optimizer"] = optimizer.state_dict()
            save(model, last, state)
            write_log(Path(out) / "log.csv", log)
    return last


# ---- parts -----------------------------------------------------------------------------------------


def linear_decay(lr: float, step: int, steps: int) -> float:
    """Return the learning rate of a step, counted from 0, of so many: lr at the first, lr / steps at the last."""
    return lr * (1 - step / steps)


def steps_of(pictures: int, batch: int) -> int:
    """Count the steps of an epoch; a last batch of one picture is none."""
    whole, rest = divmod(pictures, batch)
    return whole + (rest > 1)


def cross_entropy(model: Classifier, batch: Mapping[str, Any], preds: None = None) -> tuple[Tensor, Tensor]:
    """Return the mean loss of a batch and its logits (B, classes), as the loss of an Ultralytics model is called."""
    logits = model(batch["img"])
    return functional.cross_entropy(logits, batch["cls"]), logits


def order_of(labels: Sequence[int], balanced: bool, rng: np.random.Generator) -> list[int]:
    """Draw the pictures of an epoch: all of them once, or as many with replacement, all classes equally likely."""
    if not balanced:
        return rng.permutation(len(labels)).tolist()
    weights = 1 / np.bincount(labels)[np.array(labels)]
    return rng.choice(len(labels), len(labels), p=weights / weights.sum()).tolist()


def train_epoch(
    model: Classifier,
    batches: Iterable[dict[str, Any]],
    optimizer: torch.optim.Optimizer,
    rates: Sequence[float],
    attack: Attack | None,
    place: torch.device,
) -> dict[str, float]:
    """Go once through the batches, one learning rate for each. Returns mean loss and accuracy of what was learnt."""
    losses = torch.zeros(len(rates), device=place)
    correct = torch.zeros(len(rates), device=place)
    pictures = 0
    for step, (batch, rate) in enumerate(zip(batches, rates)):
        batch = {**batch, "cls": batch["cls"].to(place, non_blocking=True)}
        batch["img"] = batch["img"].to(place, non_blocking=True).float() / 255
        for group in optimizer.param_groups:
            group["lr"] = rate
        if attack:
            batch = attack(cross_entropy, model, batch)
        loss, logits = cross_entropy(model, batch)
        if not math.isfinite(loss.item()):
            raise FloatingPointError(
                f"the loss is not finite in step {step + 1} of {len(rates)}; lower lr. last.pt, if there is one, is of "
                "the epoch before"
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses[step] = loss.detach()
        correct[step] = (logits.detach().argmax(1) == batch["cls"]).sum()
        pictures += len(logits)
    return {"loss": losses.mean().item(), "accuracy": correct.sum().item() / pictures}


def check_settings(settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Refuse arguments of `fit` that are out of range; returns all options of the attack that is asked for."""
    for names, least in ((("epochs",), 1), (("batch",), 2), (("imgsz",), 32), (("seed", "workers"), 0)):
        for name in names:
            if name in settings and not (is_whole(settings[name]) and settings[name] >= least):
                raise ValueError(f"{name} is {settings[name]!r}; wanted a whole number, {least} or more")
    if not is_number(settings["lr"]) or settings["lr"] <= 0:
        raise ValueError(f"lr is {settings['lr']!r}; wanted a number above 0")
    for name, most in (("momentum", 1), ("flip", 1), ("crop", 0.5), ("weight_decay", math.inf)):
        if not is_number(settings[name]) or not 0 <= settings[name] <= most:
            span = f"from 0 to {most}" if most < math.inf else "0 or more"
            raise ValueError(f"{name} is {settings[name]!r}; wanted a number, {span}")
    if not isinstance(settings["balanced"], bool):
        raise ValueError(f"balanced is {settings['balanced']!r}; wanted true or false")
    check_freeze(settings["freeze"])
    request = settings["adversarial"]
    return None if request is None or request is False else read_request(request)


def resume_from(
    last: Path, model: Classifier, optimizer: torch.optim.Optimizer, recorded: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Load a checkpoint into model and optimizer. Returns the log of what is done.

    Raises: ValueError: it was made with another network, other pictures or other settings.
    """
    state, meta = read(last)
    check_same_training(last, meta["training"].get("settings", {}), recorded)
    load_into(model, state, last, model.recipe["arch"])
    if "optimizer" in meta["training"]:
        optimizer.load_state_dict(meta["training"]["optimizer"])
    return meta["training"]["log"]
