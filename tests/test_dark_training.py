"""lowlight= in Ultralytics training and validation: every picture dark, or no run at all."""

import random
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import ultralytics
import yaml
from conftest import bright_set, run_python, stock_loader
from test_train import QUICK, train, yolo
from ultralytics import YOLO
from ultralytics.cfg import get_cfg
from ultralytics.data.build import build_yolo_dataset
from ultralytics.data.dataset import YOLODataset
from ultralytics.data.utils import check_det_dataset
from ultralytics.engine import trainer as engine
from ultralytics.models.yolo.segment import SegmentationTrainer, SegmentationValidator
from ultralytics.utils.dist import generate_ddp_file

from yolo_wnlb.data.shapes import NAMES
from yolo_wnlb.imaging.camera import settings
from yolo_wnlb.imaging.capture import capture
from yolo_wnlb.imaging.chance import picture_rng
from yolo_wnlb.imaging.curve import Curve, as_settings
from yolo_wnlb.yolo import darkness as dark_training
from yolo_wnlb.yolo import denoise
from yolo_wnlb.yolo.darkness import DarkLoader, check_request, holds_lowlight
from yolo_wnlb.yolo.patches.training import check_resume

ROOT = Path(__file__).resolve().parents[1]
STORED = pytest.mark.skipif(
    tuple(map(int, ultralytics.__version__.split(".")[:3])) < (8, 4, 130),
    reason="Ultralytics stores augmentations= in arguments and DDP files since 8.4.130",
)


def dataset(file, mode="val", **options):
    cfg = get_cfg(overrides={"task": "segment", "imgsz": 64, "mode": "train", **options})
    data = check_det_dataset(str(file))
    return build_yolo_dataset(cfg, data[mode], 4, data, mode=mode, rect=False)


def plain(file, split, i, channels=cv2.IMREAD_COLOR):
    return cv2.imread(str(file.parent / f"images/{split}/{i}.png"), channels)


# ---- the data set --------------------------------------------------------------------------------


def test_validation_pictures_are_those_that_the_builder_writes_every_time(bright):
    built = dataset(bright, lowlight="severe")
    for i, file in enumerate(built.im_files):
        key = Path(file).relative_to(bright.parent).as_posix()
        wanted = capture(cv2.imread(file), settings("severe").draw(picture_rng(0, key)))
        assert np.array_equal(built.get_image_and_label(i)["img"], wanted)
        assert np.array_equal(built.get_image_and_label(i)["img"], wanted)


def test_the_seed_and_all_settings_can_be_given(bright):
    built = dataset(bright, lowlight={"preset": "mild", "ev": -3, "seed": 5})
    wanted = capture(plain(bright, "val", 0), settings("mild", ev=-3).draw(picture_rng(5, "images/val/0.png")))
    assert np.array_equal(built.get_image_and_label(0)["img"], wanted)


@pytest.mark.parametrize("cache", [False, "ram", "disk"])
def test_training_pictures_are_dark_anew_each_time_and_caches_keep_the_bright_ones(cache, tmp_path):
    file = bright_set(tmp_path)
    built = dataset(file, "train", lowlight="severe", cache=cache)
    first, second = (built.get_image_and_label(0)["img"] for _ in range(2))
    assert not np.array_equal(first, second)
    assert max(first.mean(), second.mean()) < 0.6 * plain(file, "train", 0).mean()
    if cache == "ram":
        assert np.array_equal(built.ims[0], plain(file, "train", 0))
    if cache == "disk":
        assert np.array_equal(np.load(built.npy_files[0]), plain(file, "train", 0))


def test_the_same_seed_gives_the_same_training_pictures(bright):
    built = dataset(bright, "train", lowlight="severe")
    runs = []
    for _ in range(2):
        random.seed(3)
        runs.append([built.get_image_and_label(i)["img"] for i in range(4)])
    assert all(np.array_equal(a, b) for a, b in zip(*runs))


