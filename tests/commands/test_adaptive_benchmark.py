"""`benchmarks/adaptive.py`: settings that do not suit the model, and audio that cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from corpus import make_cut, tone, write_manifest
from inprocess import load
from recognizers import recognizer

from streamnest.checkpoint.loading import write_checkpoint


def test_wrong_settings_are_refused_before_anything_is_measured(
    run_config: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ("size.d_model=32", "size.num_layers=1")
    write_checkpoint(recognizer(run_config("task=ctc", "encoder=dynamic", *small)), tmp_path / "m.ckpt")
    cuts = [make_cut(tmp_path, "a", tone(1.0), speaker="s"), make_cut(tmp_path, "b", tone(1.0), speaker="s")]
    for cut in cuts:
        cut.supervisions[0].text = "abc"
    manifest = write_manifest(tmp_path / "cuts.jsonl", cuts)
    words = [str(tmp_path / "m.ckpt"), "--manifest", str(manifest), "--budgets", "120", "--seeds", "1"]
    benchmark = load("adaptive", "benchmarks")
    for options, message in (
        (["--rules", "energi"], "adaptive rule 'energi' is unknown: choose one of entropy"),
        (["--contexts", "causal", "lookahead41"], "not trained with a context 'lookahead41'"),
        (["--budgets", "120", "20"], "an average latency of 20 ms cannot be met"),
        (["--languages", "xx", "yy"], "has no usable utterance with text in xx or yy"),
    ):
        assert benchmark.main([*words, *options]) == 2
        text = capsys.readouterr().err
        assert message in text and "CER" not in text
    (tmp_path / "b.wav").write_bytes((tmp_path / "b.wav").read_bytes()[:3000])
    assert benchmark.main([*words, "--rules", "energy"]) == 0
    text = capsys.readouterr().err
    assert "skipped: b: not as long as declared" in text and "1 utterances" in text and "energy 120 ms: " in text
