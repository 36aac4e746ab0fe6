"""Re-encoded right context equals windows that are encoded one by one, and costs (C + R) / C of chunked attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from streamnest.encoder import EncoderConfig, FastConformer
from streamnest.encoder.attention import relative_positions
from streamnest.encoder.context import Context
from streamnest.encoder.layer import ConformerLayer
from streamnest.errors import UserError


def buffered(**settings: Any) -> FastConformer:
    torch.manual_seed(0)
    sizes = {"d_model": 16, "num_layers": 3, "num_heads": 2, "subsampling_channels": 4, "conv_kernel_size": 5}
    model = FastConformer(EncoderConfig(**{**sizes, "style": "buffered", **settings})).eval()
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model


def encoded_one_by_one(layer: ConformerLayer, windows: list[Tensor], chunk: int, left: int | None) -> list[Tensor]:
    """Runs a layer on each window by itself; earlier windows contribute the frames of their chunks."""
    keys, taps, outputs = [], [windows[0][:, :0]], []
    for x in windows:
        frames = x.shape[1]
        x = x + 0.5 * layer.feed_forward_in(layer.norm_in(x))
        attended = layer.norm_attention(x)
        past = torch.cat([*keys, attended[:, :0]], dim=1)
        past = past if left is None else past[:, max(0, past.shape[1] - left) :]
        seen = torch.cat([past, attended], dim=1)
        keys.append(attended[:, :chunk])
        positions = relative_positions(seen.shape[1], seen.shape[1], seen.shape[2], seen)
        x = x + layer.attention(seen, positions, None)[0][:, -frames:]
        convolved = layer.norm_convolution(x)
        x = x + layer.convolution(torch.cat([*taps, convolved], dim=1), None)[0][:, -frames:]
        taps.append(convolved[:, :chunk])
        outputs.append(layer.norm_out(x + 0.5 * layer.feed_forward_out(layer.norm_ff_out(x))))
    return outputs


@torch.no_grad()
@pytest.mark.parametrize(("chunk", "right", "left"), [(4, 3, None), (2, 5, 4), (3, 3, 0), (1, 2, 6)])
def test_windows_together_equal_windows_one_by_one(chunk: int, right: int, left: int | None) -> None:
    limits = {"left_context_ms": None if left is None else 40 * left, "right_context_ms": 40 * right}
    model = buffered(chunk_ms=40 * chunk, **limits).double()
    features, length = torch.randn(1, 80, 118, dtype=torch.float64), torch.tensor([118])
    x = model.subsampling(features, length)[0] * model.scale
    windows = [x[:, start : start + chunk + right] for start in range(0, x.shape[1], chunk)]
    for layer in model.layers:
        windows = encoded_one_by_one(layer, windows, chunk, left)
    expected = torch.cat([window[:, :chunk] for window in windows], dim=1)
    torch.testing.assert_close(model(features, length)[0], expected, rtol=0, atol=1e-10)


def test_a_layer_costs_the_share_of_frames_encoded_again() -> None:
    def cost(**settings: Any) -> dict[Any, int]:
        with torch.device("meta"):
            model = FastConformer(EncoderConfig(num_layers=1, left_context_ms=320, **settings))
            with FlopCounterMode(display=False) as counter:
                model(torch.zeros(1, 80, 3200), torch.tensor([3200]))
        return counter.get_flop_counts()["FastConformer.layers.0"]

    chunked = cost(style="chunked", right_context_ms=120)
    again = cost(style="buffered", chunk_ms=160, right_context_ms=80)
    linear = torch.ops.aten.addmm
    assert again[linear] == 1.5 * chunked[linear]
    assert sum(again.values()) / sum(chunked.values()) == pytest.approx(1.5, rel=0.01)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"conv_padding": "symmetric"}, "choose conv_padding=causal"),
        ({"conv_norm": "batch_norm"}, "conv_norm=layer_norm or frozen_batch_norm"),
        ({"chunk_ms": 100}, "nearest legal values are 80 and 120 ms"),
        ({"chunk_ms": 0}, "at least one encoder frame"),
        ({"chunk_ms": 160, "style": "chunked"}, "remove it, or choose encoder.style=buffered"),
        ({"chunk_ms": 160, "left_context_ms": 200}, "the nearest are 4 and 8 frames"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        buffered(**{"right_context_ms": 80, **settings})


def test_contexts_of_a_dynamic_encoder_have_their_own_chunk() -> None:
    model = buffered(right_context_ms=80, contexts={"wide": {"right_context_ms": 120, "chunk_ms": 320}, "whole": {}})
    assert model.context == Context(None, 2, "buffered") and model.chunk == 3
    model.use_context("wide")
    assert model.context == Context(None, 3, "buffered", 8)
    assert (model.chunk, model.warmup, model.first_features) == (8, 8, 44)
    model.use_context("whole")
    assert (model.chunk, model.warmup, model.first_features) == (1, 0, 4)
