"""Measurement of receptive fields, by changing audio and by gradients, and the check before training.

Audio is changed from some sample on, and outputs are compared exactly: a causal model computes bit-equal outputs before
the change, so that no tolerance is needed.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError
from streamnest.streaming.probes.modes import INFERENCE_MODES, TRAINING_MODES, mode_leaks
from streamnest.streaming.probes.quick import quick_check
from streamnest.streaming.probes.subject import Subject

_CHANGE = 0.37


@dataclass(frozen=True)
class Staircase:
    """Receptive field of each output.

    Attributes:
        influence: `(outputs, T)`, magnitude of the gradient of each output for each feature frame; 0 outside of the
            receptive field.
        first: index of the first output.
        stride: seconds between outputs.
        hop: seconds between feature frames.
    """

    influence: Tensor
    first: int
    stride: float
    hop: float

    def by_age(self) -> tuple[Tensor, Tensor]:
        """Averages the influence over outputs by age: the time from the end of a feature frame to that of the span.

        Returns:
            Ages in seconds `(A,)`, negative for look-ahead, and influence `(A,)`, for ages that all outputs have.
        """
        outputs, features = self.influence.shape
        ends = (torch.arange(outputs) + self.first + 1) * round(self.stride / self.hop)
        ages = torch.arange(int(ends[-1]) - features, int(ends[0]))
        by_age = self.influence.cpu().gather(1, ends[:, None] - 1 - ages)
        return ages * self.hop, by_age.mean(0)


class Prober:
    """Measures receptive fields on a copy of a model.

    Args:
        model: model to copy.
        training: run the encoder in training mode, with the same dropout in every run, to find statistics over time or
            batch that only training uses.
        precision: precision of the copy; float64 excludes effects of rounding, float32 saves memory.
    """

    def __init__(self, model: EncoderTask, training: bool = False, precision: torch.dtype = torch.float64) -> None:
        self.model = copy.deepcopy(model).to(precision).eval()
        self.model.encoder.train(training)
        for norm in self.model.normalizers:
            if norm.needs_statistics:  # the model was never trained; any statistics will do
                norm.set_statistics(torch.full_like(norm.mean, -8.0), torch.full_like(norm.std, 3.0))
        self.device = self.model.frontend.window.device

    def audio(self, samples: int, rows: int = 1) -> Tensor:
        """Returns noise `(rows, samples)` of a fixed seed that rises and falls in loudness."""
        generator = torch.Generator().manual_seed(7)
        noise = torch.randn(rows, samples, generator=generator, dtype=torch.float64)
        audio = 0.1 * noise * (torch.sin(torch.arange(samples) * 2e-3).abs() + 0.1)
        return audio.to(self.model.frontend.window)

    @torch.no_grad()
    def run(self, audio: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Computes the encoder output `(B, T', d)` and valid frames `(B,)`."""
        lengths = torch.full((len(audio),), audio.shape[1], device=self.device) if lengths is None else lengths
        features, frames = self.model.frontend(audio, lengths)
        return self._encode(features, frames)

    def _encode(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        with torch.random.fork_rng(
            devices=[]
        ):  # the same dropout in every run; the random state of the caller is not changed
            torch.manual_seed(0)
            return self.model.encoder(self.model.input_norm(features, frames), frames)

    def last_sample(self, frame: int, samples: int) -> int:
        """Finds the last of `samples` samples that changes an output frame, by bisection."""
        audio = self.audio(samples)
        before = self.run(audio)[0][0, frame]

        def changes(start: int) -> bool:
            moved = audio.clone()
            moved[:, start:] += _CHANGE
            return not torch.equal(self.run(moved)[0][0, frame], before)

        low, high = 0, samples  # a change from `low` on has an effect, a change from `high` on has none
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if changes(middle) else (low, middle)
        return low

    def influence(self, frames: list[int], samples: int) -> Tensor:
        """Computes the gradient magnitude of output frames for each feature frame, `(len(frames), T)`."""
        features, lengths = self.model.frontend(self.audio(samples), torch.tensor([samples], device=self.device))
        output, _ = self._encode(features.requires_grad_(), lengths)
        # Random weights, since the plain sum of a layer-normalized frame does not depend on its input.
        weight = torch.randn(output.shape[-1], generator=torch.Generator().manual_seed(1), dtype=output.dtype)
        scores = output[0] @ weight.to(self.device)
        rows = [torch.autograd.grad(scores[frame], features, retain_graph=True)[0] for frame in frames]
        return torch.stack([row.abs().sum((0, 1)) for row in rows])

    def last_feature(self, frame: int, samples: int) -> int:
        """Finds the last feature frame for which an output frame has a gradient."""
        return int(self.influence([frame], samples)[0].nonzero().max())

    def staircase(self, first: int = 8, count: int | None = None) -> Staircase:
        """Measures the receptive fields of consecutive outputs.

        Args:
            first: index of the first output.
            count: number of outputs; None for three chunks, and at least 24.
        """
        encoder, frontend = self.model.encoder, self.model.frontend
        count = count or max(24, 3 * (encoder.context.chunk or 1))
        samples = (first + count + 8) * encoder.subsampling.factor * frontend.hop
        influence = self.influence(list(range(first, first + count)), samples)
        return Staircase(influence, first, encoder.frame_ms / 1000, frontend.hop_ms / 1000)


def find_leaking_stage(model: EncoderTask, training: bool = False) -> str | None:
    """Finds the first stage of a streaming model whose output before the end of a chunk depends on later audio.

    Args:
        model: model with limited `right_context_ms`.
        training: check the modes of training instead of those of inference.

    Returns:
        The name of the stage, or None.
    """
    if model.encoder.context.right is None:
        return None
    leak = next(mode_leaks([Subject(model, torch.float32)], TRAINING_MODES if training else INFERENCE_MODES), None)
    return None if leak is None else leak.stage.label


def require_causal(model: EncoderTask, brief: bool = False) -> None:
    """Runs the quick check before training of a streaming preset: no stage may depend on later audio or other rows.

    Args:
        model: model to be trained, which is not changed.
        brief: check only what depends on the context, for the further contexts of a dynamic encoder.

    Raises:
        UserError: with the name of the stage.
    """
    if model.encoder.allow_future_leak:
        return
    reason = quick_check(model, brief)
    if reason is not None:
        raise UserError(f"{reason}. Set encoder.allow_future_leak=true to train it anyway")
