"""Read the data YAML of a YOLO data set as Ultralytics does, after it was found to be sound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from yolo_wnlb.reading import read_yaml

SPLITS = ("train", "val", "test")
UNLABELLED = "unlabelled"  # pictures that denoise=n2v of yolo train may learn from, and the detector may not


def read_data_yaml(source: str | Path, download: bool = True) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read and resolve a data YAML.

    Args:
        source: A file, or the bare name of one that Ultralytics or this package ships.
        download: Let Ultralytics do what its `download:` says, if the pictures of 'val' are not there. What is
            fetched or run is said first, see `patch_downloads` of `yolo_wnlb.yolo.patches`.
    Returns: What Ultralytics makes of it (absolute paths, those of 'unlabelled' too; names by number), and what stands
        in the file.
    Raises:
        ValueError: it is no data YAML that Ultralytics takes, or its download block ends in an error.
        OSError: the file or the pictures are missing; what the download block raises.
    """
    from ultralytics.data import utils

    file = Path(utils.check_file(str(source), hard=False) or utils.check_file(f"{source}.yaml", hard=False) or "")
    if not file.name:
        raise FileNotFoundError(f"there is no {source}; give a data YAML, a COCO annotation file or a folder")
    if file.suffix.lower() not in (".yaml", ".yml"):
        inside = next((str(yaml) for yaml in sorted(file.glob("*.y*ml"))), "") if file.is_dir() else ""
        advice = f"give {inside}" if inside else "give a data YAML or a COCO annotation file"
        raise ValueError(f"{source} is no data set; {advice}")
    written = read_yaml(file)
    if not isinstance(written, dict):
        raise ValueError(f"{file} is no data YAML; wanted train:, val: and names:, found {type(written).__name__}")
    for split in (*SPLITS, UNLABELLED):
        place = written.get(split)
        if place and not all(isinstance(each, str) for each in (place if isinstance(place, list) else [place])):
            raise ValueError(f"{file}, {split}: is {place!r}; wanted a folder, a list of pictures, or several")
    block = written.get("download")
    try:
        return resolved(utils.check_det_dataset(str(file), autodownload=False)), written
    except FileNotFoundError:
        if not download or not block:
            raise
    except (OSError, ImportError, MemoryError):
        raise
    except Exception as error:  # Ultralytics raises errors of many types: KeyError for gaps in the names, for instance
        raise ValueError(f"{file} is no data YAML that Ultralytics takes: {' '.join(map(str, error.args))}") from error
    if not isinstance(block, str):
        raise ValueError(f"{file}: download is {block!r}; wanted an address, a bash command or Python code")
    try:
        return resolved(utils.check_det_dataset(str(file))), written
    except (OSError, ValueError, ImportError, MemoryError):
        raise
    except Exception as error:
        raise ValueError(f"the download block of {file} ended in {type(error).__name__}: {error}") from error


def resolved(data: dict[str, Any]) -> dict[str, Any]:
    """Return what Ultralytics makes of a data YAML with absolute paths for 'unlabelled' too, which it does not know."""
    return {**data, UNLABELLED: [*map(str, unlabelled_places(data))]} if data.get(UNLABELLED) else data


def unlabelled_places(data: dict[str, Any]) -> list[Path]:
    """Return the folders and lists that 'unlabelled' of a data YAML names, as Ultralytics resolves those of 'train'.

    Args:
        data: What `check_det_dataset` of Ultralytics made of it; `path` is the root of the data set.
    Raises: ValueError: it is neither the path of a folder or of a list, nor a list of such paths.
    """
    root, named = Path(data["path"]), data.get(UNLABELLED)
    places = named if isinstance(named, list) else [named] if named else []
    if not all(isinstance(place, str) and place for place in places):
        raise ValueError(
            f"{data.get('yaml_file', 'the data YAML')}, {UNLABELLED}: is {named!r}; wanted a folder, a list of "
            "pictures, or several"
        )
    above = [place for place in places if place.startswith("../") and not (root / place).exists()]
    return [(root / (place[3:] if place in above else place)).resolve() for place in places]
