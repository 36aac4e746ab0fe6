"""Memory-mapped arrays: pages are loaded on demand, shared by processes, and dropped under memory pressure."""

from __future__ import annotations

import mmap
import struct
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

# Zip member header: size of its fixed part, and offset of the lengths of name and extra field.
_HEADER, _LENGTHS = 30, 26


def is_plain(path: Path) -> bool:
    """Returns True if an `.npz` is uncompressed, so that `map_arrays` can read it.

    Raises:
        OSError, zipfile.BadZipFile: for a file that is not an archive.
    """
    with zipfile.ZipFile(path) as archive:
        return all(member.compress_type == zipfile.ZIP_STORED for member in archive.infolist())


def map_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Maps the arrays of an uncompressed `.npz`, read-only, by name.

    Raises:
        ValueError, TypeError, OSError, zipfile.BadZipFile: for other content, or a truncated file.
    """
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return {m.filename.removesuffix(".npy"): _array(file, memory, m.header_offset) for m in archive.infolist()}


def _array(file: IO[bytes], memory: mmap.mmap, start: int) -> NDArray[Any]:
    name, extra = struct.unpack_from("<HH", memory, start + _LENGTHS)
    file.seek(start + _HEADER + name + extra)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("an array of Python objects")
    return np.ndarray(shape, dtype, memory, file.tell())
