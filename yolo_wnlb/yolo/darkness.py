"""Darkness in Ultralytics training and validation: `lowlight=severe`, and the checks around it.

Three ways lead to dark pictures:

    lowlight=severe                    each source picture is darkened when the data set loads it, before
                                       mosaic and padding: in training anew each time, in validation always
                                       the same way (`patches.data` hands the data set to `attach`)
    augmentations=[LowLight(...)]      Albumentations, after mosaic, in training only
    data=dark/data.yaml                a data set that `yolo-wnlb darken` wrote

None may fail silently. The request travels as the argument `lowlight` with all others, into DDP
workers and the checkpoints that `resume` reads: a process without this package refuses it as
unknown, instead of training on bright pictures. For the second way `check_request` writes
`lowlight=augmentations`.
"""

from __future__ import annotations

import operator
import os
import random
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from yolo_wnlb.data.journal import MANIFEST, header_of
from yolo_wnlb.imaging.camera import ALIASES, PRESETS, Settings, Shot, as_changes, settings
from yolo_wnlb.imaging.camera_file import names_a_file
from yolo_wnlb.imaging.capture import capture
from yolo_wnlb.imaging.chance import picture_rng

AUGMENTATIONS = "augmentations"  # the value of lowlight= that says: darkened by a LowLight in augmentations=
LOWLIGHT = "yolo_wnlb.transforms.LowLight"


class Darkness(NamedTuple):
    """What lowlight= asks for.

    Attributes:
        camera: Of which a shot is drawn for each picture.
        seed: Of the shots in validation.
        p: Probability, above 0 and up to 1, that a training picture is darkened. Validation darkens all.
    """

    camera: Settings
    seed: int
    p: float


def read_request(value: Any) -> Darkness:
    """Read what stands behind lowlight=.

    Args:
        value: A preset's name, the .yaml file of a camera, True for the default preset, or a dict of settings that
            may hold "preset", "seed" (an integer, default 0) and "p" (a number, default 1).
    Raises: ValueError: something in it is unknown or out of bounds. FileNotFoundError: there is no such file.
    """
    if not isinstance(value, (str, bool, dict)):
        raise ValueError(
            f"lowlight is {value!r}; wanted a preset such as severe, True, or settings {{'preset': 'severe', 'ev': -3}}"
        )
    changes = dict(value) if isinstance(value, dict) else {"preset": value}
    seed, p = changes.pop("seed", 0), changes.pop("p", 1)
    if type(seed) is not int:
        raise ValueError(f"the seed in lowlight is {seed!r}; wanted an integer")
    if isinstance(p, bool) or not isinstance(p, (int, float)) or not 0 < p <= 1:
        raise ValueError(f"p in lowlight is {p!r}; wanted the share of pictures to darken, above 0 and at most 1")
    return Darkness(settings(changes), seed, float(p))


def with_content(value: Any) -> Any:
    """Return what stands behind lowlight= with the settings of a camera file in the place of its name.

    What is recorded of a run then is what was used, whatever happens to the file.
    """
    changes = dict(value) if isinstance(value, dict) else {"preset": value}
    if not names_a_file(changes.get("preset")):
        return value
    rest = {name: changes.pop(name) for name in ("seed", "p") if name in changes}
    return {**as_changes(settings(changes)), **rest}


def check_request(cfg: dict[str, Any]) -> None:
    """Check lowlight= among the arguments of a run, in place, before anything is built.

    Raises: ValueError: a setting is wrong, the task or mode cannot be darkened, or pictures would be
        darkened twice.
    """
    request = cfg.get("lowlight")
    if any(map(holds_lowlight, cfg.get("augmentations") or ())):
        if request not in (None, False, AUGMENTATIONS):
            raise ValueError(
                f"lowlight={request} and the LowLight in augmentations= would darken each picture twice; leave out one"
            )
        request = AUGMENTATIONS
    if request is None or request is False:
        cfg.pop("lowlight", None)
        return
    if request != AUGMENTATIONS:
        read_request(request)
        request = with_content(request)
        if cfg.get("task") == "classify":
            raise ValueError(
                "lowlight= does not reach pictures for classification; darken them with 'yolo-wnlb darken'"
            )
        if cfg.get("mode") in ("predict", "track", "benchmark"):
            raise ValueError(
                f"lowlight= darkens data sets in train and val, not what is given to {cfg['mode']}; "
                "darken those pictures with 'yolo-wnlb darken'"
            )
    elif cfg.get("mode") == "val":
        raise ValueError("validation knows no augmentations=; give lowlight=PRESET, or a data set darkened before")
    cfg["lowlight"] = request


