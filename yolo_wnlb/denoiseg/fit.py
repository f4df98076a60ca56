"""Train a U-Net to denoise and to segment at once, on pictures of which some have labels.

    pictures -> + noise -> (denoised by a frozen network) -> patches, drawn once -> crops, turned -> blind spots -> loss

Nothing depends on where a training was stopped: every epoch draws from its own seed, the learning rate is a function of
the log, and last.pt holds the rest. So a training that was resumed ends with the same weights as one that was not.

    Baseline     alpha: 0      segments only
    Sequential   alpha: 0, sequential: true, start: N2V      segments what a frozen network denoised
    DenoiSeg     alpha: 0.5    both
    N2V          alpha: 1      denoises only; labels are not needed

Source: Buchholz et al., DenoiSeg, ECCV workshop 2020 (arXiv 2005.02987), sections 2 and 3, and its code.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from ultralytics.utils import LOGGER, TQDM
from ultralytics.utils.torch_utils import select_device

from yolo_wnlb.checkpoints import check_same_training, load_state, plain
from yolo_wnlb.data.journal import write_log
from yolo_wnlb.data.validation import is_number, is_whole, share_meant
from yolo_wnlb.denoiseg.blindspots import RADIUS, SHARE, blind, box_side, hidden, spots
from yolo_wnlb.denoiseg.pictures import as_codes, noise_level, read_picture, with_noise
from yolo_wnlb.denoiseg.unet import DenoiSeg, Losses, border_target, denoiseg_loss, read, run, save

LEAST_STEPS, MOST_STEPS = 100, 400  # of an epoch, where `steps` is not given
TURNS = 8  # four rotations, each mirrored or not
LEAST_FALL = 1e-5  # of the validation loss, that counts as one
LOWEST_SHARE = 1 / 32  # of the first learning rate, below which it does not fall: 1.25e-5 of 4e-4
STEPS = (3 / 4, 11 / 12)  # shares of the training after which the rate falls to a tenth, without pictures to tune on
LABELLED_SHARE = 4  # one crop of so many has labels, with mixed=False
VALIDATED = 16  # patches at once
Labelled = tuple[str | Path, np.ndarray | None]  # a picture's file, and its label image (H, W) if it has one


class Patch(NamedTuple):
    """A part of a picture.

    Attributes:
        codes: (channels, h, w), uint8; float32 with noise, or denoised.
        target: uint8 (h, w), the class of each pixel; 0 without labels.
        labelled: Whether the picture has labels.
    """

    codes: np.ndarray
    target: np.ndarray
    labelled: bool


class Crops(Dataset):
    """The crops of one epoch, in the order that they are learnt in.

    Where a crop lies, how it is turned and which of its pixels are hidden depend on the seed and its place in the
    order, not on who loads it.

    Args:
        patches: What crops are cut from.
        order: Number of a patch * TURNS + number of a turn, for each crop.
        crop: Side of a crop, in pixels.
        share: Share of the pixels to hide, see `blindspots`.
        radius: Of the blind spots, see `blindspots`.
        seed: Of the epoch.
    Items: noisy, float32 (channels, crop, crop), codes; blinded, the same with blind spots; hidden, bool (crop, crop);
        target, int64 (crop, crop); labelled, bool.
    """

    def __init__(
        self, patches: Sequence[Patch], order: Sequence[int], crop: int, share: float, radius: int, seed: list[int]
    ) -> None:
        self.patches, self.order, self.crop = patches, order, crop
        self.share, self.radius, self.seed = share, radius, seed

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, place: int) -> dict[str, Any]:
        """Cut, turn and hide pixels."""
        number, turn = divmod(self.order[place], TURNS)
        patch, side = self.patches[number], self.crop
        rng = np.random.default_rng([*self.seed, place])
        top, left = (int(rng.integers(0, length - side + 1)) for length in patch.target.shape)
        area = (..., slice(top, top + side), slice(left, left + side))
        noisy = turned(patch.codes[area].astype(np.float32), turn)
        index = spots((side, side), rng, self.share, self.radius)
        return {
            "noisy": noisy,
            "blinded": blind(noisy, index),
            "hidden": hidden((side, side), index),
            "target": turned(patch.target[area].astype(np.int64), turn),
            "labelled": patch.labelled,
        }


def fit(
    model: DenoiSeg,
    pictures: Sequence[Labelled],
    out: str | Path,
    *,
    epochs: int,
    tune: Sequence[Labelled] | None = None,
    alpha: float = 0.5,
    noise: float | str = 0,
    steps: int | None = None,
    batch: int = 128,
    lr: float = 4e-4,
    factor: float = 0.75,
    patience: int = 10,
    mixed: bool = True,
    patch: int = 128,
    per_image: int = 4,
    crop: int = 64,
    share: float = SHARE,
    radius: int = RADIUS,
    seed: int = 0,
    workers: int = 2,
    device: str | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Path:
    """Train by Adam on alpha * denoising + (1 - alpha) * segmentation. Checkpoints are written after each epoch.

    With pictures to tune on, the learning rate falls when the loss on them does not, and best.pt has the weights of its
    lowest value. Without, the rate falls to a tenth after 3/4 and after 11/12 of the training, and best.pt is last.pt.

    Args:
        model: What `unet.build` returned; trained in place.
        pictures: What to learn, (file, label image) each. A label image has integers (H, W), 0 for background and
            another number for each object; one without an object says that there is none. None: the picture has no
            labels, and only the denoising learns from it.
        out: Folder for best.pt, last.pt and log.csv.
        epochs: How often the loss is written down and checkpoints are saved.
        tune: Pictures of another split, as `pictures`; for an alpha below 1 some with labels.
        alpha: 1 learns to denoise only (Noise2Void), 0 to segment only, 0.5 is the paper's.
        noise: Standard deviation, in codes, of Gaussian noise that is added to every picture when it is read; n0, n10
            and n20 are the paper's names of 0, 10 and 20. Nothing is clipped or rounded, so its mean is 0 in dark parts
            too. It is drawn from the picture's content: a picture has the same noise in each training and prediction.
        steps: Of an epoch. Default, as in the authors' code: all turned patches once, 100 at least and 400 at most.
        batch: Crops in a step, 2 or more.
        lr: Learning rate of the first step.
        factor: By which the rate falls on a plateau; 0.5 in the authors' package.
        patience: Epochs without a fall of the loss until the rate falls.
        mixed: Draw crops without a look at labels, as the paper does: with few labels most batches have none. False
            puts one with labels among four, which trainings of few steps need.
        patch: Side of the parts that are cut from each picture once, before the training, in pixels; smaller pictures
            are taken whole.
        per_image: Patches of each picture.
        crop: Side of what the network gets, cut from the patches anew each time; a multiple of 2^depth.
        share: Share of the pixels that are hidden, see `blindspots`.
        radius: Pixels, from a hidden pixel to the farthest that it may get its value from.
        seed: Of patches, order, turns and blind spots. The weights are drawn when the model is built.
        workers: Processes that cut crops; their number changes nothing.
        device: As Ultralytics takes it: "cpu", "0", ... Default: a GPU if there is one.
        resume: Go on from out/last.pt if it is there; the model has to be built in the same way.
        progress: Show a bar.
    Returns: The path of best.pt.
    Raises:
        ValueError: an argument is out of range; a picture is too small, or its label image of another size; labels
            are missing; last.pt is of another training.
        FileExistsError: out/last.pt is there and resume is off.
        FileNotFoundError: a picture is missing, or best.pt is, beside last.pt.
        FloatingPointError: a loss is not finite; last.pt is of the last full epoch.
        OSError: a picture cannot be read, or a checkpoint cannot be written.
    """
    settings: dict[str, Any] = {
        **{"epochs": epochs, "alpha": alpha, "noise": noise, "steps": steps, "batch": batch, "lr": lr},
        **{"factor": factor, "patience": patience, "mixed": mixed, "patch": patch, "per_image": per_image},
        **{"crop": crop, "share": share, "radius": radius, "seed": seed},
    }
    check_settings({**settings, "workers": workers}, model.recipe)
    settings = plain(settings)
    settings["noise"] = noise_level(noise)
    names = ("epochs", "alpha", "steps", "batch", "lr", "factor", "seed")
    epochs, alpha, steps, batch, lr, factor, seed = (settings[name] for name in names)  # numbers of Python's own types
    check_labels(pictures, tune, alpha)
    last, best = Path(out) / "last.pt", Path(out) / "best.pt"
    if last.exists() and not resume:
        raise FileExistsError(f"{last} exists; go on with resume=True, or choose another folder")
    place = select_device(device or "", verbose=False)
    model.to(place)
    model.recipe |= {"alpha": settings["alpha"], "noise": settings["noise"]}
    patches, learnt = read_patches(model, pictures, settings)
    tuned, judged = read_patches(model, tune or [], settings)
    standardise(model, patches)
    if steps is None:
        steps = max(LEAST_STEPS, min(TURNS * len(patches) // batch, MOST_STEPS))
    optimizer = torch.optim.Adam(model.net.parameters(), lr, eps=1e-7)  # Keras' eps
    recorded = {**settings, "steps": steps, **model.recipe, "front": weights_hash(model.front)}
    recorded |= {"pictures": learnt, "tune": judged}
    log = resume_from(last, best, model, optimizer, recorded) if last.exists() else []
    Path(out).mkdir(parents=True, exist_ok=True)
    if log:
        write_log(Path(out) / "log.csv", log)  # a kill behind last.pt left it an epoch short

    with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
        for epoch in range(len(log), epochs):
            begun = time.perf_counter()
            epoch_seed = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
            torch.manual_seed(epoch_seed)
            order = order_of([p.labelled for p in patches], steps, batch, mixed, np.random.default_rng(epoch_seed))
            loader: Any = DataLoader(
                Crops(patches, order, crop, share, radius, [seed, epoch]),
                batch,
                num_workers=workers,
                generator=torch.Generator().manual_seed(epoch_seed),
                pin_memory=place.type == "cuda",
            )
            if tuned:
                rate = plateau([row["val_loss"] for row in log], lr, factor, patience)
            else:
                rate = lr * 0.1 ** sum(epoch >= share_done * epochs for share_done in STEPS)
            for group in optimizer.param_groups:
                group["lr"] = rate
            batches = TQDM(loader, desc=f"epoch {epoch + 1}/{epochs}", disable=not progress)
            row = {"epoch": epoch + 1, "lr": rate, **train_epoch(model, batches, optimizer, alpha, place)}
            if tuned:
                losses = validate(model, tuned, settings, place)
                row |= {f"val_{name}": value for name, value in losses.items()}
                if not math.isfinite(row["val_loss"]):
                    raise FloatingPointError(f"the loss of the pictures to tune on is {row['val_loss']}; lower lr")
            is_best = not tuned or row["val_loss"] < min((r["val_loss"] for r in log), default=math.inf)
            log.append({**row, "seconds": round(time.perf_counter() - begun, 1)})
            if is_best:
                save(model, best, {"settings": recorded, "log": log})
            state: dict[str, Any] = {"settings": recorded, "log": log}
            if epoch + 1 < epochs:
                state["optimizer"] = optimizer.state_dict()
            save(model, last, state)
            write_log(Path(out) / "log.csv", log)
    return best


# ---- pictures ------------------------------------------------------------------------------------


def read_patches(model: DenoiSeg, pictures: Sequence[Labelled], settings: Mapping[str, Any]) -> tuple[list[Patch], str]:
    """Read pictures, add noise, denoise them if a network stands in front, and draw patches from each.

    Returns: The patches, and a hash of all that they are made of.
    Raises:
        OSError: a picture cannot be read.
        ValueError: one is smaller than a crop, or its label image has another size.
    """
    channels, multiple, coloured = model.recipe["channels"], 2 ** model.recipe["depth"], 0
    patches, content = [], hashlib.sha256()
    for number, (file, labels) in enumerate(pictures):
        picture = read_picture(file)
        height, width = picture.shape[:2]
        if labels is not None:
            check_label_image(labels, (height, width), file)
        if min(height, width) < settings["crop"]:
            raise ValueError(
                f"{file} has {height} x {width} pixels, less than a crop of {settings['crop']} x {settings['crop']}; "
                "leave it out, or give a smaller crop"
            )
        coloured += channels == 1 and bool((picture != picture[..., :1]).any())
        codes = as_codes(picture, channels)
        target = border_target(labels) if labels is not None else np.zeros((height, width), np.uint8)
        content.update(f"{codes.shape} {labels is not None} ".encode() + codes.tobytes() + target.tobytes())
        codes = with_noise(codes, settings["noise"])
        if model.front:
            codes = run(model.front, codes)[0]
        sides = [min(settings["patch"], length) // multiple * multiple for length in (height, width)]
        rng = np.random.default_rng([settings["seed"], number])
        for _ in range(settings["per_image"]):
            top, left = (int(rng.integers(0, length - side + 1)) for length, side in zip((height, width), sides))
            area = (..., slice(top, top + sides[0]), slice(left, left + sides[1]))
            patches.append(Patch(codes[area].copy(), target[area].copy(), labels is not None))
    if coloured:
        LOGGER.warning(
            f"{coloured} of {len(pictures)} pictures are in colour, and the network takes grey ones: they are learnt "
            "in grey; channels: 3 is for colour"
        )
    return patches, content.hexdigest()[:16]


def standardise(model: DenoiSeg, patches: Sequence[Patch]) -> None:
    """Give a model the mean and standard deviation of its training patches, by channel; of the latter 1 code at least.

    The loss counts channels alike, and the few codes of one that is empty beside that of a dye would count as much.

    Raises: ValueError: the pictures have one colour.
    """
    pixels = sum(patch.target.size for patch in patches)
    mean = sum(patch.codes.sum((1, 2), dtype=np.float64) for patch in patches) / pixels
    squares = [((patch.codes - mean[:, None, None]) ** 2).sum((1, 2), dtype=np.float64) for patch in patches]
    std = np.sqrt(sum(squares) / pixels)
    if not std.any():
        raise ValueError("all pixels that were drawn from the pictures have one colour: there is nothing to learn")
    for name, values in (("mean", mean), ("std", np.maximum(std, 1))):
        buffer: Any = getattr(model, name)
        buffer.copy_(torch.as_tensor(values, dtype=torch.float32).reshape(buffer.shape))


def turned(array: np.ndarray, turn: int) -> np.ndarray:
    """Rotate the last two axes by 0 to 3 quarters, and mirror them for a turn of 4 or more."""
    array = np.rot90(array, turn % 4, axes=(-2, -1))
    return np.ascontiguousarray(array[..., ::-1] if turn >= 4 else array)


def weights_hash(model: DenoiSeg | None) -> str:
    """Return a hash of the weights of a network, "" of none."""
    found = hashlib.sha256()
    for value in model.state_dict().values() if model else ():
        found.update(value.cpu().numpy().tobytes())
    return found.hexdigest()[:16] if model else ""


# ---- training ------------------------------------------------------------------------------------


def order_of(labelled: Sequence[bool], steps: int, batch: int, mixed: bool, rng: np.random.Generator) -> list[int]:
    """Draw the crops of an epoch: for each the number of its patch * TURNS + that of its turn.

    Every turned patch comes once before any comes again. Without `mixed`, a quarter of each batch is drawn so from the
    patches with labels, and the rest from those without, as long as there are both.
    """

    def drawn(numbers: Sequence[int], count: int) -> np.ndarray:
        turned_patches = np.array([TURNS * number + turn for number in numbers for turn in range(TURNS)])
        rounds = [rng.permutation(turned_patches) for _ in range(math.ceil(count / len(turned_patches)))]
        return np.concatenate(rounds)[:count]

    groups = [[n for n, has_labels in enumerate(labelled) if has_labels is wanted] for wanted in (True, False)]
    if mixed or not all(groups):
        return drawn(range(len(labelled)), steps * batch).tolist()
    quarter = max(batch // LABELLED_SHARE, 1)
    with_labels = drawn(groups[0], steps * quarter).reshape(steps, -1)
    without = drawn(groups[1], steps * (batch - quarter)).reshape(steps, -1)
    return np.concatenate([with_labels, without], 1).ravel().tolist()


def plateau(losses: Sequence[float], lr: float, factor: float, patience: int) -> float:
    """Return the learning rate after epochs with these validation losses.

    It falls by the factor whenever the loss has not fallen by 1e-5 for `patience` epochs, to 1/32 of the first at last.
    """
    lowest, waited, rate = math.inf, 0, lr
    for loss in losses:
        if loss < lowest - LEAST_FALL:
            lowest, waited = loss, 0
            continue
        waited += 1
        if waited >= patience:
            rate, waited = max(rate * factor, lr * LOWEST_SHARE), 0
    return rate


def train_epoch(
    model: DenoiSeg,
    batches: Iterable[Mapping[str, torch.Tensor]],
    optimizer: torch.optim.Optimizer,
    alpha: float,
    place: torch.device,
) -> dict[str, float]:
    """Go once through the batches. Returns the means of the loss and of its two parts."""
    model.train()
    found = []
    for step, batch in enumerate(batches):
        losses = losses_of(model, batch, alpha, place)
        if not math.isfinite(losses[0].item()):
            raise FloatingPointError(
                f"the loss is not finite in step {step + 1}; lower lr. last.pt, if there is one, is of the epoch before"
            )
        optimizer.zero_grad()
        losses.loss.backward()
        optimizer.step()
        found.append(torch.stack([loss.detach() for loss in losses]))
    return dict(zip(("loss", "denoising", "segmentation"), torch.stack(found).mean(0).tolist()))


def losses_of(model: DenoiSeg, batch: Mapping[str, torch.Tensor], alpha: float, place: torch.device) -> Losses:
    """Run a batch of `Crops` through the U-Net, and compute its losses."""
    batch = {name: value.to(place, non_blocking=True) for name, value in batch.items()}
    outputs = model.net(model.standardised(batch["blinded"]))
    noisy = model.standardised(batch["noisy"])
    return denoiseg_loss(outputs, noisy, batch["hidden"], batch["target"], batch["labelled"], alpha)


@torch.inference_mode()
def validate(
    model: DenoiSeg, patches: Sequence[Patch], settings: Mapping[str, Any], place: torch.device
) -> dict[str, float]:
    """Return the loss and its two parts on whole patches, with the same blind spots every time: means by pixel."""
    model.eval()
    total, pixels, begun = torch.zeros(3, dtype=torch.float64), 0, 0
    for shape, group in itertools.groupby(patches, lambda patch: patch.target.shape):
        alike = list(group)
        for start in range(0, len(alike), VALIDATED):
            chosen = alike[start : start + VALIDATED]
            items = []
            for place_of, patch in enumerate(chosen, begun + start):
                rng = np.random.default_rng([settings["seed"], place_of])
                index = spots(shape, rng, settings["share"], settings["radius"])
                noisy = patch.codes.astype(np.float32)
                items.append((noisy, blind(noisy, index), hidden(shape, index), patch.target.astype(np.int64)))
            names = ("noisy", "blinded", "hidden", "target")
            batch = {name: torch.from_numpy(np.stack(values)) for name, values in zip(names, zip(*items))}
            batch["labelled"] = torch.tensor([patch.labelled for patch in chosen])
            losses = losses_of(model, batch, settings["alpha"], place)
            size = len(chosen) * math.prod(shape)
            total += size * torch.stack(losses).double().cpu()
            pixels += size
        begun += len(alike)
    return dict(zip(("loss", "denoising", "segmentation"), (total / pixels).tolist()))


def resume_from(
    last: Path, best: Path, model: DenoiSeg, optimizer: torch.optim.Optimizer, recorded: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Load a checkpoint into model and optimizer. Returns the log of what is done.

    Raises:
        ValueError: it was made with another network, other pictures or other settings.
        FileNotFoundError: best.pt is not beside it.
    """
    state, meta = read(last)
    training = meta["training"]
    check_same_training(last, training.get("settings", {}), recorded)
    if not best.is_file():
        raise FileNotFoundError(f"{best} is missing beside {last}; put it back, or choose another folder")
    if len(training["log"]) < recorded["epochs"] and "optimizer" not in training:
        raise ValueError(f"{last} cannot be resumed: it lacks the optimizer's state, as a best.pt does")
    load_state(model, state, last, "this U-Net")
    if "optimizer" in training:
        optimizer.load_state_dict(training["optimizer"])
    return training["log"]


