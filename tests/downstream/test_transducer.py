"""Loss and decoding of the transducer head, compared with an enumeration of all alignments."""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise

import pytest
import torch

from streamnest.downstream.asr.language import Language
from streamnest.downstream.asr.ngram import NGram
from streamnest.downstream.asr.prediction_network import make_prediction_network
from streamnest.downstream.asr.transducer import Transducer, split_rows
from streamnest.downstream.asr.transducer_search import TransducerBeamSearch
from streamnest.downstream.asr.vocabulary import BLANK, CharTokenizer
from streamnest.errors import UserError

NETWORKS = ["stateless", "lstm"]
NO_LANGUAGE = Language(CharTokenizer("ab"), None, 0.0, 0.0)


def head(prediction_network: str = "stateless", vocabulary: int = 3, scale: float = 3.0) -> Transducer:
    torch.manual_seed(1)
    made = Transducer(make_prediction_network(prediction_network, vocabulary, 6, 2, 2), 6, 5, 7, vocabulary)
    with torch.no_grad():
        made.output.weight *= scale
        made.of_tokens.weight *= 2
    return made


def frames_of(made: Transducer, *shape: int, seed: int = 0) -> torch.Tensor:
    return made.of_frames(2 * torch.randn(*shape, 5, generator=torch.Generator().manual_seed(seed)))


@torch.no_grad()
def log_probability(made: Transducer, frames: torch.Tensor, text: tuple[int, ...], most: int = 10**6) -> float:
    """Sums over all alignments of a text and frames `(T, J)`; a frame ends after at most `most` tokens."""
    states = [made.start(1)]
    for token in text:
        states.append(made.advance(torch.tensor([token]), states[-1].prediction))
    scores = lambda t, u: made.join(frames[t], states[u].predicted[0]).double().softmax(-1)

    @cache
    def sum_from(t: int, u: int, here: int) -> float:
        if t == len(frames):
            return float(u == len(text))
        if here == most:
            return sum_from(t + 1, u, 0)
        total = float(scores(t, u)[BLANK]) * sum_from(t + 1, u, 0)
        if u < len(text):
            total += float(scores(t, u)[text[u]]) * sum_from(t, u + 1, here + 1)
        return total

    probability = sum_from(0, 0, 0)
    return math.log(probability) if probability else -math.inf


@pytest.mark.parametrize("prediction_network", NETWORKS)
def test_the_loss_sums_over_all_alignments_of_each_row(prediction_network):
    made = head(prediction_network, vocabulary=4)
    frames, lengths = frames_of(made, 3, 5), [3, 5, 1]
    texts = [[1, 3], [2], [3, 3, 1, 2]]
    expected = -sum(log_probability(made, f[:n], tuple(t)) for f, n, t in zip(frames, lengths, texts))
    loss = made.loss(frames, torch.tensor(lengths), texts, 10**6)
    assert loss.item() == pytest.approx(expected, abs=1e-4) and expected > 5


