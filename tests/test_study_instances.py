"""Studies with `measure: instances`: labels of few pictures, thresholds from another split, U-Nets beside YOLO."""

import functools
import json
import re
import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from test_study import SMALL_SOLO, compared_here, start_here

from yolo_wnlb.checkpoints import read_checkpoint
from yolo_wnlb.cli import main
from yolo_wnlb.data import coco
from yolo_wnlb.denoiseg import fit as denoiseg_fit
from yolo_wnlb.metrics.instances import THRESHOLDS, Instances, by_probability, by_score, choose, instances
from yolo_wnlb.study import compare as compare_module
from yolo_wnlb.study import labels
from yolo_wnlb.study.compare import compare
from yolo_wnlb.study.plan import read_study
from yolo_wnlb.study.runs import runs_of
from yolo_wnlb.study.table import remake

NAMES = ["nucleus"]
SPLITS = {"train": 8, "val": 3, "test": 4}
UNET = {
    "first": 4,
    "depth": 2,
    "epochs": 2,
    "steps": 3,
    "batch": 4,
    "crop": 32,
    "patch": 64,
    "noise": "n20",
    "workers": 0,
}
YOLO = {"epochs": 1, "imgsz": 64, "batch": 4, "workers": 0}


def nuclei(root, names=NAMES, **splits):
    """Draw discs on a dark ground, apart from each other; returns the data YAML. One picture of each split is empty."""
    rng = np.random.default_rng(0)
    for split, count in {**SPLITS, **splits}.items():
        images, annotations = [], []
        for part in ("images", "labels"):
            (root / part / split).mkdir(parents=True)
        for number in range(count):
            picture, masks, outlines = np.full((64, 64, 3), 20, np.uint8), [], []
            for left in (0, 32) if number else ():
                x, y, radius = left + 16, int(rng.integers(16, 48)), int(rng.integers(8, 12))
                mask = cv2.circle(np.zeros((64, 64), np.uint8), (x, y), radius, 1, -1).astype(bool)
                picture[mask] = 200
                masks.append(mask)
                angles = np.arange(0, 2 * np.pi, 0.5)
                points = np.stack([x + 0.5 + radius * np.cos(angles), y + 0.5 + radius * np.sin(angles)], 1) / 64
                outlines.append(f"0 {' '.join(f'{value:.4f}' for value in points.ravel())}\n")
            name = f"{split}_{number}.png"
            cv2.imwrite(str(root / "images" / split / name), picture)
            (root / "labels" / split / f"{split}_{number}.txt").write_text("".join(outlines))
            images.append({"id": number + 1, "file_name": name, "width": 64, "height": 64})
            for mask, rle in zip(masks, coco.encode(np.array(masks)) if masks else []):
                rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
                box = [int(columns[0]), int(rows[0]), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1]
                ids = {"id": len(annotations) + 1, "image_id": number + 1, "category_id": 1, "iscrowd": 0}
                annotations.append({**ids, "segmentation": rle, "bbox": box, "area": int(mask.sum())})
        (root / "annotations").mkdir(exist_ok=True)
        categories = [{"id": i, "name": name} for i, name in enumerate(names, 1)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    places = {split: f"images/{split}" for split in SPLITS}
    (root / "data.yaml").write_text(yaml.safe_dump({"path": str(root), **places, "names": names}))
    return root / "data.yaml"


def shrink(root, split, number, side=24):
    """Leave the upper left corner of a picture, and of its masks; its outlines stay as they are."""
    picture = root / "images" / split / f"{split}_{number}.png"
    cv2.imwrite(str(picture), cv2.imread(str(picture))[:side, :side])
    (root / "annotations" / f"instances_{split}.json").unlink()


def unet(**row):
    return {"detector": "unet", "labels": 3, **row}


STUDY = {
    "data": "nuclei/data.yaml",
    "split": "test",
    "measure": "instances",
    "tune": "val",
    "seeds": [0, 1],
    "train": {"unet": UNET, "yolo": YOLO},
    "rows": {
        "N2V": {"detector": "unet", "options": {"alpha": 1}},
        "Baseline 3": unet(options={"alpha": 0}),
        "Sequential 3": unet(start="N2V", options={"alpha": 0, "sequential": True}),
        "DenoiSeg 3": unet(options={"alpha": 0.5, "mixed": False}),
        "Baseline 6": unet(labels=6, options={"alpha": 0}),
        "DenoiSeg 6": unet(labels=0.75, against="Baseline 6"),
        "YOLO 3": {"model": "yolov8n-seg.yaml", "labels": 3},
        "YOLO": {"model": "yolov8n-seg.yaml", "against": "YOLO 3"},
    },
    "baseline": "Baseline 3",
}


def study(**changes):
    return {**STUDY, **changes}


def with_row(**row):
    return study(rows={**STUDY["rows"], "more": row})


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with the pictures."""
    folder = tmp_path_factory.mktemp("instances")
    nuclei(folder / "nuclei")
    return folder


@pytest.fixture(scope="module")
def done(home):
    """The study, run in this process."""
    return compared_here(STUDY, home)


# ---- which pictures keep their labels ------------------------------------------------------------


def test_all_rows_of_a_seed_have_the_same_labels_and_fewer_are_among_more(home):
    data = home / "nuclei/data.yaml"
    three, others = labels.drawn(data, 3, 7)
    six, _ = labels.drawn(data, 6, 7)
    assert (
        len(three) == 3
        and {*three} < {*six}
        and sorted([*three, *others]) == sorted(home.glob("nuclei/images/train/*"))
    )
    assert labels.drawn(data, 3, 7)[0] == three and labels.drawn(data, 3, 8)[0] != three
    order = np.random.default_rng(7).permutation(8)[:3]
    assert [int(file.stem[-1]) for file in three] == sorted(order.tolist())
    assert labels.drawn(data, 0.75, 7)[0] == six and len(labels.drawn(data, 0.01, 7)[0]) == 1
    assert labels.drawn(data, 8, 7)[1] == []
    with pytest.raises(ValueError, match=r"labels: is 9, and .* has 8 training pictures; wanted at most as many"):
        labels.drawn(data, 9, 7)


def test_a_twin_with_another_suffix_keeps_the_labels_of_the_same_pictures(tmp_path):
    found = []
    for suffix in (".jpg", ".png"):  # x.jpg stands in front of x.k.jpg, and x.k.png in front of x.png
        folder = tmp_path / suffix[1:] / "images/train"
        folder.mkdir(parents=True)
        for stem in ("x", "x.k", "y", "z.0", "z"):
            cv2.imwrite(str(folder / f"{stem}{suffix}"), np.zeros((8, 8, 3), np.uint8))
        file = tmp_path / suffix[1:] / "data.yaml"
        file.write_text(yaml.safe_dump({"train": "images/train", "val": "images/train", "names": ["disc"]}))
        drawn = [labels.drawn(file, 2, seed)[0] for seed in range(10)]
        found.append([{file.name.removesuffix(suffix) for file in chosen} for chosen in drawn])
    assert found[0] == found[1]


def test_the_data_yaml_of_a_run_names_both_lists(home, tmp_path):
    written = yaml.safe_load(labels.as_data(home / "nuclei/data.yaml", 3, 0, tmp_path).read_text())
    kept, others = labels.drawn(home / "nuclei/data.yaml", 3, 0)
    assert Path(written["train"]).read_text().split() == [*map(str, kept)]
    assert [Path(file).read_text().split() for file in written["unlabelled"]] == [[*map(str, others)]]
    assert written["names"] == {0: "nucleus"} and written["test"] == str(home / "nuclei/images/test")
    found = coco.ground_truth(tmp_path / "data.yaml", "train")
    assert [image["file_name"] for image in found["images"]] == [file.name for file in kept]
    assert (
        coco.ground_truth(tmp_path / "data.yaml", "val")["images"]
        == coco.ground_truth(home / "nuclei/data.yaml")["images"]
    )
    assert "unlabelled" not in yaml.safe_load(labels.as_data(home / "nuclei/data.yaml", 8, 0, tmp_path).read_text())


GREY_NUCLEI = Path(__file__).parents[1] / "scripts/grey_nuclei.py"


def test_the_script_of_grey_nuclei_takes_the_dark_grey_pictures_and_keeps_their_annotations(tmp_path, monkeypatch):
    main = runpy.run_path(str(GREY_NUCLEI))["main"]
    main.__globals__.update(TEST=3, TUNE=2)
    source, out = nuclei(tmp_path / "all"), tmp_path / "my grey"
    cv2.imwrite(str(tmp_path / "all/images/train/train_3.png"), np.full((64, 64, 3), (9, 9, 90), np.uint8))
    cv2.imwrite(str(tmp_path / "all/images/train/train_4.png"), np.full((64, 64, 3), 200, np.uint8))

    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setitem(main.__globals__, "copy", stop)
    with pytest.raises(KeyboardInterrupt):
        main(str(source), out)
    assert not out.exists(), "nothing half done"
    monkeypatch.undo()
    main(str(source), out)
    found = {split: {file.name for file in (out / "images" / split).iterdir()} for split in ("train", "val", "test")}
    assert {split: len(names) for split, names in found.items()} == {"train": 4, "val": 2, "test": 3}
    assert set.union(*found.values()) == {
        *(f"train_{n}.png" for n in (0, 1, 2, 5, 6, 7)),
        *(f"val_{n}.png" for n in range(3)),
    }

    def areas(truth):
        names = {image["id"]: Path(image["file_name"]).name for image in truth["images"]}
        return sorted((names[a["image_id"]], a["area"]) for a in truth["annotations"])

    before = areas(coco.ground_truth(source, "train")) + areas(coco.ground_truth(source, "val"))
    for split, names in found.items():
        truth = coco.ground_truth(out / "data.yaml", split)
        assert {Path(image["file_name"]).name for image in truth["images"]} == names
        assert areas(truth) == sorted(row for row in before if row[0] in names)
        assert all(image["group"] == Path(image["file_name"]).stem for image in truth["images"])
    with pytest.raises(SystemExit, match="my grey is there already; delete it"):
        main(str(source), out)
    with pytest.raises(SystemExit, match="9 grey, dark pictures in train and val; wanted more than 9"):
        main.__globals__["TUNE"] = 6
        main(str(source), tmp_path / "other")


def test_parts_of_one_photograph_are_one_group_and_stay_in_one_split(tmp_path):
    script = runpy.run_path(str(GREY_NUCLEI))
    rng = np.random.default_rng(0)
    files = {}
    for number in range(8):  # strips that go on to the right or downwards, cut into four
        strip = np.repeat(rng.integers(40, 200, (64, 1), dtype=np.uint8), 256, 1)
        for part in range(4):
            picture = strip[:, 64 * part : 64 * (part + 1)]
            file = tmp_path / f"{37 * (4 * number + part) % 256:03}.png"
            cv2.imwrite(str(file), picture.T if number % 2 else picture)
            files[file] = number
    found = script["photographs"]([*files])
    assert {frozenset(f for f in files if files[f] == n) for n in range(8)} == {
        frozenset(f for f in files if found[f] == name) for name in {*found.values()}
    }
    script["parted"].__globals__.update(TEST=6, TUNE=3)
    splits = script["parted"](found)
    assert {split: len(chosen) for split, chosen in splits.items()} == {"train": 20, "val": 4, "test": 8}
    assert not any(
        {found[f] for f in splits[a]} & {found[f] for f in splits[b]}
        for a, b in (("train", "val"), ("train", "test"), ("val", "test"))
    )


def test_pictures_that_a_data_set_has_without_labels_stay_there(home, tmp_path):
    nuclei(tmp_path / "more", train=2, val=1, test=1)
    data = yaml.safe_load((tmp_path / "more/data.yaml").read_text())

    def named(*places, key="unlabelled"):
        (tmp_path / "more/data.yaml").write_text(yaml.safe_dump({**data, key: list(places)}))
        return tmp_path / "more/data.yaml"

    (tmp_path / "more/rest").mkdir()
    more = [tmp_path / "more/rest/0.png"]
    cv2.imwrite(str(more[0]), np.zeros((64, 64, 3), np.uint8))
    assert labels.unlabelled(named("rest")) == more and labels.unlabelled(home / "nuclei/data.yaml") == []
    assert labels.digest(home / "nuclei/data.yaml") == "" != labels.digest(tmp_path / "more/data.yaml")
    written = yaml.safe_load(labels.as_data(tmp_path / "more/data.yaml", 1, 0, tmp_path).read_text())
    assert written["unlabelled"] == [str(tmp_path / "more/rest"), str(tmp_path / "unlabelled.txt")]
    assert labels.unlabelled(tmp_path / "data.yaml") == sorted(
        [*labels.drawn(tmp_path / "more/data.yaml", 1, 0)[1], *more]
    )
    for places, key, kind, message in (
        (["images/nowhere"], "unlabelled", FileNotFoundError, r"there is no .*nowhere, which 'unlabelled' names"),
        (["images/test"], "unlabelled", ValueError, "1 of the pictures that 'unlabelled' names are in 'test'"),
        (["rest"], "unlabeled", ValueError, "has 'unlabeled:'; the pictures without labels are named by 'unlabelled:'"),
        (["rest"], "unlabled", ValueError, "has 'unlabled:'; the pictures without labels are named by 'unlabelled:'"),
        (["rest"], "Un-Labelled_images", ValueError, "has 'Un-Labelled_images:'; the pictures without"),
    ):
        with pytest.raises(kind, match=message):
            labels.unlabelled(named(*places, key=key))


def test_the_parts_that_are_enhanced_for_a_training_hold_the_unlabelled_pictures(home, tmp_path):
    nuclei(tmp_path / "more", train=2, val=1, test=1)
    (tmp_path / "more/rest").mkdir()
    cv2.imwrite(str(tmp_path / "more/rest/0.png"), np.zeros((64, 64, 3), np.uint8))
    file = tmp_path / "more/data.yaml"
    assert compare_module.learnt_splits(file) == ["train"]
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "unlabelled": "rest"}))
    assert compare_module.learnt_splits(file) == ["train", "unlabelled"]


# ---- a study from beginning to end ---------------------------------------------------------------


def test_rows_of_unet_and_yolo_stand_in_one_table(done):
    content = json.loads((done / "table.json").read_text())
    rows = {row["name"]: row for row in content["rows"]}
    assert content["kind"] == "instances" and content["metrics"] == ["AP@0.5", "SEG", "AP@0.5 pooled", "SEG pooled"]
    text = (done / "table.md").read_text()
    assert "| row | AP@0.5 (TP/(TP+FP+FN)) | SEG | AP@0.5 pooled | SEG pooled | mask AP | PSNR | difference |" in text
    assert rows["N2V"]["by seed"] == [] and "row N2V has no score: alpha: 1 learns to denoise" in text
    assert rows["DenoiSeg 3"]["baseline"] == rows["Sequential 3"]["baseline"] == "Baseline 3"
    assert rows["DenoiSeg 6"]["baseline"] == "Baseline 6" and rows["YOLO"]["baseline"] == "YOLO 3"
    assert re.search(r"\| DenoiSeg 6 \|.* against Baseline 6 \|", text)
    assert "baseline" not in rows["YOLO 3"] and "baseline" not in rows["N2V"]
    assert rows["YOLO"]["mask AP"] is not None and rows["Baseline 3"]["mask AP"] is None
    assert rows["Baseline 3"]["PSNR"] is None and all(
        rows[name]["PSNR"] > 5 for name in ("N2V", "Sequential 3", "DenoiSeg 3")
    )
    assert rows["Sequential 3"]["parameters M"] == pytest.approx(2 * rows["Baseline 3"]["parameters M"], abs=0.002)
    assert all(row["ms"] > 0 and row["GFLOPs"] > 0 for row in rows.values())
    assert re.search(r"mean over the pictures; 22\.\d\d before", text) and "row DenoiSeg 6: labels: 0.75" in text
    for name in ("Baseline-3-0", "YOLO-1"):
        record, score = (
            json.loads((done / name / "run.json").read_text()),
            Instances.from_json(done / name / "evaluation.json"),
        )
        assert record["instances"] == score.numbers() and score.images == 4 and score.objects == [0, 2, 2, 2]
        assert record["protocol"]["tune"] == "val" and record["protocol"]["threshold of SEG"] in THRESHOLDS
        assert record["spec"]["tune_pictures"]


def test_the_score_of_a_run_is_that_of_its_model_with_the_thresholds_of_tune(done, home, monkeypatch):
    from yolo_wnlb.denoiseg import detector

    monkeypatch.chdir(home)
    model = detector.load(done / "Baseline-3-0/last.pt", "cpu")
    found = {}
    for split in ("val", "test"):
        truth = coco.ground_truth("nuclei/data.yaml", split)
        files = coco.image_files(truth, "nuclei/data.yaml", split)
        found[split] = truth, [*zip(files, model.predict(files.values()))]
    chosen = choose(found["val"][0], by_probability(found["val"][1], 1))
    result = instances(found["test"][0], by_probability(found["test"][1], 1), chosen)
    assert result.numbers() == json.loads((done / "Baseline-3-0/run.json").read_text())["instances"]


def test_yolo_learns_from_the_pictures_that_keep_their_labels(done):
    assert len((done / "YOLO-3-0/labelled.txt").read_text().split()) == 3
    assert yaml.safe_load((done / "YOLO-3-0/train/args.yaml").read_text())["data"] == str(done / "YOLO-3-0/data.yaml")
    assert not (done / "YOLO-0/data.yaml").exists()


def test_a_table_is_made_again_from_its_files(done):
    again, stored = remake(done), json.loads((done / "table.json").read_text())
    assert [row.get("interval") for row in again.rows] == [row.get("interval") for row in stored["rows"]]
    assert f"{again}\n" == (done / "table.md").read_text()


def test_a_finished_study_is_not_run_again_and_other_labels_are_refused(done, home, monkeypatch):
    monkeypatch.chdir(home)
    monkeypatch.setattr(compare_module, "start", lambda run, device: pytest.fail(f"{run.name} was started"))
    assert f"{compare(STUDY, 'out', device='cpu')}\n" == (done / "table.md").read_text()
    rows = {**STUDY["rows"], "Baseline 3": unet(labels=4, options={"alpha": 0})}
    with pytest.raises(ValueError, match=r"Baseline-3-0 was run with another labels \(3, now 4\)"):
        compare(study(rows=rows), "out", device="cpu")


def test_an_interrupted_training_goes_on_after_its_last_epoch_and_another_one_starts_again(home, monkeypatch, tmp_path):
    monkeypatch.chdir(home)
    monkeypatch.setattr(compare_module, "start", start_here)
    monkeypatch.setattr(compare_module, "TIMED", 1)
    row = {"DenoiSeg 3": unet(options={"alpha": 0.5, "mixed": False})}
    small = study(rows=row, baseline=None, seeds=[0])
    compare(small, tmp_path / "whole", device="cpu")
    epoch_of, epochs = denoiseg_fit.train_epoch, []

    def interrupted(*arguments):
        epochs.append(len(epochs))
        if len(epochs) == 2:
            raise KeyboardInterrupt
        return epoch_of(*arguments)

    monkeypatch.setattr(denoiseg_fit, "train_epoch", interrupted)
    faster = {"train": {**STUDY["train"], "unet": {**UNET, "lr": 1e-3}}}
    for out, changed in (("same", {}), ("other", faster), ("with another version", {})):
        epochs.clear()
        with pytest.raises(KeyboardInterrupt):
            compare(small, tmp_path / out, device="cpu")
        epochs[:] = range(2, 4)  # the next one is counted as the fifth, and none is interrupted
        if out == "with another version":
            monkeypatch.setattr(compare_module, "environment", lambda device: {"torch": "0.1"})
        compare({**small, **changed}, tmp_path / out, device="cpu")
        assert len(epochs) - 2 == (1 if out == "same" else 2), out
        record = json.loads((tmp_path / out / "DenoiSeg-3-0/run.json").read_text())
        assert record["training"]["resumed"] == (out == "same")
    whole, same = (read_checkpoint(tmp_path / out / "DenoiSeg-3-0/last.pt")[0] for out in ("whole", "same"))
    assert all(torch.equal(whole[name], same[name]) for name in whole)


def test_solov2_learns_from_few_labels_and_unet_from_enhanced_pictures(home, monkeypatch):
    from yolo_wnlb.detectors import fit as fit_module

    monkeypatch.chdir(home)
    monkeypatch.setattr(compare_module, "start", start_here)
    monkeypatch.setattr(compare_module, "TIMED", 1)
    seen, fit = [], fit_module.fit

    @functools.wraps(fit)
    def watched(model, truth, *rest, **more):
        seen.append(truth)
        return fit(model, truth, *rest, **more)

    monkeypatch.setattr(fit_module, "fit", watched)
    rows = {"solo": {"detector": "solov2_light", "labels": 3}, "bright": unet(enhance="clahe", options={"alpha": 0})}
    train = {"unet": UNET, "solov2_light": {**SMALL_SOLO, "epochs": 1, "batch": 2, "workers": 0}}
    table = compare(study(rows=rows, train=train, seeds=[5], baseline=None), "others", device="cpu")
    kept, _ = labels.drawn("nuclei/data.yaml", 3, 5)
    assert [image["file_name"] for image in seen[0]["images"]] == [file.name for file in kept]
    assert len(seen[0]["annotations"]) == 2 * sum(not file.stem.endswith("_0") for file in kept)
    assert [row["seeds"] for row in table.rows] == [1, 1] and table.rows[0]["mask AP"] is not None
    enhanced = Path("others/enhanced/clahe")
    assert {folder.name for folder in (enhanced / "images").iterdir()} == {"train", "val", "test"}


# ---- evaluate ------------------------------------------------------------------------------------


def test_evaluate_finds_what_the_study_found(done, home, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(home)
    for name, words in (("Baseline-3-0", []), ("YOLO-3-0", ["measure=instances", "imgsz=64"])):
        out, file = tmp_path / name, str(done / name / "last.pt")
        given = ["data=nuclei/data.yaml", "split=test", "tune=val", f"out={out}", "device=cpu"]
        assert main(["evaluate", file, *given, *words]) == 0, capsys.readouterr().err
        record = json.loads((done / name / "run.json").read_text())
        assert Instances.from_json(out / "evaluation.json").numbers() == record["instances"]
        assert "AP@0.5 (TP/(TP+FP+FN))" in capsys.readouterr().out
        assert len((out / "per_picture.csv").read_text().splitlines()) == 5 and not (out / "plot.png").exists()
    predictions = str(tmp_path / "YOLO-3-0/predictions.jsonl")
    given = ["data=nuclei/data.yaml", "split=test", "measure=instances", "threshold=0.3", f"out={tmp_path / 'again'}"]
    assert main(["evaluate", predictions, *given]) == 0, capsys.readouterr().err
    truth = coco.ground_truth("nuclei/data.yaml", "test")
    wanted = instances(truth, by_score(truth, coco.load_predictions(predictions, truth)[1]), 0.3)
    again = Instances.from_json(tmp_path / "again/evaluation.json")
    assert again.numbers() == wanted.numbers() and again.protocol["threshold of AP@0.5"] == 0.3
    assert "predictions" not in again.protocol and "image_list" not in again.protocol


@pytest.mark.parametrize(
    ("file", "words", "message"),
    [
        ("YOLO-3-0/last.pt", ["tune=val"], "tune= is for measure=instances; add that, or remove it"),
        ("YOLO-3-0/last.pt", ["threshold=0.5"], "threshold= is for measure=instances; add that"),
        ("YOLO-3-0/last.pt", ["measure=instances", "threshold=1.5"], "threshold=1.5"),
        ("YOLO-3-0/last.pt", ["measure=instances", "tune=test"], "tune=test is the split to be measured"),
        ("YOLO-3-0/last.pt", ["measure=instances", "tune=train"], "tune=train is what models learn from"),
        (
            "YOLO-3-0/last.pt",
            ["measure=instances", "tune=dev"],
            "nuclei/data.yaml has no split 'dev'; choose from train, val",
        ),
        (
            "YOLO-3-0/last.pt",
            ["measure=instances", "tune=val", "threshold=0.5"],
            "threshold= gives what tune= would choose",
        ),
        ("YOLO-3-0/last.pt", ["measure=instances", "conf=0.5"], "conf= is for measure=coco; the least score"),
        ("YOLO-3-0/last.pt", ["measure=accuracy"], "measure=accuracy"),
        ("Baseline-3-0/last.pt", ["measure=coco"], "is a U-Net, which measure=coco cannot score"),
        ("Baseline-3-0/last.pt", ["imgsz=64"], "imgsz= is for detectors, and"),
        ("N2V-0/last.pt", [], "was trained with alpha: 1, and has not learnt to segment"),
        ("nowhere.pt", ["measure=instances"], "nowhere.pt"),
    ],
)
def test_what_evaluate_refuses(done, home, monkeypatch, capsys, tmp_path, file, words, message):
    monkeypatch.chdir(home)
    given = ["data=nuclei/data.yaml", "split=test", f"out={tmp_path / 'out'}", "device=cpu"]
    assert main(["evaluate", str(done / file), *given, *words]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_evaluate_chooses_no_threshold_on_pictures_that_are_judged_under_another_name(
    done, home, monkeypatch, capsys, tmp_path
):
    monkeypatch.chdir(home)
    (home / "nuclei/same.yaml").write_text((home / "nuclei/data.yaml").read_text().replace("images/val", "images/test"))
    for file in ("Baseline-3-0/last.pt", "YOLO-3-0/last.pt"):
        words = ["data=nuclei/same.yaml", "split=test", "measure=instances", "tune=val", "device=cpu"]
        assert main(["evaluate", str(done / file), *words, f"out={tmp_path / 'out'}"]) == 2
        assert "tune: val of nuclei/same.yaml has 4 pictures of test too" in capsys.readouterr().err


def test_a_model_or_a_truth_of_boxes_has_no_instances(home, source, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(home)
    nuclei(tmp_path / "boxes", train=2, val=2, test=2)
    for file in (tmp_path / "boxes").glob("labels/*/*.txt"):
        file.write_text("".join("0 0.5 0.5 0.2 0.2\n" for _ in file.read_text().splitlines()))
    for file in (tmp_path / "boxes").glob("annotations/*.json"):
        file.unlink()
    for data, message in (
        ("nuclei/data.yaml", "finds boxes only, and measure=instances scores masks"),
        (str(tmp_path / "boxes/data.yaml"), "val: 1 of 1 objects have no mask (first: object 1), and instances"),
    ):
        words = [f"data={data}", "measure=instances", f"out={tmp_path / 'out'}", "device=cpu"]
        assert main(["evaluate", str(source("yolov8n")), *words]) == 2
        assert message in capsys.readouterr().err


# ---- mistakes in a study -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            study(tune=None),
            r"measure: instances wants tune:, a split to choose thresholds on, neither split: nor train",
        ),
        (study(tune="test"), "tune: test is what it is judged on, and thresholds chosen there look too good"),
        (study(tune="train"), "tune: train is what models learn from"),
        (study(tune=""), "tune: is ''; wanted a split"),
        (study(tune=["val"]), r"tune: is \['val'\]; wanted a split"),
        (
            study(measure="coco", rows={"a": {"model": "x-seg.yaml"}}, baseline=None),
            "tune: chooses thresholds for measure: inst",
        ),
        (study(data="nuclei.json"), "tune: wants data: to be a data YAML, and a JSON names the pictures of one split"),
        (study(measure="INSTANCES"), r"measure: is 'INSTANCES' \(did you mean 'instances'\?\)"),
        (with_row(detector="UNET"), r"row 'more': no detector UNET \(did you mean 'unet'\?\)"),
        (with_row(detector="DenoiSeg"), r"row 'more': no detector DenoiSeg \(did you mean 'unet'\?\)"),
        (study(measure="instance"), r"measure: is 'instance' \(did you mean 'instances'\?\)"),
        (
            study(measure="coco", tune=None),
            r"row 'N2V': measure: coco wants detector: yolo .* has unet, .* measure: instances",
        ),
        (
            with_row(detector="classifier"),
            "row 'more': measure: instances wants detector: unet or yolo .* has classifier",
        ),
        (with_row(**unet(labels=0)), "row 'more': labels: is 0; wanted how many training pictures keep their labels"),
        (with_row(**unet(labels=1.0)), r"row 'more': labels: is 1\.0; wanted .* a share of them between 0 and 1"),
        (with_row(**unet(labels=True)), "row 'more': labels: is True"),
        (with_row(**unet(labels="ten")), "row 'more': labels: is 'ten'"),
        (with_row(**unet(labels=-0.1)), "row 'more': labels: is -0.1"),
        (
            with_row(**unet(against="Basline 3")),
            r"against: there is no row 'Basline 3' \(did you mean 'Baseline 3'\?\)",
        ),
        (with_row(**unet(against="more")), "row 'more': against: names the row itself"),
        (with_row(**unet(against="YOLO")), "against: 'YOLO' is of yolo, this row of unet, and different detectors"),
        (with_row(**unet(against="N2V")), r"against: 'N2V' learns to denoise only \(alpha: 1\), and has no score"),
        (with_row(**unet(against=["N2V"])), r"row 'more': against: is \['N2V'\]; wanted the name of a row"),
        (study(baseline="N2V"), r"baseline: N2V learns to denoise only"),
        (
            with_row(detector="unet", weights="N2V", against="Baseline 3"),
            r"against: 'more' learns to denoise only \(alpha: 1\), and has no score",
        ),
        (
            study(rows={"N2V": STUDY["rows"]["N2V"]}, baseline=None),
            "all rows learn to denoise only .*; add one that segments",
        ),
        (with_row(**unet(after=["P3"])), "row 'more': after: says where blocks go, and unet takes none"),
        (with_row(**unet(options={"noise": 10})), "row 'more', options: noise is for the study to give"),
        (with_row(**unet(options={"tune": []})), "row 'more', options: tune is for the study to give"),
        (with_row(detector="unet", weights="Baseline 3", labels=3), "evaluates weights: as they are; remove labels:"),
        (
            study(train={"unet": UNET, "yolo": {**YOLO, "fraction": 0.5}}),
            "row 'YOLO 3': fraction: of train: would leave out",
        ),
    ],
)
def test_a_study_that_cannot_be_is_refused_when_it_is_read(content, message):
    with pytest.raises(ValueError, match=message):
        read_study(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (with_row(**unet(labels=9)), r"more, seed 0: labels: is 9, and .* has 8 training pictures"),
        (study(tune="VAL"), r"nuclei/data.yaml has no split 'VAL' \(did you mean 'val'\?\); choose from train"),
        (study(tune="dev"), r"nuclei/data.yaml has no split 'dev'; choose from train, val, test"),
        (
            with_row(model="yolov8n.yaml"),
            "more, seed 0: yolov8n.yaml finds boxes only, and measure: instances scores masks",
        ),
        (with_row(**unet(options={"alpha": 50})), r"more, seed 0: alpha is 50; .* did you mean 0\.5\?"),
        (with_row(**unet(options={"alhpa": 0.5})), r"more, seed 0: no argument alhpa \(did you mean 'alpha'\?\)"),
        (with_row(**unet(options={"sequential": True, "alpha": 0})), "a denoiser has to stand in front; give start:"),
        (
            with_row(**unet(start="Baseline 3", options={"sequential": True, "alpha": 0})),
            "more, seed 0: sequential: row 'Baseline 3' was trained with alpha: 0, and has not learnt to denoise",
        ),
        (with_row(**unet(start="N2V", options={"sequential": 1, "alpha": 0})), "sequential is 1; wanted true or false"),
        (with_row(**unet(start="N2V", options={"first": 8})), "first is 8, and that of row 'N2V' 4; give both one"),
        (with_row(**unet(start="Sequential 3")), "row 'Sequential 3' is sequential, and cannot be gone on from"),
        (with_row(**unet(start="nowhere.pt")), "there are no weights nowhere.pt"),
        (
            study(train={"unet": {**UNET, "crop": 96, "patch": 96}, "yolo": YOLO}),
            r"64 x 64 pixels, less than a crop of 96 x 96",
        ),
        (study(train={"unet": {**UNET, "noise": 0.1}, "yolo": YOLO}), "noise is 0.1; wanted n0, n10, n20"),
        (study(train={"unet": {}, "yolo": YOLO}), "epochs is None; wanted a whole number, 1 or more"),
        (
            study(data="two/data.yaml"),
            r"two/data.yaml has 2 classes \(nucleus, cell\), and unet tells objects of one apart",
        ),
        (study(data="boxes/data.yaml"), r"boxes/data.yaml, test: \d+ of \d+ objects have no mask"),
        (
            study(data="small/data.yaml"),
            r"val_1\.png cannot be read or is smaller than a crop of 32 x 32 \(1 pictures of tune:",
        ),
        (
            study(data="twice/data.yaml"),
            r"tune: val of twice/data.yaml has 4 pictures of test too \(first: .*test_0.png",
        ),
        (
            study(data="learnt/data.yaml"),
            "val of learnt/data.yaml has 8 pictures of train too .* by heart; give each its",
        ),
        (
            with_row(model="yolov8n-seg.yaml", options={"denoise": {"target": "n2v", "from": "P9"}}),
            "more, seed 0: denoise: from names 'P9'; this model has P1, P2, P3",
        ),
        (
            with_row(model="yolov8n-seg.yaml", options={"denoise": {"target": "n2v", "crop": 128}}),
            "more, seed 0: denoise=n2v: 8 of 8 pictures cannot be read or are smaller than a crop of 128 .*'crop': 64",
        ),
        (
            with_row(model="yolov8n-seg.yaml", options={"denoise": {"target": "n2v", "pixels": 0.05}}),
            "more, seed 0: denoise: pixels is 0.05, one in each 45 x 45 pixels, and crops have 32 x 32",
        ),
        (with_row(model="yolov8n-seg.yaml", options={"denoise": "N2V"}), r"no target 'N2V' \(did you mean 'n2v'\?\)"),
        (
            study(data="void/data.yaml"),
            r"void/data.yaml, val: 1 pictures without an object; no threshold can be chosen",
        ),
    ],
)
def test_what_would_fail_in_a_run_is_refused_before_the_first_one(content, message, home, tmp_path, monkeypatch):
    monkeypatch.chdir(home)
    monkeypatch.setattr(compare_module, "start", lambda run, device: pytest.fail(f"{run.name} was started"))
    for name, how in (
        ("two", {"names": ["nucleus", "cell"]}),
        ("void", {"val": 1}),
        ("boxes", {}),
        ("small", {}),
        ("twice", {}),
        ("learnt", {}),
    ):
        if f"{name}/data.yaml" == content["data"] and not Path(name).exists():
            nuclei(home / name, **how)
            if name == "small":
                shrink(home / "small", "val", 1)
            if name in ("twice", "learnt"):
                other = "test" if name == "twice" else "train"
                text = (home / name / "data.yaml").read_text()
                (home / name / "data.yaml").write_text(text.replace("val: images/val", f"val: images/{other}"))
            for file in Path(name).glob("labels/*/*.txt") if name == "boxes" else ():
                file.write_text("".join("0 0.5 0.5 0.2 0.2\n" for _ in file.read_text().splitlines()))
            for file in Path(name).glob("annotations/*.json") if name == "boxes" else ():
                file.unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        compare(content, tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


def test_a_row_may_be_added_to_a_study_whose_sources_are_finished(done, home, monkeypatch):
    """Its source is not checked again as a plan, but as the file that it is."""
    from yolo_wnlb.study.check import check_models

    monkeypatch.chdir(home)
    more = unet(start="N2V", labels=6, options={"alpha": 0, "sequential": True})
    runs = runs_of(read_study(with_row(**more)), done)
    check_models([run for run in runs if not run.recorded], "cpu")
    with pytest.raises(ValueError, match=r"more, seed 0: .*has not learnt to denoise"):
        wrong = runs_of(read_study(with_row(**{**more, "start": "Baseline 3"})), done)
        check_models([run for run in wrong if not run.recorded], "cpu")


def test_rows_that_are_numbers_are_compared_by_their_numbers():
    rows = {10: unet(options={"alpha": 0}), 38: unet(labels=4, options={"alpha": 0}, against=10)}
    assert read_study(study(rows=rows, baseline=None))["rows"]["38"]["against"] == "10"


def test_a_given_network_that_only_denoises_has_no_place_in_a_table(done, home, monkeypatch, tmp_path):
    monkeypatch.chdir(home)
    rows = {"given": {"detector": "unet", "weights": str(done / "N2V-0/last.pt")}}
    with pytest.raises(ValueError, match="was trained with alpha: 1, and has not learnt to segment: it has no score"):
        compare(study(rows=rows, baseline=None), tmp_path / "out", device="cpu")
