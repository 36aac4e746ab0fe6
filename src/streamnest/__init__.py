"""Self-supervised pretraining of streaming speech encoders, with their look-ahead proved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamnest.checkpoint.hub import from_pretrained, save_pretrained
    from streamnest.config.stored import allow_class

__version__ = "0.1.0"
__all__ = ["allow_class", "from_pretrained", "save_pretrained"]


def __getattr__(name: str) -> Any:
    """Imports what needs torch when it is asked for."""
    if name in __all__:
        from streamnest.checkpoint import hub as pretrained
        from streamnest.config import stored as stored_config

        return getattr(stored_config if name == "allow_class" else pretrained, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
