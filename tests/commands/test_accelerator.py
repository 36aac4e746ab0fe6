"""`benchmarks/accelerator.py` on a CPU: its parts, its failures, and its supervision of the process that measures."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from inprocess import load

ROOT = Path(__file__).parents[2]
MODEL = ("size.d_model=32", "size.num_layers=1", "size.num_heads=2", "size.subsampling_channels=8")
MODEL += ("quantizer.num_classes=64",)
SMALL = (*MODEL, "--device", "cpu", "--presets", "causal", "--batch-seconds", "1", "--steps", "1", "--in-process")
# Answers a request as the measuring process does; the part names its behavior.
WORKER = """
import json, os, sys, time
print(json.dumps({"device": "none"}), flush=True)
for line in sys.stdin:
    part = json.loads(line)["part"]
    if part == "crash": os.abort()
    if part == "hang": time.sleep(60)
    print(json.dumps({"part": part, "notes": [str(os.getpid())], "usable": part != "unusable"}), flush=True)
"""


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return load("accelerator", "benchmarks")


def test_parity_and_step_run_on_a_cpu(
    accelerator: ModuleType, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")  # compiling takes minutes
    path = tmp_path / "results.json"
    assert accelerator.main([*SMALL, "--parts", "parity", "step", "--json", str(path)]) == 0
    text, parts = capsys.readouterr().out, json.loads(path.read_text())["parts"]
    assert f"torch: {torch.__version__}" in text and "device: cpu" in text and "date: 20" in text
    assert "Not supported: compile=true needs a C++ compiler" in " ".join(parts[1]["notes"])
    values = {(row["model"], row["value"]) for row in parts[0]["rows"] if row["within"]}
    assert {("any", "mask, live edge"), ("model", "codes"), ("encoder=causal", "encoder output, training")} <= values
    assert ("encoder=causal", "streamed beside offline, on the device") in values
    rows = {(row["precision"], row["compile"]): row for row in parts[1]["rows"]}
    for precision in ("float32", "bf16-mixed"):
        row = rows[precision, False]
        assert row["audio h per device-h"] * row["ms per step"] == pytest.approx(1000.0)
        assert row["MFU, %"] > 0 and row["first step, s"] > 0
        assert rows[precision, True]["remark"] == "not supported"


def test_a_failed_part_is_reported_and_the_others_run(
    accelerator: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    from accelerator_parts import parity, serving

    def broken(*_: object) -> None:
        raise ZeroDivisionError("no device")

    calls = iter([0, 1])
    exact = parity._random_values
    monkeypatch.setattr(parity, "_random_values", lambda device: _shifted(exact(device), next(calls)))
    monkeypatch.setattr(parity, "_compare_models", lambda *_: None)
    monkeypatch.setitem(serving.PARTS, "loader", broken)
    monkeypatch.setitem(serving.PARTS, "stream", lambda *_: None)
    assert accelerator.main([*SMALL, "--parts", "parity", "loader", "stream"]) == 1
    text = capsys.readouterr().out
    assert "FAILED: uniform numbers (any): differs by 1.0e+00, tolerance 0e+00" in text
    assert "FAILED: ZeroDivisionError: no device" in text
    assert "stream took" in text


def _shifted(values: dict[str, Any], offset: int) -> dict[str, Any]:
    return {name: (value + offset, tolerance) for name, (value, tolerance) in values.items() if name.startswith("uni")}


def test_a_batch_too_large_for_memory_is_halved(accelerator: ModuleType) -> None:
    from accelerator_parts import settings, training_steps
    from accelerator_parts.results import PartResult

    class Step:
        device, bfloat16 = torch.device("cpu"), False
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])

        def __call__(self, batch: Any) -> None:
            if batch.seconds > 5:
                raise torch.OutOfMemoryError("CUDA out of memory")

    args = accelerator.parse(["--device", "cpu", "--batch-seconds", "1", "16", "32", "--steps", "1"])
    result = PartResult("step")
    rows = training_steps._sizes(Step(), settings.settings_of(args), settings.Budget(60), result)  # type: ignore[arg-type]
    assert [(row["batch, s"], row.get("remark")) for row in rows] == [
        (1, None),
        (16, "out of memory"),
        (8, "out of memory"),
        (4, None),
    ]
    rows = training_steps._sizes(Step(), settings.settings_of(args), settings.Budget(0), result)  # type: ignore[arg-type]
    assert not list(rows) and "used up: batches of 1 s" in result.notes[-1]


def test_a_step_in_place_equals_an_ordinary_one(accelerator: ModuleType) -> None:
    """A CUDA graph replays the step in place."""
    from accelerator_parts.pretraining_step import build
    from accelerator_parts.streaming_steps import _Stepper

    words = ("encoder=causal", "encoder.subsampling_factor=8", "encoder.left_context_ms=160", *MODEL)
    with torch.inference_mode():
        stepper = _Stepper(build(words, training=False).eval(), 2)
        stepper.own_state()
        assert stepper.graph_difference(stepper.advance_in_place) == 0


def test_a_process_that_crashes_or_hangs_is_replaced(accelerator: ModuleType) -> None:
    from accelerator_parts.supervision import Supervisor

    with Supervisor([sys.executable, "-c", WORKER], grace=1.0) as supervisor:
        first, second = supervisor.run("a", 20, None), supervisor.run("unusable", 20, None)
        assert first.notes == second.notes and not first.failures
        third = supervisor.run("b", 20, None)
        assert third.notes != second.notes
        assert supervisor.run("crash", 20, None).failures == ["the process ended with status -6"]
        assert "no result within 1 s" in supervisor.run("hang", 0, None).failures[0]
        assert not supervisor.run("c", 20, None).failures
    with Supervisor([sys.executable, "-c", "exit(3)"]) as supervisor:
        assert "does not start: the process ended with status 3" in supervisor.run("a", 1, None).failures[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--steps", "0"), "--steps 0: give a number above 0"),
        (("--json", "/no/folder/a.json"), "there is no folder /no/folder"),
        (("--device", "cuda"), "--device cuda: torch .* finds no such device: choose one of auto, cpu"),
        (("sizes=tiny", "--device", "cpu", "--parts", "step"), "sizes=tiny: there is no such key or group"),
    ],
)
def test_user_errors_of_the_accelerator_benchmark_exit_with_2(
    accelerator: ModuleType, words: tuple[str, ...], message: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert accelerator.main([*words, "--in-process"]) == 2
    assert re.search(message, capsys.readouterr().err)
