"""The cache of unpacked indices lies where nobody else can put files."""

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


def test_the_folder_is_made_for_its_user_alone(tmp_path: Path, store: FolderStore) -> None:
    copy = plain_copy(store, "index.npz")
    assert copy is not None and copy.parent == tmp_path / "cache"
    assert copy.parent.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_everybody_may_write_to_is_not_used(
    tmp_path: Path, store: FolderStore, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    assert plain_copy(store, "index.npz") is None and "a folder of your own" in caplog.text
    assert not list((tmp_path / "cache").iterdir())


def test_a_link_in_the_place_of_its_lock_is_not_followed(tmp_path: Path, store: FolderStore) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "cache/lock").symlink_to(tmp_path / "victim")
    assert plain_copy(store, "index.npz") is None and (tmp_path / "victim").read_text() == "mine"
