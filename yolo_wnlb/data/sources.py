"""What a data set on disk consists of, in YOLO or COCO layout or both, and the same for its dark twin.

    a data YAML -> folders and lists of pictures, label files       as Ultralytics finds them
    COCO files  -> pictures, their sizes
    DataSet     -> pictures (where from, where to), then the documents that speak of them

Nothing here opens a picture. The twin has the layout below the root of its source, other suffixes.
"""

from __future__ import annotations

import functools
import glob
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Size = tuple[int, int]  # width, height

SPLITS = ("train", "val", "test", "minival")
NEEDED = ("train", "val")  # in every data YAML
REPLACED = {*SPLITS, "validation", "path", "yaml_file", "download", "nc", "names", "masks_dir", "lowlight"}


@dataclass(frozen=True)
class Picture:
    """One picture to darken.

    Attributes:
        key: Its path below the root of the source, with /.
        image: Its path below the output.
        label: Its label file, and the path of that below the output.
        sizes: Each size that annotation files give it.
    """

    key: str
    image: str
    label: tuple[str, str] | None
    sizes: frozenset[Size]


@dataclass
class DataSet:
    """What the sources name; make one with `read_sources`. All paths are absolute.

    Attributes:
        roots: The folder of each source that everything in it lies below.
        guarded: Folders that are the user's own: nothing is written there.
        splits: Pictures of each split and of each annotation file.
        labels: Label file of each picture that has one.
        sizes: Each size that annotation files give a picture.
        annotations: COCO files, and the folder that the file names in each start from.
        lists: Text files that list the pictures of a split, with these in their order.
        places: Folders and lists of each split.
        yaml: The data YAML, as it was given; "" without one.
        dark: What the data YAML says of how its pictures were darkened; empty for bright ones.
        definition: What else the data YAML says; None without one.
        channels: 3 or 1.
        notes: What the user should know.
    """

    roots: list[Path] = field(default_factory=list)
    guarded: list[Path] = field(default_factory=list)
    splits: dict[str, list[Path]] = field(default_factory=dict)
    labels: dict[Path, str] = field(default_factory=dict)
    sizes: dict[Path, set[Size]] = field(default_factory=dict)
    annotations: dict[Path, Path] = field(default_factory=dict)
    lists: dict[Path, list[Path]] = field(default_factory=dict)
    places: dict[str, list[Path]] = field(default_factory=dict)
    yaml: str = ""
    dark: dict[str, Any] = field(default_factory=dict)
    definition: dict[str, Any] | None = None
    channels: int = 3
    notes: list[str] = field(default_factory=list)

    @functools.cached_property
    def root(self) -> Path:
        """The one folder that everything lies below."""
        common = Path(os.path.commonpath(self.roots))
        if common not in self.roots and any(root.parent != common for root in self.roots):
            raise ValueError(
                f"{' and '.join(map(str, self.roots))} are not one data set; darken them one by one, or keep "
                "annotation files beside their pictures"
            )
        return common

    def key(self, path: Path) -> str:
        """Return the path of a picture below the root, with /."""
        if not path.is_relative_to(self.root):
            raise ValueError(
                f"{path} lies outside {self.root}, the root of the data set, whose layout the dark one keeps; "
                "in the data YAML, set path: to a folder that holds all pictures"
            )
        return path.relative_to(self.root).as_posix()

    def name(self, document: Path) -> str:
        """Return where an annotation file or a list goes: lists to the top, from where "./" reaches all pictures."""
        if document in self.lists:
            return document.name
        inside = document.is_relative_to(self.root)
        return document.relative_to(self.root).as_posix() if inside else f"annotations/{document.name}"

    def chosen(self, limit: int | None) -> dict[str, list[Path]]:
        """Return the pictures, or the first so many, of each split and annotation file."""
        return {name: sorted(set(paths), key=str)[:limit] for name, paths in self.splits.items()}

    def pictures(self, suffix: str, limit: int | None) -> list[Picture]:
        """Return each chosen picture once, in the order of the keys.

        Raises: ValueError: one lies outside the root, or two would get one name.
        """
        found: dict[str, Picture] = {}
        chosen = {path for paths in self.chosen(limit).values() for path in paths}
        for path in sorted(chosen, key=str):
            key = self.key(path)
            image = renamed(key, suffix)
            if image in found:
                raise ValueError(f"{found[image].key} and {key} would both become {image}; rename one of them")
            label = (self.labels[path], label_of(image)) if path in self.labels else None
            found[image] = Picture(key, image, label, frozenset(self.sizes.get(path, ())))
        return list(found.values())

    def documents(
        self, kept: set[str], suffix: str, provenance: dict[str, Any]
    ) -> Iterator[tuple[str, bytes, dict[str, str]]]:
        """Write anew what speaks of pictures, of those only whose keys are in `kept`.

        Args:
            kept: Keys of pictures.
            suffix: That of the new pictures.
            provenance: What data.yaml is to say of how they were made: {"lowlight": ...}, {"enhanced": ...} or both.
        Yields: Name below the output, content, and of COCO files the folder of the pictures.
        """
        for file, folder in sorted(self.annotations.items()):
            content = read_json(file)
            images = [image for image in content["images"] if self.key(named(folder, image)) in kept]
            dropped = {image["id"] for image in content["images"]} - {image["id"] for image in images}
            content["images"] = [{**image, "file_name": renamed(image["file_name"], suffix)} for image in images]
            if dropped and "annotations" in content:
                content["annotations"] = [a for a in content["annotations"] if a.get("image_id") not in dropped]
            stored = json.dumps(content, separators=(",", ":")).encode()
            yield self.name(file), stored, {"images": folder.relative_to(self.root).as_posix()}
        for file, paths in sorted(self.lists.items()):
            lines = [f"./{renamed(key, suffix)}\n" for key in map(self.key, paths) if key in kept]
            yield self.name(file), "".join(lines).encode(errors="surrogateescape"), {}
        if self.definition is not None:
            import yaml

            splits: dict[str, Any] = {}
            for split, places in self.places.items():
                names = [self.name(place) if place in self.lists else self.key(place) for place in places]
                splits[split] = names if len(names) > 1 else names[0] if names else None
            said = yaml.safe_dump({**splits, **self.definition}, sort_keys=False, allow_unicode=True)
            done = yaml.safe_dump(provenance, sort_keys=False, default_flow_style=None)
            yield "data.yaml", f"{said}{done}".encode(), {}

    # ---- reading

    def add_yolo(self, source: str, download: bool) -> None:
        """Read a data YAML, and find pictures and labels as Ultralytics does."""
        from ultralytics.data.utils import IMG_FORMATS, check_det_dataset, img2label_paths
        from ultralytics.utils import YAML
        from yaml import YAMLError

        if self.definition is not None:
            raise ValueError(f"{source} is a second data YAML; darken one data set at a time")
        try:
            data = check_det_dataset(source, autodownload=download)
        except (SyntaxError, TypeError, YAMLError) as error:
            raise ValueError(f"{source} is no data YAML that Ultralytics takes: {error}") from error
        except FileNotFoundError as error:
            hint = "" if download else "\nA dry run downloads nothing: have Ultralytics fetch the data set first"
            raise FileNotFoundError(f"{str(error).strip()}{hint}") from error
        said = YAML.load(data["yaml_file"])
        self.yaml, self.dark = source, said.get("lowlight") or {}
        self.channels = data.get("channels", 3)
        if self.channels not in (1, 3):
            raise ValueError(f"{source} has {self.channels} channels; a camera has 3, or 1 for grey")
        if data.get("masks_dir"):
            self.notes.append(f"the masks in {data['masks_dir']}/ stay behind; labels are boxes and polygons here")
        self.definition = {key: value for key, value in said.items() if key not in REPLACED}
        self.definition["names"] = data["names"]
        self.roots.append(Path(data["path"]).resolve())
        self.guarded.append(self.roots[-1])

        for split in SPLITS:
            places = list(map(real, listed(data.get(split))))
            missing = [place for place in places if not place.exists()]
            if missing and split in NEEDED:
                raise FileNotFoundError(f"{source}: there is no {missing[0]}, which '{split}' names")
            found = {place: list_images(place, IMG_FORMATS) for place in places if not missing}
            files = [file for names in found.values() for file in names]
            if split not in NEEDED and not any(map(os.path.exists, files[:20])):
                if places:
                    self.notes.append(f"'{split}' is left out: its pictures are not there")
                continue
            if places and not files:
                raise ValueError(f"{source}: no pictures in {', '.join(map(str, places))}, which '{split}' names")
            self.places[split] = places
            self.splits[split] = list(map(real, files))
            self.lists.update({place: list(map(real, found[place])) for place in places if place.is_file()})
            expected = img2label_paths(files)
            labels = {real(file): label for file, label in zip(files, expected) if Path(label).is_file()}
            if files and not labels and split in NEEDED:
                self.notes.append(f"no picture of '{split}' has a label file, such as {expected[0]}")
            self.labels.update(labels)

        orphans: list[Path] = []
        for folder in sorted({path.parent for split in self.places for path in self.splits[split]}):
            with suppress(OSError):
                stems = {path.stem for path in folder.iterdir() if path.suffix[1:].lower() in IMG_FORMATS}
                labels_folder = Path(img2label_paths([str(folder / "_.png")])[0]).parent
                texts = {real(path) for path in labels_folder.glob("*.txt")} - self.lists.keys()
                orphans += sorted(path for path in texts if path.stem not in stems)
        if orphans:
            self.notes.append(f"{len(orphans)} label files have no picture and stay behind (first: {orphans[0]})")

    def add_folder(self, folder: Path) -> None:
        """Take all pictures in a folder, and below it, as one data set without labels."""
        from ultralytics.data.utils import IMG_FORMATS

        if not (files := list_images(folder, IMG_FORMATS)):
            raise ValueError(f"{folder} holds no data.yaml, no annotations/*.json and no pictures; give another folder")
        self.roots.append(folder.resolve())
        self.guarded.append(folder.resolve())
        self.splits[str(folder)] = list(map(real, files))

    def add_coco(self, source: Path, images: str | Path | None) -> None:
        """Read the pictures in a COCO annotation file, and find the folder that their names start from."""
        file = real(source)
        try:
            entries = {entry["file_name"]: entry for entry in read_json(file)["images"]}
            if not entries or any("id" not in e or Path(name).is_absolute() for name, e in entries.items()):
                raise ValueError
        except (KeyError, TypeError, ValueError):
            raise ValueError(
                f"{source} is no COCO annotation file: wanted a list 'images', each with an id and a relative file_name"
            ) from None
        split = file.stem.rpartition("_")[2]  # instances_val2017 -> val2017
        above, here = file.parent.parent, file.parent
        starts = [Path(images)] if images else [above / "images", above, here / "images", here]
        folders = [(start / below).resolve() for start in starts for below in (split, f"{split}2017", "")]
        first = list(entries)[:20]
        folder = next((folder for folder in folders if any((folder / name).is_file() for name in first)), None)
        if folder is None:
            raise FileNotFoundError(
                f"the pictures of {source} ({first[0]}, ...) are not in {folders[0]}, {folders[2]}, or "
                "where else they usually are; give their folder with images="
            )
        homes = (here, above) if not images or here.name == "annotations" else ()
        home = next((home for home in homes if folder.is_relative_to(home)), None)
        self.roots.append(home or folder.parent)
        self.guarded.append(home or folder)
        self.annotations[file] = folder
        paths = [named(folder, entry) for entry in entries.values()]
        self.splits[str(file)] = paths
        for path, entry in zip(paths, entries.values()):
            if entry.get("width") and entry.get("height"):
                self.sizes.setdefault(path, set()).add((entry["width"], entry["height"]))


