"""The numbers of the report: those of evaluate and of the bootstrap, parts that add up, a verdict, mistakes refused."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import shapes_set
from pycocotools import mask as coder
from test_robustness import untrained

from yolo_wnlb import cli
from yolo_wnlb.data import coco
from yolo_wnlb.metrics.average_precision import evaluate
from yolo_wnlb.metrics.bootstrap import paired_bootstrap
from yolo_wnlb.metrics.confidence import rates
from yolo_wnlb.metrics.errors import errors
from yolo_wnlb.report import card, page
from yolo_wnlb.report import content as c
from yolo_wnlb.report import measure as module
from yolo_wnlb.report.content import Estimate
from yolo_wnlb.report.measure import measure
from yolo_wnlb.report.verdict import best_model, verdict
from yolo_wnlb.study import robustness_detectors
from yolo_wnlb.study.subject import Subject
from yolo_wnlb.yolo.models import read_picture

STOPS, N = (0, -3), 10


class Watcher:
    """A detector that finds fewer objects and more that is not there, the darker a picture is."""

    def __init__(self, truth, skill):
        self.truth, self.skill, self.pictures, self.found = truth, skill, 0, []

    def describe(self, model, **options):
        return {"detector": "watcher 1", "image_size": "64x64", "confidence_floor": 0, "mask_threshold": 0.5}

    def predict(self, model, files, classes, max_det, alter):
        found = []
        for image_id, file in files.items():
            self.pictures += 1
            light = alter(read_picture(file), image_id).mean() / 255
            for a in self.truth["annotations"]:
                if a["image_id"] != image_id:
                    continue
                rng = np.random.default_rng(a["id"])
                if (luck := rng.random()) < self.skill * light * 4:
                    found.append(self.detection(a, 0.2 + 0.8 * rng.random()))
                if luck > 0.6:
                    wrong = {**a, "category_id": a["category_id"] % 5 + 1}
                    found.append(self.detection(wrong, 0.6 * rng.random()))
        self.found.append(found)
        return found

    def detection(self, annotation, score):
        rle = coder.merge(coder.frPyObjects(annotation["segmentation"], 64, 64))
        mask = {"size": rle["size"], "counts": rle["counts"].decode()}
        kept = {key: annotation[key] for key in ("image_id", "category_id", "bbox")}
        return {**kept, "score": score, "segmentation": mask}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with sixteen pictures of shapes, every other one darkened, and two untrained models."""
    import cv2

    folder = tmp_path_factory.mktemp("report")
    shapes_set(folder / "shapes", train=2, val=16)
    for file in sorted((folder / "shapes/images/val").iterdir())[::2]:
        cv2.imwrite(str(file), (cv2.imread(str(file)) * 0.2).astype(np.uint8))
    for name, seed, kind in (("a", 1, "segment"), ("b", 2, "detect")):
        untrained(folder / f"{name}.pt", seed, kind)
    return folder


@pytest.fixture(scope="module")
def watched(home):
    """The content of two watchers, and the watchers by name."""
    watchers = {}

    def read(models, scene, allow_missing, device):
        for model in models:
            watchers[model.name] = Watcher(scene.truth, {"poor": 0.4, "good": 0.9}[model.name])
        return [Subject(n, Path(n), n.ljust(64, "0"), w, None, {}, ("segm", "bbox")) for n, w in watchers.items()]

    def described(subject, evaluation):
        return c.Model(subject.name, str(subject.file), subject.sha256, "segment", "watcher 1", "64x64", [])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(robustness_detectors, "read_models", read)
        patch.setattr(module, "model_of", described)
        content = measure(["poor", "good"], home / "shapes/data.yaml", stops=STOPS, n=N, say=lambda line: None).content
    return content, watchers


def rows(content, part, model="good", **wanted):
    return [
        row
        for row in getattr(content, part)
        if row.model == model and all(getattr(row, key) == value for key, value in wanted.items())
    ]


