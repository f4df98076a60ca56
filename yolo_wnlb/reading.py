"""Read text, YAML and JSON that a user wrote, and hash files: errors name the file, and nothing grows unbounded."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

MAX_YAML_BYTES = 16 * 2**20
MAX_YAML_NODES = 1_000_000  # with every alias written out; COCO's own data YAML has 300


def read_text(file: str | Path) -> str:
    """Read a UTF-8 text file, with or without a byte order mark.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not UTF-8; the message names the file and the first byte that is not.
    """
    content = Path(file).read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        looks = " (it looks like UTF-16)" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        raise ValueError(
            f"{file} is not UTF-8 text{looks}: byte {content[error.start]:#04x} at position {error.start}; "
            "save it as UTF-8"
        ) from None


def read_json(file: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not UTF-8, no JSON, or nested too deeply to be read.
    """
    text = read_text(file)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is no JSON: {error}; is it complete?") from None
    except RecursionError:
        raise ValueError(f"{file} is no JSON that can be read: it is nested too deeply") from None
    except ValueError as error:  # a whole number of more digits than Python reads
        raise ValueError(f"{file} is no JSON that can be read: {error}") from None


def read_yaml(file: str | Path) -> Any:
    """Read a YAML file; a key that stands twice in one mapping is a mistake, and would lose a value.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not UTF-8, no YAML, or larger than MAX_YAML_BYTES; a key stands twice; its aliases,
            written out, are more than MAX_YAML_NODES nodes, or contain themselves.
    """
    import yaml

    if (size := Path(file).stat().st_size) > MAX_YAML_BYTES:
        raise ValueError(
            f"{file} has {size / 2**20:.0f} MiB; a YAML of settings has at most {MAX_YAML_BYTES // 2**20} MiB"
        )
    text = read_text(file)
    try:
        loader = yaml.SafeLoader(text)
    except yaml.YAMLError as error:  # a character that YAML does not know
        raise ValueError(f"{file} is no YAML: {' '.join(str(error).split())}") from None
    loader.name = str(file)  # what errors call it
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        check_nodes(root, file)
        return loader.construct_document(root)
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is no YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ValueError(f"{file} is no YAML that can be read: it is nested too deeply") from None
    finally:
        loader.dispose()


def check_aliases(file: str | Path) -> None:
    """Refuse a YAML file whose aliases grow without a bound; whatever else is wrong with it, its reader says.

    Raises: ValueError: its aliases, written out, are more than MAX_YAML_NODES nodes, or contain themselves.
    """
    import yaml

    content = Path(file).read_bytes()
    if len(content) > MAX_YAML_BYTES or not (b"*" in content and b"&" in content):
        return
    try:
        if root := yaml.compose(content.decode("utf-8-sig", "ignore"), yaml.SafeLoader):
            check_nodes(root, file, unique_keys=False)
    except (yaml.YAMLError, RecursionError):
        return


def check_nodes(root: Any, file: str | Path, unique_keys: bool = True) -> None:
    """Refuse a YAML tree with aliases that grow without a bound, or with a key that stands twice."""
    import yaml

    sizes: dict[int, int] = {}  # of each node, its aliases written out; 0 while it is being counted

    def size_of(node: Any) -> int:
        if isinstance(node, yaml.ScalarNode):
            return 1
        if id(node) in sizes:
            if not sizes[id(node)]:
                raise ValueError(f"{file}, line {node.start_mark.line + 1}: an alias contains itself; write it out")
            return sizes[id(node)]
        sizes[id(node)] = 0
        children = node.value
        if isinstance(node, yaml.MappingNode):
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            if unique_keys and len(keys) > len({*keys}):
                twice = next(key for place, key in enumerate(keys) if key in keys[:place])
                raise ValueError(f"{file}, line {node.start_mark.line + 1}: key {twice!r} stands twice; keep one")
            children = [part for pair in node.value for part in pair]
        sizes[id(node)] = 1 + sum(map(size_of, children))
        if sizes[id(node)] > MAX_YAML_NODES:
            raise ValueError(
                f"{file}, line {node.start_mark.line + 1}: its aliases, written out, are over {MAX_YAML_NODES:,} "
                "values; such a file would fill the memory"
            )
        return sizes[id(node)]

    size_of(root)


def sha256_of(*paths: Path) -> str:
    """Hash the content of files, one after the other; of a folder, that of all files in it, by name."""
    found = hashlib.sha256()
    for path in paths:
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        for file in files:
            with file.open("rb") as stream:
                while block := stream.read(2**20):
                    found.update(block)
    return found.hexdigest()
