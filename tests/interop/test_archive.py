"""An untrusted archive is read without executing or unpacking any of its content."""

from __future__ import annotations

import pickle
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from archives import NEST, changed, contents, pack

from streamnest.errors import UserError
from streamnest.interop.nemo import archive as archives
from streamnest.interop.nemo.archive import CONFIG, WEIGHTS, read_archive, write_archive


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize("mode", ["w:", "w:gz"])
@pytest.mark.parametrize("prefix", ["", "./"])
def test_prefixed_names_and_compressed_archives_are_read(tmp_path: Path, mode: str, prefix: str) -> None:
    members = {prefix + name: content for name, content in contents().items()}
    read = read_archive(pack(tmp_path / "a.nemo", {**members, f"{prefix}vocab.txt": b"a\nb\n"}, mode))
    assert read.config["encoder"]["d_model"] == 64
    assert torch.equal(read.weights["quantizer.proj.weight"], read_archive(NEST).weights["quantizer.proj.weight"])
    assert read.others == ["vocab.txt"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (member("../outside.txt"), "points outside"),
        (member("/tmp/outside.txt"), "points outside"),
        (member("a/../../outside.txt"), "points outside"),
        (member("link", tarfile.SYMTYPE, "/etc/passwd"), "not a plain file"),
        (member("hard", tarfile.LNKTYPE, CONFIG), "not a plain file"),
        (member("pipe", tarfile.FIFOTYPE), "not a plain file"),
        (member(f"./{CONFIG}"), "twice"),
    ],
    ids=lambda value: value.name if isinstance(value, tarfile.TarInfo) else None,
)
def test_unsafe_members_are_refused(tmp_path: Path, bad: tarfile.TarInfo, message: str) -> None:
    good = [(tarfile.TarInfo(name), content) for name, content in contents().items()]
    with pytest.raises(UserError, match=message):
        read_archive(pack(tmp_path / "a.nemo", [*good, (bad, b"")]))


@pytest.mark.parametrize(
    ("limit", "value", "message"),
    [
        ("MAX_MEMBERS", 1, "more than 1 members"),
        ("MAX_TOTAL_BYTES", 1000, "more than"),
        ("MAX_BYTES", {CONFIG: 100, WEIGHTS: 1 << 30}, "above the limit of 100"),
    ],
)
def test_size_limits_are_checked_before_reading(
    monkeypatch: pytest.MonkeyPatch, limit: str, value: Any, message: str
) -> None:
    monkeypatch.setattr(archives, limit, value)
    monkeypatch.setattr(archives, "_content", lambda *_: pytest.fail("read"))
    with pytest.raises(UserError, match=message):
        read_archive(NEST)


def test_invalid_archives_are_refused_with_the_reason(tmp_path: Path) -> None:
    whole = NEST.read_bytes()
    cases = {
        "text": (b"hello", "not a valid .nemo archive"),
        "short": (whole[: len(whole) // 2], "truncated|damaged"),
        "empty": (b"", "not a valid .nemo archive"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=message):
            read_archive(tmp_path / name)
    with pytest.raises(UserError, match=f"it has no {WEIGHTS}"):
        read_archive(pack(tmp_path / "half.nemo", {CONFIG: b"a: 1"}))
    with pytest.raises(UserError, match="no archive at"):
        read_archive(tmp_path / "nowhere.nemo")


class Malice:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path("owned").write_text, ("x",))


@pytest.mark.parametrize(
    "evil",
    [
        {WEIGHTS: pickle.dumps(Malice())},
        {CONFIG: b"!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [owned]]"},
        {CONFIG: b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]"},
        {CONFIG: b"- 1"},
        {CONFIG: b"\xff\xfe"},
    ],
    ids=["pickle", "yaml object", "yaml aliases", "yaml list", "no text"],
)
def test_neither_weights_nor_config_are_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evil: dict[str, bytes]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"unsafe|not plain YAML|not a mapping"):
        read_archive(pack(tmp_path / "evil.nemo", contents() | evil))
    assert not Path("owned").exists()


@pytest.mark.parametrize("odd", [{"weight": torch.zeros(2)}, torch.eye(2).to_sparse()], ids=["nested", "sparse"])
def test_weights_other_than_named_tensors_are_refused(tmp_path: Path, odd: Any) -> None:
    def add(config: dict[str, Any], weights: dict[str, Any]) -> None:
        weights["encoder"] = odd

    with pytest.raises(UserError, match="not a named dense tensor"):
        read_archive(changed(tmp_path / "a.nemo", add))


def test_a_failed_write_keeps_the_old_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.nemo"
    write_archive(path, {"a": 1}, {"b": torch.ones(2)})
    monkeypatch.setattr(torch, "save", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_archive(path, {"a": 2}, {"b": torch.zeros(2)})
    assert read_archive(path).config == {"a": 1} and sorted(p.name for p in tmp_path.iterdir()) == ["a.nemo"]
