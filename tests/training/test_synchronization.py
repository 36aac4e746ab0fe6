"""A step of pretraining has no operator that makes the host wait for the device.

Exceptions, outside of the step itself or by choice:
- `GradientGuard` reads the norm of each update: whether to skip it is a decision of the host.
- `quantizer=teacher` copies codes that are not cached yet to the host, which caches them in a file.
- Several processes agree on signals and skipped updates, and read a budget in hours, after each step.
- `fitted` of a normalizer is read once after loading.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from models import ready
from omegaconf import DictConfig
from synchronization import SynchronizationWatch
from torch import Tensor

from streamnest.build import build_part, plain
from streamnest.callbacks import GradientGuard
from streamnest.checkpoint.target_teacher import attach_teacher
from streamnest.data.batch import Batch
from streamnest.masking import Masking
from streamnest.pretraining import Pretraining
from streamnest.streaming.probes.training import attach, make_batch
from streamnest.targets import Teacher, TeacherQuantizer
from streamnest.targets.cache import CodeCache

META = torch.device("meta")
MASKINGS = sorted(path.stem for path in (Path(__file__).parents[2] / "configs/masking").glob("*.yaml"))
Compose = Callable[..., DictConfig]


@pytest.fixture(autouse=True)
def _meta_as_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allows on the meta device what any accelerator supports: to turn autocast off, and fused optimizers."""
    autocast = torch.autocast

    def disabled(device: str, *args: Any, **kwargs: Any) -> Any:
        return nullcontext() if device == "meta" else autocast(device, *args, **kwargs)

    monkeypatch.setattr(torch, "autocast", disabled)
    kernels = sys.modules[torch.optim.Optimizer.__module__]
    monkeypatch.setattr(kernels, "_get_fused_kernels_supported_devices", lambda: ["cuda", "meta"])


_composed: dict[str, Any] = {}


@pytest.fixture
def maskings(run_config: Compose) -> dict[str, Masking]:
    """Every masking; with chunks of its own, so that the encoder may have any."""
    for name in MASKINGS:
        if name not in _composed:
            _composed[name] = plain(run_config(f"masking={name}").masking)
    _composed["chunk"]["chunk_frames"] = 32
    return {name: build_part("masking", config).to(META) for name, config in _composed.items()}


def on_meta(cfg: DictConfig, prepare: Callable[[Pretraining], None] = attach) -> Pretraining:
    model = ready(cfg).train()
    prepare(model)
    model.to(META)
    model.log = lambda _name, value, **_: _require_tensors(value)  # type: ignore[method-assign]
    model.log_dict = lambda values, **_: _require_tensors(*values.values())  # type: ignore[method-assign]
    return model


def _require_tensors(*values: Any) -> None:
    """Requires what Lightning need not copy to the device, for which it would wait."""
    assert all(isinstance(value, Tensor) and value.device == META for value in values)


def some_batch() -> Batch:
    return make_batch(torch.empty(3, 30000), torch.tensor([30000, 21111, 9000]), 1, noisy=True)


def step(model: Pretraining, optimizer: torch.optim.Optimizer | None, hashes: Sequence[bytes] = ()) -> list[str]:
    """Runs a step, from the batch on the host to the update, and returns what the host waits for."""
    with SynchronizationWatch() as watch:
        batch = replace(some_batch(), hashes=list(hashes)).to(META)
        model.on_train_batch_start(batch, 0)
        model.training_step(batch, 0).backward()
        if optimizer:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    return watch.found


@pytest.mark.parametrize(
    "overrides",
    [
        ["encoder=bidirectional", "encoder.activation_checkpointing=true", "optim.optimizer=muon"],
        ["encoder=lookahead40", "encoder.normalize=online", "objective.unmasked_weight=0.5"],
        ["encoder=lookahead40", "objective=next_token", "objective.frame_share=0.5", "encoder.style=delayed"],
        ["encoder=limited3200", "objective=masked_next_token", "quantizer.num_codebooks=2", "quantizer=nest"],
        ["encoder=dynamic", "objective=masked_next_token", "encoder.subsampling_padding=shifted"],
    ],
    ids=lambda overrides: overrides[0],
)
def test_a_step_never_waits_for_the_device(
    run_config: Compose, maskings: dict[str, Masking], overrides: list[str]
) -> None:
    model = on_meta(run_config(*overrides))
    optimizer = model.optimization.build(model)[0] if model.optimization else None
    for masking in maskings.values():
        model.masking = masking
        assert step(model, optimizer) == []
        optimizer = None


