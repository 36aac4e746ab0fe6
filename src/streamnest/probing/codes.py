"""What the codes of a quantizer know of phones and speakers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from streamnest.pretraining import Pretraining
from streamnest.probing.layerwise import SILENCE
from streamnest.probing.linear_probe import shared_information
from streamnest.probing.phone_labels import Utterance, frame_phones, phone_classes
from streamnest.quantizer import RandomProjectionQuantizer
from streamnest.streaming.audio_sources import load_audio


@dataclass(frozen=True)
class LabelledBlocks:
    """What the targets of some utterances are made of, and who says what in it.

    Attributes:
        blocks: `(N, stack * D)` normalised feature frames, a row for each encoder frame.
        phones: `(N,)` int64 numbers of `phone_names`, -1 where there is none.
        speakers: `(N,)` int64 numbers of `speaker_names`, -1 where it is not known.
        phone_names: of the training utterances, pauses left out.
        speaker_names: of all.
        spans: first and last row, exclusive, of each utterance.
    """

    blocks: Tensor
    phones: Tensor
    speakers: Tensor
    phone_names: list[str]
    speaker_names: list[str]
    spans: list[tuple[int, int]]


@torch.no_grad()
def label_blocks(model: Pretraining, utterances: Sequence[Utterance]) -> LabelledBlocks:
    """Reads utterances and computes the blocks that the quantizer of a model would be given, clean.

    Args:
        model: whose front end, normalisation and frame rate are taken.
        utterances: with phones, speakers or neither.

    Raises:
        UserError: for audio that cannot be read.
    """
    classes = phone_classes(list(utterances), SILENCE)
    voices = {name: n for n, name in enumerate(sorted({u.speaker for u in utterances if u.speaker}))}
    blocks, phones, speakers = [], [], []
    for utterance in utterances:
        audio = load_audio(utterance.path, model.frontend.sample_rate)
        features, frames = model.frontend(audio[None], torch.tensor([len(audio)]))
        blocks.append(model.quantizer.stacked(model.target_norm(features, frames))[0])
        phones.append(frame_phones(utterance, len(blocks[-1]), model.encoder.frame_ms, classes))
        speakers.append(torch.full((len(blocks[-1]),), voices.get(utterance.speaker or "", -1)))
    ends = torch.tensor([len(b) for b in blocks]).cumsum(0).tolist()
    spans = list(zip([0, *ends[:-1]], ends, strict=True))
    return LabelledBlocks(torch.cat(blocks), torch.cat(phones), torch.cat(speakers), list(classes), list(voices), spans)


def codes_of(quantizer: RandomProjectionQuantizer, blocks: Tensor) -> Tensor:
    """Codes `(N,)` of the first book for blocks `(N, stack * D)`."""
    return quantizer(blocks.reshape(-1, quantizer.feat_in).t()[None])[0, :, 0]


def other_codes(quantizer: RandomProjectionQuantizer, kind: str, number: int, blocks: Tensor) -> Tensor:
    """Codes `(N,)` of another kind and number, of the same width, fitted to the blocks where that kind is fitted."""
    sizes = (quantizer.feat_in, quantizer.stack, number, 1, quantizer.code_dim)
    other = RandomProjectionQuantizer(*sizes, seed=quantizer.seed, codes=kind)
    other.fit(blocks)
    return codes_of(other, blocks)


@dataclass(frozen=True)
class Told:
    """What codes tell of a label, as a share of its entropy.

    Attributes:
        share: `probing.shared_information`.
        chance: the same of labels in a random order. With many codes and few frames this is well above 0.
        labels: number of labels that occur.
        frames: counted.
    """

    share: float
    chance: float
    labels: int
    frames: int


def told(codes: Tensor, labels: Tensor, seed: int = 0) -> Told:
    """What codes `(N,)` tell of labels `(N,)`; frames whose label is negative are left out."""
    codes, labels = codes[labels >= 0], labels[labels >= 0]
    if not len(labels):
        return Told(float("nan"), float("nan"), 0, 0)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    chance = shared_information(codes, labels[order])
    return Told(shared_information(codes, labels), chance, len(labels.unique()), len(labels))


def label_shares(codes: Tensor, labels: Tensor, num_codes: int, num_labels: int) -> Tensor:
    """How often each code occurs in frames of each label: counts `(num_labels, num_codes)` float64."""
    known = labels >= 0
    places = labels[known] * num_codes + codes[known]
    return places.bincount(minlength=num_codes * num_labels).double().reshape(num_labels, num_codes)


def code_distances(codes: Tensor, labels: Tensor, num_codes: int, num_labels: int, frames: int = 1000) -> Tensor:
    """How differently labels use codes, `(num_labels, num_labels)`; the diagonal is a label against itself.

    Of each label two sets of as many frames are drawn. An entry is the distance of one set of a label from the other
    set of another label, the root of the Jensen-Shannon divergence in bits (Endres and Schindelin 2003): 0 is alike, 1
    has no code in common. Small sets differ by chance; the diagonal says by how much. Labels with fewer frames are NaN.

    Args:
        codes: `(N,)`.
        labels: `(N,)`, negative is none.
        num_codes: codes.
        num_labels: labels.
        frames: of a set.
    """
    halves = torch.full((2, num_labels, num_codes), float("nan"), dtype=torch.float64)
    for label in range(num_labels):
        own = codes[labels == label]
        if len(own) >= 2 * frames:
            drawn = own[torch.randperm(len(own), generator=torch.Generator().manual_seed(label))[: 2 * frames]]
            halves[:, label] = torch.stack([half.bincount(minlength=num_codes) for half in drawn.split(frames)])
    shares = halves / frames
    one, other = shares[0][:, None], shares[1][None]
    middle = (one + other) / 2
    divergence = (_plogp(one) + _plogp(other)) / 2 - _plogp(middle)
    return (divergence.sum(-1) / torch.log(torch.tensor(2.0))).clamp_min(0).sqrt()


def _plogp(x: Tensor) -> Tensor:
    return torch.special.xlogy(x, x)
