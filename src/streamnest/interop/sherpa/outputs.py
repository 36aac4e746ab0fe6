"""First output of the graphs for sherpa-onnx; the blank is the last token there and token 0 here."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Frame rate that sherpa-onnx assumes for the time stamps and endpoints of CTC models, in feature frames.
CTC_FACTOR = 4


def blank_last(x: Tensor) -> Tensor:
    """Moves the blank from the first place of the last dimension to the last."""
    return torch.cat([x[..., 1:], x[..., :1]], dim=-1)


class CTCOutput(nn.Module):
    """Log-probabilities of tokens `(B, k * repeats, V)`.

    Frames longer than 40 ms are repeated: a repeated frame does not change the text of CTC, and time stamps fit.

    Args:
        head: linear layer from frames to tokens.
        factor: subsampling factor of the encoder.
    """

    def __init__(self, head: nn.Linear, factor: int) -> None:
        super().__init__()
        self.head, self.repeats = head, max(1, factor // CTC_FACTOR)

    def forward(self, encoded: Tensor, valid: Tensor | None) -> Tensor:
        """Returns the output of a step; frames that are not valid are blanks."""
        scores = blank_last(F.log_softmax(self.head(encoded), dim=-1))
        if valid is not None:
            blank = torch.full_like(scores, -100.0)
            blank[..., -1] = 0.0
            scores = torch.where(valid[..., None], scores, blank)
        return scores.repeat_interleave(self.repeats, dim=1) if self.repeats > 1 else scores
