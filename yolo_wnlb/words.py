"""Words for messages: what a misspelt name was probably meant to be, and numbers of things."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any


def suggestion(name: Any, known: Iterable[str], also_called: Mapping[str, str] | None = None) -> str:
    """Return " (did you mean 'NAME'?)" for the known name closest to `name`, or "" if none is close.

    Capitals do not count. `also_called` has other names, in small letters, of some that are known.

    Example:
        >>> suggestion("sever", ["mild", "severe"]), suggestion("N2V", ["n2v"])
        (" (did you mean 'severe'?)", " (did you mean 'n2v'?)")
        >>> suggestion("Noise2Void", ["n2v"], {"noise2void": "n2v"})
        " (did you mean 'n2v'?)"
    """
    names = {word.casefold(): word for word in known}
    spelt = str(name).casefold()
    close = difflib.get_close_matches((also_called or {}).get(spelt, spelt), names, 1)
    return f" (did you mean {names[close[0]]!r}?)" if close else ""


def literal(text: Any) -> str:
    r"""Return a text as Matplotlib writes it letter by letter, for between two $ it expects a formula.

    Example:
        >>> literal("$5 and $6")
        '\\$5 and \\$6'
    """
    return str(text).replace("$", r"\$")


def counted(number: int, thing: str) -> str:
    """Return a number of things in words.

    Example:
        >>> counted(1, "object"), counted(2, "object")
        ('1 object', '2 objects')
    """
    return f"{number} {thing}{'' if number == 1 else 's'}"
