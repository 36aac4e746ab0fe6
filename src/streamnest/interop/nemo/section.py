"""Reading a NeMo config key by key: nothing is passed over in silence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streamnest.errors import UserError
from streamnest.interop.ledger import Ledger


class Section:
    """One node of a config; remembers which of its keys were asked for.

    Args:
        name: of the node, for messages.
        values: its content; None is empty.

    Raises:
        UserError: when it is no mapping.
    """

    def __init__(self, name: str, values: Any) -> None:
        if values is not None and not isinstance(values, Mapping):
            raise UserError(f"{name}={values!r} in the archive is no mapping")
        self.name, self._values = name, dict(values or {})
        self._asked: set[str] = {"_target_"}

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key; the default where there is none.

        Raises:
            UserError: for a reference to another key: NeMo writes configs with all of them resolved.
        """
        self._asked.add(key)
        value = self._values.get(key, default)
        if isinstance(value, str) and "${" in value:
            raise UserError(
                f"{self.name}.{key}={value} in the archive is a reference: save it with references resolved"
            )
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A number; YAML reads some, such as 1e-5, as text."""
        value = self.get(key, default)
        try:
            return float(value)
        except (TypeError, ValueError):
            raise self.unsupported(key, value, "a number") from None

    def whole(self, key: str, default: int | None = None) -> int:
        """A whole number."""
        value = self.number(key, default)
        if value != int(value):
            raise self.unsupported(key, value, "a whole number")
        return int(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise self.unsupported(key, value, "true or false")
        return value

    def require(self, key: str, default: Any, *supported: Any) -> Any:
        """The value of a key of which only some values can be carried over.

        Raises:
            UserError: naming the key, its value and what is supported.
        """
        value = self.get(key, default)
        if value not in supported:
            raise self.unsupported(key, value, " or ".join(repr(one) for one in supported))
        return value

    def require_class(self, name: str) -> None:
        """Refuses a node that builds another class; others of the same keys compute something else."""
        found = str(self.get("_target_", "nothing")).rpartition(".")[2]
        if found != name:
            raise UserError(f"{self.name} in the archive is a {found}: supported is {name}")

    def unsupported(self, key: str, value: Any, supported: str) -> UserError:
        """The error that says so."""
        return UserError(f"{self.name}.{key}={value!r} in the archive cannot be imported: supported is {supported}")

    def unasked(self) -> dict[str, Any]:
        """What nothing asked for."""
        return {str(key): value for key, value in self._values.items() if key not in self._asked}


def note_unasked(section: Section, ledger: Ledger) -> None:
    """Tells of the keys of a section that nothing here knows."""
    for key, value in section.unasked().items():
        ledger.add("left out", f"{section.name}.{key}", f"unknown here ({str(value)[:40]})")
