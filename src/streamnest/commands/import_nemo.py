"""Converts a NeMo archive to a checkpoint: `streamnest import-nemo MODEL.nemo [OUT.ckpt]`.

Imports NEST archives with quantizer and heads, and the encoder of recognizers with a FastConformer, bidirectional or
cache-aware (docs/CHECKPOINTS.md). Nothing in the archive is executed. Prints which parts were kept, translated and left
out, and commands for the next steps. Exit status 2: the archive cannot be read, or a setting in it is not supported.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from streamnest.checkpoint.loading import write_checkpoint
from streamnest.console.entry_point import override, without_trace
from streamnest.console.terminal import printable, terminal
from streamnest.interop.nemo import import_nemo
from streamnest.locations import config_folder


def next_commands(output: Path, overrides: list[str], streams: bool) -> list[str]:
    """Returns commands that use the checkpoint, ready to be copied."""
    train = ["python", "train.py", *overrides, override("init_from", output)]
    commands = [
        f"streamnest verify {shlex.quote(str(output))}",
        " ".join(map(shlex.quote, train)),
        f"python train.py task=ctc {shlex.quote(override('encoder_from', output))}",
    ]
    if streams:
        return [*commands, f"streamnest stream --model_path {shlex.quote(str(output))} --audio_path talk.wav"]
    # The streaming preset replaces the settings that make the encoder of the archive bidirectional.
    return [*commands, " ".join(map(shlex.quote, streaming_command(overrides, output)))]


def streaming_command(overrides: list[str], output: Path) -> list[str]:
    """Returns the command that trains a streaming encoder from a bidirectional one."""
    sizes = [word for word in overrides if word.startswith(("size.", "frontend.", "encoder.subsampling", "quantizer"))]
    return ["python", "train.py", "encoder=causal", "masking=causal", *sizes, override("init_from", output)]


@without_trace
def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path, help="MODEL.nemo")
    parser.add_argument("output", type=Path, nargs="?", help="the checkpoint to write; default: MODEL.ckpt here")
    args = parser.parse_intermixed_args()
    output = args.output or Path(args.archive.stem + ".ckpt")
    model, report, overrides = import_nemo(args.archive, config_folder())
    write_checkpoint(model, output)
    terminal(120).print(report.table())
    print(f"wrote {printable(output)}; next commands:")
    for command in next_commands(output, overrides, model.latency.streams):
        print(f"  {printable(command)}")
    return 0