def test_the_numbers_equal_those_of_the_command_evaluate(home, tmp_path):
    data = home / "shapes/data.yaml"
    content = measure([home / "a.pt", home / "b.pt"], data, stops=[0], n=2, imgsz=64, say=lambda line: None).content
    assert content.kind == "bbox"  # b.pt finds boxes only
    assert cli.main(["evaluate", f"{home / 'a.pt'}", f"data={data}", "imgsz=64", f"out={tmp_path / 'out'}"]) == 0
    stored = json.loads((tmp_path / "out/evaluation.json").read_text())
    [score] = rows(content, "scores", "a")
    assert score.numbers == stored["boxes"] and score.ap.value == stored["boxes"]["AP"]
    assert score.per_class == {k: numbers["AP"] for k, numbers in stored["per_class"]["bbox"].items()}
    content.to_json(tmp_path / "report.json")
    assert c.Content.from_json(tmp_path / "report.json") == content
    model = content.models[0]
    assert (model.task, model.image_size, model.licence) == ("segment", "64x64", "not stated")
    assert model.parameters > 1e6 and model.training == {"imgsz": "64"}


def test_a_picture_is_predicted_once_for_all_that_is_measured_on_it(watched):
    _, watchers = watched
    assert {w.pictures for w in watchers.values()} == {16 + len(STOPS) * N}


def test_intervals_are_those_of_the_paired_bootstrap(home, watched):
    content, watchers = watched
    truth = coco.ground_truth(home / "shapes/data.yaml")
    poor, good = (evaluate(truth, watchers[name].found[0]) for name in ("poor", "good"))
    for kind in ("segm", "bbox"):
        [row] = rows(content, "comparisons", kind=kind, where="all pictures")
        wanted = paired_bootstrap(poor, good, kind=kind)
        found = (row.difference.value, row.difference.low, row.difference.high)
        assert found == pytest.approx((wanted.delta, wanted.low, wanted.high), abs=1e-12)
    [row] = rows(content, "comparisons", where="mean over stops")
    leads = [r.difference.value for r in rows(content, "stops") if r.stop is not None]
    assert row.difference.value == pytest.approx(np.mean(leads)) and row.difference.clear


@pytest.mark.parametrize("model", ["poor", "good"])
def test_slices_add_up_to_the_whole(home, watched, model):
    content, _ = watched
    slices, [whole] = rows(content, "slices", model), rows(content, "thresholds", model, where="all pictures")
    assert len(slices) >= 2 and [s.low for s in slices] == sorted(s.low for s in slices)
    total = {key: sum(getattr(s, key) for s in slices) for key in ("pictures", "objects", "found", "false_alarms")}
    assert (total["pictures"], total["objects"]) == (16, whole.objects) == (16, sum(content.data.objects.values()))
    assert rates(total["found"], total["false_alarms"], whole.objects, 16) == whole.in_sample
    assert all(s.found + s.missed == s.objects and s.confidence == whole.confidence for s in slices)
    by_brightness = [r for r in rows(content, "thresholds", model) if r.where.startswith("brightness")]
    assert [(r.low, r.high, r.pictures) for r in by_brightness] == [(s.low, s.high, s.pictures) for s in slices]


def test_the_ap_of_a_slice_is_that_of_its_pictures(home, watched):
    content, watchers = watched
    truth, light = coco.ground_truth(home / "shapes/data.yaml"), {}
    for image_id, file in coco.image_files(truth, home / "shapes/data.yaml").items():
        light[image_id] = module.mean_luma(read_picture(file))
    for row in rows(content, "slices"):
        kept = {image_id for image_id, value in light.items() if row.low <= value < row.high}
        part = {key: [e for e in truth[key] if e.get("image_id", e["id"]) in kept] for key in ("images", "annotations")}
        found = [p for p in watchers["good"].found[0] if p["image_id"] in kept]
        assert row.ap.value == pytest.approx(evaluate({**truth, **part}, found).masks["AP"], abs=1e-12)
        assert row.ap.low <= row.ap.value <= row.ap.high


