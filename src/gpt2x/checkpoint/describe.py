"""What a checkpoint holds, as plain data."""

from __future__ import annotations

from typing import Any

from gpt2x.checkpoint.convert import Source
from gpt2x.weights import parameter_shapes


def describe(source: Source) -> dict[str, Any]:
    """Return format, config, tensors, counts and differences from the model that the config names.

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
                "dtype": tensor.dtype.name,
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
