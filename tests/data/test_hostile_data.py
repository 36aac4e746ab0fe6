"""Damaged or malicious manifests and shards give correct audio, a counted skip, or a user error."""

from __future__ import annotations

import gzip
import io
import json
import random
from contextlib import suppress

import numpy as np
import pytest
from corpus import data_module, make_cut, tone, write_manifest
from lhotse import SupervisionSegment
from mutations import flipped, mutated

from streamnest.data.dataset import SpeechDataset
from streamnest.data.manifest import load_cuts
from streamnest.data.sampling.samplers import BatchIndex
from streamnest.data.shards.index import FILE, cuts_name, tar_name
from streamnest.data.shards.indexing import index_folder
from streamnest.data.shards.plan import PLAN, make_plan
from streamnest.data.shards.reading import load_shards
from streamnest.data.shards.writing import write_shards
from streamnest.errors import UserError


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A folder of cuts of every kind, and their manifest lines."""
    folder = tmp_path_factory.mktemp("corpus")
    plain, slow = (make_cut(folder, name, tone(1.2, seed)) for seed, name in enumerate("ab"))
    room = make_cut(folder, "room", tone(0.1, 9))
    for cut in (plain, slow):
        cut.supervisions = [SupervisionSegment("x", "x", 0.0, 1.0, text="hello", speaker="s", language="en")]
    kinds = [plain, slow.perturb_speed(1.1), plain.reverb_rir(room.recording), plain.mix(slow, snr=3), plain.pad(2.0)]
    return folder, [json.loads(json.dumps(cut.to_dict())) for cut in kinds]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """The files of two small shards, by name."""
    folder = tmp_path_factory.mktemp("shards")
    cuts, _ = load_cuts(write_manifest(folder / "m.jsonl", [make_cut(folder, f"c{i}", tone(0.5, i)) for i in range(6)]))
    write_shards(cuts, str(folder / "out"), make_plan(cuts, "flac", 3))
    return {path.name: path.read_bytes() for path in (folder / "out").iterdir()}


def put(folder, files):
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return str(folder)


@pytest.mark.parametrize("seed", range(100))
def test_mutated_manifests_load_or_are_refused(corpus, seed):
    folder, rows = corpus
    rng = random.Random(seed)
    lines = [*rows, *(mutated(rng, rng.choice(rows)) for _ in range(4))]
    data = "\n".join(json.dumps(line) for line in lines).encode()
    path = folder / f"{seed}.jsonl"
    path.write_bytes(flipped(rng, data) if seed % 3 == 0 else data)
    try:
        module = data_module(str(path), num_batches=2, max_bad_share=1, max_skipped_share=1, min_duration=0.1)
        module.setup()
    except UserError:
        return
    batches = list(module.train_dataloader())
    assert all(np.isfinite(batch.clean).all() for batch in batches) and list(module.texts()) is not None


VALUES = (0, -1, 2**40, 2**62, -(2**63), float("nan"), float("inf"), 1e300, 255)
TYPES = ("f4", "i8", "u8", "U5", "?", "c8", "M8[s]")


def mutated_arrays(rng, arrays):
    """Returns a copy of the arrays of an index; one has other values, another type or shape, or is missing."""
    arrays = {name: array.copy() for name, array in arrays.items()}
    name = rng.choice([name for name, array in arrays.items() if array.size])
    array, kind = arrays.pop(name), rng.randrange(5)
    if kind == 0:
        array[rng.randrange(len(array))] = np.nan_to_num(np.array(rng.choice(VALUES))).astype(array.dtype)
    if kind < 4:
        arrays[name] = (array, array[:-1], np.tile(array, 2), array[:, None])[kind]
    elif rng.randrange(2):
        arrays[name] = array.astype(rng.choice(TYPES))
    return arrays


@pytest.mark.parametrize("seed", range(150))
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_mutated_shards_load_or_are_refused(shards, tmp_path, monkeypatch, seed):
    monkeypatch.setenv("STREAMNEST_CACHE", str(tmp_path / "cache"))
    rng, files = random.Random(seed), dict(shards)
    if seed % 2:
        packed, arrays = io.BytesIO(), mutated_arrays(rng, np.load(io.BytesIO(files[FILE])))
        (np.savez if seed % 3 else np.savez_compressed)(packed, **arrays)
        files[FILE] = packed.getvalue()
    else:
        name = rng.choice([FILE, PLAN, tar_name(0)])
        files[name] = flipped(rng, files[name])
    try:
        cuts, _ = load_shards(put(tmp_path / "x", files))
    except UserError:
        return
    assert SpeechDataset(cuts)[BatchIndex(0, list(range(min(10, len(cuts)))))]


@pytest.mark.parametrize("seed", range(40))
def test_damaged_shards_of_other_origin_are_indexed_or_refused(shards, tmp_path, seed):
    rng = random.Random(seed)
    files = {name: data for name, data in shards.items() if name.startswith(("cuts.00", "recording"))}
    name = rng.choice([cuts_name(0), tar_name(0)])
    with suppress(UserError):
        assert len(index_folder(tmp_path / put(tmp_path / "x", {**files, name: flipped(rng, files[name])}))) == 6


@pytest.mark.parametrize(
    ("array", "change"),
    [
        ("duration", lambda a: a * np.nan),
        ("duration", lambda a: a + 1e9),
        ("speaker", lambda a: a + 9),
        ("shard", lambda a: a[:-1]),
        ("size", lambda a: a * 2**40),
        ("offset", lambda a: a.astype(float)),
        ("ids_ends", lambda a: a[::-1]),
        ("ids_data", lambda a: a | 0x80),
    ],
)
def test_an_index_with_wrong_arrays_names_the_array(shards, tmp_path, array, change):
    arrays = dict(np.load(io.BytesIO(shards[FILE])))
    packed = io.BytesIO()
    np.savez(packed, **{**arrays, array: change(arrays[array])})
    with pytest.raises(UserError, match=rf"{FILE}: cannot be read: .*({array.split('_')[0]}|decode)"):
        load_shards(put(tmp_path / "x", {**shards, FILE: packed.getvalue()}))


@pytest.mark.parametrize(
    "change",
    [
        {"duration": 1e9},
        {"duration": float("nan")},
        {"start": -1},
        {"channel": 7},
        {"id": "\ud800"},
        {"id": ["a"]},
        {"supervisions": [{"id": "a", "recording_id": "a", "start": 0, "duration": 1, "text": 42}]},
        {"supervisions": [{"id": "a", "recording_id": "a", "start": "0", "duration": 1}]},
    ],
    ids=str,
)
def test_an_invalid_line_costs_only_that_line(corpus, change):
    folder, rows = corpus
    (folder / "invalid.jsonl").write_text("\n".join(map(json.dumps, [rows[0]] * 12 + [{**rows[0], **change}])))
    cuts, report = load_cuts(folder / "invalid.jsonl")
    assert len(cuts) == 12 and report.counts == {"broken line": 1}


def test_numbers_as_names_become_text(corpus):
    folder, rows = corpus
    line = json.loads(json.dumps({**rows[0], "id": 17}))
    line["supervisions"][0]["speaker"] = 4
    line["recording"]["sampling_rate"] = 16000.0
    (folder / "numbers.jsonl").write_text(json.dumps(line))
    (cut,), report = load_cuts(folder / "numbers.jsonl")
    assert cut.id == "17" and report.speakers == {"4"} and type(cut.sampling_rate) is int


def test_encodings_and_compression_are_recognized(corpus):
    folder, rows = corpus
    text = "\n".join(map(json.dumps, rows[:2] * 6))
    packed = gzip.compress(text.encode())
    for name, data in (("bom", b"\xef\xbb\xbf" + text.encode()), ("16", text.encode("utf-16")), ("gzip", packed)):
        (folder / f"{name}.jsonl").write_bytes(data)
        assert len(load_cuts(folder / f"{name}.jsonl")[0]) == 12
    deep = "[" * 10**5 + "\n" + '{"a":' * 10**5 + "\n" + text
    latin = text.replace("hello", "hällo", 1).encode("latin-1")
    for data, bad in ((deep.encode(), 2), (latin, 1)):
        (folder / "bad.jsonl").write_bytes(data)
        assert load_cuts(folder / "bad.jsonl", max_bad_share=0.2)[1].counts["broken line"] == bad


def test_damaged_gzip_is_a_user_error(corpus):
    folder, rows = corpus
    packed = gzip.compress("\n".join(map(json.dumps, rows * 5)).encode())
    for at in range(10, len(packed), max(1, len(packed) // 20)):
        (folder / "m.jsonl.gz").write_bytes(packed[:at] + bytes([packed[at] ^ 0xFF]) + packed[at + 1 :])
        with pytest.raises(UserError, match=r"m\.jsonl\.gz"):
            load_cuts(folder / "m.jsonl.gz", check_files=False)


def test_extremely_long_lines_are_refused(corpus, monkeypatch):
    monkeypatch.setattr("streamnest.data.lines._LONGEST", 1000)
    (corpus[0] / "long.jsonl").write_text("x" * 5000)
    with pytest.raises(UserError, match=r"long\.jsonl:1: line of more than 1000"):
        load_cuts(corpus[0] / "long.jsonl")


@pytest.mark.parametrize("part", ["train_manifest", "val_manifest"])
def test_completely_unreadable_data_is_refused(tmp_path, part):
    good = write_manifest(tmp_path / "good.jsonl", [make_cut(tmp_path, "a", tone(1.0))])
    bad = write_manifest(tmp_path / "bad.jsonl", [make_cut(tmp_path, f"b{i}", tone(1.0)) for i in range(3)])
    for path in tmp_path.glob("b*.wav"):
        path.write_bytes(b"RIFF, but nothing else")
    data = data_module(**{"train_manifest": str(good), part: str(bad)})
    with pytest.raises(
        UserError, match=f"none of .* of the {part[:-9]} set can be read; first error: .*b0.wav: unreadable"
    ):
        data.setup()
