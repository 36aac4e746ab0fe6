"""Progress of a run: a live bar on a terminal, a line at intervals anywhere else."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import lightning as L
import rich
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Column
from rich.text import Text

from streamnest.callbacks.progress_text import (
    completed,
    count,
    length,
    of_total,
    remaining,
    step_parts,
    validation_parts,
)
from streamnest.data.batch import Batch
from streamnest.encoder_task import EncoderTask
from streamnest.formatting import duration

log = logging.getLogger(__name__)

_NARROW = 100  # columns below which the bar itself is left out


class Progress(ProgressBar):
    """Shows step, loss, accuracy, hours of audio consumed, speed, learning rate and remaining time; first rank only.

    On a terminal it is a live bar, for validation too. In piped output it is a line every `every_n_steps`, without
    control characters. Each validation prints a line in either case.

    Args:
        every_n_steps: steps between lines; None takes the trainer's `log_every_n_steps`.
        refresh_per_second: updates of the bar. Reading a metric waits for the accelerator, so not after every step.
        console: console to print to; None is the one that logging uses.
    """

    _bar: Bar | None

    def __init__(
        self, every_n_steps: int | None = None, refresh_per_second: float = 4.0, console: Console | None = None
    ) -> None:
        super().__init__()
        self.every_n_steps, self.interval = every_n_steps, 1.0 / refresh_per_second
        self.console = console or rich.get_console()
        self._enabled, self._bar, self._shown_at, self._last_line = True, None, 0.0, -1
        self._within_validation = False
        self._budget: float | None = None

    @property
    def live(self) -> bool:
        """True on a terminal; colors that are forced on do not make one."""
        return self.console.file.isatty() and not self.console.is_dumb_terminal

    def disable(self) -> None:
        """Turns all output off."""
        self._enabled = False

    def enable(self) -> None:
        """Turns output on."""
        self._enabled = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the bar."""
        self._last_line = trainer.global_step
        self._budget = pl_module.max_audio_hours if isinstance(pl_module, EncoderTask) else None
        if self._enabled and self.live:
            self._start(length(trainer, self._budget), completed(trainer, self._budget), count(trainer, self._budget))

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Updates the bar, or prints a line."""
        if self._bar is not None:
            self._update_training(trainer)
        elif self._enabled:
            self._line(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts a bar for the validation; that of training, if there is one, makes room for it."""
        if not self._enabled or not self.live or trainer.sanity_checking:
            return
        self._within_validation = self._bar is not None
        self._stop()
        batches = sum(trainer.num_val_batches)
        total = None if batches == float("inf") else int(batches)
        self._start(total, 0, f"validation batch 0{of_total(total)}")

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Updates the bar of the validation."""
        if batch_idx + 1 == sum(trainer.num_val_batches):
            self._shown_at = 0.0  # the last update is never skipped
        total = self._bar.tasks[0].total if self._bar is not None else None
        self._update(batch_idx + 1, list, f"validation batch {batch_idx + 1}{of_total(total)}")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Prints a line about the validation."""
        if not trainer.sanity_checking:
            self._stop()
        metrics = trainer.callback_metrics
        if self._enabled and not trainer.sanity_checking and "val/loss" in metrics:
            self._print(validation_parts({k: float(v) for k, v in metrics.items()}, trainer.global_step))
        if self._within_validation:
            self._within_validation = False
            self.on_train_start(trainer, pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Completes the bar."""
        if self._bar is not None:
            self._shown_at = 0.0
            self._update_training(trainer)
        self._stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Restores the terminal."""
        self._stop()

    def _start(self, total: float | None, done: float, description: str) -> None:
        self._bar = Bar(*_columns(self.console.width), console=self.console, refresh_per_second=1.0 / self.interval)
        self._bar.update(self._bar.add_task(description, total=total, metrics=""), completed=done)
        self._bar.start()

    def _update_training(self, trainer: L.Trainer) -> None:
        budget = self._budget
        self._update(completed(trainer, budget), lambda: step_parts(trainer, budget), count(trainer, budget))

    def _update(self, done: float, metrics: Callable[[], list[str]], description: str) -> None:
        """Updates the bar if the last update was long enough ago; only then are the metrics read."""
        now = time.monotonic()
        if self._bar is not None and now - self._shown_at >= self.interval:
            self._shown_at = now
            task = self._bar.task_ids[0]
            self._bar.update(task, completed=done, description=description, metrics="  ".join(metrics()))

    def _line(self, trainer: L.Trainer) -> None:
        step, every = trainer.global_step, self.every_n_steps or trainer.log_every_n_steps  # type: ignore[attr-defined]
        # Several batches share a step when gradients are accumulated.
        if step % max(1, every) or step == self._last_line:
            return
        self._last_line = step
        budget, left = self._budget, remaining(trainer, self._budget)
        parts = [count(trainer, budget), *step_parts(trainer, budget)]
        self._print([*parts, f"{duration(left)} left"] if left else parts)

    def _print(self, parts: list[str]) -> None:
        """Prints one line; on a terminal, several if it is too narrow, broken between the parts."""
        lines, width = [""], self.console.width if self.live else 10**6
        for part in parts:
            longer = f"{lines[-1]}  {part}" if lines[-1] else part
            lines = [*lines[:-1], longer] if len(longer) <= width else [*lines, f"  {part}"]
        for line in lines:
            self.console.print(Text(line), soft_wrap=True)

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def tracked(batches: Iterable[Batch], hours: float, console: Console | None = None) -> Iterator[Batch]:
    """Yields the batches that corpus statistics are computed from and shows the progress, a live bar on a terminal.

    Args:
        batches: batches of audio.
        hours: hours of audio that are read at most.
        console: console to print to; None is the one that logging uses.
    """
    console = console or rich.get_console()
    if not console.file.isatty():
        log.info("reading up to %g h of audio for the corpus statistics", hours)
        yield from batches
        return
    columns = (TextColumn("[bold]corpus statistics {task.percentage:.0f}%"), BarColumn(24), TimeRemainingColumn())
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=3600 * hours)
        for batch in batches:
            bar.advance(task, batch.seconds)
            yield batch


def _columns(width: int) -> list[Any]:
    """Columns of the bar: the metrics are cut on a narrow terminal, the remaining time never is."""
    count = TextColumn("[bold]{task.description}", table_column=Column(no_wrap=True))
    metrics = TextColumn("{task.fields[metrics]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"))
    remaining = TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True, min_width=8))
    return [count, *([BarColumn(bar_width=24)] if width >= _NARROW else []), remaining, metrics]
