"""Access to a NeMo config key by key; keys that were not read are reported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streamnest.checkpoint.transfer_report import TransferReport
from streamnest.errors import UserError


class ConfigSection:
    """A section of a config; records which of its keys were read.

    Args:
        name: name of the section in messages.
        values: content of the section; None if it is empty.

    Raises:
        UserError: if the content is not a mapping.
    """

    def __init__(self, name: str, values: Any) -> None:
        if values is not None and not isinstance(values, Mapping):
            raise UserError(f"{name}={values!r} in the archive must be a mapping")
        self.name, self._values = name, dict(values or {})
        self._read: set[str] = {"_target_"}

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def get(self, key: str, default: Any = None) -> Any:
        """Returns the value of a key, or the default if it is missing.

        Raises:
            UserError: for a reference to another key, since NeMo saves configs with references resolved.
        """
        self._read.add(key)
        value = self._values.get(key, default)
        if isinstance(value, str) and "${" in value:
            raise UserError(
                f"{self.name}.{key}={value} in the archive is a reference: save the config with references resolved"
            )
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Returns a number; YAML parses some, such as 1e-5, as text."""
        value = self.get(key, default)
        try:
            return float(value)
        except (TypeError, ValueError):
            raise self.unsupported(key, value, "a number") from None

    def whole(self, key: str, default: int | None = None) -> int:
        """Returns a whole number."""
        value = self.number(key, default)
        if value != int(value):
            raise self.unsupported(key, value, "a whole number")
        return int(value)

    def flag(self, key: str, default: bool) -> bool:
        """Returns a boolean."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise self.unsupported(key, value, "true or false")
        return value

    def require(self, key: str, default: Any, *supported: Any) -> Any:
        """Returns the value of a key of which only some values are supported.

        Raises:
            UserError: naming the key, its value and the supported values.
        """
        value = self.get(key, default)
        if value not in supported:
            raise self.unsupported(key, value, " or ".join(repr(one) for one in supported))
        return value

    def require_class(self, name: str) -> None:
        """Refuses a section of another class, which may have the same keys but another computation."""
        actual = str(self.get("_target_", "missing")).rpartition(".")[2]
        if actual != name:
            raise UserError(f"{self.name}._target_={actual} in the archive is not supported: it must be {name}")

    def unsupported(self, key: str, value: Any, supported: str) -> UserError:
        """Returns the error for a value that is not supported."""
        return UserError(f"{self.name}.{key}={value!r} in the archive is not supported: it must be {supported}")

    def unread(self) -> dict[str, Any]:
        """Returns the keys that were not read, with their values."""
        return {str(key): value for key, value in self._values.items() if key not in self._read}


def report_unread(section: ConfigSection, report: TransferReport) -> None:
    """Reports the keys of a section that were not read."""
    for key, value in section.unread().items():
        report.add("left out", f"{section.name}.{key}", f"unknown key ({str(value)[:40]})")
