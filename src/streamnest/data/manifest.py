"""Lhotse cut manifests of any origin, read line by line so that one bad line costs one cut."""

from __future__ import annotations

import gzip
import json
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lhotse.cut import Cut
from lhotse.serialization import deserialize_item

from streamnest.errors import UserError

log = logging.getLogger(__name__)

_SHOWN = 5
_BAD = ("broken line", "no audio", "missing file")


@dataclass
class LoadReport:
    """What a manifest held.

    Attributes:
        seconds: of audio in the usable cuts.
        num_cuts: usable cuts, windows of split ones included.
        speakers: of the usable cuts, as far as the manifest names them.
        counts: by cause, cuts that were dropped (`broken line`, `no audio`, `missing file`, `too short`, `too long`) or
            altered (`split`, `resampled`).
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
        """Lines that could not be used because they are wrong, as opposed to unsuitable."""
        return sum(self.counts[cause] for cause in _BAD)

    def __add__(self, other: LoadReport) -> LoadReport:
        return LoadReport(
            self.seconds + other.seconds,
            self.num_cuts + other.num_cuts,
            self.speakers | other.speakers,
            self.counts + other.counts,
        )

    def __str__(self) -> str:
        amount = f"{self.hours:.2f} h" if self.seconds >= 360 else f"{self.seconds / 60:.1f} min"
        parts = [amount, f"{self.num_cuts} cuts", f"{len(self.speakers)} speakers"]
        return ", ".join(parts + [f"{count} {cause}" for cause, count in sorted(self.counts.items())])


def load_cuts(
    path: str | Path,
    *,
    check_files: bool = True,
    min_duration: float = 0.1,
    max_duration: float = 16.0,
    on_long: Literal["split", "skip"] = "split",
    sampling_rate: int = 16000,
    max_bad_share: float = 0.1,
) -> tuple[list[Cut], LoadReport]:
    """Reads a cut manifest.

    Args:
        path: `.jsonl` or `.jsonl.gz`. Relative recording paths in it are relative to its folder.
        check_files: drop cuts whose file does not exist; turn off for slow network storage.
        min_duration: shorter cuts, in seconds, are dropped.
        max_duration: longer cuts, in seconds, are split into windows of this length, or dropped.
        on_long: "split" or "skip". A last window below `min_duration` is dropped.
        sampling_rate: cuts at other rates are resampled when they are read.
        max_bad_share: broken lines and lines that point nowhere are skipped with a warning up to this share of all.

    Returns:
        The usable cuts in the order of the manifest, and what was found.

    Raises:
        UserError: for no such file, an empty one, nothing usable in it, or too large a share of bad lines.
    """
    path = Path(path)
    if on_long not in ("split", "skip"):
        raise UserError(f"on_long={on_long!r}: choose split or skip")
    if not 0 < min_duration <= max_duration:
        raise UserError(f"min_duration={min_duration}, max_duration={max_duration}: need 0 < min <= max")
    reader = _Reader(path, check_files)
    cuts: list[Cut] = []
    for cut in reader:
        cuts.extend(_fit(cut, min_duration, max_duration, on_long == "split", sampling_rate, reader.report.counts))
    _summarise(cuts, reader.report)
    _refuse(path, reader, max_bad_share)
    return cuts, reader.report


class _Reader:
    """Iterates over the cuts of a manifest; bad lines are counted and reported, not raised."""

    def __init__(self, path: Path, check_files: bool) -> None:
        self.path, self.check_files = path, check_files
        self.report, self.lines, self.first = LoadReport(), 0, ""
        self._known: dict[str, bool] = {}

    def __iter__(self) -> Iterator[Cut]:
        for number, line in self._numbered_lines():
            self.lines += 1
            try:
                data = json.loads(line)
                missing = [name for name in _anchor(data, self.path.parent) if not self._exists(name)]
                cut = deserialize_item(data)
            # Whatever a foreign line does to json or Lhotse, it is a bad line.
            except Exception as error:
                self._warn(number, "broken line", f"{type(error).__name__}: {error}")
                continue
            if missing:
                self._warn(number, "missing file", missing[0])
            elif not isinstance(cut, Cut) or not cut.has_recording:
                self._warn(number, "no audio", f"a {type(cut).__name__} without a recording")
            else:
                yield cut

    def _numbered_lines(self) -> Iterator[tuple[int, str]]:
        opener = gzip.open if self.path.suffix == ".gz" else open
        try:
            with opener(self.path, "rt", encoding="utf-8", errors="replace") as lines:
                yield from ((number, line) for number, line in enumerate(lines, 1) if line.strip())
        except FileNotFoundError:
            raise UserError(f"{self.path}: no such manifest") from None
        except (OSError, EOFError) as error:
            raise UserError(f"{self.path}: cannot be read: {error}") from error

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
            log.warning("%s:%d: %s: %s", self.path, number, cause, detail)


def _anchor(data: dict[str, Any], folder: Path) -> list[str]:
    """Makes the recording paths of a serialised cut absolute or relative to the working folder; returns them."""
    tracks = [track["cut"] for track in data["tracks"]] if "tracks" in data else [data]
    sources = [source for track in tracks for source in (track.get("recording") or {}).get("sources", [])]
    files = [source for source in sources if source["type"] == "file"]
    for source in files:
        source["source"] = str(folder / source["source"])
    return [source["source"] for source in files]


def _fit(cut: Cut, shortest: float, longest: float, split: bool, rate: int, counts: Counter[str]) -> list[Cut]:
    """Resamples and splits a cut as needed, and drops what is too short or too long."""
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


def _summarise(cuts: list[Cut], report: LoadReport) -> None:
    report.num_cuts = len(cuts)
    report.seconds = float(np.sum([cut.duration for cut in cuts]))
    report.speakers = {s.speaker for cut in cuts for s in cut.supervisions if s.speaker}


def _refuse(path: Path, reader: _Reader, max_bad_share: float) -> None:
    report = reader.report
    if not reader.lines:
        raise UserError(f"{path}: the manifest is empty")
    if report.bad > _SHOWN:
        log.warning("%s: %d bad lines in all, of %d", path, report.bad, reader.lines)
    if report.bad > max_bad_share * reader.lines:
        raise UserError(
            f"{path}: {report.bad} of {reader.lines} lines cannot be used as Lhotse cuts, first {reader.first}; "
            f"mend the manifest or raise max_bad_share={max_bad_share}"
        )
    if not report.num_cuts:
        raise UserError(f"{path}: no usable cut ({report})")
