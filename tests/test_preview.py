import os
import re
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from yolo_wnlb import cli
from yolo_wnlb.data.shapes import generate
from yolo_wnlb.imaging.camera import PRESETS, Shot, settings
from yolo_wnlb.imaging.capture import capture
from yolo_wnlb.imaging.chance import picture_rng
from yolo_wnlb.imaging.sheet import GAP, shortened
from yolo_wnlb.terminal import mistakes
from yolo_wnlb.visualize.pictures import display_names, find_pictures
from yolo_wnlb.visualize.preview import SIDE, encoded, generated_scenes, preview, shrunk, stops_between

DOCS = Path(__file__).resolve().parent.parent / "docs"


def save(path, image=None):
    image = np.full((48, 64, 3), 90, np.uint8) if image is None else image
    cv2.imwrite(str(path), image)
    return path


@pytest.fixture
def photos(tmp_path):
    """Ten pictures in two folders of a folder, each of its own size."""
    rng = np.random.default_rng(0)
    for i in range(10):
        file = tmp_path / "photos" / str(i // 5) / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        save(file, rng.integers(0, 256, (40 + i, 60, 3), np.uint8))
    return tmp_path / "photos"


# --- the pictures


def test_a_folder_is_sampled_evenly_from_its_first_to_its_last_picture(photos):
    assert [file.name for file in find_pictures(photos, 3)] == ["0.png", "4.png", "9.png"]
    assert [file.name for file in find_pictures(photos, 1)] == ["0.png"]
    assert len(find_pictures(photos, 99)) == 10


def test_a_data_set_shows_its_val_split(tmp_path, photos):
    root = generate(tmp_path / "shapes", train=1, val=3, size=64)
    data = tmp_path / "shapes" / "data.yaml"
    data.write_text("train: images/train\nval: images/val\nnames: [a, b, c, d, e]\n")
    assert find_pictures(data, 5) == sorted((root / "images/val").iterdir())
    (tmp_path / "shapes" / "val.txt").write_text(f"./images/val/000001.png\n\n{photos}/1/9.png\n")
    data.write_text("train: images/train\nval: val.txt\nnames: [a, b, c, d, e]\n")
    assert [file.name for file in find_pictures(data, 5)] == ["000001.png", "9.png"]
    data.write_text(f"train: images/train\nval: [images/val, {photos}]\nnames: [a, b, c, d, e]\n")
    assert len(find_pictures(data, 99)) == 13


def test_large_pictures_shrink_to_a_cell_and_small_ones_stay():
    assert shrunk(np.zeros((3000, 1500, 3), np.uint8)).shape == (SIDE, SIDE // 2, 3)
    assert shrunk(np.zeros((2, 9000, 3), np.uint8)).shape == (1, SIDE, 3)
    assert shrunk(np.zeros((7, 5, 3), np.uint8)).shape == (7, 5, 3)


def test_built_in_scenes_are_bright_and_the_same_every_time():
    first, second = list(generated_scenes(2)), list(generated_scenes(2))
    assert all(a.name == b.name and np.array_equal(a.image, b.image) for a, b in zip(first, second))
    assert all(scene.image.mean() > 80 for scene in first)


# --- the grid


def test_cells_hold_the_pictures_that_the_shots_of_their_columns_take(photos, tmp_path):
    file = photos / "1/7.png"
    grid = cv2.imread(str(preview([file], tmp_path / "grid.png", presets=["mild", "severe"], crf="srgb")))
    source = cv2.imread(str(file))
    height, width = source.shape[:2]
    assert grid.shape[1] == 3 * (SIDE + GAP)
    for column, preset in enumerate([None, "mild", "severe"]):
        left = column * (SIDE + GAP) + (SIDE + GAP - width) // 2
        wanted = source
        if preset:
            wanted = capture(source, settings(preset, crf="srgb").draw(picture_rng(0, "7.png")))
        assert np.array_equal(grid[40 : 40 + height, left : left + width], wanted), preset


def test_the_same_call_makes_the_same_file_and_another_seed_another(photos, tmp_path):
    first, same, other = (
        preview([photos], tmp_path / f"{name}.png", n=2, presets=["lin"], seed=seed).read_bytes()
        for name, seed in (("first", 0), ("same", 0), ("other", 1))
    )
    assert first == same != other


def test_every_preset_has_a_column_unless_some_are_chosen(tmp_path):
    grid = cv2.imread(str(preview([save(tmp_path / "a.png")], tmp_path / "grid.jpg")))
    assert grid.shape[1] == (1 + len(PRESETS)) * (SIDE + GAP)


@pytest.mark.parametrize("crf", ["srgb", (0.7, 0.4)])
def test_stops_are_those_of_the_light_not_of_the_codes(crf):
    image = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    assert stops_between(image, Shot(crf=crf)) == 0
    assert stops_between(image, Shot(ev=-3, crf=crf)) == pytest.approx(-3)
    assert stops_between(image, Shot(beta=0.5, crf=(1.0, 0.0))) == pytest.approx(-1)
    assert stops_between(image * 0, Shot(gamma=3)) == 0
    assert stops_between(np.ones_like(image), Shot(beta=0.5, quantize="truncate")) == -np.inf


def test_a_long_name_keeps_its_end():
    assert shortened("a" * 40 + ".jpg", 10) == "…aaaaa.jpg"
    assert shortened("short.jpg", 10) == "short.jpg"


def test_the_picture_in_docs_is_the_one_that_its_command_makes(tmp_path):
    assert (DOCS / "preview.jpg").stat().st_size <= 300_000
    presets = ["mild", "moderate", "severe", "extreme"]
    made = cv2.imread(str(preview(out=tmp_path / "preview.jpg", n=3, presets=presets)))
    shown = cv2.imread(str(DOCS / "preview.jpg"))
    assert made.shape == shown.shape
    assert np.abs(made.astype(int) - shown).mean() < 1  # other releases draw letters and JPEGs a little otherwise


# --- the door


def test_the_command_says_where_the_picture_is(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["preview", "photos", "n=2", "presets=mild", "ev=-3", "crf=srgb"]) == 0
    assert capsys.readouterr().out == f"wrote {tmp_path / 'preview.png'}\n"
    assert cv2.imread("preview.png").shape[1] == 2 * (SIDE + GAP)
    assert cli.main(["preview", "photos/0/0.png", "presets=mild,lin", "out=two.jpg", "bayer=none"]) == 0
    assert cv2.imread("two.jpg").shape[1] == 3 * (SIDE + GAP)
    assert capsys.readouterr().out == f"wrote {tmp_path / 'two.jpg'}\n"  # nothing to note
    save(tmp_path / "night.png", np.full((48, 64, 3), 9, np.uint8))
    (tmp_path / "nights").mkdir()
    (tmp_path / "night.png").rename("nights/1.png")
    assert cli.main(["preview", "nights", "presets=mild"]) == 0
    few, dark, wrote = capsys.readouterr().out.splitlines()
    assert few == "note: nights has 1 of the n=5 pictures that were asked for: all are shown"
    assert dark.startswith("note: the pictures are dark already: their median brightness is 9 of 255, and day pictures")
    assert wrote == f"wrote {tmp_path / 'preview-2.png'}"
    assert cli.main(["preview", "nights", "presets=mild", "exist_ok=True"]) == 0
    assert capsys.readouterr().out.endswith(f"wrote {tmp_path / 'preview.png'}\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "there is no nowhere; give images, folders of images or a data YAML"),
        (["empty"], r"empty holds no images \(.*png.*\); give another folder"),
        (["note.txt"], "note.txt cannot be read as an image; leave it out or mend it"),
        (["nothing.png"], "nothing.png cannot be read as an image"),
        (["no.yaml"], "there is no no.yaml; give a data YAML"),
        (["odd.yaml"], r"odd.yaml is no data YAML that Ultralytics takes: .*'train:' key missing"),
        (["broken.yaml"], ".*broken.yaml"),
        (["photos", "presets=sever"], r"no low-light preset 'sever' \(did you mean 'severe'\?\); choose from mild"),
        (["photos", "presets=mild,3"], "no low-light preset '3'; choose from"),
        (["photos", "gama=2"], r"no option gama \(did you mean 'gamma'\?\)"),
        (["photos", "ev=-3", "gamma=2"], "leave out either ev or gamma"),
        (["photos", "n=0"], "n=0: wanted a whole number, 1 or more"),
        (["photos", "n=many"], "n=many: wanted a whole number"),
        (["photos", "seed=-1"], "seed=-1: wanted a whole number, 0 or more"),
        (["photos", "out=grid.gif"], "out is 'grid.gif'; wanted a name that ends in .png or .jpg"),
        (["photos", "out=no/grid.png"], "out=no/grid.png would lie in no, which does not exist; choose another"),
        (
            ["photos", "out=there.png"],
            r"there\.png is there already; .* write over it with exist_ok=True",
        ),
        (["photos", "out=folder.png"], "out=folder.png is a folder; choose another file name"),
        (["photos", "out=photos/0/0.png"], "out=photos/0/0.png is one of the pictures to look at"),
    ],
)
def test_mistakes_are_named_and_nothing_is_written(photos, tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "note.txt").write_text("no picture")
    (tmp_path / "nothing.png").touch()
    (tmp_path / "there.png").touch()
    (tmp_path / "odd.yaml").write_text("names: [a]\n")
    (tmp_path / "broken.yaml").write_text("names: [a\n")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert cli.main(["preview", *words]) == 2
    told = capsys.readouterr()
    assert not told.out and re.match(f"yolo-wnlb preview: .*{said}", told.err), told.err
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_file_that_cannot_be_written_is_an_error_not_a_success(tmp_path, monkeypatch, capsys):
    if not Path("/dev/full").exists():
        pytest.skip("no full device here")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full.png").symlink_to("/dev/full")
    assert cli.main(["preview", "n=1", "presets=mild", "out=full.png", "exist_ok=True"]) == 2
    assert "No space left" in capsys.readouterr().err


# --- names, strays and limits


def bitmap_header(width, height):
    """Return the start of a BMP that claims a size; no pixels follow."""
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, *[0] * 6)


