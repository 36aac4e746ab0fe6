"""Reading all sources of a part of the data, and checking that their audio can be read."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from streamnest.data.audio import SAMPLING_RATE, BadAudioError, Channel, load_mono, source_name
from streamnest.data.augment.speed import SpeedPerturbation
from streamnest.data.config import DataConfig
from streamnest.data.labels import keep_channel
from streamnest.data.manifest import LoadReport
from streamnest.data.piece_dataset import part_of
from streamnest.data.sampling.sources import Corpus, Source, load_source
from streamnest.errors import UserError

# Noise cuts are decoded whole, so that long recordings are split into windows. Responses may be very short, and a
# window of one would not be a response.
_RECORDINGS: dict[str, dict[str, Any]] = {
    "noise": {"max_duration": 30.0},
    "rir": {"min_duration": 0.005, "max_duration": 60.0, "on_long": "skip"},
}
# Number of utterances that are decoded at the start until one is readable.
_TRIES = 20
# Seconds of an utterance that are decoded for it.
_LONGEST_CHECKED_S = 60


def load_part(
    part: str, sources: Sequence[Source], config: DataConfig, speed: SpeedPerturbation | None = None
) -> tuple[Corpus, LoadReport]:
    """Reads the cuts of all sources of a part of the data.

    Args:
        part: "train", "val", "noise" or "rir".
        sources: manifests and shards.
        config: limits of duration, channel, checks and permissions.
        speed: speed perturbation of the training audio. Windows of long utterances leave room for it; if long
            utterances are dropped instead, the perturbation itself respects the limits.

    Raises:
        UserError: in the cases of `load_cuts`.
    """
    options = {
        "sampling_rate": SAMPLING_RATE,
        "check_files": config.check_files,
        "max_bad_share": config.max_bad_share,
        "allow_commands": config.allow_commands,
        **_limits(part, config, speed if part == "train" else None),
    }
    loaded = [load_source(source.path, **options) for source in sources]
    if part in ("train", "val") and isinstance(config.channel, int):
        for cuts in (cuts for cuts, _ in loaded if isinstance(cuts, list)):
            keep_channel(cuts, config.channel)
    return Corpus([cuts for cuts, _ in loaded]), sum((report for _, report in loaded), LoadReport())


def _limits(part: str, config: DataConfig, speed: SpeedPerturbation | None) -> dict[str, Any]:
    """Returns the limits of duration of a part, before its speed is changed."""
    if part in _RECORDINGS:
        return _RECORDINGS[part]
    if part == "train" and config.piece_s is not None:
        return {"min_duration": config.min_duration, "max_duration": math.inf}
    splits = splits_long(config)
    return {
        "min_duration": config.min_duration * (speed.fastest if speed and splits else 1.0),
        "max_duration": config.max_duration * (speed.slowest if speed and splits else 1.0),
        "on_long": "skip" if config.transcribed else config.on_long,
    }


def splits_long(config: DataConfig) -> bool:
    """True if long utterances are split into windows; with a text they cannot be."""
    return config.on_long != "skip" and not config.transcribed


def report_of(corpus: Corpus, counts: Counter[str]) -> LoadReport:
    """Reports on the cuts of a corpus; `counts` are those of reading and selecting them."""
    return LoadReport(float(corpus.durations.sum()), len(corpus), speakers_of(corpus.parts), counts)


def speakers_of(parts: Iterable[Iterable[Any]]) -> set[str]:
    """Returns the speakers that the supervisions of some lists of cuts name."""
    return {s.speaker for cuts in parts for cut in cuts for s in cut.supervisions if s.speaker}


def require_readable(part: str, corpus: Corpus, channel: Channel) -> None:
    """Refuses data of which no sampled utterance can be read, before a run trains on silence.

    Only the first minute of a long recording is read.

    Raises:
        UserError: with the first cause.
    """
    if not len(corpus):
        return
    first, sampled = "", range(0, len(corpus), -(-len(corpus) // _TRIES))
    for index in sampled:
        try:
            cut = corpus[index]
            long = cut.duration > _LONGEST_CHECKED_S
            load_mono(part_of(cut, 0, _LONGEST_CHECKED_S * SAMPLING_RATE, cut.id) if long else cut, channel)
            return
        except BadAudioError as error:
            first = first or f"{source_name(corpus[index])}: {error}"
    raise UserError(f"data: none of {len(sampled)} utterances of the {part} set can be read; first error: {first}")
