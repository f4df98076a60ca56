"""Classifiers: the nets, the weights that others publish, and the strategies of training."""

import copy
import csv

import numpy as np
import pytest
import torch

from yolo_wnlb.attacks import random_direction
from yolo_wnlb.classifiers import detector, nets
from yolo_wnlb.classifiers.fit import cross_entropy, fit, linear_decay, order_of, steps_of
from yolo_wnlb.classifiers.nets import ARCHS, Classifier, build, freeze_layers, prepared, read_weights
from yolo_wnlb.data.folders import read
from yolo_wnlb.metrics.accuracy import score
from yolo_wnlb.yolo.adversarial import Attack, read_request

SOURCE = "containers:S1,train=16,test=9,size=32"
QUICK = {"epochs": 2, "batch": 6, "imgsz": 32, "lr": 0.05, "workers": 0, "device": "cpu", "progress": False}


def fresh(seed=0, arch="resnet10", classes=None, weights=None):
    torch.manual_seed(seed)
    return build(arch, classes or read(SOURCE, "train").classes, weights)


def train(out, model=None, **options):
    """Train on 16 containers; returns the state dict."""
    model = model or fresh()
    file = fit(model, read(SOURCE, "train"), out, **{**QUICK, **options})
    return torch.load(file, weights_only=True)["state_dict"]


def same(first, second, names=None):
    return [name for name in (first if names is None else names) if not torch.equal(first[name], second[name])] == []


# ---- nets and weights ----------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHS)
def test_every_net_is_torchvisions_and_normalises_inside(arch):
    with torch.device("meta"):
        assert build(arch, ["a", "b", "c"]).net.fc.out_features == 3
    assert (
        sum(p.numel() for p in ARCHS["resnet10"](num_classes=4).parameters())
        == 9_536 + 73_984 + 230_144 + 919_040 + 3_673_088 + 2_052
    )
    model = fresh().eval()
    x = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    assert torch.equal(model(x), model.net((x - mean) / std))


def as_salman(state, inner=""):
    """The form of Salman et al.: the model, the attacker's copy of it, and two normalisers."""
    entries = {f"module.model.{inner}{name}": value for name, value in state.items()}
    entries |= {f"module.attacker.model.{inner}{name}": value + 1 for name, value in state.items()}
    entries |= {
        f"module.{place}.new_{what}": torch.ones(1, 3, 1, 1)
        for place in ("normalizer", "attacker.normalize")
        for what in ("mean", "std")
    }
    return {"model": entries, "epoch": 90, "optimizer": {"state": {}, "param_groups": []}}


