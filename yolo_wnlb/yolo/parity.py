"""Does an exported model compute what its checkpoint computes? Raw outputs, then final results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from ultralytics import YOLO
from ultralytics.data.augment import LetterBox
from ultralytics.data.utils import IMG_FORMATS
from ultralytics.nn.autobackend import AutoBackend
from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES
from ultralytics.utils.metrics import box_iou

from yolo_wnlb.wnlb import WNLB

OUTPUTS = ("boxes", "scores", "coefficients", "prototypes")
CONF = 0.25  # of the final comparison: the default of `yolo predict`
FLOOR = 0.001  # anchors below this score become a detection nowhere, not even in `yolo val`
SAME_BOX = 0.7  # box IoU of a pair: what NMS leaves of one class overlaps no more than this
# Largest difference of each output: pixels, scores, and shares of the largest magnitude (if above
# 1) of the other two, whose scale is arbitrary. Smallest IoU of a mask, share of detections that
# may be in one model only. Those of 16 bit are two to five times what trained models showed, with
# wNLB blocks and without: float16 0.17 px, 0.002, 0.002, 0.002; bfloat16 3.2 px, 0.02, 0.16, 0.05.
TOLERANCE = {
    "float32": dict.fromkeys(OUTPUTS, 1e-3),
    "float16": dict(zip(OUTPUTS, (0.5, 0.01, 0.01, 0.01))),
    "bfloat16": dict(zip(OUTPUTS, (8.0, 0.05, 0.4, 0.2))),
}
MASK_IOU = {"float32": 0.99, "float16": 0.8, "bfloat16": 0.7}
ALONE = {"float32": 0.0, "float16": 0.02, "bfloat16": 0.05}


@dataclass
class Parity:
    """What `check_export` found; print it for the table, read `ok` for the verdict.

    Attributes:
        tolerance: Largest difference accepted of each output; see `TOLERANCE` and `limit`.
        difference: Largest absolute difference of each raw output: boxes in pixels of the input,
            scores in [0, 1], mask coefficients and prototypes (segmentation only) as they are.
            Boxes and coefficients count where a score is above 0.001, the floor of `yolo val`.
        magnitude: Largest magnitude of each raw output of the checkpoint.
        missing: Outputs that were never compared, because no score reached that floor.
        inputs: The shapes compared, such as '2x3x160x192'.
        detections: Final detections of the checkpoint above confidence 0.25.
        unmatched: Detections of either model that the other does not have.
        mask_ious: IoU of every matched pair of masks.
        masks_off: Pairs below the accepted IoU that differ in more than their outline.
        notes: What the reader has to know.
    """

    title: str
    precision: str
    tolerance: dict[str, float]
    difference: dict[str, float] = field(default_factory=dict)
    magnitude: dict[str, float] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    detections: int = 0
    unmatched: int = 0
    mask_ious: list[float] = field(default_factory=list)
    masks_off: int = 0
    notes: list[str] = field(default_factory=list)

    def limit(self, name: str) -> float:
        """Return the largest difference accepted of an output, at the magnitude it had."""
        arbitrary = name in ("coefficients", "prototypes")
        return self.tolerance[name] * max(1.0, self.magnitude[name] if arbitrary else 1.0)

    @property
    def failures(self) -> list[str]:
        """Every reason why `ok` is False, in words."""
        reasons = [
            f"{name} differ by {difference:.2g} (tolerance {self.limit(name):.2g})"
            for name, difference in self.difference.items()
            if not difference <= self.limit(name)  # a NaN fails
        ]
        reasons += [f"no {name} were compared, for want of scores above {FLOOR}" for name in self.missing]
        if self.unmatched > ALONE[self.precision] * self.detections:
            reasons.append(f"{self.unmatched} detections are in one model only")
        if self.masks_off:
            reasons.append(f"{self.masks_off} masks differ in more than their outline")
        return reasons

    @property
    def ok(self) -> bool:
        """True when nothing exceeds its tolerance."""
        return not self.failures

    def __str__(self) -> str:
        """Return the table, the notes and a verdict line."""
        lines = [self.title, f"computed in {self.precision}, inputs {', '.join(dict.fromkeys(self.inputs))}"]
        lines.append(f"  {'raw output':<14}{'difference':>12}{'of at most':>12}{'tolerance':>12}")
        for name, difference in self.difference.items():
            label = f"{name} [px]" if name == "boxes" else name
            lines.append(f"  {label:<14}{difference:>12.2e}{self.magnitude[name]:>12.4g}{self.limit(name):>12.2g}")
        lines.append(f"  {self.detections} detections above {CONF}, {self.unmatched} in one model only")
        if self.mask_ious:
            lines.append(f"  mask IoU: smallest {min(self.mask_ious):.4f}, mean {np.mean(self.mask_ious):.4f}")
        lines += [f"note: {note}" for note in self.notes]
        lines.append("OK: the export matches" if self.ok else f"FAILED: {'; '.join(self.failures)}")
        return "\n".join(lines)


def check_export(
    weights: str | Path,
    exported: str | Path,
    images: str | Path | Sequence[str | Path] | None = None,
    sizes: Sequence[int | tuple[int, int]] | None = None,
    tolerance: float | None = None,
) -> Parity:
    """Compare an exported detection or segmentation model with its checkpoint, on the CPU.

    The raw outputs are compared on identical letterboxed input, then the detections of
    `YOLO(...).predict` at its defaults, paired by class and box IoU.

    Args:
        weights: The checkpoint, .pt.
        exported: What `yolo export` wrote: .onnx, .torchscript, an _openvino_model folder, ...
        images: A folder, a picture, or a list of pictures. Default: three pictures drawn here.
        sizes: Input sizes in pixels, n or (height, width), multiples of the stride, for dynamic
            exports. Default: the size of the export, a lying, a standing and a larger one. Static
            exports know their own size only.
        tolerance: Largest difference of every raw output: pixels for boxes, absolute for scores,
            and times the largest magnitude, if that is above 1, for mask coefficients and
            prototypes, whose scale is arbitrary. Scores and prototypes count everywhere, boxes
            and coefficients at scores above 0.001. Default 1e-3 for float32; see `TOLERANCE` for
            exports that compute in 16 bit.

    Returns:
        The figures. `ok` is False when a raw difference exceeds its tolerance or an output was
        never compared, when a detection is in one model only (more than the share `ALONE` of 16-bit
        ones; those that the score tolerance moves across the confidence of 0.25 do not count), or
        when a pair of masks has IoU below `MASK_IOU` and differs in more than the pixels along its
        outline: there one pixel costs a tiny mask several per cent.

    Raises:
        FileNotFoundError: a file, the folder or its pictures are missing.
        ValueError: wrong kind of file, unreadable file or picture, files of different task or
            classes, a size that the export does not have.
    """
    model, backend = load_checkpoint(Path(weights)), load_export(Path(exported))
    refuse_strangers(model, backend, f"{weights} and {exported}")
    pictures = draw_pictures() if images is None else read_pictures(images)
    dynamic, end2end = bool(backend.metadata.get("dynamic")), bool(backend.metadata.get("end2end"))
    shapes = choose_sizes(tuple(backend.imgsz), int(backend.stride), dynamic, sizes, exported)
    precision = precision_of(backend)
    limits = TOLERANCE[precision] if tolerance is None else dict.fromkeys(OUTPUTS, float(tolerance))
    parity = Parity(f"{weights} against {exported}", precision, limits)
    if any(isinstance(m, WNLB) and m.weighted and m.w.item() == 0 for m in model.model.modules()):
        parity.notes.append("a wNLB block is still the identity (w = 0): parity says nothing about it")
    if not dynamic:
        parity.notes.append("static export: compared at its one size")

    finals = [YOLO(weights), YOLO(exported, task=model.task)]  # before AutoBackend fuses in place
    if end2end:
        model.model.end2end = True  # type: ignore[union-attr]
        parity.notes.append("end-to-end head: raw rows are compared with the closest row of their class")
    reference = AutoBackend(model.model, device=torch.device("cpu"), verbose=False)
    batch = 2 if dynamic else int(backend.metadata.get("batch", 1))
    for size in shapes:
        for start in range(0, len(pictures), batch):
            group = [pictures[(start + i) % len(pictures)] for i in range(batch)]
            x = to_input(group, size)
            parity.inputs.append("x".join(map(str, x.shape)))
            with torch.inference_mode():
                a, b = split(reference(x), len(backend.names), end2end), split(backend(x), len(backend.names), end2end)
            compare_raw(parity, *(pair_rows(a, b) if end2end else (a, b)))
        options: dict[str, Any] = {"imgsz": list(size), "rect": False, "conf": CONF, "device": "cpu", "verbose": False}
        if end2end:
            options["nms"] = False  # selects the same head of the checkpoint
        for result in zip(*(m.predict(pictures, **options) for m in finals), strict=True):
            compare_final(parity, *result)
    outputs = OUTPUTS if model.task == "segment" else OUTPUTS[:2]
    parity.missing = [name for name in outputs if name not in parity.difference]
    if not parity.detections:
        parity.notes.append(f"nothing found above {CONF}: only the raw outputs were compared")
    return parity


# ---- the two files -------------------------------------------------------------------------------


def load_checkpoint(path: Path) -> YOLO:
    """Load a .pt model for detection or segmentation; Ultralytics fetches its own, such as yolov8m-seg.pt."""
    if path.suffix != ".pt":
        raise ValueError(f"{path} is not a checkpoint; the first file has to be the .pt")
    if not path.is_file() and str(path) not in GITHUB_ASSETS_NAMES:
        raise FileNotFoundError(f"checkpoint {path} does not exist")
    try:
        model = YOLO(path)
    except ConnectionError:
        raise
    except Exception as error:
        raise ValueError(f"{path} is not a readable Ultralytics checkpoint: {error}") from error
    if model.task not in ("detect", "segment"):
        raise ValueError(f"{path} is a model for '{model.task}'; only detect and segment can be compared")
    return model


def load_export(path: Path) -> AutoBackend:
    """Load any format that Ultralytics exports."""
    if path.suffix == ".pt":
        raise ValueError(f"{path} is a checkpoint; the second file has to be its export, such as {path.stem}.onnx")
    if not path.exists():
        raise FileNotFoundError(f"exported model {path} does not exist; run 'yolo export' first")
    try:
        backend = AutoBackend(str(path), device=torch.device("cpu"), verbose=False)
    except Exception as error:
        raise ValueError(f"{path} cannot be loaded; export it again. Cause: {error}") from error
    if not backend.metadata or not backend.metadata.get("task"):
        raise ValueError(f"{path} has no Ultralytics metadata; export it with 'yolo export'")
    if backend.metadata.get("args", {}).get("nms"):
        raise ValueError(f"{path} was exported with nms=True, which hides its raw outputs; compare one without it")
    return backend


def refuse_strangers(model: YOLO, backend: AutoBackend, files: str) -> None:
    """Raise ValueError if the two files cannot be the same model."""
    for what, a, b in (("task", model.task, backend.task), ("classes", model.names, backend.names)):
        if a != b:
            if isinstance(a, dict):
                a, b = (f"{len(names)} ({', '.join(list(names.values())[:3])}, ...)" for names in (a, b))
            raise ValueError(f"{files} differ in {what}: {a} against {b}; export this checkpoint again")


def precision_of(backend: AutoBackend) -> str:
    """Return the arithmetic of an export, a key of `TOLERANCE`.

    It stands in the metadata, but OpenVINO decides by the processor: where there is bfloat16 it
    uses it for float32 files too.
    """
    args = backend.metadata.get("args", {})
    if args.get("int8") or str(args.get("quantize")) in ("8", "w8a16", "w8a32"):
        raise ValueError("an int8 export cannot match its checkpoint number by number; compare both with 'yolo val'")
    compiled = getattr(backend, "ov_compiled_model", None) or getattr(backend.backend, "ov_compiled_model", None)
    if compiled is not None:
        hint = str(compiled.get_property("INFERENCE_PRECISION_HINT"))
        return next(name for name, sign in (("bfloat16", "bf"), ("float16", "16"), ("float32", "")) if sign in hint)
    return "float16" if args.get("half") or str(args.get("quantize")) == "16" else "float32"


# ---- inputs --------------------------------------------------------------------------------------


def choose_sizes(
    own: tuple[int, int], stride: int, dynamic: bool, sizes: Sequence[int | tuple[int, int]] | None, name: str | Path
) -> list[tuple[int, int]]:
    """Return the (height, width) to compare at; see `check_export`."""
    (h, w), s = own, stride
    if sizes is None:
        return [own, (max(h - s, s), w + s), (h + s, w), (h + 2 * s, w + 2 * s)] if dynamic else [own]
    wanted = [(n, n) if isinstance(n, int) else (n[0], n[1]) for n in sizes]
    for size in wanted:
        if any(n < stride or n % stride for n in size):
            raise ValueError(f"size {size} has to be a multiple of the stride {stride}")
        if not dynamic and size != own:
            raise ValueError(f"{name} is static and takes {own} only, not {size}; export it with dynamic=True")
    return wanted


def read_pictures(images: str | Path | Sequence[str | Path]) -> list[np.ndarray]:
    """Read pictures as uint8 BGR (H, W, 3) from a folder (sorted by name), a file or a list."""
    paths = [Path(images)] if isinstance(images, (str, Path)) else [Path(p) for p in images]
    if len(paths) == 1 and paths[0].is_dir():
        paths = sorted(p for p in paths[0].iterdir() if p.suffix[1:].lower() in IMG_FORMATS)
    if not paths:
        raise FileNotFoundError(f"no pictures in {images}; wanted files ending in {', '.join(sorted(IMG_FORMATS))}")
    pictures = []
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"picture {path} does not exist")
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if picture is None:
            raise ValueError(f"{path} is not a readable picture; remove or replace it")
        pictures.append(picture)
    return pictures


def draw_pictures() -> list[np.ndarray]:
    """Draw three pictures (uint8 BGR; lying, standing, square): smooth noise, grain and shapes."""
    rng = np.random.default_rng(0)
    pictures = []
    for h, w in ((240, 320), (320, 200), (256, 256)):
        coarse = rng.uniform(0, 255, (h // 32, w // 32, 3)).astype(np.float32)
        smooth = cv2.resize(coarse, (w, h), interpolation=cv2.INTER_CUBIC)
        picture = np.clip(smooth + rng.normal(0, 12, (h, w, 3)), 0, 255).astype(np.uint8)
        for _ in range(6):
            colour = [int(c) for c in rng.integers(0, 256, 3)]
            x, y, r = (int(v) for v in rng.integers((0, 0, 10), (w, h, 60)))
            cv2.circle(picture, (x, y), r, colour, -1)
        pictures.append(picture)
    return pictures


def to_input(pictures: list[np.ndarray], size: tuple[int, int]) -> Tensor:
    """Letterbox uint8 BGR pictures to float32 RGB (B, 3, H, W) in [0, 1]."""
    box = LetterBox(size, auto=False)
    stack = np.stack([box(image=p)[..., ::-1] for p in pictures]).transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(stack)).float() / 255


# ---- raw outputs ---------------------------------------------------------------------------------


def split(y: Any, nc: int, end2end: bool) -> list[Tensor]:
    """Split what AutoBackend returns for any format into rows and `OUTPUTS`.

    Returns:
        boxes (B, N, 4), scores (B, N, nc), coefficients (B, N, 32) and prototypes (B, 32, h, w), the
        last two for segmentation. End-to-end: N = 300 rows, and scores are (score, class).
    """
    if isinstance(y, (list, tuple)) and isinstance(y[-1], dict):  # PyTorch adds what it trains on
        y = y[0]
    rows, *prototypes = [y] if isinstance(y, Tensor) else y
    rows = rows.float() if end2end else rows.float().transpose(1, 2)
    scores = 2 if end2end else nc
    parts = rows.split((4, scores, rows.shape[2] - 4 - scores), dim=2)
    return [*parts, prototypes[0].float()] if prototypes else list(parts[:2])


def pair_rows(a: list[Tensor], b: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Take from `b` the closest row of the same class for every end-to-end row of `a` that counts.

    The order of rows flips at near ties, and the last rows are those of hardly any score.
    """
    kept: list[list[Tensor]] = []
    found: list[list[Tensor]] = []
    for i in range(len(a[0])):
        strong = a[1][i, :, 0] > 0.05  # the cut-off of the 300 rows lies below
        mine, theirs = ([t[i] for t in side[:3]] for side in (a, b))
        mine = [t[strong] for t in mine]
        distance = torch.cdist(mine[0], theirs[0], p=float("inf")) + 1e6 * torch.cdist(mine[1][:, 1:], theirs[1][:, 1:])
        nearest = distance.argmin(1)
        for rows, values in ((kept, mine), (found, [t[nearest] for t in theirs])):
            values[1] = values[1][:, :1]  # the score without the class
            rows.append(values)
    return tuple([*map(torch.cat, zip(*rows)), *side[3:]] for rows, side in ((kept, a), (found, b)))  # type: ignore


