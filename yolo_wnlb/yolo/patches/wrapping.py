"""Replace one function of Ultralytics by a wrapper of ours: the tool of every module here."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


def wrap(owner: Any, name: str, wrapper: Callable[..., Any], everywhere: bool = True) -> None:
    """Replace owner.name by wrapper(stock, ...), once; of a module also where it was imported from already."""
    stock = getattr(owner, name)
    if hasattr(stock, "_stock"):
        return

    @functools.wraps(stock)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return wrapper(stock, *args, **kwargs)

    wrapped._stock = stock  # type: ignore[attr-defined]
    setattr(owner, name, wrapped)
    if everywhere and isinstance(owner, ModuleType):
        for module in [m for key, m in sys.modules.items() if key.startswith("ultralytics.")]:
            if getattr(module, name, None) is stock:
                setattr(module, name, wrapped)
