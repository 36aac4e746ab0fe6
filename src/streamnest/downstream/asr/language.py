"""Language model scores of prefixes of tokens, for beam searches."""

from __future__ import annotations

from streamnest.downstream.asr.ngram import BEGIN, END, SPACE, UNKNOWN, WORD_MARK, NGram, Words
from streamnest.downstream.asr.vocabulary import CharTokenizer, Tokenizer
from streamnest.errors import UserError

# Bounds the memory of the cache: about 1 GB with a hundred tokens.
_MOST_STATES = 200_000


class LanguageState:
    """Part of a prefix that determines the scores of the tokens after it.

    Attributes:
        context: last units, as many as the n-gram can use.
        partial: letters of the unfinished word, for n-grams of words.
        expected: log-probability that the prefix already contains for this word, see `Language`.
        following: state and log-probability after each token, as far as computed.
    """

    __slots__ = ("context", "expected", "following", "partial")

    def __init__(self, context: Words, partial: str, expected: float) -> None:
        self.context, self.partial, self.expected = context, partial, expected
        self.following: dict[int, tuple[LanguageState, float]] = {}


class Language:
    """Language model score of prefixes of tokens.

    The score is `lm_weight` times the log-probability of the units (characters, word pieces, or words that are followed
    by a space or the end) plus `bonus` for each token. An unfinished word counts with the highest unigram probability
    of the words that begin with its letters (look-ahead, Ortmanns and Ney 2000), which the probability of the word
    replaces at its end: the look-ahead changes which prefixes are kept, not the score of a text. Without an n-gram the
    score is 0.

    Args:
        tokenizer: tokenizer of the model.
        ngram: n-gram of words, characters or word pieces, or None.
        lm_weight: weight of the log-probability of the n-gram.
        bonus: nats for each token, which compensates the preference of n-grams for short texts.

    Raises:
        UserError: for a negative weight, and for word pieces of another tokenizer.
    """

    def __init__(self, tokenizer: Tokenizer, ngram: NGram | None, lm_weight: float, bonus: float) -> None:
        if lm_weight < 0:
            raise UserError(f"--lm-weight {lm_weight:g}: must be at least 0")
        self.ngram = ngram
        self.lm_weight, self.bonus = (lm_weight, bonus) if ngram else (0.0, 0.0)
        self._texts = ["", *(tokenizer.pieces([token]) for token in range(1, tokenizer.size))]
        self._units = ngram.units if ngram else ""
        if self._units == "pieces":
            _check_pieces(tokenizer, self._texts, ngram)
        self._best = _best_words(ngram) if ngram and self._units == "words" else {}
        self._states: dict[tuple[Words, str], LanguageState] = {}

    def start(self) -> LanguageState:
        """Returns the state of the empty prefix; states of an earlier call stay valid."""
        if len(self._states) > _MOST_STATES:
            self._states.clear()
        return self._state((BEGIN,), "")

    def after(self, state: LanguageState, token: int) -> tuple[LanguageState, float]:
        """Returns the next state and the log-probability that a token adds."""
        known = state.following.get(token)
        if known is None:
            known = state.following[token] = self._after(state, token)
        return known

    def end(self, state: LanguageState) -> float:
        """Returns the log-probability that the end of the sentence adds, with that of an unfinished word."""
        if self.ngram is None:
            return 0.0
        context, score = self._word(state.context, state.partial) if state.partial else (state.context, 0.0)
        return score - state.expected + self.ngram.log_prob(context, END)

    def _after(self, state: LanguageState, token: int) -> tuple[LanguageState, float]:
        if self.ngram is None:
            return state, 0.0
        text = self._texts[token]
        if self._units == "words":
            return self._after_letters(state, text)
        units = [text.replace(" ", WORD_MARK) or UNKNOWN] if self._units == "pieces" else list(text)
        context, score = state.context, 0.0
        for unit in units:
            # Texts begin without a space.
            if unit != " " or context != (BEGIN,):
                context, more = self._word(context, SPACE if unit == " " else unit)
                score += more
        return self._state(context, ""), score

    def _after_letters(self, state: LanguageState, text: str) -> tuple[LanguageState, float]:
        context, partial, score = state.context, state.partial, -state.expected
        for letter in text:
            if letter != " ":
                partial += letter
            elif partial:
                context, more = self._word(context, partial)
                partial, score = "", score + more
        after = self._state(context, partial)
        return after, score + after.expected

    def _word(self, context: Words, unit: str) -> tuple[Words, float]:
        """Returns the context after a unit, and the log-probability of the unit."""
        assert self.ngram is not None
        unit = self.ngram.known(unit)
        return (*context, unit)[-max(1, self.ngram.order - 1) :], self.ngram.log_prob(context, unit)

    def _state(self, context: Words, partial: str) -> LanguageState:
        key = context, partial
        if key not in self._states:
            expected = self._best.get(partial, self._best[UNKNOWN]) if partial else 0.0
            self._states[key] = LanguageState(context, partial, expected)
        return self._states[key]


class Prefix:
    """Tokens of a hypothesis, as a node of a tree; nodes are compared by identity.

    Attributes:
        parent: prefix without the last token; None for the empty prefix.
        token: last token; -1 for the empty prefix.
        state: state of the language model.
        score: weighted score of the language model and the bonus.
        extended: prefixes with one more token that exist.
    """

    __slots__ = ("extended", "parent", "score", "state", "token")

    def __init__(self, parent: Prefix | None, token: int, state: LanguageState, score: float) -> None:
        self.parent, self.token, self.state, self.score = parent, token, state, score
        self.extended: dict[int, Prefix] = {}

    @classmethod
    def empty(cls, language: Language) -> Prefix:
        """Returns the empty prefix of a new utterance."""
        return cls(None, -1, language.start(), 0.0)

    def extend(self, token: int, language: Language) -> Prefix:
        """Returns the prefix with one more token; the same node in each call."""
        known = self.extended.get(token)
        if known is None:
            state, gain = language.after(self.state, token)
            score = self.score + language.lm_weight * gain + language.bonus
            known = self.extended[token] = Prefix(self, token, state, score)
        return known

    @property
    def tokens(self) -> tuple[int, ...]:
        """Tokens from the first to the last."""
        tokens, node = [], self
        while node.parent is not None:
            tokens.append(node.token)
            node = node.parent
        return tuple(reversed(tokens))


def _best_words(ngram: NGram) -> dict[str, float]:
    """Returns the highest unigram log-probability of the words with each beginning, at least that of `<unk>`."""
    floor = ngram.log_prob((), UNKNOWN)
    best = {UNKNOWN: floor}
    for word in ngram.vocabulary:
        if word not in (BEGIN, END, UNKNOWN):
            score = max(floor, ngram.log_prob((), word))
            for letters in range(1, len(word) + 1):
                beginning = word[:letters]
                best[beginning] = max(score, best.get(beginning, floor))
    return best


def _check_pieces(tokenizer: Tokenizer, texts: list[str], ngram: NGram | None) -> None:
    pieces = {text.replace(" ", WORD_MARK) for text in texts} | {BEGIN, END, UNKNOWN}
    foreign = next((unit for unit in ngram.vocabulary if unit not in pieces), None) if ngram else None
    if isinstance(tokenizer, CharTokenizer) or foreign:
        raise UserError(
            f"the language model has word pieces that the tokenizer of the checkpoint lacks, such as {foreign!r}: make "
            "one with streamnest language-model --units pieces --tokenizer CHECKPOINT, or use --units characters"
        )
