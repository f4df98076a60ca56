"""One file for the night and for the day: without its blocks a model is the source it was grafted from, bit for bit."""

import copy
import importlib.util
import io
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import onnx
import pytest
import torch
import yaml
from conftest import shapes_set, tensors
from torch import nn
from ultralytics import YOLO, cfg
from ultralytics.models.yolo.segment import SegmentationPredictor, SegmentationTrainer, SegmentationValidator
from ultralytics.nn.autobackend import AutoBackend
from ultralytics.utils.torch_utils import ModelEMA

from yolo_wnlb.cli import main
from yolo_wnlb.wnlb import WNLB
from yolo_wnlb.yolo import night
from yolo_wnlb.yolo.parity import check_export, draw_pictures
from yolo_wnlb.yolo.patches.model import benchmark

PREDICT = {"imgsz": 64, "conf": 1e-9, "max_det": 20, "verbose": False, "device": "cpu"}
VAL = {"imgsz": 64, "plots": False, "workers": 0, "verbose": False, "device": "cpu"}
PICTURES = draw_pictures()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("night")


@pytest.fixture(scope="module")
def day(source, folder):
    """The file of a model without blocks, in float16 as Ultralytics saves all checkpoints."""
    YOLO(source("yolov8n-seg")).save(folder / "source.pt")
    return folder / "source.pt"


@pytest.fixture(scope="module")
def adapted(day, folder):
    """The file of the same model with blocks that act."""
    model = YOLO("yolov8n-seg-wnlb.yaml", verbose=False).load(str(day))
    torch.manual_seed(0)
    for block in night.blocks_of(model):
        nn.init.constant_(block.w, 0.3)
    model.save(folder / "adapted.pt")
    return folder / "adapted.pt"


@pytest.fixture(scope="module")
def data(folder):
    """A data set with the classes of the source, whose head then stays as it is."""
    file = shapes_set(folder / "shapes", 4, 3)
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "names": [f"c{i}" for i in range(80)]}))
    return file


@pytest.fixture(scope="module")
def expected(day, adapted):
    """The predictions of the source, and those of the model with blocks, of PICTURES."""
    found = {False: predict(YOLO(day)), True: predict(YOLO(adapted))}
    assert not equal(found[False], found[True])
    return found


@pytest.fixture
def passes(monkeypatch):
    """Whether each block was off, at each pass through one."""
    found, stock = [], WNLB.forward
    monkeypatch.setattr(WNLB, "forward", lambda block, x: found.append(block.off) or stock(block, x))
    return found


@pytest.fixture
def lap(monkeypatch):
    """The package that the trackers of Ultralytics import, which a first frame does not need."""
    if not importlib.util.find_spec("lap"):
        monkeypatch.setitem(sys.modules, "lap", SimpleNamespace(__version__="0.5.12"))


def boxes(results):
    return [result.boxes.data.clone() for result in results]


def predict(model, **options):
    return boxes(model.predict(PICTURES, **PREDICT, **options))


def equal(a, b):
    return len(a) == len(b) and all(x.shape == y.shape and torch.equal(x, y) for x, y in zip(a, b))


# ---- the switch ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["yolov8n-seg", "yolo26n", "yolo11n-seg"])
@torch.inference_mode()
def test_without_its_blocks_a_model_is_its_source_bit_for_bit(name, source):
    stock = YOLO(source(name)).model.eval()
    model = YOLO(f"{name}-wnlb.yaml", verbose=False).load(str(source(name))).model.eval()
    for block in night.blocks_of(model):
        block.w.fill_(0.3)
    for x in (torch.rand(1, 3, 64, 96), torch.rand(2, 3, 96, 32)):
        for fused in (False, True):
            wanted = tensors(copy.deepcopy(stock).fuse(verbose=False)(x) if fused else stock(x))
            same = copy.deepcopy(model).fuse(verbose=False) if fused else model
            acting = tensors(same(x))
            same.night = False
            assert equal(tensors(same(x)), wanted) and same.night is False
            same.night = True
            assert equal(tensors(same(x)), acting) and not equal(acting, wanted)


