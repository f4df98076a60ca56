"""Refuse what would fail in a run because of its data, before the first run starts.

    check_data        as soon as the data sets of a study are there: classes, labels, pictures, room on the disk
    check_classes     the same for classifiers

`check` does the same as soon as the study is read, without the data. They raise ValueError or OSError, with the row in
front of the message.
"""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from yolo_wnlb.data import coco, folders
from yolo_wnlb.data.headers import large_enough
from yolo_wnlb.metrics.instances import check_masks
from yolo_wnlb.study import labels
from yolo_wnlb.study.check import arguments_of, built_yolo, existing_parent, given_model, quiet, yolo_definition
from yolo_wnlb.study.instances import check_apart
from yolo_wnlb.study.models import split_arguments
from yolo_wnlb.study.plan import FUSION, OUT, UNET, YOLO, naming
from yolo_wnlb.study.runs import Run

TRAINING_BYTES = 24  # of each parameter while it is trained: last.pt and best.pt with the state of AdamW
KEPT_BYTES = 8  # of each parameter afterwards
PNG_BYTES = 2  # of each pixel of an enhanced picture
OTHER_PARAMETERS = 45_000_000  # of Mask R-CNN and SOLOv2 on ResNet-50
ARCH_OF_FUSION = "resnet50"  # as large as the two networks that are fused, for the room that a run takes
MARGIN = 100e6  # bytes for logs, tables and label caches


def check_data(runs: Sequence[Run], truth: coco.Truth, device: str | None) -> None:
    """Check the data of runs, and their models against it.

    Args:
        runs: Those that are not done.
        truth: Of the pictures that they are judged on.
        device: As Ultralytics takes it.
    Raises:
        ValueError: there is nothing to measure; classes or sizes of pictures differ; labels do not fit the
            task; pictures that are dark would be darkened again.
        OSError: pictures are missing or cannot be read; there is too little room on the disk.
    """
    if not runs:
        return
    data, split = runs[0].spec["data"], runs[0].spec["split"]
    if all(annotation.get("iscrowd") for annotation in truth["annotations"]):
        raise ValueError(f"{data}, {split}: {len(truth['images'])} pictures without an object; nothing can be measured")
    if len(truth["images"]) < 2:
        raise ValueError(f"{data}, {split}: one picture; the intervals of a table need two or more")
    coco.image_files(truth, data, split)  # which checks them
    tuning = check_tuning(truth, data, split, tune) if (tune := runs[0].spec.get("tune")) else truth
    readers = {YOLO: labels_of, UNET: outlines_of}
    learnt: dict[tuple[str, Any], coco.Truth] = {}  # what is trained on: data, and how it is read
    for run in runs:
        detector = run.spec["detector"]
        with naming(run.name):
            if "train" not in run.spec:
                if not run.source_row:
                    module, model = given_model(run, device)
                    coco.class_map(model.names if detector == UNET else module.names(model), truth)
                continue
            source, reader = run.spec["train_data"], readers.get(detector, masks_of)
            if (source, reader) not in learnt:
                learnt[source, reader] = reader(source)
                coco.class_map([category["name"] for category in learnt[source, reader]["categories"]], truth)
            if detector == YOLO:
                check_yolo_data(run, learnt[source, reader])
            if detector == UNET:
                check_unet_data(run, learnt[source, reader])
                check_crops(run, tuning)
            if "labels" in run.spec:
                labels.drawn(source, run.spec["labels"], run.spec["seed"])
    check_room(runs, truth)


def check_tuning(truth: coco.Truth, data: str, split: str, tune: str) -> coco.Truth:
    """Check the pictures that thresholds are chosen on, and that all objects have the masks that are scored.

    Returns: The truth of these pictures.

    Raises: ValueError, OSError: see `check_data`.
    """
    check_apart(data, tune, split)
    tuning = coco.ground_truth(data, tune)
    coco.image_files(tuning, data, tune)
    if all(annotation.get("iscrowd") for annotation in tuning["annotations"]):
        raise ValueError(
            f"{data}, {tune}: {len(tuning['images'])} pictures without an object; no threshold can be chosen (tune:)"
        )
    check_masks(truth, f"{data}, {split}")
    check_masks(tuning, f"{data}, {tune}")
    coco.class_map([category["name"] for category in tuning["categories"]], truth)
    return tuning


