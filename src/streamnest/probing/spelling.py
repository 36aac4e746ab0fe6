"""Linear CTC probes: character error rate of a layer, without alignments.

A probe is one linear layer from standardized frames to characters and blank, trained with the CTC loss from zeros.
Unlike the phone probe it needs no time alignment, and unlike fine-tuning it does not change the encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from streamnest.downstream.asr.ctc_decoding import collapse
from streamnest.downstream.asr.ctc_losses import ctc_loss, frames_needed
from streamnest.downstream.asr.vocabulary import CharTokenizer
from streamnest.downstream.metrics.error_rates import RecognizedUtterance, errors, rate

# Upper limits of the training of a probe.
_UPDATES, _EPOCHS = 400, 30
_BATCH, _RATE = 8, 0.05


@dataclass
class Transcribed:
    """Encoded utterances with their transcripts.

    Attributes:
        layers: for each utterance, the output `(T', d)` of each layer.
        texts: normalized transcript of each utterance.
    """

    layers: list[list[Tensor]]
    texts: list[str]

    def of_layers(self, chosen: Sequence[int]) -> Transcribed:
        """Keeps some layers only; if there are several, their widths must be equal."""
        return Transcribed([[layers[n] for n in chosen] for layers in self.layers], self.texts)


class _Probe(nn.Module):
    """Learned weighted sum of L layers and a linear layer: `(B, T, L, d)` -> log-probabilities `(B, T, V)`."""

    def __init__(self, frames: list[Tensor], tokens: int) -> None:
        super().__init__()
        self.std, self.mean = torch.std_mean(torch.cat(frames), dim=0)
        self.mix = nn.Parameter(torch.zeros(frames[0].shape[1]))
        self.head = nn.Linear(frames[0].shape[2], tokens)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, frames: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Returns log-probabilities and lengths `(B,)` of utterances `(T', L, d)`."""
        x = pad_sequence([(one - self.mean) / (self.std + 1e-5) for one in frames], batch_first=True)
        mixed = torch.einsum("btld,l->btd", x, self.mix.softmax(0))
        return F.log_softmax(self.head(mixed), -1), torch.tensor([len(one) for one in frames])


def probe_spelling(train: Transcribed, test: Transcribed) -> float:
    """Returns the character error rate on the test set; the result is deterministic.

    Args:
        train: training utterances; if there are several layers, the probe learns a weighted sum of them.
        test: test utterances.
    """
    tokenizer = CharTokenizer.of(train.texts)
    frames = [torch.stack(layers, 1) for layers in train.layers]
    targets = [tokenizer.encode(text) for text in train.texts]
    with torch.enable_grad():
        fitted = _fit(_Probe(frames, tokenizer.size), frames, targets)
    with torch.no_grad():
        best = [fitted([torch.stack(layers, 1)])[0][0].argmax(-1) for layers in test.layers]
    hypotheses = [tokenizer.pieces(collapse(tokens)[0]) for tokens in best]
    pairs = zip(test.texts, hypotheses, strict=True)
    return rate(errors([RecognizedUtterance("", reference, hypothesis) for reference, hypothesis in pairs], "cer"))


def _fit(linear: _Probe, frames: list[Tensor], targets: list[list[int]]) -> _Probe:
    """Trains on batches of utterances of similar length, shuffled in each epoch."""
    by_length = sorted(range(len(frames)), key=lambda n: (len(frames[n]), n))
    batches = [by_length[n : n + _BATCH] for n in range(0, len(by_length), _BATCH)]
    updates = min(_UPDATES, _EPOCHS * len(batches))
    optimizer = torch.optim.Adam(linear.parameters(), lr=_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=updates)
    generator, queue = torch.Generator().manual_seed(0), list[int]()
    for _ in range(updates):
        queue = queue or torch.randperm(len(batches), generator=generator).tolist()
        batch = batches[queue.pop()]
        log_probs, lengths = linear([frames[n] for n in batch])
        chosen = [targets[n] for n in batch]
        usable = [bool(t) and frames_needed(t) <= n for t, n in zip(chosen, lengths.tolist(), strict=True)]
        loss, tokens = ctc_loss(log_probs, lengths, chosen, usable)
        optimizer.zero_grad()
        (loss / tokens.clamp_min(1)).backward()
        optimizer.step()
        schedule.step()
    return linear
