"""The prompt cache in TensorFlow, held to what every backend does."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from support.contract.prompt_cache import MODES, PREFIX, WHOLE, PromptCacheContract, padded
from support.tf_models import BACKEND, uncompiled

OPTIONS = {"max_new_tokens": 5, **MODES["greedy"]}


class TestPromptCache(PromptCacheContract):
    backend = BACKEND
    uncompiled = staticmethod(uncompiled)
    call_name = "call"

    def in_bfloat16(self, cache: Any) -> Any:
        return cache._map(lambda buffer: tf.cast(buffer, tf.bfloat16))

    def test_compiled_with_xla(self, model):
        cache = model.prefill(PREFIX, jit_compile=True)
        found = self.generate(model, past_key_values=cache, **padded("left"), jit_compile=True)
        np.testing.assert_array_equal(found, self.generate(model, **padded("left")))
        # One computation serves a cache behind which fewer columns are left than are run, too.
        cache, ids = model.prefill(WHOLE[:1, :9], jit_compile=True), WHOLE[:1].repeat(4, 0)
        found = self.generate(model, ids, past_key_values=cache, jit_compile=True)
        np.testing.assert_array_equal(found, self.generate(model, ids))

    def test_inside_a_graph(self, model, cache):
        function = tf.function(
            lambda ids, past: model.generate(ids, past_key_values=past, **OPTIONS)
        )
        found = function(tf.constant(WHOLE, tf.int32), cache)
        np.testing.assert_array_equal(found, self.generate(model))
