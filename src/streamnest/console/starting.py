"""Imported first by commands: what has to be set before slow imports.

Ctrl-C during them prints one line and ends the command with status 130.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

# Beginning of the command, for the time until its first step.
BEGAN = time.monotonic()
# How often a waiting thread spins before it sleeps; torch reads it when it is imported. With the default of OpenMP, a
# run with two threads almost stops while other processes use both cores.
_SPINS = "1000"


def _limit_spinning() -> None:
    """Limits spinning, unless the user has chosen a policy."""
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ):
        os.environ["GOMP_SPINCOUNT"] = _SPINS


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


_limit_spinning()
if (
    _is_command()
    and threading.current_thread() is threading.main_thread()
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
):
    signal.signal(signal.SIGINT, _stop)
