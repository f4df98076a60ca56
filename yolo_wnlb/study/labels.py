"""Which training pictures keep their labels, where a row of a study has `labels:`; the same for all rows of a seed.

data set, labels, seed -> drawn -> pictures with labels, the others -> as_data: lists and a data YAML for YOLO
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from yolo_wnlb.data import coco
from yolo_wnlb.data.data_yaml import read_data_yaml
from yolo_wnlb.data.sources import listed, unlabelled_pictures


def how_many(labels: int | float, pictures: int, source: str | Path) -> int:
    """Return how many of so many training pictures keep their labels; a share is rounded, to 1 at least.

    Raises: ValueError: there are fewer pictures.
    """
    if labels > pictures:
        raise ValueError(f"labels: is {labels}, and {source} has {pictures} training pictures; wanted at most as many")
    return labels if isinstance(labels, int) else max(1, round(labels * pictures))


def drawn(source: str | Path, labels: int | float, seed: int) -> tuple[list[Path], list[Path]]:
    """Part the training pictures of a data YAML into those that keep their labels, and the others; both in file order.

    With one seed the pictures of a smaller number are among those of a larger one, and those of a twin of the data set,
    whose files may end in another suffix, are the same.

    Raises: ValueError, OSError: there are fewer pictures, or they cannot be found.
    """
    files = coco.split_files(coco.data_set(source, "train"), source, "train")
    places = sorted(range(len(files)), key=lambda place: files[place].with_suffix("").as_posix())
    order = np.random.default_rng(seed).permutation(len(files))[: how_many(labels, len(files), source)]
    kept = {places[number] for number in order}
    with_labels, without = (
        [file.absolute() for place, file in enumerate(files) if (place in kept) == keeps] for keeps in (True, False)
    )
    return with_labels, without


def unlabelled(source: str | Path) -> list[Path]:
    """List the pictures that a data YAML names as `unlabelled:`, in file order.

    Raises: FileNotFoundError: a folder or list is not there, or empty. ValueError: the entry is misspelt, or names
        pictures of val or test.
    """
    return sorted(unlabelled_pictures(coco.data_set(source, "train")))


def digest(source: str | Path) -> str:
    """Reduce the names and sizes of the pictures that a data YAML has as `unlabelled:` to a short hash; "" for none."""
    files = unlabelled(source)
    found = hashlib.sha256()
    for file in files:
        found.update(f"{file.name} {file.stat().st_size}\n".encode(errors="surrogateescape"))
    return found.hexdigest()[:16] if files else ""


def as_data(source: str | Path, labels: int | float, seed: int, folder: Path) -> Path:
    """Write labelled.txt, unlabelled.txt and the data.yaml that names them into a folder; returns the data YAML.

    What the data set has as `unlabelled:` already stays there.
    """
    import yaml

    resolved, written = read_data_yaml(source)
    parts = dict(zip(("labelled", "unlabelled"), drawn(source, labels, seed)))
    for name, files in parts.items():
        (folder / f"{name}.txt").write_text("".join(f"{file}\n" for file in files), encoding="utf-8")
    content: dict[str, Any] = {key: value for key, value in written.items() if key != "download"}
    content |= {key: resolved[key] for key in ("val", "test") if resolved.get(key)}
    content |= {"path": str(resolved["path"]), "names": resolved["names"]}
    content["train"] = str(folder / "labelled.txt")
    places = [str(Path(resolved["path"], place)) for place in listed(resolved.get("unlabelled"))]
    places += [str(folder / "unlabelled.txt")] if parts["unlabelled"] else []
    if places:
        content["unlabelled"] = places
    file = folder / "data.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return file
