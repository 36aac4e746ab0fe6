"""Command-line parser of all commands. Importing it is cheap, so that `--help` and typing errors answer at once."""

from __future__ import annotations

import argparse
import difflib
import re
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from streamnest.console.option_types import FINITE, WHOLE, Number, output_file, output_folder, output_plot

_WIDEST = 100
_METAVARS: dict[Any, str] = {
    int: "N",
    float: "X",
    **dict.fromkeys((Path, output_file, output_folder, output_plot), "PATH"),
}
# argparse takes a word such as -1e-5 for an option.
_NEGATIVE = re.compile(r"-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$|-(inf|nan)$", re.IGNORECASE)


class ArgumentParser(argparse.ArgumentParser):
    """Parser whose help shows defaults and fits the terminal, and whose errors name the nearest option.

    Options are declared with dashes. Underscores are accepted as well (`--chunk_size`), and so are former names.

    Args:
        prog: command as the user types it.
        description: text of the help page; paragraphs are wrapped, indented lines stay as they are.
        former: today's option by its former name.
    """

    def __init__(self, prog: str, description: str | None, former: Mapping[str, str] | None = None) -> None:
        super().__init__(prog, description=description, formatter_class=_HelpFormatter, allow_abbrev=False)
        self.former = dict(former or {})
        # Numbers of options that declare no range are finite, and whole numbers are of 32 bits.
        self.register("type", float, FINITE)
        self.register("type", int, WHOLE)
        self._negative_number_matcher = _NEGATIVE

    def parse(self, argv: Sequence[str] | None = None) -> argparse.Namespace:
        """Parses a command line, in which positional arguments may also follow options; exits with 2 on an error."""
        words = self._renamed(sys.argv[1:] if argv is None else argv)
        args, rest = self.parse_known_intermixed_args(words)
        if rest:
            self.error(self._unknown(rest))
        return args

    def require(self, args: argparse.Namespace, *options: str, needs: str) -> None:
        """Refuses options that have no effect without another one.

        Args:
            args: parsed arguments.
            options: destinations of the options.
            needs: destination of the other option.
        """
        for name in options:
            if getattr(args, name) != self.get_default(name) and not getattr(args, needs):
                self.error(
                    f"{_spelled(name)} has no effect without {_spelled(needs)}: add it, or leave {_spelled(name)} out"
                )

    def error(self, message: str) -> NoReturn:
        """Prints one sentence, without control characters and secrets, and exits with status 2."""
        from streamnest.console.redaction import redact
        from streamnest.console.terminal import printable

        self.exit(2, f"{self.prog}: {printable(redact(message))}; {self.prog} --help lists the arguments\n")

    def _renamed(self, argv: Sequence[str]) -> list[str]:
        """Replaces former option names by today's; everything after `--` stays."""
        end = argv.index("--") if "--" in argv else len(argv)
        return [self._today(word) if word.startswith("--") else word for word in argv[:end]] + list(argv[end:])

    def _today(self, word: str) -> str:
        name, equals, value = word.partition("=")
        dashed = name.replace("_", "-")
        name = self.former.get(dashed, dashed if dashed in self._option_string_actions else name)
        return name + equals + value

    def _unknown(self, words: Sequence[str]) -> str:
        option = next((word.partition("=")[0] for word in words if word.startswith("-")), None)
        if option is None:
            return f"unexpected arguments: {' '.join(words)}"
        shown = [name for name, action in self._option_string_actions.items() if action.help is not argparse.SUPPRESS]
        near = difflib.get_close_matches(option.replace("_", "-"), shown, 1, 0.5)
        return f"there is no option {option}" + (f": did you mean {near[0]}?" if near else "")


def _spelled(destination: str) -> str:
    return f"--{destination.replace('_', '-')}"


class _HelpFormatter(argparse.HelpFormatter):
    """Wraps paragraphs to the terminal and adds each default."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=min(_WIDEST, shutil.get_terminal_size().columns))

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.strip().split("\n\n")
        wrapper = textwrap.TextWrapper(width, break_on_hyphens=False)
        filled = [part if part.startswith(" ") else wrapper.fill(part) for part in paragraphs]
        return textwrap.indent("\n\n".join(filled), indent)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(text, width, break_on_hyphens=False)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text, default = action.help, action.default
        # Not `default in (..., False)`: a default of 0 equals False.
        if not text or "default" in text or default is False or default in (None, argparse.SUPPRESS, []):
            return text
        several = isinstance(default, (list, tuple))
        shown = " ".join(map(str, default)).replace("%", "%%") if several else "%(default)s"
        return f"{text[:-1]}; default: {shown})" if text.endswith(")") else f"{text} (default: {shown})"

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        kind = action.type.kind if isinstance(action.type, Number) else action.type
        return _METAVARS.get(kind, action.dest.rpartition("_")[2].upper())
