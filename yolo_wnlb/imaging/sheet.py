"""Sheets of pictures: panels with captions, side by side, under headings. Every picture is uint8 BGR (H, W, 3)."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

GAP = 8  # pixels between panels
LINE = 19  # height of a line of text in pixels
PAPER, INK, FAINT = (236, 236, 234), (20, 22, 26), (84, 88, 96)  # RGB colours: background, bold text, other text


def paper(height: int, width: int) -> np.ndarray:
    """Return an empty picture in the colour of the background."""
    return np.full((height, width, 3), PAPER[::-1], np.uint8)


def panel(pictures: Sequence[np.ndarray], lines: Sequence[str], side: int, size: int = 14) -> np.ndarray:
    """Stack pictures, at most `side` pixels wide, centred, above a caption whose first line is bold."""
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
    """Put panels side by side; the lower ones get empty space below them."""
    height = max(len(picture) for picture in panels)
    return np.hstack([np.vstack([picture, paper(height - len(picture), picture.shape[1])]) for picture in panels])


def heading(names: Sequence[str], side: int, height: int = 38, size: int = 15) -> np.ndarray:
    """Return a row with the names of the columns below it, centred in each column."""
    top = (height - size) // 2 - 1
    return np.hstack([write(paper(height, side + GAP), [(top, name, size, True)]) for name in names])


def footer(text: str, width: int) -> np.ndarray:
    """Return a text, wrapped into lines, as a picture of this width."""
    lines = textwrap.wrap(text, width // 9)
    return write(paper(LINE * len(lines) + GAP, width), [(LINE * i, line, 14, False) for i, line in enumerate(lines)])


def write(space: np.ndarray, lines: Sequence[tuple[int, str, int, bool]]) -> np.ndarray:
    """Return `space` with lines of text, each (top in pixels, text, size, bold), centred on it."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    sheet = Image.fromarray(space[..., ::-1])
    pen = ImageDraw.Draw(sheet)
    for top, text, size, bold in lines:
        file = Path(matplotlib.get_data_path()) / f"fonts/ttf/DejaVuSans{'-Bold' if bold else ''}.ttf"
        font = ImageFont.truetype(str(file), size)
        left = (space.shape[1] - pen.textlength(text, font)) / 2
        pen.text((left, top), text, INK if bold else FAINT, font)
    return np.asarray(sheet)[..., ::-1]


def shortened(name: str, letters: int = 34) -> str:
    """Return a name, or its last letters behind an ellipsis if it has more than `letters`."""
    return name if len(name) <= letters else f"…{name[1 - letters :]}"


def scaled(shape: Sequence[int], side: int) -> tuple[int, int]:
    """Return the (height, width) of a picture of this shape once its longer side is `side` pixels."""
    factor = side / max(shape[:2])
    return max(1, round(shape[0] * factor)), max(1, round(shape[1] * factor))


def resized(image: np.ndarray, size: tuple[int, int], how: int = cv2.INTER_LINEAR) -> np.ndarray:
    """Resize a picture to (height, width): by averaging if it gets smaller, else by the interpolation `how`."""
    how = cv2.INTER_AREA if size[0] < image.shape[0] else how
    return cv2.resize(np.ascontiguousarray(image), size[::-1], interpolation=how)
