"""Accuracy by class and by group, and studies of classifiers: the six strategies as rows that start from each other."""

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from test_study import compared_here

from yolo_wnlb.cli import main
from yolo_wnlb.data.folders import read
from yolo_wnlb.metrics.accuracy import Accuracy, score
from yolo_wnlb.metrics.bootstrap import draws
from yolo_wnlb.study import compare as compare_module
from yolo_wnlb.study.check import check_models
from yolo_wnlb.study.compare import compare
from yolo_wnlb.study.plan import read_study
from yolo_wnlb.study.runs import runs_of
from yolo_wnlb.study.table import kind_of, left_out_note, remake

DATA = "containers:S3,train=8,test=6,size=32"


def hand_made(**changes):
    """Five pictures: two of a, right; three of b, one right."""
    labels, predicted, groups = [0, 0, 1, 1, 1], [0, 0, 1, 0, 2], ["x", "y", "x", "x", ""]
    names = [f"{i}.png" for i in range(5)]
    return Accuracy(
        **{
            "classes": ["a", "b", "c"],
            "labels": labels,
            "predicted": predicted,
            "groups": groups,
            "file_names": names,
            **changes,
        }
    )


# ---- the score -----------------------------------------------------------------------------------


def test_accuracy_by_class_and_by_group_of_a_hand_made_example():
    found = hand_made()
    assert found.headline == "accuracy" and found.images == 5
    assert found.numbers() == {"accuracy": 0.6, "balanced accuracy": pytest.approx((1 + 1 / 3) / 2)}
    assert found.per_class() == {"a": 1.0, "b": pytest.approx(1 / 3), "c": -1.0}
    assert found.per_group() == {"x": pytest.approx(2 / 3), "y": 1.0}
    text = str(found)
    assert "accuracy                    0.6000" in text and "class c                     -       of 0 pictures" in text
    assert "group x                     0.6667  of 3 pictures" in text


def test_drawn_pictures_give_the_accuracy_of_as_many_copies():
    found, weights = hand_made(), draws(5, 50, 0)
    copies = [np.repeat(found.correct, row).mean() for row in weights]
    assert found.resampled(weights) == pytest.approx(copies, abs=1e-12)
    assert found.resampled(np.zeros((1, 5), int)).tolist() == [-1.0]


def test_the_most_probable_of_all_classes_of_the_model_counts():
    data = read(DATA, "test")
    names = ["90 %", "unknown", "other", "50 %", "0 %"]
    probabilities = np.full((6, 5), 0.1)
    for row, label in enumerate(data.labels):
        probabilities[row, names.index(data.classes[label])] = 0.5
    probabilities[2, 2] = 0.9  # a class that no picture has
    found = score(data, probabilities, names, {"detector": "x"})
    assert found.numbers()["accuracy"] == pytest.approx(5 / 6) and found.predicted[2] == 2
    assert found.protocol["truth"] == data.digest and found.protocol["detector"] == "x"
    with pytest.raises(
        ValueError,
        match=r"the model does not know 2 classes of containers:S3.*: 50 %, unknown; it was trained for 0 %, 90 %",
    ):
        score(data, probabilities[:, :2], ["0 %", "90 %"])
    with pytest.raises(ValueError, match=r"predictions have the shape \(5, 5\); wanted \(6, 5\)"):
        score(data, probabilities[:5], names)
    with pytest.raises(ValueError, match="some predictions are not finite"):
        score(data, probabilities * np.nan, names)


def test_what_is_written_is_read_back_and_damage_is_named(tmp_path):
    found = hand_made(protocol={"data": "d", "truth": "t"}, notes=["n"])
    found.to_json(tmp_path / "a.json")
    assert Accuracy.from_json(tmp_path / "a.json") == found
    content = json.loads((tmp_path / "a.json").read_text())
    for key, value, message in (
        ("format", "yolo_wnlb evaluation 1", "it has no format 'yolo_wnlb accuracy 1'"),
        ("labels", [0, 0, 1, 1], r"are of the lengths \[4, 5\]"),
        ("labels", [0, 0, 1, 1, 3], "labels are not all among the 3 classes"),
        ("predicted", [0, 0, 1, 1, True], "predicted is no list of whole numbers"),
        ("groups", None, "groups is no list of texts"),
        ("protocol", {"data": "d"}, "its protocol lacks truth"),
    ):
        (tmp_path / "b.json").write_text(json.dumps({**content, key: value}))
        with pytest.raises(
            ValueError, match=rf"b\.json is no accuracy that yolo_wnlb wrote: .*{message}.*evaluate again"
        ):
            Accuracy.from_json(tmp_path / "b.json")
    found.to_csv(tmp_path / "a.csv")
    rows = list(csv.reader((tmp_path / "a.csv").open()))
    assert rows[:2] == [["of", "name", "pictures", "accuracy"], ["all", "", "5", "0.6"]]
    assert [row[:3] for row in rows[2:]] == [
        ["class", "a", "2"],
        ["class", "b", "3"],
        ["class", "c", "0"],
        ["group", "x", "3"],
        ["group", "y", "1"],
    ]


