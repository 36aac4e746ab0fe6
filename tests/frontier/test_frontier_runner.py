"""Runner of stages, with fake processes."""

from __future__ import annotations

import fcntl
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest
import torch
from frontiers import evaluation
from rich.console import Console

from streamnest.formatting import duration
from streamnest.frontier.options import FrontierOptions
from streamnest.frontier.plan import make_plan
from streamnest.frontier.processes import Launcher
from streamnest.frontier.progress import Watcher, steps
from streamnest.frontier.records import Records
from streamnest.frontier.runner import Runner

OPTIONS = FrontierOptions(presets=("causal", "limited3200"), pretrain_steps=5, finetune_steps=7)


class FakeProcess:
    """A process that ends at its second poll, after it has written what a real one would."""

    def __init__(self, status: int, finish: Callable[[], None]) -> None:
        self.status, self.finish, self.polls, self.stopped = status, finish, 0, False

    def poll(self) -> int | None:
        self.polls += 1
        if self.stopped:
            return 75
        if self.polls < 2:
            return None
        if self.polls == 2 and self.status == 0:
            self.finish()
        return self.status

    def terminate(self) -> None:
        self.stopped = True

    kill = terminate


class FakeStart:
    """Starts fake processes and stores their commands."""

    def __init__(self, records: Records, fails: str = "nothing", steps: int | None = None) -> None:
        self.records, self.fails, self.steps = records, fails, steps
        self.commands: list[list[str]] = []
        self.processes: list[FakeProcess] = []
        self.most_at_once = 0

    def __call__(self, command: list[str], environment: dict[str, str], log: IO[bytes], lock: int) -> FakeProcess:
        self.commands.append(command)
        log.write(b"step 3/7 loss 2\nthe last line\n")
        process = FakeProcess(
            1 if any(self.fails in argument for argument in command) else 0, lambda: self.write_output(command)
        )
        self.processes.append(process)
        self.most_at_once = max(self.most_at_once, sum(p.polls < 2 for p in self.processes))
        return process

    def write_output(self, command: list[str]) -> None:
        if "--out" in command:
            Path(command[command.index("--out") + 1]).write_text(json.dumps(evaluation(0.5, "causal")))
            return
        run = next(one.removeprefix("run_id=") for one in command if one.startswith("run_id="))
        planned = int(next((one.split("=")[1] for one in command if one.startswith("trainer.max_steps=")), 1))
        folder = self.records.out / "runs" / run / "checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        torch.save({"global_step": planned if self.steps is None else self.steps}, folder / "last.ckpt")


@pytest.fixture
def runner(tmp_path: Path) -> Callable[..., tuple[Runner, FakeStart, io.StringIO]]:
    def make(jobs: int = 1, **kwargs: object) -> tuple[Runner, FakeStart, io.StringIO]:
        records, output = Records(tmp_path), io.StringIO()
        started = FakeStart(records, **kwargs)  # type: ignore[arg-type]
        watcher = Watcher(records, jobs, Console(file=output, width=200))
        return Runner(Launcher(records), watcher, jobs, started, 0.0, lambda: "0123abc"), started, output

    return make


def test_all_stages_run_after_their_dependencies_and_are_recorded(runner) -> None:
    runs, started, output = runner()
    plan = make_plan(OPTIONS)
    assert runs.run(plan) == {}
    assert len(started.commands) == len(plan) == 10 and started.most_at_once == 1
    records = [runs.records.read(stage) for stage in plan]
    assert all(record["key"] == stage.key for record, stage in zip(records, plan, strict=True))
    assert [r["result"]["steps"] for r in records if r["kind"] == "pretrain"] == [5, 5]
    assert all(len(r["result"]["utterances"]) == 200 for r in records if r["kind"] == "evaluate")
    assert "[10/10] evaluate limited3200 from scratch seed 0: done in " in output.getvalue()


def test_finished_stages_are_skipped_changed_ones_run(runner) -> None:
    runner()[0].run(make_plan(OPTIONS))
    again, started, output = runner()
    again.run(make_plan(OPTIONS))
    assert started.commands == [] and "10 stages, 10 of them done" in output.getvalue()
    changed, started, _ = runner()
    changed.run(make_plan(FrontierOptions(**{**OPTIONS.plain(), "finetune_steps": 9})))
    assert len(started.commands) == 8 and not any("masking=causal" in c for c in started.commands)


