"""Events of a server as lines of JSON, which never contain audio, results or tokens."""

from __future__ import annotations

import json
import logging
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from streamnest.errors import UserError

_LOG = logging.getLogger("streamnest.serving.events")


def report(event: str, **fields: Any) -> None:
    """Logs an event with its time in UTC."""
    if _LOG.isEnabledFor(logging.INFO):
        time = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        _LOG.info("%s", json.dumps({"time": time, "event": event, **fields}))


def write_events(path: Path | None = None) -> None:
    """Writes events to the end of a file; by default to standard error.

    Raises:
        UserError: if the file cannot be written.
    """
    try:
        handler = logging.FileHandler(path, encoding="utf-8") if path else logging.StreamHandler()
    except OSError as error:
        raise UserError(f"--log {path} cannot be written: {error.strerror}") from None
    handler.setFormatter(logging.Formatter("%(message)s"))
    _LOG.addHandler(handler)
    _LOG.setLevel(logging.INFO)
    _LOG.propagate = False
