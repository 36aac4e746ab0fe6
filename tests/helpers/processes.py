"""Commands in processes of their own that begin with the libraries loaded.

Importing torch and Lightning takes longer than most of what tests start. So each worker of pytest keeps one process
that has imported them and runs nothing: it forks for every command, which is then `__main__` of its own process, with
words, environment, streams and session of its own, and may be killed. The first run of `test_train.py` is not forked.
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
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any

ROOT = Path(__file__).parents[2]
# Not the project's own modules: some look at the streams and the environment while they are imported.
LIBRARIES = ("torch", "torchaudio", "lightning", "lhotse", "hydra", "matplotlib.pyplot", "scipy.signal", "soundfile")
LIBRARIES += ("wandb.sdk.launch",)
LONGEST = 1 << 16  # bytes of an order
WIDTH = 20  # bytes of a number that is told: two of them are never taken for one


class Process:
    """What tests need of `subprocess.Popen`, of a forked command whose errors are printed where it prints."""

    def __init__(self, script: str, *words: Any, env: dict[str, str] | None = None) -> None:
        """Starts a script of the repository with its words, in the root of the repository."""
        read, write = os.pipe()
        self.stdout = os.fdopen(read, encoding="utf-8")
        self._status = order(script, words, env, write, write)
        os.close(write)
        self.pid = told(self._status)
        self.returncode: int | None = None

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout: float = 300) -> int:
        """The status of the ended command, negative if a signal ended it."""
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(told(self._status, timeout))
        return self.returncode

    def communicate(self, timeout: float = 300) -> tuple[str, None]:
        """All that is still printed, once the command has ended."""
        text: list[str] = []
        reader = threading.Thread(target=lambda: text.append(self.stdout.read()), daemon=True)
        reader.start()
        self.wait(timeout)
        reader.join(timeout)
        return "".join(text), None


def run(
    script: str, *words: Any, env: dict[str, str] | None = None, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """What a script of the repository prints, and its status; one that does not end in time is killed."""
    with TemporaryFile("w+", encoding="utf-8") as out, TemporaryFile("w+", encoding="utf-8") as err:
        ended = order(script, words, env, out.fileno(), err.fileno())
        pid = told(ended)
        try:
            code = os.waitstatus_to_exitcode(told(ended, timeout))
        except TimeoutError:
            os.killpg(pid, signal.SIGKILL)
            raise
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess([script, *map(str, words)], code, out.read(), err.read())


def order(script: str, words: tuple[Any, ...], env: dict[str, str] | None, out: int, err: int) -> socket.socket:
    """Has a command started; the first number told is its process, the second its status."""
    ours, theirs = socket.socketpair()
    message = json.dumps([script, [str(word) for word in words], dict(os.environ if env is None else env)]).encode()
    assert len(message) < LONGEST, "too much environment for one message"
    files = [out, err, theirs.fileno()]
    if sys.platform == "linux":
        socket.send_fds(server(), [message], files)
    else:  # where processes that have loaded much do not fork safely
        subprocess.Popen([sys.executable, __file__, message.decode(), *map(str, files)], pass_fds=files, cwd=ROOT)
    theirs.close()
    return ours


def told(by: socket.socket, timeout: float = 120) -> int:
    """Waits for the next number of a command; the first takes as long as the libraries to load."""
    by.settimeout(timeout)
    number = by.recv(WIDTH)
    assert number, "the process that forks has ended: its last words are above"
    return int(number)


@cache
def server() -> socket.socket:
    """The way to the process that forks; it ends when this one does."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    alone = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # a process with threads cannot fork
    command = [sys.executable, __file__, str(theirs.fileno())]
    subprocess.Popen(command, pass_fds=[theirs.fileno()], cwd=ROOT, env=alone)
    theirs.close()
    atexit.register(ours.close)
    return ours


def serve(orders: socket.socket) -> None:
    """Forks for each order until nobody is there to give one."""
    for name in LIBRARIES:
        importlib.import_module(name)
    assert len(os.listdir("/proc/self/task")) == 1, "a library has started a thread"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that watch
    while True:
        message, files, *_ = socket.recv_fds(orders, LONGEST, 3)
        if not message:
            return
        if os.fork() == 0:
            orders.close()
            watch(*json.loads(message), files)
        for file in files:
            os.close(file)


def watch(script: str, words: list[str], env: dict[str, str], files: list[int]) -> None:
    """Forks the command and tells its process and its status."""
    out, err, ears = files
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    child = os.fork()
    if child == 0:
        begin(script, words, env, files)
    for file in {out, err}:
        os.close(file)
    os.write(ears, f"{child:{WIDTH}}".encode())
    _, code = os.waitpid(child, 0)
    os.write(ears, f"{code:{WIDTH}}".encode())
    os._exit(0)


def begin(script: str, words: list[str], env: dict[str, str], files: list[int]) -> None:
    """Becomes the command, and ends as Python ends."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(files[0], 1)
    os.dup2(files[1], 2)
    for file in set(files):
        os.close(file)
    os.environ.clear()
    os.environ.update(env)
    own_media_folder()
    sys.argv = [script, *words]
    sys.path[0] = str((ROOT / script).parent)
    runpy.run_path(str(ROOT / script), run_name="__main__")
    sys.exit()


def own_media_folder() -> None:
    """Sounds wait for wandb in a folder that its import makes, and that the first command to end would remove."""
    shared = importlib.import_module("wandb.sdk.data_types._private").MEDIA_TMP
    shared._finalizer.detach()
    own = TemporaryDirectory("wandb-media")
    shared.name, shared.own = own.name, own


if __name__ == "__main__":
    if len(sys.argv) == 2:
        serve(socket.socket(fileno=int(sys.argv[1])))
    else:
        watch(*json.loads(sys.argv[1]), [int(word) for word in sys.argv[2:]])
