"""Common parts of all commands: errors of users, exit statuses, and commands that are printed to be copied."""

from __future__ import annotations

import functools
import logging
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import ParamSpec

from hydra.core.hydra_config import HydraConfig

from streamnest.console.overrides import override
from streamnest.console.redaction import redact, refuse_secrets_in
from streamnest.console.terminal import PlainFormatter, printable_lines
from streamnest.console.user_errors import as_user_errors
from streamnest.errors import UserError
from streamnest.locations import train_command

P = ParamSpec("P")

INTERRUPTED = 128 + signal.SIGINT
# Exit status after SIGTERM or SIGUSR1, as in sysexits.h: the same command continues the run.
PREEMPTED = os.EX_TEMPFAIL
# The checkpoint of a continued run replaces the one that it was initialized from.
_REPLACED = ("ckpt_path=", "init_from=")
_LENGTHS = ("trainer.max_steps=", "trainer.max_audio_hours=")


def without_trace(main: Callable[P, int]) -> Callable[P, int]:
    """Wraps a command line: a user error is printed to standard error, without a trace, and ends it with status 2.

    Ctrl-C ends it with a line and status 130. It ends silently if its output is closed, as by `head`.
    """

    @functools.wraps(main)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> int:
        _let_ctrl_c_interrupt()
        _escape_unknown_letters()
        _print_plain_warnings()
        try:
            with as_user_errors():
                refuse_secrets_in(sys.argv[1:])
                status = main(*args, **kwargs)
                sys.stdout.flush()
            return status
        except UserError as error:
            print(redact(printable_lines(error)), file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("stopped by Ctrl-C", file=sys.stderr)
            return INTERRUPTED
        except BrokenPipeError:
            # Python writes the rest of the buffer on exit, which would fail once more.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 128 + signal.SIGPIPE

    return wrapped


def status_of(done: int, skipped: int) -> int:
    """Returns the exit status of a command over files: 0 if none was skipped, 1 if some were, 2 if all were."""
    return 0 if not skipped else 1 if done else 2


def continue_command(checkpoint: str | Path, length: str | None = None) -> str:
    """Returns the command that continues this run.

    Args:
        checkpoint: checkpoint to continue from, added to the overrides of this run.
        length: override that makes the run longer, such as `trainer.max_steps=40`; None for the same length.
    """
    given = list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
    replaced = _REPLACED if length is None else (*_REPLACED, *_LENGTHS)
    overrides = [one for one in given if not one.lstrip("+").startswith(replaced)]
    overrides.append(override("ckpt_path", checkpoint))
    overrides += [] if length is None else [length]
    return f"{train_command()} " + " ".join(map(shlex.quote, overrides))


def sync_command(run_dir: str | Path) -> str:
    """Returns the command that uploads a W&B run that was logged offline."""
    return f"wandb sync {shlex.quote(str(run_dir))}"


def _escape_unknown_letters() -> None:
    """Prints letters that the terminal cannot encode as escapes, instead of raising an error."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def _print_plain_warnings() -> None:
    """Prints warnings of commands that do not set up logging without their level and the name of the logger."""
    # Lhotse logs while it is imported, which makes `logging` install a handler with its own format.
    installed = [handler for handler in logging.getLogger().handlers if type(handler) is logging.StreamHandler]
    for handler in (logging.lastResort, *installed):
        if handler is not None:
            handler.setFormatter(PlainFormatter())


def _let_ctrl_c_interrupt() -> None:
    """Restores Python's handler of Ctrl-C, so that open files are closed."""
    if threading.current_thread() is threading.main_thread() and callable(signal.getsignal(signal.SIGINT)):
        signal.signal(signal.SIGINT, signal.default_int_handler)
