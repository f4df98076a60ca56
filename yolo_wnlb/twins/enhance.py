"""Two-stage baselines, enhance then segment: every enhancer behind one call, and its data set on disk.

    enhancer("clahe"), enhancer("onnx:FILE,pad=12"), ... -> Enhancer: uint8 RGB -> uint8 RGB, same size
    enhancer("corrupt:fog,level=3") -> the same call for pictures that are to be made worse
    enhancer("denoise:best.pt")     -> what a U-Net, or a YOLO trained with denoise=, makes of a noisy picture
    data set --enhance_dataset--> its layout, its labels, enhanced PNGs: one set of pixels for all detectors

Pictures are enhanced at the size of their files, before any detector resizes them. Networks of
others are run, never shipped: docs/enhancers.md has a recipe for each of the paper's.
"""

from __future__ import annotations

import hashlib
import importlib
import math
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from yolo_wnlb.data import journal
from yolo_wnlb.data.journal import ENHANCED, Line, digest
from yolo_wnlb.data.sources import DATA_YAML, PARTS, DataSet, Picture, list_images, listed, read_sources
from yolo_wnlb.denoiseg.pictures import psnr
from yolo_wnlb.imaging import corruptions
from yolo_wnlb.imaging.curve import CURVES, Curve, as_settings, read_curve
from yolo_wnlb.reading import sha256_of
from yolo_wnlb.twins import pictures
from yolo_wnlb.twins.pictures import encode
from yolo_wnlb.twins.twin import Plan, Report, Twin, bring_up_to_date, refuse_place
from yolo_wnlb.words import suggestion

Work = Callable[[np.ndarray, str], np.ndarray]  # a picture and its name -> a picture
Outputs = dict[str, np.ndarray]
Network = Callable[[np.ndarray], Outputs]  # float32 (1, 3, H, W) -> all it returns, by name
Span = tuple[float, float]

SIGMAS = (15, 80, 250)  # of the retinex: pixels
KEPT = 8  # sigma, in pixels of the smaller picture that a large one is computed on
ELSEWHERE = ("zerodce++", "zerodce", "enlightengan", "agllnet", "retinexformer")  # docs/enhancers.md


@dataclass(frozen=True)
class Enhancer:
    """What brightens a picture and checks what goes in and comes out; make one with `enhancer`.

    Attributes:
        spec: What it was made from; files by their names alone.
        sha256: Of its model file, its code and weights, or its folder's pictures and their names; "" without.
        work: What it does, unchecked.
        takes_grey: Whether `work` takes grey pictures (H, W, 1) too; otherwise it is given three equal channels.
    """

    spec: str
    sha256: str
    work: Work
    takes_grey: bool = False

    def __call__(self, image: np.ndarray, name: str = "") -> np.ndarray:
        """Enhance a picture.

        Args:
            image: uint8 RGB (H, W, 3), or grey (H, W, 1).
            name: Its path in the data set, wanted by `dir:` and `corrupt:` alone.
        Returns: A new uint8 array of the same shape; of a grey picture the luma of what came out.
        Raises: ValueError, FileNotFoundError: with the remedy.
        """
        size: tuple[int, ...] = getattr(image, "shape", ())
        if getattr(image, "dtype", None) != np.uint8 or len(size) != 3 or size[2] not in (1, 3) or 0 in size:
            found = f"{getattr(image, 'dtype', type(image).__name__)} {size or ''}"
            raise ValueError(f"the picture is {found}; wanted uint8 RGB (H, W, 3) or grey (H, W, 1): drop an alpha")
        if image.shape[2] == 1 and not self.takes_grey:
            return cv2.cvtColor(self(cv2.cvtColor(image, cv2.COLOR_GRAY2RGB), name), cv2.COLOR_RGB2GRAY)[..., None]
        result = self.work(np.ascontiguousarray(image), name)
        shape, kind = getattr(result, "shape", ()), getattr(result, "dtype", type(result).__name__)
        if (shape, kind) != (image.shape, image.dtype):
            given = "{} x {} pixels".format(*image.shape[1::-1])
            got = "{} x {} pixels".format(*shape[1::-1]) if len(shape) == 3 else f"the shape {shape}"
            which = f"{name}, {given}," if name else given
            raise ValueError(f"{self.spec} turned {which} into {got} of {kind}; wanted uint8 of the same size")
        return result


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


