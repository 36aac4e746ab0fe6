"""Failing object stores: requests are repeated, then cuts are skipped and counted by cause."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import torch
from corpus import data_module, make_cut, tone, write_manifest
from processes import eventually
from servers import free_port, serving

from streamnest.data.audio import load_mono
from streamnest.data.dataset import SpeechDataset
from streamnest.data.manifest import load_cuts
from streamnest.data.sampling.samplers import BatchIndex
from streamnest.data.shards import remote as stores
from streamnest.data.shards.index import FILE, tar_name
from streamnest.data.shards.plan import make_plan
from streamnest.data.shards.reading import load_shards
from streamnest.data.shards.store import open_store
from streamnest.data.shards.writing import write_shards
from streamnest.errors import UserError

pytest.importorskip("aiohttp")


class Ranges(BaseHTTPRequestHandler):
    """Serves ranges of files, as object stores do; `ail` is the failure, from request number `from_` of a file on."""

    folder: Path
    ails: dict[str, str]
    asked: list[str]
    patience = 10**9

    def do_GET(self):
        name = self.path.lstrip("/")
        type(self).asked.append(name)
        ail = self.ails.get(name) if self.asked.count(name) <= self.patience else None
        if ail == "reset":
            self.close_connection = True
            return
        if ail and ail.isdigit():
            self.send_error(int(ail))
            return
        part = None if ail == "whole" else re.match(r"bytes=(\d+)-(\d+)", self.headers["Range"] or "")
        if not (self.folder / name).is_file():
            self.send_error(404)
            return
        data = (self.folder / name).read_bytes()
        data = data[int(part[1]) : int(part[2]) + 1] if part else data
        self.send_response(206 if part else 200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[: len(data) // 2] if ail == "half" else data)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Writes twelve utterances in three shards of four."""
    folder = tmp_path_factory.mktemp("store")
    cuts = [make_cut(folder, f"c{i:02d}", tone(1.0, i)) for i in range(12)]
    manifest = write_manifest(folder / "cuts.jsonl", cuts)
    loaded, _ = load_cuts(manifest)
    write_shards(loaded, str(folder / "out"), make_plan(loaded, "flac", 4))
    return folder / "out"


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """Replaces waiting by a list of the waiting times."""
    waited = []
    monkeypatch.setattr(stores.time, "sleep", waited.append)
    return waited


@contextmanager
def web(folder, ails=None, patience=10**9):
    class Handler(Ranges):
        pass

    Handler.folder, Handler.ails, Handler.asked, Handler.patience = folder, ails or {}, [], patience
    with serving(Handler) as server:
        yield f"http://127.0.0.1:{server.server_port}", Handler, server


def everything(cuts):
    return SpeechDataset(cuts)[BatchIndex(0, list(range(len(cuts))))]


@pytest.mark.parametrize(
    "ail, cause, tries",
    [
        ("503", "server error", 3),
        ("403", "server error", 1),
        ("404", "missing", 1),
        ("half", "cut short", 3),
        ("reset", "unreachable", 3),
        ("whole", "server error", 1),
    ],
)
def test_an_unavailable_archive_is_skipped_and_counted(shards, caplog, ail, cause, tries):
    with web(shards) as (url, handler, _):
        cuts, _ = load_shards(url)
        handler.ails = {tar_name(1): ail}
        handler.asked.clear()
        batch = everything(cuts)
        assert batch.skipped == {cause: 4} and len(batch.ids) == 8
        # While a store fails permanently, each further cut is requested once.
        asked = handler.asked.count(tar_name(1))
        assert tries <= asked and (asked == tries + 3 or ail == "reset")
        assert caplog.text.count("is skipped") == 1 and tar_name(1) in caplog.text
        handler.ails = {}
        assert len(everything(cuts).ids) == 12, "what is back is read again"


@pytest.mark.parametrize("ail", ["500", "half", "429"])
def test_failures_that_pass_within_two_retries_lose_nothing(shards, waits, ail):
    with web(shards, {tar_name(0): ail}, patience=2) as (url, handler, _):
        cuts, _ = load_shards(url, check_files=False)
        assert not everything(cuts).skipped
        assert waits == list(stores._WAITS) and handler.asked.count(tar_name(0)) == 4 + 2


def test_a_lost_server_ends_training_only_above_the_limit(shards, waits):
    with web(shards) as (url, _, server):
        data = data_module(url, batch_duration=4.0, num_buckets=1, num_batches=8, max_skipped_share=0.5)
        data.setup()
        batches = []
        for number, batch in enumerate(data.train_dataloader()):
            if number == 2:
                server.shutdown()
                server.server_close()
            batches.append(data.on_before_batch_transfer(batch, 0))
    assert len(batches) == 8 and batches[-1].ids == ["silence"]
    assert set(data.skipped) == {"unreachable"} and len(waits) == len(stores._WAITS)


def test_a_server_that_times_out_is_skipped(shards, monkeypatch, caplog):
    with web(shards) as (url, handler, _):
        cuts, _ = load_shards(url)
        monkeypatch.setattr(stores, "_TIMEOUT", 0.2)
        monkeypatch.setattr(handler, "do_GET", lambda _: Event().wait(3))
        assert SpeechDataset(cuts)[BatchIndex(0, [0])].skipped == {"unreachable": 1}
        assert "Timeout" in caplog.text


def test_a_server_down_at_start_is_a_user_error(shards):
    with web(shards, {"cuts.plan.json": "500"}) as (url, _, _), pytest.raises(UserError, match="status 500"):
        load_shards(url)
    with pytest.raises(UserError, match=r"cuts.plan.json: cannot be read: unreachable"):
        load_shards(url)


def test_a_server_without_ranges_is_refused_at_start(shards):
    with web(shards, {FILE: "whole"}) as (url, _, _), pytest.raises(UserError, match="does not support ranges"):
        load_shards(url)


@pytest.fixture
def s3(monkeypatch):
    """Starts a bucket in a separate process, because its threads would not survive the fork of workers."""
    pytest.importorskip("s3fs", reason="needs pip install s3fs 'moto[server]', which are no part of the environment")
    pytest.importorskip("moto")
    port = free_port()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert eventually(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
    open_store("s3://bucket")._connect()[0].mkdir("bucket")
    yield server
    server.kill()


@pytest.mark.slow
def test_shards_are_written_to_and_read_from_s3(shards, s3):
    cuts, _ = load_cuts(shards.parent / "cuts.jsonl")
    write_shards(cuts, "s3://bucket/train", make_plan(cuts, "flac", 4))
    (remote, _), (local, _) = load_shards("s3://bucket/train"), load_shards(str(shards))
    assert all(np.array_equal(load_mono(a), load_mono(b)) for a, b in zip(remote, local, strict=True))
    options = {"batch_duration": 4.0, "num_buckets": 1, "num_batches": 3}
    workers = data_module("s3://bucket/train", num_workers=2, **options)
    alone = data_module(str(shards), **options)
    for data in (workers, alone):
        data.setup()
    pairs = zip(workers.train_dataloader(), alone.train_dataloader(), strict=True)
    assert all(a.ids == b.ids and torch.equal(a.clean, b.clean) for a, b in pairs)
    open_store("s3://bucket/train")._connect()[0].rm(f"bucket/train/{tar_name(1)}")
    assert everything(remote).skipped == {"missing": 4}
    s3.kill()
    s3.wait(60)
    assert SpeechDataset(remote)[BatchIndex(0, [0])].skipped == {"unreachable": 1}
