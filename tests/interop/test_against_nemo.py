"""Against NeMo itself, where `STREAMNEST_NEMO_PYTHON` names the Python of an environment that has it."""

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
    pytest.mark.skipif(not PYTHON, reason="STREAMNEST_NEMO_PYTHON names no Python with NeMo"),
]
Compose = Callable[..., DictConfig]


@pytest.fixture
def audio() -> torch.Tensor:
    return 0.1 * torch.randn(2, 33000, generator=torch.Generator().manual_seed(0))


def nemo(what: str, archive: Path, audio: torch.Tensor) -> dict[str, Any]:
    script, folder = Path(__file__).parents[1] / "helpers/nemo_reference.py", archive.parent
    torch.save(audio, folder / "audio.pt")
    words = [PYTHON, str(script), what, str(archive), str(folder / "audio.pt"), str(folder / "out.pt")]
    # Without PYTHONPATH: an environment of its own.
    plain = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False, env=plain)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return torch.load(folder / "out.pt", weights_only=True)


def assert_equal_outputs(model: Pretraining, audio: torch.Tensor, theirs: dict[str, Any]) -> None:
    for row, expected in zip(audio, theirs["encoded"], strict=True):
        with torch.no_grad():
            encoded, valid = model(row[None], torch.tensor([len(row)]))
        torch.testing.assert_close(encoded[0, : int(valid)], expected, rtol=0, atol=1e-4)


def randomised(model: Pretraining) -> Pretraining:
    """Norms and biases away from where they begin."""
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
def test_nemo_opens_what_is_exported_and_its_encoder_gives_the_same(
    run_config: Compose, tmp_path: Path, audio: torch.Tensor, overrides: tuple[str, ...], same_targets: bool
) -> None:
    model = randomised(ready(run_config(*overrides)))
    write_checkpoint(model, tmp_path / "ours.ckpt")
    export_nemo(tmp_path / "ours.ckpt", tmp_path / "ours.nemo")
    theirs = nemo("run", tmp_path / "ours.nemo", audio)
    assert_equal_outputs(model, audio, theirs)
    for row, tokens, logp in zip(audio, theirs["tokens"], theirs["logp"], strict=True):
        features, frames = model.frontend(row[None], torch.tensor([len(row)]))
        with torch.no_grad():
            ours = model.objective.logits(model(row[None], torch.tensor([len(row)]))[0])[0].log_softmax(-1)
        torch.testing.assert_close(ours[: len(logp)].transpose(1, 2), logp, rtol=0, atol=1e-4)
        codes = model.targets(features, frames)[0]
        assert torch.equal(codes, tokens[: len(codes)]) or not same_targets


def test_a_recogniser_that_nemo_made_gives_the_same_here(tmp_path: Path, audio: torch.Tensor) -> None:
    theirs = nemo("make", tmp_path / "theirs.nemo", audio)
    model, ledger, _ = import_nemo(tmp_path / "theirs.nemo", CONFIGS)
    assert isinstance(model.encoder, FastConformer) and len(model.encoder.choices.by_name) == 2
    assert_equal_outputs(model, audio, theirs)
    assert ledger.outcomes("decoder.*") == ["left out"]
