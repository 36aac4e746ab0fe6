"""NeMo archives: a tar of a config and weights, read without executing or unpacking any of its content."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

import torch
import yaml
from omegaconf import OmegaConf
from torch import Tensor

from streamnest.errors import UserError
from streamnest.files.atomic_write import whole
from streamnest.files.plain_data import first_line
from streamnest.files.tensor_file import load_tensors, require_weights

CONFIG, WEIGHTS = "model_config.yaml", "model_weights.ckpt"
MAX_MEMBERS = 10_000
# Far above the size of any archive of a speech encoder; a vocabulary may make a config long.
MAX_BYTES = {CONFIG: 4 << 20, WEIGHTS: 32 << 30}
MAX_TOTAL_BYTES = 64 << 30
# Largest ratio of content to file size of compressed archives, since weights hardly shrink. Small ones are exempt.
MAX_RATIO, SMALL_BYTES = 20, 64 << 20
# Largest header of a member.
_MAX_READ = 16 << 20
_COMPRESSED: dict[bytes, Callable[[Path], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}


@dataclass
class Archive:
    """Content of an archive.

    Attributes:
        path: path of the archive.
        config: plain containers from YAML.
        weights: tensors by name.
        others: members that were not read, such as a tokenizer.
    """

    path: Path
    config: dict[str, Any]
    weights: dict[str, Tensor]
    others: list[str] = field(default_factory=list)


def read_archive(path: str | Path) -> Archive:
    """Reads a .nemo archive, which may be untrusted.

    Only plain files up to fixed sizes are accepted, each name once and none outside the archive. Two of them are read:
    the config with a YAML loader that builds plain containers, the weights with `torch.load(weights_only=True)`.

    Raises:
        UserError: if it is not such an archive, or has content that no such archive needs.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no archive at {path}: check the path")
    try:
        with _opened(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            members = _checked(tar, path)
            for name in (CONFIG, WEIGHTS):
                if name not in members:
                    raise UserError(f"{path} is not a .nemo archive: it has no {name}")
            config = _config(_content(tar, members[CONFIG]).read(), path)
            weights = _weights(_content(tar, members[WEIGHTS]), path)
    except UserError:
        raise
    except Exception as error:  # errors of tarfile and of four decompression libraries
        raise UserError(f"{path} is not a valid .nemo archive (truncated or corrupt): {first_line(error)}") from None
    return Archive(path, config, weights, sorted(set(members) - {CONFIG, WEIGHTS}))


class _Bounded(io.RawIOBase):
    """A file with limited reads, since `tarfile` reads a header of any declared size at once."""

    def __init__(self, file: Any) -> None:
        super().__init__()
        self._file = file

    def read(self, size: int = -1) -> bytes:
        """Reads up to `size` bytes."""
        if not 0 <= size <= _MAX_READ:
            raise tarfile.ReadError(f"a header of {size} bytes")
        content: bytes = self._file.read(size)
        return content

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves the position."""
        return int(self._file.seek(offset, whence))

    def tell(self) -> int:
        """Returns the position."""
        return int(self._file.tell())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
        super().close()


def _opened(path: Path) -> Any:
    """Opens the tar of an archive, compressed or not."""
    with path.open("rb") as file:
        start = file.read(6)
    opener = next((opener for magic, opener in _COMPRESSED.items() if start.startswith(magic)), None)
    return _Bounded(opener(path) if opener else path.open("rb"))


def write_archive(path: str | Path, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Writes an archive as NeMo does, as an uncompressed tar of both files; an error leaves no partial file.

    Args:
        path: file to write.
        config: plain containers.
        weights: tensors by name.
    """
    path = Path(path)
    with whole(path) as part, tarfile.open(part, "w:") as tar, tempfile.TemporaryFile(dir=path.parent) as file:
        _add(tar, CONFIG, io.BytesIO(OmegaConf.to_yaml(OmegaConf.create(dict(config))).encode()))
        torch.save(dict(weights), file)
        _add(tar, WEIGHTS, file)


def _add(tar: tarfile.TarFile, name: str, content: IO[bytes]) -> None:
    member = tarfile.TarInfo(f"./{name}")
    member.size = content.seek(0, io.SEEK_END)
    content.seek(0)
    tar.addfile(member, content)


def _checked(tar: tarfile.TarFile, path: Path) -> dict[str, tarfile.TarInfo]:
    """Returns the files of an archive by name; each is checked before the next header is read."""
    files: dict[str, tarfile.TarInfo] = {}
    total, most = 0, max(SMALL_BYTES, MAX_RATIO * path.stat().st_size)
    for number, member in enumerate(tar):
        name = str(PurePosixPath(member.name))
        total += member.size
        if number >= MAX_MEMBERS or total > MAX_TOTAL_BYTES:
            raise UserError(f"{path} contains more than {MAX_MEMBERS} members or {MAX_TOTAL_BYTES >> 30} GiB: refused")
        if member.size < 0 or total > most:
            raise UserError(
                f"{path} of {path.stat().st_size} bytes declares more than {most} bytes of content: refused"
            )
        if name.startswith("/") or ".." in PurePosixPath(name).parts or "\\" in name:
            raise UserError(f"{path} contains {member.name!r}, which points outside the archive: refused")
        if member.isdir():
            continue
        if not member.isreg() or member.issparse():
            raise UserError(
                f"{path} contains {member.name!r}, which is not a plain file (a link, a device, sparse): refused"
            )
        if name in files:
            raise UserError(f"{path} contains {name!r} twice: refused")
        if member.size > MAX_BYTES.get(name, MAX_TOTAL_BYTES):
            raise UserError(
                f"{path} contains {name!r} of {member.size} bytes, above the limit of {MAX_BYTES[name]}: refused"
            )
        files[name] = member
    return files


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    content = tar.extractfile(member)
    if content is None:  # other members were refused before
        raise tarfile.TarError(f"{member.name} has no content")
    return content


class _PlainLoader(yaml.SafeLoader):
    """Builds plain containers; refuses aliases, with which a few lines can expand to any amount of data."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has aliases")
        return super().compose_node(parent, index)


def _config(text: bytes, path: Path) -> dict[str, Any]:
    try:
        config = yaml.load(text, _PlainLoader)
    except Exception as error:  # constructors of dates and numbers raise other errors
        raise UserError(f"{path}: {CONFIG} is not plain YAML ({first_line(error)})") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: {CONFIG} is not a mapping")
    # The config of a run contains that of its model.
    model = config["model"] if isinstance(config.get("model"), dict) else config
    return {str(key): value for key, value in model.items()}


def _weights(content: IO[bytes], path: Path) -> dict[str, Tensor]:
    # torch seeks back and forth, for which a compressed tar is read from its start again.
    with tempfile.NamedTemporaryFile() as file:
        shutil.copyfileobj(content, file)
        file.flush()
        try:
            return require_weights(load_tensors(file.name), f"{path}: {WEIGHTS}", tied=True)
        except UserError as error:
            raise UserError(str(error).replace(file.name, f"{path}: {WEIGHTS}")) from None
