"""The command `streamnest`: one subcommand for each module of `streamnest.commands`."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

COMMANDS: dict[str, str] = {
    "train": "pretrain an encoder, or train a task on one",
    "verify": "certify the look-ahead of a model",
    "stream": "stream audio through a model and measure it",
    "transcribe": "transcribe speech",
    "serve": "transcribe live streams, from a page or programs",
    "language-model": "make an n-gram language model for transcribe",
    "diarize": "find who speaks when",
    "export": "export the streaming step as ONNX",
    "prepare": "write the cut manifests of a corpus",
    "shard": "write cut manifests as Lhotse Shar",
    "inspect": "show the content of cut manifests",
    "report": "compare runs on one HTML page",
    "frontier": "measure quality against latency for one budget",
    "probe": "probe each layer of a frozen encoder",
    "presets": "list the encoder presets and their latency",
    "flops": "print the training cost per second of audio",
    "import-nemo": "convert a NeMo archive to a checkpoint",
    "export-nemo": "write a checkpoint as a NeMo archive",
    "average": "average the weights of checkpoints",
    "save-pretrained": "write a checkpoint as a folder to share",
}


def usage() -> str:
    """Returns the text of `streamnest --help`."""
    rows = "\n".join(f"  {name:<16} {text}" for name, text in COMMANDS.items())
    return (
        "usage: streamnest COMMAND ...\n\nSelf-supervised pretraining of streaming speech encoders.\n\n"
        f"commands:\n{rows}\n\n`streamnest COMMAND --help` describes a command; --version prints the version."
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    name, *rest = (sys.argv[1:] if argv is None else argv) or [""]
    if name in ("", "-h", "--help"):
        print(usage())
        return 0 if name else 2
    if name == "--version":
        print(f"streamnest {importlib.import_module('streamnest').__version__}")
        return 0
    if name not in COMMANDS:
        return _unknown(name)
    import streamnest.console.starting  # noqa: F401

    module = name.replace("-", "_")
    # Parsed here first: a help page or an error needs none of the imports of the work itself.
    importlib.import_module(f"streamnest.commands.arguments.{module}").parse(rest)
    sys.argv = [f"streamnest {name}", *rest]
    with _loading():
        command = importlib.import_module(f"streamnest.commands.{module}")
    return int(command.main())


def run_script(path: str) -> int:
    """Runs the command that a file of `scripts/` is named after."""
    name = Path(path).stem.removesuffix("_data").replace("_", "-")
    return main([name, *sys.argv[1:]])


def _unknown(name: str) -> int:
    from streamnest.console.terminal import printable

    near = difflib.get_close_matches(name, COMMANDS, 1)
    remedy = f"did you mean {near[0]}?" if near else "`streamnest --help` lists the commands"
    print(f"streamnest: there is no command {printable(name)}: {remedy}", file=sys.stderr)
    return 2


@contextmanager
def _loading() -> Iterator[None]:
    """Shows a line on a terminal while libraries load, which takes seconds."""
    if not sys.stderr.isatty():
        yield
        return
    sys.stderr.write("loading ...")
    sys.stderr.flush()
    try:
        yield
    finally:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()
