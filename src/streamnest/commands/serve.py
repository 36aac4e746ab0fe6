"""Serves a model over a WebSocket and HTTP: `streamnest serve`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch

from streamnest.checkpoint.loading import load_model, on_device
from streamnest.commands.arguments.serve import parse
from streamnest.console.entry_point import without_trace
from streamnest.downstream.exported import (
    ExportedDiarizer,
    ExportedModel,
    ExportedRecognizer,
    check_options,
    is_exported,
)
from streamnest.encoder_task import EncoderTask
from streamnest.errors import UserError
from streamnest.serving.access import Access
from streamnest.serving.certification import measure_lookahead
from streamnest.serving.engine import Engine
from streamnest.serving.events import report, write_events
from streamnest.serving.hub import Hub
from streamnest.serving.limits import Limits
from streamnest.serving.static_page import runtime_folder, write_static
from streamnest.streaming.adaptive import AdaptiveSettings
from streamnest.streaming.onnx_session import OnnxSession


def load(args: argparse.Namespace) -> EncoderTask | ExportedModel:
    """Returns the model of a checkpoint, or an exported one."""
    if not is_exported(args.checkpoint):
        return on_device(load_model(args.checkpoint, args.context), args.device)
    check_options(args.context, args.device)
    session = OnnxSession(args.checkpoint, args.threads)
    head = session.metadata.get("head")
    diarizes = isinstance(head, dict) and head.get("kind") == ExportedDiarizer.kind
    return ExportedDiarizer(session) if diarizes else ExportedRecognizer(session)


def run(args: argparse.Namespace) -> int:
    """Serves until a signal, or writes a static page; returns the exit status."""
    if args.static:
        runtime = runtime_folder(args.onnxruntime_web)
        write_static(args.checkpoint, load(args), args.static, runtime)
        print(f"{args.static}: serve it with any web server, e.g. python -m http.server --directory {args.static}")
        return 0
    try:
        from streamnest.serving.server import Server, bind
    except ImportError as error:
        raise UserError(f"streamnest serve needs the extra serve: pip install 'streamnest[serve]' ({error})") from None
    torch.set_num_threads(args.threads)
    limits = Limits(streams=args.streams, load=args.load, keep_s=args.keep_seconds, idle_s=args.idle)
    model = load(args)
    engine = Engine(model, limits, adaptive=AdaptiveSettings.of(args))
    measure_lookahead(model, engine.served.latency)
    engine.served.warm_up()
    server = Server(Hub(engine, args.threads), Access(args.host, args.token, tuple(args.origin)))
    with bind(args.host, args.port) as listening:
        if args.verbose:
            write_events()
        if args.log:
            write_events(args.log)
        report("started", kind=engine.served.kind, streams=args.streams, threads=args.threads)
        shown = f"[{args.host}]" if ":" in args.host else args.host
        print(f"http://{shown}:{listening.getsockname()[1]}/ (Ctrl-C stops)", flush=True)
        server.run(sockets=[listening])
        report("stopped")
    return 0


@without_trace
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; user errors are one message and status 2."""
    return run(parse(argv))