def compare_raw(parity: Parity, a: list[Tensor], b: list[Tensor]) -> None:
    """Take the raw outputs of both models into `parity`."""
    for name, one, two in zip(OUTPUTS, a, b, strict=False):
        if one.shape != two.shape:
            raise ValueError(f"{parity.title}: {name} have shapes {tuple(one.shape)} and {tuple(two.shape)}")
    counts = torch.maximum(a[1], b[1]).amax(-1) > FLOOR
    for name, one, two in zip(OUTPUTS, a, b, strict=False):
        if name in ("boxes", "coefficients"):
            one, two = one[counts], two[counts]
        if one.numel():
            off, size = (one - two).abs().max().item(), one.abs().max().item()
            parity.difference[name] = float(np.maximum(parity.difference.get(name, 0.0), off))  # keeps a NaN
            parity.magnitude[name] = max(parity.magnitude.get(name, 0.0), size)


# ---- final results -------------------------------------------------------------------------------


def compare_final(parity: Parity, a: Any, b: Any) -> None:
    """Pair the detections of one picture by class and box IoU, best first; compare the masks."""
    grow = torch.tensor([-1.0, -1.0, 1.0, 1.0])  # a box clipped at the border may have no area
    iou = box_iou(a.boxes.xyxy + grow, b.boxes.xyxy + grow)
    iou[a.boxes.cls[:, None] != b.boxes.cls[None]] = 0
    alone = [set(range(len(a))), set(range(len(b)))]
    while iou.numel() and iou.max() >= SAME_BOX:
        i, j = divmod(int(iou.argmax()), iou.shape[1])
        iou[i], iou[:, j] = 0, 0
        alone[0].discard(i)
        alone[1].discard(j)
        if a.masks is not None and b.masks is not None:
            compare_masks(parity, a.masks.data[i], b.masks.data[j])
    parity.detections += len(a)
    for result, indices in zip((a, b), alone, strict=True):
        confident = result.boxes.conf[list(indices)] > CONF + parity.tolerance["scores"]
        parity.unmatched += int(confident.sum())


def compare_masks(parity: Parity, a: Tensor, b: Tensor) -> None:
    """Record the IoU of two masks (H, W), and whether they differ in more than their outline."""
    one, two = (m.bool().cpu().numpy().astype(np.uint8) for m in (a, b))
    union = int((one | two).sum())
    iou = int((one & two).sum()) / union if union else 1.0
    parity.mask_ious.append(iou)
    if iou < MASK_IOU[parity.precision]:
        kernel = np.ones((3, 3), np.uint8)
        outline = cv2.dilate(one, kernel) ^ cv2.erode(one, kernel)
        parity.masks_off += bool(((one ^ two) & ~outline).any())
