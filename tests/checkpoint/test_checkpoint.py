"""A checkpoint is sufficient to use the model; other files are refused with the reason."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from streamnest.build import build_model, find_task
from streamnest.checkpoint.compatibility import check_architecture
from streamnest.checkpoint.loading import StoredCheckpoint, load_pretrained, read_checkpoint
from streamnest.errors import UserError
from streamnest.pretraining import Pretraining

Compose = Callable[..., DictConfig]


@pytest.fixture
def model(run_config: Compose) -> Pretraining:
    torch.manual_seed(1)
    model = build_model(run_config())
    model.input_norm.set_statistics(torch.full((80,), -8.0), torch.full((80,), 3.0))
    return model.eval()


def save(model: Pretraining, path: Path, **changes: Any) -> Path:
    checkpoint: dict[str, Any] = {"state_dict": model.state_dict(), **changes}
    model.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)
    return path


def test_a_model_is_restored_from_its_checkpoint_alone(
    model: Pretraining, tmp_path: Path, speech_like: Callable[..., torch.Tensor]
) -> None:
    loaded = load_pretrained(save(model, tmp_path / "a.ckpt"))
    audio, length = speech_like(1, 16000), torch.tensor([16000])
    assert not loaded.training
    assert torch.equal(loaded(audio, length)[0], model(audio, length)[0])
    features, frames = model.frontend(audio, length)
    assert torch.equal(loaded.targets(features, frames), model.targets(features, frames))
    assert loaded.latency == model.latency


@pytest.mark.parametrize(
    ("override", "difference"),
    [
        ("size.num_layers=3", "encoder.num_layers: 2 in the checkpoint, 3 in this run"),
        ("encoder=causal", "encoder.right_context_ms"),
        ("quantizer.num_classes=32", "quantizer.num_classes"),
        ("quantizer.seed=1", "quantizer.seed"),
        (
            "optim=adamw_cosine",
            "trained with optim.optimizer=muon.*such as optim=muon_cosine",
        ),
    ],
)
def test_another_architecture_is_refused_naming_the_value(
    model: Pretraining, run_config: Compose, tmp_path: Path, override: str, difference: str
) -> None:
    path = save(model, tmp_path / "a.ckpt")
    with pytest.raises(UserError, match=difference):
        check_architecture(StoredCheckpoint.read(path), build_model(run_config(override)).config)


HEADS = {
    "diarization": {"max_speakers": 5, "head": "linear", "head_size": 64},
    "speaker": {"embedding_size": 64, "loss": "softmax"},
    "ctc": {"tokenizer": "sentencepiece", "vocab_size": 100},
    "rnnt": {"tokenizer": "sentencepiece", "joiner_dim": 64},
}


def settings_of(task: str) -> dict[str, Any]:
    """Returns a config with the settings of a head only."""
    groups: dict[str, Any] = {key: {} for key in ("frontend", "encoder", "quantizer", "objective")}
    return {**groups, "task": asdict(find_task({"task": task}).Settings())}


@pytest.mark.parametrize("task", HEADS)
def test_only_another_head_is_refused_with_the_value(tmp_path: Path, task: str) -> None:
    path, config = tmp_path / "a.ckpt", settings_of(task)
    torch.save({"state_dict": {}, "streamnest": {"config": config}}, path)
    check_architecture(StoredCheckpoint.read(path), {**config, "task": {**config["task"], "monitor": "val/loss"}})
    for name, value in HEADS[task].items():
        with pytest.raises(UserError, match=rf"task\.{name}: .* in the checkpoint, {value!r} in this run"):
            check_architecture(StoredCheckpoint.read(path), {**config, "task": {**config["task"], name: value}})


def test_a_missing_head_setting_has_its_default(tmp_path: Path) -> None:
    path, config = tmp_path / "a.ckpt", settings_of("diarization")
    older = {name: value for name, value in config["task"].items() if name != "head_size"}
    torch.save({"state_dict": {}, "streamnest": {"config": {**config, "task": older}}}, path)
    check_architecture(StoredCheckpoint.read(path), config)
    with pytest.raises(UserError, match=r"task\.head_size: 128 in the checkpoint, 64 in this run"):
        check_architecture(StoredCheckpoint.read(path), {**config, "task": {**config["task"], "head_size": 64}})


def test_dropout_and_data_are_not_part_of_the_architecture(
    model: Pretraining, run_config: Compose, tmp_path: Path
) -> None:
    path = save(model, tmp_path / "a.ckpt")
    check_architecture(
        StoredCheckpoint.read(path),
        build_model(run_config("size.dropout=0.3", "data.batch_duration=9", "seed=4")).config,
    )


def test_an_old_checkpoint_without_kind_of_codes_has_random_ones(
    model: Pretraining, run_config: Compose, tmp_path: Path
) -> None:
    del model.config["quantizer"]["codes"]
    path = save(model, tmp_path / "a.ckpt")
    check_architecture(StoredCheckpoint.read(path), build_model(run_config()).config)
    with pytest.raises(UserError, match=r"quantizer\.codes: 'random' in the checkpoint, 'kmeans' in this run"):
        check_architecture(StoredCheckpoint.read(path), build_model(run_config("quantizer.codes=kmeans")).config)


def test_an_invalid_checkpoint_is_refused_with_the_reason(model: Pretraining, tmp_path: Path) -> None:
    whole = save(model, tmp_path / "a.ckpt").read_bytes()
    (tmp_path / "short.ckpt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.ckpt").write_text("hello")
    (tmp_path / "empty.ckpt").write_bytes(b"")
    torch.save({"weights": torch.zeros(2)}, tmp_path / "other.ckpt")
    for name, reason in (("short", "truncated"), ("text", "a text file"), ("empty", "is empty")):
        with pytest.raises(UserError, match=reason):
            read_checkpoint(tmp_path / f"{name}.ckpt")
    with pytest.raises(UserError, match="not a streamnest checkpoint"):
        read_checkpoint(tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="no checkpoint at"):
        read_checkpoint(tmp_path / "nowhere.ckpt")


class Malice:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path("owned").write_text, ("x",))


def test_a_pickle_with_code_is_refused_and_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Malice(), "streamnest": {}}, "evil.ckpt")
    Path("plain.ckpt").write_bytes(pickle.dumps(Malice()))
    for name in ("evil.ckpt", "plain.ckpt"):
        with pytest.raises(UserError, match="unsafe"):
            read_checkpoint(name)
    assert not Path("owned").exists()


def test_a_config_that_names_foreign_code_is_refused(model: Pretraining, tmp_path: Path) -> None:
    model.config = {**model.config, "encoder": {**model.config["encoder"], "_target_": "os.system"}}
    with pytest.raises(UserError, match=r"os\.system"):
        load_pretrained(save(model, tmp_path / "a.ckpt"))
