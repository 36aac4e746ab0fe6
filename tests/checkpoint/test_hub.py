"""A model folder: the same model, a card with measured values, and nothing that can be executed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from inprocess import main
from models import ready
from omegaconf import DictConfig

import streamnest
from streamnest.build import build_model
from streamnest.checkpoint.hub import without_credentials
from streamnest.checkpoint.inherit_encoder import with_encoder_of
from streamnest.checkpoint.loading import StoredCheckpoint, load_model, load_pretrained
from streamnest.checkpoint.model_card import card
from streamnest.checkpoint.model_folder import CARD, CONFIG, WEIGHTS
from streamnest.checkpoint.transfer import transfer
from streamnest.errors import UserError
from streamnest.pretraining import Pretraining
from streamnest.streaming import certificate
from streamnest.streaming.certificate import Certificate, Check

Compose = Callable[..., DictConfig]


@pytest.fixture
def model(run_config: Compose) -> Pretraining:
    return ready(run_config("encoder=lookahead40"))


@pytest.fixture
def folder(model: Pretraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Saves a model without measuring it, which takes seconds."""
    checked = Certificate(model.latency, [Check("chunk == full, float32", "at most 1e-05", "3.1e-07", True)])
    monkeypatch.setattr("streamnest.checkpoint.hub.verify", lambda _: checked)
    streamnest.save_pretrained(model, tmp_path / "shared")
    return tmp_path / "shared"


def test_a_model_is_restored_from_its_folder_in_evaluation_mode(
    model: Pretraining, folder: Path, speech_like: Callable[..., torch.Tensor]
) -> None:
    again = streamnest.from_pretrained(folder)
    audio, length = speech_like(1, 16000), torch.tensor([16000])
    assert not again.training and sorted(path.name for path in folder.iterdir()) == sorted([WEIGHTS, CONFIG, CARD])
    with torch.no_grad():
        assert torch.equal(again(audio, length)[0], model(audio, length)[0])
    assert again.latency == model.latency
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_labels_of_a_recognizer_are_saved(run_config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamnest.checkpoint.hub.verify", lambda model: Certificate(model.latency))
    labels = {"kind": "char", "symbols": ["a", "é"]}
    streamnest.save_pretrained(build_model(run_config("task=ctc"), labels=labels), tmp_path)
    assert load_model(tmp_path).labels == labels


def test_card_and_weights_have_the_same_permissions(folder: Path) -> None:
    assert len({(folder / name).stat().st_mode for name in ("README.md", "config.json", "model.safetensors")}) == 1


def test_the_card_has_latency_and_checks(folder: Path, model: Pretraining) -> None:
    text = (folder / CARD).read_text()
    for words in (
        "# shared",
        'library_name: "streamnest"',
        "| 42.4 ms |",
        "| 82.5 ms |",
        "3.1e-07 | pass |",
        "It streams.",
    ):
        assert words in text, words
    assert (
        "Certified: look-ahead 42.4 ms. Measured" in text and 'metrics: ["accuracy"]' in text and "# license:" in text
    )
    failed = Certificate(model.latency, [Check("stages", "none", "subsampling does", False)])
    text = card(model, "x", {"causal": failed})
    assert (
        "Certificate of context `causal`" in text
        and "**Not certified: a check failed**." in text
        and "**FAIL**" in text
    )


def test_the_card_of_an_offline_model_claims_no_bound(run_config: Compose) -> None:
    offline = build_model(run_config("encoder=bidirectional"))
    text = card(offline, "x", {None: Certificate(offline.latency)})
    assert "Offline model: its look-ahead has no bound" in text and "Certified" not in text and "streaming" not in text


@pytest.mark.slow
def test_the_command_measures_the_values_of_the_card(
    model: Pretraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(certificate, "PROBES", [certificate.lookahead, certificate.latencies])
    streamnest.save_pretrained(model, tmp_path / "one")
    assert main("save_pretrained", tmp_path / "one", tmp_path / "two") == 0
    assert "certified: look-ahead 42.4 ms\n" in capsys.readouterr().out
    texts = [(tmp_path / name / CARD).read_text() for name in ("one", "two")]
    assert "| look-ahead, frame 1 of 2 | 42.4375 ms | 42.4375 ms | pass |" in texts[1]
    # Rounding errors depend on the number of threads, so those that were measured may differ.
    one, two = (re.sub(r"^# (one|two)$|\"(one|two)\"|\| \d\.\de-\d+ \|", "", text, flags=re.M) for text in texts)
    assert one == two


def test_a_run_can_start_but_not_continue_from_a_folder(model: Pretraining, folder: Path, run_config: Compose) -> None:
    other = build_model(run_config("encoder=causal"))
    assert transfer(other, folder).counts["new"] == 2  # the counts of a run
    cfg = run_config("task=ctc")
    cfg.encoder_from = str(folder)
    assert with_encoder_of(cfg, overrides=["task=ctc"]).encoder.right_context_ms == 40
    with pytest.raises(UserError, match="init_from starts a new run"):
        StoredCheckpoint.read(folder)


def test_foreign_folders_are_refused_with_the_reason(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / CONFIG).read_text())
    whole = (folder / WEIGHTS).read_bytes()
    foreign = {**config["config"], "encoder": {**config["config"]["encoder"], "_target_": "os.system"}}
    wider = {**config["config"], "size": {}, "encoder": {**config["config"]["encoder"], "num_layers": 3}}
    for content, words in (
        ({**config, "config": foreign}, r"os\.system"),
        ({**config, "format": 3}, "has format 3: this version reads 1 to 2"),
        ({"model_type": "bert"}, "is not the config of a streamnest model"),
        ({**config, "config": wider}, "do not belong together"),
    ):
        (folder / CONFIG).write_text(json.dumps(content))
        with pytest.raises(UserError, match=words):
            load_pretrained(folder)
    (folder / CONFIG).write_text(json.dumps(config))
    (folder / WEIGHTS).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="is damaged"):
        load_pretrained(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(UserError, match=f"it has no {WEIGHTS}"):
        load_pretrained(folder)


def test_a_saved_folder_contains_no_credentials() -> None:
    config = {"data": {"train_manifest": ["s3://me:hush@host/a?sig=hush", "a@b?"], "seed": 1}}
    assert without_credentials(config) == {"data": {"train_manifest": ["s3://host/a", "a@b?"], "seed": 1}}
