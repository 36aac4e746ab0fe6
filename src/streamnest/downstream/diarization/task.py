"""Speaker diarization: activity of each speaker in each frame of a streaming encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from streamnest.config.tasks import DiarizationConfig, DownstreamConfig
from streamnest.data.batch import Batch
from streamnest.data.conversations.simulation import ConversationSimulator, Turn
from streamnest.data.labels import Label
from streamnest.downstream.base import Row
from streamnest.downstream.diarization.activity import Decision, frames_to_turns, turns_to_frames
from streamnest.downstream.diarization.permutation import MAX_PERMUTED, activity_loss
from streamnest.downstream.metrics.diarization_error import PARTS, Scored, Scorer, summarize
from streamnest.downstream.metrics.trivial_diarization import describe_trivial, score_trivial, trivial_rates
from streamnest.downstream.supervised import SupervisedTask, of_all_ranks
from streamnest.errors import UserError
from streamnest.formatting import change
from streamnest.streaming.heads import ExportedHead

if TYPE_CHECKING:
    from streamnest.data.augment.augmentation import Augmentation
    from streamnest.data.config import DataConfig
    from streamnest.data.datamodule import SpeechDataModule


class ActivityHead(nn.Module):
    """Encoder frames to one logit for each speaker column, with or without a recurrent layer.

    Args:
        d_model: size of the frames.
        speakers: number of speaker columns.
        kind: "gru" for a unidirectional recurrent layer, "linear" for none.
        size: size of the recurrent layer.

    Raises:
        UserError: for another kind.
    """

    def __init__(
        self, d_model: int, speakers: int, kind: str = DiarizationConfig.head, size: int = DiarizationConfig.head_size
    ) -> None:
        super().__init__()
        if kind not in ("gru", "linear"):
            raise UserError(f"task.head={kind!r}: choose gru or linear")
        self.memory = nn.GRU(d_model, size, batch_first=True) if kind == "gru" else None
        self.out = nn.Linear(size if kind == "gru" else d_model, speakers)

    def forward(self, encoded: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """`(B, T, d)` and the state of the frames before -> `(B, T, S)` logits and the next state."""
        if self.memory is not None and encoded.shape[1]:
            encoded, state = self.memory(encoded, state)
        elif self.memory is not None:
            encoded = encoded.new_zeros(len(encoded), 0, self.memory.hidden_size)
        return self.out(encoded), state


class Activity(ExportedHead):
    """Probabilities of activity, with the settings of decision and scoring in the metadata.

    Args:
        head: frames to logits.
        decision: threshold and median filter.
        settings: settings of the task.
    """

    kind, output = "diarization", "activity"

    def __init__(self, head: ActivityHead, decision: Decision, settings: DiarizationConfig) -> None:
        super().__init__()
        self.head, self.decision, self.settings, self.size = head, decision, settings, head.out.out_features
        self.memory_size = head.memory.hidden_size if head.memory is not None else 0

    def forward(self, encoded: Tensor, valid: Tensor | None, memory: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Implements `ExportedHead`; runs frame by frame if some frames must not change the memory."""
        if memory is None:
            return self.head(encoded)[0].sigmoid(), None
        before = memory[None]
        if valid is None:
            logits, after = self.head(encoded, before)
            return logits.sigmoid(), after[0]
        logits = []
        for t in range(encoded.shape[1]):
            logit, after = self.head(encoded[:, t : t + 1], before)
            before = torch.where(valid[None, :, t, None], after, before)
            logits.append(logit)
        return torch.cat(logits, 1).sigmoid(), before[0]

    def describe(self) -> dict[str, Any]:
        """Implements `ExportedHead`."""
        decided = {name: getattr(self.decision, name) for name in ("threshold", "past", "future")}
        scored = {name: getattr(self.settings, name) for name in ("collar", "skip_overlap")}
        return {**super().describe(), **decided, **scored}


