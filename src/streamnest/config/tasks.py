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
class TaskConfig:
    """Schema of the `task` group, the fields that all tasks have.

    Attributes:
        name: of the task.
        monitor: the validation figure by which the best checkpoint is kept; smaller is better.
    """

    _target_: str = "streamnest.pretraining.Pretraining"
    name: str = "pretrain"
    monitor: str = "val/loss"


@dataclass
class DownstreamConfig(TaskConfig):
    """Schema of the tasks with labels.

    Attributes:
        spec_augment: what is hidden while training.
    """

    spec_augment: SpecAugmentConfig = field(default_factory=SpecAugmentConfig)


@dataclass
class TextConfig(DownstreamConfig):
    """Schema of the tasks that recognise text.

    Attributes:
        tokenizer: "char" or "sentencepiece".
        vocab_size: tokens of sentencepiece, the blank included.
    """

    monitor: str = "val/cer"
    tokenizer: str = "char"
    vocab_size: int = 256


@dataclass
class CTCConfig(TextConfig):
    """Schema of `task=ctc`."""

    _target_: str = "streamnest.downstream.asr.ctc.CTCRecognizer"
    name: str = "ctc"


@dataclass
class RNNTConfig(TextConfig):
    """Schema of `task=rnnt`.

    Attributes:
        prediction_network: "stateless" or "lstm".
        prediction_dim: width of the predictor.
        context_size: tokens that a stateless predictor sees.
        prediction_layers: of an LSTM predictor.
        joiner_dim: width of the joiner.
        max_symbols: the most tokens that a frame emits.
        max_scores: numbers in the `(B, T, U + 1, V)` scores, or in the joiner before them, that the loss holds at once.
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
        max_speakers: outputs.
        head: "gru" or "linear".
        head_size: of the recurrent layer.
        order: see `activity_loss`.
        threshold: of activity; `median_ms` and `median_lookahead_ms` see `Decision`.
        median_ms: see above.
        median_lookahead_ms: see above.
        collar: see `Scorer`, `skip_overlap` alike.
        skip_overlap: see above.
        val_conversations: see `ConversationDataModule`, `test_manifest` alike.
        test_manifest: see above.
        conversations: what is simulated.
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
        """Configs in checkpoints are plain containers."""
        if isinstance(self.conversations, Mapping):
            self.conversations = ConversationConfig(**self.conversations)


@dataclass
class SpeakerConfig(DownstreamConfig):
    """Schema of `task=speaker`.

    Attributes:
        embedding_size: values of an embedding.
        loss: "am_softmax" or "softmax".
        margin: of the cosine, see `SpeakerClassifier`; `scale` alike.
        scale: see above.
        held_out: see `SpeakerDataModule`.
        trials: see `sample_trials`.
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