def check_classes(
    todo: Sequence[Run], runs: Sequence[Run], data: folders.Labelled, baselines: Collection[str], device: str | None
) -> None:
    """Check the pictures and classes of runs of classifiers.

    Args:
        todo: Those that are not done.
        runs: All of the study.
        data: The pictures that they are judged on.
        baselines: The rows that others are compared with.
        device: As Ultralytics takes it.
    Raises:
        ValueError: a run lacks a class of the pictures, and is a baseline or lends its weights to no other row.
        OSError: class folders are missing; there is too little room on the disk.
    """
    from yolo_wnlb.classifiers.nets import ARCHS

    if not todo:
        return
    if len(data) < 2:
        raise ValueError(f"{data.source}, {data.split}: one picture; the intervals of a table need two or more")
    used = {(data.source, data.split): data}
    learnt_by = {run.row: run.spec["train_data"] for run in runs if "train" in run.spec}
    lenders = {row for run in runs if "train" in run.spec for row in run.source_rows} - {*baselines}
    for run in todo:
        with naming(run.name):
            if source := learnt_by.get(run.row if "train" in run.spec else run.source_row or ""):
                learnt = folders.read(source, "train")
                used[learnt.source, learnt.split] = learnt
                known = learnt.classes
            else:
                detector, model = given_model(run, device)
                known = tuple(detector.names(model).values())
            if run.spec["detector"] == FUSION:
                check_fused_classes(run, runs, known)
            lacking = [name for name in data.classes if name not in known]
            if lacking and run.row not in lenders:
                raise ValueError(
                    f"it knows {', '.join(known)}, and {data.source} has {lacking[0]!r} too: only a row that another "
                    "row starts to train from, and that is no baseline, may learn other classes"
                )
    for pictures in used.values():
        if isinstance(pictures.read, folders.Files):
            pictures.read.check()
    archs = [run.spec["train"].get("arch", ARCH_OF_FUSION) for run in todo if "train" in run.spec]
    counts = {arch: sum(p.numel() for p in ARCHS[arch](num_classes=1000).parameters()) for arch in {*archs}}
    refuse_full_disk(todo, KEPT_BYTES * sum(counts[arch] for arch in archs) + MARGIN)


def check_fused_classes(run: Run, runs: Sequence[Run], classes: Sequence[str]) -> None:
    """Refuse to train a fused network on attacks against a foreground network that learns other classes."""
    from yolo_wnlb.classifiers.detector import names, reads
    from yolo_wnlb.classifiers.fusion import UNKNOWN
    from yolo_wnlb.classifiers.fusion_fit import check_attacked

    options = {**run.spec.get("train", {}), **run.spec.get("options", {})}
    if options.get("adversarial") in (None, False):
        return
    start = run.spec["start"][0]
    trained = [other for other in runs if start == f"{OUT}{other.folder.name}/last.pt"]
    if trained:
        check_attacked(folders.read(trained[0].spec["train_data"], "train").classes, classes)
    else:
        ours = Path(start).is_file() and reads(start)
        check_attacked([*names(start).values()] if ours else UNKNOWN, classes)


def labels_of(source: str) -> coco.Truth:
    """Read what Ultralytics trains on: the headers of the pictures and the label files."""
    data = coco.data_set(source, "train")
    numbers = coco.class_numbers(data, "train")
    return coco.from_labels(coco.split_files(data, source, "train"), numbers, f"{source}, train")


def masks_of(source: str) -> coco.Truth:
    """Read what Mask R-CNN and SOLOv2 train on: the headers of the pictures and their masks."""
    from yolo_wnlb.detectors.fit import Pictures

    truth = coco.ground_truth(source, "train")
    files = coco.image_files(truth, source, "train")
    Pictures(truth, files, {category["id"]: label for label, category in enumerate(truth["categories"], 1)})
    return truth


def outlines_of(source: str) -> coco.Truth:
    """Read what U-Nets train on: the headers of the pictures and the masks of their objects."""
    truth = coco.ground_truth(source, "train")
    coco.image_files(truth, source, "train")
    check_masks(truth, f"{source}, train")
    return truth


def check_yolo_data(run: Run, labels: coco.Truth) -> None:
    """Check that the labels fit the task of a model, and that no picture is darkened twice."""
    from ultralytics.nn.tasks import guess_model_task

    from yolo_wnlb.yolo.darkness import darkened_by

    source = run.spec["train_data"]
    boxes = sum(not annotation.get("segmentation") for annotation in labels["annotations"])
    if boxes and guess_model_task(built_yolo(*yolo_definition(run.spec))) == "segment":
        raise ValueError(
            f"{boxes} of {len(labels['annotations'])} labels of {source}, train, are boxes, and a model for "
            "segmentation learns from outlines: give a model YAML for detection (yolov8n.yaml), or label outlines"
        )
    check_n2v_crops(run)
    lowlight = {**run.spec["train"], **run.spec.get("options", {})}.get("lowlight")
    if lowlight and (done := darkened_by(coco.data_set(source, "train"))):
        raise ValueError(f"lowlight={lowlight}, but the pictures of {source} are dark already ({done}); leave it out")


