"""The runs of a study: one row with one seed each, what it depends on, and what it wrote down when it was done.

plan.read_study -> a checked study --runs_of--> runs --with_hashes--> runs that know their pictures by hashes
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from yolo_wnlb.reading import read_json, sha256_of
from yolo_wnlb.study.plan import ENHANCED, OUT, RECORD, TABLE, UNET, YOLO, naming, origin_of, sources_of
from yolo_wnlb.twins.enhancers import enhancer
from yolo_wnlb.yolo.darkness import with_content
from yolo_wnlb.yolo.grafting import graft, load_yaml

UNSEEN = ("workers", "images")  # arguments of `darken` that no picture shows


@dataclass(frozen=True)
class Run:
    """One row of the table with one seed.

    Attributes:
        row: Name of the row.
        seed: None for weights that are evaluated as they are.
        folder: Where the run keeps what it makes.
        spec: What the study asks for, with hashes of the model YAML, the labels, and the names and sizes
            of the pictures. (The hashes of the weights and other files that it read, the versions and the
            device are in its record; versions and device are not compared, the table names them.)
        source_rows: The rows whose runs of this seed have to be finished first: one, or two of fusion.
    """

    row: str
    seed: int | None
    folder: Path
    spec: dict[str, Any]
    source_rows: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Row and seed, for messages."""
        return self.row if self.seed is None else f"{self.row}, seed {self.seed}"

    @property
    def out(self) -> Path:
        """The folder of all runs."""
        return self.folder.parent

    @property
    def source_row(self) -> str | None:
        """The first of `source_rows`; None if there is none."""
        return self.source_rows[0] if self.source_rows else None

    @property
    def weights(self) -> str | None:
        """The weights that it evaluates or starts from; None of fusion, which starts from two."""
        weights = self.spec.get("weights") or self.spec.get("start")
        return None if isinstance(weights, list) else weights

    @property
    def recorded(self) -> bool:
        """Whether it was finished once, under whatever conditions."""
        return (self.folder / RECORD).is_file()

    @property
    def record(self) -> dict[str, Any] | None:
        """What the run wrote down when it was finished; None before.

        Raises: ValueError: it was run under other conditions, or its record is damaged.
        """
        if not self.recorded:
            return None
        record: dict[str, Any] = read_json(self.folder / RECORD)
        if not isinstance(record, dict) or not isinstance(record.get("spec"), dict):
            raise ValueError(f"{self.folder / RECORD} is no record of a run; delete that folder to run it again")
        read = record.get("files", {})
        files = {name: sha256_of(Path(file)) for name in read if Path(file := weights_path(self.out, name)).is_file()}
        if other := differences({**record["spec"], **read}, {**self.spec, **read, **files}):
            raise ValueError(
                f"{self.folder} was run with another {other}; runs under different conditions have no place in one "
                "table: choose another out=, or delete that folder to run it again"
            )
        if "protocol" not in record:
            raise ValueError(f"{self.folder / RECORD} lacks what was measured; delete that folder to run it again")
        return record


def runs_of(study: Mapping[str, Any], out: Path) -> list[Run]:
    """List the runs of a study that `read_study` returned, as far as they are known without its data.

    Raises: ValueError, TypeError, OSError: a model YAML is none, blocks do not fit it, an enhancer is
        unknown, or rows would share a folder. The message names the row.
    """
    rows, runs = study["rows"], []
    for name, row in rows.items():
        with naming(f"row '{name}'"):
            judged = {"data": study["data"], "split": study["split"]}
            spec = {**judged, **({"tune": study["tune"]} if study["tune"] else {}), **spec_of(row, study)}
        sources, key = (
            [origin_of(rows, source) for source in sources_of(row)],
            "weights" if "weights" in row else "start",
        )
        source_rows = tuple(source for source in sources if source in rows)
        for seed in study["seeds"] if "train" in spec or source_rows or "{seed}" in "".join(sources) else [None]:
            weights = [
                f"{OUT}{folder_of(out, source, seed).name}/last.pt"
                if source in rows
                else source.replace("{seed}", str(seed))
                for source in sources
            ]
            given = {key: weights if len(weights) > 1 else weights[0]} if weights else {}
            seeded = json.loads(json.dumps({**spec, "seed": seed, **given}))
            runs.append(Run(name, seed, folder_of(out, name, seed), seeded, source_rows))
    taken = [*(out / name for name in (ENHANCED, *TABLE, "")), *(run.folder for run in runs)]
    names = [str(folder).lower() for folder in taken]
    if twice := [run.row for run in runs if names.count(str(run.folder).lower()) > 1]:
        raise ValueError(f"rows {', '.join(dict.fromkeys(twice))} would share a folder; give them names further apart")
    return runs


