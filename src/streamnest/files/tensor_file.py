"""Files of `torch.save`, read without executing anything in them; damaged and foreign ones are refused."""

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
# By how a file begins, and by the end of its name: what it is, and what helps.
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
    ".nemo": "is an archive of NeMo: make a checkpoint of it with `streamnest import-nemo FILE OUT.ckpt`",
    ".onnx": "is an exported model: streamnest stream runs it, other commands take the checkpoint that it was made of",
    ".safetensors": "holds weights without a config: give the folder that it lies in",
}


def load_tensors(path: str | Path, what: str = "checkpoint") -> Any:
    """Reads a file of `torch.save` with `weights_only`, after its size and checksums were verified.

    Args:
        path: of the file.
        what: what messages say that it should be.

    Raises:
        UserError: for any file that is something else, truncated, damaged or unsafe.
    """
    path = Path(path)
    try:
        if reason := _something_else(path):
            raise UserError(f"{path} {reason}")
        if damage := _damage(path):
            raise UserError(f"{path} is not a valid {what}: {damage}")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises what a damaged file happens to cause
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"{path} is not a valid {what} (truncated, corrupt or unsafe): {reason}") from None


def require_weights(state: Any, path: str | Path, tied: bool = False) -> dict[str, Tensor]:
    """Named dense tensors, as a model has them.

    Args:
        state: content of a file.
        path: of the file.
        tied: tensors may share their numbers; else a small file could claim large ones.

    Raises:
        UserError: for anything else.
    """
    if not isinstance(state, dict):
        raise UserError(f"{path}: the weights are of type {type(state).__name__}, not named tensors")
    for name, value in state.items():
        if not isinstance(name, str) or not _is_dense(value):
            raise UserError(f"{path}: {short(name)} among the weights is not a named dense tensor of real numbers")
    if not tied and sum(value.numel() * value.element_size() for value in state.values()) > stored_bytes(state):
        raise UserError(f"{path}: tensors among the weights share their numbers, which those of a model do not")
    return state


def stored_bytes(state: dict[str, Tensor]) -> int:
    """Bytes that weights take, each storage counted once."""
    storages = (value.untyped_storage() for value in state.values())
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def _is_dense(value: Any) -> bool:
    if type(value) not in (Tensor, torch.nn.Parameter) or value.device.type != "cpu":
        return False
    return value.layout == torch.strided and not value.is_quantized and not value.is_complex()


def check_shapes(state: dict[str, Tensor], wanted: Iterable[tuple[str, Tensor]], path: str | Path) -> None:
    """Compares weights of a file with those of a model.

    Raises:
        UserError: naming the first tensor that is missing, of another shape, or a number of another kind.
    """
    for name, tensor in wanted:
        found = state.get(name)
        shape = "missing" if found is None else f"{tuple(found.shape)} {str(found.dtype).removeprefix('torch.')}"
        if found is None or found.shape != tensor.shape or found.is_floating_point() != tensor.is_floating_point():
            raise UserError(
                f"{path}: weights and config do not belong together: {name} is {shape}, "
                f"the config describes {tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
            )


def _something_else(path: Path) -> str:
    """Names the kind of a file that is evidently not of torch, and the remedy; empty if it may be of torch."""
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
    kind = "it is a text file" if is_text else "it does not begin as one"
    return f"is not a valid checkpoint (truncated, corrupt or unsafe): {kind}"


def _damage(path: Path) -> str:
    """Names the damage of a zip archive; empty if it has none. PyTorch does not verify its checksums."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len({one.filename for one in members}) < len(members):
                return "a member is in it twice"
            if any(one.compress_type != zipfile.ZIP_STORED for one in members):
                return "its members are compressed, which those of torch never are"
            if sum(one.file_size for one in members) > path.stat().st_size:
                return "its members are larger than the file"
            if damaged := archive.testzip():
                return f"the checksum of {short(damaged)} in it is wrong: the file is damaged"
    except OSError:
        raise
    except Exception as error:  # what zipfile raises for a damaged archive is not documented
        return f"truncated or corrupt ({first_line(error)})"
    return ""
