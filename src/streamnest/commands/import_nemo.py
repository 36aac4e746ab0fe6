"""Makes a checkpoint of a NeMo archive: `streamnest import-nemo MODEL.nemo [OUT.ckpt]`.

NEST archives come with quantizer and heads, recognisers with a FastConformer with the encoder alone; bidirectional and
cache-aware ones (docs/CHECKPOINTS.md). Nothing in the archive is executed. Prints what was kept, translated and left
out, and commands to go on with. Exit status 2: the archive cannot be read, or holds what cannot be had here.
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


def next_commands(output: Path, words: list[str], streams: bool) -> list[str]:
    """What the checkpoint is good for, ready to be copied."""
    train = ["python", "train.py", *words, override("init_from", output)]
    commands = [
        f"streamnest verify {shlex.quote(str(output))}",
        " ".join(map(shlex.quote, train)),
        f"python train.py task=ctc {shlex.quote(override('encoder_from', output))}",
    ]
    if streams:
        return [*commands, f"streamnest stream --model_path {shlex.quote(str(output))} --audio_path talk.wav"]
    # The preset comes last, and takes what makes the archive's encoder bidirectional with it.
    return [*commands, " ".join(map(shlex.quote, streaming_words(words, output)))]


def streaming_words(words: list[str], output: Path) -> list[str]:
    """The command that makes a streaming encoder of a bidirectional one."""
    sizes = [word for word in words if word.startswith(("size.", "frontend.", "encoder.subsampling", "quantizer"))]
    return ["python", "train.py", "encoder=causal", "masking=causal", *sizes, override("init_from", output)]


@without_trace
def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path, help="MODEL.nemo")
    parser.add_argument("output", type=Path, nargs="?", help="the checkpoint to write; default: MODEL.ckpt here")
    args = parser.parse_intermixed_args()
    output = args.output or Path(args.archive.stem + ".ckpt")
    model, ledger, words = import_nemo(args.archive, config_folder())
    write_checkpoint(model, output)
    terminal(120).print(ledger.table())
    print(f"wrote {printable(output)}; go on with:")
    for command in next_commands(output, words, model.latency.streams):
        print(f"  {printable(command)}")
    return 0
