"""Overrides of a command line: unknown choices are refused before anything runs, and paths are quoted for Hydra."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from streamnest.console.user_errors import unknown_choice
from streamnest.errors import UserError

# Groups whose unknown choices Hydra ignores.
_OPTIONAL = ("experiment", "sweep", "debug", "local")
# The one choice whose file may be missing: settings of this machine.
_MAY_BE_ABSENT = ("local", "default")


def override(setting: str, path: str | Path) -> str:
    """Returns a path as an override, quoted if Hydra's grammar would not read it as the path."""
    plain = f"{setting}={path}"
    return plain if _value(plain) == str(path) and "${" not in plain else f"{setting}={_quoted(str(path))}"


def with_paths_quoted(overrides: Iterable[str]) -> list[str]:
    """Quotes each value that names an existing file or folder and that Hydra would misread."""
    pairs = [(one, *one.partition("=")[::2]) for one in overrides]
    return [override(key, value) if value and _exists(value) else one for one, key, value in pairs]


def refuse_overrides(overrides: Sequence[str], loader: ConfigLoader) -> None:
    """Refuses choices that their group does not have, also of optional groups, whose unknown choices Hydra ignores.

    Raises:
        UserError: with the most similar choice; or for a group that is dropped.
        HydraException: for arguments that are not overrides.
    """
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(overrides))
    groups = {*loader.get_group_options("", ObjectType.GROUP, "train", list(overrides)), *_OPTIONAL} - {"hydra"}
    for one in parsed:
        if one.key_or_group not in groups:
            continue
        if one.is_delete():
            raise UserError(f"{one.input_line}: a group cannot be dropped: give {one.key_or_group}=CHOICE")
        for choice in _choices(one):
            _refuse(one.key_or_group, choice, loader, overrides)


def refuse_choices(chosen: Mapping[str, Any], loader: ConfigLoader) -> None:
    """Refuses unknown choices of optional groups in a composed config, because files choose them as well.

    Raises:
        UserError: as `refuse_overrides`.
    """
    for group in _OPTIONAL:
        if chosen.get(group) is not None:
            _refuse(group, str(chosen[group]), loader)


def _choices(one: Override) -> list[str]:
    """Returns the choices of an override; none if it sets values of the group.

    Raises:
        UserError: for a pattern that matches no choice.
    """
    if one.is_sweep_override():
        choices = [str(choice) for choice in one.sweep_iterator()]
        if not choices:
            raise UserError(f"{one.input_line}: matches no choice of {one.key_or_group}")
        return choices
    value = one.value()
    if isinstance(value, dict):
        return []
    if value == []:
        return [""]
    return [str(choice) for choice in value] if isinstance(value, list) else ["null" if value is None else str(value)]


def _refuse(group: str, choice: str, loader: ConfigLoader, overrides: Sequence[str] = ()) -> None:
    if (group, choice) == _MAY_BE_ABSENT:
        return
    folder, _, name = choice.rpartition("/")
    known = loader.get_group_options(posixpath.join(group, folder), ObjectType.CONFIG, "train", list(overrides))
    if name not in known or name.startswith("base_") or ".." in folder:
        raise UserError(unknown_choice(group, choice, known))


def _exists(value: str) -> bool:
    try:
        return Path(value).exists()
    except (OSError, ValueError):  # too long for a path, or with a null character
        return False


def _value(text: str) -> Any:
    """Returns the value that Hydra parses in an override; None if it cannot parse it."""
    try:
        parsed = OverridesParser.create().parse_override(text)
    except HydraException:
        return None
    return None if parsed.is_sweep_override() or isinstance(parsed._value, QuotedString) else parsed.value()


def _quoted(path: str) -> str:
    # "${" is an interpolation in quotes as well; backslashes before it count in pairs.
    escaped = re.sub(r"(\\*)\$\{", r"\1\1\\${", path)
    quoted: str = QuotedString(escaped, Quote.double).with_quotes()
    return quoted
