"""What codes tell of labels, told apart from what they would tell by chance."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from models import ready
from omegaconf import DictConfig

from streamnest.probing.code_plots import draw_code_distances, draw_phones_of_codes, draw_told
from streamnest.probing.codes import code_distances, codes_of, label_blocks, label_shares, other_codes, told
from streamnest.probing.phone_labels import read_utterances

SAMPLE = Path(__file__).parents[2] / "data/sample16k"


def draw(count: int, upto: int, seed: int) -> torch.Tensor:
    return torch.randint(upto, (count,), generator=torch.Generator().manual_seed(seed))


def test_codes_that_are_the_labels_tell_all_and_others_no_more_than_chance() -> None:
    labels = draw(3000, 20, 0)
    all_of_it, nothing = told((labels + 5) % 20, labels), told(draw(3000, 100, 1), labels)
    assert all_of_it.share == pytest.approx(1.0) and all_of_it.chance < 0.05
    assert nothing.share == pytest.approx(nothing.chance, abs=0.01) and nothing.chance > 0.05
    assert (nothing.labels, nothing.frames) == (20, 3000)


def test_frames_without_a_label_do_not_count() -> None:
    labels = draw(1000, 4, 0)
    codes = labels.clone()
    hidden = torch.arange(1000) % 3 == 0
    codes[hidden] = draw(1000, 4, 9)[hidden]
    labels[hidden] = -1
    assert told(codes, labels).share == pytest.approx(1.0)
    assert told(codes, torch.full((1000,), -1)).frames == 0


def test_codes_are_counted_by_label() -> None:
    found = label_shares(torch.tensor([2, 2, 0, 1]), torch.tensor([0, 0, 1, -1]), num_codes=3, num_labels=2)
    assert found.tolist() == [[0, 0, 2], [1, 0, 0]]


def test_labels_with_the_same_codes_are_near_and_those_without_a_common_one_are_1_apart() -> None:
    codes = torch.cat([draw(400, 10, 0), draw(400, 10, 1), 10 + draw(400, 10, 2), draw(50, 10, 3)])
    labels = torch.tensor([0] * 400 + [1] * 400 + [2] * 400 + [3] * 50)
    found = code_distances(codes, labels, num_codes=20, num_labels=4, frames=200)
    assert found[0, 2] == found[2, 1] == pytest.approx(1.0)
    assert float(found[0, 0]) < 0.2 and float(found[0, 1]) < 0.2
    assert found[3].isnan().all()
    names = [t.get_text() for t in draw_code_distances(found, list("abcd"), "title").axes[0].get_xticklabels()]
    assert names == ["a", "b", "c"]


def test_blocks_of_utterances_carry_their_phones_and_speakers(run_config: Callable[..., DictConfig]) -> None:
    model = ready(run_config("encoder=lookahead40"))
    utterances = read_utterances(SAMPLE / "manifest.jsonl", SAMPLE / "phones.jsonl")
    chosen = [next(u for u in utterances if bool(u.phones) == flag) for flag in (True, False)]
    found = label_blocks(model, chosen)
    (start, middle), (same, end) = found.spans
    assert (start, same, end) == (0, middle, len(found.blocks)) and found.blocks.shape[1] == 4 * 80
    assert [found.speaker_names[n] for n in found.speakers[[0, -1]].tolist()] == [u.speaker for u in chosen]
    assert (found.phones[middle:] == -1).all() and (found.phones[:middle] >= 0).float().mean() > 0.5
    own, fitted = codes_of(model.quantizer, found.blocks), other_codes(model.quantizer, "kmeans", 8, found.blocks)
    assert len(own) == len(fitted) == end and int(fitted.max()) < 8 <= int(own.max())


def test_codes_that_stand_for_phones_make_a_diagonal() -> None:
    phones = draw(4000, 6, 0)
    tables = {"alike": label_shares((5 - phones), phones, 6, 6), "mixed": label_shares(draw(4000, 9, 1), phones, 9, 6)}
    axes = draw_phones_of_codes(tables, list("abcdef")).axes
    alike, mixed = (np.asarray(panel.images[0].get_array()) for panel in axes[:2])
    np.testing.assert_array_equal(alike, np.eye(6))
    assert mixed.shape == (6, 9) and mixed.max() < 0.3


def test_bars_show_what_is_told_and_what_of_it_is_chance() -> None:
    labels = draw(500, 5, 0)
    none = torch.full((500,), -1)
    found = {"good": {"phones": told(labels, labels), "speakers": told(labels, none)}}
    axes = draw_told(found).axes[0]
    heights = [bar.get_height() for bar in axes.patches if bar.get_height()]
    assert heights == [pytest.approx(1.0), found["good"]["phones"].chance]
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["5 phones", "chance"]
