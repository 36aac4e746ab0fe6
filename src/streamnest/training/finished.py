"""Runs that have reached their length: whether their last validation and summary are complete as well."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from streamnest.checkpoint.loading import StoredCheckpoint
from streamnest.reporting.summary import has_summary

log = logging.getLogger(__name__)


def is_complete(stored: Mapping[str, Any], cfg: DictConfig) -> bool:
    """Returns whether a checkpoint to continue from already has the whole length of the run."""
    _, done, budget = _length(stored, cfg)
    return 0 <= budget <= done


def is_finished(stored: StoredCheckpoint, cfg: DictConfig) -> bool:
    """Returns, and reports, whether a run whose length is complete also has its last validation and its summary.

    A run that is killed after its last step lacks them. A run without any validation has no record of one.
    """
    step, records = int(stored.content.get("global_step", 0)), _validations(stored.content)
    folder = Path(cfg.paths.output_dir)
    key, done, budget = _length(stored.content, cfg)
    state, more = f"is at step {done} of {budget}", str(2 * done)
    if cfg.trainer.max_audio_hours is not None:
        state, more = f"has consumed {done:.2f} of {budget:g} h of audio", f"{2 * round(done, 2):g}"
    validated = not records or records[-1].get("step") == step
    if validated and (folder not in stored.path.parents or has_summary(folder, step)):
        log.warning("already finished: the checkpoint %s; %s=%s continues training", state, key, more)
        return True
    log.warning("the checkpoint %s, but the run was stopped before its validation or summary: validating", state)
    return False


def _length(stored: Mapping[str, Any], cfg: DictConfig) -> tuple[str, float, float]:
    """Returns the key of the length of a run, the length at a checkpoint, and that of the run; negative: endless."""
    if (hours := cfg.trainer.max_audio_hours) is not None:
        return "trainer.max_audio_hours", float(stored["state_dict"]["seconds_seen"]) / 3600, float(hours)
    return "trainer.max_steps", int(stored.get("global_step", 0)), int(cfg.trainer.max_steps)


def _validations(stored: Mapping[str, Any]) -> list[dict[str, float]]:
    """Returns the records of the validations before a checkpoint was written; empty if they are not valid."""
    try:
        return [dict(record) for record in stored["callbacks"]["ValHistory"]["records"]]
    except (KeyError, TypeError, ValueError):
        return []


def last_value(stored: Mapping[str, Any], metric: str) -> float | None:
    """Returns a metric of the last validation before a checkpoint was written; None if there is none."""
    records = _validations(stored)
    return float(records[-1][metric]) if records and metric in records[-1] else None
