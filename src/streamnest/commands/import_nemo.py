"""Converts a NeMo archive to a checkpoint: `streamnest import-nemo`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from streamnest.checkpoint.loading import write_checkpoint
from streamnest.commands.arguments.import_nemo import parse
from streamnest.console.entry_point import override, without_trace
from streamnest.console.terminal import printable, terminal
from streamnest.interop.nemo import import_nemo
from streamnest.locations import config_folder, train_command


def next_commands(output: Path, overrides: list[str], streams: bool) -> list[str]:
    """Returns commands that continue from the checkpoint, quoted for the shell."""
    train = [*train_command().split(), *overrides, override("init_from", output)]
    commands = [
        f"streamnest verify {shlex.quote(str(output))}",
        " ".join(map(shlex.quote, train)),
        f"{train_command()} task=ctc {shlex.quote(override('encoder_from', output))}",
    ]
    if streams:
        return [*commands, f"streamnest stream {shlex.quote(str(output))} talk.wav"]
    return [*commands, " ".join(map(shlex.quote, streaming_command(overrides, output)))]


def streaming_command(overrides: list[str], output: Path) -> list[str]:
    """Returns the command that trains a streaming encoder from a bidirectional one."""
    sizes = [word for word in overrides if word.startswith(("size.", "frontend.", "encoder.subsampling", "quantizer"))]
    return [*train_command().split(), "encoder=causal", "masking=causal", *sizes, override("init_from", output)]


@without_trace
def main(argv: Sequence[str] | None = None) -> int:
    """Converts an archive and prints the commands that continue from it."""
    args = parse(argv)
    output = args.output or Path(args.archive.stem + ".ckpt")
    model, report, overrides = import_nemo(args.archive, config_folder())
    write_checkpoint(model, output)
    terminal(120).print(report.table())
    print(f"wrote {printable(output)}; continue with:")
    for command in next_commands(output, overrides, model.latency.streams):
        print(f"  {printable(command)}")
    return 0
