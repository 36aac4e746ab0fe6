"""Serves a recognizer over a WebSocket and HTTP: `streamnest serve`."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence

import torch

from streamnest.commands.arguments.serve import parse
from streamnest.commands.transcribe import load
from streamnest.console.entry_point import without_trace
from streamnest.errors import UserError
from streamnest.serving.access import Access
from streamnest.serving.engine import Engine
from streamnest.serving.hub import Hub
from streamnest.serving.limits import Limits


def run(args: argparse.Namespace) -> int:
    """Serves until a signal, and returns the exit status."""
    try:
        from streamnest.serving.server import Server, bind
    except ImportError as error:
        raise UserError(f"streamnest serve needs the extra serve: pip install 'streamnest[serve]' ({error})") from None
    torch.set_num_threads(args.threads)
    if args.verbose:
        logging.getLogger("streamnest.serving").setLevel(logging.INFO)
    engine = Engine(load(args), Limits(streams=args.streams, idle_s=args.idle))
    server = Server(Hub(engine, args.threads), Access(args.host, args.token, tuple(args.origin)))
    with bind(args.host, args.port) as listening:
        shown = f"[{args.host}]" if ":" in args.host else args.host
        print(f"http://{shown}:{listening.getsockname()[1]}/ (Ctrl-C stops)", flush=True)
        server.run(sockets=[listening])
    return 0


@without_trace
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; user errors are one message and status 2."""
    return run(parse(argv))
