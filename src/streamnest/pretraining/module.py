"""Prediction of codes of clean audio, as a LightningModule.

audio -> log-mel -> (clean) quantizer -> targets
      -> (noisy) normalize, mask -> causal encoder -> objective: heads and cross entropy
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule, fully_shard

from streamnest import code_usage
from streamnest.cached_value import CachedValue
from streamnest.config.tasks import DualModeConfig
from streamnest.data.batch import Batch
from streamnest.encoder import FastConformer
from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError
from streamnest.frontend import LogMel
from streamnest.latency import receptive_field_end
from streamnest.masking import Masking
from streamnest.normalization import Normalizer
from streamnest.objectives import Objective, PredictionContext, PredictionResult
from streamnest.objectives.dual_mode import compare_branches
from streamnest.objectives.selection import to_device
from streamnest.optim import Optimization
from streamnest.pretraining.checks import check_masking, check_objective, check_sizes, checked_dual_weights
from streamnest.pretraining.scores import ValidationScores, dual_mode_scores, sums_of, training_scores
from streamnest.quantizer import RandomProjectionQuantizer
from streamnest.randomness import fold_keys
from streamnest.targets import TeacherQuantizer

_MASK_STREAM = 0x3A5C
_OBJECTIVE_STREAM = 0x0B1E
_RANK_FRAMES = 2048


class Pretraining(EncoderTask):
    """NEST (Huang et al. 2024) in which each stage can be causal.

    Args:
        frontend: waveform to log-mel.
        encoder: log-mel to representation; its `normalize` selects the input normalization.
        masking: masking of the encoder's input.
        quantizer: clean features to codes; or clean audio to codes of a teacher, which is attached before training.
        objective: heads and loss.
        optimization: optimizer and schedule; None for use without training.
        target_normalize: normalization of the quantizer's input; targets may depend on future audio.
        seed: seed of masks and dropout.
        config: the composed config as plain containers; stored in the checkpoint.
        dual_mode: weights of a second branch in unlimited context; None trains without it.

    Raises:
        UserError: if sizes do not match, dual mode is not possible, or the encoder's receptive field leaves the
            objective nothing to predict.
    """

    train_counts: Tensor

    def __init__(
        self,
        frontend: LogMel,
        encoder: FastConformer,
        masking: Masking,
        quantizer: RandomProjectionQuantizer | TeacherQuantizer,
        objective: Objective,
        optimization: Optimization | None = None,
        target_normalize: str = "utterance",
        seed: int = 0,
        config: dict[str, Any] | None = None,
        dual_mode: DualModeConfig | None = None,
    ) -> None:
        super().__init__(frontend, encoder, optimization, seed, config)
        check_sizes(frontend, encoder, quantizer)
        self.masking, self.quantizer, self.objective = masking, quantizer, objective
        self.target_norm = Normalizer(target_normalize, frontend.num_mels)
        self.register_buffer("train_counts", torch.zeros(quantizer.num_codebooks, quantizer.num_classes))
        self._val = self._no_scores()
        self._val_frames = torch.empty(0, encoder.d_model)
        # Entropy of the codes of the training set, on the device.
        self._target_entropy = CachedValue(code_usage.mean_entropy)
        check_masking(masking, encoder)
        check_objective(objective, encoder, frontend, self.input_norm.causal)
        self.dual_mode = dual_mode or DualModeConfig()
        self.dual_weights = checked_dual_weights(self.dual_mode, encoder, objective)
        if self.dual_mode.active:
            encoder.train_offline_norms()

    def configure_model(self) -> None:
        """Shards each layer, then encoder and objective, if the strategy has a device mesh (`trainer=fsdp`).

        Raises:
            UserError: for a trained mask embedding, which would not be sharded.
        """
        if self.device_mesh is None or isinstance(self.encoder, FSDPModule):
            return
        if any(parameter.requires_grad for parameter in self.masking.parameters()):
            raise UserError("trainer=fsdp cannot train mask embeddings: set masking.freeze=true")
        mesh = self.device_mesh["data_parallel"]
        for module in (*self.encoder.layers, self.encoder, self.objective):
            fully_shard(module, mesh=mesh)

    @property
    def feature_quantizer(self) -> RandomProjectionQuantizer:
        """The quantizer of features.

        Raises:
            UserError: if the codes are those of a teacher.
        """
        if isinstance(self.quantizer, TeacherQuantizer):
            raise UserError("the targets of this model are codes of a teacher (quantizer=teacher), not of features")
        return self.quantizer

    def targets(self, clean: Tensor, lengths: Tensor) -> Tensor:
        """Computes codes `(B, T // f, codebooks)` of clean log-mel features `(B, D, T)`."""
        codes: Tensor = self.feature_quantizer(self.target_norm(clean, lengths))
        return codes

    def target_codes(self, batch: Batch, features: Tensor, frames: Tensor) -> Tensor:
        """Computes codes `(B, T // f, codebooks)` of a batch.

        Args:
            batch: batch of audio, from which a teacher computes codes.
            features: clean log-mel features `(B, D, T)`, from which codes are computed otherwise.
            frames: `(B,)` valid feature frames.

        Raises:
            UserError: if the codes are those of a teacher that is not attached.
        """
        if isinstance(self.quantizer, TeacherQuantizer):
            return self.quantizer.codes(batch.clean, batch.lengths, batch.hashes)
        return self.targets(features, frames)

    def prepare_batch(self, batch: Batch, step: int) -> tuple[Tensor, Tensor, PredictionContext]:
        """Computes input features, target codes and masks.

        Args:
            batch: batch of audio.
            step: number folded into the random keys.

        Returns:
            Normalized features before masking `(B, D, T)`, codes `(B, T // f, codebooks)`, and masks, lengths and
            receptive field.
        """
        lengths, host_keys = batch.on_host()
        host_keys = fold_keys(host_keys, self.seed, step)
        keys = to_device(host_keys, batch.clean.device)
        clean, frames = self.compute_features(batch.clean, batch, keys)
        noisy = clean if batch.noisy is batch.clean else self.compute_features(batch.noisy, batch, keys)[0]
        codes = self.target_codes(batch, clean, frames)
        # Masks are sampled on the host, where the number of frames to predict is then known.
        mask_keys, objective_keys = (fold_keys(host_keys, stream) for stream in (_MASK_STREAM, _OBJECTIVE_STREAM))
        lengths = self.frontend.num_frames(lengths)
        mask = self.masking.sample(lengths, clean.shape[-1], keys=mask_keys, chunk=self.encoder.chunk_features)
        # Outputs may be one frame more than codes, if the last frame is incomplete.
        end = self.receptive_field_end(codes.shape[1] + 1) if self.objective.predicts_unseen else None
        context = PredictionContext(mask, lengths, self.quantizer.stack, end, objective_keys)
        return self.normalize_batch(noisy, frames, batch), codes, context

    def encode(self, features: Tensor, context: PredictionContext, batch: Batch | None = None) -> tuple[Tensor, Tensor]:
        """Masks and encodes features of `prepare_batch`.

        Args:
            features: normalized features before masking `(B, D, T)`.
            context: masks and lengths.
            batch: the batch, which is required if its rows are pieces of recordings.

        Returns:
            Outputs by target frame `(B, T', d)`, and all valid frames `(N, d)`, detached; in training none of them,
            because their number is a value on the device.
        """
        mask, lengths = (to_device(x, features.device) for x in (context.mask, context.lengths))
        masked = self.masking.apply(features, mask)
        encoded, valid = (
            self.encode_batch(masked, lengths, batch) if batch is not None else self.encoder(masked, lengths)
        )
        frames = encoded.detach()
        inside = torch.arange(frames.shape[1], device=frames.device) < valid[:, None]
        return encoded[:, self.encoder.target_shift :], frames.flatten(0, 1)[:0] if self.training else frames[inside]

    def receptive_field_end(self, frames: int) -> Tensor | None:
        """Returns the receptive field's end of the first outputs, in target frames; see `latency`."""
        return receptive_field_end(self.encoder, self.frontend, frames, self.input_norm.causal)

    def predict(self, batch: Batch, step: int) -> tuple[dict[str, PredictionResult], Tensor]:
        """Masks, encodes and predicts one batch.

        Args:
            batch: batch of audio.
            step: number folded into the random keys.

        Returns:
            A result for each part of the objective, in training also of `dual_weights`, and the encoder output of all
            valid frames, as `encode` does.
        """
        features, codes, context = self.prepare_batch(batch, step)
        encoded, frames = self.encode(features, context, batch)
        results = self.objective(encoded, codes, context)
        if not (self.training and self.dual_weights):
            return results, frames
        gradients = torch.is_grad_enabled() and self.dual_mode.offline_weight > 0
        with self.encoder.offline():
            with torch.set_grad_enabled(gradients):
                offline, _ = self.encode(features, context)
            parts = set(self.dual_weights)
            return results | compare_branches(self.objective, encoded, offline, codes, context, parts), frames

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns the loss per prediction over all ranks; 0 for a batch without predictions."""
        results, _ = self.predict(batch, batch.step)
        seconds = self._filled(batch.seconds)[None]
        summed = self._over_ranks(torch.cat([*(sums_of(result) for result in results.values()), seconds]))
        sums = dict(zip(results, summed[:-1].view(-1, 3)))
        self._add_seconds(batch, summed[-1])
        # A part without predictions in this process keeps its last metrics; their sum is a value on the device.
        self._log_step(batch, {part: sums[part] for part, result in results.items() if result.count})
        # DDP averages gradients over ranks; multiplying by their number weights each prediction equally.
        weights = self.objective.weights | self.dual_weights
        loss = [
            weights[part] * (result.loss_sum * self.trainer.world_size / sums[part][2].clamp_min(1))
            for part, result in results.items()
        ]
        return torch.stack(loss).sum()

    def _log_step(self, batch: Batch, predicted: dict[str, Tensor]) -> None:
        """Logs a step, given loss, correct and count of each part of the loss with predictions."""
        streaming = {part: value for part, value in predicted.items() if part not in self.dual_weights}
        entropy = self._target_entropy(self.train_counts).float()
        metrics = training_scores(streaming, self.objective.weights, entropy)
        metrics |= dual_mode_scores(predicted, self.objective.weights)
        metrics["lr"] = self._filled(self.optimizers().param_groups[0]["lr"])  # type: ignore[union-attr]
        metrics["hours"] = (self.seconds_seen / 3600).float()
        self.log_dict({f"train/{name}": value for name, value in metrics.items()}, batch_size=len(batch.ids))

    def on_train_start(self) -> None:
        """Checks the restored state, and opens the cache of codes, after all processes have the same centers."""
        super().on_train_start()
        self._open_cache()

    def on_train_end(self) -> None:
        """Writes codes that are not cached yet."""
        super().on_train_end()
        self._flush_cache()

    def on_validation_start(self) -> None:
        """Opens the cache of codes."""
        self._open_cache()

    def on_validation_epoch_start(self) -> None:
        """Resets the sums, and uses the default context until training continues."""
        self.encoder.use_context(None)
        self._val = self._no_scores()
        self._val_frames = torch.empty(0, self.encoder.d_model, device=self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Adds to the sums; masks depend only on the seed and the cut, so that losses are comparable."""
        results, encoded = self.predict(batch, 0)
        self._val.add(results)
        if len(self._val_frames) < _RANK_FRAMES:
            # A few frames of each utterance: adjacent frames are similar, and the first batches hold short utterances.
            some = encoded[:: max(1, len(encoded) // (16 * len(batch.ids)))].float()
            self._val_frames = torch.cat([self._val_frames, some])

    def on_validation_epoch_end(self) -> None:
        """Logs loss, unigram baseline and collapse diagnostics."""
        metrics = self._val.reduced(self._over_ranks).metrics(self.train_counts)
        metrics["rank"] = code_usage.effective_rank(self._val_frames[:_RANK_FRAMES])
        self.log_dict({f"val/{name}": value for name, value in metrics.items()}, sync_dist=True)
        self._flush_cache()

    def _open_cache(self) -> None:
        if isinstance(self.quantizer, TeacherQuantizer):
            self.quantizer.open_cache()

    def _flush_cache(self) -> None:
        if isinstance(self.quantizer, TeacherQuantizer) and self.quantizer.cache:
            self.quantizer.cache.flush()

    def _no_scores(self) -> ValidationScores:
        quantizer = self.quantizer
        return ValidationScores(self.objective.weights, quantizer.num_codebooks, quantizer.num_classes, self.device)
