"""Find the YAML files that ship with the package: model definitions and data sets."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def folder(kind: str) -> Path:
    """Return the folder `cfg` or `datasets`: inside the package (wheel) or beside it (checkout)."""
    packaged = _PACKAGE / kind
    return packaged if packaged.is_dir() else _PACKAGE.parent / kind


def find(name: str) -> Path | None:
    """Return the shipped YAML of this bare file name, None if there is none."""
    if "/" in name or "\\" in name or not name.endswith((".yaml", ".yml")):
        return None
    return next((file for kind in ("cfg", "datasets") if (file := folder(kind) / name).is_file()), None)


def shipped(kind: str) -> list[str]:
    """Return the sorted names of the YAML files of `cfg` or `datasets`."""
    return sorted(file.name for file in folder(kind).glob("*.yaml"))
