"""The command report: its three files, its mistakes, and what it measures beside accuracy: enhancers, blocks, cost."""

import contextlib
import io
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from conftest import shapes_set

from yolo_wnlb import cli
from yolo_wnlb.commands.register import COMMANDS
from yolo_wnlb.data.shapes import NAMES
from yolo_wnlb.imaging.camera import settings
from yolo_wnlb.imaging.capture import capture
from yolo_wnlb.imaging.chance import picture_rng
from yolo_wnlb.metrics.average_precision import Evaluation
from yolo_wnlb.report import blocks, card, cost, enhancers, page
from yolo_wnlb.report.content import Content, Estimate, HalfStop
from yolo_wnlb.study import robustness_detectors as of_detectors
from yolo_wnlb.study.subject import change_of
from yolo_wnlb.study.suite import CLEAN, Cell
from yolo_wnlb.twins.enhancers import enhancer


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Four pictures of shapes, and two untrained models of their classes, the second with blocks."""
    from ultralytics.nn.tasks import SegmentationModel

    folder = tmp_path_factory.mktemp("report")
    data = shapes_set(folder / "shapes", train=2, val=4)
    for name, source in (("plain", "yolov8n-seg.yaml"), ("wnlb", "yolov8n-seg-wnlb.yaml")):
        from ultralytics import YOLO

        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            model = YOLO(source, verbose=False).model
            model = SegmentationModel(model.yaml, nc=len(NAMES), verbose=False)
            for module in model.modules():
                if type(module).__name__ == "WNLB":
                    module.w.fill_(0.25)
                    module.W_z[0].weight.normal_(0, 0.1)
        model.names = dict(enumerate(NAMES))
        torch.save(
            {"model": model, "ema": None, "epoch": -1, "train_args": {"imgsz": 64, "task": "segment"}},
            folder / f"{name}.pt",
        )
    scene = of_detectors.read_scene(data, "val", None, 4, 0, "severe", 64, False, "pixels")
    subjects = of_detectors.read_models([folder / "plain.pt", folder / "wnlb.pt"], scene, False, "cpu")
    return subjects, scene


@pytest.fixture(scope="module")
def home(measured):
    """The folder of the two models and of shapes/data.yaml."""
    return measured[0][0].file.parent


QUICK = ("imgsz=64", "stops=0,-2", "n=3", "device=cpu")


def run(*words):
    """Run `yolo-wnlb report`; returns its exit status, standard output and standard error."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = cli.main(["report", *map(str, words)])
    return status, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def made(home):
    """A report of both models, as the command makes it: its folder and what was printed."""
    models = [home / "plain.pt", home / "wnlb.pt"]
    words = [
        *models,
        f"data={home / 'shapes/data.yaml'}",
        f"out={home / 'made/night.html'}",
        "enhancers=gamma:2",
    ]
    status, printed, error = run(*words, *QUICK)
    assert status == 0, error
    return home / "made", printed


# ---- the files -----------------------------------------------------------------------------------


def test_the_command_writes_three_files_and_prints_the_verdict(made):
    folder, printed = made
    assert sorted(file.name for file in folder.iterdir()) == ["night.html", "night.json", "night.md"]
    content = Content.from_json(folder / "night.json")
    assert len(content.verdict) == 3 and all(sentence in printed for sentence in content.verdict)
    assert "1/6 plain, clean, 4 pictures: " in printed and "2/6 plain, stops 0, 3 pictures: " in printed
    assert content.command.startswith("yolo-wnlb report ") and "enhancers=gamma:2" in content.command
    assert [(row.model, row.name) for row in content.enhancers] == [("plain", "gamma:2"), ("wnlb", "gamma:2")]
    assert [row.model for row in content.cost] == ["plain", "wnlb"] and len(content.blocks) == 3


def test_the_page_and_the_card_are_drawn_from_the_json_file_alone(made):
    folder, _ = made
    content = Content.from_json(folder / "night.json")
    assert page.render(content) == (folder / "night.html").read_text(encoding="utf-8")
    assert card.markdown(content) == (folder / "night.md").read_text(encoding="utf-8")


