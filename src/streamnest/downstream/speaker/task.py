"""Speaker embeddings by statistics pooling on a streaming encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamnest.config.tasks import DownstreamConfig, SpeakerConfig
from streamnest.data.batch import Batch
from streamnest.downstream.base import Row
from streamnest.downstream.metrics.verification import bootstrap_speakers, equal_error_rate, sample_trials
from streamnest.downstream.speaker.pooling import Moments
from streamnest.downstream.supervised import SupervisedTask, of_all_ranks
from streamnest.errors import UserError
from streamnest.formatting import change

if TYPE_CHECKING:
    from streamnest.data.augment.augmentation import Augmentation
    from streamnest.data.config import DataConfig
    from streamnest.data.datamodule import SpeechDataModule

_UNKNOWN = -1


class SpeakerClassifier(nn.Module):
    """Classifier of training speakers on embeddings.

    Args:
        size: size of an embedding.
        speakers: number of training speakers.
        kind: "am_softmax" for scaled cosines, in training minus a margin for the correct speaker (Wang et al. 2018);
            "softmax" for a linear layer with bias.
        margin: additive margin of the cosine.
        scale: scale of the cosine.

    Raises:
        UserError: for another kind.
    """

    def __init__(self, size: int, speakers: int, kind: str, margin: float, scale: float) -> None:
        super().__init__()
        if kind not in ("am_softmax", "softmax"):
            raise UserError(f"task.loss={kind!r}: choose am_softmax or softmax")
        self.cosine, self.margin, self.scale = kind == "am_softmax", margin, scale
        self.out = nn.Linear(size, speakers, bias=not self.cosine)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Returns logits `(B, C)` of embeddings `(B, E)`."""
        if not self.cosine:
            return self.out(embeddings)
        return self.scale * F.linear(F.normalize(embeddings, dim=-1), F.normalize(self.out.weight, dim=-1))

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Returns the loss in nats, summed over rows with a training speaker; targets `(B,)` are -1 for others."""
        if self.cosine and self.training:
            correct = F.one_hot(targets.clamp_min(0), logits.shape[1])
            logits = logits - self.scale * self.margin * correct
        return F.cross_entropy(logits.float(), targets, ignore_index=_UNKNOWN, reduction="sum")


class _EmbeddedUtterance(NamedTuple):
    """A validation utterance."""

    id: str
    speaker: str
    seen: bool
    embedding: list[float]


class SpeakerRecognizer(SupervisedTask):
    """Statistics pooling, a linear layer to an embedding, and a classifier of the training speakers.

    The arguments are those of `DownstreamTask`.
    """

    Settings: ClassVar[type[DownstreamConfig]] = SpeakerConfig
    shaped_by: ClassVar[tuple[str, ...]] = ("embedding_size", "loss")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.settings: SpeakerConfig = kwargs["settings"]
        settings = self.settings
        names: list[str] = self.labels["speakers"]
        self.speakers = {name: number for number, name in enumerate(names)}
        self.project = nn.Linear(2 * self.encoder.d_model, settings.embedding_size)
        self.classifier = SpeakerClassifier(
            settings.embedding_size, len(names), settings.loss, settings.margin, settings.scale
        )
        self._utterances: list[_EmbeddedUtterance] = []
        self._trials = (0, "unseen")
        self._sums = torch.zeros(3)

    @classmethod
    def build_data(cls, settings: Any, config: DataConfig, augment: Augmentation | None) -> SpeechDataModule:
        """Builds a data module of utterances with a speaker, some of which are held out."""
        from streamnest.data.conversations.speakers import SpeakerDataModule

        return SpeakerDataModule(config, augment, settings.held_out)

    @classmethod
    def find_labels(cls, settings: SpeakerConfig, data: SpeechDataModule) -> dict[str, Any]:
        """Returns the training speakers."""
        names: list[str] = data.training_speakers  # type: ignore[attr-defined]
        if len(names) < 2:
            raise UserError(f"the training set has {len(names)} speaker: task=speaker needs at least 2")
        return {"speakers": names}

    def embedding(self, moments: Moments) -> Tensor:
        """Returns embeddings `(B, E)` of length 1 from the moments of the frames."""
        return F.normalize(self.project(moments.statistics()), dim=-1)

    def embed(self, audio: Tensor, lengths: Tensor) -> Tensor:
        """Returns embeddings `(B, E)` of length 1 for audio `(B, N)` of `lengths` `(B,)` samples."""
        return self.embedding(Moments.of(*self(audio, lengths)))

    def loss_of(self, encoded: Tensor, valid: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Implements `SupervisedTask.loss_of`; a decision is one utterance."""
        targets = self._targets(batch, valid)
        logits = self.classifier(self.project(Moments.of(encoded, valid).statistics()))
        return self.classifier.loss(logits, targets), (targets != _UNKNOWN).sum().to(logits)

    def on_validation_epoch_start(self) -> None:
        """Resets the sums."""
        super().on_validation_epoch_start()
        self._utterances, self._sums = [], torch.zeros(3, device=self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Adds loss and accuracy on training speakers, and keeps the embeddings for the trials."""
        encoded, valid = self.encode(batch, 0)
        moments = Moments.of(encoded, valid)
        targets, logits = self._targets(batch, valid), self.classifier(self.project(moments.statistics()))
        known, right = targets != _UNKNOWN, logits.argmax(-1) == targets
        self._sums += torch.stack([self.classifier.loss(logits, targets), known.sum().float(), right.sum().float()])
        for row, embedding in enumerate(self.embedding(moments).float().tolist()):
            name = batch.labels[row].speaker
            if name is not None and int(valid[row]):
                seen = self.trainer.datamodule.is_seen(batch.labels[row])  # type: ignore[attr-defined]
                self._utterances.append(_EmbeddedUtterance(batch.ids[row], name, seen, embedding))

    def on_validation_epoch_end(self) -> None:
        """Logs metrics over all ranks.

        Raises:
            UserError: if the validation set has fewer than two speakers, or no speaker with two utterances.
        """
        nats, count, right = self._over_ranks(self._sums).tolist()
        metrics = {"loss": nats / count, "accuracy": right / count} if count else {}
        metrics |= self._verification(of_all_ranks(self._utterances))
        self.log_dict({f"val/{name}": value for name, value in metrics.items()}, sync_dist=True)

    def describe(self) -> list[Row]:
        """Adds embedding and classifier to the start panel."""
        kind = f"AM-softmax, margin {self.settings.margin:g}" if self.classifier.cosine else "softmax"
        size = f"{self.settings.embedding_size} dimensions, statistics pooling"
        return [*super().describe(), ("embedding", size), ("classifier", f"{len(self.speakers)} speakers, {kind}")]

    def learned(self, first: dict[str, float], last: dict[str, float]) -> list[Row]:
        """Returns metrics of the first and the last validation."""
        rows = super().learned(first, last) if "val/loss" in last else []
        if "val/accuracy" in last:
            rows.append(("accuracy", f"{change(first, last, 'val/accuracy')} on training speakers"))
        (count, who), low, high = self._trials, last["val/eer_low"], last["val/eer_high"]
        trials = f"(95% interval {low:.1%} to {high:.1%}) in {count} trials of {who} speakers"
        return [*rows, ("equal error rate", f"{change(first, last, 'val/eer')} {trials}")]

    def _targets(self, batch: Batch, valid: Tensor) -> Tensor:
        """Returns the class of each row, -1 for an unknown speaker and for a row without frames."""
        numbers = [self.speakers.get(label.speaker or "", _UNKNOWN) for label in batch.labels]
        return torch.tensor(numbers, device=valid.device).where(valid > 0, _UNKNOWN)

    def _verification(self, utterances: list[_EmbeddedUtterance]) -> dict[str, float]:
        """Returns the EER of unseen speakers and its interval; of all speakers if the unseen ones have no trials."""
        for who, some in (("unseen", [one for one in utterances if not one.seen]), ("all", utterances)):
            pairs = sample_trials([one.id for one in some], [one.speaker for one in some], self.settings.trials)
            numbers = np.unique([one.speaker for one in some], return_inverse=True)[1]
            speakers = numbers[pairs]
            same = speakers[:, 0] == speakers[:, 1]
            if same.any() and not same.all():
                embeddings = np.array([one.embedding for one in some])
                scores = (embeddings[pairs[:, 0]] * embeddings[pairs[:, 1]]).sum(1)
                self._trials = (len(pairs), who)
                low, high = bootstrap_speakers(scores, speakers)
                return {"eer": equal_error_rate(scores, same), "eer_low": low, "eer_high": high}
        raise UserError(
            "the validation set of task=speaker needs at least two speakers, and two utterances of one of them: choose "
            "another data.val_manifest"
        )
