"""Recognition by connectionist temporal classification, on the frames of a streaming encoder."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamnest.data.batch import Batch
from streamnest.downstream.base import DownstreamConfig, DownstreamTask, Row
from streamnest.downstream.decoding import greedy
from streamnest.downstream.scoring import Utterance, summarise
from streamnest.downstream.text import BLANK, join, load_tokenizer, make_tokenizer, normalize_text

if TYPE_CHECKING:
    from streamnest.data.datamodule import SpeechDataModule

log = logging.getLogger(__name__)


@dataclass
class CTCConfig(DownstreamConfig):
    """Schema of `task=ctc`.

    Attributes:
        tokenizer: "char" or "sentencepiece".
        vocab_size: tokens of sentencepiece, the blank included.
    """

    name: str = "ctc"
    monitor: str = "val/cer"
    tokenizer: str = "char"
    vocab_size: int = 256


class CTCRecognizer(DownstreamTask):
    """Encoder and a linear layer to tokens and blank (Graves et al. 2006); see `DownstreamTask` for the arguments.

    Utterances without text, or whose text is longer than their frames allow, are left out of the loss and counted in
    `unusable`; so is nothing else: they are recognised and scored.
    """

    Settings: ClassVar[type[DownstreamConfig]] = CTCConfig
    transcribed: ClassVar[bool] = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tokenizer = load_tokenizer(self.labels)
        self.head = nn.Linear(self.encoder.d_model, self.tokenizer.size)
        self.unusable: Counter[str] = Counter()
        self._utterances: list[Utterance] = []
        self._sums = torch.zeros(2)

    @classmethod
    def find_labels(cls, settings: CTCConfig, data: SpeechDataModule) -> dict[str, Any]:
        """The tokenizer of the training texts."""
        texts = map(normalize_text, data.texts())
        return make_tokenizer(settings.tokenizer, texts, settings.vocab_size).plain()

    def log_probs(self, encoded: Tensor) -> Tensor:
        """Of tokens, for encoder frames: `(..., d)` -> `(..., V)` float32."""
        return F.log_softmax(self.head(encoded).float(), -1)

    def recognize(self, audio: Tensor, lengths: Tensor) -> list[str]:
        """Texts of audio `(B, N)` of `lengths` `(B,)`, by the best token of each frame."""
        encoded, valid = self(audio, lengths)
        return self._texts(self.log_probs(encoded), valid)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Nats per token of the text over all ranks; a batch without usable text gives 0."""
        encoded, valid = self.encode(batch, batch.step)
        loss, tokens = self._loss(self.log_probs(encoded), valid, batch, self.unusable)
        sums = self._over_ranks(torch.stack([loss.detach(), tokens, torch.full_like(loss, batch.seconds)]))
        self.seconds_heard += sums[2]
        if sums[1] > 0:
            self.log("train/loss", sums[0] / sums[1], batch_size=len(batch.ids))
        self.log("train/lr", self.optimizers().param_groups[0]["lr"], batch_size=len(batch.ids))  # type: ignore[union-attr]
        self.log("train/hours", (self.seconds_heard / 3600).float(), batch_size=len(batch.ids))
        # DDP averages gradients over ranks: times their number, so that each token weighs the same.
        return loss * self.trainer.world_size / sums[1].clamp_min(1)

    def on_validation_epoch_start(self) -> None:
        """Empties the sums."""
        super().on_validation_epoch_start()
        self._utterances, self._sums = [], torch.zeros(2, device=self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Adds to the loss and keeps what was recognised."""
        encoded, valid = self.encode(batch, 0)
        log_probs = self.log_probs(encoded)
        self._sums += torch.stack(self._loss(log_probs, valid, batch, Counter()))
        for cut_id, label, text in zip(batch.ids, batch.labels, self._texts(log_probs, valid), strict=True):
            reference = normalize_text(label.text or "")
            if reference:
                known = self.trainer.datamodule.knows(label)  # type: ignore[attr-defined]
                self._utterances.append(Utterance(cut_id, reference, text, known))

    def on_validation_epoch_end(self) -> None:
        """Logs loss and error rates of all ranks."""
        loss, tokens = self._over_ranks(self._sums)
        figures = {"loss": float(loss / tokens.clamp_min(1)), **summarise(_of_all_ranks(self._utterances))}
        self.log_dict({f"val/{name}": value for name, value in figures.items()}, sync_dist=True)

    def describe(self) -> list[Row]:
        """What the start panel says."""
        return [*super().describe(), ("tokens", f"{self.tokenizer.size} with the blank, {self.labels['kind']}")]

    def learned(self, first: dict[str, float], last: dict[str, float]) -> list[Row]:
        """Error rates before and after, with their intervals."""
        rows = super().learned(first, last)
        for unit, name in (("cer", "character errors"), ("wer", "word errors")):
            if f"val/{unit}" in last:
                now = {key: last.get(f"val/{unit}{key}") for key in ("", "_low", "_high", "_seen", "_unseen")}
                text = f"{first[f'val/{unit}']:.1%} -> {now['']:.1%} ({now['_low']:.1%} to {now['_high']:.1%})"
                groups = [
                    f"{now[key]:.1%} of {key[1:]} speakers" for key in ("_seen", "_unseen") if now[key] is not None
                ]
                rows.append((name, ", ".join([text, *groups])))
        unusable = ", ".join(f"{count} {cause}" for cause, count in sorted(self.unusable.items()))
        return [*rows, ("left out of the loss", unusable)] if unusable else rows

    def _texts(self, log_probs: Tensor, valid: Tensor) -> list[str]:
        return [join(self.tokenizer, tokens) for tokens in greedy(log_probs, valid)]

    def _loss(self, log_probs: Tensor, valid: Tensor, batch: Batch, unusable: Counter[str]) -> tuple[Tensor, Tensor]:
        """Sum of nats and number of tokens over the usable rows."""
        targets = [self.tokenizer.encode(normalize_text(label.text or "")) for label in batch.labels]
        causes = [_unusable(target, frames) for target, frames in zip(targets, valid.tolist(), strict=True)]
        for cause, cut_id in zip(causes, batch.ids, strict=True):
            if cause and cut_id != "silence":
                if not unusable[cause]:
                    log.warning("%s is left out of the loss: %s; the summary counts how many", cut_id, cause)
                unusable[cause] += 1
        return ctc_loss(log_probs, valid, targets, [not cause for cause in causes])


def ctc_loss(log_probs: Tensor, lengths: Tensor, targets: list[list[int]], usable: list[bool]) -> tuple[Tensor, Tensor]:
    """Sum of the CTC loss over usable rows, and their number of tokens, both 0-dim.

    Args:
        log_probs: `(B, T, V)`.
        lengths: `(B,)` valid frames.
        targets: tokens of each row.
        usable: which rows count.
    """
    rows = [row for row, good in enumerate(usable) if good]
    if not rows:
        return log_probs.sum() * 0.0, log_probs.new_zeros(())
    sizes = torch.tensor([len(targets[row]) for row in rows], device=log_probs.device)
    flat = torch.tensor([token for row in rows for token in targets[row]], device=log_probs.device)
    chosen = log_probs[rows].transpose(0, 1)
    loss = F.ctc_loss(chosen, flat, lengths[rows], sizes, blank=BLANK, reduction="sum")
    return loss, sizes.sum().float()


def _unusable(target: list[int], frames: int) -> str:
    """Why CTC cannot learn a target from so many frames; empty where it can. Repeats need a blank between them."""
    if not target:
        return "without text"
    needed = len(target) + sum(a == b for a, b in pairwise(target))
    return "longer text than frames" if needed > frames else ""


def _of_all_ranks(utterances: list[Utterance]) -> list[Utterance]:
    """Those that every process has, in an order that does not depend on who has which."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        parts: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(parts, utterances)
        utterances = [utterance for part in parts for utterance in part]
    return sorted(utterances, key=lambda utterance: utterance.id)
