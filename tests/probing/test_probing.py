"""Probes read off what is there, and nothing that is not."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from models import ready
from omegaconf import DictConfig

from streamnest.errors import UserError
from streamnest.probing import linear_probe as probing
from streamnest.probing.encoded import Heard, choose, divide
from streamnest.probing.layer_outputs import layer_frames
from streamnest.probing.layerwise import LayerFigures, probe_encoded
from streamnest.probing.linear_probe import Examples
from streamnest.probing.phone_labels import Utterance, frame_phones, phone_classes, read_utterances
from streamnest.probing.plots import draw_probes


def separable(count: int, noise: float, seed: int) -> Examples:
    """Three classes around three corners, in the second of two layers; the first is noise."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (count,), generator=generator)
    corners = 4 * torch.eye(3)[:, [0, 1, 2, 0, 1, 2]]
    told = corners[y] + noise * torch.randn(count, 6, generator=generator)
    return Examples([torch.randn(count, 6, generator=generator), told], y)


def test_a_probe_reads_the_layer_that_tells_and_finds_chance_in_the_other() -> None:
    train, test = separable(600, 0.5, 0), separable(300, 0.5, 1)
    noise, told = probing.probe_layers(train, test, 3)
    assert told > 0.98
    assert noise < 0.5


def test_a_weighted_sum_finds_the_layer_that_tells() -> None:
    train, test = separable(600, 0.5, 0), separable(300, 0.5, 1)
    assert probing.probe_mix(train, test, 3) > 0.98


def test_a_probe_gives_the_same_twice() -> None:
    train, test = separable(200, 2.0, 0), separable(200, 2.0, 1)
    assert probing.probe_layers(train, test, 3) == probing.probe_layers(train, test, 3)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_scale_of_a_layer_does_not_matter(scale: float) -> None:
    train, test = separable(300, 1.0, 0), separable(300, 1.0, 1)
    scaled = [Examples([x * scale + 7 for x in e.x], e.y) for e in (train, test)]
    assert probing.probe_layers(*scaled, 3) == pytest.approx(probing.probe_layers(train, test, 3), abs=0.02)


def test_clusters_tell_all_of_what_they_equal_and_nothing_of_what_is_independent() -> None:
    labels = torch.arange(400) % 4
    assert probing.shared_information((labels + 1) % 4, labels) == pytest.approx(1.0)
    assert probing.shared_information(torch.arange(400) // 4 % 5, labels) == pytest.approx(0.0, abs=1e-9)


def test_clusters_that_split_labels_tell_all_of_them_and_those_that_join_them_a_part() -> None:
    fine, coarse = torch.arange(400) % 8, torch.arange(400) % 2
    assert probing.shared_information(fine, coarse) == pytest.approx(1.0)
    assert probing.shared_information(coarse, fine) == pytest.approx(1 / 3)


def test_clusters_of_separate_groups_have_a_high_silhouette() -> None:
    tight, wide = separable(300, 0.1, 0), separable(300, 5.0, 0)
    found = [probing.cluster(e.x[1], e.y, 3) for e in (tight, wide)]
    assert found[0].silhouette > 0.8 > found[1].silhouette
    assert (found[0].phone_information or 0) > 0.99


def test_a_rotated_layer_is_alike_and_an_independent_one_is_not() -> None:
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 2000, 8, generator=generator)
    turned = 3 * x @ torch.linalg.qr(torch.randn(8, 8, generator=generator)).Q + 1
    found = probing.similarity([x, turned, noise[:, :5]])
    assert float(found[0, 1]) == pytest.approx(1.0, abs=1e-4) and found.diagonal().tolist() == pytest.approx([1.0] * 3)
    assert float(found[0, 2]) < 0.05


