"""Serves a model to browsers and programs: `streamnest serve MODEL`.

MODEL is a checkpoint of task=ctc, rnnt, diarization or pretrain, or a graph of task=ctc or diarization from streamnest
export (.onnx). The printed address opens a page for the microphone or a file. Programs send audio to the WebSocket
/stream or a file to /transcribe; /healthz and /metrics are for monitoring (docs/SERVING.md).

By default only this machine can connect. Another --host needs a token of at least 16 characters, as --token or in the
environment variable STREAMNEST_TOKEN, which other users of the machine cannot see.

--static writes a folder with a page that runs the model in the browser, without this server.

SIGTERM and Ctrl-C let open streams finish; a second signal stops at once. Needs the extra serve.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from streamnest.commands.arguments import add_adaptive
from streamnest.console.arguments import ArgumentParser
from streamnest.console.option_types import THREADS, Number, output_file, output_folder

_LOCAL = ("127.0.0.1", "localhost", "::1")
_SHORTEST_TOKEN = 16


def parser() -> ArgumentParser:
    """Returns the parser of the command."""
    made = ArgumentParser("streamnest serve", __doc__)
    made.add_argument("checkpoint", metavar="MODEL", help="checkpoint or exported graph")
    made.add_argument("--context", metavar="NAME", help="default latency context of a dynamic checkpoint")
    add_adaptive(made, rule="load")
    made.add_argument("--device", default="cpu", help="cpu, cuda, ...")
    made.add_argument("--threads", type=THREADS, default=1, help="CPU threads")
    static = made.add_argument_group("page without a server")
    static.add_argument(
        "--static", type=output_folder, metavar="OUT", help="write a folder whose page runs the model, and exit"
    )
    static.add_argument(
        "--onnxruntime-web", type=Path, metavar="DIST", help="folder dist of this npm package, with --static"
    )
    network = made.add_argument_group("network")
    network.add_argument("--host", default="127.0.0.1", help="address to listen on")
    network.add_argument("--port", type=Number(int, 0, 65535), default=8000, help="port; 0 chooses a free one")
    network.add_argument("--token", help="secret that clients must send (default: STREAMNEST_TOKEN)")
    network.add_argument("--origin", nargs="+", default=[], metavar="URL", help="other pages that may connect")
    limits = made.add_argument_group("limits")
    limits.add_argument("--streams", type=Number(int, 1, 10000), default=32, help="concurrent streams")
    limits.add_argument(
        "--idle", type=Number(float, 1, 86400), default=30.0, help="seconds without audio that end a stream"
    )
    limits.add_argument(
        "--load", type=Number(float, 0.01, 100), default=0.6, help="share of real time above which streams are refused"
    )
    limits.add_argument(
        "--keep-seconds", type=Number(float, 0, 86400), default=60.0, help="seconds to resume a stream; 0 for never"
    )
    made.add_argument(
        "--log", type=output_file, metavar="FILE", help="append events as lines of JSON, without audio or text"
    )
    made.add_argument("--verbose", action="store_true", help="the same on standard error")
    return made


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line, and refuses a public address without a token."""
    made = parser()
    args = made.parse(argv)
    args.token = args.token or os.environ.get("STREAMNEST_TOKEN") or None
    if args.host not in _LOCAL and args.token is None:
        made.error(f"--host {args.host} is reachable from other machines: add --token, or set STREAMNEST_TOKEN")
    if args.token is not None and len(args.token) < _SHORTEST_TOKEN:
        made.error(f"the token must have at least {_SHORTEST_TOKEN} characters")
    if args.adaptive and (args.context or args.static):
        made.error("--adaptive chooses the context of each chunk on a server: leave out --context and --static")
    made.require(args, "adaptive_rule", "adaptive_contexts", needs="adaptive")
    made.require(args, "onnxruntime_web", needs="static")
    return args
