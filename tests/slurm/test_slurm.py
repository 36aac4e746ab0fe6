"""A real SLURM on this machine runs the launch script: jobs are preempted, requeued, resumed, and lose nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import ROOT, eventually
from runs import SMALL, assert_same_run, finish, losses

TESTBED = Path(__file__).with_name("testbed.sh")
STEPS = 40
WORDS = ("trainer=ddp_cpu", f"trainer.max_steps={STEPS}", f"trainer.val_check_interval={STEPS}", "data.num_workers=1")
# A template for GPUs, on a node without any.
RESOURCES = ("--ntasks-per-node=2", "--cpus-per-task=1", "--gpus-per-node=0", "--partition=low")
MISSING = [
    name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name, path="/usr/sbin:/usr/bin")
]

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(bool(MISSING), reason=f"SLURM is not installed ({', '.join(MISSING)}): docs/LAUNCH.md"),
    pytest.mark.skipif(os.geteuid() != 0, reason="the SLURM of these tests runs as root, in a container for instance"),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """The environment in which the commands of SLURM find a cluster of one node."""
    # Not in the folder of pytest: all that leads to the socket of munge must be open to everyone.
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        try:
            subprocess.run([TESTBED, "start", folder], check=True, timeout=60)
            yield {**os.environ, "SLURM_CONF": f"{folder}/slurm.conf", "PYTHON": sys.executable}
        finally:
            subprocess.run([TESTBED, "stop", folder], check=False, timeout=60)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the same run without SLURM, that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    finish(folder, *WORDS)
    return folder


class Job:
    """A job of the launch script in a folder of its own."""

    def __init__(self, cluster: dict[str, str], folder: Path) -> None:
        self.environment = {**cluster, "STREAMNEST_LOGS": str(folder), "COLUMNS": "160"}
        self.output = folder / "slurm.out"
        small = [word for word in SMALL if not word.startswith("run_id=")]
        options = ("--parsable", f"--output={self.output}", *RESOURCES)
        self.number = self.run("sbatch", *options, "scripts/launch/slurm.sh", *small, *WORDS)
        self.folder = folder / f"runs/{self.number}"

    def run(self, *words: str) -> str:
        done = subprocess.run(words, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    def said(self, *texts: str) -> bool:
        """Waits until the output contains each of the texts."""
        return eventually(lambda: all(text in self.text() for text in texts), 180)

    def text(self) -> str:
        return self.output.read_text() if self.output.exists() else ""

    def state(self) -> dict[str, str]:
        """Returns the fields of `scontrol show job`, such as JobState, Restarts and ExitCode."""
        shown = self.run("scontrol", "show", "job", "--oneliner", self.number)
        return dict(word.split("=", 1) for word in shown.split() if "=" in word)

    def completed(self) -> bool:
        return eventually(lambda: self.state()["JobState"] in ("COMPLETED", "FAILED", "CANCELLED"), 240)


def assert_nothing_was_lost(job: Job, whole: Path, folder: Path) -> None:
    before, after = losses(job.folder)
    assert before and after and not before.keys() & after.keys()
    assert [before | after] == losses(whole / "runs/one")
    assert_same_run(whole, folder, STEPS, run=job.number)
    assert not list(job.folder.rglob("hpc_ckpt*")), "Lightning requeued as well"


def test_a_signal_before_the_time_limit_saves_and_requeues(
    cluster: dict[str, str], whole: Path, tmp_path: Path
) -> None:
    job = Job(cluster, tmp_path)
    assert job.said("step 3/"), job.text()
    job.run("scancel", "--signal=USR1", job.number)
    assert job.said("SIGUSR1: saved step", f"run {job.number} continues at"), job.text()
    assert job.completed() and job.state()["JobState"] == "COMPLETED", job.text()
    assert job.state()["Restarts"] == "1"
    assert_nothing_was_lost(job, whole, tmp_path)


def test_a_job_preempted_by_a_more_important_one_loses_nothing(
    cluster: dict[str, str], whole: Path, tmp_path: Path
) -> None:
    job = Job(cluster, tmp_path)
    assert job.said("step 3/"), job.text()
    job.run("sbatch", "--partition=high", "--ntasks=4", f"--output={tmp_path}/high.out", "--wrap=true")
    assert job.said("SIGTERM: saved step", f"run {job.number} continues at"), job.text()
    assert job.completed() and job.state()["JobState"] == "COMPLETED", job.text()
    assert (tmp_path / "high.out").exists()
    assert_nothing_was_lost(job, whole, tmp_path)
