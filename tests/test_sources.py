"""What a source is made of: names that do not collide, files that are no pictures, mistakes that name their file."""

import json
import os
import sys
from pathlib import Path

import pytest
import yaml

from yolo_wnlb.data.data_yaml import read_data_yaml
from yolo_wnlb.data.sources import printable, read_sources, refuse_collisions

PICTURE = b"nothing here opens a picture"


def write(root, **files):
    """Write a data set of empty pictures; `files` are further ones, or content in the place of these."""
    content = {
        "images/train/a.png": PICTURE,
        "images/val/b.png": PICTURE,
        "labels/train/a.txt": b"0 .5 .5 .2 .2\n",
        "data.yaml": yaml.safe_dump({"train": "images/train", "val": "images/val", "names": ["x"]}).encode(),
        **files,
    }
    for name, stored in content.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(stored)
    return root


def described(**changes):
    return yaml.safe_dump({"train": "images/train", "val": "images/val", "names": ["x"], **changes}).encode()


def truth(*images, **more):
    images = images or ({"id": 1, "file_name": "b.png", "width": 4, "height": 4},)
    return json.dumps({"images": images, "annotations": [], "categories": [], **more}).encode()


# --- names of the output


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"images/train/a.jpg": PICTURE}, r"images/train/a\.jpg and images/train/a\.png would both become .*a\.png;"),
        ({"images/train/A.jpg": PICTURE}, r"A\.jpg and .*a\.png would both become .* and .* one name on Windows"),
        (
            {"images/train/\u00e9.jpg": PICTURE, "images/train/e\u0301.png": PICTURE},
            "would both become .*one name on Win",
        ),
        (
            {
                "a.jpg": PICTURE,
                "a.txt": b"0 .5 .5 .2 .2",
                "lists/a.txt": b"./../a.jpg\n",
                "data.yaml": described(train="lists/a.txt"),
            },
            r"lists/a\.txt and the label of a\.jpg would both become a\.txt; rename one",
        ),
        (
            {
                "one/x.txt": b"./../images/train/a.png",
                "two/x.txt": b"./../images/val/b.png",
                "data.yaml": described(train="one/x.txt", val="two/x.txt"),
            },
            r"one/x\.txt and .*two/x\.txt would both become x\.txt",
        ),
        (
            {"failures.txt": b"./images/train/a.png", "data.yaml": described(train="failures.txt")},
            r"become failures\.txt",
        ),
        (
            {"Failures.TXT": b"./images/train/a.png", "data.yaml": described(train="Failures.TXT")},
            r"become Failures\.TXT",
        ),
        (
            {"manifest.jsonl/a.png": PICTURE, "data.yaml": described(train="manifest.jsonl")},
            "would need a folder manifest",
        ),
        (
            {"enhanced.jsonl/a.png": PICTURE, "data.yaml": described(train="enhanced.jsonl")},
            "would need a folder enhanced",
        ),
        ({".darken/a.png": PICTURE, "data.yaml": described(train=".darken")}, r"would need a folder \.darken"),
    ],
)
def test_names_that_collide_are_refused_before_anything_is_written(files, told, tmp_path):
    data = read_sources(write(tmp_path / "set", **files) / "data.yaml")
    with pytest.raises(ValueError, match=told):
        data.pictures(".png", None)


def test_folders_with_the_same_names_stay_apart(tmp_path):
    for camera in ("one", "two"):
        for split in ("train", "val"):
            (tmp_path / camera / split).mkdir(parents=True)
            (tmp_path / camera / split / "0001.png").write_bytes(PICTURE)
    found = read_sources([tmp_path / "one", tmp_path / "two"]).pictures(".png", None)
    assert len({picture.image for picture in found}) == 4


def test_many_names_are_compared_quickly():
    refuse_collisions((f"images/train/{i:08d}.png", f"images/train/{i:08d}.jpg") for i in range(20_000))


# --- what is skipped


