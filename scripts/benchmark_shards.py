"""Weighs the index of shards and a manifest, and times reading: `python scripts/benchmark_shards.py --cuts 1000000`.

Index and manifest are synthetic, with no audio behind them. Reading is measured on the built-in corpus, as files and as
shards.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from streamnest.data.audio import load_mono
from streamnest.data.manifest import load_cuts
from streamnest.data.mixing import Mixture
from streamnest.data.sampling import BucketBatchSampler
from streamnest.data.shards.index import FILE, FORMATS, ShardIndex, Texts
from streamnest.data.shards.plan import PLAN, Plan, make_plan
from streamnest.data.shards.reading import ShardedCuts, load_shards
from streamnest.data.shards.writing import write_shards

ROOT = Path(__file__).resolve().parents[1]
Row = tuple[str, str]


def memory_mb() -> float:
    """Memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """A result and the seconds it took."""
    begin = time.perf_counter()
    return work(), time.perf_counter() - begin


def make_index(count: int, folder: Path) -> None:
    """An index of so many cuts, a thousand a shard, with ids of 30 characters and a thousand speakers."""
    rng = np.random.default_rng(0)
    size = rng.integers(20_000, 200_000, count)
    index = ShardIndex(
        ids=Texts.pack(f"corpus-speaker-{i:09d}-segment"[:30] for i in range(count)),
        duration=np.round(rng.gamma(4, 2, count).clip(1.0, 30.0), 3),
        speaker=rng.integers(0, 1000, count).astype(np.int32),
        shard=(np.arange(count) // 1000).astype(np.int32),
        offset=np.cumsum(size) % (10**8),
        size=size,
        speakers=Texts.pack(f"speaker-{i}" for i in range(1000)),
    )
    index.save(folder / FILE)
    (folder / PLAN).write_text(json.dumps(asdict(Plan("flac", 1000, 16000, count, ""))))


def weigh_manifest(count: int, folder: Path) -> list[Row]:
    """What a manifest of the same cuts costs: Lhotse objects, which workers copy as they touch them."""
    source = {"type": "file", "channels": [0], "source": ""}
    said = {"start": 0.0, "duration": 8.0, "channel": 0, "text": "some words of a sentence that was spoken"}
    recording = {"sampling_rate": 16000, "num_samples": 128000, "duration": 8.0, "channel_ids": [0]}
    with (folder / "cuts.jsonl").open("w") as file:
        for i in range(count):
            name = f"corpus-speaker-{i:09d}-segment"[:30]
            spoken = {"id": name, "recording_id": name, "speaker": f"speaker-{i % 1000}", **said}
            held = {"id": name, "sources": [{**source, "source": f"audio/{name}.flac"}], **recording}
            cut = {"id": name, "start": 0.0, "duration": 8.0, "channel": 0, "supervisions": [spoken]}
            file.write(json.dumps({**cut, "recording": held, "type": "MonoCut"}) + "\n")
    before = memory_mb()
    (cuts, _), load = timed(lambda: load_cuts(folder / "cuts.jsonl", check_files=False))
    grown = memory_mb() - before
    cost = f"{grown:.0f} MB, {1e6 * grown / len(cuts):,.0f} MB a million"
    return [(f"memory of a manifest of {len(cuts):,} cuts", cost), ("loading it", f"{load:.0f} s")]


def weigh(count: int, folder: Path) -> list[Row]:
    """What an index costs."""
    make_index(count, folder)
    before = memory_mb()
    (cuts, _), load = timed(lambda: load_shards(str(folder), check_files=False, max_duration=30.0))
    rows = [
        (f"index of {count:,} cuts on disk", f"{(folder / FILE).stat().st_size / 1e6:.1f} MB"),
        ("loading it", f"{load:.2f} s"),
        ("memory of it", f"{memory_mb() - before:.0f} MB, arrays {arrays_mb(cuts):.0f} MB"),
    ]
    sampler, build = timed(lambda: BucketBatchSampler(cuts.durations, 240.0, 64, 30, 10**6))
    sampler.load_state_dict({"step": 100_000, "batch": 100_000, "group": 1, "epoch": len(sampler.buckets)})
    _, resume = timed(lambda: next(iter(sampler)))
    parts = [count - count // 10 - count // 100, count // 10, count // 100]
    mixture, mix = timed(lambda: Mixture(cuts.durations, parts, [1, 1, 1]))
    mixed = BucketBatchSampler(cuts.durations, 240.0, 64, 30, 10**6, mixture=mixture)
    mixed.load_state_dict({"step": 100_000, "batch": 100_000, "group": 1, "epoch": len(mixed.buckets)})
    _, resume_mixed = timed(lambda: next(iter(mixed)))
    _, item = timed(lambda: [cuts[i] for i in range(0, count, max(1, count // 1000))])
    return [
        *rows,
        ("sampler", f"{build:.2f} s"),
        ("resume at step 100,000", f"{resume:.2f} s"),
        ("mixture of three sources", f"{mix:.2f} s"),
        ("its resume at step 100,000", f"{resume_mixed:.2f} s"),
        ("one cut out of the index", f"{1000 * item:.0f} µs"),
        ("memory after all of this", f"{memory_mb() - before:.0f} MB"),
    ]


def arrays_mb(cuts: ShardedCuts) -> float:
    """Bytes of all arrays."""
    table = cuts.table
    arrays: list[Any] = [*cuts.windows, table.duration, table.speaker, table.shard, table.offset, table.size]
    arrays += [table.ids.data, table.ids.ends]
    return sum({id(array): array.nbytes for array in arrays}.values()) / 1e6


def read(folder: Path) -> list[Row]:
    """Seconds of audio a second of one process, in random order, after a first pass."""
    manifest = ROOT / "data/sample16k/cuts_train.jsonl"
    files, _ = load_cuts(manifest, max_duration=3600)
    kinds: dict[str, Sequence[Any]] = {"files, ogg vorbis": files}
    for name in FORMATS:
        write_shards(files, str(folder / name), make_plan(files, name, 100))
        kinds[f"shards, {name}"] = load_shards(str(folder / name), max_duration=3600)[0]
    rows = []
    for name, cuts in kinds.items():
        order = np.random.default_rng(0).permutation(len(cuts)).tolist()
        work = lambda cuts=cuts, order=order: [len(load_mono(cuts[i])) for i in order]
        work()
        lengths, seconds = timed(work)
        rows.append((f"reading, {name}", f"{sum(lengths) / 16000 / seconds:,.0f} s of audio a second"))
    return rows


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=1_000_000, help="of the synthetic index")
    parser.add_argument("--manifest_cuts", type=int, default=100_000, help="of the synthetic manifest")
    args = parser.parse_args()
    table = Table(show_header=False)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "index").mkdir()
        weighed = [*weigh_manifest(args.manifest_cuts, Path(folder)), *weigh(args.cuts, Path(folder) / "index")]
        for row in [*weighed, *read(Path(folder))]:
            table.add_row(*row)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
