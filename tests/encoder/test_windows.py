"""Attention in groups of queries equals attention with one mask over all keys, in time linear in the length."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from streamnest.encoder import EncoderConfig, FastConformer, encoder
from streamnest.encoder.context import Context
from streamnest.encoder.windows import Windows, choose_windows

SIZES: dict[str, Any] = {"d_model": 32, "num_layers": 2, "num_heads": 2, "subsampling_channels": 8}


def limited(**settings: Any) -> FastConformer:
    torch.manual_seed(0)
    return FastConformer(EncoderConfig(**{**SIZES, "dropout": 0.0, "dropout_input": 0.0, **settings}))


def small_groups(context: Context, *_: int) -> Windows | None:
    if context.left is None or context.chunk is None:
        return None
    return Windows(max(1, 5 // context.chunk) * context.chunk, context.left, context.lag)


def whole(*_: Any) -> None:
    return None


@pytest.mark.parametrize(
    ("style", "left", "right"),
    [
        *[("chunked", 240, 80), ("chunked", 0, 0), ("chunked", 360, 320), ("delayed", 160, 80), ("regular", 160, 80)],
        ("buffered", 240, 80),
    ],
)
@pytest.mark.parametrize(("precision", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("training", [True, False])
def test_windows_give_outputs_and_gradients_of_one_mask(
    monkeypatch: pytest.MonkeyPatch,
    style: str,
    left: int,
    right: int,
    precision: torch.dtype,
    tolerance: float,
    training: bool,
) -> None:
    model = limited(style=style, left_context_ms=left, right_context_ms=right, dropout_attention=0.0)
    model.to(precision).train(training)
    x, lengths, found = torch.randn(3, 80, 150, dtype=precision).requires_grad_(), torch.tensor([150, 77, 40]), []
    for choose in (whole, small_groups):
        monkeypatch.setattr(encoder, "choose_windows", choose)
        out, frames = model(x, lengths)
        valid = (torch.arange(out.shape[1]) < frames[:, None])[..., None]
        out = torch.where(valid, out, 0)
        weights = torch.linspace(-1, 1, out.numel(), dtype=precision).view_as(out)
        found.append((out, *torch.autograd.grad((out * weights).sum(), [x, *model.parameters()])))
    for expected, got in zip(*found, strict=True):
        torch.testing.assert_close(
            got, expected, rtol=tolerance, atol=tolerance * max(1, float(expected.detach().abs().max()))
        )


@torch.no_grad()
@pytest.mark.parametrize(("style", "left"), [("chunked", 160), ("regular", 160), ("chunked", None), ("buffered", 160)])
def test_long_steps_in_windows_equal_steps_of_one_chunk(
    monkeypatch: pytest.MonkeyPatch, style: str, left: int | None
) -> None:
    model = limited(style=style, left_context_ms=left, right_context_ms=40).double().eval()
    first, chunk = model.first_features, model.chunk * 4
    x, outputs = torch.randn(2, 80, first + 24 * chunk, dtype=torch.float64), []
    for choose, sizes in ((whole, [chunk] * 24), (small_groups, [13 * chunk, 11 * chunk])):
        monkeypatch.setattr(encoder, "choose_windows", choose)
        state, parts = model.init_state(2, max_left_ms=400), []
        for piece in x.split([first, *sizes], dim=-1):
            out, state = model.step(piece, state)
            parts.append(out)
        outputs.append(torch.cat(parts, dim=1))
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-10)


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest tensor that an operator returns."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        sizes = [x.numel() for x in pytree.tree_leaves(out) if isinstance(x, torch.Tensor)]
        self.elements = max(self.elements, *sizes, 0)
        return out


@pytest.mark.parametrize(("style", "right"), [("chunked", 40), ("delayed", 40), ("regular", 40), ("buffered", 40)])
def test_cost_of_limited_attention_grows_linearly(style: str, right: float) -> None:
    def cost(seconds: int, left: float | None) -> tuple[int, int]:
        """Returns operations and elements of the largest tensor, forward and backward."""
        with torch.device("meta"):
            model = limited(left_context_ms=left, right_context_ms=right, style=style)
            with FlopCounterMode(display=False) as counter, LargestTensor() as largest:
                model(torch.zeros(1, 80, 100 * seconds), torch.tensor([100 * seconds])).__getitem__(0).sum().backward()
        return int(counter.get_total_flops()), largest.elements

    for short, long in zip(cost(60, 3200), cost(240, 3200), strict=True):
        assert long / short == pytest.approx(4, rel=0.05)
    for short, long in zip(cost(60, None), cost(240, None), strict=True):
        assert long / short > 8


@pytest.mark.parametrize("left", [40, 80])
def test_short_utterances_and_unlimited_contexts_use_one_mask(left: int) -> None:
    assert choose_windows(Context(left, 0), left, 0, 64) is None
    assert choose_windows(Context(None, 0), 10**5, 0, 64) is choose_windows(Context(left, None), 10**5, 0, 64) is None
    windows, long = choose_windows(Context(left, 1), 10**5, 0, 64), Windows(10**5, 0, 0)
    assert windows is not None and windows.group % 2 == 0
    assert windows.cost(10**5, 64) < long.cost(10**5, 64) / 100


def test_random_numbers_and_checkpointing_agree_in_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "choose_windows", small_groups)
    found = []
    for again in (False, True):
        model = limited(left_context_ms=160, right_context_ms=0, dropout_attention=0.3, activation_checkpointing=again)
        x = torch.ones(2, 80, 90).requires_grad_()
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16):
            out, _ = model.train()(x, torch.tensor([90, 41]))
        found.append((out, *torch.autograd.grad(out.float().square().sum(), [x, *model.parameters()])))
    torch.testing.assert_close(found[0], found[1])