FORMS = {
    "torchvision": lambda state: state,
    "Salman": as_salman,
    "Salman, wrapped twice": lambda state: as_salman(state, "model."),
    "DataParallel": lambda state: {f"module.{name}": value for name, value in state.items()},
    "Places365": lambda state: {
        "state_dict": {f"module.{name}": value for name, value in state.items()},
        "arch": "resnet18",
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_published_weights_load_without_a_missing_key_and_keep_the_new_last_layer(form, tmp_path):
    source = ARCHS["resnet10"](num_classes=1000)
    for value in source.state_dict().values():
        value.copy_(torch.rand_like(value) if value.is_floating_point() else value + 3)
    torch.save(FORMS[form](source.state_dict()), tmp_path / "weights.ckpt")
    found, classes = read_weights(tmp_path / "weights.ckpt")
    assert found.keys() == source.state_dict().keys() and classes == []
    start, model = fresh(1), fresh(1, weights=tmp_path / "weights.ckpt")
    body = [name for name in found if not name.startswith("fc.")]
    assert same(model.net.state_dict(), found, body) and same(model.net.fc.state_dict(), start.net.fc.state_dict())
    assert model.recipe["start"] == "weights.ckpt"


def test_weights_of_ours_keep_the_last_layer_for_the_same_classes_only(tmp_path):
    trained = train(tmp_path, epochs=1)
    again = fresh(5, weights=tmp_path / "last.pt").state_dict()
    assert same(again, trained)
    other = fresh(5, classes=["x", "y"], weights=tmp_path / "last.pt").state_dict()
    assert same(other, trained, [name for name in trained if ".fc." not in name]) and other["net.fc.bias"].shape == (2,)


def test_the_names_of_published_weights_are_those_that_a_study_takes():
    from yolo_wnlb.study.plan import NAMED

    assert tuple(nets.PUBLISHED) == NAMED["classifier"] and {*nets.PUBLISHED} < {*ARCHS}
    assert all("download.pytorch.org" in weights.url for weights in nets.PUBLISHED.values())


def test_pictures_of_any_shape_are_fitted_into_a_square():
    wide = np.zeros((10, 40, 3), np.uint8)
    wide[..., 2] = 200  # red, in BGR
    square = prepared(wide, 32)
    assert square.shape == (3, 32, 32) and square[:, 16, 16].tolist() == [200, 0, 0]
    assert square[:, 0, 0].tolist() == [114] * 3 and (square[0] == 200).sum() == 8 * 32
    exact = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    assert np.array_equal(prepared(exact, 32), exact[..., ::-1].transpose(2, 0, 1))


# ---- what a training is made of ------------------------------------------------------------------


def test_the_learning_rate_falls_linearly_to_nothing(tmp_path):
    assert [linear_decay(0.1, step, 4) for step in range(4)] == pytest.approx([0.1, 0.075, 0.05, 0.025], abs=1e-15)
    rates = []
    original = torch.optim.SGD.step

    def spy(self, *args, **kwargs):
        rates.append(self.param_groups[0]["lr"])
        return original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.SGD, "step", spy)
        train(tmp_path)
    assert rates == [0.05 * (1 - step / 6) for step in range(6)], "16 pictures in batches of 6, 2 epochs"
    log = list(csv.DictReader((tmp_path / "log.csv").open()))
    assert [float(row["lr"]) for row in log] == [rates[2], rates[5]] and float(log[0]["loss"]) > 0


def test_a_last_batch_of_one_picture_is_left_out():
    assert [steps_of(n, 4) for n in (3, 4, 5, 6, 8, 9)] == [1, 1, 1, 2, 2, 2]


def test_balanced_draws_every_class_equally_often():
    labels, n = [0] * 900 + [1] * 100, 0
    for seed in range(20):
        n += sum(labels[index] for index in order_of(labels, True, np.random.default_rng(seed)))
    assert abs(n - 10_000) < 3 * (20_000 * 0.25) ** 0.5, "3 standard deviations of the binomial"
    plain = order_of(labels, False, np.random.default_rng(0))
    assert sorted(plain) == list(range(1000)) and plain != sorted(plain)


@pytest.mark.parametrize("layers", range(6))
def test_frozen_layers_stay_as_they_are_statistics_of_their_norms_included(layers, tmp_path):
    start = copy.deepcopy(fresh().state_dict())
    end = train(tmp_path, epochs=1, freeze=layers)
    stages = ["net.conv1", "net.bn1", *(f"net.layer{i}" for i in range(1, 5))][: layers and layers + 2]
    frozen = [name for name in start if name.startswith(tuple(f"{stage}." for stage in stages))] if stages else []
    assert same(start, end, frozen)
    constant = ("mean", "std")
    moved = [name for name in start if name not in frozen and not torch.equal(start[name], end[name])]
    assert moved == [name for name in start if name not in frozen and name not in constant]
    assert (layers == 1) <= ({"net.bn1.running_mean", "net.layer1.0.conv1.weight"} <= {*frozen})


RESUMED = [
    {},
    {"balanced": True, "crop": 0.125, "freeze": 1},
    {"adversarial": {"steps": 2}},
    {"adversarial": {"method": "fgsm"}},
    {"adversarial": {"method": "free", "replays": 2}},
]


@pytest.mark.parametrize("options", RESUMED, ids=lambda options: "-".join(map(str, options)) or "plain")
def test_a_resumed_training_equals_an_uninterrupted_one_bit_for_bit(options, tmp_path):
    whole = train(tmp_path / "whole", epochs=3, **options)
    model = fresh()

    def stop(*args):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        import yolo_wnlb.classifiers.fit as module

        write = module.write_log
        patch.setattr(module, "write_log", lambda path, log: stop() if len(log) == 2 else write(path, log))
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "parts", model, epochs=3, **options)
    torch.manual_seed(99)  # whatever the process has drawn meanwhile
    torch.rand(5)
    assert same(whole, train(tmp_path / "parts", epochs=3, resume=True, **options))
    if not options:
        assert same(whole, train(tmp_path / "workers", epochs=3, workers=2)), "nor does their number change it"
    with pytest.raises(ValueError, match=r"cannot be resumed, for this is another training: lr was 0\.05, now 0\.01"):
        train(tmp_path / "parts", epochs=3, resume=True, lr=0.01, **options)


