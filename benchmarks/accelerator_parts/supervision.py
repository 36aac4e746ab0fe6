"""Runs the parts in another process, which is replaced if it crashes, hangs or loses its device."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any

from accelerator_parts.results import PartResult
from streamnest.errors import UserError

# Share of the time that each part may take; a part that ends early leaves its time to the others.
SHARES = {"parity": 0.2, "step": 0.35, "loader": 0.1, "ddp": 0.15, "stream": 0.2}
# Seconds to load libraries, and to finish a measurement that began within the budget.
_START, _GRACE = 120.0, 30.0


class Worker:
    """A process that answers each request, a line of JSON, with another one.

    Args:
        command: command that starts it; its first line describes the device.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._buffer = b""
        self.description, self.reason = self._reply(_START)

    def ask(self, request: dict[str, Any], seconds: float) -> tuple[dict[str, Any] | None, str]:
        """Returns the reply, or None and the reason that there is none."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the process has ended, which reading reports
        return self._reply(seconds)

    def end(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()

    def _reply(self, seconds: float) -> tuple[dict[str, Any] | None, str]:
        assert self._process.stdout is not None
        source, end = self._process.stdout.fileno(), time.monotonic() + seconds
        while b"\n" not in self._buffer:
            if not select.select([source], [], [], max(0.0, end - time.monotonic()))[0]:
                return None, f"no result within {seconds:.0f} s; the process was stopped"
            if not (read := os.read(source, 1 << 16)):
                return None, f"the process ended with status {self._process.wait()}"
            self._buffer += read
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line), ""


class Supervisor:
    """Runs parts in a `Worker`, and starts another one if necessary.

    Args:
        command: command of the worker.
        grace: seconds beyond its budget after which a part is stopped.
    """

    def __init__(self, command: Sequence[str], grace: float = _GRACE) -> None:
        self._command, self._grace = command, grace
        self._worker: Worker | None = None
        self._broken = ""  # reason that no worker starts

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def description(self) -> dict[str, Any]:
        """Starts the worker, if necessary, and returns its description of the device; empty if it does not start.

        Raises:
            UserError: for errors in the arguments.
        """
        if self._worker is None and not self._broken:
            self._worker = Worker(self._command)
            self._broken = self._worker.reason
        found = (self._worker.description if self._worker else None) or {}
        if "user_error" in found:
            raise UserError(found["user_error"])
        return found

    def run(self, part: str, seconds: float, needed_rate: float | None) -> PartResult:
        """Runs a part; a crash or a timeout becomes a failure of the result."""
        reply = None
        if self.description() and self._worker:
            request = {"part": part, "seconds": seconds, "needed_rate": needed_rate}
            reply, reason = self._worker.ask(request, seconds + self._grace)
        else:
            reason = f"the measuring process does not start: {self._broken}"
        result = PartResult(part, failures=[reason]) if reply is None else PartResult(**reply)
        if reply is None or not result.usable:
            self._end()
        return result

    def _end(self) -> None:
        if self._worker:
            self._worker.end()
        self._worker = None


def run_all(
    parts: Sequence[str],
    seconds: float,
    run: Callable[[str, float, float | None], PartResult],
    report: Callable[[PartResult], None],
) -> list[PartResult]:
    """Runs parts in order and divides the time among them.

    Args:
        parts: names of the parts.
        seconds: time for all of them.
        run: runs a part, given its name, its time and the rate of training that a loader must reach.
        report: receives each result.

    Raises:
        UserError: for errors in the arguments.
    """
    results: list[PartResult] = []
    end, rate = time.monotonic() + seconds, None
    for index, part in enumerate(parts):
        left = max(0.0, end - time.monotonic())
        result = run(part, left * SHARES[part] / sum(SHARES[name] for name in parts[index:]), rate)
        if result.user_error is not None:
            raise UserError(result.user_error)
        rate = result.audio_rate or rate
        results.append(result)
        report(result)
    return results
