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
    weights    what to evaluate as it is, or the row that trained it; as others publish it: yolov8m-seg.pt,
               coco (Mask R-CNN of torchvision), a SOLOv2 file of mmdetection
    start      weights to start from, or the row that trained them; of another study: FOLDER/clean-{seed}/last.pt
    data       a data YAML to train on, if not the study's
    train      a budget of its own, for rows that others start from
    options    more arguments of the training, for this row alone; none that make the budgets unlike
    after      stages P2 ... P5 that a block is inserted after
    block      options of `WNLB`: one mapping for all stages, or one for each
    enhance    an enhancer (docs/enhancers.md) in front: of the study's pictures, in training and evaluation
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yolo_wnlb.data import coco
from yolo_wnlb.data.sources import listed
from yolo_wnlb.twins.enhance import enhancer, sha256_of
from yolo_wnlb.words import suggestion
from yolo_wnlb.yolo.grafting import graft, load_yaml

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
DETECTORS = ("yolo", "maskrcnn", "maskrcnn_v2", "solov2", "solov2_light")
STAGES = ("P2", "P3", "P4", "P5")
YOLO = "yolo"
OWN = "{out}/"  # in front of weights that a row of the study trains
RECORD, SPEC, LOG, RESULT = "cell.json", "spec.json", "log.txt", "evaluation.json"  # files of a cell
ENHANCED = "enhanced"  # folder of enhanced pictures, beside the cells
FILES = ("table.md", "table.csv", "table.json", "table.png", "latency.json")  # beside the cells
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
OURS = (  # arguments of a training that are the study's to give
    *("data", "seed", "device", "model", "weights", "start", "pretrained", "resume", "stages", "block"),
    *("cfg", "project", "name", "exist_ok", "val", "plots", "verbose", "progress"),
)
BUDGET = (  # equal in all rows
    *("epochs", "time", "patience", "batch", "nbs", "accumulate", "fraction"),
    *("imgsz", "min_size", "max_size"),
)