def test_speakers_have_a_weighted_sum_with_phones_and_without() -> None:
    generator = torch.Generator().manual_seed(0)
    heard = []
    for n in range(40):
        utterance = Utterance(str(n), Path("x"), speaker="ab"[n % 2], phones=[(0, 1, "a")] if n < 20 else [])
        told = 0.5 * torch.randn(8, 6, generator=generator) + 4 * (n % 2)
        noise = [torch.randn(8, width, generator=generator) for width in (9, 6)]
        phones = torch.arange(8) % 2 if n < 20 else torch.full((8,), -1)
        heard.append(Heard(utterance, [*noise, told], phones))
    for some in (heard, heard[20:]):
        figures, _ = probe_encoded(some, 2, clusters=4)
        assert [f.layer for f in figures] == ["log-mel", "stem", "1", "weighted sum"]
        assert (figures[-1].speakers or 0) > 0.9 and (figures[-1].phones is not None) == (some is heard)


def test_the_picture_of_probes_has_a_panel_for_each_figure_that_is_known() -> None:
    models = {
        name: [LayerFigures(layer, phones=share, rank=9.0) for layer in ("log-mel", "stem", "1")]
        + [LayerFigures("weighted sum", phones=0.9)]
        for name, share in (("trained", 0.5), ("random weights", 0.4))
    }
    panels = draw_probes(models, "title").axes
    assert [axes.get_title(loc="left") for axes in panels] == ["phone of a frame", "effective rank"]
    assert [line.get_ydata().tolist() for line in panels[0].lines] == [[0.5] * 3, [0.4] * 3]


def test_each_frame_is_labelled_with_the_phone_at_its_middle() -> None:
    utterance = Utterance("a", Path("a.wav"), phones=[(0.0, 0.05, "pau"), (0.05, 0.10, "a"), (0.10, 0.16, "b")])
    classes = phone_classes([utterance], frozenset({"pau"}))
    assert classes == {"a": 0, "b": 1}
    # Middles at 20, 60, 100, 140 and 180 ms; the last one lies behind the last phone.
    assert frame_phones(utterance, 5, 40.0, classes).tolist() == [-1, 0, 1, 1, -1]


def test_layers_have_a_frame_for_each_whole_block_and_the_last_is_the_output(
    run_config: Callable[..., DictConfig],
) -> None:
    model = ready(run_config("encoder=lookahead40"))
    audio = 0.1 * torch.randn(16000)
    layers = layer_frames(model, audio)
    assert [len(x) for x in layers] == [25] * (len(model.encoder.layers) + 2)
    assert layers[0].shape[1] == 4 * 80
    with torch.no_grad():
        expected = model(audio[None], torch.tensor([16000]))[0][0]
    torch.testing.assert_close(layers[-1], expected[:25], rtol=0, atol=1e-5)


def test_the_shifted_stem_is_read_where_it_has_heard_the_block(run_config: Callable[..., DictConfig]) -> None:
    model = ready(run_config("encoder=causal", "encoder.subsampling_padding=shifted"))
    audio = 0.1 * torch.randn(16000)
    with torch.no_grad():
        expected = model(audio[None], torch.tensor([16000]))[0][0]
    torch.testing.assert_close(layer_frames(model, audio)[-1], expected[1:26], rtol=0, atol=1e-5)


def test_a_delayed_encoder_is_read_where_it_has_heard_the_block(run_config: Callable[..., DictConfig]) -> None:
    model = ready(run_config("encoder=lookahead80", "encoder.style=delayed"))
    audio = 0.1 * torch.randn(16000)
    assert model.encoder.context.delay > 0
    with torch.no_grad():
        expected = model(audio[None], torch.tensor([16000]))[0][0]
    torch.testing.assert_close(layer_frames(model, audio)[-1], expected[:25], rtol=0, atol=1e-5)