def spec_of(kind: str, argument: str, options: dict[str, str]) -> str:
    """Write a spec, the same on every machine."""
    return ",".join([f"{kind}:{argument}", *(f"{name}={value}" for name, value in sorted(options.items()))])


# ---- without learning ----------------------------------------------------------------------------


def gamma(argument: str, options: dict[str, str]) -> Enhancer:
    """Brighten by 255 (x / 255)^(1 / gamma)."""
    value = above_0("gamma", argument or "2.2")
    table = np.rint(255 * (np.arange(256) / 255) ** (1 / value)).astype(np.uint8)
    return Enhancer(f"gamma:{value:g}", "", lambda image, name: cv2.LUT(image, table))


CODES = 256  # the limit is in multiples of the mean count of a code: this many is a whole tile of one code


def clahe(argument: str, options: dict[str, str]) -> Enhancer:
    """Equalise tiles of the luma, their contrast limited (Zuiderveld, Graphics Gems IV, 1994)."""
    limit = above_0("clahe", argument or "2")
    if limit > CODES:
        raise ValueError(f"clahe is {argument!r}; {CODES} limits nothing, and more has no effect: give at most {CODES}")
    return Enhancer(f"clahe:{limit:g}", "", lambda image, name: on_luma(image, cv2.createCLAHE(limit, (8, 8)).apply))


def above_0(kind: str, argument: str) -> float:
    """Read the number behind the colon."""
    with suppress(ValueError):
        if 0 < (value := float(argument)) < math.inf:
            return value
    raise ValueError(f"{kind} is {argument!r}; wanted a number above 0: {KINDS[kind][0]}")


def on_luma(image: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Change the luma and keep the chroma; exact for grey. (The L of 8-bit LAB merges dark codes.)"""
    luma, *chroma = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb))
    return cv2.cvtColor(cv2.merge([change(luma), *chroma]), cv2.COLOR_YCrCb2RGB)


def equalize(image: np.ndarray, name: str = "") -> np.ndarray:
    """Equalise the histogram of the luma."""
    return on_luma(image, cv2.equalizeHist)


def retinex(image: np.ndarray, name: str = "") -> np.ndarray:
    """Multi-scale retinex: the mean over scales of log x - log (Gaussian * x), in each channel.

    Source: Jobson, Rahman, Woodell, "A Multiscale Retinex for Bridging the Gap Between Color Images
    and the Human Observation of Scenes", IEEE Trans. Image Processing 6(7), 1997, with equal weights.
    Differs: x is the code plus 1; for want of a fixed gain and offset the 1st and 99th percentile
    of all channels become 0 and 255; no colour restoration.
    """
    codes = image.astype(np.float32) + 1
    surround = np.ones_like(codes)
    for sigma in SIGMAS:
        surround *= blur(codes, sigma)
    ratio = cv2.log(codes) - cv2.log(surround) / len(SIGMAS)
    low, high = np.percentile(ratio, (1, 99))
    if high - low < 1e-3:  # a code more or less is 0.004 or above: it is flat
        return image.copy()
    return to_codes(ratio, (low, high))


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Blur by a Gaussian of a large sigma on a smaller picture; borders are mirrored.

    Averaging pixels to 1 / f of the side and interpolating back add f^2 / 12 and f^2 / 6 to the variance.
    """
    sides = [max(1, round(side * KEPT / sigma)) for side in image.shape[1::-1]]
    x, y = (math.sqrt((sigma * small / side) ** 2 - 0.25) for small, side in zip(sides, image.shape[1::-1]))
    small = cv2.resize(image, sides, interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), x, sigmaY=y, borderType=cv2.BORDER_REFLECT)
    return cv2.resize(small, image.shape[1::-1], interpolation=cv2.INTER_LINEAR).reshape(image.shape)


def to_codes(values: np.ndarray, span: Span) -> np.ndarray:
    """Stretch a span of values over 0 to 255 and round; what lies outside is clipped."""
    return np.rint(np.clip((values - span[0]) * (255 / (span[1] - span[0])), 0, 255)).astype(np.uint8)


