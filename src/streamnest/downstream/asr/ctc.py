"""Speech recognition with connectionist temporal classification (CTC) on a streaming encoder."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamnest.config.tasks import CTCConfig, DownstreamConfig
from streamnest.downstream.asr.ctc_decoding import BeamSearch, Hypothesis, collapse
from streamnest.downstream.asr.ngram import NGram
from streamnest.downstream.asr.recognition import TextTask
from streamnest.downstream.asr.vocabulary import BLANK
from streamnest.streaming.heads import ExportedHead


def greedy(outputs: Tensor, lengths: Tensor, state: Tensor) -> tuple[list[list[int]], Tensor]:
    """Decodes greedily: the best token of each frame, without repeats and blanks; implements `TextTask.decode`."""
    rows = zip(outputs.argmax(-1), lengths.tolist(), state.tolist(), strict=True)
    collapsed = [collapse(row[:length], last) for row, length, last in rows]
    return [tokens for tokens, _ in collapsed], state.new_tensor([last for _, last in collapsed])


class LogProbs(ExportedHead):
    """Log-probabilities of tokens, with the tokenizer in the metadata.

    Args:
        layer: linear layer from frames to tokens.
        labels: tokenizer as plain containers.
    """

    kind, output = "ctc", "log_probs"

    def __init__(self, layer: nn.Linear, labels: Any) -> None:
        super().__init__()
        self.layer, self.labels, self.size = layer, labels, layer.out_features

    def forward(self, encoded: Tensor, valid: Tensor | None, memory: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Implements `ExportedHead`."""
        return F.log_softmax(self.layer(encoded), -1), None

    def describe(self) -> dict[str, Any]:
        """Implements `ExportedHead`."""
        return {**super().describe(), "labels": self.labels}


class CTCRecognizer(TextTask):
    """Encoder and a linear layer to tokens and blank (Graves et al. 2006); the arguments are those of `TextTask`."""

    Settings: ClassVar[type[DownstreamConfig]] = CTCConfig

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.head = nn.Linear(self.encoder.d_model, self.tokenizer.size)

    def log_probs(self, encoded: Tensor) -> Tensor:
        """Returns log-probabilities of tokens for encoder frames: `(..., d)` -> `(..., V)` float32."""
        return F.log_softmax(self.head(encoded).float(), -1)

    def outputs(self, encoded: Tensor) -> Tensor:
        """Returns log-probabilities."""
        return self.log_probs(encoded)

    def loss(
        self, outputs: Tensor, lengths: Tensor, targets: list[list[int]], usable: list[bool]
    ) -> tuple[Tensor, Tensor]:
        """Computes `ctc_loss`."""
        return ctc_loss(outputs, lengths, targets, usable)

    def unfit(self, target: list[int], frames: int) -> str:
        """Refuses texts that need more frames than there are."""
        return "longer text than frames" if frames_needed(target) > frames else ""

    def start(self, batch: int) -> Tensor:
        """Returns the best token `(B,)` of the previous frame, here a blank."""
        return torch.full((batch,), BLANK, device=self.device)

    def decode(self, outputs: Tensor, lengths: Tensor, state: Tensor) -> tuple[list[list[int]], Tensor]:
        """Decodes greedily: the best token of each frame, without repeats and blanks."""
        return greedy(outputs, lengths, state)

    def exported_head(self) -> ExportedHead:
        """Returns a head that computes log-probabilities."""
        return LogProbs(self.head, self.tokenizer.plain())

    def search(
        self, beam: int, ngram: NGram | None = None, lm_weight: float = 0.5, bonus: float = 0.5
    ) -> Callable[[Tensor], list[Hypothesis]]:
        """Returns a prefix beam search."""
        return BeamSearch(self.tokenizer, beam, ngram, lm_weight, bonus)


def frames_needed(target: list[int]) -> int:
    """Returns the smallest number of frames for some tokens; repeated tokens need a blank between them."""
    return len(target) + sum(a == b for a, b in pairwise(target))


def ctc_loss(log_probs: Tensor, lengths: Tensor, targets: list[list[int]], usable: list[bool]) -> tuple[Tensor, Tensor]:
    """Returns the sum of the CTC loss over usable rows, and their number of tokens, both 0-dim.

    Args:
        log_probs: `(B, T, V)`.
        lengths: `(B,)` number of valid frames.
        targets: tokens of each row.
        usable: True for rows that count.
    """
    rows = [row for row, good in enumerate(usable) if good]
    if not rows:
        return log_probs.sum() * 0.0, log_probs.new_zeros(())
    sizes = torch.tensor([len(targets[row]) for row in rows], device=log_probs.device)
    flat = torch.tensor([token for row in rows for token in targets[row]], device=log_probs.device)
    chosen = log_probs[rows].transpose(0, 1)
    loss = F.ctc_loss(chosen, flat, lengths[rows], sizes, blank=BLANK, reduction="sum")
    return loss, sizes.sum().float()
