"""`benchmarks/paired_errors.py`: error rates of the same utterances, compared."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from inprocess import load
from recognizers import untrained

from streamnest.commands.transcribe import latency_of
from streamnest.errors import UserError

Write = Callable[..., Path]


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return load("paired_errors", "benchmarks")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def make(name: str, wrong: int, reference: str = "abcdefghij") -> Path:
        """Twenty utterances of ten characters, each with `wrong` errors, or none in every second one."""
        texts = [reference if index % 2 else "-" * wrong + reference[wrong:] for index in range(20)]
        records = [{"id": f"u{n}", "reference": reference, "text": text} for n, text in enumerate(texts)]
        path = tmp_path / f"{name}.json"
        latency = {"one": 22.5, "two": None}
        path.write_text(json.dumps({"utterances": records, "latency_mean_ms": latency.get(name, 42.5)}))
        return path

    return make


def test_paired_intervals_are_narrower_than_those_of_rates(benchmark: ModuleType, write: Write, capsys: Any) -> None:
    files = [str(write(name, wrong)) for name, wrong in (("one", 4), ("two", 2), ("three", 2))]
    image = write("two", 2).parent / "plot.png"
    assert benchmark.main([*files, "--plot", str(image)]) == 0 and image.stat().st_size > 10_000
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    one, two, three = ([float(x) for x in re.findall(r"[-+]?\d+\.\d", line)] for line in lines)
    assert one[0] == 20.0 and one[1] < 18 < 22 < one[2] and len(one) == 3
    # Each sample of utterances halves the errors, whatever it contains.
    assert two[3:] == [-50.0] * 6 and three[3:] == [-50.0] * 3 + [0.0] * 3


def test_other_files_and_references_are_refused(benchmark: ModuleType, write: Write, tmp_path: Path) -> None:
    one = {"id": "a", "reference": "b", "text": "c"}
    for content, cause in (
        ([], "list indices"),
        ({"utterances": [{**one, "reference": 1}]}, "id, reference and text of 'a' must be texts"),
        ({"utterances": [{"file": "a", "text": "b"}]}, "there is no 'id'"),
        ({"utterances": [one, one]}, "the id 'a' occurs twice"),
        ({"utterances": [one], "latency_mean_ms": -1}, "latency_mean_ms is -1"),
    ):
        (tmp_path / "other.json").write_text(json.dumps(content))
        with pytest.raises(UserError, match=rf"other\.json is not an output of streamnest transcribe .*: {cause}"):
            benchmark.read(tmp_path / "other.json")
    with pytest.raises(UserError, match="all references are empty"):
        benchmark.shared([benchmark.read(write("empty", 0, ""))])
    files = [benchmark.read(write("one", 1)), benchmark.read(write("two", 1, "abcdefghiJ"))]
    with pytest.raises(UserError, match="references of u0 differ"):
        benchmark.shared(files)
    with pytest.raises(UserError, match="no utterance in common"):
        benchmark.shared([files[0], benchmark.Transcript("none", "", {}, 1.0)])
    with pytest.raises(UserError, match="none has no latency"):
        benchmark.plot([benchmark.Transcript("none", "", {}, float("nan"))], [], "cer", "")


def test_transcripts_name_the_latency_of_their_model(run_config: Callable[..., Any]) -> None:
    small = ("task=ctc", "size=tiny", "size.num_layers=1", "size.d_model=32")
    streaming, offline = (untrained(run_config(f"encoder={name}", *small)) for name in ("causal", "bidirectional"))
    assert latency_of(streaming, None) == {"context": None, "latency_mean_ms": 22.5, "latency_worst_ms": 42.5}
    assert latency_of(offline, None)["latency_mean_ms"] is None
