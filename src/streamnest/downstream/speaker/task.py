"""Speaker embeddings from statistics of the frames of a streaming encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamnest.config.tasks import DownstreamConfig, SpeakerConfig
from streamnest.data.batch import Batch
from streamnest.downstream.base import Row
from streamnest.downstream.metrics.verification import equal_error_rate, sample_trials
from streamnest.downstream.speaker.pooling import Moments
from streamnest.downstream.supervised import SupervisedTask, of_all_ranks
from streamnest.errors import UserError
from streamnest.formatting import change

if TYPE_CHECKING:
    from streamnest.data.datamodule import SpeechDataModule

_NOBODY = -1


class SpeakerClassifier(nn.Module):
    """Embeddings to training speakers.

    Args:
        size: of an embedding.
        speakers: classes.
        kind: "am_softmax": scaled cosines, that of the right speaker less a margin while training (additive margin,
            Wang et al. 2018); "softmax": products with a bias.
        margin: of the cosine.
        scale: of the cosine.

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
        """Logits `(B, C)` of embeddings `(B, E)`."""
        if not self.cosine:
            return self.out(embeddings)
        return self.scale * F.linear(F.normalize(embeddings, dim=-1), F.normalize(self.out.weight, dim=-1))

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Nats summed over rows with a speaker; targets `(B,)`, -1 is nobody."""
        if self.cosine and self.training:
            right = F.one_hot(targets.clamp_min(0), logits.shape[1])
            logits = logits - self.scale * self.margin * right
        return F.cross_entropy(logits.float(), targets, ignore_index=_NOBODY, reduction="sum")


class _Heard(NamedTuple):
    """An utterance of validation."""

    id: str
    speaker: str
    known: bool
    embedding: list[float]


class SpeakerRecognizer(SupervisedTask):
    """Mean and deviation of all frames, a linear layer to an embedding, and a classifier of the training speakers.

    See `DownstreamTask` for the arguments.
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
        self._heard: list[_Heard] = []
        self._trials = (0, "unseen")
        self._sums = torch.zeros(3)

    @classmethod
    def data_options(cls, settings: Any) -> dict[str, Any]:
        """Utterances with a speaker, some of them held out."""
        return {"_target_": "streamnest.data.conversations.speakers.SpeakerDataModule", "held_out": settings.held_out}

    @classmethod
    def find_labels(cls, settings: SpeakerConfig, data: SpeechDataModule) -> dict[str, Any]:
        """The training speakers."""
        names: list[str] = data.training_speakers  # type: ignore[attr-defined]
        if len(names) < 2:
            raise UserError(f"the training set names {len(names)} speaker: task=speaker needs two to tell apart")
        return {"speakers": names}

    def embedding(self, moments: Moments) -> Tensor:
        """Embeddings `(B, E)` of length 1 from the frames so far."""
        return F.normalize(self.project(moments.statistics()), dim=-1)

    def embed(self, audio: Tensor, lengths: Tensor) -> Tensor:
        """Embeddings `(B, E)` of length 1 of audio `(B, N)` of `lengths` `(B,)`."""
        return self.embedding(Moments.of(*self(audio, lengths)))

    def loss_of(self, encoded: Tensor, valid: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `SupervisedTask`; a decision is one utterance."""
        targets = self._targets(batch, valid)
        logits = self.classifier(self.project(Moments.of(encoded, valid).statistics()))
        return self.classifier.loss(logits, targets), (targets != _NOBODY).sum().to(logits)

    def on_validation_epoch_start(self) -> None:
        """Empties the sums."""
        super().on_validation_epoch_start()
        self._heard, self._sums = [], torch.zeros(3, device=self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss and accuracy on known speakers; embeddings are kept for the trials."""
        encoded, valid = self.encode(batch, 0)
        moments = Moments.of(encoded, valid)
        targets, logits = self._targets(batch, valid), self.classifier(self.project(moments.statistics()))
        known, right = targets != _NOBODY, logits.argmax(-1) == targets
        self._sums += torch.stack([self.classifier.loss(logits, targets), known.sum().float(), right.sum().float()])
        for row, embedding in enumerate(self.embedding(moments).float().tolist()):
            name = batch.labels[row].speaker
            if name is not None and int(valid[row]):
                seen = self.trainer.datamodule.knows(batch.labels[row])  # type: ignore[attr-defined]
                self._heard.append(_Heard(batch.ids[row], name, seen, embedding))

    def on_validation_epoch_end(self) -> None:
        """Logs figures of all ranks.

        Raises:
            UserError: where validation has no two utterances of one speaker, or not two speakers.
        """
        nats, count, right = self._over_ranks(self._sums).tolist()
        figures = {"loss": nats / count, "accuracy": right / count} if count else {}
        figures["eer"] = self._equal_error_rate(of_all_ranks(self._heard))
        self.log_dict({f"val/{name}": value for name, value in figures.items()}, sync_dist=True)

    def describe(self) -> list[Row]:
        """What the start panel says."""
        kind = f"margin {self.settings.margin:g}" if self.classifier.cosine else "plain softmax"
        shape = f"{self.settings.embedding_size} values from mean and deviation over time"
        return [*super().describe(), ("embedding", shape), ("told apart", f"{len(self.speakers)} speakers, {kind}")]

    def learned(self, first: dict[str, float], last: dict[str, float]) -> list[Row]:
        """Figures before and after."""
        rows = super().learned(first, last) if "val/loss" in last else []
        if "val/accuracy" in last:
            rows.append(("accuracy", f"{change(first, last, 'val/accuracy')} on known speakers"))
        count, who = self._trials
        return [*rows, ("equal error rate", f"{change(first, last, 'val/eer')} in {count} trials of {who} speakers")]

    def _targets(self, batch: Batch, valid: Tensor) -> Tensor:
        """Numbers of the speakers, -1 where unknown or where no frame was heard."""
        numbers = [self.speakers.get(label.speaker or "", _NOBODY) for label in batch.labels]
        return torch.tensor(numbers, device=valid.device).where(valid > 0, _NOBODY)

    def _equal_error_rate(self, heard: list[_Heard]) -> float:
        """Of speakers that training has not heard; of all where these make no trials."""
        for who, some in (("unseen", [one for one in heard if not one.known]), ("all", heard)):
            pairs = sample_trials([one.id for one in some], [one.speaker for one in some], self.settings.trials)
            same = np.array([some[a].speaker == some[b].speaker for a, b in pairs], bool)
            if same.any() and not same.all():
                embeddings = np.array([one.embedding for one in some])
                scores = (embeddings[pairs[:, 0]] * embeddings[pairs[:, 1]]).sum(1)
                self._trials = (len(pairs), who)
                return equal_error_rate(scores, same)
        raise UserError("validation of task=speaker needs two speakers, one of them with two utterances")
