"""The process of a server that is measured."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from streamnest.errors import UserError

_STOP_S = 30


class ServerProcess:
    """A running `streamnest serve`.

    Attributes:
        address: host and port.
    """

    def __init__(self, process: subprocess.Popen[str], address: str) -> None:
        self._process, self.address = process, address

    @property
    def memory_mb(self) -> float:
        """Resident memory; 0 if the system does not report it."""
        status = Path(f"/proc/{self._process.pid}/status")
        return int(status.read_text().partition("VmRSS:")[2].split()[0]) / 1000 if status.is_file() else 0.0

    @property
    def cpu_s(self) -> float:
        """Processor time so far; 0 if the system does not report it."""
        stat = Path(f"/proc/{self._process.pid}/stat")
        if not stat.is_file():
            return 0.0
        user, system = stat.read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def metrics(self) -> dict[str, float]:
        """Returns the counters and gauges by name, without their prefix."""
        with urllib.request.urlopen(f"http://{self.address}/metrics", timeout=60) as answer:
            return {
                name: float(value)
                for name, value in re.findall(r"^streamnest_(\w+) (\S+)$", answer.read().decode(), re.M)
            }


@contextmanager
def serving(model: str, threads: int, cores: Sequence[int], *options: str) -> Iterator[ServerProcess]:
    """Runs a server until the end of the block, which SIGTERM must end gracefully.

    Args:
        model: checkpoint or exported graph.
        threads: CPU threads.
        cores: numbers of the cores that the server may use.
        options: further arguments of `streamnest serve`.

    Raises:
        UserError: if the server does not start, or does not end with status 0.
    """
    command = [sys.executable, "-m", "streamnest", "serve", model, "--port", "0", "--threads", str(threads), *options]

    def pin() -> None:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, cores)

    # The server is started before this process has threads.
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=pin)  # noqa: PLW1509
    try:
        assert process.stdout
        found = re.match(r"http://(\S+?)/ ", process.stdout.readline())
        if not found:
            raise UserError(f"{' '.join(command)} did not start: its message is above")
        yield ServerProcess(process, found.group(1))
        process.send_signal(signal.SIGTERM)
        if status := process.wait(_STOP_S):
            raise UserError(f"the server ended with status {status}")
    finally:
        process.kill()
        process.wait()
