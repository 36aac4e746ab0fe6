"""Base of the speech recognition tasks: tokenizer, usable transcripts, losses per token, and error rates."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from streamnest.config.tasks import DownstreamConfig, TextConfig
from streamnest.data.batch import Batch
from streamnest.downstream.asr.ctc_decoding import Hypothesis
from streamnest.downstream.asr.ngram import NGram
from streamnest.downstream.asr.vocabulary import join, load_tokenizer, make_tokenizer, normalize_text
from streamnest.downstream.base import Row
from streamnest.downstream.metrics.error_rates import RecognizedUtterance, rows_of_rates, summarize
from streamnest.downstream.supervised import LossTerms, SupervisedTask, of_all_ranks

if TYPE_CHECKING:
    from streamnest.data.datamodule import SpeechDataModule

log = logging.getLogger(__name__)


class TextTask(SupervisedTask):
    """Speech recognition; the arguments are those of `DownstreamTask`.

    A subclass defines `outputs`, `loss`, `unfit`, the incremental `start` and `decode`, and `search`. Utterances
    without a transcript, or with one that is too long for their frames, are left out of the loss and counted in
    `unusable`; validation still recognizes and scores them.
    """

    Settings: ClassVar[type[DownstreamConfig]] = TextConfig
    transcribed: ClassVar[bool] = True
    has_dual_mode: ClassVar[bool] = True
    shaped_by: ClassVar[tuple[str, ...]] = ("tokenizer", "vocab_size")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tokenizer = load_tokenizer(self.labels)
        self.unusable: Counter[str] = Counter()
        self._utterances: list[RecognizedUtterance] = []
        self._sums = torch.zeros(2)

    @classmethod
    def find_labels(cls, settings: Any, data: SpeechDataModule) -> dict[str, Any]:
        """Builds the tokenizer from the training transcripts."""
        texts = map(normalize_text, data.texts())
        return make_tokenizer(settings.tokenizer, texts, settings.vocab_size).plain()

    def outputs(self, encoded: Tensor) -> Tensor:
        """Computes the input of loss and decoding from encoder frames: `(B, T, d)` -> `(B, T, E)`."""
        raise NotImplementedError

    def loss(
        self, outputs: Tensor, lengths: Tensor, targets: list[list[int]], usable: list[bool]
    ) -> tuple[Tensor, Tensor]:
        """Returns the loss in nats, summed over usable rows, and their number of tokens, both 0-dim.

        Args:
            outputs: `(B, T, E)`.
            lengths: `(B,)` number of valid frames.
            targets: tokens of each row.
            usable: True for rows that count; if there are none, the loss is 0 and has gradients.
        """
        raise NotImplementedError

    def divergence(
        self, target: Tensor, outputs: Tensor, lengths: Tensor, targets: list[list[int]], usable: list[bool]
    ) -> Tensor:
        """Returns the divergence of outputs from those of the offline branch, summed over usable rows, 0-dim.

        Args:
            target: `(B, T, E)` outputs of the offline branch, which get no gradient; frame t is the target of frame t.
            outputs: `(B, T, E)`.
            lengths: `(B,)` number of frames that count, at least in part.
            targets: tokens of each row.
            usable: True for rows that count.
        """
        raise NotImplementedError

    def unfit(self, target: list[int], frames: int) -> str:
        """Returns why a target cannot be trained on with so many frames; empty if it can."""
        raise NotImplementedError

    def start(self, batch: int) -> Any:
        """Returns the initial decoder state of `batch` streams: tensors `(B, ...)`, or tuples of them."""
        raise NotImplementedError

    def decode(self, outputs: Tensor, lengths: Tensor, state: Any) -> tuple[list[list[int]], Any]:
        """Decodes the next frames; the tokens are final.

        Args:
            outputs: `(B, k, E)` for the next frames of each stream.
            lengths: `(B,)` number of valid frames.
            state: decoder state from `start` or the previous call.

        Returns:
            New tokens of each stream, and the next state.
        """
        raise NotImplementedError

    def search(
        self, beam: int, ngram: NGram | None = None, lm_weight: float = 0.5, bonus: float = 0.5
    ) -> Callable[[Tensor], list[Hypothesis]]:
        """Returns a beam search over the `(T, E)` outputs of an utterance.

        Args:
            beam: number of prefixes to keep.
            ngram: argument of `Language`, like the following ones.
            lm_weight: argument of `Language`.
            bonus: argument of `Language`.
        """
        raise NotImplementedError

    def recognize(self, audio: Tensor, lengths: Tensor) -> list[str]:
        """Recognizes audio `(B, N)` of `lengths` `(B,)` samples by greedy decoding."""
        encoded, valid = self(audio, lengths)
        return self._texts(self.outputs(encoded), valid)

    def loss_of(self, encoded: Tensor, valid: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Implements `SupervisedTask.loss_of`; a decision is one token of a usable transcript."""
        return self._loss(self.outputs(encoded), valid, batch, self.unusable)

    def loss_terms(
        self, encoded: Tensor, valid: Tensor, batch: Batch, layers: list[Tensor], offline: Tensor | None = None
    ) -> tuple[LossTerms, Tensor]:
        """Returns the loss of the transcripts and, in dual mode, the terms of the offline branch."""
        if offline is None:
            return super().loss_terms(encoded, valid, batch, layers)
        supervision = self.usable_targets(valid, batch, self.unusable)
        outputs = self.outputs(encoded)
        loss, tokens = self.loss(outputs, valid, *supervision)
        return {"loss": (1.0, loss), **self.offline_terms(outputs, valid, offline, *supervision)}, tokens

    def offline_terms(
        self, outputs: Tensor, valid: Tensor, offline: Tensor | None, targets: list[list[int]], usable: list[bool]
    ) -> LossTerms:
        """Returns the terms of dual mode: the loss of the offline branch, and the divergence from its outputs.

        Args:
            outputs: `(B, T, E)` outputs of the streaming branch.
            valid: `(B,)` number of valid frames.
            offline: representation of the offline branch; None gives no terms.
            targets: tokens of each row.
            usable: True for rows that count.
        """
        terms: LossTerms = {}
        if offline is None:
            return terms
        weights, delay, target = self.dual_mode, self.delay, self.outputs(offline)
        if weights.offline_weight > 0:
            loss, _ = self.loss(target, valid, targets, usable)
            terms["loss_offline"] = (weights.offline_weight, loss)
        if weights.distillation_weight > 0:
            early, late = target[:, : target.shape[1] - delay], outputs[:, delay:]
            divergence = self.divergence(early, late, valid - delay, targets, usable)
            terms["divergence_offline"] = (weights.distillation_weight, divergence)
        return terms

    def on_validation_epoch_start(self) -> None:
        """Resets the sums."""
        super().on_validation_epoch_start()
        self._utterances, self._sums = [], torch.zeros(2, device=self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Adds to the loss and keeps the hypotheses."""
        encoded, valid = self.encode(batch, 0)
        outputs = self.outputs(encoded)
        self._sums += torch.stack(self._loss(outputs, valid, batch, Counter()))
        for cut_id, label, text in zip(batch.ids, batch.labels, self._texts(outputs, valid), strict=True):
            reference = normalize_text(label.text or "")
            if reference:
                seen = self.trainer.datamodule.is_seen(label)  # type: ignore[attr-defined]
                self._utterances.append(RecognizedUtterance(cut_id, reference, text, seen))

    def on_validation_epoch_end(self) -> None:
        """Logs loss and error rates over all ranks."""
        loss, tokens = self._over_ranks(self._sums)
        # The bootstrap samples by index, so the order must not depend on the ranks.
        utterances = sorted(of_all_ranks(self._utterances), key=lambda utterance: utterance.id)
        metrics = {"loss": float(loss / tokens.clamp_min(1)), **summarize(utterances)}
        self.log_dict({f"val/{name}": value for name, value in metrics.items()}, sync_dist=True)

    def describe(self) -> list[Row]:
        """Adds the vocabulary to the start panel."""
        vocabulary = f"{self.tokenizer.size} tokens including blank ({self.labels['kind']})"
        modes = self.dual_mode.in_words()
        return [*super().describe(), ("vocabulary", vocabulary), *([("dual mode", modes)] if modes else [])]

    def learned(self, first: dict[str, float], last: dict[str, float]) -> list[Row]:
        """Returns error rates of the first and the last validation, with confidence intervals."""
        rows = [*super().learned(first, last), *rows_of_rates(first, last)]
        unusable = ", ".join(f"{count} {cause}" for cause, count in sorted(self.unusable.items()))
        return [*rows, ("left out of the loss", unusable)] if unusable else rows

    def _texts(self, outputs: Tensor, valid: Tensor) -> list[str]:
        tokens, _ = self.decode(outputs, valid, self.start(len(outputs)))
        return [join(self.tokenizer, row) for row in tokens]

    def _loss(self, outputs: Tensor, valid: Tensor, batch: Batch, unusable: Counter[str]) -> tuple[Tensor, Tensor]:
        """Returns the loss in nats and the number of tokens, summed over the usable rows."""
        return self.loss(outputs, valid, *self.usable_targets(valid, batch, unusable))

    def usable_targets(self, valid: Tensor, batch: Batch, unusable: Counter[str]) -> tuple[list[list[int]], list[bool]]:
        """Returns the tokens of each row of a batch, and which rows can be trained on; counts and logs the others.

        Args:
            valid: `(B,)` number of valid frames.
            batch: batch with texts.
            unusable: number of rows that cannot be trained on, by cause; it is added to.
        """
        targets = [self.tokenizer.encode(normalize_text(label.text or "")) for label in batch.labels]
        causes = [self.unfit(target, n) if target else "without text" for target, n in zip(targets, valid.tolist())]
        for cause, cut_id in zip(causes, batch.ids, strict=True):
            if cause and cut_id != "silence":
                if not unusable[cause]:
                    log.warning("%s is left out of the loss: %s; the summary has the total", cut_id, cause)
                unusable[cause] += 1
        return targets, [not cause for cause in causes]
