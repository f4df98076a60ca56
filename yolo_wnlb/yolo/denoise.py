"""What stands behind `denoise=` in `yolo train`, and learning from the bright twin: `denoise=features` and `lowlight=`.

`lowlight=` darkens each training picture when it is loaded, so its bright twin is there for nothing. With
`denoise=features` both go through the same geometry. A frozen teacher, the checkpoint that the training
starts from, sees the bright picture; the trained model sees the dark one, and is asked for the features
that the teacher has:

    loss = (1 - alpha) * stock + alpha * gain * B * sum_l mean((f_l(dark) - t_l(bright))^2) / var(t_l(bright))

over the outputs l of the backbone's stages and of the neck. No label is needed for it: alpha = 1 trains
without any. It costs nothing in prediction, because nothing is added to the model.

The loss is the "disturbance suppression" of Chen et al., "Instance Segmentation in the Dark" (IJCV 2023),
with a teacher that stays as it is. Padding does not count: a channel beside the colours marks what is picture, and goes
through the same geometry.

With `bright`, `clean` and `n2n` the pairs are the same, and a decoder restores the one picture from the features of the
other (`decoder`). `n2v` learns from noisy pictures alone, and has a module of its own (`noise2void`).

    lowlight= ─ TwinLoader: dark and bright picture with their marks as one of eight channels ─ stock geometry
              ─ TwinColour: the same colour jitter on both, then RGB and mark, RGB and mark ─ batch
              ─ FeatureTwin: splits the batch, compares the features of what is picture
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yolo_wnlb.data.data_yaml import UNLABELLED
from yolo_wnlb.data.validation import share_meant
from yolo_wnlb.imaging.camera import Shot
from yolo_wnlb.words import suggestion
from yolo_wnlb.yolo import channels, darkness, decoder, noise2void, terms
from yolo_wnlb.yolo.darkness import DarkLoader, Darkness
from yolo_wnlb.yolo.features import (
    NECK,
    by_stride,
    distance,
    features,
    first_convolution,
    layout,
    places_of,
    shapes_of,
)
from yolo_wnlb.yolo.weights import layers_of, unwrap

DEFAULTS: dict[str, Any] = {
    "target": "features",
    "alpha": 0.5,  # share of the term in the loss
    "gain": 2.0,  # factor of the term
    "from": ("P3", "P4", "P5", NECK),  # where features are compared: ends of stages, inputs of the head
    "teacher": None,  # a checkpoint; None is the one that the training starts from
}
# Of the targets with a decoder. Its error starts at 1, and the stock loss of COCO weights in the dark at about 12 a
# picture: with this gain the backbone gets gradients of about 70 from the one, and of about 380 from the other.
DECODER_DEFAULTS: dict[str, Any] = {"alpha": 0.5, "gain": 10.0, "from": ("P3", "P4", "P5")}
OPTIONS: dict[str, dict[str, Any]] = {  # of each target, with the values that they have if they are not given
    "features": DEFAULTS,
    **{target: {"target": target, **DECODER_DEFAULTS} for target in decoder.PICTURES},
    noise2void.TARGET: noise2void.DEFAULTS,
}
TARGETS = tuple(OPTIONS)
ALSO_CALLED = {"noise2void": "n2v", "denoiseg": "n2v", "noise2noise": "n2n", "distillation": "features"}
NO_TEACHER = "denoise=features learns from what a trained model sees in the light, and no checkpoint is named"
NAME = "twin_loss"  # its column in results.csv
MARK = 255  # of pixels that are picture; borders have the stock 114, or 0 in the fourth channel in 8.4.0
INSIDE = 0.99  # least mark of a batch: mixup rounds down to 254 of 255, and a pixel mixed with a border has less


# ---- the request ---------------------------------------------------------------------------------


def read_request(value: Any) -> dict[str, Any]:
    """Complete what stands behind denoise=: a target, True for features, or a dict of options.

    Raises: ValueError: something in it is unknown, or out of bounds.
    """
    if not isinstance(value, (str, bool, dict)):
        raise ValueError(
            f"denoise is {value!r}; wanted {', '.join(TARGETS)}, True or options {{'target': 'features', 'alpha': 1}}"
        )
    given = dict(value) if isinstance(value, dict) else {} if value is True else {"target": value}
    target = given.setdefault("target", "features")
    if target not in TARGETS:
        meant = suggestion(target, TARGETS, ALSO_CALLED)
        form = "; options are written {'target': 'n2v', 'alpha': 0.3}" if {",", "=", ":"} & {*str(target)} else ""
        raise ValueError(f"denoise: no target {target!r}{meant}; choose from {', '.join(TARGETS)}{form}")
    if target in decoder.PICTURES and given.get("teacher") is not None:
        raise ValueError(
            f"denoise: target {target} learns from a picture and has no teacher; leave out the teacher "
            f"{given['teacher']}, or choose the target features"
        )
    options = OPTIONS[target]
    if unknown := [key for key in given if key not in options]:
        name, owners = unknown[0], [other for other in TARGETS if unknown[0] in OPTIONS[other]]
        what = f"target {target} has no option {name!r}" if owners else f"no option {name!r}{suggestion(name, options)}"
        hint = f", which is one of {' and '.join(owners)}" if owners else ""
        raise ValueError(f"denoise: {what}{hint}; choose from {', '.join(options)}")
    asked = {**options, **given}
    for name, least, most in (("alpha", 0, 1), ("gain", 0, 1e6)):
        number = asked[name]
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not least < number <= most:
            meant = share_meant(number) if name == "alpha" else ""
            raise ValueError(f"denoise: {name} is {number!r}; wanted a number above {least}, at most {most:g}{meant}")
    places = asked["from"]
    places = places.split(",") if isinstance(places, str) else places
    if not isinstance(places, (list, tuple)) or not places or not all(isinstance(place, str) for place in places):
        raise ValueError(f"denoise: from is {asked['from']!r}; wanted places such as P3,P4,P5,{NECK}")
    if not isinstance(asked.get("teacher"), (str, Path, type(None))):
        raise ValueError(f"denoise: teacher is {asked['teacher']!r}; wanted a checkpoint, FILE.pt")
    if target == noise2void.TARGET:
        noise2void.check_options(asked)
    return {**asked, "from": tuple(places)}


def is_same(requested: Any, began: Any) -> bool:
    """Tell whether two values of denoise= ask for the same; one without a teacher asks for that of the run."""
    asked, recorded = read_request(requested), read_request(began)
    if teacher := recorded.get("teacher"):
        asked["teacher"] = str(Path(asked.get("teacher") or teacher).resolve())
    return asked == recorded


def check_request(cfg: dict[str, Any]) -> None:
    """Check denoise= among the arguments of a run, in place, before anything is built.

    Raises: ValueError: an option is wrong, or nothing would come of it in this run.
    """
    request = cfg.get("denoise")
    if request is None or request is False:
        cfg.pop("denoise", None)
        return
    asked = read_request(request)
    if (mode := cfg.get("mode")) not in (None, "train"):
        raise ValueError(f"denoise= is for yolo train; {mode} has no use for it, leave it out")
    if (task := cfg.get("task")) in ("classify", "semantic", "depth"):
        raise ValueError(f"denoise= trains detectors and segmenters; '{task}' is another task")
    if asked["target"] == noise2void.TARGET:
        if cfg.get("lowlight") == darkness.AUGMENTATIONS:
            raise ValueError(
                f"denoise={noise2void.TARGET} learns from crops of the files, which augmentations= does not reach; "
                "darken with lowlight=, or leave LowLight out of augmentations="
            )
    else:
        check_pairs(cfg, asked["target"])
    terms.check_alone(
        "denoise=",
        cfg,
        compile="the compiled step leaves no place for the comparison",
        distill_model="it puts another teacher around the model",
        quantize="a model in quantisation-aware training has other layers",
    )


def check_pairs(cfg: dict[str, Any], target: str) -> None:
    """Check that the arguments of a run give pairs of a dark picture and its twin.

    Raises: ValueError: they do not, or the pictures of a pair would not be alike but for the darkness.
    """
    if not cfg.get("lowlight") or not isinstance(cfg["lowlight"], (str, bool, dict)):
        request, remark = cfg["denoise"], ""
        if request is True or (isinstance(request, dict) and "target" not in request):
            remark = f"; {target} is the target where none is given, and 'target': 'n2v' needs no lowlight="
        raise ValueError(
            f"denoise={target} learns from a dark picture and its twin, so it wants lowlight= too, such as "
            f"lowlight=severe{remark}"
        )
    if cfg["lowlight"] == "augmentations" or cfg.get("augmentations"):
        raise ValueError(
            "denoise= wants the two pictures of a pair to be alike but for the darkness, and augmentations= would "
            "change one of them; leave it out, and darken with lowlight="
        )
    camera = darkness.read_request(cfg["lowlight"]).camera
    if target in ("clean", "n2n") and not (camera.sigma_s[1] or camera.sigma_c[1]):
        raise ValueError(
            f"denoise={target} learns to remove noise, and lowlight={cfg['lowlight']} makes none; give "
            "sigma_s or sigma_c, or choose denoise=bright"
        )
    if cfg.get("bgr"):
        raise ValueError(
            f"denoise= and bgr={cfg['bgr']} do not go together: it would swap the channels of one picture of a pair "
            "and not of the other; leave out one"
        )


# ---- the data ------------------------------------------------------------------------------------


class TwinLoader(DarkLoader):
    """Returns a dark picture and its twin as the channels of one, for the stock geometry to act on both.

    The twin is the picture that the target asks for, the bright one for features.

    Each has one channel more than its colours, MARK everywhere: colour is uint8 (H, W, 8), B G R M of the dark one and
    B G R M of its twin, grey is uint8 (H, W, 4). The stock geometry paints borders and canvases with other values, so
    the mark says in the end what is picture. That of the dark one counts. The other makes the halves alike, and keeps
    grey pairs from three channels, which the stock transforms would take for colours. OpenCV repeats the value of a
    border every four channels, and older releases of Ultralytics give it three: the fourth, a mark, takes the zero.
    """

    def __init__(self, dataset: Any, request: Darkness, target: str) -> None:
        super().__init__(dataset, request)
        self.target = target

    def view(self, bright: np.ndarray, shot: Shot | None) -> np.ndarray:
        """Return the dark picture and its twin, (H, W, C) each, as one; the bright one twice without a shot."""
        dark, twin = super().view(bright, shot), bright
        if shot is not None and self.target in decoder.PICTURES:
            twin = decoder.PICTURES[self.target](bright, shot)
        mark = np.full((*bright.shape[:2], 1), MARK, bright.dtype)
        return np.concatenate([dark.reshape(bright.shape), mark, twin.reshape(bright.shape), mark], -1)


class TwinTransforms:
    """Stands in for `build_transforms` of one data set: the stock transforms, with the colour jitter on both halves."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __call__(self, hyp: Any) -> Any:
        """Build them.

        Raises:
            RuntimeError: there is no colour jitter to replace, as there is in the releases that are known.
            ValueError: this release of Ultralytics copies and pastes pictures of up to four channels only.
        """
        from ultralytics.data.augment import CopyPaste, RandomHSV

        if getattr(hyp, "copy_paste", 0) and self.dataset.channels > 1 and draws_in_colour(CopyPaste):
            raise ValueError(
                f"denoise= and copy_paste={hyp.copy_paste} do not go together in this release of Ultralytics, which "
                "pastes pictures of up to four channels, and a pair has eight; leave out copy_paste, or update it"
            )
        built = type(self.dataset).build_transforms(self.dataset, hyp)
        places = [place for place, step in enumerate(built.transforms) if isinstance(step, RandomHSV)]
        if len(places) != 1:
            raise RuntimeError(
                f"denoise= knows transforms with one RandomHSV; {type(self.dataset).__name__} has {len(places)}"
            )
        if self.dataset.channels != 1:
            built.transforms[places[0]] = TwinColour(built.transforms[places[0]])
        return built


