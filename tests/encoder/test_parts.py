"""Parts at hand compute what the modules do, as long as these are the same."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from streamnest.encoder import FastConformer
from streamnest.encoder.layer import FeedForward
from streamnest.encoder.parts import at_hand

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
    for parameter in encoder.parameters():  # also those that begin with zeros and ones
        parameter.data += 0.1 * torch.randn_like(parameter)
    return encoder


@torch.no_grad()
def stepped(encoder: FastConformer) -> Tensor:
    """The frames of a few steps of two streams."""
    features = torch.randn(2, encoder.num_mels, 100, generator=torch.Generator().manual_seed(1)).to(
        encoder.subsampling.out.weight.dtype
    )
    first, chunk = encoder.first_features, encoder.chunk * encoder.subsampling.factor
    state, frames = encoder.init_state(2), []
    for start, end in [(0, first), *((n, n + chunk) for n in range(first, 100 - chunk, chunk))]:
        out, state = encoder.step(features[..., start:end], state)
        frames.append(out)
    return torch.cat(frames, dim=1)


@pytest.mark.parametrize(
    "settings",
    [{}, {"conv_norm": "frozen_batch_norm"}, {"bias": False}, {"style": "regular"}, {"subsampling_padding": "shifted"}],
)
def test_steps_with_parts_at_hand_are_the_same_to_the_last_bit(settings: dict[str, object]) -> None:
    encoder = streaming(**settings)
    before = stepped(encoder)
    encoder.keep_at_hand()
    assert torch.equal(stepped(encoder), before)


def replace_by_loading(encoder: FastConformer) -> None:
    encoder.load_state_dict({name: 1.5 * value for name, value in encoder.state_dict().items()}, assign=True)


def replace_in_place(encoder: FastConformer) -> None:
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(1.5)


def replace_after_training(encoder: FastConformer) -> None:
    encoder.train()
    for block in encoder.layers:
        block.norm_out.weight = nn.Parameter(1.5 * block.norm_out.weight)
    encoder.eval()


def replace_by_others(encoder: FastConformer) -> None:
    """As some devices need it."""
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        encoder.double()
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)


REPLACEMENTS: dict[str, Callable[[FastConformer], object]] = {
    "loaded": replace_by_loading,
    "changed in place": replace_in_place,
    "trained": replace_after_training,
    "another precision": lambda encoder: encoder.double(),
    "another precision, other parameters": replace_by_others,
}


@pytest.mark.parametrize("kind", REPLACEMENTS)
def test_weights_that_replace_those_at_hand_are_used_from_the_next_step_on(kind: str) -> None:
    encoder, never = streaming(), streaming()
    encoder.keep_at_hand()
    before = stepped(encoder)
    for model in (encoder, never):
        REPLACEMENTS[kind](model)
    after = stepped(encoder)
    assert torch.equal(after, stepped(never))
    assert after.dtype == torch.float64 or not torch.equal(after, before)


def test_a_copy_has_no_parts_of_the_original_at_hand() -> None:
    encoder, never = streaming(), streaming()
    encoder.keep_at_hand()
    copied, before = copy.deepcopy(encoder), stepped(encoder)
    for model in (copied, never):
        replace_in_place(model)
    assert torch.equal(stepped(encoder), before) and torch.equal(stepped(copied), stepped(never))


def test_what_is_no_plain_layer_is_called_as_it_is() -> None:
    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    class DoubledNorm(nn.LayerNorm):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    class DoubledFeedForward(FeedForward):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            return 2 * super().forward(x)

    for module in (Doubled(4, 4), DoubledNorm(4), DoubledFeedForward(4, 8, 0.0)):
        x = torch.randn(1, 4)
        assert torch.equal(at_hand(module)(x), module(x))
    assert not isinstance(at_hand(nn.Linear(4, 4)), nn.Module)


def test_hooks_of_either_kind_are_called() -> None:
    called: list[str] = []
    before, after = nn.Linear(4, 4), nn.LayerNorm(4)
    before.register_forward_pre_hook(lambda *_: called.append("before"))
    after.register_forward_hook(lambda *_: called.append("after"))
    for module in (before, after):
        at_hand(module)(torch.ones(1, 4))
    assert called == ["before", "after"]
