"""Schemas of the config group `task`. They import no Lightning and no model, so that composing a config is quick."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from streamnest.data.config import ConversationConfig


@dataclass
class SpecAugmentConfig:
    """Schema of `task.spec_augment`; the fields are the arguments of `SpecAugment`."""

    time_prob: float = 0.01
    time_frames: int = 15
    bands: int = 2
    band_width: int = 15


@dataclass
class DualModeConfig:
    """Schema of `task.dual_mode`: training in full and in limited context; off if both weights are 0.

    Attributes:
        offline_weight: weight of the loss of the offline branch.
        distillation_weight: weight of the divergence of the streaming branch from the offline one.
        delay_ms: delay of the targets of the streaming branch, a multiple of the frame length.
    """

    offline_weight: float = 0.0
    distillation_weight: float = 0.0
    delay_ms: float = 0.0

    @property
    def active(self) -> bool:
        """True if each batch is also encoded in full context."""
        return self.offline_weight > 0 or self.distillation_weight > 0

    def in_words(self) -> str:
        """Describes the terms of the loss; empty if they are off."""
        delay = f", {self.delay_ms:g} ms later" if self.delay_ms else ""
        names = {"offline loss": self.offline_weight, f"divergence from offline{delay}": self.distillation_weight}
        return " + ".join(f"{weight:g} x {name}" for name, weight in names.items() if weight > 0)


@dataclass
class TaskConfig:
    """Schema of the `task` group: fields of all tasks.

    Attributes:
        name: name of the task.
        monitor: validation metric that selects the best checkpoint; lower is better.
        speed_prob: default of `augment.speed.prob`, the share of training utterances whose speed is changed.
        dual_mode: second branch in full context; for pretrain, ctc and rnnt.
    """

    _target_: str = "streamnest.pretraining.Pretraining"
    name: str = "pretrain"
    monitor: str = "val/loss"
    speed_prob: float = 0.0
    dual_mode: DualModeConfig = field(default_factory=DualModeConfig)


@dataclass
class DownstreamConfig(TaskConfig):
    """Schema of the supervised tasks.

    Attributes:
        spec_augment: masking of the encoder input in training.
    """

    spec_augment: SpecAugmentConfig = field(default_factory=SpecAugmentConfig)


@dataclass
class TextConfig(DownstreamConfig):
    """Schema of the speech recognition tasks.

    Attributes:
        tokenizer: "char" or "sentencepiece".
        vocab_size: number of sentencepiece tokens, including the blank.
    """

    monitor: str = "val/cer"
    speed_prob: float = 0.6667
    tokenizer: str = "char"
    vocab_size: int = 256


@dataclass
class CTCConfig(TextConfig):
    """Schema of `task=ctc`; `downstream.asr.ctc_losses` has the terms of the loss.

    Attributes:
        consistency_weight: weight of the consistency loss of CR-CTC; above 0, each batch has two views.
        consistency_time_scale: factor of `spec_augment.time_prob` for the two views.
        intermediate_layers: layers below the last one with a CTC loss of their own, counted from 1.
        intermediate_weight: share of their mean loss in the CTC loss.
        label_smoothing: weight of the divergence from the uniform distribution; the CTC loss has the rest.
        teacher: checkpoint of task=ctc whose posteriors are targets too; read by training only.
        teacher_weight: weight of the divergence from the teacher.
        teacher_delay_ms: delay of the targets, a multiple of the frame length.
    """

    _target_: str = "streamnest.downstream.asr.ctc.CTCRecognizer"
    name: str = "ctc"
    consistency_weight: float = 0.0
    consistency_time_scale: float = 2.5
    intermediate_layers: list[int] = field(default_factory=list)
    intermediate_weight: float = 0.3
    label_smoothing: float = 0.0
    teacher: str | None = None
    teacher_weight: float = 1.0
    teacher_delay_ms: float = 0.0


@dataclass
class RNNTConfig(TextConfig):
    """Schema of `task=rnnt`.

    Attributes:
        prediction_network: "stateless" or "lstm".
        prediction_dim: width of the prediction network.
        context_size: context of a stateless prediction network, in tokens.
        prediction_layers: number of layers of an LSTM prediction network.
        joiner_dim: width of the joiner.
        max_symbols: largest number of tokens that a frame emits.
        max_scores: largest number of `(B, T, U + 1, V)` scores, or joiner values, that the loss holds in memory.
    """

    _target_: str = "streamnest.downstream.asr.rnnt.RNNTRecognizer"
    name: str = "rnnt"
    prediction_network: str = "stateless"
    prediction_dim: int = 256
    context_size: int = 2
    prediction_layers: int = 1
    joiner_dim: int = 256
    max_symbols: int = 5
    max_scores: int = 32_000_000


@dataclass
class DiarizationConfig(DownstreamConfig):
    """Schema of `task=diarization`.

    Attributes:
        max_speakers: number of speaker columns.
        head: "gru" or "linear".
        head_size: size of the recurrent layer.
        order: assignment of speakers to columns, "pit" or "arrival" (`activity_loss`).
        threshold: threshold on the probability of activity (`Decision`).
        median_ms: length of the median filter.
        median_lookahead_ms: part of the median filter after the current frame.
        collar: seconds on each side of a reference boundary that are not scored (`Scorer`).
        skip_overlap: exclude overlapped speech from scoring.
        val_conversations: number of simulated validation conversations.
        test_manifest: recorded conversations (`ConversationDataModule`).
        conversations: settings of the simulation.
    """

    _target_: str = "streamnest.downstream.diarization.task.Diarizer"
    name: str = "diarization"
    monitor: str = "val/der"
    max_speakers: int = 4
    head: str = "gru"
    head_size: int = 128
    order: str = "pit"
    threshold: float = 0.5
    median_ms: float = 400.0
    median_lookahead_ms: float = 160.0
    collar: float = 0.25
    skip_overlap: bool = False
    val_conversations: int = 40
    test_manifest: str | None = None
    conversations: ConversationConfig = field(default_factory=ConversationConfig)

    def __post_init__(self) -> None:
        """Converts the plain containers of a checkpoint."""
        if isinstance(self.conversations, Mapping):
            self.conversations = ConversationConfig(**self.conversations)


@dataclass
class SpeakerConfig(DownstreamConfig):
    """Schema of `task=speaker`.

    Attributes:
        embedding_size: size of an embedding.
        loss: "am_softmax" or "softmax".
        margin: additive margin of the cosine (`SpeakerClassifier`).
        scale: scale of the cosine.
        held_out: share of training recordings that is held out for the accuracy (`SpeakerDataModule`).
        trials: largest number of verification trials (`sample_trials`).
    """

    _target_: str = "streamnest.downstream.speaker.task.SpeakerRecognizer"
    name: str = "speaker"
    monitor: str = "val/eer"
    embedding_size: int = 128
    loss: str = "am_softmax"
    margin: float = 0.2
    scale: float = 30.0
    held_out: float = 0.1
    trials: int = 4000
