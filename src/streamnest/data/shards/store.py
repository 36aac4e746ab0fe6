"""Where shards lie: a folder, or an object store that a URL names."""

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

# Lhotse takes every file of a folder of shards for data, except those that begin like this.
PARTS = "cuts.parts"
_HANDLES = 64


class Store(Protocol):
    """Named bytes. Reading raises `FileNotFoundError` for names that are not there, `StoreError` for lost answers."""

    def read(self, name: str, start: int, size: int) -> bytes:
        """`size` bytes from `start`; fewer where the file ends."""

    def load(self, name: str) -> bytes:
        """All bytes."""

    def size(self, name: str) -> int | None:
        """Number of bytes; None for no such name."""

    def path(self, name: str) -> Path | None:
        """The file itself; None for a store that has no files."""

    def put(self, name: str, path: Path) -> None:
        """Moves a finished file there in one piece: a reader meets all of it or nothing."""

    def clear(self, folder: str) -> None:
        """Removes a folder, if it is there."""

    def workspace(self) -> Any:
        """A context: a folder for files that are not finished."""


def is_url(location: str) -> bool:
    """Whether a location is a URL and not a path."""
    return "://" in location


def open_store(location: str) -> Store:
    """The store of a path or a URL (`s3://`, `gs://`, `https://`, ...); nothing is read or made yet.

    Raises:
        UserError: for a URL whose protocol is unknown, or needs a package that is not installed, or with a password.
    """
    refuse_secrets(location)
    return RemoteStore(location) if is_url(location) else FolderStore(Path(location))


class FolderStore:
    """A folder. Files that are read stay open, the latest few of them in each process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._handles: OrderedDict[str, int] = OrderedDict()

    def read(self, name: str, start: int, size: int) -> bytes:
        """See `Store`. A read at a place leaves no trace, so that forked processes may share a handle."""
        return os.pread(self._open(name), size, start)

    def load(self, name: str) -> bytes:
        """See `Store`."""
        return (self.folder / name).read_bytes()

    def size(self, name: str) -> int | None:
        """See `Store`."""
        path = self.folder / name
        return path.stat().st_size if path.is_file() else None

    def path(self, name: str) -> Path | None:
        """See `Store`."""
        return self.folder / name

    def put(self, name: str, path: Path) -> None:
        """See `Store`."""
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)

    def clear(self, folder: str) -> None:
        """See `Store`."""
        shutil.rmtree(self.folder / folder, ignore_errors=True)

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """See `Store`."""
        # On the same file system, so that finished files are moved in one step.
        parts = self.folder / PARTS
        try:
            parts.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.folder}: cannot be written to: {error.strerror}") from error
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
