"""Prints untrusted text safely: names of files and speakers, ids, transcripts, and messages that contain them.

Such a text must neither be interpreted as markup nor control the terminal.
"""

from __future__ import annotations

import logging
import sys
import unicodedata
from typing import Any

from rich.console import Console
from rich.text import Text

# Joiners that several languages and emoji need.
_JOINERS = "\u200c\u200d"


def printable(text: object) -> str:
    r"""Returns a text on one line; control characters, line separators and marks of direction become escapes.

    Examples of escapes: `\x1b`, `\n`, `\u202e`.
    """
    raw = str(text)
    return raw if raw.isprintable() else "".join(map(_escaped, raw))


def printable_lines(text: object) -> str:
    """Applies `printable` to each line of a text."""
    return "\n".join(map(printable, str(text).split("\n")))


def caption(text: object) -> str:
    """Returns a printable text for a figure, in which dollar signs do not start a formula."""
    return printable_lines(text).replace("$", r"\$")


def plain(text: object, style: str = "") -> Text:
    """Returns a printable text for a table or a panel, in which brackets and colons have no special meaning."""
    return Text(printable_lines(text), style=style)


def terminal(width: int | None = None, stderr: bool = False, **options: Any) -> Terminal:
    """Returns the console of a command.

    Args:
        width: number of columns if the output is not a terminal; None is the default of rich.
        stderr: print to standard error.
        options: further arguments of `rich.console.Console`.
    """
    stream = sys.stderr if stderr else sys.stdout
    return Terminal(width=None if stream.isatty() else width, stderr=stderr, **options)


class Terminal(Console):
    """A console that prints every string as `plain` does, in tables, titles and messages; styles need a `Text`."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Turns a string into a text without markup."""
        return super().render_str(printable_lines(text), **{**options, "markup": False, "emoji": False})


class PlainFormatter(logging.Formatter):
    """Formats log records as printable lines."""

    def format(self, record: logging.LogRecord) -> str:
        """Formats a record."""
        return printable_lines(super().format(record))


def _escaped(character: str) -> str:
    if character.isprintable() or character in _JOINERS or unicodedata.category(character) == "Zs":
        return character
    return character.encode("unicode_escape").decode()
