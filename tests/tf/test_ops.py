"""The decoding core's operations: TensorFlow gives what the numpy reference gives."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from gpt2x import TopKLogitsWarper, TopPLogitsWarper
from gpt2x.tf.ops import TENSORFLOW_OPS
from support.ops_programs import check_results, run_programs


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_operations_agree_with_numpy(mode: str):
    run = lambda: run_programs(TENSORFLOW_OPS)  # noqa: E731
    if mode != "eager":
        run = tf.function(run, jit_compile=mode == "xla")
    check_results(TENSORFLOW_OPS, run())


@pytest.mark.parametrize(
    "warper", [TopKLogitsWarper(2), TopPLogitsWarper(0.1, min_tokens_to_keep=9)]
)
def test_filters_work_in_a_graph_that_knows_no_shape(warper):
    ids, scores = tf.constant([[0]]), tf.constant([[1.0, 9.0, 2.0, 3.0]])
    spec = tf.TensorSpec([None, None], tf.float32)
    graph = tf.function(lambda scores: warper(ids, scores), input_signature=[spec])
    np.testing.assert_array_equal(graph(scores), warper(ids, scores))
