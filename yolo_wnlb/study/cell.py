"""One cell of a study, in a process of its own: train, predict, evaluate, and write down what came out.

spec.json --python -m yolo_wnlb.study.cell FOLDER--> last.pt, evaluation.json, cell.json
"""

from __future__ import annotations

import inspect
import json
import os
import platform
import re
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yolo_wnlb.data import coco
from yolo_wnlb.data.journal import write_json
from yolo_wnlb.data.sources import listed, renamed
from yolo_wnlb.metrics.average_precision import evaluate
from yolo_wnlb.study.plan import ENHANCED, METRICS, RECORD, RESULT, SPEC, YOLO, located, safe_name
from yolo_wnlb.twins.enhance import sha256_of
from yolo_wnlb.version import __version__
from yolo_wnlb.yolo.grafting import graft, load_yaml, to_yaml


def run_cell(folder: Path) -> None:
    """Train, predict, evaluate: what the process of one cell does."""
    spec = json.loads((folder / SPEC).read_text(encoding="utf-8"))
    device, home = spec.pop("device"), folder.parent
    begun, source = time.time(), spec.get("weights") or spec.get("start") or ""
    file = Path(located(home, source))
    files = {source: sha256_of(file)} if file.is_file() else {}
    if "weights" not in spec:
        (train_yolo if spec["detector"] == YOLO else train_other)(spec, folder, device)
    trained, memory = time.time() - begun, peak_memory()

    truth = coco.ground_truth(spec["data"], spec["split"])
    detector, model = loaded(spec, folder, device)
    predict = {"imgsz": spec["imgsz"]} if "imgsz" in spec else {}
    images = pictures(truth, spec["data"], spec["split"], enhanced_in(home, spec.get("enhance")))
    found = detector.predict(model, images, coco.class_map(detector.names(model), truth), **predict)
    result = evaluate(truth, found, protocol=detector.describe(model, **predict))
    result.to_json(folder / RESULT)
    write_json(
        folder / RECORD,
        {
            "spec": spec,
            "files": files,
            **{metric: result.masks[metric] for metric in METRICS},
            "box AP": result.boxes["AP"],
            "w": learned(model),
            **size_of(model, result.protocol["image_size"]),
            "training": {"seconds": round(trained, 1), "peak MB": memory} if "train" in spec else None,
            "protocol": result.protocol,
            "where": where(device),
        },
    )


def enhanced_in(home: Path, enhance: str | None) -> Path | None:
    """Return the folder of the pictures that an enhancer made; None without one."""
    return home / ENHANCED / safe_name(enhance) if enhance else None


def pictures(truth: coco.Truth, data: str, split: str, enhanced: Path | None) -> dict[int, Path]:
    """Find the pictures of a truth, or their enhanced twins: {image id: file}."""
    if not enhanced:
        return coco.image_files(truth, data, split)
    twins = [{**image, "file_name": renamed(image["file_name"], ".png")} for image in truth["images"]]
    return coco.image_files({**truth, "images": twins}, enhanced / "data.yaml", split)


def train_data(spec: Mapping[str, Any], home: Path) -> tuple[str, Path | None]:
    """Return the data to train on, and the folder of its enhanced twin: if it is the study's own data."""
    same = Path(spec["train_data"]).resolve() == Path(spec["data"]).resolve()
    return spec["train_data"], enhanced_in(home, spec.get("enhance")) if same else None


def train_yolo(spec: Mapping[str, Any], folder: Path, device: str | None) -> None:
    """Train as `yolo train` does; the last weights count, none is chosen by the pictures it is judged on."""
    import torch
    from ultralytics import YOLO

    model = spec["model"]
    if "after" in spec:
        grafted, _ = graft(load_yaml(model), spec["after"], spec.get("block"))
        model = folder / f"{Path(model).stem}-wnlb.yaml"  # its scale is the letter in its name
        model.write_text(to_yaml(grafted, f"{spec['model']} with blocks"), encoding="utf-8")
    quiet: dict[str, Any] = {"plots": False, "val": False, "exist_ok": True, "verbose": False}
    quiet["pretrained"] = located(folder.parent, spec["start"]) if "start" in spec else False
    quiet |= {"project": str(folder), "name": "train", "seed": spec["seed"], "device": device}
    data, enhanced = train_data(spec, folder.parent)
    torch.manual_seed(spec["seed"])  # Ultralytics 8.4.0 draws a model before it sets the seed
    YOLO(model).train(
        data=str(enhanced / "data.yaml") if enhanced else data, **quiet, **{**spec["train"], **spec.get("options", {})}
    )
    (folder / "train/weights/last.pt").replace(folder / "last.pt")