def spec_of(row: Mapping[str, Any], study: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the runs of a row have in common."""
    arguments = study["train"].get(row["detector"], {})
    kept = ("detector", "model", "options", "after", "block", "enhance", "labels")
    spec = {key: row[key] for key in kept if key in row}
    if "model" in row:
        definition = load_yaml(row["model"])
        if "after" in row:
            graft(definition, row["after"], row.get("block"))
        spec["definition"] = hashlib.sha256(json.dumps(definition).encode()).hexdigest()[:16]
    if "weights" not in row:
        spec["train"] = {**arguments, **row.get("train", {})}
        spec["train_data"] = str(row.get("data", study["data"]))
        lowlight = {**spec["train"], **row.get("options", {})}.get("lowlight")
        if (content := with_content(lowlight)) != lowlight:
            spec["camera"] = content
    made = [folder for folder in study["darken"] if Path(spec.get("train_data", study["data"])).is_relative_to(folder)]
    if made:
        spec["darken"] = {key: value for key, value in study["darken"][made[0]].items() if key not in UNSEEN}
    if "enhance" in row and (sha := enhancer(row["enhance"]).sha256):
        spec["enhancer"] = sha
    if "imgsz" in arguments:
        spec["imgsz"] = arguments["imgsz"]
    if row["detector"] not in (YOLO, UNET) and "weights" in row:
        spec["sizes"] = {key: arguments[key] for key in ("min_size", "max_size") if key in arguments}
    return spec


def with_hashes(
    runs: Sequence[Run],
    truth: str,
    digest: Callable[[str, str], str],
    unlabelled: Callable[[str], str] = lambda source: "",
) -> list[Run]:
    """Add to the runs of one study what their pictures and labels are, by hashes.

    Args:
        runs: All of them.
        truth: A hash of what they are judged by.
        digest: Function of a data set and a split that returns a hash of pictures and labels.
        unlabelled: Function of a data set that returns a hash of its `unlabelled:` pictures; "" for none.
    Raises: ValueError, OSError: a data set cannot be read.
    """
    data, split = runs[0].spec["data"], runs[0].spec["split"]
    shared = {"truth": truth, "pictures": digest(data, split)}
    if tune := runs[0].spec.get("tune"):
        shared["tune_pictures"] = digest(data, tune)
    trained_on = {run.spec["train_data"] for run in runs if "train_data" in run.spec}
    digests = {source: {"train_pictures": digest(source, "train")} for source in trained_on}
    for source in trained_on:
        if found := unlabelled(source):
            digests[source]["unlabelled_pictures"] = found
    hashed = []
    for run in runs:
        own = digests[run.spec["train_data"]] if "train_data" in run.spec else {}
        hashed.append(replace(run, spec={**run.spec, **shared, **own}))
    return hashed


def files_of(run: Run) -> dict[str, str]:
    """Hash the files that a run reads beside its data: {as the study names them: SHA-256}, as far as they are there.

    These are the weights that it evaluates or starts from, and what its arguments and its model YAML name: a teacher, a
    tone curve, the weights of a scene network. A camera file is left out, for the specification has what it holds.
    """
    spec = run.spec
    arguments = {**spec.get("train", {}), **spec.get("options", {}), "lowlight": None}
    definition = load_yaml(spec["model"]) if "model" in spec else {}
    named = texts_in([spec.get("weights"), spec.get("start"), arguments, definition])
    paths = {text: weights_path(run.out, text) for text in named}
    return {text: sha256_of(Path(path)) for text, path in paths.items() if Path(path).is_file()}


def texts_in(value: Any) -> Iterator[str]:
    """Yield the texts that a value consists of, inside mappings and lists too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (Mapping, list, tuple)):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from texts_in(part)


def weights_path(out: Path, weights: str) -> str:
    """Return the path of weights: below `out` if a row of the study trains them, as the study gives it otherwise."""
    return str(out / weights.removeprefix(OUT)) if weights.startswith(OUT) else weights


def folder_of(out: Path, row: str, seed: int | None) -> Path:
    """Return where a run keeps what it makes."""
    name = safe_name(row)
    return out / (name if seed is None else f"{name}-{seed}")


def safe_name(text: str) -> str:
    """Reduce a text to letters, digits, _ and . with - between them."""
    return re.sub(r"[^\w.]+", "-", text).strip("-.")


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """List the keys in which two specifications differ, inside mappings too: "train (epochs (1, now 3))"."""
    found = []
    for key in {**then, **now}:
        old, new = then.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += [f"{key} ({inner})"] if (inner := differences(old, new)) else []
        elif old != new:
            found.append(f"{key} ({old}, now {new})")
    return ", ".join(found)
