"""Averages the weights of checkpoints: `streamnest average`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from streamnest.checkpoint.average import average, last_checkpoints
from streamnest.checkpoint.loading import write_checkpoint
from streamnest.commands.arguments.average import parse
from streamnest.console.entry_point import without_trace
from streamnest.console.terminal import printable
from streamnest.errors import UserError


@without_trace
def main(argv: Sequence[str] | None = None) -> int:
    """Writes the average and returns the exit status."""
    args = parse(argv)
    if Path(args.output).exists():
        raise UserError(f"{args.output} exists: the first argument is the checkpoint to write; give another name")
    paths = args.checkpoints if args.last is None else last_checkpoints(args.checkpoints[0], args.last)
    model, steps = average(paths)
    write_checkpoint(model, args.output)
    known = ", ".join(map(str, steps)) if all(steps) else "not stored"
    print(f"wrote {printable(args.output)}: the mean of {len(steps)} checkpoints (updates: {known})")
    return 0
