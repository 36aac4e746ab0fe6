"""Words of a command line: choices that no group has are refused before anything runs, and paths stay as they are."""

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

from streamnest.console.mistakes import unknown_choice
from streamnest.errors import UserError

# Groups of which Hydra leaves out a choice that it does not find.
_OPTIONAL = ("experiment", "sweep", "debug", "local")
# The one choice that may be absent: what a machine has for itself.
_MAY_BE_ABSENT = ("local", "default")


def override(setting: str, path: str | Path) -> str:
    """A path as an override: quoted where Hydra's grammar would read something else than the path."""
    plain = f"{setting}={path}"
    return plain if _value(plain) == str(path) and "${" not in plain else f"{setting}={_quoted(str(path))}"


def with_paths_quoted(words: Iterable[str]) -> list[str]:
    """The words, with quotes around each value that names a file or folder and that Hydra would misread."""
    pairs = [(word, *word.partition("=")[::2]) for word in words]
    return [override(key, value) if value and _is_there(value) else word for word, key, value in pairs]


def refuse_words(words: Sequence[str], loader: ConfigLoader) -> None:
    """Refuses choices that their group does not have, also of optional groups, which Hydra would leave out.

    Raises:
        UserError: with the nearest choice; or for a group that is dropped.
        HydraException: for words that are not overrides.
    """
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(words))
    groups = {*loader.get_group_options("", ObjectType.GROUP, "train", list(words)), *_OPTIONAL} - {"hydra"}
    for word in parsed:
        if word.key_or_group not in groups:
            continue
        if word.is_delete():
            raise UserError(f"{word.input_line}: a group cannot be dropped: give {word.key_or_group}=CHOICE")
        for choice in _choices(word):
            _refuse(word.key_or_group, choice, loader, words)


def refuse_choices(chosen: Mapping[str, Any], loader: ConfigLoader) -> None:
    """Refuses the same in what a config was composed of, of optional groups: its files choose too.

    Raises:
        UserError: as `refuse_words`.
    """
    for group in _OPTIONAL:
        if chosen.get(group) is not None:
            _refuse(group, str(chosen[group]), loader)


def _choices(word: Override) -> list[str]:
    """The choices of a word; none where it gives values and not a choice.

    Raises:
        UserError: for a pattern that matches nothing.
    """
    if word.is_sweep_override():
        found = [str(choice) for choice in word.sweep_iterator()]
        if not found:
            raise UserError(f"{word.input_line}: matches no choice of {word.key_or_group}")
        return found
    value = word.value()
    if isinstance(value, dict):
        return []
    if value == []:
        return [""]
    return [str(choice) for choice in value] if isinstance(value, list) else ["null" if value is None else str(value)]


def _refuse(group: str, choice: str, loader: ConfigLoader, words: Sequence[str] = ()) -> None:
    if (group, choice) == _MAY_BE_ABSENT:
        return
    folder, _, name = choice.rpartition("/")
    known = loader.get_group_options(posixpath.join(group, folder), ObjectType.CONFIG, "train", list(words))
    if name not in known or name.startswith("base_") or ".." in folder:
        raise UserError(unknown_choice(group, choice, known))


def _is_there(value: str) -> bool:
    try:
        return Path(value).exists()
    except (OSError, ValueError):  # too long for a path, or with a null character
        return False


def _value(word: str) -> Any:
    """The value that Hydra reads in a word; None where it cannot read it."""
    try:
        parsed = OverridesParser.create().parse_override(word)
    except HydraException:
        return None
    return None if parsed.is_sweep_override() or isinstance(parsed._value, QuotedString) else parsed.value()


def _quoted(path: str) -> str:
    # "${" would be an interpolation, in quotes too; backslashes before it count in pairs.
    escaped = re.sub(r"(\\*)\$\{", r"\1\1\\${", path)
    quoted: str = QuotedString(escaped, Quote.double).with_quotes()
    return quoted
