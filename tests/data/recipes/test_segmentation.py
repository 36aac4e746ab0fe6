from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from layouts import speech

from streamnest.data.recipes.segmentation import FRAME, SegmentLimits, find_segments, find_speech, levels
from streamnest.errors import UserError

# Stretches of some level: quiet, loud, digital silence, of 0.02 to 20 s each.
STRETCHES = st.lists(st.tuples(st.sampled_from([-100.0, -70.0, -45.0, -20.0]), st.integers(1, 1000)), max_size=8)


def as_levels(stretches, seed=0):
    db = np.concatenate([np.full(count, level) for level, count in stretches] or [np.zeros(0)])
    return (db + np.random.default_rng(seed).uniform(-2, 2, len(db))).astype(np.float32)


@settings(max_examples=200, deadline=None)
@given(STRETCHES, st.integers(0, 99), st.integers(5, 500), st.floats(2, 6))
def test_segments_keep_limits_without_overlap_and_contain_all_speech(stretches, seed, shortest, times):
    shortest *= FRAME
    db, limits = as_levels(stretches, seed), SegmentLimits(shortest, shortest * times)
    segments = find_segments(db, limits)
    frames = [(round(start / FRAME), round(end / FRAME)) for start, end in segments]
    assert all(shortest - 1e-6 <= end - start <= limits.longest + 1e-6 for start, end in segments)
    assert all(0 <= start < end <= len(db) for start, end in frames)
    assert all(before[1] <= after[0] for before, after in pairwise(frames))
    if len(db) * FRAME >= shortest + FRAME:
        covered = np.zeros(len(db), bool)
        for start, end in frames:
            covered[start:end] = True
        assert not (find_speech(db) & ~covered).any()


@settings(max_examples=50, deadline=None)
@given(arrays(np.float32, st.integers(0, 300), elements=st.floats(-100, 0, width=32)))
def test_any_levels_can_be_segmented(db):
    for start, end in find_segments(db, SegmentLimits(0.5, 1.0)):
        assert 0 <= start < end <= len(db) * FRAME + 1e-6


def test_segment_boundaries_lie_in_pauses():
    loud, pause = np.full(400, -20.0), np.full(25, -70.0)
    db = np.concatenate([loud, pause, loud, pause, loud]).astype(np.float32)
    cut_at = [end for _, end in find_segments(db, SegmentLimits(2, 9))][:-1]
    assert len(cut_at) == 2 and all(8 <= cut_at[i] - 8.5 * i <= 8.5 for i in range(2))


def test_boundaries_in_noisy_speech_lie_in_pauses():
    clean = speech(300)
    noise = np.random.default_rng(0).standard_normal(len(clean)).astype(np.float32)
    segments = find_segments(levels(clean + 10 ** (-45 / 20) * noise, 16000), SegmentLimits(2, 30))
    assert len(segments) >= 10
    around = [levels(clean[round((end - 0.05) * 16000) :][:1600], 16000).max() for _, end in segments[:-1]]
    assert np.median(around) < -45 and max(around) < -30


def test_long_silence_is_dropped():
    db = np.concatenate([np.full(500, -20.0), np.full(5000, -80.0), np.full(500, -20.0)]).astype(np.float32)
    assert sum(end - start for start, end in find_segments(db, SegmentLimits(2, 15))) < 22


def test_silence_is_not_speech_and_constant_level_is():
    assert not find_segments(np.full(5000, -75, np.float32), SegmentLimits(2, 15))
    steady = find_segments(as_levels([(-20.0, 5000)]), SegmentLimits(2, 15))
    assert sum(end - start for start, end in steady) == pytest.approx(100, abs=1)


def test_speech_is_detected_and_pauses_are_not():
    found = find_speech(levels(speech(30), 16000))
    assert 0.5 < found.mean() < 0.98


def test_limits_that_allow_no_boundary_are_refused():
    with pytest.raises(UserError, match="need 0 < min <= max / 2"):
        SegmentLimits(20, 30)
