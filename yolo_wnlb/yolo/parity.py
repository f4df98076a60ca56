"""Does an exported model compute what its checkpoint computes? Raw outputs, then final results."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from ultralytics import YOLO
from ultralytics.nn.autobackend import AutoBackend
from ultralytics.utils.metrics import box_iou

from yolo_wnlb.data.validation import is_number
from yolo_wnlb.wnlb import WNLB
from yolo_wnlb.yolo import night
from yolo_wnlb.yolo.context import scene_of
from yolo_wnlb.yolo.models import (
    channels_of,
    find_pictures,
    load_checkpoint,
    load_export,
    read_picture,
    takes_any_size,
    to_input,
)
from yolo_wnlb.yolo.sixteen_bits import curve_of

OUTPUTS = ("boxes", "scores", "coefficients", "prototypes")
CONF = 0.25  # of the final comparison: the default of `yolo predict`
FLOOR = 0.001  # anchors below this score become a detection nowhere, not even in `yolo val`
SAME_BOX = 0.7  # box IoU of a pair: what NMS leaves of one class overlaps no more than this
# Largest difference of each output: pixels, scores, and shares of the largest magnitude (if above
# 1) of the other two, whose scale is arbitrary. Smallest IoU of a mask, share of detections that
# may be in one model only, or have another mask. Rounding in float32 alone moves boxes at 640 pixels
# by 0.001 to 0.002 px: stock yolov8n-seg differed from itself in float64 by 0.0012 px, and from its export by 0.0021.
# Those of 16 bit are two to five times what small trained models showed, with wNLB blocks and without: float16 0.17 px,
# 0.002, 0.002, 0.002; bfloat16 3.2 px, 0.02, 0.16, 0.05. Other weights round more: yolov8n-seg trained on COCO differed
# from itself in float16 by 1.9 px and 0.033, its export by 2.2 px and 0.032. So OWN_ROUNDING times what the checkpoint
# itself loses in these digits is accepted where that is more.
OWN_ROUNDING = 3.0
TOLERANCE = {
    "float32": dict(zip(OUTPUTS, (0.01, 1e-3, 1e-3, 1e-3))),
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

    def scale(self, name: str) -> float:
        """Return the factor of the tolerance of an output: 1, or its magnitude where that is arbitrary and larger."""
        return max(1.0, self.magnitude[name]) if name in ("coefficients", "prototypes") else 1.0

    def limit(self, name: str) -> float:
        """Return the largest difference accepted of an output, at the magnitude it had."""
        return self.tolerance[name] * self.scale(name)

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
        if self.masks_off > ALONE[self.precision] * len(self.mask_ious):
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

    A checkpoint with blocks is compared in the mode that was chosen at the export, night=False or night=True, which
    stands in the metadata; in exports of earlier revisions it does not, and the checkpoint is taken as it is switched.

    The raw outputs are compared on identical letterboxed input, then the detections of
    `YOLO(...).predict` at its defaults, paired by class and box IoU.

    Args:
        weights: The checkpoint, .pt.
        exported: What `yolo export` wrote: .onnx, .torchscript, an _openvino_model folder, ...
        images: A folder, a picture, or a list of pictures, read in the channels of the model. Default:
            three pictures drawn here.
        sizes: Input sizes in pixels, n or (height, width), multiples of the stride, for dynamic
            exports. Default: the size of the export, a lying, a standing and a larger one, of those that
            the export takes (see `rows_at`). Static exports know their own size only.
        tolerance: Largest difference of every raw output, 0 or more: pixels for boxes, absolute for scores,
            and times the largest magnitude, if that is above 1, for mask coefficients and
            prototypes, whose scale is arbitrary. Scores and prototypes count everywhere, boxes
            and coefficients at scores above 0.001. Default 1e-3 for float32 (see `TOLERANCE`). For exports that
            compute in 16 bit it is larger, and OWN_ROUNDING times what the checkpoint itself changes when it is
            computed in 16 bit, where that is larger still.

    Returns:
        The figures. `ok` is False when a raw difference exceeds its tolerance or an output was
        never compared, when a detection is in one model only (more than the share `ALONE` of 16-bit
        ones; those that the score tolerance moves across the confidence of 0.25 do not count), or
        when a pair of masks (more than that share) has IoU below `MASK_IOU` and differs in more than
        the pixels along its outline: there one pixel costs a tiny mask several per cent.

    Raises:
        OSError: a file, the folder or its pictures are missing; a picture is unreadable.
        ValueError: wrong kind of file, unreadable file, files of different task, classes or channels, an int8 export,
            a size that the export does not have, a tolerance below 0.
    """
    if tolerance is not None and not (is_number(tolerance) and tolerance >= 0):
        raise ValueError(f"tolerance is {tolerance!r}; wanted a number of 0 or more, in pixels for boxes")
    model, backend = load_checkpoint(Path(weights)), load_export(Path(exported))
    check_same_model(model, backend, f"{weights} and {exported}")
    channels = channels_of(model)
    if images is None:
        pictures = draw_pictures(channels)
    else:
        curve = curve_of(None, model)
        pictures = [read_picture(file, channels, curve) for file in find_pictures(images)]
    dynamic, end2end = takes_any_size(backend), bool(backend.metadata.get("end2end"))
    head: Any = model.model.model[-1]  # type: ignore[union-attr]
    rows = functools.partial(rows_at, strides=head.stride.tolist(), most=head.max_det) if end2end else None
    shapes = choose_sizes(tuple(backend.imgsz), int(backend.stride), dynamic, sizes, exported, rows)
    precision = numbers_of(backend)
    if precision == "int8":
        raise ValueError(
            f"{exported} is an int8 export, which cannot match its checkpoint number by number; compare their AP with "
            "data=DATA.yaml (in Python compare_ap)"
        )
    limits = TOLERANCE[precision] if tolerance is None else dict.fromkeys(OUTPUTS, float(tolerance))
    parity = Parity(f"{weights} against {exported}", precision, limits)
    finals = [YOLO(weights), YOLO(exported, task=model.task)]  # before AutoBackend fuses in place
    for checkpoint in (model, finals[0]):
        as_exported(checkpoint, backend, str(weights), str(exported))
    if night.is_night(model) is False:
        parity.notes.append("the day model: the blocks of the checkpoint are left out, as in the export (night=False)")
    elif any(isinstance(m, WNLB) and m.weighted and not m.w.any() for m in model.model.modules()):
        parity.notes.append("a wNLB block is still the identity (w = 0): parity says nothing about it")
    scene = scene_of(model.model)
    if scene is not None and not scene.fc.weight.any():
        parity.notes.append("the scene adds logits of 0 as yet: parity says nothing about it")
    if not dynamic:
        parity.notes.append("static export: compared at its one size")
    elif shapes == [tuple(backend.imgsz)] and sizes is None:
        parity.notes.append("compared at the size of the export only: at others it returns another number of rows")

    if end2end:
        model.model.end2end = True  # type: ignore[union-attr]
        parity.notes.append("end-to-end head: raw rows are compared with the closest row of their class")
    reference = AutoBackend(model.model, device=torch.device("cpu"), verbose=False)
    judged = tolerance is None and precision != "float32"
    rounded = Parity("the checkpoint in 16 bit", precision, limits) if judged else None
    batch = 2 if dynamic else int(backend.metadata.get("batch", 1))
    for size in shapes:
        for start in range(0, len(pictures), batch):
            group = [pictures[(start + i) % len(pictures)] for i in range(batch)]
            x = to_input(group, size)
            parity.inputs.append("x".join(map(str, x.shape)))
            with torch.inference_mode():
                a, b = (split(network(x), len(backend.names), end2end) for network in (reference, backend))
                compare_raw(parity, *(pair_rows(a, b) if end2end else (a, b)))
                if rounded is not None:
                    with torch.autocast("cpu", dtype=getattr(torch, precision)):
                        c = split(reference(x), len(backend.names), end2end)
                    compare_raw(rounded, *(pair_rows(a, c) if end2end else (a, c)))
        if rounded is not None:
            parity.tolerance = at_least_own_rounding(limits, rounded)
        options: dict[str, Any] = {"imgsz": list(size), "rect": False, "conf": CONF, "device": "cpu", "verbose": False}
        if end2end:
            options["nms"] = False  # selects the same head of the checkpoint
        for picture in pictures:  # one at a time: 8.4.0 feeds all of them to a static export at once
            compare_final(parity, *(result for m in finals for result in m.predict(picture, **options)))
    if rounded is not None and parity.tolerance != limits:
        parity.notes.append(f"accepted is {OWN_ROUNDING:g} times what the checkpoint itself changes in {precision}")
    outputs = OUTPUTS if model.task == "segment" else OUTPUTS[:2]
    parity.missing = [name for name in outputs if name not in parity.difference]
    if not parity.detections:
        parity.notes.append(f"nothing found above {CONF}: only the raw outputs were compared")
    return parity


