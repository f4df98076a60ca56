"""ultralytics.utils: shipped YAML files are found by bare name, and pictures of more than 8 bits are read."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from yolo_wnlb.yolo.patches.wrapping import wrap


def patch_checks(checks: ModuleType) -> None:
    """Let model, data and settings YAMLs of this package be found from any directory."""
    wrap(checks, "check_file", check_file)


def check_file(stock: Callable[..., Any], file: Any, *args: Any, **kwargs: Any) -> Any:
    """Prefer what the stock function finds in place; else a shipped file of that bare name.

    Raises:
        FileNotFoundError: there is none; names the shipped files that are spelt alike.
        ValueError: the aliases of a YAML, written out, would fill the memory.
    """
    from yolo_wnlb import paths
    from yolo_wnlb.reading import check_aliases

    name = str(file).strip()
    if not os.path.exists(name) and (shipped := paths.find(name)):
        return stock(str(shipped), *args, **kwargs)
    try:
        found = stock(file, *args, **kwargs)
        if str(found).endswith((".yaml", ".yml")) and Path(found).is_file():
            check_aliases(found)
        return found
    except FileNotFoundError as error:
        known = [*paths.shipped("cfg"), *paths.shipped("datasets")]
        if not (similar := difflib.get_close_matches(name.casefold(), known, cutoff=0.8)):
            raise
        raise FileNotFoundError(
            f"'{name}' does not exist (of any size). Did you mean {' or '.join(similar)}? A size n, s, m, l or x goes "
            "behind the version: yolov8m-seg-wnlb.yaml. Make other models with 'yolo-wnlb graft'."
        ) from error


def patch_imread(patches: ModuleType) -> None:
    """Let the function that reads pictures bring one of more than 8 bits through a tone curve."""
    wrap(patches, "imread", imread)


def imread(stock: Callable[..., Any], filename: Any, flags: int | None = None) -> Any:
    """Read a picture of more than 8 bits through the curve that its flags carry; any other as the stock function.

    So is one that cannot be decoded, with a warning: Ultralytics reads some of these, and passes over the others.
    """
    from yolo_wnlb.yolo import sixteen_bits

    given, flags = ((), sixteen_bits.COLOUR) if flags is None else ((flags,), flags)
    picture = sixteen_bits.read_or_warn(filename, flags)
    return stock(filename, *given) if picture is None else picture
