"""Points of the frontier, computed from the records of evaluations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamnest.frontier.intervals import Bootstrap, Counts, Estimate, rate
from streamnest.frontier.plan import Stage
from streamnest.frontier.records import Records

# Column of the number of errors in a line of an evaluation; the number of units follows it.
_COLUMNS = {"cer": 1, "wer": 3}
REFERENCE = "bidirectional"


@dataclass
class System:
    """Evaluations of one preset, label budget and initialization, by seed.

    Attributes:
        records: results of the evaluations, by seed.
        cer: character error rate, pooled over seeds.
        wer: word error rate, pooled over seeds.
        cer_by_seed: character error rate of each seed.
        cer_seen: character error rate for speakers seen in training; None without any.
        cer_unseen: character error rate for other speakers; None without any.
        cer_reference: change of the character error rate relative to the offline encoder with the same initialization.
    """

    records: dict[int, dict[str, Any]]
    cer: Estimate
    wer: Estimate
    cer_by_seed: dict[int, float]
    cer_seen: float | None
    cer_unseen: float | None
    cer_reference: Estimate | None = None

    def consumed(self, kind: str) -> float | None:
        """Returns the mean hours of audio that "pretrain" or "finetune" stages consumed; None if not known."""
        hours = [record.get("consumed", {}).get(kind) for record in self.records.values()]
        known = [float(value) for value in hours if value is not None]
        return sum(known) / len(known) if known else None


@dataclass
class Point:
    """A point of the frontier: one preset (in one context) with one label budget.

    Attributes:
        preset: encoder preset.
        context: latency context of a dynamic encoder.
        hours: label budget; None is all labels.
        scratch: evaluations from scratch; None if not known yet.
        pretrained: evaluations from the pretrained encoder; None if not known yet.
        change: relative change of the character error rate by pretraining, over the seeds that both have.
        change_wer: relative change of the word error rate.
    """

    preset: str
    context: str | None
    hours: float | None
    scratch: System | None
    pretrained: System | None
    change: Estimate | None = None
    change_wer: Estimate | None = None

    @property
    def name(self) -> str:
        """Preset with its context: `causal`, or `dynamic: causal`."""
        return f"{self.preset}: {self.context}" if self.context else self.preset

    @property
    def systems(self) -> list[tuple[bool, System]]:
        """Known systems, each preceded by True if it is pretrained."""
        both = ((True, self.pretrained), (False, self.scratch))
        return [(pretrained, system) for pretrained, system in both if system]

    def latency(self, name: str = "latency_mean_ms") -> float:
        """Returns a latency in milliseconds, infinite for the whole utterance."""
        value = self._any["latency"][name]
        return float("inf") if value is None else float(value)

    @property
    def train_hours(self) -> float:
        """Hours of labeled audio."""
        return float(self._any["train_hours"])

    @property
    def compute(self) -> dict[str, float] | None:
        """Compute time of a chunk, the median over evaluations; None if the encoder does not stream."""
        times = [r["compute"] for _, system in self.systems for r in system.records.values() if r["compute"]]
        return {name: float(np.median([f[name] for f in times])) for name in times[0]} if times else None

    @property
    def _any(self) -> dict[str, Any]:
        return next(record for _, system in self.systems for record in system.records.values())


def read_points(plan: Sequence[Stage], records: Records) -> list[Point]:
    """Returns the points with results, by increasing latency; contexts of dynamic checkpoints come last."""
    stages = [stage for stage in plan if stage.kind == "evaluate" and stage.variant is None]
    places = dict.fromkeys((stage.preset, stage.context, stage.hours) for stage in stages)
    points = []
    for preset, context, hours in places:
        here = [s for s in stages if (s.preset, s.context, s.hours) == (preset, context, hours)]
        scratch, pretrained = (system_of(results_of(here, records, flag)) for flag in (False, True))
        if scratch or pretrained:
            points.append(_paired(Point(preset, context, hours, scratch, pretrained)))
    for point in points:
        _against_reference(point, next((p for p in points if (p.preset, p.hours) == (REFERENCE, point.hours)), None))
    return sorted(points, key=lambda point: (point.context is not None, point.latency()))


def counts_of(records: Iterable[dict[str, Any]], unit: str, ids: Sequence[str]) -> Counts:
    """Returns errors and units `(seeds, utterances, 2)` of the given utterances."""
    column = _COLUMNS[unit]
    tables = [{line[0]: line[column : column + 2] for line in record["utterances"]} for record in records]
    return np.array([[table[name] for name in ids] for table in tables], np.float64).reshape(len(tables), len(ids), 2)


def results_of(stages: Sequence[Stage], records: Records, pretrained: bool) -> dict[int, dict[str, Any]]:
    """Returns the results of evaluations with one initialization, by seed."""
    chosen = [stage for stage in stages if stage.pretrained is pretrained]
    stored = {stage.seed: (stage, records.read(stage)) for stage in chosen}
    return {
        seed: {**record["result"], "consumed": consumed_hours(stage, records)}
        for seed, (stage, record) in stored.items()
        if record
    }


def consumed_hours(stage: Stage, records: Records) -> dict[str, float | None]:
    """Returns the hours of audio that the trainings before an evaluation have consumed, by kind of stage."""
    hours: dict[str, float | None] = {}
    before = stage.needs
    while before:
        record = records.read(before)
        stored = (record or {"result": {}})["result"].get("hours")
        # Records of earlier versions have no hours; the summary of the run does.
        hours[before.kind] = records.summary(before).get("hours_seen") if stored is None else stored
        before = before.needs
    return hours


def system_of(results: dict[int, dict[str, Any]]) -> System | None:
    """Pools the evaluations of one system over seeds; None without any."""
    if not results:
        return None
    ids = _common(results.values())
    cer, wer = (counts_of(results.values(), unit, ids) for unit in _COLUMNS)
    replicates = Bootstrap(len(results), len(ids))
    return System(
        records=results,
        cer=replicates.rate(cer),
        wer=replicates.rate(wer),
        cer_by_seed={seed: rate(part) for seed, part in zip(results, cer, strict=True)},
        cer_seen=_of_speakers(results.values(), True),
        cer_unseen=_of_speakers(results.values(), False),
    )


def _of_speakers(results: Iterable[dict[str, Any]], seen: bool) -> float | None:
    lines = [line for result in results for line in result["utterances"] if line[-1] is seen]
    return rate(np.array([line[1:3] for line in lines], np.float64)) if lines else None


def _paired(point: Point) -> Point:
    if point.scratch and point.pretrained:
        point.change = change_of(point.pretrained, point.scratch, "cer")
        point.change_wer = change_of(point.pretrained, point.scratch, "wer")
    return point


def _against_reference(point: Point, reference: Point | None) -> None:
    if reference is None or reference is point:
        return
    for system, other in ((point.scratch, reference.scratch), (point.pretrained, reference.pretrained)):
        if system and other:
            system.cer_reference = change_of(system, other, "cer")


def change_of(system: System, reference: System, unit: str) -> Estimate | None:
    """Returns the relative change of an error rate over the seeds and utterances that both have; None without any."""
    seeds = [seed for seed in system.records if seed in reference.records]
    first, second = ([s.records[seed] for seed in seeds] for s in (system, reference))
    ids = _common([*first, *second]) if seeds else []
    if not ids:
        return None
    return Bootstrap(len(seeds), len(ids)).change(counts_of(first, unit, ids), counts_of(second, unit, ids))


def _common(results: Iterable[dict[str, Any]]) -> list[str]:
    """Returns the ids of utterances that all results have, in the order of the first."""
    tables = [[line[0] for line in result["utterances"]] for result in results]
    shared = set(tables[0]).intersection(*tables)
    return [name for name in tables[0] if name in shared]
