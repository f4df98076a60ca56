"""watch: frames are averaged where nothing moves, objects do not flicker, files are whole, mistakes are named."""

import functools
import hashlib
import http.server
import json
import os
import random
import re
import signal
import threading
import time
from importlib.util import find_spec
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from ultralytics.engine.results import Boxes, Results

from yolo_wnlb.cli import main
from yolo_wnlb.data.shapes import scene
from yolo_wnlb.imaging.camera import settings
from yolo_wnlb.imaging.capture import capture, clean
from yolo_wnlb.imaging.curve import CURVES
from yolo_wnlb.report.content import Content, Data, Model, Threshold
from yolo_wnlb.watch import watch as module
from yolo_wnlb.watch.average import StillAverage, with_neighbours
from yolo_wnlb.watch.confidence import fixed, of_report
from yolo_wnlb.watch.sources import Frame, Source, open_source, without_password
from yolo_wnlb.watch.tracks import Tracks

needs_lap = pytest.mark.skipif(not find_spec("lap"), reason="needs the extra 'watch': pip install 'yolo-wnlb[watch]'")

# ---- the average -------------------------------------------------------------------------------------


def night_shot(seed=1, preset="severe"):
    return settings(preset).draw(random.Random(seed))


def bright_scene(seed=1, height=240, width=320):
    return scene(np.random.default_rng(seed), max(height, width)).image[:height, :width]


@pytest.mark.parametrize("frames", [2, 4, 8])
@pytest.mark.parametrize("seed", [1, 2])
def test_noise_of_still_parts_falls_by_the_root_of_the_number_of_frames(frames, seed):
    bright, shot = bright_scene(seed), night_shot(seed)
    clip = [capture(bright, shot, frame=k) for k in range(3 * frames)]
    average = StillAverage(frames)
    means = [average.add(frame) for frame in clip]
    assert means[-1].frames == frames and means[-1].still > 0.97
    # the noise of independent pictures is in their differences, whatever clipping does to their mean
    noise = np.std(np.float32(clip[0]) - clip[1])
    left = np.std(np.float32(means[frames - 1].picture) - means[2 * frames - 1].picture)
    assert noise / left == pytest.approx(frames**0.5, rel=0.05)


@pytest.mark.parametrize("speed", [2, 8])
def test_an_object_that_moves_is_not_smeared(speed):
    ground, texture = bright_scene(3) // 2, bright_scene(4)
    shot = night_shot(3)
    average = StillAverage(4)
    pictures = []
    for k in range(8):
        pictures.append(ground.copy())
        left = 100 + speed * k
        pictures[-1][80:140, left : left + 60] = 255 - texture[80:140, 100:160] // 4
    clip = [capture(picture, shot, frame=k) for k, picture in enumerate(pictures)]
    for frame in clip:
        mean = average.add(frame)
    truth = np.float32(clean(pictures[-1], shot))
    touched = slice(90, 130), slice(100 + speed * 4, 160 + speed * 7)  # where the object is, or was in the last frames
    error, of_frame, smeared = (
        np.abs(np.float32(picture)[touched] - truth[touched]).mean()
        for picture in (mean.picture, clip[-1], np.mean(clip[-4:], axis=0))
    )
    assert error <= 1.02 * of_frame
    if speed == 8:
        assert smeared > 1.3 * error
    assert 0.5 < mean.still < 0.98


