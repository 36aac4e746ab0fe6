"""How far a model really looks ahead, held against what it declares: the certificate of a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from streamnest.errors import UserError
from streamnest.latency import LatencyReport, find_leaks, last_heard
from streamnest.streaming.probing import Prober, find_leaking_stage
from streamnest.streaming.session import StreamingSession
from streamnest.task import EncoderTask

TOLERANCES = {"float32": 1e-5, "float64": 1e-10}


@dataclass(frozen=True)
class Check:
    """One line of a certificate: what was declared, what was measured, and whether they agree."""

    name: str
    declared: str
    measured: str
    passed: bool


@dataclass
class Certificate:
    """What a model declares and what was measured on it.

    Attributes:
        latency: the contract computed from the layers.
        checks: one line for each thing that was measured.
    """

    latency: LatencyReport
    checks: list[Check] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every check did."""
        return all(check.passed for check in self.checks)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; infinite figures are null."""
        latency = {k: None if isinstance(v, float) and math.isinf(v) else v for k, v in asdict(self.latency).items()}
        return {"passed": self.passed, "latency": latency, "checks": [asdict(check) for check in self.checks]}


def verify(model: EncoderTask, seed: int = 0) -> Certificate:
    """Measures a model against its contract.

    Args:
        model: left as it is.
        seed: of the random splits.
    """
    certificate = Certificate(model.latency)
    checks = certificate.checks
    promised = model.encoder.context.right is not None
    if promised:
        checks.append(_declared(model))
        checks += [_stages(model, training) for training in (False, True)]
        checks += _lookaheads(model)
    checks += [_padding(model), _neighbours(model)]
    if promised:
        checks += [_chunk_equals_full(model, name, seed) for name in TOLERANCES]
        checks.append(_streams_apart(model))
    return certificate


def _declared(model: EncoderTask) -> Check:
    leaks = find_leaks(model.encoder, model.latency)
    return Check("layers", "none that hears the future", "; ".join(leaks) or "none", not leaks)


def _stages(model: EncoderTask, training: bool) -> Check:
    stage = find_leaking_stage(model, training)
    name = "stages, training mode" if training else "stages"
    return Check(
        name, "none hears past its chunk", "none does" if stage is None else f"the {stage} does", stage is None
    )


def _lookaheads(model: EncoderTask) -> list[Check]:
    """Look-ahead of each phase of a chunk: computed, by perturbation of the waveform, by gradient."""
    prober, encoder, frontend = Prober(model), model.encoder, model.frontend
    chunk, block = encoder.context.chunk or 1, encoder.stem.factor * frontend.hop
    first = chunk * max(1, math.ceil(6 / chunk))
    checks = []
    for phase in sorted({0, chunk // 2, chunk - 1}):
        frame = first + phase
        last = last_heard(encoder, frame)
        if last is None:
            continue
        feature = (last + 1) * encoder.stem.factor - 1 + encoder.stem.lookahead
        sample = (feature + 1) * frontend.hop - 1 + frontend.lookahead_samples
        samples = (last + 6) * block + frontend.hop // 2
        own_end = (frame + 1) * block
        by_sample, by_gradient = prober.last_sample(frame, samples), prober.last_feature(frame, samples)
        unit = 1000 / frontend.sample_rate
        checks.append(
            Check(
                f"look-ahead, frame {phase + 1} of {chunk}",
                f"{(sample + 1 - own_end) * unit:.4f} ms",
                f"{(by_sample + 1 - own_end) * unit:.4f} ms",
                by_sample == sample,
            )
        )
        checks.append(
            Check(
                f"look-ahead by gradient, frame {phase + 1} of {chunk}",
                f"feature {feature}",
                f"feature {by_gradient}",
                by_gradient == feature,
            )
        )
    return checks


def _padding(model: EncoderTask) -> Check:
    """An utterance alone and the same one in a longer, padded batch, whose padding holds garbage."""
    prober = Prober(model)
    length = 14_321
    audio = prober.audio(length)
    padded = torch.nn.functional.pad(audio, (0, 9000), value=0.37)
    alone, frames = prober.run(audio)
    together, _ = prober.run(padded, torch.tensor([length], device=prober.device))
    return _difference("padding changes nothing", alone[0, : int(frames)], together[0, : int(frames)])


def _neighbours(model: EncoderTask) -> Check:
    prober = Prober(model)
    audio = prober.audio(16_000, rows=3)
    alone, _ = prober.run(audio[:1])
    loud = torch.cat([audio[:1], 3 * audio[1:]])
    return _difference("neighbours change nothing", alone[0], prober.run(loud)[0][0])


def _chunk_equals_full(model: EncoderTask, precision: str, seed: int) -> Check:
    prober = Prober(model)
    model = prober.model.to(getattr(torch, precision))
    audio = prober.audio(_samples_past_limit(model))[0].to(getattr(torch, precision))
    full = _offline(model, audio)
    generator = torch.Generator().manual_seed(seed)
    cuts = [torch.randint(0, len(audio), (n,), generator=generator).sort().values.tolist() for n in (0, 1, 7, 60)]
    return _equal(
        f"chunk == full, {precision}",
        lambda: max(_distance(_streamed(model, [torch.tensor_split(audio, at)])[0], full) for at in cuts),
        TOLERANCES[precision],
    )


def _samples_past_limit(model: EncoderTask) -> int:
    """So many samples that a limited left context has to forget, some chunks long."""
    encoder = model.encoder
    forgets = (encoder.context.left or 0) + 4 * (encoder.context.chunk or 1)
    return max(30_000, forgets * encoder.stem.factor * model.frontend.hop)


def _streams_apart(model: EncoderTask) -> Check:
    """Several streams served together, of different lengths, which begin one after the other."""
    prober = Prober(model)
    audio = [row[: 20_000 - 4_321 * n] for n, row in enumerate(prober.audio(20_000, rows=3))]
    pieces = [[row.new_zeros(0)] * n + list(row.split(3_000)) for n, row in enumerate(audio)]

    def worst() -> float:
        found = _streamed(prober.model, pieces)
        return max(_distance(one, _offline(prober.model, row)) for one, row in zip(found, audio, strict=True))

    return _equal("streams served together stay apart", worst, TOLERANCES["float64"])


@torch.no_grad()
def _offline(model: EncoderTask, audio: Tensor) -> Tensor:
    encoded, frames = model(audio[None], torch.tensor([len(audio)], device=audio.device))
    return encoded[0, : int(frames)]


def _streamed(model: EncoderTask, rows: list[Any]) -> list[Tensor]:
    """Frames of streams, from the pieces of each, pushed in turns."""
    session = StreamingSession(model)
    numbers = [session.open() for _ in rows]
    frames: list[list[Tensor]] = [[] for _ in rows]
    for turn in range(max(map(len, rows))):
        out = session.push({n: row[turn] for n, row in zip(numbers, rows, strict=True) if turn < len(row)})
        for row, number in enumerate(numbers):
            frames[row] += [out[number]] if number in out else []
    tails = session.flush(numbers)
    return [torch.cat([*row, tails[number]]) for row, number in zip(frames, numbers, strict=True)]


def _distance(one: Tensor, other: Tensor) -> float:
    """Largest difference; infinite where the numbers of frames differ."""
    if one.shape != other.shape:
        return math.inf
    distance = float((one - other).abs().max()) if one.numel() else 0.0
    return math.inf if math.isnan(distance) else distance


def _equal(name: str, worst: Callable[[], float], tolerance: float) -> Check:
    try:
        found = worst()
    except UserError as error:  # it cannot even be streamed
        return Check(name, f"at most {tolerance:.0e}", str(error), False)
    return Check(name, f"at most {tolerance:.0e}", f"{found:.1e}", found <= tolerance)


def _difference(name: str, one: Tensor, other: Tensor) -> Check:
    return _equal(name, lambda: _distance(one, other), TOLERANCES["float64"])