class Diarizer(SupervisedTask):
    """Encoder and a head with a sigmoid for each speaker column; the arguments are those of `DownstreamTask`."""

    Settings: ClassVar[type[DownstreamConfig]] = DiarizationConfig
    shaped_by: ClassVar[tuple[str, ...]] = ("max_speakers", "head", "head_size")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.settings: DiarizationConfig = kwargs["settings"]
        settings = self.settings
        if settings.conversations.speakers[1] > settings.max_speakers:
            raise UserError(
                f"task.conversations.speakers={list(settings.conversations.speakers)} must not exceed "
                f"task.max_speakers={settings.max_speakers}"
            )
        if settings.order == "pit" and settings.max_speakers > MAX_PERMUTED:
            raise UserError(
                f"task.max_speakers={settings.max_speakers}: at most {MAX_PERMUTED} with task.order=pit, which "
                "compares all assignments; task.order=arrival has no such limit"
            )
        self.head = ActivityHead(self.encoder.d_model, settings.max_speakers, settings.head, settings.head_size)
        self.frame_s = self.encoder.frame_ms / 1000
        self.decision = Decision.of(
            settings.threshold, settings.median_ms, settings.median_lookahead_ms, self.encoder.frame_ms
        )
        self._scored: list[Scored] = []
        self._trivial: list[dict[str, Scored]] = []
        self._sums = torch.zeros(2)

    @classmethod
    def build_data(cls, settings: Any, config: DataConfig, augment: Augmentation | None) -> SpeechDataModule:
        """Builds a data module of conversations, simulated and recorded."""
        from streamnest.data.conversations.datamodule import ConversationDataModule

        simulator = ConversationSimulator(settings.conversations)
        return ConversationDataModule(config, augment, simulator, settings.val_conversations, settings.test_manifest)

    def probabilities(self, encoded: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Returns probabilities of activity `(B, T, S)` for encoder frames `(B, T, d)`, and the next state."""
        logits, state = self.head(encoded, state)
        return logits.float().sigmoid() if logits.dtype != torch.float64 else logits.sigmoid(), state

    def exported_head(self) -> ExportedHead:
        """Returns a head that computes probabilities of activity."""
        return Activity(self.head, self.decision, self.settings)

    def diarize(self, audio: Tensor, lengths: Tensor) -> list[Tensor]:
        """Returns the activity `(T', S)` in each row of audio `(B, N)` of `lengths` `(B,)` samples."""
        encoded, valid = self(audio, lengths)
        return self._decided(encoded, valid)

    def turns(self, active: Tensor) -> list[Turn]:
        """Converts activity `(T', S)` to turns."""
        return frames_to_turns(active, self.frame_s)

    def loss_of(self, encoded: Tensor, valid: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Implements `SupervisedTask.loss_of`; a decision is one speaker column in one frame."""
        nats, count = self._losses(encoded, valid, batch)
        return nats.sum(), count.sum()

    def on_validation_epoch_start(self) -> None:
        """Resets the sums."""
        super().on_validation_epoch_start()
        self._scored, self._trivial, self._sums = [], [], torch.zeros(2, device=self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Adds the loss of simulated conversations, and scores all conversations."""
        encoded, valid = self.encode(batch, 0)
        simulated = torch.tensor([not getattr(label, "real", False) for label in batch.labels], device=self.device)
        nats, count = self._losses(encoded, valid, batch)
        self._sums += torch.stack([nats[simulated].sum(), count[simulated].sum()])
        scorer = Scorer(self.settings.collar, self.settings.skip_overlap)
        for row, active in enumerate(self._decided(encoded, valid)):
            label, seconds = batch.labels[row], int(batch.lengths[row]) / self.frontend.sample_rate
            real = bool(getattr(label, "real", False))
            conversation = (batch.ids[row], turns_in(label))
            self._scored.append(scorer(*conversation, self.turns(active), seconds, real))
            self._trivial.append(score_trivial(scorer, *conversation, seconds, real))

    def on_validation_epoch_end(self) -> None:
        """Logs loss and error rates over all ranks; metrics of recorded conversations end in `_real`."""
        nats, count = self._over_ranks(self._sums)
        scored = sorted(of_all_ranks(self._scored), key=lambda one: one.id)
        metrics = {"loss": float(nats / count.clamp_min(1))}
        metrics |= summarize([one for one in scored if not one.real])
        metrics |= {f"{name}_real": value for name, value in summarize([one for one in scored if one.real]).items()}
        self.log_dict({f"val/{name}": value for name, value in metrics.items()}, sync_dist=True)
        self._trivial = of_all_ranks(self._trivial)

    def describe(self) -> list[Row]:
        """Adds conversations and decision to the start panel."""
        made, wait = self.settings.conversations, self.decision.future * self.encoder.frame_ms
        few, many = made.speakers
        return [
            *super().describe(),
            ("conversations", f"{made.seconds:g} s, {few} to {many} speakers; speaker columns: {self.settings.order}"),
            (
                "decision delay",
                f"{wait:g} ms after the encoder frame; median filter {self.settings.median_ms:g} ms",
            ),
        ]

    def learned(self, first: dict[str, float], last: dict[str, float]) -> list[Row]:
        """Returns error rates of the first and the last validation, with their components."""
        rows = super().learned(first, last)
        overlap = "excluded" if self.settings.skip_overlap else "included"
        for suffix, name in (("", "simulated"), ("_real", "recorded")):
            if f"val/der{suffix}" in last:
                now = {key: last[f"val/der{key}{suffix}"] for key in ("_low", "_high", *(f"_{part}" for part in PARTS))}
                parts = [f"{now[f'_{part}']:.1%} {part.replace('_', ' ')}" for part in PARTS]
                text = f"{change(first, last, f'val/der{suffix}')} ({now['_low']:.1%} to {now['_high']:.1%})"
                rows.append((f"DER, {name}", ", ".join([text, *parts])))
                chosen = (one for one in self._trivial if next(iter(one.values())).real is (name == "recorded"))
                if trivial := trivial_rates(chosen):
                    rows.append((f"DER, {name}, without a model", describe_trivial(trivial)))
        return [*rows, ("DER settings", f"collar {self.settings.collar:g} s on each side, overlap {overlap}")]

    def _losses(self, encoded: Tensor, valid: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Returns nats and number of decisions of each row `(B,)`."""
        logits, _ = self.head(encoded)
        speakers = self.settings.max_speakers
        rows = [turns_to_frames(turns_in(label), logits.shape[1], self.frame_s, speakers) for label in batch.labels]
        nats, _ = activity_loss(logits, torch.stack(rows).to(logits.device), valid, self.settings.order)
        return nats, (valid * speakers).to(nats)

    def _decided(self, encoded: Tensor, valid: Tensor) -> list[Tensor]:
        probabilities, _ = self.probabilities(encoded)
        return [self.decision(row[:count]) for row, count in zip(probabilities, valid.tolist())]


def turns_in(label: Label) -> tuple[Turn, ...]:
    """Returns the turns of a conversation; empty for other supervision."""
    turns: tuple[Turn, ...] = getattr(label, "turns", ())
    return turns
