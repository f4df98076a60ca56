"""Two-stage baselines, enhance then segment: every enhancer behind one call.

    enhancer("clahe"), enhancer("onnx:FILE,pad=12"), ... -> Enhancer: uint8 RGB -> uint8 RGB, same size
    enhancer("corrupt:fog,level=3") -> the same call for pictures that are to be made worse
    enhancer("denoise:best.pt")     -> what a U-Net, or a YOLO trained with denoise=, makes of a noisy picture

Networks of others are run, never shipped: docs/enhancers.md has a recipe for each of the paper's.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from yolo_wnlb.imaging import corruptions
from yolo_wnlb.imaging.curve import Curve
from yolo_wnlb.reading import sha256_of
from yolo_wnlb.twins.classical import clahe, equalize, gamma, retinex
from yolo_wnlb.twins.networks import existing, from_folder, from_module, from_onnx, from_torchscript
from yolo_wnlb.twins.pictures import to_codes
from yolo_wnlb.twins.specs import Enhancer, Work, spec_of
from yolo_wnlb.words import suggestion

ELSEWHERE = ("zerodce++", "zerodce", "enlightengan", "agllnet", "retinexformer")  # docs/enhancers.md


def enhancer(spec: str) -> Enhancer:
    """Make an enhancer.

    Args:
        spec: One of `KINDS`:
            dir:FOLDER              pictures enhanced before, found by stem (and folder, where several share it)
            gamma:2.2               codes to the power of 1 / 2.2
            clahe:2, histeq         on the luma of YCrCb; CLAHE with 8 x 8 tiles and this clip limit
            msr                     see `retinex`
            onnx:FILE               run by onnxruntime, or without it by OpenCV
            torch:MODULE:FACTORY    FACTORY() of an importable module returns an nn.Module
            torchscript:FILE
            denoise:FILE            the decoder of a checkpoint that was trained with denoise=, or a U-Net
            corrupt:NAME,level=3    a corruption of `imaging.corruptions`, drawn for each picture by seed=0
            Networks take (1, 3, H, W) RGB and have options: pad=12, sides are filled up to a multiple by
            repeating the border, and cut back; range=0-1 of its values, or of input and output 0-1/-1-1;
            output=NAME (a number for tuples of torch), where there are several.
    Raises: ValueError, OSError, ImportError: with the remedy.
    Example:
        >>> enhancer("gamma:2")(np.full((2, 3, 3), 64, np.uint8))[0, 0].tolist()
        [128, 128, 128]
    """
    head, options = str(spec), dict[str, str]()
    while match := re.fullmatch(r"(.+),(\w+)=([^,=]*)", head):
        if match[2] in options:
            raise ValueError(f"{spec}: {match[2]}= is given twice; leave out one")
        head, options = match[1], {match[2]: match[3], **options}
    kind, _, argument = head.partition(":")
    if kind not in KINDS:
        if kind.lower() in ELSEWHERE:
            raise ValueError(
                f"{kind} does not ship; docs/enhancers.md says how to run it and give dir:, onnx: or torch:"
            )
        forms = ", ".join(form for form, _ in KINDS.values())
        raise ValueError(f"no enhancer {kind!r}{suggestion(kind, KINDS)}; choose from {forms}")
    form, make = KINDS[kind]
    allowed = re.findall(r",(\w+)=", form)
    if unknown := [name for name in options if name not in allowed]:
        raise ValueError(f"{kind} has no option {unknown[0]!r}{suggestion(unknown[0], allowed)}; wanted {form}")
    if bool(argument) != (":" in form) and "[:" not in form:
        raise ValueError(f"the enhancer is {spec!r}; wanted {form}")
    return make(argument, options)


# ---- by what this package has ---------------------------------------------------------------------


def corruption(argument: str, options: dict[str, str]) -> Enhancer:
    """Corrupt pictures, each by a draw of its own that depends on the seed and its path, and not on the level."""
    numbers = {"level": "", "seed": "0", **options}
    for name, value in numbers.items():
        if not re.fullmatch("[0-9]{1,18}", value):
            raise ValueError(f"{name} is {value!r}; wanted a whole number: {KINDS['corrupt'][0]}")
    level, seed = int(numbers["level"]), int(numbers["seed"])
    corruptions.check(argument, level)
    if argument == "boxblur":
        raise ValueError(
            "boxblur blurs inside the boxes of the objects, which are not shown to an enhancer; "
            "yolo-wnlb robustness suite=boxblur measures models on it"
        )

    def work(image: np.ndarray, name: str) -> np.ndarray:
        rng = corruptions.generator(seed, argument, name)
        return corruptions.corrupt(np.ascontiguousarray(image[..., ::-1]), argument, level, rng)[..., ::-1]

    return Enhancer(spec_of("corrupt", argument, {"level": str(level), "seed": str(seed)}), "", work, takes_grey=True)


def from_denoiser(argument: str, options: dict[str, str]) -> Enhancer:
    """Run the decoder of a checkpoint that was trained with denoise=, or a U-Net that has learnt to denoise."""
    from yolo_wnlb.denoiseg import detector

    file = existing(argument, "denoise:FILE")
    work, curve = (by_unet(file), None) if detector.reads(file) else by_decoder(file)
    return Enhancer(spec_of("denoise", file.name, options), sha256_of(file), work, curve=curve)


def by_decoder(file: Path) -> tuple[Work, Curve | None]:
    """Restore pictures by the decoder of a YOLO checkpoint; returns the curve that it was trained through too."""
    from yolo_wnlb.yolo import restore
    from yolo_wnlb.yolo.sixteen_bits import recorded

    restorer = restore.load(file)
    return lambda image, name: restorer(image), recorded(restorer.model)


def by_unet(file: Path) -> Work:
    """Denoise pictures by a U-Net; one for grey pictures returns grey ones."""
    from yolo_wnlb.denoiseg import detector

    network = detector.load(file)
    network.check_denoises()

    def work(image: np.ndarray, name: str) -> np.ndarray:
        codes = to_codes(network.denoise(np.ascontiguousarray(image[..., ::-1])), (0, 255))
        return np.repeat(codes[..., None], 3, 2) if codes.ndim == 2 else codes[..., ::-1]

    return work


NETWORK = "[,pad=12][,range=0-1][,output=NAME]"
KINDS: dict[str, tuple[str, Callable[[str, dict[str, str]], Enhancer]]] = {
    "dir": ("dir:FOLDER", from_folder),
    "gamma": ("gamma[:2.2]", gamma),
    "clahe": ("clahe[:2]", clahe),
    "histeq": ("histeq", lambda argument, options: Enhancer("histeq", "", equalize)),
    "msr": ("msr", lambda argument, options: Enhancer("msr", "", retinex)),
    "onnx": (f"onnx:FILE{NETWORK}", from_onnx),
    "torch": (f"torch:MODULE:FACTORY{NETWORK}", from_module),
    "torchscript": (f"torchscript:FILE{NETWORK}", from_torchscript),
    "denoise": ("denoise:FILE", from_denoiser),
    "corrupt": ("corrupt:NAME,level=3[,seed=0]", corruption),
}
