"""Prediction network and joiner in the interface that sherpa-onnx has for streaming NeMo transducers.

The runtime numbers the blank last, begins with a blank and states of zeros, and steps one stream at a time.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from streamnest.downstream.asr.prediction_network import LSTMPredictionNetwork, StatelessPredictionNetwork
from streamnest.downstream.asr.transducer import Transducer
from streamnest.interop.sherpa.outputs import blank_last

# Largest number of tokens that the runtime emits for a frame.
MAX_SYMBOLS = 10
# Added to the score of the blank in frames that belong to no audio.
_NOT_VALID = 1e4


class FrameOutput(nn.Module):
    """Encoder frames projected for the joiner, `(B, J + 1, k)`: the last channel is above 0 if a frame is not valid.

    Args:
        transducer: head of the model.
    """

    def __init__(self, transducer: Transducer) -> None:
        super().__init__()
        self.project = transducer.of_frames

    def forward(self, encoded: Tensor, valid: Tensor | None) -> Tensor:
        """Returns the output of a step."""
        frames = self.project(encoded)
        invalid = frames.new_zeros(frames.shape[:2]) if valid is None else (~valid).to(frames.dtype)
        return torch.cat([frames, _NOT_VALID * invalid[..., None]], dim=-1).transpose(1, 2)


class DecoderGraph(nn.Module):
    """Prediction network, one token of one stream at a time.

    Args:
        transducer: head of the model.

    Attributes:
        state: shape of each of the two states.
    """

    def __init__(self, transducer: Transducer) -> None:
        super().__init__()
        self.network, self.project = transducer.prediction_network, transducer.of_tokens
        self.vocab_size = transducer.output.out_features
        if isinstance(self.network, LSTMPredictionNetwork):
            self.state = (self.network.lstm.num_layers, 1, self.network.lstm.hidden_size)
        else:
            self.state = (max(1, cast(StatelessPredictionNetwork, self.network).context_size - 1), 1, 1)

    def forward(self, target: Tensor, length: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, ...]:
        """Computes one step.

        Args:
            target: `(1, 1)` int32, the last token.
            length: `(1,)` int32; always 1.
            first: outputs of an LSTM, or the tokens before `target`.
            second: cells of an LSTM; not used otherwise.

        Returns:
            Output `(1, J, 1)` projected for the joiner, its length, and the next two states.
        """
        token = (target.long() + 1) % self.vocab_size
        if isinstance(self.network, LSTMPredictionNetwork):
            predicted, (first, second) = self.network(token, (first.transpose(0, 1), second.transpose(0, 1)))
            first, second = first.transpose(0, 1), second.transpose(0, 1)
        else:
            context = cast(StatelessPredictionNetwork, self.network).context_size
            past = first[:, :, 0].long().t()[:, : context - 1]
            predicted, (tokens,) = self.network(token, (past,))
            # Zeros are blanks, so that the runtime begins with blanks as training does.
            first, second = tokens.t()[..., None].float() if tokens.shape[1] else first * 0, second * 0
        return self.project(predicted).transpose(1, 2), torch.full_like(length, 1), first, second

    def inputs(self) -> tuple[Tensor, ...]:
        """Returns inputs for the first token of a stream."""
        target = torch.full((1, 1), self.vocab_size - 1, dtype=torch.int32)
        return target, torch.ones(1, dtype=torch.int32), torch.zeros(self.state), torch.zeros(self.state)


class JoinerGraph(nn.Module):
    """Scores of the next token from a frame `(1, J + 1, 1)` and an output of the prediction network `(1, J, 1)`.

    Args:
        transducer: head of the model.
    """

    def __init__(self, transducer: Transducer) -> None:
        super().__init__()
        self.output = transducer.output

    def forward(self, frame: Tensor, predicted: Tensor) -> Tensor:
        """Returns scores `(1, 1, 1, V)`."""
        frame, invalid = frame[:, :-1, 0], frame[:, -1, 0]
        scores = blank_last(self.output(torch.tanh(frame + predicted[:, :, 0])))
        scores = torch.cat([scores[:, :-1], scores[:, -1:] + invalid[:, None]], dim=-1)
        return scores[:, None, None]

    def inputs(self) -> tuple[Tensor, ...]:
        """Returns inputs of silence."""
        size = self.output.in_features
        return torch.zeros(1, size + 1, 1), torch.zeros(1, size, 1)
