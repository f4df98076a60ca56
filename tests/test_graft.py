"""Rows of blocks in a model YAML: where they go, what is renumbered, what is refused."""

import doctest
import shlex
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import ultralytics
import yaml
from conftest import tensors

from yolo_wnlb.cli import main
from yolo_wnlb.wnlb import OPERATIONS, WNLB
from yolo_wnlb.yolo import grafting
from yolo_wnlb.yolo.grafting import complete, graft, load_yaml, stage_ends, to_yaml

SHIPPED = sorted((Path(__file__).parents[1] / "cfg").glob("*.yaml"))

# Every way to name a layer. Behind each row: the layers that it reads.
SMALL = {
    "nc": 2,
    "backbone": [
        [-1, 1, "Conv", [8, 3, 2]],  # 0
        [-1, 1, "Conv", [16, 3, 2]],  # 1: 0
        [-1, 1, "Conv", [16, 3, 1]],  # 2: 1
        [-2, 1, "Conv", [16, 3, 1]],  # 3: 1
    ],
    "head": [
        [[-1, 2], 1, "Concat", [1]],  # 4: 3, 2
        [1, 1, "Conv", [16, 3, 1]],  # 5: 1
        [[-1, -2, -3], 1, "Concat", [1]],  # 6: 5, 4, 3
        [[1, 4, 6], 1, "Detect", ["nc"]],  # 7: 1, 4, 6
    ],
}


def froms(model):
    """The `from` of every row, with the name of the block in front of it where there is one."""
    return [(row[2], row[0]) if row[2] == "wNLB" else row[0] for row in [*model["backbone"], *model["head"]]]


BLOCK = ("wNLB", -1)


# ---- renumbering -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after", "rows", "backbone", "numbers"),
    [
        ([0], [-1, BLOCK, -1, -1, -2, [-1, 3], 2, [-1, -2, -3], [2, 5, 7]], 5, [0, 2, 3, 4, 5, 6, 7, 8]),
        # row 3 was two behind row 1 and now reads the block two in front of it
        ([1], [-1, -1, BLOCK, -1, -2, [-1, 3], 2, [-1, -2, -3], [2, 5, 7]], 5, [0, 1, 3, 4, 5, 6, 7, 8]),
        # the block stands between row 3 and what it reads
        ([2], [-1, -1, -1, BLOCK, -3, [-1, 3], 1, [-1, -2, -3], [1, 5, 7]], 5, [0, 1, 2, 4, 5, 6, 7, 8]),
        # the last row of the backbone: the block belongs to the backbone
        ([3], [-1, -1, -1, -2, BLOCK, [-1, 2], 1, [-1, -2, -3], [1, 5, 7]], 5, [0, 1, 2, 3, 5, 6, 7, 8]),
        # in the head
        ([4], [-1, -1, -1, -2, [-1, 2], BLOCK, 1, [-1, -2, -4], [1, 5, 7]], 4, [0, 1, 2, 3, 4, 6, 7, 8]),
        ([6], [-1, -1, -1, -2, [-1, 2], 1, [-1, -2, -3], BLOCK, [1, 4, 7]], 4, [0, 1, 2, 3, 4, 5, 6, 8]),
        # several, in any order
        (
            [3, 1],
            [-1, -1, BLOCK, -1, -2, BLOCK, [-1, 3], 2, [-1, -2, -3], [2, 6, 8]],
            6,
            [0, 1, 3, 4, 6, 7, 8, 9],
        ),
        (
            [1, 2, 4],
            [-1, -1, BLOCK, -1, BLOCK, -3, [-1, 4], BLOCK, 2, [-1, -2, -4], [2, 7, 9]],
            6,
            [0, 1, 3, 5, 6, 8, 9, 10],
        ),
    ],
    ids=str,
)
def test_every_row_reads_what_it_read_or_the_block_behind_it(after, rows, backbone, numbers):
    before = deepcopy(SMALL)
    model, new = graft(SMALL, after)
    assert froms(model) == rows
    assert len(model["backbone"]) == backbone
    assert new == dict(enumerate(numbers))
    assert before == SMALL
    kept = [row[1:] for row in [*model["backbone"], *model["head"]] if row[2] != "wNLB"]
    assert kept == [row[1:] for row in [*SMALL["backbone"], *SMALL["head"]]]


