"""How far a model really looks ahead, found by changing what it hears, and held against what it declares.

Every figure is measured on the model as it stands: audio is changed from some sample on, and outputs are compared
exactly. A model whose arithmetic is causal gives bit-equal outputs before the change, so no tolerance is needed.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from streamnest.errors import UserError
from streamnest.latency import LatencyReport, find_leaks, last_heard
from streamnest.pretraining import Pretraining
from streamnest.streaming.session import StreamingSession

TOLERANCES = {"float32": 1e-5, "float64": 1e-10}
_CHANGE = 0.37


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


class Prober:
    """Runs a model on audio that is changed from some sample on.

    Args:
        model: is copied; the caller's is left alone.
        training: run the encoder in training mode, with the same dropout in every run: statistics over time or batch
            that only training uses are found this way.
    """

    def __init__(self, model: Pretraining, training: bool = False) -> None:
        self.model = copy.deepcopy(model).double().eval()
        self.model.encoder.train(training)
        for norm in (self.model.input_norm, self.model.target_norm):
            if norm.needs_statistics:  # a model that was never trained: any statistics show where they come from
                norm.set_statistics(torch.full_like(norm.mean, -8.0), torch.full_like(norm.std, 3.0))
        device = next(self.model.parameters()).device
        self.device = device

    def audio(self, samples: int, rows: int = 1) -> Tensor:
        """Audio `(rows, samples)`: noise of a fixed seed, louder and softer in turns."""
        generator = torch.Generator().manual_seed(7)
        noise = torch.randn(rows, samples, generator=generator, dtype=torch.float64)
        return (0.1 * noise * (torch.sin(torch.arange(samples) * 2e-3).abs() + 0.1)).to(self.device)

    @torch.no_grad()
    def run(self, audio: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Encoder output `(B, T', d)` and valid frames `(B,)`."""
        torch.manual_seed(0)
        lengths = torch.full((len(audio),), audio.shape[1], device=self.device) if lengths is None else lengths
        features, frames = self.model.frontend(audio, lengths)
        return self.model.encoder(self.model.input_norm(features, frames), frames)

    def last_sample(self, frame: int, samples: int) -> int:
        """The last sample of audio of so many samples that changes an output frame, by bisection."""
        audio = self.audio(samples)
        before = self.run(audio)[0][0, frame]

        def changes(start: int) -> bool:
            moved = audio.clone()
            moved[:, start:] += _CHANGE
            return not torch.equal(self.run(moved)[0][0, frame], before)

        low, high = 0, samples  # changing from `low` on matters, from `high` on does not
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if changes(middle) else (low, middle)
        return low

    def influence(self, wanted: list[int], samples: int) -> Tensor:
        """Size of the gradient of output frames with respect to each feature frame: `(len(wanted), T)`."""
        torch.manual_seed(0)
        features, frames = self.model.frontend(self.audio(samples), torch.tensor([samples], device=self.device))
        features.requires_grad_()
        output, _ = self.model.encoder(self.model.input_norm(features, frames), frames)
        # Random weights: the plain sum of a layer-normed frame does not depend on its input.
        weight = torch.randn(output.shape[-1], generator=torch.Generator().manual_seed(1), dtype=output.dtype)
        scores = output[0] @ weight.to(self.device)
        rows = [torch.autograd.grad(scores[frame], features, retain_graph=True)[0] for frame in wanted]
        return torch.stack([row.abs().sum((0, 1)) for row in rows])

    def last_feature(self, frame: int, samples: int) -> int:
        """The last feature frame with a gradient from an output frame."""
        return int(self.influence([frame], samples)[0].nonzero().max())

    @contextmanager
    def stages(self) -> Iterator[list[tuple[str, Tensor]]]:
        """Records name and output, time in dimension 1, of each stage while the model runs."""
        seen: list[tuple[str, Tensor]] = []
        encoder = self.model.encoder
        modules: list[tuple[str, Any]] = [
            ("front end", self.model.frontend),
            ("normalisation", self.model.input_norm),
            ("stem", encoder.stem),
        ]
        for number, block in enumerate(encoder.blocks):
            modules += [
                (f"block {number} attention", block.attention),
                (f"block {number} convolution", block.convolution),
                (f"block {number}", block),
            ]

        def record(name: str, output: Any) -> None:
            tensor = output[0] if isinstance(output, tuple) else output
            seen.append((name, tensor.transpose(1, 2) if name in ("front end", "normalisation") else tensor))

        handles = [m.register_forward_hook(lambda _m, _i, out, name=name: record(name, out)) for name, m in modules]
        try:
            yield seen
        finally:
            for handle in handles:
                handle.remove()


