"""Running stages, with processes that are none."""

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

from streamnest.frontier.options import Options
from streamnest.frontier.plan import make_plan
from streamnest.frontier.processes import Machine
from streamnest.frontier.progress import Watcher, duration, steps
from streamnest.frontier.records import Records
from streamnest.frontier.runner import Runner

OPTIONS = Options(presets=("causal", "limited3200"), pretrain_steps=5, finetune_steps=7)


class Pretended:
    """A process that ends at its second look, having left what the real one would."""

    def __init__(self, status: int, finish: Callable[[], None]) -> None:
        self.status, self.finish, self.looks, self.stopped = status, finish, 0, False

    def poll(self) -> int | None:
        self.looks += 1
        if self.stopped:
            return 75
        if self.looks < 2:
            return None
        if self.looks == 2 and self.status == 0:
            self.finish()
        return self.status

    def terminate(self) -> None:
        self.stopped = True

    kill = terminate


class Computer:
    """Starts pretended processes and remembers their commands."""

    def __init__(self, records: Records, fails: str = "nothing", steps: int | None = None) -> None:
        self.records, self.fails, self.steps = records, fails, steps
        self.commands: list[list[str]] = []
        self.processes: list[Pretended] = []
        self.most_at_once = 0

    def __call__(self, command: list[str], environment: dict[str, str], log: IO[bytes], lock: int) -> Pretended:
        self.commands.append(command)
        log.write(b"step 3/7 loss 2\nthe last words\n")
        process = Pretended(1 if any(self.fails in word for word in command) else 0, lambda: self.leave(command))
        self.processes.append(process)
        self.most_at_once = max(self.most_at_once, sum(p.looks < 2 for p in self.processes))
        return process

    def leave(self, command: list[str]) -> None:
        if "--out" in command:
            Path(command[command.index("--out") + 1]).write_text(json.dumps(evaluation(0.5, "causal")))
            return
        run = next(word.removeprefix("run_id=") for word in command if word.startswith("run_id="))
        asked = int(next(w.split("=")[1] for w in command if w.startswith("trainer.max_steps=")))
        folder = self.records.out / "runs" / run / "checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        torch.save({"global_step": asked if self.steps is None else self.steps}, folder / "last.ckpt")


@pytest.fixture
def runner(tmp_path: Path) -> Callable[..., tuple[Runner, Computer, io.StringIO]]:
    def make(jobs: int = 1, **kwargs: object) -> tuple[Runner, Computer, io.StringIO]:
        records, said = Records(tmp_path), io.StringIO()
        computer = Computer(records, **kwargs)  # type: ignore[arg-type]
        watcher = Watcher(records, jobs, Console(file=said, width=200))
        return Runner(Machine(Path("root"), records), watcher, jobs, computer, 0.0, lambda: "0123abc"), computer, said

    return make


def test_all_stages_run_after_what_they_need_and_are_recorded(runner) -> None:
    machine, computer, said = runner()
    plan = make_plan(OPTIONS)
    assert machine.run(plan) == {}
    assert len(computer.commands) == len(plan) == 10 and computer.most_at_once == 1
    records = [machine.records.read(stage) for stage in plan]
    assert all(record["key"] == stage.key for record, stage in zip(records, plan, strict=True))
    assert [r["result"]["steps"] for r in records if r["kind"] == "pretrain"] == [5, 5]
    assert all(len(r["result"]["utterances"]) == 200 for r in records if r["kind"] == "evaluate")
    assert "[10/10] evaluate limited3200 from scratch seed 0: done in " in said.getvalue()


def test_what_is_done_is_not_run_again_and_a_changed_option_runs_what_depends_on_it(runner) -> None:
    runner()[0].run(make_plan(OPTIONS))
    again, computer, said = runner()
    again.run(make_plan(OPTIONS))
    assert computer.commands == [] and "10 stages, 10 of them done" in said.getvalue()
    changed, computer, _ = runner()
    changed.run(make_plan(Options(**{**OPTIONS.plain(), "finetune_steps": 9})))
    assert len(computer.commands) == 8 and not any("masking=causal" in c for c in computer.commands)


