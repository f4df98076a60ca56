"""What an adaptation is asked to do: arguments checked, the model looked at, the start of the training built.

Everything that can be wrong is found here, before anything is written. `Plan.identity` is what two runs have to have
in common for the second to go on where the first was stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from yolo_wnlb.adapt.pictures import LEAST, Found, find, held_out
from yolo_wnlb.data.coco import split_files
from yolo_wnlb.data.data_yaml import read_data_yaml
from yolo_wnlb.reading import sha256_of
from yolo_wnlb.wnlb import WNLB
from yolo_wnlb.words import suggestion
from yolo_wnlb.yolo import darkness
from yolo_wnlb.yolo.grafting import graft
from yolo_wnlb.yolo.models import channels_of, load_checkpoint
from yolo_wnlb.yolo.sixteen_bits import recorded
from yolo_wnlb.yolo.weights import has_blocks, layers_of

TRAIN = ("blocks", "all")  # what is trained
RATES = {"blocks": 2e-3, "all": 2e-4}  # learning rates
AFTER = ("P3", "P4", "P5")  # where blocks are inserted if none are there and no place is named
BLOCK = {"scale": None, "w_lr": 20.0}  # options of inserted blocks: logits over sqrt(d), a fast w
STEPS, FEWEST_EPOCHS = 900, 3  # how long to train unless epochs= says it


@dataclass
class Plan:
    """An adaptation, checked.

    Attributes:
        model: The checkpoint; task: detect or segment; names: its classes; channels: of its pictures, 1 or 3.
        start: The model that the training starts from: the checkpoint, with blocks where they were asked for.
        blocks: Numbers of the layers of `start` that are blocks.
        frozen: Numbers of the layers of `start` that are not trained.
        lowlight: Preset or settings of the darkness.
        found: The bright pictures.
        data: A labelled data YAML for the true AP, or None.
        settings: Everything else that the user may say, with its value.
        identity: What another run has to share to go on with this one.
    """

    model: Path
    task: str
    names: dict[int, str]
    channels: int
    start: Any
    blocks: list[int]
    frozen: list[int]
    lowlight: Any
    found: Found
    data: str | None
    settings: dict[str, Any]
    identity: dict[str, Any]

    @property
    def held(self) -> int:
        """How many pictures are held out."""
        return len(held_out(self.found.count, self.settings["seed"]))

    @property
    def trained_on(self) -> int:
        """How many pictures are trained on."""
        return self.found.count - self.held

    @property
    def darkness_of_training(self) -> Any:
        """What lowlight= is in training: with a share of pictures that stay bright."""
        if not self.settings["day"]:
            return self.lowlight
        asked = self.lowlight if isinstance(self.lowlight, dict) else {"preset": self.lowlight}
        return {**asked, "p": round(1 - self.settings["day"], 6)}


def make_plan(
    model: str | Path,
    images: str | Path,
    out: str | Path,
    lowlight: Any,
    *,
    after: Sequence[str | int] | None = None,
    train: str = "blocks",
    day: float = 0.2,
    epochs: int | None = None,
    imgsz: int | None = None,
    batch: int = 8,
    lr: float | None = None,
    data: str | Path | None = None,
    seed: int = 0,
    limit: int | None = None,
    frames: int = 300,
    block: dict[str, Any] | None = None,
) -> Plan:
    """Check what was asked for; the arguments are those of `adapt.adapt`.

    Raises: ValueError, TypeError, OSError: with the remedy. Nothing is written.
    """
    if lowlight is None or lowlight is False or lowlight == "":
        raise ValueError("lowlight= is missing: how dark the nights are that the model is for, such as lowlight=severe")
    darkness.read_request(lowlight)
    lowlight = darkness.with_content(lowlight)
    if train not in TRAIN:
        raise ValueError(f"train={train}{suggestion(train, TRAIN)}; choose from {', '.join(TRAIN)}")
    check_numbers(epochs=epochs, imgsz=imgsz, batch=batch, seed=seed, limit=limit, frames=frames)
    if isinstance(day, bool) or not isinstance(day, (int, float)) or not 0 <= day < 1:
        raise ValueError(f"day={day!r}: wanted the share of training pictures that stay bright, 0 or more, below 1")
    if lr is not None and (isinstance(lr, bool) or not isinstance(lr, (int, float)) or not 0 < lr <= 1):
        raise ValueError(f"lr={lr!r}: wanted a learning rate above 0, at most 1, such as 1e-3")
    check_place(Path(images), Path(out))
    file, loaded = read_model(Path(model))
    network, names = loaded.model, dict(loaded.names)
    size = choose_size(imgsz, loaded)
    places = list(after) if after else [] if train == "all" or has_blocks(network) else list(AFTER)
    if block and not places:
        raise ValueError(f"{', '.join(block)}: no block is inserted that could have it; give after=P3,P4,P5")
    if data is not None:
        check_classes(str(data), names, file)
    start = with_blocks(network, places, {**BLOCK, **(block or {})}, seed) if places else network
    blocks = [i for i, layer in enumerate(layers_of(start)) if isinstance(layer, WNLB)]
    last = len(layers_of(start)) - 1
    found = find(images, limit, frames, recorded(network))
    held = len(held_out(found.count, seed))
    settings = {
        "train": train,
        "after": places,
        "block": {**BLOCK, **(block or {})} if places else {},
        "day": day,
        "epochs": epochs or max(FEWEST_EPOCHS, -(-STEPS // -(-(found.count - held) // batch))),
        "imgsz": size,
        "batch": batch,
        "lr": lr or RATES[train],
        "seed": seed,
    }
    identity = {
        "model": {"file": str(file), "sha256": sha256_of(file)},
        "images": str(Path(images).resolve()),
        "pictures": found.fingerprint(),
        "lowlight": lowlight,
        "out": str(Path(out).resolve()),
        **settings,
    }
    plan = Plan(
        model=file,
        task=loaded.task,
        names=names,
        channels=channels_of(loaded),
        start=start,
        blocks=blocks,
        frozen=[last] if train == "all" else [i for i in range(last + 1) if i not in blocks],
        lowlight=lowlight,
        found=found,
        data=None if data is None else str(data),
        settings=settings,
        identity=identity,
    )
    darkness.read_request(plan.darkness_of_training)
    return plan


def check_numbers(**given: Any) -> None:
    """Refuse numbers that are no whole numbers of the right size; None stands for the default."""
    least = {"epochs": 1, "imgsz": 1, "batch": 1, "seed": 0, "limit": LEAST, "frames": LEAST, "workers": 0}
    for name, value in given.items():
        if value is not None and (type(value) is not int or value < least[name]):
            raise ValueError(f"{name}={value!r}: wanted a whole number, {least[name]} or more")


def choose_size(imgsz: int | None, model: Any) -> int:
    """Return the side of the pictures in pixels: as asked, or as the model was trained.

    Raises: ValueError: it is no multiple of the model's stride, or the model was trained on rectangles.
    """
    stride, trained = int(max(model.model.stride)), model.overrides.get("imgsz", 640)
    if imgsz is not None and imgsz % stride:
        raise ValueError(f"imgsz={imgsz}: wanted a multiple of {stride}, the largest stride of this model")
    if imgsz is None and not isinstance(trained, int):
        raise ValueError(f"this model was trained on pictures of {trained} pixels; give one side with imgsz=")
    return imgsz or -(-int(trained) // stride) * stride


def check_place(images: Path, out: Path) -> None:
    """Refuse an output folder that would mix with the pictures, or that holds something else."""
    source, target = images.resolve(), out.resolve()
    if target == source or source in target.parents:
        raise ValueError(f"out={out} lies in images={images}, where nothing must be written; choose another out=")
    if target in source.parents and (target / "plan.json").is_file():
        raise ValueError(f"images={images} lies in out={out}; give the pictures as they were first, or another out=")
    if out.is_file():
        raise ValueError(f"out={out} is a file; wanted a folder, new or of an earlier run of the same command")
    if out.is_dir() and not (out / "plan.json").is_file() and any(p.name != ".darken" for p in out.iterdir()):
        raise ValueError(f"out={out} holds files of something else; choose another out=")


def read_model(file: Path) -> tuple[Path, Any]:
    """Load the checkpoint; Ultralytics fetches its own, such as yolov8n-seg.pt.

    Raises: ValueError, OSError: it is no checkpoint of a detector or segmenter that can be trained.
    """
    if file.suffix in (".yaml", ".yml"):
        raise ValueError(f"{file} is a definition without weights; give the checkpoint, .pt, of a trained model")
    if file.suffix != ".pt":
        raise ValueError(f"{file} is no checkpoint: an export cannot be trained; give the .pt that it was made from")
    try:
        loaded = load_checkpoint(file)
    except ValueError as error:
        if any(sign in str(error) for sign in ("Can't get attribute", "No module named", "has no attribute")):
            from ultralytics import __version__

            raise ValueError(
                f"{file} was written by a release of Ultralytics that knows other modules than {__version__}, which is "
                f"installed here; update Ultralytics, or this package. {error}"
            ) from error
        raise
    network = loaded.model
    if getattr(type(network).loss, "_stock", None) is None or not layers_of(network):
        raise ValueError(f"{file} is a {type(network).__name__}, which computes its loss in its own way; adapt a YOLO")
    if network.is_fused():
        raise ValueError(f"{file} was fused for prediction and cannot be trained; give the .pt that training wrote")
    if channels_of(loaded) not in (1, 3):
        raise ValueError(f"{file} takes pictures of {channels_of(loaded)} channels; the darkness knows grey and colour")
    return Path(loaded.ckpt_path or file).resolve(), loaded


def check_classes(data: str, names: dict[int, str], model: Path) -> None:
    """Refuse a labelled data set of other classes than the model's, or without labels to validate on."""
    from ultralytics.data.utils import img2label_paths

    found = read_data_yaml(data)[0]
    if not found.get("val"):
        raise ValueError(f"data={data} names no val: pictures, on which the true AP could be measured")
    if dark := darkness.darkened_by(found):
        raise ValueError(
            f"the pictures of data={data} are dark already ({dark}); give the bright ones, they are darkened"
        )
    theirs = {int(number): name for number, name in found["names"].items()}
    if theirs != names:
        number = next(i for i in range(max(len(theirs), len(names))) if theirs.get(i) != names.get(i))
        raise ValueError(
            f"data={data} has other classes than {model.name}: {len(theirs)} and {len(names)}; class {number} is "
            f"{theirs.get(number)!r} and {names.get(number)!r}. Give data of the model's classes, or leave data= out"
        )
    labels = img2label_paths(list(map(str, split_files(found, data, "val"))))
    if not any(Path(label).is_file() and Path(label).stat().st_size for label in labels):
        raise ValueError(
            f"data={data}: none of the {len(labels)} val pictures has a label; leave data= out, or label them"
        )


def with_blocks(network: Any, after: Sequence[str | int], options: dict[str, Any], seed: int) -> Any:
    """Return the model with new blocks, each of them the identity, in float32.

    Raises: ValueError, TypeError: a place or an option does not exist.
    """
    definition, _ = graft(network.yaml, list(after), options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        grafted = type(network)(definition, ch=definition.get("channels") or 3, nc=len(network.names), verbose=False)
    grafted.load(network, verbose=False)
    grafted.names, grafted.task, grafted.args = dict(network.names), network.task, dict(network.args)
    return grafted
