"""Training in pieces of recordings equals training on whole recordings, and continues exactly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from models import ready
from omegaconf import DictConfig
from recordings import PRESETS, SECONDS, batches, built, encoded, pieces, whole_outputs
from torch import Tensor

from streamnest.build import build_data, build_model
from streamnest.encoder.state import map_state, plain_state
from streamnest.errors import UserError
from streamnest.pieces.carried import gather_state, initial_state, restore_state

Compose = Callable[..., DictConfig]


@pytest.mark.parametrize("preset", PRESETS)
def test_outputs_of_pieces_equal_those_of_whole_recordings(run_config: Compose, manifest: Path, preset: str) -> None:
    """In an epoch, rows begin and end at different times, some of them inside a recording."""
    model, data = built(run_config(*pieces(manifest, 0.8, 3, *PRESETS[preset])))
    model.double()
    streams: dict[int, tuple[str, int, list[Tensor]]] = {}
    ended = []
    for batch in batches(data, 14):
        outputs, frames = encoded(model, batch)
        assert batch.seams is not None and outputs.shape[1] == 800 / model.encoder.frame_ms
        for row, name in enumerate(batch.ids):
            recording, number = name.rsplit("/", 1)
            if batch.seams.first[row]:
                streams[row] = (recording, int(number), [])
                ended.append(streams[row])
            assert streams[row][0] == recording
            streams[row][2].append(outputs[row, : int(frames[row])])
    assert {name for name, *_ in ended} == {f"r{i}" for i in range(len(SECONDS))}
    assert len(ended) >= 10 and any(number for _, number, _ in ended)
    for name, number, parts in ended:
        together = torch.cat(parts)
        expected = whole_outputs(model, data, name, number * 12800)
        # A rest of less than 0.1 s gets no piece of its own.
        assert len(together) <= len(expected) + 1
        count = min(len(together), len(expected))
        torch.testing.assert_close(together[:count], expected[:count], rtol=0, atol=1e-9)


def test_each_process_restores_its_own_rows(run_config: Compose) -> None:
    model = ready(run_config("encoder=limited3200"))
    whole = initial_state(model.input_norm, model.encoder, 4, 20_000)
    whole = map_state(lambda x: x + torch.arange(4).view(-1, *[1] * (x.ndim - 1)).to(x.dtype), whole)
    template = initial_state(model.input_norm, model.encoder, 2, 20_000)
    own = restore_state(template, gather_state(whole), rank=1, world_size=2)
    assert own.encoder.position.tolist() == [2, 3] and float(own.encoder.layers[1].attention.past[1].min()) == 3
    with pytest.raises(UserError, match=r"not hold the state of 6 streams .*init_from"):
        restore_state(template, gather_state(whole), rank=0, world_size=3)


def fit(cfg: DictConfig, steps: int, path: Path | None = None) -> tuple[L.Trainer, dict[str, Any]]:
    L.seed_everything(cfg.seed, verbose=False)
    model, data = build_model(cfg), build_data(cfg)
    for norm in (model.input_norm, model.target_norm):
        norm.set_statistics(torch.full((80,), -8.0), torch.full((80,), 3.0))
    data.config.num_batches = 12
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(
        **quiet,  # type: ignore[arg-type]
        accelerator="cpu",
        max_steps=steps,
        max_epochs=-1,
        use_distributed_sampler=False,
        limit_val_batches=0,
        enable_checkpointing=False,
    )
    trainer.fit(model, datamodule=data, ckpt_path=path, weights_only=True)
    assert model.carried is not None
    return trainer, {**model.state_dict(), **_named(plain_state(model.carried), "carried")}


def _named(state: Any, name: str) -> dict[str, Tensor]:
    if isinstance(state, Tensor):
        return {name: state}
    parts = [_named(part, f"{name}.{i}") for i, part in enumerate(state)]
    return {key: value for part in parts for key, value in part.items()}


def test_a_run_continues_exactly_inside_a_recording(run_config: Compose, manifest: Path, tmp_path: Path) -> None:
    """Step 4 of 7 is inside of recordings, with dropout, online normalization and the layers' caches to restore."""
    cfg = run_config(*pieces(manifest, 0.4, 2, "encoder=lookahead40", "encoder.normalize=online", "size.dropout=0.1"))
    _, whole = fit(cfg, 7)
    trainer, _ = fit(cfg, 4)
    trainer.save_checkpoint(tmp_path / "4.ckpt")
    _, continued = fit(cfg, 7, tmp_path / "4.ckpt")
    assert whole.keys() == continued.keys() and len(whole) > 50
    for name, value in whole.items():
        assert torch.equal(value, continued[name]), name
