"""RNN-T head: prediction network, joiner, transducer loss and greedy decoding."""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torchaudio.functional import rnnt_loss

from streamnest.downstream.asr.prediction_network import PredictionNetwork, PredictionState
from streamnest.downstream.asr.vocabulary import BLANK
from streamnest.encoder.state import map_state


class DecoderState(NamedTuple):
    """Decoder state between frames; the first dimension is the stream.

    Attributes:
        predicted: `(B, J)` output of the prediction network, projected for the joiner.
        prediction: state of the prediction network.
    """

    predicted: Tensor
    prediction: PredictionState


class Transducer(nn.Module):
    """Prediction network and joiner (Graves 2012): scores of the next token from a frame and the previous tokens.

    Args:
        prediction_network: network over tokens.
        prediction_dim: size of its outputs.
        encoder_dim: size of encoder frames.
        joiner_dim: J, size of the projections that the joiner adds.
        vocab_size: V, number of tokens, including the blank.
    """

    def __init__(
        self,
        prediction_network: PredictionNetwork,
        prediction_dim: int,
        encoder_dim: int,
        joiner_dim: int,
        vocab_size: int,
    ) -> None:
        super().__init__()
        self.prediction_network = prediction_network
        self.of_frames = nn.Linear(encoder_dim, joiner_dim)
        self.of_tokens = nn.Linear(prediction_dim, joiner_dim, bias=False)
        self.output = nn.Linear(joiner_dim, vocab_size)
        # The blank starts as likely as all tokens together; otherwise an untrained model emits tokens in every frame.
        nn.init.zeros_(self.output.bias)
        nn.init.constant_(self.output.bias[BLANK], math.log(vocab_size - 1))

    def join(self, frames: Tensor, predicted: Tensor) -> Tensor:
        """Returns logits `(..., V)` from the projections `of_frames` and `of_tokens`, `(..., J)` each."""
        return cast(Tensor, self.output(torch.tanh(frames + predicted)))

    @torch.no_grad()
    def start(self, batch: int) -> DecoderState:
        """Returns the state of `batch` streams before their first frame."""
        blanks = torch.full((batch,), BLANK, device=self.output.weight.device)
        return self.advance(blanks, self.prediction_network.init_state(batch))

    def advance(self, tokens: Tensor, before: PredictionState) -> DecoderState:
        """Returns the state after one more token `(B,)`."""
        predicted, after = self.prediction_network(tokens[:, None], before)
        return DecoderState(self.of_tokens(predicted[:, 0]), after)

    @torch.no_grad()
    def greedy(
        self, frames: Tensor, lengths: Tensor, state: DecoderState, max_symbols: int
    ) -> tuple[list[list[int]], DecoderState]:
        """Emits the best token in each frame until it is the blank.

        Args:
            frames: `(B, k, J)` next frames of each stream, projected by `of_frames`.
            lengths: `(B,)` number of valid frames.
            state: state from `start` or the previous call.
            max_symbols: largest number of tokens of a frame.

        Returns:
            New tokens of each stream, and the next state.
        """
        emitted = [lengths.new_full((len(frames),), BLANK)]
        for t, frame in enumerate(frames.unbind(1)):
            active = t < lengths
            for _ in range(max_symbols):
                best = self.join(frame, state.predicted).argmax(-1)
                active = active & (best != BLANK)
                if not active.any():
                    break
                emitted.append(torch.where(active, best, BLANK))
                state = _where(active, self.advance(best, state.prediction), state)
        rows = torch.stack(emitted, 1).tolist()
        return [[token for token in row if token != BLANK] for row in rows], state

    def loss(self, frames: Tensor, lengths: Tensor, targets: list[list[int]], most: int) -> Tensor:
        """Returns the sum of the transducer loss of all rows, 0-dim.

        Scores are `(rows, T, U + 1, V)`. If they have more than `most` numbers, rows are processed in groups and their
        scores are recomputed for the gradient, so that only the scores of one group are in memory.

        Args:
            frames: `(B, T, J)`, projected by `of_frames`.
            lengths: `(B,)` number of valid frames, at least 1.
            targets: tokens of each row, at least 1.
            most: largest number of scores in memory; a single row may exceed it.
        """
        padded, predicted = self._predicted(targets, frames.device)
        frame_counts, token_counts = lengths.tolist(), [len(target) for target in targets]
        parts = split_rows(frame_counts, token_counts, most // max(self.output.weight.shape))
        total = frames.new_zeros((), dtype=torch.float32)
        for rows in parts:
            t, u = max(frame_counts[rows]), max(token_counts[rows])
            inputs = (frames[rows, :t], predicted[rows, : u + 1], padded[rows, 1 : u + 1], lengths[rows])
            counts = torch.tensor(token_counts[rows], dtype=torch.int32, device=frames.device)
            if len(parts) > 1:
                total = total + checkpoint(self._loss, *inputs, counts, use_reentrant=False, preserve_rng_state=False)
            else:
                total = total + self._loss(*inputs, counts)
        return total

    def divergence(
        self, target: Tensor, frames: Tensor, lengths: Tensor, targets: list[list[int]], most: int
    ) -> Tensor:
        """Returns the divergence of the next token from that of other frames, summed over rows and frames, 0-dim.

        It is the mean over the prefixes of the text, so that its size is that of a divergence of frames.

        Args:
            target: `(B, T, J)` frames whose scores are the targets; they get no gradient.
            frames: `(B, T, J)`.
            lengths: `(B,)` number of valid frames, at least 1.
            targets: tokens of each row, at least 1.
            most: argument of `loss`.
        """
        _, predicted = self._predicted(targets, frames.device)
        frame_counts, token_counts = lengths.tolist(), [len(one) for one in targets]
        total = frames.new_zeros((), dtype=torch.float32)
        for rows in split_rows(frame_counts, token_counts, most // (2 * max(self.output.weight.shape))):
            t, u = max(frame_counts[rows]), max(token_counts[rows])
            counts = torch.tensor(token_counts[rows], device=frames.device)
            inputs = (target[rows, :t], frames[rows, :t], predicted[rows, : u + 1], lengths[rows], counts)
            total = total + checkpoint(self._divergence, *inputs, use_reentrant=False, preserve_rng_state=False)
        return total

    def _divergence(self, target: Tensor, frames: Tensor, predicted: Tensor, lengths: Tensor, counts: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self.join(target[:, :, None], predicted[:, None]).float().log_softmax(-1)
        scores = self.join(frames[:, :, None], predicted[:, None]).float().log_softmax(-1)
        each = F.kl_div(scores, wanted, reduction="none", log_target=True).sum(-1)
        inside = torch.arange(each.shape[1], device=each.device) < lengths[:, None]
        known = torch.arange(each.shape[2], device=each.device) <= counts[:, None]
        mean = (each * known[:, None]).sum(-1) / (counts[:, None] + 1)
        return (mean * inside).sum()

    def _predicted(self, targets: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
        """Returns the padded tokens after a blank `(B, U + 1)`, and the outputs of the prediction network."""
        padded = nn.utils.rnn.pad_sequence([torch.tensor([BLANK, *target]) for target in targets], batch_first=True)
        padded = padded.to(device)
        states = self.prediction_network.init_state(len(targets))
        return padded, self.of_tokens(self.prediction_network(padded, states)[0])

    def _loss(self, frames: Tensor, predicted: Tensor, tokens: Tensor, lengths: Tensor, counts: Tensor) -> Tensor:
        logits = self.join(frames[:, :, None], predicted[:, None]).float()
        return rnnt_loss(logits, tokens.int().contiguous(), lengths.int(), counts, blank=BLANK, reduction="sum")


def split_rows(frames: list[int], tokens: list[int], most: int) -> list[slice]:
    """Groups adjacent rows so that each group has at most `most` pairs of a frame and a text prefix, with padding."""
    groups, first = [], 0
    for row in range(1, len(frames) + 1):
        pairs = (row + 1 - first) * max(frames[first : row + 1]) * (max(tokens[first : row + 1]) + 1)
        if row == len(frames) or pairs > most:
            groups.append(slice(first, row))
            first = row
    return groups


def _where(condition: Tensor, then: DecoderState, other: DecoderState) -> DecoderState:
    """Selects rows of two states by a condition `(B,)`."""
    state: DecoderState = map_state(
        lambda a, b: torch.where(condition.view(-1, *[1] * (a.ndim - 1)), a, b), then, other
    )
    return state
