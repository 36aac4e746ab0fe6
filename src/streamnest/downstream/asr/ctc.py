"""Speech recognition with connectionist temporal classification (CTC) on a streaming encoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamnest.config.tasks import CTCConfig, DownstreamConfig
from streamnest.data.batch import Batch
from streamnest.downstream.asr.ctc_decoding import BeamSearch, Hypothesis, collapse
from streamnest.downstream.asr.ctc_losses import consistency_loss, ctc_loss, frames_needed
from streamnest.downstream.asr.ngram import NGram
from streamnest.downstream.asr.recognition import TextTask
from streamnest.downstream.asr.vocabulary import BLANK
from streamnest.downstream.base import Row
from streamnest.downstream.supervised import LossTerms
from streamnest.errors import UserError
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
    """Encoder and a linear layer to tokens and blank (Graves et al. 2006); the arguments are those of `TextTask`.

    With `consistency_weight`, training compares two views of each batch (CR-CTC, Yao et al. 2024).
    """

    Settings: ClassVar[type[DownstreamConfig]] = CTCConfig

    def __init__(self, *args: Any, settings: CTCConfig, **kwargs: Any) -> None:
        super().__init__(*args, settings=_with_time_masks(settings), **kwargs)
        self.settings, self.views = settings, 2 if settings.consistency_weight > 0 else 1
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

    def loss_terms(
        self, encoded: Tensor, valid: Tensor, batch: Batch, layers: list[Tensor]
    ) -> tuple[LossTerms, Tensor]:
        """Returns the CTC loss and what regularizes it: means over views, summed over usable rows and their frames."""
        rows = len(batch.ids)
        views = len(encoded) // rows
        targets, usable = self.usable_targets(valid[:rows], batch, self.unusable)
        outputs = self.outputs(encoded)
        loss, tokens = self.loss(outputs, valid, targets * views, usable * views)
        terms = {"loss": (1.0, loss / views)}
        if views > 1:
            inside = _frames_of(usable, valid[:rows], outputs.shape[1])
            one, other = (view[inside] for view in outputs.split(rows))
            terms["consistency"] = (self.settings.consistency_weight, consistency_loss(one, other))
        return terms, tokens / views

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

    def describe(self) -> list[Row]:
        """Adds the terms of the loss to the start panel."""
        settings = self.settings
        terms = ["CTC"]
        if self.views > 1:
            terms.append(f"{settings.consistency_weight:g} x consistency of {self.views} views of each batch")
        return [*super().describe(), ("loss", " + ".join(terms))]


def _with_time_masks(settings: CTCConfig) -> CTCConfig:
    """Returns settings with the amount of time masking that the views need.

    Raises:
        UserError: if every frame would be masked.
    """
    masks, scale = settings.spec_augment, settings.consistency_time_scale
    if settings.consistency_weight <= 0:
        return settings
    if masks.time_prob * scale > 1:
        raise UserError(
            f"task.spec_augment.time_prob={masks.time_prob:g} times task.consistency_time_scale={scale:g} is above 1: "
            "lower one of them"
        )
    return replace(settings, spec_augment=replace(masks, time_prob=masks.time_prob * scale))


def _frames_of(usable: list[bool], valid: Tensor, frames: int) -> Tensor:
    """Returns the valid frames of usable rows, boolean `(B, frames)`."""
    time = torch.arange(frames, device=valid.device)
    return (time < valid[:, None]) & torch.tensor(usable, device=valid.device)[:, None]
