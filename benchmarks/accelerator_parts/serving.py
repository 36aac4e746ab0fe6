"""The process that measures: it runs the parts that its parent asks for, one after another."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
import traceback
import warnings
from dataclasses import asdict

import torch

from accelerator_parts import distributed_ratio, loader_rate, parity, streaming_steps, training_steps
from accelerator_parts.devices import describe, release, synchronize
from accelerator_parts.results import PartResult
from accelerator_parts.settings import Budget, Part, Settings, settings_of
from streamnest.errors import UserError

PARTS: dict[str, Part] = {
    "parity": parity.run,
    "step": training_steps.run,
    "loader": loader_rate.run,
    "ddp": distributed_ratio.run,
    "stream": streaming_steps.run,
}


def run_part(name: str, settings: Settings, seconds: float, needed_rate: float | None) -> PartResult:
    """Runs a part within its time budget; errors become failures of the result."""
    result, begin = PartResult(name), time.perf_counter()
    try:
        PARTS[name](settings, Budget(seconds), result, needed_rate)
    except UserError as error:
        result.user_error = str(error)
    except Exception as error:
        result.failures.append(_first_line(error))
        result.trace = traceback.format_exc()
    release()
    result.seconds, result.usable = time.perf_counter() - begin, _usable(settings.device)
    return result


def quiet() -> None:
    """Turns off the messages of Lightning about its trainers."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")


def serve(args: argparse.Namespace) -> int:
    """Answers requests on standard input with one line of JSON each, until it is closed."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries that print must not write between the replies
    quiet()
    try:
        settings = settings_of(args)
    except UserError as error:
        print(json.dumps({"user_error": str(error)}), file=replies, flush=True)
        return 2
    print(json.dumps({**describe(settings.device), "model": " ".join(settings.model)}), file=replies, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        result = run_part(request["part"], settings, request["seconds"], request["needed_rate"])
        print(json.dumps(asdict(result)), file=replies, flush=True)
    return 0


def _usable(device: torch.device) -> bool:
    """False if an error on the device has made it unusable for this process."""
    try:
        synchronize(device)
    except RuntimeError:
        return False
    return True


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or ["no message"]
    return f"{type(error).__name__}: {lines[0]}"
