"""Insert wNLB rows into any Ultralytics model YAML and renumber every reference to a layer.

Rows refer to other layers by absolute number, so an insertion moves all later ones; and whoever
read the layer in front of a block now reads the block.
"""

from __future__ import annotations

import inspect
import itertools
import math
import re
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import yaml

from yolo_wnlb.reading import read_yaml
from yolo_wnlb.wnlb import WNLB
from yolo_wnlb.words import suggestion
from yolo_wnlb.yolo.channels import COLOUR, of_definition

NAME = "wNLB"
NAMES = (NAME, "WNLB")  # both are accepted in a YAML
TAIL = ("SPP", "SPPF", "SPPELAN", "PSA", "C2PSA", "C2fPSA", "AIFI")  # after the last stage, not part of it


def graft(
    model: dict[str, Any],
    after: str | int | Sequence[str | int] = ("P3", "P4", "P5"),
    options: Sequence[dict[str, Any]] | dict[str, Any] | None = None,
) -> tuple[dict[str, Any], dict[int, int]]:
    """Insert a wNLB row after stages or layers of a model definition.

    Args:
        model: The parsed YAML, with `backbone` and `head`: lists of [from, repeats, module, args].
        after: Where. 'P2' ... 'P6' is the end of the backbone stage of stride 4 ... 64 (its CSP
            block, in front of SPPF and attention); a whole number is the row itself.
        options: Keyword arguments of `WNLB` for all blocks, or one mapping for each of `after`.

    Returns:
        The new definition (the given one is not changed), and {old layer number: new number}.

    Raises:
        ValueError, TypeError: a row of the model is malformed, or cannot be built; `after` is empty, names a
            stage or a layer the model does not have, or one twice; the number of options differs; `WNLB`
            does not take an option.

    Example:
        >>> backbone = [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [8, 3, 2]]]
        >>> graft({"backbone": backbone, "head": [[[0, 1], 1, "Concat", [1]]]}, after=[0])[0]["head"]
        [[[1, 2], 1, 'Concat', [1]]]
    """
    rows = rows_of(model)
    after = [after] if isinstance(after, (str, int)) else after
    if not isinstance(after, Sequence) or not after:
        raise ValueError(f"after is {after!r}; wanted stages or row numbers, at least one, such as ['P3', 4]")
    if isinstance(options, dict) or options is None:
        options = [options or {}] * len(after)
    if not isinstance(options, Sequence) or not all(isinstance(option, dict) for option in options):
        raise TypeError(f"options are {options!r}; wanted one mapping for all blocks, or a list with one for each")
    if len(options) != len(after):
        raise ValueError(f"{len(options)} mappings of options for {len(after)} places; give one, or one for each place")
    blocks: dict[int, list[Any]] = {}
    stages = stage_ends(model) if any(type(place) is not int for place in after) else {}
    for place, option in zip(after, options):
        stage = str(place).upper()
        if isinstance(place, bool) or (not isinstance(place, int) and stage not in stages):
            raise ValueError(f"no stage {place!r} in this backbone; it has {', '.join(stages)} (or give a row number)")
        row = place if isinstance(place, int) else stages[stage]
        if not 0 <= row < len(rows) - 1:
            raise ValueError(f"no place after row {row}: the model has rows 0 to {len(rows) - 1}, the last is its head")
        if row in blocks or rows[row + 1][2] in NAMES or rows[row][2] in NAMES:
            raise ValueError(f"there is a wNLB after row {row} already; name each place once")
        blocks[row] = [-1, 1, NAME, [dict(option)] if option else []]

    new = {old: old + sum(row < old for row in blocks) for old in range(len(rows))}
    read = {old: new[old] + (old in blocks) for old in new}  # a reader of the layer reads its block

    def moved(source: int, row: int) -> int:
        """Renumber one `from` of a row; -1, the layer in front, always stays right."""
        if source >= 0:
            return read[source]
        return source if source == -1 else read[row + source] - new[row]

    grafted: list[list[Any]] = []
    for row, (source, repeats, module, args) in enumerate(rows):
        source = [moved(s, row) for s in source] if isinstance(source, list) else moved(source, row)
        grafted.append([source, repeats, module, deepcopy(args)])
        if row in blocks:
            complete(len(grafted), blocks[row])
            grafted.append(blocks[row])
    cut = len(model["backbone"]) + sum(row < len(model["backbone"]) for row in blocks)
    return {**deepcopy(model), "backbone": grafted[:cut], "head": grafted[cut:]}, new


