"""Estimation of n-gram models, their files, and the commands that make and use them."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections import Counter
from pathlib import Path

import pytest
from inprocess import load, main
from recognizers import recognizer

from streamnest.checkpoint.loading import write_checkpoint
from streamnest.downstream.asr import kneser_ney
from streamnest.downstream.asr.kenlm_ngram import KenLM, _binary_vocabulary, read_ngram
from streamnest.downstream.asr.kneser_ney import estimate, perplexity
from streamnest.downstream.asr.lm_tuning import best, grid
from streamnest.downstream.asr.ngram import NGram
from streamnest.errors import UserError
from streamnest.locations import sample_corpus

TINY = [["a", "b"], ["a", "c"]]


def sentences(seed: int, number: int = 60) -> list[list[str]]:
    """Returns random sentences, some of them empty, with a skewed distribution of words."""
    chance = random.Random(seed)
    return [chance.choices("abcdefgh", [2.0**-k for k in range(8)], k=chance.randrange(7)) for _ in range(number)]


def test_probabilities_are_those_computed_by_hand():
    # Counts do not determine the discounts, which are then 0.5, 1 and 1.5; the vocabulary with <unk> has 5 units.
    ngram = estimate(TINY, 2).ngram
    found = {words: 10**log10 for words, (log10, _) in ngram.scores.items()}
    assert {words[0]: p for words, p in found.items() if len(words) == 1 and p > 1e-9} == pytest.approx(
        {"a": 0.2, "b": 0.2, "c": 0.2, "</s>": 0.3, "<unk>": 0.1}
    )
    assert {words: p for words, p in found.items() if len(words) == 2} == pytest.approx(
        {("<s>", "a"): 0.6, ("a", "b"): 0.35, ("a", "c"): 0.35, ("b", "</s>"): 0.65, ("c", "</s>"): 0.65}
    )
    assert {words[0]: 10**b for words, (_, b) in ngram.scores.items() if len(words) == 1 and b} == pytest.approx(
        {"<s>": 0.5, "a": 0.5, "b": 0.5, "c": 0.5}
    )


def test_discounts_follow_the_counts_of_counts():
    counts = [1] * 4 + [2] * 2 + [3, 4, 9]
    grams = Counter({(str(index),): count for index, count in enumerate(counts)})
    assert kneser_ney._discounts(grams) == pytest.approx((0.5, 1.25, 1.0))
    assert kneser_ney._discounts(Counter({("a",): 1})) is None


@pytest.mark.parametrize("order", [1, 2, 4])
def test_probabilities_sum_to_one_after_every_context(order: int):
    ngram = estimate(sentences(order), order).ngram
    units = [unit for unit in ngram.vocabulary if unit != "<s>"]
    contexts = [words for words in ngram.scores if len(words) < order] + [("zz", "a"), ("h", "h", "h")]
    for context in contexts:
        assert sum(math.exp(ngram.log_prob(context, unit)) for unit in units) == pytest.approx(1, abs=1e-9)


def test_the_order_is_that_of_the_longest_sentence():
    assert estimate(TINY, 9).ngram.order == 4


def test_perplexity_counts_sentence_ends_and_unknown_units():
    found = perplexity(estimate(TINY, 2).ngram, [["a", "b"]])
    assert found.per_unit == pytest.approx((0.6 * 0.35 * 0.65) ** (-1 / 3)) and found.unknown == 0
    found = perplexity(estimate(TINY, 2).ngram, [["a", "zz"]])
    assert (found.units, found.unknown) == (3, 1)
    assert found.nats == pytest.approx(-math.log(0.6 * (0.5 * 0.1) * 0.3))


@pytest.mark.parametrize("name", ["x.arpa", "x.arpa.gz"])
def test_a_file_is_read_back_and_written_reproducibly(tmp_path: Path, name: str):
    ngram = estimate([*sentences(0), ["\u00a0", "\u2581e"]], 3).ngram
    for folder in ("one", "two"):
        ngram.write(tmp_path / folder / name)
    content = (tmp_path / "one" / name).read_bytes()
    assert content == (tmp_path / "two" / name).read_bytes()
    # A compressed file would otherwise contain the time.
    assert not name.endswith("gz") or content[4:8] == bytes(4)
    again = NGram.read(tmp_path / "one" / name)
    assert again.order == 3 and again.units == "pieces" and set(again.scores) == set(ngram.scores)
    for words, values in ngram.scores.items():
        assert again.scores[words] == pytest.approx(values, abs=1e-5)


@pytest.mark.parametrize("lacks_unknown", [False, True])
def test_kenlm_gives_the_same_scores(tmp_path: Path, lacks_unknown: bool):
    pytest.importorskip("kenlm")
    ngram = estimate(sentences(3), 3).ngram
    if lacks_unknown:
        del ngram.scores["<unk>",]
    ngram.write(tmp_path / "x.arpa")
    own, other = NGram.read(tmp_path / "x.arpa"), read_ngram(tmp_path / "x.arpa")
    assert isinstance(other, KenLM) and other.units == own.units and other.order == own.order
    units = [*(unit for unit in own.vocabulary if unit != "<s>"), "<unk>", "zz"]
    for context in [(), ("<s>",), *itertools.product(["a", "h", "<unk>"], repeat=2)]:
        for unit in units:
            assert other.log_prob(context, unit) == pytest.approx(own.log_prob(context, unit), abs=1e-4)


def test_a_binary_file_needs_kenlm_and_a_vocabulary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "x.bin").write_bytes(b"mmap lm http://kheafield.com/code format version 5\n")
    monkeypatch.setitem(__import__("sys").modules, "kenlm", None)
    with pytest.raises(UserError, match=r"binary file of KenLM: pip install"):
        read_ngram(tmp_path / "x.bin")
    with pytest.raises(UserError, match="has no vocabulary: build it without `-v`"):
        _binary_vocabulary(tmp_path / "x.bin")
    with (tmp_path / "x.bin").open("ab") as file:
        file.write(b"\0\1<unk>\0a\0<space>\0")
    assert _binary_vocabulary(tmp_path / "x.bin") == {"<unk>", "a", "<space>"}


def test_the_grid_is_refined_around_the_best_pair():
    calls = []

    def evaluate(weight: float, bonus: float) -> dict[str, float]:
        calls.append((weight, bonus))
        return {"wer": (weight - 0.1) ** 2 + (bonus - 1.3) ** 2, "cer": 0.0}

    found = best(list(grid(evaluate, "wer")), "wer")
    assert (found.lm_weight, found.bonus) == (0.125, 1.25)
    assert len(set(calls)) == len(calls) <= 28 and min(weight for weight, _ in calls) >= 0


def test_a_model_is_made_evaluated_and_used_to_recognize(
    run_config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    corpus = sample_corpus()
    lines = (corpus / "cuts_dev.jsonl").read_text().splitlines()[:2]
    (tmp_path / "dev.jsonl").write_text("\n".join(lines).replace('"speech/', f'"{corpus}/speech/'))
    (tmp_path / "more.txt").write_text("Besides, they'd END up!\n\n")
    arpa, given = tmp_path / "c.arpa.gz", ["--manifest", tmp_path / "dev.jsonl"]
    assert (
        main("language_model", arpa, *given, "--text", tmp_path / "more.txt", "--order", "3", "--eval", given[1]) == 0
    )
    printed = capsys.readouterr().out
    assert "3-gram of characters" in printed and "more.txt: 1 texts" in printed
    assert "bits per character; 2 texts also occur in the training texts" in printed
    write_checkpoint(recognizer(run_config("task=ctc", "encoder=causal")), tmp_path / "m.ckpt")
    words = [tmp_path / "m.ckpt", *given, "--beam", "2", "--lm", arpa, "--json", tmp_path / "r.json"]
    assert main("transcribe", *words) == 0
    printed = capsys.readouterr().out
    assert "greedy decoding: CER " in printed and "beam search: CER " in printed
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["utterances"][0]["greedy"] and {"cer", "cer_low"} <= found["greedy"].keys() & found.keys()
    assert main("transcribe", *words, "--tune-lm", "cer") == 0
    assert "lowest CER on this manifest: --beam 2 --lm-weight" in capsys.readouterr().out
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["best"]["rates"]["cer"] == min(trial["rates"]["cer"] for trial in found["trials"])
    assert main("transcribe", tmp_path / "m.ckpt", *given, "--languages", "xx") == 2
    assert "no utterance with text in xx of at most 30 s: give cuts with texts" in capsys.readouterr().err
    assert main("language_model", arpa, *given, "--languages", "xx") == 2
    assert "check --manifest, --text and --languages" in capsys.readouterr().err


def test_held_out_texts_are_read_before_a_model_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    text, empty, out = tmp_path / "a.txt", tmp_path / "empty.txt", tmp_path / "c.arpa"
    text.write_text("a cat sat on a mat\n")
    empty.write_text("")
    assert main("language_model", out, "--text", text, "--order", "2", "--eval", empty) == 2
    assert "empty.txt has no text" in capsys.readouterr().err and not out.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["x.arpa"], "--manifest or --text"),
        (["x.lm", "--text", "a"], "must end in .arpa"),
        (["x.arpa", "--text", "a", "--order", "0"], "from 1 to 100"),
        (["x.arpa", "--text", "a", "--languages", "en"], "--languages has no effect without --manifest or --eval"),
        (["x.arpa", "--text", "a", "--units", "pieces"], "need each other"),
    ],
)
def test_invalid_arguments_are_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        load("arguments.language_model").parse(words)
    assert ended.value.code == 2 and message in capsys.readouterr().err
