"""Milliseconds to frames, visibility, and latency computed by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from streamnest.encoder import EncoderConfig, FastConformer
from streamnest.encoder.context import STYLES, Context
from streamnest.errors import UserError
from streamnest.frontend import LogMel
from streamnest.latency import find_leaks, latency_report, require_no_leak

FRAMES = torch.arange(24)


def encoder(**settings: object) -> FastConformer:
    kwargs = {"d_model": 16, "num_layers": 3, "num_heads": 2, "subsampling_channels": 4, **settings}
    return FastConformer(EncoderConfig(**kwargs))  # type: ignore[arg-type]


@given(left=st.none() | st.integers(0, 12), right=st.none() | st.integers(0, 5))
def test_regular_context_is_exactly_the_window(left: int | None, right: int | None) -> None:
    visible = Context(left, right, "regular").visible(FRAMES, FRAMES)
    for i in range(24):
        for j in range(24):
            expected = (left is None or i - j <= left) and (right is None or j - i <= right)
            assert bool(visible[i, j]) is expected


@given(chunks=st.none() | st.integers(0, 4), right=st.integers(0, 5))
def test_chunked_context_is_its_chunk_and_whole_chunks_before(chunks: int | None, right: int) -> None:
    size = right + 1
    visible = Context(None if chunks is None else chunks * size, right).visible(FRAMES, FRAMES)
    for i in range(24):
        for j in range(24):
            back = i // size - j // size
            assert bool(visible[i, j]) is (back >= 0 and (chunks is None or back <= chunks))


@given(frame=st.integers(0, 23), right=st.integers(0, 5), style=st.sampled_from(STYLES))
def test_last_visible_frame_agrees_with_the_mask(frame: int, right: int, style: str) -> None:
    context = Context(None, right, style)
    visible = context.visible(torch.tensor([frame]), torch.arange(40))[0]
    assert int(visible.nonzero().max()) == context.last_visible(frame)


def test_a_context_of_half_a_frame_is_refused() -> None:
    with pytest.raises(UserError, match="nearest legal values are 0 and 80 ms"):
        Context.from_ms(None, 40, 80)


@pytest.mark.parametrize(
    ("settings", "mean", "worst"),
    [
        ({"right_context_ms": 0}, 22.5, 42.5),
        ({"right_context_ms": 0, "left_context_ms": 3200}, 22.5, 42.5),
        ({"right_context_ms": 40}, 42.5, 82.5),
        ({"right_context_ms": 0, "subsampling_padding": "shifted"}, 32.5, 52.5),
        ({"right_context_ms": 0, "subsampling_padding": "shifted", "subsampling_factor": 8}, 52.5, 92.5),
        ({"right_context_ms": 40, "style": "regular"}, 22.5 + 3 * 40, 42.5 + 3 * 40),
        ({"right_context_ms": 40, "style": "delayed"}, 62.5, 82.5),
        # Frames of a chunk of 160 ms wait for 160 to 40 ms of it and for 80 ms after it.
        ({"right_context_ms": 80, "style": "buffered", "chunk_ms": 160}, 162.5, 242.5),
    ],
)
def test_algorithmic_latency_equals_values_computed_by_hand(
    settings: dict[str, object], mean: float, worst: float
) -> None:
    report = latency_report(encoder(**settings), LogMel())
    assert (report.latency_mean_ms, report.latency_worst_ms) == (mean, worst)


def test_an_offline_encoder_has_infinite_latency_and_no_leak() -> None:
    offline = encoder(conv_padding="symmetric", conv_norm="batch_norm", normalize="utterance")
    report = latency_report(offline, LogMel(), causal_features=False)
    assert math.isinf(report.latency_worst_ms)
    assert not report.streams
    assert find_leaks(offline, report) == []


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"normalize": "utterance"}, "normalize=utterance"),
        ({"conv_padding": "symmetric"}, "conv_padding=symmetric"),
        ({"conv_norm": "batch_norm"}, "conv_norm=batch_norm"),
        ({"style": "regular", "right_context_ms": 40}, "adds up over 3 layers to 120 ms"),
    ],
)
def test_a_leaking_streaming_preset_is_refused_unless_allowed(setting: dict[str, object], reason: str) -> None:
    leaking = encoder(**{"right_context_ms": 0, **setting})
    report = latency_report(leaking, LogMel(), leaking.normalize != "utterance")
    with pytest.raises(UserError, match=reason):
        require_no_leak(leaking, report)
    allowed = encoder(**{"right_context_ms": 0, **setting, "allow_future_leak": True})
    assert len(require_no_leak(allowed, report)) == 1


def test_symmetric_convolutions_add_up_in_the_look_ahead() -> None:
    report = latency_report(encoder(right_context_ms=0, conv_padding="symmetric"), LogMel())
    assert report.context_ms == 3 * 4 * 40