def rows_of(model: dict[str, Any]) -> list[list[Any]]:
    """Return all rows of a model definition, backbone and head, each as it is.

    Raises: ValueError: there are none, or a row is malformed; names it.
    """
    for part in ("backbone", "head"):
        if not isinstance(model.get(part), list) or not model[part]:
            raise ValueError(f"the {part} of the model YAML is no list of rows [from, repeats, module, [arguments]]")
    rows = [*model["backbone"], *model["head"]]
    for number, row in enumerate(rows):
        source, repeats, module, args = fields(number, row)
        where = f"row {number} of the model YAML, {row}:"
        sources = source if isinstance(source, list) else [source]
        if not sources or not all(type(s) is int and -max(number, 1) <= s < number for s in sources):
            raise ValueError(f"{where} from = {source} is no earlier row, nor -1 for the row in front")
        if type(repeats) is not int or not isinstance(module, str) or not isinstance(args, list):
            raise ValueError(f"{where} wanted a whole number of repeats, the name of a module, and a list of arguments")
    return rows


def fields(number: int, row: Any) -> list[Any]:
    """Return the row, which is [from, repeats, module, arguments]; a ValueError names any other."""
    if not isinstance(row, list) or len(row) != 4:
        raise ValueError(f"row {number} of the model YAML, {row}: wanted [from, repeats, module, [arguments]]")
    return row


def complete(number: int, row: list[Any]) -> list[Any]:
    """Check a row `[-1, 1, wNLB, [{options}]]` and give it the positional arguments of the parser.

    The first of them, the number of channels, is the parser's own local `c2`: the output channels of the
    layer in front, whatever the scale.

    Raises:
        ValueError, TypeError: names the row, what is wrong, and the choices.
    """
    source, repeats, module, args = fields(number, row)
    known = {name: p.default for name, p in inspect.signature(WNLB).parameters.items() if name != "in_channels"}
    usage = f"write [-1, 1, {module}, []] or [-1, 1, {module}, [{{operation: dot_product, sub_sample: 2}}]]"
    where = f"row {number} of the model YAML, {row}:"
    if source != -1:
        raise ValueError(
            f"{where} {module} reads the layer in front of it, from = -1; found from = {source}. To read another "
            f"layer put the row [{source}, 1, nn.Identity, []] in front"
        )
    if repeats != 1:
        raise ValueError(f"{where} {module} takes repeats = 1; found {repeats}. Write the row {repeats} times")
    args = args or []
    if not isinstance(args, list) or len(args) > 1 or not all(isinstance(option, dict) for option in args):
        raise TypeError(
            f"{where} {module} takes its channels from the layer in front, and one mapping of options; {usage}"
        )
    options = args[0] if args else {}
    if unknown := [str(name) for name in options if name not in known]:
        named = f"{', '.join(unknown)}{suggestion(unknown[0], known)}"
        raise TypeError(f"{where} {module} has no option {named}; choose from {', '.join(known)}")
    try:
        with torch.device("meta"):  # neither memory nor random numbers
            WNLB(2, **options)
    except ValueError as error:
        raise ValueError(f"{where} {error}") from error
    values = [options.get(name, default) for name, default in known.items()]
    while values and values[-1] == list(known.values())[len(values) - 1]:
        values.pop()  # the printed table of layers shows what differs from the defaults
    return [source, repeats, module, ["c2", *values]]


