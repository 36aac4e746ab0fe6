from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import layouts
import pytest
from layouts import LAYOUTS, audio, text

from streamnest.data.audio import load_mono
from streamnest.data.manifest import load_cuts
from streamnest.data.recipes.options import RecipeOptions
from streamnest.data.recipes.preparation import prepare
from streamnest.data.recipes.registry import RECIPES
from streamnest.data.recipes.segmentation import SegmentLimits
from streamnest.errors import UserError


def run(corpus, source, out, level=0, **choices):
    options = RecipeOptions(source, speaker_level=level, **choices)
    return prepare(corpus, options, out, limits=SegmentLimits(2, 20))


def cuts(out, part):
    return load_cuts(out / f"cuts_{part}.jsonl.gz", max_duration=60)[0]


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_published_layout_gives_cuts_that_decode(tmp_path, name):
    corpus, build, expected = LAYOUTS[name]
    build(tmp_path / "in")
    report = run(corpus, tmp_path / "in", tmp_path / "out", level=corpus == "folder")
    assert {part: totals.cuts for part, totals in report.parts.items()} == expected
    for part, count in expected.items():
        loaded = cuts(tmp_path / "out", part)
        assert len(loaded) == count
        assert all(len(load_mono(cut)) == cut.num_samples for cut in loaded)


@pytest.mark.parametrize(
    ("name", "part", "speaker", "words", "language"),
    [
        ("librispeech", "train", "10", "SOME WORDS", "English"),
        ("aishell", "dev", "S0724", "而对楼市", "Chinese"),
        ("mls", "test", "21", "kilka słów", "polish"),
        ("libriheavy", "train", "100", "Some words.", "English"),
        ("voxpopuli", "dev", "s3", "some", "en"),
        ("voxpopuli in sessions", "test", "102", "some words 0", "en"),
        ("commonvoice", "test", "test" * 9, 'Some "words.', "cy"),
        ("gigaspeech", "train", None, "SOME WORDS <PERIOD>", "EN"),
        ("manifest", "train", "7", "some words", None),
        ("kaldi", "dev", "ann", "some words", None),
    ],
)
def test_speaker_text_and_language_are_kept(tmp_path, name, part, speaker, words, language):
    corpus, build, _ = LAYOUTS[name]
    build(tmp_path / "in")
    run(corpus, tmp_path / "in", tmp_path / "out")
    said = cuts(tmp_path / "out", part)[0].supervisions[0]
    assert (said.speaker, said.text, said.language) == (speaker, words, language)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_damaged_file_loses_only_its_own_cuts(tmp_path, name):
    corpus, build, expected = LAYOUTS[name]
    build(tmp_path / "in")
    files = sorted(path for path in (tmp_path / "in").rglob("*") if path.suffix in layouts_suffixes())
    # Corpora whose parts share one file have no other file to keep.
    if len(files) > 1:
        files[-1].write_bytes(b"not audio")
        report = run(corpus, tmp_path / "in", tmp_path / "out")
        assert 0 < sum(part.cuts for part in report.parts.values()) < sum(expected.values())
        lines = [json.loads(line) for line in (tmp_path / "out/dropped.jsonl").read_text().splitlines()]
        broken = [line for line in lines if line["cause"] == "unreadable"]
        assert [line["name"] for line in broken] == [str(files[-1])]


def layouts_suffixes():
    return {".wav", ".flac", ".ogg", ".opus", ".mp3"}


def test_the_data_page_explains_every_corpus_and_cause():
    root = Path(__file__).resolve().parents[3]
    page = (root / "docs/DATA.md").read_text()
    source = "".join(path.read_text() for path in (root / "src/streamnest/data/recipes").rglob("*.py"))
    causes = set(re.findall(r'Dropped\([^"\n]*(?:f"[^"]*"[^"\n]*)?, "([a-z][^"]+)"', source))
    assert len(causes) >= 11
    for words in [
        *causes,
        *(f"`{corpus}`" for corpus in RECIPES),
        "not as long as declared",
        "unreadable",
        "not finite",
    ]:
        assert words in page, words


