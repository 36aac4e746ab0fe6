"""Finding out what a model hears, by changing its audio and by gradients; and the check before training.

Audio is changed from some sample on, and outputs are compared exactly: a model whose arithmetic is causal gives
bit-equal outputs before the change, so no tolerance is needed.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError
from streamnest.streaming.probes.modes import TRAIN, USE, mode_leaks
from streamnest.streaming.probes.quick import quick_check
from streamnest.streaming.probes.subject import Subject

_CHANGE = 0.37


@dataclass(frozen=True)
class Staircase:
    """What each output hears.

    Attributes:
        influence: `(outputs, T)`, size of the gradient of an output for each feature frame; 0 is not heard.
        first: number of the first output.
        stride: seconds between outputs.
        hop: seconds between feature frames.
    """

    influence: Tensor
    first: int
    stride: float
    hop: float

    def by_age(self) -> tuple[Tensor, Tensor]:
        """Influence on an output, on average, by how long before the end of its own block a feature frame ended.

        Returns:
            Ages in seconds `(A,)`, negative for look-ahead, and influence `(A,)`; of ages that all outputs have.
        """
        outputs, features = self.influence.shape
        ends = (torch.arange(outputs) + self.first + 1) * round(self.stride / self.hop)
        ages = torch.arange(int(ends[-1]) - features, int(ends[0]))
        heard = self.influence.cpu().gather(1, ends[:, None] - 1 - ages)
        return ages * self.hop, heard.mean(0)


class Prober:
    """Runs a model on audio that is changed from some sample on.

    Args:
        model: is copied; the caller's is left alone.
        training: run the encoder in training mode, with the same dropout in every run: statistics over time or batch
            that only training uses are found this way.
        precision: of the copy; float64 leaves no doubt about rounding, float32 spares memory where models are large.
    """

    def __init__(self, model: EncoderTask, training: bool = False, precision: torch.dtype = torch.float64) -> None:
        self.model = copy.deepcopy(model).to(precision).eval()
        self.model.encoder.train(training)
        for norm in self.model.normalizers:
            if norm.needs_statistics:  # a model that was never trained: any statistics show where they come from
                norm.set_statistics(torch.full_like(norm.mean, -8.0), torch.full_like(norm.std, 3.0))
        self.device = self.model.frontend.window.device

    def audio(self, samples: int, rows: int = 1) -> Tensor:
        """Audio `(rows, samples)`: noise of a fixed seed, louder and softer in turns."""
        generator = torch.Generator().manual_seed(7)
        noise = torch.randn(rows, samples, generator=generator, dtype=torch.float64)
        audio = 0.1 * noise * (torch.sin(torch.arange(samples) * 2e-3).abs() + 0.1)
        return audio.to(self.model.frontend.window)

    @torch.no_grad()
    def run(self, audio: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Encoder output `(B, T', d)` and valid frames `(B,)`."""
        lengths = torch.full((len(audio),), audio.shape[1], device=self.device) if lengths is None else lengths
        features, frames = self.model.frontend(audio, lengths)
        return self._encode(features, frames)

    def _encode(self, features: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        with torch.random.fork_rng(devices=[]):  # the same dropout every time, and the caller's draws left alone
            torch.manual_seed(0)
            return self.model.encoder(self.model.input_norm(features, frames), frames)

    def last_sample(self, frame: int, samples: int) -> int:
        """The last sample of audio of so many samples that changes an output frame, by bisection."""
        audio = self.audio(samples)
        before = self.run(audio)[0][0, frame]

        def changes(start: int) -> bool:
            moved = audio.clone()
            moved[:, start:] += _CHANGE
            return not torch.equal(self.run(moved)[0][0, frame], before)

        low, high = 0, samples  # changing from `low` on matters, from `high` on does not
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if changes(middle) else (low, middle)
        return low

    def influence(self, wanted: list[int], samples: int) -> Tensor:
        """Size of the gradient of output frames with respect to each feature frame: `(len(wanted), T)`."""
        features, frames = self.model.frontend(self.audio(samples), torch.tensor([samples], device=self.device))
        output, _ = self._encode(features.requires_grad_(), frames)
        # Random weights: the plain sum of a layer-normed frame does not depend on its input.
        weight = torch.randn(output.shape[-1], generator=torch.Generator().manual_seed(1), dtype=output.dtype)
        scores = output[0] @ weight.to(self.device)
        rows = [torch.autograd.grad(scores[frame], features, retain_graph=True)[0] for frame in wanted]
        return torch.stack([row.abs().sum((0, 1)) for row in rows])

    def last_feature(self, frame: int, samples: int) -> int:
        """The last feature frame with a gradient from an output frame."""
        return int(self.influence([frame], samples)[0].nonzero().max())

    def staircase(self, first: int = 8, count: int | None = None) -> Staircase:
        """The influence of feature frames on outputs in a row.

        Args:
            first: output; what lies before it is heard as well.
            count: outputs; None is three chunks, and at least 24.
        """
        encoder, frontend = self.model.encoder, self.model.frontend
        count = count or max(24, 3 * (encoder.context.chunk or 1))
        samples = (first + count + 8) * encoder.subsampling.factor * frontend.hop
        influence = self.influence(list(range(first, first + count)), samples)
        return Staircase(influence, first, encoder.frame_ms / 1000, frontend.hop_ms / 1000)


def find_leaking_stage(model: EncoderTask, training: bool = False) -> str | None:
    """The first stage of a streaming model whose output before the end of a chunk depends on audio after it.

    Args:
        model: with `right_context_ms` limited.
        training: while training instead of in use.

    Returns:
        Its name, or None.
    """
    if model.encoder.context.right is None:
        return None
    leak = next(mode_leaks([Subject(model, torch.float32)], TRAIN if training else USE), None)
    return None if leak is None else leak.stage.label


def require_causal(model: EncoderTask, brief: bool = False) -> None:
    """The quick check before training: stops a streaming preset of which a stage hears the future or other rows.

    Args:
        model: model about to be trained; it is left as it is.
        brief: only what depends on the context, for the further contexts of a dynamic encoder.

    Raises:
        UserError: with the name of the stage.
    """
    if model.encoder.allow_future_leak:
        return
    reason = quick_check(model, brief)
    if reason is not None:
        raise UserError(f"{reason}. Set encoder.allow_future_leak=true to train it all the same")
