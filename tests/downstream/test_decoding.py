from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from streamnest.downstream.asr.ctc_decoding import BeamSearch, collapse
from streamnest.downstream.asr.kenlm_ngram import read_ngram
from streamnest.downstream.asr.kneser_ney import estimate
from streamnest.downstream.asr.language import Language
from streamnest.downstream.asr.ngram import NGram
from streamnest.downstream.asr.vocabulary import CharTokenizer, SentencePieceTokenizer
from streamnest.errors import UserError

ARPA = """\\data\\
ngram 1=5
ngram 2=3

\\1-grams:
-1.0\t<s>\t-0.5
-1.0\t</s>
-0.7\tab\t-0.2
-0.5\tba\t-0.3
-2.0\t<unk>

\\2-grams:
-0.1\t<s> ab
-0.3\tab ba
-0.2\tba </s>

\\end\\
"""


@pytest.fixture
def ngram(tmp_path: Path) -> NGram:
    (tmp_path / "words.arpa").write_text(ARPA)
    return NGram.read(tmp_path / "words.arpa")


def test_repeats_collapse_unless_a_blank_separates_them():
    assert collapse(torch.tensor([0, 3, 3, 0, 3, 1, 1, 0, 0]))[0] == [3, 3, 1]


@pytest.mark.parametrize("cut", range(10))
def test_collapsing_in_chunks_equals_collapsing_at_once(cut: int):
    best = torch.tensor([0, 3, 3, 0, 3, 1, 1, 0, 0, 2])
    first, last = collapse(best[:cut])
    assert first + collapse(best[cut:], last)[0] == collapse(best)[0]


def spelled(log_probs: torch.Tensor) -> dict[tuple[int, ...], float]:
    """Returns the log-probability of every text by enumerating all paths."""
    frames, tokens = log_probs.shape
    found: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(tokens), repeat=frames):
        text = tuple(collapse(torch.tensor(path))[0])
        score = sum(float(log_probs[t, token]) for t, token in enumerate(path))
        found[text] = math.log(math.exp(found.get(text, -math.inf)) + math.exp(score))
    return found


@pytest.mark.parametrize("seed", range(4))
def test_a_wide_beam_finds_the_most_likely_text(seed: int):
    log_probs = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed)).mul(2).log_softmax(-1)
    search = BeamSearch(CharTokenizer(["a", "b"]), beam=1000, least=-math.inf)
    every, found = spelled(log_probs), search(log_probs)
    assert len(found) == len(every)
    for hypothesis in found:
        assert hypothesis.score == pytest.approx(every[hypothesis.tokens], abs=1e-5)
    assert found[0].tokens == max(every, key=lambda text: every[text])


def test_the_n_gram_backs_off_as_in_its_file(ngram: NGram):
    log10 = lambda *words: ngram.log_prob(words[:-1], words[-1]) / math.log(10)
    assert log10("<s>", "ab") == pytest.approx(-0.1)
    assert log10("<s>", "ba") == pytest.approx(-0.5 - 0.5)
    assert log10("ba", "zz") == pytest.approx(-0.3 - 2.0)
    assert log10("<s>", "ab", "ba") == pytest.approx(-0.3)


def test_the_n_gram_decides_between_acoustically_similar_texts(ngram: NGram):
    tokenizer = CharTokenizer([" ", "a", "b"])
    sounds = torch.full((5, 4), -6.0)
    for frame, likely in enumerate(((2,), (3,), (1,), (2, 3), (2, 3))):
        sounds[frame, list(likely)] = 0.0
    sounds[3, 2] += 0.3  # without the n-gram: "ab ab"
    sounds[4, 3] += 0.3
    log_probs = sounds.log_softmax(-1)
    text = lambda search: tokenizer.pieces(search(log_probs)[0].tokens)
    assert text(BeamSearch(tokenizer, 50)) == "ab ab"
    assert text(BeamSearch(tokenizer, 50, ngram, lm_weight=2.0, bonus=0.0)) == "ab ba"


def test_a_score_combines_acoustics_words_and_sentence_end(ngram: NGram):
    # The look-ahead to unfinished words must not remain in the score.
    check_scores(CharTokenizer([" ", "a", "b"]), ngram, str.split)


