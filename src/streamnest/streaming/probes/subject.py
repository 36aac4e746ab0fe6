"""A copy of a model that is run in every mode, with its own weights or with others."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from streamnest.encoder.dropout import Dropout
from streamnest.encoder_task import EncoderTask
from streamnest.pretraining import Pretraining
from streamnest.streaming.probes.reach import Reach, Stage
from streamnest.streaming.probes.trace import Trace, recorded
from streamnest.streaming.probes.training import attach, make_batch, nothing_hidden, training_step, validation_step


@dataclass(frozen=True)
class Mode:
    """How a model is run.

    Attributes:
        name: in messages.
        path: "forward" (`model(audio, lengths)`), "training" (the training step) or "validation".
        training: training mode, with the same dropout in every run.
        gradients: with a graph.
        inference: in inference mode, as sessions run it.
        bfloat16: under autocast; needs a copy in float32.
        recompute: with activation recomputation.
        hide: with masking and SpecAugment as they are.
        step: number of the training step, and of the batch in its epoch.
        mixed: with audio that differs from that of the targets.
    """

    name: str
    path: str = "forward"
    training: bool = False
    gradients: bool = False
    inference: bool = False
    bfloat16: bool = False
    recompute: bool = False
    hide: bool = False
    step: int = 0
    mixed: bool = False


IN_USE = Mode("in use")
TRAINING = Mode("while training", "training", training=True, gradients=True)
# As `trainer.precision=bf16-mixed encoder.activation_checkpointing=true` runs it.
TRAINING_BFLOAT16 = Mode(
    "while training in bfloat16, recomputed",
    "training",
    training=True,
    gradients=True,
    bfloat16=True,
    recompute=True,
    step=100_000,
)


class Subject:
    """A copy of a model; the model itself is left alone.

    Args:
        model: the model.
        precision: of the copy. Equal bits need no more than float32; float64 shows smaller influences.
    """

    def __init__(self, model: EncoderTask, precision: torch.dtype = torch.float64) -> None:
        self.model = copy.deepcopy(model).to(_precision(model, precision)).eval()
        for norm in self.model.normalizers:
            if norm.needs_statistics:  # a model that was never trained: any statistics show where they come from
                norm.set_statistics(torch.full_like(norm.mean, -8.0), torch.full_like(norm.std, 3.0))
        if isinstance(self.model, Pretraining):
            self.model.quantizer.float()  # it takes float32 only
        attach(self.model)
        self.reach, self.precision = Reach(self.model), self.model.frontend.window.dtype
        self.device = self.model.frontend.window.device
        self.weights = ""

    @property
    def promised(self) -> bool:
        """True if the encoder promises a limited look-ahead."""
        return self.model.encoder.context.right is not None

    def rowwise(self, modes: Sequence[Mode]) -> list[Mode]:
        """Modes in which rows may not hear each other; batch norm of an offline encoder mixes them while training."""
        framewise = all(block.convolution.norm_is_framewise for block in self.model.encoder.layers)
        return [mode for mode in modes if self.promised or framewise or not mode.training]

    def place(self, audio: Tensor) -> Tensor:
        """Audio in the type and on the device of the copy."""
        return audio.to(self.model.frontend.window)

    def run(
        self, audio: Tensor, lengths: Tensor | None = None, mode: Mode = IN_USE, keys: Tensor | None = None
    ) -> Trace:
        """Records every stage while the model runs on audio `(B, N)` of `lengths` `(B,)`; see `Mode`.

        Args:
            audio: samples.
            lengths: None if every row is as long as the batch.
            mode: how to run it.
            keys: random keys of the rows.
        """
        audio = self.place(audio)
        lengths = torch.full((len(audio),), audio.shape[1]) if lengths is None else lengths
        lengths, keys = lengths.to(self.device), None if keys is None else keys.to(self.device)
        model = self.model.train(mode.training)
        model.encoder.activation_checkpointing = mode.recompute
        trainer: Any = model._trainer
        trainer.global_step, trainer.current_epoch = mode.step, mode.step // 100
        path = "forward path" if mode.path == "forward" else f"{mode.path} path"
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng([self.device] if self.device.type == "cuda" else []))
            (torch.manual_seed if self.device.type == "cuda" else torch.default_generator.manual_seed)(0)
            stack.enter_context(torch.inference_mode(mode.inference))
            stack.enter_context(torch.set_grad_enabled(mode.gradients))
            stack.enter_context(torch.autocast(self.device.type, torch.bfloat16, enabled=mode.bfloat16))
            if not mode.hide:
                stack.enter_context(nothing_hidden(model))
            seen = stack.enter_context(recorded(model, path))
            if mode.path == "forward":
                seen_by_user, _ = model(audio, lengths)
                seen.append((Stage(f"{path} after the encoder", "encoder"), seen_by_user.detach()))
            else:
                batch = make_batch(audio, lengths, mode.step, keys, mode.mixed)
                (training_step if mode.path == "training" else validation_step)(model, batch)
        # A stem that takes a batch in parts is recorded as a whole.
        return [(stage, x) for stage, x in seen if len(x) == len(audio)]

    def perturb(self, seed: int = 0) -> Subject:
        """Moves every weight that is exactly zero or one, so that no closed gate and no layer of zeros hides a leak.

        So is every other value that modules keep, and counters become large.
        """
        generator = torch.Generator().manual_seed(seed)
        kept = [x for name, x in self.model.named_buffers() if not name.startswith("quantizer") and _is_state(name)]
        for counter in (x for x in kept if x.dtype == torch.int64):
            counter.fill_(10_000)
        for tensor in [*self.model.parameters(), *(x for x in kept if x.is_floating_point())]:
            drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor) * 0.1
            fixed = (tensor.data == 0) | (tensor.data == 1) | (not tensor.requires_grad)
            # Buffers may be variances, which must stay positive.
            tensor.data.add_(torch.where(fixed, drawn if tensor.requires_grad else drawn.abs(), 0.0))
        self.weights = " (zeros and ones of the weights moved)"
        return self

    def redraw(self, seed: int) -> Subject:
        """Draws every weight anew, as large as those of its tensor are."""
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.model.parameters():
            spread = float(parameter.data.double().std()) if parameter.numel() > 1 else 0.0
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.data.copy_(drawn * (spread or 0.5))
        self.model.eval()
        self.weights = " (other weights)"
        return self

    def without_dropout(self) -> Subject:
        """Sets dropout to 0, also in training mode, so that batches of other shapes can be compared."""
        for module in self.model.modules():
            if isinstance(module, Dropout):
                module.rate = 0.0
            elif isinstance(module, nn.modules.dropout._DropoutNd):
                module.p = 0.0
        return self


def _precision(model: EncoderTask, wanted: torch.dtype) -> torch.dtype:
    """The precision of a copy: float32 for models with functions that keep tensors of the original."""
    if wanted == torch.float32:
        return wanted
    trial = copy.deepcopy(model.encoder).to(wanted).eval()
    frames = 4 * trial.subsampling.factor
    try:
        with torch.no_grad():
            features = torch.zeros(1, trial.num_mels, frames, dtype=wanted, device=trial.subsampling.out.weight.device)
            trial(features, torch.tensor([frames], device=features.device))
    except RuntimeError:
        return torch.float32
    return wanted


def _is_state(name: str) -> bool:
    """True if a buffer may be moved: it holds no constants of the front end, no statistics and no figures."""
    fixed = ("window", "filterbank", "mean", "std", "fitted", "seconds_seen", "train_counts")
    return name.rsplit(".", 1)[-1] not in fixed
