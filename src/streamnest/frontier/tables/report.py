"""Results of a frontier, as collected for tables and plots."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from streamnest.curves.curve import LearningCurve
from streamnest.frontier.options import FrontierOptions
from streamnest.frontier.results import Point
from streamnest.frontier.variants import Variant

Row = dict[str, Any]


@dataclass
class FrontierReport:
    """Results of a frontier.

    Attributes:
        options: options of the frontier.
        points: points with results.
        probes: accuracy on the input, the best and the last layer of pretrained encoders, by preset and seed.
        done: number of finished evaluations.
        planned: number of planned evaluations.
        commits: code versions that the results were computed with.
        command: command that was typed.
        variants: variants of pretraining with results.
        curves: learning curves of the fine-tunings, by preset; a label names the initialization, labels and seed.
    """

    options: FrontierOptions
    points: list[Point]
    probes: list[Row]
    done: int
    planned: int
    commits: list[str]
    command: str = ""
    variants: list[Variant] = field(default_factory=list)
    curves: dict[str, list[LearningCurve]] = field(default_factory=dict)

    @property
    def budgets(self) -> list[float | None]:
        """Label budgets, the largest first."""
        return sorted({p.hours for p in self.points}, key=lambda hours: -math.inf if hours is None else -hours)

    @property
    def largest(self) -> list[Point]:
        """Points with the largest label budget."""
        return [p for p in self.points if p.hours == self.budgets[0]] if self.points else []
