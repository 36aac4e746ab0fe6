"""Codes of utterances in a database on disk, so that a teacher runs once per utterance instead of once per epoch."""

from __future__ import annotations

import logging
import os
import sqlite3
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from streamnest.files.cache_folder import cache_folder, make_private

log = logging.getLogger(__name__)

Codes = NDArray[Any]
ResultT = TypeVar("ResultT")

# Seconds between two writes, and rows that are kept in memory at most until a write succeeds.
_PERIOD, _MOST_WAITING = 5.0, 10_000
# Seconds to wait for another process that writes, and keys of one query.
_TIMEOUT, _MOST_KEYS = 10.0, 500
_CHECKSUM = 4
# Messages of SQLite about files with wrong content; the last one is about a file that was emptied while it was open.
_DAMAGE = ("malformed", "not a database", "no such table")


class CodeCache:
    """Codes by the hash of the audio, one SQLite file for each teacher and set of centers.

    Several processes may share a file. Rows are written in transactions: a process that is killed loses only the rows
    of the last seconds. Each row has a checksum; a damaged one is counted, recomputed and replaced. If the file cannot
    be used, codes are computed without it.

    Args:
        folder: folder of the file; "auto" is a folder in the cache of streamnest.
        identity: hash of everything besides the audio that determines the codes.
        num_classes: codes per codebook.
        num_codebooks: codes per frame.

    Attributes:
        hits: number of utterances that were found.
        misses: number of utterances that were not.
        damaged: number of damaged rows that were found.
    """

    def __init__(self, folder: str, identity: str, num_classes: int, num_codebooks: int) -> None:
        self.identity, self.num_classes, self.num_codebooks = identity, num_classes, num_codebooks
        self._kind = np.dtype(next(t for t in ("<u1", "<u2", "<u4") if num_classes - 1 <= np.iinfo(t).max))
        root = cache_folder() if folder == "auto" else Path(folder).expanduser()
        self.path = root / f"teacher-{identity}.sqlite"
        self.hits = self.misses = self.damaged = 0
        self._waiting: dict[bytes, bytes] = {}
        self._written = time.monotonic()
        self._database: sqlite3.Connection | None = None
        self._process, self._file, self._usable = 0, 0, True

    def __deepcopy__(self, memo: dict[int, Any]) -> CodeCache:
        return self

    def read(self, hashes: Sequence[bytes]) -> dict[bytes, Codes]:
        """Returns the codes `(T, num_codebooks)` int64 of those hashes that are known."""
        stored = {name: self._waiting[name] for name in hashes if name in self._waiting}
        wanted = list({name for name in hashes if name not in stored})
        stored |= self._attempt(lambda database: _select(database, wanted)) or {}
        decoded = {name: self._decoded(content) for name, content in stored.items()}
        known = {name: codes for name, codes in decoded.items() if codes is not None}
        found = sum(name in known for name in hashes)
        self.damaged += len(decoded) - len(known)
        self.hits, self.misses = self.hits + found, self.misses + len(hashes) - found
        return known

    def write(self, rows: Mapping[bytes, Codes]) -> None:
        """Adds codes `(T, num_codebooks)` by hash; they reach the disk within seconds, or with `flush`."""
        if not self._usable:
            return
        self._waiting |= {name: self._encoded(codes) for name, codes in rows.items()}
        if time.monotonic() - self._written > _PERIOD:
            self.flush()

    def flush(self) -> None:
        """Writes rows that are waiting."""
        self._written, rows = time.monotonic(), list(self._waiting.items())
        if not rows:
            return
        written = self._attempt(lambda database: _insert(database, rows))
        if written or len(rows) > _MOST_WAITING:
            self._waiting = {}

    def summary(self) -> str:
        """Returns the share of hits as text."""
        total = self.hits + self.misses
        damaged = f", {self.damaged} damaged entries recomputed" if self.damaged else ""
        return f"{self.hits / max(1, total):.1%} of {total:,} utterances from the cache{damaged}"

    def _encoded(self, codes: Codes) -> bytes:
        content = np.ascontiguousarray(codes).astype(self._kind).tobytes()
        return zlib.crc32(content).to_bytes(_CHECKSUM, "little") + content

    def _decoded(self, content: Any) -> Codes | None:
        """Returns the codes of a row; None if it is damaged."""
        if not isinstance(content, bytes) or (len(content) - _CHECKSUM) % (self._kind.itemsize * self.num_codebooks):
            return None
        data = content[_CHECKSUM:]
        if zlib.crc32(data).to_bytes(_CHECKSUM, "little") != content[:_CHECKSUM]:
            return None
        codes = np.frombuffer(data, self._kind).astype(np.int64).reshape(-1, self.num_codebooks)
        return codes if not len(codes) or codes.max() < self.num_classes else None

    def _attempt(self, action: Callable[[sqlite3.Connection], ResultT]) -> ResultT | None:
        """Runs an action on the database; None if it fails, after which codes are computed instead."""
        if not self._usable:
            return None
        try:
            return action(self._connected())
        except (sqlite3.Error, OSError) as error:
            self._failed(error)
            return None

    def _connected(self) -> sqlite3.Connection:
        """Returns the connection of this process, which forked processes must not share."""
        if self._database is None or self._process != os.getpid():
            make_private(self.path.parent)
            self._database, self._process = sqlite3.connect(self.path, timeout=_TIMEOUT), os.getpid()
            with self._database:
                self._database.execute("CREATE TABLE IF NOT EXISTS codes (hash BLOB PRIMARY KEY, codes BLOB NOT NULL)")
            self._file = self.path.stat().st_ino
        return self._database

    def _failed(self, error: Exception) -> None:
        reason = f"{self.path}: {error}"
        if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
            log.warning("%s: another process is writing; some codes are computed again", reason)
        elif isinstance(error, sqlite3.DatabaseError) and any(words in str(error) for words in _DAMAGE):
            self.damaged += 1
            log.warning("%s: the file is damaged and is replaced; its codes are computed again", reason)
            self._replace()
        else:
            self._usable, self._waiting = False, {}
            log.warning("%s: codes are not cached; free space, or choose another folder with quantizer.cache", reason)

    def _replace(self) -> None:
        """Moves a damaged file aside, unless another process has done so."""
        if self._database is not None:
            self._database.close()
        self._database = None
        with suppress(OSError):
            if self._file in (0, self.path.stat().st_ino):
                self.path.with_name(f"{self.path.name}-journal").unlink(missing_ok=True)
                self.path.replace(self.path.with_suffix(".damaged"))


def _select(database: sqlite3.Connection, hashes: Sequence[bytes]) -> dict[bytes, Any]:
    rows: dict[bytes, Any] = {}
    for start in range(0, len(hashes), _MOST_KEYS):
        some = hashes[start : start + _MOST_KEYS]
        marks = ",".join("?" * len(some))
        rows |= database.execute(f"SELECT hash, codes FROM codes WHERE hash IN ({marks})", some).fetchall()
    return rows


def _insert(database: sqlite3.Connection, rows: Sequence[tuple[bytes, bytes]]) -> bool:
    with database:
        database.executemany("INSERT OR REPLACE INTO codes VALUES (?, ?)", rows)
    return True
