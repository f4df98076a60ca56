"""The enhanced twin of a data set, for two-stage baselines: one set of pixels for all detectors.

    data set --enhance_dataset--> its layout, its labels, enhanced PNGs

Pictures are enhanced at the size of their files, before any detector resizes them.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from yolo_wnlb.data import journal
from yolo_wnlb.data.journal import ENHANCED, Line, digest
from yolo_wnlb.data.sources import DATA_YAML, PARTS, DataSet, Picture, listed, read_sources
from yolo_wnlb.denoiseg.pictures import psnr
from yolo_wnlb.imaging.curve import CURVES, Curve, as_settings, read_curve
from yolo_wnlb.twins.enhancers import enhancer
from yolo_wnlb.twins.pictures import decode_rgb, encode
from yolo_wnlb.twins.twin import Plan, Report, Twin, bring_up_to_date, refuse_place
from yolo_wnlb.words import suggestion


def enhance_dataset(
    source: str | Path,
    spec: str,
    out: str | Path,
    *,
    split: str | Sequence[str] | None = None,
    images: str | Path | None = None,
    clean: str | Path | None = None,
    curve: Any = None,
) -> Report:
    """Write the enhanced twin of a data set: its layout, its labels, enhanced PNGs.

    Run it again after whatever stopped it, or for another split: what is there stays, unless the
    picture or its label has changed in the source; what the source no longer has is removed.

    Args:
        source: A data YAML as Ultralytics takes it, a COCO annotation file, a folder that holds
            either or both, or a folder of pictures; those of `yolo-wnlb darken` too.
        spec: As `enhancer` takes it.
        out: Folder to make, neither in the source nor around it.
        split: "val", or several, beside those that are there; all of them by default. data.yaml names these.
        images: Folder of the pictures of COCO files, where it is not beside them.
        clean: Where the pictures without noise are known: a data set of the same layout, such as the source of
            `yolo-wnlb darken`. The report then has the PSNR.
        curve: How pictures with more than 8 bits are read, as `yolo_wnlb.imaging.curve.read_curve` takes it. Default:
            as the model of `denoise:FILE` was trained, else "auto".
    Returns: What was done.
    Raises: ValueError, OSError: with the remedy; what was done stays done.
    """
    home, enhance = Path(out).resolve(), enhancer(spec)
    tone = (enhance.curve or CURVES["auto"]) if curve is None else read_curve(curve)
    data = read_sources(source, images)
    if journal.header_of(data.root / ENHANCED):
        raise ValueError(f"{data.root} was enhanced before: it holds our {ENHANCED}; give what it was made from")
    refuse_place(home, data, ENHANCED)
    data.pictures(".png", None)  # all names must be free, also for splits that come later
    if unknown := [name for name in listed(split) if name not in data.splits]:
        meant = suggestion(unknown[0], data.splits)
        raise ValueError(f"{source} has no split {unknown[0]!r}{meant}; choose from {', '.join(data.splits)}")
    references = clean_pictures(clean, data.only(choose(data, listed(split), home))) if clean else {}
    made_by = {"enhancer": enhance.spec, "sha256": enhance.sha256}
    how = {"lowlight": data.dark, "enhanced": made_by} if data.dark else {"enhanced": made_by}

    def make_plan() -> Plan:
        chosen = choose(data, listed(split), home)
        part = data.only(chosen)
        found = part.pictures(".png", None)
        listing = "\n".join([*(picture.key for picture in found), *part.document_names])
        header = {
            **made_by,
            "curve": as_settings(tone),
            "splits": [portable(data, name) for name in chosen],
            "source": f"{len(found)} pictures, {digest(listing.encode(errors='surrogateescape'))['blake2b'][:12]}",
        }
        return Plan(Twin(data.root, home, ENHANCED, header, how, ".png"), part, found)

    def develop(stored: bytes, picture: Picture) -> tuple[bytes, Line]:
        image, ends = decode_rgb(stored, "the picture", tone, picture.key, data.channels)
        picture.refuse_other_size(*image.shape[1::-1])
        image = enhance(image, picture.key)
        return encode(np.ascontiguousarray(image[..., ::-1]), "png"), {"curve": ends} if ends else {}

    run = bring_up_to_date(make_plan, develop, strict=True)
    total, notes = len(run.plan.pictures), [*data.notes, *run.notes]
    speed = run.speed if run.tried else "complete, nothing to do"
    report = Report(
        f"{total} pictures in {out} by {enhance.spec} ({speed})", total, run.tried, run.seconds, notes=notes
    )
    if clean:
        report.notes.append(compared(run.plan.pictures, data, home, references, clean, tone))
    if data.definition is not None:
        command = shlex.join(["yolo-wnlb", "evaluate", "MODEL", f"data={Path(out) / DATA_YAML}"])
        report.advice.append(f"evaluate with: {command}")
    return report


def choose(data: DataSet, wanted: list[str], out: Path) -> list[str]:
    """Return the splits to enhance: those that are wanted, or all, and those that are there already."""
    begun = {name for lines in journal.records(out, ENHANCED) for name in lines[0].get("splits", ())}
    return [name for name in data.splits if not wanted or name in wanted or portable(data, name) in begun]


def portable(data: DataSet, split: str) -> str:
    """Return the name of a split that is the same on every machine; for annotation files that below the root."""
    file = Path(split)
    return split if split in PARTS else data.name(file) if file in data.annotations else ""


# ---- how near to the pictures without noise ------------------------------------------------------


def clean_pictures(clean: str | Path, data: DataSet) -> dict[str, Path]:
    """Find the clean picture of each picture of a data set: the one of the same path below its root, whatever suffix.

    Returns: {path of the enhanced picture below the output: the clean one}.
    Raises: FileNotFoundError: some have none. ValueError: they are those that are enhanced.
    """
    known = read_sources(clean)
    if known.root.resolve() == data.root.resolve():
        raise ValueError(
            f"clean={clean} is the data set that is enhanced; wanted the one without noise, of the same names"
        )
    files = {picture.image: known.root / picture.key for picture in known.pictures(".png", None)}
    wanted = data.pictures(".png", None)
    if missing := [str(picture) for picture in wanted if picture.image not in files]:
        raise FileNotFoundError(
            f"clean={clean} has no picture for {len(missing)} of {len(wanted)} (first: {missing[0]}); wanted the data "
            "set that they were made from, with the same folders and names"
        )
    return {picture.image: files[picture.image] for picture in wanted}


def compared(
    found: Sequence[Picture], data: DataSet, out: Path, clean: dict[str, Path], name: str | Path, curve: Curve
) -> str:
    """Say how near pictures are to the clean ones, before and after: the mean over pictures of the PSNR."""
    values = []
    for picture in found:
        files = (clean[picture.image], data.root / picture.key, out / picture.image)
        reference, *pair = (
            decode_rgb(file.read_bytes(), str(file), curve, channels=data.channels)[0] for file in files
        )
        if reference.shape != pair[0].shape:
            sides = ["{} x {}".format(*image.shape[1::-1]) for image in (reference, pair[0])]
            raise ValueError(
                f"{clean[picture.image]} has {sides[0]} pixels, {picture} has {sides[1]}; are they a pair?"
            )
        values.append([psnr(reference, image) for image in pair])
    if any(np.isinf(before) for before, _ in values):
        return f"no PSNR: some pictures of {name} equal those that were enhanced; clean= wants the ones without noise"
    before, after = np.mean(values, 0)
    return f"PSNR against {name}: {before:.2f} dB before, {after:.2f} dB after (mean over {len(found)} pictures)"
