"""The commands of `yolo-wnlb`, as USAGE lists them: parse, call, print; arguments as `yolo` takes them."""

from __future__ import annotations

import ast
import difflib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

USAGE = """\
yolo-wnlb COMMAND [FILE ...] [key=value ...]

  graft MODEL.yaml [after=P3,P4,P5] [option=value ...] [out=FILE] [exist_ok=True]
      Insert wNLB rows into a stock model YAML. Options are those of the block (operation,
      sub_sample, weighted, ...): one value for all places, or one each: sub_sample=8,4,2,1
  export-check BEST.pt BEST.onnx [images=FOLDER] [sizes=160,320] [tolerance=0.001]
      Compare an exported model with its checkpoint; exit status 1 past the tolerance
  darken SOURCE [SOURCE ...] out=FOLDER [preset=severe] [setting=value ...] [seed=0] [format=jpg]
         [workers=N] [shard=1/3] [limit=N] [images=FOLDER] [--dry-run] [--verify]
      Write the dark twin of a data set: a data YAML, COCO annotation files, or a folder of either.
      Goes on where it was stopped; --verify compares what is in out= with its manifest
  preview [IMAGE|FOLDER|DATA.yaml ...] [out=preview.png] [n=5] [presets=mild,severe] [seed=0]
          [setting=value ...]
      Pictures beside their dark versions, with what was drawn; settings as ev=-3 or crf=srgb go
      on top of each preset. Without a source: generated scenes
  enhance SOURCE out=FOLDER with=clahe [split=val] [images=FOLDER]
      Write the enhanced twin of a data set, or of a folder of pictures, for two-stage baselines;
      goes on where it was stopped. with= gamma:2.2, clahe, histeq, msr, dir:FOLDER of pictures
      enhanced before, onnx:FILE, torch:MODULE:FACTORY, torchscript:FILE; networks have options:
      with=onnx:FILE,pad=12,range=0-1,output=NAME. docs/enhancers.md has recipes for published ones
  evaluate MODEL|PREDICTIONS.jsonl data=DATA.yaml|TRUTH.json [split=val] [imgsz=N] [conf=0.001] [iou=0.7]
           [out=FOLDER] [images=FOLDER] [device=0] [allow_missing=True] [max_detections=100]
      COCO's numbers for masks and boxes of a YOLO model, or of predictions made before. Writes
      evaluation.json, per_class.csv, plot.png and predictions.jsonl; imgsz is as trained
  inspect BEST.pt [IMAGE ...] [images=FOLDER|DATA.yaml] [out=inspect] [n=4] [imgsz=N] [at=x,y]
          [with=OTHER.pt] [conf=0.25] [exist_ok=True]
      What a model with blocks has learnt: w of each block, the features before and after it, what
      one position attends to, the predictions beside the labels and those of another model
  compare STUDY.yaml [out=FOLDER] [jobs=1] [device=0]
      Train and evaluate the rows of a study with equal data, seeds and budget, and print their table
      with intervals. Goes on where it was stopped. yolo_wnlb/study/plan.py shows what a study holds
  doctor
      Versions, devices, whether activation works, and what to do about each problem

Training, validation, prediction and export stay with the `yolo` command:
  yolo segment train model=yolov8m-seg-wnlb.yaml pretrained=yolov8m-seg.pt data=shapes-dark.yaml"""


