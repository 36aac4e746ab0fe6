"""Receptive field of encoder outputs, and equality of streaming steps and the offline forward."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from streamnest.encoder import EncoderConfig, FastConformer
from streamnest.errors import UserError


def tiny(**settings_: object) -> FastConformer:
    torch.manual_seed(0)
    kwargs = {
        "d_model": 32,
        "num_layers": 3,
        "num_heads": 2,
        "subsampling_channels": 8,
        "right_context_ms": 0,
        **settings_,
    }
    return FastConformer(EncoderConfig(**kwargs)).double().eval()  # type: ignore[arg-type]


def features(batch: int, frames: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(batch, 80, frames, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("scheme", ["aligned", "shifted"])
@pytest.mark.parametrize("factor", [4, 8])
@pytest.mark.parametrize("padding", ["causal", "symmetric"])
def test_padding_and_other_rows_do_not_change_a_row(scheme: str, factor: int, padding: str) -> None:
    encoder = tiny(subsampling_padding=scheme, subsampling_factor=factor, conv_padding=padding)
    x, lengths = features(3, 101), torch.tensor([101, 77, 40])
    together, out_lengths = encoder(x, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone, alone_length = encoder(x[row : row + 1, :, :length], torch.tensor([length]))
        frames = int(out_lengths[row])
        assert int(alone_length) == frames
        torch.testing.assert_close(together[row, :frames], alone[0], rtol=0, atol=1e-10)


def test_garbage_in_the_padding_changes_nothing() -> None:
    encoder, x, lengths = tiny(), features(2, 64), torch.tensor([64, 30])
    spoiled = x.clone()
    spoiled[1, :, 30:] = 1e4
    clean, out_lengths = encoder(x, lengths)
    dirty, _ = encoder(spoiled, lengths)
    torch.testing.assert_close(clean[1, : out_lengths[1]], dirty[1, : out_lengths[1]], rtol=0, atol=1e-12)


@settings(max_examples=12, deadline=None)
@given(
    factor=st.sampled_from([4, 8]),
    chunk=st.integers(1, 3),
    chunks_left=st.integers(1, 4),
    split=st.lists(st.integers(1, 3), min_size=2, max_size=4),
)
def test_steps_of_whole_chunks_equal_the_offline_forward(
    factor: int, chunk: int, chunks_left: int, split: list[int]
) -> None:
    unit = 10.0 * factor
    encoder = tiny(
        subsampling_factor=factor, right_context_ms=(chunk - 1) * unit, left_context_ms=chunks_left * chunk * unit
    )
    pieces = [count * chunk * factor for count in split]
    x = features(2, sum(pieces))
    offline, _ = encoder(x, torch.tensor([sum(pieces)] * 2))
    state, outputs = encoder.init_state(2), []
    for piece in x.split(pieces, dim=-1):
        output, state = encoder.step(piece, state)
        outputs.append(output)
    torch.testing.assert_close(torch.cat(outputs, dim=1), offline, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "setting",
    [
        {"right_context_ms": None},
        {"conv_padding": "symmetric"},
        {"conv_norm": "batch_norm"},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_an_encoder_that_needs_the_end_cannot_step(setting: dict[str, object]) -> None:
    with pytest.raises(UserError, match="cannot stream"):
        tiny(**setting).init_state(1)


def test_an_unlimited_left_context_is_capped_in_streams() -> None:
    state = tiny(right_context_ms=80).init_state(1, max_left_ms=1000)
    assert state.layers[0].attention.past.shape[1] == 24  # 25 frames fit into 1000 ms, 24 of them in whole chunks of 3


def test_features_of_a_wrong_size_are_refused() -> None:
    with pytest.raises(UserError, match=r"80.*64"):
        tiny()(torch.zeros(1, 64, 40, dtype=torch.float64), torch.tensor([40]))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"subsampling_factor": 6}, "power of two"),
        ({"subsampling_padding": "sideways"}, "aligned, shifted"),
        ({"conv_padding": "none"}, "causal, symmetric"),
        ({"conv_norm": "group"}, "layer_norm, batch_norm"),
        ({"style": "sliding"}, "chunked, regular, delayed"),
        ({"style": "delayed", "right_context_ms": None}, "needs encoder.right_context_ms"),
        ({"num_heads": 5}, "multiple of size.num_heads"),
        ({"right_context_ms": 40, "subsampling_factor": 8}, "nearest legal values are 0 and 80 ms"),
        ({"right_context_ms": -40}, "negative"),
        ({"right_context_ms": 80, "left_context_ms": 160}, "nearest are 3 and 6 frames"),
        ({"conv_padding": "symmetric", "conv_kernel_size": 8}, "even"),
    ],
)
def test_inconsistent_settings_are_refused_with_the_remedy(setting: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tiny(**setting)


@pytest.mark.parametrize("factor", [4, 8])
def test_aligned_subsampling_sees_its_target_frame_only(factor: int) -> None:
    encoder = tiny(subsampling_factor=factor)
    x = features(1, 10 * factor).requires_grad_()
    y, _ = encoder.subsampling(x, torch.tensor([10 * factor]))
    (gradient,) = torch.autograd.grad(y[0, 4].sum(), x)
    assert int(gradient.abs().sum((0, 1)).nonzero().max()) == 5 * factor - 1 + encoder.subsampling.lookahead


@pytest.mark.parametrize("factor", [4, 8])
def test_shifted_subsampling_sees_one_frame_of_its_target(factor: int) -> None:
    encoder = tiny(subsampling_factor=factor, subsampling_padding="shifted")
    x = features(1, 10 * factor).requires_grad_()
    y, _ = encoder.subsampling(x, torch.tensor([10 * factor]))
    (gradient,) = torch.autograd.grad(y[0, 4].sum(), x)
    assert (
        int(gradient.abs().sum((0, 1)).nonzero().max()) == 4 * factor == 5 * factor - 1 + encoder.subsampling.lookahead
    )


@pytest.mark.parametrize("style", ["chunked", "delayed"])
@pytest.mark.parametrize("scheme", ["aligned", "shifted"])
def test_an_utterance_without_feature_frames_has_no_encoder_frame(scheme: str, style: str) -> None:
    encoder = tiny(subsampling_padding=scheme, style=style, right_context_ms=80)
    x, lengths = encoder(features(2, 40), torch.tensor([40, 0]))
    assert lengths.tolist() == [10 + encoder.target_shift, 0] and torch.isfinite(x).all()


@torch.no_grad()
def test_weights_replaced_undetected_are_used_after_eval() -> None:
    encoder, x, lengths = tiny(), features(1, 40), torch.tensor([40])
    before = encoder(x, lengths)[0]
    encoder.train()
    for block in encoder.layers:
        weight = block.attention.position.weight
        weight.data.copy_(5 * weight)  # as averaged weights are swapped in: without a new version number
    after = encoder.eval()(x, lengths)[0]
    assert not torch.equal(before, after)
    assert torch.equal(after, copy.deepcopy(encoder)(x, lengths)[0])


def test_dropout_zeroes_its_rate_and_keeps_the_mean() -> None:
    from streamnest.encoder.dropout import Dropout

    torch.manual_seed(0)
    ones = torch.ones(1000, 1001)
    dropped = Dropout(0.1).train()(ones)
    assert abs((dropped == 0).float().mean() - 0.1) < 2e-3
    assert abs(dropped.mean() - 1.0) < 2e-3
    assert torch.equal(Dropout(0.1).eval()(ones), ones)
