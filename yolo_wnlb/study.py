"""What a study asks for: its YAML, checked, and the cells (row x seed) that its table consists of.

A study names the data, the seeds and the training of each kind of detector once, so that no two rows
of a table can differ in them. Example:

    darken:                # data sets made first, where they are not there: settings of `yolo-wnlb darken`
      dark: {source: bright/data.yaml, preset: severe}
    data: dark/data.yaml
    split: val
    seeds: [0, 1, 2]
    train:                 # arguments of `yolo train`, or of `detectors.fit.fit` and `detectors.torchvision.build`
      yolo: {epochs: 10, imgsz: 256, batch: 8, optimizer: AdamW, lr0: 0.0005}
    rows:
      clean: {model: yolov8n-seg.yaml, data: bright/data.yaml, train: {epochs: 24}}
      brightened: {weights: clean, enhance: clahe}
      fine-tuned: {model: yolov8n-seg.yaml, start: clean}
      wNLB: {model: yolov8n-seg.yaml, start: clean, after: [P3, P4, P5], block: {sub_sample: 2}}
    baseline: fine-tuned   # or a list, one row of each detector: detectors are not compared with each other

What a row can say:

    detector   yolo (default), maskrcnn, maskrcnn_v2, solov2, solov2_light
    model      a model YAML to train (yolo)
    weights    what to evaluate as it is, or the row that trained it
    start      weights to start from, or the row that trained them; of another study: FOLDER/clean-{seed}/last.pt
    data       to train on, if not the study's
    train      a budget of its own, for rows that others start from
    options    more arguments of the training, for this row alone
    after      stages P2 ... P5 that a block is inserted after
    block      options of `WNLB`: one mapping for all stages, or one for each
    enhance    an enhancer (docs/enhancers.md) in front: of the study's pictures, in training and evaluation
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yolo_wnlb import coco
from yolo_wnlb.enhance import enhancer
from yolo_wnlb.lowlight import meant
from yolo_wnlb.sources import listed

KEYS: dict[str, Any] = {
    "darken": {},
    "data": None,
    "split": "val",
    "seeds": (0,),
    "train": {},
    "rows": None,
    "baseline": None,
}
ROW = ("detector", "model", "weights", "start", "data", "train", "options", "after", "block", "enhance")
STAGES = ("P2", "P3", "P4", "P5")
YOLO = "yolo"
RECORD, SPEC, LOG, RESULT = "cell.json", "spec.json", "log.txt", "evaluation.json"  # files of a cell
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


@dataclass(frozen=True)
class Cell:
    """One row of the table with one seed. `spec` is all that its result depends on."""

    row: str
    seed: int | None
    folder: Path
    spec: dict[str, Any]
    after: str | None = None  # the row whose cell of this seed has to be there

    @property
    def name(self) -> str:
        """Row and seed, as the user says them."""
        return self.row if self.seed is None else f"{self.row}, seed {self.seed}"

    @property
    def record(self) -> dict[str, Any] | None:
        """What the cell left behind when it was done; None before.

        Raises: ValueError: it was done under other conditions.
        """
        try:
            record: dict[str, Any] = json.loads((self.folder / RECORD).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        if other := differences(record["spec"], self.spec):
            raise ValueError(
                f"{self.folder} was run with another {other}; unlike runs have no place in one table: choose another "
                "out=, or delete that folder to run it again"
            )
        return record


def read_study(study: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """Read and check a study.

    Raises: ValueError: a key is unknown or missing, a row starts from one that is not there, or has a
        budget of its own although it is compared.
    """
    if isinstance(study, (str, Path)):
        import yaml

        file = Path(study)
        try:
            content = yaml.safe_load(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise FileNotFoundError(f"there is no study {file}; {__name__} shows how to write one") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{file} is no study, it cannot be read: {error}") from error
    else:
        content, file = dict(study), Path("study")
    if not isinstance(content, dict) or (lack := [key for key in ("data", "rows") if not content.get(key)]):
        raise ValueError(f"{file} is no study: it lacks {', '.join(lack) if isinstance(content, dict) else 'all keys'}")
    if unknown := [key for key in content if key not in KEYS]:
        raise ValueError(f"{file}: no key {unknown[0]}{meant(unknown[0], KEYS)}; choose from {', '.join(KEYS)}")
    content = {**KEYS, **content}
    for folder, how in content["darken"].items():
        if not isinstance(how, dict) or "source" not in how:
            raise ValueError(f"{file}, darken: {folder} is {how}; wanted {{source: bright/data.yaml, preset: severe}}")
    rows = {str(name): dict(row or {}) for name, row in content["rows"].items()}
    sources = {source_of(row) for row in rows.values()}
    for name, row in rows.items():
        if unknown := [key for key in row if key not in ROW]:
            raise ValueError(
                f"{file}, row '{name}': no key {unknown[0]}{meant(unknown[0], ROW)}; choose from {', '.join(ROW)}"
            )
        row.setdefault("detector", YOLO)
        if ("weights" in row and "model" in row) or (row["detector"] == YOLO and not {"weights", "model"} & row.keys()):
            raise ValueError(f"{file}, row '{name}' wants weights: to evaluate, or model: to train, and not both")
        if row.get("train") and name not in sources:
            raise ValueError(
                f"{file}, row '{name}' has a budget of its own, and would stand in one table with others; "
                "give train: for the detector, or write a second study"
            )
        source = rows.get(source_of(row), {})
        if source_of(source) in rows:
            raise ValueError(f"{file}, row '{name}' starts from a row that starts from a row; one step is enough")
        if source and source.get("detector", YOLO) != row["detector"]:
            raise ValueError(f"{file}, row '{name}' starts from '{source_of(row)}', which is another detector")
        after = listed(row.get("after"))
        if ("after" in row and "weights" in row) or ("block" in row and not after):
            raise ValueError(
                f"{file}, row '{name}': after: says where a model: to train gets blocks, block: which ones"
            )
        if row["detector"] != YOLO and isinstance(row.get("block"), list):
            raise ValueError(f"{file}, row '{name}': block: of {row['detector']} is one mapping for all stages")
        if "enhance" in row:
            enhancer(row["enhance"])
            if Path(content["data"]).suffix == ".json":
                raise ValueError(f"{file}, row '{name}': enhance: wants data: to be a data YAML")
        if unknown := [stage for stage in after if stage not in STAGES]:
            raise ValueError(f"{file}, row '{name}': after: names {unknown[0]!r}; choose from {', '.join(STAGES)}")
        if row["detector"] not in content["train"] and "weights" not in row:
            raise ValueError(f"{file}: train: says nothing of {row['detector']}, which row '{name}' trains")
    baseline = content["baseline"] or []
    baselines = [str(name) for name in (baseline if isinstance(baseline, list) else [baseline])]
    if unknown := [name for name in baselines if name not in rows]:
        raise ValueError(f"{file}: baseline: names '{unknown[0]}'; choose from {', '.join(rows)}")
    if len({rows[name]["detector"] for name in baselines}) < len(baselines):
        raise ValueError(f"{file}: baseline: names two rows of one detector, {', '.join(baselines)}; keep one")
    seeds = list(content["seeds"]) if isinstance(content["seeds"], (list, tuple)) else [content["seeds"]]
    if not seeds or any(type(seed) is not int for seed in seeds) or len(set(seeds)) < len(seeds):
        raise ValueError(f"{file}: seeds: is {content['seeds']}; wanted different whole numbers, such as [0, 1, 2]")
    return {**content, "rows": rows, "seeds": seeds, "baseline": {rows[name]["detector"]: name for name in baselines}}


def source_of(row: Mapping[str, Any]) -> str:
    """Return what a row starts from or evaluates: weights, or the row that trains them; "" for nothing."""
    return str(row.get("weights") or row.get("start") or "")


def cells_of(study: Mapping[str, Any], out: Path, truth: coco.Truth) -> list[Cell]:
    """List the cells of a study, those first that others start from."""
    rows, cells = study["rows"], []
    shared = {"data": str(study["data"]), "split": study["split"], "truth": coco.fingerprint(truth)}
    if study["darken"]:
        shared["darken"] = study["darken"]
    for name, row in sorted(rows.items(), key=lambda item: source_of(item[1]) in rows):
        source = source_of(row)
        trained_row = source in rows and "weights" not in rows[source]
        at = str(rows[source]["weights"]) if source in rows and not trained_row else source
        for seed in study["seeds"] if "weights" not in row or trained_row or "{seed}" in at else [None]:
            spec = {**shared, "row": name, "seed": seed, "detector": row["detector"]}
            spec |= {key: row[key] for key in ("model", "options", "after", "block", "enhance") if key in row}
            if "weights" not in row:
                spec["train"] = {**study["train"][row["detector"]], **row.get("train", {})}
                spec["train_data"] = str(row.get("data", study["data"]))
            elif "imgsz" in study["train"].get(row["detector"], {}):
                spec["imgsz"] = study["train"][row["detector"]]["imgsz"]
            if source:
                key = "weights" if "weights" in row else "start"
                own = f"{folder_of(out, source, seed).name}/last.pt"
                spec[key] = own if trained_row else at.replace("{seed}", str(seed))
            after = source if trained_row else None
            cells.append(Cell(name, seed, folder_of(out, name, seed), json.loads(json.dumps(spec)), after))
    folders = [cell.folder for cell in cells]
    if twice := [cell.row for cell in cells if folders.count(cell.folder) > 1]:
        raise ValueError(f"rows {', '.join(dict.fromkeys(twice))} would share a folder; give them names further apart")
    return cells


def folder_of(out: Path, row: str, seed: int | None) -> Path:
    """Where a cell keeps what it makes."""
    name = re.sub(r"[^A-Za-z0-9.]+", "-", row).strip("-")
    return out / (name if seed is None else f"{name}-{seed}")


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Say in which keys two specifications differ."""
    keys = [key for key in {**there, **here} if there.get(key) != here.get(key)]
    return ", ".join(f"{key} ({there.get(key)}, now {here.get(key)})" for key in keys)
