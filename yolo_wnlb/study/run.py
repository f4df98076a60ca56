"""One run of a study, in a process of its own: train, predict, evaluate, and record the result.

spec.json --run(FOLDER)--> last.pt, evaluation.json, run.json
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yolo_wnlb.data import coco, folders
from yolo_wnlb.data.journal import write_json
from yolo_wnlb.metrics.accuracy import Accuracy, score
from yolo_wnlb.metrics.average_precision import evaluate
from yolo_wnlb.metrics.instances import THRESHOLDS, Found, by_score, instances
from yolo_wnlb.reading import read_json
from yolo_wnlb.study import labels
from yolo_wnlb.study.instances import MOST, chosen_on, maps_of
from yolo_wnlb.study.models import (
    enhanced_folder,
    environment,
    learned_w,
    learnt_from,
    load_model,
    model_size,
    model_yaml,
    pictures,
    split_arguments,
    task_of,
    train_data,
    why_boxes_only,
    with_label_images,
)
from yolo_wnlb.study.plan import CLASSIFIER, FUSION, METRICS, RECORD, RESULT, SPEC, UNET, YOLO
from yolo_wnlb.study.runs import weights_path

UNET_SIZE = "256x256"  # pixels that the operations of a U-Net are counted for; it takes pictures of any size


def main(folder: str) -> None:
    """Run the run of a folder; this is what its process does."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    run(Path(folder))


def end_with_parent() -> None:
    """End this process when its parent does, which holds the other end of the standard input."""
    os.read(0, 1)  # it returns at the end of the input; reading sys.stdin would hold a lock that our own exit wants
    os._exit(1)


def run(folder: Path) -> None:
    """Train, predict and evaluate as spec.json in the folder says; the record is written last.

    A training that was interrupted goes on; the record then has the time of this part alone.
    """
    spec = read_json(folder / SPEC)
    device, files, begun = spec.pop("device"), spec.pop("begun with")["files"], time.time()
    resumed = any((folder / place).is_file() for place in ("last.pt", "train/last.pt"))
    if "weights" not in spec:
        trainers = {YOLO: train_yolo, CLASSIFIER: train_classifier, FUSION: train_fusion, UNET: train_unet}
        trainers.get(spec["detector"], train_other)(spec, folder, device)
    seconds, memory = time.time() - begun, peak_memory()
    of_detectors = measure_masks if "tune" in spec else measure_precision
    measures = {CLASSIFIER: measure_accuracy, FUSION: measure_accuracy, UNET: measure_unet}
    measured = measures.get(spec["detector"], of_detectors)(spec, folder, device)
    training = {"seconds": round(seconds, 1), "peak MB": memory, "resumed": resumed} if "train" in spec else None
    record = {"spec": spec, "files": files, **measured, "training": training, "environment": environment(device)}
    write_json(folder / RECORD, record)


# ---- measuring -----------------------------------------------------------------------------------


def measure_precision(spec: Mapping[str, Any], folder: Path, device: str | None) -> dict[str, Any]:
    """Evaluate a detector, write the evaluation, and return what the record says of it."""
    out = folder.parent
    truth = coco.ground_truth(spec["data"], spec["split"])
    detector, model = load_model(spec, folder, device)
    size = {"imgsz": spec["imgsz"]} if "imgsz" in spec else {}
    images = pictures(truth, spec["data"], spec["split"], enhanced_folder(out, spec.get("enhance")))
    predictions = detector.predict(model, images, coco.class_map(detector.names(model), truth), **size)
    boxes_only = why_boxes_only(truth, task_of(model))
    kinds = ("bbox",) if boxes_only else ("segm", "bbox")
    result = evaluate(truth, predictions, iou_types=kinds, protocol=detector.describe(model, **size))
    result.to_json(folder / RESULT)
    return {
        "masks": None if boxes_only else {metric: result.masks[metric] for metric in METRICS},
        "boxes": {metric: result.boxes[metric] for metric in METRICS},
        "boxes only": boxes_only,
        "w": learned_w(model),
        **model_size(model, result.protocol["image_size"]),
        "protocol": result.protocol,
    }


