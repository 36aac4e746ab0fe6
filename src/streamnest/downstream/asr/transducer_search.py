"""Beam search for transducers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from streamnest.downstream.asr.ctc_decoding import Hypothesis, log_add, ranked
from streamnest.downstream.asr.language import Language, Prefix
from streamnest.downstream.asr.transducer import DecoderState, Transducer
from streamnest.downstream.asr.vocabulary import BLANK
from streamnest.encoder.state import map_state
from streamnest.errors import UserError

# Log-probability of each prefix, summed over its alignments.
Beams = dict[Prefix, float]


class TransducerBeamSearch:
    """Time-synchronous beam search (Saon et al. 2020) over one utterance; alignments of one prefix are summed.

    In each frame a prefix grows by up to `max_symbols` tokens, and a blank after any of them ends the frame. After the
    last of these tokens the frame ends without a blank.

    Args:
        head: prediction network and joiner.
        beam: number of prefixes to keep.
        language: language model score of a prefix.
        max_symbols: largest number of tokens of a frame.
        least: tokens with a smaller log-probability do not extend a prefix.
    """

    def __init__(self, head: Transducer, beam: int, language: Language, max_symbols: int, least: float = -8.0) -> None:
        if beam < 1:
            raise UserError(f"beam={beam}: must be at least 1")
        self.head, self.beam, self.language = head, beam, language
        self.max_symbols, self.least = max_symbols, least
        self._states: dict[Prefix, DecoderState] = {}

    @torch.no_grad()
    def __call__(self, frames: Tensor) -> list[Hypothesis]:
        """Returns the hypotheses for frames `(T, J)` of `Transducer.of_frames`, best first."""
        empty = Prefix.empty(self.language)
        self._states = {empty: self.head.start(1)}
        beams: Beams = {empty: 0.0}
        for frame in frames:
            beams = self._after(frame, beams)
            self._states = {prefix: self._states[prefix] for prefix in beams}
        return ranked(beams, self.language)

    def _after(self, frame: Tensor, growing: Beams) -> Beams:
        """Returns the best prefixes after one more frame."""
        ended: Beams = {}
        for symbols in range(self.max_symbols + 1):
            self._advance(growing)
            scores = self._log_probs(frame, growing)
            for (prefix, before), row in zip(growing.items(), scores, strict=True):
                # As in greedy decoding, a prefix with max_symbols tokens in this frame ends it at no cost.
                _merge(ended, prefix, before + (row[BLANK] if symbols < self.max_symbols else 0.0))
            if symbols < self.max_symbols:
                growing = self._grown(growing, scores)
            if not growing or self._is_settled(growing, ended):
                break
        return self._best(ended)

    def _grown(self, growing: Beams, scores: list[list[float]]) -> Beams:
        """Returns the best prefixes with one more token."""
        longer: Beams = {}
        for (prefix, before), row in zip(growing.items(), scores, strict=True):
            for token, score in enumerate(row):
                if token != BLANK and score > self.least:
                    _merge(longer, prefix.extend(token, self.language), before + score)
        return self._best(longer)

    def _advance(self, prefixes: Beams) -> None:
        """Computes the states of new prefixes in one batch."""
        new = [prefix for prefix in prefixes if prefix not in self._states]
        if new:
            before = _stack([self._states[prefix.parent] for prefix in new if prefix.parent]).prediction
            last = torch.tensor([prefix.token for prefix in new], device=self.head.output.weight.device)
            after = self.head.advance(last, before)
            for row, prefix in enumerate(new):
                self._states[prefix] = map_state(lambda x, at=row: x[at : at + 1], after)

    def _log_probs(self, frame: Tensor, prefixes: Beams) -> list[list[float]]:
        predicted = torch.cat([self._states[prefix].predicted for prefix in prefixes])
        scores: list[list[float]] = self.head.join(frame, predicted).double().log_softmax(-1).tolist()
        return scores

    def _best(self, beams: Beams) -> Beams:
        kept = sorted(beams, key=lambda prefix: -(beams[prefix] + prefix.score))[: self.beam]
        return {prefix: beams[prefix] for prefix in kept}

    def _is_settled(self, growing: Beams, ended: Beams) -> bool:
        """True if the beam is full of finished prefixes that are better than all growing ones."""
        if len(ended) < self.beam:
            return False
        value = lambda beams: sorted((beams[p] + p.score for p in beams), reverse=True)
        worst_kept: float = value(ended)[self.beam - 1]
        return worst_kept > value(growing)[0]


def _merge(beams: Beams, prefix: Prefix, score: float) -> None:
    beams[prefix] = log_add(beams.get(prefix, -math.inf), score)


def _stack(states: list[DecoderState]) -> DecoderState:
    stacked: DecoderState = map_state(lambda *rows: torch.cat(rows), *states)
    return stacked
