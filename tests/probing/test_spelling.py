"""A linear CTC probe finds the characters that a layer holds, and no more."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from streamnest.downstream.asr.ctc_losses import frames_needed
from streamnest.probing.encoded import EncodedUtterance
from streamnest.probing.layerwise import probe_encoded
from streamnest.probing.phone_labels import ProbeUtterance
from streamnest.probing.spelling import Transcribed, probe_spelling

LETTERS = "abcde"


def spoken(count: int, seed: int, noise: float = 0.3) -> Transcribed:
    """Texts of five letters; the second layer has two frames for each letter and one between, the first is noise."""
    generator = torch.Generator().manual_seed(seed)
    corners, layers, texts = 3 * torch.eye(6), [], []
    for _ in range(count):
        letters = torch.randint(5, (6,), generator=generator)
        frames = torch.stack([letters + 1, letters + 1, torch.zeros_like(letters)], 1).flatten()
        informative = corners[frames] + noise * torch.randn(len(frames), 6, generator=generator)
        layers.append([torch.randn(len(frames), 6, generator=generator), informative])
        texts.append("".join(LETTERS[n] for n in letters))
    return Transcribed(layers, texts)


@pytest.fixture(scope="module")
def speech() -> tuple[Transcribed, Transcribed]:
    return spoken(40, 0), spoken(15, 1)


def test_a_probe_spells_from_the_informative_layer_only(
    speech: tuple[Transcribed, Transcribed],
) -> None:
    noise, informative = (probe_spelling(*(part.of_layers([layer]) for part in speech)) for layer in (0, 1))
    assert informative < 0.05
    assert noise > 0.6


def test_a_weighted_sum_spells_from_the_informative_layer(speech: tuple[Transcribed, Transcribed]) -> None:
    assert probe_spelling(*speech) < 0.05


def test_a_character_probe_is_deterministic() -> None:
    train, test = (part.of_layers([1]) for part in (spoken(40, 0, noise=3.0), spoken(40, 1, noise=3.0)))
    assert probe_spelling(train, test) == probe_spelling(train, test)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_scale_of_a_layer_leaves_the_error_rate(speech: tuple[Transcribed, Transcribed], scale: float) -> None:
    def scaled(x: Tensor) -> Tensor:
        return x * scale + 7

    parts = [Transcribed([[scaled(layers[1])] for layers in part.layers], part.texts) for part in speech]
    assert probe_spelling(*parts) < 0.05


def test_texts_with_too_few_frames_are_left_out_of_training(speech: tuple[Transcribed, Transcribed]) -> None:
    train, test = (part.of_layers([1]) for part in speech)
    more = Transcribed([*train.layers, [torch.zeros(3, 6)]], [*train.texts, "aaaaaa"])
    assert probe_spelling(more, test) < 0.05


def test_repeated_letters_need_a_frame_between_them() -> None:
    assert [frames_needed(tokens) for tokens in ([], [1, 2], [1, 1], [1, 1, 1])] == [0, 2, 3, 5]


def test_characters_are_probed_on_all_layers_if_there_are_texts(
    speech: tuple[Transcribed, Transcribed],
) -> None:
    encoded = []
    for part, split in zip(speech, ("train", "test"), strict=True):
        for layers, text in zip(part.layers, part.texts, strict=True):
            utterance = ProbeUtterance(str(len(encoded)), Path("x"), split=split, text=text)
            none = torch.full((len(layers[0]),), -1)
            encoded.append(EncodedUtterance(utterance, [torch.randn(len(layers[0]), 9), *layers], none))
    figures, notes = probe_encoded(encoded, 0, clusters=4)
    assert [f.layer for f in figures] == ["log-mel", "subsampling", "1", "weighted sum"]
    *poor, informative, mixed = [f.cer or 0.0 for f in figures]
    assert min(poor) > 0.6 and informative < 0.05 and mixed < 0.05
    assert notes == ["5 characters: 40 training texts, 15 test texts"]
    for one in encoded:
        one.utterance.text = ""
    figures, notes = probe_encoded(encoded, 0, clusters=4)
    assert not notes and all(f.cer is None for f in figures) and len(figures) == 3
