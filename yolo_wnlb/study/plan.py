"""What a study asks for: its YAML, checked. `runs` makes of it the runs that its table consists of.

A study names the data, the seeds and the training of each kind of detector once, so that no two rows
of a table can differ in them. Example:

    darken:                # data sets that are made first, if they are missing: settings of `yolo-wnlb darken`
      dark: {source: bright/data.yaml, preset: severe}
    data: dark/data.yaml
    split: val
    groups: place          # pictures that are not independent: see below
    seeds: [0, 1, 2]
    train:                 # arguments of `yolo train`, or of `detectors.fit.fit` and `detectors.torchvision.build`
      yolo: {epochs: 10, imgsz: 256, batch: 8, optimizer: AdamW, lr0: 0.0005}
    rows:
      clean: {model: yolov8n-seg.yaml, data: bright/data.yaml, train: {epochs: 24}}
      brightened: {weights: clean, enhance: clahe}
      fine-tuned: {model: yolov8n-seg.yaml, start: clean}
      wNLB: {model: yolov8n-seg.yaml, start: clean, after: [P3, P4, P5], block: {sub_sample: 2}}
    baseline: fine-tuned   # or a list, one row for each detector: detectors are not compared with each other

The keys of a row:

    detector   yolo (default), maskrcnn, maskrcnn_v2, solov2, solov2_light; unet; classifier, fusion
    model      a model YAML to train (yolo), for segmentation or detection
    weights    what to evaluate as it is: a file, or the row that trains it; or published weights:
               yolov8m-seg.pt, coco (Mask R-CNN of torchvision), a SOLOv2 file of mmdetection, resnet18
               (ImageNet weights of torchvision, for a classifier to start from)
    start      weights to start from: a file, or the row that trains them; of another study:
               FOLDER/clean-{seed}/last.pt. Of fusion two: [foreground, background], each a file, a published
               name or the row of a classifier
    data       a data YAML to train on, if it is not the study's
    train      a budget of its own, for rows that others start from
    options    more arguments of the training, for this row alone; none that make the budgets differ
    after      stages P2 ... P5 that a block is inserted after
    block      options of `WNLB`: one mapping for all stages, or one for each
    enhance    an enhancer (docs/enhancers.md) in front: of the study's pictures, in training and evaluation
    labels     how many training pictures keep their labels: a number, or a share below 1. Which ones is drawn by the
               seed, so all rows of a seed have the same; 38 of them include the 10 of another row. The others are
               `unlabelled:` in the data YAML of the run: denoise=n2v and unet learn to denoise from them, nobody else
               sees them
    against    the row that it is compared with, in place of the baseline

`groups:` names the pictures that belong together, such as crops of one photo or photos of one place. The
intervals of the table then draw whole groups. It is either a key that the images of the COCO JSON have
(`groups: place`), or a regular expression with one group in brackets that is searched in each file name
(`groups: '^(\\d+)_'`).

A table reports masks if the truth and all of its rows have them, and boxes otherwise.

`measure: instances` scores masks by AP@0.5 = TP / (TP + FP + FN) and by SEG (docs/evaluation.md). It wants `tune:`, a
split that is neither `split:` nor train: each run chooses its thresholds there, and `unet` its learning rate and its
best weights too. `unet` is DenoiSeg's network (docs/denoiseg.md): `train: {unet: {...}}` has the arguments of
`denoiseg.fit.fit` and `denoiseg.unet.build`; `options:` of a row say what it learns, {alpha: 0} to segment,
{alpha: 1} to denoise, {alpha: 0.5} both, {alpha: 0, sequential: true} to segment what the row in `start:` denoised.

`measure: accuracy` is for classifiers: `data:` is then what `data.folders.read` takes, `train: {classifier: ...}` has
arch and the arguments of `classifiers.fit.fit`, and `options:` of a row may say how it learns: lr, freeze, adversarial.
A row that other rows start from may learn other classes than those that the study tests. docs/classifiers.md has one.
`train: {fusion: ...}` has the arguments of `classifiers.fusion_fit.fit`, and `options:` of a fused row l2 too. Fused
rows are compared with the classifier that `baseline:` names, unless it names one of them too. docs/fusion.md has one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from yolo_wnlb.data.sources import listed
from yolo_wnlb.imaging.camera import DEFAULT, Settings, settings
from yolo_wnlb.reading import read_yaml
from yolo_wnlb.twins.darken import darken_dataset
from yolo_wnlb.words import suggestion

KEYS: dict[str, Any] = {  # of a study, with their defaults
    "darken": {},
    "data": None,
    "split": "val",
    "measure": "coco",
    "tune": None,
    "groups": None,
    "seeds": (0,),
    "train": {},
    "rows": None,
    "baseline": None,
}
ROW_KEYS = (
    *("detector", "model", "weights", "start", "data", "train", "options", "after", "block", "enhance"),
    *("labels", "against"),
)
UNET, CLASSIFIER, FUSION = "unet", "classifier", "fusion"
OF_COCO = ("yolo", "maskrcnn", "maskrcnn_v2", "solov2", "solov2_light")  # detectors that give COCO results
MEASURED = {"coco": OF_COCO, "instances": (UNET, *OF_COCO), "accuracy": (CLASSIFIER, FUSION)}
DETECTORS = (*OF_COCO, UNET, CLASSIFIER, FUSION)
ALSO_CALLED = {"denoiseg": UNET, "resnet": CLASSIFIER}
STAGES = ("P2", "P3", "P4", "P5")
YOLO = "yolo"
NAMED = dict.fromkeys(MEASURED["accuracy"], ("resnet18", "resnet50", "wide_resnet50_2"))  # weights by name, beside coco
OUT = "{out}/"  # stands in front of weights that a row of the study trains
RECORD, SPEC, LOG, RESULT = "run.json", "spec.json", "log.txt", "evaluation.json"  # files of a run
ENHANCED = "enhanced"  # folder of enhanced pictures, beside the runs
TABLE = ("table.md", "table.csv", "table.json", "table.png", "matches.npz", "latency.json")  # beside the runs
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
GIVEN = (  # arguments of a training that the study gives
    *("data", "seed", "device", "model", "weights", "start", "pretrained", "resume", "stages", "block"),
    *("cfg", "project", "name", "exist_ok", "val", "plots", "verbose", "progress", "task", "mode", "save", "save_dir"),
    *("out", "truth", "files", "pictures", "tune"),
    *("single_cls", "classes"),  # a model that they train does not know all classes of the truth
)
BUDGET = (  # arguments that are equal in all rows
    *("epochs", "time", "patience", "batch", "nbs", "accumulate", "fraction"),
    *("imgsz", "min_size", "max_size"),
    *("steps", "patch", "per_image", "crop", "noise"),  # of unet; the noise is what it is judged on, too
)
WHOLE = {"epochs": 1, "batch": 1, "nbs": 1, "accumulate": 1, "imgsz": 32, "max_size": 1, "workers": 0}  # smallest value
DARKEN = (  # arguments of `darken` that a study can give
    *(name for name in darken_dataset.__kwdefaults__ or {} if name not in ("shard", "dry_run")),
    *(field.name for field in fields(Settings)),
)


# ---- the YAML ------------------------------------------------------------------------------------


def read_study(study: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """Read and check a study, without a look at its data, models and weights.

    Args:
        study: A YAML file, or its content.
    Returns: All of `KEYS`; `baseline` as {detector: row}, and `rows` with their detector.
    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a key is unknown or missing, a value is of a wrong type or out of range, a row starts
            from itself, or has a budget of its own although no other row starts from it. The message
            names the file and the row.
    """
    file = Path(study) if isinstance(study, (str, Path)) else Path("study")
    if isinstance(study, (str, Path)) and not file.is_file():
        raise FileNotFoundError(f"there is no study {file}; the head of yolo_wnlb/study/plan.py shows how to write one")
    content = read_yaml(file) if isinstance(study, (str, Path)) else dict(study)
    if not isinstance(content, dict) or (lack := [key for key in ("data", "rows") if not content.get(key)]):
        raise ValueError(f"{file} is no study: it lacks {', '.join(lack) if isinstance(content, dict) else 'all keys'}")
    if unknown := [key for key in content if key not in KEYS]:
        raise ValueError(f"{file}: no key {unknown[0]}{suggestion(unknown[0], KEYS)}; choose from {', '.join(KEYS)}")
    content = {**KEYS, **without_none(content)}
    for key in ("data", "split"):
        if not isinstance(content[key], (str, Path)):
            raise ValueError(f"{file}: {key}: is {content[key]!r}; wanted one text")
    for key in ("darken", "train", "rows"):
        if not isinstance(content[key], dict):
            raise ValueError(f"{file}: {key}: is {content[key]}; wanted a mapping, name: {{...}}")
        for name, how in content[key].items():
            if not isinstance(how, dict):
                raise ValueError(f"{file}, {key}: {name} is {how}; wanted a mapping, {name}: {{...}}")
    for folder, how in content["darken"].items():
        check_darken(f"{file}, darken: {folder}", how)
    if content["split"] == "train":
        raise ValueError(f"{file}: split: train would test on the pictures that were trained on; give val or test")
    check_groups(f"{file}: groups:", content["groups"])
    rows = {str(name): {"detector": YOLO, **without_none(row)} for name, row in content["rows"].items()}
    if "" in rows:
        raise ValueError(f"{file}: a row has no name; wanted rows: {{name: {{...}}}}")
    if len(rows) < len(content["rows"]):
        raise ValueError(f"{file}: two rows have one name, as a text and as a number; rename one of them")
    for name, row in rows.items():
        check_types(f"{file}, row '{name}'", row)
        if "against" in row:
            row["against"] = str(row["against"])  # names of rows are texts, also where the YAML has numbers
    for name in rows:
        check_sources(f"{file}, row '{name}'", name, rows)
    for detector, arguments in content["train"].items():
        if detector not in DETECTORS:
            raise ValueError(f"{file}, train: {no_detector(detector)}")
        check_arguments(f"{file}, train: {detector}", arguments, GIVEN)
    check_measure(file, content["measure"], rows, content)
    check_tune(file, content)
    for name, row in rows.items():
        check_row(f"{file}, row '{name}'", row, rows, content)
        check_against(f"{file}, row '{name}'", name, rows, content)
    baselines = [str(name) for name in listed(content["baseline"])]
    if unknown := [name for name in baselines if name not in rows]:
        meant = suggestion(unknown[0], rows)
        raise ValueError(f"{file}: baseline: names '{unknown[0]}'{meant}; choose from {', '.join(rows)}")
    if len({rows[name]["detector"] for name in baselines}) < len(baselines):
        raise ValueError(
            f"{file}: baseline: names two rows of one detector, {', '.join(baselines)}; keep one, and give rows that "
            "are to be compared with another one against: ROW"
        )
    if all(only_denoises(name, rows, content) for name in rows):
        raise ValueError(f"{file}: all rows learn to denoise only (alpha: 1), and have no score; add one that segments")
    if without := [name for name in baselines if only_denoises(name, rows, content)]:
        raise ValueError(f"{file}: baseline: {without[0]} learns to denoise only (alpha: 1), and has no score")
    seeds = content["seeds"]
    if (
        not isinstance(seeds, (list, tuple))
        or {*map(type, seeds)} != {int}
        or len({*seeds}) < len(seeds)
        or not all(0 <= seed < 2**32 for seed in seeds)
    ):
        raise ValueError(
            f"{file}: seeds: is {seeds}; wanted a list of different whole numbers from 0 to 2^32 - 1, such as [0, 1, 2]"
        )
    compared = {rows[name]["detector"]: name for name in baselines}
    if CLASSIFIER in compared and any(row["detector"] == FUSION for row in rows.values()):
        compared = {FUSION: compared[CLASSIFIER], **compared}
    content |= {"rows": rows, "baseline": compared}
    return json.loads(json.dumps(content, default=str))  # a copy of plain values, which table.json can hold


def without_none(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what a YAML leaves empty."""
    return {key: value for key, value in mapping.items() if value is not None}