def test_stops_are_measured_on_the_same_fewer_pictures(watched):
    content, _ = watched
    assert content.data.pictures_of_stops == N
    found = rows(content, "stops")
    assert [row.stop for row in found] == [None, 0, -3]
    assert found[0].ap.value > found[2].ap.value and found[1].brightness > 2 * found[2].brightness
    assert found[0].recall.value > found[2].recall.value
    assert all(row.recall.low <= row.recall.value <= row.recall.high for row in found)
    assert [row.difference for row in rows(content, "stops", "poor")] == [None] * 3
    [whole] = rows(content, "thresholds", where="all pictures")
    assert {row.confidence for row in found} == {whole.confidence}
    [half] = rows(content, "half_stops")
    assert half.reached == (found[2].ap.value <= found[0].ap.value / 2) and -3 <= half.stop.value <= 0
    assert [row.where for row in rows(content, "thresholds")][-2:] == ["stop 0", "stop -3"]
    assert [row.where for row in rows(content, "calibrations")] == [row.where for row in rows(content, "thresholds")]


def test_errors_are_those_of_all_detections(home, watched):
    content, watchers = watched
    wanted = errors(coco.ground_truth(home / "shapes/data.yaml"), watchers["good"].found[0])
    assert {row.name: (row.count, row.cost) for row in rows(content, "errors")} == {
        name: (wanted.counts[name], wanted.costs[name]) for name in c.ERROR_KINDS
    }


def test_the_worst_pictures_show_what_the_counts_count(watched):
    content, _ = watched
    for model in ("poor", "good"):
        worst, slices = rows(content, "worst", model), rows(content, "slices", model)
        assert [p.harm for p in worst] == sorted((p.harm for p in worst), reverse=True)
        for shapes, counted in (("missed", "missed"), ("false_alarms", "false_alarms")):
            assert sum(len(getattr(p, shapes)) for p in worst) == sum(getattr(s, counted) for s in slices)
        for picture in worst:
            assert Path(picture.file).is_file() and (picture.width, picture.height) == (64, 64)
            assert picture.harm == pytest.approx(len(picture.missed) + sum(s.score for s in picture.false_alarms))
            for shape in (*picture.missed, *picture.found):
                corners = np.array(shape.outlines[0]).reshape(-1, 2)
                x, y, w, h = shape.box
                assert (corners >= [x - 1.5, y - 1.5]).all() and (corners <= [x + w + 1.5, y + h + 1.5]).all()


def test_the_verdict_has_three_points_about_the_better_model(watched):
    content, _ = watched
    first, second, third = content.verdict
    assert re.match(
        r"In the dark good is better than poor, by \S+ \(\S+ to \S+\) points over the stops\. good has", first
    )
    assert re.search(
        rf"On the {N} of them that were darkened it is .* how dark it may get cannot be told, for on so few", first
    )
    assert re.match(r"No confidence can be recommended for good: with the best one it finds \d of \d\d objects", second)
    assert third.startswith("Most is lost to ")


UNTOLD = "In the dark no difference between {0} and {1} can be told: {0} less {1} is"
GOOD = Estimate(0.4, 0.3, 0.5)
HALF = c.HalfStop("a", "segm", Estimate(-2.5, -3.0, -2.0), True, False)


def small_content(ap=GOOD, half_stop=HALF, thresholds=(), costs=(0.1, 0, 0, 0, 0, 0)):
    """Make a content of one model with what the verdict reads."""
    return c.Content(
        title="",
        verdict=[],
        models=[c.Model("a", "a.pt", "", "segment", "", "", [])],
        data=c.Data("d.yaml", "val", "", 2, {"car": 3}, 40.0, 2, "severe", 0),
        kind="segm",
        beta=1.0,
        scores=[score_of(ap)],
        half_stops=[half_stop],
        thresholds=list(thresholds) or [chosen("all pictures", 200.0, 0.5, [0.45, 0.55])],
        errors=[c.ErrorKind("a", "segm", name, 0, cost) for name, cost in zip(c.ERROR_KINDS, costs)],
    )


def score_of(ap):
    return c.Score("a", "segm", {"AP": ap.value, "AP50": 1.5 * ap.value}, {}, ap)


def as_they_are(*aps):
    """Make the rows of the pictures of the stops, as they are, of models a, b, ..."""
    return [c.Stop(name, "segm", None, 40.0, ap, 0.5, Estimate(None), Estimate(None)) for name, ap in zip("ab", aps)]