def stage_ends(model: dict[str, Any]) -> dict[str, int]:
    """Return {'P1': row, 'P2': row, ...}: the last row of each backbone stage, found by running it.

    The backbone is built at its first scale and run once on zeros, so any module that changes the
    stride counts, whatever its name.
    """
    from ultralytics.nn import tasks

    side, channels = 256, of_definition(model) or COLOUR
    try:
        backbone = {**deepcopy(model), "head": [], "scale": next(iter(model.get("scales") or [""]))}
        with torch.random.fork_rng(devices=[]):  # the weights drawn here are used for nothing else
            layers, _ = tasks.parse_model(backbone, ch=channels, verbose=False)
    except KeyError as error:
        raise ValueError(f"Ultralytics has no module {error} that this backbone names") from error
    except Exception as error:  # whatever a module makes of arguments that it does not take
        raise ValueError(f"Ultralytics cannot build this backbone at its first scale: {error}") from error
    outputs: list[Any] = []
    x: Any = torch.zeros(1, channels, side, side)
    ends: dict[str, int] = {}
    with torch.inference_mode():
        for row, layer in enumerate(layers.eval()):
            if layer.f != -1:
                x = outputs[layer.f] if isinstance(layer.f, int) else [x if j == -1 else outputs[j] for j in layer.f]
            try:
                x = layer(x)
            except Exception as error:
                raise ValueError(f"row {row} of the model YAML, {model['backbone'][row]}, fails: {error}") from error
            outputs.append(x)
            level = math.log2(side / x.shape[-1]) if isinstance(x, torch.Tensor) and x.ndim == 4 else 0.0
            if level >= 1 and level.is_integer() and model["backbone"][row][2] not in TAIL:
                ends[f"P{int(level)}"] = row
    return ends


def load_yaml(name: str | Path) -> dict[str, Any]:
    """Read a model YAML by path or by the bare name of one that Ultralytics or this package ships.

    Raises:
        FileNotFoundError: there is none of that name.
        ValueError: the file is no YAML that can be read, or no model definition; a row of it is malformed.
    """
    from ultralytics.utils import checks

    if Path(name).suffix not in (".yaml", ".yml"):
        raise ValueError(f"{name} is no YAML; give the definition of the model, such as yolov8-seg.yaml")
    without_scale = re.sub(r"(\d+)([nslmx])(.+)?$", r"\1\3", str(name))  # as Ultralytics finds yolov8n-seg.yaml
    model = read_yaml(checks.check_yaml(name, hard=False) or checks.check_yaml(without_scale))
    if not isinstance(model, dict) or not {"backbone", "head"} <= set(model):
        raise ValueError(f"{name} is no model definition: it has no 'backbone' and 'head' (is it a data set?)")
    try:
        rows_of(model)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    return {key: value for key, value in model.items() if key not in ("scale", "yaml_file")}


def to_yaml(model: dict[str, Any], title: str) -> str:
    """Write a model definition as Ultralytics lays it out, each row with its number behind it."""
    lines = [f"# {line}" for line in title.splitlines()] + [""]
    for key, value in model.items():
        if key == "scales":
            lines += ["scales: # [depth, width, max_channels]", *(f"  {k}: {_flow(v)}" for k, v in value.items())]
        elif key not in ("backbone", "head"):
            lines.append(f"{key}: {_flow(value)}")
    numbers = itertools.count()
    for part in ("backbone", "head"):
        lines += ["", f"{part}: # [from, repeats, module, args]"]
        lines += [f"  - {_flow(row)} # {next(numbers)}" for row in model[part]]
    return "\n".join(lines) + "\n"


def _flow(value: Any) -> str:
    """Write a value in YAML's flow style, on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=math.inf, allow_unicode=True)
    return text.removesuffix("...\n").rstrip("\n")
