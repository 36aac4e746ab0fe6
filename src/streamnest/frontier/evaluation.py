"""Evaluation of a fine-tuned checkpoint: errors of each utterance, latency and compute.

Runs as a separate process: `python -m streamnest.frontier.evaluation CKPT --out result.json`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from streamnest.build import build_stored_data
from streamnest.checkpoint.loading import load_model
from streamnest.console.entry_point import without_trace
from streamnest.data.batch import Batch
from streamnest.data.datamodule import SpeechDataModule
from streamnest.downstream.asr.ctc import CTCRecognizer
from streamnest.downstream.asr.vocabulary import normalize_text
from streamnest.downstream.metrics.error_rates import RecognizedUtterance, errors
from streamnest.errors import UserError
from streamnest.files.atomic_write import json_values, write_whole
from streamnest.streaming import StreamingSession
from streamnest.streaming.simulation import simulate_streaming_inference

# Seconds of speech that are streamed to measure the compute time of a chunk.
_STREAMED = 30.0


def evaluate(path: str, context: str | None = None, manifest: str | None = None, device: str = "cpu") -> dict[str, Any]:
    """Recognizes utterances with greedy CTC decoding, and streams some of them to time a chunk.

    Args:
        path: checkpoint of task=ctc.
        context: latency context of a dynamic encoder.
        manifest: cuts to recognize; None is the validation set of its training. Languages and limits of duration are
            those of its training.
        device: device to recognize and to time a chunk on.

    Returns:
        `utterances`, a list of `[id, character errors, characters, word errors, words, speaker seen in training]`, the
        last null if the speaker is unknown; `latency` and `compute` in ms, null if the encoder does not stream;
        `train_hours`; `parameters`.

    Raises:
        UserError: for a checkpoint of another task, or a manifest without transcribed utterances.
    """
    model = load_model(path, context)
    if not isinstance(model, CTCRecognizer):
        raise UserError(f"{path} is not an ASR checkpoint with CTC: expected task=ctc")
    data = _data(model.config, manifest)
    model.to(device)
    lines, some = list[list[Any]](), list[Tensor]()
    for batch in data.val_dataloader():
        lines += _recognize(model, data, batch.to(device))
        if sum(map(len, some)) < _STREAMED * model.frontend.sample_rate:
            some += [row[:length] for row, length in zip(batch.clean, batch.lengths.tolist(), strict=True)]
    if not lines:
        raise UserError(f"{manifest or 'the validation set'} has no transcribed utterances: give another --manifest")
    latency = {name.removeprefix("latency/"): value for name, value in model.latency.as_dict().items()}
    return {
        "utterances": lines,
        "latency": json_values(latency),
        "compute": _cost(model, torch.cat(some)) if model.latency.streams else None,
        "train_hours": data.train_hours,
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def _data(config: dict[str, Any], manifest: str | None) -> SpeechDataModule:
    named = {"val_manifest": manifest} if manifest else {}
    data = build_stored_data(config, num_workers=0, cache_mb=0.0, **named)
    data.setup("fit")
    return data


@torch.no_grad()
def _recognize(model: CTCRecognizer, data: SpeechDataModule, batch: Batch) -> list[list[Any]]:
    texts = model.recognize(batch.clean, batch.lengths)
    references = [normalize_text(label.text or "") for label in batch.labels]
    found = [
        RecognizedUtterance(*line)
        for line in zip(batch.ids, references, texts, map(data.is_seen, batch.labels), strict=True)
    ]
    counts = [errors(found, unit).astype(int).tolist() for unit in ("cer", "wer")]
    return [[u.id, *cer, *wer, u.seen] for u, cer, wer in zip(found, *counts, strict=True) if u.reference]


def _cost(model: CTCRecognizer, audio: Tensor) -> dict[str, float]:
    """Times one chunk of a single stream that arrives as a whole."""
    rate, chunk = model.frontend.sample_rate, StreamingSession(model).chunk_samples
    simulate_streaming_inference(model, audio[: 5 * chunk], chunk / rate)  # warm-up
    _, result = simulate_streaming_inference(model, audio[: round(_STREAMED * rate)], chunk / rate)
    return {
        "chunk_ms": 1000 * chunk / rate,
        "p50_ms": result.compute_p50_ms,
        "p99_ms": result.compute_p99_ms,
        "real_time_factor": result.real_time_factor,
    }


@without_trace
def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="checkpoint of task=ctc")
    parser.add_argument("--context", help="latency context of a dynamic encoder")
    parser.add_argument("--manifest", help="cuts to recognize (default: validation set of its training)")
    parser.add_argument("--device", default="cpu", help="device to run on (cpu)")
    parser.add_argument("--threads", type=int, help="threads (default: PyTorch's default)")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    result = evaluate(args.checkpoint, args.context, args.manifest, args.device)
    write_whole(args.out, json.dumps(result, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