def chosen(where, high, confidence, halves, expected=None, objects=40):
    rates_there, pictures = c.Rates(0.5, 0.5, 0.62, 1400.0), 20 if where == "all pictures" else 9
    return c.Threshold(
        *("a", "segm", where, 0.0, high, pictures, objects, confidence, halves),
        in_sample=rates_there,
        expected=expected,
    )


def two_models(difference, *aps):
    """Make a content of models a and b; aps: stop, AP of a and AP of b."""
    content = small_content()
    content.models.append(replace(content.models[0], name="b"))
    for part in ("scores", "half_stops", "thresholds", "errors"):
        content_rows = getattr(content, part)
        content_rows += [replace(row, model="b") for row in content_rows]
    content.stops = [
        c.Stop(name, "segm", stop, 40.0, Estimate(ap), 0.5, Estimate(None), Estimate(None))
        for stop, *pair in aps
        for name, ap in zip("ab", pair)
    ]
    content.comparisons = [c.Comparison("b", "a", "segm", "mean over stops", "AP", difference)]
    return content


def test_the_verdict_of_a_model_that_finds_nothing():
    nothing = c.Threshold("a", "segm", "all pictures", 0, 256, 2, 3, None, [], None, None)
    half = c.HalfStop("a", "segm", Estimate(None), False, False)
    assert verdict(small_content(Estimate(0.0, 0.0, 0.0), half, [nothing], [0] * 6)) == [
        "a finds nothing that is right on these 2 pictures: its mask AP is 0, and how dark it may get cannot be told.",
        "No confidence can be recommended for a, for nothing that it finds is right.",
        "a finds almost nothing that it should (AP50 is 0.0): train it longer, and check that its classes, the labels "
        "and these pictures fit together.",
    ]


@pytest.mark.parametrize(("ap50", "learnt"), [(-1.0, False), (0.0, False), (0.0099, False), (0.01, True)])
def test_a_model_that_has_learnt_nothing_is_not_told_to_fit_more_closely(ap50, learnt):
    content = small_content(Estimate(0.005, 0.0, 0.01), costs=(0, 0.001, 0, 0, 0, 0))
    content.scores[0].numbers["AP50"] = ap50
    start = "Most is lost to objects found but not" if learnt else "a finds almost nothing that it should (AP50 is "
    assert verdict(content)[2].startswith(start)


@pytest.mark.parametrize(("low", "told"), [(0.0, False), (0.02, False), (0.021, True), (None, True)])
def test_so_low_an_ap_that_it_may_be_chance_has_no_stop_at_which_half_of_it_is_left(low, told):
    content = small_content(
        Estimate(0.04, 0.01, 0.06), c.HalfStop("a", "segm", Estimate(-5.0, -5.0, -3.0), False, True)
    )
    content.stops = as_they_are(Estimate(0.04, low, None if low is None else 0.06))
    unknown = ", and how dark it may get cannot be told, for on so few pictures it is too uncertain."
    assert verdict(content)[0].endswith(unknown) is not told
    assert ("cannot be told" in card.markdown(content)) is not told
    assert ("<td>cannot be told</td>" in page.render(content)) is not told
    assert verdict(replace(content, half_stops=[HALF]))[0].endswith("half of it is left at -2.5 stops (-3.0 to -2.0).")


def test_the_pictures_as_they_are_do_not_make_a_model_better_in_the_dark():
    content = two_models(Estimate(-0.03, -0.04, -0.02), (None, 0.3, 0.6), (0, 0.25, 0.22), (-3, 0.25, 0.22))
    assert verdict(content)[0].startswith(
        "In the dark a is better than b, by 3.0 (2.0 to 4.0) points over the stops. a has"
    )


@pytest.mark.parametrize(
    ("difference", "start"),
    [
        (Estimate(0.03, 0.02, 0.04), "In the dark b is better than a, by 3.0 (2.0 to 4.0) points"),
        (Estimate(0.03, -0.01, 0.07), f"{UNTOLD.format('b', 'a')} 3.0 (-1.0 to 7.0) points over the stops. b has"),
        (Estimate(0.03), f"{UNTOLD.format('b', 'a')} 3.0 points over the stops."),
        (
            Estimate(0.0001, -0.03, -0.01),
            f"{UNTOLD.format('b', 'a')} 0.0 (-3.0 to -1.0) points over the stops.",
        ),
    ],
)
def test_a_model_is_better_only_where_its_lead_lies_above_0(difference, start):
    assert verdict(two_models(difference, (0, 0.2, 0.23)))[0].startswith(start)


