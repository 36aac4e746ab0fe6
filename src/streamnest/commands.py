"""What command lines have in common, and commands to hand to the user, ready to be copied."""

from __future__ import annotations

import functools
import io
import logging
import os
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException

from streamnest.errors import UserError
from streamnest.redaction import redact, refuse_secrets_in
from streamnest.terminal import PlainFormatter, printable_lines

P = ParamSpec("P")

# A continued run began from `init_from` once; its own checkpoint takes the place of that.
_REPLACED = ("ckpt_path=", "init_from=", "trainer.max_steps=")


def without_trace(main: Callable[P, int]) -> Callable[P, int]:
    """A command line that tells a user's mistake on the standard error and returns 2, as `train.py` does.

    It ends without a word where its output is read no further, as by `head`.
    """

    @functools.wraps(main)
    def told(*args: P.args, **kwargs: P.kwargs) -> int:
        _print_anything()
        # It prints warnings of a command that sets up no logging.
        logging.lastResort.setFormatter(PlainFormatter())  # type: ignore[union-attr]
        try:
            refuse_secrets_in(sys.argv[1:])
            status = main(*args, **kwargs)
            sys.stdout.flush()
            return status
        except (UserError, HydraException) as error:
            print(redact(printable_lines(error)), file=sys.stderr)
            return 2
        except BrokenPipeError:
            # What is left in the buffer would fail once more as Python ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 128 + signal.SIGPIPE

    return told


def _print_anything() -> None:
    """Lets a terminal or pipe that is not in UTF-8 have escapes in the place of characters that it lacks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


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
    return "python train.py " + " ".join(shlex.quote(word) for word in words)


def override(setting: str, path: str | Path) -> str:
    """A path as an override: Hydra's grammar gives "=" and the like a meaning, quotes make a path just a path."""
    path = str(path)
    return f"{setting}={path}" if not set(path) & set("=,'{}[]() ") else f'{setting}="{path}"'


def sync_command(run_dir: str | Path) -> str:
    """The command that uploads a W&B run that was logged offline."""
    return f"wandb sync {shlex.quote(str(run_dir))}"
