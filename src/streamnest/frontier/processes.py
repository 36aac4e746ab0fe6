"""Stages as processes: their command lines, and checks of their output."""

from __future__ import annotations

import json
import os
import shlex
import sys
from dataclasses import dataclass
from typing import Any

from streamnest.config.aliases import modernize
from streamnest.console.entry_point import override
from streamnest.errors import UserError
from streamnest.files.tensor_file import load_tensors
from streamnest.frontier.plan import Stage
from streamnest.frontier.records import Records

_MODULE = (sys.executable, "-m")


class StageError(Exception):
    """Raised if a stage left no usable output."""


@dataclass(frozen=True)
class Launcher:
    """Builds the command lines of stages; its attributes do not affect results.

    Attributes:
        records: records of the frontier.
        threads: threads of each process; None leaves them to PyTorch.
        device: device of evaluations.
    """

    records: Records
    threads: int | None = None
    device: str = "cpu"

    def command(self, stage: Stage) -> list[str]:
        """Returns the command line of a stage's process, which starts with the interpreter and `-m`."""
        checkpoint = [str(self.records.checkpoint(stage.needs))] if stage.needs else []
        out = str(self.records.result(stage))
        threads = [] if self.threads is None else ["--threads", str(self.threads)]
        if stage.kind == "probe":
            return [*_MODULE, "streamnest", "probe", *checkpoint, *_as_options(stage), "--json", out, *threads]
        if stage.kind == "evaluate":
            options = [*_as_options(stage), "--device", self.device, "--out", out, *threads]
            return [*_MODULE, "streamnest.frontier.evaluation", *checkpoint, *options]
        overrides = [*stage.overrides, f"run_id={stage.run}"]
        overrides += [override("encoder_from", path) for path in checkpoint]
        overrides += [] if self.threads is None else [f"threads={self.threads}"]
        return [*_MODULE, "streamnest", "train", *overrides]

    def environment(self) -> dict[str, str]:
        """Returns the environment of every process, in which runs are written to the folder of the frontier."""
        return {**os.environ, "STREAMNEST_LOGS": str(self.records.out), "COLUMNS": "120"}

    def shell(self, stage: Stage) -> str:
        """Returns the command as typed in a shell."""
        return shlex.join(["python", *self.command(stage)[1:]])

    def outcome(self, stage: Stage) -> Any:
        """Returns the result of a finished stage, as stored in its record.

        Raises:
            StageError: if there is no result, or a training run stopped early.
        """
        if stage.kind in ("probe", "evaluate"):
            path = self.records.result(stage)
            if not path.is_file():
                raise StageError("no result was written")
            return json.loads(path.read_text(encoding="utf-8"))
        steps, hours = self._progress(stage)
        planned, budget = _value(stage, "trainer.max_steps"), _value(stage, "trainer.max_audio_hours")
        limited = _value(stage, "trainer.max_time")
        if budget and (hours or 0.0) < float(budget) and not limited:
            raise StageError(f"stopped after {hours or 0:.2f} of {budget} h of audio; the same command continues it")
        if steps < int(planned or 0) and not limited:
            raise StageError(f"stopped at step {steps} of {planned}; the same command continues it")
        return {"steps": steps, "hours": hours}

    def _progress(self, stage: Stage) -> tuple[int, float | None]:
        """Returns the steps of a training run, and the hours of audio that it has consumed; None if not counted."""
        path = self.records.checkpoint(stage)
        if not path.is_file():
            raise StageError("no checkpoint was written")
        try:
            stored = modernize(load_tensors(path))
            seconds = stored.get("state_dict", {}).get("seconds_seen")
            return int(stored["global_step"]), None if seconds is None else float(seconds) / 3600
        except (UserError, KeyError, TypeError, AttributeError) as error:
            raise StageError(f"cannot read the checkpoint: {error}") from None


def _as_options(stage: Stage) -> list[str]:
    """Returns `name=value` as command-line options, without those that are None."""
    pairs = [override.partition("=")[::2] for override in stage.overrides]
    return [part for name, value in pairs if value != "None" for part in (f"--{name}", value)]


def _value(stage: Stage, setting: str) -> str | None:
    return next((one.partition("=")[2] for one in stage.overrides if one.startswith(f"{setting}=")), None)