@pytest.mark.parametrize("prediction_network", NETWORKS)
def test_groups_of_rows_give_the_same_loss_and_gradients(prediction_network, monkeypatch):
    made = head(prediction_network, vocabulary=4)
    texts, lengths = [[1, 3], [2], [3, 3, 1, 2], [1, 2, 3]], torch.tensor([3, 5, 1, 4])
    sizes = []
    join = made.join
    monkeypatch.setattr(made, "join", lambda *x: sizes.append(join(*x).numel()) or join(*x))

    def run(most: int) -> list[torch.Tensor]:
        made.zero_grad()
        loss = made.loss(frames_of(made, 4, 5), lengths, texts, most)
        loss.backward()
        return [loss.detach(), *(weight.grad.clone() for weight in made.parameters())]

    whole, largest = run(10**6), max(sizes)
    sizes.clear()
    for one, other in zip(whole, run(120), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    # One forward pass and one recomputation for the gradient, of at most three groups.
    assert max(sizes) < largest / 2 and len(sizes) >= 4


@pytest.mark.parametrize("prediction_network", NETWORKS)
def test_mixed_precision_gives_nearly_the_same_loss_and_decodes(prediction_network):
    made = head(prediction_network, vocabulary=4)
    frames, lengths, texts = frames_of(made, 2, 5), torch.tensor([3, 5]), [[1, 3], [2]]
    exact = made.loss(frames, lengths, texts, 10**6)
    for most in (1, 10**6):
        with torch.autocast("cpu", torch.bfloat16):
            loss = made.loss(frames, lengths, texts, most)
            made.greedy(frames, lengths, made.start(2), 3)
            TransducerBeamSearch(made, 3, NO_LANGUAGE, 2)(frames[0])
        loss.backward(retain_graph=True)
        assert loss.dtype == torch.float32 and loss.item() == pytest.approx(exact.item(), rel=0.03)


@pytest.mark.parametrize("most", [1, 20, 60, 10**6])
def test_rows_are_split_into_adjacent_groups_within_the_bound(most):
    frames, tokens = [3, 5, 1, 4, 9], [2, 1, 4, 3, 0]
    groups = split_rows(frames, tokens, most)
    assert [row for group in groups for row in range(5)[group]] == list(range(5))
    pairs = lambda rows: len(frames[rows]) * max(frames[rows]) * (max(tokens[rows]) + 1)
    assert all(pairs(rows) <= most or len(frames[rows]) == 1 for rows in groups)
    assert all(pairs(slice(a.start, b.stop)) > most for a, b in pairwise(groups))


@pytest.mark.parametrize("prediction_network", NETWORKS)
@pytest.mark.parametrize("context", [1, 3])
def test_predicting_token_by_token_equals_predicting_at_once(prediction_network, context):
    torch.manual_seed(0)
    network = make_prediction_network(prediction_network, 7, 6, context, 2)
    tokens = torch.randint(0, 7, (2, 9))
    whole, last = network(tokens, network.init_state(2))
    state, parts = network.init_state(2), []
    for piece in (tokens[:, :1], tokens[:, 1:4], tokens[:, 4:]):
        part, state = network(piece, state)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, 1), whole)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(state, last, strict=True))
    assert len({tuple(row) for row in whole[0].round(decimals=4).tolist()}) > 4


@pytest.mark.parametrize("prediction_network", NETWORKS)
def test_a_wide_beam_sums_over_the_alignments_of_every_text(prediction_network):
    made = head(prediction_network)
    frames = frames_of(made, 3)
    found = TransducerBeamSearch(made, 10**6, NO_LANGUAGE, max_symbols=2, least=-math.inf)(frames)
    assert len({h.tokens for h in found}) == len(found) == sum(2**n for n in range(7))
    assert sum(math.exp(h.score) for h in found) == pytest.approx(1.0)
    for hypothesis in found[:40]:
        expected = log_probability(made, frames, hypothesis.tokens, 2)
        assert hypothesis.score == pytest.approx(expected, abs=1e-5)


def scripted(vocabulary: int) -> Transducer:
    """Returns a head with confident scores: a frame emits its tokens unless they are the last two emitted ones."""
    made = Transducer(make_prediction_network("stateless", vocabulary, vocabulary, 2, 1), *[vocabulary] * 4)
    identity = torch.eye(vocabulary)
    with torch.no_grad():
        for weight in made.parameters():
            weight.zero_()
        made.prediction_network.embedding.weight.copy_(identity).masked_fill_(identity[:1].T.bool(), 0)
        made.prediction_network.convolution.weight.copy_(identity[..., None].expand(-1, -1, 2))
        made.of_frames.weight.copy_(5 * identity)
        made.of_tokens.weight.copy_(-5 * identity)
        made.output.weight.copy_(30 * identity)
        made.output.bias[BLANK] = 15.0
    return made


