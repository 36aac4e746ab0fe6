"""Where shards lie: a folder, or an object store that a URL names."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from streamnest.errors import UserError

# Lhotse takes every file of a folder of shards for data, except those that begin like this.
PARTS = "cuts.parts"
_HANDLES = 64
# Seconds before each further try of a request, and of a request altogether.
_WAITS = (0.5, 2.0)
_TIMEOUT = 60.0
# What HTTP calls temporary: too slow, too many requests, and all that is the server's fault.
_TEMPORARY = {408, 429, *range(500, 600)}
# By name, as each belongs to a package that may not be there.
_CUT_SHORT = {"ClientPayloadError", "IncompleteReadError", "IncompleteRead", "ResponseStreamingError"}


class StoreError(OSError):
    """An object store that did not give what was asked for.

    Attributes:
        cause: `unreachable` (nobody answers, or not in time), `server error` (it answers that it will not), `cut short`
            (the answer ends early).
    """

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(f"{cause} ({detail})")
        self.cause, self.detail = cause, detail


class Store(Protocol):
    """Named bytes. Reading raises `FileNotFoundError` for names that are not there, `StoreError` for lost answers."""

    def read(self, name: str, start: int, size: int) -> bytes:
        """`size` bytes from `start`; fewer where the file ends."""

    def load(self, name: str) -> bytes:
        """All bytes."""

    def size(self, name: str) -> int | None:
        """Number of bytes; None for no such name."""

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
        UserError: for a URL whose protocol is unknown, or needs a package that is not installed.
    """
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


class RemoteStore:
    """An object store; a member of an archive is one ranged request.

    A request that fails for a reason that may pass is repeated, twice, after half a second and two seconds. While a
    store does not answer at all, requests get one try each, so that a batch of lost cuts does not take minutes.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._lost = False
        self._connect()

    def read(self, name: str, start: int, size: int) -> bytes:
        """See `Store`."""
        data = self._get(name, start=start, end=start + size)
        if len(data) > size:
            raise StoreError("server error", "sends more than the bytes that were asked for: it serves no ranges")
        return data

    def load(self, name: str) -> bytes:
        """See `Store`."""
        return self._get(name)

    def size(self, name: str) -> int | None:
        """See `Store`."""
        files, root = self._connect()
        try:
            return self._ask(lambda: files.size(f"{root}/{name}"))
        except FileNotFoundError:
            return None

    def put(self, name: str, path: Path) -> None:
        """See `Store`."""
        files, root = self._connect()
        data = path.read_bytes()
        try:
            self._ask(lambda: files.pipe_file(f"{root}/{name}", data))
        except NotImplementedError as error:
            raise UserError(f"{self.url}: cannot be written to") from error

    def clear(self, folder: str) -> None:
        """See `Store`."""
        files, root = self._connect()
        with suppress(FileNotFoundError):
            files.rm(f"{root}/{folder}", recursive=True)

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """See `Store`."""
        with tempfile.TemporaryDirectory(prefix="shards-") as folder:
            yield Path(folder)

    def __str__(self) -> str:
        return self.url

    def _get(self, name: str, **part: int) -> bytes:
        files, root = self._connect()
        # Only the file systems of networks know a timeout.
        limit = {"timeout": _TIMEOUT} if getattr(files, "async_impl", False) else {}
        return self._ask(lambda: files.cat_file(f"{root}/{name}", **part, **limit))

    def _ask(self, request: Callable[[], Any]) -> Any:
        """Repeats a request as long as that may help."""
        waits = () if self._lost else _WAITS
        for wait in (*waits, None):
            try:
                answer = request()
            except (FileNotFoundError, NotImplementedError):
                raise
            # Each protocol's package has exceptions of its own.
            except Exception as error:
                failure, temporary = _diagnose(error)
                if wait is None or not temporary:
                    self._lost = temporary
                    raise failure from error
                time.sleep(wait)
            else:
                self._lost = False
                return answer

    def _connect(self) -> tuple[Any, str]:
        """The file system and the path in it; fsspec keeps one connection for each process."""
        import fsspec

        try:
            files, root = fsspec.core.url_to_fs(self.url)
        except ImportError as error:
            raise UserError(f"{self.url}: {error} (a package for this kind of store)") from error
        except ValueError as error:
            raise UserError(f"{self.url}: {error}") from error
        return files, root.rstrip("/")


def _diagnose(error: Exception) -> tuple[StoreError, bool]:
    """What a failure is, and whether it may pass."""
    detail = f"{type(error).__name__}: {error}".splitlines()[0]
    if type(error).__name__ in _CUT_SHORT:
        return StoreError("cut short", detail), True
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return StoreError("server error", f"status {status}"), status in _TEMPORARY
    if isinstance(error, PermissionError):
        return StoreError("server error", detail), False
    return StoreError("unreachable", detail), True
