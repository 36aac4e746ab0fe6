"""What is known of stages that are done: one JSON file each, written whole or not at all."""

from __future__ import annotations

import json
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from streamnest.errors import UserError
from streamnest.files.atomic_write import write_whole
from streamnest.frontier.options import Options
from streamnest.frontier.plan import Stage


class Records:
    """The folder of a frontier: `stages/HASH.json` of what is done, `runs/`, `logs/`, `plan.json` and the report.

    Args:
        out: the folder.
    """

    def __init__(self, out: Path) -> None:
        self.out = out

    def path(self, stage: Stage) -> Path:
        """Of the record of a stage."""
        return self.out / "stages" / f"{stage.key}.json"

    def folder(self, stage: Stage) -> Path:
        """Of the run of a stage, where train.py writes with STREAMNEST_LOGS."""
        return self.out / "runs" / stage.run

    def checkpoint(self, stage: Stage) -> Path:
        """What training leaves behind."""
        return self.folder(stage) / "checkpoints/last.ckpt"

    def result(self, stage: Stage) -> Path:
        """What an evaluation or a probe leaves behind."""
        return self.folder(stage) / "result.json"

    def log(self, stage: Stage) -> Path:
        """What a stage printed, in all its starts."""
        return self.out / "logs" / f"{stage.run}.log"

    def read(self, stage: Stage) -> dict[str, Any] | None:
        """The record of a stage, None where it is not done."""
        try:
            record: dict[str, Any] = json.loads(self.path(stage).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return record

    def write(self, stage: Stage, seconds: float, result: Any, version: str | None) -> None:
        """Records that a stage is done: how long its last start took, what came out, and with which code."""
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        record = {**stage.identity, "seconds": round(seconds, 2), "finished": now, "commit": version, "result": result}
        write_whole(self.path(stage), json.dumps(record, ensure_ascii=False) + "\n")

    def keep_options(self, options: Options, command: str) -> None:
        """Says what this folder is a frontier of, and the command that was typed."""
        text = json.dumps({"command": command, "options": options.plain()}, indent=1, ensure_ascii=False)
        write_whole(self.out / "plan.json", text + "\n")

    def options(self) -> tuple[Options, str]:
        """What was run here last, and its command.

        Raises:
            UserError: where nothing was.
        """
        path = self.out / "plan.json"
        if not path.is_file():
            raise UserError(f"{self.out} holds no frontier: run one first, without --report")
        found = json.loads(path.read_text(encoding="utf-8"))
        return Options.of(found["options"]), found["command"]


def code_version() -> str | None:
    """The version of the code, with a plus where files differ from it; None where there is no git."""
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
