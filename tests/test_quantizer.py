"""Codes: parity with fixtures, nearest code, reproducibility, bounded memory, fitting and usage statistics."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from streamnest import code_usage
from streamnest.errors import UserError
from streamnest.probing.linear_probe import shared_information
from streamnest.quantizer import (
    RandomProjectionQuantizer,
    count_codes,
    principal_directions,
    spherical_kmeans,
)

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.mark.parametrize("name", ["bidirectional_8x", "chunked_4x_8_1"])
def test_codes_equal_the_fixture(name: str) -> None:
    case = torch.load(FIXTURES / f"targets_{name}.pt", weights_only=True)
    books, classes, dim = case["quantizer"]["codebooks"].shape
    quantizer = RandomProjectionQuantizer(80, case["args"]["factor"], classes, books, dim)
    quantizer.projection.copy_(case["quantizer"]["proj.weight"])
    quantizer.codebooks.copy_(case["quantizer"]["codebooks"])
    assert torch.equal(quantizer(case["features"]), case["codes"])


def test_the_code_is_nearest_to_the_normalized_projection() -> None:
    quantizer, features = RandomProjectionQuantizer(80, 4, 50, 3, 16, seed=1), torch.randn(2, 80, 40)
    stacked = features.transpose(1, 2).reshape(2, 10, 320)
    projected = (stacked @ quantizer.projection.t()).view(2, 10, 3, 1, 16)
    distance = (torch.nn.functional.normalize(projected, dim=-1) - quantizer.codebooks).norm(dim=-1)
    assert torch.equal(quantizer(features), distance.argmin(-1))


def test_a_code_depends_on_its_whole_target_frame_only() -> None:
    quantizer, features = RandomProjectionQuantizer(80, 8, 500), torch.randn(1, 80, 47)
    codes = quantizer(features)
    assert codes.shape == (1, 5, 1)
    changed = features.clone()
    changed[..., 16:24] = torch.randn(80, 8)
    differs = (quantizer(changed) != codes)[0, :, 0].tolist()
    assert differs == [False, False, True, False, False]


def test_targets_depend_on_their_own_seed_only() -> None:
    first = RandomProjectionQuantizer(seed=3)
    torch.randn(1000)
    again, other = RandomProjectionQuantizer(seed=3), RandomProjectionQuantizer(seed=4)
    assert torch.equal(first.codebooks, again.codebooks) and torch.equal(first.projection, again.projection)
    assert not torch.equal(first.codebooks, other.codebooks)
    torch.testing.assert_close(first.codebooks.norm(dim=-1), torch.ones(1, 8192))
    assert not list(first.parameters()) and set(first.state_dict()) == {"projection", "codebooks"}


def test_codes_are_computed_in_float32_under_autocast() -> None:
    quantizer, features = RandomProjectionQuantizer(80, 4, 4096), torch.randn(2, 80, 400)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quantizer(features), RandomProjectionQuantizer(80, 4, 4096)(features))


def test_the_search_uses_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0
    original = torch.Tensor.argmax

    def watched(self: torch.Tensor, *args: object) -> torch.Tensor:
        nonlocal largest
        largest = max(largest, self.numel())
        return original(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.Tensor, "argmax", watched)
    RandomProjectionQuantizer(80, 4, 8192, 2, 16)(torch.randn(4, 80, 2000))
    assert 0 < largest <= 1 << 22


def test_wrong_features_and_sizes_are_refused() -> None:
    with pytest.raises(UserError, match="80"):
        RandomProjectionQuantizer(80)(torch.zeros(1, 64, 16))
    with pytest.raises(UserError, match="num_codebooks=0"):
        RandomProjectionQuantizer(num_codebooks=0)


def test_counts_and_entropy_are_those_of_the_codes() -> None:
    codes = torch.tensor([[0, 3], [0, 3], [1, 3], [1, 3]])
    counts = count_codes(codes, 4)
    assert counts.tolist() == [[2, 2, 0, 0], [0, 0, 0, 4]]
    assert code_usage.entropy(counts) == pytest.approx(math.log(2) / 2)


def test_the_unigram_baseline_lies_at_or_above_the_entropy() -> None:
    targets = torch.tensor([[5.0, 3.0, 2.0, 0.0]])
    assert code_usage.unigram_cross_entropy(targets * 1000, targets) == pytest.approx(
        code_usage.entropy(targets), abs=1e-3
    )
    shifted = code_usage.unigram_cross_entropy(torch.tensor([[1.0, 1.0, 1.0, 97.0]]), targets)
    assert shifted > code_usage.entropy(targets)


def test_effective_rank_of_independent_and_repeated_frames() -> None:
    torch.manual_seed(0)
    assert code_usage.effective_rank(torch.randn(4000, 16)) > 15.5
    assert code_usage.effective_rank(torch.randn(4000, 1) @ torch.randn(1, 16)) < 1.5


def speech_blocks(count: int = 4000, seed: int = 0) -> torch.Tensor:
    """Returns stacked features `(N, 2 * 6)` in five noisy groups within a subspace of three dimensions."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(5, 3, generator=generator) @ torch.randn(3, 12, generator=generator)
    group = torch.arange(count) % 5
    return centers[group] + 0.05 * torch.randn(count, 12, generator=generator)


