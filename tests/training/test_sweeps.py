"""Sweeps through the launchers of the extra `sweeps`, if it is installed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import processes
import pytest
from omegaconf import DictConfig, OmegaConf
from runs import UNCHECKED

ROOT = Path(__file__).parents[2]
SWEEPS = sorted(path.stem for path in (ROOT / "configs/sweep").glob("*.yaml"))
FAST = [
    "debug=fast",
    "trainer=cpu",
    "threads=1",
    UNCHECKED,
    "trainer.max_steps=2",
    "trainer.val_check_interval=2",
    "size.d_model=32",
    "trainer.limit_val_batches=1",
    "~callbacks.plots",
]


def run(logs: Path, *command: str) -> str:
    """Runs a command and returns its output."""
    environment = {**os.environ, "STREAMNEST_LOGS": str(logs)}
    done = processes.run(*command, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", [name for name in SWEEPS if name != "optuna"])
def test_every_value_of_a_sweep_makes_a_config(composed: Callable[..., DictConfig], name: str) -> None:
    params = OmegaConf.load(ROOT / "configs/sweep" / f"{name}.yaml").hydra.sweeper.params
    for key, values in params.items():
        for value in values.split(","):
            cfg = composed(f"sweep={name}", f"{key}={value}")
            assert cfg.hydra.runtime.choices.get(key, value) == value


@pytest.mark.parametrize(("variant", "name"), [("null", "causal-random-tiny"), ("96x4", "causal-random-tiny-96x4")])
def test_runs_with_the_same_groups_have_different_names(
    composed: Callable[..., DictConfig], variant: str, name: str
) -> None:
    composed()
    node = OmegaConf.create({"variant": None if variant == "null" else variant})
    node.name = "${run_name:pretrain,null,causal,random,tiny,${variant}}"
    assert node.name == name


@pytest.mark.slow
def test_a_sweep_of_presets_can_be_reported(tmp_path: Path) -> None:
    run(tmp_path, "train.py", "-m", "sweep=latency", "encoder=causal,lookahead40", "logger=csv", *FAST)
    output = run(tmp_path, "scripts/report.py")
    page = Path(output.splitlines()[-1])
    assert "22.5 ms" in output and "42.5 ms" in output
    assert page.is_file()
    assert (page.parent / "pretrain_latency.png").is_file()


@pytest.mark.slow
def test_a_search_tries_values_under_different_names(tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="pip install -e '.[sweeps]'")
    run(tmp_path, "train.py", "-m", "sweep=optuna", "hydra.sweeper.n_trials=2", "run_id=s", *FAST)
    folders = sorted((tmp_path / "multiruns/s").glob("[0-9]_*"))
    assert [folder.name for folder in folders] == ["0_lookahead40-causal-tiny-0", "1_lookahead40-causal-tiny-1"]
    rates = {OmegaConf.load(folder / ".hydra/config.yaml").optim.lr for folder in folders}
    assert len(rates) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "plugin"), [("submitit_local", "hydra_submitit_launcher"), ("joblib", "hydra_joblib_launcher")]
)
def test_a_second_start_continues_every_job_of_a_sweep(tmp_path: Path, launcher: str, plugin: str) -> None:
    pytest.importorskip(f"hydra_plugins.{plugin}", reason="pip install -e '.[sweeps]'")
    words = [*FAST, "encoder=causal,lookahead40", "run_id=one", f"hydra/launcher={launcher}"]

    def sweep(steps: int) -> None:
        run(tmp_path, "train.py", "-m", *words, f"trainer.max_steps={steps}")

    sweep(2)
    logs = [
        tmp_path / f"multiruns/one/{n}_{preset}-causal-tiny/train.log"
        for n, preset in enumerate(("causal", "lookahead40"))
    ]
    assert all(path.exists() and "continues at" not in path.read_text() for path in logs)
    sweep(3)
    assert all("run one continues at" in path.read_text() for path in logs)