def test_the_ap_is_that_of_evaluate(made, home, tmp_path):
    content = Content.from_json(made[0] / "night.json")
    words = [f"data={home / 'shapes/data.yaml'}", "imgsz=64", "device=cpu", f"out={tmp_path / 'evaluated'}"]
    assert cli.main(["evaluate", str(home / "wnlb.pt"), *words]) == 0
    evaluated = Evaluation.from_json(tmp_path / "evaluated/evaluation.json")
    for score in content.scores:
        if score.model == "wnlb":
            assert score.numbers == evaluated.numbers(score.kind)


def test_a_second_report_takes_the_place_of_the_first_where_it_is_asked_to(made, home):
    folder, _ = made
    words = [home / "plain.pt", f"data={home / 'shapes/data.yaml'}", f"out={folder / 'night.html'}", "enhancers=none"]
    status, _, error = run(*words, *QUICK)
    assert status == 2 and "night.html is there already; choose another out=, or write over it" in error
    before = {file: file.read_bytes() for file in folder.iterdir()}
    try:
        status, _, error = run(*words, *QUICK, "exist_ok=True", "worst=0")
        assert status == 0, error
        content = Content.from_json(folder / "night.json")
        assert not content.enhancers and not content.worst and [m.name for m in content.models] == ["plain"]
    finally:
        for file, stored in before.items():
            file.write_bytes(stored)


# ---- the card ------------------------------------------------------------------------------------


def test_the_card_has_the_front_matter_of_the_hub(made):
    text = (made[0] / "night.md").read_text(encoding="utf-8")
    assert text.startswith("---\n")
    head = yaml.safe_load(text.split("---\n")[1])
    content = Content.from_json(made[0] / "night.json")
    assert head["pipeline_tag"] == "image-segmentation" and head["library_name"] == "ultralytics"
    assert [entry["name"] for entry in head["model-index"]] == ["plain", "wnlb"]
    values = {m["name"]: m["value"] for m in head["model-index"][0]["results"][0]["metrics"]}
    [mask] = [row.numbers["AP"] for row in content.scores if (row.model, row.kind) == ("plain", "segm")]
    assert values["mask AP"] == mask
    for title in (
        "At a glance",
        "How dark may it get",
        "The confidence to set",
        "What goes wrong",
        "What the blocks do",
    ):
        assert f"## {title}" in text


@pytest.mark.parametrize(
    ("licences", "found"),
    [
        (["AGPL-3.0 License (https://ultralytics.com/license)"], {"license": "agpl-3.0"}),
        (["not stated"], {}),
        (["MIT", "AGPL-3.0"], {"license": "other", "license_name": "AGPL-3.0, MIT"}),
    ],
)
def test_the_card_states_the_licence_that_the_checkpoints_state(made, licences, found):
    content = Content.from_json(made[0] / "night.json")
    content.models = [replace(content.models[0], licence=licence) for licence in licences]
    head = card.front_matter(content)
    assert {key: head[key] for key in head if key.startswith("license")} == found


@pytest.mark.parametrize("evil", ["<script>|x|</script>", "[a](http://b)", "*a* `b` _c_", "a\nb", "---\na: b"])
def test_names_are_text_in_the_card(made, evil):
    content = Content.from_json(made[0] / "night.json")
    content.title = evil
    content.models[0] = replace(content.models[0], weights=evil, licence=evil)
    content.enhancers[0].name = evil
    text = card.markdown(content)
    assert yaml.safe_load(text.split("\n---\n")[0].removeprefix("---\n"))["tags"]
    body = text.split("\n---\n", 1)[1]
    assert "<script>" not in body and "*a*" not in body and not re.search(r"(?<!\\)\]\(http", body)
    rows = [line for line in body.splitlines() if line.startswith("|")]
    widths = [len(re.findall(r"(?<!\\)\|", line)) for line in rows]
    heads = [width for line, width in zip(rows[1:], widths) if set(line) <= set("|- ")]
    assert set(widths) == set(heads)  # no cell was split in two


