"""The frame of panels, and the panels of the config and of transferred weights."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import rich
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from rich.console import Console, Group
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from streamnest.checkpoint.transfer_report import TransferReport
from streamnest.console.terminal import plain, printable, printable_lines

_WIDTH = 110
# Reasons that are listed for an outcome, and tensors for a reason.
_MOST = 6
_BOLD = ("look-ahead", "latency", "below baseline")
Row = tuple[str, str]


@rank_zero_only
def show(panel: Group, console: Console | None = None) -> None:
    """Prints a panel, once for all processes.

    Piped output is wider than rich's 80 columns, so that paths and commands stay on one line.
    """
    console = console or rich.get_console()
    if not console.is_terminal:
        console = Console(file=console.file, width=_WIDTH)
    console.print(panel, width=_WIDTH, crop=False)


def panel(title: str, sections: list[list[Row]], commands: list[Row] | None = None) -> Group:
    """Frames rows of a name and a value.

    Args:
        title: title of the panel.
        sections: rows, with an empty line between sections.
        commands: commands with their names, printed below the frame.
    """
    table = Table.grid(padding=(0, 2))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for number, rows in enumerate(section for section in sections if section):
        if number:
            table.add_row()
        for name, value in rows:
            table.add_row(plain(name), plain(value, "bold" if name in _BOLD else ""))
    parts: list[Any] = [Panel(table, title=plain(title, "bold"), title_align="left", border_style="cyan")]
    # Outside the frame, so that they can be copied.
    for name, command in commands or []:
        parts += [Text(f"{name}:", style="cyan"), Text(f"  {printable(command)}", no_wrap=True, overflow="ignore")]
    return Group(*parts)


def short_path(path: Path) -> Path:
    """Returns the path relative to the working folder, if it lies in it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def config_panel(cfg: DictConfig) -> Group:
    """Shows the composed config as YAML, resolved."""
    shown = OmegaConf.to_yaml(cfg, resolve=True)
    return Group(Syntax(printable_lines(shown), "yaml", theme="ansi_dark", background_color="default", word_wrap=True))


def transfer_panel(transferred: TransferReport) -> Group:
    """Lists the tensors that a run initializes from a checkpoint, and the others, with a line for each reason."""
    changed = ", ".join(f"{name} {then} -> {now}" for name, then, now in transferred.differences)
    sections = [[("weights from", str(short_path(transferred.source))), ("architecture", changed or "the same")]]
    for outcome, number in transferred.counts.items():
        reasons = sorted(transferred.grouped(outcome).items(), key=lambda item: -item[1].total())
        rows = [(outcome, f"{number} tensors")]
        rows += [("", f"{names.total()}: {reason}{_named(reason, names)}") for reason, names in reasons[:_MOST]]
        left = sum(names.total() for _, names in reasons[_MOST:])
        sections.append(rows + ([("", f"{left}: other reasons")] if left else []))
    return panel("initialized from a checkpoint", sections)


def _named(reason: str, names: Counter[str]) -> str:
    """Names the tensors of a reason, except of the one that explains itself."""
    if reason == "same name and shape":
        return ""
    shown = [name.removeprefix("encoder.") for name in list(names)[:_MOST]]
    return f" ({', '.join(shown)}{', ...' if len(names) > _MOST else ''})"