def at_least_own_rounding(limits: dict[str, float], rounded: Parity) -> dict[str, float]:
    """Return the limits, of each output at least OWN_ROUNDING times what the checkpoint itself differs by in 16 bit.

    A difference that is not finite raises no limit: an export that overflows in 16 bit fails, as its checkpoint does.
    """
    shares = {name: OWN_ROUNDING * rounded.difference[name] / rounded.scale(name) for name in rounded.difference}
    return {
        name: max(limit, share) if (share := shares.get(name, 0.0)) < math.inf else limit
        for name, limit in limits.items()
    }


# ---- the two files -------------------------------------------------------------------------------


def check_same_model(model: YOLO, backend: AutoBackend, files: str) -> None:
    """Raise ValueError if the two files cannot be the same model."""
    channels = channels_of(model), channels_of(backend)
    facts: Any = (("task", model.task, backend.task), ("classes", model.names, backend.names), ("channels", *channels))
    for what, a, b in facts:
        if a != b:
            if isinstance(a, dict):
                a, b = (f"{len(names)} ({', '.join(list(names.values())[:3])}, ...)" for names in (a, b))
            raise ValueError(f"{files} differ in {what}: {a} against {b}; export this checkpoint again")


def as_exported(checkpoint: YOLO, backend: AutoBackend, weights: str, exported: str, *, stated: bool = False) -> None:
    """Switch the blocks of a checkpoint as they were at its export, where the metadata of the export say it.

    Args:
        checkpoint: The checkpoint.
        backend: The export.
        weights: What messages call the checkpoint.
        exported: What they call the export.
        stated: Refuse an export of no model with blocks, as its metadata say, for a checkpoint with blocks. Exports of
            earlier revisions are refused too: only a comparison number by number can tell them.
    Raises: ValueError: the export has blocks, and the checkpoint has none; with `stated` the other way round too.
    """
    at_night = night.exported_at_night(backend.metadata)
    if at_night is not None and night.blocks_of(checkpoint):
        night.set_night(checkpoint, at_night)
    elif at_night:
        raise ValueError(f"{exported} has wNLB blocks and {weights} has none; give the checkpoint that was exported")
    elif at_night is None and stated and night.blocks_of(checkpoint):
        raise ValueError(
            f"{weights} has wNLB blocks, and the metadata of {exported} name none: it is the export of another model, "
            "or of an earlier revision; export this checkpoint again"
        )


