"""Linear probes for characters: how much of the spelling can be read off a layer, without knowing when it is said.

A probe is one linear layer from standardised frames to characters and blank, fitted by CTC from zeros. Unlike phones of
single frames it asks only that sounds follow each other plainly enough, and unlike a fine-tune it leaves the encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from streamnest.downstream.asr.ctc import ctc_loss, frames_needed
from streamnest.downstream.asr.ctc_decoding import collapse
from streamnest.downstream.asr.vocabulary import CharTokenizer
from streamnest.downstream.metrics.error_rates import Utterance, errors, rate

# Fitting takes so many updates at most, and goes over the texts so often at most.
_UPDATES, _EPOCHS = 400, 30
_BATCH, _RATE = 8, 0.05


@dataclass
class Transcribed:
    """Utterances after the encoder, and what is said in them.

    Attributes:
        layers: of each utterance, one `(T', d)` a layer.
        texts: normalised, of each utterance.
    """

    layers: list[list[Tensor]]
    texts: list[str]

    def of_layers(self, chosen: Sequence[int]) -> Transcribed:
        """With these layers alone; several must be of one width."""
        return Transcribed([[layers[n] for n in chosen] for layers in self.layers], self.texts)


class _Reader(nn.Module):
    """`(B, T, L, d)` of L layers -> log-probabilities `(B, T, V)`, by a learned weighted sum and a linear layer."""

    def __init__(self, frames: list[Tensor], tokens: int) -> None:
        super().__init__()
        self.std, self.mean = torch.std_mean(torch.cat(frames), dim=0)
        self.mix = nn.Parameter(torch.zeros(frames[0].shape[1]))
        self.head = nn.Linear(frames[0].shape[2], tokens)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, frames: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Log-probabilities and lengths `(B,)` of utterances `(T', L, d)`."""
        x = pad_sequence([(one - self.mean) / (self.std + 1e-5) for one in frames], batch_first=True)
        mixed = torch.einsum("btld,l->btd", x, self.mix.softmax(0))
        return F.log_softmax(self.head(mixed), -1), torch.tensor([len(one) for one in frames])


def probe_spelling(train: Transcribed, test: Transcribed) -> float:
    """Character error rate on the test set; the same data give the same result.

    Args:
        train: utterances to fit on; with several layers the probe learns a weighted sum of them.
        test: utterances to count on.
    """
    tokenizer = CharTokenizer.of(train.texts)
    frames = [torch.stack(layers, 1) for layers in train.layers]
    targets = [tokenizer.encode(text) for text in train.texts]
    with torch.enable_grad():
        reader = _fit(_Reader(frames, tokenizer.size), frames, targets)
    with torch.no_grad():
        best = [reader([torch.stack(layers, 1)])[0][0].argmax(-1) for layers in test.layers]
    heard = [tokenizer.pieces(collapse(tokens)[0]) for tokens in best]
    return rate(errors([Utterance("", said, found) for said, found in zip(test.texts, heard, strict=True)], "cer"))


def _fit(reader: _Reader, frames: list[Tensor], targets: list[list[int]]) -> _Reader:
    """Trains on batches of utterances of like length, in an order drawn anew for each pass."""
    by_length = sorted(range(len(frames)), key=lambda n: (len(frames[n]), n))
    batches = [by_length[n : n + _BATCH] for n in range(0, len(by_length), _BATCH)]
    updates = min(_UPDATES, _EPOCHS * len(batches))
    optimizer = torch.optim.Adam(reader.parameters(), lr=_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=updates)
    generator, queue = torch.Generator().manual_seed(0), list[int]()
    for _ in range(updates):
        queue = queue or torch.randperm(len(batches), generator=generator).tolist()
        batch = batches[queue.pop()]
        log_probs, lengths = reader([frames[n] for n in batch])
        chosen = [targets[n] for n in batch]
        usable = [bool(t) and frames_needed(t) <= n for t, n in zip(chosen, lengths.tolist(), strict=True)]
        loss, tokens = ctc_loss(log_probs, lengths, chosen, usable)
        optimizer.zero_grad()
        (loss / tokens.clamp_min(1)).backward()
        optimizer.step()
        schedule.step()
    return reader
