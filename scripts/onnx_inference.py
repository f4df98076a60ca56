"""Run an exported YOLO model with numpy, OpenCV and onnxruntime only, as on a device without torch.

    python onnx_inference.py best.onnx street.jpg night/ --conf 0.25 --out annotated

Detection and segmentation models, static or dynamic, with a classical head (boxes that still need
NMS) or an end-to-end one (YOLO26 exported with nms=False), for colour, grey or other pictures: the
model says how many channels it takes, and which tone curve pictures of more than 8 bits were trained
with (PNG and TIFF; RAW files if rawpy is installed). For float32, fp16 and int8 ONNX files written by
`yolo export format=onnx`, whose metadata hold the class names and the input size.

Results are PNG files below --out, in the folders that the pictures lie in, each with the whole name of
its picture: annotated/night/0001.jpg.png. The exit status is 0, 1 if a picture could not be
read or written, 2 if nothing was done because of a mistake on the command line.
"""

from __future__ import annotations

import argparse
import ast
import io
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime

MAX_DET = 300
RAW = (".arw", ".cr2", ".dng", ".nef")
PERCENTILES = {"low": 0.1, "high": 99.5}  # of a tone curve that names none
PNG_OR_TIFF = (b"\x89PNG", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PICTURES = (
    "bmp",
    "jpeg",
    "jpg",
    "png",
    "tif",
    "tiff",
    "webp",
    "arw",
    "cr2",
    "dng",
    "nef",
)  # what is taken from a folder


@dataclass
class Detections:
    """What was found in one picture (height, width), best first.

    Attributes:
        boxes: float32 (N, 4), x1 y1 x2 y2 in pixels of the picture.
        scores: float32 (N,), in [0, 1].
        classes: int (N,).
        masks: bool (N, height, width), or None for detection models.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    masks: np.ndarray | None


@dataclass
class Letterbox:
    """Where a picture lies in the input: its resized size and the grey border before it."""

    height: int
    width: int
    top: int
    left: int


class Model:
    """An ONNX model and what its metadata say.

    Attributes:
        names: {class: name}.
        size: (height, width) of the input that pictures are fitted into.
        channels: Of the pictures: 1 for grey, 3 for colour (BGR), others for special cameras.
        curve: That pictures of more than 8 bits were trained with, see `to_8_bits`.

    Raises:
        ValueError: the file holds no detection or segmentation model of Ultralytics.
    """

    def __init__(self, path: str | Path) -> None:
        if not Path(path).is_file():
            raise FileNotFoundError(f"model {path} does not exist")
        try:
            self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a type of its own for each way in which a file is broken
            raise ValueError(f"{path} is no ONNX model that can be loaded; export it again. Cause: {error}") from error
        metadata = self.session.get_modelmeta().custom_metadata_map
        if metadata.get("task") not in ("detect", "segment"):
            raise ValueError(
                f"{path} has task {metadata.get('task')!r} in its metadata, wanted 'detect' or "
                "'segment'; write it with `yolo export format=onnx`"
            )
        try:
            self.names: dict[int, str] = dict(ast.literal_eval(metadata["names"]))
            height, width = map(int, ast.literal_eval(metadata["imgsz"]))
            if min(height, width) < 1:
                raise ValueError(f"imgsz is {height}, {width}")
            args = dict(ast.literal_eval(metadata.get("args", "{}")))
            self.curve: dict[str, Any] = dict(ast.literal_eval(metadata.get("curve", "{}")))
        except (KeyError, SyntaxError, TypeError, ValueError) as error:
            raise ValueError(f"{path} has damaged metadata ({error}); export it again") from error
        self.size = height, width
        self.end2end = metadata.get("end2end") == "True" or bool(args.get("nms"))
        node = self.session.get_inputs()[0]
        self.input, self.dtype = node.name, np.float16 if "16" in node.type else np.float32
        self.batch = node.shape[0] if isinstance(node.shape[0], int) else 1
        self.channels: int = node.shape[1]

    def __call__(self, picture: np.ndarray, conf: float = 0.25, iou: float = 0.7) -> Detections:
        """Find objects in a picture, uint8 (H, W, channels), BGR if there are three."""
        x, place = letterbox(picture, self.size)
        x = np.repeat(x, self.batch, axis=0).astype(self.dtype)  # static batches must be full
        outputs = [y[0].astype(np.float32) for y in self.session.run(None, {self.input: x})]
        rows = decode(outputs[0], len(self.names), conf, iou, self.end2end)
        masks = None
        if len(outputs) == 2:
            masks = assemble_masks(rows[:, 6:], outputs[1], rows[:, :4], self.size)
            full = masks.any((1, 2))
            rows, masks = rows[full], masks[full]
            masks = np.array([to_picture(m, place, picture.shape) for m in masks], bool)
            masks = masks.reshape(-1, *picture.shape[:2])
        boxes = rows[:, :4] - (place.left, place.top, place.left, place.top)
        h, w = picture.shape[:2]
        boxes *= np.array([w / place.width, h / place.height] * 2, np.float32)
        boxes = boxes.clip(0, (w, h, w, h))
        return Detections(boxes, rows[:, 4], rows[:, 5].astype(int), masks)


def letterbox(picture: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, Letterbox]:
    """Fit a uint8 picture (h, w, C) into size (height, width): float32 (1, C, *size) in [0, 1], BGR to RGB."""
    h, w, channels = picture.shape
    gain = min(size[0] / h, size[1] / w)
    height, width = max(round(h * gain), 1), max(round(w * gain), 1)
    top, left = round((size[0] - height) / 2 - 0.1), round((size[1] - width) / 2 - 0.1)
    canvas = np.full((*size, channels), 114, np.uint8)
    resized = cv2.resize(picture, (width, height)).reshape(height, width, channels)  # OpenCV drops a single channel
    canvas[top : top + height, left : left + width] = resized
    canvas = canvas[:, :, ::-1] if channels == 3 else canvas
    x = canvas[None].transpose(0, 3, 1, 2).astype(np.float32) / 255
    return x, Letterbox(height, width, top, left)


def decode(output: np.ndarray, nc: int, conf: float, iou: float, end2end: bool) -> np.ndarray:
    """Turn an output into rows (N, 6 + M): x1 y1 x2 y2 score class coefficients, best first.

    End-to-end output is such rows already. A classical one is (4 + nc + M, anchors) with boxes
    x y w h and one score a class; the best class counts, and NMS runs within each class.
    """
    if end2end:
        return output[output[:, 4] > conf]
    output = output.T
    classes = output[:, 4 : 4 + nc].argmax(1)
    scores = output[:, 4 : 4 + nc].max(1)
    good = scores > conf
    output, classes, scores = output[good], classes[good], scores[good]
    centre, half = output[:, :2], output[:, 2:4] / 2
    boxes = np.concatenate([centre - half, centre + half], axis=1)
    keep: list[int] = []
    for c in np.unique(classes):
        own = np.flatnonzero(classes == c)
        corner_size = np.concatenate([boxes[own, :2], 2 * half[own]], axis=1)
        kept = cv2.dnn.NMSBoxes(corner_size.tolist(), scores[own].tolist(), conf, iou)
        keep += own[np.array(kept, int).ravel()].tolist()
    keep = sorted(keep, key=lambda i: -scores[i])[:MAX_DET]
    columns = [boxes, scores[:, None], classes[:, None], output[:, 4 + nc :]]
    return np.concatenate(columns, axis=1)[keep].astype(np.float32)


def assemble_masks(
    coefficients: np.ndarray, prototypes: np.ndarray, boxes: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """Mix prototypes (M, h, w) by coefficients (N, M): bool masks (N, *size) cut to their boxes."""
    logits = np.tensordot(coefficients, prototypes, axes=1)
    y, x = np.mgrid[: size[0], : size[1]]
    masks = np.zeros((len(boxes), *size), bool)
    for mask, logit, (x1, y1, x2, y2) in zip(masks, logits, boxes, strict=True):
        large = cv2.resize(logit, size[::-1], interpolation=cv2.INTER_LINEAR)
        mask[:] = (large > 0) & (x >= x1) & (x < x2) & (y >= y1) & (y < y2)
    return masks


def to_picture(mask: np.ndarray, place: Letterbox, shape: tuple[int, ...]) -> np.ndarray:
    """Bring a mask of the input back to a picture of this shape (height, width, ...)."""
    inside = mask[place.top : place.top + place.height, place.left : place.left + place.width]
    resized = cv2.resize(inside.astype(np.float32), shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return resized > 0.5


def draw(picture: np.ndarray, found: Detections, names: dict[int, str]) -> np.ndarray:
    """Return a BGR copy of a picture, uint8 (H, W, C), with masks, boxes and labels; of C != 3 the first channel."""
    picture = picture.copy() if picture.shape[2] == 3 else cv2.cvtColor(picture[:, :, 0].copy(), cv2.COLOR_GRAY2BGR)
    for i, (x1, y1, x2, y2) in enumerate(found.boxes.round().astype(int).tolist()):
        c = int(found.classes[i])
        color = tuple(int(v) for v in np.random.default_rng(c).integers(64, 256, 3))
        if found.masks is not None:
            mask = found.masks[i]
            picture[mask] = (0.6 * picture[mask] + 0.4 * np.array(color)).astype(np.uint8)
        cv2.rectangle(picture, (x1, y1), (x2, y2), color, 2)
        label = f"{names[c]} {found.scores[i]:.2f}"
        cv2.putText(picture, label, (x1, max(y1 - 4, 12)), cv2.FONT_HERSHEY_SIMPLEX, 0.5, color)
    return picture


def read_picture(path: Path, channels: int, curve: Mapping[str, Any] | None = None) -> np.ndarray:
    """Read a picture as Ultralytics does with yolo_wnlb: uint8 (H, W, channels), BGR if there are three.

    Raises: ValueError: it is no picture, or its channels (or pages) are others than those of a model that is
        neither for grey nor for colour. ImportError: it is RAW, and rawpy is not installed.
    """
    data = np.fromfile(path, np.uint8)  # not cv2.imread, which reads no Unicode paths on Windows
    flag = {1: cv2.IMREAD_GRAYSCALE, 3: cv2.IMREAD_COLOR}.get(channels, cv2.IMREAD_UNCHANGED)
    balance = (curve or {}).get("balance")
    if path.suffix.lower() in RAW:
        return to_8_bits(read_raw(data, balance), curve or {}, is_light=True, grey=channels == 1)
    picture = None
    try:
        if data[:4].tobytes() in PNG_OR_TIFF and channels in (1, 3):
            deep = cv2.imdecode(data, (cv2.IMREAD_COLOR if balance else flag) | cv2.IMREAD_ANYDEPTH)
            if deep is not None and deep.dtype == np.uint16:
                return to_8_bits(deep, curve or {}, grey=channels == 1)
        if len(data) and channels not in (1, 3) and path.suffix.lower() in (".tif", ".tiff"):
            _, pages = cv2.imdecodemulti(data, cv2.IMREAD_UNCHANGED)
            if len(pages) > 1 and len({page.shape for page in pages}) == 1 and pages[0].ndim == 2:
                picture = np.stack(pages, axis=2)
        if len(data) and picture is None:
            picture = cv2.imdecode(data, flag)
    except cv2.error as error:  # such as more pixels than OpenCV reads
        raise ValueError(f"not a readable picture: {error.err}") from error
    if picture is None:
        raise ValueError("not a readable picture")
    if picture.dtype == np.uint16:
        has_alpha = data[:4].tobytes() == PNG_OR_TIFF[0] and picture.ndim == 3 and picture.shape[2] == 4
        picture = to_8_bits(picture, curve or {}, has_alpha=has_alpha)
    picture = picture.reshape(*picture.shape[:2], -1)
    if picture.shape[2] != channels or picture.dtype != np.uint8:
        kind = f"{picture.shape[2]} channels of {picture.dtype}"
        raise ValueError(f"it has {kind}, and the model takes {channels} of uint8")
    return picture


def to_8_bits(
    picture: np.ndarray,
    curve: Mapping[str, Any],
    is_light: bool = False,
    grey: bool = False,
    has_alpha: bool = False,
) -> np.ndarray:
    """Bring a picture of 16 bits through a tone curve, as `develop` of yolo_wnlb/imaging/curve.py does.

    Args:
        picture: uint16 (H, W) or (H, W, C), BGR if C is 3.
        curve: black and white (codes; or else the percentiles low and high of the picture), balance (factors of red,
            green and blue), response ("srgb", "identity", "gamma:2.2", "high-byte", or n, u).
        is_light: The codes are light, and balanced already.
        grey: Make grey of colours.
        has_alpha: The last channel is no light: black and white are measured in the others.
    Returns: uint8 (H, W, C).
    """
    low, high = (default if curve.get(name) is None else curve[name] for name, default in PERCENTILES.items())
    codes = np.arange(65536)

    def end_points(picture: np.ndarray) -> tuple[int, int]:
        black, white = curve.get("black"), curve.get("white")
        if black is None or white is None:
            count = np.cumsum(np.bincount(picture.ravel(), minlength=65536))
            ranks = np.array([low, high]) / 100 * (picture.size - 1)
            measured = np.searchsorted(count, ranks, "right")
            black, white = (int(m) if given is None else given for given, m in zip((black, white), measured))
        if black < white:
            return black, white
        return min(curve.get("black") or 0, 65534), curve.get("white") or 65535

    if curve.get("balance") and not is_light and picture.ndim == 3 and picture.shape[2] == 3:
        black = end_points(picture)[0]
        tables = [np.clip(np.rint(black + (codes - float(black)) * f), 0, 65535) for f in curve["balance"][::-1]]
        picture = np.stack([t.astype(np.uint16)[picture[..., c]] for c, t in enumerate(tables)], axis=2)
    if grey and picture.ndim == 3:
        picture = cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY)
    response = curve.get("response") or ("srgb" if is_light else "identity")
    if response == "high-byte":
        table: np.ndarray = codes >> 8
    else:
        black, white = end_points(picture[..., :-1] if has_alpha else picture)
        level = np.clip((codes - black) / (white - black), 0, 1)
        if response == "srgb":
            level = np.where(level <= 0.0031308, 12.92 * level, 1.055 * np.power(level, 1 / 2.4) - 0.055)
        elif response != "identity":
            n, u = (1 / float(response[6:]), 0.0) if isinstance(response, str) else response
            level = np.power(level, n) / ((1 - u) + u * np.power(level, n))
        table = np.rint(255 * level)
    return table.astype(np.uint8)[picture].reshape(*picture.shape[:2], -1)


def read_raw(data: np.ndarray, balance: Sequence[float] | None) -> np.ndarray:
    """Develop the content of a RAW file to light, as yolo_wnlb/imaging/deep.py does: uint16 (H, W, 3), BGR.

    Raises: ValueError: it is no RAW file. ImportError: rawpy is not installed.
    """
    try:
        import rawpy
    except ImportError as error:
        raise ImportError(f"a RAW file needs rawpy ({error}): pip install rawpy") from error
    white: dict[str, Any] = {"use_camera_wb": True}
    if balance:
        white = {"user_wb": [*balance, balance[1]]}
    settings: dict[str, Any] = {"output_bps": 16, "gamma": (1, 1), "no_auto_bright": True, "adjust_maximum_thr": 0.0}
    try:
        with rawpy.imread(io.BytesIO(data.tobytes())) as raw:
            rgb = raw.postprocess(demosaic_algorithm=rawpy.DemosaicAlgorithm.LINEAR, **settings, **white)
    except (rawpy.LibRawError, rawpy.NotSupportedError) as error:
        raise ValueError(f"not a readable RAW file: {error}") from error
    return np.ascontiguousarray(rgb[..., ::-1])


def find_pictures(given: Sequence[Path]) -> tuple[list[Path], int]:
    """Return the pictures that are named and those in named folders, each once, and how many other files lie there.

    Raises: FileNotFoundError: a name does not exist, or there is no picture at all.
    """
    found: dict[Path, Path] = {}
    others = 0
    for path in given:
        if not path.exists():
            raise FileNotFoundError(f"picture {path} does not exist")
        inside = sorted(path.iterdir()) if path.is_dir() else [path]
        for file in inside:
            # files such as ._0001.jpg, which macOS leaves on other disks, have the suffix of a picture
            if path.is_dir() and (
                file.name.startswith(".") or file.suffix[1:].lower() not in PICTURES or not file.is_file()
            ):
                others += 1
            else:
                found.setdefault(place_of(file), file)
    if not found:
        raise FileNotFoundError(f"no pictures in {', '.join(map(str, given))}; wanted {', '.join(PICTURES)}")
    return list(found.values()), others


def place_of(file: Path) -> Path:
    """Return where a file lies, without links and '..' in the folders above it; a link to a file keeps its own name."""
    return file.parent.resolve() / file.name


def name_targets(pictures: Sequence[Path], out: Path) -> list[Path]:
    """Return the file that each picture is written to: its whole name, in its folder below the one that holds all.

    Raises: ValueError: a picture lies where a result would be written, or a link leads out of the folder.
    """
    places = [place_of(picture) for picture in pictures]
    several_disks = len({place.anchor for place in places}) > 1  # on Windows
    common = None if several_disks else Path(os.path.commonpath({place.parent for place in places}))
    targets = []
    for place in places:
        inside = place.relative_to(common) if common else Path(place.drive.strip(":\\/"), *place.parts[1:])
        targets.append(out / inside.with_name(f"{inside.name}.png"))
    kept = {place.resolve() for place in places}
    for target in targets:
        real = target.resolve()
        if real in kept:
            raise ValueError(f"{target} is a picture that would be overwritten; choose another --out")
        if out.resolve() not in real.parents:
            raise ValueError(f"{target} is a link to {real}, outside of {out}; choose another --out")
    return targets


def main() -> int:
    """Annotate the pictures named on the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description="Run a YOLO .onnx file with onnxruntime only.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("model", type=Path, help="what `yolo export format=onnx` wrote")
    parser.add_argument("images", type=Path, nargs="+", help="pictures, or folders of them")
    parser.add_argument("--conf", type=float, default=0.25, help="lowest confidence, 0 to 1")
    parser.add_argument("--iou", type=float, default=0.7, help="largest overlap in NMS, 0 to 1")
    parser.add_argument("--out", type=Path, default=Path("annotated"), help="folder to write to")
    args = parser.parse_args()
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot show ends no run
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if args.model.suffix != ".onnx" or not args.model.is_file():
        parser.error(f"{args.model} is no .onnx file; write one with `yolo export model=best.pt format=onnx`")
    if not (0 <= args.conf <= 1 and 0 <= args.iou <= 1):
        parser.error(f"--conf {args.conf} and --iou {args.iou} have to lie between 0 and 1")
    try:
        pictures, others = find_pictures(args.images)
        targets = name_targets(pictures, args.out)
        model = Model(args.model)
    except (OSError, ValueError) as error:
        parser.error(str(error))

    failed = 0
    for path, target in zip(pictures, targets, strict=True):
        try:
            picture = read_picture(path, model.channels, model.curve)
            found = model(picture, args.conf, args.iou)
            target.parent.mkdir(parents=True, exist_ok=True)
            cv2.imencode(".png", draw(picture, found, model.names))[1].tofile(target)
        except (OSError, ValueError, ImportError) as error:
            failed += 1
            print(f"{path}: {error}", file=sys.stderr)
            continue
        counts = ", ".join(f"{(found.classes == c).sum()} {model.names[c]}" for c in np.unique(found.classes))
        print(f"{path}: {counts or 'nothing found'} -> {target}")
    if others:
        print(f"{others} other files in the folders were skipped; pictures end in {', '.join(PICTURES)}")
    if failed:
        print(f"{failed} of {len(pictures)} pictures failed, named above", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