def train_other(spec: Mapping[str, Any], folder: Path, device: str | None) -> None:
    """Train Mask R-CNN or SOLOv2 on the same pictures."""
    import torch

    from yolo_wnlb.detectors import torchvision
    from yolo_wnlb.detectors.fit import fit

    data, enhanced = train_data(spec, folder.parent)
    truth = coco.ground_truth(data, "train")
    torch.manual_seed(spec["seed"])
    names = [category["name"] for category in truth["categories"]]
    built, settings = arguments_of(spec)
    weights = located(folder.parent, spec["start"]) if "start" in spec else None
    model: Any = torchvision.build(spec["detector"], names, weights=weights, **built)
    files = pictures(truth, data, "train", enhanced)
    (folder / "last.pt").unlink(missing_ok=True)
    fit(model, truth, files, folder, **settings, seed=spec["seed"], device=device, progress=False)


def arguments_of(spec: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arguments of `build` and of `fit` in a cell of Mask R-CNN or SOLOv2."""
    from yolo_wnlb.detectors.fit import fit

    built = {**spec["train"], **spec.get("options", {})}
    settings = {key: built.pop(key) for key in [*built] if key in inspect.signature(fit).parameters}
    built["block"] = spec.get("block")
    if "after" in spec:
        built["stages"] = [int(stage[1:]) for stage in listed(spec["after"])]  # P3 is the end of res3
    return built, settings


def loaded(spec: Mapping[str, Any], folder: Path, device: str | None) -> tuple[Any, Any]:
    """Return the module that speaks for the detector of a cell, and its model: trained, given or as published."""
    detector, source = module_of(spec["detector"]), spec.get("weights")
    weights = located(folder.parent, source) if source else str(folder / "last.pt")
    if spec["detector"] != YOLO and not (Path(weights).is_file() and detector.reads(weights)):
        return detector, detector.published(spec["detector"], weights, device, **spec["sizes"])
    return detector, detector.load(weights, device)


def module_of(detector: str) -> Any:
    """Return the module that speaks for a kind of detector."""
    from yolo_wnlb.detectors import torchvision, ultralytics

    return ultralytics if detector == YOLO else torchvision


def network(model: Any) -> Any:
    """Return the nn.Module of a loaded detector; None where it is an export."""
    module = getattr(model, "module", None)
    return module if module is not None else getattr(model.backend, "model", None)


def learned(model: Any) -> list[float]:
    """Return the learned w of the blocks, from the first on."""
    from yolo_wnlb.wnlb import WNLB

    blocks = [m for m in network(model).modules() if isinstance(m, WNLB)] if network(model) is not None else []
    return [round(float(block.w), 5) for block in blocks if block.weighted]


def size_of(model: Any, image_size: str) -> dict[str, float]:
    """Count parameters, and floating-point operations (a multiplication and its addition are two) of one image.

    Of Mask R-CNN and SOLOv2 these are the operations of the backbone and the pyramid: the heads work
    as much as they find.
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


def peak_memory() -> int:
    """Return the most memory this process held so far, in MB: of the GPU if it used one, else its own."""
    import torch

    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return int(torch.cuda.max_memory_allocated() / 1e6)
    if sys.platform == "win32":
        return 0
    import resource

    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3))


def where(device: str | None) -> dict[str, str]:
    """Say on what, and with which versions, a cell was run."""
    import torch
    import ultralytics

    cuda = torch.cuda.get_device_name(0) if torch.cuda.is_available() and device != "cpu" else ""
    told = {"device": cuda or f"CPU, {torch.get_num_threads()} threads", "python": platform.python_version()}
    return {**told, "torch": torch.__version__, "ultralytics": ultralytics.__version__, "yolo_wnlb": __version__}


def follow() -> None:
    """End with whoever holds the other end of the standard input, however that ended."""
    os.read(0, 1)  # returns at its end; sys.stdin would be locked when we end first
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=follow, daemon=True).start()
    run_cell(Path(sys.argv[1]))