@pytest.mark.parametrize(
    ("as_they_are", "in_the_dark", "chosen_one", "start"),
    [  # b less a: clearly worse as they are and level in the dark; not clearly worse; clearly better in the dark
        (
            Estimate(-0.03, -0.05, -0.01),
            Estimate(0.002, -0.004, 0.007),
            "a",
            "On the pictures as they are a is better than b, by 3.0 (1.0 to 5.0) points. "
            f"{UNTOLD.format('b', 'a')} 0.2 (-0.4 to 0.7) points over the stops. a has a mask AP of ",
        ),
        (
            Estimate(-0.03, -0.07, 0.01),
            Estimate(0.002, -0.004, 0.007),
            "b",
            UNTOLD.format("b", "a"),
        ),
        (Estimate(-0.03, -0.05, -0.01), Estimate(0.03, 0.02, 0.04), "b", "In the dark b is better than a, by 3.0"),
    ],
)
def test_a_lead_in_the_dark_that_may_be_chance_does_not_outweigh_one_on_the_pictures_as_they_are(
    as_they_are, in_the_dark, chosen_one, start
):
    content = two_models(in_the_dark, (None, 0.4, 0.4 + as_they_are.value), (0, 0.2, 0.2 + in_the_dark.value))
    content.comparisons.append(c.Comparison("b", "a", "segm", "all pictures", "AP", as_they_are))
    assert best_model(content) == chosen_one
    assert verdict(content)[0].startswith(start)


def test_a_zero_has_no_sign():
    nothing = two_models(Estimate(0.0, 0.0, 0.0), (0, 0.2, 0.2))
    assert f"{UNTOLD.format('a', 'b')} 0.0 (0.0 to 0.0) points over the stops." in verdict(nothing)[0]
    nearly = replace(HALF, stop=Estimate(-0.02, -0.04, -0.0))
    assert verdict(small_content(half_stop=nearly))[0].endswith("half of it is left at 0.0 stops (0.0 to 0.0).")
    not_reached = replace(HALF, stop=Estimate(-0.0, -0.0, -0.0), reached=False)
    assert "more than half of it is left at 0 stops, the darkest" in verdict(small_content(half_stop=not_reached))[0]
    noise = replace(HALF, stop=Estimate(-0.0, -1.0, -0.0))
    assert verdict(small_content(half_stop=noise))[0].endswith(
        ", and the noise alone, at 0 stops, leaves half of it or less."
    )


def test_the_verdict_says_on_which_pictures_the_stops_were_measured():
    content = small_content()
    content.data.pictures = 196
    content.stops = as_they_are(Estimate(0.35, 0.2, 0.5))
    none = c.HalfStop("a", "segm", Estimate(None), False, False)
    unknown = ", and how dark it may get cannot be told from the 2 of them that were darkened, on which it is 0."
    for ap in (GOOD, Estimate(0.0, 0.0, 0.0)):
        nowhere = replace(content, half_stops=[none], scores=[score_of(ap)])
        assert verdict(nowhere)[0].endswith(unknown)
    assert verdict(content)[0] == (
        "a has a mask AP of 40.0 (30.0 to 50.0) on these 196 pictures. On the 2 of them that were darkened it is 35.0 "
        "(20.0 to 50.0) as they are, and half of that is left at -2.5 stops (-3.0 to -2.0)."
    )


