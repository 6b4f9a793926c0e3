"""The tokenizer's files beside a model's weights, under their names in each source."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gpt2x.errors import CheckpointError
from gpt2x.storage.hub import ModelFiles

#: Files of transformers, kept as they are.
KEPT = (
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)

# A folder of transformers; its files are kept too.
_CHAT_TEMPLATES = "additional_chat_templates"

# OpenAI's and KerasHub's names -> transformers'.
_RENAMED = {
    "encoder.json": "vocab.json",
    "vocab.bpe": "merges.txt",
    "assets/tokenizer/vocabulary.json": "vocab.json",
    "assets/tokenizer/merges.txt": "merges.txt",
}


def find_tokenizer_files(files: ModelFiles, format: str) -> dict[str, Path]:
    """Return name to write -> file, for every file of a tokenizer beside a checkpoint.

    The ``tokenizer.json`` of a KerasHub preset is another kind of file and is not returned.
    """
    found: dict[str, Path] = {}
    kept = () if format == "keras-hub" else (*KEPT, *_chat_templates(files))
    for name, path in ((name, files.find(name)) for name in kept):
        if path is not None:
            found[name] = path
    for source, name in _RENAMED.items():
        path = None if name in found else files.find(source)
        if path is not None:
            found[name] = path
    return found


def write_tokenizer_files(folder: Path, sources: Mapping[str, Path | bytes]) -> None:
    """Write the files into a folder."""
    for name, source in sources.items():
        data = source if isinstance(source, bytes) else _read(source)
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)


def _chat_templates(files: ModelFiles) -> list[str]:
    names = files.names(_CHAT_TEMPLATES)
    return [f"{_CHAT_TEMPLATES}/{name}" for name in names if name.endswith(".jinja")]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"Cannot read {str(path)!r}: {error.strerror}.") from error
