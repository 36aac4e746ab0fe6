"""`streamnest prepare --download`, against a server on this machine with tiny corpora in the published layouts."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import layouts
import processes
import pytest
from inprocess import main
from runs import UNCHECKED, environment
from servers import free_port, serving

from streamnest.data.recipes import fetching
from streamnest.data.recipes.arguments import USES
from streamnest.data.recipes.download import download, require_downloader
from streamnest.data.recipes.options import RecipeOptions
from streamnest.data.recipes.preparation import prepare
from streamnest.errors import UserError


class Archives(BaseHTTPRequestHandler):
    """Serves files and ranges of them; `ail` is a failure: a status, "whole" (no ranges) or bytes before the end."""

    protocol_version = "HTTP/1.1"
    folder: Path
    ail: Any = None
    requests: list[tuple[str, str]]

    def do_GET(self) -> None:
        path, first = self.folder / self.path.lstrip("/"), self.headers["Range"] or ""
        type(self).requests.append((self.path, first))
        if self.ail in (404, 429, 503) or not path.is_file():
            self.send_error(self.ail or 404)
            return
        whole = path.read_bytes()
        start = 0 if self.ail == "whole" or not first else int(first.removeprefix("bytes=").rstrip("-"))
        if start >= len(whole):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(whole)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(whole) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(whole) - 1}/{len(whole)}")
        self.end_headers()
        self.wfile.write(whole[start : start + self.ail] if type(self.ail) is int else whole[start:])
        self.close_connection = self.close_connection or type(self.ail) is int

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Serves mini LibriSpeech, two parts of LibriSpeech, and room impulse responses."""
    monkeypatch.setattr(fetching, "PAUSE", 0.0)
    folder, corpus = tmp_path / "server", tmp_path / "made/LibriSpeech"
    layouts.mini_librispeech(corpus)
    layouts.librispeech(corpus)
    (corpus / "dev-clean").rename(corpus / "dev-clean-2")
    (corpus / "dev-other").rename(corpus / "dev-clean")
    for number, parts in (("31", ("train-clean-5", "dev-clean-2")), ("12", ("train-clean-100", "dev-clean"))):
        (folder / number).mkdir(parents=True)
        for part in parts:
            with tarfile.open(folder / number / f"{part}.tar.gz", "w:gz") as tar:
                tar.add(corpus / part, f"LibriSpeech/{part}")
    layouts.rirs(tmp_path / "made/RIRS_NOISES")
    (folder / "28").mkdir()
    shutil.make_archive(str(folder / "28/rirs_noises"), "zip", tmp_path / "made", "RIRS_NOISES")

    class Handler(Archives):
        pass

    Handler.folder, Handler.requests = folder, []
    with serving(Handler) as server:
        yield SimpleNamespace(url=f"http://127.0.0.1:{server.server_port}", handler=Handler, folder=folder)


def get(mirror: Any, to: Path, corpus: str = "mini_librispeech", parts: tuple[str, ...] = ()) -> Path:
    return download(corpus, to, parts, mirror.url, lambda *_: None)


def names(mirror: Any) -> list[str]:
    return [path for path, _ in mirror.handler.requests]


@pytest.mark.slow
def test_a_downloaded_corpus_is_prepared_sharded_and_trained(tmp_path: Path, mirror: Any) -> None:
    data = tmp_path / "mini_librispeech"
    assert main("prepare", "mini_librispeech", "--download", "--base-url", mirror.url, "--out", data, "--jobs", 1) == 0
    assert json.loads((data / "report.json").read_text())["parts"]["train"]["cuts"] == 2
    words = []
    for part, key in (("train", "train"), ("dev", "val")):
        assert main("shard", data / f"cuts_{part}.jsonl.gz", "--out", data / f"shards/{part}") == 0
        words.append(f"data.{key}_manifest={data}/shards/{part}")
    small = ("debug=fast", UNCHECKED, "size.d_model=32", "trainer=cpu", "trainer.max_steps=2", "logger=none")
    done = processes.run("train.py", "data=mini_librispeech", *small, *words, env=environment(tmp_path / "logs"))
    assert done.returncode == 0 and "validation at step 2" in done.stdout, done.stdout + done.stderr


