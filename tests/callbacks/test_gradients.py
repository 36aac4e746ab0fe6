"""Steps with harmful gradients are skipped on all ranks, counted, and kept up to a limit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from streamnest.callbacks import GradientGuard
from streamnest.data.batch import Batch
from streamnest.errors import UserError


class Linear(L.LightningModule):
    """The loss is weight times input: the gradient is the input."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        return (self.weight * batch.clean).sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=1.0)


def train(gradients: list[float], guard: GradientGuard) -> Linear:
    none = torch.zeros(1, dtype=torch.long)
    batches = [
        Batch(torch.tensor([[g]]), torch.tensor([[g]]), none, none, step, ["a"], 1.0)
        for step, g in enumerate(gradients)
    ]
    model = Linear()
    loader = DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
    settings = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    L.Trainer(max_epochs=1, callbacks=[guard], enable_model_summary=False, **settings).fit(model, loader)  # type: ignore[arg-type]
    return model


def test_a_non_finite_gradient_is_skipped_and_its_batch_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    guard = GradientGuard(tmp_path)
    model = train([1.0, float("nan"), 2.0, float("inf")], guard)
    assert model.weight.item() == -3.0 and guard.skipped == 2
    assert "step 1 is skipped" in caplog.text
    kept = torch.load(tmp_path / "skipped_0000001_0.pt", weights_only=True)
    assert kept["clean"].isnan().all() and kept["ids"] == ["a"]


def test_a_spike_is_skipped_once_the_window_is_full(tmp_path: Path) -> None:
    guard = GradientGuard(tmp_path, spike=10.0, window=3)
    assert train([1.0, 50.0, 1.0, 50.0, 1.0, 9.0, 11.0], guard).weight.item() == -62.0
    assert guard.skipped == 2
    assert train([1.0, 1.0, 1.0, 50.0], GradientGuard(tmp_path, spike=None, window=3)).weight.item() == -53.0


def test_too_many_skipped_steps_stop_the_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"3 steps in a row.*lower optim.lr"):
        train([1.0] + [float("nan")] * 5, GradientGuard(tmp_path, max_in_row=3))
    train([float("nan"), float("nan"), 1.0] * 3, GradientGuard(tmp_path, max_in_row=3))


def test_the_number_of_kept_batches_is_limited(tmp_path: Path) -> None:
    train([float("nan")] * 5, GradientGuard(tmp_path, max_kept=2))
    assert len(list(tmp_path.iterdir())) == 2


def test_the_window_continues_after_a_resume(tmp_path: Path) -> None:
    guard, other = GradientGuard(tmp_path, window=4), GradientGuard(tmp_path, window=4)
    train([1.0, 2.0, float("nan")], guard)
    other.load_state_dict(guard.state_dict())
    assert list(other.norms) == [1.0, 2.0] and other.skipped == 1
