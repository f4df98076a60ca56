"""Read .pt files that anybody may have written: no code in them runs, and no file takes far more memory than disk."""

from __future__ import annotations

import pickle
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

GROWTH = 4  # how many times its size on disk an archive may hold; torch.save does not compress
ALWAYS = 64 * 2**20  # bytes that any archive may hold
COUNTER = "num_batches_tracked"  # of a norm; older files lack it, and frozen norms have no place for it
WRAPPERS = re.compile(r"((module|model|net)\.)+")  # in front of torchvision's names
COPIES = ("module.attacker.", "attacker.", "module.normalizer.", "normalizer.")  # beside the weights in Salman's files


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


def has_mark(file: str | Path, mark: str) -> bool:
    """Tell whether a .pt file holds a text, such as the name of its format, from a glance into it.

    Raises: ValueError: it is a damaged archive, or one that grows when it is read.
    """
    check_archive(file)
    if not zipfile.is_zipfile(file):
        return False
    try:
        with zipfile.ZipFile(file) as archive:
            pickles = [name for name in archive.namelist() if name.endswith("data.pkl")]
            return any(mark.encode() in archive.read(name) for name in pickles)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, RuntimeError) as error:
        raise ValueError(f"{file} is a damaged archive ({error}); copy it again") from error


def read_checkpoint(file: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the state dict and the meta data of a checkpoint, running no code from it.

    Memory is bounded by the size of the file: by `check_archive` before it is read, by `check_tensors` after.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no checkpoint, holds objects that torch alone cannot read, or tensors that are not
            really in it.
    """
    check_archive(file)
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except Exception as error:  # its type depends on where the bytes stop making sense; OSError 22 is one of them
        if isinstance(error, pickle.UnpicklingError) and (found := re.search(r"GLOBAL ([\w.]+)", str(error))):
            raise ValueError(
                f"{file} holds objects of the program that wrote it ({found[1]}), as checkpoints of one's own training "
                "do. Where that program is installed, keep only the tensors: c = torch.load(file, weights_only=False); "
                "torch.save({'state_dict': c['state_dict']}, new_file) (or c['model'], where that is the name)"
            ) from error
        raise ValueError(f"{file} is no PyTorch checkpoint ({type(error).__name__}); is it complete?") from error
    state = None
    if isinstance(content, dict):  # Salman et al. call it "model"
        state = next((content[key] for key in ("state_dict", "model") if isinstance(content.get(key), dict)), content)
    if not isinstance(state, dict) or not any(isinstance(value, Tensor) for value in state.values()):
        names = [key for key in content if isinstance(key, str)][:5] if isinstance(content, dict) else []
        raise ValueError(f"{file} holds no state_dict of tensors, but {names or type(content).__name__}")
    check_tensors(state, file)
    meta = content.get("meta")
    return state, meta if isinstance(meta, dict) else {}


def plain_names(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tensors of a ResNet by torchvision's names, whatever was wrapped around it when it was saved."""
    found = {}
    for name, value in state.items():
        if not name.startswith(COPIES) and name not in ("mean", "std"):
            wrapped = WRAPPERS.match(name)
            found[name[wrapped.end() if wrapped else 0 :]] = value
    return found


def check_tensors(state: Mapping[Any, Any], file: str | Path) -> None:
    """Refuse a state dict whose tensors are not really in the file, all of their numbers.

    Raises: ValueError: a name is no text; a tensor is sparse, quantised or on no device; it claims more numbers
        than are stored, as one number repeated a billion times takes no room in a file.
    """
    for name, value in state.items():
        if not isinstance(name, str):
            raise ValueError(f"{file} holds no state_dict: one of its names is of type {type(name).__name__}")
        if not isinstance(value, Tensor):
            continue
        if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
            kind = "quantised" if value.is_quantized else f"{value.layout} on {value.device}"
            raise ValueError(f"{file}: {name} is {kind}; save plain tensors: value.dequantize(), .to_dense(), .cpu()")
        stored = value.untyped_storage().nbytes()
        if value.numel() * value.element_size() > stored:
            raise ValueError(
                f"{file}: {name} claims to be {tuple(value.shape)}, and {stored} bytes of it are stored; save it with "
                "value.contiguous()"
            )


def check_values(state: Mapping[str, Any], model: nn.Module, file: str | Path) -> None:
    """Refuse tensors that the model could only take as other numbers.

    Halved precision is taken as it is: float32 holds every float16 and bfloat16.

    Raises: ValueError: a tensor holds NaN or infinity, is of another kind (integers for weights, say), or has
        more digits than the model's own.
    """
    own_tensors = model.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{file}: {name} is {type(value).__name__}, no tensor")
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ValueError(f"{file}: {name} holds NaN or infinity; did the training diverge? Take an earlier file")
        if (own := own_tensors.get(name)) is None:
            continue
        if value.is_floating_point() != own.is_floating_point() or value.is_complex():
            raise ValueError(f"{file}: {name} is {value.dtype}, the model has {own.dtype}; save it as that")
        if value.element_size() > own.element_size() and not torch.equal(value.to(own.dtype).to(value.dtype), value):
            raise ValueError(
                f"{file}: {name} is {value.dtype} with more digits than {own.dtype} holds; convert it first"
            )


def load_state(
    net: nn.Module, state: Mapping[str, Any], source: str | Path, form: str, may_lack: tuple[str, ...] = ()
) -> None:
    """Load weights into a network; what the file may lack keeps its start.

    Args:
        net: Changed in place.
        state: The tensors of the file, by the names of `net`.
        source: The file, for messages.
        form: What kind of network it is, for messages.
        may_lack: How names begin that may be missing. Counters of norms may always.
    Raises: ValueError: a tensor is missing, has another shape or no place, or holds NaN. The net is unchanged.
    """
    own = net.state_dict()
    missing = [n for n in own if n not in state and not n.startswith(may_lack) and not n.endswith(COUNTER)]
    foreign = [name for name in state if name not in own]
    other = [n for n in own if n in state and isinstance(state[n], Tensor) and state[n].shape != own[n].shape]
    if missing or foreign or other:
        examples = [
            *(f"{name} is missing" for name in missing[:1]),
            *(f"no place for {name}" for name in foreign[:1]),
            *(f"{name} is {tuple(state[name].shape)}, wanted {tuple(own[name].shape)}" for name in other[:1]),
        ]
        raise ValueError(
            f"{source} does not fit {form}: {len(missing)} tensors are missing, {len(foreign)} have no place, "
            f"{len(other)} have another shape ({'; '.join(examples)}); give weights of the same arch"
        )
    check_values(state, net, source)
    net.load_state_dict(dict(state), strict=False)


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with Python's own numbers in the place of NumPy's, which a checkpoint cannot hold."""
    return {
        key: plain(value) if isinstance(value, Mapping) else value.item() if isinstance(value, np.generic) else value
        for key, value in settings.items()
    }


def check_same_training(last: str | Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on with a training that was begun with other settings, data or networks.

    Args:
        last: The checkpoint, for the message.
        before: What it was begun with; more entries than `now` has do not matter.
        now: What is asked for.
    Raises: ValueError: says what was and what is.
    """
    if other := [key for key in now if now[key] != before.get(key)]:
        differences = "; ".join(f"{key} was {before.get(key)!r}, now {now[key]!r}" for key in other[:3])
        raise ValueError(
            f"{last} cannot be resumed, for this is another training: {differences}. Choose another folder"
        )
