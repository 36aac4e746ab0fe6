"""Arguments of `streamnest serve`."""

from __future__ import annotations

import pytest
from inprocess import main

from streamnest.commands.arguments.serve import parse


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--host", "0.0.0.0"), "reachable from other machines: add --token"),
        (("--token", "short"), "at least 16 characters"),
        (("--port", "70000"), "--port: 70000 is out of range: give a whole number from 0 to 65535"),
        (("--streams", "0"), "--streams: 0 is out of range: give a whole number from 1 to 10000"),
    ],
)
def test_serve_refuses_public_addresses_without_token_and_illegal_numbers(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STREAMNEST_TOKEN", raising=False)
    with pytest.raises(SystemExit, match="2"):
        parse(["m.ckpt", *words])
    assert message in capsys.readouterr().err


def test_the_token_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMNEST_TOKEN", "0123456789abcdef")
    assert parse(["m.ckpt", "--host", "0.0.0.0"]).token == "0123456789abcdef"


def test_serve_names_a_missing_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("uvicorn")
    assert main("serve", "missing.ckpt") == 2
    assert "no checkpoint at missing.ckpt" in capsys.readouterr().err
