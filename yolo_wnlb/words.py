"""Words for messages: what a misspelt name was probably meant to be."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


def suggestion(name: Any, known: Iterable[str]) -> str:
    """Return " (did you mean 'NAME'?)" for the known name closest to `name`, or "" if none is close.

    Example:
        >>> suggestion("sever", ["mild", "severe"])
        " (did you mean 'severe'?)"
    """
    close = difflib.get_close_matches(str(name), list(known), 1)
    return f" (did you mean {close[0]!r}?)" if close else ""
