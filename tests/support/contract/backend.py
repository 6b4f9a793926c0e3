"""A backend as the contracts see it: numpy arrays in, numpy arrays out."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Backend:
    """What a contract needs to know of a framework.

    Attributes:
        module: the backend, such as `gpt2x.pt`.
        prefix: what its classes' names begin with.
        tiny_model: makes a model in evaluation mode of a class and fields of its config.
        tensor: turns an array into what its models take.
        array: turns what its models return into an array.
    """

    module: ModuleType
    prefix: str
    tiny_model: Callable[..., Any]
    tensor: Callable[[np.ndarray], Any]
    array: Callable[[Any], np.ndarray]

    def kind(self, name: str) -> Any:
        """Return a class by its name without prefix, such as "LMHeadModel"."""
        return getattr(self.module, f"{self.prefix}GPT2{name}")

    @functools.cache  # noqa: B019 - there is one backend in a module
    def model(self, name: str = "LMHeadModel", **fields: Any) -> Any:
        """Return a tiny model, the same one each time; a test must not change it."""
        return self.tiny_model(self.kind(name), **fields)

    def call(self, model: Any, ids: np.ndarray | None = None, **inputs: Any) -> Any:
        """Call a model with arrays."""
        given = {
            name: self.tensor(value) if isinstance(value, np.ndarray) else value
            for name, value in inputs.items()
        }
        return model(**given) if ids is None else model(self.tensor(ids), **given)

    def logits(self, model: Any, ids: np.ndarray | None = None, **inputs: Any) -> np.ndarray:
        """Return what `call` returns as `logits`."""
        return self.array(self.call(model, ids, **inputs).logits)


def random_ids(*shape: int, seed: int = 0) -> np.ndarray:
    """Return ids below 60, the special id of the tiny models."""
    return np.random.default_rng(seed).integers(0, 60, shape)


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    """Hold float32 of two ways to compute the same against each other."""
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
