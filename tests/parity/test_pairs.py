"""Every backend loads what every backend saves, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest

import gpt2x
from gpt2x import backends
from gpt2x.checkpoint import open_checkpoint
from gpt2x.config import GPT2Config
from gpt2x.weights.table import Head

SIZES = {"vocab_size": 17, "n_positions": 8, "n_embd": 8, "n_layer": 2, "n_head": 2}
MODELS = {
    "body": (Head.NONE, {}),
    "tied": (Head.LM, {"n_inner": 20}),
    "untied": (Head.LM, {"tie_word_embeddings": False, "add_cross_attention": True}),
    "double_heads": (Head.DOUBLE, {}),
    "sequence": (Head.SEQUENCE_CLASSIFICATION, {"num_labels": 3}),
    "tokens": (Head.TOKEN_CLASSIFICATION, {"num_labels": 3}),
    "answers": (Head.QUESTION_ANSWERING, {}),
}


def model_class(backend: str, head: Head):
    return getattr(gpt2x, f"{backends.get(backend).prefix}{head.value}")


def bits(folder: Path) -> dict[str, bytes]:
    with open_checkpoint(folder) as checkpoint:
        return {name: tensor.read().tobytes() for name, tensor in checkpoint.items()}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder that a backend has saved, made once for each model."""
    folders = {}

    def save(backend: str, model: str) -> Path:
        if (backend, model) not in folders:
            head, fields = MODELS[model]
            folder = tmp_path_factory.mktemp(backend) / model
            model_class(backend, head)(GPT2Config(**SIZES, **fields)).save_pretrained(folder)
            folders[backend, model] = folder
        return folders[backend, model]

    return save


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("reader", backends.BACKENDS)
@pytest.mark.parametrize("writer", backends.BACKENDS)
def test_tensors_survive(saved, tmp_path, writer, reader, model):
    for backend in (writer, reader):
        if not backends.is_installed(backend):
            pytest.skip(f"{backend} is not installed")
    folder = saved(writer, model)
    loaded, info = model_class(reader, MODELS[model][0]).from_pretrained(
        folder, output_loading_info=True
    )
    assert not any(info.values())
    loaded.save_pretrained(tmp_path)
    assert bits(tmp_path) == bits(folder)
    assert GPT2Config.from_pretrained(tmp_path) == GPT2Config.from_pretrained(folder)
