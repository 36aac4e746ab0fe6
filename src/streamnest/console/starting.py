"""Imported first by commands, so that Ctrl-C during slow imports prints one line and ends them with status 130."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType


def _stop(number: int, frame: FrameType | None) -> None:
    sys.stderr.write("stopped by Ctrl-C\n")
    # Immediately, because a library that is being imported may catch an exception.
    os._exit(128 + number)


def _is_command() -> bool:
    """True if this process runs a command of the repository; false in a test that imports one."""
    if multiprocessing.parent_process() is not None:
        return False  # a process started by a command, which prints the line itself
    script = Path(getattr(sys.modules["__main__"], "__file__", None) or "")
    commands = ("train.py", "streamnest", "__main__.py")
    return script.name in commands or script.parent.name in ("scripts", "benchmarks", "tools")


if (
    _is_command()
    and threading.current_thread() is threading.main_thread()
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
):
    signal.signal(signal.SIGINT, _stop)
