"""Enhancers of others: their networks, run here, or the pictures that their programs have made."""

from __future__ import annotations

import hashlib
import importlib
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from yolo_wnlb.data.sources import list_images
from yolo_wnlb.reading import sha256_of
from yolo_wnlb.twins.pictures import decode_rgb, to_codes
from yolo_wnlb.twins.specs import Enhancer, Work, spec_of

Outputs = dict[str, np.ndarray]
Network = Callable[[np.ndarray], Outputs]  # float32 (1, 3, H, W) -> all it returns, by name


def through(network: Network, options: dict[str, str], what: str) -> Work:
    """Show pictures to a network as its options say."""
    number = r"(-?\d+(?:\.\d+)?)"
    spans = re.fullmatch(f"{number}-{number}(?:/{number}-{number})?", options.get("range", "0-1"))
    low, high, out_low, out_high = (float(v) if v else math.nan for v in spans.groups()) if spans else [math.nan] * 4
    out_low, out_high = (low, high) if math.isnan(out_low) else (out_low, out_high)
    if not (low < high and out_low < out_high):
        raise ValueError(f"range is {options['range']!r}; wanted low-high: 0-1, 0-255, -1-1, or input/output 0-1/-1-1")
    if not re.fullmatch("[1-9][0-9]*", options.get("pad", "1")):
        raise ValueError(f"pad is {options['pad']!r}; wanted what sides have to be a multiple of: pad=12")
    pad, output = int(options.get("pad", 1)), options.get("output")

    def work(image: np.ndarray, name: str) -> np.ndarray:
        height, width = image.shape[:2]
        filled = cv2.copyMakeBorder(image, 0, -height % pad, 0, -width % pad, cv2.BORDER_REPLICATE)
        x = filled.astype(np.float32) * np.float32((high - low) / 255) + np.float32(low)
        x = np.ascontiguousarray(x.transpose(2, 0, 1)[None])  # (1, 3, H, W)
        try:
            outputs = network(x)
        except Exception as error:  # runtimes have their own
            raise ValueError(
                f"{what} fails on {x.shape[3]} x {x.shape[2]} pixels: {str(error).strip()}\n"
                "Export it for any height and width, and say what sides have to be a multiple of: pad=12"
            ) from error
        wanted = output or next(iter(outputs), "")
        if wanted not in outputs or (not output and len(outputs) > 1):
            found = f"no output {output!r}" if output else f"{len(outputs)} outputs"
            raise ValueError(f"{what} has {found}; give output= and one of {', '.join(outputs)}")
        y = outputs[wanted]
        if not isinstance(y, np.ndarray) or y.dtype.kind not in "fiu":
            raise ValueError(f"{what}: output {wanted} holds no numbers but {getattr(y, 'dtype', type(y).__name__)}")
        if y.shape != x.shape:
            raise ValueError(f"{what}: output {wanted} is {y.shape}; wanted {x.shape} as the input: RGB of that size")
        if not np.isfinite(y).all():
            raise ValueError(f"{what}: output {wanted} is not finite; is range={options.get('range', '0-1')} right?")
        return to_codes(y[0].transpose(1, 2, 0)[:height, :width], (out_low, out_high))

    return work


def from_onnx(argument: str, options: dict[str, str]) -> Enhancer:
    """Run an ONNX file by onnxruntime, or without it by OpenCV."""
    file = existing(argument, "onnx:FILE")
    try:
        network = by_onnxruntime(file)
    except ImportError:
        try:
            network = by_opencv(file)
        except cv2.error as error:
            raise ValueError(f"OpenCV cannot load {argument}: {error}; try with onnxruntime installed") from error
    weights = [file, *file.parent.glob(f"{file.name}.data")]  # where torch puts large ones
    return Enhancer(spec_of("onnx", file.name, options), sha256_of(*weights), through(network, options, argument))


def by_onnxruntime(file: Path) -> Network:
    """Open a model of one picture by onnxruntime, on a GPU if it has one."""
    import onnxruntime

    available = onnxruntime.get_available_providers()
    try:
        providers = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in available]
        session = onnxruntime.InferenceSession(str(file), providers=providers)
    except Exception as error:  # its own kinds
        raise ValueError(f"{file} cannot be loaded as ONNX: {error}") from error
    inputs = [f"{i.name} {i.type} {i.shape}" for i in session.get_inputs()]
    if len(inputs) != 1 or session.get_inputs()[0].type != "tensor(float)":
        raise ValueError(f"{file} takes {' and '.join(inputs)}; wanted one float picture (1, 3, H, W): export it so")
    name, names = session.get_inputs()[0].name, [output.name for output in session.get_outputs()]
    return lambda x: dict(zip(names, session.run(names, {name: x})))


