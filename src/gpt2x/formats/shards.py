"""Checkpoints split over several files, and the index file that transformers keeps beside them.

The index is JSON: ``{"metadata": {"total_size": bytes}, "weight_map": {tensor: file}}``. All
formats of transformers share it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2x.errors import CheckpointError, InvalidInputError, listed
from gpt2x.storage.budget import Budget
from gpt2x.storage.hub import ModelFiles
from gpt2x.storage.json_files import read_object
from gpt2x.weights.names import Rename

# Without folder or drive, not "." or "..", and not longer than file systems allow.
_PLAIN_NAME = re.compile(r"[^/\\:\0]{0,254}[^/\\:\0.]")

_LISTED = 512  # bytes of a tensor's names and places, when the index is compared with the shards

_UNITS = {"": 1, "B": 1}
_UNITS |= {f"{letter}B": 1000**power for power, letter in enumerate("KMGT", 1)}
_UNITS |= {f"{letter}IB": 1024**power for power, letter in enumerate("KMGT", 1)}


def parse_size(size: int | str) -> int:
    """Return the bytes of a size such as ``"5GB"`` (decimal), ``"200MiB"`` (binary) or a number.

    >>> parse_size("5GB")
    5000000000
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Z]*)", str(size).strip().upper())
    if match is None or match[2] not in _UNITS or float(match[1]) <= 0:
        raise InvalidInputError(
            f"max_shard_size is {size!r}; it must be a positive number of bytes or a string such "
            "as '5GB' or '200MiB'."
        )
    return int(float(match[1]) * _UNITS[match[2]])


def read_index(path: Path) -> dict[str, str]:
    """Return tensor name -> file name of an index."""
    budget = Budget(str(path), path.stat().st_size)
    weight_map = read_object(path, budget).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{str(path)!r} has no 'weight_map'; it is not an index of shards.")
    budget.charge(_LISTED * len(weight_map), "tensors")
    return weight_map


def check_shard_name(index: Path, file: object) -> None:
    """Raise CheckpointError unless the name of a shard is that of a file beside its index."""
    if not isinstance(file, str) or not _PLAIN_NAME.fullmatch(file):
        raise CheckpointError(
            f"{str(index)!r} names the shard {file!r:.300}; a shard must be a file beside "
            "the index."
        )


def find_shards(files: ModelFiles, index: Path, names: Iterable[Any]) -> dict[str, Path]:
    """Return file name -> path of the shards in an index, in order.

    Raises CheckpointError for names of files elsewhere, and for missing shards, of which it names
    all.
    """
    names = list(names)
    for name in names:
        check_shard_name(index, name)
    found = {name: files.find(name) for name in sorted(set(names))}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        raise CheckpointError(
            f"{files.name!r} lacks {len(missing)} of the {len(found)} shards that {index.name} "
            f"lists; missing: {listed(missing)}. Download or copy the rest."
        )
    return {name: path for name, path in found.items() if path is not None}


def check_shards(index: Path, held: Mapping[str, Iterable[str]], rename: Rename) -> None:
    """Raise CheckpointError unless each shard holds the tensors that the index puts there.

    Args:
        index: the index file.
        held: file name -> names of the tensors in it.
        rename: reads both, since names in an index may have another prefix.
    """
    found = {file: {rename(name) for name in names} for file, names in held.items()}
    absent = [
        f"{place.name} ({file})"
        for name, file in read_index(index).items()
        if (place := rename(name)) is not None and place not in found[file]
    ]
    if absent:
        raise CheckpointError(
            f"The shards beside {str(index)!r} lack {len(absent)} of the tensors it lists: "
            f"{listed(absent)}. "
            "The shards come from different saves, or one was cut short; download them again."
        )


@dataclass(frozen=True)
class Shard:
    """One file to write: its name, and the names of the tensors that go into it."""

    file: str
    names: tuple[str, ...]


def plan_shards(sizes: Mapping[str, int], max_size: int, file: str) -> list[Shard]:
    """Split tensors, in order, into files of at most `max_size` bytes (a larger tensor alone).

    One file keeps the name `file`; several have transformers' names.

    >>> [shard.file for shard in plan_shards({"a": 6, "b": 6}, 10, "model.safetensors")]
    ['model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors']
    """
    groups: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if groups[-1] and filled + size > max_size:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    if len(groups) == 1:
        return [Shard(file, tuple(groups[0]))]
    stem, dot, suffix = file.rpartition(".")
    return [
        Shard(f"{stem}-{number:05d}-of-{len(groups):05d}{dot}{suffix}", tuple(group))
        for number, group in enumerate(groups, 1)
    ]


def index_json(
    shards: Iterable[Shard], total_size: int, total_parameters: int, aliases: Mapping[str, str]
) -> str:
    """Return the text of the index; an alias is in the shard of the tensor that it repeats."""
    weight_map = {name: shard.file for shard in shards for name in shard.names}
    weight_map |= {alias: weight_map[name] for alias, name in aliases.items()}
    metadata = {"total_parameters": total_parameters, "total_size": total_size}
    index = {"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))}
    return json.dumps(index, indent=2) + "\n"
