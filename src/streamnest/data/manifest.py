"""Reading of Lhotse cut manifests line by line, so that a bad line costs only one cut."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from lhotse.cut import Cut
from lhotse.serialization import deserialize_item

from streamnest.console.terminal import printable
from streamnest.data.checking import BadLineError, anchor, check_cut, command_in
from streamnest.data.config import DataConfig
from streamnest.data.lines import numbered_lines
from streamnest.data.remedies import remedy
from streamnest.errors import UserError

log = logging.getLogger(__name__)

_SHOWN = 5
_BAD = ("broken line", "no audio", "missing file")


@dataclass
class LoadReport:
    """Amount of usable audio in a manifest, and what happened to the other lines.

    Attributes:
        seconds: seconds of audio in the usable cuts.
        num_cuts: number of usable cuts, windows of split ones included.
        speakers: speakers of the usable cuts, as far as the manifest names them.
        counts: number of cuts by cause that were dropped (`broken line`, `no audio`, `missing file`, `too short`,
            `too long`) or changed (`split`, `resampled`).
    """

    seconds: float = 0.0
    num_cuts: int = 0
    speakers: set[str] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def hours(self) -> float:
        """Hours of audio."""
        return self.seconds / 3600

    @property
    def bad(self) -> int:
        """Number of lines that are invalid, as opposed to unsuitable."""
        return sum(self.counts[cause] for cause in _BAD)

    def __add__(self, other: LoadReport) -> LoadReport:
        return LoadReport(
            self.seconds + other.seconds,
            self.num_cuts + other.num_cuts,
            self.speakers | other.speakers,
            self.counts + other.counts,
        )

    def __str__(self) -> str:
        minutes = f"{self.seconds / 60:.1f} min" if self.seconds >= 60 else f"{self.seconds:.1f} s"
        amount = f"{self.hours:.2f} h" if self.seconds >= 360 else minutes
        speakers = _counted(len(self.speakers), "speaker") if self.speakers else "speakers unknown"
        parts = [amount, _counted(self.num_cuts, "cut"), speakers]
        return ", ".join(parts + [f"{count} {cause}" for cause, count in sorted(self.counts.items())])


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def load_cuts(
    path: str | Path,
    *,
    check_files: bool = True,
    min_duration: float = 0.1,
    max_duration: float = DataConfig.max_duration,
    on_long: str = DataConfig.on_long,
    sampling_rate: int = 16000,
    max_bad_share: float = DataConfig.max_bad_share,
    allow_commands: bool = False,
) -> tuple[list[Cut], LoadReport]:
    """Reads a cut manifest.

    Args:
        path: `.jsonl` or `.jsonl.gz` file. Recording paths in it are relative to its folder.
        check_files: drop cuts whose file does not exist; turn it off for slow network storage.
        min_duration: seconds; shorter cuts are dropped.
        max_duration: seconds; longer cuts are split into windows of this duration, or dropped.
        on_long: "split" or "skip". A last window shorter than `min_duration` is dropped.
        sampling_rate: rate in Hz; cuts at other rates are resampled as they are read.
        max_bad_share: maximum share of broken lines and lines with missing files, which are skipped with a warning.
        allow_commands: allow audio that is the output of a shell command in the manifest.

    Returns:
        The usable cuts in the order of the manifest, and the report.

    Raises:
        UserError: if the file is missing or empty, has no usable cut, too many bad lines, or a command.
    """
    path = Path(path)
    if on_long not in ("split", "skip"):
        raise UserError(f"on_long={on_long!r}: choose split or skip")
    if not 0 < min_duration <= max_duration:
        raise UserError(
            f"min_duration={min_duration}, max_duration={max_duration}: need 0 < min_duration <= max_duration"
        )
    fit = partial(_fit, shortest=min_duration, longest=max_duration, split=on_long == "split", rate=sampling_rate)
    reader = _Reader(path, check_files, allow_commands, fit)
    try:
        cuts = list(reader)
    except FileNotFoundError:
        raise UserError(f"{path}: no such manifest{remedy(path)}") from None
    _summarize(cuts, reader.report)
    _refuse(path, reader, max_bad_share)
    return cuts, reader.report


class _Reader:
    """Iterates over the cuts of a manifest; bad lines are counted and reported, not raised."""

    def __init__(self, path: Path, check_files: bool, allow_commands: bool, fit: Callable[..., list[Cut]]) -> None:
        self.path, self.check_files, self.allow_commands, self.fit = path, check_files, allow_commands, fit
        self.report, self.lines, self.first = LoadReport(), 0, ""
        self._known: dict[str, bool] = {}

    def __iter__(self) -> Iterator[Cut]:
        for number, line in numbered_lines(self.path):
            self.lines += 1
            try:
                pieces, counts = self._read(number, line)
            except UserError:
                raise
            except BadLineError as error:
                self._warn(number, error.cause, str(error))
            # json and Lhotse raise any kind of exception on lines of other origin.
            except Exception as error:
                self._warn(number, "broken line", f"{type(error).__name__}: {error}")
            else:
                self.report.counts += counts
                yield from pieces

    def _read(self, number: int, line: str) -> tuple[list[Cut], Counter[str]]:
        data, counts = json.loads(line), Counter[str]()
        if not self.allow_commands and (command := command_in(data)) is not None:
            raise UserError(
                f"{self.path}:{number}: the audio is the output of a command, which is not run: {command[:200]!r}; "
                "if you trust the whole file, set data.allow_commands=true (for streamnest shard and inspect: "
                "--allow_commands)"
            )
        missing = [name for name in anchor(data, self.path.parent) if not self._exists(name)]
        cut = check_cut(deserialize_item(data))
        if missing:
            raise BadLineError("missing file", missing[0])
        return self.fit(cut, counts), counts

    def _exists(self, name: str) -> bool:
        if not self.check_files:
            return True
        if name not in self._known:
            self._known[name] = Path(name).is_file()
        return self._known[name]

    def _warn(self, number: int, cause: str, detail: str) -> None:
        self.report.counts[cause] += 1
        self.first = self.first or f"line {number}: {cause}: {detail}"
        if self.report.bad <= _SHOWN:
            log.warning("%s:%d: %s: %s", self.path, number, cause, printable(detail))


def _fit(cut: Cut, counts: Counter[str], shortest: float, longest: float, split: bool, rate: int) -> list[Cut]:
    """Resamples and splits a cut as needed; drops cuts and windows that are too short or too long."""
    if cut.sampling_rate != rate:
        counts["resampled"] += 1
        cut = cut.resample(rate)
    pieces = [cut]
    if cut.duration > longest:
        counts["split" if split else "too long"] += 1
        pieces = list(cut.cut_into_windows(longest)) if split else []
    kept = [piece for piece in pieces if piece.duration >= shortest]
    if len(kept) < len(pieces):
        counts["too short"] += len(pieces) - len(kept)
    return kept


def _summarize(cuts: list[Cut], report: LoadReport) -> None:
    report.num_cuts = len(cuts)
    report.seconds = float(np.sum([cut.duration for cut in cuts]))
    report.speakers = {s.speaker for cut in cuts for s in cut.supervisions if s.speaker}


def _refuse(path: Path, reader: _Reader, max_bad_share: float) -> None:
    report = reader.report
    if not reader.lines:
        raise UserError(f"{path}: the manifest is empty")
    if report.bad > _SHOWN:
        log.warning("%s: %d of %d lines are bad", path, report.bad, reader.lines)
    if report.bad > max_bad_share * reader.lines:
        raise UserError(
            f"{path}: {report.bad} of {reader.lines} lines cannot be used as Lhotse cuts; first error: {reader.first}"
            f"{remedy(path) or f'; fix the manifest or raise max_bad_share={max_bad_share}'}"
        )
    if not report.num_cuts:
        raise UserError(f"{path}: no usable cut ({report})")
