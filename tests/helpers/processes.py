"""Runs commands in separate processes that start with the libraries loaded.

Importing torch and Lightning takes longer than most commands of the tests. Each pytest worker therefore keeps one
server process that has imported them and forks for every command. The command is `__main__` of its own process, with
its own arguments, environment, streams and session, and may be killed. The first run of `test_train.py` is not forked.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any

ROOT = Path(__file__).parents[2]
# Without the modules of the project, some of which read streams and environment while they are imported.
LIBRARIES = ("torch", "torchaudio", "lightning", "lhotse", "hydra", "matplotlib.pyplot", "scipy.signal", "soundfile")
LIBRARIES += ("wandb.sdk.launch",)
LONGEST = 1 << 16  # bytes of a request
WIDTH = 20  # bytes of a number in a reply: a fixed width separates two of them


def eventually(happened: Callable[[], bool], seconds: float = 60.0, pause: float = 0.1) -> bool:
    """Polls a condition on another process or thread; returns whether it became true before the timeout."""
    end = time.monotonic() + seconds
    while not (found := happened()) and time.monotonic() < end:
        time.sleep(pause)
    return found


class Process:
    """The part of `subprocess.Popen` that tests need, for a forked command with standard error in its output."""

    def __init__(self, script: str, *arguments: Any, env: dict[str, str] | None = None) -> None:
        """Starts a script of the repository with arguments, in the root of the repository."""
        read, write = os.pipe()
        self.stdout = os.fdopen(read, encoding="utf-8")
        self._status = request(script, arguments, env, write, write)
        os.close(write)
        self.pid = number_of(self._status)
        self.returncode: int | None = None

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout: float = 300) -> int:
        """Returns the exit status of the command, negative if a signal ended it."""
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(number_of(self._status, timeout))
        return self.returncode

    def communicate(self, timeout: float = 300) -> tuple[str, None]:
        """Returns the remaining output, once the command has ended."""
        text: list[str] = []
        reader = threading.Thread(target=lambda: text.append(self.stdout.read()), daemon=True)
        reader.start()
        self.wait(timeout)
        reader.join(timeout)
        return "".join(text), None


def run(
    script: str, *arguments: Any, env: dict[str, str] | None = None, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Returns the output and the status of a script; it is killed if it does not end in time."""
    with TemporaryFile("w+", encoding="utf-8") as out, TemporaryFile("w+", encoding="utf-8") as err:
        ended = request(script, arguments, env, out.fileno(), err.fileno())
        pid = number_of(ended)
        try:
            code = os.waitstatus_to_exitcode(number_of(ended, timeout))
        except TimeoutError:
            os.killpg(pid, signal.SIGKILL)
            raise
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess([script, *map(str, arguments)], code, out.read(), err.read())


def request(script: str, arguments: tuple[Any, ...], env: dict[str, str] | None, out: int, err: int) -> socket.socket:
    """Requests a command; the server replies with its process id, then with its status."""
    ours, theirs = socket.socketpair()
    message = json.dumps([script, [str(word) for word in arguments], dict(os.environ if env is None else env)]).encode()
    assert len(message) < LONGEST, "too much environment for one message"
    files = [out, err, theirs.fileno()]
    if sys.platform == "linux":
        socket.send_fds(server(), [message], files)
    else:  # where processes that have loaded much do not fork safely
        subprocess.Popen([sys.executable, __file__, message.decode(), *map(str, files)], pass_fds=files, cwd=ROOT)
    theirs.close()
    return ours


def number_of(by: socket.socket, timeout: float = 120) -> int:
    """Waits for the next number of a reply; the first takes as long as loading the libraries."""
    by.settimeout(timeout)
    number = by.recv(WIDTH)
    assert number, "the server process has ended: its error is above"
    return int(number)


@cache
def server() -> socket.socket:
    """Starts the server process, which ends with this one, and returns its socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    alone = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # a process with threads cannot fork
    command = [sys.executable, __file__, str(theirs.fileno())]
    subprocess.Popen(command, pass_fds=[theirs.fileno()], cwd=ROOT, env=alone)
    theirs.close()
    atexit.register(ours.close)
    return ours


def serve(requests: socket.socket) -> None:
    """Forks for each request until the socket is closed."""
    for name in LIBRARIES:
        importlib.import_module(name)
    assert len(os.listdir("/proc/self/task")) == 1, "a library has started a thread"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # watching processes are not waited for
    while True:
        message, files, *_ = socket.recv_fds(requests, LONGEST, 3)
        if not message:
            return
        if os.fork() == 0:
            requests.close()
            watch(*json.loads(message), files)
        for file in files:
            os.close(file)


def watch(script: str, arguments: list[str], env: dict[str, str], files: list[int]) -> None:
    """Forks the command and replies with its process id and its status."""
    out, err, reply = files
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    child = os.fork()
    if child == 0:
        begin(script, arguments, env, files)
    for file in {out, err}:
        os.close(file)
    os.write(reply, f"{child:{WIDTH}}".encode())
    _, code = os.waitpid(child, 0)
    os.write(reply, f"{code:{WIDTH}}".encode())
    os._exit(0)


def begin(script: str, arguments: list[str], env: dict[str, str], files: list[int]) -> None:
    """Becomes the command, and exits as Python does."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(files[0], 1)
    os.dup2(files[1], 2)
    for file in set(files):
        os.close(file)
    os.environ.clear()
    os.environ.update(env)
    own_media_folder()
    sys.argv = [script, *arguments]
    sys.path[0] = str((ROOT / script).parent)
    runpy.run_path(str(ROOT / script), run_name="__main__")
    sys.exit()


def own_media_folder() -> None:
    """Gives wandb its own folder for media: its import creates one, which the first command to end would remove."""
    shared = importlib.import_module("wandb.sdk.data_types._private").MEDIA_TMP
    shared._finalizer.detach()
    own = TemporaryDirectory("wandb-media")
    shared.name, shared.own = own.name, own


if __name__ == "__main__":
    if len(sys.argv) == 2:
        serve(socket.socket(fileno=int(sys.argv[1])))
    else:
        watch(*json.loads(sys.argv[1]), [int(word) for word in sys.argv[2:]])