@pytest.mark.parametrize(
    ("rows", "dark"),
    [
        ([chosen("brightness 8 to 16", 16.0, 0.3, [0.25, 0.3])], "(brightness 8 to 16) set conf=0.30"),
        ([chosen("brightness 8 to 16", 16.0, 0.9, [0.85, 0.9])], "(brightness 8 to 16) set conf=0.90"),
        (
            [chosen("stop -1", 90.0, 0.1, [0.1, 0.1]), chosen("stop -2", 90.0, 0.3, [0.3, 0.3])],
            "(stop -2) set conf=0.30",
        ),
        ([chosen("brightness 16 to 32", 32.0, 0.3, [0.25, 0.4])], ""),  # apart, but by less than 1.5
        ([chosen("brightness 64 to 128", 128.0, 0.3, [0.2, 0.2])], ""),  # not dark
        ([chosen("brightness 32 to 64", 64.0, 0.3, [0.2, 0.2])], ""),  # in part not dark
        ([chosen("stop -1", 40.0, 0.3, [0.2, 0.2])], ""),
        (
            [chosen("stop -3", 90.0, 0.3, [0.3, 0.3]), chosen("stop -4", 20.0, 0.01, [0.01, 0.01])],
            "(stop -3) set conf=0.30",
        ),  # at -4 less than half of the AP is left, which is at -2.5
        ([chosen("brightness 8 to 16", 16.0, 0.3, [0.2, 0.2], objects=29)], ""),  # too few
        ([chosen("brightness 8 to 16", 16.0, 0.3, [])], ""),
        ([replace(chosen("brightness 8 to 16", 16.0, 0.3, [0.2, 0.2]), pictures=20)], ""),  # all pictures
    ],
)
def test_another_confidence_for_the_dark_is_advised_only_where_it_is_clearly_another(rows, dark):
    whole = chosen("all pictures", 200.0, 0.5, [0.47, 0.55])
    sentence = verdict(small_content(thresholds=[whole, *rows]))[1]
    assert sentence.endswith(f"; in the dark {dark}." if dark else "false alarms in 1,000 pictures.")


def test_few_objects_give_no_confidence_in_the_verdict_and_in_the_card():
    few = chosen("brightness 8 to 16", 16.0, 0.31, [0.3, 0.3], c.Rates(0.41, 0.41, 0.41, 41.0), objects=29)
    content = small_content(thresholds=[chosen("all pictures", 200.0, 0.52, [0.5, 0.5]), few])
    text = card.markdown(content)
    assert "0.52" in text and "0.31" not in text and "41" not in text
    assert "Fewer than 30 objects, or than 10 found ones, are too few for a confidence of their own." in text
    content.thresholds[0].objects = 29
    assert "0.52" not in card.markdown(content)
    assert verdict(content)[1] == (
        "No confidence can be recommended for a, for 29 objects are too few: 30 or more are needed."
    )


@pytest.mark.parametrize(("right", "recommended"), [(1, False), (9, False), (10, True)])
def test_a_confidence_at_which_hardly_an_object_is_found_is_not_recommended(right, recommended):
    row = replace(chosen("all pictures", 200.0, 0.52, []), objects=32, in_sample=c.Rates(0.06, 1.0, right / 32, 0.0))
    content = small_content(thresholds=[row])
    assert verdict(content)[1] == (
        "Set conf=0.52: on these very pictures, which are too few to tell of new ones, it finds 10 of 32 objects, with "
        "0 false alarms in 1,000 pictures."
        if recommended
        else f"No confidence can be recommended for a: with the best one it finds {right} of 32 objects, and 10 or "
        "more are needed to choose by."
    )
    assert ("0.52" in card.markdown(content)) is recommended


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.5, "0.50"), (0.1, "0.10"), (0.0996, "0.100"), (0.0512, "0.051"), (0.0049, "0.0049"), (0.00123, "0.0012"),
        (0.994, "0.99"), (0.9964, "0.996"), (0.99996, "0.99996"), (0.0, "0.00"), (1.0, "1.00"),
    ],
)  # fmt: skip
def test_no_confidence_is_rounded_to_0_or_1(value, text):
    row = chosen("all pictures", 200.0, value, [])
    content = small_content(thresholds=[row])
    assert verdict(content)[1].startswith(f"Set conf={text}: ")
    assert f"| {text} |" in card.markdown(content)