def test_a_stage_that_fails_is_shown_and_what_does_not_need_it_goes_on(runner) -> None:
    machine, computer, said = runner(fails="run_id=pretrain_causal")
    plan = make_plan(OPTIONS)
    failed = machine.run(plan)
    assert {s.title for s in plan if s.key in failed} == {
        "pretrain causal seed 0",
        "finetune causal pretrained seed 0",
        "evaluate causal pretrained seed 0",
    }
    text = said.getvalue()
    assert "pretrain causal seed 0: FAILED: status 1" in text and "the last words" in text
    assert len(computer.commands) == 8
    mended, computer, _ = runner()
    assert mended.run(plan) == {} and len(computer.commands) == 3


def test_a_run_that_stopped_early_is_not_done(runner) -> None:
    machine, _, said = runner(steps=4)
    failed = machine.run(make_plan(Options(presets=("causal",), pretrain_steps=5)))
    assert "stopped at step 4 of 5" in said.getvalue() and len(failed) == 5


def test_jobs_run_side_by_side_but_never_before_what_they_need(runner) -> None:
    machine, computer, _ = runner(jobs=3)
    assert machine.run(make_plan(OPTIONS)) == {}
    assert computer.most_at_once == 3
    kinds = [
        next((k for k in ("pretrain", "finetune") if any(f"run_id={k}" in w for w in c)), "") for c in computer.commands
    ]
    assert kinds[:3] == ["pretrain", "finetune", "pretrain"]


def test_when_the_command_is_stopped_its_stages_are_told_to_save(runner) -> None:
    machine, computer, _ = runner(jobs=2)
    machine.watcher.look = lambda running: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        machine.run(make_plan(OPTIONS))
    assert len(computer.processes) == 2 and all(process.stopped for process in computer.processes)
    assert not list(machine.records.out.glob("stages/*"))


def test_a_stage_that_another_process_runs_is_waited_for(runner) -> None:
    machine, computer, said = runner()
    plan = make_plan(Options(presets=("causal",), pretrain_steps=5))
    path = machine.records.out / "locks" / plan[0].key
    path.parent.mkdir(parents=True)
    with path.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        looks: list[int] = []

        def look(running: object) -> None:
            looks.append(len(computer.commands))
            if len(looks) == 20:
                machine.records.write(plan[0], 1.0, {"steps": 5}, None)
                fcntl.flock(other, fcntl.LOCK_UN)

        machine.watcher.look = look
        assert machine.run(plan) == {}
    assert "another process is running it" in said.getvalue() and "done by another process" in said.getvalue()
    assert not any("run_id=pretrain" in word for command in computer.commands for word in command)


def test_a_lock_is_free_again_when_its_stage_is_done(runner) -> None:
    machine, _, _ = runner()
    plan = make_plan(OPTIONS)
    machine.run(plan)
    for stage in plan:
        found = os.open(machine.records.out / "locks" / stage.key, os.O_RDWR)
        fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(found)


def test_the_estimate_is_what_stages_of_a_kind_took(tmp_path: Path) -> None:
    records, plan = Records(tmp_path), make_plan(OPTIONS)
    watcher = Watcher(records, jobs=2, console=Console(file=io.StringIO()))
    watcher.begin(plan, set())
    assert watcher.remaining([]) is None
    for stage, seconds in zip(plan[:3], (100.0, 50.0, 10.0), strict=True):
        watcher.finished(stage, seconds)
    assert watcher.remaining([]) == pytest.approx((100 + 3 * 50 + 3 * 10) / 2)


def test_the_step_of_a_run_is_read_from_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert steps(log) is None
    log.write_text("step 10/40 loss 3\nstep 20/40 loss 2\nvalidation\n")
    assert steps(log) == (20, 40)


def test_durations_are_words() -> None:
    assert [duration(s) for s in (40, 720, 12000)] == ["40 s", "12 min", "3 h 20 min"]
