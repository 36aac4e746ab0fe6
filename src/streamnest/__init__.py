"""Self-supervised pretraining of streaming speech encoders, with their look-ahead proved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamnest.pretrained import from_pretrained, save_pretrained

__version__ = "0.1.0"
__all__ = ["from_pretrained", "save_pretrained"]


def __getattr__(name: str) -> Any:
    """Imports what needs torch when it is asked for."""
    if name in __all__:
        from streamnest import pretrained

        return getattr(pretrained, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
