"""Part `step`: time, model FLOPs utilization and memory of a training step."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Iterator

import torch
from pretraining_step import PretrainingStep, noise_batch

from accelerator_parts.devices import (
    device_name,
    is_out_of_memory,
    known_tflops,
    measured_tflops,
    peak_gb,
    release,
    reset_peak,
    synchronize,
)
from accelerator_parts.results import AUDIO_RATE, PartResult, Row
from accelerator_parts.settings import Budget, Settings
from streamnest.commands.flops import run_cost
from streamnest.config.compose import compose_config
from streamnest.data.batch import Batch
from streamnest.errors import UserError
from streamnest.locations import config_folder

_WARMUP, _BLOCKS = 2, 3
_WAITS_SHOWN = 12


def run(settings: Settings, budget: Budget, result: PartResult, _: float | None) -> None:
    """Measures each precision, compiled and not, with each size of the batch."""
    result.title = f"{' '.join(settings.model)}, utterances of {settings.utterance_seconds:g} s"
    cost = run_cost(compose_config(list(settings.model), config_folder(), "step"), settings.utterance_seconds)
    gflops = cost.total / 1e9
    result.notes.append(f"{cost.parameters / 1e6:.1f}M parameters; {gflops:.3g} GFLOPs per second of audio, counted.")
    for bfloat16 in (False, True):
        precision, peak = _precision(bfloat16), _peak(settings, bfloat16, result)
        for compiled in (False, True):
            if not budget.allows(result, f"{precision}, compile={compiled}"):
                continue
            common: Row = {"precision": precision, "compile": compiled}
            try:
                step = PretrainingStep(_overrides(settings, compiled), settings.device, bfloat16)
                if compiled and not _is_compiled(step.model):
                    raise UserError("compile=true compiles nothing here")
            except UserError as error:
                if not compiled:
                    raise
                result.rows.append({**common, "remark": "not supported"})
                result.notes.append(f"Not supported: {error}.") if not bfloat16 else None
                continue
            for row in _sizes(step, settings, budget, result):
                if seconds := row.pop("step, s", None):
                    audio = float(row["batch, s"] or 0)
                    row |= {AUDIO_RATE: audio / seconds, "MFU, %": 100 * audio * gflops / 1e3 / seconds / peak}
                result.rows.append({**common, **row})
            del step
            release()


def _overrides(settings: Settings, compiled: bool) -> list[str]:
    return [*settings.model, *(["compile=true"] if compiled else [])]


def _is_compiled(model: torch.nn.Module) -> bool:
    return any(part._compiled_call_impl is not None or hasattr(part, "_orig_mod") for part in model.modules())


def _precision(bfloat16: bool) -> str:
    return "bf16-mixed" if bfloat16 else "float32"


def _peak(settings: Settings, bfloat16: bool, result: PartResult) -> float:
    """Returns the peak that MFU refers to in TFLOP/s, and notes its source."""
    measured, known = measured_tflops(settings.device, bfloat16), known_tflops(settings.device, bfloat16)
    source = f"data sheet of {device_name(settings.device)}; measured {measured:.3g}" if known else "measured"
    kind = "bfloat16" if bfloat16 else "float32"
    result.notes.append(f"Peak for MFU in {kind}: {known or measured:.3g} TFLOP/s ({source}).")
    return known or measured


def _sizes(step: PretrainingStep, settings: Settings, budget: Budget, result: PartResult) -> Iterator[Row]:
    """Yields a row for each size of the batch; the first that does not fit is halved, and larger ones are left out."""
    fitting = 0.0
    for seconds in settings.batch_seconds:
        full = False
        while budget.allows(result, f"batches of {seconds:g} s in {_precision(step.bfloat16)}"):
            row = _attempt(step, seconds, settings, budget, result)
            yield row
            if "remark" not in row:
                break
            full, seconds = True, seconds / 2
            if seconds <= max(fitting, settings.utterance_seconds / 2):
                break
        if full:
            return
        fitting = seconds


def _attempt(step: PretrainingStep, seconds: float, settings: Settings, budget: Budget, result: PartResult) -> Row:
    """Measures one size; if memory is not sufficient, the row says so."""
    row: Row = {"batch, s": seconds}
    try:
        return {**row, **_measure(step, _batches(seconds, settings), settings, budget, result)}
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    step.optimizer.zero_grad()
    release()
    return {**row, "remark": "out of memory"}


def _batches(seconds: float, settings: Settings) -> list[Batch]:
    length = min(seconds, settings.utterance_seconds)
    batches = [noise_batch(round(seconds / length), length, number) for number in range(settings.steps)]
    return [batch.pin_memory() for batch in batches] if settings.device.type == "cuda" else batches


def _measure(
    step: PretrainingStep, batches: list[Batch], settings: Settings, budget: Budget, result: PartResult
) -> Row:
    """Times blocks of steps without waiting for the device between them."""
    for number in range(_WARMUP):
        step(batches[number % len(batches)])
    waits = _waits(step, batches[0])
    reset_peak(step.device)
    times, on_host = [], []
    while len(times) < _BLOCKS and (not times or budget.left > 0):
        synchronize(step.device)
        marks = [time.perf_counter()]
        for batch in batches:
            step(batch)
        marks.append(time.perf_counter())
        synchronize(step.device)
        marks.append(time.perf_counter())
        times.append((marks[-1] - marks[0]) / len(batches))
        on_host.append((marks[1] - marks[0]) / len(batches))
    middle = statistics.median(times)
    if waits and not any("waits for the device" in note for note in result.notes):
        shown = ", ".join(list(dict.fromkeys(waits))[:_WAITS_SHOWN])
        result.notes.append(f"The host waits for the device {len(waits)} times per step, in: {shown}.")
    return {
        "step, s": middle,
        "ms per step": 1000 * middle,
        "range, ms": f"{1000 * min(times):.0f} to {1000 * max(times):.0f}",
        "host, ms": 1000 * statistics.median(on_host),
        "waits": len(waits) if step.device.type == "cuda" else None,
        "peak memory, GB": peak_gb(step.device),
    }


def _waits(step: PretrainingStep, batch: Batch) -> list[str]:
    """Returns the source lines at which one step makes the host wait for a CUDA device."""
    if step.device.type != "cuda":
        return []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step(batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    found = [one for one in caught if "synchroniz" in str(one.message)]
    return [f"{one.filename.rpartition('streamnest/')[2]}:{one.lineno}" for one in found]