def numbers_of(backend: AutoBackend) -> str:
    """Return what an export computes in: "int8", for weights at least, or a key of `TOLERANCE`.

    It stands in the metadata, but OpenVINO decides by the processor: where there is bfloat16 it
    uses it for float32 files too.
    """
    args = backend.metadata.get("args", {})
    if args.get("int8") or str(args.get("quantize")) in ("8", "w8a16", "w8a32"):
        return "int8"
    compiled = getattr(backend, "ov_compiled_model", None)
    if compiled is not None:
        hint = str(compiled.get_property("INFERENCE_PRECISION_HINT"))
        return next(name for name, sign in (("bfloat16", "bf"), ("float16", "16"), ("float32", "")) if sign in hint)
    return "float16" if args.get("half") or str(args.get("quantize")) == "16" else "float32"


# ---- inputs --------------------------------------------------------------------------------------


def rows_at(size: tuple[int, int], strides: Sequence[float], most: int) -> int:
    """Return how many rows an end-to-end head gives at an input size: `most`, or one a position where those are fewer.

    An export keeps the number that it had at its own size: at a smaller one it fails, at a larger one it returns
    fewer rows than its checkpoint.
    """
    return min(most, sum(int(size[0] // stride) * int(size[1] // stride) for stride in strides))


def choose_sizes(
    own: tuple[int, int],
    stride: int,
    dynamic: bool,
    sizes: Sequence[int | tuple[int, int]] | None,
    name: str | Path,
    rows: Callable[[tuple[int, int]], int] | None = None,
) -> list[tuple[int, int]]:
    """Return the (height, width) to compare at; see `check_export`. `rows` is given for an end-to-end head."""
    (h, w), s = own, stride
    if sizes is None:
        proposed = [own, (max(h - s, s), w + s), (h + s, w), (h + 2 * s, w + 2 * s)] if dynamic else [own]
        return [size for size in proposed if rows is None or rows(size) == rows(own)]
    wanted: list[tuple[int, int]] = []
    for given in sizes:
        pair: list[Any] = [given, given] if isinstance(given, int) else []
        if isinstance(given, (list, tuple)):
            pair = list(given)
        if len(pair) != 2 or not all(type(side) is int and side >= stride and side % stride == 0 for side in pair):
            raise ValueError(
                f"size {given!r}: wanted pixels, a multiple of the stride {stride}, or two of them, (height, width)"
            )
        size = (pair[0], pair[1])
        if not dynamic and size != own:
            raise ValueError(f"{name} is static and takes {own} only, not {size}; export it with dynamic=True")
        if rows is not None and rows(size) != rows(own):
            raise ValueError(
                f"{name} always returns {rows(own)} rows, those that there are at {own}, and {size} has {rows(size)}; "
                "export it at the size that you want to compare"
            )
        wanted.append(size)
    if not wanted:
        raise ValueError("sizes is empty; leave it out, or give at least one size")
    return wanted


def draw_pictures(channels: int = 3) -> list[np.ndarray]:
    """Draw three pictures, uint8 (H, W, channels), lying, standing and square: smooth noise, grain and shapes."""
    rng = np.random.default_rng(0)
    pictures = []
    for h, w in ((240, 320), (320, 200), (256, 256)):
        coarse = rng.uniform(0, 255, (h // 32, w // 32, channels)).astype(np.float32)
        smooth = cv2.resize(coarse, (w, h), interpolation=cv2.INTER_CUBIC).reshape(h, w, channels)
        picture = np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)
        for _ in range(6):
            colour = rng.integers(0, 256, channels)
            x, y, r = (int(v) for v in rng.integers((0, 0, 10), (w, h, 60)))
            picture[cv2.circle(np.zeros((h, w), np.uint8), (x, y), r, 1, -1) == 1] = colour
        pictures.append(picture)
    return pictures


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
