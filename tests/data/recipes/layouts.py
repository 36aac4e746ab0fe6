"""Small corpora in published layouts, made of the sample corpus."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile

SPEECH = Path(__file__).resolve().parents[3] / "data/sample16k/speech"
RATE = 16000


@lru_cache
def speech(seconds: float, first: int = 0) -> np.ndarray:
    """Returns `(N,)` float32 samples of consecutive sample utterances from `first` on, with pauses of 0.4 s."""
    pieces, names = [], sorted(SPEECH.glob("*.ogg"))[first:]
    while sum(map(len, pieces)) < seconds * RATE:
        pieces += [soundfile.read(names.pop(0), dtype="float32")[0], np.zeros(int(0.4 * RATE), np.float32)]
    return np.concatenate(pieces)[: round(seconds * RATE)]


def audio(path: Path, seconds: float = 1.5, first: int = 0) -> Path:
    """Writes speech in the format of the file name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    opus = {"format": "OGG", "subtype": "OPUS"} if path.suffix == ".opus" else {}
    soundfile.write(path, speech(seconds, first), RATE, **opus)
    return path


def text(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8") as file:
        file.write("".join(line + "\n" for line in lines))
    return path


def librispeech(root: Path, train: str = "train-clean-100") -> None:
    for number, part in enumerate((train, "dev-clean", "dev-other", "test-clean")):
        folder = root / part / f"1{number}" / "198"
        names = [f"1{number}-198-{i:04d}" for i in range(2)]
        for i, name in enumerate(names):
            audio(folder / f"{name}.flac", 1.5, i)
        text(folder / f"1{number}-198.trans.txt", *(f"{name} SOME WORDS" for name in names))


def mini_librispeech(root: Path) -> None:
    librispeech(root, "train-clean-5")


def aishell(root: Path) -> None:
    lines = []
    for part, speaker in (("train", "S0002"), ("dev", "S0724"), ("test", "S0764")):
        name = f"BAC009{speaker}W0122"
        audio(root / f"data_aishell/wav/{part}/{speaker}/{name}.wav")
        lines.append(f"{name} 而 对 楼市")
    text(root / "data_aishell/transcript/aishell_transcript_v0.8.txt", *lines)


def mls(root: Path, suffix: str = "flac") -> None:
    folder = root / ("mls_polish_opus" if suffix == "opus" else "mls_polish")
    rows = []
    for number, part in enumerate(("train", "dev", "test")):
        name = f"{number}1_2_000001"
        audio(folder / part / "audio" / f"{number}1" / "2" / f"{name}.{suffix}")
        text(folder / part / "transcripts.txt", f"{name}\tkilka słów")
        rows.append(f"{number}1 | F | {part} | 0.1 | title")
    text(folder / "metainfo.txt", "SPEAKER | GENDER | PARTITION | MINUTES | TITLE", *rows)


def mls_opus(root: Path) -> None:
    mls(root, "opus")


def librilight(root: Path) -> None:
    for speaker, subset in (("100", "small"), ("200", "medium")):
        path = audio(root / subset / speaker / "book_librivox_64kb_mp3" / "01_book_64kb.flac", 70, int(speaker))
        text(path.with_suffix(".json"), json.dumps({"speaker": speaker, "voice_activity": [[0.1, 9.0]], "snr": 9.1}))


def libriheavy(root: Path) -> None:
    for speaker, part in (("100", "small"), ("101", "dev"), ("102", "test_clean")):
        name = f"small/{speaker}/book/01"
        audio(root / "download/librilight" / f"{name}.flac", 8)
        cuts = []
        for i, start in enumerate((0.0, 4.25)):
            said = {"id": f"{name}_{i}", "recording_id": name, "start": 0, "duration": 3.5, "channel": 0}
            said |= {"language": "English", "speaker": speaker, "custom": {"texts": ["Some words.", "SOME WORDS"]}}
            source = {"type": "file", "channels": [0], "source": f"download/librilight/{name}.flac"}
            recording = {"id": name, "sources": [source], "sampling_rate": RATE, "num_samples": 128000}
            recording |= {"duration": 8.0, "channel_ids": [0]}
            cut = {"id": f"{name}_{i}", "start": start, "duration": 3.5, "channel": 0, "supervisions": [said]}
            cuts.append(json.dumps(cut | {"recording": recording, "type": "MonoCut"}))
        text(root / f"libriheavy_cuts_{part}.jsonl.gz", *cuts)


def voxpopuli(root: Path) -> None:
    audio(root / "unlabelled_data/en/2020/20200101-0900-PLENARY-1.ogg", 5)
    header = "id\traw_text\tnormalized_text\tspeaker_id\tsplit\tgender"
    for part in ("train", "dev", "test"):
        name = f"20090{len(part)}01-0900-PLENARY-en_{part}"
        audio(root / f"transcribed_data/en/2009/{name}.ogg")
        text(root / f"transcribed_data/en/asr_{part}.tsv", header, f"{name}\tSome.\tsome\ts{len(part)}\t{part}\tfemale")


def voxpopuli_sessions(root: Path) -> None:
    """Writes the `asr` subset as downloaded: a list of spans, and sessions in their original languages."""
    rows = [
        "session_id|id_|start_time|end_time|original_text|normed_text|speaker_id|gender|split|is_gold_transcript|vad"
    ]
    for number, part in enumerate(("train", "dev", "test")):
        session = f"2009010{number + 1}-0900-PLENARY-{number + 1}-en"
        audio(root / f"raw_audios/original/2009/{session}_original.ogg", 6, number)
        for i, start in enumerate((0.25, 3.5)):
            said = f'Some "words {i}.|some words {i}'
            rows.append(
                f"{session}|20090101-09:00:0{i}_{i}|{start}|{start + 2.0}|{said}|10{number}|female|{part}|True|[]"
            )
    rows.append("20090101-0900-PLENARY-1-en|x|5.0|4.0|a|a|1|male|train|True|[]")
    text(root / "transcribed_data/en/asr_en.tsv.gz", *rows)


def commonvoice(root: Path) -> None:
    header = "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccents\tvariant\tlocale\tsegment"
    for part in ("train", "dev", "test"):
        audio(root / f"cy/clips/common_voice_cy_{part}.mp3")
        row = f'{part * 9}\tcommon_voice_cy_{part}.mp3\tSome "words.\t2\t0\t\t\t\t\tcy\t'
        text(root / f"cy/{part}.tsv", header, row)


def gigaspeech(root: Path) -> None:
    audios = []
    for number, subset in enumerate(("{XL}", "{DEV}", "{TEST}")):
        name = f"POD000000000{number}"
        audio(root / f"audio/podcast/P0000/{name}.opus", 4)
        segments = [
            {
                "sid": f"{name}_S{i}",
                "speaker": "N/A",
                "begin_time": 2.0 * i,
                "end_time": 2.0 * i + 1.5,
                "subsets": [subset],
            }
            for i in range(2)
        ]
        segments[0]["text_tn"], segments[1]["text_tn"] = "SOME WORDS <PERIOD>", "<MUSIC>"
        known = {"aid": name, "path": f"audio/podcast/P0000/{name}.opus", "subsets": [subset], "sample_rate": RATE}
        audios.append(known | {"duration": 4.0, "channels": 1, "language": "EN", "segments": segments})
    text(root / "GigaSpeech.json", json.dumps({"dataset": "GigaSpeech", "audios": audios}))


def musan(root: Path) -> None:
    for part in ("music", "noise", "speech"):
        audio(root / part / "here" / f"{part}-here-0000.wav")
    text(root / "music/here/ANNOTATIONS", "music-here-0000 classical N somebody")


def rirs(root: Path) -> None:
    audio(root / "pointsource_noises/noise-free-sound-0000.wav")
    audio(root / "real_rirs_isotropic_noises/RVB2014_type1_noise_largeroom1_1.wav")
    audio(root / "real_rirs_isotropic_noises/RVB2014_type1_rir_largeroom1_far_angla.wav", 0.5)
    for size in ("small", "medium", "large"):
        audio(root / f"simulated_rirs/{size}room/Room001/Room001-00001.wav", 0.5)


def folder(root: Path) -> None:
    for speaker in ("ann", "bob", "cyd"):
        for number, suffix in enumerate(("wav", "flac", "ogg")):
            audio(root / speaker / f"{number}.{suffix}", 1.5 + number, number)


def manifest(root: Path) -> None:
    audio(root / "audio/a.wav", 6)
    row = {"audio_filepath": "audio/a.wav", "duration": 2.0, "text": "some words"}
    text(root / "train.json", *(json.dumps(row | {"offset": offset, "speaker": 7}) for offset in (0, 2.5)))
    text(root / "dev.json", json.dumps({"audio_filepath": "audio/a.wav"}))


def kaldi(root: Path) -> None:
    for part in ("train", "dev"):
        path = audio(root / "audio" / f"{part}.wav", 6)
        text(root / part / "wav.scp", f"rec-{part} {path}")
        text(root / part / "segments", f"ann-{part}-0 rec-{part} 0.0 2.0", f"ann-{part}-1 rec-{part} 2.5 5.5")
        text(root / part / "utt2spk", f"ann-{part}-0 ann", f"ann-{part}-1 ann")
        text(root / part / "text", f"ann-{part}-0 some words", f"ann-{part}-1 more words")


LAYOUTS: dict[str, tuple[str, Callable[[Path], None], dict[str, int]]] = {
    # By corpus: the recipe, the function that writes it, and the number of cuts by part (None: any).
    "librispeech": ("librispeech", librispeech, {"train": 2, "dev": 4, "test_clean": 2}),
    "mini_librispeech": ("mini_librispeech", mini_librispeech, {"train": 2, "dev": 4, "test_clean": 2}),
    "aishell": ("aishell", aishell, {"train": 1, "dev": 1, "test": 1}),
    "mls": ("mls", mls, {"train": 1, "dev": 1, "test": 1}),
    "mls in opus": ("mls", mls_opus, {"train": 1, "dev": 1, "test": 1}),
    "libriheavy": ("libriheavy", libriheavy, {"train": 2, "dev": 2, "test_clean": 2}),
    "voxpopuli": ("voxpopuli", voxpopuli, {"train": 2, "dev": 1, "test": 1}),
    "voxpopuli in sessions": ("voxpopuli", voxpopuli_sessions, {"train": 2, "dev": 2, "test": 2}),
    "commonvoice": ("commonvoice", commonvoice, {"train": 1, "dev": 1, "test": 1}),
    "gigaspeech": ("gigaspeech", gigaspeech, {"train": 1, "dev": 1, "test": 1}),
    "musan": ("musan", musan, {"music": 1, "noise": 1, "speech": 1}),
    "rirs": ("rirs", rirs, {"point_noise": 1, "iso_noise": 1, "real_rir": 1, "sim_rir": 3}),
    "folder": ("folder", folder, {"train": 6, "dev": 3}),
    "manifest": ("manifest", manifest, {"train": 2, "dev": 1}),
    "kaldi": ("kaldi", kaldi, {"train": 2, "dev": 2}),
}
