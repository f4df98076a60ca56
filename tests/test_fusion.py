"""Fused networks: two frozen networks and one layer, what it learns, what it is built from, and what is refused."""

import copy
import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from test_classifiers import FORMS
from test_study import compared_here

from yolo_wnlb.classifiers import detector, fusion, nets
from yolo_wnlb.classifiers.fit import cross_entropy
from yolo_wnlb.classifiers.fusion import build, features_of, mean_theta, penalty
from yolo_wnlb.classifiers.fusion_fit import features_of_pictures, fit
from yolo_wnlb.classifiers.nets import ARCHS, Classifier, arch_of, prepared
from yolo_wnlb.cli import main
from yolo_wnlb.data.folders import read
from yolo_wnlb.study import compare as compare_module
from yolo_wnlb.study.check import check_models
from yolo_wnlb.study.compare import compare
from yolo_wnlb.study.plan import read_study
from yolo_wnlb.study.runs import runs_of
from yolo_wnlb.yolo.adversarial import read_request

SOURCE = "contexts:dissimilar,train=48,test=12,size=32"
CLASSES = ("disc", "box", "triangle", "cross")
QUICK = {"imgsz": 32, "device": "cpu", "progress": False}


def network(seed, classes=CLASSES, arch="resnet10"):
    """A classifier with random weights, and statistics of its norms that go with them."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = nets.build(arch, classes).train()
        data = read(SOURCE, "train")
        x = torch.from_numpy(np.stack([prepared(data.read(n), 32) for n in range(16)])).float() / 255
        for _ in range(20):
            model(x)
    model.recipe["imgsz"] = 32
    return model.eval()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with two classifiers, foreground.pt and background.pt, of which the second knows grounds."""
    folder = tmp_path_factory.mktemp("fusion")
    nets.save(network(1), folder / "foreground.pt")
    nets.save(network(2, ["stripes", "dots"]), folder / "background.pt")
    return folder


def joint(home, l2=0.0, seed=0, **changes):
    """A fused network whose layer is new."""
    torch.manual_seed(seed)
    return build(
        **{"foreground": home / "foreground.pt", "background": home / "background.pt", **changes},
        classes=CLASSES,
        l2=l2,
    )


def train(home, out, l2=0.0, **options):
    """Train a layer; returns the network and the path of its file."""
    model = joint(home, l2)
    return model, fit(model, read(SOURCE, "train"), out, **{**QUICK, **options})


def pictures(count=6):
    data = read(SOURCE, "train")
    return torch.from_numpy(np.stack([prepared(data.read(n), 32) for n in range(count)])).float() / 255


# ---- the network ---------------------------------------------------------------------------------


def test_one_layer_decides_on_the_features_of_both_networks(home):
    model, x = joint(home), pictures()
    assert model.layer.weight.shape == (4, 512 + 512) and model.split == 512
    for name, classifier in (("foreground", model.foreground), ("background", model.background)):
        original = nets.rebuild(home / f"{name}.pt")
        assert torch.equal(original.net.fc(features_of(classifier, x)), original(x)), "what its own last layer takes"
    first, second = (theta.detach() for theta in model.theta)
    by_hand = features_of(model.foreground, x) @ first.T + features_of(model.background, x) @ second.T
    assert torch.allclose(model(x), by_hand + model.layer.bias, atol=1e-5)
    assert [name for name, value in model.named_parameters() if value.requires_grad] == ["layer.weight", "layer.bias"]


def test_nets_of_different_depth_and_of_different_classes_are_fused():
    with torch.device("meta"):
        model = build(nets.build("resnet50", ["a", "b", "c"]), nets.build("resnet18", ["x", "y"]), CLASSES)
    assert model.split == 2048 and [tuple(theta.shape) for theta in model.theta] == [(4, 2048), (4, 512)]


@pytest.mark.parametrize("arch", ARCHS)
def test_the_architecture_of_weights_is_told_by_their_shapes(arch, monkeypatch):
    with torch.device("meta"):
        state = ARCHS[arch](num_classes=365).state_dict()
    monkeypatch.setattr(nets, "read_weights", lambda weights: (state, []))
    assert arch_of("weights.pth.tar") == arch
    state.pop("layer1.0.conv1.weight")
    with pytest.raises(ValueError, match=r"weights\.pth\.tar is none of resnet10, resnet18, resnet50, wide_resnet50_2"):
        arch_of("weights.pth.tar")


