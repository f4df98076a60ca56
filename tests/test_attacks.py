"""Attacks: against closed forms of linear classifiers, and the promises that `perturb` makes for any network."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from yolo_wnlb import attacks
from yolo_wnlb.attacks import KEPT, NORMS, STARTS, check_strength, keep_statistics, perturb, radius, random_direction


def pictures(number=4, *shape, dtype=torch.float32):
    """Pictures of random pixels, of which a third are black and a third are white."""
    x = torch.rand(number, *(shape or (3, 8, 12)), generator=torch.Generator().manual_seed(1), dtype=dtype)
    return (3 * x - 1).clamp(0, 1)


def lengths(delta, norm):
    return torch.linalg.vector_norm(delta.flatten(1).double(), {"linf": math.inf, "l2": 2}[norm], dim=1)


def small_network(norm=nn.BatchNorm2d):
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3), norm(8, track_running_stats=True), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten()
    return nn.Sequential(*layers)


def bumpy(x):
    """A loss with many local maxima."""
    return (20 * x).sin().flatten(1).sum(1)


# ---- closed forms --------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 10])
@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
def test_the_loss_of_a_linear_classifier_is_that_at_its_margin_minus_eps_times_the_dual_norm(norm, dual, steps):
    """Of the logistic loss log(1 + exp(-m)), m = y (w.x + b), the maximum over the ball is that at m - eps |w|_dual."""
    g = torch.Generator().manual_seed(0)
    w = torch.randn(3, 6, 5, generator=g, dtype=torch.float64)
    x = 0.4 + 0.2 * torch.rand(7, 3, 6, 5, generator=g, dtype=torch.float64)  # far from 0 and 1
    y = torch.tensor([1, -1, 1, 1, -1, -1, 1.0]).double()

    def margin(x):
        return y * ((x * w).flatten(1).sum(1) + 0.3)

    attacked = perturb(x, lambda x: F.softplus(-margin(x)), norm, eps := 0.05, steps)
    wanted = F.softplus(-(margin(x) - eps * torch.linalg.vector_norm(w, dual)))
    torch.testing.assert_close(F.softplus(-margin(attacked)), wanted, rtol=0, atol=1e-6)


def test_a_step_is_the_one_that_was_asked_for():
    x = torch.full((2, 3, 4, 4), 0.5)
    loss = lambda x: x.flatten(1).sum(1)  # noqa: E731
    assert torch.allclose(perturb(x, loss, "linf", 0.1, 3, step=0.02), x + 0.06)
    assert torch.allclose(lengths(perturb(x, loss, "l2", 0.5, 2, step=0.1) - x, "l2"), torch.tensor(0.2).double())
    assert attacks.default_step(0.3, 1) == 0.3 and attacks.default_step(0.4, 10) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("norm", "height", "width", "wanted"),
    [("l2", 160, 320, 226.274170), ("l2", 224, 224, 224), ("l2", 640, 640, 640), ("linf", 640, 640, 224)],
)
def test_an_l2_radius_grows_with_the_root_of_the_number_of_pixels(norm, height, width, wanted):
    assert radius(norm, 0.5, height, width) == pytest.approx(0.5 * wanted / 224)


# ---- promises --------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", KEPT)
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("eps", [0, 1 / 255, 0.3, 3.0])
@pytest.mark.parametrize("norm", NORMS)
def test_the_result_is_in_the_ball_and_a_picture(norm, eps, steps, start, keep):
    x = pictures(dtype=torch.float64)
    attacked = perturb(x, bumpy, norm, eps, steps, step=eps, start=start, keep=keep)
    assert attacked.min() >= 0 and attacked.max() <= 1
    assert (lengths(attacked - x, norm) <= eps * (1 + 1e-6) + 1e-15).all()
    single = perturb(x.float(), bumpy, norm, eps, steps, step=eps, start=start, keep=keep)
    assert single.dtype == torch.float32 and single.min() >= 0 and single.max() <= 1
    assert (lengths(single - x.float(), norm) <= eps * (1 + 1e-6) + (1e-7 if norm == "linf" else 1e-6)).all()


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.InstanceNorm2d, nn.SyncBatchNorm])
@pytest.mark.parametrize("training", [True, False])
def test_buffers_gradients_and_modes_are_as_before(norm, training):
    if norm is nn.SyncBatchNorm and training:
        pytest.skip("synchronised norms run on a GPU only")
    model = small_network(norm).train(training)
    buffers = {name: tensor.clone() for name, tensor in model.named_buffers()}
    with keep_statistics(model):
        attacked = perturb(pictures(), lambda x: model(x).square().sum(), "linf", 0.1, 3)
    assert not torch.equal(attacked, pictures())
    assert all(torch.equal(tensor, buffers[name]) for name, tensor in model.named_buffers())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(module.training == training for module in model)
    assert model[1].momentum == 0.1 and model[1].track_running_stats
    model.train()(pictures())
    assert any(not torch.equal(tensor, buffers[name]) for name, tensor in model.named_buffers())


def test_statistics_are_kept_when_the_attack_fails():
    model = small_network()
    with pytest.raises(RuntimeError, match="out of memory"), keep_statistics(model):
        raise RuntimeError("out of memory")
    assert model[1].momentum == 0.1 and model[1].track_running_stats


def test_norms_see_the_statistics_of_the_batch_during_the_attack():
    model = small_network().train()
    x = pictures()
    wanted = model(x)
    model = small_network().train()
    with keep_statistics(model):
        assert torch.equal(model(x), wanted)


@pytest.mark.parametrize("norm", NORMS)
def test_each_picture_is_attacked_as_if_it_were_alone(norm):
    model = small_network().eval()
    x = pictures()

    def loss(x):
        return model(x).square().sum(1)

    together = perturb(x, loss, norm, 0.1, 5)
    alone = torch.cat([perturb(picture[None], loss, norm, 0.1, 5) for picture in x])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_the_best_point_of_each_picture_is_kept():
    """A peak halfway, and steps that overshoot it: the last point is worse than one before."""
    x = torch.tensor([[0.5], [0.1]])

    def loss(x):
        return -(x - 0.52).abs().flatten(1).sum(1)

    last = perturb(x, loss, "linf", 0.3, 2, step=0.3, keep="last")
    best = perturb(x, loss, "linf", 0.3, 2, step=0.3, keep="best")
    assert (loss(best) >= loss(x)).all() and (loss(best) >= loss(last)).all()
    assert torch.equal(best[0], x[0]) and best[1].item() == pytest.approx(0.4)
    whole = perturb(x, lambda x: loss(x).sum(), "linf", 0.3, 2, step=0.3)
    assert loss(whole).sum() >= loss(x).sum()


def test_small_gradients_have_a_direction_too():
    x = torch.full((1, 2), 0.5)
    attacked = perturb(x, lambda x: (1e-30 * x).sum(1), "l2", 0.1, 1)
    torch.testing.assert_close(attacked, x + 0.1 / math.sqrt(2))


def test_a_picture_without_a_gradient_stays_and_leaves_the_others_alone():
    x = torch.full((2, 3), 0.5)
    for norm in NORMS:
        attacked = perturb(x, lambda x: (x * torch.tensor([[0.0], [1.0]])).sum(1), norm, 0.1, 3)
        assert torch.equal(attacked[0], x[0]) and not torch.equal(attacked[1], x[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("norm", NORMS)
def test_under_autocast_attacks_are_finite_and_training_keeps_its_gradients(norm, dtype):
    model, x = small_network().train(), pictures()
    with torch.autocast("cpu", dtype):
        with keep_statistics(model):
            attacked = perturb(x, lambda x: 1e-4 * model(x).float().square().sum(1), norm, 0.1, 3)
        model(attacked).float().sum().backward()
    assert attacked.isfinite().all() and not torch.equal(attacked, x)
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_an_overflow_of_the_scaled_loss_is_met_by_a_smaller_scale():
    x = torch.full((1, 4), 0.5)

    def loss(x):
        return (x.half() * 200).sum(1).float() * 10  # its gradient leaves the range of 16 bits at a scale of 1024

    assert torch.allclose(perturb(x, loss, "l2", 0.1, 1), x + 0.05)


def test_it_works_inside_no_grad_and_inference_mode():
    model = small_network().eval()
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            attacked = perturb(pictures(), lambda x: model(x).sum(1), "linf", 0.1, 2)
        assert not attacked.requires_grad and not torch.equal(attacked, pictures())


def test_a_generator_of_its_own_decides_on_the_start():
    state = torch.get_rng_state()
    runs = [
        perturb(pictures(), bumpy, "l2", 0.1, 1, start="random", generator=torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    ]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("norm", "wanted"), [("linf", 0.5), ("l2", 10 / 11)])
def test_the_random_start_is_drawn_evenly_from_the_ball(norm, wanted):
    """The mean size of a value in [-1, 1] is 1/2; the mean length in a ball of n = 10 dimensions is n / (n + 1)."""
    delta = attacks.random_point(torch.zeros(4000, 10), norm, 2.0, torch.Generator().manual_seed(0))
    mean = delta.abs().mean() if norm == "linf" else delta.norm(dim=1).mean()
    assert mean.item() / 2 == pytest.approx(wanted, abs=0.01)


@pytest.mark.parametrize("norm", NORMS)
def test_the_control_goes_as_far_as_an_attack_may(norm):
    x = torch.full((3, 3, 8, 8), 0.5)
    control = random_direction(x, norm, 0.1, torch.Generator().manual_seed(0))
    torch.testing.assert_close(lengths(control - x, norm), torch.full((3,), 0.1).double(), rtol=1e-5, atol=0)
    assert control.mean().item() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("norm", NORMS)
def test_an_attack_costs_a_trained_network_far_more_than_its_control(norm):
    """Of a network that tells faint vertical from faint horizontal stripes."""
    generator = torch.Generator().manual_seed(0)
    x = 0.5 + 0.1 * torch.randn(64, 3, 16, 16, generator=generator)
    y = torch.arange(64) % 2
    x[y == 0] += 0.1 * torch.tensor([1.0, -1.0]).repeat(8)
    x[y == 1] += 0.1 * torch.tensor([1.0, -1.0]).repeat(8)[:, None]
    x = x.clamp(0, 1)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)
    )
    optimizer = torch.optim.Adam(model.parameters(), 0.03)
    for _ in range(40):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    model.eval()

    def loss(x):
        return F.cross_entropy(model(x), y, reduction="none")

    eps = {"linf": 8 / 255, "l2": 0.6}[norm]
    with torch.no_grad():
        clean = loss(x).mean()
        control = loss(random_direction(x, norm, eps, generator)).mean()
        fgsm, pgd = (loss(perturb(x, loss, norm, eps, steps)).mean() for steps in (1, 10))
    assert abs(control - clean) < 0.2 * (fgsm - clean)
    assert fgsm > 2 * clean and pgd > fgsm - 1e-4


# ---- mistakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"norm": "l1"}, ValueError, "norm is 'l1'.*choose from linf, l2"),
        ({"start": "ranom"}, ValueError, "start is 'ranom' .did you mean 'random'"),
        ({"keep": "first"}, ValueError, "keep is 'first'.*choose from best, last"),
        ({"eps": -1}, ValueError, "eps is -1; wanted a finite number"),
        ({"eps": math.nan}, ValueError, "eps is nan"),
        ({"steps": 0}, ValueError, "steps is 0; wanted at least 1"),
        ({"x": torch.zeros(1, 3, dtype=torch.uint8)}, TypeError, "torch.uint8; wanted floating point.*divide"),
        ({"x": torch.full((1, 3), 255.0)}, ValueError, r"from 255 to 255; wanted values in \[0, 1\]"),
        ({"x": torch.full((1, 3), math.nan)}, ValueError, "from nan to nan"),
        ({"loss": lambda x: x.detach().sum()}, ValueError, "does not depend on the pictures"),
        ({"loss": lambda x: x.sum() / 0}, FloatingPointError, "the loss of the pictures is not finite"),
        ({"loss": lambda x: (x - x).sqrt().sum()}, FloatingPointError, "the gradient of the loss is not finite"),
    ],
)
def test_a_mistake_is_named(change, kind, message):
    arguments = {"x": torch.full((1, 3), 0.5), "loss": torch.sum, "norm": "linf", "eps": 0.1, "steps": 1}
    with pytest.raises(kind, match=message):
        perturb(**{**arguments, **change})


@pytest.mark.parametrize(
    ("norm", "eps", "message"),
    [
        ("linf", 8, "eps is 8 in linf; pixels are counted from 0 to 1, and above 0.5.*did you mean 8/255 = 0.0314"),
        ("linf", 0.51, "above 0.5"),
        ("l2", 21, "eps is 21 in l2.*above 20 little is left of a picture of 224 x 224; did you mean 21/255"),
        ("l2", 1000, "did you mean 1000/255 = 3.92"),
        ("linf", 0, "eps is 0; wanted a number above 0"),
        ("linf", True, "eps is True"),
        ("linf", "8/255", "eps is '8/255'; wanted a number above 0, such as 0.031"),
        ("linf", math.inf, "eps is inf"),
        ("L2", 0.5, "norm is 'L2' .did you mean 'l2'"),
    ],
)
def test_a_strength_in_another_unit_is_refused(norm, eps, message):
    with pytest.raises(ValueError, match=message):
        check_strength(norm, eps)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.5), ("linf", 8 / 255), ("l2", 20), ("l2", 0.05)])
def test_a_strength_that_papers_use_is_taken(norm, eps):
    check_strength(norm, eps)
