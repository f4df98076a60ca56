"""Everything a user does with a model that has blocks: train, resume, validate, predict, distribute."""

import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from conftest import shapes_set, tensors

from yolo_wnlb.data.shapes import NAMES

YOLO_COMMAND = str(Path(sys.executable).with_name("yolo"))
QUICK = {"imgsz": 64, "batch": 4, "workers": 0, "plots": False, "device": "cpu", "verbose": False}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A tiny dark data set; returns its YAML."""
    return shapes_set(tmp_path_factory.mktemp("data") / "shapes", train=8, val=4)


def blocks_of(model):
    return [m for m in model.modules() if type(m).__name__ == "WNLB"]


def yolo(*words, cwd):
    """Run the stock command in an unrelated folder; returns what it printed."""
    run = subprocess.run([YOLO_COMMAND, *map(str, words)], cwd=cwd, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    return run.stdout + run.stderr


def train(data, out, model="yolov8n-seg-wnlb.yaml", callbacks=(), **options):
    """Train in this process; returns the trainer."""
    from ultralytics import YOLO

    yolo = YOLO(model)
    for event, function in dict(callbacks).items():
        yolo.add_callback(event, function)
    yolo.train(data=str(data), project=str(out), name="run", exist_ok=True, **{**QUICK, "epochs": 1, **options})
    return yolo.trainer


@pytest.fixture(scope="module")
def run(data, source, tmp_path_factory):
    """One run of the stock command from pretrained weights, stopped after its first of two epochs and resumed."""
    folder = tmp_path_factory.mktemp("unrelated")
    quick = [f"{k}={v}" for k, v in QUICK.items()]
    stop = f"""
from ultralytics import YOLO
model = YOLO("yolov8n-seg-wnlb.yaml")
def stop(trainer):
    raise KeyboardInterrupt
model.add_callback("on_model_save", stop)
model.train(data={str(data)!r}, epochs=2, pretrained={str(source("yolov8n-seg"))!r}, project={str(folder)!r},
            name="cut", **{QUICK!r})
