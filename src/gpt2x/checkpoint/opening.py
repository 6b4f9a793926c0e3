"""Which format a folder, a file or a repository of the hub holds, and opening it."""

from __future__ import annotations

import fnmatch
import importlib
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from gpt2x.checkpoint import shards
from gpt2x.checkpoint.base import Checkpoint, LazyTensor, RawFile
from gpt2x.checkpoint.names import Rename, name_tensors
from gpt2x.errors import CheckpointError, check_choice
from gpt2x.hub import ModelFiles

CONFIG_NAME = "config.json"


class ShardedFormat(Protocol):
    """A module that reads one of transformers' formats, in one file or in shards of it."""

    def open_raw(self, path: Path) -> RawFile:
        """Open one file."""
        ...

    def rename(self, metadata: Mapping[str, Any]) -> Rename:
        """Return what reads the names in files that say this of themselves."""
        ...


class SingleFormat(Protocol):
    """A module that reads a format which says itself how it is split, if it is."""

    def open(self, path: Path) -> Checkpoint:
        """Open a checkpoint by the file that identifies it."""
        ...


@dataclass(frozen=True)
class WeightsFile:
    """A file name under which transformers keeps the weights of a model."""

    format: str
    name: str

    def single(self, variant: str | None) -> str:
        """The file's name; a variant such as "fp16" stands before the last dot."""
        return _with_variant(self.name, variant)

    def index(self, variant: str | None) -> str:
        """The name of the index of its shards."""
        return _with_variant(f"{self.name}.index.json", variant)


def _with_variant(name: str, variant: str | None) -> str:
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}.{variant}{dot}{suffix}" if variant else name


SAFETENSORS = WeightsFile("safetensors", "model.safetensors")
PYTORCH = WeightsFile("pytorch", "pytorch_model.bin")
TENSORFLOW = WeightsFile("tf-h5", "tf_model.h5")
FLAX = WeightsFile("flax-msgpack", "flax_model.msgpack")

# transformers' order of looking; its own TensorFlow and Flax classes look at theirs first.
WEIGHTS_FILES = (SAFETENSORS, PYTORCH, TENSORFLOW, FLAX)

# Names that other projects give to what they save; a pattern is matched against the folder.
FOREIGN_FILES: tuple[tuple[str, str], ...] = (("tf-h5", "*.h5"),)

MODULES: Mapping[str, str] = {
    "safetensors": "gpt2x.checkpoint.safetensors",
    "pytorch": "gpt2x.checkpoint.torch_pickle",
    "tf-h5": "gpt2x.checkpoint.tf_h5",
    "flax-msgpack": "gpt2x.checkpoint.flax_msgpack",
}
_SHARDED = {file.format for file in WEIGHTS_FILES}


def open_checkpoint(
    path: str | Path,
    *,
    variant: str | None = None,
    use_safetensors: bool | None = None,
    format: str | None = None,
) -> Checkpoint:
    """Open a local folder or file; the format is detected from its files unless given.

    Args:
        path: a folder, searched in transformers' order, or one checkpoint file.
        variant: look for ``model.VARIANT.safetensors`` and the like.
        use_safetensors: True takes nothing but safetensors, False skips them.
        format: a name of `MODULES`, to take that format alone.

    Raises:
        CheckpointError: if nothing is found, or what is found is corrupt or incomplete.
        InvalidInputError: for a format that does not exist.

    >>> with open_checkpoint("folder") as checkpoint:  # doctest: +SKIP
    ...     checkpoint["wte.weight"].shape
    (50257, 768)
    """
    if format is not None:
        check_choice("format", format, MODULES)
    path = Path(path).expanduser()
    if path.is_file():
        checkpoint = _open_file(path, format or sniff(path))
        beside = path.parent / CONFIG_NAME
        _add_config(checkpoint, beside if beside.is_file() else None)
        return checkpoint
    if not path.is_dir():
        raise CheckpointError(f"There is no file or folder {str(path)!r}.")
    return open_model_files(
        ModelFiles(path), variant=variant, use_safetensors=use_safetensors, format=format
    )


def open_model_files(
    files: ModelFiles,
    *,
    variant: str | None = None,
    use_safetensors: bool | None = None,
    format: str | None = None,
    first: str | None = None,
) -> Checkpoint:
    """Open the weights of a folder or of a repository; see `open_checkpoint`.

    `first` names a format to look for before the others.
    """
    candidates = [
        file
        for file in sorted(WEIGHTS_FILES, key=lambda file: file.format != first)
        if format in (None, file.format)
        and (use_safetensors is None or use_safetensors == (file is SAFETENSORS))
    ]
    tried: list[str] = []
    for candidate in candidates:
        for name in (candidate.single(variant), candidate.index(variant)):
            tried.append(name)
            path = files.find(name)
            if path is None:
                continue
            if name == candidate.index(variant):
                checkpoint = _open_shards(candidate.format, path, _find_shards(files, path))
            else:
                checkpoint = _open_file(path, candidate.format)
            _add_config(checkpoint, files.find(CONFIG_NAME))
            return checkpoint
    if use_safetensors is not True and variant is None:
        found = _find_foreign(files, format)
        if found is not None:
            checkpoint = _open_file(*found)
            _add_config(checkpoint, files.find(CONFIG_NAME))
            return checkpoint
    raise CheckpointError(
        f"{files.name!r} holds no weights; looked for {', '.join(tried or ['no file'])}"
        f"{' and the formats of other projects' if use_safetensors is not True else ''}."
        + _hint_of_variants(files, candidates, variant)
    )


