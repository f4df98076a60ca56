"""What a data set on disk consists of, in YOLO or COCO layout or both, and the same for its dark or enhanced twin.

    a data YAML -> folders and lists of pictures, label files       as Ultralytics finds them
    COCO files  -> pictures, their sizes
    DataSet     -> pictures (where from, where to), then the documents that speak of them

Nothing here opens a picture. The twin has the layout below the root of its source, other suffixes.
"""

from __future__ import annotations

import difflib
import functools
import glob
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from yolo_wnlb.data.data_yaml import SPLITS, UNLABELLED, read_data_yaml, unlabelled_places
from yolo_wnlb.data.journal import RESERVED
from yolo_wnlb.imaging.deep import without_raw_twins
from yolo_wnlb.reading import read_json, read_text

Size = tuple[int, int]  # width, height

NEEDED = ("train", "val")  # in every data YAML
PARTS = (*SPLITS, UNLABELLED)  # of a data YAML: what names pictures
REPLACED = {*PARTS, "validation", "path", "yaml_file", "download", "nc", "names", "masks_dir", "lowlight"}
DATA_YAML = "data.yaml"  # of every twin that has one
BESIDE = {".txt", ".json", ".jsonl", ".yaml", ".yml", ".cache", ".npy"}  # what may lie among pictures, no picture


