"""The progress of a run: a live bar on a terminal, a line now and then anywhere else."""

from __future__ import annotations

import time
from typing import Any

import lightning as L
import rich
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

_SHOWN = {
    "train/loss": "loss {:.3f}",
    "train/accuracy": "accuracy {:.1%}",
    "train/hours": "{:.2f} h heard",
    "train/audio_hours_per_hour": "{:.0f} h/h",
}


class Progress(ProgressBar):
    """Shows steps, loss, accuracy, hours of audio heard, audio hours per hour, and learning rate; first rank only.

    On a terminal it is a live bar. Where output is piped it prints a line every `every_n_steps` and never a control
    character. Each validation leaves a line in either case.

    Args:
        every_n_steps: steps between lines; None takes the trainer's `log_every_n_steps`.
        refresh_per_second: of the bar. Reading a metric waits for the accelerator, so not after every step.
        console: to print to; None is the one that logging uses as well.
    """

    def __init__(
        self, every_n_steps: int | None = None, refresh_per_second: float = 4.0, console: Console | None = None
    ) -> None:
        super().__init__()
        self.every_n_steps, self.interval = every_n_steps, 1.0 / refresh_per_second
        self.console = console or rich.get_console()
        self._enabled, self._bar, self._shown_at, self._last_line = True, None, 0.0, -1

    _bar: Bar | None

    @property
    def live(self) -> bool:
        """Whether there is a terminal to draw on; colours that were forced on do not make one."""
        return self.console.file.isatty() and not self.console.is_dumb_terminal

    def disable(self) -> None:
        """Shows nothing from now on."""
        self._enabled = False

    def enable(self) -> None:
        """Shows everything again."""
        self._enabled = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the bar."""
        self._last_line = trainer.global_step
        if self._enabled and self.live:
            self._bar = Bar(*_columns(), console=self.console, refresh_per_second=1.0 / self.interval)
            total = trainer.max_steps if trainer.max_steps > 0 else None
            self._bar.add_task("train", total=total, completed=trainer.global_step, metrics="")
            self._bar.start()

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Moves the bar, or prints a line."""
        if self._bar is not None:
            self._move(trainer)
        elif self._enabled:
            self._line(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leaves a line about the validation."""
        metrics = trainer.callback_metrics
        if self._enabled and not trainer.sanity_checking and "val/loss" in metrics:
            self._print(_validation_line({k: float(v) for k, v in metrics.items()}, trainer.global_step))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Completes the bar."""
        if self._bar is not None:
            self._move(trainer, force=True)
        self._stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Gives the terminal back."""
        self._stop()

    def _move(self, trainer: L.Trainer, force: bool = False) -> None:
        now = time.monotonic()
        if self._bar is not None and (force or now - self._shown_at >= self.interval):
            self._shown_at = now
            task = self._bar.task_ids[0]
            self._bar.update(task, completed=trainer.global_step, metrics="  ".join(describe(trainer)))

    def _line(self, trainer: L.Trainer) -> None:
        step, every = trainer.global_step, self.every_n_steps or trainer.log_every_n_steps  # type: ignore[attr-defined]
        # Several batches share a step when gradients are accumulated.
        if step % max(1, every) or step == self._last_line:
            return
        self._last_line = step
        total = f"/{trainer.max_steps}" if trainer.max_steps > 0 else ""
        self._print("  ".join([f"step {step}{total}", *describe(trainer)]))

    def _print(self, line: str) -> None:
        self.console.print(Text(line), soft_wrap=True)

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def describe(trainer: L.Trainer) -> list[str]:
    """The figures of a training step that are known by now, in words."""
    metrics = trainer.callback_metrics
    shown = [words.format(float(metrics[name])) for name, words in _SHOWN.items() if name in metrics]
    rates = [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]
    return [*shown, f"lr {rates[0]:.1e}"] if rates else shown


def _validation_line(metrics: dict[str, float], step: int) -> str:
    line = f"validation at step {step}  loss {metrics['val/loss']:.3f}"
    if "val/accuracy" in metrics:
        line += f"  accuracy {metrics['val/accuracy']:.1%}"
    line += "".join(f"  {name} {metrics[f'val/{name}']:.1%}" for name in ("cer", "wer") if f"val/{name}" in metrics)
    if "val/gain" in metrics:
        gain = metrics["val/gain"]
        line += f"  {abs(gain):.3f} nats {'below' if gain >= 0 else 'above'} code frequencies"
    return line


def _columns() -> list[Any]:
    return [
        TextColumn("[bold]step {task.completed:.0f}/{task.total}", justify="right"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[metrics]}"),
        TimeRemainingColumn(compact=True),
    ]
