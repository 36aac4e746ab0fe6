"""What a second of audio costs to train on, in floating-point operations, counted on the network itself.

Nothing is computed: tensors are on PyTorch's `meta` device, which has shapes only.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from streamnest.encoder import EncoderConfig, FastConformer
from streamnest.masking import Masking
from streamnest.objectives import MaskedPrediction

_FRAMES_PER_SECOND = 100


class TrainingCost(NamedTuple):
    """FLOPs (two for a multiplication and an addition) per second of audio.

    Attributes:
        forward: of the encoder and the heads.
        backward: of the same; computing activations again, which saves memory, is part of it.
        parameters: that are trained.
    """

    forward: float
    backward: float
    parameters: int

    @property
    def total(self) -> float:
        """Of a training step, without the optimiser, whose cost does not depend on the audio."""
        return self.forward + self.backward


def training_cost(
    config: EncoderConfig, num_classes: int, num_codebooks: int, seconds: float, masked: float
) -> TrainingCost:
    """Counts one utterance through encoder and heads and back.

    Log-mel and codes are left out: about 0.02 GFLOP per second of audio, whatever the size of the encoder.

    Args:
        config: of the encoder.
        num_classes: codes per book.
        num_codebooks: books.
        seconds: length of the utterance; attention grows with it.
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
    """PyTorch's counter, mended: it takes the backward pass of a depthwise convolution for a dense one's."""
    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: _convolution_backward})


def _convolution_backward(
    grad_shape: Any, _x: Any, weight_shape: Any, *rest: Any, out_shape: Any, **kwargs: Any
) -> int:
    """Each gradient has the products of the forward pass: a filter for each output."""
    wanted = sum(bool(flag) for flag in rest[-1][:2])
    return 2 * math.prod(grad_shape) * math.prod(weight_shape[1:]) * wanted


def predicted_share(
    masking: Masking, objective: MaskedPrediction, stack: int, seconds: float, draws: int = 256
) -> float:
    """Share of encoder frames whose codes are predicted, masked or heard, over utterances of one length.

    Args:
        masking: what is hidden.
        objective: which frames count.
        stack: feature frames per encoder frame.
        seconds: length of the utterances.
        draws: utterances.
    """
    frames = round(seconds * _FRAMES_PER_SECOND)
    lengths = torch.full((draws,), frames)
    mask: Tensor = masking.sample(lengths, frames, keys=torch.arange(draws))
    predicted = objective.select(mask, lengths, stack)
    if "heard" in objective.weights:
        predicted |= objective.select_unmasked(mask, lengths, stack)
    return float(predicted.float().mean())
