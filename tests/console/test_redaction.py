"""Passwords, keys and signatures in URLs are refused before anything is written, and redacted in messages."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from streamnest.console.entry_point import without_trace
from streamnest.console.redaction import Redacting, RefuseSecrets, redact, refuse_secrets_in
from streamnest.data.shards.store import open_store
from streamnest.errors import UserError

SECRETS = [
    "s3://KEY:hun/ter2@bucket/train",
    "https://user:hunter2@host/",
    "https://user:hun@ter2@host/x",
    "https://user:123hunter2@host:8080/x",
    "HTTPS://hunter2@host/x",
    "ftp://user:hunter2@host",
    "simplecache::s3://KEY:hunter2@bucket",
    "https://host/x?X-Amz-Credential=A&X-Amz-Signature=hunter2&X-Amz-Date=1",
    "https://host/p?sv=1&sig=hunter2%3D&se=3",
    "https://host/x#access_token=hunter2",
    "https://host/x?pass=hunter2",
    "https://host/x?a=1&sas=hunter2",
    "data.train_manifest={a: {path: 's3://k:hunter2@b/x', weight: 1}}",
    "data.train_manifest=[s3://a/b,https://u:hunter2@h/]",
]
HONEST = [
    "s3://bucket/data@2024/train",
    "s3://bucket/a:b@c",
    "abfs://container@account.dfs.core.windows.net/x",
    "http://localhost:8080/a@b",
    "http://[::1]:9000/a@b",
    "[http://host:9000,foo@bar]",
    "https://host/x?download=true&version=3",
    "https://host/x?compass=n&pattern=1",
    "sftp://user@host/x",
    "{a: s3://x/y, b: {c: d@e}}",
]


@pytest.mark.parametrize("text", SECRETS)
def test_a_secret_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(UserError, match="leave it out") as refused:
        refuse_secrets_in({"data": [text]})
    assert "hunter2" not in str(refused.value) and "ter2" not in redact(text)


@pytest.mark.parametrize("text", HONEST)
def test_a_url_without_a_secret_is_unchanged(text: str) -> None:
    assert redact(text) == text
    refuse_secrets_in([text, None, 3])


def test_stores_and_command_lines_refuse_secrets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="leave it out"):
        open_store(SECRETS[0])
    monkeypatch.setattr(sys, "argv", ["shard.py", "--out", SECRETS[1]])
    assert without_trace(lambda: 0)() == 2
    assert "https://***@host/" in capsys.readouterr().err


@pytest.mark.parametrize("start", ["on_run_start", "on_multirun_start"])
def test_hydra_ends_before_it_writes_a_secret(start: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = OmegaConf.create({"hydra": {"overrides": {"task": [SECRETS[-1]]}}, "data": {"x": 1}})
    with pytest.raises(SystemExit) as ended:
        getattr(RefuseSecrets(), start)(config)
    assert ended.value.code == 2 and "hunter2" not in capsys.readouterr().err


def test_training_has_the_callback_and_the_filter() -> None:
    folder = Path(__file__).resolve().parents[2] / "configs/hydra"
    callbacks = OmegaConf.load(folder / "default.yaml").callbacks
    assert isinstance(instantiate(callbacks.refuse_secrets), RefuseSecrets)
    logs = OmegaConf.load(folder / "job_logging/rich.yaml")
    assert all(handler.filters == ["redacting"] for handler in logs.handlers.values())


def test_log_records_of_libraries_are_redacted() -> None:
    record = logging.LogRecord("s3fs", logging.ERROR, "", 1, "lost %s at %d", (SECRETS[0], 3), None)
    assert Redacting().filter(record) and record.getMessage() == "lost s3://***@bucket/train at 3"