def test_names_are_as_long_as_it_takes_to_tell_them_apart():
    files = [Path("day/cam1/0001.png"), Path("day/cam2/0001.png"), Path("night/cam2/0001.png"), Path("a\nb.png")]
    assert display_names(files) == ["cam1/0001.png", "day/cam2/0001.png", "night/cam2/0001.png", "a\\nb.png"]


def test_what_is_no_picture_does_not_end_the_look_at_a_folder(photos):
    (photos / ".DS_Store").write_bytes(b"Bud1")
    (photos / "._1.png").write_bytes(b"a resource fork")
    (photos / "0/.thumbnails").mkdir()
    save(photos / "0/.thumbnails/1.png")
    (photos / "a folder.png").mkdir()
    (photos / "notes.txt").write_text("no picture")
    assert len(find_pictures(photos, 99)) == 10
    assert len(find_pictures(photos, 10**12)) == 10


def test_a_picture_that_is_named_twice_is_shown_once_and_chance_is_that_of_its_file(photos, tmp_path):
    once = preview([photos / "0/1.png"], tmp_path / "once.png", presets=["mild"]).read_bytes()
    twice = [photos / "0/1.png", photos / "1/../0/1.png"]
    assert preview(twice, tmp_path / "twice.png", presets=["mild"]).read_bytes() == once


