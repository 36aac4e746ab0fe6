"""Diarization without a model: the error rates that a trained model has to be below."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from streamnest.data.conversations.simulation import Turn
from streamnest.downstream.metrics.diarization_error import Scored, Scorer, summarize

NOBODY, ALWAYS, ORACLE = "silence", "one speaker throughout", "true speech activity as one speaker"
TrivialScores = dict[str, list[Scored]]


def trivial_answers(reference: Iterable[Turn], seconds: float) -> dict[str, list[Turn]]:
    """Returns hypotheses that need no model: no speech, one speaker all the time, and one speaker in all speech.

    The last one uses the reference, so it is a perfect speech detector that does not separate speakers.

    Args:
        reference: turns of a conversation.
        seconds: duration of the conversation.
    """
    speech = [Turn("speaker 1", turn.start, turn.end) for turn in reference]
    return {NOBODY: [], ALWAYS: [Turn("speaker 1", 0.0, seconds)], ORACLE: speech}


def score_trivial(
    scorer: Scorer, name: str, reference: Sequence[Turn], seconds: float, real: bool = False
) -> dict[str, Scored]:
    """Scores the trivial answers for one conversation; the arguments are those of `Scorer`."""
    answers = trivial_answers(reference, seconds)
    return {kind: scorer(name, reference, turns, seconds, real) for kind, turns in answers.items()}


def trivial_rates(scored: Iterable[dict[str, Scored]]) -> dict[str, float]:
    """Returns the error rate of each trivial answer over conversations; empty if there is no speech."""
    rows = list(scored)
    rates = {kind: summarize([row[kind] for row in rows]) for kind in (NOBODY, ALWAYS, ORACLE) if rows}
    return {kind: rate["der"] for kind, rate in rates.items() if rate}


def describe_trivial(rates: dict[str, float]) -> str:
    """Returns the error rates of the trivial answers as one line."""
    return ", ".join(f"{kind} {rate:.1%}" for kind, rate in rates.items())