@dataclass(frozen=True)
class Picture:
    """One picture of a source.

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

    def __str__(self) -> str:
        return printable(self.key)

    @property
    def targets(self) -> tuple[str, ...]:
        """Paths of its files below the output."""
        return (self.image, self.label[1]) if self.label else (self.image,)

    def refuse_other_size(self, width: int, height: int) -> None:
        """Raise ValueError where an annotation file says that the picture has another size than it has."""
        if other := sorted(self.sizes - {(width, height)}):
            annotated = "{} x {}".format(*other[0])
            raise ValueError(f"the picture has {width} x {height} pixels, its annotations say {annotated}")


@dataclass
class DataSet:
    """What the sources name; make one with `read_sources`. All paths are absolute.

    Attributes:
        roots: The folder of each source that everything in it lies below.
        guarded: Folders that are the user's own: nothing is written there.
        splits: Pictures of each split, of 'unlabelled', and of each annotation file.
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
                f"{' and '.join(map(str, self.roots))} are not one data set; give them one by one, or keep "
                "annotation files beside their pictures"
            )
        return common

    def key(self, path: Path) -> str:
        """Return the path of a picture below the root, with /."""
        if not path.is_relative_to(self.root):
            raise ValueError(
                f"{path} lies outside {self.root}, the root of the data set, whose layout its twin keeps; "
                "in the data YAML, set path: to a folder that holds all pictures"
            )
        return path.relative_to(self.root).as_posix()

    def name(self, document: Path) -> str:
        """Return where an annotation file or a list goes: lists to the top, from where "./" reaches all pictures."""
        if document in self.lists:
            return document.name
        inside = document.is_relative_to(self.root)
        return document.relative_to(self.root).as_posix() if inside else f"annotations/{document.name}"

    @property
    def document_names(self) -> list[str]:
        """Where the annotation files, the lists and the data YAML go."""
        names = [self.name(file) for file in (*sorted(self.annotations), *sorted(self.lists))]
        return names if self.definition is None else [*names, DATA_YAML]

    def chosen(self, limit: int | None) -> dict[str, list[Path]]:
        """Return the pictures, or the first so many, of each split and annotation file."""
        return {name: sorted(set(paths), key=str)[:limit] for name, paths in self.splits.items()}

    def only(self, splits: Iterable[str]) -> DataSet:
        """Return what belongs to some of the splits, and the annotation files whose pictures are all among theirs."""
        wanted = {path for name in splits for path in self.splits[name]}
        kept = {name: paths for name, paths in self.splits.items() if wanted.issuperset(paths)}
        places = {name: found if name in kept else [] for name, found in self.places.items()}
        lists = {place: self.lists[place] for found in places.values() for place in found if place in self.lists}
        annotations = {file: folder for file, folder in self.annotations.items() if str(file) in kept}
        return replace(self, splits=kept, places=places, lists=lists, annotations=annotations)

    def pictures(self, suffix: str, limit: int | None) -> list[Picture]:
        """Return each chosen picture once, in the order of the keys.

        Args:
            suffix: That of the new pictures.
            limit: As many of each split.
        Raises: ValueError: a picture lies outside the root, or two files of the output would have one name.
        """
        found: list[Picture] = []
        for path in sorted({path for paths in self.chosen(limit).values() for path in paths}, key=str):
            key = self.key(path)
            image = renamed(key, suffix)
            label = (self.labels[path], label_of(image)) if path in self.labels else None
            found.append(Picture(key, image, label, frozenset(self.sizes.get(path, ()))))
        documents = [self.name(file) for file in (*self.annotations, *self.lists)]
        refuse_collisions(
            [
                *((name, f"the {name} of every output") for name in (*RESERVED, DATA_YAML)),
                *((name, str(file)) for name, file in zip(documents, (*self.annotations, *self.lists))),
                *((picture.image, picture.key) for picture in found),
                *((picture.label[1], f"the label of {picture.key}") for picture in found if picture.label),
            ]
        )
        return found

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
        import yaml

        for file, folder in sorted(self.annotations.items()):
            content = read_coco_images(file)
            images = [image for image in content["images"] if self.key(path_of(folder, image)) in kept]
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
            splits: dict[str, Any] = {}
            for split, places in self.places.items():
                names = [self.name(place) if place in self.lists else self.key(place) for place in places]
                splits[split] = names if len(names) > 1 else names[0] if names else None
            described = yaml.safe_dump({**splits, **self.definition}, sort_keys=False, allow_unicode=True)
            made = yaml.safe_dump(provenance, sort_keys=False, default_flow_style=None)
            yield DATA_YAML, f"{described}{made}".encode(), {}

    # ---- reading

    def add_yolo(self, source: str, download: bool) -> None:
        """Read a data YAML, and find pictures and labels as Ultralytics does."""
        from ultralytics.data.utils import IMG_FORMATS, img2label_paths

        if self.definition is not None:
            raise ValueError(f"{source} is a second data YAML; give one data set at a time")
        try:
            data, written = read_data_yaml(source, download)
        except FileNotFoundError as error:
            hint = "" if download else "\nA dry run downloads nothing: have Ultralytics fetch the data set first"
            raise FileNotFoundError(f"{str(error).strip()}{hint}") from error
        self.yaml, self.dark = source, written.get("lowlight") or {}
        self.channels = data.get("channels", 3)
        if self.channels not in (1, 3):
            raise ValueError(f"{source} says channels: {self.channels!r}; wanted 3 for colour or 1 for grey")
        if data.get("masks_dir"):
            self.notes.append(f"the masks in {data['masks_dir']}/ stay behind; labels are boxes and polygons here")
        self.definition = {key: value for key, value in written.items() if key not in REPLACED}
        self.definition["names"] = data["names"]
        self.roots.append(Path(data["path"]).resolve())
        self.guarded.append(self.roots[-1])

        for split in PARTS:
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
            self.notes += [note for place in places for note in strays(place, found[place])]
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
        self.notes += strays(folder, files)

    def add_coco(self, source: Path, images: str | Path | None) -> None:
        """Read the pictures in a COCO annotation file, and find the folder that their names start from."""
        file = real(source)
        entries = read_coco_images(source)["images"]
        split = file.stem.rpartition("_")[2]  # instances_val2017 -> val2017
        home, above = file.parent, file.parent.parent
        starts = [Path(images)] if images else [above / "images", above, home / "images", home]
        folders = [(start / below).resolve() for start in starts for below in (split, f"{split}2017", "")]
        first = [entry["file_name"] for entry in entries[:20]]
        folder = next((folder for folder in folders if any((folder / name).is_file() for name in first)), None)
        if folder is None:
            raise FileNotFoundError(
                f"the pictures of {source} ({printable(first[0])}, ...) are not in {folders[0]}, {folders[2]}, or "
                "where else they usually are; give their folder with images="
            )
        homes = (home, above) if not images or home.name == "annotations" else ()
        root = next((place for place in homes if folder.is_relative_to(place)), None)
        self.roots.append(root or folder.parent)
        self.guarded.append(root or folder)
        self.annotations[file] = folder
        self.splits[str(file)] = [path_of(folder, entry) for entry in entries]
        for path, entry in zip(self.splits[str(file)], entries):
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
    real_folder.cache_clear()
    data = DataSet()
    for source in listed(sources):
        path = Path(source)
        if path.is_dir():
            yamls = [file for file in [path / DATA_YAML] if file.is_file()] or shown_files(path, ".yaml", ".yml")
            cocos = shown_files(path / "annotations", ".json")
            cocos += sorted(file for file in path.glob("*/_annotations.coco.json") if file.is_file())
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
        elif path.suffix.lower() == ".json":
            if not path.is_file():
                raise FileNotFoundError(f"there is no {source}; give a data YAML, a COCO annotation file or a folder")
            data.add_coco(path, images)
        else:
            data.add_yolo(str(source), download)
            if beside := shown_files(path.parent / "annotations", ".json") if path.is_file() else []:
                data.notes.append(
                    f"{beside[0].name} and others beside {source} stay behind; to take them give the folder"
                )
    if not data.splits:
        raise ValueError("; ".join(data.notes) or "no source; give a data YAML, a COCO annotation file or a folder")
    data.notes = [*dict.fromkeys(data.notes)]  # two splits may name one folder
    return data


