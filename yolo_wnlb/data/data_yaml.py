"""Read the data YAML of a YOLO data set as Ultralytics does, but announce first what its `download:` block will do."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from yolo_wnlb.reading import read_yaml

LOGGER = logging.getLogger(__name__)


def read_data_yaml(source: str | Path, download: bool = True) -> dict[str, Any]:
    """Resolve a data YAML as Ultralytics does: absolute paths, class names by number.

    Args:
        source: A file, or the name of one that ships with Ultralytics or here.
        download: Let Ultralytics run the file's `download:` block if the pictures of 'val' are missing.
    Raises:
        ValueError: Ultralytics does not take it, or its download block ends in an error.
        OSError: the file or the pictures are missing; what the download block raises.
    """
    from ultralytics.data import utils

    source = str(source)
    file = Path(utils.check_file(source, hard=False) or utils.check_file(f"{source}.yaml"))  # coco8 is coco8.yaml
    content = read_yaml(file) if file.suffix.lower() in (".yaml", ".yml") else {}  # else an archive, or a folder
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds {type(content).__name__}; wanted a data YAML: path, train, val, names")
    block = content.get("download")
    try:
        return utils.check_det_dataset(source, autodownload=False)
    except FileNotFoundError:
        if not download or not block:
            raise
    except OSError:
        raise
    except Exception as error:  # of many types: KeyError for gaps in the names, SyntaxError for missing keys
        raise ValueError(f"{file} is no data YAML that Ultralytics takes: {' '.join(map(str, error.args))}") from error
    if not isinstance(block, str):
        raise ValueError(f"{file}: download is {block!r}; wanted an address, a bash command or Python code")
    announce(block.strip(), file, utils.DATASETS_DIR)
    try:
        return utils.check_det_dataset(source)
    except (OSError, ValueError):
        raise
    except Exception as error:
        raise ValueError(f"the download block of {file} ended in {type(error).__name__}: {error}") from error


def announce(block: str, file: Path, folder: Path) -> None:
    """Say what Ultralytics is about to fetch or run."""
    if block.lower().startswith("http"):
        LOGGER.warning("the pictures of %s are missing: fetching %s into %s", file, block, folder)
    else:
        kind = "command" if block.startswith("bash ") else "Python code"
        lines = "\n".join(f"    {line}" for line in block.splitlines())
        LOGGER.warning("the pictures of %s are missing: running the %s of its download block:\n%s", file, kind, lines)