def read_sources(
    sources: str | Path | Sequence[str | Path], images: str | Path | None = None, download: bool = True
) -> DataSet:
    """Read data YAMLs, COCO annotation files, and folders that hold either.

    Args:
        sources: One or several with one root.
        images: Folder of the pictures of COCO files, where it is not beside them.
        download: Let Ultralytics fetch what is not there.
    Raises: ValueError, OSError: with the remedy.
    """
    data = DataSet()
    for source in listed(sources):
        path = Path(source)
        if path.is_dir():
            yamls = [file for file in [path / "data.yaml"] if file.is_file()] or sorted(path.glob("*.y*ml"))
            cocos = sorted(file for p in ("annotations/*.json", "*/_annotations.coco.json") for file in path.glob(p))
            if not (yamls or cocos):
                data.add_folder(path)
            if len(yamls) > 1:
                raise ValueError(f"{source} holds {len(yamls)} data YAMLs; give a file by its path")
            for file in yamls:
                data.add_yolo(str(file), download)
            for file in cocos:
                try:
                    data.add_coco(file, images)
                except (ValueError, FileNotFoundError) as error:
                    data.notes.append(f"left out: {error}")
        elif path.suffix == ".json":
            if not path.is_file():
                raise FileNotFoundError(f"there is no {source}; give a data YAML, a COCO annotation file or a folder")
            data.add_coco(path, images)
        else:
            data.add_yolo(str(source), download)
            if beside := sorted(path.parent.glob("annotations/*.json")) if path.is_file() else []:
                data.notes.append(
                    f"{beside[0].name} and others beside {source} stay behind; to take them give the folder"
                )
    if not data.splits:
        raise ValueError("; ".join(data.notes) or "no source; give a data YAML, a COCO annotation file or a folder")
    return data