def test_the_new_model_shares_nothing_with_the_old_one():
    before, options = deepcopy(SMALL), {"sub_sample": 2}
    model, _ = graft(SMALL, [1, 3], options)
    for row in [*model["backbone"], *model["head"]]:
        row[3].append("changed")
        if row[2] == "wNLB":
            row[3][0]["sub_sample"] = 9
    assert before == SMALL
    assert options == {"sub_sample": 2}


def test_options_are_for_all_blocks_or_one_mapping_for_each():
    def args(options):
        return [row[3] for row in graft(SMALL, [3, 1], options)[0]["backbone"] if row[2] == "wNLB"]

    assert args(None) == args({}) == [[], []]
    assert args({"sub_sample": 2}) == [[{"sub_sample": 2}], [{"sub_sample": 2}]]
    assert args([{"sub_sample": 2}, {}]) == [[], [{"sub_sample": 2}]]  # in the order of `after`: 3, then 1


@pytest.mark.parametrize(
    ("after", "options", "error", "fragments"),
    [
        (["P9"], None, ValueError, ["no stage 'P9'", "it has P1, P2", "row number"]),
        ([8], None, ValueError, ["no place after row 8", "rows 0 to 7"]),
        ([-1], None, ValueError, ["no place after row -1"]),
        ([7], None, ValueError, ["no place after row 7", "the last is its head"]),
        ([1, 1], None, ValueError, ["after row 1 already", "once"]),
        ([], None, ValueError, ["after is []", "at least one"]),
        ({"P3": 1}, None, ValueError, ["after is {'P3': 1}", "wanted stages or row numbers"]),
        ([2.0], None, ValueError, ["no stage 2.0", "it has P1, P2"]),
        ([True], None, ValueError, ["no stage True", "it has P1, P2"]),
        ([1], "sub_sample=2", TypeError, ["options are 'sub_sample=2'", "one mapping"]),
        ([1], [2], TypeError, ["options are [2]", "one mapping"]),
        ([3, "P2"], None, ValueError, ["after row 3 already"]),
        ([1, 2], [{}], ValueError, ["1 mappings of options for 2 places"]),
        ([1], {"subsample": 2}, TypeError, ["row 2", "no option subsample", "sub_sample"]),
        ([1, 3], [{}, {"operation": "dot"}], ValueError, ["row 5", "'dot'", *OPERATIONS]),
    ],
    ids=str,
)
def test_places_and_options_that_do_not_exist_are_refused_by_name(after, options, error, fragments):
    before = deepcopy(SMALL)
    with pytest.raises(error) as refused:
        graft(SMALL, after, options)
    for fragment in fragments:
        assert fragment in str(refused.value)
    assert before == SMALL


@pytest.mark.parametrize("after", [1, 2, "P2"])
def test_a_place_that_has_a_block_takes_no_second_one(after):
    model, _ = graft(SMALL, [1, 3])
    with pytest.raises(ValueError, match=r"a wNLB after row \d already"):
        graft(model, [after])


# ---- the model that a grafted YAML makes -----------------------------------------------------------


def built(model, scale="n"):
    from ultralytics.nn.tasks import DetectionModel

    torch.manual_seed(0)
    return DetectionModel({**deepcopy(model), "scale": scale}, verbose=False).eval()


