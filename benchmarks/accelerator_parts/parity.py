"""Part `parity`: random numbers, masks, codes and encoder outputs of the device beside those of the CPU, in float32.

Dropout is left out, because each device has a generator of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from accelerator_parts.devices import is_out_of_memory
from accelerator_parts.pretraining_step import build
from accelerator_parts.results import PartResult, Row
from accelerator_parts.settings import LARGE_MODEL, SMALL_MODEL, Budget, Settings
from streamnest.data.batch import Batch
from streamnest.downstream.spec_augment import SpecAugment
from streamnest.masking import ChunkMasking, RandomBlockMasking, build_masking, build_multiscale
from streamnest.pretraining import Pretraining
from streamnest.randomness import fold_keys, hash_id, normal, random_bits, uniform
from streamnest.streaming.probes.sessions import streamed
from streamnest.streaming.probes.training import attach, make_batch

# Largest differences that count as equal. Codes may differ if two are nearly equally close; their unit is a share.
EXACT, NORMAL, FEATURES, CODES = 0.0, 1e-5, 1e-3, 1e-3
OUTPUTS, LOSS, GRADIENTS, TF32 = 1e-4, 1e-4, 1e-3, 3e-2
_NO_DROPOUT = ("encoder.dropout=0", "encoder.dropout_input=0", "encoder.dropout_attention=0")
_MELS, _ROWS = 80, 8
_Values = dict[str, tuple[Tensor, float]]


def run(settings: Settings, budget: Budget, result: PartResult, _: float | None) -> None:
    """Compares all of it; a difference beyond its tolerance is a failure."""
    result.title = f"{settings.device.type} beside cpu, float32"
    cpu = torch.device("cpu")
    with _exact_convolutions():
        _compare(result, "any", _random_values(cpu), _random_values(settings.device))
        if budget.allows(result, "model"):
            _compare_models(result, "model", settings.model, settings.device)
        for preset in settings.presets:
            if budget.allows(result, f"encoder={preset}"):
                _compare_preset(result, preset, settings)
    if settings.device.type == "cuda" and budget.allows(result, "convolutions in TF32"):
        # By default, PyTorch lets cuDNN use TF32 in float32 convolutions, and so do runs.
        model = build((*settings.model, *_NO_DROPOUT), training=False)
        outputs = (_encoded(part, _batch(model)) for part in (model, copy.deepcopy(model).to(settings.device)))
        _compare(result, "model, cuDNN may use TF32", *({"encoder output": (value, TF32)} for value in outputs))


def _random_values(device: torch.device) -> _Values:
    """Computes random numbers and masks from the same keys on any device."""
    keys = torch.tensor([hash_id(f"cut {row}") for row in range(_ROWS)]).to(device)
    keys = fold_keys(keys, 3, 17)
    frames = 600
    lengths = torch.tensor([frames - 67 * row for row in range(_ROWS)]).to(device)
    edges = {"live_edge_prob": 0.5, "live_edge_min_fraction": 0.5}
    maskings = {
        "spans in slots": RandomBlockMasking(_MELS),
        "overlapping spans": RandomBlockMasking(_MELS, 0.01, 40, allow_overlap=True),
        "live edge": build_masking("causal", **edges, feat_in=_MELS, left_context_size=200).train(),
        "several sizes": build_multiscale(**edges, feat_in=_MELS, block_sizes=[8, 16, 32, 64]).train(),
        "chunks": ChunkMasking(_MELS, 4, chunk_frames=16),
    }
    augment = SpecAugment(_MELS, 0.01, 20, 2, 27)
    return {
        "random integers": (random_bits(keys, 1000), EXACT),
        "uniform numbers": (uniform(keys, 1000), EXACT),
        "normal numbers": (normal(keys, 1000), NORMAL),
        **{
            f"mask, {name}": (one.to(device).sample(lengths, frames, keys=keys), EXACT)
            for name, one in maskings.items()
        },
        "SpecAugment bands": (augment.kept(keys), EXACT),
    }


def _compare_preset(result: PartResult, preset: str, settings: Settings) -> None:
    factor = "encoder.subsampling_factor=4"  # not every look-ahead is a whole number of longer frames
    model = [word for word in settings.model if word not in (*SMALL_MODEL, *LARGE_MODEL)]
    _compare_models(result, f"encoder={preset}", (f"encoder={preset}", factor, "size=tiny", *model), settings.device)


def _compare_models(result: PartResult, name: str, overrides: tuple[str, ...], device: torch.device) -> None:
    model = build((*overrides, *_NO_DROPOUT), training=False)
    other = copy.deepcopy(model).to(device)
    batch = _batch(model)
    try:
        expected = _step_values(model, batch)
        values = _step_values(other, batch.to(device), expected["codes"][0].to(device))
        _compare(result, name, expected, values)
        features = model.frontend.eval()(batch.clean, batch.lengths)[0]
        pair = (part.quantizer(features.to(place)) for part, place in ((model, "cpu"), (other, device)))
        _compare(result, name, *({"codes of the same features": (value, CODES)} for value in pair))
        outputs = (_encoded(part, batch) for part in (model, other))
        _compare(result, name, *({"encoder output, evaluation": (value, OUTPUTS)} for value in outputs))
        if other.encoder.context.chunk is not None and other.input_norm.causal:
            audio = batch.clean[0].to(device)
            found = streamed(other, [audio.split(1999)])
            _add(result, name, "streamed beside offline, on the device", found, OUTPUTS)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        result.failures.append(f"{name}: out of memory")


def _batch(model: Pretraining) -> Batch:
    """Makes two utterances of different length, noise with a slow envelope."""
    samples = 3 * model.sample_rate
    audio = 0.1 * torch.randn(2, samples, generator=torch.Generator().manual_seed(5))
    audio = audio * (0.1 + torch.sin(torch.arange(samples) * 2e-3).abs())
    return make_batch(audio, torch.tensor([samples, samples * 2 // 3]), 1, noisy=True)


def _step_values(model: Pretraining, batch: Batch, codes: Tensor | None = None) -> _Values:
    """Computes a training step without an update; its loss predicts `codes` if they are given."""
    model.train()
    attach(model)
    features, own_codes, context = model.prepare_batch(batch, batch.step)
    encoded, _ = model.encode(features, context)
    if codes is not None:  # one code that differs, within the tolerance, would change the loss
        model.target_codes = lambda *_: codes  # type: ignore[method-assign]
    model.zero_grad()
    loss = model.training_step(batch, 0)
    loss.backward()
    parameters = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    gradients = torch.cat(parameters)
    return {
        "features": (features, FEATURES),
        "codes": (own_codes, CODES),
        "mask": (context.mask, EXACT),
        "encoder output, training": (encoded.detach(), OUTPUTS),
        "loss": (loss.detach(), LOSS),
        "gradients / largest": (gradients / gradients.abs().max(), GRADIENTS),
    }


@torch.no_grad()
def _encoded(model: Pretraining, batch: Batch) -> Tensor:
    batch = batch.to(model.frontend.window.device)
    encoded, frames = model.eval()(batch.noisy, batch.lengths)
    inside = torch.arange(encoded.shape[1], device=encoded.device) < frames[:, None]
    return encoded * inside[..., None]


def _compare(result: PartResult, model: str, reference: _Values, values: _Values) -> None:
    for name, (expected, tolerance) in reference.items():
        _add(result, model, name, difference(expected, values[name][0].cpu()), tolerance)


def difference(one: Tensor, other: Tensor) -> float:
    """Returns the largest difference of floats, or the share of integers that differ; infinite if shapes differ."""
    if one.shape != other.shape:
        return float("inf")
    if one.is_floating_point():
        return float((one - other).abs().max())
    return float((one != other).float().mean())


def _add(result: PartResult, model: str, name: str, found: float, tolerance: float) -> None:
    within = found <= tolerance  # False for NaN
    numbers: Row = {"difference": f"{found:.1e}", "tolerance": f"{tolerance:.0e}", "within": within}
    result.rows.append({"model": model, "value": name, **numbers})
    if not within:
        result.failures.append(f"{name} ({model}): differs by {found:.1e}, tolerance {tolerance:.0e}")


@contextmanager
def _exact_convolutions() -> Iterator[None]:
    """Turns TF32 off in convolutions; it is off in products already."""
    allowed, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = allowed