def test_files_that_are_no_pictures_are_skipped_and_counted(tmp_path):
    strays = ("._a.png", ".DS_Store", "Thumbs.db", "b.gif", "c.gif", "notes", "a.xcf", "a.json")
    files = {f"images/train/{name}": b"?" for name in strays}
    root = write(tmp_path / "set", **files, **{"images/train/.cache/x.png": b"?"})
    counted = "no pictures that Ultralytics reads: 1 .db, 2 .gif, 1 .xcf, 3 hidden, 1 without a suffix (first: "
    for source in (root / "data.yaml", root / "images"):
        data = read_sources(source)
        assert [picture.key.rpartition("/")[2] for picture in data.pictures(".png", None)] == ["a.png", "b.png"]
        (note,) = [note for note in data.notes if "no pictures" in note]
        assert counted in note
    (root / "data.yaml").write_bytes(described(val="images/train"))
    assert len([note for note in read_sources(root / "data.yaml").notes if "no pictures" in note]) == 1


def test_lines_of_a_list_that_name_no_picture_are_counted(tmp_path):
    files = {"t.txt": b"./images/train/a.png\nnotes.md\n\n.DS_Store\n", "data.yaml": described(train="t.txt")}
    data = read_sources(write(tmp_path / "set", **files) / "data.yaml")
    assert f"{tmp_path / 'set/t.txt'}: left out, naming no picture that Ultralytics reads: 2 of 3 lines" in data.notes


def test_annotations_are_found_whatever_the_case_of_their_suffix_and_hidden_ones_are_not(tmp_path):
    files = {
        "annotations/instances_val.JSON": truth(),
        "annotations/._instances_val.json": b"\0\5\26\7",
        "._x.yaml": b"\0",
    }
    data = read_sources(write(tmp_path / "set", **files))
    assert (
        [file.name for file in data.annotations] == ["instances_val.JSON"]
        and data.definition
        and not any("left out" in note for note in data.notes)
    )
    (tmp_path / "set/data.yaml").rename(tmp_path / "set/set.YAML")
    assert read_sources(tmp_path / "set").definition == data.definition


# --- mistakes

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi")
)


@pytest.mark.parametrize(
    ("files", "source", "told"),
    [
        ({"data.yaml": "names: [é]".encode("latin-1")}, "data.yaml", r"data\.yaml is not UTF-8 text"),
        (
            {"data.yaml": described(names=["é"]).decode().encode("utf-16")},
            "data.yaml",
            r"data\.yaml is not UTF-8.*UTF-16",
        ),
        ({"data.yaml": BOMB.encode()}, "data.yaml", r"data\.yaml, line \d+: its aliases, written out, are over"),
        ({"data.yaml": b"names: [a\n"}, "data.yaml", r"data\.yaml is no YAML"),
        ({"data.yaml": b"[1, 2]"}, "data.yaml", r"data\.yaml is no data YAML; wanted train:"),
        ({"data.yaml": b""}, "data.yaml", r"data\.yaml is no data YAML; wanted train:"),
        (
            {"data.yaml": described(names={1: "a", 2: "b"})},
            "data.yaml",
            r"data\.yaml is no data YAML that .*indices 0-1",
        ),
        ({"data.yaml": described(names={0: "a", 2: "b"})}, "data.yaml", r"data\.yaml is no data YAML that"),
        ({"data.yaml": described(names={"a": "b"})}, "data.yaml", r"data\.yaml is no data YAML that"),
        ({"data.yaml": described(names=[])}, "data.yaml", r"data\.yaml is no data YAML that"),
        ({"data.yaml": described(names=7)}, "data.yaml", r"data\.yaml is no data YAML that"),
        ({"data.yaml": described(train=3)}, "data.yaml", r"data\.yaml, train: is 3; wanted a folder"),
        ({"data.yaml": described(val=[["images/val"]])}, "data.yaml", r"data\.yaml, val: is .*; wanted a folder"),
        ({"data.yaml": described(train={"a": "b"})}, "data.yaml", r"data\.yaml"),
        ({"data.yaml": described(path=3)}, "data.yaml", r"data\.yaml"),
        ({"data.yaml": described(channels="rgb")}, "data.yaml", r"data\.yaml"),
        (
            {"t.txt": "./images/é.png".encode("latin-1"), "data.yaml": described(train="t.txt")},
            "data.yaml",
            r"t\.txt is not UTF-8",
        ),
        (
            {"t.txt": "./images/a.png".encode("utf-16-le"), "data.yaml": described(train="t.txt")},
            "data.yaml",
            r"t\.txt is no list",
        ),
        ({"t.json": b"\xff"}, "t.json", r"t\.json is not UTF-8"),
        ({"t.json": b'{"images": ['}, "t.json", r"t\.json is no JSON.*is it complete"),
        ({"t.json": b"[" * 100_000}, "t.json", r"t\.json is no JSON"),
        ({"t.json": b"[]"}, "t.json", r"t\.json is no COCO annotation file"),
        ({"t.json": b'{"images": {}}'}, "t.json", r"t\.json is no COCO annotation file"),
        ({"t.json": truth(3)}, "t.json", r"t\.json: an image is 3; wanted an id and a file_name"),
        ({"t.json": truth({"file_name": "b.png"})}, "t.json", r"t\.json: an image is .*; wanted an id"),
        ({"t.json": truth({"id": None, "file_name": "b.png"})}, "t.json", r"t\.json: an image is .*; wanted an id"),
        *(
            ({"t.json": truth({"id": 5, "file_name": name})}, "t.json", r"t\.json: image 5 has the file_name")
            for name in (
                "",
                ".",
                "..",
                "../b.png",
                "a/../b.png",
                "/etc/b.png",
                "a\0b.png",
                "\ud800.png",
                "b.png/",
                "b.png/.",
                3,
                None,
            )
        ),
        (
            {"t.json": truth({"id": 5, "file_name": "b.png", "width": "4"})},
            "t.json",
            r"t\.json: image 5 has the width '4'",
        ),
        (
            {"t.json": truth({"id": 5, "file_name": "b.png", "height": [4]})},
            "t.json",
            r"t\.json: image 5 has the height",
        ),
        ({"t.json": truth(annotations=None)}, "t.json", r"t\.json: 'annotations' is no list"),
        ({"t.json": truth(annotations=[None])}, "t.json", r"t\.json: 'annotations' is no list"),
        ({}, "images/train/a.png", r"a\.png is no data set; give a data YAML"),
        ({"t.txt": b"./images/train/a.png"}, "t.txt", r"t\.txt is no data set; give a data YAML"),
        ({}, "gone.json", r"there is no .*gone\.json; give a data YAML"),
        ({}, "gone.yaml", r"there is no .*gone\.yaml; give a data YAML"),
        ({}, "gone", r"there is no .*gone; give a data YAML"),
    ],
)
def test_a_mistake_in_a_source_names_the_file(files, source, told, tmp_path):
    root = write(tmp_path / "set", **files)
    with pytest.raises((ValueError, FileNotFoundError), match=told):
        read_sources(root / source).pictures(".png", None)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="everything may be read there")
