"""report.json: what the page shows is written and read back; damage is refused with the name of the field."""

import json
import math
from dataclasses import fields

import pytest

from yolo_wnlb.report import content as c


def full_content() -> c.Content:
    """Make a content in which every list has a row."""
    shape = c.Shape("car", [1.0, 2.0, 3.0, 4.0], [[1.0, 2.0, 4.0, 2.0, 4.0, 6.0]], 0.5)
    rates = c.Rates(0.5, 0.4, 0.6, 120.0)
    bins = [c.Bin(0.2, 0.3, 7, 0.25, 0.3)]
    estimate = c.Estimate(0.3, 0.2, 0.4)
    return c.Content(
        title="Report",
        verdict=["One.", "Two.", "Three."],
        models=[c.Model("a", "a.pt", "0" * 64, "segment", "ultralytics 8.4", "160x160", ["car"])],
        data=c.Data("d.yaml", "val", "abc", 2, {"car": 3}, 40.0, 2, "severe", 0),
        kind="segm",
        beta=1.0,
        scores=[c.Score("a", "segm", {"AP": 0.3}, {"car": 0.3}, estimate)],
        comparisons=[c.Comparison("a", "a", "segm", "all pictures", "AP", c.Estimate(None))],
        stops=[c.Stop("a", "segm", None, 90.0, estimate, 0.4, estimate, estimate)],
        half_stops=[c.HalfStop("a", "segm", c.Estimate(-3.5, -5.0, -2.0), True, False)],
        slices=[c.Slice("a", "segm", 16, 32, 2, 3, 0.4, 2, 1, 0, estimate)],
        thresholds=[c.Threshold("a", "segm", "all pictures", 0, 256, 2, 3, 0.4, [0.3, 0.5], rates, None)],
        calibrations=[c.Calibration("a", "segm", "all pictures", 0.05, 7, 0.1, 1.3, 0.05, bins, bins)],
        errors=[c.ErrorKind("a", "segm", name, 1, 0.01) for name in c.ERROR_KINDS],
        worst=[c.WorstPicture("a", "x.jpg", "x.jpg", 9, 9, 30.0, 1.5, [shape], [shape], [])],
        enhancers=[c.Enhancer("a", "segm", "clahe", "all pictures", 0.3, 0.4, estimate, 2.0)],
        blocks=[c.Block("a", "16", "P3", 8, 64, "dot_product", 1, "0.1", 0.01, 3.5, 400)],
        cost=[c.Cost("a", "cpu", 2, 12.0, 8.7, 6.5)],
        versions={"yolo_wnlb": "0.1.0"},
        made="2026-11-28T19:00:00",
        notes=["a note"],
    )


def test_every_field_survives_the_file(tmp_path):
    content = full_content()
    assert [part.name for part in fields(content) if getattr(content, part.name) == []] == []
    content.to_json(tmp_path / "report.json")
    assert c.Content.from_json(tmp_path / "report.json") == content


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: d.pop("format"), "no format"),
        (lambda d: d.pop("stops"), "missing in report: stops"),
        (lambda d: d["stops"][0].update(more=1), r"report\.stops\[0\]: more"),
        (lambda d: d["stops"][0]["ap"].update(value="0.3"), r"report\.stops\[0\]\.ap\.value is '0\.3'.* no float"),
        (lambda d: d["stops"][0].update(stop=True), r"stops\[0\]\.stop is True.* no int"),
        (lambda d: d["slices"][0].update(model="b"), "slices has a row of 'b'"),
        (lambda d: d.update(models=[]), "it has no models"),
        (lambda d: d.update(verdict="One."), "verdict is 'One.'"),
    ],
)
def test_a_damaged_file_is_refused_with_the_name_of_the_field(tmp_path, damage, message):
    file = tmp_path / "report.json"
    full_content().to_json(file)
    found = json.loads(file.read_text())
    damage(found)
    file.write_text(json.dumps(found))
    with pytest.raises(ValueError, match=message) as error:
        c.Content.from_json(file)
    assert str(file) in str(error.value)


def test_a_number_that_json_cannot_hold_is_refused(tmp_path):
    content = full_content()
    content.data.brightness = math.nan
    with pytest.raises(ValueError, match="what JSON cannot hold"):
        content.to_json(tmp_path / "report.json")
    assert not (tmp_path / "report.json").exists()


@pytest.mark.parametrize(
    ("low", "high", "clear"), [(0.1, 0.2, True), (-0.2, -0.1, True), (-0.1, 0.1, False), (None, None, False)]
)
def test_a_difference_is_clear_where_its_interval_leaves_out_0(low, high, clear):
    assert c.Estimate(0.1, low, high).clear is clear
