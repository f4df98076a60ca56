"""How much of its AP does an exported model keep? For exports that cannot give equal numbers, such as those of int8."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ultralytics.nn.autobackend import AutoBackend

from yolo_wnlb.data import coco
from yolo_wnlb.detectors import ultralytics as detector
from yolo_wnlb.metrics.average_precision import KINDS, Evaluation, evaluate
from yolo_wnlb.metrics.bootstrap import Difference, paired_bootstrap
from yolo_wnlb.yolo.models import load_checkpoint
from yolo_wnlb.yolo.parity import as_exported, check_same_model, numbers_of

KEEP = 0.95  # of the AP of the checkpoint


@dataclass
class KeptAP:
    """What `compare_ap` found; print it for the table, read `ok` for the verdict.

    Attributes:
        title: The two files.
        numbers: What the export computes in, such as int8.
        data: What was measured on.
        keep: Least share of the checkpoint's AP that the export has to keep.
        checkpoint: Evaluation of the checkpoint.
        export: Evaluation of the export.
        differences: By "segm" and "bbox", the AP of the export minus that of the checkpoint, with its interval.
        notes: What the reader has to know.
    """

    title: str
    numbers: str
    data: str
    keep: float
    checkpoint: Evaluation
    export: Evaluation
    differences: dict[str, Difference]
    notes: list[str] = field(default_factory=list)

    def share(self, kind: str = "") -> float:
        """Return the share of AP that the export keeps, of "segm" or "bbox"; 1 is all of it, and more is a gain."""
        return self.export.numbers(kind)["AP"] / self.checkpoint.numbers(kind)["AP"]

    @property
    def interval(self) -> tuple[float, float]:
        """The ends of the interval of the difference of AP, of masks where there are masks."""
        difference = self.differences[self.export.kind]
        return difference.low, difference.high

    @property
    def ok(self) -> bool:
        """True when the export keeps enough of the AP, of masks where there are masks."""
        return self.share() >= self.keep

    def __str__(self) -> str:
        """Return the table, the notes and a verdict line."""
        lines = [self.title, f"computed in {self.numbers}, on {self.data}"]
        lines.append(f"  {'':<8}{'checkpoint':>12}{'export':>10}{'kept':>10}")
        for kind in self.differences:
            before, after = (100 * score.numbers(kind)["AP"] for score in (self.checkpoint, self.export))
            label = {"segm": "mask AP", "bbox": "box AP"}[kind]
            lines.append(f"  {label:<8}{before:>12.2f}{after:>10.2f}{100 * self.share(kind):>8.1f} %")
        lines += [f"  difference of {difference}" for difference in self.differences.values()]
        lines += [f"note: {note}" for note in self.notes]
        kept = f"{100 * self.share():.1f} % of the AP of {KINDS[self.export.kind]}"
        wanted = f"wanted {100 * self.keep:g} % or more"
        lines.append(f"{'OK' if self.ok else 'FAILED'}: the export keeps {kept}; {wanted}")
        return "\n".join(lines)


def compare_ap(
    weights: str | Path,
    exported: str | Path,
    data: str | Path,
    split: str = "val",
    *,
    keep: float = KEEP,
    images: str | Path | None = None,
    allow_missing: bool = False,
    device: str | None = None,
) -> KeptAP:
    """Compare the AP of an exported detection or segmentation model with that of its checkpoint.

    Both see the same input: pictures fitted into the size of the export, as the export wants them. AP is COCO's, of the
    best 100 detections of an image, as `yolo-wnlb evaluate` measures it.

    Args:
        weights: The checkpoint, .pt.
        exported: What `yolo export` wrote, in any format and any precision.
        data: The truth: a data YAML, or COCO annotations.
        split: Of a data YAML.
        keep: Least share of the AP that the export has to keep for `ok`, above 0, at most 1.
        images: Folder of the pictures of COCO annotations, where they are not beside them.
        allow_missing: Accept models with classes that the truth lacks.
        device: As Ultralytics takes it. Default: the CPU, where int8 of OpenVINO and ONNX Runtime runs.

    Raises:
        OSError: a file or a picture is missing or unreadable.
        ValueError: the files are not the same model, the truth does not fit, `keep` is no such share, or the checkpoint
            has AP 0, of which nothing can be kept.
    """
    if isinstance(keep, bool) or not isinstance(keep, (int, float)) or not 0 < keep <= 1:
        raise ValueError(f"keep is {keep!r}; wanted the share of AP to keep, above 0 and at most 1, such as 0.95")
    truth = coco.ground_truth(data, split)
    files = coco.image_files(truth, data, split, images)
    pair = load_pair(weights, exported, device or "cpu")
    classes = coco.class_map(detector.names(pair[0]), truth, allow_missing)
    protocol = {"data": str(data), **({} if Path(data).suffix.lower() == ".json" else {"split": split})}
    found = [detector.predict(model, files, classes, progress=True) for model in pair]
    left_out = coco.not_evaluated(truth, found[0])
    if len(left_out) == 2:
        raise ValueError("; ".join(left_out.values()))
    kinds = [kind for kind in KINDS if kind not in left_out]
    checkpoint, export = (
        evaluate(truth, rows, iou_types=kinds, protocol={**protocol, **detector.describe(model)})
        for model, rows in zip(pair, found, strict=True)
    )
    if not checkpoint.numbers()["AP"] > 0:
        raise ValueError(
            f"{weights} has AP {max(checkpoint.numbers()['AP'], 0.0):g} on {data}, so its export has nothing to keep; "
            "give pictures with objects that the checkpoint finds"
        )
    result = KeptAP(
        f"{weights} against {exported}",
        numbers_of(pair[1].backend),
        f"{data}, {len(files)} images",
        float(keep),
        checkpoint,
        export,
        {kind: paired_bootstrap(checkpoint, export, kind=kind) for kind in kinds},
        [*left_out.values()],
    )
    low, high = (1 + end / checkpoint.numbers()["AP"] for end in result.interval)
    if low < keep <= high:
        result.notes.append(
            f"{len(files)} images cannot tell: between {100 * low:.0f} and {100 * high:.0f} % may be kept, and "
            f"{100 * keep:g} % lies within"
        )
    return result


def load_pair(weights: str | Path, exported: str | Path, device: str = "cpu") -> tuple[detector.Model, detector.Model]:
    """Load a checkpoint and its export, so that both get the same input and have the same blocks and the same head.

    Raises: OSError, ValueError: a file is missing or unreadable, or they are not the same model.
    """
    export, checkpoint = detector.load(exported, device), load_checkpoint(Path(weights))
    check_same_model(checkpoint, export.backend, f"{weights} and {exported}")
    as_exported(checkpoint, export.backend, f"{weights}", f"{exported}", stated=True)
    net: Any = checkpoint.model
    if bool(getattr(net, "end2end", False)) != detector.end_to_end(export):
        net.end2end = detector.end_to_end(export)
    backend = AutoBackend(net, export.backend.device, verbose=False)
    return export._replace(weights=Path(checkpoint.ckpt_path), backend=backend, batch=1), export