def check_darken(place: str, how: Mapping[str, Any]) -> None:
    """Check how a data set is darkened; `place` names it in messages."""
    if not how.get("source"):
        raise ValueError(f"{place} is {how}; wanted {{source: bright/data.yaml, preset: severe}}")
    known = ("source", *DARKEN)
    if unknown := [key for key in how if key not in known]:
        raise ValueError(f"{place}: no key {unknown[0]}{suggestion(unknown[0], known)}; choose from {', '.join(known)}")
    camera = {key: how[key] for key in how if key in {field.name for field in fields(Settings)}}
    try:
        settings(how.get("preset", DEFAULT), **camera)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{place}: {error}") from error


def check_measure(file: Path, measure: Any, rows: Mapping[str, Any], study: Mapping[str, Any]) -> None:
    """Check that the score of a study goes with its detectors."""
    if not isinstance(measure, str) or measure not in MEASURED:
        raise ValueError(
            f"{file}: measure: is {measure!r}{suggestion(measure, MEASURED)}; choose from {', '.join(MEASURED)}"
        )
    for name, row in rows.items():
        if row["detector"] not in MEASURED[measure]:
            right = next(other for other, detectors in MEASURED.items() if row["detector"] in detectors)
            raise ValueError(
                f"{file}, row '{name}': measure: {measure} wants detector: {' or '.join(MEASURED[measure])}, and this "
                f"row has {row['detector']}, which is measured by measure: {right}"
            )
    if measure == "accuracy" and study["darken"]:
        raise ValueError(f"{file}: darken: is for data sets of detectors; measure: accuracy reads class folders")


