"""Averages of checkpoints: exact values, and what is not averaged or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from inprocess import main
from recognizers import LABELS

from streamnest.build import build_model
from streamnest.checkpoint.average import average
from streamnest.checkpoint.loading import load_model
from streamnest.errors import UserError

CTC = ("task=ctc", "encoder=causal")


def write(path: Path, cfg: Any, step: int, labels: Any = LABELS) -> dict[str, torch.Tensor]:
    """Writes a checkpoint with random weights; its count and statistics depend on the step."""
    torch.manual_seed(step)
    model = build_model(cfg, labels=labels if cfg.task.name == "ctc" else None)
    model.input_norm.set_statistics(torch.full((80,), float(step)), torch.ones(80))
    model.seconds_seen.fill_(step)
    for name, value in model.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            value.fill_(step)
    checkpoint: dict[str, Any] = {"state_dict": model.state_dict(), "global_step": step}
    model.on_save_checkpoint(checkpoint)
    path.parent.mkdir(exist_ok=True)
    torch.save(checkpoint, path)
    return checkpoint["state_dict"]


def test_the_last_checkpoints_of_a_run_are_averaged(run_config: Any, tmp_path: Path, capsys: Any) -> None:
    cfg, folder, output = run_config(*CTC), tmp_path / "checkpoints", tmp_path / "mean.ckpt"
    # Sorted by name, the eight digits would come first.
    steps = (8_000_000, 9_000_000, 10_000_000, 11_000_000)
    states = {step: write(folder / f"recent_{step:07d}.ckpt", cfg, step) for step in steps}
    write(folder / "last.ckpt", cfg, 12_000_000)
    assert main("average", output, tmp_path, "--last", "3") == 0
    assert "mean of 3 checkpoints (updates: 9000000, 10000000, 11000000)" in capsys.readouterr().out
    model = load_model(output)
    for name, value in model.named_parameters():
        mean = sum(states[step][name].double() for step in steps[1:]) / 3
        assert torch.equal(value, mean.float()), name
    assert model.labels == LABELS
    assert main("average", output, tmp_path, "--last", "2") == 2
    assert main("average", tmp_path / "other.ckpt", tmp_path, "--last", "5") == 2
    errors = capsys.readouterr().err
    assert "mean.ckpt exists" in errors and "callbacks.recent.save_top_k=5" in errors


BATCH_NORM = (*CTC, "encoder.conv_norm=frozen_batch_norm")


@pytest.mark.parametrize("task", [BATCH_NORM, ("encoder=causal",)], ids=["ctc", "pretrain"])
def test_counts_and_statistics_are_those_of_the_newest(run_config: Any, tmp_path: Path, task: Any) -> None:
    cfg = run_config(*task)
    states = [write(tmp_path / f"{step}.ckpt", cfg, step) for step in (9, 4)]
    model, steps = average([tmp_path / "9.ckpt", tmp_path / "4.ckpt"])
    assert steps == [9, 4]
    for name, value in model.named_buffers():
        if name in states[0]:
            mean = torch.full_like(value, (9 + 4) / 2) if name.endswith(("running_mean", "running_var")) else None
            assert torch.equal(value, states[0][name] if mean is None else mean), name


@pytest.mark.parametrize(
    ("overrides", "labels", "message"),
    [
        ((*CTC, "size.ff_expansion=1"), LABELS, "encoder.ff_expansion is 1, not "),
        (CTC, {"kind": "char", "symbols": list(" abcdefghijklmnoq")}, "another vocabulary"),
        (("encoder=causal",), None, "its task is pretrain, not ctc"),
    ],
)
def test_different_models_are_refused(
    run_config: Any, tmp_path: Path, overrides: tuple[str, ...], labels: Any, message: str
) -> None:
    write(tmp_path / "1.ckpt", run_config(*CTC), 1)
    write(tmp_path / "2.ckpt", run_config(*overrides), 2, labels)
    with pytest.raises(UserError, match=f"2.ckpt cannot be averaged with .*1.ckpt: .*{message}"):
        average([tmp_path / "1.ckpt", tmp_path / "2.ckpt"])
    with pytest.raises(UserError, match="two or more"):
        average([tmp_path / "1.ckpt"])
    with pytest.raises(UserError, match=r"1\.ckpt is given 2 times: name each checkpoint once"):
        average([tmp_path / "1.ckpt", tmp_path / "2.ckpt", tmp_path / "x" / ".." / "1.ckpt"])


def test_models_that_predict_other_codes_are_refused(run_config: Any, tmp_path: Path) -> None:
    cfg = run_config("encoder=causal", "quantizer=kmeans")
    for step in (1, 2):
        write(tmp_path / f"{step}.ckpt", cfg, step)
    average([tmp_path / "1.ckpt", tmp_path / "2.ckpt"])
    checkpoint = torch.load(tmp_path / "2.ckpt", weights_only=True)
    checkpoint["state_dict"]["quantizer.codebooks"][0, 0, 0] += 1
    torch.save(checkpoint, tmp_path / "2.ckpt")
    with pytest.raises(UserError, match=r"2\.ckpt cannot be averaged with .*its target codes are others"):
        average([tmp_path / "1.ckpt", tmp_path / "2.ckpt"])
