"""Gradients through recomputed activations equal those of the plain arithmetic."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from streamnest.encoder import EncoderConfig, FastConformer, subsampling
from streamnest.encoder.attention import RelativeAttention, relative_positions
from streamnest.encoder.dropout import Dropout
from streamnest.encoder.layer import FeedForward
from streamnest.encoder.subsampling import Subsampling


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("bias", [True, False])
def test_the_feed_forward_module_has_the_gradients_of_its_formula(bias: bool) -> None:
    torch.manual_seed(0)
    module = FeedForward(6, 12, 0.3, bias).double().train()
    x, weights = noise(2, 5, 6).requires_grad_(), list(module.parameters())
    torch.manual_seed(1)
    out = module(x)
    torch.manual_seed(1)
    hidden = module.expand(x)
    keep, scale = module.dropout.sample(hidden)
    assert keep is not None
    plain = module.contract(F.silu(hidden) * keep * scale)
    torch.testing.assert_close(out, plain)
    got = torch.autograd.grad((out * noise(2, 5, 6, seed=1)).sum(), [x, *weights])
    expected = torch.autograd.grad((plain * noise(2, 5, 6, seed=1)).sum(), [x, *weights])
    torch.testing.assert_close(got, expected)


def test_dropout_passes_the_gradient_of_kept_elements() -> None:
    x = noise(3, 7).requires_grad_()
    out = Dropout(0.5).train()(x)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(gradient * x, out)
    assert 0 < int((gradient == 0).sum()) < 21


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("scheme", ["aligned", "shifted"])
def test_recomputed_and_divided_subsampling_equals_the_plain_one(
    factor: int, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    module = Subsampling(16, factor, 6, 8, scheme).double()
    x, lengths = noise(3, 16, 37).requires_grad_(), torch.tensor([37, 24, 3])
    outputs, gradients = [], []
    for elements, training in ((1, True), (1 << 22, True), (1 << 22, False)):
        monkeypatch.setattr(subsampling, "_CPU_ELEMENTS", elements)
        out, _ = module.train(training)(x, lengths)
        assert out.shape[1] == int(module.num_frames(lengths).max())
        outputs.append(out)
        gradients.append(torch.autograd.grad(out.square().sum(), [x, *module.parameters()]))
    for out, gradient in zip(outputs[:2], gradients[:2], strict=True):
        torch.testing.assert_close(out, outputs[2])
        torch.testing.assert_close(gradient, gradients[2])


def test_attention_in_training_equals_attention_in_evaluation() -> None:
    torch.manual_seed(0)
    attention = RelativeAttention(8, 2).double()
    x, positions = noise(2, 5, 8), relative_positions(5, 5, 8, noise(1))
    mask = torch.ones(5, 5, dtype=torch.bool).tril()[None, None].repeat(2, 1, 1, 1)
    mask[1, :, :, 3:] = mask[1, :, 3:] = False  # the second row ends after three frames
    trained, _ = attention.train()(x, positions, mask)
    used, _ = attention.eval()(x, positions, mask)
    torch.testing.assert_close(trained[0], used[0])
    torch.testing.assert_close(trained[1, :3], used[1, :3])
    assert trained.isfinite().all()


def test_activation_checkpointing_keeps_gradients_with_dropout() -> None:
    found = []
    for again in (False, True):
        torch.manual_seed(0)
        encoder = FastConformer(
            EncoderConfig(
                d_model=16,
                num_layers=2,
                num_heads=2,
                subsampling_channels=4,
                activation_checkpointing=again,
                dropout=0.3,
            )
        ).double()
        x = noise(2, 80, 40).requires_grad_()
        torch.manual_seed(1)
        out, _ = encoder.train()(x, torch.tensor([40, 23]))
        found.append((out, *torch.autograd.grad(out.square().sum(), [x, *encoder.parameters()])))
    torch.testing.assert_close(found[0], found[1])