# ---- made worse ----------------------------------------------------------------------------------


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


# ---- enhanced before -----------------------------------------------------------------------------


def from_folder(argument: str, options: dict[str, str]) -> Enhancer:
    """Take pictures that another program enhanced."""
    from ultralytics.data.utils import IMG_FORMATS

    folder = Path(argument)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {argument}; give that of the enhanced pictures: dir:FOLDER")
    files: dict[str, list[Path]] = {}
    listing = hashlib.sha256()
    for file in map(Path, list_images(folder, IMG_FORMATS)):
        files.setdefault(file.stem, []).append(file)
        listing.update(f"{file.relative_to(folder).as_posix()} {sha256_of(file)}\n".encode(errors="surrogateescape"))
    if not files:
        raise FileNotFoundError(f"{argument} holds no pictures ({', '.join(sorted(IMG_FORMATS))})")

    def work(image: np.ndarray, name: str) -> np.ndarray:
        found = files.get(Path(name).stem, [])
        if len(found) > 1:
            found = [file for file in found if file.parent.name == Path(name).parent.name] or found
        if len(found) != 1:
            many = f"has {len(found)} pictures ({', '.join(map(str, found[:2]))})" if found else "has no picture"
            raise FileNotFoundError(f"{argument} {many} for {name!r}; wanted one of that name, any suffix")
        return decode(found[0].read_bytes(), str(found[0]))[0]

    return Enhancer(spec_of("dir", folder.resolve().name, options), listing.hexdigest(), work)


def decode(
    stored: bytes, what: str, curve: Curve = CURVES["auto"], name: str = "", channels: int = 3
) -> tuple[np.ndarray, dict[str, int]]:
    """Decode a picture to uint8 RGB, or grey (H, W, 1), upright as its EXIF says; see `twins.pictures.decode`."""
    flag = cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR
    image, ends = pictures.decode(stored, flag, what, curve=curve, name=name)
    return (image.reshape(*image.shape[:2], 1) if channels == 1 else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)), ends


# ---- networks ------------------------------------------------------------------------------------


def through(network: Network, options: dict[str, str], what: str) -> Work:
    """Show pictures to a network as its options say."""
    number = r"(-?\d+(?:\.\d+)?)"
    spans = re.fullmatch(f"{number}-{number}(?:/{number}-{number})?", options.get("range", "0-1"))
    low, high, out_low, out_high = (float(v) if v else math.nan for v in spans.groups()) if spans else [math.nan] * 4
    out_low, out_high = (low, high) if math.isnan(out_low) else (out_low, out_high)
    if not (low < high and out_low < out_high):
        raise ValueError(f"range is {options['range']!r}; wanted low-high: 0-1, 0-255, -1-1, or input/output 0-1/-1-1")
    if not re.fullmatch("[1-9][0-9]*", options.get("pad", "1")):
        raise ValueError(f"pad is {options['pad']!r}; wanted what sides have to be a multiple of: pad=12")
    pad, output = int(options.get("pad", 1)), options.get("output")

    def work(image: np.ndarray, name: str) -> np.ndarray:
        height, width = image.shape[:2]
        filled = cv2.copyMakeBorder(image, 0, -height % pad, 0, -width % pad, cv2.BORDER_REPLICATE)
        x = filled.astype(np.float32) * np.float32((high - low) / 255) + np.float32(low)
        x = np.ascontiguousarray(x.transpose(2, 0, 1)[None])  # (1, 3, H, W)
        try:
            outputs = network(x)
        except Exception as error:  # runtimes have their own
            raise ValueError(
                f"{what} fails on {x.shape[3]} x {x.shape[2]} pixels: {str(error).strip()}\n"
                "Export it for any height and width, and say what sides have to be a multiple of: pad=12"
            ) from error
        wanted = output or next(iter(outputs), "")
        if wanted not in outputs or (not output and len(outputs) > 1):
            found = f"no output {output!r}" if output else f"{len(outputs)} outputs"
            raise ValueError(f"{what} has {found}; give output= and one of {', '.join(outputs)}")
        y = outputs[wanted]
        if not isinstance(y, np.ndarray) or y.dtype.kind not in "fiu":
            raise ValueError(f"{what}: output {wanted} holds no numbers but {getattr(y, 'dtype', type(y).__name__)}")
        if y.shape != x.shape:
            raise ValueError(f"{what}: output {wanted} is {y.shape}; wanted {x.shape} as the input: RGB of that size")
        if not np.isfinite(y).all():
            raise ValueError(f"{what}: output {wanted} is not finite; is range={options.get('range', '0-1')} right?")
        return to_codes(y[0].transpose(1, 2, 0)[:height, :width], (out_low, out_high))

    return work


