"""One tone curve for all pictures of a camera, measured on some of them: `yolo-wnlb curve`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from yolo_wnlb.data.journal import replaced
from yolo_wnlb.data.sources import DataSet, listed, printable, read_sources, spread
from yolo_wnlb.imaging.curve import HIGH, LOW, WHITE, Curve, as_settings, end_points, read_curve, read_curve_file, table
from yolo_wnlb.imaging.deep import DEEP, RAW, codes_of, kind_of, light_of

LOOKED_AT = 200  # pictures, evenly spaced


@dataclass(frozen=True)
class Measured:
    """What the codes of some pictures have in common.

    Attributes:
        file: Where the curve was written.
        curve: With the codes that became black and white.
        pictures: How many were measured.
        whites: Code that each of them by itself would have for white, from the darkest to the brightest picture.
        codes: How many codes the pictures have together.
        kept: How many are left of them by this curve, and by the high byte.
    """

    file: Path
    curve: Curve
    pictures: int
    whites: tuple[int, ...]
    codes: int
    kept: tuple[int, int]

    def __str__(self) -> str:
        """Say what was measured, and how to use it."""
        first, last = self.whites[0], self.whites[-1]
        use = shlex.quote(f"curve={self.file}")
        return "\n".join(
            [
                f"{self.file}: {self.curve}",
                f"  {self.pictures} pictures have {self.codes} codes: this curve makes {self.kept[0]} of 256, the high "
                f"byte {self.kept[1]}",
                f"  by itself each picture has a white from {first} to {last}; curve=auto makes all equally bright",
                f"give {use} to yolo train; the checkpoint keeps it for val, predict and export",
            ]
        )


def measure_curve(
    source: str | Path | Sequence[str | Path],
    out: str | Path = "curve.yaml",
    *,
    low: float = LOW,
    high: float = HIGH,
    response: Any = None,
    n: int = LOOKED_AT,
    exist_ok: bool = False,
) -> Measured:
    """Measure the codes of black and white on pictures of one camera, and write the curve.

    Args:
        source: A data YAML (its training pictures count), COCO files, or folders of pictures.
        out: The .yaml to write, which curve= takes.
        low, high: Percentiles of the codes of all pictures together that become black and white.
        response: As `Curve` has it.
        n: How many pictures are looked at, evenly spaced.
        exist_ok: Write over a curve that is there.
    Raises:
        FileExistsError: the file is there.
        IsADirectoryError: it is a folder.
        ValueError: it holds no curve or belongs to the source, no picture has more than 8 bits, all have one code,
            RAW files are mixed with others, or a picture is broken.
    """
    wanted = read_curve({"low": low, "high": high, "response": response})
    out = Path(out)
    if out.suffix.lower() not in (".yaml", ".yml"):
        raise ValueError(f"out is {str(out)!r}; wanted the .yaml file to write")
    if out.exists() and not exist_ok:
        raise FileExistsError(f"{out} is there already; give another out=, or exist_ok=True to write over it")
    data = read_sources(source)
    refuse_source(out, data, listed(source))
    if out.exists():
        read_curve_file(out)  # nothing but an earlier curve is written over
    names = ["train"] if "train" in data.splits else [*data.splits]
    files = spread(sorted({file for name in names for file in data.splits[name]}), n)
    counts = np.zeros(WHITE + 1)
    whites: list[int] = []
    kinds: dict[str, Path] = {}
    for file in files:
        try:
            with file.open("rb") as stored:
                kind = kind_of(stored, file.name)
                stored.seek(0)
                content = stored.read() if kind else b""
        except OSError as error:
            raise ValueError(f"{printable(file)} cannot be read: {error.strerror}") from error
        if kind is None:
            continue
        kinds.setdefault(kind, file)
        is_raw = kind == RAW
        picture = light_of(content, wanted, str(file)) if is_raw else codes_of(content, 1, wanted, str(file))
        counts += cv2.calcHist([picture.reshape(-1, 1)], [0], None, [WHITE + 1], [0, WHITE + 1]).ravel()
        whites.append(end_points(picture, wanted)[1])
    if not whites:
        raise ValueError(
            f"none of {len(files)} pictures has more than 8 bits (first: {printable(files[0]) if files else 'none'}); "
            "such pictures need no curve"
        )
    if len(kinds) > 1:
        raise ValueError(
            f"{printable(kinds[RAW])} is a RAW file and {printable(kinds[DEEP])} is none; their codes mean different "
            "things, so measure them one by one"
        )
    total = np.cumsum(counts)
    black, white = map(int, np.searchsorted(total, np.array([low, high]) / 100 * (total[-1] - 1), "right"))
    if black >= white:
        raise ValueError(f"from the {low:g} to the {high:g} percentile all pictures have the one code {black}")
    curve = read_curve({**as_settings(wanted), "black": black, "white": white})
    used = np.flatnonzero(counts)
    codes = table(black, white, curve.response or ("srgb" if RAW in kinds else "identity"), 8)
    write(out, curve, len(whites))
    kept = len(np.unique(codes[used])), len(np.unique(used >> 8))
    return Measured(out, curve, len(whites), tuple(sorted(whites)), len(used), kept)


def refuse_source(out: Path, data: DataSet, given: Sequence[str | Path]) -> None:
    """Raise ValueError or IsADirectoryError where the curve would be written over what it is measured on."""
    if out.is_dir():
        raise IsADirectoryError(f"{out} is a folder; choose another out=")
    pictures = (file for files in data.splits.values() for file in files)
    yamls = (data.yaml, f"{data.yaml}.yaml") if data.yaml else ()
    if out.resolve() in {Path(file).resolve() for file in (*given, *yamls, *data.annotations, *data.lists, *pictures)}:
        raise ValueError(
            f"{printable(out)} is what the curve is measured on, and would be written over; choose another out="
        )


def write(out: Path, curve: Curve, count: int) -> None:
    """Write the file of a curve."""
    import yaml

    settings = {name: value for name, value in as_settings(curve).items() if value is not None}
    head = f"# yolo-wnlb curve: black and white are percentiles of the codes of {count} pictures together.\n"
    with replaced(out) as draft:
        draft.write_text(head + yaml.safe_dump({"curve": settings}, sort_keys=False), encoding="utf-8")
