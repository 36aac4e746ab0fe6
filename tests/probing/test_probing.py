"""Probes find the information that a layer holds, and no more."""

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
from streamnest.probing.encoded import EncodedUtterance, choose, divide
from streamnest.probing.layer_outputs import layer_frames
from streamnest.probing.layerwise import LayerFigures, probe_encoded
from streamnest.probing.linear_probe import Examples
from streamnest.probing.phone_labels import ProbeUtterance, frame_phones, phone_classes, read_utterances
from streamnest.probing.plots import plot_probes


def separable(count: int, noise: float, seed: int) -> Examples:
    """Three classes around three corners, in the second of two layers; the first is noise."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (count,), generator=generator)
    corners = 4 * torch.eye(3)[:, [0, 1, 2, 0, 1, 2]]
    informative = corners[y] + noise * torch.randn(count, 6, generator=generator)
    return Examples([torch.randn(count, 6, generator=generator), informative], y)


def test_a_probe_finds_the_informative_layer_and_chance_in_noise() -> None:
    train, test = separable(600, 0.5, 0), separable(300, 0.5, 1)
    noise, informative = probing.probe_layers(train, test, 3)
    assert informative > 0.98
    assert noise < 0.5


def test_a_weighted_sum_finds_the_informative_layer() -> None:
    train, test = separable(600, 0.5, 0), separable(300, 0.5, 1)
    assert probing.probe_mix(train, test, 3) > 0.98


def test_a_probe_is_deterministic() -> None:
    train, test = separable(200, 2.0, 0), separable(200, 2.0, 1)
    assert probing.probe_layers(train, test, 3) == probing.probe_layers(train, test, 3)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_scale_of_a_layer_does_not_change_the_accuracy(scale: float) -> None:
    train, test = separable(300, 1.0, 0), separable(300, 1.0, 1)
    scaled = [Examples([x * scale + 7 for x in e.x], e.y) for e in (train, test)]
    assert probing.probe_layers(*scaled, 3) == pytest.approx(probing.probe_layers(train, test, 3), abs=0.02)


def test_clusters_explain_equal_labels_and_not_independent_ones() -> None:
    labels = torch.arange(400) % 4
    assert probing.shared_information((labels + 1) % 4, labels) == pytest.approx(1.0)
    assert probing.shared_information(torch.arange(400) // 4 % 5, labels) == pytest.approx(0.0, abs=1e-9)


def test_split_labels_are_explained_fully_and_joined_ones_in_part() -> None:
    fine, coarse = torch.arange(400) % 8, torch.arange(400) % 2
    assert probing.shared_information(fine, coarse) == pytest.approx(1.0)
    assert probing.shared_information(coarse, fine) == pytest.approx(1 / 3)


def test_clusters_of_separate_groups_have_a_high_silhouette() -> None:
    tight, wide = separable(300, 0.1, 0), separable(300, 5.0, 0)
    found = [probing.cluster(e.x[1], e.y, 3) for e in (tight, wide)]
    assert found[0].silhouette > 0.8 > found[1].silhouette
    assert (found[0].phone_information or 0) > 0.99


def test_a_rotated_layer_is_similar_and_noise_is_not() -> None:
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 2000, 8, generator=generator)
    turned = 3 * x @ torch.linalg.qr(torch.randn(8, 8, generator=generator)).Q + 1
    found = probing.similarity([x, turned, noise[:, :5]])
    assert float(found[0, 1]) == pytest.approx(1.0, abs=1e-4) and found.diagonal().tolist() == pytest.approx([1.0] * 3)
    assert float(found[0, 2]) < 0.05


def test_speakers_are_probed_with_and_without_phones() -> None:
    generator = torch.Generator().manual_seed(0)
    encoded = []
    for n in range(40):
        utterance = ProbeUtterance(str(n), Path("x"), speaker="ab"[n % 2], phones=[(0, 1, "a")] if n < 20 else [])
        informative = 0.5 * torch.randn(8, 6, generator=generator) + 4 * (n % 2)
        noise = [torch.randn(8, width, generator=generator) for width in (9, 6)]
        phones = torch.arange(8) % 2 if n < 20 else torch.full((8,), -1)
        encoded.append(EncodedUtterance(utterance, [*noise, informative], phones))
    for some in (encoded, encoded[20:]):
        figures, _ = probe_encoded(some, 2, clusters=4)
        assert [f.layer for f in figures] == ["log-mel", "subsampling", "1", "weighted sum"]
        assert (figures[-1].speakers or 0) > 0.9 and (figures[-1].phones is not None) == (some is encoded)


def test_a_plot_has_a_panel_for_each_known_figure() -> None:
    models = {
        name: [LayerFigures(layer, phones=share, rank=9.0) for layer in ("log-mel", "subsampling", "1")]
        + [LayerFigures("weighted sum", phones=0.9)]
        for name, share in (("trained", 0.5), ("random weights", 0.4))
    }
    panels = plot_probes(models, "title").axes
    assert [axes.get_title(loc="left") for axes in panels] == ["Phones", "Effective rank"]
    assert [line.get_ydata().tolist() for line in panels[0].lines] == [[0.5] * 3, [0.4] * 3]


def test_each_frame_gets_the_phone_at_its_center() -> None:
    utterance = ProbeUtterance("a", Path("a.wav"), phones=[(0.0, 0.05, "pau"), (0.05, 0.10, "a"), (0.10, 0.16, "b")])
    classes = phone_classes([utterance], frozenset({"pau"}))
    assert classes == {"a": 0, "b": 1}
    # Centers at 20, 60, 100, 140 and 180 ms; the last one is after the last phone.
    assert frame_phones(utterance, 5, 40.0, classes).tolist() == [-1, 0, 1, 1, -1]


def test_layers_have_one_frame_for_each_target_span(
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


def test_shifted_outputs_are_aligned_with_their_target_span(
    run_config: Callable[..., DictConfig],
) -> None:
    model = ready(run_config("encoder=causal", "encoder.subsampling_padding=shifted"))
    audio = 0.1 * torch.randn(16000)
    with torch.no_grad():
        expected = model(audio[None], torch.tensor([16000]))[0][0]
    torch.testing.assert_close(layer_frames(model, audio)[-1], expected[1:26], rtol=0, atol=1e-5)


def test_delayed_outputs_are_aligned_with_their_target_span(run_config: Callable[..., DictConfig]) -> None:
    model = ready(run_config("encoder=lookahead80", "encoder.style=delayed"))
    audio = 0.1 * torch.randn(16000)
    assert model.encoder.context.delay > 0
    with torch.no_grad():
        expected = model(audio[None], torch.tensor([16000]))[0][0]
    torch.testing.assert_close(layer_frames(model, audio)[-1], expected[:25], rtol=0, atol=1e-5)


def test_subsampling_outputs_of_a_delayed_encoder_have_no_delay(run_config: Callable[..., DictConfig]) -> None:
    cfg = run_config("encoder=lookahead80", "encoder.style=delayed")
    audio = 0.1 * torch.randn(16000)
    later = audio.clone()
    # The end of target span 13, which covers samples 8320 to 8960.
    later[8800:] = 0.5
    for cfg.encoder.subsampling_padding in ("aligned", "shifted"):
        model = ready(cfg)
        change = (layer_frames(model, audio)[1] - layer_frames(model, later)[1]).abs().amax(1)
        assert (change > 1e-4).tolist() == [False] * 13 + [True] * 12


def test_utterances_with_and_without_phones_are_chosen() -> None:
    utterances = [ProbeUtterance(str(n), Path("x"), phones=[(0, 1, "a")] if n < 3 else []) for n in range(10)]
    chosen = choose(utterances, 2, seed=0)
    assert [bool(u.phones) for u in chosen] == [True, True, False, False]
    assert chosen == choose(utterances, 2, seed=0)


def test_a_manifest_that_is_not_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text("not json\n")
    with pytest.raises(UserError, match=r"bad\.jsonl"):
        read_utterances(tmp_path / "bad.jsonl")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ({"id": "a", "recording": {}}, r"m\.jsonl, line 2 has no field path: expected .*a\.wav.*Lhotse"),
        (["a", "a.wav"], r"m\.jsonl, line 2 has no field id: expected"),
        ({"id": ["a"], "path": "a.wav"}, r"m\.jsonl, line 2: the field id has another type: expected"),
        ({"id": "a", "path": 1}, r"m\.jsonl, line 2: the field path has another type: expected"),
    ],
)
def test_an_invalid_line_is_named(tmp_path: Path, line: object, problem: str) -> None:
    (tmp_path / "m.jsonl").write_text("\n" + json.dumps(line))
    with pytest.raises(UserError, match=problem):
        read_utterances(tmp_path / "m.jsonl")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ({}, "has no field phones"),
        ({"phones": [[0, 1]]}, "has invalid phones"),
        ({"phones": [[1, 0, "a"]]}, "has invalid phones"),
        ({"phones": [[0, float("nan"), "a"]]}, "has invalid phones"),
    ],
)
def test_invalid_phones_are_named(tmp_path: Path, line: dict[str, object], problem: str) -> None:
    (tmp_path / "m.jsonl").write_text(json.dumps({"id": "a", "path": "a.wav"}))
    (tmp_path / "p.jsonl").write_text(json.dumps({"id": "a", **line}))
    with pytest.raises(UserError, match=rf"p\.jsonl, line 1 {problem}: expected"):
        read_utterances(tmp_path / "m.jsonl", tmp_path / "p.jsonl")


def test_a_compressed_manifest_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl.gz").write_bytes(gzip.compress(json.dumps({"id": "a", "path": "a.wav"}).encode()))
    with pytest.raises(UserError, match=r"m\.jsonl\.gz .*gunzip"):
        read_utterances(tmp_path / "m.jsonl.gz")


def test_phones_of_other_utterances_are_refused(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text(json.dumps({"id": "a", "path": "a.wav"}) + "\n")
    for content in (json.dumps({"id": "b", "phones": [[0, 1, "x"]]}) + "\n", "", json.dumps({"id": "a", "phones": []})):
        (tmp_path / "p.jsonl").write_text(content)
        with pytest.raises(UserError, match="has no phones for any utterance"):
            read_utterances(tmp_path / "m.jsonl", tmp_path / "p.jsonl")


def test_transcripts_of_the_manifest_are_normalized(tmp_path: Path) -> None:
    lines = [{"id": "a", "path": "a.wav", "text": "It's Ten  o'clock."}, {"id": "b", "path": "b.wav", "text": None}]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert [u.text for u in read_utterances(tmp_path / "m.jsonl")] == ["it's ten o'clock", ""]


def test_the_manifest_or_one_fifth_is_the_test_set() -> None:
    def encoded(splits: str) -> list[EncodedUtterance]:
        utterances = [
            ProbeUtterance(str(n), Path("x"), split="test" if c == "t" else "train") for n, c in enumerate(splits)
        ]
        return [EncodedUtterance(utterance, [], torch.empty(0)) for utterance in utterances]

    def test_set(splits: str, by_manifest: bool = True) -> list[str]:
        return [one.utterance.id for one in divide(encoded(splits), by_manifest)[1]]

    assert test_set("..t...t") == ["2", "6"] and test_set("......") == ["0", "5"]
    assert test_set("..t...t", by_manifest=False) == ["0", "5"]