def test_a_step_with_cached_codes_of_a_teacher_never_waits(run_config: Compose, tmp_path: Path) -> None:
    source = ready(run_config("encoder=bidirectional"))
    teacher = Teacher(source.frontend, source.input_norm, source.encoder, (1,))
    hashes = [b"1", b"2", b"3"]

    def prepare(model: Pretraining) -> None:
        attach(model)
        attach_teacher(model, teacher)
        quantizer = model.quantizer
        assert isinstance(quantizer, TeacherQuantizer)
        quantizer.fit(torch.randn(200, 1, 32))
        quantizer.open_cache()
        batch = some_batch()
        quantizer.codes(batch.clean, batch.lengths, hashes)

    small = ("quantizer.layer=1", "quantizer.width=32", "quantizer.num_classes=16", f"quantizer.cache={tmp_path}")
    model = on_meta(run_config("quantizer=teacher", *small), prepare)
    assert model.optimization is not None
    assert step(model, model.optimization.build(model)[0], hashes) == []
    cache = model.quantizer.cache
    assert isinstance(cache, CodeCache) and (cache.hits, cache.misses) == (3, 3)
    computed = step(model, None, [b"1", b"4", b"3"])
    assert computed and all(" at targets/" in found for found in computed)


@pytest.mark.parametrize(
    "plant",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).any()),
        lambda x: x[x > 0],
        lambda x: x.clone().index_put_((x > 0,), torch.zeros((), device=META)),
        lambda x: x.nonzero(),
        lambda x: x.cpu(),
        lambda x: torch.tensor([1.0], device=META),
        lambda x: torch.zeros(3).to(META),
    ],
)
def test_a_planted_wait_is_found(plant: Callable[[Tensor], Any]) -> None:
    x = torch.ones(4, device=META)
    with SynchronizationWatch() as watch:
        x.mul(2).sum()
        torch.zeros(3).to(META, non_blocking=True)
        assert watch.found == []
        plant(x)
    assert len(watch.found) == 1


def test_the_gradient_guard_reads_one_number_per_update(run_config: Compose, tmp_path: Path) -> None:
    model = on_meta(run_config())
    model.objective.heads.weight.grad = torch.empty_like(model.objective.heads.weight)
    model.trainer.strategy = type("Single", (), {"reduce_boolean_decision": staticmethod(lambda bad, **_: bad)})
    with SynchronizationWatch() as watch:
        GradientGuard(tmp_path).on_before_optimizer_step(model.trainer, model, torch.optim.SGD(model.parameters()))
    assert len(watch.found) == 1 and "_local_scalar_dense at callbacks/gradients.py" in watch.found[0]


def test_a_single_process_counts_audio_on_the_host_too(run_config: Compose) -> None:
    model = ready(run_config())
    attach(model)
    assert model.seconds_on_host == 0.0
    for seconds in (0.1, 30.7, 12.3):
        model._add_seconds(replace(some_batch(), seconds=seconds), torch.tensor(seconds))
        assert model._seconds_on_host.is_current(model.seconds_seen)
        assert model.seconds_on_host == float(model.seconds_seen)
    model.seconds_seen.fill_(7.0)
    assert model.seconds_on_host == 7.0


def test_replaced_rows_drop_lengths_and_keys_of_the_host() -> None:
    batch = some_batch()
    moved = batch.to(META)
    assert moved.on_host()[0] is batch.lengths and moved.on_host()[1] is batch.keys
    some = replace(moved, lengths=torch.tensor([5]), keys=torch.tensor([6]))
    assert [x.tolist() for x in some.on_host()] == [[5], [6]]