def test_the_stem_of_a_delayed_encoder_is_read_without_the_delay(run_config: Callable[..., DictConfig]) -> None:
    cfg = run_config("encoder=lookahead80", "encoder.style=delayed")
    audio = 0.1 * torch.randn(16000)
    later = audio.clone()
    # The end of block 13, which lasts from sample 8320 to 8960.
    later[8800:] = 0.5
    for cfg.encoder.subsampling_padding in ("aligned", "shifted"):
        model = ready(cfg)
        change = (layer_frames(model, audio)[1] - layer_frames(model, later)[1]).abs().amax(1)
        assert (change > 1e-4).tolist() == [False] * 13 + [True] * 12


def test_utterances_with_phones_are_chosen_beside_those_without() -> None:
    utterances = [Utterance(str(n), Path("x"), phones=[(0, 1, "a")] if n < 3 else []) for n in range(10)]
    chosen = choose(utterances, 2, seed=0)
    assert [bool(u.phones) for u in chosen] == [True, True, False, False]
    assert chosen == choose(utterances, 2, seed=0)


def test_a_manifest_that_is_no_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text("not json\n")
    with pytest.raises(UserError, match=r"bad\.jsonl"):
        read_utterances(tmp_path / "bad.jsonl")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ({"id": "a", "recording": {}}, r"m\.jsonl, line 2 has no path: write .*a\.wav.*Lhotse"),
        (["a", "a.wav"], r"m\.jsonl, line 2 has no id: write"),
    ],
)
def test_a_line_of_another_format_is_named(tmp_path: Path, line: object, says: str) -> None:
    (tmp_path / "m.jsonl").write_text("\n" + json.dumps(line))
    with pytest.raises(UserError, match=says):
        read_utterances(tmp_path / "m.jsonl")


@pytest.mark.parametrize(
    ("line", "says"), [({}, "has no phones"), ({"phones": [[0, 1]]}, "has phones of another form")]
)
def test_phones_of_another_format_are_named(tmp_path: Path, line: dict[str, object], says: str) -> None:
    (tmp_path / "m.jsonl").write_text(json.dumps({"id": "a", "path": "a.wav"}))
    (tmp_path / "p.jsonl").write_text(json.dumps({"id": "a", **line}))
    with pytest.raises(UserError, match=rf"p\.jsonl, line 1 {says}: write"):
        read_utterances(tmp_path / "m.jsonl", tmp_path / "p.jsonl")


def test_a_compressed_manifest_is_to_be_unpacked(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl.gz").write_bytes(gzip.compress(json.dumps({"id": "a", "path": "a.wav"}).encode()))
    with pytest.raises(UserError, match=r"m\.jsonl\.gz .*gunzip"):
        read_utterances(tmp_path / "m.jsonl.gz")


def test_phones_of_other_utterances_are_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text(json.dumps({"id": "a", "path": "a.wav"}) + "\n")
    (tmp_path / "p.jsonl").write_text(json.dumps({"id": "b", "phones": [[0, 1, "x"]]}) + "\n")
    with pytest.raises(UserError, match="phones for"):
        read_utterances(tmp_path / "m.jsonl", tmp_path / "p.jsonl")


def test_what_is_said_is_read_from_the_manifest_and_normalised(tmp_path: Path) -> None:
    lines = [{"id": "a", "path": "a.wav", "text": "It's Ten  o'clock."}, {"id": "b", "path": "b.wav", "text": None}]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert [u.text for u in read_utterances(tmp_path / "m.jsonl")] == ["it's ten o'clock", ""]


def test_what_is_tested_on_is_what_the_manifest_says_or_one_utterance_in_five() -> None:
    def heard(splits: str) -> list[Heard]:
        utterances = [Utterance(str(n), Path("x"), split="test" if c == "t" else "train") for n, c in enumerate(splits)]
        return [Heard(utterance, [], torch.empty(0)) for utterance in utterances]

    def tested(splits: str, by_manifest: bool = True) -> list[str]:
        return [h.utterance.id for h in divide(heard(splits), by_manifest)[1]]

    assert tested("..t...t") == ["2", "6"] and tested("......") == ["0", "5"]
    assert tested("..t...t", by_manifest=False) == ["0", "5"]
