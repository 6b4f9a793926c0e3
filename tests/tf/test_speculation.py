"""Speculation in TensorFlow."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from support.contract.speculation import MASK, PROMPTS, SAMPLING, SpeculationContract
from support.tf_models import BACKEND, uncompiled


class TestSpeculation(SpeculationContract):
    backend = BACKEND
    ways = ({"jit_compile": True},)

    def test_one_trace_serves_every_setting(self, model):
        options = {"assistant_early_exit": 1, "temperature": 0.8, **SAMPLING}
        model._functions.clear()
        self.texts(model, **options)
        traced = list(model._functions._functions.values())
        for change in ({"seed": 9}, {"temperature": 1.3}, {"assistant_confidence_threshold": 0.8}):
            self.texts(model, **{**options, **change})
        assert list(model._functions._functions.values()) == traced
        loops = [value for value in traced if isinstance(value, tuple)]
        assert [run.experimental_get_tracing_count() for run, _ in loops] == [1]

    def test_the_same_texts_inside_a_graph(self, model):
        options = {"pad_token_id": 0, **SAMPLING}
        spec = tf.TensorSpec([None, None], tf.int32)
        graph = tf.function(
            lambda ids, mask: model.generate(
                ids, attention_mask=mask, assistant_early_exit=1, **options
            ),
            input_signature=[spec, spec],
        )
        found = graph(tf.constant(PROMPTS, tf.int32), tf.constant(MASK, tf.int32))
        np.testing.assert_array_equal(found, self.texts(model, **SAMPLING))

    def test_the_same_texts_op_by_op(self, model):
        options = {**SAMPLING, "max_new_tokens": 6}
        with uncompiled():
            found = self.texts(model, **options, **self.drafting(model)[-1])
        np.testing.assert_array_equal(found, self.texts(model, **options))
