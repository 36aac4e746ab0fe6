"""Preparation of a corpus: reads its lists, checks its files, writes cut manifests and a report of dropped items."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from streamnest.data.recipes.cuts import make_cuts
from streamnest.data.recipes.files import is_utf8, replacing
from streamnest.data.recipes.journal import Journal
from streamnest.data.recipes.measuring import Measurement
from streamnest.data.recipes.options import RecipeOptions
from streamnest.data.recipes.parallel_measuring import measure_files
from streamnest.data.recipes.piece import Dropped, Piece
from streamnest.data.recipes.registry import RECIPES
from streamnest.data.recipes.report import PartTotals, PreparationReport
from streamnest.data.recipes.segmentation import SegmentLimits
from streamnest.data.recipes.splitting import assign_parts, check_share
from streamnest.errors import UserError

# Seconds. Lists round times: an utterance may end this much after its file and is then truncated.
_OVERHANG = 0.2

Progress = Callable[[int, int], None]


def prepare(
    corpus: str,
    options: RecipeOptions,
    out: Path,
    *,
    dev_share: float = 0.02,
    limits: SegmentLimits | None = SegmentLimits(),  # noqa: B008 (frozen)
    jobs: int = 1,
    relative: bool = False,
    progress: Progress = lambda done, total: None,
) -> PreparationReport:
    """Writes `cuts_PART.jsonl.gz` for each part, `report.json` and `dropped.jsonl` into `out`.

    `out/journal.jsonl` keeps the files that were checked, so that an interrupted run continues. Manifests appear only
    when they are complete.

    Args:
        corpus: key of `RECIPES`.
        options: location of the corpus, and options of its recipe.
        out: output folder; created if missing.
        dev_share: share of speakers in `dev`, for pieces without a part; `assign_parts` explains it.
        limits: segment limits for long recordings without text; None keeps recordings whole.
        jobs: number of decoding processes.
        relative: write paths relative to `out`, so that both can be moved together; absolute otherwise.
        progress: callback that receives the number of checked files and the total.

    Returns:
        The report; if nothing is usable, it has the causes.

    Raises:
        UserError: for a wrong layout of the corpus, and a bad option.
    """
    if corpus not in RECIPES:
        raise UserError(f"corpus {corpus!r} is unknown: choose one of {', '.join(RECIPES)}")
    # Before hours of decoding.
    check_share(dev_share)
    if options.part and not re.fullmatch(r"\w[\w-]*", options.part):
        raise UserError(f"part {options.part!r}: use letters, digits, _ and -; it becomes part of a file name")
    if not options.source.exists():
        raise UserError(f"{options.source}: no such folder or file: --source must name the unpacked corpus")
    audio = None if options.audio is None else Path(os.path.abspath(options.audio))
    options = replace(options, source=Path(os.path.abspath(options.source)), audio=audio)
    report = PreparationReport(corpus)
    pieces = list(_distinct(RECIPES[corpus].read(options), report))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be created: {error.strerror}") from error
    measurements = _check(pieces, Journal(out / "journal.jsonl", limits), jobs, progress, report)
    pieces = [_with_numbers(piece, measurements[piece.source]) for piece in pieces]
    usable = [piece for piece in pieces if _good(piece, measurements[piece.source], report)]
    try:
        _write(assign_parts(usable, dev_share), measurements, out, relative, report)
        if not options.part:
            _remove_stale(out, report)
        report.write(out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}; earlier manifests are unchanged") from error
    return report


def require_usable(report: PreparationReport, source: Path, out: Path) -> None:
    """Refuses a corpus without usable audio.

    Raises:
        UserError: with the causes.
    """
    if not report.parts:
        causes = ", ".join(f"{count} {cause}" for cause, count in report.causes.most_common()) or "no audio found"
        raise UserError(f"{source}: no usable audio: {causes}; {out / 'dropped.jsonl'} lists every item")


def _distinct(items: Iterable[Piece | Dropped], report: PreparationReport) -> Iterator[Piece]:
    """Yields the pieces with new ids; reports everything else."""
    seen = set()
    for item in items:
        if isinstance(item, Dropped):
            report.dropped.append(item)
        elif (item.part, item.id) in seen:
            report.dropped.append(Dropped(str(item.path), "id occurs twice", item.id))
        elif not is_utf8(str(item.path)):
            report.dropped.append(Dropped(str(item.path), "name is not UTF-8", "rename it"))
        elif not is_utf8(item.id):
            report.dropped.append(Dropped(str(item.path), "not UTF-8", f"id {item.id}; convert the list"))
        else:
            seen.add((item.part, item.id))
            yield _in_utf8(item, report)


def _in_utf8(piece: Piece, report: PreparationReport) -> Piece:
    """Returns the piece without fields in another encoding, which are reported."""
    wrong = [name for name in ("speaker", "text", "language") if not is_utf8(getattr(piece, name))]
    if not wrong:
        return piece
    detail = f"{piece.id}: {', '.join(wrong)} left out, the audio is kept; convert the list"
    report.dropped.append(Dropped(str(piece.path), "not UTF-8", detail))
    nothing: dict[str, Any] = dict.fromkeys(wrong)
    return replace(piece, **nothing)


def _check(
    pieces: list[Piece], journal: Journal, jobs: int, progress: Progress, report: PreparationReport
) -> dict[str, Measurement]:
    paths = list(dict.fromkeys(piece.source for piece in pieces))
    done = 0

    def tick(count: int) -> None:
        nonlocal done
        done += count
        progress(done, len(paths))

    measurements, report.known = measure_files(paths, journal, jobs, tick)
    report.files = len(paths)
    report.dropped += [
        Dropped(path, measurements[path].cause or "", measurements[path].detail)
        for path in paths
        if measurements[path].cause
    ]
    return measurements


def _with_numbers(piece: Piece, measured: Measurement) -> Piece:
    """Returns the piece with channel numbers as positions, if the file has other channels than its manifest says."""
    numbers = piece.details.numbers if piece.details else ()
    if not numbers or len(numbers) == measured.channels:
        return piece
    return replace(piece, channels=tuple(numbers[position] for position in piece.channels or range(len(numbers))))


def _good(piece: Piece, measured: Measurement, report: PreparationReport) -> bool:
    """Returns True if the file is good and the piece lies inside it; reports the piece otherwise."""
    if measured.cause:
        return False
    length = measured.duration / piece.speed
    end = length if piece.duration is None else piece.start + piece.duration
    if piece.channels and max(piece.channels) >= measured.channels:
        cause, detail = "no such channel", f"{piece.id}: {max(piece.channels)} of {measured.channels}"
    elif piece.details and piece.details.transforms and piece.details.sampling_rate != measured.sampling_rate:
        cause, detail = "transform that cannot be kept", f"{piece.id}: the file has {measured.sampling_rate} Hz"
    elif not (0 <= piece.start < min(end, length) and end <= length + _OVERHANG):
        cause, detail = "outside its file", f"{piece.id}: {piece.start:.2f} to {end:.2f} s of {length:.2f} s"
    else:
        return True
    report.dropped.append(Dropped(str(piece.path), cause, detail))
    return False


def _remove_stale(out: Path, report: PreparationReport) -> None:
    """Removes manifests of parts that no longer exist: with another share, an old dev would now overlap with train."""
    try:
        parts = json.loads((out / "report.json").read_text(encoding="utf-8"))["parts"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    for part in set(parts) - set(report.parts):
        (out / f"cuts_{part}.jsonl.gz").unlink(missing_ok=True)


def _write(
    pieces: list[Piece], measurements: dict[str, Measurement], out: Path, relative: bool, report: PreparationReport
) -> None:
    with ExitStack() as stack:
        files: dict[str, IO[str]] = {}
        for piece in pieces:
            part, measured = str(piece.part), measurements[piece.source]
            path = os.path.relpath(piece.path, out) if relative else os.path.abspath(piece.path)
            path = piece.command.strip().removesuffix("|") if piece.command else path
            cuts = list(make_cuts(piece, measured, path))
            if not cuts:
                report.dropped.append(Dropped(str(piece.path), "no speech", f"in {measured.duration:.1f} s"))
            for cut in cuts:
                if part not in files:
                    files[part] = stack.enter_context(replacing(out / f"cuts_{part}.jsonl.gz"))
                files[part].write(json.dumps(cut.to_dict(), ensure_ascii=False) + "\n")
                speakers = {each.speaker for each in cut.supervisions if each.speaker}
                report.parts.setdefault(part, PartTotals()).add(cut.duration, speakers)
