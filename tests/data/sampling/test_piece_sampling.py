"""Pieces of recordings: which one each row gets at each step."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from streamnest.data.sampling.piece_sampler import Piece, PieceSampler
from streamnest.data.sampling.samplers import BucketBatchSampler
from streamnest.errors import UserError

DURATIONS = np.random.default_rng(0).uniform(0.5, 60, 40)


def sampler(rows: int = 6, steps: int | None = None, seed: int = 0, **options: Any) -> PieceSampler:
    return PieceSampler(DURATIONS, 8.0, rows, steps, seed, **options)


def test_an_epoch_has_every_piece_about_once() -> None:
    one = sampler()
    for epoch in range(2):
        steps = range(epoch * one.epoch_steps, (epoch + 1) * one.epoch_steps)
        counts = Counter((p.recording, p.number) for step in steps for p in one.pieces(step))
        expected = {(i, n) for i, seconds in enumerate(DURATIONS) for n in range(int(np.ceil((seconds - 0.1) / 8)))}
        assert set(counts) == expected
        assert max(counts.values()) <= 2 and sum(counts.values()) - len(expected) < 6


def test_rows_follow_recordings_until_a_stream_begins() -> None:
    before: list[Piece] = []
    beginnings = 0
    for _, row in sampler(steps=150):
        for now, then in zip(row, before or row, strict=True):
            if now.first:
                beginnings += 1
            else:
                assert (now.recording, now.number) == (then.recording, then.number + 1) and not then.last
        assert all(p.last == (p.number == int(np.ceil((DURATIONS[p.recording] - 0.1) / 8)) - 1) for p in row)
        before = row
    assert beginnings > 100
    assert [p.recording for p in sampler(seed=1).pieces(0)] != [p.recording for p in sampler().pieces(0)]


def test_two_processes_have_the_rows_of_one() -> None:
    halves = [sampler(3, 70, rank=rank, world_size=2) for rank in range(2)]
    for whole, *parts in zip(sampler(6, 70), *halves, strict=True):
        assert whole.pieces == parts[0].pieces + parts[1].pieces


def test_a_resumed_sampler_continues_and_refuses_other_data() -> None:
    whole = list(sampler(steps=80))
    first = sampler(steps=80)
    state = first.state_dict(33)
    second = sampler(steps=80)
    second.load_state_dict(state)
    assert list(second) == whole[33:]
    with pytest.raises(UserError, match=r"the number of streams \(data.batch_duration or processes\) changed"):
        sampler(rows=5, steps=80).load_state_dict(state)
    with pytest.raises(UserError, match="ids or durations of the training set changed"):
        sampler(steps=80, digest=lambda: "other").load_state_dict(state)
    with pytest.raises(UserError, match="was trained on utterances"):
        second.load_state_dict({"step": 3, "batch": 3, "group": 1, "epoch": 9})
    with pytest.raises(UserError, match="position in the data is not valid"):
        second.load_state_dict({**state, "step": -1})
    with pytest.raises(UserError, match=r"was trained with data.piece_s=8.0, and this run trains on utterances"):
        BucketBatchSampler(DURATIONS, 60.0, 8, 2, 10).load_state_dict(state)
    with pytest.raises(UserError, match=r"raise data.batch_duration to data.piece_s or more"):
        sampler(rows=0)