def test_the_pictures_of_a_mosaic_have_each_its_darkness_and_grey_padding(bright):
    built = dataset(bright, "train", lowlight="extreme", hsv_v=0.0, hsv_s=0.0, hsv_h=0.0, mosaic=1.0, close_mosaic=0)
    pictures = [built[i]["img"].numpy() for i in range(8)]
    for picture in pictures:
        flat = picture.reshape(3, -1)
        padding = (flat == 114).all(0)
        assert flat[:, ~padding].mean() < 60
    assert any(((p.reshape(3, -1) == 114).all(0)).mean() > 0.05 for p in pictures)


def test_grey_data_sets_stay_grey(tmp_path):
    built = dataset(bright_set(tmp_path, channels=1), lowlight="severe")
    image = built.get_image_and_label(0)["img"]
    assert image.shape == (64, 64, 1)
    shot = settings("severe").draw(picture_rng(0, "images/val/0.png"))
    assert np.array_equal(image[..., 0], capture(plain(tmp_path / "data.yaml", "val", 0, cv2.IMREAD_GRAYSCALE), shot))


@pytest.mark.parametrize("channels", [2, 4, 6])
def test_pictures_of_a_camera_that_we_do_not_know_are_refused(channels, tmp_path):
    with pytest.raises(ValueError, match=f"a grey or a colour camera, and this data set has {channels} channels"):
        dataset(bright_set(tmp_path, channels=channels), "train", lowlight="severe")


@pytest.mark.parametrize(("channels", "remedy"), [(1, "give lowlight=PRESET instead"), (4, "cannot be darkened")])
def test_a_transform_that_ultralytics_would_skip_is_refused(channels, remedy, tmp_path):
    with pytest.raises(ValueError, match=rf"LowLight in augmentations= .* {channels} channels.*{remedy}"):
        dataset(bright_set(tmp_path, channels=channels), "train", augmentations=[low_light_transform()])


@pytest.mark.parametrize("own", [False, True], ids=["the loader of Ultralytics", "a loader of one's own"])
def test_every_worker_and_every_epoch_darkens_anew(own, tmp_path):
    """Two workers, three epochs, eight times the same bright picture: no dark one twice."""
    file = bright_set(tmp_path)
    for i in range(1, 8):
        shutil.copy(tmp_path / "images/train/0.png", tmp_path / f"images/train/{i}.png")
    still = {"mosaic": 0.0, "hsv_h": 0.0, "hsv_s": 0.0, "hsv_v": 0.0, "fliplr": 0.0, "translate": 0.0, "scale": 0.0}
    built = dataset(file, "train", lowlight="severe", **still)
    if own:
        opened = nullcontext(torch.utils.data.DataLoader(built, 2, num_workers=2, collate_fn=built.collate_fn))
    else:
        opened = stock_loader(built, 2, 2, shuffle=False)
    with opened as loader:
        pictures = [picture.numpy().tobytes() for _ in range(3) for batch in loader for picture in batch["img"]]
    assert len(pictures) == 24 and len({*pictures}) == 24


def test_without_the_argument_nothing_changes(bright):
    built = dataset(bright)
    assert "load_image" not in vars(built)
    assert np.array_equal(built.get_image_and_label(0)["img"], plain(bright, "val", 0))
    assert not hasattr(get_cfg(overrides={"lowlight": None}), "lowlight"), "stock Ultralytics resumes such checkpoints"


SPAWN = """
if __name__ == "__main__":  # workers get sys.path as it is when they start
    import sys
    sys.path[:0] = {path!r}
    import numpy as np, torch, yolo_wnlb
    from test_dark_training import dataset, Path
    built = dataset(Path({file!r}), "val", lowlight="severe")
    loader = torch.utils.data.DataLoader(built, 2, num_workers=1, multiprocessing_context="spawn",
                                         collate_fn=built.collate_fn)
    here = np.stack([built[i]["img"].numpy() for i in range(2)])
    if {sabotage}:
        sys.path[:] = [p for p in sys.path if p != {root!r}]
    there = next(iter(loader))["img"].numpy()
    print("the same" if np.array_equal(here, there) else "another", here.mean())
"""


