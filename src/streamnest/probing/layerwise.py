"""All probes of an encoder, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rich.progress import track
from torch import Tensor

from streamnest.console.terminal import terminal
from streamnest.encoder_task import EncoderTask
from streamnest.probing import linear_probe as probing
from streamnest.probing.encoded import Heard, divide, hear, layer_names
from streamnest.probing.linear_probe import MIXED, Examples
from streamnest.probing.phone_labels import Utterance, phone_classes
from streamnest.probing.spelling import Transcribed, probe_spelling

# Pauses, as aligners write them.
SILENCE = frozenset({"pau", "sil", "sp", "SIL", "#", ""})


@dataclass
class LayerFigures:
    """What was found in one layer; figures are shares, None where there are no labels.

    Attributes:
        layer: "log-mel" is the input, "weighted sum" one probe on all outputs of the encoder.
        phones: accuracy of the phone at the middle of a frame, pauses left out.
        cer: character error rate of a linear CTC probe, less is better.
        speakers: accuracy on utterances, from the mean and deviation of their frames.
        rank: effective rank of the frames.
        silhouette: see `probing.Clustering`.
        phone_information: see `probing.Clustering`.
    """

    layer: str
    phones: float | None = None
    cer: float | None = None
    speakers: float | None = None
    rank: float | None = None
    silhouette: float | None = None
    phone_information: float | None = None


def probe(model: EncoderTask, utterances: list[Utterance], clusters: int) -> tuple[list[LayerFigures], list[str]]:
    """Probes the layers of a frozen encoder.

    Args:
        model: in evaluation mode.
        utterances: with phones, texts, speakers or none of them.
        clusters: of k-means.

    Returns:
        The figures of each layer, and notes on what they stand on.

    Raises:
        UserError: where no utterance can be read.
    """
    classes = phone_classes(utterances, SILENCE)
    return probe_encoded(hear(model, utterances, classes), len(classes), clusters)


def probe_encoded(heard: list[Heard], classes: int, clusters: int) -> tuple[list[LayerFigures], list[str]]:
    """The same of utterances after the encoder; `classes` is the number of phones."""
    layers = layer_names(heard)
    figures = [LayerFigures(name) for name in (*layers, MIXED)]
    notes = _probe_phones(figures, heard, classes) + _probe_texts(figures, heard) + _probe_speakers(figures, heard)
    for number, line in enumerate(figures[: len(layers)]):
        _describe(line, [h.layers[number] for h in heard], [h.phones for h in heard], clusters)
    return figures if notes else figures[:-1], notes


def _probe_phones(figures: list[LayerFigures], heard: list[Heard], classes: int) -> list[str]:
    train, test = map(_frames, divide([h for h in heard if h.utterance.phones]))
    if not len(train.y) or not len(test.y):
        return []
    accuracies = probing.probe_layers(train, test, classes)
    for line, accuracy in zip(figures, accuracies, strict=False):
        line.phones = accuracy
    figures[-1].phones = probing.probe_mix(_outputs(train), _outputs(test), classes)
    return [_note(train, test, f"{classes} phones")]


def _probe_texts(figures: list[LayerFigures], heard: list[Heard]) -> list[str]:
    train, test = map(_texts, divide([h for h in heard if h.utterance.text]))
    if not train.texts or not test.texts:
        return []
    # The last line is the weighted sum of all outputs of the encoder; its input is of another width.
    lines = [[number] for number in range(len(figures) - 1)] + [list(range(1, len(figures) - 1))]
    pairs = list(zip(figures, lines, strict=True))
    for line, layers in track(pairs, "probing characters", console=terminal(stderr=True), transient=True):
        line.cer = probe_spelling(train.of_layers(layers), test.of_layers(layers))
    characters = len(set().union(*train.texts))
    return [f"{characters} characters: fitted on {len(train.texts)} texts, tested on {len(test.texts)}"]


def _probe_speakers(figures: list[LayerFigures], heard: list[Heard]) -> list[str]:
    known = [h for h in heard if h.utterance.speaker]
    numbers = {name: number for number, name in enumerate(sorted({h.utterance.speaker or "" for h in known}))}
    train, test = (_voices(some, numbers) for some in divide(known, by_manifest=False))
    if len(numbers) < 2 or not len(test.y):
        return []
    accuracies = probing.probe_layers(train, test, len(numbers), l2=1e-2)
    for line, accuracy in zip(figures, accuracies, strict=False):
        line.speakers = accuracy
    figures[-1].speakers = probing.probe_mix(_outputs(train), _outputs(test), len(numbers), l2=1e-2)
    return [_note(train, test, f"{len(numbers)} speakers")]


def _outputs(examples: Examples) -> Examples:
    """Without the input of the encoder, which is of another width."""
    return Examples(examples.x[1:], examples.y)


def _layers(heard: Sequence[Heard]) -> range:
    return range(len(heard[0].layers) if heard else 0)


def _frames(heard: Sequence[Heard]) -> Examples:
    """The frames with a phone."""
    x = [torch.cat([h.layers[n][h.phones >= 0] for h in heard]) for n in _layers(heard)]
    return Examples(x, torch.cat([h.phones[h.phones >= 0] for h in heard] or [torch.empty(0, dtype=torch.long)]))


def _texts(heard: Sequence[Heard]) -> Transcribed:
    return Transcribed([h.layers for h in heard], [h.utterance.text for h in heard])


def _voices(heard: Sequence[Heard], numbers: dict[str, int]) -> Examples:
    """The mean and deviation over each utterance."""
    x = [torch.stack([torch.cat(torch.std_mean(h.layers[n], dim=0)) for h in heard]) for n in _layers(heard)]
    return Examples(x, torch.tensor([numbers[h.utterance.speaker or ""] for h in heard], dtype=torch.long))


def _describe(line: LayerFigures, frames: list[Tensor], phones: list[Tensor], clusters: int) -> None:
    x, y = torch.cat(frames), torch.cat(phones)
    line.rank = probing.rank(x)
    labelled = y >= 0
    found = (
        probing.cluster(x[labelled], y[labelled], clusters) if labelled.any() else probing.cluster(x, None, clusters)
    )
    line.silhouette, line.phone_information = found.silhouette, found.phone_information


def _note(train: Examples, test: Examples, what: str) -> str:
    most = int(train.y.bincount().argmax())
    chance = float((test.y == most).float().mean())
    return f"{what}: fitted on {len(train.y)}, tested on {len(test.y)}; always the most frequent: {chance:.3f}"
