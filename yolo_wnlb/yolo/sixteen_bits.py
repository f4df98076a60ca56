"""Pictures of 10 to 16 bits and RAW files in Ultralytics: one tone curve from training to deployment.

`patches` wraps the one function `imread` of Ultralytics: a file with more than 8 bits a channel is read through a curve
(`imaging.curve`), any other by the stock function. Which curve that is travels in three places:

    curve=CURVE              an argument of train, val, predict and track like any other
    model.curve              in the checkpoint: the curve it was trained with; for export, in the metadata of the file
    dataset.cv2_flag         the flags that a data set or a source gives to imread: an `int` that carries the curve, so
                             that it reaches threads and worker processes, started in any way, with each single call

An argument goes before what the model has recorded, and that before the default, `auto`.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
from PIL import Image

from yolo_wnlb.imaging.curve import CURVES, HIGH_BYTE, Curve, as_settings, develop, in_grey, read_curve
from yolo_wnlb.imaging.deep import (
    RAW_SUFFIXES,
    first_deep,
    is_deep,
    read_deep,
    size_of_raw,
    without_raw_twins,
    without_unread_raw,
)
from yolo_wnlb.yolo.night import detector_in

COLOUR = cv2.IMREAD_COLOR  # the flags of a call that gives none
KEY = "curve"  # the argument, the attribute of a model, and the entry in the metadata of an export
DEEP_MODES = ("I", "I;16", "I;16B", "I;16L")  # of Pillow, for grey pictures of 16 bits


class Flags(int):
    """Flags for imread that carry the curve of a data set or a source.

    Attributes:
        curve: That pictures of more than 8 bits are read through.
        is_strict: One that cannot be decoded is an error. False: the stock function gets it.
    """

    curve: Curve
    is_strict: bool

    def __new__(cls, flags: int, curve: Curve, is_strict: bool = True) -> Flags:
        """Make flags with a curve."""
        made = super().__new__(cls, flags)
        made.curve, made.is_strict = curve, is_strict
        return made

    def __getnewargs__(self) -> tuple[int, Curve, bool]:  # type: ignore[override]
        """Return what an unpickled copy is made of."""
        return int(self), self.curve, self.is_strict


def read(file: Any, flags: int) -> np.ndarray | None:
    """Read a picture of more than 8 bits for Ultralytics: uint8 (H, W, C); None if that is for the stock function.

    Raises: ValueError: the file is broken; names it. ImportError: it is RAW, and rawpy is not installed.
    """
    if flags not in (cv2.IMREAD_GRAYSCALE, cv2.IMREAD_COLOR, cv2.IMREAD_UNCHANGED):
        return None  # somebody asks for something special, such as IMREAD_ANYDEPTH
    curve = getattr(flags, "curve", CURVES["auto"])
    picture = read_deep(str(file), int(flags), curve)
    return picture[..., None] if picture is not None and picture.ndim == 2 else picture


def read_or_warn(file: Any, flags: int) -> np.ndarray | None:
    """Read as `read` does; a file that cannot be decoded is for the stock function, with a warning.

    Raises: ValueError: it cannot be decoded, and the flags are strict. ImportError: see `read`.
    """
    try:
        return read(file, flags)
    except ValueError as error:
        if getattr(flags, "is_strict", False):
            raise
        warn_once(str(error))
        return None


@lru_cache(1024)
def warn_once(error: str) -> None:
    """Say why a picture is read as Ultralytics reads it, once in each process."""
    from ultralytics.utils import LOGGER

    LOGGER.warning(f"{error} It is read without a curve, as Ultralytics does.")


# ---- which curve ---------------------------------------------------------------------------------


def is_same(requested: Any, began: Any) -> bool:
    """Tell whether two values of curve= ask for the same."""
    return read_curve(requested) == read_curve(began)


def check_request(cfg: dict[str, Any]) -> None:
    """Check curve= among the arguments of a run, in place; the content of a file takes the place of its name.

    Raises: ValueError, FileNotFoundError: it is no curve, or would have no effect.
    """
    if cfg.get(KEY) is None or cfg[KEY] is False:
        cfg.pop(KEY, None)
        return
    curve = read_curve(cfg[KEY])
    if cfg.get("mode") in ("export", "benchmark"):
        raise ValueError(f"curve= is for train, val, predict and track; {cfg['mode']} keeps the curve of the model")
    if cfg.get("task") == "classify" and cfg.get("mode") in ("train", "val") and curve != CURVES["auto"]:
        raise ValueError(
            "the pictures of a classification are read with curve=auto in train and val; leave curve= out, or write "
            "pictures of 8 bits with 'yolo-wnlb enhance SOURCE with=gamma:1 curve=...'"
        )
    if not (isinstance(cfg[KEY], str) and cfg[KEY] in CURVES):
        cfg[KEY] = as_settings(curve)


def recorded(owner: Any) -> Curve | None:
    """Return the curve that a model was trained with, of a checkpoint or of an export; None if it says nothing of it.

    Args:
        owner: A model, or a `YOLO` or an `AutoBackend` that holds one.
    Raises: ValueError: what it says is damaged.
    """
    model = detector_in(owner)
    metadata = getattr(owner, "metadata", None)
    found = vars(model).get(KEY) if model is not None else metadata.get(KEY) if isinstance(metadata, dict) else None
    if found is None:
        return None
    try:
        return read_curve(ast.literal_eval(found) if isinstance(found, str) and found not in CURVES else found)
    except (ValueError, SyntaxError) as error:
        raise ValueError(f"the tone curve that the model has recorded is damaged ({error}); give curve=") from error


def curve_of(args: Any, owner: Any = None) -> Curve:
    """Return the curve of a run: that of its arguments, else that of the model, else the default."""
    asked = getattr(args, KEY, None)
    if asked is not None:
        return read_curve(asked)
    return recorded(owner) or CURVES["auto"]


def inherit(args: Any, model: Any) -> None:
    """Let a training without curve= read as the weights that it starts from were trained."""
    curve = recorded(model)
    if curve not in (None, CURVES["auto"]):
        args.curve = as_settings(curve)


def curve_of_training(args: Any) -> Curve:
    """Return the curve that a training with these arguments reads with, for its checkpoint."""
    from ultralytics.data.dataset import ClassificationDataset

    if args.task == "classify" and not hasattr(ClassificationDataset, "imread"):
        return CURVES[HIGH_BYTE]  # these releases read class folders by cv2.imread
    return curve_of(args)


# ---- data sets -----------------------------------------------------------------------------------


def flags_of(dataset: Any) -> Flags:
    """Return the flags that a data set reads with, and its curve with them."""
    if "cv2_flag" not in vars(dataset):
        raise AttributeError(f"{type(dataset).__name__} has no flags for imread yet")
    return Flags(vars(dataset)["cv2_flag"], vars(dataset).get("curve", CURVES["auto"]), is_strict=False)


def set_flags(dataset: Any, flags: int) -> None:
    """Keep the flags that a data set reads with."""
    vars(dataset)["cv2_flag"] = flags


FLAGS_WITH_CURVE = property(flags_of, set_flags)  # takes the place of the attribute `cv2_flag`


def cache_name(image: str | Path, curve: Curve) -> Path:
    """Return where a data set with `cache=disk` keeps a decoded picture of more than 8 bits: a file for each curve."""
    digest = hashlib.sha256(json.dumps(as_settings(curve), sort_keys=True).encode()).hexdigest()[:8]
    return Path(image).with_suffix(f".curve-{digest}.npy")


def name_cache(dataset: Any, i: int) -> None:
    """Let the decoded copy of picture `i` bear the name of its curve if it has more than 8 bits.

    The stock name, `x.npy`, says nothing of how a picture was decoded, and Ultralytics reads such a file wherever it
    finds one.
    """
    file = dataset.im_files[i]
    if dataset.npy_files[i].name == f"{Path(file).stem}.npy" and is_deep(file):
        dataset.npy_files[i] = cache_name(file, dataset.curve)


def cache_to_disk(stock: Callable[..., Any], dataset: Any, i: int) -> None:
    """Store the decoded copy of picture `i`, which older releases decode without the flags of the data set."""
    from ultralytics.utils.patches import imread

    name_cache(dataset, i)
    copy, file = dataset.npy_files[i], Path(dataset.im_files[i])
    if copy.name == f"{file.stem}.npy":
        stock(dataset, i)
    elif not copy.exists() or copy.stat().st_mtime < file.stat().st_mtime:
        picture = imread(str(file), dataset.cv2_flag)
        if picture is not None:  # else loading it will say what is wrong
            np.save(copy, picture, allow_pickle=False)


def announce(files: Sequence[Any], curve: Curve, prefix: str = "") -> None:
    """Log one line about how pictures of more than 8 bits are read, if there are any."""
    from ultralytics.utils import LOGGER

    if file := first_deep(files):
        LOGGER.info(f"{prefix}more than 8 bits ({Path(file).name}): {curve}; curve=high-byte reads as Ultralytics does")


def name_caches_of_classes(dataset: Any) -> None:
    """The same for a data set for classification: its samples are lists of file, class, decoded copy and picture."""
    for sample in dataset.samples if dataset.cache_disk and hasattr(type(dataset), "imread") else ():
        if is_deep(sample[0]):
            sample[2] = cache_name(sample[0], CURVES["auto"])


def without_idle_raw(files: Sequence[str], prefix: str = "") -> list[str]:
    """Leave out RAW files beside a finished picture, and without rawpy all that Ultralytics knows no suffix of.

    A line in the log says how many. Files of RAW alone are kept, so that who reads them says what is missing.
    """
    from ultralytics.utils import LOGGER

    files, twins = without_raw_twins(files)
    if twins:
        LOGGER.info(
            f"{prefix}{len(twins)} RAW files lie beside a finished picture of the same name, which is taken in their "
            f"place (first: {twins[0]})"
        )
    files, unread = without_unread_raw(files)
    if unread:
        LOGGER.warning(
            f"{prefix}{len(unread)} RAW files are left out, as rawpy is not installed (first: {unread[0]}): pip "
            "install rawpy"
        )
    return files


def leave_out_idle_raw(source: Any) -> None:
    """The same for the files of a source of predictions, and for what it has counted."""
    flags = getattr(source, "video_flag", None)
    if flags is None or not hasattr(source, "files"):
        return
    kept = {*without_idle_raw(source.files)}
    pairs = [(file, is_video) for file, is_video in zip(source.files, flags) if file in kept]
    source.files, source.video_flag = [file for file, _ in pairs], [is_video for _, is_video in pairs]
    source.nf, source.ni = len(pairs), source.video_flag.count(False)
    source.mode = source.mode if source.ni else "video"


class RawHeader:
    """What Ultralytics asks Pillow about a picture that it checks, answered for a RAW file by LibRaw."""

    def __init__(self, file: str | Path) -> None:
        self.filename = str(file)
        self.format = Path(file).suffix[1:].upper()
        self.size = size_of_raw(file)

    def verify(self) -> None:
        """Do nothing: a file that LibRaw opens is sound as far as its header says."""

    def getexif(self) -> dict[int, Any]:
        """Return no entries: the size is that of the upright picture."""
        return {}

    def __enter__(self) -> RawHeader:
        return self

    def __exit__(self, *error: object) -> None:
        """Do nothing: the file is closed."""


class PillowWithRaw:
    """Stands in for the module `PIL.Image` where Ultralytics checks the pictures of a data set."""

    def __init__(self, pillow: ModuleType) -> None:
        self.pillow = pillow

    def __getattr__(self, name: str) -> Any:
        return getattr(self.pillow, name)

    def open(self, file: Any, *args: Any, **kwargs: Any) -> Any:
        """Open the header of a picture."""
        if isinstance(file, (str, Path)) and Path(file).suffix.lower() in RAW_SUFFIXES:
            return RawHeader(file)
        return self.pillow.open(file, *args, **kwargs)


# ---- sources of predictions that are no files for imread ------------------------------------------


def developed(source: Any, curve: Curve, channels: int = 3) -> Any:
    """Bring what is given to predict as arrays, Pillow pictures or a list of files through the curve.

    Arrays of uint16 become uint8, Pillow pictures of 16 bits and files with more than 8 become Pillow pictures of 8,
    for a model of one channel in grey. Everything else is returned as it is.
    """
    if isinstance(source, (list, tuple)):
        return type(source)(
            developed_file(each, curve, channels) if is_path(each) else developed(each, curve, channels)
            for each in source
        )
    if isinstance(source, np.ndarray):
        return developed_array(source, curve, channels) if source.dtype == np.uint16 and source.size else source
    if isinstance(source, Image.Image) and source.mode in DEEP_MODES:
        codes = np.asarray(source)
        if codes.size and codes.min() >= 0 and (source.mode != "I" or 255 < codes.max() <= 65535):
            return as_pillow(develop(codes.astype(np.uint16), curve)[0], getattr(source, "filename", ""))
    return source


def is_path(source: Any) -> bool:
    """Tell whether a source is given by its path."""
    return isinstance(source, (str, Path))


def developed_array(codes: np.ndarray, curve: Curve, channels: int) -> np.ndarray:
    """Return uint16 codes as uint8; alpha goes, and a model of one channel gets grey, before anything is measured."""
    if codes.ndim == 3 and codes.shape[2] in (2, 4) and channels in (1, 3):
        codes = np.ascontiguousarray(codes[..., :-1])
    if codes.ndim == 3 and codes.shape[2] == 3 and channels == 1:
        codes = in_grey(np.ascontiguousarray(codes), curve)
    return develop(codes, curve)[0]


def developed_file(file: str | Path, curve: Curve, channels: int = 3) -> Any:
    """Return a file with more than 8 bits as a Pillow picture of 8, and any other as it was named."""
    flags = cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR
    picture = read_or_warn(str(file), Flags(flags, curve, is_strict=False))
    if picture is None:
        return file
    shown = picture[..., 0] if picture.shape[2] == 1 else cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
    return as_pillow(shown, str(file))


def as_pillow(picture: np.ndarray, name: str) -> Image.Image:
    """Return uint8 (H, W) or RGB (H, W, 3) as a Pillow picture that knows its file, which results are named after."""
    made = Image.fromarray(picture)
    made.filename = name  # type: ignore[attr-defined]
    return made