def test_complete_parts_are_not_requested_again(tmp_path: Path, mirror: Any) -> None:
    source = get(mirror, tmp_path / "to", "librispeech", ("dev-clean",))
    assert names(mirror) == ["/12/dev-clean.tar.gz"] and (source / "dev-clean/.completed").is_file()
    get(mirror, tmp_path / "to", "librispeech", ("train-clean-100", "dev-clean"))
    assert names(mirror)[1:] == ["/12/train-clean-100.tar.gz"]
    (tmp_path / "to/dev-clean.tar.gz").unlink()
    get(mirror, tmp_path / "to", "librispeech", ("dev-clean",))
    assert len(names(mirror)) == 2
    folder = tmp_path / "out"
    parts = ("--parts", "dev-clean")
    assert main("prepare", "librispeech", "--source", source, "--out", folder, "--jobs", 1, *parts) == 0
    assert set(json.loads((folder / "report.json").read_text())["parts"]) == {"dev"}


@pytest.mark.parametrize("server_has_ranges", [True, False])
def test_an_interrupted_download_continues_or_restarts(tmp_path: Path, mirror: Any, server_has_ranges: bool) -> None:
    part = tmp_path / "to/train-clean-5.tar.gz.part"
    part.parent.mkdir()
    whole = (mirror.folder / "31/train-clean-5.tar.gz").read_bytes()
    part.write_bytes(whole[:1000])
    mirror.handler.ail = None if server_has_ranges else "whole"
    get(mirror, tmp_path / "to", parts=("train-clean-5",))
    assert mirror.handler.requests == [("/31/train-clean-5.tar.gz", "bytes=1000-")]
    assert (tmp_path / "to/train-clean-5.tar.gz").read_bytes() == whole and not part.exists()


def test_a_connection_that_closes_early_is_continued(tmp_path: Path, mirror: Any) -> None:
    mirror.handler.ail = 12_000  # bytes of each response
    source = get(mirror, tmp_path / "to", parts=("train-clean-5",))
    ranges = [first for _, first in mirror.handler.requests]
    assert ranges[:3] == ["", "bytes=12000-", "bytes=24000-"]
    assert len(list((source / "train-clean-5").rglob("*.flac"))) == 2


def test_another_file_on_the_server_restarts_the_download(tmp_path: Path, mirror: Any) -> None:
    part = tmp_path / "to/train-clean-5.tar.gz.part"
    part.parent.mkdir()
    part.write_bytes(bytes(10**6))
    get(mirror, tmp_path / "to", parts=("train-clean-5",))
    assert [first for _, first in mirror.handler.requests] == ["bytes=1000000-", ""]


@pytest.mark.parametrize(
    ("ail", "attempts", "message"),
    [(404, 1, "status 404"), (429, 5, "status 429"), (503, 5, "status 503"), (0, 5, "0 of")],
)
def test_a_failing_server_is_a_user_error(
    tmp_path: Path, mirror: Any, capsys: pytest.CaptureFixture[str], ail: int, attempts: int, message: str
) -> None:
    mirror.handler.ail = ail
    words = ("--download", "--to", tmp_path / "to", "--base-url", mirror.url)
    assert main("prepare", "mini_librispeech", *words) == 2
    error = capsys.readouterr().err
    assert f"{mirror.url}/31/dev-clean-2.tar.gz: " in error and message in error and "--base-url" in error
    assert len(mirror.handler.requests) == attempts


def test_a_server_that_is_down_is_a_user_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "PAUSE", 0.0)
    with pytest.raises(UserError, match=r"musan\.tar\.gz: cannot be downloaded: .*refused"):
        download("musan", tmp_path, (), f"http://127.0.0.1:{free_port()}", lambda *_: None)


def test_a_disk_without_space_is_refused_before_the_download(
    tmp_path: Path, mirror: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = (mirror.folder / "31/dev-clean-2.tar.gz").stat().st_size
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2 * size - 1))
    with pytest.raises(UserError, match=r"GB are free, but .*--to"):
        get(mirror, tmp_path / "to")
    assert not list((tmp_path / "to").iterdir())


