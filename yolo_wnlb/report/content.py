"""Everything that the report shows, as it stands in report.json; the page is drawn from it and the pictures alone.

    measure.measure(models, data, ...) -> Content --to_json--> report.json --from_json--> Content -> page

`measure` fills all fields but `enhancers`, `blocks` and `cost`, which are empty lists until somebody measures them.
Rows of all models lie in one list and name their model, in the order of `Content.models`.

Units: scores and shares are in [0, 1]; brightness is the mean luma of a picture, 0 (black) to 255; boxes and outlines
are in pixels of the picture file; stops are powers of 2 of exposure below daylight, 0 or less.
"""

from __future__ import annotations

import json
import types
import typing
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from yolo_wnlb.data.journal import replaced
from yolo_wnlb.metrics import errors
from yolo_wnlb.metrics.confidence import Bin, Rates
from yolo_wnlb.reading import read_json

FORMAT = "yolo_wnlb report 1"
ERROR_KINDS = errors.NAMES  # of TIDE, in the order shown


@dataclass
class Estimate:
    """A number with its 95 % interval over the choice of pictures.

    Attributes:
        value: The number on the pictures as they are; None where there is nothing to measure.
        low: Lower end of the interval; None where the pictures are too few for one.
        high: Upper end of the interval.
    """

    value: float | None
    low: float | None = None
    high: float | None = None

    @property
    def clear(self) -> bool:
        """Of a difference: True where the interval leaves out 0, so that it is more than the choice of pictures."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass
class Model:
    """A model of the report; the others are compared with the first one.

    Attributes:
        name: Short name; rows refer to it.
        weights: Path as it was given.
        sha256: Of the file, or of all files of an exported folder.
        task: "segment" or "detect".
        detector: What ran it, with its version: "ultralytics 8.4.190".
        image_size: "height x width" that pictures were fitted into, in pixels.
        classes: Names of the classes that were measured.
        parameters: Number of weights; None where the file does not tell, as in most exports.
        licence: What the checkpoint says of its licence; "not stated" where it says nothing.
        training: What the checkpoint says of its training (data, epochs, lowlight, ...); empty where it does not.
    """

    name: str
    weights: str
    sha256: str
    task: str
    detector: str
    image_size: str
    classes: list[str]
    parameters: int | None = None
    licence: str = "not stated"
    training: dict[str, str] = field(default_factory=dict)


@dataclass
class Data:
    """The pictures.

    Attributes:
        source: Data YAML or COCO file, as it was given.
        split: Of a data YAML; None for a COCO file.
        truth: Fingerprint of the truth, as `evaluate` prints it.
        pictures: Number of pictures.
        objects: Number of objects of each class, crowds left out.
        brightness: Median of the pictures' brightness.
        pictures_of_stops: On how many of the pictures, evenly spaced by name, the stops were measured.
        preset: Whose noise the stops have: a preset or a camera file.
        seed: Of all randomness.
        groups: Number of groups of pictures that intervals draw; None where single pictures are drawn.
    """

    source: str
    split: str | None
    truth: str
    pictures: int
    objects: dict[str, int]
    brightness: float
    pictures_of_stops: int
    preset: str
    seed: int
    groups: int | None = None


@dataclass
class Score:
    """What `yolo-wnlb evaluate` prints of a model on all pictures as they are, to the last digit.

    Attributes:
        model: Name of the model.
        kind: "segm" or "bbox".
        numbers: COCO's twelve numbers by name (AP, AP50, ...); -1 where the truth has no such object.
        per_class: AP of each class by name; -1 for a class without objects.
        ap: AP with its interval.
    """

    model: str
    kind: str
    numbers: dict[str, float]
    per_class: dict[str, float]
    ap: Estimate


@dataclass
class Comparison:
    """How much more a model has than the first one, on the same pictures (a paired bootstrap).

    Attributes:
        model: Name of the model.
        first: Name of the first model.
        kind: "segm" or "bbox".
        where: "all pictures"; "mean over stops".
        metric: "AP".
        difference: Score of the model less that of the first, with its interval.
    """

    model: str
    first: str
    kind: str
    where: str
    metric: str
    difference: Estimate


@dataclass
class Stop:
    """A model on pictures that were darkened to one stop.

    Attributes:
        model: Name of the model.
        kind: "segm" or "bbox".
        stop: 0, -1, ...: exposure relative to daylight, with the noise of `Data.preset`; None: the pictures as they
            are, the same `Data.pictures_of_stops` of them.
        brightness: Median brightness of the pictures at this stop.
        ap: AP with its interval.
        confidence: The lowest confidence that counts for precision and recall: `Threshold.confidence` of the model on
            all pictures as they are, the same at all stops.
        precision: Share of the detections that are right, at an IoU of 0.5.
        recall: Share of the objects that are found.
        difference: AP less that of the first model at this stop; None for the first model.
    """

    model: str
    kind: str
    stop: int | None
    brightness: float
    ap: Estimate
    confidence: float
    precision: Estimate
    recall: Estimate
    difference: Estimate | None = None


@dataclass
class HalfStop:
    """How dark it may get: the stop at which AP is half of that on the pictures as they are.

    Attributes:
        model: Name of the model.
        kind: "segm" or "bbox".
        stop: That stop with its interval, linear between two measured ones; the darkest stop where AP is still above
            half there; value None where AP is 0 by day.
        reached: Whether AP falls to half at all.
        open: Whether the lower end of the interval lies beyond the darkest stop that was measured.
        difference: The stop less that of the first model; None for the first model, or where either is not reached.
    """

    model: str
    kind: str
    stop: Estimate
    reached: bool
    open: bool
    difference: Estimate | None = None


@dataclass
class Slice:
    """A model on the real pictures of one range of brightness. The counts of all slices add up to those of the whole.

    Attributes:
        model: Name of the model.
        kind: "segm" or "bbox".
        low: The range of brightness, from here ...
        high: ... to below here.
        pictures: Number of pictures.
        objects: Number of objects, crowds left out.
        confidence: The lowest confidence that counts for the three numbers below; the same in all slices.
        found: Number of objects that a detection hits, at an IoU of 0.5.
        missed: Number of the other objects.
        false_alarms: Number of detections that hit no object.
        ap: AP on these pictures with its interval.
    """

    model: str
    kind: str
    low: float
    high: float
    pictures: int
    objects: int
    confidence: float
    found: int
    missed: int
    false_alarms: int
    ap: Estimate


@dataclass
class Threshold:
    """The confidence to use: the one with the best F-beta.

    The confidence is chosen on all pictures of its row. What it is worth is told twice: `in_sample` on the pictures
    that it was chosen on, which flatters; `expected` with the confidence chosen on one half of the pictures and applied
    to the other, both ways, which is what new pictures of the same kind are to be expected to give.

    Attributes:
        model: Name of the model.
        kind: "segm" or "bbox".
        where: "all pictures"; "brightness 16 to 32" (real pictures); "stop -3" (darkened pictures).
        low: Range of brightness of the pictures, from here; of a stop the lowest that a picture has.
        high: To here; of real pictures to below here.
        pictures: Number of pictures.
        objects: Number of objects.
        confidence: The confidence to use; None where nothing that was found is right.
        of_halves: The confidences chosen on each half: how far it depends on the pictures. Empty without halves.
        in_sample: On the pictures that it was chosen on; None where the confidence is.
        expected: On the other half; None where the pictures do not make two halves with objects.
    """

    model: str
    kind: str
    where: str
    low: float
    high: float
    pictures: int
    objects: int
    confidence: float | None
    of_halves: list[float]
    in_sample: Rates | None
    expected: Rates | None


@dataclass
class Calibration:
    """Whether a confidence of 0.7 means that 70 of 100 such detections are right.

    The calibration error is the mean of |precision - confidence| over the bins, weighted by detections. With a
    temperature T, a confidence p becomes 1 / (1 + exp(-logit(p) / T)): T above 1 makes it less sure.

    Attributes:
        model: Name of the model.
        kind: "segm" or "bbox".
        where: As in `Threshold`.
        floor: Detections below this confidence are left out: they are nearly all false, and say so.
        detections: Number of detections that count.
        error: Calibration error as the model is.
        temperature: Chosen on all pictures of the row; None where there is too little to choose it by.
        error_after: Calibration error with the temperature chosen on the other half of the pictures; None as above.
        bins: As the model is; empty ones are left out.
        bins_after: The same with the temperature, as for `error_after`.
    """

    model: str
    kind: str
    where: str
    floor: float
    detections: int
    error: float | None
    temperature: float | None
    error_after: float | None
    bins: list[Bin]
    bins_after: list[Bin]


@dataclass
class ErrorKind:
    """How many errors of one kind a model makes, and what they cost (TIDE: Bolya et al., ECCV 2020).

    Attributes:
        model: Name of the model.
        kind: "segm" or "bbox".
        name: One of ERROR_KINDS.
        count: Number of such errors among all detections (not only those above a confidence) and objects.
        cost: AP50 that the model would gain if these errors alone were mended, in [0, 1]. The costs do not add up.
    """

    model: str
    kind: str
    name: str
    count: int
    cost: float


@dataclass
class Shape:
    """An object or a detection in a picture.

    Attributes:
        name: Its class.
        box: x, y of the upper left corner, width, height.
        outlines: Of its mask: one flat list x, y, x, y, ... for each part; empty for boxes alone.
        score: Confidence of a detection; None for an object of the truth.
    """

    name: str
    box: list[float]
    outlines: list[list[float]]
    score: float | None = None


@dataclass
class WorstPicture:
    """A picture in which much goes wrong, at the model's confidence for all pictures. The worst come first.

    Attributes:
        model: Name of the model.
        file: The picture's file.
        name: Its name in the data set.
        width: In pixels.
        height: In pixels.
        brightness: Of the picture.
        harm: What it is sorted by: objects missed, and false alarms each counted by its confidence.
        missed: Objects that no detection hits (red).
        false_alarms: Detections that hit no object (blue), highest confidence first.
        found: Detections that hit an object.
    """

    model: str
    file: str
    name: str
    width: int
    height: int
    brightness: float
    harm: float
    missed: list[Shape]
    false_alarms: list[Shape]
    found: list[Shape]


@dataclass
class Enhancer:
    """A model on pictures that were brightened first.

    Attributes:
        model: Name of the model.
        kind: "segm" or "bbox".
        name: Name of the enhancer.
        where: Which pictures: "all pictures", "stop -3".
        without: AP without it.
        with_it: AP with it.
        difference: AP with it less AP without it, with its interval.
        milliseconds: Of the enhancer for a picture.
    """

    model: str
    kind: str
    name: str
    where: str
    without: float
    with_it: float
    difference: Estimate
    milliseconds: float


@dataclass
class Block:
    """A weighted non-local block of a model.

    Attributes:
        model: Name of the model.
        layer: Its number in the model, such as "16".
        stage: "P3", "P4", ...
        stride: Pixels of the input for one position of its map.
        channels: Of its map.
        operation: Name of its pairwise function.
        sub_sample: Stride of the pooling of keys and values.
        w: Its weight as it is written: "0.12"; "-" where it has none.
        change: |z - x| / |x| of its output z and input x, the mean over pictures.
        neighbours: Effective number of positions that one position attends to, exp(entropy), the mean over pictures.
        keys: Number of positions that it can attend to.
    """

    model: str
    layer: str
    stage: str
    stride: int
    channels: int
    operation: str
    sub_sample: int
    w: str
    change: float
    neighbours: float
    keys: int


@dataclass
class Cost:
    """What a model costs for one picture.

    Attributes:
        model: Name of the model.
        device: What ran it.
        threads: Number of threads of a CPU; None elsewhere.
        milliseconds: Median time of one picture, at the confidence for all pictures: the network and what follows
            it, without reading the file.
        gflops: 10^9 operations of one picture; None where the file does not tell.
        megabytes: Size of the file.
    """

    model: str
    device: str
    threads: int | None
    milliseconds: float
    gflops: float | None
    megabytes: float


@dataclass
class Content:
    """Everything that the report shows.

    Attributes:
        title: Heading of the page.
        verdict: Three points: how good and how dark; which confidence to set; what goes wrong and what helps.
        models: The first one is what the others are compared with.
        data: The pictures.
        kind: What most rows are of: "segm" where all models and the truth have masks, else "bbox".
        beta: Of F-beta: recall counts so many times as much as precision.
        scores: On all pictures as they are, for each kind that models and truth have.
        comparisons: Of the other models with the first.
        stops: For each model the pictures as they are (stop None), then darker and darker.
        half_stops: For each model.
        slices: For each model by brightness, the darkest first; ranges without pictures are left out.
        thresholds: For each model: all pictures, then by brightness, then by stop.
        calibrations: For each model: the same rows.
        errors: For each model the six kinds.
        worst: For each model, the worst picture first.
        enhancers: With and without each enhancer.
        blocks: Of the models that have any.
        cost: For each model.
        versions: Of the programs: {"yolo_wnlb": "0.1.0", "ultralytics": ..., "torch": ..., "python": ...}.
        made: Date and time, ISO 8601.
        command: The command that made it; "" if none did.
        notes: What the reader has to know.
    """

    title: str
    verdict: list[str]
    models: list[Model]
    data: Data
    kind: str
    beta: float
    scores: list[Score] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    stops: list[Stop] = field(default_factory=list)
    half_stops: list[HalfStop] = field(default_factory=list)
    slices: list[Slice] = field(default_factory=list)
    thresholds: list[Threshold] = field(default_factory=list)
    calibrations: list[Calibration] = field(default_factory=list)
    errors: list[ErrorKind] = field(default_factory=list)
    worst: list[WorstPicture] = field(default_factory=list)
    enhancers: list[Enhancer] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    cost: list[Cost] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    made: str = ""
    command: str = ""
    notes: list[str] = field(default_factory=list)

    def to_json(self, path: str | Path) -> None:
        """Write everything, for `from_json`.

        Raises: OSError; ValueError: a number is infinite or not a number.
        """
        try:
            text = json.dumps({"format": FORMAT, **asdict(self)}, indent=1, allow_nan=False)
        except ValueError as error:
            raise ValueError(f"{path}: the report holds what JSON cannot hold: {error}") from None
        with replaced(Path(path)) as draft:
            draft.write_text(f"{text}\n", encoding="utf-8")

    @classmethod
    def from_json(cls, path: str | Path) -> Content:
        """Read what `to_json` wrote.

        Raises: OSError; ValueError: it is something else, or was damaged. The message names the file and the field.
        """
        found = read_json(path)
        try:
            if not isinstance(found, dict) or found.pop("format", None) != FORMAT:
                raise ValueError(f"it has no format {FORMAT!r}")
            content: Content = decoded(cls, found, "report")
            names = [model.name for model in content.models]
            if not names:
                raise ValueError("it has no models")
            for part in fields(cls):
                rows = getattr(content, part.name)
                named = [row.model for row in rows if hasattr(row, "model")] if isinstance(rows, list) else []
                if unknown := [name for name in named if name not in names]:
                    raise ValueError(f"{part.name} has a row of {unknown[0]!r}, and its models are {', '.join(names)}")
        except ValueError as error:
            raise ValueError(f"{path} is no report that yolo_wnlb wrote: {error}; make it again") from None
        return content


def decoded(kind: Any, value: Any, where: str) -> Any:
    """Turn what JSON holds into a value of a type: a dataclass, list, dict, a choice of types, or a plain type.

    Args:
        kind: The type.
        value: What was read.
        where: What it is called in messages.
    Raises: ValueError: the value is of another type, or a dataclass has other fields.
    """
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):  # `X | None` is the only one
        return None if value is None else decoded(parts[0], value, where)
    if origin is list and isinstance(value, list):
        return [decoded(parts[0], entry, f"{where}[{place}]") for place, entry in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {key: decoded(parts[1], entry, f"{where}.{key}") for key, entry in value.items()}
    if is_dataclass(kind) and isinstance(value, dict):
        names = [part.name for part in fields(kind)]
        if differing := sorted({*names} ^ value.keys()):
            raise ValueError(f"unknown or missing in {where}: {', '.join(differing)}")
        hints = typing.get_type_hints(kind)
        return kind(**{name: decoded(hints[name], value[name], f"{where}.{name}") for name in names})  # type: ignore[operator]
    if kind is float and type(value) in (int, float):
        return float(value)
    if kind in (str, int, bool) and type(value) is kind:
        return value
    raise ValueError(f"{where} is {value!r:.60}, which is no {getattr(kind, '__name__', kind)}")
