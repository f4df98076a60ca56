"""Adversarial perturbations of pictures: FGSM and PGD in the linf and the l2 norm. Torch only.

An attack looks for the small change of a picture that raises the loss of a network most:

    maximise L(x + delta)   subject to   |delta|_p <= eps   and   0 <= x + delta <= 1

`perturb` climbs from x with normalised gradients and returns to the ball of radius eps after each step:

    linf    delta <- P(delta + step * sign(g))
    l2      delta <- P(delta + step * g / |g|_2)

where g is the gradient of L at x + delta, and P first projects onto the ball, then clips x + delta to [0, 1]; clipping
only shrinks delta, so the result is in both sets. One step is FGSM, several are PGD. All norms are those of one
picture, never of a batch. Pixels lie in [0, 1]; a network that normalises its input does so inside `loss`.

Goodfellow, Shlens, Szegedy, "Explaining and Harnessing Adversarial Examples", ICLR 2015 (FGSM).
Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018 (PGD).
Modas et al., "Improving Filling Level Classification with Adversarial Training", ICIP 2021, equation 1 (l2).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from yolo_wnlb.words import suggestion

NORMS = ("linf", "l2")
STARTS = ("zero", "random")
KEPT = ("best", "last")
SIDE = 224  # pixels: an l2 radius is meant for a picture of SIDE x SIDE
LARGEST = {"linf": 0.5, "l2": 20.0}  # a larger radius was given in another unit
ROUNDING = 1e-5  # by so much a picture that was resized may leave [0, 1]
SCALES = (2.0**10, 2.0**5, 1.0, 2.0**-5, 2.0**-10)  # of the loss: the first whose gradient is finite in 16 bits


def perturb(
    x: Tensor,
    loss: Callable[[Tensor], Tensor],
    norm: str,
    eps: float | Tensor,
    steps: int,
    step: float | Tensor | None = None,
    start: str = "zero",
    keep: str = "best",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return pictures near `x` at which the loss is high.

    Only the gradient of the picture is computed: the parameters of the network keep their `.grad`. Run the
    attack within `keep_statistics` if the network is in training mode, or its norms will count the attacked pictures.

    Args:
        x: Pictures (B, ...), float, in [0, 1].
        loss: Of pictures like `x`; a tensor (B,) with the loss of each picture, or a single number for the batch.
        norm: "linf" or "l2".
        eps: Radius of the ball around each picture, at least 0. Of an l2 attack it is the length of delta at
            the size that `x` has: `radius` computes it from the one at 224 x 224. Of a linf attack it may be a
            tensor (1, C, 1, 1) with a radius for each channel.
        steps: Number of gradients, at least 1.
        step: Length of a step, in the unit of eps. Default: eps for one step, else 2.5 * eps / steps (Madry et al.).
        start: "zero" starts from `x`, "random" from a point drawn evenly from the ball.
        keep: "best" returns, of all points visited, the one with the highest loss: of each picture if `loss` tells
            them apart, else of the batch; this takes one evaluation more. "last" returns the last point.
        generator: Source of the random start; by default torch's own.

    Returns: x + delta, in [0, 1]; float32, or float64 if x is.

    Raises:
        ValueError: an argument has a value that is not listed above.
        TypeError: x holds integers.
        FloatingPointError: the loss or its gradient is not finite.

    Example:
        >>> perturb(torch.full((1, 2), 0.5), lambda x: x.sum(1), "linf", eps=0.1, steps=1)
        tensor([[0.6000, 0.6000]])
    """
    for name, value, known in (("norm", norm, NORMS), ("start", start, STARTS), ("keep", keep, KEPT)):
        check_choice(name, value, known)
    if not torch.is_floating_point(x):
        raise TypeError(f"the pictures are {x.dtype}; wanted floating point numbers in [0, 1], so divide codes by 255")
    if isinstance(eps, Tensor) and norm != "linf":
        raise ValueError(f"eps is a tensor; {norm} has one radius for all channels, so give a number")
    radii = torch.as_tensor(eps)
    if not (radii.isfinite().all() and (radii >= 0).all()):
        raise ValueError(f"eps is {eps!r}; wanted a finite number, at least 0")
    if steps < 1:
        raise ValueError(f"steps is {steps!r}; wanted at least 1")
    step = default_step(eps, steps) if step is None else step
    with torch.inference_mode(False), torch.enable_grad():
        x = x.detach().clone() if x.dtype == torch.float64 else x.detach().clone().float()
        if x.numel() and not (x.min() >= -ROUNDING and x.max() <= 1 + ROUNDING):
            raise ValueError(f"the pictures reach from {x.min():g} to {x.max():g}; wanted values in [0, 1]")
        x.clamp_(0, 1)
        delta = torch.zeros_like(x)
        if start == "random":
            delta = project(x, random_point(x, norm, eps, generator), norm, eps)
        best, highest = x + delta, None
        for _ in range(steps):
            values, gradient = loss_and_gradient(loss, x + delta)
            best, highest = better(best, highest, x + delta, values)
            delta = climb(x, delta, gradient, norm, eps, step)
        if keep == "last":
            return x + delta
        with torch.no_grad():
            values = loss(x + delta).detach()
        torch.clear_autocast_cache()  # it holds weights without a gradient now, which a training would use next
        return better(best, highest, x + delta, values)[0]