@pytest.mark.parametrize("form", FORMS)
def test_published_weights_become_a_half_without_a_missing_tensor(form, home, tmp_path):
    source = ARCHS["resnet18"](num_classes=365)
    torch.save(FORMS[form](source.state_dict()), tmp_path / "places.pth.tar")
    model = joint(home, background=tmp_path / "places.pth.tar")
    body = [name for name in source.state_dict() if not name.startswith("fc.")]
    assert all(torch.equal(model.background.net.state_dict()[name], source.state_dict()[name]) for name in body)
    assert model.recipe["background"]["arch"] == "resnet18" and model.recipe["background"]["start"] == "places.pth.tar"


def test_a_name_stands_for_the_weights_of_torchvision(home, monkeypatch):
    state = ARCHS["resnet18"](num_classes=1000).state_dict()
    monkeypatch.setattr(nets, "published_weights", lambda arch: dict(state))
    model = joint(home, foreground="resnet18")
    assert torch.equal(model.foreground.net.conv1.weight, state["conv1.weight"])


# ---- what the layer learns -----------------------------------------------------------------------


def test_only_the_layer_moves_and_the_statistics_of_all_norms_stay(home, tmp_path):
    start = copy.deepcopy(joint(home).state_dict())
    model, file = train(home, tmp_path, epochs=2)
    moved = [name for name, value in model.state_dict().items() if not torch.equal(value, start[name])]
    assert moved == ["layer.weight", "layer.bias"]
    assert not model.train().foreground.training and not model.background.training and model.layer.training
    again = fusion.rebuild(file)
    assert torch.equal(again(pictures()), model.eval()(pictures()))
    assert again.recipe == model.recipe and again.recipe["background"]["classes"] == ["stripes", "dots"]


def test_the_foreground_is_heard_less_the_larger_l2_is(home, tmp_path):
    found = []
    for l2 in (0.0, 0.1, 1.0, 10.0):
        model, _ = train(home, tmp_path / f"{l2}", l2, epochs=60)
        found.append(mean_theta(model))
        log = list(csv.DictReader((tmp_path / f"{l2}/log.csv").open()))
        assert float(log[-1]["foreground"]) == pytest.approx(found[-1]["foreground"]) and len(log) == 60
    falls = [means["foreground"] for means in found]
    assert falls == sorted(falls, reverse=True) and falls[3] < 0.25 * falls[0]
    assert all(means["background"] > 0.8 * found[0]["background"] for means in found), "l2 leaves the other half alone"
    by_hand = model.layer.weight.detach()[:, :512].abs().double().mean().item()
    assert falls[3] == pytest.approx(by_hand, rel=1e-5)


def test_the_cross_entropy_is_a_mean_so_that_l2_weighs_the_same_for_any_number_of_pictures(home, tmp_path):
    data = read(SOURCE, "train")
    layers = []
    for name, pictures_of in (("once", data), ("twice", data.only([*range(48)] * 2))):
        model = joint(home, l2=1.0)
        fit(model, pictures_of, tmp_path / name, **QUICK, epochs=5, batch=96)
        layers.append(model.layer.weight.detach())
    assert torch.allclose(*layers, atol=1e-5), "with a sum over the pictures the second would hear the foreground more"
    features, labels = model.features(pictures(48)), torch.tensor(data.labels)
    mean = torch.nn.functional.cross_entropy(model.layer(features), labels) + penalty(model)
    logits = model.layer(features).detach().double()
    by_hand = np.mean([-float(row[k] - row.exp().sum().log()) for row, k in zip(logits, labels)])
    squares = float(model.layer.weight.detach()[:, :512].double().square().sum())
    assert float(mean.detach()) == pytest.approx(by_hand + 1.0 * squares, rel=1e-5)


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(home, tmp_path):
    files = [train(home, tmp_path / f"{n}", epochs=3, batch=16, seed=seed)[1] for n, seed in enumerate((0, 0, 1))]
    states = [torch.load(file, weights_only=True)["state_dict"]["layer.weight"] for file in files]
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])
    assert (files[0].parent / "log.csv").read_bytes() == (files[1].parent / "log.csv").read_bytes()


