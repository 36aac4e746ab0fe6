"""A manifest of recordings of several lengths."""

from __future__ import annotations

from pathlib import Path

import pytest
from corpus import make_cut, tone, write_manifest
from recordings import SECONDS


@pytest.fixture(scope="package")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    cuts = [make_cut(folder, f"r{i}", tone(seconds, i), speaker=f"s{i}") for i, seconds in enumerate(SECONDS)]
    return write_manifest(folder / "cuts.jsonl", cuts)