def holds_lowlight(transform: Any) -> bool:
    """Tell whether an Albumentations transform, or what A.to_dict made of it, is or contains LowLight."""
    if isinstance(transform, dict):
        transform = transform.get("transform", transform)
        name, inner = transform.get("__class_fullname__"), transform.get("transforms")
    else:
        name = f"{type(transform).__module__}.{type(transform).__qualname__}"
        inner = getattr(transform, "transforms", None)
    return name == LOWLIGHT or any(map(holds_lowlight, inner or ()))


class DarkLoader:
    """Stands in for `load_image` of one data set, and darkens what the stock one returns.

    It belongs to the instance and is pickled with it, so a worker process cannot have the data set
    without it. Pictures are darkened after the stock resize to imgsz; caches keep the bright ones.
    """

    def __init__(self, dataset: Any, darkness: Darkness) -> None:
        self.dataset, self.darkness, self.calls = dataset, darkness, 0
        folders = ((getattr(dataset, "data", None) or {}).get("path"), os.path.commonpath(dataset.im_files))
        self.roots = [Path(folder).resolve() for folder in folders if folder]

    def __call__(self, i: int, *args: Any, **kwargs: Any) -> tuple[np.ndarray, Any, Any]:
        """Load picture `i`: uint8 (H, W, 3) BGR or (H, W, 1), its original and its resized (H, W)."""
        self.calls += 1
        bright, original, resized = type(self.dataset).load_image(self.dataset, i, *args, **kwargs)
        camera, seed, p = self.darkness
        if self.dataset.augment and p < 1 and random.random() >= p:
            return self.view(bright, None), original, resized
        rng: Any = random if self.dataset.augment else picture_rng(seed, self.key(i))
        return self.view(bright, camera.draw(rng)), original, resized

    def view(self, bright: np.ndarray, shot: Shot | None) -> np.ndarray:
        """Return what the data set is given of a picture (H, W, C): as the shot makes it, or as it is without one."""
        return bright if shot is None else capture(bright, shot)

    def key(self, i: int) -> str:
        """Path of picture `i`, with /, within the data set's folder; else within the one that holds all pictures."""
        file = Path(self.dataset.im_files[i]).resolve()
        root = next((root for root in self.roots if root in file.parents), file.parent)
        return file.relative_to(root).as_posix()


def attach(dataset: Any, hyp: Any) -> None:
    """Give a data set that was just built the darkness that the arguments `hyp` ask for, and say so.

    Raises: ValueError: its pictures are dark already, or have more channels than a camera.
    """
    from ultralytics.utils import LOGGER

    request = getattr(hyp, "lowlight", None)
    if done := darkened_by(getattr(dataset, "data", None) or {}):
        LOGGER.info(f"{dataset.prefix}low light: the pictures are dark already ({done})")
    if not request:
        return
    if done:
        raise ValueError(
            f"lowlight={request}, but the pictures of this data set are dark already ({done}); leave it out"
        )
    if request == AUGMENTATIONS:
        if dataset.augment and dataset.channels != 3:
            raise ValueError(
                f"the LowLight in augmentations= darkens colour pictures, and this data set has {dataset.channels} "
                "channels, which releases of Ultralytics keep away from Albumentations"
                + ("; give lowlight=PRESET instead" if dataset.channels == 1 else "; its pictures cannot be darkened")
            )
        return
    if dataset.channels not in (1, 3):
        raise ValueError(
            f"lowlight= simulates a grey or a colour camera, and this data set has {dataset.channels} channels; train "
            "on it without lowlight="
        )
    darkness = read_request(request)
    dataset.load_image = DarkLoader(dataset, darkness)
    when = "anew each time" if dataset.augment else f"always the same way (seed {darkness.seed})"
    if dataset.augment and darkness.p < 1:
        when += f" with probability {darkness.p:g}, else left bright"
    LOGGER.info(f"{dataset.prefix}low light ({request}): {dataset.ni} pictures darkened {when}: {darkness.camera}")


def darkened_by(data: dict[str, Any]) -> str:
    """Say in a few words why the pictures of a data set are dark already; "" if nothing says that they are.

    Raises: ValueError: its YAML asks for a darkening, which is for the command line to do.
    """
    entry = data.get("lowlight")
    if entry is True or entry in [*PRESETS, *ALIASES]:
        raise ValueError(
            f"'lowlight: {entry}' in a data YAML says that its pictures are dark already; to darken them while they "
            f"are loaded take it out, and give lowlight={entry} to yolo train and val"
        )
    if not entry and data.get("path"):
        entry = header_of(Path(data["path"]) / MANIFEST)
    if entry and isinstance(entry, dict):
        return "by yolo-wnlb darken: " + ", ".join(f"{key} {entry[key]}" for key in ("preset", "seed") if key in entry)
    return str(entry or "")


