"""Local uncompressed copy of an index, shared by all runs and processes of a machine."""

from __future__ import annotations

import fcntl
import hashlib
import io
import logging
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from streamnest.data.shards.mapping import is_plain
from streamnest.data.shards.remote import StoreError
from streamnest.data.shards.store import Store
from streamnest.files.atomic_write import open_own
from streamnest.files.cache_folder import cache_folder, make_private

log = logging.getLogger(__name__)

# Bytes per request, and buffer size while unpacking.
_PIECE = 4 * 2**20


def plain_copy(store: Store, name: str) -> Path | None:
    """Returns a local file for `map_arrays`: that of the store, or a copy in the cache folder.

    A copy is named after the checksums of its arrays, so that changed arrays get a new one. It is written atomically by
    one process, while others wait.

    Returns:
        The file; None, with a warning, if it cannot be written.

    Raises:
        FileNotFoundError: for an unknown name.
        OSError, EOFError, zipfile.BadZipFile, zlib.error: for a file that cannot be read.
    """
    local = store.path(name)
    if local is not None and is_plain(local):
        return local
    folder = cache_folder()
    with zipfile.ZipFile(io.BufferedReader(_Stored(store, name), _PIECE)) as packed:
        copy = folder / f"{_checksum(packed)}.npz"
        try:
            make_private(folder)
            with _locked(folder / "lock"):
                if not copy.exists():
                    _unpack(packed, copy)
        except StoreError:
            raise
        except OSError as error:
            log.warning("%s/%s is kept in memory because %s cannot be written: %s", store, name, folder, error)
            return None
    return copy


def _checksum(packed: zipfile.ZipFile) -> str:
    members = [(member.filename, member.CRC, member.file_size) for member in packed.infolist()]
    return hashlib.blake2b(repr(members).encode(), digest_size=16).hexdigest()


def _unpack(packed: zipfile.ZipFile, copy: Path) -> None:
    """Unpacks in pieces; `zipfile` verifies the checksum of each array."""
    with tempfile.TemporaryDirectory(prefix="unfinished-", dir=copy.parent) as folder:
        unfinished = Path(folder) / copy.name
        with zipfile.ZipFile(unfinished, "w") as plain:
            for member in packed.infolist():
                with packed.open(member) as source, plain.open(member.filename, "w", force_zip64=True) as target:
                    shutil.copyfileobj(source, target, _PIECE)
        os.replace(unfinished, copy)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a lock of this machine, which is released when its process ends."""
    lock = open_own(path, os.O_RDWR)
    try:
        # Some network file systems have no locks; then several processes do the same work.
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


class _Stored(io.RawIOBase):
    """File-like view of an object in a store, with random access."""

    def __init__(self, store: Store, name: str) -> None:
        size = store.size(name)
        if size is None:
            raise FileNotFoundError(name)
        # A failing store raises here; `zipfile` would report that the file is not an archive.
        store.read(name, max(0, size - 1), 1)
        self._read, self._size, self._at = lambda start, count: store.read(name, start, count), size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        count = max(0, min(len(buffer), self._size - self._at))
        data = self._read(self._at, count) if count else b""
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
