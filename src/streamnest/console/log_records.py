"""Handlers of log records: the terminal, with errors on standard error, and the log file of a run."""

from __future__ import annotations

import logging
import sys
from time import localtime, strftime

import rich
from rich.console import Console
from rich.text import Text


class TerminalHandler(logging.Handler):
    """Prints time, level and message on one line of any length, so that paths and commands can be copied.

    Errors go to standard error, all other records to the console of the progress bar.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Prints a record."""
        try:
            console = Console(stderr=True) if record.levelno >= logging.ERROR else rich.get_console()
            level = (f"{record.levelname:<8}", f"logging.level.{record.levelname.lower()}")
            time = (strftime("%H:%M:%S", localtime(record.created)), "log.time")
            console.print(Text.assemble(time, " ", level, " ", self.format(record)), soft_wrap=True)
        except Exception:
            self.handleError(record)


class LogFile(logging.FileHandler):
    """A log file that stops, with one line on standard error, when it cannot be written to."""

    _failed = False

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a record; the folder of a refused run may have been removed."""
        try:
            super().emit(record)
        except FileNotFoundError:
            return
        except OSError:
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Reports the first failure, such as a full disk; the run continues without the file."""
        if not self._failed:
            self._failed = True
            print(f"{self.baseFilename} cannot be written to: {sys.exc_info()[1]}; the run continues", file=sys.stderr)
