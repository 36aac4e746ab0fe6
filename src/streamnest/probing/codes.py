"""Information of a quantizer's codes about phones and speakers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from streamnest.pretraining import Pretraining
from streamnest.probing.layerwise import SILENCE
from streamnest.probing.linear_probe import shared_information
from streamnest.probing.phone_labels import ProbeUtterance, frame_phones, phone_classes
from streamnest.quantizer import RandomProjectionQuantizer
from streamnest.streaming.audio_sources import load_audio


@dataclass(frozen=True)
class LabeledFrames:
    """Inputs of a quantizer for some utterances, with the phone and the speaker of each encoder frame.

    Attributes:
        inputs: `(N, stack * D)` stacked normalized feature frames, one row for each encoder frame.
        phones: `(N,)` int64 indices into `phone_names`, -1 for none.
        speakers: `(N,)` int64 indices into `speaker_names`, -1 for unknown.
        phone_names: phones of the training utterances, without pauses.
        speaker_names: speakers of all utterances.
        spans: first row of each utterance, and the row after its last one.
    """

    inputs: Tensor
    phones: Tensor
    speakers: Tensor
    phone_names: list[str]
    speaker_names: list[str]
    spans: list[tuple[int, int]]


@torch.no_grad()
def read_labeled_frames(model: Pretraining, utterances: Sequence[ProbeUtterance]) -> LabeledFrames:
    """Reads utterances and computes the clean inputs of a model's quantizer.

    Args:
        model: source of the front end, the normalization and the frame rate.
        utterances: utterances with phones, speakers or neither.

    Raises:
        UserError: for audio that cannot be read.
    """
    classes = phone_classes(list(utterances), SILENCE)
    speaker_ids = {name: n for n, name in enumerate(sorted({u.speaker for u in utterances if u.speaker}))}
    inputs, phones, speakers = [], [], []
    for utterance in utterances:
        audio = load_audio(utterance.path, model.frontend.sample_rate)
        features, frames = model.frontend(audio[None], torch.tensor([len(audio)]))
        inputs.append(model.feature_quantizer.stacked(model.target_norm(features, frames))[0])
        phones.append(frame_phones(utterance, len(inputs[-1]), model.encoder.frame_ms, classes))
        speakers.append(torch.full((len(inputs[-1]),), speaker_ids.get(utterance.speaker or "", -1)))
    ends = torch.tensor([len(b) for b in inputs]).cumsum(0).tolist()
    spans = list(zip([0, *ends[:-1]], ends, strict=True))
    names = list(classes), list(speaker_ids)
    return LabeledFrames(torch.cat(inputs), torch.cat(phones), torch.cat(speakers), *names, spans)


def codes_of(quantizer: RandomProjectionQuantizer, inputs: Tensor) -> Tensor:
    """Returns codes `(N,)` of the first codebook for inputs `(N, stack * D)`."""
    return quantizer(inputs.reshape(-1, quantizer.feat_in).t()[None])[0, :, 0]


def other_codes(quantizer: RandomProjectionQuantizer, kind: str, number: int, inputs: Tensor) -> Tensor:
    """Returns codes `(N,)` of a quantizer of another kind and size; kinds that need fitting are fitted to the inputs.

    Args:
        quantizer: source of the seed and of all other sizes.
        kind: one of `streamnest.quantizer.CODES`.
        number: entries of the codebook.
        inputs: `(N, stack * D)`.
    """
    sizes = (quantizer.feat_in, quantizer.stack, number, 1, quantizer.code_dim)
    other = RandomProjectionQuantizer(*sizes, seed=quantizer.seed, codes=kind)
    other.fit(inputs)
    return codes_of(other, inputs)


@dataclass(frozen=True)
class LabelInformation:
    """Share of the entropy of labels that codes explain.

    Attributes:
        share: mutual information of codes and labels over the entropy of the labels.
        chance: the same with labels in random order. It is well above 0 if there are many codes and few frames.
        labels: number of different labels.
        frames: number of frames with a label.
    """

    share: float
    chance: float
    labels: int
    frames: int


def label_information(codes: Tensor, labels: Tensor, seed: int = 0) -> LabelInformation:
    """Returns the information of codes `(N,)` about labels `(N,)`; frames with a negative label are left out."""
    codes, labels = codes[labels >= 0], labels[labels >= 0]
    if not len(labels):
        return LabelInformation(float("nan"), float("nan"), 0, 0)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    chance = shared_information(codes, labels[order])
    return LabelInformation(shared_information(codes, labels), chance, len(labels.unique()), len(labels))


def label_shares(codes: Tensor, labels: Tensor, num_codes: int, num_labels: int) -> Tensor:
    """Counts how often each code occurs in frames of each label: `(num_labels, num_codes)` float64."""
    known = labels >= 0
    places = labels[known] * num_codes + codes[known]
    return places.bincount(minlength=num_codes * num_labels).double().reshape(num_labels, num_codes)


def code_distances(codes: Tensor, labels: Tensor, num_codes: int, num_labels: int, frames: int = 1000) -> Tensor:
    """Returns distances `(num_labels, num_labels)` between the code distributions of labels.

    Two sets of `frames` frames are sampled for each label. An entry is the distance from the first set of one label to
    the second set of the other: the square root of the Jensen-Shannon divergence in bits (Endres and Schindelin 2003).
    It is 0 for equal distributions and 1 for distributions without a common code. Small sets differ by chance; the
    diagonal shows by how much. Labels with fewer than two sets of frames are NaN.

    Args:
        codes: `(N,)`.
        labels: `(N,)`; negative values are ignored.
        num_codes: number of codes.
        num_labels: number of labels.
        frames: size of each set.
    """
    halves = torch.full((2, num_labels, num_codes), float("nan"), dtype=torch.float64)
    for label in range(num_labels):
        of_label = codes[labels == label]
        if len(of_label) >= 2 * frames:
            sampled = of_label[
                torch.randperm(len(of_label), generator=torch.Generator().manual_seed(label))[: 2 * frames]
            ]
            halves[:, label] = torch.stack([half.bincount(minlength=num_codes) for half in sampled.split(frames)])
    shares = halves / frames
    one, other = shares[0][:, None], shares[1][None]
    middle = (one + other) / 2
    divergence = (_plogp(one) + _plogp(other)) / 2 - _plogp(middle)
    return (divergence.sum(-1) / torch.log(torch.tensor(2.0))).clamp_min(0).sqrt()


def _plogp(x: Tensor) -> Tensor:
    return torch.special.xlogy(x, x)