def test_a_score_combines_acoustics_characters_and_sentence_end():
    texts = ["ab ba", "ba", "a b b"]
    letters = lambda text: ["<space>" if letter == " " else letter for letter in text.lstrip(" ")]
    check_scores(CharTokenizer([" ", "a", "b"]), estimate(map(letters, texts), 3).ngram, letters)


def test_a_score_combines_acoustics_pieces_and_sentence_end():
    tokenizer = SentencePieceTokenizer.of(["ab ba", "bab a", "ba ba b"], 6)
    spelled = [tokenizer.pieces([token]) for token in range(1, tokenizer.size)]
    ngram = estimate([[piece.replace(" ", "\u2581") or "<unk>" for piece in spelled]], 2).ngram
    assert ngram.units == "pieces"
    language = Language(tokenizer, ngram, 1.0, 0.0)
    for token, piece in enumerate(spelled, 1):
        state, gain = language.after(language.start(), token)
        assert gain == pytest.approx(ngram.log_prob(("<s>",), piece.replace(" ", "\u2581") or "<unk>"))
        assert language.end(state) == pytest.approx(ngram.log_prob(state.context, "</s>"))
    with pytest.raises(UserError, match="tokenizer of the checkpoint lacks"):
        Language(CharTokenizer("ab"), ngram, 1.0, 0.0)


def check_scores(tokenizer: CharTokenizer, ngram: NGram, split: Callable[[str], list[str]]) -> None:
    """Compares the scores of a wide beam with sums over the units of each text."""
    log_probs = torch.randn(6, 4, generator=torch.Generator().manual_seed(1)).log_softmax(-1)
    plain = {h.tokens: h.score for h in BeamSearch(tokenizer, 10**6, least=-math.inf)(log_probs)}
    found = BeamSearch(tokenizer, 10**6, ngram, 0.7, 0.1, -math.inf)(log_probs)
    assert len(found) == len(plain)
    for hypothesis in found:
        past = ("<s>", *map(ngram.known, split(tokenizer.pieces(hypothesis.tokens))), "</s>")
        language = sum(ngram.log_prob(past[:at], past[at]) for at in range(1, len(past)))
        expected = plain[hypothesis.tokens] + 0.7 * language + 0.1 * len(hypothesis.tokens)
        assert hypothesis.score == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("bonus", [0.1, -1.0])
def test_skipped_candidates_never_change_a_narrow_beam(ngram: NGram, monkeypatch: pytest.MonkeyPatch, bonus: float):
    every = BeamSearch._with_new_token
    for seed in range(5):
        # Peaked like trained outputs, so that most candidates are far below the beam.
        log_probs = torch.randn(12, 4, generator=torch.Generator().manual_seed(seed)).mul(3).log_softmax(-1)
        search = BeamSearch(CharTokenizer([" ", "a", "b"]), 3, ngram, 1.5, bonus)
        quick = search(log_probs)
        with monkeypatch.context() as patch:
            patch.setattr(BeamSearch, "_with_new_token", lambda *given: every(*given[:-1], -math.inf))
            assert search(log_probs) == quick


def test_single_character_units_make_a_character_n_gram(tmp_path: Path, ngram: NGram):
    (tmp_path / "c.arpa").write_text("\\1-grams:\n-1\ta\n-1\t<space>\n-1\t</s>\n\\end\\\n")
    assert NGram.read(tmp_path / "c.arpa").units == "characters" and ngram.units == "words"


def test_a_file_that_is_not_arpa_is_refused(tmp_path: Path):
    for text, message in (
        ("hello\n\\end\\\n", "no n-grams"),
        (ARPA[: ARPA.index("-0.3\tab ba")], r"x\.arpa cannot be read .*\\end\\: it is incomplete"),
    ):
        (tmp_path / "x.arpa").write_text(text)
        with pytest.raises(UserError, match=message):
            read_ngram(tmp_path / "x.arpa")
    with pytest.raises(UserError, match="cannot be read"):
        NGram.read(tmp_path / "nowhere.arpa")
