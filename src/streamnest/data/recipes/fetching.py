"""Download of a file over HTTP that continues where it stopped.

Lhotse's `resumable_download` appends the whole file if a server ignores the requested range, takes a connection that
was closed early for the end of the file, waits without limit, and leaves an incomplete file under the final name.
"""

from __future__ import annotations

import shutil
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from streamnest.errors import UserError

Progress = Callable[[str, int, int | None], None]
"""Receives the name of the file, the bytes so far, and the total if it is known."""
# Attempts in a row that fail without a single new byte, and the seconds before the second one, doubled each time.
ATTEMPTS, PAUSE = 5, 1.0
_TIMEOUT = 60.0
_BLOCK = 1 << 20
# Errors of the file system are none of these, and not worth another attempt.
_OF_NETWORK = (urllib.error.URLError, ConnectionError, TimeoutError, ssl.SSLError, HTTPException)


def fetch(url: str, path: Path, progress: Progress) -> None:
    """Downloads to `PATH.part`, continues it if it exists, and renames it to `path` when it is complete.

    Args:
        url: address of the file.
        path: file to write; if it exists, nothing is requested.
        progress: callback for each block.

    Raises:
        UserError: if the server refuses, the network fails repeatedly, or the disk is too small.
    """
    if path.exists():
        return
    part = path.with_name(f"{path.name}.part")
    failures, size = 0, _size(part)
    while True:
        try:
            _continue(url, part, progress)
            break
        except _OF_NETWORK as error:
            if _is_final(error):
                raise UserError(f"{url}: {_reason(error)}; --base-url selects a mirror") from error
            failures = 1 if _size(part) > size else failures + 1
            size = _size(part)
            if failures == ATTEMPTS:
                kept = f"; {size:,} bytes are kept in {part}" if size else ""
                raise UserError(
                    f"{url}: cannot be downloaded: {_reason(error)}{kept}; the same command continues, and --base-url "
                    "selects a mirror"
                ) from error
            time.sleep(PAUSE * 2 ** (failures - 1))
    part.replace(path)


def _continue(url: str, part: Path, progress: Progress) -> None:
    """Requests what is missing and appends it; starts again if the server sends the whole file."""
    size = _size(part)
    headers = {"User-Agent": "streamnest", **({"Range": f"bytes={size}-"} if size else {})}
    try:
        response: HTTPResponse = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        if error.headers.get("Content-Range", "") == f"bytes */{size}":
            return
        part.unlink()
        raise ConnectionError("the file on the server is another one now; starting again") from error
    with response:
        range_of_response = response.headers.get("Content-Range", "")
        continued = response.status == HTTPStatus.PARTIAL_CONTENT and range_of_response.startswith(f"bytes {size}-")
        size = size if continued else 0
        length = response.headers.get("Content-Length")
        total = size + int(length) if length else None
        _require_space(part.parent, url, total, size)
        with part.open("r+b" if continued else "wb") as file:
            file.seek(size)
            progress(part.stem, size, total)
            while block := response.read(_BLOCK):
                file.write(block)
                size += len(block)
                progress(part.stem, size, total)
    if total is not None and size != total:
        raise ConnectionError(f"the connection was closed after {size:,} of {total:,} bytes")


def _require_space(folder: Path, url: str, total: int | None, size: int) -> None:
    """Refuses a disk without space for the archive and its content, which is at least as large as the archive."""
    free = shutil.disk_usage(folder).free
    needed = 2 * (total or 0) - size
    if needed > free:
        raise UserError(
            f"{folder}: {free / 1e9:.1f} GB are free, but {url} and its content need at least {needed / 1e9:.1f} GB: "
            "choose a folder on another disk with --to"
        )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _is_final(error: BaseException) -> bool:
    """Tells if another attempt is useless, because the server refuses the request."""
    if not isinstance(error, urllib.error.HTTPError):
        return False
    return error.code < HTTPStatus.INTERNAL_SERVER_ERROR and error.code != HTTPStatus.TOO_MANY_REQUESTS


def _reason(error: BaseException) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"status {error.code} ({error.reason})"
    return str(getattr(error, "reason", None) or error or type(error).__name__)
