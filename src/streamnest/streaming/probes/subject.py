"""A copy of a model that is run in every mode, with its own or with random weights."""

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
from streamnest.streaming.probes.training import attach, make_batch, training_step, validation_step, without_masking
from streamnest.targets import TeacherQuantizer


@dataclass(frozen=True)
class Mode:
    """A way to run a model.

    Attributes:
        name: name in messages.
        path: "forward" (`model(audio, lengths)`), "training" (the training step) or "validation".
        training: training mode, with the same dropout in every run.
        gradients: True to build the graph for gradients.
        inference: inference mode of PyTorch, as in sessions.
        bfloat16: autocast to bfloat16; needs a copy in float32.
        recompute: activation checkpointing.
        hide: True to keep masking and SpecAugment active.
        step: number of the training step, and of the batch in its epoch.
        noisy: True if the input of the encoder differs from the clean audio of the targets.
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
    noisy: bool = False


INFERENCE = Mode("inference")
TRAINING = Mode("training", "training", training=True, gradients=True)
# The mode of `trainer.precision=bf16-mixed encoder.activation_checkpointing=true`.
TRAINING_BFLOAT16 = Mode(
    "training in bfloat16, activation checkpointing",
    "training",
    training=True,
    gradients=True,
    bfloat16=True,
    recompute=True,
    step=100_000,
)


class Subject:
    """A copy of a model to run experiments on.

    Args:
        model: model to copy, which is not changed.
        precision: precision of the copy. float32 suffices to compare bits; float64 shows smaller influences.
    """

    def __init__(self, model: EncoderTask, precision: torch.dtype = torch.float64) -> None:
        self.model = copy.deepcopy(model).to(_precision(model, precision)).eval()
        for norm in self.model.normalizers:
            if norm.needs_statistics:  # the model was never trained; any statistics will do
                norm.set_statistics(torch.full_like(norm.mean, -8.0), torch.full_like(norm.std, 3.0))
        if isinstance(self.model, Pretraining):
            if isinstance(self.model.quantizer, TeacherQuantizer):
                # The teacher is not stored. Other codes of the same audio show a leak from codes to outputs as well.
                self.model.quantizer = self.model.quantizer.stand_in(self.model.frontend.num_mels)
            self.model.feature_quantizer.float()  # it supports float32 only
        attach(self.model)
        self.reach, self.precision = Reach(self.model), self.model.frontend.window.dtype
        self.device = self.model.frontend.window.device
        self.weights = ""

    @property
    def limited(self) -> bool:
        """True if the right context of the encoder is limited."""
        return self.model.encoder.context.right is not None

    def rowwise(self, modes: Sequence[Mode]) -> list[Mode]:
        """Selects modes in which rows must be independent; batch norm of an offline encoder mixes them in training."""
        framewise = all(layer.convolution.norm_is_framewise for layer in self.model.encoder.layers)
        return [mode for mode in modes if self.limited or framewise or not mode.training]

    def place(self, audio: Tensor) -> Tensor:
        """Converts audio to the type and device of the copy."""
        return audio.to(self.model.frontend.window)

    def run(
        self, audio: Tensor, lengths: Tensor | None = None, mode: Mode = INFERENCE, keys: Tensor | None = None
    ) -> Trace:
        """Runs the model on audio `(B, N)` of `lengths` `(B,)` samples and records every stage.

        Args:
            audio: samples.
            lengths: valid samples of each row; None if all are valid.
            mode: mode to run the model in.
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
                stack.enter_context(without_masking(model))
            trace = stack.enter_context(recorded(model, path))
            if mode.path == "forward":
                output, _ = model(audio, lengths)
                trace.append((Stage(f"{path} after the encoder", "encoder"), output.detach()))
            else:
                batch = make_batch(audio, lengths, mode.step, keys, mode.noisy)
                (training_step if mode.path == "training" else validation_step)(model, batch)
        # A subsampling that processes a batch in parts is recorded once as a whole; views of a batch count separately.
        rows = len(audio)
        return [(stage, view) for stage, x in trace if len(x) % rows == 0 for view in x.split(rows)]

    def perturb(self, seed: int = 0) -> Subject:
        """Changes every weight that is exactly zero or one, so that no closed gate and no zero layer hides a leak.

        Buffers that are part of the state of modules are changed as well, and counters are set to a large number.
        """
        generator = torch.Generator().manual_seed(seed)
        kept = [x for name, x in self.model.named_buffers() if not name.startswith("quantizer") and _is_state(name)]
        for counter in (x for x in kept if x.dtype == torch.int64):
            counter.fill_(10_000)
        for tensor in [*self.model.parameters(), *(x for x in kept if x.is_floating_point())]:
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor) * 0.1
            fixed = (tensor.data == 0) | (tensor.data == 1) | (not tensor.requires_grad)
            # Buffers may be variances, which must stay positive.
            tensor.data.add_(torch.where(fixed, noise if tensor.requires_grad else noise.abs(), 0.0))
        self.weights = " (perturbed weights)"
        return self

    def randomize(self, seed: int) -> Subject:
        """Replaces every weight by a random one of the same standard deviation as its tensor."""
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.model.parameters():
            spread = float(parameter.data.double().std()) if parameter.numel() > 1 else 0.0
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.data.copy_(noise * (spread or 0.5))
        self.model.eval()
        self.weights = " (random weights)"
        return self

    def without_dropout(self) -> Subject:
        """Sets dropout to 0, so that batches of different shapes can be compared in training mode."""
        for module in self.model.modules():
            if isinstance(module, Dropout):
                module.rate = 0.0
            elif isinstance(module, nn.modules.dropout._DropoutNd):
                module.p = 0.0
        return self


def _precision(model: EncoderTask, wanted: torch.dtype) -> torch.dtype:
    """Returns the precision of a copy: float32 if the model cannot run in float64."""
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
    """True if a buffer is state: not a constant of the front end, a statistic or a count of training."""
    fixed = ("window", "filterbank", "mean", "std", "fitted", "seconds_seen", "train_counts")
    return name.rsplit(".", 1)[-1] not in fixed
