"""What every task is made of: front end, input normaliser and encoder, and how they are trained and saved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from streamnest.config.aliases import FORMAT
from streamnest.config.stored import storable
from streamnest.data.batch import Batch
from streamnest.encoder import FastConformer
from streamnest.errors import UserError
from streamnest.frontend import LogMel
from streamnest.latency import LatencyReport, latency_report
from streamnest.normalization import Normalizer
from streamnest.optim import Optimization, require_fitting
from streamnest.randomness import hash_id
from streamnest.samples import as_samples

if TYPE_CHECKING:
    from streamnest.streaming.heads import ExportedHead


class EncoderTask(L.LightningModule):
    """An encoder with what it hears through; tasks add what it learns from.

    Args:
        frontend: waveform to log-mel.
        encoder: log-mel to representation; its `normalize` says how its input is normalised.
        optimization: optimiser and schedule; None for use without training.
        seed: of everything that is drawn while training.
        config: the composed config as plain containers; stored in the checkpoint.
        labels: what the outputs of the task mean, such as its tokenizer, as plain containers; stored there as well.

    Raises:
        UserError: for sizes that do not fit each other.
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

    @property
    def sample_rate(self) -> int:
        """Samples per second of the audio that it takes."""
        return self.frontend.sample_rate

    @property
    def latency(self) -> LatencyReport:
        """The latency contract of the encoder behind its front end."""
        return latency_report(self.encoder, self.frontend, self.input_norm.causal)

    @property
    def normalizers(self) -> list[Normalizer]:
        """All that normalise by statistics of a corpus."""
        return [module for module in self.modules() if isinstance(module, Normalizer)]

    def forward(self, audio: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Representation of audio as it is: `(B, N)`, `(B,)` -> `(B, T', d)`, `(B,)` valid frames.

        Raises:
            UserError: for samples that are not what `as_samples` takes.
        """
        features, frames = self.frontend(as_samples(audio, ndim=2), lengths)
        return self.encoder(self.input_norm(features, frames), frames)

    def exported_head(self) -> ExportedHead | None:
        """The head that an exported graph has behind the encoder; None for tasks without one."""
        return None

    def on_train_start(self) -> None:
        """Looks at what a checkpoint has put into optimizer and schedule, before the first update uses it."""
        if self.trainer.ckpt_path:
            for optimizer, config in zip(self.trainer.optimizers, self.trainer.lr_scheduler_configs):
                require_fitting(optimizer, config.scheduler, self.trainer.ckpt_path)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Dropout draws from torch's generator: seeding it per step makes it a function of the step as well.

        So is the context of a dynamic encoder, and the same on all ranks, which then take equally long.
        """
        self.encoder.sample_context(hash_id(f"{self.seed}/{batch.step}/context"))
        torch.manual_seed(hash_id(f"{self.seed}/{batch.step}/{self.global_rank}"))

    def on_train_end(self) -> None:
        """Whoever uses the model from now on gets the default context."""
        self.encoder.use_context(None)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW and its schedule, stepped with every update."""
        if self.optimization is None:
            raise UserError("this model was built for use, not for training: it has no optimization")
        optimizer, schedule = self.optimization.build(self)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Steps the schedule."""
        scheduler.step()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds config and labels, so that a checkpoint is enough to use the model."""
        checkpoint["streamnest"] = {"config": storable(self.config), "labels": self.labels, "format": FORMAT}

    def _over_ranks(self, x: Tensor) -> Tensor:
        """The sum over all processes."""
        return self.trainer.strategy.reduce(x.clone(), reduce_op="sum")
