"""Pretrained weights over an insertion of blocks: all of them, in their places, and said aloud."""

import copy
import functools

import pytest
import torch
from conftest import tensors
from ultralytics.nn.tasks import BaseModel, DetectionModel, SegmentationModel

from yolo_wnlb.wnlb import WNLB
from yolo_wnlb.yolo.grafting import graft, load_yaml
from yolo_wnlb.yolo.weights import has_blocks

PAIRS = [  # source, target, tensors of the source, tensors of the blocks
    ("yolov8n-seg", "yolov8n-seg-wnlb", 417, 33),
    ("yolov8n-seg", "yolov8n-seg-wnlb4", 417, 44),
    ("yolov8n-seg", "yolov8n-seg-nlb", 417, 30),  # without w
    ("yolo11n-seg", "yolo11n-seg-wnlb", 561, 33),
    ("yolo26n-seg", "yolo26n-seg-wnlb", 844, 33),
    ("yolov8n", "yolov8n-wnlb", 355, 33),
]


rebuilds_the_class_branch = pytest.mark.skipif(
    not hasattr(BaseModel, "_remap_cls_by_names"), reason="this release of ultralytics loses the class branch"
)


@functools.cache
def pristine(name, classes):
    kind = SegmentationModel if "-seg" in name else DetectionModel
    return kind(f"{name}.yaml", nc=classes, verbose=False)


def fresh(name, classes=80):
    """A new model of a YAML, with random weights."""
    return copy.deepcopy(pristine(name, classes))


def read(file):
    return torch.load(file, weights_only=False)


def outputs(model):
    x = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return tensors(model.eval()(x))


def assert_equal(found, wanted):
    assert len(found) == len(wanted) > 0
    assert all(a.isfinite().all() and torch.equal(a, b) for a, b in zip(found, wanted))


def without_blocks(model):
    """The state of all layers but the blocks, numbered as if there were none."""
    layers = [layer for layer in model.model if not isinstance(layer, WNLB)]
    return {f"{i}.{name}": t for i, layer in enumerate(layers) for name, t in layer.state_dict().items()}


def blocks_of(model):
    return [layer for layer in model.model if isinstance(layer, WNLB)]


def told(log):
    """What we said, without the lines of Ultralytics."""
    return [line for line in log if "wNLB: " in line]


def warnings_of(log):
    return [line for line in log if line.startswith("WARNING")]


# ---- into a model with blocks ----------------------------------------------------------------------


@pytest.mark.parametrize(("name", "into", "count", "new"), PAIRS)
def test_all_pretrained_tensors_are_kept_and_the_model_computes_what_its_source_did(
    name, into, count, new, source, log
):
    theirs, ours = read(source(name)), fresh(into)
    assert not any(torch.equal(a, b) for a, b in zip(outputs(ours), outputs(theirs["model"])))
    ours.load(theirs)
    assert told(log) == [f"INFO wNLB: {count}/{count} tensors of the pretrained model kept, {new} new in the blocks"]
    assert_equal(outputs(ours), outputs(theirs["model"]))
    kept, given = without_blocks(ours), theirs["model"].model.state_dict()
    assert len(kept) == len(given) == count
    assert all(torch.equal(kept[key], given[key]) for key in given)
    assert ours.names == {i: f"c{i}" for i in range(80)}


def test_the_names_that_users_call_it_by_lead_to_the_same_transfer(source, log):
    from ultralytics import YOLO

    theirs = read(source("yolov8n-seg"))
    yolo = YOLO("yolov8n-seg-wnlb.yaml", verbose=False)
    yolo.load(str(source("yolov8n-seg")))  # a file
    assert any("417/417" in line for line in log)
    by_module = fresh("yolov8n-seg-wnlb")
    by_module.load(theirs["model"])
    by_ema = fresh("yolov8n-seg-wnlb")
    by_ema.load({"model": None, "ema": theirs["model"]})
    for model in (yolo.model, by_module, by_ema):
        assert_equal(outputs(model), outputs(theirs["model"]))
        assert model.names[79] == "c79"