# ---- files that the user wrote -------------------------------------------------------------------


def read_coco_images(file: Path) -> dict[str, Any]:
    """Read a COCO annotation file as far as it speaks of pictures.

    Raises: ValueError: it is no such file, or a file name in it leads out of the folder of the pictures.
    """
    content = read_json(file)
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list) or not images:
        raise ValueError(f"{file} is no COCO annotation file: wanted a list 'images', each with an id and a file_name")
    for image in images:
        if not isinstance(image, dict) or not isinstance(image.get("id"), (int, float, str)):
            raise ValueError(f"{file}: an image is {str(image)[:80]}; wanted an id and a file_name")
        for side in ("width", "height"):
            if not isinstance(image.get(side), (int, float, type(None))):
                raise ValueError(f"{file}: image {image['id']} has the {side} {image[side]!r}; wanted a number")
        name = image.get("file_name")
        if not isinstance(name, str) or not is_file_name(name):
            raise ValueError(
                f"{file}: image {image['id']} has the file_name {name!r}; wanted the path of a picture below the "
                "folder that images= names"
            )
    annotations = content.get("annotations", [])
    if not isinstance(annotations, list) or not all(isinstance(entry, dict) for entry in annotations):
        raise ValueError(f"{file}: 'annotations' is no list of annotations; is it complete?")
    return content


def is_file_name(name: str) -> bool:
    """Tell whether a name leads to a file below a folder, and can be one on this system."""
    try:
        os.fsencode(name)
    except UnicodeError:
        return False
    path = PurePosixPath(name)
    ends_in_name = bool(path.name) and name.endswith(path.name)  # "a.png/" does not
    return ends_in_name and "\0" not in name and ".." not in path.parts and not Path(name).is_absolute()


