"""Shards in an object store, with retries for temporary network failures."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from streamnest.errors import UserError

# Seconds before each retry of a request, and the timeout of a request.
_WAITS = (0.5, 2.0)
_TIMEOUT = 60.0
# Temporary HTTP errors: timeout, too many requests, and all server errors.
_TEMPORARY = {408, 429, *range(500, 600)}
# By name, because each belongs to a package that may not be installed.
_CUT_SHORT = {"ClientPayloadError", "IncompleteReadError", "IncompleteRead", "ResponseStreamingError"}


class StoreError(OSError):
    """Failed request to an object store.

    Attributes:
        cause: `unreachable` (no response, or a timeout), `server error` (an error response), `cut short` (a truncated
            response).
        detail: message of the failure.
    """

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(f"{cause} ({detail})")
        self.cause, self.detail = cause, detail


class RemoteStore:
    """Object store; a member of an archive is read by one ranged request.

    A request with a temporary failure is repeated twice, after 0.5 and 2 seconds. While a store does not respond at
    all, each request is tried once, so that a batch of lost cuts does not take minutes.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._lost = False
        self._connect()

    def read(self, name: str, start: int, size: int) -> bytes:
        """Implements `Store.read`."""
        data = self._get(name, start=start, end=start + size)
        if len(data) > size:
            raise StoreError("server error", "returned more bytes than requested: it does not support ranges")
        return data

    def load(self, name: str) -> bytes:
        """Implements `Store.load`."""
        return self._get(name)

    def size(self, name: str) -> int | None:
        """Implements `Store.size`."""
        files, root = self._connect()
        try:
            return self._request(lambda: files.size(f"{root}/{name}"))
        except FileNotFoundError:
            return None

    def path(self, name: str) -> Path | None:
        """Implements `Store.path`."""
        return None

    def put(self, name: str, path: Path) -> None:
        """Implements `Store.put`."""
        files, root = self._connect()
        data = path.read_bytes()
        try:
            self._request(lambda: files.pipe_file(f"{root}/{name}", data))
        except NotImplementedError as error:
            raise UserError(f"{self.url}: is read-only") from error

    def clear(self, folder: str) -> None:
        """Implements `Store.clear`."""
        files, root = self._connect()
        with suppress(FileNotFoundError):
            files.rm(f"{root}/{folder}", recursive=True)

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """Implements `Store.workspace`."""
        with tempfile.TemporaryDirectory(prefix="shards-") as folder:
            yield Path(folder)

    def __str__(self) -> str:
        return self.url

    def _get(self, name: str, **part: int) -> bytes:
        files, root = self._connect()
        # Only network file systems accept a timeout.
        limit = {"timeout": _TIMEOUT} if getattr(files, "async_impl", False) else {}
        return self._request(lambda: files.cat_file(f"{root}/{name}", **part, **limit))

    def _request(self, request: Callable[[], Any]) -> Any:
        """Runs a request and repeats it after temporary failures."""
        waits = () if self._lost else _WAITS
        for wait in (*waits, None):
            try:
                answer = request()
            except (FileNotFoundError, NotImplementedError):
                raise
            # The package of each protocol has its own exceptions.
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
        """Returns the file system and the path in it; fsspec keeps one connection per process."""
        import fsspec

        try:
            files, root = fsspec.core.url_to_fs(self.url)
        except ImportError as error:
            raise UserError(f"{self.url}: {error} (install the package for this kind of store)") from error
        except ValueError as error:
            raise UserError(f"{self.url}: {error}") from error
        return files, root.rstrip("/")


def _diagnose(error: Exception) -> tuple[StoreError, bool]:
    """Classifies a failure; returns True as second value if it is temporary."""
    detail = f"{type(error).__name__}: {error}".splitlines()[0]
    if type(error).__name__ in _CUT_SHORT:
        return StoreError("cut short", detail), True
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return StoreError("server error", f"status {status}"), status in _TEMPORARY
    if isinstance(error, PermissionError):
        return StoreError("server error", detail), False
    return StoreError("unreachable", detail), True
