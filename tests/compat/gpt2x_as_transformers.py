"""A pytest plugin that puts gpt2x's classes in the place of those of an installed transformers.

    pytest -p gpt2x_as_transformers tests/models/gpt2/test_modeling_gpt2.py

run where transformers' own tests are, with this folder on PYTHONPATH, tests gpt2x. Each public name
of gpt2x that transformers has too is replaced wherever a module of transformers holds it under that
name, as far as those modules are the ones from which tests take it.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import transformers
from transformers.models.auto import modeling_auto, tokenization_auto

import gpt2x
from gpt2x import pt
from gpt2x.pt.model import Conv1D

#: The modules of transformers from which its tests import.
HOLDERS = (
    "transformers",
    "transformers.cache_utils",
    "transformers.generation",
    "transformers.generation.configuration_utils",
    "transformers.generation.logits_process",
    "transformers.generation.stopping_criteria",
    "transformers.generation.streamers",
    "transformers.generation.utils",
    "transformers.models.gpt2",
    "transformers.models.gpt2.configuration_gpt2",
    "transformers.models.gpt2.modeling_gpt2",
    "transformers.models.gpt2.tokenization_gpt2",
    "transformers.models.gpt2.tokenization_gpt2_fast",
    "transformers.pytorch_utils",
)


def ours() -> dict[str, Any]:
    """Return gpt2x's classes by the names that transformers gives them."""
    found = {name: getattr(pt, name) for name in pt.__all__}
    found |= {name: getattr(gpt2x, name) for name in gpt2x.__all__}
    return found | {"Conv1D": Conv1D}


def replace(replacements: dict[str, Any]) -> None:
    """Replace transformers' classes by those of the same name in `replacements`."""
    holders = [import_module(name) for name in HOLDERS]  # all, before the first is changed
    for holder in holders:
        for name in replacements.keys() & set(dir(holder)):
            setattr(holder, name, replacements[name])


def register(replacements: dict[str, Any]) -> None:
    """Let transformers' automatic classes find gpt2x's by gpt2x's config."""
    config = replacements["GPT2Config"]
    for name, mapping in vars(modeling_auto).items():
        if name.endswith("_MAPPING") and "gpt2" in mapping._model_mapping:
            model = replacements.get(mapping._model_mapping["gpt2"])
            if model is not None:
                mapping.register(config, model, exist_ok=True)
    tokenizers = (replacements["GPT2Tokenizer"], replacements["GPT2TokenizerFast"])
    tokenization_auto.TOKENIZER_MAPPING.register(config, tokenizers, exist_ok=True)


if not transformers.__version__.startswith("4.57."):
    raise ImportError(f"the tests are those of transformers 4.57, not {transformers.__version__}")
replace(ours())
register(ours())