def test_a_training_that_was_killed_while_it_wrote_its_checkpoint_is_begun_again(home, tmp_path, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(nets, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            train(home, tmp_path, epochs=2)
    assert [file.name for file in tmp_path.iterdir()] == ["log.csv"], "last.pt says that all is done"
    train(home, tmp_path, epochs=2)


ASKED = {"method": "fgsm", "norm": "linf", "eps": 8 / 255}


def test_the_attack_of_a_retrained_layer_knows_the_foreground_network_alone(home):
    model, data = joint(home), read(SOURCE, "train")
    seen = []
    model.background.register_forward_pre_hook(lambda module, args: pytest.fail("the attack asked the background"))
    hook = nets.Classifier.forward

    def spy(self, x):
        seen.append(x.detach().clone())
        return hook(self, x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "forward", spy)
        clean, attacked = features_of_pictures(model, data, 32, read_request(ASKED), 0, torch.device("cpu"), False)
    assert clean.shape == attacked.shape == (48, 1024) and not torch.equal(clean, attacked)
    x = pictures(48)
    assert len(seen) == 1 and (seen[0] - x).abs().max() <= 8 / 255 + 1e-6, "one gradient, at its random start"
    same, _ = features_of_pictures(model, data, 32, None, 0, torch.device("cpu"), False)
    assert torch.equal(same, clean) and all(value.grad is None for value in model.parameters())


def test_a_retrained_layer_learns_from_attacked_pictures_and_mix_leaves_some_clean(home, tmp_path):
    plain, _ = train(home, tmp_path / "plain", epochs=3)
    layers = [plain.layer.weight]
    for mix in (0, 0.999999):
        model, _ = train(home, tmp_path / f"mix{mix}", epochs=3, adversarial={**ASKED, "mix": mix})
        layers.append(model.layer.weight)
    assert not torch.equal(layers[0], layers[1]) and torch.equal(layers[0], layers[2])


def test_attacked_pictures_raise_the_loss_of_the_foreground_network(home):
    model, data = joint(home), read(SOURCE, "train")
    from yolo_wnlb.yolo.adversarial import Attack

    batch = {"img": pictures(16), "cls": torch.tensor(data.labels[:16])}
    found = Attack(read_request({**ASKED, "method": "pgd", "steps": 3}), 0).perturbed(
        cross_entropy, model.foreground, batch
    )
    with torch.no_grad():
        losses = [float(cross_entropy(model.foreground, {**batch, "img": x})[0]) for x in (batch["img"], found)]
    assert losses[1] > losses[0] + 0.05


# ---- a file of it --------------------------------------------------------------------------------


def test_a_file_of_it_is_evaluated_like_a_classifier(home, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model, file = train(home, tmp_path / "joint", 0.1, epochs=3)
    assert detector.reads(file) and detector.is_fused(file) and not detector.is_fused(home / "foreground.pt")
    loaded, data = detector.load(file, "cpu"), read(SOURCE, "test")
    assert tuple(detector.names(loaded).values()) == CLASSES
    found = detector.describe(loaded)
    assert found["detector"] == "fusion resnet10 + resnet10, l2 0.1" and found["image_size"] == "32x32"
    x = torch.from_numpy(np.stack([prepared(data.read(n), 32) for n in range(len(data))])).float() / 255
    with torch.no_grad():
        assert np.allclose(detector.predict(loaded, data), model.eval()(x).softmax(1).numpy(), atol=1e-6)
    assert main(["evaluate", str(file), f"data={SOURCE}", "split=test", "out=found", "device=cpu"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "detector fusion resnet10 + resnet10, l2 0.1" in printed and Path("found/evaluation.json").is_file()


def test_hooks_of_predict_are_shown_each_picture_and_each_input(home):
    model, data = detector.load(home / "foreground.pt", "cpu"), read(SOURCE, "test")
    seen = []

    def alter(picture, number):
        assert np.array_equal(picture, data.read(number))
        seen.append(number)
        return 255 - picture

    def perturb(x, numbers):
        assert x.shape == (3, 3, 32, 32) and x.min() >= 0 and x.max() <= 1
        seen.append(tuple(numbers))
        return 1 - x

    plain = detector.predict(model, data, places=[7, 2, 5])
    back = detector.predict(model, data, places=[7, 2, 5], alter=alter, perturb=perturb)
    assert seen == [7, 2, 5, (7, 2, 5)] and np.allclose(plain, back, atol=1e-5)
    assert not np.allclose(plain, detector.predict(model, data, places=[7, 2, 5], perturb=lambda x, numbers: x * 0))


# ---- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"l2": -0.1}, r"l2 is -0\.1; wanted a number, 0 or more, such as 0\.1"),
        ({"l2": "much"}, r"l2 is 'much'; wanted a number"),
        ({"l2": float("nan")}, r"l2 is nan; wanted a number"),
        ({"l2": True}, r"l2 is True; wanted a number"),
        ({"background": "nowhere.pt"}, r"there are no weights nowhere\.pt"),
        ({"background": "resnet81"}, r"there are no weights resnet81 \(did you mean 'resnet18'\?\)"),
        ({"background": "joint.pt"}, r"joint\.pt is a fused network; give the two classifiers that are to be fused"),
        (
            {"background": "odd.pt"},
            r"odd\.pt is none of resnet10, resnet18, resnet50, wide_resnet50_2: it has 1 tensors",
        ),
        ({"background": "broken.pt"}, r"broken\.pt is no PyTorch checkpoint"),
    ],
)
def test_what_cannot_be_fused_is_named(changes, message, home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(home, "j", epochs=1)[1].rename("joint.pt")
    torch.save({"state_dict": {"weight": torch.zeros(3)}}, "odd.pt")
    Path("broken.pt").write_bytes(b"half a download")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        joint(home, **changes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, r"epochs is 0; wanted a whole number, 1 or more"),
        ({"batch": 2.5}, r"batch is 2\.5; wanted a whole number, 1 or more"),
        ({"imgsz": 8}, r"imgsz is 8; wanted a whole number, 32 or more"),
        ({"lr": 0}, r"lr is 0; wanted a number above 0"),
        (
            {"adversarial": {"method": "free", "norm": "linf"}},
            r"adversarial: free improves its change .*; give method fgsm",
        ),
        ({"adversarial": {"norm": "linf", "eps": 8}}, r"adversarial: eps is 8 in linf; .*did you mean 8/255"),
    ],
)
def test_an_argument_out_of_range_is_refused(options, message, home, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(home, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_other_classes_than_those_of_the_pictures_are_refused(home, tmp_path):
    other = read("contexts:similar,train=8,size=32", "train")
    with pytest.raises(ValueError, match=r"built for the classes disc, .*, and contexts:similar,.* has disc, star"):
        fit(joint(home), other, tmp_path / "out", **QUICK)
    turned = joint(home, foreground=home / "background.pt", background=home / "foreground.pt")
    with pytest.raises(ValueError, match=r"which has learnt other classes \(stripes, dots\) than disc, box.*freeze: 5"):
        fit(turned, read(SOURCE, "train"), tmp_path / "out", adversarial=ASKED, **QUICK)
    assert not (tmp_path / "out").exists()


def test_a_layer_is_not_trained_over_another_one(home, tmp_path):
    train(home, tmp_path, epochs=1)
    with pytest.raises(FileExistsError, match=r"last\.pt exists; choose another folder"):
        train(home, tmp_path, epochs=1)


def test_numbers_of_numpy_are_numbers_and_the_checkpoint_is_read_without_it(home, tmp_path):
    numbers = {
        "epochs": np.int64(1),
        "batch": np.int8(4),
        "lr": np.float64(0.01),
        "imgsz": np.int64(32),
        "seed": np.uint8(3),
    }
    _, file = train(home, tmp_path, **numbers, adversarial={**ASKED, "eps": np.float64(ASKED["eps"])})
    assert detector.load(file, "cpu")


@pytest.mark.parametrize("damage", ["classes", "foreground", "l2", "imgsz", "layer"])
def test_a_damaged_file_is_named(damage, home, tmp_path):
    _, file = train(home, tmp_path, epochs=1)
    content = torch.load(file, weights_only=True)
    if damage == "layer":
        content["state_dict"].pop("layer.weight")
    else:
        content["meta"][damage] = {"l2": -1}.get(damage)
    torch.save(content, file)
    with pytest.raises(
        ValueError, match=r"last\.pt (is damaged: it does not say|does not fit fusion: 1 tensors are missing)|l2 is -1"
    ):
        detector.load(file, "cpu")


# ---- in a study ----------------------------------------------------------------------------------

STUDY = {
    "data": "contexts:dissimilar,train=24,test=8,size=32",
    "split": "test",
    "measure": "accuracy",
    "seeds": [0, 1],
    "train": {
        "classifier": {"arch": "resnet10", "imgsz": 32, "epochs": 1, "batch": 8, "lr": 0.05, "workers": 0},
        "fusion": {"imgsz": 32, "epochs": 5},
    },
    "rows": {
        "outlines": {"detector": "classifier", "data": "contexts:outlines,train=16,size=32", "train": {"epochs": 2}},
        "grounds": {"detector": "classifier", "data": "contexts:grounds,train=16,size=32", "train": {"epochs": 2}},
        "foreground": {"detector": "classifier", "start": "outlines", "options": {"freeze": 5}},
        "background": {"detector": "classifier", "start": "grounds", "options": {"freeze": 5}},
        "joint": {"detector": "fusion", "start": ["foreground", "background"]},
        "l2 10": {"detector": "fusion", "start": ["foreground", "background"], "options": {"l2": 10}},
        "retrained": {"detector": "fusion", "start": ["foreground", "grounds"], "options": {"adversarial": ASKED}},
        "as it is": {"detector": "fusion", "weights": "joint"},
    },
    "baseline": "foreground",
}
BOTH = ["foreground", "background"]


def study(**changes):
    return {**STUDY, **changes}


def with_row(**row):
    return study(rows={**STUDY["rows"], "more": {"detector": "fusion", **row}})


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The study, run in this process."""
    return compared_here(STUDY, tmp_path_factory.mktemp("contexts"))


def test_fused_rows_start_from_two_rows_of_their_seed_and_are_compared_with_the_classifier(done):
    content = json.loads((done / "table.json").read_text())
    rows = {row["name"]: row for row in content["rows"]}
    assert content["baseline"] == ["foreground"] and len(rows["joint"]["deltas"]) == 2
    for seed in (0, 1):
        state = torch.load(done / f"joint-{seed}/last.pt", weights_only=True)["state_dict"]
        for half in ("foreground", "background"):
            own = nets.read(done / f"{half}-{seed}/last.pt")[0]
            assert all(torch.equal(state[f"{half}.{name}"], value) for name, value in own.items())
        record = json.loads((done / f"joint-{seed}/run.json").read_text())
        assert record["spec"]["start"] == [f"{{out}}/{half}-{seed}/last.pt" for half in ("foreground", "background")]
        assert record["files"].keys() == {*record["spec"]["start"]}, "both halves are part of what it was made from"
    assert rows["as it is"]["by seed"] == rows["joint"]["by seed"]
    assert rows["joint"]["parameters M"] == pytest.approx(2 * rows["foreground"]["parameters M"], abs=0.02)
    means = [fusion.mean_theta(fusion.rebuild(done / f"{row}-0/last.pt")) for row in ("joint", "l2-10")]
    assert means[1]["foreground"] < means[0]["foreground"]
    assert "row l2 10: l2: 10" in (done / "table.md").read_text() and "group own ground" in content["metrics"]


def test_a_fused_row_is_run_again_when_one_of_its_halves_is(done, tmp_path, monkeypatch):
    out = shutil.copytree(done, tmp_path / "out")
    monkeypatch.setattr(compare_module, "start", lambda run, device: pytest.fail(f"{run.name} was started"))
    monkeypatch.setattr(compare_module, "TIMED", 1)
    compare(STUDY, out, device="cpu")
    shutil.rmtree(out / "background-1")
    with pytest.raises(ValueError, match=r"joint-1, .*l2-10-1 started from weights that will be trained again"):
        compare(STUDY, out, device="cpu")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (with_row(), r"row 'more': start: is None; a fused network wants two: \[foreground, background\]"),
        (with_row(start=["foreground"]), r"start: is \['foreground'\]; a fused network wants two"),
        (with_row(start="foreground"), r"start: is 'foreground'; a fused network wants two"),
        (with_row(start=["foreground", "background", "grounds"]), r"; a fused network wants two: "),
        (with_row(start=["foreground", None]), r"start: is \['foreground', None\]; a fused network wants two"),
        (with_row(start=["foreground", "backgroud"]), r"no row 'backgroud' \(did you mean 'background'\?\)"),
        (with_row(start=["foreground", "joint"]), r"'joint', which is no classifier; only classifiers are fused"),
        (with_row(start=["foreground", "more"]), r"row 'more' starts from itself; give it other weights"),
        (with_row(weights="foreground"), r"row 'more' starts from 'foreground', which is another detector"),
        (with_row(detector="classifier", start="joint"), r"starts from 'joint', which is another detector"),
        (with_row(detector="classifier", start=["a", "b"]), r"start: is \['a', 'b'\]; wanted a file, or the name of"),
        (
            with_row(start=BOTH, enhance="clahe"),
            r"enhance: is for detectors; remove it for a fus",
        ),
        (
            with_row(start=BOTH, model="a.yaml"),
            r"model: is for yolo; fusion is built from train",
        ),
        (
            study(train={"classifier": STUDY["train"]["classifier"]}),
            r"row 'joint': train: of the study says nothing",
        ),
        (study(measure="coco"), r"measure: coco wants detector: yolo"),
    ],
)
def test_a_study_that_cannot_be_is_refused_when_it_is_read(content, message):
    with pytest.raises(ValueError, match=message):
        read_study(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (with_row(start=BOTH, options={"l2": -1}), r"more, seed 0: l2 is -1; wanted a number, 0 or more"),
        (
            with_row(start=BOTH, options={"l3": 1}),
            r"more, seed 0: no argument l3; choose from l2, epochs",
        ),
        (with_row(start=BOTH, options={"freeze": 1}), r"more, seed 0: no argument freeze.*; choose from l2, epochs"),
        (with_row(start=BOTH, options={"lr": 0}), r"more, seed 0: lr is 0; wanted a number above 0"),
        (with_row(start=BOTH, options={"adversarial": "free"}), r"more, seed 0: adversarial: free improves its change"),
        (
            with_row(start=["grounds", "background"], options={"adversarial": ASKED}),
            r"more, seed 0: adversarial: .*which has learnt other classes \(stripes, checks, .*\) than disc, box",
        ),
        (with_row(start=["foreground", "nowhere.pt"]), r"more, seed 0: there are no weights nowhere\.pt"),
        (
            study(train={**STUDY["train"], "fusion": {"imgsz": 64}}, rows={**STUDY["rows"]}, data="contexts:unknown"),
            r"no contexts:unknown",
        ),
        (study(baseline="grounds"), r"grounds, seed 0: it knows stripes, checks"),
    ],
)
def test_what_would_fail_in_a_run_is_refused_before_the_first_one(content, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compare_module, "start", lambda run, device: pytest.fail(f"{run.name} was started"))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        compare(content, "out", device="cpu")
    assert not Path("out").exists()


def test_published_weights_are_named_in_a_study_as_for_a_classifier(tmp_path):
    plan = read_study(with_row(start=["resnet18", "places/resnet18_places365.pth.tar"]))
    [run] = [run for run in runs_of(plan, tmp_path) if run.name == "more, seed 0"]
    assert run.spec["start"] == ["resnet18", "places/resnet18_places365.pth.tar"] and run.source_rows == ()


def test_the_study_of_the_documentation_is_one(tmp_path):
    text = (Path(__file__).parents[1] / "docs/fusion.md").read_text(encoding="utf-8")
    first, second = re.findall(r"```yaml\n(.*?)```", text, re.S)
    plan = read_study(yaml.safe_load(first))
    assert [*plan["rows"]] == ["outlines", "grounds", "foreground", "background", "joint", "l2 1"]
    assert plan["baseline"] == {"classifier": "foreground", "fusion": "foreground"}
    check_models(runs_of(plan, tmp_path), "cpu")
    head = {key: plan[key] for key in ("data", "split", "measure", "seeds")}
    assert len(runs_of(read_study({**head, **yaml.safe_load(second)}), tmp_path)) == 6


def test_the_study_of_the_paper_s_figures_has_its_rows_and_can_be_run(tmp_path):
    plan = read_study(Path(__file__).parents[1] / "scripts/studies/contexts-fusion.yaml")
    fused = {name: row for name, row in plan["rows"].items() if row["detector"] == "fusion"}
    l2 = {name: row.get("options", {}).get("l2", 0) for name, row in fused.items()}
    assert l2 == {"joint": 0, "l2 0.1": 0.1, "l2 1": 1, "l2 10": 10, "joint retrained": 0}
    assert {"foreground", "background", "foreground retrained"} < {*plan["rows"]} and plan["seeds"] == [0, 1, 2]
    check_models(runs_of(plan, tmp_path), "cpu")
