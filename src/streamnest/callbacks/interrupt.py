"""Stops a run on Ctrl-C and preemption without losing a step."""

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

# SLURM sends SIGUSR1 before a time limit (--signal).
_PREEMPTING = (signal.SIGTERM, signal.SIGUSR1)


def exit_on_signals_before_training() -> None:
    """Makes SIGTERM and SIGUSR1 end a run that is still starting with `PREEMPTED`, as there is nothing to save yet.

    Ctrl-C prints one line and ends it with status 130, in place of Lightning's handler.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in _PREEMPTING:
        signal.signal(number, lambda *_: sys.exit(PREEMPTED))
    own = os.getpid()

    def exit_on_ctrl_c(number: int, frame: FrameType | None) -> None:
        if os.getpid() != own:
            return  # a data loading worker, which this process ends
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # only once, while files are being closed
        print("stopped by Ctrl-C", file=sys.stderr)
        sys.exit(INTERRUPTED)

    signal.signal(signal.SIGINT, exit_on_ctrl_c)


class StopOnSignal(Callback):
    """On Ctrl-C, SIGTERM or SIGUSR1, finishes the step, saves `last.ckpt`, prints how to continue, and ends training.

    A second Ctrl-C ends the process immediately. A second SIGTERM or SIGUSR1 does not, because launchers forward
    signals that their processes have already received. Handlers are installed only during training and in the main
    thread, and the previous ones are restored.

    Args:
        dirpath: folder of `last.ckpt`.
    """

    def __init__(self, dirpath: str | Path) -> None:
        self.path = Path(dirpath) / "last.ckpt"
        self.stopped = False
        self._val_batches: float | int | None = None
        self._received: str | None = None
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def preempted(self) -> bool:
        """True if the run was stopped by another signal than Ctrl-C: its launcher should start it again."""
        return self.stopped and self._received != "Ctrl-C"

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Installs the handlers, after those of Lightning, with which several processes could wait for each other."""
        self.stopped, self._received = False, None
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._receive) for number in (signal.SIGINT, *_PREEMPTING)}

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stops if any rank has received a signal, because all ranks must save the same complete step.

        Checkpoints do not contain accumulated gradients, so a run saved in the middle of a step would lose them.
        """
        if (batch_idx + 1) % trainer.accumulate_grad_batches or self.stopped:
            return
        if not trainer.strategy.reduce_boolean_decision(self._received is not None, all=False):
            return
        self._save(trainer)
        trainer.should_stop = True
        # Lightning would validate once more, and a stopped run should not wait for that.
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
        """Leaves a validation if any rank has received a signal; the next step, or the end of training, saves.

        An incomplete validation is marked as a sanity check, from which no callback or logger takes metrics.
        """
        if not self._previous or trainer.state.fn != TrainerFn.FITTING:
            return
        if trainer.strategy.reduce_boolean_decision(self._received is not None, all=False):
            self._received = self._received or "signal"
            trainer.sanity_checking = True
            raise StopIteration  # ends Lightning's loop over batches regularly

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restores the previous handlers, before Lightning restores its own; `teardown` would be too late."""
        # No batch follows the validation after the last step, so that validation has not led to a checkpoint.
        if not self.stopped and trainer.strategy.reduce_boolean_decision(self._received is not None, all=False):
            self._save(trainer)
        self._restore()
        if self._val_batches is not None:
            trainer.limit_val_batches, self._val_batches = self._val_batches, None

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Restores the previous handlers."""
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
        log.warning("%s: stopping after this batch; Ctrl-C stops at once", self._received)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