def spawn(bright, tmp_path, sabotage):
    """Load a batch in a spawned worker, in an interpreter that runs no .pth file."""
    path = [str(ROOT), str(ROOT / "tests"), *(p for p in sys.path if "site-packages" in p)]
    script = tmp_path / "spawn.py"
    script.write_text(SPAWN.format(path=path, file=str(bright), root=str(ROOT), sabotage=sabotage))
    command = [sys.executable, "-S", str(script)]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)


def test_a_spawned_loader_worker_sees_the_same_dark_pictures(bright, tmp_path):
    run = spawn(bright, tmp_path, sabotage=False)
    assert "the same" in run.stdout, run.stdout + run.stderr


def test_a_loader_worker_without_this_package_stops_the_run(bright, tmp_path):
    run = spawn(bright, tmp_path, sabotage=True)
    assert run.returncode != 0 and "No module named 'yolo_wnlb" in run.stderr, run.stdout + run.stderr


# ---- the run -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(bright, tmp_path_factory):
    """The stock command with lowlight=severe, stopped after one of two epochs, and resumed; returns folder and logs."""
    folder = tmp_path_factory.mktemp("unrelated")
    options = {**QUICK, "plots": True, "hsv_v": 0.0, "mosaic": 0.0, "epochs": 2, "fraction": 1.0, "warmup_epochs": 0.0}
    stop = f"""
import sys
sys.argv = ["yolo", "segment", "train", "model=yolov8n-seg.yaml", "lowlight=severe", "data={bright}",
            "project={folder}", "name=cut", *{[f"{k}={v}" for k, v in options.items()]!r}]
from ultralytics.cfg import entrypoint
from ultralytics.engine.trainer import BaseTrainer
save = BaseTrainer.save_model
def stop(self):
    save(self)
    raise KeyboardInterrupt
BaseTrainer.save_model = stop
entrypoint()
"""
    first = run_python(stop, folder)
    assert "KeyboardInterrupt" in first.stderr, first.stdout + first.stderr
    before = {file.name for file in (folder / "cut").glob("*batch*.jpg")}
    second = yolo("segment", "train", "resume", f"model={folder / 'cut/weights/last.pt'}", cwd=folder)
    return folder / "cut", first.stdout + first.stderr, second, before


def share_of_dark(file):
    """Share of a plotted batch below code 40: white and grey borders and coloured labels are above."""
    return (cv2.imread(str(file)).max(2) < 60).mean()


def share_of_dark_in_validation(folder):
    """The darker of both plots of a batch: 8.4.0 draws them in two threads that scale one array, and garble one."""
    return max(share_of_dark(folder / f"val_batch0_{kind}.jpg") for kind in ("labels", "pred"))


def test_the_stock_command_trains_and_validates_in_the_dark_and_says_so(run):
    folder, first, _, before = run
    assert "train: " in first and "low light (severe): 8 pictures darkened anew each time: " in first
    assert "low light (severe): 4 pictures darkened always the same way (seed 0): " in first
    assert "gamma 3-4" in first and "lowlight=severe" in first
    assert before >= {"train_batch0.jpg", "train_batch1.jpg"}
    assert share_of_dark(folder / "train_batch0.jpg") > 0.2


def test_a_resumed_run_is_still_dark(run):
    folder, _, second, before = run
    assert "low light (severe): 8 pictures darkened anew" in second and "low light (severe): 4 pictures" in second
    late = "train_batch2.jpg"
    assert late not in before and share_of_dark(folder / late) > 0.2
    assert share_of_dark_in_validation(folder) > 0.1


def test_a_bright_run_has_none_of_this_in_its_pictures_or_checkpoint(bright, tmp_path, log):
    trainer = train(bright, tmp_path, "yolov8n-seg.yaml", plots=True, hsv_v=0.0, mosaic=0.0)
    assert share_of_dark(trainer.save_dir / "train_batch0.jpg") < 0.1
    assert share_of_dark(trainer.save_dir / "val_batch0_labels.jpg") < 0.1
    assert not any("low light" in line for line in log)
    checkpoint = torch.load(trainer.last, weights_only=False)
    assert "lowlight" not in checkpoint["train_args"]