@pytest.mark.parametrize(
    ("name", "after"),
    [
        ("yolov8-seg.yaml", ("P2", "P3", "P4", "P5")),
        ("yolo11.yaml", ("P3", 9, 10, 13, 19)),  # behind SPPF and attention, and in the head
        ("yolo26.yaml", ("P3", "P4", "P5")),
        ("yolov10n.yaml", (0, 2, 3, 4, 8, 12)),
    ],
    ids=str,
)
def test_a_grafted_model_computes_what_the_stock_model_computes(name, after):
    stock = load_yaml(name)
    grafted, new = graft(stock, after)
    ours, theirs = built(grafted), built(stock)
    assert [i for i, layer in enumerate(ours.model) if isinstance(layer, WNLB)] == sorted(
        set(range(len(ours.model))) - set(new.values())
    )
    for old, number in new.items():
        ours.model[number].load_state_dict(theirs.model[old].state_dict())
    x = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        found, wanted = tensors(ours(x)), tensors(theirs(x))
    assert len(found) == len(wanted) > 0
    assert all(torch.equal(a, b) for a, b in zip(found, wanted))
    with torch.inference_mode():  # equal because w is 0, and not because nobody reads the blocks
        for layer in ours.model:
            if isinstance(layer, WNLB):
                layer.w.fill_(2.0)
                changed = tensors(ours(x))
                layer.w.zero_()
                assert not all(torch.equal(a, b) for a, b in zip(changed, wanted))


@pytest.mark.parametrize(
    ("scale", "channels"),
    [
        ("n", [64, 128, 256]),
        ("s", [128, 256, 512]),
        ("m", [192, 384, 576]),
        ("l", [256, 512, 512]),
        ("x", [320, 640, 640]),
    ],
)
@pytest.mark.parametrize("word", ["wNLB", "WNLB"])
def test_blocks_take_their_channels_from_the_layer_in_front_at_every_scale(scale, channels, word):
    from ultralytics.nn.tasks import parse_model

    model = {**load_yaml("yolov8-seg-wnlb.yaml"), "scale": scale}
    model["backbone"] = [[*row[:2], word, row[3]] if row[2] == "wNLB" else row for row in model["backbone"]]
    with torch.device("meta"):
        layers, _ = parse_model(model, 3, verbose=False)
    blocks = [i for i, layer in enumerate(layers) if isinstance(layer, WNLB)]
    assert blocks == [5, 8, 11]
    assert [layers[i].in_channels for i in blocks] == channels
    assert [layers[i - 1].cv2.conv.out_channels for i in blocks] == channels


def test_the_options_of_a_row_reach_the_block():
    options = {
        "embed_dim": 3,
        "operation": "gaussian",
        "sub_sample": 2,
        "scale": None,
        "w_init": 0.5,
        "w_learnable": False,
        "w_lr": 4.0,
        "init": "released",
    }
    block = built(graft(SMALL, [1], options)[0]).model[2]
    assert {name: getattr(block, name) for name in options if name != "w_learnable"} == {
        name: value for name, value in options.items() if name != "w_learnable"
    }
    assert "w" in dict(block.named_buffers())
    forms = [{"scale": "cosine", "w_per_channel": True}, {"operation": "depthwise"}]
    cosine, depthwise = (m for m in built(graft(SMALL, [1, 2], forms)[0]).model if isinstance(m, WNLB))
    assert (cosine.scale, cosine.w.shape, depthwise.operation) == ("cosine", (16,), "depthwise")
    assert built(graft(SMALL, [1], {"weighted": False})[0]).model[2].weighted is False
    assert built(graft(SMALL, [1])[0]).model[2].extra_repr() == WNLB(16).extra_repr()


def test_the_table_of_layers_shows_only_what_differs_from_the_defaults():
    assert complete(5, [-1, 1, "wNLB", []]) == [-1, 1, "wNLB", ["c2"]]
    options = {"sub_sample": 2, "weighted": True}
    assert complete(5, [-1, 1, "wNLB", [options]]) == [-1, 1, "wNLB", ["c2", None, "embedded_gaussian", 2]]


def test_parsing_does_not_change_the_definition():
    from ultralytics.nn.tasks import parse_model

    model = {**graft(SMALL, [1], {"sub_sample": 2})[0], "scale": ""}
    parse_model(model, 3, verbose=False)
    assert model["backbone"][2] == [-1, 1, "wNLB", [{"sub_sample": 2}]]


