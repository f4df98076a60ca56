"""A .pt file is a zip archive: refuse one that is far larger inside than on disk, before it is read."""

from __future__ import annotations

import zipfile
from pathlib import Path

GROWTH = 4  # how many times its size on disk an archive may hold; torch.save does not compress
ALWAYS = 64 * 2**20  # bytes that any archive may hold


def check_archive(file: str | Path) -> None:
    """Refuse an archive that would take much more memory than its size on disk, from its directory alone.

    A file that is no zip archive, or is not there, passes: whoever reads it says so.

    Raises: ValueError: the archive is damaged, or its entries are more than max(ALWAYS, GROWTH x its size) bytes.
    """
    if not zipfile.is_zipfile(file):
        return
    try:
        with zipfile.ZipFile(file) as archive:
            held = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise ValueError(f"{file} is a damaged archive ({error}); copy it again") from error
    size = Path(file).stat().st_size
    if held > max(ALWAYS, GROWTH * size):
        raise ValueError(
            f"{file} has {size / 2**20:.1f} MiB on disk and would take {held / 2**20:,.0f} MiB of memory; torch.save "
            "does not compress, so it did not write this file; if you trust it, load and save it with torch"
        )