def default_step(eps: float | Tensor, steps: int) -> float | Tensor:
    """Return the length of a step that `perturb` takes by default."""
    return eps if steps == 1 else 2.5 * eps / steps


def loss_and_gradient(loss: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss at pictures x (B, ...), and its gradient, which may be that of a multiple of the loss.

    Under autocast to 16 bits small gradients vanish, and large ones overflow, so the loss is scaled.

    Raises: FloatingPointError: one of the two is not finite.
    """
    x = x.detach().requires_grad_()
    for scale in SCALES:
        values = loss(x)
        if not values.requires_grad:
            raise ValueError("the loss does not depend on the pictures, or was computed without gradients")
        (gradient,) = torch.autograd.grad(values.sum() * scale, x)
        if gradient.isfinite().all():
            break
        if not values.isfinite().all():
            raise FloatingPointError("the loss of the pictures is not finite, so it cannot be attacked")
    else:
        raise FloatingPointError("the gradient of the loss is not finite, so it cannot be attacked")
    return values.detach(), gradient


def better(best: Tensor, highest: Tensor | None, x: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the better of two points of each picture, and its loss (B,) or ()."""
    if highest is None:
        return x, values
    higher = values > highest
    shape = (-1, *[1] * (x.ndim - 1)) if higher.ndim else ()
    return torch.where(higher.view(shape), x, best), torch.where(higher, values, highest)


# ---- geometry of the ball ------------------------------------------------------------------------


def climb(x: Tensor, delta: Tensor, gradient: Tensor, norm: str, eps: float | Tensor, step: float | Tensor) -> Tensor:
    """Return delta after one step along the gradient, projected: all of shape (B, ...)."""
    direction = gradient.sign() if norm == "linf" else gradient / lengths(gradient)
    return project(x, delta + step * direction.to(delta.dtype), norm, eps)


def project(x: Tensor, delta: Tensor, norm: str, eps: float | Tensor) -> Tensor:
    """Return the delta in the ball of radius eps with x + delta in [0, 1]: all of shape (B, ...)."""
    delta = torch.clamp(delta, -eps, eps) if norm == "linf" else delta * (eps / lengths(delta)).clamp(max=1)  # type: ignore[arg-type]
    return torch.maximum(torch.minimum(delta, 1 - x), -x)


def lengths(x: Tensor) -> Tensor:
    """Return the l2 norm of each picture (B, ...) as (B, 1, ...), at least the smallest positive number.

    A picture is divided by its largest value first, so that small gradients are not squared to 0.
    """
    dims = tuple(range(1, x.ndim))
    tiny = torch.finfo(x.dtype).tiny
    largest = x.abs().amax(dims, keepdim=True).clamp(min=tiny)
    return ((x / largest).square().sum(dims, keepdim=True).sqrt() * largest).clamp(min=tiny)


def random_point(x: Tensor, norm: str, eps: float | Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw a delta for each picture (B, ...), evenly from the ball of radius eps; x + delta may leave [0, 1]."""
    if norm == "linf":
        return (draw(torch.rand, x, generator) * 2 - 1) * eps
    delta = draw(torch.randn, x, generator)
    share = draw(torch.rand, x[:, :1].flatten(1)[:, :1], generator) ** (1 / x[0].numel())  # of the radius
    return delta / lengths(delta) * eps * share.view(-1, *[1] * (x.ndim - 1))


def random_direction(x: Tensor, norm: str, eps: float | Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Return pictures x (B, ...) changed as far as an attack may, in a random direction: the control of an attack.

    linf: each value goes up or down by eps. l2: along a direction drawn evenly, by eps. Then clipped to [0, 1].
    """
    delta = draw(torch.randn, x, generator)
    delta = delta.sign() if norm == "linf" else delta / lengths(delta)
    return x + project(x, delta * eps, norm, eps)


def draw(kind: Callable[..., Tensor], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw numbers of the shape of `like` on the device of the generator: the same ones on every device."""
    device = like.device if generator is None else generator.device
    return kind(like.shape, generator=generator, device=device, dtype=like.dtype).to(like.device)


# ---- what a user asks for --------------------------------------------------------------------------


def radius(norm: str, eps: float, height: int, width: int) -> float:
    """Return the radius for a picture of height x width pixels that corresponds to eps.

    An l2 radius is meant for 224 x 224 pixels, the size of Modas et al. It grows with the root of the number of
    pixels, so that the mean square of a pixel's change stays the same. A linf radius is the same at any size.
    """
    return eps * math.sqrt(height * width) / SIDE if norm == "l2" else eps


def check_strength(norm: Any, eps: Any) -> None:
    """Check a norm and a radius, before `radius` scales it.

    Raises: ValueError: the norm is unknown, or eps is no positive number, or was given in another unit.
    """
    check_choice("norm", norm, NORMS)
    if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not (math.isfinite(eps) and eps > 0):
        raise ValueError(
            f"eps is {eps!r}; wanted a number above 0, such as {8 / 255:.3f}; pixels are counted from 0 to 1"
        )
    if eps > LARGEST[norm]:
        meant = f"; did you mean {eps:g}/255 = {eps / 255:.3g}?" if eps >= 1 else ""
        raise ValueError(
            f"eps is {eps:g} in {norm}; pixels are counted from 0 to 1, and above {LARGEST[norm]:g} little is left of "
            f"a picture of {SIDE} x {SIDE}{meant}"
        )


def check_choice(name: str, value: Any, known: tuple[str, ...]) -> None:
    """Refuse a value that is not in a list.

    Raises: ValueError: it is not.
    """
    if value not in known:
        raise ValueError(f"{name} is {value!r}{suggestion(value, known)}; choose from {', '.join(known)}")


@contextlib.contextmanager
def keep_statistics(model: nn.Module) -> Iterator[None]:
    """Let the norms of a model in training mode use the statistics of the batch without adding them to their own.

    In eval mode an attack on a young model would find little: its running statistics lag behind its weights.
    """
    norms = [
        (module, module.track_running_stats, module.momentum)
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._NormBase)
    ]
    for module, _, _ in norms:
        module.track_running_stats = False  # batch norms then leave their buffers alone
        module.momentum = 0.0  # instance norms do so only with this
    try:
        yield
    finally:
        for module, tracks, momentum in norms:
            module.track_running_stats, module.momentum = tracks, momentum
