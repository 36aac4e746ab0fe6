"""The cache of unpacked indices lies in a folder that other users cannot write to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from streamnest.data.shards.store import FolderStore
from streamnest.data.shards.unpacking import plain_copy


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FolderStore:
    monkeypatch.setenv("STREAMNEST_CACHE", str(tmp_path / "cache"))
    np.savez_compressed(tmp_path / "index.npz", a=np.arange(9))
    return FolderStore(tmp_path)


def test_the_cache_folder_is_private(tmp_path: Path, store: FolderStore) -> None:
    copy = plain_copy(store, "index.npz")
    assert copy is not None and copy.parent == tmp_path / "cache"
    assert copy.parent.stat().st_mode & 0o777 == 0o700


def test_a_world_writable_folder_is_not_used(
    tmp_path: Path, store: FolderStore, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    assert plain_copy(store, "index.npz") is None and "your own folder" in caplog.text
    assert not list((tmp_path / "cache").iterdir())


def test_the_lock_does_not_follow_a_symlink(tmp_path: Path, store: FolderStore) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "cache/lock").symlink_to(tmp_path / "victim")
    assert plain_copy(store, "index.npz") is None and (tmp_path / "victim").read_text() == "mine"