def from_onnx(argument: str, options: dict[str, str]) -> Enhancer:
    """Run an ONNX file by onnxruntime, or without it by OpenCV."""
    file = existing(argument, "onnx:FILE")
    try:
        network = by_onnxruntime(file)
    except ImportError:
        try:
            network = by_opencv(file)
        except cv2.error as error:
            raise ValueError(f"OpenCV cannot load {argument}: {error}; try with onnxruntime installed") from error
    weights = [file, *file.parent.glob(f"{file.name}.data")]  # where torch puts large ones
    return Enhancer(spec_of("onnx", file.name, options), sha256_of(*weights), through(network, options, argument))


def by_onnxruntime(file: Path) -> Network:
    """Open a model of one picture by onnxruntime, on a GPU if it has one."""
    import onnxruntime

    available = onnxruntime.get_available_providers()
    try:
        providers = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in available]
        session = onnxruntime.InferenceSession(str(file), providers=providers)
    except Exception as error:  # its own kinds
        raise ValueError(f"{file} cannot be loaded as ONNX: {error}") from error
    inputs = [f"{i.name} {i.type} {i.shape}" for i in session.get_inputs()]
    if len(inputs) != 1 or session.get_inputs()[0].type != "tensor(float)":
        raise ValueError(f"{file} takes {' and '.join(inputs)}; wanted one float picture (1, 3, H, W): export it so")
    name, names = session.get_inputs()[0].name, [output.name for output in session.get_outputs()]
    return lambda x: dict(zip(names, session.run(names, {name: x})))


def by_opencv(file: Path) -> Network:
    """Open a model of one picture by OpenCV."""
    network = cv2.dnn.readNetFromONNX(str(file))
    names = network.getUnconnectedOutLayersNames()

    def run(x: np.ndarray) -> Outputs:
        network.setInput(x)
        return dict(zip(names, network.forward(names)))

    return run


