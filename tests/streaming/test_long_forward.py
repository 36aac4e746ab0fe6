"""Offline forward of long recordings in windows, and comparisons with it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from models import ready
from omegaconf import DictConfig

from streamnest.streaming import long_forward
from streamnest.streaming.long_forward import forward_in_windows

SPEECH_S = 9.37


@pytest.fixture(autouse=True)
def _short_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treats audio over a second as long."""
    monkeypatch.setattr(long_forward, "FULL_FORWARD_S", 1.0)


@pytest.mark.parametrize(
    "overrides",
    [
        ("encoder=lookahead40", "encoder.left_context_ms=320"),
        ("encoder=causal", "encoder.left_context_ms=200", "encoder.normalize=online"),
        ("encoder=lookahead40", "encoder.left_context_ms=240", "encoder.style=delayed"),
        (
            "encoder=lookahead40",
            "encoder.left_context_ms=240",
            "encoder.style=regular",
            "encoder.allow_future_leak=true",
        ),
        ("encoder=causal", "encoder.left_context_ms=200", "encoder.subsampling_padding=shifted"),
        ("encoder=lookahead40", "encoder.left_context_ms=320", "encoder.conv_padding=symmetric"),
    ],
)
def test_windows_give_the_frames_of_one_forward(
    run_config: Callable[..., DictConfig], speech_like: Callable[..., torch.Tensor], overrides: tuple[str, ...]
) -> None:
    model = ready(run_config(*overrides)).double()
    audio = speech_like(1, round(16000 * SPEECH_S))[0].double()
    with torch.no_grad():
        whole, valid = model(audio[None], torch.tensor([len(audio)]))
    windows = [frames for (frames,) in forward_in_windows(model, audio)]
    assert len(windows) > 3
    torch.testing.assert_close(torch.cat(windows), whole[0, : int(valid)], rtol=0, atol=1e-11)