def check_tune(file: Path, study: Mapping[str, Any]) -> None:
    """Check that the split that thresholds are chosen on is given where it is wanted, and is another one."""
    tune, split, measure = study["tune"], study["split"], study["measure"]
    if measure != "instances":
        if tune is not None:
            raise ValueError(f"{file}: tune: chooses thresholds for measure: instances; measure: {measure} has none")
        return
    wanted = "a split to choose thresholds on, neither split: nor train (tune: val, split: test)"
    if tune is None:
        raise ValueError(f"{file}: measure: instances wants tune:, {wanted}")
    if not isinstance(tune, str) or not tune:
        raise ValueError(f"{file}: tune: is {tune!r}; wanted {wanted}")
    if tune in (split, "train"):
        why = "it is judged on" if tune == split else "models learn from"
        raise ValueError(
            f"{file}: tune: {tune} is what {why}, and thresholds chosen there look too good; wanted {wanted}"
        )
    if Path(str(study["data"])).suffix.lower() == ".json":
        raise ValueError(f"{file}: tune: wants data: to be a data YAML, and a JSON names the pictures of one split")


def check_groups(place: str, rule: Any) -> None:
    """Check that the rule of groups is the name of a key, or a regular expression with one group."""
    wanted = (
        "wanted a key that the images of the COCO JSON have (groups: place), or a regular expression for file names "
        "with one group in brackets (groups: '^(\\d+)_')"
    )
    if rule is None:
        return
    if not isinstance(rule, str):
        raise ValueError(f"{place} is {rule!r}; {wanted}")
    try:
        groups = re.compile(rule).groups if "(" in rule else 1
    except re.error as error:
        raise ValueError(f"{place} is {rule!r}, which is no regular expression ({error}); {wanted}") from error
    if groups != 1:
        raise ValueError(f"{place} is {rule!r} with {groups} groups in brackets; {wanted}")


