"""Variants of pretraining: the same encoder, budget and recognition, with one thing changed before."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from streamnest.frontier.intervals import Estimate
from streamnest.frontier.options import Options
from streamnest.frontier.plan import Stage, every_stage
from streamnest.frontier.records import Records
from streamnest.frontier.results import System, change_of, results_of, system_of

# Names the row of what was not pretrained at all.
SCRATCH = "scratch"


@dataclass
class Variant:
    """What a variant of pretraining comes to, with one preset (in one context) and one label budget.

    Attributes:
        name: of the variant, None for pretraining as the options say and "scratch" for none at all.
        words: its overrides, as they are typed.
        preset: of the encoder.
        context: of a dynamic one.
        hours: label budget; None is all.
        system: its evaluations.
        change: of character errors relative to pretraining without the variant; None is not known.
    """

    name: str | None
    words: str
    preset: str
    context: str | None
    hours: float | None
    system: System
    change: Estimate | None = None


def read_variants(options: Options, records: Records) -> list[Variant]:
    """For each preset, context and budget of which a variant is known: from scratch, pretrained, and its variants."""
    stages = [stage for stage in every_stage(options) if stage.kind == "evaluate"]
    places = dict.fromkeys((stage.preset, stage.context, stage.hours) for stage in stages)
    found: list[Variant] = []
    for place in places:
        here = [s for s in stages if (s.preset, s.context, s.hours) == place]
        rows = _rows(options, here, records)
        found += rows if any(row.name not in (None, SCRATCH) for row in rows) else []
    return found


def _rows(options: Options, stages: Sequence[Stage], records: Records) -> list[Variant]:
    words = {name: shlex.join(given) for name, *given in options.variants}
    plain = [stage for stage in stages if stage.variant is None]
    reference = system_of(results_of(plain, records, True))
    systems: list[tuple[str | None, System | None]] = [
        (SCRATCH, system_of(results_of(plain, records, False))),
        (None, reference),
        *((name, system_of(results_of([s for s in stages if s.variant == name], records, True))) for name in words),
    ]
    place = (stages[0].preset, stages[0].context, stages[0].hours)
    return [
        Variant(name, words.get(name or "", ""), *place, system, _against(system, reference))
        for name, system in systems
        if system
    ]


def _against(system: System, reference: System | None) -> Estimate | None:
    return None if reference is None or system is reference else change_of(system, reference, "cer")