def _hint_of_variants(files: ModelFiles, candidates: list[WeightsFile], variant: str | None) -> str:
    """Tell a user of the variant that exists from the one that was asked for."""
    if variant is not None:
        plain = [file.name for file in candidates if files.find(file.name)]
        return f" It does hold {plain[0]!r}: leave out variant={variant!r}." if plain else ""
    return ""


def _find_foreign(files: ModelFiles, format: str | None) -> tuple[Path, str] | None:
    names = files.names()
    for foreign, pattern in FOREIGN_FILES:
        matches = fnmatch.filter(names, pattern)
        if format not in (None, foreign) or not matches:
            continue
        if len(matches) > 1:
            raise CheckpointError(
                f"{files.name!r} holds several checkpoints ({', '.join(matches)}); give the path "
                "of one."
            )
        path = files.find(matches[0])
        if path is not None:
            return path, foreign
    return None


def sniff(path: Path) -> str:
    """The format of a single file, by its first bytes; raises CheckpointError if it is unknown."""
    with open(path, "rb") as stream:
        start = stream.read(16)
    if start[8:9] == b"{":
        return "safetensors"
    if start[:2] == b"PK" or start[:2] == b"\x80\x02":
        return "pytorch"
    if start[:8] == b"\x89HDF\r\n\x1a\n":
        return "tf-h5"
    if start[:1] and (start[0] & 0xF0 == 0x80 or start[0] in (0xDE, 0xDF)):
        return "flax-msgpack"
    raise CheckpointError(
        f"{str(path)!r} is of no known format; known are {', '.join(sorted(MODULES))}."
    )


def _module(format: str) -> Any:
    return importlib.import_module(MODULES[format])


def _open_file(path: Path, format: str) -> Checkpoint:
    if format in _SHARDED:
        return _open_shards(format, path, {path.name: path})
    single: SingleFormat = _module(format)
    return single.open(path)


def _find_shards(files: ModelFiles, index: Path) -> dict[str, Path]:
    """File name -> path of each shard; raises CheckpointError naming all that are missing."""
    found = {name: files.find(name) for name in shards.shard_files(shards.read_index(index))}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        raise CheckpointError(
            f"{files.name!r} lacks {len(missing)} of the {len(found)} shards that {index.name} "
            f"lists: {', '.join(missing)}. Download or copy the rest."
        )
    return {name: path for name, path in found.items() if path is not None}


def _open_shards(format: str, path: Path, files: Mapping[str, Path]) -> Checkpoint:
    """Open one file, or the shards of the index at `path`, as one checkpoint."""
    module: ShardedFormat = _module(format)
    with ExitStack() as stack:
        tensors: dict[str, LazyTensor] = {}
        metadata: dict[str, Any] = {}
        held: dict[str, list[str]] = {}
        for name, file in files.items():
            raw = module.open_raw(file)
            stack.callback(raw.close)
            if twice := tensors.keys() & raw.tensors.keys():
                raise CheckpointError(f"Two shards of {str(path)!r} hold {min(twice)!r}.")
            tensors |= raw.tensors
            metadata |= raw.metadata
            held[name] = list(raw.tensors)
        rename = module.rename(metadata)
        if list(files.values()) != [path]:
            _check_shards(path, held, rename)
        names = name_tensors(path, tensors, rename)
        return Checkpoint(
            format,
            path,
            names.tensors,
            ignored=names.ignored,
            source_names=names.source_names,
            metadata=metadata,
            files=files.values(),
            close=stack.pop_all().close,
        )


def _check_shards(index: Path, held: Mapping[str, list[str]], rename: Rename) -> None:
    """Compare what the shards hold with the index, whose names may carry another prefix."""
    listed = {
        place.name: file
        for name, file in shards.read_index(index).items()
        if (place := rename(name)) is not None
    }
    found = {
        file: [place.name for name in names if (place := rename(name)) is not None]
        for file, names in held.items()
    }
    shards.check_shards(index, listed, found)


def _add_config(checkpoint: Checkpoint, path: Path | None) -> None:
    if checkpoint.config is None and path is not None:
        checkpoint.config = shards.read_json(path)
