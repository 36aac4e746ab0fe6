"""Prediction networks of transducers, which encode the tokens emitted so far."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamnest.downstream.asr.vocabulary import BLANK
from streamnest.errors import UserError

# Tensors with the stream as first dimension.
PredictionState = tuple[Tensor, ...]


class PredictionNetwork(Protocol):
    """Interface of a prediction network: tokens `(B, U)` and a state -> outputs `(B, U, dim)` and the next state.

    The first token is preceded by blanks. One call on several tokens gives the same as one call for each token.
    """

    def init_state(self, batch: int) -> PredictionState:
        """Returns the state of `batch` streams before their first token."""

    def __call__(self, tokens: Tensor, state: PredictionState) -> tuple[Tensor, PredictionState]:
        """Returns one output after each token, and the next state."""


class StatelessPredictionNetwork(nn.Module):
    """Embedding and a convolution over the last `context_size` tokens (Ghodsi et al. 2020).

    Args:
        vocab_size: number of tokens, including the blank.
        dim: size of embedding and output.
        context_size: number of tokens that the output depends on.
    """

    def __init__(self, vocab_size: int, dim: int, context_size: int) -> None:
        super().__init__()
        self.context_size = context_size
        self.embedding = nn.Embedding(vocab_size, dim, padding_idx=BLANK)
        self.convolution = nn.Conv1d(dim, dim, context_size)

    def init_state(self, batch: int) -> PredictionState:
        """Returns `(B, context_size - 1)` blanks."""
        device = self.embedding.weight.device
        return (torch.full((batch, self.context_size - 1), BLANK, device=device),)

    def forward(self, tokens: Tensor, state: PredictionState) -> tuple[Tensor, PredictionState]:
        """Implements `PredictionNetwork`."""
        context = torch.cat([state[0], tokens], 1)
        predicted = F.relu(self.convolution(self.embedding(context).transpose(1, 2))).transpose(1, 2)
        return predicted, (context[:, context.shape[1] - self.context_size + 1 :],)


class LSTMPredictionNetwork(nn.Module):
    """Embedding and an LSTM over all tokens so far (Graves 2012).

    Args:
        vocab_size: number of tokens, including the blank.
        dim: size of embedding, cells and output.
        num_layers: number of LSTM layers.
    """

    def __init__(self, vocab_size: int, dim: int, num_layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, dim, padding_idx=BLANK)
        self.lstm = nn.LSTM(dim, dim, num_layers, batch_first=True)

    def init_state(self, batch: int) -> PredictionState:
        """Returns outputs and cells `(B, layers, dim)` of zeros."""
        zeros = self.embedding.weight.new_zeros(batch, self.lstm.num_layers, self.lstm.hidden_size)
        return zeros, zeros.clone()

    def forward(self, tokens: Tensor, state: PredictionState) -> tuple[Tensor, PredictionState]:
        """Implements `PredictionNetwork`."""
        before = tuple(part.transpose(0, 1).contiguous() for part in state)
        # No autocast: oneDNN has no LSTM in mixed precision, and the state must keep its type.
        with torch.autocast(tokens.device.type, enabled=False):
            predicted, after = self.lstm(self.embedding(tokens), before)
        return predicted, tuple(part.transpose(0, 1) for part in after)


def make_prediction_network(
    kind: str, vocab_size: int, dim: int, context_size: int, num_layers: int
) -> PredictionNetwork:
    """Builds the prediction network of a config.

    Args:
        kind: "stateless" or "lstm".
        vocab_size: number of tokens, including the blank.
        dim: size of embedding and output.
        context_size: context of a stateless network, in tokens.
        num_layers: number of layers of an LSTM.

    Raises:
        UserError: for an unknown kind, and for sizes below 1.
    """
    for name, value in {"prediction_dim": dim, "context_size": context_size, "prediction_layers": num_layers}.items():
        if value < 1:
            raise UserError(f"task.{name}={value}: must be at least 1")
    if kind == "stateless":
        return StatelessPredictionNetwork(vocab_size, dim, context_size)
    if kind == "lstm":
        return LSTMPredictionNetwork(vocab_size, dim, num_layers)
    raise UserError(f"task.prediction_network={kind!r} is unknown: choose stateless or lstm")