def test_validation_alone_is_dark_too(run, bright, tmp_path, log):
    folder = run[0]
    args = {
        "model": str(folder / "weights/best.pt"),
        "data": str(bright),
        "lowlight": "severe",
        "project": str(tmp_path),
    }
    validator = SegmentationValidator(args={**args, **QUICK, "plots": False, "batch": 4})
    validator()
    assert isinstance(validator.dataloader.dataset.load_image, DarkLoader)
    assert any("low light (severe): 4 pictures darkened always the same way" in line for line in log)


def ddp_file(bright, folder, **options):
    """What Ultralytics starts each DDP worker with, for a stock model."""
    overrides = {"model": "yolov8n-seg.yaml", "data": str(bright), "project": str(folder), "epochs": 1, **options}
    trainer = SegmentationTrainer(overrides={**QUICK, **overrides})
    file = Path(generate_ddp_file(trainer))
    code = file.read_text()
    file.unlink()
    return code


def low_light_transform(**arguments):
    from yolo_wnlb.transforms import LowLight

    return LowLight(**{"preset": "severe", "p": 1, "channel_order": "bgr", **arguments})


@pytest.mark.parametrize("way", ["source pictures", pytest.param("augmentations", marks=STORED)])
def test_a_ddp_worker_that_does_not_know_lowlight_stops_instead_of_training_bright(way, bright, tmp_path):
    options = {"lowlight": "severe"} if way == "source pictures" else {"augmentations": [low_light_transform()]}
    code = ddp_file(bright, tmp_path, **options)
    good = run_python(code, tmp_path)
    assert "low light" in good.stdout + good.stderr and good.returncode == 0, good.stdout + good.stderr
    bad = run_python(code, tmp_path, YOLO_WNLB_DISABLE="1")
    assert bad.returncode != 0 and "is not a valid YOLO argument" in bad.stderr, bad.stdout + bad.stderr
    assert "Starting training" not in bad.stdout + bad.stderr


def test_a_data_set_that_escaped_the_darkness_stops_the_run(bright, tmp_path, monkeypatch):
    monkeypatch.setattr(dark_training, "attach", lambda dataset, hyp: None)
    with pytest.raises(RuntimeError, match="lowlight=severe was asked for, but YOLODataset would give bright"):
        train(bright, tmp_path, "yolov8n-seg.yaml", lowlight="severe")


def test_a_validation_that_escaped_the_darkness_stops(run, bright, tmp_path, monkeypatch):
    monkeypatch.setattr(dark_training, "attach", lambda dataset, hyp: None)
    args = {
        "model": str(run[0] / "weights/best.pt"),
        "data": str(bright),
        "lowlight": "severe",
        "project": str(tmp_path),
    }
    with pytest.raises(RuntimeError, match="YOLODataset would give bright"):
        SegmentationValidator(args={**args, **QUICK, "batch": 4})()


def test_a_model_trained_in_the_dark_is_not_validated_in_the_light_without_a_word(run, bright, tmp_path, log):
    model = YOLO(run[0] / "weights/best.pt")
    model.val(data=str(bright), project=str(tmp_path), **QUICK)
    (told,) = [line for line in log if "trained with lowlight=severe" in line]
    assert "give lowlight=severe" in told
    log.clear()
    model.val(data=str(bright), project=str(tmp_path), lowlight="severe", **QUICK)
    assert not any("trained with" in line for line in log)


