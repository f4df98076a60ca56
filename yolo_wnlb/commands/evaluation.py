"""The command evaluate: the score of one model, or of predictions made before."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from yolo_wnlb.commands.options import DEVICE, EXIST_OK, IMAGES_OF_COCO
from yolo_wnlb.commands.register import command, take
from yolo_wnlb.terminal.arguments import Option, flag, number, one_of, path, text, whole


@command(
    "evaluate",
    "Print the score of a model, or of predictions made before: COCO's numbers, AP@0.5 and SEG, or accuracy.",
    files="MODEL|PREDICTIONS.jsonl",
    count=(1, 1),
    file_keys=("model",),
    example="yolo-wnlb evaluate best.pt data=dark/data.yaml",
    about="Detectors get COCO's numbers for masks and boxes, or with measure=instances AP@0.5 = TP/(TP+FP+FN) and SEG; "
    "a U-Net gets the latter, a classifier its accuracy. Writes evaluation.json, per_class.csv, plot.png and "
    "predictions.jsonl; for instances per_picture.csv in place of table and plot, and of a U-Net no predictions; for a "
    "classifier the first two.",
    options=[
        Option(
            "data",
            path("DATA.yaml|TRUTH.json"),
            "the truth: a data YAML or COCO annotations; of a classifier class folders or containers:S1",
            required=True,
        ),
        Option("split", text("NAME", "train", "val", "test"), "of a data YAML", "val"),
        Option("out", path("FOLDER"), "folder to make (default: runs/evaluate, or the next free number)"),
        Option("imgsz", whole(1), "image size of the model (default: as trained)"),
        Option("conf", number(0, 1), "lowest score of a detection (default: 0.001; Mask R-CNN and SOLOv2: 0.05)"),
        Option("iou", number(0, 1), "of non-maximum suppression of YOLO models (default: 0.7)"),
        Option("max_detections", whole(1), "the best so many of each image (default: 100; of measure=instances 500)"),
        Option("measure", one_of("coco", "instances"), "which score (default: coco; of a U-Net instances)"),
        Option(
            "threshold", number(0, 1), "measure=instances: least score of a mask; of a U-Net least probability (0.5)"
        ),
        Option(
            "tune", text("NAME", "val", "test"), "measure=instances: the split that thresholds are chosen on instead"
        ),
        Option("allow_missing", flag(), "accept a model that knows more classes than the truth", False),
        Option("night", flag(), "False: a YOLO checkpoint without its blocks (default: as it is switched)"),
        DEVICE,
        EXIST_OK,
        IMAGES_OF_COCO,
    ],
)
def run_evaluate(files: list[str], options: dict[str, Any]) -> int:
    """Print what a model, or a predictions file, is worth, and write all of it to a folder."""
    from yolo_wnlb.data.journal import folder_for

    if len(files) != 1 or "data" not in options:
        raise ValueError(
            f"wants a model or a predictions file, and data=, found {files}: evaluate best.pt data=my.yaml"
        )
    file, made = files[0], Path(files[0]).suffix.lower() in (".json", ".jsonl")  # predictions, and no model
    known = {"data": None, "split": "val", "out": None, "exist_ok": False}
    of_scores = ("max_detections", "measure", "threshold", "tune")
    of_models = () if made else ("images", "imgsz", "conf", "iou", "device", "allow_missing", "night")
    take(options, {**known, **dict.fromkeys((*of_scores, *of_models))})
    data, split, out, exist_ok = take({key: options.pop(key) for key in known if key in options}, known)
    if out and Path(out).is_file():
        raise ValueError(f"{out} is a file; choose another out=")
    with folder_for(out, "runs/evaluate") as folder:
        if (folder / "evaluation.json").exists() and not exist_ok:
            raise ValueError(f"{folder} holds an evaluation; choose another out=, or overwrite it with exist_ok=True")
        if not made and is_for_classifiers(file, data):
            evaluate_classifier(folder, file, data, split, options)
        elif measures_instances(file, made, data, split, options):
            evaluate_instances(folder, file, data, split, options)
        else:
            evaluate_into(folder, file, data, split, options)
    return 0


def is_for_classifiers(file: str, data: str) -> bool:
    """Tell whether a file is a classifier that yolo_wnlb trained, or the data are what only classifiers take.

    Raises: ValueError: the data are a folder with the data YAML that a detector wants.
    """
    from yolo_wnlb.classifiers import detector
    from yolo_wnlb.data.folders import is_drawn

    of_classifier = Path(file).is_file() and detector.reads(file)
    if Path(data).is_dir() and not of_classifier and (described := sorted(Path(data).glob("*.y*ml"))):
        wanted = shlex.quote(f"data={described[0]}")
        raise ValueError(f"data={data} is a folder; for a detector give {wanted}")
    return is_drawn(data) or Path(data).is_dir() or of_classifier


def evaluate_classifier(folder: Path, file: str, data: str, split: str, options: dict[str, Any]) -> None:
    """Measure the accuracy of a classifier."""
    from yolo_wnlb.classifiers import detector
    from yolo_wnlb.data.folders import read
    from yolo_wnlb.metrics.accuracy import places_of, score

    if idle := [key for key in options if key not in ("imgsz", "device")]:
        raise ValueError(f"{idle[0]}= is for detectors, and {file} is a classifier; remove it")
    model = detector.load(file, str(options.pop("device", "")))
    pictures, names = read(data, split), list(detector.names(model).values())
    places_of(pictures, names)  # before the work of predicting
    probabilities = detector.predict(model, pictures, **options, progress=True)
    result = score(pictures, probabilities, names, {"weights": file, **detector.describe(model, **options)})
    print(result)
    result.to_csv(folder / "per_class.csv")
    result.to_json(folder / "evaluation.json")
    print(f"written to {folder}")


def measures_instances(file: str, made: bool, data: str, split: str, options: dict[str, Any]) -> bool:
    """Tell whether instances are to be scored, and take `measure` out of the options.

    Raises: ValueError: an option does not go together with the others, the file or the data.
    """
    from yolo_wnlb.denoiseg import detector as unet

    of_unet, measure = not made and Path(file).is_file() and unet.reads(file), options.pop("measure", None)
    if of_unet and measure == "coco":
        raise ValueError(f"{file} is a U-Net, which measure=coco cannot score; leave measure out, or give instances")
    if not of_unet and measure != "instances":
        if unused := [key for key in ("threshold", "tune") if key in options]:
            raise ValueError(f"{unused[0]}= is for measure=instances; add that, or remove it")
        return False
    if "conf" in options:
        raise ValueError("conf= is for measure=coco; the least score of measure=instances is threshold=")
    of_detectors: Any = ("imgsz", "iou", "max_detections", "allow_missing", "night") if of_unet or made else ()
    if idle := [key for key in of_detectors if key in options]:
        what = "a U-Net" if of_unet else "a file of predictions"
        raise ValueError(f"{idle[0]}= is for detectors, and {file} is {what}; remove it")
    if "tune" in options:
        if "threshold" in options:
            raise ValueError("threshold= gives what tune= would choose; keep one of them")
        if made:
            raise ValueError(f"tune= wants a model, and {file} has predictions of one split; give threshold=")
        if options["tune"] == split:
            raise ValueError(f"tune={split} is the split to be measured, and would look too good; give another one")
        if options["tune"] == "train":
            raise ValueError("tune=train is what models learn from, and its thresholds fit no other pictures; give val")
        if Path(data).suffix.lower() == ".json":
            raise ValueError(f"tune= wants a data YAML, and {data} names the pictures of one split; give threshold=")
    return True


def evaluate_instances(folder: Path, file: str, data: str, split: str, options: dict[str, Any]) -> None:
    """Score the instances that a model or a predictions file finds; `options` are those that the user gave."""
    from yolo_wnlb.data import coco
    from yolo_wnlb.denoiseg import detector as unet
    from yolo_wnlb.metrics.instances import by_score, check_masks, instances
    from yolo_wnlb.study.instances import MOST, check_apart, chosen_on, floor_of, maps_of
    from yolo_wnlb.study.models import task_of

    made = Path(file).suffix.lower() in (".json", ".jsonl")
    images, tune, chosen = (options.pop(key, None) for key in ("images", "tune", "threshold"))
    chosen, notes, predictions = 0.5 if chosen is None else chosen, list[str](), None
    truth = coco.ground_truth(data, split)
    check_masks(truth, f"{data}, {split}")
    files = {} if made else coco.image_files(truth, data, split, images)
    if tune:
        check_apart(data, tune, split)
    tuning = coco.ground_truth(data, tune) if tune else {}
    to_tune = coco.image_files(tuning, data, tune, images) if tune else {}
    if made:
        header, predictions = coco.load_predictions(file, truth)
    elif unet.reads(file):
        model = unet.load(file, str(options.pop("device", "")))
        if tune:
            chosen = chosen_on(tune, tuning, maps_of(model, tuning, to_tune, progress=True))
        header, found = model.describe(), maps_of(model, truth, files, progress=True)
    else:
        detector, loaded, notes = loaded_detector(file, options)
        if task_of(loaded) == "detect":
            raise ValueError(
                f"{file} finds boxes only, and measure=instances scores masks; give a model for segmentation"
            )
        allow_missing, names = options.pop("allow_missing", False), detector.names(loaded)
        options = {"max_det": options.pop("max_detections", MOST), **options}

        def detect(of: Any, pictures: Any, conf: float) -> list[Any]:
            classes = coco.class_map(names, of, allow_missing)
            return detector.predict(loaded, pictures, classes, conf=conf, **options, progress=True)

        if tune:
            chosen = chosen_on(tune, tuning, by_score(tuning, detect(tuning, to_tune, floor_of(chosen))))
        header = detector.describe(loaded, conf=floor_of(chosen), **options)
        predictions = detect(truth, files, floor_of(chosen))
    if predictions is not None:
        found = by_score(truth, predictions)
    protocol = {"data": data, **({} if Path(data).suffix == ".json" else {"split": split}), **header, "weights": file}
    result = instances(truth, found, chosen, protocol=protocol | ({"tune": tune} if tune else {}))
    result.notes += notes
    print(result)
    clear(folder, file)
    if predictions is not None and not made:
        coco.save_predictions(folder / "predictions.jsonl", predictions, {**header, "weights": file}, truth)
    result.to_csv(folder / "per_picture.csv")
    result.to_json(folder / "evaluation.json")
    print(f"written to {folder}")


def clear(folder: Path, file: str) -> None:
    """Remove what another evaluation left in a folder (exist_ok=True), but for the file that is evaluated."""
    for name in ("evaluation.json", "predictions.jsonl", "per_class.csv", "per_picture.csv", "plot.png"):
        if (folder / name).resolve() != Path(file).resolve():
            (folder / name).unlink(missing_ok=True)


def loaded_detector(file: str, options: dict[str, Any]) -> tuple[Any, Any, list[str]]:
    """Load a detector, and take `device` and `night` out of the options; returns its module, the model and notes."""
    from yolo_wnlb.detectors import torchvision, ultralytics
    from yolo_wnlb.yolo.night import set_night

    detector: Any = torchvision if torchvision.reads(file) else ultralytics
    if (night := options.pop("night", None)) is not None and detector is torchvision:
        raise ValueError(f"night= switches the blocks of a YOLO checkpoint, and {file} is none; leave night out")
    model = detector.load(file, str(options.pop("device", "")))
    if night is None:
        return detector, model, []
    set_night(model.backend, night)
    return detector, model, [f"night={night}: {'with' if night else 'without'} the blocks of the model"]


def evaluate_into(folder: Path, file: str, data: str, split: str, options: dict[str, Any]) -> None:
    """Evaluate a model or a predictions file; `options` are those that the user gave."""
    from yolo_wnlb.data import coco
    from yolo_wnlb.metrics.average_precision import evaluate

    made = Path(file).suffix.lower() in (".json", ".jsonl")  # predictions, and no model
    images, most = options.pop("images", None), options.pop("max_detections", 100)
    truth, notes = coco.ground_truth(data, split), list[str]()
    if made:
        header, predictions = coco.load_predictions(file, truth)
    else:
        detector, model, notes = loaded_detector(file, options)
        names = detector.names(model)
        classes = coco.class_map(names, truth, options.pop("allow_missing", False))
        if missing := [name for index, name in names.items() if index not in classes]:
            notes.append(f"not evaluated, for the truth lacks them: {len(missing)} classes ({coco.first(missing)})")
        options["max_det"] = most
        paths = coco.image_files(truth, data, split, images)
        header = {**detector.describe(model, **options), "weights": file}
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
    clear(folder, file)
    if not made:
        coco.save_predictions(folder / "predictions.jsonl", predictions, header, truth)
    result.to_csv(folder / "per_class.csv")
    result.plot(folder / "plot.png")
    result.to_json(folder / "evaluation.json")
    print(f"written to {folder}")
