"""`FastStep` computes the same as `FastConformer.step`, also after weights were replaced."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from streamnest.encoder import FastConformer
from streamnest.streaming.fast_step import FastStep

SIZES = {
    "num_mels": 16,
    "d_model": 32,
    "num_layers": 2,
    "num_heads": 2,
    "subsampling_channels": 8,
    "subsampling_factor": 4,
}


def streaming(**settings: object) -> FastConformer:
    torch.manual_seed(0)
    encoder = FastConformer.build(**{**SIZES, "left_context_ms": 400, "right_context_ms": 40, **settings}).eval()
    for parameter in encoder.parameters():  # also those initialized to zeros and ones
        parameter.data += 0.1 * torch.randn_like(parameter)
    return encoder


@torch.no_grad()
def stepped(encoder: FastConformer, fast: FastStep | None = None) -> Tensor:
    """Returns the frames of a few steps of two streams."""
    step = fast or encoder.step
    features = torch.randn(2, encoder.num_mels, 100, generator=torch.Generator().manual_seed(1)).to(
        encoder.subsampling.out.weight.dtype
    )
    first, chunk = encoder.first_features, encoder.chunk * encoder.subsampling.factor
    state, frames = encoder.init_state(2), []
    for start, end in [(0, first), *((n, n + chunk) for n in range(first, 100 - chunk, chunk))]:
        out, state = step(features[..., start:end], state)
        frames.append(out)
    return torch.cat(frames, dim=1)


@pytest.mark.parametrize(
    "settings",
    [{}, {"conv_norm": "frozen_batch_norm"}, {"bias": False}, {"style": "regular"}, {"subsampling_padding": "shifted"}],
)
def test_fast_steps_equal_plain_steps_bit_for_bit(settings: dict[str, object]) -> None:
    encoder = streaming(**settings)
    assert torch.equal(stepped(encoder, FastStep(encoder)), stepped(encoder))


def replace_by_loading(encoder: FastConformer) -> None:
    encoder.load_state_dict({name: 1.5 * value for name, value in encoder.state_dict().items()}, assign=True)


def replace_in_place(encoder: FastConformer) -> None:
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(1.5)


def replace_parameters(encoder: FastConformer) -> None:
    for layer in encoder.layers:
        layer.norm_out.weight = nn.Parameter(1.5 * layer.norm_out.weight)


def replace_untraced(encoder: FastConformer) -> None:
    """Replaces values as averaged weights are swapped in: without a new version number."""
    for parameter in encoder.parameters():
        parameter.data.mul_(1.5)
    encoder.eval()


def replace_by_others(encoder: FastConformer) -> None:
    """Converts the type with new parameters, as some devices need it."""
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        encoder.double()
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)


REPLACEMENTS: dict[str, Callable[[FastConformer], object]] = {
    "loaded": replace_by_loading,
    "changed in place": replace_in_place,
    "new parameters": replace_parameters,
    "changed without a trace": replace_untraced,
    "another precision": lambda encoder: encoder.double(),
    "another precision, other parameters": replace_by_others,
}


@pytest.mark.parametrize("kind", REPLACEMENTS)
def test_replaced_weights_are_used_from_the_next_step(kind: str) -> None:
    encoder, fresh = streaming(conv_norm="frozen_batch_norm"), streaming(conv_norm="frozen_batch_norm")
    fast = FastStep(encoder)
    before = stepped(encoder, fast)
    for model in (encoder, fresh):
        REPLACEMENTS[kind](model)
    after = stepped(encoder, fast)
    assert torch.equal(after, stepped(fresh))
    assert after.dtype == torch.float64 or not torch.equal(after, before)


def test_fast_steps_follow_the_context_of_the_encoder() -> None:
    encoder = streaming(right_context_ms=0, contexts={"later": {"left_context_ms": 400, "right_context_ms": 40}})
    fast = FastStep(encoder)
    encoder.use_context("later")
    assert torch.equal(stepped(encoder, fast), stepped(encoder))


def test_hooks_and_overridden_forwards_are_called() -> None:
    class Doubled(nn.LayerNorm):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    encoder, called = streaming(), list[str]()
    first, last = encoder.layers
    first.norm_in = Doubled(32)
    first.feed_forward_in.expand.register_forward_pre_hook(lambda *_: called.append("before"))
    last.attention.register_forward_hook(lambda *_: called.append("after"))
    frames, fast = stepped(encoder), FastStep(encoder)
    count = len(called)
    assert torch.equal(stepped(encoder, fast), frames)
    assert len(called) == 2 * count and set(called) == {"before", "after"}
