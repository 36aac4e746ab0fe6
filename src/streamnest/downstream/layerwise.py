"""All probes of an encoder, layer by layer."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from streamnest.downstream import probing
from streamnest.downstream.labels import Utterance, frame_phones, phone_classes
from streamnest.downstream.layers import layer_frames
from streamnest.downstream.probing import INPUT, MIXED, Examples
from streamnest.errors import UserError
from streamnest.streaming.sources import load_audio
from streamnest.task import EncoderTask

# Pauses, as aligners write them.
SILENCE = frozenset({"pau", "sil", "sp", "SIL", "#", ""})
# Of utterances of a speaker, one in so many is tested on.
_TESTED = 5


@dataclass
class LayerFigures:
    """What was found in one layer; accuracies are shares, None where there are no labels.

    Attributes:
        layer: "log-mel" is the input, "weighted sum" one probe on all outputs of the encoder.
        phones: accuracy of the phone at the middle of a frame, pauses left out.
        speakers: accuracy on utterances, from the mean and deviation of their frames.
        rank: effective rank of the frames.
        silhouette: see `probing.Clustering`.
        phone_information: see `probing.Clustering`.
    """

    layer: str
    phones: float | None = None
    speakers: float | None = None
    rank: float | None = None
    silhouette: float | None = None
    phone_information: float | None = None


@dataclass
class Heard:
    """An utterance after the encoder: layers `(T', d)` and the class of each frame, -1 for none."""

    utterance: Utterance
    layers: list[Tensor]
    phones: Tensor


def choose(utterances: list[Utterance], most: int, seed: int) -> list[Utterance]:
    """At most so many utterances with phones, and so many without, drawn with a seed."""
    shuffled = random.Random(seed).sample(utterances, len(utterances))
    return [u for u in shuffled if u.phones][:most] + [u for u in shuffled if not u.phones][:most]


def probe(model: EncoderTask, utterances: list[Utterance], clusters: int) -> tuple[list[LayerFigures], list[str]]:
    """Probes the layers of a frozen encoder.

    Args:
        model: in evaluation mode.
        utterances: with phones, speakers or neither.
        clusters: of k-means.

    Returns:
        The figures of each layer, and notes on what they stand on.

    Raises:
        UserError: where no utterance can be read.
    """
    classes = phone_classes(utterances, SILENCE)
    return probe_heard(hear(model, utterances, classes), len(classes), clusters)


def probe_heard(heard: list[Heard], classes: int, clusters: int) -> tuple[list[LayerFigures], list[str]]:
    """The same of utterances after the encoder; `classes` is the number of phones."""
    figures = [LayerFigures(name) for name in layer_names(heard)]
    notes = _probe_phones(figures, heard, classes) + _probe_speakers(figures, heard)
    for number, line in enumerate(figures[: len(heard[0].layers)]):
        _describe(line, [h.layers[number] for h in heard], [h.phones for h in heard], clusters)
    return figures, notes


def layer_names(heard: list[Heard]) -> list[str]:
    """Of `Heard.layers`."""
    return [INPUT, "stem", *(str(n) for n in range(1, len(heard[0].layers) - 1))]


def hear(model: EncoderTask, utterances: Sequence[Utterance], classes: dict[str, int]) -> list[Heard]:
    """Runs the encoder; utterances that cannot be read are skipped with a line on the standard error."""
    found = []
    for utterance in track(utterances, "encoding", console=Console(stderr=True), transient=True):
        try:
            audio = load_audio(utterance.path, model.frontend.sample_rate)
        except UserError as error:
            print(f"skipped: {error}", file=sys.stderr)
            continue
        layers = layer_frames(model, audio)
        if len(layers[0]) > 1:
            labels = frame_phones(utterance, len(layers[0]), model.encoder.frame_ms, classes)
            found.append(Heard(utterance, layers, labels))
    if not found:
        raise UserError("none of the utterances could be read and was long enough for two frames")
    return found


def _probe_phones(figures: list[LayerFigures], heard: list[Heard], classes: int) -> list[str]:
    train, test = (_frames(heard, flag) for flag in (True, False))
    if not len(train.y) or not len(test.y):
        return []
    for line, accuracy in zip(figures, probing.probe_layers(train, test, classes), strict=True):
        line.phones = accuracy
    _weighted_sum(figures).phones = probing.probe_mix(_outputs(train), _outputs(test), classes)
    return [_note(train, test, f"{classes} phones")]


def _probe_speakers(figures: list[LayerFigures], heard: list[Heard]) -> list[str]:
    speakers = sorted({h.utterance.speaker for h in heard if h.utterance.speaker})
    numbers = {name: number for number, name in enumerate(speakers)}
    train, test = (_voices(heard, flag, numbers) for flag in (True, False))
    if len(speakers) < 2 or not len(test.y):
        return []
    for line, accuracy in zip(figures, probing.probe_layers(train, test, len(speakers), l2=1e-2), strict=False):
        line.speakers = accuracy
    _weighted_sum(figures).speakers = probing.probe_mix(_outputs(train), _outputs(test), len(speakers), l2=1e-2)
    return [_note(train, test, f"{len(speakers)} speakers")]


def _weighted_sum(figures: list[LayerFigures]) -> LayerFigures:
    """The last line, which is added where there is none yet."""
    if figures[-1].layer != MIXED:
        figures.append(LayerFigures(MIXED))
    return figures[-1]


def _outputs(examples: Examples) -> Examples:
    """Without the input of the encoder, which is of another width."""
    return Examples(examples.x[1:], examples.y)


def _frames(heard: list[Heard], train: bool) -> Examples:
    """The frames with a phone; where the manifest has set none aside, one utterance in five is tested on."""
    known = [h for h in heard if h.utterance.phones]
    split = any(h.utterance.split != "train" for h in known)
    fitted = [h.utterance.split == "train" if split else n % _TESTED > 0 for n, h in enumerate(known)]
    chosen = [h for h, flag in zip(known, fitted, strict=True) if flag == train]
    x = [torch.cat([h.layers[n][h.phones >= 0] for h in chosen]) for n in range(len(heard[0].layers)) if chosen]
    return Examples(x, torch.cat([h.phones[h.phones >= 0] for h in chosen] or [torch.empty(0, dtype=torch.long)]))


def _voices(heard: list[Heard], train: bool, numbers: dict[str, int]) -> Examples:
    """The mean and deviation over each utterance."""
    known = [h for h in heard if h.utterance.speaker]
    chosen = [h for n, h in enumerate(known) if (n % _TESTED > 0) == train]
    layers = range(len(heard[0].layers) if chosen else 0)
    x = [torch.stack([torch.cat(torch.std_mean(h.layers[n], dim=0)) for h in chosen]) for n in layers]
    return Examples(x, torch.tensor([numbers[h.utterance.speaker or ""] for h in chosen], dtype=torch.long))


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
