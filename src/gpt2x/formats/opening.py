"""Opening the checkpoint that a folder, a file or a repository of the hub holds."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from gpt2x.errors import CheckpointError, check_choice, listed
from gpt2x.formats import shards
from gpt2x.formats.base import Checkpoint, RawFile
from gpt2x.formats.known import (
    MODULES,
    SAFETENSORS,
    SHARDED,
    WEIGHTS_FILES,
    WeightsFile,
    find_foreign,
    sniff,
)
from gpt2x.storage.budget import Budget
from gpt2x.storage.hub import ModelFiles
from gpt2x.storage.json_files import read_object
from gpt2x.weights.lazy import LazyTensor
from gpt2x.weights.names import Rename, name_tensors

CONFIG_NAME = "config.json"


class ShardedFormat(Protocol):
    """A module that reads one of transformers' formats, in one file or in shards of it."""

    def open_raw(self, path: Path, budget: Budget | None = None) -> RawFile:
        """Open one file; `budget` is that of all shards, if there are several."""
        ...

    def rename(self, metadata: Mapping[str, Any]) -> Rename:
        """Return what reads the names in files that say this of themselves."""
        ...


class SingleFormat(Protocol):
    """A module that reads a format which says itself how it is split, if it is."""

    def open(self, path: Path, files: ModelFiles) -> Checkpoint:
        """Open a checkpoint by the file that identifies it, with `files` to find others."""
        ...


def open_checkpoint(
    path: str | Path,
    *,
    variant: str | None = None,
    use_safetensors: bool | None = None,
    format: str | None = None,
) -> Checkpoint:
    """Open a local folder or file; the format is detected from its files unless given.

    Args:
        path: a folder, searched in transformers' order, or one checkpoint file (of a TensorFlow
            checkpoint also the prefix, ``124M/model.ckpt``).
        variant: look for ``model.VARIANT.safetensors`` and the like.
        use_safetensors: True takes nothing but safetensors, False skips them.
        format: a name of `gpt2x.checkpoint.FORMATS`, to take that format alone.

    Raises:
        CheckpointError: if nothing is found, or what is found is corrupt or incomplete.
        InvalidInputError: for a format that does not exist.
        MissingBackendError: if the format's library is not installed.

    >>> with open_checkpoint("folder") as checkpoint:  # doctest: +SKIP
    ...     checkpoint["wte.weight"].shape
    (50257, 768)
    """
    path = _existing(path)
    if not path.exists():
        raise CheckpointError(f"There is no file or folder {str(path)!r}.")
    _, checkpoint = open_model(
        path, variant=variant, use_safetensors=use_safetensors, format=format
    )
    return checkpoint


def open_model(
    name_or_path: str | Path,
    *,
    variant: str | None = None,
    use_safetensors: bool | None = None,
    format: str | None = None,
    first: str | None = None,
    file: str | None = None,
    **where: Any,
) -> tuple[ModelFiles, Checkpoint]:
    """Open a folder, one file, or a model of the hub; see `open_checkpoint`.

    Args:
        name_or_path: what to open.
        variant: as in `open_checkpoint`.
        use_safetensors: as in `open_checkpoint`.
        format: as in `open_checkpoint`.
        first: a format to look for before the others.
        file: the name of the file to open in the folder or repository, in place of looking.
        **where: further arguments of `ModelFiles`.

    Returns:
        Where the model's other files are, and its weights.
    """
    if format is not None:
        check_choice("format", format, MODULES)
    path = _existing(name_or_path)
    if path.is_file():
        files = ModelFiles(path.parent)
        return files, _open_index_or_file(path, format, files)
    files = ModelFiles(name_or_path, **where)
    if file is None:
        return files, _open_weights(files, variant, use_safetensors, format, first)
    found = files.find(file)
    if found is None:
        raise CheckpointError(f"{files.name!r} has no file {file!r}.")
    return files, _open_file(found, format or sniff(found), files)


