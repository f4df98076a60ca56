"""Train on pictures that are perturbed against the model itself: `adversarial=` in `yolo train`.

    adversarial=pgd       PGD, l2, eps 0.5, 10 steps: each training step computes 11 gradients
    adversarial=fgsm      one step from a random start, linf, eps 4/255: each computes 2 (Wong et al., 2020)
    adversarial=free      each batch is trained on 4 times in a row; the gradient that trains the model also perturbs
                          the next one, linf, eps 4/255: each computes 1 (Shafahi et al., 2019)
    adversarial={...}     the same with options: method, norm, eps, steps, step, replays, mix

`terms.loss` asks for the attack before the stock loss is computed, in training only. An attack sees the batch as the
network does: after all augmentation, pixels in [0, 1]. `pgd` and `fgsm` maximise the stock loss, never the term of
denoise=. `free` has no gradient but that of the training step, and maximises what the step minimises: beside denoise=
that is (1 - alpha) * stock + alpha * term.

Modas et al., "Improving Filling Level Classification with Adversarial Training", ICIP 2021.
Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018 (pgd).
Wong, Rice, Kolter, "Fast is Better than Free: Revisiting Adversarial Training", ICLR 2020 (fgsm).
Shafahi et al., "Adversarial Training for Free!", NeurIPS 2019 (free).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from yolo_wnlb import attacks
from yolo_wnlb.words import suggestion
from yolo_wnlb.yolo import terms

EPS = {"l2": 0.5, "linf": 4 / 255}  # by norm
DEFAULTS: dict[str, dict[str, Any]] = {  # by method, all options it has; without a norm, that of its paper
    "pgd": {"norm": "l2", "eps": None, "steps": 10, "step": None, "mix": 0.0},
    "fgsm": {"norm": "linf", "eps": None, "step": None, "mix": 0.0},
    "free": {"norm": "linf", "eps": None, "replays": 4, "mix": 0.0},
}
OPTIONS = ("method", "norm", "eps", "steps", "step", "replays", "mix")
REPLAY = "replay"  # in a batch: how often it was trained on before


# ---- the request ---------------------------------------------------------------------------------


def read_request(value: Any) -> dict[str, Any]:
    """Complete what stands behind adversarial=: a method, True for pgd, or a dict of options.

    Returns: all options of the method, and "method" itself; eps and step in pixels of 0 to 1.

    Raises: ValueError: something in it is unknown, out of bounds, or in another unit.
    """
    if not isinstance(value, (str, bool, dict)):
        raise ValueError(
            f"adversarial is {value!r}; wanted a method ({', '.join(DEFAULTS)}), True for pgd, or options such as "
            "{'norm': 'linf', 'eps': '4/255'}"
        )
    given = dict(value) if isinstance(value, dict) else {"method": "pgd" if value is True else value}
    method = given.pop("method", "pgd")
    if method not in [*DEFAULTS]:
        raise ValueError(
            f"adversarial: no method {method!r}{suggestion(method, DEFAULTS)}; choose from {', '.join(DEFAULTS)}"
        )
    for name in given:
        if name not in OPTIONS:
            raise ValueError(
                f"adversarial: no option {name!r}{suggestion(name, OPTIONS)}; choose from {', '.join(OPTIONS)}"
            )
        if name not in DEFAULTS[method]:
            raise ValueError(
                f"adversarial: {name} has no meaning for {method}, which has {', '.join(DEFAULTS[method])}"
            )
    if "eps" in given and "norm" not in given:
        raise ValueError(
            f"adversarial: eps is {given['eps']!r} without a norm; give norm l2 (eps about 0.5) or linf (eps about "
            "4/255) with it"
        )
    asked = {**DEFAULTS[method], **given, "method": method}
    asked["step"] = to_number(asked.get("step"))
    try:
        attacks.check_choice("norm", asked["norm"], attacks.NORMS)
        asked["eps"] = EPS[asked["norm"]] if asked["eps"] is None else to_number(asked["eps"])
        attacks.check_strength(asked["norm"], asked["eps"])
    except ValueError as error:
        raise ValueError(f"adversarial: {error}") from error
    if method == "free" and asked["norm"] != "linf":
        raise ValueError(
            f"adversarial: free takes whole steps of eps and has no {asked['norm']} form; give norm linf, or method pgd"
        )
    for name, least in (("steps", 1), ("replays", 2)):
        if name in asked and (type(asked[name]) is not int or not least <= asked[name] <= 1000):
            raise ValueError(f"adversarial: {name} is {asked[name]!r}; wanted an integer from {least} to 1000")
    step, longest = asked["step"], 2 * asked["eps"]
    if step is not None and not (is_number(step) and 0 < step <= longest):
        raise ValueError(f"adversarial: step is {step!r}; wanted a number above 0 and at most 2 * eps = {longest:.3g}")
    if not (is_number(mix := asked["mix"]) and 0 <= mix < 1):
        raise ValueError(f"adversarial: mix is {mix!r}; wanted the share of pictures left clean, from 0 to below 1")
    return asked


def to_number(value: Any) -> Any:
    """Read a number or a fraction in a string, such as "8/255"; return everything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        above, slash, below = value.partition("/")
        return float(above) / float(below) if slash else float(above)
    except (ValueError, ZeroDivisionError):
        return value