PATHS = ("data", "images", "out", "with")  # options whose values are taken as they stand
FLAGS = ("dry_run", "verify", "exist_ok")  # options that need no value


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0, 1 for a check that failed, 2 for a mistake."""
    command, *rest = (sys.argv[1:] if arguments is None else arguments) or ["help"]
    if command == "help" or {"-h", "--help"} & {command, *rest}:
        print(USAGE)
        return 0
    if command not in COMMANDS:
        print(f"yolo-wnlb: no command {command!r}; choose from {', '.join(COMMANDS)}\n\n{USAGE}", file=sys.stderr)
        return 2
    try:
        return COMMANDS[command](*parse(rest))
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"yolo-wnlb {command}: {error}", file=sys.stderr)
        return 2


def parse(words: list[str]) -> tuple[list[str], dict[str, Any]]:
    """Split into files and key=value pairs; values as `yolo` reads them, commas make lists.

    --key=value and --key value say the same, and --dry-run or dry_run alone says dry_run=True.
    """
    files: list[str] = []
    options: dict[str, Any] = {}
    following = iter(words)
    for word in following:
        key, sign, value = word.partition("=")
        if word.startswith("--"):
            key, sign = key[2:].replace("-", "_"), "="
            value = value or ("True" if key in FLAGS else next(following, ""))
            if not value and (close := difflib.get_close_matches(key, FLAGS, 1)):
                raise ValueError(f"no option {word!r}; did you mean --{close[0].replace('_', '-')}?")
        elif word in FLAGS:
            sign, value = "=", "True"
        if not sign or not key.isidentifier():  # a path may hold a '=' too
            files.append(word)
        elif not value:
            raise ValueError(f"{word!r} is no key=value pair; write {key}=value, without spaces around '='")
        elif key in PATHS:
            options[key] = value
        else:
            values = [scalar(part) for part in value.split(",")]
            options[key] = values if len(values) > 1 else values[0]
    return files, options


def scalar(text: str) -> Any:
    """Read None, a truth value, a number, or else the text itself."""
    if text.lower() in ("none", "null", "true", "false"):
        return {"t": True, "f": False}.get(text[0].lower())
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def take(options: dict[str, Any], known: dict[str, Any]) -> list[Any]:
    """Return the values of the known options (or their defaults), refusing any other."""
    if unknown := [key for key in options if key not in known]:
        raise ValueError(f"no option {', '.join(unknown)}; choose from {', '.join(known) or 'none'}")
    return [options.get(key, default) for key, default in known.items()]


def until_stopped(build: Callable[..., Any], *args: Any, **options: Any) -> int:
    """Build what the same command goes on with after Ctrl-C, and print what was done; returns the exit status."""
    try:
        result = build(*args, **options)
    except KeyboardInterrupt:
        print("\nstopped; nothing is lost, the same command goes on from here", file=sys.stderr)
        return 130
    print(result)
    return 0 if getattr(result, "ok", True) else 1


def run_graft(files: list[str], options: dict[str, Any]) -> int:
    """Write the grafted YAML next to where the user stands."""
    from yolo_wnlb.paths import find
    from yolo_wnlb.yolo.grafting import graft, load_yaml, to_yaml

    files = [*files, *([str(options.pop("model"))] if "model" in options else [])]
    if len(files) != 1:
        raise ValueError(f"wants one model YAML, found {files}: yolo-wnlb graft yolo11-seg.yaml after=P3,P4,P5")
    stem = re.sub(r"(\d+)[nslmx](?=-|$)", r"\1", Path(files[0]).stem)  # a YAML holds all scales
    after = options.pop("after", ["P3", "P4", "P5"])
    after = after if isinstance(after, list) else [after]
    out = Path(options.pop("out", f"{stem}-wnlb.yaml"))
    if not options.pop("exist_ok", False) and out.exists():
        raise ValueError(f"{out} exists; choose another out=, or overwrite it with exist_ok=True")
    if not out.parent.is_dir():
        raise ValueError(f"there is no folder {out.parent} to write {out.name} into; make it, or choose another out=")

    for key, value in options.items():
        if isinstance(value, list) and len(value) != len(after):
            raise ValueError(f"{key} has {len(value)} values for {len(after)} places; give one, or one for each")
    each = [{k: v[i] if isinstance(v, list) else v for k, v in options.items()} for i in range(len(after))]
    model, _ = graft(load_yaml(files[0]), after, each)
    told = {"after": after, **options, "out": out.name}
    words = [f"{k}={','.join(map(str, v)) if isinstance(v, list) else v}" for k, v in told.items()]
    title = f"{stem} with wNLB blocks. AGPL-3.0. Written by\nyolo-wnlb graft {stem}.yaml {' '.join(words)}"
    out.write_text(to_yaml(model, title), encoding="utf-8")
    print(f"wrote {out}: {len(after)} blocks after {', '.join(map(str, after))}")
    if find(out.name):
        print(
            f"note: where this file lies it hides the model {out.name} that ships with yolo_wnlb; out= takes any name"
        )
    return 0


def run_export_check(files: list[str], options: dict[str, Any]) -> int:
    """Print how far an exported model is from its checkpoint."""
    from yolo_wnlb.yolo.parity import check_export

    if len(files) != 2:
        raise ValueError(f"wants a checkpoint and its export, found {files}: export-check best.pt best.onnx images=...")
    images, sizes, tolerance = take(options, {"images": None, "sizes": None, "tolerance": None})
    sizes = [sizes] if isinstance(sizes, int) else sizes
    result = check_export(files[0], files[1], images, sizes, tolerance)
    print(result)
    return 0 if result.ok else 1


def run_darken(files: list[str], options: dict[str, Any]) -> int:
    """Write the dark twin of a data set, or compare one with its manifest."""
    from dataclasses import fields

    from yolo_wnlb.imaging.camera import Settings
    from yolo_wnlb.twins.darken import darken_dataset, verify

    out, check = options.pop("out", None), options.pop("verify", False)
    if check and (out or len(files) == 1):
        result = verify(out or files[0])
        print(result)
        return 0 if result.ok else 1
    if not files or not out:
        raise ValueError(f"wants a source and out=, found {files}, out={out}: darken coco8-seg.yaml out=dark")
    settings = [field.name for field in fields(Settings)]
    take(options, dict.fromkeys([*(darken_dataset.__kwdefaults__ or {}), *settings]))
    return until_stopped(darken_dataset, files, out, **options)


def run_preview(files: list[str], options: dict[str, Any]) -> int:
    """Write a picture of sources and their dark versions, and say where it is."""
    from yolo_wnlb.imaging.camera import PRESETS
    from yolo_wnlb.visualize.preview import preview

    files = [*files, *([str(options.pop("source"))] if "source" in options else [])]
    presets = options.pop("presets", options.pop("preset", list(PRESETS)))
    presets = presets if isinstance(presets, list) else [presets]
    print(f"wrote {preview(files, presets=presets, **options).resolve()}")
    return 0


def run_enhance(files: list[str], options: dict[str, Any]) -> int:
    """Write the enhanced twin of a data set."""
    from yolo_wnlb.twins.enhance import enhance_dataset

    out, spec, split, images = take(options, {"out": None, "with": None, "split": None, "images": None})
    if len(files) != 1 or not out or not spec:
        raise ValueError(f"wants a source, out= and with=, found {files}: enhance dark/data.yaml out=bright with=clahe")
    return until_stopped(enhance_dataset, files[0], spec, out, split=split, images=images)


def run_evaluate(files: list[str], options: dict[str, Any]) -> int:
    """Print what a model, or a predictions file, is worth, and write all of it to a folder."""
    from ultralytics.utils.files import increment_path

    from yolo_wnlb.data import coco
    from yolo_wnlb.metrics.average_precision import evaluate

    if len(files) != 1 or "data" not in options:
        raise ValueError(
            f"wants a model or a predictions file, and data=, found {files}: evaluate best.pt data=my.yaml"
        )
    known = {"data": None, "split": "val", "out": None, "exist_ok": False, "images": None, "max_detections": 100}
    data, split, out, exist_ok, images, most = take({k: options.pop(k) for k in [*options] if k in known}, known)
    made = Path(files[0]).suffix.lower() in (".json", ".jsonl")  # predictions, and no model
    of_models = () if made else ("imgsz", "conf", "iou", "device", "allow_missing")
    take(options, {**known, **dict.fromkeys(of_models)})
    out = Path(out) if out else increment_path("runs/evaluate")
    if out.is_file() or ((out / "evaluation.json").exists() and not exist_ok):
        raise ValueError(
            f"{out} holds an evaluation, or is a file; choose another out=, or overwrite with exist_ok=True"
        )

    truth, notes = coco.ground_truth(data, split), []
    if made:
        header, predictions = coco.load_predictions(files[0], truth)
    else:
        from yolo_wnlb.detectors import torchvision, ultralytics

        detector: Any = torchvision if torchvision.reads(files[0]) else ultralytics
        model = detector.load(files[0], str(options.pop("device", "")))
        names = detector.names(model)
        classes = coco.class_map(names, truth, options.pop("allow_missing", False))
        if missing := [name for index, name in names.items() if index not in classes]:
            notes.append(f"not evaluated, for the truth lacks them: {len(missing)} classes ({coco.first(missing)})")
        options["max_det"] = most
        paths = coco.image_files(truth, data, split, images)
        header = {**detector.describe(model, **options), "weights": files[0]}
        predictions = detector.predict(model, paths, classes, **options, progress=True)
    left_out = coco.not_evaluated(truth, predictions)
    if len(left_out) == 2:
        raise ValueError("; ".join(left_out.values()))
    result = evaluate(
        truth,
        predictions,
        max_detections=most,
        iou_types=[kind for kind in ("segm", "bbox") if kind not in left_out],
        protocol={"data": data, **({} if Path(data).suffix == ".json" else {"split": split}), **header},
    )
    result.notes += [*notes, *left_out.values()]
    if predictions and sum(result.objects.values()) and not any(m.hit.any() for m in result.matches.values()):
        result.notes.append(
            "no prediction hits an object: the detector has learnt nothing, or it saw other pictures or other classes"
        )
    print(result)
    out.mkdir(parents=True, exist_ok=True)
    if not made:
        coco.save_predictions(out / "predictions.jsonl", predictions, header, truth)
    result.to_csv(out / "per_class.csv")
    result.plot(out / "plot.png")
    result.to_json(out / "evaluation.json")
    print(f"written to {out}")
    return 0


def run_inspect(files: list[str], options: dict[str, Any]) -> int:
    """Print what the blocks of a model have learnt, and write pictures of it."""
    from yolo_wnlb.visualize.inspection import inspect_model

    if not files:
        raise ValueError("wants a checkpoint, found none: inspect best.pt images=photos")
    known = {"images": None, "out": None, "n": 4, "imgsz": None, "at": None, "with": None, "conf": 0.25}
    images, out, n, imgsz, at, other, conf, exist_ok = take(options, {**known, "exist_ok": False})
    if images is not None:
        files += [images] if Path(images).exists() else images.split(",")
    sources = files[1:] or None
    print(inspect_model(files[0], sources, out, n=n, imgsz=imgsz, at=at, other=other, conf=conf, exist_ok=exist_ok))
    return 0


def run_compare(files: list[str], options: dict[str, Any]) -> int:
    """Run what is left of a study, and print its table."""
    from yolo_wnlb.study.compare import compare

    if len(files) != 1:
        raise ValueError(f"wants one study, found {files}: compare study.yaml out=runs/study")
    out, jobs, device = take(options, {"out": f"runs/compare/{Path(files[0]).stem}", "jobs": 1, "device": None})
    return until_stopped(compare, files[0], out, jobs=jobs, device=device if device is None else str(device))


def run_doctor(files: list[str], options: dict[str, Any]) -> int:
    """Print the state of the installation; 1 if something needs mending."""
    from yolo_wnlb.doctor import examine

    if files:
        raise ValueError(f"takes no file, found {files[0]}")
    take(options, {})
    findings = examine()
    print("\n".join(map(str, findings)))
    return int(any(finding.problem for finding in findings))


COMMANDS: dict[str, Callable[[list[str], dict[str, Any]], int]] = {
    "graft": run_graft,
    "export-check": run_export_check,
    "darken": run_darken,
    "preview": run_preview,
    "enhance": run_enhance,
    "evaluate": run_evaluate,
    "inspect": run_inspect,
    "compare": run_compare,
    "doctor": run_doctor,
}