def test_a_block_that_is_off_is_left_out_in_training_too():
    block = WNLB(4, w_init=0.5)
    block.off = True
    x = torch.rand(1, 4, 5, 5)
    assert block.train()(x) is x and block.eval()(x) is x
    block.fold()
    assert block(x) is x


def backend(yolo):
    return AutoBackend(yolo.model, device=torch.device("cpu"), verbose=False)


def model_of(yolo):
    return yolo.model


@pytest.mark.parametrize("hold", [YOLO, model_of, backend])
def test_the_switch_is_readable_and_writable_on_whatever_holds_the_model(hold, adapted):
    owner = hold(YOLO(adapted))
    assert owner.night is True and len(night.blocks_of(owner)) == 3
    owner.night = False
    assert owner.night is False and all(block.off for block in night.blocks_of(owner))
    owner.night = True
    assert owner.night is True and not any(block.off for block in night.blocks_of(owner))


@pytest.mark.parametrize("name", ["module", "_orig_mod"])
def test_wrappers_of_distributed_training_and_of_torch_compile_hold_the_model(name, adapted):
    """DistributedDataParallel keeps the model as `module`; torch.compile as `_orig_mod`, with its attributes."""

    class Wrapper(nn.Module):
        def __init__(self, model):
            super().__init__()
            setattr(self, name, model)

    wrapped = Wrapper(YOLO(adapted).model)
    getattr(wrapped, name).night = False
    assert night.is_night(wrapped) is False
    night.set_night(Wrapper(wrapped), True)
    assert getattr(wrapped, name).night is True


def test_a_model_without_blocks_has_no_night_mode(day, folder):
    model = YOLO(day)
    assert model.night is None and model.model.night is None
    for owner in (model, model.model):
        with pytest.raises(ValueError, match="this model has none, so it has one mode only"):
            owner.night = False


def test_some_blocks_off_is_still_night(adapted):
    model = YOLO(adapted).model
    night.blocks_of(model)[0].off = True
    assert model.night is True


@pytest.mark.parametrize("switch", [False, True])
def test_copies_pickles_and_files_keep_the_switch(switch, adapted, folder):
    yolo = YOLO(adapted)
    yolo.model.night = switch
    assert copy.deepcopy(yolo.model).night is switch
    buffer = io.BytesIO()
    torch.save(yolo.model, buffer)
    buffer.seek(0)
    assert torch.load(buffer, weights_only=False).night is switch
    yolo.save(folder / "switched.pt")
    again = YOLO(folder / "switched.pt")
    assert again.model.night is switch
    again.model.night = True
    assert again.model.night is True


def test_a_checkpoint_of_an_earlier_revision_is_at_night(adapted):
    assert all("off" not in vars(block) for block in night.blocks_of(YOLO(adapted))), "a file made without a switch"
    assert YOLO(adapted).model.night is True


# ---- predict and track ---------------------------------------------------------------------------


def test_the_argument_holds_for_one_call(adapted, expected):
    model = YOLO(adapted)
    for asked, wanted in ((False, False), (None, True), (True, True), (False, False), (None, True)):
        options = {} if asked is None else {"night": asked}
        assert equal(predict(model, **options), expected[wanted]), (asked, wanted)
        assert model.model.night is True


def test_predictions_follow_the_switch_of_the_model_and_an_argument_wins(adapted, expected):
    model = YOLO(adapted)
    model.model.night = False
    assert equal(predict(model), expected[False])
    model.model.night = True
    assert equal(predict(model), expected[True])
    model.night = False
    assert equal(predict(model), expected[False])
    assert equal(predict(model, night=True), expected[True])
    assert equal(predict(model), expected[False]) and model.model.night is False
    model.model.fuse(verbose=False)
    model.model.night = True
    assert equal(predict(model), expected[True])


