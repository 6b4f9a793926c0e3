"""Keras 3's files of `gpt2x.tf`: ``.weights.h5``, and the ``.keras`` archive around one.

A variable stands under its path of attributes, ``base_model/h/tfgpt2_block_1/attn/c_attn/vars/0``;
lists number their items by class name. A ``.keras`` file is a zip archive that also holds the
config. Read without TensorFlow.
"""

from __future__ import annotations

import io
import json
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt2x.checkpoint import tf_h5
from gpt2x.checkpoint.base import CanonicalNames, Checkpoint, LazyTensor
from gpt2x.checkpoint.binary import BinaryFile
from gpt2x.checkpoint.names import to_canonical
from gpt2x.errors import CheckpointError, InvalidInputError
from gpt2x.hub import ModelFiles
from gpt2x.weights import TENSORFLOW

WEIGHTS_ENTRY = "model.weights.h5"
_CONFIG_ENTRY = "config.json"

_VARIABLE = re.compile(r"(.+)/vars/([01])")
_BODY = re.compile(r"(?:.*/)?(?:base_model|transformer)/")
_BLOCK = re.compile(r"h/tfgpt2_block(?:_(\d{1,9}))?/")


def open(path: Path, files: ModelFiles) -> Checkpoint:
    """Open a ``.weights.h5`` or ``.keras`` file; raises CheckpointError if it is damaged."""
    config = None
    if zipfile.is_zipfile(path):
        config, stream = _open_archive(path)
        try:
            raw = tf_h5.open_raw(path, stream)
        except BaseException:
            stream.close()
            raise
    else:
        stream, raw = None, tf_h5.open_raw(path)

    def close() -> None:
        raw.close()
        if stream is not None:
            stream.close()

    try:
        names = _name_tensors(path, raw.tensors)
    except BaseException:
        close()
        raise
    return Checkpoint(
        "keras-tf",
        path,
        names.tensors,
        config=config,
        ignored=names.ignored,
        source_names=names.source_names,
        close=close,
    )


def _open_archive(path: Path) -> tuple[dict[str, Any] | None, io.RawIOBase]:
    """Return the config and an open stream of the weights, which Keras stores uncompressed."""
    try:
        with zipfile.ZipFile(path) as archive:
            for name in (_CONFIG_ENTRY, WEIGHTS_ENTRY):
                if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
                    raise CheckpointError(f"its entry {name!r} is compressed")
            saved = json.loads(archive.read(_CONFIG_ENTRY))
            weights = archive.getinfo(WEIGHTS_ENTRY)
        config = saved["config"].get("config")
        with BinaryFile(path) as file:
            header = file.read(weights.header_offset, 30)
        start = weights.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))
        return config if isinstance(config, dict) else None, _Part(path, start, weights.file_size)
    except _DAMAGE as error:
        raise CheckpointError(f"{str(path)!r} is not a sound .keras file: {error}.") from error


_DAMAGE = (
    CheckpointError,
    zipfile.BadZipFile,
    struct.error,
    OSError,
    EOFError,
    KeyError,
    IndexError,
    ValueError,
    TypeError,
    AttributeError,
    OverflowError,
    RuntimeError,  # an encrypted entry; NotImplementedError: an unknown compression
)


class _Part(io.RawIOBase):
    """Part of a file as a stream of its own; `zipfile` cannot step back in an entry quickly."""

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


def _name_tensors(path: Path, tensors: Mapping[str, LazyTensor]) -> CanonicalNames:
    names = CanonicalNames(path)
    for source, tensor in tensors.items():
        match = _VARIABLE.fullmatch(source)
        module = _BODY.sub("", match[1]) if match else ""
        if match is None or module.startswith(("optimizer", "seed_generator")) or "/seed" in module:
            names.ignore(source, "no weight of the model (optimizer or state)")
            continue
        module = _BLOCK.sub(lambda block: f"h/{int(block[1] or 0)}/", module)
        name = f"{module.replace('/', '.')}.{'bias' if match[2] == '1' else 'weight'}"
        try:
            names.add(name, source, to_canonical(tensor, TENSORFLOW.layout(name)))
        except InvalidInputError:
            names.add(source, source, tensor)  # reported as left over
    return names
