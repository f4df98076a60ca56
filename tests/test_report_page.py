"""The page of the report: self-contained, everything escaped, its numbers those of report.json, and small enough."""

import base64
import html
import itertools
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from yolo_wnlb.data.sources import printable
from yolo_wnlb.imaging.curve import CURVES
from yolo_wnlb.report import card, drawing, page, plots
from yolo_wnlb.report.content import (
    ERROR_KINDS,
    Bin,
    Block,
    Calibration,
    Comparison,
    Content,
    Cost,
    Data,
    Enhancer,
    ErrorKind,
    Estimate,
    HalfStop,
    Model,
    Rates,
    Score,
    Shape,
    Slice,
    Stop,
    Threshold,
    WorstPicture,
)
from yolo_wnlb.yolo.models import read_picture

TWELVE = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def report_content(folder, models=("plain", "wnlb"), classes=("person", "car"), pictures=24, title="Report"):
    """A report of models that get worse with darkness, with pictures of noise in `folder`."""
    rng = np.random.default_rng(0)
    files = []
    for i in range(pictures):
        picture = rng.integers(0, 24, (120, 160, 3), np.uint8)
        picture[30:90, 20 + i : 70 + i] += 20
        files.append(folder / f"night-{i:02d}.png")
        cv2.imwrite(str(files[-1]), picture)
    content = Content(
        title,
        [
            f"{models[0]} keeps half of its AP down to -2.1 stops; real pictures below a brightness of 16 lose most.",
            "Set the confidence to 0.31: 12 false alarms in 1,000 pictures, and 64 of 100 objects are found.",
            "Missed objects cost most; brightening first does not help.",
        ],
        [
            Model(
                n,
                f"runs/{n}.pt",
                "ab" * 32,
                "segment",
                "ultralytics 8.4.190",
                "320 x 320",
                [*classes],
                3_400_000,
                "AGPL-3.0",
                {"data": "coco.yaml", "epochs": "100"},
            )
            for n in models
        ],
        Data(
            "night.yaml",
            "val",
            "0123456789abcdef",
            321,
            {c: 100 + i for i, c in enumerate(classes)},
            23.4,
            100,
            "severe",
            0,
        ),
        "segm",
        1.0,
        versions={"yolo_wnlb": "0.1.0", "ultralytics": "8.4.190"},
        made="2026-11-28T19:00",
        command="yolo-wnlb report plain.pt wnlb.pt data=night.yaml",
        notes=["the pictures are dark already"],
    )
    for m, name in enumerate(models):
        bonus = 0.03 * m
        for kind in ("segm", "bbox"):
            ap = 0.3521 + bonus + 0.04 * (kind == "bbox")
            numbers = {key: ap + 0.01 * i for i, key in enumerate(TWELVE)} | {"APs": -1.0}
            estimate = Estimate(ap, ap - 0.02, ap + 0.02)
            content.scores.append(
                Score(name, kind, numbers, {c: ap - 0.1 * i % 0.3 for i, c in enumerate(classes)}, estimate)
            )
        if m:
            difference = Estimate(bonus, bonus - 0.01, bonus + 0.01)
            content.comparisons.append(Comparison(name, models[0], "segm", "all pictures", "AP", difference))
        for place, stop in enumerate((None, 0, -1, -2, -3, -4, -5, -6)):
            ap = max(0.36 + bonus - 0.05 * place, 0.01)
            e = [Estimate(v, v * 0.9, v * 1.1) for v in (ap, min(ap + 0.4, 0.8), ap + 0.1)]
            content.stops.append(
                Stop(
                    name,
                    "segm",
                    stop,
                    80 / 2**place,
                    e[0],
                    0.31,
                    e[1],
                    e[2],
                    Estimate(bonus, bonus - 0.05, bonus + 0.01) if m else None,
                )
            )
        content.half_stops.append(HalfStop(name, "segm", Estimate(-2.1 - m, -2.5 - m, -1.8 - m), m < 3, False))
        for low, high, count in ((0, 8, 20), (8, 16, 70), (16, 32, 131), (32, 64, 100)):
            ap = Estimate(0.1 + low / 100 + bonus, 0.05 + low / 100, 0.2 + low / 100 + bonus)
            content.slices.append(Slice(name, "segm", low, high, count, 2 * count, 0.31, count, count, count // 4, ap))
            rates = Rates(0.6, 0.7, 0.55, 120.0 - low)
            content.thresholds.append(
                Threshold(
                    name,
                    "segm",
                    f"brightness {low} to {high}",
                    low,
                    high,
                    count,
                    2 * count,
                    0.2 + low / 200,
                    [0.2, 0.25],
                    rates,
                    rates,
                )
            )
        rates = Rates(0.61, 0.7, 0.64, 1234.0)
        content.thresholds.insert(
            0, Threshold(name, "segm", "all pictures", 0, 255, 321, 642, 0.31, [0.3, 0.32], rates, rates)
        )
        for stop in (0, -2, -4, -6):
            content.thresholds.append(
                Threshold(
                    name,
                    "segm",
                    f"stop {stop}",
                    1,
                    200,
                    100,
                    200,
                    0.3 + stop / 50 if stop > -6 else None,
                    [],
                    rates if stop > -6 else None,
                    None if stop == -6 else rates,
                )
            )
        bins = [Bin(i / 10, (i + 1) / 10, 50, i / 10 + 0.05, min(1, i / 12)) for i in range(1, 10)]
        after = [Bin(i / 10, (i + 1) / 10, 50, i / 10 + 0.05, i / 10 + 0.03) for i in range(1, 10)]
        content.calibrations.append(
            Calibration(name, "segm", "all pictures", 0.05, 450, 0.123, 1.4, 0.031, bins, after)
        )
        for i, kind in enumerate(ERROR_KINDS):
            content.errors.append(ErrorKind(name, "segm", kind, 40 - i, 0.01 * (i + 1) + bonus / 3))
        for i, file in enumerate(files):
            box = [20.0 + i, 30.0, 50.0, 60.0]
            outline = [20.0 + i, 30, 70 + i, 30, 70 + i, 90, 20 + i, 90]
            shapes = [Shape(classes[0], box, [outline])] * (1 + (24 - i) // 12)
            alarm = Shape(classes[-1], [100.0, 10, 40, 30], [], 0.71)
            content.worst.append(
                WorstPicture(name, str(file), file.name, 160, 120, 11.5, 24.0 - i, shapes, [alarm] * (i % 3), [])
            )
        difference = Estimate(-0.012, -0.03, 0.002)
        content.enhancers.append(Enhancer(name, "segm", "clahe:2", "all pictures", 0.3521, 0.34, difference, 1.2))
        content.blocks.append(Block(name, "5", "P3", 8, 64, "embedded_gaussian", 1, "0.12", 0.031, 312.4, 1600))
        content.cost.append(Cost(name, "CPU", 2, 23.4, 8.7, 6.8))
    return content


class Tags(HTMLParser):
    """All tags of a page with their attributes; a tag that was never closed, or closed twice, is an error."""

    OPEN = ("meta", "link", "br", "image", "use", "path", "wbr")

    def __init__(self):
        super().__init__()
        self.found, self.stack, self.text = [], [], []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in self.OPEN:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag in self.OPEN:
            return
        assert self.stack and self.stack[-1] == tag, (tag, self.stack[-3:], self.getpos())
        self.stack.pop()

    def handle_data(self, data):
        self.text.append(data)


def parsed(text):
    tags = Tags()
    tags.feed(text)
    tags.close()
    assert not tags.stack
    return tags


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    content = report_content(folder)
    return content, page.render(content)


def test_a_page_is_well_formed_and_needs_no_script_and_no_address_but_its_own_pictures(usual):
    tags = parsed(usual[1]).found
    assert not {tag for tag, _ in tags} & {
        "script",
        "iframe",
        "object",
        "embed",
        "form",
        "base",
        "img",
        "video",
        "audio",
    }
    addresses = [value for _, attributes in tags for key, value in attributes.items() if key in ("src", "href")]
    assert all(value.startswith(("#", "data:")) for value in addresses)
    assert "url(http" not in usual[1] and "@import" not in usual[1] and "xlink" not in usual[1]
    assert not [key for _, attributes in tags for key in attributes if key.startswith("on")]
    [policy] = [a["content"] for tag, a in tags if tag == "meta" and "http-equiv" in a]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def test_what_a_page_points_to_is_there_once(usual):
    tags = parsed(usual[1]).found
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len({*ids})
    wanted = {a["href"][1:] for _, a in tags if a.get("href", "").startswith("#")}
    wanted |= {a["aria-labelledby"] for _, a in tags if "aria-labelledby" in a}
    wanted |= set(re.findall(r"url\(#([^)]+)\)", usual[1]))
    assert wanted <= {*ids}


def test_a_page_can_be_read_without_seeing_it(usual):
    tags = parsed(usual[1]).found
    assert next(a["lang"] for tag, a in tags if tag == "html") == "en"
    levels = [int(tag[1]) for tag, _ in tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1 and all(b <= a + 1 for a, b in itertools.pairwise(levels))
    for tag, attributes in tags:
        if tag == "svg":
            assert attributes.get("aria-hidden") or (attributes["role"] == "img" and attributes["aria-label"])
        if tag == "th":
            assert attributes["scope"] in ("col", "row", "colgroup")
        if "wide" in attributes.get("class", ""):  # it scrolls, so that keys have to reach it
            assert attributes["tabindex"] == "0" and attributes["aria-label"]


def test_colours_are_those_of_the_scheme(usual):
    style, _, body = usual[1].partition("</style>")
    assert "prefers-color-scheme: dark" in style and "@media print" in style
    assert not re.findall("#0[12]0[0-9]{3}", body)  # what stands for a variable while matplotlib draws
    for name in set(re.findall(r"var\((--[a-z0-9-]+)\)", usual[1])):
        assert style.count(f"{name}:") == 3, f"{name} wants a value in the light, the dark and the printed scheme"


@pytest.mark.parametrize(
    "text",
    [
        "35.21 [33.21, 37.21]",  # mask AP of the first model
        "42.21 [40.21, 44.21]",  # box AP of the second
        "+3.00 [+2.00, +4.00] *",
        "−2.1 [−2.5, −1.8]",  # noqa: RUF001
        "Missed 3 person.",
        "False: car 0.71, car 0.71.",
        "ab" * 32,
        "the pictures are dark already",
    ],
)
def test_the_numbers_of_the_report_are_on_the_page(usual, text):
    assert text in " ".join("".join(parsed(usual[1]).text).split())


def test_slices_have_their_sums_below_them(usual):
    text = usual[1]
    rows = [
        re.findall("<td>([^<]*)</td>", row) for row in re.findall(r"<tr.*?</tr>", text, re.S) if "0 to 8</th>" in row
    ]
    assert rows[0][:5] == ["20", "40", "20", "20", "5"]
    sums = [re.findall("<td>([^<]*)</td>", row) for row in re.findall(r'<tr class="all">.*?</tr>', text, re.S)]
    assert sums[0][:5] == ["321", "642", "321", "321", "79"]


def test_worst_pictures_are_stored_once_and_drawn_red_and_blue_beside_a_brightened_copy(usual):
    content, text = usual
    tags = parsed(text).found
    images = [attributes for tag, attributes in tags if tag == "image"]
    assert len(images) == 2 * 24  # two models share them; each has a brightened copy
    uses = [attributes["href"] for tag, attributes in tags if tag == "use"]
    assert uses.count("#photo-0") == uses.count("#bright-0") == uses.count("#marks-0-0") + uses.count("#marks-1-0") == 2
    drawn = [attributes["class"] for tag, attributes in tags if tag == "path" and attributes.get("class")]
    assert drawn.count("missed") == sum(len(row.missed) for row in content.worst)
    assert drawn.count("false") == sum(len(row.false_alarms) for row in content.worst)


@pytest.mark.parametrize(
    "evil",
    [
        '<script>alert("1")</script>',
        '"><img src=x onerror=alert(1)>',
        "</style></svg><b onclick='x'>",
        "{{ 7 * 7 }}{% raw %}",
        "$\\frac{1}$ & _x_ &lt;",
        "\u202egnp.exe\x00\x1b[31m\n\ud800",
    ],
)
def test_names_are_text_whatever_they_hold(tmp_path, evil):
    content = report_content(tmp_path, models=(evil, f"_{evil}"), classes=(evil, "car"), pictures=2, title=evil)
    content.data.source = content.data.preset = content.command = content.models[0].licence = evil
    content.models[0].training = {evil: evil}
    content.versions[evil] = evil
    content.notes.append(evil)
    content.verdict[0] = evil
    for rows in (content.worst, content.enhancers, content.blocks):
        for row in rows:
            for name in ("name", "where", "w", "operation"):
                if hasattr(row, name):
                    setattr(row, name, evil)
    text = page.render(content)
    text.encode()  # a lone surrogate could not be written
    tags = parsed(text)
    plain = parsed(page.render(report_content(tmp_path, pictures=2)))
    assert {tag for tag, _ in tags.found} - {"wbr"} == {tag for tag, _ in plain.found}
    assert not [key for _, attributes in tags.found for key in attributes if key.startswith("on")]
    assert printable(evil) in "".join(tags.text)
    assert "49" not in text.partition("</h1>")[0]


def test_pictures_are_made_smaller_until_the_page_fits(tmp_path, monkeypatch):
    content = report_content(tmp_path, models=("a",))
    noise = np.random.default_rng(0).integers(0, 60, (700, 900, 3), np.uint8)
    monkeypatch.setattr(page, "MAX_BYTES", 1_500_000)
    text = page.render(content, read=lambda file: noise)
    assert 500_000 < len(text.encode()) <= 1_500_000
    monkeypatch.setattr(page, "MAX_BYTES", 100_000)
    with pytest.raises(
        ValueError, match=r"would have .* MB, and 0\.1 are allowed; report fewer models at once, or fewer worst"
    ):
        page.render(content, read=lambda file: noise)


def test_40_outlines_of_a_kind_are_drawn_into_a_picture_and_the_rest_is_counted(tmp_path):
    content = report_content(tmp_path, models=("a",), pictures=3)
    content.worst[0].false_alarms = [Shape("car", [1.0, 2, 3, 4], [], 0.9 - i / 100) for i in range(43)]
    text = page.render(content)
    assert "car 0.90, car 0.89, car 0.88, car 0.87, car 0.86, car 0.85 and 37 more" in text
    assert "3 more outlines are not drawn" in text


def test_a_report_of_one_model_that_found_nothing_is_a_page_too(tmp_path):
    content = report_content(tmp_path, models=("a",), pictures=0)
    for name in ("comparisons", "stops", "half_stops", "slices", "thresholds", "calibrations", "errors", "worst"):
        setattr(content, name, [])
    content.enhancers, content.blocks, content.cost, content.scores = [], [], [], []
    text = page.render(content)
    parsed(text)
    assert "At a glance" in text and "worst pictures" not in text


@pytest.mark.parametrize("models", [1, 9])
def test_any_number_of_models_has_colours_and_marks(tmp_path, models):
    parsed(page.render(report_content(tmp_path, models=[f"m{i}" for i in range(models)], pictures=3)))


def test_numbers_that_are_not_known_are_dashes(tmp_path):
    content = report_content(tmp_path, models=("a",), pictures=1)
    nothing = Estimate(None)
    for row in content.stops:
        row.ap = row.precision = row.recall = nothing
    for row in content.slices:
        row.ap = nothing
    content.half_stops[0].stop = nothing
    content.cost[0].gflops = content.cost[0].threads = content.models[0].parameters = None
    content.calibrations[0].error = content.calibrations[0].temperature = content.calibrations[0].error_after = None
    text = page.render(content)
    assert "None" not in text and "nan" not in text.lower().replace("maintenance", "")
    assert "finds nothing" in text


def test_a_picture_that_is_gone_is_a_mistake_with_its_name(tmp_path):
    content = report_content(tmp_path, pictures=1)
    (tmp_path / "night-00.png").unlink()
    with pytest.raises(OSError, match=r"night-00\.png"):
        page.write(content, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_the_same_report_is_the_same_page(usual):
    assert page.render(usual[0]) == usual[1]


def test_ranges_of_few_pictures_are_in_the_table_and_not_in_the_plots(tmp_path):
    def labels(content):
        plot = next(svg for svg in plots.all_plots(content)["slices"] if "AP in hundredths" in svg)
        return [label for label in ("0 to 8", "8 to 16", "16 to 32", "32 to 64") if f">{label}<" in plot]

    content = report_content(tmp_path, pictures=0)
    content.data.pictures, remark = 321, "Ranges of fewer than 5 pictures are not plotted."
    assert labels(content) == ["0 to 8", "8 to 16", "16 to 32", "32 to 64"] and remark not in page.render(content)
    for row in content.slices:
        row.pictures = 4 if row.low == 0 else 5
    text = page.render(content)
    assert labels(content) == ["8 to 16", "16 to 32", "32 to 64"]
    assert "0 to 8</th><td>4</td>" in text and remark in text


@pytest.mark.parametrize(
    "part", ["the mean over the classes of which there are objects", "the AP of every range may lie above"]
)
def test_the_page_and_the_card_say_why_numbers_of_one_thing_differ(usual, part):
    content, text = usual
    shown = " ".join("".join(parsed(text).text).split())
    assert (
        "objects found are those to expect on new pictures: measured on the half that the confidence was not" in shown
    )
    assert "on the very pictures that it was chosen on; what to expect on new ones stands at a glance" in shown
    assert "Counts are of the pictures that the confidence was chosen on." in card.markdown(content)
    assert part in shown and part.replace("the AP", "that") in card.markdown(content)


def test_names_break_behind_their_slashes_and_dates_nowhere(tmp_path):
    content = report_content(tmp_path, models=("a/weights/best",), pictures=0)
    content.made = "2026-11-29T08:01:35+00:00"
    text = page.render(content)
    assert "<bdi>a/<wbr>weights/<wbr>best</bdi>" in text
    assert f'<span class="date">{content.made}</span>' in text and ".date { white-space: nowrap; }" in text


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(CHROMIUM is None, reason="wants a browser")
@pytest.mark.parametrize(("width", "scrolls"), [(1280, False), (390, True)])
def test_tables_fit_into_a_wide_window_and_scroll_inside_a_narrow_one(tmp_path, width, scrolls):
    content = report_content(tmp_path, models=("plain/weights/best", "wnlb/weights/best"), pictures=0)
    for row in content.slices:
        row.false_alarms, row.ap = 1234, Estimate(0.258, 0.216, 0.314)
    (tmp_path / "page.html").write_text(page.render(content).replace("default-src 'none';", ""), encoding="utf-8")
    measure = (
        "onload=()=>{const d=document.querySelector('iframe').contentDocument;document.title=JSON.stringify("
        "[d.documentElement.scrollWidth,[...d.querySelectorAll('#slices .wide')].map(e=>[e.scrollWidth,e.clientWidth]),"
        "[...d.querySelectorAll('thead')].map(e=>e.clientHeight)])}"
    )
    frame = f"<iframe src='page.html' style='width:{width}px;height:900px;border:0'></iframe><script>{measure}</script>"
    (tmp_path / "frame.html").write_text(frame, encoding="utf-8")
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--dump-dom"]
    words += [
        f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=5000",
        (tmp_path / "frame.html").as_uri(),
    ]
    dom = subprocess.run([CHROMIUM, *words], capture_output=True, text=True, timeout=120, check=True).stdout
    page_width, tables, heads = json.loads(html.unescape(re.search("<title>(.*?)</title>", dom)[1]))
    assert page_width <= width and len(tables) == 2
    assert all((inside > box) is scrolls for inside, box in tables), tables
    assert not scrolls or max(heads) < 80, heads  # two lines, or one below a name of two


# ---- pictures ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "mean"), [(0, 0), (3, 102), (20, 102), (90, 102)])
def test_a_dark_picture_is_brightened_to_be_seen_and_a_bright_one_is_shown_alone(code, mean):
    picture = np.full((20, 30, 3), code, np.uint8)
    found = drawing.shown(picture, 560, 90)
    assert (found.width, found.height) == (560, 373)
    if code == 90:
        assert found.brightened == ""
        return
    pixels = np.frombuffer(base64.b64decode(found.brightened.partition(",")[2]), np.uint8)
    brightened = cv2.imdecode(pixels, cv2.IMREAD_COLOR)
    assert brightened.shape == (20, 30, 3)  # no more pixels than there are
    assert abs(brightened.mean() - mean) < 3


def test_outlines_are_drawn_in_units_of_the_page_and_boxes_where_there_are_none():
    assert (
        drawing.as_path(Shape("a", [10.0, 20, 30, 40], []), 280, 140) == "M20.0 40.0L80.0 40.0L80.0 120.0L20.0 120.0Z"
    )
    triangle = [[0.0, 0, 100, 0, 200, 0, 200, 100]]  # its second point lies on a side
    assert drawing.as_path(Shape("a", [0.0, 0, 9, 9], triangle), 560, 1) == "M0.0 0.0L200.0 0.0L200.0 100.0Z"


def test_what_rounds_to_zero_has_no_sign():
    assert page.number(-0.04) == "0.0" and page.number(-1234.5, 0) == f"{page.MINUS}1,234"
    assert page.gain(Estimate(-0.0004, -0.02, 0.0)) == f"+0.0 [{page.MINUS}2.0, +0.0]"


def test_pictures_of_16_bits_are_shown_through_the_curve_that_is_given(tmp_path):
    content = report_content(tmp_path, pictures=1)
    file = tmp_path / "deep.png"
    cv2.imwrite(str(file), np.random.default_rng(0).integers(200, 1200, (64, 64, 3)).astype(np.uint16))
    for row in content.worst:
        row.file = str(file)
    texts = {}
    for name in ("auto", "high-byte"):
        page.write(content, tmp_path / "page.html", CURVES[name])
        texts[name] = (tmp_path / "page.html").read_text(encoding="utf-8")
        assert texts[name] == page.render(content, lambda file, name=name: read_picture(file, curve=CURVES[name]))
    assert texts["auto"] == page.render(content) != texts["high-byte"]