def draws_in_colour(copy_paste: type) -> bool:
    """Tell whether CopyPaste draws its mask with the channels of the picture, as it did in 8.4.0."""
    return "np.zeros(im.shape, np.uint8)" in inspect.getsource(copy_paste)


class TwinColour:
    """The stock colour jitter on a dark picture and its bright twin, with the same draw for both."""

    def __init__(self, jitter: Any) -> None:
        self.jitter = jitter

    def __call__(self, labels: dict[str, Any]) -> dict[str, Any]:
        """Turn B G R M B G R M into R G B M R G B M with jittered colours, (H, W, 8)."""
        halves = np.concatenate(np.split(labels["img"], 2, -1))  # one above the other: one picture
        labels["img"] = np.ascontiguousarray(halves[..., :3])
        labels = self.jitter(labels)
        halves[..., :3] = labels["img"][..., ::-1]
        labels["img"] = np.concatenate(np.split(halves, 2), -1)
        return labels


def attach(dataset: Any, hyp: Any) -> None:
    """Let a training data set load beside its pictures what `hyp` asks for: crops, or the twins of dark ones."""
    from ultralytics.utils import LOGGER

    if not dataset.augment:
        return
    asked = read_request(hyp.denoise) if getattr(hyp, "denoise", None) else None
    if asked and asked["target"] == noise2void.TARGET:
        noise2void.attach(dataset, hyp, asked)
        return
    if (getattr(dataset, "data", None) or {}).get(UNLABELLED):
        LOGGER.info(
            f"{dataset.prefix}this training learns from the pictures of 'train'; those of '{UNLABELLED}' are for "
            f"denoise={noise2void.TARGET} alone"
        )
    if not asked:
        return
    loader = getattr(dataset, "load_image", None)
    if not isinstance(loader, DarkLoader):
        raise ValueError("denoise= wants pictures that lowlight= darkens; this data set has none")
    dataset.load_image = TwinLoader(dataset, loader.darkness, asked["target"])
    dataset.build_transforms = TwinTransforms(dataset)
    dataset.transforms = dataset.build_transforms(hyp)