def check_types(place: str, row: Mapping[str, Any]) -> None:
    """Check the keys of a row, and the types of their values."""
    if unknown := [key for key in row if key not in ROW_KEYS]:
        known = ", ".join(ROW_KEYS)
        raise ValueError(f"{place}: no key {unknown[0]}{suggestion(unknown[0], ROW_KEYS)}; choose from {known}")
    for key in ("detector", "model", "data", "enhance"):
        if key in row and not isinstance(row[key], (str, Path)):
            raise ValueError(f"{place}: {key}: is {row[key]!r}; wanted one text")
    if row["detector"] == FUSION and ("start" in row or "weights" not in row):
        pair = row.get("start")
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(one, (str, Path)) for one in pair):
            raise ValueError(f"{place}: start: is {pair!r}; a fused network wants two: [foreground, background]")
    for key in ("weights", "start", "against"):
        if key == "start" and row["detector"] == FUSION:
            continue
        if key in row and (isinstance(row[key], bool) or not isinstance(row[key], (str, int, float, Path))):
            wanted = "the name of a row" if key == "against" else "a file, or the name of a row"
            raise ValueError(f"{place}: {key}: is {row[key]!r}; wanted {wanted}")
    for key in ("train", "options"):
        if not isinstance(row.get(key, {}), dict):
            raise ValueError(f"{place}: {key}: is {row[key]}; wanted arguments of the training, {{name: value}}")
    labels = row.get("labels", 1)
    if not (type(labels) is int and labels >= 1) and not (type(labels) is float and 0 < labels < 1):
        raise ValueError(
            f"{place}: labels: is {labels!r}; wanted how many training pictures keep their labels, 1 or more, or a "
            "share of them between 0 and 1"
        )
    if not all(isinstance(options, dict) for options in listed(row.get("block", {}))):
        raise ValueError(
            f"{place}: block: is {row['block']}; wanted options of WNLB, {{name: value}}, or a list of them"
        )
    if row["detector"] not in DETECTORS:
        raise ValueError(f"{place}: {no_detector(row['detector'])}")


