"""What the report measures beside accuracy: enhancers, blocks, cost."""

import numpy as np
import pytest
import torch
from conftest import shapes_set

from yolo_wnlb.data.shapes import NAMES
from yolo_wnlb.imaging.camera import capture, picture_rng, settings
from yolo_wnlb.report import blocks, cost, enhancers
from yolo_wnlb.report.content import Estimate, HalfStop
from yolo_wnlb.study import robustness_detectors as of_detectors
from yolo_wnlb.study.suite import CLEAN, Cell
from yolo_wnlb.twins.enhance import enhancer


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Four pictures of shapes, and two untrained models of their classes, the second with blocks."""
    from ultralytics.nn.tasks import SegmentationModel

    folder = tmp_path_factory.mktemp("report")
    data = shapes_set(folder / "shapes", train=2, val=4)
    for name, yaml in (("plain", "yolov8n-seg.yaml"), ("wnlb", "yolov8n-seg-wnlb.yaml")):
        from ultralytics import YOLO

        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            model = YOLO(yaml, verbose=False).model
            model = SegmentationModel(model.yaml, nc=len(NAMES), verbose=False)
            for module in model.modules():
                if type(module).__name__ == "WNLB":
                    module.w.fill_(0.25)
                    module.W_z[0].weight.normal_(0, 0.1)
        model.names = dict(enumerate(NAMES))
        torch.save({"model": model, "ema": None, "epoch": -1, "train_args": {"imgsz": 64, "task": "segment"}}, folder / f"{name}.pt")
    scene = of_detectors.read_scene(data, "val", None, 4, 0, "severe", 64, False, "pixels")
    subjects = of_detectors.read_models([folder / "plain.pt", folder / "wnlb.pt"], scene, False, "cpu")
    return subjects, scene


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
    rows = enhancers.with_and_without(subjects[:1], scene, "segm", made, Cell("lowlight", "stops", 2, "-2"))
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
    plain, wnlb = cost.rows_of(subjects, scene)
    assert (plain.model, plain.device, plain.threads) == ("plain", "CPU", torch.get_num_threads())
    assert 0 < plain.milliseconds < 60_000 and plain.megabytes == pytest.approx(subjects[0].file.stat().st_size / 1e6)
    assert 0 < plain.gflops < wnlb.gflops
