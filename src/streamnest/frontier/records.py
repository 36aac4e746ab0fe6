"""Records of finished stages: one JSON file each, written atomically."""

from __future__ import annotations

import json
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from streamnest.errors import UserError
from streamnest.files.atomic_write import write_whole
from streamnest.frontier.options import FrontierOptions
from streamnest.frontier.plan import Stage
from streamnest.reporting.summary import FILE


class Records:
    """Output folder of a frontier: `stages/HASH.json` of finished stages, `runs/`, `logs/`, `plan.json` and the report.

    Args:
        out: output folder.
    """

    def __init__(self, out: Path) -> None:
        self.out = out

    def path(self, stage: Stage) -> Path:
        """Returns the path of the record of a stage."""
        return self.out / "stages" / f"{stage.key}.json"

    def folder(self, stage: Stage) -> Path:
        """Returns the folder of the run of a stage, below STREAMNEST_LOGS."""
        return self.out / "runs" / stage.run

    def checkpoint(self, stage: Stage) -> Path:
        """Returns the path of the checkpoint that training writes."""
        return self.folder(stage) / "checkpoints/last.ckpt"

    def result(self, stage: Stage) -> Path:
        """Returns the path of the result of an evaluation or probe."""
        return self.folder(stage) / "result.json"

    def log(self, stage: Stage) -> Path:
        """Returns the path of the log of a stage, which all its starts append to."""
        return self.out / "logs" / f"{stage.run}.log"

    def read(self, stage: Stage) -> dict[str, Any] | None:
        """Returns the record of a stage, None if it is not done."""
        try:
            record: dict[str, Any] = json.loads(self.path(stage).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return record

    def summary(self, stage: Stage) -> dict[str, Any]:
        """Returns the summary of a training run; empty if there is none."""
        try:
            summary = json.loads((self.folder(stage) / FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return summary if isinstance(summary, dict) else {}

    def write(self, stage: Stage, seconds: float, result: Any, version: str | None) -> None:
        """Writes the record of a finished stage: duration of its last start, result and code version."""
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        record = {**stage.identity, "seconds": round(seconds, 2), "finished": now, "commit": version, "result": result}
        write_whole(self.path(stage), json.dumps(record, ensure_ascii=False) + "\n")

    def keep_options(self, options: FrontierOptions, command: str) -> None:
        """Stores the options and the command of this frontier."""
        text = json.dumps({"command": command, "options": options.plain()}, indent=1, ensure_ascii=False)
        write_whole(self.out / "plan.json", text + "\n")

    def options(self) -> tuple[FrontierOptions, str]:
        """Returns the options and the command of the last start.

        Raises:
            UserError: if no frontier was started in this folder.
        """
        path = self.out / "plan.json"
        if not path.is_file():
            raise UserError(f"{self.out} has no frontier (plan.json): run the command without --report first")
        stored = json.loads(path.read_text(encoding="utf-8"))
        return FrontierOptions.of(stored["options"]), stored["command"]


def code_version() -> str | None:
    """Returns the git commit of the code, with a plus if files were modified; None without git."""
    command = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--abbrev=12",
        "--dirty=+",
        "--exclude=*",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
