"""Runs unfinished stages, each in a separate process and as soon as its dependency is done."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

from streamnest.errors import UserError
from streamnest.files.atomic_write import open_own
from streamnest.frontier.plan import Stage
from streamnest.frontier.processes import Launcher, StageError
from streamnest.frontier.progress import Watcher
from streamnest.frontier.records import code_version

# Seconds between polls of the processes, and the time they have to save after SIGTERM.
_INTERVAL, _GRACE = 0.5, 120.0


class Process(Protocol):
    """The part of `subprocess.Popen` that is used here."""

    def poll(self) -> int | None:
        """Returns the exit status, None while the process runs."""

    def terminate(self) -> None:
        """Sends SIGTERM."""

    def kill(self) -> None:
        """Sends SIGKILL."""


Start = Callable[[list[str], dict[str, str], IO[bytes], int], Process]


def start(command: list[str], environment: dict[str, str], log: IO[bytes], lock: int) -> Process:
    """Starts a process that Ctrl-C on the terminal does not reach and that holds the lock until it exits."""
    out: int | IO[bytes] = log
    return subprocess.Popen(
        command, env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True, pass_fds=[lock]
    )


@dataclass
class Running:
    """A stage in progress."""

    stage: Stage
    process: Process
    lock: int
    version: str | None
    since: float = field(default_factory=time.monotonic)


class Runner:
    """Runs a plan: finished stages are skipped, and a failed stage only stops those that depend on it.

    A stage is run by one process at a time, even if several commands share the folder: its process inherits a file
    lock, so that a stage whose command was killed is waited for instead of started twice.

    Args:
        launcher: command lines and environment of the processes.
        watcher: receiver of progress messages.
        jobs: number of stages that run at the same time.
        start: function that starts a process.
        interval: seconds between polls of the processes.
        version: function that returns the code version.
    """

    def __init__(
        self,
        launcher: Launcher,
        watcher: Watcher,
        jobs: int = 1,
        start: Start = start,
        interval: float = _INTERVAL,
        version: Callable[[], str | None] = code_version,
    ) -> None:
        self.launcher, self.records, self.watcher = launcher, launcher.records, watcher
        self.jobs, self.start, self.interval, self.version = jobs, start, interval, version
        self.failed: dict[str, str] = {}
        self._running: dict[str, Running] = {}
        self._done: set[str] = set()

    def run(self, plan: Sequence[Stage]) -> dict[str, str]:
        """Runs the unfinished stages; returns the reasons of failure by hash of the stage."""
        self._done = {stage.key for stage in plan if self.records.read(stage)}
        self.watcher.begin(plan, self._done)
        try:
            while left := [s for s in plan if s.key not in self._done and s.key not in self.failed]:
                self._start_some(left)
                self.watcher.look([(r.stage, r.since) for r in self._running.values()])
                time.sleep(self.interval)
                for running in list(self._running.values()):
                    self._check(running)
        finally:
            self._stop()
        return self.failed

    def _start_some(self, left: Sequence[Stage]) -> None:
        for stage in left:
            before = stage.needs.key if stage.needs else None
            if before in self.failed:
                self._fail(stage, f"not run because {stage.needs.title if stage.needs else ''} failed")
            elif len(self._running) < self.jobs and stage.key not in self._running and before in (None, *self._done):
                self._try(stage)

    def _try(self, stage: Stage) -> None:
        """Starts a stage, unless another process is running it or has finished it."""
        lock = _lock(self.records.out / "locks" / stage.key)
        if lock is None:
            self.watcher.waits(stage)
            return
        if self.records.read(stage):
            os.close(lock)
            self._done.add(stage.key)
            self.watcher.finished(stage, None)
            return
        path = self.records.log(stage)
        for folder in (path.parent, self.records.folder(stage)):
            folder.mkdir(parents=True, exist_ok=True)
        version = self.version()
        with path.open("ab") as log:
            process = self.start(self.launcher.command(stage), self.launcher.environment(), log, lock)
        self._running[stage.key] = Running(stage, process, lock, version)
        self.watcher.started(stage)

    def _check(self, running: Running) -> None:
        status, stage = running.process.poll(), running.stage
        if status is None:
            return
        seconds = time.monotonic() - running.since
        try:
            if status:
                raise StageError(f"exit status {status}")
            self.records.write(stage, seconds, self.launcher.outcome(stage), running.version)
        except StageError as error:
            self._fail(stage, str(error))
        else:
            self._done.add(stage.key)
            self.watcher.finished(stage, seconds)
        del self._running[stage.key]
        os.close(running.lock)

    def _fail(self, stage: Stage, reason: str) -> None:
        self.failed[stage.key] = reason
        self.watcher.failed(stage, reason, self.records.log(stage))

    def _stop(self) -> None:
        """Sends SIGTERM to the running stages, waits until they have saved, and kills those that take too long."""
        for running in self._running.values():
            running.process.terminate()
        until = time.monotonic() + _GRACE
        while time.monotonic() < until and any(r.process.poll() is None for r in self._running.values()):
            time.sleep(min(self.interval, 0.1))
        for running in self._running.values():
            if running.process.poll() is None:
                running.process.kill()
            os.close(running.lock)
        self._running.clear()


def interrupt_on_signals() -> None:
    """Makes SIGTERM and SIGUSR1 end the command as Ctrl-C does, after its stages have saved."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, stop)


def _lock(path: Path) -> int | None:
    """Returns a file descriptor that holds the lock, None if another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        found = open_own(path, os.O_RDWR)
    except OSError as error:
        raise UserError(f"{path} cannot be used as a lock file ({error.strerror}): remove it if it is a link") from None
    try:
        fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(found)
        return None
    return found
