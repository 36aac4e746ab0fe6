"""Stages as processes: their command lines, and whether what they left behind is whole."""

from __future__ import annotations

import json
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamnest.console.entry_point import override
from streamnest.errors import UserError
from streamnest.files.tensor_file import load_tensors
from streamnest.frontier.plan import Stage
from streamnest.frontier.records import Records


class StageError(Exception):
    """A stage that left nothing usable behind; the message says why."""


@dataclass(frozen=True)
class Machine:
    """How stages are run here; nothing of it changes what comes out.

    Attributes:
        root: of the repository: train.py and scripts/ lie there.
        records: of the frontier.
        threads: of each process; None is left to torch.
        device: of evaluations.
    """

    root: Path
    records: Records
    threads: int | None = None
    device: str = "cpu"

    def command(self, stage: Stage) -> list[str]:
        """The words of a stage's process; the first one is the interpreter."""
        out = str(self.records.result(stage))
        threads = [] if self.threads is None else ["--threads", str(self.threads)]
        if stage.kind == "probe":
            return [
                sys.executable,
                self._script("streamnest probe"),
                *self._of(stage),
                *_given(stage),
                "--json",
                out,
                *threads,
            ]
        if stage.kind == "evaluate":
            module = "streamnest.frontier.evaluation"
            where = [*_given(stage), "--device", self.device, "--out", out, *threads]
            return [sys.executable, "-m", module, *self._of(stage), *where]
        words = [*stage.words, f"run_id={stage.run}"]
        words += [override("encoder_from", path) for path in self._of(stage)]
        words += [] if self.threads is None else [f"threads={self.threads}"]
        return [sys.executable, self._script("train.py"), *words]

    def environment(self) -> dict[str, str]:
        """Of every process: runs are written below the folder of the frontier."""
        return {**os.environ, "STREAMNEST_LOGS": str(self.records.out), "COLUMNS": "120"}

    def typed(self, stage: Stage) -> str:
        """The command as one would type it."""
        return shlex.join(["python", *self.command(stage)[1:]])

    def outcome(self, stage: Stage) -> Any:
        """What a stage left behind, as far as its record keeps it.

        Raises:
            StageError: where it left nothing, or a run stopped early.
        """
        if stage.kind in ("probe", "evaluate"):
            path = self.records.result(stage)
            if not path.is_file():
                raise StageError("it left no result")
            return json.loads(path.read_text(encoding="utf-8"))
        steps, asked = self._steps(stage), _value(stage, "trainer.max_steps")
        if steps < int(asked or 0) and not _value(stage, "trainer.max_time"):
            raise StageError(f"it stopped at step {steps} of {asked}; it continues there when started again")
        return {"steps": steps}

    def _steps(self, stage: Stage) -> int:
        path = self.records.checkpoint(stage)
        if not path.is_file():
            raise StageError("it left no checkpoint")
        try:
            return int(load_tensors(path)["global_step"])
        except (UserError, KeyError, TypeError) as error:
            raise StageError(f"its checkpoint cannot be read: {error}") from None

    def _of(self, stage: Stage) -> list[str]:
        return [str(self.records.checkpoint(stage.needs))] if stage.needs else []

    def _script(self, name: str) -> str:
        """Relative to where the command was typed, where it lies below."""
        path = self.root / name
        return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _given(stage: Stage) -> list[str]:
    """`name=value` as options, but for values that are not given."""
    pairs = [word.partition("=")[::2] for word in stage.words]
    return [part for name, value in pairs if value != "None" for part in (f"--{name}", value)]


def _value(stage: Stage, setting: str) -> str | None:
    return next((w.partition("=")[2] for w in stage.words if w.startswith(f"{setting}=")), None)
