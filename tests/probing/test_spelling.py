"""A linear probe spells what its frames tell, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from streamnest.downstream.asr.ctc import frames_needed
from streamnest.probing.encoded import Heard
from streamnest.probing.layerwise import probe_encoded
from streamnest.probing.phone_labels import Utterance
from streamnest.probing.spelling import Transcribed, probe_spelling

LETTERS = "abcde"


def spoken(count: int, seed: int, noise: float = 0.3) -> Transcribed:
    """Texts of five letters; the second layer has two frames for each letter and one between, the first is noise."""
    generator = torch.Generator().manual_seed(seed)
    corners, layers, texts = 3 * torch.eye(6), [], []
    for _ in range(count):
        letters = torch.randint(5, (6,), generator=generator)
        frames = torch.stack([letters + 1, letters + 1, torch.zeros_like(letters)], 1).flatten()
        told = corners[frames] + noise * torch.randn(len(frames), 6, generator=generator)
        layers.append([torch.randn(len(frames), 6, generator=generator), told])
        texts.append("".join(LETTERS[n] for n in letters))
    return Transcribed(layers, texts)


@pytest.fixture(scope="module")
def speech() -> tuple[Transcribed, Transcribed]:
    return spoken(40, 0), spoken(15, 1)


def test_a_probe_spells_from_the_layer_that_tells_and_cannot_from_the_other(
    speech: tuple[Transcribed, Transcribed],
) -> None:
    noise, told = (probe_spelling(*(part.of_layers([layer]) for part in speech)) for layer in (0, 1))
    assert told < 0.05
    assert noise > 0.6


def test_a_weighted_sum_spells_from_the_layer_that_tells(speech: tuple[Transcribed, Transcribed]) -> None:
    assert probe_spelling(*speech) < 0.05


def test_a_probe_of_characters_gives_the_same_twice() -> None:
    train, test = (part.of_layers([1]) for part in (spoken(40, 0, noise=3.0), spoken(40, 1, noise=3.0)))
    assert probe_spelling(train, test) == probe_spelling(train, test)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_scale_of_a_layer_does_not_matter_to_spelling(
    speech: tuple[Transcribed, Transcribed], scale: float
) -> None:
    def scaled(x: Tensor) -> Tensor:
        return x * scale + 7

    parts = [Transcribed([[scaled(layers[1])] for layers in part.layers], part.texts) for part in speech]
    assert probe_spelling(*parts) < 0.05


def test_texts_that_no_frames_can_spell_are_left_out_of_fitting(speech: tuple[Transcribed, Transcribed]) -> None:
    train, test = (part.of_layers([1]) for part in speech)
    more = Transcribed([*train.layers, [torch.zeros(3, 6)]], [*train.texts, "aaaaaa"])
    assert probe_spelling(more, test) < 0.05


def test_repeated_letters_need_a_frame_between_them() -> None:
    assert [frames_needed(tokens) for tokens in ([], [1, 2], [1, 1], [1, 1, 1])] == [0, 2, 3, 5]


def test_characters_are_probed_where_there_are_texts_on_all_layers_and_their_sum(
    speech: tuple[Transcribed, Transcribed],
) -> None:
    heard = []
    for part, split in zip(speech, ("train", "test"), strict=True):
        for layers, text in zip(part.layers, part.texts, strict=True):
            utterance = Utterance(str(len(heard)), Path("x"), split=split, text=text)
            none = torch.full((len(layers[0]),), -1)
            heard.append(Heard(utterance, [torch.randn(len(layers[0]), 9), *layers], none))
    figures, notes = probe_encoded(heard, 0, clusters=4)
    assert [f.layer for f in figures] == ["log-mel", "stem", "1", "weighted sum"]
    *poor, told, mixed = [f.cer or 0.0 for f in figures]
    assert min(poor) > 0.6 and told < 0.05 and mixed < 0.05
    assert notes == ["5 characters: fitted on 40 texts, tested on 15"]
    for one in heard:
        one.utterance.text = ""
    figures, notes = probe_encoded(heard, 0, clusters=4)
    assert not notes and all(f.cer is None for f in figures) and len(figures) == 3
