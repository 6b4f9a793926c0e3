"""Tiny models and arrays for the tests of the Flax backend."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from gpt2x import flax as gpt2x_flax
from gpt2x.config import GPT2Config
from gpt2x.flax.parameters import flatten, unflatten
from support.contract.backend import Backend
from support.golden_data import GoldenCase

TINY = {"vocab_size": 61, "n_positions": 32, "n_embd": 24, "n_layer": 2, "n_head": 3}


def tiny_config(**fields: Any) -> GPT2Config:
    """Return a config for tests; its special ids lie in the vocabulary, and weights spread wide."""
    special = {"bos_token_id": 60, "eos_token_id": 60, "initializer_range": 0.3}
    return GPT2Config(**{**TINY, **special, **fields})


def tiny_params(model: gpt2x_flax.FlaxGPT2PreTrainedModel) -> dict[str, Any]:
    """Return random weights, biases and layer norms for a model, drawn by numpy."""
    rng = np.random.default_rng(0)

    def draw(path: tuple[str, ...], shape: tuple[int, ...]) -> np.ndarray:
        spread = 0.2 if path[-1] in ("bias", "scale") else 0.3
        return rng.normal(float(path[-1] == "scale"), spread, shape).astype("float32")

    shapes = dict(flatten(model.params_shape_tree))
    return unflatten({path: draw(path, spec.shape) for path, spec in sorted(shapes.items())})


def tiny_model(
    kind: type[gpt2x_flax.FlaxGPT2PreTrainedModel] = gpt2x_flax.FlaxGPT2LMHeadModel,
    options: dict[str, Any] | None = None,
    **fields: Any,
) -> Any:
    """Return a model with `tiny_params`; `options` go to the constructor."""
    model = kind(tiny_config(**fields), _do_init=False, **(options or {}))
    return model.with_params(tiny_params(model))


def random_ids(*shape: int, vocab_size: int = 60, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, vocab_size, shape).astype(np.int32)


def golden_model(case: GoldenCase, **options: Any) -> Any:
    """Load the model of a golden case."""
    kind = getattr(gpt2x_flax, "Flax" + case.settings["class"])
    return kind.from_pretrained(case.folder, config=GPT2Config.from_dict(case.config), **options)


BACKEND = Backend(gpt2x_flax, "Flax", tiny_model, jnp.asarray, np.asarray)