@dataclass(frozen=True)
class Cell:
    """One row of the table with one seed.

    `spec` is what the study asks for, with hashes of the model YAML, labels and names and sizes of the
    pictures; the hash of the weights that it read is in its record. Versions and device are recorded too,
    and not compared: the table names them.
    """

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
    def home(self) -> Path:
        """The folder of all cells."""
        return self.folder.parent

    @property
    def record(self) -> dict[str, Any] | None:
        """What the cell left behind when it was done; None before.

        Raises: ValueError: it was done under other conditions.
        """
        try:
            record: dict[str, Any] = json.loads((self.folder / RECORD).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        read = record.get("files", {})
        files = {name: sha256_of(Path(file)) for name in read if Path(file := located(self.home, name)).is_file()}
        if other := differences({**record["spec"], **read}, {**self.spec, **read, **files}):
            raise ValueError(
                f"{self.folder} was run with another {other}; unlike runs have no place in one table: choose another "
                "out=, or delete that folder to run it again"
            )
        return record


def read_study(study: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """Read and check a study.

    Raises: ValueError: a key is unknown or missing, a row comes from itself, or has a budget of its own
        although no other starts from it.
    """
    file = Path(study) if isinstance(study, (str, Path)) else Path("study")
    content = read_yaml(file) if isinstance(study, (str, Path)) else dict(study)
    if not isinstance(content, dict) or (lack := [key for key in ("data", "rows") if not content.get(key)]):
        raise ValueError(f"{file} is no study: it lacks {', '.join(lack) if isinstance(content, dict) else 'all keys'}")
    if unknown := [key for key in content if key not in KEYS]:
        raise ValueError(f"{file}: no key {unknown[0]}{suggestion(unknown[0], KEYS)}; choose from {', '.join(KEYS)}")
    content = {**KEYS, **without_none(content)}
    for key in ("darken", "train", "rows"):
        if not isinstance(content[key], dict):
            raise ValueError(f"{file}: {key}: is {content[key]}; wanted a mapping, name: {{...}}")
        for name, how in content[key].items():
            if not isinstance(how, dict):
                raise ValueError(f"{file}, {key}: {name} is {how}; wanted a mapping, {name}: {{...}}")
    for folder, how in content["darken"].items():
        if "source" not in how:
            raise ValueError(f"{file}, darken: {folder} is {how}; wanted {{source: bright/data.yaml, preset: severe}}")
    if content["split"] == "train":
        raise ValueError(f"{file}: split: train would test on the pictures that were trained on; give val or test")
    rows = {str(name): {"detector": YOLO, **without_none(row)} for name, row in content["rows"].items()}
    for name in rows:
        check_chain(f"{file}, row '{name}'", name, rows)
    for detector, settings in content["train"].items():
        if ours := [key for key in settings if key in OURS]:
            raise ValueError(f"{file}, train: {detector}: {ours[0]} is not for it to say; rows and seeds do")
    for name, row in rows.items():
        check_row(f"{file}, row '{name}'", row, rows, content)
    baseline = content["baseline"] or []
    baselines = [str(name) for name in (baseline if isinstance(baseline, list) else [baseline])]
    if unknown := [name for name in baselines if name not in rows]:
        raise ValueError(f"{file}: baseline: names '{unknown[0]}'; choose from {', '.join(rows)}")
    if len({rows[name]["detector"] for name in baselines}) < len(baselines):
        raise ValueError(f"{file}: baseline: names two rows of one detector, {', '.join(baselines)}; keep one")
    seeds = content["seeds"]
    if not isinstance(seeds, (list, tuple)) or {*map(type, seeds)} != {int} or len({*seeds}) < len(seeds):
        raise ValueError(f"{file}: seeds: is {seeds}; wanted a list of different whole numbers, such as [0, 1, 2]")
    return {**content, "rows": rows, "baseline": {rows[name]["detector"]: name for name in baselines}}


def read_yaml(file: Path) -> Any:
    """Read a YAML; a key that is there twice is a mistake, and would lose a row."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            keys = [key.value for key, _ in node.value]
            if twice := [key for key in keys if keys.count(key) > 1]:
                raise yaml.constructor.ConstructorError(None, None, f"{twice[0]!r} is there twice", node.start_mark)
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(file.read_text(encoding="utf-8"), Loader)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no study {file}; {__name__} shows how to write one") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is no study, it cannot be read: {error}") from error


def without_none(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what a YAML leaves empty."""
    return {key: value for key, value in settings.items() if value is not None}


def check_chain(place: str, name: str, rows: Mapping[str, Any]) -> None:
    """Refuse a row that comes from itself, or from another detector."""
    chain = [name]
    while (source := source_of(rows[chain[-1]])) in rows:
        if source in chain:
            raise ValueError(f"{place} comes from itself; start from other weights")
        if rows[source]["detector"] != rows[name]["detector"]:
            raise ValueError(f"{place} starts from '{source}', which is another detector")
        chain.append(source)


def check_row(place: str, row: Mapping[str, Any], rows: Mapping[str, Any], study: Mapping[str, Any]) -> None:
    """Check one row of a study; `place` names it in what is raised."""
    detector, after = row["detector"], listed(row.get("after"))
    if unknown := [key for key in row if key not in ROW]:
        raise ValueError(f"{place}: no key {unknown[0]}{suggestion(unknown[0], ROW)}; choose from {', '.join(ROW)}")
    if detector not in DETECTORS:
        raise ValueError(
            f"{place}: no detector {detector}{suggestion(detector, DETECTORS)}; choose from {', '.join(DETECTORS)}"
        )
    if detector != YOLO and "model" in row:
        raise ValueError(f"{place}: model: is for yolo; {detector} is built as train: and options: say")
    if "weights" in row and (idle := [key for key in ("start", "data", "train", "options") if key in row]):
        raise ValueError(f"{place} evaluates weights: as they are; remove {idle[0]}:")
    if ("weights" in row and "model" in row) or (detector == YOLO and not {"weights", "model"} & row.keys()):
        raise ValueError(f"{place} wants weights: to evaluate, or model: to train, and not both")
    if detector == YOLO and "model" in row and not str(row["model"]).endswith((".yaml", ".yml")):
        raise ValueError(f"{place}: model: {row['model']} is no YAML; give its definition, and start: {row['model']}")
    for key in ("train", "options"):
        if not isinstance(row.get(key, {}), dict):
            raise ValueError(f"{place}: {key}: is {row[key]}; wanted arguments of the training, {{name: value}}")
        if ours := [name for name in row.get(key, {}) if name in (*OURS, *(BUDGET if key == "options" else ()))]:
            raise ValueError(f"{place}: {key}: {ours[0]} is the study's to say, so that all rows are alike in it")
    if row.get("train") and not any(row is rows.get(weights_of(rows, other.get("start"))) for other in rows.values()):
        raise ValueError(
            f"{place} has a budget of its own, and would stand in one table with others; "
            "give train: for the detector, or write a second study"
        )
    if detector not in study["train"] and "weights" not in row:
        raise ValueError(f"{place}: train: of the study says nothing of {detector}, which this row trains")
    if "weights" not in row and Path(str(row.get("data", study["data"]))).suffix == ".json":
        raise ValueError(f"{place} trains, and a JSON names the pictures of one split; give data: a data YAML")
    if ("after" in row and "weights" in row) or ("block" in row and not after):
        raise ValueError(f"{place}: after: says where a model: to train gets blocks, block: which ones")
    if unknown := [stage for stage in after if stage not in STAGES]:
        raise ValueError(f"{place}: after: names {unknown[0]!r}; choose from {', '.join(STAGES)}")
    if detector != YOLO and isinstance(row.get("block"), list):
        raise ValueError(f"{place}: block: of {detector} is one mapping for all stages")
    source = source_of(row)
    if source and source not in rows and Path(source).name == source and not Path(source).suffix and source != "coco":
        raise ValueError(
            f"{place}: there is no row '{source}'{suggestion(source, [*rows])}, and a file of weights has a suffix"
        )
    if "enhance" in row:
        enhancer(row["enhance"])
        if Path(study["data"]).suffix == ".json":
            raise ValueError(f"{place}: enhance: wants data: to be a data YAML")


def source_of(row: Mapping[str, Any]) -> str:
    """Return what a row starts from or evaluates: weights, or a row; "" for nothing."""
    return str(row.get("weights") or row.get("start") or "")


def weights_of(rows: Mapping[str, Any], source: str | None) -> str:
    """Return the row that trains the weights which a row's source means, or where they lie; "" for none."""
    source = str(source or "")
    while "weights" in rows.get(source, {}):
        source = str(rows[source]["weights"])
    return source


def located(home: Path, weights: str) -> str:
    """Return the path of weights: of a row of the study below its folder, others as the study says them."""
    return str(home / weights.removeprefix(OWN)) if weights.startswith(OWN) else weights


def cells_of(study: Mapping[str, Any], out: Path, truth: coco.Truth) -> list[Cell]:
    """List the cells of a study.

    Raises: ValueError, OSError: a model YAML is none, blocks do not fit it, or rows would share a folder.
    """
    rows, cells = study["rows"], []
    trained_on = {str(row.get("data", study["data"])) for row in rows.values() if "weights" not in row}
    digests = {data: coco.digest(data, "train") for data in trained_on}
    shared = {"data": str(study["data"]), "split": study["split"], "truth": coco.fingerprint(truth)}
    shared |= {"pictures": coco.digest(study["data"], study["split"])}
    for name, row in rows.items():
        try:
            spec = {**shared, **spec_of(row, study, digests)}
        except (ValueError, TypeError, OSError) as error:
            raise type(error)(f"row '{name}': {error}") from error
        source = weights_of(rows, source_of(row))
        after, key = source if source in rows else None, "weights" if "weights" in row else "start"
        for seed in study["seeds"] if "train" in spec or after or "{seed}" in source else [None]:
            own = f"{OWN}{folder_of(out, source, seed).name}/last.pt"
            weights = own if after else source.replace("{seed}", str(seed))
            seeded = {**spec, "seed": seed, **({key: weights} if weights else {})}
            cells.append(Cell(name, seed, folder_of(out, name, seed), json.loads(json.dumps(seeded)), after))
    taken = [*(out / name for name in (ENHANCED, *FILES, "")), *(cell.folder for cell in cells)]
    names = [str(folder).lower() for folder in taken]
    if twice := [cell.row for cell in cells if names.count(str(cell.folder).lower()) > 1]:
        raise ValueError(f"rows {', '.join(dict.fromkeys(twice))} would share a folder; give them names further apart")
    return cells


def spec_of(row: Mapping[str, Any], study: Mapping[str, Any], digests: Mapping[str, str]) -> dict[str, Any]:
    """Return what the cells of a row have in common; `digests` are those of the pictures to train on."""
    settings = study["train"].get(row["detector"], {})
    spec = {key: row[key] for key in ("detector", "model", "options", "after", "block", "enhance") if key in row}
    if "model" in row:
        definition = load_yaml(row["model"])
        if "after" in row:
            graft(definition, row["after"], row.get("block"))
        spec["definition"] = hashlib.sha256(json.dumps(definition).encode()).hexdigest()[:16]
    if "weights" not in row:
        spec["train"] = {**settings, **row.get("train", {})}
        spec["train_data"] = str(row.get("data", study["data"]))
        spec["train_pictures"] = digests[spec["train_data"]]
    made = [folder for folder in study["darken"] if Path(spec.get("train_data", study["data"])).is_relative_to(folder)]
    if made:
        spec["darken"] = study["darken"][made[0]]
    if "enhance" in row and (sha := enhancer(row["enhance"]).sha256):
        spec["enhancer"] = sha
    if "imgsz" in settings:
        spec["imgsz"] = settings["imgsz"]
    if row["detector"] != YOLO and "weights" in row:
        spec["sizes"] = {key: settings[key] for key in ("min_size", "max_size") if key in settings}
    return spec


def folder_of(out: Path, row: str, seed: int | None) -> Path:
    """Where a cell keeps what it makes."""
    name = safe_name(row)
    return out / (name if seed is None else f"{name}-{seed}")


def safe_name(text: str) -> str:
    """Reduce a text to letters, digits, _ and . with - between them."""
    return re.sub(r"[^\w.]+", "-", text).strip("-.")


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Say in which keys two specifications differ, and of mappings in which of theirs."""
    found = []
    for key in {**there, **here}:
        then, now = there.get(key), here.get(key)
        if isinstance(then, Mapping) and isinstance(now, Mapping):
            found += [f"{key} ({inner})"] if (inner := differences(then, now)) else []
        elif then != now:
            found.append(f"{key} ({then}, now {now})")
    return ", ".join(found)
