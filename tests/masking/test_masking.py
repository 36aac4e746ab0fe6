"""Positions and share of random masks, and their dependence on the key alone."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from streamnest.errors import UserError
from streamnest.masking import LiveEdgeMasking, NoMasking, RandomBlockMasking, build_masking
from streamnest.objectives import MaskedPrediction

DRAWS = 2000
NEST = {"mask_prob": 0.01, "block_size": 40, "allow_overlap": True}
SLOTTED = {"mask_prob": 0.5, "block_size": 40, "allow_overlap": False}


def draw(masking: RandomBlockMasking, lengths: list[int], seed: int = 0, **kwargs: object) -> torch.Tensor:
    keys = torch.arange(len(lengths)) + 1_000_003 * seed
    return masking.sample(torch.tensor(lengths), max(lengths), keys=keys, **kwargs)  # type: ignore[arg-type]


def run_lengths(row: torch.Tensor) -> list[int]:
    edges = torch.diff(torch.nn.functional.pad(row.int(), (1, 1))).nonzero().flatten().tolist()
    return [end - start for start, end in zip(edges[::2], edges[1::2])]


@pytest.mark.parametrize(
    ("mode", "length", "ratio", "frame_ratio", "none_masked"),
    [
        (NEST, 100, 0.215, 0.200, 0.533),
        (NEST, 200, 0.258, 0.230, 0.207),
        (NEST, 400, 0.299, 0.268, 0.038),
        (NEST, 800, 0.318, 0.287, 0.002),
        (NEST, 1600, 0.322, 0.290, 0.0),
        (SLOTTED, 200, 0.600, 0.566, 0.0),
        (SLOTTED, 400, 0.500, 0.466, 0.0),
        (SLOTTED, 800, 0.500, 0.469, 0.0),
        (SLOTTED, 1600, 0.500, 0.468, 0.0),
    ],
)
def test_random_masks_cover_the_same_share_as_nest(
    mode: dict[str, object], length: int, ratio: float, frame_ratio: float, none_masked: float
) -> None:
    mask = draw(RandomBlockMasking(80, **mode), [length] * DRAWS)
    frames = MaskedPrediction(8, 4).select(mask, torch.full((DRAWS,), length), 8)
    for found, expected in ((mask, ratio), (frames, frame_ratio)):
        # The reference is a mean of 400 samples; the tolerance is four standard errors.
        spread = 4 * float(found.float().mean(1).std()) / math.sqrt(400) + 1e-3
        assert float(found.float().mean()) == pytest.approx(expected, abs=spread)
    spread = 4 * math.sqrt(none_masked * (1 - none_masked) / 400) + 4e-3
    assert float((~frames.any(1)).float().mean()) == pytest.approx(none_masked, abs=spread)


def test_overlapping_spans_have_full_size_and_spare_the_last_frame() -> None:
    mask = draw(RandomBlockMasking(80, **NEST), [400] * 500)
    assert not mask[:, -1].any()
    assert mask[:, -2].any()
    lengths = [length for row in mask for length in run_lengths(row)]
    assert min(lengths) == 40
    assert max(lengths) > 60


def test_spans_without_overlap_are_whole_and_their_number_exact() -> None:
    mask = draw(RandomBlockMasking(80, **SLOTTED), [800] * 500)
    assert all(length % 40 == 0 for row in mask for length in run_lengths(row))
    assert set(mask.sum(1).tolist()) == {400}
    assert len(set(map(tuple, mask.tolist()))) > 490


@pytest.mark.parametrize("length", [51, 60, 100])
def test_difficult_lengths_are_masked_inside_the_utterance(length: int) -> None:
    mask = draw(RandomBlockMasking(80, **SLOTTED), [length, 400] * 50)
    assert mask[::2, :length].any(1).all()
    assert not mask[::2, length:].any()


@settings(max_examples=150, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 260), min_size=1, max_size=4),
    overlap=st.booleans(),
    block=st.integers(1, 60),
    prob=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_masks_never_lie_in_padding(lengths: list[int], overlap: bool, block: int, prob: float, seed: int) -> None:
    masking = RandomBlockMasking(80, mask_prob=prob, block_size=block, allow_overlap=overlap)
    mask = draw(masking, lengths, seed) if max(lengths) else torch.zeros(len(lengths), 0)
    assert not (mask.bool() & (torch.arange(mask.shape[1]) >= torch.tensor(lengths)[:, None])).any()


@pytest.mark.parametrize("mode", [NEST, SLOTTED])
def test_a_short_utterance_gets_one_span_at_its_start(mode: dict[str, object]) -> None:
    mask = draw(RandomBlockMasking(80, **mode), [50, 5, 51])
    assert mask[0].nonzero().flatten().tolist() == list(range(8))
    assert mask[1].nonzero().flatten().tolist() == list(range(5))
    assert not torch.equal(mask[2], mask[0])


@settings(max_examples=150, deadline=None)
@given(
    length=st.integers(60, 300),
    left=st.sampled_from([-1, 0, 8, 50, 120]),
    current=st.integers(0, 320),
    overlap=st.booleans(),
    seed=st.integers(0, 99),
)
def test_causal_masks_lie_in_the_half_open_window(
    length: int, left: int, current: int, overlap: bool, seed: int
) -> None:
    masking = RandomBlockMasking(
        80, mask_prob=0.2, block_size=10, allow_overlap=overlap, causal=True, left_context_size=left
    )
    mask = draw(masking, [length, 300], seed, current_frame=torch.tensor([current, 300]))[0]
    end = min(current, length)
    start = max(0, end - left) if left > 0 else 0
    assert not mask[:start].any() and not mask[end:].any()
    assert mask[start:end].any() == (end - start > 0) or overlap


@pytest.mark.parametrize("overlap", [True, False])
def test_masks_treat_a_live_edge_as_an_ordinary_end(overlap: bool) -> None:
    masking = RandomBlockMasking(80, mask_prob=0.3, block_size=10, allow_overlap=overlap, causal=True)
    masks = draw(masking, [200] * 300, current_frame=120)
    whole = draw(masking, [120] * 300)
    assert not masks[:, 120:].any()
    assert torch.equal(masks[:, :120], whole) and whole[:, 117].any()


def test_live_edges_per_row_equal_one_for_all_rows() -> None:
    masking = RandomBlockMasking(80, **SLOTTED, causal=True, left_context_size=90)
    one = draw(masking, [200, 300], current_frame=150)
    each = draw(masking, [200, 300], current_frame=torch.tensor([150, 150]))
    assert torch.equal(one, each) and one.any()


def test_causal_masks_without_edge_and_window_equal_ordinary_masks() -> None:
    lengths = [300, 120, 55, 10]
    ordinary = draw(RandomBlockMasking(80, **NEST), lengths)
    assert torch.equal(draw(RandomBlockMasking(80, **NEST, causal=True), lengths), ordinary)
    assert ordinary.any()


@pytest.mark.parametrize("mode", [NEST, SLOTTED])
def test_a_mask_depends_on_its_key_only(mode: dict[str, object]) -> None:
    masking, keys = RandomBlockMasking(80, **mode), torch.tensor([5, 6, 7])
    lengths = torch.tensor([200, 130, 90])
    together = masking.sample(lengths, 200, keys=keys)
    for row in range(3):
        alone = masking.sample(lengths[row : row + 1], int(lengths[row]), keys=keys[row : row + 1])
        assert torch.equal(together[row, : lengths[row]], alone[0])
    assert torch.equal(masking.sample(lengths.flip(0), 200, keys=keys.flip(0)), together.flip(0))
    assert not torch.equal(masking.sample(lengths, 200, keys=keys + 1), together)


@pytest.mark.parametrize(("value", "freeze", "trainable"), [(None, True, 0), (None, False, 1), (0.5, False, 0)])
def test_masked_frames_get_the_embedding_and_others_stay(value: float | None, freeze: bool, trainable: int) -> None:
    masking = RandomBlockMasking(80, **SLOTTED, mask_value=value, freeze=freeze)
    features = torch.randn(2, 80, 200)
    masked, mask = masking(features, torch.tensor([200, 120]))
    assert masked.shape == mask.shape == features.shape
    hidden = mask.bool()
    assert torch.equal(masked[~hidden], features[~hidden])
    assert torch.equal(masked[0].t()[hidden[0, 0]], masking.mask_embedding.expand(int(hidden[0, 0].sum()), 80))
    assert (mask == mask[:, :1]).all()
    assert sum(p.requires_grad for p in masking.parameters()) == trainable
    assert "mask_embedding" in masking.state_dict()


def test_live_edges_are_sampled_for_their_share_in_training_only() -> None:
    masking = LiveEdgeMasking(RandomBlockMasking(80, **NEST, causal=True), 0.5, 0.25)
    lengths, keys = torch.full((DRAWS,), 400), torch.arange(DRAWS)
    edges = masking.sample_edges(lengths, keys)
    early = edges < 400
    assert float(early.float().mean()) == pytest.approx(0.5, abs=0.05)
    assert int(edges.min()) >= 100 and int(edges[early].median()) == pytest.approx(250, abs=20)
    trained = masking.train().sample(lengths, 400, keys=keys)
    assert not (trained & (torch.arange(400) >= edges[:, None])).any()
    assert not torch.equal(trained, masking.eval().sample(lengths, 400, keys=keys))
    assert torch.equal(masking.sample(lengths, 400, keys=keys), masking.masking.sample(lengths, 400, keys=keys))


def test_no_masking_masks_nothing() -> None:
    features = torch.randn(1, 80, 60)
    masked, mask = NoMasking()(features, torch.tensor([60]))
    assert torch.equal(masked, features) and not mask.any()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"mask_prob": 1.5}, "mask_prob=1.5"),
        ({"block_size": 0}, "block_size=0"),
        ({"max_mask_ratio": 0.0}, "max_mask_ratio"),
        ({"feat_in": 0}, "feat_in=0"),
    ],
)
def test_values_out_of_range_are_refused_by_name(setting: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        RandomBlockMasking(**{"feat_in": 80, **setting})


def test_invalid_live_edges_and_unknown_kinds_are_refused() -> None:
    with pytest.raises(UserError, match="causal=True"):
        draw(RandomBlockMasking(80), [100], current_frame=50)
    with pytest.raises(UserError, match="negative"):
        draw(RandomBlockMasking(80, causal=True), [100], current_frame=-1)
    with pytest.raises(UserError, match="random, causal, none"):
        build_masking("sideways", 0.0, 0.5)
