"""Part `step`: time, model FLOPs utilization and memory of a training step."""

from __future__ import annotations

from collections.abc import Iterator

from accelerator_parts.devices import device_name, is_out_of_memory, known_tflops, measured_tflops, peak_gb, release
from accelerator_parts.pretraining_step import PretrainingStep
from accelerator_parts.results import AUDIO_RATE, PartResult, Row
from accelerator_parts.settings import Budget, Settings
from accelerator_parts.step_timing import find_waits, make_batches, time_steps
from streamnest.commands.flops import run_cost
from streamnest.config.compose import compose_config
from streamnest.errors import UserError
from streamnest.locations import config_folder

_WAITS_SHOWN = 12


def run(settings: Settings, budget: Budget, result: PartResult, _: float | None) -> None:
    """Measures each precision, compiled and not, with each size of the batch."""
    result.title = f"{' '.join(settings.model)}, utterances of {settings.utterance_seconds:g} s"
    cost = run_cost(compose_config(list(settings.model), config_folder(), "step"), settings.utterance_seconds)
    result.notes.append(
        f"{cost.parameters / 1e6:.1f}M parameters; {cost.total / 1e9:.3g} GFLOPs per second of audio, counted."
    )
    for bfloat16 in (False, True):
        # Seconds of audio per second at the peak, which is an MFU of 100 %.
        fastest = 1e12 * _peak_tflops(settings, bfloat16, result) / cost.total
        for compiled in (False, True):
            name = f"{_precision(bfloat16)}, {'compiled' if compiled else 'not compiled'}"
            if not budget.allows(result, name):
                continue
            try:
                _measure_variant(settings, budget, result, bfloat16, compiled, fastest)
            except (RuntimeError, MemoryError) as error:
                result.failures.append(f"{name}: {str(error).strip().partition(chr(10))[0]}")
            release()


def _measure_variant(
    settings: Settings, budget: Budget, result: PartResult, bfloat16: bool, compiled: bool, fastest: float
) -> None:
    """Adds a row for each size of the batch.

    Args:
        settings: device and sizes.
        budget: time of the part.
        result: result to extend.
        bfloat16: train with bf16-mixed.
        compiled: compile the model.
        fastest: seconds of audio per second at the peak of the device.
    """
    common: Row = {"precision": _precision(bfloat16), "compile": compiled}
    try:
        step = PretrainingStep([*settings.model, *(["compile=true"] if compiled else [])], settings.device, bfloat16)
    except UserError as error:
        if not compiled:
            raise
        result.rows.append({**common, "remark": "not supported"})
        if (note := f"Not supported: {error}.") not in result.notes:
            result.notes.append(note)
        return
    for row in _sizes(step, settings, budget, result):
        if isinstance(rate := row.get(AUDIO_RATE), float):
            row["MFU, %"] = 100 * rate / fastest
        result.rows.append({**common, **row})


def _precision(bfloat16: bool) -> str:
    return "bf16-mixed" if bfloat16 else "float32"


def _peak_tflops(settings: Settings, bfloat16: bool, result: PartResult) -> float:
    """Returns the peak that MFU refers to, and notes its source."""
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
            if seconds < settings.utterance_seconds or seconds <= fitting:
                break
        else:
            return  # the time is used up
        if full:
            return
        fitting = seconds


def _attempt(step: PretrainingStep, seconds: float, settings: Settings, budget: Budget, result: PartResult) -> Row:
    """Measures one size; if memory is not sufficient, the row says so."""
    try:
        return {"batch, s": seconds, **_measure(step, seconds, settings, budget, result)}
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    step.optimizer.zero_grad()
    release()
    return {"batch, s": seconds, "remark": "out of memory"}


def _measure(step: PretrainingStep, seconds: float, settings: Settings, budget: Budget, result: PartResult) -> Row:
    cuda = step.device.type == "cuda"
    batches = make_batches(seconds, settings.utterance_seconds, settings.steps, pin_memory=cuda)
    took = time_steps(step, batches, lambda: budget.left > 0)
    memory, audio = peak_gb(step.device), sum(batch.seconds for batch in batches) / len(batches)
    waits = find_waits(step, batches[0]) if cuda else None
    if waits and not any("The host waits" in note for note in result.notes):
        places = ", ".join(list(dict.fromkeys(waits))[:_WAITS_SHOWN])
        result.notes.append(f"The host waits for the device {len(waits)} times per step, in: {places}.")
    return {
        "first step, s": took.first,
        "ms per step": 1000 * took.seconds,
        "range, ms": f"{1000 * min(took.blocks):.0f} to {1000 * max(took.blocks):.0f}",
        "launched after, ms": 1000 * took.on_host,
        "waits": None if waits is None else len(waits),
        "peak memory, GB": memory,
        AUDIO_RATE: audio / took.seconds,
    }
