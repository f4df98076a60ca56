"""One cell of a study, in a process of its own: train, predict, evaluate, and write down what came out.

spec.json --python -m yolo_wnlb.cell FOLDER--> last.pt, evaluation.json, cell.json
"""

from __future__ import annotations

import inspect
import json
import platform
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yolo_wnlb import coco
from yolo_wnlb.evaluate import evaluate
from yolo_wnlb.grafting import graft, load_yaml, to_yaml
from yolo_wnlb.journal import write_json
from yolo_wnlb.sources import listed
from yolo_wnlb.study import METRICS, RECORD, RESULT, SPEC, YOLO


def run_cell(folder: Path) -> None:
    """Train, predict, evaluate: what the process of one cell does."""
    spec = json.loads((folder / SPEC).read_text(encoding="utf-8"))
    device, home = spec.pop("device"), folder.parent
    begun, weights = time.time(), located(home, spec.get("weights"))
    if not weights:
        weights = train_yolo(spec, folder, device) if spec["detector"] == YOLO else train_other(spec, folder, device)
    trained, memory = time.time() - begun, peak_memory()

    truth = coco.ground_truth(spec["data"], spec["split"])
    model = module_of(spec["detector"]).load(weights, device)
    names = module_of(spec["detector"]).names(model)
    files = coco.image_files(truth, pictures_of(home, spec), spec["split"])
    predict = size_in(spec)
    found = module_of(spec["detector"]).predict(model, files, coco.class_map(names, truth), **predict)
    result = evaluate(truth, found, protocol=module_of(spec["detector"]).describe(model, **predict))
    result.to_json(folder / RESULT)
    write_json(
        folder / RECORD,
        {
            "spec": spec,
            **{metric: result.masks[metric] for metric in METRICS},
            "box AP": result.boxes["AP"],
            "w": learned(model),
            **size_of(model, result.protocol["image_size"]),
            "training": {"seconds": round(trained, 1), "peak MB": memory} if "train" in spec else None,
            "protocol": result.protocol,
            "where": where(device),
        },
    )


def located(home: Path, weights: str | None) -> str | None:
    """Return the path of weights: those that a row of the study trained, or others as the study says them."""
    return str(home / weights) if weights and (home / weights).is_file() else weights


def pictures_of(home: Path, spec: Mapping[str, Any]) -> Path:
    """Return the data YAML of the pictures that a cell looks at."""
    if "enhance" not in spec:
        return Path(spec["data"])
    return home / "enhanced" / re.sub(r"[^A-Za-z0-9.]+", "-", spec["enhance"]) / "data.yaml"


def size_in(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the argument of `predict` for the size of the pictures, if the study says one."""
    size = spec.get("imgsz") or spec.get("train", {}).get("imgsz")
    return {"imgsz": size} if size else {}


def train_yolo(spec: Mapping[str, Any], folder: Path, device: str | None) -> str:
    """Train as `yolo train` does; the last weights count, none is chosen by the pictures it is judged on."""
    from ultralytics import YOLO

    model = spec["model"]
    if "after" in spec:
        grafted, _ = graft(load_yaml(model), spec["after"], spec.get("block"))
        model = folder / f"{Path(model).stem}-wnlb.yaml"  # its scale is the letter in its name
        model.write_text(to_yaml(grafted, f"{spec['model']} with the blocks of row {spec['row']}"), encoding="utf-8")
    quiet: dict[str, Any] = {"plots": False, "val": False, "exist_ok": True, "verbose": False}
    quiet["pretrained"] = located(folder.parent, spec.get("start")) or False
    quiet |= {"project": str(folder), "name": "train", "seed": spec["seed"], "device": device}
    YOLO(model).train(data=train_data(spec, folder), **{**quiet, **spec["train"], **spec.get("options", {})})
    return str((folder / "train/weights/last.pt").replace(folder / "last.pt"))


def train_other(spec: Mapping[str, Any], folder: Path, device: str | None) -> str:
    """Train Mask R-CNN or SOLOv2 on the same pictures."""
    import torch

    from yolo_wnlb.detectors import torchvision
    from yolo_wnlb.detectors.fit import fit

    data = train_data(spec, folder)
    truth = coco.ground_truth(data, "train")
    torch.manual_seed(spec["seed"])
    names = [category["name"] for category in truth["categories"]]
    settings = dict(spec["train"])
    built = {key: settings.pop(key) for key in [*settings] if key not in inspect.signature(fit).parameters}
    built |= {"weights": located(folder.parent, spec.get("start")), "block": spec.get("block")}
    if "after" in spec:
        built["stages"] = [int(stage[1:]) for stage in listed(spec["after"])]  # P3 is the end of res3
    model: Any = torchvision.build(spec["detector"], names, **{**built, **spec.get("options", {})})
    files = coco.image_files(truth, data, "train")
    (folder / "last.pt").unlink(missing_ok=True)
    return str(fit(model, truth, files, folder, **settings, seed=spec["seed"], device=device, progress=False))


def train_data(spec: Mapping[str, Any], folder: Path) -> str:
    """Return the data to train on: enhanced, if it is the study's own."""
    return str(pictures_of(folder.parent, spec)) if spec["train_data"] == spec["data"] else spec["train_data"]


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
    """Count parameters, and floating-point operations (a multiplication and its addition are two) of one image."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    module = network(model)
    if module is None:
        return {}
    sides = [int(side) for side in re.findall(r"\d+", str(image_size))][:2] or [640]
    height, width = (sides * 2)[:2]
    place = next(module.parameters()).device
    image = torch.zeros(3, height, width, device=place)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        module([image]) if hasattr(model, "classes") else module(image[None])
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

    from yolo_wnlb import __version__

    cuda = torch.cuda.get_device_name(0) if torch.cuda.is_available() and device != "cpu" else ""
    told = {"device": cuda or f"CPU, {torch.get_num_threads()} threads", "python": platform.python_version()}
    return {**told, "torch": torch.__version__, "ultralytics": ultralytics.__version__, "yolo_wnlb": __version__}


if __name__ == "__main__":
    run_cell(Path(sys.argv[1]))
