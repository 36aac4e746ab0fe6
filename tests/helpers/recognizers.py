"""Untrained recognizers for tests, and the steps of an engine that serves one."""

from __future__ import annotations

from typing import Any

import torch
from omegaconf import DictConfig

from streamnest.build import build_model
from streamnest.downstream.asr.ctc import CTCRecognizer
from streamnest.downstream.asr.rnnt import RNNTRecognizer
from streamnest.downstream.asr.vocabulary import BLANK
from streamnest.serving.engine import Engine
from streamnest.serving.stream import Result

MOST_STEPS = 1000
LABELS = {"kind": "char", "symbols": list(" abcdefghijklmnop")}


def untrained(cfg: DictConfig) -> Any:
    """Returns a model with random weights, fixed statistics and seventeen characters, in evaluation mode."""
    torch.manual_seed(0)
    model = build_model(cfg, labels=LABELS)
    model.input_norm.set_statistics(torch.full((80,), -8.0), torch.full((80,), 3.0))
    return model.eval()


@torch.no_grad()
def mean_frame(model: Any) -> torch.Tensor:
    """Returns the mean frame `(d,)` on noise; heads subtract it, because frames of random weights are nearly equal."""
    noise = 0.1 * torch.randn(1, 48000, generator=torch.Generator().manual_seed(0))
    return model(noise, torch.tensor([48000]))[0][0].mean(0)


def recognizer(cfg: DictConfig) -> CTCRecognizer:
    """Returns a CTC recognizer whose output is not only blanks."""
    model: CTCRecognizer = untrained(cfg)
    with torch.no_grad():
        model.head.bias.copy_(-model.head.weight @ mean_frame(model))
    return model


def transducer(cfg: DictConfig) -> RNNTRecognizer:
    """Returns an RNN-T recognizer that emits zero, one or several tokens per frame."""
    model: RNNTRecognizer = untrained(cfg)
    with torch.no_grad():
        model.head.of_frames.weight *= 8
        model.head.of_frames.bias.copy_(-model.head.of_frames.weight @ mean_frame(model))
        model.head.of_tokens.weight *= 4
        model.head.output.weight *= 4
        model.head.output.bias[BLANK] = 1.5
    return model


def stepped(engine: Engine) -> list[Result]:
    """Runs the steps that are due, of which there may be `MOST_STEPS`; returns their results."""
    results = list[Result]()
    for _ in range(MOST_STEPS):
        if not engine.due:
            return results
        results += engine.step()
    raise AssertionError(f"steps are still due after {MOST_STEPS}")
