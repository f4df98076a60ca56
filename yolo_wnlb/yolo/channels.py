"""How many channels the pictures of a model have: 1 for grey and infrared cameras, 3 for colour.

Ultralytics reads pictures as `channels:` of the data YAML says, and builds the model that it trains for as many. A
`channels:` in the YAML of a detector it overwrites. Here it counts: a model that is built without `ch=` gets the
channels of its YAML, and a training whose model and data disagree does not start.
"""

from __future__ import annotations

import contextlib
import copy
import os
from pathlib import Path
from typing import Any

from torch import nn

COLOUR = 3  # channels of pictures where nothing else is said


def described(channels: int) -> str:
    """Return a number of channels in words: "1 channel (grey)"."""
    kind = {1: " (grey)", COLOUR: " (colour)"}.get(channels, "")
    return f"{channels} channel{'s' if channels > 1 else ''}{kind}"


def of_model(model: Any) -> int:
    """Return how many channels the pictures of an Ultralytics model have."""
    return int((getattr(model, "yaml", None) or {}).get("channels") or COLOUR)


def of_definition(definition: dict[str, Any]) -> int | None:
    """Return what a model YAML names as `channels:`, None if it names none.

    Raises: ValueError: it is no whole number of 1 or more.
    """
    channels = definition.get("channels")
    if channels is not None and (type(channels) is not int or channels < 1):
        raise ValueError(f"channels of the model YAML is {channels!r}; wanted a whole number, 1 for grey, 3 for colour")
    return channels


def of_data(channels: Any) -> int:
    """Return what a data YAML names as `channels:`.

    Raises: ValueError: it is no whole number of 1 or more.
    """
    if type(channels) is not int or channels < 1:
        raise ValueError(f"channels of the data YAML is {channels!r}; wanted a whole number, 1 for grey, 3 for colour")
    return channels


def named_in(definition: Any) -> int | None:
    """Return the `channels:` of a model YAML, its content or its file; None if it names none, or is something else."""
    from ultralytics.nn.tasks import yaml_model_load

    file = definition
    if isinstance(definition, dict):
        return of_definition(definition)
    if not isinstance(file, (str, os.PathLike)) or Path(file).suffix not in (".yaml", ".yml"):
        return None
    with contextlib.suppress(FileNotFoundError):  # it was read when the model was built, and may be gone since
        return of_definition(yaml_model_load(file))
    return None


def check_training(given: Any, data: dict[str, Any]) -> None:
    """Refuse to train a model YAML on pictures of other channels than it names.

    Args:
        given: What stood behind model=.
        data: The data set as Ultralytics read it.
    Raises: ValueError: they differ, and Ultralytics would go by the data alone; or the data YAML names no number.
    """
    named, pictures = named_in(given), of_data(data.get("channels", COLOUR))
    if named not in (None, pictures):
        raise ValueError(
            f"{given} says channels: {named}, and {data.get('yaml_file', 'the data set')} gives pictures of "
            f"{described(pictures)}; write channels: {named} into the data YAML, which says how pictures are read, or "
            "take it out of the model YAML"
        )


def check_pictures(backend: Any, pictures: Any) -> None:
    """Refuse to validate a model on pictures of other channels than it takes.

    Args:
        backend: Ultralytics' AutoBackend.
        pictures: What the data YAML says as `channels:`.
    Raises: ValueError: they differ, or the data YAML names no number.
    """
    pictures = of_data(pictures)
    taken: int = getattr(backend, "channels", getattr(backend, "ch", COLOUR))
    if taken != pictures:
        remedy = (
            f"write channels: {taken} into the data YAML"
            if pictures == COLOUR
            else f"validate a model for {described(pictures)}, or take channels: {pictures} out of the data YAML"
        )
        raise ValueError(
            f"the model takes pictures of {described(taken)}, and the data set gives {described(pictures)}; {remedy}"
        )


# ---- pretrained weights of a model for other pictures ----------------------------------------------


def becomes_grey_or_colour(source: Any, target: Any) -> bool:
    """Tell whether weights go from a model of several channels into one of 1 channel, or the other way round."""
    channels = {of_model(source), of_model(target)}
    return len(channels) == 2 and 1 in channels


def fit(source: nn.Module, target: nn.Module) -> nn.Module:
    """Give the convolutions of a source that see the picture the input channels of the target.

    Into 1 channel their weights are summed over the channels; out of 1 channel they are given to each channel in equal
    parts. Either way a grey picture, and the same picture as equal channels, have the same output.

    Args:
        source: An Ultralytics model whose layers are lined up with those of the target, see `weights.align`.
        target: The model that its weights go into.
    Returns: A view of the source that shares all other tensors.
    """
    theirs, ours = of_model(source), of_model(target)
    wanted = dict(target.named_modules())

    def sees_the_picture(name: str, module: nn.Module) -> bool:
        twin = wanted.get(name)
        convolutions = isinstance(module, nn.Conv2d) and isinstance(twin, nn.Conv2d)
        return convolutions and (module.in_channels, twin.in_channels) == (theirs, ours)  # type: ignore[union-attr]

    layers: list[nn.Module] = []
    for number, layer in enumerate(source.model):  # type: ignore[arg-type]
        places = [name for name, part in layer.named_modules() if sees_the_picture(f"model.{number}.{name}", part)]
        if places:
            layer = copy.deepcopy(layer)
        for name in places:
            convolution: Any = layer.get_submodule(name)
            weight = convolution.weight.detach().float()
            weight = weight.sum(1, keepdim=True) if ours == 1 else weight.repeat(1, ours, 1, 1) / ours
            convolution.weight, convolution.in_channels = nn.Parameter(weight), ours
        layers.append(layer)
    view = copy.copy(source)
    view._modules = {**source._modules, "model": nn.Sequential(*layers)}
    return view