def no_detector(name: Any) -> str:
    """Write that there is no such detector, which one was probably meant, and which there are."""
    return f"no detector {name}{suggestion(name, DETECTORS, ALSO_CALLED)}; choose from {', '.join(DETECTORS)}"


def check_sources(place: str, name: str, rows: Mapping[str, Any]) -> None:
    """Refuse a row that starts from itself, over however many rows, or from another detector."""
    chains = [[name]]
    while chains:
        chain = chains.pop()
        row = rows[chain[-1]]
        for source in (source for source in sources_of(row) if source in rows):
            if source in chain:
                raise ValueError(f"{place} starts from itself; give it other weights")
            if row["detector"] == FUSION and "start" in row and rows[source]["detector"] != CLASSIFIER:
                raise ValueError(f"{place} starts from '{source}', which is no classifier; only classifiers are fused")
            if not (row["detector"] == FUSION and "start" in row) and rows[source]["detector"] != row["detector"]:
                raise ValueError(f"{place} starts from '{source}', which is another detector")
            chains.append([*chain, source])


def check_arguments(place: str, arguments: Mapping[str, Any], refused: Sequence[str]) -> None:
    """Check arguments of a training as far as a study can: whose they are, and the numbers of the budget."""
    if ours := [name for name in arguments if name in refused]:
        raise ValueError(
            f"{place}: {ours[0]} is for the study to give, so that all rows are alike in it; remove it here"
        )
    for name, least in WHOLE.items():
        if name in arguments and (type(arguments[name]) is not int or arguments[name] < least):
            raise ValueError(f"{place}: {name} is {arguments[name]!r}; wanted a whole number, {least} or more")
    sides = arguments.get("min_size", 1)
    if not all(type(side) is int and side > 0 for side in (sides if isinstance(sides, (list, tuple)) else [sides])):
        raise ValueError(f"{place}: min_size is {sides!r}; wanted a whole number of pixels, 1 or more")
    if isinstance(sides, int) and sides > arguments.get("max_size", sides):
        raise ValueError(f"{place}: min_size is {sides}, above max_size, {arguments['max_size']}")


