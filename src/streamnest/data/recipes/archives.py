"""Unpacking of downloaded archives: only files and folders, and never outside the target folder."""

from __future__ import annotations

import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from streamnest.errors import UserError

_BLOCK = 1 << 20


@contextmanager
def damaged_archives_are_user_errors(archives: list[Path]) -> Iterator[None]:
    """Turns the exceptions of a damaged archive, the last of the list, into a user error."""
    try:
        yield
    except (tarfile.TarError, EOFError, zlib.error, zipfile.BadZipFile, OSError) as error:
        if not archives or (isinstance(error, OSError) and error.errno is not None):
            raise
        # tarfile adds a line for each kind of compression.
        reason = str(error).partition("\n")[0].rstrip(":")
        raise UserError(
            f"{archives[-1]} is damaged ({reason}): delete it, and the same command downloads it again"
        ) from error


def unpack_tar(tar: tarfile.TarFile, path: Path | str = ".", *_: Any, **__: Any) -> None:
    """Unpacks an archive to its last byte, so that the checksum of gzip is compared; replaces Lhotse's `safe_extract`.

    Lhotse checks names but not links, through which a later member could be written outside.

    Args:
        tar: open archive.
        path: target folder.

    Raises:
        UserError: if a member is neither a file nor a folder, or lies outside the target folder.
    """
    for member in tar:
        place = _inside(Path(path), member.name, tar.name)
        if member.isdir():
            place.mkdir(parents=True, exist_ok=True)
            continue
        source = tar.extractfile(member) if member.isfile() else None
        if source is None:
            raise UserError(f"{_text(tar.name)}: {member.name} is a link or a device: the archive is not a corpus")
        _write(source, place)
    while tar.fileobj is not None and tar.fileobj.read(_BLOCK):
        pass


class UnpackedZip(zipfile.ZipFile):
    """Zip file that is unpacked beside its target and moved there when complete.

    Lhotse takes an existing folder for a complete one.
    """

    def extractall(self, path: Any = None, members: Any = None, pwd: Any = None) -> None:
        """Unpacks all members, each compared with its checksum.

        Raises:
            UserError: if a member lies outside the target folder.
        """
        folder = Path(path or ".")
        unpacking = folder / f".{Path(str(self.filename)).stem}.unpacking"
        shutil.rmtree(unpacking, ignore_errors=True)
        for member in self.infolist():
            place = _inside(unpacking, member.filename, self.filename)
            if member.is_dir():
                place.mkdir(parents=True, exist_ok=True)
            else:
                with self.open(member) as source:
                    _write(source, place)
        for child in unpacking.iterdir():
            child.replace(folder / child.name)
        unpacking.rmdir()


def _inside(folder: Path, name: str, archive: Any) -> Path:
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts or "\\" in name:
        raise UserError(f"{_text(archive)}: {name} lies outside the folder: the archive is not a corpus; delete it")
    return folder / pure


def _write(source: IO[bytes], place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    with source, place.open("wb") as file:
        shutil.copyfileobj(source, file, _BLOCK)


def _text(name: Any) -> str:
    return os.fsdecode(name) if name else "archive"
