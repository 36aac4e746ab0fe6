"""Files written by an earlier version load, compute the same outputs, and training continues from them."""

from __future__ import annotations

import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import inprocess
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from runs import UNCHECKED

from streamnest.checkpoint.loading import StoredCheckpoint, load_model
from streamnest.checkpoint.resume import AtomicCheckpointIO
from streamnest.config.aliases import FORMAT, current_stream, current_weights, modernize
from streamnest.streaming.onnx_session import OnnxSession

STORED = Path(__file__).parents[1] / "fixtures" / "stored"
SMALL = ("quantizer.num_classes=32",)
# The average that wrote the file.
CONSTANT_DECAY = (
    "callbacks.ema._target_=lightning.pytorch.callbacks.EMAWeightAveraging",
    "+callbacks.ema.use_buffers=false",
)
RUNS: dict[str, tuple[str, ...]] = {
    "pretraining": ("encoder=lookahead40", *SMALL),
    "dynamic": ("encoder=dynamic", "objective=masked_next_token", *SMALL),
    "ema": ("encoder=causal", "callbacks=ema", *CONSTANT_DECAY, "size.d_model=8", *SMALL),
    "ctc": ("task=ctc", "encoder=lookahead40", "augment.speed.prob=0"),
    "rnnt": ("task=rnnt", "encoder=causal", "augment.speed.prob=0", "task.prediction_dim=16", "task.joiner_dim=16"),
    "diarization": ("task=diarization", "encoder=lookahead80", "task.head_size=16"),
    "speaker": ("task=speaker", "encoder=limited3200", "task.embedding_size=16"),
}
WORDS = (
    *("optim=adamw_cosine", "augment=noise_and_speakers", "debug=fast", "trainer=cpu", "threads=1"),
    *("~callbacks.plots", UNCHECKED),
    *("size.d_model=16", "size.num_heads=2", "size.num_layers=2", "size.subsampling_channels=4", "size.ff_expansion=2"),
    *("trainer.max_steps=4", "trainer.val_check_interval=2", "statistics.hours=0.02", "data.batch_duration=12"),
)


@pytest.fixture(scope="module")
def expected() -> dict[str, dict[str, Any]]:
    return torch.load(STORED / "expected.pt", weights_only=True)


def audio() -> tuple[torch.Tensor, torch.Tensor]:
    row = 0.1 * torch.sin(torch.arange(16000) ** 1.5 * 0.01)
    return torch.stack([row, row.flip(0)]), torch.tensor([16000, 9000])


def assert_encodes(path: Path, expected: dict[str, Any]) -> None:
    with torch.no_grad():
        encoded, valid = load_model(path)(*audio())
    assert torch.equal(valid, expected["valid"])
    torch.testing.assert_close(encoded, expected["encoded"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", RUNS)
def test_a_stored_checkpoint_computes_the_same_output(name: str, expected: dict[str, dict[str, Any]]) -> None:
    assert_encodes(STORED / f"{name}.ckpt", expected[name])


def test_a_stored_folder_computes_the_same_output(expected: dict[str, dict[str, Any]]) -> None:
    assert_encodes(STORED / "folder", expected["pretraining"])


def test_a_stored_graph_streams_the_same_output(tmp_path: Path, expected: dict[str, dict[str, Any]]) -> None:
    (tmp_path / "step.onnx").write_bytes(lzma.decompress((STORED / "step.onnx.xz").read_bytes()))
    session = OnnxSession(tmp_path / "step.onnx")
    stream = session.open()
    frames = [*session.push({stream: audio()[0][0]}).values(), *session.flush([stream]).values()]
    torch.testing.assert_close(torch.cat(frames), expected["pretraining"]["encoded"][0], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "name", [name if name == "pretraining" else pytest.param(name, marks=pytest.mark.slow) for name in RUNS]
)
def test_training_continues_from_a_stored_checkpoint(
    name: str,
    composed: Callable[..., DictConfig],
    tmp_path: Path,
    expected: dict[str, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, read_files, load = STORED / f"{name}.ckpt", [], torch.load

    def recorded(file: Any, *args: Any, **kwargs: Any) -> Any:
        read_files.append(file)
        return load(file, *args, **kwargs)

    cfg = composed(*WORDS, *RUNS[name], f"ckpt_path={path}", f"paths.output_dir={tmp_path}", "name=t", "preset=t")
    monkeypatch.setattr(torch, "load", recorded)
    inprocess.load("train").train(OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"]))
    assert read_files == [path]
    saved = load(tmp_path / "checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 4
    for key, value in current_weights(expected[name]["continued"]).items():
        torch.testing.assert_close(saved["state_dict"][key], value, atol=1e-6, rtol=0)


def test_old_names_of_both_sets_of_weights_are_translated_once() -> None:
    def stored(weight: str, **version: int) -> dict[str, Any]:
        own = {"config": {}, **version}
        return {"streamnest": own, "state_dict": {weight: 1}, "current_model_state": {weight: 2}}

    assert modernize(stored("seconds_heard")) == stored("seconds_seen", format=FORMAT)
    assert modernize(stored("seconds_heard", format=FORMAT)) == stored("seconds_heard", format=FORMAT)
    assert current_stream({"heard": 1, "emitted": 2}) == {"num_samples_in": 1, "emitted": 2}


def test_a_checkpoint_that_was_read_is_loaded_once_and_released(tmp_path: Path) -> None:
    stored = StoredCheckpoint(tmp_path / "not_there.ckpt", {"state_dict": {}})
    assert AtomicCheckpointIO(stored).load_checkpoint(stored.path) == {"state_dict": {}}
    assert stored.content == {}