@pytest.mark.parametrize("word", ["wNLB", "WNLB"])
@pytest.mark.parametrize(
    ("source", "repeats", "args", "error", "fragments"),
    [
        (0, 1, [], ValueError, ["from = 0", "from = -1", "[0, 1, nn.Identity, []]"]),
        ([-1, 0], 1, [], ValueError, ["from = [-1, 0]", "from = -1"]),
        (-1, 3, [], ValueError, ["repeats = 1; found 3"]),
        (-1, 1, [256], TypeError, ["[256]", "one mapping of options", "[{operation: dot_product, sub_sample: 2}]"]),
        (-1, 1, [{}, {}], TypeError, ["one mapping of options"]),
        (-1, 1, [{"sub_samples": 2}], TypeError, ["no option sub_samples", "embed_dim, operation, sub_sample"]),
        (-1, 1, [{"in_channels": 64}], TypeError, ["no option in_channels"]),
        (-1, 1, [{"operation": "cosine"}], ValueError, ["got 'cosine'", *OPERATIONS]),
        (-1, 1, [{"operation": "f"}], ValueError, ["got 'f'", *OPERATIONS]),  # `f` is a variable of the parser
        (-1, 1, [{"embed_dim": "nc"}], ValueError, ["embed_dim", "got 'nc'"]),  # and so is `nc`
        (-1, 1, [{"sub_sample": 0}], ValueError, ["sub_sample", "at least 1; got 0"]),
    ],
    ids=str,
)
def test_a_wrong_row_is_refused_with_its_number_and_what_to_write(source, repeats, args, error, fragments, word):
    rows = [*SMALL["backbone"][:2], [source, repeats, word, args]]
    with pytest.raises(error) as refused:
        built({**SMALL, "backbone": rows, "head": [[[2], 1, "Detect", ["nc"]]]}, scale="")
    for fragment in ["row 2 of the model YAML", word, *fragments]:
        assert fragment in str(refused.value)


# ---- stages ----------------------------------------------------------------------------------------

FIVE = {"P1": 0, "P2": 2, "P3": 4, "P4": 6, "P5": 8}


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("yolov8.yaml", FIVE),
        ("yolo11.yaml", FIVE),
        ("yolo26.yaml", FIVE),
        ("yolov8-p6.yaml", {**FIVE, "P6": 10}),  # row 11 is SPPF
        ("yolov10n.yaml", FIVE),  # rows 9 and 10 are SPPF and PSA
        ("yolov9t.yaml", FIVE),  # row 9 is SPPELAN
        ("rtdetr-l.yaml", {"P2": 1, "P3": 3, "P4": 7, "P5": 9}),  # its stem has stride 4
        ("yolov8-seg-wnlb4.yaml", {"P1": 0, "P2": 3, "P3": 6, "P4": 9, "P5": 12}),
    ],
)
def test_stages_end_with_the_last_block_of_their_stride(name, stages):
    assert stage_ends(load_yaml(name)) == stages


# ---- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", [f for f in SHIPPED if "wNLB" in f.read_text()], ids=lambda f: f.stem)
def test_embeddings_have_widths_that_the_fused_kernels_of_cuda_take(file):
    """In 16 bits they want multiples of 8; flash attention up to 256, the memory-efficient kernel any of them.

    Else PyTorch falls back to the map of all pairs without a word (check_head_dim_size in its sdp_utils).
    """
    from ultralytics.utils.ops import make_divisible

    model = yaml.safe_load(file.read_text())
    rows = [*model["backbone"], *model["head"]]
    fronts = [rows[i - 1] for i, row in enumerate(rows) if row[2] == "wNLB"]
    for _, width, most in model["scales"].values():
        channels = [make_divisible(min(front[3][0], most) * width, 8) for front in fronts]
        embedded = [WNLB(c).embed_dim for c in channels]
        assert embedded and not [d for d in embedded if d % 8], f"{dict(zip(channels, embedded))}"


