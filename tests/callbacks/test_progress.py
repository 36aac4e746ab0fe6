from __future__ import annotations

import io
import re

from rich.console import Console

from streamnest.callbacks import Progress


def printed(fit, *, terminal=False, **settings):
    file = io.StringIO()
    # Forced colours are what CI services set: still no terminal.
    console = Console(file=file, force_terminal=True, width=100)
    if terminal:
        file.isatty = lambda: True
    fit(Progress(console=console), **settings)
    return file.getvalue()


def test_piped_progress_is_plain_lines_at_the_log_interval(fit):
    text = printed(fit)
    assert re.findall(r"^step (\d+)/20  loss \d+\.\d+  lr 1.0e-02$", text, re.M) == ["5", "10", "15", "20"]
    assert len(text.splitlines()) == 4
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", text)


def test_each_validation_leaves_a_line(fit):
    text = printed(fit, limit_val_batches=1, val_check_interval=10)
    assert re.findall(r"validation at step (\d+)  loss", text) == ["10", "20"]


def test_gradient_accumulation_prints_each_step_once(fit):
    text = printed(fit, accumulate_grad_batches=3, max_steps=10)
    assert re.findall(r"^step (\d+)/10", text, re.M) == ["5", "10"]


def test_a_terminal_gets_a_bar_that_ends_complete(fit):
    text = printed(fit, terminal=True)
    assert "\x1b" in text
    assert "step 20/20" in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)


def test_disabled_progress_is_silent(fit):
    file = io.StringIO()
    progress = Progress(console=Console(file=file))
    progress.disable()
    fit(progress, limit_val_batches=1, val_check_interval=10)
    assert file.getvalue() == ""
