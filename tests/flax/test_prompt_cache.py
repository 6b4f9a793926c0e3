"""The prompt cache in Flax, held to what every backend does."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gpt2x.flax.engine import run_loop, run_prefill
from support.contract.prompt_cache import MODES, PREFIX, WHOLE, PromptCacheContract
from support.flax_models import BACKEND, random_ids

OPTIONS = {"max_new_tokens": 5, **MODES["greedy"]}


class TestPromptCache(PromptCacheContract):
    backend = BACKEND
    ways = [{}, {"trace": False}]  # noqa: RUF012
    uncompiled = nullcontext  # a new size is traced
    call_name = "__call__"

    def in_bfloat16(self, cache: Any) -> Any:
        return cache._map(lambda buffer: buffer.astype(jnp.bfloat16))

    def test_inside_jit(self, model, cache):
        def continued(model, cache, ids):
            return model.generate(ids, past_key_values=cache, **OPTIONS).sequences

        found = jax.jit(continued)(model, cache, WHOLE)
        np.testing.assert_array_equal(found, self.generate(model))

    def test_prefixes_of_a_bucket_are_compiled_once(self, model):
        model.prefill(PREFIX)
        before = run_prefill._cache_size()
        for length in (3, 9, 14):
            model.prefill(random_ids(1, length))
        assert run_prefill._cache_size() == before

    def test_a_loop_behind_prefixes_of_a_bucket_is_compiled_once(self, model):
        """Even where fewer columns are left than the new ones are padded to."""
        ids = np.concatenate([PREFIX, random_ids(1, 8)], axis=1).repeat(4, 0)
        sizes = []
        for prefix, width, new in ((6, 11, 5), (13, 14, 2), (2, 9, 7)):
            options = {"max_new_tokens": new, "token_type_ids": ids[:, :width]}
            expected = self.generate(model, ids[:, :width], **options)
            cache = model.prefill(ids[:1, :prefix], token_type_ids=ids[:1, :prefix])
            before = run_loop._cache_size()
            found = self.generate(model, ids[:, :width], past_key_values=cache, **options)
            np.testing.assert_array_equal(found, expected)
            sizes.append(run_loop._cache_size() - before)
        assert sizes == [1, 0, 0]