# ---- the loss ------------------------------------------------------------------------------------


def prepare(model: Any, args: Any, checkpoint: dict[str, Any] | None = None) -> None:
    """Give a model that is about to be trained its term, and its teacher or its decoder.

    `args` are those of the trainer; `checkpoint` is that of a run that is resumed.

    The teacher's file is written into `args.denoise`, so that a resumed run finds the same one.

    Raises:
        FileNotFoundError: there is no file to take the teacher from.
        ValueError: the teacher is another model, or `loss` is the model's own.
    """
    if getattr(type(model).loss, "_stock", None) is None:
        raise ValueError(f"denoise= does not know how {type(model).__name__} computes its loss; leave it out")
    asked = read_request(args.denoise)
    if asked["target"] != "features":
        args.denoise = {**asked, "from": list(asked["from"])}
        term = noise2void.HiddenPixels if asked["target"] == noise2void.TARGET else Reconstruction
        terms.give(model, term(model, asked, checkpoint))
        warn_of_frozen(model, places_of(model, asked["from"]), args.freeze)
        return
    source = asked["teacher"] or next(
        (given for given in (args.pretrained, args.model) if str(given).endswith(".pt")), None
    )
    if not source:
        raise ValueError(
            f"{NO_TEACHER}; give pretrained=FILE.pt, or denoise={{'target': 'features', 'teacher': 'FILE.pt'}}"
        )
    teacher = load_teacher(Path(source))
    asked |= {"teacher": str(Path(source).resolve()), "from": list(asked["from"])}
    args.denoise = asked
    terms.give(model, FeatureTwin(model, teacher, asked))