def fitted(codes: str, **sizes: int) -> RandomProjectionQuantizer:
    """Returns a quantizer fitted to `speech_blocks`."""
    quantizer = RandomProjectionQuantizer(feat_in=6, stack=2, codes=codes, **{"num_classes": 5, "code_dim": 3, **sizes})
    quantizer.fit(speech_blocks())
    return quantizer


def codes_of(quantizer: RandomProjectionQuantizer, blocks: torch.Tensor) -> torch.Tensor:
    """Returns the codes of stacked features `(N, 12)`."""
    return quantizer(blocks.reshape(-1, 6).t()[None])[0]


def test_only_fitted_codes_find_the_groups_of_speech() -> None:
    blocks, group = speech_blocks(500, seed=0), torch.arange(500) % 5
    told = {
        kind: shared_information(codes_of(fitted(kind, num_classes=15), blocks)[:, 0], group)
        for kind in ("kmeans", "random")
    }
    assert told["kmeans"] > 0.75
    assert told["random"] < told["kmeans"]


def test_stacked_features_are_those_that_codes_are_computed_from() -> None:
    quantizer, features = RandomProjectionQuantizer(feat_in=6, stack=2), torch.randn(3, 6, 9)
    blocks = quantizer.stacked(features)
    assert blocks.shape == (3, 4, 12)
    assert torch.equal(blocks[1, 2], torch.cat([features[1, :, 4], features[1, :, 5]]))


def test_principal_directions_are_unit_ordered_and_reproducible() -> None:
    directions, spread = principal_directions(speech_blocks(), 3)
    torch.testing.assert_close(directions @ directions.t(), torch.eye(3), rtol=0, atol=1e-5)
    assert spread.tolist() == sorted(spread.tolist(), reverse=True)
    assert (directions.gather(1, directions.abs().argmax(1, keepdim=True)) > 0).all()
    projected = speech_blocks() @ directions.t()
    torch.testing.assert_close(projected.std(0), spread, rtol=1e-3, atol=1e-3)


def test_pca_projections_have_equal_variance() -> None:
    quantizer = fitted("pca")
    torch.testing.assert_close((speech_blocks() @ quantizer.projection.t()).std(0), torch.ones(3), rtol=1e-3, atol=1e-3)


def test_each_center_is_the_mean_direction_of_its_points() -> None:
    points = torch.nn.functional.normalize(speech_blocks(), dim=-1)
    centers = spherical_kmeans(points, clusters=4, seed=0)
    nearest = (points @ centers.t()).argmax(-1)
    for number, center in enumerate(centers):
        mean = torch.nn.functional.normalize(points[nearest == number].sum(0), dim=0)
        torch.testing.assert_close(center, mean, rtol=0, atol=1e-4)


def test_fitting_is_reproducible_and_codebooks_differ() -> None:
    one, two = fitted("kmeans", num_codebooks=2), fitted("kmeans", num_codebooks=2)
    assert torch.equal(one.codebooks, two.codebooks)
    assert not torch.equal(one.codebooks[0], one.codebooks[1])


def test_codes_of_a_checkpoint_are_not_fitted_again() -> None:
    first = fitted("kmeans")
    second = RandomProjectionQuantizer(feat_in=6, stack=2, num_classes=5, code_dim=3, codes="kmeans")
    second.load_state_dict(first.state_dict())
    assert not second.to_be_fitted
    second.fit(speech_blocks(seed=9))
    assert torch.equal(second.codebooks, first.codebooks)


def test_random_codes_keep_the_state_of_earlier_checkpoints() -> None:
    assert set(RandomProjectionQuantizer().state_dict()) == {"projection", "codebooks"}


def test_too_little_speech_for_fitting_warns_or_fails(caplog: pytest.LogCaptureFixture) -> None:
    quantizer = RandomProjectionQuantizer(feat_in=6, stack=2, num_classes=50, code_dim=3, codes="kmeans")
    with pytest.raises(UserError, match=r"2 frames .* raise statistics\.hours"):
        quantizer.fit(speech_blocks(2))
    quantizer.fit(speech_blocks(20))
    assert "50 codes are fitted to only 20 frames" in caplog.text
    assert torch.isfinite(quantizer.codebooks).all()


def test_unknown_codes_are_refused() -> None:
    with pytest.raises(UserError, match="choose one of random, pca, kmeans"):
        RandomProjectionQuantizer(codes="learned")
