"""Secrets in URLs: refused on the command line and in configs, and removed from messages.

A command line or a config is copied to `.hydra/`, logs, W&B and shell histories. A password in it is therefore refused
before anything is written. Messages of libraries may contain URLs from elsewhere; their secrets are redacted.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from streamnest.errors import UserError

_HIDDEN = "***"
# A name and a password before the host. A number after the colon is a port; `abfs://container@account` has no password.
_USER = re.compile(r"(?<=://)(?!\[)(?:[^/\s@,'\"]*:(?!\d{1,5}(?:[/?#,\]}'\"]|$))[^\s'\"]*@)")
_TOKEN_USER = re.compile(r"(?<=http://)[^/\s@?#:,'\"]+@|(?<=https://)[^/\s@?#:,'\"]+@", re.IGNORECASE)
_URL = re.compile(r"://[^\s'\"]+")
_QUERY = re.compile(
    r"([?&;#](?:[^=&;]*(?:sig|token|secret|passw|pwd|credential|auth|key)[^=&;]*|pass|pw|pat|sas)=)[^&;]+",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """Hides user names, passwords and signatures in the URLs of a text."""
    text = _TOKEN_USER.sub(f"{_HIDDEN}@", _USER.sub(f"{_HIDDEN}@", text))
    return _URL.sub(lambda url: _QUERY.sub(rf"\g<1>{_HIDDEN}", url.group()), text)


def refuse_secrets(text: str, place: str = "") -> None:
    """Raises UserError for a text with a password, key or signature in a URL; the message does not repeat it.

    Args:
        text: argument of a command line, value of a config, or location of a store.
        place: name of the setting; empty if the text contains it.
    """
    if (hidden := redact(text)) != text:
        raise UserError(
            f"{place and place + ': '}{hidden}: a password, key or signature in a URL would be stored with the run; "
            "leave it out, and set AWS_PROFILE, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "GOOGLE_APPLICATION_CREDENTIALS or, for other stores, variables such as FSSPEC_HTTPS (docs/SHARDS.md)"
        )


def refuse_secrets_in(values: Any, place: str = "") -> None:
    """Raises UserError as `refuse_secrets`, for every text in plain containers."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            refuse_secrets(str(key), place)
            refuse_secrets_in(value, f"{place}.{key}" if place else str(key))
    elif isinstance(values, str):
        refuse_secrets(values, place)
    elif isinstance(values, Iterable):
        for value in values:
            refuse_secrets_in(value, place)


class RefuseSecrets(Callback):
    """Hydra callback that ends a command with secrets in its config with status 2, before Hydra makes a folder."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Checks the arguments of the command line and all values, unresolved."""
        values: Any = OmegaConf.to_container(config, resolve=False)
        try:
            # First the arguments as they were given, which contain the name of the setting.
            refuse_secrets_in(values["hydra"]["overrides"]["task"])
            refuse_secrets_in(values)
        except UserError as error:
            print(error, file=sys.stderr)
            # Hydra turns exceptions of callbacks into warnings.
            sys.exit(2)

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Checks all jobs of a multirun."""
        self.on_run_start(config)


class Redacting(logging.Filter):
    """Removes secrets in URLs from the log records of all libraries."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Passes every record, redacted if necessary."""
        message = record.getMessage()
        if "://" in message and (hidden := redact(message)) != message:
            record.msg, record.args = hidden, ()
        return True