def listed(value: Any) -> list[Any]:
    """Return a list as it is, one value as a list of it, nothing as an empty one."""
    return list(value) if isinstance(value, (list, tuple)) else [value] if value else []


def list_images(place: Path, formats: set[str]) -> list[str]:
    """List the pictures in a folder or a list, as Ultralytics' BaseDataset.get_img_files does."""
    if place.is_dir():
        names = sorted(glob.glob(f"{glob.escape(str(place))}/**/*.*", recursive=True))  # noqa: PTH207 - follows links
    else:
        lines = place.read_text(encoding="utf-8-sig").strip().splitlines()
        names = [line.replace("./", f"{place.parent}{os.sep}", 1) if line.startswith("./") else line for line in lines]
    return [name for name in names if name.rpartition(".")[2].lower() in formats]


def read_json(file: Path) -> Any:
    """Read a JSON file."""
    with file.open(encoding="utf-8-sig") as stream:
        return json.load(stream)


def named(folder: Path, image: dict[str, Any]) -> Path:
    """Return the path of a picture in a COCO file."""
    return real(folder / image["file_name"])


def real(path: str | Path) -> Path:
    """Return an absolute path, the links of its folders followed, but not its own."""
    path = Path(os.path.normpath(Path(path).absolute()))
    return real_folder(path.parent) / path.name


@functools.lru_cache(1024)
def real_folder(folder: Path) -> Path:
    """Follow the links of a folder."""
    return folder.resolve()


def renamed(name: str, suffix: str) -> str:
    """Replace the suffix of a picture's name or path."""
    return name.removesuffix(Path(name).suffix) + suffix


def label_of(image: str) -> str:
    """Return where Ultralytics will look for the label of a picture; both are below the output."""
    from ultralytics.data.utils import img2label_paths

    return img2label_paths([os.sep + image.replace("/", os.sep)])[0][1:].replace(os.sep, "/")
