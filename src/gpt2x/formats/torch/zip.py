"""The zip archive that torch.save writes since version 1.6."""

from __future__ import annotations

import struct
import zipfile
from typing import Any

import numpy as np

from gpt2x.errors import CheckpointError
from gpt2x.formats.base import ZIP_DAMAGE
from gpt2x.formats.torch.tensors import LITTLE_ENDIAN, Reader, Storage
from gpt2x.weights.lazy import BLOCK_BYTES

# Other methods return all their data at once, however little is requested.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class ZipReader(Reader):
    """The zip archive of torch 1.6 and later."""

    def load(self) -> Any:
        try:
            with zipfile.ZipFile(self.file.path) as archive:
                self._entries = {info.filename: info for info in archive.infolist()}
                pickled = next((n for n in self._entries if n.rpartition("/")[2] == "data.pkl"), "")
                if not pickled:
                    raise CheckpointError("the archive has no data.pkl")
                self._folder = pickled.removesuffix("data.pkl")
                order = self._entries.get(f"{self._folder}byteorder")
                stored = self._unpack(order, archive).decode() if order else "little"
                self.swapped = stored != ("little" if LITTLE_ENDIAN else "big")
                return self.machine(self._unpack(self._entries[pickled], archive)).load()
        except CheckpointError:
            raise
        except ZIP_DAMAGE as error:
            raise CheckpointError(f"the zip archive is damaged or truncated ({error})") from error

    def find_storage(self, key: Any, dtype: np.dtype[Any], nbytes: int, rest: list[Any]) -> Storage:
        info = self._entries.get(f"{self._folder}data/{key}")
        if info is None:
            raise CheckpointError(f"the archive lacks the storage {str(key)[:80]!r}")
        self._check(info)
        if info.file_size < nbytes:
            raise CheckpointError(
                f"the storage {info.filename!r} should have {nbytes} bytes and has {info.file_size}"
            )
        if info.compress_type != zipfile.ZIP_STORED:
            return Storage(
                dtype, nbytes, lambda first, count: self._inflate(info, first, count), True
            )
        start = self._data_offset(info)
        self.file.check_range(start, nbytes, f"the storage {info.filename!r}")
        return Storage(
            dtype,
            nbytes,
            lambda first, count: self.file.array(start + first, (count,), np.dtype("u1")),
        )

    def _data_offset(self, info: zipfile.ZipInfo) -> int:
        header = self.file.read(info.header_offset, 30)
        if header[:4] != b"PK\x03\x04":
            raise CheckpointError(f"the archive's entry {info.filename!r} has no header")
        return info.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))

    def _check(self, info: zipfile.ZipInfo) -> None:
        if info.compress_size > self.file.size or info.compress_type not in _METHODS:
            raise CheckpointError(
                f"the archive's entry {info.filename!r} is compressed to {info.compress_size} "
                f"bytes by the method {info.compress_type}; only 0 and 8 are read"
            )

    def _unpack(self, info: zipfile.ZipInfo, archive: zipfile.ZipFile) -> bytes:
        self._check(info)
        self.file.budget.charge(info.file_size, "unpacked bytes")
        return archive.read(info)

    def _inflate(self, info: zipfile.ZipInfo, first: int, count: int) -> np.ndarray:
        """Read part of a compressed entry, which torch itself never writes."""
        try:
            with zipfile.ZipFile(self.file.path) as archive, archive.open(info) as stream:
                stream.seek(first)
                array, at = np.empty(count, np.uint8), 0
                while piece := stream.read(min(BLOCK_BYTES, count - at)):
                    array[at : at + len(piece)] = np.frombuffer(piece, np.uint8)
                    at += len(piece)
        except ZIP_DAMAGE as error:
            raise CheckpointError(
                f"{str(self.file.path)!r}: the entry {info.filename!r} is damaged ({error})."
            ) from error
        if at != count:
            raise CheckpointError(
                f"{str(self.file.path)!r}: the entry {info.filename!r} ends early."
            )
        return array