def _open_index_or_file(path: Path, format: str | None, files: ModelFiles) -> Checkpoint:
    for file in WEIGHTS_FILES:
        if path.name.startswith(f"{file.name}.index.") and path.suffix == ".json":
            return _with_config(_open_shards(file.format, path, _find_shards(files, path)), files)
    return _open_file(path, format or sniff(path), files)


def _existing(path: str | Path) -> Path:
    """The path, or the index of the TensorFlow checkpoint whose files begin so."""
    path = Path(path).expanduser()
    index = path.with_name(f"{path.name}.index") if path.name else path
    return index if not path.exists() and index.is_file() else path


def _open_weights(
    files: ModelFiles,
    variant: str | None,
    use_safetensors: bool | None,
    format: str | None,
    first: str | None,
) -> Checkpoint:
    candidates = [
        file
        for file in sorted(WEIGHTS_FILES, key=lambda file: file.format != first)
        if format in (None, file.format)
        and (use_safetensors is None or use_safetensors == (file is SAFETENSORS))
    ]
    for candidate in candidates:
        if (path := files.find(candidate.single(variant))) is not None:
            return _open_file(path, candidate.format, files)
        if (index := files.find(candidate.index(variant))) is not None:
            checkpoint = _open_shards(candidate.format, index, _find_shards(files, index))
            return _with_config(checkpoint, files)
    if use_safetensors is None and variant is None:
        path = find_foreign(files)
        found = None if path is None else sniff(path)
        if path is not None and found is not None and format in (None, found):
            return _open_file(path, found, files)
    raise CheckpointError(_nothing_found(files, candidates, variant, format))


def _nothing_found(
    files: ModelFiles, candidates: list[WeightsFile], variant: str | None, format: str | None
) -> str:
    tried = [name for file in candidates for name in (file.single(variant), file.index(variant))]
    looked = f" looked for {', '.join(tried)}" if tried else f" of the format {format!r}"
    message = f"{files.name!r} holds no weights;{looked}."
    plain = [file.name for file in candidates if variant and files.find(file.name)]
    if plain:
        message += f" It does hold {plain[0]!r}: leave out variant={variant!r}."
    return message


def _module(format: str) -> Any:
    return importlib.import_module(MODULES[format])


def _open_file(path: Path, format: str, files: ModelFiles) -> Checkpoint:
    if format in SHARDED:
        return _with_config(_open_shards(format, path, {path.name: path}), files)
    single: SingleFormat = _module(format)
    return _with_config(single.open(path, files), files)


def _with_config(checkpoint: Checkpoint, files: ModelFiles) -> Checkpoint:
    """Add the config that stands beside the weights, where they bring none themselves."""
    try:
        path = files.find(CONFIG_NAME)
        if checkpoint.config is None and path is not None:
            checkpoint.config = read_object(path)
        of_tensorflow = checkpoint.format == "tf-h5" or checkpoint.metadata.get("format") == "tf"
        if of_tensorflow and checkpoint.config and "lm_head.weight" not in checkpoint:
            # transformers' TensorFlow models tie the output layer, whatever their config says.
            checkpoint.config["tie_word_embeddings"] = True
        files.check_unchanged()
    except BaseException:
        checkpoint.close()
        raise
    return checkpoint


def _find_shards(files: ModelFiles, index: Path) -> dict[str, Path]:
    """File name -> path of each shard; raises CheckpointError naming all that are missing."""
    found = {name: files.find(name) for name in shards.shard_files(shards.read_index(index))}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        raise CheckpointError(
            f"{files.name!r} lacks {len(missing)} of the {len(found)} shards that {index.name} "
            f"lists: {listed(missing)}. Download or copy the rest."
        )
    return {name: path for name, path in found.items() if path is not None}


def _open_shards(format: str, path: Path, files: Mapping[str, Path]) -> Checkpoint:
    """Open one file, or the shards of the index at `path`, as one checkpoint."""
    module: ShardedFormat = _module(format)
    with ExitStack() as stack:
        tensors: dict[str, LazyTensor] = {}
        metadata: dict[str, Any] = {}
        held: dict[str, list[str]] = {}
        budget = Budget(str(path))
        for name, file in files.items():
            raw = module.open_raw(file, budget)
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