def test_the_source_is_not_changed(source):
    theirs = read(source("yolov8n-seg"))["model"]
    layers, state, names = list(theirs.model), copy.deepcopy(theirs.state_dict()), dict(theirs.names)
    ours = fresh("yolov8n-seg-wnlb")
    ours.load(theirs)
    with torch.no_grad():
        for tensor in ours.state_dict().values():  # nor do the two share memory afterwards
            tensor.zero_()
    ours.names[0] = "changed"
    assert all(a is b for a, b in zip(theirs.model, layers)) and len(theirs.model) == len(layers)
    assert [layer.i for layer in theirs.model] == list(range(len(layers)))
    assert list(state) == list(theirs.state_dict())
    assert all(torch.equal(state[key], tensor) for key, tensor in theirs.state_dict().items())
    assert theirs.names == names


def test_names_that_a_user_gave_stay(source):
    ours = fresh("yolov8n-seg-wnlb")
    ours.names = {i: f"mine{i}" for i in range(80)}
    ours.load(read(source("yolov8n-seg")))
    assert ours.names[0] == "mine0"


def test_a_quiet_load_prints_nothing_and_moves_as_much(source, log):
    theirs, ours = read(source("yolov8n-seg")), fresh("yolov8n-seg-wnlb")
    ours.load(theirs, verbose=False)
    assert log == []
    assert_equal(outputs(ours), outputs(theirs["model"]))


# ---- out of a model with blocks --------------------------------------------------------------------


def test_trained_blocks_move_with_the_rest(source, log):
    theirs, ours = read(source("yolov8n-seg-wnlb")), fresh("yolov8n-seg-wnlb")
    ours.load(theirs)
    assert told(log) == ["INFO wNLB: 450/450 tensors of the pretrained model kept, 0 new in the blocks"]
    assert [block.w.item() for block in blocks_of(ours)] == [0.25] * 3
    assert_equal(outputs(ours), outputs(theirs["model"]))


def test_blocks_find_their_stages_in_a_model_with_one_more(source, log):
    theirs, ours = read(source("yolov8n-seg-wnlb"))["model"], fresh("yolov8n-seg-wnlb4")
    ours.load(theirs)
    assert told(log)[0] == "INFO wNLB: 450/450 tensors of the pretrained model kept, 11 new in the blocks"
    assert [line.split("wNLB: ")[1] for line in warnings_of(log)] == [
        "block 6 was trained as another function (sub_sample 1 -> 4)",
        "block 9 was trained as another function (sub_sample 1 -> 2)",
    ]
    assert [block.w.item() for block in blocks_of(ours)] == [0, 0.25, 0.25, 0.25]
    for a, b in zip(blocks_of(ours)[1:], blocks_of(theirs)):
        assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))
    kept, given = without_blocks(ours), without_blocks(theirs)
    assert all(torch.equal(kept[key], given[key]) for key in given) and len(kept) == len(given)


def test_blocks_without_a_place_are_left_out_with_a_warning(source, log):
    theirs, ours = read(source("yolov8n-seg-wnlb"))["model"], fresh("yolov8n-seg")
    ours.load(theirs)
    assert warnings_of(log) == [
        "WARNING wNLB: no place here for 3 of the source's blocks, left out (w = 0.25, w = 0.25, w = 0.25)"
    ]
    assert told(log)[0].startswith("INFO wNLB: 417/417 tensors")
    assert not has_blocks(ours)
    kept, given = ours.model.state_dict(), without_blocks(theirs)
    assert all(torch.equal(kept[key], given[key]) for key in given) and len(kept) == len(given)
    assert len(blocks_of(theirs)) == 3


def test_only_the_block_without_a_place_is_left_out(source, log):
    theirs, ours = read(source("yolov8n-seg-wnlb4"))["model"], fresh("yolov8n-seg-wnlb")
    ours.load(theirs)
    assert warnings_of(log)[0] == "WARNING wNLB: no place here for 1 of the source's blocks, left out (w = 0.25)"
    for a, b in zip(blocks_of(ours), blocks_of(theirs)[1:]):
        assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))


# ---- into another model ----------------------------------------------------------------------------


