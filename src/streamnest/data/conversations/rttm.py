"""Who spoke when in RTTM, the format of the diarisation evaluations, and recordings that have such files."""

from __future__ import annotations

import logging
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lhotse import Recording, SupervisionSegment
from lhotse.cut import Cut

from streamnest.data.audio import SAMPLING_RATE
from streamnest.data.conversations.simulation import Turn
from streamnest.data.manifest import load_cuts
from streamnest.data.recipes.files import READ
from streamnest.errors import UserError

log = logging.getLogger(__name__)

# Types of lines that the Rich Transcription evaluations define beside SPEAKER.
_OTHERS = {
    "SEGMENT",
    "NOSCORE",
    "NO_RT_METADATA",
    "LEXEME",
    "NON-LEX",
    "NON-SPEECH",
    "FILLER",
    "EDIT",
    "IP",
    "SU",
    "CB",
    "A/P",
    "SPKR-INFO",
}
# A line ends with confidence and look-ahead, which tools leave out.
_NAME, _MOST_FIELDS = 7, 10


def read_rttm(path: str | Path) -> dict[str, list[Turn]]:
    """The turns of each recording that a file names: its SPEAKER lines, of all channels.

    Lines of other types, comments and blank lines are skipped. Turns of one name are of one speaker, in whatever
    channel they are.

    Raises:
        UserError: for a file that is missing, and for a line that is not RTTM.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such RTTM file") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as RTTM in UTF-8: {error}") from None
    found: dict[str, list[Turn]] = {}
    # Not `splitlines` and `split`, for which more is a line end or a blank than for this format.
    for number, line in enumerate(text.split("\n"), 1):
        fields = re.split(r"[ \t]+", line.strip(" \t\r\f"))
        if not fields[0] or fields[0].startswith((";", "#")) or fields[0].upper() in _OTHERS:
            continue
        recording, turn = _turn(fields, f"{path}:{number}")
        found.setdefault(recording, []).append(turn)
    return found


def _turn(fields: list[str], place: str) -> tuple[str, Turn]:
    if fields[0].upper() != "SPEAKER" or not _NAME < len(fields) <= _MOST_FIELDS:
        raise UserError(
            f"{place} is not a line of RTTM: need SPEAKER, recording, channel, start, duration, <NA>, <NA>, speaker "
            f"(no spaces in names), <NA>, <NA>; found {' '.join(fields)[:100]!r}"
        )
    try:
        start, duration = float(fields[3]), float(fields[4])
    except ValueError:
        start = duration = math.nan
    if not (0 <= start < math.inf and 0 <= duration < math.inf):
        raise UserError(f"{place}: start {fields[3]} and duration {fields[4]}: need seconds from 0 on")
    return fields[1], Turn(fields[_NAME], start, round(start + duration, 8))


def turns_of(path: str | Path, name: str, of_one: bool) -> Sequence[Turn]:
    """The turns of a recording in a file.

    Args:
        path: of the file.
        name: of the recording; blanks in it are underscores in the file.
        of_one: the file is about this recording only; where it names a single one, its name does not matter.

    Raises:
        UserError: as `read_rttm`; and where the recording is not in the file.
    """
    turns = read_rttm(path)
    wanted = field_of(name)
    found = [turn for recording, of_it in turns.items() if field_of(recording) == wanted for turn in of_it]
    if found:
        return found
    if not (of_one and len(turns) == 1):
        known = ", ".join(sorted(turns)) or "no recording"
        raise UserError(f"{path} names {known}, but not {name}: give recordings the names of their audio files")
    return next(iter(turns.values()))


def field_of(name: str) -> str:
    """A name as a field of RTTM, which ends at a blank."""
    return re.sub(r"\s", "_", unicodedata.normalize("NFC", name)) or "<NA>"


def write_rttm(path: str | Path, turns: Mapping[str, Iterable[Turn]]) -> None:
    """Writes the turns of recordings.

    Raises:
        UserError: for two names that differ in blanks only.
    """
    _require_distinct(list(turns))
    lines = []
    for name, of_one in turns.items():
        found = list(of_one)
        _require_distinct(sorted({turn.speaker for turn in found}))
        lines += [
            f"SPEAKER {field_of(name)} 1 {turn.start:.3f} {turn.end - turn.start:.3f} "
            f"<NA> <NA> {field_of(turn.speaker)} <NA> <NA>\n"
            for turn in found
        ]
    Path(path).write_text("".join(lines), encoding="utf-8", errors="backslashreplace")


def _require_distinct(names: list[str]) -> None:
    by_field: dict[str, str] = {}
    for name in names:
        other = by_field.setdefault(field_of(name), name)
        if other != name:
            raise UserError(f"{other!r} and {name!r} are one name in RTTM, which has no blanks: rename one of them")


def load_excerpts(path: str | Path, max_duration: float = 60.0, allow_commands: bool = False) -> list[Cut]:
    """Recordings with turns as supervisions: a folder of audio files with `.rttm` files beside them, or a cut manifest.

    Args:
        path: of the folder or manifest.
        max_duration: longer ones become windows of so many seconds, whose speakers are told apart anew.
        allow_commands: see `load_cuts`.

    Raises:
        UserError: where there is nothing of the kind.
    """
    if not Path(path).is_dir():
        return list(load_cuts(path, max_duration=max_duration, allow_commands=allow_commands)[0])
    files = sorted(file for file in Path(path).iterdir() if file.suffix.lower() in READ and file.is_file())
    referenced = [file for file in files if file.with_suffix(".rttm").is_file()]
    if not referenced:
        raise UserError(f"{path}: no audio file with an .rttm file of the same name beside it")
    found = [cut for cut in map(_cut, referenced) if cut is not None]
    if not found:
        raise UserError(f"{path}: none of its {len(referenced)} audio files with an .rttm file can be read")
    cuts = [cut if cut.sampling_rate == SAMPLING_RATE else cut.resample(SAMPLING_RATE) for cut in found]
    windows = [cut.cut_into_windows(max_duration) if cut.duration > max_duration else [cut] for cut in cuts]
    return [window for of_one in windows for window in of_one]


def _cut(file: Path) -> Cut | None:
    """A recording with its turns; None, with a warning, for one that cannot be read."""
    try:
        cut = Recording.from_file(file, recording_id=file.stem).to_cut()
    # Decoders raise whatever they like on damaged files.
    except Exception as error:
        log.warning("%s is not used: %s", file, f"{type(error).__name__}: {error}".splitlines()[0])
        return None
    cut.id = file.stem
    turns = turns_of(file.with_suffix(".rttm"), file.stem, of_one=True)
    cut.supervisions = [
        SupervisionSegment(f"{file.stem}-{number}", file.stem, turn.start, turn.end - turn.start, speaker=turn.speaker)
        for number, turn in enumerate(turns)
    ]
    return cut
