"""One training loop for every detector with torchvision's contract: model(images, targets) -> {name: loss}.

Nothing in it depends on where it was stopped: every epoch draws from its own seed, the learning
rate is a function of the step, and last.pt holds the rest. So a run that was resumed ends with the
same weights as one that was not, bit for bit (on CUDA as far as its kernels are deterministic).
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools import mask as mask_utils
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from ultralytics.utils import TQDM
from ultralytics.utils.torch_utils import select_device

from yolo_wnlb.checkpoints import check_same_training, plain
from yolo_wnlb.data.coco import Truth, check_files, check_truth, fingerprint, first, listing, named, to_rle
from yolo_wnlb.data.journal import write_log
from yolo_wnlb.data.validation import is_number, is_whole
from yolo_wnlb.detectors.torchvision import outputs_of, read, read_image, save
from yolo_wnlb.wnlb import WNLB
from yolo_wnlb.words import suggestion

LOGGER = logging.getLogger(__name__)

OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("cosine", "step", "constant")
STEPS = (3 / 4, 11 / 12)  # shares of the training after which 'step' divides by 10
LOWEST = 0.01  # of the learning rate, at the end of 'cosine'
NORMS = (nn.modules.batchnorm._BatchNorm,)
Target = dict[str, Tensor]


class Pictures(Dataset):
    """Images and targets of a COCO truth.

    Crowds, boxes of at most a pixel in width or height, and masks without a pixel are left out, and
    a warning counts the crowds and boxes; images without objects stay. A flip depends on the seed,
    the epoch and the image alone, not on who loads it.

    Args:
        truth: A COCO truth that `check_truth` accepts, whose annotations have segmentations.
        files: {image id: file}.
        labels: {category id: label, from 1}; annotations of other categories are left out, and counted.
        flip: Probability of a horizontal flip.
        seed: Of the flips.

    Attributes:
        epoch: To be set before each.

    Items: image float (3, H, W), RGB in [0, 1]; target with boxes float (N, 4) xyxy, labels int64 (N,),
        masks uint8 (N, H, W).
    Raises: ValueError, FileNotFoundError: a file is missing or of another size than the truth says, an object has no
        mask, or there is nothing to train on.
    """

    def __init__(
        self, truth: Truth, files: Mapping[Any, Path], labels: Mapping[int, int], flip: float = 0.0, seed: int = 0
    ) -> None:
        self.images, self.files, self.labels = truth["images"], files, labels
        self.flip, self.seed, self.epoch = flip, seed, 0
        check_files(truth, files)
        self.objects: dict[Any, list[dict[str, Any]]] = {image["id"]: [] for image in self.images}
        objects, left_out = [], Counter[str]()
        for annotation in truth["annotations"]:
            if annotation["category_id"] not in labels:
                left_out["of other categories"] += 1
            elif annotation.get("iscrowd"):
                left_out["crowds"] += 1
            else:
                objects.append(annotation)
        if boxes := [a for a in objects if not a.get("segmentation")]:
            raise ValueError(
                f"{len(boxes)} of {len(objects)} annotations have a box but no segmentation (first: "
                f"{named(boxes, 'annotation')(0)}); these detectors learn masks: label outlines, or leave the "
                "annotations out"
            )
        for annotation in objects:
            if min(annotation["bbox"][2:]) > 1:
                self.objects[annotation["image_id"]].append(annotation)
            else:
                left_out["with a box of at most a pixel in width or height"] += 1
        if left_out:
            listed = ", ".join(f"{count} {what}" for what, count in left_out.items())
            LOGGER.warning("not trained on: of %d annotations %s", len(truth["annotations"]), listed)
        if not any(self.objects.values()):
            raise ValueError(
                f"there is nothing to train on: none of {len(truth['annotations'])} annotations in {len(self.images)} "
                f"images is an object of the categories {first(list(labels))}"
            )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        """Load, decode and perhaps flip."""
        entry = self.images[index]
        image = read_image(self.files[entry["id"]])
        height, width = image.shape[1:]
        objects = self.objects[entry["id"]]
        masks = torch.zeros(len(objects), height, width, dtype=torch.uint8)
        for mask, annotation in zip(masks, objects):
            mask.copy_(torch.from_numpy(decode(annotation["segmentation"], height, width)))
        boxes = torch.tensor([a["bbox"] for a in objects], dtype=torch.float).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes[:, 0::2].clamp_(0, width)
        boxes[:, 1::2].clamp_(0, height)
        kept = masks.flatten(1).any(1).bool() & (boxes[:, 2:] - boxes[:, :2] > 1).all(1)
        boxes, masks = boxes[kept], masks[kept]
        labels = torch.tensor([self.labels[a["category_id"]] for a in objects], dtype=torch.int64)[kept]
        if np.random.default_rng([self.seed, self.epoch, index]).random() < self.flip:
            image, masks = image.flip(2), masks.flip(2)
            boxes[:, 0::2] = width - boxes[:, [2, 0]]
        return image, {"boxes": boxes, "labels": labels, "masks": masks}


def decode(shape: Any, height: int, width: int) -> np.ndarray:
    """Draw the segmentation of an annotation, outlines or any RLE: uint8 (H, W)."""
    return mask_utils.decode(to_rle(shape, height, width))


def collate(items: Sequence[tuple[Tensor, Target]]) -> tuple[tuple[Tensor, ...], tuple[Target, ...]]:
    """Keep images of any sizes apart."""
    images, targets = zip(*items)
    return images, targets


def fit(
    model: nn.Module,
    truth: Truth,
    files: Mapping[Any, Path],
    out: str | Path,
    *,
    epochs: int,
    batch: int = 2,
    accumulate: int = 1,
    lr: float = 5e-4,
    optimizer: str = "sgd",
    weight_decay: float = 1e-4,
    schedule: str = "cosine",
    warmup: int | None = None,
    clip: float | None = 35.0,
    flip: float = 0.5,
    amp: bool | None = None,
    learn_norms: bool | None = None,
    seed: int = 0,
    workers: int = 2,
    device: str | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Path:
    """Train a detector. A checkpoint and a line of the log are written after each epoch.

    Args:
        model: What `build`, `maskrcnn` or `solov2` returned; trained in place.
        truth: What to learn, see `coco.ground_truth`; checked before anything else is done. Its classes
            have to be those of the model by name; a model without names takes them in the order of
            their ids.
        files: {image id: file}, see `coco.image_files`. Each has to be of the size that the truth says.
        out: Folder for last.pt and log.csv.
        epochs: Passes through the images.
        batch: Images in a step of the network.
        accumulate: Steps whose gradients make one step of the optimizer.
        lr: Highest learning rate. The w of each block has `w_lr` times as much.
        optimizer: 'sgd' (momentum 0.9) or 'adamw'.
        weight_decay: Of weights with two dimensions or more; w, biases and norms have none.
        schedule: 'cosine' to a hundredth, 'step' (a tenth after 3/4 and after 11/12), or 'constant'.
        warmup: Steps of the optimizer until lr is reached, linear. Default: 500, a tenth at most.
        clip: Largest norm of the gradient, None for any.
        flip: Probability of a horizontal flip.
        amp: Mixed precision: float16 with scaled gradients on CUDA, bfloat16 elsewhere. Default: on CUDA.
        learn_norms: Whether batch norms learn their statistics. Default: only from a random start.
            Those of the blocks do always, frozen parts never.
        seed: Of order, flips and sampling. New layers are drawn when the model is built.
        workers: Processes that load images; their number changes nothing.
        device: As Ultralytics takes it: "cpu", "0", ... Default: a GPU if there is one.
        resume: Go on from out/last.pt if it is there; the model has to be built in the same way.
        progress: Show a bar.

    Returns: The path of last.pt, which after the last epoch no longer holds the optimizer.
    Raises:
        ValueError: an argument is out of range; data, model or last.pt do not fit together.
        FileNotFoundError: images are missing.
        FileExistsError: out/last.pt is there and resume is off.
        FloatingPointError: a loss is not finite; last.pt is of the last full epoch.
        OSError: a checkpoint cannot be written, for want of room for instance; last.pt is of the epoch before.
    """
    settings: dict[str, Any] = {
        **{"epochs": epochs, "batch": batch, "accumulate": accumulate, "lr": lr, "optimizer": optimizer},
        **{"weight_decay": weight_decay, "schedule": schedule, "warmup": warmup, "clip": clip, "flip": flip},
        **{"amp": amp, "learn_norms": learn_norms, "seed": seed},
    }
    check_settings(settings)
    settings = plain(settings)
    epochs, batch, accumulate, lr, seed = (settings[name] for name in ("epochs", "batch", "accumulate", "lr", "seed"))
    out = Path(out)
    last = out / "last.pt"
    if last.exists() and not resume:
        raise FileExistsError(f"{last} exists; go on with resume=True, or choose another folder")
    check_truth(truth)
    labels = label_classes(model, truth)
    data = Pictures(truth, files, labels, settings["flip"], seed)
    place = select_device(device or "", verbose=False)
    model.to(place)
    steps = math.ceil(math.ceil(len(data) / batch) / accumulate)  # in an epoch
    if warmup is None:
        settings["warmup"] = min(500, epochs * steps // 10)
    if amp is None:
        settings["amp"] = place.type == "cuda"
    if learn_norms is None:
        settings["learn_norms"] = getattr(model, "recipe", {}).get("start") is None
    pictures = listing(files[image["id"]] for image in truth["images"])
    recorded = {
        **settings,
        "truth": fingerprint(truth),
        "pictures": hashlib.sha256(pictures).hexdigest()[:16],  # a twin of the data set has the same truth
        "parameters": sum(p.requires_grad for p in model.parameters()),
    }
    stepper = make_optimizer(model, optimizer, lr, settings["weight_decay"])
    scaler = getattr(torch.amp, "GradScaler", torch.cuda.amp.GradScaler)(
        enabled=settings["amp"] and place.type == "cuda"
    )
    log: list[dict[str, Any]] = []
    if last.exists():
        log = resume_from(last, model, stepper, scaler, recorded)
    out.mkdir(parents=True, exist_ok=True)
    if log:
        write_log(out / "log.csv", log)  # a kill behind last.pt left it an epoch short

    with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
        for epoch in range(len(log), epochs):
            start = time.perf_counter()
            data.epoch = epoch
            epoch_seed = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
            torch.manual_seed(epoch_seed)
            generator = torch.Generator().manual_seed(epoch_seed)
            loader = DataLoader(
                data,
                batch,
                sampler=torch.randperm(len(data), generator=generator).tolist(),
                num_workers=workers,
                collate_fn=collate,
                generator=generator,
                pin_memory=place.type == "cuda",
            )
            bar = TQDM(loader, desc=f"epoch {epoch + 1}/{epochs}", disable=not progress)
            set_training_mode(model, settings["learn_norms"])
            means = train_epoch(model, bar, stepper, scaler, place, settings, epoch * steps, epochs * steps)
            log.append({"epoch": epoch + 1, "lr": stepper.param_groups[0]["lr"], **means, **weights_of_blocks(model)})
            log[-1]["seconds"] = round(time.perf_counter() - start, 1)
            state = {"settings": recorded, "log": log}
            if epoch + 1 < epochs:
                state.update(optimizer=stepper.state_dict(), scaler=scaler.state_dict())
            save(model, last, state)
            write_log(out / "log.csv", log)
    return last


# ---- parts -----------------------------------------------------------------------------------------


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuse arguments of `fit` that are out of range."""
    for name, choices in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
        if settings[name] not in choices:
            given = f"{settings[name]!r}{suggestion(settings[name], choices)}"
            raise ValueError(f"{name} must be one of {', '.join(choices)}; got {given}")
    optional = {name for name in ("clip", "warmup") if settings[name] is None}
    for names, least in ((("epochs", "batch", "accumulate"), 1), (("warmup", "seed"), 0)):
        for name in names:
            if name not in optional and not (is_whole(settings[name]) and settings[name] >= least):
                raise ValueError(f"{name} must be a whole number of at least {least}; got {settings[name]!r}")
    for name in ("lr", "clip"):
        if name not in optional and not (is_number(settings[name]) and settings[name] > 0):
            raise ValueError(f"{name} must be above 0; got {settings[name]!r}")
    if not is_number(settings["weight_decay"]) or settings["weight_decay"] < 0:
        raise ValueError(f"weight_decay must be 0 or more; got {settings['weight_decay']!r}")
    if not is_number(settings["flip"]) or not 0 <= settings["flip"] <= 1:
        raise ValueError(f"flip must be a probability; got {settings['flip']!r}")


