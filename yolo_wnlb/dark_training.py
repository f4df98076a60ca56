"""Darkness in Ultralytics training and validation: `lowlight=severe`, and the checks around it.

Three ways lead to dark pictures:

    lowlight=severe                    each source picture is darkened when the data set loads it, before
                                       mosaic and padding: in training anew each time, in validation always
                                       the same way (`patches` hands the data set to `attach`)
    augmentations=[LowLight(...)]      Albumentations, after mosaic, in training only
    data=dark/data.yaml                a data set that `yolo-wnlb darken` wrote

None may fail silently. The request travels as the argument `lowlight` with all others, into
checkpoints and DDP workers: a process without this package refuses it as unknown, instead of
training on bright pictures. For the second way `check_request` writes `lowlight=augmentations`.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np

from yolo_wnlb.lowlight import Settings, picture_rng, settings, take

AUGMENTATIONS = "augmentations"  # the value of lowlight= that says: darkened by a LowLight in augmentations=
LOWLIGHT = "yolo_wnlb.transforms.LowLight"


def read_request(value: Any) -> tuple[Settings, int]:
    """Split what stands behind lowlight= into settings and the seed of validation.

    Args:
        value: A preset's name, True for the default one, or a dict of settings that may hold
            "preset" and "seed" (an integer, default 0).
    Raises: ValueError: something in it is unknown or out of bounds.
    """
    if not isinstance(value, (str, bool, dict)):
        raise ValueError(
            f"lowlight is {value!r}; wanted a preset such as severe, True, or settings {{'preset': 'severe', 'ev': -3}}"
        )
    changes = dict(value) if isinstance(value, dict) else {"preset": value}
    seed = changes.pop("seed", 0)
    if type(seed) is not int:
        raise ValueError(f"the seed in lowlight is {seed!r}; wanted an integer")
    return settings(changes), seed


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
        if cfg.get("task") == "classify":
            raise ValueError(
                "lowlight= does not reach pictures for classification; darken them with 'yolo-wnlb darken'"
            )
        if cfg.get("mode") in ("predict", "track"):
            raise ValueError(
                f"lowlight= darkens data sets in train and val, not what is given to {cfg['mode']}; "
                "darken those pictures with 'yolo-wnlb darken'"
            )
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

    def __init__(self, dataset: Any, settings: Settings, seed: int) -> None:
        self.dataset, self.settings, self.seed = dataset, settings, seed
        root = (getattr(dataset, "data", None) or {}).get("path")
        self.root = Path(root).resolve() if root else None

    def __call__(self, i: int, *args: Any, **kwargs: Any) -> tuple[np.ndarray, Any, Any]:
        """Load picture `i`: uint8 (H, W, 3) BGR or (H, W, 1), its original and its resized (H, W)."""
        image, original, resized = type(self.dataset).load_image(self.dataset, i, *args, **kwargs)
        rng: Any = random if self.dataset.augment else picture_rng(self.seed, self.key(i))
        return take(image, self.settings.draw(rng)), original, resized

    def key(self, i: int) -> str:
        """Path of picture `i` within the data set, with /; its name where it lies elsewhere."""
        file = Path(self.dataset.im_files[i]).resolve()
        return file.relative_to(self.root).as_posix() if self.root and file.is_relative_to(self.root) else file.name


def attach(dataset: Any, hyp: Any) -> None:
    """Give a data set that was just built the darkness that the arguments `hyp` ask for, and say so.

    Raises: ValueError: its pictures are dark already, or have more channels than a camera.
    """
    from ultralytics.utils import LOGGER

    request = getattr(hyp, "lowlight", None)
    done = (getattr(dataset, "data", None) or {}).get("lowlight")
    if done:
        LOGGER.info(f"{dataset.prefix}low light: the pictures were darkened before ({brief(done)})")
    if not request:
        return
    if done:
        raise ValueError(
            f"lowlight={request}, but this data set was darkened before ({brief(done)}); leave lowlight= out"
        )
    if request == AUGMENTATIONS:
        return
    if dataset.channels not in (1, 3):
        raise ValueError(f"lowlight= knows grey and colour pictures, this data set has {dataset.channels} channels")
    asked, seed = read_request(request)
    dataset.load_image = DarkLoader(dataset, asked, seed)
    when = "anew each time" if dataset.augment else f"always the same way (seed {seed})"
    LOGGER.info(f"{dataset.prefix}low light ({request}): {dataset.ni} pictures darkened {when}: {asked}")


def brief(done: Any) -> str:
    """Say in a few words how a data set was darkened."""
    if not isinstance(done, dict):
        return str(done)
    return (
        ", ".join(f"{name} {done[name]}" for name in ("preset", "seed") if name in done) or "settings in its data.yaml"
    )


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
    loaders = {name: getattr(trainer, f"{name}_loader", None) for name in ("train", "test")}
    for name, loader in loaders.items():
        if loader is None or (request == AUGMENTATIONS and name == "test"):
            continue
        built = loader.dataset
        if request == AUGMENTATIONS:
            steps = getattr(getattr(built, "transforms", None), "transforms", ())
            dark = any(holds_lowlight(getattr(step, "transform", None)) for step in steps)
            mend = "is albumentations installed, and did it log an error above? (pip install 'yolo-wnlb[lowlight]')"
        else:
            dark = isinstance(getattr(built, "load_image", None), DarkLoader)
            mend = "its data set does not load pictures as Ultralytics' own do; darken them with 'yolo-wnlb darken'"
        if not dark:
            raise RuntimeError(
                f"lowlight={request} was asked for, but the {type(built).__name__} of {name} would give bright "
                f"pictures: {mend}"
            )
    if request == AUGMENTATIONS:
        LOGGER.warning(
            "low light: LowLight in augmentations= darkens training only, validation pictures stay as they are"
        )
    if gain := getattr(args, "hsv_v", 0):
        LOGGER.info(
            f"low light: hsv_v={gain} then changes their brightness by up to {gain:.0%}; hsv_v=0 leaves it alone"
        )