def test_the_log_is_whole_where_a_training_was_killed_behind_its_last_checkpoint(tmp_path):
    import yolo_wnlb.classifiers.fit as module

    def stop(path, log, write=module.write_log):
        if len(log) == 2:
            raise KeyboardInterrupt
        write(path, log)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "write_log", stop)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, epochs=2)
    train(tmp_path, epochs=2, resume=True)
    assert [row["epoch"] for row in csv.DictReader((tmp_path / "log.csv").open())] == ["1", "2"]


def test_numbers_of_numpy_are_numbers_and_the_checkpoint_is_read_without_it(tmp_path):
    options = {"lr": 0.05, "epochs": 1, "seed": 3, "crop": 0.125, "freeze": 1}
    attack = {"norm": "l2", "eps": 0.25, "steps": 1}
    train(
        tmp_path,
        **{name: np.array(value)[()] for name, value in options.items()},
        adversarial={**attack, "eps": np.float64(0.25)},
    )
    assert detector.load(tmp_path / "last.pt", "cpu")
    train(tmp_path, resume=True, **options, adversarial=attack)


def test_it_learns_a_few_pictures_by_heart_and_is_loaded_again(tmp_path):
    data = read(SOURCE, "train")
    train(tmp_path, epochs=25, flip=0.0, batch=8)
    model = detector.load(tmp_path / "last.pt", "cpu")
    assert detector.reads(tmp_path / "last.pt") and tuple(detector.names(model).values()) == data.classes
    found = detector.predict(model, data)
    assert found.shape == (16, 4) and np.allclose(found.sum(1), 1, atol=1e-5)
    result = score(data, found, data.classes, detector.describe(model))
    assert result.numbers()["accuracy"] > 0.9
    assert np.array_equal(detector.predict(model, data, places=[3]), found[3:4]) or np.allclose(
        detector.predict(model, data, places=[3]), found[3:4], atol=1e-5
    )
    assert detector.describe(model)["image_size"] == "32x32"


# ---- attacks -------------------------------------------------------------------------------------


def batch(number=6):
    """The first pictures as a training sees them."""
    data = read(SOURCE, "train")
    x = torch.from_numpy(np.stack([prepared(data.read(i), 32) for i in range(number)])).float() / 255
    return {"img": x, "cls": torch.tensor(data.labels[:number])}


@pytest.mark.parametrize(
    "asked",
    [
        {"norm": "l2", "eps": 0.5, "steps": 3},
        {"norm": "linf", "eps": "4/255", "steps": 2},
        {"method": "fgsm", "norm": "linf", "eps": 8 / 255},
    ],
)
def test_an_attacked_batch_is_near_the_clean_one_and_changes_nothing_in_the_model(asked):
    request, model, clean = read_request(asked), fresh().train(), batch()
    frozen = freeze_layers(model, 1)
    for module in frozen:
        module.eval()
    before = copy.deepcopy(model.state_dict())
    found = Attack(request, 0)(cross_entropy, model, clean)["img"]
    assert same(before, model.state_dict()) and all(p.grad is None for p in model.parameters())
    assert model.training and not frozen[1].training and found.min() >= 0 and found.max() <= 1
    change = (found - clean["img"]).flatten(1)
    size = change.norm(dim=1) if request["norm"] == "l2" else change.abs().amax(1)
    eps = request["eps"] * (32 / 224 if request["norm"] == "l2" else 1)
    assert (size <= eps * (1 + 1e-5)).all() and (size > 0.5 * eps).all()


