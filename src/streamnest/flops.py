"""Counts the floating-point operations of training per second of audio by running the network.

The tensors are on PyTorch's `meta` device, which has shapes but no values, so that nothing is computed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from streamnest.encoder import EncoderConfig, FastConformer
from streamnest.masking import Masking
from streamnest.objectives import MaskedPrediction

_FRAMES_PER_SECOND = 100
# Weights and the two moments of AdamW, four bytes each.
_CHECKPOINT_BYTES = 12
# GB of an hour of speech at 16 kHz, measured on the built-in corpus: docs/SCALING.md.
SHARD_GB = {"flac": 0.065, "opus": 0.013}


class TrainingCost(NamedTuple):
    """FLOPs (two for a multiplication and an addition) per second of audio.

    Attributes:
        forward: forward pass of encoder and heads.
        backward: backward pass of encoder and heads, including recomputed activations.
        parameters: number of trained parameters.
    """

    forward: float
    backward: float
    parameters: int

    @property
    def total(self) -> float:
        """Total of a training step, without the optimizer, whose cost does not depend on the audio."""
        return self.forward + self.backward

    @property
    def checkpoint_gb(self) -> float:
        """Size of a checkpoint."""
        return _CHECKPOINT_BYTES * self.parameters / 1e9


@dataclass(frozen=True)
class PlannedRun:
    """Arithmetic of a whole run.

    Attributes:
        cost: cost per second of audio.
        steps: number of updates.
        devices: number of processes, each on a device of its own.
        batch_seconds: seconds of audio per update and process. Batches are filled at most up to it.
    """

    cost: TrainingCost
    steps: int
    devices: int
    batch_seconds: float

    @property
    def step_hours(self) -> float:
        """Hours of audio per update."""
        return self.devices * self.batch_seconds / 3600

    @property
    def hours(self) -> float:
        """Hours of audio consumed by the run."""
        return self.steps * self.step_hours

    @property
    def flops(self) -> float:
        """FLOPs of the run, without validation."""
        return self.cost.total * self.hours * 3600


def device_hours(flops: float, peak_tflops: float, mfu: float) -> float:
    """Returns the hours of one device for a number of FLOPs at a share of its peak."""
    return flops / (peak_tflops * 1e12 * mfu) / 3600


def code_bytes(frame_ms: float, num_classes: int, num_codebooks: int) -> float:
    """Returns the bytes of the codes of an hour of audio, each in the smallest integer type that holds it."""
    width = 1 if num_classes <= 2**8 else 2 if num_classes <= 2**16 else 4
    return 3600e3 / frame_ms * num_codebooks * width


def training_cost(
    config: EncoderConfig, num_classes: int, num_codebooks: int, seconds: float, masked: float
) -> TrainingCost:
    """Counts the operations of one utterance, forward and backward through encoder and heads.

    Log-mel and codes are left out: about 0.02 GFLOP per second of audio, whatever the size of the encoder.

    Args:
        config: config of the encoder.
        num_classes: codes per codebook.
        num_codebooks: number of codebooks.
        seconds: length of the utterance; the cost of attention grows with it.
        masked: share of encoder frames that are predicted.
    """
    with torch.device("meta"):
        encoder = FastConformer(config).train()
        objective = MaskedPrediction(config.d_model, num_classes, num_codebooks)
        features = torch.zeros(1, config.num_mels, round(seconds * _FRAMES_PER_SECOND))
        lengths = torch.full((1,), features.shape[-1])
    with flop_counter() as counter:
        encoded, _ = encoder(features, lengths)
        logits = objective.logits(encoded[:, : round(masked * encoded.shape[1])])
        forward = counter.get_total_flops()
        (encoded.sum() + logits.sum()).backward()
    backward = counter.get_total_flops() - forward
    parameters = sum(p.numel() for module in (encoder, objective) for p in module.parameters())
    return TrainingCost(forward / seconds, backward / seconds, parameters)


def flop_counter() -> FlopCounterMode:
    """Returns PyTorch's counter, corrected: it counts the backward pass of a depthwise convolution as a dense one."""
    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: _convolution_backward})


def _convolution_backward(
    grad_shape: Any, _x: Any, weight_shape: Any, *rest: Any, out_shape: Any, **kwargs: Any
) -> int:
    """Counts, for each gradient, the products of the forward pass: one filter per output."""
    gradients = sum(bool(flag) for flag in rest[-1][:2])
    return 2 * math.prod(grad_shape) * math.prod(weight_shape[1:]) * gradients


def predicted_share(
    masking: Masking, objective: MaskedPrediction, stack: int, seconds: float, utterances: int = 256
) -> float:
    """Estimates the share of encoder frames whose codes are predicted, masked or unmasked.

    Args:
        masking: masking of the run.
        objective: objective of the run, which selects the frames.
        stack: feature frames per encoder frame.
        seconds: length of the utterances.
        utterances: number of sampled utterances.
    """
    frames = round(seconds * _FRAMES_PER_SECOND)
    lengths = torch.full((utterances,), frames)
    mask: Tensor = masking.sample(lengths, frames, keys=torch.arange(utterances))
    predicted = objective.select(mask, lengths, stack)
    if "unmasked" in objective.weights:
        predicted |= objective.select_unmasked(mask, lengths, stack)
    return float(predicted.float().mean())
