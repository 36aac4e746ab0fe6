"""RTTM files, the format of diarization evaluations, and recordings that have such files."""

from __future__ import annotations

import logging
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from lhotse import Recording, SupervisionSegment
from lhotse.cut import Cut

from streamnest.data.audio import SAMPLING_RATE
from streamnest.data.conversations.simulation import Turn
from streamnest.data.manifest import load_cuts
from streamnest.data.recipes.files import READ
from streamnest.errors import UserError, cause_of

log = logging.getLogger(__name__)

# Types of lines that the Rich Transcription evaluations define besides SPEAKER.
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
# The last two fields, confidence and look-ahead, are optional.
_NAME, _MOST_FIELDS = 7, 10


def read_rttm(path: str | Path) -> dict[str, list[Turn]]:
    """Reads the turns of each recording in a file from the SPEAKER lines of all channels.

    Lines of other types, comments and blank lines are skipped. A name denotes the same speaker in all channels.

    Raises:
        UserError: if the file is missing or a line is not RTTM.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such RTTM file") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as RTTM in UTF-8: {cause_of(error)}") from None
    turns: dict[str, list[Turn]] = {}
    # `splitlines` and `split` would split at more characters than the format does.
    for number, line in enumerate(text.split("\n"), 1):
        fields = re.split(r"[ \t]+", line.strip(" \t\r\f"))
        if not fields[0] or fields[0].startswith((";", "#")) or fields[0].upper() in _OTHERS:
            continue
        recording, turn = _turn(fields, f"{path}:{number}")
        turns.setdefault(recording, []).append(turn)
    return turns


def _turn(fields: list[str], location: str) -> tuple[str, Turn]:
    if fields[0].upper() != "SPEAKER" or not _NAME < len(fields) <= _MOST_FIELDS:
        raise UserError(
            f"{location} is not a line of RTTM: need SPEAKER, recording, channel, start, duration, <NA>, <NA>, "
            f"speaker, <NA>, <NA> (names without spaces); found {' '.join(fields)[:100]!r}"
        )
    try:
        start, duration = float(fields[3]), float(fields[4])
    except ValueError:
        start = duration = math.nan
    if not (0 <= start < math.inf and 0 <= duration < math.inf):
        raise UserError(f"{location}: start {fields[3]} and duration {fields[4]}: need seconds of at least 0")
    return fields[1], Turn(fields[_NAME], start, round(start + duration, 8))


def turns_of(path: str | Path, name: str, of_one: bool) -> Sequence[Turn]:
    """Reads the turns of a recording.

    Args:
        path: RTTM file.
        name: name of the recording; its spaces are underscores in the file.
        of_one: accept any name if the file has only one recording, and an empty file, whose recording has no speech.

    Raises:
        UserError: in the cases of `read_rttm`; also if the recording is not in the file.
    """
    turns = read_rttm(path)
    field = field_of(name)
    matching = [turn for recording, its_turns in turns.items() if field_of(recording) == field for turn in its_turns]
    if matching or (of_one and not turns):
        return matching
    if not (of_one and len(turns) == 1):
        names = ", ".join(sorted(turns)) or "no recording"
        raise UserError(f"{path} has {names}, but not {name}: name recordings like their audio files")
    return next(iter(turns.values()))


def field_of(name: str) -> str:
    """Converts a name to a field of RTTM, which must not contain spaces."""
    return re.sub(r"\s", "_", unicodedata.normalize("NFC", name)) or "<NA>"


def write_rttm(path: str | Path, turns: Mapping[str, Iterable[Turn]]) -> None:
    """Writes the turns of recordings.

    Raises:
        UserError: if two names differ only in spaces, or the file cannot be written.
    """
    _require_distinct(list(turns))
    lines = []
    for name, its_turns in turns.items():
        listed = list(its_turns)
        _require_distinct(sorted({turn.speaker for turn in listed}))
        lines += [
            f"SPEAKER {field_of(name)} 1 {turn.start:.3f} {turn.end - turn.start:.3f} "
            f"<NA> <NA> {field_of(turn.speaker)} <NA> <NA>\n"
            for turn in listed
        ]
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text("".join(lines), encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {cause_of(error)}") from None


def _require_distinct(names: list[str]) -> None:
    by_field: dict[str, str] = {}
    for name in names:
        other = by_field.setdefault(field_of(name), name)
        if other != name:
            raise UserError(f"{other!r} and {name!r} are the same name in RTTM, which has no spaces; rename one")


def load_excerpts(path: str | Path, max_duration: float = 60.0, allow_commands: bool = False) -> list[Cut]:
    """Reads recordings with turns as supervisions.

    Args:
        path: folder of audio files with `.rttm` files of the same names, or a cut manifest.
        max_duration: seconds; longer recordings are split into windows, whose speakers are independent.
        allow_commands: allow audio that is the output of a shell command.

    Raises:
        UserError: if the folder has no such recordings, or two audio files with the same `.rttm` file.
    """
    if not Path(path).is_dir():
        return list(load_cuts(path, max_duration=max_duration, allow_commands=allow_commands)[0])
    files = [file for file in Path(path).iterdir() if file.suffix.lower() in READ and file.is_file()]
    files.sort(key=lambda file: (file.stem, file.name))
    referenced = [file for file in files if file.with_suffix(".rttm").is_file()]
    if twice := [file for before, file in pairwise(referenced) if before.stem == file.stem]:
        raise UserError(f"{path}: two audio files are named {twice[0].stem}, as {twice[0].name}: keep one of them")
    if not referenced:
        raise UserError(f"{path}: no audio file has an .rttm file of the same name beside it")
    readable = [cut for cut in map(_cut, referenced) if cut is not None]
    if not readable:
        raise UserError(f"{path}: none of its {len(referenced)} audio files with an .rttm file can be read")
    cuts = [cut if cut.sampling_rate == SAMPLING_RATE else cut.resample(SAMPLING_RATE) for cut in readable]
    windows = [cut.cut_into_windows(max_duration) if cut.duration > max_duration else [cut] for cut in cuts]
    return [window for of_cut in windows for window in of_cut]


def _cut(file: Path) -> Cut | None:
    """Reads a recording with its turns; logs a warning and returns None if it cannot be read."""
    try:
        cut = Recording.from_file(file, recording_id=file.stem).to_cut()
    # Decoders raise any kind of exception on damaged files.
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