# ---- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["plain.pt"], "and no data=DATA.yaml"),
        (["data=shapes/data.yaml"], "found no file"),
        (["none.pt", "data=shapes/data.yaml"], "none.pt"),
        (["plain.pt", "data=none.yaml"], "none.yaml"),
        (["plain.pt", "plain.pt", "data=shapes/data.yaml"], "plain.pt"),
        (["plain.pt", "data=shapes/data.yaml", "out=report.pdf"], "no name of a page; wanted one that ends in .html"),
        (["plain.pt", "data=shapes/data.yaml", "out=folder.html"], "folder.html is a folder; choose another out="),
        (["plain.pt", "data=taken/data.yaml", "out=mine.html"], "mine.md is there already"),
        (["plain.pt", "data=shapes/data.yaml", "out=mine.html", "exist_ok=True"], "is not of a report"),
        (["plain.pt", "data=truth.json", "out=truth.html", "exist_ok=True"], "is what the report is made from"),
        (["plain.pt", "data=shapes/data.yaml", "enhancers=clash"], "no enhancer 'clash' (did you mean 'clahe'?)"),
        (["plain.pt", "data=shapes/data.yaml", "enhancers=clahe:2,"], "enhancers=clahe:2,: wanted enhancers between"),
        (["plain.pt", "data=shapes/data.yaml", "enhancers=corrupt:fog,level=2"], "makes pictures worse"),
        (["plain.pt", "data=shapes/data.yaml", "stops=-1,-2"], "stops"),
        (["plain.pt", "data=shapes/data.yaml", "stops=0,-9"], "stops"),
        (["plain.pt", "data=shapes/data.yaml", "n=1"], "n=1: wanted a whole number, 2 or more"),
        (["plain.pt", "data=shapes/data.yaml", "worst=-1"], "worst=-1: wanted a whole number, 0 or more"),
        (["plain.pt", "data=shapes/data.yaml", "beta=0"], "beta"),
        (["plain.pt", "data=shapes/data.yaml", "preset=sever"], "did you mean 'severe'"),
        (["plain.pt", "data=shapes/data.yaml", "imgsz=65"], "multiple of the stride"),
        (["plain.pt", "data=shapes/data.yaml", "groups=("], "groups"),
        (["plain.pt", "data=shapes/data.yaml", "split=test"], "test"),
        (["plain.pt", "data=shapes/data.yaml", "colour=red"], "no option"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_measured(home, monkeypatch, words, message):
    monkeypatch.chdir(home)
    (home / "folder.html").mkdir(exist_ok=True)
    (home / "mine.md").write_text("mine")
    (home / "truth.json").write_text("{}")
    monkeypatch.setattr(of_detectors, "measure", None)
    status, _, error = run(*words)
    assert status == 2, error
    assert len(error.splitlines()) == 1 and message in error
    assert (home / "mine.md").read_text() == "mine" and (home / "truth.json").read_text() == "{}"
    assert not (home / "report.html").exists()


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("gamma:2.2,clahe:2", ["gamma:2.2", "clahe:2"]),
        ("onnx:net.onnx,pad=12,range=0-1,histeq", ["onnx:net.onnx,pad=12,range=0-1", "histeq"]),
        ("none", []),
    ],
)
def test_enhancers_are_read_with_their_options(value, found):
    assert COMMANDS["report"].options["enhancers"].read(value) == found


# ---- enhancers, blocks, cost ---------------------------------------------------------------------


def test_each_enhancer_is_measured_beside_the_same_pictures_without_it(measured, monkeypatch):
    subjects, scene = measured
    seen = []
    real = enhancers.ap_of

    def ap_of(subject, scene, kind, alter):
        image = scene.read(scene.ids[0])
        seen.append(image if alter is None else alter(image, scene.ids[0]))
        return real(subject, scene, kind, alter)

    monkeypatch.setattr(enhancers, "ap_of", ap_of)
    made = enhancers.read_enhancers(["gamma:2", "clahe:2"])
    cell = Cell("lowlight", "stops", 2, "-2")
    without = {"plain": enhancers.ap_of(subjects[0], scene, "segm", change_of(cell, scene))}
    rows = enhancers.with_and_without(subjects[:1], scene, "segm", made, without, cell, "stop -2")
    assert [(row.model, row.name, row.where) for row in rows] == [
        ("plain", "gamma:2", "stop -2"),
        ("plain", "clahe:2", "stop -2"),
    ]
    image_id = scene.ids[0]
    shot = settings("severe", ev=-2).draw(picture_rng(0, scene.keys[image_id]))
    dark = capture(scene.read(image_id), shot)
    assert (seen[0] == dark).all()
    assert (seen[1] == enhancer("gamma:2")(np.ascontiguousarray(dark[..., ::-1]))[..., ::-1]).all()
    for row in rows:
        assert row.difference.value == pytest.approx(row.with_it - row.without)
        assert row.difference.low <= row.difference.value <= row.difference.high and row.milliseconds > 0


