"""Prediction networks of transducers: what the tokens so far say about the next one."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamnest.downstream.asr.vocabulary import BLANK
from streamnest.errors import UserError

# Tensors whose first dimension is the stream.
PredictionState = tuple[Tensor, ...]


class PredictionNetwork(Protocol):
    """Tokens `(B, U)` and what was remembered of those before them -> `(B, U, dim)` and what is remembered next.

    What comes before the first token counts as a blank. One call on many tokens equals a call on each.
    """

    def init_state(self, batch: int) -> PredictionState:
        """What `batch` streams remember before their first token."""

    def __call__(self, tokens: Tensor, state: PredictionState) -> tuple[Tensor, PredictionState]:
        """Predicts after each of the tokens."""


class StatelessPredictionNetwork(nn.Module):
    """Embedding and a convolution over the last `context_size` tokens (Ghodsi et al. 2020).

    Args:
        vocab_size: tokens, the blank included.
        dim: of embedding and output.
        context_size: tokens that count.
    """

    def __init__(self, vocab_size: int, dim: int, context_size: int) -> None:
        super().__init__()
        self.context_size = context_size
        self.embedding = nn.Embedding(vocab_size, dim, padding_idx=BLANK)
        self.convolution = nn.Conv1d(dim, dim, context_size)

    def init_state(self, batch: int) -> PredictionState:
        """`(B, context_size - 1)` blanks."""
        device = self.embedding.weight.device
        return (torch.full((batch, self.context_size - 1), BLANK, device=device),)

    def forward(self, tokens: Tensor, state: PredictionState) -> tuple[Tensor, PredictionState]:
        """See `PredictionNetwork`."""
        known = torch.cat([state[0], tokens], 1)
        predicted = F.relu(self.convolution(self.embedding(known).transpose(1, 2))).transpose(1, 2)
        return predicted, (known[:, known.shape[1] - self.context_size + 1 :],)


class LSTMPredictionNetwork(nn.Module):
    """Embedding and an LSTM over all tokens so far (Graves 2012).

    Args:
        vocab_size: tokens, the blank included.
        dim: of embedding, cells and output.
        num_layers: of the LSTM.
    """

    def __init__(self, vocab_size: int, dim: int, num_layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, dim, padding_idx=BLANK)
        self.lstm = nn.LSTM(dim, dim, num_layers, batch_first=True)

    def init_state(self, batch: int) -> PredictionState:
        """Outputs and cells `(B, layers, dim)` of zeros."""
        zeros = self.embedding.weight.new_zeros(batch, self.lstm.num_layers, self.lstm.hidden_size)
        return zeros, zeros.clone()

    def forward(self, tokens: Tensor, state: PredictionState) -> tuple[Tensor, PredictionState]:
        """See `PredictionNetwork`."""
        before = tuple(part.transpose(0, 1).contiguous() for part in state)
        # No autocast: oneDNN has no LSTM of mixed precision, and the state keeps its type.
        with torch.autocast(tokens.device.type, enabled=False):
            predicted, after = self.lstm(self.embedding(tokens), before)
        return predicted, tuple(part.transpose(0, 1) for part in after)


def make_prediction_network(
    kind: str, vocab_size: int, dim: int, context_size: int, num_layers: int
) -> PredictionNetwork:
    """A predictor by its name in the config.

    Raises:
        UserError: for an unknown one, and sizes below 1.
    """
    for name, value in {"prediction_dim": dim, "context_size": context_size, "prediction_layers": num_layers}.items():
        if value < 1:
            raise UserError(f"task.{name}={value}: give at least 1")
    if kind == "stateless":
        return StatelessPredictionNetwork(vocab_size, dim, context_size)
    if kind == "lstm":
        return LSTMPredictionNetwork(vocab_size, dim, num_layers)
    raise UserError(f"task.prediction_network={kind!r} is unknown: choose stateless or lstm")