def is_number(value: Any) -> bool:
    """Tell whether a value is an integer or a float, and no bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_same(requested: Any, began: Any) -> bool:
    """Tell whether two values of adversarial= ask for the same."""
    return read_request(requested) == read_request(began)


def check_request(cfg: dict[str, Any]) -> None:
    """Check adversarial= among the arguments of a run, in place, before anything is built.

    Raises: ValueError: an option is wrong, or nothing would come of it in this run.
    """
    request = cfg.get("adversarial")
    if request is None or request is False:
        cfg.pop("adversarial", None)
        return
    asked = read_request(request)
    if (mode := cfg.get("mode")) not in (None, "train"):
        raise ValueError(f"adversarial= is for yolo train; {mode} has no use for it, leave it out")
    terms.check_alone(
        "adversarial=",
        cfg,
        compile="the compiled step computes the predictions before the batch can be attacked",
        distill_model="the loss of the student also holds that of the teacher, which is not attacked",
        quantize="the gradient of a model in quantisation-aware training is a rounded one",
    )
    if asked["method"] == "free" and cfg.get("multi_scale"):
        raise ValueError(
            f"adversarial=free and multi_scale={cfg['multi_scale']} do not go together: the perturbation of a picture "
            "would meet it at another size; leave out one"
        )
    denoise = cfg.get("denoise")
    if isinstance(denoise, dict) and denoise.get("alpha") == 1:
        raise ValueError(
            "adversarial= and denoise= at alpha 1 do not go together: an attack is on the loss of the labels, and at "
            "alpha 1 nothing is trained with it; give a smaller alpha, or leave out adversarial="
        )


def describe(asked: dict[str, Any], imgsz: int, nbs: int, batch: int) -> str:
    """Say in one line what is done to the pictures of a training, and what it costs."""
    method, norm, eps, mix = (asked[name] for name in ("method", "norm", "eps", "mix"))
    text = f"{norm}, eps {eps:.4g}" + (f" = {eps * 255:.3g}/255" if norm == "linf" else "")
    if norm == "l2":
        side = attacks.SIDE
        text += f" at {side} x {side} pixels, {attacks.radius(norm, eps, imgsz, imgsz):.4g} at {imgsz} x {imgsz}"
    if method == "free":
        text += (
            f", each batch {asked['replays']} times in a row; an epoch has as many steps, of 1/{asked['replays']} of"
        )
        text += " the pictures"
        if nbs > batch > 0:
            text += (
                f". Weights change every {round(nbs / batch)} steps (nbs={nbs}); nbs={batch} makes that every replay"
            )
    else:
        steps = asked["steps"] if method == "pgd" else 1
        text += f", {steps} steps of {asked['step'] or attacks.default_step(eps, steps):.3g}" if method == "pgd" else ""
        text += f"; each training step computes {steps + 1} gradients instead of 1"
    return f"adversarial: {method}, {text}" + (f"; {mix:.0%} of the pictures stay clean" if mix else "")


# ---- the attack ------------------------------------------------------------------------------------


class Attack:
    """Perturbs the pictures of a training batch against the model: what stands behind one adversarial=.

    Its random numbers come from a generator of its own, so that the batches are those of a training without it.

    Args:
        asked: What `read_request` returned.
        seed: Of the random starts, and of which pictures stay clean.
    """

    def __init__(self, asked: dict[str, Any], seed: int) -> None:
        self.asked = asked
        self.generator = torch.Generator().manual_seed(seed)
        self.delta: Tensor | None = None  # of method free, from one batch to the next
        self.failed = False

    def __call__(self, stock: Callable[..., Any], model: Any, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the batch with perturbed pictures (B, C, H, W), float32 in [0, 1], and everything else as it was.

        A batch whose loss is not finite is returned as it is: what Ultralytics does about that comes next.

        Raises:
            ValueError: the pictures are not in [0, 1].
            RuntimeError: method free, and the batch does not come through `Replay`.
        """
        x = batch["img"]
        count = int(self.asked["mix"] * len(x) + torch.rand((), generator=self.generator).item())  # exact on average
        try:
            perturbed = self.free(x, batch) if self.asked["method"] == "free" else self.perturbed(stock, model, batch)
        except FloatingPointError as error:
            self.warn(error)
            return batch
        return {**batch, "img": torch.cat([x[:count], perturbed[count:]]) if count else perturbed}

    def perturbed(self, stock: Callable[..., Any], model: Any, batch: dict[str, Any]) -> Tensor:
        """Run FGSM or PGD on the stock loss, with the batch statistics of the norms, which keep their own."""
        asked, x = self.asked, batch["img"]

        def loss(image: Tensor) -> Tensor:
            return stock(model, {**batch, "img": image}, None)[0].sum()

        eps = attacks.radius(asked["norm"], asked["eps"], *x.shape[-2:])
        scale = eps / asked["eps"]
        if asked["method"] == "fgsm":
            options = {"steps": 1, "step": (asked["step"] or 1.25 * asked["eps"]) * scale, "start": "random"}
        else:
            options = {"steps": asked["steps"], "step": asked["step"] and asked["step"] * scale}
        with attacks.keep_statistics(model):
            return attacks.perturb(x, loss, asked["norm"], eps, **options, keep="last", generator=self.generator)

    def free(self, x: Tensor, batch: dict[str, Any]) -> Tensor:
        """Add the perturbation that the previous steps have found; the backward pass of this one improves it."""
        if REPLAY not in batch:
            raise RuntimeError(
                "adversarial=free wants each batch several times in a row, and these batches come from another loader "
                "than the one it was given; if memory ran out before, give a smaller batch="
            )
        eps = self.asked["eps"]
        delta = self.delta
        if delta is None or delta.shape[1:] != x.shape[1:] or len(delta) < len(x) or delta.device != x.device:
            delta = torch.zeros_like(x)
        delta = attacks.project(x, delta[: len(x)], "linf", eps)
        perturbed = (x + delta).detach().requires_grad_()

        def improve(gradient: Tensor) -> None:
            self.delta = attacks.climb(x, delta, gradient.nan_to_num(), "linf", eps, eps)

        perturbed.register_hook(improve)
        return perturbed

    def warn(self, error: FloatingPointError) -> None:
        """Say once that a batch was trained on as it is."""
        from ultralytics.utils import LOGGER

        if not self.failed:
            LOGGER.warning(f"adversarial: a batch, and any later one like it, is trained on unperturbed: {error}")
        self.failed = True


