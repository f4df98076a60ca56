"""adversarial= in `yolo train`: what is attacked, what stays as it was, and what is refused."""

import contextlib
import math
import re
from types import SimpleNamespace

import pytest
import torch
from conftest import run_without_package
from test_train import train
from torch import nn
from ultralytics import YOLO
from ultralytics.cfg import get_cfg
from ultralytics.engine.tuner import Tuner
from ultralytics.nn import tasks

from yolo_wnlb.yolo import adversarial, denoise, terms
from yolo_wnlb.yolo.adversarial import REPLAY, Attack, Replay, describe, read_request
from yolo_wnlb.yolo.darkness import check_resumed

LINF = {"norm": "linf", "eps": "4/255"}
MODELS = {  # task -> model
    "detect": "yolov8n.yaml",
    "segment": "yolov8n-seg-wnlb.yaml",
    "pose": "yolov8n-pose.yaml",
    "obb": "yolov8n-obb.yaml",
    "classify": "yolov8n-cls.yaml",
    "detect, end to end": "yolo26n.yaml",
}


def batch_of(task="detect", number=2, size=64):
    """A batch of random pictures with one object each, as trainers hand it to models."""
    generator = torch.Generator().manual_seed(number)
    batch = {
        "img": torch.rand(number, 3, size, size, generator=generator),
        "batch_idx": torch.arange(number).float(),
        "cls": torch.arange(number).float()[:, None],
        "bboxes": torch.tensor([[0.5, 0.5, 0.4, 0.6]] * number),
    }
    if task == "classify":
        return {"img": batch["img"], "cls": torch.arange(number)}
    if task == "segment":
        batch["masks"] = torch.zeros(number, size // 4, size // 4)
        batch["masks"][:, 4:12, 4:10] = 1
    if task == "pose":
        batch["cls"].zero_()  # its model has one class
        batch["keypoints"] = torch.rand(number, 17, 3, generator=generator).round(decimals=1)
    if task == "obb":
        batch["bboxes"] = torch.cat([batch["bboxes"], torch.full((number, 1), 0.3)], 1)
        batch["resized_shape"] = [(size, size)] * number
    return batch


def network(name="yolov8n.yaml", task="detect", request="pgd", **options):
    """A model in training with an attack, as the trainer has it after setup_model."""
    torch.manual_seed(0)
    model = YOLO(name, verbose=False).model.train()
    model.args = get_cfg(overrides={"task": task})
    args = SimpleNamespace(adversarial=request, imgsz=64, nbs=2, batch=2, **options)
    adversarial.prepare(model, args)
    return model


def attacked(model, batch):
    """The pictures that the stock loss of a model sees, of a batch that it is given in training."""
    seen = []

    def stock(model, batch, preds=None):
        seen.append(batch["img"])
        return stock_loss(model, batch, preds)

    stock_loss = tasks.BaseModel.loss._stock
    terms.loss(stock, model, batch)
    return seen[-1].detach()


# ---- the attack ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["pgd", "fgsm", "free"])
@pytest.mark.parametrize("name", MODELS)
def test_every_task_is_attacked_and_all_but_the_pictures_is_as_before(name, method):
    task = name.split(",")[0]
    model = network(MODELS[name], task, {"method": method, **({"steps": 2} if method == "pgd" else {})})
    batch = {**batch_of(task, number=3), REPLAY: 0}  # 8.4.0 takes a batch of two pictures for two outputs
    before = {key: value.clone() for key, value in batch.items() if isinstance(value, torch.Tensor)}
    buffers = {key: value.clone() for key, value in model.named_buffers()}
    stock = tasks.BaseModel.loss._stock
    perturbed = terms.ATTACKS[model](stock, model, batch)
    assert all(torch.equal(batch[key], value) for key, value in before.items()), "the trainer's batch"
    assert all(torch.equal(perturbed[key], value) for key, value in before.items() if key != "img"), "the labels"
    assert all(torch.equal(value, buffers[key]) for key, value in model.named_buffers()), "statistics of the norms"
    assert all(parameter.grad is None for parameter in model.parameters())
    if method == "free":  # the first replay is of the pictures as they are; its backward pass finds the perturbation
        assert torch.equal(perturbed["img"], batch["img"])
        stock(model, perturbed)[0].sum().backward()
        perturbed = terms.ATTACKS[model](stock, model, batch)
    assert not torch.equal(perturbed["img"], batch["img"])
    model.zero_grad(set_to_none=True)
    total, _ = model(batch)
    total.sum().backward()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("request_", "norm", "eps"),
    [("pgd", "l2", 0.5), ("fgsm", "linf", 4 / 255), (LINF, "linf", 4 / 255), ({"norm": "l2", "eps": 2}, "l2", 2)],
)
def test_the_perturbation_has_the_size_that_was_asked_for_at_this_size_of_picture(request_, norm, eps):
    model, batch = network(request=request_), batch_of(size=96)
    batch["img"] = 0.3 + 0.4 * batch["img"]  # no pixel is clipped
    delta = (attacked(model, batch) - batch["img"]).flatten(1)
    length = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
    wanted = eps * (96 / 224 if norm == "l2" else 1)
    assert (length <= wanted * (1 + 1e-4)).all() and (length > 0.7 * wanted).all()