@pytest.mark.parametrize("corpus", sorted(set(RECIPES) - {"folder", "manifest", "lhotse"}))
def test_a_wrong_layout_is_refused_with_the_expected_one(tmp_path, corpus):
    audio(tmp_path / "in/a.wav")
    with pytest.raises(UserError, match=r"(missing|contains no)[\s\S]*SOURCE/"):
        run(corpus, tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("corpus", RECIPES)
def test_a_missing_source_is_refused(tmp_path, corpus):
    with pytest.raises(UserError, match="no such folder"):
        run(corpus, tmp_path / "nowhere", tmp_path / "out")


def test_libri_light_is_segmented_and_mostly_covered(tmp_path):
    layouts.librilight(tmp_path / "in")
    report = run("librilight", tmp_path / "in", tmp_path / "out")
    assert set(report.parts) == {"train", "dev"}
    for part, totals in report.parts.items():
        loaded = cuts(tmp_path / "out", part)
        assert len(totals.speakers) == 1 and 4 <= totals.cuts == len(loaded)
        assert all(2 <= cut.duration <= 20 for cut in loaded) and 50 < totals.seconds <= 70
        assert all(len(load_mono(cut)) == cut.num_samples for cut in loaded)
        assert len({cut.id for cut in loaded}) == len(loaded)


def test_every_speech_corpus_has_a_data_config(composed):
    general = {"folder", "manifest", "kaldi", "lhotse", "musan", "rirs"}
    for corpus in set(RECIPES) - general:
        data = composed(f"data={corpus}", "paths.data_dir=/d", "name=t", "preset=t", "paths.output_dir=o").data
        assert data.train_manifest == f"/d/{corpus}/cuts_train.jsonl.gz"
        assert data.val_manifest == f"/d/{corpus}/cuts_dev.jsonl.gz"


def test_a_missing_subset_of_libri_light_is_refused(tmp_path):
    layouts.librilight(tmp_path / "in")
    report = run("librilight", tmp_path / "in", tmp_path / "out", subset="small")
    assert report.files == 1
    with pytest.raises(UserError, match="contains no large"):
        run("librilight", tmp_path / "in", tmp_path / "out", subset="large")


def test_a_file_that_is_not_listed_is_reported(tmp_path):
    layouts.librispeech(tmp_path / "in")
    extra = audio(tmp_path / "in/dev-clean/99/1/99-1-0000.flac")
    report = run("librispeech", tmp_path / "in", tmp_path / "out")
    assert [(item.name, item.cause) for item in report.dropped] == [(str(extra), "not listed in the corpus")]


@pytest.mark.parametrize(("corpus", "folder"), [("mls", "mls_polish/dev"), ("librispeech", "dev-clean")])
def test_a_listed_file_that_is_missing_is_reported(tmp_path, corpus, folder):
    LAYOUTS[corpus][1](tmp_path / "in")
    path = next((tmp_path / "in" / folder).rglob("*.flac"))
    path.unlink()
    report = run(corpus, tmp_path / "in", tmp_path / "out")
    assert [(item.name, item.cause) for item in report.dropped] == [(str(path), "missing")]


def test_lists_that_lhotse_cannot_read_give_a_hint(tmp_path):
    layouts.musan(tmp_path / "in")
    (tmp_path / "in/music/here/music-here-0000.wav").unlink()
    with pytest.raises(UserError, match="prepare_musan cannot read the lists"):
        run("musan", tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("form", ["unlabelled_data/en", "raw_audios/original"])
def test_voxpopuli_sessions_with_dev_utterances_stay_out_of_train(tmp_path, form):
    layouts.voxpopuli(tmp_path / "in")
    dev = next((tmp_path / "in/transcribed_data/en/2009").glob("*dev.ogg"))
    path = audio(tmp_path / "in" / form / "2009" / f"{dev.stem.removesuffix('-en_dev')}_original.ogg")
    report = run("voxpopuli", tmp_path / "in", tmp_path / "out")
    held_out = [item.name for item in report.dropped if item.cause == "session with dev or test utterances"]
    assert held_out == ([str(path)] if form.startswith("unlabelled_data") else [])
    if form.startswith("raw"):
        shutil.rmtree(tmp_path / "in/unlabelled_data")
        report = run("voxpopuli", tmp_path / "in", tmp_path / "out")
        assert [item.cause for item in report.dropped] == ["session with dev or test utterances"]


def test_voxpopuli_utterances_may_be_spans_of_sessions(tmp_path):
    layouts.voxpopuli_sessions(tmp_path / "in")
    audio(tmp_path / "in/raw_audios/original/2009/20090109-0900-PLENARY-9-en_original.ogg", 5)
    report = run("voxpopuli", tmp_path / "in", tmp_path / "out", language="en")
    first, second = cuts(tmp_path / "out", "train")
    assert (first.start, first.duration, second.start) == (0.25, 2.0, 3.5)
    assert first.recording_id == second.recording_id and report.causes == {"broken line": 1}
    whole = run("voxpopuli", tmp_path / "in", tmp_path / "both")
    assert whole.parts["train"].cuts == 3, "the session without utterances, and no speech twice"


def test_common_voice_adds_validated_clips_of_new_speakers_only(tmp_path):
    layouts.commonvoice(tmp_path / "in")
    clips = tmp_path / "in/cy/clips"
    rows = [("newcomer", "new"), ("dev" * 9, "more_of_dev"), ("train" * 9, "common_voice_cy_train")]
    for _, name in rows:
        audio(clips / f"{name}.mp3")
    text(
        tmp_path / "in/cy/validated.tsv",
        "client_id\tpath\tsentence",
        *(f"{speaker}\t{name}.mp3\twords" for speaker, name in rows),
    )
    run("commonvoice", tmp_path / "in", tmp_path / "out", subset="validated")
    assert {cut.id for cut in cuts(tmp_path / "out", "train")} == {"common_voice_cy_train", "new"}


def test_lists_with_bad_lines_lose_those_lines(tmp_path):
    layouts.manifest(tmp_path / "in")
    lines = ["{", '{"file": "a.wav"}', '{"audio_filepath": "audio/a.wav", "offset": 5.0, "duration": 9.0}']
    with (tmp_path / "in/train.json").open("a") as file:
        file.write("\n".join(lines))
    report = run("manifest", tmp_path / "in", tmp_path / "out")
    assert report.causes == {"broken line": 2, "outside its file": 1} and report.parts["train"].cuts == 2
    assert report.dropped[0].name.endswith("train.json:3")


def test_commands_in_a_kaldi_folder_are_not_run(tmp_path):
    layouts.kaldi(tmp_path / "in")
    text(tmp_path / "in/dev/wav.scp", f"rec-dev touch {tmp_path / 'ran'} |")
    report = run("kaldi", tmp_path / "in", tmp_path / "out")
    assert report.causes == {"a command, not a file": 3} and not (tmp_path / "ran").exists()


def test_preparing_a_lhotse_manifest_again_changes_nothing(tmp_path):
    layouts.kaldi(tmp_path / "in")
    run("kaldi", tmp_path / "in", tmp_path / "one")
    report = run("lhotse", tmp_path / "one", tmp_path / "two")
    assert set(report.parts) == {"train", "dev"}
    for part in report.parts:
        before, after = cuts(tmp_path / "one", part), cuts(tmp_path / "two", part)
        assert [(c.id, c.start, c.duration, c.supervisions[0].text) for c in before] == [
            (c.id, c.start, c.duration, c.supervisions[0].text) for c in after
        ]


def test_a_folder_may_have_transcripts_beside_its_audio(tmp_path):
    audio(tmp_path / "in/a.wav", 40.0)
    audio(tmp_path / "in/b.wav", 40.0)
    audio(tmp_path / "in/c.wav", 40.0)
    (tmp_path / "in/a.txt").write_text("so  it\ngoes\n")
    (tmp_path / "in/c.txt").write_text("\n")
    run("folder", tmp_path / "in", tmp_path / "out", part="train")
    found = {cut.id: cut for cut in cuts(tmp_path / "out", "train")}
    assert found["a"].supervisions[0].text == "so it goes" and found["a"].duration == 40.0
    assert not {"b", "c"} & found.keys() and len(found) > 3  # recordings without text are segmented


def test_noise_is_never_segmented_or_split(tmp_path):
    audio(tmp_path / "in/a.wav", 25)
    report = run("folder", tmp_path / "in", tmp_path / "out", part="noise")
    assert {part: totals.cuts for part, totals in report.parts.items()} == {"noise": 1}
