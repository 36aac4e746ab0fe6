"""The cache of codes: shared by processes, safe to kill, and never wrong."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from streamnest.targets.cache import CodeCache


def codes(seed: int, classes: int = 300, books: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).integers(classes, size=(seed % 7 + 1, books))


def name(number: int) -> bytes:
    return number.to_bytes(16, "big")


def opened(folder: Path) -> CodeCache:
    return CodeCache(str(folder), "identity", 300, 2)


def test_two_processes_share_codes_of_any_length(tmp_path: Path) -> None:
    one, other = opened(tmp_path), opened(tmp_path)
    one.write({name(n): codes(n) for n in range(700)} | {name(999): codes(0)[:0]})
    assert one.read([name(3)])[name(3)].tolist() == codes(3).tolist()
    assert not other.read([name(3)])
    one.flush()
    other.write({name(3): codes(3), name(800): codes(800)})
    other.flush()
    known = other.read([name(n) for n in range(700)] + [name(999), name(5000)])
    assert len(known) == 701 and all(known[name(n)].tolist() == codes(n).tolist() for n in range(700))
    assert one.read([name(800)]) and other.summary().startswith("99.7% of 703 utterances")


def test_a_killed_writer_leaves_whole_rows(tmp_path: Path) -> None:
    script = (
        "import sys; sys.path[:0] = [sys.argv[2]]; from test_code_cache import *\n"
        "cache, n = opened(Path(sys.argv[1])), 0\n"
        "while True:\n"
        "    cache.write({name(k): codes(k) for k in range(n, n + 50)}); cache.flush(); n += 50; print(n, flush=True)\n"
    )
    words = (sys.executable, "-c", script, str(tmp_path), str(Path(__file__).parent))
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout
        written = [int(writer.stdout.readline()) for _ in range(3)][-1]
        writer.send_signal(signal.SIGKILL)
    cache = opened(tmp_path)
    known = cache.read([name(n) for n in range(written)])
    assert len(known) == written and all(known[name(n)].tolist() == codes(n).tolist() for n in range(written))
    assert cache.damaged == 0


def test_a_damaged_row_is_counted_and_replaced(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    cache.write({name(n): codes(n) for n in range(5)})
    cache.flush()
    with sqlite3.connect(cache.path) as database:
        content = database.execute("SELECT codes FROM codes WHERE hash = ?", (name(0),)).fetchone()[0]
        wrong = content[:-1] + bytes([content[-1] ^ 1])
        no_code = cache._encoded(np.full((1, 2), 300))
        for number, bad in ((0, wrong), (1, content[:-1]), (2, "text"), (3, b""), (4, no_code)):
            database.execute("UPDATE codes SET codes = ? WHERE hash = ?", (bad, name(number)))
    again = opened(tmp_path)
    assert again.read([name(n) for n in range(5)]) == {} and again.damaged == 5
    again.write({name(0): codes(0)})
    again.flush()
    assert opened(tmp_path).read([name(0)]) and "5 damaged" in again.summary()


@pytest.mark.parametrize(
    ("content", "at_once"), [(b"garbage" * 20_000, True), (b"garbage" * 20_000, False), (b"", False)]
)
def test_a_damaged_file_is_moved_aside_once(
    tmp_path: Path, content: bytes, at_once: bool, caplog: pytest.LogCaptureFixture
) -> None:
    cache, other = opened(tmp_path), opened(tmp_path)
    assert other.read([name(0)]) == {}
    cache.write({name(n): codes(n) for n in range(2000)})
    cache.flush()
    cache.path.write_bytes(content)
    if at_once:
        cache = opened(tmp_path)
    assert cache.read([name(n) for n in range(2000)]) == {} and "is damaged" in caplog.text
    cache.write({name(1): codes(1)})
    cache.flush()
    assert cache.path.with_suffix(".damaged").exists()
    # A process that has the damaged file open leaves the new one in its place.
    assert len(other.read([name(0)]) | other.read([name(1)])) == 1 and opened(tmp_path).read([name(1)])


def test_a_file_that_another_process_locks_stays_usable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("streamnest.targets.cache._TIMEOUT", 0.01)
    cache = opened(tmp_path)
    assert cache.read([name(1)]) == {}
    with closing(sqlite3.connect(cache.path)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        cache.write({name(1): codes(1)})
        cache.flush()
        assert opened(tmp_path).read([name(1)]) == {} and "another process is writing" in caplog.text
    cache.flush()
    assert opened(tmp_path).read([name(1)])


def test_a_folder_that_cannot_be_used_is_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    cache = opened(tmp_path / "file")
    for _ in range(2):
        assert cache.read([name(1)]) == {}
        cache.write({name(1): codes(1)})
        cache.flush()
    assert caplog.text.count("quantizer.cache") == 1


@pytest.mark.parametrize(("classes", "size"), [(256, 1), (257, 2), (70_000, 4)])
def test_codes_are_stored_in_few_bytes(tmp_path: Path, classes: int, size: int) -> None:
    cache = CodeCache(str(tmp_path), str(classes), classes, 1)
    largest = torch.full((100, 1), classes - 1)
    cache.write({name(0): largest.numpy()})
    assert len(cache._waiting[name(0)]) == 4 + 100 * size
    assert cache.read([name(0)])[name(0)].tolist() == largest.tolist()