def test_free_reaches_eps_at_the_second_replay_and_carries_it_to_the_next_batch():
    model, first, second = network(request="free"), batch_of(), batch_of(number=2, size=64)
    second = {**second, "img": second["img"].flip(0)}
    eps, lengths = 4 / 255, []
    for batch in (first, first, second):
        total, _ = model({**batch, REPLAY: 0})
        total.sum().backward()
        lengths.append(terms.ATTACKS[model].delta.abs().max().item())
    assert lengths == pytest.approx([eps] * 3, rel=1e-5)
    delta = terms.ATTACKS[model].delta
    seen = attacked(model, {**second, REPLAY: 1})
    assert torch.allclose(seen, (second["img"] + delta).clamp(0, 1)) and not torch.equal(seen, second["img"])
    small = {**batch_of(number=1), REPLAY: 0}  # the last batch of an epoch
    assert attacked(model, small).shape == (1, 3, 64, 64)
    assert attacked(model, {**batch_of(size=32), REPLAY: 0}).shape == (2, 3, 32, 32)


def test_free_without_its_loader_stops():
    with pytest.raises(RuntimeError, match=r"wants each batch several times in a row.*smaller batch="):
        network(request="free")(batch_of())


def test_the_share_of_mix_stays_clean_on_average():
    attack = Attack(read_request({"method": "free", "mix": 0.3}), 0)
    attack.delta = torch.full((4, 3, 8, 8), 4 / 255)
    x = torch.full((4, 3, 8, 8), 0.5)
    clean = 0
    for _ in range(200):
        seen = attack(None, None, {"img": x, REPLAY: 0})["img"].detach()
        clean += (seen == x).flatten(1).all(1).sum().item()
    assert clean / 800 == pytest.approx(0.3, abs=0.04)


def test_a_loss_that_is_not_finite_is_left_to_ultralytics(log):
    model = network()
    for parameter in model.parameters():
        parameter.data.fill_(math.nan)
    batch = batch_of()
    for _ in range(2):
        assert attacked(model, batch) is not None
    assert sum("trained on unperturbed" in line for line in log) == 1


def test_validation_is_not_attacked():
    model = network()
    model.eval()
    batch = batch_of()
    assert torch.equal(attacked(model, batch), batch["img"])


def test_predictions_that_are_there_before_the_attack_are_refused():
    model = network()
    with pytest.raises(RuntimeError, match="computes the predictions before the batch can be attacked"):
        model.loss(batch_of(), model(batch_of()["img"]))


def test_an_attack_draws_none_of_the_numbers_of_the_training():
    state = torch.get_rng_state()
    model = network(request="fgsm")
    state = torch.get_rng_state()
    attacked(model, batch_of())
    assert torch.equal(torch.get_rng_state(), state)


def test_mixed_precision_gives_finite_pictures_and_gradients():
    model = network(request={**LINF, "steps": 2})
    with torch.autocast("cpu", torch.bfloat16):
        total, _ = model(batch_of())
    total.sum().backward()
    assert total.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None)


