"""Progress messages and bars of running stages."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from streamnest.console.terminal import Terminal, plain, printable
from streamnest.formatting import duration
from streamnest.frontier.plan import Stage
from streamnest.frontier.records import Records

# Lines of the log that are shown if a stage fails, and bytes that are read to find them.
_LINES, _TAIL = 8, 8192
# Steps of a run, or hours of audio of a run whose length is a number of hours.
_DONE = re.compile(rb"step (?:\d+  )?([\d.]+)/([\d.]+)")


class Watcher:
    """Prints a line when a stage starts, ends or fails; on a terminal, with progress bars below.

    Args:
        records: records of the frontier, for durations and logs.
        jobs: number of stages that run at the same time, for the estimate of the remaining time.
        console: console to print to.
    """

    def __init__(self, records: Records, jobs: int = 1, console: Console | None = None) -> None:
        self.records, self.jobs = records, jobs
        self.console = console or Terminal()
        title = TextColumn("{task.description}", markup=False)
        columns = (title, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bars = Progress(*columns, console=self.console, disable=not self.console.is_terminal, transient=True)
        self._tasks: dict[str, TaskID] = {}
        self._left: dict[str, Stage] = {}
        self._took: dict[str, list[float]] = {}
        self._number: dict[str, int] = {}
        self._waited: set[str] = set()
        self._all: TaskID | None = None

    def begin(self, plan: Sequence[Stage], done: set[str]) -> None:
        """Starts to show a plan, some stages of which may be done."""
        self._number = {stage.key: number for number, stage in enumerate(plan, 1)}
        self._left = {stage.key: stage for stage in plan if stage.key not in done}
        for stage in plan:
            record = self.records.read(stage)
            if record:
                self._took.setdefault(stage.kind, []).append(record["seconds"])
        self.console.print(f"{len(plan)} stages, {len(done)} of them done; written to {self.records.out}")
        self._all = self._bars.add_task("all stages", total=len(plan), completed=len(done))
        self._bars.start()

    def end(self) -> None:
        """Removes the bars."""
        self._bars.stop()

    def waits(self, stage: Stage) -> None:
        """Reports that another process is running a stage."""
        if stage.key not in self._waited:
            self._waited.add(stage.key)
            self._print(stage, "waiting for another process that is running it")

    def started(self, stage: Stage) -> None:
        """Reports that a stage has started."""
        self._tasks[stage.key] = self._bars.add_task(printable(stage.title), total=None)
        self._print(stage, "started")

    def finished(self, stage: Stage, seconds: float | None) -> None:
        """Reports that a stage is done, and its duration; None if another process has run it."""
        if seconds is not None:
            self._took.setdefault(stage.kind, []).append(seconds)
        self._close(stage)
        left = self.remaining([])
        about = f", about {duration(left)} left" if left else ""
        self._print(stage, "done by another process" if seconds is None else f"done in {duration(seconds)}{about}")

    def failed(self, stage: Stage, reason: str, log: Path) -> None:
        """Reports that a stage failed or cannot be run."""
        tried = stage.key in self._tasks
        self._close(stage)
        self._print(stage, f"FAILED: {reason}" if tried else reason, "red")
        if tried:
            lines = tail(log).decode(errors="replace").splitlines()[-_LINES:]
            self.console.print(plain("\n".join([*(f"    {line}" for line in lines), f"  full log: {log}"]), "dim"))

    def look(self, running: Sequence[tuple[Stage, float]]) -> None:
        """Updates the bars; `running` has stages and their start times."""
        if not self.console.is_terminal:
            return
        for stage, _ in running:
            at = steps(self.records.log(stage))
            if at:
                self._bars.update(self._tasks[stage.key], completed=at[0], total=at[1])
        left = self.remaining(running)
        if self._all is not None and left:
            self._bars.update(self._all, description=f"all stages, about {duration(left)} left")

    def remaining(self, running: Sequence[tuple[Stage, float]]) -> float | None:
        """Estimates the remaining seconds from the mean duration of each kind of stage; None while that is unknown."""
        now, spent, total = time.monotonic(), {stage.key: since for stage, since in running}, 0.0
        usual = {kind: sum(took) / len(took) for kind, took in self._took.items()}
        for stage, since in running:
            at = steps(self.records.log(stage))
            if at and at[0] and stage.kind not in usual:
                usual[stage.kind] = (now - since) * at[1] / at[0]
        for key, stage in self._left.items():
            if stage.kind not in usual:
                return None
            total += max(0.0, usual[stage.kind] - (now - spent[key] if key in spent else 0.0))
        return total / self.jobs

    def _close(self, stage: Stage) -> None:
        self._left.pop(stage.key, None)
        if stage.key in self._tasks:
            self._bars.remove_task(self._tasks.pop(stage.key))
        if self._all is not None:
            self._bars.advance(self._all)

    def _print(self, stage: Stage, message: str, style: str = "") -> None:
        number = f"[{self._number[stage.key]}/{len(self._number)}]"
        self.console.print(plain(f"{number} {stage.title}: {message}", style))


def tail(log: Path) -> bytes:
    """Returns the end of a log; empty if there is none."""
    if not log.is_file():
        return b""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL))
        return file.read()


def steps(log: Path) -> tuple[float, float] | None:
    """Returns the last step in a log and the number of steps, or hours of audio if these limit the run."""
    matches = _DONE.findall(tail(log))
    return (float(matches[-1][0]), float(matches[-1][1])) if matches else None