def check_n2v_crops(run: Run) -> None:
    """Check that a training with denoise=n2v has a picture to cut crops from."""
    from yolo_wnlb.yolo import denoise, noise2void

    given = arguments_of(run)
    if not given.get("denoise") or (asked := denoise.read_request(given["denoise"]))["target"] != noise2void.TARGET:
        return
    source = run.spec["train_data"]
    files = [*coco.split_files(coco.data_set(source, "train"), source, "train"), *labels.unlabelled(source)]
    with quiet():
        noise2void.croppable(files, noise2void.side_of(asked, given.get("imgsz", 640)))


def check_unet_data(run: Run, truth: coco.Truth) -> None:
    """Check that the training pictures have objects of one class, and are no smaller than a crop."""
    from yolo_wnlb.denoiseg.fit import fit

    names = [category["name"] for category in truth["categories"]]
    source = run.spec["train_data"]
    if len(names) != 1:
        raise ValueError(
            f"{source} has {len(names)} classes ({coco.first(names)}), and unet tells objects of one apart; give data "
            "with one, or take a detector for several, such as yolo"
        )
    crop = arguments_of(run).get("crop", inspect.signature(fit).parameters["crop"].default)
    if small := [image for image in truth["images"] if min(image["width"], image["height"]) < crop]:
        raise ValueError(
            f"{small[0]['file_name']} of {source} has {small[0]['width']} x {small[0]['height']} pixels, less than a "
            f"crop of {crop} x {crop} ({len(small)} pictures have); leave them out, or give a smaller crop"
        )


def check_crops(run: Run, tuning: coco.Truth) -> None:
    """Check that the pictures of tune: and the unlabelled ones are no smaller than a crop either."""
    from yolo_wnlb.denoiseg.fit import fit

    crop = arguments_of(run).get("crop", inspect.signature(fit).parameters["crop"].default)
    small = [image["file_name"] for image in tuning["images"] if min(image["width"], image["height"]) < crop]
    others = labels.unlabelled(run.spec["train_data"])
    large = {*large_enough(others, crop)}
    small += [str(file) for file in others if file not in large]
    if small:
        raise ValueError(
            f"{small[0]} cannot be read or is smaller than a crop of {crop} x {crop} ({len(small)} pictures of tune: "
            "and unlabelled:); leave them out, or give a smaller crop"
        )


def check_room(runs: Sequence[Run], truth: coco.Truth) -> None:
    """Estimate what runs write, and compare with the room on the disk."""
    counts = [0]
    for run in runs:
        if "train" in run.spec and run.spec["detector"] == YOLO:
            counts.append(sum(p.numel() for p in built_yolo(*yolo_definition(run.spec)).parameters()))
        elif "train" in run.spec and run.spec["detector"] == UNET:
            counts.append(unet_parameters(run))
        elif "train" in run.spec:
            counts.append(OTHER_PARAMETERS)
    enhanced = {run.spec["enhance"] for run in runs if "enhance" in run.spec}
    pixels = sum(image["width"] * image["height"] for image in truth["images"])
    kept, training = KEPT_BYTES * sum(counts), TRAINING_BYTES * max(counts)
    refuse_full_disk(runs, kept + training + PNG_BYTES * pixels * len(enhanced) + MARGIN)


def unet_parameters(run: Run) -> int:
    """Count the parameters of the U-Net of a run, those of one in front too."""
    from yolo_wnlb.denoiseg.fit import fit
    from yolo_wnlb.denoiseg.unet import build

    of_build, _ = split_arguments(run.spec, fit)
    sequential = of_build.pop("sequential", False)
    return (1 + sequential) * sum(p.numel() for p in build("object", **of_build).parameters())


def refuse_full_disk(runs: Sequence[Run], needed: float) -> None:
    """Raise OSError if so many bytes have no room in the folder of the runs."""
    place = existing_parent(runs[0].out)
    if (free := shutil.disk_usage(place).free) < needed:
        raise OSError(
            f"{len(runs)} runs will write about {needed / 1e9:.1f} GB into {runs[0].out}, and {free / 1e9:.1f} GB are "
            "free there: make room, or choose another out="
        )
