"""One process writes to the folder of a run, and a refused command leaves no folder."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.conf import HydraConf, RunDir, SweepDir
from omegaconf import OmegaConf

from streamnest.console.entry_point import PREEMPTED
from streamnest.errors import UserError
from streamnest.training import run_folder
from streamnest.training.run_folder import NoteFolders, claimed, remove_refused_sweep


@pytest.fixture(autouse=True)
def _nothing_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "_made", set())


def hydra_makes(folder: Path, kind: str = "run") -> None:
    """Imitates Hydra before a job: calls the callback, then creates the folder."""
    config = OmegaConf.create({"hydra": HydraConf(run=RunDir(str(folder)), sweep=SweepDir(str(folder)))})
    getattr(NoteFolders(), f"on_{'multi' * (kind == 'sweep')}run_start")(config)
    folder.mkdir(parents=True, exist_ok=True)


def test_a_second_process_is_refused_with_the_first_process(tmp_path: Path) -> None:
    with (
        claimed(tmp_path),
        pytest.raises(UserError, match=f"in use by process {os.getpid()} on {os.uname().nodename}.*another run_id"),
        claimed(tmp_path),
    ):
        pass
    with claimed(tmp_path):
        pass


def test_the_lock_of_a_dead_process_is_replaced(tmp_path: Path) -> None:
    ready, asked = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with claimed(tmp_path):
                if os.fork() == 0:  # a worker that outlives its parent
                    os.write(asked, b"x")
                    signal.pause()
                os.wait()
        finally:
            os._exit(0)
    os.read(ready, 1)
    with pytest.raises(UserError, match=f"process {child} "), claimed(tmp_path):
        pass
    worker = int(Path(f"/proc/{child}/task/{child}/children").read_text())
    os.kill(child, 9)
    os.waitpid(child, 0)
    try:
        with claimed(tmp_path):
            assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} ")
    finally:
        os.kill(worker, 9)


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("victim"), Path.mkdir, os.mkfifo])
def test_a_file_that_is_not_a_lock_is_kept(tmp_path: Path, make: Callable[[Path], None]) -> None:
    (tmp_path / "victim").write_text("x")
    make(tmp_path / ".lock")
    with pytest.raises(UserError, match=r"\.lock is a link, a folder or a device.*remove it"), claimed(tmp_path):
        pass
    assert (tmp_path / "victim").read_text() == "x"


def end_with(end: BaseException, folder: Path, *made: str) -> None:
    """Imitates a run that ends with an exception after creating folders in its own."""
    with claimed(folder):
        for name in made:
            (folder / name).mkdir(exist_ok=True)
        (folder / "train.log").write_text("x")
        raise end


@pytest.mark.parametrize("end", [UserError("no"), KeyboardInterrupt(), SystemExit(130)], ids=repr)
def test_a_run_that_does_not_start_leaves_no_folder(tmp_path: Path, end: BaseException) -> None:
    folder = tmp_path / "logs/runs/day/time"
    hydra_makes(folder)
    with pytest.raises(type(end)):
        end_with(end, folder, "csv")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("end", [UserError("no"), SystemExit(PREEMPTED), ZeroDivisionError()], ids=repr)
def test_existing_folders_and_started_runs_are_kept(tmp_path: Path, end: BaseException) -> None:
    (tmp_path / "other/checkpoints").mkdir(parents=True)
    for name, made in (("other", ()), ("begun", (".hydra",))):
        hydra_makes(tmp_path / name)
        with pytest.raises(type(end)):
            end_with(end, tmp_path / name, *made)
    assert (tmp_path / "other/checkpoints").exists() and (tmp_path / "begun/.hydra").exists()


def test_only_refused_sweeps_leave_no_folder(tmp_path: Path) -> None:
    for name in ("refused", "begun"):
        hydra_makes(tmp_path / name, "sweep")
        (tmp_path / name / "multirun.yaml").write_text("")
    (tmp_path / "begun/0_job").mkdir()
    remove_refused_sweep()
    assert [path.name for path in tmp_path.iterdir()] == ["begun"]


def test_other_ranks_of_a_run_share_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with claimed(tmp_path):
        monkeypatch.setattr(run_folder.rank_zero_only, "rank", 1)
        with claimed(tmp_path):
            pass
        with pytest.raises(UserError, match=r"^no$"), claimed(tmp_path):
            raise UserError("no")
    assert tmp_path.exists()
