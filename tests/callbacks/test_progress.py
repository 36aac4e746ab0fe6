from __future__ import annotations

import io
import logging
import re
from types import SimpleNamespace

from rich.console import Console

from streamnest.callbacks import Progress
from streamnest.callbacks.progress import tracked
from streamnest.callbacks.progress_text import remaining, validation_parts

CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def printed(fit, *, terminal=False, width=100, **settings):
    file = io.StringIO()
    # CI services force colors: still not a terminal.
    console = Console(file=file, force_terminal=True, width=width)
    if terminal:
        file.isatty = lambda: True
    fit(Progress(console=console, refresh_per_second=1000), **settings)
    return file.getvalue()


def test_piped_progress_is_plain_lines_at_the_log_interval(fit):
    text = printed(fit)
    assert re.findall(r"^step (\d+)/20  loss \d+\.\d+  lr 1.0e-02$", text, re.M) == ["5", "10", "15", "20"]
    assert len(text.splitlines()) == 4
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", text)


def test_each_step_and_each_validation_print_one_line(fit):
    text = printed(fit, accumulate_grad_batches=3, max_steps=10, limit_val_batches=1, val_check_interval=15)
    assert re.findall(r"^step (\d+)/10", text, re.M) == ["5", "10"]
    assert re.findall(r"validation at step (\d+)  loss", text) == ["5", "10"]


def test_a_budget_in_hours_is_shown_with_the_time_left():
    model = SimpleNamespace(hours_seen=1.5)
    metrics = {"train/hours": 1.5, "train/audio_hours_per_hour": 30.0, "train/loss": 2.0}
    running = SimpleNamespace(
        lightning_module=model, global_step=10, log_every_n_steps=10, callback_metrics=metrics, optimizers=[]
    )
    file = io.StringIO()
    progress = Progress(console=Console(file=file, width=100))
    progress._budget = 6.0
    progress._line(running)
    assert file.getvalue() == "step 10  1.50/6 h consumed  loss 2.000  30x real time  9 min left\n"
    running.max_steps, running.accumulate_grad_batches, metrics["train/step_seconds"] = 40, 2, 3.0
    assert remaining(running, None) == 180.0


def test_a_terminal_of_80_columns_shows_the_whole_remaining_time(fit):
    text = CONTROL.sub("", printed(fit, terminal=True, width=80, limit_val_batches=2, val_check_interval=10))
    lines = text.replace("\r", "\n").splitlines()
    assert "step 20/20" in text and "validation batch 2/2" in text
    bars = [line for line in lines if line.startswith("step ")]
    assert bars and all(len(line) <= 80 and re.match(r"step +\d+/20 +(\d\d:\d\d|--:--)(?!…)", line) for line in bars)
    assert "━" not in text and "━" in printed(fit, terminal=True, width=120, max_steps=5)


def test_a_validation_line_is_broken_between_its_parts():
    metrics = {"val/loss": 7.588, "val/accuracy": 0.031, "val/gain": 2.651, "val/cer": 0.5, "val/wer": 0.9}
    file = io.StringIO()
    file.isatty = lambda: True
    Progress(console=Console(file=file, width=60))._print(validation_parts(metrics, 700))
    lines = file.getvalue().splitlines()
    assert lines == [
        "validation at step 700  loss 7.588  accuracy 3.1%  CER 50.0%",
        "  WER 90.0%  2.651 nats below the unigram baseline",
    ]


def test_reading_for_the_corpus_statistics_shows_its_progress(caplog):
    batches = [SimpleNamespace(seconds=1800.0)] * 3
    file = io.StringIO()
    file.isatty = lambda: True
    with caplog.at_level(logging.INFO):
        assert list(tracked(batches, 1.0, Console(file=file, width=80, force_terminal=True))) == batches
        assert not caplog.text and "statistics 100%" in CONTROL.sub("", file.getvalue())
        assert list(tracked(batches, 1.0, Console(file=io.StringIO()))) == batches
    assert "reading up to 1 h of audio" in caplog.text


def test_disabled_progress_is_silent(fit):
    file = io.StringIO()
    progress = Progress(console=Console(file=file))
    progress.disable()
    fit(progress, limit_val_batches=1, val_check_interval=10)
    assert file.getvalue() == ""