def prepare(model: Any, args: Any) -> None:
    """Give a model that is about to be trained its attack, and say what it does.

    Raises: ValueError: the model computes its loss in a function of its own.
    """
    from ultralytics.utils import LOGGER

    if getattr(type(model).loss, "_stock", None) is None:
        raise ValueError(
            f"adversarial= attacks through BaseModel.loss of Ultralytics, and {type(model).__name__} computes its loss "
            "in a function of its own; leave it out, or choose a YOLO model such as yolov8n-seg.pt or yolo26n.pt"
        )
    asked = read_request(args.adversarial)
    terms.ATTACKS[model] = Attack(asked, torch.initial_seed())
    model.adversarial = asked
    imgsz = max(args.imgsz) if isinstance(args.imgsz, (list, tuple)) else args.imgsz
    LOGGER.info(describe(asked, imgsz, args.nbs, args.batch))


# ---- method free: the same batch several times -----------------------------------------------------


class Replay:
    """Stands in for a training loader: yields each batch several times in a row, and as many batches an epoch.

    Where an epoch ends in the middle of a row, the rest of it is left out. The next epoch goes on with the next batch,
    because the stock loader does.
    """

    def __init__(self, loader: Any, replays: int) -> None:
        self.loader, self.replays = loader, replays

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        left = len(self)
        for batch in self.loader:
            for replay in range(min(self.replays, left)):
                yield {**batch, REPLAY: replay}
            left -= self.replays
            if left <= 0:
                return


def replay(trainer: Any) -> None:
    """Put `Replay` around the training loader of a trainer that is asked for method free, unless it is there."""
    request = getattr(trainer.args, "adversarial", None)
    if request and (asked := read_request(request))["method"] == "free" and type(trainer.train_loader) is not Replay:
        trainer.train_loader = Replay(trainer.train_loader, asked["replays"])
