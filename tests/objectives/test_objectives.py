"""Selection and loss of masked target frames, also without any."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from streamnest.errors import UserError
from streamnest.interop.nemo import heads_state_from_nemo
from streamnest.objectives import MaskedPrediction

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.mark.parametrize("name", ["bidirectional_8x", "chunked_4x_8_1"])
def test_scores_and_loss_equal_the_fixture(name: str) -> None:
    case = torch.load(FIXTURES / f"targets_{name}.pt", weights_only=True)
    books, classes, _ = case["quantizer"]["codebooks"].shape
    objective = MaskedPrediction(case["args"]["d"], classes, books)
    objective.heads.load_state_dict(heads_state_from_nemo(case["decoder"], books))
    encoded = case["encoded"].transpose(1, 2)
    scores = objective.logits(encoded).log_softmax(-1).transpose(2, 3)
    torch.testing.assert_close(scores, case["log_probs"], rtol=0, atol=1e-4)
    selected = objective.select(case["mask"], case["lengths"], case["args"]["factor"])
    result = objective.predict(encoded, case["codes"], selected)
    torch.testing.assert_close(result.loss_sum / result.count, case["loss"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("factor", "masked", "counts"), [(8, 7, True), (8, 6, False), (4, 4, True), (4, 3, False)])
def test_frames_masked_beyond_the_threshold_are_selected(factor: int, masked: int, counts: bool) -> None:
    mask = torch.zeros(1, 3 * factor, dtype=torch.bool)
    mask[0, factor : factor + masked] = True
    selected = MaskedPrediction(8, 4).select(mask, torch.tensor([3 * factor]), factor)
    assert selected.tolist() == [[False, counts, False]]


def test_incomplete_target_frames_are_not_selected() -> None:
    mask = torch.ones(2, 16, dtype=torch.bool)
    selected = MaskedPrediction(8, 4).select(mask, torch.tensor([16, 11]), 4)
    assert selected.tolist() == [[True] * 4, [True, True, False, False]]


def test_without_masked_frames_loss_and_gradients_are_zero() -> None:
    objective, encoded = MaskedPrediction(8, 4, 2), torch.randn(2, 5, 8, requires_grad=True)
    result = objective.predict(encoded, torch.zeros(2, 5, 2, dtype=torch.long), torch.zeros(2, 5, dtype=torch.bool))
    loss = result.loss_sum / max(1, result.count)
    loss.backward()
    assert loss.item() == 0.0 and int(result.count) == 0
    assert encoded.grad is not None and not encoded.grad.any()
    assert objective.heads.weight.grad is not None and not objective.heads.weight.grad.any()


def test_other_frames_change_neither_loss_nor_gradient() -> None:
    objective, codes = MaskedPrediction(8, 4), torch.randint(4, (1, 6, 1))
    selected = torch.tensor([[False, True, True, False, False, True]])
    encoded = torch.randn(1, 6, 8, requires_grad=True)
    objective.predict(encoded, codes, selected).loss_sum.backward()
    assert encoded.grad is not None
    assert (encoded.grad.abs().sum(-1) > 0).tolist() == selected.tolist()


def test_loss_and_accuracy_are_means_over_codebooks() -> None:
    objective = MaskedPrediction(2, 3, 2)
    torch.nn.init.zeros_(objective.heads.weight)
    # Codebook 0 is certain of code 1, codebook 1 of code 2.
    objective.heads.bias.data = torch.tensor([0.0, 50.0, 0.0, 0.0, 0.0, 50.0])
    result = objective.predict(
        torch.zeros(1, 2, 2), torch.tensor([[[1, 2], [1, 0]]]), torch.ones(1, 2, dtype=torch.bool)
    )
    assert float(result.correct) == 1.5
    assert result.loss_sum.item() == pytest.approx(50 / 2)


def test_one_extra_frame_is_cut_and_two_are_refused() -> None:
    objective, codes, selected = MaskedPrediction(8, 4), torch.zeros(1, 5, 1, dtype=torch.long), torch.ones(1, 5) > 0
    assert int(objective.predict(torch.randn(1, 6, 8), codes, selected).count) == 5
    with pytest.raises(UserError, match="7 encoder frames"):
        objective.predict(torch.randn(1, 7, 8), codes, selected)


def test_a_threshold_out_of_range_is_refused() -> None:
    with pytest.raises(UserError, match="mask_threshold"):
        MaskedPrediction(8, 4, mask_threshold=1.0)