def find_leaking_stage(model: Pretraining, training: bool = False) -> str | None:
    """The first stage of a chunked streaming model whose output before the end of a chunk hears audio after it.

    Args:
        model: with `right_context_ms` limited.
        training: in training mode, see `Prober`.

    Returns:
        Its name, or None. Encoders with accumulating look-ahead (`regular`) have no such boundary: None.
    """
    context, prober = model.encoder.context, Prober(model, training)
    if context.right is None or (context.style == "regular" and context.right):
        return None
    factor, hop = model.encoder.stem.factor, model.frontend.hop
    frames = (context.chunk or 1) * max(2, math.ceil(8 / (context.chunk or 1)))
    heard = frames * factor + model.encoder.stem.lookahead
    boundary = heard * hop + model.frontend.lookahead_samples
    audio = prober.audio(boundary + 6 * factor * hop + hop // 2)
    moved = audio.clone()
    moved[:, boundary:] += _CHANGE
    with prober.stages() as seen:
        prober.run(audio)
        count = len(seen)
        prober.run(moved)
    for (name, before), (_, after) in zip(seen[:count], seen[count:], strict=True):
        known = heard if name in ("front end", "normalisation") else frames
        if not torch.equal(before[:, :known], after[:, :known]):
            return name
    return None


def require_causal(model: Pretraining) -> None:
    """The light check before training: stops a streaming preset of which a stage hears the future.

    Raises:
        UserError: with the name of the stage.
    """
    if model.encoder.allow_future_leak:
        return
    for training in (False, True):
        stage = find_leaking_stage(model, training)
        if stage is not None:
            when = "while training" if training else "in use"
            raise UserError(
                f"the {stage} hears audio later than the preset declares ({when}): this encoder would not stream. "
                "Set encoder.allow_future_leak=true to train it all the same"
            )


def verify(model: Pretraining, seed: int = 0) -> Certificate:
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


def _declared(model: Pretraining) -> Check:
    leaks = find_leaks(model.encoder, model.latency)
    return Check("layers", "none that hears the future", "; ".join(leaks) or "none", not leaks)


def _stages(model: Pretraining, training: bool) -> Check:
    stage = find_leaking_stage(model, training)
    name = "stages, training mode" if training else "stages"
    return Check(
        name, "none hears past its chunk", "none does" if stage is None else f"the {stage} does", stage is None
    )


def _lookaheads(model: Pretraining) -> list[Check]:
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


def _padding(model: Pretraining) -> Check:
    """An utterance alone and the same one in a longer, padded batch, whose padding holds garbage."""
    prober = Prober(model)
    length = 14_321
    audio = prober.audio(length)
    padded = torch.nn.functional.pad(audio, (0, 9000), value=_CHANGE)
    alone, frames = prober.run(audio)
    together, _ = prober.run(padded, torch.tensor([length], device=prober.device))
    return _difference("padding changes nothing", alone[0, : int(frames)], together[0, : int(frames)])


def _neighbours(model: Pretraining) -> Check:
    prober = Prober(model)
    audio = prober.audio(16_000, rows=3)
    alone, _ = prober.run(audio[:1])
    loud = torch.cat([audio[:1], 3 * audio[1:]])
    return _difference("neighbours change nothing", alone[0], prober.run(loud)[0][0])


def _chunk_equals_full(model: Pretraining, precision: str, seed: int) -> Check:
    prober = Prober(model)
    model = prober.model.to(getattr(torch, precision))
    audio = prober.audio(30_000)[0].to(getattr(torch, precision))
    full = _offline(model, audio)
    generator = torch.Generator().manual_seed(seed)
    cuts = [torch.randint(0, len(audio), (n,), generator=generator).sort().values.tolist() for n in (0, 1, 7, 60)]
    return _equal(
        f"chunk == full, {precision}",
        lambda: max(_distance(_streamed(model, [torch.tensor_split(audio, at)])[0], full) for at in cuts),
        TOLERANCES[precision],
    )


def _streams_apart(model: Pretraining) -> Check:
    """Several streams served together, which begin one after the other."""
    prober = Prober(model)
    audio = prober.audio(20_000, rows=3)
    pieces = [[audio.new_zeros(0)] * row + list(audio[row].split(3_000)) for row in range(3)]

    def worst() -> float:
        found = _streamed(prober.model, pieces)
        return max(_distance(found[row], _offline(prober.model, audio[row])) for row in range(3))

    return _equal("streams served together stay apart", worst, TOLERANCES["float64"])


@torch.no_grad()
def _offline(model: Pretraining, audio: Tensor) -> Tensor:
    encoded, frames = model(audio[None], torch.tensor([len(audio)], device=audio.device))
    return encoded[0, : int(frames)]


def _streamed(model: Pretraining, rows: list[Any]) -> list[Tensor]:
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
