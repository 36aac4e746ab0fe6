"""Commands, scripts, benchmarks and notebooks run, and the README shows what they print."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from inprocess import load, main
from processes import run

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted(path.name for path in (ROOT / "notebooks").glob("*.py"))
STORED = ROOT / "tests/fixtures/stored"
IN_A_KERNEL = "frontier.py"  # the one that CI runs as Jupyter does


def script(*words: str) -> str:
    """Returns the output of a script; a program after `-c` starts without loaded libraries."""
    alone = [sys.executable, *words]
    done = (
        subprocess.run(alone, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
        if words[0] == "-c"
        else run(*words, timeout=600)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# Importing Lightning takes most of the time of a short command.
_WITHOUT_LIGHTNING = """
import runpy, sys
sys.path.insert(0, "scripts")
sys.argv = ["presets.py"]
try:
    runpy.run_path("scripts/presets.py", run_name="__main__")
finally:
    assert "lightning" not in sys.modules
"""


def test_readme_shows_the_presets_as_computed() -> None:
    table = script("-c", _WITHOUT_LIGHTNING)
    assert table.strip() in (ROOT / "README.md").read_text()
    assert "`lookahead40`" in table and "42.5 / 82.5 ms" in table


def test_presets_table_gives_the_error_of_an_illegal_preset(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("presets", "encoder.subsampling_factor=8") == 0
    assert "nearest legal values are 0 and 80 ms" in capsys.readouterr().out
    assert main("presets", "nonsense=1") == 2
    assert "nonsense=1: there is no such key or group" in capsys.readouterr().err


@pytest.mark.long
def test_step_benchmark_prints_stages_speed_and_memory() -> None:
    text = script("benchmarks/training_step.py", "--batch", "1", "--seconds", "1", "--runs", "1", "--factors", "8")
    for words in ("features", "backward", "optimizer", "share of matrix peak", "audio s per s", "8x causal fp32"):
        assert words in text
    memory = next(line for line in text.splitlines() if "memory, GB" in line)
    assert float(memory.split()[-2]) > 0.02


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long if name == IN_A_KERNEL else []) for name in NOTEBOOKS]
)
def test_every_notebook_runs(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Runs them as programs: a kernel takes as long to start as most of them take to run."""
    monkeypatch.setenv("STREAMNEST_UTTERANCES", "10")
    monkeypatch.setenv("MPLBACKEND", "agg")
    assert "Figure(" in script(f"notebooks/{name}")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == IN_A_KERNEL else pytest.mark.long) for name in NOTEBOOKS]
)
def test_an_executed_notebook_contains_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("STREAMNEST_UTTERANCES", "10")
    script("tools/run_notebooks.py", f"notebooks/{name}", "--out", str(tmp_path))
    assert b"image/png" in (tmp_path / name).with_suffix(".ipynb").read_bytes()


@pytest.mark.long
def test_small_step_benchmark_prints_each_variant() -> None:
    text = script("benchmarks/small_step.py", "size=tiny", "size.num_layers=1", "--rows=1", "--seconds=1", "--steps=1")
    assert text.count("muon") == text.count("bfloat16") == 2


@pytest.mark.long
def test_teacher_step_benchmark_prints_each_kind_of_codes() -> None:
    small = ("size.num_layers=1", "quantizer.num_classes=16", "--layer=1", "--rows=1", "--seconds=1", "--steps=1")
    text = script("benchmarks/teacher_step.py", "size=tiny", *small)
    assert all(kind in text for kind in ("no teacher", "teacher, not cached", "teacher, cached"))


@pytest.mark.long
def test_streaming_benchmark_prints_chunks_and_streams_per_core() -> None:
    text = script("benchmarks/streaming.py", "--sizes", "tiny", "--batches", "2", "--count", "3", "size=tiny")
    assert "reference size, 8x" in text and "tiny, 4x" in text and "streams a core" in text


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("soak", ("encoder=causal", "--minutes", "5"), "at least two parts"),
        ("streaming", ("--chunk", "0.1", "--sizes", "tiny", "size=tiny"), "multiple of the encoder frame, 80 ms"),
        ("reference", ("no_such_python",), "no_such_python cannot be started"),
        ("serving", (str(STORED / "diarization.ckpt"),), "gives no text: give a checkpoint of task=ctc or rnnt"),
    ],
)
def test_benchmarks_refuse_settings_they_would_measure_wrongly(
    name: str,
    words: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setattr(sys, "argv", [name, *words])
    assert load(name, "benchmarks").main() == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("last", "status"), [((12.0, 1.05), 0), ((13.0, 1.0), 1), ((10.0, 1.2), 1)])
