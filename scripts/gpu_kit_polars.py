"""Stands for polars on a machine without it: Ultralytics reads its results.csv with it once an epoch, and no more.

polars takes 52 MiB, nearly all that `gpu_kit.sh` may carry. The kit copies this file into its own environment as
polars.py if the machine has no polars. Anything else of polars raises an AttributeError.
"""

from __future__ import annotations

import csv


class Columns(dict[str, list[float | str]]):
    """The columns of a CSV file by name."""

    def to_dict(self, *, as_series: bool) -> dict[str, list[float | str]]:
        """Return the columns as lists."""
        assert not as_series, "the stand-in for polars has no series"
        return dict(self)


def read_csv(source: bytes, *, infer_schema_length: int | None = None) -> Columns:
    """Read a CSV file with one line of names; what is a number becomes one."""
    names, *rows = csv.reader(source.decode().splitlines(), skipinitialspace=True)
    return Columns({name: [number_or_text(row[i]) for row in rows] for i, name in enumerate(names)})


def number_or_text(text: str) -> float | str:
    """Return a cell as a whole number, a number, or as it is."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text
