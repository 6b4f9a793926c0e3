"""Files of ``torch.save``, read without torch and without running what they contain.

Two layouts. Since torch 1.6 a zip archive: ``data.pkl`` holds the objects, ``data/KEY`` the raw
bytes of each storage, ``byteorder`` their byte order. Before that (and with
``_use_new_zipfile_serialization=False``) a sequence of pickles, then the storages, each after its
length. In both layouts a tensor is a call of
``torch._utils._rebuild_tensor_v2`` on a storage, an offset, a size and strides; several tensors may
share a storage.

Source of the formats: ``torch/serialization.py`` and ``torch/_utils.py`` of PyTorch 2.13.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gpt2x.errors import CheckpointError
from gpt2x.formats.base import UnknownFile, reading
from gpt2x.formats.binary import BinaryFile
from gpt2x.formats.torch.legacy import LegacyReader
from gpt2x.formats.torch.tensors import Reader
from gpt2x.formats.torch.zip import ZipReader


def load(file: BinaryFile) -> Any:
    """Return the object saved in a file: containers and scalars, with `LazyTensor` for tensors.

    An object of any other class becomes an `Inert` record. Raises CheckpointError for a file that
    is corrupt, truncated, or claims more than it can hold.
    """
    start = file.read(0, min(2, file.size))
    if start == b"PK":
        reader: Reader = ZipReader(file)
    elif start[:1] in (b"\x80", b"(", b"L", b"I"):  # the first bytes of a pickle of any protocol
        reader = LegacyReader(file)
    else:
        raise CheckpointError(
            f"{str(file.path)!r} is neither a zip archive nor a pickle, as torch.save writes them."
        )
    with reading(file.path, "PyTorch checkpoint"):
        return reader.load()


def is_saved(file: UnknownFile) -> bool:
    """Return whether a file begins like torch's; the size in a safetensors file may do so too."""
    start = file.start
    protocols = (b"\x80\x02", b"\x80\x03", b"\x80\x04")
    return start[:2] in (b"PK", *protocols) and start[8:9] != b"{"


def saved_in(file: UnknownFile) -> Any:
    """Return the object in a file of unknown format; None if torch did not save it.

    Raises CheckpointError if it is damaged.
    """
    return file.ask(_load_alone) if is_saved(file) else None


def _load_alone(path: Path) -> Any:
    with BinaryFile(path) as file:
        return load(file)
