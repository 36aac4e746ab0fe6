"""Codes: equal to the fixtures, the nearest by any measure, reproducible, in bounded memory; and their health."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from streamnest import health
from streamnest.errors import UserError
from streamnest.quantizer import RandomProjectionQuantizer, code_statistics, count_codes

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.mark.parametrize("name", ["bidirectional_8x", "chunked_4x_8_1"])
def test_codes_equal_the_fixture(name: str) -> None:
    case = torch.load(FIXTURES / f"targets_{name}.pt", weights_only=True)
    books, classes, dim = case["quantizer"]["codebooks"].shape
    quantizer = RandomProjectionQuantizer(80, case["args"]["factor"], classes, books, dim)
    quantizer.projection.copy_(case["quantizer"]["proj.weight"])
    quantizer.codebooks.copy_(case["quantizer"]["codebooks"])
    assert torch.equal(quantizer(case["features"]), case["codes"])


def test_the_code_is_the_nearest_by_distance_of_the_normalised_projection() -> None:
    quantizer, features = RandomProjectionQuantizer(80, 4, 50, 3, 16, seed=1), torch.randn(2, 80, 40)
    stacked = features.transpose(1, 2).reshape(2, 10, 320)
    projected = (stacked @ quantizer.projection.t()).view(2, 10, 3, 1, 16)
    distance = (torch.nn.functional.normalize(projected, dim=-1) - quantizer.codebooks).norm(dim=-1)
    assert torch.equal(quantizer(features), distance.argmin(-1))


def test_a_code_depends_on_its_own_block_only_and_an_incomplete_block_has_none() -> None:
    quantizer, features = RandomProjectionQuantizer(80, 8, 500), torch.randn(1, 80, 47)
    codes = quantizer(features)
    assert codes.shape == (1, 5, 1)
    changed = features.clone()
    changed[..., 16:24] = torch.randn(80, 8)
    differs = (quantizer(changed) != codes)[0, :, 0].tolist()
    assert differs == [False, False, True, False, False]


def test_the_same_seed_gives_the_same_targets_whatever_torch_drew_before() -> None:
    first = RandomProjectionQuantizer(seed=3)
    torch.randn(1000)
    again, other = RandomProjectionQuantizer(seed=3), RandomProjectionQuantizer(seed=4)
    assert torch.equal(first.codebooks, again.codebooks) and torch.equal(first.projection, again.projection)
    assert not torch.equal(first.codebooks, other.codebooks)
    torch.testing.assert_close(first.codebooks.norm(dim=-1), torch.ones(1, 8192))
    assert not list(first.parameters()) and set(first.state_dict()) == {"projection", "codebooks"}


def test_codes_are_float32_whatever_the_precision_of_the_run() -> None:
    quantizer, features = RandomProjectionQuantizer(80, 4, 4096), torch.randn(2, 80, 400)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quantizer(features), RandomProjectionQuantizer(80, 4, 4096)(features))


def test_no_tensor_of_the_search_grows_with_frames_times_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0
    original = torch.Tensor.argmax

    def watched(self: torch.Tensor, *args: object) -> torch.Tensor:
        nonlocal largest
        largest = max(largest, self.numel())
        return original(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.Tensor, "argmax", watched)
    RandomProjectionQuantizer(80, 4, 8192, 2, 16)(torch.randn(4, 80, 2000))
    assert 0 < largest <= 1 << 22


def test_features_and_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="80"):
        RandomProjectionQuantizer(80)(torch.zeros(1, 64, 16))
    with pytest.raises(UserError, match="num_books=0"):
        RandomProjectionQuantizer(num_books=0)


def test_coverage_entropy_and_perplexity_are_those_of_the_counts() -> None:
    codes = torch.tensor([[0, 3], [0, 3], [1, 3], [1, 3]])
    counts = count_codes(codes, 4)
    assert counts.tolist() == [[2, 2, 0, 0], [0, 0, 0, 4]]
    found = code_statistics(counts)
    assert found.coverage == pytest.approx(3 / 8)
    assert found.entropy == pytest.approx(math.log(2) / 2)
    assert found.perplexity == pytest.approx((2 + 1) / 2)
    assert health.entropy(counts) == pytest.approx(found.entropy)


def test_the_unigram_baseline_is_no_worse_than_any_smoothing_and_no_better_than_the_entropy() -> None:
    heard = torch.tensor([[5.0, 3.0, 2.0, 0.0]])
    assert health.unigram_cross_entropy(heard * 1000, heard) == pytest.approx(health.entropy(heard), abs=1e-3)
    shifted = health.unigram_cross_entropy(torch.tensor([[1.0, 1.0, 1.0, 97.0]]), heard)
    assert shifted > health.entropy(heard)


def test_the_effective_rank_of_independent_and_of_repeated_frames() -> None:
    torch.manual_seed(0)
    assert health.effective_rank(torch.randn(4000, 16)) > 15.5
    assert health.effective_rank(torch.randn(4000, 1) @ torch.randn(1, 16)) < 1.5