def test_an_attack_costs_a_trained_classifier_more_than_random_signs_of_the_same_size(tmp_path):
    train(tmp_path, epochs=12, flip=0.0, batch=8)
    model, clean = detector.load(tmp_path / "last.pt", "cpu").module, batch(16)
    signs = random_direction(clean["img"], "linf", 4 / 255, torch.Generator().manual_seed(0))
    hit = Attack(read_request({"norm": "linf", "eps": 4 / 255, "steps": 3}), 0)(cross_entropy, model, clean)
    with torch.no_grad():
        losses = [cross_entropy(model, each)[0].item() for each in (clean, {**clean, "img": signs}, hit)]
    assert losses[2] > losses[1] + 0.1 and losses[2] > losses[0] + 0.1


@pytest.mark.parametrize("method", ["pgd", "fgsm", "free"])
def test_a_training_sees_attacked_pictures_and_free_each_batch_several_times(method, tmp_path):
    seen, original = [], Classifier.forward

    def spy(self, x):
        seen.append(x.detach().clone())
        return original(self, x)

    options = {"pgd": {"steps": 2}, "free": {"replays": 2, "norm": "linf", "eps": 0.01}}.get(method, {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "forward", spy)
        train(tmp_path, epochs=1, adversarial={"method": method, **options})
    whole = [bool(((x * 255) - (x * 255).round()).abs().max() < 1e-3) for x in seen]  # codes of 8 bits: not attacked
    assert (
        whole
        == {
            "pgd": [True, False, False] * 3,  # two gradients, then the step, for each of three batches
            "fgsm": [False, False] * 3,  # from a random start
            "free": [True, False, False],  # starts at 0; two batches, of which the second comes once
        }[method]
    )
    if method == "free":
        assert (seen[1] - seen[0]).abs().max() <= 0.01 + 1e-6 and len(seen[2]) == 6


def test_the_attack_is_part_of_what_a_training_is_resumed_with(tmp_path, log):
    train(tmp_path, epochs=1, adversarial=True)
    assert "pgd, l2, eps 0.5 at 224 x 224 pixels, 0.07143 at 32 x 32" in "".join(log)
    with pytest.raises(ValueError, match=r"adversarial was \{.*'steps': 10.*\}, now None"):
        train(tmp_path, epochs=1, resume=True)


# ---- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"freeze": 6}, r"freeze is 6; wanted a whole number from 0 \(all layers learn\) to 5"),
        ({"freeze": True}, r"freeze is True; wanted a whole number"),
        ({"batch": 1}, r"batch is 1; wanted a whole number, 2 or more"),
        ({"epochs": 0}, r"epochs is 0; wanted a whole number, 1 or more"),
        ({"imgsz": 16}, r"imgsz is 16; wanted a whole number, 32 or more"),
        ({"lr": 0}, r"lr is 0; wanted a number above 0"),
        ({"flip": 2}, r"flip is 2; wanted a number, from 0 to 1"),
        ({"crop": 0.9}, r"crop is 0\.9; wanted a number, from 0 to 0\.5"),
        ({"balanced": "yes"}, r"balanced is 'yes'; wanted true or false"),
        ({"adversarial": 3}, r"adversarial is 3; wanted a method \(pgd, fgsm, free\), True for pgd, or options"),
        ({"adversarial": {"epsilon": 1}}, r"adversarial: no option 'epsilon'.*; choose from method, norm, eps"),
        (
            {"adversarial": {"norm": "linf", "eps": 8}},
            r"adversarial: eps is 8 in linf; .*; did you mean 8/255 = 0\.0314\?",
        ),
        (
            {"adversarial": {"method": "free", "norm": "l2", "eps": 1}},
            r"free takes whole steps of eps and has no l2 form",
        ),
        ({"adversarial": {"method": "fgsm", "steps": 3}}, r"adversarial: steps has no meaning for fgsm"),
    ],
)
def test_an_argument_out_of_range_is_refused(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_unknown_nets_weights_and_classes_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no arch 'resnet81' \(did you mean 'resnet18'\?\); choose from resnet10"):
        build("resnet81", ["a", "b"])
    with pytest.raises(ValueError, match=r"classes are a, a; wanted two or more, each once"):
        build("resnet10", ["a", "a"])
    with pytest.raises(FileNotFoundError, match=r"there are no weights resnt18 \(did you mean 'resnet18'\?\)"):
        build("resnet18", ["a", "b"], "resnt18")
    torch.save(ARCHS["resnet18"](num_classes=2).state_dict(), tmp_path / "18.pt")
    with pytest.raises(ValueError, match=r"18\.pt does not fit resnet10: 0 tensors are missing, \d+ have no place"):
        build("resnet10", ["a", "b"], tmp_path / "18.pt")
    state = ARCHS["resnet10"](num_classes=2).state_dict()
    state["conv1.weight"][0] = float("nan")
    torch.save(state, tmp_path / "nan.pt")
    with pytest.raises(ValueError, match=r"nan\.pt: conv1\.weight holds NaN"):
        build("resnet10", ["a", "b"], tmp_path / "nan.pt")
    with pytest.raises(ValueError, match=r"18\.pt is no classifier that yolo_wnlb trained"):
        detector.load(tmp_path / "18.pt", "cpu")
    with pytest.raises(ValueError, match=r"built for the classes x, y, and containers:S1.* has 0 %, 50 %"):
        fit(build("resnet10", ["x", "y"]), read(SOURCE, "train"), tmp_path / "out", **QUICK)
    train(tmp_path / "there", epochs=1)
    with pytest.raises(FileExistsError, match=r"last\.pt exists; go on with resume=True"):
        train(tmp_path / "there", epochs=1)
    with pytest.raises(FloatingPointError, match=r"the loss is not finite in step \d of 3; lower lr"):
        train(tmp_path / "wild", lr=1e10, epochs=9)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"arch": ["resnet10"]}, r"is damaged: it does not say which network, classes and size"),
        ({"classes": [1, 2, 3, 4]}, r"is damaged: it does not say"),
        ({"classes": ["a", "b"]}, r"does not fit resnet10: .*net\.fc\.weight is \(4, 512\), wanted \(2, 512\)"),
        ({"classes": ["a"]}, r"classes are a; wanted two or more"),
        ({"imgsz": 1.5}, r"is damaged: it does not say"),
        ({"training": None}, r"is damaged: it does not say"),
        ({"format": "yolo_wnlb classifier 2"}, r"is no classifier that yolo_wnlb trained"),
    ],
)
def test_a_damaged_checkpoint_is_named(damage, message, tmp_path):
    model = fresh()
    nets.save(model, tmp_path / "a.pt")
    assert detector.load(tmp_path / "a.pt", "cpu").imgsz == 224
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    torch.save({**content, "meta": {**content["meta"], **damage}}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=message):
        detector.load(tmp_path / "a.pt", "cpu")
    with pytest.raises(FileNotFoundError, match=r"there is no classifier b\.pt; train one first"):
        detector.load("b.pt", "cpu")


def test_freezing_less_again_lets_all_layers_learn():
    model = fresh()
    freeze_layers(model, 5)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["net.fc.weight", "net.fc.bias"]
    assert freeze_layers(model, 0) == [] and all(p.requires_grad for p in model.parameters())
