"""What the runs of a study are made of: their pictures, their models, their environment."""

from __future__ import annotations

import inspect
import platform
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from yolo_wnlb.data import coco
from yolo_wnlb.data.sources import listed, renamed
from yolo_wnlb.metrics.instances import label_image
from yolo_wnlb.study import labels
from yolo_wnlb.study.plan import CLASSIFIER, ENHANCED, FUSION, MEASURED, UNET, YOLO
from yolo_wnlb.study.runs import safe_name, weights_path
from yolo_wnlb.version import __version__
from yolo_wnlb.yolo.grafting import graft, load_yaml, to_yaml

# ---- the pictures --------------------------------------------------------------------------------


def enhanced_folder(out: Path, enhance: str | None) -> Path | None:
    """Return the folder of the pictures that an enhancer makes; None without one."""
    return out / ENHANCED / safe_name(enhance) if enhance else None


def pictures(truth: coco.Truth, data: str, split: str, enhanced: Path | None) -> dict[int, Path]:
    """Find the pictures of a truth, or their enhanced twins: {image id: file}."""
    if not enhanced:
        return coco.image_files(truth, data, split)
    twins = [{**image, "file_name": renamed(image["file_name"], ".png")} for image in truth["images"]]
    return coco.image_files({**truth, "images": twins}, enhanced / "data.yaml", split)


def train_data(spec: Mapping[str, Any], out: Path) -> tuple[str, Path | None]:
    """Return the data to train on, and the folder of its enhanced twin if it is the study's own data."""
    same = Path(spec["train_data"]).resolve() == Path(spec["data"]).resolve()
    return spec["train_data"], enhanced_folder(out, spec.get("enhance")) if same else None


def learnt_from(spec: Mapping[str, Any], out: Path) -> tuple[coco.Truth, dict[Any, Path], set[Any]]:
    """Read the training pictures of a run that is not YOLO's.

    Returns: Their truth, their files by image id, and the ids of those that keep their labels.
    """
    data, enhanced = train_data(spec, out)
    truth = coco.ground_truth(data, "train")
    files = pictures(truth, data, "train", enhanced)
    if "labels" not in spec:
        return truth, files, {*files}
    chosen, _ = labels.drawn(enhanced / "data.yaml" if enhanced else data, spec["labels"], spec["seed"])
    wanted = {file.resolve() for file in chosen}
    kept = {image_id for image_id, file in files.items() if file.resolve() in wanted}
    if len(kept) < len(chosen):
        raise ValueError(f"{data}, train: {len(chosen) - len(kept)} pictures are listed twice; list each once")
    return truth, files, kept


def with_label_images(truth: coco.Truth, files: Mapping[Any, Path], kept: set[Any]) -> list[tuple[Path, Any]]:
    """Return each picture with its label image, as `denoiseg.fit.fit` takes them; None for one that has no labels."""
    annotations: dict[Any, list[Any]] = {image["id"]: [] for image in truth["images"]}
    for annotation in truth["annotations"]:
        annotations[annotation["image_id"]].append(annotation)
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    return [
        (file, label_image(annotations[image_id], *sizes[image_id]) if image_id in kept else None)
        for image_id, file in files.items()
    ]


# ---- what is trained -----------------------------------------------------------------------------


def model_yaml(spec: Mapping[str, Any], folder: Path) -> str | Path:
    """Return the model YAML of a run, written into the folder where blocks are inserted."""
    if "after" not in spec:
        return spec["model"]
    grafted, _ = graft(load_yaml(spec["model"]), spec["after"], spec.get("block"))
    file = folder / f"{Path(spec['model']).stem}-wnlb.yaml"  # the letter in its name is its scale
    file.write_text(to_yaml(grafted, f"{spec['model']} with blocks"), encoding="utf-8")
    return file


