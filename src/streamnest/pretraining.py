"""Masked prediction of random-projection codes, as a LightningModule.

audio -> log-mel -> (clean) quantizer -> targets
      -> (noisy) normalise, mask -> causal encoder -> heads -> cross entropy on masked frames
"""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.distributed.fsdp import FSDPModule, fully_shard

from streamnest import health
from streamnest.data.batch import Batch
from streamnest.encoder import FastConformer
from streamnest.errors import UserError
from streamnest.frontend import LogMel
from streamnest.latency import LatencyReport, latency_report
from streamnest.masking import Masking
from streamnest.normalization import Normalizer
from streamnest.objectives import MaskedPrediction, PredictionResult
from streamnest.optim import Optimization
from streamnest.quantizer import RandomProjectionQuantizer, count_codes
from streamnest.randomness import fold_keys, hash_id

_MASK_STREAM = 0x3A5C
_RANK_FRAMES = 2048


class Pretraining(L.LightningModule):
    """NEST (Huang et al. 2024) with every part of the path replaceable by a causal one.

    Args:
        frontend: waveform to log-mel.
        encoder: log-mel to representation; its `normalize` says how its input is normalised.
        masking: what is hidden from the encoder.
        quantizer: clean features to codes.
        objective: heads and loss.
        optimization: optimiser and schedule; None for use without training.
        target_normalize: how the quantizer's input is normalised; targets may see the future.
        seed: of masks and dropout.
        config: the composed config as plain containers; stored in the checkpoint.

    Raises:
        UserError: for sizes that do not fit each other.
    """

    train_counts: Tensor
    seconds_heard: Tensor

    def __init__(
        self,
        frontend: LogMel,
        encoder: FastConformer,
        masking: Masking,
        quantizer: RandomProjectionQuantizer,
        objective: MaskedPrediction,
        optimization: Optimization | None = None,
        target_normalize: str = "utterance",
        seed: int = 0,
        config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        _check_sizes(frontend, encoder, quantizer)
        self.frontend, self.encoder, self.masking = frontend, encoder, masking
        self.quantizer, self.objective, self.optimization = quantizer, objective, optimization
        self.input_norm = Normalizer(encoder.normalize, frontend.num_mels)
        self.target_norm = Normalizer(target_normalize, frontend.num_mels)
        self.seed, self.config = seed, config or {}
        self.register_buffer("train_counts", torch.zeros(quantizer.num_books, quantizer.num_classes))
        self.register_buffer("seconds_heard", torch.zeros((), dtype=torch.float64))
        self._val: dict[str, Tensor] = {}

    def configure_model(self) -> None:
        """Shards the blocks, then what is around them, where the strategy has a mesh (`trainer=fsdp`).

        Raises:
            UserError: with a trained mask embedding, which lies outside what is sharded.
        """
        if self.device_mesh is None or isinstance(self.encoder, FSDPModule):
            return
        if any(parameter.requires_grad for parameter in self.masking.parameters()):
            raise UserError("trainer=fsdp keeps mask embeddings fixed: set masking.freeze=true")
        mesh = self.device_mesh["data_parallel"]
        for module in (*self.encoder.blocks, self.encoder, self.objective):
            fully_shard(module, mesh=mesh)

    @property
    def latency(self) -> LatencyReport:
        """The latency contract of the encoder behind its front end."""
        return latency_report(self.encoder, self.frontend, self.input_norm.causal)

    def targets(self, clean: Tensor, lengths: Tensor) -> Tensor:
        """Codes `(B, T // f, books)` of clean log-mel features `(B, D, T)`."""
        return self.quantizer(self.target_norm(clean, lengths))

    def forward(self, audio: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Representation of audio without masking: `(B, N)`, `(B,)` -> `(B, T', d)`, `(B,)`."""
        features, frames = self.frontend(audio, lengths)
        return self.encoder(self.input_norm(features, frames), frames)

    def predict_masked(self, batch: Batch, step: int) -> tuple[PredictionResult, Tensor, Tensor]:
        """Masks, encodes and predicts one batch.

        Args:
            batch: of audio.
            step: folded into the random keys.

        Returns:
            The result, counts of the codes that were to predict `(books, classes)`, and the encoder output of all
            valid frames `(N, d)`.
        """
        keys = fold_keys(batch.keys, self.seed, step)
        clean, frames = self.frontend(batch.clean, batch.lengths, keys)
        heard = clean if batch.noisy is batch.clean else self.frontend(batch.noisy, batch.lengths, keys)[0]
        codes = self.targets(clean, frames)
        mask = self.masking.sample(frames, clean.shape[-1], keys=fold_keys(keys, _MASK_STREAM))
        encoded, valid = self.encoder(self.masking.apply(self.input_norm(heard, frames), mask), frames)
        selected = self.objective.select(mask, frames, self.quantizer.stack)
        result = self.objective(encoded[:, self.encoder.target_shift :], codes, selected)
        heard_frames = encoded.detach()[torch.arange(encoded.shape[1], device=encoded.device) < valid[:, None]]
        return result, count_codes(codes[selected], self.quantizer.num_classes), heard_frames

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Dropout draws from torch's generator: seeding it per step makes it a function of the step as well.

        So is the context of a dynamic encoder, and the same on all ranks, which then take equally long.
        """
        self.encoder.draw_context(hash_id(f"{self.seed}/{batch.step}/context"))
        torch.manual_seed(hash_id(f"{self.seed}/{batch.step}/{self.global_rank}"))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss per masked frame over all ranks; a batch without masked frames gives 0."""
        result, _, _ = self.predict_masked(batch, batch.step)
        seconds = torch.full_like(result.loss_sum, batch.seconds)
        sums = self._over_ranks(torch.stack([result.loss_sum.detach(), result.correct, result.count.float(), seconds]))
        self.seconds_heard += sums[3]
        if sums[2] > 0:
            mean_loss, accuracy = sums[:2] / sums[2]
            shown = {"loss": mean_loss, "accuracy": accuracy, "masked_frames": sums[2]}
            shown["loss_minus_entropy"] = mean_loss - health.entropy(self.train_counts)
            self.log_dict({f"train/{k}": v for k, v in shown.items()}, batch_size=len(batch.ids))
        self.log("train/lr", self.optimizers().param_groups[0]["lr"], batch_size=len(batch.ids))  # type: ignore[union-attr]
        self.log("train/hours", (self.seconds_heard / 3600).float(), batch_size=len(batch.ids))
        # DDP averages gradients over ranks: times their number, so that each masked frame weighs the same.
        return result.loss_sum * self.trainer.world_size / sums[2].clamp_min(1)

    def on_train_end(self) -> None:
        """Whoever uses the model from now on gets the default context."""
        self.encoder.use_context(None)

    def on_validation_epoch_start(self) -> None:
        """Empties the sums; the context is the default one until training goes on."""
        self.encoder.use_context(None)
        self._val = {
            "sums": torch.zeros(3, device=self.device),
            "counts": torch.zeros_like(self.train_counts),
            "frames": torch.empty(0, self.encoder.d_model, device=self.device),
        }

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Adds to the sums; masks depend on the seed and the cut only, so that losses can be compared."""
        result, counts, encoded = self.predict_masked(batch, 0)
        self._val["sums"] += torch.stack([result.loss_sum, result.correct, result.count.float()])
        self._val["counts"] += counts
        if len(self._val["frames"]) < _RANK_FRAMES:
            # A few frames of each utterance: neighbours are alike, and the first batches hold the shortest ones.
            some = encoded[:: max(1, len(encoded) // (16 * len(batch.ids)))].float()
            self._val["frames"] = torch.cat([self._val["frames"], some])

    def on_validation_epoch_end(self) -> None:
        """Logs the loss, what the code frequencies of the training set would reach, and the health of codes."""
        sums, counts = self._over_ranks(self._val["sums"]), self._over_ranks(self._val["counts"])
        loss, accuracy = (sums[:2] / sums[2].clamp_min(1)).tolist()
        unigram = health.unigram_cross_entropy(self.train_counts, counts)
        shown = {
            "loss": loss,
            "accuracy": accuracy,
            "unigram": unigram,
            "gain": unigram - loss,
            "perplexity": float(torch.tensor(health.entropy(counts)).exp()),
            "codes_used": float((counts > 0).float().sum(-1).mean()),
            "rank": health.effective_rank(self._val["frames"][:_RANK_FRAMES]),
        }
        self.log_dict({f"val/{name}": value for name, value in shown.items()}, sync_dist=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW and its schedule, stepped with every update."""
        if self.optimization is None:
            raise UserError("this model was built for use, not for training: it has no optimization")
        optimizer, schedule = self.optimization.build(self)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Steps the schedule."""
        scheduler.step()

    def _over_ranks(self, x: Tensor) -> Tensor:
        """The sum over all processes."""
        return self.trainer.strategy.reduce(x.clone(), reduce_op="sum")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the config, so that a checkpoint is enough to use the model."""
        checkpoint["streamnest"] = {"config": self.config}


def _check_sizes(frontend: LogMel, encoder: FastConformer, quantizer: RandomProjectionQuantizer) -> None:
    if encoder.num_mels != frontend.num_mels:
        raise UserError(
            f"encoder.num_mels={encoder.num_mels} but frontend.num_mels={frontend.num_mels}: make them equal"
        )
    if quantizer.feat_in != frontend.num_mels:
        raise UserError(f"quantizer.feat_in={quantizer.feat_in} but frontend.num_mels={frontend.num_mels}")
    if quantizer.stack != encoder.stem.factor:
        raise UserError(
            f"quantizer.stack={quantizer.stack} but encoder.subsampling_factor={encoder.stem.factor}: "
            "a target stands for one encoder frame, make them equal"
        )