def test_a_lower_confidence_is_not_advised_against_what_is_missed_at_every_confidence():
    [advice] = [text for text in verdict(small_content(costs=[0, 0, 0, 0, 0, 0.1])) if "missed objects" in text]
    assert advice.endswith(": train it for the dark (lowlight=) or at a larger imgsz.")
    assert verdict(small_content(costs=[0] * 6))[2] == "No kind of error costs a any AP by itself."


@pytest.mark.parametrize(
    ("half", "thresholds", "costs", "parts"),
    [
        (
            c.HalfStop("a", "segm", Estimate(-2.5, -3.0, -2.0), True, False),
            [
                chosen("all pictures", 200.0, 0.5, [0.45, 0.55], c.Rates(0.4, 0.4, 0.51, 2000.0)),
                chosen("brightness 8 to 16", 16.0, 0.3, [0.25, 0.3]),
                chosen("brightness 64 to 128", 128.0, 0.52, [0.5, 0.5]),
            ],
            [0, 0, 0, 0, 0.02, 0.1],
            (
                "half of it is left at -2.5 stops (-3.0 to -2.0).",
                "Set conf=0.50: on new pictures of this kind it finds 51 of 100 objects, with 2,000 false alarms in "
                "1,000 pictures; in the dark (brightness 8 to 16) set conf=0.30.",
                "Most is lost to missed objects (10.0 points of AP50): train it for the dark",
            ),
        ),
        (  # not reached; the dark wants no clearly other confidence; too few pictures for halves
            c.HalfStop("a", "segm", Estimate(-5.0, -5.0, -3.0), False, True),
            [chosen("all pictures", 200.0, 0.5, []), chosen("stop -5", 16.0, 0.3, [0.2, 0.6])],
            [0.2, 0, 0, 0, 0.02, 0.1],
            (
                "and more than half of it is left at -5 stops, the darkest measured.",
                "Set conf=0.50: on these very pictures, which are too few to tell of new ones, it finds 25 of 40 "
                "objects, with 1,400 false alarms in 1,000 pictures.",
                "Most is lost to objects found but given a wrong class (20.0 points of AP50): give it more pictures",
            ),
        ),
    ],
)
def test_the_sentences_say_what_the_numbers_say(half, thresholds, costs, parts):
    sentences = verdict(small_content(Estimate(0.4, 0.3, 0.5), half, thresholds, costs))
    assert len(sentences) == 3
    for sentence, part in zip(sentences, parts):
        assert part in sentence


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stops": []}, "stops is empty; wanted whole numbers from 0 to -7"),
        ({"stops": [-1, -2]}, "0 among them"),
        ({"stops": [0, -1, -1]}, "each once"),
        ({"stops": [0, 1]}, "stops"),
        ({"stops": [0, -8]}, "stops"),
        ({"n": 1}, "n is 1"),
        ({"worst": -1}, "worst is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"beta": 0}, "beta is 0; wanted a number above 0"),
        ({"preset": "sever"}, "preset is 'sever'.*severe"),
        ({"groups": "("}, "groups is '\\('"),
        ({"groups": "(x)"}, r"groups: \(x\) says nothing of 16 of 16 pictures"),
        ({"models": []}, "no model to report on"),
        ({"models": ["a.pt", "a.pt"]}, "given twice"),
        ({"models": ["none.pt"]}, "none.pt does not exist"),
        ({"data": "none.yaml"}, "none.yaml"),
        ({"imgsz": 63}, "multiple of the stride"),
    ],
)
def test_mistakes_are_refused_before_anything_is_measured(home, monkeypatch, changes, message):
    monkeypatch.setattr(module, "one_pass", lambda *_: pytest.fail("a pass was begun"))
    monkeypatch.chdir(home)
    given = {"models": ["a.pt"], "data": "shapes/data.yaml", "stops": [0], **changes}
    with pytest.raises((ValueError, OSError), match=message):
        measure(given.pop("models"), given.pop("data"), **given)


def test_a_classifier_is_refused(home, monkeypatch):
    monkeypatch.setattr(module.robustness_classifiers, "are_classifiers", lambda *_: True)
    with pytest.raises(ValueError, match=r"is a classifier, and a report is about detectors; robustness measures"):
        measure(home / "a.pt", home / "shapes/data.yaml")