def test_soak_fails_if_a_stream_gets_slower_or_larger(
    monkeypatch: pytest.MonkeyPatch, last: tuple[float, float], status: int
) -> None:
    soak = load("soak", "benchmarks")
    monkeypatch.setattr(soak, "soak", lambda _: [(10.0, 10.0, 2.0, 1.0), (20.0, last[0], 2.0, last[1])])
    monkeypatch.setattr(sys, "argv", ["soak", "encoder=causal"])
    assert soak.main() == status


@pytest.mark.long
def test_serving_benchmark_measures_delays_and_soaks() -> None:
    pytest.importorskip("uvicorn")
    text = script("benchmarks/serving.py", str(STORED / "ctc.ckpt"), "--quick")
    assert "1 threads: p99 within 160 ms up to" in text and " 0 different, 0 lost" in text


@pytest.mark.long
def test_soak_prints_each_part() -> None:
    text = script("benchmarks/soak.py", "encoder=limited3200", "--minutes", "0.4", "--part", "0.2", "--piece", "0.5")
    assert "last part over first" in text


@pytest.mark.parametrize(
    ("name", "words", "parsed"),
    [
        ("transcribe", ("m.ckpt", "--stream", "a.wav"), {"checkpoint": "m.ckpt", "audio": ["a.wav"]}),
        ("transcribe", ("--stream", "m.ckpt", "--threads", "2", "a.wav", "b.wav"), {"audio": ["a.wav", "b.wav"]}),
        ("diarize", ("m.ckpt", "--chunk-size", "1", "a.wav"), {"checkpoint": "m.ckpt", "audio": ["a.wav"]}),
        ("stream", ("m.ckpt", "--realtime", "a.wav", "-"), {"model": "m.ckpt", "audio": ["a.wav", "-"]}),
        ("stream", ("a.wav", "--model_path", "m.ckpt"), {"model": "m.ckpt", "audio": ["a.wav"]}),
        ("stream", ("--model_path", "m", "--audio_path", "a", "b"), {"model": "m", "audio": ["a", "b"]}),
        ("inspect", ("a.jsonl", "--sample", "3", "b.jsonl"), {"manifests": ["a.jsonl", "b.jsonl"]}),
    ],
)
def test_positional_arguments_may_follow_options(name: str, words: tuple[str, ...], parsed: dict[str, object]) -> None:
    args = vars(load(f"arguments.{name}").parse(list(words)))
    assert {key: args[key] for key in parsed} == parsed


def test_flops_without_arguments_prints_every_size_and_stride(capsys: pytest.CaptureFixture[str]) -> None:
    assert main("flops", "--sizes", "tiny") == 0
    rows = [line.split("|")[1:3] for line in capsys.readouterr().out.splitlines() if line.startswith("| `")]
    assert [[cell.strip() for cell in row] for row in rows] == [["`tiny`", "40 ms"], ["`tiny`", "80 ms"]]


def test_flops_of_a_run_multiplies_cost_steps_and_devices(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("size=tiny", "trainer.max_steps=1800", "trainer.devices=4", "data.batch_duration=60")
    assert main("flops", *words, "trainer.accumulate_grad_batches=2", "--hours", 60, "--peak-tflops", 1) == 0
    table = dict(re.findall(r"^\| (.+?) \| (.+) \|$", capsys.readouterr().out, re.M))
    assert table["audio per step"] == "0.133 h: 4 devices x 120 s" and table["passes"] == "4.0 over 60 h"
    assert table["audio consumed"] == "240 h in 1,800 steps" and table["shards"] == "4 GB as flac, 1 GB as opus"
    flops = float(table["GFLOPs per audio s"].partition(":")[0]) * 1e9 * 240 * 3600
    assert float(table["FLOPs of the run"]) == pytest.approx(flops, rel=0.02)
    assert float(table["GPU-hours"].partition(",")[0]) == pytest.approx(flops / 0.35e12 / 3600, rel=0.2)
    assert table["stored codes"] == "180 kB per hour, 0.01 GB"
    assert main("flops", *words, "trainer.devices=-1") == 2
    assert "trainer.devices=-1 depends on the machine: give a number" in capsys.readouterr().err


@pytest.mark.parametrize("folder", ["benchmarks", "tools"])
def test_scripts_parse_their_arguments_before_slow_imports(folder: str) -> None:
    for path in (ROOT / folder).glob("*.py"):
        source = path.read_text()
        slow = [found.start() for found in re.finditer(r"^(?:import|from) (?:torch|lhotse|nbclient)\b", source, re.M)]
        if slow and not path.name.startswith("draw_"):
            assert "    parse()  # a help page" in source[: min(slow)], path