def test_a_file_that_may_not_be_read_is_named(tmp_path):
    root = write(tmp_path / "set")
    (root / "data.yaml").chmod(0)
    with pytest.raises(PermissionError, match=r"data\.yaml"):
        read_sources(root / "data.yaml")


def test_what_a_data_yaml_runs_is_said_first(tmp_path, log):
    folders = [str(tmp_path / "set/images" / split) for split in ("train", "val")]
    script = f"import pathlib\nfor folder in {folders}:\n  pathlib.Path(folder).mkdir(parents=True)\n"
    root = write(tmp_path / "set", **{"data.yaml": described(download=script)})
    read_data_yaml(root / "data.yaml")
    assert "download" not in "".join(log)
    for split in ("train", "val"):
        (next((root / "images" / split).iterdir())).unlink()
        (root / "images" / split).rmdir()
    with pytest.raises(FileNotFoundError, match="A dry run downloads nothing"):
        read_sources(root / "data.yaml", download=False)
    resolved, written = read_data_yaml(root / "data.yaml")
    assert "are missing, so the Python code of its 'download:' block runs now: import pathlib" in "".join(log)
    assert (root / "images/train").is_dir() and resolved["names"] == {0: "x"} and written["names"] == ["x"]


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right there")
def test_links_that_changed_between_two_reads_are_followed_anew(tmp_path):
    for place in ("one", "two"):
        write(tmp_path / place, **{f"images/train/{place}.png": PICTURE})
    (tmp_path / "set").symlink_to("one")
    assert read_sources(tmp_path / "set").root == tmp_path / "one"
    (tmp_path / "set").unlink()
    (tmp_path / "set").symlink_to("two")
    data = read_sources(tmp_path / "set")
    assert data.root == tmp_path / "two" and "images/train/two.png" in [p.key for p in data.pictures(".png", None)]


def test_names_are_printable_on_one_line_of_any_encoding():
    assert printable("a\nb\udce9\x1b[0m é.png") == "a\\nb\\udce9\\x1b[0m é.png"
    assert printable(Path("\t é 日本")) == "\\t é 日本"
