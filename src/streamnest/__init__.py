"""Self-supervised pretraining of streaming speech encoders with certified look-ahead."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamnest.checkpoint.hub import from_pretrained, push_to_hub, save_pretrained
    from streamnest.config.stored import allow_class
    from streamnest.streaming.session import StreamingSession

__version__ = "0.1.0"
__all__ = ["StreamingSession", "allow_class", "from_pretrained", "push_to_hub", "save_pretrained"]
_MODULES = {
    "StreamingSession": "streamnest.streaming.session",
    "allow_class": "streamnest.config.stored",
    "from_pretrained": "streamnest.checkpoint.hub",
    "push_to_hub": "streamnest.checkpoint.hub",
    "save_pretrained": "streamnest.checkpoint.hub",
}


def __getattr__(name: str) -> Any:
    """Imports the public names on first access, because they need torch."""
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
