"""Progress of a run: a live bar on a terminal, a line at intervals anywhere else."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from typing import Any

import lightning as L
import rich
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Column
from rich.text import Text

from streamnest.data.batch import Batch
from streamnest.encoder_task import EncoderTask
from streamnest.formatting import duration, speed

log = logging.getLogger(__name__)

_NARROW = 100  # columns below which the bar itself is left out


class Progress(ProgressBar):
    """Shows step, loss, accuracy, hours of audio seen, speed, learning rate and remaining time; first rank only.

    On a terminal it is a live bar, for validation too. In piped output it is a line every `every_n_steps`, without
    control characters. Each validation prints a line in either case.

    Args:
        every_n_steps: steps between lines; None takes the trainer's `log_every_n_steps`.
        refresh_per_second: updates of the bar. Reading a metric waits for the accelerator, so not after every step.
        console: console to print to; None is the one that logging uses.
    """

    def __init__(
        self, every_n_steps: int | None = None, refresh_per_second: float = 4.0, console: Console | None = None
    ) -> None:
        super().__init__()
        self.every_n_steps, self.interval = every_n_steps, 1.0 / refresh_per_second
        self.console = console or rich.get_console()
        self._enabled, self._bar, self._shown_at, self._last_line = True, None, 0.0, -1
        self._within_validation = False
        self._budget: float | None = None

    _bar: Bar | None

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
            steps = trainer.max_steps if trainer.max_steps > 0 else None
            self._start(steps if self._budget is None else self._budget, self._done(trainer), self._count(trainer))

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Updates the bar, or prints a line."""
        if self._bar is not None:
            self._update(self._done(trainer), lambda: self._metrics(trainer), self._count(trainer))
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
        self._start(total, 0, f"validation batch 0{_of(total)}")

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
        self._update(batch_idx + 1, list, f"validation batch {batch_idx + 1}{_of(total)}")

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
            self._update(self._done(trainer), lambda: self._metrics(trainer), self._count(trainer))
        self._stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Restores the terminal."""
        self._stop()

    def _done(self, trainer: L.Trainer) -> float:
        """Returns how much of its length a run has completed, in hours of audio or in steps."""
        model: Any = trainer.lightning_module
        return trainer.global_step if self._budget is None else float(model.hours_seen)

    def _count(self, trainer: L.Trainer) -> str:
        """Returns the steps as text, with the length of the run; a budget in hours stands with the hours seen."""
        if self._budget is not None:
            return f"step {trainer.global_step}  {self._done(trainer):.2f}/{self._budget:g} h seen"
        return f"step {trainer.global_step}{_of(trainer.max_steps if trainer.max_steps > 0 else None)}"

    def _metrics(self, trainer: L.Trainer) -> list[str]:
        """Returns the metrics as text, without the hours if they are part of the count."""
        return [part for part in describe(trainer) if self._budget is None or not part.endswith(" h seen")]

    def _start(self, total: float | None, done: float, count: str) -> None:
        self._bar = Bar(*_columns(self.console.width), console=self.console, refresh_per_second=1.0 / self.interval)
        self._bar.update(self._bar.add_task(count, total=total, metrics=""), completed=done)
        self._bar.start()

    def _update(self, done: float, metrics: Any, count: str) -> None:
        now = time.monotonic()
        if self._bar is not None and now - self._shown_at >= self.interval:
            self._shown_at = now
            task = self._bar.task_ids[0]
            self._bar.update(task, completed=done, description=count, metrics="  ".join(metrics()))

    def _line(self, trainer: L.Trainer) -> None:
        step, every = trainer.global_step, self.every_n_steps or trainer.log_every_n_steps  # type: ignore[attr-defined]
        # Several batches share a step when gradients are accumulated.
        if step % max(1, every) or step == self._last_line:
            return
        self._last_line = step
        left = remaining(trainer, self._budget)
        self._print([self._count(trainer), *self._metrics(trainer), *([f"{duration(left)} left"] if left else [])])

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


def describe(trainer: L.Trainer) -> list[str]:
    """Returns the metrics of a training step that have been logged so far, as text; the most important first."""
    return [*_metrics({name: float(value) for name, value in trainer.callback_metrics.items()}), *_rate(trainer)]


def remaining(trainer: L.Trainer, budget: float | None) -> float | None:
    """Returns the seconds that training will take from here at its present speed; None if the speed is not known yet.

    Args:
        trainer: trainer of the run.
        budget: hours of audio that the run consumes; None for a number of steps.
    """
    metrics = trainer.callback_metrics
    if budget is not None and float(metrics.get("train/audio_hours_per_hour", 0)) > 0:
        speed = float(metrics["train/audio_hours_per_hour"])
        return max(0.0, budget - float(metrics["train/hours"])) * 3600 / speed
    if budget is None and trainer.max_steps > 0 and "train/step_seconds" in metrics:
        batches = (trainer.max_steps - trainer.global_step) * trainer.accumulate_grad_batches
        return batches * float(metrics["train/step_seconds"])
    return None


def _of(total: float | None) -> str:
    return "" if total is None else f"/{total:.0f}"


def _metrics(metrics: dict[str, float]) -> Iterator[str]:
    if "train/loss" in metrics:
        yield f"loss {metrics['train/loss']:.3f}"
    if "train/accuracy" in metrics:
        yield f"accuracy {metrics['train/accuracy']:.1%}"
    if "train/hours" in metrics:
        yield f"{metrics['train/hours']:.2f} h seen"
    if "train/audio_hours_per_hour" in metrics:
        yield speed(metrics["train/audio_hours_per_hour"])


def _rate(trainer: L.Trainer) -> list[str]:
    rates = [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]
    return [f"lr {rates[0]:.1e}"] if rates else []


def validation_parts(metrics: dict[str, float], step: int) -> list[str]:
    """Describes a validation in parts that a line is not broken within."""
    parts = [f"validation at step {step}", f"loss {metrics['val/loss']:.3f}"]
    if "val/accuracy" in metrics:
        parts.append(f"accuracy {metrics['val/accuracy']:.1%}")
    parts += [f"{name.upper()} {metrics[f'val/{name}']:.1%}" for name in ("cer", "wer") if f"val/{name}" in metrics]
    if "val/gain" in metrics:
        gain = metrics["val/gain"]
        parts.append(f"{abs(gain):.3f} nats {'below' if gain >= 0 else 'above'} the unigram baseline")
    return parts


def _columns(width: int) -> list[Any]:
    """Columns of the bar: the metrics are cut on a narrow terminal, the remaining time never is."""
    count = TextColumn("[bold]{task.description}", table_column=Column(no_wrap=True))
    metrics = TextColumn("{task.fields[metrics]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"))
    remaining = TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True, min_width=8))
    return [count, *([BarColumn(bar_width=24)] if width >= _NARROW else []), remaining, metrics]
