"""A training run, and its settings and results as the comparison uses them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_REFERENCE = re.compile(r"\$\{([\w.]+)\}")


@dataclass(frozen=True)
class Curve:
    """A metric over the run: steps, rising, and values."""

    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass
class Run:
    """A training run.

    Attributes:
        folder: folder of the run.
        config: composed config, with today's names of keys.
        choices: chosen option of each config group.
        overrides: overrides of the command line, by key.
        curves: logged metrics by name.
        summary: content of `summary.json`; empty until the run ends.
        latency: values of `LatencyReport` in milliseconds; infinite if the whole utterance is needed.
    """

    folder: Path
    config: dict[str, Any]
    choices: dict[str, Any]
    overrides: dict[str, str]
    curves: dict[str, Curve] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    latency: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the run in the logs; several runs may share it, see `labels`."""
        return str(self.summary.get("name") or self.folder.name)

    @property
    def preset(self) -> str:
        """Encoder preset."""
        return str(self.summary.get("preset") or self.choices.get("encoder", ""))

    @property
    def task(self) -> str:
        """Name of the trained task."""
        return str(self._entry("task", "name", "pretrain"))

    @property
    def monitor(self) -> str:
        """Metric that selected the best checkpoint; lower is better."""
        return str(self._entry("task", "monitor", "val/loss"))

    @property
    def rankable(self) -> bool:
        """False if the objective predicts masked frames and nothing was masked: the input then contains the answer."""
        masks = {"mask_threshold", "masked_weight"} & set(self.config.get("objective") or ())
        return not (masks and self._entry("masking", "kind", "") == "none")

    @property
    def step(self) -> int:
        """Last logged step."""
        return max(self._logged, int(self.summary.get("step", 0)))

    @property
    def state(self) -> str:
        """`finished`, `stopped at N of M`, or `no summary` for a run that is still running or was killed."""
        hours, planned = (self._entry("trainer", key, -1) for key in ("max_audio_hours", "max_steps"))
        # Steps logged after the summary belong to a continuation that has not ended yet.
        if not self.summary or self._logged > int(self.summary.get("step", 0)):
            return "no summary"
        if isinstance(hours, (int, float)) and hours > 0:
            seen = float(self.summary.get("hours_seen", 0))
            return "finished" if seen >= hours else f"stopped at {seen:.2f} of {hours:g} h"
        return "finished" if planned <= self.step else f"stopped at {self.step} of {planned}"

    def last(self, metric: str) -> float | None:
        """Returns the latest value of a metric, None if it was never logged."""
        curve = self.curves.get(metric)
        return curve.values[-1] if curve else self.summary.get("last", {}).get(metric)

    @property
    def _logged(self) -> int:
        return max((curve.steps[-1] for curve in self.curves.values()), default=0)

    def _entry(self, group: str, key: str, default: Any) -> Any:
        """Returns a value of a config group; runs of earlier versions may lack either."""
        node = self.config.get(group)
        return node.get(key, default) if isinstance(node, dict) else default

    def value(self, key: str) -> Any:
        """Returns the config value of a dotted key, following a reference to another key; None if there is none."""
        value = self._lookup(key)
        reference = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
        referred = self._lookup(reference[1]) if reference else None
        return value if referred is None else referred

    def _lookup(self, key: str) -> Any:
        node: Any = self.config
        for part in key.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        return node

    def setting(self, key: str) -> str:
        """Returns the text of an override, or of the default in effect if the run did not override the key."""
        default = self.choices.get(key) if key in self.choices else self.value(key)
        unknown = default is None or isinstance(default, dict) or "${" in str(default)
        text = str(self.overrides.get(key, "default" if unknown else default))
        try:
            return f"{float(text):g}"
        except ValueError:
            return text

    def example_plot(self) -> Path | None:
        """Returns the newest plot of the predictions for one utterance."""
        found = sorted((self.folder / "plots").glob("step_*.png"))
        return found[-1] if found else None
