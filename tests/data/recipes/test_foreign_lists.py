"""Foreign lists and manifests give correct cuts, or a cause for every dropped item."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from layouts import audio, speech
from lhotse import AudioSource, CutSet, MonoCut, MultiCut, Recording, SupervisionSegment
from lhotse.augmentation import Tempo
from lhotse.cut import Cut

from streamnest.data.audio import BadAudioError, load_mono
from streamnest.data.labels import label_of
from streamnest.data.manifest import load_cuts
from streamnest.data.recipes import parallel_measuring
from streamnest.data.recipes.measuring import measure
from streamnest.data.recipes.options import RecipeOptions
from streamnest.data.recipes.preparation import prepare
from streamnest.data.recipes.report import PreparationReport
from streamnest.errors import UserError


def run(corpus: str, source: Path, **choices: Any) -> tuple[dict[str, Cut], PreparationReport]:
    """Returns cuts by id, and the report."""
    out = source.parent / "out"
    report = prepare(corpus, RecipeOptions(source, **choices), out, dev_share=0)
    found, load = load_cuts(out / "cuts_train.jsonl.gz", max_duration=60, min_duration=1e-3)
    assert not load.bad
    return {cut.id: cut for cut in found}, report


@pytest.fixture
def stereo(tmp_path: Path) -> Recording:
    soundfile.write(tmp_path / "call.wav", np.stack([speech(3), 3 * speech(3, 5)], 1), 16000)
    return Recording.from_file(tmp_path / "call.wav")


def manifest(folder: Path, *cuts: Any) -> Path:
    path = folder / "in_cuts.jsonl"
    path.write_text("".join(json.dumps(cut.to_dict()) + "\n" for cut in cuts), encoding="utf-8")
    return path


def test_cuts_keep_their_channels(tmp_path: Path, stereo: Recording) -> None:
    cuts = [MonoCut(f"c{c}", 0.5 * c, 2.0, c, recording=stereo) for c in (0, 1)]
    both = MultiCut("both", 0.0, 3.0, [0, 1], recording=stereo)
    found, _ = run("lhotse", manifest(tmp_path, *cuts, both))
    for cut in (*cuts, both):
        np.testing.assert_allclose(load_mono(found[cut.id]), load_mono(cut), atol=1e-6)


@pytest.mark.parametrize("numbers", [[0], [1], [0, 1], [1, 2]])
def test_files_with_more_channels_than_declared_give_the_declared_ones(tmp_path: Path, numbers: list[int]) -> None:
    voices = np.stack([speech(2, seed) for seed in range(3)], 1)
    soundfile.write(tmp_path / "call.wav", voices, 16000, subtype="FLOAT")
    recording = Recording("r", [AudioSource("file", numbers, str(tmp_path / "call.wav"))], 16000, 32000, 2.0)
    whole = recording.to_cut()
    whole.id = "whole"
    cuts = [whole, *(MonoCut(f"c{n}", 0.5, 1.0, n, recording=recording) for n in numbers)]
    found, report = run("lhotse", manifest(tmp_path, *cuts, recording))
    assert not report.dropped
    for name in ("whole", "r"):
        np.testing.assert_allclose(load_mono(found[name]), voices[:, numbers].mean(1), atol=1e-6)
    for n in numbers:
        np.testing.assert_allclose(load_mono(found[f"c{n}"]), voices[8000:24000, n], atol=1e-6)


def test_a_channel_that_is_not_in_the_file_is_dropped(tmp_path: Path, stereo: Recording) -> None:
    cut = MonoCut("c", 0.0, 3.0, 1, recording=stereo)
    path = manifest(tmp_path, cut, MonoCut("d", 0.0, 3.0, 0, recording=stereo))
    soundfile.write(tmp_path / "call.wav", speech(3), 16000)
    found, report = run("lhotse", path)
    assert set(found) == {"d"} and report.causes == {"no such channel": 1}


@pytest.mark.parametrize(
    "change",
    [
        lambda cut: cut.perturb_speed(1.1),
        lambda cut: cut.perturb_speed(0.9).perturb_volume(0.2),
        lambda cut: cut.perturb_speed(1.1).resample(8000),
        lambda cut: cut.narrowband("mulaw"),
    ],
)
def test_cuts_keep_their_lazy_transforms(tmp_path: Path, stereo: Recording, change: Any) -> None:
    cut = change(MonoCut("c", 0.7, 1.5, 1, recording=stereo))
    found, report = run("lhotse", manifest(tmp_path, cut))
    expected = load_mono(cut.resample(16000))
    np.testing.assert_allclose(load_mono(found[cut.id]), expected, atol=1e-4)
    assert not report.dropped


def test_resampling_alone_is_left_to_training(tmp_path: Path, stereo: Recording) -> None:
    found, _ = run("lhotse", manifest(tmp_path, MonoCut("c", 0.7, 1.5, 1, recording=stereo).resample(8000)))
    assert found["c"].sampling_rate == 16000 and not found["c"].recording.transforms


def test_transforms_that_cannot_be_kept_are_named(tmp_path: Path, stereo: Recording) -> None:
    cut = MonoCut("c", 0.0, 1.5, 0, recording=stereo)
    room = cut.reverb_rir(Recording.from_file(audio(tmp_path / "room.wav", 1.0)))
    slow = json.loads(json.dumps(cut.perturb_speed(1.1).to_dict()).replace("1.1", "1e-9"))
    path = manifest(tmp_path, cut, room)
    path.write_text(path.read_text() + json.dumps(slow) + "\n", encoding="utf-8")
    found, report = run("lhotse", path)
    assert set(found) == {"c"} and report.causes == {"transform that cannot be kept": 2}


def test_transforms_that_cannot_be_run_here_are_named(
    tmp_path: Path, stereo: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tempo, "__call__", lambda *_: 1 / 0)
    cut = MonoCut("c", 0.0, 1.5, 0, recording=stereo)
    found, report = run("lhotse", manifest(tmp_path, cut, cut.perturb_tempo(1.25)))
    assert set(found) == {"c"} and report.causes == {"transform that cannot be kept": 1}


def test_cuts_keep_all_supervisions_in_their_places(tmp_path: Path, stereo: Recording) -> None:
    said = [SupervisionSegment(f"s{i}", "call", 0.9 * i, 0.8, text=f"part {i}", speaker=f"p{i}") for i in range(3)]
    cut = MonoCut("c", 0.0, 3.0, 0, recording=stereo, supervisions=said, custom={"speaker_in_train": True})
    found, report = run("lhotse", manifest(tmp_path, cut))
    assert label_of(found["c"]) == label_of(cut) and report.parts["train"].speakers == {"p0", "p1", "p2"}
    assert [(s.start, s.duration, s.speaker) for s in found["c"].supervisions] == [
        (s.start, s.duration, s.speaker) for s in said
    ]


def test_features_and_further_recordings_are_named(tmp_path: Path, stereo: Recording) -> None:
    cut = MonoCut("c", 0.0, 3.0, 0, recording=stereo, custom={"target": stereo, "snr": 3})
    found, report = run("lhotse", manifest(tmp_path, cut))
    assert report.causes == {"not audio of the cut": 1} and "target" in report.dropped[0].detail
    assert found["c"].custom == {"snr": 3}


@pytest.fixture
def kaldi(tmp_path: Path) -> Path:
    folder = tmp_path / "kaldi"
    for i in range(2):
        audio(tmp_path / f"{i}.wav", 2.0, i)
    stereo = np.stack([speech(2), 3 * speech(2, 5)], 1)
    soundfile.write(tmp_path / "2.wav", stereo, 16000)
    write(folder / "wav.scp", "".join(f"u{i} {tmp_path}/{i}.wav\n" for i in range(3)))
    return folder


def write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def test_every_dropped_line_of_kaldi_lists_is_reported(tmp_path: Path, kaldi: Path) -> None:
    write(kaldi / "segments", "x u0 0 1\ny nosuch 0 1\nz u1 a 2\nx u1 0 2\nw u1 1 2 0 5\nv u0 nan 1\n")
    write(kaldi / "text", "x first\nx second\nq of nobody\n")
    write(kaldi / "utt2spk", "q of nobody\n")
    found, report = run("kaldi", kaldi)
    assert set(found) == {"x"} and label_of(found["x"]).text == "first"
    expected = {"recording is not listed": 1, "broken line": 2, "id occurs twice": 2, "unknown utterance": 2}
    assert report.causes == {**expected, "outside its file": 1}


def test_kaldi_segments_may_name_channels_and_open_ends(kaldi: Path) -> None:
    write(kaldi / "segments", "x u2 0.5 -1 1\ny u2 0 1 0\nz u2 0 1 2\n")
    found, report = run("kaldi", kaldi)
    assert found["x"].channel == 1 and found["x"].duration == 1.5 and report.causes == {"no such channel": 1}
    np.testing.assert_allclose(load_mono(found["y"]), speech(2)[:16000], atol=1e-4)


@pytest.mark.parametrize("blank", ["\u2028", "\u0085", "\u00a0", "\u3000", "\u001c"])
def test_only_kaldi_white_space_separates_fields(kaldi: Path, blank: str) -> None:
    write(kaldi / "text", f"\ufeffu0 one{blank}two\r\nu1\tthree\n")
    found, report = run("kaldi", kaldi)
    assert label_of(found["u0"]).text == f"one{blank}two" and label_of(found["u1"]).text == "three"
    assert not report.dropped


def test_text_in_another_encoding_is_dropped_and_reported(kaldi: Path) -> None:
    write(kaldi / "text", "u0 größer\nu1 plain\n".encode("latin-1"))
    found, report = run("kaldi", kaldi)
    assert label_of(found["u0"]).text is None and label_of(found["u1"]).text == "plain"
    assert report.causes == {"not UTF-8": 1}


def test_commands_run_only_if_the_user_allows_them(tmp_path: Path, kaldi: Path) -> None:
    write(kaldi / "wav.scp", f"u0 cat {tmp_path}/2.wav |\nu1 false |\n")
    write(kaldi / "segments", "x u0 0.5 1.5 1\ny u1 0 1\n")
    report = prepare("kaldi", RecipeOptions(kaldi, allow_commands=True), tmp_path / "out", dev_share=0)
    (cut,) = CutSet.from_file(tmp_path / "out/cuts_train.jsonl.gz")
    assert cut.recording.sources[0].type == "command" and report.causes == {"unreadable": 1}
    np.testing.assert_allclose(cut.load_audio()[0], soundfile.read(tmp_path / "2.wav")[0][8000:24000, 1], atol=1e-6)


def test_a_file_named_like_a_command_is_not_run(tmp_path: Path) -> None:
    audio(tmp_path / "in/a.wav")
    (tmp_path / "in" / "touch ran|.wav").write_bytes(b"")
    _, report = run("folder", tmp_path / "in")
    assert report.causes == {"unreadable": 1} and not Path("ran").exists()


ODD = [
    '{"audio_filepath": "a.wav"',
    "[]",
    "17",
    "[" * 100_000,
    '{"audio_filepath": 5}',
    '{"audio_filepath": "\\u0000"}',
]
ODD += [json.dumps({"audio_filepath": "a.wav", "duration": 10**400}), '{"audio_filepath": "a.wav", "text": [1]}']
ODD += [json.dumps({"audio_filepath": "x" * 5000}), '{"audio_filepath": "a.wav", "id": "\\ud800"}']


def test_a_bad_line_of_a_list_loses_only_that_line(tmp_path: Path) -> None:
    audio(tmp_path / "a.wav")
    good = json.dumps({"audio_filepath": "a.wav", "text": "größer\u2028x", "speaker": 17}, ensure_ascii=False)
    write(tmp_path / "list.jsonl", "\ufeff" + "\n".join([good, *ODD]))
    found, report = run("manifest", tmp_path / "list.jsonl")
    (label,) = map(label_of, found.values())
    assert (label.text, label.speaker) == ("größer\u2028x", "17") and len(report.dropped) == len(ODD)


@pytest.mark.parametrize("spoil", [lambda data: data[:-30], lambda data: data[:40] + b"\xff" * 40 + data[80:]])
@pytest.mark.parametrize(
    ("corpus", "name"), [("voxpopuli", "transcribed_data/en/asr_en.tsv.gz"), ("lhotse", "c.jsonl.gz")]
)
def test_a_damaged_archive_is_an_error_with_its_name(tmp_path: Path, corpus: str, name: str, spoil: Any) -> None:
    path = tmp_path / "in" / name
    path.parent.mkdir(parents=True)
    (tmp_path / "in/raw_audios/original").mkdir(parents=True)
    rows = "".join(f"{random.Random(i).random()}|\n" for i in range(200))
    path.write_bytes(spoil(gzip.compress(rows.encode())))
    with pytest.raises(UserError, match=path.name):
        prepare(corpus, RecipeOptions(tmp_path / "in" if corpus == "voxpopuli" else path), tmp_path / "out")


FORMATS = {"wav": {}, "w64": {}, "aiff": {}, "au": {}, "ogg": {}, "flac": {}, "caf": {}, "mp3": {}}
OTHERS = {"opus": ("OGG", "OPUS"), "rf64": ("RF64", "PCM_16"), "adpcm": ("WAV", "IMA_ADPCM"), "float": ("WAV", "FLOAT")}
OTHERS |= {"nist": ("NIST", "PCM_16"), "svx": ("SVX", "PCM_16")}


@pytest.mark.parametrize("kind", [*FORMATS, *OTHERS])
def test_a_truncated_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    how = dict(zip(("format", "subtype"), OTHERS[kind])) if kind in OTHERS else {}
    soundfile.write(path, speech(4), 16000, **how)
    assert measure(str(path)).cause is None
    data = path.read_bytes()
    for share in (0.99, 0.6):
        path.write_bytes(data[: int(share * len(data))])
        assert measure(str(path)).cause in ("not as long as declared", "unreadable")


def test_an_unknown_size_in_the_header_is_accepted(tmp_path: Path) -> None:
    path = audio(tmp_path / "a.wav", 2.0)
    data = path.read_bytes()
    at = data.index(b"data") + 4
    for size in (0xFFFFFFFF, 0x7FFFFFFF - 36):
        path.write_bytes(data[:at] + size.to_bytes(4, "little") + data[at + 4 :])
        assert measure(str(path)).cause is None


@pytest.mark.parametrize("rate", [999, 800_000])
def test_rates_that_training_refuses_are_dropped(tmp_path: Path, rate: int) -> None:
    soundfile.write(tmp_path / "a.wav", speech(1), rate)
    assert measure(str(tmp_path / "a.wav")).cause == "unreadable"


def test_samples_whose_power_overflows_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    for scale, cause in ((4e4, None), (1e19, "not finite")):
        soundfile.write(path, speech(1) * scale, 16000, subtype="FLOAT")
        assert measure(str(path)).cause == cause
    with pytest.raises(BadAudioError, match="not finite"):
        load_mono(Recording.from_file(path).to_cut())


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "gzip"])
def test_lists_are_read_in_the_encodings_of_editors(tmp_path: Path, encoding: str) -> None:
    audio(tmp_path / "a.wav", 1.0)
    line = json.dumps({"audio_filepath": "a.wav", "text": "größer", "duration": 1.0}, ensure_ascii=False) + "\r\n"
    packed = gzip.compress(line.encode()) if encoding == "gzip" else line.encode(encoding)
    (tmp_path / "list.json").write_bytes(packed)
    found, report = run("manifest", tmp_path / "list.json")
    assert not report.dropped and [cut.supervisions[0].text for cut in found.values()] == ["größer"]


def test_the_journal_keeps_names_with_line_separators(tmp_path: Path) -> None:
    audio(tmp_path / "in" / "a\u2028b\u0085.wav")
    run("folder", tmp_path / "in")
    assert run("folder", tmp_path / "in")[1].known == 1


def test_the_journal_does_not_follow_a_symlink(tmp_path: Path) -> None:
    audio(tmp_path / "in/a.wav")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/journal.jsonl").symlink_to(tmp_path / "victim")
    with pytest.raises(UserError, match=r"journal\.jsonl"):
        run("folder", tmp_path / "in")
    assert not (tmp_path / "victim").exists()


def test_an_output_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    audio(tmp_path / "in/a.wav")
    (tmp_path / "out/cuts_train.jsonl.gz").mkdir(parents=True)
    with pytest.raises(UserError, match="cannot be written"):
        run("folder", tmp_path / "in")


# Values that no reader expects.
VALUES = [
    None,
    True,
    -1,
    0,
    1e308,
    float("nan"),
    "",
    "\ud800",
    "a\u2028b",
    "\0",
    "../a.wav",
    [],
    {},
    [1, 2],
    10**400,
    "-1",
]


def mutated(row: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    row = json.loads(json.dumps(row))
    for _ in range(rng.randint(1, 3)):
        node, key = rng.choice(list(places(row)))
        if rng.random() < 0.2:
            del node[key]
        else:
            node[key] = json.loads(json.dumps(rng.choice(VALUES)))
    return row


def places(node: Any) -> Iterator[tuple[Any, Any]]:
    pairs = list(node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ())
    for key, value in pairs:
        yield node, key
        yield from places(value)


def damaged(data: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.randint(0, 4)):
        at = rng.randint(0, len(data))
        piece = rng.choice([b"\n", b"\xe2\x80\xa8", b"\xff", b"\0", b" ", b"|", b"nan", b"-1", b"[" * 100, b""])
        data = data[:at] + piece + data[at + rng.choice([0, 0, 1, 20]) :]
    return data


def test_all_content_of_lists_is_used_or_reported(
    tmp_path: Path, stereo: Recording, kaldi: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checks that the manifests load and their cuts decode."""
    known = {str(path): measure(str(path)) for path in tmp_path.glob("*.wav")}
    monkeypatch.setattr(parallel_measuring, "measure", lambda path, limits: known.get(path) or measure(path, limits))
    said = [SupervisionSegment("s", "call", 0, 0.7, text="a", speaker="p")]
    cut = MonoCut("c", 0.5, 1.5, 1, recording=stereo, supervisions=said, custom={"k": 1})
    rows = {
        "lhotse": [each.to_dict() for each in (cut, cut.perturb_speed(1.1), cut.perturb_volume(0.5), stereo)],
        "manifest": [{"audio_filepath": "call.wav", "duration": 2.5, "offset": 0.1, "text": "x", "id": "i"}],
    }
    lists = {"segments": b"x u0 0 1\ny u2 1 -1 1\n", "text": b"x w\xc3\xb6rter\n", "utt2spk": b"x s\ny t\n"}
    lists["wav.scp"] = (kaldi / "wav.scp").read_bytes() + b"u9 touch ran |\n"
    used, rng = 0, random.Random(0)
    for _ in range(40):
        for corpus, originals in rows.items():
            lines = [originals[0], *(mutated(rng.choice(originals), rng) for _ in range(3))]
            data = "".join(json.dumps(row) + "\n" for row in lines).encode()
            (tmp_path / "list.jsonl").write_bytes(damaged(data, rng) if rng.random() < 0.3 else data)
            used += loads(corpus, tmp_path / "list.jsonl")
        for name, data in lists.items():
            (kaldi / name).write_bytes(damaged(data, rng) if rng.random() < 0.5 else data)
        used += loads("kaldi", kaldi)
    assert used > 60 and not Path("ran").exists()


def loads(corpus: str, source: Path) -> bool:
    try:
        found, _ = run(corpus, source)
    except UserError:
        return False
    return all(len(load_mono(cut)) for cut in found.values())
