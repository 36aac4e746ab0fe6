"""Reads files of `torch.save` without executing anything in them; damaged and foreign ones are refused."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from streamnest.errors import UserError
from streamnest.files.plain_data import first_line, short

_ZIP = b"PK\x03\x04"
# Kinds of other files, with the remedy: by first bytes, and by suffix.
_BEGINNINGS = (
    (b"version https://git-lfs", "is a pointer of Git LFS instead of the file: fetch it with `git lfs pull`"),
    (b"<!doctype", "is a web page: the download failed, or needs a login"),
    (b"<html", "is a web page: the download failed, or needs a login"),
    (b"riff", "is an audio file: give the checkpoint first"),
    (b"flac", "is an audio file: give the checkpoint first"),
    (b"oggs", "is an audio file: give the checkpoint first"),
    (b"id3", "is an audio file: give the checkpoint first"),
)
_ENDINGS = {
    ".nemo": "is a NeMo archive: convert it with `streamnest import-nemo FILE OUT.ckpt`",
    ".onnx": "is an exported model: `streamnest stream` runs it, other commands need its checkpoint",
    ".safetensors": "has weights without a config: give its folder",
}


def load_tensors(path: str | Path, what: str = "checkpoint") -> Any:
    """Reads a file of `torch.save` with `weights_only`, after verifying its size and checksums.

    Args:
        path: file to read.
        what: expected kind of file, for messages.

    Raises:
        UserError: for a file of another kind, and for one that is truncated, damaged or unsafe.
    """
    path = Path(path)
    try:
        if reason := _foreign_kind(path):
            raise UserError(f"{path} {reason}")
        if damage := _damage(path):
            raise UserError(f"{path} is not a valid {what}: {damage}")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can cause any error in the unpickler
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"{path} is not a valid {what} (truncated, corrupt or unsafe): {reason}") from None


def require_weights(state: Any, path: str | Path, tied: bool = False) -> dict[str, Tensor]:
    """Checks that the content of a file is named dense tensors, and returns it.

    Args:
        state: content of a file.
        path: path of the file.
        tied: tensors may share storage; otherwise a small file could describe large ones.

    Raises:
        UserError: for anything else.
    """
    if not isinstance(state, dict):
        raise UserError(f"{path}: the weights are of type {type(state).__name__}, not named tensors")
    for name, value in state.items():
        if not isinstance(name, str) or not _is_dense(value):
            raise UserError(f"{path}: {short(name)} among the weights is not a named dense tensor of real numbers")
    if not tied and sum(value.numel() * value.element_size() for value in state.values()) > stored_bytes(state):
        raise UserError(f"{path}: tensors among the weights share storage, which those of a model do not")
    return state


def stored_bytes(state: dict[str, Tensor]) -> int:
    """Returns the size of weights in bytes, each storage counted once."""
    storages = (value.untyped_storage() for value in state.values())
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _is_dense(value: Any) -> bool:
    if type(value) not in (Tensor, torch.nn.Parameter) or value.device.type != "cpu":
        return False
    return value.layout == torch.strided and not value.is_quantized and not value.is_complex()


def check_shapes(state: dict[str, Tensor], wanted: Iterable[tuple[str, Tensor]], path: str | Path) -> None:
    """Compares weights of a file with those of a model.

    Raises:
        UserError: naming the first tensor that is missing, or has another shape or kind of number.
    """
    for name, tensor in wanted:
        stored = state.get(name)
        shape = "missing" if stored is None else f"{tuple(stored.shape)} {str(stored.dtype).removeprefix('torch.')}"
        if stored is None or stored.shape != tensor.shape or stored.is_floating_point() != tensor.is_floating_point():
            raise UserError(
                f"{path}: weights and config do not belong together: {name} is {shape}, "
                f"the config describes {tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
            )


def _foreign_kind(path: Path) -> str:
    """Returns the kind of a file that is not of torch, with the remedy; empty if it may be of torch."""
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        return "is empty (0 bytes): copy or download it again"
    if path.suffix.lower() in _ENDINGS:
        return _ENDINGS[path.suffix.lower()]
    lower = start.lstrip().lower()
    for beginning, reason in _BEGINNINGS:
        if lower.startswith(beginning):
            return reason
    if start.startswith(_ZIP):
        return ""
    is_text = all(byte >= 32 or byte in b"\t\n\r\f" for byte in start)
    kind = "it is a text file" if is_text else "its first bytes are not those of a checkpoint"
    return f"is not a valid checkpoint (truncated, corrupt or unsafe): {kind}"


def _damage(path: Path) -> str:
    """Returns the damage of a zip archive, whose checksums PyTorch does not verify; empty if there is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len({one.filename for one in members}) < len(members):
                return "it has a member twice"
            if any(one.compress_type != zipfile.ZIP_STORED for one in members):
                return "its members are compressed, unlike those of torch"
            if sum(one.file_size for one in members) > path.stat().st_size:
                return "its members are larger than the file"
            if damaged := archive.testzip():
                return f"the checksum of {short(damaged)} in it is wrong: the file is damaged"
    except OSError:
        raise
    except Exception as error:  # what zipfile raises for a damaged archive is not documented
        return f"truncated or corrupt ({first_line(error)})"
    return ""
