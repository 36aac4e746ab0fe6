"""Prints the help page of training; all other arguments are parsed by Hydra."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from streamnest.locations import config_folder, train_command


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Prints the help page and exits if the arguments contain `--help` or `-h`; parses nothing else."""
    if {"-h", "--help"} & set(sys.argv[1:] if argv is None else argv):
        print(page(), end="")
        sys.exit(0)
    return argparse.Namespace()


def page() -> str:
    """Returns the page of `configs/hydra/help/streamnest.yaml`, without composing a config."""
    import yaml

    parts: dict[str, Any] = yaml.safe_load((config_folder() / "hydra/help/streamnest.yaml").read_text("utf-8"))
    text: str = parts["template"]
    for name in ("header", "footer"):
        text = text.replace(f"${{hydra.help.{name}}}", parts[name])
    return text.replace("python train.py", train_command())
