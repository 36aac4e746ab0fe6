"""`save_pretrained`, `from_pretrained` and `push_to_hub`: models as folders, on this machine and on a model hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from streamnest.checkpoint.hub_client import HubName, download, upload
from streamnest.checkpoint.loading import load_model, read_checked
from streamnest.checkpoint.model_card import CardFacts, card
from streamnest.checkpoint.model_folder import CARD, CONFIG, WEIGHTS, write_folder
from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError
from streamnest.streaming.certificate import Certificate, verify

_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]*@|\?.*")
_LICENSE = re.compile(r"^license: *\S", re.M)


def save_pretrained(
    model: EncoderTask, folder: str | Path, facts: CardFacts | None = None, name: str | None = None
) -> dict[str | None, Certificate]:
    """Writes a model as a folder: `model.safetensors`, `config.json`, and the model card `README.md`.

    Look-ahead and latency on the card are measured now, as by `streamnest verify`.

    Args:
        model: model of any task; it is not changed.
        folder: folder to write to, created if necessary; its other files are kept.
        facts: license, languages, training data and results for the card.
        name: name of the model on the card, such as `ORG/NAME`; None is the name of the folder.

    Returns:
        The certificate of each context of a dynamic encoder by name; the key is None for an encoder with one context.
    """
    certificates = {context: verify(model) for context in model.encoder.each_context()}
    checkpoint: dict[str, Any] = {}
    model.on_save_checkpoint(checkpoint)
    shared = {**checkpoint["streamnest"], "config": without_credentials(checkpoint["streamnest"]["config"])}
    text = card(model, name or Path(folder).name, certificates, facts)
    write_folder(folder, model.state_dict(), shared, text)
    return certificates


def from_pretrained(name: str | Path, context: str | None = None, revision: str | None = None) -> EncoderTask:
    """Loads the model of a folder written by `save_pretrained`, of a checkpoint, or of a model hub.

    Nothing in the model is executed.

    Args:
        name: path on this machine; or `ORG/NAME` on the hub, if there is no such path. `hf:ORG/NAME` is always on the
            hub, and a `Path` never.
        context: name of a context of a dynamic encoder; None is the default one.
        revision: branch, tag or commit on the hub; None is the newest.

    Returns:
        The model in evaluation mode.

    Raises:
        UserError: for anything but a model of streamnest, for an unknown context, and if a download fails.
    """
    remote = HubName.of(name)
    if remote is None and isinstance(name, str) and not Path(name).exists():
        remote = HubName.guessed(name)
    if remote is None:
        if revision is not None:
            raise UserError(f"revision={revision!r} applies to models of a hub, but {name} is a path on this machine")
        return load_model(name, context)
    return load_model(download(remote if revision is None else HubName(remote.repository, revision)), context)


def push_to_hub(folder: str | Path, name: str, public: bool = False) -> str:
    """Uploads weights, config and card of a folder written by `save_pretrained`, and none of its other files.

    Args:
        folder: folder of the model.
        name: `ORG/NAME` on the hub, created if it does not exist.
        public: visibility of a created repository; that of an existing one stays.

    Returns:
        The address of the commit.

    Raises:
        UserError: for a folder that cannot be loaded, for a card without a license, and if the upload fails.
    """
    folder = Path(folder)
    read_checked(folder)
    text = (folder / CARD).read_text(encoding="utf-8") if (folder / CARD).is_file() else ""
    if not _LICENSE.search(text.partition("\n---")[0]):
        raise UserError(f"{folder / CARD} has no license: give --license, or add a line such as license: cc-by-4.0")
    return upload([folder / file for file in (WEIGHTS, CONFIG, CARD)], HubName.parsed(name), public)


def without_credentials(value: Any) -> Any:
    """Removes user, password and query, which may contain a signature, from the URLs in plain data."""
    if isinstance(value, dict):
        return {key: without_credentials(one) for key, one in value.items()}
    if isinstance(value, list):
        return [without_credentials(one) for one in value]
    return _CREDENTIALS.sub("", value) if isinstance(value, str) and "://" in value else value