def list_images(place: Path, formats: set[str]) -> list[str]:
    """List the pictures in a folder or a list, as Ultralytics' BaseDataset.get_img_files does."""
    if place.is_dir():
        names = sorted(glob.glob(f"{glob.escape(str(place))}/**/*.*", recursive=True))  # noqa: PTH207 - follows links
    else:
        text = read_text(place)
        if "\0" in text:
            raise ValueError(f"{place} is no list of pictures: it holds zero bytes; save it as UTF-8")
        lines = text.strip().splitlines()
        names = [line.replace("./", f"{place.parent}{os.sep}", 1) if line.startswith("./") else line for line in lines]
    return without_raw_twins(name for name in names if name.rpartition(".")[2].lower() in formats)[0]


def is_meant(name: Any) -> bool:
    """Tell whether a key of a data YAML is a misspelt `unlabelled`, such as `unlabeled_images` or `un_labelled`."""
    letters = "".join(filter(str.isalpha, str(name).casefold())).removesuffix("images")
    return letters.startswith("un") and bool(difflib.get_close_matches(letters, [UNLABELLED], cutoff=0.75))


def unlabelled_pictures(data: dict[str, Any]) -> list[Path]:
    """Return the pictures that `unlabelled:` of a data YAML names, each once; none without that entry.

    Args:
        data: What Ultralytics makes of the data YAML.
    Raises:
        FileNotFoundError: a folder or a list is not there, or holds no pictures.
        ValueError: the entry is misspelt, no path, or names a picture of 'val' or 'test'.
    """
    from ultralytics.data.utils import IMG_FORMATS

    source = data.get("yaml_file", "the data YAML")
    if misspelt := [name for name in data if name != UNLABELLED and is_meant(name)]:
        raise ValueError(f"{source} has '{misspelt[0]}:'; the pictures without labels are named by '{UNLABELLED}:'")
    pictures: list[Path] = []
    for place in unlabelled_places(data):
        if not place.exists():
            raise FileNotFoundError(
                f"{source}: there is no {place}, which '{UNLABELLED}' names; wanted a folder of pictures or a list, a "
                ".txt file; relative ones count from 'path:'"
            )
        if place.is_file() and place.suffix[1:].lower() in IMG_FORMATS:
            raise ValueError(
                f"{source}: '{UNLABELLED}' names the picture {place}; wanted a folder, or a list, a .txt file"
            )
        found = [Path(file).resolve() for file in list_images(place, IMG_FORMATS)]
        if not found:
            raise FileNotFoundError(
                f"{source}: {place}, which '{UNLABELLED}' names, holds no pictures; wanted files that end in "
                f"{', '.join(sorted(IMG_FORMATS))}"
            )
        if missing := next((file for file in found if not file.is_file()), None):
            raise FileNotFoundError(f"{source}: there is no {missing}, which {place} of '{UNLABELLED}' names")
        pictures += found
    for split in SPLITS[1:] if pictures else ():
        if common := sorted(pictures_in(data, split) & {*pictures}):
            raise ValueError(
                f"{source}: {len(common)} of the pictures that '{UNLABELLED}' names are in '{split}' (first: "
                f"{common[0]}), and the model would learn from what it is measured on; leave the pictures of '{split}' "
                f"out of '{UNLABELLED}'"
            )
    return [*dict.fromkeys(pictures)]


def pictures_in(data: Mapping[str, Any], split: str) -> set[Path]:
    """Return the pictures of a split, links resolved, as far as its folders and lists are there.

    Args:
        data: What Ultralytics makes of a data YAML.
        split: One of its splits.
    """
    from ultralytics.data.utils import IMG_FORMATS

    places = [Path(place) for place in listed(data.get(split))]
    return {Path(file).resolve() for place in places if place.exists() for file in list_images(place, IMG_FORMATS)}