# ---- is it really there? -------------------------------------------------------------------------


def check_pipeline(trainer: Any) -> None:
    """Refuse to train unless the darkness that was asked for is in the pipeline that was built.

    Raises: RuntimeError: it is not.
    """
    from ultralytics.utils import LOGGER

    args = trainer.args
    request = getattr(args, "lowlight", None)
    if any(map(holds_lowlight, getattr(args, "augmentations", None) or ())):
        request = request or AUGMENTATIONS  # given on resume only
    if not request:
        return
    if request == AUGMENTATIONS:
        for built in parts_of(trainer.train_loader.dataset):
            steps = getattr(getattr(built, "transforms", None), "transforms", ())
            if not any(holds_lowlight(getattr(step, "transform", None)) for step in steps):
                raise RuntimeError(
                    f"lowlight={request} was asked for, but the transforms of {type(built).__name__} hold no LowLight: "
                    "is albumentations installed, and did it log an error above? (pip install albumentations)"
                )
        LOGGER.warning("low light: LowLight in augmentations= darkens training, validation pictures stay as they are")
    else:
        for loader in (trainer.train_loader, getattr(trainer, "test_loader", None)):
            if loader is not None:
                check_dataset(loader.dataset, request)
    is_colour = int((trainer.data or {}).get("channels") or 3) == 3  # Ultralytics jitters colour pictures alone
    if is_colour and (gain := getattr(args, "hsv_v", 0)):
        LOGGER.info(f"low light: hsv_v={gain} then changes their brightness by up to {gain:.0%}; hsv_v=0 keeps it")


def check_validation(validator: Any) -> None:
    """Refuse to validate unless the darkness that was asked for is there; warn if none was, of a model trained in it.

    Raises: RuntimeError: it is not there.
    """
    from ultralytics.utils import LOGGER

    request, trained = getattr(validator.args, "lowlight", None), getattr(validator, "trained_in", None)
    if request and request != AUGMENTATIONS:
        check_dataset(validator.dataloader.dataset, request)
    elif trained and not darkened_by(validator.data or {}):
        preset = "PRESET" if trained == AUGMENTATIONS else trained
        again = shlex.quote(f"lowlight={preset}")
        LOGGER.warning(
            f"low light: this model was trained with lowlight={trained}, and these pictures are as they are; to "
            f"validate in the dark give {again}"
        )


def is_same(requested: Any, began: Any) -> bool:
    """Tell whether two values of lowlight= ask for the same."""
    return AUGMENTATIONS not in (requested, began) and read_request(requested) == read_request(began)


def check_resumed(name: str, requested: Any, resumed: Any, is_same: Callable[[Any, Any], bool] = operator.eq) -> None:
    """Refuse to resume a run with another value of an argument of ours than it began with.

    Args:
        name: The argument.
        requested: What is given now; None for nothing.
        resumed: What the run recorded; None for nothing.
        is_same: Tells whether two values ask for the same, for a run may record more than it was given.
    Raises: ValueError: Ultralytics would go on as before, and say so in passing or not at all.
    """
    if requested in (None, resumed or False) or (requested and resumed and is_same(requested, resumed)):
        return
    raise ValueError(
        f"{name}={requested} cannot be given on resume: the run began with {name}={resumed}, and goes on so; leave "
        "it out, or start a new run"
    )


def check_dataset(dataset: Any, request: Any) -> None:
    """Load one picture, and see whether it went through the darkness.

    Raises: RuntimeError: it did not.
    """
    state = random.getstate()
    for built in parts_of(dataset):
        loader = getattr(built, "load_image", None)
        calls = getattr(loader, "calls", 0)
        if isinstance(loader, DarkLoader):
            built.get_image_and_label(0)
        if getattr(loader, "calls", 0) == calls:
            raise RuntimeError(
                f"lowlight={request} was asked for, but {type(built).__name__} would give bright pictures: it does not "
                "load them as Ultralytics' own data sets do; darken them with 'yolo-wnlb darken'"
            )
    random.setstate(state)


def parts_of(dataset: Any) -> Iterator[Any]:
    """Yield the data sets that one consists of."""
    inner = getattr(dataset, "datasets", None)
    for part in inner or ():
        yield from parts_of(part)
    if not inner:
        yield dataset