def test_a_distilled_model_remembers_its_darkness_and_only_its_own_blocks_are_counted(bright, source, tmp_path, log):
    """A run of its own: the wrapper of student and teacher stands where other runs have the model."""
    pytest.importorskip("ultralytics.nn.distill_model", reason="this release distils nothing")
    teacher = str(source("yolov8n-seg-wnlb"))
    train(bright, tmp_path, lowlight="severe", distill_model=teacher, val=False)
    assert any("wNLB: 3 weights w" in line for line in log) and not any("freezes" in line for line in log)
    for name in ("best.pt", "last.pt"):
        assert YOLO(tmp_path / "run/weights" / name).model.lowlight == "severe"


def test_a_data_set_that_reads_pictures_in_its_own_way_is_found_out(bright):
    class Own(YOLODataset):
        def get_image_and_label(self, i):
            return {"img": cv2.imread(self.im_files[i])}

    built = dataset(bright, lowlight="severe")
    built.__class__ = Own
    with pytest.raises(RuntimeError, match="Own would give bright pictures"):
        dark_training.check_dataset(built, "severe")


def test_looking_at_a_picture_leaves_chance_as_it_was_and_looks_into_every_part(bright):
    parts = [dataset(bright, "train", lowlight="severe"), dataset(bright, "val", lowlight="severe")]
    random.seed(1)
    state = random.getstate()
    dark_training.check_dataset(SimpleNamespace(datasets=parts), "severe")
    assert random.getstate() == state and [part.load_image.calls for part in parts] == [1, 1]
    with pytest.raises(RuntimeError, match="bright"):
        dark_training.check_dataset(SimpleNamespace(datasets=[parts[0], dataset(bright)]), "severe")


@pytest.mark.parametrize("began", [None, "mild"])
def test_another_darkness_on_resume_is_refused(began, bright, tmp_path):
    stop = {"on_model_save": lambda trainer: (_ for _ in ()).throw(KeyboardInterrupt)}
    options = {"lowlight": began} if began else {}
    with pytest.raises(KeyboardInterrupt):
        train(bright, tmp_path, "yolov8n-seg.yaml", callbacks=stop, epochs=2, **options)
    with pytest.raises(ValueError, match=f"lowlight=severe cannot be given on resume.*lowlight={began}"):
        YOLO(tmp_path / "run/weights/last.pt").train(resume=True, lowlight="severe")


N2V, FEATURES = denoise.read_request("n2v"), denoise.read_request("features")


@pytest.mark.parametrize(
    ("name", "given", "recorded", "same"),
    [
        ("lowlight", "severe", "severe", True),
        ("lowlight", {"preset": "severe"}, "severe", True),
        ("lowlight", "CAMERA", "CONTENT", True),
        ("lowlight", None, "severe", True),
        ("lowlight", False, None, True),
        ("lowlight", False, "severe", False),
        ("lowlight", "severe", None, False),
        ("lowlight", "severe", dark_training.AUGMENTATIONS, False),
        ("lowlight", {"preset": "severe", "p": 0.5}, "severe", False),
        ("denoise", "n2v", {**N2V, "from": list(N2V["from"])}, True),
        ("denoise", True, {**FEATURES, "teacher": "/weights/a.pt"}, True),
        ("denoise", {"teacher": "/weights/../weights/a.pt"}, {**FEATURES, "teacher": "/weights/a.pt"}, True),
        ("denoise", {"teacher": "b.pt"}, {**FEATURES, "teacher": "/weights/a.pt"}, False),
        ("denoise", {"alpha": 1}, {**FEATURES, "teacher": "/weights/a.pt"}, False),
        ("denoise", "bright", N2V, False),
        ("adversarial", True, "pgd", True),
        ("adversarial", "fgsm", "pgd", False),
        ("balanced", True, True, True),
        ("balanced", False, True, False),
        ("curve", {"white": 4095}, as_settings(Curve(white=4095)), True),
        ("curve", "high-byte", "auto", False),
    ],
)
def test_words_that_are_given_again_on_resume_are_those_of_the_run_or_refused(name, given, recorded, same, tmp_path):
    if given == "CAMERA":
        given = tmp_path / "cam.yaml"
        given.write_text("settings: {gamma: [3, 4], sigma_s: 0.02}\n")
        given = str(given)
        recorded = dark_training.with_content(given)
    passed = []
    trainer = SimpleNamespace(args=SimpleNamespace(**{name: recorded}), resume=True)
    with nullcontext() if same else pytest.raises(ValueError, match=f"{name}=.* cannot be given on resume"):
        check_resume(lambda trainer, overrides: passed.append(overrides), trainer, {name: given, "epochs": 9})
    assert passed == [{"epochs": 9}], "the stock function would warn that it ignores the word"