def strays(place: Path, pictures: Sequence[str]) -> list[str]:
    """Return a note that counts what in a folder or list of pictures is none, if there is anything."""
    if place.is_file():
        lines = [line for line in read_text(place).splitlines() if line.strip()]
        count = len(lines) - len(pictures)
        if count <= 0:
            return []
        return [f"{place}: left out, naming no picture that Ultralytics reads: {count} of {len(lines)} lines"]
    known, found = set(pictures), list[tuple[str, str]]()  # kind, path
    for folder, below, files in os.walk(place):
        found += [("hidden", f"{folder}{os.sep}{name}") for name in [*below, *files] if name.startswith(".")]
        below[:] = [name for name in below if not name.startswith(".")]
        for name in files:
            path, kind = f"{folder}{os.sep}{name}", Path(name).suffix.lower()
            if not (name.startswith(".") or kind in BESIDE or path in known):
                found.append((kind or "without a suffix", path))
    if not found:
        return []
    counted = ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(kind for kind, _ in found).items()))
    first = printable(min(path for _, path in found))
    return [f"{place}: left out, being no pictures that Ultralytics reads: {counted} (first: {first})"]


def shown_files(folder: Path, *suffixes: str) -> list[Path]:
    """List the files in a folder that have one of the suffixes, in upper or lower case, and are not hidden."""
    files = folder.iterdir() if folder.is_dir() else ()
    return sorted(
        file for file in files if file.suffix.lower() in suffixes and not file.name.startswith(".") and file.is_file()
    )


def spread(items: Sequence, count: int) -> list:
    """Return `count` of the items, evenly spaced; all of them if there are no more."""
    if count >= len(items):
        return list(items)
    return [items[round(i * (len(items) - 1) / max(count - 1, 1))] for i in range(count)]


# ---- names ---------------------------------------------------------------------------------------


def listed(value: Any) -> list[Any]:
    """Return a list as it is, one value as a list of it, nothing as an empty one."""
    return list(value) if isinstance(value, (list, tuple)) else [value] if value else []


def path_of(folder: Path, image: dict[str, Any]) -> Path:
    """Return the path of a picture in a COCO file."""
    return real(folder / image["file_name"])


def real(path: str | Path) -> Path:
    """Return an absolute path, the links of its folders followed, but not its own."""
    path = Path(os.path.normpath(Path(path).absolute()))
    return real_folder(path.parent) / path.name


@functools.lru_cache(1024)
def real_folder(folder: Path) -> Path:
    """Follow the links of a folder; `read_sources` forgets what was found before."""
    return folder.resolve()


def renamed(name: str, suffix: str) -> str:
    """Replace the suffix of a picture's name or path."""
    return name.removesuffix(Path(name).suffix) + suffix


def label_of(image: str) -> str:
    """Return where Ultralytics will look for the label of a picture; both are below the output."""
    from ultralytics.data.utils import img2label_paths

    return img2label_paths([os.sep + image.replace("/", os.sep)])[0][1:].replace(os.sep, "/")


def printable(name: Any) -> str:
    """Write a name on one line: line breaks and what is no text become escapes, as in Python."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(name))


def refuse_collisions(names: Iterable[tuple[str, str]]) -> None:
    """Check that files of the output do not come into each other's way, on Windows and macOS neither.

    Args:
        names: Where each file goes, below the output with /, and what it is made from.
    Raises: ValueError: two have one name, upper and lower case being alike, or one is a folder of another.
    """
    files: dict[str, tuple[str, str]] = {}
    for name, origin in names:
        place = unicodedata.normalize("NFC", name).casefold()
        if place in files:
            other, made_from = files[place]
            alike = "" if other == name else f" and {printable(other)}, which are one name on Windows and macOS"
            raise ValueError(
                f"{printable(made_from)} and {printable(origin)} would both become {printable(name)}{alike}; "
                "rename one of them"
            )
        files[place] = name, origin
    for place, (_, origin) in files.items():
        for folder in map(str, PurePosixPath(place).parents):
            if folder in files:
                raise ValueError(
                    f"{printable(origin)} would need a folder {printable(folder)}, which is the name of the file made "
                    f"from {printable(files[folder][1])}; rename one of them"
                )