def label_classes(model: nn.Module, truth: Truth) -> dict[int, int]:
    """Map category ids to labels by name; a model without names is given those of the truth.

    Raises: ValueError: the truth has a class that the model has not, or more than it has labels.
    """
    own: Any = model
    if not hasattr(own, "recipe"):
        own.recipe = {}
    if "classes" not in own.recipe:
        categories = sorted(truth["categories"], key=lambda category: category["id"])
        own.recipe["classes"] = {label: category["name"] for label, category in enumerate(categories, 1)}
    classes = own.recipe["classes"]
    if max(classes) > (most := outputs_of(model)):
        raise ValueError(
            f"there are {len(classes)} classes, with labels up to {max(classes)}, and the model has {most}; "
            "build it for these classes"
        )
    labels = {name: label for label, name in classes.items()}
    if unknown := [c["name"] for c in truth["categories"] if c["name"] not in labels]:
        raise ValueError(
            f"{len(unknown)} classes of the truth are unknown to the model: {first(unknown)}; it was built for "
            f"{first(list(labels))}"
        )
    return {category["id"]: labels[category["name"]] for category in truth["categories"]}


def make_optimizer(model: nn.Module, name: str, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """Make an optimizer whose groups have a `factor` of the learning rate; see `fit`."""
    blocks = [module for module in model.modules() if isinstance(module, WNLB) and "w" in module._parameters]
    factors = {id(block.w): block.w_lr for block in blocks}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            decay = weight_decay if parameter.ndim > 1 else 0.0  # it would pull w to 0, the identity
            groups.setdefault((decay, factors.get(id(parameter), 1.0)), []).append(parameter)
    if not groups:
        raise ValueError("no parameter of the model is trainable; freeze less, or raise trainable_layers")
    if frozen := [block for block in blocks if not block.w.requires_grad]:
        LOGGER.warning("%d of %d w are frozen; a block at w = 0 does nothing", len(frozen), len(blocks))
    rows = [{"params": p, "weight_decay": decay, "factor": factor} for (decay, factor), p in groups.items()]
    return torch.optim.SGD(rows, lr, momentum=0.9) if name == "sgd" else torch.optim.AdamW(rows, lr)


def set_training_mode(model: nn.Module, learn_norms: bool) -> None:
    """Put the model into training mode, but hold the statistics of norms; see `fit`."""
    model.train()
    for name, module in model.named_modules():
        frozen = not any(p.requires_grad for p in module.parameters())
        if isinstance(module, NORMS) and (frozen or not (learn_norms or ".wnlb." in name)):
            module.eval()


def learning_rate(step: int, total: int, settings: Mapping[str, Any]) -> float:
    """Return the learning rate of a step, counted from 0."""
    share = step / total
    factor = 1.0
    if settings["schedule"] == "cosine":
        factor = LOWEST + (1 - LOWEST) * (1 + math.cos(math.pi * share)) / 2
    elif settings["schedule"] == "step":
        factor = 0.1 ** sum(share >= s for s in STEPS)
    return settings["lr"] * factor * min(1.0, (step + 1) / (settings["warmup"] + 1))


def train_epoch(
    model: nn.Module,
    bar: Any,
    optimizer: torch.optim.Optimizer,
    scaler: Any,
    device: torch.device,
    settings: Mapping[str, Any],
    step: int,
    total: int,
) -> dict[str, float]:
    """Go once through the batches of `bar`, from a step of `total`. Returns the mean losses."""
    accumulate, batches = settings["accumulate"], len(bar.iterable)
    learning = [p for group in optimizer.param_groups for p in group["params"]]
    dtype = torch.float16 if device.type == "cuda" else torch.bfloat16
    sums: dict[str, float] = {}
    for number, (images, targets) in enumerate(bar):
        images = [image.to(device, non_blocking=True) for image in images]
        targets = [{key: value.to(device, non_blocking=True) for key, value in target.items()} for target in targets]
        with torch.autocast(device.type, dtype, enabled=settings["amp"]):
            losses = model(images, targets)
            loss = torch.stack([value.float() for value in losses.values()]).sum()
        values = dict(zip(losses, torch.stack([value.detach().float() for value in losses.values()]).tolist()))
        if not all(map(math.isfinite, values.values())):
            raise FloatingPointError(
                f"the loss is not finite in batch {number + 1} of {batches} of {bar.desc.partition('  ')[0]} "
                f"({', '.join(f'{k} {v:.4g}' for k, v in values.items())}); lower lr, lengthen warmup, or switch amp "
                "off. last.pt, if there is one, is of the epoch before"
            )
        first_of_window = number // accumulate * accumulate
        scaler.scale(loss / min(accumulate, batches - first_of_window)).backward()
        for name, value in {"loss": sum(values.values()), **values}.items():
            sums[name] = sums.get(name, 0.0) + value
        bar.desc = f"{bar.desc.partition('  ')[0]}  loss {sums['loss'] / (number + 1):.4g}"
        if (number + 1) % accumulate and number + 1 < batches:
            continue
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, total, settings) * group["factor"]
        if settings["clip"] is not None:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(learning, settings["clip"])
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        step += 1
    return {name: value / batches for name, value in sums.items()}


def weights_of_blocks(model: nn.Module) -> dict[str, float]:
    """Return the present w of every block, by name; the mean of all channels where each has its own."""
    blocks = {name: module for name, module in model.named_modules() if isinstance(module, WNLB) and module.weighted}
    return {f"w {name}": block.w.mean().item() for name, block in blocks.items()}


def resume_from(
    last: Path, model: nn.Module, optimizer: torch.optim.Optimizer, scaler: Any, settings: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Load a checkpoint into model, optimizer and scaler. Returns the log of what is done.

    Raises: ValueError: it was made with another model, other data or other settings.
    """
    state, meta = read(last)
    if "settings" not in meta["training"]:
        raise ValueError(f"{last} holds a model but no training; start from it with build(..., weights=FILE)")
    before = {**{k: v for k, v in meta.items() if k in getattr(model, "recipe", {})}, **meta["training"]["settings"]}
    check_same_training(last, before, {**getattr(model, "recipe", {}), **settings})
    model.load_state_dict(state)
    if "optimizer" in meta["training"]:
        optimizer.load_state_dict(meta["training"]["optimizer"])
        scaler.load_state_dict(meta["training"]["scaler"])
    return meta["training"]["log"]
