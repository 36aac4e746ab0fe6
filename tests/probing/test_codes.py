"""Information of codes about labels, compared with chance."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from models import ready
from omegaconf import DictConfig

from streamnest.probing.code_plots import plot_code_distances, plot_label_information, plot_phones_of_codes
from streamnest.probing.codes import (
    code_distances,
    codes_of,
    label_information,
    label_shares,
    other_codes,
    read_labeled_frames,
)
from streamnest.probing.phone_labels import read_utterances

SAMPLE = Path(__file__).parents[2] / "data/sample16k"


def sample(count: int, upto: int, seed: int) -> torch.Tensor:
    return torch.randint(upto, (count,), generator=torch.Generator().manual_seed(seed))


def test_codes_equal_to_labels_explain_all_and_random_ones_unrelated() -> None:
    labels = sample(3000, 20, 0)
    equal, unrelated = label_information((labels + 5) % 20, labels), label_information(sample(3000, 100, 1), labels)
    assert equal.share == pytest.approx(1.0) and equal.chance < 0.05
    assert unrelated.share == pytest.approx(unrelated.chance, abs=0.01) and unrelated.chance > 0.05
    assert (unrelated.labels, unrelated.frames) == (20, 3000)


def test_frames_without_a_label_do_not_count() -> None:
    labels = sample(1000, 4, 0)
    codes = labels.clone()
    hidden = torch.arange(1000) % 3 == 0
    codes[hidden] = sample(1000, 4, 9)[hidden]
    labels[hidden] = -1
    assert label_information(codes, labels).share == pytest.approx(1.0)
    assert label_information(codes, torch.full((1000,), -1)).frames == 0


def test_codes_are_counted_by_label() -> None:
    found = label_shares(torch.tensor([2, 2, 0, 1]), torch.tensor([0, 0, 1, -1]), num_codes=3, num_labels=2)
    assert found.tolist() == [[0, 0, 2], [1, 0, 0]]


def test_code_distance_is_0_to_1_from_equal_to_disjoint() -> None:
    codes = torch.cat([sample(400, 10, 0), sample(400, 10, 1), 10 + sample(400, 10, 2), sample(50, 10, 3)])
    labels = torch.tensor([0] * 400 + [1] * 400 + [2] * 400 + [3] * 50)
    found = code_distances(codes, labels, num_codes=20, num_labels=4, frames=200)
    assert found[0, 2] == found[2, 1] == pytest.approx(1.0)
    assert float(found[0, 0]) < 0.2 and float(found[0, 1]) < 0.2
    assert found[3].isnan().all()
    names = [t.get_text() for t in plot_code_distances(found, list("abcd"), "title").axes[0].get_xticklabels()]
    assert names == ["a", "b", "c"]


@pytest.mark.filterwarnings("error")
def test_plots_without_enough_frames_say_so_instead() -> None:
    distances = torch.full((2, 2), float("nan"), dtype=torch.float64)
    missing = label_information(torch.zeros(4), torch.full((4,), -1))
    figures = (
        plot_code_distances(distances, list("ab"), "title"),
        plot_phones_of_codes({"random": torch.ones(2, 3)}, list("ab")),
        plot_label_information({"random": {"phones": missing, "speakers": missing}}),
    )
    reasons = ("Too few frames", "No code has 5 frames", "The utterances have neither")
    for figure, reason in zip(figures, reasons, strict=True):
        figure.canvas.draw()
        (axes,) = figure.axes
        assert axes.texts[0].get_text().startswith(reason) and not axes.images


def test_quantizer_inputs_carry_phones_and_speakers(
    run_config: Callable[..., DictConfig],
) -> None:
    model = ready(run_config("encoder=lookahead40"))
    utterances = read_utterances(SAMPLE / "manifest.jsonl", SAMPLE / "phones.jsonl")
    chosen = [next(u for u in utterances if bool(u.phones) == flag) for flag in (True, False)]
    found = read_labeled_frames(model, chosen)
    (start, middle), (same, end) = found.spans
    assert (start, same, end) == (0, middle, len(found.inputs)) and found.inputs.shape[1] == 4 * 80
    assert [found.speaker_names[n] for n in found.speakers[[0, -1]].tolist()] == [u.speaker for u in chosen]
    assert (found.phones[middle:] == -1).all() and (found.phones[:middle] >= 0).float().mean() > 0.5
    own, fitted = codes_of(model.quantizer, found.inputs), other_codes(model.quantizer, "kmeans", 8, found.inputs)
    assert len(own) == len(fitted) == end and int(fitted.max()) < 8 <= int(own.max())


def test_codes_that_stand_for_phones_form_a_diagonal() -> None:
    phones = sample(4000, 6, 0)
    tables = {
        "alike": label_shares((5 - phones), phones, 6, 6),
        "mixed": label_shares(sample(4000, 9, 1), phones, 9, 6),
    }
    axes = plot_phones_of_codes(tables, list("abcdef")).axes
    alike, mixed = (np.asarray(panel.images[0].get_array()) for panel in axes[:2])
    np.testing.assert_array_equal(alike, np.eye(6))
    assert mixed.shape == (6, 9) and mixed.max() < 0.3


def test_bars_show_information_and_the_part_due_to_chance() -> None:
    labels = sample(500, 5, 0)
    none = torch.full((500,), -1)
    found = {"good": {"phones": label_information(labels, labels), "speakers": label_information(labels, none)}}
    axes = plot_label_information(found).axes[0]
    heights = [bar.get_height() for bar in axes.patches if bar.get_height()]
    assert heights == [pytest.approx(1.0), found["good"]["phones"].chance]
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["5 phones", "chance (labels in random order)"]
