"""Speech recognition with connectionist temporal classification (CTC) on a streaming encoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamnest.config.tasks import CTCConfig, DownstreamConfig
from streamnest.data.batch import Batch
from streamnest.downstream.asr.ctc_decoding import BeamSearch, Hypothesis, collapse
from streamnest.downstream.asr.ctc_losses import (
    aligned_divergence,
    consistency_loss,
    ctc_loss,
    frames_needed,
    smoothing_loss,
)
from streamnest.downstream.asr.ctc_settings import describe_loss, intermediate_layers, term_weights, with_time_masks
from streamnest.downstream.asr.ngram import NGram
from streamnest.downstream.asr.recognition import TextTask
from streamnest.downstream.asr.teacher import Teacher
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

    Training may compare two views of each batch (CR-CTC, Yao et al. 2024), supervise layers below the last one by the
    same head (Lee and Watanabe 2021), smooth the labels (Kim et al. 2018) and learn the posteriors of a teacher.

    Attributes:
        teacher: source of posteriors for training, which `load_recognizer_teacher` sets; checkpoints do not contain it.

    Raises:
        UserError: for settings that contradict each other.
    """

    teacher: Teacher | None = None

    Settings: ClassVar[type[DownstreamConfig]] = CTCConfig

    def __init__(self, *args: Any, settings: CTCConfig, **kwargs: Any) -> None:
        super().__init__(*args, settings=with_time_masks(settings), **kwargs)
        self.settings, self.term_weights = settings, term_weights(settings)
        self.views = 2 if "consistency" in self.term_weights else 1
        frozen = self.freeze_steps is None
        self.supervised_layers = intermediate_layers(settings, len(self.encoder.layers), frozen)
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

    def divergence(
        self, target: Tensor, outputs: Tensor, lengths: Tensor, targets: list[list[int]], usable: list[bool]
    ) -> Tensor:
        """Computes the divergence of each frame."""
        return aligned_divergence(target, outputs, lengths, torch.tensor(usable, device=lengths.device))

    def loss_terms(
        self, encoded: Tensor, valid: Tensor, batch: Batch, layers: list[Tensor], offline: Tensor | None = None
    ) -> tuple[LossTerms, Tensor]:
        """Returns the CTC loss and its regularizers, summed over usable rows and averaged over views."""
        if set(self.term_weights) == {"loss"}:
            return super().loss_terms(encoded, valid, batch, layers, offline)
        rows = len(batch.ids)
        views = len(encoded) // rows
        targets, usable = self.usable_targets(valid[:rows], batch, self.unusable)
        outputs = self.outputs(encoded)
        supervision = (valid, targets * views, usable * views)
        loss, tokens = self.loss(outputs, *supervision)
        sums = {"loss": loss, **self._frame_terms(outputs, valid[:rows], batch, usable)}
        if layers:
            losses = [self.loss(self.outputs(x), *supervision)[0] for x in layers]
            sums["intermediate"] = torch.stack(losses).mean()
        terms = {name: (self.term_weights[name], nats) for name, nats in sums.items()}
        terms |= self.offline_terms(outputs, valid, offline, targets * views, usable * views)
        return {name: (weight, nats / views) for name, (weight, nats) in terms.items()}, tokens / views

    def _frame_terms(self, outputs: Tensor, valid: Tensor, batch: Batch, usable: list[bool]) -> dict[str, Tensor]:
        """Returns the terms that compare distributions, summed over the valid frames of usable rows and views.

        Args:
            outputs: `(views * B, T', V)`.
            valid: `(B,)`.
            batch: batch of audio.
            usable: True for rows that count.
        """
        chosen = torch.tensor(usable, device=valid.device)
        inside = (torch.arange(outputs.shape[1], device=valid.device) < valid[:, None]) & chosen[:, None]
        views = outputs.split(len(usable))
        sums = {}
        if "smoothing" in self.term_weights:
            sums["smoothing"] = torch.stack([smoothing_loss(view[inside]) for view in views]).sum()
        if len(views) > 1:
            sums["consistency"] = len(views) * consistency_loss(views[0][inside], views[1][inside])
        if self.teacher and "distillation" in self.term_weights:
            first = self.encoder.target_shift
            sums["distillation"] = self.teacher.loss(outputs, valid, batch, chosen, first)
        return sums

    def on_fit_start(self) -> None:
        """Moves the teacher to the device.

        Raises:
            UserError: if the teacher was not loaded.
        """
        super().on_fit_start()
        if self.teacher:
            self.teacher.to(self.device)
        elif "distillation" in self.term_weights:
            raise UserError(
                f"task.teacher={self.settings.teacher} is not loaded: call load_recognizer_teacher of "
                "streamnest.checkpoint.recognizer_teacher"
            )

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
        return [*super().describe(), ("loss", describe_loss(self.settings))]