def check_row(place: str, row: Mapping[str, Any], rows: Mapping[str, Any], study: Mapping[str, Any]) -> None:
    """Check that the keys of a row go together, and with the study; `place` names it in messages."""
    detector, after = row["detector"], listed(row.get("after"))
    if detector != YOLO and "model" in row:
        raise ValueError(f"{place}: model: is for yolo; {detector} is built from train: and options:")
    if "weights" in row and (idle := [key for key in ("start", "data", "train", "options", "labels") if key in row]):
        raise ValueError(f"{place} evaluates weights: as they are; remove {idle[0]}:")
    if ("weights" in row and "model" in row) or (detector == YOLO and not {"weights", "model"} & row.keys()):
        raise ValueError(f"{place} wants weights: to evaluate, or model: to train, and not both")
    if detector == YOLO and "model" in row and not str(row["model"]).endswith((".yaml", ".yml")):
        raise ValueError(f"{place}: model: {row['model']} is no YAML; give its definition, and start: {row['model']}")
    check_arguments(f"{place}, train", row.get("train", {}), GIVEN)
    check_arguments(f"{place}, options", row.get("options", {}), (*GIVEN, *BUDGET))
    origins = {origin_of(rows, source) for other in rows.values() for source in listed(other.get("start"))}
    if row.get("train") and not any(rows.get(name) is row for name in origins):
        raise ValueError(
            f"{place} has a budget of its own, and would stand in one table with others; "
            "give train: for the detector, or write a second study"
        )
    if detector not in study["train"] and "weights" not in row:
        raise ValueError(f"{place}: train: of the study says nothing of {detector}, which this row trains")
    if "weights" not in row and Path(str(row.get("data", study["data"]))).suffix.lower() == ".json":
        raise ValueError(f"{place} trains, and a JSON names the pictures of one split; give data: a data YAML")
    if ("after" in row and "weights" in row) or ("block" in row and not after):
        raise ValueError(f"{place}: after: says where a model: to train gets blocks, block: which ones")
    if unknown := [stage for stage in after if stage not in STAGES]:
        meant = suggestion(unknown[0], STAGES)
        raise ValueError(f"{place}: after: names {unknown[0]!r}{meant}; choose from {', '.join(STAGES)}")
    if detector in MEASURED["accuracy"] and (
        idle := [key for key in ("after", "block", "enhance", "labels") if key in row]
    ):
        raise ValueError(f"{place}: {idle[0]}: is for detectors; remove it for a {detector}")
    if detector == UNET and (idle := [key for key in ("after", "block") if key in row]):
        raise ValueError(f"{place}: {idle[0]}: says where blocks go, and {detector} takes none; remove it")
    if "labels" in row and "fraction" in {**study["train"].get(detector, {}), **row.get("train", {})}:
        raise ValueError(
            f"{place}: fraction: of train: would leave out some of the pictures that labels: keeps; remove it"
        )
    if detector != YOLO and isinstance(row.get("block"), list):
        raise ValueError(f"{place}: block: of {detector} is one mapping for all stages")
    named = ("coco", *(NAMED.get(detector, ()) if "start" in row else ()))
    for source in sources_of(row):
        if source not in (*rows, *named) and Path(source).name == source and not Path(source).suffix:
            raise ValueError(
                f"{place}: there is no row '{source}'{suggestion(source, [*rows])}, and a file of weights has a suffix"
            )
    if "enhance" in row and Path(study["data"]).suffix.lower() == ".json":
        raise ValueError(f"{place}: enhance: wants data: to be a data YAML")


