"""Prediction of random-projection codes, as a LightningModule.

audio -> log-mel -> (clean) quantizer -> targets
      -> (noisy) normalise, mask -> causal encoder -> objective: heads and cross entropy
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule, fully_shard

from streamnest import code_usage as health
from streamnest.data.batch import Batch
from streamnest.encoder import FastConformer
from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError
from streamnest.frontend import LogMel
from streamnest.latency import receptive_field_end
from streamnest.masking import ChunkMasking, Masking
from streamnest.metrics import ValidationScores, figures, training_scores
from streamnest.normalization import Normalizer
from streamnest.objectives import Objective, PredictionContext, PredictionResult
from streamnest.optim import Optimization
from streamnest.quantizer import RandomProjectionQuantizer
from streamnest.randomness import fold_keys

_MASK_STREAM = 0x3A5C
_OBJECTIVE_STREAM = 0x0B1E
_RANK_FRAMES = 2048


class Pretraining(EncoderTask):
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
        UserError: for sizes that do not fit each other, and an objective that the encoder leaves nothing to predict.
    """

    train_counts: Tensor

    def __init__(
        self,
        frontend: LogMel,
        encoder: FastConformer,
        masking: Masking,
        quantizer: RandomProjectionQuantizer,
        objective: Objective,
        optimization: Optimization | None = None,
        target_normalize: str = "utterance",
        seed: int = 0,
        config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(frontend, encoder, optimization, seed, config)
        _check_sizes(frontend, encoder, quantizer)
        self.masking, self.quantizer, self.objective = masking, quantizer, objective
        self.target_norm = Normalizer(target_normalize, frontend.num_mels)
        self.register_buffer("train_counts", torch.zeros(quantizer.num_codebooks, quantizer.num_classes))
        self._val = self._no_scores()
        self._val_frames = torch.empty(0, encoder.d_model)
        self._check_masking()
        self._check_objective()

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
        for module in (*self.encoder.layers, self.encoder, self.objective):
            fully_shard(module, mesh=mesh)

    def targets(self, clean: Tensor, lengths: Tensor) -> Tensor:
        """Codes `(B, T // f, books)` of clean log-mel features `(B, D, T)`."""
        return self.quantizer(self.target_norm(clean, lengths))

    def prepare_batch(self, batch: Batch, step: int) -> tuple[Tensor, Tensor, PredictionContext]:
        """What the encoder hears of one batch before masking `(B, D, T)`, codes `(B, T // f, books)`, and the rest.

        Args:
            batch: of audio.
            step: folded into the random keys.
        """
        keys = fold_keys(batch.keys, self.seed, step)
        clean, frames = self.frontend(batch.clean, batch.lengths, keys)
        heard = clean if batch.noisy is batch.clean else self.frontend(batch.noisy, batch.lengths, keys)[0]
        codes = self.targets(clean, frames)
        keys_of_masks = fold_keys(keys, _MASK_STREAM)
        mask = self.masking.sample(frames, clean.shape[-1], keys=keys_of_masks, chunk=self._chunk)
        context = PredictionContext(mask, frames, self.quantizer.stack, keys=fold_keys(keys, _OBJECTIVE_STREAM))
        return self.input_norm(heard, frames), codes, context

    def encode(self, heard: Tensor, context: PredictionContext) -> tuple[Tensor, Tensor]:
        """Masks and encodes what `hear` gave: outputs by block `(B, T', d)`, and all valid frames `(N, d)`, detached.

        `context.until` is set to where each output has stopped seeing.
        """
        encoded, valid = self.encoder(self.masking.apply(heard, context.mask), context.lengths)
        by_block = encoded[:, self.encoder.target_shift :]
        if self.objective.predicts_unseen:
            context.until = self.receptive_field_end(by_block.shape[1])
        return by_block, encoded.detach()[torch.arange(encoded.shape[1], device=encoded.device) < valid[:, None]]

    def receptive_field_end(self, frames: int) -> Tensor | None:
        """Where each of the first outputs has stopped seeing, in blocks; see `latency.receptive_field_end`."""
        return receptive_field_end(self.encoder, self.frontend, frames, self.input_norm.causal)

    def predict(self, batch: Batch, step: int) -> tuple[dict[str, PredictionResult], Tensor]:
        """Masks, encodes and predicts one batch.

        Args:
            batch: of audio.
            step: folded into the random keys.

        Returns:
            A result for each part of the objective, and the encoder output of all valid frames `(N, d)`.
        """
        heard, codes, context = self.prepare_batch(batch, step)
        encoded, frames = self.encode(heard, context)
        return self.objective(encoded, codes, context), frames

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss per prediction over all ranks; a batch without anything to predict gives 0."""
        results, _ = self.predict(batch, batch.step)
        seconds = torch.tensor([batch.seconds], device=self.device)
        summed = self._over_ranks(torch.cat([*(figures(result) for result in results.values()), seconds]))
        sums = dict(zip(results, summed[:-1].view(-1, 3)))
        self.seconds_seen += summed[-1]
        shown = training_scores(sums, self.objective.weights, self.train_counts)
        self.log_dict({f"train/{k}": v for k, v in shown.items()}, batch_size=len(batch.ids))
        self.log("train/lr", self.optimizers().param_groups[0]["lr"], batch_size=len(batch.ids))  # type: ignore[union-attr]
        self.log("train/hours", (self.seconds_seen / 3600).float(), batch_size=len(batch.ids))
        # DDP averages gradients over ranks: times their number, so that each prediction weighs the same.
        loss = [
            self.objective.weights[part] * (result.loss_sum * self.trainer.world_size / sums[part][2].clamp_min(1))
            for part, result in results.items()
        ]
        return torch.stack(loss).sum()

    def on_validation_epoch_start(self) -> None:
        """Empties the sums; the context is the default one until training goes on."""
        self.encoder.use_context(None)
        self._val = self._no_scores()
        self._val_frames = torch.empty(0, self.encoder.d_model, device=self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Adds to the sums; masks depend on the seed and the cut only, so that losses can be compared."""
        results, encoded = self.predict(batch, 0)
        self._val.add(results)
        if len(self._val_frames) < _RANK_FRAMES:
            # A few frames of each utterance: neighbours are alike, and the first batches hold the shortest ones.
            some = encoded[:: max(1, len(encoded) // (16 * len(batch.ids)))].float()
            self._val_frames = torch.cat([self._val_frames, some])

    def on_validation_epoch_end(self) -> None:
        """Logs the loss, what the code frequencies of the training set would reach, and the health of codes."""
        shown = self._val.reduced(self._over_ranks).metrics(self.train_counts)
        shown["rank"] = health.effective_rank(self._val_frames[:_RANK_FRAMES])
        self.log_dict({f"val/{name}": value for name, value in shown.items()}, sync_dist=True)

    def _no_scores(self) -> ValidationScores:
        quantizer = self.quantizer
        return ValidationScores(self.objective.weights, quantizer.num_codebooks, quantizer.num_classes, self.device)

    @property
    def _chunk(self) -> int | None:
        """Feature frames that become available to the encoder together."""
        chunk = self.encoder.context.chunk
        return None if chunk is None else chunk * self.encoder.subsampling.factor

    def _check_masking(self) -> None:
        """Refuses chunks that cannot be masked, in any context."""
        if isinstance(self.masking, ChunkMasking):
            self.masking.longest_tail(self._chunk)
            for _ in self.encoder.each_context():
                self.masking.longest_tail(self._chunk)

    def _check_objective(self) -> None:
        """Refuses an objective where the encoder leaves nothing to predict."""
        if not self.objective.predicts_unseen:
            return
        if self.receptive_field_end(1) is None:
            raise UserError(
                "the objective predicts audio that the encoder has not heard, and this encoder hears the whole "
                "utterance: choose a streaming one such as encoder=causal, or objective=masked"
            )
        for name in self.encoder.each_context():
            if len(self.objective.weights) == 1 and self.receptive_field_end(1) is None:
                raise UserError(
                    f"encoder.contexts.{name} hears the whole utterance, which leaves nothing to predict: "
                    f"'~encoder.contexts.{name}', or objective=masked_next_token"
                )


def _check_sizes(frontend: LogMel, encoder: FastConformer, quantizer: RandomProjectionQuantizer) -> None:
    if quantizer.feat_in != frontend.num_mels:
        raise UserError(f"quantizer.feat_in={quantizer.feat_in} but frontend.num_mels={frontend.num_mels}")
    if quantizer.stack != encoder.subsampling.factor:
        raise UserError(
            f"quantizer.stack={quantizer.stack} but encoder.subsampling_factor={encoder.subsampling.factor}: "
            "a target stands for one encoder frame, make them equal"
        )