def test_the_model_inside_a_predictor_can_be_switched_too(adapted, expected):
    model = YOLO(adapted)
    predict(model)
    for inside in (model.predictor.model, model.predictor.model.model):
        inside.night = False
        assert equal(predict(model), expected[False])
        assert equal(predict(model), expected[False])
        inside.night = True
        assert equal(predict(model), expected[True])


def test_a_switch_takes_effect_in_the_middle_of_a_stream(adapted, expected):
    model = YOLO(adapted)
    found = []
    for result in model.predict(PICTURES, stream=True, **PREDICT):
        found += boxes([result])
        model.model.night = not model.model.night
    one, two = expected[True], expected[False]
    if len(found) == 3 and equal(found[1:2], two[1:2]):  # one picture a batch
        two = [one[0], two[1], one[2]]
        assert equal(found, two)
    else:
        assert equal(found, one)


def test_a_stream_keeps_what_its_own_call_asked_for(adapted, expected):
    model = YOLO(adapted)
    predict(model)
    streams = [model.predict(PICTURES, stream=True, night=asked, **PREDICT) for asked in (False, True)]
    assert [equal(boxes(stream), expected[asked]) for stream, asked in zip(streams, (False, True))] == [True, True]


def test_a_predictor_on_its_own_takes_the_argument(adapted, expected):
    options = {**PREDICT, "model": str(adapted), "batch": 1}
    predictor = SegmentationPredictor(overrides={**options, "night": False, "save": False})
    assert equal(boxes(predictor(PICTURES)), expected[False])
    assert equal(boxes(predictor(PICTURES)), expected[True]), "the argument was for one call"


def test_track_takes_the_argument(adapted, day, lap):
    options = {**PREDICT, "conf": 0.001, "persist": True}
    wanted = YOLO(day).track(PICTURES[0], **options)
    assert equal(boxes(YOLO(adapted).track(PICTURES[0], night=False, **options)), boxes(wanted))


# ---- val -----------------------------------------------------------------------------------------


def test_a_validation_takes_the_argument_and_leaves_the_switch_alone(adapted, data, folder, passes):
    model = YOLO(adapted)
    for switch, asked in ((True, False), (False, None), (False, True)):
        model.model.night = switch
        passes.clear()
        model.val(data=str(data), project=str(folder), **VAL, **({} if asked is None else {"night": asked}))
        assert {*passes} == {not (switch if asked is None else asked)}, (switch, asked)
        assert model.model.night is switch
    model.model.night = True
    with pytest.raises(FileNotFoundError):
        model.val(data="none.yaml", night=False, project=str(folder), **VAL)
    assert model.model.night is True


def test_evaluate_takes_the_argument_and_without_the_blocks_it_is_the_source(adapted, day, data, folder, capsys):
    found = {}
    for name, words in {"on": [adapted], "off": [adapted, "night=False"], "source": [day]}.items():
        out = folder / f"evaluate-{name}"
        words = [*map(str, words), f"data={data}", f"out={out}", "imgsz=64", "conf=1e-9", "device=cpu"]
        assert main(["evaluate", *words]) == 0
        _, *found[name] = (out / "predictions.jsonl").read_text().splitlines()
    assert found["off"] == found["source"] != found["on"]
    assert "night=False: without the blocks of the model" in capsys.readouterr().out


@pytest.mark.parametrize(("which", "message"), [("day", "this model has none"), ("onnx", "an exported model has one")])
def test_evaluate_names_a_model_without_a_switch(which, message, day, exports, data, folder, capsys):
    file = day if which == "day" else next(iter(exports.values()))
    assert main(["evaluate", str(file), f"data={data}", "night=False", f"out={folder / which}"]) == 2
    assert message in capsys.readouterr().err


def test_a_validator_on_its_own_loads_the_file_and_switches_it(adapted, data, folder, passes):
    args = {**VAL, "model": str(adapted), "data": str(data), "task": "segment", "mode": "val", "night": False}
    args["project"] = str(folder)
    SegmentationValidator(args=args)()
    assert {*passes} == {True}


