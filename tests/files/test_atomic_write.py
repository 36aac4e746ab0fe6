"""Files are written atomically."""

from __future__ import annotations

import ast
import json
import os
from pathlib import Path

import pytest

from streamnest.files.atomic_write import open_own, whole, write_json, write_whole


def test_readers_see_the_old_file_until_it_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "made" / "file.txt"
    with whole(path) as part:
        part.write_text("old")
    with whole(path) as part:
        part.write_text("new")
        written = part.stat().st_ino
        assert path.read_text() == "old"
    assert path.read_text() == "new" and path.stat().st_ino == written, "moved, not written a second time"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.txt"]


def test_json_is_written_to_a_new_folder(tmp_path: Path) -> None:
    path, content = tmp_path / "made" / "a.json", {"text": "größer", "worst": None}
    write_json(path, content)
    assert json.loads(path.read_text(encoding="utf-8")) == content
    assert [entry.name for entry in path.parent.iterdir()] == ["a.json"]


def _fail_half_way(path: Path) -> None:
    with whole(path) as part:
        part.write_text("half")
        raise ZeroDivisionError


def test_a_failed_write_leaves_only_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError):
        _fail_half_way(path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_link_at_the_path_of_a_part_is_ignored(tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "out/file.txt"
    victim.write_text("mine")
    path.parent.mkdir()
    for name in (".file.txt.part", "file.txt.part"):
        (path.parent / name).symlink_to(victim)
    write_whole(path, "new")
    assert victim.read_text() == "mine" and path.read_text() == "new" and not path.is_symlink()


def test_a_link_at_the_path_of_a_lock_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic link"):
        open_own(tmp_path / "lock", os.O_RDWR)
    assert not (tmp_path / "victim").exists()


def test_only_parts_of_killed_processes_are_removed(tmp_path: Path) -> None:
    old, used = tmp_path / ".file.txt.0a.part", tmp_path / ".file.txt.0b.part"
    for part in (old, used):
        part.write_text("half")
    os.utime(old, (0, 0))
    write_whole(tmp_path / "file.txt", "new")
    assert {entry.name for entry in tmp_path.iterdir()} == {"file.txt", used.name}


def test_several_writers_of_one_file_do_not_share_a_part(tmp_path: Path) -> None:
    with whole(tmp_path / "a") as first, whole(tmp_path / "a") as second:
        assert first != second
        first.write_text("1")
        second.write_text("2")
    assert (tmp_path / "a").read_text() == "1" and len(list(tmp_path.iterdir())) == 1


def test_file_modes_follow_the_umask_and_long_names_fit(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / ("ö" * 120), "text")
    finally:
        os.umask(before)
    assert (tmp_path / ("ö" * 120)).stat().st_mode & 0o777 == 0o640


def test_every_text_file_is_opened_with_its_encoding() -> None:
    root = Path(__file__).resolve().parents[2]
    missing = [
        f"{path.relative_to(root)}:{call.lineno}"
        for path in [*root.glob("src/**/*.py"), *root.glob("scripts/*.py")]
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and _opens_text(call) and all(k.arg != "encoding" for k in call.keywords)
    ]
    assert not missing


def _opens_text(call: ast.Call) -> bool:
    """True for a call that reads or writes a text file without an explicit encoding."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    if name == "read_text":
        return not call.args
    if name == "write_text":
        return len(call.args) < 2
    first = 0 if isinstance(call.func, ast.Attribute) and name == "open" else 1
    mode = getattr(call.args[first], "value", "") if len(call.args) > first else "r" if first else ""
    return name in ("open", "fdopen") and mode in ("r", "w", "a", "x", "rt", "wt", "at", "r+", "w+")


def test_names_that_are_not_utf8_are_written_and_read_back(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"file": "caf\udce9.wav é"})
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == {"file": "caf\udce9.wav é"}
