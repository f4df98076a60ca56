"""How bright a picture is: the one measure that reports, previews and gates compare."""

from __future__ import annotations

import cv2
import numpy as np

DAYLIGHT = 60  # median of the pictures' mean codes, 0 to 255, below which they do not count as bright


def mean_luma(image: np.ndarray) -> float:
    """Return the mean luma (BT.601) of a picture, 0 (black) to 255; uint8 (H, W), (H, W, 1), or BGR (H, W, 3).

    Example:
        >>> mean_luma(np.full((2, 3, 3), 100, np.uint8))
        100.0
    """
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) if image.ndim == 3 and image.shape[2] == 3 else image
    return float(grey.mean())


def dark_already(brightness: float) -> str:
    """Return the remark that pictures of this median brightness are dark before they are darkened; "" for day pictures.

    Example:
        >>> dark_already(100.0)
        ''
    """
    if brightness >= DAYLIGHT:
        return ""
    return (
        f"the pictures are dark already: their median brightness is {brightness:.0f} of 255, and day pictures have "
        f"{DAYLIGHT} or more"
    )
