from __future__ import annotations

import importlib.util

import pytest

from streamnest.downstream.asr.vocabulary import CharTokenizer, join, load_tokenizer, make_tokenizer, normalize_text
from streamnest.errors import UserError

TEXTS = ["hello there", "it's the old ship", "über alles", "the the the old old hello ship there"] * 5


def test_normalized_text_is_lower_case_with_single_spaces():
    assert normalize_text("  Hello,\tWorld! It\u2019s 5 o'clock \u2014 ÜBER. ") == "hello world it's 5 o'clock über"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("soft\u00adhyphen", "softhyphen"),
        ("e\u200bmail", "email"),
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u0645\u06cc\u062e\u0648\u0627\u0647\u0645"),
        ("ab\u200ec\u2066d\u2069", "abcd"),
        ("\ufeffword\ufe0f \u2764\ufe0f", "word"),
        ("e\u200d\u0301", "\u00e9"),
    ],
)
def test_invisible_characters_are_removed(text, word):
    assert normalize_text(text) == word


def test_characters_survive_encoding_and_plain_data():
    tokenizer = load_tokenizer(make_tokenizer("char", TEXTS, 0).plain())
    for text in TEXTS:
        tokens = tokenizer.encode(text)
        assert min(tokens) >= 1 and max(tokens) < tokenizer.size
        assert join(tokenizer, tokens) == text


def test_characters_outside_the_vocabulary_are_dropped():
    tokenizer = CharTokenizer.of(["abc"])
    assert tokenizer.pieces(tokenizer.encode("cxa")) == "ca"


@pytest.mark.skipif(importlib.util.find_spec("sentencepiece") is None, reason="sentencepiece is not installed")
def test_word_pieces_survive_encoding_and_plain_data():
    made = make_tokenizer("sentencepiece", TEXTS, 40)
    tokenizer = load_tokenizer(made.plain())
    assert tokenizer.size <= 40
    for text in TEXTS:
        tokens = tokenizer.encode(text)
        assert len(tokens) < len(text) and min(tokens) >= 1 and max(tokens) < tokenizer.size
        assert join(tokenizer, tokens) == text
        # Also token by token, as a stream emits them.
        parts = ""
        for token in tokens:
            parts += join(tokenizer, [token], begun=bool(parts))
        assert parts == text


@pytest.mark.skipif(importlib.util.find_spec("sentencepiece") is None, reason="sentencepiece is not installed")
@pytest.mark.parametrize(("size", "reason"), [(10, "smaller than required_chars"), (0, "vocab_size")])
def test_a_vocabulary_size_that_sentencepiece_refuses_is_named(size, reason):
    with pytest.raises(UserError, match=rf"task\.vocab_size={size} .*{reason}.*task\.tokenizer=char"):
        make_tokenizer("sentencepiece", TEXTS, size)


@pytest.mark.skipif(importlib.util.find_spec("sentencepiece") is not None, reason="sentencepiece is installed")
def test_without_sentencepiece_the_message_names_the_package():
    with pytest.raises(UserError, match="pip install sentencepiece"):
        make_tokenizer("sentencepiece", TEXTS, 40)


def test_unknown_kinds_no_texts_and_damaged_tokenizers_are_refused():
    with pytest.raises(UserError, match="choose char or sentencepiece"):
        make_tokenizer("bpe", TEXTS, 40)
    with pytest.raises(UserError, match="no text"):
        make_tokenizer("char", ["", ""], 40)
    for plain in (None, {}, {"kind": "char"}, {"kind": "x"}):
        with pytest.raises(UserError, match="tokenizer"):
            load_tokenizer(plain)
