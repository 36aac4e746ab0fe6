"""Command lines tell mistakes and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

import pytest
from hydra.errors import ConfigCompositionException

from streamnest.console.entry_point import without_trace
from streamnest.errors import UserError


@pytest.mark.parametrize("mistake", [UserError("no such file"), ConfigCompositionException("no such file")])
def test_a_mistake_is_told_on_the_standard_error_with_status_2(
    mistake: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    @without_trace
    def main() -> int:
        raise mistake

    assert main() == 2
    told = capsys.readouterr()
    assert told.err == "no such file\n" and told.out == ""


def test_what_is_no_mistake_of_the_user_is_raised_and_other_statuses_are_kept() -> None:
    @without_trace
    def main(status: int) -> int:
        return 1 // (1 - status)

    assert main(0) == 1
    with pytest.raises(ZeroDivisionError):
        main(1)


@pytest.mark.parametrize("lines", [1, 100_000])
def test_output_that_is_read_no_further_ends_a_command_without_a_trace(lines: int) -> None:
    program = (
        "import sys\nfrom streamnest.console.entry_point import without_trace\n"
        f"sys.exit(without_trace(lambda: [print('a line') for _ in range({lines})] and 0)())"
    )
    # With a buffer, as a shell would run it: what is left in it is written as Python ends.
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", program], env=buffered, **streams)
    assert process.stdout and process.stderr
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 128 + signal.SIGPIPE
    process.stderr.close()