@rebuilds_the_class_branch
@pytest.mark.parametrize(("name", "lost"), [("yolov8n-seg", 6), ("yolo26n-seg", 14)])
def test_another_number_of_classes_keeps_all_but_the_class_layers(name, lost, source, log):
    theirs, ours = read(source(name))["model"], fresh(f"{name}-wnlb", classes=3)
    ours.load(theirs)
    kept, given = without_blocks(ours), without_blocks(theirs)
    differ = sorted(key for key in given if kept[key].shape != given[key].shape)
    last = len(theirs.model) - 1
    assert len(differ) == lost
    assert all(key.startswith(f"{last}.") and given[key].shape[0] == 80 for key in differ)
    assert all(torch.equal(kept[key], given[key]) for key in given if key not in differ)
    count = len(given)
    (summary,) = [line for line in log if line.startswith("INFO wNLB")]
    assert f" {count - lost}/{count} tensors of the pretrained model kept, 33 new" in summary
    assert f"{lost} of its head have another shape (Segment" in summary
    assert "80 classes -> " in summary
    assert "3 classes)" in summary
    assert warnings_of(log) == []
    assert ours.names == {0: "0", 1: "1", 2: "2"}


@rebuilds_the_class_branch
def test_classes_of_the_same_name_keep_their_weights_whatever_their_number(source):
    theirs, ours = read(source("yolov8n-seg"))["model"], fresh("yolov8n-seg-wnlb", classes=3)
    ours.names = {0: "C7 ", 1: "new", 2: "c2"}
    ours.load(theirs)
    for found, given in zip(ours.model[-1].cv3, theirs.model[-1].cv3):
        assert torch.equal(found[-1].weight[[0, 2]], given[-1].weight[[7, 2]])
        assert torch.equal(found[-1].bias[[0, 2]], given[-1].bias[[7, 2]])


@pytest.mark.parametrize(
    ("name", "fragments"),
    [
        ("yolov8s-seg", ["another scale", "yolov8s-seg.yaml (scale s)", "model.0.conv.weight, (32, 3, 3, 3) there"]),
        ("yolo11n-seg", ["another architecture", "yolo11n-seg.yaml (scale n)", "of 561 tensors fit"]),
    ],
)
def test_weights_of_another_model_are_a_warning_with_both_names(name, fragments, source, log):
    fresh("yolov8n-seg-wnlb").load(read(source(name)))
    (warning,) = warnings_of(log)
    for fragment in [*fragments, "into yolov8n-seg-wnlb.yaml (scale n)", "checkpoint of the same model and scale"]:
        assert fragment in warning


def test_models_without_blocks_take_the_stock_way(source, log):
    theirs, ours, stock = read(source("yolov8n-seg")), fresh("yolov8n-seg"), fresh("yolov8n-seg")
    ours.load(theirs)
    said = list(log)
    BaseModel.load._stock(stock, theirs)
    assert said == log[len(said) :] == ["INFO Transferred 417/417 items from pretrained weights"]
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), stock.state_dict().values()))


# ---- what is not the same function -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"operation": "dot_product"}, "operation embedded_gaussian -> dot_product"),
        ({"sub_sample": 4}, "sub_sample 1 -> 4"),
        ({"weighted": False}, "weighted True -> False"),
        ({"embed_dim": 8}, "embed_dim 32 -> 8"),
        ({"scale": "cosine"}, "scale 1.0 -> cosine"),
        ({"w_per_channel": True}, "w_per_channel False -> True"),
    ],
    ids=str,
)
def test_a_block_that_was_trained_as_another_function_is_a_warning(options, fragment, source, log):
    definition, _ = graft(load_yaml("yolov8n-seg.yaml"), options=options)
    SegmentationModel({**definition, "scale": "n"}, verbose=False).load(read(source("yolov8n-seg-wnlb")))
    assert len(warnings_of(log)) == 3
    assert fragment in warnings_of(log)[0] and "block 5 was trained as another function" in warnings_of(log)[0]


def test_one_channel_input_takes_all_weights_without_a_warning(source, log):
    theirs = read(source("yolov8n-seg"))["model"]
    SegmentationModel("yolov8n-seg-wnlb.yaml", ch=1, verbose=False).load(theirs)
    assert warnings_of(log) == []
    assert "417/417" in told(log)[0] and "first convolution are summed over its 3 channels" in told(log)[0]


def test_fused_weights_are_named_as_such(source, log):
    fused = copy.deepcopy(read(source("yolov8n-seg"))["model"]).eval().fuse(verbose=False)
    fresh("yolov8n-seg-wnlb").load(fused)
    assert any("a model fused for inference" in line for line in warnings_of(log))


