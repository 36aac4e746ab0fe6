"""What tasks on top of an encoder share: freezing it, hiding parts of what it hears, and how they report."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from streamnest.config.tasks import DownstreamConfig
from streamnest.data.batch import Batch
from streamnest.downstream.spec_augment import SpecAugment
from streamnest.encoder import FastConformer
from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError
from streamnest.formatting import change
from streamnest.frontend import LogMel
from streamnest.optim import Optimization
from streamnest.randomness import fold_keys

if TYPE_CHECKING:
    from streamnest.data.augment.augmentation import Augmentation
    from streamnest.data.config import DataConfig
    from streamnest.data.datamodule import SpeechDataModule

Row = tuple[str, str]


class DownstreamTask(EncoderTask):
    """An encoder that learns from labels, from a checkpoint or from scratch.

    A task defines `find_labels`, `training_step`, `validation_step` and the like, and builds its head in `__init__`.
    An encoder that is frozen is in evaluation mode and gets no gradient: its weights stay bit-equal.

    Args:
        frontend: waveform to log-mel.
        encoder: log-mel to representation.
        settings: the task's node of the config.
        labels: see `EncoderTask`.
        freeze: "encoder", or the number of updates for which it is frozen at first; None is never.
        optimization: optimiser and schedule; None for use without training.
        seed: of everything that is drawn while training.
        config: the composed config as plain containers.

    Raises:
        UserError: for values that make no sense.
    """

    Settings: ClassVar[type[DownstreamConfig]] = DownstreamConfig
    # Whether utterances without text are of no use to it.
    transcribed: ClassVar[bool] = False
    # Values of its settings that decide the shape of its weights: a run cannot continue with others.
    shaped_by: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        frontend: LogMel,
        encoder: FastConformer,
        settings: DownstreamConfig,
        labels: Any = None,
        freeze: str | int | None = None,
        optimization: Optimization | None = None,
        seed: int = 0,
        config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(frontend, encoder, optimization, seed, config, labels)
        self.freeze_steps = _freeze_steps(freeze)
        self.spec_augment = SpecAugment(frontend.num_mels, **vars(settings.spec_augment))
        if self.freeze_steps is None:
            self.encoder.requires_grad_(False)

    @classmethod
    def build_data(cls, settings: Any, config: DataConfig, augment: Augmentation | None) -> SpeechDataModule:
        """Builds the data module of this task from its settings and the config group `data`."""
        from streamnest.data.datamodule import SpeechDataModule

        return SpeechDataModule(replace(config, transcribed=cls.transcribed or config.transcribed), augment)

    @classmethod
    def find_labels(cls, settings: Any, data: SpeechDataModule) -> Any:
        """What the outputs are to mean, from the training set, as plain containers."""
        return None

    @property
    def encoder_is_frozen(self) -> bool:
        """Whether the encoder does not learn in this step."""
        return self.freeze_steps is None or self.trainer.global_step < self.freeze_steps

    def encode(self, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
        """Representation of what the encoder hears of a batch, parts of it hidden while training.

        Args:
            batch: of audio.
            step: folded into the random keys.

        Returns:
            `(B, T', d)` and valid frames `(B,)`.
        """
        keys = fold_keys(batch.keys, self.seed, step)
        features, frames = self.frontend(batch.noisy, batch.lengths, keys)
        heard = self.spec_augment(self.input_norm(features, frames), frames, keys)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not (self.training and self.encoder_is_frozen)):
            encoded: tuple[Tensor, Tensor] = self.encoder(heard, frames)
        return encoded

    def on_fit_start(self) -> None:
        """Says what cannot work before it fails in another way.

        Raises:
            UserError: for an encoder that thaws under a strategy that expects gradients of every weight.
        """
        strategy = str(self.config.get("trainer", {}).get("strategy", ""))
        if self.freeze_steps and self.trainer.world_size > 1 and "unused" not in strategy:
            raise UserError(
                f"freeze={self.freeze_steps} with several processes: set "
                "trainer.strategy=ddp_find_unused_parameters_true, or freeze=encoder, or freeze=null"
            )

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """As in every task; and a frozen encoder has no dropout."""
        super().on_train_batch_start(batch, batch_idx)
        self.encoder.train(not self.encoder_is_frozen)

    def on_validation_epoch_start(self) -> None:
        """The context is the default one until training goes on."""
        self.encoder.use_context(None)

    def describe(self) -> list[Row]:
        """What the start panel says about this task."""
        steps = self.freeze_steps
        frozen = "yes" if steps is None else f"for {steps} steps" if steps else "no"
        hidden = self.spec_augment
        share = 1 - (1 - hidden.time.mask_prob) ** hidden.time.block_size
        return [
            ("encoder from", str(self.config.get("encoder_from") or "scratch")),
            ("frozen", frozen),
            ("hidden", f"{share:.0%} of time, {hidden.bands} times up to {hidden.band_width} mel bands"),
        ]

    def learned(self, first: dict[str, float], last: dict[str, float]) -> list[Row]:
        """What the summary says, from the figures of the first and the last validation."""
        return [("validation loss", f"{change(first, last, 'val/loss', '.3f')} nats")]


def _freeze_steps(freeze: str | int | None) -> int | None:
    """Updates for which the encoder is frozen; None is all."""
    if freeze == "encoder":
        return None
    if freeze is None or (isinstance(freeze, int) and not isinstance(freeze, bool) and freeze >= 0):
        return freeze or 0
    raise UserError(f"freeze={freeze!r}: choose null, encoder, or a number of steps")