def test_models_are_shipped():
    assert len(SHIPPED) >= 8


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_a_shipped_file_is_what_the_command_in_its_header_writes(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    word, *arguments = shlex.split(file.read_text().splitlines()[1].removeprefix("# "))
    assert word == "yolo-wnlb"
    assert main(arguments) == 0
    assert (tmp_path / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("name", ["yolov8-seg.yaml", "yolo26.yaml", "yolov10n.yaml", "yolov9t.yaml", "rtdetr-l.yaml"])
def test_a_written_definition_reads_back_the_same(name):
    model, _ = graft(load_yaml(name), [1, 3], [{"scale": None, "w_init": 0.5}, {"operation": "dot_product"}])
    text = to_yaml(model, "a title\nof two lines")
    assert yaml.safe_load(text) == model
    assert text.startswith("# a title\n# of two lines\n\n")
    lines = [line for line in text.splitlines() if line.startswith("  - ")]
    assert [line.rsplit("# ", 1)[1] for line in lines] == [str(i) for i in range(len(lines))]


@pytest.mark.parametrize(
    "text", ["yes", "Off", "null", "3", "1e3", "a: b", 'a "b"', "-", "", "a\\b", "~", "# no", "nan"]
)
def test_strings_that_yaml_would_take_for_something_else_read_back_as_strings(text):
    model = {**SMALL, "activation": text}
    assert yaml.safe_load(to_yaml(model, "t"))["activation"] == text


CONV = [-1, 1, "Conv", [8, 3, 2]]
HEAD = [[[0, 1], 1, "Detect", ["nc"]]]


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"backbone": None}, "the backbone of the model YAML is no list of rows"),
        ({"backbone": "Conv"}, "the backbone of the model YAML is no list of rows"),
        ({"head": []}, "the head of the model YAML is no list of rows"),
        ({"backbone": [CONV, [-1, 1]]}, r"row 1 .* wanted \[from, repeats, module"),
        ({"backbone": [CONV, ["x", *CONV[1:]]]}, "row 1 .* from = x is no earlier row"),
        ({"backbone": [CONV, [None, *CONV[1:]]]}, "row 1 .* from = None is no earlier row"),
        ({"backbone": [CONV, [1, *CONV[1:]]]}, "row 1 .* from = 1 is no earlier row"),
        ({"backbone": [CONV, [-2, *CONV[1:]]]}, "row 1 .* from = -2 is no earlier row"),
        ({"backbone": [CONV, [True, *CONV[1:]]]}, "row 1 .* from = True is no earlier row"),
        ({"head": [[[0, 9], 1, "Detect", ["nc"]]]}, r"row 2 .* from = \[0, 9\] is no earlier row"),
        ({"backbone": [CONV, [-1, "x", "Conv", []]]}, "row 1 .* wanted a whole number of repeats"),
        ({"backbone": [CONV, [-1, 1, None, []]]}, "row 1 .* the name of a module"),
        ({"backbone": [CONV, [-1, 1, "Conv", None]]}, "row 1 .* a list of arguments"),
    ],
)
def test_a_malformed_row_is_named_with_its_file_and_its_number(part, message, tmp_path):
    file = tmp_path / "yolov8-mine.yaml"
    file.write_text(yaml.safe_dump({"nc": 1, "backbone": [CONV, CONV], "head": HEAD, **part}))
    with pytest.raises(ValueError, match=rf"yolov8-mine\.yaml: {message}"):
        load_yaml(file)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"backbone": [[-1, 1, "Konv", [8, 3, 2]], CONV]}, "no module 'Konv'"),
        ({"backbone": [[-1, 1, "Conv", ["a", 3]], CONV]}, "cannot build this backbone"),
        (
            {"backbone": [CONV, [-1, 1, "Conv", [8, -3, 2]]]},
            "row 1 .*fails|cannot build this",
        ),
        ({"scales": 5}, "cannot build this backbone"),
        ({"scales": {"n": [1]}}, "cannot build this backbone"),
        ({"channels": "rgb"}, "channels of the model YAML is 'rgb'"),
        ({"channels": -3}, "channels of the model YAML is -3"),
    ],
)
def test_a_backbone_that_cannot_be_built_is_said_so(part, message):
    with pytest.raises(ValueError, match=message):
        graft({"nc": 1, "backbone": [CONV, CONV], "head": HEAD, **part}, ["P1"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("names: [caf\xe9]".encode("latin-1"), "is not UTF-8"),
        (b"nc: 1\nnc: 2\nbackbone: []\nhead: []", "key 'nc' stands twice"),
        (b"backbone: [", "is no YAML"),
        (b"", "is no model definition"),
        (b"- 1", "is no model definition"),
    ],
)
def test_a_file_that_cannot_be_read_as_yaml_is_named(content, message, tmp_path):
    (tmp_path / "mine.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=rf"mine\.yaml.*{message}"):
        load_yaml(tmp_path / "mine.yaml")


def test_every_model_that_ultralytics_or_we_ship_is_read():
    folder = Path(ultralytics.__file__).parent / "cfg/models"
    files = [*folder.rglob("*.yaml"), *SHIPPED]
    assert len(files) > 40 and all(load_yaml(file)["head"] for file in files)


def test_a_data_set_is_no_model(tmp_path):
    file = tmp_path / "data.yaml"
    file.write_text("names: [a]")
    with pytest.raises(ValueError, match="no model definition"):
        load_yaml(file)


def test_the_examples_of_the_docstrings_run():
    assert doctest.testmod(grafting) == (0, 2)


# ---- writing ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", [1e-5, 0.5, True, None, "a\nb", "yes", "nn.LeakyReLU(0.1)", [1, [2]], {"a": 1}], ids=repr
)
def test_what_is_written_is_read_back_as_it_was(value):
    model = {"nc": 1, "extra": value, "backbone": [[-1, 1, "Conv", [value]]], "head": [[[0], 1, "Detect", ["nc"]]]}
    assert yaml.safe_load(to_yaml(model, "title")) == model


