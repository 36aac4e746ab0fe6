"""Models on a hub: what is uploaded and downloaded, and errors with a remedy, against a server on this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from inprocess import main
from model_hub import TOKEN, ModelHub, Repository, model_hub
from servers import free_port

import streamnest
from streamnest.checkpoint import hub_client
from streamnest.checkpoint.hub_client import HubName
from streamnest.checkpoint.loading import load_model
from streamnest.checkpoint.model_folder import CARD, CONFIG, WEIGHTS
from streamnest.errors import UserError
from streamnest.streaming.certificate import Certificate, Check

constants = pytest.importorskip("huggingface_hub.constants")
STORED = Path(__file__).parents[1] / "fixtures/stored/pretraining.ckpt"
Hub = type[ModelHub]


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Serves a hub, with a token and an own cache."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(
        "streamnest.checkpoint.hub.verify", lambda model: Certificate(model.latency, [Check("a", "1", "1", True)])
    )
    with model_hub() as (address, handler):
        monkeypatch.setenv("HF_ENDPOINT", address)
        # Read from the environment when huggingface_hub was imported.
        monkeypatch.setattr(constants, "ENDPOINT", address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        yield handler


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    assert main("save_pretrained", STORED, tmp_path / "model", "--license", "cc-by-4.0") == 0
    return tmp_path / "model"


def test_the_command_uploads_three_files_that_load_again(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/notes.txt").write_text("private")
    options = ("--push", "org/name", "--license", "cc-by-4.0", "--language", "en", "no", "--result", "WER, x|y=4.1 %")
    assert main("save_pretrained", STORED, tmp_path / "model", *options) == 0
    repository = hub.repositories["org/name"]
    (commit,) = repository.commits
    assert f"uploaded: {os.environ['HF_ENDPOINT']}/org/name/commit/{commit}" in capsys.readouterr().out
    assert set(repository.commits[commit]) == {WEIGHTS, CONFIG, CARD} and repository.visibility == "private"
    text = repository.commits[commit][CARD].decode()
    for words in (
        'license: "cc-by-4.0"\nlanguage: ["en", "no"]',
        'from_pretrained("org/name")',
        "| WER, x\\|y | 4.1 % |",
        "## Certificate",
    ):
        assert words in text, words
    model, expected = streamnest.from_pretrained("org/name"), load_model(STORED)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in expected.state_dict().items())
    assert not any("notes" in request or CARD in request for request in hub.requests)


def test_a_revision_and_the_prefix_select_what_is_downloaded(hub: Hub, folder: Path) -> None:
    streamnest.push_to_hub(folder, "org/name", public=True)
    repository = hub.repositories["org/name"]
    assert repository.visibility == "public"
    first = next(iter(repository.commits))
    repository.commit({CONFIG: b"{}"})
    assert load_model(f"hf:org/name@{first}").config == load_model(STORED).config
    assert streamnest.from_pretrained("org/name", revision=first).config == load_model(STORED).config
    with pytest.raises(UserError, match="is not the config of a streamnest model"):
        load_model("hf:org/name")
    with pytest.raises(UserError, match="applies to models of a hub"):
        streamnest.from_pretrained(folder, revision=first)


def test_weights_and_config_are_of_the_same_commit(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    streamnest.push_to_hub(folder, "org/name")
    repository, size = hub.repositories["org/name"], hub_client._remote_size

    def update_after_the_config(*arguments: object) -> int | None:
        if WEIGHTS in arguments and len(repository.commits) == 1:
            repository.commit({WEIGHTS: b"of another model"})
        return size(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(hub_client, "_remote_size", update_after_the_config)
    assert streamnest.from_pretrained("org/name").config == load_model(STORED).config
    assert len(repository.commits) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda hub: hub.repositories.clear(), "no path and no model of this name that you can read.*hf auth login"),
        (lambda hub: setattr(hub.repositories["org/name"], "gated", True), "gated: accept its conditions"),
        (lambda hub: hub.repositories.update({"org/name": other(CARD)}), f"must have {CONFIG} and {WEIGHTS}"),
        (lambda hub: hub.largest_header.update({CONFIG: 1 << 40}), "config.json has 1099511627776 bytes, more than"),
        (lambda hub: hub.largest_header.update({WEIGHTS: 1 << 40}), "safetensors has 1099511627776 bytes, more than"),
    ],
)
def test_what_cannot_be_downloaded_is_refused_with_a_remedy(
    hub: Hub, folder: Path, change: Callable[[Hub], None], words: str
) -> None:
    streamnest.push_to_hub(folder, "org/name")
    change(hub)
    with pytest.raises(UserError, match=words):
        streamnest.from_pretrained("org/name")


def other(name: str) -> Repository:
    repository = Repository()
    repository.commit({name: b"# A model of another library"})
    return repository


def test_without_a_network_the_cached_model_is_loaded(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    streamnest.push_to_hub(folder, "org/name")
    expected = streamnest.from_pretrained("org/name").config
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    assert streamnest.from_pretrained("org/name").config == expected
    with pytest.raises(UserError, match="check the network"):
        streamnest.from_pretrained("org/unseen")
    with pytest.raises(UserError, match=r"org/name on the hub: it cannot be reached .*check the network"):
        streamnest.push_to_hub(folder, "org/name")


def test_a_link_out_of_the_cache_is_refused(hub: Hub, folder: Path, tmp_path: Path) -> None:
    streamnest.push_to_hub(folder, "org/name")
    streamnest.from_pretrained("org/name")
    (cached,) = (tmp_path / "cache").rglob(f"snapshots/*/{WEIGHTS}")
    cached.unlink()
    cached.symlink_to(folder / WEIGHTS)
    with pytest.raises(UserError, match="is a link out of the cache of org/name"):
        streamnest.from_pretrained("org/name")


def test_an_upload_without_token_right_or_license_is_refused(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = (folder / CARD).read_text()
    (folder / CARD).write_text(card.replace('license: "cc-by-4.0"', 'license: "nonsense"'))
    with pytest.raises(UserError, match=r"Invalid metadata.*license.* must be one of"):
        streamnest.push_to_hub(folder, "org/name")
    (folder / CARD).write_text(card.replace("license: ", "# license: "))
    with pytest.raises(UserError, match=r"has no license: give --license"):
        streamnest.push_to_hub(folder, "org/name")
    (folder / CARD).write_text(card)
    hub.forbidden = True
    with pytest.raises(UserError, match=r"your token does not permit this \(status 403\).*HF_TOKEN"):
        streamnest.push_to_hub(folder, "org/other")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match=r"cannot be written without a token: run hf auth login, or set HF_TOKEN"):
        streamnest.push_to_hub(folder, "org/name")
    assert main("save_pretrained", STORED, tmp_path / "new", "--push", "org/name") == 2
    assert "--push needs the license" in capsys.readouterr().err
    assert main("save_pretrained", STORED, tmp_path / "new", "--push", "org/name", "--license", "mit") == 2
    assert "cannot be written without a token" in capsys.readouterr().err and not (tmp_path / "new").exists()


def test_a_model_that_fails_a_check_is_not_uploaded(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = [Check("stages", "none", "subsampling does", False)]
    monkeypatch.setattr("streamnest.checkpoint.hub.verify", lambda model: Certificate(model.latency, failed))
    assert main("save_pretrained", STORED, tmp_path / "model", "--push", "org/name", "--license", "mit") == 1
    assert "not uploaded" in capsys.readouterr().out and not hub.repositories


def test_names_on_a_hub_differ_from_paths(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert HubName.of("hf:org/name@v1.0") == HubName("org/name", "v1.0") and HubName.of("org/name") is None
    for path in ("runs/last.ckpt", "/a/b", "a/b/c", "../b", "~/b", "a", "a/b@", "a/..", "a/b c", "a/b@../x"):
        assert HubName.guessed(path) is None, path
        with pytest.raises(UserError):
            streamnest.from_pretrained(path)
    with pytest.raises(UserError, match="is not a model on a hub: give ORG/NAME"):
        load_model("hf:/etc/passwd")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org/name").mkdir(parents=True)
    with pytest.raises(UserError, match="is not the folder of a model"):
        streamnest.from_pretrained("org/name")
    with pytest.raises(UserError, match="no checkpoint at"):
        streamnest.from_pretrained(Path("org/other"))
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"pip install 'streamnest\[hub\]'"):
        load_model("hf:org/name")
