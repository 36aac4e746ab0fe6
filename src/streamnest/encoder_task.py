"""Base class of tasks: front end, input normalization and encoder, and how they are trained and saved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from streamnest.cached_value import CachedValue
from streamnest.config.aliases import FORMAT
from streamnest.config.stored import storable
from streamnest.data.batch import Batch
from streamnest.data.config import DataConfig
from streamnest.encoder import FastConformer
from streamnest.errors import UserError
from streamnest.frontend import LogMel
from streamnest.latency import LatencyReport, latency_report
from streamnest.normalization import Normalizer
from streamnest.optim import Optimization, require_fitting
from streamnest.pieces.carried import (
    CarriedState,
    encode_piece,
    gather_state,
    initial_state,
    normalize_piece,
    restarted,
    restore_state,
)
from streamnest.pieces.features import piece_features
from streamnest.randomness import hash_id
from streamnest.samples import as_samples

if TYPE_CHECKING:
    from streamnest.streaming.heads import ExportedHead


class EncoderTask(L.LightningModule):
    """An encoder with its front end; tasks add targets and losses.

    Args:
        frontend: waveform to log-mel.
        encoder: log-mel to representation; its `normalize` selects the input normalization.
        optimization: optimizer and schedule; None for use without training.
        seed: seed of all random numbers in training.
        config: the composed config as plain containers; stored in the checkpoint.
        labels: meaning of the task's outputs, such as its vocabulary, as plain containers; stored as well.

    Raises:
        UserError: if sizes do not match.
    """

    seconds_seen: Tensor

    def __init__(
        self,
        frontend: LogMel,
        encoder: FastConformer,
        optimization: Optimization | None = None,
        seed: int = 0,
        config: dict[str, Any] | None = None,
        labels: Any = None,
    ) -> None:
        super().__init__()
        if encoder.num_mels != frontend.num_mels:
            raise UserError(
                f"encoder.num_mels={encoder.num_mels} but frontend.num_mels={frontend.num_mels}: make them equal"
            )
        hop_ms = encoder.frame_ms / encoder.subsampling.factor
        if abs(hop_ms - frontend.hop_ms) > 0.02 * frontend.hop_ms:  # a hop is rounded to whole samples
            raise UserError(f"encoder.hop_ms={hop_ms:g} but frontend.hop_ms={frontend.hop_ms:g}: make them equal")
        self.frontend, self.encoder = frontend, encoder
        self.input_norm = Normalizer(encoder.normalize, frontend.num_mels)
        self.optimization, self.seed, self.config, self.labels = optimization, seed, config or {}, labels
        self.register_buffer("seconds_seen", torch.zeros((), dtype=torch.float64))
        self._seconds_on_host = CachedValue(float)
        # State of the streams of a batch of pieces (`data.piece_s`), and the saved one that training continues with.
        self.carried: CarriedState | None = None
        self._saved_streams: Any = None

    @property
    def sample_rate(self) -> int:
        """Samples per second of input audio."""
        return self.frontend.sample_rate

    @property
    def latency(self) -> LatencyReport:
        """Latency contract of the encoder with its front end."""
        return latency_report(self.encoder, self.frontend, self.input_norm.causal)

    @property
    def hours_seen(self) -> float:
        """Hours of audio that training has consumed so far, over all processes."""
        return self.seconds_on_host / 3600

    @property
    def seconds_on_host(self) -> float:
        """`seconds_seen` as a number: read once in a single process, and after each step in several."""
        return self._seconds_on_host(self.seconds_seen)

    @property
    def max_audio_hours(self) -> float | None:
        """Hours of audio after which training ends; None if its length is a number of steps."""
        hours: float | None = self.config.get("trainer", {}).get("max_audio_hours")
        return hours

    @property
    def normalizers(self) -> list[Normalizer]:
        """All feature normalizers of the task."""
        return [module for module in self.modules() if isinstance(module, Normalizer)]

    def forward(self, audio: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Computes the representation of audio, without masks: `(B, N)`, `(B,)` -> `(B, T', d)`, `(B,)` valid frames.

        Raises:
            UserError: for samples that `as_samples` rejects.
        """
        features, frames = self.frontend(as_samples(audio, ndim=2), lengths)
        return self.encoder(self.input_norm(features, frames), frames)

    def compute_features(self, audio: Tensor, batch: Batch, keys: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Computes log-mel features of audio `(B, N)` of a batch, its clean or noisy one; see `LogMel.forward`."""
        if batch.seams is None:
            features: tuple[Tensor, Tensor] = self.frontend(audio, batch.lengths, keys)
            return features
        return piece_features(self.frontend, audio, batch.lengths, batch.seams, keys)

    def normalize_batch(self, features: Tensor, frames: Tensor, batch: Batch) -> Tensor:
        """Normalizes features `(B, D, T)`; those of pieces with the statistics of their streams so far."""
        if batch.seams is None:
            normalized: Tensor = self.input_norm(features, frames)
            return normalized
        state = restarted(self._carried_state(len(features)), batch.seams.first)
        normalized, self.carried = normalize_piece(self.input_norm, features, frames, state)
        return normalized

    def encode_batch(self, features: Tensor, frames: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Encodes features of `normalize_batch`; pieces continue their streams. See `FastConformer.forward`."""
        if batch.seams is None:
            encoded: tuple[Tensor, Tensor] = self.encoder(features, frames)
            return encoded
        assert self.carried is not None
        x, valid, self.carried = encode_piece(self.encoder, features, frames, batch.seams, self.carried)
        return x, valid

    def _carried_state(self, rows: int) -> CarriedState:
        """Returns the state of the streams after the last batch; before the first one, the saved or the initial one."""
        if self.carried is None:
            left = 1000 * self.config.get("data", {}).get("piece_left_s", DataConfig.piece_left_s)
            self.carried = initial_state(self.input_norm, self.encoder, rows, left)
            if self._saved_streams is not None:
                self.carried = restore_state(
                    self.carried, self._saved_streams, self.global_rank, self.trainer.world_size
                )
                self._saved_streams = None
        return self.carried

    def exported_head(self) -> ExportedHead | None:
        """Returns the head that exported graphs append to the encoder; None for tasks without one."""
        return None

    def on_train_start(self) -> None:
        """Checks optimizer and schedule restored from a checkpoint, before the first update uses them."""
        if self.trainer.ckpt_path:
            for optimizer, config in zip(self.trainer.optimizers, self.trainer.lr_scheduler_configs):
                require_fitting(optimizer, config.scheduler, self.trainer.ckpt_path)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seeds torch's generator, so that dropout is a function of the step, and samples the context.

        All ranks use the same context, so that their steps take equally long.
        """
        self.encoder.sample_context(hash_id(f"{self.seed}/{batch.step}/context"))
        torch.manual_seed(hash_id(f"{self.seed}/{batch.step}/{self.global_rank}"))

    def on_train_end(self) -> None:
        """Restores the default context for later use of the model."""
        self.encoder.use_context(None)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Builds the optimizer and its schedule, which advances with every update, or with the audio consumed."""
        if self.optimization is None:
            raise UserError("this model was built without an optimizer and cannot be trained: pass optimization=")
        budget = self.max_audio_hours
        share = None if budget is None else lambda: self.hours_seen / budget
        optimizer, schedule = self.optimization.build(self, share)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Steps the schedule."""
        scheduler.step()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds config and labels, so that a checkpoint is enough to use the model.

        A checkpoint of the trainer, which all processes save together, also gets the state of the streams.
        """
        checkpoint["streamnest"] = {"config": storable(self.config), "labels": self.labels, "format": FORMAT}
        if self.carried is not None and "loops" in checkpoint:
            checkpoint["streams"] = gather_state(self.carried)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the state of the streams for the first batch."""
        self._saved_streams, self.carried = checkpoint.get("streams"), None

    def _filled(self, value: float) -> Tensor:
        """Returns a number as a tensor on the device; `torch.tensor` and `log` would wait for the device to copy it."""
        return torch.full((), value, device=self.device)

    def _add_seconds(self, batch: Batch, seconds: Tensor) -> None:
        """Adds the audio of a batch, `seconds` over all processes; a single process also counts on the host."""
        total, on_host = self.seconds_seen, self._seconds_on_host
        before = on_host(total) if on_host.is_current(total) and self.trainer.world_size == 1 else None
        total += seconds
        if before is not None:
            # Rounded to float32, as `seconds` is.
            on_host.set(total, before + float(torch.tensor(batch.seconds)))

    def _over_ranks(self, x: Tensor) -> Tensor:
        """Sums over all processes."""
        return sum_over_processes(x)


def sum_over_processes(x: Tensor) -> Tensor:
    """Returns the sum of a tensor over all processes; Lightning's own waits for the device at a barrier."""
    x = x.clone()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(x)
    return x
