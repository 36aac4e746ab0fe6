"""Base of the supervised tasks: freezing of the encoder, SpecAugment, and rows for the panels."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from streamnest.config.tasks import DownstreamConfig
from streamnest.data.batch import Batch
from streamnest.downstream.spec_augment import SpecAugment
from streamnest.encoder import FastConformer
from streamnest.encoder.dual_mode import check_dual_mode
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
_VIEW_STREAM = 0x71E3


class DownstreamTask(EncoderTask):
    """Supervised training of an encoder with a head, from a checkpoint or from scratch.

    A task defines `find_labels`, `training_step` and `validation_step`, and builds its head in `__init__`.
    A frozen encoder is in evaluation mode and gets no gradient, so its weights stay equal bit for bit.

    Args:
        frontend: waveform to log-mel.
        encoder: log-mel to representation.
        settings: the group `task` of the config.
        labels: argument of `EncoderTask`.
        freeze: "encoder" freezes the encoder; a number freezes it for so many updates at the start; None never.
        optimization: optimizer and schedule; None for use without training.
        seed: seed of all random numbers in training.
        config: the composed config as plain containers.

    Raises:
        UserError: for values out of range.
    """

    Settings: ClassVar[type[DownstreamConfig]] = DownstreamConfig
    # True if the task needs utterances with text.
    transcribed: ClassVar[bool] = False
    # Settings that determine the shapes of the weights: a run cannot continue with other values.
    shaped_by: ClassVar[tuple[str, ...]] = ()
    # True if the task can be trained in dual mode.
    has_dual_mode: ClassVar[bool] = False
    # Copies of a batch in training, which differ in SpecAugment masks and dropout.
    views: int = 1

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
        self.dual_mode, self.delay = settings.dual_mode, 0
        if self.dual_mode.active:
            self._prepare_dual_mode()
        if self.freeze_steps is None:
            self.encoder.requires_grad_(False)

    @classmethod
    def build_data(cls, settings: Any, config: DataConfig, augment: Augmentation | None) -> SpeechDataModule:
        """Builds the data module of this task from its settings and the config group `data`."""
        from streamnest.data.datamodule import SpeechDataModule

        return SpeechDataModule(replace(config, transcribed=cls.transcribed or config.transcribed), augment)

    @classmethod
    def find_labels(cls, settings: Any, data: SpeechDataModule) -> Any:
        """Derives the meaning of the outputs (a tokenizer, speakers) from the training set, as plain containers."""
        return None

    @property
    def encoder_is_frozen(self) -> bool:
        """True if the encoder is not trained in this step."""
        return self.freeze_steps is None or self.trainer.global_step < self.freeze_steps

    def encode(self, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
        """Encodes the noisy audio of a batch, with SpecAugment in training.

        Args:
            batch: batch of audio.
            step: number that is folded into the random keys.

        Returns:
            Representation `(B, T', d)` and number of valid frames `(B,)`; in training `(views * B, ...)`, the whole
            first view before the second one.
        """
        return self._encode(*self._inputs(batch, step))

    def encode_both(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        """Encodes a training batch as `encode` does, and in dual mode the same input again in unlimited context.

        Returns:
            The results of `encode`, and the representation of the offline branch, of the same shape; None without dual
            mode. It has no graph if only its outputs are used, as targets.
        """
        inputs, frames = self._inputs(batch, batch.step)
        encoded, valid = self._encode(inputs, frames)
        if not self.dual_mode.active:
            return encoded, valid, None
        gradients = torch.is_grad_enabled() and self.dual_mode.offline_weight > 0
        with self.encoder.offline(), torch.set_grad_enabled(gradients):
            return encoded, valid, self._encode(inputs, frames)[0]

    def _inputs(self, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
        """Computes the masked input of the encoder and its valid frames."""
        keys = fold_keys(batch.keys, self.seed, step)
        features, frames = self.frontend(batch.noisy, batch.lengths, keys)
        features = self.input_norm(features, frames)
        if self.training and self.views > 1:
            features, frames = features.repeat(self.views, 1, 1), frames.repeat(self.views)
            keys = torch.cat([keys, *(fold_keys(keys, _VIEW_STREAM, view) for view in range(1, self.views))])
        return self.spec_augment(features, frames, keys), frames

    def _encode(self, inputs: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not (self.training and self.encoder_is_frozen)):
            encoded: tuple[Tensor, Tensor] = self.encoder(inputs, frames)
        return encoded

    def _prepare_dual_mode(self) -> None:
        """Checks the settings of dual mode, and makes the norms of the offline mode trainable."""
        if not self.has_dual_mode:
            raise UserError("task.dual_mode is for task=pretrain, ctc and rnnt: leave its weights at 0")
        if self.freeze_steps is None:
            raise UserError("task.dual_mode trains the encoder: leave its weights at 0, or set freeze=null")
        self.delay = check_dual_mode(self.encoder, self.dual_mode.offline_weight, self.dual_mode.delay_ms)
        self.encoder.train_offline_norms()

    def on_fit_start(self) -> None:
        """Refuses a strategy that expects gradients of every weight while the encoder is frozen for some steps.

        Raises:
            UserError: with the settings that work.
        """
        strategy = str(self.config.get("trainer", {}).get("strategy", ""))
        if self.freeze_steps and self.trainer.world_size > 1 and "unused" not in strategy:
            raise UserError(
                f"freeze={self.freeze_steps} does not work with several processes and this strategy: set "
                "trainer.strategy=ddp_find_unused_parameters_true, freeze=encoder or freeze=null"
            )

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Puts a frozen encoder into evaluation mode, without dropout."""
        super().on_train_batch_start(batch, batch_idx)
        self.encoder.train(not self.encoder_is_frozen)

    def on_validation_epoch_start(self) -> None:
        """Selects the default context of a dynamic encoder."""
        self.encoder.use_context(None)

    def describe(self) -> list[Row]:
        """Returns the rows of this task in the start panel."""
        steps = self.freeze_steps
        frozen = "yes" if steps is None else f"for {steps} steps" if steps else "no"
        masked = self.spec_augment
        share = 1 - (1 - masked.time.mask_prob) ** masked.time.block_size
        return [
            ("encoder from", str(self.config.get("encoder_from") or "scratch")),
            ("frozen encoder", frozen),
            ("SpecAugment", f"{share:.0%} of time, {masked.bands} bands of up to {masked.band_width} mel channels"),
        ]

    def learned(self, first: dict[str, float], last: dict[str, float]) -> list[Row]:
        """Returns the rows of this task in the summary, from the metrics of the first and the last validation."""
        return [("validation loss", f"{change(first, last, 'val/loss', '.3f')} nats")]


def _freeze_steps(freeze: str | int | None) -> int | None:
    """Returns the number of updates for which the encoder is frozen; None for all."""
    if freeze == "encoder":
        return None
    if freeze is None or (isinstance(freeze, int) and not isinstance(freeze, bool) and freeze >= 0):
        return freeze or 0
    raise UserError(f"freeze={freeze!r}: choose null, encoder, or a number of steps")