def test_small_numbers_reach_the_block_from_the_command_line(tmp_path):
    assert main(["graft", "yolov8-seg.yaml", "after=P3", "w_lr=1e-5", f"out={tmp_path / 'yolov8-small-seg.yaml'}"]) == 0
    assert load_yaml(tmp_path / "yolov8-small-seg.yaml")["backbone"][5][3] == [{"w_lr": 1e-5}]


def test_a_model_of_one_channel_has_the_same_stages():
    assert stage_ends({**load_yaml("yolov8.yaml"), "channels": 1})["P5"] == 8


def test_the_name_of_a_grafted_model_is_one_that_ultralytics_takes(tmp_path, capsys):
    assert main(["graft", "yolov8-seg.yaml", f"out={tmp_path / 'mine.txt'}"]) == 2
    assert "wanted a name that ends in .yaml" in capsys.readouterr().err and not [*tmp_path.iterdir()]


def test_grafting_draws_no_random_numbers():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    graft(load_yaml("yolov8.yaml"))
    assert torch.equal(before, torch.random.get_rng_state())


def test_one_place_needs_no_list():
    assert graft(load_yaml("yolov8.yaml"), "P3")[1] == graft(load_yaml("yolov8.yaml"), 4)[1]


def test_a_wrong_option_names_the_row_of_its_own_place():
    with pytest.raises(TypeError, match="row 1 of"):
        graft(load_yaml("yolov8.yaml"), [1, 0], [{}, {"foo": 1}])


def test_a_short_row_is_named():
    with pytest.raises(ValueError, match=r"row 7 .*wanted \[from, repeats, module"):
        complete(7, [-1, 1, "wNLB"])


def test_the_command_in_a_written_definition_can_be_pasted(tmp_path):
    out = tmp_path / "my model.yaml"
    assert main(["graft", "yolov8-seg.yaml", "after=P3", f"out={out}"]) == 0
    assert out.read_text().splitlines()[1] == "# yolo-wnlb graft yolov8-seg.yaml after=P3 'out=my model.yaml'"


def test_stages_may_be_small_letters_and_the_model_an_option(tmp_path, capsys):
    out = tmp_path / "yolov8-seg-wnlb.yaml"
    assert main(["graft", "model=yolov8-seg.yaml", "after=p3,p5", f"out={out}"]) == 0
    assert [i for i, row in enumerate(load_yaml(out)["backbone"]) if row[2] == "wNLB"] == [5, 10]
    assert "hides the model yolov8-seg-wnlb.yaml that ships" in capsys.readouterr().out