@pytest.mark.parametrize("name", ["two\nlines.png", "tab\t.png", b"caf\xe9.png"])
def test_a_picture_of_any_name_is_shown(name, tmp_path):
    file = tmp_path / os.fsdecode(name)
    try:
        file.write_bytes(save(tmp_path / "plain.png").read_bytes())
    except OSError:
        pytest.skip("the file system has no such names")
    assert preview([file], tmp_path / "sheet.png", presets=["mild"]).is_file()
    with pytest.raises(OSError, match="cannot be read as an image") as refused:
        file.write_bytes(b"no picture")
        preview([file], tmp_path / "again.png")
    assert mistakes.message(refused.value, "").isprintable()


def test_a_picture_beyond_the_limits_of_opencv_or_pillow_is_one_named_error(photos, tmp_path, monkeypatch):
    (tmp_path / "large.bmp").write_bytes(bitmap_header(200_000, 200_000))
    with pytest.raises(OSError, match=r"large\.bmp cannot be read as an image \(.+pixels.+\); leave it out"):
        preview([tmp_path / "large.bmp"], tmp_path / "sheet.png")

    def refuse(name, flags):
        raise Image.DecompressionBombError("Image size (40000000000 pixels) exceeds limit")

    monkeypatch.setattr("yolo_wnlb.yolo.models.imread", refuse)  # it reads AVIF and HEIC with Pillow
    with pytest.raises(OSError, match=r"0\.png cannot be read as an image \(Image size .+ exceeds limit\); leave"):
        preview([photos / "0/0.png"], tmp_path / "sheet.png")


def test_a_list_in_another_encoding_is_named(tmp_path):
    (tmp_path / "val.txt").write_text("./a.png\n", encoding="utf-16")
    (tmp_path / "data.yaml").write_text(f"path: {tmp_path}\ntrain: val.txt\nval: val.txt\nnames: [a]\n")
    with pytest.raises(ValueError, match=r"val\.txt is not UTF-8 text \(it looks like UTF-16\)"):
        preview([tmp_path / "data.yaml"], tmp_path / "sheet.png")
    (tmp_path / "val.txt").write_text("./gone.png\n", encoding="utf-8-sig")
    with pytest.raises(FileNotFoundError, match=r"there is no image .*gone\.png; leave it out, or correct its path"):
        preview([tmp_path / "data.yaml"], tmp_path / "sheet.png")


def test_a_sheet_has_a_limit_and_a_jpeg_another(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="1000000 pictures; one sheet shows 100 at most"):
        preview(out=tmp_path / "sheet.png", n=1_000_000)
    with pytest.raises(ValueError, match=r"sheet\.jpg cannot hold 3 x 70000 pixels; choose a \.png, or lower n"):
        encoded(np.zeros((70_000, 3, 3), np.uint8), tmp_path / "sheet.jpg")
    assert encoded(np.zeros((70_000, 3, 3), np.uint8), tmp_path / "sheet.png")


def test_nothing_stops_an_interruption(photos, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    for where in ("visualize.preview.capture", "yolo.models.read_picture", "visualize.pictures.pictures_in"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(f"yolo_wnlb.{where}", interrupt)
            preview([photos], tmp_path / "sheet.png")
    assert not (tmp_path / "sheet.png").exists()
