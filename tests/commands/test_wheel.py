"""The wheel contains configs and sample corpus, and an installation of it trains in an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]


# Variables that an installation must not depend on.
OWN = ("STREAMNEST", "PYTHONPATH", "WANDB", "PYTEST")


def call(*words: object, folder: Path) -> str:
    """Returns the output of a command in a folder, without the settings and paths of this process."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OWN)}
    return run(*words, folder=folder, env=kept)


def run(*words: object, folder: Path, env: dict[str, str] | None = None) -> str:
    command = list(map(str, words))
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(ROOT).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling", reason="builds the wheel without an index: make setup installs hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    run(*pip, "--wheel-dir", folder, ROOT, folder=folder)
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_wheel_contains_configs_sample_corpus_and_licenses(wheel: Path) -> None:
    names = set(ZipFile(wheel).namelist())
    data = files_below(ROOT / "data/sample16k") | {n for n in files_below(ROOT / "configs") if "/local/" not in n}
    assert {f"streamnest/{name}" for name in data} <= names
    assert "streamnest/py.typed" in names
    assert sum(name.split("/")[-1] in ("LICENSE", "NOTICE") for name in names) == 2
    assert not any(name.startswith(("tests/", "scripts/")) for name in names)


@pytest.mark.slow
def test_an_installed_wheel_trains_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    # The environment sees the libraries of this one, but not the editable installation of streamnest.
    call(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", folder=tmp_path)
    (packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    python, command = tmp_path / "venv/bin/python", tmp_path / "venv/bin/streamnest"
    call(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", wheel, folder=tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "`lookahead40`" in call(command, "presets", folder=empty)
    assert "streamnest train masking=causal" in call(command, "train", "--help", folder=empty)
    small = ("debug=fast", "trainer.max_steps=2", "size.d_model=32", "logger=csv", "~callbacks.plots")
    # Two processes, of which Lightning starts the second.
    text = call(command, "train", *small, "trainer=ddp_cpu", folder=empty)
    assert "step 2" in text and "streamnest train debug=fast" in text
    assert list(empty.glob("logs/runs/*/*/csv/metrics.csv"))