def test_grey_pictures_stay_grey_behind_an_enhancer():
    alter = enhancers.behind(enhancer("gamma:2"), None, {1: "a.png"}, [])
    assert alter(np.full((4, 5, 1), 64, np.uint8), 1).tolist() == np.full((4, 5, 1), 128).tolist()
    with pytest.raises(ValueError, match=r"a\.png has 4 channels, and enhancers take grey or colour pictures"):
        alter(np.zeros((4, 5, 4), np.uint8), 1)


@pytest.mark.parametrize(
    ("brightness", "half", "reached", "stops", "strength"),
    [
        (20, -2.2, True, range(0, -7, -1), ""),  # dark pictures, as they are
        (120, -2.2, True, range(0, -7, -1), "-2"),
        (120, -6, False, range(0, -7, -1), "-3"),
        (120, -5.8, True, (0, -2, -4), "-4"),
        (120, None, False, (0, -1), "-1"),
        (120, None, False, (), ""),
    ],
)
def test_enhancers_are_measured_where_it_is_dark(brightness, half, reached, stops, strength):
    rows = [HalfStop("a", "segm", Estimate(half), reached, False)]
    cell = enhancers.place_of(brightness, stops, rows, "a")
    assert (
        (cell == CLEAN)
        if not strength
        else (cell.name, cell.level, cell.strength) == ("stops", -int(strength), strength)
    )


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (["corrupt:fog,level=3"], "makes pictures worse; yolo-wnlb robustness measures that"),
        (["dir:enhanced"], "has pictures that were enhanced before"),
        (["clahe:2", "clahe:2.0"], "clahe:2 is named twice among the enhancers"),
        (["clash"], "no enhancer 'clash'"),
        (["onnx:none.onnx"], "none.onnx"),
    ],
)
def test_what_is_no_enhancer_here_is_refused(specs, message):
    with pytest.raises((ValueError, OSError), match=message):
        enhancers.read_enhancers(specs)


def test_blocks_have_their_numbers_and_models_without_blocks_no_rows(measured):
    subjects, scene = measured
    notes = []
    rows = blocks.rows_of(subjects, scene, notes)
    assert {row.model for row in rows} == {"wnlb"} and not notes
    assert [row.stage for row in rows] == ["P3", "P4", "P5"] and {row.w for row in rows} == {"0.25"}
    for row in rows:
        assert row.change > 0 and 1 <= row.neighbours <= row.keys == (64 // row.stride) ** 2


def test_blocks_of_a_diverged_model_are_a_note(measured, tmp_path):
    subjects, scene = measured
    with torch.no_grad():
        state = torch.load(subjects[1].file, weights_only=False)
        next(m for m in state["model"].modules() if type(m).__name__ == "WNLB").w.fill_(float("nan"))
    torch.save(state, tmp_path / "wnlb.pt")
    broken = of_detectors.read_models([tmp_path / "wnlb.pt"], scene, False, "cpu")
    notes = []
    rows = blocks.rows_of(broken, scene, notes)
    assert len(rows) + len(notes) == 3 and "its features are no finite numbers" in notes[0]


def test_cost_has_time_size_and_operations(measured):
    subjects, scene = measured
    plain, wnlb = cost.rows_of(subjects, scene, {"plain": 0.25, "wnlb": 0.25})
    assert (plain.model, plain.device, plain.threads) == ("plain", "CPU", torch.get_num_threads())
    assert 0 < plain.milliseconds < 60_000 and plain.megabytes == pytest.approx(subjects[0].file.stat().st_size / 1e6)
    assert 0 < plain.gflops < wnlb.gflops
