"""One pretraining step as a run takes it, without a trainer; shared by benchmarks."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from streamnest.build import build_model
from streamnest.config.compose import compose_config
from streamnest.data.batch import Batch
from streamnest.encoder.compilation import use_compiler
from streamnest.locations import config_folder
from streamnest.pretraining import Pretraining
from streamnest.streaming.probes.training import attach, make_batch
from streamnest.training.compiling import require_compiler


def build(overrides: Sequence[str], training: bool = True) -> Pretraining:
    """Builds the model of a config, with arbitrary corpus statistics."""
    torch.manual_seed(0)
    model: Pretraining = build_model(compose_config(list(overrides), config_folder(), "benchmark"), training=training)
    for norm in model.normalizers:
        if norm.needs_statistics:
            norm.set_statistics(torch.full_like(norm.mean, -8.0), torch.full_like(norm.std, 3.0))
    return model.train()


def noise_batch(rows: int, seconds: float, number: int, sample_rate: int = 16000) -> Batch:
    """Makes a batch of noise on the CPU, with noisy input, so that features are computed twice."""
    samples = round(seconds * sample_rate)
    audio = 0.1 * torch.randn(rows, samples, generator=torch.Generator().manual_seed(number))
    return make_batch(audio, torch.full((rows,), samples), number, noisy=True)


class PretrainingStep:
    """Features, codes, masks, forward, backward, clipping and update.

    Args:
        overrides: config overrides; `compile=true` compiles the model at the first step.
        device: device of the model.
        bfloat16: compute products in bfloat16, as `trainer.precision=bf16-mixed` does.

    Raises:
        UserError: for a model to compile where PyTorch cannot.
    """

    def __init__(self, overrides: Sequence[str], device: torch.device | str = "cpu", bfloat16: bool = False) -> None:
        self.device, self.bfloat16 = torch.device(device), bfloat16
        self.model = build(overrides).to(self.device)
        assert self.model.optimization is not None
        attach(self.model)
        if self.model.config["compile"]:
            require_compiler(self.device)
            use_compiler(self.model)
        self.optimizer, self.schedule = self.model.optimization.build(self.model)

    def __call__(self, batch: Batch) -> None:
        """Runs the step for a batch, which may be on the CPU."""
        batch = batch.to(self.device, non_blocking=True)
        self.model.on_train_batch_start(batch, batch.step)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            loss = self.model.training_step(batch, batch.step)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