def by_opencv(file: Path) -> Network:
    """Open a model of one picture by OpenCV."""
    network = cv2.dnn.readNetFromONNX(str(file))
    names = network.getUnconnectedOutLayersNames()

    def run(x: np.ndarray) -> Outputs:
        network.setInput(x)
        return dict(zip(names, network.forward(names)))

    return run


def from_module(argument: str, options: dict[str, str]) -> Enhancer:
    """Run an nn.Module of the user's own code."""
    import torch

    place, _, factory = argument.partition(":")
    current = str(Path.cwd())
    sys.path.insert(0, current)  # the command starts elsewhere
    try:
        module = importlib.import_module(place)
        if not callable(make := getattr(module, factory, None)):
            raise ValueError(f"{place} has no function {factory!r}; wanted torch:MODULE:FACTORY")
        network = make()
    except ImportError as error:
        raise ImportError(f"torch:{argument}: {error}; run where {place}.py lies, or install it") from error
    except (ValueError, OSError):
        raise
    except Exception as error:  # whatever the user's code does
        raise ValueError(f"torch:{argument} fails: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(current)
    if not isinstance(network, torch.nn.Module):
        raise ValueError(f"torch:{argument} returned {type(network).__name__}; wanted an nn.Module")
    weights = hashlib.sha256(Path(module.__file__).read_bytes() if module.__file__ else b"")
    for name, tensor in network.state_dict().items():
        weights.update(name.encode())
        weights.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return Enhancer(
        spec_of("torch", argument, options), weights.hexdigest(), through(by_torch(network), options, argument)
    )


def from_torchscript(argument: str, options: dict[str, str]) -> Enhancer:
    """Run a TorchScript file."""
    import torch

    file = existing(argument, "torchscript:FILE")
    try:
        network = torch.jit.load(file, map_location="cpu")
    except RuntimeError as error:
        raise ValueError(
            f"{argument} is no TorchScript file; weights alone need their network: torch:MODULE:FACTORY ({error})"
        ) from error
    return Enhancer(
        spec_of("torchscript", file.name, options), sha256_of(file), through(by_torch(network), options, argument)
    )


def by_torch(network: Any) -> Network:
    """Run a module on a GPU if there is one."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = network.eval().to(device)

    def run(x: np.ndarray) -> Outputs:
        with torch.inference_mode():
            found = network(torch.from_numpy(x).to(device))
        if isinstance(found, torch.Tensor):
            found = [found]
        pairs = found.items() if isinstance(found, dict) else enumerate(found)
        return {str(name): y.float().cpu().numpy() for name, y in pairs if isinstance(y, torch.Tensor)}

    return run


def existing(argument: str, form: str) -> Path:
    """Return the path of a model file that is there."""
    if not Path(argument).is_file():
        raise FileNotFoundError(f"there is no file {argument}; give the model as {form}")
    return Path(argument)


# ---- enhanced before -----------------------------------------------------------------------------


def from_folder(argument: str, options: dict[str, str]) -> Enhancer:
    """Take pictures that another program enhanced."""
    from ultralytics.data.utils import IMG_FORMATS

    folder = Path(argument)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {argument}; give that of the enhanced pictures: dir:FOLDER")
    files: dict[str, list[Path]] = {}
    listing = hashlib.sha256()
    for file in map(Path, list_images(folder, IMG_FORMATS)):
        files.setdefault(file.stem, []).append(file)
        listing.update(f"{file.relative_to(folder).as_posix()} {sha256_of(file)}\n".encode(errors="surrogateescape"))
    if not files:
        raise FileNotFoundError(f"{argument} holds no pictures ({', '.join(sorted(IMG_FORMATS))})")

    def work(image: np.ndarray, name: str) -> np.ndarray:
        found = files.get(Path(name).stem, [])
        if len(found) > 1:
            found = [file for file in found if file.parent.name == Path(name).parent.name] or found
        if len(found) != 1:
            many = f"has {len(found)} pictures ({', '.join(map(str, found[:2]))})" if found else "has no picture"
            raise FileNotFoundError(f"{argument} {many} for {name!r}; wanted one of that name, any suffix")
        return decode_rgb(found[0].read_bytes(), str(found[0]))[0]

    return Enhancer(spec_of("dir", folder.resolve().name, options), listing.hexdigest(), work)
