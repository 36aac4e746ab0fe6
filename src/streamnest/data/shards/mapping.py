"""Arrays that stay on disk: their pages come as they are read, all processes share them, and they go when need be."""

from __future__ import annotations

import mmap
import struct
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

# Of a member of a zip archive: the fixed part of its header, and where in it the lengths of name and extra field are.
_HEADER, _LENGTHS = 30, 26


def is_plain(path: Path) -> bool:
    """Whether an `.npz` is uncompressed, so that `map_arrays` reads it.

    Raises:
        OSError, zipfile.BadZipFile: for what is no archive.
    """
    with zipfile.ZipFile(path) as archive:
        return all(member.compress_type == zipfile.ZIP_STORED for member in archive.infolist())


def map_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an uncompressed `.npz`, read-only, by their names.

    Raises:
        ValueError, TypeError, OSError, zipfile.BadZipFile: for anything else, or a file that ends early.
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