# ---- with denoise= ---------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["features", "bright"])
def test_with_denoise_the_dark_half_is_attacked_and_the_twin_stays_as_it_is(target, source):
    model = YOLO("yolov8n.yaml", verbose=False).model
    model.load(YOLO(source("yolov8n")).model, verbose=False)
    model.train().args = get_cfg(overrides={"task": "detect"})
    args = SimpleNamespace(denoise={"target": target}, pretrained=str(source("yolov8n")), model="", freeze=None)
    denoise.prepare(model, args)
    adversarial.prepare(model, SimpleNamespace(adversarial={**LINF, "steps": 2}, imgsz=64, nbs=2, batch=2))
    batch, twin, mark = batch_of(), torch.rand(2, 3, 64, 64), torch.ones(2, 1, 64, 64)
    pair = {**batch, "img": torch.cat([batch["img"], mark, twin, mark], 1)}
    seen = attacked(model, pair)
    assert 0 < (seen - batch["img"]).abs().max() <= 4 / 255 + 1e-6
    total, items = model(pair)
    total.sum().backward()
    assert total[-1] > 0 and model.model[0].conv.weight.grad.any()
    if isinstance(items, dict):
        assert terms.TERMS[model].name in items


@pytest.mark.parametrize(("request_", "sign"), [("free", -1), ("fgsm", 1), ({**LINF, "steps": 2}, 1)])
def test_free_climbs_the_loss_of_the_whole_step_and_the_others_that_of_the_labels_alone(request_, sign):
    """The stock loss rises with each pixel, the loss of the step falls with it."""
    model, x, seen = nn.Identity().train(), torch.full((2, 1, 4, 4), 0.5), []

    def stock(model, batch, preds):
        seen.append(batch["img"])
        return batch["img"].sum()[None], {}

    model.adversarial, model.denoise = read_request(request_), {"name": "term"}
    terms.ATTACKS[model] = Attack(model.adversarial, 0)
    terms.TERMS[model] = SimpleNamespace(
        name="term",
        alpha=0.9,
        prepare=lambda model, batch: batch,
        watch=lambda model: contextlib.nullcontext(),
        value=lambda model: -1000 * seen[-1].mean(),
    )
    for replay in range(2):
        total, _ = terms.loss(stock, model, {"img": x, REPLAY: replay})
        total.sum().requires_grad_().backward()  # there are no weights
    assert (sign * (seen[-1] - x) > 0).all()


# ---- the loader of method free ---------------------------------------------------------------------


class Loader:
    """A loader that goes on where its last iteration stopped, as that of Ultralytics does."""

    dataset, batch_size = "pictures", 2

    def __init__(self, number):
        self.number, self.next = number, 0

    def __len__(self):
        return self.number

    def __iter__(self):
        for _ in range(self.number):
            self.next += 1
            yield {"img": self.next}


def test_each_batch_comes_several_times_and_an_epoch_keeps_its_number_of_steps():
    loader = Replay(Loader(6), 4)
    epochs = [[(batch["img"], batch[REPLAY]) for batch in loader] for _ in range(2)]
    assert epochs[0] == [(1, 0), (1, 1), (1, 2), (1, 3), (2, 0), (2, 1)]
    assert [picture for picture, _ in epochs[1]] == [3, 3, 3, 3, 4, 4]
    assert len(loader) == 6 and loader.dataset == "pictures" and not hasattr(loader, "close")


def test_a_loader_that_is_built_anew_is_replayed_again_and_none_twice():
    trainer = SimpleNamespace(args=SimpleNamespace(adversarial="free"), train_loader=Loader(4))
    for _ in range(2):
        adversarial.replay(trainer)
    assert type(trainer.train_loader.loader) is Loader
    trainer.train_loader = Loader(2)
    adversarial.replay(trainer)
    assert type(trainer.train_loader) is Replay
    other = SimpleNamespace(args=SimpleNamespace(adversarial="pgd"), train_loader=Loader(4))
    adversarial.replay(other)
    assert type(other.train_loader) is Loader