def split_arguments(spec: Mapping[str, Any], fit: Callable[..., Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split the arguments of a training that is not YOLO's into those of `build` and those of `fit`."""
    of_build = {**spec["train"], **spec.get("options", {})}
    of_fit = {key: of_build.pop(key) for key in [*of_build] if key in inspect.signature(fit).parameters}
    if spec["detector"] in (UNET, *MEASURED["accuracy"]):
        return of_build, of_fit
    of_build["block"] = spec.get("block")
    if "after" in spec:
        of_build["stages"] = [int(stage[1:]) for stage in listed(spec["after"])]  # P3 is the end of res3
    return of_build, of_fit


# ---- the trained or given model ------------------------------------------------------------------


def load_model(spec: Mapping[str, Any], folder: Path, device: str | None) -> tuple[Any, Any]:
    """Return the module that serves the detector of a run, and the model: trained, given or as published."""
    detector, source = detector_module(spec["detector"]), spec.get("weights")
    weights = weights_path(folder.parent, source) if source else str(folder / "last.pt")
    if spec["detector"] not in (YOLO, UNET, *MEASURED["accuracy"]) and not (
        Path(weights).is_file() and detector.reads(weights)
    ):
        return detector, detector.published(spec["detector"], weights, device, **spec["sizes"])
    return detector, detector.load(weights, device)


def detector_module(detector: str) -> Any:
    """Return the module that serves a detector of `DETECTORS`."""
    from yolo_wnlb.classifiers import detector as classifier
    from yolo_wnlb.denoiseg import detector as unet
    from yolo_wnlb.detectors import torchvision, ultralytics

    modules = {YOLO: ultralytics, CLASSIFIER: classifier, FUSION: classifier, UNET: unet}
    return modules.get(detector, torchvision)


def network(model: Any) -> Any:
    """Return the nn.Module of a loaded model; None if it is an export that has none."""
    from torch import nn

    module = getattr(model, "module", None)
    module = module if module is not None else getattr(model.backend, "model", None)
    return module if isinstance(module, nn.Module) else None


def task_of(model: Any) -> str:
    """Return "segment" or "detect", for a loaded model."""
    from ultralytics.nn.tasks import guess_model_task

    if hasattr(model, "module"):  # Mask R-CNN, SOLOv2
        return "segment"
    return guess_model_task(network(model)) if network(model) is not None else model.backend.task


def why_boxes_only(truth: coco.Truth, task: str) -> str | None:
    """Say why masks cannot be measured, for a model of this task; None if they can."""
    if lacking := sum(not annotation.get("segmentation") for annotation in truth["annotations"]):
        return f"{lacking} of {len(truth['annotations'])} objects of the truth have no mask"
    return None if task == "segment" else "the model finds boxes only"


def learned_w(model: Any) -> list[float]:
    """Return the learned w of the blocks, from the first on; the mean of all channels where each has its own."""
    from yolo_wnlb.wnlb import WNLB

    module = network(model)
    blocks = [m for m in module.modules() if isinstance(m, WNLB)] if module is not None else []
    return [round(block.w.mean().item(), 5) for block in blocks if block.weighted]


def model_size(model: Any, image_size: str) -> dict[str, float]:
    """Count parameters, and floating-point operations (a multiplication and its addition are two) for one image.

    For Mask R-CNN and SOLOv2 these are the operations of the backbone and the pyramid: the work of the
    heads depends on what they find.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    module = network(model)
    if module is None:
        return {}
    sides = [int(side) for side in re.findall(r"\d+", str(image_size))][:2] or [640]
    height, width = (sides * 2)[:2]
    first = next(module.parameters())  # the weights of the first convolution
    image = torch.zeros(1, first.shape[1], height, width, device=first.device, dtype=first.dtype)
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        getattr(module, "backbone", module)(image)
    parameters = sum(p.numel() for p in module.parameters())
    return {"parameters M": round(parameters / 1e6, 3), "GFLOPs": round(counter.get_total_flops() / 1e9, 2)}


def environment(device: str | None) -> dict[str, str]:
    """Name the device and the versions that a run uses."""
    import torch
    import ultralytics

    cuda = torch.cuda.get_device_name(0) if torch.cuda.is_available() and device != "cpu" else ""
    return {
        "device": cuda or f"CPU, {torch.get_num_threads()} threads",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "ultralytics": ultralytics.__version__,
        "yolo_wnlb": __version__,
    }