def check_against(place: str, name: str, rows: Mapping[str, Any], study: Mapping[str, Any]) -> None:
    """Check that the row that a row is compared with is there, and can be compared with it."""
    if "against" not in rows[name]:
        return
    other = str(rows[name]["against"])
    if other not in rows:
        raise ValueError(
            f"{place}: against: there is no row '{other}'{suggestion(other, rows)}; choose from {', '.join(rows)}"
        )
    if other == name:
        raise ValueError(f"{place}: against: names the row itself; name another one, or leave it out")
    if rows[other]["detector"] != rows[name]["detector"]:
        raise ValueError(
            f"{place}: against: '{other}' is of {rows[other]['detector']}, this row of {rows[name]['detector']}, and "
            "different detectors are not compared with each other"
        )
    for which in (name, other):
        if only_denoises(which, rows, study):
            raise ValueError(
                f"{place}: against: '{which}' learns to denoise only (alpha: 1), and has no score to compare"
            )


def only_denoises(name: str, rows: Mapping[str, Any], study: Mapping[str, Any]) -> bool:
    """Tell whether a row trains a U-Net that does not learn to segment, or evaluates one that such a row trains."""
    row = rows.get(origin_of(rows, name), {})
    arguments = {**study["train"].get(UNET, {}), **row.get("train", {}), **row.get("options", {})}
    return row.get("detector") == UNET and arguments.get("alpha") == 1


# ---- rows and what they start from -------------------------------------------------------------


@contextmanager
def naming(place: str) -> Iterator[None]:
    """Put the place in front of what is raised inside; the kind of the error stays."""
    try:
        yield
    except (ValueError, TypeError, OSError, ImportError) as error:
        kinds = (FileNotFoundError, OSError, ImportError, TypeError, ValueError)
        raise next(kind for kind in kinds if isinstance(error, kind))(f"{place}: {error}") from error


def sources_of(row: Mapping[str, Any]) -> list[str]:
    """Return what a row starts from or evaluates: weights, or a row, or two of fusion."""
    return [str(source) for source in listed(row.get("weights") or row.get("start"))]


def origin_of(rows: Mapping[str, Any], source: Any) -> str:
    """Follow rows that only evaluate: return the row that trains the weights, or their file; "" for none."""
    source = str(source or "")
    while "weights" in rows.get(source, {}):
        source = str(rows[source]["weights"])
    return source


# ---- the pictures that belong together -----------------------------------------------------------


def groups_of(study: Mapping[str, Any], truth: Mapping[str, Any]) -> list[str] | None:
    """Name the group of each picture, in the order of the picture ids; None where the study has no `groups:`.

    Raises: ValueError: the rule does not hold for some picture, or puts all of them into one group.
    """
    rule = study["groups"]
    if rule is None:
        return None
    images = sorted(truth["images"], key=lambda image: image["id"])
    if "(" in rule:
        found = [match and match[1] for match in (re.search(rule, image["file_name"]) for image in images)]
        wanted = "a regular expression that finds its group in each file name"
    else:
        found = [image.get(rule) for image in images]
        wanted = f"a key that each image of the truth has; the first one has {', '.join(map(str, images[0]))}"
    if lacking := [image["file_name"] for image, group in zip(images, found) if group is None]:
        raise ValueError(
            f"groups: {rule} says nothing of {len(lacking)} of {len(images)} pictures (first: {lacking[0]}); "
            f"wanted {wanted}"
        )
    if len(labels := [str(group) for group in found]) > 1 and len({*labels}) == 1:
        raise ValueError(
            f"groups: {rule} puts all {len(images)} pictures into one group, '{labels[0]}'; intervals need two or more"
        )
    return labels
