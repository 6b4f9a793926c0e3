"""The sequence of pickles, then storages, that torch.save wrote before version 1.6."""

from __future__ import annotations

import mmap
from typing import Any, Literal

import numpy as np

from gpt2x.errors import CheckpointError
from gpt2x.formats.binary import BinaryFile, check_shape
from gpt2x.formats.torch.pickle_machine import plain_key
from gpt2x.formats.torch.tensors import LITTLE_ENDIAN, Reader, Storage

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001


class LegacyReader(Reader):
    """The pickles of torch before 1.6: magic, protocol, system, object, storage keys."""

    def __init__(self, file: BinaryFile) -> None:
        super().__init__(file)
        self._storages: dict[Any, Storage] = {}
        self._offsets: dict[Any, int] = {}

    def load(self) -> Any:
        with (
            open(self.file.path, "rb") as stream,
            mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            magic, position = self._pickle(data, 0)
            if magic != MAGIC:
                raise CheckpointError("it is a pickle, but none that torch.save writes")
            protocol, position = self._pickle(data, position)
            if protocol != PROTOCOL:
                raise CheckpointError("it is of an unknown protocol")
            system, position = self._pickle(data, position)
            little = not isinstance(system, dict) or system.get("little_endian", True) is True
            self.swapped = little != LITTLE_ENDIAN
            loaded, position = self._pickle(data, position)
            keys, position = self._pickle(data, position)
        self._place_storages(keys, position, "little" if little else "big")
        return loaded

    def _pickle(self, data: mmap.mmap, position: int) -> tuple[Any, int]:
        machine = self.machine(data, position)
        return machine.load(), machine.position

    def _place_storages(self, keys: Any, position: int, order: Literal["little", "big"]) -> None:
        """Find where each storage starts: they follow one another, each after its length."""
        if not isinstance(keys, list):
            raise CheckpointError("its list of storages is missing")
        for key in keys:
            storage = self._storages.get(plain_key(key, self.file.budget))
            if storage is None or key in self._offsets:
                raise CheckpointError("its list of storages has an unknown key")
            numel = int.from_bytes(self.file.read(position, 8), order)
            if numel * storage.dtype.itemsize != storage.nbytes:
                raise CheckpointError("a storage has another length than its tensors")
            self.file.check_range(position + 8, storage.nbytes, "a storage")
            self._offsets[key] = position + 8
            position += 8 + storage.nbytes
        if missing := self._storages.keys() - self._offsets.keys():
            raise CheckpointError(f"it lacks {len(missing)} of its storages")

    def find_storage(self, key: Any, dtype: np.dtype[Any], nbytes: int, rest: list[Any]) -> Storage:
        def read(first: int, count: int) -> np.ndarray:
            return self.file.array(self._offsets[key] + first, (count,), np.dtype("u1"))

        if nbytes > self.file.size:
            raise CheckpointError(f"a storage of {nbytes} bytes cannot be in a file of this size")
        storage = self._storages.setdefault(key, Storage(dtype, nbytes, read))
        if storage.dtype != dtype or storage.nbytes != nbytes:
            raise CheckpointError("a storage is described in two ways")
        if not rest or rest[0] is None:
            return storage
        # A view of a part of a storage, in the form of torch before 0.4: (key, offset, size).
        _, offset, numel = rest[0]
        start, length = (n * dtype.itemsize for n in check_shape((offset, numel), "a view"))
        if start + length > nbytes:
            raise CheckpointError("a view reaches beyond its storage")
        return Storage(dtype, length, lambda first, count: read(start + first, count))
