"""Command lines print user errors without a trace."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra.errors import ConfigCompositionException

from streamnest.console.entry_point import without_trace
from streamnest.errors import UserError
from streamnest.locations import repository, train_command


@pytest.mark.parametrize("error", [UserError("no such file"), ConfigCompositionException("no such file")])
def test_a_user_error_goes_to_standard_error_with_status_2(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    @without_trace
    def main() -> int:
        raise error

    assert main() == 2
    printed = capsys.readouterr()
    assert printed.err == "no such file\n" and printed.out == ""


def test_other_errors_are_raised_and_other_statuses_kept() -> None:
    @without_trace
    def main(status: int) -> int:
        return 1 // (1 - status)

    assert main(0) == 1
    with pytest.raises(ZeroDivisionError):
        main(1)


def test_warnings_are_plain_after_a_library_has_set_up_logging(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    foreign = logging.StreamHandler(sys.stderr)
    foreign.setFormatter(logging.Formatter(logging.BASIC_FORMAT))
    root.addHandler(foreign)
    try:
        without_trace(lambda: logging.getLogger("streamnest.x").warning("a note") or 0)()
    finally:
        root.removeHandler(foreign)
    assert capsys.readouterr().err == "a note\n"


def test_the_training_command_fits_the_working_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    root = repository()
    assert root
    for folder, command in ((root, "python train.py"), (tmp_path, "streamnest train")):
        monkeypatch.chdir(folder)
        assert train_command() == command


@pytest.mark.parametrize("lines", [1, 100_000])
def test_closed_output_ends_a_command_without_a_trace(lines: int) -> None:
    program = (
        "import sys\nfrom streamnest.console.entry_point import without_trace\n"
        f"sys.exit(without_trace(lambda: [print('a line') for _ in range({lines})] and 0)())"
    )
    # With a buffer, as in a shell: Python writes the rest of it on exit.
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", program], env=buffered, **streams)
    assert process.stdout and process.stderr
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait(60) == 128 + signal.SIGPIPE
    process.stderr.close()