"""
    first = subprocess.run([sys.executable, "-c", stop], cwd=folder, capture_output=True, text=True, timeout=300)
    assert "KeyboardInterrupt" in first.stderr, first.stdout + first.stderr
    second = yolo("segment", "train", "resume", f"model={folder / 'cut/weights/last.pt'}", *quick, cwd=folder)
    return folder, first.stdout + first.stderr, second


def test_the_stock_command_starts_from_pretrained_weights_and_says_what_it_kept(run):
    _, first, _ = run
    assert "tensors of the pretrained model kept, 33 new in the blocks" in first
    kept, of = first.split(" tensors of the pretrained model kept")[0].split()[-1].split("/")
    assert int(of) == 417 and int(kept) >= 390, "only class layers may differ: 80 classes became 5"
    assert "Segment of 80 classes -> Segment of 5 classes" in first


def test_an_interrupted_run_resumes_in_a_new_process_and_ends(run):
    folder, _, second = run
    assert "Resuming training" in second
    rows = (folder / "cut/results.csv").read_text().splitlines()
    assert [row.split(",")[0].strip() for row in rows[1:]] == ["1", "2"]


def test_a_trained_checkpoint_validates_predicts_on_images_and_video_and_fuses(run, data, tmp_path):
    from ultralytics import YOLO

    best = run[0] / "cut/weights/best.pt"
    metrics = yolo(
        "segment", "val", f"model={best}", f"data={data}", "imgsz=64", "workers=0", "plots=False", cwd=tmp_path
    )
    assert "all" in metrics and "Mask(P" in metrics

    model = YOLO(best)
    assert list(model.names.values()) == list(NAMES)
    frames = [np.random.default_rng(i).integers(0, 255, (64, 96, 3), np.uint8) for i in range(3)]
    film = cv2.VideoWriter(str(tmp_path / "film.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5, (96, 64))
    for frame in frames:
        film.write(frame)
    film.release()
    assert len(model.predict(tmp_path / "film.avi", imgsz=64, conf=0.001, verbose=False)) == 3
    assert len(model.predict(frames, imgsz=64, conf=0.001, verbose=False)) == 3

    net = YOLO(best).model.eval()
    for block in blocks_of(net):
        block.w.data.fill_(0.5)
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        before, after = net(x)[0], net.fuse(verbose=False)(x)[0]
    before, after = (y[0] if isinstance(y, tuple) else y for y in (before, after))
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-3)


def test_info_counts_the_work_of_the_blocks():
    from ultralytics import YOLO

    _, plain, _, flops_plain = YOLO("yolov8n-seg.yaml").info()
    _, blocks, _, flops_blocks = YOLO("yolov8n-seg-wnlb.yaml").info()
    assert blocks > plain
    assert flops_blocks == pytest.approx(18.4, abs=0.3) and flops_plain == pytest.approx(12.1, abs=0.3)


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW", "MuSGD"])
def test_twenty_steps_move_every_parameter_of_every_block(data, tmp_path, optimizer):
    start, ways = {}, []

    def remember(trainer):
        start.update({name: p.detach().clone() for name, p in trainer.model.named_parameters()})

    def follow(trainer):
        ways.append([abs(block.w.item()) for block in blocks_of(trainer.model)])

    options = {"epochs": 5, "batch": 2, "nbs": 2, "optimizer": optimizer, "lr0": 0.01, "amp": False, "val": False}
    callbacks = {"on_train_start": remember, "on_train_batch_end": follow}
    trainer = train(data, tmp_path, callbacks=callbacks, **options)
    names = [name for name in start if any(name.startswith(f"model.{m.i}.") for m in blocks_of(trainer.model))]
    assert len(names) == 3 * 8  # w, theta (2), phi, g, W_z, its norm (2)
    still = [name for name in names if torch.equal(dict(trainer.model.named_parameters())[name], start[name])]
    assert not still
    learned = [max(way) for way in zip(*ways)]  # on its way back w may end anywhere
    assert min(learned) > 1e-4, f"w hardly moved in 20 steps of {optimizer}: {learned}"


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW", "MuSGD", "RMSProp", "auto"])
def test_w_has_a_group_without_decay_and_with_its_own_learning_rate(data, tmp_path, optimizer):
    from ultralytics.models.yolo.segment import SegmentationTrainer
    from ultralytics.nn.tasks import SegmentationModel

    from yolo_wnlb.yolo.grafting import graft, load_yaml

    definition, _ = graft(
        load_yaml("yolov8n-seg.yaml"),
        options=[{}, {"w_lr": 10, "w_per_channel": True, "scale": "cosine"}, {"w_init": 0.5, "w_learnable": False}],
    )
    model = SegmentationModel({**definition, "scale": "n"}, nc=5, verbose=False)
    overrides = {**QUICK, "data": str(data), "model": "yolov8n-seg.yaml", "project": str(tmp_path), "name": "opt"}
    trainer = SegmentationTrainer(overrides=overrides)
    options = {"name": optimizer, "lr": 0.01, "momentum": 0.9, "decay": 5e-4, "iterations": 1000}
    optimizer = trainer.build_optimizer(model, **options)

    where = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert len(where) == len(list(model.parameters())) == sum(len(g["params"]) for g in optimizer.param_groups)
    first, second, fixed = blocks_of(model)
    usual = min(g["lr"] for g in optimizer.param_groups)
    assert second.w.shape == (second.in_channels,) and where[id(second.logit_scale)]["weight_decay"] == 0
    for block, factor in ((first, 1), (second, 10)):
        group = where[id(block.w)]
        assert group["weight_decay"] == 0 and math.isclose(group["lr"], usual * factor)
        assert not group.get("use_muon", False)
    assert "w" not in dict(fixed.named_parameters()) and fixed.w.item() == 0.5


def test_a_fixed_w_stays_fixed_and_frozen_layers_stay_still(data, tmp_path):
    from yolo_wnlb.yolo.grafting import graft, load_yaml, to_yaml

    definition, _ = graft(load_yaml("yolov8n-seg.yaml"), ["P3"], {"w_init": 0.5, "w_learnable": False})
    file = tmp_path / "yolov8-seg-fixed.yaml"
    file.write_text(to_yaml(definition, "w fixed at 0.5 after P3"))
    start = {}
    options = {"freeze": 6, "optimizer": "SGD", "lr0": 0.01, "batch": 2, "nbs": 2, "warmup_epochs": 0.0}
    trainer = train(
        data,
        tmp_path,
        model=str(file).replace("yolov8-", "yolov8n-"),
        callbacks={"on_train_start": lambda t: start.update({k: v.clone() for k, v in t.model.state_dict().items()})},
        **options,
    )
    (block,) = blocks_of(trainer.model)
    assert block.i == 5 and block.w.item() == 0.5
    now = trainer.model.state_dict()
    weights = [k for k in now if k.endswith("weight") and "dfl" not in k]
    moved = {int(k.split(".")[1]) for k in weights if not torch.equal(now[k], start[k])}
    assert moved and min(moved) == 6, "freeze=6 freezes layers 0 to 5, the block among them"


@pytest.mark.parametrize(
    ("options", "warned"),
    [
        ({"optimizer": "AdamW"}, True),
        ({"optimizer": "AdamW", "model": "yolov8n-seg.yaml", "lowlight": "severe"}, True),
        ({"optimizer": "AdamW", "model": "trained-wnlb.pt", "pretrained": True}, True),
        ({"optimizer": "AdamW", "warmup_bias_lr": 0.0}, False),
        ({"optimizer": "AdamW", "warmup_epochs": 0}, False),
        ({"optimizer": "AdamW", "pretrained": True}, False),  # from random weights there is nothing to spoil
        ({"optimizer": "AdamW", "model": "yolov8n-seg.yaml"}, False),  # none of our business
        ({"optimizer": "SGD"}, False),
        ({"optimizer": "MuSGD"}, False),
    ],
)
def test_a_warm_up_that_spoils_trained_biases_is_a_warning(options, warned, log):
    from ultralytics import YOLO
    from ultralytics.cfg import get_cfg

    from yolo_wnlb.yolo.patches.training import check_warmup

    words = {"model": "yolov8n-seg-wnlb.yaml", "pretrained": "yolov8n-seg.pt", "lr0": 1e-4, **options}
    blocks = "wnlb" in words["model"]
    model = YOLO("yolov8n-seg-wnlb.yaml" if blocks else "yolov8n-seg.yaml", verbose=False).model
    check_warmup(SimpleNamespace(args=get_cfg(overrides=words), model=model))
    assert len([line for line in log if "warmup_bias_lr=0.1" in line and "give warmup_bias_lr=0" in line]) == warned


def test_weights_that_were_loaded_without_a_name_count_as_trained(log):
    from ultralytics import YOLO
    from ultralytics.cfg import get_cfg

    from yolo_wnlb.yolo.patches.training import check_warmup

    words = {"model": "yolov8n-seg.yaml", "pretrained": True, "lr0": 1e-4, "optimizer": "AdamW", "lowlight": "severe"}
    for model, warned in ((YOLO("yolov8n-seg.yaml", verbose=False), 0), (YOLO("yolov8n-seg.yaml", verbose=False), 1)):
        if warned:
            model.load(YOLO("yolov8n-seg.yaml", verbose=False).model)
        check_warmup(SimpleNamespace(args=get_cfg(overrides=words), model=model.model))
        assert len([line for line in log if "warmup_bias_lr=0.1" in line]) == warned


def test_freezing_a_block_that_does_nothing_is_a_warning(data, tmp_path, log):
    trainer = train(data, tmp_path, freeze=10, val=False)
    (warning,) = [line for line in log if line.startswith("WARNING") and "wNLB" in line]
    assert "freeze=10 freezes 2 of 3 w (at 0, 0)" in warning and "freeze=[0,1,2" in warning
    assert any("wNLB: 1 weights w with" in line for line in log)
    assert [block.w.requires_grad for block in blocks_of(trainer.model)] == [False, False, True]


def ddp_worker(rank, folder, checkpoint):
    """One of two processes: the gradients of a step are averaged over both."""
    import torch.distributed as dist
    from ultralytics import YOLO

    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.manual_seed(rank)
    model = YOLO(checkpoint).model.train()
    for p in model.parameters():
        p.requires_grad_(True)
    wrapped = torch.nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for _ in range(2):
        optimizer.zero_grad()
        outputs = wrapped(torch.rand(2, 3, 64, 64))
        sum(t.float().square().mean() for t in tensors(outputs)).backward()
        optimizer.step()
    torch.save(dict(model.named_parameters()), f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_share_the_gradients_of_the_blocks(run, tmp_path):
    checkpoint = str(run[0] / "cut/weights/last.pt")
    torch.multiprocessing.spawn(ddp_worker, args=(str(tmp_path), checkpoint), nprocs=2)
    one, two = (torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    start = dict(torch.load(checkpoint, weights_only=False)["model"].float().named_parameters())
    assert not [name for name in one if name.endswith(".w") and torch.equal(one[name], start[name])]


def test_the_file_that_ultralytics_writes_for_ddp_workers_trains_a_model_with_blocks(data, tmp_path):
    """The stock launcher's own file, run by torchrun; on a CPU Ultralytics allows one process."""
    pytest.importorskip("cloudpickle", reason="Ultralytics needs cloudpickle to launch DDP workers")
    from ultralytics.models.yolo.segment import SegmentationTrainer
    from ultralytics.utils.dist import generate_ddp_file

    overrides = {**QUICK, "data": str(data), "model": "yolov8n-seg-wnlb.yaml", "epochs": 1, "val": False}
    trainer = SegmentationTrainer(overrides={**overrides, "project": str(tmp_path), "name": "ddp", "exist_ok": True})
    file = generate_ddp_file(trainer)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "1", file]
    worker = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert worker.returncode == 0, worker.stderr[-3000:]
    assert (tmp_path / "ddp/weights/last.pt").is_file()


@pytest.mark.slow  # the compiler needs minutes on a CPU
def test_a_compiled_model_trains(data, tmp_path):
    trainer = train(data, tmp_path, compile=True, val=False)
    assert (trainer.save_dir / "weights/last.pt").is_file()


def test_the_block_compiles_into_one_graph_and_agrees_with_eager():
    from yolo_wnlb import WNLB

    torch.manual_seed(0)
    for operation in ("embedded_gaussian", "dot_product"):
        block = WNLB(8, operation=operation, sub_sample=2, w_init=0.5).eval()
        x = torch.randn(2, 8, 9, 7)
        compiled = torch.compile(block, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), block(x))