def measure_masks(spec: Mapping[str, Any], folder: Path, device: str | None) -> dict[str, Any]:
    """Score the masks of a detector as instances, write the score, and return what the record says of it.

    The masks have COCO's AP beside it, as `measure: coco` would find it.
    """
    enhanced = enhanced_folder(folder.parent, spec.get("enhance"))
    truth, tuning = (coco.ground_truth(spec["data"], spec[key]) for key in ("split", "tune"))
    images, to_tune = (
        pictures(of, spec["data"], spec[key], enhanced) for of, key in ((truth, "split"), (tuning, "tune"))
    )
    detector, model = load_model(spec, folder, device)
    size = {"imgsz": spec["imgsz"]} if "imgsz" in spec else {}
    options, names = {**size, "conf": THRESHOLDS[0], "max_det": MOST}, detector.names(model)

    def found(of: coco.Truth, files: dict[Any, Path]) -> Found:
        return by_score(of, detector.predict(model, files, coco.class_map(names, of), **options))

    chosen = chosen_on(spec["tune"], tuning, found(tuning, to_tune))
    protocol = {**detector.describe(model, **options), "tune": spec["tune"]}
    result = instances(truth, found(truth, images), chosen, protocol=protocol)
    predictions = detector.predict(model, images, coco.class_map(names, truth), **size)
    precision = evaluate(truth, predictions, iou_types=("segm",), protocol=detector.describe(model, **size))
    result.to_json(folder / RESULT)
    return {
        "instances": result.numbers(),
        "masks": {metric: precision.masks[metric] for metric in METRICS},
        "w": learned_w(model),
        **model_size(model, result.protocol["image_size"]),
        "protocol": result.protocol,
    }


def measure_unet(spec: Mapping[str, Any], folder: Path, device: str | None) -> dict[str, Any]:
    """Score a U-Net as instances, write the score, and return what the record says of it.

    A network that learnt to denoise only has no score. Where it was trained on noise that was added, its PSNR is known.
    """
    enhanced = enhanced_folder(folder.parent, spec.get("enhance"))
    truth = coco.ground_truth(spec["data"], spec["split"])
    images = pictures(truth, spec["data"], spec["split"], enhanced)
    _, model = load_model(spec, folder, device)
    record: dict[str, Any] = {"masks": None, "instances": None, "PSNR": None, "unscored": None}
    protocol = {**model.describe(), "tune": spec["tune"]}
    if model.segments:
        tuning = coco.ground_truth(spec["data"], spec["tune"])
        to_tune = pictures(tuning, spec["data"], spec["tune"], enhanced)
        chosen = chosen_on(spec["tune"], tuning, maps_of(model, tuning, to_tune))
        result = instances(truth, maps_of(model, truth, images), chosen, protocol=protocol)
        result.to_json(folder / RESULT)
        record |= {"instances": result.numbers()}
        protocol = result.protocol
    else:
        record |= {"unscored": "alpha: 1 learns to denoise, and not to segment"}
    if model.denoises and model.noise:
        noisy, denoised = zip(*model.psnr(images.values()))
        record["PSNR"] = {"noisy": sum(noisy) / len(noisy), "denoised": sum(denoised) / len(denoised)}
    return {**record, "w": [], **model_size(model, UNET_SIZE), "protocol": protocol}


def measure_accuracy(spec: Mapping[str, Any], folder: Path, device: str | None) -> dict[str, Any]:
    """Measure a classifier, write its accuracy, and return what the record says of it.

    A classifier of other classes, which only lends its weights to other rows, is measured on the pictures of its own
    data that it has not learnt from.
    """
    detector, model = load_model(spec, folder, device)
    names = [*detector.names(model).values()]
    size = {"imgsz": spec["imgsz"]} if "imgsz" in spec else {}
    protocol = detector.describe(model, **size)

    def accuracy(data: folders.Labelled) -> Accuracy:
        return score(data, detector.predict(model, data, **size), names, protocol)

    data = folders.read(spec["data"], spec["split"])
    if lends_only := not {*data.classes} <= {*names} and "train" in spec:
        data = folders.held_out(spec["train_data"])
    result = accuracy(data)
    result.to_json(folder / RESULT)
    learnt = accuracy(folders.read(spec["train_data"], "train")).numbers()["accuracy"] if "train" in spec else -1.0
    return {
        "accuracy": {
            **result.numbers(),
            "train accuracy": learnt,
            **{f"class {name}": value for name, value in result.per_class().items()},
            **{f"group {name}": value for name, value in result.per_group().items()},
        },
        "other classes": names if lends_only else None,
        **model_size(model, result.protocol["image_size"]),
        "protocol": result.protocol,
    }


# ---- training ------------------------------------------------------------------------------------


