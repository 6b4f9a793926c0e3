"""Opening a model by path or name: its weights, config, head and tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt2x.checkpoint.adapted import give_head
from gpt2x.config import GPT2Config
from gpt2x.formats.base import Checkpoint
from gpt2x.formats.opening import fetch_checkpoint
from gpt2x.formats.tokenizer_files import find_tokenizer_files
from gpt2x.storage.hub import ModelFiles
from gpt2x.weights.infer import infer_config
from gpt2x.weights.load_plan import check_depth
from gpt2x.weights.pruning import restore_heads
from gpt2x.weights.table import Head, parameter_shapes


@dataclass
class Source:
    """A model that was found by path or name, with its open weights.

    Attributes:
        checkpoint: the weights.
        config: the model's config, inferred from shapes if it has none; pruned heads are restored,
            as zeros.
        inferred: whether the config was inferred.
        head: the head among the tensors.
        files: finds its other files.
        tokenizer: transformers' file name -> path or contents.
    """

    checkpoint: Checkpoint
    config: GPT2Config
    inferred: bool
    head: Head
    files: ModelFiles
    tokenizer: dict[str, Path | bytes]


@contextmanager
def open_source(
    name_or_path: str | Path,
    *,
    format: str | None = None,
    n_head: int | None = None,
    revision: str | None = None,
    subfolder: str = "",
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    adapter: str | Path | None = None,
) -> Iterator[Source]:
    """Open a folder, a file, or a model of the hub, with its config and tokenizer.

    Args:
        name_or_path: the folder, file or name.
        format: its format, instead of detection.
        n_head: number of heads, for a checkpoint that does not contain it.
        revision: branch, tag or commit on the hub.
        subfolder: folder within the source.
        cache_dir: folder of downloads.
        token: access token of the hub.
        local_files_only: use only files in the cache, without a request to the hub.
        adapter: an adapter of the model, which may bring the head; its other part is not added.

    Raises:
        CheckpointError: if it cannot be found or read.
    """
    files, checkpoint = fetch_checkpoint(
        name_or_path,
        format=format,
        revision=revision,
        subfolder=subfolder,
        cache_dir=cache_dir,
        token=token,
        local_files_only=local_files_only,
    )
    with checkpoint:
        if adapter is not None:
            shared: dict[str, Any] = {"cache_dir": cache_dir, "token": token}
            give_head(checkpoint, adapter, local_files_only=local_files_only, **shared)
        inferred = checkpoint.config is None
        values = checkpoint.config or infer_config(checkpoint, n_head)
        if n_head is not None:
            values = {**values, "n_head": n_head}
        config = GPT2Config.from_dict(values)
        check_depth(config, checkpoint, files.name)
        checkpoint.replace(restore_heads(checkpoint, config))
        config.pruned_heads = {}
        tokenizer: dict[str, Path | bytes] = {
            **checkpoint.tokenizer_files,
            **find_tokenizer_files(files, checkpoint.format),
        }
        yield Source(checkpoint, config, inferred, find_head(checkpoint), files, tokenizer)


# Parameters that only one model class has.
_OWN_PARAMETER = {
    "score.weight": Head.SEQUENCE_CLASSIFICATION,
    "classifier.weight": Head.TOKEN_CLASSIFICATION,
    "qa_outputs.weight": Head.QUESTION_ANSWERING,
    "multiple_choice_head.summary.weight": Head.DOUBLE,
}


def find_head(checkpoint: Checkpoint) -> Head:
    """Return the head among the tensors, or else that of the config."""
    for name, head in _OWN_PARAMETER.items():
        if name in checkpoint:
            return head
    heads = {head.architecture: head for head in Head}
    architectures = (checkpoint.config or {}).get("architectures")
    for architecture in architectures if isinstance(architectures, list) else []:
        named = heads.get(str(architecture).removeprefix("TF").removeprefix("Flax"))
        if named is Head.NONE and "lm_head.weight" in checkpoint:
            return Head.LM
        if named is not None:
            return named
    return Head.LM


def describe(source: Source) -> dict[str, Any]:
    """Return format, config, tensors, counts, and differences from the model of the config.

    A tied output layer counts once, and its copy in the file is neither missing nor extra.
    """
    checkpoint, config = source.checkpoint, source.config
    expected = parameter_shapes(config, source.head)
    tied_copy = {"lm_head.weight"} if config.tie_word_embeddings else set()
    present = {name: tensor.shape for name, tensor in checkpoint.items()}
    return {
        "format": checkpoint.format,
        "path": str(checkpoint.path),
        "files": [str(path) for path in checkpoint.files],
        "metadata": checkpoint.metadata,
        "config": config.to_dict(),
        "config_inferred": source.inferred,
        "architecture": source.head.architecture,
        "parameters": sum(t.size for name, t in checkpoint.items() if name in expected),
        "tensors": [
            {
                "name": name,
                "shape": list(tensor.shape),
                "dtype": checkpoint.quantised.get(name, tensor.dtype.name),
                "source_name": checkpoint.source_names.get(name, name),
            }
            for name, tensor in checkpoint.items()
        ],
        "tokenizer": sorted(source.tokenizer),
        "missing": [name for name in expected if name not in present],
        "extra": [name for name in present if name not in expected and name not in tied_copy],
        "mismatched": [n for n in present if n in expected and present[n] != expected[n]],
        "ignored": checkpoint.ignored,
    }
