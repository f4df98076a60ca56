"""Options, and values of options, that several commands have."""

from __future__ import annotations

import ast
from typing import Any

from yolo_wnlb.terminal.arguments import Kind, Option, flag, number, one_of, optional, path, span, text, whole

EXIST_OK = Option("exist_ok", flag(), "write over what is there", False)
IMAGES_OF_COCO = Option("images", path("FOLDER"), "pictures of COCO files, where they are not beside them")
DEVICE = Option(
    "device", text("DEVICE", "cpu", "0"), "as Ultralytics takes it: cpu, 0 (default: a GPU if there is one)"
)
PRESETS = ("mild", "moderate", "severe", "extreme", "agllnet", "lv", "n10", "n20")
SPLITS = ("train", "val", "test", "unlabelled")  # of a data YAML
ADDED_NOISE = "n10 and n20: as bright as it is, with white noise of sd 10 and 20, clipped at 0 and 255"
DARKNESS = f"{', '.join(PRESETS[:6])}, or a .yaml of yolo-wnlb calibrate; {ADDED_NOISE}"
CORRUPTIONS = (  # without boxblur, which needs to know the objects
    *("noise", "blur", "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur"),
    *("zoom_blur", "snow", "fog", "brightness", "contrast", "elastic", "pixelate", "jpeg"),
)
FAMILIES = ("lowlight", "noise", "blur", "boxblur", "common", "fgsm", "pgd", "pgd-l2")


def response(value: str) -> Any:
    """Read crf=: a name with its argument as it stands, or the pair n,u."""
    return value if value[:1].isalpha() else span(number()).read(value)


def curve(value: str) -> Any:
    """Read curve=: a name or a file as it stands, or settings in braces."""
    if not value.startswith("{"):
        return value
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        raise ValueError(f"{value} is no mapping of settings") from None


CURVE = Option(
    "curve",
    Kind("CURVE", "auto, high-byte, a .yaml or settings", curve, ("auto", "high-byte")),
    "how pictures of more than 8 bits and RAW files are read: auto, high-byte, or a .yaml of yolo-wnlb curve",
    "auto",
)
CAMERA = [
    Option(name, kind, help, group="Settings of the camera (default: those of the preset)")
    for name, kind, help in (
        ("alpha", span(number(0, 1)), "of the low-light curve beta (alpha x)^gamma"),
        ("beta", span(number(0, 1)), "of the low-light curve"),
        ("gamma", span(number()), "of the low-light curve: 2, or drawn from 2,3"),
        ("ev", optional(span(number())), "exposure in stops, 0 or less, instead of the curve: -3"),
        ("sigma_s", span(number()), "shot noise: a white pixel collects 1/sigma_s^2 photons"),
        ("sigma_c", span(number()), "read noise, as a share of a white pixel's light"),
        (
            "crf",
            Kind("RESPONSE", "a response or n,u", response, ("mixture", "digital", "srgb", "gamma:2.2", "identity")),
            "camera response: mixture, digital, srgb, gamma:2.2, identity, n,u or dorf:FILE",
        ),
        (
            "bayer",
            one_of("random", "RGGB", "BGGR", "GRBG", "GBRG", "mono", "none"),
            "colour mosaic; mono has no colours",
        ),
        ("shot_model", one_of("gaussian", "poisson"), "distribution of the shot noise"),
        ("order", one_of("sensor", "paper"), "demosaic before the response (sensor) or after it"),
        ("quantize", one_of("round", "truncate"), "how codes become whole numbers"),
        ("jpeg_quality", optional(span(whole())), "quality of a last JPEG step, 1 to 100, or none"),
        ("sigma_row", span(number()), "banding: noise of whole rows, as a share of white"),
        ("sigma_column", span(number()), "the same of whole columns"),
        ("sigma_fixed", span(number()), "fixed pattern: offsets of the pixels, the same in all pictures of a camera"),
        ("hot_pixels", span(number()), "share of pixels that are bright in all pictures of a camera"),
        ("camera_seed", whole(0), "names the camera: which pixels are hot"),
        ("bits", optional(span(whole())), "bits of the sensor's converter, 1 to 16, or none for no steps"),
        ("blur", span(number()), "standard deviation of a blur in pixels"),
        ("motion", span(number()), "length of a motion in pixels"),
        ("motion_angle", span(number(0, 180)), "its direction in degrees"),
        ("lamp", span(number()), "falloff of a lamp: tangent of the angle in the corners; 0 is an even light"),
    )
]


def place(value: str) -> int | str:
    """Read a place in a model: a stage such as P4, or the number of a row."""
    return int(value) if value.isdecimal() else value


def scale(value: str) -> Any:
    """Read the scale of the logits: a number, none, or the word cosine."""
    return value if value == "cosine" else optional(number()).read(value)


SCALE = Kind("X", "a number, cosine, or none", scale, ("cosine", "none"))
PAIRWISE = ("embedded_gaussian", "gaussian", "non_local_means", "dot_product", "concatenation")
ADAPTERS = ("pointwise", "depthwise")