# ---- studies -------------------------------------------------------------------------------------

TUNED = {"detector": "classifier", "options": {"lr": 0.005, "freeze": 1}}
STUDY = {
    "data": DATA,
    "split": "test",
    "measure": "accuracy",
    "seeds": [0, 1],
    "train": {"classifier": {"arch": "resnet10", "imgsz": 32, "epochs": 1, "batch": 4, "workers": 0, "balanced": True}},
    "rows": {
        "source ST": {"detector": "classifier", "data": "shapes:crops,train=8,val=5,size=32", "train": {"epochs": 2}},
        "ST": {"detector": "classifier"},
        "ST→FT": {**TUNED, "start": "source ST"},
        "ST→AFT": {
            "detector": "classifier",
            "start": "source ST",
            "options": {**TUNED["options"], "adversarial": {"norm": "l2", "eps": 0.05, "steps": 1}},
        },
        "as it is": {"detector": "classifier", "weights": "ST"},
    },
    "baseline": "ST",
}


def study(**changes):
    return {**STUDY, **changes}


def with_row(**row):
    return study(rows={**STUDY["rows"], "more": {"detector": "classifier", **row}})


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The study, run in this process."""
    return compared_here(STUDY, tmp_path_factory.mktemp("strategies"))


def test_a_detector_is_told_the_data_yaml_of_its_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("ds").mkdir()
    Path("ds/data.yaml").write_text("")
    Path("best.pt").write_bytes(b"no classifier")
    assert main(["evaluate", "best.pt", "data=ds"]) == 2
    assert "data=ds is a folder; for a detector give data=ds/data.yaml" in capsys.readouterr().err


def test_what_is_no_classifier_is_named_beside_class_folders(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("trunc.pt").write_bytes(b"half a download")
    for file, message in (
        ("trunc.pt", "trunc.pt is no PyTorch checkpoint"),
        ("nowhere.pt", "there is no classifier nowhere.pt"),
    ):
        assert main(["evaluate", file, f"data={DATA}", "split=test", "out=found"]) == 2
        assert message in capsys.readouterr().err and not Path("found").exists()


def test_rows_of_strategies_stand_in_one_table(done):
    content = json.loads((done / "table.json").read_text())
    rows = {row["name"]: row for row in content["rows"]}
    assert content["kind"] == "accuracy" and content["metrics"][:3] == [
        "accuracy",
        "balanced accuracy",
        "train accuracy",
    ]
    assert {"class unknown", "group red cup", "group beer cup"} < {*content["metrics"]}
    assert rows["ST→FT"]["baseline"] == "ST" and len(rows["ST→FT"]["deltas"]) == 2
    assert (
        "row ST→AFT: lr: 0.005, freeze: 1, adversarial: {'norm': 'l2', 'eps': 0.05, 'steps': 1}"
        in (done / "table.md").read_text()
    )
    assert "l2, eps 0.05" not in (done / "ST-0/log.csv").read_text() and (done / "ST-AFT-1/run.json").is_file()
    assert rows["as it is"]["by seed"] == rows["ST"]["by seed"] and all(row["ms"] > 0 for row in rows.values())
    assert rows["ST→FT"]["parameters M"] == pytest.approx(4.908)
    found = [Accuracy.from_json(done / f"ST-{seed}/evaluation.json") for seed in (0, 1)]
    assert rows["ST"]["by seed"] == [one.numbers()["accuracy"] for one in found]
    assert found[0].groups == list(read(DATA, "test").groups)
    text = (done / "table.md").read_text()
    assert "| row | accuracy | balanced accuracy | train accuracy | class 0 %" in text and "| against ST |" in text
    assert "row source ST learns 5 other classes, and only lends its weights: accuracy " in text
    assert (
        "on shapes:crops,train=8,val=5,size=32, val" in text
        and "share of the pictures that were given their class" in text
    )
    assert rows["source ST"]["accuracy"] is None and rows["source ST"]["by seed"] == []
    assert (done / "table.png").is_file()


def test_each_row_starts_from_the_weights_of_its_seed_and_freezes_what_it_says(done):
    from yolo_wnlb.classifiers.nets import read as read_file

    states = {name: read_file(done / name / "last.pt") for name in ("source-ST-1", "ST-FT-1")}
    (source, _), (tuned, meta) = states.values()
    frozen = [name for name in source if name.startswith(("net.conv1.", "net.bn1.", "net.layer1."))]
    assert len(frozen) > 10 and all((source[name] == tuned[name]).all() for name in frozen)
    assert not (source["net.layer2.0.conv1.weight"] == tuned["net.layer2.0.conv1.weight"]).all()
    assert meta["start"] == "last.pt" and meta["classes"] == list(read(DATA, "test").classes)


def test_a_table_is_made_again_from_its_files(done):
    again, stored = remake(done), json.loads((done / "table.json").read_text())
    assert [row.get("interval") for row in again.rows] == [row.get("interval") for row in stored["rows"]]
    assert str(again) == (done / "table.md").read_text().rstrip("\n")


def test_a_finished_study_is_not_run_again_and_other_pictures_are_refused(done, monkeypatch):
    monkeypatch.chdir(done.parent)
    monkeypatch.setattr(compare_module, "start", lambda run, device: pytest.fail(f"{run.name} was started"))
    monkeypatch.setattr(compare_module, "TIMED", 1)
    before = (done / "table.md").read_text()
    assert str(compare(STUDY, "out", device="cpu")) + "\n" == before
    other = DATA.replace("S3,", "S3,seed=1,")
    with pytest.raises(ValueError, match=r"was run with another data \(containers:S3,train=8.*truth"):
        compare(study(data=other), "out", device="cpu")


def test_an_interrupted_training_starts_again_where_the_weights_that_it_began_with_have_changed(done, tmp_path):
    """What it left belongs to other weights; and folders that lost a file name the remedy."""
    run = next(run for run in runs_of(read_study(STUDY), done) if run.row == "ST→FT" and run.seed == 0)
    spec = json.loads((run.folder / "spec.json").read_text())
    assert spec["begun with"]["files"] == json.loads((run.folder / "run.json").read_text())["files"] != {}
    out = tmp_path / "out"
    shutil.copytree(done, out)
    moved = replace(
        run, folder=out / run.folder.name, spec={k: spec[k] for k in spec if k not in ("device", "begun with")}
    )
    (moved.folder / "run.json").unlink()
    compare_module.prepare(moved, "cpu")
    assert (moved.folder / "last.pt").is_file(), "nothing has changed"
    source = next(iter(spec["begun with"]["files"])).removeprefix("{out}/")
    shutil.copy(out / "ST-1/last.pt", out / source)
    compare_module.prepare(moved, "cpu")
    assert not (moved.folder / "last.pt").exists()
    other = replace(moved, folder=out / "ST-1")
    (other.folder / "run.json").write_text(json.dumps({"spec": other.spec}))
    with pytest.raises(ValueError, match="lacks what was measured; delete that folder to run it again"):
        _ = other.record


def test_many_classes_are_left_to_the_file_and_a_bar_in_a_name_breaks_no_table(done):
    content = json.loads((done / "table.json").read_text())
    records = [record for record in content["records"] if not record["other classes"]]
    for record in records:
        record["accuracy"] |= {f"class {i}|{i}": 0.5 for i in range(3)}
    assert "| class 0\\|0 |" in str(replace(remake(done), metrics=[*content["metrics"], "class 0|0"], rows=[]))
    kind, metrics = kind_of(records)
    assert kind == "accuracy" and "class 0|0" in metrics and left_out_note(records, metrics, "accuracy") == ""
    records[0]["accuracy"] |= {f"class {i}": 0.5 for i in range(30)}
    kind, metrics = kind_of(records)
    assert metrics == ["accuracy", "balanced accuracy", "train accuracy"]
    assert re.fullmatch(
        r"; those of \d+ classes and groups: in table\.json, at the records",
        left_out_note(records, metrics, "accuracy"),
    )


def test_groups_of_a_study_are_those_of_the_pictures(done, monkeypatch):
    from yolo_wnlb.study.measures import MEASURES
    from yolo_wnlb.study.plan import groups_of

    measure = MEASURES["accuracy"]
    listing = measure.listing(measure.truth(DATA, "test"))
    assert groups_of({"groups": "group"}, listing) == list(read(DATA, "test").groups)


def test_the_command_evaluates_a_classifier(done, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    file = str(done / "ST-0/last.pt")
    assert main(["evaluate", file, f"data={DATA}", "split=test", "out=found", "device=cpu"]) == 0
    found = Accuracy.from_json("found/evaluation.json")
    assert found.predicted == Accuracy.from_json(done / "ST-0/evaluation.json").predicted
    assert f"accuracy                    {found.numbers()['accuracy']:.4f}" in capsys.readouterr().out
    assert Path("found/per_class.csv").is_file()
    for words, message in (
        (["conf=0.5"], "conf= is for detectors, and"),
        (["max_detections=50"], "max_detections= is for detectors, and"),
        (["data=shapes:crops,val=5,size=32", "split=val"], "the model does not know 5 classes of shapes:crops"),
        ([], "containers:S3,train=8,test=6,size=32 has no split 'val'; choose from train, test"),
    ):
        words = [f"data={DATA}", *words] if not any(word.startswith("data=") for word in words) else words
        words = words if message.endswith("test") or "split=val" in words else [*words, "split=test"]
        assert main(["evaluate", file, *words, "out=other", "device=cpu"]) == 2
        assert message in capsys.readouterr().err


def test_the_study_of_the_documentation_is_one(tmp_path):
    text = (Path(__file__).parents[1] / "docs/classifiers.md").read_text(encoding="utf-8")
    plan = read_study(yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.S)[1]))
    assert [*plan["rows"]][2:] == ["ST", "AT", "ST→FT", "ST→AFT", "AT→FT", "AT→AFT"] and len(
        runs_of(plan, tmp_path)
    ) == 24
    check_models(runs_of(plan, tmp_path), "cpu")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            study(measure="acuracy"),
            r"measure: is 'acuracy' \(did you mean 'accuracy'\?\); choose from coco, instances, accuracy",
        ),
        (study(measure=["accuracy"]), r"measure: is \['accuracy'\] .*; choose from coco, instances, accuracy"),
        (with_row(options={"out": "x"}), r"row 'more', options: out is for the study to give"),
        (study(measure="coco"), r"row 'source ST': measure: coco wants detector: yolo or maskrcnn.* has classifier"),
        (
            study(rows={"a": {"model": "yolov8n.yaml"}}, baseline=None),
            r"row 'a': measure: accuracy wants detector: classifier",
        ),
        (study(darken={"dark": {"source": "a.yaml"}}), r"darken: is for data sets of detectors"),
        (with_row(after=["P3"]), r"row 'more': after: is for detectors; remove it for a classifier"),
        (with_row(enhance="clahe"), r"row 'more': enhance: is for detectors"),
        (with_row(model="resnet18.yaml"), r"row 'more': model: is for yolo; classifier is built from train:"),
        (with_row(start="sauce ST"), r"row 'more': there is no row 'sauce ST' \(did you mean 'source ST'\?\)"),
        (with_row(options={"epochs": 3}), r"row 'more', options: epochs is for the study to give"),
    ],
)
def test_a_study_that_cannot_be_is_refused_when_it_is_read(content, message):
    with pytest.raises(ValueError, match=message):
        read_study(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (with_row(options={"freeze": 6}), r"more, seed 0: freeze is 6; wanted a whole number from 0"),
        (
            with_row(options={"adversarial": {"norm": "linf", "eps": 8}}),
            r"more, seed 0: adversarial: eps is 8 in linf; .*; did you mean 8/255 = 0\.0314\?",
        ),
        (
            with_row(options={"adversarial": {"method": "free", "norm": "l2"}}),
            r"more, seed 0: adversarial: free takes whole steps of eps and has no l2 form; give norm linf",
        ),
        (with_row(options={"lr0": 0.1}), r"more, seed 0: no argument lr0 \(did you mean 'lr'\?\)"),
        (
            study(train={"classifier": {"arch": "resnet11", "epochs": 1}}),
            r"no arch 'resnet11' \(did you mean 'resnet1.'\?\)",
        ),
        (study(train={"classifier": {"arch": ["resnet10"], "epochs": 1}}), r"no arch \['resnet10'\]"),
        (study(train={"classifier": {"epochs": 1}}), r"a classifier wants arch, such as arch: resnet18"),
        (study(train={"classifier": {"arch": "resnet10"}}), r"epochs is None; wanted a whole number, 1 or more"),
        (with_row(start="resnet18"), r"start: resnet18 does not fit arch: resnet10; name the same one"),
        (with_row(start="nowhere.pt"), r"there are no weights nowhere\.pt; train them first"),
        (study(split="val"), r"has no split 'val'; choose from train, test"),
        (study(data="containers:S9"), r"no containers:S9"),
        (with_row(data="nowhere"), r"there is no folder nowhere"),
        (
            with_row(weights="source ST"),
            r"more, seed 0: it knows disc, box, .*, and containers:S3.* has '0 %' too",
        ),
        (study(baseline="source ST"), r"source ST, seed 0: it knows disc, box, .*, and containers:S3.* has '0 %' too"),
        (
            with_row(data="shapes:crops,train=8,size=32"),
            r"more, seed 0: it knows disc.*only a row that another row starts to train from",
        ),
    ],
)
def test_what_would_fail_in_a_run_is_refused_before_the_first_one(content, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compare_module, "start", lambda run, device: pytest.fail(f"{run.name} was started"))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        compare(content, "out", device="cpu")
    assert not Path("out").exists()