@pytest.mark.parametrize("beam", [1, 3, 8])
def test_all_searches_find_a_dominant_alignment(beam):
    made = scripted(5)
    said = torch.nn.functional.one_hot(torch.tensor([0, 3, 3, 0, 1, 4, 0, 0, 4, 2]), 5).float()
    said[:, BLANK] = 0
    said[7, 2:4] = torch.tensor([1.0, 0.25])  # two tokens in one frame
    frames = made.of_frames(said)
    (greedy,), _ = made.greedy(frames[None], torch.tensor([10]), made.start(1), 5)
    best = TransducerBeamSearch(made, beam, NO_LANGUAGE, 5)(frames)[0]
    assert list(best.tokens) == greedy == [3, 1, 4, 2, 3, 4, 2] and best.score > -0.1


def test_beam_search_beats_greedy_decoding():
    made = head(scale=4.0)
    better = 0
    for seed in range(8):
        frames = frames_of(made, 4, seed=seed)
        (greedy,), _ = made.greedy(frames[None], torch.tensor([4]), made.start(1), 2)
        best = TransducerBeamSearch(made, 8, NO_LANGUAGE, 2)(frames)[0]
        assert log_probability(made, frames, best.tokens, 2) >= log_probability(made, frames, tuple(greedy), 2) - 1e-5
        better += list(best.tokens) != greedy
    assert better


def test_an_n_gram_adds_to_the_score_of_a_text():
    made = head()
    frames = frames_of(made, 3)
    ngram = NGram({("a",): (-0.3, 0.0), ("b",): (-2.0, 0.0), ("</s>",): (-0.5, 0.0)}, 1)
    language = Language(CharTokenizer("ab"), ngram, 0.7, 0.1)
    plain = {h.tokens: h.score for h in TransducerBeamSearch(made, 10**6, NO_LANGUAGE, 2, -math.inf)(frames)}
    found = TransducerBeamSearch(made, 10**6, language, 2, -math.inf)(frames)
    for hypothesis in found[:20]:
        units = [-0.3 if token == 1 else -2.0 for token in hypothesis.tokens]
        expected = plain[hypothesis.tokens] + 0.7 * math.log(10) * sum([*units, -0.5]) + 0.1 * len(units)
        assert hypothesis.score == pytest.approx(expected, abs=1e-5)
    assert found[0].tokens != max(plain, key=lambda text: plain[text]) or len(found[0].tokens) == 0
    # The n-gram also decides which prefixes a narrow beam keeps.
    for avoided, other in (("a", "b"), ("b", "a")):
        ngram = NGram({(avoided,): (-99.0, 0.0), (other,): (-0.3, 0.0), ("</s>",): (-0.5, 0.0)}, 1)
        narrow = TransducerBeamSearch(made, 1, Language(CharTokenizer("ab"), ngram, 1.0, 5.0), 2)(frames)
        assert set(narrow[0].tokens) == {" ab".index(other)}


def test_a_frame_emits_at_most_max_symbols_tokens():
    made = head()
    with torch.no_grad():
        made.output.bias[BLANK] = -50.0
    frames = frames_of(made, 2, 4)
    rows, _ = made.greedy(frames, torch.tensor([4, 2]), made.start(2), 3)
    assert [len(row) for row in rows] == [12, 6]


@pytest.mark.parametrize("change", [{"kind": "gru"}, {"dim": 0}, {"context_size": 0}, {"num_layers": 0}])
def test_invalid_prediction_networks_are_refused(change):
    with pytest.raises(UserError, match=r"task\.\w+="):
        make_prediction_network(
            **{"kind": "lstm", "vocab_size": 5, "dim": 4, "context_size": 2, "num_layers": 1, **change}
        )


def test_an_empty_beam_is_refused():
    with pytest.raises(UserError, match="beam=0"):
        TransducerBeamSearch(head(), 0, NO_LANGUAGE, 2)
