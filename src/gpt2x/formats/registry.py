"""The formats, found among the modules of this package, and detecting the format of a file."""

from __future__ import annotations

import fnmatch
import pkgutil
import re
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from types import MappingProxyType

from gpt2x import formats
from gpt2x.errors import CheckpointError
from gpt2x.formats.base import Format, UnknownFile, WeightsFormat
from gpt2x.formats.binary import BinaryFile
from gpt2x.storage.hub import ModelFiles

_START = 16  # bytes that formats see of a file
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.")
# Not weights of a model: the state of a trainer, and an adapter.
_OTHERS = (
    *("training_args.bin", "optimizer.*", "scheduler.*", "rng_state*", "scaler.*"),
    "adapter_model.*",
)


@cache
def all_formats() -> Mapping[str, Format]:
    """Return name -> format: transformers' first, in its search order, then by rank."""
    modules = pkgutil.walk_packages(formats.__path__, f"{formats.__name__}.")
    found = [getattr(import_module(module.name), "FORMAT", None) for module in modules]
    known = sorted((format for format in found if format is not None), key=_listing)
    return MappingProxyType({format.name: format for format in known})


def _listing(format: Format) -> tuple[int, int]:
    return (0, format.place) if isinstance(format, WeightsFormat) else (1, format.rank)


def read_formats() -> tuple[str, ...]:
    """Return the names of the formats that can be read."""
    return tuple(format.name for format in all_formats().values() if format.is_read)


def weights_formats(*, read: bool = True) -> list[WeightsFormat]:
    """Return transformers' formats of weights that are read, or written, in search order."""
    return [
        format
        for format in all_formats().values()
        if isinstance(format, WeightsFormat) and (format.is_read if read else format.is_written)
    ]


def weights_format(name: str) -> WeightsFormat:
    """Return transformers' format of weights of this name."""
    format = all_formats()[name]
    assert isinstance(format, WeightsFormat), name
    return format


def _by_rank() -> list[Format]:
    return sorted(all_formats().values(), key=attrgetter("rank"))


def find_announced(files: ModelFiles) -> Path | None:
    """Return the file to open in a folder that has none of transformers' names.

    Raises CheckpointError if there are several of a kind, or shards without an index.
    """
    if files.folder is not None:
        for format in _by_rank():
            if (found := format.find(files.folder)) is not None:
                return found
    names = [n for n in files.names() if not any(fnmatch.fnmatchcase(n, t) for t in _OTHERS)]
    for pattern in (pattern for format in _by_rank() for pattern in format.patterns):
        matches = fnmatch.filter(names, pattern)
        if shards := [name for name in matches if _SHARD.search(name)]:
            raise CheckpointError(
                f"{files.name!r} holds shards ({', '.join(shards)}), but not the index that lists "
                "them, such as model.safetensors.index.json. Download or copy it as well."
            )
        if len(matches) > 1:
            raise CheckpointError(
                f"{files.name!r} holds several checkpoints ({', '.join(matches)}); give the path "
                "of one."
            )
        if matches:
            return files.find(matches[0])
    return None


def recognise(path: Path) -> Format:
    """Return the format of a file by its content; raises CheckpointError if it is unknown."""
    with BinaryFile(path) as file:
        unknown = UnknownFile(path, file.read(0, min(file.size, _START)))
    for format in _by_rank():
        if format.recognises(unknown):
            return format
    raise CheckpointError(
        f"{str(path)!r} is of no known format; known are {', '.join(sorted(read_formats()))}."
    )
