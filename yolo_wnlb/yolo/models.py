"""Load what Ultralytics trained or exported, and read pictures for it; every error names the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from ultralytics import YOLO
from ultralytics.data.augment import LetterBox
from ultralytics.data.utils import IMG_FORMATS
from ultralytics.nn.autobackend import AutoBackend
from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES
from ultralytics.utils.patches import imread

from yolo_wnlb.checkpoints import check_archive
from yolo_wnlb.imaging.curve import CURVES, Curve
from yolo_wnlb.yolo.channels import COLOUR, of_model
from yolo_wnlb.yolo.sixteen_bits import Flags
from yolo_wnlb.yolo.weights import unwrap

FLAGS = {1: cv2.IMREAD_GRAYSCALE, 3: cv2.IMREAD_COLOR}  # how Ultralytics reads pictures; of other channels as they are


def load_checkpoint(path: Path) -> YOLO:
    """Load a .pt model for detection or segmentation; Ultralytics fetches its own, such as yolov8m-seg.pt.

    Raises: OSError, ValueError: the file is missing, unreadable, or of another task.
    """
    if path.suffix != ".pt":
        raise ValueError(f"{path} is not a checkpoint; the first file has to be the .pt")
    if not path.is_file() and str(path) not in GITHUB_ASSETS_NAMES:
        raise FileNotFoundError(f"checkpoint {path} does not exist, or is a folder")
    check_archive(path)
    try:
        model = YOLO(path)
    except (ConnectionError, MemoryError):
        raise
    except Exception as error:
        raise ValueError(f"{path} is not a readable Ultralytics checkpoint: {error}") from error
    if model.task not in ("detect", "segment"):
        raise ValueError(f"{path} is a model for '{model.task}'; wanted one for detect or segment")
    model.model = unwrap(model.model)  # an interrupted distillation leaves its wrapper in last.pt
    return model


def load_export(path: Path) -> AutoBackend:
    """Load any format that Ultralytics exports, on the CPU.

    Raises: OSError, ValueError: the file is missing, unreadable, or hides its raw outputs.
    """
    if path.suffix == ".pt":
        raise ValueError(f"{path} is a checkpoint; the second file has to be its export, such as {path.stem}.onnx")
    if not path.exists():
        raise FileNotFoundError(f"exported model {path} does not exist; run 'yolo export' first")
    if path.is_file():
        check_archive(path)  # TorchScript is a zip archive too
    try:
        backend = AutoBackend(str(path), device=torch.device("cpu"), verbose=False)
    except MemoryError:
        raise
    except Exception as error:
        raise ValueError(f"{path} cannot be loaded; export it again. Cause: {error or type(error).__name__}") from error
    if not backend.metadata or not backend.metadata.get("task"):
        raise ValueError(f"{path} has no Ultralytics metadata; export it with 'yolo export'")
    if not has_sound_metadata(backend):
        raise ValueError(f"{path} has damaged metadata, {backend.metadata}; export it again")
    if backend.metadata.get("args", {}).get("nms"):
        raise ValueError(f"{path} was exported with nms=True, which hides its raw outputs; compare one without it")
    return backend


def has_sound_metadata(backend: AutoBackend) -> bool:
    """Tell whether the metadata of an export are of the types and ranges that are taken for granted afterwards."""
    metadata = backend.metadata
    try:
        height, width = map(int, backend.imgsz)
        counts = (height, width, int(backend.stride), int(metadata.get("channels", 3)), int(metadata.get("batch", 1)))
    except (TypeError, ValueError):
        return False
    return min(counts) > 0 and isinstance(backend.names, dict) and isinstance(metadata.get("args", {}), dict)


def channels_of(model: YOLO | AutoBackend) -> int:
    """Return how many channels the pictures of a model have: 1 for grey, 3 for colour, others for special cameras."""
    if isinstance(model, AutoBackend):
        return int(model.metadata.get("channels", COLOUR))
    return of_model(model.model)


def takes_any_size(backend: AutoBackend) -> bool:
    """Tell whether an export takes inputs of any size: by its metadata, and of ONNX by its inputs too."""
    dynamic = bool(backend.metadata.get("dynamic", getattr(backend, "dynamic", False)))
    session = getattr(backend, "session", None)  # of ONNX Runtime
    return dynamic and (session is None or not any(isinstance(side, int) for side in session.get_inputs()[0].shape[2:]))


def read_picture(file: str | Path, channels: int = 3, curve: Curve | None = None) -> np.ndarray:
    """Read a picture as Ultralytics does for a model of so many channels.

    Args:
        file: The picture.
        channels: Of the model.
        curve: Of pictures with more than 8 bits, such as the one that a model has recorded; None is the default.

    Returns: uint8 (H, W, channels), BGR if there are three. Grey models get every picture in grey, colour models
        every picture in colour; for others the file needs as many channels, or pages, as the model.
    Raises: OSError: the file is missing, unreadable or too large. ValueError: it has another number of channels.
    """
    if not Path(file).is_file():
        raise FileNotFoundError(f"there is no image {file}; leave it out, or correct its path")
    try:
        picture = imread(str(file), Flags(FLAGS.get(channels, cv2.IMREAD_UNCHANGED), curve or CURVES["auto"]))
    except (MemoryError, ImportError):
        raise
    except Exception as error:  # OpenCV and Pillow refuse too many pixels, each with errors of its own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OSError(f"{file} cannot be read as an image ({reason}); leave it out or mend it") from error
    if picture is None:
        raise OSError(f"{file} cannot be read as an image; leave it out or mend it")
    if picture.shape[2] != channels:
        raise ValueError(f"{file} has {picture.shape[2]} channels, and the model takes pictures of {channels}")
    return picture


def find_pictures(images: str | Path | Sequence[str | Path]) -> list[Path]:
    """Return the picture files of a folder (sorted by name; hidden files are left out), a file or a list of files.

    Raises: FileNotFoundError: one is not there, or there is none.
    """
    paths = [Path(images)] if isinstance(images, (str, Path)) else [Path(path) for path in images]
    if len(paths) == 1 and paths[0].is_dir():
        inside = sorted(paths[0].iterdir())
        paths = [p for p in inside if p.suffix[1:].lower() in IMG_FORMATS and p.name[0] != "." and p.is_file()]
    if not paths:
        raise FileNotFoundError(f"no pictures in {images}; wanted files ending in {', '.join(sorted(IMG_FORMATS))}")
    if missing := [path for path in paths if not path.is_file()]:
        reason = "is a folder; give folders one at a time" if missing[0].is_dir() else "does not exist"
        raise FileNotFoundError(f"picture {missing[0]} {reason}")
    return paths


def to_input(pictures: Sequence[np.ndarray], size: tuple[int, int]) -> Tensor:
    """Letterbox uint8 pictures (H, W, C) to float32 (B, C, *size) in [0, 1]; three channels from BGR to RGB."""
    box = LetterBox(size, auto=False)
    stack = torch.from_numpy(np.stack([box(image=picture) for picture in pictures])).permute(0, 3, 1, 2)
    return (stack.flip(1) if stack.shape[1] == 3 else stack).float().contiguous() / 255