@pytest.mark.skipif(not hasattr(engine, "MultiTrainer"), reason="this release trains on one data set")
@pytest.mark.parametrize(("word", "value"), [("lowlight", "severe"), ("denoise", "n2v"), ("balanced", True)])
def test_a_list_of_data_sets_is_refused_where_other_processes_would_not_know_the_word(word, value, bright, tmp_path):
    options = {"data": [str(bright), str(bright)], "project": str(tmp_path), **QUICK}
    with pytest.raises(ValueError, match=f"{word}={value} and a list of data sets do not go together"):
        YOLO("yolov8n.yaml").train(**options, **{word: value})
    made = engine.MultiTrainer(None, {**options, word: False}, None)
    assert made.args == options, "a process would not know the word even where it is off"
    made = engine.MultiTrainer(SegmentationTrainer, {**options, word: value}, None)
    assert made.args == {**options, word: value}


@pytest.mark.parametrize(("word", "value"), [("lowlight", "severe"), ("denoise", "n2v"), ("curve", "high-byte")])
def test_a_benchmark_says_at_once_that_it_does_not_know_a_word(word, value, bright):
    with pytest.raises(ValueError, match=f"{word}= .*benchmark"):
        YOLO("yolov8n.yaml").benchmark(data=str(bright), **{word: value})


def test_a_tuner_says_at_once_that_it_cannot_darken(bright):
    with pytest.raises(ValueError, match="tune does not know lowlight="):
        YOLO("yolov8n-seg.yaml").tune(data=str(bright), lowlight="severe", iterations=1, epochs=1, **QUICK)


# ---- LowLight in augmentations= ------------------------------------------------------------------


def test_a_transform_in_augmentations_darkens_training_and_says_what_it_leaves(bright, tmp_path, log):
    trainer = train(bright, tmp_path, "yolov8n-seg.yaml", augmentations=[low_light_transform()], mosaic=0.0, hsv_v=0.0)
    built = trainer.train_loader.dataset
    assert built[0]["img"].numpy().mean() < 0.6 * plain(bright, "train", 0).mean()
    assert trainer.args.lowlight == dark_training.AUGMENTATIONS
    assert any("validation pictures stay as they are" in line for line in log)


@STORED
def test_a_transform_that_did_not_make_it_into_the_pipeline_stops_the_run(bright, tmp_path, monkeypatch):
    import albumentations as A

    def broken(*args, **kwargs):
        raise KeyError("yolo_wnlb.transforms.LowLight")

    monkeypatch.setattr(A, "from_dict", broken)  # stock Ultralytics logs this and goes on
    with pytest.raises(RuntimeError, match="lowlight=augmentations was asked for"):
        train(bright, tmp_path, "yolov8n-seg.yaml", augmentations=[low_light_transform()])


def test_a_transform_is_found_inside_others_built_or_serialised():
    import albumentations as A

    nested = A.OneOf([A.Blur(p=1), A.Sequential([low_light_transform()])])
    assert holds_lowlight(nested) and holds_lowlight(A.to_dict(nested))
    assert not holds_lowlight(A.Blur()) and not holds_lowlight(A.to_dict(A.OneOf([A.Blur()])))


# ---- a data set that was darkened before ---------------------------------------------------------


def test_a_dark_data_set_says_so_and_is_not_darkened_twice(tmp_path, log):
    file = bright_set(tmp_path, lowlight={"preset": "severe", "seed": 4})
    dataset(file)
    assert any("dark already (by yolo-wnlb darken: preset severe, seed 4)" in line for line in log)
    with pytest.raises(ValueError, match=r"lowlight=severe, but .* dark already .*; leave it out"):
        dataset(file, lowlight="severe")