# ---- training --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(bright, source, tmp_path_factory):
    """A run of method free that runs out of memory once, stops after the first of two epochs and is resumed."""
    folder = tmp_path_factory.mktemp("run")
    held = {"steps": []}

    def fail(trainer):
        if not held.get("failed"):
            held["failed"] = True
            stock = terms.ATTACKS[trainer.model].free

            def once(*arguments):
                terms.ATTACKS[trainer.model].free = stock
                raise RuntimeError("CUDA out of memory, says a test")

            if hasattr(trainer, "_build_train_pipeline"):
                terms.ATTACKS[trainer.model].free = once

    def step(trainer):
        delta = terms.ATTACKS[trainer.model].delta
        held["steps"].append((type(trainer.train_loader), trainer.batch_size, delta.abs().max().item()))

    def stop(trainer):
        raise KeyboardInterrupt

    callbacks = {"on_train_batch_start": fail, "on_train_batch_end": step, "on_model_save": stop}
    options = {"adversarial": "free", "pretrained": str(source("yolov8n")), "nbs": 4, "mosaic": 0}
    with pytest.raises(KeyboardInterrupt):
        train(bright, folder, "yolov8n.yaml", callbacks, epochs=2, **options)
    yolo = YOLO(folder / "run/weights/last.pt")
    yolo.add_callback("on_train_batch_end", step)
    yolo.train(resume=True)
    return held | {"folder": folder, "trainer": yolo.trainer, "last": folder / "run/weights/last.pt"}


def test_free_survives_a_lack_of_memory_and_a_resume(run):
    kinds, sizes, deltas = zip(*run["steps"])
    assert set(kinds) == {Replay}
    if hasattr(run["trainer"], "_build_train_pipeline"):
        assert sizes[0] == 2, "half of batch=4"
    assert deltas == pytest.approx([4 / 255] * len(deltas), rel=1e-4)
    assert run["trainer"].args.adversarial == "free" and run["trainer"].epoch == 1


def test_the_checkpoint_is_one_of_a_stock_model_and_opens_without_this_package(run, tmp_path):
    checkpoint = torch.load(run["last"], weights_only=False)["model"]
    assert checkpoint.state_dict().keys() == YOLO("yolov8n.yaml", verbose=False).model.state_dict().keys()
    code = f"""
from ultralytics import YOLO
YOLO({str(run["last"])!r}).predict(__import__("torch").zeros(1, 3, 64, 64), imgsz=64, verbose=False)
"""
    done = run_without_package(code, tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_later_training_without_the_word_is_not_attacked(run, bright, tmp_path):
    trainer = train(bright, tmp_path, run["last"], val=False)
    assert not hasattr(trainer.model, "adversarial") and trainer.model not in terms.ATTACKS


@pytest.mark.parametrize(
    "request_",
    [pytest.param({**LINF, "steps": 2}, id="pgd"), pytest.param({"method": "fgsm", "norm": "l2"}, id="fgsm")],
)
def test_a_training_in_the_dark_attacks_every_step(request_, bright, source, tmp_path, log):
    lengths = []

    def watch(trainer):
        lengths.append(terms.ATTACKS[trainer.model].generator.get_state().sum().item())

    trainer = train(
        bright,
        tmp_path,
        "yolov8n-seg-wnlb.yaml",
        {"on_train_batch_end": watch},
        adversarial=request_,
        lowlight="severe",
        val=False,
    )
    assert trainer.args.adversarial == request_
    assert any(line.startswith("INFO adversarial: ") and "gradients instead of 1" in line for line in log)


# ---- mistakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "more", "message"),
    [
        ("pgdd", {}, "no method 'pgdd' .did you mean 'pgd'.*choose from pgd, fgsm, free"),
        (0.03, {}, "adversarial is 0.03; wanted a method"),
        ({"epsilon": 0.1}, {}, "no option 'epsilon' .did you mean 'eps'"),
        ({"eps": "8/255"}, {}, "eps is '8/255' without a norm"),
        ({"norm": "linf", "eps": 8}, {}, "eps is 8 in linf.*did you mean 8/255"),
        ({"norm": "linf", "eps": 0}, {}, "eps is 0; wanted a number above 0"),
        ({"norm": "linf", "eps": "8/0"}, {}, "eps is '8/0'"),
        ({"norm": "l2", "eps": 128}, {}, "eps is 128 in l2.*did you mean 128/255"),
        ({"norm": "l3"}, {}, "norm is 'l3'"),
        ({"norm": ["linf"]}, {}, "norm is .'linf'. .did you mean 'linf'"),
        ({"method": ["pgd"]}, {}, "no method .'pgd'."),
        ({1: 2}, {}, "no option 1; choose from"),
        ({"norm": "linf", "eps": "1e999999999"}, {}, "eps is inf"),
        ({"norm": "linf", "eps": "four"}, {}, "eps is 'four'; wanted a number above 0"),
        ({"norm": "linf", "eps": None}, {}, None),
        ({"method": "free", "norm": "l2"}, {}, "free takes whole steps of eps and has no l2 form"),
        ({"method": "free", "steps": 3}, {}, "steps has no meaning for free, which has norm, eps, replays, mix"),
        ({"method": "fgsm", "steps": 3}, {}, "steps has no meaning for fgsm"),
        ({"replays": 3}, {}, "replays has no meaning for pgd"),
        ({"steps": 0}, {}, "steps is 0; wanted an integer from 1 to 1000"),
        ({"steps": 2.5}, {}, "steps is 2.5"),
        ({"method": "free", "replays": 1}, {}, "replays is 1; wanted an integer from 2"),
        ({"step": 3}, {}, r"step is 3; wanted a number above 0 and at most 2 \* eps = 1"),
        ({"step": "big"}, {}, "step is 'big'"),
        ({"mix": 1}, {}, "mix is 1; wanted the share of pictures left clean"),
        ("pgd", {"mode": "val"}, "adversarial= is for yolo train; val has no use for it"),
        ("pgd", {"mode": "predict"}, "predict has no use for it"),
        ("pgd", {"compile": True}, "adversarial= and compile=True do not go together"),
        ("pgd", {"distill_model": "x.pt"}, "adversarial= and distill_model=x.pt do not go together"),
        ("pgd", {"quantize": 8}, "quantisation-aware"),
        ("pgd", {"quantize": 16}, None),
        ("free", {"multi_scale": 0.5}, "adversarial=free and multi_scale=0.5 do not go together"),
        ("pgd", {"denoise": {"alpha": 1}}, "denoise= at alpha 1 do not go together"),
    ],
)
def test_mistakes_are_answered_before_anything_is_built(request_, more, message):
    cfg = {"mode": "train", "task": "detect", "adversarial": request_, **more}
    if message is None:
        adversarial.check_request(cfg)
        return
    with pytest.raises(ValueError, match=message):
        adversarial.check_request(cfg)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (True, {"method": "pgd", "norm": "l2", "eps": 0.5, "steps": 10, "step": None, "mix": 0}),
        ("fgsm", {"method": "fgsm", "norm": "linf", "eps": 4 / 255, "step": None, "mix": 0}),
        ("free", {"method": "free", "norm": "linf", "eps": 4 / 255, "replays": 4, "mix": 0, "step": None}),
        ({"norm": "linf"}, {"method": "pgd", "norm": "linf", "eps": 4 / 255, "steps": 10, "step": None, "mix": 0}),
    ],
)
def test_what_is_not_given_is_completed(given, wanted):
    assert read_request(given) == pytest.approx(wanted)