def member(name: str, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = (tarfile.SYMTYPE, link) if link else (tarfile.REGTYPE, "")
    return made


@pytest.mark.parametrize(
    ("outside", "message"),
    [
        (member("../escaped"), "lies outside"),
        (member("/tmp/streamnest_escaped"), "lies outside"),
        (member("LibriSpeech/link", "/tmp"), "is a link"),
    ],
)
def test_an_archive_that_leaves_its_folder_is_refused(
    tmp_path: Path, mirror: Any, outside: tarfile.TarInfo, message: str
) -> None:
    with tarfile.open(mirror.folder / "31/dev-clean-2.tar.gz", "w:gz") as tar:
        tar.addfile(outside, io.BytesIO())
    with pytest.raises(UserError, match=message):
        get(mirror, tmp_path / "to")
    assert not (tmp_path / "escaped").exists() and not Path("/tmp/streamnest_escaped").exists()
    assert not list((tmp_path / "to").rglob("link"))


@pytest.mark.parametrize("spoil", [lambda data: data[:-100], lambda data: data[:-6] + bytes(6), lambda data: b"x"])
def test_a_damaged_archive_is_named(tmp_path: Path, mirror: Any, spoil: Callable[[bytes], bytes]) -> None:
    path = mirror.folder / "31/dev-clean-2.tar.gz"
    good = path.read_bytes()
    path.write_bytes(spoil(good))
    with pytest.raises(UserError, match=r"to/dev-clean-2\.tar\.gz is damaged .*: delete it"):
        get(mirror, tmp_path / "to")
    path.write_bytes(good)
    (tmp_path / "to/dev-clean-2.tar.gz").unlink()
    assert (get(mirror, tmp_path / "to") / "dev-clean-2/.completed").exists()


def test_a_zip_archive_is_complete_or_absent(tmp_path: Path, mirror: Any) -> None:
    path = mirror.folder / "28/rirs_noises.zip"
    good = path.read_bytes()
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../escaped.wav", b"")
    with pytest.raises(UserError, match=r"escaped\.wav lies outside"):
        get(mirror, tmp_path / "to", "rirs")
    assert not (tmp_path / "to/RIRS_NOISES").exists() and not (tmp_path / "escaped.wav").exists()
    path.write_bytes(good)
    (tmp_path / "to/rirs_noises.zip").unlink()
    source = get(mirror, tmp_path / "to", "rirs")
    (tmp_path / "to/rirs_noises.zip").unlink()
    assert get(mirror, tmp_path / "to", "rirs") == source and len(names(mirror)) == 2
    assert len(list(source.rglob("*.wav"))) == 6
    assert not list((tmp_path / "to").glob(".*"))


def test_musan_and_aishell_with_its_inner_archives_are_unpacked(tmp_path: Path, mirror: Any) -> None:
    made = tmp_path / "made"
    layouts.musan(made / "musan")
    layouts.aishell(made)
    wav = made / "data_aishell/wav"
    for part in sorted(wav.iterdir()):
        (speaker,) = part.iterdir()
        with tarfile.open(wav / f"{speaker.name}.tar.gz", "w:gz") as tar:
            tar.add(part, part.name)
        shutil.rmtree(part)
    (made / "resource_aishell").mkdir()
    for number, archive, content in (
        ("17", "musan.tar.gz", "musan"),
        ("33", "data_aishell.tgz", "data_aishell"),
        ("33", "resource_aishell.tgz", "resource_aishell"),
    ):
        (mirror.folder / number).mkdir(exist_ok=True)
        with tarfile.open(mirror.folder / number / archive, "w:gz") as tar:
            tar.add(made / content, content)
    for corpus, parts in (("musan", {"music", "noise", "speech"}), ("aishell", {"train", "dev", "test"})):
        report = prepare(corpus, RecipeOptions(get(mirror, tmp_path / "to", corpus)), tmp_path / corpus)
        assert {part for part, totals in report.parts.items() if totals.cuts == 1} == parts


def test_corpora_without_a_downloader_name_the_remedy() -> None:
    offered = {"librispeech", "mini_librispeech", "aishell", "musan", "rirs"}
    for corpus in set(USES) - offered:
        with pytest.raises(UserError, match=rf"--download is not offered for {corpus}: .*--layout.*--source"):
            require_downloader(corpus)
    for corpus in offered:
        require_downloader(corpus)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mini_librispeech", "--download"], "--download needs --to, --out or both"),
        (["mini_librispeech", "--download", "--source", "a", "--out", "b"], "--download replaces --source"),
        (["mini_librispeech", "--source", "a", "--out", "b", "--to", "c"], "need --download"),
        (["mini_librispeech", "--download", "--to", "{}", "--base-url", "file:///etc"], "must begin with http"),
        (["mini_librispeech", "--download", "--to", "{}", "--parts", "train-clean-100"], "not a part of mini_libri"),
        (["musan", "--download", "--to", "{}", "--parts", "noise"], "--parts is not an option of musan"),
    ],
)
def test_wrong_options_of_a_download_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    with suppress(SystemExit):
        assert main("prepare", *(word.format(tmp_path) for word in words)) == 2
    assert message in capsys.readouterr().err
