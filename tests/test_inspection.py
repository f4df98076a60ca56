import os
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn
from ultralytics import YOLO
from ultralytics.data.augment import LetterBox

from yolo_wnlb import WNLB, cli, pairwise
from yolo_wnlb.data.shapes import NAMES, generate
from yolo_wnlb.imaging.camera import settings
from yolo_wnlb.imaging.capture import capture
from yolo_wnlb.imaging.chance import picture_rng
from yolo_wnlb.imaging.sheet import GAP, scaled
from yolo_wnlb.visualize.block_statistics import BlockStatistics, attention, effective_neighbours, w_z_norm
from yolo_wnlb.visualize.inspection import MAP_SIDE, attention_strip, draw, inspect_model, tone
from yolo_wnlb.visualize.observation import IMAGE_SIDE, Letterbox, Object, Observation

DOCS = Path(__file__).resolve().parent.parent / "docs"
SIZE = 64  # of images and inputs: a stride of 32 leaves a map of 2 x 2


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three noisy pictures of the size of the input, so that nothing is resized."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(3):
        cv2.imwrite(str(folder / f"{i}.png"), rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A data set of shapes with a YAML."""
    folder = tmp_path_factory.mktemp("data")
    generate(folder / "shapes", train=1, val=2, size=SIZE)
    file = folder / "shapes.yaml"
    file.write_text(f"path: {folder}/shapes\ntrain: images/train\nval: images/val\nnames: {[*NAMES]}\n")
    return file


def change(file, target, edit):
    """Write a checkpoint changed by a function of its model."""
    checkpoint = torch.load(file, weights_only=False)
    with torch.no_grad():
        edit(checkpoint["model"])
    torch.save(checkpoint, target)
    return target


def see_much(model):
    """Let a random model find objects everywhere."""
    for part in model.model[-1].cv3:
        nn.init.constant_(part[-1].bias, 1.0)


# --- attention


def forms():
    for operation in pairwise.OPERATIONS:
        for sub_sample in (1,) if operation in pairwise.CONTROLS else (1, 2, 3):
            for scale in (1.0, None, 0.3, "cosine") if "gaussian" in operation else (1.0,):
                yield pytest.param({"operation": operation, "sub_sample": sub_sample, "scale": scale})


@pytest.mark.parametrize("options", forms())
def test_a_row_of_attention_is_the_row_of_the_whole_map(options):
    torch.manual_seed(0)
    block = WNLB(6, 4, w_init=0.3, **options).eval()
    x = torch.randn(1, 6, 5, 7)
    positions = [(row, column) for row in range(5) for column in range(7)]
    with torch.no_grad():
        phi = block.theta if options["operation"] == "non_local_means" else block.phi
        q, k = block.theta(x)[0].flatten(1).T, block.pool(phi(x))[0].flatten(1).T
        if options["operation"] == "pointwise":
            whole = torch.eye(35)
        elif options["operation"] == "depthwise":
            block.depthwise.weight.copy_(torch.rand(1, 1, 3, 3).expand(4, 1, 3, 3))  # the same for all channels
            whole = block.depthwise(torch.eye(35).reshape(35, 1, 5, 7).expand(35, 4, 5, 7))[:, 0].flatten(1).T
        elif options["operation"] == "non_local_means":
            h2 = block.temperature * torch.cdist(q, q).square().mean()
            whole = torch.softmax(-torch.cdist(q, k).square() / h2, 1)
        elif options["scale"] == "cosine":
            whole = torch.softmax(10 * nn.functional.normalize(q) @ nn.functional.normalize(k).T, 1)
        elif "gaussian" in options["operation"]:
            scale = options["scale"] or q.shape[1] ** -0.5
            whole = torch.softmax(scale * q @ k.T, 1)
        elif options["operation"] == "dot_product":
            whole = q @ k.T / len(k)
        else:
            pairs = torch.cat([q[:, None].expand(-1, len(k), -1), k[None].expand(len(q), -1, -1)], 2)
            conv = block.W_f[0]
            whole = torch.relu(pairs @ conv.weight.flatten() + conv.bias) / len(k)
        y = (whole @ block.pool(block.g(x))[0].flatten(1).T).T.reshape(1, 4, 5, 7)
        z = 0.7 * x + 0.3 * block.W_z(y)
        torch.testing.assert_close(block(x), z, rtol=1e-4, atol=1e-5)  # so that this map is the block's
    one = [attention(block, x, [position])[0] for position in positions]
    side = options["sub_sample"]
    assert one[0].shape == (-(-5 // side), -(-7 // side))
    torch.testing.assert_close(torch.stack(one).flatten(1), whole, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(attention(block, x, positions), torch.stack(one), rtol=1e-4, atol=1e-6)


def test_one_query_alone_builds_no_map():
    block = WNLB(4, 2).eval()
    x = torch.randn(1, 4, 512, 512)  # the whole map would need 256 GiB
    assert attention(block, x, [(500, 3)]).shape == (1, 512, 512)


def test_effective_neighbours_count_from_one_to_all():
    rows = torch.tensor([[0, 1.0, 0, 0], [0.25] * 4, [0.5, 0.5, 0, 0], [-2, 2, 0, 0], [0, 0, 0, 0]])
    assert effective_neighbours(rows.reshape(5, 2, 2)).tolist() == pytest.approx([1, 4, 2, 2, 0])


def test_the_norm_of_w_z_is_that_of_the_matrix_it_applies():
    torch.manual_seed(0)
    block = WNLB(6, 4).eval()
    norm = block.W_z[1]
    for tensor in (norm.weight.data, norm.running_var):
        tensor.uniform_(0.5, 2)
    norm.running_mean.normal_()
    with torch.no_grad():
        matrix = block.W_z(torch.eye(4)[:, :, None, None]) - block.W_z(torch.zeros(4, 4, 1, 1))
    assert w_z_norm(block) == pytest.approx(matrix.norm().item(), rel=1e-5)


# --- where the image lies


@pytest.mark.parametrize("shape", [(64, 64), (90, 300), (300, 77), (33, 64), (3, 500), (375, 500)])
def test_the_frame_is_where_letterbox_puts_the_image(shape):
    white = np.full((*shape, 3), 255, np.uint8)
    boxed = LetterBox((96, 96), auto=True, stride=32)(image=white)
    letterbox = Letterbox.of(white, boxed.shape[:2])
    ys, xs = np.nonzero(boxed[..., 0] == 255)
    assert letterbox == (boxed.shape[:2], ys.min(), xs.min(), ys.max() - ys.min() + 1, xs.max() - xs.min() + 1)


def test_maps_are_cut_and_laid_over_the_image():
    picture = np.zeros((50, 100, 3), np.uint8)
    assert Letterbox.of(np.zeros((2, 3000, 3)), (64, 64))[1:] == (31, 0, 1, 64), "of a thin image one row is left"
    letterbox = Letterbox.of(picture, (1, 3, 64, 64))  # 16 empty rows above and below
    values = np.arange(16.0).reshape(4, 4)
    assert np.array_equal(letterbox.crop(values, (2, 4)), values[1:3])
    assert letterbox.map_position((0, 0), picture, (4, 4)) == (1, 0)
    assert letterbox.map_position((99, 49), picture, (4, 4)) == (2, 3)
    assert letterbox.map_position((60, 30), picture, (1, 8, 4, 4)) == (2, 2)


# --- numbers


def test_the_table_holds_what_comes_out_by_hand(source, photos, tmp_path):
    weights = source("yolov8n-seg-wnlb4")
    report = inspect_model(weights, photos / "1.png", tmp_path / "out", imgsz=SIZE, at=(40, 20))
    model = YOLO(weights).model.float().eval()
    image = cv2.imread(str(photos / "1.png"))
    x = torch.from_numpy(image[..., ::-1].transpose(2, 0, 1).copy())[None] / 255
    table = {}
    with torch.no_grad():
        for i, layer in enumerate(model.model[:13]):
            z = layer(x)
            if isinstance(layer, WNLB):
                h = x.shape[2]
                q, k = (part.flatten(2)[0].T for part in (layer.theta(x), layer.pool(layer.phi(x))))
                row = torch.softmax(q[int(20 / 64 * h) * h + int(40 / 64 * h)] @ k.T, 0).double()
                neighbours = torch.exp(-(row * row.log()).sum()).item()
                table[f"{i}"] = [((z - x).norm() / x.norm()).item(), neighbours, len(k), x.shape[1]]
            x = z
    assert [b.layer for b in report.blocks] == [*table] == ["3", "6", "9", "12"]
    assert [(b.stage, b.stride) for b in report.blocks] == [("P2", 4), ("P3", 8), ("P4", 16), ("P5", 32)]
    for block in report.blocks:
        ours = [block.change[0], block.neighbours_at[0], block.keys[0], block.channels]
        assert ours == pytest.approx(table[block.layer], rel=1e-3), block
        assert block.w == 0.25 and block.operation == "embedded_gaussian"
    assert [b.sub_sample for b in report.blocks] == [8, 4, 2, 1]
    assert report.positions == [(40, 20, "as asked")]
    said = str(report)
    assert "4 blocks, 1 image, image size 64, confidence at least 0.25" in said
    change = f"{report.blocks[0].change[0]:.2%}"
    assert re.search(rf"\n3 +P2 +4 +32 +embedded_gaussian +8 +0\.25 +[\d.]+ +{change} +[\d.]+ of 4\n", said), said
    assert re.search(r"\n1 +1\.png +40,20 +as asked +[\d.]+ of 4 ", said), said


def test_the_distance_to_the_bright_twin_is_what_comes_out_by_hand(source, photos, tmp_path):
    weights = source("yolov8n-seg-wnlb")
    report = inspect_model(weights, photos / "1.png", tmp_path / "out", imgsz=SIZE, lowlight="severe")
    image = cv2.imread(str(photos / "1.png"))
    dark = capture(image, settings("severe").draw(picture_rng(0, "1.png")))
    x, t = (torch.from_numpy(i[..., ::-1].transpose(2, 0, 1).copy())[None] / 255 for i in (dark, image))
    wanted = []
    with torch.no_grad():
        for layer in YOLO(weights).model.float().eval().model[:12]:
            if isinstance(layer, WNLB):
                z = layer(x)
                wanted.append([((f - t) ** 2).mean().item() / t.var().item() for f in (x, z)])
                x = z
            else:
                x, t = layer(x), layer(t)
    found = [[*b.twin_before, *b.twin_after] for b in report.blocks]
    assert found == [pytest.approx(pair, rel=1e-3) for pair in wanted] and len(found) == 3
    text = str(report)
    assert "darkened by lowlight=severe" in text and "which the model computes without its blocks" in text
    assert re.search(rf"to bright twin: before +after\n5 .* {wanted[0][0]:.3f} +{wanted[0][1]:.3f}\n", text), text
    page = cv2.imread(str(tmp_path / "out/twins-1.png"))
    assert page.shape[1] == 8 * (MAP_SIDE + GAP) and "twins-1.png" in report.files
    report = inspect_model(weights, photos / "1.png", tmp_path / "out", imgsz=SIZE, exist_ok=True)
    assert not (tmp_path / "out/twins-1.png").exists() and "bright twin" not in str(report)


def test_a_position_is_one_of_the_picture_as_given_though_it_is_darkened_at_the_size_of_training(source, tmp_path):
    cv2.imwrite(str(tmp_path / "wide.png"), np.full((96, 256, 3), 200, np.uint8))
    weights = source("yolov8n-wnlb")
    options = {"imgsz": SIZE, "at": (200, 40), "lowlight": {"preset": "mild", "seed": 3}}
    report = inspect_model(weights, tmp_path / "wide.png", tmp_path / "out", **options)
    assert report.positions == [(200, 40, "as asked")]
    with pytest.raises(ValueError, match=r"outside wide\.png"):
        inspect_model(weights, tmp_path / "wide.png", tmp_path / "out2", **{**options, "at": (300, 40)})


@pytest.mark.parametrize("lowlight", ["servere", {"alpha": 7}, 3])
def test_a_darkness_that_is_none_is_refused_before_anything_is_written(lowlight, source, photos, tmp_path):
    with pytest.raises(ValueError, match=r"servere|alpha|lowlight is 3"):
        inspect_model(source("yolov8n-wnlb"), photos, tmp_path / "out", imgsz=SIZE, lowlight=lowlight)
    assert not (tmp_path / "out").exists()


def test_where_w_is_zero_before_and_after_are_equal(source, photos, tmp_path):
    weights = change(source("yolo11n-wnlb"), tmp_path / "still.pt", lambda m: nn.init.zeros_(m.model[8].w))
    report = inspect_model(weights, [photos / "0.png", photos / "1.png"], tmp_path, imgsz=SIZE)
    still, *others = sorted(report.blocks, key=lambda b: b.change)
    assert still.w == 0 and still.change == [0, 0] and all(min(b.change) > 0 for b in others)
    note = "P4, layer 8: w = 0, the block is the identity: before and after are equal"
    assert str(still) == "P4, layer 8" and [n for n in report.notes if "identity" in n] == [note]
    page = cv2.imread(str(tmp_path / "features-1.png"))
    step, top = MAP_SIDE + GAP, [i * (len(page) - 38) // 3 for i in range(3)]
    equal = [
        np.array_equal(page[t + 60 : t + 200, step : 2 * step], page[t + 60 : t + 200, 2 * step : 3 * step])
        for t in top
    ]
    assert equal == [False, True, False]
    blank = page[top[1] + 60 : top[1] + 200, 3 * step + 10 : 4 * step - 10]
    assert (blank == blank[0, 0]).all()  # the difference


def test_how_few_of_the_images_were_looked_at_is_said(source, photos, tmp_path):
    weights, there = source("yolov8n-seg-wnlb"), len(list(photos.iterdir()))
    note = f"looked at 1 of the {there} images of {photos}; n= takes more"
    assert note in inspect_model(weights, photos, tmp_path / "out", n=1, imgsz=SIZE).notes


def test_a_plain_block_has_no_w_and_starts_as_the_identity(source, photos, tmp_path):
    def start(model):
        for module in model.modules():
            if isinstance(module, WNLB):
                module.reset_parameters()
                module.W_z[1].reset_running_stats()

    fresh = change(source("yolov8n-seg-nlb"), tmp_path / "fresh.pt", start)
    report = inspect_model(fresh, photos / "0.png", tmp_path / "out", imgsz=SIZE)
    assert all(b.w is None and b.w_z_norm == 0 and b.change == [0] for b in report.blocks)
    assert "W_z = 0, the block is the identity" in report.notes[0] and " none " in str(report)


def test_attention_on_one_key_and_on_none_is_noted(source, photos, tmp_path):
    def sharpen(model):
        blocks = [module for module in model.modules() if isinstance(module, WNLB)]
        blocks[0].scale = 1e6
        blocks[1].operation = "concatenation"
        blocks[1].W_f = nn.Sequential(nn.Conv2d(2 * blocks[1].embed_dim, 1, 1), nn.ReLU())
        nn.init.constant_(blocks[1].W_f[0].bias, -1e6)

    weights = change(source("yolov8n-wnlb"), tmp_path / "sharp.pt", sharpen)
    report = inspect_model(weights, photos / "0.png", tmp_path / "out", imgsz=SIZE)
    assert any(note.startswith("P3, layer 5: at most positions the softmax chooses one key") for note in report.notes)
    assert any(note.startswith("P4, layer 8: at most positions no key counts") for note in report.notes)
    assert report.blocks[1].neighbours == [0]


def test_a_model_whose_training_diverged_is_shown_and_that_is_noted(source, photos, tmp_path):
    weights = change(source("yolov8n-wnlb"), tmp_path / "nan.pt", lambda m: nn.init.constant_(m.model[8].w, torch.nan))
    report = inspect_model(weights, photos / "0.png", tmp_path / "out", imgsz=SIZE)
    told = "P4, layer 8; P5, layer 11: features that are no finite numbers; the training has diverged"
    assert told in report.notes and len(list((tmp_path / "out").iterdir())) == 4


# --- pictures


def test_pictures_are_written_and_named(source, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    weights, other = source("yolov8n-seg-wnlb"), source("yolov8n-seg")
    assert cli.main(["inspect", str(weights), f"images={data}", f"imgsz={SIZE}", f"with={other}", "conf=0.1"]) == 0
    said = capsys.readouterr().out
    names = ["blocks.png", "predictions.png", "attention.png", "features-1.png", "features-2.png"]
    assert sorted(file.name for file in Path("inspect").iterdir()) == sorted(names)
    for name in names:
        assert re.search(f"\n{name} ", said) and cv2.imread(f"inspect/{name}") is not None, said
    assert f"written to {tmp_path / 'inspect'}:" in said
    assert cv2.imread("inspect/features-1.png").shape[1] == 7 * (MAP_SIDE + GAP)
    assert cv2.imread("inspect/attention.png").shape[1] == 4 * (MAP_SIDE + GAP)
    assert cv2.imread("inspect/predictions.png").shape[1] == 3 * (IMAGE_SIDE + GAP)  # labels, model, other
    assert cli.main(["inspect", str(weights), f"images={data}", "n=1", f"imgsz={SIZE}"]) == 0
    assert sorted(file.name for file in Path("inspect-2").iterdir()) == sorted(names[:-1])


def test_images_are_those_the_model_was_trained_on_unless_named(source, data, photos, tmp_path):
    checkpoint = torch.load(source("yolov8n-wnlb"), weights_only=False)
    torch.save({**checkpoint, "train_args": {"data": str(data), "imgsz": SIZE}}, tmp_path / "best.pt")
    report = inspect_model(tmp_path / "best.pt", out=tmp_path / "a", n=1)
    assert report.images == ["000000.png"] and report.protocol["image size"] == SIZE
    report = inspect_model(tmp_path / "best.pt", [photos / "2.png", photos], tmp_path / "b", n=2)
    assert report.images == ["2.png", "0.png"]  # the folder gives 0 and 2; each image once
    torch.save({**checkpoint, "train_args": {"data": "elsewhere/my.yaml"}}, tmp_path / "moved.pt")
    with pytest.raises(ValueError, match=r"was trained on, elsewhere/my\.yaml, is not here; give images="):
        inspect_model(tmp_path / "moved.pt", out=tmp_path / "c")
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("name", ["yolov8n-wnlb", "yolo11n-seg-wnlb"])
def test_the_position_is_the_centre_of_the_most_confident_detection(source, tmp_path, name):
    weights = change(source(name), tmp_path / "loud.pt", see_much)
    image = np.random.default_rng(1).integers(0, 60, (50, 90, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "wide.png"), image)
    report = inspect_model(weights, tmp_path / "wide.png", tmp_path / "out", imgsz=SIZE)
    [result] = YOLO(weights).predict(image, imgsz=SIZE, conf=0.25, device="cpu", verbose=False)
    best = int(result.boxes.conf.argmax())
    [(x, y, there)] = report.positions
    assert [x, y] == pytest.approx(result.boxes.xywh[best, :2].tolist(), abs=0.1)
    assert there == f"{result.names[int(result.boxes.cls[best])]} {result.boxes.conf[best]:.2f}"


@pytest.mark.parametrize("name", ["yolo26n-seg-wnlb", "yolo26n-wnlb"])
def test_where_nothing_is_found_the_position_is_the_middle(source, tmp_path, name):
    cv2.imwrite(str(tmp_path / "black.png"), np.zeros((50, 90, 3), np.uint8))
    report = inspect_model(source(name), tmp_path / "black.png", tmp_path / "out", imgsz=SIZE, conf=0.99)
    assert report.positions == [(45, 25, "nothing found")]
    assert report.notes[-1] == (
        "no object was found in black.png, so the attention of the pixel in the middle is shown; at=x,y takes another "
        "one, a lower conf= finds more"
    )


def test_attention_lies_over_the_places_whose_keys_count():
    bright = np.full((MAP_SIDE, MAP_SIDE, 3), 100, np.uint8)
    observation = Observation(
        "a.png", bright, 1.0, None, Letterbox.of(bright, (64, 64)), {}, [], (20.0, 20.0), "as asked"
    )
    observation.maps["5"] = (torch.zeros(1, 4, 8, 8),) * 2
    block = BlockStatistics("5", "P3", 8, 4, "embedded_gaussian", 3, 0.1, "0.1", 1.0, neighbours_at=[1.0])
    row = np.zeros((3, 3), np.float32)  # 8 x 8 positions, pooled by 3: the last window has two rows
    row[2, 0] = 1
    drawn = attention_strip([block], [row], observation)[:MAP_SIDE, MAP_SIDE + GAP + GAP // 2 : -GAP // 2]
    place = MAP_SIDE // 8
    lit = np.zeros((MAP_SIDE, MAP_SIDE), bool)
    lit[6 * place :, : 3 * place] = True
    lit[:place, :place] = (drawn != 50).any(2)[:place, :place]  # the square of the position itself
    assert np.array_equal((drawn != 50).any(2), lit)


def test_objects_are_drawn_where_they_are():
    picture = np.zeros((100, 200, 3), np.uint8)
    mask = np.zeros((100, 200), bool)
    mask[40:60, 20:180] = True
    palette = {"a": tone(0), "b": tone(1)}
    drawn = draw(picture, [Object("a", (0.1, 0.4, 0.9, 0.6), mask, 0.9)], palette)
    assert drawn[50, 100].any() and not drawn[70:].any()
    boxed = draw(picture, [Object("b", (0.1, 0.4, 0.9, 0.6), None, None)], palette)
    assert not boxed[50, 100].any() and tuple(boxed[50, 20]) == tone(1)
    assert not picture.any()
    crowd = [Object("a", (-0.1, -0.1, 1.1, 1.1), None, 0.5)] * 30  # names find no free place
    assert draw(picture[:7, :9].copy(), crowd, palette).shape == (7, 9, 3)


def test_colours_of_many_classes_differ():
    assert len({tone(i) for i in range(80)}) == 80


def test_scaled_keeps_the_shape_of_the_image():
    assert scaled((300, 600, 3), 100) == (50, 100) and scaled((2, 900, 3), 100) == (1, 100)


def test_the_picture_in_docs_is_small():
    assert (DOCS / "inspect.jpg").stat().st_size <= 250_000


# --- mistakes


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], r"wants BEST.pt \[IMAGE ...\], found no file; for example: yolo-wnlb inspect best.pt images="),
        (
            ["PLAIN", "images=PHOTOS"],
            r"has no wNLB block, so there is nothing to look into; give a model that has some",
        ),
        (["no.pt", "images=PHOTOS"], r"checkpoint no\.pt does not exist"),
        (["note.pt", "images=PHOTOS"], r"note\.pt is not a readable Ultralytics checkpoint"),
        (["best.onnx", "images=PHOTOS"], r"best\.onnx is no checkpoint; wanted the \.pt that training wrote"),
        (["BEST", "images=PHOTOS", "with=no.pt"], r"checkpoint no\.pt does not exist"),
        (["BEST"], "is not here; give images="),
        (["BEST", "note.png"], r"note\.png cannot be read as an image; leave it out or mend it"),
        (["BEST", "images=nowhere"], "there is no nowhere; give images, folders of images or a data YAML"),
        (["BEST", "images=PHOTOS/0.png,nowhere.png"], r"there is no nowhere\.png"),
        (["BEST", "images=PHOTOS", "at=64,3"], r"at=64,3 is outside 0\.png; wanted x below 64 and y below 64, both 0"),
        (["BEST", "images=PHOTOS", "at=3,-1"], r"at=3,-1 is outside 0\.png"),
        (["BEST", "images=PHOTOS", "at=3"], "at=3: wanted two numbers: x,y"),
        (["BEST", "images=PHOTOS", "at=a,b"], "at=a,b: wanted two numbers: x,y"),
        (["BEST", "images=PHOTOS", "n=0"], "n=0: wanted a whole number, 1 or more"),
        (["BEST", "images=PHOTOS", "conf=2"], "conf=2: wanted a number from 0 to 1"),
        (["BEST", "images=PHOTOS", "imgsz=70"], "imgsz is 70; wanted a multiple of the stride, 32"),
        (["BEST", *["PHOTOS/0.png"] * 41], "41 images or more; wanted 40 at most: name fewer, or lower n"),
        (["BEST", "images=PHOTOS", "out=note.png"], r"out=.*note\.png cannot be made a folder \(File exists\); choose"),
        (["BEST", "images=PHOTOS", "out=note.png/in"], r"out=.*cannot be made a folder \(Not a directory\); choose"),
        (
            ["BEST", "images=PHOTOS", "out=full"],
            r"full holds the pictures of another call; choose another out=, or add",
        ),
        (["BEST", "images=PHOTOS", "size=3"], "no option size; choose from images, out, n, imgsz, at, with"),
    ],
)
def test_mistakes_are_named_and_nothing_is_written(source, photos, tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    for name in ("note.png", "note.pt", "best.onnx"):
        (tmp_path / name).write_text("no such thing")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/blocks.png").touch()
    places = {"BEST": source("yolov8n-wnlb"), "PLAIN": source("yolov8n"), "PHOTOS": photos}
    for word, path in places.items():
        words = [w.replace(word, str(path)) for w in words]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert cli.main(["inspect", *words]) == 2
    told = capsys.readouterr()
    assert re.match(f"yolo-wnlb inspect: .*{said}", told.err), told.err
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_folder_that_takes_no_files_is_refused(source, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # as for a user without the right
    with pytest.raises(PermissionError, match=r"nothing can be written into out=.*; choose another folder"):
        inspect_model(source("yolov8n-wnlb"), photos, tmp_path, imgsz=SIZE)


def test_a_map_too_large_to_build_asks_for_smaller_images(source, photos, tmp_path, monkeypatch):
    def concatenate(model):
        block = next(module for module in model.modules() if isinstance(module, WNLB))
        block.operation = "concatenation"
        block.W_f = nn.Sequential(nn.Conv2d(2 * block.embed_dim, 1, 1), nn.ReLU())

    weights = change(source("yolov8n-wnlb"), tmp_path / "large.pt", concatenate)
    assert inspect_model(weights, photos, tmp_path / "out", n=1, imgsz=SIZE).blocks[0].operation == "concatenation"
    monkeypatch.setattr(pairwise, "MAX_MAP_BYTES", 10)
    with pytest.raises(ValueError, match=r"needs a map of .*; to look into this model, choose a smaller imgsz"):
        inspect_model(weights, photos, tmp_path / "large", n=1, imgsz=SIZE)


def test_without_what_evaluation_needs_the_labels_are_left_out_and_that_is_said(source, data, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "yolo_wnlb.data.coco", None)
    report = inspect_model(source("yolov8n-wnlb"), data, tmp_path, n=1, imgsz=SIZE)
    assert any(re.match(r"the labels of .*shapes\.yaml are left out: ", note) for note in report.notes)
    assert cv2.imread(str(tmp_path / "predictions.png")).shape[1] == IMAGE_SIDE + GAP


# --- names, channels, strays


@pytest.fixture(scope="module")
def special(tmp_path_factory):
    """A function of a number of channels that returns a checkpoint, with a block, for images of so many."""
    from ultralytics.nn.tasks import DetectionModel

    folder = tmp_path_factory.mktemp("special")

    def checkpoint(channels):
        torch.manual_seed(0)
        model = DetectionModel("yolov8n-wnlb.yaml", ch=channels, verbose=False)
        for module in model.modules():
            if isinstance(module, WNLB):
                nn.init.constant_(module.w, 0.25)
        torch.save({"model": model, "ema": None, "epoch": -1, "train_args": {}}, folder / f"{channels}.pt")
        return folder / f"{channels}.pt"

    return checkpoint


def test_a_model_for_grey_images_sees_them_in_grey(source, special, photos, tmp_path):
    report = inspect_model(special(1), photos, tmp_path / "out", n=2, imgsz=SIZE, other=source("yolov8n"))
    assert report.images == ["0.png", "2.png"] and all(b.change[0] > 0 for b in report.blocks)
    dark = inspect_model(special(1), photos, tmp_path / "dark", n=1, imgsz=SIZE, other=source("yolov8n"), lowlight=True)
    assert all(b.twin_before[0] > 0 for b in dark.blocks)
    page = cv2.imread(str(tmp_path / "out/features-1.png")).astype(int)
    picture = page[38 : 38 + MAP_SIDE, GAP // 2 : GAP // 2 + MAP_SIDE]
    assert np.ptp(picture, axis=2).max() == 0 and picture.std() > 10  # drawn as the model sees it


def test_a_model_for_four_channels_takes_images_that_have_them(special, photos, tmp_path):
    weights = special(4)
    cv2.imwrite(str(tmp_path / "four.png"), np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 4), np.uint8))
    report = inspect_model(weights, tmp_path / "four.png", tmp_path / "out", imgsz=SIZE)
    assert all(b.change[0] > 0 for b in report.blocks)
    with pytest.raises(ValueError, match="lowlight=mild simulates a grey or a colour camera, and a model here takes 4"):
        inspect_model(weights, tmp_path / "four.png", tmp_path / "other", imgsz=SIZE, lowlight="mild")
    with pytest.raises(ValueError, match=r"0\.png has 3 channels, and the model takes pictures of 4"):
        inspect_model(weights, photos, tmp_path / "other", imgsz=SIZE)
    assert not (tmp_path / "other").exists()


def test_images_of_one_name_keep_apart_and_strays_are_left_out(source, photos, tmp_path):
    for folder in ("cam1", "cam2"):
        shutil.copytree(photos, tmp_path / folder)
        (tmp_path / folder / ".DS_Store").write_bytes(b"Bud1")
        (tmp_path / folder / "._0.png").write_bytes(b"a resource fork")
    (tmp_path / "cam1/0.png").rename(tmp_path / "cam1/two\nlines.png")
    report = inspect_model(source("yolov8n-wnlb"), [tmp_path / "cam1", tmp_path / "cam2"], tmp_path / "o", imgsz=SIZE)
    assert report.images == ["cam1/1.png", "cam1/2.png", "two\\nlines.png", "0.png", "cam2/1.png", "cam2/2.png"]
    assert {f"features-{i}.png" for i in range(1, 7)} <= {file.name for file in (tmp_path / "o").iterdir()}
    assert re.search(r"\n3 +two\\nlines\.png ", str(report)) and re.search(r"\n4 +0\.png ", str(report))


def test_pages_of_an_earlier_call_are_neither_kept_nor_overwritten_unasked(source, photos, tmp_path):
    weights = source("yolov8n-wnlb")
    inspect_model(weights, photos, tmp_path / "out", n=3, imgsz=SIZE)
    (tmp_path / "out/blocks.png").unlink()
    (tmp_path / "out/my-features-3.png").touch()
    with pytest.raises(ValueError, match="holds the pictures of another call"):
        inspect_model(weights, photos, tmp_path / "out", n=1, imgsz=SIZE)
    report = inspect_model(weights, photos, tmp_path / "out", n=1, imgsz=SIZE, exist_ok=True)
    assert {file.name for file in (tmp_path / "out").iterdir()} == {*report.files, "my-features-3.png"}


def test_an_interruption_is_not_taken_for_an_error(source, photos, tmp_path, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(YOLO, "predict", interrupt)
    with pytest.raises(KeyboardInterrupt):
        inspect_model(source("yolov8n-wnlb"), photos, tmp_path / "out", n=1, imgsz=SIZE)
