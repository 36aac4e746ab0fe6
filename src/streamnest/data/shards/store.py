"""Storage of shards: a folder, or an object store given by a URL."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from streamnest.console.redaction import refuse_secrets
from streamnest.data.shards.remote import RemoteStore
from streamnest.errors import UserError

# Lhotse reads every file in a folder of shards as data, except names with this prefix.
PARTS = "cuts.parts"
_HANDLES = 64


class Store(Protocol):
    """Named byte objects. Reading raises `FileNotFoundError` for unknown names and `StoreError` for failed requests."""

    def read(self, name: str, start: int, size: int) -> bytes:
        """Reads `size` bytes from `start`; fewer at the end of the file."""

    def load(self, name: str) -> bytes:
        """Reads all bytes."""

    def size(self, name: str) -> int | None:
        """Returns the number of bytes; None for an unknown name."""

    def path(self, name: str) -> Path | None:
        """Returns the path of the file; None for a store without local files."""

    def put(self, name: str, path: Path) -> None:
        """Moves a finished file into the store atomically."""

    def clear(self, folder: str) -> None:
        """Removes a folder if it exists."""

    def workspace(self) -> Any:
        """Returns a context manager that gives a folder for unfinished files."""


def is_url(location: str) -> bool:
    """Returns True if a location is a URL and not a path."""
    return "://" in location


def open_store(location: str) -> Store:
    """Returns the store for a path or a URL (`s3://`, `gs://`, `https://`, ...) without reading or creating anything.

    Raises:
        UserError: for an unknown protocol, a missing package, and a URL with a password.
    """
    refuse_secrets(location)
    return RemoteStore(location) if is_url(location) else FolderStore(Path(location))


class FolderStore:
    """Folder of shards. Each process keeps the most recently read files open."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._handles: OrderedDict[str, int] = OrderedDict()

    def read(self, name: str, start: int, size: int) -> bytes:
        """Implements `Store.read` with `pread`, so that forked processes may share a handle."""
        return os.pread(self._open(name), size, start)

    def load(self, name: str) -> bytes:
        """Implements `Store.load`."""
        return (self.folder / name).read_bytes()

    def size(self, name: str) -> int | None:
        """Implements `Store.size`."""
        path = self.folder / name
        return path.stat().st_size if path.is_file() else None

    def path(self, name: str) -> Path | None:
        """Implements `Store.path`."""
        return self.folder / name

    def put(self, name: str, path: Path) -> None:
        """Implements `Store.put`."""
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)

    def clear(self, folder: str) -> None:
        """Implements `Store.clear`."""
        shutil.rmtree(self.folder / folder, ignore_errors=True)

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """Implements `Store.workspace`."""
        # On the same file system, so that finished files are moved atomically.
        parts = self.folder / PARTS
        try:
            parts.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be written: {error.strerror}") from error
        with tempfile.TemporaryDirectory(prefix="unfinished-", dir=parts) as folder:
            yield Path(folder)

    def _open(self, name: str) -> int:
        if name not in self._handles:
            if len(self._handles) >= _HANDLES:
                os.close(self._handles.popitem(last=False)[1])
            self._handles[name] = os.open(self.folder / name, os.O_RDONLY)
        self._handles.move_to_end(name)
        return self._handles[name]

    def __str__(self) -> str:
        return str(self.folder)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "_handles": OrderedDict()}

    def __del__(self) -> None:
        for handle in self._handles.values():
            os.close(handle)