# ---- export --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exports(adapted, day, folder):
    """ONNX files of the source, and of the adapted model at night and by day."""
    files = {}
    for name, file, more in (("source", day, {}), ("night", adapted, {}), ("day", adapted, {"night": False})):
        model = YOLO(file)
        options = {"format": "onnx", "imgsz": 64, "simplify": False, "opset": 17, "verbose": False}
        files[name] = Path(model.export(**options, **more))
        assert model.model.night is (None if name == "source" else True)
    return files


def test_an_export_for_the_day_has_a_name_of_its_own(exports):
    assert [file.name for file in exports.values()] == ["source.onnx", "adapted.onnx", "adapted-day.onnx"]


def test_an_export_for_the_day_is_the_export_of_the_source(exports):
    graphs = {name: onnx.load(file).graph for name, file in exports.items()}
    count = {name: (len(graph.node), len(graph.initializer)) for name, graph in graphs.items()}
    assert count["day"] == count["source"] != count["night"]
    shapes = {name: sorted(tuple(t.dims) for t in graph.initializer) for name, graph in graphs.items()}
    assert shapes["day"] == shapes["source"]
    found = {}
    for name, file in exports.items():
        model = YOLO(file, task="segment")
        found[name] = [box for picture in PICTURES for box in boxes(model.predict(picture, **PREDICT))]
    assert equal(found["day"], found["source"]) and not equal(found["day"], found["night"])


def test_the_metadata_of_an_export_say_which_it_is(exports):
    found = {name: {p.key: p.value for p in onnx.load(file).metadata_props} for name, file in exports.items()}
    assert {name: entries.get("night") for name, entries in found.items()} == {
        "source": None,
        "night": "True",
        "day": "False",
    }


@pytest.mark.parametrize("switch", [False, True])
@pytest.mark.parametrize("asked", [None, False, True])
def test_what_is_exported_follows_the_argument_and_else_the_switch(switch, asked, adapted):
    model = YOLO(adapted).model
    model.night = switch
    given = night.to_export(model, asked)
    wanted = switch if asked is None else asked
    assert bool(night.blocks_of(given)) is wanted and given.night is (True if wanted else None)
    assert Path(given.pt_path).name == ("adapted.pt" if wanted else "adapted-day.pt")
    assert model.night is switch and len(night.blocks_of(model)) == 3 and model.pt_path == str(adapted)
    assert given.eval()(torch.zeros(1, 3, 32, 32))[0] is not None


def test_a_model_made_of_a_yaml_can_be_exported_for_the_day():
    given = night.to_export(YOLO("yolov8n-wnlb.yaml", verbose=False).model, False)
    assert Path(given.pt_path).name == "yolov8n-wnlb-day.yaml" and not night.blocks_of(given)


def test_torchscript_holds_nothing_of_the_blocks_either(adapted, folder, day):
    files = [YOLO(f).export(format="torchscript", imgsz=64, **m) for f, m in ((day, {}), (adapted, {"night": False}))]
    count = [sum(p.numel() for p in torch.jit.load(file).parameters()) for file in files]
    assert count[0] == count[1]
    assert night.exported_at_night(AutoBackend(files[1], verbose=False, device=torch.device("cpu")).metadata) is False


def differences(checkpoint, exported, picture):
    parity = check_export(checkpoint, exported, images=picture)
    failures = [text for text in parity.failures if "differ" in text]  # random scores are too low to compare all
    return failures, str(parity)


def test_an_export_is_checked_against_the_mode_that_it_was_exported_in(exports, adapted, day, folder):
    cv2.imwrite(str(folder / "picture.png"), PICTURES[0])
    for file, switch in (("night", True), ("day", True), ("night", False)):
        YOLO(adapted).save(folder / "any.pt")
        model = YOLO(folder / "any.pt")
        model.model.night = switch
        model.save(folder / "any.pt")
        failures, text = differences(folder / "any.pt", exports[file], folder / "picture.png")
        assert not failures and ("blocks of the checkpoint are left out" in text) is (file == "day"), text
    assert not differences(day, exports["day"], folder / "picture.png")[0], "the source is the day model"
    with pytest.raises(ValueError, match=r"adapted\.onnx has wNLB blocks and .*source\.pt has none"):
        check_export(day, exports["night"])


