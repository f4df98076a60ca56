"""Sheets of pictures: panels with captions below them, side by side, under headings. All are uint8 BGR (H, W, 3)."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

GAP = 8
LINE = 19  # height of a line of text
PAPER, INK, FAINT = (236, 236, 234), (20, 22, 26), (84, 88, 96)  # RGB


def paper(height: int, width: int) -> np.ndarray:
    """Empty space."""
    return np.full((height, width, 3), PAPER[::-1], np.uint8)


def panel(pictures: Sequence[np.ndarray], lines: Sequence[str], side: int, size: int = 14) -> np.ndarray:
    """Centre pictures, `side` pixels wide at most, over their caption: the first line bright, the others faint."""
    parts = []
    for picture in pictures:
        field = paper(picture.shape[0], side + GAP)
        left = (field.shape[1] - picture.shape[1]) // 2
        field[:, left : left + picture.shape[1]] = picture
        parts.append(field)
    caption = paper(LINE * len(lines) + 2 * GAP, side + GAP)
    parts.append(write(caption, [(GAP // 2 + LINE * i, line, size, i == 0) for i, line in enumerate(lines)]))
    return np.vstack(parts)


def in_a_row(panels: Sequence[np.ndarray]) -> np.ndarray:
    """Lay panels side by side, all as high as the highest."""
    height = max(len(one) for one in panels)
    return np.hstack([np.vstack([one, paper(height - len(one), one.shape[1])]) for one in panels])


def heading(names: Sequence[str], side: int, height: int = 38, size: int = 15) -> np.ndarray:
    """Write the names of columns of panels, half-way up."""
    top = (height - size) // 2 - 1
    return np.hstack([write(paper(height, side + GAP), [(top, name, size, True)]) for name in names])


def footer(text: str, width: int) -> np.ndarray:
    """Write a text over the whole width."""
    lines = textwrap.wrap(text, width // 9)
    return write(paper(LINE * len(lines) + GAP, width), [(LINE * i, line, 14, False) for i, line in enumerate(lines)])


def write(space: np.ndarray, lines: Sequence[tuple[int, str, int, bool]]) -> np.ndarray:
    """Write lines, each (top, text, size, bright), centred."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    sheet = Image.fromarray(space[..., ::-1])
    pen = ImageDraw.Draw(sheet)
    for top, text, size, bright in lines:
        file = Path(matplotlib.get_data_path()) / f"fonts/ttf/DejaVuSans{'-Bold' if bright else ''}.ttf"
        font = ImageFont.truetype(str(file), size)
        left = (space.shape[1] - pen.textlength(text, font)) / 2
        pen.text((left, top), text, INK if bright else FAINT, font)
    return np.asarray(sheet)[..., ::-1]


def shortened(name: str, letters: int = 34) -> str:
    """Keep the end of a long name."""
    return name if len(name) <= letters else f"…{name[1 - letters :]}"


def scaled(shape: Sequence[int], side: int) -> tuple[int, int]:
    """Return (height, width) with the longer side brought to `side`."""
    factor = side / max(shape[:2])
    return max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor))


def resized(image: np.ndarray, size: tuple[int, int], how: int = cv2.INTER_LINEAR) -> np.ndarray:
    """Resize to (height, width), averaging where it shrinks."""
    how = cv2.INTER_AREA if size[0] < image.shape[0] else how
    return cv2.resize(np.ascontiguousarray(image), size[::-1], interpolation=how)
