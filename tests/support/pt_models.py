"""Tiny models and arrays for the tests of the PyTorch backend."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from gpt2x import pt
from gpt2x.config import GPT2Config
from support.contract.backend import Backend
from support.golden_data import GoldenCase

TINY = {"vocab_size": 61, "n_positions": 32, "n_embd": 24, "n_layer": 2, "n_head": 3}


def tiny_config(**fields: Any) -> GPT2Config:
    """Return a config for tests; its special ids lie in the vocabulary, and weights spread wide."""
    special = {"bos_token_id": 60, "eos_token_id": 60, "initializer_range": 0.3}
    return GPT2Config(**{**TINY, **special, **fields})


def tiny_model(kind: type[pt.GPT2PreTrainedModel] = pt.GPT2LMHeadModel, **fields: Any) -> Any:
    """Return a model in evaluation mode with random weights, biases and layer norms."""
    model = kind(tiny_config(**fields)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.normal_(mean=float(name.endswith("weight")), std=0.2)
    return model


def random_ids(*shape: int, vocab_size: int = 60) -> Tensor:
    return torch.randint(0, vocab_size, shape)


def tensors(arrays: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """Copy arrays to tensors (golden arrays are read-only, which torch does not know)."""
    return {name: torch.tensor(array) for name, array in arrays.items()}


def assert_as_close_as(dtype: torch.dtype, found: Tensor, expected: Tensor) -> None:
    """Assert that values computed in `dtype` are right to 2 units in the last place of their range.

    Measured on tiny models: at most 1 unit, in bfloat16 as in float16.
    """
    found, expected = found.detach().float(), expected.detach().float()
    spread = float(expected.max() - expected.min())
    atol = 2 * torch.finfo(dtype).eps * spread
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


def golden_model(case: GoldenCase, **options: Any) -> Any:
    """Load the model of a golden case."""
    kind = getattr(pt, case.settings["class"])
    return kind.from_pretrained(case.folder, config=GPT2Config.from_dict(case.config), **options)


def untrained_model(*kind: type[pt.GPT2PreTrainedModel], **fields: Any) -> Any:
    """Return a `tiny_model` that no derivative is taken of, so that its caches stay in place."""
    return tiny_model(*kind, **fields).requires_grad_(False)


BACKEND = Backend(pt, "", untrained_model, torch.tensor, Tensor.numpy)
