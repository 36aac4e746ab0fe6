"""Variants of pretraining: ablations with the same budget and the same fine-tuning."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from streamnest.frontier.intervals import Estimate
from streamnest.frontier.options import FrontierOptions
from streamnest.frontier.plan import Stage, every_stage
from streamnest.frontier.records import Records
from streamnest.frontier.results import System, change_of, results_of, system_of

# Name of the row without pretraining.
SCRATCH = "scratch"


@dataclass
class Variant:
    """Results of a variant of pretraining with one preset (in one context) and one label budget.

    Attributes:
        name: name of the variant; None is the baseline, "scratch" is without pretraining.
        overrides: overrides of the variant, as typed.
        preset: encoder preset.
        context: latency context of a dynamic encoder.
        hours: label budget; None is all labels.
        system: evaluations.
        change: relative change of the character error rate from the baseline; None if not known.
    """

    name: str | None
    overrides: str
    preset: str
    context: str | None
    hours: float | None
    system: System
    change: Estimate | None = None


def read_variants(options: FrontierOptions, records: Records) -> list[Variant]:
    """Returns, for each preset, context and budget with variants, from scratch, the baseline and the variants."""
    stages = [stage for stage in every_stage(options) if stage.kind == "evaluate"]
    scopes = dict.fromkeys((stage.preset, stage.context, stage.hours) for stage in stages)
    found: list[Variant] = []
    for scope in scopes:
        here = [s for s in stages if (s.preset, s.context, s.hours) == scope]
        rows = _rows(options, here, records)
        found += rows if any(row.name not in (None, SCRATCH) for row in rows) else []
    return found


def _rows(options: FrontierOptions, stages: Sequence[Stage], records: Records) -> list[Variant]:
    overrides = {name: shlex.join(given) for name, *given in options.variants}
    baseline = [stage for stage in stages if stage.variant is None]
    reference = system_of(results_of(baseline, records, True))
    systems: list[tuple[str | None, System | None]] = [
        (SCRATCH, system_of(results_of(baseline, records, False))),
        (None, reference),
        *((name, system_of(results_of([s for s in stages if s.variant == name], records, True))) for name in overrides),
    ]
    scope = (stages[0].preset, stages[0].context, stages[0].hours)
    return [
        Variant(name, overrides.get(name or "", ""), *scope, system, _against(system, reference))
        for name, system in systems
        if system
    ]


def _against(system: System, reference: System | None) -> Estimate | None:
    return None if reference is None or system is reference else change_of(system, reference, "cer")
