"""`prefill`: a prompt's keys and values, computed once for many calls of `generate`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gpt2x.config.generation import GenerationConfig
from gpt2x.errors import InvalidInputError, unknown_arguments
from gpt2x.generation.cached_prompt import behind_text, cached_text
from gpt2x.generation.generate import prepare
from gpt2x.generation.host import Host
from gpt2x.generation.run import Run
from gpt2x.models.prompt_cache import CachedText, model_fields

_OPTIONS = {"use_cache", "output_attentions", "output_hidden_states"}

#: The docstring of a backend's `prefill`; formatted with `more`, its further arguments.
PREFILLING = """
Keys and values are those that `generate` computes for the prompt, without gradients. `generate`
continues them as `past_key_values`, as often as wanted, and leaves them as they are: a cache of one
row serves a batch of prompts that all begin with it.

Args:
    input_ids: token ids, int [B, T]. Padding on the right is moved to the left.
    attention_mask: [B, T], 1 for text, 0 for padding; by default as in `generate`.
    past_key_values: a cache of the first columns of `input_ids`, which is not computed again, nor
        changed.{more}
    **kwargs: further arguments of the model, such as `token_type_ids` [B, T] and
        `encoder_hidden_states`; `generate` must be given the same.

Returns:
    A `KVCache` of T columns. It knows its tokens, so that `generate` can check prompts against it,
    and moves their padding on the left behind it.

Raises:
    InvalidInputError: before anything is computed, if an argument is unknown, or cannot be used.
"""


def prefill(host: Host, kwargs: Mapping[str, Any]) -> Any:
    """Run a prompt; return its `KVCache`.

    Args:
        host: the model.
        kwargs: the prompt as `input_ids`, and arguments of the model.
    """
    given = {name: value for name, value in kwargs.items() if value is not None}
    allowed = [name for name in host.argument_names() if name not in _OPTIONS]
    unknown = [name for name in given if name not in allowed]
    if unknown:
        raise InvalidInputError(unknown_arguments("prefill", unknown, allowed))
    # The options are the same in every call, so that a size is compiled once.
    run = prepare(
        host,
        kwargs={**given, "max_new_tokens": 1},
        generation_config=GenerationConfig(),
        use_model_defaults=False,
    )
    engine, _ = host.stepper(run.plan, run.static, run.prompts)
    with host.running(run.plan):
        _, cache = engine.prefill()
    cache.model = model_fields(host.model.config)
    if not host.is_traced and not run.prompts.main.has_embeds:
        real = host.ops.to_numpy(run.settings.real)
        cache.know(_text_of(run, real, cached_text(given.get("past_key_values"))))
    return cache


def _text_of(run: Run, real: np.ndarray, past: CachedText | None) -> CachedText:
    """Return the tokens of a prompt at the columns of its cache; `real` is False at padding."""
    ids = run.input_ids
    is_text = real[:, : ids.shape[1]]
    if past is not None:
        ids, is_text = behind_text(past, ids, is_text, {})
    return CachedText(ids, is_text)
