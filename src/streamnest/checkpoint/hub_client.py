"""Download from and upload to a hub of models, huggingface.co or `HF_ENDPOINT`, by named files only."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from streamnest.checkpoint.model_folder import CONFIG, MAX_CONFIG_BYTES, WEIGHTS
from streamnest.errors import UserError
from streamnest.files.plain_data import first_line

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PREFIX = "hf:"
# Largest files that are downloaded.
_MAX_BYTES = {CONFIG: MAX_CONFIG_BYTES, WEIGHTS: 64 << 30}
_PART = r"[A-Za-z0-9](?:[\w.-]{0,94}\w)?"
_REPOSITORY = re.compile(rf"{_PART}/{_PART}", re.ASCII)
_REVISION = re.compile(r"\w[\w./-]{0,250}", re.ASCII)
_FILES = (".ckpt", ".pt", ".nemo", ".onnx", ".safetensors")
_NETWORK = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")
_LOGIN = "run hf auth login, or set HF_TOKEN"


class HubName(NamedTuple):
    """A model on a hub: `ORG/NAME`, and a branch, tag or commit."""

    repository: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.repository + (f"@{self.revision}" if self.revision else "")

    @classmethod
    def of(cls, path: str | Path) -> HubName | None:
        """Parses `hf:ORG/NAME` and `hf:ORG/NAME@REVISION`; None for anything without the prefix.

        Raises:
            UserError: for another name after the prefix.
        """
        text = str(path)
        return cls.parsed(text.removeprefix(PREFIX)) if text.startswith(PREFIX) else None

    @classmethod
    def guessed(cls, text: str) -> HubName | None:
        """Parses `ORG/NAME` or `ORG/NAME@REVISION`; None for anything else, and for names of checkpoint files."""
        repository, at, revision = text.partition("@")
        fits = _REPOSITORY.fullmatch(repository) and (not at or _REVISION.fullmatch(revision))
        return cls(repository, revision or None) if fits and not text.endswith(_FILES) else None

    @classmethod
    def parsed(cls, text: str) -> HubName:
        """Parses `ORG/NAME` or `ORG/NAME@REVISION`.

        Raises:
            UserError: for anything else.
        """
        name = cls.guessed(text)
        if name is None:
            raise UserError(f"{text!r} is not a model on a hub: give ORG/NAME or ORG/NAME@REVISION")
        return name


def download(name: HubName) -> Path:
    """Downloads config and weights of a model to the cache of huggingface_hub, and returns their folder.

    Other files of the repository are not downloaded. Without a network, the cached model is used.

    Raises:
        UserError: if the model cannot be downloaded, a file is too large, or a link in the cache leads out of it.
    """
    with _reporting(name):
        api = _api()
        path, revision = Path(), name.revision
        for file, limit in _MAX_BYTES.items():
            _require_size(_remote_size(api, name.repository, file, revision), limit, f"{name}: {file}")
            path = Path(api.hf_hub_download(name.repository, file, revision=revision))
            _require_size(path.stat().st_size, limit, str(path))
            # The folder of a repository has snapshots/COMMIT/FILE, which are links to its blobs.
            if not path.resolve().is_relative_to(path.parents[2].resolve()):
                raise UserError(f"{path} is a link out of the cache of {name}: remove it and download again")
            revision = path.parent.name  # the weights of the same commit
    return path.parent


def upload(files: Sequence[Path], name: HubName, public: bool) -> str:
    """Uploads files in one commit, and returns its address.

    Args:
        files: paths of the files, which get the same names.
        name: repository, created if it does not exist; and branch.
        public: visibility of a created repository.

    Raises:
        UserError: if the token is missing or does not permit it, the card is refused, or the network fails.
    """
    require_token(name)
    with _reporting(name):
        from huggingface_hub import CommitOperationAdd

        api = _api()
        api.create_repo(name.repository, private=not public, exist_ok=True)
        operations = [CommitOperationAdd(file.name, file) for file in files]
        message = "Upload a model of streamnest"
        commit = api.create_commit(name.repository, operations, commit_message=message, revision=name.revision)
        return commit.commit_url


def require_token(name: HubName) -> None:
    """Checks that there is a token, whose rights only an upload shows.

    Raises:
        UserError: without a token, or without huggingface_hub.
    """
    with _reporting(name):
        from huggingface_hub import get_token

        if not get_token():
            raise UserError(f"{name} cannot be written without a token: {_LOGIN}, with a token that permits writing")


def _api() -> HfApi:
    from huggingface_hub import HfApi

    return HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, library_name="streamnest")


def _remote_size(api: HfApi, repository: str, file: str, revision: str | None) -> int | None:
    from huggingface_hub import hf_hub_url

    try:
        url = hf_hub_url(repository, file, revision=revision, endpoint=api.endpoint)
        return api.get_hf_file_metadata(url=url).size
    except Exception:  # the download uses its cache, or reports the error
        return None


def _require_size(size: int | None, limit: int, what: str) -> None:
    if size is not None and size > limit:
        raise UserError(f"{what} has {size} bytes, more than the {limit} that a model may have: it is refused")


@contextmanager
def _reporting(name: HubName) -> Iterator[None]:
    """Turns errors of the hub and of the network into user errors with a remedy."""
    try:
        from huggingface_hub import errors
    except ImportError as error:
        raise UserError(
            f"hf:{name} needs huggingface_hub ({error}): run pip install 'streamnest[hub]', or give a path"
        ) from None
    # From special to general: LocalEntryNotFoundError is an EntryNotFoundError, and so on.
    remedies: dict[type[BaseException], str] = {
        errors.GatedRepoError: f"it is gated: accept its conditions on its page, and {_LOGIN}",
        errors.RepositoryNotFoundError: "there is no path and no model of this name that you can read: check the name; "
        f"if it is private, {_LOGIN}",
        errors.RevisionNotFoundError: "it has no such branch, tag or commit: check the revision",
        errors.LocalEntryNotFoundError: "it is not in the cache and cannot be reached: check the network, HF_ENDPOINT "
        "and HF_HUB_OFFLINE, or give a path on this machine",
        errors.EntryNotFoundError: f"it is not a model of streamnest: it must have {CONFIG} and {WEIGHTS}",
    }
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        for kind, remedy in remedies.items():
            if isinstance(error, kind):
                raise UserError(f"{name} on the hub: {remedy}") from None
        raise _unexpected(name, error) from None


def _unexpected(name: HubName, error: Exception) -> Exception:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return UserError(f"{name} on the hub: your token does not permit this (status {status}): {_LOGIN}")
    if type(error).__module__.partition(".")[0] in _NETWORK or isinstance(error, (ConnectionError, TimeoutError)):
        return UserError(f"{name} on the hub: it cannot be reached ({first_line(error)}): check the network")
    if isinstance(error, (OSError, ValueError)):  # no space, a card that is refused, another status
        return UserError(f"{name} on the hub: {' '.join(str(error).split())[:300]}")
    return error