@pytest.mark.parametrize(
    ("metadata", "wanted"),
    [({}, None), ({"night": "False"}, False), ({"night": False}, False), ({"night": "True"}, True)],
)
def test_metadata_are_read_as_texts_too(metadata, wanted):
    assert night.exported_at_night(metadata) is wanted


# ---- benchmark -----------------------------------------------------------------------------------


def test_a_benchmark_switches_the_model_while_it_runs(adapted):
    def stock(model, data=None, **options):
        return model.night, options

    model = YOLO(adapted)
    assert benchmark(stock, model, night=False, format="onnx") == (False, {"format": "onnx"})
    assert model.night is True
    assert benchmark(stock, str(adapted), night=False) == (False, {})
    assert benchmark(stock, model) == (True, {})


# ---- training of the blocks alone ----------------------------------------------------------------


def test_a_training_of_the_blocks_alone_leaves_every_other_tensor_as_it_was(adapted, day, data, folder):
    model, stock = YOLO(adapted), YOLO(day)
    frozen = [i for i, layer in enumerate(model.model.model) if not isinstance(layer, WNLB)]
    options = {"imgsz": 64, "batch": 3, "nbs": 3, "epochs": 1, "workers": 0, "plots": False, "val": False}
    options |= {"optimizer": "SGD", "lr0": 1.0, "warmup_epochs": 0, "project": str(folder), "device": "cpu"}
    model.train(data=str(data), freeze=frozen, **options)  # two steps; 8.4.0 fails at batches of two pictures
    trained = YOLO(Path(model.trainer.save_dir) / "weights" / "last.pt")
    before, after = night.blocks_of(YOLO(adapted)), night.blocks_of(trained)
    assert not any(equal([*a.parameters()], [*b.parameters()]) for a, b in zip(before, after)), "they have been trained"
    theirs = [tensor for layer in stock.model.model for tensor in layer.state_dict().values()]
    ours = [tensor for i in frozen for tensor in trained.model.model[i].state_dict().values()]
    assert equal(ours, theirs) and len(ours) == len(stock.model.state_dict()), "statistics of the norms included"
    assert trained.model.night is True and not equal(predict(trained), predict(stock))
    assert equal(predict(trained, night=False), predict(stock))


def test_a_source_in_float32_is_rounded_like_every_checkpoint(source, folder):
    """Ultralytics saves float16. Of a source in float32, which it never writes, the day model is the rounded one."""
    stock, model = YOLO(source("yolov8n")), YOLO("yolov8n-wnlb.yaml", verbose=False).load(str(source("yolov8n")))
    model.save(folder / "rounded.pt")
    saved = YOLO(folder / "rounded.pt")
    assert not equal(predict(saved, night=False), predict(stock))
    stock = YOLO(source("yolov8n"))
    stock.model.half().float()
    assert equal(predict(saved, night=False), predict(stock))


def test_the_moving_average_of_a_frozen_weight_comes_back_to_its_float16():
    model = nn.Linear(60, 60)
    model.weight.data = (torch.randn(60, 60) * torch.logspace(-4, 1, 60)).half().float()
    average = ModelEMA(model, updates=20_000)  # where its decay is largest, and rounding adds up most
    for _ in range(10_000):
        average.update(model)
    assert torch.equal(average.ema.weight.half(), model.weight.half())


def test_a_training_starts_with_its_blocks_on(adapted, folder):
    model = YOLO(adapted)
    model.model.night = False
    trainer = object.__new__(SegmentationTrainer)
    trainer.data, trainer.args = {"nc": 80, "channels": 3}, cfg.get_cfg()
    assert trainer.get_model(cfg=model.model.yaml, weights=model.model, verbose=False).night is True


# ---- mistakes ------------------------------------------------------------------------------------