def train_yolo(spec: Mapping[str, Any], folder: Path, device: str | None) -> None:
    """Train as `yolo train` does, and keep the last weights: none are chosen by the pictures they are judged on."""
    import torch
    from ultralytics import YOLO

    fixed: dict[str, Any] = {"plots": False, "val": False, "exist_ok": True, "verbose": False}
    fixed["pretrained"] = weights_path(folder.parent, spec["start"]) if "start" in spec else False
    fixed |= {"project": str(folder), "name": "train", "seed": spec["seed"], "device": device}
    data, enhanced = train_data(spec, folder.parent)
    data = str(enhanced / "data.yaml") if enhanced else data
    if "labels" in spec:
        data = str(labels.as_data(data, spec["labels"], spec["seed"], folder))
    torch.manual_seed(spec["seed"])  # Ultralytics 8.4.0 draws a model before it sets the seed
    YOLO(model_yaml(spec, folder)).train(data=data, **fixed, **{**spec["train"], **spec.get("options", {})})
    (folder / "train/weights/last.pt").replace(folder / "last.pt")


def train_other(spec: Mapping[str, Any], folder: Path, device: str | None) -> None:
    """Train Mask R-CNN or SOLOv2 on the same pictures."""
    import torch

    from yolo_wnlb.detectors import torchvision
    from yolo_wnlb.detectors.fit import fit

    truth, files, kept = learnt_from(spec, folder.parent)
    truth = {
        **truth,
        "images": [image for image in truth["images"] if image["id"] in kept],
        "annotations": [annotation for annotation in truth["annotations"] if annotation["image_id"] in kept],
    }
    torch.manual_seed(spec["seed"])
    names = [category["name"] for category in truth["categories"]]
    of_build, of_fit = split_arguments(spec, fit)
    weights = weights_path(folder.parent, spec["start"]) if "start" in spec else None
    model: Any = torchvision.build(spec["detector"], names, weights=weights, **of_build)
    files = {image_id: file for image_id, file in files.items() if image_id in kept}
    fit(model, truth, files, folder, **of_fit, seed=spec["seed"], device=device, resume=True, progress=False)


def train_unet(spec: Mapping[str, Any], folder: Path, device: str | None) -> None:
    """Train a U-Net, and keep the weights that are best on the pictures of tune:."""
    import torch

    from yolo_wnlb.denoiseg.fit import fit
    from yolo_wnlb.denoiseg.unet import build

    truth, files, kept = learnt_from(spec, folder.parent)
    tuning = coco.ground_truth(spec["data"], spec["tune"])
    to_tune = pictures(tuning, spec["data"], spec["tune"], enhanced_folder(folder.parent, spec.get("enhance")))
    of_build, of_fit = split_arguments(spec, fit)
    [category] = truth["categories"]
    start = weights_path(folder.parent, spec["start"]) if "start" in spec else None
    torch.manual_seed(spec["seed"])
    model = build(category["name"], start=start, **of_build)
    learnt, tuned = with_label_images(truth, files, kept), with_label_images(tuning, to_tune, {*to_tune})
    data, enhanced = train_data(spec, folder.parent)
    own = {Path(file).resolve() for file, _ in learnt}
    others = labels.unlabelled(enhanced / "data.yaml" if enhanced else data)
    learnt += [(file, None) for file in others if file.resolve() not in own]
    given = {"seed": spec["seed"], "device": device, "resume": True, "progress": False}
    best = fit(model, learnt, folder / "train", tune=tuned, **of_fit, **given)
    shutil.copyfile(best, folder / "last.pt")


def train_classifier(spec: Mapping[str, Any], folder: Path, device: str | None) -> None:
    """Train a classifier on the pictures of its class folders, and keep the last weights."""
    import torch

    from yolo_wnlb.classifiers.fit import fit
    from yolo_wnlb.classifiers.nets import build

    data = folders.read(spec["train_data"], "train")
    of_build, of_fit = split_arguments(spec, fit)
    weights = weights_path(folder.parent, spec["start"]) if "start" in spec else None
    torch.manual_seed(spec["seed"])
    model = build(of_build["arch"], data.classes, weights)
    fit(model, data, folder, **of_fit, seed=spec["seed"], device=device, resume=True, progress=False)


def train_fusion(spec: Mapping[str, Any], folder: Path, device: str | None) -> None:
    """Train the layer on the features of two frozen classifiers."""
    import torch

    from yolo_wnlb.classifiers.fusion import build
    from yolo_wnlb.classifiers.fusion_fit import fit

    data = folders.read(spec["train_data"], "train")
    of_build, of_fit = split_arguments(spec, fit)
    foreground, background = (weights_path(folder.parent, weights) for weights in spec["start"])
    torch.manual_seed(spec["seed"])
    model = build(foreground, background, data.classes, **of_build)
    fit(model, data, folder, **of_fit, seed=spec["seed"], device=device, progress=False)


def peak_memory() -> int:
    """Return the most memory this process held so far, in MB: of the GPU if it used one, of the process otherwise."""
    import torch

    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return int(torch.cuda.max_memory_allocated() / 1e6)
    if sys.platform == "win32":
        return 0
    import resource

    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3))
