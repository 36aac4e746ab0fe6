"""A file is there whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from streamnest.files import whole, write_json


def test_the_old_file_is_read_until_the_new_one_is_moved_to_its_place(tmp_path: Path) -> None:
    path = tmp_path / "made" / "file.txt"
    with whole(path) as part:
        part.write_text("old")
    with whole(path) as part:
        part.write_text("new")
        written = part.stat().st_ino
        assert path.read_text() == "old"
    assert path.read_text() == "new" and path.stat().st_ino == written, "moved, not written a second time"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.txt"]


def test_json_is_written_into_a_folder_that_was_not_there_and_read_back(tmp_path: Path) -> None:
    path, content = tmp_path / "made" / "a.json", {"text": "größer", "worst": None}
    write_json(path, content)
    assert json.loads(path.read_text(encoding="utf-8")) == content
    assert [entry.name for entry in path.parent.iterdir()] == ["a.json"]


def _fail_half_way(path: Path) -> None:
    with whole(path) as part:
        part.write_text("half")
        raise ZeroDivisionError


def test_what_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError):
        _fail_half_way(path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
