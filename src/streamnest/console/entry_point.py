"""What command lines have in common, and commands to hand to the user, ready to be copied."""

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

from streamnest.console.mistakes import as_user_errors
from streamnest.console.overrides import override
from streamnest.console.redaction import redact, refuse_secrets_in
from streamnest.console.terminal import PlainFormatter, printable_lines
from streamnest.errors import UserError
from streamnest.locations import train_command

P = ParamSpec("P")

INTERRUPTED = 128 + signal.SIGINT
# A continued run began from `init_from` once; its own checkpoint takes the place of that.
_REPLACED = ("ckpt_path=", "init_from=", "trainer.max_steps=")


def without_trace(main: Callable[P, int]) -> Callable[P, int]:
    """A command line that prints a user's mistake to the standard error and returns 2, as `train.py` does.

    Ctrl-C ends it with a line and status 130. It ends without a word where its output is read no further, as by `head`.
    """

    @functools.wraps(main)
    def told(*args: P.args, **kwargs: P.kwargs) -> int:
        _let_ctrl_c_interrupt()
        _print_any_letter()
        # It prints warnings of a command that sets up no logging.
        logging.lastResort.setFormatter(PlainFormatter())  # type: ignore[union-attr]
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
            # What is left in the buffer would fail once more as Python ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 128 + signal.SIGPIPE

    return told


def status_of(done: int, skipped: int) -> int:
    """The exit status of a command over files: 0 if all were done, 1 if some were skipped, 2 if all were."""
    return 0 if not skipped else 1 if done else 2


def continue_command(checkpoint: str | Path, max_steps: int | None = None) -> str:
    """The command that continues this run: its overrides, the checkpoint, and more steps where given."""
    given = list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
    replaced = _REPLACED if max_steps else _REPLACED[:2]
    words = [word for word in given if not word.lstrip("+").startswith(replaced)]
    words.append(override("ckpt_path", checkpoint))
    words += [f"trainer.max_steps={max_steps}"] if max_steps else []
    return f"{train_command()} " + " ".join(shlex.quote(word) for word in words)


def sync_command(run_dir: str | Path) -> str:
    """The command that uploads a W&B run that was logged offline."""
    return f"wandb sync {shlex.quote(str(run_dir))}"


def _print_any_letter() -> None:
    """Lets names in letters that the terminal does not have be printed with escapes, and not end the command."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def _let_ctrl_c_interrupt() -> None:
    """Restores Python's handler of Ctrl-C, so that open files are closed on the way out."""
    if threading.current_thread() is threading.main_thread() and callable(signal.getsignal(signal.SIGINT)):
        signal.signal(signal.SIGINT, signal.default_int_handler)
