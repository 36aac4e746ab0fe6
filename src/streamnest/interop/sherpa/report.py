"""Exports a recognizer for sherpa-onnx and reports what differs in the runtime: `streamnest export --format sherpa`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table
from torch import Tensor

from streamnest.console.terminal import terminal
from streamnest.downstream.asr.recognition import TextTask
from streamnest.downstream.asr.rnnt import RNNTRecognizer
from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError
from streamnest.interop.sherpa.export import export_sherpa
from streamnest.interop.sherpa.outputs import CTC_FACTOR
from streamnest.interop.sherpa.runtime_comparison import RuntimeComparison, timing
from streamnest.interop.sherpa.transducer import MAX_SYMBOLS


def export_and_compare(
    model: EncoderTask, folder: Path, audio: Tensor, max_left_ms: float, threads: int
) -> tuple[dict[str, Any], float]:
    """Writes the files, compares them with the model on an utterance, and prints what differs.

    Returns:
        All measurements, and the largest difference of the float32 graph from PyTorch on the same features.

    Raises:
        UserError: for models that cannot be exported.
    """
    if not isinstance(model, TextTask):
        raise UserError("--format sherpa needs a checkpoint of task=ctc or task=rnnt")
    exported = export_sherpa(model, folder, max_left_ms)
    compared = RuntimeComparison(model, exported.graph, audio, max_left_ms)
    files = {str(path): compared.of_graph(path, threads) for path in exported.steps}
    times = timing(model, exported.graph)
    figures = {"files": files, "features": compared.features(), "latency": asdict(times), "text": compared.text}
    console = terminal(140)
    console.print(_table(files))
    for note in _notes(model, figures):
        console.print(note, highlight=False)
    return figures, files[str(exported.steps[0])]["max_difference"]


def _table(files: dict[str, Any]) -> Table:
    table = Table(title="Graphs for sherpa-onnx, run with its features", title_justify="left")
    for column in ("file", "MB", "max difference from PyTorch", "characters changed", "chunk p50 / p99 ms"):
        table.add_column(column, overflow="fold")
    for name, f in files.items():
        cost = f"{f['p50_ms']:.2f} / {f['p99_ms']:.2f}"
        cells = (f"{f['megabytes']:.1f}", f"{f['max_difference']:.1e}", f"{f['changed_characters']:.1%}", cost)
        table.add_row(name, *cells)
    return table


def _notes(model: TextTask, figures: dict[str, Any]) -> list[str]:
    """Lists what differs in the runtime."""
    features, times, factor = figures["features"], figures["latency"], model.encoder.subsampling.factor
    notes = [
        f"latency: {times['latency_mean_ms']:.1f} ms mean, {times['latency_worst_ms']:.1f} ms worst: the runtime waits "
        f"{times['extra_ms']:.1f} ms longer for each chunk, and emits the first after {times['first_ms']:.1f} ms",
        f"end of a recording: append at least {times['tail_ms']:.0f} ms of silence, or its last frames are not emitted",
    ]
    if model.frontend.kind != "sherpa":
        notes.append(
            f"front end: features begin {features['delay_ms']:.0f} ms later than in training; at the same instant "
            f"they differ by {features['mean_difference']:.3f} on average and {features['max_difference']:.1f} at "
            "most. A model trained with frontend.kind=sherpa gives the same text as transcribe --stream"
        )
    if times["stamp_delay_ms"]:
        notes.append(f"time stamps are {times['stamp_delay_ms']:.0f} ms late")
    if isinstance(model, RNNTRecognizer):
        if model.settings.max_symbols != MAX_SYMBOLS:
            notes.append(
                f"the runtime emits up to {MAX_SYMBOLS} tokens per frame instead of task.max_symbols="
                f"{model.settings.max_symbols}"
            )
    elif factor < CTC_FACTOR:
        notes.append(f"time stamps and endpoint silences are {CTC_FACTOR // factor} times too long")
    return notes
