"""Command lines tell mistakes and nothing else."""

from __future__ import annotations

import pytest
from hydra.errors import ConfigCompositionException

from streamnest.commands import without_trace
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
