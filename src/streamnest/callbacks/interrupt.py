"""Ctrl-C and preemption that lose nothing."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
import rich
from lightning import Callback
from lightning.pytorch.trainer.states import TrainerFn

from streamnest.console.entry_point import INTERRUPTED, PREEMPTED, continue_command
from streamnest.console.terminal import plain

log = logging.getLogger(__name__)

# SIGUSR1 is what SLURM sends ahead of a time limit (--signal).
_PREEMPTING = (signal.SIGTERM, signal.SIGUSR1)


def exit_on_signals_before_training() -> None:
    """While a run starts up there is nothing to save: SIGTERM and SIGUSR1 end it with the status to try again.

    Ctrl-C ends it with a line and status 130, and not as Lightning does.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in _PREEMPTING:
        signal.signal(number, lambda *_: sys.exit(PREEMPTED))
    own = os.getpid()

    def exit_on_ctrl_c(number: int, frame: FrameType | None) -> None:
        if os.getpid() != own:
            return  # a process that loads data: this one ends it
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # once: what is open is being closed
        print("stopped by Ctrl-C", file=sys.stderr)
        sys.exit(INTERRUPTED)

    signal.signal(signal.SIGINT, exit_on_ctrl_c)


class StopOnSignal(Callback):
    """On Ctrl-C, SIGTERM or SIGUSR1 finishes the step, saves `last.ckpt`, says how to continue, and ends in good order.

    A second Ctrl-C ends the process at once; a second SIGTERM or SIGUSR1 does not, as launchers pass on to their
    processes what those have received already. Handlers are installed while training only, in the main thread only, and
    the earlier ones are put back.

    Args:
        dirpath: where `last.ckpt` goes.
    """

    def __init__(self, dirpath: str | Path) -> None:
        self.path = Path(dirpath) / "last.ckpt"
        self.stopped = False
        self._val_batches: float | int | None = None
        self._received: str | None = None
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def preempted(self) -> bool:
        """Whether the run was stopped from outside and not by Ctrl-C: whoever started it should start it again."""
        return self.stopped and self._received != "Ctrl-C"

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Installs the handlers; after Lightning's, which would make several processes wait for each other."""
        self.stopped, self._received = False, None
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._receive) for number in (signal.SIGINT, *_PREEMPTING)}

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stops when any rank has received a signal: all of them must save the same step, and a whole one.

        Gradients accumulated so far are in no checkpoint: a run saved in the middle of a step would lose them.
        """
        if (batch_idx + 1) % trainer.accumulate_grad_batches or self.stopped:
            return
        if not trainer.strategy.reduce_boolean_decision(self._received is not None, all=False):
            return
        self._save(trainer)
        trainer.should_stop = True
        # Lightning validates once more on the way out; who presses Ctrl-C does not want to wait for it.
        self._val_batches, trainer.limit_val_batches = trainer.limit_val_batches, 0

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Leaves a validation when any rank has received a signal; the next step, or the end of training, saves.

        Half a validation counts for nothing: it is made a sanity check, which no callback or logger takes figures from.
        """
        if not self._previous or trainer.state.fn != TrainerFn.FITTING:
            return
        if trainer.strategy.reduce_boolean_decision(self._received is not None, all=False):
            self._received = self._received or "signal"
            trainer.sanity_checking = True
            raise StopIteration  # which ends Lightning's loop over batches in good order

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Puts the earlier handlers back; before Lightning puts back its own, which `teardown` would come after."""
        # During the validation after the last step no batch follows that would save.
        if not self.stopped and trainer.strategy.reduce_boolean_decision(self._received is not None, all=False):
            self._save(trainer)
        self._restore()
        if self._val_batches is not None:
            trainer.limit_val_batches, self._val_batches = self._val_batches, None

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Puts the earlier handlers back."""
        self._restore()

    def _save(self, trainer: L.Trainer) -> None:
        trainer.save_checkpoint(self.path)
        self.stopped = True
        if trainer.is_global_zero:
            log.warning("%s: saved step %d", self._received or "signal", trainer.global_step)
            rich.get_console().print(plain(f"continue: {continue_command(self.path)}"), soft_wrap=True)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None:
            if number == signal.SIGINT:
                self._restore()
                print("stopped by Ctrl-C, without saving", file=sys.stderr)
                sys.exit(INTERRUPTED)
            return
        self._received = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        log.warning("%s: stopping after this batch; Ctrl-C to stop at once", self._received)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