def test_an_identity_row_in_front_of_a_block_keeps_the_transfer(source, log):
    definition, _ = graft(load_yaml("yolov8n-seg.yaml"), ["P3"])
    definition["backbone"].insert(5, [4, 1, "nn.Identity", []])  # renumbers nothing: all later ones move by hand
    for row in [*definition["backbone"][6:], *definition["head"]]:
        row[0] = [i + 1 if i >= 5 else i for i in row[0]] if isinstance(row[0], list) else row[0]
    theirs, ours = read(source("yolov8n-seg")), SegmentationModel({**definition, "scale": "n"}, verbose=False)
    ours.load(theirs)
    assert "417/417" in told(log)[0] and warnings_of(log) == []
    assert_equal(outputs(ours), outputs(theirs["model"]))


def test_a_fixed_w_is_not_overwritten_by_a_checkpoint(source, log):
    definition, _ = graft(load_yaml("yolov8n-seg.yaml"), options={"w_init": 0.5, "w_learnable": False})
    ours = SegmentationModel({**definition, "scale": "n"}, verbose=False)
    ours.load(read(source("yolov8n-seg-wnlb")))
    assert [block.w.item() for block in blocks_of(ours)] == [0.5] * 3
    assert warnings_of(log)[0].endswith("block 5 keeps its fixed w = 0.5; it was 0.25")


def test_a_block_finds_its_place_behind_an_identity_row(source, log):
    definition, _ = graft(load_yaml("yolov8n-seg.yaml"), ["P3"])
    behind = copy.deepcopy(definition)
    behind["backbone"].insert(5, [4, 1, "nn.Identity", []])
    for row in [*behind["backbone"][6:], *behind["head"]]:
        row[0] = [i + 1 if i >= 5 else i for i in row[0]] if isinstance(row[0], list) else row[0]
    one, two = (SegmentationModel({**d, "scale": "n"}, verbose=False) for d in (definition, behind))
    for theirs, ours in ((one, copy.deepcopy(two)), (two, copy.deepcopy(one))):
        blocks_of(theirs)[0].w.data.fill_(0.3)
        ours.load(theirs)
        assert blocks_of(ours)[0].w.item() == pytest.approx(0.3) and warnings_of(log) == []
        assert_equal(outputs(ours), outputs(theirs))


def test_training_says_that_weights_are_random_only_when_they_are(source, log):
    from types import SimpleNamespace

    from yolo_wnlb.yolo.patches.training import setup_model

    for loaded, said in ((False, 1), (True, 1)):
        model = fresh("yolov8n-seg-wnlb")
        model.task = "segment"
        if loaded:
            model.load(read(source("yolov8n-seg")))
        args = SimpleNamespace(model="yolov8n-seg-wnlb.yaml", task="segment", pretrained=True, resume=False)
        setup_model(lambda trainer: None, SimpleNamespace(model=model, args=args, data={"channels": 3}))
        assert sum("all weights start at random" in line for line in log) == said


def test_a_w_for_each_channel_is_carried_reported_and_logged_as_one_w_is(log):
    from types import SimpleNamespace

    from yolo_wnlb.detectors.fit import weights_of_blocks
    from yolo_wnlb.study.models import learned_w

    options = [{"w_per_channel": True}, {"w_per_channel": True, "w_init": 0.5, "w_learnable": False}, {}]
    definition, _ = graft(load_yaml("yolov8n.yaml"), options=options)
    theirs, ours = (DetectionModel({**definition, "scale": "n"}, verbose=False) for _ in range(2))
    for block in blocks_of(theirs):
        torch.nn.init.constant_(block.w, 0.25)
    blocks_of(theirs)[0].w.data[:32] = -0.75
    ours.load(theirs)
    assert [line.partition("block 8 ")[2] for line in warnings_of(log)] == ["keeps its fixed w = 0.5; it was 0.25"]
    own, fixed, one = blocks_of(ours)
    assert own.w.tolist() == [-0.75] * 32 + [0.25] * 32 and set(fixed.w.tolist()) == {0.5} and one.w.item() == 0.25
    assert learned_w(SimpleNamespace(module=ours)) == [-0.25, 0.5, 0.25]
    assert list(weights_of_blocks(ours).values()) == [-0.25, 0.5, 0.25]
    fresh("yolov8n").load(theirs)
    assert warnings_of(log)[-1].endswith("left out (w = -0.75 to 0.25, w = 0.25, w = 0.25)")
