"""Training with `compile=true` equals training without, and only training is compiled."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import inprocess
import pytest
import torch
from lightning.pytorch.strategies import DeepSpeedStrategy
from models import ready
from omegaconf import DictConfig, OmegaConf
from runs import finish, killed_at, losses, weights
from torch._dynamo.utils import counters

from streamnest.build import build_part, plain
from streamnest.distributed.sharding import FullySharded
from streamnest.encoder.compilation import Backend, use_compiler
from streamnest.errors import UserError
from streamnest.streaming.probes.training import attach, make_batch
from streamnest.training.compiling import compile_for_training, require_compiler

Compose = Callable[..., DictConfig]
# Utterances and samples: odd and even numbers of frames, and one utterance.
SHAPES = [(3, 30000), (2, 41000), (4, 25000), (1, 30000)]


def graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


def trained(cfg: DictConfig, backend: Backend | None, maskings: list[Any] | None = None) -> list[float]:
    """Makes a step for each shape, with a masking of its own, and returns the losses."""
    model = ready(cfg).train()
    attach(model)
    use_compiler(model, backend)
    assert model.optimization is not None
    optimizer = model.optimization.build(model)[0]
    found = []
    for number, (rows, samples) in enumerate(SHAPES):
        model.masking = maskings[number % len(maskings)] if maskings else model.masking
        audio = 0.1 * torch.randn(rows, samples, generator=torch.Generator().manual_seed(number))
        lengths = torch.tensor([samples - 1000 * row for row in range(rows)])
        batch = make_batch(audio, lengths, number, noisy=True)
        model.on_train_batch_start(batch, number)
        loss = model.training_step(batch, number)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(float(loss.detach()))
    return found


def assert_equal_losses(cfg: DictConfig, backend: Backend, maskings: list[Any] | None = None) -> None:
    """Also requires at most one graph of each compiled part per shape, and none for shapes that were compiled."""
    torch.compiler.reset()  # graphs of other tests
    expected, before = trained(cfg, None, maskings), graphs()
    assert graphs() == before
    assert trained(cfg, backend, maskings) == pytest.approx(expected, rel=1e-5)
    made = graphs()
    assert 0 < made - before <= 2 * len(SHAPES)
    trained(cfg, backend, maskings)
    assert graphs() == made


def test_compiled_steps_have_the_losses_of_ordinary_ones(run_config: Compose) -> None:
    """No graph contains a convolution: inductor would compile its gradient again for each length."""
    operations: set[str] = set()

    def record(graph: Any, _inputs: Any) -> Any:
        operations.update(str(node.target) for node in graph.graph.nodes if node.op.startswith("call"))
        return graph.forward

    assert_equal_losses(run_config("encoder=causal", "size.num_layers=1", "size.dropout=0.1"), record)
    assert any("kept" in name for name in operations)
    assert not any("conv" in name for name in operations)


@pytest.mark.long
@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(
            ["encoder=bidirectional", "encoder.activation_checkpointing=true"],
            # Training with inductor works.
            marks=pytest.mark.xfail(strict=True, reason="aot_eager expects another layout of the output of batch norm"),
        ),
        ["encoder=bidirectional", "encoder.activation_checkpointing=true", "encoder.conv_norm=layer_norm"],
        ["encoder=causal", "objective=masked_next_token", "masking=random"],
        ["encoder=lookahead40", "encoder.style=regular", "encoder.allow_future_leak=true"],
        ["encoder=limited3200", "encoder.left_context_ms=160", "encoder.normalize=online"],
        ["encoder=dynamic", "encoder.subsampling_padding=shifted"],
    ],
    ids=lambda overrides: f"{overrides[0]},{overrides[-1]}",
)
def test_presets_and_maskings_compile_to_whole_graphs(run_config: Compose, overrides: list[str]) -> None:
    """`aot_eager` splits a graph into forward and backward pass as on a GPU, without a C++ compiler."""
    names = ("random", "causal", "multiscale", "none")
    maskings = [build_part("masking", plain(run_config(f"masking={name}").masking)) for name in names]
    assert_equal_losses(
        run_config(*overrides, "size.dropout=0.1", "objective.unmasked_weight=1"), "aot_eager", maskings
    )


def test_only_training_is_compiled(run_config: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ready(run_config())
    names = list(model.state_dict())

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(torch, "compile", refuse)
    use_compiler(model)
    assert list(model.state_dict()) == list(copy.deepcopy(model).state_dict()) == names
    audio, lengths = torch.zeros(2, 16000), torch.tensor([16000, 9000])
    model(audio, lengths)[0].sum().backward()
    with torch.no_grad():
        model.train()(audio, lengths)
    with pytest.raises(AssertionError):
        model(audio, lengths)
    use_compiler(model, None)
    model(audio, lengths)


def test_an_encoder_with_copies_is_refused(run_config: Compose) -> None:
    trainer: Any = SimpleNamespace()
    with pytest.raises(UserError, match=r"does not support encoder\.style=buffered"):
        compile_for_training(ready(run_config("encoder=buffered")), OmegaConf.create({"compile": True}), trainer)


@pytest.mark.parametrize("kind", [FullySharded, DeepSpeedStrategy])
def test_a_strategy_that_cannot_compile_is_refused(kind: Any) -> None:
    trainer: Any = SimpleNamespace(strategy=kind.__new__(kind))
    with pytest.raises(UserError, match=f"compile=true works .*not with trainer.strategy={kind.__name__}: choose"):
        compile_for_training(torch.nn.Linear(1, 1), OmegaConf.create({"compile": True}), trainer)
    compile_for_training(torch.nn.Linear(1, 1), OmegaConf.create({"compile": False}), trainer)


def test_a_machine_that_cannot_compile_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    for device, message in (("cpu", "no-such-compiler -O2 is not installed: install g"), ("mps", "not on mps")):
        with pytest.raises(UserError, match=f"compile=true.*{message}"):
            require_compiler(torch.device(device))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UserError, match="pip install triton"):
        require_compiler(torch.device("cuda"))


@pytest.mark.long
@pytest.mark.slow
def test_a_run_continues_with_or_without_compilation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiles with inductor; checkpoints have the same keys, and other commands do not compile."""
    finish(tmp_path / "plain")
    text = finish(tmp_path / "compiled", "compile=true")
    assert "the first steps compile the model" in text
    killed_at(tmp_path / "mixed", 5, "compile=true")
    finish(tmp_path / "mixed")
    expected = {step: float(loss) for step, loss in losses(tmp_path / "plain/runs/one")[0].items()}
    assert len(expected) == 8
    for run in ("compiled", "mixed"):
        for rows in losses(tmp_path / run / "runs/one"):
            assert all(float(loss) == pytest.approx(expected[step], rel=1e-5) for step, loss in rows.items())
        assert weights(tmp_path / run)["state_dict"].keys() == weights(tmp_path / "plain")["state_dict"].keys()
    checkpoint = tmp_path / "compiled/runs/one/checkpoints/last.ckpt"
    assert weights(tmp_path / "compiled")["streamnest"]["config"]["compile"] is True
    monkeypatch.setattr(torch, "compile", lambda *_, **__: pytest.fail("a command compiles"))
    assert inprocess.main("verify", checkpoint) == 0
    assert inprocess.main("export", checkpoint, "--out", tmp_path / "model.onnx") == 0
