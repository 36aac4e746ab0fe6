"""The command `streamnest`: one subcommand for each module of `streamnest.commands`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

COMMANDS: dict[str, str] = {
    "train": "pretrain an encoder, or train a task on one",
    "verify": "certify how far a model looks ahead",
    "stream": "stream audio through a checkpoint",
    "transcribe": "recognize speech",
    "diarize": "find who speaks when",
    "export": "export the streaming step as ONNX",
    "prepare": "make the cut manifests of a corpus",
    "shard": "write cut manifests as Lhotse Shar",
    "inspect": "show what cut manifests hold",
    "report": "compare runs on one HTML page",
    "frontier": "measure quality against latency for one budget",
    "probe": "probe each layer of a frozen encoder",
    "presets": "list the encoder presets and their latency",
    "flops": "print what training costs per second of audio",
    "import-nemo": "make a checkpoint of a NeMo archive",
    "export-nemo": "write a checkpoint as a NeMo archive",
    "save-pretrained": "write a checkpoint as a folder to share",
}


def usage() -> str:
    """Returns the text of `streamnest --help`."""
    rows = "\n".join(f"  {name:<16} {text}" for name, text in COMMANDS.items())
    return f"usage: streamnest COMMAND ...\n\n{rows}\n\n`streamnest COMMAND --help` describes a command."


def main(argv: list[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    words = sys.argv[1:] if argv is None else argv
    if not words or words[0] in ("-h", "--help"):
        print(usage())
        return 0 if words else 2
    name = words[0]
    if name not in COMMANDS:
        print(f"streamnest: {name!r} is not a command: choose {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    import streamnest.console.starting  # noqa: F401

    module = importlib.import_module(f"streamnest.commands.{name.replace('-', '_')}")
    sys.argv = [f"streamnest {name}", *words[1:]]
    return int(module.main())


def run_script(path: str) -> int:
    """Runs the command that a file of `scripts/` is named after."""
    name = Path(path).stem.removesuffix("_data").replace("_", "-")
    return main([name, *sys.argv[1:]])
