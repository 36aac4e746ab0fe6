"""Untrusted archives are imported or refused with a message, in bounded memory."""

from __future__ import annotations

import gzip
import io
import os
import random
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from archives import CONFIGS, NEST, changed, contents, pack
from hostile import flipped, mutated

from streamnest.checkpoint.transfer_report import TransferReport
from streamnest.errors import UserError
from streamnest.files.plain_data import of_file
from streamnest.interop.nemo import archive as archives
from streamnest.interop.nemo import import_nemo
from streamnest.interop.nemo.archive import CONFIG, WEIGHTS, read_archive
from streamnest.interop.nemo.settings import read_settings
from streamnest.interop.nemo.targets import read_targets

ROUNDS = int(os.environ.get("STREAMNEST_FUZZ", "1"))


def test_mutated_configs_are_translated_or_refused(tmp_path: Path) -> None:
    original, rng, outcomes = read_archive(NEST).config, random.Random(21), {"read": 0, "refused": 0}
    for _ in range(400 * ROUNDS):
        config, report = mutated(original, rng), TransferReport(NEST)
        try:
            with of_file(NEST):
                settings = read_settings(config, report)
                read_targets(config, settings, report)
            outcomes["read"] += 1
        except UserError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 10, outcomes
    print(outcomes)


def test_mutated_archives_import_or_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng, outcomes = random.Random(22), {"imported": 0, "refused": 0}
    for _ in range(12 * ROUNDS):

        def change(config: dict[str, Any], weights: dict[str, torch.Tensor]) -> None:
            changes = mutated(dict(config), rng)
            config.clear()
            config |= changes if isinstance(changes, dict) else {}

        outcomes[outcome(changed(tmp_path / "a.nemo", change))] += 1
    assert not Path("owned").exists()
    print(outcomes)


def outcome(path: Path) -> str:
    try:
        import_nemo(path, CONFIGS)
    except UserError as error:
        return "refused" if str(path) in str(error) else "a message without the file"
    return "imported"


def test_flipped_bytes_of_an_archive_are_refused_or_harmless(tmp_path: Path) -> None:
    rng, whole, path, refused = random.Random(23), NEST.read_bytes(), tmp_path / "a.nemo", 0
    good = read_archive(NEST).weights
    for _ in range(60 * ROUNDS):
        path.write_bytes(flipped(whole, rng))
        try:
            weights = read_archive(path).weights
            assert all(torch.equal(value, weights[name]) for name, value in good.items())
        except UserError:
            refused += 1
    assert refused > 30 * ROUNDS
    print(refused)


@pytest.mark.parametrize(
    "text",
    [b"a: " + b"[" * 5000, b"a: 2026-99-99", b"a: !!binary '@'", b"? [a]\n: 1\n", b"a: 1:1:1" + b":1" * 3000, b"\x00"],
    ids=["deep", "date", "binary", "key", "sexagesimal", "zero"],
)
def test_odd_yaml_is_refused(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(UserError, match=r"a\.nemo"):
        import_nemo(pack(tmp_path / "a.nemo", contents() | {CONFIG: text}), CONFIGS)


def test_a_config_larger_than_its_weights_is_refused(tmp_path: Path) -> None:
    def grow(config: dict[str, Any], weights: dict[str, torch.Tensor]) -> None:
        config["encoder"] |= {"d_model": 16384, "n_heads": 8, "subsampling_conv_channels": 8192}

    with pytest.raises(UserError, match=r"a\.nemo: the config describes .* weights, but only"):
        import_nemo(changed(tmp_path / "a.nemo", grow), CONFIGS)


def test_a_small_file_with_large_content_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "SMALL_BYTES", 1 << 20)
    bomb = pack(tmp_path / "a.nemo", {"zeros": bytes(8 << 20)}, "w:gz")
    with pytest.raises(UserError, match="declares more than"):
        read_archive(bomb)
    header = tarfile.TarInfo("././@PaxHeader")
    header.type, header.size = tarfile.XHDTYPE, 1 << 33
    bomb.write_bytes(gzip.compress(header.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20)))
    with pytest.raises(UserError, match=r"a header of \d+ bytes"):
        read_archive(bomb)


@pytest.mark.parametrize("mode", ["w:", "w:gz", "w:bz2", "w:xz"])
def test_archives_of_each_compression_are_read(tmp_path: Path, mode: str) -> None:
    file = io.BytesIO()
    torch.save({"a": torch.ones(3)}, file)
    members = {CONFIG: yaml.safe_dump({"b": 1}).encode(), WEIGHTS: file.getvalue()}
    assert read_archive(pack(tmp_path / "a.nemo", members, mode)).config == {"b": 1}