def from_module(argument: str, options: dict[str, str]) -> Enhancer:
    """Run an nn.Module of the user's own code."""
    import torch

    place, _, factory = argument.partition(":")
    current = str(Path.cwd())
    sys.path.insert(0, current)  # the command starts elsewhere
    try:
        module = importlib.import_module(place)
        if not callable(make := getattr(module, factory, None)):
            raise ValueError(f"{place} has no function {factory!r}; wanted torch:MODULE:FACTORY")
        network = make()
    except ImportError as error:
        raise ImportError(f"torch:{argument}: {error}; run where {place}.py lies, or install it") from error
    except (ValueError, OSError):
        raise
    except Exception as error:  # whatever the user's code does
        raise ValueError(f"torch:{argument} fails: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(current)
    if not isinstance(network, torch.nn.Module):
        raise ValueError(f"torch:{argument} returned {type(network).__name__}; wanted an nn.Module")
    weights = hashlib.sha256(Path(module.__file__).read_bytes() if module.__file__ else b"")
    for name, tensor in network.state_dict().items():
        weights.update(name.encode())
        weights.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return Enhancer(
        spec_of("torch", argument, options), weights.hexdigest(), through(by_torch(network), options, argument)
    )


def from_torchscript(argument: str, options: dict[str, str]) -> Enhancer:
    """Run a TorchScript file."""
    import torch

    file = existing(argument, "torchscript:FILE")
    try:
        network = torch.jit.load(file, map_location="cpu")
    except RuntimeError as error:
        raise ValueError(
            f"{argument} is no TorchScript file; weights alone need their network: torch:MODULE:FACTORY ({error})"
        ) from error
    return Enhancer(
        spec_of("torchscript", file.name, options), sha256_of(file), through(by_torch(network), options, argument)
    )


def from_denoiser(argument: str, options: dict[str, str]) -> Enhancer:
    """Run the decoder of a checkpoint that was trained with denoise=, or a U-Net that has learnt to denoise."""
    from yolo_wnlb.denoiseg import detector

    file = existing(argument, "denoise:FILE")
    work = by_unet(file) if detector.reads(file) else by_decoder(file)
    return Enhancer(spec_of("denoise", file.name, options), sha256_of(file), work)


def by_decoder(file: Path) -> Work:
    """Restore pictures by the decoder of a YOLO checkpoint."""
    from yolo_wnlb.yolo import restore

    restorer = restore.load(file)
    return lambda image, name: restorer(image)


def by_unet(file: Path) -> Work:
    """Denoise pictures by a U-Net; one for grey pictures returns grey ones."""
    from yolo_wnlb.denoiseg import detector

    network = detector.load(file)
    network.check_denoises()

    def work(image: np.ndarray, name: str) -> np.ndarray:
        codes = to_codes(network.denoise(np.ascontiguousarray(image[..., ::-1])), (0, 255))
        return np.repeat(codes[..., None], 3, 2) if codes.ndim == 2 else codes[..., ::-1]

    return work


def by_torch(network: Any) -> Network:
    """Run a module on a GPU if there is one."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = network.eval().to(device)

    def run(x: np.ndarray) -> Outputs:
        with torch.inference_mode():
            found = network(torch.from_numpy(x).to(device))
        if isinstance(found, torch.Tensor):
            found = [found]
        pairs = found.items() if isinstance(found, dict) else enumerate(found)
        return {str(name): y.float().cpu().numpy() for name, y in pairs if isinstance(y, torch.Tensor)}

    return run


def existing(argument: str, form: str) -> Path:
    """Return the path of a model file that is there."""
    if not Path(argument).is_file():
        raise FileNotFoundError(f"there is no file {argument}; give the model as {form}")
    return Path(argument)


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


# ---- data sets -----------------------------------------------------------------------------------


def enhance_dataset(
    source: str | Path,
    spec: str,
    out: str | Path,
    *,
    split: str | Sequence[str] | None = None,
    images: str | Path | None = None,
    clean: str | Path | None = None,
    curve: Any = "auto",
) -> Report:
    """Write the enhanced twin of a data set: its layout, its labels, enhanced PNGs.

    Run it again after whatever stopped it, or for another split: what is there stays, unless the
    picture or its label has changed in the source; what the source no longer has is removed.

    Args:
        source: A data YAML as Ultralytics takes it, a COCO annotation file, a folder that holds
            either or both, or a folder of pictures; those of `yolo-wnlb darken` too.
        spec: As `enhancer` takes it.
        out: Folder to make, neither in the source nor around it.
        split: "val", or several, beside those that are there; all of them by default. data.yaml names these.
        images: Folder of the pictures of COCO files, where it is not beside them.
        clean: Where the pictures without noise are known: a data set of the same layout, such as the source of
            `yolo-wnlb darken`. The report then has the PSNR.
        curve: How pictures with more than 8 bits are read, as `yolo_wnlb.imaging.curve.read_curve` takes it.
    Returns: What was done.
    Raises: ValueError, OSError: with the remedy; what was done stays done.
    """
    home, enhance, tone = Path(out).resolve(), enhancer(spec), read_curve(curve)
    data = read_sources(source, images)
    if journal.header_of(data.root / ENHANCED):
        raise ValueError(f"{data.root} was enhanced before: it holds our {ENHANCED}; give what it was made from")
    refuse_place(home, data, ENHANCED)
    data.pictures(".png", None)  # all names must be free, also for splits that come later
    if unknown := [name for name in listed(split) if name not in data.splits]:
        raise ValueError(f"{source} has no split {unknown[0]!r}; choose from {', '.join(data.splits)}")
    references = clean_pictures(clean, data.only(choose(data, listed(split), home))) if clean else {}
    made_by = {"enhancer": enhance.spec, "sha256": enhance.sha256}
    how = {"lowlight": data.dark, "enhanced": made_by} if data.dark else {"enhanced": made_by}

    def make_plan() -> Plan:
        chosen = choose(data, listed(split), home)
        part = data.only(chosen)
        found = part.pictures(".png", None)
        listing = "\n".join([*(picture.key for picture in found), *part.document_names])
        header = {
            **made_by,
            "curve": as_settings(tone),
            "splits": [portable(data, name) for name in chosen],
            "source": f"{len(found)} pictures, {digest(listing.encode(errors='surrogateescape'))['blake2b'][:12]}",
        }
        return Plan(Twin(data.root, home, ENHANCED, header, how, ".png"), part, found)

    def develop(stored: bytes, picture: Picture) -> tuple[bytes, Line]:
        image, ends = decode(stored, "the picture", tone, picture.key, data.channels)
        picture.refuse_other_size(*image.shape[1::-1])
        image = enhance(image, picture.key)
        return encode(np.ascontiguousarray(image[..., ::-1]), "png"), {"curve": ends} if ends else {}

    run = bring_up_to_date(make_plan, develop, strict=True)
    total, notes = len(run.plan.pictures), [*data.notes, *run.notes]
    speed = run.speed if run.tried else "complete, nothing to do"
    report = Report(
        f"{total} pictures in {out} by {enhance.spec} ({speed})", total, run.tried, run.seconds, notes=notes
    )
    if clean:
        report.notes.append(compared(run.plan.pictures, data, home, references, clean, tone))
    if data.definition is not None:
        report.advice.append(f"evaluate with: yolo-wnlb evaluate MODEL data={Path(out) / DATA_YAML}")
    return report


def choose(data: DataSet, wanted: list[str], out: Path) -> list[str]:
    """Return the splits to enhance: those that are wanted, or all, and those that are there already."""
    begun = {name for lines in journal.records(out, ENHANCED) for name in lines[0].get("splits", ())}
    return [name for name in data.splits if not wanted or name in wanted or portable(data, name) in begun]


def portable(data: DataSet, split: str) -> str:
    """Return the name of a split that is the same on every machine; for annotation files that below the root."""
    file = Path(split)
    return split if split in PARTS else data.name(file) if file in data.annotations else ""


# ---- how near to the pictures without noise ------------------------------------------------------


def clean_pictures(clean: str | Path, data: DataSet) -> dict[str, Path]:
    """Find the clean picture of each picture of a data set: the one of the same path below its root, whatever suffix.

    Returns: {path of the enhanced picture below the output: the clean one}.
    Raises: FileNotFoundError: some have none.
    """
    known = read_sources(clean)
    files = {picture.image: known.root / picture.key for picture in known.pictures(".png", None)}
    wanted = data.pictures(".png", None)
    if missing := [str(picture) for picture in wanted if picture.image not in files]:
        raise FileNotFoundError(
            f"clean={clean} has no picture for {len(missing)} of {len(wanted)} (first: {missing[0]}); wanted the data "
            "set that they were made from, with the same folders and names"
        )
    return {picture.image: files[picture.image] for picture in wanted}


def compared(
    found: Sequence[Picture], data: DataSet, out: Path, clean: dict[str, Path], name: str | Path, curve: Curve
) -> str:
    """Say how near pictures are to the clean ones, before and after: the mean over pictures of the PSNR."""
    values = []
    for picture in found:
        files = (clean[picture.image], data.root / picture.key, out / picture.image)
        reference, *pair = (decode(file.read_bytes(), str(file), curve, channels=data.channels)[0] for file in files)
        if reference.shape != pair[0].shape:
            sides = ["{} x {}".format(*image.shape[1::-1]) for image in (reference, pair[0])]
            raise ValueError(
                f"{clean[picture.image]} has {sides[0]} pixels, {picture} has {sides[1]}; are they a pair?"
            )
        values.append([psnr(reference, image) for image in pair])
    if any(np.isinf(before) for before, _ in values):
        return f"no PSNR: some pictures of {name} equal those that were enhanced; clean= wants the ones without noise"
    before, after = np.mean(values, 0)
    return f"PSNR against {name}: {before:.2f} dB before, {after:.2f} dB after (mean over {len(found)} pictures)"
