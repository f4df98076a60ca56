"""The command `yolo-wnlb report`: measure models, and write report.html, report.json and the model card report.md."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from yolo_wnlb.reading import read_json
from yolo_wnlb.report import blocks, card, cost, page
from yolo_wnlb.report.content import FORMAT
from yolo_wnlb.report.enhancers import DEFAULT, place_of, read_enhancers, with_and_without
from yolo_wnlb.report.measure import confidence_of, measure
from yolo_wnlb.study.suite import CLEAN

STOPS = (0, -1, -2, -3, -4, -5)


@dataclass(frozen=True)
class Files:
    """What a report writes; print it.

    Attributes:
        page: The HTML page.
        content: All that it shows, as JSON.
        card: The same as Markdown, with the front matter of the Hub.
        verdict: Its three points.
    """

    page: Path
    content: Path
    card: Path
    verdict: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join([*self.verdict, "", f"written: {self.page}, {self.content.name}, {self.card.name}"])


def report(
    models: str | Path | Sequence[str | Path],
    data: str | Path,
    out: str | Path = "report.html",
    *,
    split: str = "val",
    stops: Sequence[int] = STOPS,
    n: int = 100,
    preset: str = "severe",
    imgsz: int | None = None,
    beta: float = 1.0,
    enhancers: Sequence[str] = DEFAULT,
    worst: int = 24,
    groups: str | None = None,
    seed: int = 0,
    title: str = "",
    allow_missing: bool = False,
    exist_ok: bool = False,
    device: str | None = None,
    images: str | Path | None = None,
    command: str = "",
) -> Files:
    """Measure models, and write the page, its numbers and the model card.

    Args:
        models: Files of detectors; the others are compared with the first.
        data: A data YAML, or COCO annotations.
        out: The page, .html; the JSON file and the card get its name with .json and .md.
        enhancers: What pictures are brightened with, see `twins.enhancers.enhancer`; an empty list for none.
        exist_ok: Write over the files of another report.
        split, stops, n, preset, imgsz, beta, worst, groups, seed, title, allow_missing, device, images, command: See
            `measure.measure`. Enhancers are measured on the n pictures too.
    Raises: ValueError, OSError: with the remedy; before anything is measured, but for files that cannot be written.
    """
    paths = [Path(models)] if isinstance(models, (str, Path)) else [Path(model) for model in models]
    files = files_of(out, [*paths, data, preset], exist_ok)
    made = read_enhancers(enhancers)
    found = measure(
        paths,
        data,
        stops=stops,
        n=n,
        split=split,
        images=images,
        imgsz=imgsz,
        preset=preset,
        seed=seed,
        beta=beta,
        groups=groups,
        worst=worst,
        allow_missing=allow_missing,
        device=device,
        title=title,
        command=command,
    )
    content, subjects, scene = found.content, found.subjects, found.scene
    content.to_json(files.content)  # what took longest is kept, whatever happens to the rest
    cell = place_of(content.data.brightness, stops, content.half_stops, content.models[0].name)
    fewer = len(scene.files) < content.data.pictures
    as_they_are = f"{len(scene.files)} pictures as they are" if fewer else "all pictures"
    where = as_they_are if cell == CLEAN else f"stop {cell.strength}"
    names = [subject.name for subject in subjects]
    without = {name: found.scores[name, cell] for name in names}
    content.enhancers = with_and_without(subjects, scene, content.kind, made, without, cell, where, found.labels)
    content.blocks = blocks.rows_of(subjects, scene, content.notes)
    content.cost = cost.rows_of(subjects, scene, {name: confidence_of(content, name) for name in names})
    content.to_json(files.content)
    page.write(content, files.page, getattr(subjects[0].model, "curve", None))  # as `read_models` has it
    card.write(content, files.card)
    return Files(files.page, files.content, files.card, tuple(content.verdict))


def files_of(out: str | Path, given: Sequence[str | Path], exist_ok: bool) -> Files:
    """Return where the files of a report go, the folder made if need be.

    Raises: ValueError, OSError: `out` is no .html file; a file is there that must not be written over.
    """
    path = Path(out)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"out={out} is no name of a page; wanted one that ends in .html, such as out=report.html")
    files = Files(path, path.with_suffix(".json"), path.with_suffix(".md"))
    targets = (files.page, files.content, files.card)
    for target in targets:
        if target.is_dir():
            raise IsADirectoryError(f"{target} is a folder; choose another out=")
        if any(str(file) and target.resolve() == Path(file).resolve() for file in given):
            raise ValueError(
                f"{target} is what the report is made from, and would be written over; choose another out="
            )
    there = [target for target in targets if target.exists()]
    if there and not exist_ok:
        raise FileExistsError(f"{there[0]} is there already; choose another out=, or write over it with exist_ok=True")
    if there and not is_report(files.content):
        raise FileExistsError(
            f"{there[0]} is there, and {files.content.name} beside it is not of a report, so that it may be somebody "
            "else's; choose another out="
        )
    folder = path.absolute().parent
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"nothing can be written into {folder}; choose another out=")
    return files


def is_report(file: Path) -> bool:
    """Tell whether a file holds the numbers of a report."""
    try:
        found = read_json(file)
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and found.get("format") == FORMAT
