"""An export of one size pools the keys of its blocks in windows that are no larger than the map.

`sub_sample: 64` is one key for every map of up to 64 x 64 positions. PyTorch and ONNX Runtime take a window that is
larger than the map; OpenVINO refuses it. A window as large as the map has the same maximum. In an export of any size
the window has to stay as it is, because a larger map has more keys.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn

from yolo_wnlb.wnlb import WNLB


@contextlib.contextmanager
def windows_within_maps(model: nn.Module, dynamic: bool) -> Iterator[None]:
    """Within the context the blocks of a model, and of its copies, pool in windows no larger than their maps.

    Args:
        model: What is exported.
        dynamic: True for an export of any size, where nothing is changed.
    """
    blocks = [] if dynamic else [module for module in model.modules() if isinstance(module, WNLB)]
    for block in blocks:
        block.one_size = True
    try:
        yield
    finally:
        for block in blocks:
            del block.one_size