def test_failed_stage_stops_only_its_dependents(runner) -> None:
    runs, started, output = runner(fails="run_id=pretrain_causal")
    plan = make_plan(OPTIONS)
    failed = runs.run(plan)
    assert {s.title for s in plan if s.key in failed} == {
        "pretrain causal seed 0",
        "finetune causal pretrained seed 0",
        "evaluate causal pretrained seed 0",
    }
    text = output.getvalue()
    assert "pretrain causal seed 0: FAILED: exit status 1" in text and "the last line" in text
    assert len(started.commands) == 8
    repeated, started, _ = runner()
    assert repeated.run(plan) == {} and len(started.commands) == 3


def test_run_that_stopped_early_is_not_done(runner) -> None:
    runs, _, output = runner(steps=4)
    failed = runs.run(make_plan(FrontierOptions(presets=("causal",), pretrain_steps=5)))
    assert "stopped at step 4 of 5" in output.getvalue() and len(failed) == 5
    runs, _, output = runner()
    runs.run(make_plan(FrontierOptions(presets=("causal",), pretrain_hours=5.0)))
    assert "stopped after 0.00 of 5 h of audio" in output.getvalue()


def test_parallel_jobs_respect_dependencies(runner) -> None:
    runs, started, _ = runner(jobs=3)
    assert runs.run(make_plan(OPTIONS)) == {}
    assert started.most_at_once == 3
    kinds = [
        next((k for k in ("pretrain", "finetune") if any(f"run_id={k}" in w for w in c)), "") for c in started.commands
    ]
    assert kinds[:3] == ["pretrain", "finetune", "pretrain"]


def test_interrupted_command_terminates_its_stages(runner) -> None:
    runs, started, _ = runner(jobs=2)
    runs.watcher.look = lambda running: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        runs.run(make_plan(OPTIONS))
    assert len(started.processes) == 2 and all(process.stopped for process in started.processes)
    assert not list(runs.records.out.glob("stages/*"))


def test_stage_of_another_process_is_waited_for(runner) -> None:
    runs, started, output = runner()
    plan = make_plan(FrontierOptions(presets=("causal",), pretrain_steps=5))
    path = runs.records.out / "locks" / plan[0].key
    path.parent.mkdir(parents=True)
    with path.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        polls: list[int] = []

        def look(running: object) -> None:
            polls.append(len(started.commands))
            if len(polls) == 20:
                runs.records.write(plan[0], 1.0, {"steps": 5}, None)
                fcntl.flock(other, fcntl.LOCK_UN)

        runs.watcher.look = look
        assert runs.run(plan) == {}
    assert "waiting for another process" in output.getvalue() and "done by another process" in output.getvalue()
    assert not any("run_id=pretrain" in one for command in started.commands for one in command)


def test_lock_is_released_when_its_stage_is_done(runner) -> None:
    runs, _, _ = runner()
    plan = make_plan(OPTIONS)
    runs.run(plan)
    for stage in plan:
        found = os.open(runs.records.out / "locks" / stage.key, os.O_RDWR)
        fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(found)


def test_estimate_uses_mean_duration_per_kind(tmp_path: Path) -> None:
    records, plan = Records(tmp_path), make_plan(OPTIONS)
    watcher = Watcher(records, jobs=2, console=Console(file=io.StringIO()))
    watcher.begin(plan, set())
    assert watcher.remaining([]) is None
    for stage, seconds in zip(plan[:3], (100.0, 50.0, 10.0), strict=True):
        watcher.finished(stage, seconds)
    assert watcher.remaining([]) == pytest.approx((100 + 3 * 50 + 3 * 10) / 2)


def test_step_of_a_run_is_read_from_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert steps(log) is None
    log.write_text("step 10/40 loss 3\nstep 20/40 loss 2\nvalidation\n")
    assert steps(log) == (20, 40)
    log.write_text("step 10  0.50/6 h consumed  loss 3\nstep 20  1.25/6 h consumed  loss 2\n")
    assert steps(log) == (1.25, 6)


def test_durations_are_formatted() -> None:
    assert [duration(s) for s in (40, 720, 12000)] == ["40 s", "12 min", "3 h 20 min"]
