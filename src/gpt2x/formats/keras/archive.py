"""Keras 3's ``.keras`` files: a zip archive of config.json, the weights in HDF5, and assets."""

from __future__ import annotations

import io
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2x.errors import CheckpointError
from gpt2x.formats.base import ZIP_DAMAGE, UnknownFile, reading
from gpt2x.formats.binary import BinaryFile
from gpt2x.storage.budget import Budget
from gpt2x.storage.json_files import load_json

CONFIG_ENTRY = "config.json"
WEIGHTS_ENTRY = "model.weights.h5"


@dataclass(frozen=True)
class KerasArchive:
    """An open archive.

    Attributes:
        saved: what config.json holds: the model's `module`, `class_name` and `config`.
        weights: a stream of the weights, to be closed.
        assets: name -> contents of the files of layers such as tokenizers.
    """

    saved: dict[str, Any]
    weights: io.RawIOBase
    assets: dict[str, bytes]


def open_archive(path: Path, assets: tuple[str, ...] = ()) -> KerasArchive:
    """Open a ``.keras`` file, with the `assets` of these names if it has them.

    Raises CheckpointError if it is damaged, or if its entries are compressed, as Keras's never are.
    """
    with reading(path, ".keras file", _DAMAGE):
        budget = Budget(str(path), path.stat().st_size)
        with zipfile.ZipFile(path) as archive:
            saved = load_json(_read(archive, CONFIG_ENTRY), budget)
            if not isinstance(saved, dict) or not isinstance(saved.get("config"), dict):
                raise CheckpointError(f"its {CONFIG_ENTRY} is not a config of a model")
            weights = _entry(archive, WEIGHTS_ENTRY)
            held = set(archive.namelist())
            contents = {name: _read(archive, name) for name in assets if name in held}
        with BinaryFile(path) as file:
            header = file.read(weights.header_offset, 30)
        start = weights.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))
        return KerasArchive(saved, _Part(path, start, weights.file_size), contents)


def module_in(file: UnknownFile) -> str | None:
    """The Python module of the model in a ``.keras`` file; None if the file is not one.

    Raises CheckpointError if it is damaged.
    """
    return file.ask(_module) if file.start[:2] == b"PK" else None


def _module(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as zipped:
            if WEIGHTS_ENTRY not in zipped.namelist():
                return None
    except _DAMAGE:
        return None
    archive = open_archive(path)
    archive.weights.close()
    return str(archive.saved.get("module"))


def _entry(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED:
        raise CheckpointError(f"its entry {name!r} is compressed")
    # Python allocates the size that the archive claims before it reads.
    if max(info.compress_size, info.file_size) > Path(str(archive.filename)).stat().st_size:
        raise CheckpointError(f"its entry {name!r} claims more bytes than the file has")
    return info


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    return archive.read(_entry(archive, name))


# The JSON of an archive may be damaged too.
_DAMAGE = (*ZIP_DAMAGE, TypeError, AttributeError)


class _Part(io.RawIOBase):
    """A part of a file as a stream; in an entry of `zipfile`, seeking back is slow."""

    def __init__(self, path: Path, start: int, size: int) -> None:
        self._stream = path.open("rb")
        self._start, self._size, self._at = start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        self._stream.seek(self._start + self._at)
        wanted = min(len(buffer), max(0, self._size - self._at))
        count = self._stream.readinto(memoryview(buffer)[:wanted])
        self._at += count
        return count

    def close(self) -> None:
        self._stream.close()
        super().close()
