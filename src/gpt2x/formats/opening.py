"""Opening the checkpoint in a folder, a file or a repository of the hub.

`open_checkpoint` takes a path. `fetch_checkpoint` also takes a model of the hub, and returns what
finds its other files. (`gpt2x.checkpoint.open_source` adds config and tokenizer.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gpt2x.errors import CheckpointError, check_choice
from gpt2x.formats import shards
from gpt2x.formats.base import Checkpoint, Format, WeightsFormat
from gpt2x.formats.registry import (
    all_formats,
    find_announced,
    read_formats,
    recognise,
    weights_formats,
)
from gpt2x.storage.budget import Budget
from gpt2x.storage.hub import ModelFiles
from gpt2x.storage.json_files import read_object
from gpt2x.weights.lazy import LazyTensor

CONFIG_NAME = "config.json"


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
        use_safetensors: True takes only safetensors, False skips them.
        format: a name of `gpt2x.checkpoint.FORMATS`; only this format is opened.

    Raises:
        CheckpointError: if no checkpoint is found, or it is corrupt or incomplete.
        InvalidInputError: for a format that does not exist.
        MissingBackendError: if the format's library is not installed.

    >>> with open_checkpoint("folder") as checkpoint:  # doctest: +SKIP
    ...     checkpoint["wte.weight"].shape
    (50257, 768)
    """
    path = _existing(path)
    if not path.exists():
        raise CheckpointError(f"There is no file or folder {str(path)!r}.")
    options: dict[str, Any] = {"variant": variant, "use_safetensors": use_safetensors}
    return fetch_checkpoint(path, format=format, **options)[1]


def fetch_checkpoint(
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
        name_or_path: the folder, file or name.
        variant: as in `open_checkpoint`.
        use_safetensors: as in `open_checkpoint`.
        format: as in `open_checkpoint`.
        first: a format to search for before the others.
        file: the name of the file to open in the folder or repository, without a search.
        **where: further arguments of `ModelFiles`.

    Returns:
        The finder of the model's other files, and its weights.
    """
    if format is not None:
        check_choice("format", format, read_formats())
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
    return files, _open(_chosen(format, found), found, files)


def _chosen(format: str | None, path: Path) -> Format:
    return recognise(path) if format is None else all_formats()[format]


def _open_index_or_file(path: Path, format: str | None, files: ModelFiles) -> Checkpoint:
    for candidate in weights_formats():
        if path.name.startswith(f"{candidate.weights}.index.") and path.suffix == ".json":
            return _open(candidate, path, files, is_index=True)
    return _open(_chosen(format, path), path, files)


def _existing(path: str | Path) -> Path:
    """Return the path, or the index of the TensorFlow checkpoint with this prefix."""
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
        candidate
        for candidate in sorted(weights_formats(), key=lambda candidate: candidate.name != first)
        if format in (None, candidate.name)
        and use_safetensors in (None, candidate.name == "safetensors")
    ]
    for candidate in candidates:
        for name in candidate.names(variant):
            if (path := files.find(name)) is not None:
                return _open(candidate, path, files, is_index=name == candidate.index(variant))
    if use_safetensors is None and variant is None:
        path = find_announced(files)
        found = None if path is None else recognise(path)
        if path is not None and found is not None and format in (None, found.name):
            return _open(found, path, files)
    raise CheckpointError(_nothing_found(files, candidates, variant, format))


def _nothing_found(
    files: ModelFiles, candidates: list[WeightsFormat], variant: str | None, format: str | None
) -> str:
    tried = [name for candidate in candidates for name in candidate.names(variant)]
    looked = f" looked for {', '.join(tried)}" if tried else f" of the format {format!r}"
    message = f"{files.name!r} holds no weights;{looked}."
    plain = [c.weights for c in candidates if variant and files.find(c.weights)]
    if plain:
        message += f" It does hold {plain[0]!r}: leave out variant={variant!r}."
    return message


def _open(format: Format, path: Path, files: ModelFiles, *, is_index: bool = False) -> Checkpoint:
    """Open a checkpoint by its main file; `files` finds the others."""
    checkpoint = Checkpoint(format.name, path)
    try:
        if isinstance(format, WeightsFormat):
            paths = {path.name: path}
            if is_index:
                paths = shards.find_shards(files, path, shards.read_index(path).values())
            _read_weights(format, checkpoint, paths, is_index)
        else:
            assert format.read is not None
            format.read(checkpoint, files)
        _add_config(checkpoint, files)
        files.check_unchanged()
    except BaseException:
        checkpoint.close()
        raise
    return checkpoint


def _add_config(checkpoint: Checkpoint, files: ModelFiles) -> None:
    """Add the config beside the weights, if the weights have none themselves."""
    path = files.find(CONFIG_NAME)
    if checkpoint.config is None and path is not None:
        checkpoint.config = read_object(path)
    of_tensorflow = checkpoint.format == "tf-h5" or checkpoint.metadata.get("format") == "tf"
    if of_tensorflow and checkpoint.config and "lm_head.weight" not in checkpoint:
        # transformers' TensorFlow models tie the output layer, even if the config says no.
        checkpoint.config["tie_word_embeddings"] = True


def _read_weights(
    format: WeightsFormat, checkpoint: Checkpoint, paths: Mapping[str, Path], is_index: bool
) -> None:
    """Read one file, or the shards of an index, into a checkpoint."""
    assert format.read_file is not None
    assert format.rename is not None
    tensors: dict[str, LazyTensor] = {}
    held: dict[str, Iterable[str]] = {}
    budget = Budget(str(checkpoint.path))
    for name, path in paths.items():
        held[name] = found = format.read_file(checkpoint, path, budget)
        if twice := tensors.keys() & found.keys():
            raise CheckpointError(f"Two shards of {str(checkpoint.path)!r} hold {min(twice)!r}.")
        tensors |= found
    rename = format.rename(checkpoint.metadata)
    if is_index:
        shards.check_shards(checkpoint.path, held, rename)
    checkpoint.add_renamed(tensors, rename)
    checkpoint.files = tuple(paths.values())
