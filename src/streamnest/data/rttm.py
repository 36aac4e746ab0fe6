"""Who spoke when in RTTM, the format of the diarisation evaluations, and recordings that have such files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lhotse import Recording, SupervisionSegment, SupervisionSet
from lhotse.cut import Cut

from streamnest.data.audio import SAMPLING_RATE
from streamnest.data.conversations import Turn
from streamnest.data.manifest import load_cuts
from streamnest.errors import UserError

_AUDIO = (".wav", ".flac", ".ogg", ".opus", ".mp3")


def read_rttm(path: str | Path) -> dict[str, list[Turn]]:
    """The turns of each recording that a file names.

    Raises:
        UserError: for a file that is missing or no RTTM.
    """
    try:
        segments = SupervisionSet.from_rttm(Path(path))
    except FileNotFoundError:
        raise UserError(f"{path}: no such RTTM file") from None
    except (AssertionError, ValueError, IndexError, OSError) as error:
        raise UserError(f"{path} is no RTTM: {error}") from None
    found: dict[str, list[Turn]] = {}
    for segment in segments:
        found.setdefault(segment.recording_id, []).append(Turn(segment.speaker, segment.start, segment.end))
    return found


def turns_of(path: str | Path, name: str, of_one: bool) -> Sequence[Turn]:
    """The turns of a recording in a file.

    Args:
        path: of the file.
        name: of the recording.
        of_one: the file is about this recording only; where it names a single one, its name does not matter.

    Raises:
        UserError: as `read_rttm`; and where the recording is not in the file.
    """
    turns = read_rttm(path)
    if name not in turns and not (of_one and len(turns) == 1):
        known = ", ".join(sorted(turns)) or "no recording"
        raise UserError(f"{path} names {known}, but not {name}: give recordings the names of their audio files")
    return turns[name] if name in turns else next(iter(turns.values()))


def write_rttm(path: str | Path, turns: Mapping[str, Iterable[Turn]]) -> None:
    """Writes the turns of recordings."""
    lines = [
        f"SPEAKER {name.replace(' ', '_')} 1 {turn.start:.3f} {turn.end - turn.start:.3f} "
        f"<NA> <NA> {turn.speaker.replace(' ', '_')} <NA> <NA>\n"
        for name, of_one in turns.items()
        for turn in of_one
    ]
    Path(path).write_text("".join(lines))


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
    files = sorted(file for file in Path(path).iterdir() if file.suffix.lower() in _AUDIO)
    found = [_cut(file) for file in files if file.with_suffix(".rttm").is_file()]
    if not found:
        raise UserError(f"{path}: no audio file with an .rttm file of the same name beside it")
    cuts = [cut if cut.sampling_rate == SAMPLING_RATE else cut.resample(SAMPLING_RATE) for cut in found]
    windows = [cut.cut_into_windows(max_duration) if cut.duration > max_duration else [cut] for cut in cuts]
    return [window for of_one in windows for window in of_one]


def _cut(file: Path) -> Cut:
    cut = Recording.from_file(file, recording_id=file.stem).to_cut()
    cut.id = file.stem
    turns = turns_of(file.with_suffix(".rttm"), file.stem, of_one=True)
    cut.supervisions = [
        SupervisionSegment(f"{file.stem}-{number}", file.stem, turn.start, turn.end - turn.start, speaker=turn.speaker)
        for number, turn in enumerate(turns)
    ]
    return cut
