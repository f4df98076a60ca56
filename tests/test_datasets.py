"""The data set YAMLs that ship, on tiny copies of the sets in their true layout, and the statistics of real nights."""

import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from ultralytics.data import utils as data_utils
from ultralytics.utils.ops import segments2boxes

from yolo_wnlb.data import convert
from yolo_wnlb.data.convert import convert_exdark, convert_lis

ROOT = Path(__file__).resolve().parent.parent
LIS, EXDARK, COCO = (
    yaml.safe_load((ROOT / f"datasets/{name}.yaml").read_text(encoding="utf-8"))
    for name in ("lis", "exdark", "coco-lowlight")
)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The folder that Ultralytics takes for its data sets; offline, without fonts."""
    monkeypatch.setattr(data_utils, "DATASETS_DIR", tmp_path)
    monkeypatch.setattr(data_utils, "check_font", lambda _: None)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check(name):
    """What `yolo ... data=NAME` does first."""
    return data_utils.check_det_dataset(str(ROOT / "datasets" / name))


def picture(file, width=60, height=40, value=30):
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(file), np.full((height, width, 3), value, np.uint8))
    return file


def tree(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# --- LIS: COCO files with ids from 0, "./JPEGImages/" in front of names, dark pictures with even numbers


def lis_json(numbers, suffix="JPG", names=("bicycle", "chair", "diningtable", "bottle", "motorbike", "car")):
    box = [12.0, 8.0, 36.0, 24.0]
    square = [12.0, 8.0, 48.0, 8.0, 48.0, 32.0, 12.0, 32.0]
    second = [50.0, 2.0, 58.0, 2.0, 58.0, 6.0, 50.0, 6.0]
    outlines = {0: [[square]], 4: [[square, second]]}  # a category with id 0; one object in two parts
    annotations = [
        {"image_id": number, "category_id": kind, "segmentation": parts, "bbox": box, "area": 864.0, "iscrowd": 0}
        for number in numbers[:-1]
        for kind, objects in outlines.items()
        for parts in objects
    ]
    return {
        "info": "info",
        "licenses": "licenses",
        "categories": [{"id": i, "name": name, "color": [0, 0, 0]} for i, name in enumerate(names)],
        "images": [
            {"id": n, "width": 60, "height": 40, "file_name": f"./JPEGImages/{n}.{suffix}", "license": ""}
            for n in numbers
        ],
        "annotations": [{"id": i, **annotation} for i, annotation in enumerate(annotations)],
    }


@pytest.fixture
def lis(home):
    for number in (2, 4, 6, 8):
        picture(home / f"lis/RGB-dark/JPEGImages/{number}.JPG")
        picture(home / f"lis/RAW-dark/JPEGImages/{number}.png")
    folder = home / "lis/annotations"
    folder.mkdir()
    for split, numbers in (("train", (2, 4)), ("test", (6, 8))):
        (folder / f"lis_coco_JPG_{split}+1.json").write_text(json.dumps(lis_json(numbers)))
        (folder / f"lis_coco_JPG_{split}.json").write_text(json.dumps(lis_json([n - 1 for n in numbers])))
    return home / "lis"


def test_lis_converts_itself_once_its_files_are_there(lis):
    data = check("lis.yaml")
    out = lis / "yolo/RGB-dark"
    assert (Path(data["train"]), Path(data["val"])) == (out / "images/train", out / "images/val")
    assert tree(out) == [
        *("images/train/2.JPG", "images/train/4.JPG", "images/val/6.JPG", "images/val/8.JPG"),
        *("labels/train/2.txt", "labels/val/6.txt"),  # the other two show nothing
    ]
    objects = [line.split() for line in (out / "labels/train/2.txt").read_text().splitlines()]
    assert [data["names"][int(words[0])] for words in objects] == ["bicycle", "motorcycle"]
    polygons = [np.array(words[1:], float).reshape(-1, 2) for words in objects]
    assert np.allclose(polygons[0], [[0.2, 0.2], [0.8, 0.2], [0.8, 0.8], [0.2, 0.8]])
    boxes = segments2boxes([polygon * (60, 40) for polygon in polygons])  # centre and size
    assert np.allclose(boxes[1], [35, 17, 46, 30])  # both parts are in it
    assert [path.name for path in (lis / "yolo").iterdir()] == ["RGB-dark"]


def test_lis_is_not_converted_again(lis):
    check("lis.yaml")
    (lis / "yolo/RGB-dark/labels/train/2.txt").write_text("mine")
    check("lis.yaml")
    assert (lis / "yolo/RGB-dark/labels/train/2.txt").read_text() == "mine"


def test_other_kinds_and_spellings_of_lis(lis):
    (lis / "RAW-dark").rename(lis / "RAW_Dark")
    out = convert_lis(lis, kind="RAW-dark", names=LIS["names"])  # the JSON files name .JPG, the pictures are .png
    assert "images/val/6.png" in tree(out) and "labels/val/6.txt" in tree(out)


def test_lis_says_what_to_fetch_and_where_to_put_it(home):
    with pytest.raises(FileNotFoundError) as error:
        check("lis.yaml")
    for told in (
        "drive.google.com/drive/folders/1KpC82G",
        f"{home / 'lis'}/RGB-dark/JPEGImages/",
        "same command again",
    ):
        assert told in str(error.value)
    picture(home / "lis/RGB-dark/JPEGImages/2.JPG")
    with pytest.raises(FileNotFoundError, match=r"lacks lis_coco_JPG_train\+1.json of the data set LIS"):
        check("lis.yaml")
    assert tree(home) == ["lis/RGB-dark/JPEGImages/2.JPG"]


def test_lis_with_pictures_missing_is_refused_or_goes_on_without_if_told_so(lis):
    (lis / "RGB-dark/JPEGImages/6.JPG").unlink()
    picture(lis / "RGB-dark/JPEGImages/4.JPG", 40, 60)  # not as its outlines were drawn
    with pytest.raises(FileNotFoundError, match=r"1 of 2 images .*train\+1.json lists .*\(first: ./JPEGImages/4.JPG\)"):
        check("lis.yaml")
    assert not any((lis / "yolo").iterdir()), "nothing that would be taken for the data set"
    out = convert_lis(lis, names=LIS["names"], skip_missing=True)
    assert [name for name in tree(out) if "images" in name] == ["images/train/2.JPG", "images/val/8.JPG"]


def test_lis_that_lacks_all_pictures_is_refused_in_any_case(lis):
    for file in (lis / "RGB-dark/JPEGImages").iterdir():
        file.rename(file.with_name("x" + file.name))
    with pytest.raises(FileNotFoundError, match="2 of 2 images"):
        convert_lis(lis, names=LIS["names"], skip_missing=True)


def test_lis_annotations_of_another_kind_are_refused(lis):
    file = lis / "annotations/lis_coco_JPG_test+1.json"
    file.write_text(json.dumps(lis_json((6, 8), names=("bicycle", "owl", "tv", "bus", "car", "bus2"))))
    with pytest.raises(ValueError, match=r"test\+1.json has classes \['bus2', 'owl'\]; the YAML has bicycle, chair"):
        check("lis.yaml")
    file.write_text("<html>too many downloads</html>")
    with pytest.raises(ValueError, match=r"test\+1.json is no JSON: .*; fetch it again"):
        check("lis.yaml")
    file.write_text("{}")
    with pytest.raises(ValueError, match=r"test\+1.json is no COCO annotation file: wanted the lists images"):
        check("lis.yaml")
    annotations = lis_json((6, 8))
    annotations["annotations"][0]["bbox"][2] = float("nan")
    file.write_text(json.dumps(annotations))
    with pytest.raises(ValueError, match=r"test\+1.json: annotation 0 has bbox \[12.0, 8.0, nan, 24.0\]; wanted four"):
        check("lis.yaml")


# --- ExDark: a folder a class, bbGt text files, one list of splits


@pytest.fixture
def exdark(home):
    root = home / "exdark"
    listed = ["Name | Class | Light | In/Out | Train/Val/Test"]
    rest = " 0 0 0 0 0 0 0\n"
    objects = {
        "Bicycle/2015_00001.png": f"Bicycle 6 4 30 20{rest}people 50 10 20 20{rest}",
        "Bicycle/2015_00024.JPG": f"Bicycle 0 0 60 40{rest}",
        "Table/2015_06400.jpg": f"Table 70 9 5 5{rest}Table 1 1 10 10{rest}Owl 1 1 9 9{rest}",
    }
    for split, (name, lines) in enumerate(objects.items(), 1):
        note = root / f"ExDark_Annno/{name}.txt"
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(f"% bbGt version=3\n{lines}")
        file = name.replace(".JPG", ".jpg")  # suffixes are spelt one way here and the other way there
        picture(root / "ExDark" / file)
        listed.append(f"{Path(name).name} {1 if 'Bicycle' in name else 12} 2 1 {split}")
    (root / "imageclasslist.txt").write_text("\n".join(listed) + "\n")
    return root


def test_exdark_converts_itself_once_its_files_are_there(exdark, log):
    data = check("exdark.yaml")
    out = exdark / "yolo"
    assert Path(data["test"]) == out / "images/test"
    assert tree(out) == [
        *("images/test/2015_06400.jpg", "images/train/2015_00001.png", "images/val/2015_00024.jpg"),
        *("labels/test/2015_06400.txt", "labels/train/2015_00001.txt", "labels/val/2015_00024.txt"),
    ]
    bicycle, people = (out / "labels/train/2015_00001.txt").read_text().splitlines()
    assert bicycle == "0 0.350000 0.350000 0.500000 0.500000"
    assert people == "10 0.916667 0.500000 0.166667 0.500000", "cut at the right border"
    assert (out / "labels/test/2015_06400.txt").read_text() == "11 0.100000 0.150000 0.166667 0.250000\n"
    (told,) = [line for line in log if "ExDark:" in line]
    assert "3 images, 4 boxes, 1 cut at the border, 1 left out as empty; classes" in told and "{'Owl': 1}" in told


def test_exdark_says_what_to_fetch_and_where_to_put_it(home):
    with pytest.raises(FileNotFoundError) as error:
        check("exdark.yaml")
    for told in ("1BHmPgu8EsHoFDDkMGLVoXIlCth2dW6Yx", "Annno/Bicycle/2015_00001.png.txt", "same command again"):
        assert told in str(error.value)
    assert f"{home / 'exdark'} lacks ExDark/ with the images, ExDark_Annno/, imageclasslist.txt" in str(error.value)


def test_exdark_in_part_is_refused_or_goes_on_without_if_told_so(exdark):
    (exdark / "ExDark_Annno/Table/2015_06400.jpg.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 3 images .*imageclasslist.txt lists .* \(first: 2015_06400\)"):
        check("exdark.yaml")
    assert not (exdark / "yolo").exists()
    out = convert_exdark(exdark, names=EXDARK["names"], skip_missing=True)
    assert len(tree(out)) == 4


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("ExDark_Annno/Bicycle/2015_00001.png.txt", "x\nBicycle 6 4\n", "line 1 is 'x'; wanted class, left, top"),
        (
            "ExDark_Annno/Bicycle/2015_00001.png.txt",
            "%\nBicycle nan 4 9 9 0\n",
            "line 2 is 'Bicycle nan 4 9 9 0'; wanted",
        ),
        ("ExDark_Annno/Bicycle/2015_00001.png.txt", "Bicycle 6 4 inf 9 0\n", "line 1 is 'Bicycle 6 4 inf 9 0'; wanted"),
        ("ExDark_Annno/Bicycle/2015_00001.png.txt", b"\xff\xfeB\x00", "2015_00001.png.txt is not UTF-8 text"),
        ("imageclasslist.txt", b"Name\n\xe9 1 2 1 1\n", "imageclasslist.txt is not UTF-8 text: byte 0xe9"),
        ("imageclasslist.txt", "Name\n2015_00001.png 1 2 1 4\n", "line 2 is '2015_00001.png 1 2 1 4'; wanted name"),
        ("ExDark/Bicycle/2015_00001.png", "no image", "2015_00001.png cannot be read as an image"),
    ],
)
def test_broken_files_of_exdark_are_named(exdark, file, text, said):
    (exdark / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=re.escape(said)):
        check("exdark.yaml")
    assert not (exdark / "yolo").exists()


def test_an_interrupted_conversion_leaves_nothing_that_looks_complete(exdark, monkeypatch):
    link = convert.link

    def interrupted(source, target):
        if "06400" in target.name:
            raise KeyboardInterrupt
        link(source, target)

    monkeypatch.setattr(convert, "link", interrupted)
    with pytest.raises(KeyboardInterrupt):
        check("exdark.yaml")
    monkeypatch.undo()
    assert not (exdark / "yolo").exists() and not (exdark / ".yolo.draft").exists()
    picture(exdark / ".yolo.draft/images/train/killed.png", value=200)  # what a killed process leaves behind
    convert_exdark(exdark, names=EXDARK["names"])
    assert cv2.imread(str(exdark / "yolo/images/train/2015_00001.png")).max() == 30
    assert not (exdark / ".yolo.draft").exists() and not (exdark / "yolo/images/train/killed.png").exists()


def test_half_a_data_set_from_elsewhere_is_not_touched(exdark):
    picture(exdark / "yolo/images/train/a.png")
    with pytest.raises(FileExistsError, match="delete it and run again"):
        check("exdark.yaml")
    assert tree(exdark / "yolo") == ["images/train/a.png"]


def test_without_links_pictures_are_copied(exdark, monkeypatch):
    def no_links(source, target):
        raise OSError("not supported")

    monkeypatch.setattr(convert.os, "link", no_links)
    out = convert_exdark(exdark, names=EXDARK["names"])
    assert cv2.imread(str(out / "images/train/2015_00001.png")).max() == 30


# --- COCO, darkened


@pytest.fixture
def coco(home):
    for split in ("train2017", "val2017"):
        for i in range(2):
            picture(home / f"coco/images/{split}/00000{i}.jpg", value=180)
            label = home / f"coco/labels/{split}/00000{i}.txt"
            label.parent.mkdir(parents=True, exist_ok=True)
            label.write_text("0 0.1 0.1 0.9 0.1 0.5 0.9\n")
        names = "".join(f"./images/{split}/00000{i}.jpg\n" for i in range(2))
        (home / f"coco/{split}.txt").write_text(names)
    (home / "coco/test-dev2017.txt").write_text(
        "./images/test2017/000009.jpg\n"
    )  # comes with the labels, its images not
    return home / "coco"


def test_coco_lowlight_darkens_coco(coco):
    data = check("coco-lowlight.yaml")
    out = coco.parent / "coco-lowlight"
    assert Path(data["val"]) == out / "val2017.txt"
    listed = [out / line for line in (out / "train2017.txt").read_text().split()]
    assert len(listed) == 2 and all(cv2.imread(str(file)).mean() < 150 for file in listed)
    assert (out / "labels/val2017/000001.txt").read_text() == "0 0.1 0.1 0.9 0.1 0.5 0.9\n"
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    check("coco-lowlight.yaml")
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_without_coco_and_without_network_it_says_so(home):
    with pytest.raises(
        ConnectionError, match=r"COCO 2017 \(20 GB\) is not on this machine.*YOLO_OFFLINE.*same command"
    ):
        check("coco-lowlight.yaml")
    assert not (home / "coco-lowlight").exists()


def test_coco_that_was_fetched_in_part_is_not_darkened(coco):
    (coco / "images/train2017/000001.jpg").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"1 of 2 images .*train2017.txt lists are missing .*Delete .*val2017.txt"
    ):
        check("coco-lowlight.yaml")
    assert not (coco.parent / "coco-lowlight").exists()


def test_the_yamls_have_the_classes_of_their_sets():
    stock = yaml.safe_load(
        (Path(data_utils.__file__).parents[1] / "cfg/datasets/coco.yaml").read_text(encoding="utf-8")
    )
    assert COCO["names"] == stock["names"]
    assert set(LIS["names"].values()) < set(stock["names"].values())
    assert len(EXDARK["names"]) == 12 and EXDARK["names"][10] == "People"


# --- scripts/night_statistics.py

SCRIPT = ROOT / "scripts/night_statistics.py"


def statistics(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, check=False)


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_noise_and_grain_of_known_pictures_are_found(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(6):
        ramp = np.linspace(60, 100, 256)[None, :] * np.ones((256, 1))
        white = np.rint(np.clip(ramp + rng.normal(0, 5, (256, 256)), 0, 255)).astype(np.uint8)
        smooth = np.rint(ramp + 5 * cv2.GaussianBlur(rng.normal(0, 1, (256, 256)), (0, 0), 0.6) / 0.495).astype(
            np.uint8
        )
        for kind, image in (("white", white), ("smooth", smooth)):
            (tmp_path / kind).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / kind / f"{i}_real.png"), np.dstack([image] * 3))
            cv2.imwrite(str(tmp_path / kind / f"{i}_mean.png"), np.dstack([np.rint(ramp).astype(np.uint8)] * 3))
    told = statistics(
        "--dark", f"{tmp_path}/white/*_real.png", f"{tmp_path}/smooth/*_real.png", "--pairs", tmp_path / "white"
    )
    assert told.returncode == 0, told.stderr
    white, smooth, pairs = map(cells, told.stdout.splitlines()[2:5])
    assert white[:4] == ["white/*_real.png", "6", "80 / 80 / 80 / 80 / 80", "0 %"] and pairs[0] == "white, real - mean"
    for row, grain, slack in ((white, (0, 0), 0.03), (smooth, (0.44, 0.06), 0.1), (pairs, (0, 0), 0.03)):
        assert float(row[8]) == pytest.approx(5, abs=0.3), row
        assert np.allclose([float(value) for value in row[9].split(",")], grain, atol=slack), row


def test_presets_are_compared_with_real_nights(tmp_path):
    rng = np.random.default_rng(0)
    for name, level in (("day", 150), ("night", 30)):
        (tmp_path / name).mkdir()
        for i in range(3):
            cv2.imwrite(
                str(tmp_path / name / f"{i}.png"), rng.normal(level, 8, (320, 320, 3)).clip(0, 255).astype(np.uint8)
            )
    told = statistics(
        "--bright", tmp_path / "day", "--dark", tmp_path / "night", "--presets", "mild", "extreme", "--jpeg", 90
    )
    assert told.returncode == 0, told.stderr
    lines = told.stdout.splitlines()
    assert len({line.count("|") for line in lines[:6]}) == 1
    assert [cells(line)[0] for line in lines[2:6]] == ["day, bright", "day, mild", "day, extreme", "night"]
    assert lines[7].startswith("| octaves apart") and cells(lines[9])[0] == "night"
    assert str(tmp_path) not in told.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "nothing to measure; give --bright, --dark or --pairs"),
        (["--dark", "nowhere"], "there is no folder nowhere; give folders of images, or patterns in quotes"),
        (["--dark", "."], "holds no readable images"),
        (["--dark", ".", "--presets", "dusk"], "no low-light preset 'dusk'"),
        (["--dark", ".", "--settings", "gama=2"], "no option gama (did you mean 'gamma'?)"),
        (["--dark", ".", "--shrink", "0"], "--shrink is 0; wanted 1 to 64"),
    ],
)
def test_statistics_name_mistakes(tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    told = statistics(*arguments)
    assert told.returncode == 2 and f"night_statistics: {said}" in told.stderr.replace(
        f"{tmp_path.name} holds", "holds"
    )