def mistake(name, adapted, day, exports, data):
    """Make one mistake."""
    if name == "setting text":
        YOLO(adapted).model.night = "off"
    elif name == "setting a number":
        YOLO(adapted).model.night = 0
    elif name == "setting a NumPy value":
        YOLO(adapted).model.night = np.True_
    elif name == "setting it of no blocks":
        YOLO(day).model.night = False
    elif name == "setting it of an export":
        YOLO(exports["day"], task="segment").night = False
    elif name == "argument text":
        predict(YOLO(adapted), night="off")
    elif name == "argument number":
        YOLO(adapted).export(format="onnx", night=1)
    elif name == "predict without blocks":
        predict(YOLO(day), night=False)
    elif name == "stream without blocks":
        YOLO(day).predict(PICTURES, stream=True, night=False, **PREDICT)
    elif name == "second predict without blocks":
        model = YOLO(day)
        predict(model)
        predict(model, night=True)
    elif name == "track without blocks":
        YOLO(day).track(PICTURES[0], night=False, **PREDICT)
    elif name == "val without blocks":
        YOLO(day).val(data=str(data), night=False, project=str(data.parent))
    elif name == "export without blocks":
        YOLO(day).export(format="onnx", night=False)
    elif name == "benchmark without blocks":
        YOLO(day).benchmark(data=str(data), format="onnx", night=False)
    elif name == "benchmark text":
        YOLO(adapted).benchmark(data=str(data), format="onnx", night="off")
    elif name == "predict of an export":
        predict(YOLO(exports["night"], task="segment"), night=False)
    elif name == "val of an export":
        YOLO(exports["night"], task="segment").val(data=str(data), night=False, project=str(data.parent))
    elif name == "train":
        YOLO(adapted).train(data="there-is-none.yaml", project=str(data.parent), night=False)
    elif name == "train at night":
        YOLO(adapted).train(data="there-is-none.yaml", project=str(data.parent), night=True)
    elif name == "tune":
        YOLO(adapted).tune(data=str(data), night=False, iterations=1)
    elif name == "lone word":
        cfg.entrypoint(f"yolo predict model={adapted} night")
    else:
        cfg.entrypoint(f"yolo predict model={adapted} nigth=False")


MISTAKES = {
    "setting text": "night is 'off'; wanted True",
    "setting a number": "night is 0; wanted True",
    "setting a NumPy value": "wanted True",
    "setting it of no blocks": "has one mode only",
    "setting it of an export": "which was chosen at its export",
    "argument text": "night is 'off'; wanted True",
    "argument number": "night is 1; wanted True",
    "predict without blocks": "has one mode only",
    "stream without blocks": "has one mode only",
    "second predict without blocks": "has one mode only",
    "track without blocks": "has one mode only",
    "val without blocks": "has one mode only",
    "export without blocks": "has one mode only",
    "benchmark without blocks": "has one mode only",
    "benchmark text": "night is 'off'; wanted True",
    "predict of an export": "which was chosen at its export",
    "val of an export": "which was chosen at its export",
    "train": "Leave night= out",
    "train at night": "Leave night= out",
    "tune": "night= has no meaning",
    "lone word": "'night' lacks its value; write night=False",
    "misspelt word": "nigth",
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named(name, adapted, day, exports, data, folder, monkeypatch, lap):
    monkeypatch.chdir(folder)
    with pytest.raises((ValueError, SyntaxError), match=MISTAKES[name]):
        mistake(name, adapted, day, exports, data)


def test_an_argument_that_is_none_is_no_argument(day):
    assert "night" not in vars(cfg.get_cfg(overrides={"night": None, "mode": "predict"}))
    assert predict(YOLO(day), night=None)


def test_the_command_line_reaches_the_switch(adapted, folder, monkeypatch, passes):
    monkeypatch.chdir(folder)
    cv2.imwrite(str(folder / "picture.png"), PICTURES[0])
    cfg.entrypoint(f"yolo predict model={adapted} source=picture.png imgsz=64 night=False project={folder}")
    assert {*passes} == {True}
