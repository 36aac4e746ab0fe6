"""What recognisers share: tokens, which texts can be learned, losses per token over ranks, and error rates."""

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
from streamnest.downstream.supervised import SupervisedTask, of_all_ranks

if TYPE_CHECKING:
    from streamnest.data.datamodule import SpeechDataModule

log = logging.getLogger(__name__)


class TextTask(SupervisedTask):
    """A recogniser of text; see `DownstreamTask` for the arguments.

    It defines `outputs`, `loss`, `unfit`, the incremental `start` and `decode`, and `search`. Utterances without text,
    or whose text does not fit their frames, are left out of the loss and counted in `unusable`; so is nothing else:
    they are recognised and scored.
    """

    Settings: ClassVar[type[DownstreamConfig]] = TextConfig
    transcribed: ClassVar[bool] = True
    shaped_by: ClassVar[tuple[str, ...]] = ("tokenizer", "vocab_size")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tokenizer = load_tokenizer(self.labels)
        self.unusable: Counter[str] = Counter()
        self._utterances: list[RecognizedUtterance] = []
        self._sums = torch.zeros(2)

    @classmethod
    def find_labels(cls, settings: Any, data: SpeechDataModule) -> dict[str, Any]:
        """The tokenizer of the training texts."""
        texts = map(normalize_text, data.texts())
        return make_tokenizer(settings.tokenizer, texts, settings.vocab_size).plain()

    def outputs(self, encoded: Tensor) -> Tensor:
        """What loss and decoding take of encoder frames: `(B, T, d)` -> `(B, T, E)`."""
        raise NotImplementedError

    def loss(
        self, outputs: Tensor, lengths: Tensor, targets: list[list[int]], usable: list[bool]
    ) -> tuple[Tensor, Tensor]:
        """Sum of nats over usable rows, and their number of tokens, both 0-dim.

        Args:
            outputs: `(B, T, E)`.
            lengths: `(B,)` valid frames.
            targets: tokens of each row.
            usable: which rows count; without any the loss is 0 and has gradients.
        """
        raise NotImplementedError

    def unfit(self, target: list[int], frames: int) -> str:
        """Why a target that is not empty cannot be learned from so many frames; empty where it can."""
        raise NotImplementedError

    def start(self, batch: int) -> Any:
        """What the decoder of `batch` streams remembers before their first frame: tensors `(B, ...)`, or tuples."""
        raise NotImplementedError

    def decode(self, outputs: Tensor, lengths: Tensor, state: Any) -> tuple[list[list[int]], Any]:
        """The tokens that the next frames decide, each for good.

        Args:
            outputs: `(B, k, E)` of the next frames of each stream.
            lengths: `(B,)` valid ones of them.
            state: from `start` or the previous call.

        Returns:
            New tokens of each stream, and the next state.
        """
        raise NotImplementedError

    def search(
        self, beam: int, ngram: NGram | None = None, lm_weight: float = 0.5, bonus: float = 0.5
    ) -> Callable[[Tensor], list[Hypothesis]]:
        """A beam search over the `(T, E)` outputs of an utterance; see `Language` for the other arguments."""
        raise NotImplementedError

    def recognize(self, audio: Tensor, lengths: Tensor) -> list[str]:
        """Texts of audio `(B, N)` of `lengths` `(B,)`, by the best token at each step."""
        encoded, valid = self(audio, lengths)
        return self._texts(self.outputs(encoded), valid)

    def loss_of(self, encoded: Tensor, valid: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Nats and tokens of the usable texts; see `SupervisedTask.loss_of`."""
        return self._loss(self.outputs(encoded), valid, batch, self.unusable)

    def on_validation_epoch_start(self) -> None:
        """Empties the sums."""
        super().on_validation_epoch_start()
        self._utterances, self._sums = [], torch.zeros(2, device=self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Adds to the loss and keeps what was recognised."""
        encoded, valid = self.encode(batch, 0)
        outputs = self.outputs(encoded)
        self._sums += torch.stack(self._loss(outputs, valid, batch, Counter()))
        for cut_id, label, text in zip(batch.ids, batch.labels, self._texts(outputs, valid), strict=True):
            reference = normalize_text(label.text or "")
            if reference:
                known = self.trainer.datamodule.knows(label)  # type: ignore[attr-defined]
                self._utterances.append(RecognizedUtterance(cut_id, reference, text, known))

    def on_validation_epoch_end(self) -> None:
        """Logs loss and error rates of all ranks."""
        loss, tokens = self._over_ranks(self._sums)
        # In an order that does not depend on which rank has which, as the bootstrap draws by place.
        utterances = sorted(of_all_ranks(self._utterances), key=lambda utterance: utterance.id)
        figures = {"loss": float(loss / tokens.clamp_min(1)), **summarize(utterances)}
        self.log_dict({f"val/{name}": value for name, value in figures.items()}, sync_dist=True)

    def describe(self) -> list[Row]:
        """What the start panel says."""
        return [*super().describe(), ("tokens", f"{self.tokenizer.size} with the blank, {self.labels['kind']}")]

    def learned(self, first: dict[str, float], last: dict[str, float]) -> list[Row]:
        """Error rates before and after, with their intervals."""
        rows = [*super().learned(first, last), *rows_of_rates(first, last)]
        unusable = ", ".join(f"{count} {cause}" for cause, count in sorted(self.unusable.items()))
        return [*rows, ("left out of the loss", unusable)] if unusable else rows

    def _texts(self, outputs: Tensor, valid: Tensor) -> list[str]:
        tokens, _ = self.decode(outputs, valid, self.start(len(outputs)))
        return [join(self.tokenizer, row) for row in tokens]

    def _loss(self, outputs: Tensor, valid: Tensor, batch: Batch, unusable: Counter[str]) -> tuple[Tensor, Tensor]:
        """Sum of nats and number of tokens over the usable rows."""
        targets = [self.tokenizer.encode(normalize_text(label.text or "")) for label in batch.labels]
        fits = [self.unfit(target, n) if target else "without text" for target, n in zip(targets, valid.tolist())]
        for cause, cut_id in zip(fits, batch.ids, strict=True):
            if cause and cut_id != "silence":
                if not unusable[cause]:
                    log.warning("%s is left out of the loss: %s; the summary counts how many", cut_id, cause)
                unusable[cause] += 1
        return self.loss(outputs, valid, targets, [not cause for cause in fits])