def test_a_lamp_that_goes_on_shows_at_once_and_is_averaged_again_soon():
    bright, shot, average = bright_scene(5), night_shot(5), StillAverage(4)
    clip = [capture(bright // 3 if k < 6 else bright, shot, frame=k) for k in range(12)]
    means = [average.add(frame) for frame in clip]
    assert means[5].still > 0.97 and means[-1].still > 0.97
    assert means[6].still < 0.5
    lit = clip[6].mean(2) > clip[5].mean(2) + 60
    assert lit.any() and np.array_equal(means[6].picture[lit], clip[6][lit])


def test_frames_of_other_scenes_are_shown_as_they_are_and_the_mean_starts_anew():
    """Each of another scene, in the dark too; two scenes; and no cut where a lamp flickers, or a flat one has blots."""
    scenes, shot, rng = [bright_scene(seed) for seed in range(8)], night_shot(7), np.random.default_rng(0)
    for clip in (scenes, [capture(bright, shot, frame=k) for k, bright in enumerate(scenes)]):
        average = StillAverage(4)
        assert all(np.array_equal(average.add(frame).picture, frame) for frame in clip)
    average = StillAverage(4)
    means = [average.add(capture(scenes[k // 6], shot, frame=k)) for k in range(12)]
    assert [mean.frames for mean in means] == [1, 2, 3, 4, 4, 4] * 2 and means[-1].still > 0.97
    flicker = [scenes[0] * (0.7 + 0.2 * np.sin(2.4 * k)) + rng.normal(0, 2, scenes[0].shape) for k in range(8)]
    rows = [20 + rng.normal(0, 3, (240, 1, 1)) + rng.normal(0, 2, (240, 320, 3)) for _ in range(8)]
    blots = [20 + cv2.resize(rng.normal(0, 1, (24, 32, 3)), (320, 240)) + rng.normal(0, 2, (240, 320, 3)) for _ in rows]
    for clip in (flicker, rows, blots):
        average = StillAverage(4)
        means = [average.add(np.clip(frame, 0, 255).astype(np.uint8)) for frame in clip]
        assert means[-1].frames == 4


def test_averaging_leaves_what_it_was_given_alone_and_takes_any_size():
    for shape in ((1, 1, 3), (7, 5, 1), (30, 40), (64, 64, 3)):
        average, rng = StillAverage(3), np.random.default_rng(0)
        frames = [rng.integers(0, 256, shape).astype(np.uint8) for _ in range(5)]
        copies = [frame.copy() for frame in frames]
        for frame in frames:
            mean = average.add(frame)
            assert mean.picture.shape == shape and mean.picture.dtype == np.uint8
        assert all(map(np.array_equal, frames, copies))
    assert np.array_equal(StillAverage(1).add(frames[0]).picture, frames[0])
    assert np.array_equal(StillAverage(4).add(frames[0]).picture, frames[0])


def test_frames_that_do_not_belong_together_are_refused():
    average = StillAverage(2)
    average.add(np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(ValueError, match="follows on frames of"):
        average.add(np.zeros((9, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="wanted uint8"):
        average.add(np.zeros((9, 9, 3), np.float32))
    for number in (0, 65):
        with pytest.raises(ValueError, match="wanted 1 to 64"):
            StillAverage(number)


def test_more_places_of_a_large_frame_may_be_unsure_than_16_bits_can_number():
    differences = np.zeros((540, 540), np.float32)
    differences[::2, ::2] = 3  # 72,900 places
    differences[100:102, 100:102] = 9
    moves = with_neighbours(differences)
    assert moves[99:103, 99:103].all() and moves.sum() == 255 * 25


# ---- the confidence ----------------------------------------------------------------------------------


def threshold(model, where, low, high, confidence, halves=2, objects=30):
    of_halves = [] if confidence is None else [confidence] * halves
    return Threshold(model, "bbox", where, low, high, 20, objects, confidence, of_halves, None, None)


def report(folder, rows, models=("best",)):
    """Write a report of checkpoints, and the checkpoints, whose content is their name."""
    for name in models:
        (folder / f"{name}.pt").write_text(name)
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in models}
    listed = [Model(name, f"{name}.pt", digests[name], "detect", "ultralytics 8.4", "64x96", ["a"]) for name in models]
    data = Data("d.yaml", "val", "abc", 2, {"a": 3}, 40.0, 2, "severe", 0)
    Content("R", ["1.", "2.", "3."], listed, data, "bbox", 1.0, thresholds=rows).to_json(folder / "report.json")
    return folder / "report.json"


ROWS = [
    threshold("best", "all pictures", 0, 256, 0.9),
    threshold("best", "brightness 16 to 32", 16, 32, 0.4),
    threshold("best", "brightness 32 to 64", 32, 64, 0.6),
    threshold("best", "stop -1", 20, 60, 0.1),  # real pictures are as dark
    threshold("best", "stop -3", 4, 8, 0.2),
    threshold("best", "stop -5", 1, 3, None),
]


def test_confidence_follows_the_brightness_of_a_report(tmp_path):
    found = of_report(report(tmp_path, ROWS), tmp_path / "best.pt")
    assert found.confidence == (0.2, 0.4, 0.6) and found.too_dark == 3
    assert [round(found.at(brightness), 2) for brightness in (0, 5.7, 22.7, 45.3, 255)] == [0.2, 0.2, 0.4, 0.6, 0.6]
    assert 0.4 < found.at(32) < 0.6
    assert of_report(tmp_path / "report.json", tmp_path / "best.onnx", too_dark=7).too_dark == 7


@pytest.mark.parametrize(("objects", "too_dark"), [(0, 2), (1, 2), (30, 8)])
def test_pictures_without_objects_do_not_count_as_too_dark(objects, too_dark, tmp_path):
    rows = [*ROWS[:3], threshold("best", "brightness 4 to 8", 4, 8, None, objects=objects)]
    assert of_report(report(tmp_path, rows), tmp_path / "best.pt").too_dark == too_dark


def test_a_slice_of_few_objects_sets_no_confidence_and_still_tells_that_it_is_not_too_dark(tmp_path):
    few = [
        threshold("best", "brightness 4 to 8", 4, 8, 0.99, halves=0),
        threshold("best", "brightness 64 to 128", 64, 128, 0.01, halves=0),
        threshold("best", "brightness 8 to 16", 8, 16, None),  # by chance: something was right in the darker slice
    ]
    found = of_report(report(tmp_path, ROWS[:4] + few), tmp_path / "best.pt")
    assert found.confidence == (0.4, 0.6) and found.too_dark == 2
    with pytest.raises(ValueError, match="or its pictures are too few"):
        of_report(report(tmp_path, few), tmp_path / "best.pt")


def test_a_model_is_found_in_a_report_by_its_content_and_an_export_by_its_name(tmp_path):
    rows = [threshold(name, "brightness 0 to 9", 0, 9, conf) for name, conf in (("day", 0.3), ("night", 0.7))]
    file = report(tmp_path, rows, ("day", "night"))
    (tmp_path / "moved.pt").write_text("night")
    assert of_report(file, tmp_path / "moved.pt").confidence == (0.7,)
    assert not of_report(file, tmp_path / "moved.pt").remark
    (tmp_path / "night_openvino_model").mkdir()
    for name in ("night.onnx", "night_openvino_model", "night_int8_openvino_model"):
        found = of_report(file, tmp_path / name)
        assert (
            found.confidence == (0.7,) and f"is of night.pt; {tmp_path / name} is taken for an export" in found.remark
        )
    report(tmp_path, [], ("day",))
    with pytest.raises(ValueError, match="has no confidence by brightness of day: nothing that it found was right"):
        of_report(file, tmp_path / "day.pt")


def test_commands_that_make_a_report_can_be_pasted_where_names_have_spaces(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"with: yolo-wnlb report '.*/my best\.pt' data=DATA\.yaml"):
        of_report(tmp_path / "gone.json", tmp_path / "my best.pt")
    (tmp_path / "my best.pt").write_text("other")
    with pytest.raises(ValueError, match=r"make one of it: yolo-wnlb report '.*/my best\.pt' data=d\.yaml"):
        of_report(report(tmp_path, ROWS), tmp_path / "my best.pt")


@pytest.mark.parametrize("name", ["best.pt", "other.pt", "other.onnx"])
@pytest.mark.parametrize("digests", [True, False])
def test_the_report_of_another_model_is_refused(tmp_path, name, digests):
    """Of one with the same name, and of the only one of the report, too; and where the report tells no contents."""
    file = report(tmp_path, ROWS)
    if not digests:
        file.write_text(file.read_text().replace(hashlib.sha256(b"best").hexdigest(), ""))
    (tmp_path / name).write_text("other")
    wanted = (
        r"is a report of best\.pt \(.*\), and .*"
        + re.escape(name)
        + r" \(d9298a10d1b0\) is another model; .*: yolo-wnlb report .* data=d.yaml"
    )
    with pytest.raises(ValueError, match=wanted):
        of_report(file, tmp_path / name)


# ---- tracks ------------------------------------------------------------------------------------------


def boxes(*rows):
    """One row x1, y1, x2, y2, score, class for each detection."""
    return Boxes(np.array(rows, np.float32).reshape(-1, 6), (240, 320))


@needs_lap
def test_an_object_is_switched_on_by_the_confidence_kept_by_a_part_of_it_and_held_while_it_is_not_seen():
    tracks = Tracks({0: "car"}, keep=0.5, hold=2)
    scores = [None, 0.3, 0.45, 0.5, 0.45, 0.25, None, None, None, None]
    said = []
    for k, score in enumerate(scores):
        row = [] if score is None else [[50 + k, 60, 90 + k, 100, score, 0]]
        said.append(tracks.update(boxes(*row), 0.4))
    assert [[(one.track, one.detection) for one in objects] for objects in said] == [
        *([] for _ in range(3)),
        *([(1, 0)] for _ in range(3)),
        *([(1, None)] for _ in range(2)),
        *([] for _ in range(2)),
    ]
    assert said[3][0].box == (53, 60, 93, 100) and said[3][0].name == "car"


@needs_lap
def test_a_flash_of_one_frame_is_never_reported_and_two_objects_keep_their_numbers():
    tracks = Tracks({0: "car", 1: "dog"}, keep=0.5, hold=0)
    said = []
    for k in range(6):
        rows = [[10 + k, 10, 40 + k, 40, 0.6, 0], [200 - k, 100, 240 - k, 140, 0.6, 1]]
        rows = sorted(rows + ([[100, 10, 130, 40, 0.99, 0]] if k == 3 else []), key=lambda row: -row[4])
        said.append(tracks.update(boxes(*rows), 0.5))
    names = [{one.track: one.name for one in objects} for objects in said[1:]]
    assert all(one == names[0] for one in names) and sorted(names[0].values()) == ["car", "dog"]
    assert all(one.box[0] in (10 + k, 200 - k) for k, objects in enumerate(said) for one in objects)


def test_without_the_package_of_the_tracker_it_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lap", None)
    with pytest.raises(ImportError, match="needs lap; install it: pip install lap"):
        Tracks({}, 0.5, 5)


# ---- sources -----------------------------------------------------------------------------------------


def frames_of(count=12, size=(96, 128), step=4, bright=200):
    """A bright square that moves over a dark ground."""
    pictures = []
    for k in range(count):
        pictures.append(np.full((*size, 3), 40, np.uint8))
        pictures[-1][30:60, 8 + step * k : 38 + step * k] = bright
    return pictures


def film(file, pictures, code="MJPG", rate=5):
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*code), rate, pictures[0].shape[1::-1])
    for picture in pictures:
        writer.write(picture)
    writer.release()
    return file


def folder(path, pictures):
    path.mkdir()
    for k, picture in enumerate(pictures):
        assert cv2.imwrite(f"{path}/frame{k}.png", picture)
    return path


def test_frames_of_a_folder_come_in_the_order_of_their_numbers(tmp_path):
    levels = [10 * k for k in range(12)]
    opened = open_source(str(folder(tmp_path / "a", [np.full((8, 8, 3), level, np.uint8) for level in levels])))
    batches = list(opened.frames)
    assert [batch[0].picture[0, 0, 0] for batch in batches] == levels and opened.count == 12
    assert [batch[0].seconds for batch in batches[:3]] == [0, 0.1, 0.2]
    grey = open_source(str(tmp_path / "a"), channels=1)
    assert next(grey.frames)[0].picture.shape == (8, 8, 1)


def test_frames_of_a_video_come_with_their_times(tmp_path):
    opened = open_source(str(film(tmp_path / "a.avi", frames_of())))
    batches = list(opened.frames)
    assert len(batches) == opened.count == 12 and opened.rate == 5 and not opened.live
    assert batches[5][0].seconds == 1 and batches[5][0].picture.shape == (96, 128, 3)


class Camera(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, and at /live/COUNT the stream of a camera that is lost after so many frames."""

    def log_message(self, *_):
        pass

    def do_GET(self):
        if not self.path.startswith("/live/"):
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        try:
            for picture in frames_of(int(self.path.rpartition("/")[2]), step=1):
                jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                self.wfile.write(head.encode() + jpeg + b"\r\n")
                time.sleep(0.02)
        except OSError:  # nobody reads any more
            pass


@pytest.fixture
def served(tmp_path):
    """A folder that is served at the URL that is returned with it."""
    handler = functools.partial(Camera, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield tmp_path, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_url_is_read_while_the_model_works_and_only_the_newest_frame_is_detected(served, monkeypatch):
    _, url = served
    opened = open_source(f"{url}/live/40")
    assert opened.live and opened.count is None
    numbers = []
    for batch in opened.frames:
        numbers.append([frame.number for frame in batch])
        time.sleep(0.1)
    assert [number for batch in numbers for number in batch] == list(range(40)) and len(numbers) < 40
    with pytest.raises(OSError, match=r"cannot be opened, or sends no frames; is the address right"):
        open_source(f"{url}/nothing.avi")


def test_a_video_file_at_a_url_waits_as_one_on_the_disk_does(served):
    place, url = served
    film(place / "a.avi", frames_of(100))
    opened = open_source(f"{url}/a.avi")
    assert not opened.live and opened.count == 100 and opened.rate == 5 and opened.name == f"{url}/a.avi"
    next(opened.frames)
    time.sleep(0.3)
    assert [frame.number for batch in opened.frames for frame in batch] == list(range(1, 100))


def test_frames_of_16_bits_are_read_through_the_curve_that_the_model_has_recorded(tmp_path, source, monkeypatch):
    (tmp_path / "deep").mkdir()
    codes = np.random.default_rng(0).integers(0, 9000, (8, 8, 3)).astype(np.uint16)
    assert cv2.imwrite(str(tmp_path / "deep/0.png"), codes)
    model = module.load_checkpoint(source("yolov8n-seg"))
    monkeypatch.setattr(module, "load_checkpoint", lambda file: model)
    pictures = []
    for name in ("auto", "high-byte"):
        model.model.curve = name
        _, channels, curve = module.load(tmp_path / "best.pt")
        assert curve == CURVES[name]
        pictures.append(next(open_source(str(tmp_path / "deep"), channels, curve).frames)[0].picture)
    assert np.array_equal(pictures[1], codes >> 8) and not np.array_equal(*pictures)


def test_raw_files_beside_a_finished_picture_are_no_frames(tmp_path):
    place = folder(tmp_path / "f", frames_of(3))
    for k in range(3):
        (place / f"frame{k}.nef").write_bytes(b"of another size")
    opened = open_source(str(place))
    assert opened.count == 3 and len(list(opened.frames)) == 3 and not opened.unreadable


def test_a_password_of_a_url_is_not_repeated():
    assert without_password("rtsp://me:s3cret@10.0.0.7:554/live?x=1") == "rtsp://10.0.0.7:554/live?x=1"
    with pytest.raises(OSError) as caught:
        open_source("rtsp://me:s3cret@127.0.0.1:9/live")
    assert "s3cret" not in str(caught.value) and "127.0.0.1:9/live" in str(caught.value)


# ---- all of it ---------------------------------------------------------------------------------------


class Eye:
    """Stands for a model: it finds the square of `frames_of`, as sure as the square is bright."""

    names = {0: "square"}  # noqa: RUF012

    def __init__(self, on_frame=lambda number: None):
        self.calls, self.on_frame = 0, on_frame

    def predict(self, picture, conf, **_):
        self.on_frame(self.calls)
        self.calls += 1
        plane = cv2.blur(picture.reshape(*picture.shape[:2], -1)[..., 0], (3, 3))
        y, x = np.nonzero(plane > 90)
        score = float(plane[y, x].mean()) / 255 if len(x) else 0
        row = [[x.min(), y.min(), x.max() + 1, y.max() + 1, score, 0]] if score >= conf else np.zeros((0, 6))
        mask = torch.from_numpy(np.stack([plane > 90])).float() if len(row) else None
        found = torch.tensor(np.array(row), dtype=torch.float32)
        return [Results(picture, "", self.names, boxes=found, masks=mask)]


@pytest.fixture
def eye(monkeypatch, tmp_path):
    """A stand-in for the model best.pt, in an empty folder; returns what is called at each frame."""
    one = Eye()
    monkeypatch.setattr(module, "load", lambda file: (one, 3, None))
    monkeypatch.setattr(module, "size_of", lambda *_: (64, 96))
    monkeypatch.chdir(tmp_path)
    return one


def lines(where):
    return [json.loads(line) for line in (where / "watch.jsonl").read_text().splitlines()]


@needs_lap
def test_every_frame_has_a_line_and_a_picture(tmp_path, eye):
    film(tmp_path / "a.avi", frames_of())
    result = module.watch("a.avi", "best.pt", conf=0.5)
    assert (result.frames, result.detected, result.too_dark, result.objects) == (12, 12, 0, 1) and not result.remarks
    header, *records = lines(result.folder)
    assert header["format"] == "yolo_wnlb watch 1" and header["source"] == "a.avi" and header["frames"] == 4
    assert header["imgsz"] == [64, 96] and "image size 64x96, conf=0.5\n" in str(result)
    assert [record["frame"] for record in records] == list(range(12))
    assert all(record["objects"][0]["track"] == 1 for record in records)
    assert 40 < records[5]["brightness"] < 60 and records[5]["averaged"] == 4 and 0.3 < records[5]["still"] < 1
    x1, y1, x2, y2 = records[5]["objects"][0]["box"]
    assert abs(x1 - 28) <= 2 and abs(y1 - 30) <= 2 and abs(x2 - 58) <= 2 and abs(y2 - 60) <= 2
    assert np.ptp(records[5]["objects"][0]["polygon"], axis=0) == pytest.approx([30, 30], abs=4)
    written = open_source(str(result.folder / "watch.mp4"))
    assert len(list(written.frames)) == 12 and written.rate == 5


@needs_lap
def test_dark_frames_are_not_tried_and_the_report_says_which(tmp_path, eye):
    dark = [picture // 40 for picture in frames_of(4)]
    folder(tmp_path / "f", frames_of(4) + dark)
    result = module.watch("f", "best.pt", "out", frames=1, conf=report(tmp_path, ROWS), hold=0)
    records = lines(tmp_path / "out")[1:]
    assert [record.get("too_dark", False) for record in records] == [False] * 4 + [True] * 4 and eye.calls == 4
    assert all(record["objects"] == [] and "confidence" not in record for record in records[4:])
    assert records[0]["confidence"] == pytest.approx(0.6, abs=0.05) and result.too_dark == 4 and not result.remarks
    export = module.watch("f", "best.onnx", "export", frames=1, conf="report.json", video=False)
    assert lines(tmp_path / "export")[0]["remark"] == export.remarks[0] and "export of it" in str(export)
    assert module.watch("f", "best.pt", "out", too_dark=0, video=False, exist_ok=True).too_dark == 0
    assert not (tmp_path / "out/watch.mp4").exists()


@needs_lap
def test_a_report_of_another_image_size_is_remarked_on_and_one_of_no_known_size_is_not(tmp_path, eye, monkeypatch):
    folder(tmp_path / "f", frames_of(2))
    file = report(tmp_path, ROWS)
    for measured, size, advice in (
        ("320x320", (640, 640), "give imgsz=320, or make a report with imgsz=640"),
        ("384x640", (64, 96), "make a report of this very model"),
        ("not stated", (64, 96), ""),
        ("64x96", (64, 96), ""),
    ):
        file.write_text(re.sub(r'(?<="image_size": ")[^"]*', measured, file.read_text()))
        monkeypatch.setattr(module, "size_of", lambda *_, size=size: size)
        result = module.watch("f", "best.pt", "out", conf="report.json", video=False, exist_ok=True)
        assert len(result.remarks) == bool(advice)
        assert lines(tmp_path / "out")[0].get("remark", "") == "".join(result.remarks)
        for remark in result.remarks:
            both = f"report.json was measured at image size {measured}, and frames are fitted into {size[0]}x{size[1]}"
            assert remark.startswith(both) and remark.endswith(f"; {advice}")


@needs_lap
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_whole_files(tmp_path, eye, number):
    before = signal.getsignal(number)
    film(tmp_path / "a.avi", frames_of())
    eye.on_frame = lambda k: os.kill(os.getpid(), number) if k == 5 else None
    result = module.watch("a.avi", "best.pt", "out")
    assert result.stopped and result.frames == 6 and signal.getsignal(number) is before
    assert len(lines(tmp_path / "out")) == 7
    assert len(list(open_source(str(tmp_path / "out/watch.mp4")).frames)) == 6


@needs_lap
def test_the_command_says_what_it_did_and_ends_like_any_other_at_ctrl_c(tmp_path, eye, capsys):
    film(tmp_path / "a.avi", frames_of())
    assert main(["watch", "a.avi", "model=best.pt", "limit=3", "out=x", "--video=False"]) == 0
    said = capsys.readouterr().out
    assert "3 frames" in said and "1 object followed" in said and "written to x" in said and "breaks off" not in said
    assert "image size 64x96, conf=0.25 (the default)" in said
    eye.on_frame = lambda k: os.kill(os.getpid(), signal.SIGINT) if k == 5 else None
    assert main(["watch", "a.avi", "model=best.pt", "out=y"]) == 130
    said = capsys.readouterr()
    assert "written to y" in said.out and "watch: stopped" in said.err


@needs_lap
def test_a_camera_that_moves_is_remarked_on_once_where_frames_are_averaged(tmp_path, eye):
    wide = np.random.default_rng(0).integers(0, 256, (12, 60, 1)).astype(np.uint8).repeat(3, 2)
    wide = cv2.resize(wide, None, fx=24, fy=24, interpolation=cv2.INTER_NEAREST)[:96]
    folder(tmp_path / "f", [wide[:, 4 * k : 4 * k + 128] for k in range(12)])
    [remark] = module.watch("f", "best.pt", "out", video=False).remarks
    assert "of the pixels could not be averaged: the camera seems to move, or scenes are cut" in remark
    assert not module.watch("f", "best.pt", "one", video=False, frames=1).remarks
    assert not module.watch("f", "best.pt", "few", video=False, limit=5).remarks


@needs_lap
def test_a_folder_of_snapshots_is_remarked_on(tmp_path, eye):
    folder(tmp_path / "f", [bright_scene(seed) for seed in range(12)])
    result = module.watch("f", "best.pt", "out", video=False)
    assert result.still == 0 and result.cuts == 11
    [remark] = result.remarks
    assert remark.startswith("11 of 12 frames show another scene than the frame before") and "frames=1" in remark
    assert not module.watch("f", "best.pt", "one", video=False, frames=1).remarks


@needs_lap
def test_a_second_ctrl_c_interrupts_at_once_and_the_files_are_whole_too(tmp_path, eye):
    film(tmp_path / "a.avi", frames_of())
    eye.on_frame = lambda k: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)] if k == 5 else None
    with pytest.raises(KeyboardInterrupt):
        module.watch("a.avi", "best.pt", "out")
    assert len(lines(tmp_path / "out")) == 6
    assert len(list(open_source(str(tmp_path / "out/watch.mp4")).frames)) == 5


@needs_lap
def test_a_video_that_breaks_off_is_said_to(tmp_path, eye):
    whole = film(tmp_path / "a.avi", frames_of(30)).read_bytes()
    (tmp_path / "b.avi").write_bytes(whole[: len(whole) // 2])
    result = module.watch("b.avi", "best.pt", "out", video=False)
    assert result.frames < 30
    if open_source("b.avi").count == 30:
        assert f"b.avi breaks off after {result.frames} of 30 frames" in str(result)


@needs_lap
def test_frames_of_a_folder_that_cannot_be_read_are_left_out_and_counted(tmp_path, eye, capsys):
    place = folder(tmp_path / "f", frames_of(6))
    for k in (0, 3, 5):
        (place / f"frame{k}.png").write_bytes(b"no picture")
    result = module.watch("f", "best.pt", "out")
    assert (result.frames, result.detected, result.unreadable, result.dropped) == (3, 3, 3, 0)
    assert result.remarks == ("frames of f that cannot be read were left out: 3, the first is frame0.png",)
    assert [(one["frame"], one["seconds"]) for one in lines(tmp_path / "out")[1:]] == [(1, 0.1), (2, 0.2), (4, 0.4)]
    assert len(list(open_source("out/watch.mp4").frames)) == 3
    assert main(["watch", "f", "model=best.pt", "limit=2", "out=x"]) == 0
    said = capsys.readouterr().out
    assert "2 frames" in said and "left out: 1, the first is frame0.png" in said and "breaks off" not in said


@needs_lap
def test_a_camera_that_is_lost_is_an_error_and_one_that_was_stopped_is_none(served, eye, capsys):
    _, url = served
    assert main(["watch", f"{url}/live/10", "model=best.pt", "out=a"]) == 1
    assert f"note: {url}/live/10 sent no more frames after " in capsys.readouterr().out
    assert main(["watch", f"{url}/live/200", "model=best.pt", "out=b", "limit=5"]) == 0
    eye.on_frame = lambda k: os.kill(os.getpid(), signal.SIGINT)
    assert main(["watch", f"{url}/live/200", "model=best.pt", "out=c"]) == 130
    assert "sent no more" not in capsys.readouterr().out


@needs_lap
def test_the_video_of_an_odd_size_lacks_the_last_row_and_column_and_the_lines_do_not(tmp_path, eye):
    pictures = [np.pad(picture[:16, :32], ((0, 1), (0, 1), (0, 0)), constant_values=255) for picture in frames_of(2)]
    folder(tmp_path / "f", pictures)
    result = module.watch("f", "best.pt", "out", frames=1, too_dark=0)
    written = next(open_source("out/watch.mp4").frames)[0].picture
    assert written.shape == (16, 32, 3) and lines(result.folder)[1]["objects"][0]["box"][2] == 33


def passing(*batches):
    """A live source of these numbers of frames, all alike."""
    picture = np.full((48, 64, 3), 100, np.uint8)
    frames = ([Frame(number, number / 25, picture) for number in batch] for batch in batches)
    return Source("camera 0", True, 25.0, None, frames)


@needs_lap
def test_a_limit_ends_a_live_source_that_has_skipped_past_it(eye, monkeypatch):
    monkeypatch.setattr(module, "open_source", lambda *_: passing([0], range(1, 3), range(70, 134), range(134, 198)))
    result = module.watch("0", "best.pt", "out", limit=60)
    assert result.frames == 71 and result.detected == 3 and not result.lost and not result.remarks


@needs_lap
def test_what_was_averaged_is_told_of_the_frames_that_were_not_lost(eye, monkeypatch):
    monkeypatch.setattr(module, "open_source", lambda *_: passing([0], range(500, 520), range(980, 1000)))
    added = []

    class Slow(StillAverage):
        def add(self, frame):
            added.append(frame)
            time.sleep(0.01)
            return super().add(frame)

    monkeypatch.setattr(module, "StillAverage", Slow)
    result = module.watch("0", "best.pt", "out")
    assert result.frames == 1000 and result.dropped == 997 and len(added) == 41
    assert result.still == pytest.approx(40 / 41) and result.milliseconds > 9  # of the first frame nothing is averaged


@needs_lap
def test_a_live_source_is_averaged_whole_and_its_video_plays_as_fast_as_it_came(served, eye):
    place, url = served
    eye.on_frame = lambda k: time.sleep(0.15)
    result = module.watch(f"{url}/live/20", "best.pt", "out")
    assert result.frames == 20 and result.dropped == 20 - result.detected > 0
    assert "came while the model was busy" in str(result)
    written = len(list(open_source(str(place / "out/watch.mp4")).frames))
    assert written == pytest.approx(1 + 10 * lines(place / "out")[-1]["seconds"], abs=1)


@needs_lap
def test_a_real_model_watches_in_colour_and_masks_are_as_large_as_the_picture(tmp_path, source, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder(tmp_path / "f", frames_of(3))
    model = source("yolov8n-seg")
    result = module.watch("f", model, "out", conf=1e-6, imgsz=70, device="cpu")
    objects = [one for record in lines(tmp_path / "out")[1:] for one in record["objects"]]
    assert result.imgsz == (96, 96) and lines(tmp_path / "out")[0]["imgsz"] == [96, 96]  # a multiple of the stride
    assert result.detected == 3 and objects and {one["class"][0] for one in objects} == {"c"}
    assert any(len(one.get("polygon", [])) > 2 for one in objects)


# ---- mistakes ----------------------------------------------------------------------------------------


def make_mixed(place):
    folder(place / "mixed", frames_of(2) + frames_of(1, size=(64, 128)))
    (place / "empty").mkdir()
    (place / "text.mp4").write_text("no video")
    (place / "one.png").write_bytes((place / "mixed/frame0.png").read_bytes())
    (place / "rest.pt").write_text("no model")
    folder(place / "broken", frames_of(2))
    for k in (0, 1):
        (place / f"broken/frame{k}.png").write_bytes(b"no picture")
    folder(place / "good", frames_of(2))
    report(place, [])
    (place / "other.json").write_text("{}")
    (place / "done").mkdir()
    (place / "done/watch.jsonl").write_text("{}")


MISTAKES = {  # what: words, message
    "no source": ("model=best.pt", "wants SOURCE"),
    "no model": ("good", "wants SOURCE and model=MODEL"),
    "a source that is not there": ("nothing.mp4 model=best.pt", "there is no 'nothing.mp4'; give a video file"),
    "an empty folder": ("empty model=best.pt", "empty holds no pictures"),
    "no video": ("text.mp4 model=best.pt", "text.mp4 cannot be read as a video"),
    "a single picture": ("one.png model=best.pt", "is a single picture; give the folder of the frames"),
    "broken frames alone": ("broken model=best.pt", "none of the frames in broken can be read: "),
    "mixed sizes": ("mixed model=best.pt", "frame2.png 128 x 64; frames of one camera have one size"),
    "a camera that is not there": ("97 model=best.pt", "camera 97 cannot be opened"),
    "no average of frames": ("good model=best.pt frames=0", "frames=0: wanted a whole number, 1 or more"),
    "too many frames": ("good model=best.pt frames=65", "frames is 65; wanted 1 (no averaging) to 64"),
    "no confidence": ("good model=best.pt conf=0", "conf is 0"),
    "a confidence of words": ("good model=best.pt conf=low", "conf=low: wanted a number from 0 to 1, or a report.json"),
    "another file as a report": ("good model=best.pt conf=other.json", "is no report that yolo_wnlb wrote"),
    "a report that is not there": (
        "good model=best.pt conf=gone.json",
        "there is no gone.json; make it with: yolo-wnlb report best.pt data=DATA.yaml",
    ),
    "a report without confidences": ("good model=best.pt conf=report.json", "has no confidence by brightness of best"),
    "keep out of range": ("good model=best.pt keep=0", "keep is 0; wanted a share"),
    "too_dark out of range": ("good model=best.pt too_dark=300", "too_dark=300: wanted a number from 0 to 255"),
    "a folder that is done": ("good model=best.pt out=done", "holds watch.jsonl; choose another out="),
    "a file as folder": ("good model=best.pt out=one.png", "one.png"),
}


@needs_lap
@pytest.mark.parametrize("what", MISTAKES)
def test_mistakes_are_named(tmp_path, eye, capsys, what):
    make_mixed(tmp_path)
    words, message = MISTAKES[what]
    assert main(["watch", *words.split()]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in said and said.startswith("yolo-wnlb watch: ")


@pytest.mark.parametrize(
    ("model", "message"),
    [("gone.pt", "gone.pt does not exist"), ("rest.pt", "rest.pt"), ("gone.onnx", "gone.onnx does not exist")],
)
def test_mistakes_in_the_model_are_named(tmp_path, monkeypatch, capsys, model, message):
    monkeypatch.chdir(tmp_path)
    make_mixed(tmp_path)
    assert main(["watch", "good", f"model={model}"]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "runs").exists()


@needs_lap
def test_a_video_is_not_written_over_while_it_is_read(tmp_path, eye):
    (tmp_path / "out").mkdir()
    film(tmp_path / "out/watch.mp4", frames_of(3), "mp4v")
    before = (tmp_path / "out/watch.mp4").read_bytes()
    with pytest.raises(ValueError, match="would be written over while it is read"):
        module.watch("out/watch.mp4", "best.pt", "out", exist_ok=True)
    assert (tmp_path / "out/watch.mp4").read_bytes() == before


def test_models_of_other_channels_are_refused(tmp_path):
    with pytest.raises(ValueError, match="takes pictures of 4 channels"):
        open_source(str(folder(tmp_path / "f", frames_of(1))), channels=4)


def test_numbers_out_of_range_are_named():
    good = SimpleNamespace(frames=4, too_dark=None, keep=0.5, hold=5, iou=0.7, limit=None)
    for name, value in {"frames": 0, "too_dark": 256, "keep": 1.5, "hold": -1, "iou": 2, "limit": 0}.items():
        with pytest.raises(ValueError, match=f"{name} is {value}; wanted"):
            module.check(**{**vars(good), name: value})
    for value in (0, 1, float("nan")):
        with pytest.raises(ValueError, match="wanted a number between 0 and 1"):
            fixed(value)
