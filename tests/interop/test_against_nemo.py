"""Comparison with NeMo, if `STREAMNEST_NEMO_PYTHON` is the Python of an environment with NeMo."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from archives import CONFIGS
from models import ready
from omegaconf import DictConfig

from streamnest.checkpoint.loading import write_checkpoint
from streamnest.encoder import FastConformer
from streamnest.interop.nemo import export_nemo, import_nemo
from streamnest.pretraining import Pretraining

PYTHON = os.environ.get("STREAMNEST_NEMO_PYTHON", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="STREAMNEST_NEMO_PYTHON is not set"),
]
Compose = Callable[..., DictConfig]


@pytest.fixture
def audio() -> torch.Tensor:
    return 0.1 * torch.randn(2, 33000, generator=torch.Generator().manual_seed(0))


def nemo(action: str, archive: Path, audio: torch.Tensor) -> dict[str, Any]:
    script, folder = Path(__file__).parents[1] / "helpers/nemo_reference.py", archive.parent
    torch.save(audio, folder / "audio.pt")
    command = [PYTHON, str(script), action, str(archive), str(folder / "audio.pt"), str(folder / "out.pt")]
    # NeMo has an environment of its own, without this PYTHONPATH.
    plain = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=plain)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return torch.load(folder / "out.pt", weights_only=True)


def assert_equal_outputs(model: Pretraining, audio: torch.Tensor, expected: dict[str, Any]) -> None:
    for row, encoded_row in zip(audio, expected["encoded"], strict=True):
        with torch.no_grad():
            encoded, valid = model(row[None], torch.tensor([len(row)]))
        torch.testing.assert_close(encoded[0, : int(valid)], encoded_row, rtol=0, atol=1e-4)


def randomized(model: Pretraining) -> Pretraining:
    """Moves norms and biases away from their initial values."""
    torch.manual_seed(3)
    for name, value in model.encoder.state_dict().items():
        if value.dtype == torch.float32 and value.ndim < 3:
            value.add_(0.1 * torch.rand_like(value))
        assert name
    return model


@pytest.mark.parametrize(
    ("overrides", "same_targets"),
    [
        (("encoder=bidirectional", "masking=random", "objective.unmasked_weight=0"), True),
        (("encoder=lookahead80", "encoder.subsampling_factor=8", "quantizer.normalize=global"), True),
        (
            (
                "encoder=causal",
                "encoder.subsampling_padding=shifted",
                "encoder.left_context_ms=400",
                "encoder.normalize=none",
            ),
            False,
        ),
        (("encoder=dynamic", "encoder.conv_norm=frozen_batch_norm", "quantizer.num_codebooks=2"), False),
    ],
    ids=["bidirectional", "lookahead80", "shifted", "dynamic"],
)
def test_nemo_computes_the_same_with_an_exported_archive(
    run_config: Compose, tmp_path: Path, audio: torch.Tensor, overrides: tuple[str, ...], same_targets: bool
) -> None:
    model = randomized(ready(run_config(*overrides)))
    write_checkpoint(model, tmp_path / "ours.ckpt")
    export_nemo(tmp_path / "ours.ckpt", tmp_path / "ours.nemo")
    expected = nemo("run", tmp_path / "ours.nemo", audio)
    assert_equal_outputs(model, audio, expected)
    for row, tokens, logp in zip(audio, expected["tokens"], expected["logp"], strict=True):
        features, frames = model.frontend(row[None], torch.tensor([len(row)]))
        with torch.no_grad():
            computed = model.objective.logits(model(row[None], torch.tensor([len(row)]))[0])[0].log_softmax(-1)
        torch.testing.assert_close(computed[: len(logp)].transpose(1, 2), logp, rtol=0, atol=1e-4)
        codes = model.targets(features, frames)[0]
        assert torch.equal(codes, tokens[: len(codes)]) or not same_targets


def test_an_imported_recognizer_computes_the_same_as_in_nemo(tmp_path: Path, audio: torch.Tensor) -> None:
    expected = nemo("make", tmp_path / "expected.nemo", audio)
    model, report, _ = import_nemo(tmp_path / "expected.nemo", CONFIGS)
    assert isinstance(model.encoder, FastConformer) and len(model.encoder.choices.by_name) == 2
    assert_equal_outputs(model, audio, expected)
    assert report.outcomes("decoder.*") == ["left out"]
