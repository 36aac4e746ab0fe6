"""Download of corpora by Lhotse's own downloaders, which have the addresses, the parts and the marks of complete parts.

Two of their helpers are replaced: `fetching.fetch` continues a download, `archives` unpacks it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from streamnest.data.recipes.archives import UnpackedZip, damaged_archives_are_user_errors, unpack_tar
from streamnest.data.recipes.fetching import Progress, fetch
from streamnest.errors import UserError

_RECIPES = "lhotse.recipes"
# The first part of an address of OpenSLR, which `base_url` replaces.
_RESOURCES = "/resources/"
NOT_OFFERED = {
    "librilight": "Lhotse has no downloader for it: the repository libri-light of its authors lists the three archives",
    "libriheavy": "Lhotse has no downloader for it: its repository has the manifests, and the audio is Libri-Light",
    "mls": "Lhotse has no downloader for it: OpenSLR lists an archive for each language",
    "voxpopuli": "Lhotse's downloader begins again after each interruption: `lhotse download voxpopuli` runs it",
    "commonvoice": "it is released by Mozilla after its terms have been accepted",
    "gigaspeech": "its authors send a password: `lhotse download gigaspeech` takes it",
}


def download(corpus: str, folder: Path, parts: tuple[str, ...], base_url: str | None, progress: Progress) -> Path:
    """Downloads and unpacks a corpus; complete parts are skipped, an incomplete archive is continued.

    Args:
        corpus: name on the command line.
        folder: folder for archives and corpus; created if missing.
        parts: parts to download; empty for all.
        base_url: address that replaces `http://HOST/resources` of OpenSLR.
        progress: callback of `fetch`.

    Returns:
        The folder for `--source`.

    Raises:
        UserError: if Lhotse cannot download the corpus, for an unknown part, a failing network, a full disk or a
            damaged archive.
    """
    require_downloader(corpus)
    if base_url and not base_url.startswith(("http://", "https://")):
        raise UserError(f"--base-url={base_url}: must begin with http:// or https://")
    _refuse_unknown(corpus, parts)
    folder.mkdir(parents=True, exist_ok=True)
    archives: list[Path] = []
    with _helpers(progress, archives), damaged_archives_are_user_errors(archives):
        return _DOWNLOADERS[corpus](folder, parts, base_url and base_url.rstrip("/"))


def require_downloader(corpus: str) -> None:
    """Refuses a corpus that Lhotse cannot download.

    Raises:
        UserError: with the way to get the corpus.
    """
    if corpus not in _DOWNLOADERS:
        reason = NOT_OFFERED.get(corpus, "it is a format, not a published corpus")
        raise UserError(
            f"--download is not offered for {corpus}: {reason}; unpack it as `streamnest prepare {corpus} --layout` "
            "prints and give the folder by --source"
        )


def _refuse_unknown(corpus: str, parts: tuple[str, ...]) -> None:
    known = {"librispeech": "LIBRISPEECH", "mini_librispeech": "MINI_LIBRISPEECH"}
    names = getattr(_module("librispeech"), known[corpus]) if corpus in known else ()
    if unknown := [part for part in parts if part not in names]:
        raise UserError(f"--parts: {unknown[0]} is not a part of {corpus}: choose from {', '.join(names)}")


def _module(name: str) -> Any:
    return import_module(f"{_RECIPES}.{name}")


@contextmanager
def _helpers(progress: Progress, archives: list[Path]) -> Iterator[None]:
    """Replaces helpers of Lhotse's downloaders; the archives that they use are appended to the list."""

    def fetch_to(url: str, filename: Path | str, **_: Any) -> None:
        archives.append(Path(filename))
        fetch(url, Path(filename), progress)

    with ExitStack() as stack:
        for name in ("librispeech", "aishell", "musan", "rir_noise"):
            stack.enter_context(patch.object(_module(name), "resumable_download", fetch_to))
            if name != "rir_noise":
                stack.enter_context(patch.object(_module(name), "safe_extract", unpack_tar))
        zips = SimpleNamespace(ZipFile=UnpackedZip)
        stack.enter_context(patch.object(_module("rir_noise"), "zipfile", zips))
        # Its bar counts parts, beside the one that counts bytes.
        stack.enter_context(patch.object(_module("librispeech"), "tqdm", lambda parts, **_: parts))
        yield


def _librispeech(folder: Path, parts: tuple[str, ...], base_url: str | None, corpus: str = "librispeech") -> Path:
    chosen = list(parts) or corpus
    address = {"base_url": base_url} if base_url else {}
    return Path(_module("librispeech").download_librispeech(folder, dataset_parts=chosen, **address))


def _mini_librispeech(folder: Path, parts: tuple[str, ...], base_url: str | None) -> Path:
    return _librispeech(folder, parts, base_url, "mini_librispeech")


def _aishell(folder: Path, _: tuple[str, ...], base_url: str | None) -> Path:
    address = {"base_url": base_url} if base_url else {}
    return Path(_module("aishell").download_aishell(folder, **address))


def _musan(folder: Path, _: tuple[str, ...], base_url: str | None) -> Path:
    module = _module("musan")
    return Path(module.download_musan(folder, url=_moved(module.MUSAN_URL, base_url)))


def _rirs(folder: Path, _: tuple[str, ...], base_url: str | None) -> Path:
    module, corpus = _module("rir_noise"), folder / "RIRS_NOISES"
    # Lhotse would request an archive that was deleted after unpacking once more.
    if not corpus.is_dir():
        module.download_rir_noise(folder, url=_moved(module.RIR_NOISE_ZIP_URL, base_url))
    return corpus


def _moved(url: str, base_url: str | None) -> str:
    return f"{base_url}/{url.split(_RESOURCES, 1)[1]}" if base_url else url


_DOWNLOADERS: dict[str, Callable[[Path, tuple[str, ...], str | None], Path]] = {
    "librispeech": _librispeech,
    "mini_librispeech": _mini_librispeech,
    "aishell": _aishell,
    "musan": _musan,
    "rirs": _rirs,
}