def test_a_dark_twin_is_known_by_its_manifest_under_any_yaml(bright, tmp_path):
    from yolo_wnlb.twins.darken import darken_dataset

    darken_dataset(bright, tmp_path / "dark", preset="severe", workers=1)
    said = {"path": str(tmp_path / "dark"), "train": "images/train", "val": "images/val", "names": list(NAMES)}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(said))
    with pytest.raises(ValueError, match="dark already"):
        dataset(tmp_path / "mine.yaml", lowlight="severe")


@pytest.mark.parametrize("said", [None, {}])
def test_a_manifest_of_another_program_makes_nothing_dark(said, tmp_path):
    (tmp_path / "manifest.jsonl").write_text('{"file": "a.png"}\n')
    assert dark_training.darkened_by({"path": tmp_path, "lowlight": said}) == ""


def test_a_data_yaml_that_asks_for_darkness_is_told_where_to_ask(tmp_path):
    with pytest.raises(ValueError, match="take it out, and give lowlight=severe to yolo train and val"):
        dataset(bright_set(tmp_path, lowlight="severe"))


def test_pictures_outside_the_folder_of_the_data_set_differ_by_more_than_their_name(bright, tmp_path):
    for part in "ab":
        (tmp_path / part / "images").mkdir(parents=True)
        (tmp_path / part / "images/0.png").write_bytes((bright.parent / "images/val/0.png").read_bytes())
    places = [str(tmp_path / part / "images") for part in "ab"]
    home = tmp_path / "home"
    home.mkdir()
    (home / "data.yaml").write_text(yaml.safe_dump({"train": places, "val": places, "names": list(NAMES)}))
    built = dataset(home / "data.yaml", lowlight="severe")
    assert sorted(built.load_image.key(i) for i in range(2)) == ["a/images/0.png", "b/images/0.png"]


# ---- the door ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cfg", "told"),
    [
        ({"lowlight": "sever"}, "'sever' (did you mean 'severe'?)"),
        ({"lowlight": {"preset": "severe", "gama": 2}}, "'gama' (did you mean 'gamma'?)"),
        ({"lowlight": {"gamma": [3, 2]}}, "upside down"),
        ({"lowlight": {"seed": 1.5}}, "wanted an integer"),
        ({"lowlight": 3}, "lowlight is 3; wanted a preset"),
        ({"lowlight": "severe", "task": "classify"}, "yolo-wnlb darken"),
        ({"lowlight": "severe", "mode": "predict"}, "not what is given to predict"),
        ({"lowlight": "severe", "mode": "benchmark"}, "not what is given to benchmark"),
        ({"lowlight": dark_training.AUGMENTATIONS, "mode": "val"}, "validation knows no augmentations="),
        (
            {"lowlight": "severe", "augmentations": [{"transform": {"__class_fullname__": dark_training.LOWLIGHT}}]},
            "twice",
        ),
    ],
)
def test_a_wrong_request_is_refused_before_anything_is_built(cfg, told):
    with pytest.raises(ValueError) as error:
        get_cfg(overrides=cfg)
    assert told in str(error.value)


@pytest.mark.parametrize(("given", "kept"), [("severe", "severe"), (True, True), ({"ev": -2}, {"ev": -2})])
def test_a_sound_request_is_kept_as_it_was_given(given, kept):
    cfg = {"lowlight": given}
    check_request(cfg)
    assert cfg == {"lowlight": kept} and get_cfg(overrides={"lowlight": given}).lowlight == kept


@pytest.mark.parametrize("off", [None, False])
def test_a_request_can_be_taken_back(off):
    assert not hasattr(get_cfg(overrides={"lowlight": off}), "lowlight")


def test_a_mistyped_argument_is_told_its_name():
    with pytest.raises(SyntaxError, match=r"lowligt.*lowlight"):
        get_cfg(overrides={"lowligt": "severe"})