# ---- what is refused -----------------------------------------------------------------------------


def check_settings(settings: Mapping[str, Any], recipe: Mapping[str, Any]) -> None:
    """Refuse arguments of `fit` that are out of range, or do not go together with the network."""
    for name, least in {
        **dict.fromkeys(("epochs", "steps", "patience", "per_image", "patch", "crop", "radius"), 1),
        **{"batch": 2, "seed": 0, "workers": 0},
    }.items():
        value = settings[name]
        if not (name == "steps" and value is None) and not (is_whole(value) and value >= least):
            raise ValueError(f"{name} is {value!r}; wanted a whole number, {least} or more")
    alpha = settings["alpha"]
    if not is_number(alpha) or not 0 <= alpha <= 1:
        meant = share_meant(alpha)
        raise ValueError(f"alpha is {alpha!r}; wanted a number from 0 (segment only) to 1 (denoise only){meant}")
    if recipe["sequential"] and alpha:
        raise ValueError(
            f"alpha is {alpha!r}, and the network is sequential: its pictures are denoised already, and what noise is "
            "left is shared by neighbouring pixels; give alpha: 0"
        )
    noise = noise_level(settings["noise"])
    if recipe["sequential"] and noise != recipe["front"]["noise"]:
        raise ValueError(
            f"noise is {noise:g}, and the network in front, {recipe['start']}, learnt to remove "
            f"{recipe['front']['noise']:g}; give both the same noise"
        )
    if not is_number(settings["lr"]) or settings["lr"] <= 0:
        raise ValueError(f"lr is {settings['lr']!r}; wanted a number above 0")
    if not is_number(settings["factor"]) or not 0 < settings["factor"] < 1:
        raise ValueError(f"factor is {settings['factor']!r}; wanted a number between 0 and 1")
    if not isinstance(settings["mixed"], bool):
        raise ValueError(f"mixed is {settings['mixed']!r}; wanted true or false")
    crop, multiple = settings["crop"], 2 ** recipe["depth"]
    if crop % multiple:
        near = max(crop // multiple, 1) * multiple
        raise ValueError(
            f"crop is {crop}; wanted a multiple of {multiple}, such as {near}, as depth is {recipe['depth']}"
        )
    if crop > settings["patch"]:
        raise ValueError(f"crop is {crop}, and crops are cut from patches of {settings['patch']}; give a smaller one")
    if crop < box_side(settings["share"]):
        raise ValueError(
            f"crop is {crop}, less than a box of which one pixel is hidden, {box_side(settings['share'])} for share "
            f"{settings['share']}; give a larger crop or share"
        )


def check_labels(pictures: Sequence[Labelled], tune: Sequence[Labelled] | None, alpha: float) -> None:
    """Refuse to learn from nothing; warn of pictures that teach nothing."""
    for name, given in (("pictures", pictures), ("tune", () if tune is None else tune)):
        for entry in given if isinstance(given, (list, tuple)) else [given]:
            if not isinstance(entry, (list, tuple)) or len(entry) != 2:
                raise ValueError(f"{name}: found {entry!r}; wanted a list of pairs, (file, label image or None)")
    if not pictures:
        raise ValueError("there is no picture to learn from")
    if tune is not None and not tune:
        raise ValueError("tune has no picture; leave it out, or name a split that has some")
    without = sum(labels is None for _, labels in pictures)
    if alpha < 1:
        for what, found in (("", pictures), (" to tune on", tune)):
            if found and all(labels is None for _, labels in found):
                raise ValueError(
                    f"none of {len(found)} pictures{what} has labels, and alpha is {alpha:g}; label some, or give "
                    "alpha: 1, which learns to denoise only"
                )
    labelled = [labels for _, labels in pictures if labels is not None]
    if alpha < 1 and all(isinstance(labels, np.ndarray) and not labels.any() for labels in labelled):
        LOGGER.warning(
            f"{len(labelled)} pictures with labels have no object, which teaches that there is none anywhere; label "
            "one that has"
        )
    if alpha == 0 and without:
        LOGGER.warning(
            f"{without} of {len(pictures)} pictures have no labels, and alpha is 0: nothing but the statistics of "
            "norms learns from them"
        )


def check_label_image(labels: Any, shape: tuple[int, int], file: str | Path) -> None:
    """Refuse what is no label image of a picture."""
    if not isinstance(labels, np.ndarray) or labels.ndim != 2 or labels.dtype.kind not in "iu":
        found = f"{labels.dtype} {labels.shape}" if isinstance(labels, np.ndarray) else type(labels).__name__
        raise ValueError(f"the labels of {file} are {found}; wanted an array of integers (H, W), a number each object")
    if labels.shape != tuple(shape):
        raise ValueError(
            f"the labels of {file} have {labels.shape[0]} x {labels.shape[1]} pixels, and the picture "
            f"{shape[0]} x {shape[1]}"
        )
    if labels.size and labels.min() < 0:
        raise ValueError(f"the labels of {file} hold {labels.min()}; wanted 0 for background and numbers above it")
