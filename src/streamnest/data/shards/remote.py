"""Shards in an object store, over a network that fails now and then."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from streamnest.errors import UserError

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

    def path(self, name: str) -> Path | None:
        """See `Store`."""
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
