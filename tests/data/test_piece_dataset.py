"""Reading of pieces of recordings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from corpus import data_module, make_cut, tone, write_manifest
from lhotse.cut import MonoCut

from streamnest.data import dataset
from streamnest.data.batch import Batch
from streamnest.data.manifest import load_cuts
from streamnest.data.piece_dataset import MARGIN
from streamnest.data.shards.plan import make_plan
from streamnest.data.shards.writing import write_shards

PIECE = 12800


def load(manifest: Path, rows: int = 1, **settings: Any) -> list[Batch]:
    """Reads one epoch."""
    limits = {"min_duration": 0.1, "max_bad_share": 1.0, "max_skipped_share": 1.0}
    data = data_module(manifest, piece_s=0.8, batch_duration=0.8 * rows, **limits, **settings)
    data.setup()
    data.config.num_batches = data._pieces(data._dataset("train"), None, 0).epoch_steps
    return list(data.train_dataloader())


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Two recordings; a long pause in the first makes two of its pieces constant."""
    audio = tone(6.37)
    audio[30000:62000] = 0
    cuts = [make_cut(tmp_path, "a", audio, speaker="x"), make_cut(tmp_path, "b", tone(3.0, 1))]
    return write_manifest(tmp_path / "cuts.jsonl", cuts)


@pytest.mark.parametrize("sharded", [False, True], ids=["files", "shards"])
def test_pieces_with_their_neighborhood_are_the_recordings(manifest: Path, tmp_path: Path, sharded: bool) -> None:
    whole = {"a": tone(6.37), "b": tone(3.0, 1)}
    whole["a"][30000:62000] = 0
    if sharded:
        cuts, _ = load_cuts(manifest, max_duration=60)
        write_shards(cuts, str(tmp_path / "shards"), make_plan(cuts, "flac", 4))
    seen = set()
    for batch in load(tmp_path / "shards" if sharded else manifest, rows=2):
        assert batch.seams is not None and not batch.skipped and batch.clean.shape == (2, PIECE)
        for row, name in enumerate(batch.ids):
            recording, number = name.split("/")
            seen.add(name)
            first, last = bool(batch.seams.first[row]), bool(batch.seams.last[row])
            audio, start = np.pad(whole[recording], (MARGIN, 2 * PIECE)), int(number) * PIECE
            before, after = batch.seams.before[row], batch.seams.after[row]
            length, more = int(batch.lengths[row]), int(batch.seams.after_lengths[row])
            expected = audio[start : start + 2 * MARGIN + PIECE].copy()
            expected[:MARGIN] *= not first
            got = torch.cat([before, batch.clean[row], after]).numpy()
            np.testing.assert_allclose(got, expected, atol=1e-4 if sharded else 0)
            assert length + more == min(len(whole[recording]) - start, PIECE + MARGIN)
            assert last == (more < MARGIN)
    assert seen == {f"a/{i}" for i in range(8)} | {f"b/{i}" for i in range(4)}


def test_only_the_samples_of_a_piece_are_read(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    durations: list[float] = []
    load_mono = dataset.load_mono

    def noted(cut: MonoCut, channel: Any) -> Any:
        durations.append(cut.duration)
        return load_mono(cut, channel)

    monkeypatch.setattr(dataset, "load_mono", noted)
    load(manifest)
    assert len(durations) == 12 and max(durations) <= 0.8 + 0.2 + 1e-9


def test_unreadable_pieces_become_silence_and_are_counted(manifest: Path) -> None:
    path = manifest.parent / "b.wav"
    path.write_bytes(path.read_bytes()[:100_000])
    found = {name: batch for batch in load(manifest) for name in batch.ids}
    lost = [name for name, batch in found.items() if batch.skipped]
    assert lost and all(name.startswith("b/") for name in lost) and found["b/0"].clean.any()
    assert all(not found[name].clean.any() and found[name].lengths[0] for name in lost)