def load_teacher(file: Path) -> Any:
    """Load the model of a checkpoint, in float32 and frozen.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is no checkpoint.
    """
    from ultralytics.nn import tasks

    if file.suffix != ".pt":
        raise ValueError(f"denoise: the teacher {file} is an export, or no model at all; wanted a checkpoint, FILE.pt")
    if not file.is_file():
        raise FileNotFoundError(f"denoise: there is no teacher {file}; put the checkpoint there, as it was")
    try:
        model = tasks.load_checkpoint(str(file))[0]
    except Exception as error:  # of whatever a damaged or a foreign file makes of the loading code
        raise ValueError(f"denoise: the teacher {file} is not a readable Ultralytics checkpoint: {error}") from error
    return unwrap(model).float().eval().requires_grad_(False)


class PairTerm:
    """What the terms of all targets share: they split the pairs, and keep features of the dark picture.

    Args:
        model: The model that is trained.
        asked: What `read_request` returned.
    Raises: ValueError: a place does not exist.
    """

    name = NAME

    def __init__(self, model: Any, asked: dict[str, Any]) -> None:
        self.target, self.alpha, self.gain, self.places = (asked[name] for name in ("target", "alpha", "gain", "from"))
        self.layers = places_of(model, self.places)
        self.outputs: dict[int, Tensor] = {}
        self.twin: Tensor | None = None
        self.inside: Tensor | None = None  # which pixels are picture, 1 or 0, (B, 1, H, W)

    def prepare(self, model: Any, batch: dict[str, Any]) -> dict[str, Any]:
        """Split a batch of pairs with their marks (B, 2C + 2, H, W): the dark half is what the stock loss sees.

        Raises: RuntimeError: the batch holds no pairs.
        """
        pairs, channels = batch["img"], first_convolution(model).in_channels
        if pairs.shape[1] != (wanted := 2 * (channels + 1)):
            raise RuntimeError(
                f"denoise= wants pairs of {wanted} channels, a batch of {pairs.shape[1]} came: the data set does not "
                "load pictures as Ultralytics' own do"
            )
        dark, twin = pairs.chunk(2, 1)
        self.twin, self.inside = twin[:, :channels], (dark[:, channels:] > INSIDE).float()
        return {**batch, "img": dark[:, :channels].contiguous()}

    def taken(self) -> tuple[Tensor, Tensor]:
        """Return the twins of the last batch and which of their pixels are picture, and keep them no longer."""
        twin, inside = self.twin, self.inside
        self.twin = self.inside = None
        assert twin is not None and inside is not None
        return twin, inside

    @contextlib.contextmanager
    def watch(self, model: Any) -> Iterator[None]:
        """Keep the outputs of the compared layers of one forward pass."""
        self.outputs.clear()

        def keep(number: int) -> Any:
            def hook(module: nn.Module, args: Any, output: Tensor) -> None:
                self.outputs[number] = output

            return hook

        layers = layers_of(model)
        handles = [layers[number].register_forward_hook(keep(number)) for number in self.layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


class FeatureTwin(PairTerm):
    """The term of `denoise=features`: distance of features in the dark from the teacher's in the light.

    Args:
        model: The model that is trained.
        teacher: A model whose features at the same places have the same shapes. It is frozen, and sees what the model
            sees: one for colour pictures sees the grey ones of a grey model as three equal channels.
        asked: What `read_request` returned.
    Raises: ValueError: a place does not exist, or has another shape in the teacher.
    """

    def __init__(self, model: Any, teacher: Any, asked: dict[str, Any]) -> None:
        super().__init__(model, asked)
        if channels.becomes_grey_or_colour(teacher, model):
            teacher = channels.fit(teacher, model).requires_grad_(False)
        self.teacher = teacher
        try:
            self.teacher_layers = places_of(teacher, asked["from"])
            theirs = shapes_of(teacher, self.teacher_layers)
        except (ValueError, AttributeError, TypeError, RuntimeError) as error:
            raise ValueError(f"denoise: the teacher has to be a detector of the same architecture ({error})") from error
        if theirs != (ours := shapes_of(model, self.layers)):
            raise ValueError(
                f"denoise: the teacher has to be a model of the same architecture and scale; its features at "
                f"{', '.join(asked['from'])} are {theirs}, those of the model {ours}"
            )

    def value(self, model: Any) -> Tensor:
        """Return gain * sum over the places of the mean squared difference, relative to the teacher's variance.

        A position counts as far as there is no padding in the pixels that it stands for.
        """
        bright, inside = self.taken()
        self.teacher.to(bright.device)
        with torch.no_grad():
            wanted = features(self.teacher, bright, self.teacher_layers)
        found = [self.outputs[number] for number in self.layers]
        self.outputs.clear()
        weights = [F.adaptive_avg_pool2d(inside, (output.shape[-2], output.shape[-1])) for output in wanted]
        return self.gain * torch.stack([distance(*maps) for maps in zip(found, wanted, weights, strict=True)]).sum()


class Reconstruction(PairTerm):
    """The term of the other targets: error of the picture that `model.denoiser` decodes from features in the dark.

    Args:
        model: The model that is trained; it is given a decoder.
        asked: What `read_request` returned.
        checkpoint: That of a run that is resumed, whose decoder goes on; None begins with a new one.
    Raises: ValueError: a place does not exist, or the checkpoint has no decoder for these places.
    """

    name = decoder.NAME

    def __init__(self, model: Any, asked: dict[str, Any], checkpoint: dict[str, Any] | None) -> None:
        super().__init__(model, asked)
        _, self.strides, channels = layout(model, self.places)
        decoder.attach(model, channels, first_convolution(model).in_channels, checkpoint)

    def value(self, model: Any) -> Tensor:
        """Return gain * error of the decoded picture, relative to the variance of the target."""
        target, inside = self.taken()
        found = by_stride([self.outputs[number] for number in self.layers], self.strides)
        self.outputs.clear()
        return self.gain * decoder.error(model.denoiser, found, target, inside)


def warn_of_frozen(model: Any, numbers: list[int], freeze: Any) -> None:
    """Warn if freeze= names every layer up to the deepest that the decoder reads: then the decoder alone learns."""
    from ultralytics.utils import LOGGER

    listed = freeze if isinstance(freeze, list) else range(freeze) if isinstance(freeze, int) else ()
    frozen = [f"model.{name}." for name in listed]
    learns = any(
        not any(name in f"model.{parameter}" for name in frozen)
        for parameter, _ in nn.Sequential(*layers_of(model)[: max(numbers) + 1]).named_parameters()
    )
    if not learns:
        LOGGER.warning(
            f"denoise: freeze={freeze} freezes all that the decoder reads from, so the decoder learns and the model "
            "does not; leave a layer of the backbone unfrozen"
        )
