"""Measures memory and time of the index of shards, and the speed of reading: `python benchmarks/shards.py`.

Index and manifest are synthetic, without audio. Reading is measured on the built-in corpus, as files and as shards.
"""

from __future__ import annotations

import streamnest.console.starting  # noqa: F401

# isort: split

import argparse
from collections.abc import Callable, Sequence

from streamnest.console.arguments import ArgumentParser


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line."""
    parser = ArgumentParser("python benchmarks/shards.py", __doc__)
    parser.add_argument(
        "--cuts", type=int, nargs="+", default=[100_000, 1_000_000, 4_000_000], help="sizes of the index, in cuts"
    )
    parser.add_argument("--manifest-cuts", type=int, default=100_000, help="cuts of the synthetic manifest")
    return parser.parse(argv)


if __name__ == "__main__":
    parse()  # a help page or an error needs none of the imports below

# isort: split

import json
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
from rich.table import Table

from streamnest.console.terminal import terminal
from streamnest.data.audio import load_mono
from streamnest.data.config import DataConfig
from streamnest.data.datamodule import SpeechDataModule
from streamnest.data.manifest import load_cuts
from streamnest.data.sampling.mixing import Mixture
from streamnest.data.sampling.samplers import BucketBatchSampler
from streamnest.data.shards.index import FILE, FORMATS, ShardIndex, Texts, tar_name
from streamnest.data.shards.plan import PLAN, Plan, make_plan
from streamnest.data.shards.reading import load_shards
from streamnest.data.shards.writing import write_shards

ROOT = Path(__file__).resolve().parents[1]
Row = tuple[str, str]


def private_mb() -> float:
    """Returns the private memory of this process in MB, without pages of mapped files, which the system can reclaim."""
    status = Path("/proc/self/status")
    if status.exists():
        return (
            int(next(s for s in status.read_text(encoding="utf-8").splitlines() if s.startswith("RssAnon")).split()[1])
            / 1024
        )
    # Without /proc: the peak of all resident memory, in kB except on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


class Peak(Thread):
    """Records the peak of private memory, sampled a hundred times per second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self._ended = private_mb(), Event()
        self.start()

    def run(self) -> None:
        """Samples until `end` is called."""
        while not self._ended.wait(0.01):
            self.peak = max(self.peak, private_mb())

    def end(self) -> float:
        """Stops sampling and returns the peak in MB."""
        self._ended.set()
        return self.peak


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Returns a result and the seconds it took."""
    begin = time.perf_counter()
    return work(), time.perf_counter() - begin


def make_index(count: int, folder: Path) -> None:
    """Writes an index of `count` cuts, 1000 per shard, with ids of 30 characters and 1000 speakers."""
    rng = np.random.default_rng(0)
    size = rng.integers(20_000, 200_000, count)
    names = np.tile(np.frombuffer(b"corpus-speaker-000000000-segme", np.uint8), (count, 1))
    names[:, 15:24] += (np.arange(count)[:, None] // 10 ** np.arange(8, -1, -1) % 10).astype(np.uint8)
    index = ShardIndex(
        ids=Texts(names.reshape(-1), np.arange(1, count + 1) * names.shape[1]),
        duration=np.round(rng.gamma(4, 2, count).clip(1.0, 30.0), 3),
        speaker=rng.integers(0, 1000, count).astype(np.int32),
        shard=(np.arange(count) // 1000).astype(np.int32),
        offset=np.cumsum(size) % (10**8),
        size=size,
        speakers=Texts.pack(f"speaker-{i}" for i in range(1000)),
    )
    index.save(folder / FILE, compressed=False)
    (folder / PLAN).write_text(json.dumps(asdict(Plan("flac", 1000, 16000, count, ""))), encoding="utf-8")
    for shard in range(-(-count // 1000)):
        (folder / tar_name(shard)).touch()


def measure_manifest(count: int, folder: Path) -> list[Row]:
    """Measures a manifest of similar cuts: Lhotse objects, whose memory workers copy on access."""
    source = {"type": "file", "channels": [0], "source": ""}
    speech = {"start": 0.0, "duration": 8.0, "channel": 0, "text": "some words of a sentence that was spoken"}
    recording = {"sampling_rate": 16000, "num_samples": 128000, "duration": 8.0, "channel_ids": [0]}
    with (folder / "cuts.jsonl").open("w", encoding="utf-8") as file:
        for i in range(count):
            name = f"corpus-speaker-{i:09d}-segment"[:30]
            spoken = {"id": name, "recording_id": name, "speaker": f"speaker-{i % 1000}", **speech}
            held = {"id": name, "sources": [{**source, "source": f"audio/{name}.flac"}], **recording}
            cut = {"id": name, "start": 0.0, "duration": 8.0, "channel": 0, "supervisions": [spoken]}
            file.write(json.dumps({**cut, "recording": held, "type": "MonoCut"}) + "\n")
    before = private_mb()
    (cuts, _), load = timed(lambda: load_cuts(folder / "cuts.jsonl", check_files=False))
    grown = private_mb() - before
    cost = f"{grown:.0f} MB, {1e6 * grown / len(cuts):,.0f} MB per million"
    return [(f"memory of a manifest of {len(cuts):,} cuts", cost), ("loading it", f"{load:.0f} s")]


def measure_index(count: int, folder: Path) -> list[Row]:
    """Measures a loader of an index, from its start to batches from all parts of an epoch."""
    make_index(count, folder)
    disk = (folder / FILE).stat().st_size / 1e6
    # A new process, which has no freed memory that it could use again.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return [("index on disk", f"{disk:.0f} MB"), *pool.submit(measure_loader, str(folder)).result()]


def measure_loader(folder: str) -> list[Row]:
    """Measures the loader in this process; memory is the growth since the call."""
    before, peak = private_mb(), Peak()
    limits: dict[str, Any] = {"batch_duration": 240.0, "max_batch_size": 64, "num_buckets": 30, "num_batches": 10**6}
    data = SpeechDataModule(DataConfig(train_manifest=folder, max_duration=30.0, **limits))
    _, load = timed(data.setup)
    loaded = private_mb() - before
    sampler, build = timed(lambda: data.train_dataloader().sampler)
    cuts = data._cuts["train"]
    walk(sampler, cuts)
    walked = private_mb() - before
    resume = resume_seconds(sampler)
    count = len(cuts)
    del sampler
    parts = [count - count // 10 - count // 100, count // 10, count // 100]
    mixture = Mixture(cuts.lazy_durations, parts, [1, 1, 1])
    mixed, mix = timed(lambda: BucketBatchSampler(cuts.lazy_durations, **limits, mixture=mixture))
    walk(mixed, cuts)
    with_mixture = private_mb() - before
    resume_mixed, (_, item) = resume_seconds(mixed), timed(lambda: [cuts[i] for i in range(0, count, count // 1000)])
    return [
        ("loading it", f"{load:.2f} s"),
        ("sampler", f"{build:.2f} s"),
        ("resume at step 100,000", f"{resume:.2f} s"),
        ("sampler of a mixture of three sources", f"{mix:.2f} s"),
        ("its resume at step 100,000", f"{resume_mixed:.2f} s"),
        ("reading one cut from the index", f"{1000 * item:.0f} µs"),
        ("private memory of the index", f"{loaded:.1f} MB"),
        ("with the sampler, after an epoch", f"{walked:.1f} MB"),
        ("with that of the mixture, after an epoch", f"{with_mixture:.1f} MB"),
        ("peak", f"{peak.end() - before:.1f} MB"),
    ]


def walk(sampler: BucketBatchSampler, cuts: Sequence[Any]) -> None:
    """Reads the cuts of a thousand batches, evenly spaced over an epoch."""
    count = len(sampler.buckets)
    for number in range(0, count, -(-count // 1000)):
        for index in sampler.batch(number):
            cuts[index]


def resume_seconds(sampler: BucketBatchSampler) -> float:
    """Measures the seconds to the first batch after a restart."""
    sampler.load_state_dict({"step": 100_000, "batch": 100_000, "group": 1, "epoch": len(sampler.buckets)})
    return timed(lambda: next(iter(sampler)))[1]


def read(folder: Path) -> list[Row]:
    """Measures the seconds of audio per second that one process reads in random order, after a first pass."""
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
        rows.append((f"reading, {name}", f"{sum(lengths) / 16000 / seconds:,.0f} s of audio per second"))
    return rows


def main() -> None:
    """Prints the tables of index, manifest and reading."""
    args = parse()
    with tempfile.TemporaryDirectory() as folder:
        columns = []
        for count in args.cuts:
            (Path(folder) / f"{count}").mkdir()
            columns.append(measure_index(count, Path(folder) / f"{count}"))
        table = Table("cuts of the index", *(f"{count:,}" for count in args.cuts))
        for rows in zip(*columns):
            table.add_row(rows[0][0], *(value for _, value in rows))
        terminal(120).print(table)
        table = Table(show_header=False)
        for row in [*measure_manifest(args.manifest_cuts, Path(folder)), *read(Path(folder))]:
            table.add_row(*row)
    terminal(120).print(table)


if __name__ == "__main__":
    main()
