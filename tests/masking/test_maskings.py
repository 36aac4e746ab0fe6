"""Share and positions of multiscale masks and of masked ends of chunks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from models import ready
from omegaconf import DictConfig
from torch import Tensor

from streamnest.errors import UserError
from streamnest.formatting import masking_in_words
from streamnest.masking import ChunkMasking, LiveEdgeMasking, MultiscaleMasking, RandomBlockMasking

Compose = Callable[..., DictConfig]
SIZES = (8, 16, 32, 64)


def runs(row: Tensor) -> list[int]:
    edges = torch.diff(torch.nn.functional.pad(row.int(), (1, 1))).nonzero().flatten().tolist()
    return [end - start for start, end in zip(edges[::2], edges[1::2])]


@pytest.mark.parametrize("mix", ["utterance", "block"])
def test_spans_of_several_sizes_mask_the_requested_share(mix: str) -> None:
    masking = MultiscaleMasking(80, SIZES, mask_share=0.4, mix=mix)
    mask = masking.sample(torch.full((300,), 3200), 3200, keys=torch.arange(300))
    # Away from the ends, because no span starts before the utterance or ends after it.
    assert float(mask[:, 64:-64].float().mean()) == pytest.approx(0.4, abs=0.01)
    shortest = {min(runs(row)) for row in mask}
    assert {8} == shortest if mix == "block" else set(SIZES) <= shortest


def test_each_size_masks_the_share_of_that_size_alone() -> None:
    keys, lengths = torch.arange(200), torch.full((200,), 1000)
    for size in SIZES:
        several = MultiscaleMasking(80, (size,), mask_share=0.3).sample(lengths, 1000, keys=keys)
        alone = RandomBlockMasking(80, 1 - 0.7 ** (1 / size), size, allow_overlap=True)
        shares = [float(mask.float().mean()) for mask in (several, alone.sample(lengths, 1000, keys=keys + 1000))]
        assert shares[0] == pytest.approx(shares[1], abs=0.02)


def test_sizes_depend_on_the_key_and_spans_end_at_edges() -> None:
    masking = LiveEdgeMasking(MultiscaleMasking(80, SIZES, causal=True), live_edge_prob=1.0, live_edge_min_fraction=0.5)
    lengths, keys = torch.tensor([900, 500, 700]), torch.tensor([5, 6, 7])
    together = masking.sample(lengths, 900, keys=keys)
    for row in range(3):
        alone = masking.sample(lengths[row : row + 1], int(lengths[row]), keys=keys[row : row + 1])
        assert torch.equal(together[row, : lengths[row]], alone[0])
        assert together[row].any() and not together[row, masking.sample_edges(lengths, keys)[row] :].any()
    assert not torch.equal(together, masking.sample(lengths, 900, keys=keys + 10))


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=3),
    stack=st.sampled_from([4, 8]),
    frames=st.integers(2, 9),
    min_unmasked=st.floats(0.05, 0.95),
    own=st.booleans(),
)
def test_masks_are_the_ends_of_chunks_in_whole_encoder_frames(
    lengths: list[int], stack: int, frames: int, min_unmasked: float, own: bool
) -> None:
    size = frames * stack
    masking = ChunkMasking(80, stack, 0.8, min_unmasked, size if own else None)
    mask = masking.sample(
        torch.tensor(lengths), max(lengths), keys=torch.arange(len(lengths)), chunk=None if own else size
    )
    for row, length in enumerate(lengths):
        assert not mask[row, length:].any()
        for chunk in mask[row, : length // size * size].view(-1, size):
            unmasked = int((~chunk).sum())
            assert not chunk[:unmasked].any() and unmasked % stack == 0
            assert unmasked >= min(size - stack, min_unmasked * size - 1e-3)


def test_chunks_are_masked_with_the_requested_share_and_lengths() -> None:
    mask = ChunkMasking(80, 4, mask_prob=0.7, min_unmasked=0.5).sample(
        torch.full((50,), 1600), 1600, keys=torch.arange(50), chunk=32
    )
    masked = mask.view(-1, 32).sum(1)
    assert float((masked > 0).float().mean()) == pytest.approx(0.7, abs=0.03)
    assert {int(n) for n in masked} == {0, 4, 8, 12, 16}
    assert float(masked[masked > 0].float().mean()) == pytest.approx(10, abs=0.5)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["encoder=causal", "masking=chunk"], "the chunk is 4 feature frames: set masking.chunk_frames"),
        (["encoder=bidirectional", "masking=chunk"], "the chunk is the whole utterance"),
        (["encoder=dynamic", "masking=chunk"], "the chunk is 4 feature frames"),
        (["masking=chunk", "masking.chunk_frames=30"], "the nearest are 28 and 32"),
        (["masking=chunk", "masking.min_unmasked=1"], "min_unmasked"),
        (["masking=multiscale", "masking.mask_share=1"], "mask_share"),
        (["masking=multiscale", "masking.block_sizes=[]"], "block_sizes"),
        (["masking=multiscale", "masking.mix=row"], "utterance or block"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_impossible_maskings_are_refused(run_config: Compose, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ready(run_config(*overrides))


def test_chunk_masking_refuses_a_live_edge() -> None:
    with pytest.raises(UserError, match="ends at a live edge"):
        ChunkMasking(80, 4).sample(torch.tensor([40]), 40, 20, chunk=8)


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ("multiscale", "spans of 80 to 640 ms over about 40% of frames; 50% of utterances at the live edge"),
        ("chunk", "the ends of 80% of chunks; 50% of each chunk stays unmasked"),
    ],
)
def test_the_start_panel_describes_the_masking(composed: Compose, choice: str, words: str) -> None:
    assert masking_in_words(instantiate(composed(f"masking={choice}").masking), 10.0) == words