@pytest.mark.parametrize("off", [None, False])
def test_a_word_that_is_off_is_taken_out(off):
    cfg = {"mode": "val", "adversarial": off}
    adversarial.check_request(cfg)
    assert cfg == {"mode": "val"}


@pytest.mark.parametrize("kind", [tasks.RTDETRDetectionModel, tasks.WorldModel, tasks.YOLOEModel])
def test_a_model_whose_loss_is_its_own_is_refused(kind):
    model = kind.__new__(kind)
    nn.Module.__init__(model)
    with pytest.raises(ValueError, match=f"{kind.__name__} computes its loss in a function of its own"):
        adversarial.prepare(model, SimpleNamespace(adversarial="pgd"))


def test_a_resumed_run_keeps_its_request_and_tune_does_not_know_the_word():
    with pytest.raises(ValueError, match="adversarial=fgsm cannot be given on resume: the run began with adversarial="):
        check_resumed("adversarial", "fgsm", "pgd")
    with pytest.raises(ValueError, match="tune does not know adversarial="):
        Tuner(args={"adversarial": "pgd"})


@pytest.mark.parametrize(
    ("request_", "wanted"),
    [
        ("pgd", "pgd, l2, eps 0.5 at 224 x 224 pixels, 1.429 at 640 x 640, 10 steps of 0.125; .* computes 11"),
        ("fgsm", "fgsm, linf, eps 0.01569 = 4/255; each training step computes 2 gradients instead of 1"),
        ("free", "each batch 4 times in a row.*nbs=64.; nbs=16 makes that every replay"),
        ({"method": "fgsm", "mix": 0.25}, "25% of the pictures stay clean"),
    ],
)
def test_the_start_says_what_is_done_and_what_it_costs(request_, wanted):
    assert re.search(wanted, describe(read_request(request_), 640, 64, 16))
