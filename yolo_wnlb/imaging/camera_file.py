"""The YAML file of a camera, which `yolo-wnlb calibrate` writes and which stands wherever a preset can stand.

    camera: 1             # CAMERA_VERSION of the formulas that the settings are for
    settings: {ev: [-5.2, -3.1], sigma_s: [0.041, 0.045], sigma_c: [0.003, 0.0032], crf: srgb}
    found: ...            # for people: where each number is from

Only `settings` is used; it holds attributes of `imaging.camera.Settings`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

SUFFIXES = (".yaml", ".yml")
MAX_BYTES = 2**20


def names_a_file(preset: Any) -> bool:
    """Tell whether a preset is the file of a camera rather than a name."""
    return isinstance(preset, (str, Path)) and Path(preset).suffix.lower() in SUFFIXES


def read_camera_file(file: str | Path) -> dict[str, Any]:
    """Return the settings that the file of a camera holds, as they are written there.

    Raises: FileNotFoundError: it is not there. ValueError: it holds something else.
    """
    import yaml

    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"no camera file {str(file)!r}; yolo-wnlb calibrate writes one")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{file} has {path.stat().st_size / MAX_BYTES:.0f} MiB; a camera file has a few kB")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is no YAML file: {' '.join(str(error).split())}") from error
    found = content.get("settings") if isinstance(content, dict) else None
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found) or "preset" in found:
        raise ValueError(
            f"{file} is no camera file: it has no mapping 'settings' of low-light settings, as yolo-wnlb calibrate "
            "writes it"
        )
    return found
