"""A checkpoint never takes much more memory than its size on disk: bombs are refused before they are read."""

import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

from yolo_wnlb import checkpoints
from yolo_wnlb.checkpoints import check_archive, read_checkpoint
from yolo_wnlb.detectors import torchvision
from yolo_wnlb.yolo.models import load_checkpoint, load_export

BIG = 256 * 2**20


def rewrite(file, out, change, compression=zipfile.ZIP_STORED):
    """Write the entries of an archive again, each as `change(name, content)`."""
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(out, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return out


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    file = tmp_path_factory.mktemp("archive") / "plain.pt"
    torch.save({"state_dict": {"w": torch.arange(4.0)}, "text": torchvision.FORMAT}, file)
    return file


@pytest.fixture(scope="module", params=["data.pkl", "data/0", "another"])
def bomb(request, checkpoint):
    """A checkpoint of some hundred kilobytes with one entry of 256 MiB, compressed."""
    name = request.param.replace("/", "_")
    out = checkpoint.with_name(f"{name}.pt")
    rewrite(
        checkpoint,
        out,
        lambda entry, content: content + bytes(BIG) if entry.endswith(request.param) else content,
        zipfile.ZIP_DEFLATED,
    )
    if request.param == "another":
        with zipfile.ZipFile(out, "a", zipfile.ZIP_DEFLATED) as added:
            added.writestr("plain/more", bytes(BIG))
    assert out.stat().st_size < 2**20
    return out


@pytest.mark.parametrize("read", [torchvision.reads, torchvision.load, read_checkpoint, load_checkpoint])
def test_a_compressed_bomb_is_refused_before_memory_is_taken(read, bomb):
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=rf"{bomb.name} has 0\.\d MiB on disk and would take 256 MiB of memory"):
            read(bomb)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_entries_that_share_their_bytes_are_counted_each(checkpoint, tmp_path, monkeypatch):
    """The directory of an archive may name the same bytes many times."""
    monkeypatch.setattr(checkpoints, "ALWAYS", 2**20)
    file = tmp_path / "overlap.pt"
    with zipfile.ZipFile(file, "w") as new:
        new.writestr("a", np.random.default_rng(0).bytes(2**20))
        entry = new.infolist()[0]
        for i in range(9):
            twin = zipfile.ZipInfo(f"a{i}")
            for name in ("file_size", "compress_size", "CRC", "header_offset"):
                setattr(twin, name, getattr(entry, name))
            new.filelist.append(twin)
            new.NameToInfo[twin.filename] = twin
        new._didModify = True
    with pytest.raises(ValueError, match="would take 10 MiB"):
        check_archive(file)


def test_an_exported_bomb_is_refused_too(bomb):
    torchscript = bomb.with_suffix(".torchscript")
    torchscript.write_bytes(bomb.read_bytes())
    with pytest.raises(ValueError, match="would take 256 MiB"):
        load_export(torchscript)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_what_torch_writes_passes_packed_again_or_not(compression, checkpoint, tmp_path):
    file = rewrite(checkpoint, tmp_path / "again.pt", lambda name, content: content, compression)
    check_archive(file)
    assert torch.equal(read_checkpoint(file)[0]["w"], torch.arange(4.0))


def test_a_damaged_archive_is_named_and_what_is_none_passes(checkpoint, tmp_path):
    content = checkpoint.read_bytes()
    (tmp_path / "cut.pt").write_bytes(content[100:])
    start = content.index(b"PK\x01\x02")
    (tmp_path / "directory.pt").write_bytes(content[:start] + b"PK\x09\x09" + content[start + 4 :])
    for name in ("cut.pt", "directory.pt"):
        with pytest.raises(ValueError, match=rf"{name}.*(copy it again|is it complete)"):
            read_checkpoint(tmp_path / name)
    (tmp_path / "text.pt").write_text("no archive")
    check_archive(tmp_path / "text.pt")
    check_archive(tmp_path / "nowhere.pt")
