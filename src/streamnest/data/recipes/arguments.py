"""Arguments of `streamnest prepare`, without the imports that reading a corpus needs."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from streamnest.console.arguments import ArgumentParser
from streamnest.console.option_types import NATURAL, NOT_NEGATIVE, POSITIVE, SHARE, THREADS, output_folder

# Each corpus and the options that apply to it, as its recipe in the registry declares them.
USES: dict[str, tuple[str, ...]] = {
    "librispeech": ("parts",),
    "mini_librispeech": ("parts",),
    "aishell": (),
    "musan": (),
    "rirs": (),
    "librilight": ("subset",),
    "libriheavy": ("subset", "audio"),
    "mls": ("language",),
    "voxpopuli": ("language",),
    "commonvoice": ("language", "subset"),
    "gigaspeech": ("subset",),
    "folder": ("part", "speaker_level"),
    "manifest": ("audio", "part"),
    "kaldi": ("audio", "part", "allow_commands"),
    "lhotse": ("audio", "part", "allow_commands"),
}


def parser(description: str | None) -> ArgumentParser:
    """Returns the parser of the command."""
    made = ArgumentParser("streamnest prepare", description)
    made.add_argument("corpus", choices=USES, metavar="CORPUS", help=", ".join(USES))
    made.add_argument("--source", type=Path, help="folder of the unpacked corpus; for manifest and lhotse, a list")
    made.add_argument("--out", type=output_folder, help="folder for the manifests")
    made.add_argument("--layout", action="store_true", help="print the files this corpus needs, and stop")
    made.add_argument("--jobs", type=THREADS, default=os.cpu_count() or 1, help="number of processes that decode")
    made.add_argument("--relative", action="store_true", help="paths relative to --out, so that both can be moved")
    loading = made.add_argument_group("download", "By Lhotse's downloaders, into a folder that replaces --source.")
    loading.add_argument("--download", action="store_true", help="download and unpack the corpus first")
    loading.add_argument(
        "--to", type=output_folder, metavar="DIR", help="folder for the download (default: OUT/download)"
    )
    loading.add_argument("--base-url", metavar="URL", help="mirror that replaces http://HOST/resources of OpenSLR")
    splits = made.add_argument_group("splits and segments")
    splits.add_argument("--dev-share", type=SHARE, default=0.02, help="share of speakers, if the corpus has no dev set")
    splits.add_argument("--min-seconds", type=POSITIVE, default=2.0, help="shortest segment")
    splits.add_argument("--max-seconds", type=NOT_NEGATIVE, default=30.0, help="longest segment; 0 does not segment")
    some = made.add_argument_group("options of some corpora")
    some.add_argument("--language", help=f"only this language ({_users('language')})")
    some.add_argument("--subset", help=f"only this subset, or this one in addition ({_users('subset')})")
    some.add_argument("--parts", nargs="+", metavar="PART", help=f"only these parts ({_users('parts')})")
    some.add_argument("--audio", type=Path, help=f"folder of the audio, if it is elsewhere ({_users('audio')})")
    some.add_argument("--part", help=f"put everything into this split: train, noise ... ({_users('part')})")
    some.add_argument("--speaker-level", type=NATURAL, default=0, help="folder level that names the speaker (folder)")
    some.add_argument(
        "--allow-commands",
        action="store_true",
        help=f"run shell commands that a list gives as audio ({_users('allow_commands')})",
    )
    return made


def parse(description: str | None, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line."""
    made = parser(description)
    args = made.parse(argv)
    if args.layout:
        return args
    if not args.download and (args.to or args.base_url):
        made.error("--to and --base-url need --download")
    if args.download and args.source:
        made.error("--download replaces --source: give one of them, and --to for the folder of the download")
    if args.download and not (args.to or args.out):
        made.error("--download needs --to, --out or both")
    if not args.download and not (args.source and args.out):
        made.error("--source and --out are needed, or --download and --out")
    return args


def _users(option: str) -> str:
    return ", ".join(name for name, options in USES.items() if option in options)
