"""All probes of an encoder, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rich.progress import track
from torch import Tensor

from streamnest.console.terminal import terminal
from streamnest.encoder.state import STREAM_LEFT_MS
from streamnest.encoder_task import EncoderTask
from streamnest.probing import linear_probe as probing
from streamnest.probing.encoded import EncodedUtterance, divide, encode_utterances, layer_names, note_on_long
from streamnest.probing.linear_probe import MIXED, Examples
from streamnest.probing.phone_labels import ProbeUtterance, phone_classes
from streamnest.probing.spelling import Transcribed, probe_spelling

# Pauses, as aligners write them.
SILENCE = frozenset({"pau", "sil", "sp", "SIL", "#", ""})


@dataclass
class LayerFigures:
    """Results of one layer; None if the utterances have no labels for it.

    Attributes:
        layer: name of the layer; "log-mel" is the input, "weighted sum" is one probe on all outputs of the encoder.
        phones: accuracy for the phone at the center of a frame, without pauses.
        cer: character error rate of a linear CTC probe; lower is better.
        speakers: accuracy on utterances, from the mean and standard deviation of their frames.
        rank: effective rank of the frames.
        silhouette: field of `Clustering`.
        phone_information: field of `Clustering`.
    """

    layer: str
    phones: float | None = None
    cer: float | None = None
    speakers: float | None = None
    rank: float | None = None
    silhouette: float | None = None
    phone_information: float | None = None


def probe(
    model: EncoderTask, utterances: list[ProbeUtterance], clusters: int, max_left_ms: float = STREAM_LEFT_MS
) -> tuple[list[LayerFigures], list[str]]:
    """Probes the layers of a frozen encoder.

    Args:
        model: encoder in evaluation mode.
        utterances: utterances with phones, texts, speakers or none of them.
        clusters: number of k-means clusters.
        max_left_ms: limit of an unlimited left context for recordings over `FULL_FORWARD_S`.

    Returns:
        The figures of each layer, and a note for each probe on the sizes of training and test set.

    Raises:
        UserError: if no utterance can be read.
    """
    classes = phone_classes(utterances, SILENCE)
    encoded = encode_utterances(model, utterances, classes, max_left_ms)
    figures, notes = probe_encoded(encoded, len(classes), clusters)
    return figures, notes + note_on_long(model, encoded, max_left_ms)


def probe_encoded(encoded: list[EncodedUtterance], classes: int, clusters: int) -> tuple[list[LayerFigures], list[str]]:
    """Does the same for encoded utterances; `classes` is the number of phones."""
    layers = layer_names(encoded)
    figures = [LayerFigures(name) for name in (*layers, MIXED)]
    notes = _probe_phones(figures, encoded, classes)
    notes += _probe_texts(figures, encoded) + _probe_speakers(figures, encoded)
    for number, line in enumerate(figures[: len(layers)]):
        _describe(line, [one.layers[number] for one in encoded], [one.phones for one in encoded], clusters)
    return figures if notes else figures[:-1], notes


def _probe_phones(figures: list[LayerFigures], encoded: list[EncodedUtterance], classes: int) -> list[str]:
    train, test = map(_frames, divide([one for one in encoded if one.utterance.phones]))
    if not len(train.y) or not len(test.y):
        return []
    accuracies = probing.probe_layers(train, test, classes)
    for line, accuracy in zip(figures, accuracies, strict=False):
        line.phones = accuracy
    figures[-1].phones = probing.probe_mix(_outputs(train), _outputs(test), classes)
    return [_note(train, test, f"{classes} phones")]


def _probe_texts(figures: list[LayerFigures], encoded: list[EncodedUtterance]) -> list[str]:
    train, test = map(_texts, divide([one for one in encoded if one.utterance.text and not one.long]))
    if not train.texts or not test.texts:
        return []
    # The last line is the weighted sum of all outputs of the encoder, without its input, which has another width.
    lines = [[number] for number in range(len(figures) - 1)] + [list(range(1, len(figures) - 1))]
    pairs = list(zip(figures, lines, strict=True))
    for line, layers in track(pairs, "probing characters", console=terminal(stderr=True), transient=True):
        line.cer = probe_spelling(train.of_layers(layers), test.of_layers(layers))
    characters = len(set().union(*train.texts))
    return [f"{characters} characters: {len(train.texts)} training texts, {len(test.texts)} test texts"]


def _probe_speakers(figures: list[LayerFigures], encoded: list[EncodedUtterance]) -> list[str]:
    known = [one for one in encoded if one.utterance.speaker]
    numbers = {name: number for number, name in enumerate(sorted({one.utterance.speaker or "" for one in known}))}
    train, test = (_speaker_examples(some, numbers) for some in divide(known, by_manifest=False))
    if len(numbers) < 2 or not len(test.y):
        return []
    accuracies = probing.probe_layers(train, test, len(numbers), l2=1e-2)
    for line, accuracy in zip(figures, accuracies, strict=False):
        line.speakers = accuracy
    figures[-1].speakers = probing.probe_mix(_outputs(train), _outputs(test), len(numbers), l2=1e-2)
    return [_note(train, test, f"{len(numbers)} speakers")]


def _outputs(examples: Examples) -> Examples:
    """Removes the input of the encoder, which has another width."""
    return Examples(examples.x[1:], examples.y)


def _layers(encoded: Sequence[EncodedUtterance]) -> range:
    return range(len(encoded[0].layers) if encoded else 0)


def _frames(encoded: Sequence[EncodedUtterance]) -> Examples:
    """Returns the frames with a phone."""
    x = [torch.cat([one.layers[n][one.phones >= 0] for one in encoded]) for n in _layers(encoded)]
    return Examples(
        x, torch.cat([one.phones[one.phones >= 0] for one in encoded] or [torch.empty(0, dtype=torch.long)])
    )


def _texts(encoded: Sequence[EncodedUtterance]) -> Transcribed:
    return Transcribed([one.layers for one in encoded], [one.utterance.text for one in encoded])


def _speaker_examples(encoded: Sequence[EncodedUtterance], numbers: dict[str, int]) -> Examples:
    """Returns mean and standard deviation over each utterance."""
    x = [torch.stack([torch.cat(torch.std_mean(one.layers[n], dim=0)) for one in encoded]) for n in _layers(encoded)]
    return Examples(x, torch.tensor([numbers[one.utterance.speaker or ""] for one in encoded], dtype=torch.long))


def _describe(line: LayerFigures, frames: list[Tensor], phones: list[Tensor], clusters: int) -> None:
    x, y = torch.cat(frames), torch.cat(phones)
    line.rank = probing.rank(x)
    known = y >= 0
    result = probing.cluster(x[known], y[known], clusters) if known.any() else probing.cluster(x, None, clusters)
    line.silhouette, line.phone_information = result.silhouette, result.phone_information


def _note(train: Examples, test: Examples, what: str) -> str:
    most = int(train.y.bincount().argmax())
    chance = float((test.y == most).float().mean())
    return f"{what}: {len(train.y)} training examples, {len(test.y)} test examples; majority class {chance:.3f}"
